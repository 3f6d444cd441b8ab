//! Linux: many pidfds in one epoll. Adding a pidfd and reporting one cost the same however many pidfds there are.
//!
//! Sources: epoll(7), eventfd(2).

use crate::sys::KernelQueue;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

struct Epoll {
    epoll: OwnedFd,
    /// An eventfd that is readable while the queue is to wake its waiters.
    wake: OwnedFd,
}

/// The key of the wake-up event. The other keys count from 1.
const WAKE: u64 = u64::MAX;

/// The most events that one call takes.
const EVENTS: usize = 64;

pub(crate) fn open() -> io::Result<Box<dyn KernelQueue>> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    // Level-triggered: it wakes every waiter until it is cleared.
    epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
    Ok(Box::new(Epoll { epoll, wake }))
}

impl KernelQueue for Epoll {
    /// Returns `true`: a pidfd wakes its waiters, an epoll among them, under a lock that a reaper of the child takes
    /// after that.
    fn is_prompt(&self) -> bool {
        true
    }

    fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), flags)?)
    }

    /// Removes the descriptor. Must precede closing it: if a fork has copied the descriptor, closing it would leave it
    /// registered.
    fn remove(&self, fd: BorrowedFd<'_>) {
        // This fails only if the descriptor is not registered.
        let _ = epoll::delete(&self.epoll, fd);
    }

    // Neither call fails: the counter has 64 bits, and does not block.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn clear_wake(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        // A timeout that is too long for the kernel becomes none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let room = &mut events[..at_most.clamp(1, EVENTS)];
        let mut woken = false;
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok((events, _)) => {
                let events = events.iter().map(|event| event.data.u64());
                keys.extend(events.filter(|key| {
                    woken |= *key == WAKE;
                    *key != WAKE
                }));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(woken)
    }
}
