//! Promise: a lack of descriptors costs speed at most.

#![cfg(unix)]

use crate::common::unix::NoDescriptors;
use crate::common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use shared_child::unix::ReapedElsewhere;
use std::process::Stdio;
use std::time::Duration;

const BEST: Backend = Backend::ALL[0];

#[test]
fn waits_kills_and_drops_work_without_free_descriptors() {
    alone!();
    watchdog!();
    // A child that has its descriptor already, and a child that exits meanwhile.
    let before = sleeper(BEST);
    let (exits_meanwhile, stdin) = stoppable(BEST, 7);
    let dropped_meanwhile = sleeper(BEST);
    let full = NoDescriptors::left();
    let spawn = |parts: &[&str]| BEST.spawn(helper(parts).stdin(Stdio::inherit()));
    // A live child: a timed wait, and a kill.
    if let Ok(child) = spawn(&["sleep"]) {
        assert_served_by(&child, "Thread");
        assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
        kill_and_wait(&child);
    } else {
        assert!(!unix::spawns_without_descriptors(), "std needs no descriptor to spawn");
    }
    // A child that has exited.
    if let Ok(child) = spawn(&["exit", "7"]) {
        assert_eq!(wait(&child).code(), Some(7));
        assert_eq!(child.wait_timeout(Duration::ZERO).unwrap().unwrap().code(), Some(7));
    }
    // The children from before.
    assert_eq!(before.wait_timeout(Duration::from_millis(5)).unwrap(), None);
    kill_and_wait(&before);
    drop(stdin);
    assert_eq!(wait(&exits_meanwhile).code(), Some(7));
    // These are dropped while nothing can be opened. `before` has freed a descriptor, so fill the table first.
    drop((before, exits_meanwhile));
    let full_again = NoDescriptors::left();
    for child in [Some(dropped_meanwhile), spawn(&["sleep"]).ok()].into_iter().flatten() {
        let pid = child.id();
        drop(child);
        // SAFETY: it is a child of this process, and unreaped.
        unsafe { libc::kill(unix::pid_t(pid), libc::SIGKILL) };
    }
    drop((full, full_again));
    until("reaped, with no help from later spawns and drops", || unix::children().is_empty());
}

/// `poll` refuses even one descriptor then. Some sandboxes set such a limit.
#[test]
fn waits_work_with_a_descriptor_limit_of_zero() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let elsewhere = stoppable(backend, 7);
        let none = unix::DescriptorLimit::zero();
        assert_eq!(child.wait_timeout(Duration::from_millis(30)).unwrap(), None);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(7));
        drop(elsewhere.1);
        unix::reap(elsewhere.0.id());
        match elsewhere.0.wait() {
            Ok(status) => assert_eq!(status.code(), Some(7)),
            Err(error) => assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error:?}"),
        }
        drop(none);
    });
}

/// With any number of free descriptors, std and the library can both spawn, or neither can.
#[test]
fn spawn_needs_no_more_descriptors_than_that_of_std() {
    alone!();
    watchdog!();
    let command = || {
        let mut command = helper(&["exit", "0"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut full = NoDescriptors::left();
    let mut spawned = 0;
    for free in 0..20 {
        let of_std = command().spawn().map(|mut child| child.wait().unwrap());
        let ours = SharedChild::spawn(&mut command()).map(|child| child.wait().unwrap());
        assert_eq!(ours.is_ok(), of_std.is_ok(), "{free} free: {ours:?}, {of_std:?}");
        spawned += usize::from(ours.is_ok());
        full.free_one();
    }
    assert!((1..20).contains(&spawned), "the limit was never met, or always: {spawned}");
}
