//! What one read of a capture returns.

use super::order::{Order, Part};
use super::{CapturedStream, StoppedBy, Stream};
use std::process::ExitStatus;

/// What a child has written since the last [read](super::Capture::read).
///
/// # Examples
///
/// ```
/// # use {shared_child::{CaptureOptions, Part, SpawnOptions, Until}, std::process::Command};
/// # fn main() -> std::io::Result<()> {
/// let mut command = Command::new("rustc");
/// command.arg("--version");
/// let capture = SpawnOptions::new().begin_capture(&mut command, &mut CaptureOptions::new())?;
/// let chunk = capture.read(Until::end());
/// for part in chunk.parts() {
///     match part {
///         Part::Bytes(stream, bytes) => println!("{stream}: {:?}", String::from_utf8_lossy(bytes)),
///         Part::Omitted(stream, count) => println!("{stream}: {count} bytes omitted"),
///     }
/// }
/// assert!(chunk.stdout.text().starts_with("rustc"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Chunk {
    /// What the child wrote to standard output.
    pub stdout: CapturedStream,
    /// What the child wrote to standard error.
    pub stderr: CapturedStream,
    /// Why the read returned.
    pub reached: Reached,
    /// Whether the child runs.
    pub state: ChildState,
    /// Why the capture stops the child, or has stopped it, if it does: as in
    /// [`Captured::stopped_by`](super::Captured::stopped_by).
    pub stopped_by: Option<StoppedBy>,
    pub(super) order: Order,
}

impl Chunk {
    /// Returns the bytes of both streams in the order of their arrival, and where bytes were omitted because of a
    /// [limit](super::CaptureOptions::limit).
    ///
    /// Two pipes do not preserve the order of writes to one and to the other: what was written to both between two
    /// moments at which the capture read is returned stream by stream. The exact order requires
    /// [`merge_stderr`](super::CaptureOptions::merge_stderr). After about a thousand changes between the streams within
    /// one chunk, the rest is returned stream by stream as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Chunk, Part};
    /// use std::io::{self, Write};
    ///
    /// fn show(chunk: &Chunk) -> io::Result<()> {
    ///     chunk.parts().try_for_each(|part| match part {
    ///         Part::Bytes(_, bytes) => io::stdout().write_all(bytes),
    ///         Part::Omitted(_, count) => writeln!(io::stdout(), "[… {count} bytes omitted …]"),
    ///     })
    /// }
    /// # let _ = show;
    /// ```
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.order.parts([self.stdout.kept(), self.stderr.kept()]).into_iter()
    }

    /// Returns one of the two streams.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Chunk, Stream};
    ///
    /// fn complains(chunk: &Chunk) -> bool {
    ///     chunk.stream(Stream::Stderr).total > 0
    /// }
    /// # let _ = complains;
    /// ```
    #[must_use]
    pub fn stream(&self, stream: Stream) -> &CapturedStream {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

/// Why a read of a capture returned.
///
/// # Examples
///
/// ```
/// use shared_child::{Chunk, Reached};
///
/// fn more_is_to_come(chunk: &Chunk) -> bool {
///     chunk.reached != Reached::End
/// }
/// # let _ = more_is_to_come;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reached {
    /// The capture is over: the child has ended, and its output was read to the end, or for the
    /// [drain](super::CaptureOptions::drain) time. Each later read returns this too.
    End,
    /// The chunk ends with a line.
    Line,
    /// The chunk ends with a piece of a line that is longer than 64 KiB. The next read returns more of the line.
    LinePiece,
    /// The chunk ends with a pattern.
    Pattern,
    /// The chunk has the number of bytes.
    Bytes,
    /// The child was quiet for the time.
    Quiet,
    /// The deadline has passed.
    Deadline,
    /// Before this read began, bytes had been omitted because of a [limit](super::CaptureOptions::limit). So where a
    /// line, a pattern or a number of bytes ends is not known, and the chunk has all that was kept.
    Omitted,
}

/// Whether a child runs.
///
/// # Examples
///
/// ```
/// use shared_child::{ChildState, Chunk};
///
/// fn report(chunk: &Chunk) {
///     match chunk.state {
///         ChildState::Running => println!("it runs"),
///         ChildState::Ended(Some(status)) => println!("it ended with {status}"),
///         ChildState::Ended(None) => println!("it ended, and another part of the program has its status"),
///     }
/// }
/// # let _ = report;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// The child has not exited, as far as the capture has seen.
    Running,
    /// The child has exited. `None` if its status is lost, because another part of the program has reaped it.
    Ended(Option<ExitStatus>),
}
