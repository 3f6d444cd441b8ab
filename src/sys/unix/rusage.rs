//! The numbers of a kernel's `struct rusage`.

use std::time::Duration;

/// Converts a time. No kernel reports a negative one.
pub(crate) fn time(seconds: impl Into<i64>, micros: impl Into<i64>) -> Duration {
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(natural(seconds.into())) + Duration::from_micros(natural(micros.into()))
}

/// Converts a peak in KiB to bytes. Zero means that the kernel does not count it.
pub(crate) fn kibibytes(peak: impl Into<i64>) -> Option<u64> {
    u64::try_from(peak.into()).ok().filter(|peak| *peak > 0)?.checked_mul(1024)
}
