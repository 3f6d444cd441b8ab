//! What one read of a capture returns.

use super::{CapturedStream, StoppedBy, Stream};
use std::fmt;
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
        self.order.parts([&self.stdout, &self.stderr]).into_iter()
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

/// A part of the output of a child: from [`Chunk::parts`] or [`Captured::parts`](super::Captured::parts).
///
/// # Examples
///
/// See [`Chunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes of one stream. There is at least one.
    Bytes(Stream, &'a [u8]),
    /// The number of bytes of a stream that were omitted. A stream lacks the bytes of one place, and this stands where
    /// they begin.
    Omitted(Stream, u64),
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

/// The order in which bytes arrived.
#[derive(Default)]
pub(super) struct Order(Vec<Run>);

/// Bytes of one stream in sequence.
struct Run {
    stream: Stream,
    length: u64,
}

/// The most runs, so that a child cannot make them use more and more memory. The order of later bytes is not kept.
const RUNS: usize = 1024;

impl Order {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, stream: Stream, count: usize) {
        if count == 0 {
            return;
        }
        let is_full = self.0.len() >= RUNS;
        for (back, run) in self.0.iter_mut().rev().take(2).enumerate() {
            if run.stream == stream && (back == 0 || is_full) {
                run.length += count as u64;
                return;
            }
        }
        self.0.push(Run { stream, length: count as u64 });
    }

    /// Returns the bytes that are kept of each run, and the gaps.
    pub(super) fn parts<'c>(&self, streams: [&'c CapturedStream; 2]) -> Vec<Part<'c>> {
        let mut parts = Vec::with_capacity(self.0.len());
        let mut positions = [0_u64; 2];
        for Run { stream, length } in &self.0 {
            let captured = streams[*stream as usize];
            let start = positions[*stream as usize];
            let end = start + length;
            positions[*stream as usize] = end;
            // The omitted bytes stand between the head and the tail. Without them, no part ends there.
            let gap = if captured.omitted > 0 { captured.omitted_at } else { captured.bytes.len() };
            // The program may have changed the bytes.
            let (head, tail) = captured.bytes.split_at(gap.min(captured.bytes.len()));
            let gap_start = gap as u64;
            let push_kept = |parts: &mut Vec<Part<'c>>, kept: &'c [u8], from: u64| {
                let index = |position: u64| position.saturating_sub(from).min(kept.len() as u64);
                let bytes = &kept[index(start) as usize..index(end) as usize];
                if !bytes.is_empty() {
                    parts.push(Part::Bytes(*stream, bytes));
                }
            };
            push_kept(&mut parts, head, 0);
            if captured.omitted > 0 && (start..end).contains(&gap_start) {
                parts.push(Part::Omitted(*stream, captured.omitted));
            }
            push_kept(&mut parts, tail, gap_start + captured.omitted);
        }
        parts
    }
}

/// The runs are of no use in a log.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamEnd;
    use Part::{Bytes, Omitted};
    use Stream::{Stderr, Stdout};

    fn stream(bytes: &[u8], omitted_at: usize, omitted: u64) -> CapturedStream {
        let total = bytes.len() as u64 + omitted;
        CapturedStream {
            bytes: bytes.to_vec(),
            omitted,
            omitted_at,
            total,
            end: StreamEnd::Open,
            spilled: None,
        }
    }

    #[test]
    fn parts_are_in_the_order_of_arrival() {
        let mut order = Order::default();
        for (stream, count) in [(Stdout, 2), (Stdout, 1), (Stderr, 3), (Stderr, 0), (Stdout, 2)] {
            order.push(stream, count);
        }
        let streams = [&stream(b"abcde", 5, 0), &stream(b"xyz", 3, 0)];
        let expected = [Bytes(Stdout, b"abc"), Bytes(Stderr, b"xyz"), Bytes(Stdout, b"de")];
        assert_eq!(order.parts(streams), expected);
    }

    #[test]
    fn parts_have_a_gap_where_the_omitted_bytes_begin() {
        let mut order = Order::default();
        for (stream, count) in [(Stdout, 3), (Stderr, 1), (Stdout, 6), (Stderr, 1), (Stdout, 1)] {
            order.push(stream, count);
        }
        // Of 10 bytes, the first 2 and the last 3 are kept.
        let streams = [&stream(b"abhij", 2, 5), &stream(b"xy", 2, 0)];
        let expected = [
            Bytes(Stdout, b"ab"),
            Omitted(Stdout, 5),
            Bytes(Stderr, b"x"),
            Bytes(Stdout, b"hi"),
            Bytes(Stderr, b"y"),
            Bytes(Stdout, b"j"),
        ];
        assert_eq!(order.parts(streams), expected);
        // Nothing is kept, only the beginning, only the end.
        let streams = [&stream(b"", 0, 10), &stream(b"x", 1, 1)];
        let expected = [Omitted(Stdout, 10), Bytes(Stderr, b"x"), Omitted(Stderr, 1)];
        assert_eq!(order.parts(streams), expected);
        let streams = [&stream(b"abc", 3, 7), &stream(b"y", 0, 1)];
        let expected =
            [Bytes(Stdout, b"abc"), Omitted(Stderr, 1), Omitted(Stdout, 7), Bytes(Stderr, b"y")];
        assert_eq!(order.parts(streams), expected);
    }

    #[test]
    fn parts_are_not_split_where_nothing_was_omitted() {
        let mut order = Order::default();
        order.push(Stdout, 5);
        let streams = [&stream(b"abcde", 2, 0), &stream(b"", 0, 0)];
        assert_eq!(order.parts(streams), [Bytes(Stdout, b"abcde")]);
    }

    #[test]
    fn memory_of_the_order_is_bounded() {
        let mut order = Order::default();
        for _ in 0..10 * RUNS {
            order.push(Stdout, 1);
            order.push(Stderr, 1);
        }
        assert!(order.0.len() <= RUNS);
        let bytes = vec![b'x'; 10 * RUNS];
        let streams = [&stream(&bytes, bytes.len(), 0), &stream(&bytes, bytes.len(), 0)];
        let bytes = order.parts(streams).into_iter().map(|part| match part {
            Bytes(_, bytes) => bytes.len(),
            Omitted(..) => 0,
        });
        assert_eq!(bytes.sum::<usize>(), 20 * RUNS);
    }
}
