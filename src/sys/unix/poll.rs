//! Unix: waits for one descriptor, with any deadline.

use super::syscall::{PollFd, poll};
use crate::backoff::left;
use std::ffi::c_short;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Blocks until the descriptor is readable (`true`), or until the deadline. Polls at least once.
///
/// Returns `true` if the system refuses `poll` (EINVAL where RLIMIT_NOFILE is 0, as some sandboxes set it; ENOMEM): the
/// caller inspects the process, and pauses. The same holds for errors of the descriptor itself.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> bool {
    try_poll(fd, libc::POLLIN, deadline).unwrap_or(true)
}

/// Does the same for any event. Returns the error if the system refuses `poll`.
pub(crate) fn try_poll(
    fd: BorrowedFd<'_>,
    events: c_short,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, events)];
    loop {
        match poll(&mut fds, deadline.map(left)) {
            // One timeout is at most a day, so it may end before the deadline.
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(false);
            }
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ready => return ready.map(|_| true),
        }
    }
}
