//! Unix: a process group holds the tree together, and optionally a cgroup around the group.
//!
//! The group's ID is the leader's process ID and stays taken while the leader is unreaped. The leader is pinned while
//! the tree may have members, so this library does not reap it, and each signal is sent under the lifecycle's lock. If
//! another part of the program reaps the leader, the exit notice detects that: a pidfd still means the group; without a
//! pidfd the group is not signalled any more.

use super::environment_marker::EnvironmentMarker;
use super::guardian::{self, Bond};
use super::operations::{Operations, Survivor, for_some};
use super::processes::{self, Process, Time};
use super::scan::{self, Membership, Target};
use super::{Containment, Leader, Mechanism, Spawned, Tree, Wanted};
use crate::command;
use crate::sync::Mutex;
use crate::sys::{FromChild, KillWithParent, Request};
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::os::unix::process::CommandExt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

/// The options that only some systems offer. A mechanism that a system lacks has no constructor there.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    /// Creates a cgroup for the tree, below this directory if there is one.
    pub(crate) cgroup: Option<(CreateCgroup, Option<PathBuf>)>,
    /// Spawns a child that sends its own pidfd.
    pub(crate) spawn_with_pidfd: Option<SpawnChild>,
    /// For the tests: assume that the system sends no signal at the death of a parent.
    pub(crate) no_parent_death_signal: bool,
    /// For the tests: assume that the system shows no environments.
    pub(crate) no_marker: bool,
}

/// A child, and its pidfd if it has sent one.
pub(super) type NewChild = (Child, Option<FromChild>);

type SpawnChild = fn(&mut Command) -> io::Result<NewChild>;

type CreateCgroup = fn(Option<&Path>, &EnvironmentMarker) -> io::Result<Box<dyn Cgroup>>;

/// A cgroup that the leader enters before exec.
pub(crate) trait Cgroup: Send + Sync + UnwindSafe + RefUnwindSafe {
    fn directory(&self) -> &Path;

    /// Spawns the command in the cgroup.
    fn spawn(&mut self, command: &mut Command) -> io::Result<NewChild>;

    /// Returns whether no member can leave the cgroup.
    fn is_complete(&self) -> bool;

    /// Kills the members at once, in one system call or two. Some members may survive that.
    fn kill_once(&self);

    /// Kills all members, and the processes that they fork meanwhile.
    fn kill(&self) -> io::Result<()>;

    /// Returns the process IDs of the members, and of the members of cgroups below.
    fn ids(&self) -> io::Result<Vec<i32>>;

    /// Signals the processes of this list that are still in the cgroup.
    fn signal(&self, ids: &[i32], signal: c_int) -> io::Result<()>;

    /// Blocks until no member is left (`true`), or until the deadline.
    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool>;

    /// Returns a living member.
    fn survivor(&self) -> io::Result<Option<Process>>;

    fn usage(&self) -> Option<Usage>;

    /// Removes the cgroup if it is empty. Returns whether it has been removed.
    fn remove(&self) -> bool;
}

pub(crate) struct ProcessGroup {
    membership: Membership,
    cgroup: Option<Box<dyn Cgroup>>,
    /// The charge with which the guardian kills the tree when this process dies.
    bond: Mutex<Option<Bond>>,
}

/// Spawns a tree, or a single child that needs more than [`Command::spawn`].
pub(crate) fn spawn(wanted: &Wanted, command: &mut Command) -> io::Result<Spawned> {
    let is_tree = wanted.tree || wanted.system.cgroup.is_some();
    if !is_tree && !wanted.kill_with_parent {
        return Ok(Spawned::single(spawn_plain(wanted, command)?));
    }
    #[cfg(target_os = "linux")]
    if !is_tree && !wanted.system.no_parent_death_signal {
        return Ok(Spawned::single(super::parent_death::spawn(command)?));
    }
    let since = Time::now();
    let marker = EnvironmentMarker::new();
    let mut cgroup = match &wanted.system.cgroup {
        Some((create, parent)) => Some(create(parent.as_deref(), &marker)?),
        None => None,
    };
    // The processes that a single child starts may outlive this process, so they carry no marker.
    let is_marked = is_tree && processes::has_environments() && !wanted.system.no_marker;
    let marker = Some(marker).filter(|_| is_marked);
    let mut bond = if wanted.kill_with_parent {
        Some(guardian::watch(marker.as_ref(), cgroup.as_ref().map(|cgroup| cgroup.directory()))?)
    } else {
        None
    };
    command.process_group(0);
    let before = marker.as_ref().map(|marker| marker.mark(command));
    let spawned = match &mut cgroup {
        Some(cgroup) => cgroup.spawn(command),
        None => spawn_plain(wanted, command),
    };
    // The spawn does not unwind: a panic of std is an error (`command.rs`).
    if let Some(before) = before {
        before.restore(command);
    }
    let (child, from_child) = spawned?;
    if let Some(bond) = &mut bond {
        bond.set_group(Some(child.id()));
    }
    let membership = Membership::new(child.id(), marker, since);
    let spawned = Spawned::single((child, from_child));
    Ok(match bond {
        Some(bond) if !is_tree => Spawned { kill_with_parent: KillWithParent::by(bond), ..spawned },
        bond => {
            let bond = Mutex::new(bond);
            spawned.leading(ProcessGroup { membership, cgroup, bond }, &Groups)
        }
    })
}

fn spawn_plain(wanted: &Wanted, command: &mut Command) -> io::Result<NewChild> {
    match wanted.system.spawn_with_pidfd {
        Some(spawn) => spawn(command),
        None => Ok((command::spawn(command)?, None)),
    }
}

/// Requests a single child to terminate. Returns whether the child can have received the request.
pub(crate) fn request(leader: &Leader, request: Request) -> io::Result<bool> {
    for signal in request.signals() {
        leader.signal(|notice| notice.signal(signal))?;
    }
    Ok(true)
}

/// Returns whether a scan has failed because there is no process table.
fn is_unlisted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// Serves the chosen trees by one scan.
fn scan_some<T>(
    trees: &[&Tree],
    is_chosen: impl Fn(&Tree) -> bool,
    scan: impl FnOnce(&[Target<'_>]) -> Vec<T>,
) -> Vec<Option<T>> {
    for_some(trees, is_chosen, |trees| {
        let mut targets = Vec::new();
        for tree in trees {
            targets.push(tree.target());
        }
        scan(&targets)
    })
}

impl Tree {
    fn cgroup(&self) -> Option<&dyn Cgroup> {
        self.container.cgroup.as_deref()
    }

    fn target(&self) -> Target<'_> {
        Target { membership: &self.container.membership, leader: &self.leader }
    }

    /// Returns whether a member can be outside the cgroup.
    fn is_scanned(&self) -> bool {
        self.cgroup().is_none_or(|cgroup| !cgroup.is_complete())
    }

    fn signal_leader(&self, signals: &[c_int]) -> io::Result<()> {
        let mut result = Ok(());
        for signal in signals {
            result = self.leader.signal(|notice| notice.signal(*signal)).and(result);
        }
        result
    }

    /// Sends each signal once to each process: first to the processes that the cgroup lists, then to the others.
    fn signal_with_cgroup(&self, cgroup: &dyn Cgroup, signals: &[c_int]) -> io::Result<()> {
        let mut listed = match cgroup.ids() {
            Ok(listed) => listed,
            // No descriptor is spare to read the list. The leader at least receives the signals.
            Err(error) => return self.signal_leader(signals).and(Err(error)),
        };
        let mut result = Ok(());
        for signal in signals {
            result = cgroup.signal(&listed, *signal).and(result);
        }
        if !self.is_scanned() {
            return result;
        }
        listed.sort_unstable();
        result.and(match scan::signal_unlisted(self.target(), &listed, signals) {
            Err(error) if is_unlisted(&error) => {
                // The leader may have left the cgroup.
                let is_listed = listed.contains(&self.container.membership.group());
                if is_listed { Ok(()) } else { self.signal_leader(signals) }
            }
            sent => sent,
        })
    }

    fn wait_empty_with_cgroup(
        &self,
        cgroup: &dyn Cgroup,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        loop {
            if !cgroup.wait_empty(deadline)? {
                return Ok(false);
            }
            if !self.is_scanned() {
                // The leader was in the cgroup, so it is a zombie, or about to be one.
                return Ok(!matches!(self.leader.wait(deadline), Ok(None)));
            }
            let is_empty = match scan::wait_empty(&[self.target()], deadline).pop() {
                Some(Err(error)) if !is_unlisted(&error) => return Err(error),
                Some(Ok(is_empty)) => is_empty,
                _ => true,
            };
            // A process outside the cgroup may have returned to it.
            if !is_empty || cgroup.wait_empty(Some(Instant::now()))? {
                return Ok(is_empty);
            }
        }
    }

    /// Returns a member that is in the cgroup or has left it.
    fn survivor_of_cgroup(&self, cgroup: &dyn Cgroup) -> io::Result<Option<Survivor>> {
        let survivor = cgroup.survivor()?;
        if survivor.is_some() || !self.is_scanned() {
            return Ok(survivor);
        }
        match scan::survivors(&[self.target()]).pop() {
            Some(Err(error)) if !is_unlisted(&error) => Err(error),
            Some(Ok(survivor)) => Ok(survivor),
            _ => Ok(None),
        }
    }
}

struct Groups;

impl Groups {
    /// Serves the trees without a cgroup by one scan, and each tree with a cgroup by itself.
    fn each<T>(
        trees: &[&Tree],
        scan: impl FnOnce(&[Target<'_>]) -> Vec<io::Result<T>>,
        with_cgroup: impl Fn(&Tree, &dyn Cgroup) -> io::Result<T>,
    ) -> Vec<io::Result<T>> {
        let scanned = scan_some(trees, |tree| tree.cgroup().is_none(), scan);
        let mut results = Vec::new();
        for (tree, scanned) in trees.iter().zip(scanned) {
            results.push(match (scanned, tree.cgroup()) {
                (None, Some(cgroup)) => with_cgroup(tree, cgroup),
                (scanned, _) => scanned.expect("a tree without a cgroup was scanned"),
            });
        }
        results
    }

    fn signal_each(trees: &[&Tree], signals: &[c_int]) -> Vec<io::Result<()>> {
        Self::each(
            trees,
            |targets| scan::signal(targets, signals),
            |tree, cgroup| tree.signal_with_cgroup(cgroup, signals),
        )
    }
}

impl Operations for Groups {
    fn kill_each(&self, trees: &[&Tree]) -> Vec<io::Result<()>> {
        // The cgroups come first, each as one, then the members that have left them.
        let mut results = Vec::new();
        for tree in trees {
            results.push(tree.cgroup().map_or(Ok(()), |cgroup| cgroup.kill()));
        }
        let scanned = scan_some(trees, Tree::is_scanned, scan::kill);
        for ((tree, result), scanned) in trees.iter().zip(&mut results).zip(scanned) {
            let rest = scanned.unwrap_or_else(|| tree.signal_leader(&[libc::SIGKILL]));
            if result.is_ok() {
                *result = rest;
            }
        }
        results
    }

    fn kill_at_once(&self, tree: &Tree) -> bool {
        if let Some(cgroup) = tree.cgroup() {
            cgroup.kill_once();
        }
        let scans = processes::usable();
        // Without a marker, a scan finds members outside the group by their parents, so the group must not die first.
        if tree.container.membership.is_marked() || !scans {
            // The full kill meets an error again.
            let _ = tree.target().signal_group(libc::SIGKILL);
        }
        scans || tree.cgroup().is_some()
    }

    fn request_each(&self, trees: &[&Tree], request: Request) -> Vec<io::Result<bool>> {
        let mut results = Vec::new();
        for sent in Self::signal_each(trees, &request.signals()) {
            results.push(sent.map(|()| true));
        }
        results
    }

    fn signal(&self, tree: &Tree, signal: c_int) -> io::Result<()> {
        Self::signal_each(&[tree], &[signal]).pop().unwrap_or(Ok(()))
    }

    fn wait_each_empty(&self, trees: &[&Tree], deadline: Option<Instant>) -> Vec<io::Result<bool>> {
        Self::each(
            trees,
            |targets| scan::wait_empty(targets, deadline),
            |tree, cgroup| tree.wait_empty_with_cgroup(cgroup, deadline),
        )
    }

    fn survivors(&self, trees: &[&Tree]) -> Vec<io::Result<Option<Survivor>>> {
        Self::each(trees, scan::survivors, Tree::survivor_of_cgroup)
    }

    fn processes(&self, tree: &Tree) -> io::Result<Vec<u32>> {
        let mut all = tree.cgroup().map_or(Ok(Vec::new()), |cgroup| cgroup.ids())?;
        if tree.is_scanned() {
            match scan::processes(tree.target()) {
                Err(error) if is_unlisted(&error) && tree.cgroup().is_some() => {}
                scanned => all.extend(scanned?),
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all.into_iter().map(i32::unsigned_abs).collect())
    }

    fn containment(&self, tree: &Tree) -> Containment {
        match tree.cgroup() {
            Some(cgroup) if cgroup.is_complete() => Containment::Complete { by: Mechanism::Cgroup },
            Some(_) => Containment::BestEffort { by: Mechanism::Cgroup },
            None if processes::usable() => {
                Containment::BestEffort { by: Mechanism::ProcessGroupAndScan }
            }
            None => Containment::BestEffort { by: Mechanism::ProcessGroup },
        }
    }

    fn usage(&self, tree: &Tree) -> Option<Usage> {
        tree.cgroup()?.usage()
    }

    fn outlives_the_handle(&self, tree: &Tree) -> bool {
        tree.container.bond.lock().is_some() || tree.cgroup().is_some_and(|cgroup| !cgroup.remove())
    }

    fn leader_is_reaped(&self, tree: &Tree) {
        if let Some(bond) = &mut *tree.container.bond.lock() {
            bond.set_group(None);
        }
    }

    fn done(&self, tree: &Tree) {
        drop(tree.container.bond.lock().take());
        if let Some(cgroup) = tree.cgroup() {
            cgroup.remove();
        }
    }
}
