//! macOS and the BSDs: one kqueue that waits for the kqueues of many children, since a kqueue can wait for another
//! kqueue. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use super::kqueue::{ADD_ONCE, NO_EVENT, Queue, event};
use crate::sync::Mutex;
use crate::sys::KernelQueue;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
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

    fn add(&self, fd: BorrowedFd<'_>, key: u64, for_write: bool) -> io::Result<()> {
        // On a 32-bit system a key can be too large. A child that is not added is polled.
        let key = usize::try_from(key).ok().filter(|key| *key != WAKE);
        let key = key.ok_or(io::ErrorKind::Unsupported)?;
        let fd = fd.as_raw_fd();
        let mut watched = self.watched.lock();
        if !watched.insert(fd) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let filter = if for_write { libc::EVFILT_WRITE } else { libc::EVFILT_READ };
        let added = self.queue.change(&event(filter as _, ADD_ONCE, fd, key));
        if added.is_err() {
            watched.remove(&fd);
        }
        added
    }

    /// Removes the descriptor. Must precede closing it: after that the number may belong to another descriptor.
    fn remove(&self, fd: BorrowedFd<'_>) {
        let fd = fd.as_raw_fd();
        // Hold the lock until the event is deleted (this does not block). Otherwise this might delete the event of
        // another thread that adds the same descriptor.
        let mut watched = self.watched.lock();
        watched.remove(&fd);
        // One of the two is there, unless it was reported: then the kernel has deleted it.
        for filter in [libc::EVFILT_READ, libc::EVFILT_WRITE] {
            let _ = self.queue.change(&event(filter as _, libc::EV_DELETE as _, fd, 0));
        }
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
        let mut events = [NO_EVENT; EVENTS];
        let events = match self.queue.take(&mut events[..at_most.clamp(1, EVENTS)], timeout) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => &[],
            Err(error) => return Err(error),
        };
        let mut woken = false;
        for event in events {
            match event.udata as usize {
                WAKE => woken = true,
                key => keys.push(key as u64),
            }
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
    use super::{Queue, WAKE, event};
    use std::io;

    pub(super) struct WakeEvent;

    impl WakeEvent {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            change(queue, libc::EV_ADD, 0).map(|()| Self)
        }

        pub(super) fn set(&self, queue: &Queue) {
            let _ = change(queue, 0, libc::NOTE_TRIGGER);
        }

        /// Deletes the event and adds it again: systems differ in how a user event is cleared, but all forget a deleted
        /// event, and a new event is not set.
        pub(super) fn clear(&self, queue: &Queue) {
            let _ = change(queue, libc::EV_DELETE, 0);
            let _ = change(queue, libc::EV_ADD, 0);
        }
    }

    /// Changes the user event. It lacks `EV_CLEAR`, so the event stays for the next waiter.
    fn change(queue: &Queue, flags: u16, user_flags: u32) -> io::Result<()> {
        let mut event = event(libc::EVFILT_USER as _, flags.into(), 0, WAKE);
        event.fflags = user_flags;
        queue.change(&event)
    }
}

/// A pair of sockets with a byte in it: only recent versions of NetBSD (10) and OpenBSD have user events. std makes it
/// close-on-exec from the start, so no child that another thread spawns at the same time can inherit it.
#[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
mod wake_event {
    use super::{Queue, WAKE, event};
    use std::io::{self, Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    pub(super) struct WakeEvent {
        read: UnixStream,
        write: UnixStream,
    }

    impl WakeEvent {
        pub(super) fn new(queue: &Queue) -> io::Result<Self> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            write.set_nonblocking(true)?;
            let fd = read.as_raw_fd();
            queue.change(&event(libc::EVFILT_READ as _, libc::EV_ADD as _, fd, WAKE))?;
            Ok(Self { read, write })
        }

        /// Writes a byte, which always fits, because the caller alternates `set` and `clear`.
        pub(super) fn set(&self, _: &Queue) {
            let _ = (&self.write).write(&[0]);
        }

        pub(super) fn clear(&self, _: &Queue) {
            let _ = (&self.read).read(&mut [0]);
        }
    }
}
