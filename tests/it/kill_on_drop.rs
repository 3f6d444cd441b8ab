//! Promise: `kill_on_drop` kills the processes of a dropped handle without blocking; released processes live on.

#![cfg(unix)]

use crate::common::stage::{FINDS_DAEMONS, Kind, Rest, Stage, findable_daemon, parts, start};
use crate::common::*;
use shared_child::SpawnOptions;
use shared_child::seam::Backend;
use std::process::Command;

fn options() -> SpawnOptions {
    SpawnOptions::new().kill_on_drop(true).clone()
}

/// A single child and its descendant.
fn alone(backend: Backend) -> (shared_child::SharedChild, Rest) {
    let line = [start("pid read"), parts("pid read")].concat();
    let spawn = |command: &mut Command| backend.spawn_with(&options(), command).unwrap();
    Stage::of(spawn, &mut helper(&line), 2).take_child()
}

fn tree(kind: Kind) -> (shared_child::SharedChild, Rest) {
    tree_with(kind, "setsid ignore TERM pid read")
}

fn tree_with(kind: Kind, another: &str) -> (shared_child::SharedChild, Rest) {
    let all = [start("pid read"), start(another), findable_daemon("pid read"), parts("pid read")];
    Stage::set_with(kind, &options(), &all.concat(), 4).take_child()
}

#[test]
fn drop_kills_a_single_child_and_spares_its_children() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, rest) = alone(backend);
        let id = child.id();
        drop(child);
        until("it is dead", || !unix::is_alive(id));
        assert_eq!(rest.survivors(), 1, "the process that it has started must survive");
        rest.end();
    });
}

#[test]
fn drop_kills_every_member_of_a_tree() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let (child, rest) = tree(kind);
        drop(child);
        until("all are dead", || rest.survivors() == 0);
    }
}

#[test]
fn drop_kills_a_tree_whose_leader_has_exited() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        // Once its parent has exited, a member outside the group is found only where daemons are.
        let another = if FINDS_DAEMONS { "setsid ignore TERM pid read" } else { "pid read" };
        let (child, rest) = tree_with(kind, another);
        child.kill().unwrap();
        wait(&child);
        assert_eq!(rest.survivors(), 3);
        drop(child);
        until("all are dead", || rest.survivors() == 0);
    }
}

#[test]
fn detached_child_outlives_its_handle() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, rest) = alone(backend);
        child.detach();
        drop(child);
        assert_eq!(rest.survivors(), 2);
        rest.end();
    });
    for kind in Kind::all(function_name!()) {
        let (child, rest) = tree(kind);
        child.detach();
        drop(child);
        assert_eq!(rest.survivors(), 4);
        rest.end();
    }
}

#[test]
fn into_inner_kills_no_process() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, rest) = alone(backend);
        let mut inner = child.into_inner();
        assert_eq!(rest.survivors(), 2);
        rest.end();
        assert!(inner.wait().unwrap().success());
    });
    for kind in Kind::all(function_name!()) {
        let (child, rest) = tree(kind);
        let mut inner = child.into_inner();
        assert_eq!(inner.try_wait().unwrap(), None);
        assert_eq!(rest.survivors(), 4);
        rest.end();
        assert!(inner.wait().unwrap().success());
    }
}

/// The leader of a tree stays a zombie after its status was returned. `into_inner` reaps it, so that std knows the
/// status.
#[test]
fn into_inner_returns_a_child_that_knows_its_status() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let all = [start("pid read"), parts("exit 7")].concat();
        let (child, rest) = Stage::set_with(kind, &options(), &all, 1).take_child();
        assert_eq!(wait(&child).code(), Some(7));
        let id = child.id();
        let mut inner = child.into_inner();
        assert_eq!(unix::state(id), None, "it was not reaped");
        assert_eq!(inner.try_wait().unwrap().unwrap().code(), Some(7));
        rest.end();
    }
}

#[test]
fn panic_that_drops_the_handle_kills_the_tree() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let (child, rest) = tree(kind);
        let panic = std::thread::spawn(move || {
            let _child = child;
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        panic.join().unwrap_err();
        until("all are dead", || rest.survivors() == 0);
    }
}

/// A copy made by a fork does not kill.
#[test]
fn copy_dropped_in_a_fork_kills_no_process() {
    alone!();
    watchdog!();
    let kinds = Kind::all(function_name!());
    let backends = Backend::ALL.iter().map(|backend| alone(*backend));
    for (child, rest) in backends.chain(kinds.into_iter().map(tree)) {
        let mut child = Some(child);
        let all = rest.survivors();
        assert_eq!(
            unix::in_a_fork(|| {
                drop(child.take());
                0
            }),
            0
        );
        assert_eq!(rest.survivors(), all);
        let child = child.expect("only the fork has dropped it");
        assert_eq!(child.try_wait().unwrap(), None);
        drop(child);
        until("the child is dead", || rest.survivors() < all);
        rest.end();
    }
}

/// Neither single children nor trees leave zombies, descriptors or threads. Only Linux shows the threads.
#[cfg(target_os = "linux")]
#[test]
fn drop_leaves_no_zombie_descriptor_or_thread() {
    alone!();
    watchdog!();
    let kinds = Kind::all(function_name!());
    // The threads are counted: a thread that has just begun has no name yet. The guardian and its thread stay for a
    // few seconds after the last tied child has ended.
    let threads = || {
        let all = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = all.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim_end() != "guardian-watch").count()
    };
    // The thread that spawns tied children stays.
    let at_rest = threads() + 1;
    let parent = |tree| {
        let mut options = options();
        options.tree(tree).kill_with_parent(true);
        wait(&options.spawn(&mut helper(&["exit", "0"])).unwrap());
    };
    [true, false].into_iter().for_each(parent);
    until("at rest", || threads() == at_rest);
    let children = linux::children().len();
    let before = linux::descriptors();
    for round in 0..rounds(10).max(5) {
        on_every_backend(|backend| drop(alone(backend)));
        for kind in &kinds {
            let (child, rest) = tree(*kind);
            match round % 5 {
                0 => drop(child),
                1 => {
                    child.tree().unwrap().kill().unwrap();
                    child.tree().unwrap().wait_empty(None).unwrap();
                }
                2 => {
                    child.stop(std::time::Duration::ZERO).unwrap();
                    drop(child);
                }
                3 => {
                    child.detach();
                    drop(child);
                    rest.end();
                    continue;
                }
                _ => {
                    let mut inner = child.into_inner();
                    rest.end();
                    inner.wait().unwrap();
                    continue;
                }
            }
            until("all are dead", || rest.survivors() == 0);
        }
        [true, false].into_iter().for_each(parent);
    }
    until("no threads", || threads() == at_rest);
    until("no zombies", || linux::zombies().is_empty());
    until("no descriptors", || linux::descriptors() <= before);
    assert!(linux::children().len() <= children);
}
