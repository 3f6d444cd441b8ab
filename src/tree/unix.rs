//! Unix: which mechanism keeps a tree together, and how it is spawned.

use super::cgroup::{Cgroup, Place};
use super::environment_marker::EnvironmentMarker;
use super::guardian::{self, Bond};
use super::processes::{self, Process, Since};
use super::scan::{self, Membership, Target};
use super::{Contain, Containment, Leader, Mechanism, One, Spawned, Wanted, process_group};
use crate::command;
use crate::sync::Mutex;
use crate::sys::{Ask, FromChild};
use crate::usage::Usage;
use std::collections::HashSet;
use std::ffi::c_int;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Instant;

/// What only some systems offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    pub(crate) cgroup: Place,
    /// Have the child open its own pidfd.
    #[cfg(target_os = "linux")]
    pub(crate) pidfd_from_child: bool,
    /// For the tests: as if the system sent no signal at the death of a parent.
    pub(crate) no_parent_death_signal: bool,
    /// For the tests: as if the system showed no environments.
    pub(crate) no_marker: bool,
}

pub(crate) struct Members {
    membership: Membership,
    cgroup: Option<Cgroup>,
    /// What ties it to the life of this process.
    bond: Mutex<Option<Bond>>,
}

pub(crate) fn spawn(wanted: &Wanted, command: &mut Command) -> io::Result<Spawned> {
    let can_be_asked = true;
    let is_tree = wanted.tree || wanted.system.cgroup != Place::Nowhere;
    if !is_tree && !wanted.kill_with_parent {
        let (child, from_child) = spawn_plain(wanted, command)?;
        return Ok(Spawned { child, from_child, members: None, is_tree, can_be_asked });
    }
    #[cfg(target_os = "linux")]
    if !is_tree && !wanted.system.no_parent_death_signal {
        let (child, from_child) = super::parent_death::spawn(command)?;
        return Ok(Spawned { child, from_child, members: None, is_tree, can_be_asked });
    }
    let since = Since::now();
    let marker = EnvironmentMarker::new();
    let mut cgroup = Cgroup::create(&wanted.system.cgroup, &marker)?;
    // What a single child starts is its own business.
    let is_marked = is_tree && processes::READS_ENVIRONMENTS && !wanted.system.no_marker;
    let marker = Some(marker).filter(|_| is_marked);
    let mut bond = if wanted.kill_with_parent {
        Some(guardian::watch(marker.as_ref(), cgroup.as_ref().map(Cgroup::directory))?)
    } else {
        None
    };
    command.process_group(0);
    let before = marker.as_ref().map(|marker| marker.mark(command));
    let spawned = match &cgroup {
        Some(cgroup) => cgroup.spawn(command),
        None => spawn_plain(wanted, command),
    };
    // A spawn does not unwind, since a panic of std is an error by now. So this runs in any case.
    if let Some(before) = before {
        before.restore(command);
    }
    let (child, from_child) = spawned?;
    if let Some(bond) = &mut bond {
        bond.set_group(Some(child.id()));
    }
    if let Some(cgroup) = &mut cgroup {
        cgroup.admitted(child.id());
    }
    let membership = Membership::new(child.id(), marker, since);
    Ok(Spawned {
        child,
        from_child,
        members: Some(Members { membership, cgroup, bond: Mutex::new(bond) }),
        is_tree,
        can_be_asked,
    })
}

fn spawn_plain(wanted: &Wanted, command: &mut Command) -> io::Result<(Child, Option<FromChild>)> {
    #[cfg(target_os = "linux")]
    if wanted.system.pidfd_from_child {
        return Ok(super::pre_exec::spawn(command, &super::pre_exec::Orders::default())?);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = wanted;
    Ok((command::spawn(command)?, None))
}

/// A member of a tree that lived when it was seen.
pub(crate) type Survivor = Process;

impl Members {
    fn target<'a>(&'a self, leader: &'a Leader) -> Target<'a> {
        Target { membership: &self.membership, leader }
    }

    /// Whether a member can be elsewhere than in the cgroup.
    fn is_to_be_scanned(&self) -> bool {
        self.cgroup.as_ref().is_none_or(|cgroup| !cgroup.is_complete())
    }

    pub(crate) fn signal(&self, leader: &Leader, signal: c_int) -> io::Result<()> {
        Self::signal_each(&[(self, leader)], &[signal]).pop().unwrap_or(Ok(()))
    }

    fn signal_each(trees: &[One<'_, Self>], signals: &[c_int]) -> Vec<io::Result<()>> {
        scanned(
            trees,
            |members| members.cgroup.is_none(),
            |targets| scan::signal(targets, signals),
            |(members, leader)| match &members.cgroup {
                Some(cgroup) => members.signal_cgroup(cgroup, leader, signals),
                None => Ok(()),
            },
        )
    }

    /// Each process gets each signal once: first those that the cgroup lists, then the others.
    fn signal_cgroup(&self, cgroup: &Cgroup, leader: &Leader, signals: &[c_int]) -> io::Result<()> {
        let to_each = |send: &dyn Fn(c_int) -> io::Result<()>| {
            let mut result = Ok(());
            for signal in signals {
                result = send(*signal).and(result);
            }
            result
        };
        let to_leader = || to_each(&|signal| leader.signal(|notice| notice.signal(signal)));
        let listed = match cgroup.ids() {
            Ok(listed) => listed,
            // The leader at least, which takes no descriptor.
            Err(error) => return to_leader().and(Err(error)),
        };
        let sent = to_each(&|signal| cgroup.signal_those(&listed, signal));
        if !self.is_to_be_scanned() {
            return sent;
        }
        let listed: HashSet<i32> = listed.into_iter().collect();
        match scan::signal_unlisted(self.target(leader), &listed, signals) {
            // There is no process table to scan. The leader can have left the cgroup.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                if listed.contains(&self.membership.group()) { sent } else { sent.and(to_leader()) }
            }
            unlisted => sent.and(unlisted),
        }
    }
}

/// Splits a batch: answers for some of its trees by one scan, and for each of the others by itself.
fn scanned<T>(
    trees: &[One<'_, Members>],
    is_scanned: impl Fn(&Members) -> bool,
    scan: impl FnOnce(&[Target<'_>]) -> Vec<T>,
    mut otherwise: impl FnMut(&One<'_, Members>) -> T,
) -> Vec<T> {
    let targets: Vec<Target<'_>> = trees
        .iter()
        .filter(|(members, _)| is_scanned(members))
        .map(|(members, leader)| members.target(leader))
        .collect();
    let mut by_scan = if targets.is_empty() { Vec::new() } else { scan(&targets) }.into_iter();
    let mut answer = |tree: &One<'_, Members>| match is_scanned(tree.0) {
        true => by_scan.next().unwrap_or_else(|| otherwise(tree)),
        false => otherwise(tree),
    };
    trees.iter().map(&mut answer).collect()
}

impl Contain for Members {
    fn pins_the_leader(&self) -> bool {
        true
    }

    fn kill(trees: &[One<'_, Self>]) -> Vec<io::Result<()>> {
        // First the cgroups, each of which dies as one. Then what has left them.
        let cgroups: Vec<io::Result<()>> = trees
            .iter()
            .map(|(members, _)| members.cgroup.as_ref().map_or(Ok(()), Cgroup::kill))
            .collect();
        let rest = scanned(trees, Self::is_to_be_scanned, scan::kill, |(_, leader)| {
            leader.signal(|notice| notice.signal(libc::SIGKILL))
        });
        cgroups.into_iter().zip(rest).map(|(cgroup, rest)| cgroup.and(rest)).collect()
    }

    fn kill_at_once(&self, leader: &Leader) -> bool {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill_once();
        }
        let scans = processes::usable();
        // Without a marker, members outside the group are known by their parents. So these must not die before the others
        // are found.
        if self.membership.is_marked() || !scans {
            // An error will be met again by the rest.
            let _ = process_group::signal(self.membership.group(), leader, libc::SIGKILL);
        }
        scans || self.cgroup.is_some()
    }

    fn ask(trees: &[One<'_, Self>], ask: Ask) -> Vec<io::Result<bool>> {
        let sent = Self::signal_each(trees, &ask.signals());
        sent.into_iter().map(|sent| sent.map(|()| true)).collect()
    }

    fn wait_empty(trees: &[One<'_, Self>], deadline: Option<Instant>) -> Vec<io::Result<bool>> {
        let mut results: Vec<Option<io::Result<bool>>> = trees.iter().map(|_| None).collect();
        loop {
            let pending: Vec<usize> = (0..trees.len()).filter(|i| results[*i].is_none()).collect();
            if pending.is_empty() {
                break;
            }
            let mut empty = Vec::new();
            for i in pending {
                let (members, leader) = trees[i];
                let cgroup = members.cgroup.as_ref();
                match cgroup.map_or(Ok(true), |cgroup| cgroup.wait_empty(deadline)) {
                    Ok(true) if members.is_to_be_scanned() => empty.push(i),
                    // The leader was in the cgroup. It is a zombie, or about to be one.
                    Ok(true) => results[i] = Some(Ok(!matches!(leader.wait(deadline), Ok(None)))),
                    answer => results[i] = Some(answer),
                }
            }
            let targets: Vec<Target<'_>> =
                empty.iter().map(|i| trees[*i].0.target(trees[*i].1)).collect();
            for (i, answer) in empty.into_iter().zip(scan::wait_empty(&targets, deadline)) {
                let cgroup = trees[i].0.cgroup.as_ref();
                results[i] = match (answer, cgroup) {
                    // There is no process table to scan: the cgroup has answered.
                    (Err(error), Some(_)) if error.kind() == io::ErrorKind::Unsupported => {
                        Some(Ok(true))
                    }
                    // A process outside the cgroup may have come back to it.
                    (Ok(true), Some(cgroup)) if !matches!(cgroup.ids().as_deref(), Ok([])) => {
                        match cgroup.wait_empty(Some(Instant::now())) {
                            Ok(false) => None,
                            answer => Some(answer),
                        }
                    }
                    (answer, _) => Some(answer),
                };
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Ok(true))).collect()
    }

    fn survivors(trees: &[One<'_, Self>]) -> Vec<io::Result<Option<Survivor>>> {
        scanned(
            trees,
            |members| members.cgroup.is_none(),
            scan::survivors,
            |(members, leader)| {
                let mut ended = HashSet::new();
                for _ in 0..processes::PASSES {
                    let listed = members.cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::ids)?;
                    let mut again = false;
                    for id in listed {
                        match processes::Held::open(id)? {
                            Some(held) if held.lives() => {
                                if let Some(process) = held.process()? {
                                    return Ok(Some(process));
                                }
                            }
                            _ => {}
                        }
                        // It can have forked before.
                        again |= ended.insert(id);
                    }
                    if !again {
                        break;
                    }
                }
                if !members.is_to_be_scanned() {
                    return Ok(None);
                }
                match scan::survivors(&[members.target(leader)]).pop() {
                    Some(Err(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
                    answer => answer.unwrap_or(Ok(None)),
                }
            },
        )
    }

    fn processes(&self, leader: &Leader) -> io::Result<Vec<u32>> {
        let mut all: Vec<i32> = match &self.cgroup {
            Some(cgroup) => cgroup.ids()?,
            None => Vec::new(),
        };
        if self.is_to_be_scanned() {
            match scan::processes(self.target(leader)) {
                Ok(scanned) => all.extend(scanned),
                // There is no process table to scan.
                Err(error)
                    if self.cgroup.is_some() && error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
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

    fn leader_is_gone(&self) {
        if let Some(bond) = &mut *self.bond.lock() {
            bond.set_group(None);
        }
    }

    fn done(&self) {
        drop(self.bond.lock().take());
        if let Some(cgroup) = &self.cgroup {
            cgroup.done();
        }
    }
}
