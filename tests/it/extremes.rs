//! Promise: a deadline is kept, however large or small, and no unusual event in a child or a waiter makes a wait
//! hang, end early or return a wrong result.

use crate::common::*;
use std::time::{Duration, Instant};

#[test]
fn endless_timeout_returns_at_the_exit() {
    watchdog!();
    on_every_backend(|backend| {
        let forever = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(1 << 40)];
        for timeout in forever {
            let (child, stdin) = stoppable(backend, 7);
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| child.wait_timeout(timeout).unwrap().unwrap());
                drop(stdin);
                assert_eq!(waiter.join().unwrap().code(), Some(7));
            });
            assert!(child.wait_timeout(timeout).unwrap().is_some());
        }
    });
}

#[test]
fn wait_returns_none_at_its_deadline() {
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        for millis in [0, 1, 10, 50] {
            let timeout = Duration::from_millis(millis);
            let start = Instant::now();
            assert_eq!(child.wait_timeout(timeout).unwrap(), None);
            assert!(start.elapsed() >= timeout, "{:?} of {timeout:?}", start.elapsed());
            assert!(start.elapsed() < LONG);
            assert_eq!(child.wait_deadline(start + timeout).unwrap(), None);
        }
        // Shorter than the clock's resolution.
        assert_eq!(child.wait_timeout(Duration::from_nanos(1)).unwrap(), None);
        kill_and_wait(&child);
    });
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    use shared_child::unix::SharedChildExt;
    #[cfg(target_os = "linux")]
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc;

    /// Waiters that signals interrupt all the time neither fail nor return early.
    #[test]
    fn interrupted_waiters_neither_fail_nor_return_early() {
        alone!();
        watchdog!();
        unix::sigusr1_interrupts();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            let (send, receive) = mpsc::channel();
            std::thread::scope(|scope| {
                let child = &child;
                let waits: [fn(&shared_child::SharedChild) -> Option<i32>; 3] = [
                    |child| child.wait().unwrap().code(),
                    |child| child.wait_timeout(LONG).unwrap().unwrap().code(),
                    |child| {
                        let (start, timeout) = (Instant::now(), Duration::from_millis(100));
                        assert_eq!(child.wait_timeout(timeout).unwrap(), None);
                        assert!(start.elapsed() >= timeout, "it came back early");
                        Some(7)
                    },
                ];
                let waiters = waits.map(|wait| {
                    let send = send.clone();
                    scope.spawn(move || {
                        // SAFETY: it cannot fail.
                        send.send(unsafe { libc::pthread_self() } as usize).unwrap();
                        wait(child)
                    })
                });
                let threads: Vec<_> = waiters.iter().map(|_| receive.recv().unwrap()).collect();
                let interrupt = || {
                    for thread in &threads {
                        // SAFETY: the thread is not joined, so its ID is valid, even if it has ended.
                        unsafe { libc::pthread_kill(*thread as libc::pthread_t, libc::SIGUSR1) };
                    }
                };
                // Interrupts until the wait with the short timeout has returned, and for a while at least.
                for _ in 0..100 {
                    interrupt();
                }
                until("the short wait is over", || {
                    interrupt();
                    waiters[2].is_finished()
                });
                assert!(!waiters[0].is_finished() && !waiters[1].is_finished());
                drop(stdin);
                for waiter in waiters {
                    assert_eq!(waiter.join().unwrap(), Some(7));
                }
            });
        });
    }

    #[test]
    fn stopped_and_continued_children_have_not_exited() {
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            for _ in 0..20 {
                child.send_signal(libc::SIGSTOP).unwrap();
                until("stopped", || unix::is_stopped(child.id()));
                assert_eq!(child.try_wait().unwrap(), None);
                assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
                child.send_signal(libc::SIGCONT).unwrap();
                until("continued", || !unix::is_stopped(child.id()));
                assert_eq!(child.try_wait().unwrap(), None);
            }
            child.send_signal(libc::SIGSTOP).unwrap();
            drop(stdin);
            assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
            child.send_signal(libc::SIGCONT).unwrap();
            assert_eq!(wait(&child).code(), Some(7));
            // A kill requires no SIGCONT.
            let child = sleeper(backend);
            child.send_signal(libc::SIGSTOP).unwrap();
            kill_and_wait(&child);
        });
    }

    /// The zombie of a traced process belongs to its tracer first: the exit is noticed, but there is nothing to reap
    /// yet. Waits keep their deadlines, do not spin, and return the status in the end.
    #[cfg(target_os = "linux")]
    #[test]
    fn traced_zombie_is_reported_after_its_release() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let child = sleeper(backend);
            let pid = child.id();
            let (to_tracer, orders) = mpsc::channel();
            let (tracer_says, heard) = mpsc::channel();
            std::thread::scope(|scope| {
                // The tracer is another process, so its wait is not ours.
                scope.spawn(move || {
                    let release = linux::trace_from_a_fork(pid);
                    tracer_says.send(()).unwrap();
                    let () = orders.recv().unwrap();
                    release();
                });
                heard.recv().unwrap();
                child.kill().unwrap();
                until("a zombie", || unix::is_zombie(pid));
                assert_eq!(child.try_wait().unwrap(), None, "it is the tracer's still");
                let (start, timeout) = (Instant::now(), Duration::from_millis(50));
                let cpu = unix::cpu_time();
                assert_eq!(child.wait_timeout(timeout).unwrap(), None);
                assert!(start.elapsed() >= timeout);
                assert!(unix::cpu_time() - cpu < Duration::from_millis(40), "it spins");
                let waiters = [scope.spawn(|| wait(&child)), scope.spawn(|| child.wait().unwrap())];
                to_tracer.send(()).unwrap();
                for waiter in waiters {
                    assert_eq!(waiter.join().unwrap().signal(), Some(libc::SIGKILL));
                }
            });
        });
    }

    #[test]
    fn hundreds_of_children_are_waited_for_at_once() {
        watchdog!();
        on_every_backend(|backend| {
            let count = rounds(300);
            let children: Vec<_> = (0..count).map(|_| stoppable(backend, 7)).collect();
            std::thread::scope(|scope| {
                let waiters: Vec<_> = children
                    .iter()
                    .map(|(child, _)| {
                        let wait = move || wait(child).code();
                        let thread = std::thread::Builder::new().stack_size(128 * 1024);
                        thread.spawn_scoped(scope, wait).unwrap()
                    })
                    .collect();
                for (child, _) in &children {
                    child.send_signal(libc::SIGTERM).unwrap();
                }
                assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().is_none()));
            });
        });
    }
}
