//! Promise: a tree is ended within every bound, even if its members leave its group or its cgroup, hide, or are many;
//! a tree is not reported empty where a member could be missed.

#![cfg(target_os = "linux")]

use crate::common::linux::{is_root, own_cgroup, tree_cgroup_of, until_asleep, without_root};
use crate::common::stage::{Kind, Stage, daemon, given, parts, start};
use crate::common::*;
use shared_child::linux::SpawnOptionsExt;
use shared_child::seam::{self, Backend};
use shared_child::{CaptureOptions, Containment, Mechanism, SpawnOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const GROUP: Kind = Kind::Group(Backend::Best);
const SHORT: Duration = Duration::from_millis(200);

fn has_cgroups(test: &str) -> bool {
    Kind::all(test).contains(&Kind::Cgroup)
}

/// A cgroup tree whose leader has left the cgroup, and a cgroup tree with another member that has.
fn escaped() -> [Stage; 2] {
    let leave = format!("enter-cgroup {} pid read", own_cgroup().display());
    let member = [start(&format!("setsid {leave}")), parts("pid read")].concat();
    [Stage::set(Kind::Cgroup, &parts(&leave), 1), Stage::set(Kind::Cgroup, &member, 2)]
}

#[test]
fn process_that_left_its_cgroup_is_still_a_member() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    for stage in escaped() {
        assert!(!stage.tree().is_empty().unwrap());
        assert_eq!(stage.tree().processes().unwrap().len(), stage.pids.0.len());
        let by = Mechanism::Cgroup;
        assert_eq!(stage.tree().containment(), Containment::BestEffort { by });
    }
}

#[test]
fn kill_reaches_a_process_that_left_its_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    for stage in escaped() {
        stage.tree().kill().unwrap();
        stage.is_empty();
        wait(&stage.child);
    }
}

#[test]
fn stop_ends_a_process_that_left_its_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    for stage in escaped() {
        let status = stage.child.stop(SHORT).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        stage.is_empty();
    }
}

#[test]
fn stop_kills_a_leader_that_left_its_cgroup_and_ignores_the_request() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    let leave = format!("ignore 15 enter-cgroup {} pid read", own_cgroup().display());
    let stage = Stage::set(Kind::Cgroup, &parts(&leave), 1);
    let status = stage.child.stop(SHORT).unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    stage.is_empty();
}

#[test]
fn capture_ends_a_leader_that_left_its_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    let directory = own_cgroup();
    let mut command = helper(&["enter-cgroup", directory.to_str().unwrap(), "pid", "sleep"]);
    let mut capture = CaptureOptions::new();
    capture.timeout(SHORT).grace(SHORT);
    let captured =
        SpawnOptions::new().cgroup(true).capture(&mut command, &mut capture).expect("to capture");
    assert!(captured.error.is_none(), "{:?}", captured.error);
    assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn drop_kills_a_process_that_left_its_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    let leave = format!("enter-cgroup {} pid read", own_cgroup().display());
    let member = [start(&format!("setsid {leave}")), parts("pid read")].concat();
    for (line, members) in [(parts(&leave), 1), (member, 2)] {
        let mut options = SpawnOptions::new();
        options.kill_on_drop(true);
        let (child, rest) = Stage::set_with(Kind::Cgroup, &options, &line, members).take_child();
        drop(child);
        until("all are dead", || rest.survivors() == 0);
    }
}

#[test]
fn leader_that_was_moved_out_of_its_cgroup_is_killed() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    let stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
    std::fs::write(own_cgroup().join("cgroup.procs"), stage.child.id().to_string()).unwrap();
    assert!(!stage.tree().is_empty().unwrap());
    stage.child.stop(SHORT).unwrap();
    stage.is_empty();
}

#[test]
fn containment_is_complete_if_the_child_cannot_leave_the_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    if !is_root() {
        eprintln!("{} skipped: it requires root, to change the child's user", function_name!());
        return;
    }
    let spawn = |command: &mut std::process::Command| {
        SpawnOptions::new().cgroup(true).spawn(command).expect("to spawn")
    };
    // The helper program may be in a directory that other users cannot read.
    let mut command = std::process::Command::new("sleep");
    let child = spawn(command.arg("1000").uid(65534).gid(65534));
    let tree = child.tree().unwrap();
    assert_eq!(tree.containment(), Containment::Complete { by: Mechanism::Cgroup });
    assert!(!tree.is_empty().unwrap());
    assert_eq!(tree.processes().unwrap(), [child.id()]);
    assert_eq!(child.stop(LONG).unwrap().signal(), Some(libc::SIGTERM));
    assert!(tree.is_empty().unwrap());
}

/// Another process removes the directory at the moment when it becomes empty.
#[test]
fn wait_empty_returns_if_another_process_removes_the_cgroup() {
    watchdog!();
    if !has_cgroups(function_name!()) {
        return;
    }
    for _ in 0..rounds(20) {
        let mut stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
        let directory = tree_cgroup_of(stage.child.id()).expect("a cgroup");
        stage.stdin = None;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while std::fs::remove_dir(&directory)
                    .is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound)
                {
                }
            });
            assert!(stage.tree().wait_empty(None).unwrap());
        });
        wait(&stage.child);
    }
}

/// Running processes that are younger than every tree so far, and show no environment. They are no members.
fn others_without_environment(count: usize) -> Vec<Stage> {
    let padding = "x".repeat(3 * 4096);
    let line = parts(&format!("unmap-environment {padding} pid read"));
    let other = |_| {
        let spawn = |command: &mut std::process::Command| {
            shared_child::SharedChild::spawn(command).expect("to spawn")
        };
        let other = Stage::of(spawn, &mut helper(&line), 1);
        let shown = std::fs::read(format!("/proc/{}/environ", other.child.id())).unwrap();
        assert!(shown.is_empty(), "it shows an environment");
        other
    };
    (0..count).map(other).collect()
}

/// Each of these processes once cost 80 ms per pass, and two seconds the first time.
#[test]
fn processes_without_environment_are_waited_for_once() {
    alone!();
    watchdog!();
    let all = [start("pid read"), parts("pid read")].concat();
    let mut stages: Vec<Stage> = (0..10).map(|_| Stage::set(GROUP, &all, 2)).collect();
    let others = others_without_environment(80);
    let last = stages.pop().unwrap();
    let start = Instant::now();
    for stage in &stages {
        assert!(!stage.tree().is_empty().unwrap());
        stage.tree().kill().unwrap();
        stage.is_empty();
        wait(&stage.child);
    }
    let timeout = Duration::from_millis(100);
    let captured =
        last.child.capture(CaptureOptions::new().timeout(timeout).grace(timeout)).unwrap();
    assert!(captured.stopped_by.is_some());
    last.is_empty();
    // Each capture once took more than six seconds.
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
    assert_eq!(others.iter().filter(|other| other.survivors().len() == 1).count(), 80);
    others.iter().for_each(|other| kill_and_wait(&other.child));
}

#[test]
fn many_trees_are_ended_in_a_few_passes() {
    alone!();
    watchdog!();
    let spawn = |kind: Kind, count: usize| {
        let set = shared_child::ChildSet::new();
        let line = [start("pid read"), start("setsid pid read"), parts("pid read")].concat();
        let rest: Vec<_> = (0..count)
            .map(|n| {
                let (child, rest) = Stage::set(kind, &line, 3).take_child();
                set.insert(n, child);
                rest
            })
            .collect();
        (set, rest)
    };
    let passes = |kind, count, end: fn(&shared_child::ChildSet<usize>)| {
        let (set, rest) = spawn(kind, count);
        let before = seam::process_table_passes();
        end(&set);
        let passes = seam::process_table_passes() - before;
        until("all are dead", || rest.iter().all(|rest| rest.survivors() == 0));
        // The handles remove the cgroups.
        drop(set);
        passes
    };
    // It was at least two passes per tree. Processes that other tests start meanwhile can cause more passes, so one of
    // several attempts counts.
    let few = |kind, end: fn(&shared_child::ChildSet<usize>)| {
        let mut counts = Vec::new();
        while counts.last().is_none_or(|count| *count >= 20) {
            assert!(counts.len() < 5, "{kind:?}: {counts:?}");
            counts.push(passes(kind, 40, end));
        }
    };
    for kind in [Some(GROUP), has_cgroups(function_name!()).then_some(Kind::Cgroup)] {
        let Some(kind) = kind else { continue };
        few(kind, |set| set.kill_all().unwrap());
        few(kind, |set| set.stop_all(LONG).unwrap());
    }
}

/// Other threads need descriptors while one thread waits for a tree with many members outside its group.
#[test]
fn wait_for_many_members_uses_few_descriptors() {
    alone!();
    watchdog!();
    let members = 150;
    let line: Vec<String> = (0..members).flat_map(|_| start("setsid pid read")).collect();
    let stage = Stage::set(GROUP, &[line, parts("pid exit 0")].concat(), members + 1);
    wait(&stage.child);
    let before = linux::descriptors();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let tree = stage.tree();
        let waiter = scope.spawn(move || {
            send.send(linux::this_thread()).unwrap();
            tree.wait_empty(None).unwrap()
        });
        let waiter_id = receive.recv().unwrap();
        for _ in 0..200 {
            until_asleep(waiter_id);
            let now = linux::descriptors();
            assert!(now <= before + 20, "{now} descriptors, {before} before");
        }
        stage.tree().kill().unwrap();
        assert!(waiter.join().unwrap());
    });
    stage.is_empty();
    wait(&stage.child);
}

/// Runs this on a thread of another user whose children cannot change their user. Processes of root that start on
/// this machine meanwhile are therefore no possible members.
fn without_privileges<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    without_root(|| {
        // SAFETY: integers.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        assert_eq!(result, 0, "prctl: {}", std::io::Error::last_os_error());
        run()
    })
}

/// The hidden member is not dumpable, has left the group, and its parent has exited.
#[test]
fn tree_with_a_hidden_orphan_is_not_reported_empty() {
    watchdog!();
    if !is_root() {
        eprintln!("{} skipped: it requires root, to become another user", function_name!());
        return;
    }
    without_privileges(|| {
        let line = [daemon("hide pid read"), parts("pid read")].concat();
        let mut stage = Stage::set(GROUP, &line, 2);
        stage.tree().kill().unwrap();
        wait(&stage.child);
        until("the leader is dead", || stage.survivors().len() == 1);
        assert!(!stage.tree().is_empty().unwrap());
        assert!(!stage.tree().wait_empty(Some(Instant::now() + SHORT)).unwrap());
        // The hidden member ends by itself.
        let stdin = stage.stdin.take();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| stage.tree().wait_empty(Some(Instant::now() + LONG)));
            drop(stdin);
            assert!(waiter.join().unwrap().unwrap());
        });
    });
}

#[test]
fn hidden_process_that_was_found_by_its_parent_is_killed() {
    watchdog!();
    if !is_root() {
        eprintln!("{} skipped: it requires root, to become another user", function_name!());
        return;
    }
    let file = std::env::temp_dir().join(format!("shared_child-seen-{}", std::process::id()));
    without_privileges(|| {
        let parent = [
            parts("setsid"),
            start("hide pid read"),
            parts(&format!("pid await {}", file.display())),
        ];
        let line = [given("spawn", &parent.concat()), parts("pid read")].concat();
        let stage = Stage::set(GROUP, &line, 3);
        assert_eq!(stage.tree().processes().unwrap().len(), 3);
        std::fs::write(&file, "").unwrap();
        until("the parent is reaped", || stage.survivors().len() == 2);
        assert_eq!(stage.tree().processes().unwrap().len(), 2);
        stage.tree().kill().unwrap();
        stage.is_empty();
        wait(&stage.child);
    });
    std::fs::remove_file(&file).unwrap();
}

/// Options of a tree without environment markers, as on systems that show no environments.
fn without_marker(kill_on_drop: bool) -> SpawnOptions {
    let mut options = SpawnOptions::new();
    options.kill_on_drop(kill_on_drop);
    seam::without_marker(&mut options);
    options
}

#[test]
fn without_markers_a_drop_finds_members_below_their_parents() {
    watchdog!();
    on_every_backend(|backend| {
        let line = [
            given(
                "spawn",
                &[parts("setsid pid"), start("own-group pid read"), parts("read")].concat(),
            ),
            parts("pid read"),
        ];
        let kind = Kind::Group(backend);
        let stage = Stage::set_with(kind, &without_marker(true), &line.concat(), 3);
        let (child, rest) = stage.take_child();
        drop(child);
        until("all are dead", || rest.survivors() == 0);
    });
}

/// Each fork leaves the session, and its parent continues.
#[test]
fn without_markers_a_kill_catches_up_with_a_tree_that_forks() {
    alone!();
    watchdog!();
    for _ in 0..rounds(3) {
        // A word that only the processes of this test have on their command line.
        let word = format!("forking-{}", std::process::id());
        let line = parts(&format!("pid say {word} fork-steadily out"));
        let mut stage = Stage::set_with(GROUP, &without_marker(false), &line, 1);
        stage.hear(&word);
        stage.tree().kill().unwrap();
        stage.wait_empty();
        wait(&stage.child);
        // The forks share the standard output, and each ends by itself only after half a second, so a survivor is a
        // process of the helper program that holds the pipe.
        let left = linux::processes_with(&word);
        assert_eq!(left, [] as [u32; 0], "survivors");
    }
}

#[test]
fn one_thread_serves_all_dropped_trees() {
    alone!();
    watchdog!();
    let mut options = SpawnOptions::new();
    options.tree(true).kill_with_parent(true);
    // This starts the guardian's thread, which stays.
    let first = options.spawn(&mut helper(&["exit", "0"])).unwrap();
    wait(&first);
    assert!(first.tree().unwrap().wait_empty(None).unwrap());
    let before = linux::threads();
    let mut inputs = Vec::new();
    for _ in 0..50 {
        let mut command = helper(&["read"]);
        let child = options.spawn(command.stdin(Stdio::piped())).unwrap();
        inputs.push(child.take_stdin());
        drop(child);
    }
    let most = linux::threads();
    assert!(most <= before + 1, "{most} threads, {before} before");
    drop(inputs);
    until("the thread has ended", || linux::threads() <= before);
    until("no zombies", || linux::zombies().is_empty());
}
