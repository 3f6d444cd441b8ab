//! Promise: whoever waits for many children hears of each exit once, in order, whatever others do to the set and to the
//! children meanwhile.

use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{ChildSet, Finished, SharedChild, SpawnOptions};
use std::hash::Hash;
use std::io::Read;
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// The next one, but not for ever.
#[track_caller]
fn next<K: Clone + Eq + Hash>(set: &ChildSet<K>) -> Finished<K> {
    set.wait_next_timeout(LONG).expect("one to exit")
}

/// The key and the exit code of the next.
#[track_caller]
fn next_code<K: Clone + Eq + Hash>(set: &ChildSet<K>) -> (K, i32) {
    let finished = next(set);
    let status = finished.status.expect("a status");
    // Whoever has the child agrees.
    assert_eq!(finished.child.try_wait().unwrap(), Some(status));
    (finished.key, status.code().expect("an exit code"))
}

#[track_caller]
fn is_over<K: Clone + Eq + Hash>(set: &ChildSet<K>) {
    assert!(set.is_empty());
    assert!(set.try_wait_next().is_none());
    assert!(set.wait_next().is_none(), "nobody is there to be waited for");
    assert!(set.wait_next_timeout(Duration::MAX).is_none());
}

/// A code that tells one child from another. (There are 256.)
fn code(n: usize) -> i32 {
    i32::try_from(n % 256).expect("eight bits")
}

fn backend(n: usize) -> Backend {
    Backend::ALL[n % Backend::ALL.len()]
}

/// A thread that is blocked, as far as can be told here; and what it gets in the end.
fn blocked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    wait: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (send, receive) = mpsc::channel();
    let waiter = scope.spawn(move || {
        #[cfg(target_os = "linux")]
        // SAFETY: it cannot fail.
        send.send(unsafe { libc::gettid() }).unwrap();
        #[cfg(not(target_os = "linux"))]
        send.send(()).unwrap();
        drop(send);
        wait()
    });
    #[cfg(target_os = "linux")]
    linux::until_asleep(receive.recv().unwrap());
    #[cfg(not(target_os = "linux"))]
    receive.recv().unwrap();
    waiter
}

#[test]
fn who_has_exited_before_is_handed_out_at_once() {
    watchdog!();
    on_every_backend(|backend| {
        type Look = fn(&ChildSet<u32>) -> Option<Finished<u32>>;
        let looks: [Look; 5] = [
            ChildSet::wait_next,
            ChildSet::try_wait_next,
            |set| set.wait_next_timeout(Duration::ZERO),
            |set| set.wait_next_timeout(Duration::MAX),
            |set| set.wait_next_deadline(Instant::now()),
        ];
        let set = ChildSet::new();
        for (n, look) in (0..).zip(looks) {
            assert!(set.try_wait_next().is_none());
            // It is known.
            let child = quick(backend, 7);
            wait(&child);
            assert!(set.insert(n, child).is_none());
            let finished = look(&set).expect("it has exited");
            assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(7)));
            // It is a zombie.
            #[cfg(unix)]
            {
                let child = quick(backend, 8);
                unix::wait_for_zombie(child.id());
                set.insert(n, child);
                let finished = look(&set).expect("it has exited");
                assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(8)));
            }
            // It is not asked for, but by the last.
            let (child, stdin) = stoppable(backend, 9);
            set.insert(n, child);
            assert!(set.try_wait_next().is_none());
            assert!(set.wait_next_timeout(Duration::ZERO).is_none());
            let past = Instant::now();
            assert!(set.wait_next_deadline(past).is_none());
            assert_eq!(set.len(), 1);
            drop(stdin);
            wait(&set.get(&n).unwrap());
            let finished = set.wait_next_deadline(past).expect("it looks once");
            assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(9)));
        }
        is_over(&set);
    });
}

#[test]
fn an_empty_set_has_nobody_to_wait_for() {
    watchdog!();
    let set = ChildSet::<String>::default();
    is_over(&set);
    assert!(set.wait_next_deadline(Instant::now() + LONG).is_none());
    assert_eq!((set.len(), set.iter().len()), (0, 0));
    assert!(set.get(&String::new()).is_none());
    assert!(set.remove(&String::new()).is_none());
    set.kill_all().unwrap();
    set.stop_all(Duration::MAX).unwrap();
    assert!(format!("{set:?}").contains("len: 0"), "{set:?}");
}

#[test]
fn a_deadline_is_kept() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        set.insert(1, sleeper(backend));
        let (start, timeout) = (Instant::now(), Duration::from_millis(50));
        assert!(set.wait_next_timeout(timeout).is_none());
        assert!(start.elapsed() >= timeout);
        let deadline = Instant::now() + timeout;
        assert!(set.wait_next_deadline(deadline).is_none());
        assert!(Instant::now() >= deadline);
        set.kill_all().unwrap();
        assert!(!next(&set).status.unwrap().success());
        is_over(&set);
    });
}

/// A thread waits, with and without a deadline that no clock will show, while all this happens.
#[test]
fn a_waiter_is_woken_by_the_exit() {
    watchdog!();
    on_every_backend(|backend| {
        for without_deadline in [true, false] {
            let set = ChildSet::new();
            let (child, stdin) = stoppable(backend, 7);
            set.insert("it", child);
            thread::scope(|scope| {
                let waiter = blocked(scope, || {
                    if without_deadline {
                        set.wait_next()
                    } else {
                        set.wait_next_timeout(Duration::MAX)
                    }
                });
                assert!(!waiter.is_finished());
                drop(stdin);
                let finished = waiter.join().unwrap().expect("it has exited");
                assert_eq!(finished.status.unwrap().code(), Some(7));
            });
            is_over(&set);
        }
    });
}

#[test]
fn a_waiter_hears_of_what_is_inserted_meanwhile() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        set.insert(0, sleeper(backend));
        for n in 1..=rounds(20) {
            thread::scope(|scope| {
                let waiter = blocked(scope, || next_code(&set));
                match n % 3 {
                    0 => drop(set.insert(n, quick(backend, code(n)))),
                    1 => {
                        let child = quick(backend, code(n));
                        wait(&child);
                        set.insert(n, child);
                    }
                    _ => {
                        let (child, stdin) = stoppable(backend, code(n));
                        set.insert(n, child);
                        assert!(!waiter.is_finished());
                        drop(stdin);
                    }
                }
                assert_eq!(waiter.join().unwrap(), (n, code(n)));
            });
        }
        assert_eq!(set.len(), 1);
        set.kill_all().unwrap();
        assert_eq!(next(&set).key, 0);
    });
}

/// Those who wait are told that there is nobody left, whoever has taken out the last.
#[test]
fn waiters_leave_when_nobody_is_left() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(30) {
            let set = ChildSet::new();
            let (child, stdin) = stoppable(backend, 7);
            let mut stdin = Some(stdin);
            set.insert(1, child);
            thread::scope(|scope| {
                let waiters: Vec<_> = (0..4)
                    .map(|_| {
                        let wait = || set.wait_next().map(|finished| finished.key);
                        if round % 2 == 0 { blocked(scope, wait) } else { scope.spawn(wait) }
                    })
                    .collect();
                let expected = if round % 3 == 0 {
                    let removed = set.remove(&1).expect("nobody else has taken it");
                    assert_eq!(removed.try_wait().unwrap(), None, "nothing happens to it");
                    0
                } else {
                    drop(stdin.take());
                    1
                };
                let got = waiters.into_iter().filter_map(|waiter| waiter.join().unwrap()).count();
                assert_eq!(got, expected);
                drop(stdin);
            });
            is_over(&set);
        }
    });
}

#[test]
fn exits_race_inserts() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        for n in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, code(n));
            let start = Barrier::new(3);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(stdin);
                });
                // It may find that the set is empty yet.
                let waiter = scope.spawn(|| {
                    start.wait();
                    set.wait_next_timeout(LONG)
                });
                start.wait();
                set.insert(n, child);
                let heard = waiter.join().unwrap();
                let finished = heard.unwrap_or_else(|| next(&set));
                assert_eq!((finished.key, finished.status.unwrap().code()), (n, Some(code(n))));
            });
            is_over(&set);
        }
    });
}

/// Each is either handed out or removed.
#[test]
fn exits_race_removals() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut handed_out = 0;
        for n in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, code(n));
            set.insert(n, child);
            let start = Barrier::new(3);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    start.wait();
                    set.wait_next()
                });
                let removal = scope.spawn(|| {
                    start.wait();
                    // In half of the rounds the exit has a better chance.
                    for _ in 0..(n % 2) * 200 {
                        thread::yield_now();
                    }
                    set.remove(&n)
                });
                start.wait();
                drop(stdin);
                match (waiter.join().unwrap(), removal.join().unwrap()) {
                    (Some(finished), None) => {
                        assert_eq!(finished.key, n);
                        assert_eq!(finished.status.unwrap().code(), Some(code(n)));
                        handed_out += 1;
                    }
                    (None, Some(child)) => assert_eq!(wait(&child).code(), Some(code(n))),
                    (None, None) => panic!("nobody has got it"),
                    (Some(_), Some(_)) => panic!("both have got it"),
                }
            });
            is_over(&set);
        }
        eprintln!("{handed_out} were handed out");
    });
}

#[test]
fn another_child_with_the_same_key() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let (first, first_stdin) = stoppable(backend, 1);
        let (second, second_stdin) = stoppable(backend, 2);
        let first = Arc::new(first);
        assert!(set.insert("key", Arc::clone(&first)).is_none());
        let old = set.insert("key", second).expect("there was one");
        assert!(Arc::ptr_eq(&old, &first));
        assert_eq!(set.len(), 1);
        assert_eq!(first.try_wait().unwrap(), None, "nothing happens to it");
        drop(first_stdin);
        assert_eq!(wait(&old).code(), Some(1));
        assert!(set.try_wait_next().is_none(), "the first is not in the set any more");
        drop(second_stdin);
        assert_eq!(next_code(&set), ("key", 2));
        is_over(&set);
        // One that has exited, and that nobody has asked for yet.
        let (first, first_stdin) = stoppable(backend, 3);
        let (second, second_stdin) = stoppable(backend, 4);
        set.insert("key", first);
        drop(first_stdin);
        wait(&set.get(&"key").unwrap());
        assert_eq!(wait(&set.insert("key", second).unwrap()).code(), Some(3));
        assert!(set.try_wait_next().is_none());
        drop(second_stdin);
        assert_eq!(next_code(&set), ("key", 4));
        // The same one again.
        let (child, stdin) = stoppable(backend, 5);
        let child = Arc::new(child);
        assert!(set.insert("key", Arc::clone(&child)).is_none());
        for _ in 0..5 {
            assert!(Arc::ptr_eq(&set.insert("key", Arc::clone(&child)).unwrap(), &child));
        }
        drop(stdin);
        assert_eq!(next_code(&set), ("key", 5));
        is_over(&set);
    });
}

/// A key is taken by one child after the other, while they exit and others wait: each is either given back or handed
/// out.
#[test]
fn replacements_race_exits() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let count = rounds(100);
        let got = Mutex::new(Vec::new());
        set.insert(usize::MAX, sleeper(backend));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    // Until nobody is left.
                    while let Some(finished) = set.wait_next_timeout(LONG) {
                        if finished.key == usize::MAX {
                            break;
                        }
                        assert_eq!(finished.key, 0);
                        let code = finished.status.unwrap().code().expect("it was not killed");
                        got.lock().unwrap().push(code);
                    }
                });
            }
            for n in 0..count {
                if let Some(old) = set.insert(0, quick(backend, code(n))) {
                    got.lock().unwrap().push(wait(&old).code().unwrap());
                }
            }
            until("the last is handed out", || set.get(&0).is_none());
            set.get(&usize::MAX).unwrap().kill().unwrap();
        });
        assert!(set.is_empty());
        let mut got = got.into_inner().unwrap();
        got.sort_unstable();
        let mut all: Vec<_> = (0..count).map(code).collect();
        all.sort_unstable();
        assert_eq!(got, all);
    });
}

/// Twice in one set, and in several, some of which lose it before.
#[test]
fn one_child_in_many_places() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let child = Arc::new(child);
        let sets: [ChildSet<u32>; 3] = std::array::from_fn(|_| ChildSet::new());
        for set in &sets {
            for key in 0..4 {
                assert!(set.insert(key, Arc::clone(&child)).is_none());
            }
            // Not the one that came first, nor the last.
            assert!(Arc::ptr_eq(&set.remove(&0).unwrap(), &child));
            assert!(Arc::ptr_eq(&set.remove(&2).unwrap(), &child));
            set.insert(5, Arc::clone(&child));
            assert!(set.try_wait_next().is_none());
        }
        let dropped = ChildSet::new();
        dropped.insert(0, Arc::clone(&child));
        dropped.insert(1, Arc::clone(&child));
        drop(dropped);
        thread::scope(|scope| {
            let waiters: Vec<_> =
                sets.iter().map(|set| blocked(scope, || next_code(set))).collect();
            drop(stdin);
            for (set, waiter) in sets.iter().zip(waiters) {
                let mut all = vec![waiter.join().unwrap(), next_code(set), next_code(set)];
                all.sort_unstable();
                assert_eq!(all, [(1, 7), (3, 7), (5, 7)]);
                is_over(set);
            }
        });
        assert_eq!(Arc::strong_count(&child), 1, "nobody keeps it");
    });
}

/// So many at once, or fewer on an emulated machine.
fn children(usual: usize) -> usize {
    rounds(usual).min(usual)
}

/// Children that are told to exit with a code each.
fn told_to_exit(count: usize, which: impl Fn(usize) -> Backend) -> Vec<(SharedChild, ChildStdin)> {
    (0..count).map(|n| stoppable(which(n), code(n))).collect()
}

/// All are handed out, once each, with what they said.
fn all_once(count: usize, threads: usize, which: impl Fn(usize) -> Backend) {
    let set = ChildSet::new();
    let mut stdins = Vec::new();
    for (n, (child, stdin)) in told_to_exit(count, which).into_iter().enumerate() {
        set.insert(n, child);
        stdins.push(stdin);
    }
    let handed_out: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let start = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for way in 0..threads {
            let (set, handed_out, start) = (&set, &handed_out, &start);
            scope.spawn(move || {
                start.wait();
                while !set.is_empty() {
                    let finished = match way % 4 {
                        0 => set.try_wait_next(),
                        1 => set.wait_next_timeout(Duration::from_millis(1)),
                        _ => set.wait_next(),
                    };
                    let Some(finished) = finished else { continue };
                    assert_eq!(finished.status.unwrap().code(), Some(code(finished.key)));
                    handed_out[finished.key].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        start.wait();
        drop(stdins);
    });
    is_over(&set);
    let wrong: Vec<_> = (0..count)
        .map(|n| (n, handed_out[n].load(Ordering::Relaxed)))
        .filter(|(_, times)| *times != 1)
        .collect();
    assert_eq!(wrong, [], "handed out so many times");
}

#[test]
fn eight_threads_on_one_set() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(1).max(1) {
            all_once(children(120), 8, |_| backend);
        }
    });
}

#[test]
fn every_backend_in_one_set() {
    watchdog!();
    for _ in 0..rounds(1).max(1) {
        all_once(children(120), 3, backend);
    }
}

/// Several hundred exits at once; and again.
#[test]
fn bursts() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        all_once(children(300), 1, |_| backend);
        let set = ChildSet::new();
        for _ in 0..2 {
            let count = children(200);
            for n in 0..count {
                set.insert(n, sleeper(backend));
            }
            set.kill_all().unwrap();
            let mut keys: Vec<_> = (0..count).map(|_| next(&set).key).collect();
            keys.sort_unstable();
            assert!(keys.into_iter().eq(0..count));
            is_over(&set);
        }
    });
}

/// One is told to exit, and handed out, and only then the next.
#[test]
fn those_who_exit_one_after_the_other() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in told_to_exit(30, |_| backend).into_iter().enumerate() {
            set.insert(n, child);
            stdins.push((n, stdin));
        }
        // Neither the order in which they came nor the opposite.
        stdins.sort_by_key(|(n, _)| (n * 7) % 30);
        for (n, stdin) in stdins {
            assert!(set.try_wait_next().is_none());
            drop(stdin);
            assert_eq!(next_code(&set), (n, code(n)));
        }
        is_over(&set);
    });
}

/// What others know already is not kept from them, nor from the set.
#[test]
fn all_ways_to_wait_agree() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(10) {
            let count = 8;
            let (sets, all) =
                ([ChildSet::new(), ChildSet::new()], told_to_exit(count, |_| backend));
            let (children, stdins): (Vec<_>, Vec<_>) =
                all.into_iter().map(|(child, stdin)| (Arc::new(child), stdin)).unzip();
            for set in &sets {
                for (n, child) in children.iter().enumerate() {
                    set.insert(n, Arc::clone(child));
                }
            }
            thread::scope(|scope| {
                for set in sets.iter().chain(&sets) {
                    scope.spawn(|| {
                        while let Some(finished) = set.wait_next() {
                            let told = finished.status.unwrap().code();
                            assert_eq!(told, Some(code(finished.key)));
                        }
                    });
                }
                for (n, child) in children.iter().enumerate() {
                    scope.spawn(move || assert_eq!(wait(child).code(), Some(code(n))));
                    scope.spawn(move || assert_eq!(child.wait().unwrap().code(), Some(code(n))));
                    scope.spawn(move || {
                        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(code(n)));
                    });
                }
                drop(stdins);
            });
            sets.iter().for_each(is_over);
        }
    });
}

/// The simplest of all executors.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        let mut cx = std::task::Context::from_waker(&waker);
        if let std::task::Poll::Ready(answer) = future.as_mut().poll(&mut cx) {
            return answer;
        }
        thread::park_timeout(LONG);
    }
}

/// A tree of two, who have said that they are there; and what ends when both have.
fn tree_of_two(backend: Backend, theirs: &[&str]) -> (SharedChild, impl Read + Send + use<>) {
    let count = theirs.len().to_string();
    let parts = [&["spawn", &count], theirs, theirs].concat();
    let mut command = helper(&parts);
    command.stdout(Stdio::piped());
    let child = backend.spawn_with(SpawnOptions::new().tree(true), &mut command).expect("to spawn");
    let mut stdout = child.take_stdout().expect("a pipe");
    let (mut said, mut byte) = (Vec::new(), [0]);
    // "child N", and "ready" of both.
    while said.iter().filter(|byte| **byte == b'\n').count() < 3 {
        stdout.read_exact(&mut byte).expect("they are there");
        said.extend(byte);
    }
    (child, stdout)
}

/// The pipe is closed, by all who had it.
#[track_caller]
fn all_have_ended(mut stdout: impl Read) {
    assert_eq!(stdout.read_to_end(&mut Vec::new()).expect("to read"), 0);
}

#[test]
fn all_trees_are_killed() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut all = Vec::new();
        for n in 0..children(10) {
            let (child, stdout) = tree_of_two(backend, &["say", "ready", "sleep"]);
            set.insert(2 * n, child);
            set.insert(2 * n + 1, sleeper(backend));
            all.push(stdout);
        }
        let count = set.len();
        let seen: Vec<_> = set.iter().collect();
        set.kill_all().unwrap();
        assert_eq!(set.len(), count, "they stay until they are handed out");
        all.into_iter().for_each(all_have_ended);
        for _ in 0..count {
            let finished = next(&set);
            assert!(!finished.status.unwrap().success());
            assert!(seen.iter().any(|(key, child)| {
                *key == finished.key && Arc::ptr_eq(child, &finished.child)
            }));
        }
        is_over(&set);
        // What has been handed out is not in the set any more.
        set.kill_all().unwrap();
    });
}

/// Nobody waits for a grace that nobody needs.
#[test]
fn all_who_obey_are_stopped() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let mut all = Vec::new();
        for n in 0..children(10) {
            let (child, stdout) = tree_of_two(backend, &["say", "ready", "sleep"]);
            set.insert(2 * n, child);
            set.insert(2 * n + 1, sleeper(backend));
            all.push(stdout);
        }
        let count = set.len();
        thread::scope(|scope| {
            // Others wait, and stop the same, meanwhile.
            let waiter = scope.spawn(|| (0..count).map(|_| next(&set).status.unwrap()).collect());
            scope.spawn(|| set.stop_all(Duration::MAX).unwrap());
            set.stop_all(Duration::MAX).unwrap();
            let statuses: Vec<std::process::ExitStatus> = waiter.join().unwrap();
            assert!(statuses.iter().all(|status| !status.success()), "{statuses:?}");
        });
        all.into_iter().for_each(all_have_ended);
        is_over(&set);
    });
}

/// All have their grace at the same time.
#[cfg(unix)]
#[test]
fn a_hundred_stubborn_trees_are_stopped_in_one_grace() {
    use std::os::unix::process::ExitStatusExt;
    alone!();
    watchdog!();
    // Emulated machines are slow.
    let grace = Duration::from_secs(5);
    let set = ChildSet::new();
    // Ten at least: one after the other they would take as many graces.
    let count = children(100).max(10);
    let mut all = Vec::new();
    for n in 0..count {
        let (child, stdout) = tree_of_two(backend(n), &["ignore", "TERM", "say", "ready", "sleep"]);
        set.insert(n, child);
        all.push(stdout);
    }
    let start = Instant::now();
    set.stop_all(grace).unwrap();
    let took = start.elapsed();
    assert!(took >= grace, "they were killed at once: {took:?}");
    let graces = u32::try_from(count / 2).unwrap().min(20);
    assert!(took < graces * grace, "one after the other? {took:?}");
    eprintln!("{count} trees: {took:?}");
    all.into_iter().for_each(all_have_ended);
    for _ in 0..count {
        // They are dead already.
        let finished = set.try_wait_next().expect("all have ended");
        assert_eq!(finished.status.unwrap().signal(), Some(libc::SIGKILL));
    }
    is_over(&set);
}

/// What is asked of the set while others change it is about some moment of it.
#[test]
fn everything_at_once() {
    watchdog!();
    on_every_backend(|backend| {
        let set = ChildSet::new();
        let (inserted, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let inserting = AtomicUsize::new(2);
        let count = rounds(60);
        thread::scope(|scope| {
            for way in 0..2 {
                let (set, inserted, got, inserting) = (&set, &inserted, &got, &inserting);
                scope.spawn(move || {
                    for n in 0..count {
                        let child = match (n + way) % 3 {
                            0 => sleeper(backend),
                            _ => quick(backend, code(n)),
                        };
                        inserted.fetch_add(1, Ordering::Relaxed);
                        // (Keys of both: the other's child may be replaced.)
                        if let Some(old) = set.insert(n % 7, child) {
                            kill_and_wait(&old);
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        if let Some(removed) = (n % 5 == 0).then(|| set.remove(&(n % 3))).flatten()
                        {
                            kill_and_wait(&removed);
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    inserting.fetch_sub(1, Ordering::Release);
                });
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    while inserting.load(Ordering::Acquire) > 0 || !set.is_empty() {
                        if set.wait_next().is_some() {
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                while inserting.load(Ordering::Acquire) > 0 || !set.is_empty() {
                    assert!(set.iter().all(|(key, _)| key < 7));
                    assert!(set.len() <= 7 && format!("{set:?}").contains("ChildSet"));
                    set.kill_all().unwrap();
                    thread::yield_now();
                }
            });
        });
        assert_eq!(got.into_inner(), inserted.into_inner());
        is_over(&set);
    });
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::common::linux::{Deny, deny};
    use crate::common::unix::NoDescriptors;
    use shared_child::unix::ReapedElsewhere;
    #[cfg(target_os = "linux")]
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::sync::atomic::AtomicBool;

    const BEST: Backend = Backend::ALL[0];
    const BY_THREAD: Backend = Backend::ALL[1];

    /// For this long nothing happens; and how much CPU may be used meanwhile. Whoever spins takes all of it.
    const WHILE: Duration = Duration::from_millis(500);
    const HARDLY_ANY: Duration = Duration::from_millis(150);

    /// Nobody exits, and nobody spins.
    #[track_caller]
    fn is_idle<K: Clone + Eq + Hash>(set: &ChildSet<K>) {
        let before = unix::cpu_time();
        assert!(set.wait_next_timeout(WHILE).is_none(), "nobody has exited");
        let used = unix::cpu_time() - before;
        assert!(used < HARDLY_ANY, "it spins: {used:?}");
    }

    #[track_caller]
    fn nothing_is_left(descriptors: usize) {
        until("no threads", || unix::helper_threads().is_empty());
        until("no children", || unix::children().is_empty());
        until("no descriptors", || unix::descriptors() == descriptors);
    }

    /// The order is that of the exits, however late somebody asks.
    #[cfg(target_os = "linux")]
    #[test]
    fn in_the_order_of_their_exits() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let set = ChildSet::new();
            let count = 50;
            let mut stdins = Vec::new();
            for (n, (child, stdin)) in told_to_exit(count, |_| backend).into_iter().enumerate() {
                set.insert(n, child);
                stdins.push((n, stdin));
            }
            stdins.sort_by_key(|(n, _)| (n * 7) % count);
            let order: Vec<_> = stdins.iter().map(|(n, _)| *n).collect();
            for (left, (n, stdin)) in (0..count).rev().zip(stdins) {
                drop(stdin);
                // Without being reaped in half of the cases.
                let child = set.get(&n).unwrap();
                unix::wait_for_zombie(child.id());
                if n % 2 == 0 {
                    wait(&child);
                }
                // Where it is the helper thread of the child that tells, it has.
                if backend == BY_THREAD {
                    until("the helper has ended", || unix::helper_threads().len() == left);
                }
            }
            let handed_out: Vec<_> = (0..count).map(|_| next_code(&set)).collect();
            assert!(handed_out.iter().all(|(n, told)| *told == code(*n)));
            let handed_out: Vec<_> = handed_out.into_iter().map(|(n, _)| n).collect();
            assert_eq!(handed_out, order);
            is_over(&set);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_thread_for_children_with_a_descriptor() {
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
    fn who_waits_does_not_work() {
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

    /// What goes with a set is the set, and nothing else.
    #[test]
    fn a_set_that_is_dropped() {
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
                // Whoever is to be told keeps the queue open that it would be told by.
                assert_eq!(unix::descriptors(), theirs, "in round {round}");
            }
            let alive = |child: &Arc<SharedChild>| child.try_wait().unwrap().is_none();
            assert!(children.iter().all(alive), "they run on");
            assert_eq!(unix::children().len(), 20);
            // Those that nobody else has are left to run, and are reaped.
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
    fn children_that_leave_a_set_leave_nothing_in_it() {
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
            until("what was the children's is gone", || unix::descriptors() == with_set);
            drop(set);
            nothing_is_left(before);
        });
    }

    /// How many descriptors are in the epolls of this process.
    #[cfg(target_os = "linux")]
    fn watched() -> usize {
        let infos = std::fs::read_dir("/proc/self/fdinfo").expect("/proc").flatten();
        // (The listing's own descriptor is gone by then, or tells of none.)
        let infos = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok());
        infos.map(|info| info.matches("tfd:").count()).sum()
    }

    /// A descriptor that somebody holds stays in an epoll until it is taken out.
    #[cfg(target_os = "linux")]
    #[test]
    fn children_that_leave_a_set_are_not_watched_by_it() {
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

    /// Its code runs before anything is done, and not any more when the exit is to be handed out.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_key_that_panics() {
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

    /// Somebody closes what is not theirs: from then on all are looked at.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_queue_that_somebody_replaces() {
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

    /// How often this thread has gone to sleep.
    #[cfg(target_os = "linux")]
    fn sleeps() -> libc::c_long {
        // SAFETY: the struct outlives the call.
        unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
            usage.ru_nvcsw
        }
    }

    /// Nobody gets up to look when nobody is left who has to be looked at.
    #[cfg(target_os = "linux")]
    #[test]
    fn children_that_leave_a_set_are_not_looked_at() {
        alone!();
        watchdog!();
        let full = NoDescriptors::left();
        let set = ChildSet::new();
        drop(full);
        let told_of = Arc::new(sleeper(BY_THREAD));
        set.insert(0, Arc::clone(&told_of));
        for n in 1..=2 {
            set.insert(n, sleeper(BEST));
        }
        let before = sleeps();
        assert!(set.wait_next_timeout(WHILE).is_none());
        let looking = sleeps() - before;
        // By being removed, and by being handed out.
        kill_and_wait(&set.remove(&1).unwrap());
        set.get(&2).unwrap().kill().unwrap();
        assert_eq!(next(&set).key, 2);
        let before = sleeps();
        assert!(set.wait_next_timeout(WHILE).is_none());
        let not_looking = sleeps() - before;
        assert!(not_looking < 10, "{not_looking} times, {looking} before that");
        kill_and_wait(&told_of);
        assert_eq!(next(&set).key, 0);
        is_over(&set);
        eprintln!("{not_looking} times, {looking} before that");
    }

    /// Without a queue of the kernel's there are still those who tell, and looks for the others.
    #[test]
    fn a_set_that_was_made_without_descriptors() {
        alone!();
        watchdog!();
        let children = told_to_exit(12, backend);
        let late = told_to_exit(2, backend);
        let full = NoDescriptors::left();
        let set = ChildSet::new();
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in children.into_iter().enumerate() {
            set.insert(n, child);
            stdins.push((n, stdin));
        }
        is_idle(&set);
        drop(full);
        // Nothing becomes worse when there are some again, nor better.
        is_idle(&set);
        for (n, stdin) in stdins {
            drop(stdin);
            assert_eq!(next_code(&set), (n, code(n)));
        }
        is_over(&set);
        // A waiter that sleeps until somebody tells is woken for one that nobody tells of.
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

    /// What is known before a deadline is handed out by then, however seldom somebody looks.
    #[test]
    fn who_is_looked_at_is_not_missed_at_a_deadline() {
        alone!();
        watchdog!();
        let full = NoDescriptors::left();
        let set = ChildSet::new();
        drop(full);
        let (mut in_time, count) = (0, 10);
        // A machine that stalls may have it known too late.
        for n in 0..10 * count {
            let child = Arc::new(sleeper(BEST));
            set.insert(n, Arc::clone(&child));
            // The pauses are of 20 ms by then.
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
                in_time += 1;
            } else if got.is_none() {
                next(&set);
            }
            if in_time == count {
                break;
            }
        }
        is_over(&set);
        eprintln!("in time: {in_time}");
    }

    #[test]
    fn children_that_were_spawned_without_descriptors() {
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
        // One that is in the set already takes a descriptor to be in it again, or is looked at.
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

    /// Nobody can be looked at, and that is no reason to take them for gone.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_wait_of_any_kind() {
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

    /// And that one of them could not be killed is told, though nothing else of it can be.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_wait_and_no_kill() {
        alone!();
        watchdog!();
        let calls =
            [libc::SYS_waitid, libc::SYS_wait4, libc::SYS_kill, libc::SYS_pidfd_send_signal];
        deny(&calls.map(|call| Deny::always(call, libc::EPERM)));
        on_every_backend(|backend| {
            let set = ChildSet::new();
            let mut stdins = Vec::new();
            for (child, stdin) in told_to_exit(1, |_| backend) {
                set.insert((), child);
                stdins.push(stdin);
            }
            let error = set.kill_all().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_threads() {
        alone!();
        watchdog!();
        // Those that have one already.
        let set = ChildSet::new();
        let early = told_to_exit(4, backend);
        let mut stdins = Vec::new();
        for (n, (child, stdin)) in early.into_iter().enumerate() {
            set.insert(n, child);
            stdins.push((n, stdin));
        }
        deny(&Deny::threads());
        assert!(thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
        for (n, (child, stdin)) in told_to_exit(12, backend).into_iter().enumerate().skip(4) {
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
        // All at once.
        for n in 0..20 {
            set.insert(n, sleeper(backend(n)));
        }
        set.kill_all().unwrap();
        assert_eq!(std::iter::from_fn(|| set.wait_next()).count(), 20);
    }

    /// What a member must have been told of, and says of itself.
    #[track_caller]
    fn assert_true_or_lost(finished: Finished<usize>) {
        match finished.status {
            Ok(status) => assert_eq!(status.code(), Some(code(finished.key))),
            Err(error) => {
                assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error:?}");
                assert!(finished.child.wait().is_err(), "and so says the child");
            }
        }
    }

    #[test]
    fn a_greedy_waitpid_in_another_thread() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (set, over) = (ChildSet::new(), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        // SAFETY: no status is asked for.
                        unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
                    }
                });
                for _ in 0..rounds(10) {
                    let mut stdins = Vec::new();
                    for (n, (child, stdin)) in told_to_exit(10, |_| backend).into_iter().enumerate()
                    {
                        set.insert(n, child);
                        stdins.push(stdin);
                    }
                    // And one that may be gone before it is in the set.
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
    fn sigchld_ignored() {
        alone!();
        watchdog!();
        unix::on_sigchld(libc::SIG_IGN);
        on_every_backend(|backend| {
            let set = ChildSet::new();
            for _ in 0..rounds(10) {
                let mut stdins = Vec::new();
                for (n, (child, stdin)) in told_to_exit(5, |_| backend).into_iter().enumerate() {
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

    /// Its exit is told of, and it cannot be had until the tracer lets go.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_zombie_that_its_tracer_holds() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (set, child) = (ChildSet::new(), Arc::new(sleeper(backend)));
            let release = linux::trace_from_a_fork(child.id());
            let before = unix::descriptors();
            set.insert("before", Arc::clone(&child));
            child.kill().unwrap();
            until("a zombie", || unix::is_zombie(child.id()));
            assert!(set.try_wait_next().is_none(), "it is the tracer's still");
            is_idle(&set);
            set.insert("after", Arc::clone(&child));
            is_idle(&set);
            assert!(set.remove(&"after").is_some());
            set.insert("after", Arc::clone(&child));
            // Others are heard of meanwhile.
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

    /// Those who look at what nobody tells of do not leave it to nobody.
    #[cfg(target_os = "linux")]
    #[test]
    fn who_looks_leaves_that_to_another() {
        alone!();
        watchdog!();
        for round in 0..rounds(10).max(4) {
            in_time(Duration::from_millis(300), |timeout| leave_after_the_exit(round, timeout));
        }
    }

    /// On a machine that stalls those who leave may do so too early: then with a longer timeout.
    fn in_time(mut timeout: Duration, round: impl Fn(Duration) -> bool) {
        while !round(timeout) {
            timeout *= 2;
            assert!(timeout < LONG / 3, "they are never there in time");
        }
    }

    /// All but one wait for this long. Says whether they did so when there was something to be looked at.
    #[cfg(target_os = "linux")]
    fn leave_after_the_exit(round: usize, timeout: Duration) -> bool {
        let (set, child) = (ChildSet::new(), Arc::new(sleeper(BEST)));
        let release = linux::trace_from_a_fork(child.id());
        set.insert((), Arc::clone(&child));
        let deadline = Instant::now() + timeout;
        let in_time = thread::scope(|scope| {
            // Systems differ in whom they wake by the exit: who came first, or last.
            let stay = || blocked(scope, || next(&set).status.unwrap().signal());
            let stays_first = (round % 2 == 0).then(stay);
            let leave: Vec<_> = (0..1 + round % 3)
                .map(|_| blocked(scope, || set.wait_next_deadline(deadline).is_none()))
                .collect();
            let stays = stays_first.unwrap_or_else(stay);
            child.kill().unwrap();
            until("a zombie", || unix::is_zombie(child.id()));
            let in_time = Instant::now() < deadline;
            assert!(leave.into_iter().all(|waiter| waiter.join().unwrap()));
            assert!(!stays.is_finished());
            release();
            assert_eq!(stays.join().unwrap(), Some(libc::SIGKILL));
            in_time
        });
        is_over(&set);
        in_time
    }

    /// Two look at once, one of them in vain for what the other has got meanwhile. It must not go without what is there
    /// besides.
    #[test]
    fn who_comes_late_for_one_gets_another() {
        watchdog!();
        let exited = Arc::new(quick(BEST, 7));
        wait(&exited);
        for _ in 0..rounds(300) {
            let set = ChildSet::new();
            let child = Arc::new(sleeper(BEST));
            set.insert("waited for", Arc::clone(&child));
            thread::scope(|scope| {
                // The bell has rung once: it is asked first after that.
                let waiter = blocked(scope, || next(&set).key);
                set.insert("posted", Arc::clone(&exited));
                assert_eq!(waiter.join().unwrap(), "posted");
            });
            child.kill().unwrap();
            unix::wait_for_zombie(child.id());
            let start = Barrier::new(3);
            let both = thread::scope(|scope| {
                let looks = [(); 2].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        set.try_wait_next().map(|finished| finished.key)
                    })
                });
                start.wait();
                set.insert("posted", Arc::clone(&exited));
                looks.map(|look| look.join().unwrap())
            });
            assert!(both.contains(&Some("waited for")), "it had exited before: {both:?}");
            while set.wait_next().is_some() {}
        }
    }

    /// The same, for children that are so from the beginning.
    #[test]
    fn who_looks_leaves_that_to_another_without_descriptors() {
        alone!();
        watchdog!();
        for _ in 0..rounds(10) {
            in_time(Duration::from_millis(200), leaves_after_the_insert);
        }
    }

    fn leaves_after_the_insert(timeout: Duration) -> bool {
        let full = NoDescriptors::left();
        let set = ChildSet::new();
        drop(full);
        let other = Arc::new(sleeper(BY_THREAD));
        set.insert(0, Arc::clone(&other));
        let deadline = Instant::now() + timeout;
        let in_time = thread::scope(|scope| {
            let leaves = blocked(scope, || set.wait_next_deadline(deadline).is_none());
            let stays = blocked(scope, || next(&set).key);
            let (child, stdin) = stoppable(BEST, 7);
            set.insert(1, child);
            let in_time = Instant::now() < deadline;
            assert!(leaves.join().unwrap());
            drop(stdin);
            assert_eq!(stays.join().unwrap(), 1);
            in_time
        });
        kill_and_wait(&other);
        assert_eq!(next(&set).key, 0);
        is_over(&set);
        in_time
    }

    /// A copy is about the parent's children and the parent's queue, and goes without touching either.
    #[test]
    fn a_set_that_a_fork_has_copied() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let mut set = Some(ChildSet::new());
            let mut stdins = Vec::new();
            for (n, (child, stdin)) in told_to_exit(5, |_| backend).into_iter().enumerate() {
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

    /// One that was copied, and is gone here while the copy is not.
    #[test]
    fn a_fork_that_keeps_its_copy() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let before = unix::descriptors();
            let (set, child) = (ChildSet::new(), Arc::new(sleeper(backend)));
            set.insert(1, Arc::clone(&child));
            let (ours, theirs) = UnixStream::pair().unwrap();
            // SAFETY: it makes system calls only, and leaves by `_exit`.
            let fork = unsafe { libc::fork() };
            if fork == 0 {
                drop(ours);
                let _ = std::io::Read::read(&mut &theirs, &mut [0]);
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
            drop(theirs);
            // What is removed is not heard of, though the copy holds its descriptor.
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

    #[cfg(target_os = "linux")]
    #[test]
    fn thousands_of_children_are_handed_out_once_by_one_thread() {
        if !unix::is_root() {
            eprintln!("{} skipped: it takes root", function_name!());
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
            // One that reads to the end, as all do, without taking more memory than that needs.
            let mut command = helper(&["read", "exit", &code(n).to_string()]);
            command.stdin(theirs.try_clone().unwrap());
            set.insert(n, BEST.spawn(&mut command).unwrap());
        }
        eprintln!("spawned after {:?}", start.elapsed());
        assert_eq!(set.len(), count);
        assert_eq!(unix::helper_threads(), [] as [&str; 0]);
        is_idle(&set);
        // One by one; then all the others.
        for n in (0..count).step_by(100) {
            set.get(&n).unwrap().kill().unwrap();
            let finished = next(&set);
            assert_eq!((finished.key, finished.status.unwrap().signal()), (n, Some(libc::SIGKILL)));
        }
        drop((theirs, ours));
        let mut handed_out = vec![false; count];
        for _ in 0..count - count / 100 {
            let (n, told) = next_code(&set);
            assert_eq!(told, code(n));
            assert!(!std::mem::replace(&mut handed_out[n], true), "twice");
        }
        is_over(&set);
        assert_eq!(unix::children(), [] as [u32; 0]);
        eprintln!("all are gone after {:?}", start.elapsed());
    }
}
