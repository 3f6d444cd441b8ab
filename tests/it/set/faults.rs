//! Promise: without descriptors, threads, waits or kills a set does what it still can; after a foreign reap or a fork
//! a member has its true status or a clear error.

#![cfg(unix)]

#[cfg(target_os = "linux")]
use super::resources::watched;
use super::resources::{BEST, BY_THREAD, is_idle, nothing_is_left};
use super::*;
#[cfg(target_os = "linux")]
use crate::common::linux::{Deny, deny};
use crate::common::unix::NoDescriptors;
use shared_child::unix::ReapedElsewhere;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::AtomicBool;

/// The clone of a key runs before an insert changes anything, and not when the exit is handed out.
#[cfg(target_os = "linux")]
#[test]
fn key_that_panics_changes_nothing() {
    static PANICS: AtomicBool = AtomicBool::new(false);

    #[derive(PartialEq, Eq, Hash)]
    struct Key;

    impl Clone for Key {
        fn clone(&self) -> Self {
            assert!(!PANICS.load(Ordering::Relaxed), "the key panics, on purpose");
            Self
        }
    }

    alone!();
    watchdog!();
    let set = ChildSet::new();
    let (child, stdin) = stoppable(BEST, 7);
    let (child, none) = (Arc::new(child), watched());
    PANICS.store(true, Ordering::Relaxed);
    let insert = || set.insert(Key, Arc::clone(&child));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(insert)).is_err());
    assert_eq!((set.len(), watched()), (0, none));
    PANICS.store(false, Ordering::Relaxed);
    assert!(insert().is_none());
    assert_eq!((set.len(), watched()), (1, none + 1));
    PANICS.store(true, Ordering::Relaxed);
    drop(stdin);
    assert_eq!(next_code(&set).1, 7);
    is_over(&set);
}

/// Other code of the process closes the epoll: from then on the set polls every child.
#[cfg(target_os = "linux")]
#[test]
fn set_polls_after_its_event_queue_was_replaced() {
    alone!();
    watchdog!();
    let set = ChildSet::new();
    let child = quick(BEST, 7);
    unix::wait_for_zombie(child.id());
    set.insert(0, child);
    linux::replace_epolls();
    assert_eq!(set.try_wait_next().expect("it has exited").key, 0);
    set.insert(1, sleeper(BEST));
    is_idle(&set);
    set.kill_all().unwrap();
    assert_eq!(next(&set).key, 1);
    is_over(&set);
}

/// Children with helper threads still report; the set polls the others.
#[test]
fn set_made_without_descriptors_polls_its_children() {
    alone!();
    watchdog!();
    let children = stoppable_children(12, backend);
    let late = stoppable_children(2, backend);
    let full = NoDescriptors::left();
    let set = ChildSet::new();
    let mut stdins = Vec::new();
    for (n, (child, stdin)) in children.into_iter().enumerate() {
        set.insert(n, child);
        stdins.push((n, stdin));
    }
    is_idle(&set);
    drop(full);
    // Free descriptors change nothing for this set.
    is_idle(&set);
    for (n, stdin) in stdins {
        drop(stdin);
        assert_eq!(next_code(&set), (n, code(n)));
    }
    is_over(&set);
    // A waiter that sleeps until an event is woken for a child that must be polled.
    for n in 0..2 {
        let set = &set;
        set.insert(100, sleeper(BY_THREAD));
        thread::scope(|scope| {
            let waiter = blocked(scope, || next(set).key);
            let child = stoppable(backend(n), 7);
            set.insert(n, child.0);
            drop(child.1);
            assert_eq!(waiter.join().unwrap(), n);
        });
        set.kill_all().unwrap();
        assert_eq!(next(set).key, 100);
    }
    for (n, (child, stdin)) in late.into_iter().enumerate() {
        set.insert(n, child);
        drop(stdin);
        assert_eq!(next_code(&set), (n, code(n)));
    }
    is_over(&set);
}

/// The pauses between the polls do not reach beyond the deadline.
#[test]
fn polled_exit_known_before_the_deadline_is_handed_out() {
    alone!();
    watchdog!();
    let full = NoDescriptors::left();
    let set = ChildSet::new();
    drop(full);
    let (mut on_time, count) = (0, 10);
    // On a machine that stalls, the exit may be known only after the deadline. Such rounds do not count.
    for n in 0..10 * count {
        let child = Arc::new(sleeper(BEST));
        set.insert(n, Arc::clone(&child));
        // The pauses have grown to 20 ms by then.
        let deadline = Instant::now() + Duration::from_millis(100);
        let (got, known) = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let left = deadline.saturating_duration_since(Instant::now());
                thread::sleep(left.saturating_sub(Duration::from_millis(8)));
                child.kill().unwrap();
                child.wait().unwrap();
                Instant::now()
            });
            (set.wait_next_deadline(deadline), killer.join().unwrap())
        });
        if known < deadline {
            let finished = got.expect("its exit was known before the deadline");
            assert_eq!(finished.status.unwrap().signal(), Some(libc::SIGKILL));
            on_time += 1;
        } else if got.is_none() {
            next(&set);
        }
        if on_time == count {
            break;
        }
    }
    is_over(&set);
    eprintln!("on time: {on_time}");
}

#[test]
fn children_spawned_without_descriptors_are_handed_out() {
    alone!();
    watchdog!();
    let set = ChildSet::new();
    let (other, stdin) = stoppable(BEST, 7);
    set.insert(0, other);
    let full = NoDescriptors::left();
    let spawned = BEST.spawn(helper(&["sleep"]).stdin(Stdio::inherit()));
    match spawned {
        Ok(child) => {
            assert!(format!("{child:?}").contains("Thread"), "{child:?}");
            set.insert(1, child);
        }
        Err(error) => {
            assert!(!unix::spawns_without_descriptors(), "std needs no descriptor: {error}");
        }
    }
    is_idle(&set);
    // A second entry of the same child requires a descriptor; without one, the set polls it.
    set.insert(2, set.get(&0).unwrap());
    is_idle(&set);
    if let Some(child) = set.get(&1) {
        child.kill().unwrap();
        assert_eq!(next(&set).key, 1);
    }
    drop(stdin);
    let mut both = [next_code(&set), next_code(&set)];
    both.sort_unstable();
    assert_eq!(both, [(0, 7), (2, 7)]);
    is_over(&set);
    drop(full);
}

/// A child that cannot be polled does not count as exited.
#[cfg(target_os = "linux")]
#[test]
fn kill_all_kills_where_every_wait_is_refused() {
    alone!();
    watchdog!();
    deny(&[
        Deny::always(libc::SYS_waitid, libc::EPERM),
        Deny::always(libc::SYS_wait4, libc::EPERM),
    ]);
    on_every_backend(|backend| {
        let (set, child) = (ChildSet::new(), Arc::new(sleeper(backend)));
        set.insert((), Arc::clone(&child));
        set.kill_all().unwrap();
        until("it is dead", || unix::is_zombie(child.id()));
    });
}

/// Waits are refused as well, so the set cannot know whether the child has exited.
#[cfg(target_os = "linux")]
#[test]
fn kill_all_reports_a_refused_kill() {
    alone!();
    watchdog!();
    let calls = [libc::SYS_waitid, libc::SYS_wait4, libc::SYS_kill, libc::SYS_pidfd_send_signal];
    deny(&calls.map(|call| Deny::always(call, libc::EPERM)));
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut stdins = Vec::new();
        for (child, stdin) in stoppable_children(1, |_| backend) {
            set.insert((), child);
            stdins.push(stdin);
        }
        let error = set.kill_all().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn set_works_without_threads() {
    alone!();
    watchdog!();
    // Children that have a thread already.
    let set = ChildSet::new();
    let early = stoppable_children(4, backend);
    let mut stdins = Vec::new();
    for (n, (child, stdin)) in early.into_iter().enumerate() {
        set.insert(n, child);
        stdins.push((n, stdin));
    }
    deny(&Deny::threads());
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
    for (n, (child, stdin)) in stoppable_children(12, backend).into_iter().enumerate().skip(4) {
        set.insert(n, child);
        stdins.push((n, stdin));
    }
    is_idle(&set);
    assert!(set.try_wait_next().is_none());
    stdins.sort_by_key(|(n, _)| (n * 5) % 12);
    for (n, stdin) in stdins {
        drop(stdin);
        assert_eq!(next_code(&set), (n, code(n)));
    }
    is_over(&set);
    // All exit at once.
    for n in 0..20 {
        set.insert(n, sleeper(backend(n)));
    }
    set.kill_all().unwrap();
    assert_eq!(std::iter::from_fn(|| set.wait_next()).count(), 20);
}

/// The status is true, or the error says that other code has reaped the child, as the child itself does.
#[track_caller]
fn assert_true_or_lost(finished: Finished<usize>) {
    match finished.status {
        Ok(status) => assert_eq!(status.code(), Some(code(finished.key))),
        Err(error) => {
            assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error:?}");
            assert!(finished.child.wait().is_err(), "the set and the child disagree");
        }
    }
}

#[test]
fn foreign_waitpid_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let (set, over) = (ChildSet::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: the status pointer may be null.
                    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
                }
            });
            for _ in 0..rounds(10) {
                let mut stdins = Vec::new();
                for (n, (child, stdin)) in
                    stoppable_children(10, |_| backend).into_iter().enumerate()
                {
                    set.insert(n, child);
                    stdins.push(stdin);
                }
                // A child that may have been reaped before it enters the set.
                set.insert(10, quick(backend, code(10)));
                let waiter = scope.spawn(|| (0..5).map(|_| next(&set)).collect::<Vec<_>>());
                drop(stdins);
                let ours: Vec<_> = (0..6).map(|_| next(&set)).collect();
                let mut keys = Vec::new();
                for finished in ours.into_iter().chain(waiter.join().unwrap()) {
                    keys.push(finished.key);
                    assert_true_or_lost(finished);
                }
                keys.sort_unstable();
                assert!(keys.into_iter().eq(0..11));
                is_over(&set);
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn ignored_sigchld_gives_the_true_status_or_an_error() {
    alone!();
    watchdog!();
    unix::on_sigchld(libc::SIG_IGN);
    on_every_backend(|backend| {
        let set = ChildSet::new();
        for _ in 0..rounds(10) {
            let mut stdins = Vec::new();
            for (n, (child, stdin)) in stoppable_children(5, |_| backend).into_iter().enumerate() {
                set.insert(n, child);
                stdins.push(stdin);
            }
            set.insert(5, quick(backend, code(5)));
            drop(stdins);
            (0..6).for_each(|_| assert_true_or_lost(next(&set)));
            is_over(&set);
        }
    });
    unix::on_sigchld(libc::SIG_DFL);
}

/// The exit is reported, but the parent cannot reap the child before the tracer releases it.
#[cfg(target_os = "linux")]
#[test]
fn traced_zombie_is_handed_out_after_its_release() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let (set, child) = (ChildSet::new(), Arc::new(sleeper(backend)));
        let release = linux::trace_from_a_fork(child.id());
        let before = unix::descriptors();
        set.insert("before", Arc::clone(&child));
        child.kill().unwrap();
        until("a zombie", || unix::is_zombie(child.id()));
        assert!(set.try_wait_next().is_none(), "its tracer holds it");
        is_idle(&set);
        set.insert("after", Arc::clone(&child));
        is_idle(&set);
        assert!(set.remove(&"after").is_some());
        set.insert("after", Arc::clone(&child));
        // Other children are handed out meanwhile.
        set.insert("other", quick(backend, 7));
        assert_eq!(next_code(&set), ("other", 7));
        is_idle(&set);
        release();
        let mut keys = [next(&set), next(&set)].map(|finished| {
            assert_eq!(finished.status.unwrap().signal(), Some(libc::SIGKILL));
            finished.key
        });
        keys.sort_unstable();
        assert_eq!(keys, ["after", "before"]);
        is_over(&set);
        drop((set, child));
        until("no descriptors", || unix::descriptors() < before);
    });
}

/// The copy refers to the children and the event queue of the parent; its drop changes neither.
#[test]
fn fork_that_drops_its_copy_affects_no_child_of_the_parent() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let mut set = Some(ChildSet::new());
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in stoppable_children(5, |_| backend).into_iter().enumerate() {
            let (set, child) = (set.as_ref().unwrap(), Arc::new(child));
            set.insert(n, Arc::clone(&child));
            set.insert(100 + n, child);
            stdins.push((n, stdin));
        }
        let dropped = unix::in_a_fork(|| {
            drop(set.take());
            1
        });
        assert_eq!(dropped, 1);
        let set = set.expect("only the fork has dropped it");
        is_idle(&set);
        for (n, stdin) in stdins {
            drop(stdin);
            let mut both = [next_code(&set), next_code(&set)];
            both.sort_unstable();
            assert_eq!(both, [(n, code(n)), (100 + n, code(n))]);
        }
        is_over(&set);
    });
}

/// The parent drops its set while the copy exists.
#[test]
fn fork_that_keeps_its_copy_keeps_no_child_in_the_set() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let before = unix::descriptors();
        let (set, child) = (ChildSet::new(), Arc::new(sleeper(backend)));
        set.insert(1, Arc::clone(&child));
        let (ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls alone, and ends by `_exit`.
        let fork = unsafe { libc::fork() };
        if fork == 0 {
            drop(ours);
            let _ = std::io::Read::read(&mut &theirs, &mut [0]);
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        drop(theirs);
        // A removed child is not reported, although the copy holds its descriptor.
        set.remove(&1);
        set.insert(2, quick(backend, 7));
        kill_and_wait(&child);
        drop(child);
        assert_eq!(next_code(&set), (2, 7));
        is_over(&set);
        drop(set);
        drop(ours);
        assert_eq!(unix::reap(u32::try_from(fork).unwrap()), 0);
        nothing_is_left(before);
    });
}
