//! Promise: without descriptors, threads, pidfds or epoll, futures are slower at worst; and after a foreign reap or a
//! fork a task gets the true status or a clear error.

#![cfg(unix)]

use super::resources::{BEST, a_while, is_idle, until_all_threads_have_ended};
use super::*;
#[cfg(target_os = "linux")]
use crate::common::linux::{Deny, deny};
use crate::common::unix::{NoDescriptors, assert_true_or_lost};
use shared_child::seam;
use std::io;
use std::mem::ManuallyDrop;
use std::process::Stdio;

/// A short form of every promise.
fn exercise(backend: Backend) {
    let others = unix::children().len();
    let (child, stdin) = stoppable(backend, 7);
    let counter = Arc::new(WakeCounter::default());
    let mut exited = child.wait_async();
    for _ in 0..3 {
        assert!(poll(&mut exited, &counter).is_pending());
    }
    drop(child.wait_deadline_async(a_while()));
    let (none, polls) =
        is_idle("a deadline", || counted(&mut child.wait_deadline_async(a_while())));
    assert_eq!(none.unwrap(), None);
    assert!(polls < 1000, "{polls} polls for nothing");
    let all = run_all((0..10).map(|_| child.wait_async()), || drop(stdin));
    assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
    assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
    until("no waker is left", || counter.wakers() == 0);
    assert!(!block_on(sleeper(backend).stop_async(LONG)).unwrap().success());
    // A forgotten future, and a dropped child.
    let (child, stdin) = stoppable(backend, 7);
    let mut forgotten = ManuallyDrop::new(child.wait_async());
    assert!(poll(&mut *forgotten, &counter).is_pending());
    drop((child, stdin));
    until("reaped", || {
        wait(&quick(backend, 0));
        unix::children().len() == others
    });
}

#[test]
fn futures_work_with_nothing_refused() {
    alone!();
    watchdog!();
    on_every_backend(exercise);
    until_all_threads_have_ended();
}

#[test]
fn futures_work_if_the_spawn_had_no_descriptors() {
    alone!();
    watchdog!();
    let full = NoDescriptors::left();
    let spawned = BEST.spawn(helper(&["sleep"]).stdin(Stdio::inherit()));
    let Ok(child) = spawned else {
        assert!(!unix::spawns_without_descriptors(), "std needs no descriptor to spawn");
        return;
    };
    let (none, polls) = is_idle("to poll", || counted(&mut child.wait_deadline_async(a_while())));
    assert_eq!(none.unwrap(), None);
    assert!(polls < 1000, "{polls} polls for nothing");
    assert_eq!(child.exit_notice().unwrap_err().kind(), io::ErrorKind::Unsupported);
    let mut exited = child.wait_async();
    let counter = Arc::new(WakeCounter::default());
    assert!(poll(&mut exited, &counter).is_pending());
    child.kill().unwrap();
    assert!(!finish(&mut exited).unwrap().success());
    drop(full);
    exercise(BEST);
}

#[cfg(target_os = "linux")]
#[test]
fn futures_work_if_the_reaper_has_no_descriptors() {
    alone!();
    watchdog!();
    let (child, other) = (sleeper(BEST), sleeper(BEST));
    let full = NoDescriptors::left();
    let mut exited = child.wait_async();
    let counter = Arc::new(WakeCounter::default());
    assert!(poll(&mut exited, &counter).is_pending());
    let (none, polls) = is_idle("to poll", || counted(&mut child.wait_deadline_async(a_while())));
    assert_eq!(none.unwrap(), None);
    assert!(polls < 1000, "{polls} polls for nothing");
    child.kill().unwrap();
    assert!(!finish(&mut exited).unwrap().success());
    // The notice of a running child exists already; the notice of an ended child requires a new descriptor.
    other.exit_notice().unwrap();
    other.kill().unwrap();
    assert!(!block_on(other.wait_async()).unwrap().success());
    let full_again = NoDescriptors::left();
    assert_eq!(other.exit_notice().unwrap_err().raw_os_error(), Some(libc::EMFILE));
    drop((full, full_again));
    exercise(BEST);
}

/// The reaper thread started without descriptors, and still runs.
#[test]
fn futures_are_no_longer_polled_once_descriptors_are_free() {
    alone!();
    watchdog!();
    let (first, second) = (sleeper(BEST), sleeper(BEST));
    let full = NoDescriptors::left();
    assert!(poll(&mut first.wait_async(), &Arc::default()).is_pending());
    drop(full);
    let mut exited = second.wait_deadline_async(Instant::now() + Duration::from_secs(1));
    let (none, polls) = counted(&mut exited);
    assert_eq!(none.unwrap(), None);
    assert!(polls < 10, "{polls} polls for nothing");
    kill_and_wait(&first);
    kill_and_wait(&second);
}

#[cfg(target_os = "linux")]
#[test]
fn futures_work_without_threads() {
    alone!();
    watchdog!();
    deny(&Deny::threads());
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
    on_every_backend(exercise);
}

/// The reaper thread runs, but no thread can start that would wait for the child.
#[cfg(target_os = "linux")]
#[test]
fn futures_work_if_no_more_threads_start() {
    alone!();
    watchdog!();
    let (kept, stdin) = stoppable(BEST, 8);
    let mut exited = kept.wait_async();
    assert!(poll(&mut exited, &Arc::default()).is_pending());
    deny(&Deny::threads());
    on_every_backend(exercise);
    drop(stdin);
    assert_eq!(finish(&mut exited).unwrap().code(), Some(8));
}

#[cfg(target_os = "linux")]
#[test]
fn futures_work_without_pidfds() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_pidfd_open, libc::ENOSYS)]);
    exercise(BEST);
    let child = sleeper(BEST);
    assert_eq!(child.exit_notice().unwrap_err().kind(), io::ErrorKind::Unsupported);
    kill_and_wait(&child);
}

#[cfg(target_os = "linux")]
#[test]
fn futures_work_without_epoll() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_epoll_create1, libc::EPERM)]);
    on_every_backend(exercise);
}

/// Other code of the process closes the epoll: every task is woken, and the next reaper thread has a new epoll.
#[cfg(target_os = "linux")]
#[test]
fn replaced_event_queue_wakes_every_task() {
    alone!();
    watchdog!();
    let [(first, pipe), (second, other_pipe)] = [7, 8].map(|code| stoppable(BEST, code));
    let (mut one, mut two) = (first.wait_async(), second.wait_deadline_async(end_of_time()));
    let counter = Arc::new(WakeCounter::default());
    assert!(poll(&mut one, &Arc::default()).is_pending());
    assert!(poll(&mut two, &counter).is_pending());
    linux::replace_epolls();
    drop(pipe);
    assert_eq!(finish(&mut one).unwrap().code(), Some(7));
    counter.wait_beyond(0);
    assert!(poll(&mut two, &counter).is_pending());
    drop(other_pipe);
    assert_eq!(finish(&mut two).unwrap().unwrap().code(), Some(8));
    until_all_threads_have_ended();
}

#[test]
fn foreign_reap_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let mut futures: Vec<_> = (0..3).map(|_| child.wait_async()).collect();
        let mut by_deadline = child.wait_deadline_async(end_of_time());
        for future in &mut futures {
            assert!(poll(future, &Arc::default()).is_pending());
        }
        let counter = Arc::new(WakeCounter::default());
        assert!(poll(&mut by_deadline, &counter).is_pending());
        drop(stdin);
        unix::reap(child.id());
        counter.wait_beyond(0);
        for future in &mut futures {
            assert_true_or_lost(backend, finish(future), 7);
            assert_true_or_lost(backend, finish(future), 7);
        }
        assert_true_or_lost(backend, finish(&mut by_deadline).map(Option::unwrap), 7);
        assert_true_or_lost(backend, block_on(child.stop_async(Duration::ZERO)), 7);
    });
}

#[test]
fn ignored_sigchld_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    // This requires a child that can be reaped, so it runs before SIGCHLD is ignored.
    unix::knows_status_of_reaped(BEST);
    unix::on_sigchld(libc::SIG_IGN);
    on_every_backend(|backend| {
        for _ in 0..rounds(50) {
            let (child, stdin) = stoppable(backend, 7);
            let all = run_all((0..3).map(|_| child.wait_async()), || drop(stdin));
            all.into_iter().for_each(|(_, answer)| assert_true_or_lost(backend, answer, 7));
        }
    });
    until_all_threads_have_ended();
}

/// The parent cannot reap the child before the tracer detaches; polling for it must not spin.
#[cfg(target_os = "linux")]
#[test]
fn traced_zombie_is_reported_after_its_release() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        let mut early = child.wait_async();
        assert!(poll(&mut early, &Arc::default()).is_pending());
        let release = linux::trace_from_a_fork(child.id());
        child.kill().unwrap();
        until("a zombie", || unix::is_zombie(child.id()));
        let (answer, polls) =
            is_idle("to poll", || counted(&mut child.wait_deadline_async(a_while())));
        assert_eq!(answer.unwrap(), None, "its tracer holds it");
        assert!(polls < 1000, "{polls} polls for nothing");
        let mut late = child.wait_async();
        for future in [&mut early, &mut late] {
            assert!(poll(future, &Arc::default()).is_pending());
        }
        let all = run_all([early, late], release);
        assert!(all.into_iter().all(|(_, status)| !status.unwrap().success()));
    });
    until_all_threads_have_ended();
}

/// The child of a fork may drop its copies, and await children of its own.
#[test]
fn forked_copies_affect_no_task_of_the_parent() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for at_work in [false, true] {
            let (child, stdin) = shared(backend, 7);
            let counter = Arc::new(WakeCounter::default());
            let mut copied: Vec<_> = (0..3).map(|_| owned(&child)).collect();
            for future in &mut copied {
                assert!(poll(future, &counter).is_pending());
            }
            let mut by_deadline = child.wait_deadline_async(Instant::now() + LONG);
            assert!(poll(&mut by_deadline, &counter).is_pending());
            let mut copied = Some((copied, Arc::clone(&child)));
            let forked = || {
                let (own, stdin) = stoppable(backend, 8);
                let own_counter = Arc::new(WakeCounter::default());
                let mut exited = own.wait_async();
                assert!(poll(&mut exited, &own_counter).is_pending());
                // Its registration must not replace one of the parent with the same number.
                drop(copied.take());
                let none =
                    block_on(own.wait_deadline_async(Instant::now() + Duration::from_millis(5)));
                assert_eq!(none.unwrap(), None);
                drop(stdin);
                own_counter.wait_beyond(0);
                finish(&mut exited).unwrap().code().unwrap() as u8
            };
            let code = if at_work {
                seam::while_the_reaper_works(|| unix::in_a_fork(forked))
            } else {
                unix::in_a_fork(forked)
            };
            assert_eq!(code, 8);
            assert_eq!(counter.count(), 0, "the fork woke tasks of its parent");
            drop(stdin);
            let (copied, child) = copied.expect("only the fork has dropped it");
            let all = run_all(copied, || ());
            assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
            assert_eq!(finish(&mut by_deadline).unwrap().unwrap().code(), Some(7));
            assert_eq!(wait(&child).code(), Some(7));
        }
    });
    until_all_threads_have_ended();
}
