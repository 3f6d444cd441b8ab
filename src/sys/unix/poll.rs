//! Unix: waits for one descriptor, with any deadline.

use crate::backoff::left;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Returns the timeout of a `poll` until the deadline: `None` without a deadline.
pub(crate) fn time_left(deadline: Option<Instant>) -> Option<Timespec> {
    // The conversion cannot fail: `left` is a day or less.
    deadline.and_then(|deadline| Timespec::try_from(left(deadline)).ok())
}

/// Blocks until the descriptor is readable (`true`), or until the deadline. Polls at least once.
///
/// Returns `true` if the system refuses `poll` (EINVAL where RLIMIT_NOFILE is 0, as some sandboxes set it; ENOMEM): the
/// caller inspects the process, and pauses. The same holds for errors of the descriptor itself.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> bool {
    try_poll(fd, PollFlags::IN, deadline).unwrap_or(true)
}

/// Does the same for any event. Returns the error if the system refuses `poll`.
pub(crate) fn try_poll(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    loop {
        match poll(&mut fds, time_left(deadline).as_ref()) {
            // One timeout is at most a day, so it may end before the deadline.
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(false);
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            ready => return ready.map(|_| true),
        }
    }
}
