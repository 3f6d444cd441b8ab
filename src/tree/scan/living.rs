//! Finds the living members of a batch of trees, and waits for their end.

use super::pass::{Batch, Found};
use super::{Target, first_after, is_among};
use crate::sort::{missing, sort};
use crate::sys::copy_error;
use crate::tree::processes::{self, AT_ONCE, Environment, Held, PASSES, Process, Record};
use std::io;
use std::time::{Duration, Instant};

/// Blocks until no member of a tree is left (`true`), or until the deadline. Checks every tree at least once.
pub(in crate::tree) fn wait_empty(
    targets: &[Target<'_>],
    deadline: Option<Instant>,
) -> Vec<io::Result<bool>> {
    let (mut results, mut pending) = (Vec::new(), Vec::new());
    for (i, target) in targets.iter().enumerate() {
        // While the leader runs, the tree is not empty. (An error means that another part of the program reaped it.)
        if !matches!(target.leader.wait(deadline), Ok(None)) {
            pending.push(i);
        }
        results.push(Ok(false));
    }
    let mut pause = Duration::from_millis(1);
    while !pending.is_empty() {
        let (mut batch, mut left) = (Vec::new(), Vec::new());
        for i in &pending {
            batch.push(targets[*i]);
        }
        let mut ended = false;
        let mut uncertain = None;
        for (n, living) in Batch::of(&batch).living().into_iter().enumerate() {
            let i = pending[n];
            let has_passed = deadline.is_some_and(|deadline| deadline <= Instant::now());
            results[i] = match living {
                Err(error) => Err(error),
                Ok(living) if living.found.is_empty() && living.possible.is_empty() => Ok(true),
                // Without this check, a tree that forks and exits all the time would keep the call past the deadline.
                Ok(_) if has_passed => Ok(false),
                Ok(living) if living.found.is_empty() => {
                    uncertain = living.possible.first().copied().or(uncertain);
                    left.push(i);
                    Ok(false)
                }
                Ok(living) => {
                    let waited = living.wait(&targets[i], deadline);
                    if matches!(waited, Ok(true)) {
                        ended = true;
                        left.push(i);
                    }
                    waited
                }
            };
        }
        pending = left;
        // The remaining processes might not be members. Each wait is short, because a later pass may show that they are
        // not.
        if let (false, Some(process)) = (ended, uncertain) {
            let until = Instant::now() + pause;
            process.wait(Some(deadline.map_or(until, |deadline| deadline.min(until))));
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
    results
}

/// Returns a living member of each tree, or a process that may be a member. While it lives, the tree is not empty. The
/// leaders have exited.
pub(in crate::tree) fn survivors(targets: &[Target<'_>]) -> Vec<io::Result<Option<Process>>> {
    let mut survivors = Vec::new();
    for living in Batch::of(targets).living() {
        survivors.push(match living {
            Ok(Living { found, witness, possible }) => {
                Ok(witness.or(found.outside.first().copied()).or(possible.first().copied()))
            }
            Err(error) => Err(error),
        });
    }
    survivors
}

/// Returns the process IDs of the living members.
pub(in crate::tree) fn processes(target: Target<'_>) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for living in Batch::of(&[target]).living() {
        all = living?.found.ids();
    }
    // The leader may have left its group.
    if !all.contains(&target.membership.group) && matches!(target.leader.try_wait(), Ok(None)) {
        all.push(target.membership.group);
    }
    Ok(all)
}

/// The number of IDs that are read faster than the list of all processes.
const FEW: i32 = 1000;

/// The living members of one tree.
#[derive(Default)]
struct Living {
    /// Excludes zombies.
    found: Found,
    /// A member of the group.
    witness: Option<Process>,
    /// Processes that cannot be read and may be members. Filled only if no member is found.
    possible: Vec<Process>,
}

impl Living {
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
        let (mut living, mut empty) = (Vec::new(), Vec::new());
        // The processes that are known to have ended, in order. The leaders have exited.
        let mut ended = Vec::new();
        for (i, target) in self.targets.iter().enumerate() {
            living.push(Ok(Living::default()));
            ended.push(target.membership.group);
            empty.push(i);
        }
        sort(&mut ended);
        let mut unread = Vec::new();
        let mut after = None;
        for passes in 1.. {
            let (mut targets, mut left) = (Vec::new(), Vec::new());
            for i in &empty {
                targets.push(self.targets[*i]);
            }
            let pass = match Batch::of(&targets).find(after) {
                Ok(pass) => pass,
                Err(error) => return self.each_fails(&mut |_| copy_error(&error)),
            };
            let mut found_ended = Vec::new();
            for (n, found) in pass.trees.into_iter().enumerate() {
                let i = empty[n];
                living[i] = living_of(&targets[n], found, &mut found_ended);
                if matches!(&living[i], Ok(living) if living.found.is_empty()) {
                    left.push(i);
                }
            }
            let is_found = left.len() < empty.len();
            empty = left;
            if empty.is_empty() {
                return living;
            }
            let newly_ended = missing(&found_ended, &ended);
            ended.extend(&newly_ended);
            sort(&mut ended);
            if after.is_none() {
                unread.clear();
            }
            unread.extend(&pass.unread);
            // The child of an ended process has an ID that was handed out after the parent's.
            let oldest = first_after(after.unwrap_or(0), &newly_ended);
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
                return self.each_fails(&mut |target| target.too_fast());
            }
        }
        self.find_possible(&mut living, &unread);
        living
    }

    fn each_fails(
        &self,
        error: &mut dyn FnMut(&Target<'_>) -> io::Error,
    ) -> Vec<io::Result<Living>> {
        let mut all = Vec::new();
        for target in self.targets {
            all.push(Err(error(target)));
        }
        all
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
        let mut ids = Vec::new();
        for (process, _) in unread {
            ids.push(process.id);
        }
        sort(&mut ids);
        for (i, target) in self.targets.iter().enumerate() {
            let Ok(living) = &mut living[i] else { continue };
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
                if !may_belong {
                    continue;
                }
                if let Ok(Some(held)) = Held::open(*id) {
                    match held.process() {
                        Ok(Some(process)) if held.lives() => living.possible.push(process),
                        _ => {}
                    }
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
            if witness.is_some() && is_among(inside, *id) {
                found.inside.push(*id);
            } else {
                ended.push(*id);
            }
        }
        found.outside.extend(&opened.left);
    }
    Ok(Living { found, witness, possible: Vec::new() })
}
