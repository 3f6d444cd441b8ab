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
#[cfg(unix)]
use super::unix::{by_pid::Pid, identity::Identity, identity::Same};
use crate::usage::Usage;

/// Asks, of a child that was just seen to be a zombie, unless its usage is known.
pub(super) fn ask(look: Look, usage: &mut Option<Box<Usage>>, of: impl FnOnce() -> Option<Usage>) {
    if usage.is_none() && matches!(look, Look::Exited(_) | Look::Held(_)) {
        *usage = of().map(Box::new);
    }
}

/// By its process ID, of a child that was just seen to be a zombie, and that we do not reap meanwhile. `None` if
/// somebody else has, or if the system does not tell.
#[cfg(unix)]
pub(super) fn by_id(identity: Option<&Identity>, pid: Pid) -> Option<Usage> {
    let usage = of(pid);
    // Asked after, and not before: who has the ID still, had it when this was told.
    match identity.map(Identity::check) {
        Some(Same::No) => None,
        Some(Same::Yes | Same::Reparented | Same::Unknown) | None => usage,
    }
}

#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "macos"
    ))
))]
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
