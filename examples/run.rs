//! Runs a command within bounds, as an agent or a CI system wants it of its shell tool: it cannot hang, cannot flood,
//! and leaves nobody behind.
//!
//! The command is a tree, so all that it starts ends with it. What it writes is passed on as it comes, and kept up
//! to a limit. A report says how it ended. (Whoever is passed the output is waited for: a pager, say, that stands still.)

use lexopt::{Arg, Parser, ValueExt};
use serde_json::{Value, json};
use shared_child::{
    CaptureOptions, Captured, CapturedStream, Limit, SharedChild, SpawnOptions, StoppedBy, Stream,
    StreamEnd, Usage,
};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::process::{self, Command, ExitStatus};
use std::time::{Duration, Instant};

const STOPPED: i32 = 124;
const FAILED: i32 = 125;
const CANNOT_INVOKE: i32 = 126;
const NOT_FOUND: i32 = 127;

const HELP: &str = "\
Usage: run [OPTION]... [--] COMMAND [ARG]...
Run COMMAND within bounds, and report how it ended.

  --timeout DURATION   stop it if it still runs after this
  --grace DURATION     when it is stopped, ask first, and kill after this
                       (default 1s)
  --drain DURATION     when it has ended, wait this long for others who hold
                       its output open (default 200ms)
  --limit SIZE         keep so much of each stream, half of it from the
                       beginning and half from the end (default 64k)
  --stop-at-limit      stop it when it has written more than that
  --stdin FILE         feed it with this file (default: nothing)
  --merge              one stream for output and errors, in their order
  --json               report one JSON object on standard output, which has
                       the output in it; what is passed on as it comes goes to
                       standard error
  -h, --help           show this help

DURATION is a number with an optional unit: ms, s (the default), m or h.
SIZE is a number of bytes with an optional unit: k, m or g.

Exit status: that of COMMAND, or 128 and the signal that has killed it; 124 if
it was stopped, 125 if run itself failed, 126 if COMMAND cannot be invoked, 127
if it is not found.";

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
    grace: Duration,
    drain: Option<Duration>,
    limit: usize,
    stop_at_limit: bool,
    stdin: Option<OsString>,
    merge: bool,
    json: bool,
    command: OsString,
    args: Vec<OsString>,
}

fn parse(mut parser: Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut timeout, mut grace, mut drain) = (None, Duration::from_secs(1), None);
    let (mut limit, mut stop_at_limit, mut stdin) = (64 << 10, false, None);
    let (mut merge, mut json) = (false, false);
    // Our own options end at the command: all that follows it belongs to it.
    let command = loop {
        match parser.next()?.ok_or("no COMMAND is given")? {
            Arg::Long("timeout") => timeout = Some(parser.value()?.parse_with(duration)?),
            Arg::Long("grace") => grace = parser.value()?.parse_with(duration)?,
            Arg::Long("drain") => drain = Some(parser.value()?.parse_with(duration)?),
            Arg::Long("limit") => limit = parser.value()?.parse_with(size)?,
            Arg::Long("stop-at-limit") => stop_at_limit = true,
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
        grace,
        drain,
        limit,
        stop_at_limit,
        stdin,
        merge,
        json,
        command,
        args,
    }))
}

fn duration(text: &str) -> Result<Duration, String> {
    let number = with_unit(text, &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]);
    let duration = number.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| format!("'{text}' is no duration"))
}

fn size(text: &str) -> Result<usize, String> {
    let units = [("k", 1024.0), ("m", 1024.0 * 1024.0), ("g", 1024.0 * 1024.0 * 1024.0)];
    let size = with_unit(&text.to_ascii_lowercase(), &units);
    let fits = |size: &f64| (0.0..9e15).contains(size);
    size.filter(fits).map(|size| size as usize).ok_or_else(|| format!("'{text}' is no size"))
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let split = |(name, unit): &(&str, f64)| Some((text.strip_suffix(name)?, *unit));
    let (number, unit) = units.iter().find_map(split).unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|number| number * unit)
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
    if let Some(drain) = options.drain {
        capture.drain(drain);
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

/// If nobody reads what we write, there is no point in going on.
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

/// What Linux calls the process.
fn name(id: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn kill_the_survivors(child: &SharedChild) -> io::Result<Vec<Survivor>> {
    let tree = child.tree().expect("it was spawned as one");
    let survivors = match tree.processes() {
        Ok(ids) => ids.into_iter().map(|id| Survivor { id, name: name(id) }).collect(),
        // Where the system does not tell who is in a tree, it can still be killed.
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
    say(format_args!("{}", how_it_ended(captured)));
    say(format_args!("took {:.3} s", captured.elapsed.as_secs_f64()));
    if let Some(Usage { user, system, peak_memory, .. }) = captured.usage {
        let (user, system) = (user.as_secs_f64(), system.as_secs_f64());
        let memory = peak_memory.map_or_else(String::new, |bytes| {
            format!("; {:.1} MiB at most", bytes as f64 / f64::from(1 << 20))
        });
        say(format_args!("CPU {user:.3} s and {system:.3} s in the kernel{memory}"));
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        let CapturedStream { total, omitted, end, .. } = captured.stream(stream);
        if *end != StreamEnd::NotCaptured {
            let omitted =
                if *omitted > 0 { format!(", {omitted} not kept") } else { String::new() };
            let held = match end {
                StreamEnd::HeldOpen => ", held open by somebody after the end",
                _ => "",
            };
            say(format_args!("{stream}: {total} bytes{omitted}{held}"));
        }
    }
    if !survivors.is_empty() {
        let all: Vec<String> = survivors.iter().map(Survivor::to_string).collect();
        say(format_args!("left running, and killed: {}", all.join(", ")));
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
        json!({ "text": stream.text(), "bytes": stream.total, "omitted": stream.omitted, "end": end })
    };
    let stopped_by = captured.stopped_by.map(|why| match why {
        StoppedBy::Deadline => "timeout",
        StoppedBy::Limit(_) => "limit",
        StoppedBy::Callback => "output closed",
        _ => "input",
    });
    let (status, usage) = (captured.status, captured.usage);
    json!({
        "ended": how_it_ended(captured),
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

fn how_it_ended(captured: &Captured) -> String {
    let mut text = match captured.status {
        Some(status) => status.to_string(),
        None => "no status".to_owned(),
    };
    if let Some(why) = captured.stopped_by {
        text = format!("stopped, since {why}: {text}");
    }
    if let Some(error) = &captured.error {
        text = format!("{text} ({error})");
    }
    text
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
    // If there is nobody to be told, it cannot be helped.
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
