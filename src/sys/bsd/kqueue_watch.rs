//! macOS and the BSDs: one kqueue that waits for the kqueues of many children, since a kqueue can wait for another
//! kqueue. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use super::kqueue::Queue;
use crate::sync::Mutex;
use crate::sys::KernelQueue;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, kevent};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{null_mut, without_provenance_mut};
use std::time::Duration;
use wake_event::WakeEvent;

struct QueueOfMany {
    queue: Queue,
    wake: WakeEvent,
    /// The descriptors in the queue. Adding a descriptor again would replace its key.
    watched: Mutex<HashSet<RawFd>>,
}

pub(crate) fn open() -> io::Result<Box<dyn KernelQueue>> {
    let queue = Queue::new()?;
    let wake = WakeEvent::new(&queue)?;
    Ok(Box::new(QueueOfMany { queue, wake, watched: Mutex::default() }))
}

impl KernelQueue for QueueOfMany {
    /// FreeBSD and OpenBSD notify a kqueue of an event in another by a task, which runs later (`sys/kern/kern_event.c`
    /// of both). For a child that was exiting at its registration, only a timer fires.
    fn is_prompt(&self) -> bool {
        false
    }

    fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        // On a 32-bit system a key can be too large. A child that is not added is polled.
        let key = usize::try_from(key).ok().filter(|key| *key != WAKE);
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

    /// Removes the descriptor. Must precede closing it: after that the number may belong to another descriptor.
    fn remove(&self, fd: BorrowedFd<'_>) {
        let fd = fd.as_raw_fd();
        // Hold the lock until the event is deleted (this does not block). Otherwise this might delete the event of
        // another thread that adds the same descriptor.
        let mut watched = self.watched.lock();
        watched.remove(&fd);
        // It fails if the event was reported, because then the kernel has deleted it.
        let _ =
            self.queue.change(Event::new(EventFilter::Read(fd), EventFlags::DELETE, null_mut()));
    }

    fn wake(&self) {
        self.wake.set(&self.queue);
    }

    fn clear_wake(&self) {
        self.wake.clear(&self.queue);
    }

    fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let room = &mut events[..at_most.clamp(1, EVENTS)];
        let mut woken = false;
        // SAFETY: no changes are made, so no descriptor is registered here.
        match unsafe { kevent(&self.queue, &[], room, timeout) } {
            Ok((events, _)) => {
                let events = events.iter().map(|event| event.udata().addr());
                keys.extend(events.filter_map(|key| {
                    woken |= key == WAKE;
                    (key != WAKE).then_some(key as u64)
                }));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(woken)
    }
}

/// The key of the wake-up event. The other keys count from 1.
const WAKE: usize = usize::MAX;

/// The most events that one call takes.
const EVENTS: usize = 64;

/// A user event in the queue, which every waiter receives while it is set. It has no descriptor that a child could
/// inherit.
#[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
mod wake_event {
    use super::{Queue, WAKE};
    use rustix::event::kqueue::{Event, EventFilter, EventFlags, UserDefinedFlags, UserFlags};
    use std::io;
    use std::ptr::without_provenance_mut;

    pub(super) struct WakeEvent;

    impl WakeEvent {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            Ok(queue.change(event(EventFlags::ADD, UserFlags::empty())).map(|()| Self)?)
        }

        pub(super) fn set(&self, queue: &Queue) {
            let _ = queue.change(event(EventFlags::empty(), UserFlags::TRIGGER));
        }

        /// Deletes the event and adds it again: systems differ in how a user event is cleared, but all forget a deleted
        /// event, and a new event is not set.
        pub(super) fn clear(&self, queue: &Queue) {
            let _ = queue.change(event(EventFlags::DELETE, UserFlags::empty()));
            let _ = queue.change(event(EventFlags::ADD, UserFlags::empty()));
        }
    }

    /// Returns a change of the user event. It lacks `EventFlags::CLEAR`, so the event stays for the next waiter.
    fn event(flags: EventFlags, user: UserFlags) -> Event {
        let filter =
            EventFilter::User { ident: 0, flags: user, user_flags: UserDefinedFlags::new(0) };
        Event::new(filter, flags, without_provenance_mut(WAKE))
    }
}

/// A pipe with a byte in it: only recent versions of NetBSD (10) and OpenBSD have user events. `pipe2` makes the pipe, so
/// no child that another thread spawns at the same time can inherit it.
#[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
mod wake_event {
    use super::{Queue, WAKE};
    use rustix::event::kqueue::{Event, EventFilter, EventFlags};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::ptr::without_provenance_mut;

    pub(super) struct WakeEvent {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl WakeEvent {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let filter = EventFilter::Read(read.as_raw_fd());
            queue.change(Event::new(filter, EventFlags::ADD, without_provenance_mut(WAKE)))?;
            Ok(Self { read, write })
        }

        /// Writes a byte, which always fits, because the caller alternates `set` and `clear`.
        pub(super) fn set(&self, _: &Queue) {
            let _ = rustix::io::write(&self.write, &[0]);
        }

        pub(super) fn clear(&self, _: &Queue) {
            let _ = rustix::io::read(&self.read, &mut [0]);
        }
    }
}
