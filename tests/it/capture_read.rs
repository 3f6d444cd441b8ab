//! Promise: a capture that goes on returns each byte once, ends each read exactly at its condition, keeps every deadline,
//! and never deadlocks with the child, on threads and in tasks.

use crate::common::captures::{Failing, bounded, in_every_way, piped};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{
    Capture, CaptureOptions, Captured, ChildState, Chunk, Limit, Part, Reached, SpawnOptions,
    StoppedBy, Stream, StreamEnd, Until,
};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(50);

/// The child is killed when the capture is dropped.
#[track_caller]
fn begin_with<'a>(
    backend: Backend,
    parts: &[&str],
    capture: &mut CaptureOptions<'a>,
) -> Capture<'a> {
    let mut options = SpawnOptions::new();
    options.kill_on_drop(true);
    backend.begin_capture(&options, &mut helper(parts), capture).expect("to begin")
}

#[track_caller]
fn begin(backend: Backend, parts: &[&str]) -> Capture<'static> {
    begin_with(backend, parts, bounded().stdin_open())
}

/// Waits until this many bytes have arrived.
fn await_unread(capture: &Capture<'_>, count: u64) {
    until("the output has arrived", || capture.unread() >= count);
}

/// The condition, or a deadline that fails the test.
fn soon(until: Until) -> Until {
    until.or(Until::timeout(LONG))
}

/// Text of the helper, which ends lines as the system does.
fn text(chunk: &Chunk) -> String {
    chunk.stdout.text().replace("\r\n", "\n")
}

fn is_send_and_sync<T: Send + Sync + 'static>(_: &T) {}

#[test]
fn conversation_by_lines_returns_each_answer() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["echo"]);
        is_send_and_sync(&capture);
        for number in 0..rounds(100).max(3) {
            let line = format!("line {number}\n");
            way.write(&capture, line.as_bytes()).unwrap();
            let chunk = way.read(&capture, soon(Until::line()));
            assert_eq!((chunk.stdout.text().into_owned(), chunk.reached), (line, Reached::Line));
            assert_eq!((chunk.state, chunk.stdout.end), (ChildState::Running, StreamEnd::Open));
        }
        way.write(&capture, b"no newline").unwrap();
        capture.close_stdin();
        let rest = way.read(&capture, soon(Until::line()));
        assert_eq!(
            (rest.stdout.bytes.as_slice(), rest.reached),
            (&b"no newline"[..], Reached::End)
        );
        assert!(matches!(rest.state, ChildState::Ended(Some(status)) if status.success()));
        assert_eq!((rest.stdout.end, rest.stderr.end), (StreamEnd::Closed, StreamEnd::Closed));
        assert_eq!(way.read(&capture, Until::line()).reached, Reached::End);
        let captured = way.finish(&capture);
        assert!(captured.success() && captured.stdout.bytes.is_empty(), "{captured:?}");
    });
}

#[test]
fn read_ends_exactly_at_its_condition() {
    watchdog!();
    in_every_way(|backend, way| {
        // One write, so all of it arrives at once.
        let capture = begin(backend, &["echo"]);
        way.write(&capture, b"one\ntwo three four\nfive\n").unwrap();
        for (until, expected, reached) in [
            (Until::line(), "one\n", Reached::Line),
            (Until::bytes(3), "two", Reached::Bytes),
            (Until::pattern("hre").or(Until::line()), " thre", Reached::Pattern),
            (Until::bytes(100).or(Until::line()), "e four\n", Reached::Line),
            (Until::pattern("five"), "five", Reached::Pattern),
            (Until::timeout(Duration::ZERO), "\n", Reached::Deadline),
        ] {
            let chunk = way.read(&capture, until.clone());
            assert_eq!((&*chunk.stdout.text(), chunk.reached), (expected, reached), "{until:?}");
        }
        way.write(&capture, b"six\nseven\n").unwrap();
        assert_eq!(way.read(&capture, soon(Until::line())).stdout.bytes, b"six\n");
        // The rest of a chunk that was read is returned as well.
        assert_eq!(way.finish(&capture).stdout.bytes, b"seven\n");
    });
}

/// A callback and reads split the same output, with a line that is longer than 64 KiB.
#[test]
fn reads_by_line_return_the_lines_of_the_callback() {
    watchdog!();
    let long = "\u{20ac}".repeat(50_000);
    let text = format!("one\r\n\n{long}\r\ntwo\nno newline");
    in_every_way(|backend, way| {
        let mut shown = Vec::new();
        let mut options = bounded();
        options.stdin(text.as_bytes()).on_line(|_, line| {
            shown.push((line.to_string(), line.goes_on()));
            ControlFlow::Continue(())
        });
        let capture = begin_with(backend, &["echo"], &mut options);
        let mut read = Vec::new();
        loop {
            let chunk = way.read(&capture, soon(Until::line()));
            let line = chunk.stdout.text().into_owned();
            match chunk.reached {
                Reached::Line => read.push((line.lines().next().unwrap().to_owned(), false)),
                Reached::LinePiece => read.push((line, true)),
                other => {
                    assert_eq!(other, Reached::End);
                    read.push((line, false));
                    break;
                }
            }
        }
        drop(capture);
        drop(options);
        assert!(read == shown, "{} lines and pieces, not {}", read.len(), shown.len());
        assert!(shown.iter().all(|(line, _)| !line.contains(char::REPLACEMENT_CHARACTER)));
        let joined: String = shown[2..5].iter().map(|(line, _)| line.as_str()).collect();
        assert!(joined == long && shown[2].1 && shown[3].1 && !shown[4].1);
        assert_eq!(shown[5..], [("two".to_owned(), false), ("no newline".to_owned(), false)]);
    });
}

#[test]
fn text_splits_no_character_at_the_limit() {
    watchdog!();
    on_every_backend(|backend| {
        for limit in 0..8 {
            for limit in
                [Limit::head(limit), Limit::tail(limit), Limit::head_and_tail(limit, limit)]
            {
                let mut options = bounded();
                options.limit(limit).stdin("a\u{e9}\u{20ac}\u{1f600}".repeat(9));
                let captured = begin_with(backend, &["echo"], &mut options).finish();
                let text = captured.stdout.text();
                assert!(captured.success() && captured.stdout.omitted > 0);
                assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{limit:?}: {text}");
            }
        }
    });
}

#[test]
fn streams_are_separate_and_kept_in_order() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["say", "a", "hear", "complain", "b", "hear", "say", "c", "hear"];
        let capture = begin(backend, &parts);
        assert_eq!(way.read(&capture, soon(Until::line())).stdout.total, "a".len() as u64 + 1);
        way.write(&capture, b"\n").unwrap();
        // A line of the other stream does not end this read.
        let both = Until::line().of(Stream::Stdout).or(Until::quiet(4 * SHORT));
        let error = way.read(&capture, soon(both));
        assert_eq!(error.reached, Reached::Quiet);
        assert_eq!(error.stream(Stream::Stderr).text().trim_end(), "b");
        way.write(&capture, b"\n").unwrap();
        assert_eq!(text(&way.read(&capture, soon(Until::line()))), "c\n");

        let capture = begin(backend, &["say", "a", "hear", "complain", "b", "hear", "say", "c"]);
        let reader = |until| way.read(&capture, soon(until));
        // Output comes in the order of its arrival.
        assert_eq!(reader(Until::pattern("a")).stdout.text(), "a");
        way.write(&capture, b"\n").unwrap();
        let error = reader(Until::pattern("b"));
        let streams = error.parts().map(|part| match part {
            Part::Bytes(stream, _) | Part::Omitted(stream, _) => stream,
        });
        assert!(streams.eq([Stream::Stdout, Stream::Stderr]), "{error:?}");
    });
}

#[test]
fn deadline_of_a_read_stops_nothing() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["say", "early", "hear", "say", "late"]);
        let chunk = way.read(&capture, soon(Until::bytes(4)));
        assert_eq!(chunk.stdout.bytes, b"earl");
        let start = Instant::now();
        let chunk = way.read(&capture, Until::bytes(1000).or(Until::timeout(SHORT)));
        assert!(start.elapsed() >= SHORT);
        assert_eq!((text(&chunk), chunk.reached), ("y\n".to_owned(), Reached::Deadline));
        assert_eq!(chunk.state, ChildState::Running);
        way.write(&capture, b"\n").unwrap();
        let captured = way.finish(&capture);
        assert_eq!((captured.stdout.text().trim_end(), captured.stopped_by), ("late", None));
    });
}

#[test]
fn deadline_that_has_passed_returns_what_is_there() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["say", "x", "sleep"]);
        let mut all = String::new();
        until("it has written", || {
            all.push_str(&text(&way.read(&capture, Until::deadline(Instant::now()))));
            all == "x\n"
        });
    });
}

#[test]
fn quiet_and_silent_reads_end_without_output() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["say", "x", "sleep"]);
        let start = Instant::now();
        let chunk = way.read(&capture, soon(Until::quiet(SHORT)));
        assert_eq!((text(&chunk), chunk.reached), ("x\n".to_owned(), Reached::Quiet));
        assert!(start.elapsed() >= SHORT);
        // There is no output any more, so this read is never quiet.
        let chunk = way.read(&capture, Until::quiet(SHORT).or(Until::timeout(3 * SHORT)));
        assert_eq!((chunk.stdout.total, chunk.reached), (0, Reached::Deadline));
        let chunk = way.read(&capture, soon(Until::silent(SHORT)));
        assert_eq!((chunk.stdout.total, chunk.reached), (0, Reached::Quiet));
    });
}

#[test]
fn child_that_never_pauses_is_never_quiet() {
    watchdog!();
    in_every_way(|backend, way| {
        for part in ["drip", "flood"] {
            let capture = begin_with(backend, &[part], bounded().limit(Limit::tail(1000)));
            assert_eq!(way.read(&capture, soon(Until::bytes(1))).reached, Reached::Bytes);
            let start = Instant::now();
            let quiet = Until::quiet(LONG).or(Until::silent(LONG)).or(Until::pattern("\n"));
            let chunk = way.read(&capture, quiet.or(Until::timeout(4 * SHORT)));
            assert_eq!(chunk.reached, Reached::Deadline, "{part}");
            assert!(start.elapsed() < LONG / 2);
            assert!(chunk.stdout.total > 0 && chunk.stdout.bytes.len() <= 1000);
            assert_eq!(chunk.stdout.total, chunk.stdout.omitted + chunk.stdout.bytes.len() as u64);
        }
    });
}

#[test]
fn limit_applies_to_each_chunk_anew() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = bounded();
        let capture = begin_with(backend, &["echo"], options.limit(Limit::head(4)).stdin_open());
        way.write(&capture, b"long line\nshort\nx\n").unwrap();
        let kept = [(&b"long"[..], 6), (b"shor", 2), (b"x\n", 0)];
        for (bytes, omitted) in kept {
            let chunk = way.read(&capture, soon(Until::line()));
            assert_eq!((chunk.stdout.bytes.as_slice(), chunk.stdout.omitted), (bytes, omitted));
        }
        // More than the limit is read while this process writes, and so does not wait for a read.
        let input = vec![b'\n'; 4 * MIB];
        way.write(&capture, &input).unwrap();
        let chunk = way.read(&capture, soon(Until::line()));
        assert_eq!(chunk.reached, Reached::Omitted);
        assert_eq!(chunk.stdout.bytes, b"\n\n\n\n");
        let rest = way.finish(&capture);
        assert_eq!(chunk.stdout.total + rest.stdout.total, input.len() as u64);
    });
}

#[test]
fn child_waits_between_reads() {
    watchdog!();
    in_every_way(|backend, way| {
        let count = 4 * MIB;
        let capture = begin(backend, &["write", &count.to_string(), "exit", "7"]);
        assert_eq!(way.read(&capture, soon(Until::bytes(1))).stdout.total, 1);
        assert_eq!(capture.child().wait_timeout(SHORT).unwrap(), None);
        let captured = way.finish(&capture);
        assert_eq!(captured.stdout.total, count as u64 - 1);
        assert_eq!(captured.status.unwrap().code(), Some(7));
    });
}

#[test]
fn write_to_a_child_that_writes_does_not_deadlock() {
    watchdog!();
    in_every_way(|backend, way| {
        let input: Vec<u8> = (0..=255).cycle().take(rounds(8).clamp(1, 8) * MIB).collect();
        let capture = begin(backend, &["echo-both"]);
        way.write(&capture, &input).unwrap();
        capture.close_stdin();
        let chunk = way.read(&capture, soon(Until::end()));
        assert_eq!(chunk.reached, Reached::End);
        assert!(chunk.stdout.bytes == input && chunk.stderr.bytes == input);
        let parts = chunk.parts().map(|part| match part {
            Part::Bytes(_, bytes) => bytes.len(),
            Part::Omitted(..) => 0,
        });
        assert_eq!(parts.sum::<usize>(), 2 * input.len());
    });
}

#[test]
fn write_to_a_child_that_does_not_read_keeps_its_deadline() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["sleep"]);
        let input = vec![0; 64 * MIB];
        let start = Instant::now();
        let count = way.write_deadline(&capture, &input, start + 4 * SHORT).unwrap();
        assert!(count < input.len());
        assert!(start.elapsed() >= 4 * SHORT && start.elapsed() < LONG / 2);
        // The pipe is full.
        assert_eq!(way.write_deadline(&capture, &input, Instant::now()).unwrap(), 0);
    });
}

#[test]
fn write_fails_if_the_child_cannot_read() {
    watchdog!();
    in_every_way(|backend, way| {
        let closed = begin_with(backend, &["sleep"], &mut bounded());
        assert_eq!(way.write(&closed, b"x").unwrap_err().kind(), ErrorKind::InvalidInput);
        let capture = begin(backend, &["close-stdin", "say", "ready", "sleep"]);
        way.read(&capture, soon(Until::line()));
        // A child that another test spawns may have a copy of the read end until it executes its program.
        let mut error = None;
        until("all read ends are closed", || {
            error = way.write(&capture, b"x").err();
            error.is_some()
        });
        assert_eq!(error.unwrap().kind(), ErrorKind::BrokenPipe);
        capture.close_stdin();
        assert_eq!(way.write(&capture, b"x").unwrap_err().kind(), ErrorKind::InvalidInput);
        let ended = begin(backend, &["exit", "0"]);
        assert_eq!(way.read(&ended, soon(Until::end())).reached, Reached::End);
        assert_eq!(way.write(&ended, b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(way.write_deadline(&ended, b"", Instant::now()).unwrap(), 0);
    });
}

#[test]
fn two_threads_that_read_get_each_line_once() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["echo"]);
        let count = rounds(2000).max(100);
        let lines = |capture: &Capture<'_>| {
            let mut lines = Vec::new();
            loop {
                let chunk = way.read(capture, soon(Until::line()));
                match chunk.reached {
                    Reached::Line => lines.push(chunk.stdout.text().into_owned()),
                    Reached::End => return lines,
                    other => panic!("{other:?}"),
                }
            }
        };
        let all = thread::scope(|scope| {
            let readers = [(); 2].map(|()| scope.spawn(|| lines(&capture)));
            for number in 0..count {
                way.write(&capture, format!("{number}\n").as_bytes()).unwrap();
            }
            capture.close_stdin();
            readers.map(|reader| reader.join().unwrap()).concat()
        });
        assert_eq!(all.len(), count);
        let expected: BTreeSet<String> = (0..count).map(|number| format!("{number}\n")).collect();
        assert_eq!(BTreeSet::from_iter(all), expected);
    });
}

#[test]
fn read_that_waits_for_its_turn_keeps_its_deadline() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["echo"]);
        thread::scope(|scope| {
            let first = scope.spawn(|| way.read(&capture, soon(Until::line())));
            let start = Instant::now();
            let second = way.read(&capture, Until::bytes(1000).or(Until::timeout(4 * SHORT)));
            assert_eq!((second.reached, second.stdout.total), (Reached::Deadline, 0));
            assert!(start.elapsed() >= 4 * SHORT && start.elapsed() < LONG / 2);
            way.write(&capture, b"x\n").unwrap();
            assert_eq!(first.join().unwrap().stdout.bytes, b"x\n");
        });
    });
}

/// The thread that writes joins the wait of the thread that reads.
#[test]
fn thread_that_writes_beside_one_that_reads_is_served() {
    watchdog!();
    in_every_way(|backend, way| {
        for _ in 0..rounds(20).max(2) {
            let capture = begin(backend, &["echo"]);
            let input = vec![b'x'; MIB];
            thread::scope(|scope| {
                let read = scope.spawn(|| way.read(&capture, soon(Until::bytes(input.len()))));
                way.write(&capture, &input).unwrap();
                capture.close_stdin();
                let chunk = read.join().unwrap();
                assert_eq!(chunk.reached, Reached::Bytes);
                assert!(chunk.stdout.bytes == input);
            });
            assert!(way.finish(&capture).success());
        }
    });
}

#[test]
fn two_writes_do_not_mix() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["echo"]);
        let write = |byte: u8| way.write(&capture, &vec![byte; MIB]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| write(b'a'));
            write(b'b');
        });
        let bytes = way.finish(&capture).stdout.bytes;
        let changes = bytes.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!((bytes.len(), changes), (2 * MIB, 1));
    });
}

#[test]
fn close_of_stdin_beside_a_read_ends_the_child() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["say", "ready", "read", "exit", "7"]);
        let (ready, is_ready) = mpsc::channel();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                ready.send(way.read(&capture, soon(Until::line()))).unwrap();
                way.read(&capture, soon(Until::line()))
            });
            assert_eq!(text(&is_ready.recv().unwrap()), "ready\n");
            capture.close_stdin();
            let chunk = reader.join().unwrap();
            assert_eq!(chunk.reached, Reached::End);
            assert!(matches!(chunk.state, ChildState::Ended(Some(s)) if s.code() == Some(7)));
        });
    });
}

#[test]
fn stop_beside_a_read_ends_it() {
    watchdog!();
    in_every_way(|backend, way| {
        let capture = begin(backend, &["say", "ready", "sleep"]);
        way.read(&capture, soon(Until::line()));
        thread::scope(|scope| {
            let reader = scope.spawn(|| way.read(&capture, soon(Until::end())));
            let status = capture.child().stop(Duration::ZERO).unwrap();
            let chunk = reader.join().unwrap();
            assert_eq!(
                (chunk.reached, chunk.state),
                (Reached::End, ChildState::Ended(Some(status)))
            );
        });
        // The capture did not stop it.
        assert_eq!(way.finish(&capture).stopped_by, None);
    });
}

#[test]
fn timeout_of_the_capture_ends_reads_and_writes() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = CaptureOptions::new();
        let capture = begin_with(backend, &["sleep"], options.timeout(SHORT));
        let chunk = way.read(&capture, soon(Until::line()));
        assert_eq!(chunk.reached, Reached::End);
        assert!(matches!(chunk.state, ChildState::Ended(Some(status)) if !status.success()));
        assert_eq!(way.finish(&capture).stopped_by, Some(StoppedBy::Deadline));

        let mut options = CaptureOptions::new();
        let capture = begin_with(backend, &["sleep"], options.timeout(SHORT).stdin_open());
        let error = way.write(&capture, &vec![0; 8 * MIB]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        // Two threads, of which one has a turn and one has not.
        let mut options = CaptureOptions::new();
        let capture = begin_with(backend, &["sleep"], options.timeout(SHORT));
        thread::scope(|scope| {
            let reader = scope.spawn(|| way.read(&capture, soon(Until::line())));
            let captured = way.finish(&capture);
            assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
            assert_eq!(reader.join().unwrap().reached, Reached::End);
        });
    });
}

#[test]
fn child_that_closes_its_outputs_and_runs_on_is_running() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["say", "x", "close-stdout", "close-stderr", "hear", "exit", "7"];
        let capture = begin(backend, &parts);
        assert_eq!(text(&way.read(&capture, soon(Until::line()))), "x\n");
        let chunk = way.read(&capture, Until::line().or(Until::timeout(4 * SHORT)));
        assert_eq!((chunk.reached, chunk.state), (Reached::Deadline, ChildState::Running));
        assert_eq!((chunk.stdout.end, chunk.stderr.end), (StreamEnd::Closed, StreamEnd::Closed));
        way.write(&capture, b"\n").unwrap();
        let chunk = way.read(&capture, soon(Until::end()));
        assert!(matches!(chunk.state, ChildState::Ended(Some(status)) if status.code() == Some(7)));
    });
}

/// The process that floods the pipe ends when the capture closes it.
#[test]
fn pipe_that_a_descendant_floods_does_not_delay_the_end() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = bounded();
        let parts = ["spawn", "1", "flood", "exit", "7"];
        let capture = begin_with(backend, &parts, options.limit(1000).drain(SHORT));
        let chunk = way.read(&capture, soon(Until::end()));
        assert_eq!((chunk.reached, chunk.stdout.end), (Reached::End, StreamEnd::HeldOpen));
        assert!(matches!(chunk.state, ChildState::Ended(Some(status)) if status.code() == Some(7)));
    });
}

#[test]
fn callbacks_see_output_that_reads_return() {
    watchdog!();
    in_every_way(|backend, way| {
        let (sent, lines) = mpsc::channel();
        let mut options = bounded();
        options.stdin_open().on_line(|_, line| {
            sent.send(line.to_string()).unwrap();
            if line.as_bytes() == b"stop" {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let capture = begin_with(backend, &["echo"], &mut options);
        way.write(&capture, b"one\ntwo\n").unwrap();
        for line in ["one\n", "two\n"] {
            assert_eq!(way.read(&capture, soon(Until::line())).stdout.text(), line);
        }
        way.write(&capture, b"stop\n").unwrap();
        assert_eq!(way.read(&capture, soon(Until::end())).stdout.text(), "stop\n");
        assert_eq!(way.finish(&capture).stopped_by, Some(StoppedBy::Callback));
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["one", "two", "stop"]);
    });
}

#[test]
fn panic_of_a_callback_leaves_the_capture_usable() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = bounded();
        options.stdin_open().on_output(|_, bytes| {
            assert!(!bytes.starts_with(b"panic"), "as planned");
            ControlFlow::Continue(())
        });
        let capture = begin_with(backend, &["echo"], &mut options);
        let panics = || {
            let read = || way.read(&capture, soon(Until::pattern("end")));
            catch_unwind(AssertUnwindSafe(read)).is_err()
        };
        thread::scope(|scope| {
            let readers = [(); 2].map(|()| scope.spawn(panics));
            way.write(&capture, b"panic\n").unwrap();
            way.write(&capture, b"end").unwrap();
            capture.close_stdin();
            // The thread that reads the bytes panics, and the other one continues.
            let panicked = readers.map(|reader| reader.join().unwrap());
            assert_ne!(panicked[0], panicked[1]);
        });
        assert!(way.finish(&capture).success());
    });
}

#[test]
fn output_whose_callback_panics_is_returned_once() {
    watchdog!();
    on_every_backend(|backend| {
        let mut options = bounded();
        options.stdin_open().on_output(|_, bytes| {
            assert!(!bytes.starts_with(b"panic"), "as planned");
            ControlFlow::Continue(())
        });
        let capture = begin_with(backend, &["echo"], &mut options);
        capture.write(b"panic\n").unwrap();
        let read = || capture.read(soon(Until::line()));
        assert!(catch_unwind(AssertUnwindSafe(read)).is_err());
        capture.write(b"next\n").unwrap();
        assert_eq!(capture.read(soon(Until::line())).stdout.text(), "panic\n");
        assert_eq!(capture.finish().stdout.text(), "next\n");
    });
}

#[test]
fn reader_that_panics_adds_nothing_to_the_input() {
    struct Panicking(usize);
    impl Read for Panicking {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            assert_ne!(self.0, 2, "as planned");
            match self.0 {
                1 => (&b"one\n"[..]).read(buffer),
                3 => (&b"two\n"[..]).read(buffer),
                _ => Ok(0),
            }
        }
    }
    watchdog!();
    on_every_backend(|backend| {
        let mut options = bounded();
        let capture = begin_with(backend, &["echo"], options.stdin_from(Panicking(0)));
        let read = || capture.read(soon(Until::end()));
        assert!(catch_unwind(AssertUnwindSafe(read)).is_err());
        assert_eq!(capture.finish().stdout.text(), "one\ntwo\n");
    });
}

#[test]
fn read_of_no_byte_returns_at_once() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["say", "x", "sleep"]);
        let none = || capture.read(soon(Until::bytes(0)));
        assert_eq!((none().reached, none().stdout.total), (Reached::Bytes, 0));
        let line = capture.read(soon(Until::line()));
        assert_eq!((text(&line), line.reached), ("x\n".to_owned(), Reached::Line));
        assert_eq!(none().reached, Reached::Bytes);
    });
}

#[test]
fn second_capture_of_a_child_is_refused() {
    watchdog!();
    in_every_way(|backend, way| {
        let child = piped(backend, &["say", "x"]);
        let first = child.begin_capture(&mut bounded()).unwrap();
        let error = child.begin_capture(&mut bounded()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("another capture"), "{error}");
        assert_eq!(way.finish(&first).stdout.text().trim_end(), "x");
        assert_eq!(way.finish(&first).status, Some(wait(&child)));
        let child = piped(backend, &["say", "x"]);
        child.capture(&mut bounded()).unwrap();
        assert!(child.begin_capture(&mut bounded()).is_err());
        // `capture` still returns the status.
        assert!(child.capture(&mut bounded()).unwrap().success());
    });
}

#[test]
fn input_is_open_until_it_is_closed_or_the_capture_ends() {
    watchdog!();
    in_every_way(|backend, way| {
        let is_open = |parts: &[&str], mut options: CaptureOptions<'_>| {
            let capture = begin_with(backend, parts, &mut options);
            let was_open = capture.is_stdin_open();
            way.read(&capture, soon(Until::end()));
            assert!(!capture.is_stdin_open());
            was_open
        };
        assert!(!is_open(&[], bounded()));
        let mut options = bounded();
        options.stdin("x");
        assert!(!is_open(&["echo"], options));
        let mut options = bounded();
        options.stdin_open();
        assert!(is_open(&[], options));

        let capture = begin(backend, &["echo"]);
        way.write(&capture, b"x\n").unwrap();
        assert!(capture.is_stdin_open());
        capture.close_stdin();
        assert!(!capture.is_stdin_open());
    });
}

#[test]
fn unread_output_is_counted_with_what_was_omitted() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = bounded();
        options.limit(10).stdin_open();
        let capture = begin_with(backend, &["echo-both"], &mut options);
        assert_eq!(capture.unread(), 0);
        capture.read_in_background().unwrap();
        way.write(&capture, format!("{}\n", "x".repeat(49)).as_bytes()).unwrap();
        await_unread(&capture, 100);
        assert_eq!(way.read(&capture, Until::deadline(Instant::now())).stdout.omitted, 40);
        assert_eq!(capture.unread(), 0);
        // A read that ends within the bytes that have arrived leaves the others.
        way.write(&capture, b"abc\n").unwrap();
        await_unread(&capture, 8);
        way.read(&capture, soon(Until::bytes(3)));
        assert_eq!(capture.unread(), 5);
        way.finish(&capture);
        assert_eq!(capture.unread(), 0);
    });
}

#[test]
fn finish_returns_the_parts_in_their_order_with_the_gaps() {
    watchdog!();
    in_every_way(|backend, way| {
        let mut options = bounded();
        options.limit(Limit::head_and_tail(1, 1)).stdin_open();
        let parts = ["say", "abc", "hear", "complain", "d", "hear", "say", "e", "hear"];
        let capture = begin_with(backend, &parts, &mut options);
        capture.read_in_background().unwrap();
        for arrived in [4, 6] {
            await_unread(&capture, arrived);
            way.write(&capture, b"\n").unwrap();
        }
        let captured = way.finish(&capture);
        let expected = [
            Part::Bytes(Stream::Stdout, b"a"),
            Part::Omitted(Stream::Stdout, 4),
            Part::Bytes(Stream::Stderr, b"d\n"),
            Part::Bytes(Stream::Stdout, b"\n"),
        ];
        assert!(captured.parts().eq(expected), "{:?}", captured.parts().collect::<Vec<_>>());
        assert_eq!(way.finish(&capture).parts().next(), None);
    });
}

#[test]
fn chunk_has_the_reason_of_the_stop() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["say", "x", "sleep"];
        let mut options = CaptureOptions::new();
        let capture = begin_with(backend, &parts, options.timeout(LONG).stdin_open());
        let line = way.read(&capture, soon(Until::line()));
        assert_eq!((line.state, line.stopped_by), (ChildState::Running, None));

        let capture = begin_with(backend, &parts, options.timeout(4 * SHORT));
        let end = way.read(&capture, soon(Until::end()));
        assert_eq!((end.reached, end.stopped_by), (Reached::End, Some(StoppedBy::Deadline)));
        // Each later read returns it too.
        assert_eq!(way.read(&capture, Until::end()).stopped_by, end.stopped_by);
    });
}

#[test]
fn second_finish_returns_the_same_without_the_output() {
    watchdog!();
    in_every_way(|backend, way| {
        let child = piped(backend, &["sleep"]);
        let capture = child.begin_capture(bounded().stdin_from(Failing)).unwrap();
        assert_eq!(way.read(&capture, soon(Until::end())).reached, Reached::End);
        thread::sleep(SHORT);
        let (first, second) = (way.finish(&capture), way.finish(&capture));
        assert_eq!(first.stopped_by, Some(StoppedBy::Input));
        let facts = |captured: &Captured| {
            let error = captured.error.as_ref().expect("the input failed");
            let Captured { status, stopped_by, elapsed, .. } = *captured;
            (status, stopped_by, elapsed, error.kind(), error.to_string())
        };
        assert_eq!(facts(&first), facts(&second));
        assert_eq!((first.usage, first.stdout.end), (second.usage, second.stdout.end));
    });
}

#[test]
fn capture_that_ends_in_the_background_counts_no_later_time() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["say", "x"]);
        let start = Instant::now();
        capture.read_in_background().unwrap();
        wait(capture.child());
        thread::sleep(8 * SHORT);
        let elapsed = capture.finish().elapsed;
        assert!(elapsed < start.elapsed() - 4 * SHORT, "{elapsed:?} of {:?}", start.elapsed());
    });
}

#[test]
fn capture_that_shares_its_child_can_be_kept() {
    watchdog!();
    in_every_way(|backend, way| {
        let child = Arc::new(piped(backend, &["say", "x", "hear", "exit", "7"]));
        let capture = Capture::new(Arc::clone(&child), bounded().stdin_open()).unwrap();
        is_send_and_sync(&capture);
        let reader = thread::spawn(move || {
            assert_eq!(way.read(&capture, soon(Until::line())).stdout.text().trim_end(), "x");
            way.write(&capture, b"\n").unwrap();
            way.finish(&capture)
        });
        assert_eq!(wait(&child).code(), Some(7));
        assert!(reader.join().unwrap().error.is_none());
    });
}

#[test]
fn dropped_capture_kills_only_on_request() {
    watchdog!();
    on_every_backend(|backend| {
        let child = Arc::new(piped(backend, &["say", "x", "sleep"]));
        drop(Capture::new(Arc::clone(&child), &mut bounded()).unwrap());
        assert_eq!(child.try_wait().unwrap(), None);
        kill_and_wait(&child);
        let capture = begin(backend, &["sleep"]);
        let id = capture.child().id();
        assert_eq!(capture.child().try_wait().unwrap(), None);
        drop(capture);
        #[cfg(unix)]
        until("it is reaped", || !unix::children().contains(&id));
        #[cfg(windows)]
        let _ = id;
    });
}
