//! Promise: no signal, wait or reap ever reaches another process, also when the child's process ID has
//! a new owner.
//!
//! Each round makes a child, has it reaped (by us or by somebody else), puts a *victim* on its process
//! ID, does everything that a handle can do, and shows that the victim is as before.

#![cfg(target_os = "linux")]

mod common;

use common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use shared_child::unix::SharedChildExt;
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant};

/// A PID namespace of one's own, where process IDs can be chosen and nobody else takes them.
fn namespace() -> &'static [&'static str] {
    const ROOT: &[&str] = &["unshare", "--fork", "--pid", "--mount-proc"];
    const USER: &[&str] = &["unshare", "--map-root-user", "--fork", "--pid", "--mount-proc"];
    if linux::is_root() { ROOT } else { USER }
}

/// Leaves the test, saying so, where this user may not make namespaces.
macro_rules! in_a_namespace {
    () => {
        let [program, arguments @ ..] = namespace() else { unreachable!() };
        let trial = std::process::Command::new(program).args(arguments).arg("true").output();
        let works = trial.is_ok_and(|trial| trial.status.success());
        if !works {
            assert!(!linux::is_root(), "root can make namespaces");
            eprintln!("{} skipped: no PID namespaces for this user", function_name!());
            return;
        }
        alone!(namespace());
        watchdog!();
    };
}

/// A running child of this process that has just this ID.
fn victim(pid: u32) -> (Child, ChildStdin) {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut victim = stoppable_command(77).spawn().unwrap();
        let stdin = victim.stdin.take().unwrap();
        if victim.id() == pid {
            return (victim, stdin);
        }
        // One of our threads has got the ID first, and will be gone soon.
        drop(stdin);
        victim.wait().unwrap();
    }
    panic!("could not recycle {pid}");
}

/// Everything that a handle can do, but for the drop.
fn do_everything(child: &SharedChild, round: usize) {
    // Another one goes first each time: what the first call finds out, the others only remember.
    for call in round..round + 6 {
        match call % 6 {
            0 => child.kill().unwrap(),
            1 => child.send_signal(libc::SIGTERM).unwrap(),
            2 => drop(child.try_wait()),
            3 => drop(child.wait_timeout(Duration::ZERO)),
            4 => drop(child.wait_deadline(Instant::now() + LONG)),
            _ => drop(child.wait()),
        }
    }
}

enum Victim {
    Running,
    Zombie,
}

fn a_round(child: SharedChild, state: &Victim, round: usize) {
    let (mut victim, stdin) = victim(child.id());
    let mut stdin = Some(stdin);
    if matches!(state, Victim::Zombie) {
        stdin = None;
        linux::wait_for_zombie(victim.id());
    }
    if round % 7 == 6 {
        // The drop alone: it must not take the victim for its own either.
        drop(child);
    } else {
        do_everything(&child, round);
        drop(child);
    }
    if matches!(state, Victim::Running) {
        assert_eq!(victim.try_wait().expect("not reaped"), None, "the victim is dead");
    }
    drop(stdin);
    assert_eq!(victim.wait().expect("nobody has reaped the victim").code(), Some(77));
}

fn rounds_on_every_backend(make: impl Fn(Backend) -> SharedChild) {
    on_every_backend(|backend| {
        for state in [Victim::Running, Victim::Zombie] {
            for round in 0..rounds(500) {
                a_round(make(backend), &state, round);
            }
        }
    });
}

#[test]
fn after_our_own_reap() {
    in_a_namespace!();
    rounds_on_every_backend(|backend| {
        let child = quick(backend, 0);
        wait(&child);
        child
    });
}

#[test]
fn after_a_foreign_reap() {
    in_a_namespace!();
    rounds_on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 0);
        drop(stdin);
        linux::reap(child.id());
        child
    });
}

/// Somebody else was faster than the handle. Nothing that it could open by the ID would mean the child.
#[test]
fn after_a_foreign_reap_before_the_handle_was_made() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for state in [Victim::Running, Victim::Zombie] {
            for round in 0..rounds(100) {
                let child = linux::spawn_reaped(backend);
                assert!(format!("{child:?}").contains("reaped elsewhere"), "{child:?}");
                a_round(child, &state, round);
            }
        }
    });
}

/// Threads have been waiting since before the foreign reap.
///
/// While they are on their way from seeing the exit to reaping it, the helper-thread backend has only
/// the process ID to go by: a victim that is a zombie by then could be theirs. A pidfd closes that;
/// there the documented limit is, and this test keeps out of it, by letting the victim run until they
/// are through.
#[test]
fn while_threads_wait() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for round in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 0);
            std::thread::scope(|scope| {
                let timed = scope.spawn(|| drop(child.wait_timeout(LONG)));
                let untimed = scope.spawn(|| drop(child.wait()));
                // In the kernel, where they are bound to the process, not to its ID.
                until("two are blocked", || linux::threads_blocked_for_exits() == 2);
                drop(stdin);
                // It may be ours or theirs: whoever comes first.
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(linux::pid_t(child.id()), std::ptr::null_mut(), 0) };
                let (mut victim, stdin) = victim(child.id());
                do_everything(&child, round);
                timed.join().unwrap();
                untimed.join().unwrap();
                assert_eq!(victim.try_wait().expect("not reaped"), None, "the victim is dead");
                drop(stdin);
                assert_eq!(victim.wait().expect("not reaped").code(), Some(77));
            });
        }
    });
}

/// An orphan that the reaper has taken on is reaped elsewhere, and its ID taken. (What is said above
/// of threads on their way holds for a helper.)
#[test]
fn by_the_background_reaper() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for _ in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 0);
            let pid = child.id();
            drop(child);
            drop(stdin);
            // It may be ours or theirs: whoever comes first.
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(linux::pid_t(pid), std::ptr::null_mut(), 0) };
            let (mut victim, stdin) = victim(pid);
            until("all are at rest", linux::helper_threads_rest);
            assert_eq!(victim.try_wait().expect("not reaped"), None, "the victim is dead");
            drop(stdin);
            linux::wait_for_zombie(pid);
            until("nobody left to reap", || linux::helper_threads().is_empty());
            assert_eq!(victim.wait().expect("not reaped").code(), Some(77));
        }
    });
}
