//! Is a process ID still the child's?
//!
//! Only where a process is known by its ID alone, and only because of foreign reapers: as long as we
//! have not reaped the child and nobody else has, the ID cannot have a new owner.

use super::Look;
use super::by_pid::{self, Pid};
use std::io;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::Identity;

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(super) use start::Identity;

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
pub(super) use unknown::Identity;

/// Where the child stands, by its process ID as far as that still means the child.
///
/// An error means that there is no `waitid` (a sandbox), and that nobody else is known to have reaped.
pub(super) fn look(identity: Option<&Identity>, pid: Pid) -> io::Result<Look> {
    let seen = by_pid::look(pid);
    // Asked after, and not before: who has the ID still, had it when this was seen.
    match (identity.map(Identity::check), &seen) {
        (Some(Same::No), _) => Ok(Look::ReapedElsewhere),
        // There it is, and is not to be waited for: on some systems a debugger that has attached to it is
        // its parent meanwhile, and gives it back. Or somebody else's reap is not through yet.
        (Some(Same::Yes), Ok(Look::ReapedElsewhere)) => Ok(Look::Running),
        _ => seen,
    }
}

/// What [`Identity::check`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems never tell")]
pub(super) enum Same {
    /// The ID means the child, living or zombie.
    Yes,
    /// The child was reaped, and somebody else has its ID.
    No,
    /// The ID may be free, or the system does not tell.
    Unknown,
}

/// Linux: a directory below `/proc`, held open, means one process and never another (proc(5)). What is
/// asked of it fails once its process has been reaped, whoever has the ID now.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc {
    use super::Same;
    use crate::exit::by_pid::Pid;
    use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat, readlinkat};
    use std::os::fd::{AsFd, OwnedFd};

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        directory: OwnedFd,
        pid: Pid,
    }

    impl Identity {
        /// `None` without `/proc`, or without a descriptor to spare; or if this is the `/proc` of another
        /// PID namespace, which means other processes by the same IDs.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
            let me = readlinkat(CWD, "/proc/self", Vec::new()).ok()?;
            if me.to_str().ok()?.parse() != Ok(std::process::id()) {
                return None;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, path(pid), flags, Mode::empty()).ok()?;
            Some(Self { directory, pid })
        }

        pub(in super::super) fn check(&self) -> Same {
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

/// macOS and most BSDs: the time when the process started, which does not move when somebody sets the clock.
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
mod start {
    use super::Same;
    use crate::exit::by_pid::Pid;
    use crate::exit::record::{self, Time};

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        pid: Pid,
        started: Time,
    }

    impl Identity {
        /// `None` if the process is gone, or if this program may not ask.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
            let started = started(pid)?;
            Some(Self { pid, started })
        }

        pub(in super::super) fn check(&self) -> Same {
            match started(self.pid) {
                Some(started) if started == self.started => Same::Yes,
                Some(_) => Same::No,
                // Free, or a zombie of which this is not told any more.
                None => Same::Unknown,
            }
        }
    }

    fn started(pid: Pid) -> Option<Time> {
        record::one(pid.as_raw_nonzero().get())?.started
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
    use crate::exit::by_pid::Pid;
    use std::convert::Infallible;

    #[derive(Debug)]
    pub(in super::super) struct Identity(Infallible);

    impl Identity {
        pub(in super::super) fn of(_: Pid) -> Option<Self> {
            None
        }

        pub(in super::super) fn check(&self) -> Same {
            match self.0 {}
        }
    }
}
