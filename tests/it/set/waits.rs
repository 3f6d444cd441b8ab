//! Promise: a wait for the next exit returns it, or `None` at its deadline or when the set is empty.

#[cfg(target_os = "linux")]
use super::resources::BY_THREAD;
use super::*;

#[test]
fn exited_child_is_handed_out_at_once() {
    watchdog!();
    on_every_backend(|backend| {
        type Take = fn(&ChildSet<u32>) -> Option<Finished<u32>>;
        let takes: [Take; 5] = [
            ChildSet::wait_next,
            ChildSet::try_wait_next,
            |set| set.wait_next_timeout(Duration::ZERO),
            |set| set.wait_next_timeout(Duration::MAX),
            |set| set.wait_next_deadline(Instant::now()),
        ];
        let set = ChildSet::new();
        for (n, take) in (0..).zip(takes) {
            assert!(set.try_wait_next().is_none());
            // An exit that the child knows already.
            let child = quick(backend, 7);
            wait(&child);
            assert!(set.insert(n, child).is_none());
            let finished = take(&set).expect("it has exited");
            assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(7)));
            // A zombie.
            #[cfg(unix)]
            {
                let child = quick(backend, 8);
                unix::wait_for_zombie(child.id());
                set.insert(n, child);
                let finished = take(&set).expect("it has exited");
                assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(8)));
            }
            // An exit after the calls before.
            let (child, stdin) = stoppable(backend, 9);
            set.insert(n, child);
            assert!(set.try_wait_next().is_none());
            assert!(set.wait_next_timeout(Duration::ZERO).is_none());
            let past = Instant::now();
            assert!(set.wait_next_deadline(past).is_none());
            assert_eq!(set.len(), 1);
            drop(stdin);
            wait(&set.get(&n).unwrap());
            let finished = set.wait_next_deadline(past).expect("it polls once");
            assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(9)));
        }
        is_over(&set);
    });
}

#[test]
fn empty_set_returns_none_from_every_wait() {
    watchdog!();
    let set = ChildSet::<String>::default();
    is_over(&set);
    assert!(set.wait_next_deadline(Instant::now() + LONG).is_none());
    assert_eq!((set.len(), set.iter().len()), (0, 0));
    assert!(set.get(&String::new()).is_none());
    assert!(set.remove(&String::new()).is_none());
    set.kill_all().unwrap();
    set.stop_all(Duration::MAX).unwrap();
    assert!(format!("{set:?}").contains("len: 0"), "{set:?}");
}

#[test]
fn wait_returns_none_at_its_deadline() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        set.insert(1, sleeper(backend));
        let (start, timeout) = (Instant::now(), Duration::from_millis(50));
        assert!(set.wait_next_timeout(timeout).is_none());
        assert!(start.elapsed() >= timeout);
        let deadline = Instant::now() + timeout;
        assert!(set.wait_next_deadline(deadline).is_none());
        assert!(Instant::now() >= deadline);
        set.kill_all().unwrap();
        assert!(!next(&set).status.unwrap().success());
        is_over(&set);
    });
}

/// With a deadline that never passes, and with none.
#[test]
fn exit_wakes_the_waiter() {
    watchdog!();
    on_every_backend(|backend| {
        for without_deadline in [true, false] {
            let set = ChildSet::new();
            let (child, stdin) = stoppable(backend, 7);
            set.insert("it", child);
            thread::scope(|scope| {
                let waiter = blocked(scope, || {
                    if without_deadline {
                        set.wait_next()
                    } else {
                        set.wait_next_timeout(Duration::MAX)
                    }
                });
                assert!(!waiter.is_finished());
                drop(stdin);
                let finished = waiter.join().unwrap().expect("it has exited");
                assert_eq!(finished.status.unwrap().code(), Some(7));
            });
            is_over(&set);
        }
    });
}

#[test]
fn waiter_gets_a_child_inserted_meanwhile() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        set.insert(0, sleeper(backend));
        for n in 1..=rounds(20) {
            thread::scope(|scope| {
                let waiter = blocked(scope, || next_code(&set));
                match n % 3 {
                    0 => drop(set.insert(n, quick(backend, code(n)))),
                    1 => {
                        let child = quick(backend, code(n));
                        wait(&child);
                        set.insert(n, child);
                    }
                    _ => {
                        let (child, stdin) = stoppable(backend, code(n));
                        set.insert(n, child);
                        assert!(!waiter.is_finished());
                        drop(stdin);
                    }
                }
                assert_eq!(waiter.join().unwrap(), (n, code(n)));
            });
        }
        assert_eq!(set.len(), 1);
        set.kill_all().unwrap();
        assert_eq!(next(&set).key, 0);
    });
}

/// The last child may have been removed or handed out.
#[test]
fn waiters_return_none_when_the_set_becomes_empty() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(30) {
            let set = ChildSet::new();
            let (child, stdin) = stoppable(backend, 7);
            let mut stdin = Some(stdin);
            set.insert(1, child);
            thread::scope(|scope| {
                let waiters: Vec<_> = (0..4)
                    .map(|_| {
                        let wait = || set.wait_next().map(|finished| finished.key);
                        if round % 2 == 0 { blocked(scope, wait) } else { scope.spawn(wait) }
                    })
                    .collect();
                let expected = if round % 3 == 0 {
                    let removed = set.remove(&1).expect("no waiter has taken it");
                    assert_eq!(removed.try_wait().unwrap(), None, "nothing happens to it");
                    0
                } else {
                    drop(stdin.take());
                    1
                };
                let got = waiters.into_iter().filter_map(|waiter| waiter.join().unwrap()).count();
                assert_eq!(got, expected);
                drop(stdin);
            });
            is_over(&set);
        }
    });
}

#[test]
fn insert_with_a_used_key_returns_the_old_child() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let (first, first_stdin) = stoppable(backend, 1);
        let (second, second_stdin) = stoppable(backend, 2);
        let first = Arc::new(first);
        assert!(set.insert("key", Arc::clone(&first)).is_none());
        let old = set.insert("key", second).expect("there was one");
        assert!(Arc::ptr_eq(&old, &first));
        assert_eq!(set.len(), 1);
        assert_eq!(first.try_wait().unwrap(), None, "nothing happens to it");
        drop(first_stdin);
        assert_eq!(wait(&old).code(), Some(1));
        assert!(set.try_wait_next().is_none(), "the first is not in the set any more");
        drop(second_stdin);
        assert_eq!(next_code(&set), ("key", 2));
        is_over(&set);
        // The old child has exited, and was not handed out.
        let (first, first_stdin) = stoppable(backend, 3);
        let (second, second_stdin) = stoppable(backend, 4);
        set.insert("key", first);
        drop(first_stdin);
        wait(&set.get(&"key").unwrap());
        assert_eq!(wait(&set.insert("key", second).unwrap()).code(), Some(3));
        assert!(set.try_wait_next().is_none());
        drop(second_stdin);
        assert_eq!(next_code(&set), ("key", 4));
        // The same child again.
        let (child, stdin) = stoppable(backend, 5);
        let child = Arc::new(child);
        assert!(set.insert("key", Arc::clone(&child)).is_none());
        for _ in 0..5 {
            assert!(Arc::ptr_eq(&set.insert("key", Arc::clone(&child)).unwrap(), &child));
        }
        drop(stdin);
        assert_eq!(next_code(&set), ("key", 5));
        is_over(&set);
    });
}

/// Each set has it under several keys, and loses some of them before.
#[test]
fn child_in_several_sets_is_handed_out_by_each() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let child = Arc::new(child);
        let sets: [ChildSet<u32>; 3] = std::array::from_fn(|_| ChildSet::new());
        for set in &sets {
            for key in 0..4 {
                assert!(set.insert(key, Arc::clone(&child)).is_none());
            }
            // Neither the first nor the last entry.
            assert!(Arc::ptr_eq(&set.remove(&0).unwrap(), &child));
            assert!(Arc::ptr_eq(&set.remove(&2).unwrap(), &child));
            set.insert(5, Arc::clone(&child));
            assert!(set.try_wait_next().is_none());
        }
        let dropped = ChildSet::new();
        dropped.insert(0, Arc::clone(&child));
        dropped.insert(1, Arc::clone(&child));
        drop(dropped);
        thread::scope(|scope| {
            let waiters: Vec<_> =
                sets.iter().map(|set| blocked(scope, || next_code(set))).collect();
            drop(stdin);
            for (set, waiter) in sets.iter().zip(waiters) {
                let mut all = vec![waiter.join().unwrap(), next_code(set), next_code(set)];
                all.sort_unstable();
                assert_eq!(all, [(1, 7), (3, 7), (5, 7)]);
                is_over(set);
            }
        });
        assert_eq!(Arc::strong_count(&child), 1, "a set keeps it");
    });
}

#[test]
fn children_of_every_backend_are_handed_out_once() {
    watchdog!();
    for _ in 0..rounds(1).max(1) {
        all_once(children(120), 3, backend);
    }
}

#[test]
fn children_that_exit_in_turn_are_handed_out_in_turn() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in stoppable_children(30, |_| backend).into_iter().enumerate() {
            set.insert(n, child);
            stdins.push((n, stdin));
        }
        // Neither the order of the inserts nor its reverse.
        stdins.sort_by_key(|(n, _)| (n * 7) % 30);
        for (n, stdin) in stdins {
            assert!(set.try_wait_next().is_none());
            drop(stdin);
            assert_eq!(next_code(&set), (n, code(n)));
        }
        is_over(&set);
    });
}

/// All have exited before the first wait.
#[cfg(target_os = "linux")]
#[test]
fn children_are_handed_out_in_the_order_of_their_exits() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let count = 50;
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in stoppable_children(count, |_| backend).into_iter().enumerate() {
            set.insert(n, child);
            stdins.push((n, stdin));
        }
        stdins.sort_by_key(|(n, _)| (n * 7) % count);
        let order: Vec<_> = stdins.iter().map(|(n, _)| *n).collect();
        for (left, (n, stdin)) in (0..count).rev().zip(stdins) {
            drop(stdin);
            // In half of the cases the child is not reaped.
            let child = set.get(&n).unwrap();
            unix::wait_for_zombie(child.id());
            if n % 2 == 0 {
                wait(&child);
            }
            // Where a helper thread reports the exit, it has done so.
            if backend == BY_THREAD {
                until("the helper has ended", || unix::helper_threads().len() == left);
            }
        }
        let handed_out: Vec<_> = (0..count).map(|_| next_code(&set)).collect();
        assert!(handed_out.iter().all(|(n, reported)| *reported == code(*n)));
        let handed_out: Vec<_> = handed_out.into_iter().map(|(n, _)| n).collect();
        assert_eq!(handed_out, order);
        is_over(&set);
    });
}
