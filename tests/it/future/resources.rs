//! Promise: futures need one thread that sleeps, and leave no thread, descriptor or zombie.

#![cfg(unix)]

use super::*;
use std::mem::ManuallyDrop;
#[cfg(target_os = "linux")]
use std::process::Stdio;

pub(super) const BEST: Backend = Backend::ALL[0];

/// The threads end after a second without work.
#[track_caller]
fn until_ended(is_one: impl Fn(&str) -> bool) {
    until("the threads have ended", || {
        thread::sleep(Duration::from_millis(2));
        !unix::helper_threads().iter().any(|name| is_one(name))
    });
}

#[track_caller]
pub(super) fn until_all_threads_have_ended() {
    until_ended(|_| true);
}

/// Asserts that a wait without events uses hardly any processor time.
pub(super) fn is_idle<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let before = unix::cpu_time();
    let answer = run();
    let used = unix::cpu_time() - before;
    assert!(used < Duration::from_millis(200), "{what} took {used:?} of CPU");
    answer
}

const A_WHILE: Duration = Duration::from_millis(400);

pub(super) fn a_while() -> Instant {
    Instant::now() + A_WHILE
}

#[test]
fn futures_leave_no_thread_descriptor_or_zombie() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let before = unix::descriptors();
        let far = || Instant::now() + 60 * LONG;
        for round in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 7);
            let (mut one, mut two) = (child.wait_async(), child.wait_deadline_async(far()));
            let counter = Arc::new(WakeCounter::default());
            assert!(poll(&mut one, &counter).is_pending());
            assert!(poll(&mut two, &counter).is_pending());
            if round % 3 == 0 {
                drop((one, two));
            } else if round % 3 == 1 {
                drop(stdin);
                assert_eq!(finish(&mut one).unwrap().code(), Some(7));
                assert_eq!(finish(&mut two).unwrap().unwrap().code(), Some(7));
                continue;
            }
            drop(stdin);
            wait(&child);
        }
        until_all_threads_have_ended();
        until("no descriptors", || unix::descriptors() == before);
        assert_eq!(unix::children(), [] as [u32; 0]);
    });
}

/// The reaper thread does not wait for a deadline that no future has.
#[cfg(target_os = "linux")]
#[test]
fn dropped_deadline_keeps_no_thread() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for exits in [true, false] {
            let (child, stdin) = stoppable(backend, 7);
            let mut exited = child.wait_deadline_async(Instant::now() + 60 * LONG);
            assert!(poll(&mut exited, &Arc::default()).is_pending());
            until("it sleeps", || {
                unix::helper_threads().contains(&"child-watcher".to_owned())
                    && linux::helper_threads_rest()
            });
            let stdin = (!exits).then_some(stdin);
            if exits {
                assert_eq!(finish(&mut exited).unwrap().unwrap().code(), Some(7));
            }
            drop(exited);
            until_ended(|name| name == "child-watcher");
            drop(stdin);
            wait(&child);
        }
    });
}

#[test]
fn deadline_of_an_exited_child_starts_no_thread() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        let mut exited = child.wait_deadline_async(Instant::now() + LONG);
        let Poll::Ready(status) = poll(&mut exited, &Arc::default()) else { panic!("it has") };
        assert_eq!(status.unwrap().unwrap().code(), Some(7));
        assert!(!unix::helper_threads().iter().any(|name| name == "child-watcher"));
    });
}

#[test]
fn forgotten_future_keeps_no_zombie() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for exited in [true, false] {
            let before = unix::descriptors();
            let (child, stdin) = stoppable(backend, 7);
            let mut forgotten = ManuallyDrop::new(child.wait_async());
            assert!(poll(&mut *forgotten, &Arc::default()).is_pending());
            let stdin = (!exited).then_some(stdin);
            if exited {
                unix::wait_for_zombie(child.id());
            }
            drop(child);
            drop(stdin);
            until("reaped", || unix::children().is_empty());
            until_all_threads_have_ended();
            until("no descriptors", || unix::descriptors() == before);
        }
    });
}

#[cfg(target_os = "linux")]
fn sleeps_of_the_watcher() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let statuses = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
    let mut watchers = statuses.filter(|status| status.contains("child-watcher"));
    let status = watchers.next().expect("a watcher");
    linux::sleeps_in(&status)
}

#[cfg(target_os = "linux")]
#[test]
fn one_sleeping_thread_serves_all_tasks() {
    alone!();
    watchdog!();
    let (children, pipes): (Vec<_>, Vec<_>) = (0..64).map(|_| stoppable(BEST, 7)).unzip();
    // Two futures per child.
    let futures = children.iter().chain(&children).map(SharedChild::wait_async);
    let all = run_all(futures, || {
        until("it sleeps", || {
            unix::helper_threads() == ["child-watcher"] && linux::helper_threads_rest()
        });
        let before = sleeps_of_the_watcher();
        is_idle("to wait for 64 children", || {
            let (other, _stdin) = stoppable(BEST, 7);
            // This thread waits, not the reaper thread, whose wake-ups are counted.
            assert_eq!(other.wait_timeout(A_WHILE).unwrap(), None);
            other.kill().unwrap();
            wait(&other);
        });
        let woken = sleeps_of_the_watcher() - before;
        assert!(woken < 5, "it was woken {woken} times for nothing");
        assert_eq!(unix::helper_threads(), ["child-watcher"]);
        drop(pipes);
    });
    assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
    until_all_threads_have_ended();
}

#[cfg(target_os = "linux")]
#[test]
fn thousands_of_children_need_one_thread() {
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
        eprintln!("{} skipped: no more descriptors are allowed", function_name!());
        return;
    }
    let before = unix::descriptors();
    // One pipe for all.
    let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let spawn_some = || -> Vec<_> {
        let spawn = |_| {
            let theirs = std::os::fd::OwnedFd::from(theirs.try_clone().unwrap());
            BEST.spawn(helper(&["read", "exit", "7"]).stdin(Stdio::from(theirs))).unwrap()
        };
        (0..count / 2).map(spawn).collect()
    };
    let children: Vec<_> = thread::scope(|scope| {
        let others = scope.spawn(spawn_some);
        let mut all = spawn_some();
        all.extend(others.join().unwrap());
        all
    });
    drop(theirs);
    let all = run_all(children.iter().map(SharedChild::wait_async), || {
        until("one watcher", || unix::helper_threads() == ["child-watcher"]);
        drop(ours);
    });
    assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
    until("no descriptors", || unix::descriptors() <= before + 2);
    until_all_threads_have_ended();
    assert_eq!(unix::descriptors(), before);
}

/// An event of a dropped child arrives when an orphan is registered, usually at the same address.
#[cfg(target_os = "linux")]
#[test]
fn late_event_does_not_remove_the_registration_of_another_child() {
    struct HoldsUp(Mutex<mpsc::Receiver<()>>);

    impl Wake for HoldsUp {
        fn wake(self: Arc<Self>) {
            let _ = self.0.lock().unwrap().recv_timeout(LONG);
        }
    }

    alone!();
    watchdog!();
    // The reaper thread is inside a waker.
    let (release, held_up) = mpsc::channel();
    let (held, held_stdin) = stoppable(BEST, 7);
    let mut future = held.wait_async();
    let waker = Waker::from(Arc::new(HoldsUp(Mutex::new(held_up))));
    assert!(poll_by(&mut future, &waker).is_pending());
    drop((waker, held_stdin));
    until("the reaper thread has noticed the exit", || {
        !poll(&mut held.wait_async(), &Arc::default()).is_pending()
    });
    wait(&held);
    // Meanwhile the exit of a dropped child is queued, and an orphan registers, usually at the address of that child.
    let orphans: Vec<_> = (0..rounds(20))
        .map(|_| {
            let (dropped, stdin) = stoppable(Backend::ALL[1], 8);
            let mut future = dropped.wait_async();
            assert!(poll(&mut future, &Arc::default()).is_pending());
            drop(stdin);
            wait(&dropped);
            drop(future);
            drop(dropped);
            let (orphan, stdin) = stoppable(BEST, 9);
            drop(orphan);
            stdin
        })
        .collect();
    release.send(()).unwrap();
    until("only the watcher is left", || unix::helper_threads() == ["child-watcher"]);
    // The reaper thread polls no child again and again.
    let awaited = sleeper(BEST);
    let before = sleeps_of_the_watcher();
    block_on(awaited.wait_deadline_async(Instant::now() + Duration::from_secs(1))).unwrap();
    let switches = sleeps_of_the_watcher() - before;
    kill_and_wait(&awaited);
    assert!(switches < 8, "{switches} times awake within a second");
    drop(orphans);
    until("reaped", || unix::children().is_empty());
}
