//! `SharedChild`, the public face of a [`Lifecycle`].

use crate::backoff::earlier;
use crate::command_line;
use crate::lifecycle::Lifecycle;
use crate::reaper;
use crate::sync::{Arc, Mutex};
use crate::sys::{
    self, Backend, Exit, FromChild, KillWithParent, Notice, Opened, Reap, Reaped, Request,
};
use crate::tree::{Leader, Owner, Spawned, Tree};
use crate::usage::Usage;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A child process that any number of threads can wait for, signal and kill at the same time.
///
/// Everything goes through `&self`, so put it in an [`Arc`], or lend it to scoped
/// threads. See the [crate documentation](crate) for how it works and what is promised.
///
/// Dropping the handle does not wait for the child, and kills it only with
/// [`kill_on_drop`](crate::SpawnOptions::kill_on_drop). It leaves no zombie behind: a child that still runs is reaped
/// in the background when it exits. Pipes that have not been taken are closed.
pub struct SharedChild {
    id: u32,
    can_be_requested: bool,
    /// A capture has taken pipes.
    is_captured: AtomicBool,
    body: Body,
    stopping: Mutex<Stopping>,
    /// The text of the command, for messages. `None` if the child was spawned without a pipe.
    command_line: Option<Box<str>>,
}

/// The state that all stops of one child share.
#[derive(Default)]
struct Stopping {
    /// The last request. It is not repeated, because some programs exit without cleanup at the second request.
    requested: Option<Request>,
    /// `None` is never: a grace beyond the end of the clock.
    deadline: Option<Instant>,
}

/// A child that is borrowed, or kept alive.
#[derive(Debug, Clone)]
pub(crate) enum ChildRef<'c> {
    Borrowed(&'c SharedChild),
    Shared(std::sync::Arc<SharedChild>),
}

impl Deref for ChildRef<'_> {
    type Target = SharedChild;

    fn deref(&self) -> &SharedChild {
        match self {
            Self::Borrowed(child) => child,
            Self::Shared(child) => child,
        }
    }
}

type StandardStreams = (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>);

enum Body {
    Alone(Leader),
    Tree(Box<dyn Owner>),
}

impl SharedChild {
    pub(crate) fn spawned(spawned: Spawned, backend: Backend, kill_on_drop: bool) -> Self {
        let Spawned { child, from_child, kill_with_parent, can_be_requested, own } = spawned;
        let id = child.id();
        let leader = unreaped(child, from_child, kill_with_parent, backend);
        let body = match own {
            None => {
                leader.kill_on_drop(kill_on_drop);
                Body::Alone(leader)
            }
            Some(own) => Body::Tree(own(leader, kill_on_drop)),
        };
        Self::with(id, can_be_requested, body)
    }

    /// Shares a child that was spawned already, even if it has exited or was waited for.
    ///
    /// This calls [`Child::try_wait`] to find out whether the child has been waited for. If the child is a zombie, that
    /// reaps it.
    ///
    /// Between the spawn and this call nothing guards the child: if another part of the program reaps it, its process
    /// ID may have a new owner. In programs where that can happen, spawn with [`SharedChild::spawn`].
    ///
    /// # Errors
    ///
    /// Those of [`Child::try_wait`], except that a child which another part of the program has reaped is accepted: its
    /// pipes can still be taken, and a wait for it returns what happened.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut child = Command::new("rustc").arg("--version").spawn()?;
    /// let status = child.wait()?;
    /// assert_eq!(SharedChild::new(child)?.wait()?, status);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(child: Child) -> io::Result<Self> {
        Self::new_on(Backend::Best, child)
    }

    pub(crate) fn new_on(backend: Backend, mut child: Child) -> io::Result<Self> {
        // For a child that was waited for, this returns the stored status. Its ID may have a new owner.
        let (id, can_be_requested) = (child.id(), sys::PLAIN_CHILD_TAKES_REQUESTS);
        let body = Body::Alone(match child.reap()? {
            Reaped::Status(status) => Lifecycle::reaped(child, Some(status)),
            Reaped::NoSuchChild => Lifecycle::reaped(child, None),
            Reaped::NotYet => unreaped(child, None, KillWithParent::default(), backend),
        });
        Ok(Self::with(id, can_be_requested, body))
    }

    fn with(id: u32, can_be_requested: bool, body: Body) -> Self {
        let is_captured = AtomicBool::new(false);
        let stopping = Mutex::default();
        Self { id, can_be_requested, is_captured, body, stopping, command_line: None }
    }

    /// Keeps the text of the command that this child executes.
    pub(crate) fn remember(&mut self, command: &Command) {
        self.command_line = Some(command_line::of(command));
    }

    /// Returns the command in backquotes, or the process ID.
    pub(crate) fn description(&self) -> String {
        match &self.command_line {
            Some(line) => format!("`{line}`"),
            None => format!("process {}", self.id),
        }
    }

    pub(crate) fn leader(&self) -> &Leader {
        match &self.body {
            Body::Alone(leader) => leader,
            Body::Tree(tree) => tree.leader(),
        }
    }

    /// Notifies the tree if the answer of a wait is the leader's end.
    fn note(&self, answer: io::Result<Option<ExitStatus>>) -> io::Result<Option<ExitStatus>> {
        if let (true, Body::Tree(tree)) = (self.is_final(&answer), &self.body) {
            tree.leader_has_ended();
        }
        answer
    }

    /// Returns whether a result is final: a status, or the error that it is lost.
    pub(crate) fn is_final(&self, answer: &io::Result<Option<ExitStatus>>) -> bool {
        match answer {
            Ok(status) => status.is_some(),
            // While the notice exists, the error is about the wait and not about the status.
            Err(_) => self.notice().is_none(),
        }
    }

    /// Returns the process ID of the child.
    ///
    /// Once the child has exited, another process may have the ID. Use [`kill`](Self::kill) or, on Unix, `send_signal`
    /// instead of this number.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// println!("started {}", child.id());
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Blocks until the child has exited, and returns its exit status.
    ///
    /// Any number of threads may wait at the same time; all get the same status.
    ///
    /// Unlike [`Child::wait`], this does not close the child's standard input. A child that reads a piped input to its
    /// end never exits while this process holds the other end: [take](Self::take_stdin) the pipe and drop it. A pipe
    /// that was not taken stays open as long as the handle.
    ///
    /// # Errors
    ///
    /// On Unix, `unix::ReapedElsewhere` if another part of the program took
    /// the exit status, and the system did not keep it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// std::thread::scope(|scope| {
    ///     let one = scope.spawn(|| child.wait());
    ///     let two = scope.spawn(|| child.wait());
    ///     assert_eq!(one.join().unwrap()?, two.join().unwrap()?);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.exit_by(None)? {
                return Ok(status);
            }
        }
    }

    /// Like [`wait`](Self::wait), but for at most `timeout`: returns `Ok(None)` if the child still runs then.
    ///
    /// Checks at least once, so a timeout of zero checks whether the child has exited. Any timeout is valid,
    /// [`Duration::MAX`] included.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command, std::time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// match child.wait_timeout(Duration::from_secs(60))? {
    ///     Some(status) => println!("{status}"),
    ///     None => child.kill()?,
    /// }
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        // A deadline that is too far away for the clock is no deadline.
        self.exit_by(Instant::now().checked_add(timeout))
    }

    /// Like [`wait`](Self::wait), but until `deadline` at the latest: returns `Ok(None)` if the child still runs then.
    ///
    /// Checks at least once, even if the deadline has passed.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # use std::time::{Duration, Instant};
    /// # fn main() -> std::io::Result<()> {
    /// let deadline = Instant::now() + Duration::from_secs(60); // for both together
    /// for _ in 0..2 {
    ///     let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    ///     if child.wait_deadline(deadline)?.is_none() {
    ///         child.kill()?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_deadline(&self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        self.exit_by(Some(deadline))
    }

    /// Returns the exit status if the child has exited, `Ok(None)` if it still runs. Never blocks, whatever other threads
    /// do.
    ///
    /// It returns the status of a child that has exited even while other threads wait. There are two exceptions. While a
    /// debugger is attached to the child, the system reports the exit to the debugger alone. And for the instant in which
    /// another part of the program reaps the child, the system reports nothing.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// assert!(child.try_wait()?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.note(self.leader().try_wait())
    }

    /// Returns the CPU time and the memory that the child has used, once it has exited; even after it was waited for.
    /// Never blocks.
    ///
    /// `Ok(None)` while the child runs, where the system does not report usage, and if the child was reaped before this
    /// handle had found its exit: by another part of the program, or by [`SharedChild::new`], which was given a child
    /// that had exited.
    ///
    /// For a [tree](Self::tree) with a cgroup of its own (`linux::SpawnOptionsExt::cgroup`) the figures cover all
    /// processes that were ever in the cgroup, and grow while a member lives. A process that has left the cgroup counts
    /// up to the moment when it left. For any other tree this is the leader's usage.
    ///
    /// # Platforms
    ///
    /// - **Linux**, **Android**, **FreeBSD**: as `wait4` reports it (getrusage(2)). That is the child and its descendants
    ///   that were waited for, each by its parent. CPU times are summed, and the peak is the resident memory of the largest
    ///   process. On Linux the peak is at least the peak that this process had before the spawn, because the memory of the
    ///   spawning process counts until the child executes its program; with a `pre_exec` hook, which makes std fork, it is
    ///   at least what this process has in use.
    /// - **Linux, a cgroup**: all processes that were ever in it. The peak is what the memory controller charges, including
    ///   the page cache, and `None` without that controller or before Linux 5.19. If the counters cannot be read, this is
    ///   the leader's usage.
    /// - **macOS**: CPU times as on Linux. The peak is the child's own footprint, as the system's tools show it.
    /// - **NetBSD**: the child alone; the peak can be `None`.
    /// - **Windows**: the child alone. The peak is that of its working set.
    /// - **Others** report no usage before the reap.
    ///
    /// # Errors
    ///
    /// The operating system's, if it does not report whether the child has exited.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// match child.usage()? {
    ///     Some(usage) => println!("it took {:?} of CPU time", usage.cpu()),
    ///     None => println!("the system does not report usage"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn usage(&self) -> io::Result<Option<Usage>> {
        let answer = self.try_wait();
        if !self.is_final(&answer) {
            return answer.map(|_| None);
        }
        let own = self.leader().usage();
        Ok(self.tree().and_then(Tree::usage).or(own))
    }

    /// Returns whether the child runs and the system does not report its CPU time.
    pub(crate) fn is_running_without_cpu_time(&self) -> bool {
        self.cpu_time().is_none() && matches!(self.try_wait(), Ok(None))
    }

    /// Returns a number that changes when the child, or a member of its tree, uses CPU time. `None` if the system does
    /// not report it, or if the child has been reaped.
    pub(crate) fn cpu_time(&self) -> Option<u64> {
        match self.tree() {
            Some(tree) => tree.cpu_time(),
            None => self.notice()?.cpu_time(self.id()),
        }
    }

    /// Kills the child with SIGKILL or `TerminateProcess`. Does nothing, successfully, once the child has exited. Returns
    /// at once; [`wait`](Self::wait) for the exit if it matters.
    ///
    /// This kills the child alone. [`Tree::kill`] also kills the processes that it has started.
    ///
    /// # Errors
    ///
    /// The operating system's, such as a lack of permission for a child that now belongs to another
    /// user.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// child.kill()?;
    /// child.wait()?;
    /// child.kill()?; // does nothing, even if the process ID has a new owner
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill(&self) -> io::Result<()> {
        self.leader().signal(&mut Notice::kill)
    }

    /// Returns the child and the processes that it has started, if it was spawned as a
    /// [tree](crate::SpawnOptions::tree).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{SharedChild, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.arg("--version");
    /// let child = SpawnOptions::new().tree(true).spawn(&mut command)?;
    /// child.tree().expect("it was spawned as a tree").kill()?;
    /// assert!(SharedChild::spawn(&mut command)?.tree().is_none());
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tree(&self) -> Option<&Tree> {
        match &self.body {
            Body::Alone(_) => None,
            Body::Tree(tree) => Some(tree),
        }
    }

    /// Adds a stop. Returns when to kill the child, and whether to request it to terminate.
    pub(crate) fn join_stop(
        &self,
        request: Request,
        own: Option<Instant>,
    ) -> (Option<Instant>, bool) {
        let mut stopping = self.stopping.lock();
        stopping.deadline = match stopping.requested {
            None => own,
            Some(_) => earlier(stopping.deadline, own),
        };
        let is_new = stopping.requested != Some(request);
        stopping.requested = Some(request);
        (stopping.deadline, is_new)
    }

    /// Returns whether the child can receive a termination request.
    pub(crate) fn can_be_requested(&self) -> bool {
        self.can_be_requested
    }

    /// Blocks until the child has exited, or until the deadline (`None`).
    pub(crate) fn exit_by(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        self.note(self.leader().wait(deadline))
    }

    /// Returns the exit notice, until the child is known to have been reaped.
    pub(crate) fn notice(&self) -> Option<Arc<Notice>> {
        self.leader().notice()
    }

    /// Takes all pipes at once, or none: `object` may refuse, given whether standard input and standard error are there.
    pub(crate) fn take_pipes<E>(
        &self,
        object: impl FnOnce(bool, bool) -> Result<(), E>,
    ) -> Result<StandardStreams, E> {
        self.leader().with_child(|child| {
            object(child.stdin.is_some(), child.stderr.is_some())?;
            let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            if pipes.0.is_some() || pipes.1.is_some() || pipes.2.is_some() {
                self.is_captured.store(true, Ordering::Relaxed);
            }
            Ok(pipes)
        })
    }

    /// Returns whether [`take_pipes`](Self::take_pipes) has taken a pipe.
    pub(crate) fn is_captured(&self) -> bool {
        self.is_captured.load(Ordering::Relaxed)
    }

    /// Sets a pipe of this library as the standard output to be taken.
    pub(crate) fn put_stdout(&self, stdout: ChildStdout) {
        self.leader().with_child(|child| child.stdout = Some(stdout));
    }

    /// Lets the child or the tree outlive the handle: disarms [`kill_on_drop`](crate::SpawnOptions::kill_on_drop).
    /// [`kill_with_parent`](crate::SpawnOptions::kill_with_parent) stays in force.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SpawnOptions::new().kill_on_drop(true).spawn(command.arg("--version"))?;
    /// // …killed if we return early, up to here:
    /// child.detach();
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(&self) {
        match &self.body {
            Body::Alone(leader) => leader.kill_on_drop(false),
            Body::Tree(tree) => tree.detach(),
        }
    }

    /// Returns the [`Child`], which has its status if it was waited for here. Otherwise the caller must reap it.
    ///
    /// The options that the child was spawned with are disarmed: nothing is killed when the `Child` is dropped, or when
    /// this process ends; and its tree is no longer known. One option cannot be disarmed: on Linux the kernel still
    /// kills a single child with [`kill_with_parent`](crate::SpawnOptions::kill_with_parent) when this process ends
    /// (`PR_SET_PDEATHSIG`).
    ///
    /// A `Child` gets its status by reaping. So it lacks a status that another part of the program has taken, even where
    /// [`wait`](Self::wait) still returns it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// let status = child.wait()?;
    /// assert_eq!(child.into_inner().try_wait()?, Some(status));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a child that is not waited for becomes a zombie"]
    pub fn into_inner(self) -> Child {
        match self.body {
            Body::Alone(leader) => leader,
            Body::Tree(tree) => tree.into_leader(),
        }
        .into_inner()
    }

    /// Takes the writing end of the child's standard input: `Some` once, if it was piped.
    ///
    /// A child that reads its input to the end waits until this end is closed: drop it when all is written. A pipe that
    /// is not taken stays open until the handle is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::{Command, Stdio}, std::io::Write};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SharedChild::spawn(
    ///     Command::new("rustc").args(["-", "--crate-type", "lib", "--emit", "metadata=-"])
    ///         .stdin(Stdio::piped()).stdout(Stdio::null()),
    /// )?;
    /// let mut stdin = child.take_stdin().expect("it was piped");
    /// stdin.write_all(b"pub fn answer() -> u32 { 42 }")?;
    /// drop(stdin); // end of file
    /// assert!(child.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.leader().with_child(|child| child.stdin.take())
    }

    /// Takes the reading end of the child's standard output: `Some` once, if it was piped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::{Command, Stdio}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SharedChild::spawn(command.arg("--version").stdout(Stdio::piped()))?;
    /// let stdout = child.take_stdout().expect("it was piped");
    /// assert!(std::io::read_to_string(stdout)?.starts_with("rustc"));
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.leader().with_child(|child| child.stdout.take())
    }

    /// Takes the reading end of the child's standard error: `Some` once, if it was piped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::{Command, Stdio}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SharedChild::spawn(command.arg("--no-such-flag").stderr(Stdio::piped()))?;
    /// let stderr = child.take_stderr().expect("it was piped");
    /// assert!(std::io::read_to_string(stderr)?.contains("no-such-flag"));
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.leader().with_child(|child| child.stderr.take())
    }
}

impl fmt::Debug for SharedChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SharedChild");
        debug.field("id", &self.id);
        self.leader().describe(&mut debug);
        if let Some(tree) = self.tree() {
            debug.field("tree", tree);
        }
        debug.finish()
    }
}

/// The lifecycle of a child that this process has not reaped through its [`Child`].
fn unreaped(
    mut child: Child,
    from_child: Option<FromChild>,
    kill_with_parent: KillWithParent,
    backend: Backend,
) -> Leader {
    match Notice::open(&child, from_child, kill_with_parent, backend) {
        Opened::Unreaped(notice) => Lifecycle::unreaped(child, notice, reaper::abandon),
        Opened::ReapedElsewhere(status) => Lifecycle::reaped(child, status),
        Opened::Unverified(notice) => {
            notice.spare(true);
            match child.reap() {
                Ok(Reaped::Status(status)) => Lifecycle::reaped(child, Some(status)),
                Ok(Reaped::NoSuchChild) => Lifecycle::reaped(child, None),
                // Without a result either, the ID was the child's just before.
                Ok(Reaped::NotYet) | Err(_) => {
                    notice.spare(false);
                    Lifecycle::unreaped(child, notice, reaper::abandon)
                }
            }
        }
    }
}
