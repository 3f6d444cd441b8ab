//! When a read of a capture returns.

use super::Stream;
use super::chunk::Reached;
use super::lines::{LineEnd, LineSplitter};
use std::time::{Duration, Instant};

/// When a [read](super::Capture::read) of a capture returns: at the first of some conditions. The end of the capture is
/// always one of them.
///
/// A read until a line, a pattern or a number of bytes ends exactly there: what follows is for the next read. It never
/// returns less because the bytes arrive in pieces.
///
/// # Examples
///
/// ```
/// use shared_child::Until;
/// use std::time::Duration;
///
/// // A prompt, or no more output for 200 ms after the first; at most 10 s.
/// let until = Until::pattern(">>> ")
///     .or(Until::quiet(Duration::from_millis(200)))
///     .or(Until::timeout(Duration::from_secs(10)));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "this does nothing unless it is passed to a read"]
pub struct Until {
    sought: Vec<Sought>,
    pub(super) quiet: Option<Duration>,
    pub(super) silent: Option<Duration>,
    pub(super) deadline: Option<Instant>,
}

/// What ends a read within the output.
#[derive(Debug, Clone)]
struct Sought {
    /// Both streams if `None`.
    stream: Option<Stream>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Line,
    Pattern(Vec<u8>),
    Bytes(usize),
}

impl Until {
    /// Returns a condition that is met when the capture is over: the child has ended, and its output was read to the
    /// end.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Until};
    ///
    /// fn rest(capture: &Capture<'_>) -> String {
    ///     capture.read(Until::end()).stdout.text().into_owned()
    /// }
    /// # let _ = rest;
    /// ```
    pub fn end() -> Self {
        Self::default()
    }

    /// Returns a condition that is met at the end of a line. The chunk ends with the newline.
    ///
    /// Lines end where those of [`CaptureOptions::on_line`](super::CaptureOptions::on_line) do. If a line is longer
    /// than 64 KiB, the chunk ends with a piece of it, not within a character: [`Reached::LinePiece`]. A last line
    /// without a newline is returned at the end of the capture: [`Reached::End`]. A line begins where the read begins.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Stream, Until};
    ///
    /// fn line(capture: &Capture<'_>) -> String {
    ///     capture.read(Until::line().of(Stream::Stdout)).stdout.text().into_owned()
    /// }
    /// # let _ = line;
    /// ```
    pub fn line() -> Self {
        Self::seeking(What::Line)
    }

    /// Returns a condition that is met at the end of these bytes, within one stream. The chunk ends with them.
    ///
    /// Bytes that an earlier read has returned do not count. An empty pattern is met by any output.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Reached, Until};
    ///
    /// fn prompts(capture: &Capture<'_>) -> bool {
    ///     capture.read(Until::pattern("$ ")).reached == Reached::Pattern
    /// }
    /// # let _ = prompts;
    /// ```
    pub fn pattern(bytes: impl Into<Vec<u8>>) -> Self {
        Self::seeking(What::Pattern(bytes.into()))
    }

    /// Returns a condition that is met by this number of bytes: at once if it is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Stream, Until};
    ///
    /// fn message(capture: &Capture<'_>, length: usize) -> Vec<u8> {
    ///     capture.read(Until::bytes(length).of(Stream::Stdout)).stdout.bytes
    /// }
    /// # let _ = message;
    /// ```
    pub fn bytes(count: usize) -> Self {
        Self::seeking(What::Bytes(count))
    }

    fn seeking(what: What) -> Self {
        Self { sought: vec![Sought { stream: None, what }], ..Self::default() }
    }

    /// Returns a condition that is met when there is output, and no more for this time.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    /// use std::time::Duration;
    ///
    /// fn answer(capture: &Capture<'_>) -> Chunk {
    ///     capture.read(Until::quiet(Duration::from_millis(200)))
    /// }
    /// # let _ = answer;
    /// ```
    pub fn quiet(time: Duration) -> Self {
        Self { quiet: Some(time), ..Self::default() }
    }

    /// Returns a condition that is met when there is no output for this time, counted from the beginning of the read
    /// too.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    /// use std::time::Duration;
    ///
    /// // At once if the answer is over, but a child that computes has 5 s to begin.
    /// fn answer(capture: &Capture<'_>) -> Chunk {
    ///     let quiet = Until::quiet(Duration::from_millis(200));
    ///     capture.read(quiet.or(Until::silent(Duration::from_secs(5))))
    /// }
    /// # let _ = answer;
    /// ```
    pub fn silent(time: Duration) -> Self {
        Self { silent: Some(time), ..Self::default() }
    }

    /// Returns a condition that is met at this instant. The read returns what has arrived by then.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    /// use std::time::Instant;
    ///
    /// fn what_is_there_now(capture: &Capture<'_>) -> Chunk {
    ///     capture.read(Until::deadline(Instant::now()))
    /// }
    /// # let _ = what_is_there_now;
    /// ```
    pub fn deadline(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// Returns a condition that is met when this time has passed since this call.
    ///
    /// A time that is too long for the clock is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    /// use std::time::Duration;
    ///
    /// fn within_a_minute(capture: &Capture<'_>) -> Chunk {
    ///     capture.read(Until::timeout(Duration::from_secs(60)))
    /// }
    /// # let _ = within_a_minute;
    /// ```
    pub fn timeout(timeout: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(timeout), ..Self::default() }
    }

    /// Adds the conditions of `other`: the read returns at the first that is met.
    ///
    /// The smaller of two times counts, and the earlier of two deadlines.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::Until;
    /// use std::time::Duration;
    ///
    /// let until = Until::line().or(Until::timeout(Duration::from_secs(1)));
    /// ```
    pub fn or(mut self, other: Self) -> Self {
        self.sought.extend(other.sought);
        self.quiet = smaller(self.quiet, other.quiet);
        self.silent = smaller(self.silent, other.silent);
        self.deadline = smaller(self.deadline, other.deadline);
        self
    }

    /// Seeks the lines, patterns and numbers of bytes of these conditions in one stream alone. The chunk has the bytes of
    /// both. Other conditions concern both streams.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Stream, Until};
    ///
    /// let answer = Until::line().of(Stream::Stdout);
    /// let until = answer.or(Until::pattern("error").of(Stream::Stderr));
    /// ```
    pub fn of(mut self, stream: Stream) -> Self {
        for sought in &mut self.sought {
            sought.stream = Some(stream);
        }
        self
    }
}

fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// Finds where a read ends, in bytes that arrive in pieces.
pub(super) struct Finder(Vec<Seeker>);

struct Seeker {
    stream: Option<Stream>,
    progress: Progress,
}

enum Progress {
    /// Those of the two streams.
    Lines([LineSplitter; 2]),
    Pattern(Pattern),
    /// How many bytes are left until the number.
    Bytes(usize),
}

impl Finder {
    pub(super) fn new(until: &mut Until) -> Self {
        let mut seekers = Vec::with_capacity(until.sought.len());
        for Sought { stream, what } in std::mem::take(&mut until.sought) {
            let progress = match what {
                What::Line => Progress::Lines(Default::default()),
                What::Pattern(bytes) => Progress::Pattern(Pattern::new(bytes)),
                What::Bytes(count) => Progress::Bytes(count),
            };
            seekers.push(Seeker { stream, progress });
        }
        Self(seekers)
    }

    /// Returns whether the read can end within the output.
    pub(super) fn seeks(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns whether the read has its number of bytes before it begins.
    pub(super) fn seeks_no_byte(&self) -> bool {
        self.0.iter().any(|seeker| matches!(seeker.progress, Progress::Bytes(0)))
    }

    /// Returns how many of these bytes belong to the read, and what ends it, if it ends within them.
    pub(super) fn find(&mut self, stream: Stream, bytes: &[u8]) -> (usize, Option<Reached>) {
        let mut found = (bytes.len(), None);
        for seeker in &mut self.0 {
            if seeker.stream.is_some_and(|sought| sought != stream) {
                continue;
            }
            let window = &bytes[..found.0];
            let end = match &mut seeker.progress {
                Progress::Lines(lines) => {
                    let end = lines[stream as usize].next(window);
                    end.map(|LineEnd { length, goes_on }| {
                        (length, if goes_on { Reached::LinePiece } else { Reached::Line })
                    })
                }
                Progress::Pattern(pattern) => {
                    pattern.find(stream, window).map(|end| (end, Reached::Pattern))
                }
                Progress::Bytes(left) if *left <= window.len() => Some((*left, Reached::Bytes)),
                Progress::Bytes(left) => {
                    *left -= window.len();
                    None
                }
            };
            if let Some((length, reached)) = end {
                found = (length, Some(reached));
            }
        }
        found
    }
}

/// A pattern, and how much of it each stream ends with: the algorithm of Knuth, Morris and Pratt.
struct Pattern {
    bytes: Vec<u8>,
    /// For each prefix that is not empty, the length of the longest shorter prefix that it ends with.
    borders: Vec<usize>,
    matched: [usize; 2],
}

impl Pattern {
    fn new(bytes: Vec<u8>) -> Self {
        let mut pattern = Self { borders: Vec::with_capacity(bytes.len()), bytes, matched: [0; 2] };
        let mut matched = 0;
        for index in 0..pattern.bytes.len() {
            if index > 0 {
                matched = pattern.longer(matched, pattern.bytes[index]);
            }
            pattern.borders.push(matched);
        }
        pattern
    }

    /// Returns how much is matched after one more byte.
    fn longer(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.bytes[matched] != byte {
            matched = self.borders[matched - 1];
        }
        matched + usize::from(self.bytes[matched] == byte)
    }

    /// Returns the end of the pattern.
    fn find(&mut self, stream: Stream, bytes: &[u8]) -> Option<usize> {
        if self.bytes.is_empty() {
            return Some(0);
        }
        let mut matched = self.matched[stream as usize];
        for (index, byte) in bytes.iter().enumerate() {
            matched = self.longer(matched, *byte);
            if matched == self.bytes.len() {
                return Some(index + 1);
            }
        }
        self.matched[stream as usize] = matched;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stream::{Stderr, Stdout};

    /// Returns the end of the read for these bytes in pieces of this size.
    fn end(until: &Until, bytes: &[u8], size: usize) -> Option<(usize, Reached)> {
        let mut finder = Finder::new(&mut until.clone());
        let mut before = 0;
        for piece in bytes.chunks(size) {
            let (count, reached) = finder.find(Stdout, piece);
            before += count;
            if let Some(reached) = reached {
                return Some((before, reached));
            }
        }
        None
    }

    #[test]
    fn pattern_is_found_where_a_search_of_the_whole_finds_it() {
        // All texts and patterns of two letters, up to these lengths.
        let words = |length: u32| (0..1_u32 << length).map(move |bits| (length, bits));
        let word = |(length, bits): (u32, u32)| -> Vec<u8> {
            (0..length).map(|index| b'a' + (bits >> index & 1) as u8).collect()
        };
        for pattern in (1..=5).flat_map(words).map(word) {
            let until = Until::pattern(pattern.clone());
            for text in (0..=9).flat_map(words).map(word) {
                let found = text.windows(pattern.len()).position(|window| window == pattern);
                let expected = found.map(|index| (index + pattern.len(), Reached::Pattern));
                for size in [1, 2, 3, 9] {
                    assert_eq!(end(&until, &text, size), expected, "{pattern:?} in {text:?}");
                }
            }
        }
    }

    #[test]
    fn first_condition_ends_a_read() {
        let all =
            Until::line().or(Until::pattern("b")).or(Until::pattern("cd")).or(Until::bytes(7));
        for (text, expected) in [
            ("ab\n", Some((2, Reached::Pattern))),
            ("a\nb", Some((2, Reached::Line))),
            ("acdb", Some((3, Reached::Pattern))),
            ("acacacacacd", Some((7, Reached::Bytes))),
            ("aaaaaa\n", Some((7, Reached::Bytes))),
            ("acac", None),
            ("", None),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(end(&all, text.as_bytes(), size), expected, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn lines_end_where_those_of_a_callback_do() {
        use crate::capture::lines::Lines;
        use std::ops::ControlFlow::Continue;

        let long = "\u{20ac}".repeat(50_000);
        let text = format!("one\r\n\n{long}\ntwo\n{long}{long}\r\nthree\nno newline");
        let text = text.as_bytes();
        let mut expected = Vec::new();
        let mut lines = Lines::default();
        let mut show = |line: crate::Line<'_>| {
            let reached = if line.goes_on() { Reached::LinePiece } else { Reached::Line };
            expected.push((line.as_bytes().to_vec(), reached));
            Continue(())
        };
        assert!(lines.push(text, &mut show).is_continue());
        for size in [1, 7, 4096, 65_536, text.len()] {
            let (mut found, mut start) = (Vec::new(), 0);
            while let Some((length, reached)) = end(&Until::line(), &text[start..], size) {
                let line = std::str::from_utf8(&text[start..start + length]).expect("characters");
                let line = if reached == Reached::Line { line.lines().next() } else { Some(line) };
                found.push((line.unwrap_or_default().as_bytes().to_vec(), reached));
                start += length;
            }
            assert!(found == expected, "by {size}");
            assert_eq!(&text[start..], b"no newline");
        }
        assert!(expected.iter().filter(|(_, reached)| *reached == Reached::LinePiece).count() >= 6);
    }

    #[test]
    fn other_stream_is_not_searched() {
        let mut until = Until::line().or(Until::bytes(2)).of(Stderr);
        let mut finder = Finder::new(&mut until);
        assert_eq!(finder.find(Stdout, b"a\nb"), (3, None));
        assert_eq!(finder.find(Stderr, b"a"), (1, None));
        assert_eq!(finder.find(Stderr, b"bc"), (1, Some(Reached::Bytes)));
        // A pattern does not continue in the other stream.
        let mut finder = Finder::new(&mut Until::pattern("ab"));
        assert_eq!(finder.find(Stdout, b"a"), (1, None));
        assert_eq!(finder.find(Stderr, b"b"), (1, None));
        assert_eq!(finder.find(Stdout, b"b"), (1, Some(Reached::Pattern)));
    }

    #[test]
    fn each_condition_is_sought_in_its_stream() {
        let until = || {
            let line = Until::line().of(Stdout);
            line.or(Until::pattern("\n!").of(Stderr)).or(Until::bytes(6))
        };
        let mut finder = Finder::new(&mut until());
        assert_eq!(finder.find(Stderr, b"a\n"), (2, None));
        assert_eq!(finder.find(Stdout, b"!"), (1, None));
        assert_eq!(finder.find(Stderr, b"!?"), (1, Some(Reached::Pattern)));
        let mut finder = Finder::new(&mut until());
        assert_eq!(finder.find(Stderr, b"a\n"), (2, None));
        assert_eq!(finder.find(Stdout, b"b\n"), (2, Some(Reached::Line)));
        // A number without a stream counts the bytes of both.
        let mut finder = Finder::new(&mut until());
        assert_eq!(finder.find(Stderr, b"abcd"), (4, None));
        assert_eq!(finder.find(Stdout, b"efg\n"), (2, Some(Reached::Bytes)));
    }

    #[test]
    fn empty_conditions_are_met_by_any_output() {
        assert_eq!(end(&Until::pattern(""), b"x", 1), Some((0, Reached::Pattern)));
        assert_eq!(end(&Until::bytes(0), b"x", 1), Some((0, Reached::Bytes)));
        assert_eq!(end(&Until::end(), b"x\n", 1), None);
    }
}
