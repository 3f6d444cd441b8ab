//! "All it started", one file a mechanism.
//!
//! [`Tree`] is what the public sees, and knows no operating system. `Members` is the platform's
//! implementation of [`Contain`], and everything that is particular to a system stays below it.
//!
//! A tree's *leader* is the child itself. Where the tree is known by the leader's process ID (a process
//! group), the leader is pinned: though it has exited and everybody was told, it is not reaped before the
//! tree is known to be empty, or its handle is gone. So the ID cannot come to mean another group.

mod drop;

#[cfg(unix)]
mod cookie;
#[cfg(unix)]
mod guardian;
#[cfg(unix)]
mod process_group;
#[cfg(unix)]
pub(crate) mod processes;
#[cfg(unix)]
mod scan;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{Members, Survivor, System, spawn};

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod parent_death;
#[cfg(target_os = "linux")]
mod pre_exec;
#[cfg(target_os = "linux")]
pub(crate) use cgroup::Place;

#[cfg(all(unix, not(target_os = "linux")))]
#[path = "no_cgroup.rs"]
mod cgroup;

#[cfg(windows)]
mod job;
#[cfg(windows)]
pub(crate) use job::{Members, Survivor, System, spawn};

pub(crate) use drop::{Owned, sweep};

use crate::exit::{Ask, Exit, FromChild, Notice};
use crate::lifecycle::Lifecycle;
use crate::usage::Usage;
use std::fmt;
use std::io;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The child that leads a tree.
pub(crate) type Leader = Lifecycle<Child, Notice>;

/// What a spawn is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) tree: bool,
    pub(crate) kill_with_parent: bool,
    /// What only some systems offer.
    pub(crate) system: System,
}

/// What a platform's spawn answers.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    /// What the child has sent of itself.
    pub(crate) from_child: Option<FromChild>,
    /// What keeps the tree together, or just the child tied to this process.
    pub(crate) members: Option<Members>,
    /// Whether it is the former.
    pub(crate) is_tree: bool,
    /// Whether the child can be asked to end, rather than be killed.
    pub(crate) can_be_asked: bool,
}

/// The members of one tree of a batch, with its leader.
pub(crate) type One<'a, M> = (&'a M, &'a Leader);

/// What keeps the members of a tree together.
///
/// Everything that uses the leader's process ID does so under the lifecycle's lock, and while the leader is unreaped: see
/// [`Lifecycle::signal`]. What takes a look at all processes of the machine is done for a batch of trees at once, and
/// answers for each.
pub(crate) trait Contain: Send + Sync + Sized + 'static {
    /// Whether the leader's process ID must stay taken until the tree is empty.
    fn pins_the_leader(&self) -> bool;

    /// Kills all members, and those that they start meanwhile. Does not wait for their end.
    fn kill(trees: &[One<'_, Self>]) -> Vec<io::Result<()>>;

    /// The part of [`kill`](Self::kill) that takes a few system calls. Returns whether something is left for it to do.
    fn kill_at_once(&self, leader: &Leader) -> bool;

    /// Requests all members to terminate, if the child can be requested. Returns whether a request can have arrived.
    fn ask(trees: &[One<'_, Self>], ask: Ask) -> Vec<io::Result<bool>>;

    /// Blocks until no member is left (`true`), or until the deadline. Every tree is looked at once at least.
    fn wait_empty(trees: &[One<'_, Self>], deadline: Option<Instant>) -> Vec<io::Result<bool>>;

    /// A living member of each tree whose leader has exited. `None` if the tree is empty.
    fn survivors(trees: &[One<'_, Self>]) -> Vec<io::Result<Option<Survivor>>>;

    /// The members that live.
    fn processes(&self, leader: &Leader) -> io::Result<Vec<u32>>;

    fn containment(&self) -> Containment;

    /// What all members have used, also those that have ended: up to now, or up to the end of the tree. `None` where that
    /// is not counted.
    fn usage(&self) -> Option<Usage>;

    /// The handle is gone. Returns whether the tree must be watched to its end all the same.
    fn outlives_the_handle(&self) -> bool;

    /// The leader's ID may get a new owner, and members may be left.
    fn leader_is_gone(&self);

    /// The tree is empty. Comes before the leader's ID can get a new owner.
    fn done(&self);
}

/// A child and all that it has started, as one.
///
/// From [`SharedChild::tree`](crate::SharedChild::tree), for a child that was spawned with
/// [`SpawnOptions::tree`](crate::SpawnOptions::tree). Everything works before, during and after the exit
/// of the child itself (the *leader*), also after it was waited for, and from any number of threads.
///
/// # What holds a tree together
///
/// - **Windows**: a job object, which the child joins before its first instruction. No process can leave it,
///   and its end is the end of all: containment is *complete*.
/// - **Linux with a cgroup** of its own
///   (`linux::SpawnOptionsExt::cgroup`): the same, but for a process that may write to the cgroup above, and
///   moves itself there.
/// - **Linux otherwise**: a process group; and those that have left it are found through their parents, and
///   by a variable in their environment, `SHARED_CHILD_TREE`, which all inherit. Somebody who leaves the
///   group *and* empties the environment (or overwrites it, as some servers do to be listed by another name)
///   *and* whose parent is gone is not found: *best effort*.
/// - **macOS, FreeBSD, NetBSD, DragonFly**: a process group, and those that have left it are found through
///   their parents. *Best effort*.
/// - **Other Unix**: a process group. *Best effort*, and the system is not asked who is in it.
///
/// # Who is not to belong to it
///
/// A server that is meant to outlive the build or the test which has started it (a compiler's cache, say) is a
/// member like any other. On Linux without a cgroup it is none if it is started in a session of its own,
/// without that variable, and by a process that then ends: `env -u SHARED_CHILD_TREE setsid --fork server`.
///
/// # At a terminal
///
/// On Unix a tree is a process group of its own, so it is in the background: Ctrl-C does not reach it (pass it
/// on, by [`stop`](crate::SharedChild::stop)), and whoever reads from the terminal is stopped by SIGTTIN. On
/// Windows Ctrl-C does not reach it either, since it is a console group of its own.
///
/// # The leader's process ID
///
/// Where the tree is known by its process group, the leader stays a zombie after its exit until the tree is
/// known to be empty ([`is_empty`](Self::is_empty), [`wait_empty`](Self::wait_empty),
/// [`stop`](crate::SharedChild::stop)), or the handle is dropped. While it is there, no other group can have
/// its ID, and so none can be hit.
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
/// let tree = child.tree().expect("it was asked for");
/// tree.kill()?; // the shell, and both that it has started
/// assert!(tree.wait_empty(None)?);
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Tree {
    /// Before the leader, whose ID can be another's once that is gone: the guardian is told first.
    members: Members,
    leader: Leader,
    /// It was asked for; otherwise this is only how a single child is tied to this process.
    public: bool,
    /// Nobody is left, and nobody can come.
    done: AtomicBool,
}

impl Tree {
    pub(crate) fn new(leader: Leader, members: Members, public: bool) -> Self {
        if members.pins_the_leader() {
            leader.pin();
        }
        let is_gone = leader.notice().is_none();
        let tree = Self { leader, members, public, done: AtomicBool::new(false) };
        // Where only a reap tells of an exit, or somebody else was quicker.
        if is_gone {
            tree.told();
        }
        tree
    }

    pub(crate) fn leader(&self) -> &Leader {
        &self.leader
    }

    pub(crate) fn into_leader(self) -> Leader {
        self.leader
    }

    /// Kills every process of the tree, with SIGKILL or `TerminateJobObject`: all that there are, and those
    /// that they start meanwhile. Does nothing, successfully, once the tree is empty.
    ///
    /// They have been killed when this returns, but may still be on their way out:
    /// [`wait_empty`](Self::wait_empty) if it matters. On Linux without a cgroup this looks through `/proc`
    /// until it finds nobody new.
    ///
    /// # Errors
    ///
    /// The operating system's, such as a lack of permission for a member that now belongs to another user.
    /// All the others have been killed by then.
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

    /// The same for a batch of trees.
    pub(crate) fn kill_each(trees: &[&Self]) -> Vec<io::Result<()>> {
        Self::each_unless_done(trees, || (), Contain::kill)
    }

    pub(crate) fn kill_at_once(&self) -> bool {
        if !self.public {
            // A single child: not the processes that it has started.
            let _ = self.leader.signal(Notice::kill);
            return false;
        }
        self.members.kill_at_once(&self.leader)
    }

    /// Requests every process of each tree to terminate. Returns whether a request can have arrived.
    pub(crate) fn ask_each(trees: &[&Self], ask: Ask) -> Vec<io::Result<bool>> {
        Self::each_unless_done(trees, || false, |trees| Contain::ask(trees, ask))
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: std::ffi::c_int) -> io::Result<()> {
        self.unless_done((), || self.members.signal(&self.leader, signal))
    }

    /// Whether no process of the tree is left. Zombies do not count, nor do processes that are not found
    /// (see [containment](Self::containment)).
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) where the system does not tell who is in a process group,
    /// and on Linux without `/proc`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// assert!(child.tree().unwrap().wait_empty(None)?); // those that it had started as well
    /// assert!(child.tree().unwrap().is_empty()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_empty(&self) -> io::Result<bool> {
        self.wait_empty(Some(Instant::now()))
    }

    /// Blocks until no process of the tree is left, or until the deadline: `false` if there are some then.
    ///
    /// Looks at least once. Blocks in the kernel for as long as somebody is there to be waited for; where the
    /// system cannot do that (Linux without pidfds, some processes of other users), it polls, slower and
    /// slower, up to 50 times a second. On Linux without a cgroup a look takes seconds, past the deadline, while
    /// some process is stuck in the middle of an exec, since it cannot be told whether that is a member.
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

    /// The same for a batch of trees.
    pub(crate) fn wait_each_empty(
        trees: &[&Self],
        deadline: Option<Instant>,
    ) -> Vec<io::Result<bool>> {
        let empty =
            Self::each_unless_done(trees, || true, |trees| Contain::wait_empty(trees, deadline));
        for (tree, empty) in trees.iter().zip(&empty) {
            if matches!(empty, Ok(true)) {
                tree.finish();
            }
        }
        empty
    }

    /// A living member of each tree whose leader has exited; `None` if the tree is empty.
    fn survivors(trees: &[&Self]) -> Vec<io::Result<Option<Survivor>>> {
        let survivors = Self::each_unless_done(trees, || None, Contain::survivors);
        for (tree, survivor) in trees.iter().zip(&survivors) {
            if matches!(survivor, Ok(None)) {
                tree.finish();
            }
        }
        survivors
    }

    /// The process IDs of the tree's living processes, in no order.
    ///
    /// For display. By the time that you have them, some may be other processes'; do not signal them.
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
        self.unless_done(Vec::new(), || self.members.processes(&self.leader))
    }

    /// Whether any process can leave the tree, and what holds it together.
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
        self.members.containment()
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.members.usage()
    }

    pub(crate) fn is_public(&self) -> bool {
        self.public
    }

    /// Runs this unless the tree is known to be empty. An error is none if the tree turns out to be empty meanwhile.
    fn unless_done<T>(&self, done: T, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_done() {
            return Ok(done);
        }
        match run() {
            Err(_) if self.is_done() => Ok(done),
            result => result,
        }
    }

    /// The same for a batch: runs this for the trees that are not known to be empty.
    fn each_unless_done<T>(
        trees: &[&Self],
        done: impl Fn() -> T,
        run: impl FnOnce(&[One<'_, Members>]) -> Vec<io::Result<T>>,
    ) -> Vec<io::Result<T>> {
        let left: Vec<_> = trees.iter().filter(|tree| !tree.is_done()).collect();
        let batch: Vec<_> = left.iter().map(|tree| (&tree.members, &tree.leader)).collect();
        let mut answers = if batch.is_empty() { Vec::new() } else { run(&batch) }.into_iter();
        let mut left = left.into_iter().peekable();
        let answer = |tree: &&Self| {
            // By address: a batch may be of any trees, in any order.
            if left.next_if(|next| std::ptr::eq(**next, *tree)).is_none() {
                return Ok(done());
            }
            match answers.next() {
                Some(Err(_)) if tree.is_done() => Ok(done()),
                Some(answer) => answer,
                None => Ok(done()),
            }
        };
        trees.iter().map(answer).collect()
    }

    /// Nobody is left, for certain.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The leader's status has been told, or is lost. For a single child that is the end.
    pub(crate) fn told(&self) {
        if !self.public {
            self.finish();
        } else if self.leader.notice().is_none() {
            self.members.leader_is_gone();
        }
    }

    /// Nobody is left. The order matters: whoever goes by the leader's ID is told first.
    fn finish(&self) {
        if !self.done.swap(true, Ordering::AcqRel) {
            self.members.done();
            self.leader.unpin();
        }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tree");
        debug.field("containment", &self.members.containment()).field("empty", &self.is_done());
        debug.finish_non_exhaustive()
    }
}

/// How well a [`Tree`] holds together.
///
/// # Examples
///
/// ```
/// use shared_child::{Containment, Tree};
///
/// fn warn(tree: &Tree) {
///     if let Containment::BestEffort { by } = tree.containment() {
///         eprintln!("a determined process can escape from a {by}");
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// No process leaves the tree, whatever it does. (A cgroup takes permission to be left: see [`Tree`].)
    Complete {
        /// What guarantees it.
        by: Mechanism,
    },
    /// A process that tries hard enough leaves the tree. [`Tree`] says how.
    BestEffort {
        /// What is there instead.
        by: Mechanism,
    },
}

impl Containment {
    /// Whether this is [`Containment::Complete`].
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Containment, Mechanism};
    ///
    /// assert!(Containment::Complete { by: Mechanism::JobObject }.is_complete());
    /// assert!(!Containment::BestEffort { by: Mechanism::ProcessGroup }.is_complete());
    /// ```
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Complete { .. })
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete { by } => write!(f, "complete, by a {by}"),
            Self::BestEffort { by } => write!(f, "best effort, by a {by}"),
        }
    }
}

/// What holds a [`Tree`] together.
///
/// # Examples
///
/// ```
/// assert_eq!(shared_child::Mechanism::ProcessGroup.to_string(), "process group");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mechanism {
    /// A Linux cgroup v2 of its own.
    Cgroup,
    /// A Windows job object.
    JobObject,
    /// A process group, and the system is asked for those that have left it.
    ProcessGroupAndSweep,
    /// A process group.
    ProcessGroup,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::JobObject => "job object",
            Self::ProcessGroupAndSweep => "process group and a sweep",
            Self::ProcessGroup => "process group",
        })
    }
}
