//! Windows-only extensions.

use crate::{ExitNotice, SpawnOptions, tree};
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, RawHandle};

/// Ways to spawn that only Windows has.
pub trait SpawnOptionsExt {
    /// Sets the [process creation flags](https://learn.microsoft.com/windows/win32/procthread/process-creation-flags).
    /// A later call replaces the flags of an earlier one.
    ///
    /// They are merged with the flags that a [tree](SpawnOptions::tree) requires: `CREATE_NEW_PROCESS_GROUP`, and
    /// `CREATE_SUSPENDED` until the child is in its job object. A child that your own flags suspend stays suspended
    /// until you resume it.
    ///
    /// For a command that is spawned with options, use this rather than
    /// [`CommandExt::creation_flags`](std::os::windows::process::CommandExt::creation_flags): std does not return the
    /// flags of a command, so they would be lost. After the spawn the command has the flags that are set here.
    ///
    /// A [`stop`](crate::SharedChild::stop) of a child with `CREATE_NEW_PROCESS_GROUP` first requests the processes of
    /// its console group to terminate, and then kills the child. No test covers that request.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use shared_child::{SpawnOptions, windows::SpawnOptionsExt};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// const CREATE_NO_WINDOW: u32 = 0x0800_0000;
    ///
    /// let child = SpawnOptions::new()
    ///     .tree(true)
    ///     .creation_flags(CREATE_NO_WINDOW)
    ///     .spawn(Command::new("rustc").arg("--version"))?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    fn creation_flags(&mut self, flags: u32) -> &mut Self;
}

impl SpawnOptionsExt for SpawnOptions {
    fn creation_flags(&mut self, flags: u32) -> &mut Self {
        self.wanted.system.creation_flags = flags;
        self.wanted.spawn = Some(tree::spawn);
        self
    }
}

impl AsHandle for ExitNotice {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

impl AsRawHandle for ExitNotice {
    fn as_raw_handle(&self) -> RawHandle {
        self.0.as_raw_handle()
    }
}
