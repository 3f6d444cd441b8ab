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

/// Returns the first line, and its length with its end: a whole line, or the first piece of one that is longer than
/// 64 KiB. Returns `None` if the line's end has not arrived. The first `searched` bytes are known to have no newline.
pub(super) fn first_line(bytes: &[u8], searched: usize) -> Option<(Line<'_>, usize)> {
    let window = &bytes[..bytes.len().min(LONGEST + 1)];
    let searched = searched.min(window.len());
    if let Some(end) = window[searched..].iter().position(|byte| *byte == b'\n') {
        let end = searched + end;
        return Some((Line { bytes: without_return(&window[..end]), goes_on: false }, end + 1));
    }
    if bytes.len() <= LONGEST {
        return None;
    }
    // The piece ends neither within a character nor within `\r\n`, so it is at most three bytes shorter.
    let piece = &bytes[..LONGEST];
    let kept = usize::from(piece.ends_with(b"\r")).max(unfinished_character(piece));
    let length = LONGEST - kept;
    Some((Line { bytes: &piece[..length], goes_on: true }, length))
}

/// The unfinished line of a stream: at most 64 KiB, without a newline.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn push(
        &mut self,
        mut new: &[u8],
        show: &mut impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while !self.0.is_empty() {
            let searched = self.0.len();
            let missing = &new[..new.len().min(LONGEST + 1 - searched)];
            let end = missing.iter().position(|byte| *byte == b'\n');
            let (missing, rest) = new.split_at(end.map_or(missing.len(), |end| end + 1));
            self.0.extend_from_slice(missing);
            new = rest;
            let Some((line, length)) = first_line(&self.0, searched) else {
                return ControlFlow::Continue(());
            };
            show(line)?;
            self.0.drain(..length);
        }
        // Most lines arrive in one piece, and need no copy.
        while let Some((line, length)) = first_line(new, 0) {
            show(line)?;
            new = &new[length..];
        }
        self.0.extend_from_slice(new);
        ControlFlow::Continue(())
    }

    /// Shows the last line of a stream that ends without a newline.
    pub(super) fn finish(
        &mut self,
        show: &mut impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match std::mem::take(&mut self.0) {
            rest if rest.is_empty() => ControlFlow::Continue(()),
            rest => show(Line { bytes: &rest, goes_on: false }),
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
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
            assert!(lines.0.len() <= LONGEST);
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
    fn first_line_returns_the_line_and_its_length_with_its_end() {
        fn first(bytes: &[u8], searched: usize) -> Option<(&[u8], usize)> {
            first_line(bytes, searched).map(|(line, length)| (line.bytes, length))
        }
        assert_eq!(first(b"", 0), None);
        assert_eq!(first(b"unfinished\r", 0), None);
        assert_eq!(first(b"one\r\ntwo\n", 0), Some((&b"one"[..], 5)));
        assert_eq!(first(b"one\ntwo\n", 3), Some((&b"one"[..], 4)));
        assert_eq!(first(b"\n", 0), Some((&b""[..], 1)));
        let mut longest = vec![b'x'; LONGEST];
        assert_eq!(first(&longest, LONGEST), None);
        longest.push(b'\n');
        assert_eq!(first(&longest, LONGEST), Some((&longest[..LONGEST], LONGEST + 1)));
        longest[LONGEST] = b'x';
        let (line, length) = first_line(&longest, LONGEST + 1).expect("a piece");
        assert!(line.goes_on && length == LONGEST && line.bytes == &longest[..LONGEST]);
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
