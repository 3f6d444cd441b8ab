//! How to spawn.

use crate::SharedChild;
use crate::exit::{self, Backend};
use crate::tree::{self, Wanted};
use std::io;
use std::process::Command;

/// How to spawn a child, in the manner of [`std::fs::OpenOptions`].
///
/// What to run, and with which arguments, environment, directory and streams, is up to the [`Command`].
///
/// # What is changed on the command
///
/// - [`tree`](Self::tree), and on Unix other than Linux [`kill_with_parent`](Self::kill_with_parent): on
///   Unix the child leads a process group of its own
///   ([`CommandExt::process_group(0)`](https://doc.rust-lang.org/std/os/unix/process/trait.CommandExt.html#tymethod.process_group)),
///   and so do the children of later spawns of the same command, plain ones included; a hook of your own
///   that calls setsid(2) fails then. On Linux the
///   variable `SHARED_CHILD_TREE` is set for the spawn, and afterwards is as it was for the child: what
///   the command says of it, else what this process has.
/// - `linux::SpawnOptionsExt::cgroup` and `pidfd_from_child`, and on Linux `kill_with_parent` of a single child: each
///   such spawn adds a hook, which runs before exec, after all hooks that the command has. std cannot remove it. It
///   does nothing in later spawns, but std forks for a command that has a hook, which is slower the more
///   memory this process has.
///   A seccomp filter that another hook installs applies to this hook. It must not kill for `fstat`, `getpid`,
///   `pidfd_open`, `sendmsg` and `close`, and must allow, for a cgroup, `fstat` and `write`, and for
///   `kill_with_parent` `rt_sigprocmask`, `prctl` and `getppid`.
/// - On Windows the creation flags are set for the spawn. std does not tell those that were set on the
///   command before, so they are lost: use `windows::SpawnOptionsExt::creation_flags` for them.
///
/// # Examples
///
/// ```
/// use shared_child::SpawnOptions;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let child = SpawnOptions::new()
///     .tree(true) // what it starts belongs to it
///     .kill_on_drop(true) // all that goes with the handle
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
    /// Nothing asked for: [`spawn`](Self::spawn) does what [`SharedChild::spawn`] does.
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

    /// Makes one unit of the child and all that it starts: see [`Tree`](crate::Tree).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// child.tree().expect("it was asked for").kill()?; // whatever it has left running
    /// # Ok(())
    /// # }
    /// ```
    pub fn tree(&mut self, tree: bool) -> &mut Self {
        self.wanted.tree = tree;
        self
    }

    /// Kills the child, or the whole tree if it is one, when the handle is dropped.
    ///
    /// The drop does not block. It kills the child and its process group (or cgroup, or job) at once; those who
    /// have left the group are looked for in the background, so if the program ends right after, combine
    /// this with [`kill_with_parent`](Self::kill_with_parent). Disarmed by
    /// [`detach`](SharedChild::detach) and [`into_inner`](SharedChild::into_inner).
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
    /// assert_eq!(std::io::read_to_string(stderr)?, ""); // the end, though its input is still open
    /// # drop(stdin);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Kills the child, or the whole tree if it is one, when this process dies, by whatever cause.
    ///
    /// That includes SIGKILL and a crash; and on Unix a call of `exec`, after which nobody knows of the child any more.
    /// It is in force for as long as the child or the tree lives, also after the handle was dropped; a thread then
    /// sees to it, other than for a single child on Linux.
    ///
    /// # Platforms
    ///
    /// - **Linux, a single child**: the kernel sends SIGKILL (`PR_SET_PDEATHSIG`, prctl(2)). The child is
    ///   spawned by a thread that lives as long as the process, since the kernel sends the signal at the death of the
    ///   *thread*. What is particular to a thread (its CPU affinity, its namespaces) comes from that thread. There is
    ///   one such thread; another is started if all are held up in a spawn, as by a `pre_exec` hook that blocks, for
    ///   20 ms. The hook that sets the signal runs after all hooks that the command has, so they may change the user
    ///   ID, which clears it. A program with set-user-ID or capabilities clears it too: such a child is not killed, and
    ///   neither is one that clears the signal itself.
    /// - **Linux, a tree; other Unix**: by a *guardian*, one small `sh` for the whole process, started when first
    ///   needed. It ends with this process. Programs that wait for any child (`waitpid(-1)`) may meet it.
    ///   Outside Linux a single child leads a process group of its own for this, and the group is killed.
    /// - **Windows**: a job object that kills when its last handle is closed, which the system does. If this
    ///   process dies between creating the child and putting it there, a suspended child is left.
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
        self
    }

    /// Spawns the command.
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`]; and where something that was asked for cannot be had, an error that says
    /// what is missing ([`Unsupported`](io::ErrorKind::Unsupported) if it is the system that lacks it).
    /// Nothing is left behind then, and the command is as it was, but for what is
    /// [changed on it](Self#what-is-changed-on-the-command).
    ///
    /// Where [`Command::spawn`] panics, this returns an error. On Unix it panics if the program cannot be executed and
    /// another part of this program has reaped the child: SIGCHLD is ignored, or a thread is in `waitpid(-1)`. The
    /// panic hook has run by then; a program that is built with `panic = "abort"` is aborted, as by std.
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
    ///     let child = options.spawn(&mut command)?; // two trees, which do not touch each other
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
        exit::sweep();
        tree::sweep();
        let spawned = tree::spawn(&self.wanted, command)?;
        Ok(SharedChild::spawned(spawned, backend, self.kill_on_drop))
    }
}
