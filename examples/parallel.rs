//! Runs shell commands, N at a time: `parallel -j 4 <commands`, or `parallel 'make a' 'make b'`. The output of each command
//! stays together, and no command leaves a process behind. `--help` lists the options.
//!
//! A capture blocks its thread until the output ends, which may be long after the exit, as when a tree is being stopped. So
//! each running command has a thread. The main thread blocks in [`ChildSet::wait_next`]: when a shell exits, it kills the
//! processes that the shell left running, which completes the capture.
//!
//! - A second set holds the trees that have members left, so [`ChildSet::stop_all`] ends all of them within one grace, even
//!   those whose shell ends first.
//! - A child is spawned and registered under one lock, so either a shutdown finds the child, or the spawn finds the shutdown.
//! - Memory is bounded: a limited amount of each stream is kept, and a thread starts a command only after it has written out
//!   the last one.
//! - `kill_with_parent` covers the ends that no program can handle: SIGKILL, or a crash.
//!
//! The commands have no input, and on Unix run in the terminal's background. A signal that was ignored when this program
//! started stays ignored, as after `nohup`. On Windows this program does not catch Ctrl-C, which would require another
//! crate: Ctrl-C ends it like a kill, with all trees.

mod common;

use common::{duration, outcome, size};
use indicatif::{ProgressBar, ProgressStyle};
use lexopt::{Arg, Parser, ValueExt};
use shared_child::{
    CaptureOptions, Captured, CapturedStream, ChildSet, Finished, Limit, SharedChild, SpawnOptions,
};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::num::NonZeroUsize;
use std::process::{self, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

const HELP: &str = "\
Usage: parallel [OPTION]... [--] [COMMAND]...
Run each COMMAND, which is one argument, with the shell (sh -c, on Windows
cmd /C). Without a COMMAND, read them from standard input, one per line, to its
end; empty lines and lines that begin with # are ignored.

  -j, --jobs=N             run N at a time (default: one per processor)
  -t, --timeout=DURATION   stop a command that runs longer: it has failed
  -g, --grace=DURATION     when stopping a command, request it to terminate, and
                           kill it after DURATION (default 5s)
  -l, --limit=SIZE         keep SIZE bytes of each stream of a command, half
                           from the beginning and half from the end (default 1m)
  -f, --fail-fast          once a command fails, stop the others and start none
  -h, --help               show this help

The output of a command is written when it has ended, standard output to
standard output and standard error to standard error. A line marks the place of
omitted bytes. The processes that a command leaves running are killed.

Ctrl-C or SIGTERM stops all commands at the same time. A second signal kills
them at once. A third ends this program even if its output is not read.

DURATION is a decimal number with an optional unit: ms, s (the default), m or h.
SIZE is a number of bytes with an optional unit: k, m or g.

Exit status: 0 if all commands succeeded, 1 if one failed or its output cannot
be written, 2 if an option or the input is wrong, 128 plus the number of the
signal that stopped it.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some((options, lines))) => run(options, lines).unwrap_or_else(|error| {
            say(format_args!("cannot run the commands: {error}"));
            1
        }),
        Ok(None) => i32::from(writeln!(io::stdout(), "{HELP}").is_err()),
        Err(error) => {
            say(format_args!("{error}; try --help"));
            2
        }
    })
}

struct Options {
    jobs: NonZeroUsize,
    timeout: Option<Duration>,
    grace: Duration,
    limit: usize,
    fail_fast: bool,
}

/// Returns `None` for `--help`.
fn parse(mut parser: Parser) -> Result<Option<(Options, Vec<OsString>)>, lexopt::Error> {
    let jobs = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let grace = Duration::from_secs(5);
    let mut options = Options { jobs, timeout: None, grace, limit: 1 << 20, fail_fast: false };
    let mut lines = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('j') | Arg::Long("jobs") => options.jobs = parser.value()?.parse()?,
            Arg::Short('t') | Arg::Long("timeout") => {
                options.timeout = Some(parser.value()?.parse_with(duration)?);
            }
            Arg::Short('g') | Arg::Long("grace") => {
                options.grace = parser.value()?.parse_with(duration)?;
            }
            Arg::Short('l') | Arg::Long("limit") => {
                options.limit = parser.value()?.parse_with(size)?;
            }
            Arg::Short('f') | Arg::Long("fail-fast") => options.fail_fast = true,
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Value(line) => lines.push(line),
            other => return Err(other.unexpected()),
        }
    }
    if lines.is_empty() {
        lines = read_lines().map_err(|error| format!("standard input: {error}"))?;
    }
    Ok(Some((options, lines)))
}

/// Runs before any signal is caught, so that Ctrl-C ends a program that waits for input.
fn read_lines() -> io::Result<Vec<OsString>> {
    if io::stdin().is_terminal() {
        say(format_args!("reading commands, one per line"));
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && line[0] != b'#').map(platform::line).collect()
}

fn run(options: Options, lines: Vec<OsString>) -> io::Result<i32> {
    let pool = Arc::new(Pool::new(options, lines));
    // Catch signals before the first command starts.
    platform::on_signals(Arc::clone(&pool))?;
    thread::scope(|scope| {
        let (started, starts) = mpsc::channel();
        for n in 0..pool.options.jobs.get().min(pool.lines.len()) {
            let (pool, started) = (&pool, started.clone());
            match thread::Builder::new().spawn_scoped(scope, move || pool.work(&started)) {
                Err(error) if n == 0 => return Err(error),
                // Fewer threads suffice.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(started);
        // Each start has one exit, unless the worker has removed the child already.
        for () in starts {
            pool.running.wait_next().into_iter().for_each(|finished| pool.shell_ended(finished));
        }
        Ok(())
    })?;
    Ok(pool.summary())
}

struct Pool {
    options: Options,
    lines: Vec<OsString>,
    began: Instant,
    /// The children whose shell still runs.
    running: ChildSet<Job>,
    /// The trees that may have members left.
    trees: ChildSet<usize>,
    state: Mutex<State>,
    report: Mutex<Report>,
    progress: ProgressBar,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Job {
    /// The index of the line.
    number: usize,
    deadline: Option<Instant>,
}

#[derive(Default)]
struct State {
    next: usize,
    stopping: bool,
    /// The number of signals received.
    signals: usize,
    /// The first of them.
    signal: i32,
    /// The indices of the commands that run.
    at_work: BTreeSet<usize>,
}

#[derive(Default)]
struct Report {
    /// The output cannot be written.
    write_failed: bool,
    succeeded: usize,
    stopped: usize,
    failed: Vec<(usize, String)>,
    slowest: Option<(Duration, usize)>,
    biggest: Option<(u64, usize)>,
}

type Started = (Job, io::Result<Arc<SharedChild>>, CaptureOptions<'static>);

impl Pool {
    fn new(options: Options, lines: Vec<OsString>) -> Self {
        // The bar is shown only if standard error is a terminal.
        let progress = ProgressBar::new(lines.len() as u64);
        let style = ProgressStyle::with_template("{pos}/{len} done, {elapsed} {wide_msg}");
        progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress.enable_steady_tick(Duration::from_millis(250));
        Self {
            options,
            lines,
            began: Instant::now(),
            running: ChildSet::new(),
            trees: ChildSet::new(),
            state: Mutex::default(),
            report: Mutex::default(),
            progress,
        }
    }

    /// Runs one command after the other.
    fn work(self: &Arc<Self>, started: &Sender<()>) {
        while let Some((job, child, mut capture)) = self.start() {
            self.show_progress();
            let captured = child.and_then(|child| {
                // The receiver outlives the workers.
                let _ = started.send(());
                let captured = child.capture(&mut capture);
                self.end_the_rest(&child, captured.as_ref().ok());
                self.running.remove(&job);
                self.trees.remove(&job.number);
                captured
            });
            self.ended(job.number, captured);
        }
    }

    /// Spawns and registers a child. Returns `None` if no command is left, or after a shutdown.
    fn start(&self) -> Option<Started> {
        let Options { timeout, grace, limit, .. } = self.options;
        let mut state = lock(&self.state);
        let number = state.next;
        let line = self.lines.get(number).filter(|_| !state.stopping)?;
        state.next += 1;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let job = Job { number, deadline };
        let mut capture = CaptureOptions::new();
        capture.limit(Limit::head_and_tail(limit / 2, limit.div_ceil(2))).grace(grace);
        // In a shutdown the shell may end first. The others then have the grace, and their output is read.
        capture.drain(grace);
        if let Some(deadline) = job.deadline {
            capture.deadline(deadline);
        }
        let mut spawn = SpawnOptions::new();
        spawn.tree(true).kill_on_drop(true).kill_with_parent(true);
        let child = spawn.spawn_piped(&mut platform::shell(line), &capture).map(Arc::new);
        if let Ok(child) = &child {
            self.trees.insert(number, Arc::clone(child));
            self.running.insert(job, Arc::clone(child));
            state.at_work.insert(number);
        }
        Some((job, child, capture))
    }

    /// Kills the processes that a shell left running, unless they are being stopped and have a grace.
    fn shell_ended(&self, Finished { key, child, .. }: Finished<Job>) {
        let timed_out = key.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if !timed_out && !lock(&self.state).stopping {
            // `end_the_rest` reports errors.
            child.tree().map(|tree| tree.kill());
        }
    }

    /// Ends the processes that have closed their output.
    fn end_the_rest(&self, child: &SharedChild, captured: Option<&Captured>) {
        if captured.is_some_and(|captured| captured.status.is_none()) {
            // The child was killed and has not ended.
            return;
        }
        let stopping = lock(&self.state).stopping;
        let grace = if stopping { self.options.grace } else { Duration::ZERO };
        if let Err(error) = child.stop(grace) {
            self.say(format_args!(
                "process {} may have left processes running: {error}",
                child.id()
            ));
        }
    }

    /// Writes the output, and stores the outcome for the summary.
    fn ended(self: &Arc<Self>, number: usize, captured: io::Result<Captured>) {
        let success = captured.as_ref().is_ok_and(Captured::success);
        let how = captured.as_ref().map_or_else(|e| format!("cannot be run: {e}"), outcome);
        let mut state = lock(&self.state);
        state.at_work.remove(&number);
        let was_stopped = state.stopping && !success;
        let is_the_first = !success && self.options.fail_fast && !state.stopping;
        state.stopping |= is_the_first;
        drop(state);
        if is_the_first {
            self.stop();
        }
        let mut report = lock(&self.report);
        if let Ok(captured) = &captured {
            if let Err(error) = self.progress.suspend(|| write_out(captured)) {
                // Without a reader, the commands run for nothing.
                if !std::mem::replace(&mut report.write_failed, true) {
                    self.say(format_args!("the output cannot be written: {error}"));
                    self.stop();
                }
            }
            let memory = captured.usage.and_then(|usage| usage.peak_memory);
            report.slowest = report.slowest.max(Some((captured.elapsed, number)));
            report.biggest = report.biggest.max(memory.map(|memory| (memory, number)));
        }
        if success {
            report.succeeded += 1;
        } else {
            let what = if was_stopped { "stopped" } else { "failed" };
            self.say(format_args!("{what}: {}: {how}", self.name(number)));
            if was_stopped {
                report.stopped += 1;
            } else {
                report.failed.push((number, how));
            }
        }
        self.progress.inc(1);
        self.show_progress();
    }

    /// Begins the shutdown. The workers wait for its end.
    fn stop(self: &Arc<Self>) {
        lock(&self.state).stopping = true;
        let pool = Arc::clone(self);
        // The workers stop the children as well, and report errors.
        let stop_all = move || drop(pool.trees.stop_all(pool.options.grace));
        if thread::Builder::new().spawn(stop_all).is_err() {
            let _ = self.trees.kill_all();
        }
    }

    /// Handles a signal. Does not wait for a reader of the output.
    #[cfg_attr(windows, expect(dead_code, reason = "no signal is caught"))]
    fn interrupt(self: &Arc<Self>, signal: i32) {
        let mut state = lock(&self.state);
        state.signals += 1;
        match state.signals {
            1 => {
                state.signal = signal;
                drop(state);
                self.stop();
            }
            2 => {
                drop(state);
                let _ = self.trees.kill_all();
            }
            _ => process::exit(128 + state.signal),
        }
    }

    /// Shows how many commands run, and the oldest of them.
    fn show_progress(&self) {
        let state = lock(&self.state);
        let oldest = state.at_work.first().copied();
        let (count, stopping) = (state.at_work.len(), state.stopping);
        drop(state);
        let oldest = oldest.map_or_else(String::new, |number| self.name(number));
        let what = if stopping { "stopping" } else { "running" };
        self.progress.set_message(format!("{what} {count}: {oldest}"));
    }

    /// Reports the results. Returns the exit status.
    fn summary(&self) -> i32 {
        self.progress.finish_and_clear();
        let report = lock(&self.report);
        let State { next, signals, signal, .. } = *lock(&self.state);
        let (failed, left) = (report.failed.len(), self.lines.len() - next);
        let mut text = format!("{} succeeded, {failed} failed", report.succeeded);
        for (count, what) in [(report.stopped, "stopped"), (left, "not started")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        say(format_args!("{text}, in {:.1}s", self.began.elapsed().as_secs_f64()));
        for (number, how) in &report.failed {
            say(format_args!("failed: {}: {how}", self.name(*number)));
        }
        if let Some((elapsed, number)) = report.slowest {
            say(format_args!("slowest: {}: {:.2}s", self.name(number), elapsed.as_secs_f64()));
        }
        if let Some((memory, number)) = report.biggest {
            let mib = memory as f64 / f64::from(1 << 20);
            say(format_args!("biggest: {}: {mib:.1} MiB", self.name(number)));
        }
        match signals {
            0 => i32::from(failed > 0 || report.write_failed),
            _ => 128 + signal,
        }
    }

    fn name(&self, number: usize) -> String {
        const LONGEST: usize = 60;
        let line = self.lines[number].to_string_lossy();
        let mut name: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some((end, _)) = name.char_indices().nth(LONGEST) {
            name.truncate(end);
            name.push('…');
        }
        name
    }

    fn say(&self, message: fmt::Arguments) {
        self.progress.suspend(|| say(message));
    }
}

fn write_out(captured: &Captured) -> io::Result<()> {
    write_stream(&mut io::stdout().lock(), &captured.stdout)?;
    write_stream(&mut io::stderr().lock(), &captured.stderr)
}

fn write_stream(to: &mut impl Write, stream: &CapturedStream) -> io::Result<()> {
    let (head, tail) = stream.bytes.split_at(stream.omitted_at.min(stream.bytes.len()));
    to.write_all(head)?;
    if stream.omitted > 0 {
        let new_line = if head.is_empty() || head.ends_with(b"\n") { "" } else { "\n" };
        writeln!(to, "{new_line}[… {} bytes omitted …]", stream.omitted)?;
    }
    to.write_all(tail)?;
    to.flush()
}

/// A panic under the lock cannot leave an incomplete change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(message: fmt::Arguments) {
    // One write keeps the line whole. There is no place to report an error.
    let _ = io::stderr().write_all(format!("parallel: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Arc, Command, OsStr, OsString, Pool, io, thread};
    use crate::common::is_ignored;
    use signal_hook::iterator::Signals;
    use std::os::unix::ffi::OsStrExt;

    pub(super) fn on_signals(pool: Arc<Pool>) -> io::Result<()> {
        let mut caught = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        caught.retain(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(caught)?;
        let interrupt = move || signals.forever().for_each(|signal| pool.interrupt(signal));
        thread::Builder::new().spawn(interrupt).map(drop)
    }

    pub(super) fn line(bytes: &[u8]) -> io::Result<OsString> {
        Ok(OsStr::from_bytes(bytes).to_owned())
    }

    pub(super) fn shell(line: &OsStr) -> Command {
        let mut command = Command::new("sh");
        // Without `--`, a line that begins with `-` would be an option.
        command.args(["-c", "--"]).arg(line);
        command
    }
}

#[cfg(windows)]
mod platform {
    use super::{Arc, Command, OsStr, OsString, Pool, io};
    use std::os::windows::process::CommandExt;

    pub(super) fn on_signals(_: Arc<Pool>) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn line(bytes: &[u8]) -> io::Result<OsString> {
        let line = std::str::from_utf8(bytes);
        let line = line.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        line.map(OsString::from)
    }

    /// `cmd /S` removes the outer quotes, and parses the rest by its own rules.
    pub(super) fn shell(line: &OsStr) -> Command {
        let mut command = Command::new("cmd");
        let mut rest = OsString::from("/S /C \"");
        rest.push(line);
        rest.push("\"");
        command.raw_arg(rest);
        command
    }
}
