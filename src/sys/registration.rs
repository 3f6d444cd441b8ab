//! Unix: how a port is to hear of one child.
//!
//! A child with a descriptor is put into the port's kernel queue, one without has its helper thread post. What is
//! left (no descriptor for the queue, no thread for the helper, the child of a fork) nobody tells of: there is no
//! registration then, and the caller looks now and then.

use super::own::Own;
use super::port::Port;
use super::unix::notice::Notice;
use crate::sync::Arc;
use std::os::fd::{AsFd, OwnedFd};

/// Keeps the notice, and so the descriptor, open: a kernel queue forgets what is closed, with its event.
pub(crate) struct Registration {
    notice: Arc<Notice>,
    how: How,
    is_prompt: bool,
}

enum How {
    Watched,
    /// By another descriptor of the same, since a queue takes each but once.
    WatchedAsCopy(Own<OwnedFd>),
    Listening(u64),
}

impl Registration {
    /// Has the port told `token`, once, when there is reason to look at the child; at once, if there is already.
    pub(crate) fn new(notice: &Arc<Notice>, port: &Arc<Port>, token: u64) -> Option<Self> {
        let mut is_prompt = false;
        let how = match &**notice {
            Notice::Descriptor(descriptor) => {
                let (watch, descriptor) = (port.watch()?, descriptor.as_fd());
                is_prompt = watch.is_prompt();
                match watch.add(descriptor, token) {
                    Ok(()) => How::Watched,
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        let copy = Own::new(descriptor.try_clone_to_owned().ok()?);
                        watch.add(copy.as_fd(), token).ok()?;
                        How::WatchedAsCopy(copy)
                    }
                    Err(_) => return None,
                }
            }
            Notice::Thread(thread) => {
                let port = Arc::clone(port);
                How::Listening(thread.listen(Box::new(move || port.post(token)))?)
            }
        };
        Some(Self { notice: Arc::clone(notice), how, is_prompt })
    }

    /// Whether the port hears of an exit no later than anybody else.
    pub(crate) fn is_prompt(&self) -> bool {
        self.is_prompt
    }

    /// Takes it out of its port. What the port was told before, it tells.
    ///
    /// Not the work of a drop, since a port that is dropped in the child of a fork shares its queue with the parent's.
    pub(crate) fn end(self, port: &Port) {
        match &self.how {
            How::Watched => port.remove(self.notice.descriptor()),
            How::WatchedAsCopy(copy) => port.remove(Some(copy.as_fd())),
            How::Listening(_) => {}
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let (Notice::Thread(thread), How::Listening(id)) = (&*self.notice, &self.how) {
            thread.unlisten(*id);
        }
    }
}
