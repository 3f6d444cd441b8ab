//! Promise: `stop_async` does what `stop` does, and a dropped future does not kill.

use super::*;
#[cfg(unix)]
use crate::common::stage::{Kind, Stage, findable_daemon, parts, start};
#[cfg(unix)]
use crate::common::unix::{expect, ready};
#[cfg(unix)]
use std::io::Read;
#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;

#[test]
fn stop_async_returns_the_status_and_does_nothing_before_its_first_poll() {
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        for grace in [Duration::ZERO, LONG, Duration::MAX] {
            assert_eq!(block_on(child.stop_async(grace)).unwrap().code(), Some(7));
        }
        let child = sleeper(backend);
        let status = block_on(child.stop_async(Duration::ZERO)).unwrap();
        assert!(!status.success());
        assert_eq!(child.try_wait().unwrap(), Some(status));
        // A future that is never polled.
        let (child, stdin) = stoppable(backend, 8);
        drop(child.stop_async(Duration::ZERO));
        assert_eq!(child.try_wait().unwrap(), None);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(8));
    });
}

/// Too short for a child to exit within it.
#[cfg(unix)]
const SHORT: Duration = Duration::from_millis(50);

#[cfg(unix)]
#[test]
fn stop_async_terminates_a_child_that_accepts_the_request() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _said) = ready(backend, "say ready read");
        let status = block_on(child.stop_async(Duration::MAX)).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        let again = block_on(child.stop_async(Duration::ZERO)).unwrap();
        assert_eq!(again, status);
    });
}

#[cfg(unix)]
#[test]
fn stop_async_kills_a_child_that_ignores_the_request() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _said) = ready(backend, "ignore TERM say ready read");
        let start = Instant::now();
        let status = block_on(child.stop_async(SHORT)).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(start.elapsed() >= SHORT);
    });
}

/// The signal is sent once.
#[cfg(unix)]
#[test]
fn shortest_grace_of_a_task_and_a_thread_counts() {
    watchdog!();
    on_every_backend(|backend| {
        // The signal must arrive within this grace.
        let short = Duration::from_secs(1);
        for (task, thread) in [(short, Duration::MAX), (Duration::MAX, short)] {
            let (child, mut said) = ready(backend, "report TERM say ready read");
            thread::scope(|scope| {
                let child = &child;
                let by_task = scope.spawn(move || block_on(child.stop_async(task)).unwrap());
                expect(&mut said, "signal TERM\n");
                let by_thread = scope.spawn(move || child.stop(thread).unwrap());
                for end in [by_task, by_thread] {
                    assert_eq!(end.join().unwrap().signal(), Some(libc::SIGKILL));
                }
            });
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "it was signalled twice");
        }
    });
}

#[cfg(unix)]
#[test]
fn dropped_stop_has_sent_the_request_and_does_not_kill() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, mut said) = ready(backend, "report TERM say ready hear say ready read exit 7");
        let stdin = child.take_stdin().unwrap();
        let counter = Arc::new(WakeCounter::default());
        // One poll must not take as long as this grace.
        let grace = Duration::from_secs(1);
        let mut stop = Box::pin(child.stop_async(grace));
        assert!(poll(&mut stop, &counter).is_pending());
        drop(stop);
        assert_eq!(counter.wakers(), 0);
        expect(&mut said, "signal TERM\n");
        // After the grace no future is left that would kill.
        let later = Instant::now() + grace;
        assert_eq!(block_on(child.wait_deadline_async(later)).unwrap(), None);
        drop(stdin);
        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
    });
}

#[cfg(unix)]
#[test]
fn many_tasks_that_stop_one_child_get_its_status() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, _said) = ready(backend, "say ready read");
        let all = run_all((0..16).map(|_| child.stop_async(Duration::MAX)), || ());
        assert!(all.iter().all(|(_, end)| end.as_ref().unwrap().signal() == Some(libc::SIGTERM)));
    });
}

/// The tree has its grace.
#[cfg(target_os = "linux")]
#[test]
fn stop_async_sends_the_request_to_a_tree_that_cannot_be_listed() {
    alone!();
    watchdog!();
    if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
        return;
    }
    let stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
    let full = unix::NoDescriptors::left();
    // Whether members are left cannot be read.
    block_on(stage.child.stop_async(LONG)).unwrap_err();
    drop(full);
    assert_eq!(wait(&stage.child).signal(), Some(libc::SIGTERM));
    stage.is_empty();
}

#[cfg(unix)]
#[test]
fn stop_async_terminates_a_tree_that_accepts_the_request() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let all = [start("pid read"), findable_daemon("pid read"), parts("pid read")];
        let stage = Stage::set(kind, &all.concat(), 3);
        let end = block_on(stage.child.stop_async(Duration::MAX)).unwrap();
        assert_eq!(end.signal(), Some(libc::SIGTERM));
        stage.is_empty();
    }
}

/// The leader terminates, or has exited before.
#[cfg(unix)]
#[test]
fn stop_async_kills_a_member_that_ignores_the_request() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        for (leader, code) in [("pid read", None), ("pid exit 7", Some(7))] {
            let all = [findable_daemon("ignore TERM pid read"), parts(leader)].concat();
            let stage = Stage::set(kind, &all, 2);
            if code.is_some() {
                assert_eq!(block_on(stage.child.wait_async()).unwrap().code(), code);
            }
            let start = Instant::now();
            let end = block_on(stage.child.stop_async(SHORT)).unwrap();
            assert!(start.elapsed() >= SHORT);
            assert_eq!(end.signal(), code.map_or(Some(libc::SIGTERM), |_| None));
            stage.is_empty();
        }
    }
}

/// The leader has ended before.
#[cfg(unix)]
#[test]
fn stop_async_of_a_tree_ends_with_its_last_member() {
    watchdog!();
    for kind in Kind::all(function_name!()) {
        let all = [start("setsid report TERM pid read"), parts("pid read")].concat();
        let mut stage = Stage::set(kind, &all, 2);
        let stdin = stage.stdin.take();
        thread::scope(|scope| {
            let child = &stage.child;
            let stopper = scope.spawn(|| block_on(child.stop_async(Duration::MAX)).unwrap());
            until("the leader has ended", || !unix::is_alive(child.id()));
            assert_eq!(stage.survivors().len(), 1);
            assert!(!stopper.is_finished());
            drop(stdin);
            assert_eq!(stopper.join().unwrap().signal(), Some(libc::SIGTERM));
        });
    }
}
