//! macOS and most BSDs: what the system tells of a process that is known by its ID.

#[cfg(target_os = "macos")]
mod libproc;
#[cfg(target_os = "macos")]
pub(crate) use libproc::{all, one, usable};

#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
mod sysctl;
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
pub(crate) use sysctl::{all, one, usable};

/// Attempts at what other processes can spoil, by coming into being or by setting the clock.
const ATTEMPTS: usize = 10;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) id: i32,
    pub(crate) parent: i32,
    /// Its process group.
    pub(crate) group: i32,
    /// It is not a zombie.
    pub(crate) lives: bool,
    /// When it started, in microseconds, and the same for as long as it is there. `None` where that is
    /// not told: of another user's process on macOS; on NetBSD of a zombie, and for as long as a process
    /// takes to execute a program, or to exit.
    pub(crate) started: Option<i64>,
    /// It is being traced, and what is told of its parent says little: that is its debugger, on macOS and
    /// NetBSD, or who was its parent before that and may be long gone, on DragonFly. (FreeBSD tells the
    /// real one in any case.)
    pub(crate) adopted: bool,
}

fn micros(seconds: impl Into<i64>, rest: impl Into<i64>) -> i64 {
    seconds.into() * 1_000_000 + rest.into()
}
