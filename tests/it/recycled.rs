//! Promise: no signal, wait or reap ever reaches another process, even if the child's process ID has a new owner.
//!
//! Each round makes a child, has it reaped here or elsewhere, puts a *victim* on its process ID, makes every call
//! that a handle has, and checks that the victim is unharmed.

#![cfg(target_os = "linux")]

use crate::common::stage::{Stage, given, parts};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::unix::SharedChildExt;
use shared_child::{SharedChild, SpawnOptions};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command};
use std::time::{Duration, Instant};

/// A running child of this process that has exactly this ID, and leads a group with the same ID.
struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Victim {
    fn on(pid: u32) -> Self {
        let mut command = stoppable_command(77);
        for _ in 0..1000 {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let mut child = command.process_group(0).spawn().unwrap();
            let stdin = child.stdin.take();
            if child.id() == pid {
                return Self { child, stdin };
            }
            // A new thread of ours has taken the ID, and ends soon.
            drop(stdin);
            child.wait().unwrap();
        }
        panic!("could not recycle {pid}");
    }

    #[track_caller]
    fn becomes_a_zombie(&mut self) {
        assert_eq!(self.child.try_wait().expect("not reaped"), None, "the victim is dead");
        self.stdin = None;
        linux::wait_for_zombie(self.child.id());
    }

    /// Checks that the victim ends by itself, and not before.
    #[track_caller]
    fn ends_unharmed(mut self) {
        if self.stdin.is_some() {
            self.becomes_a_zombie();
        }
        assert_eq!(self.child.wait().expect("the victim is not reaped").code(), Some(77));
    }
}

/// Makes every call that a handle has, except the drop.
fn do_everything(child: &SharedChild, round: usize) {
    // Each round begins with another call, because the later calls use what the first one has found.
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

/// The state of the victim during the calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Zombie,
}

fn a_round(child: SharedChild, state: State, round: usize) {
    let mut victim = Victim::on(child.id());
    if state == State::Zombie {
        victim.becomes_a_zombie();
    }
    // Some rounds only drop the handle: the drop must not reap the victim either.
    if round % 7 != 6 {
        do_everything(&child, round);
    }
    drop(child);
    victim.ends_unharmed();
}

fn rounds_on_every_backend(make: impl Fn(Backend) -> SharedChild) {
    on_every_backend(|backend| {
        for state in [State::Running, State::Zombie] {
            for round in 0..rounds(150) {
                a_round(make(backend), state, round);
            }
        }
    });
}

#[test]
fn next_owner_is_spared_after_our_reap() {
    in_a_namespace!();
    rounds_on_every_backend(|backend| {
        let child = quick(backend, 0);
        wait(&child);
        child
    });
}

#[test]
fn next_owner_is_spared_after_a_foreign_reap() {
    in_a_namespace!();
    rounds_on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 0);
        drop(stdin);
        linux::reap(child.id());
        child
    });
}

/// Another reaper was faster than the handle. Opening the ID would not find the child.
#[test]
fn next_owner_is_spared_after_a_foreign_reap_before_the_handle() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for state in [State::Running, State::Zombie] {
            for round in 0..rounds(100) {
                let child = linux::spawn_reaped(backend);
                assert!(format!("{child:?}").contains("reaped elsewhere"), "{child:?}");
                a_round(child, state, round);
            }
        }
    });
}

/// The threads have waited since before the foreign reap.
///
/// Between noticing the exit and reaping, the helper-thread backend knows only the process ID, so it may take a zombie
/// victim for the child. This is the documented limit, which a pidfd removes. The test stays outside the limit: the
/// victim runs until the threads have returned.
#[test]
fn next_owner_is_spared_while_threads_wait() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for round in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 0);
            std::thread::scope(|scope| {
                let timed = scope.spawn(|| drop(child.wait_timeout(LONG)));
                let untimed = scope.spawn(|| drop(child.wait()));
                // Threads that block in the kernel are bound to the process, not to its ID.
                until("two are blocked", || linux::threads_blocked_for_exits() == 2);
                drop(stdin);
                // Either this call or a waiting thread reaps the child.
                // SAFETY: no status is requested.
                unsafe { libc::waitpid(linux::pid_t(child.id()), std::ptr::null_mut(), 0) };
                let victim = Victim::on(child.id());
                do_everything(&child, round);
                timed.join().unwrap();
                untimed.join().unwrap();
                victim.ends_unharmed();
            });
        }
    });
}

/// An orphan that the reaper has taken over is reaped elsewhere, and its ID reused. (The limit described above also
/// holds for a helper thread.)
#[test]
fn next_owner_is_spared_by_the_background_reaper() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for _ in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 0);
            let pid = child.id();
            drop(child);
            drop(stdin);
            // Either this call or the reaper reaps the child.
            // SAFETY: no status is requested.
            unsafe { libc::waitpid(linux::pid_t(pid), std::ptr::null_mut(), 0) };
            let mut victim = Victim::on(pid);
            until("all are at rest", linux::helper_threads_rest);
            victim.becomes_a_zombie();
            until("the reaper has no child left", || linux::helper_threads().is_empty());
            victim.ends_unharmed();
        }
    });
}

fn tree(backend: Backend, line: &str) -> Stage {
    let spawn = |command: &mut Command| {
        backend.spawn_with(SpawnOptions::new().tree(true), command).unwrap()
    };
    let line = parts(line);
    Stage::of(spawn, &mut helper(&line), 1)
}

/// Makes every call that a tree has.
fn do_everything_to_a_tree(stage: &Stage, round: usize) {
    for call in round..round + 7 {
        match call % 7 {
            0 => drop(stage.tree().kill()),
            1 => drop(stage.tree().send_signal(libc::SIGTERM)),
            2 => drop(stage.tree().is_empty()),
            3 => drop(stage.tree().processes()),
            4 => drop(stage.child.stop(Duration::ZERO)),
            5 => drop(stage.tree().wait_empty(Some(Instant::now()))),
            _ => do_everything(&stage.child, round),
        }
    }
}

fn spares_a_victim(mut stage: Stage, round: usize) {
    let victim = Victim::on(stage.child.id());
    do_everything_to_a_tree(&stage, round);
    stage.pids.0.clear(); // The victim owns the ID now.
    drop(stage);
    victim.ends_unharmed();
}

/// The tree has ended, and a new group has its ID.
#[test]
fn next_owner_of_a_group_id_is_spared_after_the_tree_has_ended() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for round in 0..rounds(30) {
            let mut stage = tree(backend, "pid read");
            if round % 2 == 0 {
                stage.tree().kill().unwrap();
            }
            stage.stdin = None;
            stage.wait_empty();
            spares_a_victim(stage, round);
        }
    });
}

/// The leader was reaped elsewhere, so no zombie holds the ID.
#[test]
fn next_owner_of_a_group_id_is_spared_after_a_foreign_reap() {
    in_a_namespace!();
    on_every_backend(|backend| {
        for round in 0..rounds(30) {
            let mut stage = tree(backend, "pid read");
            stage.stdin = None;
            linux::reap(stage.child.id());
            spares_a_victim(stage, round);
        }
    });
}

/// The ID stays taken until the tree has ended, even if the leader was waited for.
#[test]
fn group_id_stays_taken_until_the_tree_has_ended() {
    in_a_namespace!();
    on_every_backend(|backend| {
        let mut stage = tree(backend, "spawn 2 pid read exit 7");
        let id = stage.child.id();
        assert_eq!(wait(&stage.child).code(), Some(7));
        for _ in 0..rounds(30) {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (id - 1).to_string()).unwrap();
            let mut other = stoppable_command(0).spawn().unwrap();
            assert_ne!(other.id(), id);
            drop(other.stdin.take());
            other.wait().unwrap();
            assert_eq!(wait(&stage.child).code(), Some(7));
        }
        assert_eq!(stage.survivors().len(), 1);
        stage.tree().kill().unwrap();
        stage.is_empty();
        stage.stdin = None;
    });
}

/// The guardian learns that a tree has ended before another process can own the ID, and that the leader of a tree, or
/// a single child, was reaped elsewhere.
#[test]
fn guardian_spares_the_next_owner_of_a_group_id() {
    in_a_namespace!();
    let ends = [
        ("tree", "wait-for-owned"),
        ("tree", "reap-owned"),
        ("guarded", "reap-owned"),
        // The status of this child is lost.
        ("guarded-fallback", "reap-owned"),
    ];
    for (kind, end) in ends.into_iter().cycle().take(rounds(12).max(4)) {
        let line = given(&format!("owner {kind}"), &parts("exit 0"));
        let line = [line, parts(end), parts("pid read")].concat();
        let mut owner = Stage::single(&line, 1);
        let id: u32 = owner.hear("child ").parse().unwrap();
        let victim = Victim::on(id);
        owner.child.kill().unwrap();
        wait(&owner.child);
        // The guardian acts at the end of its input, and ends. (This process reaps it: it is the first process of its
        // namespace.)
        until("the guardian has ended", || {
            linux::zombies().into_iter().for_each(|zombie| {
                linux::reap(zombie);
            });
            linux::children() == [id]
        });
        victim.ends_unharmed();
    }
}
