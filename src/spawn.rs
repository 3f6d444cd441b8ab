//! The options of a spawn.

use crate::SharedChild;
use crate::command;
use crate::deferred;
use crate::sys::Backend;
use crate::tree::{self, Spawned, Wanted};
use std::io;
use std::process::{Child, Command};

/// Options of a spawn, in the manner of [`std::fs::OpenOptions`].
///
/// The [`Command`] has the program, its arguments, environment, directory and streams.
///
/// # What is changed on the command
///
/// - **A process group.** On Unix, [`tree`](Self::tree) makes the child lead a process group of its own
///   ([`CommandExt::process_group(0)`](https://doc.rust-lang.org/std/os/unix/process/trait.CommandExt.html#tymethod.process_group)).
///   So does `linux::SpawnOptionsExt::cgroup`, and, on Unix other than Linux,
///   [`kill_with_parent`](Self::kill_with_parent). The setting stays on the command: children of later spawns lead
///   groups too, even of plain spawns. A hook of your own that calls setsid(2) fails in such a child.
/// - **A variable.** On Linux and Android, a tree has `SHARED_CHILD_TREE` in its environment. The spawn restores the
///   environment of the command: in later spawns without a tree, a child gets the command's own value, or else that of
///   this process.
/// - **A hook.** On Linux, `SpawnOptionsExt::cgroup`, `pidfd_from_child` and `kill_with_parent` of a single child add a
///   hook at each spawn. It runs before exec, after all hooks that the command has. std cannot remove a hook. In later
///   spawns it does nothing, but std forks for a command that has a hook, which is slower the more memory this process
///   has. Each hook also uses a few words of memory in the command, so for thousands of spawns do not use the same
///   command. A seccomp filter that another hook installs applies to this hook. The filter must not kill for `fstat`,
///   `getpid`, `pidfd_open`, `sendmsg` and `close`. It must allow, for a cgroup, `fstat` and `write`, and for
///   `kill_with_parent` `rt_sigprocmask`, `prctl` and `getppid`.
/// - **Creation flags.** On Windows the spawn sets them. std does not return the flags that the command had before, so
///   those are lost: set them by `windows::SpawnOptionsExt::creation_flags`.
///
/// # Examples
///
/// ```
/// use shared_child::SpawnOptions;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let child = SpawnOptions::new()
///     .tree(true) // its descendants belong to it
///     .kill_on_drop(true) // dropping the handle kills all of them
///     .spawn(Command::new("rustc").arg("--version"))?;
/// assert!(child.wait()?.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct SpawnOptions {
    pub(crate) wanted: Wanted,
    kill_on_drop: bool,
}

impl SpawnOptions {
    /// Returns options that change nothing: [`spawn`](Self::spawn) is [`SharedChild::spawn`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().spawn(Command::new("rustc").arg("--version"))?;
    /// assert!(child.tree().is_none());
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the child and its descendants one unit. [`Tree`](crate::Tree) describes the mechanism of each system, and
    /// which processes escape.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// child.tree().expect("it was spawned as a tree").kill()?; // processes that it has left running
    /// # Ok(())
    /// # }
    /// ```
    pub fn tree(&mut self, tree: bool) -> &mut Self {
        self.wanted.tree = tree;
        self.wanted.spawn = Some(tree::spawn);
        self
    }

    /// Kills the child, or its whole tree, when the handle is dropped.
    ///
    /// [`detach`](SharedChild::detach) and [`into_inner`](SharedChild::into_inner) disarm this.
    ///
    /// The drop makes a few system calls. It kills a single child, and the process group, cgroup or job of a tree, at
    /// once. A background thread then finds and kills the members that have left the group; one thread serves all
    /// dropped trees. On macOS, FreeBSD, NetBSD and DragonFly that thread does the whole kill of a tree, since it must
    /// find the members before their parents die. If the program ends right after the drop, the thread ends with it, so
    /// combine this with [`kill_with_parent`](Self::kill_with_parent).
    ///
    /// If no thread can be started, the drop itself kills the whole tree. It then takes as long as a
    /// [`kill`](crate::Tree::kill).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::{Command, Stdio}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc"); // it reads a program from standard input
    /// command.arg("-").stdin(Stdio::piped()).stderr(Stdio::piped());
    /// let child = SpawnOptions::new().kill_on_drop(true).spawn(&mut command)?;
    /// let (stdin, stderr) = (child.take_stdin(), child.take_stderr().unwrap());
    /// drop(child);
    /// assert_eq!(std::io::read_to_string(stderr)?, ""); // it has ended, though its input is still open
    /// # drop(stdin);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Kills the child, or its whole tree, when this process ends for any reason: an exit, SIGKILL, a crash; and on Unix an
    /// exec.
    ///
    /// This stays in force while the child or the tree lives, even after the handle was dropped. (A background thread
    /// watches dropped trees.) [`into_inner`](SharedChild::into_inner) ends it, except for a single child on Linux, where
    /// the kernel's signal cannot be disarmed.
    ///
    /// # Platforms
    ///
    /// - **Linux, a single child**: the kernel sends SIGKILL (`PR_SET_PDEATHSIG`, prctl(2)). It does so at the death of
    ///   the *thread* that has spawned the child, so a thread that lives as long as this process spawns it. The child
    ///   inherits attributes of that thread (its CPU affinity, its namespaces). There is one such thread; another is
    ///   started if all are blocked in a spawn for 20 ms, as by a `pre_exec` hook. The hook that sets the signal runs
    ///   after all hooks that the command has, because a change of the user ID clears the signal.
    ///
    ///   *Not covered*: a child that executes a program with set-user-ID or file capabilities, or clears the signal
    ///   itself; and the processes that the child starts. After `unshare(CLONE_NEWPID)` such a spawn fails with ESRCH.
    /// - **Linux, a tree; other Unix**: one *guardian* process kills. It only makes system calls. It is started when it is
    ///   first needed, replaced if it is killed, and ends a few seconds after the last tree has ended. It is a fork of this
    ///   process, so a spawn that starts it takes longer the more memory this process has (60 ms with 2 GB); later spawns
    ///   do not. Outside Linux, code that waits for any child (`waitpid(-1)`) may reap it; it is replaced then.
    ///
    ///   After `unshare(CLONE_NEWPID)` such a spawn fails with [`Unsupported`](io::ErrorKind::Unsupported), since the
    ///   guardian would be in the new namespace.
    ///
    ///   On Linux it kills the group, the cgroup, and the members that have left them. Outside Linux it kills only process
    ///   groups, and a single child leads a process group of its own for this.
    ///
    ///   *Not covered*: processes that [escape](crate::Tree#which-processes-escape); outside Linux every process that has
    ///   left the group; and all processes if the guardian is killed in the same instant as this process.
    /// - **Windows**: a job object that kills when its last handle is closed. The system closes it.
    ///
    ///   *Not covered*: if this process ends between creating the child and putting it into the job, a suspended child is
    ///   left.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new()
    ///     .tree(true)
    ///     .kill_with_parent(true)
    ///     .spawn(Command::new("rustc").arg("--version"))?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_with_parent(&mut self, kill: bool) -> &mut Self {
        self.wanted.kill_with_parent = kill;
        self.wanted.spawn = Some(tree::spawn);
        self
    }

    /// Spawns the command.
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`]; and an error if an option cannot be served, which names what is missing
    /// ([`Unsupported`](io::ErrorKind::Unsupported) if the system does not have it). A failed spawn leaves no process,
    /// descriptor or cgroup behind. A helper thread and the guardian may stay. The command is unchanged, except as
    /// [described above](Self#what-is-changed-on-the-command).
    ///
    /// Where [`Command::spawn`] panics, this returns an error. On Unix std panics if the program cannot be executed and
    /// another part of this program has reaped the child: SIGCHLD is ignored, or a thread is in `waitpid(-1)`. Then the
    /// error cannot say why the exec failed, and the panic hook has run. A program with `panic = "abort"` aborts.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.arg("--version");
    /// let options = SpawnOptions::new().tree(true).clone();
    /// for _ in 0..2 {
    ///     let child = options.spawn(&mut command)?; // two independent trees
    ///     assert!(child.wait()?.success());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn(&self, command: &mut Command) -> io::Result<SharedChild> {
        self.spawn_on(Backend::Best, command)
    }

    pub(crate) fn kills_on_drop(&self) -> bool {
        self.kill_on_drop
    }

    pub(crate) fn spawn_on(
        &self,
        backend: Backend,
        command: &mut Command,
    ) -> io::Result<SharedChild> {
        deferred::retry();
        let spawned = match self.wanted.spawn {
            Some(spawn) => spawn(&self.wanted, command)?,
            None => Spawned::single((command::spawn(command)?, None)),
        };
        let Child { stdin, stdout, stderr, .. } = &spawned.child;
        let has_pipe = stdin.is_some() || stdout.is_some() || stderr.is_some();
        let mut child = SharedChild::spawned(spawned, backend, self.kill_on_drop);
        // Only a capture shows the command, and it requires a pipe.
        if has_pipe {
            child.remember(command);
        }
        Ok(child)
    }
}

impl SharedChild {
    /// Spawns the command, like [`Command::spawn`].
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`]. A lack of descriptors for the notice of the exit is no error: a helper thread waits
    /// instead. Where [`Command::spawn`] panics, this returns an error: see
    /// [`SpawnOptions::spawn`](crate::SpawnOptions::spawn).
    ///
    /// # Foreign reapers
    ///
    /// If a thread is in `waitpid(-1)`, or SIGCHLD is ignored, a child that exits at once may be reaped between its spawn
    /// and the opening of its pidfd. Its status is lost then. On Linux, `linux::SpawnOptionsExt::pidfd_from_child` closes
    /// that gap.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// assert!(child.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        SpawnOptions::new().spawn(command)
    }
}
