//! macOS, FreeBSD, DragonFly and NetBSD: the clock of the start times in the process table, in microseconds.

use crate::sys::PLATFORM;
use crate::sys::unix::syscall;
use crate::sys::unix::system::System;

/// Attempts at reads that other processes can spoil, by a fork or by setting the clock.
pub(super) const ATTEMPTS: usize = 10;

/// Returns the present time. On FreeBSD `fork` records the start by CLOCK_MONOTONIC, the time since the boot
/// (`microuptime`); the other systems record the time of day.
pub(super) fn clock() -> i64 {
    let clock = match PLATFORM.system {
        Some(System::FreeBsd) => libc::CLOCK_MONOTONIC,
        _ => libc::CLOCK_REALTIME,
    };
    syscall::clock(clock).as_micros() as i64
}

pub(super) fn micros(seconds: impl Into<i64>, rest: impl Into<i64>) -> i64 {
    seconds.into() * 1_000_000 + rest.into()
}
