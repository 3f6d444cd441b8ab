//! Promise: a process that is tied to its parent dies with it, whatever kills the parent; no other process dies.
//!
//! The parent is the helper program, which uses the library, and is killed with SIGKILL.

#![cfg(target_os = "linux")]

use crate::common::stage::{Stage, daemon, given, kill_a_helper, parts, start, tied_kinds};
use crate::common::*;
use shared_child::SpawnOptions;
use shared_child::seam::Backend;
use std::path::PathBuf;
use std::process::Stdio;

/// A parent that plays these parts. Its exit closes the input of every member.
fn parent(line: &[Vec<String>], members: usize) -> Stage {
    Stage::single(&line.concat(), members)
}

fn guardians_of(parent: &Stage) -> Vec<u32> {
    linux::guardians_of(parent.child.id())
}

fn guardian_of(parent: &Stage) -> u32 {
    linux::guardian_of(parent.child.id())
}

fn die(parent: &Stage) {
    parent.child.kill().unwrap();
    wait(&parent.child);
}

/// Checks that the parent, then every process tied to it, and last its guardian die.
#[track_caller]
fn all_die(parent: &Stage) {
    all_die_but(parent, 0);
}

#[track_caller]
fn all_die_but(parent: &Stage, spared: usize) {
    let guardians = guardians_of(parent);
    die(parent);
    until("they are dead", || parent.survivors().len() <= spared);
    until("the guardian has ended", || {
        !guardians.iter().any(|guardian| linux::is_alive(*guardian))
    });
    assert_eq!(parent.survivors().len(), spared);
}

fn tree() -> Vec<String> {
    let stubborn = start("setsid ignore 15 ignore 1 pid read");
    [stubborn, daemon("pid read"), start("own-group pid read"), parts("pid read")].concat()
}

#[test]
fn single_child_dies_with_its_parent() {
    watchdog!();
    let line = [given("owner alone", &parts("ignore 15 pid read")), parts("read")];
    let parent = parent(&line, 1);
    assert_eq!(guardians_of(&parent), [] as [u32; 0], "the kernel kills the child, no guardian");
    all_die(&parent);
}

/// Uses the guardian instead of the kernel's signal. Only the child dies: its descendants do not, unless they are in
/// its group.
#[test]
fn guardian_kills_a_single_child_and_spares_its_children() {
    watchdog!();
    for then in ["", "drop-owned"] {
        let owned = [start("own-group pid read"), parts("ignore 15 pid read")].concat();
        let line = [given("owner alone-guarded", &owned), parts(then), parts("say owned read")];
        let mut parent = parent(&line, 2);
        parent.hear("owned");
        guardian_of(&parent);
        assert_eq!(parent.survivors().len(), 2);
        all_die_but(&parent, 1);
    }
}

/// A single child is reaped when its status is returned; the guardian learns of the exit before.
#[test]
fn guarded_child_is_reaped_when_its_status_is_returned() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let mut options = SpawnOptions::new();
        shared_child::seam::tie_by_guardian(options.kill_with_parent(true));
        let child = backend.spawn_with(&options, &mut helper(&["exit", "7"])).unwrap();
        assert!(child.tree().is_none());
        assert_eq!(wait(&child).code(), Some(7));
        assert_eq!(linux::state(child.id()), None, "it was not reaped");
        // A kill and a drop affect the child alone.
        let mut stage = Stage::of(
            |command| backend.spawn_with(options.clone().kill_on_drop(true), command).unwrap(),
            &mut helper(&["spawn", "2", "pid", "read", "pid", "read"]),
            2,
        );
        let id = stage.child.id();
        stage.child.kill().unwrap();
        wait(&stage.child);
        assert_eq!(stage.survivors().len(), 1);
        assert!(stage.pids.0.contains(&id));
        stage.stdin = None;
        stage.until_all_have_ended();
    });
}

#[test]
fn tree_dies_with_its_parent() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let line = [given(&format!("owner {kind}"), &tree()), parts("read")];
        let parent = parent(&line, 4);
        guardian_of(&parent);
        all_die(&parent);
    }
}

/// One guardian serves many trees, and kills them all.
#[test]
fn one_guardian_kills_many_trees() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let owner =
            given(&format!("owner {kind}"), &[daemon("pid read"), parts("pid read")].concat());
        let mut line = vec![owner; 20];
        line.push(parts("read"));
        let parent = parent(&line, 40);
        guardian_of(&parent);
        all_die(&parent);
    }
}

/// A member whose first thread has ended is found by its environment marker, and in a cgroup.
#[test]
fn member_whose_first_thread_has_ended_dies_with_the_parent() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let members = [daemon("thread pid read"), parts("pid read")].concat();
        let mut parent = parent(&[given(&format!("owner {kind}"), &members), parts("read")], 2);
        let ended = || parent.pids.0.iter().filter(|id| linux::is_zombie(**id)).count() == 1;
        until("its first thread has ended", ended);
        parent.child.kill().unwrap();
        // The pipe ends when no process has it open any more.
        let _ = std::io::read_to_string(&mut parent.said).unwrap();
    }
}

/// The death of the thread that spawned the child is not the parent's death.
#[test]
fn exit_of_the_spawning_thread_kills_no_child() {
    watchdog!();
    let line = [given("owner alone-thread", &parts("pid read")), parts("say alive read")];
    let mut parent = parent(&line, 1);
    parent.hear("alive");
    assert_eq!(parent.survivors().len(), 1);
    all_die(&parent);
}

/// An exec counts as the parent's death: it ends the parent's threads and closes its descriptors.
#[test]
fn exec_of_the_parent_kills_its_tied_children() {
    watchdog!();
    for kind in [&["alone"], &tied_kinds(function_name!())[..]].concat() {
        let line = [
            given(&format!("owner {kind}"), &parts("pid sleep")),
            parts("hear exec-steadily 1 read"),
        ];
        let mut parent = parent(&line, 1);
        std::io::Write::write_all(parent.stdin.as_mut().unwrap(), b"now\n").unwrap();
        parent.until_all_have_ended();
        until("the guardian has ended", || guardians_of(&parent).is_empty());
        assert!(linux::is_alive(parent.child.id()));
        parent.stdin = None;
        wait(&parent.child);
    }
}

/// A dropped handle leaves the child tied.
#[test]
fn child_of_a_dropped_handle_dies_with_its_parent() {
    watchdog!();
    for kind in [&["alone"], &tied_kinds(function_name!())[..]].concat() {
        let line = [
            given(&format!("owner {kind}"), &parts("pid read")),
            parts("drop-owned say dropped read"),
        ];
        let mut parent = parent(&line, 1);
        parent.hear("dropped");
        assert_eq!(parent.survivors().len(), 1);
        all_die(&parent);
    }
}

/// A tree released with `into_inner` is no longer tied.
#[test]
fn tree_released_by_into_inner_outlives_its_parent() {
    watchdog!();
    let line = [given("owner tree", &tree()), parts("give-up-owned say given read")];
    let mut parent = parent(&line, 4);
    parent.hear("given");
    let guardian = guardian_of(&parent);
    die(&parent);
    until("the guardian has ended", || !linux::is_alive(guardian));
    assert_eq!(parent.survivors().len(), 4);
    parent.stdin = None;
    parent.until_all_have_ended();
}

/// The leader has exited and was waited for; the rest of the tree is still tied.
#[test]
fn tree_of_an_exited_leader_dies_with_its_parent() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let tree = [start("pid read"), daemon("pid read")].concat();
        let line = [given(&format!("owner {kind}"), &tree), parts("read")];
        let parent = parent(&line, 2);
        until("the leader is reaped", || {
            let children =
                std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.child.id()));
            let ids: Vec<u32> =
                children.unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
            ids.iter().filter(|id| linux::is_alive(**id)).count() == 1 // the guardian
        });
        assert_eq!(parent.survivors().len(), 2);
        all_die(&parent);
    }
}

/// The guardian is killed from outside. The next spawn starts another one, which knows all trees.
#[test]
fn guardian_started_after_a_kill_knows_all_trees() {
    watchdog!();
    let file =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("go-{}", std::process::id()));
    let owner = given("owner tree", &[start("setsid pid read"), parts("pid read")].concat());
    let wait = parts(&format!("say once await {}", file.display()));
    // The program has SIGPIPE at its default, unlike most Rust programs.
    let mut parent = parent(&[parts("default 13"), owner.clone(), wait, owner, parts("read")], 2);
    parent.hear("once");
    let first = guardian_of(&parent);
    // SAFETY: integers; the guardian is a child of the helper program, which lives.
    unsafe { libc::kill(linux::pid_t(first), libc::SIGKILL) };
    until("it has ended", || !linux::is_alive(first));
    std::fs::write(&file, "").unwrap();
    for _ in 0..2 {
        let pid = parent.hear("pid ");
        parent.pids.0.push(pid.parse().unwrap());
    }
    std::fs::remove_file(&file).unwrap();
    guardian_of(&parent);
    all_die(&parent);
}

/// A signal to the parent's group, from a terminal or a kill, does not reach the guardian.
#[test]
fn guardian_survives_signals_to_the_group_of_the_parent() {
    watchdog!();
    let line = [parts("own-group"), given("owner tree", &parts("pid read")), parts("read")];
    let parent = parent(&line, 1);
    let guardian = guardian_of(&parent);
    let group = linux::pid_t(parent.child.id());
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGKILL] {
        // SAFETY: integers; the group is the helper program's own.
        unsafe { libc::kill(-group, signal) };
        // SAFETY: integers; the guardian may have ended, but its ID is not reused so soon.
        unsafe { libc::kill(linux::pid_t(guardian), libc::SIGTERM) };
    }
    wait(&parent.child);
    parent.until_all_have_ended();
}

/// A child of the permanent spawn thread inherits the same signals and descriptors as any other child.
#[test]
fn tied_child_inherits_the_same_as_any_other_child() {
    alone!();
    watchdog!();
    let blocked = {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is made before it is used, and the mask is this thread's.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGUSR2);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            set
        }
    };
    let inherited = |options: &SpawnOptions| {
        let child = options.spawn(helper(&["inherited"]).stdout(Stdio::piped())).unwrap();
        let said = std::io::read_to_string(child.take_stdout().unwrap()).unwrap();
        wait(&child);
        said
    };
    let plain = inherited(&SpawnOptions::new());
    assert!(plain.contains("SigBlk:\t0000000000000800"), "{plain}");
    // std forks for such a child; without a fork, glibc treats its internal signals differently.
    let mut forked = helper(&["inherited"]);
    // SAFETY: the hook does nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut forked, || Ok(())) };
    let forked = String::from_utf8(forked.output().unwrap().stdout).unwrap();
    for (tree, like) in [(false, forked), (true, plain)] {
        for _ in 0..2 {
            assert_eq!(inherited(SpawnOptions::new().tree(tree).kill_with_parent(true)), like);
        }
    }
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, blocked.as_ptr(), std::ptr::null_mut()) };
}

/// One command spawns children that are tied and children that are not.
#[test]
fn one_command_spawns_tied_and_untied_children() {
    watchdog!();
    let mut command = helper(&["pid", "read"]);
    for backend in Backend::ALL {
        let mut tied = Stage::of(
            |command| {
                backend.spawn_with(SpawnOptions::new().kill_with_parent(true), command).unwrap()
            },
            &mut command,
            1,
        );
        // The spawning thread ends. A tied child would die with it.
        let mut plain = std::thread::scope(|scope| {
            let spawn = || Stage::of(|command| backend.spawn(command).unwrap(), &mut command, 1);
            scope.spawn(spawn).join().unwrap()
        });
        assert_eq!(plain.survivors().len(), 1);
        for stage in [&mut tied, &mut plain] {
            stage.stdin = None;
            assert!(wait(&stage.child).success());
        }
    }
}

#[test]
fn failed_spawn_of_a_tied_child_is_reported() {
    watchdog!();
    for tree in [false, true] {
        let mut command = std::process::Command::new("/no/such/program");
        command.arg("argument");
        let error = SpawnOptions::new().tree(tree).kill_with_parent(true).spawn(&mut command);
        assert_eq!(error.map(drop).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert_eq!(command.get_program(), "/no/such/program");
        assert_eq!(command.get_args().count(), 1);
    }
}

/// The tests on other systems rely on this check.
#[test]
fn cleanup_of_the_tests_kills_helpers_only() {
    let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    kill_a_helper(sleep.id());
    assert!(sleep.try_wait().unwrap().is_none());
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}
