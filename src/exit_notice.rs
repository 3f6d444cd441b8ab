//! A descriptor or handle that reports an exit to an event loop.

use crate::SharedChild;
use crate::sys::Notice;
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
pub struct ExitNotice(imp::Source);

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
        match self.notice() {
            Some(notice) => imp::of(&notice, self.id()),
            None => imp::ready(),
        }
        .map(ExitNotice)
    }
}

#[cfg(unix)]
mod imp {
    use super::{ExitNotice, Notice, io};
    use crate::fork_guard::ForkGuard;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    use std::os::unix::net::UnixStream;

    /// A copy of the child's descriptor: a reactor accepts each descriptor number only once.
    pub(super) type Source = ForkGuard<OwnedFd>;

    pub(super) fn of(notice: &Notice, id: u32) -> io::Result<Source> {
        let Some(descriptor) = notice.descriptor() else {
            let message = format!(
                "cannot create an exit notice for process {id}: no descriptor reports its exit; wait on a thread"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        descriptor.try_clone_to_owned().map(ForkGuard::new)
    }

    pub(super) fn ready() -> io::Result<Source> {
        let (ours, mut other) = UnixStream::pair()?;
        // A byte is readable for every reactor. The end of the stream is not.
        io::Write::write_all(&mut other, &[0])?;
        Ok(ForkGuard::new(ours.into()))
    }

    impl AsFd for ExitNotice {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsRawFd for ExitNotice {
        fn as_raw_fd(&self) -> RawFd {
            self.as_fd().as_raw_fd()
        }
    }
}

#[cfg(windows)]
mod imp {
    use super::{ExitNotice, Notice, io};
    use std::os::windows::io::{
        AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
    };
    use std::ptr::null;
    use windows_sys::Win32::System::Threading::CreateEventW;

    pub(super) type Source = OwnedHandle;

    pub(super) fn of(notice: &Notice, _: u32) -> io::Result<Source> {
        let process = notice.descriptor().ok_or(io::ErrorKind::Unsupported)?;
        process.try_clone_to_owned()
    }

    /// Creates an event that stays signalled.
    pub(super) fn ready() -> io::Result<Source> {
        // SAFETY: the pointers are null: no security attributes and no name.
        let event = unsafe { CreateEventW(null(), 1, 1, null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new, and has no other owner.
        Ok(unsafe { OwnedHandle::from_raw_handle(event) })
    }

    impl AsRawHandle for ExitNotice {
        fn as_raw_handle(&self) -> RawHandle {
            self.0.as_raw_handle()
        }
    }

    impl AsHandle for ExitNotice {
        fn as_handle(&self) -> BorrowedHandle<'_> {
            self.0.as_handle()
        }
    }
}
