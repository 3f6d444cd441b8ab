//! Unix: the registration of one process in a queue of many exits.

use super::child_pipe::PipeEvent;
use super::exit_descriptor::ExitDescriptor;
use super::notice::{Notice, Subscription};
use super::waitid_thread::Listener;
use crate::fork_guard::ForkGuard;
use crate::sync;
use crate::sys::KernelQueue;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::sync::Arc;

/// The registration of one process. A drop removes it.
pub(crate) enum Registration {
    Descriptor(Registered),
    Subscription(#[expect(dead_code, reason = "it ends when it is dropped")] Subscription),
}

pub(crate) struct Registered {
    /// Kept open: a kernel queue drops a closed descriptor and its event.
    descriptor: Box<dyn AsFd + Send>,
    kernel: Arc<dyn KernelQueue>,
    process: u32,
}

impl Registration {
    /// Reports `token`, once, when there is a reason to poll the child: at once if there is one already. The kernel queue
    /// reports a child with a descriptor; for other children, a helper thread calls `report`. `None` if neither can: no
    /// descriptor is spare, no thread can be started, or this is the child of a fork.
    pub(crate) fn new(
        notice: &sync::Arc<Notice>,
        kernel: Option<&Arc<dyn KernelQueue>>,
        token: u64,
        report: Listener,
    ) -> Option<Self> {
        let Some(descriptor) = notice.descriptor() else {
            return Subscription::new(notice, report).map(Self::Subscription);
        };
        let own = Box::new(ExitDescriptor::new(sync::Arc::clone(notice))?);
        Self::own_or_copy(own, descriptor, false, kernel, token)
    }

    /// Reports `token`, once, when the pipe is ready. `None` if there is no kernel queue, or no descriptor is spare.
    pub(crate) fn of_pipe(
        pipe: &PipeEvent,
        kernel: Option<&Arc<dyn KernelQueue>>,
        token: u64,
        _report: Listener,
    ) -> Option<Self> {
        let own = Box::new(Arc::clone(&pipe.fd));
        Self::own_or_copy(own, pipe.fd.as_fd(), pipe.for_write, kernel, token)
    }

    /// A kernel queue accepts each descriptor once. Then it gets a copy.
    fn own_or_copy(
        own: Box<dyn AsFd + Send>,
        descriptor: BorrowedFd<'_>,
        for_write: bool,
        kernel: Option<&Arc<dyn KernelQueue>>,
        token: u64,
    ) -> Option<Self> {
        match Self::of_events(own, for_write, kernel, token) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let copy = ForkGuard::new(descriptor.try_clone_to_owned().ok()?);
                Self::of_events(Box::new(copy), for_write, kernel, token).ok()
            }
            registered => registered.ok(),
        }
    }

    /// Reports `token`, once, when the descriptor becomes readable.
    pub(crate) fn of_descriptor(
        descriptor: Box<dyn AsFd + Send>,
        kernel: Option<&Arc<dyn KernelQueue>>,
        token: u64,
    ) -> io::Result<Self> {
        Self::of_events(descriptor, false, kernel, token)
    }

    fn of_events(
        descriptor: Box<dyn AsFd + Send>,
        for_write: bool,
        kernel: Option<&Arc<dyn KernelQueue>>,
        token: u64,
    ) -> io::Result<Self> {
        let kernel = Arc::clone(kernel.ok_or(io::ErrorKind::Unsupported)?);
        kernel.add(descriptor.as_fd(), token, for_write)?;
        Ok(Self::Descriptor(Registered { descriptor, kernel, process: process::id() }))
    }

    /// Returns whether the queue reports an exit no later than other waiters observe it.
    pub(crate) fn is_prompt(&self) -> bool {
        matches!(self, Self::Descriptor(registered) if registered.kernel.is_prompt())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // The child of a fork drops its copy, and its epoll is the parent's.
        if self.process == process::id() {
            self.kernel.remove(self.descriptor.as_fd());
        }
    }
}

impl AsFd for ForkGuard<OwnedFd> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}
