//! Unix: the pipes of one child, and its exit, in one poll(2).
//!
//! The pipes are non-blocking even after `poll`, since a process that shares the pipe after a fork may read or write first,
//! and since `wait` may fail. O_NONBLOCK belongs to the open file description, which other processes may share, so it is
//! restored.
//!
//! The system calls here belong in `sys`.

use super::{CHUNK, Ready};
use crate::backoff::left;
use crate::sys::ExitDescriptor;
use crate::sys::unix::sigpipe;
use crate::sys::unix::syscall::{self, PollFd};

pub(super) use crate::sys::pipe;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// This process's end of a pipe.
pub(super) struct Pipe {
    fd: OwnedFd,
    /// The flags to restore.
    flags: Option<c_int>,
}

impl Pipe {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = syscall::file_flags(&fd)?;
        if flags & libc::O_NONBLOCK != 0 {
            return Ok(Self { fd, flags: None });
        }
        syscall::set_file_flags(&fd, flags | libc::O_NONBLOCK)?;
        Ok(Self { fd, flags: Some(flags) })
    }

    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        into.reserve(CHUNK);
        attempt(|| syscall::read(&self.fd, into))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let write = || syscall::write(&self.fd, bytes);
        if sigpipe::is_ignored() {
            attempt(write)
        } else {
            attempt(|| sigpipe::without(self.fd.as_fd(), write))
        }
    }

    /// Some files that are no pipes do not report a number. They are read up to a chunk.
    pub(super) fn available(&mut self) -> u64 {
        syscall::readable_bytes(&self.fd).unwrap_or(CHUNK as u64)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(flags) = self.flags {
            let _ = syscall::set_file_flags(&self.fd, flags);
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Fails with EINVAL if RLIMIT_NOFILE is lower than the number of descriptors, as some sandboxes set it, or with ENOMEM.
pub(super) fn wait(
    stdin: Option<&Pipe>,
    outputs: &mut [Option<Pipe>; 2],
    exit: Option<&ExitDescriptor>,
    deadline: Option<Instant>,
) -> io::Result<Ready> {
    let [stdout, stderr] = outputs.each_ref().map(|pipe| pipe.as_ref().map(Pipe::as_fd));
    let all = [stdout, stderr, stdin.map(Pipe::as_fd), exit.map(AsFd::as_fd)];
    let events = [libc::POLLIN, libc::POLLIN, libc::POLLOUT, libc::POLLIN];
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(all.len());
    fds.extend(
        all.into_iter().zip(events).filter_map(|(fd, events)| Some(PollFd::new(fd?, events))),
    );
    loop {
        match syscall::poll(&mut fds, deadline.map(left)) {
            // `left` returns at most a day.
            Ok(0) if deadline.is_none_or(|deadline| deadline > Instant::now()) => {}
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Any event counts, even an error or a hang-up: the attempt returns it.
    let mut ready = fds.iter().map(PollFd::is_ready);
    let [stdout, stderr, stdin, exit] =
        all.map(|fd| fd.is_some() && ready.next().unwrap_or_default());
    Ok(Ready { stdin, outputs: [stdout, stderr], exit })
}

/// Makes a non-blocking system call. Returns `None` if it would block.
fn attempt(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => return result.map(Some),
        }
    }
}
