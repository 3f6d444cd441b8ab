//! Unix: the pipes of one child, and its exit, in one poll(2).
//!
//! The pipes are non-blocking even after `poll`, since a process that shares the pipe after a fork may read or write first,
//! and since `poll` may fail. O_NONBLOCK belongs to the open file description, which other processes may share, so it is
//! restored.

use super::exit_descriptor::ExitDescriptor;
use super::pipe::pipe;
use super::sigpipe;
use super::syscall::{self, PollFd};
use crate::backoff::left;
use crate::fork_guard::ForkGuard;
use crate::sys::{CHUNK, Ready};
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// How much is read onto the stack. It must be small beside the smallest usual stack of a thread, 128 KiB.
const FIRST: usize = 16 * 1024;

/// This process's end of a child's pipe.
pub(crate) struct Pipe {
    /// Shared with the threads that wait.
    fd: Arc<OwnedFd>,
    /// The flags to restore. The child of a fork shares them with its parent, which may still use the pipe.
    flags: Option<ForkGuard<c_int>>,
}

impl Pipe {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = syscall::file_flags(&fd)?;
        if flags & libc::O_NONBLOCK != 0 {
            return Ok(Self { fd: Arc::new(fd), flags: None });
        }
        syscall::set_file_flags(&fd, flags | libc::O_NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd), flags: Some(ForkGuard::new(flags)) })
    }

    /// Appends what there is to read. Returns `None` if there is nothing now, 0 at the end.
    ///
    /// Room for a whole chunk is reserved after a read that has found much. Little output takes little memory, and the end
    /// of the pipe takes none.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        if into.capacity() - into.len() >= CHUNK {
            return attempt(|| syscall::read(&self.fd, into));
        }
        let mut first = [MaybeUninit::uninit(); FIRST];
        attempt(|| {
            let bytes = syscall::read_into(&self.fd, &mut first)?;
            into.extend_from_slice(bytes);
            if bytes.len() == FIRST {
                into.reserve(CHUNK);
            }
            Ok(bytes.len())
        })
    }

    /// Writes what there is room for. Returns `None` if there is no room now: the same bytes are to be written later.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let write = || syscall::write(&self.fd, bytes);
        if sigpipe::is_ignored() {
            attempt(write)
        } else {
            attempt(|| sigpipe::without(self.fd.as_fd(), write))
        }
    }

    /// Gives up a write that found no room. Returns how many of its bytes were written: none, as the system keeps nothing.
    pub(crate) fn cancel_write(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    /// Returns how many bytes there are to read now, at most. Some files that are no pipes do not report a number. They
    /// are read up to a chunk.
    pub(crate) fn available(&mut self) -> u64 {
        syscall::readable_bytes(&self.fd).unwrap_or(CHUNK as u64)
    }
}

/// The event that a pipe can be read, or written.
pub(crate) struct PipeEvent {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) for_write: bool,
}

impl PartialEq for PipeEvent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fd, &other.fd) && self.for_write == other.for_write
    }
}

impl Pipe {
    pub(crate) fn event(&self, for_write: bool) -> PipeEvent {
        PipeEvent { fd: Arc::clone(&self.fd), for_write }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match &self.flags {
            Some(flags) if !flags.is_copied() => {
                let _ = syscall::set_file_flags(&self.fd, **flags);
            }
            _ => {}
        }
    }
}

/// Ends the wait of another thread.
pub(crate) struct Alarm(OwnedFd, OwnedFd);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        pipe().map(|(reader, writer)| Self(reader, writer))
    }

    /// Sets the alarm. The caller alternates `set` and `clear`, so the pipe has room, and neither call blocks.
    pub(crate) fn set(&self) {
        let _ = syscall::write(&self.1, &[0]);
    }

    pub(crate) fn clear(&self) {
        let _ = syscall::read_into(&self.0, &mut [MaybeUninit::uninit()]);
    }
}

/// What a thread waits for. It keeps the descriptors open, so other threads may close the pipes meanwhile.
pub(crate) struct Wait {
    pipes: [Option<Arc<OwnedFd>>; 3],
    exit: Option<Arc<ExitDescriptor>>,
    alarm: Option<Arc<Alarm>>,
}

impl Wait {
    pub(crate) fn new(
        stdin: Option<&Pipe>,
        outputs: &mut [Option<Pipe>; 2],
        exit: Option<&Arc<ExitDescriptor>>,
        alarm: Option<&Arc<Alarm>>,
    ) -> io::Result<Self> {
        let [stdout, stderr] = outputs.each_ref().map(Option::as_ref);
        let pipes = [stdout, stderr, stdin].map(|pipe| pipe.map(|pipe| Arc::clone(&pipe.fd)));
        Ok(Self { pipes, exit: exit.cloned(), alarm: alarm.cloned() })
    }

    /// Blocks until something can be done, or until the deadline. Polls at least once.
    ///
    /// Fails with EINVAL if RLIMIT_NOFILE is lower than five, as some sandboxes set it, or with ENOMEM.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<Ready> {
        let [stdout, stderr, stdin] =
            self.pipes.each_ref().map(|pipe| pipe.as_ref().map(AsFd::as_fd));
        let exit = self.exit.as_ref().map(AsFd::as_fd);
        let alarm = self.alarm.as_ref().map(|alarm| alarm.0.as_fd());
        let [stdout, stderr, exit, alarm] =
            [stdout, stderr, exit, alarm].map(|fd| PollFd::new(fd, libc::POLLIN));
        let mut fds = [stdout, stderr, exit, alarm, PollFd::new(stdin, libc::POLLOUT)];
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
        let [stdout, stderr, exit, _, stdin] = fds.map(|fd| fd.is_ready());
        Ok(Ready { stdin, outputs: [stdout, stderr], exit })
    }
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
