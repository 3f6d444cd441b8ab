//! Promise: each child is handed out once, or removed, whichever comes first; a waiter that returns leaves the
//! remaining work to another waiter.

#[cfg(unix)]
use super::resources::{BEST, BY_THREAD};
use super::*;
#[cfg(unix)]
use crate::common::unix::NoDescriptors;
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt;

#[test]
fn exits_that_race_inserts_are_handed_out_once() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        for n in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, code(n));
            let start = Barrier::new(3);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(stdin);
                });
                // The set may still be empty.
                let waiter = scope.spawn(|| {
                    start.wait();
                    set.wait_next_timeout(LONG)
                });
                start.wait();
                set.insert(n, child);
                let got = waiter.join().unwrap();
                let finished = got.unwrap_or_else(|| next(&set));
                assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(code(n))));
            });
            is_over(&set);
        }
    });
}

/// Each child is handed out or removed, never both, and never neither.
#[test]
fn exits_that_race_removals_are_handed_out_or_removed() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut handed_out = 0;
        for n in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, code(n));
            set.insert(n, child);
            let start = Barrier::new(3);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    start.wait();
                    set.wait_next()
                });
                let removal = scope.spawn(|| {
                    start.wait();
                    // In half of the rounds the exit is likelier to come first.
                    for _ in 0..(n % 2) * 200 {
                        thread::yield_now();
                    }
                    set.remove(&n)
                });
                start.wait();
                drop(stdin);
                match (waiter.join().unwrap(), removal.join().unwrap()) {
                    (Some(finished), None) => {
                        assert_eq!(finished.key, n);
                        assert_eq!(finished.status.unwrap().code(), Some(code(n)));
                        handed_out += 1;
                    }
                    (None, Some(child)) => assert_eq!(wait(&child).code(), Some(code(n))),
                    (None, None) => panic!("no thread has got it"),
                    (Some(_), Some(_)) => panic!("both have got it"),
                }
            });
            is_over(&set);
        }
        eprintln!("{handed_out} were handed out");
    });
}

/// One child after the other has the same key, while they exit and other threads wait.
#[test]
fn replaced_children_are_returned_or_handed_out() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let count = rounds(100);
        let got = Mutex::new(Vec::new());
        set.insert(usize::MAX, sleeper(backend));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    // Until the set is empty.
                    while let Some(finished) = set.wait_next_timeout(LONG) {
                        if finished.key == usize::MAX {
                            break;
                        }
                        assert_eq!(finished.key, 0);
                        let code = finished.status.unwrap().code().expect("it was not killed");
                        got.lock().unwrap().push(code);
                    }
                });
            }
            for n in 0..count {
                if let Some(old) = set.insert(0, quick(backend, code(n))) {
                    got.lock().unwrap().push(wait(&old).code().unwrap());
                }
            }
            until("the last is handed out", || set.get(&0).is_none());
            set.get(&usize::MAX).unwrap().kill().unwrap();
        });
        assert!(set.is_empty());
        let mut got = got.into_inner().unwrap();
        got.sort_unstable();
        let mut all: Vec<_> = (0..count).map(code).collect();
        all.sort_unstable();
        assert_eq!(got, all);
    });
}

#[test]
fn eight_threads_get_each_child_once() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(1).max(1) {
            all_once(children(120), 8, |_| backend);
        }
    });
}

/// Several hundred exits at once, twice.
#[test]
fn burst_of_exits_is_handed_out_once() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        all_once(children(300), 1, |_| backend);
        let set = ChildSet::new();
        for _ in 0..2 {
            let count = children(200);
            for n in 0..count {
                set.insert(n, sleeper(backend));
            }
            set.kill_all().unwrap();
            let mut keys: Vec<_> = (0..count).map(|_| next(&set).key).collect();
            keys.sort_unstable();
            assert!(keys.into_iter().eq(0..count));
            is_over(&set);
        }
    });
}

#[test]
fn sets_threads_and_tasks_get_the_same_status() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(10) {
            let count = 8;
            let (sets, all) =
                ([ChildSet::new(), ChildSet::new()], stoppable_children(count, |_| backend));
            let (children, stdins): (Vec<_>, Vec<_>) =
                all.into_iter().map(|(child, stdin)| (Arc::new(child), stdin)).unzip();
            for set in &sets {
                for (n, child) in children.iter().enumerate() {
                    set.insert(n, Arc::clone(child));
                }
            }
            thread::scope(|scope| {
                for set in sets.iter().chain(&sets) {
                    scope.spawn(|| {
                        while let Some(finished) = set.wait_next() {
                            let reported = finished.status.unwrap().code();
                            assert_eq!(reported, Some(code(finished.key)));
                        }
                    });
                }
                for (n, child) in children.iter().enumerate() {
                    scope.spawn(move || assert_eq!(wait(child).code(), Some(code(n))));
                    scope.spawn(move || assert_eq!(child.wait().unwrap().code(), Some(code(n))));
                    scope.spawn(move || {
                        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(code(n)));
                    });
                }
                drop(stdins);
            });
            sets.iter().for_each(is_over);
        }
    });
}

/// Each call sees the set at some moment.
#[test]
fn concurrent_inserts_removals_kills_and_waits_lose_no_child() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let (inserted, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let inserting = AtomicUsize::new(2);
        let count = rounds(60);
        thread::scope(|scope| {
            for way in 0..2 {
                let (set, inserted, got, inserting) = (&set, &inserted, &got, &inserting);
                scope.spawn(move || {
                    for n in 0..count {
                        let child = match (n + way) % 3 {
                            0 => sleeper(backend),
                            _ => quick(backend, code(n)),
                        };
                        inserted.fetch_add(1, Ordering::Relaxed);
                        // Both threads use the same keys, so one may replace a child of the other.
                        if let Some(old) = set.insert(n % 7, child) {
                            kill_and_wait(&old);
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        if let Some(removed) = (n % 5 == 0).then(|| set.remove(&(n % 3))).flatten()
                        {
                            kill_and_wait(&removed);
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    inserting.fetch_sub(1, Ordering::Release);
                });
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    while inserting.load(Ordering::Acquire) > 0 || !set.is_empty() {
                        if set.wait_next().is_some() {
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                while inserting.load(Ordering::Acquire) > 0 || !set.is_empty() {
                    assert!(set.iter().all(|(key, _)| key < 7));
                    assert!(set.len() <= 7 && format!("{set:?}").contains("ChildSet"));
                    set.kill_all().unwrap();
                    thread::yield_now();
                }
            });
        });
        assert_eq!(got.into_inner(), inserted.into_inner());
        is_over(&set);
    });
}

/// Two waiters find the same child, and one gets it. The other must not return without the second child that has exited.
#[cfg(unix)]
#[test]
fn waiter_that_loses_one_child_gets_another() {
    watchdog!();
    let exited = Arc::new(quick(BEST, 7));
    wait(&exited);
    for _ in 0..rounds(300) {
        let set = ChildSet::new();
        let child = Arc::new(sleeper(BEST));
        set.insert("waited for", Arc::clone(&child));
        thread::scope(|scope| {
            // After one wake-up of the event queue, that queue is polled first.
            let waiter = blocked(scope, || next(&set).key);
            set.insert("posted", Arc::clone(&exited));
            assert_eq!(waiter.join().unwrap(), "posted");
        });
        child.kill().unwrap();
        unix::wait_for_zombie(child.id());
        let start = Barrier::new(3);
        let both = thread::scope(|scope| {
            let takes = [(); 2].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    set.try_wait_next().map(|finished| finished.key)
                })
            });
            start.wait();
            set.insert("posted", Arc::clone(&exited));
            takes.map(|take| take.join().unwrap())
        });
        assert!(both.contains(&Some("waited for")), "it had exited before: {both:?}");
        while set.wait_next().is_some() {}
    }
}

/// One waiter polls the children without notification.
#[cfg(target_os = "linux")]
#[test]
fn poller_that_leaves_is_succeeded_by_another_waiter() {
    alone!();
    watchdog!();
    for round in 0..rounds(10).max(4) {
        on_time(Duration::from_millis(300), |timeout| leave_after_the_exit(round, timeout));
    }
}

/// On a slow machine waiters may return too early: the round is then repeated with a longer timeout.
#[cfg(unix)]
fn on_time(mut timeout: Duration, round: impl Fn(Duration) -> bool) {
    while !round(timeout) {
        timeout *= 2;
        assert!(timeout < LONG / 3, "the waiters never leave on time");
    }
}

/// All waiters but one return after this timeout. Returns whether a child had to be polled by then.
#[cfg(target_os = "linux")]
fn leave_after_the_exit(round: usize, timeout: Duration) -> bool {
    let (set, child) = (ChildSet::new(), Arc::new(sleeper(BEST)));
    let release = linux::trace_from_a_fork(child.id());
    set.insert((), Arc::clone(&child));
    let deadline = Instant::now() + timeout;
    let on_time = thread::scope(|scope| {
        // Systems differ in which waiter the exit wakes: the first or the last.
        let stay = || blocked(scope, || next(&set).status.unwrap().signal());
        let stays_first = (round % 2 == 0).then(stay);
        let leave: Vec<_> = (0..1 + round % 3)
            .map(|_| blocked(scope, || set.wait_next_deadline(deadline).is_none()))
            .collect();
        let stays = stays_first.unwrap_or_else(stay);
        child.kill().unwrap();
        until("a zombie", || unix::is_zombie(child.id()));
        let on_time = Instant::now() < deadline;
        assert!(leave.into_iter().all(|waiter| waiter.join().unwrap()));
        assert!(!stays.is_finished());
        release();
        assert_eq!(stays.join().unwrap(), Some(libc::SIGKILL));
        on_time
    });
    is_over(&set);
    on_time
}

/// The same, for children without notification from the beginning.
#[cfg(unix)]
#[test]
fn poller_without_descriptors_is_succeeded_by_another_waiter() {
    alone!();
    watchdog!();
    for _ in 0..rounds(10) {
        on_time(Duration::from_millis(200), leaves_after_the_insert);
    }
}

#[cfg(unix)]
fn leaves_after_the_insert(timeout: Duration) -> bool {
    let full = NoDescriptors::left();
    let set = ChildSet::new();
    drop(full);
    let other = Arc::new(sleeper(BY_THREAD));
    set.insert(0, Arc::clone(&other));
    let deadline = Instant::now() + timeout;
    let on_time = thread::scope(|scope| {
        let leaves = blocked(scope, || set.wait_next_deadline(deadline).is_none());
        let stays = blocked(scope, || next(&set).key);
        let (child, stdin) = stoppable(BEST, 7);
        set.insert(1, child);
        let on_time = Instant::now() < deadline;
        assert!(leaves.join().unwrap());
        drop(stdin);
        assert_eq!(stays.join().unwrap(), 1);
        on_time
    });
    kill_and_wait(&other);
    assert_eq!(next(&set).key, 0);
    is_over(&set);
    on_time
}
