//! Promise: a capture returns all of a child's output, within every bound, and never hangs.

use crate::common::captures::{Failing, bounded, in_every_way, piped, run};
use crate::common::*;
use shared_child::{CaptureOptions, Limit, SpawnOptions, StoppedBy, Stream, StreamEnd};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Too short for anything except a child that does nothing.
const SHORT: Duration = Duration::from_millis(50);

/// The bytes that the part "write" writes.
fn written(count: usize) -> Vec<u8> {
    let mut all = Vec::from_iter(0..251).repeat(count.div_ceil(251));
    all.truncate(count);
    all
}

#[test]
fn capture_returns_what_std_returns() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["say", "out", "complain", "err", "exit", "3"];
        let captured = run(backend, &parts, &mut bounded());
        let expected = helper(&parts).output().unwrap();
        assert_eq!(captured.status, Some(expected.status));
        assert_eq!(captured.stdout.end, StreamEnd::Closed);
        assert_eq!(captured.stderr.end, StreamEnd::Closed);
        assert_eq!(captured.stdout.total, expected.stdout.len() as u64);
        assert_eq!((captured.stdout.omitted, captured.stopped_by), (0, None));
        assert!(captured.error.is_none() && !captured.success());
        assert!(captured.elapsed > Duration::ZERO);
        let output: Output = captured.try_into().unwrap();
        assert_eq!(output, expected);
        assert!(run(backend, &["exit", "0"], &mut bounded()).success());
    });
}

#[test]
fn failed_spawn_is_reported() {
    watchdog!();
    for merge in [false, true] {
        let mut capture = bounded();
        let error = SpawnOptions::new()
            .capture(&mut Command::new("/no/such/program"), capture.merge_stderr(merge))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn much_input_and_output_at_once_is_complete() {
    watchdog!();
    on_every_backend(|backend| {
        // An emulated machine writes less.
        let input = written(rounds(64).clamp(6, 64) * MIB);
        for from_reader in [false, true] {
            let mut capture = bounded();
            match from_reader {
                true => capture.stdin_from(&input[..]),
                false => capture.stdin(&input[..]),
            };
            let captured = run(backend, &["echo-both"], &mut capture);
            assert!(captured.success(), "{captured:?}");
            // `assert_eq` would print the bytes.
            assert!(captured.stdout.bytes == input && captured.stderr.bytes == input);
        }
    });
}

#[test]
fn much_output_of_one_stream_then_the_other_is_complete() {
    watchdog!();
    on_every_backend(|backend| {
        let count = (4 * MIB).to_string();
        for parts in
            [["write", &count, "write-err", &count], ["write-err", &count, "write", &count]]
        {
            let captured = run(backend, &parts, &mut bounded());
            assert!(captured.success(), "{captured:?}");
            let all = written(4 * MIB);
            assert!(captured.stdout.bytes == all && captured.stderr.bytes == all);
        }
    });
}

#[test]
fn input_that_the_child_does_not_read_is_no_error() {
    watchdog!();
    in_every_way(|backend, way| {
        for parts in [&["exit", "0"][..], &["close-stdin", "say", "on"], &["hear", "say", "on"]] {
            let mut capture = bounded();
            let captured = way.run(backend, parts, capture.stdin(vec![b'\n'; 8 * MIB]));
            assert!(captured.success(), "{captured:?}");
            assert!(captured.error.is_none(), "{captured:?}");
        }
        // The child never reads its input, and keeps running.
        let mut capture = CaptureOptions::new();
        let captured = way.run(backend, &["sleep"], capture.stdin(vec![0; 8 * MIB]).timeout(SHORT));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert!(captured.error.is_none(), "{captured:?}");
    });
}

#[test]
fn without_input_the_child_reads_an_end() {
    watchdog!();
    on_every_backend(|backend| {
        assert!(run(backend, &["read"], &mut bounded()).success());
        assert!(run(backend, &["read"], bounded().stdin("")).success());
        assert!(run(backend, &["read"], bounded().stdin_from(io::empty())).success());
        let child = piped(backend, &["read", "say", "end"]);
        let captured = child.capture(&mut bounded()).unwrap();
        assert_eq!(captured.stdout.text().trim_end(), "end");
    });
}

#[test]
fn options_can_be_used_again() {
    watchdog!();
    on_every_backend(|backend| {
        let reader = &b"first and only"[..];
        let shown = Mutex::new(Vec::new());
        let mut capture = bounded();
        capture.stdin_from(reader).on_output(|_, bytes| {
            shown.lock().unwrap().extend_from_slice(bytes);
            ControlFlow::Break(())
        });
        for expected in ["first and only", ""] {
            run(backend, &["echo"], &mut capture);
            assert_eq!(
                String::from_utf8(std::mem::take(&mut *shown.lock().unwrap())).unwrap(),
                expected
            );
        }
        drop(capture);
        let mut capture = bounded();
        capture.stdin("again");
        for _ in 0..2 {
            assert_eq!(run(backend, &["echo"], &mut capture).stdout.text(), "again");
        }
    });
}

/// The child must not take the input so far for the whole input.
#[test]
fn input_that_fails_stops_the_child_before_it_sees_an_end() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut capture = bounded();
        let reader = (&b"half of it"[..]).chain(Failing);
        let captured = way.run(backend, &["read", "say", "taken"], capture.stdin_from(reader));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Input));
        assert_eq!(captured.error.as_ref().unwrap().to_string(), "the disk has failed");
        assert_eq!(captured.stdout.text(), "");
        assert!(!captured.success());
    });
}

/// A reader may be interrupted, and may return few bytes at a time.
#[test]
fn input_that_comes_in_small_parts_is_written() {
    struct Drops(Vec<u8>);
    impl Read for Drops {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.pop() {
                Some(b'!') => Err(ErrorKind::Interrupted.into()),
                Some(byte) => {
                    buffer[0] = byte;
                    Ok(1)
                }
                None => Ok(0),
            }
        }
    }
    watchdog!();
    in_every_way(|backend, way| {
        let reader = Drops(b"a!b!!c".repeat(100));
        let captured = way.run(backend, &["echo"], bounded().stdin_from(reader));
        assert_eq!(captured.stdout.text(), "cba".repeat(100), "{captured:?}");
    });
}

#[test]
fn input_without_a_pipe_is_refused() {
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["say", "on"]);
        let child = backend.spawn(command.stdout(Stdio::piped())).unwrap();
        let error = child.capture(bounded().stdin("lost")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&child.id().to_string()), "{error}");
        // No byte is lost.
        assert_eq!(child.capture(&mut bounded()).unwrap().stdout.text().trim_end(), "on");
        let child = piped(backend, &["say", "on"]);
        let error = child.capture(bounded().merge_stderr(true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(child.capture(&mut bounded()).unwrap().stdout.text().trim_end(), "on");
    });
}

#[test]
fn stream_that_is_not_piped_is_not_captured() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["say", "out", "complain", "err"]);
        let mut stdout = child.take_stdout().unwrap();
        let captured = child.capture(&mut bounded()).unwrap();
        assert_eq!(captured.stdout.end, StreamEnd::NotCaptured);
        assert_eq!((captured.stdout.total, captured.stdout.bytes.len()), (0, 0));
        assert_eq!(captured.stderr.text().trim_end(), "err");
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said.trim_end(), "out");
        // A second capture returns the status alone.
        let again = child.capture(&mut bounded()).unwrap();
        assert_eq!((again.status, again.stderr.end), (captured.status, StreamEnd::NotCaptured));
    });
}

/// A descendant holds the pipe, and never writes.
#[test]
fn held_pipe_does_not_delay_the_result() {
    watchdog!();
    on_every_backend(|backend| {
        for drain in [Duration::ZERO, SHORT] {
            let mut options = SpawnOptions::new();
            options.tree(true).kill_on_drop(true);
            let parts = ["spawn", "1", "sleep", "say", "done", "write-err", "60000"];
            let mut capture = bounded();
            let captured =
                backend.capture(&options, &mut helper(&parts), capture.drain(drain)).unwrap();
            assert!(captured.success(), "{captured:?}");
            assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
            assert_eq!(captured.stderr.end, StreamEnd::HeldOpen);
            assert!(captured.stdout.text().contains("done"));
            // The content of the pipe is read, however short the time.
            assert_eq!(captured.stderr.total, 60_000);
            assert!(captured.elapsed >= drain);
        }
    });
}

/// A descendant holds the pipe for a while and writes; the capture waits for it.
#[test]
fn held_pipe_is_read_to_its_end_with_an_unlimited_drain() {
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["spawn", "3", "read", "say", "late"]);
        let child = backend
            .spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()))
            .unwrap();
        let stdin = child.take_stdin();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait(&child);
                drop(stdin);
            });
            let captured = child.capture(bounded().drain(Duration::MAX)).unwrap();
            assert!(captured.stdout.text().contains("late"), "{captured:?}");
            assert_eq!(captured.stdout.end, StreamEnd::Closed);
        });
    });
}

/// A descendant writes all the time. The capture stops reading at the end of the drain or at the deadline.
#[test]
fn pipe_flooded_after_the_exit_is_left_at_the_drain_or_timeout() {
    watchdog!();
    in_every_way(|backend, way| {
        for drain in [SHORT, Duration::MAX] {
            let child = piped(backend, &["spawn", "2", "hear", "flood"]);
            wait(&child);
            child.take_stdin().unwrap().write_all(b"\n").unwrap();
            // The callback is slower than the flood, so the pipe is never empty.
            let mut capture = CaptureOptions::new();
            capture.on_output(|_, _| {
                thread::sleep(Duration::from_millis(1));
                ControlFlow::Continue(())
            });
            // One of the two bounds ends the capture.
            let timeout = if drain == SHORT { LONG } else { 4 * SHORT };
            let captured =
                way.capture(&child, capture.drain(drain).timeout(timeout).limit(10)).unwrap();
            assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
            assert!(captured.stdout.total > 0);
            assert!(captured.success() && captured.stderr.end == StreamEnd::HeldOpen);
        }
    });
}

#[test]
fn deadline_is_kept_whatever_the_child_does() {
    watchdog!();
    in_every_way(|backend, way| {
        for parts in [
            &["sleep"][..],
            &["flood"],
            &["close-stdout", "sleep"],
            &["close-stdin", "close-stdout", "close-stderr", "sleep"],
            &["write", "1000000", "sleep"],
        ] {
            for at in 0..3 {
                let mut capture = CaptureOptions::new();
                capture.limit(1000).stdin(vec![0; MIB]);
                match at {
                    0 => capture.timeout(Duration::ZERO),
                    1 => capture.timeout(SHORT),
                    _ => capture.timeout(Duration::MAX).deadline(Instant::now() + SHORT),
                };
                let captured = way.run(backend, parts, &mut capture);
                assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline), "{parts:?}");
                assert!(captured.status.is_some() && !captured.success(), "{captured:?}");
                assert_eq!(captured.stdout.end, StreamEnd::Closed, "{captured:?}");
            }
        }
    });
}

/// Processes that survive the child's stop do not delay the capture, however long the drain would be otherwise.
#[test]
fn deadline_is_kept_although_other_processes_have_the_pipe() {
    watchdog!();
    in_every_way(|backend, way| {
        for grace in [Duration::ZERO, 2 * LONG] {
            let child = piped(backend, &["spawn", "1", "read", "sleep"]);
            let stdin = child.take_stdin();
            let mut capture = CaptureOptions::new();
            capture.grace(grace).drain(Duration::MAX).on_line(|_, _| ControlFlow::Break(()));
            let captured = way.capture(&child, &mut capture).unwrap();
            assert!(captured.status.is_some() && !captured.success(), "{captured:?}");
            assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
            assert!(captured.elapsed < LONG);
            drop(stdin);
        }
    });
}

/// The deadline passes and the child ends while the caller handles earlier output.
#[test]
fn output_written_before_the_capture_is_captured() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["say", "first", "hear", "complain", "last"]);
        let mut stdin = child.take_stdin();
        let deadline = Instant::now() + 4 * SHORT;
        let mut capture = CaptureOptions::new();
        capture.deadline(deadline).on_output(|_, bytes| {
            if bytes.starts_with(b"first") {
                stdin.take().unwrap().write_all(b"\n").unwrap();
                wait(&child);
                thread::sleep(deadline.saturating_duration_since(Instant::now()));
            }
            ControlFlow::Continue(())
        });
        let captured = child.capture(&mut capture).unwrap();
        // On a slow machine the child may be stopped before it writes anything.
        if captured.stdout.total > 0 {
            assert!(captured.success(), "{captured:?}");
            assert_eq!(captured.stderr.text().trim_end(), "last");
        }
    });
}

/// Output that exists already is read even if the deadline has passed before the capture begins.
#[test]
fn capture_with_a_passed_deadline_polls_once() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["say", "quick"]);
        wait(&child);
        let captured = child.capture(CaptureOptions::new().timeout(Duration::ZERO)).unwrap();
        assert!(captured.success(), "{captured:?}");
        assert_eq!(captured.stdout.text().trim_end(), "quick");
    });
}

#[test]
fn child_that_closes_its_streams_and_runs_on_is_waited_for() {
    watchdog!();
    in_every_way(|backend, way| {
        let child = piped(backend, &["close-stdout", "close-stderr", "read", "exit", "5"]);
        let stdin = child.take_stdin();
        thread::scope(|scope| {
            let capturing = scope.spawn(|| way.capture(&child, &mut bounded()).unwrap());
            assert!(child.wait_timeout(SHORT).unwrap().is_none());
            assert!(!capturing.is_finished());
            drop(stdin);
            let captured = capturing.join().unwrap();
            assert_eq!(captured.status.unwrap().code(), Some(5));
        });
    });
}

#[test]
fn other_threads_may_wait_poll_and_kill_meanwhile() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["write", "100000", "sleep"]);
        thread::scope(|scope| {
            let capturing = scope.spawn(|| child.capture(&mut bounded()).unwrap());
            let waiting = scope.spawn(|| wait(&child));
            assert!(child.try_wait().unwrap().is_none());
            assert!(child.wait_timeout(SHORT).unwrap().is_none());
            child.kill().unwrap();
            let captured = capturing.join().unwrap();
            assert_eq!(captured.status, Some(waiting.join().unwrap()));
            assert_eq!(captured.stopped_by, None); // The capture has not stopped it.
        });
        let child = piped(backend, &["sleep"]);
        thread::scope(|scope| {
            let capturing = scope.spawn(|| child.capture(&mut bounded()).unwrap());
            let status = child.stop(LONG).unwrap();
            assert_eq!(capturing.join().unwrap().status, Some(status));
        });
    });
}

/// Two concurrent captures share the output, and both return.
#[test]
fn two_captures_of_one_child_share_its_output() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["write", "100000"]);
        thread::scope(|scope| {
            let both = [0, 1].map(|_| scope.spawn(|| child.capture(&mut bounded()).unwrap()));
            let both = both.map(|capturing| capturing.join().unwrap());
            assert_eq!(both[0].status, both[1].status);
            assert_eq!(both[0].stdout.total + both[1].stdout.total, 100_000);
        });
    });
}

#[test]
fn limits_keep_the_head_and_the_tail() {
    watchdog!();
    on_every_backend(|backend| {
        let count = 300_000;
        let all = written(count);
        for (head, tail) in [
            (0, 0),
            (1, 0),
            (0, 1),
            (1000, 1000),
            (0, 100_000),
            (150_000, 149_999),
            (150_000, 150_000),
            (count, 0),
            (0, count),
            (count - 1, 0),
            (usize::MAX, usize::MAX),
        ] {
            let mut capture = bounded();
            capture.limit(Limit::head_and_tail(head, tail)).limit_of(Stream::Stderr, 7);
            let parts = ["write", "300000", "write-err", "8"];
            let captured = run(backend, &parts, &mut capture);
            assert!(captured.success());
            let kept = head.saturating_add(tail).min(count);
            let stdout = &captured.stdout;
            assert_eq!((stdout.total, stdout.omitted), (count as u64, (count - kept) as u64));
            if kept < count {
                assert!(stdout.bytes == [&all[..head], &all[count - tail..]].concat());
                assert_eq!(stdout.omitted_at, head);
            } else {
                assert!(stdout.bytes == all);
            }
            assert_eq!((captured.stderr.bytes.len(), captured.stderr.omitted), (7, 1));
            assert_eq!(stdout.end, StreamEnd::Closed);
        }
    });
}

#[test]
fn limit_may_stop_the_child() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut capture = bounded();
        let captured = way.run(backend, &["flood"], capture.limit(100_000).stop_at_limit(true));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Limit(Stream::Stdout)));
        assert_eq!(captured.stdout.bytes.len(), 100_000);
        assert!(!captured.success());
        // Output of exactly the limit does not exceed it.
        let mut capture = bounded();
        let captured =
            way.run(backend, &["write", "1000"], capture.limit(1000).stop_at_limit(true));
        assert!(captured.success(), "{captured:?}");
        let captured = way.run(backend, &["write-err", "1001"], &mut capture);
        assert_eq!(captured.stopped_by, Some(StoppedBy::Limit(Stream::Stderr)));
        assert_eq!(captured.stderr.bytes, written(1000));
    });
}

#[test]
fn output_is_shown_as_it_arrives() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["say", "ready", "read", "say", "over", "complain", "so"]);
        let mut stdin = child.take_stdin();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut capture = bounded();
        // The limit applies to the bytes that are kept.
        capture.limit(3).on_output(|stream, bytes| {
            match stream {
                Stream::Stdout => out.extend_from_slice(bytes),
                Stream::Stderr => err.extend_from_slice(bytes),
            }
            // The child continues only after this output was shown.
            if out.ends_with(b"ready\n") {
                stdin = None;
            }
            ControlFlow::Continue(())
        });
        let captured = child.capture(&mut capture).unwrap();
        drop(capture);
        assert!(captured.success());
        assert_eq!((out, err), (b"ready\nover\n".to_vec(), b"so\n".to_vec()));
        assert_eq!(captured.stdout.bytes, b"rea");
    });
}

#[test]
fn callback_that_breaks_stops_the_child() {
    watchdog!();
    in_every_way(|backend, way| {
        for by_line in [false, true] {
            let mut count = 0;
            let mut capture = bounded();
            if by_line {
                capture.on_line(|_, _| {
                    count += 1;
                    ControlFlow::Break(())
                });
            } else {
                capture.on_output(|_, _| {
                    count += 1;
                    ControlFlow::Break(())
                });
            }
            let parts = ["say", "one", "say", "two", "flood"];
            let captured = way.run(backend, &parts, capture.limit(1000));
            drop(capture);
            assert_eq!(captured.stopped_by, Some(StoppedBy::Callback));
            assert!(!captured.success());
            assert_eq!(count, 1);
            // Later output is kept all the same.
            assert_eq!(&captured.stdout.bytes[..3], b"one");
        }
    });
}

#[test]
fn lines_are_reported_one_by_one() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut lines = Vec::new();
        let mut capture = bounded();
        capture.stdin("one\r\n\n\u{20ac}\nno end").on_line(|stream, line| {
            lines.push((stream, line.to_string()));
            ControlFlow::Continue(())
        });
        let captured = way.run(backend, &["echo"], &mut capture);
        drop(capture);
        assert!(captured.success());
        let expected = ["one", "", "\u{20ac}", "no end"];
        assert_eq!(lines, expected.map(|line| (Stream::Stdout, line.to_owned())));
        // The line has no end yet when the capture stops waiting for it.
        let mut lines = Vec::new();
        let mut capture = bounded();
        capture.drain(Duration::ZERO).on_line(|_, line| {
            lines.push(line.as_bytes().len());
            ControlFlow::Continue(())
        });
        let mut options = SpawnOptions::new();
        options.tree(true).kill_on_drop(true);
        let mut command = helper(&["write", "5", "spawn", "1", "sleep"]);
        backend.capture(&options, &mut command, &mut capture).unwrap();
        drop(capture);
        assert_eq!(lines.len(), 1);
    });
}

/// At the end of the drain the rest of stderr exceeds its limit. That stops the child, so the capture reads on, and the
/// unfinished line of stdout must not have been reported before.
#[test]
fn line_ends_only_when_all_of_it_is_read() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["spawn", "5", "hear", "write-err", "1000", "say", "on", "write", "5"];
        let child = piped(backend, &parts);
        let mut stdin = child.take_stdin().unwrap();
        let mut lines = Vec::new();
        let mut capture = bounded();
        capture.drain(Duration::ZERO).limit_of(Stream::Stderr, 10).stop_at_limit(true);
        capture.on_line(|stream, line| {
            if stream == Stream::Stdout {
                lines.push(line.as_bytes().to_vec());
            }
            if line.as_bytes() == written(5) {
                // The remaining process writes more to both streams, and ends.
                while stdin.write_all(b"\n").is_ok() {}
            }
            ControlFlow::Continue(())
        });
        child.capture(&mut capture).unwrap();
        drop(capture);
        // The first line is the descendant's process ID.
        assert_eq!(lines[1..], [written(5)]);
    });
}

#[test]
fn panic_of_a_callback_leaves_no_process() {
    watchdog!();
    on_every_backend(|backend| {
        let mut capture = bounded();
        capture.on_output(|_, _| panic!("as planned"));
        let child = piped(backend, &["say", "something", "read"]);
        let stdin = child.take_stdin();
        let panicked = catch_unwind(AssertUnwindSafe(|| child.capture(&mut capture)));
        assert!(panicked.is_err());
        // The child is unchanged, except that its pipes are closed.
        assert!(child.try_wait().unwrap().is_none());
        drop(stdin);
        wait(&child);
        // The child is killed if the capture alone owns it.
        let mut pid = 0;
        let mut capture = bounded();
        capture.on_line(|_, line| {
            pid = line.to_string().strip_prefix("pid ").unwrap().parse().unwrap();
            panic!("as planned")
        });
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(backend, &["pid", "sleep"], &mut capture);
        }));
        assert!(panicked.is_err());
        drop(capture);
        assert_ne!(pid, 0_u32);
        #[cfg(unix)]
        until("it is dead and reaped", || unix::state(pid).is_none());
    });
}

#[test]
fn merged_streams_keep_their_order() {
    watchdog!();
    on_every_backend(|backend| {
        let mut parts = Vec::new();
        let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        for pair in numbers.chunks(2) {
            parts.extend(["say", &pair[0], "complain", &pair[1]]);
        }
        let mut command = helper(&parts);
        let mut capture = bounded();
        // Two captures: the command keeps no state of the first.
        for _ in 0..2 {
            let captured = backend
                .capture(&SpawnOptions::new(), &mut command, capture.merge_stderr(true))
                .unwrap();
            assert!(captured.success());
            let text = captured.stdout.text();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines, numbers);
            assert_eq!(captured.stdout.end, StreamEnd::Closed);
            assert_eq!(captured.stderr.end, StreamEnd::NotCaptured);
        }
        // The same in two steps.
        let child = SpawnOptions::new().spawn_piped(&mut command, &capture).unwrap();
        assert_eq!(child.capture(&mut capture).unwrap().stdout.text().lines().count(), 200);
        let captured = backend
            .capture(&SpawnOptions::new(), &mut command, capture.merge_stderr(false))
            .unwrap();
        assert_eq!(captured.stderr.text().lines().count(), 100);
    });
}

#[test]
fn hundred_captures_at_once_get_all_output() {
    watchdog!();
    on_every_backend(|backend| {
        thread::scope(|scope| {
            let all: Vec<_> = (0..100)
                .map(|number| {
                    scope.spawn(move || {
                        let mut capture = bounded();
                        capture.stdin(written(1000 * number));
                        run(backend, &["echo-both"], &mut capture)
                    })
                })
                .collect();
            for (number, one) in all.into_iter().enumerate() {
                let captured = one.join().unwrap();
                assert!(captured.success(), "{captured:?}");
                assert!(captured.stdout.bytes == written(1000 * number));
                assert!(captured.stderr.bytes == written(1000 * number));
            }
        });
    });
}

/// The whole tree is stopped, including members without a pipe.
#[test]
fn deadline_ends_the_whole_tree() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["spawn", "3", "close-stdout", "close-stderr", "sleep", "say", "on", "sleep"];
        let mut options = SpawnOptions::new();
        options.tree(true);
        let mut command = helper(&parts);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = backend.spawn_with(&options, &mut command).unwrap();
        let captured = child.capture(CaptureOptions::new().timeout(4 * SHORT)).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert!(captured.status.is_some(), "{captured:?}");
        assert!(child.tree().unwrap().wait_empty(Some(Instant::now() + LONG)).unwrap());
    });
}

#[test]
fn debug_is_short_and_shows_no_input() {
    watchdog!();
    on_every_backend(|backend| {
        let captured = run(backend, &["write", "1000000", "exit", "1"], &mut bounded());
        let shown = format!("{captured:?}");
        assert!(shown.len() < 20_000, "{}", shown.len());
        assert!(shown.contains("1000000") && shown.contains("Closed"), "{shown}");
        let mut capture = CaptureOptions::new();
        capture.stdin("secret").timeout(SHORT).on_output(|_, _| ControlFlow::Continue(()));
        let shown = format!("{capture:?}");
        assert!(shown.contains("6 bytes") && !shown.contains("secret"), "{shown}");
    });
}

/// No lock is held, so the callback may use the handle.
#[test]
fn callback_may_kill_the_child() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["say", "kill me", "sleep"]);
        let mut capture = bounded();
        capture.on_output(|_, _| {
            child.kill().unwrap();
            let _ = child.try_wait();
            io::stderr().flush().unwrap();
            ControlFlow::Continue(())
        });
        let captured = child.capture(&mut capture).unwrap();
        assert_eq!(captured.stopped_by, None);
        assert_eq!(captured.status, child.try_wait().unwrap());
    });
}
