//! Promise: an idle timeout stops a child that does nothing, and no other.

use crate::common::captures::{bounded, in_every_way, piped};
use crate::common::executor::{WakeCounter, poll};
use crate::common::*;
use shared_child::{CaptureOptions, ChildState, Reached, SpawnOptions, StoppedBy, Until};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);

/// Longer than any child of a test is silent if the machine is busy.
const SAFE: Duration = Duration::from_secs(2);

fn with_idle<'a>(timeout: Duration) -> CaptureOptions<'a> {
    let mut capture = bounded();
    capture.idle_timeout(timeout);
    capture
}

#[test]
fn silent_child_is_stopped() {
    watchdog!();
    in_every_way(|backend, way| {
        for parts in
            [&["sleep"][..], &["say", "first", "sleep"], &["close-stdout", "close-stderr", "sleep"]]
        {
            let child = piped(backend, parts);
            let captured = way.capture(&child, &mut with_idle(SHORT)).unwrap();
            assert_eq!(captured.stopped_by, Some(StoppedBy::Idle), "{captured:?}");
            assert!(captured.status.is_some() && !captured.success(), "{captured:?}");
        }
    });
}

#[test]
fn child_that_writes_is_not_idle() {
    watchdog!();
    in_every_way(|backend, way| {
        // It writes a byte every few milliseconds, for longer than the idle timeout.
        let began = Instant::now();
        let mut capture = with_idle(SAFE);
        capture.limit(0).on_output(|_, _| match began.elapsed() > SAFE + SHORT {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let captured = way.capture(&piped(backend, &["drip"]), &mut capture).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Callback));
    });
}

#[test]
fn total_timeout_is_independent() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut capture = CaptureOptions::new();
        capture.timeout(SHORT).idle_timeout(LONG);
        let captured = way.capture(&piped(backend, &["sleep"]), &mut capture).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        let mut capture = CaptureOptions::new();
        capture.idle_timeout(Duration::MAX);
        let captured = way.capture(&piped(backend, &["say", "quick"]), &mut capture).unwrap();
        assert!(captured.success(), "{captured:?}");
    });
}

#[test]
fn time_between_calls_is_not_idle_time() {
    watchdog!();
    in_every_way(|backend, way| {
        let timeout = Duration::from_millis(500);
        let mut options = SpawnOptions::new();
        options.kill_on_drop(true);
        let mut capture = with_idle(timeout);
        let capture = backend
            .begin_capture(&options, &mut helper(&["echo"]), capture.stdin_open())
            .expect("to begin");
        for _ in 0..2 {
            thread::sleep(timeout + SHORT);
            way.write(&capture, b"a line\n").unwrap();
            let chunk = way.read(&capture, Until::line().or(Until::timeout(LONG)));
            assert_eq!(
                (chunk.reached, chunk.stdout.bytes.as_slice()),
                (Reached::Line, &b"a line\n"[..])
            );
        }
        // Reads that return early add up.
        let began = Instant::now();
        while way.read(&capture, Until::timeout(SHORT)).reached == Reached::Deadline {
            assert!(began.elapsed() < LONG, "it is never idle");
        }
        assert!(began.elapsed() >= timeout);
        assert_eq!(way.finish(&capture).stopped_by, Some(StoppedBy::Idle));
    });
}

#[test]
fn dropped_wait_for_the_end_is_no_call() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["sleep"]);
        let timeout = Duration::from_millis(500);
        let capture = child.begin_capture(&mut with_idle(timeout)).unwrap();
        let mut finish = Box::pin(capture.finish_async());
        assert!(poll(&mut finish, &Arc::new(WakeCounter::default())).is_pending());
        drop(finish);
        thread::sleep(timeout + SHORT);
        let chunk = capture.read(Until::deadline(Instant::now()));
        assert_eq!((chunk.reached, chunk.state), (Reached::Deadline, ChildState::Running));
        kill_and_wait(&child);
    });
}

/// Not on Windows, since wine returns the CPU times of the caller for every process.
#[cfg(unix)]
mod busy {
    use super::*;
    use crate::common::captures::Way;
    use crate::common::stage::Kind;
    use shared_child::SharedChild;
    use shared_child::seam::Backend;
    use std::io::ErrorKind;
    use std::process::Stdio;

    /// Less CPU time than "burn" uses.
    const BUSY: Duration = Duration::from_millis(500);

    /// Captures a child that says "done" after its work, until it is idle. Returns whether it has said so. `None` if the system
    /// does not report CPU times.
    fn has_done_its_work(
        way: Way,
        child: &SharedChild,
        capture: &mut CaptureOptions<'_>,
    ) -> Option<bool> {
        let captured = match way.capture(child, capture) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                eprintln!("skipped: {error}");
                return None;
            }
            captured => captured.unwrap(),
        };
        assert_eq!(captured.stopped_by, Some(StoppedBy::Idle), "{captured:?}");
        Some(captured.stdout.text().trim_end() == "done")
    }

    /// Returns whether one of several attempts succeeds. On a busy machine a child may get no CPU time for as long as `BUSY`.
    fn one_of_five(attempt: impl Fn() -> bool) -> bool {
        (0..5).any(|_| attempt())
    }

    #[test]
    fn busy_child_is_not_idle() {
        watchdog!();
        let parts = ["burn", "1000", "say", "done", "sleep"];
        in_every_way(|backend, way| {
            let does_its_work = || {
                let mut capture = with_idle(BUSY);
                capture.idle_unless_busy(true);
                has_done_its_work(way, &piped(backend, &parts), &mut capture).unwrap_or(true)
            };
            assert!(one_of_five(does_its_work), "it was stopped while it was busy");
        });
        let child = piped(Backend::Best, &parts);
        assert_eq!(has_done_its_work(Way::Blocking, &child, &mut with_idle(BUSY)), Some(false));
    }

    #[test]
    fn tree_with_a_busy_member_is_not_idle() {
        watchdog!();
        for kind in Kind::all(function_name!()) {
            let does_its_work = || {
                let mut command = helper(&["run", "2", "burn", "1000", "say", "done", "sleep"]);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let child = kind.spawn(SpawnOptions::new().kill_on_drop(true), &mut command);
                let mut capture = with_idle(BUSY);
                capture.idle_unless_busy(true);
                has_done_its_work(Way::Blocking, &child, &mut capture).unwrap_or(true)
            };
            assert!(one_of_five(does_its_work), "{kind:?} was stopped while a member was busy");
        }
    }
}
