//! Unix: one descriptor that becomes readable when the child may have exited, for every mechanism.
//!
//! A pidfd or a kqueue is such a descriptor. The helper thread has none, so it writes into a pipe: as a *listener*
//! (see [`thread`](crate::sys::thread)), at most once.

use super::notice::Notice;
use super::pipe::pipe;
use crate::sync::Arc;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Readable from the moment that the child may have exited, and for good. It never reaps.
pub(crate) struct ExitDescriptor {
    notice: Arc<Notice>,
    /// Where the notice has no descriptor of its own.
    pipe: Option<Listening>,
}

struct Listening {
    /// Both ends. The listener shares them: while it can write, there is a reader, so a write never raises SIGPIPE.
    ends: Arc<(OwnedFd, OwnedFd)>,
    listener: u64,
}

impl ExitDescriptor {
    /// `None` if nothing will report the exit: there is no descriptor or no thread to be had, or this is the child of
    /// a fork. The caller polls then.
    pub(crate) fn new(notice: Arc<Notice>) -> Option<Self> {
        let pipe = match &*notice {
            Notice::Descriptor(_) => None,
            Notice::Thread(thread) => {
                let ends = Arc::new(pipe().ok()?);
                let theirs = Arc::clone(&ends);
                let listener = thread.listen(Box::new(move || {
                    // One byte into an empty pipe: it has room, so this neither blocks nor fails.
                    let _ = rustix::io::write(&theirs.1, &[0]);
                }))?;
                Some(Listening { ends, listener })
            }
        };
        Some(Self { notice, pipe })
    }
}

impl AsFd for ExitDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match (&self.pipe, &*self.notice) {
            (Some(pipe), _) => pipe.ends.0.as_fd(),
            (None, Notice::Descriptor(descriptor)) => descriptor.as_fd(),
            (None, Notice::Thread(_)) => unreachable!("`new` made a pipe"),
        }
    }
}

impl Drop for ExitDescriptor {
    /// The listener, if it was not called, is dropped here, and the pipe with it.
    fn drop(&mut self) {
        if let (Some(pipe), Notice::Thread(thread)) = (&self.pipe, &*self.notice) {
            thread.unlisten(pipe.listener);
        }
    }
}
