//! Unix: the pipes of one child, and its exit, in one poll(2).
//!
//! Pipes are read and written without blocking, although `poll` has said that they are ready: where that is refused
//! (see `wait`) they are tried, and whoever shares the pipe by a fork may have been faster. The mode is a property
//! of the pipe's end and not of the descriptor, so it is put back as it was.

use super::pipes::Ready;
use crate::backoff::Backoff;
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

/// As much as a pipe holds, mostly.
const CHUNK: usize = 64 * 1024;

/// What an end of a pipe is, here.
pub(super) type End = OwnedFd;

/// Our end of a pipe.
pub(super) struct Pipe {
    fd: OwnedFd,
    /// To be put back.
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

    /// Appends what there is to read. `None` if that is nothing now, 0 at the end.
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        into.reserve(CHUNK);
        attempt(|| Ok(rustix::io::read(&self.fd, spare_capacity(into))?))
    }

    /// Writes what there is room for. `None` if that is nothing now; then the same is to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let write = || Ok(rustix::io::write(&self.fd, bytes)?);
        if sigpipe::is_ignored() {
            attempt(write)
        } else {
            attempt(|| sigpipe::without(self.fd.as_fd(), write))
        }
    }

    /// How many bytes there are to be read just now. (What does not tell, since it is no pipe, is read up to
    /// a chunk.)
    pub(super) fn available(&self) -> u64 {
        ioctl_fionread(&self.fd).unwrap_or(CHUNK as u64)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(flags) = self.flags {
            // If that is not to be, who shares the pipe has to do without.
            let _ = fcntl_setfl(&self.fd, flags);
        }
    }
}

/// What waits for pipes, and for an exit.
pub(super) struct Waiter {
    /// Where `poll` is refused.
    pause: Backoff,
}

impl Waiter {
    pub(super) fn new() -> Self {
        Self { pause: Backoff::new() }
    }

    /// Something has moved.
    pub(super) fn progress(&mut self) {
        self.pause = Backoff::new();
    }

    /// Blocks until one of these is ready, or until the deadline. Looks at least once.
    pub(super) fn wait(
        &mut self,
        stdin: Option<&mut Pipe>,
        outputs: &mut [Option<Pipe>; 2],
        exit: Option<&ExitDescriptor>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        let exit = exit.map(AsFd::as_fd);
        let [stdout, stderr] = outputs.each_ref().map(|pipe| pipe.as_ref().map(Pipe::as_fd));
        let all = [stdout, stderr, stdin.as_deref().map(Pipe::as_fd), exit];
        let flags = [PollFlags::IN, PollFlags::IN, PollFlags::OUT, PollFlags::IN];
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(all.len());
        fds.extend(
            all.into_iter()
                .zip(flags)
                .filter_map(|(fd, flags)| Some(PollFd::from_borrowed_fd(fd?, flags))),
        );
        loop {
            match poll(&mut fds, time_left(deadline).as_ref()) {
                // (For a day, at most.)
                Ok(0) if deadline.is_none_or(|deadline| deadline > Instant::now()) => {}
                Ok(_) => break,
                Err(Errno::INTR) => {}
                // EINVAL where RLIMIT_NOFILE is lower than the number of descriptors, as some sandboxes set it;
                // ENOMEM. So all is tried, now and then.
                Err(_) => {
                    self.pause.sleep(deadline);
                    let [stdout, stderr, stdin, exit] = all.map(|fd| fd.is_some());
                    return Ok(Ready { stdin, outputs: [stdout, stderr], exit });
                }
            }
        }
        // Whatever it is, an error or a hang-up included, an attempt tells.
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [stdout, stderr, stdin, exit] =
            all.map(|fd| fd.is_some() && ready.next().unwrap_or_default());
        Ok(Ready { stdin, outputs: [stdout, stderr], exit })
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a system call that may have nothing to do, or be interrupted.
fn attempt(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}
