//! Unix: a process group holds the tree together, and optionally a cgroup around the group.
//!
//! The group's ID is the leader's process ID and stays taken while the leader is unreaped. The leader is pinned while
//! the tree may have members, so this library does not reap it, and each signal is sent under the lifecycle's lock. If
//! another part of the program reaps the leader, the exit notice detects that: a pidfd still means the group; without a
//! pidfd the group is not signalled any more.

use super::environment_marker::EnvironmentMarker;
use super::guardian::{self, Bond};
use super::processes::{self, Process, Time};
use super::scan::{self, Membership, Target};
use super::{Container, Containment, Leader, Mechanism, One, Spawned, Wanted};
use crate::command;
use crate::sync::Mutex;
use crate::sys::{FromChild, KillWithParent, Request};
use crate::usage::Usage;
use std::any::Any;
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

struct ProcessGroup {
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
            spawned.leading(Box::new(ProcessGroup { membership, cgroup, bond }))
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

/// A member of a tree that lived when a scan found it.
pub(crate) type Survivor = Process;

type OneGroup<'a> = (&'a ProcessGroup, &'a Leader);

/// Returns the trees of a batch. All containers of this system have this type.
fn groups<'a>(trees: &[One<'a>]) -> Vec<OneGroup<'a>> {
    let group = |container: &'a dyn Container| container.as_any().downcast_ref();
    let groups = trees.iter().map(|(container, leader)| Some((group(*container)?, *leader)));
    groups.map(|group| group.expect("the containers of a batch have one type")).collect()
}

/// Calls `otherwise` if the scan has failed because there is no process table.
fn unless_unlisted<T>(
    scanned: io::Result<T>,
    otherwise: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match scanned {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => otherwise(),
        scanned => scanned,
    }
}

/// Serves some trees of a batch by one scan, and each of the other trees by itself.
fn scanned<T>(
    trees: &[OneGroup<'_>],
    is_scanned: impl Fn(&ProcessGroup) -> bool,
    scan: impl FnOnce(&[Target<'_>]) -> Vec<T>,
    mut otherwise: impl FnMut(&OneGroup<'_>) -> T,
) -> Vec<T> {
    let targets: Vec<Target<'_>> = trees
        .iter()
        .filter(|(group, _)| is_scanned(group))
        .map(|(group, leader)| group.target(leader))
        .collect();
    let mut by_scan = if targets.is_empty() { Vec::new() } else { scan(&targets) }.into_iter();
    let mut answer = |tree: &OneGroup<'_>| match is_scanned(tree.0) {
        true => by_scan.next().unwrap_or_else(|| otherwise(tree)),
        false => otherwise(tree),
    };
    trees.iter().map(&mut answer).collect()
}

impl ProcessGroup {
    fn target<'a>(&'a self, leader: &'a Leader) -> Target<'a> {
        Target { membership: &self.membership, leader }
    }

    /// Returns whether a member can be outside the cgroup.
    fn is_scanned(&self) -> bool {
        self.cgroup.as_ref().is_none_or(|cgroup| !cgroup.is_complete())
    }

    fn signal_each(trees: &[OneGroup<'_>], signals: &[c_int]) -> Vec<io::Result<()>> {
        scanned(
            trees,
            |group| group.cgroup.is_none(),
            |targets| scan::signal(targets, signals),
            |(group, leader)| match &group.cgroup {
                Some(cgroup) => group.signal_with_cgroup(&**cgroup, leader, signals),
                None => Ok(()),
            },
        )
    }

    /// Sends each signal once to each process: first to the processes that the cgroup lists, then to the others.
    fn signal_with_cgroup(
        &self,
        cgroup: &dyn Cgroup,
        leader: &Leader,
        signals: &[c_int],
    ) -> io::Result<()> {
        let to_each = |send: &dyn Fn(c_int) -> io::Result<()>| {
            let mut result = Ok(());
            for signal in signals {
                result = send(*signal).and(result);
            }
            result
        };
        let to_leader = || to_each(&|signal| leader.signal(|notice| notice.signal(signal)));
        let mut listed = match cgroup.ids() {
            Ok(listed) => listed,
            // No descriptor is spare to read the list. The leader at least receives the signals.
            Err(error) => return to_leader().and(Err(error)),
        };
        let sent = to_each(&|signal| cgroup.signal(&listed, signal));
        if !self.is_scanned() {
            return sent;
        }
        listed.sort_unstable();
        let unlisted = scan::signal_unlisted(self.target(leader), &listed, signals);
        sent.and(unless_unlisted(unlisted, || {
            // The leader may have left the cgroup.
            if listed.contains(&self.membership.group()) { Ok(()) } else { to_leader() }
        }))
    }

    /// Blocks until the cgroup is empty (`true`), or until the deadline.
    fn wait_cgroup_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        self.cgroup.as_ref().map_or(Ok(true), |cgroup| cgroup.wait_empty(deadline))
    }
}

impl Container for ProcessGroup {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn pins_the_leader(&self) -> bool {
        true
    }

    fn kill_each(&self, trees: &[One<'_>]) -> Vec<io::Result<()>> {
        let trees = groups(trees);
        // This kills first the cgroups, each as one, then the members that have left them.
        let cgroups: Vec<io::Result<()>> = trees
            .iter()
            .map(|(group, _)| group.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.kill()))
            .collect();
        let rest = scanned(&trees, Self::is_scanned, scan::kill, |(_, leader)| {
            leader.signal(|notice| notice.signal(libc::SIGKILL))
        });
        cgroups.into_iter().zip(rest).map(|(cgroup, rest)| cgroup.and(rest)).collect()
    }

    fn kill_at_once(&self, leader: &Leader) -> bool {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill_once();
        }
        let scans = processes::usable();
        // Without a marker, a scan finds members outside the group by their parents, so the group must not die first.
        if self.membership.is_marked() || !scans {
            // The full kill meets an error again.
            let _ = self.target(leader).signal_group(libc::SIGKILL);
        }
        scans || self.cgroup.is_some()
    }

    fn request_each(&self, trees: &[One<'_>], request: Request) -> Vec<io::Result<bool>> {
        let sent = Self::signal_each(&groups(trees), &request.signals());
        sent.into_iter().map(|sent| sent.map(|()| true)).collect()
    }

    fn signal(&self, leader: &Leader, signal: c_int) -> io::Result<()> {
        Self::signal_each(&[(self, leader)], &[signal]).pop().unwrap_or(Ok(()))
    }

    fn wait_each_empty(
        &self,
        trees: &[One<'_>],
        deadline: Option<Instant>,
    ) -> Vec<io::Result<bool>> {
        let trees = groups(trees);
        let mut results: Vec<Option<io::Result<bool>>> = trees.iter().map(|_| None).collect();
        loop {
            let pending: Vec<usize> = (0..trees.len()).filter(|i| results[*i].is_none()).collect();
            if pending.is_empty() {
                break;
            }
            let mut empty = Vec::new();
            for i in pending {
                let (group, leader) = trees[i];
                match group.wait_cgroup_empty(deadline) {
                    Ok(true) if group.is_scanned() => empty.push(i),
                    // The leader was in the cgroup, so it is a zombie, or about to be one.
                    Ok(true) => results[i] = Some(Ok(!matches!(leader.wait(deadline), Ok(None)))),
                    answer => results[i] = Some(answer),
                }
            }
            let targets: Vec<Target<'_>> =
                empty.iter().map(|i| trees[*i].0.target(trees[*i].1)).collect();
            for (i, scanned) in empty.into_iter().zip(scan::wait_empty(&targets, deadline)) {
                let group = trees[i].0;
                results[i] = match (scanned, &group.cgroup) {
                    (scanned, None) => Some(scanned),
                    (Ok(true), Some(cgroup)) if !matches!(cgroup.ids().as_deref(), Ok([])) => {
                        // A process outside the cgroup may have returned to it.
                        match cgroup.wait_empty(Some(Instant::now())) {
                            Ok(false) => None,
                            answer => Some(answer),
                        }
                    }
                    // The cgroup was empty.
                    (scanned, Some(_)) => Some(unless_unlisted(scanned, || Ok(true))),
                };
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Ok(true))).collect()
    }

    fn survivors(&self, trees: &[One<'_>]) -> Vec<io::Result<Option<Survivor>>> {
        scanned(
            &groups(trees),
            |group| group.cgroup.is_none(),
            scan::survivors,
            |(group, leader)| {
                let survivor =
                    group.cgroup.as_ref().map_or(Ok(None), |cgroup| cgroup.survivor())?;
                if survivor.is_some() || !group.is_scanned() {
                    return Ok(survivor);
                }
                let scanned = scan::survivors(&[group.target(leader)]).pop().unwrap_or(Ok(None));
                unless_unlisted(scanned, || Ok(None))
            },
        )
    }

    fn processes(&self, leader: &Leader) -> io::Result<Vec<u32>> {
        let mut all = self.cgroup.as_ref().map_or(Ok(Vec::new()), |cgroup| cgroup.ids())?;
        if self.is_scanned() {
            let scanned = scan::processes(self.target(leader));
            all.extend(match &self.cgroup {
                Some(_) => unless_unlisted(scanned, || Ok(Vec::new()))?,
                None => scanned?,
            });
        }
        all.sort_unstable();
        all.dedup();
        Ok(all.into_iter().map(i32::unsigned_abs).collect())
    }

    fn containment(&self) -> Containment {
        match &self.cgroup {
            Some(cgroup) if cgroup.is_complete() => Containment::Complete { by: Mechanism::Cgroup },
            Some(_) => Containment::BestEffort { by: Mechanism::Cgroup },
            None if processes::usable() => {
                Containment::BestEffort { by: Mechanism::ProcessGroupAndScan }
            }
            None => Containment::BestEffort { by: Mechanism::ProcessGroup },
        }
    }

    fn usage(&self) -> Option<Usage> {
        self.cgroup.as_ref()?.usage()
    }

    fn outlives_the_handle(&self) -> bool {
        self.bond.lock().is_some() || self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.remove())
    }

    fn leader_is_reaped(&self) {
        if let Some(bond) = &mut *self.bond.lock() {
            bond.set_group(None);
        }
    }

    fn done(&self) {
        drop(self.bond.lock().take());
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}
