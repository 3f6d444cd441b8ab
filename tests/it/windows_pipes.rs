//! Promise, on Windows: a capture keeps its deadline on synchronous pipes too, which `std::io::pipe` makes.

#![cfg(windows)]

use crate::common::captures::{Way, bounded, in_every_way, run};
use crate::common::windows::leaks_no_handle_on_any_backend;
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{
    Capture, CaptureOptions, Captured, ChildState, Reached, SharedChild, StoppedBy, StreamEnd,
    Until,
};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use windows_sys::Win32::System::Pipes::{CreatePipe, PeekNamedPipe};

const SHORT: Duration = Duration::from_millis(50);

/// The read end and the write end of a pipe, synchronous as those of `std::io::pipe`, which is newer than the oldest
/// Rust that the tests run on.
fn pipe() -> (OwnedHandle, OwnedHandle) {
    let (mut reader, mut writer) = (null_mut(), null_mut());
    // SAFETY: both pointers outlive the call. The handles are new.
    unsafe {
        assert_ne!(CreatePipe(&raw mut reader, &raw mut writer, std::ptr::null(), 0), 0);
        (OwnedHandle::from_raw_handle(reader), OwnedHandle::from_raw_handle(writer))
    }
}

/// The number of bytes in the pipe.
fn in_pipe(reader: &OwnedHandle) -> usize {
    let mut count = 0;
    let (reader, bytes, read, left) = (reader.as_raw_handle(), null_mut(), null_mut(), null_mut());
    // SAFETY: the handle is open, and the count outlives the call.
    let peeked = unsafe { PeekNamedPipe(reader, bytes, 0, read, &raw mut count, left) };
    assert_ne!(peeked, 0, "{}", std::io::Error::last_os_error());
    count as usize
}

/// A child whose outputs share one synchronous pipe, which already holds this many bytes. Closing its standard input
/// lets it go on.
fn merged(backend: Backend, parts: &[&str], written: usize) -> (SharedChild, ChildStdin) {
    let (reader, writer) = pipe();
    let mut command = helper(parts);
    command.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    // The command owns the write ends.
    drop(command);
    until("it has written", || in_pipe(&reader) >= written);
    let stdin = child.stdin.take().unwrap();
    child.stdout = Some(ChildStdout::from(reader));
    (backend.share(child).unwrap(), stdin)
}

/// Captures while standard input is held open. If the capture does not end, the input is closed, which ends
/// everything that waits for it.
#[track_caller]
fn capture_with(
    way: Way,
    child: &SharedChild,
    stdin: ChildStdin,
    capture: &mut CaptureOptions<'_>,
) -> Captured {
    let (over, is_over) = channel::<()>();
    let captured = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = is_over.recv_timeout(LONG);
            drop(stdin);
        });
        let captured = way.capture(child, capture);
        drop(over);
        captured
    });
    let captured = captured.unwrap();
    assert!(captured.elapsed < LONG / 2, "{captured:?}");
    captured
}

#[test]
fn capture_of_a_synchronous_pipe_held_by_a_grandchild_keeps_its_deadline() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["spawn", "1", "read", "say", "first", "complain", "second", "sleep"];
        let (child, stdin) = merged(backend, &parts, "child \nfirst\nsecond\n".len() + 1);
        let captured = capture_with(way, &child, stdin, CaptureOptions::new().timeout(SHORT));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert_eq!(captured.status.unwrap().code(), Some(1), "it is killed");
        assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
        let text = captured.stdout.text();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["first", "second"]);
        assert!(captured.error.is_none(), "{captured:?}");
    });
}

#[test]
fn capture_of_a_quiet_synchronous_pipe_keeps_its_deadline() {
    watchdog!();
    in_every_way(|backend, way| {
        let (child, stdin) = merged(backend, &["read", "sleep"], 0);
        let captured = capture_with(way, &child, stdin, CaptureOptions::new().timeout(SHORT));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert_eq!((captured.stdout.total, captured.stdout.end), (0, StreamEnd::Closed));
    });
}

/// A capture that begins after the exit reads everything in the pipe.
#[test]
fn capture_after_the_exit_has_all_that_is_in_a_synchronous_pipe() {
    watchdog!();
    in_every_way(|backend, way| {
        let parts = ["spawn", "1", "read", "write", "3000", "complain", "end", "exit", "7"];
        let (child, stdin) = merged(backend, &parts, 3000);
        assert_eq!(wait(&child).code(), Some(7));
        let captured = capture_with(way, &child, stdin, bounded().drain(Duration::ZERO));
        assert_eq!(captured.status.unwrap().code(), Some(7), "it is not killed");
        assert_eq!((captured.stopped_by, captured.stdout.end), (None, StreamEnd::HeldOpen));
        assert!(captured.stdout.text().trim_end().ends_with("end"), "{captured:?}");
        assert!(captured.stdout.total > 3000, "{captured:?}");
    });
}

/// The thread of the pipe is in a read when each deadline passes.
#[test]
fn reads_of_a_synchronous_pipe_keep_their_deadlines() {
    watchdog!();
    in_every_way(|backend, way| {
        let (child, stdin) = merged(backend, &["read", "say", "late", "exit", "7"], 0);
        let capture = Capture::new(Arc::new(child), &mut bounded()).unwrap();
        for _ in 0..2 {
            let start = Instant::now();
            let chunk = way.read(&capture, Until::line().or(Until::timeout(SHORT)));
            assert_eq!((chunk.reached, chunk.state), (Reached::Deadline, ChildState::Running));
            assert!(start.elapsed() < LONG / 2);
        }
        drop(stdin);
        let chunk = way.read(&capture, Until::line().or(Until::timeout(LONG)));
        assert_eq!((chunk.stdout.text().trim_end(), chunk.reached), ("late", Reached::Line));
        assert_eq!(way.finish(&capture).status.unwrap().code(), Some(7));
    });
}

#[test]
fn outputs_merged_by_a_synchronous_pipe_keep_their_order() {
    watchdog!();
    in_every_way(|backend, way| {
        let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let mut parts = Vec::new();
        for pair in numbers.chunks(2) {
            parts.extend(["say", &pair[0], "complain", &pair[1]]);
        }
        let (child, stdin) = merged(backend, &parts, 0);
        let captured = capture_with(way, &child, stdin, &mut bounded());
        assert!(captured.success(), "{captured:?}");
        assert_eq!(captured.stdout.text().lines().collect::<Vec<_>>(), numbers);
        assert_eq!(captured.stdout.end, StreamEnd::Closed);
    });
}

#[test]
fn capture_of_much_through_a_synchronous_pipe_is_whole() {
    watchdog!();
    in_every_way(|backend, way| {
        const COUNT: usize = 4 << 20;
        let (child, stdin) = merged(backend, &["write", &COUNT.to_string()], 1);
        let captured = capture_with(way, &child, stdin, &mut bounded());
        assert!(captured.success(), "{captured:?}");
        let mut expected = Vec::from_iter(0..251).repeat(COUNT.div_ceil(251));
        expected.truncate(COUNT);
        assert!(captured.stdout.bytes == expected, "{captured:?}");
        // A child that never stops writing blocks on the full pipe, and is stopped.
        let (child, stdin) = merged(backend, &["flood"], 1);
        let mut capture = bounded();
        let captured = capture_with(way, &child, stdin, capture.limit(1000).stop_at_limit(true));
        assert_eq!(captured.stdout.bytes.len(), 1000);
        assert!(matches!(captured.stopped_by, Some(StoppedBy::Limit(_))), "{captured:?}");
    });
}

/// A child whose standard input is a synchronous pipe.
fn fed(backend: Backend, parts: &[&str]) -> SharedChild {
    let (reader, writer) = pipe();
    let mut command = helper(parts);
    let mut child = command.stdin(reader).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin = Some(ChildStdin::from(writer));
    backend.share(child).unwrap()
}

#[test]
fn input_through_a_synchronous_pipe_arrives_whole() {
    watchdog!();
    in_every_way(|backend, way| {
        let input: Vec<u8> = (0..251).cycle().take(1 << 20).collect();
        let child = fed(backend, &["echo"]);
        let captured = way.capture(&child, bounded().stdin(&input[..])).unwrap();
        assert!(captured.success() && captured.stdout.bytes == input, "{captured:?}");
        // A child that does not read its input.
        let child = fed(backend, &["exit", "7"]);
        let captured = way.capture(&child, bounded().stdin(input)).unwrap();
        assert_eq!(captured.status.unwrap().code(), Some(7));
        assert!(captured.error.is_none(), "{captured:?}");
    });
}

#[test]
fn capture_with_unread_input_in_a_synchronous_pipe_keeps_its_deadline() {
    watchdog!();
    in_every_way(|backend, way| {
        // The grandchild holds the pipe beyond the child's death. It ends when its output is closed.
        let child = fed(backend, &["spawn", "1", "flood", "sleep"]);
        let mut capture = CaptureOptions::new();
        capture.stdin(vec![0; 1 << 20]).limit(1000).timeout(4 * SHORT);
        let captured = way.capture(&child, &mut capture).unwrap();
        assert!(captured.elapsed < LONG / 2, "{captured:?}");
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert!(captured.error.is_none(), "{captured:?}");
    });
}

/// A program may put a file where a pipe is expected.
#[test]
fn file_as_standard_output_is_captured_to_its_end() {
    watchdog!();
    on_every_backend(|backend| {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let length = file.metadata().unwrap().len();
        let mut child = helper(&["exit", "0"]).spawn().unwrap();
        child.stdout = Some(ChildStdout::from(OwnedHandle::from(file)));
        // The child has exited, so the drain time bounds how long the file is read.
        let mut capture = bounded();
        let capture = capture.limit(1000).drain(LONG);
        let captured = backend.share(child).unwrap().capture(capture).unwrap();
        assert_eq!((captured.stdout.end, captured.stdout.total), (StreamEnd::Closed, length));
        assert!(captured.success(), "{captured:?}");
    });
}

/// A pipe's thread owns a handle of the pipe, so a leaked thread shows as a leaked handle.
#[test]
fn threads_and_handles_of_synchronous_pipes_end_with_the_capture() {
    alone!();
    watchdog!();
    leaks_no_handle_on_any_backend(|backend| {
        let (child, stdin) = merged(backend, &["spawn", "1", "read", "exit", "7"], 1);
        let captured = capture_with(Way::Blocking, &child, stdin, bounded().drain(Duration::ZERO));
        assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
        let child = fed(backend, &["sleep"]);
        child.capture(CaptureOptions::new().stdin(vec![0; 1 << 20]).timeout(SHORT)).unwrap();
        assert!(run(backend, &["exit", "0"], &mut bounded()).success());
    });
}
