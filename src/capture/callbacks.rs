//! The callbacks that receive output as it arrives.

use super::Stream;
use super::lines::{Line, Lines};
use std::ops::ControlFlow;

pub(super) type OnOutput<'a> = dyn FnMut(Stream, &[u8]) -> ControlFlow<()> + Send + 'a;
pub(super) type OnLine<'a> = dyn FnMut(Stream, Line<'_>) -> ControlFlow<()> + Send + 'a;

pub(super) struct Callbacks<'a> {
    on_output: Option<Box<OnOutput<'a>>>,
    on_line: Option<Box<OnLine<'a>>>,
    lines: [Lines; 2],
}

impl<'a> Callbacks<'a> {
    pub(super) fn new(
        on_output: Option<Box<OnOutput<'a>>>,
        on_line: Option<Box<OnLine<'a>>>,
    ) -> Self {
        Self { on_output, on_line, lines: Default::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.on_output.is_none() && self.on_line.is_none()
    }

    pub(super) fn show(&mut self, stream: Stream, bytes: &[u8]) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        if let Some(show) = &mut self.on_output {
            flow = show(stream, bytes);
        }
        if let (ControlFlow::Continue(()), Some(show)) = (flow, &mut self.on_line) {
            flow = self.lines[stream as usize].push(bytes, &mut |line| show(stream, line));
        }
        self.unless_broken(flow)
    }

    /// Shows the unfinished last line of a stream.
    pub(super) fn finish(&mut self, stream: Stream) -> ControlFlow<()> {
        let Some(show) = &mut self.on_line else { return ControlFlow::Continue(()) };
        let flow = self.lines[stream as usize].finish(&mut |line| show(stream, line));
        self.unless_broken(flow)
    }

    /// After a break nothing more is shown.
    fn unless_broken(&mut self, flow: ControlFlow<()>) -> ControlFlow<()> {
        if flow.is_break() {
            (self.on_output, self.on_line) = (None, None);
        }
        flow
    }
}
