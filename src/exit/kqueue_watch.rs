//! macOS and the BSDs: one kqueue in which those of many children are, and whatever else becomes readable; for a kqueue
//! is itself something to wait for. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use super::Queue;
use crate::sync::Mutex;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, kevent};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{null_mut, without_provenance_mut};
use std::time::Duration;

/// Many descriptors in one queue.
pub(crate) struct KqueueWatch {
    queue: Queue,
    /// A pipe, whose one end is readable while the bell rings. (Events that one can trigger oneself are not
    /// everywhere.)
    bell: (OwnedFd, OwnedFd),
    /// What is in the queue. To add it again would put another key in the place of its own.
    watched: Mutex<HashSet<RawFd>>,
}

impl KqueueWatch {
    /// Whether it has what is in it no later than anybody else hears of that. FreeBSD and OpenBSD tell a kqueue of what
    /// is in another by a task, which runs later (`sys/kern/kern_event.c` of both), and of a child that was late it is a
    /// timer that tells.
    #[cfg(feature = "set")]
    pub(crate) const PROMPT: bool = false;

    pub(crate) fn new() -> io::Result<Self> {
        let (heard, rung) = rustix::pipe::pipe()?;
        for end in [&heard, &rung] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let queue = Queue::new()?;
        // For as long as it rings, to whoever asks.
        let key = without_provenance_mut(BELL);
        let filter = EventFilter::Read(heard.as_raw_fd());
        queue.change(Event::new(filter, EventFlags::ADD, key))?;
        Ok(Self { queue, bell: (heard, rung), watched: Mutex::default() })
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

    /// The bell rings from here on. (Neither this nor the next blocks, and a byte always fits: there is one at most.)
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.bell.1, &[0]);
    }

    pub(crate) fn hush(&self) {
        let _ = rustix::io::read(&self.bell.0, &mut [0]);
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
