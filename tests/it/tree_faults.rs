//! Promise: the system may refuse what a tree needs at any time; the tree then does what it still can, and reports
//! what it cannot do.

#![cfg(target_os = "linux")]

use crate::common::linux::{Deny, NoDescriptors, When, deny};
use crate::common::stage::{Kind, Stage, daemon, given, parts, start};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{Containment, Mechanism, SharedChild, SpawnOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One member for each way of leaving the group that the library detects, and one that stays.
fn tree(backend: Backend) -> Stage {
    let all = [
        start("pid read"),
        start("setsid bare pid read"),
        daemon("pid read"),
        given(
            "spawn",
            &[parts("setsid pid"), start("own-group bare pid read"), parts("read")].concat(),
        ),
        parts("pid read"),
    ];
    Stage::set(Kind::Group(backend), &all.concat(), 6)
}

fn exercise() {
    on_every_backend(|backend| {
        let stage = tree(backend);
        assert_eq!(stage.tree().processes().unwrap().len(), 6);
        assert!(!stage.tree().wait_empty(Some(Instant::now() + Duration::from_millis(5))).unwrap());
        stage.tree().send_signal(0).unwrap();
        stage.tree().kill().unwrap();
        stage.is_empty();
        let stage = tree(backend);
        let status = stage.child.stop(Duration::MAX).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        stage.is_empty();
        // A tree that ends by itself. (A member with an empty environment is found while its parent lives.)
        let mut stage = tree(backend);
        assert_eq!(stage.tree().processes().unwrap().len(), 6);
        stage.stdin = None;
        stage.is_empty();
        // A tree that is dropped.
        let (child, rest) = {
            let options = SpawnOptions::new().kill_on_drop(true).clone();
            let all = [start("pid read"), daemon("pid read"), parts("pid read")].concat();
            Stage::set_with(Kind::Group(backend), &options, &all, 3).take_child()
        };
        drop(child);
        until("all are dead", || rest.survivors() == 0);
    });
}

macro_rules! exercise_with {
    ($($name:ident: $rules:expr;)*) => {$(
        #[test]
        fn $name() {
            alone!();
            watchdog!();
            deny(&$rules);
            exercise();
        }
    )*};
}

#[test]
fn tree_works_with_nothing_refused() {
    alone!();
    watchdog!();
    exercise();
}

const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 4;

exercise_with! {
    tree_works_if_poll_is_refused: [
        Deny::always(libc::SYS_ppoll, libc::ENOMEM),
        #[cfg(target_arch = "x86_64")]
        Deny::always(libc::SYS_poll, libc::ENOMEM),
    ];
    tree_works_if_pidfd_open_is_not_implemented: [Deny::always(libc::SYS_pidfd_open, libc::ENOSYS)];
    tree_works_if_pidfd_open_is_not_permitted: [Deny::always(libc::SYS_pidfd_open, libc::EPERM)];
    tree_works_if_pidfd_open_has_no_descriptor: [Deny::always(libc::SYS_pidfd_open, libc::EMFILE)];
    tree_works_if_pidfd_send_signal_is_not_implemented: [Deny::always(libc::SYS_pidfd_send_signal, libc::ENOSYS)];
    tree_works_if_pidfd_send_signal_is_not_permitted: [Deny::always(libc::SYS_pidfd_send_signal, libc::EPERM)];
    tree_works_if_pidfds_do_not_know_groups: [Deny {
        call: libc::SYS_pidfd_send_signal,
        when: When::Has(3, PIDFD_SIGNAL_PROCESS_GROUP),
        errno: libc::EINVAL,
    }];
}

/// A pidfd identifies the leader's group even if the leader was reaped elsewhere (Linux 6.9). Every member of the
/// group is signalled, even if nothing else identifies it.
#[test]
fn kill_ends_a_group_whose_leader_was_reaped_elsewhere() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for known in [true, false] {
            let bare =
                if backend == Backend::ALL[0] && !known { "bare pid read" } else { "pid read" };
            let all = [start(bare), daemon("pid read"), parts("hear")].concat();
            let mut stage = Stage::set(Kind::Group(backend), &all, 2);
            stage.child.kill().unwrap();
            linux::reap(stage.child.id());
            if known {
                // The handle learns of the reap here.
                let _ = stage.child.wait();
            }
            stage.tree().kill().unwrap();
            stage.until_all_have_ended();
            stage.is_empty();
            stage.stdin = None;
        }
    });
}

/// Without a descriptor the process table cannot be read. The group is killed, and the error reports that members may
/// be left.
#[test]
fn kill_without_descriptors_kills_the_group_and_is_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let stage = tree(backend);
        let full = NoDescriptors::left();
        let error = stage.tree().kill().unwrap_err();
        let listed = stage.tree().processes().unwrap_err();
        drop(full);
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        assert_eq!(listed.raw_os_error(), Some(libc::EMFILE), "{listed}");
        until("the group is dead", || stage.survivors().len() <= 4);
        stage.tree().kill().unwrap();
        stage.wait_empty();
    });
}

/// A cgroup cannot be read without descriptors either, which is an error. Its leader still receives the request, and
/// has its grace.
#[test]
fn stop_without_descriptors_terminates_the_leader_of_a_cgroup() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
    let full = NoDescriptors::left();
    let listed = stage.tree().processes().unwrap_err();
    // The stop cannot determine whether members are left.
    let stopped = stage.child.stop(LONG).unwrap_err();
    drop(full);
    assert!(says_no_descriptor(&listed), "{listed}");
    assert!(says_no_descriptor(&stopped), "{stopped}");
    assert_eq!(wait(&stage.child).signal(), Some(libc::SIGTERM));
    stage.is_empty();
}

fn says_no_descriptor(error: &std::io::Error) -> bool {
    error.to_string().contains(&std::io::Error::from_raw_os_error(libc::EMFILE).to_string())
}

/// The same in a set, which keeps its descriptor, so that the kill fails.
#[test]
fn stop_all_without_descriptors_terminates_the_leader_of_a_cgroup() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let (child, rest) = Stage::set(Kind::Cgroup, &parts("pid read"), 1).take_child();
    let set = shared_child::ChildSet::new();
    let child = std::sync::Arc::new(child);
    set.insert((), std::sync::Arc::clone(&child));
    let full = NoDescriptors::left();
    let error = set.stop_all(LONG).unwrap_err();
    drop(full);
    assert!(says_no_descriptor(&error), "{error}");
    assert_eq!(wait(&child).signal(), Some(libc::SIGTERM));
    until("it is dead", || rest.survivors() == 0);
}

/// A stop still signals the group, waits for the leader, and kills the group.
#[test]
fn stop_without_descriptors_ends_the_group() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for (members, line) in [
            (2, [start("ignore TERM pid read"), parts("pid read")].concat()),
            // A stopped leader is resumed, and can terminate.
            (1, parts("pid signal STOP read")),
        ] {
            let stage = Stage::set(Kind::Group(backend), &line, members);
            until("the child has stopped, or need not", || {
                members == 2 || linux::state(stage.child.id()) == Some('T')
            });
            let full = NoDescriptors::left();
            let error = stage.child.stop(LONG).unwrap_err();
            drop(full);
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
            assert_eq!(wait(&stage.child).signal(), Some(libc::SIGTERM));
            stage.is_empty();
        }
    });
}

/// With few descriptors, one pass cannot hold pidfds of all members that it finds; the next pass finds the rest while
/// the first ones die.
#[test]
fn kill_with_few_descriptors_leaves_no_survivor() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(10) {
            let line = vec![start("setsid pid read"); 50];
            let stage =
                Stage::set(Kind::Group(backend), &[line.concat(), parts("pid read")].concat(), 51);
            let mut full = NoDescriptors::left();
            (0..10).for_each(|_| full.free_one());
            stage.tree().kill().unwrap();
            drop(full);
            stage.is_empty();
        }
    });
}

/// The `/proc` of another PID namespace shows no members. The tree has the group alone, and reports that.
#[test]
fn proc_of_another_namespace_leaves_a_tree_its_group() {
    const WRAPPER: &[&str] = &["unshare", "--fork", "--pid"];
    if !linux::is_root() {
        eprintln!("{} skipped: this requires root", function_name!());
        return;
    }
    alone!(WRAPPER);
    watchdog!();
    on_every_backend(|backend| {
        let spawn = |line: &[Vec<String>]| {
            let line = line.concat();
            let mut command = helper(&line);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let child = backend.spawn_with(SpawnOptions::new().tree(true), &mut command).unwrap();
            let stdin = child.take_stdin();
            let mut said = child.take_stdout().unwrap();
            let mut ready = Vec::new();
            while !ready.ends_with(b"ready\n") {
                let mut byte = [0];
                said.read_exact(&mut byte).unwrap();
                ready.extend(byte);
            }
            (child, stdin, said)
        };
        let (child, _stdin, mut said) = spawn(&[start("say ready read"), parts("read")]);
        let tree = child.tree().unwrap();
        let by = Mechanism::ProcessGroup;
        assert_eq!(tree.containment(), Containment::BestEffort { by });
        assert!(!tree.is_empty().unwrap(), "the leader runs");
        tree.kill().unwrap();
        wait(&child);
        for error in [tree.is_empty().unwrap_err(), tree.processes().map(drop).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("/proc"), "{error}");
        }
        said.read_to_end(&mut Vec::new()).unwrap(); // No process holds the write end any more.
        assert_eq!(wait(&child).signal(), Some(libc::SIGKILL));
        drop(child);
        // The grace ends with the child, and the rest of the group is killed.
        let (child, _stdin, mut said) =
            spawn(&[start("ignore TERM say ready read"), parts("read")]);
        assert_eq!(child.stop(Duration::MAX).unwrap().signal(), Some(libc::SIGTERM));
        said.read_to_end(&mut Vec::new()).unwrap();
    });
}

#[test]
fn drop_without_threads_kills_the_tree() {
    alone!();
    watchdog!();
    let tie = |tree| {
        let mut options = SpawnOptions::new();
        options.tree(tree).kill_with_parent(true).kill_on_drop(true);
        options
    };
    deny(&Deny::threads());
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
    // The drop itself does the work of the thread.
    let mut cgroups = Vec::new();
    let kinds = Kind::all(function_name!());
    for kind in &kinds {
        let all = [start("pid read"), daemon("pid read"), parts("pid read")].concat();
        for options in [SpawnOptions::new().kill_on_drop(true).clone(), tie(true)] {
            let (child, mut rest) = Stage::set_with(*kind, &options, &all, 3).take_child();
            cgroups.extend(rest.take_cgroup());
            drop(child);
            until("all are dead", || rest.survivors() == 0);
        }
    }
    // Cgroups are the exception: the next spawn with a cgroup removes them.
    if let Some(kind) = kinds.iter().find(|kind| **kind == Kind::Cgroup) {
        wait(&kind.spawn(&SpawnOptions::new(), &mut helper(&["exit", "0"])));
        assert_eq!(cgroups.len(), 2);
        assert!(!cgroups.iter().any(|cgroup| cgroup.exists()));
    }
    // There is no permanent spawn thread, so a tied single child cannot be spawned.
    let error = tie(false).spawn(&mut helper(&["sleep"])).map(drop).unwrap_err();
    assert!(error.to_string().contains("thread"), "{error}");
}

/// There is no thread to wait for the end of a tied tree. Its leader stays a zombie, which keeps its ID valid for the
/// guardian, until a later spawn finds a thread.
#[test]
fn tied_tree_dropped_without_a_thread_is_reaped_by_a_later_spawn() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let tied = SpawnOptions::new().kill_with_parent(true).clone();
        let all = [start("pid read"), parts("pid read")].concat();
        let (child, rest) = Stage::set_with(Kind::Group(backend), &tied, &all, 2).take_child();
        let id = child.id();
        // The filter applies to this thread alone.
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                deny(&Deny::threads());
                drop(child);
            });
            dropped.join().unwrap();
        });
        assert_eq!(linux::helper_threads(), [""; 0]);
        assert_eq!(rest.survivors(), 2);
        rest.end();
        assert!(linux::is_zombie(id));
        wait(&backend.spawn_with(&SpawnOptions::new(), &mut helper(&["exit", "0"])).unwrap());
        until("it is reaped", || linux::state(id).is_none());
    });
}

/// A guardian cannot be started: the error says what the guardian is for, and nothing is spawned.
#[test]
fn tied_spawn_without_a_guardian_is_an_error() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_socketpair, libc::EPERM)]);
    let mut options = SpawnOptions::new();
    options.tree(true).kill_with_parent(true);
    let error = options.spawn(&mut Command::new("/no/such/program")).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("when this process dies"), "{error}");
    assert_eq!(linux::children(), [] as [u32; 0]);
}

/// The kernel does not support a signal at the parent's death.
#[test]
fn tied_spawn_without_a_death_signal_is_unsupported() {
    alone!();
    watchdog!();
    let pdeathsig = When::Is(0, libc::PR_SET_PDEATHSIG as u32);
    deny(&[Deny { call: libc::SYS_prctl, when: pdeathsig, errno: libc::ENOSYS }]);
    let mut options = SpawnOptions::new();
    let error =
        options.kill_with_parent(true).spawn(&mut helper(&["sleep"])).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(linux::children(), [] as [u32; 0]);
}

/// The ways in which a handle ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Dropped,
    GivenUp,
    Killed,
    ReapedElsewhere,
}

impl End {
    const ALL: [Self; 4] = [Self::Dropped, Self::GivenUp, Self::Killed, Self::ReapedElsewhere];

    fn apply(self, child: SharedChild) {
        match self {
            Self::Dropped => {}
            Self::GivenUp => drop(child.into_inner()),
            // Fails without descriptors.
            Self::Killed => drop(child.tree().expect("a tree").kill()),
            Self::ReapedElsewhere => {
                child.kill().unwrap();
                linux::reap(child.id());
            }
        }
    }
}

/// Neither the cgroup stays, nor a member that is to be killed.
fn drop_cgroup(end: End, tie: bool, kill: bool, full: bool) {
    let case = format!("{end:?}, tie: {tie}, kill: {kill}, full: {full}");
    let line = [start("pid read"), daemon("pid read"), parts("pid read")].concat();
    let options = SpawnOptions::new().kill_on_drop(kill).kill_with_parent(tie).clone();
    let stage = Stage::set_with(Kind::Cgroup, &options, &line, 3);
    let cgroup = linux::tree_cgroup_of(stage.child.id()).expect("a cgroup");
    // Without a descriptor the library cannot find this one, which keeps the one above.
    std::fs::create_dir(cgroup.join("below")).unwrap();
    let Stage { child, mut stdin, pids, .. } = stage;
    let id = child.id();
    let no_descriptors = full.then(NoDescriptors::left);
    end.apply(child);
    if !kill || end == End::GivenUp {
        // The members end while or after the handle is dropped.
        stdin = None;
    }
    if let Some(no_descriptors) = no_descriptors {
        // The background threads meet the lack of descriptors.
        std::thread::sleep(Duration::from_millis(30));
        drop(no_descriptors);
    }
    until(&format!("no member is left: {case}"), || pids.alive().is_empty());
    until(&format!("the cgroup is removed: {case}"), || !cgroup.exists());
    drop(stdin);
    if end == End::GivenUp {
        linux::reap(id);
    }
}

#[test]
fn drop_removes_the_cgroup_in_every_state() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    for _ in 0..rounds(2).max(1) {
        for end in End::ALL {
            for case in 0..8 {
                drop_cgroup(end, case & 1 != 0, case & 2 != 0, case & 4 != 0);
            }
        }
    }
    until("the threads have ended", || {
        let threads = linux::helper_threads();
        !threads.iter().any(|name| ["child-cgroup", "child-tree"].contains(&name.as_str()))
    });
}
