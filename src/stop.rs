//! The graceful stop: ask, wait, kill.
//!
//! Several threads may be at it. They share one deadline, which only ever comes closer; each waits until
//! then by itself, and kills. So nobody depends on another one, and whoever has the shortest grace ends it
//! for all.

use crate::SharedChild;
use crate::exit::Ask;
#[cfg(feature = "set")]
use crate::sync::Arc;
use crate::sync::Mutex;
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
    fn join(&self, ask: Ask, grace: Duration) -> (Option<Instant>, bool) {
        let own = Instant::now().checked_add(grace);
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

/// Stops it, and waits for that.
pub(crate) fn stop(child: &SharedChild, ask: Ask, grace: Duration) -> io::Result<ExitStatus> {
    // A look at a tree may fail, for want of a descriptor, say. Then it is asked all the same, and killed, which tells.
    if !child.is_gone_by(Some(Instant::now())).unwrap_or(false) {
        let deadline = begin(child, ask, grace);
        is_seen_to_go(child, deadline);
    }
    kill_the_rest(child)?;
    child.wait()
}

/// Blocks until it is gone (`true`), or until the deadline. Of a tree that cannot be looked at, the leader's end ends
/// the grace.
fn is_seen_to_go(child: &SharedChild, deadline: Option<Instant>) -> bool {
    child.is_gone_by(deadline).unwrap_or_else(|_| {
        // An error, again, is for the kill to tell.
        let _ = child.exit_by(deadline);
        false
    })
}

/// Stops all, at the same time. The first error is told when all has been done that can be.
#[cfg(feature = "set")]
pub(crate) fn stop_all(children: &[Arc<SharedChild>], grace: Duration) -> io::Result<()> {
    let mut result = Ok(());
    let mut asked = Vec::new();
    for child in children {
        // (Of errors see `stop`.)
        if !child.is_gone_by(Some(Instant::now())).unwrap_or(false) {
            asked.push((child, begin(child, Ask::DEFAULT, grace)));
        }
    }
    // One after the other, and yet no longer than the longest: their graces run at the same time. Those that are to be
    // killed first come first, or two who stop the same might each wait for what the other is to kill after that.
    asked.sort_by_key(|(_, deadline)| (deadline.is_none(), *deadline));
    for (child, deadline) in asked {
        if !is_seen_to_go(child, deadline) {
            result = result.and(child.kill_all());
        }
    }
    // They are dying.
    let deadline = Instant::now().checked_add(DYING);
    for child in children.iter().filter(|child| !child.is_known_to_be_gone()) {
        if let Err(error) = child.is_gone_by(deadline) {
            // That a status is not known is for whoever waits for it.
            if result.is_ok() && child.try_wait().is_ok() {
                result = Err(error);
            }
        }
    }
    // Where the system does not tell who is in a tree, what a leader that has ended has left is killed now.
    result.and(kill_each(children))
}

/// Kills whoever is left of each. The first error is told when all have been killed that can be.
#[cfg(feature = "set")]
pub(crate) fn kill_each(children: &[Arc<SharedChild>]) -> io::Result<()> {
    let left = children.iter().filter(|child| !child.is_known_to_be_gone());
    let mut result = Ok(());
    for child in left {
        result = result.and(child.kill_all());
    }
    result
}

/// Asks it to end. Says by when to kill it, if ever.
pub(crate) fn begin(child: &SharedChild, ask: Ask, grace: Duration) -> Option<Instant> {
    let (deadline, new) = child.stopping().join(ask, grace);
    // Who cannot be asked is killed. Other errors are about some of a tree; the kill meets them again.
    let asked =
        !new || child.ask(ask).unwrap_or_else(|error| error.kind() != io::ErrorKind::InvalidInput);
    if asked { deadline } else { Some(Instant::now()) }
}

/// Kills whoever is left, and waits until they are dead, as far as that comes about.
pub(crate) fn kill_the_rest(child: &SharedChild) -> io::Result<()> {
    // Where the system does not tell who is in a tree, that is to be killed though its leader has ended.
    if !child.is_known_to_be_gone() {
        child.kill_all()?;
        // They are dying. Who takes longer, in the middle of something that the system does not interrupt,
        // is not waited for.
        child.is_gone_by(Instant::now().checked_add(DYING))?;
    }
    Ok(())
}
