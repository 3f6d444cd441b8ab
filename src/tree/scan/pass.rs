//! One pass over the process table, for a batch of trees.

use super::{Target, reaped_elsewhere};
use crate::sort::{search, sort, sort_by};
use crate::tree::environment_marker::each_carried_by;
use crate::tree::processes::{self, Environment, Groups, Held, Listing, Process, Record, Time};
use std::cmp::Ordering;
use std::io;

/// The members of one tree that a pass found.
#[derive(Default)]
pub(super) struct Found {
    /// Members of the group, including zombies. Empty if the group's ID may belong to another group.
    pub(super) inside: Vec<i32>,
    /// The other members, all living.
    pub(super) outside: Vec<Process>,
    /// The number of processes in `outside` that were remembered from earlier passes.
    pub(super) known: usize,
    /// The start of the pass. A process with an ID of `inside` that is older than this is the process that was found.
    pub(super) began: Time,
    pub(super) error: Option<io::Error>,
}

impl Found {
    /// Returns whether there is no member.
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<i32> {
        let mut ids = self.inside.clone();
        for process in &self.outside {
            ids.push(process.id());
        }
        ids
    }
}

/// The result of one pass.
pub(super) struct Pass {
    pub(super) trees: Vec<Found>,
    /// The newest process ID before the pass. `None` where IDs are not handed out in turn.
    pub(super) newest: Option<i32>,
    /// A process had ended, or was exiting, when the pass read it, and may have had children.
    pub(super) missed: bool,
    /// Processes whose environments could not be read, and which are not known to be members.
    pub(super) unread: Vec<(Record, Environment)>,
}

/// The conclusion from the environment or the parent of a process.
enum Verdict {
    /// The process is a member of these trees of the batch.
    Member(Process, Vec<usize>),
    NoMember,
    Ended,
    Unread(Environment),
}

impl Verdict {
    /// Concludes after the process was opened and read: what was read is true of a process that still lives.
    fn of(held: &Held, trees: Vec<usize>) -> io::Result<Self> {
        Ok(match held.process()? {
            Some(process) if held.lives() && !trees.is_empty() => Self::Member(process, trees),
            Some(_) if held.lives() => Self::NoMember,
            _ => Self::Ended,
        })
    }
}

/// A process outside the groups.
struct Candidate {
    record: Record,
    /// The trees of which it is known to be a member.
    trees: Vec<usize>,
    unread: Option<Environment>,
}

/// A member whose children are members.
#[derive(Clone, Copy)]
struct Member {
    id: i32,
    tree: usize,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Group,
    /// Outside the group, at this position of [`Found::outside`].
    Outside(usize),
}

/// Returns a buffer for environments, which holds any variable that execve(2) allows where pages have 4 KiB.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; 256 << 10]
}

pub(super) struct Batch<'a> {
    pub(super) targets: &'a [Target<'a>],
    /// The markers in order, each with the position of its tree.
    markers: Vec<(&'a [u8], usize)>,
    /// The time when the oldest of the trees was spawned.
    since: Time,
}

impl<'a> Batch<'a> {
    pub(super) fn of(targets: &'a [Target<'a>]) -> Self {
        let mut markers = Vec::new();
        let mut since = Time::now();
        for (i, target) in targets.iter().enumerate() {
            if let Some(marker) = &target.membership.marker {
                markers.push((marker.as_bytes(), i));
            }
            since = since.min(target.membership.since);
        }
        sort(&mut markers);
        Self { targets, markers, since }
    }

    /// Makes one pass over all processes; or, with `after`, over the processes whose IDs were handed out after that ID.
    pub(super) fn find(&self, after: Option<i32>) -> io::Result<Pass> {
        // Must precede the list.
        let newest = processes::newest();
        let new = after.map(|after| (after, newest.unwrap_or(after)));
        let mut pass = Pass { trees: Vec::new(), newest, missed: false, unread: Vec::new() };
        for target in self.targets {
            let outside = target.membership.strays();
            pass.trees.push(Found { known: outside.len(), outside, ..Found::default() });
        }
        loop {
            let pinned = self.pinned();
            let mut groups = Vec::new();
            let began = Time::now();
            for (i, target) in self.targets.iter().enumerate() {
                pass.trees[i].began = began;
                if pinned[i] {
                    groups.push((target.membership.group, i));
                } else if target.membership.marker.is_none() {
                    pass.trees[i].error = Some(reaped_elsewhere(target.membership.group));
                }
            }
            let listing = processes::list(&Groups::new(groups), self.since, new)?;
            pass.missed = listing.has_ended;
            self.find_outside(&listing, &pinned, &mut pass)?;
            // If the ID of a group was free in the meantime, discard the members that were read of the group.
            if self.pinned() == pinned {
                for (id, tree) in listing.grouped {
                    let found = &mut pass.trees[tree];
                    // List a known member that has returned to its group only once.
                    let known = &found.outside[..found.known];
                    if search(known.len(), &mut |at| known[at].id().cmp(&id)).is_err() {
                        found.inside.push(id);
                    }
                }
                return Ok(pass);
            }
        }
    }

    /// Returns for each tree whether the ID of its group is its own.
    fn pinned(&self) -> Vec<bool> {
        let mut pinned = Vec::new();
        for target in self.targets {
            pinned.push(target.has_its_id());
        }
        pinned
    }

    /// Finds the members outside the groups: by their markers, then by their parents.
    fn find_outside(&self, listing: &Listing, pinned: &[bool], pass: &mut Pass) -> io::Result<()> {
        let mut candidates = Vec::new();
        for record in &listing.others {
            candidates.push(Candidate { record: *record, trees: Vec::new(), unread: None });
        }
        sort_by(&mut candidates, |one, other| one.record.id < other.record.id);
        let mut members = Vec::new();
        for (id, tree) in &listing.grouped {
            members.push(Member { id: *id, tree: *tree, place: Place::Group });
        }
        for (tree, target) in self.targets.iter().enumerate() {
            if pinned[tree] {
                members.push(Member { id: target.membership.group, tree, place: Place::Group });
            }
            for (n, process) in pass.trees[tree].outside.iter().enumerate() {
                let id = process.id();
                members.push(Member { id, tree, place: Place::Outside(n) });
                let at = search(candidates.len(), &mut |at| candidates[at].record.id.cmp(&id));
                if let Ok(at) = at {
                    candidates[at].trees.push(tree);
                }
            }
        }
        if !self.markers.is_empty() {
            let mut buffer = buffer();
            for candidate in &mut candidates {
                if candidate.trees.len() == self.targets.len() {
                    continue;
                }
                match self.judge_by_marker(&candidate.record, &mut buffer)? {
                    Verdict::Member(process, trees) => {
                        add(pass, &mut members, candidate, process, &trees);
                    }
                    Verdict::NoMember => {}
                    Verdict::Ended => pass.missed = true,
                    Verdict::Unread(why) => {
                        // Its child may have an ID that was handed out after the list began.
                        pass.missed |= why == Environment::Exiting;
                        candidate.unread = Some(why);
                    }
                }
            }
        }
        // Each member that is found is appended to `members`, so its children are looked up as well.
        sort_by(&mut candidates, |one, other| one.record.parent < other.record.parent);
        let mut next = 0;
        while let Some(parent) = members.get(next).copied() {
            next += 1;
            // No item counts as equal, so this finds the first child.
            let (Ok(first) | Err(first)) = search(candidates.len(), &mut |at| {
                candidates[at].record.parent.cmp(&parent.id).then(Ordering::Greater)
            });
            for child in &mut candidates[first..] {
                if child.record.parent != parent.id {
                    break;
                }
                let since = self.targets[parent.tree].membership.since;
                if child.trees.contains(&parent.tree) || !child.record.may_belong(since) {
                    continue;
                }
                match self.judge_by_parent(&child.record, parent, &pass.trees)? {
                    Verdict::Member(process, trees) => {
                        self.targets[parent.tree].membership.remember(process);
                        add(pass, &mut members, child, process, &trees);
                    }
                    Verdict::Ended => pass.missed = true,
                    Verdict::NoMember | Verdict::Unread(_) => {}
                }
            }
        }
        pass.unread.clear();
        for candidate in candidates {
            if let (Some(why), []) = (candidate.unread, &candidate.trees[..]) {
                pass.unread.push((candidate.record, why));
            }
        }
        Ok(())
    }

    fn judge_by_marker(&self, other: &Record, buffer: &mut [u8]) -> io::Result<Verdict> {
        // Most processes carry no marker, so they need not be opened.
        let (shown, trees) = self.read_markers(other, buffer)?;
        match shown {
            Environment::Shown if trees.is_empty() => return Ok(Verdict::NoMember),
            Environment::Shown => {}
            Environment::Empty => return Ok(Verdict::NoMember),
            Environment::Missing => return Ok(Verdict::Ended),
            why => return Ok(Verdict::Unread(why)),
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Ended) };
        let (shown, trees) = self.read_markers(other, buffer)?;
        match shown {
            Environment::Shown => Verdict::of(&held, trees),
            Environment::Empty => Verdict::of(&held, Vec::new()),
            Environment::Missing => Ok(Verdict::Ended),
            why => Ok(Verdict::Unread(why)),
        }
    }

    /// Returns the trees whose markers are in the environment of a process.
    fn read_markers(
        &self,
        other: &Record,
        buffer: &mut [u8],
    ) -> io::Result<(Environment, Vec<usize>)> {
        let mut trees = Vec::new();
        let mut each = |variable: &[u8]| {
            each_carried_by(variable, &mut |marker| {
                let at = search(self.markers.len(), &mut |at| self.markers[at].0.cmp(marker));
                let Ok(at) = at else { return };
                let tree = self.markers[at].1;
                if other.may_belong(self.targets[tree].membership.since) {
                    trees.push(tree);
                }
            });
        };
        let shown = processes::environment(other.id, buffer, &mut each)?;
        Ok((shown, trees))
    }

    fn judge_by_parent(
        &self,
        child: &Record,
        parent: Member,
        trees: &[Found],
    ) -> io::Result<Verdict> {
        let Some(held) = Held::open(child.id)? else { return Ok(Verdict::Ended) };
        let is_parent = held.parent()? == Some(parent.id);
        // This follows the read of the parent's ID.
        let is_member = is_parent
            && match parent.place {
                Place::Outside(n) => trees[parent.tree].outside[n].lives(),
                Place::Group => {
                    let target = &self.targets[parent.tree];
                    let group = target.membership.group;
                    // `has_its_id` follows the read of the group: until now no other group had its ID.
                    (parent.id == group || processes::group_of(parent.id) == Some(group))
                        && target.has_its_id()
                }
            };
        Verdict::of(&held, if is_member { vec![parent.tree] } else { Vec::new() })
    }

    /// Reads processes again that were in the middle of an exec. Returns the members among them, and leaves the processes
    /// that are still unsettled.
    pub(super) fn settle(
        &self,
        waiting: &mut Vec<Record>,
    ) -> io::Result<Vec<(Process, Vec<usize>)>> {
        let mut buffer = buffer();
        let mut members = Vec::new();
        for other in std::mem::take(waiting) {
            match self.judge_by_marker(&other, &mut buffer)? {
                Verdict::Member(process, trees) => members.push((process, trees)),
                Verdict::Unread(Environment::Unsettled) => waiting.push(other),
                Verdict::Unread(_) | Verdict::NoMember | Verdict::Ended => {}
            }
        }
        Ok(members)
    }
}

/// Adds a member outside the groups to the result of a pass.
fn add(
    pass: &mut Pass,
    members: &mut Vec<Member>,
    candidate: &mut Candidate,
    process: Process,
    trees: &[usize],
) {
    for tree in trees {
        if !candidate.trees.contains(tree) {
            let outside = &mut pass.trees[*tree].outside;
            let place = Place::Outside(outside.len());
            members.push(Member { id: process.id(), tree: *tree, place });
            outside.push(process);
            candidate.trees.push(*tree);
        }
    }
}
