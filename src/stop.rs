//! The graceful stop of a child, a tree, or a batch: request, wait, kill, wait.
//!
//! [`Stop`] is a state machine that never blocks. A driver waits for what [`Stop::pending`] returns, then calls
//! [`Stop::advance`]: a thread ([`Stop::run`]), a task (`future.rs`), a capture (`capture/engine.rs`).
//!
//! Several stops of a child share one deadline, which only moves closer. Each driver waits until then and kills by itself,
//! so none depends on another, and the shortest grace counts for all.

use crate::SharedChild;
use crate::child::ChildRef;
use crate::sort::sort_by;
use crate::sync::Arc;
use crate::sys::Request;
use crate::tree::{self, Tree};
use std::io;
use std::ops::Deref;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long a stop waits for killed processes to end. ([`stop`] waits longer for the child itself.)
pub(crate) const DYING: Duration = Duration::from_secs(1);

/// How long [`stop`] waits for a killed child. A process takes this long only in a system call that cannot be interrupted
/// (a read from a disk that no longer responds), or to release a very large memory.
const KILLED: Duration = Duration::from_secs(30);

/// A stop in progress.
pub(crate) struct Stop<'c> {
    /// The children that were requested to terminate, and are killed next. None if all were killed.
    graceful: Vec<ChildRef<'c>>,
    /// When to kill them.
    until: Option<Instant>,
    /// The children that are killed later, by the time at which to kill them. The earliest is the last. Two threads that
    /// stop the same children kill in this order, so neither waits for a kill of the other.
    later: Vec<(Option<Instant>, ChildRef<'c>)>,
    /// The children that were killed and may take a while to end.
    dying: Vec<ChildRef<'c>>,
    /// When the last grace ended.
    killed_at: Instant,
    result: io::Result<()>,
}

#[derive(Clone, Copy)]
pub(crate) enum Phase {
    /// The children have until then to terminate.
    Grace(Option<Instant>),
    /// All that was left was killed at this time.
    Killed(Instant),
}

impl<'c> Stop<'c> {
    /// Requests these children to terminate.
    pub(crate) fn begin(children: Vec<ChildRef<'c>>, request: Request, grace: Duration) -> Self {
        let now = Instant::now();
        let ended = SharedChild::each_ended_by(&borrowed(&children), Some(now));
        let (mut due, mut new, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, child) in children.into_iter().enumerate() {
            // A tree whose members cannot be listed counts as ended with its leader. It is killed at once.
            let (mut deadline, is_new) = match ended[place] {
                Ok(true) => (Some(now), false),
                _ => child.join_stop(request, now.checked_add(grace)),
            };
            if is_new && child.can_be_requested() {
                new.push(child.clone());
                places.push(place);
            } else if is_new {
                deadline = Some(now);
            }
            due.push((deadline, child));
        }
        let sent = SharedChild::request_each(&borrowed(&new), request);
        for (index, sent) in sent.iter().enumerate() {
            // A child that cannot receive a request is killed at once. Other errors concern some members of a tree, and the
            // kill meets them again.
            let has_arrived = match sent {
                Ok(has_arrived) => *has_arrived,
                Err(error) => error.kind() != io::ErrorKind::InvalidInput,
            };
            if !has_arrived {
                due[places[index]].0 = Some(now);
            }
        }
        sort_by(&mut due, |one, other| is_later(one.0, other.0));
        Self::with(due, now)
    }

    /// Kills a child without a request.
    pub(crate) fn at_once(child: ChildRef<'c>) -> Self {
        let now = Instant::now();
        let mut stop = Self::with(vec![(Some(now), child)], now);
        stop.advance(Vec::new());
        stop
    }

    fn with(later: Vec<(Option<Instant>, ChildRef<'c>)>, now: Instant) -> Self {
        let (graceful, dying) = (Vec::new(), Vec::new());
        let mut stop = Self { graceful, until: None, later, dying, killed_at: now, result: Ok(()) };
        stop.next_grace();
        stop
    }

    /// Begins to wait for the children that are to be killed next.
    fn next_grace(&mut self) {
        self.graceful.clear();
        while let Some((deadline, child)) = self.later.last() {
            if !self.graceful.is_empty() && *deadline != self.until {
                return;
            }
            if !child.has_ended() {
                self.until = *deadline;
                self.graceful.push(child.clone());
            }
            self.later.pop();
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.graceful.is_empty() {
            Phase::Killed(self.killed_at)
        } else {
            Phase::Grace(self.until)
        }
    }

    /// Returns what to wait for: until these children and their trees have ended, or until the time. `None` when the stop
    /// is complete.
    pub(crate) fn pending(&self) -> Option<(&[ChildRef<'c>], Option<Instant>)> {
        if !self.graceful.is_empty() {
            Some((&self.graceful, self.until))
        } else if !self.dying.is_empty() {
            Some((&self.dying, self.killed_at.checked_add(DYING)))
        } else {
            None
        }
    }

    /// The pending wait is over: kills what is left after a grace. `ended` has the results of the wait, if there are any.
    pub(crate) fn advance(&mut self, ended: Vec<io::Result<bool>>) {
        if self.graceful.is_empty() {
            let dying = std::mem::take(&mut self.dying);
            for (index, ended) in ended.into_iter().enumerate() {
                // A wait for the child reports a status that is lost.
                if dying[index].try_wait().is_ok() {
                    self.note(ended.map(drop));
                }
            }
            return;
        }
        // Errors of the wait are met again by the kill. A tree whose members cannot be listed is killed even if its leader
        // has ended.
        let graceful = std::mem::take(&mut self.graceful);
        let killed = SharedChild::kill_each(&borrowed(&graceful));
        self.killed_at = Instant::now();
        for (child, killed) in graceful.into_iter().zip(killed) {
            if killed.is_ok() {
                self.dying.push(child);
            }
            self.note(killed);
        }
        self.next_grace();
    }

    /// Keeps the first error.
    fn note(&mut self, result: io::Result<()>) {
        if self.result.is_ok() {
            self.result = result;
        }
    }

    /// Drives the stop to its end on this thread.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while let Some((children, until)) = self.pending() {
            let ended = SharedChild::each_ended_by(&borrowed(children), until);
            for (index, ended) in ended.iter().enumerate() {
                // The grace of a tree that cannot be scanned ends with its leader.
                if ended.is_err() {
                    let _ = children[index].exit_by(until);
                }
            }
            self.advance(ended);
        }
        self.result
    }

    /// Returns the first error, without waiting for what is pending.
    pub(crate) fn result(self) -> io::Result<()> {
        self.result
    }
}

/// Stops a child, and waits for its end.
pub(crate) fn stop(
    child: &SharedChild,
    request: Request,
    grace: Duration,
) -> io::Result<ExitStatus> {
    Stop::begin(vec![ChildRef::Borrowed(child)], request, grace).run()?;
    child.exit_by(killed_by())?.ok_or_else(|| has_not_ended(child))
}

/// Returns until when to wait for the status of a child that was killed.
pub(crate) fn killed_by() -> Option<Instant> {
    Instant::now().checked_add(KILLED)
}

/// Returns the error for a child that was killed and has not ended in time.
pub(crate) fn has_not_ended(child: &SharedChild) -> io::Error {
    let message = format!(
        "cannot stop process {}: it was killed, but has not ended within {KILLED:?}; wait for it later",
        child.id()
    );
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// Stops all of these, and their trees, at the same time.
pub(crate) fn stop_all(children: &[Arc<SharedChild>], grace: Duration) -> io::Result<()> {
    let mut all = Vec::new();
    for child in children {
        all.push(ChildRef::Borrowed(child));
    }
    Stop::begin(all, Request::DEFAULT, grace).run()
}

/// Kills all of these, and their trees. Returns the first error, after all have been killed that can be.
pub(crate) fn kill_all(children: &[Arc<SharedChild>]) -> io::Result<()> {
    let mut result = Ok(());
    for killed in SharedChild::kill_each(&borrowed(children)) {
        result = result.and(killed);
    }
    result
}

fn borrowed<C: Deref<Target = SharedChild>>(children: &[C]) -> Vec<&SharedChild> {
    let mut borrowed = Vec::new();
    for child in children {
        borrowed.push(&**child);
    }
    borrowed
}

/// Returns whether a deadline is after the other. No deadline is the last.
fn is_later(one: Option<Instant>, other: Option<Instant>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one > other,
        (one, other) => one.is_none() && other.is_some(),
    }
}

impl SharedChild {
    /// Stops the child: requests it to terminate, waits for up to `grace`, then kills it. If it leads a
    /// [tree](Self::tree), stops the whole tree. Returns the child's exit status.
    ///
    /// This returns as soon as a single child has exited, or a tree is empty. If the leader of a tree exits first,
    /// the remaining members still have the rest of the grace, and are then killed. Where the system does not list the
    /// members of a tree, the grace ends with the leader.
    ///
    /// Any number of threads may stop a child, each with a grace of its own: the shortest counts. A later call may
    /// shorten the time that is left, never lengthen it, and does not repeat the request. Other threads may wait, poll,
    /// signal and kill meanwhile. For a single child that has exited, this returns its status.
    ///
    /// # Platforms
    ///
    /// - **Unix**: SIGTERM, and SIGCONT after it, since a stopped process does nothing; then SIGKILL.
    ///   `SharedChild::stop_with` sends another signal.
    /// - **Windows**: CTRL_BREAK, then termination. The request requires a child with a console group of its own (the
    ///   leader of a tree, or a child with the flag `CREATE_NEW_PROCESS_GROUP`), and a console that it shares with this
    ///   process. Otherwise the child is killed at once. No test covers the request; the kill is tested.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait), [`kill`](Self::kill), and for a tree [`Tree::kill`] and [`Tree::wait_empty`].
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the child was killed and has not ended within 30 s: a process takes
    /// that long only in a system call that cannot be interrupted (a read from a disk that no longer responds), or to release a
    /// very large memory. Members of a tree that were killed are waited for at most 1 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SpawnOptions, std::process::Command, std::time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg("--version"))?;
    /// let status = child.stop(Duration::from_secs(5))?;
    /// println!("it ended with {status}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self, grace: Duration) -> io::Result<ExitStatus> {
        stop(self, Request::DEFAULT, grace)
    }
}

/// The steps of a stop, for a batch of children. The trees among them cost one pass over the process table.
impl SharedChild {
    /// Returns whether the child, or the whole tree, is known to have ended.
    fn has_ended(&self) -> bool {
        match self.tree() {
            Some(tree) => tree.is_done(),
            None => self.is_final(&self.try_wait()),
        }
    }

    /// Blocks until the child, or the whole tree, has ended (`true`), or until the deadline.
    pub(crate) fn has_ended_by(&self, deadline: Option<Instant>) -> io::Result<bool> {
        Self::each_ended_by(&[self], deadline).pop().unwrap_or(Ok(true))
    }

    fn each_ended_by(children: &[&Self], deadline: Option<Instant>) -> Vec<io::Result<bool>> {
        let exited = |child: &Self| Ok(child.exit_by(deadline)?.is_some());
        let ended = Tree::wait_each_empty(&trees_of(children), deadline);
        let mut all = with_the_others(children, ended, &exited);
        for (index, ended) in all.iter_mut().enumerate() {
            let child = children[index];
            if matches!(ended, Err(error) if error.kind() == io::ErrorKind::Unsupported)
                && child.tree().is_some()
            {
                // The system does not list the members of the tree.
                *ended = exited(child);
            }
        }
        all
    }

    /// Requests each to terminate. Returns whether a request can have arrived.
    fn request_each(children: &[&Self], request: Request) -> Vec<io::Result<bool>> {
        let sent = Tree::request_each(&trees_of(children), request);
        with_the_others(children, sent, &|child| tree::request(child.leader(), request))
    }

    fn kill_each(children: &[&Self]) -> Vec<io::Result<()>> {
        with_the_others(children, Tree::kill_each(&trees_of(children)), &Self::kill)
    }
}

fn trees_of<'c>(children: &[&'c SharedChild]) -> Vec<&'c Tree> {
    let mut trees = Vec::new();
    for child in children {
        if let Some(tree) = child.tree() {
            trees.push(tree);
        }
    }
    trees
}

/// Returns a result for each child: those of the trees, and for each other child that of `run`.
fn with_the_others<T>(
    children: &[&SharedChild],
    of_trees: Vec<io::Result<T>>,
    run: &dyn Fn(&SharedChild) -> io::Result<T>,
) -> Vec<io::Result<T>> {
    let mut of_trees = of_trees.into_iter();
    let mut results = Vec::new();
    for child in children {
        let of_tree = if child.tree().is_some() { of_trees.next() } else { None };
        results.push(match of_tree {
            Some(result) => result,
            None => run(child),
        });
    }
    results
}
