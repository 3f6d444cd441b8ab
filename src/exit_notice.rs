//! What tells of an exit, for those who have a loop of their own to wait in.

use crate::SharedChild;
use crate::sys::Notice;
use std::io;

/// Becomes ready when the child exits, and stays so: for epoll, mio, tokio's `AsyncFd` and other reactors.
///
/// From [`SharedChild::exit_notice`]. On Unix it has a descriptor (`AsFd`, `AsRawFd`) that becomes readable, on
/// Windows a handle (`AsHandle`, `AsRawHandle`) that becomes signalled. It never reaps: once it is ready, ask
/// [`try_wait`](SharedChild::try_wait), which then has the status. (A BSD may tell of an exit an instant before the
/// status can be had, and Linux when a debugger still holds it; then that says `None`, and is to be asked again after a
/// moment: a reactor that is told of changes alone may not be told a second time.)
///
/// It is independent of the handle that it came from, and of others, with a descriptor or handle of its own. Do no more
/// with the descriptor than wait until it is readable: to read from it, or to reap by it, may take the exit from others.
/// Nor is it for the child of a fork, which may do no more than drop it; its copy of the descriptor stays open.
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
    /// What becomes ready when the child exits, for those who wait in a loop of their own.
    ///
    /// Any number can be had, also of a child that has exited.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if nothing of the kind tells of this child's exit, as on illumos,
    /// on Linux without pidfds, and if there was no descriptor to spare when it was spawned: wait for it on a thread
    /// then. Otherwise those of the operating system that has no descriptor or handle to spare.
    ///
    /// # Examples
    ///
    /// See [`ExitNotice`].
    pub fn exit_notice(&self) -> io::Result<ExitNotice> {
        match self.notice() {
            Some(notice) => imp::of(&notice, self.id()),
            None => imp::of_one_that_has_ended(),
        }
        .map(ExitNotice)
    }
}

#[cfg(unix)]
mod imp {
    use super::{ExitNotice, Notice, io};
    use crate::sys::Own;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    use std::os::unix::net::UnixStream;

    /// Not the child's descriptor, but a copy: a reactor takes each number but once.
    pub(super) type Source = Own<OwnedFd>;

    pub(super) fn of(notice: &Notice, id: u32) -> io::Result<Source> {
        let Some(descriptor) = notice.descriptor() else {
            let message =
                format!("no descriptor tells of the exit of process {id}: wait on a thread");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        descriptor.try_clone_to_owned().map(Own::new)
    }

    pub(super) fn of_one_that_has_ended() -> io::Result<Source> {
        let (ours, mut other) = UnixStream::pair()?;
        // Not only at its end, which not everybody calls readable.
        io::Write::write_all(&mut other, &[0])?;
        Ok(Own::new(ours.into()))
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

    /// An event that is signalled for good.
    pub(super) fn of_one_that_has_ended() -> io::Result<Source> {
        // SAFETY: neither security attributes nor a name are given.
        let event = unsafe { CreateEventW(null(), 1, 1, null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is new, and belongs to nobody else.
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
