//! The children whose handles are gone.
//!
//! A child that cannot be watched (it has no descriptor, or there is none left for the watch) is
//! reaped by a helper thread of its own. Where no thread can be had either, it is *stranded*: it is
//! tried again at every later spawn and drop.

use super::{SHARED, Watcher};
use crate::sync::Arc;
use crate::sys::Notice;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are stranded; so that a spawn, usually, costs one load.
#[derive(Default)]
pub(super) struct Stranded(AtomicUsize);

impl Stranded {
    pub(super) fn are(&self, count: usize) {
        self.0.store(count, Ordering::Relaxed);
    }
}

/// Takes on a child that was not gone a moment ago. Never blocks, never fails.
pub(crate) fn adopt(child: Arc<Notice>) {
    SHARED.get().with_watcher(|watcher| {
        watcher.retry_stranded();
        watcher.adopt(child);
    });
}

/// Tries again what could not be done at its time.
pub(crate) fn sweep() {
    let shared = SHARED.get();
    if shared.stranded.0.load(Ordering::Relaxed) > 0 {
        shared.with_watcher(Watcher::retry_stranded);
    }
}

/// Runs this while the watcher seems to be at work.
pub(crate) fn busy<T>(run: impl FnOnce() -> T) -> T {
    SHARED.get().with_watcher(|_| run())
}

impl Watcher {
    fn adopt(&mut self, child: Arc<Notice>) {
        let watched = child.descriptor().is_some() && self.watch_orphan(&child);
        if !watched && !Notice::reap_by_helper(&child) {
            self.stranded.push(child);
        }
    }

    /// Says whether it will be reaped.
    fn watch_orphan(&mut self, child: &Arc<Notice>) -> bool {
        let watched = self.watch(child).ok().flatten();
        watched.map(|(_, watched)| watched.orphan = true).is_some()
    }

    fn retry_stranded(&mut self) {
        for child in std::mem::take(&mut self.stranded) {
            if !child.reap() {
                self.adopt(child);
            }
        }
    }

    /// Those that have been noticed; what cannot be reaped yet is left.
    pub(super) fn reap_orphans(&mut self) {
        self.held_up.retain(|child| !child.reap());
    }
}
