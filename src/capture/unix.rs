//! Unix: the pipes of one child, and its exit, in one poll(2).
//!
//! Pipes are read and written without blocking, although `poll` has said that they are ready: where that is refused
//! (see `wait`) they are tried, and whoever shares the pipe by a fork may have been faster. The mode is a property
//! of the pipe's end and not of the descriptor, so it is put back as it was.

use super::{Stream, sigpipe};
use crate::backoff::Backoff;
use crate::exit::{Notice, time_left};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::Instant;

/// As much as a pipe holds, mostly.
const CHUNK: usize = 64 * 1024;

/// Our ends of the pipes that are open.
pub(super) struct Pipes {
    stdin: Option<Pipe>,
    outputs: [Option<Pipe>; 2],
    sigpipe_is_ignored: bool,
    pause: Backoff,
}

/// What can be done now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) stdin: bool,
    pub(super) outputs: [bool; 2],
    /// There is reason to look for the exit.
    pub(super) exit: bool,
}

struct Pipe {
    fd: OwnedFd,
    /// To be put back.
    flags: Option<OFlags>,
}

impl Pipe {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        if flags.contains(OFlags::NONBLOCK) {
            return Ok(Self { fd, flags: None });
        }
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, flags: Some(flags) })
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

impl Pipes {
    pub(super) fn new(
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let pipe = |fd: Option<OwnedFd>| fd.map(Pipe::new).transpose();
        let stdin = pipe(stdin.map(OwnedFd::from))?;
        let outputs = [pipe(stdout.map(OwnedFd::from))?, pipe(stderr.map(OwnedFd::from))?];
        let sigpipe_is_ignored = stdin.is_none() || sigpipe::is_ignored();
        Ok(Self { stdin, outputs, sigpipe_is_ignored, pause: Backoff::new() })
    }

    pub(super) fn is_open(&self, stream: Stream) -> bool {
        self.outputs[stream as usize].is_some()
    }

    pub(super) fn close(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Blocks until something can be done, or until the deadline. Looks at least once. The exit is looked for if
    /// there is a notice with a descriptor; standard input counts only if there is something to feed.
    pub(super) fn wait(
        &mut self,
        feed: bool,
        exit: Option<&Notice>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        let exit = exit.and_then(Notice::descriptor);
        let [stdout, stderr] = self.outputs.each_ref().map(|pipe| pipe.as_ref().map(Pipe::as_fd));
        let stdin = self.stdin.as_ref().filter(|_| feed).map(Pipe::as_fd);
        let all = [stdout, stderr, stdin, exit];
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

    /// Appends what there is to read. `None` if that is nothing now, 0 at the end.
    pub(super) fn read(&mut self, stream: Stream, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let Some(pipe) = &self.outputs[stream as usize] else { return Ok(Some(0)) };
        into.reserve(CHUNK);
        let read = attempt(|| Ok(rustix::io::read(&pipe.fd, spare_capacity(into))?))?;
        if read.is_some() {
            self.pause = Backoff::new();
        }
        Ok(read)
    }

    /// Writes what there is room for. `None` if that is nothing now; then the same is to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(pipe) = &self.stdin else { return Ok(None) };
        let write = || Ok(rustix::io::write(&pipe.fd, bytes)?);
        let written = match self.sigpipe_is_ignored {
            true => attempt(write),
            false => attempt(|| sigpipe::without(write)),
        }?;
        if written.is_some() {
            self.pause = Backoff::new();
        }
        Ok(written)
    }

    /// How many bytes are in the pipe just now.
    pub(super) fn available(&self, stream: Stream) -> u64 {
        let pipe = self.outputs[stream as usize].as_ref();
        // What does not tell (it is no pipe) is read up to a chunk.
        pipe.map_or(0, |pipe| ioctl_fionread(&pipe.fd).unwrap_or(CHUNK as u64))
    }
}

/// A pipe: our end, and the child's. None of the two is inherited by itself.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(any(target_vendor = "apple", target_os = "haiku")))]
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // (A fork by another thread may get in between.)
    #[cfg(any(target_vendor = "apple", target_os = "haiku"))]
    let pipe = {
        let pipe = rustix::pipe::pipe()?;
        for end in [&pipe.0, &pipe.1] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        pipe
    };
    Ok(pipe)
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
