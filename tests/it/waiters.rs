//! Promise: any number of threads wait, poll, signal and kill at the same time. All get the same status, and no call
//! depends on another.

use crate::common::*;
use shared_child::SharedChild;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

const THREADS: usize = 50;

/// Waits in one of four ways.
fn wait_somehow(child: &SharedChild, way: usize) -> ExitStatus {
    match way % 4 {
        0 => child.wait().unwrap(),
        1 => wait(child),
        2 => loop {
            if let Some(status) = child.wait_timeout(Duration::from_millis(1)).unwrap() {
                break status;
            }
        },
        _ => loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            thread::yield_now();
        },
    }
}

#[test]
fn all_waiters_get_the_same_status() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 42);
        let start = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            let (child, start) = (&child, &start);
            let waiters: Vec<_> = (0..THREADS)
                .map(|way| {
                    scope.spawn(move || {
                        start.wait();
                        wait_somehow(child, way)
                    })
                })
                .collect();
            start.wait();
            drop(stdin);
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap().code(), Some(42));
            }
        });
    });
}

/// The scheduler chooses the order of waits of every kind, a kill and the exit.
#[test]
fn waits_kills_and_exits_at_once_give_one_status() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, 42);
            let start = Barrier::new(6);
            thread::scope(|scope| {
                let (child, start) = (&child, &start);
                let waiters: Vec<_> = (0..4)
                    .map(|way| {
                        scope.spawn(move || {
                            start.wait();
                            wait_somehow(child, way)
                        })
                    })
                    .collect();
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..round % 5 {
                        child.kill().unwrap();
                    }
                });
                start.wait();
                drop(stdin);
                let statuses: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
                assert!(statuses.iter().all(|status| *status == statuses[0]), "{statuses:?}");
                let by_itself = statuses[0].code() == Some(42);
                assert!(by_itself || round % 5 > 0, "killed without a kill: {statuses:?}");
            });
        }
    });
}

/// A poll beside a blocking wait must not report a running child, as the poll of Python once did.
#[cfg(unix)]
#[test]
fn try_wait_never_denies_an_exit() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, 1);
            let start = Barrier::new(3);
            thread::scope(|scope| {
                let (child, start) = (&child, &start);
                for way in 0..2 {
                    scope.spawn(move || {
                        start.wait();
                        wait_somehow(child, way)
                    });
                }
                start.wait();
                drop(stdin);
                // The child has exited once it is a zombie, or reaped.
                until("exited", || !unix::is_alive(child.id()));
                let answer = child.try_wait().unwrap();
                assert_eq!(answer.expect("it has exited").code(), Some(1));
            });
        }
    });
}

#[test]
fn poll_after_a_wait_returns_the_same_status() {
    watchdog!();
    on_every_backend(|backend| {
        for way in 0..rounds(100) {
            let child = quick(backend, 2);
            thread::scope(|scope| {
                let other = scope.spawn(|| wait_somehow(&child, way + 1));
                let status = wait_somehow(&child, way);
                assert_eq!(child.try_wait().unwrap(), Some(status));
                assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), Some(status));
                assert_eq!(other.join().unwrap(), status);
            });
            // The child is reaped, not only known to have exited.
            #[cfg(unix)]
            assert!(!unix::is_zombie(child.id()));
        }
    });
}

/// No waiter depends on another: a waiter that returns early or panics affects no other waiter.
#[test]
fn waiter_that_panics_or_leaves_affects_no_other_waiter() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 0);
        let child = Arc::new(child);
        let gave_up = AtomicBool::new(false);
        thread::scope(|scope| {
            let patient = scope.spawn(|| child.wait().unwrap());
            scope.spawn(|| {
                assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
                gave_up.store(true, Ordering::Release);
            });
            let panicking = {
                let child = Arc::clone(&child);
                thread::spawn(move || {
                    let none = child.wait_timeout(Duration::from_millis(20)).unwrap();
                    none.expect("a panic, on purpose, while others wait");
                })
            };
            assert!(panicking.join().is_err());
            until("given up", || gave_up.load(Ordering::Acquire));
            drop(stdin);
            assert!(patient.join().unwrap().success());
        });
    });
}

#[test]
fn no_call_blocks_behind_a_waiter() {
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        thread::scope(|scope| {
            let child = &child;
            let waiters: Vec<_> =
                (0..2).map(|way| scope.spawn(move || wait_somehow(child, way))).collect();
            // Each of these calls would hang if a waiter held a lock.
            for _ in 0..1000 {
                assert_eq!(child.try_wait().unwrap(), None);
                assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);
                assert!(child.take_stdout().is_none());
                assert!(format!("{child:?}").contains("SharedChild"));
            }
            child.kill().unwrap();
            for waiter in waiters {
                assert!(!waiter.join().unwrap().success());
            }
        });
    });
}

/// Neither the exits of other children nor their waiters wake this waiter.
#[cfg(target_os = "linux")]
#[test]
fn exit_wakes_only_the_waiters_of_its_child() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        thread::scope(|scope| {
            let (child, (send, receive)) = (&child, std::sync::mpsc::channel());
            let waiter = scope.spawn(move || {
                send.send(linux::this_thread()).unwrap();
                wait(child)
            });
            let thread = receive.recv().unwrap();
            let switches = || linux::sleeps_of(thread);
            linux::until_asleep(thread);
            let before = switches();
            for _ in 0..50 {
                assert!(wait(&quick(backend, 0)).success());
            }
            // A loaded machine wakes a thread now and then; a wake-up by each child would count 50 times.
            let woken = switches() - before;
            assert!(woken < 25, "other children woke the waiter {woken} times");
            child.kill().unwrap();
            waiter.join().unwrap();
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn timed_wait_needs_no_further_descriptor_or_thread() {
    alone!();
    watchdog!();
    let child = sleeper(shared_child::seam::Backend::ALL[0]);
    let counts = || (linux::descriptors(), linux::helper_threads().len());
    let before = counts();
    thread::scope(|scope| {
        let (child, (send, receive)) = (&child, std::sync::mpsc::channel());
        let waiters: Vec<_> = (0..THREADS)
            .map(|_| {
                let send = send.clone();
                scope.spawn(move || {
                    send.send(linux::this_thread()).unwrap();
                    wait(child)
                })
            })
            .collect();
        for _ in 0..THREADS {
            linux::until_asleep(receive.recv().unwrap());
        }
        assert_eq!(counts(), before);
        child.kill().unwrap();
        assert!(waiters.into_iter().all(|waiter| !waiter.join().unwrap().success()));
    });
}
