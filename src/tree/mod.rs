//! A child and its descendants as one unit, one file per mechanism.
//!
//! [`Tree`] is the public type and names no operating system. A container holds the members of a tree together: a process
//! group or a job object. Only the options that require a container construct it, so a program without trees does not
//! contain that code.
//!
//! A tree's *leader* is the child itself. On Unix the leader is pinned: it is not reaped, even after its status was
//! returned, until the tree is known to be empty or its handle is dropped. So no other process group gets its ID.

mod containment;
mod drop;
mod operations;

#[cfg(unix)]
mod environment_marker;
#[cfg(unix)]
pub(crate) mod guardian;
#[cfg(unix)]
mod process_group;
#[cfg(unix)]
pub(crate) use crate::sys::unix::process_table as processes;
#[cfg(unix)]
mod scan;
#[cfg(unix)]
use process_group::ProcessGroup as Container;
#[cfg(unix)]
pub(crate) use process_group::{System, request, spawn};

#[cfg(target_os = "linux")]
pub(crate) mod cgroup;
#[cfg(target_os = "linux")]
mod credentials;
#[cfg(target_os = "linux")]
mod parent_death;
#[cfg(target_os = "linux")]
pub(crate) mod pre_exec;

#[cfg(windows)]
mod job_object;
#[cfg(windows)]
use job_object::Job as Container;
#[cfg(windows)]
pub(crate) use job_object::{System, request, spawn};

pub use containment::{Containment, Mechanism};

use drop::Owned;
use operations::{Operations, Survivor, for_some};

use crate::lifecycle::Lifecycle;
use crate::sys::{self, FromChild, KillWithParent, Notice, Request};
use crate::usage::Usage;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The child that leads a tree.
pub(crate) type Leader = Lifecycle<Child, Notice>;

/// Options of a spawn that [`Command::spawn`] does not have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) tree: bool,
    pub(crate) kill_with_parent: bool,
    pub(crate) system: System,
    /// Serves these options. `None` while no option is set, so a program that sets none does not contain the code.
    pub(crate) spawn: Option<fn(&Self, &mut Command) -> io::Result<Spawned>>,
}

/// A child that was spawned with options.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) from_child: Option<FromChild>,
    /// For a child without a tree. The container of a tree kills the tree.
    pub(crate) kill_with_parent: KillWithParent,
    /// Whether the child can receive a termination request.
    pub(crate) can_be_requested: bool,
    /// Makes a tree of the child. `None` for a plain child.
    pub(crate) own: Option<Box<Own>>,
}

/// Makes the owner of a leader's tree. The second argument is whether a drop kills the tree.
type Own = dyn FnOnce(Leader, bool) -> Box<dyn Owner>;

impl Spawned {
    pub(crate) fn single((child, from_child): (Child, Option<FromChild>)) -> Self {
        let can_be_requested = sys::PLAIN_CHILD_TAKES_REQUESTS;
        let kill_with_parent = KillWithParent::default();
        Self { child, from_child, kill_with_parent, can_be_requested, own: None }
    }

    /// Makes the child the leader of a tree.
    fn leading(self, container: Container, operations: &'static dyn Operations) -> Self {
        let own = move |leader, kill_on_drop| -> Box<dyn Owner> {
            Box::new(Owned::new(Tree::new(leader, container, operations), kill_on_drop))
        };
        Self { own: Some(Box::new(own)), ..self }
    }
}

/// The part of a tree that a handle owns.
pub(crate) trait Owner:
    Deref<Target = Tree> + Send + Sync + UnwindSafe + RefUnwindSafe
{
    /// Lets the tree outlive the handle.
    fn detach(&self);

    /// Returns the leader, and ends all options that the tree was spawned with.
    fn into_leader(self: Box<Self>) -> Leader;
}

/// A child and all processes that descend from it, as one unit.
///
/// [`SharedChild::tree`](crate::SharedChild::tree) returns it, for a child that was spawned with
/// [`SpawnOptions::tree`](crate::SpawnOptions::tree). Every method works before, during and after the exit of the child
/// itself (the *leader*), even after the child was waited for, and from any number of threads.
///
/// # What holds a tree together
///
/// [`containment`](Self::containment) returns the mechanism of a tree, and whether it is complete.
///
/// - **Windows**: a job object, which the child joins before its first instruction. No process of the job can leave it:
///   *complete*.
/// - **Linux with a cgroup** of its own (`linux::SpawnOptionsExt::cgroup`): the kernel kills all processes of the
///   cgroup as one. A process can leave if it can write `cgroup.procs` of a cgroup above. So containment is *complete*
///   only if the child cannot do that with the credentials that it has when it executes its program: it is not root,
///   has no capabilities, and neither owns one of these files nor has write permission by their group or mode. Usually
///   that requires a command with another user ID. In all other cases containment is *best effort*: processes that have
///   left the cgroup are found in the same way as those of other trees on Linux.
/// - **Linux otherwise, and Android**: a process group. Members that have left the group are found through their
///   parents, and by an environment variable that processes inherit, `SHARED_CHILD_TREE`: *best effort*.
/// - **macOS, FreeBSD, NetBSD, DragonFly**: a process group. Members that have left the group are found through their
///   parents: *best effort*.
/// - **Other Unix**: a process group, whose members the system does not list: *best effort*.
///
/// # Which processes escape
///
/// - **Everywhere**: a process that a service starts at the request of a member. It is a child of the service, and
///   never belongs to the tree. On Windows such services are WMI, the Task Scheduler and COM; on Unix cron, at, systemd
///   (`systemd-run`), D-Bus and container daemons.
/// - **Linux, complete containment**: a contained child may execute a program with set-user-ID or file capabilities,
///   which may leave the cgroup. And a privileged process outside may move members out of it.
/// - **Linux, best effort**: a process that leaves the group (and the cgroup), *and* whose environment does not have
///   the variable (it was emptied, or overwritten, as some servers do to change their title), *and* whose parent ended
///   before any operation on the tree found the process below that parent.
/// - **Linux, best effort**: in the same cases, a process whose environment this process cannot read: a process of
///   another user if this process lacks CAP_SYS_PTRACE (the default in Docker), a process that is not dumpable
///   (`ssh-agent`), or one that has unmapped its environment. It is not killed. But while one lives that may be a
///   member whose parent has ended, the tree is not reported as [empty](Self::is_empty).
/// - **Linux with `hidepid`**: a process that the kernel hides and that has left the group. It is neither found nor
///   counted.
/// - **macOS, FreeBSD, NetBSD, DragonFly**: a process that leaves the group, and whose parent has ended.
/// - **Other Unix**: a process that leaves the group.
///
/// # Servers that outlive the tree
///
/// A server that must outlive the build or the test that has started it (a compiler's cache, for example) is a member
/// like any other process. On Linux without a cgroup the server is not a member if a process that ends at once starts
/// it in a new session and without the variable: `env -u SHARED_CHILD_TREE setsid --fork server`. An operation on the
/// tree in the instant before that process ends still finds the server.
///
/// # At a terminal
///
/// On Unix a tree is a process group of its own, and so in the background. Ctrl-C does not reach the tree: on Ctrl-C,
/// call [`stop`](crate::SharedChild::stop). SIGTTIN stops a member that reads from the terminal. On Windows Ctrl-C does
/// not reach a tree either, since the tree is a console group of its own.
///
/// # The leader's process ID
///
/// On Unix the leader stays a zombie after its exit until the tree is known to be empty ([`is_empty`](Self::is_empty),
/// [`wait_empty`](Self::wait_empty), [`stop`](crate::SharedChild::stop)), or until the handle is dropped. While the
/// zombie exists, no other process group can have its ID, so no other group is signalled by mistake. If another part of
/// the program reaps the leader, or if the system reports a status only to a reap (a sandbox without waitid(2)), the
/// group is not signalled by its ID any more.
///
/// # Examples
///
/// ```
/// use shared_child::SpawnOptions;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// # #[cfg(unix)] {
/// let mut shell = Command::new("sh");
/// shell.args(["-c", "sleep 1000 & sleep 1000 & wait"]);
/// let child = SpawnOptions::new().tree(true).spawn(&mut shell)?;
///
/// let tree = child.tree().expect("it was spawned as a tree");
/// tree.kill()?; // the shell, and both of its children
/// assert!(tree.wait_empty(None)?);
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Tree {
    /// This field precedes the leader, and so is dropped first: the guardian must forget the group before the leader's
    /// ID can get a new owner.
    container: Container,
    leader: Leader,
    operations: &'static dyn Operations,
    /// No member is left, so no member can start another.
    done: AtomicBool,
}

impl Tree {
    fn new(leader: Leader, container: Container, operations: &'static dyn Operations) -> Self {
        // On Windows, where a process handle keeps the ID taken, a pin has no effect.
        leader.pin();
        let tree = Self { container, leader, operations, done: AtomicBool::new(false) };
        tree.leader_has_ended();
        tree
    }

    pub(crate) fn leader(&self) -> &Leader {
        &self.leader
    }

    pub(crate) fn into_leader(self) -> Leader {
        self.leader
    }

    /// Kills every process of the tree, with SIGKILL or `TerminateJobObject`, and every process that a member starts
    /// meanwhile. Processes that [escape](Self#which-processes-escape) survive. Succeeds without effect once the tree
    /// is empty.
    ///
    /// A killed process may take a moment to end: use [`wait_empty`](Self::wait_empty) if that matters.
    ///
    /// On Linux, unless containment is complete, a kill reads `/proc` until it finds no new member. It waits at most 2
    /// s in all for processes in the middle of an exec, whose environment cannot be read, and never again for the same
    /// process. On macOS, FreeBSD, NetBSD and DragonFly a kill stops all members (SIGSTOP) before it kills them.
    ///
    /// # Errors
    ///
    /// The error of the operating system, such as a lack of permission for a member that now belongs to another user.
    /// All other members that were found are killed before this returns. A tree that still grows after 1000 passes is
    /// an error too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// child.tree().unwrap().kill()?;
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill(&self) -> io::Result<()> {
        Self::kill_each(&[self]).pop().unwrap_or(Ok(()))
    }

    /// Does the same for a batch of trees.
    pub(crate) fn kill_each(trees: &[&Self]) -> Vec<io::Result<()>> {
        Self::each_unless_done(trees, (), |operations, trees| operations.kill_each(trees))
    }

    /// Requests every process of each tree to terminate. Returns whether a process can have received the request.
    pub(crate) fn request_each(trees: &[&Self], request: Request) -> Vec<io::Result<bool>> {
        Self::each_unless_done(trees, false, |operations, trees| {
            operations.request_each(trees, request)
        })
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: std::ffi::c_int) -> io::Result<()> {
        self.unless_done((), || self.operations.signal(self, signal))
    }

    /// Returns whether no process of the tree is left. Zombies do not count, nor do processes that
    /// [escape](Self#which-processes-escape).
    ///
    /// On Linux, unless containment is complete, this also returns `false` while a process lives that cannot be read
    /// and may be a member: it is younger than the tree; its parent is the init process, an ancestor of this process,
    /// this process as a subreaper, or another process that cannot be read; and it has the control groups and the audit
    /// session of this process. (If the leader has `no_new_privs` and no capabilities, it must also have the leader's
    /// user.) So a service that the init process of the same container starts meanwhile may keep a tree from being
    /// reported as empty, if this process lacks CAP_SYS_PTRACE.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) where the system does not list the members of a process group; and
    /// on Linux, for a tree without a cgroup, if there is no `/proc`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// assert!(child.tree().unwrap().wait_empty(None)?); // the processes that it started have ended too
    /// assert!(child.tree().unwrap().is_empty()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_empty(&self) -> io::Result<bool> {
        self.wait_empty(Some(Instant::now()))
    }

    /// Blocks until no process of the tree is left (`true`), or until the deadline (`false`).
    ///
    /// Checks at least once. Blocks in the kernel while a member lives that can be waited for. Where the system cannot
    /// do that (Linux without pidfds, some processes of other users), it polls, with pauses of up to half a second. A
    /// check that has begun before the deadline is finished: on Unix that is a pass over the process table.
    ///
    /// Without a deadline this can wait for a process that is not a member, if this process cannot read it: see
    /// [`is_empty`](Self::is_empty).
    ///
    /// # Errors
    ///
    /// As for [`is_empty`](Self::is_empty).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command, std::time::{Duration, Instant}};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// let tree = child.tree().unwrap();
    /// if !tree.wait_empty(Some(Instant::now() + Duration::from_secs(60)))? {
    ///     tree.kill()?;
    /// }
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        Self::wait_each_empty(&[self], deadline).pop().unwrap_or(Ok(true))
    }

    /// Does the same for a batch of trees.
    pub(crate) fn wait_each_empty(
        trees: &[&Self],
        deadline: Option<Instant>,
    ) -> Vec<io::Result<bool>> {
        let empty = Self::each_unless_done(trees, true, |operations, trees| {
            operations.wait_each_empty(trees, deadline)
        });
        for (tree, empty) in trees.iter().zip(&empty) {
            if matches!(empty, Ok(true)) {
                tree.finish();
            }
        }
        empty
    }

    /// Returns a living member of each tree whose leader has exited, `None` if the tree is empty.
    fn survivors(trees: &[&Self]) -> Vec<io::Result<Option<Survivor>>> {
        let survivors =
            Self::each_unless_done(trees, None, |operations, trees| operations.survivors(trees));
        for (tree, survivor) in trees.iter().zip(&survivors) {
            if matches!(survivor, Ok(None)) {
                tree.finish();
            }
        }
        survivors
    }

    /// Returns the process IDs of the tree's living members, in no order.
    ///
    /// The result is for display only. When this returns, an ID may already belong to another process: do not signal
    /// it. A process that cannot be read and may be a member (see [`is_empty`](Self::is_empty)) is not listed.
    ///
    /// # Errors
    ///
    /// As for [`is_empty`](Self::is_empty).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// println!("running: {:?}", child.tree().unwrap().processes()?);
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        self.unless_done(Vec::new(), || self.operations.processes(self))
    }

    /// Returns whether a process can leave the tree, and what holds the tree together.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// println!("containment: {}", child.tree().unwrap().containment());
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn containment(&self) -> Containment {
        self.operations.containment(self)
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.operations.usage(self)
    }

    /// Runs this unless the tree is known to be empty. Drops an error if the tree has become empty meanwhile.
    fn unless_done<T>(&self, done: T, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_done() {
            return Ok(done);
        }
        match run() {
            Err(_) if self.is_done() => Ok(done),
            result => result,
        }
    }

    /// Does the same for several trees, by one call for the trees that are not known to be empty.
    fn each_unless_done<T: Clone>(
        trees: &[&Self],
        done: T,
        run: impl FnOnce(&dyn Operations, &[&Self]) -> Vec<io::Result<T>>,
    ) -> Vec<io::Result<T>> {
        let is_left = |tree: &Self| !tree.is_done();
        let results = for_some(trees, is_left, |trees| run(trees[0].operations, trees));
        let mut all = Vec::new();
        for (tree, result) in trees.iter().zip(results) {
            all.push(match result {
                Some(Err(error)) if !tree.is_done() => Err(error),
                Some(Ok(result)) => Ok(result),
                _ => Ok(done.clone()),
            });
        }
        all
    }

    /// Returns whether the tree is known to be empty.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Called once the status of the leader was returned or is lost.
    pub(crate) fn leader_has_ended(&self) {
        if self.leader.notice().is_none() {
            self.operations.leader_is_reaped(self);
        }
    }

    fn outlives_the_handle(&self) -> bool {
        self.operations.outlives_the_handle(self)
    }

    /// Marks the tree as empty. The container must be notified before the leader is unpinned, and so reaped.
    fn finish(&self) {
        if !self.done.swap(true, Ordering::AcqRel) {
            self.operations.done(self);
            self.leader.unpin();
        }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tree");
        debug
            .field("containment", &self.operations.containment(self))
            .field("empty", &self.is_done());
        debug.finish_non_exhaustive()
    }
}
