//! Promise: an exit wakes every task that awaits the child, whatever else happens at the same time.

use super::*;
use std::panic::{RefUnwindSafe, UnwindSafe};

#[test]
fn futures_are_send_sync_and_unwind_safe() {
    fn anywhere<T: Send + Sync + Unpin + std::fmt::Debug>(_: &T) {}
    fn another_thread<T: Send>(_: T) {}
    watchdog!();
    let child = quick(Backend::ALL[0], 0);
    anywhere(&child.wait_async());
    anywhere(&child.wait_deadline_async(Instant::now()));
    fn past_a_panic<T: UnwindSafe + RefUnwindSafe>(_: &T) {}
    past_a_panic(&(child.wait_async(), child.wait_deadline_async(Instant::now())));
    another_thread(child.stop_async(LONG));
    another_thread(child.exit_notice());
    assert!(format!("{:?}", child.wait_async()).contains("WaitFuture"));
    wait(&child);
}

#[test]
fn future_of_an_exited_child_is_ready_at_its_first_poll() {
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        let mut exited = child.wait_async();
        let mut by_deadline = child.wait_deadline_async(Instant::now());
        for _ in 0..3 {
            let Poll::Ready(status) = poll_by(&mut exited, Waker::noop()) else {
                panic!("pending")
            };
            assert_eq!(status.unwrap().code(), Some(7));
            let status = poll_by(&mut by_deadline, Waker::noop());
            let Poll::Ready(status) = status else { panic!("pending") };
            assert_eq!(status.unwrap().unwrap().code(), Some(7));
        }
    });
}

#[test]
fn exit_between_two_polls_wakes_the_task() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let counter = Arc::new(WakeCounter::default());
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &counter).is_pending());
        assert!(poll(&mut exited, &counter).is_pending());
        assert_eq!(counter.count(), 0, "nothing has happened");
        drop(stdin);
        counter.wait_beyond(0);
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        // Each further poll returns the same result.
        for _ in 0..3 {
            let Poll::Ready(again) = poll(&mut exited, &counter) else { panic!("pending") };
            assert_eq!(again.unwrap().code(), Some(7));
        }
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        until("nothing of the waker is kept", || counter.wakers() == 0);
    });
}

/// The thread notices the exit first, and reaps.
#[test]
fn exit_that_a_thread_has_reaped_wakes_the_task() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let counter = Arc::new(WakeCounter::default());
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &counter).is_pending());
        drop(stdin);
        wait(&child);
        counter.wait_beyond(0);
        let Poll::Ready(status) = poll(&mut exited, &counter) else { panic!("it is known") };
        assert_eq!(status.unwrap().code(), Some(7));
    });
}

#[test]
fn exits_that_race_registrations_are_reported() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, 7);
            let start = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(stdin);
                });
                start.wait();
                for _ in 0..round % 50 {
                    std::hint::spin_loop();
                }
                let status = if round % 2 == 0 {
                    block_on(child.wait_async()).unwrap()
                } else {
                    block_on(child.wait_deadline_async(Instant::now() + LONG)).unwrap().unwrap()
                };
                assert_eq!(status.code(), Some(7));
            });
            assert_eq!(block_on(quick(backend, 8).wait_async()).unwrap().code(), Some(8));
        }
    });
}

/// The scheduler chooses the order of threads, tasks and a kill.
#[test]
fn tasks_threads_and_kills_get_one_status() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 7);
            let start = Barrier::new(5);
            thread::scope(|scope| {
                let (child, start) = (&child, &start);
                let begun = |way: usize| {
                    start.wait();
                    match way {
                        0 => child.wait().unwrap(),
                        1 => wait(child),
                        2 => block_on(child.wait_async()).unwrap(),
                        _ => block_on(child.wait_deadline_async(Instant::now() + LONG))
                            .unwrap()
                            .unwrap(),
                    }
                };
                let waiters: Vec<_> = (0..4).map(|way| scope.spawn(move || begun(way))).collect();
                start.wait();
                if round % 2 == 0 {
                    child.kill().unwrap();
                }
                drop(stdin);
                let statuses: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
                assert!(statuses.iter().all(|status| *status == statuses[0]), "{statuses:?}");
            });
        }
    });
}

#[test]
fn many_tasks_of_one_child_get_its_status() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let polled = Barrier::new(5);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let all = run_all((0..16).map(|_| child.wait_async()), || {
                            polled.wait();
                        });
                        all.into_iter().map(|(_, status)| status.unwrap().code()).collect()
                    })
                })
                .collect();
            polled.wait();
            drop(stdin);
            for thread in threads {
                let codes: Vec<_> = thread.join().unwrap();
                assert_eq!(codes, [Some(7); 16]);
            }
        });
    });
}

#[test]
fn burst_of_exits_wakes_every_task() {
    watchdog!();
    on_every_backend(|backend| {
        let (children, pipes): (Vec<_>, Vec<_>) =
            (0..rounds(150)).map(|n| stoppable(backend, n as i32 % 100)).unzip();
        let all = run_all(children.iter().map(SharedChild::wait_async), || drop(pipes));
        for (task, status) in all {
            assert_eq!(status.unwrap().code(), Some(task as i32 % 100));
        }
    });
}

#[test]
fn exit_wakes_only_its_own_task() {
    watchdog!();
    on_every_backend(|backend| {
        let children: Vec<_> = (0..10).map(|code| stoppable(backend, code)).collect();
        let (exits, mut pipes): (Vec<_>, Vec<_>) = children.into_iter().unzip();
        let mut futures: Vec<_> = exits.iter().map(SharedChild::wait_async).collect();
        let counters: Vec<Arc<WakeCounter>> = (0..10).map(|_| Arc::default()).collect();
        for (future, counter) in futures.iter_mut().zip(&counters) {
            assert!(poll(future, counter).is_pending());
        }
        // In reverse order: each exit wakes its own task, and no other.
        for last in (0..10).rev() {
            drop(pipes.pop());
            counters[last].wait_beyond(0);
            assert_eq!(finish(&mut futures[last]).unwrap().code(), Some(last as i32));
            assert!(counters[..last].iter().all(|counter| counter.count() == 0));
        }
    });
}

#[test]
fn future_polled_by_several_threads_in_turn_returns_the_status() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = shared(backend, 7);
        let mut future = owned(&child);
        for _ in 0..20 {
            let polled = thread::spawn(move || {
                assert!(poll(&mut future, &Arc::default()).is_pending());
                future
            });
            future = polled.join().unwrap();
        }
        let last = thread::spawn(move || finish(&mut future));
        drop(stdin);
        assert_eq!(last.join().unwrap().unwrap().code(), Some(7));
    });
}

#[test]
fn tasks_threads_and_a_set_get_the_same_status() {
    watchdog!();
    on_every_backend(|backend| {
        let (children, pipes): (Vec<_>, Vec<_>) =
            (0..20_i32).map(|code| shared(backend, code)).unzip();
        let set = shared_child::ChildSet::new();
        for (code, child) in (0..20_i32).zip(&children) {
            set.insert(code, Arc::clone(child));
        }
        thread::scope(|scope| {
            let by_set = scope.spawn(|| {
                let mut codes: Vec<_> = std::iter::from_fn(|| set.wait_next())
                    .inspect(|it| assert_eq!(it.status.as_ref().unwrap().code(), Some(it.key)))
                    .map(|finished| finished.key)
                    .collect();
                codes.sort_unstable();
                codes
            });
            let by_threads: Vec<_> =
                children.iter().map(|child| scope.spawn(|| wait(child))).collect();
            let by_tasks = run_all(children.iter().map(|child| child.wait_async()), || drop(pipes));
            for (task, status) in by_tasks {
                assert_eq!(status.unwrap().code(), Some(task as i32));
            }
            for (code, thread) in by_threads.into_iter().enumerate() {
                assert_eq!(thread.join().unwrap().code(), Some(code as i32));
            }
            assert_eq!(by_set.join().unwrap(), (0..20_i32).collect::<Vec<_>>());
        });
    });
}
