//! Unix: a pipe that belongs to this process alone, until it hands an end to a child.

use super::syscall::{above_standard_streams, check, owned};
use std::io;
use std::os::fd::OwnedFd;

/// Creates a pipe: the end to read from, and the end to write to. Both are close-on-exec from the start (but see
/// below), and neither is descriptor 0, 1 or 2: a program that has closed one of these must not read from or print to
/// this pipe.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    #[cfg(not(any(target_vendor = "apple", target_os = "haiku")))]
    // SAFETY: the array has room for both descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    #[cfg(any(target_vendor = "apple", target_os = "haiku"))]
    // SAFETY: the array has room for both descriptors.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) })?;
    // SAFETY: the call has made them, and nothing else owns them.
    let [reader, writer] = ends.map(|end| unsafe { owned(end) });
    let (reader, writer) = (reader?, writer?);
    // These systems have no `pipe2`. A child that another thread spawns between the two calls inherits both ends.
    #[cfg(any(target_vendor = "apple", target_os = "haiku"))]
    for end in [&reader, &writer] {
        super::syscall::set_close_on_exec(end)?;
    }
    Ok((above_standard_streams(reader)?, above_standard_streams(writer)?))
}
