//! Promise: `Tree::kill` leaves no survivor; where the platform cannot guarantee that, the tree says so.
//!
//! The escape suite. Each case is a tree whose members do what they can to get away. They are counted from
//! outside: every member says which process it is, and the system shows whether it lives.

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

/// A name, the parts that are played, and how many members there are.
type Case = (&'static str, Vec<String>, usize);

fn cases() -> Vec<Case> {
    // Its child loses its parent, and is found outside the group only where daemons are.
    let outside = || if FINDS_DAEMONS { parts("setsid") } else { Vec::new() };
    let root = || parts("pid read");
    let with = |others: &[Vec<String>]| [&others.concat()[..], &root()].concat();
    vec![
        ("nobody else", root(), 1),
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
fn a_kill_leaves_no_survivor() {
    watchdog!();
    play(function_name!(), cases, |stage| {
        assert!(!stage.tree().is_empty().unwrap());
        // Those who are to be zombies may not be so far.
        let cast: BTreeSet<u32> = stage.pids.0.iter().copied().collect();
        until("all are listed, and nobody else", || {
            stage.tree().processes().unwrap().into_iter().collect::<BTreeSet<u32>>() == cast
        });
        stage.tree().kill().unwrap();
        stage.is_empty();
        assert!(!wait(&stage.child).success());
        // And again, when there is nobody.
        stage.tree().kill().unwrap();
    });
}

/// The leader is gone, and was waited for; its tree is still a tree.
#[test]
fn a_leader_that_exits_first() {
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
        stage.child.kill().unwrap(); // which is about the leader
        stage.tree().kill().unwrap();
        stage.is_empty();
        assert_eq!(wait(&stage.child).code(), Some(7));
        assert_eq!(unix::state(stage.child.id()), None, "an empty tree has no zombie");
    });
}

/// And it ends by itself.
#[test]
fn a_tree_that_ends_by_itself() {
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
fn background_jobs_of_a_shell() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut shell = Command::new("sh");
        let script = r#"exec 3<&0; "$0" pid read <&3 & ("$0" pid read <&3 &); exec "$0" pid read"#;
        shell.args(["-c", script]).arg(helper(&[]).get_program());
        let stage = Stage::of(|command| kind.spawn(&SpawnOptions::new(), command), &mut shell, 3);
        stage.tree().kill().unwrap();
        stage.is_empty();
    }
}

/// Everybody with this word among its arguments.
#[cfg(target_os = "linux")]
fn with_word(word: &str) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
            && unix::is_alive(*id)
    })
    .collect()
}

/// A tree that forks while it is killed.
#[cfg(target_os = "linux")]
#[test]
fn those_who_fork_steadily() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for (how, many) in [("in", 10), ("out", 10), ("in-hop", 1), ("out-hop", 1)] {
            for _ in 0..rounds(2).max(1) {
                eprintln!("{kind:?}: {how}");
                let word = format!("word-{}-{how}", std::process::id());
                let mut stage =
                    Stage::set(kind, &parts(&format!("pid say {word} fork-steadily {how}")), 1);
                stage.hear(&word);
                // (One who hops is hardly ever caught in the act.)
                until("they are at it", || many == 1 || with_word(&word).len() >= many);
                stage.tree().kill().unwrap();
                stage.wait_empty();
                assert_eq!(with_word(&word), [] as [u32; 0], "survivors");
                let rest = std::io::read_to_string(&mut stage.said).unwrap();
                assert!(!rest.contains("over"), "it has ended by itself");
            }
        }
    }
}

/// Who was seen in the group may be elsewhere when that is signalled, and back when it is looked at again.
#[cfg(target_os = "linux")]
#[test]
fn those_who_leave_the_group_and_come_back() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for round in 0..rounds(30).max(3) {
            let hoppers = [start("pid hop-groups"), start("pid hop-groups")].concat();
            // In every other round with one whose environment says nothing.
            let bare = [parts("spawn 3 bare pid hop-groups"), hoppers.clone()].concat();
            let members = if round % 2 == 0 { 2 } else { 3 };
            let cast = if round % 2 == 0 { hoppers } else { bare };
            let mut stage = Stage::set(kind, &[cast, parts("read")].concat(), members);
            if round % 4 == 0 {
                stage.stdin = None;
                wait(&stage.child);
            }
            // It must be told from the next owner of its ID, by its age.
            std::thread::sleep(std::time::Duration::from_millis(if members == 3 { 50 } else { 0 }));
            assert!(!stage.tree().is_empty().unwrap());
            stage.tree().kill().unwrap();
            stage.is_empty();
        }
    }
}

/// In the middle of an exec a process shows no environment; and what shows a large one must not be read half
/// before and half after.
#[cfg(target_os = "linux")]
#[test]
fn those_who_exec_steadily() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for round in 0..rounds(10).max(2) {
            let line = [daemon("pid exec-steadily 50000 say over"), parts("pid read")].concat();
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let mut command = helper(&line);
            if round % 2 == 1 {
                // Before the cookie: they are in the order of their names.
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

/// The process goes on in other threads, and it is these that know its environment.
#[cfg(target_os = "linux")]
#[test]
fn a_daemon_whose_first_thread_has_ended() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let line = [daemon("thread pid read"), parts("pid read")].concat();
        let mut stage = Stage::set(kind, &line, 2);
        let daemon = stage.pids.0.iter().copied().find(|id| *id != stage.child.id()).unwrap();
        until("its first thread has ended", || unix::is_zombie(daemon));
        assert!(stage.tree().processes().unwrap().contains(&daemon));
        stage.tree().kill().unwrap();
        stage.wait_empty();
        // Nobody has the pipe any more.
        assert_eq!(std::io::read_to_string(&mut stage.said).unwrap(), "");
    }
}

/// The one exception: who leaves the group, has no parent left, and empties the environment is not found
/// without a cgroup. The tree admits that it is not tight.
#[cfg(target_os = "linux")]
#[test]
fn the_known_limit() {
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
            assert_eq!(stage.survivors().len(), 1, "found after all? then say so");
        }
        stage.stdin = None;
        stage.until_nobody_is_left();
    }
}

/// The inner tree's end is not the outer's.
#[test]
fn a_kill_of_the_inner_tree_spares_the_outer() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let outer = Stage::set(kind, &parts("pid read"), 1);
        let inner = Stage::set(kind, &[findable_daemon("pid read"), parts("pid read")].concat(), 2);
        inner.tree().kill().unwrap();
        inner.is_empty();
        assert_eq!(outer.survivors(), outer.pids.0);
        // And whoever has an inner tree of their own loses only that.
        let line =
            [given("owner tree-loose", &parts("pid sleep")), parts("pid hear kill-owned read")];
        let mut stage = Stage::set(kind, &line.concat(), 2);
        let (leader, inside): (Vec<u32>, Vec<u32>) =
            stage.pids.0.iter().partition(|pid| **pid == stage.child.id());
        std::io::Write::write_all(stage.stdin.as_mut().unwrap(), b"now\n").unwrap();
        until("the inner one is dead", || !unix::is_alive(inside[0]));
        assert!(unix::is_alive(leader[0]));
        stage.stdin = None;
        assert!(wait(&stage.child).success());
    }
}

/// Kills, waits and signals from several threads, and a foreign reaper.
#[test]
fn from_several_threads() {
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
fn signals_reach_everybody_once() {
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
        // Whatever was sent twice would be said before this.
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

/// What is not of the tree is not touched by it: not this process, not other children of the same command.
#[test]
fn one_command_for_several_trees() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let line =
            [start("setsid pid read"), findable_daemon("pid read"), parts("pid read")].concat();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
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
            stage.until_nobody_is_left();
        }
    }
}

/// The child has the arguments, the environment, the directory and the streams that the command says.
#[test]
fn the_command_is_what_it_was() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo "$1 $A $B $(pwd)"; env"#, "sh", "argument"]);
        command.env_clear().env("A", "a").env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir("/").stdout(std::process::Stdio::piped());
        let child = kind.spawn(&SpawnOptions::new(), &mut command);
        let said = std::io::read_to_string(child.take_stdout().unwrap()).unwrap();
        assert!(said.starts_with("argument a  /\n"), "{said}");
        let cookies = said.lines().filter(|line| line.starts_with("SHARED_CHILD_TREE=")).count();
        // Only Linux shows environments.
        let expected = usize::from(cfg!(any(target_os = "linux", target_os = "android")));
        assert_eq!(cookies, expected, "{said}");
        assert!(wait(&child).success());
        // And a plain one afterwards.
        let child = command.spawn().unwrap();
        let said = child.wait_with_output().unwrap().stdout;
        assert!(!String::from_utf8(said).unwrap().contains("SHARED_CHILD_TREE"));
    }
}

/// Of the variable, too, which this process may have itself.
#[cfg(target_os = "linux")]
#[test]
fn what_the_command_says_of_the_variable() {
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

/// Somebody else's user, whom an unprivileged program may not kill. All the others are killed, and the error
/// says who is left.
#[cfg(target_os = "linux")]
#[test]
fn a_member_of_another_user() {
    alone!();
    watchdog!();
    if !unix::is_root() {
        eprintln!("{} skipped: this takes root", function_name!());
        return;
    }
    for backend in Backend::ALL {
        let all =
            [start("pid read"), start("pid read"), start("setsid pid read"), parts("pid read")];
        let mut stage = Stage::set(Kind::Group(*backend), &all.concat(), 4);
        linux::as_nobody(|| {
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
fn a_tree_leads_a_group_of_its_own() {
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
fn cgroups_are_removed() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let parent = linux::own_cgroup();
    let made = || {
        let all = std::fs::read_dir(&parent).unwrap().flatten();
        all.filter(|entry| {
            // Those of other processes come and go.
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
    // Once it is empty, though the handle is there.
    let mut stage = set();
    stage.tree().kill().unwrap();
    stage.is_empty();
    assert_eq!(made(), 0);
    drop(stage);
    // Members have made some of their own.
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
    // After a drop that lets all live, when they have ended.
    let Stage { child, stdin, .. } = &mut set();
    let child = std::mem::replace(
        child,
        shared_child::SharedChild::spawn(&mut helper(&["exit", "0"])).unwrap(),
    );
    drop(child);
    assert_eq!(made(), 1);
    *stdin = None;
    until("it is removed", || made() == 0);
    // After a spawn that failed.
    let mut command = Command::new("/no/such/program");
    let error = SpawnOptions::new().cgroup(true).spawn(&mut command).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(made(), 0);
    until("no threads", || unix::helper_threads().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn where_no_cgroup_can_be_made() {
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
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "something is left behind");
    let error = spawn("/no/such/directory");
    assert!(error.contains("below /no/such/directory: "), "{error}");
    let odd = directory.join("line\nbreak");
    std::fs::create_dir_all(&odd).unwrap();
    let error = spawn(odd.to_str().unwrap());
    assert!(error.contains("line break"), "{error}");
    std::fs::remove_dir(&odd).unwrap();
    if unix::is_root() {
        linux::as_nobody(|| {
            let error =
                SpawnOptions::new().cgroup(true).spawn(&mut helper(&["exit", "0"])).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("delegated"), "{error}");
        });
    }
    std::fs::remove_dir(&directory).unwrap();
}

/// The descriptor that the child enters its cgroup by is not one that becomes a standard stream of the child's.
#[cfg(target_os = "linux")]
#[test]
fn a_cgroup_with_standard_streams_closed() {
    use std::os::fd::{FromRawFd, OwnedFd};
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    // SAFETY: nothing uses it but std, which takes a closed one for an empty one.
    drop(unsafe { OwnedFd::from_raw_fd(0) });
    let mut stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
    assert_eq!(stage.tree().processes().unwrap(), stage.pids.0);
    stage.stdin = None;
    stage.is_empty();
}

/// A fork of this process, made while it spawns, holds copies of all that is open.
#[cfg(target_os = "linux")]
#[test]
fn a_failed_spawn_into_a_cgroup_waits_for_nobody() {
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

/// A cgroup that the child cannot enter: the error says so, and is not taken for one of the program's.
#[cfg(target_os = "linux")]
#[test]
fn a_cgroup_that_cannot_be_entered() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    // With its limit at 0, nobody may be forked in it; but to enter it is no fork. A threaded one next to
    // it makes it invalid, however.
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
    // The command is as good as new.
    assert!(command.spawn().unwrap().wait().unwrap().success());
}
