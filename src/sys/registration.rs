//! Unix: how an event queue learns of one exit.
//!
//! The descriptor of a child is put into the kernel queue. The helper thread of a child without a descriptor posts the
//! token. Without either (no descriptor for the queue, no thread for the helper, the child of a fork) there is no
//! registration, and the caller polls.

use super::own::Own;
use super::port::Port;
use super::unix::notice::Notice;
use crate::sync::Arc;
use std::os::fd::{AsFd, OwnedFd};

/// Keeps the notice, and so its descriptor, open: a kernel queue drops what is closed, with its event.
pub(crate) struct Registration {
    source: Source,
    is_prompt: bool,
}

enum Source {
    Descriptor(Arc<Notice>),
    /// A copy, because a kernel queue takes each descriptor once.
    Copy(Own<OwnedFd>),
    /// The descriptor of a process that is not a child.
    Foreign(Box<dyn AsFd + Send>),
    Listener(Arc<Notice>, u64),
}

impl Registration {
    /// Reports `token`, once, when there is reason to poll the child: at once, if there is already.
    pub(crate) fn new(notice: &Arc<Notice>, port: &Arc<Port>, token: u64) -> Option<Self> {
        match &**notice {
            Notice::Descriptor(descriptor) => {
                let (watch, descriptor) = (port.watch()?, descriptor.as_fd());
                let source = match watch.add(descriptor, token) {
                    Ok(()) => Source::Descriptor(Arc::clone(notice)),
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        let copy = Own::new(descriptor.try_clone_to_owned().ok()?);
                        watch.add(copy.as_fd(), token).ok()?;
                        Source::Copy(copy)
                    }
                    Err(_) => return None,
                };
                Some(Self { source, is_prompt: watch.is_prompt() })
            }
            Notice::Thread(thread) => {
                let port = Arc::clone(port);
                let id = thread.listen(Box::new(move || port.post(token)))?;
                Some(Self { source: Source::Listener(Arc::clone(notice), id), is_prompt: false })
            }
        }
    }

    /// Reports `token`, once, when the descriptor becomes readable.
    pub(crate) fn of_descriptor(
        descriptor: Box<dyn AsFd + Send>,
        port: &Port,
        token: u64,
    ) -> Option<Self> {
        let watch = port.watch()?;
        watch.add(descriptor.as_fd(), token).ok()?;
        Some(Self { source: Source::Foreign(descriptor), is_prompt: watch.is_prompt() })
    }

    /// Whether the queue reports an exit no later than other waiters learn of it.
    pub(crate) fn is_prompt(&self) -> bool {
        self.is_prompt
    }

    /// Takes the child out of its queue, which still reports what was posted.
    ///
    /// A drop does not do this: the child of a fork drops its copy, and its epoll is the parent's.
    pub(crate) fn end(self, port: &Port) {
        match &self.source {
            Source::Descriptor(notice) => port.remove(notice.descriptor()),
            Source::Copy(copy) => port.remove(Some(copy.as_fd())),
            Source::Foreign(descriptor) => port.remove(Some(descriptor.as_fd())),
            Source::Listener(..) => {}
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Source::Listener(notice, id) = &self.source {
            if let Notice::Thread(thread) = &**notice {
                thread.unlisten(*id);
            }
        }
    }
}
