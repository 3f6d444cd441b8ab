//! Keeps the commands of a file running: `supervise FILE`. A command that ends is restarted after a growing pause. Ctrl-C or
//! SIGTERM stops all commands gracefully, at the same time. No process outlives this program, however it ends. `--help`
//! lists the options.
//!
//! ```text
//! # one command a line
//! server --port 8080 >>server.log 2>&1
//! worker --name 'the first'
//! ```
//!
//! The shell runs each line (`sh -c`, on Windows `cmd /C`), so quotes, variables and redirections work as usual. The shell
//! is at most one more process, and is stopped with the others.
//!
//! How it works:
//!
//! - Each command has a thread, which starts the command and blocks in [`SharedChild::wait`]. Before it restarts the
//!   command, it stops the rest of the tree, which might still use the command's port. So a command must stay in the
//!   foreground: a daemon that it leaves behind is stopped.
//! - The pause is a timed wait for the shutdown. No thread polls.
//! - A shutdown stops the running children through the handles that the threads wait for, with one thread each, since
//!   [`SharedChild::stop`] blocks for up to the grace. A child is spawned and registered under one lock, so either the
//!   shutdown finds the child, or the spawn finds the shutdown.
//! - A second signal stops with a grace of zero: of concurrent stops, the shortest grace counts.
//! - `kill_with_parent` covers the ends that no program can handle: SIGKILL, or a crash.
//!
//! The commands have no input, and on Unix run in the terminal's background. A signal that was ignored when this program
//! started stays ignored, as after `nohup`. On Windows this program does not catch Ctrl-C, which would require another
//! crate: Ctrl-C ends it like a kill, with all trees.
//!
//! Exit status: 0 if a signal stopped it, 1 if it fails, 2 if the file or an option is wrong.

mod common;

use common::duration;
use lexopt::{Arg, Parser, ValueExt};
use shared_child::{SharedChild, SpawnOptions};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

const HELP: &str = "\
Usage: supervise [OPTION]... FILE
Keep the shell commands in FILE running, one per line. Empty lines and lines
that begin with # are ignored.

  -g, --grace=DURATION      on Ctrl-C or SIGTERM, kill the processes that have
                            not ended after DURATION (default 5s); a second
                            signal kills at once
  -p, --pause=DURATION      wait DURATION before the first restart, and twice as
                            long before each further one (default 500ms)
  -m, --max-pause=DURATION  never wait longer than DURATION (default 1m)
  -r, --reset=DURATION      after a run of at least DURATION, start with the
                            first pause again (default 10s)
  -h, --help                show this help

DURATION is a decimal number with an optional unit: ms, s (the default), m or h.

Exit status: 0 if a signal stopped it, 1 if it fails, 2 if FILE or an option is
wrong.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some((options, lines))) => match run(options, lines) {
            Ok(()) => 0,
            Err(error) => fail(1, format_args!("cannot supervise: {error}")),
        },
        Ok(None) => i32::from(writeln!(io::stdout(), "{HELP}").is_err()),
        Err(error) => fail(2, format_args!("{error}")),
    })
}

struct Options {
    grace: Duration,
    pause: Duration,
    max_pause: Duration,
    reset: Duration,
}

/// A command, and the number of its line.
type Line = (usize, String);

/// Returns `None` for `--help`.
fn parse(mut parser: Parser) -> Result<Option<(Options, Vec<Line>)>, lexopt::Error> {
    let seconds = Duration::from_secs;
    let (grace, pause) = (seconds(5), Duration::from_millis(500));
    let mut options = Options { grace, pause, max_pause: seconds(60), reset: seconds(10) };
    let mut file = None;
    while let Some(arg) = parser.next()? {
        let option = match arg {
            Arg::Short('g') | Arg::Long("grace") => &mut options.grace,
            Arg::Short('p') | Arg::Long("pause") => &mut options.pause,
            Arg::Short('m') | Arg::Long("max-pause") => &mut options.max_pause,
            Arg::Short('r') | Arg::Long("reset") => &mut options.reset,
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Value(value) if file.is_none() => {
                file = Some(value);
                continue;
            }
            other => return Err(other.unexpected()),
        };
        *option = parser.value()?.parse_with(duration)?;
    }
    let file = file.ok_or("FILE is missing; try --help")?;
    let lines = fs::read_to_string(&file).map(|text| commands(&text));
    match lines.map_err(|error| format!("{}: {error}", file.to_string_lossy()))? {
        none if none.is_empty() => {
            Err(format!("{}: has no command", file.to_string_lossy()).into())
        }
        lines => Ok(Some((options, lines))),
    }
}

fn commands(text: &str) -> Vec<Line> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim().to_owned()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect()
}

fn run(options: Options, lines: Vec<Line>) -> io::Result<()> {
    let supervisor =
        Arc::new(Supervisor { options, state: Mutex::default(), shutdown: Condvar::new() });
    // Catch signals before the first command starts.
    platform::on_signals(Arc::clone(&supervisor))?;
    let keep = |(number, line): Line| {
        let supervisor = Arc::clone(&supervisor);
        thread::Builder::new().spawn(move || supervisor.keep(number, &line))
    };
    // If a thread cannot be started, this program ends, and with it the commands that run.
    let keepers = lines.into_iter().map(keep).collect::<io::Result<Vec<_>>>()?;
    for keeper in keepers {
        keeper.join().map_err(|_| io::Error::other("a thread panicked"))?;
    }
    Ok(())
}

struct Supervisor {
    options: Options,
    state: Mutex<State>,
    /// Notified when `stopping` is set.
    shutdown: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// The last child of each line.
    started: BTreeMap<usize, Arc<SharedChild>>,
}

impl Supervisor {
    /// Keeps a command running until the shutdown.
    fn keep(&self, number: usize, line: &str) {
        let Options { pause: first_pause, max_pause, reset, grace, .. } = self.options;
        let log = |what: fmt::Arguments| say(format_args!("line {number} ({line}): {what}"));
        let mut pause = first_pause;
        loop {
            let start = Instant::now();
            match self.start(number, line) {
                None => return,
                Some(Err(error)) => log(format_args!("cannot start: {error}")),
                Some(Ok(child)) => {
                    log(format_args!("started, process {}", child.id()));
                    let end = child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                    let ran = start.elapsed();
                    log(format_args!("ended after {:.1}s, {end}", ran.as_secs_f64()));
                    // Processes that the child started may still run.
                    if let Err(error) = child.stop(grace) {
                        log(format_args!("its processes may still run: {error}"));
                    }
                    if ran >= reset {
                        pause = first_pause;
                    }
                }
            }
            pause = pause.min(max_pause);
            if !self.lock().stopping {
                log(format_args!("restarting in {pause:?}"));
            }
            drop(self.shutdown.wait_timeout_while(self.lock(), pause, |state| !state.stopping));
            pause = pause.saturating_mul(2);
        }
    }

    /// Spawns and registers a child. Returns `None` after the shutdown.
    fn start(&self, number: usize, line: &str) -> Option<io::Result<Arc<SharedChild>>> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        let mut options = SpawnOptions::new();
        options.tree(true).kill_with_parent(true).kill_on_drop(true);
        let child = options.spawn(platform::shell(line).stdin(Stdio::null())).map(Arc::new);
        Some(child.inspect(|child| drop(state.started.insert(number, Arc::clone(child)))))
    }

    /// Begins the shutdown. The threads that keep the commands wait for its end.
    #[cfg_attr(windows, expect(dead_code, reason = "no signal is caught"))]
    fn stop(&self, grace: Duration) {
        let mut state = self.lock();
        state.stopping = true;
        self.shutdown.notify_all();
        for child in state.started.values() {
            let stopped = Arc::clone(child);
            // The thread that keeps the command stops the child as well, and reports errors.
            if thread::Builder::new().spawn(move || stopped.stop(grace)).is_err() {
                let _ = child.stop(Duration::ZERO);
            }
        }
    }

    /// A panic under the lock cannot leave an incomplete change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(status: i32, message: fmt::Arguments) -> i32 {
    say(message);
    status
}

fn say(message: fmt::Arguments) {
    // One write keeps the line whole among the commands' output. There is no place to report an error.
    let _ = io::stderr().write_all(format!("supervise: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Arc, Command, Duration, Supervisor, io, say, thread};
    use crate::common::is_ignored;
    use signal_hook::iterator::Signals;

    pub(super) fn on_signals(supervisor: Arc<Supervisor>) -> io::Result<()> {
        let mut caught = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        caught.retain(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(caught)?;
        thread::Builder::new().spawn(move || {
            let mut grace = supervisor.options.grace;
            for signal in signals.forever() {
                say(format_args!("signal {signal}: stopping all within {grace:?}"));
                supervisor.stop(grace);
                grace = Duration::ZERO;
            }
        })?;
        Ok(())
    }

    pub(super) fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }
}

#[cfg(windows)]
mod platform {
    use super::{Arc, Command, Supervisor, io};
    use std::os::windows::process::CommandExt;

    pub(super) fn on_signals(_: Arc<Supervisor>) -> io::Result<()> {
        Ok(())
    }

    /// `cmd /S` removes the outer quotes, and parses the rest by its own rules.
    pub(super) fn shell(line: &str) -> Command {
        let mut command = Command::new("cmd");
        command.raw_arg(format!("/S /C \"{line}\""));
        command
    }
}
