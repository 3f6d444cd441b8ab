//! Unix-only extensions.

pub use crate::sys::ReapedElsewhere;

use crate::sys::{Request, is_signal};
use crate::{ExitNotice, SharedChild, Tree, stop};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::process::ExitStatus;
use std::time::Duration;

/// Sends any signal to a child, where [`SharedChild::kill`] sends SIGKILL.
pub trait SharedChildExt {
    /// Sends a signal to the child. Does nothing, successfully, once the child has exited.
    ///
    /// With a pidfd (Linux) the signal reaches the child or no process, even if its process ID has a new owner. Without
    /// one the same holds as long as only this library reaps the child. If another part of the program reaps it in the
    /// instant before the signal is sent, and its ID gets a new owner in that instant, the signal reaches that process.
    /// Signal 0 sends nothing, as with kill(2).
    ///
    /// # Errors
    ///
    /// The operating system's, of pidfd_send_signal(2) or kill(2): EINVAL for a number that is no signal, EPERM
    /// for a child that now belongs to another user.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{SharedChild, unix::SharedChildExt};
    /// use std::os::unix::process::ExitStatusExt;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("sleep").arg("1000"))?;
    /// child.send_signal(libc::SIGTERM)?;
    /// assert_eq!(child.wait()?.signal(), Some(libc::SIGTERM));
    /// # Ok(())
    /// # }
    /// ```
    fn send_signal(&self, signal: c_int) -> io::Result<()>;
}

impl SharedChildExt for SharedChild {
    fn send_signal(&self, signal: c_int) -> io::Result<()> {
        self.signal(|notice| notice.signal(signal))
    }
}

impl SharedChild {
    /// Like [`stop`](SharedChild::stop), but the request is this signal instead of SIGTERM. SIGCONT follows it.
    ///
    /// This signal is sent even if a stop with another signal is in progress.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](SharedChild::stop); and [`InvalidInput`](io::ErrorKind::InvalidInput) for a number that is no
    /// signal, in which case nothing is sent and nothing is killed.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::os::unix::process::ExitStatusExt;
    /// use std::{process::Command, time::Duration};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("sleep").arg("1000"))?;
    /// let status = child.stop_with(libc::SIGUSR1, Duration::from_secs(60))?;
    /// assert_eq!(status.signal(), Some(libc::SIGUSR1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_with(&self, signal: c_int, grace: Duration) -> io::Result<ExitStatus> {
        if !is_signal(signal) {
            let message = format!(
                "cannot stop process {} with signal {signal}: there is no such signal; use a number from libc",
                self.id()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        stop::stop(self, Request(signal), grace)
    }
}

impl Tree {
    /// Sends a signal to every process of the tree, once. Does nothing, successfully, once the tree is empty.
    ///
    /// Processes that [escape](Tree#which-processes-escape) do not receive it. A process that is started in the meantime, or
    /// that leaves or joins the process group, can miss it; a process that leaves and returns can receive it twice. On
    /// Linux, unless containment is complete, this waits at most 0.1 s for processes in the middle of an exec, which cannot
    /// be recognized before.
    ///
    /// # Errors
    ///
    /// EINVAL if the number is no signal, EPERM for a member that now belongs to another user. All other members have
    /// received the signal by then.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SpawnOptions;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut shell = Command::new("sh");
    /// shell.args(["-c", "sleep 1000 & sleep 1000 & wait"]);
    /// let child = SpawnOptions::new().tree(true).spawn(&mut shell)?;
    /// let tree = child.tree().expect("it was spawned as a tree");
    /// tree.send_signal(libc::SIGSTOP)?; // a pause for all
    /// tree.send_signal(libc::SIGCONT)?;
    /// tree.send_signal(libc::SIGTERM)?;
    /// child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_signal(&self, signal: c_int) -> io::Result<()> {
        self.signal(signal)
    }
}

impl AsFd for ExitNotice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ExitNotice {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
