//! The one background thread: it reaps the children whose handles are gone.
//!
//! It is started when the first child is abandoned, sleeps until one exits, and ends when none is
//! left. Handing it a child and reaping one cost the same however many there are.
//!
//! A child that it cannot watch (the child has no descriptor, or there is none left for the watch) is
//! reaped by a helper thread of its own. Where no thread can be had either, it is *stranded*: it is
//! tried again at every later spawn and drop.
//!
//! A fork without exec copies the state but not the thread. The copy's children are not its own, and
//! its epoll is the parent's; so the child of a fork has a state of its own.

use crate::exit::{Notice, PerProcess, Watch, spawn_helper};
use crate::sync::Arc;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

static SHARED: PerProcess<Shared> = PerProcess::new();

#[derive(Default)]
struct Shared {
    /// How many are stranded; so that a spawn, usually, costs one load.
    stranded: AtomicUsize,
    /// Never held over anything that blocks.
    reaper: Mutex<Reaper>,
}

#[derive(Default)]
struct Reaper {
    /// What the thread sleeps on. There is a thread if and only if there is this.
    watch: Option<Arc<Watch>>,
    next_key: u64,
    watched: HashMap<u64, Arc<Notice>, BuildHasherDefault<DefaultHasher>>,
    stranded: Vec<Arc<Notice>>,
}

/// Takes on a child that was not gone a moment ago. Never blocks, never fails.
pub(crate) fn adopt(child: Arc<Notice>) {
    SHARED.get().with_reaper(|reaper| {
        reaper.retry_stranded();
        reaper.adopt(child);
    });
}

/// Tries again what could not be done at its time.
pub(crate) fn sweep() {
    let shared = SHARED.get();
    if shared.stranded.load(Ordering::Relaxed) > 0 {
        shared.with_reaper(Reaper::retry_stranded);
    }
}

/// Runs this while the reaper seems to be at work.
pub(crate) fn busy<T>(run: impl FnOnce() -> T) -> T {
    SHARED.get().with_reaper(|_| run())
}

impl Shared {
    fn with_reaper<T>(&self, run: impl FnOnce(&mut Reaper) -> T) -> T {
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = run(&mut reaper);
        self.stranded.store(reaper.stranded.len(), Ordering::Relaxed);
        answer
    }
}

impl Reaper {
    fn adopt(&mut self, child: Arc<Notice>) {
        if !self.watch(&child) && !Notice::reap_by_helper(&child) {
            self.stranded.push(child);
        }
    }

    fn retry_stranded(&mut self) {
        for child in std::mem::take(&mut self.stranded) {
            if !child.reap() {
                self.adopt(child);
            }
        }
    }

    /// Has the thread watch the child's descriptor. Says whether it does.
    fn watch(&mut self, child: &Arc<Notice>) -> bool {
        let Some(descriptor) = child.descriptor() else { return false };
        let key = self.next_key;
        self.next_key += 1;
        // The thread may hear of it at once; it then waits for the lock, and finds it in the map.
        let watched = match &self.watch {
            Some(watch) => watch.add(descriptor, key),
            None => start(descriptor, key).map(|watch| self.watch = Some(watch)),
        };
        if watched.is_ok() {
            self.watched.insert(key, Arc::clone(child));
        }
        watched.is_ok()
    }

    /// Reaps those that have been noticed, and leaves the keys of those that cannot be reaped yet.
    fn reap(&mut self, watch: &Watch, keys: &mut Vec<u64>) {
        keys.retain(|key| match self.watched.get(key) {
            Some(child) if child.reap() => {
                if let Some(descriptor) = child.descriptor() {
                    watch.remove(descriptor);
                }
                self.watched.remove(key);
                false
            }
            Some(_) => true,
            None => false,
        });
    }

    /// Says whether there is anything left to wait for.
    fn goes_on(&mut self) -> bool {
        let goes_on = !self.watched.is_empty();
        if !goes_on {
            // Under the lock: whoever adopts next starts a new thread.
            self.watch = None;
        }
        goes_on
    }
}

/// Starts the thread, with something to watch: it ends only when that is reaped.
fn start(descriptor: BorrowedFd<'_>, key: u64) -> io::Result<Arc<Watch>> {
    let watch = Arc::new(Watch::new()?);
    watch.add(descriptor, key)?;
    let its = Arc::clone(&watch);
    spawn_helper("child-reaper", move || run(&its))?;
    Ok(watch)
}

/// The thread.
fn run(watch: &Watch) {
    /// For zombies that cannot be reaped yet, since their tracer still holds them.
    const RETRY: Duration = Duration::from_millis(100);
    let mut keys = Vec::new();
    let mut goes_on = true;
    while goes_on {
        let timeout = (!keys.is_empty()).then_some(RETRY);
        let waited = watch.wait(&mut keys, timeout);
        goes_on = SHARED.get().with_reaper(|reaper| {
            reaper.reap(watch, &mut keys);
            if waited.is_err() {
                // Somebody has closed our descriptor. Leave what is left to later spawns and drops.
                reaper.stranded.extend(std::mem::take(&mut reaper.watched).into_values());
            }
            reaper.goes_on()
        });
    }
}
