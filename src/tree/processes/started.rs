//! macOS and most BSDs: the system's list of processes, and the ID with the time of its start for whoever is
//! held.
//!
//! What is left is the moment between `lives` and the `kill`: by then the process may be gone, and another have
//! its ID. For that all the others must be handed out within microseconds; or this very one, where they are
//! handed out at random. These systems offer nothing better.
//!
//! Sources: [`record`]'s, kill(2), and kqueue(2) for the wait.

use super::{Census, Groups, count_pass, not_told};
use crate::backoff::Backoff;
use crate::sys;
use crate::sys::process_records as record;
use crate::sys::process_table::{Record, Time};
use crate::sys::unix::by_pid::Pid;
use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// They could be read, on some systems and of some processes.
pub(in super::super) const READS_ENVIRONMENTS: bool = false;

pub(in super::super) use crate::sys::process_records::usable;

/// On the clock by which the system reports when a process started.
///
/// Unix time can be set, so there it says little about whether a process is older than a tree. That matters little:
/// without environment markers a process outside the tree is known by its parent. The time is needed where the parent is
/// no clue. On macOS and NetBSD a debugger becomes the parent of the process that it attaches to, so a debugger that is a
/// member would make that process a member. So a process that is being traced must also be as young as the tree; no
/// other process is left out for its start.
///
/// A member that was listed in the group and is not in it any more may have left it, or the ID has a new owner. It is the
/// member only if it started before the list was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Since(Time);

impl Since {
    pub(in super::super) fn now() -> Self {
        Self(Time::now())
    }

    fn rules_out(self, record: &Record) -> bool {
        record.adopted && record.started.is_none_or(|started| started < self.0)
    }
}

pub(in super::super) fn census(groups: &Groups, since: Since) -> io::Result<Census> {
    if !usable() {
        return Err(not_told("the system hides processes from this program"));
    }
    count_pass();
    let me = std::process::id() as i32;
    let mut census = Census::default();
    for record in record::all()? {
        if record.id == me {
            continue;
        }
        if let Some(tree) = groups.get(&record.group) {
            census.grouped.push((record.id, *tree));
        } else if record.lives && !since.rules_out(&record) {
            let Record { id, parent, .. } = record;
            census.others.push(Other { id, parent, record });
        }
    }
    Ok(census)
}

/// A process that is in none of the groups, as the census saw it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Other {
    pub(in super::super) id: i32,
    pub(in super::super) parent: i32,
    record: Record,
}

impl Other {
    /// Whether the process is young enough to belong to a tree that was spawned then.
    pub(in super::super) fn may_belong(&self, since: Since) -> bool {
        !since.rules_out(&self.record)
    }

    /// For a set of processes whose environments cannot be read. None is read here, so nothing is ever in it.
    pub(in super::super) fn key(&self) -> (i32, u64) {
        (self.id, 0)
    }
}

/// A process can be remembered as it is held: no descriptor is involved.
pub(crate) type Process = Held;

#[derive(Debug, Clone)]
pub(crate) struct Held {
    id: Pid,
    started: Option<Time>,
}

impl Held {
    /// `None` if there is no such process.
    pub(in super::super) fn open(id: i32) -> io::Result<Option<Self>> {
        let known = record::one(id).zip(Pid::from_raw(id));
        Ok(known.map(|(record, id)| Self { id, started: record.started }))
    }

    pub(in super::super) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    pub(in super::super) fn parent(&self) -> io::Result<Option<i32>> {
        Ok(self.record().map(|record| record.parent))
    }

    /// Whether it had started by then, for certain.
    pub(in super::super) fn is_older_than(&self, since: Since) -> io::Result<bool> {
        Ok(self.started.is_some_and(|started| started < since.0))
    }

    pub(in super::super) fn group(&self) -> Option<i32> {
        Some(self.record()?.group)
    }

    pub(in super::super) fn process(&self) -> io::Result<Option<Process>> {
        Ok(Some(self.clone()))
    }

    /// `None` if the process has been reaped.
    pub(in super::super) fn hold(&self) -> io::Result<Option<Held>> {
        Ok(self.record().map(|_| self.clone()))
    }

    /// Neither gone nor a zombie.
    pub(in super::super) fn lives(&self) -> bool {
        self.record().is_some_and(|record| record.lives)
    }

    /// To one that is gone this does nothing.
    pub(in super::super) fn signal(&self, signal: c_int) -> io::Result<()> {
        if !self.lives() {
            return Ok(());
        }
        match sys::signal_by_pid(self.id, signal) {
            // Zombies may not be signalled on macOS.
            Err(_) if !self.lives() => Ok(()),
            sent => sent,
        }
    }

    /// A descriptor that becomes readable when the process ends. `None` if there is none to be had, or no such process.
    pub(in super::super) fn exit_descriptor(&self) -> Option<Box<dyn AsFd + Send>> {
        let exit = sys::exit_of(self.id)?;
        // Registered first, then found to live: so it is this process that was registered.
        self.lives().then(|| Box::new(exit) as Box<dyn AsFd + Send>)
    }

    /// Blocks until it lives no more (`true`), or until the deadline.
    pub(in super::super) fn wait(&self, deadline: Option<Instant>) -> bool {
        // Registered first, then found to live: so it is this one that was registered.
        let mut exit = sys::exit_of(self.id);
        let mut pause = Backoff::new();
        while self.lives() {
            let in_time = match exit.take() {
                Some(exit) => sys::poll_readable(exit.as_fd(), deadline),
                // In its last steps. Or there is no descriptor to be had, or this one may not be watched.
                None => pause.sleep(deadline),
            };
            if !in_time {
                return false;
            }
        }
        true
    }

    /// What is told of this very process. Where the start is not told, the ID has to do. On macOS that is for
    /// a member that has become another user's, which only few may signal anyway. On NetBSD it is for one
    /// that just executes a program. It must not be taken for dead: nobody is to be missed. And for a
    /// stranger to be taken for it, the ID must have come round since the start was told, or since the
    /// process was found. Whoever signals does so at once; and who waits is told of the exit.
    fn record(&self) -> Option<Record> {
        let record = record::one(self.id())?;
        let same = match (self.started, record.started) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        same.then_some(record)
    }
}
