//! The example `timeout`, as its users run it: every option, every exit status, every signal, and side by side with
//! the `timeout` of GNU coreutils where that is installed.
//!
//! No test relies on speed. A command that times out runs for ever; any other command is quick and has (practically)
//! for ever. A command reports when it is ready. Every process of a test holds the test's pipes, so the end of the
//! pipes proves that no process is left. The processes form one tree, which is killed if the test fails.
//!
//! POSIX numbers only a few signals: 1, 2, 3, 6, 9, 14 and 15. The tests write no others as numbers.
#![cfg(unix)]

use crate::common::{HELPER, example, unix};
use rustix::process::Signal;
#[cfg(not(target_os = "haiku"))]
use rustix::process::{Resource, Rlimit, setrlimit};
use shared_child::{SharedChild, SpawnOptions, unix::SharedChildExt};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn ours() -> PathBuf {
    example("timeout")
}

/// A running program and its descendants.
struct Running {
    child: SharedChild,
    out: Receiver<String>,
    err: Receiver<String>,
    what: String,
}

struct Outcome {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Outcome {
    /// Returns the value of `$?` in a shell.
    fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().expect("code or signal"))
    }
}

fn start<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> Running {
    unix::default_terminal_signals();
    // Some of the signals would each leave a core file.
    #[cfg(not(target_os = "haiku"))]
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).expect("setrlimit");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = SpawnOptions::new().tree(true).spawn(&mut command).expect("spawn");
    let out = lines(child.take_stdout().expect("piped"));
    let err = lines(child.take_stderr().expect("piped"));
    Running { child, out, err, what: format!("{command:?}") }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = sender.send(line.expect("read a line"));
        }
    });
    receiver
}

impl Running {
    fn line(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap_or_else(|error| self.fail(&error.to_string()))
    }

    fn signal(&self, signal: Signal) {
        self.child.send_signal(signal.as_raw()).expect("send a signal");
    }

    fn status(&self) -> ExitStatus {
        let status = self.child.wait_timeout(PATIENCE).expect("wait");
        status.unwrap_or_else(|| self.fail("does not end"))
    }

    /// Waits for the exit, and for the end of every descendant.
    fn finish(self) -> Outcome {
        let status = self.status();
        let (out, err) = (self.rest(&self.out), self.rest(&self.err));
        Outcome { status, out, err }
    }

    fn rest(&self, lines: &Receiver<String>) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut text = String::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text = text + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => return text,
                Err(RecvTimeoutError::Timeout) => self.fail("a process survives it"),
            }
        }
    }

    fn fail(&self, how: &str) -> ! {
        panic!("{}: {how}: {}", thread::current().name().unwrap_or("?"), self.what)
    }

    fn kill_all(&self) {
        self.child.tree().expect("a tree").kill().expect("kill");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn timeout(args: &[&str]) -> Outcome {
    start(ours(), args).finish()
}

/// Starts our timeout from a shell that first changes something about itself.
fn timeout_after(shell: &str, args: &[&str]) -> Running {
    let script = format!("{shell}; exec \"$@\"");
    let program = ours();
    let mut all = vec![OsStr::new("-c"), script.as_ref(), "sh".as_ref(), program.as_ref()];
    all.extend(args.iter().map(OsStr::new));
    start("sh", all)
}

/// Starts our timeout with a command that prints `ready` (or the first line of `script`).
fn ready(options: &[&str], script: &str) -> (Running, String) {
    let running = start(ours(), [options, &["sh", "-c", script]].concat());
    let line = running.line();
    (running, line)
}

/// The value of `$?` in a shell after a death by these signals.
const TERMINATED: i32 = 128 + libc::SIGTERM;
const INTERRUPTED: i32 = 128 + libc::SIGINT;
const KILLED: i32 = 128 + libc::SIGKILL;

const FOREVER: &str = "echo ready; exec sleep 1000";
const IGNORES_TERM: &str = "trap '' TERM; echo ready; exec sleep 1000";

fn assert_codes(cases: &[(i32, &[&str])]) {
    for (code, args) in cases {
        let outcome = timeout(args);
        assert_eq!(outcome.code(), *code, "timeout {args:?}: {}", outcome.err);
    }
}

#[test]
fn status_of_a_command_that_ends_in_time_is_returned() {
    assert_codes(&[
        (0, &["1000", "true"]),
        (3, &["1000", "sh", "-c", "exit 3"]),
        (3, &["-p", "1000", "sh", "-c", "exit 3"]),
        (124, &["1000", "sh", "-c", "exit 124"]),
        (255, &["-fvp", "-k1", "1000", "sh", "-c", "exit 255"]),
        (4, &["--", "1000", "sh", "-c", "exit 4"]),
    ]);
}

#[test]
fn durations_are_accepted_or_refused() {
    for duration in [
        "0",
        "0s",
        "0.0",
        "0e5",
        "+1000",
        " 1000",
        "1000.",
        "1e3",
        "1e3s",
        ".5d",
        "1000m",
        "1000h",
        "1e400",
        "1e308d",
        "18446744073709551616",
        "99999999999999999999d",
        "inf",
        "infinity",
        "infd",
    ] {
        let outcome = timeout(&[duration, "sh", "-c", "exit 3"]);
        assert_eq!(outcome.code(), 3, "{duration:?}: {}", outcome.err);
    }
    for duration in
        [".05", "0.05", "5e-2", "1e-9", "1e-300", "1e-5000", ".001m", ".00001h", "1e-7d"]
    {
        let outcome = timeout(&[duration, "sleep", "1000"]);
        assert_eq!(outcome.code(), 124, "{duration:?}: {}", outcome.err);
    }
    for duration in ["", "s", ".", "1S", "1sm", "1 s", "1_0", "nan", "one", "1x", "d1", "1e", "é"]
    {
        let outcome = timeout(&[duration, "true"]);
        assert_eq!(outcome.code(), 125, "{duration:?}");
        assert!(outcome.err.contains(&format!("invalid time interval '{duration}'")));
        assert_eq!(timeout(&["-k", duration, "1", "true"]).code(), 125, "-k {duration:?}");
    }
}

#[test]
fn kill_after_zero_sets_no_deadline() {
    // WINCH does not affect the command, so only KILL would end it, and no process sends that.
    let (running, _) = ready(&["-v", "-k", "0", "-s", "WINCH", ".01"], "echo ready; exec sleep .2");
    let outcome = running.finish();
    assert!([0, 124].contains(&outcome.code()), "{}", outcome.err);
    assert!(!outcome.err.contains("KILL"));
}

#[test]
fn signal_names_and_numbers_are_accepted_or_refused() {
    for signal in
        ["TERM", "term", "SIGTERM", "sigTerm", "15", &TERMINATED.to_string(), "0", "EXIT", "IOT"]
    {
        assert_eq!(timeout(&["-s", signal, "1000", "true"]).code(), 0, "{signal:?}");
    }
    for signal in ["", "SIG", "SIGSIGTERM", "TER", "-1", "+15", "32", "65", "999", "1x", "RTMAX+1"]
    {
        let outcome = timeout(&["-s", signal, "1000", "true"]);
        assert_eq!(outcome.code(), 125, "{signal:?}");
        assert!(outcome.err.contains("invalid signal"), "{}", outcome.err);
    }
    let fatal =
        ["HUP", "int", "3", "ILL", "TRAP", "ABRT", "BUS", "FPE", "USR1", "SEGV", "PIPE", "ALRM"];
    let real_time: &[_] = match cfg!(target_os = "linux") {
        true => &["RTMIN", "rtmin+2", "SIGRTMAX-1", "64"],
        false => &[],
    };
    for signal in fatal.into_iter().chain(real_time.iter().copied()) {
        let outcome = timeout(&["-s", signal, ".05", "sleep", "1000"]);
        assert_eq!(outcome.code(), 124, "{signal:?}: {}", outcome.err);
    }
}

#[test]
fn invalid_usage_gives_125() {
    let cases: [&[&str]; 11] = [
        &[],
        &["1"],
        &["--"],
        &["-s"],
        &["-k"],
        &["--signal"],
        &["--bogus", "1", "true"],
        &["-x", "1", "true"],
        &["-1", "true"],
        &["--foreground=yes", "1", "true"],
        &["--ver", "1", "true"],
    ];
    for args in cases {
        let outcome = timeout(args);
        assert_eq!(outcome.code(), 125, "timeout {args:?}");
        assert!(outcome.err.starts_with("timeout: "), "{}", outcome.err);
        assert!(outcome.err.ends_with("Try 'timeout --help' for more information.\n"));
    }
}

#[test]
fn options_end_at_the_first_operand() {
    let outcome = timeout(&["1000", "printf", "%s ", "-k", "--help", "--", "-s"]);
    assert_eq!((outcome.code(), outcome.out.as_str()), (0, "-k --help -- -s \n"));
    assert_codes(&[(127, &["1000", "-v", "true"]), (127, &["1000", "--", "true"])]);
}

#[test]
fn help_and_version_are_printed() {
    let help = timeout(&["--help"]);
    assert_eq!(help.code(), 0);
    assert!(help.out.starts_with("Usage: timeout ") && help.err.is_empty());
    let version = timeout(&["-v", "--version", "nonsense"]);
    assert_eq!((version.code(), version.err.as_str()), (0, ""));
    assert!(version.out.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn command_that_cannot_be_run_gives_126_or_127() {
    let plain_file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert_codes(&[
        (126, &["1000", "/"]),
        (126, &["1000", plain_file]),
        (126, &["1000", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/below")]),
        (127, &["1000", "no-such-command-anywhere"]),
        (127, &["1000", "/no/such/file"]),
        (127, &["1000", ""]),
    ]);
    let outcome = timeout(&["1000", "/no/such/file"]);
    assert!(outcome.err.starts_with("timeout: failed to run command '/no/such/file': "));
}

#[test]
fn script_without_an_interpreter_line_is_run() {
    let script = concat!(env!("CARGO_TARGET_TMPDIR"), "/timeout_example_script");
    // A shell writes the file: if this process did, a child of another test might hold it open.
    let make = format!("echo 'exit $(($1 + 1))' > '{script}' && chmod +x '{script}'");
    assert_eq!(start("sh", ["-c", &make]).finish().code(), 0);
    assert_codes(&[(6, &["1000", script, "5"])]);
}

#[test]
fn timeout_gives_124_or_the_status_of_the_command() {
    assert_codes(&[
        (124, &[".05", "sleep", "1000"]),
        (124, &["-s", "INT", ".05", "sleep", "1000"]),
        (124, &["--foreground", ".05", "sleep", "1000"]),
        (TERMINATED, &["-p", ".05", "sleep", "1000"]),
        (TERMINATED, &["--preserve-status", "--foreground", ".05", "sleep", "1000"]),
        (INTERRUPTED, &["--preserve", "--sig", "INT", ".05", "sleep", "1000"]),
        (KILLED, &["-s", "KILL", ".05", "sleep", "1000"]),
        (KILLED, &["-f", "-s", "9", ".05", "sleep", "1000"]),
        (KILLED, &["-k", ".05", "-s", "WINCH", ".05", "sleep", "1000"]),
        (KILLED, &["-f", "--kill-after=.05", "--signal=WINCH", ".05", "sleep", "1000"]),
        (KILLED, &["-k.05", "-sCHLD", ".05", "sleep", "1000"]),
    ]);
    // After a timeout the status is an exit code, as with GNU, not a signal. KILL is the exception, as with GNU,
    // which kills its own group.
    assert_eq!(timeout(&["-p", ".05", "sleep", "1000"]).status.code(), Some(TERMINATED));
    assert_eq!(timeout(&["-fs9", ".05", "sleep", "1000"]).status.code(), Some(KILLED));
    assert_eq!(timeout(&["-s9", ".05", "sleep", "1000"]).status.signal(), Some(libc::SIGKILL));
}

#[test]
fn nested_timeouts_return_the_status_of_the_first_to_end() {
    let inner = ours();
    let inner = inner.to_str().expect("a path in UTF-8");
    assert_codes(&[
        (124, &[".05", inner, "1000", "sleep", "1000"]),
        (124, &["1000", inner, ".05", "sleep", "1000"]),
        (124, &[".05", inner, "-f", "1000", "sleep", "1000"]),
        (5, &["1000", inner, "1000", "sh", "-c", "exit 5"]),
    ]);
}

#[test]
fn verbose_reports_each_signal() {
    let outcome = timeout(&["-v", ".05", "sleep", "1000"]);
    assert_eq!(outcome.err, "timeout: sending signal TERM to command 'sleep'\n");
    let outcome = timeout(&["-fv", "-k.05", "-swinch", ".05", "sleep", "1000"]);
    let twice =
        ["WINCH", "KILL"].map(|s| format!("timeout: sending signal {s} to command 'sleep'\n"));
    assert_eq!(outcome.err, twice.concat());
    assert_eq!(timeout(&[".05", "sleep", "1000"]).err, "");
}

#[test]
fn signals_are_passed_on_to_the_command() {
    for options in [&["1000"][..], &["-f", "1000"], &["-p", "1000"], &["0"]] {
        for signal in
            [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2]
        {
            let (running, _) = ready(options, FOREVER);
            running.signal(signal);
            let status = running.finish().status;
            assert_eq!(status.signal(), Some(signal.as_raw()), "{options:?} {signal:?}: {status}");
            assert!(!status.core_dumped());
        }
    }
    let (running, _) = ready(&["-s", "PROF", "1000"], FOREVER);
    running.signal(Signal::PROF);
    assert_eq!(running.finish().status.signal(), Some(Signal::PROF.as_raw()));
}

// These two loop instead of waiting for a `sleep`: a fork of a shell with a trap loses a signal that arrives before
// the fork has removed the trap.
#[test]
fn command_that_handles_the_signal_receives_it_once() {
    let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do :; done";
    let (running, _) = ready(&["1000"], script);
    running.signal(Signal::TERM);
    let outcome = running.finish();
    assert_eq!((outcome.code(), outcome.out.as_str()), (9, "got\n"), "once");
}

#[test]
fn command_that_signals_its_group_keeps_its_status() {
    let script = "trap 'trap \"\" TERM; kill 0; exit 9' TERM; echo ready; while :; do :; done";
    let (running, _) = ready(&["1000"], script);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().code(), 9);
}

#[test]
fn sigalrm_acts_as_the_timeout() {
    let (running, _) = ready(&["1000"], FOREVER);
    running.signal(Signal::ALARM);
    assert_eq!(running.finish().status.code(), Some(124));
}

#[test]
fn passed_signal_starts_the_kill_timer() {
    let (running, _) = ready(&["-k", ".05", "1000"], IGNORES_TERM);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().status.signal(), Some(libc::SIGKILL));

    let (running, _) = ready(&["-v", "--foreground", "-k", ".05", "0"], IGNORES_TERM);
    running.signal(Signal::TERM);
    let outcome = running.finish();
    assert_eq!(outcome.status.code(), Some(KILLED));
    assert_eq!(outcome.err.matches("sending signal").count(), 2, "{}", outcome.err);
}

#[test]
fn timeout_ends_the_whole_group() {
    let script = "sleep 1000 & sh -c 'sleep 1000 & wait' & echo ready; wait";
    for options in [&[".05"][..], &["-s", "KILL", ".05"], &["-k", ".05", "-s", "WINCH", ".05"]] {
        // This does not wait for the command to be ready, which may never happen; but every process ends.
        let running = start(ours(), [options, &["sh", "-c", script]].concat());
        assert!([124, KILLED].contains(&running.finish().code()), "{options:?}");
    }
    for signal in [Signal::TERM, Signal::HUP, Signal::USR1] {
        let (running, _) = ready(&["1000"], script);
        running.signal(signal);
        assert_eq!(running.finish().status.signal(), Some(signal.as_raw()));
    }
}

#[test]
fn timeout_dies_by_the_signal_that_killed_its_command() {
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("KILL", libc::SIGKILL),
        ("SEGV", libc::SIGSEGV),
        ("ABRT", libc::SIGABRT),
        ("PIPE", libc::SIGPIPE),
        ("USR1", libc::SIGUSR1),
    ] {
        for options in [&["1000"][..], &["-p", "1000"], &["-f", "1000"]] {
            let script = format!("kill -s {name} $$");
            let outcome = start(ours(), [options, &["sh", "-c", &script]].concat()).finish();
            assert_eq!(outcome.status.signal(), Some(number), "{options:?} {name}");
            assert!(!outcome.status.core_dumped());
        }
    }
}

#[test]
fn closed_standard_streams_change_no_status() {
    let closed = "exec <&- >&- 2>&-";
    assert_eq!(timeout_after(closed, &["1000", "sh", "-c", "exit 3"]).finish().code(), 3);
    assert_eq!(timeout_after(closed, &["-v", ".05", "sleep", "1000"]).finish().code(), 124);
    assert_eq!(timeout_after(closed, &["bad", "true"]).finish().code(), 125);
    assert_eq!(timeout_after(closed, &["1000", "/no/such/file"]).finish().code(), 127);
}

#[test]
fn ignored_sigchld_changes_no_status() {
    let ignored = "trap '' CHLD";
    assert_eq!(timeout_after(ignored, &["1000", "sh", "-c", "exit 3"]).finish().code(), 3);
    assert_eq!(timeout_after(ignored, &[".05", "sleep", "1000"]).finish().code(), 124);
}

#[test]
fn ignored_signals_stay_ignored() {
    let running = timeout_after("trap '' HUP", &["1000", "sh", "-c", FOREVER]);
    running.line();
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().status.signal(), Some(Signal::TERM.as_raw()));
}

fn is_alive(pid: &str) -> bool {
    unix::is_alive(pid.parse().expect("a process ID"))
}

fn until_stopped(pid: &str, stopped: bool) {
    let pid = pid.parse().expect("a process ID");
    let deadline = Instant::now() + PATIENCE;
    while unix::is_stopped(pid) != stopped {
        assert!(Instant::now() < deadline, "{pid} is {:?}", unix::state(pid));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn stopped_command_is_resumed_to_end() {
    let script = "echo $$; kill -s STOP $$; exec sleep 1000";
    let (running, pid) = ready(&["1000"], script);
    until_stopped(&pid, true);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().status.signal(), Some(Signal::TERM.as_raw()));

    let (running, pid) = ready(&["-s", "HUP", "1000"], script);
    until_stopped(&pid, true);
    running.signal(Signal::ALARM);
    assert_eq!(running.finish().status.code(), Some(124));
}

#[test]
fn foreground_spares_the_children_of_the_command() {
    let (running, pid) = ready(&["-f", "1000"], "sleep 1000 & echo $!; exec sleep 1000");
    running.signal(Signal::TERM);
    assert_eq!(running.status().signal(), Some(Signal::TERM.as_raw()));
    assert!(is_alive(&pid));
    running.kill_all();
    running.finish();
}

#[test]
fn stop_and_continue_signals_reach_the_command() {
    let (running, pid) = ready(&["1000"], "echo $$; exec sleep 1000");
    let own = running.child.id().to_string();
    running.signal(Signal::TSTP);
    until_stopped(&own, true);
    until_stopped(&pid, true);
    running.signal(Signal::CONT);
    until_stopped(&pid, false);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().status.signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn foreground_keeps_the_command_in_its_group() {
    let group = |options: &[&str]| {
        let script = format!("'{HELPER}' group");
        let shell = format!("{script}; exec \"$@\"");
        let ours = ours();
        let ours = ours.to_str().expect("a path in UTF-8");
        // Two shells, so that timeout is not the leader of the group that it starts in.
        let outer = ["-c", "sh -c \"$@\"; exit $?", "sh", &shell, "sh", ours];
        let outcome =
            start("sh", [&outer, options, &["1000", "sh", "-c", &script]].concat()).finish();
        let groups: Vec<&str> = outcome.out.lines().collect();
        assert_eq!((outcome.code(), groups.len()), (0, 2), "{}{}", outcome.out, outcome.err);
        groups[0] == groups[1]
    };
    assert!(group(&["--foreground"]));
    assert!(!group(&["-v"]));
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;

    /// A script that starts a daemon: its parent exits, and it has a session of its own. It prints its process ID, and
    /// then loops without exec, since a process shows no environment during an exec and could not be found.
    fn daemon(its_trap: &str, then: &str) -> String {
        format!("(setsid sh -c '{its_trap} echo $$; while :; do :; done' &); {then}")
    }

    #[test]
    fn timeout_ends_a_daemon_of_the_command() {
        let terminates = "exec sleep 1000";
        let ignores = "trap \"\" TERM;";
        // The first trap is that of the command and the daemon, the second that of the daemon alone.
        let cases: [(&[&str], &str, &str, Option<i32>); 4] = [
            (&["1000"], "", "", None),
            (&["-s", "KILL", "1000"], ignores, "", Some(libc::SIGKILL)),
            (&["-k", ".05", "1000"], ignores, "", Some(libc::SIGKILL)),
            // The command has ended long before.
            (&["-k", ".05", "1000"], "", ignores, None),
        ];
        for (options, trap, its_trap, killed) in cases {
            let script = format!("{trap} {}", daemon(its_trap, terminates));
            let (running, _) = ready(options, &script);
            running.signal(Signal::ALARM);
            let status = running.finish().status;
            assert_eq!(status.signal(), killed, "{options:?} {script}");
            assert_eq!(status.code(), killed.xor(Some(libc::SIGKILL)).map(|_| 124));
        }
        // The status is the command's, which has not timed out, whenever the daemon ends.
        for (options, its_trap) in [(&["1000"][..], ""), (&["-k", ".05", "1000"], "trap \"\" HUP;")]
        {
            let (running, _) = ready(options, &daemon(its_trap, terminates));
            running.signal(Signal::HUP);
            let status = running.finish().status;
            assert_eq!(status.signal(), Some(Signal::HUP.as_raw()), "{options:?}");
        }
    }

    #[test]
    fn timeout_does_not_wait_for_a_daemon_that_it_does_not_kill() {
        let cases: [(&[&str], i32); 3] =
            [(&["1000"], 124), (&["-f", "1000"], 124), (&["-f", "-k", "1000", "1000"], 124)];
        for (options, code) in cases {
            let (running, pid) = ready(options, &daemon("trap \"\" TERM;", "exec sleep 1000"));
            running.signal(Signal::ALARM);
            assert_eq!(running.status().code(), Some(code), "{options:?}");
            assert!(is_alive(&pid), "{options:?}");
            running.kill_all();
            running.finish();
        }
        // Nothing waits for the daemon of a command that ended in time either.
        let (running, pid) = ready(&["-k", "1000", "1000"], &daemon("", "exit 5"));
        assert_eq!(running.status().code(), Some(5));
        assert!(is_alive(&pid));
        running.kill_all();
        running.finish();
    }

    #[test]
    fn foreground_spares_a_daemon() {
        let (running, pid) = ready(&["-f", "-k", "1000", "1000"], &daemon("", "exec sleep 1000"));
        running.signal(Signal::TERM);
        assert_eq!(running.status().signal(), Some(Signal::TERM.as_raw()));
        assert!(is_alive(&pid));
        running.kill_all();
        running.finish();
    }

    #[test]
    fn command_starts_with_default_job_control_signals() {
        let ignored_by = |shell: &str| {
            let show = "while read name set; do [ $name != SigIgn: ] || echo $set; done";
            let show = format!("{show} < /proc/self/status");
            let outcome = timeout_after(shell, &["1000", "sh", "-c", &show]).finish();
            assert_eq!(outcome.code(), 0, "{}", outcome.err);
            u64::from_str_radix(outcome.out.trim(), 16).expect("a set of signals")
        };
        let bit = |signal: Signal| 1 << (signal.as_raw() - 1);
        let before = "trap '' TTIN TTOU CHLD HUP";
        let (plain, after) = (ignored_by(":"), ignored_by(before));
        let ours = bit(Signal::TTIN) | bit(Signal::TTOU) | bit(Signal::CHILD);
        assert_eq!(plain & ours, 0, "{plain:x}");
        assert_eq!(after & (ours | bit(Signal::HUP)), bit(Signal::HUP), "{after:x}");
    }
}

#[test]
fn statuses_equal_those_of_gnu_timeout() {
    let Some(gnu) = gnu_timeout() else { return };
    let terminated = TERMINATED.to_string();
    let cases: [&[&str]; 42] = [
        &["1000", "true"],
        &["1000", "sh", "-c", "exit 3"],
        &["1000", "sh", "-c", "exit 124"],
        &["--preserve-status", "1000", "sh", "-c", "exit 3"],
        &[".05", "sleep", "1000"],
        &["0.05s", "sleep", "1000"],
        &["5e-2", "sleep", "1000"],
        &[".001m", "sleep", "1000"],
        &["0", "sh", "-c", "exit 3"],
        &["inf", "true"],
        &["1e400", "true"],
        &["infd", "true"],
        &[" 1000", "true"],
        &["--", "-0", "true"],
        &["99999999999999999999d", "true"],
        &["--preserve-status", ".05", "sleep", "1000"],
        &["--preserve", "--sig=INT", ".05", "sleep", "1000"],
        &["--foreground", ".05", "sleep", "1000"],
        &["--foreground", "-s", "KILL", ".05", "sleep", "1000"],
        &["--foreground", "-k", ".05", "-s", "WINCH", ".05", "sleep", "1000"],
        &["-k", ".05", "-s", "WINCH", ".05", "sleep", "1000"],
        &["-s", "KILL", ".05", "sleep", "1000"],
        &["-s", &terminated, ".05", "sleep", "1000"],
        &["-s", "rtmin+2", ".05", "sleep", "1000"],
        &["-s", "SEGV", "--foreground", ".05", "sleep", "1000"],
        &["-s", "BUS", ".05", "sleep", "1000"],
        &["1000", "sh", "-c", "kill -s TERM $$"],
        &["1000", "sh", "-c", "kill -s KILL $$"],
        &["1000", "sh", "-c", "kill -s SEGV $$"],
        &["1000", "/"],
        &["1000", "/no/such/file"],
        &["1000", ""],
        &["1000", "--", "true"],
        &["-s", "32", "1000", "true"],
        &["-s", "SIGSIGTERM", "1000", "true"],
        &["-s", "", "1000", "true"],
        &["nan", "true"],
        &["", "true"],
        &["1S", "true"],
        &["--bogus"],
        &["1000"],
        &[],
    ];
    for args in cases {
        let (theirs, own) = (start(&gnu, args).finish(), timeout(args));
        assert_eq!(own.status, theirs.status, "timeout {args:?}: {}{}", own.err, theirs.err);
    }
    // No test here signals timeout itself: coreutils 9.1 ends at once and leaves its command running if the signal
    // arrives before fork(2) has returned the process ID.
}

fn gnu_timeout() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/timeout");
    if path.exists() && start(&path, ["--version"]).finish().out.contains("GNU coreutils") {
        return Some(path);
    }
    eprintln!("skipped: /usr/bin/timeout is not that of GNU coreutils");
    None
}
