//! Unix: a pipe that belongs to this process alone, until it hands an end to a child.

use rustix::fd::OwnedFd;
use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::os::fd::AsRawFd;

/// Creates a pipe: the end to read from, and the end to write to. Both are close-on-exec from the start (but see
/// below), and neither is descriptor 0, 1 or 2: a program that has closed one of these must not read from or print to
/// this pipe.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(any(target_vendor = "apple", target_os = "haiku")))]
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // These systems have no `pipe2`. A child that another thread spawns between the two calls inherits both ends.
    #[cfg(any(target_vendor = "apple", target_os = "haiku"))]
    let (reader, writer) = {
        let pipe = rustix::pipe::pipe()?;
        for end in [&pipe.0, &pipe.1] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        pipe
    };
    Ok((above_standard_streams(reader)?, above_standard_streams(writer)?))
}

fn above_standard_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: i32 = libc::STDERR_FILENO + 1;
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { Ok(fcntl_dupfd_cloexec(&fd, FIRST)?) }
}
