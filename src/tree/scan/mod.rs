//! Unix: finds the members of trees in the process table, inside and outside their process groups.
//!
//! Every operation serves a *batch* of trees: one pass over the process table finds the members of all of them.
//!
//! **Why no recycled process is signalled.** Before a process is signalled by itself, it is opened (a pidfd), read
//! again, and then checked to be alive still. So what was read is true of the opened process:
//!
//! | a process is a member if | proof |
//! |---|---|
//! | it is in the group | the leader was still unreaped *after* this was read |
//! | its parent is a member | the parent still lived *after* this was read, so its ID had no new owner |
//! | it carries the marker | no other tree has the same marker |
//! | a pass found it in the group | it is older than that pass, so it is not a new owner of its ID |
//!
//! A remembered member is a [`Process`], not an open descriptor: opening it again fails if the ID has a new owner. So
//! any number of members can be remembered, and few descriptors are open at a time.
//!
//! **Why no member is missed.** A kill finds all members before it kills any, because the death of a parent cuts the
//! path to its children. Linux kills a group as one: a process that is being forked at that moment is killed with it,
//! or not born. A process that a pass found in the group may have left it when the signal is sent, so the kill also
//! signals all processes that were found there one by one. Members outside the group can fork until they are killed. So
//! the passes are repeated until a pass finds no new member. Where process IDs are handed out in turn, a pass reads
//! only the IDs that were handed out since the last pass, which is fast enough to catch up with a process that forks
//! and exits, over and over:
//!
//! - A process that lived while the list was read is in the list. Any other process was born later, or has exited, and
//!   its child, if it had one, was born later.
//! - New processes are read in the order of their IDs, so a parent is read before its child. Suppose that a pass finds
//!   no member, and yet a member lives whose ID was handed out before the pass. When the pass read this ID, the member
//!   did not exist yet. So its parent lived, and was not found either. So the parent did not exist yet when the pass
//!   read its ID, and so on, up to a process whose parent had been killed before, and could not fork any more. So there
//!   is no such member.
//! - If the ID of the member was handed out during the pass, then the pass read an ancestor that had died, since the
//!   ancestor's child was born after the pass began. So the next pass reads the IDs after that ancestor's, until a pass
//!   reads no dead process.
//!
//! Where environments cannot be read, only their parents identify members outside the group. There a kill first stops
//! (SIGSTOP) all members, until a pass finds no new one: a stopped process cannot fork, and it stays the parent of its
//! children.
//!
//! **What can be missed.** For these reasons containment is "best effort" ([`Containment`](super::Containment)):
//!
//! - A process that has left the group, whose parent is dead, and whose environment is empty or does not show the
//!   marker, is missed if no pass found it before.
//! - A process whose environment this process cannot read (another user's, or one that is not dumpable) is not killed
//!   unless a pass found it below its parent. But while such a process lives that could be an orphaned member, a tree
//!   does not count as empty.
//! - A child whose ID was handed out before the pass, and that is not visible yet when the pass reads its ID, is missed
//!   if it leaves the group before the signal: its fork must stall for the whole pass.
//! - The child of a process that chooses process IDs (`set_tid` of clone3(2), for root alone) is missed, since the
//!   passes over new IDs do not read its ID.

mod kill;
mod living;
mod pass;

pub(super) use kill::{kill, signal, signal_unlisted};
pub(super) use living::{processes, survivors, wait_empty};

use pass::Found;

use super::Leader;
use super::environment_marker::EnvironmentMarker;
use super::processes::{self, Environment, Held, Process, Time, signal_each};
use crate::backoff::Backoff;
use crate::sort::search;
use crate::sync::Mutex;
use std::ffi::c_int;
use std::io;
use std::time::{Duration, Instant};

/// The time for which an operation other than a kill waits for processes in the middle of an exec.
const BRIEF_PATIENCE: Duration = Duration::from_millis(100);

/// The properties that the members of one tree have in common.
pub(in crate::tree) struct Membership {
    /// The process ID of the leader, which is the ID of the group.
    group: i32,
    marker: Option<EnvironmentMarker>,
    /// The time when the tree was spawned.
    since: Time,
    /// Living members outside the group that a later pass might not recognize: members that were found by their parents, and
    /// killed members, because an exiting process shows no environment. In the order of their IDs.
    strays: Mutex<Vec<Process>>,
}

impl Membership {
    pub(super) fn new(leader: u32, marker: Option<EnvironmentMarker>, since: Time) -> Self {
        Self { group: leader as i32, marker, since, strays: Mutex::default() }
    }

    pub(super) fn group(&self) -> i32 {
        self.group
    }

    /// Returns whether members outside the group can be recognized by their environment.
    pub(super) fn is_marked(&self) -> bool {
        self.marker.is_some()
    }

    fn remember(&self, process: Process) {
        let mut strays = self.strays.lock();
        match search(strays.len(), &mut |at| strays[at].id().cmp(&process.id())) {
            Ok(at) => strays[at] = process,
            Err(at) => strays.insert(at, process),
        }
    }

    /// Returns the strays that still live.
    fn strays(&self) -> Vec<Process> {
        let mut strays = self.strays.lock();
        for stray in std::mem::take(&mut *strays) {
            if stray.lives() {
                strays.push(stray);
            }
        }
        strays.clone()
    }
}

/// One tree of a batch.
#[derive(Clone, Copy)]
pub(in crate::tree) struct Target<'a> {
    pub(super) membership: &'a Membership,
    pub(super) leader: &'a Leader,
}

impl Target<'_> {
    /// Signals the leader and its group. The leader is signalled by itself only if it has left the group, so that no process
    /// receives a signal twice.
    pub(super) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        let group = self.membership.group;
        self.leader.signal(&mut |notice| {
            let leader = match processes::group_of(group) {
                Some(id) if id == group => Ok(()),
                _ => notice.signal(signal),
            };
            leader.and(notice.signal_group(signal))
        })
    }

    /// Returns whether the leader's process ID is its own, and therefore the group's.
    fn has_its_id(&self) -> bool {
        let mut has_its_id = false;
        let answered = self.leader.signal(&mut |notice| {
            has_its_id = notice.has_its_id();
            Ok(())
        });
        answered.is_ok() && has_its_id
    }

    /// Opens processes that a pass found in the group, wherever they are now. Returns the living ones.
    fn open_seen(&self, ids: &[i32], began: Time) -> io::Result<OpenedGroup> {
        let (mut inside, mut left) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(held) = Held::open(*id)? else { continue };
            let is_inside = held.group() == Some(self.membership.group);
            let is_member =
                is_inside || held.is_older_than(began)? || self.is_carried_soon_by(*id)?;
            // This follows the reads.
            if is_member && held.lives() {
                if is_inside { inside.push(held) } else { left.push(held) }
            }
        }
        if !self.has_its_id() {
            inside.clear();
        }
        let mut opened = OpenedGroup { inside: inside.len(), held: inside, left: Vec::new() };
        for held in left {
            if let Some(process) = held.process()? {
                // A later pass might not find this member.
                self.membership.remember(process);
                opened.left.push(process);
                opened.held.push(held);
            }
        }
        Ok(opened)
    }

    /// Returns whether the process with this ID carries the marker. Waits for the end of an exec, because a process that
    /// leaves its group usually executes a program next.
    fn is_carried_soon_by(&self, id: i32) -> io::Result<bool> {
        let Some(marker) = &self.membership.marker else { return Ok(false) };
        let mut buffer = pass::buffer();
        let until = Instant::now() + BRIEF_PATIENCE;
        let mut pause = Backoff::new();
        loop {
            let mut found = false;
            let mut each = |variable: &[u8]| found |= marker.is_in(variable);
            match processes::environment(id, &mut buffer, &mut each)? {
                Environment::Shown => return Ok(found),
                Environment::Unsettled | Environment::Exiting if pause.sleep(Some(until)) => {}
                _ => return Ok(false),
            }
        }
    }

    /// Returns the error for members of the group that this process lacks permission to signal. A signal to the group skips
    /// them without an error if there are other members.
    fn refused(&self, found: &Found) -> io::Result<()> {
        // This check sends no signal, so it may use an ID that has a new owner. The process is opened after it.
        let mut refused = Ok(());
        for id in &found.inside {
            if processes::refuses(*id) {
                let opened = self.open_seen(&[*id], found.began)?;
                refused = signal_each(&opened.held, &[0]).and(refused);
            }
        }
        refused
    }

    fn too_fast(&self) -> io::Error {
        let group = self.membership.group;
        io::Error::other(format!("the tree of process {group} grows faster than it can be killed"))
    }
}

/// Living processes that a pass found in the group of a tree.
struct OpenedGroup {
    held: Vec<Held>,
    /// The number of processes, at the start of `held`, that are still in the group.
    inside: usize,
    /// The members that have left the group since.
    left: Vec<Process>,
}

fn reaped_elsewhere(leader: i32) -> io::Error {
    io::Error::other(format!(
        "process {leader} was reaped by another part of this program, so its process group cannot be signalled safely"
    ))
}

fn is_among(processes: &[Held], id: i32) -> bool {
    processes.iter().any(|held| held.id() == id)
}

/// Returns the ID that was handed out first after `start`. IDs wrap around.
fn first_after(start: i32, ids: &[i32]) -> Option<i32> {
    ids.iter().copied().min_by_key(|id| (*id <= start, *id))
}

/// Keeps the first error.
fn put(result: &mut io::Result<()>, next: io::Result<()>) {
    if result.is_ok() {
        *result = next;
    }
}
