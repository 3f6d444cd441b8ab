//! Windows-only extensions.

use crate::SpawnOptions;

/// Ways to spawn that only Windows has.
pub trait SpawnOptionsExt {
    /// Sets [process creation flags](https://learn.microsoft.com/windows/win32/procthread/process-creation-flags),
    /// in place of those that were set here before.
    ///
    /// They are merged with those that a [tree](SpawnOptions::tree) wants: `CREATE_NEW_PROCESS_GROUP`, and
    /// `CREATE_SUSPENDED` until it is in its job object. A child that is to be suspended by your own flags
    /// stays so; resuming it is up to you then.
    ///
    /// Use this rather than
    /// [`CommandExt::creation_flags`](std::os::windows::process::CommandExt::creation_flags) for what is
    /// spawned with options: nobody can ask the command for its flags, so there they would be lost. After
    /// the spawn the command has the flags that are set here.
    ///
    /// A child with `CREATE_NEW_PROCESS_GROUP` is asked by [`stop`](crate::SharedChild::stop) before it
    /// is killed; so are those that it has started in its group.
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
        self
    }
}
