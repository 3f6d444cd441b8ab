//! Is a process ID still the child's?
//!
//! Only where a process is known by its ID alone, and only because of foreign reapers: as long as we
//! have not reaped the child and nobody else has, the ID cannot have a new owner.

use super::by_pid::{self, Pid};
#[cfg(any(
    all(test, not(loom)),
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
use super::system::System;
use crate::sys::Look;
use std::io;
use std::process::ExitStatus;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use proc::Identity;

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) use start::Identity;

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
pub(crate) use unknown::Identity;

/// Where the child stands, by its process ID as far as that still means the child.
///
/// An error means that there is no `waitid` (a sandbox), and that no other reaper is known to have reaped it.
pub(crate) fn look(identity: Option<&Identity>, pid: Pid) -> io::Result<Look> {
    let seen = by_pid::look(pid).map(|look| with_status(look, || status_of_zombie(pid)));
    // Check the identity after everything else: if the ID is the child's now, it was the child's before.
    judge(seen, identity.map(Identity::check))
}

/// macOS 10.12 to 10.15 do not write into a `siginfo_t` which signal ended a child. The process table has the status.
/// Without it only a reap tells, and a leader that is pinned would be reaped (`lifecycle.rs`).
fn with_status(look: Look, of_zombie: impl FnOnce() -> Option<ExitStatus>) -> Look {
    match look {
        Look::Exited(None) => Look::Exited(of_zombie()),
        look => look,
    }
}

#[cfg(target_os = "macos")]
fn status_of_zombie(pid: Pid) -> Option<ExitStatus> {
    crate::sys::process_table::status_of_zombie(pid.as_raw_nonzero().get())
}

#[cfg(not(target_os = "macos"))]
fn status_of_zombie(_: Pid) -> Option<ExitStatus> {
    None
}

/// What is to be believed of what `waitid` tells of the ID.
fn judge(seen: io::Result<Look>, same: Option<Same>) -> io::Result<Look> {
    match (same, &seen) {
        (Some(Same::No), _) => Ok(Look::ReapedElsewhere),
        // The child is there, and `waitid` does not find it: on some systems a debugger that is attached is its parent
        // for as long as that lasts, and gives it back. Or a foreign reaper is in the middle of its reap.
        (Some(Same::Yes), Ok(Look::ReapedElsewhere)) => Ok(Look::Running),
        _ => seen,
    }
}

/// What [`Identity::check`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems never tell")]
pub(crate) enum Same {
    /// The ID means the child, living or zombie.
    Yes,
    /// The ID means the child, and the child has another parent for good: this process cannot wait for it any more.
    Reparented,
    /// The child was reaped, and somebody else has its ID.
    No,
    /// The ID may be free, or the system does not tell.
    Unknown,
}

/// Compares a process with the one that has its ID now, or `None` if there is none, or if the system does not tell.
///
/// FreeBSD reparents a zombie whose parent ignores SIGCHLD, and the process table shows it until its new parent reaps it.
/// `waitid` does not find it from then on, and for the caller that is a foreign reap. Where the table names a debugger as
/// the parent, a parent that is not this process means nothing: the debugger gives the child back.
#[cfg(any(
    all(test, not(loom)),
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
fn compare<T: PartialEq>(system: System, me: i32, then: &T, now: Option<(T, i32)>) -> Same {
    match now {
        Some((start, _)) if start != *then => Same::No,
        Some((_, parent)) if parent != me && system.tells_real_parent() => Same::Reparented,
        Some(_) => Same::Yes,
        None => Same::Unknown,
    }
}

/// Linux: a directory below `/proc`, held open, means one process and never another (proc(5)). What is
/// asked of it fails once its process has been reaped, whoever has the ID now.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc {
    use super::Same;
    use crate::sys::unix::by_pid::Pid;
    use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat, readlinkat};
    use std::os::fd::{AsFd, OwnedFd};

    #[derive(Debug)]
    pub(crate) struct Identity {
        directory: OwnedFd,
        pid: Pid,
    }

    impl Identity {
        /// `None` without `/proc`, or without a descriptor to spare; or if this is the `/proc` of another
        /// PID namespace, which means other processes by the same IDs.
        pub(crate) fn of(pid: Pid) -> Option<Self> {
            let me = readlinkat(CWD, "/proc/self", Vec::new()).ok()?;
            if me.to_str().ok()?.parse() != Ok(std::process::id()) {
                return None;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, path(pid), flags, Mode::empty()).ok()?;
            Some(Self { directory, pid })
        }

        pub(crate) fn check(&self) -> Same {
            let is_there = || exists(&self.directory, "stat");
            let is_taken = || exists(CWD, &format!("{}/stat", path(self.pid)));
            if is_there() {
                Same::Yes
            } else if is_taken() && !is_there() {
                // (Asked again: it may have been hidden, as below, and not be so any more.)
                Same::No
            } else {
                // Reaped, and the ID is free; or hidden (`hidepid`, and the child has changed its
                // user). `waitid` can tell.
                Same::Unknown
            }
        }
    }

    fn path(pid: Pid) -> String {
        format!("/proc/{}", pid.as_raw_nonzero())
    }

    fn exists(directory: impl AsFd, path: &str) -> bool {
        accessat(directory, path, Access::EXISTS, AtFlags::empty()).is_ok()
    }
}

/// macOS and most BSDs: the time when the process started, which does not move when the clock is set.
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
mod start {
    use super::{Same, System, compare};
    use crate::sys::process_table::{self, Time};
    use crate::sys::unix::by_pid::Pid;

    const SYSTEM: System = System::THIS.expect("it is one of four");

    #[derive(Debug)]
    pub(crate) struct Identity {
        pid: Pid,
        started: Time,
    }

    impl Identity {
        /// `None` if the process is gone, if this program lacks permission, or if the start is not told: of a zombie on
        /// NetBSD and DragonFly.
        pub(crate) fn of(pid: Pid) -> Option<Self> {
            let (started, _) = started(pid)?;
            Some(Self { pid, started })
        }

        pub(crate) fn check(&self) -> Same {
            let me = std::process::id() as i32;
            compare(SYSTEM, me, &self.started, started(self.pid))
        }
    }

    /// When the process started that has the ID, and its parent.
    fn started(pid: Pid) -> Option<(Time, i32)> {
        let record = process_table::one(pid.as_raw_nonzero().get())?;
        Some((record.started?, record.parent))
    }
}

/// Elsewhere the system does not tell; or it must not be asked: OpenBSD's sysctl(2) would end a program
/// that has pledged no `ps`, which nothing else here needs.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
mod unknown {
    use super::Same;
    use crate::sys::unix::by_pid::Pid;
    use std::convert::Infallible;

    #[derive(Debug)]
    pub(crate) struct Identity(Infallible);

    impl Identity {
        pub(crate) fn of(_: Pid) -> Option<Self> {
            None
        }

        pub(crate) fn check(&self) -> Same {
            match self.0 {}
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Look, Same, System, compare, judge, with_status};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const ME: i32 = 100;
    const INIT: i32 = 1;

    /// What `waitid` answers with ECHILD about is judged by the process table.
    fn judged(system: System, parent: i32) -> Look {
        let same = compare(system, ME, &7, Some((7, parent)));
        judge(Ok(Look::ReapedElsewhere), Some(same)).expect("no error went in")
    }

    #[test]
    fn a_zombie_that_freebsd_has_given_to_init_counts_as_reaped_elsewhere() {
        assert_eq!(judged(System::FreeBsd, INIT), Look::ReapedElsewhere);
    }

    #[test]
    fn a_child_whose_parent_is_a_debugger_counts_as_running() {
        assert_eq!(judged(System::FreeBsd, ME), Look::Running);
        for system in [System::Apple, System::NetBsd, System::DragonFly] {
            assert_eq!(judged(system, INIT), Look::Running, "{system:?}");
        }
    }

    #[test]
    fn another_start_means_another_process_with_any_parent() {
        for parent in [ME, INIT] {
            assert_eq!(compare(System::FreeBsd, ME, &7, Some((8, parent))), Same::No);
        }
        assert_eq!(compare(System::FreeBsd, ME, &7, None), Same::Unknown);
        let seen = judge(Ok(Look::Running), Some(Same::No)).expect("no error went in");
        assert_eq!(seen, Look::ReapedElsewhere);
    }

    #[test]
    fn a_death_by_signal_without_its_number_has_the_status_of_the_process_table() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(with_status(Look::Exited(None), || Some(killed)), Look::Exited(Some(killed)));
        let known = Look::Exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(with_status(known, || panic!("the status is known")), known);
        assert_eq!(with_status(Look::Running, || panic!("it runs")), Look::Running);
    }
}
