//! The example `supervise`, as its users run it: on a file of commands, which the helper program plays.
//!
//! A command prints its process ID, and reads a FIFO that the test holds open to its end. So a command that ends
//! sooner was stopped, and all commands end with the test.
#![cfg(unix)]

use crate::common::stage::{Helpers, LISTS, findable_daemon, lists, parts};
use crate::common::{HELPER, Scratch, example, unix, until, wait};
use shared_child::{SharedChild, SpawnOptions, unix::SharedChildExt};
use std::ffi::c_int;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

const STUBBORN: &str = "ignore TERM pid read";

fn ours() -> PathBuf {
    example("supervise")
}

/// A directory with a file of commands, and the path of that file.
fn file_of_commands(text: &str) -> (Scratch, String) {
    let scratch = Scratch::new("supervise");
    let path = scratch.path("commands");
    fs::write(&path, text).expect("a file");
    (scratch, path)
}

/// A running supervisor.
struct Running {
    child: SharedChild,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    helpers: Helpers,
    input: Option<File>,
    _scratch: Scratch,
}

impl Running {
    /// Starts it on these commands, each the parts of a helper.
    fn on(options: &str, commands: &[Vec<String>]) -> Self {
        Self::wrapped(&[], options, commands)
    }

    fn wrapped(wrapper: &[&str], options: &str, commands: &[Vec<String>]) -> Self {
        let scratch = Scratch::new("supervise");
        let fifo = scratch.0.join("input");
        let input = unix::fifo(&fifo);
        let mut text = "# what to run\n\n".to_owned();
        for parts in commands {
            text += &format!("  '{HELPER}' '{}' <'{}'\n", parts.join("' '"), fifo.display());
        }
        let commands = scratch.path("commands");
        fs::write(&commands, text).expect("the commands");
        let child = spawn(wrapper, &[&*parts(options), &[commands]].concat());
        let out = BufReader::new(child.take_stdout().expect("a pipe"));
        let err = BufReader::new(child.take_stderr().expect("a pipe"));
        Self { child, out, err, helpers: Helpers::default(), input: Some(input), _scratch: scratch }
    }

    /// Returns the next process ID that a command prints.
    fn pid(&mut self) -> u32 {
        let pid = after(&mut self.out, "pid ").parse().expect("a process ID");
        self.helpers.0.push(pid);
        pid
    }

    /// Returns the rest of the next line of the log that contains this.
    fn logged(&mut self, what: &str) -> String {
        after(&mut self.err, what)
    }

    fn signal(&self, signal: c_int) {
        self.child.send_signal(signal).expect("to signal");
    }

    /// Checks that the supervisor has stopped as it should, and that no process is left.
    #[track_caller]
    fn ends(&self) {
        assert_eq!(wait(&self.child).code(), Some(0));
        self.until_all_have_ended();
    }

    #[track_caller]
    fn until_all_have_ended(&self) {
        // Their input stays open, so they do not end by themselves.
        assert!(self.input.is_some());
        until("all have ended", || self.helpers.alive().is_empty());
    }
}

fn after(reader: &mut impl BufRead, what: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).expect("to read"), 0, "the end before {what:?}");
        eprint!("{line}");
        if let Some((_, rest)) = line.split_once(what) {
            return rest.trim_end().to_owned();
        }
    }
}

/// If the test fails the supervisor is killed, and its commands read the end of their input at the latest.
fn spawn(wrapper: &[&str], arguments: &[String]) -> SharedChild {
    unix::default_terminal_signals();
    let mut command = match wrapper {
        [] => Command::new(ours()),
        [program, first @ ..] => {
            let mut command = Command::new(program);
            command.args(first).arg(ours());
            command
        }
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut options = SpawnOptions::new();
    options.kill_on_drop(true).kill_with_parent(true).spawn(&mut command).expect("to spawn")
}

/// Runs the supervisor to its end.
fn supervise(arguments: &[&str]) -> (ExitStatus, String, String) {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let child = spawn(&[], &arguments);
    let (mut out, mut err) = (String::new(), String::new());
    child.take_stdout().expect("a pipe").read_to_string(&mut out).expect("to read");
    child.take_stderr().expect("a pipe").read_to_string(&mut err).expect("to read");
    (wait(&child), out, err)
}

#[test]
fn ended_command_is_restarted_after_a_growing_pause() {
    watchdog!();
    let mut running = Running::on("-p 10ms -m 0.04s -r 1000h", &[parts("pid exit 7")]);
    let mut pids = Vec::new();
    for pause in ["10ms", "20ms", "40ms", "40ms"] {
        let log = running.logged("supervise: line 3 (");
        assert!(log.contains("pid' 'exit' '7' <"), "{log}");
        assert!(log.contains("): started, process "), "{log}");
        pids.push(running.pid());
        assert_eq!(
            running.logged("): ended after ").split_once("s, ").unwrap().1,
            "exit status: 7"
        );
        assert_eq!(running.logged("): restarting in "), pause);
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    running.signal(libc::SIGTERM);
    running.ends();
}

#[test]
fn pause_is_reset_once_a_command_has_run_for_a_while() {
    watchdog!();
    let mut running = Running::on("--pause=10ms --reset=0", &[parts("exit 0")]);
    for _ in 0..3 {
        assert_eq!(running.logged("restarting in "), "10ms");
    }
    running.signal(libc::SIGTERM);
    running.ends();
}

#[test]
fn processes_that_a_command_leaves_are_stopped_before_its_restart() {
    watchdog!();
    let parts = [findable_daemon("pid read"), parts("exit 0")].concat();
    let mut running = Running::on("-p 1000h", &[parts]);
    running.pid();
    running.logged("restarting in ");
    if LISTS {
        assert_eq!(running.helpers.alive(), [] as [u32; 0]);
    }
    running.until_all_have_ended();
    // The stop does not wait for the end of the pause.
    running.signal(libc::SIGTERM);
    running.ends();
}

#[test]
fn signal_stops_all_commands() {
    watchdog!();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let with_a_daemon = [findable_daemon("pid read"), parts("pid read")].concat();
        let mut running = Running::on("-g 1000", &[parts("pid read"), with_a_daemon]);
        for _ in 0..3 {
            running.pid();
        }
        running.signal(signal);
        running.logged("stopping all within 1000s");
        running.ends();
    }
}

#[test]
fn signal_is_sent_to_all_commands_at_the_same_time() {
    watchdog!();
    // On other systems the grace ends with the shell, even if the shell is not the command itself.
    if !lists(function_name!()) {
        return;
    }
    let late = || parts("report TERM pid read");
    let mut running = Running::on("-g 1000", &[late(), late(), late()]);
    for _ in 0..3 {
        running.pid();
    }
    running.signal(libc::SIGTERM);
    for _ in 0..3 {
        after(&mut running.out, "signal TERM");
    }
    assert_eq!(running.helpers.alive().len(), 3);
    running.input = None;
    assert_eq!(wait(&running.child).code(), Some(0));
}

#[test]
fn command_that_ignores_the_request_is_killed_after_the_grace() {
    watchdog!();
    let with_a_daemon = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
    let mut running = Running::on("--grace=50ms", &[with_a_daemon, findable_daemon(STUBBORN)]);
    for _ in 0..3 {
        running.pid();
    }
    running.signal(libc::SIGTERM);
    running.ends();
}

#[test]
fn second_signal_kills_at_once() {
    watchdog!();
    let mut running = Running::on("-g 1000h", &[parts(STUBBORN), findable_daemon(STUBBORN)]);
    for _ in 0..2 {
        running.pid();
    }
    running.signal(libc::SIGTERM);
    running.logged("stopping all within ");
    running.signal(libc::SIGINT);
    running.ends();
}

#[test]
fn no_process_survives_the_supervisor() {
    watchdog!();
    let with_a_daemon = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
    let mut running =
        Running::on("", &[with_a_daemon, parts("pid read"), findable_daemon("pid read")]);
    for _ in 0..4 {
        running.pid();
    }
    running.child.kill().expect("to kill");
    wait(&running.child);
    running.until_all_have_ended();
}

#[test]
fn ignored_signal_stops_no_command() {
    watchdog!();
    let wrapper = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let mut running = Running::wrapped(&wrapper, "", &[parts("pid read")]);
    running.pid();
    running.signal(libc::SIGHUP);
    running.signal(libc::SIGTERM);
    assert!(running.logged("supervise: signal ").starts_with(&format!("{}: ", libc::SIGTERM)));
    running.ends();
}

#[test]
fn commands_are_run_by_the_shell() {
    watchdog!();
    let (_scratch, commands) = file_of_commands("two='a  b'; echo \"$two\" # and more\n");
    let child = spawn(&[], &[commands]);
    assert_eq!(after(&mut BufReader::new(child.take_stdout().expect("a pipe")), "a  "), "b");
    child.send_signal(libc::SIGTERM).expect("to signal");
    assert_eq!(wait(&child).code(), Some(0));
}

#[test]
fn invalid_arguments_are_reported() {
    watchdog!();
    let (status, out, err) = supervise(&["--help"]);
    assert_eq!((status.code(), &*err), (Some(0), ""));
    assert!(out.starts_with("Usage: supervise "));

    let (_scratch, empty) = file_of_commands("# nothing\n\n   \n  # at all\n");
    let cases: [(&[&str], &str); 9] = [
        (&[], "FILE is missing"),
        (&["/no/such/file"], "/no/such/file: No such file or directory"),
        (&["/"], "/: Is a directory"),
        (&[&empty], "has no command"),
        (&["--bogus", &empty], "--bogus"),
        (&["--grace", "soon", &empty], "'soon' is not a duration"),
        (&["-p-1", &empty], "'-1' is not a duration"),
        (&["-m"], "-m"),
        (&[&empty, "another"], "another"),
    ];
    for (arguments, message) in cases {
        let (status, out, err) = supervise(arguments);
        assert_eq!((status.code(), &*out), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.starts_with("supervise: ") && err.contains(message), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1);
    }
}
