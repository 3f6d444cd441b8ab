//! Promise: `kill_all` and `stop_all` end every tree of a set, all within one grace.

use super::*;
use std::io::Read;

/// A tree of two processes that have printed `ready`, and a pipe that ends when both have ended.
fn tree_of_two(backend: Backend, theirs: &[&str]) -> (SharedChild, impl Read + Send + use<>) {
    let count = theirs.len().to_string();
    let parts = [&["spawn", &count], theirs, theirs].concat();
    let mut command = helper(&parts);
    command.stdout(Stdio::piped());
    let child = backend.spawn_with(SpawnOptions::new().tree(true), &mut command).expect("to spawn");
    let mut stdout = child.take_stdout().expect("a pipe");
    let (mut said, mut byte) = (Vec::new(), [0]);
    // "child N", and "ready" twice.
    while said.iter().filter(|byte| **byte == b'\n').count() < 3 {
        stdout.read_exact(&mut byte).expect("both to be ready");
        said.extend(byte);
    }
    (child, stdout)
}

/// Asserts that every process that had the pipe has ended.
#[track_caller]
fn all_have_ended(mut stdout: impl Read) {
    assert_eq!(stdout.read_to_end(&mut Vec::new()).expect("to read"), 0);
}

#[test]
fn kill_all_kills_every_tree() {
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
        // A child that was handed out is no longer in the set.
        set.kill_all().unwrap();
    });
}

#[test]
fn stop_all_returns_before_the_grace_ends_if_all_terminate() {
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
            // Meanwhile other threads wait for the same children, and stop them.
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

/// The graces run at the same time.
#[cfg(unix)]
#[test]
fn stop_all_of_a_hundred_stubborn_trees_takes_one_grace() {
    use std::os::unix::process::ExitStatusExt;
    alone!();
    watchdog!();
    // Emulated machines are slow.
    let grace = Duration::from_secs(5);
    let set = ChildSet::new();
    // Ten at least: one after the other, they would take ten graces.
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
        // They have ended already.
        let finished = set.try_wait_next().expect("all have ended");
        assert_eq!(finished.status.unwrap().signal(), Some(libc::SIGKILL));
    }
    is_over(&set);
}
