//! Output between its arrival and its delivery to the program.

use super::captured::CapturedStream;
use super::options::{Limits, Spills};
use super::order::{Order, Part};
use super::retention::Retention;
use super::spill::Spill;
use super::{Stream, StreamEnd};
use crate::sys::CHUNK;
use std::collections::VecDeque;
use std::time::Instant;

/// The output that the program has not received.
///
/// A read that ends within the bytes of a system call leaves the rest as *pieces*. What follows is read from the pipe,
/// so the limits apply to each chunk anew, and memory is used for one system call.
pub(super) struct Output {
    limits: Limits,
    kept: [Retention; 2],
    spills: [Option<Spill>; 2],
    order: Order,
    /// What arrived after the bytes that are kept.
    pieces: VecDeque<Piece>,
}

struct Piece {
    stream: Stream,
    bytes: Vec<u8>,
    /// How many of the bytes were delivered.
    start: usize,
    /// The file of the stream has received the bytes.
    is_spilled: bool,
}

impl Output {
    pub(super) fn new(limits: Limits, spills: Spills) -> Self {
        let kept = limits.map(Retention::new);
        let spills = spills.map(|spill| spill.map(Spill::new));
        Self { limits, kept, spills, order: Order::default(), pieces: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the number of all bytes that have arrived.
    pub(super) fn total(&self) -> u64 {
        let mut total = 0;
        for kept in &self.kept {
            total += kept.total();
        }
        for piece in &self.pieces {
            total += (piece.bytes.len() - piece.start) as u64;
        }
        total
    }

    /// Returns whether bytes were omitted because of a limit.
    pub(super) fn is_over_limit(&self, stream: Stream) -> bool {
        self.kept[stream as usize].omitted > 0
    }

    /// Returns the buffer to append to, if everything is kept. [`appended`](Self::appended) must follow.
    pub(super) fn buffer(&mut self, stream: Stream) -> Option<&mut Vec<u8>> {
        self.kept[stream as usize].all()
    }

    /// Accepts `count` bytes that were appended to the buffer, of which only the first `accepted` belong to this chunk.
    pub(super) fn appended(&mut self, stream: Stream, count: usize, accepted: usize) {
        if let Some(buffer) = self.kept[stream as usize].all().filter(|_| accepted < count) {
            let rest = buffer.split_off(buffer.len() - (count - accepted));
            self.pieces.push_back(Piece { stream, bytes: rest, start: 0, is_spilled: false });
        }
        self.order.push(stream, accepted);
    }

    /// Accepts bytes, of which only the first `accepted` belong to this chunk.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8], accepted: usize) {
        let (first, rest) = bytes.split_at(accepted);
        self.keep(stream, first, false);
        self.order.push(stream, accepted);
        if rest.is_empty() {
            return;
        }
        match self.pieces.back_mut() {
            // A piece has a bounded length, since it is freed as a whole.
            Some(last) if last.stream == stream && !last.is_spilled && last.bytes.len() < CHUNK => {
                last.bytes.extend_from_slice(rest);
            }
            _ => {
                let bytes = rest.to_vec();
                self.pieces.push_back(Piece { stream, bytes, start: 0, is_spilled: false });
            }
        }
    }

    /// Prepares for bytes that arrive between two reads. Returns whether they become pieces too, so that reads of lines do
    /// not copy all that is left each time. With a limit they do not, since pieces do not count.
    pub(super) fn between_reads(&mut self) -> bool {
        if self.limits != [None; 2] {
            self.keep_pieces();
        }
        !self.pieces.is_empty()
    }

    /// Keeps the pieces, for a read that ends at no byte.
    pub(super) fn keep_pieces(&mut self) {
        self.deliver_pieces(|_, bytes| (bytes.len(), false));
    }

    /// Keeps pieces until `find` returns that the read ends. `find` returns how many of the bytes belong to the chunk.
    pub(super) fn deliver_pieces(&mut self, mut find: impl FnMut(Stream, &[u8]) -> (usize, bool)) {
        while let Some(mut piece) = self.pieces.pop_front() {
            let bytes = &piece.bytes[piece.start..];
            let (accepted, ends) = find(piece.stream, bytes);
            self.keep(piece.stream, &bytes[..accepted], piece.is_spilled);
            self.order.push(piece.stream, accepted);
            piece.start += accepted;
            if piece.start < piece.bytes.len() {
                self.pieces.push_front(piece);
            }
            if ends {
                return;
            }
        }
    }

    /// Makes pieces of what is kept, so that a read can end within it. Requires that nothing was omitted.
    pub(super) fn split(&mut self) {
        let (streams, order) = self.take_kept([StreamEnd::Open; 2]);
        let mut parts = VecDeque::new();
        for part in order.parts(streams.each_ref().map(CapturedStream::kept)) {
            let Part::Bytes(stream, bytes) = part else { continue };
            let spill = self.spills[stream as usize].as_ref();
            let is_spilled = spill.is_some_and(Spill::has_begun);
            parts.push_back(Piece { stream, bytes: bytes.to_vec(), start: 0, is_spilled });
        }
        parts.append(&mut self.pieces);
        self.pieces = parts;
    }

    /// Returns what is kept, and starts a new chunk.
    pub(super) fn take(&mut self, ends: [StreamEnd; 2]) -> ([CapturedStream; 2], Order) {
        let (mut streams, order) = self.take_kept(ends);
        for (stream, spill) in streams.iter_mut().zip(&mut self.spills) {
            if let Some(spill) = spill {
                spill.passed(stream.total);
                stream.spilled = spill.result();
            }
        }
        (streams, order)
    }

    /// Returns whether a stream must not be read, because its file is written more slowly.
    pub(super) fn is_full(&self, stream: Stream) -> bool {
        self.spills[stream as usize].as_ref().is_some_and(Spill::is_full)
    }

    /// Returns when to call this again, if a file is to be waited for. `is_over`: no bytes follow.
    pub(super) fn poll_spills(
        &mut self,
        is_over: bool,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        let spills = self.spills.iter_mut().flatten();
        spills.filter_map(|spill| spill.poll(is_over, deadline)).min()
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8], is_spilled: bool) {
        let spill = self.spills[stream as usize].as_mut().filter(|_| !is_spilled);
        self.kept[stream as usize].push(bytes, spill);
    }

    fn take_kept(&mut self, mut ends: [StreamEnd; 2]) -> ([CapturedStream; 2], Order) {
        for piece in &self.pieces {
            ends[piece.stream as usize] = StreamEnd::Open;
        }
        let kept = std::mem::replace(&mut self.kept, self.limits.map(Retention::new));
        let mut ends = ends.into_iter();
        let streams = kept.map(|kept| kept.finish(ends.next().unwrap_or(StreamEnd::Open)));
        (streams, std::mem::take(&mut self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stream::{Stderr, Stdout};

    #[test]
    fn bytes_between_reads_of_lines_are_not_moved_again() {
        for limits in [[None; 2], [Some(1000.into()); 2]] {
            let mut output = Output::new(limits, [None, None]);
            output.push(Stdout, b"one\ntwo\n", 4);
            let ([line, _], _) = output.take([StreamEnd::Open; 2]);
            assert_eq!(line.bytes, b"one\n");
            // Between the reads.
            let is_later = output.between_reads();
            assert_eq!(is_later, limits == [None; 2]);
            for (stream, bytes) in [(Stdout, &b"three"[..]), (Stderr, b"err"), (Stdout, b"\n")] {
                output.push(stream, bytes, if is_later { 0 } else { bytes.len() });
            }
            assert_eq!(output.is_empty(), is_later);
            output.keep_pieces();
            let (streams, order) = output.take([StreamEnd::Open; 2]);
            let expected = [
                Part::Bytes(Stdout, b"two\nthree"),
                Part::Bytes(Stderr, b"err"),
                Part::Bytes(Stdout, b"\n"),
            ];
            assert_eq!(order.parts(streams.each_ref().map(CapturedStream::kept)), expected);
        }
    }
}
