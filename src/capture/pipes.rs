//! Our ends of a child's pipes.

use super::Stream;
use super::system::{End, Pipe, Waiter};
use crate::sys::ExitDescriptor;
use std::io;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::Instant;

/// Those that are open.
pub(super) struct Pipes {
    stdin: Option<Pipe>,
    outputs: [Option<Pipe>; 2],
    waiter: Waiter,
}

/// What can be done now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) stdin: bool,
    pub(super) outputs: [bool; 2],
    /// There is reason to look for the exit.
    pub(super) exit: bool,
}

impl Pipes {
    pub(super) fn new(
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let pipe = |end: Option<End>| end.map(Pipe::new).transpose();
        let stdin = pipe(stdin.map(End::from))?;
        let outputs = [pipe(stdout.map(End::from))?, pipe(stderr.map(End::from))?];
        Ok(Self { stdin, outputs, waiter: Waiter::new() })
    }

    pub(super) fn is_open(&self, stream: Stream) -> bool {
        self.outputs[stream as usize].is_some()
    }

    pub(super) fn close(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Blocks until something can be done, or until the deadline. Looks at least once. Standard input counts only
    /// if there is something to feed.
    pub(super) fn wait(
        &mut self,
        feed: bool,
        exit: Option<&ExitDescriptor>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        let stdin = self.stdin.as_mut().filter(|_| feed);
        self.waiter.wait(stdin, &mut self.outputs, exit, deadline)
    }

    /// Appends what there is to read. `None` if that is nothing now, 0 at the end.
    pub(super) fn read(&mut self, stream: Stream, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let Some(pipe) = &mut self.outputs[stream as usize] else { return Ok(Some(0)) };
        let read = pipe.read(into)?;
        read.inspect(|_| self.waiter.progress());
        Ok(read)
    }

    /// Writes what there is room for. `None` if that is nothing now; then the same is to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(pipe) = &mut self.stdin else { return Ok(None) };
        let written = pipe.write(bytes)?;
        written.inspect(|_| self.waiter.progress());
        Ok(written)
    }

    /// How many bytes there are to be read just now.
    pub(super) fn available(&mut self, stream: Stream) -> u64 {
        self.outputs[stream as usize].as_mut().map_or(0, |pipe| pipe.available())
    }
}
