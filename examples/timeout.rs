//! `timeout(1)`: runs a command, and signals it and all that it has started if it still runs after a given
//! time. Options, exit statuses and the treatment of signals are those of GNU coreutils; `--help` lists them.
//!
//! What makes such a program hard is that three things happen at any moment, in any order: the
//! command exits, the time is up, somebody signals us. Here each has its place, and nothing polls:
//!
//! - a waiting thread is blocked in [`SharedChild::wait`] and reports the exit;
//! - a signal thread reports the signals that are meant for the command;
//! - the main thread waits for either, or for the deadline, and is the only one that decides. It
//!   signals the command through the same [`SharedChild`] that the other thread waits for. That is
//!   safe at any time: a signal that comes too late for the command reaches nobody at all,
//!   whereas with a bare process ID it could reach a stranger.
//!
//! The command is spawned as a tree, so a signal finds all that it has started, daemons included. It
//! leads a process group of its own, and we stay in that of whoever has started us. So what a terminal sends
//! (Ctrl-C, Ctrl-Z) reaches us, and we pass it on. With `--foreground` there is no tree: the command is
//! in our group, and is signalled alone.
//!
//! # Known differences from GNU
//!
//! With a tree:
//!
//! - Signals also reach those who have left the process group.
//! - With `-k`, if the command ends after the signal but leaves somebody behind, this stays until they
//!   have ended as well, and kills them at the deadline. The exit status is still that of the command's end.
//! - After KILL this waits for the command's end before it dies of KILL itself; GNU's does so at once.
//! - The command is never in the terminal's foreground, so it is stopped if it reads from there, also if it
//!   was started from a shell's prompt; use `--foreground`. But Ctrl-C reaches it also in a script.
//! - It finds the variable `SHARED_CHILD_TREE` in its environment.
//!
//! And always: no hexadecimal durations; the command starts with SIGPIPE at
//! its default and no signal blocked, and with `/dev/null` for a standard stream that was closed
//! (all three are what the standard library does); a script without `#!` runs only if it is named
//! by a path. Unlike coreutils 9.1, this leaves alone signals that it was started with ignored
//! (`nohup timeout …`), and passes on SIGUSR1 and SIGUSR2 as well.
//!
//! On Windows there are no signals: the tree is terminated, or with `--foreground` the command. If this
//! ends, by Ctrl-C for example, so does what is left of the tree.

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
Run COMMAND, and signal it if it is still running after DURATION.

  -f, --foreground           leave COMMAND in the terminal's foreground and
                             signal it alone, not what it has started
  -k, --kill-after=DURATION  send KILL as well if COMMAND, or something that it
                             has started, is still running this long after the
                             first signal
  -p, --preserve-status      exit with COMMAND's status also after a timeout
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
    // Our own options end at the first operand: all that follows it belongs to the command.
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

/// The letter of a long option, which may be cut short as long as it is unambiguous.
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
    // Only a zero that was written as such disables the timeout, not what is rounded to zero.
    let rounded = Duration::try_from_secs_f64(value * unit).unwrap_or(Duration::MAX);
    Some(rounded.max(Duration::from_nanos(1)))
}

enum Event {
    /// The command, or all of its tree.
    Ended,
    TimeIsUp,
    /// Meant for the command.
    #[allow(dead_code)] // on Windows
    Received(Signal),
    /// The job that we are is stopped, or goes on.
    #[allow(dead_code)] // on Windows
    JobControl(Signal),
}

fn run(options: Options) -> i32 {
    let (sender, events) = mpsc::channel();
    // Before the command starts: a signal that comes while it does is kept for it in the channel.
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
            // What went wrong, if anything, does so again where it is asked for.
            let _ = child.wait();
            let _ = sender.send(Event::Ended);
            if child.tree().is_some_and(|tree| tree.wait_empty(None).is_ok()) {
                let _ = sender.send(Event::Ended);
            }
        }
    });
    if let Err(error) = waiter {
        // Nobody would notice its end, so it must not go on without a limit.
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
        // There was no process to be had in which to try.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => FAILED,
        _ => CANNOT_INVOKE,
    }
}

struct Monitor {
    child: Arc<SharedChild>,
    events: Receiver<Event>,
    options: Options,
    /// What to send at the deadline: the signal asked for, then KILL.
    signal: Signal,
    /// Zero if KILL is not wanted, or if its deadline has been set.
    kill_after: Duration,
    deadline: Option<Instant>,
    /// The deadline is that for KILL.
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
                    // Not if it has ended and only others are left, who are to be killed.
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

    /// The command has ended; and so has all that it has started, as long as KILL is due for that. (If the
    /// system cannot tell, the command decides.)
    fn is_over(&self) -> bool {
        let nobody_left = || self.child.tree().is_none_or(|tree| tree.is_empty().unwrap_or(true));
        !matches!(self.child.try_wait(), Ok(None)) && (!self.kill_is_due || nobody_left())
    }

    fn next_event(&self) -> Event {
        let event = match self.deadline {
            Some(at) => self.events.recv_timeout(at.saturating_duration_since(Instant::now())).ok(),
            None => self.events.recv().ok(),
        };
        // A command that is done has not timed out, even if on a busy machine the waiting thread
        // has not come round to saying so.
        event.unwrap_or_else(|| if self.is_over() { Event::Ended } else { Event::TimeIsUp })
    }

    /// Signals the command. The first signal, whether it is ours or was passed on, starts the
    /// countdown to KILL, which replaces the one that was running.
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
            // So that our parent sees what ours did. And GNU's timeout is in the group that it kills.
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

/// `None`, which is never, for zero and for what is beyond the end of the clock.
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
    // One write, so that it stays one line among the command's own output. If standard error is
    // closed or full, there is nobody left to tell; the exit status is what counts.
    let _ = io::stderr().write_all(format!("timeout: {message}\n").as_bytes());
}

#[cfg(unix)]
mod platform {
    use super::{Event, Options};
    use libc::c_int;
    #[cfg(not(target_os = "haiku"))]
    use rustix::process::{Resource, Rlimit, setrlimit};
    use shared_child::{SharedChild, SpawnOptions, unix::SharedChildExt};
    use signal_hook::{consts::FORBIDDEN, iterator::Signals, low_level};
    use std::os::unix::{ffi::OsStrExt, process::ExitStatusExt};
    use std::process::ExitStatus;
    use std::sync::mpsc::Sender;
    use std::{fmt, io, mem, ops::RangeInclusive, process::Command, ptr, thread};

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

    /// Sent to us, these are meant for the command.
    const PASSED_ON: [c_int; 6] =
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

    impl Signal {
        pub(super) const TERM: Self = Self(libc::SIGTERM);
        pub(super) const KILL: Self = Self(libc::SIGKILL);

        pub(super) fn parse(text: &str) -> Option<Self> {
            if text.starts_with(|c: char| c.is_ascii_digit()) {
                // A shell's $? of a process that was signalled stands for the signal.
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
        // Ignored, these would be so in the command too: the first takes the status of its own children
        // away, and the others make an error of what else waits until it is in the foreground.
        for signal in [libc::SIGCHLD, libc::SIGTTIN, libc::SIGTTOU] {
            set_action(signal, libc::SIG_DFL);
        }
        // Signals that somebody has had ignored (nohup, a shell's background job) stay so, for us
        // and for the command. All the others are caught, not ignored: exec makes caught signals
        // default again, so that the command starts with clean ones.
        let mut caught: Vec<c_int> = PASSED_ON.to_vec();
        caught.extend([libc::SIGALRM, options.signal.0]);
        let has_tree = !options.foreground;
        if has_tree {
            caught.extend([libc::SIGTSTP, libc::SIGCONT]);
        }
        // SIGCHLD also means that the command has stopped: to pass it on would wake the command up.
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
        // Not `kill_with_parent`: that is a shell for each command. And what a command that ends in time
        // has left running is to outlive us.
        let mut how = SpawnOptions::new();
        how.tree(!options.foreground);
        let spawned = match how.spawn(Command::new(command).args(args)) {
            // As execvp(3) does for scripts without `#!`. Not for those found by PATH, since the
            // shell could find another one.
            Err(error)
                if error.raw_os_error() == Some(libc::ENOEXEC)
                    && command.as_bytes().contains(&b'/') =>
            {
                how.spawn(Command::new("/bin/sh").arg(command).args(args))
            }
            spawned => spawned,
        };
        // Our clock goes on though we, or others in our group, use the terminal from the background. Not
        // sooner, since the command would inherit it.
        for signal in [libc::SIGTTIN, libc::SIGTTOU] {
            set_action(signal, libc::SIG_IGN);
        }
        spawned
    }

    pub(super) fn send(child: &SharedChild, signal: Signal) -> io::Result<()> {
        let Some(tree) = child.tree() else { return child.send_signal(signal.0) };
        if signal == Signal::KILL {
            return tree.kill(); // also those who are born meanwhile
        }
        let sent = tree.send_signal(signal.0);
        if signal.0 != libc::SIGCONT {
            // A stopped process would not act on the signal, nor exit.
            let _ = tree.send_signal(libc::SIGCONT);
        }
        sent
    }

    /// Has the tree do as we are told, and then does so.
    pub(super) fn job_control(child: &SharedChild, signal: Signal) {
        let _ = child.tree().map(|tree| tree.send_signal(signal.0));
        if signal.0 == libc::SIGTSTP {
            let _ = low_level::raise(libc::SIGSTOP);
        }
    }

    /// Does nothing for what cannot be set, such as SIGKILL.
    fn set_action(signal: c_int, action: libc::sighandler_t) {
        debug_assert!([libc::SIG_DFL, libc::SIG_IGN].contains(&action));
        // SAFETY: neither default nor ignored is a function, so nothing of ours comes to run inside
        // a signal handler. An invalid signal is refused with EINVAL.
        unsafe { libc::signal(signal, action) };
    }

    fn is_ignored(signal: c_int) -> bool {
        // SAFETY: an all-zero sigaction is a valid one (SIG_DFL, no flags, no signals).
        let mut current: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: with no new action this only writes the current one into `current`, which is
        // exclusively borrowed for the call.
        let known = unsafe { libc::sigaction(signal, ptr::null(), &mut current) } == 0;
        known && current.sa_sigaction == libc::SIG_IGN
    }

    pub(super) fn cause_of_death(status: ExitStatus) -> Option<Signal> {
        if status.core_dumped() {
            super::say(format_args!("the monitored command dumped core"));
        }
        status.signal().map(Signal)
    }

    /// What a shell makes of it.
    pub(super) fn exit_code(status: ExitStatus) -> i32 {
        status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(super::FAILED)
    }

    /// Returns only if it cannot be done.
    pub(super) fn die_of(signal: Signal) {
        // One core dump is enough, and ours would replace the one that is of interest.
        #[cfg(not(target_os = "haiku"))]
        if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
            return;
        }
        #[cfg(target_os = "linux")]
        {
            // The limit does not stop a core_pattern that is a pipe; this does.
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

    /// Ctrl-C reaches only a command that shares our console group. A tree has one of its own, so it is to
    /// end with us.
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
