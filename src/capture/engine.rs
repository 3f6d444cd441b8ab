//! The engine of a capture: a state machine that never waits for a pipe or an exit.
//!
//! Its driver waits until something is ready or until the instant that [`Engine::next`] returns, and then calls
//! [`Engine::advance`]. Both have effects: they read, write, signal and kill.
//!
//! | phase | ends when |
//! |---|---|
//! | running | the child has exited, and the outputs have ended or the drain time is over; or something stops the child |
//! | grace | the same, but the whole tree must have ended; or the grace is over |
//! | killed | the same as running; or the child has not ended in time |
//!
//! Output is read in every phase, since a child may have to write before it can exit.

use super::callbacks::Callbacks;
use super::input::{Fed, Feed};
use super::options::{CaptureOptions, DRAIN, Input};
use super::pipes::Pipes;
use super::retention::Retention;
use super::{Captured, Ready, StoppedBy, Stream, StreamEnd};
use crate::SharedChild;
use crate::stop::{DYING, Phase, Stop};
use crate::sys::Request;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// The pause between two searches for members of a stopped tree while another process holds a pipe.
const TREE_POLL: Duration = Duration::from_millis(100);

/// At most this many reads of one stream before the other stream and the input have their turn.
const READS_PER_TURN: usize = 16;

pub(super) struct Engine<'r, 'a> {
    child: &'r SharedChild,
    pub(super) pipes: Pipes,
    /// `None` once the child has received all input.
    feed: Option<Feed<'r>>,
    callbacks: Callbacks<'r, 'a>,
    streams: [StreamState; 2],
    /// The last read of a stream of which not everything is retained.
    scratch: Vec<u8>,
    stop_at_limit: bool,
    began: Instant,
    deadline: Option<Instant>,
    grace: Duration,
    drain: Duration,
    /// `None` while nothing has stopped the child.
    pub(super) stop: Option<Stop<'r>>,
    exit: Option<ChildExit>,
    next_tree_poll: Option<Instant>,
    stopped_by: Option<StoppedBy>,
    error: Option<io::Error>,
}

struct StreamState {
    retention: Retention,
    end: StreamEnd,
}

struct ChildExit {
    at: Instant,
    /// `None` if another part of the program has reaped the child.
    status: Option<ExitStatus>,
}

/// What the driver does next.
pub(super) enum Next {
    Wait(Option<Instant>),
    Finish,
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

impl<'r, 'a> Engine<'r, 'a> {
    /// Takes the child's pipes: all of them, or none if this fails for a reason that the caller can correct.
    pub(super) fn new(
        child: &'r SharedChild,
        options: &'r mut CaptureOptions<'a>,
        began: Instant,
    ) -> io::Result<Self> {
        let has_input = !matches!(options.input, Input::Nothing);
        let (stdin, stdout, stderr) = child
            .take_pipes(|has_stdin, has_stderr| {
                if has_input && !has_stdin {
                    return Err(("write to the stdin", "it is not piped, or was taken"));
                }
                if options.merge_stderr && has_stderr {
                    return Err(("merge the outputs", "stderr has a pipe of its own"));
                }
                Ok(())
            })
            .map_err(|(operation, cause)| {
                let message = format!(
                    "cannot {operation} of process {}: {cause}; spawn with SpawnOptions::spawn_piped",
                    child.id()
                );
                io::Error::new(io::ErrorKind::InvalidInput, message)
            })?;
        let pipes = Pipes::new(stdin.filter(|_| has_input), stdout, stderr)?;
        let timeout = options.timeout.and_then(|timeout| began.checked_add(timeout));
        let streams = Stream::BOTH.map(|stream| StreamState {
            retention: Retention::new(options.limits[stream as usize]),
            end: if pipes.is_open(stream) { StreamEnd::HeldOpen } else { StreamEnd::NotCaptured },
        });
        Ok(Self {
            child,
            pipes,
            feed: Feed::new(&mut options.input),
            callbacks: Callbacks::new(&mut options.on_output, &mut options.on_line),
            streams,
            scratch: Vec::new(),
            stop_at_limit: options.stop_at_limit,
            began,
            deadline: earlier(timeout, options.deadline),
            grace: options.grace,
            drain: options.drain.unwrap_or(DRAIN),
            stop: None,
            exit: None,
            next_tree_poll: None,
            stopped_by: None,
            error: None,
        })
    }

    pub(super) fn awaits_exit(&self) -> bool {
        self.exit.is_none()
    }

    pub(super) fn has_input(&self) -> bool {
        self.feed.is_some()
    }

    pub(super) fn has_output(&self) -> bool {
        Stream::BOTH.iter().any(|stream| self.pipes.is_open(*stream))
    }

    fn is_running(&self) -> bool {
        self.stop.is_none()
    }

    fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(Stop::phase)
    }

    /// Does what is due now. Returns the instant of what is due next.
    pub(super) fn next(&mut self) -> Next {
        loop {
            if let Next::Wait(until) = self.due() {
                return Next::Wait(until);
            }
            let was_running = self.is_running();
            Stream::BOTH.iter().for_each(|stream| self.read_the_rest(*stream));
            if self.is_running() == was_running {
                Stream::BOTH.iter().for_each(|stream| self.show_last_line(*stream));
            }
            // A limit or a callback may have stopped the child, whose output is then read on.
            if self.is_running() == was_running {
                return Next::Finish;
            }
        }
    }

    fn due(&mut self) -> Next {
        if self.is_running() && self.exit.is_none() {
            if !has_passed(self.deadline) {
                return Next::Wait(self.deadline);
            }
            // The child may have exited since the last poll.
            self.poll_exit();
            if self.exit.is_none() {
                self.stop(StoppedBy::Deadline);
            }
        }
        match self.phase() {
            None => self.drained_by(self.deadline),
            Some(Phase::Grace(kill_at)) if has_passed(kill_at) => {
                self.stop.iter_mut().for_each(|stop| stop.advance(Vec::new()));
                self.due()
            }
            Some(Phase::Grace(kill_at)) if self.exit.is_none() => Next::Wait(kill_at),
            Some(Phase::Grace(kill_at)) => match self.drained_by(kill_at) {
                // A member of the tree that holds a pipe still has its grace. But the process that holds it need not be
                // a member.
                Next::Finish if self.has_output() && !self.is_tree_empty() => {
                    Next::Wait(earlier(kill_at, self.next_tree_poll))
                }
                next => next,
            },
            Some(Phase::Killed(_)) if self.exit.is_some() => self.drained_by(None),
            Some(Phase::Killed(at)) => match at.checked_add(DYING) {
                given_up if has_passed(given_up) => Next::Finish,
                given_up => Next::Wait(given_up),
            },
        }
    }

    /// Waits after the exit, within the drain time, for the processes that still hold a pipe.
    fn drained_by(&self, deadline: Option<Instant>) -> Next {
        let Some(exit) = &self.exit else { return Next::Wait(deadline) };
        let (since, drain) = match self.phase() {
            None => (exit.at, self.drain),
            // A process that holds a pipe after a stop is one that a stop does not reach.
            Some(Phase::Grace(_)) => (exit.at, self.drain.min(DYING)),
            Some(Phase::Killed(at)) => (exit.at.max(at), self.drain.min(DYING)),
        };
        let end = earlier(since.checked_add(drain), deadline);
        if !self.has_output() || has_passed(end) { Next::Finish } else { Next::Wait(end) }
    }

    fn is_tree_empty(&mut self) -> bool {
        if self.next_tree_poll.is_some() && !has_passed(self.next_tree_poll) {
            return false;
        }
        let now = Instant::now();
        self.next_tree_poll = now.checked_add(TREE_POLL);
        // After an error the tree is killed, and the kill reports the error.
        self.child.has_ended_by(Some(now)).unwrap_or(false)
    }

    /// Does what is ready, within the deadline that `next` returned. Returns whether bytes were moved.
    pub(super) fn advance(&mut self, ready: Ready, deadline: Option<Instant>) -> bool {
        if ready.exit && self.exit.is_none() {
            self.poll_exit();
        }
        let mut moved = false;
        for stream in Stream::BOTH.into_iter().filter(|stream| ready.outputs[*stream as usize]) {
            // A read that finds nothing costs less than one more wait. But a child that writes without end must not keep
            // the engine here.
            for _ in 0..READS_PER_TURN {
                if !self.pipes.is_open(stream) || self.read(stream).is_none() {
                    break;
                }
                moved = true;
                if has_passed(deadline) {
                    break;
                }
            }
        }
        moved | (ready.stdin && self.feed())
    }

    fn poll_exit(&mut self) {
        let polled = self.child.try_wait();
        self.exited(polled);
    }

    /// Receives the result of a poll or a wait for the exit.
    pub(super) fn exited(&mut self, result: io::Result<Option<ExitStatus>>) {
        let status = match result {
            Ok(None) => return,
            Ok(status) => status,
            Err(error) => {
                self.failed(error);
                None
            }
        };
        self.exit = Some(ChildExit { at: Instant::now(), status });
    }

    /// Keeps the first error.
    fn failed(&mut self, error: io::Error) {
        self.error.get_or_insert(error);
    }

    fn stop(&mut self, why: StoppedBy) {
        if !self.is_running() {
            return;
        }
        self.stopped_by = Some(why);
        self.stop = Some(if self.grace.is_zero() {
            Stop::at_once(self.child)
        } else {
            Stop::begin([self.child], Request::DEFAULT, self.grace)
        });
    }

    /// Reads once. Returns how many bytes there were, 0 at the end, or `None` if there is nothing to read now.
    fn read(&mut self, stream: Stream) -> Option<usize> {
        let StreamState { retention, end } = &mut self.streams[stream as usize];
        self.scratch.clear();
        let buffer = retention.all().unwrap_or(&mut self.scratch);
        let before = buffer.len();
        let (count, flow) = match self.pipes.read(stream, buffer) {
            Ok(None) => return None,
            Ok(Some(count @ 1..)) => (count, self.callbacks.show(stream, &buffer[before..])),
            ended => {
                *end = if ended.is_ok() { StreamEnd::Closed } else { StreamEnd::Failed };
                self.error = self.error.take().or(ended.err());
                self.pipes.close(stream);
                (0, self.callbacks.finish(stream))
            }
        };
        retention.push(&self.scratch);
        let is_over_limit = self.stop_at_limit && retention.omitted > 0;
        if flow.is_break() {
            self.stop(StoppedBy::Callback);
        } else if is_over_limit {
            self.stop(StoppedBy::Limit(stream));
        }
        Some(count)
    }

    /// Writes once. Returns whether the pipe had room.
    fn feed(&mut self) -> bool {
        let Some(feed) = &mut self.feed else { return false };
        match feed.feed(&mut self.pipes) {
            Ok(Fed::Blocked) => return false,
            Ok(Fed::More) => {}
            Ok(Fed::All) => {
                self.feed = None;
                self.pipes.close_stdin();
            }
            // The pipe stays open until the child has ended: the child must not take the failure for the end of its input.
            Err(error) => {
                self.feed = None;
                self.failed(error);
                self.stop(StoppedBy::Input);
            }
        }
        true
    }

    /// Reads what is in the pipe now, and no more: another process may write all the time.
    fn read_the_rest(&mut self, stream: Stream) {
        let mut left = self.pipes.available(stream);
        while self.pipes.is_open(stream) {
            match self.read(stream) {
                Some(count) if count as u64 <= left => left -= count as u64,
                _ => break,
            }
        }
    }

    /// Shows the unfinished last line of a stream that is not read any more.
    fn show_last_line(&mut self, stream: Stream) {
        if self.pipes.is_open(stream) && self.callbacks.finish(stream).is_break() {
            self.stop(StoppedBy::Callback);
        }
    }

    /// Returns what was captured. `ended` is the error, if any, of the end of a stopped tree.
    pub(super) fn finish(mut self, ended: io::Result<()>) -> Captured {
        if let Err(error) = ended {
            self.failed(error);
        }
        if self.exit.is_none() {
            let message = format!(
                "process {} was killed, but has not ended within {:?}",
                self.child.id(),
                DYING
            );
            self.failed(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let [stdout, stderr] =
            self.streams.map(|StreamState { retention, end }| retention.finish(end));
        Captured {
            status: self.exit.and_then(|exit| exit.status),
            stdout,
            stderr,
            stopped_by: self.stopped_by,
            // An error is that of the status, which is reported already.
            usage: self.child.usage().unwrap_or(None),
            elapsed: self.began.elapsed(),
            error: self.error,
            command: self.child.description(),
        }
    }
}
