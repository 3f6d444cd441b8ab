//! This process's ends of a child's pipes.

use super::Stream;
use crate::sys::{Alarm, ExitDescriptor, Pipe, PipeEvent, Wait};
use std::io;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;

/// The pipes that are open.
pub(super) struct Pipes {
    stdin: Option<Pipe>,
    outputs: [Option<Pipe>; 2],
}

impl Pipes {
    pub(super) fn new(
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let stdin = stdin.map(|pipe| Pipe::new(pipe.into())).transpose()?;
        let stdout = stdout.map(|pipe| Pipe::new(pipe.into())).transpose()?;
        let stderr = stderr.map(|pipe| Pipe::new(pipe.into())).transpose()?;
        Ok(Self { stdin, outputs: [stdout, stderr] })
    }

    pub(super) fn is_open(&self, stream: Stream) -> bool {
        self.outputs[stream as usize].is_some()
    }

    pub(super) fn close(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
    }

    pub(super) fn has_stdin(&self) -> bool {
        self.stdin.is_some()
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Closes all pipes.
    pub(super) fn close_all(&mut self) {
        *self = Self { stdin: None, outputs: [None, None] };
    }

    /// Returns what to wait for. Standard input counts only if `has_input`, and an output unless it `is_paused`.
    pub(super) fn wait(
        &mut self,
        has_input: bool,
        is_paused: [bool; 2],
        exit: Option<&Arc<ExitDescriptor>>,
        alarm: Option<&Arc<Alarm>>,
    ) -> io::Result<Wait> {
        let mut paused = [None, None];
        for index in 0..2 {
            if is_paused[index] {
                paused[index] = self.outputs[index].take();
            }
        }
        let stdin = self.stdin.as_ref().filter(|_| has_input);
        let wait = Wait::new(stdin, &mut self.outputs, exit, alarm);
        for index in 0..2 {
            if is_paused[index] {
                self.outputs[index] = paused[index].take();
            }
        }
        wait
    }

    /// Returns the events of the open pipes, like [`wait`](Self::wait).
    pub(super) fn events(&self, has_input: bool, is_paused: [bool; 2]) -> Vec<PipeEvent> {
        let mut events = Vec::with_capacity(3);
        for (pipe, is_paused) in self.outputs.iter().zip(is_paused) {
            events.extend(pipe.iter().filter(|_| !is_paused).map(|pipe| pipe.event(false)));
        }
        events.extend(self.stdin.iter().filter(|_| has_input).map(|pipe| pipe.event(true)));
        events
    }

    /// Appends what there is to read. Returns `None` if there is nothing now, 0 at the end.
    pub(super) fn read(&mut self, stream: Stream, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        self.outputs[stream as usize].as_mut().map_or(Ok(Some(0)), |pipe| pipe.read(into))
    }

    /// Writes what there is room for. Returns `None` if there is no room now: the same bytes are to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        self.stdin.as_mut().map_or(Ok(None), |pipe| pipe.write(bytes))
    }

    /// Gives up a write that found no room. Returns how many of its bytes were written.
    pub(super) fn cancel_write(&mut self) -> io::Result<usize> {
        self.stdin.as_mut().map_or(Ok(0), Pipe::cancel_write)
    }

    /// Returns how many bytes there are to read now, at most.
    pub(super) fn available(&mut self, stream: Stream) -> u64 {
        self.outputs[stream as usize].as_mut().map_or(0, Pipe::available)
    }
}
