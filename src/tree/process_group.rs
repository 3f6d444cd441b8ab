//! Unix: signals to the process group of a tree.
//!
//! The group's ID is the leader's process ID, and stays taken while the leader is unreaped. The leader is pinned for as
//! long as the tree may have members, so this library does not reap it, and the signal is sent under the lifecycle's
//! lock. If another part of the program reaps it, the exit notice knows: with a pidfd the descriptor means the group,
//! and otherwise the group is left alone from then on.

use super::Leader;
use super::processes;
use std::ffi::c_int;
use std::io;

/// Signals the leader and its group. The leader is signalled by itself only if it has left the group, so that no process
/// gets a signal twice.
pub(super) fn signal(id: i32, leader: &Leader, signal: c_int) -> io::Result<()> {
    leader.signal(|notice| {
        let leader = match processes::group_of(id) {
            Some(group) if group == id => Ok(()),
            _ => notice.signal(signal),
        };
        leader.and(notice.signal_group(signal))
    })
}

/// Whether the leader's process ID is its own, and therefore the group's.
pub(super) fn has_its_id(leader: &Leader) -> bool {
    let mut has_its_id = false;
    let answered = leader.signal(|notice| {
        has_its_id = notice.has_its_id();
        Ok(())
    });
    answered.is_ok() && has_its_id
}
