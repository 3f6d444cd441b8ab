//! Captures that end, whatever happens.

use super::executor::block_on;
use super::{LONG, helper, on_every_backend};
use shared_child::seam::Backend;
use shared_child::{Capture, CaptureOptions, Captured, Chunk, SharedChild, SpawnOptions, Until};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::Stdio;
use std::time::Instant;

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

/// How a test calls a capture that goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// The calls block this thread.
    Blocking,
    /// A task on this thread makes them.
    InTask,
}

/// Runs a test on every backend, by calls that block and in tasks.
pub(crate) fn in_every_way(test: impl Fn(Backend, Way)) {
    on_every_backend(|backend| {
        for way in [Way::Blocking, Way::InTask] {
            eprintln!("{way:?}");
            test(backend, way);
        }
    });
}

impl Way {
    pub(crate) fn read(self, capture: &Capture<'_>, until: Until) -> Chunk {
        match self {
            Self::Blocking => capture.read(until),
            Self::InTask => block_on(capture.read_async(until)),
        }
    }

    pub(crate) fn write(self, capture: &Capture<'_>, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Blocking => capture.write(bytes),
            Self::InTask => block_on(capture.write_async(bytes)),
        }
    }

    pub(crate) fn write_deadline(
        self,
        capture: &Capture<'_>,
        bytes: &[u8],
        deadline: Instant,
    ) -> io::Result<usize> {
        match self {
            Self::Blocking => capture.write_deadline(bytes, deadline),
            Self::InTask => block_on(capture.write_deadline_async(bytes, deadline)),
        }
    }

    pub(crate) fn finish(self, capture: &Capture<'_>) -> Captured {
        match self {
            Self::Blocking => capture.finish(),
            Self::InTask => block_on(capture.finish_async()),
        }
    }

    pub(crate) fn run(
        self,
        backend: Backend,
        parts: &[impl AsRef<OsStr>],
        capture: &mut CaptureOptions<'_>,
    ) -> Captured {
        match self {
            Self::Blocking => run(backend, parts, capture),
            Self::InTask => {
                let (options, mut command) = (SpawnOptions::new(), helper(parts));
                let capture = backend.begin_capture(&options, &mut command, capture);
                block_on(capture.expect("to begin").finish_async())
            }
        }
    }

    pub(crate) fn capture(
        self,
        child: &SharedChild,
        capture: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        match self {
            Self::Blocking => child.capture(capture),
            Self::InTask => block_on(child.capture_async(capture)),
        }
    }
}

/// Input whose reads fail.
pub(crate) struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk has failed"))
    }
}
