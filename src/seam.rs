//! For this crate's own tests and benchmarks, which must be able to force each backend. Not part of
//! the public interface: it may change or go in any release.

#![allow(missing_docs)]

use crate::exit;
use crate::{Capture, Captured, SharedChild, SpawnOptions};
use std::io;
use std::process::{Child, Command};

/// How the exit of a child is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend(exit::Backend);

/// Runs this while the background reaper seems to be at work, for as long as that takes. In there, no
/// handle must be dropped and no child spawned, except in the child of a fork.
pub fn while_the_reaper_works<T>(run: impl FnOnce() -> T) -> T {
    exit::busy(run)
}

/// Has a single child be tied to this process as on systems that send no signal at a parent's death.
#[cfg(unix)]
pub fn tie_by_guardian(options: &mut SpawnOptions) {
    options.wanted.system.no_nursery = true;
}

/// Has the watcher wake the tasks of tokio runtimes, as without the feature `tokio`: so both are measured in one build, by
/// the same tasks on the same executor. It is for futures that are polled for the first time from here on.
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub fn watcher_only(only: bool) {
    exit::WATCHER_ONLY.store(only, std::sync::atomic::Ordering::Relaxed);
}

impl Backend {
    /// All that this system has, the one that is used by default first.
    pub const ALL: &[Self] = {
        const N: usize = exit::Backend::ALL.len();
        const ALL: [Backend; N] = {
            let mut all = [Backend(exit::Backend::Best); N];
            let mut i = 0;
            while i < N {
                all[i] = Backend(exit::Backend::ALL[i]);
                i += 1;
            }
            all
        };
        &ALL
    };

    pub fn spawn(self, command: &mut Command) -> io::Result<SharedChild> {
        SharedChild::spawn_on(self.0, command)
    }

    pub fn spawn_with(
        self,
        options: &SpawnOptions,
        command: &mut Command,
    ) -> io::Result<SharedChild> {
        options.spawn_on(self.0, command)
    }

    pub fn capture(
        self,
        options: &SpawnOptions,
        command: &mut Command,
        capture: &mut Capture<'_>,
    ) -> io::Result<Captured> {
        options.capture_on(self.0, command, capture)
    }

    pub fn share(self, child: Child) -> io::Result<SharedChild> {
        SharedChild::new_on(self.0, child)
    }
}
