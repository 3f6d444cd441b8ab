//! Promises about trees, tested against hostile members and unlucky timing.

#![cfg(target_os = "linux")]

use crate::common::stage::{Kind, Stage, parts, start};
use crate::common::*;
use shared_child::seam::{Backend, process_table_passes};
use shared_child::{ChildSet, SharedChild};
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUP: Kind = Kind::Group(Backend::Best);

#[test]
fn stop_all_of_a_child_that_is_in_the_set_twice_ends_its_tree() {
    watchdog!();
    let line = [start("ignore 15 pid read"), parts("exit 0")].concat();
    let stage = Stage::set(GROUP, &line, 1);
    wait(&stage.child);
    let (child, rest) = stage.take_child();
    let child = Arc::new(child);
    let set = ChildSet::new();
    set.insert(1, Arc::clone(&child));
    set.insert(2, Arc::clone(&child));
    set.stop_all(Duration::from_millis(100)).expect("to stop all");
    assert_eq!(rest.survivors(), 0);
}

#[test]
fn tree_that_forks_in_its_group_is_not_reported_empty() {
    alone!();
    watchdog!();
    let stage = Stage::set(GROUP, &parts("pid fork-steadily hop"), 1);
    wait(&stage.child);
    // The tree forks for 15 seconds at least.
    let until = Instant::now() + Duration::from_secs(10);
    let mut checks = 0;
    while Instant::now() < until && checks < rounds(150) {
        checks += 1;
        assert!(!stage.tree().is_empty().expect("an answer"), "check {checks}");
    }
    stage.tree().kill().expect("to kill");
    stage.wait_empty();
}

/// A member of one tree is in the group of another, and leaves it when both receive termination requests.
#[test]
fn stop_all_ends_a_member_in_the_group_of_another_tree() {
    watchdog!();
    let other = Stage::set(GROUP, &[start("ignore 15 pid read"), parts("exit 0")].concat(), 1);
    let group = other.child.id();
    wait(&other.child);
    let line = [start(&format!("setsid-on 15 enter-group {group} pid read")), parts("exit 0")];
    let stage = Stage::set(GROUP, &line.concat(), 1);
    wait(&stage.child);
    let set = ChildSet::new();
    let ((one, one_rest), (two, two_rest)) = (stage.take_child(), other.take_child());
    set.insert(1, one);
    set.insert(2, two);
    set.stop_all(Duration::from_millis(100)).expect("to stop all");
    assert_eq!((one_rest.survivors(), two_rest.survivors()), (0, 0));
}

/// A process may show an environment as large as its address space.
#[test]
fn kill_reads_no_more_of_a_vast_environment_than_exec_allows() {
    alone!();
    watchdog!();
    let stage = Stage::set(GROUP, &parts("pid read"), 1);
    let mut other = helper(&["vast-environment", "1024", "pid", "read"]);
    let spawn =
        |command: &mut std::process::Command| SharedChild::spawn(command).expect("to spawn");
    let other = Stage::of(spawn, &mut other, 1);
    stage.tree().kill().expect("to kill");
    stage.wait_empty();
    assert_eq!(other.survivors().len(), 1);
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 256 << 10, "{peak} KiB of memory");
}

/// Forks a child that runs this, and returns its process ID.
fn forked(run: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child makes system calls only.
    let id = unsafe { libc::fork() };
    assert!(id >= 0, "fork: {}", std::io::Error::last_os_error());
    if id == 0 {
        run();
        loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        }
    }
    id
}

/// Makes the next process ID the one after this.
fn choose_the_next_id(after: &std::ffi::CStr) {
    // SAFETY: these are system calls, and the strings outlive them.
    unsafe {
        let file = libc::open(c"/proc/sys/kernel/ns_last_pid".as_ptr(), libc::O_WRONLY);
        libc::write(file, after.as_ptr().cast(), after.count_bytes());
        libc::close(file);
    }
}

/// The leader is reaped elsewhere while the process table is read. Before the read ends, its ID has a new owner with
/// a child in another session.
#[test]
fn kill_during_which_the_leaders_id_gets_a_new_owner_spares_the_owners_child() {
    if !linux::is_root() {
        eprintln!("{} skipped: this requires root, to choose process IDs", function_name!());
        return;
    }
    alone!(&["unshare", "--fork", "--pid", "--mount-proc"]);
    watchdog!();
    let mut stage = Stage::set(GROUP, &parts("pid read"), 1);
    let leader = stage.child.id();
    stage.stdin = None;
    linux::wait_for_zombie(leader);
    // Many processes make one pass over the process table slow enough.
    for _ in 0..1500 {
        forked(|| ());
    }
    let passes = process_table_passes();
    let before = CString::new((leader - 1).to_string()).expect("digits");
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| {
            while process_table_passes() == passes {
                std::hint::spin_loop();
            }
            linux::reap(leader);
            choose_the_next_id(&before);
            forked(|| {
                // SAFETY: integers.
                unsafe { libc::setpgid(0, 0) };
                choose_the_next_id(c"29999");
                forked(|| {
                    // SAFETY: no arguments.
                    unsafe { libc::setsid() };
                });
            })
        });
        stage.tree().kill().expect("to kill");
        assert_eq!(owner.join().expect("an owner"), linux::pid_t(leader), "an ID was taken");
    });
    until("the owner has a child", || linux::state(30_000).is_some());
    assert!(linux::is_alive(30_000), "the kill has hit another process");
    stage.pids.0.clear(); // The new process owns the ID now.
}
