//! The error of a wait for a child that another part of the program has reaped.

use std::error::Error;
use std::fmt;
use std::io;

/// The inner error of the [`io::Error`] of a wait if another part of the program reaped the child (by `waitpid(-1)`, or by
/// ignoring SIGCHLD), and the system has not kept the exit status.
///
/// The error has the kind of the operating system's ECHILD, which is also its [source](Error::source). Once it has
/// occurred, every later wait for the child returns it at once, and signals do nothing.
///
/// # Platforms
///
/// - **Linux 6.15 and later, with pidfds**: the kernel keeps the status while the pidfd is open, so the error occurs
///   only if the child was reaped before its pidfd was open. `linux::SpawnOptionsExt::pidfd_from_child` closes that
///   gap.
/// - **macOS, the BSDs**: the event of the kqueue carries the status, so the error occurs only if the child was reaped
///   before it was registered there, or if a helper thread serves the child.
/// - **Other Unix, and Linux otherwise**: the error occurs whenever another part of the program reaped the child first.
///
/// # Examples
///
/// ```
/// use shared_child::unix::ReapedElsewhere;
///
/// fn was_reaped_elsewhere(error: &std::io::Error) -> bool {
///     error.get_ref().is_some_and(|inner| inner.is::<ReapedElsewhere>())
/// }
/// # assert!(!was_reaped_elsewhere(&std::io::ErrorKind::Other.into()));
/// ```
#[derive(Debug)]
pub struct ReapedElsewhere {
    id: u32,
    os: io::Error,
}

impl ReapedElsewhere {
    pub(crate) fn new(id: u32, os: io::Error) -> Self {
        Self { id, os }
    }
}

impl fmt::Display for ReapedElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "child process {} has ended, but another part of this program took its exit status (by \
             waitpid(-1), or by ignoring SIGCHLD): {}",
            self.id, self.os
        )
    }
}

impl Error for ReapedElsewhere {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.os)
    }
}
