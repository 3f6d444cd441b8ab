//! Writes input to the child.

use super::options::Input;
use super::pipes::Pipes;
use crate::sys::CHUNK;
use std::borrow::Cow;
use std::io::{self, ErrorKind, Read};

pub(super) struct Feed<'a> {
    source: InputSource<'a>,
    /// How many of the source's bytes are written.
    written: usize,
}

enum InputSource<'a> {
    Bytes(Cow<'a, [u8]>),
    Reader(Box<dyn Read + Send + 'a>, Vec<u8>),
}

/// The result of one write.
pub(super) enum Fed {
    /// The pipe has no room now.
    Blocked,
    /// There is more to write.
    More,
    /// Everything is written, or the child has closed its end.
    All,
}

impl<'a> Feed<'a> {
    pub(super) fn new(input: Input<'a>) -> Option<Self> {
        let source = match input {
            Input::Nothing | Input::Open => return None,
            Input::Bytes(bytes) => InputSource::Bytes(bytes),
            Input::Reader(reader) => InputSource::Reader(reader, Vec::new()),
        };
        Some(Self { source, written: 0 })
    }

    /// Returns whether a write runs the caller's code.
    pub(super) fn is_reader(&self) -> bool {
        matches!(self.source, InputSource::Reader(..))
    }

    /// Writes once, as much as the pipe has room for.
    pub(super) fn feed(&mut self, pipes: &mut Pipes) -> io::Result<Fed> {
        let bytes = match &mut self.source {
            InputSource::Bytes(bytes) => &bytes[self.written..],
            InputSource::Reader(reader, buffer) => {
                if self.written == buffer.len() {
                    self.written = 0;
                    refill(&mut **reader, buffer)?;
                }
                &buffer[self.written..]
            }
        };
        if bytes.is_empty() {
            return Ok(Fed::All);
        }
        match pipes.write(bytes) {
            Ok(None) => Ok(Fed::Blocked),
            Ok(Some(count)) => {
                self.written += count;
                let is_all =
                    matches!(&self.source, InputSource::Bytes(all) if self.written == all.len());
                Ok(if is_all { Fed::All } else { Fed::More })
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Fed::All),
            Err(error) => Err(error),
        }
    }
}

/// Leaves the buffer empty if the reader is at its end, fails or panics.
fn refill(reader: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = std::mem::take(buffer);
    bytes.resize(CHUNK, 0);
    let count = loop {
        match reader.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    bytes.truncate(count);
    *buffer = bytes;
    Ok(())
}
