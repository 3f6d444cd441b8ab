//! The order in which the bytes of both streams arrived.

use super::Stream;
use std::fmt;

/// A part of the output of a child: from [`Chunk::parts`](super::Chunk::parts) or
/// [`Captured::parts`](super::Captured::parts).
///
/// # Examples
///
/// See [`Chunk`](super::Chunk).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes of one stream. There is at least one.
    Bytes(Stream, &'a [u8]),
    /// The number of bytes of a stream that were omitted. A stream lacks the bytes of one place, and this stands where
    /// they begin.
    Omitted(Stream, u64),
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
    pub(super) fn parts<'c>(&self, streams: [Kept<'c>; 2]) -> Vec<Part<'c>> {
        let mut parts = Vec::with_capacity(2 * self.0.len() + 2);
        let mut positions = [0_u64; 2];
        for Run { stream, length } in &self.0 {
            let Kept { head, omitted, tail } = streams[*stream as usize];
            let start = positions[*stream as usize];
            let end = start + length;
            positions[*stream as usize] = end;
            let gap = head.len() as u64;
            parts.push(Part::Bytes(*stream, between(start, end, head, 0)));
            if omitted > 0 && start <= gap && gap < end {
                parts.push(Part::Omitted(*stream, omitted));
            }
            parts.push(Part::Bytes(*stream, between(start, end, tail, gap + omitted)));
        }
        parts.retain(|part| !matches!(part, Part::Bytes(_, [])));
        parts
    }
}

/// Returns the bytes that have these positions in their stream, among bytes that begin at `first`.
fn between(start: u64, end: u64, bytes: &[u8], first: u64) -> &[u8] {
    let index = |position: u64| position.saturating_sub(first).min(bytes.len() as u64) as usize;
    &bytes[index(start)..index(end)]
}

/// The bytes that are kept of a stream: before the gap, and after it.
#[derive(Clone, Copy)]
pub(super) struct Kept<'c> {
    head: &'c [u8],
    omitted: u64,
    tail: &'c [u8],
}

impl<'c> Kept<'c> {
    pub(super) fn new(bytes: &'c [u8], omitted_at: usize, omitted: u64) -> Self {
        // Without omitted bytes, no part ends there. The program may have changed the bytes of a result.
        let gap = if omitted > 0 { omitted_at.min(bytes.len()) } else { bytes.len() };
        let (head, tail) = bytes.split_at(gap);
        Self { head, omitted, tail }
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
    use Part::{Bytes, Omitted};
    use Stream::{Stderr, Stdout};

    #[test]
    fn parts_are_in_the_order_of_arrival() {
        let mut order = Order::default();
        for (stream, count) in [(Stdout, 2), (Stdout, 1), (Stderr, 3), (Stderr, 0), (Stdout, 2)] {
            order.push(stream, count);
        }
        let streams = [Kept::new(b"abcde", 5, 0), Kept::new(b"xyz", 3, 0)];
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
        let streams = [Kept::new(b"abhij", 2, 5), Kept::new(b"xy", 2, 0)];
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
        let streams = [Kept::new(b"", 0, 10), Kept::new(b"x", 1, 1)];
        let expected = [Omitted(Stdout, 10), Bytes(Stderr, b"x"), Omitted(Stderr, 1)];
        assert_eq!(order.parts(streams), expected);
        let streams = [Kept::new(b"abc", 3, 7), Kept::new(b"y", 0, 1)];
        let expected =
            [Bytes(Stdout, b"abc"), Omitted(Stderr, 1), Omitted(Stdout, 7), Bytes(Stderr, b"y")];
        assert_eq!(order.parts(streams), expected);
    }

    #[test]
    fn parts_are_not_split_where_nothing_was_omitted() {
        let mut order = Order::default();
        order.push(Stdout, 5);
        let streams = [Kept::new(b"abcde", 2, 0), Kept::new(b"", 0, 0)];
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
        let streams = [Kept::new(&bytes, 0, 0); 2];
        let bytes = order.parts(streams).into_iter().map(|part| match part {
            Bytes(_, bytes) => bytes.len(),
            Omitted(..) => 0,
        });
        assert_eq!(bytes.sum::<usize>(), 20 * RUNS);
    }
}
