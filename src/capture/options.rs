//! The options of a capture.

use super::callbacks::{OnLine, OnOutput};
use super::spill::{SpillOptions, Target};
use super::{Limit, Line, Stream};
use crate::sync::Arc;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The default drain time.
pub(super) const DRAIN: Duration = Duration::from_millis(200);

/// What to capture of a child's output, and within which bounds.
///
/// A capture writes the input to the child's standard input, and reads its standard output and standard error until the
/// child has exited and both have ended. It returns what it read and how it ended: [`Captured`](super::Captured).
///
/// # How long a capture takes
///
/// A capture with a [`timeout`](Self::timeout) or a [`deadline`](Self::deadline) ends in time, whatever the child does:
///
/// - the pipes are read and written as they become ready, so the child may write any amount before it reads, and need not
///   read at all;
/// - when the time is over, the capture stops the child, and its whole [tree](crate::SpawnOptions::tree) if it leads one.
///   The child has the [`grace`](Self::grace) to end, and its output is still read;
/// - after the exit, the capture waits at most the [`drain`](Self::drain) time for other processes that hold a pipe, such
///   as a daemon. It reads the bytes that are in the pipe by then;
/// - the capture waits at most one second for a child that was killed.
///
/// So a capture takes at most the sum of the timeout, the grace, the drain time and one second, and of two seconds more
/// with a [`spill`](Self::spill). Not covered:
///
/// - without a timeout or a deadline, a capture takes as long as the child;
/// - a callback ([`on_output`](Self::on_output), [`on_line`](Self::on_line)) or a reader
///   ([`stdin_from`](Self::stdin_from)) runs on the calling thread. While it blocks, no deadline is kept;
/// - the kill of a tree on Linux, unless containment is complete, reads the process table, and waits up to 2 s for
///   processes in the middle of an exec; see [`Tree::kill`](crate::Tree::kill);
/// - a `pre_exec` hook of the command that blocks delays the spawn;
/// - on Windows, the capture waits a few seconds at most for each synchronous pipe whose read or write the system cannot
///   cancel.
///
/// # Threads
///
/// A capture runs on the calling thread, without signals. On Unix, a child without an exit descriptor (no pidfds, or no
/// free descriptor) has a helper thread, as in every wait. On Windows, a synchronous pipe, such as [`std::io::pipe`]
/// creates, has a thread until the capture ends. A thread writes each [`spill`](Self::spill) that has begun. Other
/// threads may wait, poll, signal, stop and kill at the same time.
///
/// The options can be used any number of times. A [reader](Self::stdin_from) continues where the last capture left it.
///
/// # Examples
///
/// ```
/// use shared_child::{CaptureOptions, Limit, SpawnOptions};
/// use std::{process::Command, time::Duration};
///
/// # fn main() -> std::io::Result<()> {
/// let captured = SpawnOptions::new().tree(true).capture(
///     Command::new("rustc").arg("--version"),
///     CaptureOptions::new()
///         .timeout(Duration::from_secs(60))
///         .grace(Duration::from_secs(5))
///         .limit(Limit::head_and_tail(32 << 10, 32 << 10)),
/// )?;
/// assert!(captured.success());
/// assert!(captured.stdout.text().starts_with("rustc"));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct CaptureOptions<'a> {
    pub(super) bounds: Bounds,
    pub(super) input: Input<'a>,
    pub(super) on_output: Option<Box<OnOutput<'a>>>,
    pub(super) on_line: Option<Box<OnLine<'a>>>,
}

/// The options that any number of captures can share.
#[derive(Clone, Default)]
pub(super) struct Bounds {
    pub(super) timeout: Option<Duration>,
    pub(super) deadline: Option<Instant>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) idle_unless_busy: bool,
    pub(super) grace: Duration,
    pub(super) drain: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) spills: Spills,
    pub(super) stop_at_limit: bool,
    pub(super) merge_stderr: bool,
}

/// How much of each stream to keep: all if `None`.
pub(super) type Limits = [Option<Limit>; 2];

/// Where to write each stream once its limit is exceeded.
pub(super) type Spills = [Option<SpillOptions>; 2];

/// The source of the child's standard input.
#[derive(Default)]
pub(super) enum Input<'a> {
    #[default]
    Nothing,
    /// The program writes to it.
    Open,
    Bytes(Cow<'a, [u8]>),
    Reader(Box<dyn Read + Send + 'a>),
}

impl<'a> CaptureOptions<'a> {
    /// Returns the default options: all output is kept, without a timeout and without input. Such a capture takes as
    /// long as the child runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
    /// assert!(captured.stdout.text().starts_with("rustc"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes these bytes to the child's standard input, and then closes it. It is no error if the child closes its
    /// input before it has read them all.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.args(["-", "--crate-type", "lib", "--emit", "metadata=-"]);
    /// let mut capture = CaptureOptions::new();
    /// capture.stdin("pub fn answer() -> u32 { 42 }");
    /// assert!(SpawnOptions::new().capture(&mut command, &mut capture)?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdin(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.input = Input::Bytes(Cow::Owned(bytes.into()));
        self
    }

    /// Keeps the child's standard input open for [`Capture::write`](super::Capture::write), until
    /// [`close_stdin`](super::Capture::close_stdin) or [`finish`](super::Capture::finish).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.args(["-", "--crate-type", "lib", "--emit", "metadata=-"]);
    /// let capture =
    ///     SpawnOptions::new().begin_capture(&mut command, CaptureOptions::new().stdin_open())?;
    /// capture.write(b"pub fn answer() -> u32 { 42 }")?;
    /// assert!(capture.finish().success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdin_open(&mut self) -> &mut Self {
        self.input = Input::Open;
        self
    }

    /// Writes the bytes of this reader to the child's standard input, and closes it at the reader's end.
    ///
    /// The reader is read on the calling thread, when the pipe has room. While it blocks, no output is read and no
    /// deadline is kept, so use a reader that does not block for long, such as a file. If it fails, the child is
    /// stopped ([`StoppedBy::Input`](super::StoppedBy::Input)). Its input stays open until then, so that the child does
    /// not take the failure for the end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::{fs::File, process::Command}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.args(["-", "--crate-type", "lib", "--emit", "metadata=-"]);
    /// # let path = std::env::temp_dir().join(format!("shared_child-doc-{}.rs", std::process::id()));
    /// # std::fs::write(&path, "pub fn answer() -> u32 { 42 }")?;
    /// let mut capture = CaptureOptions::new();
    /// capture.stdin_from(File::open(&path)?);
    /// assert!(SpawnOptions::new().capture(&mut command, &mut capture)?.success());
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdin_from(&mut self, reader: impl Read + Send + 'a) -> &mut Self {
        self.input = Input::Reader(Box::new(reader));
        self
    }

    /// Stops the child if it still runs this long after the capture began.
    ///
    /// If there is a [`deadline`](Self::deadline) as well, the earlier of the two counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, SpawnOptions, StoppedBy};
    /// # use std::{process::Command, time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// # let mut command = if cfg!(windows) { Command::new("ping") } else { Command::new("sleep") };
    /// # if cfg!(windows) { command.args(["-n", "1000", "127.0.0.1"]); } else { command.arg("1000"); }
    /// let mut capture = CaptureOptions::new();
    /// capture.timeout(Duration::from_millis(10));
    /// let captured = SpawnOptions::new().capture(&mut command, &mut capture)?;
    /// assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.bounds.timeout = Some(timeout);
        self
    }

    /// Stops the child if it still runs at this instant.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, SpawnOptions};
    /// # use std::{process::Command, time::{Duration, Instant}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut capture = CaptureOptions::new();
    /// capture.deadline(Instant::now() + Duration::from_secs(60)); // for both commands together
    /// for argument in ["--version", "--help"] {
    ///     let mut command = Command::new("rustc");
    ///     SpawnOptions::new().capture(command.arg(argument), &mut capture)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn deadline(&mut self, deadline: Instant) -> &mut Self {
        self.bounds.deadline = Some(deadline);
        self
    }

    /// Stops the child when it has neither written output nor read input for this long
    /// ([`StoppedBy::Idle`](super::StoppedBy::Idle)).
    ///
    /// Independent of the [timeout](Self::timeout). For a [`Capture`](super::Capture), time between its calls does not
    /// count. Nor does time in which output is not read because the file of a [spill](Self::spill) is written more
    /// slowly.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, SpawnOptions, StoppedBy};
    /// # use std::{process::Command, time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// # let mut command = if cfg!(windows) { Command::new("cmd") } else { Command::new("sleep") };
    /// # if cfg!(windows) { command.args(["/c", "ping -n 1000 127.0.0.1 >nul"]); } else { command.arg("1000"); }
    /// let mut capture = CaptureOptions::new();
    /// capture.idle_timeout(Duration::from_millis(10)).timeout(Duration::from_secs(3600));
    /// let captured = SpawnOptions::new().tree(true).capture(&mut command, &mut capture)?;
    /// assert_eq!(captured.stopped_by, Some(StoppedBy::Idle));
    /// # Ok(())
    /// # }
    /// ```
    pub fn idle_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.bounds.idle_timeout = Some(timeout);
        self
    }

    /// With `true`, a child that has used CPU time is not [idle](Self::idle_timeout), even if it is silent. If it leads
    /// a [tree](crate::SpawnOptions::tree), the CPU time of every member counts.
    ///
    /// The capture reads the CPU time eight times per idle timeout, so the child is stopped up to an eighth of the
    /// timeout later. The time comes from the cgroup or the job object of the tree. Otherwise each read costs a search
    /// for the members: a few milliseconds on a machine with many processes. On Linux, less than 10 ms of CPU time may
    /// then remain unnoticed, but a process that waits for a processor counts as busy. The end of a member counts as
    /// use.
    ///
    /// A capture with both options is [`Unsupported`](std::io::ErrorKind::Unsupported) where the system does not report
    /// the CPU times of running processes: OpenBSD, DragonFly, illumos, Solaris, Haiku, and Linux without `/proc`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::CaptureOptions, std::time::Duration};
    /// let mut capture = CaptureOptions::new();
    /// capture.idle_timeout(Duration::from_secs(300)).idle_unless_busy(true); // a long link step is no hang
    /// ```
    pub fn idle_unless_busy(&mut self, unless_busy: bool) -> &mut Self {
        self.bounds.idle_unless_busy = unless_busy;
        self
    }

    /// Sets how long the child has to end when the capture stops it, for any reason: the capture requests it to
    /// terminate, like [`SharedChild::stop`](crate::SharedChild::stop), and kills it when the grace is over. Without a
    /// grace it kills at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::CaptureOptions, std::time::Duration};
    /// let mut capture = CaptureOptions::new();
    /// capture.timeout(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// ```
    pub fn grace(&mut self, grace: Duration) -> &mut Self {
        self.bounds.grace = grace;
        self
    }

    /// Sets how long to read after the child has exited while another process holds the other end of a pipe. The
    /// default is 200 ms. With [`Duration::MAX`] the capture reads until all processes have closed the pipe, up to the
    /// [timeout](Self::timeout); without a timeout, it may never end. After a stop, the drain time is at most one
    /// second.
    ///
    /// The bytes that are in the pipe at the end of this time are still read. The stream's end is then
    /// [`HeldOpen`](super::StreamEnd::HeldOpen), and a process that writes to the pipe later gets SIGPIPE or an error.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::CaptureOptions, std::time::Duration};
    /// let mut capture = CaptureOptions::new();
    /// capture.timeout(Duration::from_secs(60)).drain(Duration::MAX); // reads what its daemons write, too
    /// ```
    pub fn drain(&mut self, drain: Duration) -> &mut Self {
        self.bounds.drain = Some(drain);
        self
    }

    /// Sets how much of each stream to keep. Bytes beyond the limit are read, so that the child does not block, and
    /// counted, but not kept.
    ///
    /// A number keeps that many bytes from the beginning of the stream: [`Limit::head`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured =
    ///     SpawnOptions::new().capture(command.arg("--version"), CaptureOptions::new().limit(5))?;
    /// assert_eq!(captured.stdout.bytes, b"rustc");
    /// assert!(captured.stdout.omitted > 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(&mut self, limit: impl Into<Limit>) -> &mut Self {
        self.bounds.limits = [Some(limit.into()); 2];
        self
    }

    /// Sets how much of one of the two streams to keep.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, Limit, Stream};
    /// let mut capture = CaptureOptions::new();
    /// capture.limit_of(Stream::Stderr, Limit::tail(16 << 10));
    /// ```
    pub fn limit_of(&mut self, stream: Stream, limit: impl Into<Limit>) -> &mut Self {
        self.bounds.limits[stream as usize] = Some(limit.into());
        self
    }

    /// Writes a stream to a new file once it exceeds its [limit](Self::limit): from the first byte, up to `cap` bytes.
    /// The limit still says how much stays in memory. [`CapturedStream::spilled`](super::CapturedStream::spilled) says
    /// how much was written.
    ///
    /// The file is created when the limit is exceeded, and not before: never without a limit. A path that exists is
    /// refused, even a symbolic link or a FIFO: no file is overwritten. For both streams in one file use
    /// [`merge_stderr`](Self::merge_stderr).
    ///
    /// **A failure is no failure of the command.** If the file cannot be created, or the disk is full,
    /// [`Spilled::error`](super::Spilled::error) says so, and the capture goes on.
    ///
    /// **A slow file system delays no deadline.** A thread writes the file. While more than 128 KiB wait for it, the
    /// stream is not read, so the child waits as if it wrote to the file itself. The file is given up if a write takes
    /// more than two seconds. At the end, the capture waits for the file: as long as there is progress, but at most two
    /// seconds after its deadline. The thread of a file that was given up ends when its system call returns.
    ///
    /// The capture uses, besides the limit, some 500 KiB, and as much again as the limit while it begins the file.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions, Stream}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// # let path = std::env::temp_dir().join(format!("shared_child-spill-{}.log", std::process::id()));
    /// let mut capture = CaptureOptions::new();
    /// capture.limit(5).spill(Stream::Stdout, &path, 1 << 30);
    /// let captured = SpawnOptions::new().capture(Command::new("rustc").arg("--version"), &mut capture)?;
    /// assert_eq!(captured.stdout.bytes, b"rustc");
    /// let spilled = captured.stdout.spilled.expect("the limit was exceeded");
    /// assert_eq!(spilled.bytes, captured.stdout.total);
    /// assert!(std::fs::read_to_string(&path)?.starts_with("rustc 1."));
    /// # std::fs::remove_file(&path)
    /// # }
    /// ```
    pub fn spill(&mut self, stream: Stream, path: impl Into<PathBuf>, cap: u64) -> &mut Self {
        let target = Target::Path(path.into());
        self.bounds.spills[stream as usize] = Some(SpillOptions { target, cap });
        self
    }

    /// Writes a stream to this file once it exceeds its limit, otherwise like [`spill`](Self::spill). The file is used
    /// as it is: it is written from its current position, is not truncated, and may be a device or a FIFO.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, Stream}, std::fs::File};
    /// fn log_stderr(capture: &mut CaptureOptions<'_>, log: File) {
    ///     capture.limit_of(Stream::Stderr, 64 << 10).spill_to(Stream::Stderr, log, 1 << 30);
    /// }
    /// ```
    pub fn spill_to(&mut self, stream: Stream, file: File, cap: u64) -> &mut Self {
        let target = Target::File(Arc::new(file));
        self.bounds.spills[stream as usize] = Some(SpillOptions { target, cap });
        self
    }

    /// Stops the child when it has written more to a stream than is kept.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, SpawnOptions, StoppedBy, Stream};
    /// # use std::process::Command;
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new()
    ///     .capture(command.arg("--version"), CaptureOptions::new().limit(5).stop_at_limit(true))?;
    /// assert_eq!(captured.stopped_by, Some(StoppedBy::Limit(Stream::Stdout)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_at_limit(&mut self, stop: bool) -> &mut Self {
        self.bounds.stop_at_limit = stop;
        self
    }

    /// Redirects the child's standard error to its standard output, so that both arrive in the order in which they were
    /// written, as [`Captured::stdout`](super::Captured::stdout).
    ///
    /// This happens at the spawn, and so requires [`SpawnOptions::capture`](crate::SpawnOptions::capture) or
    /// [`SpawnOptions::spawn_piped`](crate::SpawnOptions::spawn_piped).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new()
    ///     .capture(command.arg("--no-such-flag"), CaptureOptions::new().merge_stderr(true))?;
    /// assert!(captured.stdout.text().contains("no-such-flag"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge_stderr(&mut self, merge: bool) -> &mut Self {
        self.bounds.merge_stderr = merge;
        self
    }

    /// Calls `show` with output as it arrives, in pieces of any size, regardless of the [limits](Self::limit). If it
    /// returns [`ControlFlow::Break`], the child is stopped, and no callback is called again.
    ///
    /// The callback runs on the calling thread: while it blocks, no output is read and no deadline is kept. If it
    /// panics, the call of the capture panics. A child that [`SpawnOptions::capture`](crate::SpawnOptions::capture)
    /// spawned is then killed. A [`Capture`](super::Capture) can go on: its next read returns the output, which is not
    /// shown again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command, std::ops::ControlFlow};
    /// # fn main() -> std::io::Result<()> {
    /// let mut length = 0;
    /// let mut capture = CaptureOptions::new();
    /// capture.limit(0).on_output(|_, bytes| {
    ///     length += bytes.len();
    ///     ControlFlow::Continue(())
    /// });
    /// SpawnOptions::new().capture(Command::new("rustc").arg("--version"), &mut capture)?;
    /// drop(capture);
    /// assert!(length > 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_output(
        &mut self,
        show: impl FnMut(Stream, &[u8]) -> ControlFlow<()> + Send + 'a,
    ) -> &mut Self {
        self.on_output = Some(Box::new(show));
        self
    }

    /// Calls `show` with each line of output, otherwise like [`on_output`](Self::on_output). Both may be set.
    ///
    /// A line of more than 64 KiB arrives in pieces, which do not split a UTF-8 character: see [`Line`]. The last line
    /// of a stream need not end with a newline.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command, std::ops::ControlFlow};
    /// # fn main() -> std::io::Result<()> {
    /// let mut capture = CaptureOptions::new();
    /// capture.on_line(|stream, line| {
    ///     println!("{stream}: {line}");
    ///     ControlFlow::Continue(())
    /// });
    /// SpawnOptions::new().capture(Command::new("rustc").arg("--version"), &mut capture)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_line(
        &mut self,
        show: impl FnMut(Stream, Line<'_>) -> ControlFlow<()> + Send + 'a,
    ) -> &mut Self {
        self.on_line = Some(Box::new(show));
        self
    }
}

impl<'a> CaptureOptions<'a> {
    /// Returns the same options, which use this input and these callbacks, and leave them here.
    pub(super) fn lend(&mut self) -> CaptureOptions<'_> {
        let input = match &mut self.input {
            Input::Nothing => Input::Nothing,
            Input::Open => Input::Open,
            Input::Bytes(bytes) => Input::Bytes(Cow::Borrowed(bytes)),
            Input::Reader(reader) => Input::Reader(Box::new(reader)),
        };
        let on_output = self.on_output.as_mut().map(|show| Box::new(show) as Box<OnOutput<'_>>);
        let on_line = self.on_line.as_mut().map(|show| Box::new(show) as Box<OnLine<'_>>);
        CaptureOptions { bounds: self.bounds.clone(), input, on_output, on_line }
    }

    /// Returns the same options with the input and the callbacks, which are not left here.
    pub(super) fn take(&mut self) -> Self {
        CaptureOptions {
            bounds: self.bounds.clone(),
            input: std::mem::take(&mut self.input),
            on_output: self.on_output.take(),
            on_line: self.on_line.take(),
        }
    }
}

impl fmt::Debug for CaptureOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CaptureOptions");
        match &self.input {
            Input::Nothing => {}
            Input::Open => _ = debug.field("stdin", &format_args!("open")),
            Input::Bytes(bytes) => _ = debug.field("stdin", &format_args!("{} bytes", bytes.len())),
            Input::Reader(_) => _ = debug.field("stdin", &format_args!("a reader")),
        }
        debug.field("timeout", &self.bounds.timeout).field("deadline", &self.bounds.deadline);
        debug
            .field("idle_timeout", &self.bounds.idle_timeout)
            .field("idle_unless_busy", &self.bounds.idle_unless_busy);
        debug
            .field("grace", &self.bounds.grace)
            .field("drain", &self.bounds.drain.unwrap_or(DRAIN));
        debug
            .field("limits", &self.bounds.limits)
            .field("spills", &self.bounds.spills)
            .field("stop_at_limit", &self.bounds.stop_at_limit);
        debug.field("merge_stderr", &self.bounds.merge_stderr);
        debug.finish_non_exhaustive()
    }
}
