//! Promise: the library neither disturbs other parts of the program nor is disturbed by them. They may reap our
//! children, and ignore, block or handle SIGCHLD as they like.

#![cfg(unix)]

use crate::common::unix::{assert_reaped_elsewhere, assert_true_or_lost};
use crate::common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use shared_child::unix::SharedChildExt;
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A handle whose child has exited with this code and was reaped elsewhere.
fn reaped_elsewhere(backend: Backend, code: i32) -> SharedChild {
    let (child, stdin) = stoppable(backend, code);
    drop(stdin);
    unix::reap(child.id());
    child
}

#[test]
fn foreign_reap_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        type Wait = fn(&SharedChild) -> io::Result<ExitStatus>;
        let ways: [Wait; 4] = [
            |child| child.wait(),
            |child| child.try_wait().map(|status| status.expect("it has exited")),
            |child| child.wait_timeout(LONG).map(|status| status.expect("it has exited")),
            |child| child.wait_timeout(Duration::ZERO).map(|status| status.expect("it has exited")),
        ];
        for wait in ways {
            let child = reaped_elsewhere(backend, 7);
            assert_true_or_lost(backend, wait(&child), 7);
            // Every later call returns the same result.
            for again in ways {
                assert_true_or_lost(backend, again(&child), 7);
            }
            child.kill().unwrap();
            child.send_signal(libc::SIGTERM).unwrap();
        }
    });
}

/// A process may outlive its first thread. That thread's end and exit code are not the process's.
#[cfg(target_os = "linux")]
#[test]
fn exit_of_the_first_thread_is_not_the_exit_of_the_child() {
    alone!();
    watchdog!();
    let start = |backend: Backend| {
        let mut command = helper(&["thread", "read", "exit", "7"]);
        let child = backend.spawn(command.stdin(std::process::Stdio::piped())).unwrap();
        let stdin = child.take_stdin().unwrap();
        until("the first thread has ended", || linux::is_zombie(child.id()));
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
        (child, stdin)
    };
    on_every_backend(|backend| {
        let (child, stdin) = start(backend);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(7));
        let (child, stdin) = start(backend);
        drop(stdin);
        linux::reap(child.id());
        assert_true_or_lost(backend, child.wait(), 7);
        let (child, stdin) = start(backend);
        child.kill().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&wait(&child)),
            Some(libc::SIGKILL)
        );
        drop(stdin);
        drop(start(backend).0);
        until("nothing is left", || linux::children().is_empty());
    });
}

#[test]
fn signals_after_a_foreign_reap_do_nothing_before_any_wait() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = reaped_elsewhere(backend, 7);
        child.kill().unwrap();
        child.send_signal(libc::SIGTERM).unwrap();
        child.send_signal(0).unwrap();
        assert_true_or_lost(backend, child.wait(), 7);
    });
}

#[test]
fn new_accepts_a_child_that_was_reaped_elsewhere() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["say", "hello"]);
        let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        unix::reap(child.id());
        let child = backend.share(child).unwrap();
        assert_reaped_elsewhere(&child.wait().unwrap_err());
        assert_reaped_elsewhere(&child.try_wait().unwrap_err());
        child.kill().unwrap();
        assert_eq!(io::read_to_string(child.take_stdout().unwrap()).unwrap(), "hello\n");
    });
}

/// Runs the test beside a thread that reaps every child of this process.
fn with_foreign_reaper(test: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: no status is requested.
                unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn waits_beside_a_foreign_reaper_give_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        with_foreign_reaper(|| {
            for _ in 0..rounds(100) {
                let (child, stdin) = stoppable(backend, 7);
                thread::scope(|scope| {
                    let waiters = [
                        scope.spawn(|| child.wait_timeout(LONG).map(Option::unwrap)),
                        scope.spawn(|| child.wait()),
                    ];
                    drop(stdin);
                    for waiter in waiters {
                        assert_true_or_lost(backend, waiter.join().unwrap(), 7);
                    }
                });
                child.kill().unwrap();
                assert_true_or_lost(backend, child.try_wait().map(Option::unwrap), 7);
            }
        });
    });
}

/// A child that exits before its handle exists yields a true status or the error.
#[test]
fn quick_exits_beside_a_foreign_reaper_give_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        with_foreign_reaper(|| {
            for _ in 0..rounds(200) {
                match quick(backend, 7).wait() {
                    Ok(status) => assert_eq!(status.code(), Some(7)),
                    Err(error) => assert_reaped_elsewhere(&error),
                }
            }
        });
    });
}

#[test]
fn ignored_sigchld_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    unix::on_sigchld(libc::SIG_IGN);
    on_every_backend(|backend| {
        for code in 0..rounds(50) {
            let code = i32::try_from(code % 200).unwrap();
            let (child, stdin) = stoppable(backend, code);
            assert_eq!(child.try_wait().unwrap(), None);
            thread::scope(|scope| {
                let timed = scope.spawn(|| child.wait_timeout(LONG).map(Option::unwrap));
                drop(stdin);
                assert_true_or_lost(backend, child.wait(), code);
                assert_true_or_lost(backend, timed.join().unwrap(), code);
            });
            match quick(backend, code).wait() {
                Ok(status) => assert_eq!(status.code(), Some(code)),
                Err(error) => assert_reaped_elsewhere(&error),
            }
            drop(sleeper(backend).kill());
        }
    });
}

#[test]
fn sigchld_ignored_during_a_wait_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        unix::on_sigchld(libc::SIG_DFL);
        let (child, stdin) = stoppable(backend, 7);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| child.wait_timeout(LONG).map(Option::unwrap));
            unix::on_sigchld(libc::SIG_IGN);
            drop(stdin);
            assert_true_or_lost(backend, waiter.join().unwrap(), 7);
        });
    });
}

#[test]
fn waits_return_with_sigchld_blocked() {
    alone!();
    watchdog!();
    // SAFETY: the set is initialised before it is read. The threads that follow inherit the mask.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()), 0);
    }
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        thread::scope(|scope| {
            let waiters = [scope.spawn(|| wait(&child)), scope.spawn(|| wait(&child))];
            drop(stdin);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().code() == Some(7)));
        });
    });
}

extern "C" fn one_handler(_: libc::c_int) {}
extern "C" fn another_handler(_: libc::c_int) {}

#[test]
fn waits_return_with_any_handler_of_sigchld() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let handlers = [one_handler as extern "C" fn(_), another_handler as _];
        for round in 0..10 {
            unix::on_sigchld(handlers[round % 2] as libc::sighandler_t);
            let (child, stdin) = stoppable(backend, 7);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| wait(&child));
                unix::on_sigchld(handlers[(round + 1) % 2] as libc::sighandler_t);
                drop(stdin);
                assert_eq!(waiter.join().unwrap().code(), Some(7));
            });
        }
    });
}

/// The disposition of each signal, and whether this thread blocks it.
fn signals() -> Vec<(libc::c_int, libc::sighandler_t, bool)> {
    // SAFETY: zeroed structs are valid, and outlive the calls. A number that is no signal is an error.
    unsafe {
        let mut blocked = std::mem::zeroed();
        let how = libc::SIG_BLOCK;
        assert_eq!(libc::pthread_sigmask(how, std::ptr::null(), &raw mut blocked), 0);
        let mut signals = Vec::new();
        for signal in 1..=64 {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 {
                let is_blocked = libc::sigismember(&raw const blocked, signal) == 1;
                signals.push((signal, action.sa_sigaction, is_blocked));
            }
        }
        assert!(signals.iter().any(|(signal, ..)| *signal == libc::SIGCHLD), "{signals:?}");
        signals
    }
}

#[test]
fn library_changes_no_handler_or_mask_and_interrupts_no_thread() {
    alone!();
    watchdog!();
    let before = signals();
    let (read, write) = std::os::unix::net::UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            use std::os::fd::AsRawFd;
            let mut byte = 0_u8;
            // SAFETY: one byte is read into one byte.
            let count = unsafe { libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1) };
            (count, io::Error::last_os_error())
        });
        on_every_backend(|backend| {
            for _ in 0..50 {
                let (child, stdin) = stoppable(backend, 0);
                assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
                drop(stdin);
                wait(&child);
                drop(sleeper(backend).kill());
            }
        });
        assert_eq!(signals(), before);
        drop(write);
        let (count, error) = reader.join().unwrap();
        assert_eq!(count, 0, "the read of another thread was interrupted: {error}");
    });
}

/// In the child of a fork, a copied handle refers to a process that is not its child. Calls return an error, record
/// nothing wrong, and dropping the copy is harmless.
#[test]
fn copied_handle_in_a_fork_returns_errors_and_reaps_nothing() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let code = unix::in_a_fork(|| {
            let error = child.try_wait().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECHILD), "{error}");
            drop(child);
            1
        });
        assert_eq!(code, 1, "it is not a child of the fork");
        drop(stdin);
    });
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(unix::in_a_fork(|| u8::from(child.try_wait().is_err())), 1);
        let mut child = Some(child);
        let into_inner = || u8::from(child.take().unwrap().into_inner().try_wait().is_err());
        assert_eq!(unix::in_a_fork(into_inner), 1);
        drop(stdin);
        assert_eq!(wait(&child.unwrap()).code(), Some(7));
    });
}

/// A fork copies one thread only, so no wait in the copy may depend on the parent's helper thread.
#[cfg(target_os = "linux")]
#[test]
fn copied_handle_in_a_fork_returns_errors_while_threads_wait() {
    alone!();
    watchdog!();
    let (child, stdin) = stoppable(Backend::ALL[1], 7);
    thread::scope(|scope| {
        let (sender, thread) = std::sync::mpsc::channel();
        let child = &child;
        let timed = scope.spawn(move || {
            sender.send(linux::this_thread()).unwrap();
            wait(child)
        });
        let untimed = scope.spawn(|| child.wait().unwrap());
        until("the helper thread and one waiter are blocked", || {
            linux::threads_blocked_for_exits() == 2
        });
        linux::until_asleep(thread.recv().unwrap());
        let code = linux::in_a_fork(|| {
            let waits = [child.wait_timeout(Duration::MAX).map(|_| ()), child.wait().map(|_| ())];
            u8::from(child.kill().is_err() && waits.iter().all(Result::is_err))
        });
        assert_eq!(code, 1, "it is not a child of the fork");
        assert_eq!(child.try_wait().unwrap(), None, "and was not killed by it");
        drop(stdin);
        assert_eq!(timed.join().unwrap().code(), Some(7));
        assert_eq!(untimed.join().unwrap().code(), Some(7));
    });
}
