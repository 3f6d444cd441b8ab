//! What a zombie has used, without reaping it; one file a system.
//!
//! | system | by | CPU times | peak |
//! |---|---|---|---|
//! | Linux, Android | `waitid`, the system call | with those it has waited for | resident; the larger of its own and theirs |
//! | FreeBSD | `wait6`, `wru_self` | the same | the same |
//! | NetBSD | `wait6` | its own | resident; its own |
//! | macOS | `proc_pid_rusage` | with those it has waited for | its own footprint |
//! | Windows | `GetProcessTimes`, `GetProcessMemoryInfo` | its own | its own working set |
//!
//! The others tell only who reaps, and that is std.

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::linux::waitid::of;

#[cfg(any(target_os = "freebsd", target_os = "netbsd"))]
use super::bsd::wait6::of;

#[cfg(target_os = "macos")]
use super::bsd::proc_pid_rusage::of;

use super::Look;
use super::unix::{by_pid::Pid, identity::Identity, identity::Same};
use crate::usage::Usage;

/// Adds the usage to the state of a child that is known by its process ID, and that this library does not reap meanwhile.
/// `None` if the child is no zombie, if another part of the program has reaped it, or if the system does not report it.
pub(super) fn with_usage(
    look: Look,
    identity: Option<&Identity>,
    pid: Pid,
) -> (Look, Option<Usage>) {
    (look, look.is_zombie().then(|| by_id(identity, pid)).flatten())
}

fn by_id(identity: Option<&Identity>, pid: Pid) -> Option<Usage> {
    let usage = of(pid);
    // Check the identity after the usage: if the ID is the child's now, it was the child's before.
    match identity.map(Identity::check) {
        Some(Same::No) => None,
        Some(Same::Yes | Same::Reparented | Same::Unknown) | None => usage,
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "macos"
)))]
fn of(_: Pid) -> Option<Usage> {
    None
}

/// A time as kernels tell it. None of them tells a negative one.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd"
))]
pub(super) fn time(seconds: impl Into<i64>, micros: impl Into<i64>) -> std::time::Duration {
    use std::time::Duration;
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(natural(seconds.into())) + Duration::from_micros(natural(micros.into()))
}

/// A peak in KiB. Zero means that it is not counted.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd"
))]
pub(super) fn kibibytes(peak: impl Into<i64>) -> Option<u64> {
    u64::try_from(peak.into()).ok().filter(|peak| *peak > 0)?.checked_mul(1024)
}
