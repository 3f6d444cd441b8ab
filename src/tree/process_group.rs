//! Unix: a process group holds the tree together, and optionally a cgroup around the group.
//!
//! The group's ID is the leader's process ID and stays taken while the leader is unreaped. The leader is pinned while
//! the tree may have members, so this library does not reap it, and each signal is sent under the lifecycle's lock. If
//! another part of the program reaps the leader, the exit notice detects that: a pidfd still means the group; without a
//! pidfd the group is not signalled any more.

use super::environment_marker::EnvironmentMarker;
use super::guardian::{self, Bond};
use super::operations::{Operations, Survivor};
use super::processes::{self, Process, Time};
use super::scan::{self, Membership, Target};
use super::{Containment, Leader, Mechanism, Spawned, Tree, Wanted};
use crate::command;
use crate::sort::sort;
use crate::sync::Mutex;
use crate::sys::{FromChild, KillWithParent, Request};
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::unix::process::CommandExt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

/// The options that only some systems offer. A mechanism that a system lacks has no constructor there.
#[derive(Debug, Clone, Default)]
pub(crate) struct SystemOptions {
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
            spawned.leading(ProcessGroup { membership, cgroup, bond }, &ProcessGroups)
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
        leader.signal(&mut |notice| notice.signal(signal))?;
    }
    Ok(true)
}

/// Returns whether a scan has failed because there is no process table.
fn is_unlisted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// A scan that serves a batch of trees.
type Scan<'a, T> = &'a dyn Fn(&[Target<'_>]) -> Vec<io::Result<T>>;

/// Serves the chosen trees by one scan, and each of the other trees by itself.
fn scan_some<T>(
    trees: &[&Tree],
    is_chosen: fn(&Tree) -> bool,
    scan: Scan<'_, T>,
    serve: &dyn Fn(&Tree) -> io::Result<T>,
) -> Vec<io::Result<T>> {
    let mut targets = Vec::new();
    for tree in trees {
        if is_chosen(tree) {
            targets.push(tree.target());
        }
    }
    let mut scanned = if targets.is_empty() { Vec::new() } else { scan(&targets) }.into_iter();
    let mut results = Vec::new();
    for tree in trees {
        let result = if is_chosen(tree) { scanned.next() } else { None };
        results.push(result.unwrap_or_else(|| serve(tree)));
    }
    results
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
            result = self.leader.signal(&mut |notice| notice.signal(*signal)).and(result);
        }
        result
    }

    /// Blocks until the cgroup is empty (`true`), or until the deadline.
    fn wait_cgroup_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        self.cgroup().map_or(Ok(true), |cgroup| cgroup.wait_empty(deadline))
    }

    /// Replaces the error of a scan if there is no process table, so that the cgroup alone decides.
    fn unless_unlisted<T>(&self, scanned: io::Result<T>, otherwise: T) -> io::Result<T> {
        match scanned {
            Err(error) if is_unlisted(&error) && self.cgroup().is_some() => Ok(otherwise),
            scanned => scanned,
        }
    }
}

struct ProcessGroups;

impl ProcessGroups {
    /// Sends each signal once to each process: first to the processes that the cgroups list, then to the others. One scan
    /// serves the trees without a cgroup, and one the others.
    fn signal_each(trees: &[&Tree], signals: &[c_int]) -> Vec<io::Result<()>> {
        let scan = |targets: &[Target<'_>]| scan::signal(targets, signals);
        let mut results = scan_some(trees, |tree| tree.cgroup().is_none(), &scan, &|_| Ok(()));
        let (mut scanned, mut targets, mut all_listed) = (Vec::new(), Vec::new(), Vec::new());
        for (at, tree) in trees.iter().enumerate() {
            let Some(cgroup) = tree.cgroup() else { continue };
            let mut listed = match cgroup.ids() {
                Ok(listed) => listed,
                Err(error) => {
                    // No descriptor is spare to read the list. The leader at least receives the signals.
                    results[at] = tree.signal_leader(signals).and(Err(error));
                    continue;
                }
            };
            for signal in signals {
                let sent = cgroup.signal(&listed, *signal);
                if sent.is_err() {
                    results[at] = sent;
                }
            }
            if tree.is_scanned() {
                sort(&mut listed);
                scanned.push(at);
                targets.push(tree.target());
                all_listed.push(listed);
            }
        }
        if targets.is_empty() {
            return results;
        }
        let sent = scan::signal_unlisted(&targets, &all_listed, signals);
        for ((at, sent), listed) in scanned.into_iter().zip(sent).zip(all_listed) {
            let sent = match sent {
                Err(error) if is_unlisted(&error) => {
                    // The leader may have left the cgroup.
                    let is_listed = listed.contains(&trees[at].container.membership.group());
                    if is_listed { Ok(()) } else { trees[at].signal_leader(signals) }
                }
                sent => sent,
            };
            if results[at].is_ok() {
                results[at] = sent;
            }
        }
        results
    }
}

impl Operations for ProcessGroups {
    fn kill_each(&self, trees: &[&Tree]) -> Vec<io::Result<()>> {
        // The cgroups come first, each as one, then the members that have left them.
        let mut results = Vec::new();
        for tree in trees {
            results.push(tree.cgroup().map_or(Ok(()), |cgroup| cgroup.kill()));
        }
        let rest = scan_some(trees, Tree::is_scanned, &|targets| scan::kill(targets), &|tree| {
            tree.signal_leader(&[libc::SIGKILL])
        });
        for (i, rest) in rest.into_iter().enumerate() {
            if results[i].is_ok() {
                results[i] = rest;
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
        let (mut results, mut pending) = (Vec::new(), Vec::new());
        for at in 0..trees.len() {
            results.push(Ok(true));
            pending.push(at);
        }
        // The cgroups come first, then one scan finds the members that have left them.
        while !pending.is_empty() {
            let (mut scanned, mut targets) = (Vec::new(), Vec::new());
            for at in mem::take(&mut pending) {
                let tree = trees[at];
                results[at] = tree.wait_cgroup_empty(deadline);
                if !matches!(results[at], Ok(true)) {
                    continue;
                }
                if tree.is_scanned() {
                    scanned.push(at);
                    targets.push(tree.target());
                } else {
                    // The leader was in the cgroup, so it is a zombie, or about to be one.
                    results[at] = Ok(!matches!(tree.leader.wait(deadline), Ok(None)));
                }
            }
            if targets.is_empty() {
                break;
            }
            for (at, is_empty) in scanned.into_iter().zip(scan::wait_empty(&targets, deadline)) {
                results[at] = trees[at].unless_unlisted(is_empty, true);
                if matches!(results[at], Ok(true)) {
                    results[at] = trees[at].wait_cgroup_empty(Some(Instant::now()));
                    if matches!(results[at], Ok(false)) {
                        // A process outside the cgroup has returned to it.
                        pending.push(at);
                    }
                }
            }
        }
        results
    }

    fn survivors(&self, trees: &[&Tree]) -> Vec<io::Result<Option<Survivor>>> {
        let (mut results, mut scanned, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (at, tree) in trees.iter().enumerate() {
            results.push(tree.cgroup().map_or(Ok(None), |cgroup| cgroup.survivor()));
            if tree.is_scanned() && matches!(results[at], Ok(None)) {
                scanned.push(at);
                targets.push(tree.target());
            }
        }
        if !targets.is_empty() {
            for (at, survivor) in scanned.into_iter().zip(scan::survivors(&targets)) {
                results[at] = trees[at].unless_unlisted(survivor, None);
            }
        }
        results
    }

    fn processes(&self, tree: &Tree) -> io::Result<Vec<u32>> {
        let mut all = tree.cgroup().map_or(Ok(Vec::new()), |cgroup| cgroup.ids())?;
        if tree.is_scanned() {
            all.extend(tree.unless_unlisted(scan::processes(tree.target()), Vec::new())?);
        }
        sort(&mut all);
        all.dedup();
        let mut ids = Vec::new();
        for id in all {
            ids.push(id as u32);
        }
        Ok(ids)
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

    fn cpu_time(&self, tree: &Tree) -> Option<u64> {
        if let Some(usage) = self.usage(tree) {
            return Some(usage.cpu().as_micros() as u64);
        }
        let mut sum: u64 = 0;
        let mut is_known = false;
        for id in self.processes(tree).ok()? {
            // A member that has ended meanwhile has no time, which changes the sum.
            let time = processes::cpu_time(id as i32);
            is_known |= time.is_some();
            sum = sum.wrapping_add(time.unwrap_or(0));
        }
        is_known.then_some(sum)
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
