//! Runs shell commands, so many at a time: `parallel -j 4 <commands`, or `parallel 'make a' 'make b'`. What each
//! writes stays together, nothing is left behind by any, and `--help` lists the options.
//!
//! A capture takes the thread that calls it until the last word has been said, which may be long after the exit, as
//! when a tree is being stopped; so there are as many threads as commands at a time. The main thread is blocked in
//! [`ChildSet::wait_next`] and hears whose shell has ended: it kills what that has left running, whereupon the
//! capture is complete; were there no captures it would be the only thread.
//!
//! - Whoever is to be stopped is in a second set, until nothing is left of the tree: so [`ChildSet::stop_all`] has
//!   them all end within one grace, those included whose shell is the first to go.
//! - A command is started and entered under one lock, so either it is found by who stops all, or the order to stop
//!   is found before it starts.
//! - Memory is bounded: of each stream that much is kept, and no command starts before one is written out.
//! - `kill_with_parent` is for the end that no program can handle: SIGKILL, or a crash.
//!
//! What is started gets no input, and on Unix is in the terminal's background. Signals that this was started with
//! ignored stay so, as with `nohup`. On Windows Ctrl-C is not caught, which would take another crate: it ends
//! this program as a kill does, and all trees with it.

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
Run each COMMAND, an argument each, as the shell would (sh -c, on Windows
cmd /C). Without any, standard input has them, one a line, and is read to its
end first; empty lines and those that begin with # do not count.

  -j, --jobs=N             so many at a time (default: one for each processor)
  -t, --timeout=DURATION   stop a command that runs for longer: it has failed
  -g, --grace=DURATION     who is stopped is asked first, and killed after this
                           (default 5s)
  -l, --limit=SIZE         keep so much of each stream of a command, half of it
                           from the beginning and half from the end (default 1m)
  -f, --fail-fast          once a command fails, stop the others and start none
  -h, --help               show this help

What a command writes comes in one piece when it has ended, output to standard
output and errors to standard error. Where something is missing, since it was
beyond the limit, a line says so. What a command leaves running is killed.

Ctrl-C or SIGTERM stops all at the same time; a second one kills them at once,
and a third one does not wait for whoever reads the output either.

DURATION is a decimal number with an optional unit: ms, s (the default), m or h.
SIZE is a number of bytes with an optional unit: k, m or g.

Exit status: 0 if all have succeeded, 1 if one has failed or its output cannot
be written, 2 if an option or the input is wrong, 128 and its number after a
signal.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Some((options, lines))) => run(options, lines).unwrap_or_else(|error| {
            say(format_args!("cannot do its work: {error}"));
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

/// `None` if help is wanted.
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

/// Before any signal is caught: whoever wants to leave while this waits for more does.
fn read_lines() -> io::Result<Vec<OsString>> {
    if io::stdin().is_terminal() {
        say(format_args!("reading commands, one a line"));
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && line[0] != b'#').map(platform::line).collect()
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

fn run(options: Options, lines: Vec<OsString>) -> io::Result<i32> {
    let pool = Arc::new(Pool::new(options, lines));
    // Before anything starts, so that no signal comes too soon.
    platform::on_signals(Arc::clone(&pool))?;
    thread::scope(|scope| {
        let (started, starts) = mpsc::channel();
        for n in 0..pool.options.jobs.get().min(pool.lines.len()) {
            let (pool, started) = (&pool, started.clone());
            match thread::Builder::new().spawn_scoped(scope, move || pool.work(&started)) {
                Err(error) if n == 0 => return Err(error),
                // With fewer it takes longer.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(started);
        // For each start there is one exit to be heard of, unless the worker was faster.
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
    /// Whose shell has yet to end.
    running: ChildSet<Job>,
    /// Of whom something may be left.
    trees: ChildSet<usize>,
    state: Mutex<State>,
    report: Mutex<Report>,
    progress: ProgressBar,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Job {
    /// Which of the lines.
    number: usize,
    deadline: Option<Instant>,
}

#[derive(Default)]
struct State {
    next: usize,
    stopping: bool,
    /// By how many signals, and the number of the first.
    signals: usize,
    signal: i32,
    /// By their numbers.
    at_work: BTreeSet<usize>,
}

#[derive(Default)]
struct Report {
    /// The output cannot be written.
    mute: bool,
    succeeded: usize,
    stopped: usize,
    failed: Vec<(usize, String)>,
    slowest: Option<(Duration, usize)>,
    biggest: Option<(u64, usize)>,
}

type Started = (Job, io::Result<Arc<SharedChild>>, CaptureOptions<'static>);

impl Pool {
    fn new(options: Options, lines: Vec<OsString>) -> Self {
        // It is shown only if standard error is a terminal.
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

    /// Runs one command after the other, as long as there are any.
    fn work(self: &Arc<Self>, started: &Sender<()>) {
        while let Some((job, child, mut capture)) = self.start() {
            self.show_progress();
            let captured = child.and_then(|child| {
                // (Who receives this is there for longer.)
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

    /// `None` if there is nothing more to do.
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
        // If all are stopped the shell may end first. The others have that long, and somebody who reads.
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

    /// What it has left running is killed; but if it was stopped, that has its grace as well.
    fn shell_ended(&self, Finished { key, child, .. }: Finished<Job>) {
        let timed_out = key.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if !timed_out && !lock(&self.state).stopping {
            // (An error is met again when the capture is complete.)
            child.tree().map(|tree| tree.kill());
        }
    }

    /// Also of what has closed its output.
    fn end_the_rest(&self, child: &SharedChild, captured: Option<&Captured>) {
        if captured.is_some_and(|captured| captured.status.is_none()) {
            // It does not die, so there is no point in waiting for it.
            return;
        }
        let stopping = lock(&self.state).stopping;
        let grace = if stopping { self.options.grace } else { Duration::ZERO };
        if let Err(error) = child.stop(grace) {
            self.say(format_args!("process {} may have left some running: {error}", child.id()));
        }
    }

    /// Writes out what came of it, and remembers the rest for the summary.
    fn ended(self: &Arc<Self>, number: usize, captured: io::Result<Captured>) {
        let success = captured.as_ref().is_ok_and(Captured::success);
        let how = captured.as_ref().map_or_else(|e| format!("cannot be run: {e}"), how_it_ended);
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
                // If nobody reads it, there is no point in going on.
                if !std::mem::replace(&mut report.mute, true) {
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

    /// The order to stop. Does not wait until it is carried out: the workers do.
    fn stop(self: &Arc<Self>) {
        lock(&self.state).stopping = true;
        let pool = Arc::clone(self);
        // (Errors are met again by the workers.)
        let stop_all = move || drop(pool.trees.stop_all(pool.options.grace));
        if thread::Builder::new().spawn(stop_all).is_err() {
            let _ = self.trees.kill_all();
        }
    }

    /// Never waits for whoever reads the output, who may not do so any more.
    #[cfg_attr(windows, expect(dead_code, reason = "there is no signal"))]
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

    /// How many have failed, and who has been at it for longest.
    fn show_progress(&self) {
        let state = lock(&self.state);
        let oldest = state.at_work.first().copied();
        let (count, stopping) = (state.at_work.len(), state.stopping);
        drop(state);
        let oldest = oldest.map_or_else(String::new, |number| self.name(number));
        let what = if stopping { "stopping" } else { "running" };
        self.progress.set_message(format!("{what} {count}: {oldest}"));
    }

    /// Says how it went. Returns the exit status.
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
            0 => i32::from(failed > 0 || report.mute),
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

/// Whoever panics under the lock leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(message: fmt::Arguments) {
    // One write, so that it stays one line. Nothing can be done about errors.
    let _ = io::stderr().write_all(format!("parallel: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Arc, Command, OsStr, OsString, Pool, io, thread};
    use signal_hook::iterator::Signals;
    use std::os::unix::ffi::OsStrExt;
    use std::{ffi::c_int, mem, ptr};

    pub(super) fn on_signals(pool: Arc<Pool>) -> io::Result<()> {
        let mut caught = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        caught.retain(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(caught)?;
        let interrupt = move || signals.forever().for_each(|signal| pool.interrupt(signal));
        thread::Builder::new().spawn(interrupt).map(drop)
    }

    fn is_ignored(signal: c_int) -> bool {
        // SAFETY: an all-zero sigaction is a valid one (SIG_DFL, no flags, no signals).
        let mut current: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: with no new action this only writes the current one into `current`, which is
        // exclusively borrowed for the call.
        let known = unsafe { libc::sigaction(signal, ptr::null(), &mut current) } == 0;
        known && current.sa_sigaction == libc::SIG_IGN
    }

    pub(super) fn line(bytes: &[u8]) -> io::Result<OsString> {
        Ok(OsStr::from_bytes(bytes).to_owned())
    }

    pub(super) fn shell(line: &OsStr) -> Command {
        let mut command = Command::new("sh");
        // (Without the --, a line that begins with - would be an option.)
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

    /// `cmd` takes off the outer quotes, and has rules of its own for what is between them.
    pub(super) fn shell(line: &OsStr) -> Command {
        let mut command = Command::new("cmd");
        let mut rest = OsString::from("/S /C \"");
        rest.push(line);
        rest.push("\"");
        command.raw_arg(rest);
        command
    }
}
