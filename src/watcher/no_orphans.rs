//! Where nothing is ever to be reaped.

use super::Watcher;

#[derive(Default)]
pub(super) struct Stranded;

impl Stranded {
    pub(super) fn are(&self, _: usize) {}
}

impl Watcher {
    pub(super) fn reap_orphans(&mut self) {
        self.held_up.clear();
    }
}
