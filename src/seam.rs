//! Forces backends for this repository's tests and benchmarks. Public only with the private feature `_seam`.

#![cfg_attr(not(feature = "_seam"), allow(dead_code, unused_imports))]
#![allow(missing_docs)]

pub use crate::sys::Backend;

use crate::{Capture, CaptureOptions, Captured, SharedChild, SpawnOptions};
use std::io;
use std::process::{Child, Command};

/// Calls `run` in the state of a thread that works as the background reaper. `run` must not drop a handle or spawn a child,
/// except in the child of a fork.
pub fn while_the_reaper_works<T>(run: impl FnOnce() -> T) -> T {
    crate::reaper::busy(run)
}

/// Makes `kill_with_parent` of a single child work as on systems without a parent-death signal.
#[cfg(unix)]
pub fn tie_by_guardian(options: &mut SpawnOptions) {
    options.wanted.system.no_parent_death_signal = true;
}

/// Makes a tree find its members by their parents alone, as on systems where environments cannot be read.
#[cfg(unix)]
pub fn without_marker(options: &mut SpawnOptions) {
    options.wanted.system.no_marker = true;
}

/// Sets how often each guardian that starts from now on checks whether it is still needed.
#[cfg(unix)]
pub fn set_guardian_tick(milliseconds: u16) {
    let tick = &crate::tree::guardian::TICK_MS;
    tick.store(milliseconds.into(), std::sync::atomic::Ordering::Relaxed);
}

/// Returns how often this process has read the whole process table.
#[cfg(unix)]
pub fn process_table_passes() -> usize {
    crate::tree::processes::passes()
}

impl Backend {
    pub fn spawn(self, command: &mut Command) -> io::Result<SharedChild> {
        SpawnOptions::new().spawn_on(self, command)
    }

    pub fn spawn_with(
        self,
        options: &SpawnOptions,
        command: &mut Command,
    ) -> io::Result<SharedChild> {
        options.spawn_on(self, command)
    }

    pub fn capture(
        self,
        options: &SpawnOptions,
        command: &mut Command,
        capture: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        options.capture_on(self, command, capture)
    }

    pub fn begin_capture<'a>(
        self,
        options: &SpawnOptions,
        command: &mut Command,
        capture: &mut CaptureOptions<'a>,
    ) -> io::Result<Capture<'a>> {
        options.begin_capture_on(self, command, capture)
    }

    pub fn share(self, child: Child) -> io::Result<SharedChild> {
        SharedChild::new_on(self, child)
    }
}
