//! The example `parallel`, as its users run it: on commands that the helper program plays.
//!
//! A command that the test stops writes its process ID into a FIFO, and reads another FIFO that the test holds open
//! to its end. So a command that ends sooner was stopped, and all commands end with the test.
#![cfg(unix)]

use crate::common::stage::{Helpers, findable_daemon, lists, parts};
use crate::common::{HELPER, LONG, Scratch, example, unix, until, wait};
use shared_child::{CaptureOptions, Captured, SharedChild, SpawnOptions, unix::SharedChildExt};
use std::ffi::{OsStr, c_int};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const STUBBORN: &str = "ignore TERM pid read";

fn ours() -> PathBuf {
    example("parallel")
}

/// The helper program with these parts, as a shell command.
fn line(parts: &[String]) -> String {
    format!("'{HELPER}' '{}'", parts.join("' '"))
}

fn play(text: &str) -> String {
    line(&parts(text))
}

/// Runs `parallel` to its end, on these arguments and this input.
#[track_caller]
fn parallel(arguments: &[impl AsRef<OsStr>], input: &str) -> Captured {
    let mut options = SpawnOptions::new();
    options.tree(true).kill_on_drop(true);
    let mut capture = CaptureOptions::new();
    capture.timeout(LONG).stdin(input);
    let captured = options.capture(Command::new(ours()).args(arguments), &mut capture);
    let captured = captured.expect("to run");
    assert!(captured.stopped_by.is_none(), "it hangs: {captured:?}");
    captured
}

fn code(captured: &Captured) -> Option<i32> {
    captured.status.expect("a status").code()
}

/// Checks that standard error contains this.
#[track_caller]
fn says(captured: &Captured, what: &str) {
    let said = captured.stderr.text();
    assert!(said.contains(what), "not {what:?}: {said}");
}

/// A running `parallel`, on commands that do not end by themselves.
struct Running {
    child: std::sync::Arc<SharedChild>,
    captured: Option<JoinHandle<Captured>>,
    heard: BufReader<File>,
    helpers: Helpers,
    input: Option<File>,
    scratch: Scratch,
}

impl Running {
    /// Returns when this many commands have written their process IDs.
    fn on(options: &str, commands: &[Vec<String>], members: usize) -> Self {
        unix::default_terminal_signals();
        let scratch = Scratch::new("parallel");
        let (heard, input) = (
            BufReader::new(unix::fifo(&scratch.0.join("says"))),
            unix::fifo(&scratch.0.join("input")),
        );
        let streams = format!("<'{}' >'{}'", scratch.path("input"), scratch.path("says"));
        let mut command = Command::new(ours());
        command.args(parts(options));
        // This shell does not exec the command.
        command.args(commands.iter().map(|parts| format!("{} {streams}; exit $?", line(parts))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut spawn = SpawnOptions::new();
        spawn.kill_on_drop(true).kill_with_parent(true);
        let child = std::sync::Arc::new(spawn.spawn(&mut command).expect("to spawn"));
        let captures = std::sync::Arc::clone(&child);
        let captured = thread::spawn(move || {
            let mut capture = CaptureOptions::new();
            captures.capture(capture.timeout(LONG)).expect("to capture")
        });
        let helpers = Helpers::default();
        let mut running =
            Self { child, captured: Some(captured), heard, helpers, input: Some(input), scratch };
        for _ in 0..members {
            let pid = running.hear("pid ").parse().expect("a process ID");
            running.helpers.0.push(pid);
        }
        running
    }

    /// Returns the rest of the next line with this prefix.
    fn hear(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            self.heard.read_line(&mut line).expect("to hear");
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim_end().to_owned();
            }
        }
    }

    fn signal(&self, signal: c_int) {
        self.child.send_signal(signal).expect("to signal");
    }

    /// Returns the commands that have written their process IDs, when no more will.
    fn hear_the_rest(&mut self) {
        fs::write(self.scratch.path("says"), "pid over\n").expect("to say");
        while let Ok(pid) = self.hear("pid ").parse() {
            self.helpers.0.push(pid);
        }
    }

    /// Checks that it ends with this code and leaves no process, even if the commands' input stays open.
    #[track_caller]
    fn ends(&mut self, expected: i32) -> Captured {
        assert_eq!(wait(&self.child).code(), Some(expected));
        until("no process is left", || self.helpers.alive().is_empty());
        let captured = self.captured.take().expect("it ends once").join().expect("no panic");
        eprintln!("{}", captured.stderr.text());
        captured
    }
}

#[test]
fn all_commands_run_and_their_output_is_complete() {
    watchdog!();
    let commands: Vec<String> =
        (0..20).map(|n| play(&format!("say {n} write 100000 complain {n}"))).collect();
    let captured = parallel(&[&["-j3".to_owned()], &*commands].concat(), "");
    assert_eq!(code(&captured), Some(0));
    // Outputs appear one after the other, in any order; each output is in one piece.
    let block: Vec<u8> = (0..251).cycle().take(251 * 256).collect();
    let written: Vec<u8> = [&block[..], &block[..100_000 - block.len()]].concat();
    let mut rest = &captured.stdout.bytes[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a line");
        seen.push(String::from_utf8_lossy(&rest[..end]).parse::<u32>().expect("a number"));
        assert!(rest[end + 1..].starts_with(&written), "{seen:?}");
        rest = &rest[end + 1 + written.len()..];
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    let said = captured.stderr.text();
    (0..20).for_each(|n| assert!(said.lines().any(|line| line == n.to_string()), "{said}"));
    says(&captured, "parallel: 20 succeeded, 0 failed, in ");
    says(&captured, "parallel: slowest: ");
    if cfg!(any(target_os = "linux", target_os = "macos", target_os = "freebsd")) {
        says(&captured, "parallel: biggest: ");
    }
}

#[test]
fn lines_of_standard_input_are_run() {
    watchdog!();
    let input = "# what to run\n\n  two='a  b'; echo \"$two\" # and more \r\n-not-an-option\n";
    let captured = parallel(&["-j", "1"], input);
    assert_eq!((code(&captured), &*captured.stdout.text()), (Some(1), "a  b\n"));
    says(&captured, "1 succeeded, 1 failed");
    says(&captured, "failed: -not-an-option: exit status: 127");
    // The line has no terminator, and the commands do not read this input.
    let captured = parallel(&["--jobs=2"], &play("read say done"));
    assert_eq!((code(&captured), &*captured.stdout.text()), (Some(0), "done\n"));
    for nothing in ["", "\n", "# nothing\n \n"] {
        let captured = parallel(&[] as &[&str], nothing);
        assert_eq!((code(&captured), &*captured.stdout.text()), (Some(0), ""));
        says(&captured, "0 succeeded, 0 failed");
    }
    // The argument is not valid UTF-8.
    let captured = parallel(&[OsStr::from_bytes(b"echo \xff")], "");
    assert_eq!((code(&captured), &*captured.stdout.bytes), (Some(0), &b"\xff\n"[..]));
}

/// There are as many places as jobs: two. Each command takes a place, waits until the other command of its pair has
/// started, and frees the place. So both commands of a pair must run at the same time, and a third command at that time
/// would find no place.
#[test]
fn no_more_commands_run_at_a_time_than_jobs() {
    watchdog!();
    let scratch = Scratch::new("parallel");
    let commands = (0..8).map(|n| {
        let (mine, other) =
            (scratch.path(&format!("here-{n}")), scratch.path(&format!("here-{}", n ^ 1)));
        let (one, two) = (scratch.path("place-1"), scratch.path("place-2"));
        let meet = play(&format!("await {other}"));
        format!(
            "for place in '{one}' '{two}' none; do mkdir \"$place\" 2>/dev/null && break; done; \
             [ \"$place\" != none ] || echo crowded; : >'{mine}'; {meet}; rmdir \"$place\""
        )
    });
    let captured = parallel(&["--jobs", "2"], &commands.collect::<Vec<_>>().join("\n"));
    assert_eq!((code(&captured), &*captured.stdout.text()), (Some(0), ""), "{captured:?}");
    says(&captured, "8 succeeded");
}

#[test]
fn failure_is_reported_and_the_other_commands_run() {
    watchdog!();
    let (bad, good) = (play("say bad exit 7"), play("say good"));
    let killed = "kill -s KILL $$";
    let captured = parallel(&["-j1", &bad, "no-such-command", killed, &good], "");
    assert_eq!((code(&captured), &*captured.stdout.text()), (Some(1), "bad\ngood\n"));
    says(&captured, "parallel: 1 succeeded, 3 failed, in ");
    says(&captured, "exit status: 7\n");
    // Each shell words the rest of the line in its own way.
    let of_the_shell = |line: &str| line.contains("no-such-command:") && line.contains("not found");
    assert!(captured.stderr.text().lines().any(of_the_shell), "{captured:?}");
    says(&captured, "parallel: failed: no-such-command: exit status: 127\n");
    says(&captured, &format!("failed: {killed}: signal: {} (SIGKILL)\n", libc::SIGKILL));
}

#[test]
fn fail_fast_stops_the_other_commands_and_starts_none() {
    watchdog!();
    let scratch = Scratch::new("parallel");
    let with_a_daemon = [findable_daemon("pid read"), parts("pid read")].concat();
    let failing = parts(&format!("pid await {} exit 5", scratch.path("go")));
    let commands = [with_a_daemon, parts("pid read"), failing, parts("say late")];
    let mut running = Running::on("-f -j3 -g 1000", &commands, 4);
    fs::write(scratch.path("go"), "").expect("a file");
    let captured = running.ends(1);
    says(&captured, "0 succeeded, 1 failed, 2 stopped, 1 not started");
    says(&captured, "exit status: 5\n");
    // Only one command runs at a time, so the second is not started.
    let captured = parallel(&["--fail-fast", "-j", "1", "exit 3", "echo late"], "");
    assert_eq!((code(&captured), &*captured.stdout.text()), (Some(1), ""));
    says(&captured, "0 succeeded, 1 failed, 1 not started");
}

#[test]
fn timeout_stops_the_whole_tree() {
    watchdog!();
    let stubborn = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
    // On a slow machine a command may be killed before it writes its process ID.
    let mut running = Running::on("-j2 -t 1s -g 50ms", &[stubborn], 0);
    until("it has ended", || running.child.try_wait().expect("a state").is_some());
    running.hear_the_rest();
    let captured = running.ends(1);
    says(&captured, "0 succeeded, 1 failed");
    says(&captured, "stopped, since its deadline passed: ");
}

#[test]
fn processes_that_a_command_leaves_running_are_killed() {
    watchdog!();
    let scratch = Scratch::new("parallel");
    let leaves = |then: &str| {
        [findable_daemon(STUBBORN), parts(&format!("await {} {then}", scratch.path("go")))].concat()
    };
    // The grace applies to stopped commands only.
    let mut running = Running::on("-j2 -g 1000h", &[leaves("exit 0"), leaves("exit 3")], 2);
    fs::write(scratch.path("go"), "").expect("a file");
    says(&running.ends(1), "1 succeeded, 1 failed");
    // A process that holds the pipes is stopped too.
    let captured =
        parallel(&["-g", "1000h", &line(&findable_daemon("ignore TERM say there sleep"))], "");
    assert_eq!(code(&captured), Some(0));
}

#[test]
fn signal_stops_all_commands() {
    watchdog!();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let with_a_daemon = [findable_daemon("pid read"), parts("pid read")].concat();
        let commands = [parts("pid read"), with_a_daemon, parts("say late")];
        let mut running = Running::on("-j2 -g 1000", &commands, 3);
        running.signal(signal);
        says(&running.ends(128 + signal), "0 succeeded, 0 failed, 2 stopped, 1 not started");
    }
}

/// The shells have ended by then, but a process that received the request has the whole grace, and its output is
/// read.
#[test]
fn signal_is_sent_to_all_commands_at_the_same_time() {
    watchdog!();
    // On other systems the grace ends with the shell.
    if !lists(function_name!()) {
        return;
    }
    let late = || parts("report TERM pid read complain bye");
    let mut running = Running::on("-j3 -g 1000", &[late(), late(), late()], 3);
    running.signal(libc::SIGINT);
    for _ in 0..3 {
        running.hear("signal TERM");
    }
    assert_eq!(running.helpers.alive().len(), 3);
    // Longer than a capture waits by itself for the remaining processes.
    thread::sleep(Duration::from_millis(400));
    running.input = None;
    let captured = running.ends(128 + libc::SIGINT);
    says(&captured, "3 stopped");
    assert_eq!(captured.stderr.text().matches("bye\n").count(), 3, "{captured:?}");
}

#[test]
fn command_that_ignores_the_request_is_killed_after_the_grace() {
    watchdog!();
    let with_a_daemon = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
    let mut running = Running::on("-j2 --grace=50ms", &[with_a_daemon, parts(STUBBORN)], 3);
    running.signal(libc::SIGTERM);
    says(&running.ends(128 + libc::SIGTERM), "2 stopped");
}

#[test]
fn second_signal_kills_at_once() {
    watchdog!();
    // On other systems the grace ends with the shell.
    if !lists(function_name!()) {
        return;
    }
    let with_a_daemon =
        [findable_daemon("ignore TERM pid read"), parts("report TERM pid read")].concat();
    let mut running = Running::on("-j2 -g 1000h", &[with_a_daemon, parts(STUBBORN)], 3);
    running.signal(libc::SIGINT);
    running.hear("signal TERM");
    running.signal(libc::SIGTERM);
    says(&running.ends(128 + libc::SIGINT), "2 stopped");
}

#[test]
fn no_process_survives_a_killed_parallel() {
    watchdog!();
    let with_a_daemon = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
    let mut running = Running::on("-j2", &[with_a_daemon, parts("pid read")], 3);
    running.child.kill().expect("to kill");
    wait(&running.child);
    until("no process is left", || running.helpers.alive().is_empty());
    running.captured.take().expect("a capture").join().expect("no panic");
    assert!(running.scratch.0.exists());
}

#[test]
fn output_beyond_the_limit_is_omitted() {
    watchdog!();
    let captured = parallel(&["--limit=1k", &play("say first write 5000 say last")], "");
    assert_eq!(code(&captured), Some(0));
    let bytes = &captured.stdout.bytes;
    let note = "\n[… 3987 bytes omitted …]\n".as_bytes();
    assert_eq!(bytes.len(), 1024 + note.len());
    assert!(bytes.starts_with(b"first\n") && bytes.ends_with(b"last\n"));
    assert_eq!(&bytes[512..512 + note.len()], note);
    let captured = parallel(&["-l", "0", &play("say out complain err")], "");
    assert_eq!(captured.stdout.text(), "[… 4 bytes omitted …]\n");
    says(&captured, "[… 4 bytes omitted …]\n");
}

/// The reader of the output closes the pipe, and all commands are stopped.
#[test]
fn closed_output_stops_all_commands() {
    watchdog!();
    let mut command = Command::new("sh");
    command.env("OURS", ours());
    let sleep = play("sleep");
    command.args(["-c", "{ \"$OURS\" -j2 \"$0\" \"$1\"; echo \"$?\" >&2; } | :"]);
    command.args([&sleep, &play("write 1000000")]);
    let mut options = SpawnOptions::new();
    options.tree(true).kill_on_drop(true);
    let captured =
        options.capture(&mut command, CaptureOptions::new().timeout(LONG)).expect("to run");
    assert!(captured.stopped_by.is_none(), "it hangs: {captured:?}");
    says(&captured, "parallel: the output cannot be written: ");
    says(&captured, "1 succeeded, 0 failed, 1 stopped");
    assert!(captured.stderr.text().ends_with("\n1\n"), "{captured:?}");
}

#[test]
fn invalid_arguments_are_reported() {
    watchdog!();
    let captured = parallel(&["--help"], "");
    assert_eq!((code(&captured), &*captured.stderr.text()), (Some(0), ""));
    assert!(captured.stdout.text().starts_with("Usage: parallel "));
    let cases: [(&[&str], &str); 9] = [
        (&["--bogus", "echo no"], "--bogus"),
        (&["-j", "0", "echo no"], "\"0\""),
        (&["-j", "-1", "echo no"], "\"-1\""),
        (&["-jmany", "echo no"], "\"many\""),
        (&["echo no", "--timeout"], "--timeout"),
        (&["-t", "soon", "echo no"], "'soon' is not a duration"),
        (&["--grace=-1", "echo no"], "'-1' is not a duration"),
        (&["--limit", "much", "echo no"], "'much' is not a size"),
        (&["-f=yes", "echo no"], "\"yes\""),
    ];
    for (arguments, message) in cases {
        let captured = parallel(arguments, "echo no");
        assert_eq!((code(&captured), &*captured.stdout.text()), (Some(2), ""), "{arguments:?}");
        says(&captured, message);
        assert_eq!(captured.stderr.text().lines().count(), 1, "{captured:?}");
    }
    // Arguments after `--` are commands.
    assert_eq!(code(&parallel(&["--", "--bogus"], "")), Some(1));
}
