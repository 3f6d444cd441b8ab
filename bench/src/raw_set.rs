//! Many children, waited for by bare system calls: an epoll instance with the pidfd of each, from which they are taken
//! by the hundred. No set can do less.

use crate::brood::Brood;
use crate::cli::Result;
use crate::contender::{pidfd, waitid};
use crate::procfs::cpu_time;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Taken at once.
const BATCH: usize = 256;

/// The CPU time for the exits of all.
pub(crate) fn exits(children: usize) -> Result<Duration> {
    let mut brood = Brood::new()?;
    let mut command = brood.program()?.command();
    let epoll = epoll()?;
    let mut held = Vec::with_capacity(children);
    for key in 0..children {
        let pidfd = pidfd(command.spawn()?.id().cast_signed())?;
        add(&epoll, &pidfd, key)?;
        held.push(Some(pidfd));
    }
    brood.until_there(children)?;
    let start = cpu_time()?;
    brood.release();
    let mut left = children;
    while left > 0 {
        for key in ready(&epoll)? {
            let pidfd = held[key].take().ok_or("one has ended twice")?;
            let id = pidfd.as_raw_fd().cast_unsigned();
            let info = waitid(libc::P_PIDFD, id, libc::WEXITED)?;
            // SAFETY: what waitid gives has a status.
            if unsafe { info.si_status() } != 0 {
                return Err("a child has failed".into());
            }
            left -= 1;
        }
    }
    Ok(cpu_time()? - start)
}

fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: an integer goes in.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a descriptor, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn add(epoll: &OwnedFd, pidfd: &OwnedFd, key: usize) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: key as u64 };
    let (epoll, pidfd) = (epoll.as_raw_fd(), pidfd.as_raw_fd());
    // SAFETY: `event` is readable.
    match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, pidfd, &raw mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until there are any.
fn ready(epoll: &OwnedFd) -> io::Result<Vec<usize>> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
    let (epoll, batch) = (epoll.as_raw_fd(), BATCH as i32);
    // SAFETY: `events` is writable, for as many as is told.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), batch, -1) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(events[..count].iter().map(|event| event.u64 as usize).collect())
}
