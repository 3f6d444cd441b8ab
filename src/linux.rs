//! Linux-only extensions.

use crate::SpawnOptions;
use crate::tree::{self, cgroup, pre_exec};
use std::path::PathBuf;

/// Ways to spawn that only Linux has.
pub trait SpawnOptionsExt {
    /// Puts the child into a new cgroup v2, below the one that this process is in. The child is a
    /// [tree](SpawnOptions::tree) then, and the processes that it starts are in the cgroup too. The kernel kills them
    /// as one.
    ///
    /// The child enters the cgroup before it executes the program. It still leads a process group of its own, and has
    /// the variable `SHARED_CHILD_TREE` in its environment.
    ///
    /// # Which processes can leave
    ///
    /// A process can leave a cgroup if it has permission to write `cgroup.procs` of a cgroup above. A child with this
    /// process's credentials has it, since the same permission was required to make the cgroup. So containment is
    /// complete only if the child has other credentials when it executes the program, for example through
    /// [`CommandExt::uid`]: it is not root, has no capabilities, and can neither write `cgroup.procs` of any cgroup
    /// above nor change its mode. [`Tree::containment`](crate::Tree::containment) returns whether that was so right
    /// after the spawn. In all other cases containment is best effort: a kill, a stop and
    /// [`Tree::is_empty`](crate::Tree::is_empty) also search the process table for members that have left the cgroup.
    ///
    /// Even complete containment does not cover a program with set-user-ID or file capabilities that the child
    /// executes, a privileged process outside that moves members, and services that start processes at a member's
    /// request.
    ///
    /// # When the cgroup is removed
    ///
    /// The exit of the last member alone does not remove it. It is removed when the tree is found to be empty
    /// ([`is_empty`](crate::Tree::is_empty), [`wait_empty`](crate::Tree::wait_empty), a stop), or in the background
    /// once the handle is dropped and no member is left. If this process ends first, the cgroup stays, unless the
    /// guardian of [`kill_with_parent`](SpawnOptions::kill_with_parent) removes it.
    ///
    /// # Requirements
    ///
    /// A cgroup v2 file system, Linux 5.14, and permission to make a cgroup: as root, or where the cgroup is
    /// *delegated*, as systemd does for a service with `Delegate=yes`. If one of these is missing, the spawn fails, and
    /// the error names it.
    ///
    /// std forks for a command that was spawned in this way, then and in all later spawns of the same command, which is
    /// slower than its usual way the more memory this process has.
    ///
    /// [`CommandExt::uid`]: std::os::unix::process::CommandExt::uid
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
    /// println!("containment: {}", tree.containment()); // complete only with other credentials
    /// child.wait()?;
    /// tree.kill()?; // even a daemon that has left the session and emptied its environment
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
    ///     .cgroup_parent("/sys/fs/cgroup/user.slice/jobs")
    ///     .spawn(&mut Command::new("make"))?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    fn cgroup_parent(&mut self, directory: impl Into<PathBuf>) -> &mut Self;

    /// Has the child open its own pidfd before it executes the program, and send it to this process.
    ///
    /// Use this where another part of the program reaps any child: a thread in `waitpid(-1)`, or SIGCHLD ignored.
    /// Otherwise this process opens the pidfd by the child's ID after the spawn. A child that exits at once may have
    /// been reaped by then: its status is lost, and [`wait`](crate::SharedChild::wait) returns
    /// [`ReapedElsewhere`](crate::unix::ReapedElsewhere). With the child's own pidfd there is no such moment. On Linux
    /// 6.15 and later, no status is lost; earlier kernels do not keep the status of a child that was reaped elsewhere.
    ///
    /// A [`cgroup`](Self::cgroup), and [`kill_with_parent`](SpawnOptions::kill_with_parent) of a single child, imply
    /// this. It is off by default elsewhere because it has a price: std forks for a command that was spawned in
    /// this way, then and in all later spawns of the same command, which is slower than its usual way the more memory
    /// this process has (27 ms rather than 0.07 ms beside 2 GB).
    ///
    /// If the child cannot open its pidfd, the spawn does not fail: this process opens the pidfd by the ID, and a child
    /// that exits at once can be reaped before that. These are the cases: no descriptor is free; a sandbox forbids it;
    /// a [`pre_exec`] hook closes descriptors, or forks and runs the program in the fork; the child is the first
    /// process of a new PID namespace.
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
        self.wanted.system.cgroup = cgroup.then_some((cgroup::create, None));
        self.wanted.spawn = Some(tree::spawn);
        self
    }

    fn cgroup_parent(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.wanted.system.cgroup = Some((cgroup::create, Some(directory.into())));
        self.wanted.spawn = Some(tree::spawn);
        self
    }

    fn pidfd_from_child(&mut self, from_child: bool) -> &mut Self {
        self.wanted.system.spawn_with_pidfd = from_child.then_some(pre_exec::spawn_with_pidfd);
        self.wanted.spawn = Some(tree::spawn);
        self
    }
}
