//! What came of a capture.

use super::Stream;
use super::keep::Kept;
use super::lines::unfinished_character;
use crate::Usage;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::process::{ExitStatus, Output};
use std::time::Duration;

/// What a child wrote, and how it ended.
///
/// It can be turned into an [`Output`], which fails only if there is no status. [`Debug`]
/// shows it in a form that is fit for a log: long output is abridged.
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
    /// The child's exit status. `None` if it is not known; then [`error`](Self::error) says why.
    pub status: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub stdout: CapturedStream,
    /// What it wrote to standard error.
    pub stderr: CapturedStream,
    /// Why the capture has stopped the child, if it has. (The child may have ended by itself at the same moment:
    /// the status tells.)
    pub stopped_by: Option<StoppedBy>,
    /// What the child has used, as [`SharedChild::usage`](crate::SharedChild::usage) returns it at the end of the
    /// capture.
    pub usage: Option<Usage>,
    /// How long it took, from the beginning of the capture, or of the spawn if that was a part of it.
    pub elapsed: Duration,
    /// The first error, if there was one: the status is lost, since another part of the program has reaped the child
    /// (`unix::ReapedElsewhere`); the child was killed and has not ended ([`TimedOut`](io::ErrorKind::TimedOut)); a
    /// process could not be killed, or the tree could not be searched; input or output failed.
    pub error: Option<io::Error>,
}

impl Captured {
    /// Whether the child has ended with success, and was not stopped.
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

    /// One of the two streams.
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

/// Why a capture has stopped the child.
///
/// # Examples
///
/// ```
/// use shared_child::{StoppedBy, Stream};
///
/// assert_eq!(StoppedBy::Deadline.to_string(), "its time was up");
/// assert_eq!(StoppedBy::Limit(Stream::Stderr).to_string(), "it wrote too much to stderr");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoppedBy {
    /// Its time was up.
    Deadline,
    /// It wrote more to this stream than is kept, and [that](super::CaptureOptions::stop_at_limit) was the end.
    Limit(Stream),
    /// A callback returned [`ControlFlow::Break`](std::ops::ControlFlow::Break).
    Callback,
    /// The reader of its input failed.
    Input,
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("its time was up"),
            Self::Limit(stream) => write!(f, "it wrote too much to {stream}"),
            Self::Callback => f.write_str("no more of its output was wanted"),
            Self::Input => f.write_str("its input could not be read"),
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
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedStream {
    /// What is kept.
    pub bytes: Vec<u8>,
    /// How many bytes were not kept, for the sake of a [limit](super::CaptureOptions::limit).
    pub omitted: u64,
    /// The index in `bytes` at which the omitted bytes would stand.
    pub omitted_at: usize,
    /// How many bytes came through the pipe in all.
    pub total: u64,
    /// How it ended.
    pub end: StreamEnd,
}

impl CapturedStream {
    pub(super) fn new(kept: Kept, end: StreamEnd) -> Self {
        let Kept { bytes, gap, missing } = kept;
        let total = bytes.len() as u64 + missing;
        Self { bytes, omitted: missing, omitted_at: gap, total, end }
    }

    /// What is kept, as text. What is not UTF-8 is replaced by U+FFFD. Where bytes are missing a line says so.
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
        if self.omitted == 0 {
            return String::from_utf8_lossy(&self.bytes);
        }
        let (head, tail) = self.bytes.split_at(self.omitted_at.min(self.bytes.len()));
        // A character that is cut by the gap is missing as well.
        let head = &head[..head.len() - unfinished_character(head)];
        let is_rest = |byte: &u8| *byte & 0b1100_0000 == 0b1000_0000;
        let rest = tail.iter().take(3).take_while(|byte| is_rest(byte)).count();
        let tail = &tail[rest..];
        let missing = self.total - (head.len() + tail.len()) as u64;
        let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        let new_line = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        Cow::Owned(format!("{head}{new_line}[… {missing} bytes missing …]\n{tail}"))
    }
}

/// What is kept.
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
        debug.field("end", &self.end).finish()
    }
}

/// The beginning and the end of a long text.
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
    /// It was read to its end.
    Closed,
    /// Another process still had the other end of the pipe when the time for that was over: a process that the child has
    /// started, or the child itself, if it does not end though it was killed.
    HeldOpen,
    /// A read failed. [`Captured::error`](super::Captured::error) has the error, unless another error came first.
    Failed,
    /// There was nothing to read from: the stream was not piped, was taken, or was merged into standard output.
    NotCaptured,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: &[u8], gap: usize, missing: u64) -> CapturedStream {
        CapturedStream::new(Kept { bytes: bytes.to_vec(), gap, missing }, StreamEnd::Closed)
    }

    #[test]
    fn text_says_what_is_missing() {
        assert_eq!(stream(b"all\xff", 4, 0).text(), "all\u{fffd}");
        assert_eq!(stream(b"headtail", 4, 9).text(), "head\n[… 9 bytes missing …]\ntail");
        assert_eq!(stream(b"head\n", 5, 9).text(), "head\n[… 9 bytes missing …]\n");
        assert_eq!(stream(b"tail", 0, 9).text(), "[… 9 bytes missing …]\ntail");
        // Characters that are cut: one byte of two, and two of three.
        assert_eq!(stream(b"h\xc3\x82\xact", 2, 9).text(), "h\n[… 12 bytes missing …]\nt");
    }

    #[test]
    fn debug_is_short() {
        let text = format!("begin{}\u{20ac}{}end", "x".repeat(499), "y".repeat(1_000_000));
        let shown = format!("{:?}", stream(text.as_bytes(), 0, 0));
        assert!(shown.len() < 1200 && shown.contains("begin") && shown.contains("end"), "{shown}");
    }
}
