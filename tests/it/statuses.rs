//! Promise: a status is the kernel's, on every Unix system: each of these tests runs on all of them, and reads
//! structs that each kernel lays out differently.

#![cfg(unix)]

use crate::common::*;
use shared_child::{SharedChild, SpawnOptions};
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

const CODES: [i32; 5] = [0, 1, 2, 127, 255];
/// None of these dumps core.
const SIGNALS: [c_int; 4] = [libc::SIGHUP, libc::SIGKILL, libc::SIGTERM, libc::SIGUSR1];

fn part(name: &str, number: i32) -> [String; 2] {
    [name.to_owned(), number.to_string()]
}

/// Runs the check on children that exit with each code, and on children that each signal ends.
fn with_every_status(check: impl Fn(&[&str], &dyn Fn(ExitStatus) -> bool)) {
    for code in CODES {
        let [name, code_of_it] = part("exit", code);
        check(&[&name, &code_of_it], &|status| status.code() == Some(code));
    }
    for signal in SIGNALS {
        let [name, number] = part("signal", signal);
        check(&[&name, &number], &|status| status.signal() == Some(signal));
    }
}

#[test]
fn every_code_and_signal_is_reported_by_a_wait_and_by_a_poll() {
    watchdog!();
    on_every_backend(|backend| {
        with_every_status(|parts, is_right| {
            let child = backend.spawn(&mut helper(parts)).expect("to spawn");
            let waited = wait(&child);
            assert!(is_right(waited), "{parts:?}: {waited:?}");
            let polled = child.try_wait().expect("the status");
            assert_eq!(polled, Some(waited), "{parts:?}");
            let mut child = child.into_inner();
            assert_eq!(child.wait().expect("the status that std has"), waited, "{parts:?}");
        });
    });
}

/// The leader of a tree is not reaped while the tree has members, so its status is read from the zombie alone.
#[test]
fn every_code_and_signal_of_a_pinned_leader_is_reported_before_the_reap() {
    watchdog!();
    on_every_backend(|backend| {
        with_every_status(|parts, is_right| {
            let mut options = SpawnOptions::new();
            options.tree(true);
            let child = backend.spawn_with(&options, &mut helper(parts)).expect("to spawn");
            let waited = wait(&child);
            assert!(is_right(waited), "{parts:?}: {waited:?}");
            assert!(is_zombie(&child), "{parts:?}: the leader was reaped");
            assert_eq!(child.try_wait().expect("the status"), Some(waited), "{parts:?}");
            child.tree().expect("a tree").kill().expect("to kill what is left");
            assert_eq!(child.try_wait().expect("the status"), Some(waited), "{parts:?}");
        });
    });
}

/// Whether the child can still be waited for.
fn is_zombie(child: &SharedChild) -> bool {
    let mut info = [0_u64; 32]; // larger than any system's siginfo_t
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the array is writable, aligned, and larger than a siginfo_t; it is not read.
    let result = unsafe {
        libc::waitid(libc::P_PID, child.id() as libc::id_t, info.as_mut_ptr().cast(), options)
    };
    result == 0
}

/// With SIGCHLD ignored the kernel reaps, or reparents the zombie. The wait still returns.
#[test]
fn wait_returns_with_sigchld_ignored() {
    alone!();
    watchdog!();
    // SAFETY: no handler is installed, and no other thread of this process depends on the signal.
    assert_ne!(unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) }, libc::SIG_ERR);
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(child.try_wait().expect("it runs"), None);
        drop(stdin);
        match child.wait_timeout(LONG) {
            Ok(status) => assert_eq!(status.expect("it has exited").code(), Some(7)),
            Err(error) => assert!(
                error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<shared_child::unix::ReapedElsewhere>()),
                "{error:?}"
            ),
        }
    });
}

/// After the reap, the usage of the child and its descendants equals the increase in the usage of this process's
/// children.
#[test]
fn usage_counts_a_grandchild_once() {
    alone!();
    watchdog!();
    const BURNT: Duration = Duration::from_millis(300);
    on_every_backend(|backend| {
        let before = used_by_children();
        let child = backend.spawn(&mut helper(&["run", "2", "burn", "300"])).expect("to spawn");
        assert!(wait(&child).success());
        let after = used_by_children();
        let Some(usage) = child.usage().expect("an answer") else { return };
        let reaped = after - before;
        assert!(reaped >= BURNT, "{reaped:?}");
        // Kernels round; counting the grandchild twice would add all that it has burnt.
        assert!(usage.cpu() < reaped + BURNT / 2, "{usage:?}, reaped {reaped:?}");
    });
}

fn used_by_children() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct is writable for the whole call. It was zeroed, and any bytes are valid integers.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
