//! The tasks that await children.

use super::{LINGER, SHARED, Watched, Watcher, next_number};
use crate::sync::Arc;
use crate::sys::{Notice, Port};
use std::task::Waker;
use std::time::Instant;

/// To wake up, and see what there is to do. (No number of anybody.)
const WAKE: u64 = 0;

/// What a task is to be woken by. It must be [let go of](forget) when it is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    Exit { child: u64, id: u64 },
    Timer { at: Instant, id: u64 },
}

/// What came of the wish to be woken.
pub(crate) enum Answer {
    /// It will be.
    Will(Wake),
    /// Nobody can tell of this exit: look now and then.
    CannotTell,
    /// There is no thread to be had.
    NoThread,
}

/// Has the task woken, once, when there is reason to look at the child; at once, if there is already.
pub(crate) fn at_exit(notice: &Arc<Notice>, waker: &Waker) -> Answer {
    // What is not taken is dropped after the lock is released: that may run the caller's code.
    let mut waker = Some(waker.clone());
    SHARED.get().with_watcher(|watcher| {
        let id = watcher.serve();
        match watcher.watch(notice) {
            Ok(Some((child, watched))) => {
                watched.wakers.extend(waker.take().map(|waker| (id, waker)));
                Answer::Will(Wake::Exit { child, id })
            }
            Ok(None) => Answer::CannotTell,
            Err(_) => Answer::NoThread,
        }
    })
}

/// Has the task woken at that time. `None` if there is no thread to be had.
pub(crate) fn at(at: Instant, waker: &Waker) -> Option<Wake> {
    let mut waker = Some(waker.clone());
    SHARED.get().with_watcher(|watcher| {
        let id = watcher.serve();
        let port = Arc::clone(watcher.port().ok()?);
        watcher.timers.extend(waker.take().map(|waker| ((at, id), waker)));
        // It may sleep for longer than that.
        if watcher.wakes_at.is_none_or(|wakes| at < wakes) {
            watcher.wakes_at = Some(at);
            port.post(WAKE);
        }
        Some(Wake::Timer { at, id })
    })
}

/// Has another waker woken in its place. Says `false` if it has been woken already.
pub(crate) fn renew(wake: Wake, waker: &Waker) -> bool {
    let mut waker = waker.clone();
    SHARED.get().with_watcher(|watcher| {
        let old = match wake {
            Wake::Exit { child, id } => watcher.watched.get_mut(&child).and_then(|watched| {
                let index = watched.position(id)?;
                Some(&mut watched.wakers[index].1)
            }),
            Wake::Timer { at, id } => watcher.timers.get_mut(&(at, id)),
        };
        // The old one goes with `waker`, after the lock is released.
        old.map(|old| std::mem::swap(old, &mut waker)).is_some()
    })
}

/// It is not to be woken any more.
pub(crate) fn forget(wake: Wake) {
    // What is over is given up after the lock is released.
    let (waker, over) = SHARED.get().with_watcher(|watcher| {
        let old = match wake {
            Wake::Exit { child, id } => watcher.forget(child, id),
            Wake::Timer { at, id } => (watcher.timers.remove(&(at, id)), None),
        };
        watcher.end_in_time();
        old
    });
    if let Some((watched, port)) = over {
        watched.registration.end(&port);
    }
    drop(waker);
}

impl Watcher {
    /// The ID of the next waker, which is used once.
    fn serve(&mut self) -> u64 {
        self.served_tasks = true;
        next_number()
    }

    /// The waker, and the registration of a child that nobody awaits any more.
    fn forget(&mut self, child: u64, id: u64) -> (Option<Waker>, Option<(Watched, Arc<Port>)>) {
        let Some(watched) = self.watched.get_mut(&child) else { return (None, None) };
        let waker = watched.position(id).map(|index| watched.wakers.remove(index).1);
        if !watched.wakers.is_empty() || watched.orphan {
            return (waker, None);
        }
        (waker, self.unwatch(child).zip(self.port.clone()))
    }

    /// The thread may sleep until a deadline that nobody waits for any more. If nothing is left, it is to end before.
    fn end_in_time(&mut self) {
        let Some(port) = &self.port else { return };
        let by = Instant::now() + LINGER;
        let is_late = self.wakes_at.is_none_or(|wakes| by < wakes);
        if self.watched.is_empty() && self.timers.is_empty() && is_late {
            self.served_tasks = true;
            self.wakes_at = Some(by);
            port.post(WAKE);
        }
    }
}

impl Watched {
    /// Of many who await one child, each is found at once.
    fn position(&self, id: u64) -> Option<usize> {
        self.wakers.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}
