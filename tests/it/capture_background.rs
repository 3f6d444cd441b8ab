//! Promise: a capture in the background reads on while the program makes no call, within its bounds, on one thread for all.

use crate::common::captures::{bounded, in_every_way};
use crate::common::executor::{on_wake, poll, poll_by};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{
    Capture, CaptureOptions, Limit, Reached, SpawnOptions, StoppedBy, StreamEnd, Until,
};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(50);

/// The child is killed when the capture is dropped.
#[track_caller]
fn begin(
    backend: Backend,
    parts: &[&str],
    capture: &mut CaptureOptions<'static>,
) -> Capture<'static> {
    let mut options = SpawnOptions::new();
    options.kill_on_drop(true);
    let begun = backend.begin_capture(&options, &mut helper(parts), capture).expect("to begin");
    begun.read_in_background().expect("to read in the background");
    begun
}

#[test]
fn child_goes_on_between_calls() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["write", &(4 * MIB).to_string(), "exit", "7"];
        let capture = begin(backend, &parts, &mut bounded());
        assert_eq!(wait(capture.child()).code(), Some(7));
        let captured = way.finish(&capture);
        assert_eq!(captured.stdout.bytes.len(), 4 * MIB);
        assert_eq!(captured.status.unwrap().code(), Some(7));
    });
}

#[test]
fn limit_bounds_what_is_kept() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["write", &(4 * MIB).to_string()];
        let capture = begin(backend, &parts, bounded().limit(Limit::head_and_tail(10, 10)));
        wait(capture.child());
        let chunk = way.read(&capture, Until::end().or(Until::timeout(LONG)));
        assert_eq!((chunk.reached, chunk.stdout.bytes.len()), (Reached::End, 20));
        assert_eq!(chunk.stdout.total, 4 * MIB as u64);
    });
}

#[test]
fn bounds_on_time_are_kept_between_calls() {
    watchdog!();
    in_every_way(|backend, way| {
        for (is_idle, expected) in [(false, StoppedBy::Deadline), (true, StoppedBy::Idle)] {
            let mut options = CaptureOptions::new();
            match is_idle {
                false => options.timeout(SHORT),
                true => options.idle_timeout(SHORT),
            };
            let capture = begin(backend, &["sleep"], &mut options);
            assert!(!wait(capture.child()).success());
            assert_eq!(way.finish(&capture).stopped_by, Some(expected));
        }
    });
}

/// The process that floods the pipe ends when the capture closes it.
#[test]
fn pipe_that_a_descendant_floods_does_not_delay_the_end() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["spawn", "1", "flood", "exit", "7"];
        let capture = begin(backend, &parts, bounded().limit(1000).drain(SHORT));
        assert_eq!(wait(capture.child()).code(), Some(7));
        let captured = way.finish(&capture);
        assert_eq!(captured.status.unwrap().code(), Some(7));
        assert_eq!((captured.stdout.end, captured.stopped_by), (StreamEnd::HeldOpen, None));
    });
}

#[test]
fn conversation_beside_the_background_loses_no_byte() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["echo"], bounded().stdin_open());
        for number in 0..rounds(200).max(20) {
            let line = format!("line {number}\n");
            way.write(&capture, line.as_bytes()).unwrap();
            let chunk = way.read(&capture, Until::line().or(Until::timeout(LONG)));
            assert_eq!((chunk.stdout.text().into_owned(), chunk.reached), (line, Reached::Line));
        }
        capture.close_stdin();
        assert!(wait(capture.child()).success());
        assert!(way.finish(&capture).success());
    });
}

#[cfg(unix)]
#[test]
fn dropped_capture_kills_its_child() {
    watchdog!();
    on_every_backend(|backend| {
        for parts in [&["flood"][..], &["sleep"]] {
            let capture = begin(backend, parts, bounded().limit(1000));
            let id = capture.child().id();
            assert!(unix::children().contains(&id));
            drop(capture);
            until("the child is reaped", || !unix::children().contains(&id));
        }
    });
}

/// An executor may drop a task when it is woken.
#[test]
fn waker_may_drop_the_capture_that_is_read() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = Arc::new(begin(backend, &["drip"], &mut bounded()));
        let id = capture.child().id();
        let mut reads = [(); 2].map(|()| {
            let capture = Arc::clone(&capture);
            Box::pin(async move { capture.read_async(Until::line()).await })
        });
        assert!(poll(&mut reads[0], &Arc::default()).is_pending());
        let tasks = Arc::new(Mutex::new(None));
        let (drop_tasks, dropped) = mpsc::channel();
        let its = Arc::clone(&tasks);
        let waker = on_wake(move || {
            drop(its.lock().unwrap().take());
            drop_tasks.send(()).unwrap();
        });
        let mut tasks = tasks.lock().unwrap();
        // This read waits for its turn: only the thread that reads in the background wakes it.
        assert!(poll_by(&mut reads[1], &waker).is_pending());
        *tasks = Some((reads, capture));
        drop(tasks);
        dropped.recv_timeout(LONG).unwrap();
        #[cfg(unix)]
        until("the child is reaped", || !unix::children().contains(&id));
        #[cfg(windows)]
        let _ = id;
    });
}

#[test]
fn callers_code_does_not_run_in_the_background() {
    watchdog!();
    on_every_backend(|backend| {
        for is_reader in [false, true] {
            let mut options = CaptureOptions::new();
            match is_reader {
                true => options.stdin_from(io::repeat(0)),
                false => options.on_output(|_, _| ControlFlow::Continue(())),
            };
            let mut spawn = SpawnOptions::new();
            spawn.kill_on_drop(true);
            let capture = backend
                .begin_capture(&spawn, &mut helper(&["sleep"]), &mut options)
                .expect("to begin");
            let error = capture.read_in_background().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn one_thread_reads_many_captures_and_ends() {
    alone!();
    watchdog!();
    let before = linux::threads();
    let parts = ["write", "1000000"];
    let captures: Vec<_> =
        (0..50).map(|_| begin(Backend::Best, &parts, bounded().limit(1000))).collect();
    for capture in &captures {
        // A child ends only if its output is read.
        assert!(wait(capture.child()).success());
        // The reaper, and the thread that reads.
        assert!(linux::threads() <= before + 2, "{}", linux::threads());
    }
    drop(captures);
    until("both threads end", || linux::threads() == before);
}
