//! Finds the living members of a batch of trees, and waits for their end.

use super::pass::{Batch, Found};
use super::{Target, copy};
use crate::tree::processes::{self, AT_ONCE, Environment, Held, PASSES, Process, Record};
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
    let mut pause = Duration::from_millis(1);
    loop {
        let pending: Vec<usize> = (0..targets.len()).filter(|i| results[*i].is_none()).collect();
        if pending.is_empty() {
            break;
        }
        let batch: Vec<Target<'_>> = pending.iter().map(|i| targets[*i]).collect();
        let mut ended = false;
        let mut uncertain = None;
        for (i, living) in pending.into_iter().zip(Batch::of(&batch).living()) {
            let has_passed = deadline.is_some_and(|deadline| deadline <= Instant::now());
            results[i] = match living {
                Err(error) => Some(Err(error)),
                Ok(living) if living.found.is_empty() && living.possible.is_empty() => {
                    Some(Ok(true))
                }
                // Without this check, a tree that forks and exits all the time would keep the call past the deadline.
                Ok(_) if has_passed => Some(Ok(false)),
                Ok(living) if living.found.is_empty() => {
                    uncertain = living.possible.first().copied().or(uncertain);
                    None
                }
                Ok(living) => match living.wait(&targets[i], deadline) {
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
            let until = Instant::now() + pause;
            process.wait(Some(deadline.map_or(until, |deadline| deadline.min(until))));
            pause = (pause * 2).min(Duration::from_millis(500));
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
    let mut all = living.found.ids();
    // The leader may have left its group.
    if !all.contains(&target.membership.group) && matches!(target.leader.try_wait(), Ok(None)) {
        all.push(target.membership.group);
    }
    Ok(all)
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
            if !opened.held.iter().all(|held| held.wait(deadline)) {
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
        // The processes that are known to have ended, in order. The leaders have exited.
        let mut ended: Vec<i32> =
            self.targets.iter().map(|target| target.membership.group).collect();
        ended.sort_unstable();
        let mut unread = Vec::new();
        let mut after = None;
        for passes in 1.. {
            let is_empty =
                |living: &io::Result<Living>| living.as_ref().is_ok_and(|one| one.found.is_empty());
            let empty: Vec<usize> = (0..living.len()).filter(|i| is_empty(&living[*i])).collect();
            if empty.is_empty() {
                return living;
            }
            let targets: Vec<Target<'_>> = empty.iter().map(|i| self.targets[*i]).collect();
            let pass = match Batch::of(&targets).find(after) {
                Ok(pass) => pass,
                Err(error) => return self.targets.iter().map(|_| Err(copy(&error))).collect(),
            };
            let (mut is_found, mut newly_ended) = (false, Vec::new());
            for ((target, found), i) in targets.iter().zip(pass.trees).zip(empty) {
                living[i] = living_of(target, found, &mut newly_ended);
                is_found |= !is_empty(&living[i]);
            }
            newly_ended.retain(|id| ended.binary_search(id).is_err());
            ended.extend(&newly_ended);
            ended.sort_unstable();
            if after.is_none() {
                unread.clear();
            }
            unread.extend(pass.unread);
            // The child of an ended process has an ID that was handed out after the parent's. IDs wrap around.
            let start = after.unwrap_or(0);
            let oldest = newly_ended.into_iter().min_by_key(|id| (*id <= start, *id));
            after = match (after, pass.newest, oldest) {
                // A member that was found can hide members of the other trees.
                (after, ..) if is_found => after,
                (None, Some(newest), Some(oldest)) if newest - oldest < FEW => {
                    Some(oldest.min(newest))
                }
                (None, _, Some(_)) => None,
                (None, Some(newest), None) => Some(newest),
                // The system does not hand out IDs in turn.
                (None, None, None) => break,
                (Some(_), _, Some(oldest)) => Some(oldest),
                (Some(after), newest, None) if pass.missed => newest.or(Some(after)),
                (Some(_), _, None) => break,
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
    fn find_possible(&self, living: &mut [io::Result<Living>], unread: &[(Record, Environment)]) {
        if unread.is_empty() {
            return;
        }
        let adopters = processes::adopters();
        let mut ids: Vec<i32> = unread.iter().map(|(process, _)| process.id).collect();
        ids.sort_unstable();
        for (target, living) in self.targets.iter().zip(living) {
            let Ok(living) = living else { continue };
            if !target.membership.is_marked() || !living.found.is_empty() {
                continue;
            }
            for (process, why) in unread {
                let Record { id, parent, .. } = process;
                let may_be_orphan = !adopters.contains(id)
                    && (adopters.contains(parent) || ids.binary_search(parent).is_ok());
                let may_belong = may_be_orphan
                    && process.may_belong(target.membership.since)
                    // The kernel does not show the control groups of an exiting process. It ends soon.
                    && (*why == Environment::Exiting
                        || processes::may_descend_from(*id, target.membership.group));
                if may_belong {
                    let held = Held::open(*id).ok().flatten().filter(Held::lives);
                    living.possible.extend(held.and_then(|held| held.process().ok().flatten()));
                }
            }
        }
    }
}

/// Retains the living members. Adds the processes of the group that had ended when they were opened to `ended`.
fn living_of(target: &Target<'_>, mut found: Found, ended: &mut Vec<i32>) -> io::Result<Living> {
    if let Some(error) = found.error {
        return Err(error);
    }
    let mut witness = None;
    for ids in std::mem::take(&mut found.inside).chunks(AT_ONCE) {
        let opened = target.open_seen(ids, found.began)?;
        let inside = &opened.held[..opened.inside];
        for held in inside {
            if witness.is_none() {
                witness = held.process()?;
            }
        }
        for id in ids {
            // Without a witness, all members have ended since they were opened.
            if witness.is_some() && inside.iter().any(|held| held.id() == *id) {
                found.inside.push(*id);
            } else {
                ended.push(*id);
            }
        }
        found.outside.extend(opened.left);
    }
    Ok(Living { found, witness, possible: Vec::new() })
}
