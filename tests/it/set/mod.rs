//! Promise: a set hands out each exit once, in the order of the exits, to any number of waiters, whatever other threads do
//! with the set and its children meanwhile.

use crate::common::executor::block_on;
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{ChildSet, Finished, SharedChild, SpawnOptions};
use std::hash::Hash;
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

mod faults;
mod races;
mod resources;
mod stops;
mod waits;

/// Returns the next exit within a bound.
#[track_caller]
fn next<K: Clone + Eq + Hash>(set: &ChildSet<K>) -> Finished<K> {
    set.wait_next_timeout(LONG).expect("one to exit")
}

/// Returns the key and the exit code of the next child.
#[track_caller]
fn next_code<K: Clone + Eq + Hash>(set: &ChildSet<K>) -> (K, i32) {
    let finished = next(set);
    let status = finished.status.expect("a status");
    // The child itself reports the same.
    assert_eq!(finished.child.try_wait().unwrap(), Some(status));
    (finished.key, status.code().expect("an exit code"))
}

#[track_caller]
fn is_over<K: Clone + Eq + Hash>(set: &ChildSet<K>) {
    assert!(set.is_empty());
    assert!(set.try_wait_next().is_none());
    assert!(set.wait_next().is_none(), "the set is empty");
    assert!(set.wait_next_timeout(Duration::MAX).is_none());
}

/// An exit code that distinguishes children: there are 256.
fn code(n: usize) -> i32 {
    i32::try_from(n % 256).expect("eight bits")
}

fn backend(n: usize) -> Backend {
    Backend::ALL[n % Backend::ALL.len()]
}

/// Starts a thread that waits, and returns once it is blocked, as far as the system shows that.
fn blocked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    wait: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (send, receive) = mpsc::channel();
    let waiter = scope.spawn(move || {
        #[cfg(target_os = "linux")]
        send.send(linux::this_thread()).unwrap();
        #[cfg(not(target_os = "linux"))]
        send.send(()).unwrap();
        drop(send);
        wait()
    });
    #[cfg(target_os = "linux")]
    linux::until_asleep(receive.recv().unwrap());
    #[cfg(not(target_os = "linux"))]
    receive.recv().unwrap();
    waiter
}

/// This number of children at once, or fewer on an emulated machine.
fn children(usual: usize) -> usize {
    rounds(usual).min(usual)
}

/// Children that exit with different codes when their pipes are closed.
fn stoppable_children(
    count: usize,
    which: impl Fn(usize) -> Backend,
) -> Vec<(SharedChild, ChildStdin)> {
    (0..count).map(|n| stoppable(which(n), code(n))).collect()
}

/// Asserts that each child is handed out once, with its own exit code.
fn all_once(count: usize, threads: usize, which: impl Fn(usize) -> Backend) {
    let set = ChildSet::new();
    let mut stdins = Vec::new();
    for (n, (child, stdin)) in stoppable_children(count, which).into_iter().enumerate() {
        set.insert(n, child);
        stdins.push(stdin);
    }
    let handed_out: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let start = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for way in 0..threads {
            let (set, handed_out, start) = (&set, &handed_out, &start);
            scope.spawn(move || {
                start.wait();
                while !set.is_empty() {
                    let finished = match way % 4 {
                        0 => set.try_wait_next(),
                        1 => set.wait_next_timeout(Duration::from_millis(1)),
                        _ => set.wait_next(),
                    };
                    let Some(finished) = finished else { continue };
                    assert_eq!(finished.status.unwrap().code(), Some(code(finished.key)));
                    handed_out[finished.key].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        start.wait();
        drop(stdins);
    });
    is_over(&set);
    let wrong: Vec<_> = (0..count)
        .map(|n| (n, handed_out[n].load(Ordering::Relaxed)))
        .filter(|(_, times)| *times != 1)
        .collect();
    assert_eq!(wrong, [], "handed out so many times");
}
