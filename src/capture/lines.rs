//! Splits output into lines, however it arrives and however long they are.

use std::fmt::{self, Write};
use std::ops::ControlFlow;

/// At most this much of a line is held in memory.
const LONGEST: usize = 64 * 1024;

/// A line of output, or a piece of one that is longer than 64 KiB.
///
/// [`Display`](fmt::Display) omits the line's end, and shows U+FFFD for bytes that are not UTF-8.
///
/// # Examples
///
/// ```
/// use shared_child::Line;
///
/// fn is_a_warning(line: Line<'_>) -> bool {
///     line.as_bytes().starts_with(b"warning: ")
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    bytes: &'a [u8],
    goes_on: bool,
}

impl<'a> Line<'a> {
    /// Returns the line without the `\n` or `\r\n` at its end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::Line;
    /// fn length(line: Line<'_>) -> usize {
    ///     line.as_bytes().len()
    /// }
    /// ```
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns whether the next piece of this stream belongs to the same line.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::Line;
    /// fn print(line: Line<'_>) {
    ///     print!("{line}{}", if line.goes_on() { "" } else { "\n" });
    /// }
    /// ```
    #[must_use]
    pub const fn goes_on(self) -> bool {
        self.goes_on
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goes_on = if self.goes_on { "…" } else { "" };
        write!(f, "{:?}{goes_on}", String::from_utf8_lossy(self.bytes))
    }
}

/// Where a line, or a piece of one, ends within bytes that continue it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineEnd {
    /// How many of the bytes belong to it, with the newline.
    pub(super) length: usize,
    /// It is a piece of a line that is longer than 64 KiB.
    pub(super) goes_on: bool,
}

/// Finds the ends of the lines of one stream, whose bytes arrive in parts of any size.
///
/// The ends do not depend on the sizes of the parts. A piece of a long line ends neither within a character nor within
/// `\r\n`, so it is at most three bytes shorter than 64 KiB.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// How many bytes of the unfinished line have arrived.
    arrived: usize,
}

impl LineSplitter {
    /// Returns the first end within the bytes that follow. Without an end, all of them belong to the unfinished line.
    pub(super) fn next(&mut self, new: &[u8]) -> Option<LineEnd> {
        let room = LONGEST - self.arrived;
        let window = &new[..new.len().min(room + 1)];
        let newline = window.iter().position(|byte| *byte == b'\n');
        let before_newline = &window[..newline.unwrap_or(window.len())];
        // A character that would exceed the length begins the next piece. Its first byte has its length.
        let last_characters = before_newline.iter().enumerate().skip(room.saturating_sub(3));
        for (index, byte) in last_characters {
            if index + character_length(*byte) > room {
                self.arrived = 0;
                return Some(LineEnd { length: index, goes_on: true });
            }
        }
        if let Some(newline) = newline {
            self.arrived = 0;
            return Some(LineEnd { length: newline + 1, goes_on: false });
        }
        self.arrived += new.len();
        None
    }
}

/// Returns the length of the UTF-8 character that begins with this byte: 1 if none does.
const fn character_length(first: u8) -> usize {
    match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    }
}

/// Shows the lines of a stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    splitter: LineSplitter,
    /// At most 64 KiB, without a newline.
    unfinished: Vec<u8>,
}

impl Lines {
    pub(super) fn push(
        &mut self,
        mut new: &[u8],
        show: &mut impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while let Some(LineEnd { length, goes_on }) = self.splitter.next(new) {
            let (last, rest) = new.split_at(length);
            new = rest;
            // Most lines arrive in one part, and need no copy.
            if self.unfinished.is_empty() {
                show(Line { bytes: without_end(last), goes_on })?;
            } else {
                // After a panic of the callback, the line is not shown again.
                let mut line = std::mem::take(&mut self.unfinished);
                line.extend_from_slice(last);
                show(Line { bytes: without_end(&line), goes_on })?;
                line.clear();
                self.unfinished = line;
            }
        }
        self.unfinished.extend_from_slice(new);
        ControlFlow::Continue(())
    }

    /// Shows the last line of a stream that ends without a newline.
    pub(super) fn finish(
        &mut self,
        show: &mut impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let last = std::mem::take(self).unfinished;
        if last.is_empty() {
            return ControlFlow::Continue(());
        }
        show(Line { bytes: &last, goes_on: false })
    }
}

/// Removes `\n` or `\r\n`.
fn without_end(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    }
}

/// Returns how many of the last bytes begin a UTF-8 character whose rest is missing.
pub(super) fn unfinished_character(bytes: &[u8]) -> usize {
    let last = &bytes[bytes.len().saturating_sub(3)..];
    match last.utf8_chunks().last() {
        Some(chunk) => match std::str::from_utf8(chunk.invalid()) {
            Err(error) if error.error_len().is_none() => chunk.invalid().len(),
            _ => 0,
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines that are shown for these pieces, and whether each goes on.
    fn shown(pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut all = Vec::new();
        let mut show = |line: Line<'_>| {
            all.push((line.as_bytes().to_vec(), line.goes_on()));
            ControlFlow::Continue(())
        };
        let mut lines = Lines::default();
        for piece in pieces {
            assert!(lines.push(piece, &mut show).is_continue());
            assert!(lines.unfinished.len() <= LONGEST);
        }
        assert!(lines.finish(&mut show).is_continue());
        all
    }

    fn whole(lines: &[&str]) -> Vec<(Vec<u8>, bool)> {
        lines.iter().map(|line| (line.as_bytes().to_vec(), false)).collect()
    }

    #[test]
    fn lines_are_the_same_for_pieces_of_any_size() {
        let text = "one\n\ntwo\r\nthree \u{e9}\u{20ac}\r\rfour\n\r\nfive";
        let expected = ["one", "", "two", "three \u{e9}\u{20ac}\r\rfour", "", "five"];
        for size in 1..=text.len() {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(shown(&pieces), whole(&expected), "in pieces of {size}");
        }
        assert_eq!(shown(&[b"ended\n"]), whole(&["ended"]));
        assert_eq!(shown(&[b"a return at the end\r"]), whole(&["a return at the end\r"]));
        assert_eq!(shown(&[]), whole(&[]));
    }

    #[test]
    fn a_long_line_is_shown_in_pieces_of_whole_characters() {
        for (sign, at_once) in [("x", 1), ("\u{e9}", 7), ("\u{20ac}", 1 << 20), ("\u{1f600}", 4096)]
        {
            for before in ["", "a", "ab", "abc"] {
                let text = format!("{before}{}", sign.repeat(LONGEST + 10));
                let line = format!("{text}\nshort\n");
                let pieces: Vec<&[u8]> = line.as_bytes().chunks(at_once).collect();
                let mut shown = shown(&pieces);
                assert_eq!(shown.pop(), Some((b"short".to_vec(), false)));
                for (bytes, _) in &shown {
                    assert!(std::str::from_utf8(bytes).is_ok());
                    assert!(bytes.len() <= LONGEST);
                }
                let goes_on: Vec<bool> = shown.iter().map(|(_, goes_on)| *goes_on).collect();
                let (last, others) = goes_on.split_last().expect("some");
                assert!(!last && others.iter().all(|goes_on| *goes_on) && !others.is_empty());
                let joined: Vec<u8> = shown.into_iter().flat_map(|(bytes, _)| bytes).collect();
                assert_eq!(joined, text.as_bytes());
            }
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_unchanged() {
        let bytes = [0xff, 0xe2, 0x82, b'\n', 0xf0, 0x9f].repeat(20_000);
        let joined: Vec<u8> = shown(&[&bytes]).into_iter().flat_map(|(bytes, _)| bytes).collect();
        let expected: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\n').collect();
        assert_eq!(joined, expected);
        assert_eq!(Line { bytes: b"a\xffb", goes_on: false }.to_string(), "a\u{fffd}b");
    }

    #[test]
    fn line_ends_after_its_newline_and_a_long_one_after_64_kib() {
        fn first(bytes: &[u8]) -> Option<LineEnd> {
            LineSplitter::default().next(bytes)
        }
        let end = |length, goes_on| Some(LineEnd { length, goes_on });
        assert_eq!(first(b""), None);
        assert_eq!(first(b"unfinished\r"), None);
        assert_eq!(first(b"one\r\ntwo\n"), end(5, false));
        assert_eq!(first(b"\n"), end(1, false));
        let mut longest = vec![b'x'; LONGEST];
        assert_eq!(first(&longest), None);
        longest.push(b'\n');
        assert_eq!(first(&longest), end(LONGEST + 1, false));
        longest[LONGEST] = b'x';
        assert_eq!(first(&longest), end(LONGEST, true));
        // `\r\n` is not divided.
        longest[LONGEST - 1] = b'\r';
        longest[LONGEST] = b'\n';
        assert_eq!(first(&longest), end(LONGEST + 1, false));
        longest.insert(0, b'x');
        assert_eq!(first(&longest), end(LONGEST, true));
    }

    #[test]
    fn long_lines_end_at_the_same_bytes_for_parts_of_any_size() {
        let texts = [
            [&[b'x'; LONGEST - 2][..], "\u{20ac}\r\n".as_bytes(), &[b'y'; LONGEST]].concat(),
            [&[b'x'; LONGEST - 1][..], b"\r\n", &[b'y'; LONGEST + 1], b"\n"].concat(),
            // Bytes that begin a character which does not follow, around the longest line.
            [&[b'x'; LONGEST - 4][..], &[0xf0; 4], b"\n", &[b'y'; LONGEST - 1], &[0xe2, b'\n']]
                .concat(),
        ];
        for text in &texts {
            let expected = shown(&[text]);
            assert!(expected.iter().any(|(_, goes_on)| *goes_on), "none is too long");
            for size in [1, 2, 3, 5, 4096, LONGEST - 1, LONGEST, LONGEST + 1] {
                let pieces: Vec<&[u8]> = text.chunks(size).collect();
                assert!(shown(&pieces) == expected, "in parts of {size}");
            }
        }
    }

    #[test]
    fn line_whose_callback_panics_is_not_shown_again() {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        let mut lines = Lines::default();
        assert!(lines.push(b"o", &mut |_| unreachable!()).is_continue());
        let panics = || lines.push(b"ne\n", &mut |_| panic!("as planned"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let mut show = |line: Line<'_>| {
            assert_eq!(line.as_bytes(), b"two");
            ControlFlow::Continue(())
        };
        assert!(lines.push(b"two\n", &mut show).is_continue());
    }

    #[test]
    fn a_break_ends_the_lines_at_once() {
        let mut count = 0;
        let mut show = |_: Line<'_>| {
            count += 1;
            ControlFlow::Break(())
        };
        assert!(Lines::default().push(b"one\ntwo\n", &mut show).is_break());
        assert_eq!(count, 1);
    }
}
