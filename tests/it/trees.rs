//! Promise: `Tree::kill` leaves no survivor; where the platform cannot guarantee that, the tree says so.
//!
//! Each case is a tree whose members try to escape. The test counts them by the process IDs that they print: the system
//! shows which of them live.

#![cfg(unix)]

#[cfg(target_os = "linux")]
use crate::common::stage::daemon;
use crate::common::stage::{FINDS_DAEMONS, Kind, Stage, findable_daemon, given, parts, start};
use crate::common::*;
use shared_child::SpawnOptions;
#[cfg(target_os = "linux")]
use shared_child::linux::SpawnOptionsExt;
#[cfg(target_os = "linux")]
use shared_child::seam::Backend;
#[cfg(target_os = "linux")]
use shared_child::{Containment, Mechanism};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

/// A name, the parts of the leader, and the number of members.
type Case = (&'static str, Vec<String>, usize);

fn cases() -> Vec<Case> {
    // An orphan outside the group is found only where daemons are.
    let outside = || if FINDS_DAEMONS { parts("setsid") } else { Vec::new() };
    let root = || parts("pid read");
    let with = |others: &[Vec<String>]| [&others.concat()[..], &root()].concat();
    vec![
        ("the leader alone", root(), 1),
        ("children", with(&[start("pid read"), start("pid read"), start("pid read")]), 4),
        (
            "grandchildren",
            with(&[given("spawn", &with(&[given("spawn", &with(&[start("pid read")]))]))]),
            4,
        ),
        ("a member that ignores SIGTERM", with(&[start("ignore TERM pid read")]), 2),
        ("a member that is stopped", with(&[start("pid signal STOP read")]), 2),
        ("a group of its own", with(&[start("own-group pid read")]), 2),
        ("a session of its own", with(&[start("setsid pid read")]), 2),
        (
            "a session of its own, with children in theirs",
            with(&[given(
                "spawn",
                &[parts("setsid pid"), start("setsid pid read"), parts("read")].concat(),
            )]),
            3,
        ),
        ("an empty environment", with(&[start("bare pid read")]), 2),
        ("an empty environment in a session of its own", with(&[start("setsid bare pid read")]), 2),
        ("a daemon", with(&[findable_daemon("pid read")]), 2),
        ("a daemon with children", with(&[findable_daemon("pid spawn 2 pid read read")]), 3),
        (
            "a daemon's daemon",
            with(&[given("run", &[outside(), findable_daemon("pid read")].concat())]),
            2,
        ),
        ("zombies", with(&[start("exit 0"), start("exit 1"), start("pid read")]), 2),
        (
            "a tree inside",
            with(&[given(
                "owner tree-loose",
                &[findable_daemon("pid read"), start("setsid pid read"), root()].concat(),
            )]),
            4,
        ),
    ]
}

fn play(test: &str, cases: impl Fn() -> Vec<Case>, run: impl Fn(Stage)) {
    for kind in Kind::all(test) {
        for (name, parts, members) in cases() {
            eprintln!("{kind:?}: {name}");
            run(Stage::set(kind, &parts, members));
        }
    }
}

#[test]
fn kill_leaves_no_survivor() {
    watchdog!();
    play(function_name!(), cases, |stage| {
        assert!(!stage.tree().is_empty().unwrap());
        // Members that exit need not be zombies yet.
        let members: BTreeSet<u32> = stage.pids.0.iter().copied().collect();
        until("exactly the members are listed", || {
            stage.tree().processes().unwrap().into_iter().collect::<BTreeSet<u32>>() == members
        });
        stage.tree().kill().unwrap();
        stage.is_empty();
        assert!(!wait(&stage.child).success());
        // A second kill, of an empty tree.
        stage.tree().kill().unwrap();
    });
}

/// The leader has exited and was reaped; its tree still has members.
#[test]
fn kill_ends_a_tree_whose_leader_has_exited() {
    watchdog!();
    let cases = || {
        let mut cases = vec![
            ("children", [start("pid read"), start("pid read"), parts("exit 7")].concat(), 2),
            ("a session", [start("setsid pid read"), parts("exit 7")].concat(), 1),
            ("a daemon", [findable_daemon("pid read"), parts("exit 7")].concat(), 1),
        ];
        cases.retain(|(name, ..)| FINDS_DAEMONS || *name != "a session");
        cases
    };
    play(function_name!(), cases, |stage| {
        assert_eq!(wait(&stage.child).code(), Some(7));
        assert_eq!(stage.child.try_wait().unwrap().unwrap().code(), Some(7));
        assert!(!stage.tree().is_empty().unwrap());
        assert_eq!(stage.survivors().len(), stage.pids.0.len());
        stage.child.kill().unwrap(); // Kills the leader alone.
        stage.tree().kill().unwrap();
        stage.is_empty();
        assert_eq!(wait(&stage.child).code(), Some(7));
        assert_eq!(unix::state(stage.child.id()), None, "an empty tree has no zombie");
    });
}

#[test]
fn wait_empty_returns_when_the_tree_ends_by_itself() {
    watchdog!();
    let cases = || {
        vec![("all", [start("pid read"), findable_daemon("pid read"), parts("pid")].concat(), 3)]
    };
    play(function_name!(), cases, |mut stage| {
        assert!(wait(&stage.child).success());
        let soon = Instant::now() + std::time::Duration::from_millis(20);
        assert!(!stage.tree().wait_empty(Some(soon)).unwrap());
        assert!(Instant::now() >= soon);
        let stdin = stage.stdin.take();
        std::thread::scope(|scope| {
            let waiters = [(); 3].map(|()| scope.spawn(|| stage.tree().wait_empty(None).unwrap()));
            drop(stdin);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        stage.is_empty();
    });
}

#[test]
fn kill_ends_background_jobs_of_a_shell() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut shell = Command::new("sh");
        let script = r#"exec 3<&0; "$0" pid read <&3 & ("$0" pid read <&3 &); exec "$0" pid read"#;
        shell.args(["-c", script]).arg(HELPER);
        let stage = Stage::of(|command| kind.spawn(&SpawnOptions::new(), command), &mut shell, 3);
        stage.tree().kill().unwrap();
        stage.is_empty();
    }
}

/// The tree forks while it is killed.
#[cfg(target_os = "linux")]
#[test]
fn kill_ends_a_tree_that_forks_steadily() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for (how, many) in [("in", 10), ("out", 10), ("in-hop", 1), ("out-hop", 1)] {
            for _ in 0..rounds(2).max(1) {
                eprintln!("{kind:?}: {how}");
                let word = format!("word-{}-{how}", std::process::id());
                let mut stage =
                    Stage::set(kind, &parts(&format!("pid say {word} fork-steadily {how}")), 1);
                stage.hear(&word);
                // A chain of short-lived processes is hardly ever listed.
                until("they fork", || many == 1 || linux::processes_with(&word).len() >= many);
                stage.tree().kill().unwrap();
                stage.wait_empty();
                assert_eq!(linux::processes_with(&word), [] as [u32; 0], "survivors");
                let rest = std::io::read_to_string(&mut stage.said).unwrap();
                assert!(!rest.contains("over"), "it has ended by itself");
            }
        }
    }
}

/// A member may be outside the group when the group is signalled, and inside when the members are listed again.
#[cfg(target_os = "linux")]
#[test]
fn kill_ends_members_that_leave_the_group_and_return() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for round in 0..rounds(30).max(3) {
            let hoppers = [start("pid hop-groups"), start("pid hop-groups")].concat();
            // In every other round one member has an empty environment.
            let bare = [parts("spawn 3 bare pid hop-groups"), hoppers.clone()].concat();
            let members = if round % 2 == 0 { 2 } else { 3 };
            let hoppers = if round % 2 == 0 { hoppers } else { bare };
            let mut stage = Stage::set(kind, &[hoppers, parts("read")].concat(), members);
            if round % 4 == 0 {
                stage.stdin = None;
                wait(&stage.child);
            }
            // The start time, in units of 10 ms, distinguishes a process from the next owner of its ID.
            std::thread::sleep(std::time::Duration::from_millis(if members == 3 { 50 } else { 0 }));
            assert!(!stage.tree().is_empty().unwrap());
            stage.tree().kill().unwrap();
            stage.is_empty();
        }
    }
}

/// During an exec a process shows no environment; and a large environment must not be read half before the exec and half
/// after it.
#[cfg(target_os = "linux")]
#[test]
fn kill_ends_a_member_that_executes_steadily() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for round in 0..rounds(10).max(2) {
            let line = [daemon("pid exec-steadily 50000 say over"), parts("pid read")].concat();
            let mut command = helper(&line);
            if round % 2 == 1 {
                // Before the marker: variables are in the order of their names.
                command.env("A", "x".repeat(100_000));
            }
            let spawn = |command: &mut Command| kind.spawn(&SpawnOptions::new(), command);
            let mut stage = Stage::of(spawn, &mut command, 2);
            stage.tree().kill().unwrap();
            stage.is_empty();
            let rest = std::io::read_to_string(&mut stage.said).unwrap();
            assert!(!rest.contains("over"), "it has ended by itself");
        }
    }
}

/// The process continues in other threads, which alone show its environment.
#[cfg(target_os = "linux")]
#[test]
fn kill_finds_a_daemon_whose_first_thread_has_ended() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let line = [daemon("thread pid read"), parts("pid read")].concat();
        let mut stage = Stage::set(kind, &line, 2);
        let daemon = stage.pids.0.iter().copied().find(|id| *id != stage.child.id()).unwrap();
        until("its first thread has ended", || unix::is_zombie(daemon));
        assert!(stage.tree().processes().unwrap().contains(&daemon));
        stage.tree().kill().unwrap();
        stage.wait_empty();
        // No process has the pipe open any more.
        assert_eq!(std::io::read_to_string(&mut stage.said).unwrap(), "");
    }
}

/// The one exception, as `Containment` reports: without a cgroup, the library does not find a process outside the
/// group that has neither a parent nor an environment.
#[cfg(target_os = "linux")]
#[test]
fn unfindable_daemon_survives_and_containment_is_best_effort() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut stage = Stage::set(kind, &[daemon("bare pid read"), parts("pid read")].concat(), 2);
        let containment = stage.tree().containment();
        stage.tree().kill().unwrap();
        stage.wait_empty();
        wait(&stage.child);
        if kind == Kind::Cgroup {
            // The child has the credentials of this process, which has made the cgroup.
            assert_eq!(containment, Containment::BestEffort { by: Mechanism::Cgroup });
            stage.is_empty();
        } else {
            let by = Mechanism::ProcessGroupAndScan;
            assert_eq!(containment, Containment::BestEffort { by });
            assert!(!containment.is_complete());
            assert_eq!(stage.survivors().len(), 1, "it was found: correct the documentation");
        }
        stage.stdin = None;
        stage.until_all_have_ended();
    }
}

#[test]
fn kill_of_an_inner_tree_spares_the_outer_one() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let outer = Stage::set(kind, &parts("pid read"), 1);
        let inner = Stage::set(kind, &[findable_daemon("pid read"), parts("pid read")].concat(), 2);
        inner.tree().kill().unwrap();
        inner.is_empty();
        assert_eq!(outer.survivors(), outer.pids.0);
        // A member that kills an inner tree of its own stays alive.
        let line =
            [given("owner tree-loose", &parts("pid sleep")), parts("pid hear kill-owned read")];
        let mut stage = Stage::set(kind, &line.concat(), 2);
        let (leader, inside): (Vec<u32>, Vec<u32>) =
            stage.pids.0.iter().partition(|pid| **pid == stage.child.id());
        std::io::Write::write_all(stage.stdin.as_mut().unwrap(), b"now\n").unwrap();
        until("the inner tree has ended", || !unix::is_alive(inside[0]));
        assert!(unix::is_alive(leader[0]));
        stage.stdin = None;
        assert!(wait(&stage.child).success());
    }
}

/// Kills, waits and signals from several threads, and a foreign reaper.
#[test]
fn kills_waits_and_signals_from_several_threads_succeed() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for _ in 0..rounds(20) {
            let stage =
                Stage::set(kind, &[start("setsid pid read"), parts("pid read")].concat(), 2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| stage.tree().kill().unwrap());
                    scope.spawn(|| stage.wait_empty());
                    scope.spawn(|| wait(&stage.child));
                    scope.spawn(|| stage.tree().processes().unwrap());
                    scope.spawn(|| stage.tree().send_signal(libc::SIGCONT).unwrap());
                }
            });
            stage.is_empty();
        }
    }
}

#[test]
fn signal_reaches_every_member_once() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let member = "report USR1 pid read";
        let all = [
            start(member),
            start(&format!("setsid {member}")),
            findable_daemon(member),
            parts(member),
        ];
        let mut stage = Stage::set(kind, &all.concat(), 4);
        stage.tree().send_signal(libc::SIGUSR1).unwrap();
        for _ in 0..4 {
            assert_eq!(stage.hear("signal "), "USR1");
        }
        stage.tree().send_signal(0).unwrap();
        let error = stage.tree().send_signal(12345).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
        // A second delivery would be printed before this.
        stage.tree().send_signal(libc::SIGSTOP).unwrap();
        until("all are stopped", || stage.pids.0.iter().all(|pid| unix::is_stopped(*pid)));
        stage.tree().send_signal(libc::SIGCONT).unwrap();
        stage.tree().send_signal(libc::SIGTERM).unwrap();
        stage.is_empty();
        let rest: Vec<String> =
            std::io::BufRead::lines(&mut stage.said).map(Result::unwrap).collect();
        assert_eq!(rest, [""; 0]);
    }
}

/// A tree affects neither this process nor other children of the same command.
#[test]
fn trees_of_one_command_are_independent() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let line =
            [start("setsid pid read"), findable_daemon("pid read"), parts("pid read")].concat();
        let mut command = helper(&line);
        let tree = |command: &mut Command| {
            Stage::of(|command| kind.spawn(&SpawnOptions::new(), command), command, 3)
        };
        let plain = |command: &mut Command| {
            Stage::of(|command| shared_child::SharedChild::spawn(command).unwrap(), command, 3)
        };
        let stages =
            [tree(&mut command), plain(&mut command), tree(&mut command), plain(&mut command)];
        for killed in [0, 2] {
            stages[killed].tree().kill().unwrap();
            stages[killed].is_empty();
            for (i, stage) in stages.iter().enumerate() {
                let left = if i % 2 == 0 && i <= killed { 0 } else { 3 };
                assert_eq!(stage.survivors().len(), left, "of stage {i} after {killed}");
            }
        }
        for mut stage in stages {
            stage.stdin = None;
            stage.until_all_have_ended();
        }
    }
}

/// Arguments, environment, directory and streams.
#[test]
fn child_has_the_arguments_environment_and_streams_of_its_command() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo "$1 $A $B $(pwd)"; env"#, "sh", "argument"]);
        command.env_clear().env("A", "a").env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir("/").stdout(std::process::Stdio::piped());
        let child = kind.spawn(&SpawnOptions::new(), &mut command);
        let said = std::io::read_to_string(child.take_stdout().unwrap()).unwrap();
        assert!(said.starts_with("argument a  /\n"), "{said}");
        let markers = said.lines().filter(|line| line.starts_with("SHARED_CHILD_TREE=")).count();
        // Only Linux shows environments.
        let expected = usize::from(cfg!(any(target_os = "linux", target_os = "android")));
        assert_eq!(markers, expected, "{said}");
        assert!(wait(&child).success());
        // A plain spawn of the same command has no marker.
        let child = command.spawn().unwrap();
        let said = child.wait_with_output().unwrap().stdout;
        assert!(!String::from_utf8(said).unwrap().contains("SHARED_CHILD_TREE"));
    }
}

/// This process may have the variable itself.
#[cfg(target_os = "linux")]
#[test]
fn marker_is_added_to_the_variable_of_the_command() {
    alone!(&["env", "SHARED_CHILD_TREE=outer"]);
    watchdog!();
    let said = |child: shared_child::SharedChild| {
        let said = std::io::read_to_string(child.take_stdout().unwrap()).unwrap();
        assert!(wait(&child).success());
        let value = said.lines().find_map(|line| line.strip_prefix("SHARED_CHILD_TREE="));
        value.map(str::to_owned)
    };
    type Say = fn(&mut Command);
    let cases: [(Say, Option<&str>, &str); 3] = [
        (|_| (), Some("outer"), "outer,"),
        (|command| _ = command.env_remove("SHARED_CHILD_TREE"), None, "outer,"),
        (|command| _ = command.env("SHARED_CHILD_TREE", "own"), Some("own"), "outer,own,"),
    ];
    for (say, plain, in_a_tree) in cases {
        let mut command = Command::new("env");
        say(command.stdout(std::process::Stdio::piped()));
        for _ in 0..2 {
            let child = SpawnOptions::new().tree(true).spawn(&mut command).unwrap();
            assert!(said(child).unwrap().starts_with(in_a_tree));
            let child = shared_child::SharedChild::spawn(&mut command).unwrap();
            assert_eq!(said(child).as_deref(), plain);
        }
    }
}

/// An unprivileged program lacks permission to kill a process of another user. The error names the process.
#[cfg(target_os = "linux")]
#[test]
fn kill_reports_a_member_of_another_user_and_kills_the_rest() {
    alone!();
    watchdog!();
    if !unix::is_root() {
        eprintln!("{} skipped: this requires root", function_name!());
        return;
    }
    for backend in Backend::ALL {
        let all =
            [start("pid read"), start("pid read"), start("setsid pid read"), parts("pid read")];
        let mut stage = Stage::set(Kind::Group(*backend), &all.concat(), 4);
        linux::without_root(|| {
            let error = stage.tree().kill().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(
                stage.pids.0.iter().any(|pid| error.to_string().contains(&pid.to_string())),
                "{error}"
            );
        });
        assert_eq!(stage.survivors().len(), 4);
        stage.tree().kill().unwrap();
        stage.is_empty();
        stage.stdin = None;
    }
}

#[test]
fn child_of_a_tree_leads_a_process_group() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut stage = Stage::set(kind, &parts("pid read"), 1);
        let id = unix::pid_t(stage.child.id());
        // SAFETY: integers.
        assert_eq!(unsafe { libc::getpgid(id) }, id);
        stage.stdin = None;
        stage.is_empty();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn cgroup_is_removed_when_it_is_empty() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let parent = linux::own_cgroup();
    let made = || {
        let all = std::fs::read_dir(&parent).unwrap().flatten();
        all.filter(|entry| {
            // Other processes create and remove theirs meanwhile.
            let mine = format!("shared_child-{:x}-", std::process::id());
            entry.file_name().to_string_lossy().starts_with(&mine)
        })
        .count()
    };
    assert_eq!(made(), 0);
    let set = || {
        let stage = Stage::set(Kind::Cgroup, &[daemon("pid read"), parts("pid read")].concat(), 2);
        assert_eq!(made(), 1);
        stage
    };
    // The cgroup is removed once it is empty, although the handle exists.
    let mut stage = set();
    stage.tree().kill().unwrap();
    stage.is_empty();
    assert_eq!(made(), 0);
    drop(stage);
    // Members have created cgroups inside.
    stage = set();
    let own = std::fs::read_dir(&parent).unwrap().flatten().map(|entry| entry.path());
    let own =
        own.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("shared_child-"));
    let own: Vec<_> = own
        .filter(|path| path.to_string_lossy().contains(&format!("-{:x}-", std::process::id())))
        .collect();
    let below = own[0].join("a").join("b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), stage.pids.0[0].to_string()).unwrap();
    let listed: BTreeSet<u32> = stage.tree().processes().unwrap().into_iter().collect();
    assert_eq!(listed, stage.pids.0.iter().copied().collect());
    stage.tree().kill().unwrap();
    stage.is_empty();
    assert_eq!(made(), 0);
    // A drop without a kill removes the cgroup when the members have ended.
    let Stage { child, stdin, .. } = &mut set();
    let child = std::mem::replace(
        child,
        shared_child::SharedChild::spawn(&mut helper(&["exit", "0"])).unwrap(),
    );
    drop(child);
    assert_eq!(made(), 1);
    *stdin = None;
    until("it is removed", || made() == 0);
    // A failed spawn removes the cgroup.
    let mut command = Command::new("/no/such/program");
    let error = SpawnOptions::new().cgroup(true).spawn(&mut command).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(made(), 0);
    until("no threads", || unix::helper_threads().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn spawn_reports_where_a_cgroup_cannot_be_made() {
    alone!();
    watchdog!();
    let spawn = |directory: &str| {
        let child = SpawnOptions::new().cgroup_parent(directory).spawn(&mut helper(&["exit", "0"]));
        child.expect_err("it cannot be made").to_string()
    };
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cgroup");
    std::fs::create_dir_all(&directory).unwrap();
    let error = spawn(directory.to_str().unwrap());
    assert!(error.contains("not on a cgroup v2 file system"), "{error}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "a cgroup is left");
    let error = spawn("/no/such/directory");
    assert!(error.contains("below /no/such/directory: "), "{error}");
    let odd = directory.join("line\nbreak");
    std::fs::create_dir_all(&odd).unwrap();
    let error = spawn(odd.to_str().unwrap());
    assert!(error.contains("line break"), "{error}");
    std::fs::remove_dir(&odd).unwrap();
    if unix::is_root() {
        linux::without_root(|| {
            let error =
                SpawnOptions::new().cgroup(true).spawn(&mut helper(&["exit", "0"])).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("delegated"), "{error}");
        });
    }
    std::fs::remove_dir(&directory).unwrap();
}

/// The descriptor by which the child enters its cgroup must not become a standard stream of the child.
#[cfg(target_os = "linux")]
#[test]
fn cgroup_spawn_works_with_closed_standard_streams() {
    use std::os::fd::{FromRawFd, OwnedFd};
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    // SAFETY: std alone uses the stream, and treats a closed one as empty.
    drop(unsafe { OwnedFd::from_raw_fd(0) });
    let mut stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
    assert_eq!(stage.tree().processes().unwrap(), stage.pids.0);
    stage.stdin = None;
    stage.is_empty();
}

/// A fork of this process during the spawn holds copies of all descriptors.
#[cfg(target_os = "linux")]
#[test]
fn failed_spawn_into_a_cgroup_does_not_wait_for_a_fork() {
    use std::os::fd::AsRawFd;
    use std::os::unix::{net::UnixStream, process::CommandExt};
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (our_end, their_end) = (ours.as_raw_fd(), theirs.as_raw_fd());
    let mut command = Command::new("/no/such/program");
    // SAFETY: these are system calls that take integers, and a byte that outlives the call.
    unsafe {
        command.pre_exec(move || {
            if libc::fork() == 0 {
                libc::alarm(2 * LONG.as_secs() as u32);
                libc::close(our_end);
                libc::read(their_end, [0_u8].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
            Ok(())
        });
    }
    let before = Instant::now();
    let error = SpawnOptions::new().cgroup(true).spawn(&mut command).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(before.elapsed() < LONG);
    drop(ours);
}

/// The error names the cgroup, and does not look like an error of the exec.
#[cfg(target_os = "linux")]
#[test]
fn spawn_reports_a_cgroup_that_cannot_be_entered() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    // A limit of 0 forbids forks, but an enter is no fork. A threaded cgroup beside it makes it invalid.
    let parent = linux::own_cgroup().join(format!("test-{}", std::process::id()));
    std::fs::create_dir(&parent).unwrap();
    let threaded = parent.join("threaded");
    std::fs::create_dir(&threaded).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    std::fs::write(parent.join("cgroup.subtree_control"), "").unwrap();
    let mut command = helper(&["exit", "0"]);
    let error = SpawnOptions::new().cgroup_parent(&threaded).spawn(&mut command).map(|_| ());
    let left = std::fs::read_dir(&threaded).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    let error = error.expect_err("it is of an invalid type").to_string();
    assert!(error.contains("cannot enter its cgroup"), "{error}");
    std::fs::remove_dir(&threaded).unwrap();
    std::fs::remove_dir(&parent).unwrap();
    // The command is usable again.
    assert!(command.spawn().unwrap().wait().unwrap().success());
}
