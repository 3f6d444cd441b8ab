//! Linux: many pidfds in one epoll. Adding a pidfd and reporting one cost the same however many pidfds there are.
//!
//! Sources: epoll(7), eventfd(2).

use crate::sys::KernelQueue;
use crate::sys::unix::syscall::{check, milliseconds, owned};
use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

struct Epoll {
    epoll: OwnedFd,
    /// An eventfd that is readable while the queue is to wake its waiters.
    wake: File,
}

/// The key of the wake-up event. The other keys count from 1.
const WAKE: u64 = u64::MAX;

/// The most events that one call takes.
const EVENTS: usize = 64;

pub(crate) fn open() -> io::Result<Box<dyn KernelQueue>> {
    // SAFETY: the argument is an integer, and the result is a new descriptor.
    let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }?;
    // SAFETY: as above.
    let wake = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }?;
    let queue = Epoll { epoll, wake: wake.into() };
    // Level-triggered: it wakes every waiter until it is cleared.
    queue.change(libc::EPOLL_CTL_ADD, queue.wake.as_fd(), libc::EPOLLIN, WAKE)?;
    Ok(Box::new(queue))
}

impl Epoll {
    fn change(&self, change: c_int, fd: BorrowedFd<'_>, events: c_int, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the event outlives the call.
        check(unsafe { libc::epoll_ctl(epoll, change, fd, &raw mut event) }).map(drop)
    }
}

impl KernelQueue for Epoll {
    /// Returns `true`: a pidfd wakes its waiters, an epoll among them, under a lock that a reaper of the child takes
    /// after that.
    fn is_prompt(&self) -> bool {
        true
    }

    fn add(&self, fd: BorrowedFd<'_>, key: u64, for_write: bool) -> io::Result<()> {
        let event = if for_write { libc::EPOLLOUT } else { libc::EPOLLIN };
        self.change(libc::EPOLL_CTL_ADD, fd, event | libc::EPOLLONESHOT, key)
    }

    /// Removes the descriptor. Must precede closing it: if a fork has copied the descriptor, closing it would leave it
    /// registered.
    fn remove(&self, fd: BorrowedFd<'_>) {
        // This fails only if the descriptor is not registered.
        let _ = self.change(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    // Neither call fails: the counter has 64 bits, and does not block.
    fn wake(&self) {
        let _ = (&self.wake).write(&1_u64.to_ne_bytes());
    }

    fn clear_wake(&self) {
        let _ = (&self.wake).read(&mut [0; 8]);
    }

    fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let room = at_most.clamp(1, EVENTS) as c_int;
        // (`epoll_pwait2` counts nanoseconds, but only from Linux 5.11.)
        // SAFETY: the array has at least that much room.
        let count = check(unsafe {
            let epoll = self.epoll.as_raw_fd();
            libc::epoll_wait(epoll, events.as_mut_ptr(), room, milliseconds(timeout))
        });
        let count = match count {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut woken = false;
        for event in &events[..count] {
            match event.u64 {
                WAKE => woken = true,
                key => keys.push(key),
            }
        }
        Ok(woken)
    }
}
