//! The interface between [`Tree`] and the mechanism that holds trees together.

use super::{Containment, Tree};
use crate::sys::Request;
use crate::usage::Usage;
#[cfg(unix)]
use std::ffi::c_int;
use std::io;
use std::panic::RefUnwindSafe;
use std::time::Instant;

/// A member of a tree that lived when a scan found it.
#[cfg(unix)]
pub(super) use crate::sys::unix::process_table::Process as Survivor;

/// A living member of a job. Which member it is does not matter.
#[cfg(windows)]
#[derive(Clone)]
pub(super) struct Survivor;

/// The operations of the mechanism that holds trees together: a trait object, so that a program without trees does not
/// contain their code.
///
/// An operation that uses the leader's process ID runs under the lifecycle's lock while the leader is unreaped: see
/// [`Lifecycle::signal`](crate::lifecycle::Lifecycle::signal). An operation on several trees returns one result per tree, and serves all of them by one pass
/// over the process table.
pub(super) trait Operations: Sync + RefUnwindSafe {
    /// Kills all members, and the processes that they start meanwhile. Does not wait for the members to end.
    fn kill_each(&self, trees: &[&Tree]) -> Vec<io::Result<()>>;

    /// Does the part of [`kill_each`](Self::kill_each) that requires a few system calls. Returns whether a rest of it
    /// remains to be done.
    fn kill_at_once(&self, tree: &Tree) -> bool;

    /// Requests all members to terminate. Returns whether a member can have received the request.
    fn request_each(&self, trees: &[&Tree], request: Request) -> Vec<io::Result<bool>>;

    #[cfg(unix)]
    fn signal(&self, tree: &Tree, signal: c_int) -> io::Result<()>;

    /// Blocks until no member is left (`true`), or until the deadline. Checks every tree at least once.
    fn wait_each_empty(&self, trees: &[&Tree], deadline: Option<Instant>) -> Vec<io::Result<bool>>;

    /// Returns a living member of each tree whose leader has exited, `None` if the tree is empty.
    fn survivors(&self, trees: &[&Tree]) -> Vec<io::Result<Option<Survivor>>>;

    /// Returns the process IDs of the living members.
    fn processes(&self, tree: &Tree) -> io::Result<Vec<u32>>;

    fn containment(&self, tree: &Tree) -> Containment;

    /// Returns the usage of all members, including ended members: up to now, or up to the end of the tree. `None` where
    /// the container does not count it.
    fn usage(&self, tree: &Tree) -> Option<Usage>;

    /// Returns whether the tree must be watched to its end. Called after the handle was dropped.
    fn outlives_the_handle(&self, tree: &Tree) -> bool;

    /// Called when the leader's ID may have a new owner. Members may be left.
    fn leader_is_reaped(&self, tree: &Tree);

    /// Called when the tree is empty, before the leader is reaped.
    fn done(&self, tree: &Tree);
}

/// Calls `run` once with the chosen trees, unless there is none. Returns their results, and `None` for the other trees.
pub(super) fn for_some<T>(
    trees: &[&Tree],
    is_chosen: impl Fn(&Tree) -> bool,
    run: impl FnOnce(&[&Tree]) -> Vec<T>,
) -> Vec<Option<T>> {
    let (mut chosen, mut places) = (Vec::new(), Vec::new());
    let mut results = Vec::new();
    for (i, tree) in trees.iter().enumerate() {
        if is_chosen(tree) {
            chosen.push(*tree);
            places.push(i);
        }
        results.push(None);
    }
    if !chosen.is_empty() {
        for (i, result) in places.into_iter().zip(run(&chosen)) {
            results[i] = Some(result);
        }
    }
    results
}
