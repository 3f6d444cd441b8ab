//! Promise: the guardian kills the processes tied to their parent whatever the parent's environment, limits and
//! descriptors are; kills no other process; and leaves no trace in the program.

#![cfg(target_os = "linux")]

use crate::common::linux::{guardian_of, guardians_of, is_guardian, status};
use crate::common::stage::{Helpers, Stage, daemon, given, parts, tied_kinds};
use crate::common::*;
use shared_child::{SharedChild, SpawnOptions};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Starts the parent that is killed later.
fn parent_by(command: &mut Command, members: usize) -> Stage {
    Stage::of(|command| SharedChild::spawn(command).unwrap(), command, members)
}

fn command(line: &[Vec<String>]) -> Command {
    helper(&line.concat())
}

fn parent(line: &[Vec<String>], members: usize) -> Stage {
    Stage::single(&line.concat(), members)
}

/// A daemon, whose parents have exited, and the leader.
fn tree() -> Vec<String> {
    [daemon("pid read"), parts("pid read")].concat()
}

fn owner(kind: &str) -> Vec<String> {
    given(&format!("owner {kind}"), &tree())
}

fn until_ended(guardian: u32) {
    until("the guardian has ended", || !linux::is_alive(guardian));
}

#[track_caller]
fn all_die(parent: &Stage) {
    let guardian = guardian_of(parent.child.id());
    kill_and_wait(&parent.child);
    until("they are dead", || parent.survivors().is_empty());
    until_ended(guardian);
}

fn signal(id: u32, signal: i32) {
    // SAFETY: integers; the process is a child of a helper program that lives.
    assert_eq!(unsafe { libc::kill(linux::pid_t(id), signal) }, 0);
}

#[test]
fn guardian_kills_with_an_empty_or_shadowed_path() {
    watchdog!();
    let name = format!("guardian-path-{}", std::process::id());
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    let ran = directory.join("ran");
    for name in ["grep", "find", "kill", "cat", "rmdir", "sleep", "sh"] {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = fs::OpenOptions::new();
        let mut file =
            file.write(true).create(true).mode(0o755).open(directory.join(name)).unwrap();
        write!(file, "#!/bin/sh\n: >'{}'\n", ran.display()).unwrap();
    }
    for kind in tied_kinds(function_name!()) {
        for path in ["", directory.to_str().unwrap()] {
            let line = [owner(kind), parts("read")];
            let parent = parent_by(command(&line).env("PATH", path), 2);
            all_die(&parent);
            assert!(!ran.exists(), "a program was run by its name");
        }
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// Process IDs in that `/proc` name other processes.
#[test]
fn guardian_with_the_proc_of_another_namespace_kills_no_other_process() {
    const INNER: &str = "SHARED_CHILD_TEST_INNER";
    in_a_namespace!();
    if std::env::var_os(INNER).is_some() {
        return in_the_inner_namespace();
    }
    // The IDs in use outside are then free inside.
    fs::write("/proc/sys/kernel/ns_last_pid", "5000").unwrap();
    let mut inner = Command::new("unshare");
    inner.args(["--fork", "--pid", "--kill-child"]).arg(std::env::current_exe().unwrap());
    inner.args(["--exact", function_name!(), "--nocapture", "--test-threads", "1"]);
    assert!(inner.env(INNER, "1").status().unwrap().success());
}

fn in_the_inner_namespace() {
    let mut parent = command(&[owner("tree"), parts("read")]);
    let mut parent = parent.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(parent.stdout.take().unwrap());
    let pids = said.lines().filter_map(|line| line.unwrap().strip_prefix("pid ")?.parse().ok());
    let members: Vec<u32> = pids.take(2).collect();
    // "NSpid: OUTER INNER".
    let inner = |id: u32| -> Option<u32> {
        let status = status(id);
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        numbers.split_whitespace().nth(1)?.parse().ok()
    };
    let is_inner = |id: &u32| is_guardian(*id) && inner(*id).is_some();
    until("there is a guardian", || linux::processes().any(|id| is_inner(&id)));
    let guardian = linux::processes().find(is_inner).expect("it lives");
    let outer = members.iter().map(|member| {
        let outer = linux::processes().find(|id| inner(*id) == Some(*member)).expect("it lives");
        assert!(outer > 5000);
        outer
    });
    let mut victims: Vec<_> = outer
        .map(|outer| {
            loop {
                fs::write("/proc/sys/kernel/ns_last_pid", (outer - 1).to_string()).unwrap();
                let mut victim = stoppable_command(77).process_group(0).spawn().unwrap();
                if victim.id() == outer {
                    return victim;
                }
                victim.kill().unwrap();
                victim.wait().unwrap();
            }
        })
        .collect();
    parent.kill().unwrap();
    parent.wait().unwrap();
    until_ended(guardian);
    for victim in &mut victims {
        drop(victim.stdin.take());
        assert_eq!(victim.wait().unwrap().code(), Some(77));
    }
}

/// A parent whose limit on processes is in force. The limit does not apply to root.
fn limited_parent(line: &[Vec<String>], members: usize) -> Stage {
    let mut command = command(line);
    if linux::is_root() {
        command.uid(65534).gid(65534);
    }
    parent_by(&mut command, members)
}

fn limit_processes(id: u32, limits: &str) {
    let mut prlimit = Command::new("prlimit");
    if linux::is_root() {
        prlimit.uid(65534).gid(65534);
    }
    prlimit.arg(format!("--nproc={limits}")).args(["--pid", &id.to_string()]);
    assert!(prlimit.status().unwrap().success());
}

#[test]
fn guardian_that_cannot_be_replaced_at_once_is_replaced_later() {
    watchdog!();
    let parent = limited_parent(&[owner("tree"), parts("read")], 2);
    let id = parent.child.id();
    let first = guardian_of(id);
    limit_processes(id, "0:");
    signal(first, libc::SIGKILL);
    until("it is reaped", || linux::state(first).is_none());
    assert_eq!(guardians_of(id), [] as [u32; 0]);
    limit_processes(id, "4000:");
    assert_ne!(guardian_of(id), first);
    all_die(&parent);
}

#[test]
fn guardian_kills_under_a_limit_that_forbids_forks() {
    watchdog!();
    let members: Vec<String> = (0..20).flat_map(|_| daemon("pid read")).collect();
    let line = [given("owner tree", &[members, parts("pid read")].concat()), parts("read")];
    let parent = limited_parent(&line, 21);
    for limited in [parent.child.id(), guardian_of(parent.child.id())] {
        limit_processes(limited, "0:0");
    }
    all_die(&parent);
}

#[test]
fn killed_guardian_is_replaced_at_once() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let parent = parent(&[owner(kind), owner(kind), parts("read")], 4);
        for _ in 0..3 {
            let first = guardian_of(parent.child.id());
            signal(first, libc::SIGKILL);
            until("there is another", || {
                let now = guardians_of(parent.child.id());
                now.len() == 1 && now[0] != first
            });
        }
        assert_eq!(parent.survivors().len(), 4);
        all_die(&parent);
    }
}

#[test]
fn stopped_guardian_is_resumed_at_once() {
    watchdog!();
    let parent = parent(&[owner("tree"), parts("read")], 2);
    let guardian = guardian_of(parent.child.id());
    for _ in 0..20 {
        signal(guardian, libc::SIGSTOP);
        until("it is resumed", || linux::state(guardian) == Some('S'));
    }
    assert_eq!(guardian_of(parent.child.id()), guardian);
    all_die(&parent);
}

/// Runs this in a fork, the parent that is killed later. The fork reports numbers.
fn fork(run: impl FnOnce(&mut dyn FnMut(u32))) -> (u32, UnixStream) {
    let (theirs, mut ours) = UnixStream::pair().unwrap();
    // SAFETY: the test runs alone and with few threads, and the child takes no lock that another may hold.
    let id = unsafe { libc::fork() };
    if id == 0 {
        drop(theirs);
        run(&mut |number| ours.write_all(&number.to_ne_bytes()).unwrap());
        // SAFETY: the fork ends with the test, and after two minutes at the latest.
        unsafe {
            libc::alarm(120);
            loop {
                libc::pause();
            }
        }
    }
    (u32::try_from(id).unwrap(), theirs)
}

fn reported(by: &mut UnixStream) -> u32 {
    let mut number = [0; 4];
    by.read_exact(&mut number).unwrap();
    u32::from_ne_bytes(number)
}

fn tied() -> SpawnOptions {
    SpawnOptions::new().tree(true).kill_with_parent(true).clone()
}

#[test]
fn output_to_a_closed_stream_reaches_no_guardian() {
    alone!();
    watchdog!();
    for closed in [&[1][..], &[0], &[2], &[0, 1, 2]] {
        let (owner, mut reports) = fork(|report| {
            for stream in closed {
                // SAFETY: an integer. Later users of the stream ignore the error.
                unsafe { libc::close(*stream) };
            }
            for _ in 0..2 {
                let mut command = helper(&["read"]);
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                let leader = tied().spawn(&mut command).unwrap();
                report(leader.id());
                std::mem::forget(leader);
            }
            for line in ["0\n", "1\n", "2\n", "1 - - -\n"] {
                for stream in closed {
                    // SAFETY: the bytes outlive the call.
                    unsafe { libc::write(*stream, line.as_ptr().cast(), line.len()) };
                }
            }
            report(0);
        });
        let tree = Helpers(vec![reported(&mut reports), reported(&mut reports)]);
        assert_eq!(reported(&mut reports), 0);
        for stream in closed {
            let file = fs::read_link(format!("/proc/{owner}/fd/{stream}")).unwrap_or_default();
            assert!(!file.to_string_lossy().starts_with("socket"), "{stream} is the guardian's");
        }
        let guardian = guardian_of(owner);
        assert_eq!(tree.alive().len(), 2);
        signal(owner, libc::SIGKILL);
        linux::reap(owner);
        until("they are dead", || tree.alive().is_empty());
        until_ended(guardian);
    }
}

#[test]
fn marker_that_is_no_element_of_the_variable_marks_no_process() {
    watchdog!();
    let parent = parent(&[owner("tree"), parts("read")], 2);
    let environment = fs::read(format!("/proc/{}/environ", parent.pids.0[0])).unwrap();
    let mut entries = environment.split(|byte| *byte == 0);
    let marker = entries.find_map(|entry| entry.strip_prefix(b"SHARED_CHILD_TREE=")).unwrap();
    let marker = String::from_utf8(marker.to_vec()).unwrap();
    let mut others: Vec<_> = [
        ("OTHER", marker.clone()),
        ("OTHER", format!("SHARED_CHILD_TREE={marker}")),
        ("XSHARED_CHILD_TREE", marker.clone()),
        ("SHARED_CHILD_TREES", marker.clone()),
        ("SHARED_CHILD_TREE", format!("{marker}0")),
        ("SHARED_CHILD_TREE", format!("0{marker}")),
        ("SHARED_CHILD_TREE", marker.replace('-', ",")),
        ("SHARED_CHILD_TREE", format!("{marker}=")),
    ]
    .into_iter()
    .map(|(name, value)| stoppable_command(77).env(name, value).spawn().unwrap())
    .collect();
    all_die(&parent);
    for other in &mut others {
        drop(other.stdin.take());
        assert_eq!(other.wait().unwrap().code(), Some(77));
    }
}

#[test]
fn marker_behind_a_large_environment_is_found() {
    watchdog!();
    let mut command = command(&[owner("tree"), parts("read")]);
    for variable in 0..10 {
        command.env(format!("A{variable}"), "x".repeat(100_000));
    }
    let parent = parent_by(&mut command, 2);
    let environment = fs::read(format!("/proc/{}/environ", parent.pids.0[0])).unwrap();
    let name = b"SHARED_CHILD_TREE=";
    let at = environment.windows(name.len()).position(|part| part == name);
    assert!(at.unwrap() > 128 << 10);
    all_die(&parent);
}

#[test]
fn descendant_without_environment_is_killed_while_its_parent_lives() {
    watchdog!();
    for kind in tied_kinds(function_name!()) {
        let bare = given("spawn", &parts("setsid bare pid read"));
        let deep = given("spawn", &[parts("setsid pid"), bare.clone(), parts("read")].concat());
        let line = [given(&format!("owner {kind}"), &[bare, deep, parts("pid read")].concat())];
        let parent = parent(&[line.concat(), parts("read")], 4);
        all_die(&parent);
    }
}

#[test]
fn one_guardian_kills_a_hundred_trees() {
    watchdog!();
    let mut line = vec![owner("tree"); 100];
    line.push(parts("read"));
    let parent = parent(&line, 200);
    all_die(&parent);
}

/// The fork holds a copy of the guardian's socket, and does not end.
#[test]
fn fork_that_outlives_the_parent_does_not_delay_the_kill() {
    alone!();
    watchdog!();
    let (owner, mut reports) = fork(|report| {
        let leader = tied().spawn(helper(&["read"]).stdin(Stdio::piped())).unwrap();
        report(leader.id());
        std::mem::forget(leader);
        let (copy, _) = fork(|_| {});
        report(copy);
    });
    let tree = Helpers(vec![reported(&mut reports)]);
    let copy = reported(&mut reports);
    let guardian = guardian_of(owner);
    signal(owner, libc::SIGKILL);
    linux::reap(owner);
    until("the tree is dead", || tree.alive().is_empty());
    until_ended(guardian);
    assert!(linux::is_alive(copy));
    signal(copy, libc::SIGKILL);
}

/// A program that closes foreign descriptors has neither died nor called exec.
#[test]
fn program_that_closes_the_socket_loses_no_tree() {
    alone!();
    watchdog!();
    let child = tied().kill_on_drop(true).spawn(helper(&["read"]).stdin(Stdio::piped())).unwrap();
    let me = std::process::id();
    let guardian = guardian_of(me);
    let sockets = |id: u32| {
        let all = fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
        let all = all.filter(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|link| link.to_string_lossy().starts_with("socket"))
        });
        all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).collect::<Vec<_>>()
    };
    until("the guardian has closed what is not its own", || sockets(guardian).len() == 1);
    for socket in sockets(me) {
        // SAFETY: an integer. The test closes the guardian's descriptor on purpose.
        unsafe { libc::close(socket) };
    }
    until("the guardian has noticed", || sockets(guardian).is_empty());
    until("it waits again", || linux::state(guardian) == Some('S'));
    assert!(linux::is_alive(child.id()) && linux::is_alive(guardian));
    child.kill().unwrap();
    wait(&child);
}

/// The guardian holds no copy of the program's heap, name or environment and no descriptors, and its exit raises no
/// SIGCHLD.
#[test]
fn guardian_keeps_no_heap_environment_or_descriptor() {
    const SECRET: &str = "SHARED_CHILD_TEST_SECRET";
    alone!();
    if std::env::var_os(SECRET).is_none() {
        let me = std::env::current_exe().unwrap();
        let mut again = Command::new(me);
        again.args(["--exact", function_name!(), "--nocapture", "--test-threads", "1"]);
        assert!(again.env(SECRET, "a-secret").status().unwrap().success());
        return;
    }
    watchdog!();
    let heap = std::hint::black_box(vec![1_u8; 256 << 20]);
    let file = fs::File::open("/dev/null").unwrap();
    let child = tied().kill_on_drop(true).spawn(helper(&["read"]).stdin(Stdio::piped())).unwrap();
    let guardian = guardian_of(std::process::id());
    let read = |file: &str| fs::read(format!("/proc/{guardian}/{file}")).unwrap();
    until("it has settled", || {
        linux::state(guardian) == Some('S') && {
            let fds = fs::read_dir(format!("/proc/{guardian}/fd")).unwrap().count();
            fds == 2
        }
    });
    let text = |file: &str| String::from_utf8_lossy(&read(file)).into_owned();
    let size = |status: &str, name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // An instrumented program (ci/asan) has terabytes of address space, and its guardian keeps its memory.
    if size(&status(std::process::id()), "VmSize:") < 1 << 30 {
        let anonymous = size(&text("status"), "RssAnon:");
        assert!(anonymous < 8 << 10, "{anonymous} KiB");
    }
    assert!(!text("environ").contains("a-secret"));
    assert!(!text("environ").is_empty(), "which would look like an exec");
    let name = format!("shared_child-guardian {}", std::process::id());
    assert_eq!(text("cmdline").trim_end_matches('\0'), name);
    let session: Vec<String> = text("stat").split(' ').map(str::to_owned).collect();
    assert_eq!(session[5], guardian.to_string());
    child.kill().unwrap();
    wait(&child);
    drop(child);
    until("the tree is reaped", || linux::children() == [guardian]);
    // SAFETY: no status is requested.
    let reaped = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let error = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((reaped, error), (-1, Some(libc::ECHILD)), "the program can reap the guardian");
    drop((heap, file));
}

#[test]
fn guardian_and_its_thread_end_after_the_last_tied_tree() {
    alone!();
    watchdog!();
    shared_child::seam::set_guardian_tick(500);
    let descriptors = linux::descriptors();
    let before = linux::threads();
    for _ in 0..2 {
        for _ in 0..3 {
            let child = tied().spawn(&mut helper(&["exit", "0"])).unwrap();
            wait(&child);
            assert!(child.tree().unwrap().wait_empty(None).unwrap());
        }
        guardian_of(std::process::id());
        until("all is as before", || {
            linux::threads() == before
                && linux::children().is_empty()
                && linux::descriptors() == descriptors
        });
    }
}

#[test]
fn tied_spawn_into_another_namespace_is_unsupported() {
    in_a_namespace!();
    // SAFETY: integers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWPID) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let error = tied().spawn(&mut helper(&["sleep"])).map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert_eq!(linux::children(), [] as [u32; 0]);
}
