//! Linux: kills the charges, in the child of a fork (see [`after_fork`](super::after_fork)).
//!
//! 1. Find members by their group, and descendants by their parents, while the parents live.
//! 2. Kill the groups and the cgroups.
//! 3. Kill the descendants outside the groups.
//! 4. Find members by their marker, and descendants by their parents, and kill all. A member may be forking, or in the middle
//!    of an exec, when it shows no environment. So repeat this until several passes find none.
//! 5. Remove the cgroups.
//!
//! **No other process is killed.** A process is identified by its ID and its start time. Before it is killed, it is opened
//! (pidfd_open(2)), and its start time is read after that. Without pidfds, only the instant between that and the kill is a
//! gap.

use super::calls::{List, kill_groups, now, pause};
use super::cgroup;
use super::table::{Shared, hash};
use crate::sys::linux::procfs::{self, Stat};
use crate::tree::environment_marker::carried_by;
use crate::tree::processes::{Environment, Process, Time};
use std::ffi::c_int;

/// The longest search for members, in milliseconds.
const LONGEST: u64 = 30_000;
/// The search ends after this many passes without a member, and this much time.
const QUIET_PASSES: u32 = 5;
const QUIET: u64 = 20;
/// The longest wait for processes in the middle of an exec.
const PATIENCE: u64 = 2_000;

pub(super) fn kill(shared: Shared, scratch: &mut [u8]) {
    let Some((path, buffer)) = scratch.split_at_mut_checked(2 * Shared::LONGEST) else { return };
    let trees = Trees::of(shared, path);
    let trees = trees.filter(|_| procfs::is_genuine());
    let mut processes = List::new();
    if let Some(trees) = &trees {
        list(&mut processes, trees.since);
        for process in processes.iter_mut() {
            process.is_member = trees.groups.binary_search(&process.stat.record.group).is_ok();
        }
        adopt(&mut processes);
    }
    kill_groups(shared);
    cgroup::each(shared, path, &mut cgroup::kill);
    if let Some(trees) = &trees {
        kill_members(&processes);
        trees.kill_marked(&mut processes, buffer);
    }
    cgroup::remove_all(shared, path, buffer);
}

/// The groups and markers that identify the members of the trees.
struct Trees {
    shared: Shared,
    /// No member has started before this.
    since: Time,
    /// In order.
    groups: List<i32>,
    /// The hash of each marker, and the number of its charge, in order.
    markers: List<(u32, u32)>,
}

impl Trees {
    /// Collects the charges that are trees. A single child has neither a marker nor a cgroup, and its descendants are
    /// not killed.
    fn of(shared: Shared, buffer: &mut [u8]) -> Option<Self> {
        let mut since = None;
        let (mut groups, mut markers) = (List::new(), List::new());
        for (number, slot) in shared.charges() {
            let Some(charge) = shared.read(number, slot, buffer) else { continue };
            if charge.marker.is_empty() && charge.cgroup.is_empty() {
                continue;
            }
            since = Some(since.map_or(charge.since, |since: u64| since.min(charge.since)));
            if let Some(group) = shared.group(number, slot) {
                groups.push(group);
            }
            if !charge.marker.is_empty() {
                markers.push((hash(charge.marker), number));
            }
        }
        groups.sort_unstable();
        markers.sort_unstable();
        Some(Self { shared, since: Time(i64::try_from(since?).ok()?), groups, markers })
    }

    fn has_marker(&self, marker: &[u8]) -> bool {
        let hash = hash(marker);
        let first = self.markers.partition_point(|(other, _)| *other < hash);
        let equal = self.markers.iter().skip(first).take_while(|(other, _)| *other == hash);
        let mut slots = equal.filter_map(|(_, number)| self.shared.charge(*number));
        slots.any(|slot| Shared::has_marker(slot, marker))
    }

    /// Returns whether the process carries one of the markers, and whether it is in the middle of an exec.
    fn read_markers(&self, id: i32, buffer: &mut [u8]) -> (bool, bool) {
        let mut is_marked = false;
        let shown = procfs::environment(id, buffer, &mut |variable| {
            is_marked |= carried_by(variable).any(|marker| self.has_marker(marker));
        });
        (is_marked, matches!(shown, Ok(Environment::Unsettled)))
    }

    fn kill_marked(&self, processes: &mut List<Listed>, buffer: &mut [u8]) {
        let start = now();
        let mut last_found = start;
        let (mut quiet, mut busy) = (0_u32, 0);
        loop {
            list(processes, self.since);
            let mut is_any_unsettled = false;
            for process in processes.iter_mut() {
                let (is_marked, is_unsettled) = self.read_markers(process.stat.record.id, buffer);
                process.is_member = is_marked;
                is_any_unsettled |= is_unsettled;
            }
            adopt(processes);
            let time = now();
            if kill_members(processes) {
                last_found = time;
                quiet = 0;
                // The first repetition follows at once, since a member may have forked. Later repetitions are slower,
                // since members may take time to end.
                busy = 10.min(c_int::wrapping_add(busy, 1));
            } else {
                quiet = quiet.wrapping_add(1);
                busy = 5;
            }
            let waited = time.wrapping_sub(last_found);
            let patience = if is_any_unsettled { PATIENCE } else { QUIET };
            let is_over = quiet >= QUIET_PASSES && waited >= patience;
            if is_over || time.wrapping_sub(start) >= LONGEST {
                return;
            }
            pause(busy.wrapping_sub(1));
        }
    }
}

/// A process that can be a member.
#[derive(Clone, Copy)]
struct Listed {
    stat: Stat,
    is_member: bool,
}

impl Listed {
    /// Returns the present state if the ID still belongs to this process.
    fn now(&self) -> Option<Stat> {
        let now = procfs::stat(self.stat.record.id).ok().flatten();
        now.filter(|now| now.record.started == self.stat.record.started)
    }
}

/// Lists all living processes that are young enough, in the order of their IDs.
fn list(processes: &mut List<Listed>, since: Time) {
    processes.clear();
    // SAFETY: no arguments.
    let me = unsafe { libc::getpid() };
    // After an error, the next pass finds the rest.
    let _ = procfs::each_process(&mut |id| {
        if let Ok(Some(stat)) = procfs::stat(id) {
            let can_be_member = stat.record.lives && !stat.is_kernels && id > 1 && id != me;
            if can_be_member && stat.record.may_belong(since) {
                processes.push(Listed { stat, is_member: false });
            }
        }
        true
    });
    processes.sort_unstable_by_key(|process| process.stat.record.id);
}

fn find(processes: &[Listed], id: i32) -> Option<&Listed> {
    let at = processes.binary_search_by(|process| process.stat.record.id.cmp(&id)).ok()?;
    processes.get(at)
}

/// Marks all descendants of members as members.
fn adopt(processes: &mut List<Listed>) {
    let mut is_changed = true;
    while is_changed {
        is_changed = false;
        for at in 0..processes.len() {
            let Some(child) = processes.get(at).filter(|child| !child.is_member) else { continue };
            let parent = find(processes, child.stat.record.parent);
            let Some(parent) = parent.filter(|parent| parent.is_member) else { continue };
            // Parent and child were read one after the other. If the parent is the same process now and still the
            // parent, it was the parent all the time.
            let is_child = parent.stat.record.started <= child.stat.record.started
                && child.now().is_some_and(|now| now.record.parent == parent.stat.record.id)
                && parent.now().is_some();
            if let Some(child) = processes.get_mut(at).filter(|_| is_child) {
                child.is_member = true;
                is_changed = true;
            }
        }
    }
}

/// Kills the members. Returns whether a killed member was not exiting already.
fn kill_members(processes: &[Listed]) -> bool {
    let mut found = false;
    for Listed { stat, .. } in processes.iter().filter(|process| process.is_member) {
        if let Ok(Some(held)) = Process::of(&stat.record).hold() {
            // A member that this process lacks permission to kill must not prolong the search.
            found |= held.signal(libc::SIGKILL).is_ok() && !stat.is_exiting();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::table::{Charge, Table};
    use super::*;

    #[test]
    fn a_list_grows() {
        let mut list = List::new();
        assert!(list.is_empty());
        (0..5000).for_each(|id| list.push(2 * id));
        assert_eq!(list.binary_search(&(2 * 4321)), Ok(4321));
        assert!(list.binary_search(&(4321 * 2 + 1)).is_err());
        list.clear();
        list.push(7);
        assert_eq!(&list[..], [7]);
    }

    #[test]
    fn a_marker_is_found_among_many() {
        let mut buffer = vec![0; 1 << 16];
        let mut table = Table::new().unwrap();
        let marker = |number: u32| format!("{number:x}-0123456789abcdef");
        for number in 0..1000 {
            let marker = marker(number);
            table.put(Charge { marker: marker.as_bytes(), cgroup: b"", since: 7 }).unwrap();
        }
        let trees = Trees::of(table.shared(), &mut buffer).unwrap();
        for number in 0..1000 {
            assert!(trees.has_marker(marker(number).as_bytes()));
        }
        assert!(!trees.has_marker(marker(1000).as_bytes()) && !trees.has_marker(b""));
        assert_eq!(trees.since, Time(7));
        assert!(Trees::of(Table::new().unwrap().shared(), &mut buffer).is_none());
    }

    #[test]
    fn only_marked_processes_and_their_descendants_are_found() {
        let mut buffer = vec![0; 1 << 16];
        let mut shared = Table::new().unwrap();
        let charge = Charge { marker: b"77-no-process-has-it", cgroup: b"", since: 0 };
        shared.put(charge).unwrap();
        let trees = Trees::of(shared.shared(), &mut buffer).unwrap();
        assert!(trees.has_marker(b"77-no-process-has-it"));
        assert!(!trees.has_marker(b"77-no-process-has-i") && !trees.has_marker(b""));
        if !procfs::is_genuine() {
            return;
        }
        let mut processes = List::new();
        list(&mut processes, trees.since);
        // All processes except this one.
        let parent = std::os::unix::process::parent_id() as i32;
        assert!(find(&processes, std::process::id() as i32).is_none());
        assert!(find(&processes, parent).is_some() || parent <= 1);
        for process in processes.iter_mut() {
            process.is_member = trees.read_markers(process.stat.record.id, &mut buffer).0;
        }
        adopt(&mut processes);
        assert!(processes.iter().all(|process| !process.is_member));
    }
}
