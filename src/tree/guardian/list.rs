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

use super::calls::{kill_groups, kill_one, map, now, pause, pidfd, unmap};
use super::cgroup;
use super::proc::{self, Environment, Stat, Text};
use super::table::{Charge, Shared, Slot};
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
    let proc = proc::genuine(buffer).filter(|_| trees.count > 0);
    let mut list = List::new();
    if let Some(proc) = proc {
        list.fill(proc, trees.since, buffer);
        list.find_roots(
            |process, _| trees.groups.has(process.group.unsigned_abs(), |_| true),
            buffer,
        );
        list.adopt(proc);
    }
    kill_groups(shared);
    cgroup::each(shared, path, &mut cgroup::kill);
    if let Some(proc) = proc {
        list.kill(proc);
        trees.kill_marked(proc, &mut list, buffer);
        proc::close(proc);
    }
    cgroup::remove_all(shared, path, buffer);
}

/// The groups and markers that identify the members of the trees.
struct Trees {
    shared: Shared,
    count: u32,
    /// No member has started before this.
    since: u64,
    groups: HashTable,
    markers: HashTable,
}

impl Trees {
    /// Collects the charges that are trees. A single child has neither a marker nor a cgroup, and its descendants are
    /// not killed.
    fn of(shared: Shared, buffer: &mut [u8]) -> Self {
        let mut count: u32 = 0;
        let mut since = u64::MAX;
        let mut each = |shared: Shared, call: &mut dyn FnMut(u32, &'static Slot, Charge<'_>)| {
            for (number, slot) in shared.charges() {
                let charge = shared.read(number, slot, buffer);
                let is_tree =
                    |charge: &Charge<'_>| !charge.marker.is_empty() || !charge.cgroup.is_empty();
                if let Some(charge) = charge.filter(is_tree) {
                    call(number, slot, charge);
                }
            }
        };
        each(shared, &mut |_, _, charge| {
            count = count.wrapping_add(1);
            since = since.min(charge.since);
        });
        let (mut groups, mut markers) = (HashTable::new(count), HashTable::new(count));
        each(shared, &mut |number, slot, charge| {
            if let Some(group) = shared.group(number, slot) {
                groups.add(group.unsigned_abs(), group.unsigned_abs());
            }
            if !charge.marker.is_empty() {
                markers.add(hash(charge.marker), number);
            }
        });
        Self { shared, count, since, groups, markers }
    }

    fn has_marker(&self, marker: &[u8]) -> bool {
        !marker.is_empty()
            && self.markers.has(hash(marker), |number| {
                self.shared.charge(number).is_some_and(|slot| Shared::has_marker(slot, marker))
            })
    }

    fn kill_marked(&self, proc: c_int, list: &mut List, buffer: &mut [u8]) {
        let start = now();
        let mut last_found = start;
        let (mut quiet, mut busy) = (0_u32, 0);
        loop {
            list.fill(proc, self.since, buffer);
            let mut is_unsettled = false;
            list.find_roots(
                |process, buffer| {
                    let environment = self.environment(proc, process.id, process.threads, buffer);
                    is_unsettled |= environment == Environment::Empty && process.is_unsettled;
                    environment == Environment::Marked
                },
                buffer,
            );
            list.adopt(proc);
            let time = now();
            if list.kill(proc) {
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
            let patience = if is_unsettled { PATIENCE } else { QUIET };
            let is_over = quiet >= QUIET_PASSES && waited >= patience;
            if is_over || time.wrapping_sub(start) >= LONGEST {
                return;
            }
            pause(busy.wrapping_sub(1));
        }
    }

    fn environment(&self, proc: c_int, id: i32, threads: u64, buffer: &mut [u8]) -> Environment {
        let path = Text::<32>::new().number(id).push(b"/environ");
        let is_marker = |element: &[u8]| self.has_marker(element);
        let found = proc::environment(proc, path.path(), buffer, is_marker);
        let is_shown = matches!(found, Environment::Marked | Environment::Unmarked);
        if is_shown || threads <= 1 {
            return found;
        }
        // The first thread has ended, and shows no environment. The other threads do.
        let path = Text::<32>::new().number(id).push(b"/task");
        let tasks = proc::open(proc, path.path(), libc::O_DIRECTORY);
        let mut found = Environment::Empty;
        proc::each_name(tasks, buffer, &mut |name, buffer| {
            let is_shown = matches!(found, Environment::Marked | Environment::Unmarked);
            if !is_shown && proc::number(name).is_some() {
                let path = Text::<32>::new().push(name).push(b"/environ");
                found = proc::environment(tasks, path.path(), buffer, is_marker);
            }
        });
        proc::close(tasks);
        found
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Process {
    id: i32,
    parent: i32,
    group: i32,
    is_member: bool,
    is_unsettled: bool,
    is_exiting: bool,
    start: u64,
    threads: u64,
}

impl Process {
    /// Returns the present state if the ID still belongs to this process.
    fn now(&self, proc: c_int) -> Option<Stat> {
        proc::stat(proc, self.id).filter(|stat| stat.start == self.start)
    }
}

/// The processes that can be members, in mapped memory that grows.
struct List {
    start: *mut Process,
    length: usize,
    room: usize,
    is_sorted: bool,
}

impl List {
    fn new() -> Self {
        Self { start: std::ptr::null_mut(), length: 0, room: 0, is_sorted: true }
    }

    fn all(&mut self) -> &mut [Process] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: this many have been written, and nothing else refers to the memory.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// Adds a process, unless there is no memory for it.
    fn push(&mut self, process: Process) {
        const SIZE: usize = size_of::<Process>();
        if self.length == self.room {
            let room = self.room.wrapping_mul(2).max(1024);
            let Some(new) = map(room.wrapping_mul(SIZE)) else { return };
            let new = new.cast::<Process>();
            for (at, old) in self.all().iter().enumerate() {
                // SAFETY: the new memory has room for more than the old.
                unsafe { new.wrapping_add(at).write(*old) };
            }
            if self.room > 0 {
                unmap(self.start as usize, self.room.wrapping_mul(SIZE));
            }
            (self.start, self.room) = (new, room);
        }
        self.is_sorted &= self.all().last().is_none_or(|last| last.id < process.id);
        // SAFETY: there is room for one more.
        unsafe { self.start.wrapping_add(self.length).write(process) };
        self.length = self.length.wrapping_add(1);
    }

    /// Lists all living processes that are young enough.
    fn fill(&mut self, proc: c_int, since: u64, buffer: &mut [u8]) {
        self.length = 0;
        self.is_sorted = true;
        // SAFETY: it takes nothing.
        let me = unsafe { libc::getpid() };
        proc::rewind(proc);
        proc::each_name(proc, buffer, &mut |name, _| {
            let Some(id) = proc::number(name).and_then(|id| i32::try_from(id).ok()) else { return };
            if id <= 1 || id == me {
                return;
            }
            let Some(stat) = proc::stat(proc, id).filter(|stat| stat.lives) else { return };
            if stat.start >= since {
                self.push(Process {
                    id,
                    parent: stat.parent,
                    group: stat.group,
                    is_member: false,
                    is_unsettled: stat.is_unsettled,
                    is_exiting: stat.is_exiting,
                    start: stat.start,
                    threads: stat.threads,
                });
            }
        });
    }

    fn find_roots(
        &mut self,
        mut is_root: impl FnMut(&Process, &mut [u8]) -> bool,
        buffer: &mut [u8],
    ) {
        for process in self.all() {
            process.is_member = is_root(process, buffer);
        }
    }

    /// Marks all descendants of members as members.
    fn adopt(&mut self, proc: c_int) {
        let mut is_changed = true;
        while is_changed {
            is_changed = false;
            for at in 0..self.length {
                let Some(process) = self.all().get(at).copied().filter(|one| !one.is_member) else {
                    continue;
                };
                let Some(parent) = self.find(process.parent).filter(|parent| parent.is_member)
                else {
                    continue;
                };
                // Parent and child were read one after the other. If the parent is the same process now and still the
                // parent, it was the parent all the time.
                let is_child = parent.start <= process.start
                    && process.now(proc).is_some_and(|now| now.parent == parent.id)
                    && parent.now(proc).is_some();
                if let Some(process) = self.all().get_mut(at).filter(|_| is_child) {
                    process.is_member = true;
                    is_changed = true;
                }
            }
        }
    }

    fn find(&mut self, id: i32) -> Option<Process> {
        let is_sorted = self.is_sorted;
        let all = self.all();
        if is_sorted {
            let at = all.binary_search_by(|process| process.id.cmp(&id)).ok()?;
            return all.get(at).copied();
        }
        all.iter().find(|process| process.id == id).copied()
    }

    /// Kills the members. Returns whether a killed member was not exiting already.
    fn kill(&mut self, proc: c_int) -> bool {
        let mut found = false;
        for process in self.all().iter().filter(|process| process.is_member) {
            let pidfd = pidfd(process.id);
            if process.now(proc).is_some() {
                let is_killed = kill_one(process.id, pidfd);
                // A member that this process lacks permission to kill must not prolong the search.
                found |= is_killed && !(process.is_exiting && process.threads <= 1);
            }
            proc::close(pidfd);
        }
        found
    }
}

/// A hash table from numbers to numbers that are not 0.
struct HashTable {
    start: *mut [u32; 2],
    size: usize,
}

impl HashTable {
    fn new(count: u32) -> Self {
        let size = (count as usize).saturating_mul(2).saturating_add(1).next_power_of_two();
        match map(size.saturating_mul(size_of::<[u32; 2]>())) {
            Some(start) => Self { start: start.cast(), size },
            // An empty table finds nothing, so nothing is killed.
            None => Self { start: std::ptr::null_mut(), size: 0 },
        }
    }

    /// Returns the places for a key, in order.
    fn places(&self, key: u32) -> impl Iterator<Item = *mut [u32; 2]> {
        let (start, mask) = (self.start, self.size.wrapping_sub(1));
        let first = key.wrapping_mul(0x9e37_79b1) as usize;
        (0..self.size).map(move |step| start.wrapping_add(first.wrapping_add(step) & mask))
    }

    fn add(&mut self, key: u32, value: u32) {
        for place in self.places(key) {
            // SAFETY: the place is in the table, and nothing else refers to it.
            unsafe {
                if (*place)[1] == 0 {
                    *place = [key, value];
                    return;
                }
            }
        }
    }

    fn has(&self, key: u32, is_meant: impl Fn(u32) -> bool) -> bool {
        for place in self.places(key) {
            // SAFETY: as above.
            let [found, value] = unsafe { *place };
            if value == 0 {
                return false;
            }
            if found == key && is_meant(value) {
                return true;
            }
        }
        false
    }
}

fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(5381, |hash: u32, byte| hash.wrapping_mul(33) ^ u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_finds_what_it_has() {
        let mut table = HashTable::new(1000);
        for number in 1..=1000 {
            table.add(number / 2, number);
        }
        for number in 1..=1000 {
            assert!(table.has(number / 2, |value| value == number));
        }
        assert!(!table.has(501, |_| true));
        assert!(!HashTable::new(0).has(0, |_| true));
    }

    #[test]
    fn a_list_grows() {
        let mut list = List::new();
        let process = |id| Process {
            id,
            parent: 0,
            group: 0,
            is_member: false,
            is_unsettled: false,
            is_exiting: false,
            start: 0,
            threads: 1,
        };
        (0..5000).for_each(|id| list.push(process(2 * id)));
        assert_eq!(list.find(2 * 4321).map(|process| process.id), Some(2 * 4321));
        assert!(list.find(4321 * 2 + 1).is_none());
        assert!(list.is_sorted);
        list.push(process(7));
        assert!(!list.is_sorted);
        assert_eq!(list.find(7).map(|process| process.id), Some(7));
    }

    #[test]
    fn only_marked_processes_and_their_descendants_are_found() {
        let mut buffer = vec![0; 1 << 16];
        let mut shared = super::super::table::Table::new().unwrap();
        let charge = Charge { marker: b"77-no-process-has-it", cgroup: b"", since: 0 };
        shared.put(charge).unwrap();
        let trees = Trees::of(shared.shared(), &mut buffer);
        assert!(trees.has_marker(b"77-no-process-has-it"));
        assert!(!trees.has_marker(b"77-no-process-has-i") && !trees.has_marker(b""));
        let Some(proc) = proc::genuine(&mut buffer) else { return };
        let mut list = List::new();
        list.fill(proc, 0, &mut buffer);
        // All processes except this one.
        let parent = std::os::unix::process::parent_id() as i32;
        assert!(list.find(std::process::id() as i32).is_none());
        assert!(list.find(parent).is_some() || parent <= 1);
        list.find_roots(
            |process, buffer| {
                trees.environment(proc, process.id, process.threads, buffer) == Environment::Marked
            },
            &mut buffer,
        );
        list.adopt(proc);
        assert!(list.all().iter().all(|process| !process.is_member));
        proc::close(proc);
    }
}
