//! Promise: a program that uses shared_child 1.1.2 compiles and behaves as before, without a changed line.

use crate::common::*;
use shared_child::SharedChild;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

#[test]
fn every_signature_of_1_1_2_compiles() {
    fn is<T: Debug + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    is::<SharedChild>();
    let _: fn(&mut Command) -> io::Result<SharedChild> = SharedChild::spawn;
    let _: fn(Child) -> io::Result<SharedChild> = SharedChild::new;
    let _: fn(&SharedChild) -> u32 = SharedChild::id;
    let _: fn(&SharedChild) -> io::Result<ExitStatus> = SharedChild::wait;
    let _: fn(&SharedChild, Duration) -> io::Result<Option<ExitStatus>> = SharedChild::wait_timeout;
    let _: fn(&SharedChild, Instant) -> io::Result<Option<ExitStatus>> = SharedChild::wait_deadline;
    let _: fn(&SharedChild) -> io::Result<Option<ExitStatus>> = SharedChild::try_wait;
    let _: fn(&SharedChild) -> io::Result<()> = SharedChild::kill;
    let _: fn(SharedChild) -> Child = SharedChild::into_inner;
    let _: fn(&SharedChild) -> Option<ChildStdin> = SharedChild::take_stdin;
    let _: fn(&SharedChild) -> Option<ChildStdout> = SharedChild::take_stdout;
    let _: fn(&SharedChild) -> Option<ChildStderr> = SharedChild::take_stderr;
    #[cfg(unix)]
    let _: fn(&SharedChild, std::ffi::c_int) -> io::Result<()> =
        <SharedChild as shared_child::unix::SharedChildExt>::send_signal;
}

#[test]
fn status_is_the_exit_code_of_the_child() {
    watchdog!();
    on_every_backend(|backend| {
        // 259 is STILL_ACTIVE on Windows.
        for code in if cfg!(windows) { [0, 1, 259] } else { [0, 1, 255] } {
            let child = quick(backend, code);
            assert_eq!(child.wait().unwrap().code(), Some(code));
            assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(code));
        }
    });
}

#[cfg(unix)]
#[test]
fn death_by_a_signal_is_reported() {
    use std::os::unix::process::ExitStatusExt;
    watchdog!();
    on_every_backend(|backend| {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
            let child = backend.spawn(&mut helper(&["signal", &signal.to_string()])).unwrap();
            assert_eq!(wait(&child).signal(), Some(signal));
        }
    });
}

#[test]
fn failed_spawn_returns_the_error_of_std() {
    let error = SharedChild::spawn(&mut Command::new("/no/such/program")).unwrap_err();
    let of_std = Command::new("/no/such/program").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (of_std.kind(), of_std.raw_os_error()));
}

#[test]
fn waiting_leaves_a_piped_stdin_open() {
    watchdog!();
    on_every_backend(|backend| {
        let child = backend.spawn(helper(&["echo"]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let child = child.unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| child.wait().unwrap());
            // The child exits before or after the wait has begun.
            let mut stdin = child.take_stdin().unwrap();
            stdin.write_all(b"still open").unwrap();
            drop(stdin);
            let mut said = String::new();
            child.take_stdout().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(said, "still open");
            assert!(waiter.join().unwrap().success());
        });
        assert!(child.take_stdin().is_none() && child.take_stdout().is_none());
    });
}

#[test]
fn pipes_are_returned_once_even_after_the_exit() {
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["complain", "alas", "say", "hello"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = backend.spawn(&mut command).unwrap();
        assert!(wait(&child).success());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        child.take_stdout().unwrap().read_to_string(&mut stdout).unwrap();
        child.take_stderr().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((stdout.trim_end(), stderr.trim_end()), ("hello", "alas"));
        assert!(child.take_stdin().is_some());
        assert!(child.take_stdin().is_none());
        assert!(child.take_stdout().is_none() && child.take_stderr().is_none());
        assert!(quick(backend, 0).take_stdin().is_none(), "it was not piped");
    });
}

#[test]
fn kill_of_an_exited_child_succeeds() {
    watchdog!();
    on_every_backend(|backend| {
        // A zombie.
        let (child, stdin) = stoppable(backend, 5);
        drop(stdin);
        #[cfg(unix)]
        unix::wait_for_zombie(child.id());
        child.kill().unwrap();
        let status = wait(&child);
        #[cfg(unix)]
        assert_eq!(status.code(), Some(5), "it had exited before the kill");
        // A reaped child.
        child.kill().unwrap();
        #[cfg(unix)]
        shared_child::unix::SharedChildExt::send_signal(&child, libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap(), status);
    });
}

#[test]
fn wait_with_a_passed_deadline_polls_once() {
    watchdog!();
    on_every_backend(|backend| {
        let past = Instant::now();
        let (child, stdin) = stoppable(backend, 3);
        assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);
        assert_eq!(child.wait_deadline(past).unwrap(), None);
        drop(stdin);
        #[cfg(unix)]
        unix::wait_for_zombie(child.id());
        #[cfg(not(unix))]
        until("exited", || child.wait_deadline(past).unwrap().is_some());
        assert_eq!(child.wait_deadline(past).unwrap().unwrap().code(), Some(3));
        assert_eq!(child.wait_timeout(Duration::ZERO).unwrap().unwrap().code(), Some(3));
    });
}

#[test]
fn new_accepts_a_child_in_any_state() {
    watchdog!();
    on_every_backend(|backend| {
        // Running.
        let child = backend.share(helper(&["sleep"]).spawn().unwrap()).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        kill_and_wait(&child);
        // Exited.
        let child = helper(&["exit", "4"]).spawn().unwrap();
        #[cfg(unix)]
        unix::wait_for_zombie(child.id());
        assert_eq!(wait(&backend.share(child).unwrap()).code(), Some(4));
        // Waited for.
        let mut child = helper(&["exit", "6"]).spawn().unwrap();
        child.wait().unwrap();
        let child = backend.share(child).unwrap();
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(6));
        child.kill().unwrap();
    });
}

#[test]
fn into_inner_returns_a_child_that_knows_its_status() {
    watchdog!();
    on_every_backend(|backend| {
        // The result is the same whichever call returned the status.
        type Learn = fn(&SharedChild) -> ExitStatus;
        let ways: [Learn; 3] = [
            |child| child.wait().unwrap(),
            |child| wait(child),
            |child| loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
            },
        ];
        for learn in ways {
            let child = quick(backend, 9);
            assert_eq!(learn(&child).code(), Some(9));
            let mut inner = child.into_inner();
            assert_eq!(inner.try_wait().unwrap().unwrap().code(), Some(9));
            inner.kill().expect("std knows that there is nothing to kill");
        }
    });
}

#[test]
fn into_inner_returns_a_running_child_unreaped() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 8);
        assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
        let mut inner = child.into_inner();
        assert_eq!(inner.try_wait().unwrap(), None);
        drop(stdin);
        assert_eq!(inner.wait().unwrap().code(), Some(8), "it was not reaped elsewhere");
    });
}

#[test]
fn debug_shows_the_state() {
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        let running = format!("{child:?}");
        assert!(running.contains(&format!("id: {}", child.id())), "{running}");
        kill_and_wait(&child);
        assert!(format!("{child:?}").contains("status"), "{child:?}");
    });
}

/// The writer may be slow, or use the same child: no lock is held meanwhile.
#[test]
fn debug_holds_no_lock() {
    use std::fmt::Write;
    struct Sink<'a>(&'a shared_child::SharedChild, usize);
    impl Write for Sink<'_> {
        fn write_str(&mut self, _: &str) -> std::fmt::Result {
            self.0.try_wait().expect("to poll");
            self.0.kill().expect("to kill");
            self.1 += 1;
            Ok(())
        }
    }
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        for _ in 0..2 {
            let mut sink = Sink(&child, 0);
            write!(sink, "{child:?}").unwrap();
            assert!(sink.1 > 0);
            wait(&child);
        }
    });
}

#[test]
fn repeated_kills_succeed() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(20) {
            let child = sleeper(backend);
            // A running child, a child that is being killed, and one that has ended.
            while child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
            }
            child.kill().unwrap();
        }
    });
}
