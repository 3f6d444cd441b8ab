//! One pass over the process table, for a batch of trees.

use super::Target;
use super::reaped_elsewhere;
use crate::tree::environment_marker;
use crate::tree::processes::{self, Environment, Groups, Held, Listing, Other, Process, Since};
use std::collections::{HashMap, HashSet};
use std::io;

/// The processes that a pass reads.
#[derive(Clone, Copy)]
pub(super) enum Among {
    All,
    /// The processes whose IDs were handed out after the first of these IDs, up to and including the second.
    New(i32, i32),
}

/// The members of one tree that a pass found.
pub(super) struct Found {
    /// Members of the group, including zombies. Empty if the group's ID may belong to another group.
    pub(super) inside: Vec<i32>,
    /// The other members, all living.
    pub(super) outside: Vec<Process>,
    /// The number of processes in `outside` that were remembered from earlier passes.
    pub(super) known: usize,
    /// The start of the pass. A process with an ID of `inside` that is older than this is the process that was found.
    pub(super) began: Since,
    pub(super) error: Option<io::Error>,
}

impl Found {
    pub(super) fn nothing() -> Self {
        let (inside, outside) = (Vec::new(), Vec::new());
        Self { inside, outside, known: 0, began: Since::now(), error: None }
    }

    fn before_a_pass(target: &Target<'_>) -> Self {
        let outside = target.membership.strays();
        Self { known: outside.len(), outside, ..Self::nothing() }
    }

    /// Returns whether there is no member.
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i32> {
        self.inside.iter().copied().chain(self.outside.iter().map(Process::id))
    }
}

/// The result of one pass.
pub(super) struct Pass {
    pub(super) trees: Vec<Found>,
    /// A process had ended when the pass read it, and may have had children.
    pub(super) missed: bool,
    /// Processes whose environments could not be read, and which are not known to be members.
    pub(super) unread: Vec<Unread>,
}

#[derive(Clone, Copy)]
pub(super) struct Unread {
    pub(super) process: Other,
    pub(super) why: Environment,
}

/// The conclusion from the environment or the parent of a process.
enum Verdict {
    /// The process is a member of these trees of the batch.
    Member(Process, Vec<usize>),
    NoMember,
    Ended,
    Unread(Environment),
}

/// The place of a member of a tree.
#[derive(Clone, Copy)]
enum Place {
    Group,
    /// Outside the group, at this position of [`Found::outside`].
    Outside(usize),
}

/// The members that a pass has found so far: for each process ID its trees, and its place in each.
type Members = HashMap<i32, Vec<(usize, Place)>>;

pub(super) struct Batch<'a> {
    pub(super) targets: &'a [Target<'a>],
    /// The position of each tree, by its marker.
    pub(super) markers: HashMap<&'a [u8], usize>,
    /// The time when the oldest of the trees was spawned.
    pub(super) since: Since,
}

impl<'a> Batch<'a> {
    pub(super) fn of(targets: &'a [Target<'a>]) -> Self {
        let mut markers = HashMap::new();
        for (i, target) in targets.iter().enumerate() {
            if let Some(marker) = &target.membership.marker {
                markers.insert(marker.as_bytes(), i);
            }
        }
        let since = targets.iter().map(|target| target.membership.since).min();
        Self { targets, markers, since: since.unwrap_or_else(Since::now) }
    }

    /// Makes one pass.
    pub(super) fn find(&self, among: Among) -> io::Result<Pass> {
        let mut trees: Vec<Found> = self.targets.iter().map(Found::before_a_pass).collect();
        loop {
            let pinned: Vec<bool> = self.targets.iter().map(Target::has_its_id).collect();
            let mut groups = Groups::new();
            for (i, target) in self.targets.iter().enumerate() {
                if pinned[i] {
                    groups.insert(target.membership.group, i);
                } else if target.membership.marker.is_none() {
                    trees[i].error = Some(reaped_elsewhere(target.membership.group));
                }
            }
            let began = Since::now();
            trees.iter_mut().for_each(|found| found.began = began);
            let table = match among {
                Among::All => processes::list(&groups, self.since)?,
                Among::New(after, newest) => {
                    processes::list_new(&groups, self.since, after, newest)?
                }
            };
            let mut pass = Pass { trees, missed: table.has_ended, unread: Vec::new() };
            self.find_outside(&table, &pinned, &mut pass)?;
            // If the ID of a group was free in the meantime, discard the members that were read of the group.
            if self.targets.iter().zip(&pinned).all(|(target, was)| *was == target.has_its_id()) {
                for (id, tree) in table.grouped {
                    pass.trees[tree].inside.push(id);
                }
                for found in &mut pass.trees {
                    // List a known member that has returned to its group only once.
                    let known: HashSet<i32> = found.outside.iter().map(Process::id).collect();
                    found.inside.retain(|id| !known.contains(id));
                }
                return Ok(pass);
            }
            trees = pass.trees;
        }
    }

    /// Finds the members outside the groups: by their markers, then by their parents.
    fn find_outside(&self, table: &Listing, pinned: &[bool], pass: &mut Pass) -> io::Result<()> {
        let mut members = Members::new();
        for (id, tree) in &table.grouped {
            members.entry(*id).or_default().push((*tree, Place::Group));
        }
        for (i, target) in self.targets.iter().enumerate() {
            let leader = members.entry(target.membership.group).or_default();
            if pinned[i] && leader.iter().all(|(tree, _)| *tree != i) {
                leader.push((i, Place::Group));
            }
            for (n, process) in pass.trees[i].outside.iter().enumerate() {
                members.entry(process.id()).or_default().push((i, Place::Outside(n)));
            }
        }
        let is_member_of_all =
            |id: i32| members.get(&id).is_some_and(|trees| trees.len() == self.targets.len());
        let mut rest: Vec<Other> =
            table.others.iter().copied().filter(|other| !is_member_of_all(other.id)).collect();
        if !self.markers.is_empty() {
            let mut buffer = Vec::new();
            let mut unmarked = Vec::new();
            for other in rest {
                match self.judge_by_marker(other, &mut buffer)? {
                    Verdict::Member(process, trees) => {
                        add(pass, &mut members, &process, &trees);
                    }
                    Verdict::NoMember => unmarked.push(other),
                    Verdict::Ended => pass.missed = true,
                    Verdict::Unread(why) => {
                        pass.unread.push(Unread { process: other, why });
                        unmarked.push(other);
                    }
                }
            }
            rest = unmarked;
        }
        // Repeat, because a child may precede its parent in the list.
        loop {
            let mut found = false;
            let mut undecided = Vec::new();
            for other in rest {
                match self.judge_by_parent(other, &members, &pass.trees)? {
                    Verdict::Member(process, trees) => {
                        for tree in &trees {
                            self.targets[*tree].membership.remember(&process);
                        }
                        add(pass, &mut members, &process, &trees);
                        found = true;
                    }
                    Verdict::Ended => pass.missed = true,
                    Verdict::NoMember | Verdict::Unread(_) => undecided.push(other),
                }
            }
            rest = undecided;
            if !found {
                break;
            }
        }
        pass.unread.retain(|unread| !members.contains_key(&unread.process.id));
        Ok(())
    }

    fn judge_by_marker(&self, other: Other, buffer: &mut Vec<u8>) -> io::Result<Verdict> {
        // Most processes carry no marker, so they need not be opened.
        match processes::environment(other.id, buffer)? {
            Environment::Shown if self.carried(other, buffer).is_empty() => {
                return Ok(Verdict::NoMember);
            }
            Environment::Shown => {}
            Environment::Empty => return Ok(Verdict::NoMember),
            Environment::Missing => return Ok(Verdict::Ended),
            why => return Ok(Verdict::Unread(why)),
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Ended) };
        let trees = match processes::environment(other.id, buffer)? {
            Environment::Shown => self.carried(other, buffer),
            Environment::Empty => Vec::new(),
            Environment::Missing => return Ok(Verdict::Ended),
            why => return Ok(Verdict::Unread(why)),
        };
        Ok(match held.process()? {
            Some(process) if held.lives() && !trees.is_empty() => Verdict::Member(process, trees),
            Some(_) if held.lives() => Verdict::NoMember,
            _ => Verdict::Ended,
        })
    }

    /// Returns the trees whose markers are in this environment.
    fn carried(&self, other: Other, environment: &[u8]) -> Vec<usize> {
        let trees =
            environment_marker::carried(environment).filter_map(|marker| self.markers.get(marker));
        trees
            .copied()
            .filter(|tree| other.may_belong(self.targets[*tree].membership.since))
            .collect()
    }

    fn judge_by_parent(
        &self,
        other: Other,
        members: &Members,
        trees: &[Found],
    ) -> io::Result<Verdict> {
        let known = members.get(&other.id).map_or(&[][..], Vec::as_slice);
        let mut by_parent = members.get(&other.parent).cloned().unwrap_or_default();
        by_parent.retain(|(tree, _)| {
            known.iter().all(|(other, _)| other != tree)
                && other.may_belong(self.targets[*tree].membership.since)
        });
        if by_parent.is_empty() {
            return Ok(Verdict::NoMember);
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Ended) };
        if held.parent()? != Some(other.parent) {
            by_parent.clear();
        }
        // This follows the read of the parent's ID.
        by_parent.retain(|(tree, place)| match place {
            Place::Outside(n) => trees[*tree].outside.get(*n).is_some_and(Process::lives),
            Place::Group => {
                let target = &self.targets[*tree];
                let group = target.membership.group;
                // `has_its_id` follows the read of the group: until now no other group had its ID.
                (other.parent == group || processes::group_of(other.parent) == Some(group))
                    && target.has_its_id()
            }
        });
        Ok(match held.process()? {
            Some(process) if held.lives() && !by_parent.is_empty() => {
                Verdict::Member(process, by_parent.into_iter().map(|(tree, _)| tree).collect())
            }
            Some(_) if held.lives() => Verdict::NoMember,
            _ => Verdict::Ended,
        })
    }

    /// Reads processes again that were in the middle of an exec. Returns the members among them, and leaves the processes
    /// that are still unsettled.
    pub(super) fn settle(
        &self,
        waiting: &mut Vec<Other>,
    ) -> io::Result<Vec<(Process, Vec<usize>)>> {
        let mut buffer = Vec::new();
        let mut members = Vec::new();
        for other in std::mem::take(waiting) {
            match self.judge_by_marker(other, &mut buffer)? {
                Verdict::Member(process, trees) => members.push((process, trees)),
                Verdict::Unread(Environment::Unsettled) => waiting.push(other),
                Verdict::Unread(_) | Verdict::NoMember | Verdict::Ended => {}
            }
        }
        Ok(members)
    }
}

/// Adds a member outside the groups to the result of a pass.
fn add(pass: &mut Pass, members: &mut Members, process: &Process, trees: &[usize]) {
    let places = members.entry(process.id()).or_default();
    for tree in trees {
        if places.iter().all(|(other, _)| other != tree) {
            let outside = &mut pass.trees[*tree].outside;
            places.push((*tree, Place::Outside(outside.len())));
            outside.push(process.clone());
        }
    }
}
