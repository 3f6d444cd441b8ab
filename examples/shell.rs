//! A tool server for an AI agent: it runs commands on request, several at once, and converses with them. It reads requests
//! from standard input and writes answers to standard output. No process that it starts outlives it, however it ends.
//!
//! # Protocol
//!
//! Each request and each answer is one JSON object on one line. The `id` of a request, any JSON value, is that of its answer.
//! An answer has a `result` or an `error`, which is a text for people and models: the operation, the cause, the remedy.
//!
//! ```json
//! {"id":1,"op":"start","command":["python3","-i"],"stdin":true,"merge_stderr":true}
//! {"id":1,"result":{"child":1,"pid":4711}}
//! {"id":2,"op":"read","child":1,"pattern":">>> ","timeout_ms":5000}
//! {"id":2,"result":{"output":[{"stream":"stdout","text":"Python 3.13.5\n>>> "}],"reached":"pattern","running":true}}
//! {"id":3,"op":"write","child":1,"data":"6 * 7\n"}
//! {"id":3,"result":{"written":6}}
//! {"id":4,"op":"read","child":1,"line":true}
//! {"id":4,"result":{"output":[{"stream":"stdout","text":"42\n"}],"reached":"line","running":true}}
//! {"id":5,"op":"read","child":2}
//! {"error":"cannot serve `read`: there is no child 2; `list` returns the children","id":5}
//! ```
//!
//! | `op` | fields | result |
//! |---|---|---|
//! | `start` | `command` and options | `child`, a number for the other operations; `pid` |
//! | `read` | `child`, conditions, `timeout_ms` (default 60000) | `output`, `reached`, `running`, `status` |
//! | `write` | `child`, `data`, `timeout_ms` (default 60000) | `written`: the number of bytes, not all if the time was over |
//! | `close_stdin` | `child` | nothing |
//! | `signal` | `child`, `signal`: a name such as `INT`, or a number | nothing |
//! | `stop` | `child`, `grace_ms` (default: `--grace`) | that of a last `read` |
//! | `list` | | `children`: a list of `child`, `command`, `pid`, `running`, `status`, `processes`, `stdin`, `unread` |
//!
//! **A start** has a `command`, which is a line for the shell, or a list of a program and its arguments. Its options:
//!
//! - `directory`; `environment`, an object of variables, of which `null` removes one;
//! - `stdin`: with `true` the command has an input to write to, otherwise none;
//! - `merge_stderr`: with `true` both streams are `stdout`, in the exact order;
//! - `timeout_ms`, `idle_ms`: stop the command after this time, or if it has neither written nor read for this time;
//! - `limit`: the most bytes of each stream in one answer (default 65536); `background`: see below.
//!
//! **A read** returns at the first condition that is met: a `line`, if `true`; a `pattern`, or one of a list; a number of
//! `bytes`; no output for `quiet_ms` after some output; no output for `silent_ms` at all; the timeout, which stops nothing; or
//! the end, when the command and its output have ended. A line, a pattern or a number of bytes ends exactly there, and what
//! follows is for the next read; with `stream`, `stdout` or `stderr`, they are sought there alone.
//!
//! In the result, `reached` is `line`, `pattern`, `bytes`, `quiet`, `deadline`, `end`, `line_piece` if the line is longer
//! than 64 KiB, or `omitted` if output was omitted before the read, so that no line is complete. If `running` is false,
//! `status` has a `code` or a `signal`, and a `text`. At the end, `stopped_by` says why the server stopped the command
//! (`timeout`, `idle`), and `held_open` whether another process still has its output open.
//!
//! **Output** is a list of parts, in the order of their arrival as far as the system reports it. A part that is not UTF-8 has
//! the exact bytes in `hex`, and U+FFFD in their places in `text`. (A read can end within a character.) Where an answer would
//! exceed the limit, a part has the number of bytes that were `omitted`: half of the limit is kept from the beginning, half
//! from the end. In a request, `data` and `pattern` are texts, or objects such as `{"hex":"00ff"}`.
//!
//! **Between reads** the output is read on, and kept within the limit, so the command need not wait for the agent. With
//! `"background":false` it waits when its pipe is full, except during a `write`. So reads of at most `limit` `bytes` lack
//! nothing. In a `list`, `unread` is the number of bytes that no read has returned, and `stdin` is whether the command has an
//! open input.
//!
//! **Order**: requests are served at the same time, and answered in any order. Only `start` is served before the next request
//! is read, and the writes of a child (with `close_stdin`) are served in their order. Where order matters otherwise, await the
//! answer. Reads of one child take turns, and each keeps its timeout, which counts from its arrival.
//!
//! **Stop**: every process that the command has started is requested to terminate, and killed when the grace is over. A child
//! stays until it is stopped, even if its command has ended: it may have left processes running, which `stop` ends too.
//!
//! **The end** of standard input, SIGTERM, SIGINT, SIGHUP, or answers that cannot be written stop all commands at the same
//! time. Pending requests are then answered. A second signal, SIGKILL or a crash of the server kills all at once.
//!
//! # Notes
//!
//! The commands have no terminal. A shell that finds the server's own terminal waits for its foreground, so type to
//! `["sh","+m","-i"]`: without job control. Windows has no signals.

mod common;

use common::duration;
use lexopt::{Arg, Parser, ValueExt};
use serde_json::{Map, Value, json};
use shared_child::{
    Capture, CaptureOptions, ChildSet, ChildState, Chunk, Limit, Part, Reached, SharedChild,
    SpawnOptions, StoppedBy, Stream, StreamEnd, Until,
};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::process::{self, Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

/// The most children, pending requests, bytes of a request, and bytes of each stream in an answer.
const MOST_CHILDREN: usize = 64;
const MOST_PENDING: usize = 64;
const LONGEST_REQUEST: usize = 1 << 20;
const HIGHEST_LIMIT: usize = 16 << 20;

const DEFAULT_LIMIT: usize = 64 << 10;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A day. Longer times are not accepted, so that no instant is too late for the clock.
const LONGEST_TIME: u64 = 86_400_000;

/// How long pending answers may take after all commands have ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The operations and their fields.
const OPERATIONS: [(&str, &str); 7] = [
    (
        "start",
        "id, op, command, directory, environment, stdin, merge_stderr, timeout_ms, idle_ms, limit, \
         background",
    ),
    ("read", "id, op, child, line, pattern, bytes, quiet_ms, silent_ms, stream, timeout_ms"),
    ("write", "id, op, child, data, timeout_ms"),
    ("close_stdin", "id, op, child"),
    ("signal", "id, op, child, signal"),
    ("stop", "id, op, child, grace_ms"),
    ("list", "id, op"),
];

const HELP: &str = "\
Usage: shell [OPTION]...
Run commands on request, and converse with them. Requests are JSON objects on
standard input, one per line; answers are JSON objects on standard output. The
beginning of the source (examples/shell.rs) describes the protocol.

  -g, --grace=DURATION     when stopping a command, request it to terminate, and
                           kill it after DURATION (default 2s)
  -h, --help               show this help

All commands are stopped at the end of standard input, and when a signal ends
this program. They are killed if this program is killed.

DURATION is a decimal number with an optional unit: ms, s (the default), m or h.

Exit status: 0 after the end of standard input, 1 if it cannot be read or the
answers cannot be written, 2 if an option is wrong, 128 plus the number of the
signal that stopped it.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some(grace)) => run(grace).unwrap_or_else(|error| {
            say(format_args!("cannot serve requests: {error}"));
            1
        }),
        Ok(None) => i32::from(writeln!(io::stdout(), "{HELP}").is_err()),
        Err(error) => {
            say(format_args!("{error}; try --help"));
            2
        }
    })
}

/// Returns `None` for `--help`.
fn parse(mut parser: Parser) -> Result<Option<Duration>, lexopt::Error> {
    let mut grace = Duration::from_secs(2);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('g') | Arg::Long("grace") => {
                grace = parser.value()?.parse_with(duration)?;
            }
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(grace))
}

fn run(grace: Duration) -> io::Result<i32> {
    let server = Arc::new(Server {
        grace,
        state: Mutex::default(),
        answered: Condvar::new(),
        trees: ChildSet::new(),
    });
    // Catch signals before the first command starts.
    platform::on_signals(Arc::clone(&server))?;
    let read = server.read_requests();
    server.stop_all();
    server.await_answers();
    read.map(|()| 0)
}

/// The result of a request, or the cause and the remedy of its failure.
type Answer = Result<Value, String>;

type Work = Box<dyn FnOnce() -> Answer + Send>;

type Job = Box<dyn FnOnce() + Send>;

/// How a request is served. The thread that reads requests does nothing that may take long.
enum Task {
    Done(Value),
    /// On a thread of its own.
    Blocks(Work),
    /// On the thread that writes to this child.
    Writes(Arc<Child>, Work),
}

struct Server {
    grace: Duration,
    state: Mutex<State>,
    /// Notified when no request is pending.
    answered: Condvar,
    /// All children, to stop them at the same time.
    trees: ChildSet<u64>,
}

#[derive(Default)]
struct State {
    is_ending: bool,
    children: BTreeMap<u64, Arc<Child>>,
    last_child: u64,
    /// The number of requests that threads serve.
    pending: usize,
}

struct Child {
    number: u64,
    command: Value,
    process: Arc<SharedChild>,
    capture: Capture<'static>,
    /// To the thread that writes. `None` without an input.
    writes: Option<Sender<Job>>,
}

impl Server {
    /// Serves requests until the end of standard input.
    fn read_requests(self: &Arc<Self>) -> io::Result<()> {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            stdin.by_ref().take(LONGEST_REQUEST as u64).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            if line.len() == LONGEST_REQUEST && !line.ends_with(b"\n") {
                stdin.skip_until(b'\n')?;
                let origin = Origin::default();
                let error = format!("it is longer than {LONGEST_REQUEST} bytes; send less at once");
                self.answer(&origin, Err(error));
            } else if !line.trim_ascii().is_empty() {
                self.serve(&line);
            }
        }
    }

    fn serve(self: &Arc<Self>, line: &[u8]) {
        let mut origin = Origin::default();
        let task = Request::parse(line, &mut origin).and_then(|request| self.task(&request));
        match task {
            Ok(Task::Done(result)) => self.answer(&origin, Ok(result)),
            Ok(Task::Blocks(work)) => {
                self.dispatch(origin, work, |job| thread::Builder::new().spawn(job).is_ok());
            }
            Ok(Task::Writes(child, work)) => match &child.writes {
                Some(writes) => self.dispatch(origin, work, |job| writes.send(job).is_ok()),
                None => {
                    let error = format!(
                        "child {} has no input; start it with \"stdin\":true",
                        child.number
                    );
                    self.answer(&origin, Err(error));
                }
            },
            Err(error) => self.answer(&origin, Err(error)),
        }
    }

    fn task(self: &Arc<Self>, request: &Request) -> Result<Task, String> {
        let server = Arc::clone(self);
        if request.operation == "start" {
            return self.start(request).map(Task::Done);
        } else if request.operation == "list" {
            return Ok(Task::Blocks(Box::new(move || Ok(server.list()))));
        }
        let child = self.child(request)?;
        Ok(match request.operation {
            "read" => {
                let until = until(request)?;
                Task::Blocks(Box::new(move || Ok(child.read(until))))
            }
            "write" => {
                let data = request.get("data", "a text, or {\"hex\":\"00ff\"}", bytes)?;
                let data = data.ok_or("`data` is missing; use a text")?;
                let timeout = request.time("timeout_ms")?.unwrap_or(DEFAULT_TIMEOUT);
                let deadline = Instant::now() + timeout;
                let writer = Arc::clone(&child);
                Task::Writes(child, Box::new(move || writer.write(&data, deadline)))
            }
            "close_stdin" => {
                let writer = Arc::clone(&child);
                Task::Writes(child, Box::new(move || writer.close_stdin()))
            }
            "signal" => {
                let signal = request.get("signal", "a name or a number", platform::signal)?;
                let signal = signal.ok_or("`signal` is missing; use a name such as INT")?;
                Task::Blocks(Box::new(move || child.signal(signal)))
            }
            _ => {
                let grace = request.time("grace_ms")?.unwrap_or(self.grace);
                Task::Blocks(Box::new(move || server.stop(&child, grace)))
            }
        })
    }

    /// Serves a request on another thread.
    fn dispatch(self: &Arc<Self>, origin: Origin, work: Work, run: impl FnOnce(Job) -> bool) {
        let mut state = lock(&self.state);
        if state.pending == MOST_PENDING {
            drop(state);
            let error = format!("{MOST_PENDING} requests are pending; await their answers first");
            return self.answer(&origin, Err(error));
        }
        state.pending += 1;
        drop(state);
        let (server, its_origin) = (Arc::clone(self), origin.clone());
        let job = move || {
            server.answer(&its_origin, work());
            server.is_answered();
        };
        if !run(Box::new(job)) {
            self.answer(&origin, Err("no thread can be started; try again later".to_owned()));
            self.is_answered();
        }
    }

    fn is_answered(&self) {
        lock(&self.state).pending -= 1;
        self.answered.notify_all();
    }

    fn answer(&self, origin: &Origin, answer: Answer) {
        let answer = match answer {
            Ok(result) => json!({ "id": origin.id, "result": result }),
            Err(error) => {
                json!({ "id": origin.id, "error": format!("cannot serve {}: {error}", origin.what()) })
            }
        };
        let line = format!("{answer}\n");
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        drop(stdout);
        if let Err(error) = written {
            // No process reads the answers.
            say(format_args!("cannot write an answer: {error}"));
            self.stop_all();
            process::exit(1);
        }
    }

    fn child(&self, request: &Request) -> Result<Arc<Child>, String> {
        const NUMBER: &str = "the number that `start` returned";
        let number = request.get("child", NUMBER, Value::as_u64)?;
        let number = number.ok_or_else(|| format!("`child` is missing; use {NUMBER}"))?;
        let child = lock(&self.state).children.get(&number).map(Arc::clone);
        child.ok_or_else(|| format!("there is no child {number}; `list` returns the children"))
    }

    fn start(&self, request: &Request) -> Answer {
        let mut command = command(request)?;
        let limit = request.count("limit", HIGHEST_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let mut options = CaptureOptions::new();
        options.limit(Limit::head_and_tail(limit / 2, limit.div_ceil(2))).grace(self.grace);
        options.merge_stderr(request.flag("merge_stderr", false)?);
        if let Some(timeout) = request.time("timeout_ms")? {
            options.timeout(timeout);
        }
        if let Some(idle) = request.time("idle_ms")? {
            options.idle_timeout(idle);
        }
        let has_input = request.flag("stdin", false)?;
        if has_input {
            options.stdin_open();
        }
        let background = request.flag("background", true)?;

        // Under the lock, so either the end of the server finds the child, or this finds the end.
        let mut state = lock(&self.state);
        if state.is_ending {
            return Err("the server is ending; start another".to_owned());
        }
        if state.children.len() == MOST_CHILDREN {
            return Err(format!("there are {MOST_CHILDREN} children; stop one first"));
        }
        let failed = |error| format!("{error}; check `command` and `directory`");
        let mut spawn = SpawnOptions::new();
        spawn.tree(true).kill_on_drop(true).kill_with_parent(true);
        let process = Arc::new(spawn.spawn_piped(&mut command, &options).map_err(failed)?);
        let capture = Capture::new(Arc::clone(&process), &mut options).map_err(failed)?;
        if background {
            capture.read_in_background().map_err(failed)?;
        }
        let writes = has_input.then(start_writing).transpose().map_err(failed)?;
        state.last_child += 1;
        let number = state.last_child;
        self.trees.insert(number, Arc::clone(&process));
        let result = json!({ "child": number, "pid": process.id() });
        let command = request.fields["command"].clone();
        let child = Child { number, command, process, capture, writes };
        state.children.insert(number, Arc::new(child));
        Ok(result)
    }

    fn list(&self) -> Value {
        let children: Vec<_> = lock(&self.state).children.values().map(Arc::clone).collect();
        let children: Vec<_> = children.iter().map(|child| child.describe()).collect();
        json!({ "children": children })
    }

    fn stop(&self, child: &Child, grace: Duration) -> Answer {
        child.process.stop(grace).map_err(|error| format!("{error}; try again"))?;
        lock(&self.state).children.remove(&child.number);
        self.trees.remove(&child.number);
        Ok(child.read(Until::end()))
    }

    /// Stops all commands at the same time. None starts any more.
    fn stop_all(&self) {
        lock(&self.state).is_ending = true;
        if let Err(error) = self.trees.stop_all(self.grace) {
            say(format_args!("cannot stop all commands: {error}"));
        }
    }

    /// Waits until the pending requests are answered. Their commands have ended, but the agent need not read the answers.
    fn await_answers(&self) {
        let state = lock(&self.state);
        drop(self.answered.wait_timeout_while(state, LAST_ANSWERS, |state| state.pending > 0));
    }
}

impl Child {
    fn read(&self, until: Until) -> Value {
        let chunk = self.capture.read(until);
        let mut result = json!({
            "reached": name(chunk.reached),
            "running": chunk.state == ChildState::Running,
            "output": output(&chunk),
        });
        if let ChildState::Ended(status) = chunk.state {
            result["status"] = describe_status(status);
        }
        if chunk.reached == Reached::End {
            result["stopped_by"] = json!(chunk.stopped_by.map(|why| match why {
                StoppedBy::Deadline => "timeout".to_owned(),
                StoppedBy::Idle => "idle".to_owned(),
                other => other.to_string(),
            }));
            let ends = [chunk.stdout.end, chunk.stderr.end];
            result["held_open"] = json!(ends.contains(&StreamEnd::HeldOpen));
            // The capture is over, so this does not wait.
            if let Some(error) = self.capture.finish().error {
                result["failure"] = json!(error.to_string());
            }
        }
        result
    }

    fn close_stdin(&self) -> Answer {
        self.capture.close_stdin();
        Ok(json!({}))
    }

    fn write(&self, data: &[u8], deadline: Instant) -> Answer {
        let written = self.capture.write_deadline(data, deadline);
        let written = written.map_err(|error| format!("{error}; `read` what it has written"))?;
        Ok(json!({ "written": written }))
    }

    fn signal(&self, signal: platform::Signal) -> Answer {
        platform::send(&self.process, signal)
            .map_err(|error| format!("{error}; use another signal"))?;
        Ok(json!({}))
    }

    fn describe(&self) -> Value {
        let processes = self.process.tree().and_then(|tree| tree.processes().ok());
        let mut child = json!({
            "child": self.number,
            "pid": self.process.id(),
            "command": self.command,
            "running": false,
            "status": null,
            "processes": processes,
            "stdin": self.capture.is_stdin_open(),
            "unread": self.capture.unread(),
        });
        match self.process.try_wait() {
            Ok(None) => child["running"] = json!(true),
            Ok(status) => child["status"] = describe_status(status),
            Err(error) => child["failure"] = json!(error.to_string()),
        }
        child
    }
}

/// Starts the thread that writes to a child. It ends with the sender.
fn start_writing() -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().spawn(move || jobs.into_iter().for_each(|job| job()))?;
    Ok(sender)
}

fn name(reached: Reached) -> &'static str {
    match reached {
        Reached::End => "end",
        Reached::Line => "line",
        Reached::LinePiece => "line_piece",
        Reached::Pattern => "pattern",
        Reached::Bytes => "bytes",
        Reached::Quiet => "quiet",
        Reached::Deadline => "deadline",
        Reached::Omitted => "omitted",
        _ => "other",
    }
}

/// Returns the parts of a chunk, and its gaps.
fn output(chunk: &Chunk) -> Vec<Value> {
    let parts = chunk.parts().map(|part| match part {
        Part::Omitted(stream, count) => json!({ "stream": stream.to_string(), "omitted": count }),
        Part::Bytes(stream, bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let mut part = json!({ "stream": stream.to_string(), "text": text });
            if std::str::from_utf8(bytes).is_err() {
                part["hex"] = json!(to_hex(bytes));
            }
            part
        }
    });
    parts.collect()
}

fn describe_status(status: Option<ExitStatus>) -> Value {
    let Some(status) = status else { return Value::Null };
    json!({
        "code": status.code(),
        "signal": platform::signal_of(status),
        "text": status.to_string(),
    })
}

/// What an answer repeats of its request, and what an error names.
#[derive(Clone, Default)]
struct Origin {
    id: Value,
    operation: Option<&'static str>,
}

impl Origin {
    fn what(&self) -> String {
        self.operation.map_or("the request".to_owned(), |operation| format!("`{operation}`"))
    }
}

struct Request {
    operation: &'static str,
    fields: Map<String, Value>,
}

impl Request {
    /// Notes in `origin` what is known of the request, even if it is wrong.
    fn parse(line: &[u8], origin: &mut Origin) -> Result<Self, String> {
        const FORM: &str = "send one JSON object per line, such as {\"id\":1,\"op\":\"list\"}";
        let value = serde_json::from_slice(line);
        let value = value.map_err(|error| format!("it is not JSON ({error}); {FORM}"))?;
        let Value::Object(mut fields) = value else {
            return Err(format!("it is not an object; {FORM}"));
        };
        origin.id = fields.remove("id").unwrap_or_default();
        let operation = fields.remove("op").unwrap_or_default();
        let Some((operation, known)) = OPERATIONS.iter().find(|(name, _)| operation == *name)
        else {
            let names: Vec<_> = OPERATIONS.iter().map(|(name, _)| *name).collect();
            return Err(format!("`op` is no operation; use one of {}", names.join(", ")));
        };
        origin.operation = Some(operation);
        if let Some(name) =
            fields.keys().find(|name| !known.split(", ").any(|known| known == *name))
        {
            return Err(format!("there is no field `{name}`; use no fields but {known}"));
        }
        Ok(Self { operation, fields })
    }

    /// Returns a field. `None` if it is missing or null.
    fn get<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match convert(value) {
                None => Err(format!("`{name}` is invalid; use {expected}")),
                converted => Ok(converted),
            },
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, String> {
        Ok(self.get(name, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    fn count(&self, name: &str, most: usize) -> Result<Option<usize>, String> {
        self.get(name, &format!("a whole number, at most {most}"), |value| {
            let count = usize::try_from(value.as_u64()?).ok()?;
            (count <= most).then_some(count)
        })
    }

    fn time(&self, name: &str) -> Result<Option<Duration>, String> {
        self.get(name, &format!("milliseconds, at most {LONGEST_TIME}"), |value| {
            let milliseconds = value.as_u64().filter(|time| *time <= LONGEST_TIME)?;
            Some(Duration::from_millis(milliseconds))
        })
    }
}

/// Returns the command of a `start`.
fn command(request: &Request) -> Result<Command, String> {
    const FORM: &str = "a line for the shell, or a list of a program and its arguments";
    let command = request.get("command", FORM, |value| {
        if let Some(line) = value.as_str() {
            return Some(platform::shell(line));
        }
        let words: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
        let words = words?;
        let (program, arguments) = words.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments);
        Some(command)
    })?;
    let mut command = command.ok_or_else(|| format!("`command` is missing; use {FORM}"))?;
    let directory =
        request.get("directory", "a path", |value| value.as_str().map(str::to_owned))?;
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    request.get("environment", "an object of texts and null", |value| {
        for (name, value) in value.as_object()? {
            match value {
                Value::Null => command.env_remove(name),
                value => command.env(name, value.as_str()?),
            };
        }
        Some(())
    })?;
    Ok(command)
}

/// Returns the conditions of a `read`.
fn until(request: &Request) -> Result<Until, String> {
    let timeout = request.time("timeout_ms")?.unwrap_or(DEFAULT_TIMEOUT);
    let mut until = Until::timeout(timeout);
    if request.flag("line", false)? {
        until = until.or(Until::line());
    }
    let patterns = request.get(
        "pattern",
        "a text, {\"hex\":\"00ff\"}, or a list of them",
        |value| match value.as_array() {
            Some(patterns) => patterns.iter().map(bytes).collect(),
            None => Some(vec![bytes(value)?]),
        },
    )?;
    for pattern in patterns.unwrap_or_default() {
        until = until.or(Until::pattern(pattern));
    }
    if let Some(count) = request.count("bytes", usize::MAX)? {
        until = until.or(Until::bytes(count));
    }
    if let Some(time) = request.time("quiet_ms")? {
        until = until.or(Until::quiet(time));
    }
    if let Some(time) = request.time("silent_ms")? {
        until = until.or(Until::silent(time));
    }
    let stream = request.get("stream", "stdout or stderr", |value| match value.as_str()? {
        "stdout" => Some(Stream::Stdout),
        "stderr" => Some(Stream::Stderr),
        _ => None,
    })?;
    Ok(match stream {
        Some(stream) => until.of(stream),
        None => until,
    })
}

/// Returns the bytes of a text, or of an object with `hex`.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.len() == 1 => from_hex(object.get("hex")?.as_str()?),
        _ => None,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for digits in text.as_bytes().chunks(2) {
        let [high, low] = digits else { return None };
        let byte = char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?;
        bytes.push(u8::try_from(byte).ok()?);
    }
    Some(bytes)
}

/// A panic under the lock cannot leave an incomplete change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(message: fmt::Arguments) {
    // There is no place to report an error of standard error.
    let _ = io::stderr().write_all(format!("shell: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Arc, Command, ExitStatus, Server, SharedChild, Value, io, process, thread};
    use crate::common::is_ignored;
    use signal_hook::{iterator::Signals, low_level::signal_name};
    use std::os::unix::process::ExitStatusExt;

    pub(super) type Signal = libc::c_int;

    pub(super) fn on_signals(server: Arc<Server>) -> io::Result<()> {
        let mut caught = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        caught.retain(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(caught)?;
        thread::Builder::new().spawn(move || {
            let mut is_ending = false;
            for signal in signals.forever() {
                let server = Arc::clone(&server);
                let end = move || {
                    server.stop_all();
                    server.await_answers();
                    process::exit(128 + signal);
                };
                // This exit kills all commands.
                if is_ending || thread::Builder::new().spawn(end).is_err() {
                    process::exit(128 + signal);
                }
                is_ending = true;
            }
        })?;
        Ok(())
    }

    pub(super) fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        // Without `--`, a line that begins with `-` would be an option.
        command.args(["-c", "--", line]);
        command
    }

    pub(super) fn signal(value: &Value) -> Option<Signal> {
        if let Some(number) = value.as_u64() {
            return Signal::try_from(number).ok();
        }
        let name = value.as_str()?.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        (1..64).find(|number| {
            signal_name(*number).and_then(|known| known.strip_prefix("SIG")) == Some(name)
        })
    }

    pub(super) fn send(child: &SharedChild, signal: Signal) -> io::Result<()> {
        child.tree().map_or(Ok(()), |tree| tree.send_signal(signal))
    }

    pub(super) fn signal_of(status: ExitStatus) -> Option<Signal> {
        status.signal()
    }
}

#[cfg(not(unix))]
mod platform {
    use super::{Arc, Command, ExitStatus, Server, SharedChild, Value, io};
    use std::os::windows::process::CommandExt;

    pub(super) type Signal = i32;

    pub(super) fn on_signals(_: Arc<Server>) -> io::Result<()> {
        Ok(())
    }

    /// `cmd /S` removes the outer quotes, and parses the rest by its own rules.
    pub(super) fn shell(line: &str) -> Command {
        let mut command = Command::new("cmd");
        command.raw_arg(format!("/S /C \"{line}\""));
        command
    }

    pub(super) fn signal(_: &Value) -> Option<Signal> {
        Some(0)
    }

    pub(super) fn send(_: &SharedChild, _: Signal) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no signals, but `stop`"))
    }

    pub(super) fn signal_of(_: ExitStatus) -> Option<Signal> {
        None
    }
}
