//! Work for which no thread could be started. Later spawns and drops try it again.
//!
//! The work is a closure, so a program without trees does not contain the code of trees.

use crate::fork_guard::PerProcess;
use crate::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A closure that returns whether the work is done. It does not block.
pub(crate) type Work = Box<dyn FnMut() -> bool + Send>;

#[derive(Default)]
struct Deferred {
    work: Mutex<Vec<Work>>,
    /// The length of the list, so that a spawn usually costs one load.
    len: AtomicUsize,
}

static DEFERRED: PerProcess<Deferred> = PerProcess::new();

/// Runs `work` at later spawns and drops until it returns `true`.
pub(crate) fn push(work: Work) {
    DEFERRED.get().add(vec![work]);
}

/// Tries all deferred work once.
pub(crate) fn retry() {
    let deferred = DEFERRED.get();
    if deferred.len.load(Ordering::Relaxed) > 0 {
        let mut all = std::mem::take(&mut *deferred.work.lock());
        let mut undone = Vec::new();
        // The lock is not held: work may defer other work.
        while let Some(mut work) = all.pop() {
            if !work() {
                undone.push(work);
            }
        }
        deferred.add(undone);
    }
}

impl Deferred {
    fn add(&self, mut work: Vec<Work>) {
        let mut list = self.work.lock();
        list.append(&mut work);
        self.len.store(list.len(), Ordering::Relaxed);
    }
}
