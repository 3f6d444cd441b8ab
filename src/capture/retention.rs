//! What a capture retains of a stream.

use super::spill::Spill;
use super::{CapturedStream, StreamEnd};

/// How much of a stream a capture keeps: its beginning, its end, or both.
///
/// # Examples
///
/// ```
/// use shared_child::Limit;
///
/// assert_eq!(Limit::from(1024), Limit::head(1024));
/// assert_eq!(Limit::head_and_tail(0, 1024), Limit::tail(1024));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    head: usize,
    tail: usize,
}

impl Limit {
    /// Keeps the first `bytes` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, Limit};
    /// let mut capture = CaptureOptions::new();
    /// capture.limit(Limit::head(64 << 10));
    /// ```
    #[must_use]
    pub const fn head(bytes: usize) -> Self {
        Self::head_and_tail(bytes, 0)
    }

    /// Keeps the last `bytes` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, Limit};
    /// let mut capture = CaptureOptions::new();
    /// capture.limit(Limit::tail(64 << 10));
    /// ```
    #[must_use]
    pub const fn tail(bytes: usize) -> Self {
        Self::head_and_tail(0, bytes)
    }

    /// Keeps the first `head` bytes and the last `tail` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{CaptureOptions, Limit};
    /// let mut capture = CaptureOptions::new();
    /// capture.limit(Limit::head_and_tail(16 << 10, 48 << 10));
    /// ```
    #[must_use]
    pub const fn head_and_tail(head: usize, tail: usize) -> Self {
        Self { head, tail }
    }

    const fn both(self) -> usize {
        self.head.saturating_add(self.tail)
    }
}

/// Keeps the first bytes: [`Limit::head`].
impl From<usize> for Limit {
    fn from(bytes: usize) -> Self {
        Self::head(bytes)
    }
}

/// The bytes of a stream that are retained so far. Up to 16 MiB, this uses no more memory than the limit, even in
/// `finish`.
#[derive(Debug)]
pub(super) struct Retention {
    limit: Option<Limit>,
    /// The head, followed by the tail as a circular buffer.
    bytes: Vec<u8>,
    /// Where the tail begins, from the end of the head.
    turn: usize,
    pub(super) omitted: u64,
}

impl Retention {
    pub(super) fn new(limit: Option<Limit>) -> Self {
        Self { limit, bytes: Vec::new(), turn: 0, omitted: 0 }
    }

    pub(super) fn total(&self) -> u64 {
        self.bytes.len() as u64 + self.omitted
    }

    /// Returns the buffer to append to directly, if everything is kept.
    pub(super) fn all(&mut self) -> Option<&mut Vec<u8>> {
        self.limit.is_none().then_some(&mut self.bytes)
    }

    /// Keeps what the limit allows. A spill begins with the first byte that is omitted, and receives what came before
    /// it as well.
    pub(super) fn push(&mut self, new: &[u8], spill: Option<&mut Spill>) {
        let Some(limit) = self.limit else { return self.bytes.extend_from_slice(new) };
        let (first, rest) = new.split_at(new.len().min(limit.both() - self.bytes.len()));
        self.grow(first.len(), limit.both());
        self.bytes.extend_from_slice(first);
        match spill {
            Some(spill) if spill.has_begun() => spill.push(&[], new),
            // Nothing was omitted yet, so the bytes are still in their order.
            Some(spill) if !rest.is_empty() => spill.push(&self.bytes, rest),
            _ => {}
        }
        self.omitted += rest.len() as u64;
        // If there is a rest, the tail is full, and only the end of the rest can stay.
        let tail = self.bytes.get_mut(limit.head..).unwrap_or_default();
        let rest = &rest[rest.len().saturating_sub(tail.len())..];
        if rest.is_empty() {
            return;
        }
        let (before, after) = rest.split_at(rest.len().min(tail.len() - self.turn));
        tail[self.turn..][..before.len()].copy_from_slice(before);
        tail[..after.len()].copy_from_slice(after);
        self.turn = (self.turn + rest.len()) % tail.len();
    }

    /// Grows to the limit in a few steps, since a move has the bytes in memory twice. (Most systems provide memory only
    /// when it is written to.)
    fn grow(&mut self, more: usize, limit: usize) {
        const FIRST: usize = 64 << 10;
        const SECOND: usize = 16 << 20;
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let step = match needed {
                0..=FIRST => FIRST,
                needed if needed <= SECOND => SECOND,
                needed => needed.saturating_mul(2),
            };
            self.bytes.reserve_exact(step.min(limit) - self.bytes.len());
        }
    }

    pub(super) fn finish(mut self, end: StreamEnd) -> CapturedStream {
        let omitted_at = self.limit.map_or(0, |limit| limit.head).min(self.bytes.len());
        self.bytes[omitted_at..].rotate_left(self.turn);
        // Below this share, the memory is worth the copy.
        if self.bytes.len() <= self.bytes.capacity() / 4 {
            self.bytes.shrink_to_fit();
        }
        let total = self.total();
        let (bytes, omitted) = (self.bytes, self.omitted);
        CapturedStream { bytes, omitted, omitted_at, total, end, spilled: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the retained bytes from the whole stream.
    fn expected(limit: Limit, all: &[u8]) -> (Vec<u8>, u64) {
        if all.len() <= limit.both() {
            return (all.to_vec(), 0);
        }
        let kept = [&all[..limit.head], &all[all.len() - limit.tail..]].concat();
        (kept, (all.len() - limit.both()) as u64)
    }

    #[test]
    fn head_and_tail_are_kept_for_every_limit_length_and_piece() {
        let all: Vec<u8> = (0..40).collect();
        for head in 0..7 {
            for tail in 0..7 {
                let limit = Limit::head_and_tail(head, tail);
                for length in 0..=all.len() {
                    for piece in 1..=length.max(1) {
                        let mut retention = Retention::new(Some(limit));
                        all[..length].chunks(piece).for_each(|new| retention.push(new, None));
                        assert!(retention.bytes.capacity() <= limit.both());
                        let kept = retention.finish(StreamEnd::Closed);
                        let context = format!("{limit:?}, {length} in pieces of {piece}");
                        assert_eq!(
                            (kept.bytes, kept.omitted),
                            expected(limit, &all[..length]),
                            "{context}"
                        );
                        assert_eq!(kept.omitted_at, head.min(length), "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_unlimited_limit_reserves_no_memory() {
        let mut retention = Retention::new(Some(Limit::head_and_tail(usize::MAX, usize::MAX)));
        retention.push(b"few", None);
        assert!(retention.bytes.capacity() < 100_000);
        assert_eq!(retention.finish(StreamEnd::Closed).bytes, b"few");
    }
}
