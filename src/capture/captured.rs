//! The result of a capture.

use super::Stream;
use super::lines::unfinished_character;
use super::order::{Kept, Order, Part};
use super::spill::Spilled;
use crate::Usage;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::process::{ExitStatus, Output};
use std::time::Duration;

/// What a child wrote, and how it ended.
///
/// A conversion into an [`Output`] fails only if there is no status. [`Debug`] is fit for a log: it abridges long
/// output.
///
/// # Examples
///
/// ```
/// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::{Command, Output}};
/// # fn main() -> std::io::Result<()> {
/// let mut command = Command::new("rustc");
/// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
/// println!("{captured:?}");
/// let output: Output = captured.try_into()?;
/// assert!(output.status.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Captured {
    /// The child's exit status. `None` if it is not known: [`error`](Self::error) has the cause.
    pub status: Option<ExitStatus>,
    /// What the child wrote to standard output.
    pub stdout: CapturedStream,
    /// What the child wrote to standard error.
    pub stderr: CapturedStream,
    /// Why the capture stopped the child, if it did. The status shows whether the child ended by itself at the same
    /// moment.
    pub stopped_by: Option<StoppedBy>,
    /// What [`SharedChild::usage`](crate::SharedChild::usage) returns at the end of the capture.
    pub usage: Option<Usage>,
    /// The time from the beginning of the capture to its end, including the spawn if the capture spawned the child. The
    /// capture ends in one of its calls, or [in the background](super::Capture::read_in_background).
    pub elapsed: Duration,
    /// The error, if any, of which a lost status is first: the status is lost, because another part of the program has reaped the child
    /// (`unix::ReapedElsewhere`); the child was killed and has not ended ([`TimedOut`](io::ErrorKind::TimedOut)); a
    /// process could not be killed, or the tree could not be scanned; a read or a write failed.
    pub error: Option<io::Error>,
    /// The command in backquotes, or the process ID, for messages.
    pub(super) command: String,
    pub(super) order: Order,
}

impl Captured {
    /// Returns whether the child succeeded and was not stopped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
    /// assert!(captured.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn success(&self) -> bool {
        self.stopped_by.is_none() && self.status.is_some_and(|status| status.success())
    }

    /// Returns one of the two streams.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions, Stream}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
    /// for stream in [Stream::Stdout, Stream::Stderr] {
    ///     println!("{stream}: {} bytes", captured.stream(stream).total);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stream(&self, stream: Stream) -> &CapturedStream {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// Returns the bytes of both streams in the order of their arrival, and where bytes were omitted, like
    /// [`Chunk::parts`](super::Chunk::parts).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, Part, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
    /// for part in captured.parts() {
    ///     match part {
    ///         Part::Bytes(stream, bytes) => println!("{stream}: {} bytes", bytes.len()),
    ///         Part::Omitted(stream, count) => println!("{stream}: {count} bytes omitted"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.order.parts([self.stdout.kept(), self.stderr.kept()]).into_iter()
    }
}

/// Fails with [`Captured::error`] if the status is not known.
impl TryFrom<Captured> for Output {
    type Error = io::Error;

    fn try_from(captured: Captured) -> io::Result<Self> {
        let Captured { status, stdout, stderr, error, .. } = captured;
        match status {
            Some(status) => Ok(Self { status, stdout: stdout.bytes, stderr: stderr.bytes }),
            None => Err(error.unwrap_or_else(|| io::Error::other("the status is not known"))),
        }
    }
}

/// Why a capture stopped the child.
///
/// # Examples
///
/// ```
/// use shared_child::{StoppedBy, Stream};
///
/// assert_eq!(StoppedBy::Deadline.to_string(), "its deadline passed");
/// assert_eq!(StoppedBy::Limit(Stream::Stderr).to_string(), "it exceeded the limit of stderr");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoppedBy {
    /// The timeout or the deadline has passed.
    Deadline,
    /// The child was idle for the [`idle_timeout`](super::CaptureOptions::idle_timeout).
    Idle,
    /// The child wrote more to this stream than is kept: [`stop_at_limit`](super::CaptureOptions::stop_at_limit).
    Limit(Stream),
    /// A callback returned [`ControlFlow::Break`](std::ops::ControlFlow::Break).
    Callback,
    /// Reading the input from its reader failed, or writing it to the child.
    Input,
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("its deadline passed"),
            Self::Idle => f.write_str("it was idle for too long"),
            Self::Limit(stream) => write!(f, "it exceeded the limit of {stream}"),
            Self::Callback => f.write_str("its output was rejected"),
            Self::Input => f.write_str("its input failed"),
        }
    }
}

/// What came through one pipe.
///
/// # Examples
///
/// ```
/// # use {shared_child::{CaptureOptions, SpawnOptions, StreamEnd}, std::process::Command};
/// # fn main() -> std::io::Result<()> {
/// let mut command = Command::new("rustc");
/// let captured = SpawnOptions::new().capture(command.arg("--version"), &mut CaptureOptions::new())?;
/// assert_eq!(captured.stdout.bytes.len() as u64, captured.stdout.total);
/// assert_eq!(captured.stdout.end, StreamEnd::Closed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct CapturedStream {
    /// The bytes that were kept.
    pub bytes: Vec<u8>,
    /// How many bytes were not kept because of a [limit](super::CaptureOptions::limit).
    pub omitted: u64,
    /// The index in `bytes` at which the omitted bytes would stand.
    pub omitted_at: usize,
    /// How many bytes came through the pipe, since the last [read](super::Capture::read) if there was one.
    pub total: u64,
    /// How the stream ended.
    pub end: StreamEnd,
    /// The file to which the stream was written because it exceeded its limit:
    /// [`CaptureOptions::spill`](super::CaptureOptions::spill).
    pub spilled: Option<Spilled>,
}

impl CapturedStream {
    /// Returns the bytes that were kept as text. U+FFFD replaces what is not UTF-8, and a line marks the place of
    /// omitted bytes. A character that a limit cuts is omitted as a whole.
    ///
    /// A [`Chunk`](super::Chunk) that ends at a time or after a number of bytes may end within a character.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, Limit, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let captured = SpawnOptions::new()
    ///     .capture(command.arg("--version"), CaptureOptions::new().limit(Limit::head_and_tail(5, 1)))?;
    /// assert!(captured.stdout.text().starts_with("rustc\n[… "));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        text(&self.bytes, self.omitted_at, self.omitted)
    }

    pub(super) fn kept(&self) -> Kept<'_> {
        Kept::new(&self.bytes, self.omitted_at, self.omitted)
    }

    /// Returns the last lines: at most ten, and at most 2 KiB. A mark shows where a line was cut.
    pub(super) fn ending(&self) -> String {
        const BYTES: usize = 2 << 10;
        const LINES: usize = 10;
        let mut start = self.bytes.len().saturating_sub(BYTES);
        if start > 0 {
            start += continued_character(&self.bytes[start..]);
        }
        let omitted = if self.omitted_at < start { 0 } else { self.omitted };
        let text = text(&self.bytes[start..], self.omitted_at.saturating_sub(start), omitted);
        let text = text.trim_end();
        match text.rmatch_indices('\n').nth(LINES - 1) {
            Some((newline, _)) => text[newline + 1..].to_owned(),
            None if start > 0 => format!("…{text}"),
            None => text.to_owned(),
        }
    }
}

/// Returns bytes as text, with a mark where bytes were omitted.
fn text(bytes: &[u8], omitted_at: usize, omitted: u64) -> Cow<'_, str> {
    if omitted == 0 {
        return String::from_utf8_lossy(bytes);
    }
    let (head, tail) = bytes.split_at(omitted_at.min(bytes.len()));
    // A character that the gap cuts is omitted as a whole.
    let head = &head[..head.len() - unfinished_character(head)];
    let tail = &tail[continued_character(tail)..];
    let omitted = omitted + (bytes.len() - head.len() - tail.len()) as u64;
    let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
    let new_line = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    Cow::Owned(format!("{head}{new_line}[… {omitted} bytes omitted …]\n{tail}"))
}

/// Returns how many of the first bytes continue a UTF-8 character whose beginning is missing.
fn continued_character(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count()
}

/// Returns the bytes that were kept.
impl AsRef<[u8]> for CapturedStream {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for CapturedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CapturedStream");
        debug.field("text", &Abridged(&self.text())).field("total", &self.total);
        if self.omitted > 0 {
            debug.field("omitted", &self.omitted);
        }
        if let Some(spilled) = &self.spilled {
            debug.field("spilled", spilled);
        }
        debug.field("end", &self.end).finish()
    }
}

/// Shows the beginning and the end of a long text.
struct Abridged<'a>(&'a str);

impl fmt::Debug for Abridged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EACH: usize = 500;
        let text = self.0;
        if text.len() <= 2 * EACH {
            return text.fmt(f);
        }
        let boundary = |at: usize| {
            (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
        };
        let (first, last) = (boundary(EACH), boundary(text.len() - EACH));
        write!(f, "{:?} … {:?}", &text[..first], &text[last..])
    }
}

/// How the capture of a stream ended.
///
/// # Examples
///
/// ```
/// use shared_child::{CapturedStream, StreamEnd};
///
/// fn another_process_has_the_pipe(stream: &CapturedStream) -> bool {
///     stream.end == StreamEnd::HeldOpen
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The stream has not ended: only in a [`Chunk`](super::Chunk).
    Open,
    /// The stream was read to its end.
    Closed,
    /// A process still held the other end of the pipe when the [drain time](super::CaptureOptions::drain) was over: a
    /// process that the child started, or the child itself, if it was killed and has not ended.
    HeldOpen,
    /// A read failed. [`Captured::error`](super::Captured::error) has the error, unless another error came first.
    Failed,
    /// There was no pipe: the stream was not piped, was taken, or was merged into standard output.
    NotCaptured,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: &[u8], omitted_at: usize, omitted: u64) -> CapturedStream {
        let total = bytes.len() as u64 + omitted;
        let end = StreamEnd::Closed;
        CapturedStream { bytes: bytes.to_vec(), omitted, omitted_at, total, end, spilled: None }
    }

    #[test]
    fn text_marks_omitted_bytes() {
        assert_eq!(stream(b"all\xff", 4, 0).text(), "all\u{fffd}");
        assert_eq!(stream(b"headtail", 4, 9).text(), "head\n[… 9 bytes omitted …]\ntail");
        assert_eq!(stream(b"head\n", 5, 9).text(), "head\n[… 9 bytes omitted …]\n");
        assert_eq!(stream(b"tail", 0, 9).text(), "[… 9 bytes omitted …]\ntail");
        // Two characters are cut: one byte of two is kept, and two of three.
        assert_eq!(stream(b"h\xc3\x82\xact", 2, 9).text(), "h\n[… 12 bytes omitted …]\nt");
    }

    #[test]
    fn ending_is_bounded_and_marks_what_is_missing() {
        assert_eq!(stream(b"", 0, 0).ending(), "");
        assert_eq!(stream(b"one\ntwo\r\n\n", 0, 0).ending(), "one\ntwo");
        let lines: String = (0..100).map(|number| format!("{number}\n")).collect();
        let last: Vec<String> = (90..100).map(|number| number.to_string()).collect();
        assert_eq!(stream(lines.as_bytes(), 0, 0).ending(), last.join("\n"));
        // A line that is cut, at any byte of a character.
        for before in ["", "a", "ab"] {
            let text = format!("{before}{}", "\u{20ac}".repeat(10_000));
            let ending = stream(text.as_bytes(), 0, 0).ending();
            assert!(ending.starts_with("…\u{20ac}") && ending.len() <= 2051, "{ending}");
            assert!(!ending.contains('\u{fffd}'), "{ending}");
        }
        // Omitted bytes are marked wherever they are among the last lines.
        let kept = [&[b'x'; 5000][..], b"\nlast"].concat();
        let ending = stream(&kept, kept.len(), 9).ending();
        assert!(ending.ends_with("x\nlast\n[… 9 bytes omitted …]"), "{ending}");
        assert!(stream(&kept, 5000, 9).ending().contains("x\n[… 9 bytes omitted …]\n\nlast"));
        assert!(!stream(&kept, 0, 9).ending().contains("omitted"));
    }

    #[test]
    fn debug_abridges_long_output() {
        let text = format!("begin{}\u{20ac}{}end", "x".repeat(499), "y".repeat(1_000_000));
        let shown = format!("{:?}", stream(text.as_bytes(), 0, 0));
        assert!(shown.len() < 1200 && shown.contains("begin") && shown.contains("end"), "{shown}");
    }
}
