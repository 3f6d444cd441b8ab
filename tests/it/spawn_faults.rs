//! Promise: a spawn that fails, or that another part of the program disturbs, leaves nothing behind, harms no other
//! child, and loses no status that the kernel keeps.

#![cfg(target_os = "linux")]

use crate::common::linux::{Deny, NoDescriptors, deny};
use crate::common::stage::Kind;
use crate::common::*;
use shared_child::linux::SpawnOptionsExt;
use shared_child::unix::ReapedElsewhere;
use shared_child::{SharedChild, SpawnOptions};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// The options whose children are spawned with a hook of the library, by name. Cgroups are included where available.
fn with_a_hook(test: &str) -> Vec<(&'static str, SpawnOptions)> {
    let mut all = vec![
        ("tied", SpawnOptions::new().kill_with_parent(true).clone()),
        ("plain", SpawnOptions::new().pidfd_from_child(true).clone()),
        ("tree", SpawnOptions::new().tree(true).pidfd_from_child(true).clone()),
    ];
    if Kind::all(test).contains(&Kind::Cgroup) {
        all.push(("cgroup", SpawnOptions::new().cgroup(true).clone()));
    }
    all
}

fn missing_program() -> Command {
    let mut command = Command::new("/no/such/program");
    command.arg("argument").stdin(Stdio::null()).env("SHARED_CHILD_TREE", "theirs");
    command
}

/// A command that makes std fork, as a user or a group does.
fn hook_that_does_nothing(command: &mut Command) -> &mut Command {
    // SAFETY: the hook does nothing.
    unsafe { command.pre_exec(|| Ok(())) }
}

#[track_caller]
fn assert_reason_was_lost(error: &io::Error) {
    let text = error.to_string();
    for part in ["cannot spawn \"/no/such/program\"", "reaped", "std panicked", "waitpid(-1)"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Runs this beside a thread that reaps all children of this process as they exit.
fn beside_a_reaper<T>(run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: no status is stored.
                if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
                    std::thread::yield_now();
                }
            }
        });
        let result = catch_unwind(AssertUnwindSafe(run));
        stop.store(true, Ordering::Relaxed);
        // The reaper may be blocked while other children live. The exit of this child wakes it.
        drop(helper(&["exit", "0"]).spawn());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

// The exec fails, and another part of the program reaps the child: std panics.

#[test]
fn failed_spawn_of_a_tied_child_spares_the_others_and_returns_the_command() {
    alone!();
    watchdog!();
    let mut tied = SpawnOptions::new();
    tied.kill_with_parent(true);
    let first = tied.spawn(&mut stoppable_command(7)).unwrap();
    let stdin = first.take_stdin();
    let mut command = missing_program();
    linux::on_sigchld(libc::SIG_IGN);
    let failed = catch_unwind(AssertUnwindSafe(|| tied.spawn(&mut command)));
    let error = failed.expect("an error, not a panic").map(drop).unwrap_err();
    linux::on_sigchld(libc::SIG_DFL);
    assert_reason_was_lost(&error);
    assert_eq!(command.get_program(), "/no/such/program");
    assert_eq!(command.get_args().collect::<Vec<_>>(), ["argument"]);
    // The spawn thread still serves.
    assert_eq!(wait(&tied.spawn(&mut helper(&["exit", "3"])).unwrap()).code(), Some(3));
    beside_a_reaper(|| {
        for _ in 0..rounds(50) {
            let error = tied.spawn(&mut command).map(drop).unwrap_err();
            if error.kind() != ErrorKind::NotFound {
                assert_reason_was_lost(&error);
            }
        }
    });
    let later = tied.spawn(&mut stoppable_command(8)).unwrap();
    drop((stdin, later.take_stdin()));
    assert_eq!(wait(&first).code(), Some(7), "it was killed with the thread");
    assert_eq!(wait(&later).code(), Some(8));
}

#[test]
fn failed_spawn_leaves_nothing_and_restores_the_command() {
    alone!();
    watchdog!();
    // The thread that spawns tied children, and the guardian's thread.
    let at_rest = linux::threads() + 2;
    let mut all = with_a_hook(function_name!());
    all.push(("no options", SpawnOptions::new()));
    all.push(("tree without a pidfd of its own", SpawnOptions::new().tree(true).clone()));
    let guarded = SpawnOptions::new().tree(true).kill_with_parent(true).clone();
    all.push(("tied tree", guarded.clone()));
    if all.iter().any(|(name, _)| *name == "cgroup") {
        all.push(("tied cgroup", guarded.clone().cgroup(true).clone()));
    }
    wait(&SpawnOptions::new().kill_with_parent(true).spawn(&mut helper(&["exit", "0"])).unwrap());
    // The guardian stays while this child runs.
    let kept = guarded.clone().kill_on_drop(true).spawn(&mut helper(&["sleep"])).unwrap();
    until("at rest", || linux::threads() == at_rest && linux::children().len() == 2);
    let (children, cgroups) = (linux::children(), tree_cgroups());
    let descriptors = linux::descriptors();
    linux::on_sigchld(libc::SIG_IGN);
    for (name, options) in all {
        eprintln!("{name}");
        let mut command = missing_program();
        let spawned =
            catch_unwind(AssertUnwindSafe(|| options.spawn(hook_that_does_nothing(&mut command))));
        assert_reason_was_lost(&spawned.expect("an error, not a panic").map(drop).unwrap_err());
        let variables: Vec<_> = command.get_envs().collect();
        let theirs = OsString::from("theirs");
        assert_eq!(variables, [("SHARED_CHILD_TREE".as_ref(), Some(theirs.as_os_str()))]);
        assert_eq!(command.get_program(), "/no/such/program");
        assert_eq!(linux::children(), children);
        assert_eq!(tree_cgroups(), cgroups);
        assert_eq!(linux::descriptors(), descriptors);
    }
    drop(kept);
}

#[test]
fn failed_spawn_without_options_is_an_error() {
    alone!();
    watchdog!();
    linux::on_sigchld(libc::SIG_IGN);
    let mut command = missing_program();
    let spawned =
        catch_unwind(AssertUnwindSafe(|| SharedChild::spawn(hook_that_does_nothing(&mut command))));
    assert_reason_was_lost(&spawned.expect("an error, not a panic").map(drop).unwrap_err());
}

/// The cgroups of this process's trees, wherever they are.
fn tree_cgroups() -> Vec<PathBuf> {
    fn collect(directory: &Path, mine: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name();
                if name.to_string_lossy().starts_with(mine) {
                    found.push(entry.path());
                }
                collect(&entry.path(), mine, found);
            }
        }
    }
    let mut found = Vec::new();
    let mine = format!("shared_child-{:x}-", std::process::id());
    collect(Path::new("/sys/fs/cgroup"), &mine, &mut found);
    found
}

// A hook stays on the command. It acts only in the spawn that it was made for.

fn files(count: usize) -> Vec<std::fs::File> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = |number| {
        let path = directory.join(format!("unrelated-{}-{number}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    };
    (0..count).map(file).collect()
}

#[test]
fn plain_spawn_after_a_failed_cgroup_spawn_writes_to_no_file() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let mut command = missing_program();
    linux::on_sigchld(libc::SIG_IGN);
    let spawn = |options: &SpawnOptions, command: &mut Command| {
        let _ = catch_unwind(AssertUnwindSafe(|| options.spawn(command).map(drop).unwrap_err()));
    };
    spawn(SpawnOptions::new().cgroup(true), &mut command);
    // These files take the descriptors that are free now.
    let files = files(20);
    spawn(&SpawnOptions::new(), &mut command);
    for file in &files {
        assert_eq!(file.metadata().unwrap().len(), 0, "{file:?}");
    }
}

/// The caller's hook runs first, and replaces our descriptors with other files.
#[test]
fn replaced_descriptor_is_not_written_to() {
    const CGROUP2: u64 = 0x6367_7270;
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let mut files = files(1);
    let file = files.pop().unwrap();
    let fd = file.as_raw_fd();
    let mut command = helper(&["exit", "0"]);
    // SAFETY: these are system calls. The struct outlives its use.
    unsafe {
        command.pre_exec(move || {
            for other in 3..64 {
                let mut system = std::mem::zeroed::<libc::statfs>();
                if libc::fstatfs(other, &raw mut system) == 0 && system.f_type as u64 == CGROUP2 {
                    libc::dup2(fd, other);
                }
            }
            Ok(())
        });
    }
    let error = SpawnOptions::new().cgroup(true).spawn(&mut command).map(drop);
    assert_eq!(file.metadata().unwrap().len(), 0, "the hook has written to it");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("cannot enter its cgroup"), "{error}");
}

/// The caller's hook clears the signal, as a change of the user ID would (credentials(7)). The library sets it after
/// that hook, at every spawn of the command.
#[test]
fn death_signal_is_set_after_the_hooks_of_the_caller() {
    watchdog!();
    let mut command = helper(&["death-signal"]);
    command.stdout(Stdio::piped());
    let mut options = SpawnOptions::new();
    options.kill_with_parent(true);
    for _ in 0..3 {
        // SAFETY: a system call that takes integers.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, 0);
                Ok(())
            });
        }
        let child = options.spawn(&mut command).unwrap();
        let said = io::read_to_string(child.take_stdout().unwrap()).unwrap();
        assert_eq!(said, format!("death signal {}\n", libc::SIGKILL));
        assert!(wait(&child).success());
    }
    // The signal is set for tied children alone.
    let child = SpawnOptions::new().spawn(&mut command).unwrap();
    assert_eq!(io::read_to_string(child.take_stdout().unwrap()).unwrap(), "death signal 0\n");
    wait(&child);
}

#[test]
fn slow_hook_of_a_tied_child_holds_up_no_other_spawn() {
    alone!();
    watchdog!();
    let (gate, mut release) = UnixStream::pair().unwrap();
    let options = SpawnOptions::new().kill_with_parent(true).clone();
    let slow = |code: &str| {
        let gate = gate.as_raw_fd();
        let mut command = helper(&["exit", code]);
        // SAFETY: system calls, and the byte outlives its use.
        unsafe {
            command.pre_exec(move || {
                // A test that fails leaves no process behind.
                libc::alarm(4 * LONG.as_secs() as u32);
                let mut byte = 0_u8;
                libc::read(gate, (&raw mut byte).cast(), 1);
                Ok(())
            });
        }
        options.spawn(&mut command).map(|child| wait(&child).code())
    };
    std::thread::scope(|scope| {
        let held_up: Vec<_> = (1..=3).map(|n| scope.spawn(move || slow(&n.to_string()))).collect();
        until("all are in their hooks", || linux::children().len() == 3);
        let (spawned, others) = mpsc::channel();
        let options = &options;
        scope.spawn(move || spawned.send(options.spawn(&mut helper(&["exit", "9"]))).unwrap());
        let other = others.recv_timeout(LONG);
        // This comes before anything that can fail: the children in their hooks would hang for ever.
        release.write_all(b"go!").unwrap();
        let other = other.expect("it was held up").unwrap();
        for (n, held_up) in (1..).zip(held_up) {
            assert_eq!(held_up.join().unwrap().unwrap(), Some(n));
        }
        assert_eq!(wait(&other).code(), Some(9));
    });
}

/// The number of threads does not grow with the number of callers.
#[test]
fn tied_spawns_one_after_the_other_share_a_thread() {
    alone!();
    watchdog!();
    let options = SpawnOptions::new().kill_with_parent(true).clone();
    for _ in 0..rounds(50) {
        let child = std::thread::scope(|scope| {
            scope.spawn(|| options.spawn(&mut helper(&["exit", "0"])).unwrap()).join().unwrap()
        });
        wait(&child);
    }
    let parents = || linux::helper_threads().iter().filter(|name| *name == "child-parent").count();
    assert_eq!(parents(), 1);
}

// The window between the spawn and the opening of the pidfd.

/// Checks the result of a wait: the status, if the kernel keeps the status of a reaped process.
#[track_caller]
fn assert_status(child: &SharedChild, code: i32) {
    match child.wait() {
        Ok(status) => assert_eq!(status.code(), Some(code)),
        Err(error) => {
            assert!(error.get_ref().is_some_and(|inner| inner.is::<ReapedElsewhere>()), "{error}");
            assert!(!linux::keeps_status_of_reaped(), "lost: {error}");
        }
    }
}

#[test]
fn no_status_is_lost_beside_a_thread_in_waitpid() {
    alone!();
    watchdog!();
    let exit = || {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 42"]).stdin(Stdio::null());
        command
    };
    let all = with_a_hook(function_name!());
    linux::keeps_status_of_reaped();
    beside_a_reaper(|| {
        let count = rounds(200);
        for (name, options) in all {
            eprintln!("{name}");
            for _ in 0..count {
                assert_status(&options.spawn(&mut exit()).unwrap(), 42);
            }
        }
        // For comparison, a spawn that opens the pidfd by the ID.
        let lost = (0..count).filter(|_| SharedChild::spawn(&mut exit()).unwrap().wait().is_err());
        eprintln!("without a pidfd from the child, {} of {count} statuses were lost", lost.count());
    });
}

/// A command whose child has exited and was reaped before the spawn returns: a process that the caller's hook forks
/// delays the spawn until then.
fn reaped_before_the_spawn_returns(command: &mut Command) -> &mut Command {
    // SAFETY: these are system calls that take integers. A fork's child may make them.
    unsafe {
        command.pre_exec(|| {
            let child = libc::getpid();
            if libc::fork() == 0 {
                for _ in 0..LONG.as_millis() {
                    if libc::kill(child, 0) != 0 {
                        break;
                    }
                    libc::poll(std::ptr::null_mut(), 0, 1);
                }
                libc::_exit(0);
            }
            Ok(())
        })
    }
}

fn spawn_reaped(options: &SpawnOptions) -> SharedChild {
    linux::on_sigchld(libc::SIG_IGN);
    let child =
        options.spawn(reaped_before_the_spawn_returns(&mut helper(&["exit", "42"]))).unwrap();
    linux::on_sigchld(libc::SIG_DFL);
    assert_eq!(linux::state(child.id()), None, "it was not reaped");
    child
}

#[test]
fn child_that_is_reaped_before_the_spawn_returns_keeps_its_status() {
    alone!();
    watchdog!();
    linux::keeps_status_of_reaped();
    for (name, options) in with_a_hook(function_name!()) {
        eprintln!("{name}");
        let child = spawn_reaped(&options);
        assert_status(&child, 42);
        assert_status(&child, 42);
        child.kill().unwrap();
    }
}

/// Descriptors 0, 1 and 2 are free for the library, and std puts the child's streams there.
#[test]
fn closed_standard_streams_do_not_matter() {
    alone!();
    watchdog!();
    linux::keeps_status_of_reaped();
    let all = with_a_hook(function_name!());
    let copies: Vec<OwnedFd> = (0..3)
        .map(|fd| {
            // SAFETY: integers; the copy is new and ours.
            unsafe { OwnedFd::from_raw_fd(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 50)) }
        })
        .collect();
    let spawned: Vec<_> = all
        .iter()
        .map(|(_, options)| {
            // SAFETY: integers. Output is lost meanwhile.
            (0..3).for_each(|fd| assert_eq!(unsafe { libc::close(fd) }, 0));
            let child = catch_unwind(|| spawn_reaped(options));
            for (fd, copy) in (0..).zip(&copies) {
                // SAFETY: integers.
                unsafe { libc::dup2(copy.as_raw_fd(), fd) };
            }
            child
        })
        .collect();
    for child in spawned {
        assert_status(&child.expect("to spawn"), 42);
    }
}

/// The caller's hook forks, and the program runs in the fork. The child is the process that std knows.
#[test]
fn pidfd_of_another_process_is_not_taken_for_the_childs() {
    alone!();
    watchdog!();
    for (name, options) in with_a_hook(function_name!()) {
        if name == "tied" {
            // A tied child must have this process as its parent.
            continue;
        }
        eprintln!("{name}");
        let (stdin, hold) = UnixStream::pair().unwrap();
        let mut command = helper(&["read", "exit", "8"]);
        // SAFETY: these are system calls that take integers.
        unsafe {
            command.stdin(OwnedFd::from(stdin)).pre_exec(|| {
                if libc::fork() != 0 {
                    libc::_exit(7);
                }
                Ok(())
            });
        }
        let child = options.spawn(&mut command).unwrap();
        assert_eq!(wait(&child).code(), Some(7));
        drop(hold);
        // The fork runs the program, and ends by itself.
        let empty =
            |tree: &shared_child::Tree| tree.wait_empty(Some(std::time::Instant::now() + LONG));
        assert!(child.tree().is_none_or(|tree| empty(tree).unwrap()));
    }
}

// The child's pidfd is optional: without it the spawn continues.

macro_rules! spawns_without {
    ($($name:ident: $($call:ident)*;)*) => {$(
        #[test]
        fn $name() {
            alone!();
            watchdog!();
            let all = with_a_hook(function_name!());
            // Existing threads are not under the filter.
            let all = all.iter().filter(|(name, _)| *name != "tied");
            deny(&[$(Deny::always(libc::$call, libc::EPERM)),*]);
            for (name, options) in all {
                eprintln!("{name}");
                let child = options.spawn(&mut helper(&["exit", "7"])).unwrap();
                assert_eq!(wait(&child).code(), Some(7));
            }
            let tied = SpawnOptions::new().kill_with_parent(true).clone();
            assert_eq!(wait(&tied.spawn(&mut helper(&["exit", "7"])).unwrap()).code(), Some(7));
        }
    )*};
}

spawns_without! {
    spawn_without_pidfd_open_succeeds: SYS_pidfd_open;
    spawn_without_sendmsg_succeeds: SYS_sendmsg;
    spawn_without_recvmsg_succeeds: SYS_recvmsg;
}

/// However few descriptors are left, the library can spawn wherever std can spawn with a hook.
#[test]
fn spawn_with_few_descriptors_succeeds_where_std_does() {
    alone!();
    watchdog!();
    let options = with_a_hook(function_name!());
    let mut full = NoDescriptors::left();
    let mut succeeded = 0;
    for free in 0..15 {
        let std = hook_that_does_nothing(&mut helper(&["exit", "7"])).spawn();
        for (name, options) in &options {
            if *name == "cgroup" {
                continue; // It requires descriptors of its own.
            }
            let spawned = options.spawn(&mut helper(&["exit", "7"]));
            assert_eq!(spawned.is_ok(), std.is_ok(), "{name}, {free} free: {spawned:?}, {std:?}");
            if let Ok(child) = spawned {
                assert_eq!(wait(&child).code(), Some(7));
                succeeded += 1;
            }
        }
        if let Ok(mut child) = std {
            child.wait().unwrap();
        }
        full.free_one();
    }
    assert!(succeeded > 3);
}

#[test]
fn program_inherits_no_descriptor_of_the_spawn() {
    alone!();
    watchdog!();
    let inherited = |spawn: &dyn Fn(&mut Command) -> SharedChild| {
        let child = spawn(helper(&["inherited"]).stdout(Stdio::piped()));
        let said = io::read_to_string(child.take_stdout().unwrap()).unwrap();
        wait(&child);
        said.lines().next().unwrap().to_owned()
    };
    let plain = inherited(&|command| SharedChild::spawn(command).unwrap());
    for (name, options) in with_a_hook(function_name!()) {
        assert_eq!(inherited(&|command| options.spawn(command).unwrap()), plain, "{name}");
    }
}
