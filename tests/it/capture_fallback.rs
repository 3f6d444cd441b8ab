//! Promise: a capture learns of the exit without polling where no descriptor of the kernel reports it.

#![cfg(unix)]

use crate::common::captures::{bounded, piped};
use crate::common::*;
#[cfg(target_os = "linux")]
use shared_child::seam::Backend;
use shared_child::{SharedChild, StreamEnd};
use std::thread;
use std::time::Duration;

/// With a poll every 20 ms there are 50 sleeps in the second that the child runs. Without polling there is one sleep
/// per event, and their number does not depend on the speed of the machine. Tests of the same process would add sleeps:
/// the kernel's locks on its memory and its descriptors are shared.
#[cfg(target_os = "linux")]
#[test]
fn capture_of_a_quiet_child_sleeps_until_the_exit() {
    alone!();
    watchdog!();
    for closed in [&[][..], &["close-stdout"], &["close-stdout", "close-stderr"]] {
        let child = piped(Backend::Thread, &[closed, &["hear", "exit", "3"]].concat());
        let stdin = child.take_stdin();
        thread::scope(|scope| {
            scope.spawn(move || {
                // The child is silent for this long.
                thread::sleep(Duration::from_secs(1));
                drop(stdin);
            });
            let before = linux::sleeps_of(linux::this_thread());
            let captured = child.capture(&mut bounded()).unwrap();
            let sleeps = linux::sleeps_of(linux::this_thread()) - before;
            assert_eq!(captured.status.unwrap().code(), Some(3));
            assert!(sleeps < 25, "{sleeps} sleeps, with {closed:?}");
        });
    }
}

/// The pipes stay open beyond the exit, so they do not wake the capture.
#[test]
fn capture_learns_of_the_exit_while_a_descendant_holds_the_pipes() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &["spawn", "1", "read", "exit", "3"]);
        let stdin = child.take_stdin();
        let captured = child.capture(bounded().drain(Duration::ZERO)).unwrap();
        assert_eq!(captured.status.unwrap().code(), Some(3));
        assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
        assert!(captured.stopped_by.is_none() && captured.error.is_none(), "{captured:?}");
        drop(stdin);
    });
}

#[test]
fn hundred_captures_at_once_all_see_their_child_exit() {
    watchdog!();
    const CAPTURES: usize = 100;
    on_every_backend(|backend| {
        let (children, inputs): (Vec<SharedChild>, Vec<_>) = (0..CAPTURES)
            .map(|number| {
                let number = number.to_string();
                let child = piped(backend, &["say", &number, "read", "say", "end", "exit", "7"]);
                let stdin = child.take_stdin();
                (child, stdin)
            })
            .unzip();
        thread::scope(|scope| {
            let captures: Vec<_> = children
                .iter()
                .map(|child| scope.spawn(move || child.capture(&mut bounded()).unwrap()))
                .collect();
            drop(inputs);
            for (number, capture) in captures.into_iter().enumerate() {
                let captured = capture.join().unwrap();
                assert_eq!(captured.status.unwrap().code(), Some(7), "{captured:?}");
                assert_eq!(captured.stdout.text(), format!("{number}\nend\n"));
                assert!(captured.stopped_by.is_none() && captured.error.is_none());
            }
        });
    });
}

/// The exit of a child that another thread of this process reaps is reported as well.
#[test]
fn capture_beside_waits_sees_the_exit() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(20) {
            let child = piped(backend, &["read", "exit", "7"]);
            let stdin = child.take_stdin();
            thread::scope(|scope| {
                let capture = scope.spawn(|| child.capture(&mut bounded()).unwrap());
                let timed = scope.spawn(|| wait(&child));
                let untimed = scope.spawn(|| child.wait().unwrap());
                drop(stdin);
                assert_eq!(timed.join().unwrap().code(), Some(7));
                assert_eq!(untimed.join().unwrap().code(), Some(7));
                assert_eq!(capture.join().unwrap().status.unwrap().code(), Some(7));
            });
        }
    });
}

/// The descriptors that a capture opens for its wake-ups are closed when it returns, even if it is the first to end.
#[cfg(target_os = "linux")]
#[test]
fn capture_that_ends_before_its_child_leaves_no_descriptor_behind() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    alone!();
    watchdog!();
    let child = piped(Backend::Thread, &["say", "once", "say", "again", "hear"]);
    let stdin = child.take_stdin();
    let before = linux::descriptors();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        child.capture(bounded().on_output(|_, _| panic!("enough")))
    }));
    assert!(panicked.is_err());
    assert_eq!(child.try_wait().unwrap(), None);
    // The capture has closed its ends of stdout and stderr, and opened nothing else.
    assert_eq!(linux::descriptors(), before - 2);
    drop(stdin);
    wait(&child);
}

/// If a program has closed its standard streams, its own reads and prints must not reach a pipe of the library.
#[cfg(target_os = "linux")]
#[test]
fn capture_without_standard_streams_leaves_their_numbers_free() {
    alone!();
    watchdog!();
    let child = piped(Backend::Thread, &["say", "once", "read"]);
    let closed = [0, 1, 2].map(|stream| {
        // SAFETY: integers. The descriptors are restored before anything is printed.
        let copy = unsafe { libc::fcntl(stream, libc::F_DUPFD_CLOEXEC, 100) };
        assert!(copy >= 100);
        // SAFETY: as above; std treats a closed stream as an empty one.
        assert_eq!(unsafe { libc::close(stream) }, 0);
        copy
    });
    let mut taken = Vec::new();
    let captured = child.capture(bounded().on_output(|_, _| {
        // SAFETY: integers.
        taken =
            (0..3).filter(|stream| unsafe { libc::fcntl(*stream, libc::F_GETFD) } >= 0).collect();
        std::ops::ControlFlow::Break(())
    }));
    for (stream, copy) in (0..).zip(closed) {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(copy, stream) }, stream);
    }
    assert_eq!(captured.unwrap().stopped_by, Some(shared_child::StoppedBy::Callback));
    assert_eq!(taken, [0; 0], "standard streams that the library has taken");
}

/// Without a thread for the wait, or a descriptor for the pipe, a capture polls.
#[cfg(target_os = "linux")]
#[test]
fn capture_with_no_descriptor_or_thread_to_spare_sees_the_exit() {
    use crate::common::linux::{Deny, NoDescriptors, deny};
    alone!();
    watchdog!();
    // The exit comes a while after the capture has begun, and the pipes stay open beyond it.
    let parts = ["spawn", "1", "sleep", "hear", "exit", "7"];
    let [first, second] = [(); 2].map(|()| piped(Backend::Thread, &parts));
    let descriptors = NoDescriptors::left();
    capture_until_exit(&first);
    drop(descriptors);
    deny(&Deny::threads());
    capture_until_exit(&second);
}

/// Nothing but polls can end the wait.
#[cfg(target_os = "linux")]
#[test]
fn capture_without_pipes_and_descriptors_keeps_its_deadline() {
    use crate::common::linux::NoDescriptors;
    use std::process::Stdio;
    alone!();
    watchdog!();
    let mut command = helper(&["sleep"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Backend::Thread.spawn(&mut command).unwrap();
    let _descriptors = NoDescriptors::left();
    let mut capture = shared_child::CaptureOptions::new();
    let captured = child.capture(capture.timeout(Duration::from_millis(50))).unwrap();
    assert_eq!(captured.stopped_by, Some(shared_child::StoppedBy::Deadline), "{captured:?}");
}

/// The child reads a line of its input, and exits with 7.
#[cfg(target_os = "linux")]
fn capture_until_exit(child: &SharedChild) {
    let mut capture = bounded();
    let captured = child.capture(capture.stdin("go on\n").drain(Duration::ZERO)).unwrap();
    assert_eq!(captured.status.unwrap().code(), Some(7), "{captured:?}");
    assert!(captured.error.is_none(), "{captured:?}");
    // The process that the child has started and named runs until it is killed.
    let said = captured.stdout.text();
    let pid = said.trim_end().strip_prefix("child ").expect("a process ID").parse().unwrap();
    // SAFETY: integers. The process has not ended, so the ID is its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}
