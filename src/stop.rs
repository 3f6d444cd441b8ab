//! The graceful stop: ask, wait, kill.
//!
//! Several threads may be at it. They share one deadline, which only ever comes closer; each waits until
//! then by itself, and kills. So nobody depends on another one, and whoever has the shortest grace ends it
//! for all.

use crate::SharedChild;
use crate::sync::Arc;
use crate::sync::Mutex;
use crate::sys::Ask;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long the end of those who were killed is waited for: beside the child's own, for which
/// [`stop`] waits in any case, and a capture does not.
pub(crate) const DYING: Duration = Duration::from_secs(1);

/// What those who stop a child have in common.
pub(crate) struct Stopping(Mutex<Plan>);

struct Plan {
    /// Asked for last. To ask in the same way again would be to insist, which some programs heed.
    asked: Option<Ask>,
    /// `None` is never: for a grace beyond the end of the clock.
    deadline: Option<Instant>,
}

impl Stopping {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Plan { asked: None, deadline: None }))
    }

    /// Says by when to kill, and whether to ask first.
    fn join(&self, ask: Ask, own: Option<Instant>) -> (Option<Instant>, bool) {
        let mut plan = self.0.lock();
        plan.deadline = match plan.asked {
            None => own,
            Some(_) => [plan.deadline, own].into_iter().flatten().min(),
        };
        let new = plan.asked != Some(ask);
        plan.asked = Some(ask);
        (plan.deadline, new)
    }
}

/// How long [`stop`] waits for a child that was killed. A process takes this long only in the middle of something that the
/// system does not interrupt (a read from a disk that is gone), or to release a very large memory.
const KILLED: Duration = Duration::from_secs(30);

/// Stops a child, and waits for its end.
pub(crate) fn stop(child: &SharedChild, ask: Ask, grace: Duration) -> io::Result<ExitStatus> {
    // A look at a tree may fail, for want of a descriptor, say. Then the tree is requested all the same, and killed, which
    // reports the error.
    if !child.is_gone_by(Some(Instant::now())).unwrap_or(false) {
        let deadline = begin(child, ask, grace);
        is_seen_to_go(child, deadline);
    }
    kill_the_rest(child)?;
    match child.exit_by(Instant::now().checked_add(KILLED))? {
        Some(status) => Ok(status),
        None => Err(has_not_ended(child)),
    }
}

/// The error for a child that was killed and does not end.
pub(crate) fn has_not_ended(child: &SharedChild) -> io::Error {
    let message = format!(
        "process {} was killed, but has not ended within {KILLED:?}: wait for it later",
        child.id()
    );
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// Until when to wait for a child that was killed.
pub(crate) fn killed_by() -> Option<Instant> {
    Instant::now().checked_add(KILLED)
}

/// Blocks until a child is gone (`true`), or until the deadline. Of a tree that cannot be scanned, the leader's end ends
/// the grace.
fn is_seen_to_go(child: &SharedChild, deadline: Option<Instant>) -> bool {
    child.is_gone_by(deadline).unwrap_or_else(|_| {
        // An error, again, is for the kill to report.
        let _ = child.exit_by(deadline);
        false
    })
}

/// Stops all, at the same time. Returns the first error, when everything has been done that can be.
pub(crate) fn stop_all(children: &[Arc<SharedChild>], grace: Duration) -> io::Result<()> {
    let left: Vec<&SharedChild> = children
        .iter()
        .map(|child| &**child)
        .filter(|child| !child.is_known_to_be_gone())
        .collect();
    // (Of errors see `stop`.)
    let gone = SharedChild::each_gone_by(&left, Some(Instant::now()));
    let left = retain(left, gone, |gone| !gone.unwrap_or(false));
    let deadlines = begin_each(&left, Ask::DEFAULT, grace);
    // All graces run at the same time. Children that are to be killed first come first: otherwise two threads that stop the
    // same children might each wait for what the other is to kill after that.
    let mut by_deadline: Vec<(&SharedChild, Option<Instant>)> =
        left.iter().copied().zip(deadlines).collect();
    by_deadline.sort_by_key(|(_, deadline)| (deadline.is_none(), *deadline));
    let mut result = Ok(());
    for same in by_deadline.chunk_by(|one, next| one.1 == next.1) {
        let deadline = same[0].1;
        let group: Vec<&SharedChild> = same.iter().map(|(child, _)| *child).collect();
        let gone = SharedChild::each_gone_by(&group, deadline);
        let mut late = Vec::new();
        for (child, gone) in group.into_iter().zip(gone) {
            match gone {
                Ok(true) => {}
                Ok(false) => late.push(child),
                Err(_) => {
                    let _ = child.exit_by(deadline);
                    late.push(child);
                }
            }
        }
        for killed in SharedChild::kill_each(&late) {
            result = result.and(killed);
        }
    }
    // They are dying.
    let left: Vec<&SharedChild> = children
        .iter()
        .map(|child| &**child)
        .filter(|child| !child.is_known_to_be_gone())
        .collect();
    let gone = SharedChild::each_gone_by(&left, Instant::now().checked_add(DYING));
    for (child, gone) in left.into_iter().zip(gone) {
        // That a status is not known is for the waiters to report.
        if let (Err(error), true, true) = (gone, result.is_ok(), child.try_wait().is_ok()) {
            result = Err(error);
        }
    }
    // Where the system does not list the members of a tree, what a leader that has ended has left is killed now.
    result.and(kill_each(children))
}

fn retain<T>(
    children: Vec<&SharedChild>,
    answers: Vec<T>,
    mut keep: impl FnMut(T) -> bool,
) -> Vec<&SharedChild> {
    let both = children.into_iter().zip(answers);
    both.filter_map(|(child, answer)| keep(answer).then_some(child)).collect()
}

/// Kills what is left of each. Returns the first error, when all have been killed that can be.
pub(crate) fn kill_each(children: &[Arc<SharedChild>]) -> io::Result<()> {
    let left: Vec<&SharedChild> = children
        .iter()
        .map(|child| &**child)
        .filter(|child| !child.is_known_to_be_gone())
        .collect();
    let mut result = Ok(());
    for killed in SharedChild::kill_each(&left) {
        result = result.and(killed);
    }
    result
}

/// Requests a child to terminate. Returns when to kill it, if ever.
pub(crate) fn begin(child: &SharedChild, ask: Ask, grace: Duration) -> Option<Instant> {
    begin_each(&[child], ask, grace).pop().flatten()
}

fn begin_each(children: &[&SharedChild], ask: Ask, grace: Duration) -> Vec<Option<Instant>> {
    let own = Instant::now().checked_add(grace);
    let joined: Vec<_> = children.iter().map(|child| child.stopping().join(ask, own)).collect();
    let new: Vec<&SharedChild> = children
        .iter()
        .zip(&joined)
        .filter(|(_, (_, new))| *new)
        .map(|(child, _)| *child)
        .collect();
    let mut asked = SharedChild::ask_each(&new, ask).into_iter();
    joined
        .into_iter()
        .map(|(deadline, new)| {
            // A child that cannot receive a request is killed at once. Other errors are about some members of a tree; the
            // kill meets them again.
            let asked = !new
                || asked.next().is_none_or(|asked| {
                    asked.unwrap_or_else(|error| error.kind() != io::ErrorKind::InvalidInput)
                });
            if asked { deadline } else { Some(Instant::now()) }
        })
        .collect()
}

/// Kills what is left, and waits for its end, but not for long.
pub(crate) fn kill_the_rest(child: &SharedChild) -> io::Result<()> {
    // Where the system does not list the members of a tree, they are killed even if the leader has ended.
    if !child.is_known_to_be_gone() {
        child.kill_all()?;
        // A process that takes longer, in the middle of something that the system does not interrupt, is not waited for.
        child.is_gone_by(Instant::now().checked_add(DYING))?;
    }
    Ok(())
}
