//! Keeps the commands of a file running: `supervise FILE`. Whatever ends is started again, after a pause that
//! grows; Ctrl-C or SIGTERM stops them all, gracefully, at the same time; and nobody outlives this program,
//! however it ends. `--help` lists the options.
//!
//! ```text
//! # one command a line
//! server --port 8080 >>server.log 2>&1
//! worker --name 'the first'
//! ```
//!
//! A line is for the shell (`sh -c`, on Windows `cmd /C`), so that quotes, variables and redirections are as
//! everybody knows them. The shell is one process more at most, and is stopped with the rest.
//!
//! How it works:
//!
//! - Each command has a thread, which starts it and is blocked in [`SharedChild::wait`]. Then it sees that
//!   nothing is left of the tree before it starts the next one, which would find its port taken. So a command must
//!   stay in the foreground: a daemon that it leaves behind is stopped.
//! - The pause is a wait for the order to stop, with a deadline. Nothing polls.
//! - Whoever gives that order stops those that run, through the same handles that the threads wait for: a
//!   thread each, since [`SharedChild::stop`] blocks for up to the grace. A child is started and entered
//!   under one lock, so either it is found there, or the order is found before it starts.
//! - A second signal is the same order with a grace of zero: of several stops the shortest counts.
//! - `kill_with_parent` is for the end that no program can handle: SIGKILL, or a crash.
//!
//! What is started gets no input, and on Unix is in the terminal's background. Signals that this was started
//! with ignored stay so, as with `nohup`. On Windows Ctrl-C is not caught, which would take another crate: it
//! ends this program as a kill does, and all trees with it.
//!
//! Exit status: 0 if it was stopped, 1 if it cannot do its work, 2 if the file or an option is wrong.

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
Keep the commands in FILE running: one a line, as for a shell. Empty lines and
those that begin with # do not count.

  -g, --grace=DURATION      on Ctrl-C or SIGTERM, kill what has not ended by
                            then (default 5s); a second signal kills at once
  -p, --pause=DURATION      wait this long before the first restart, and twice
                            as long before each that follows (default 500ms)
  -m, --max-pause=DURATION  but no longer than this (default 1m)
  -r, --reset=DURATION      a command that has run this long begins with the
                            first pause again (default 10s)
  -h, --help                show this help

DURATION is a decimal number with an optional unit: ms, s (the default), m or h.

Exit status: 0 if it was stopped by a signal, 1 if it cannot do its work, 2 if
FILE or an option is wrong.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some((options, lines))) => match run(options, lines) {
            Ok(()) => 0,
            Err(error) => fail(1, format_args!("cannot do its work: {error}")),
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

/// `None` if help is wanted.
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
    let file = file.ok_or("no FILE is given; try --help")?;
    let lines = fs::read_to_string(&file).map(|text| commands(&text));
    match lines.map_err(|error| format!("{}: {error}", file.to_string_lossy()))? {
        // More likely a mistake than a wish.
        none if none.is_empty() => Err(format!("{}: no command", file.to_string_lossy()).into()),
        lines => Ok(Some((options, lines))),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let split = |(name, unit): &(&str, f64)| Some((text.strip_suffix(name)?, *unit));
    let (number, unit) = UNITS.iter().find_map(split).unwrap_or((text, 1.0));
    let number: Option<f64> = number.parse().ok();
    number
        .and_then(|number| Duration::try_from_secs_f64(number * unit).ok())
        .ok_or_else(|| format!("'{text}' is no duration"))
}

fn commands(text: &str) -> Vec<Line> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim().to_owned()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect()
}

fn run(options: Options, lines: Vec<Line>) -> io::Result<()> {
    let supervisor =
        Arc::new(Supervisor { options, state: Mutex::default(), news: Condvar::new() });
    // Before anything starts, so that no signal comes too soon.
    platform::on_signals(Arc::clone(&supervisor))?;
    let keep = |(number, line): Line| {
        let supervisor = Arc::clone(&supervisor);
        thread::Builder::new().spawn(move || supervisor.keep(number, &line))
    };
    // If there is no thread to be had, what was started goes with us.
    let keepers = lines.into_iter().map(keep).collect::<io::Result<Vec<_>>>()?;
    for keeper in keepers {
        keeper.join().map_err(|_| io::Error::other("a thread has panicked"))?;
    }
    Ok(())
}

struct Supervisor {
    options: Options,
    state: Mutex<State>,
    /// There is an order to stop.
    news: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// By the number of the line. Those that have ended are replaced by the next.
    started: BTreeMap<usize, Arc<SharedChild>>,
}

impl Supervisor {
    /// Keeps a command running until there is an order to stop.
    fn keep(&self, number: usize, line: &str) {
        let Options { pause: first_pause, max_pause, reset, grace, .. } = self.options;
        let log = |what: fmt::Arguments| say(format_args!("line {number} ({line}): {what}"));
        let mut pause = first_pause;
        loop {
            let start = Instant::now();
            match self.start(number, line) {
                None => return,
                Some(Err(error)) => log(format_args!("cannot be started: {error}")),
                Some(Ok(child)) => {
                    log(format_args!("started, process {}", child.id()));
                    let end = child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                    let ran = start.elapsed();
                    log(format_args!("ended after {:.1}s, {end}", ran.as_secs_f64()));
                    // The child has ended, but maybe not all that it has started.
                    if let Err(error) = child.stop(grace) {
                        log(format_args!("what is left of it may not have ended: {error}"));
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
            drop(self.news.wait_timeout_while(self.lock(), pause, |state| !state.stopping));
            pause = pause.saturating_mul(2);
        }
    }

    /// `None` if there is an order to stop.
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

    /// The order to stop. Does not wait until it is carried out: whoever keeps a command does.
    #[cfg_attr(windows, expect(dead_code, reason = "there is no signal"))]
    fn stop(&self, grace: Duration) {
        let mut state = self.lock();
        state.stopping = true;
        self.news.notify_all();
        for child in state.started.values() {
            let stopped = Arc::clone(child);
            // (Errors are met again by the keeper.)
            if thread::Builder::new().spawn(move || stopped.stop(grace)).is_err() {
                let _ = child.stop(Duration::ZERO);
            }
        }
    }

    /// Whoever panics under the lock leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(status: i32, message: fmt::Arguments) -> i32 {
    say(message);
    status
}

fn say(message: fmt::Arguments) {
    // One write, so that it stays one line among the commands' own output. Nothing can be done about errors.
    let _ = io::stderr().write_all(format!("supervise: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Arc, Command, Duration, Supervisor, io, say, thread};
    use signal_hook::iterator::Signals;
    use std::{ffi::c_int, mem, ptr};

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

    fn is_ignored(signal: c_int) -> bool {
        // SAFETY: an all-zero sigaction is a valid one (SIG_DFL, no flags, no signals).
        let mut current: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: with no new action this only writes the current one into `current`, which is
        // exclusively borrowed for the call.
        let known = unsafe { libc::sigaction(signal, ptr::null(), &mut current) } == 0;
        known && current.sa_sigaction == libc::SIG_IGN
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

    /// `cmd` takes off the outer quotes, and has rules of its own for what is between them.
    pub(super) fn shell(line: &str) -> Command {
        let mut command = Command::new("cmd");
        command.raw_arg(format!("/S /C \"{line}\""));
        command
    }
}
