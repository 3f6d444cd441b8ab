//! Finds the living members of a batch of trees, and waits for their end.

use super::pass::{Among, Batch, Found, Unread};
use super::{Target, copy};
use crate::tree::processes::{self, AT_ONCE, Environment, Held, Other, PASSES, Process};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// Blocks until no member of a tree is left (`true`), or until the deadline. Checks every tree at least once.
pub(in crate::tree) fn wait_empty(
    targets: &[Target<'_>],
    deadline: Option<Instant>,
) -> Vec<io::Result<bool>> {
    let mut results: Vec<Option<io::Result<bool>>> = Vec::new();
    for target in targets {
        // While the leader runs, the tree is not empty. (An error means that another part of the program reaped it.)
        let runs = matches!(target.leader.wait(deadline), Ok(None));
        results.push(runs.then_some(Ok(false)));
    }
    let mut pause = Pause::new();
    loop {
        let pending: Vec<usize> = (0..targets.len()).filter(|i| results[*i].is_none()).collect();
        if pending.is_empty() {
            break;
        }
        let batch: Vec<Target<'_>> = pending.iter().map(|i| targets[*i]).collect();
        let mut ended = false;
        let mut uncertain = None;
        for (i, (target, living)) in
            pending.into_iter().zip(batch.iter().zip(Batch::of(&batch).living()))
        {
            results[i] = match living {
                Err(error) => Some(Err(error)),
                Ok(living) if living.found.is_empty() && living.possible.is_empty() => {
                    Some(Ok(true))
                }
                Ok(living) if living.found.is_empty() => {
                    uncertain = living.possible.into_iter().next().or(uncertain);
                    has_passed(deadline).then_some(Ok(false))
                }
                // Without this check, a tree that forks and exits all the time would keep the call past the deadline.
                Ok(_) if has_passed(deadline) => Some(Ok(false)),
                Ok(living) => match living.wait(target, deadline) {
                    Ok(true) => {
                        ended = true;
                        None
                    }
                    in_time => Some(in_time),
                },
            };
        }
        // The remaining processes might not be members. Each wait is short, because a later pass may show that they are
        // not.
        if let (false, Some(process)) = (ended, uncertain) {
            let until = Instant::now() + pause.next();
            process.wait(Some(deadline.map_or(until, |deadline| deadline.min(until))));
        }
    }
    results.into_iter().map(|result| result.unwrap_or(Ok(false))).collect()
}

/// Returns a living member of each tree, or a process that may be a member. While it lives, the tree is not empty. The
/// leaders have exited.
pub(in crate::tree) fn survivors(targets: &[Target<'_>]) -> Vec<io::Result<Option<Process>>> {
    Batch::of(targets)
        .living()
        .into_iter()
        .map(|living| {
            let Living { found, witness, possible } = living?;
            Ok(witness.or(found.outside.into_iter().next()).or(possible.into_iter().next()))
        })
        .collect()
}

/// Returns the process IDs of the living members.
pub(in crate::tree) fn processes(target: Target<'_>) -> io::Result<Vec<i32>> {
    let living = Batch::of(&[target]).living().pop().unwrap_or_else(|| Ok(Living::nothing()))?;
    let mut all: Vec<i32> = living.found.ids().collect();
    // The leader may have left its group.
    if !all.contains(&target.membership.group) && matches!(target.leader.try_wait(), Ok(None)) {
        all.push(target.membership.group);
    }
    Ok(all)
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Pauses between passes that no notice can trigger: from 1 ms, doubling, to 500 ms.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(Duration::from_millis(1))
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_millis(500));
        pause
    }
}

/// The number of IDs that are read faster than the list of all processes.
const FEW: i32 = 1000;

/// The living members of one tree.
struct Living {
    /// Excludes zombies.
    found: Found,
    /// A member of the group.
    witness: Option<Process>,
    /// Processes that cannot be read and may be members. Filled only if no member is found.
    possible: Vec<Process>,
}

impl Living {
    fn nothing() -> Self {
        Self { found: Found::nothing(), witness: None, possible: Vec::new() }
    }

    /// Blocks until all of these members have ended (`true`), or until the deadline.
    fn wait(&self, target: &Target<'_>, deadline: Option<Instant>) -> io::Result<bool> {
        for ids in self.found.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, self.found.began)?;
            if !opened.inside.iter().chain(&opened.left).all(|held| held.wait(deadline)) {
                return Ok(false);
            }
        }
        Ok(self.found.outside.iter().all(|process| process.wait(deadline)))
    }
}

impl Batch<'_> {
    /// Returns the living members of each tree, except for a leader that has left its group. If a tree forks in the
    /// meantime, some members may be missing, but never all.
    ///
    /// A pass is repeated for the trees that seem to be empty if it found a process that can hide their members: a
    /// process that had ended when it was opened, and may have forked before; or a member of another tree, because a
    /// process in the group of one tree is not read for the other trees.
    fn living(&self) -> Vec<io::Result<Living>> {
        let mut living: Vec<io::Result<Living>> =
            self.targets.iter().map(|_| Ok(Living::nothing())).collect();
        // The leaders have exited.
        let mut ended: Vec<HashSet<i32>> =
            self.targets.iter().map(|target| HashSet::from([target.membership.group])).collect();
        let mut unread = Vec::new();
        let mut after = processes::newest();
        let mut among = Among::All;
        for passes in 1.. {
            let is_empty =
                |living: &io::Result<Living>| living.as_ref().is_ok_and(|one| one.found.is_empty());
            let empty: Vec<usize> = (0..living.len()).filter(|i| is_empty(&living[*i])).collect();
            if empty.is_empty() {
                return living;
            }
            let targets: Vec<Target<'_>> = empty.iter().map(|i| self.targets[*i]).collect();
            let batch = Batch::of(&targets);
            let pass = match batch.find(among) {
                Ok(pass) => pass,
                Err(error) => return self.targets.iter().map(|_| Err(copy(&error))).collect(),
            };
            let (mut is_found, mut newly_ended) = (false, Vec::new());
            for ((target, found), i) in targets.iter().zip(pass.trees).zip(empty) {
                living[i] = living_of(target, found, &mut ended[i], &mut newly_ended);
                is_found |= !is_empty(&living[i]);
            }
            match among {
                Among::All => unread = pass.unread,
                Among::New(..) => unread.extend(pass.unread),
            }
            // The child of an ended process has an ID that was handed out after the parent's. IDs wrap around.
            let oldest = match among {
                Among::All => newly_ended.iter().copied().min(),
                Among::New(first, _) => {
                    newly_ended.iter().copied().min_by_key(|id| (*id <= first, *id))
                }
            };
            let from = match (among, oldest, after) {
                (Among::All, Some(oldest), Some(after)) if !is_found && after - oldest < FEW => {
                    Some(oldest.min(after))
                }
                (Among::All, Some(_), _) => None,
                (Among::All, None, after) if !is_found => after,
                (Among::All, None, _) => None,
                (Among::New(first, _), ..) if is_found => Some(first),
                (Among::New(..), Some(oldest), _) => Some(oldest),
                (Among::New(..), None, after) if pass.missed => after,
                (Among::New(..), None, _) => break,
            };
            among = match from {
                Some(from) => {
                    let newest = processes::newest().unwrap_or(from);
                    after = Some(newest);
                    Among::New(from, newest)
                }
                None if is_found || oldest.is_some() => {
                    after = processes::newest();
                    Among::All
                }
                // The system does not hand out IDs in turn.
                None => break,
            };
            if passes == PASSES {
                return self.targets.iter().map(|target| Err(target.too_fast())).collect();
            }
        }
        self.find_possible(&mut living, &unread);
        living
    }

    /// Finds the processes that cannot be read and may be orphaned members, for trees without a known living member.
    ///
    /// The parent of an orphan is an ancestor of this process, or the init process. A process with another parent is a
    /// member only if its parent is a member, or is unread as well. A process in another control group or audit session
    /// than this program (a service that was started in the meantime, for example) does not count as a member.
    fn find_possible(&self, living: &mut [io::Result<Living>], unread: &[Unread]) {
        if unread.is_empty() {
            return;
        }
        let adopters = processes::adopters();
        let ids: HashSet<i32> = unread.iter().map(|unread| unread.process.id).collect();
        let orphans: Vec<&Unread> = unread
            .iter()
            .filter(|Unread { process, .. }| {
                let Other { id, parent, .. } = process;
                (adopters.contains(parent) || ids.contains(parent)) && !adopters.contains(id)
            })
            .collect();
        for (target, living) in self.targets.iter().zip(living) {
            let Ok(living) = living else { continue };
            if !target.membership.is_marked() || !living.found.is_empty() {
                continue;
            }
            let (leader, since) = (target.membership.group, target.membership.since);
            let candidates = orphans.iter().filter(|Unread { process, why }| {
                process.may_belong(since)
                    // The kernel does not show the control groups of an exiting process. It ends soon.
                    && (*why == Environment::Exiting
                        || processes::may_descend_from(process.id, leader))
            });
            for other in candidates {
                let process = Held::open(other.process.id).and_then(|held| match held {
                    Some(held) if held.lives() => held.process(),
                    _ => Ok(None),
                });
                living.possible.extend(process.ok().flatten());
            }
        }
    }
}

/// Retains the living members. Adds the processes of the group that had ended when they were opened to `ended`, and the
/// processes that `ended` did not contain to `newly`.
fn living_of(
    target: &Target<'_>,
    mut found: Found,
    ended: &mut HashSet<i32>,
    newly: &mut Vec<i32>,
) -> io::Result<Living> {
    if let Some(error) = found.error {
        return Err(error);
    }
    let mut witness = None;
    for ids in std::mem::take(&mut found.inside).chunks(AT_ONCE) {
        let opened = target.open_seen(ids, found.began)?;
        for held in &opened.inside {
            if witness.is_none() {
                witness = held.process()?;
            }
        }
        // Without a witness, all members have ended since they were opened.
        let opened_ids: Vec<i32> = match witness {
            Some(_) => opened.inside.iter().map(Held::id).collect(),
            None => Vec::new(),
        };
        for id in ids {
            if !opened_ids.contains(id) && ended.insert(*id) {
                newly.push(*id);
            }
        }
        found.inside.extend(opened_ids);
        found.outside.extend(opened.left_processes);
    }
    Ok(Living { found, witness, possible: Vec::new() })
}
