//! The graceful stop of a child, a tree, or a batch: request, wait, kill, wait.
//!
//! [`Stop`] is a state machine that never blocks. A driver waits for what [`Stop::pending`] returns, then calls
//! [`Stop::advance`]: a thread ([`Stop::run`]), a task (`future.rs`), a capture (`capture/engine.rs`).
//!
//! Several stops of a child share one deadline, which only moves closer. Each driver waits until then and kills by itself,
//! so none depends on another, and the shortest grace counts for all.

use crate::SharedChild;
use crate::child::ChildRef;
use crate::sync::Arc;
use crate::sys::Request;
use crate::tree::{self, Tree};
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long a stop waits for killed processes to end. ([`stop`] waits longer for the child itself.)
pub(crate) const DYING: Duration = Duration::from_secs(1);

/// How long [`stop`] waits for a killed child. A process takes this long only in a system call that cannot be interrupted
/// (a read from a disk that no longer responds), or to release a very large memory.
const KILLED: Duration = Duration::from_secs(30);

/// A stop in progress.
pub(crate) struct Stop<'c> {
    /// The children that were requested to terminate, by the time at which to kill them. The earliest is the last. Two
    /// threads that stop the same children kill in this order, so neither waits for a kill of the other.
    graceful: Vec<(Option<Instant>, Vec<ChildRef<'c>>)>,
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
    pub(crate) fn begin(
        mut children: Vec<ChildRef<'c>>,
        request: Request,
        grace: Duration,
    ) -> Self {
        let now = Instant::now();
        children.retain(|child| !child.has_ended());
        let ended = SharedChild::each_ended_by(&borrowed(&children), Some(now));
        let (mut due, mut new, mut indices) = (Vec::new(), Vec::new(), Vec::new());
        for (child, ended) in children.into_iter().zip(ended) {
            // A tree whose members cannot be listed counts as ended with its leader. It is killed at once.
            let (deadline, is_new) = match ended {
                Ok(true) => (Some(now), false),
                _ => child.join_stop(request, now.checked_add(grace)),
            };
            if is_new {
                new.push(child.clone());
                indices.push(due.len());
            }
            due.push((deadline, child));
        }
        let sent = SharedChild::request_each(&borrowed(&new), request);
        for (index, sent) in indices.into_iter().zip(sent) {
            // A child that cannot receive a request is killed at once. Other errors concern some members of a tree, and the
            // kill meets them again.
            if !sent.unwrap_or_else(|error| error.kind() != io::ErrorKind::InvalidInput) {
                due[index].0 = Some(now);
            }
        }
        let mut stop =
            Self { graceful: Vec::new(), dying: Vec::new(), killed_at: now, result: Ok(()) };
        for (deadline, child) in due {
            if !child.has_ended() {
                stop.add(deadline, child);
            }
        }
        stop
    }

    fn add(&mut self, deadline: Option<Instant>, child: ChildRef<'c>) {
        let key = |deadline: Option<Instant>| (deadline.is_none(), deadline);
        let group = self.graceful.binary_search_by(|group| key(deadline).cmp(&key(group.0)));
        match group {
            Ok(index) => self.graceful[index].1.push(child),
            Err(index) => self.graceful.insert(index, (deadline, vec![child])),
        }
    }

    /// Kills a child without a request.
    pub(crate) fn at_once(child: ChildRef<'c>) -> Self {
        let now = Instant::now();
        let graceful = vec![(Some(now), vec![child])];
        let mut stop = Self { graceful, dying: Vec::new(), killed_at: now, result: Ok(()) };
        stop.advance(Vec::new());
        stop
    }

    pub(crate) fn phase(&self) -> Phase {
        self.graceful
            .last()
            .map_or(Phase::Killed(self.killed_at), |(until, _)| Phase::Grace(*until))
    }

    /// Returns what to wait for: until these children and their trees have ended, or until the time. `None` when the stop
    /// is complete.
    pub(crate) fn pending(&self) -> Option<(&[ChildRef<'c>], Option<Instant>)> {
        match self.graceful.last() {
            Some((until, children)) => Some((children, *until)),
            None if self.dying.is_empty() => None,
            None => Some((&self.dying, self.killed_at.checked_add(DYING))),
        }
    }

    /// The pending wait is over: kills what is left after a grace. `ended` has the results of the wait, if there are any.
    pub(crate) fn advance(&mut self, ended: Vec<io::Result<bool>>) {
        let Some((_, mut children)) = self.graceful.pop() else {
            for (child, ended) in std::mem::take(&mut self.dying).into_iter().zip(ended) {
                // A wait for the child reports a status that is lost.
                if child.try_wait().is_ok() {
                    self.note(ended.map(drop));
                }
            }
            return;
        };
        // Errors of the wait are met again by the kill. A tree whose members cannot be listed is killed even if its leader
        // has ended.
        children.retain(|child| !child.has_ended());
        let killed = SharedChild::kill_each(&borrowed(&children));
        self.killed_at = Instant::now();
        for (child, killed) in children.into_iter().zip(killed) {
            if killed.is_ok() {
                self.dying.push(child);
            }
            self.note(killed);
        }
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
            for (child, ended) in children.iter().zip(&ended) {
                // The grace of a tree that cannot be scanned ends with its leader.
                if ended.is_err() {
                    let _ = child.exit_by(until);
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

fn borrowed<'s>(children: &'s [ChildRef<'_>]) -> Vec<&'s SharedChild> {
    children.iter().map(|child| &**child).collect()
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
    let children = children.iter().map(|child| ChildRef::Borrowed(child)).collect();
    Stop::begin(children, Request::DEFAULT, grace).run()
}

/// Kills all of these, and their trees. Returns the first error, after all have been killed that can be.
pub(crate) fn kill_all(children: &[Arc<SharedChild>]) -> io::Result<()> {
    let mut left: Vec<&SharedChild> = children.iter().map(|child| &**child).collect();
    left.retain(|child| !child.has_ended());
    let mut result = Ok(());
    for killed in SharedChild::kill_each(&left) {
        result = result.and(killed);
    }
    result
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
        let wait = |trees: &[&Tree]| Tree::wait_each_empty(trees, deadline);
        let mut all = Self::each(children, Self::tree, wait, exited);
        for (child, ended) in children.iter().zip(&mut all) {
            let error = ended.as_ref().err().map(io::Error::kind);
            if error == Some(io::ErrorKind::Unsupported) && child.tree().is_some() {
                // The system does not list the members of the tree.
                *ended = exited(child);
            }
        }
        all
    }

    /// Requests each to terminate. Returns whether a request can have arrived.
    fn request_each(children: &[&Self], request: Request) -> Vec<io::Result<bool>> {
        Self::each(
            children,
            |child| child.tree().filter(|_| child.can_be_requested()),
            |trees| Tree::request_each(trees, request),
            |child| match child.can_be_requested() {
                true => tree::request(child.leader(), request),
                false => Ok(false),
            },
        )
    }

    fn kill_each(children: &[&Self]) -> Vec<io::Result<()>> {
        Self::each(children, Self::tree, Tree::kill_each, Self::kill)
    }

    /// Serves the trees among these by one call, and each other child by itself.
    fn each<T>(
        children: &[&Self],
        tree: impl Fn(&Self) -> Option<&Tree>,
        of_trees: impl FnOnce(&[&Tree]) -> Vec<T>,
        of_one: impl Fn(&Self) -> T,
    ) -> Vec<T> {
        let mut trees = Vec::new();
        for child in children {
            trees.extend(tree(child));
        }
        let mut of_trees = of_trees(&trees).into_iter();
        let mut results = Vec::new();
        for child in children {
            let result = if tree(child).is_some() { of_trees.next() } else { None };
            results.push(result.unwrap_or_else(|| of_one(child)));
        }
        results
    }
}
