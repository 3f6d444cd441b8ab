//! Promise: the error of a failed command names the command, its end and the last lines of its output.

use crate::common::captures::{bounded, piped, run};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{Captured, CommandFailed, Limit, SharedChild, SpawnOptions};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::process::Stdio;
use std::time::Duration;

fn text_of(captured: Captured) -> String {
    captured.check().expect_err("it failed").to_string()
}

#[test]
fn check_returns_the_capture_of_a_command_that_succeeded() {
    watchdog!();
    on_every_backend(|backend| {
        let captured = run(backend, &["say", "out", "complain", "err"], &mut bounded());
        let captured = captured.check().expect("it succeeded");
        assert_eq!((&*captured.stdout.text(), &*captured.stderr.text()), ("out\n", "err\n"));
    });
}

#[test]
fn check_names_command_status_and_end_of_stderr() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["say", "out", "complain", "it is broken", "exit", "3"];
        let text = text_of(run(backend, &parts, &mut bounded()));
        assert!(text.starts_with('`') && text.contains("shared_child_test_child"), "{text}");
        let quote = if cfg!(windows) { '"' } else { '\'' };
        let arguments = format!(" complain {quote}it is broken{quote} exit 3` failed: exit ");
        assert!(text.contains(&arguments), "{text}");
        assert!(text.ends_with(": 3; stderr ends with:\nit is broken"), "{text}");
    });
}

#[test]
fn check_shows_stdout_if_stderr_is_empty() {
    watchdog!();
    let text = text_of(run(Backend::Best, &["say", "out", "exit", "1"], &mut bounded()));
    assert!(text.ends_with(": 1; stdout ends with:\nout"), "{text}");
    let text = text_of(run(Backend::Best, &["exit", "1"], &mut bounded()));
    assert!(text.ends_with("` failed: exit status: 1") || cfg!(windows), "{text}");
}

#[test]
fn check_of_much_output_is_short() {
    watchdog!();
    let parts = ["write-err", "1000000", "exit", "1"];
    let text = text_of(run(Backend::Best, &parts, &mut bounded()));
    // Escapes make bytes longer.
    assert!(text.len() < 16 << 10, "{} bytes", text.len());
    let text = text_of(run(Backend::Best, &parts, bounded().limit(Limit::head(10))));
    assert!(text.ends_with("[… 999990 bytes omitted …]"), "{text}");
    let long = "x".repeat(10_000);
    let text = text_of(run(Backend::Best, &["exit", "1", &long], &mut bounded()));
    assert!(text.contains("x…` failed: ") && text.len() < 2000, "{text}");
}

#[test]
fn check_of_a_stopped_command_shows_why() {
    watchdog!();
    let mut capture = bounded();
    capture.timeout(Duration::from_millis(50));
    let text = text_of(run(Backend::Best, &["sleep"], &mut capture));
    assert!(text.contains(" sleep` was stopped, since its deadline passed: "), "{text}");
    let parts = ["write", "100", "exit", "0"];
    let text = text_of(run(Backend::Best, &parts, bounded().limit(9).stop_at_limit(true)));
    assert!(text.contains("` was stopped, since it exceeded the limit of stdout: "), "{text}");
}

#[cfg(unix)]
#[test]
fn check_names_the_signal() {
    watchdog!();
    let text = text_of(run(Backend::Best, &["signal", "9"], &mut bounded()));
    assert!(text.ends_with(" signal 9` failed: signal: 9 (SIGKILL)"), "{text}");
    let text = text_of(run(Backend::Best, &["signal", "6"], &mut bounded()));
    assert!(text.contains("` failed: signal: 6 (SIGABRT)"), "{text}");
}

#[cfg(windows)]
#[test]
fn check_names_the_status_of_a_crash() {
    watchdog!();
    let text = text_of(run(Backend::Best, &["exit", "-1073741819"], &mut bounded()));
    assert!(text.ends_with("exit code: 0xc0000005 (access violation)"), "{text}");
}

#[test]
fn check_names_the_command_of_every_child_with_piped_output() {
    watchdog!();
    on_every_backend(|backend| {
        let text = text_of(run(backend, &["exit", "1"], bounded().merge_stderr(true)));
        assert!(text.contains(" exit 1` failed: "), "{text}");
        let text = text_of(piped(backend, &["exit", "1"]).capture(&mut bounded()).unwrap());
        assert!(text.contains(" exit 1` failed: "), "{text}");
        let mut tree = SpawnOptions::new();
        let text = text_of(
            backend.capture(tree.tree(true), &mut helper(&["exit", "1"]), &mut bounded()).unwrap(),
        );
        assert!(text.contains(" exit 1` failed: "), "{text}");
    });
    // std has spawned the child, or the child has no pipe.
    let child = helper(&["exit", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let without_pipe = SharedChild::spawn(&mut helper(&["exit", "1"])).unwrap();
    for child in [SharedChild::new(child).unwrap(), without_pipe] {
        let text = text_of(child.capture(&mut bounded()).unwrap());
        assert!(text.starts_with(&format!("process {} failed: ", child.id())), "{text}");
    }
}

#[test]
fn error_converts_and_keeps_the_capture() {
    fn as_io_error(captured: Captured) -> io::Result<Captured> {
        Ok(captured.check()?)
    }
    fn as_any_error(captured: Captured) -> Result<Captured, Box<dyn Error + Send + Sync>> {
        Ok(captured.check()?)
    }
    watchdog!();
    let failed = || run(Backend::Best, &["complain", "err", "exit", "7"], &mut bounded());
    let error = as_io_error(failed()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    let text = text_of(failed());
    assert_eq!(error.to_string(), text);
    let failed_again = error.downcast::<CommandFailed>().unwrap();
    assert_eq!(failed_again.captured().status.unwrap().code(), Some(7));
    assert_eq!(failed_again.into_captured().stderr.text().trim_end(), "err");
    assert_eq!(as_any_error(failed()).unwrap_err().to_string(), text);
}

/// A POSIX shell reads back the arguments that the text shows.
#[cfg(unix)]
#[test]
fn command_in_the_text_is_one_that_a_shell_executes() {
    use std::process::Command;
    watchdog!();
    let arguments = ["", "a b", "it's", "$HOME", "a\\b", "*", "~", "\"", "h\u{e9}", "-n", "#"];
    let mut command = Command::new("printf");
    command.arg("<%s>").args(arguments).stdout(Stdio::piped());
    let mut failing = Command::new("sh");
    failing.args(["-c", "exit 1", "sh"]).args(command.get_args());
    let captured = SpawnOptions::new().capture(&mut failing, &mut bounded()).unwrap();
    let text = text_of(captured);
    let quoted = text.strip_prefix("`sh -c 'exit 1' sh ").unwrap();
    let quoted = quoted.strip_suffix("` failed: exit status: 1").unwrap();
    let output = Command::new("sh").args(["-c", &format!("printf {quoted}")]).output().unwrap();
    let expected: String = arguments.iter().map(|argument| format!("<{argument}>")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
