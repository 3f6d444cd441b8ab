//! Unix: the pipes of one child, and its exit, in one poll(2).
//!
//! The pipes are non-blocking even after `poll`, since a process that shares the pipe after a fork may read or write first,
//! and since `wait` may fail. O_NONBLOCK belongs to the open file description, which other processes may share, so it is
//! restored.
//!
//! The system calls here belong in `sys`.

use super::{CHUNK, Ready};
use crate::sys::unix::sigpipe;
use crate::sys::{ExitDescriptor, time_left};

pub(super) use crate::sys::pipe;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// This process's end of a pipe.
pub(super) struct Pipe {
    fd: OwnedFd,
    /// The flags to restore.
    flags: Option<OFlags>,
}

impl Pipe {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        if flags.contains(OFlags::NONBLOCK) {
            return Ok(Self { fd, flags: None });
        }
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, flags: Some(flags) })
    }

    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        into.reserve(CHUNK);
        attempt(|| Ok(rustix::io::read(&self.fd, spare_capacity(into))?))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let write = || Ok(rustix::io::write(&self.fd, bytes)?);
        if sigpipe::is_ignored() {
            attempt(write)
        } else {
            attempt(|| sigpipe::without(self.fd.as_fd(), write))
        }
    }

    /// Some files that are no pipes do not report a number. They are read up to a chunk.
    pub(super) fn available(&mut self) -> u64 {
        ioctl_fionread(&self.fd).unwrap_or(CHUNK as u64)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(flags) = self.flags {
            let _ = fcntl_setfl(&self.fd, flags);
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
    let flags = [PollFlags::IN, PollFlags::IN, PollFlags::OUT, PollFlags::IN];
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(all.len());
    fds.extend(
        all.into_iter()
            .zip(flags)
            .filter_map(|(fd, flags)| Some(PollFd::from_borrowed_fd(fd?, flags))),
    );
    loop {
        match poll(&mut fds, time_left(deadline).as_ref()) {
            // `time_left` returns at most a day.
            Ok(0) if deadline.is_none_or(|deadline| deadline > Instant::now()) => {}
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Any event counts, even an error or a hang-up: the attempt returns it.
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
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
