//! What the examples share.

#![allow(dead_code)] // each example uses a part of it

use shared_child::Captured;
use std::time::Duration;

/// Parses a decimal number with an optional unit: ms, s (the default), m or h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = with_unit(text, &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)]);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("'{text}' is not a duration"))
}

/// Parses a number of bytes with an optional unit: k, m or g.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (k, m, g) = (1024.0, 1024.0 * 1024.0, 1024.0 * 1024.0 * 1024.0);
    let bytes = with_unit(&text.to_ascii_lowercase(), &[("k", k), ("m", m), ("g", g)]);
    let bytes = bytes.filter(|bytes| (0.0..9e15).contains(bytes));
    bytes.map(|bytes| bytes as usize).ok_or_else(|| format!("'{text}' is not a size"))
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let split = |(name, unit): &(&str, f64)| Some((text.strip_suffix(name)?, *unit));
    let (number, unit) = units.iter().find_map(split).unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|number| number * unit)
}

/// Describes how a command ended: its status, why it was stopped, and what failed.
pub(crate) fn outcome(captured: &Captured) -> String {
    let status = captured.status.map_or_else(|| "no status".to_owned(), |s| s.to_string());
    let stopped = captured.stopped_by.map(|why| format!("stopped, since {why}: "));
    let error = captured.error.as_ref().map(|error| format!(" ({error})"));
    format!("{}{status}{}", stopped.unwrap_or_default(), error.unwrap_or_default())
}

/// Returns whether this program ignores a signal, as after `nohup`.
#[cfg(unix)]
pub(crate) fn is_ignored(signal: std::ffi::c_int) -> bool {
    // SAFETY: an all-zero sigaction is a valid one (SIG_DFL, no flags, no signals).
    let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action, this only writes the current one to `current`, which is exclusively borrowed.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &mut current) };
    result == 0 && current.sa_sigaction == libc::SIG_IGN
}
