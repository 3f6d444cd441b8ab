//! For this crate's own tests and benchmarks, which must be able to force each backend. Not part of
//! the public interface: it may change or go in any release.

#![allow(missing_docs)]

pub use crate::exit::Backend;

use crate::{Capture, Captured, SharedChild, SpawnOptions};
use std::io;
use std::process::{Child, Command};

/// Runs this while the background reaper seems to be at work, for as long as that takes. In there, no
/// handle must be dropped and no child spawned, except in the child of a fork.
#[cfg(unix)]
pub fn while_the_reaper_works<T>(run: impl FnOnce() -> T) -> T {
    crate::watcher::busy(run)
}

/// Has a single child be tied to this process as on systems that send no signal at a parent's death.
#[cfg(unix)]
pub fn tie_by_guardian(options: &mut SpawnOptions) {
    options.wanted.system.no_parent_death_signal = true;
}

/// Spawns a tree as on systems that show no environments: its members outside the group are known by their parents alone.
#[cfg(unix)]
pub fn without_marker(options: &mut SpawnOptions) {
    options.wanted.system.no_marker = true;
}

/// How often this process has read the whole process table.
#[cfg(unix)]
pub fn process_table_passes() -> usize {
    crate::tree::processes::passes()
}

/// Has the watcher wake the tasks of tokio runtimes, as without the feature `tokio`: so both are measured in one build, by
/// the same tasks on the same executor. It is for futures that are polled for the first time from here on.
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub fn watcher_only(only: bool) {
    crate::exit::WATCHER_ONLY.store(only, std::sync::atomic::Ordering::Relaxed);
}

impl Backend {
    pub fn spawn(self, command: &mut Command) -> io::Result<SharedChild> {
        SharedChild::spawn_on(self, command)
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
        capture: &mut Capture<'_>,
    ) -> io::Result<Captured> {
        options.capture_on(self, command, capture)
    }

    pub fn share(self, child: Child) -> io::Result<SharedChild> {
        SharedChild::new_on(self, child)
    }
}
