//! A descriptor or handle that reports an exit to an event loop.

use crate::SharedChild;
use crate::fork_guard::ForkGuard;
use crate::sys::{self, OwnedDescriptor};
use std::io;

/// Becomes ready when the child exits, and stays ready: for epoll, mio, tokio's `AsyncFd` and other reactors.
///
/// [`SharedChild::exit_notice`] returns it. On Unix it has a descriptor (`AsFd`, `AsRawFd`) that becomes readable, on
/// Windows a handle (`AsHandle`, `AsRawHandle`) that becomes signalled. It never reaps: once it is ready, call
/// [`try_wait`](SharedChild::try_wait), which then returns the status. (A BSD may report an exit an instant before the
/// status is available, and so may Linux while a debugger holds the child. `try_wait` then returns `None`: call it again
/// after a moment, since a reactor that reports changes alone does not report the exit twice.)
///
/// It has a descriptor or handle of its own, independent of the child's handle and of other notices. Only wait until the
/// descriptor is readable: a read from it, or a reap through it, may take the exit from other waiters. In the child of a
/// fork it may only be dropped; the copy of the descriptor then stays open.
///
/// # Examples
///
/// ```
/// use shared_child::SharedChild;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
/// let notice = child.exit_notice()?;
/// # #[cfg(unix)] {
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let mut fds = [PollFd::new(&notice, PollFlags::IN)]; // and others
/// poll(&mut fds, None).map_err(std::io::Error::from)?;
/// assert!(fds[0].revents().contains(PollFlags::IN));
/// assert!(child.try_wait()?.is_some());
/// # }
/// # child.wait()?;
/// # drop(notice);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ExitNotice(pub(crate) ForkGuard<OwnedDescriptor>);

impl SharedChild {
    /// Returns a descriptor or handle that becomes ready when the child exits, for an event loop of your own.
    ///
    /// A child can have any number of them, even after its exit.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if no descriptor reports this child's exit: on illumos, Solaris,
    /// Haiku and Android, on Linux without pidfds, or if this process had no free descriptor at the spawn. Then wait on
    /// a thread instead. Otherwise an error of the system, if it has no free descriptor or handle.
    ///
    /// # Examples
    ///
    /// See [`ExitNotice`].
    pub fn exit_notice(&self) -> io::Result<ExitNotice> {
        let Some(notice) = self.notice() else {
            return Ok(ExitNotice(ForkGuard::new(sys::ready_descriptor()?)));
        };
        let Some(descriptor) = notice.descriptor() else {
            let message = format!(
                "cannot create an exit notice for process {}: no descriptor reports its exit; wait on a thread",
                self.id()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        // A copy, because a reactor accepts each descriptor number only once.
        Ok(ExitNotice(ForkGuard::new(descriptor.try_clone_to_owned()?)))
    }
}
