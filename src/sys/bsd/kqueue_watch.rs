//! macOS and the BSDs: one kqueue in which those of many children are, and whatever else becomes readable; for a kqueue
//! is itself something to wait for. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use super::kqueue::Queue;
use crate::sync::Mutex;
use bell::Bell;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, kevent};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{null_mut, without_provenance_mut};
use std::time::Duration;

/// Many descriptors in one queue.
pub(crate) struct KqueueWatch {
    queue: Queue,
    bell: Bell,
    /// What is in the queue. To add it again would put another key in the place of its own.
    watched: Mutex<HashSet<RawFd>>,
}

impl KqueueWatch {
    /// Whether it has what is in it no later than anybody else hears of that. FreeBSD and OpenBSD tell a kqueue of what
    /// is in another by a task, which runs later (`sys/kern/kern_event.c` of both), and of a child that was late it is a
    /// timer that tells.
    pub(crate) const PROMPT: bool = false;

    pub(crate) fn new() -> io::Result<Self> {
        let queue = Queue::new()?;
        let bell = Bell::new(&queue)?;
        Ok(Self { queue, bell, watched: Mutex::default() })
    }

    /// Reports `key`, once, when the descriptor becomes readable. Fails if it is here already.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        // (On a system of 32 bits some day one does not fit. What is not added is looked at.)
        let key = usize::try_from(key).ok().filter(|key| *key != BELL);
        let key = without_provenance_mut(key.ok_or(io::ErrorKind::Unsupported)?);
        let fd = fd.as_raw_fd();
        let mut watched = self.watched.lock();
        if !watched.insert(fd) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let flags = EventFlags::ADD | EventFlags::ONESHOT;
        let added = self.queue.change(Event::new(EventFilter::Read(fd), flags, key));
        if added.is_err() {
            watched.remove(&fd);
        }
        Ok(added?)
    }

    /// Must come before the descriptor is closed, whose number may then be another's.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let fd = fd.as_raw_fd();
        // Until the event is gone too (nothing here blocks), or it might be that of another who adds the descriptor
        // meanwhile.
        let mut watched = self.watched.lock();
        watched.remove(&fd);
        // It fails for what was reported, which is gone by itself.
        let _ =
            self.queue.change(Event::new(EventFilter::Read(fd), EventFlags::DELETE, null_mut()));
    }

    /// The bell rings from here on. Neither this nor `hush` blocks. The caller sees to it that the two take turns.
    pub(crate) fn ring(&self) {
        self.bell.ring(&self.queue);
    }

    pub(crate) fn hush(&self) {
        self.bell.hush(&self.queue);
    }

    /// Blocks, and adds the keys of those that became readable. Says whether the bell rings.
    pub(crate) fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let room = &mut events[..at_most.clamp(1, EVENTS)];
        let mut rung = false;
        // SAFETY: no changes are made, so no descriptor is registered here.
        match unsafe { kevent(&self.queue, &[], room, timeout) } {
            Ok((events, _)) => {
                let events = events.iter().map(|event| event.udata().addr());
                keys.extend(events.filter_map(|key| {
                    rung |= key == BELL;
                    (key != BELL).then_some(key as u64)
                }));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(rung)
    }
}

/// The key of the bell. Other keys count from below.
const BELL: usize = usize::MAX;

/// How many events are taken at once, at most.
const EVENTS: usize = 64;

/// The bell is an event in the queue, which is reported to every waiter for as long as the bell rings: a user event. It
/// has no descriptor, so no child can inherit one.
#[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
mod bell {
    use super::{BELL, Queue};
    use rustix::event::kqueue::{Event, EventFilter, EventFlags, UserDefinedFlags, UserFlags};
    use std::io;
    use std::ptr::without_provenance_mut;

    pub(super) struct Bell;

    impl Bell {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            Ok(queue.change(event(EventFlags::ADD, UserFlags::empty())).map(|()| Self)?)
        }

        pub(super) fn ring(&self, queue: &Queue) {
            let _ = queue.change(event(EventFlags::empty(), UserFlags::TRIGGER));
        }

        /// Systems differ in how a user event is made silent. All forget what is deleted, and a new one is silent.
        pub(super) fn hush(&self, queue: &Queue) {
            let _ = queue.change(event(EventFlags::DELETE, UserFlags::empty()));
            let _ = queue.change(event(EventFlags::ADD, UserFlags::empty()));
        }
    }

    /// Without `EventFlags::CLEAR`, so that the event stays for the next waiter.
    fn event(flags: EventFlags, user: UserFlags) -> Event {
        let filter =
            EventFilter::User { ident: 0, flags: user, user_flags: UserDefinedFlags::new(0) };
        Event::new(filter, flags, without_provenance_mut(BELL))
    }
}

/// NetBSD has user events since version 10, OpenBSD since late. Here the bell is a pipe with a byte in it, made by
/// `pipe2`: no child that another thread spawns meanwhile can inherit it.
#[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
mod bell {
    use super::{BELL, Queue};
    use rustix::event::kqueue::{Event, EventFilter, EventFlags};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::ptr::without_provenance_mut;

    pub(super) struct Bell {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Bell {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let filter = EventFilter::Read(read.as_raw_fd());
            queue.change(Event::new(filter, EventFlags::ADD, without_provenance_mut(BELL)))?;
            Ok(Self { read, write })
        }

        /// A byte always fits: there is one at most.
        pub(super) fn ring(&self, _: &Queue) {
            let _ = rustix::io::write(&self.write, &[0]);
        }

        pub(super) fn hush(&self, _: &Queue) {
            let _ = rustix::io::read(&self.read, &mut [0]);
        }
    }
}
