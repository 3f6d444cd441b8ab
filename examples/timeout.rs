//! `timeout(1)`: runs a command, and signals it and the processes that it started if it still runs after a given time.
//! Options, exit statuses and the treatment of signals are those of GNU coreutils; `--help` lists them.
//!
//! Three events can happen at any moment and in any order: the command exits, the time is over, a signal arrives. Nothing
//! polls:
//!
//! - a waiting thread blocks in [`SharedChild::wait`], and reports the exit;
//! - a signal thread reports the signals that are meant for the command;
//! - the main thread waits for a report or for the deadline, and alone decides. It signals the command through the
//!   [`SharedChild`] that the other thread waits for. That is safe at any time: a signal after the exit reaches no process,
//!   while with a bare process ID it could reach another one.
//!
//! The command leads a tree, so a signal reaches all processes that it started, even daemons. The tree has its own process
//! group, and this program stays in the group of its parent. So the terminal's signals (Ctrl-C, Ctrl-Z) reach this program,
//! which passes them on. With `--foreground` there is no tree: the command runs in this program's group, and is signalled
//! alone.
//!
//! # Known differences from GNU
//!
//! With a tree:
//!
//! - Signals also reach members that have left the process group.
//! - With `-k`, if the command ends after the signal but leaves processes running, this program waits for them as well, and
//!   kills them at the deadline. The exit status is still that of the command.
//! - After KILL this program waits for the command's end before it dies of KILL itself; GNU's does so at once.
//! - The command is never in the terminal's foreground, so it is stopped if it reads from the terminal, even if it was
//!   started from a shell's prompt; use `--foreground`. But Ctrl-C reaches it even in a script.
//! - The variable `SHARED_CHILD_TREE` is in its environment.
//!
//! Always: there are no hexadecimal durations. The command starts with SIGPIPE at its default, with no signal blocked, and
//! with `/dev/null` for a standard stream that was closed, as the standard library arranges. A script without `#!` runs only
//! if it is named by a path. Unlike coreutils 9.1, this program leaves signals alone that were ignored when it started
//! (`nohup timeout …`), and passes on SIGUSR1 and SIGUSR2.
//!
//! Windows has no signals: the tree is terminated, or with `--foreground` the command. If this program ends, by Ctrl-C for
//! example, the rest of the tree ends as well.

mod common;

use lexopt::{Arg, Parser};
use platform::Signal;
use shared_child::SharedChild;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::process::{self, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

const TIMED_OUT: i32 = 124;
const FAILED: i32 = 125;
const CANNOT_INVOKE: i32 = 126;
const NOT_FOUND: i32 = 127;

const HELP: &str = "\
Usage: timeout [OPTION]... DURATION COMMAND [ARG]...
Run COMMAND, and signal it if it still runs after DURATION.

  -f, --foreground           leave COMMAND in the terminal's foreground and
                             signal it alone, not the processes it started
  -k, --kill-after=DURATION  send KILL if COMMAND, or a process that it started,
                             still runs this long after the first signal
  -p, --preserve-status      exit with COMMAND's status even after a timeout
  -s, --signal=SIGNAL        the signal to send on timeout, by name or number
                             (default TERM)
  -v, --verbose              report every signal sent on standard error
  -h, --help                 show this help
  -V, --version              show the version

DURATION is a decimal number with an optional unit: s (the default), m, h or d.
A duration of 0 means no timeout.

Exit status: 124 if COMMAND timed out, 125 if timeout itself failed, 126 if
COMMAND cannot be invoked, 127 if it is not found, 137 if KILL was sent on
timeout, else that of COMMAND.";

fn main() {
    process::exit(match parse(Parser::from_env()) {
        Ok(Request::Run(options)) => run(options),
        Ok(Request::Show(text)) => show(text),
        Err(error) => fail(format_args!("{error}\nTry 'timeout --help' for more information.")),
    })
}

enum Request {
    Run(Options),
    Show(&'static str),
}

struct Options {
    duration: Duration,
    signal: Signal,
    kill_after: Duration,
    preserve_status: bool,
    foreground: bool,
    verbose: bool,
    command: OsString,
    args: Vec<OsString>,
}

fn parse(mut parser: Parser) -> Result<Request, lexopt::Error> {
    let (mut signal, mut kill_after) = (Signal::TERM, Duration::ZERO);
    let (mut preserve_status, mut foreground, mut verbose) = (false, false, false);
    // The arguments after the duration belong to the command.
    let duration = loop {
        let option = match parser.next()?.ok_or("missing operand")? {
            Arg::Value(operand) => break duration(&operand)?,
            Arg::Short(letter) => letter,
            Arg::Long(name) => short_form(name)?,
        };
        match option {
            'f' => foreground = true,
            'k' => kill_after = duration(&parser.value()?)?,
            'p' => preserve_status = true,
            's' => signal = signal_named(&parser.value()?)?,
            'v' => verbose = true,
            'h' => return Ok(Request::Show(HELP)),
            'V' => {
                return Ok(Request::Show(concat!(
                    "timeout (shared_child) ",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            other => return Err(format!("invalid option -- '{other}'").into()),
        }
    };
    let mut rest = parser.raw_args()?;
    let command = rest.next().ok_or("missing operand")?;
    let args = rest.collect();
    Ok(Request::Run(Options {
        duration,
        signal,
        kill_after,
        preserve_status,
        foreground,
        verbose,
        command,
        args,
    }))
}

/// Returns the letter of a long option. An unambiguous prefix suffices.
fn short_form(name: &str) -> Result<char, String> {
    const LONG: [(&str, char); 7] = [
        ("foreground", 'f'),
        ("help", 'h'),
        ("kill-after", 'k'),
        ("preserve-status", 'p'),
        ("signal", 's'),
        ("verbose", 'v'),
        ("version", 'V'),
    ];
    let mut found = LONG.iter().filter(|(long, _)| long.starts_with(name));
    match (found.next(), found.next()) {
        (Some((_, letter)), None) => Ok(*letter),
        (Some(_), Some(_)) => Err(format!("option '--{name}' is ambiguous")),
        _ => Err(format!("unrecognized option '--{name}'")),
    }
}

fn signal_named(text: &OsStr) -> Result<Signal, String> {
    text.to_str()
        .and_then(Signal::parse)
        .ok_or_else(|| format!("'{}': invalid signal", text.to_string_lossy()))
}

fn duration(text: &OsStr) -> Result<Duration, String> {
    text.to_str()
        .and_then(parse_duration)
        .ok_or_else(|| format!("invalid time interval '{}'", text.to_string_lossy()))
}

fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(char, f64); 4] = [('s', 1.0), ('m', 60.0), ('h', 3_600.0), ('d', 86_400.0)];
    let text = text.trim_ascii_start();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(letter, unit)| Some((text.strip_suffix(*letter)?, *unit)))
        .unwrap_or((text, 1.0));
    let value: f64 = number.parse().ok()?;
    if value.is_nan() || value < 0.0 {
        return None;
    }
    let mantissa = number.split(['e', 'E']).next()?;
    if value == 0.0 && !mantissa.contains(|digit| matches!(digit, '1'..='9')) {
        return Some(Duration::ZERO);
    }
    // Only a literal zero disables the timeout, not a number that rounds to zero.
    let rounded = Duration::try_from_secs_f64(value * unit).unwrap_or(Duration::MAX);
    Some(rounded.max(Duration::from_nanos(1)))
}

enum Event {
    /// The command has ended, or its whole tree.
    Ended,
    TimeIsUp,
    /// A signal for the command arrived.
    #[allow(dead_code)] // on Windows
    Received(Signal),
    /// This program's job is to stop or to continue.
    #[allow(dead_code)] // on Windows
    JobControl(Signal),
}

fn run(options: Options) -> i32 {
    let (sender, events) = mpsc::channel();
    // Catch signals before the command starts: the channel keeps a signal that arrives meanwhile.
    if let Err(error) = platform::prepare(&options, sender.clone()) {
        return fail(format_args!("cannot handle signals: {error}"));
    }
    let child = match platform::spawn(&options) {
        Ok(child) => Arc::new(child),
        Err(error) => return cannot_run(&options.command, &error),
    };
    let waiter = thread::Builder::new().spawn({
        let child = Arc::clone(&child);
        move || {
            // The main thread meets an error again.
            let _ = child.wait();
            let _ = sender.send(Event::Ended);
            if child.tree().is_some_and(|tree| tree.wait_empty(None).is_ok()) {
                let _ = sender.send(Event::Ended);
            }
        }
    });
    if let Err(error) = waiter {
        // No thread would notice its end or the deadline.
        let _ = platform::send(&child, Signal::KILL);
        return fail(format_args!("cannot wait for the command: {error}"));
    }
    let deadline = deadline_after(options.duration);
    let Options { signal, kill_after, .. } = options;
    Monitor {
        child,
        events,
        options,
        signal,
        kill_after,
        deadline,
        kill_is_due: false,
        timed_out: false,
    }
    .run()
}

fn cannot_run(command: &OsStr, error: &io::Error) -> i32 {
    fail(format_args!("failed to run command '{}': {error}", command.to_string_lossy()));
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        // The system could not create a process.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => FAILED,
        _ => CANNOT_INVOKE,
    }
}

struct Monitor {
    child: Arc<SharedChild>,
    events: Receiver<Event>,
    options: Options,
    /// The signal for the deadline: the chosen one, then KILL.
    signal: Signal,
    /// Zero without `-k`, or once the deadline of KILL is set.
    kill_after: Duration,
    deadline: Option<Instant>,
    /// The deadline is that of KILL.
    kill_is_due: bool,
    timed_out: bool,
}

impl Monitor {
    fn run(mut self) -> i32 {
        while !self.is_over() {
            match self.next_event() {
                Event::Ended => {}
                Event::Received(signal) => self.send(signal),
                Event::JobControl(signal) => platform::job_control(&self.child, signal),
                Event::TimeIsUp => {
                    // A command that has ended has not timed out, even if members of its tree are killed now.
                    self.timed_out |= matches!(self.child.try_wait(), Ok(None));
                    self.deadline = None;
                    self.kill_is_due = false;
                    self.send(self.signal);
                }
            }
        }
        match self.child.wait() {
            Ok(status) => self.exit_code(status),
            Err(error) => fail(format_args!("{error}")),
        }
    }

    /// Returns whether the command has ended and, if KILL is due, its whole tree. If the system cannot list the members of
    /// a tree, only the command counts.
    fn is_over(&self) -> bool {
        let is_empty = || self.child.tree().is_none_or(|tree| tree.is_empty().unwrap_or(true));
        !matches!(self.child.try_wait(), Ok(None)) && (!self.kill_is_due || is_empty())
    }

    fn next_event(&self) -> Event {
        let event = match self.deadline {
            Some(at) => self.events.recv_timeout(at.saturating_duration_since(Instant::now())).ok(),
            None => self.events.recv().ok(),
        };
        // A command that has ended has not timed out, even if the waiting thread has not reported it yet.
        event.unwrap_or_else(|| if self.is_over() { Event::Ended } else { Event::TimeIsUp })
    }

    /// Signals the command. The first signal, whether from here or passed on, sets the deadline of KILL.
    fn send(&mut self, signal: Signal) {
        if !self.kill_after.is_zero() {
            self.deadline = deadline_after(std::mem::take(&mut self.kill_after));
            self.kill_is_due = self.deadline.is_some();
            self.signal = Signal::KILL;
        }
        if self.options.verbose {
            let command = self.options.command.to_string_lossy();
            say(format_args!("sending signal {signal} to command '{command}'"));
        }
        if let Err(error) = platform::send(&self.child, signal) {
            say(format_args!("cannot send signal {signal}: {error}"));
        }
    }

    fn exit_code(&self, status: ExitStatus) -> i32 {
        let killer = platform::cause_of_death(status);
        let killed = killer == Some(Signal::KILL);
        match killer {
            // The parent sees the same cause of death. With KILL this is what GNU's timeout does, being in the group that
            // it kills.
            Some(signal) if !self.timed_out || (killed && !self.options.foreground) => {
                platform::die_of(signal);
            }
            _ => {}
        }
        if self.timed_out && !self.options.preserve_status && !killed {
            return TIMED_OUT;
        }
        platform::exit_code(status)
    }
}

/// Returns `None`, for no deadline, if the duration is zero or exceeds the clock.
fn deadline_after(duration: Duration) -> Option<Instant> {
    if duration.is_zero() { None } else { Instant::now().checked_add(duration) }
}

fn show(text: &str) -> i32 {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => 0,
        Err(error) => fail(format_args!("write error: {error}")),
    }
}

fn fail(message: fmt::Arguments) -> i32 {
    say(message);
    FAILED
}

fn say(message: fmt::Arguments) {
    // One write keeps the line whole among the command's output. There is no place to report an error.
    let _ = io::stderr().write_all(format!("timeout: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Event, Options};
    use crate::common::is_ignored;
    use libc::c_int;
    #[cfg(not(target_os = "haiku"))]
    use rustix::process::{Resource, Rlimit, setrlimit};
    use shared_child::{SharedChild, SpawnOptions, unix::SharedChildExt};
    use signal_hook::{consts::FORBIDDEN, iterator::Signals, low_level};
    use std::os::unix::{ffi::OsStrExt, process::ExitStatusExt};
    use std::process::ExitStatus;
    use std::sync::mpsc::Sender;
    use std::{fmt, io, ops::RangeInclusive, process::Command, thread};

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Signal(c_int);

    #[rustfmt::skip]
    const NAMES: &[(&str, c_int)] = &[
        ("EXIT", 0), ("HUP", libc::SIGHUP), ("INT", libc::SIGINT), ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL), ("TRAP", libc::SIGTRAP), ("ABRT", libc::SIGABRT),
        ("IOT", libc::SIGABRT), ("BUS", libc::SIGBUS), ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL), ("USR1", libc::SIGUSR1), ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2), ("PIPE", libc::SIGPIPE), ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM), ("CHLD", libc::SIGCHLD), ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT), ("STOP", libc::SIGSTOP), ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN), ("TTOU", libc::SIGTTOU), ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU), ("XFSZ", libc::SIGXFSZ), ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF), ("WINCH", libc::SIGWINCH), ("SYS", libc::SIGSYS),
        #[cfg(not(target_os = "haiku"))]
        ("IO", libc::SIGIO),
    ];

    /// The signals that this program passes on to the command.
    const PASSED_ON: [c_int; 6] =
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

    impl Signal {
        pub(super) const TERM: Self = Self(libc::SIGTERM);
        pub(super) const KILL: Self = Self(libc::SIGKILL);

        pub(super) fn parse(text: &str) -> Option<Self> {
            if text.starts_with(|c: char| c.is_ascii_digit()) {
                // A shell's $? after a death by signal stands for the signal.
                let number = text.parse().ok().map(|n: c_int| if n < 255 { n & 127 } else { n })?;
                return (number < 32 || real_time().contains(&number)).then_some(Self(number));
            }
            let upper = text.to_ascii_uppercase();
            Self::named(&upper).or_else(|| Self::named(upper.strip_prefix("SIG")?))
        }

        fn named(name: &str) -> Option<Self> {
            if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
                return Some(Self(*number));
            }
            let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() };
            let number = match name.strip_prefix("RTMIN") {
                Some(plus) => real_time().start().checked_add(offset(plus)?)?,
                None => real_time().end().checked_add(offset(name.strip_prefix("RTMAX")?)?)?,
            };
            real_time().contains(&number).then_some(Self(number))
        }
    }

    impl fmt::Display for Signal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match NAMES.iter().find(|(_, number)| *number == self.0) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{}", self.0),
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn real_time() -> RangeInclusive<c_int> {
        libc::SIGRTMIN()..=libc::SIGRTMAX()
    }

    #[cfg(not(target_os = "linux"))]
    fn real_time() -> RangeInclusive<c_int> {
        RangeInclusive::new(1, 0)
    }

    pub(super) fn prepare(options: &Options, sender: Sender<Event>) -> io::Result<()> {
        // The command would inherit an ignored signal. Without SIGCHLD it loses the statuses of its children. Without the
        // others, its use of the terminal from the background fails instead of stopping it.
        for signal in [libc::SIGCHLD, libc::SIGTTIN, libc::SIGTTOU] {
            set_action(signal, libc::SIG_DFL);
        }
        // Signals that are ignored (nohup, a shell's background job) stay ignored, here and in the command. The others are
        // caught, not ignored, since exec resets caught signals to their default.
        let mut caught: Vec<c_int> = PASSED_ON.to_vec();
        caught.extend([libc::SIGALRM, options.signal.0]);
        let has_tree = !options.foreground;
        if has_tree {
            caught.extend([libc::SIGTSTP, libc::SIGCONT]);
        }
        // SIGCHLD is also sent when the command stops: passing it on would continue the command.
        caught.retain(|signal| {
            ![FORBIDDEN, &[0, libc::SIGCHLD]].concat().contains(signal) && !is_ignored(*signal)
        });
        let mut signals = Signals::new(caught)?;
        thread::Builder::new().spawn(move || {
            for signal in signals.forever() {
                let _ = sender.send(match signal {
                    libc::SIGALRM => Event::TimeIsUp,
                    libc::SIGTSTP | libc::SIGCONT if has_tree => Event::JobControl(Signal(signal)),
                    signal => Event::Received(Signal(signal)),
                });
            }
        })?;
        Ok(())
    }

    pub(super) fn spawn(options: &Options) -> io::Result<SharedChild> {
        let Options { command, args, .. } = options;
        // Without `kill_with_parent`, the processes that a command leaves running outlive this program, as with GNU.
        let mut how = SpawnOptions::new();
        how.tree(!options.foreground);
        let spawned = match how.spawn(Command::new(command).args(args)) {
            // Like execvp(3), runs a script without `#!`. A command without a slash is not tried, since the shell could
            // find another file.
            Err(error)
                if error.raw_os_error() == Some(libc::ENOEXEC)
                    && command.as_bytes().contains(&b'/') =>
            {
                how.spawn(Command::new("/bin/sh").arg(command).args(args))
            }
            spawned => spawned,
        };
        // Using the terminal from the background must not stop this program. The command must not inherit this, so it is
        // set after the spawn.
        for signal in [libc::SIGTTIN, libc::SIGTTOU] {
            set_action(signal, libc::SIG_IGN);
        }
        spawned
    }

    pub(super) fn send(child: &SharedChild, signal: Signal) -> io::Result<()> {
        let Some(tree) = child.tree() else { return child.send_signal(signal.0) };
        if signal == Signal::KILL {
            return tree.kill(); // reaches even processes that are forked meanwhile
        }
        let sent = tree.send_signal(signal.0);
        if signal.0 != libc::SIGCONT {
            // A stopped process would not act on the signal, nor exit.
            let _ = tree.send_signal(libc::SIGCONT);
        }
        sent
    }

    /// Passes on a stop or a continuation to the tree, and then stops as well.
    pub(super) fn job_control(child: &SharedChild, signal: Signal) {
        let _ = child.tree().map(|tree| tree.send_signal(signal.0));
        if signal.0 == libc::SIGTSTP {
            let _ = low_level::raise(libc::SIGSTOP);
        }
    }

    /// Does nothing for a signal whose action cannot be set, such as SIGKILL.
    fn set_action(signal: c_int, action: libc::sighandler_t) {
        debug_assert!([libc::SIG_DFL, libc::SIG_IGN].contains(&action));
        // SAFETY: neither action is a function, so no code runs in a signal handler. An invalid signal fails with EINVAL.
        unsafe { libc::signal(signal, action) };
    }

    pub(super) fn cause_of_death(status: ExitStatus) -> Option<Signal> {
        if status.core_dumped() {
            super::say(format_args!("the monitored command dumped core"));
        }
        status.signal().map(Signal)
    }

    /// Returns the exit code that a shell would report.
    pub(super) fn exit_code(status: ExitStatus) -> i32 {
        status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(super::FAILED)
    }

    /// Returns only if it fails.
    pub(super) fn die_of(signal: Signal) {
        // A core dump of this program would replace that of the command.
        #[cfg(not(target_os = "haiku"))]
        if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
            return;
        }
        #[cfg(target_os = "linux")]
        {
            // The limit does not prevent a dump to a core_pattern that is a pipe. This does.
            use rustix::process::{DumpableBehavior, set_dumpable_behavior};
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        }
        set_action(signal.0, libc::SIG_DFL);
        let _ = low_level::raise(signal.0);
    }
}

#[cfg(windows)]
mod platform {
    use super::{Event, Options};
    use shared_child::{SharedChild, SpawnOptions};
    use std::process::{Command, ExitStatus};
    use std::sync::mpsc::Sender;
    use std::{fmt, io};

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Signal(&'static str);

    impl Signal {
        pub(super) const TERM: Self = Self("TERM");
        pub(super) const KILL: Self = Self("KILL");

        pub(super) fn parse(text: &str) -> Option<Self> {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("SIG").unwrap_or(&upper);
            [Self::TERM, Self::KILL].into_iter().find(|signal| signal.0 == name)
        }
    }

    impl fmt::Display for Signal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    pub(super) fn prepare(_: &Options, _: Sender<Event>) -> io::Result<()> {
        Ok(())
    }

    /// Ctrl-C does not reach a tree, which has its own console group. So the tree ends with this program.
    pub(super) fn spawn(options: &Options) -> io::Result<SharedChild> {
        SpawnOptions::new()
            .tree(!options.foreground)
            .kill_with_parent(!options.foreground)
            .spawn(Command::new(&options.command).args(&options.args))
    }

    pub(super) fn send(child: &SharedChild, _: Signal) -> io::Result<()> {
        child.tree().map_or_else(|| child.kill(), |tree| tree.kill())
    }

    pub(super) fn job_control(_: &SharedChild, _: Signal) {}

    pub(super) fn cause_of_death(_: ExitStatus) -> Option<Signal> {
        None
    }

    pub(super) fn exit_code(status: ExitStatus) -> i32 {
        status.code().unwrap_or(super::FAILED)
    }

    pub(super) fn die_of(_: Signal) {}
}
