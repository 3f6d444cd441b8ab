//! What is kept of a stream.

/// How much to keep of a stream: its beginning, its end, or both.
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
    /// The first so many bytes.
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

    /// The last so many bytes.
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

    /// So many of the first bytes, and so many of the last.
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

/// The first so many bytes.
impl From<usize> for Limit {
    fn from(bytes: usize) -> Self {
        Self::head(bytes)
    }
}

/// What has been kept so far. Up to 16 MiB it takes no more memory than the limit, also not when it is put together.
#[derive(Debug)]
pub(super) struct Keep {
    limit: Option<Limit>,
    /// The head, and after it the tail, as a ring.
    bytes: Vec<u8>,
    /// Where the tail begins, from the end of the head.
    turn: usize,
    /// How many bytes are not kept.
    pub(super) missing: u64,
}

/// The bytes, and where among them others are missing, and how many.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) gap: usize,
    pub(super) missing: u64,
}

impl Keep {
    pub(super) fn new(limit: Option<Limit>) -> Self {
        Self { limit, bytes: Vec::new(), turn: 0, missing: 0 }
    }

    /// Where to append directly to, if everything is kept.
    pub(super) fn all(&mut self) -> Option<&mut Vec<u8>> {
        self.limit.is_none().then_some(&mut self.bytes)
    }

    pub(super) fn push(&mut self, new: &[u8]) {
        let Some(limit) = self.limit else { return self.bytes.extend_from_slice(new) };
        let (first, rest) = new.split_at(new.len().min(limit.both() - self.bytes.len()));
        self.grow(first.len(), limit.both());
        self.bytes.extend_from_slice(first);
        self.missing += rest.len() as u64;
        // The ring is full, if there is a rest. Only the end of that can stay.
        let ring = self.bytes.get_mut(limit.head..).unwrap_or_default();
        let rest = &rest[rest.len().saturating_sub(ring.len())..];
        if rest.is_empty() {
            return;
        }
        let (before, after) = rest.split_at(rest.len().min(ring.len() - self.turn));
        ring[self.turn..][..before.len()].copy_from_slice(before);
        ring[..after.len()].copy_from_slice(after);
        self.turn = (self.turn + rest.len()) % ring.len();
    }

    /// Grows to the limit in a few steps: as long as bytes are moved they are there twice. (Memory that is not
    /// written to is not there yet, on most systems.)
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

    pub(super) fn finish(mut self) -> Kept {
        let gap = self.limit.map_or(0, |limit| limit.head).min(self.bytes.len());
        self.bytes[gap..].rotate_left(self.turn);
        // What is worth a copy.
        if self.bytes.len() <= self.bytes.capacity() / 4 {
            self.bytes.shrink_to_fit();
        }
        Kept { bytes: self.bytes, gap, missing: self.missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to come out, said in another way.
    fn expected(limit: Limit, all: &[u8]) -> (Vec<u8>, u64) {
        if all.len() <= limit.both() {
            return (all.to_vec(), 0);
        }
        let kept = [&all[..limit.head], &all[all.len() - limit.tail..]].concat();
        (kept, (all.len() - limit.both()) as u64)
    }

    #[test]
    fn every_limit_length_and_piece() {
        let all: Vec<u8> = (0..40).collect();
        for head in 0..7 {
            for tail in 0..7 {
                let limit = Limit::head_and_tail(head, tail);
                for length in 0..=all.len() {
                    for piece in 1..=length.max(1) {
                        let mut keep = Keep::new(Some(limit));
                        all[..length].chunks(piece).for_each(|new| keep.push(new));
                        assert!(keep.bytes.capacity() <= limit.both());
                        let kept = keep.finish();
                        let context = format!("{limit:?}, {length} in pieces of {piece}");
                        assert_eq!(
                            (kept.bytes, kept.missing),
                            expected(limit, &all[..length]),
                            "{context}"
                        );
                        assert_eq!(kept.gap, head.min(length), "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_limit_without_end_takes_no_memory() {
        let mut keep = Keep::new(Some(Limit::head_and_tail(usize::MAX, usize::MAX)));
        keep.push(b"few");
        assert!(keep.bytes.capacity() < 100_000);
        assert_eq!(keep.finish().bytes, b"few");
    }
}
