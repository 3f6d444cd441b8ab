//! The one background thread, and the only one: it reaps the children whose handles are gone.
//!
//! It is started when the first child is abandoned, sleeps until one exits, and ends when none is
//! left. Handing it a child and reaping one cost the same however many there are.
//!
//! Where it cannot be had (no descriptor, no thread), children are *stranded*: they are tried again at
//! every later spawn and drop. Where a child has no descriptor to watch, its own helper thread reaps
//! it.
//!
//! A fork without exec copies the state but not the thread. The copy's children are not its own, and
//! its epoll is the parent's; so the first to come by after a fork starts afresh.

use crate::exit::{Notice, Watch, spawn_helper};
use crate::sync::Arc;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::BorrowedFd;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static REAPER: Mutex<Reaper> = Mutex::new(Reaper::new(0));

/// How many are stranded; so that a spawn, usually, costs one load.
static STRANDED: AtomicUsize = AtomicUsize::new(0);

struct Reaper {
    /// The process that this state belongs to.
    process: u32,
    /// What the thread sleeps on. There is a thread if and only if there is this.
    watch: Option<Arc<Watch>>,
    next_key: u64,
    watched: HashMap<u64, Arc<Notice>, BuildHasherDefault<DefaultHasher>>,
    stranded: Vec<Arc<Notice>>,
}

/// Never held over anything that blocks.
fn lock() -> MutexGuard<'static, Reaper> {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let me = process::id();
    if reaper.process != me {
        *reaper = Reaper::new(me);
        STRANDED.store(0, Ordering::Relaxed);
    }
    reaper
}

/// Takes on a child that was not gone a moment ago. Never blocks, never fails.
pub(crate) fn adopt(child: Arc<Notice>) {
    let mut reaper = lock();
    reaper.retry_stranded();
    reaper.adopt(child);
}

/// Tries again what could not be done at its time.
pub(crate) fn sweep() {
    if STRANDED.load(Ordering::Relaxed) > 0 {
        lock().retry_stranded();
    }
}

impl Reaper {
    const fn new(process: u32) -> Self {
        Self {
            process,
            watch: None,
            next_key: 0,
            watched: HashMap::with_hasher(BuildHasherDefault::new()),
            stranded: Vec::new(),
        }
    }

    fn adopt(&mut self, child: Arc<Notice>) {
        if !self.watch(&child) && !child.reap_by_helper() {
            self.stranded.push(child);
            STRANDED.store(self.stranded.len(), Ordering::Relaxed);
        }
    }

    fn retry_stranded(&mut self) {
        for child in std::mem::take(&mut self.stranded) {
            if !child.reap() {
                self.adopt(child);
            }
        }
        STRANDED.store(self.stranded.len(), Ordering::Relaxed);
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
    loop {
        let timeout = (!keys.is_empty()).then_some(RETRY);
        let waited = watch.wait(&mut keys, timeout);
        let mut reaper = lock();
        keys.retain(|key| match reaper.watched.get(key) {
            Some(child) if child.reap() => {
                if let Some(descriptor) = child.descriptor() {
                    watch.remove(descriptor);
                }
                reaper.watched.remove(key);
                false
            }
            Some(_) => true,
            None => false,
        });
        if waited.is_err() {
            // Somebody has closed our descriptor. Leave what is left to later spawns and drops.
            let left = std::mem::take(&mut reaper.watched).into_values();
            reaper.stranded.extend(left);
            STRANDED.store(reaper.stranded.len(), Ordering::Relaxed);
        }
        if reaper.watched.is_empty() {
            // Under the lock: whoever adopts next starts a new thread.
            reaper.watch = None;
            return;
        }
    }
}
