//! The resources that a child used.

use std::time::Duration;

/// The resources that a child used, as counted by [`SharedChild::usage`](crate::SharedChild::usage).
///
/// # Examples
///
/// ```
/// # use {shared_child::SharedChild, std::process::Command};
/// # fn main() -> std::io::Result<()> {
/// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
/// child.wait()?;
/// if let Some(usage) = child.usage()? {
///     println!("{:?} of CPU time, {:?} of them in the kernel", usage.cpu(), usage.system);
///     if let Some(bytes) = usage.peak_memory {
///         println!("up to {} MiB of memory", bytes >> 20);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The CPU time spent in user mode.
    pub user: Duration,
    /// The CPU time spent in the kernel.
    pub system: Duration,
    /// The most memory that was in use at once, in bytes. `None` if the system does not report it.
    pub peak_memory: Option<u64>,
}

impl Usage {
    /// Returns the total CPU time: [`user`](Self::user) and [`system`](Self::system).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// if let Some(usage) = child.usage()? {
    ///     assert!(usage.cpu() >= usage.user);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn cpu(&self) -> Duration {
        self.user.saturating_add(self.system)
    }
}
