//! The processes of this machine, as the system lists them: one file per system.
//!
//! Each offers the same:
//!
//! - `usable`: whether this system lists processes, here and now.
//! - `READS_ENVIRONMENTS`: whether it shows their environments; and `environment`, which reads one.
//! - `census`: the processes that are in certain groups, and the others. By the time that it is read it may be wrong.
//! - `newest` and `census_of_new`: the same, faster, for the newest processes, where IDs are handed out in turn.
//! - `Held`: one process, opened so that it cannot be taken for the next owner of its ID. The pattern of its use is
//!   *open, read, [`lives`](Held::lives), act*: what is read by the ID between `open` and a `lives` that is true is
//!   about this very process, since nothing else could have the ID meanwhile.
//! - `Process`: the same process, remembered without a descriptor.
//! - `Since`: the time when a tree was spawned. Older processes do not belong to it.
//! - `adopters` and `may_descend_from`: which processes may be orphaned members.

use std::collections::HashMap;
use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::{
    Held, Other, Process, READS_ENVIRONMENTS, Since, adopters, census, census_of_new, environment,
    may_descend_from, newest, usable,
};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod not_in_turn;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use not_in_turn::{adopters, census_of_new, environment, may_descend_from, newest};

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
mod started;
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(super) use started::{Held, Other, Process, READS_ENVIRONMENTS, Since, census, usable};

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
mod unknown;
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
pub(super) use unknown::{Held, Other, Process, READS_ENVIRONMENTS, Since, census, usable};

/// The process groups of trees, by their IDs, with the position of each tree in the batch.
pub(super) type Groups = HashMap<i32, usize>;

/// The processes of this machine, but for this one and those that are too old to belong to any tree of the batch.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Members of the groups, zombies among them, with the position of their tree.
    pub(super) grouped: Vec<(i32, usize)>,
    /// The other processes that live.
    pub(super) others: Vec<Other>,
    /// A process that `census_of_new` was to read is gone, or a zombie. It may have had children.
    pub(super) gone: bool,
}

/// What reading the environment of a process gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems show no environments")]
pub(super) enum Environment {
    /// It is in the buffer.
    Shown,
    /// It is empty.
    Empty,
    /// The process is in the middle of an exec, or has unmapped its environment.
    Unsettled,
    /// The process is exiting, and shows nothing any more.
    Exiting,
    /// This process may not read it.
    Hidden,
    /// There is no such process.
    Gone,
}

static PASSES_MADE: AtomicUsize = AtomicUsize::new(0);

/// How often this process has read the whole process table. The tests count passes where a user would feel the time.
pub(crate) fn passes() -> usize {
    PASSES_MADE.load(Ordering::Relaxed)
}

#[allow(dead_code, reason = "some systems list no processes")]
fn count_pass() {
    PASSES_MADE.fetch_add(1, Ordering::Relaxed);
}

/// The error where the system does not list processes.
pub(super) fn not_told(why: &str) -> io::Error {
    let message = format!("cannot list the members of a process group: {why}");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// getpgid(2). (rustix's version requires every group to have an ID. Here kernel threads, and groups from outside a PID
/// namespace, have 0.)
pub(super) fn group_of(id: i32) -> Option<i32> {
    // SAFETY: an integer goes in, and one comes out.
    let group = unsafe { libc::getpgid(id) };
    (group > 0).then_some(group)
}

/// Whether this process lacks permission to signal another one (kill(2)).
pub(super) fn refuses(id: i32) -> bool {
    // SAFETY: integers. Signal 0 is none, so nothing is sent, whichever process the ID means.
    let refused = unsafe { libc::kill(id, 0) } != 0;
    refused && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// How many processes are held at a time. Each may take a descriptor, and other threads need descriptors too.
pub(super) const AT_ONCE: usize = 16;

/// How many passes an operation makes at most: more than any tree requires, and few enough to come to an end.
pub(super) const PASSES: usize = 1000;

/// Signals one member. The error names the process.
pub(super) fn signal(member: &Held, signal: c_int) -> io::Result<()> {
    member.signal(signal).map_err(|error| {
        let message = format!("cannot signal process {} of the tree: {error}", member.id());
        io::Error::new(error.kind(), message)
    })
}

/// Signals all of these. The error is the last one.
pub(super) fn signal_each(members: &[Held], number: c_int) -> io::Result<()> {
    let mut result = Ok(());
    for member in members {
        result = signal(member, number).and(result);
    }
    result
}

/// Signals all of these, opening one at a time. A process that is gone is passed over. The error is the last one.
pub(super) fn signal_processes(members: &[Process], number: c_int) -> io::Result<()> {
    let mut result = Ok(());
    for member in members {
        let sent = member.hold().and_then(|held| held.map_or(Ok(()), |held| signal(&held, number)));
        result = sent.and(result);
    }
    result
}
