//! Linux-only extensions.

use crate::SpawnOptions;
use crate::tree::Place;
use std::path::PathBuf;

/// Ways to spawn that only Linux has.
pub trait SpawnOptionsExt {
    /// Puts the child, and all that it starts, into a cgroup v2 of its own, below the one that this process is
    /// in. It is a [tree](SpawnOptions::tree) then, and its containment is complete: nobody leaves it who may not
    /// write to the cgroup above, and all are killed as one.
    ///
    /// The child enters the cgroup before it executes the program. It still leads a process group of its
    /// own. The cgroup is removed when nobody is left in it.
    ///
    /// This takes a cgroup v2 file system, Linux 5.14, and permission to make a cgroup: as root, or where it
    /// is *delegated*, as systemd does for a service with `Delegate=yes`. Where something is missing, the
    /// spawn fails, and says what.
    ///
    /// std forks for a command that was spawned in this way, which is slower than its usual way the more
    /// memory this process has.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use shared_child::{SpawnOptions, linux::SpawnOptionsExt};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().cgroup(true).spawn(&mut Command::new("make"))?;
    /// let tree = child.tree().expect("a cgroup makes a tree");
    /// assert!(tree.containment().is_complete());
    /// child.wait()?;
    /// tree.kill()?; // also a daemon that has left the session, with an empty environment
    /// # Ok(())
    /// # }
    /// ```
    fn cgroup(&mut self, cgroup: bool) -> &mut Self;

    /// Like [`cgroup(true)`](Self::cgroup), below another cgroup than that of this process.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use shared_child::{SpawnOptions, linux::SpawnOptionsExt};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new()
    ///     .cgroup_below("/sys/fs/cgroup/user.slice/jobs")
    ///     .spawn(&mut Command::new("make"))?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    fn cgroup_below(&mut self, directory: impl Into<PathBuf>) -> &mut Self;

    /// Has the child open its own pidfd before it executes the program, and send it to this process.
    ///
    /// Use this where another part of the program reaps any child: a thread in `waitpid(-1)`, or SIGCHLD ignored.
    /// Otherwise this process opens the pidfd by the child's ID after the spawn. A child that exits at once may have
    /// been reaped by then: its status is lost, and [`wait`](crate::SharedChild::wait) returns
    /// [`ReapedElsewhere`](crate::unix::ReapedElsewhere). With the child's own pidfd there is no such moment. From
    /// Linux 6.15 on, no status is lost; before, the status of a child that was reaped elsewhere is lost in any case.
    ///
    /// A [`cgroup`](Self::cgroup), and [`kill_with_parent`](SpawnOptions::kill_with_parent) of a single child, imply
    /// this. It is off by default elsewhere because it has a price: std forks for a command that was spawned in
    /// this way, then and in all later spawns of the same command, which is slower than its usual way the more memory
    /// this process has (27 ms rather than 0.07 ms beside 2 GB).
    ///
    /// Where the pidfd cannot be had (no descriptor to spare, a sandbox, a [`pre_exec`] hook that closes descriptors or
    /// forks), the spawn does not fail, and this process opens the pidfd by the ID.
    ///
    /// [`pre_exec`]: std::os::unix::process::CommandExt::pre_exec
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{SpawnOptions, linux::SpawnOptionsExt};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new()
    ///     .pidfd_from_child(true)
    ///     .spawn(Command::new("rustc").arg("--version"))?;
    /// assert!(child.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    fn pidfd_from_child(&mut self, from_child: bool) -> &mut Self;
}

impl SpawnOptionsExt for SpawnOptions {
    fn cgroup(&mut self, cgroup: bool) -> &mut Self {
        self.wanted.system.cgroup = if cgroup { Place::Own } else { Place::Nowhere };
        self
    }

    fn cgroup_below(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.wanted.system.cgroup = Place::Below(directory.into());
        self
    }

    fn pidfd_from_child(&mut self, from_child: bool) -> &mut Self {
        self.wanted.system.pidfd_from_child = from_child;
        self
    }
}
