//! Promise: a capture leaves nothing behind, changes nothing that it does not own, and is bounded even if the system
//! refuses what it needs.

#![cfg(unix)]

use crate::common::captures::{Failing, bounded, piped_with as piped, run};
use crate::common::executor::{WakeCounter, block_on, poll};
#[cfg(target_os = "linux")]
use crate::common::linux::{Deny, deny};
use crate::common::stage::{Helpers, daemon, lists, parts, start};
use crate::common::unix::{DescriptorLimit, cpu_time};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::unix::ReapedElsewhere;
use shared_child::{
    Capture, CaptureOptions, ChildState, Reached, SpawnOptions, StoppedBy, StreamEnd, Until,
};
#[cfg(target_os = "linux")]
use std::ffi::c_int;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(50);

/// Tests the promises in short.
fn exercise() {
    on_every_backend(|backend| {
        let input = vec![b'x'; MIB];
        let captured = run(backend, &["echo-both"], bounded().stdin(&input[..]));
        assert!(captured.success() && captured.stdout.bytes == input, "{captured:?}");
        let captured = run(backend, &["flood"], bounded().limit(1000).stop_at_limit(true));
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGKILL));
        let captured = run(backend, &["read", "sleep"], CaptureOptions::new().timeout(SHORT));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        let captured = run(backend, &["close-stdout", "close-stderr", "exit", "3"], &mut bounded());
        assert_eq!(captured.status.unwrap().code(), Some(3));
        let mut options = SpawnOptions::new();
        options.tree(true).kill_on_drop(true);
        let mut command = helper(&["spawn", "1", "sleep", "say", "done"]);
        let captured =
            backend.capture(&options, &mut command, bounded().drain(Duration::ZERO)).unwrap();
        assert!(captured.stdout.text().contains("done"), "{captured:?}");
        assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
        let captured = run(backend, &["complain", "x"], bounded().merge_stderr(true));
        assert_eq!(captured.stdout.text(), "x\n");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(backend, &["say", "x", "sleep"], bounded().on_output(|_, _| panic!("as planned")))
        }));
        assert!(panicked.is_err());
    });
}

#[test]
fn capture_leaves_no_thread_descriptor_or_process() {
    alone!();
    watchdog!();
    // This creates threads and other things that are made once.
    exercise();
    let settled = || unix::helper_threads().is_empty() && unix::children().is_empty();
    until("all is over", settled);
    let before = unix::descriptors();
    exercise();
    until("no descriptors", || settled() && unix::descriptors() == before);
}

#[cfg(target_os = "linux")]
#[test]
fn capture_works_without_pidfds() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_pidfd_open, libc::ENOSYS)]);
    exercise();
}

/// Here `poll` fails with ENOMEM. The next test covers EINVAL.
#[cfg(target_os = "linux")]
#[test]
fn capture_works_where_poll_is_refused() {
    alone!();
    watchdog!();
    deny(&[
        Deny::always(libc::SYS_ppoll, libc::ENOMEM),
        #[cfg(target_arch = "x86_64")]
        Deny::always(libc::SYS_poll, libc::ENOMEM),
    ]);
    exercise();
}

/// As in some sandboxes: no descriptor can be opened, and `poll` accepts none.
#[test]
fn capture_works_with_a_limit_of_no_descriptors() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let plain = SpawnOptions::new();
        let input = vec![b'x'; MIB];
        let child = piped(backend, &plain, &["echo-both"]);
        let sleeping = piped(backend, &plain, &["sleep"]);
        let limit = DescriptorLimit::zero();
        let captured = child.capture(bounded().stdin(&input[..])).unwrap();
        assert!(captured.success() && captured.stderr.bytes == input, "{captured:?}");
        let captured = sleeping.capture(CaptureOptions::new().timeout(SHORT)).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGKILL));
        drop(limit);
    });
}

/// Signals interrupt system calls all the time.
#[test]
fn signals_that_interrupt_a_capture_do_not_end_it() {
    alone!();
    watchdog!();
    unix::sigusr1_interrupts();
    // SAFETY: it cannot fail.
    let thread = unsafe { libc::pthread_self() } as usize;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: the thread waits for this one.
                unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR1) };
                thread::sleep(Duration::from_micros(300));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(exercise));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn is_blocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: reads the flags of an open descriptor.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    assert!(flags >= 0);
    flags & libc::O_NONBLOCK == 0
}

/// A capture does not change the mode of a pipe, since another process may share it.
#[test]
fn mode_of_a_pipe_stays_as_it_was() {
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &SpawnOptions::new(), &["say", "x", "complain", "y"]);
        let stdout = child.take_stdout().unwrap();
        child.capture(&mut bounded()).unwrap();
        assert!(is_blocking(stdout.as_fd()));

        let mut command = helper(&["echo"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("to spawn");
        let stdout = child.stdout.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
        let before = is_blocking(stdout.as_fd());
        let child = backend.share(child).unwrap();
        let captured = child.capture(bounded().stdin("both ways")).unwrap();
        assert_eq!(captured.stdout.text(), "both ways");
        assert!(before && is_blocking(stdout.as_fd()));
    });
}

/// Begins a capture that ends with the test.
fn begin(backend: Backend, parts: &[&str]) -> Capture<'static> {
    let mut options = SpawnOptions::new();
    options.kill_on_drop(true);
    backend.begin_capture(&options, &mut helper(parts), bounded().stdin_open()).expect("to begin")
}

/// Both processes have the pipes, whose mode they share.
#[test]
fn fork_that_drops_its_copy_of_a_capture_blocks_no_call_of_the_parent() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        for in_background in [false, true] {
            let capture = begin(backend, &["say", "x", "sleep"]);
            if in_background {
                capture.read_in_background().unwrap();
            }
            let counter = Arc::new(WakeCounter::default());
            let mut copy = Some(capture);
            let dropped = || {
                drop(copy.take());
                1
            };
            assert_eq!(unix::in_a_fork(dropped), 1);
            let capture = copy.expect("only the fork has dropped it");
            let start = Instant::now();
            let chunk = capture.read(Until::bytes(100).or(Until::timeout(4 * SHORT)));
            assert_eq!((&*chunk.stdout.text(), chunk.reached), ("x\n", Reached::Deadline));
            assert_eq!(chunk.state, ChildState::Running);
            let input = vec![0; MIB];
            assert!(capture.write_deadline(&input, Instant::now() + SHORT).unwrap() < MIB);
            // A future that waits in the parent is dropped in the fork.
            let mut copy = Some(Box::pin(capture.read_async(Until::line())));
            assert!(poll(copy.as_mut().unwrap(), &counter).is_pending());
            let dropped = || {
                drop(copy.take());
                1
            };
            assert_eq!(unix::in_a_fork(dropped), 1);
            assert_eq!((counter.count(), counter.wakers() > 0), (0, true));
            drop(copy);
            assert!(capture.write_deadline(&input, Instant::now()).unwrap() < MIB);
            assert!(start.elapsed() < LONG / 2);
        }
    });
}

/// The mutex of the capture is locked while a callback runs, so it stays locked in a copy that another thread makes.
#[test]
fn capture_beside_forks_in_another_thread_loses_no_byte() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let input: Vec<u8> = (0..251).cycle().take(MIB).collect();
        let (request, requested) = mpsc::channel();
        let (answer, answered) = mpsc::channel();
        let over = request.clone();
        let mut options = bounded();
        options.stdin_open().on_output(move |_, _| {
            request.send(true).unwrap();
            answered.recv_timeout(LONG).unwrap();
            ControlFlow::Continue(())
        });
        let mut spawn = SpawnOptions::new();
        spawn.kill_on_drop(true);
        let mut command = helper(&["echo"]);
        let capture = backend.begin_capture(&spawn, &mut command, &mut options).expect("to begin");
        let use_the_copy = || {
            let chunk = capture.read(Until::line());
            assert_eq!((chunk.stdout.total, chunk.reached), (0, Reached::End));
            let mut read = Box::pin(capture.read_async(Until::line()));
            assert!(poll(&mut read, &Arc::default()).is_ready());
            assert!(capture.write(b"lost").is_err() && capture.read_in_background().is_err());
            let captured = capture.finish();
            assert!(captured.status.is_none() && captured.error.is_some());
            1
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                while requested.recv_timeout(LONG).unwrap() {
                    assert_eq!(unix::in_a_fork(use_the_copy), 1);
                    answer.send(()).unwrap();
                }
            });
            scope.spawn(|| {
                capture.write(&input).unwrap();
                capture.close_stdin();
            });
            let mut all = Vec::new();
            loop {
                let chunk = capture.read(Until::bytes(100_000).or(Until::timeout(LONG)));
                all.extend_from_slice(&chunk.stdout.bytes);
                match chunk.reached {
                    Reached::Bytes => {}
                    other => break assert_eq!(other, Reached::End),
                }
            }
            over.send(false).unwrap();
            assert!(all == input, "{} bytes of {}", all.len(), input.len());
        });
        assert!(capture.finish().success());
    });
}

/// A program may have SIGPIPE at its default, as programs in pipelines do.
#[test]
fn sigpipe_does_not_kill_this_process() {
    alone!();
    watchdog!();
    let sigpipe_is_pending = || {
        // SAFETY: the set outlives the calls.
        unsafe {
            let mut set = std::mem::zeroed();
            assert_eq!(libc::sigpending(&raw mut set), 0);
            libc::sigismember(&raw const set, libc::SIGPIPE) == 1
        }
    };
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let write = || {
        on_every_backend(|backend| {
            let mut capture = bounded();
            let captured = run(backend, &["close-stdin"], capture.stdin(vec![0; MIB]));
            assert!(captured.success(), "{captured:?}");
            for in_task in [false, true] {
                let capture = begin(backend, &["close-stdin", "sleep"]);
                let error = match in_task {
                    true => block_on(capture.write_async(&vec![0; MIB])),
                    false => capture.write(&vec![0; MIB]),
                };
                assert_eq!(error.unwrap_err().kind(), ErrorKind::BrokenPipe);
            }
        });
    };
    write();
    assert!(!sigpipe_is_pending());
    // A pending SIGPIPE has another cause, and stays pending.
    // SAFETY: the set outlives the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()), 0);
        libc::raise(libc::SIGPIPE);
    }
    assert!(sigpipe_is_pending());
    write();
    assert!(sigpipe_is_pending());
}

/// Captures while system calls that signal fail with this errno on the capturing thread (0: they succeed and do
/// nothing). Another thread kills the child afterwards.
#[cfg(target_os = "linux")]
fn capture_where_signals_fail(errno: c_int) {
    for backend in Backend::ALL {
        let child = piped(*backend, &SpawnOptions::new(), &["say", "x", "sleep"]);
        let (done, until_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (child, until_done) = (&child, until_done);
            scope.spawn(move || {
                let _ = until_done.recv();
                kill_and_wait(child);
            });
            let captured = scope
                .spawn(|| {
                    deny(&[
                        Deny::always(libc::SYS_pidfd_send_signal, errno),
                        Deny::always(libc::SYS_kill, errno),
                    ]);
                    let mut capture = CaptureOptions::new();
                    capture.grace(SHORT).on_output(|_, _| ControlFlow::Break(()));
                    child.capture(&mut capture).unwrap()
                })
                .join();
            drop(done);
            let captured = captured.unwrap();
            assert_eq!(captured.status, None);
            assert_eq!(captured.stdout.text(), "x\n");
            assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
            assert_eq!(captured.stopped_by, Some(StoppedBy::Callback));
            let kind = if errno == 0 { ErrorKind::TimedOut } else { ErrorKind::PermissionDenied };
            assert_eq!(captured.error.as_ref().unwrap().kind(), kind, "{captured:?}");
            assert!(std::process::Output::try_from(captured).is_err());
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn child_that_cannot_be_killed_is_reported() {
    alone!();
    watchdog!();
    capture_where_signals_fail(libc::EPERM);
}

#[cfg(target_os = "linux")]
#[test]
fn capture_of_a_child_that_does_not_die_ends_in_time() {
    alone!();
    watchdog!();
    capture_where_signals_fail(0);
}

/// The output is kept even if the status is lost.
#[test]
fn capture_of_a_child_reaped_elsewhere_returns_its_output() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &SpawnOptions::new(), &["say", "kept", "exit", "7"]);
        unix::reap(child.id());
        let captured = child.capture(&mut bounded()).unwrap();
        assert_eq!(captured.stdout.text(), "kept\n");
        if let Some(status) = captured.status {
            assert_eq!(status.code(), Some(7));
        } else {
            assert!(!unix::knows_status_of_reaped(backend));
            let error = captured.error.unwrap();
            assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error}");
        }
    });
}

#[test]
fn each_finish_returns_the_cause_of_a_lost_status() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let child = piped(backend, &SpawnOptions::new(), &["say", "x"]);
        let capture = child.begin_capture(&mut bounded()).unwrap();
        unix::reap(child.id());
        for captured in [capture.finish(), capture.finish()] {
            if captured.status.is_none() {
                let error = captured.error.unwrap();
                assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error}");
            }
        }
    });
}

#[test]
fn child_that_terminates_within_the_grace_is_not_killed() {
    watchdog!();
    on_every_backend(|backend| {
        let captured = run(backend, &["sleep"], CaptureOptions::new().timeout(SHORT).grace(LONG));
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
    });
}

/// Output is read during the grace too: a child that must write before it ends does not block.
#[test]
fn output_within_the_grace_is_captured() {
    watchdog!();
    on_every_backend(|backend| {
        let child =
            piped(backend, &SpawnOptions::new(), &["report", "TERM", "say", "ready", "flood"]);
        let mut capture = bounded();
        capture.limit(1 << 20).stop_at_limit(true).grace(4 * SHORT);
        let began = Instant::now();
        let captured = child.capture(&mut capture).unwrap();
        // The child has received the request, and kept running.
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGKILL));
        assert!(began.elapsed() >= 4 * SHORT);
        assert!(captured.stdout.omitted > 1 << 20, "{captured:?}");
    });
}

/// The input is closed only after the child's death: the child would take the end for the end of all input.
#[test]
fn input_that_fails_within_the_grace_is_reported() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["ignore", "TERM", "say", "ready", "read", "say", "taken"];
        let child = piped(backend, &SpawnOptions::new(), &parts);
        let mut stdout = child.take_stdout().unwrap();
        stdout.read_exact(&mut [0; 6]).unwrap();
        let mut capture = bounded();
        let captured = child.capture(capture.grace(4 * SHORT).stdin_from(Failing)).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Input));
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(std::io::read_to_string(stdout).unwrap(), "");
    });
}

/// The descendants of a child that has ended by itself live on, unless the options kill them.
#[test]
fn descendant_lives_on_without_kill_on_drop() {
    watchdog!();
    on_every_backend(|backend| {
        for kill in [false, true] {
            let mut options = SpawnOptions::new();
            options.tree(true).kill_on_drop(kill);
            let line = [start("sleep"), parts("say done")].concat();
            let mut command = helper(&line);
            let mut capture = bounded();
            capture.drain(SHORT);
            let captured = backend.capture(&options, &mut command, &mut capture).unwrap();
            let text = captured.stdout.text().into_owned();
            let id = text.lines().find_map(|line| line.strip_prefix("child ")).unwrap();
            let helpers = Helpers(vec![id.parse().unwrap()]);
            if kill {
                until("it is dead", || helpers.alive().is_empty());
            } else {
                // A killed process would not stop any more.
                let id = helpers.0[0];
                // SAFETY: plain integers. The process was a child of ours a moment ago.
                assert_eq!(unsafe { libc::kill(unix::pid_t(id), libc::SIGSTOP) }, 0);
                until("it has stopped", || unix::is_stopped(id));
            }
        }
    });
}

/// The grace applies to the whole tree, including members with a pipe and members without one.
#[test]
fn stopped_tree_has_its_grace() {
    watchdog!();
    if !lists(function_name!()) {
        return;
    }
    let mut options = SpawnOptions::new();
    options.tree(true);
    on_every_backend(|backend| {
        for quiet in ["", "close-stdout close-stderr "] {
            let stubborn = start(&format!("ignore TERM say stubborn {quiet}sleep"));
            let line = [stubborn, parts("say ready read say over")].concat();
            let child = piped(backend, &options, &line);
            let stdin = child.take_stdin();
            let mut count = 0;
            let mut capture = bounded();
            capture.grace(4 * SHORT).on_line(|_, line| {
                count += usize::from([&b"ready"[..], b"stubborn"].contains(&line.as_bytes()));
                if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let captured = child.capture(&mut capture).unwrap();
            assert_eq!(captured.stopped_by, Some(StoppedBy::Callback));
            // The child has terminated on request; the other member had its grace, and was killed.
            assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGTERM));
            assert!(captured.elapsed >= 4 * SHORT);
            assert!(child.tree().unwrap().is_empty().unwrap());
            drop(stdin);
        }
    });
}

/// A process that holds a pipe but cannot be found does not use up the grace.
#[test]
fn pipe_held_outside_the_tree_does_not_delay_a_stop() {
    watchdog!();
    let mut options = SpawnOptions::new();
    options.tree(true);
    on_every_backend(|backend| {
        let line = [daemon("bare say away read"), parts("say alone read")].concat();
        let child = piped(backend, &options, &line);
        let stdin = child.take_stdin();
        // The process has left the tree, and its parent has exited.
        let mut count = 0;
        let mut capture = CaptureOptions::new();
        capture.grace(2 * LONG).on_line(|_, line| {
            count += usize::from([&b"away"[..], b"alone"].contains(&line.as_bytes()));
            if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let captured = child.capture(&mut capture).unwrap();
        assert_eq!(captured.status.unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(captured.stdout.end, StreamEnd::HeldOpen);
        assert!(captured.elapsed < LONG);
        drop(stdin);
    });
}

/// No thread spins while there is nothing to do.
#[test]
fn waiting_uses_no_processor_time() {
    alone!();
    watchdog!();
    // A spinning thread uses all of it. An emulated machine uses a fifth of a second for the work itself.
    const WHILE: Duration = Duration::from_secs(1);
    let mut options = SpawnOptions::new();
    options.tree(true);
    on_every_backend(|backend| {
        for line in [
            &["sleep"][..],
            &["close-stdout", "sleep"],
            &["close-stdout", "close-stderr", "sleep"],
            &["spawn", "1", "sleep"],
        ] {
            // A sleeping process ends a second after its parent, possibly just before the timeout.
            let start = Instant::now();
            let child = piped(backend, &options, line);
            let before = cpu_time();
            let mut capture = CaptureOptions::new();
            capture.stdin(vec![0; MIB]).timeout(WHILE).drain(Duration::MAX);
            child.capture(&mut capture).unwrap();
            let used = cpu_time() - before;
            assert!(start.elapsed() >= WHILE);
            assert!(used < WHILE / 2, "{used:?} for {line:?}");
            child.tree().unwrap().kill().unwrap();
        }
    });
}

/// A file may stand in for a pipe.
#[test]
fn stream_that_is_no_pipe_is_captured() {
    watchdog!();
    on_every_backend(|backend| {
        let mut child = helper(&["exit", "0"]).spawn().unwrap();
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let length = file.metadata().unwrap().len();
        child.stdout = Some(std::os::fd::OwnedFd::from(file).into());
        let captured = backend.share(child).unwrap().capture(&mut bounded()).unwrap();
        assert_eq!(captured.stdout.end, StreamEnd::Closed);
        assert_eq!(captured.stdout.total, length);
        // A directory, which cannot be read, is no pipe either.
        let mut child = helper(&["exit", "0"]).spawn().unwrap();
        let directory = std::fs::File::open("/").unwrap();
        child.stdout = Some(std::os::fd::OwnedFd::from(directory).into());
        let captured = backend.share(child).unwrap().capture(&mut bounded()).unwrap();
        assert_eq!(captured.stdout.end, StreamEnd::Failed);
        assert_eq!(captured.error.unwrap().raw_os_error(), Some(libc::EISDIR));
        assert!(captured.status.unwrap().success());
    });
}
