//! Finding out whether members of a batch of trees live, and waiting for their end.

use super::pass::{Among, Batch, Sighting, Unread};
use super::{Target, copy};
use crate::tree::processes::{self, AT_ONCE, Environment, Held, Other, PASSES, Process, Since};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// Blocks until no member of a tree is left (`true`), or until the deadline. Every tree is looked at once at least.
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
                Ok(living) if living.is_empty() && living.possible.is_empty() => Some(Ok(true)),
                Ok(living) if living.is_empty() => {
                    uncertain = living.possible.into_iter().next().or(uncertain);
                    has_passed(deadline).then_some(Ok(false))
                }
                Ok(living) => match living.wait(target, deadline) {
                    Ok(true) => {
                        ended = true;
                        None
                    }
                    in_time => Some(in_time),
                },
            };
        }
        // Nothing is left that can be waited for but processes that may be strangers, or may turn out to be.
        if let (false, Some(process)) = (ended, uncertain) {
            let until = Instant::now() + pause.next();
            process.wait(Some(deadline.map_or(until, |deadline| deadline.min(until))));
        }
    }
    results.into_iter().map(|result| result.unwrap_or(Ok(false))).collect()
}

/// A living member of each tree, if there is one: while it lives, the tree is not empty. A process that may be a member
/// counts. The leader has exited.
pub(in crate::tree) fn survivors(targets: &[Target<'_>]) -> Vec<io::Result<Option<Process>>> {
    let living = Batch::of(targets).living();
    targets
        .iter()
        .zip(living)
        .map(|(target, living)| {
            let Living { inside, outside, possible, began } = living?;
            if let Some(process) = outside.into_iter().next() {
                return Ok(Some(process));
            }
            for ids in inside.chunks(AT_ONCE) {
                for held in target.open_seen(ids, began)?.inside {
                    if let Some(process) = held.process()? {
                        return Ok(Some(process));
                    }
                }
            }
            Ok(possible.into_iter().next())
        })
        .collect()
}

/// The process IDs of the members that live.
pub(in crate::tree) fn processes(target: Target<'_>) -> io::Result<Vec<i32>> {
    let living = Batch::of(&[target]).living().pop().unwrap_or_else(|| Ok(Living::nothing()))?;
    let mut all: Vec<i32> =
        living.outside.iter().map(Process::id).chain(living.inside.iter().copied()).collect();
    // The leader may have left its group.
    if !all.contains(&target.membership.group) && matches!(target.leader.try_wait(), Ok(None)) {
        all.push(target.membership.group);
    }
    Ok(all)
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Pauses between passes that cannot be told when to come: from 1 ms, doubling, to half a second.
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

/// The members of one tree that live.
struct Living {
    inside: Vec<i32>,
    outside: Vec<Process>,
    /// Processes that cannot be read and may be members. Looked for only if there is no other.
    possible: Vec<Process>,
    began: Since,
}

impl Living {
    fn nothing() -> Self {
        let began = Since::now();
        Self { inside: Vec::new(), outside: Vec::new(), possible: Vec::new(), began }
    }

    /// Whether no member is known to live.
    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    /// Blocks until all of these have ended (`true`), or until the deadline.
    fn wait(&self, target: &Target<'_>, deadline: Option<Instant>) -> io::Result<bool> {
        for ids in self.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, self.began)?;
            if !opened.inside.iter().chain(&opened.left).all(|held| held.wait(deadline)) {
                return Ok(false);
            }
        }
        Ok(self.outside.iter().all(|process| process.wait(deadline)))
    }
}

impl Batch<'_> {
    /// All members that live, but for a leader that has left its group. Of a tree that forks meanwhile some may be missing,
    /// but not all.
    fn living(&self) -> Vec<io::Result<Living>> {
        let all = |error: io::Error| self.targets.iter().map(|_| Err(copy(&error))).collect();
        let newest = processes::newest();
        let pass = match self.find(Among::All, self.nothing_known()) {
            Ok(pass) => pass,
            Err(error) => return all(error),
        };
        let mut unread = pass.unread;
        let mut living: Vec<io::Result<Living>> = Vec::new();
        for (target, sighting) in self.targets.iter().zip(pass.trees) {
            living.push(living_of(target, sighting, pass.began));
        }
        let is_empty =
            |living: &io::Result<Living>| living.as_ref().is_ok_and(|living| living.is_empty());
        let Some(mut after) = newest else {
            self.find_possible(&mut living, &unread);
            return living;
        };
        for _ in 0..PASSES {
            let empty: Vec<usize> = (0..living.len()).filter(|i| is_empty(&living[*i])).collect();
            if empty.is_empty() {
                return living;
            }
            let targets: Vec<Target<'_>> = empty.iter().map(|i| self.targets[*i]).collect();
            let batch = Batch::of(&targets);
            let last = processes::newest().unwrap_or(after);
            let pass = match batch.find(Among::New(after, last), batch.nothing_known()) {
                Ok(pass) => pass,
                Err(error) => return all(error),
            };
            for ((target, sighting), i) in targets.iter().zip(pass.trees).zip(empty) {
                living[i] = living_of(target, sighting, pass.began);
            }
            unread.extend(pass.unread);
            if !pass.gone {
                self.find_possible(&mut living, &unread);
                return living;
            }
            after = last;
        }
        self.targets.iter().map(|target| Err(target.too_fast())).collect()
    }

    /// Of trees without a known living member: finds the processes that cannot be read and may be orphaned members.
    ///
    /// The parent of an orphan is an ancestor of this process, or the init process. A process with another parent is a
    /// member only if its parent is one, or is unread as well. A process in another control group or audit session than
    /// this program (a service that was started meanwhile, say) counts as a stranger.
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
            if !target.membership.is_marked() || !living.is_empty() {
                continue;
            }
            let (leader, since) = (target.membership.group, target.membership.since);
            let candidates = orphans.iter().filter(|Unread { process, why }| {
                process.may_belong(since)
                    // The kernel does not show the control groups of an exiting process. It will be gone soon.
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

fn living_of(target: &Target<'_>, sighting: Sighting, began: Since) -> io::Result<Living> {
    let Sighting { inside: seen, mut outside, error, .. } = sighting;
    if let Some(error) = error {
        return Err(error);
    }
    let mut inside = Vec::new();
    for ids in seen.chunks(AT_ONCE) {
        let opened = target.open_seen(ids, began)?;
        inside.extend(opened.inside.iter().map(Held::id));
        outside.extend(opened.left_processes);
    }
    Ok(Living { inside, outside, possible: Vec::new(), began })
}
