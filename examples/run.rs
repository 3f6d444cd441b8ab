//! Runs a command within bounds, as the shell tool of an agent or a CI system: it does not hang, keeps a bounded amount of
//! output, and leaves no process behind.
//!
//! The command leads a tree, so the processes that it starts end with it. Output is passed on as it arrives, and kept up to a
//! limit. A report says how the command ended. (If the reader of this program's output blocks, this program blocks.)

mod common;

use common::{duration, outcome, size};
use lexopt::{Arg, Parser, ValueExt};
use serde_json::{Value, json};
use shared_child::{
    CaptureOptions, Captured, CapturedStream, Limit, SharedChild, SpawnOptions, Spilled, StoppedBy,
    Stream, StreamEnd, Usage,
};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::process::{self, Command, ExitStatus};
use std::time::{Duration, Instant};

/// The longest file.
const SPILL_CAP: u64 = 1 << 30;

const STOPPED: i32 = 124;
const FAILED: i32 = 125;
const CANNOT_INVOKE: i32 = 126;
const NOT_FOUND: i32 = 127;

const HELP: &str = "\
Usage: run [OPTION]... [--] COMMAND [ARG]...
Run COMMAND within bounds, and report how it ended.

  --timeout DURATION   stop COMMAND if it still runs after DURATION
  --idle DURATION      stop COMMAND if it has written nothing and used no
                       processor time for DURATION
  --grace DURATION     when stopping COMMAND, request it to terminate, and kill
                       it after DURATION (default 1s)
  --drain DURATION     after COMMAND has ended, wait at most DURATION for other
                       processes that hold its output open (default 200ms)
  --limit SIZE         keep SIZE bytes of each stream, half from the beginning
                       and half from the end (default 64k)
  --stop-at-limit      stop COMMAND when it has written more than the limit
  --spill PREFIX       write a stream that exceeds the limit to the new file
                       PREFIX.stdout or PREFIX.stderr, at most 1g
  --stdin FILE         use FILE as the standard input (default: none)
  --merge              merge standard error into standard output
  --json               report one JSON object, with the output, on standard
                       output; all output of COMMAND goes to standard error
  -h, --help           show this help

DURATION is a number with an optional unit: ms, s (the default), m or h.
SIZE is a number of bytes with an optional unit: k, m or g.

Exit status: that of COMMAND, or 128 plus the signal that killed it; 124 if it
was stopped, 125 if run itself failed, 126 if COMMAND cannot be invoked, 127 if
it is not found.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some(options)) => run(&options).unwrap_or_else(|error| {
            say(format_args!("{error}"));
            error.status
        }),
        Ok(None) => match writeln!(io::stdout(), "{HELP}") {
            Ok(()) => 0,
            Err(_) => FAILED,
        },
        Err(error) => {
            say(format_args!("{error}\nTry 'run --help' for more information."));
            FAILED
        }
    })
}

struct Options {
    timeout: Option<Duration>,
    idle: Option<Duration>,
    grace: Duration,
    drain: Option<Duration>,
    limit: usize,
    stop_at_limit: bool,
    spill: Option<OsString>,
    stdin: Option<OsString>,
    merge: bool,
    json: bool,
    command: OsString,
    args: Vec<OsString>,
}

fn parse(mut parser: Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut timeout, mut idle) = (None, None);
    let (mut grace, mut drain) = (Duration::from_secs(1), None);
    let (mut limit, mut stop_at_limit, mut stdin) = (64 << 10, false, None);
    let (mut merge, mut json, mut spill) = (false, false, None);
    // The arguments after the command belong to the command.
    let command = loop {
        match parser.next()?.ok_or("COMMAND is missing")? {
            Arg::Long("timeout") => timeout = Some(parser.value()?.parse_with(duration)?),
            Arg::Long("idle") => idle = Some(parser.value()?.parse_with(duration)?),
            Arg::Long("grace") => grace = parser.value()?.parse_with(duration)?,
            Arg::Long("drain") => drain = Some(parser.value()?.parse_with(duration)?),
            Arg::Long("limit") => limit = parser.value()?.parse_with(size)?,
            Arg::Long("stop-at-limit") => stop_at_limit = true,
            Arg::Long("spill") => spill = Some(parser.value()?),
            Arg::Long("stdin") => stdin = Some(parser.value()?),
            Arg::Long("merge") => merge = true,
            Arg::Long("json") => json = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(command) => break command,
            other => return Err(other.unexpected()),
        }
    };
    let args = parser.raw_args()?.collect();
    Ok(Some(Options {
        timeout,
        idle,
        grace,
        drain,
        limit,
        stop_at_limit,
        spill,
        stdin,
        merge,
        json,
        command,
        args,
    }))
}

struct Error {
    status: i32,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |error| Error { status: FAILED, message: format!("{what}: {error}") }
}

fn run(options: &Options) -> Result<i32, Error> {
    let mut capture = CaptureOptions::new();
    capture.grace(options.grace).stop_at_limit(options.stop_at_limit).merge_stderr(options.merge);
    capture.limit(Limit::head_and_tail(options.limit / 2, options.limit.div_ceil(2)));
    if let Some(timeout) = options.timeout {
        capture.timeout(timeout);
    }
    if let Some(idle) = options.idle {
        capture.idle_timeout(idle).idle_unless_busy(true);
    }
    if let Some(drain) = options.drain {
        capture.drain(drain);
    }
    if let Some(prefix) = &options.spill {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut path = prefix.clone();
            path.push(format!(".{stream}"));
            capture.spill(stream, path, SPILL_CAP);
        }
    }
    if let Some(path) = &options.stdin {
        let file = File::open(path).map_err(failed(path.to_string_lossy()))?;
        capture.stdin_from(file);
    }
    capture.on_output(|stream, bytes| pass_on(stream, bytes, options.json));

    let name = options.command.to_string_lossy();
    let mut command = Command::new(&options.command);
    command.args(&options.args);
    let mut spawn = SpawnOptions::new();
    spawn.tree(true).kill_on_drop(true).kill_with_parent(true);
    let child = spawn.spawn_piped(&mut command, &capture).map_err(|error| Error {
        status: if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_INVOKE },
        message: format!("cannot run '{name}': {error}"),
    })?;
    let captured = child.capture(&mut capture).map_err(failed("cannot read the output"))?;
    let survivors = kill_the_survivors(&child).map_err(failed("cannot kill what is left"))?;
    if options.json {
        let report = report_json(&captured, &survivors);
        writeln!(io::stdout(), "{report}").map_err(failed("cannot report"))?;
    } else {
        report(&captured, &survivors);
    }
    Ok(exit_status(&captured))
}

/// Writes output of the command. If that fails, the command is stopped.
fn pass_on(stream: Stream, bytes: &[u8], all_to_stderr: bool) -> ControlFlow<()> {
    let written = match stream {
        Stream::Stdout if !all_to_stderr => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        _ => io::stderr().write_all(bytes),
    };
    if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

struct Survivor {
    id: u32,
    name: Option<String>,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

/// Returns the name of a process on Linux.
fn name(id: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn kill_the_survivors(child: &SharedChild) -> io::Result<Vec<Survivor>> {
    let tree = child.tree().expect("a tree");
    let survivors = match tree.processes() {
        Ok(ids) => ids.into_iter().map(|id| Survivor { id, name: name(id) }).collect(),
        // A tree can be killed even if the system cannot list its members.
        Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
        Err(error) => return Err(error),
    };
    tree.kill()?;
    match tree.wait_empty(Instant::now().checked_add(Duration::from_secs(1))) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        result => _ = result?,
    }
    Ok(survivors)
}

fn report(captured: &Captured, survivors: &[Survivor]) {
    say(format_args!("{}", outcome(captured)));
    say(format_args!("took {:.3} s", captured.elapsed.as_secs_f64()));
    if let Some(Usage { user, system, peak_memory, .. }) = captured.usage {
        let (user, system) = (user.as_secs_f64(), system.as_secs_f64());
        let memory = peak_memory.map_or_else(String::new, |bytes| {
            format!("; {:.1} MiB at most", bytes as f64 / f64::from(1 << 20))
        });
        say(format_args!("CPU {user:.3} s and {system:.3} s in the kernel{memory}"));
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        let CapturedStream { total, omitted, end, spilled, .. } = captured.stream(stream);
        if *end != StreamEnd::NotCaptured {
            let omitted =
                if *omitted > 0 { format!(", {omitted} not kept") } else { String::new() };
            let held = match end {
                StreamEnd::HeldOpen => ", held open by another process",
                _ => "",
            };
            let spilled = spilled.as_ref().map_or_else(String::new, describe_file);
            say(format_args!("{stream}: {total} bytes{omitted}{spilled}{held}"));
        }
    }
    if !survivors.is_empty() {
        let all: Vec<String> = survivors.iter().map(Survivor::to_string).collect();
        say(format_args!("left running, and killed: {}", all.join(", ")));
    }
}

fn describe_file(spilled: &Spilled) -> String {
    let bytes = spilled.bytes;
    match (&spilled.error, &spilled.path) {
        (Some(error), _) => format!(", {bytes} written to a file ({error})"),
        (None, Some(path)) => format!(", {bytes} written to {}", path.display()),
        (None, None) => String::new(),
    }
}

fn report_json(captured: &Captured, survivors: &[Survivor]) -> Value {
    let stream = |stream: &CapturedStream| {
        let end = match stream.end {
            StreamEnd::Closed => "closed",
            StreamEnd::HeldOpen => "held open",
            StreamEnd::NotCaptured => return Value::Null,
            _ => "failed",
        };
        let mut report = json!({
            "text": stream.text(), "bytes": stream.total, "omitted": stream.omitted, "end": end,
        });
        if let Some(spilled) = &stream.spilled {
            report["spilled"] = json!({
                "path": spilled.path.as_ref().map(|path| path.to_string_lossy()),
                "bytes": spilled.bytes,
                "error": spilled.error.as_ref().map(ToString::to_string),
            });
        }
        report
    };
    let stopped_by = captured.stopped_by.map(|why| match why {
        StoppedBy::Deadline => "timeout",
        StoppedBy::Idle => "idle",
        StoppedBy::Limit(_) => "limit",
        StoppedBy::Callback => "output closed",
        _ => "input",
    });
    let (status, usage) = (captured.status, captured.usage);
    json!({
        "ended": outcome(captured),
        "success": captured.success(),
        "code": status.and_then(|status| status.code()),
        "signal": status.and_then(signal),
        "stopped_by": stopped_by,
        "error": captured.error.as_ref().map(ToString::to_string),
        "seconds": captured.elapsed.as_secs_f64(),
        "user_seconds": usage.map(|usage| usage.user.as_secs_f64()),
        "system_seconds": usage.map(|usage| usage.system.as_secs_f64()),
        "peak_memory": usage.and_then(|usage| usage.peak_memory),
        "stdout": stream(&captured.stdout),
        "stderr": stream(&captured.stderr),
        "survivors_killed": survivors
            .iter()
            .map(|survivor| json!({ "pid": survivor.id, "name": survivor.name }))
            .collect::<Vec<_>>(),
    })
}

fn exit_status(captured: &Captured) -> i32 {
    let own = |status: ExitStatus| status.code().or(signal(status).map(|n| 128 + n));
    match (captured.stopped_by, captured.status.and_then(own)) {
        (Some(_), _) => STOPPED,
        (None, Some(status)) => status,
        (None, None) => FAILED,
    }
}

fn say(line: fmt::Arguments<'_>) {
    // There is no place to report an error of standard error.
    let _ = writeln!(io::stderr(), "run: {line}");
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}
