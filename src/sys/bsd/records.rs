//! macOS, FreeBSD, DragonFly and NetBSD: the process table as a list of records, by libproc or by sysctl.

use super::source::{all, one, usable};
use super::{Platform, WITHOUT_RECORDS};
use crate::sys::PLATFORM;
use crate::sys::unix::by_pid::{Identity, Pid};
use crate::sys::unix::process_table::{Groups, Listing, ProcessTable, Record, Time};
use crate::sys::unix::syscall;
use crate::sys::unix::system::{Same, System};
use std::io;

pub(crate) const WITH_RECORDS: Platform =
    Platform { identity: Some(identity_of), process_table: Some(&Records), ..WITHOUT_RECORDS };

/// Returns the present time on the clock of the records, in microseconds. On FreeBSD `fork` records the start by
/// CLOCK_MONOTONIC, the time since the boot (`microuptime`); the other systems record the time of day.
fn clock() -> i64 {
    let clock = match PLATFORM.system {
        Some(System::FreeBsd) => libc::CLOCK_MONOTONIC,
        _ => libc::CLOCK_REALTIME,
    };
    syscall::clock(clock).as_micros() as i64
}

struct Records;

impl ProcessTable for Records {
    fn check(&self) -> Result<(), &'static str> {
        if usable() { Ok(()) } else { Err("the system hides processes from this program") }
    }

    /// Returns a time on the clock of the records. Where that is the time of day, a clock that is set back makes a later
    /// process start earlier.
    fn now(&self) -> Time {
        // NetBSD records the time of the last tick, so leave a margin.
        const ROOM: i64 = 1_000_000;
        Time(clock().saturating_sub(ROOM))
    }

    fn record(&self, id: i32) -> io::Result<Option<Record>> {
        Ok(one(id))
    }

    fn list(&self, groups: &Groups, since: Time, _: Option<(i32, i32)>) -> io::Result<Listing> {
        let me = std::process::id() as i32;
        let mut listing = Listing::default();
        for record in all()? {
            if record.id == me {
                continue;
            }
            if let Some(tree) = groups.tree_of(record.group) {
                listing.grouped.push((record.id, tree));
            } else if record.lives && record.may_belong(since) {
                listing.others.push(record);
            }
        }
        Ok(listing)
    }
}

/// The start time of a process, which stays the same when the clock is set.
#[derive(Debug)]
struct StartTime {
    pid: Pid,
    started: Time,
}

/// Returns the identity of the process with this ID. `None` if the process is reaped, if this program lacks permission,
/// or if the system does not report the start, as for a zombie on NetBSD and DragonFly.
fn identity_of(pid: Pid) -> Option<Box<dyn Identity>> {
    let (started, _) = started(pid)?;
    Some(Box::new(StartTime { pid, started }))
}

impl Identity for StartTime {
    fn check(&self) -> Same {
        let system = PLATFORM.system.expect("a system with a process table is known");
        system.compare(std::process::id() as i32, &self.started, started(self.pid))
    }
}

/// Returns the start time and the parent of the process with this ID.
fn started(pid: Pid) -> Option<(Time, i32)> {
    let record = one(pid.get())?;
    Some((record.started?, record.parent))
}

#[cfg(test)]
mod tests {
    use super::{ProcessTable, Records, Time, clock, one};
    use std::process::{Command, Stdio};

    #[test]
    fn process_starts_between_two_readings_of_the_clock() {
        let before = Records.now();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let record = one(child.id() as i32);
        let after = Time(clock());
        drop(child.stdin.take());
        child.wait().expect("the status of cat");
        let started = record.and_then(|record| record.started).expect("the start of cat");
        assert!(before <= started && started <= after, "{before:?} {started:?} {after:?}");
    }
}
