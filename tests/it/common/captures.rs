//! Captures that end, whatever happens.

use super::{LONG, helper};
use shared_child::seam::Backend;
use shared_child::{CaptureOptions, Captured, SharedChild, SpawnOptions};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::Stdio;

pub(crate) fn bounded<'a>() -> CaptureOptions<'a> {
    let mut capture = CaptureOptions::new();
    capture.timeout(LONG);
    capture
}

#[track_caller]
pub(crate) fn run(
    backend: Backend,
    parts: &[impl AsRef<OsStr>],
    capture: &mut CaptureOptions<'_>,
) -> Captured {
    backend.capture(&SpawnOptions::new(), &mut helper(parts), capture).expect("to capture")
}

/// A child with all three pipes.
pub(crate) fn piped(backend: Backend, parts: &[impl AsRef<OsStr>]) -> SharedChild {
    piped_with(backend, &SpawnOptions::new(), parts)
}

pub(crate) fn piped_with(
    backend: Backend,
    options: &SpawnOptions,
    parts: &[impl AsRef<OsStr>],
) -> SharedChild {
    let mut command = helper(parts);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    backend.spawn_with(options, &mut command).expect("to spawn")
}

/// Input whose reads fail.
pub(crate) struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk has failed"))
    }
}
