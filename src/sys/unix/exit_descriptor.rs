//! Unix: one descriptor that becomes readable when the child may have exited, for every mechanism.
//!
//! A pidfd or a kqueue is such a descriptor. The helper thread has none, so it writes into a pipe: as a *listener*
//! (see [`waitid_thread`](crate::sys::unix::waitid_thread)), at most once.

use super::notice::{Notice, Subscription};
use super::pipe::pipe;
use super::syscall;
use crate::sync::Arc;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A descriptor that becomes readable when the child may have exited, and stays readable. It never reaps.
pub(crate) struct ExitDescriptor {
    notice: Arc<Notice>,
    /// Both ends of a pipe, if the notice has no descriptor. The listener shares them: while it can write, there is a
    /// reader, so a write never raises SIGPIPE.
    pipe: Option<(Arc<(OwnedFd, OwnedFd)>, Subscription)>,
}

impl ExitDescriptor {
    /// Returns `None` if nothing will report the exit: no descriptor is spare, no thread can be started, or this is the
    /// child of a fork. The caller polls then.
    pub(crate) fn new(notice: Arc<Notice>) -> Option<Self> {
        let pipe = match notice.descriptor() {
            Some(_) => None,
            None => {
                let ends = Arc::new(pipe().ok()?);
                let theirs = Arc::clone(&ends);
                let write = move || {
                    // An empty pipe has room for one byte, so this neither blocks nor fails.
                    let _ = syscall::write(&theirs.1, &[0]);
                };
                Some((ends, Subscription::new(&notice, Box::new(write))?))
            }
        };
        Some(Self { notice, pipe })
    }
}

impl AsFd for ExitDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.pipe {
            Some((ends, _)) => ends.0.as_fd(),
            None => self.notice.descriptor().expect("`new` has made a pipe otherwise"),
        }
    }
}

/// Returns a descriptor that is readable, and stays readable, for a child that has exited.
pub(crate) fn ready_descriptor() -> io::Result<OwnedFd> {
    let (ours, mut other) = UnixStream::pair()?;
    // A byte is readable for every reactor. The end of the stream is not.
    other.write_all(&[0])?;
    Ok(ours.into())
}
