//! Checks the fallback, whose waiters rely on the process ID, together with the lifecycle.

use super::{BY_ITSELF, Kernel, MockChild, Phase, World, status};
use crate::lifecycle::Lifecycle;
use crate::sync::Arc;
use crate::sys::unix::waitid_thread::{ById, Thread};
use crate::sys::{Exit, Observed};
use crate::usage::Usage;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A process that is known by its ID alone. After a reap the ID belongs to another child of this process, which runs
/// until the test ends it.
#[derive(Debug)]
struct MockProcess(Arc<World>);

impl ById for MockProcess {
    fn observe(&self) -> io::Result<Observed> {
        let process = self.0.process();
        Ok(match process.phase {
            Phase::Running | Phase::Reaped => Observed::Running,
            Phase::Zombie => {
                Observed::Exited(self.0.kernel.shows_status.then(|| status(process.status)))
            }
            Phase::Recycled => Observed::ReapedElsewhere,
        })
    }

    fn block(&self) {
        let mut process = self.0.process();
        while matches!(process.phase, Phase::Running | Phase::Reaped) && !process.next_owner_exited
        {
            process = self.0.exited.wait(process).unwrap();
        }
    }

    fn reap(&self) -> bool {
        let mut process = self.0.process();
        assert!(process.phase == Phase::Zombie, "only a zombie is reaped");
        process.phase = Phase::Reaped;
        process.reaps += 1;
        true
    }
}

impl Drop for MockProcess {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.process().reaps, 1, "the last reference was dropped before the reap");
        }
    }
}

#[derive(Debug)]
struct Notice(Thread<MockProcess>);

impl Exit for Notice {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        Ok(self.0.wait(deadline))
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        Ok((self.0.observe()?, None))
    }

    fn recover(&self) -> Option<ExitStatus> {
        None
    }

    fn kill(&self) -> io::Result<()> {
        Ok(())
    }

    fn wait_relies_on_pid(&self) -> bool {
        true
    }

    fn settled(&self) {
        self.0.settled();
    }
}

impl Notice {
    /// As the reaper does: reaps the child now or when its listener is called, and tries again after a delay.
    fn abandon(this: &Arc<Self>) {
        if !this.0.reap() {
            let notice = Arc::clone(this);
            let reap = move || {
                thread::spawn(move || {
                    while !notice.0.reap() {
                        thread::yield_now();
                    }
                });
            };
            assert!(this.0.listen(Box::new(reap)).is_some());
        }
    }
}

type Shared = Arc<Lifecycle<MockChild, Notice>>;

/// Runs two threads on one child while it exits on a third; with and without a status that a zombie shows.
fn while_it_exits(
    one: fn(&Lifecycle<MockChild, Notice>),
    another: fn(&Lifecycle<MockChild, Notice>),
) {
    for shows_status in [true, false] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let world = World::new(Kernel { shows_status, ..Kernel::default() });
            let notice = Notice(Thread::of(MockProcess(Arc::clone(&world))));
            let child = MockChild(Arc::clone(&world));
            let child: Shared = Arc::new(Lifecycle::unreaped(child, notice, Notice::abandon));
            let exit = super::exit_on_a_thread(&world);
            let first = thread::spawn({
                let child = Arc::clone(&child);
                move || one(&child)
            });
            another(&child);
            drop(child);
            first.join().unwrap();
            exit.join().unwrap();
            // A late helper may wait for the next owner of the ID.
            world.next_owner_exits();
        });
    }
}

fn wait(child: &Lifecycle<MockChild, Notice>) {
    assert_eq!(child.wait(None).unwrap(), Some(status(BY_ITSELF)));
    assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
}

fn timed_wait(child: &Lifecycle<MockChild, Notice>) {
    let deadline = Instant::now() + Duration::from_secs(24 * 60 * 60);
    assert_eq!(child.wait(Some(deadline)).unwrap(), Some(status(BY_ITSELF)));
}

fn try_wait(child: &Lifecycle<MockChild, Notice>) {
    if let Some(seen) = child.try_wait().unwrap() {
        assert_eq!(seen, status(BY_ITSELF));
        assert_eq!(child.try_wait().unwrap(), Some(seen), "a returned status stands");
    }
}

#[test]
fn untimed_waits_return_the_status() {
    while_it_exits(wait, wait);
}

#[test]
fn timed_wait_beside_untimed_wait_returns_the_status() {
    while_it_exits(timed_wait, wait);
}

#[test]
fn timed_waits_return_the_status() {
    while_it_exits(timed_wait, timed_wait);
}

#[test]
fn untimed_wait_beside_a_poll_returns_the_status() {
    while_it_exits(wait, try_wait);
}

#[test]
fn timed_wait_beside_a_poll_returns_the_status() {
    while_it_exits(timed_wait, try_wait);
}

/// Waits for the call of a listener, which happens once, whichever thread reaps. The exit can be observed then.
fn listen(child: &Lifecycle<MockChild, Notice>) {
    // The notice is missing if another thread has reaped the child.
    if let Some(notice) = child.notice() {
        let called = Arc::new((Mutex::new(false), Condvar::new()));
        let listener = Arc::clone(&called);
        let call = move || {
            let was = std::mem::replace(&mut *listener.0.lock().unwrap(), true);
            assert!(!was, "called twice");
            listener.1.notify_all();
        };
        assert!(notice.0.listen(Box::new(call)).is_some());
        drop(notice);
        let mut is_called = called.0.lock().unwrap();
        while !*is_called {
            is_called = called.1.wait(is_called).unwrap();
        }
    }
    wait(child);
}

#[test]
fn listener_is_called_once() {
    while_it_exits(listen, |_| ());
}

#[test]
fn listener_beside_a_wait_is_called_once() {
    while_it_exits(listen, wait);
}

#[test]
fn listener_beside_a_poll_is_called_once() {
    while_it_exits(listen, try_wait);
}

#[test]
fn two_listeners_are_called_once_each() {
    while_it_exits(listen, listen);
}

/// Removes the listener, called or not. A call after that could use freed memory.
fn listen_and_remove(child: &Lifecycle<MockChild, Notice>) {
    if let Some(notice) = child.notice() {
        let removed = Arc::new(Mutex::new(false));
        let listener = Arc::clone(&removed);
        let call = move || assert!(!*listener.lock().unwrap(), "called after its removal");
        let id = notice.0.listen(Box::new(call)).expect("a helper thread");
        notice.0.unlisten(id);
        *removed.lock().unwrap() = true;
    }
}

#[test]
fn listener_removed_beside_an_exit_is_not_called_later() {
    while_it_exits(listen_and_remove, |_| ());
}

#[test]
fn listener_removed_beside_a_wait_is_not_called_later() {
    while_it_exits(listen_and_remove, wait);
}

#[test]
fn dropped_child_is_reaped_at_its_exit() {
    while_it_exits(try_wait, |_| ());
}
