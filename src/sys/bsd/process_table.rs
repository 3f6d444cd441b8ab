//! macOS and most BSDs: what the system tells of a process that is known by its ID.

use crate::sys::PLATFORM;
use crate::sys::process_records::one;
use crate::sys::unix::by_pid::{Identity, Pid, Same};
use crate::sys::unix::system::System;

/// Attempts at what other processes can spoil, by coming into being or by setting the clock.
pub(super) const ATTEMPTS: usize = 10;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) id: i32,
    pub(crate) parent: i32,
    /// Its process group.
    pub(crate) group: i32,
    /// It is not a zombie.
    pub(crate) lives: bool,
    /// When it started, and the same for as long as it is there. `None` where that is
    /// not told: of another user's process on macOS; on NetBSD of a zombie, and for as long as a process
    /// takes to execute a program, or to exit.
    pub(crate) started: Option<Time>,
    /// It is being traced, and what is told of its parent says little: that is its debugger, on macOS and
    /// NetBSD, or who was its parent before that and may be long gone, on DragonFly. (FreeBSD tells the
    /// real one in any case.)
    pub(crate) adopted: bool,
}

/// When a process started, in microseconds, by the clock in which the records of this system have it: the time since
/// the boot on FreeBSD, Unix time on the others. A type of its own, so that no time of another clock is compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(super) i64);

impl Time {
    /// A process that starts from here on has this start or a later one, unless the clock is set back.
    pub(crate) fn now() -> Self {
        // NetBSD notes the time of the last tick, so leave room.
        const ROOM: i64 = 1_000_000;
        Self(clock().saturating_sub(ROOM))
    }
}

/// On FreeBSD `fork` records the start by CLOCK_MONOTONIC, the time since the boot (`microuptime`).
fn clock() -> i64 {
    if PLATFORM.system == Some(System::FreeBsd) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        return micros(now.tv_sec, now.tv_nsec / 1000);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn micros(seconds: impl Into<i64>, rest: impl Into<i64>) -> i64 {
    seconds.into() * 1_000_000 + rest.into()
}

/// The time when the process started, which stays the same when the clock is set.
#[derive(Debug)]
struct StartTime {
    pid: Pid,
    started: Time,
}

/// `None` if the process is reaped, if this program lacks permission, or if the system does not report the start: of a
/// zombie on NetBSD and DragonFly.
pub(crate) fn identity_of(pid: Pid) -> Option<Box<dyn Identity>> {
    let (started, _) = started(pid)?;
    Some(Box::new(StartTime { pid, started }))
}

impl Identity for StartTime {
    fn check(&self) -> Same {
        let system = PLATFORM.system.expect("a system with a process table is known");
        system.compare(std::process::id() as i32, &self.started, started(self.pid))
    }
}

/// When the process with this ID started, and its parent.
fn started(pid: Pid) -> Option<(Time, i32)> {
    let record = one(pid.as_raw_nonzero().get())?;
    Some((record.started?, record.parent))
}

#[cfg(test)]
mod tests {
    use super::{Time, clock, one};
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_starts_between_two_readings_of_the_clock() {
        let before = Time::now();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let record = one(child.id() as i32);
        let after = Time(clock());
        drop(child.stdin.take());
        child.wait().expect("the status of cat");
        let started = record.and_then(|record| record.started).expect("the start of cat");
        assert!(before <= started && started <= after, "{before:?} {started:?} {after:?}");
    }
}
