//! Promise: a stop sends the request, waits and kills, the whole tree if it is one, and waits at most for the shortest
//! grace of all concurrent stops.

#![cfg(unix)]

use crate::common::stage::{Kind, Stage, findable_daemon, parts, start};
use crate::common::unix::{expect, ready};
use crate::common::*;
use shared_child::SpawnOptions;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A grace too short for a child to exit within it, and one that no test would wait for.
const SHORT: Duration = Duration::from_millis(50);
const FOR_EVER: Duration = Duration::MAX;

fn signal_of(status: ExitStatus) -> Option<i32> {
    status.signal()
}

#[test]
fn stop_does_not_kill_a_child_that_terminates() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _) = ready(backend, "say ready read");
        assert_eq!(signal_of(child.stop(FOR_EVER).unwrap()), Some(libc::SIGTERM));
        // A second stop has nothing to do.
        assert_eq!(signal_of(child.stop(Duration::ZERO).unwrap()), Some(libc::SIGTERM));
    });
}

#[test]
fn stop_kills_a_child_that_ignores_the_request() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _) = ready(backend, "ignore TERM say ready read");
        let start = Instant::now();
        assert_eq!(signal_of(child.stop(SHORT).unwrap()), Some(libc::SIGKILL));
        assert!(start.elapsed() >= SHORT);
    });
}

/// A stopped process handles SIGTERM only once it is resumed.
#[test]
fn stop_resumes_a_stopped_child() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _) = ready(backend, "say ready signal STOP read");
        until("it is stopped", || unix::is_stopped(child.id()));
        assert_eq!(signal_of(child.stop(FOR_EVER).unwrap()), Some(libc::SIGTERM));
    });
}

#[test]
fn stop_with_sends_the_given_signal_or_refuses_it() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _) = ready(backend, "ignore TERM say ready read");
        assert_eq!(
            signal_of(child.stop_with(libc::SIGUSR1, FOR_EVER).unwrap()),
            Some(libc::SIGUSR1)
        );
        // A number that is no signal is refused, and the child is not killed.
        let (child, _) = ready(backend, "say ready read");
        for number in [12345, 0, -1] {
            let error = child.stop_with(number, FOR_EVER).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
        }
        assert!(child.try_wait().unwrap().is_none(), "it was killed");
        kill_and_wait(&child);
    });
}

#[test]
fn stop_does_not_signal_an_exited_child() {
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        assert_eq!(child.stop(FOR_EVER).unwrap().code(), Some(7));
        // A zombie receives no signal either.
        let child = quick(backend, 8);
        unix::wait_for_zombie(child.id());
        assert_eq!(child.stop(Duration::ZERO).unwrap().code(), Some(8));
    });
}

/// The order of the calls does not matter, and the same signal is sent once.
#[test]
fn shortest_grace_of_several_threads_counts() {
    watchdog!();
    on_every_backend(|backend| {
        let short = Duration::from_millis(200);
        for (first, second) in [(short, FOR_EVER), (FOR_EVER, short)] {
            let (child, mut said) = ready(backend, "report TERM say ready read");
            let ends = std::thread::scope(|scope| {
                let first = scope.spawn(|| child.stop(first).unwrap());
                expect(&mut said, "signal TERM\n");
                let second = scope.spawn(|| child.stop(second).unwrap());
                [first, second].map(|stopper| signal_of(stopper.join().unwrap()))
            });
            assert_eq!(ends, [Some(libc::SIGKILL); 2]);
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "it was signalled twice");
        }
    });
}

/// Other threads wait and poll meanwhile.
#[test]
fn stop_blocks_no_other_call() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(20) {
            let (child, _) = ready(backend, "say ready read");
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| signal_of(child.stop(FOR_EVER).unwrap()));
                    scope.spawn(|| wait(&child));
                    scope.spawn(|| child.try_wait().unwrap());
                }
            });
            assert_eq!(signal_of(wait(&child)), Some(libc::SIGTERM));
        }
    });
}

#[test]
fn stop_reports_a_foreign_reap() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _) = ready(backend, "say ready read");
        std::thread::scope(|scope| {
            let stopper = scope.spawn(|| child.stop(FOR_EVER));
            // The library or this call reaps the child, whichever comes first.
            // SAFETY: the status pointer may be null.
            unsafe { libc::waitpid(unix::pid_t(child.id()), std::ptr::null_mut(), 0) };
            match stopper.join().unwrap() {
                Ok(status) => assert_eq!(signal_of(status), Some(libc::SIGTERM)),
                Err(error) => {
                    assert!(error.to_string().contains("took its exit status"), "{error}")
                }
            }
        });
    });
}

#[test]
fn stop_terminates_every_member_of_a_tree() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let all = [
            start("pid read"),
            start("setsid pid read"),
            findable_daemon("pid read"),
            parts("pid read"),
        ];
        let stage = Stage::set(kind, &all.concat(), 4);
        assert_eq!(signal_of(stage.child.stop(FOR_EVER).unwrap()), Some(libc::SIGTERM));
        assert_eq!(stage.survivors(), [] as [u32; 0]);
        stage.is_empty();
    }
}

/// The leader terminates, but a member survives: it has the rest of the grace, and is then killed.
#[test]
fn stop_kills_a_member_that_ignores_the_request() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for stubborn in [
            "ignore TERM pid read",
            "setsid ignore TERM pid read",
            "setsid ignore TERM bare pid read",
        ] {
            let stage = Stage::set(kind, &[start(stubborn), parts("pid read")].concat(), 2);
            let start = Instant::now();
            assert_eq!(
                signal_of(stage.child.stop(SHORT).unwrap()),
                Some(libc::SIGTERM),
                "the leader"
            );
            assert!(start.elapsed() >= SHORT);
            stage.is_empty();
        }
    }
}

/// The leader was reaped before; members survive.
#[test]
fn stop_ends_a_tree_whose_leader_was_reaped() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let stage = Stage::set(kind, &[findable_daemon("pid read"), parts("exit 7")].concat(), 1);
        assert_eq!(wait(&stage.child).code(), Some(7));
        assert_eq!(stage.child.stop(FOR_EVER).unwrap().code(), Some(7));
        assert_eq!(stage.survivors(), [] as [u32; 0]);
    }
}

/// The end of the leader is not the end of the tree.
#[test]
fn stop_of_a_tree_ends_with_its_last_member() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let all = [start("setsid report TERM pid read"), parts("pid read")].concat();
        let mut stage = Stage::set(kind, &all, 2);
        let stdin = stage.stdin.take();
        std::thread::scope(|scope| {
            let stopper = scope.spawn(|| stage.child.stop(FOR_EVER).unwrap());
            until("the leader has ended", || !unix::is_alive(stage.child.id()));
            assert_eq!(stage.survivors().len(), 1);
            assert!(!stopper.is_finished());
            drop(stdin);
            assert_eq!(signal_of(stopper.join().unwrap()), Some(libc::SIGTERM));
        });
    }
}

#[test]
fn stop_of_a_single_child_spares_its_children() {
    watchdog!();
    let line = [start("pid read"), parts("pid read")].concat();
    let spawn = |command: &mut std::process::Command| SpawnOptions::new().spawn(command).unwrap();
    let mut stage = Stage::of(spawn, &mut helper(&line), 2);
    assert_eq!(signal_of(stage.child.stop(FOR_EVER).unwrap()), Some(libc::SIGTERM));
    assert_eq!(stage.survivors().len(), 1);
    stage.stdin = None;
    stage.until_all_have_ended();
}
