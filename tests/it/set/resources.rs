//! Promise: a set needs no thread where children have descriptors, spins nowhere, and keeps nothing of the children that
//! left it.

#![cfg(unix)]

use super::*;
#[cfg(target_os = "linux")]
use crate::common::unix::NoDescriptors;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::os::unix::net::UnixStream;
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt;

pub(super) const BEST: Backend = Backend::ALL[0];

pub(super) const BY_THREAD: Backend = Backend::ALL[1];

/// The length of a wait without events, and the processor time that it may use. A loop that spins uses all of it.
const WHILE: Duration = Duration::from_millis(500);

const HARDLY_ANY: Duration = Duration::from_millis(150);

/// Asserts that no child exits, and that the wait does not spin.
#[track_caller]
pub(super) fn is_idle<K: Clone + Eq + Hash>(set: &ChildSet<K>) {
    let before = unix::cpu_time();
    assert!(set.wait_next_timeout(WHILE).is_none(), "a child was handed out");
    let used = unix::cpu_time() - before;
    assert!(used < HARDLY_ANY, "it spins: {used:?}");
}

#[track_caller]
pub(super) fn nothing_is_left(descriptors: usize) {
    until("no threads", || unix::helper_threads().is_empty());
    until("no children", || unix::children().is_empty());
    until("no descriptors", || unix::descriptors() == descriptors);
}

/// How many descriptors are in the epolls of this process.
#[cfg(target_os = "linux")]
pub(super) fn watched() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo").expect("/proc").flatten();
    // The descriptor of the listing itself is closed by then, or lists none.
    let infos = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok());
    infos.map(|info| info.matches("tfd:").count()).sum()
}

#[cfg(target_os = "linux")]
#[test]
fn children_with_a_descriptor_need_no_thread() {
    alone!();
    watchdog!();
    let before = unix::descriptors();
    let set = ChildSet::new();
    for n in 0..children(200) {
        set.insert(n, sleeper(BEST));
    }
    thread::scope(|scope| {
        let waiter = blocked(scope, || next(&set).key);
        let started = unix::helper_threads();
        assert_eq!(started, [] as [&str; 0]);
        set.get(&3).unwrap().kill().unwrap();
        assert_eq!(waiter.join().unwrap(), 3);
    });
    assert_eq!(unix::helper_threads(), [] as [&str; 0]);
    set.kill_all().unwrap();
    while set.wait_next().is_some() {}
    drop(set);
    nothing_is_left(before);
}

#[test]
fn blocked_waiters_use_no_processor_time() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        for n in 0..50 {
            set.insert(n, sleeper(backend));
        }
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..8).map(|_| blocked(scope, || set.wait_next())).collect();
            is_idle(&set);
            set.kill_all().unwrap();
            let got = waiters.into_iter().filter_map(|waiter| waiter.join().unwrap());
            assert_eq!(got.count() + std::iter::from_fn(|| set.wait_next()).count(), 50);
        });
        is_over(&set);
    });
}

#[test]
fn dropped_set_leaves_its_children_running() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let before = unix::descriptors();
        let children: Vec<_> = (0..20).map(|_| Arc::new(sleeper(backend))).collect();
        let theirs = unix::descriptors();
        for round in 0..20 {
            let set = ChildSet::new();
            for (n, child) in children.iter().enumerate() {
                set.insert(n, Arc::clone(child));
                set.insert(100 + n, Arc::clone(child));
            }
            if round % 2 == 0 {
                assert!(set.wait_next_timeout(Duration::ZERO).is_none());
            }
            drop(set);
            // A registration that stayed would keep the event queue open.
            assert_eq!(unix::descriptors(), theirs, "in round {round}");
        }
        let alive = |child: &Arc<SharedChild>| child.try_wait().unwrap().is_none();
        assert!(children.iter().all(alive), "they run on");
        assert_eq!(unix::children().len(), 20);
        // A child without another handle continues, and is reaped.
        let (child, stdin) = stoppable(backend, 0);
        let pid = child.id();
        let set = ChildSet::new();
        set.insert((), child);
        drop(set);
        assert!(unix::is_alive(pid));
        drop(stdin);
        children.iter().for_each(|child| kill_and_wait(child));
        drop(children);
        nothing_is_left(before);
    });
}

#[test]
fn removed_children_leave_no_descriptor() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let before = unix::descriptors();
        let set = ChildSet::new();
        let with_set = unix::descriptors();
        let child = Arc::new(sleeper(backend));
        let with_child = unix::descriptors();
        for _ in 0..rounds(100) {
            set.insert(1, Arc::clone(&child));
            set.insert(2, Arc::clone(&child));
            set.insert(1, Arc::clone(&child));
            set.remove(&1);
            set.remove(&2);
            assert_eq!(unix::descriptors(), with_child);
        }
        for n in 0..rounds(100) {
            set.insert(1, quick(backend, code(n)));
            assert_eq!(next_code(&set), (1, code(n)));
        }
        kill_and_wait(&child);
        drop(child);
        until("the descriptors of the children are closed", || unix::descriptors() == with_set);
        drop(set);
        nothing_is_left(before);
    });
}

/// A pidfd that is open elsewhere stays in an epoll until it is removed.
#[cfg(target_os = "linux")]
#[test]
fn removed_children_leave_the_epoll() {
    alone!();
    watchdog!();
    let set = ChildSet::new();
    let (child, stdin) = stoppable(BEST, 7);
    let (child, none) = (Arc::new(child), watched());
    let held = child.exit_notice().unwrap();
    for key in 0..3 {
        set.insert(key, Arc::clone(&child));
    }
    assert_eq!(watched(), none + 3);
    for (key, left) in [(1, 2), (0, 1)] {
        set.remove(&key).unwrap();
        assert_eq!(watched(), none + left);
    }
    assert!(set.insert(2, Arc::clone(&child)).is_some());
    assert_eq!(watched(), none + 1);
    drop(stdin);
    assert_eq!(next_code(&set), (2, 7));
    assert_eq!(watched(), none);
    drop(held);
}

/// A waiter wakes for polls only while the set has a child without notification.
#[cfg(target_os = "linux")]
#[test]
fn removed_children_are_no_longer_polled() {
    alone!();
    watchdog!();
    let full = NoDescriptors::left();
    let set = ChildSet::new();
    drop(full);
    let notified = Arc::new(sleeper(BY_THREAD));
    set.insert(0, Arc::clone(&notified));
    for n in 1..=2 {
        set.insert(n, sleeper(BEST));
    }
    let before = linux::sleeps_of(linux::this_thread());
    assert!(set.wait_next_timeout(WHILE).is_none());
    let polling = linux::sleeps_of(linux::this_thread()) - before;
    // One child is removed, the other handed out.
    kill_and_wait(&set.remove(&1).unwrap());
    set.get(&2).unwrap().kill().unwrap();
    assert_eq!(next(&set).key, 2);
    let before = linux::sleeps_of(linux::this_thread());
    assert!(set.wait_next_timeout(WHILE).is_none());
    let not_polling = linux::sleeps_of(linux::this_thread()) - before;
    assert!(not_polling < 10, "{not_polling} times, {polling} before that");
    kill_and_wait(&notified);
    assert_eq!(next(&set).key, 0);
    is_over(&set);
    eprintln!("{not_polling} times, {polling} before that");
}

#[cfg(target_os = "linux")]
#[test]
fn thousands_of_children_need_no_thread() {
    if !unix::is_root() {
        eprintln!("{} skipped: this requires root", function_name!());
        return;
    }
    alone!();
    watchdog!();
    let count = rounds(2_000).min(5_000);
    let limit = libc::rlimit { rlim_cur: 20_000, rlim_max: 20_000 };
    // SAFETY: the struct outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        let (name, error) = (function_name!(), std::io::Error::last_os_error());
        eprintln!("{name} skipped: no more descriptors: {error}");
        return;
    }
    let start = Instant::now();
    let set = ChildSet::new();
    let (theirs, ours) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    for n in 0..count {
        // Each child reads the one pipe to its end, which takes little memory.
        let mut command = helper(&["read", "exit", &code(n).to_string()]);
        command.stdin(theirs.try_clone().unwrap());
        set.insert(n, BEST.spawn(&mut command).unwrap());
    }
    eprintln!("spawned after {:?}", start.elapsed());
    assert_eq!(set.len(), count);
    assert_eq!(unix::helper_threads(), [] as [&str; 0]);
    is_idle(&set);
    // Some one by one; then all the others at once.
    for n in (0..count).step_by(100) {
        set.get(&n).unwrap().kill().unwrap();
        let finished = next(&set);
        assert_eq!((finished.key, finished.status.unwrap().signal()), (n, Some(libc::SIGKILL)));
    }
    drop((theirs, ours));
    let mut handed_out = vec![false; count];
    for _ in 0..count - count / 100 {
        let (n, reported) = next_code(&set);
        assert_eq!(reported, code(n));
        assert!(!std::mem::replace(&mut handed_out[n], true), "twice");
    }
    is_over(&set);
    assert_eq!(unix::children(), [] as [u32; 0]);
    eprintln!("all have ended after {:?}", start.elapsed());
}
