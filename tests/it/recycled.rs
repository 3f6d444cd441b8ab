//! Promise: no signal, wait or reap ever reaches another process, also when the child's process ID has
//! a new owner.
//!
//! Each round makes a child, has it reaped (by us or by somebody else), puts a *victim* on its process
//! ID, does everything that a handle can do, and shows that the victim is as before.

#![cfg(target_os = "linux")]

use crate::common::stage::{Stage, given, parts};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::unix::SharedChildExt;
use shared_child::{SharedChild, SpawnOptions};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command};
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

/// A running child of this process that has just this ID, and leads a group that has it too.
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
            // One of our threads has got the ID first, and will be gone soon.
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

    /// It ends as it would have by itself, and not before.
    #[track_caller]
    fn ends_unharmed(mut self) {
        if self.stdin.is_some() {
            self.becomes_a_zombie();
        }
        assert_eq!(self.child.wait().expect("nobody has reaped the victim").code(), Some(77));
    }
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    Running,
    Zombie,
}

fn a_round(child: SharedChild, met: Met, round: usize) {
    let mut victim = Victim::on(child.id());
    if met == Met::Zombie {
        victim.becomes_a_zombie();
    }
    // Every now and then the drop alone: it must not take the victim for its own either.
    if round % 7 != 6 {
        do_everything(&child, round);
    }
    drop(child);
    victim.ends_unharmed();
}

fn rounds_on_every_backend(make: impl Fn(Backend) -> SharedChild) {
    on_every_backend(|backend| {
        for met in [Met::Running, Met::Zombie] {
            for round in 0..rounds(150) {
                a_round(make(backend), met, round);
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
        for met in [Met::Running, Met::Zombie] {
            for round in 0..rounds(100) {
                let child = linux::spawn_reaped(backend);
                assert!(format!("{child:?}").contains("reaped elsewhere"), "{child:?}");
                a_round(child, met, round);
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
                let victim = Victim::on(child.id());
                do_everything(&child, round);
                timed.join().unwrap();
                untimed.join().unwrap();
                victim.ends_unharmed();
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
            let mut victim = Victim::on(pid);
            until("all are at rest", linux::helper_threads_rest);
            victim.becomes_a_zombie();
            until("nobody left to reap", || linux::helper_threads().is_empty());
            victim.ends_unharmed();
        }
    });
}

fn tree(backend: Backend, line: &str) -> Stage {
    let spawn = |command: &mut Command| {
        backend.spawn_with(SpawnOptions::new().tree(true), command).unwrap()
    };
    let line = parts(line);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    Stage::of(spawn, &mut helper(&line), 1)
}

/// Everything that is done to a whole tree.
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
    stage.pids.0.clear(); // which is the victim's by now
    drop(stage);
    victim.ends_unharmed();
}

/// A tree that is over, and a new group with its ID.
#[test]
fn a_group_whose_tree_is_over() {
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

/// Somebody else has reaped the leader, so its zombie does not hold the ID.
#[test]
fn a_group_whose_leader_was_reaped_elsewhere() {
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

/// As long as the tree is not over, nobody can get the ID, although the leader was waited for.
#[test]
fn a_group_whose_leader_was_waited_for() {
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

/// The guardian is told that a tree is over before the ID can be another's; and that somebody else has reaped the
/// leader, of a tree or a single child.
#[test]
fn a_group_that_the_guardian_knew() {
    in_a_namespace!();
    let ends = [
        ("tree", "wait-for-owned"),
        ("tree", "reap-owned"),
        ("guarded", "reap-owned"),
        // Of which the status is lost.
        ("guarded-fallback", "reap-owned"),
    ];
    for (kind, end) in ends.into_iter().cycle().take(rounds(12).max(4)) {
        let line = given(&format!("owner {kind}"), &parts("exit 0"));
        let line = [line, parts(end), parts("pid read")].concat();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let spawn = |command: &mut Command| SharedChild::spawn(command).unwrap();
        let mut owner = Stage::of(spawn, &mut helper(&line), 1);
        let id: u32 = owner.hear("child ").parse().unwrap();
        let victim = Victim::on(id);
        owner.child.kill().unwrap();
        wait(&owner.child);
        // The guardian does what it does at the end of its input, and ends. (It is ours to see: this
        // process is the first of its namespace.)
        until("the guardian is gone", || {
            linux::zombies().into_iter().for_each(|zombie| {
                linux::reap(zombie);
            });
            linux::children() == [id]
        });
        victim.ends_unharmed();
    }
}
