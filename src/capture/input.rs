//! What the child is fed with.

use super::pipes::Pipes;
use super::settings::Input;
use std::io::{self, ErrorKind, Read};

const CHUNK: usize = 64 * 1024;

pub(super) struct Feed<'r> {
    source: Source<'r>,
    /// How much of what is at hand the child has got.
    at: usize,
}

enum Source<'r> {
    Bytes(&'r [u8]),
    Reader(&'r mut dyn Read, Vec<u8>),
}

/// What came of an attempt to feed.
pub(super) enum Fed {
    /// There is more to come, when there is room for it.
    More,
    /// The child has got it all, or has closed its end.
    All,
    /// The source failed, or the pipe did.
    Failed(io::Error),
}

impl<'r> Feed<'r> {
    pub(super) fn of(input: &'r mut Input<'_>) -> Option<Self> {
        let source = match input {
            Input::Nothing => return None,
            Input::Bytes(bytes) => Source::Bytes(bytes),
            Input::Reader(reader) => Source::Reader(reader, Vec::new()),
        };
        Some(Self { source, at: 0 })
    }

    /// Feeds as much as there is room for, at once.
    pub(super) fn feed(&mut self, pipes: &mut Pipes) -> Fed {
        let bytes = match &mut self.source {
            Source::Bytes(bytes) => &bytes[self.at..],
            Source::Reader(reader, buffer) => {
                if self.at == buffer.len() {
                    self.at = 0;
                    if let Err(error) = refill(reader, buffer) {
                        return Fed::Failed(error);
                    }
                }
                &buffer[self.at..]
            }
        };
        if bytes.is_empty() {
            return Fed::All;
        }
        match pipes.write(bytes) {
            Ok(None) => Fed::More,
            Ok(Some(count)) => {
                self.at += count;
                match &self.source {
                    Source::Bytes(bytes) if self.at == bytes.len() => Fed::All,
                    _ => Fed::More,
                }
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Fed::All,
            Err(error) => Fed::Failed(error),
        }
    }
}

/// Empty afterwards if the reader is at its end, or fails.
fn refill(reader: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(CHUNK, 0);
    let read = loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    buffer.truncate(*read.as_ref().unwrap_or(&0));
    read.map(drop)
}
