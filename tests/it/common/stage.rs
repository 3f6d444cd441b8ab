//! Unix: trees of helper programs. Each member prints its process ID, and the system shows whether it lives.

use super::{HELPER, LONG, helper, unix, until};
pub(crate) use super::{given, parts, start};
#[cfg(target_os = "linux")]
use shared_child::linux::SpawnOptionsExt;
use shared_child::seam::Backend;
use shared_child::{SharedChild, SpawnOptions, Tree};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Whether the library lists the processes of a tree, and so finds the children of its members outside the group.
pub(crate) const LISTS: bool = FINDS_DAEMONS
    || cfg!(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "dragonfly"
    ));

/// Returns whether the library lists the processes of a tree. If not, prints that the test is skipped.
pub(crate) fn lists(test: &str) -> bool {
    if !LISTS {
        eprintln!("{test} skipped: trees are not listed on this system");
    }
    LISTS
}

/// Whether the library finds a member outside the group though its parent has exited: by its environment.
pub(crate) const FINDS_DAEMONS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The mechanism that contains a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group(Backend),
    #[cfg(target_os = "linux")]
    Cgroup,
}

impl Kind {
    /// Every kind that this system has, for a test of all members of a tree: none where the library does not list
    /// them.
    pub(crate) fn all(test: &str) -> Vec<Self> {
        if !lists(test) {
            return Vec::new();
        }
        Self::groups().into_iter().chain(Self::cgroup(test)).collect()
    }

    pub(crate) fn groups() -> Vec<Self> {
        Backend::ALL.iter().copied().map(Self::Group).collect()
    }

    #[cfg(not(target_os = "linux"))]
    fn cgroup(_: &str) -> Option<Self> {
        None
    }

    /// Prints a line if cgroups are not available.
    #[cfg(target_os = "linux")]
    fn cgroup(test: &str) -> Option<Self> {
        let trial = SpawnOptions::new().cgroup(true).spawn(&mut helper(&["exit", "0"]));
        match trial {
            Ok(child) => {
                super::wait(&child);
                Some(Self::Cgroup)
            }
            Err(error) => {
                assert!(!unix::is_root(), "root can make cgroups: {error}");
                eprintln!("{test}, with cgroups skipped: {error}");
                None
            }
        }
    }

    pub(crate) fn spawn(self, options: &SpawnOptions, command: &mut Command) -> SharedChild {
        let mut options = options.clone();
        let backend = match self {
            Self::Group(backend) => backend,
            #[cfg(target_os = "linux")]
            Self::Cgroup => Backend::ALL[0],
        };
        options.tree(true);
        #[cfg(target_os = "linux")]
        options.cgroup(self == Self::Cgroup);
        backend.spawn_with(&options, command).expect("to spawn")
    }
}

/// The kinds of trees for the helper program's part "owner" that are killed with their parent.
#[cfg(target_os = "linux")]
pub(crate) fn tied_kinds(test: &str) -> Vec<&'static str> {
    if Kind::all(test).contains(&Kind::Cgroup) { vec!["tree", "tree-cgroup"] } else { vec!["tree"] }
}

/// A child, and the processes of the helper program below it that have printed their process IDs.
pub(crate) struct Stage {
    pub(crate) child: SharedChild,
    /// All members read their input to the end.
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) said: BufReader<ChildStdout>,
    pub(crate) pids: Helpers,
    unheard: Vec<String>,
}

impl Stage {
    /// Returns when this many members have printed their process IDs.
    pub(crate) fn set(kind: Kind, parts: &[String], members: usize) -> Self {
        Self::set_with(kind, &SpawnOptions::new(), parts, members)
    }

    pub(crate) fn set_with(
        kind: Kind,
        options: &SpawnOptions,
        parts: &[String],
        members: usize,
    ) -> Self {
        Self::of(|command| kind.spawn(options, command), &mut helper(parts), members)
    }

    /// Starts a child that is not a tree.
    pub(crate) fn single(parts: &[String], members: usize) -> Self {
        let spawn = |command: &mut Command| SharedChild::spawn(command).expect("to spawn");
        Self::of(spawn, &mut helper(parts), members)
    }

    pub(crate) fn of(
        spawn: impl FnOnce(&mut Command) -> SharedChild,
        command: &mut Command,
        members: usize,
    ) -> Self {
        let child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdin = child.take_stdin();
        let said = BufReader::new(child.take_stdout().expect("a pipe"));
        let mut stage = Self { child, stdin, said, pids: Helpers::default(), unheard: Vec::new() };
        for _ in 0..members {
            let pid = stage.hear("pid ");
            stage.pids.0.push(pid.parse().expect("a process ID"));
        }
        stage
    }

    /// Returns the rest of the next line with this prefix. Other lines are kept: members print in any order.
    pub(crate) fn hear(&mut self, beginning: &str) -> String {
        let mut next = self.unheard.iter().position(|line| line.starts_with(beginning));
        while next.is_none() {
            let mut line = String::new();
            let length = self.said.read_line(&mut line).expect("to hear");
            assert_ne!(length, 0, "they ended before they said {beginning:?}");
            next = line.starts_with(beginning).then_some(self.unheard.len());
            self.unheard.push(line);
        }
        let line = self.unheard.remove(next.expect("there is one"));
        line[beginning.len()..].trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn tree(&self) -> &Tree {
        self.child.tree().expect("a tree")
    }

    pub(crate) fn survivors(&self) -> Vec<u32> {
        self.pids.alive()
    }

    #[track_caller]
    pub(crate) fn wait_empty(&self) {
        let empty = self.tree().wait_empty(Some(Instant::now() + LONG)).expect("to wait");
        assert!(empty, "still there: {:?}", self.tree().processes());
    }

    /// Checks in every way that no member is left.
    #[track_caller]
    pub(crate) fn is_empty(&self) {
        self.wait_empty();
        // The message shows the kernel's record of each survivor.
        let stat = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat"));
        let left: Vec<_> = self.survivors().into_iter().map(stat).collect();
        assert!(left.is_empty(), "{left:?}, of {:?}", self.pids.0);
        assert_eq!(self.tree().processes().expect("a list"), [] as [u32; 0]);
        assert!(self.tree().is_empty().expect("an answer"));
    }

    /// Separates the handle from the rest.
    pub(crate) fn take_child(self) -> (SharedChild, Rest) {
        #[cfg(target_os = "linux")]
        let cgroup = self.pids.0.first().and_then(|pid| super::linux::tree_cgroup_of(*pid));
        #[cfg(not(target_os = "linux"))]
        let cgroup = None;
        (self.child, Rest { helpers: self.pids, stdin: self.stdin, cgroup, _said: self.said })
    }

    #[track_caller]
    pub(crate) fn until_all_have_ended(&self) {
        until("all have ended", || self.survivors().is_empty());
    }
}

/// Processes of the helper program. A drop kills the living ones.
#[derive(Debug, Default)]
pub(crate) struct Helpers(pub(crate) Vec<u32>);

impl Helpers {
    pub(crate) fn alive(&self) -> Vec<u32> {
        self.0.iter().copied().filter(|pid| unix::is_alive(*pid)).collect()
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.alive().into_iter().for_each(kill_a_helper);
    }
}

/// Kills a process if it runs the helper program.
pub(crate) fn kill_a_helper(pid: u32) {
    if unix::runs(pid, OsStr::new(HELPER)) {
        // SAFETY: plain integers. The process was ours a moment ago.
        unsafe { libc::kill(unix::pid_t(pid), libc::SIGKILL) };
    }
}

/// The rest of a stage after its handle is taken.
pub(crate) struct Rest {
    helpers: Helpers,
    stdin: Option<ChildStdin>,
    /// This process removes the cgroup in the background, so it must live until then.
    cgroup: Option<PathBuf>,
    /// Kept open: a member that writes must not find it closed.
    _said: BufReader<ChildStdout>,
}

impl Rest {
    pub(crate) fn survivors(&self) -> usize {
        self.helpers.alive().len()
    }

    #[track_caller]
    pub(crate) fn end(mut self) {
        self.stdin = None;
        until("all have ended", || self.survivors() == 0);
    }
}

impl Rest {
    /// Takes the cgroup's path, so that the drop does not wait for its removal.
    pub(crate) fn take_cgroup(&mut self) -> Option<PathBuf> {
        self.cgroup.take()
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let (Some(cgroup), false) = (&self.cgroup, std::thread::panicking()) {
            until("the cgroup is removed", || !cgroup.exists());
        }
    }
}

/// A part that starts a daemon, in a session of its own, whose parent exits.
pub(crate) fn daemon(theirs: &str) -> Vec<String> {
    given("run", &[parts("setsid"), start(theirs)].concat())
}

/// A daemon where the library finds one; elsewhere a child that stays in the group of its parent.
pub(crate) fn findable_daemon(theirs: &str) -> Vec<String> {
    if FINDS_DAEMONS { daemon(theirs) } else { start(theirs) }
}
