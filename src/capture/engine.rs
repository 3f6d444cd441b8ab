//! The engine of a capture: a state machine that owns the pipes and never waits.
//!
//! An [`Engine`] is everything that a capture knows: the pipes, the input, the output that no read has returned yet,
//! the exit, the stop. It is `Send` and belongs to a mutex, so that threads and tasks take turns with it. It waits for
//! nothing: [`Engine::next`] does what is due and returns the next instant, and [`Engine::advance`] reads and writes
//! what is ready. Both have effects: they read, write, signal and kill. A *step* of an operation (a read, a write, a
//! finish) calls `next`, and returns its result or until when to wait.
//!
//! A driver alternates steps and waits. `blocking.rs` drives on the threads that call the operations: one of them waits
//! for the pipes and the exit, without the mutex, and the others wait for that one. Every driver serves all operations
//! in progress: a thread that writes reads what the child writes meanwhile. `task.rs` drives in the polls of futures,
//! and registers their tasks with the background thread.
//!
//! | phase | ends when |
//! |---|---|
//! | running | the child has exited, and the outputs have ended or the drain time is over; or something stops the child |
//! | grace | the same, but the whole tree must have ended; or the grace is over |
//! | killed | the same as running; or the child has not ended in time |
//! | drained | members of a stopped tree without a pipe have ended too |
//!
//! Output is read in every phase, since a child may have to write before it can exit.

use super::callbacks::Callbacks;
use super::chunk::{ChildState, Chunk, Reached};
use super::idle::Idle;
use super::input::{Fed, Feed};
use super::options::{Bounds, CaptureOptions, DRAIN, Input};
use super::output::Output;
use super::pipes::Pipes;
use super::turns::Turns;
use super::until::{Finder, Until};
use super::{Captured, StoppedBy, Stream, StreamEnd};
use crate::Usage;
use crate::backoff::earlier;
use crate::child::ChildRef;
use crate::stop::{DYING, Phase, Stop};
use crate::sys::{Alarm, ExitDescriptor, Notice, PipeEvent, Ready, Request, Wait, copy_error};
use crate::watchlist::next_token;
use std::io;
use std::ops::ControlFlow;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pauses between two searches for members of a stopped tree: the first and the longest.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_millis(100);

/// At most this many reads of one stream before the other stream and the input have their turn.
const READS_PER_TURN: usize = 16;

pub(super) struct Engine<'a> {
    child: ChildRef<'a>,
    pipes: Pipes,
    /// `None` if the exit is known, or if nothing reports it: it is polled then.
    exit_descriptor: Option<Arc<ExitDescriptor>>,
    /// `None` once the child has received all input.
    feed: Option<Feed<'a>>,
    /// A write is in progress.
    is_writing: bool,
    /// It has found no room.
    is_write_blocked: bool,
    /// How many calls wait for the end.
    finishes: usize,
    is_in_background: bool,
    callbacks: Callbacks<'a>,
    ends: [StreamEnd; 2],
    output: Output,
    last_output: Instant,
    /// `None` without an idle timeout.
    idle: Option<Idle>,
    /// The read in progress.
    reading: Option<Reading>,
    pub(super) reads: Turns,
    pub(super) writes: Turns,
    bounds: Bounds,
    began: Instant,
    deadline: Option<Instant>,
    /// Output is read at least once before a deadline counts.
    has_polled: bool,
    /// `None` while nothing has stopped the child.
    stop: Option<Stop<'a>>,
    exit: Option<ChildExit>,
    is_drained: bool,
    tree_pause: Duration,
    next_tree_poll: Option<Instant>,
    stopped_by: Option<StoppedBy>,
    error: Option<io::Error>,
    /// `None` until the capture is over.
    end: Option<End>,
}

struct Reading {
    turn: u64,
    /// Nothing makes sure that the task is polled soon.
    is_task: bool,
    until: Until,
    finder: Finder,
    /// The condition that was met.
    reached: Option<Reached>,
    began: Instant,
    has_polled: bool,
}

struct ChildExit {
    at: Instant,
    /// `None` if another part of the program has reaped the child.
    status: Option<ExitStatus>,
}

/// The facts that every finish returns, from the end of the capture on.
#[derive(Clone, Copy)]
struct End {
    elapsed: Duration,
    usage: Option<Usage>,
}

/// What the driver does next.
pub(super) enum Next {
    Wait(Option<Instant>),
    Finish,
}

/// The result of one step of an operation.
pub(super) enum Step<T> {
    /// Until the engine has advanced, or until the time.
    Wait(Option<Instant>),
    /// Until another operation has ended, or until the time.
    WaitForTurn(Option<Instant>),
    Done(T),
}

/// Returns a chunk without output or state.
pub(super) fn chunk_of_nothing(reached: Reached, end: StreamEnd) -> Chunk {
    let ([stdout, stderr], order) = Output::new([None; 2], [None, None]).take([end; 2]);
    Chunk { stdout, stderr, reached, state: ChildState::Ended(None), stopped_by: None, order }
}

pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

impl<'a> Engine<'a> {
    /// Takes the child's pipes: all of them, or none if this fails for a reason that the caller can correct. With
    /// `requires_pipes` it fails if another capture has taken them.
    pub(super) fn new(
        child: ChildRef<'a>,
        options: CaptureOptions<'a>,
        began: Instant,
        requires_pipes: bool,
    ) -> io::Result<Self> {
        let CaptureOptions { bounds, input, on_output, on_line } = options;
        let idle = bounds.idle_timeout.map(|timeout| Idle::new(timeout, bounds.idle_unless_busy));
        if idle.is_some() && bounds.idle_unless_busy && child.is_running_without_cpu_time() {
            let message = format!(
                "cannot capture process {} with idle_unless_busy: the system does not report its CPU time",
                child.id()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        const PIPED: &str = "spawn with SpawnOptions::spawn_piped";
        let has_input = !matches!(input, Input::Nothing);
        let (stdin, stdout, stderr) = child
            .take_pipes(|has_stdin, has_stderr| {
                if requires_pipes && child.is_captured() {
                    return Err((
                        "begin a capture",
                        "another capture has taken its pipes",
                        "use that one",
                    ));
                }
                if has_input && !has_stdin {
                    return Err(("write to the stdin", "it is not piped, or was taken", PIPED));
                }
                if bounds.merge_stderr && has_stderr {
                    return Err(("merge the outputs", "stderr has a pipe of its own", PIPED));
                }
                Ok(())
            })
            .map_err(|(operation, cause, remedy)| {
                let message =
                    format!("cannot {operation} of process {}: {cause}; {remedy}", child.id());
                io::Error::new(io::ErrorKind::InvalidInput, message)
            })?;
        let pipes = Pipes::new(stdin.filter(|_| has_input), stdout, stderr)?;
        let timeout = bounds.timeout.and_then(|timeout| began.checked_add(timeout));
        let ends = Stream::BOTH.map(|stream| match pipes.is_open(stream) {
            true => StreamEnd::HeldOpen,
            false => StreamEnd::NotCaptured,
        });
        let exit_descriptor = child.notice().and_then(ExitDescriptor::new).map(Arc::new);
        Ok(Self {
            child,
            pipes,
            exit_descriptor,
            feed: Feed::new(input),
            is_writing: false,
            is_write_blocked: false,
            finishes: 0,
            is_in_background: false,
            callbacks: Callbacks::new(on_output, on_line),
            ends,
            output: Output::new(bounds.limits, bounds.spills.clone()),
            last_output: began,
            idle,
            reading: None,
            reads: Turns::default(),
            writes: Turns::default(),
            deadline: earlier(timeout, bounds.deadline),
            bounds,
            began,
            has_polled: false,
            stop: None,
            exit: None,
            is_drained: false,
            tree_pause: SOONEST,
            next_tree_poll: None,
            stopped_by: None,
            error: None,
            end: None,
        })
    }

    pub(super) fn child(&self) -> ChildRef<'a> {
        self.child.clone()
    }

    /// Returns whether the exit must be polled.
    pub(super) fn polls_exit(&self) -> bool {
        self.exit.is_none() && self.exit_descriptor.is_none()
    }

    /// Returns whether to wait until standard input has room.
    pub(super) fn has_input(&self) -> bool {
        self.feed.is_some() || self.is_write_blocked
    }

    pub(super) fn has_output(&self) -> bool {
        Stream::BOTH.iter().any(|stream| self.pipes.is_open(*stream))
    }

    /// Returns what to wait for.
    pub(super) fn wait(&mut self, alarm: Option<&Arc<Alarm>>) -> io::Result<Wait> {
        let has_input = self.has_input();
        let is_paused = self.paused();
        self.pipes.wait(has_input, is_paused, self.exit_descriptor.as_ref(), alarm)
    }

    /// Returns the outputs that are not read now, because their files are written more slowly.
    fn paused(&self) -> [bool; 2] {
        Stream::BOTH.map(|stream| self.output.is_full(stream))
    }

    /// Returns what to register for a task: the exit, unless it is known or must be polled, and the pipes.
    pub(super) fn events(&self) -> (Option<crate::sync::Arc<Notice>>, Vec<PipeEvent>) {
        let notice = if self.exit_descriptor.is_some() { self.child.notice() } else { None };
        (notice, self.pipes.events(self.has_input(), self.paused()))
    }

    fn is_running(&self) -> bool {
        self.stop.is_none()
    }

    fn phase(&self) -> Option<Phase> {
        self.stop.as_ref().map(Stop::phase)
    }

    /// Does what is due now. Returns the instant of what is due next.
    fn next(&mut self) -> Next {
        let next = self.next_but_spills();
        let is_over = matches!(next, Next::Finish);
        match (next, self.output.poll_spills(is_over, self.deadline)) {
            (Next::Finish, None) => {
                self.end();
                Next::Finish
            }
            (Next::Finish, spill) => Next::Wait(spill),
            (Next::Wait(until), spill) => Next::Wait(earlier(until, spill)),
        }
    }

    /// Notes the end of the capture.
    fn end(&mut self) {
        if self.end.is_some() {
            return;
        }
        if let Some(Err(error)) = self.stop.take().map(Stop::result) {
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
        // An error is that of the status, which is reported already.
        let usage = self.child.usage().unwrap_or(None);
        self.end = Some(End { elapsed: self.began.elapsed(), usage });
    }

    fn next_but_spills(&mut self) -> Next {
        if !self.has_polled {
            return Next::Wait(Some(self.began));
        }
        while !self.is_drained {
            if let Next::Wait(until) = self.due() {
                return Next::Wait(until);
            }
            let was_running = self.is_running();
            Stream::BOTH.iter().for_each(|stream| self.read_the_rest(*stream));
            if self.is_running() == was_running {
                Stream::BOTH.iter().for_each(|stream| self.show_last_line(*stream));
            }
            // A limit or a callback may have stopped the child, whose output is then read on.
            self.is_drained = self.is_running() == was_running;
        }
        let next = self.end_stop();
        if let Next::Finish = next {
            self.pipes.close_all();
            self.feed = None;
        }
        next
    }

    fn due(&mut self) -> Next {
        if self.is_running() && self.exit.is_none() {
            self.count_idle_time();
            let idle_at = self.idle_at();
            let is_late = has_passed(self.deadline);
            if !is_late && !self.is_idle() {
                return Next::Wait(earlier(self.deadline, idle_at));
            }
            // The child may have exited since the last poll.
            self.poll_exit();
            if self.exit.is_none() {
                self.stop(if is_late { StoppedBy::Deadline } else { StoppedBy::Idle });
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

    /// Returns when the child will be idle, or when its CPU time is to be read.
    fn idle_at(&mut self) -> Option<Instant> {
        let child = &self.child;
        self.idle.as_mut()?.next(|| child.cpu_time())
    }

    fn is_idle(&self) -> bool {
        self.idle.as_ref().is_some_and(|idle| idle.is_over(!self.has_output()))
    }

    /// Notes whether a call of the capture is in progress. Other time is not idle time, nor is the time in which the
    /// child may wait for a file.
    fn count_idle_time(&mut self) {
        if self.idle.is_none() {
            return;
        }
        let is_called = self.reading.is_some() || self.is_writing || self.finishes > 0;
        let counts = (is_called || self.is_in_background) && !self.paused().contains(&true);
        self.idle.iter_mut().for_each(|idle| idle.set_counting(counts));
    }

    /// Waits after the exit, within the drain time, for the processes that still hold a pipe.
    fn drained_by(&self, deadline: Option<Instant>) -> Next {
        let Some(exit) = &self.exit else { return Next::Wait(deadline) };
        let drain = self.bounds.drain.unwrap_or(DRAIN);
        let (since, drain) = match self.phase() {
            None => (exit.at, drain),
            // A process that holds a pipe after a stop is one that a stop does not reach.
            Some(Phase::Grace(_)) => (exit.at, drain.min(DYING)),
            Some(Phase::Killed(at)) => (exit.at.max(at), drain.min(DYING)),
        };
        let end = earlier(since.checked_add(drain), deadline);
        if !self.has_output() || has_passed(end) { Next::Finish } else { Next::Wait(end) }
    }

    fn is_tree_empty(&mut self) -> bool {
        // After an error the tree is killed, and the kill reports the error.
        self.poll_tree().is_some_and(|ended| ended.unwrap_or(false))
    }

    /// Returns whether the whole tree has ended. `None` before the time of the next poll, which costs a search.
    fn poll_tree(&mut self) -> Option<io::Result<bool>> {
        if self.next_tree_poll.is_some() && !has_passed(self.next_tree_poll) {
            return None;
        }
        let now = Instant::now();
        self.next_tree_poll = now.checked_add(self.tree_pause);
        self.tree_pause = (self.tree_pause * 2).min(LATEST);
        Some(self.child.has_ended_by(Some(now)))
    }

    /// Waits for members of a stopped tree that hold no pipe.
    fn end_stop(&mut self) -> Next {
        // A child that was killed and has not ended is not waited for any longer.
        while self.exit.is_some() {
            let Some((_, until)) = self.stop.as_ref().and_then(Stop::pending) else { break };
            let ended = match self.poll_tree() {
                None | Some(Ok(false)) if !has_passed(until) => {
                    return Next::Wait(earlier(until, self.next_tree_poll));
                }
                ended => ended.unwrap_or(Ok(false)),
            };
            if let Some(stop) = &mut self.stop {
                stop.advance(vec![ended]);
            }
            (self.next_tree_poll, self.tree_pause) = (None, SOONEST);
        }
        Next::Finish
    }

    /// Does what is ready, until the deadline at the latest. Returns whether bytes were moved.
    pub(super) fn advance(&mut self, ready: Ready, deadline: Option<Instant>) -> bool {
        self.polled();
        self.idle.iter_mut().for_each(Idle::polled);
        if ready.exit {
            // If the exit that was reported cannot be confirmed yet, it is polled.
            self.exit_descriptor = None;
            if self.exit.is_none() {
                self.poll_exit();
            }
        }
        let mut moved = false;
        let mut scratch = Vec::new();
        for stream in Stream::BOTH.into_iter().filter(|stream| ready.outputs[*stream as usize]) {
            // A read that finds nothing costs less than one more wait. But a child that writes without end must not
            // keep the engine here.
            for _ in 0..READS_PER_TURN {
                if !self.pipes.is_open(stream)
                    || self.has_reached()
                    || self.output.is_full(stream)
                    || self.read(stream, &mut scratch).is_none()
                {
                    break;
                }
                moved = true;
                if has_passed(deadline) {
                    break;
                }
            }
        }
        if moved {
            self.last_output = Instant::now();
        }
        if ready.stdin {
            self.is_write_blocked = false;
            moved |= self.feed();
        }
        if moved {
            self.idle.iter_mut().for_each(Idle::moved);
        }
        moved
    }

    /// Notes that a wait is over: from now on deadlines count.
    pub(super) fn polled(&mut self) {
        self.has_polled = true;
        if let Some(reading) = &mut self.reading {
            reading.has_polled = true;
        }
    }

    fn has_reached(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.reached.is_some())
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
        self.exit_descriptor = None;
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
        self.stop = Some(if self.bounds.grace.is_zero() {
            Stop::at_once(self.child())
        } else {
            Stop::begin(vec![self.child()], Request::DEFAULT, self.bounds.grace)
        });
    }

    /// Reads once. Returns how many bytes there were, 0 at the end, or `None` if there is nothing to read now. Bytes of
    /// which not all are kept are in `scratch`.
    fn read(&mut self, stream: Stream, scratch: &mut Vec<u8>) -> Option<usize> {
        // The bytes are for a later read.
        let is_later = match self.reading {
            None => self.output.between_reads(),
            Some(_) => self.has_reached(),
        };
        scratch.clear();
        let is_direct = !is_later && self.callbacks.is_empty();
        let direct = if is_direct { self.output.buffer(stream) } else { None };
        let is_direct = direct.is_some();
        let buffer = direct.unwrap_or(scratch);
        let before = buffer.len();
        let (count, flow) = match self.pipes.read(stream, buffer) {
            Ok(None) => return None,
            Ok(Some(count @ 1..)) => {
                let new = &buffer[before..];
                let accepted = match &mut self.reading {
                    _ if is_later => 0,
                    None => count,
                    Some(reading) => reading.find(stream, new),
                };
                if is_direct {
                    self.output.appended(stream, count, accepted);
                    (count, ControlFlow::Continue(()))
                } else {
                    self.output.push(stream, scratch, accepted);
                    // A callback may panic: the bytes are counted by now.
                    (count, self.callbacks.show(stream, scratch))
                }
            }
            ended => {
                self.ends[stream as usize] =
                    if ended.is_ok() { StreamEnd::Closed } else { StreamEnd::Failed };
                self.error = self.error.take().or(ended.err());
                self.pipes.close(stream);
                (0, self.callbacks.finish(stream))
            }
        };
        if flow.is_break() {
            self.stop(StoppedBy::Callback);
        } else if self.bounds.stop_at_limit && self.output.is_over_limit(stream) {
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
            // The pipe stays open until the child has ended: the child must not take the failure for the end of its
            // input.
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
        let mut scratch = Vec::new();
        while self.pipes.is_open(stream) {
            match self.read(stream, &mut scratch) {
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

    /// Returns the turn of the read in progress.
    pub(super) fn turn(&self) -> Option<u64> {
        self.reading.as_ref().map(|reading| reading.turn)
    }

    /// Begins a read and returns its turn, unless another is in progress or comes first.
    pub(super) fn begin_read(
        &mut self,
        place: &mut Option<u64>,
        until: &Until,
        is_task: bool,
    ) -> Option<u64> {
        if !self.reads.take(place, self.reading.is_none()) {
            return None;
        }
        let mut until = until.clone();
        let turn = next_token();
        let finder = Finder::new(&mut until);
        let began = Instant::now();
        let (reached, has_polled) = (None, false);
        let mut reading = Reading { turn, is_task, until, finder, reached, began, has_polled };
        if !reading.finder.seeks() {
            self.output.keep_pieces();
        } else if Stream::BOTH.iter().any(|stream| self.output.is_over_limit(*stream)) {
            self.output.keep_pieces();
            reading.reached = Some(Reached::Omitted);
        } else {
            if !self.output.is_empty() {
                self.output.split();
            }
            if reading.finder.seeks_no_byte() {
                reading.reached = Some(Reached::Bytes);
            } else {
                self.output.deliver_pieces(|stream, bytes| {
                    let accepted = reading.find(stream, bytes);
                    (accepted, reading.reached.is_some())
                });
            }
        }
        self.reading = Some(reading);
        self.count_idle_time();
        Some(turn)
    }

    /// Ends a read without a result, if it is in progress. The next read returns what this one would have returned.
    pub(super) fn give_up_read(&mut self, turn: u64) {
        if self.turn() == Some(turn) {
            self.end_read();
        }
    }

    fn end_read(&mut self) {
        self.reading = None;
        self.count_idle_time();
    }

    /// Takes a step of the read in progress.
    pub(super) fn read_step(&mut self) -> Step<Chunk> {
        let next = self.next();
        let Some(reading) = &self.reading else { return Step::Wait(None) };
        let reached = match (reading.reached, next) {
            (Some(reached), _) => reached,
            (None, Next::Finish) => Reached::End,
            (None, Next::Wait(until)) => match reading.wait(self.last_output, &self.output) {
                Ok(reached) => reached,
                Err(own) => return Step::Wait(earlier(until, own)),
            },
        };
        self.end_read();
        Step::Done(self.chunk(reached))
    }

    fn chunk(&mut self, reached: Reached) -> Chunk {
        let mut ends = self.ends;
        for stream in Stream::BOTH {
            if self.pipes.is_open(stream) {
                ends[stream as usize] = StreamEnd::Open;
            }
        }
        let ([stdout, stderr], order) = self.output.take(ends);
        let (state, stopped_by) = (self.child_state(), self.stopped_by);
        Chunk { stdout, stderr, reached, state, stopped_by, order }
    }

    /// Returns a chunk without output, for a read that has had no turn.
    pub(super) fn chunk_of_nothing(&self, reached: Reached) -> Chunk {
        let (state, stopped_by) = (self.child_state(), self.stopped_by);
        Chunk { state, stopped_by, ..chunk_of_nothing(reached, StreamEnd::Open) }
    }

    fn child_state(&self) -> ChildState {
        match &self.exit {
            None => ChildState::Running,
            Some(exit) => ChildState::Ended(exit.status),
        }
    }

    /// Refuses to read on a thread of this library if that would run the caller's code.
    pub(super) fn check_background(&self) -> io::Result<()> {
        let has_reader = self.feed.as_ref().is_some_and(Feed::is_reader);
        if has_reader || !self.callbacks.is_empty() {
            let message = format!(
                "cannot read the output of process {} in the background: the capture has a callback or a reader; read on \
                 a thread of the program",
                self.child.id()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(())
    }

    /// Returns how many bytes have arrived, kept or omitted, that no read has returned.
    pub(super) fn unread(&self) -> u64 {
        self.output.total()
    }

    /// Takes a step of reading while the program makes no call.
    pub(super) fn background_step(&mut self) -> Step<()> {
        self.is_in_background = true;
        self.count_idle_time();
        match self.next() {
            Next::Wait(until) => Step::Wait(until),
            Next::Finish => Step::Done(()),
        }
    }

    /// Begins a write, unless another is in progress or comes first.
    pub(super) fn begin_write(&mut self, place: &mut Option<u64>) -> bool {
        let has_turn = self.writes.take(place, !self.is_writing);
        self.is_writing |= has_turn;
        self.count_idle_time();
        has_turn
    }

    pub(super) fn end_write(&mut self) {
        self.is_writing = false;
        self.is_write_blocked = false;
        self.count_idle_time();
    }

    /// Writes what there is room for.
    pub(super) fn write_step(&mut self, bytes: &[u8]) -> io::Result<Step<usize>> {
        let next = self.next();
        if !self.is_stdin_open() {
            let (kind, cause) = match next {
                Next::Finish => (io::ErrorKind::BrokenPipe, "the capture is over"),
                Next::Wait(_) => {
                    (io::ErrorKind::InvalidInput, "it is not open; use CaptureOptions::stdin_open")
                }
            };
            let message =
                format!("cannot write to the stdin of process {}: {cause}", self.child.id());
            return Err(io::Error::new(kind, message));
        }
        let written = self.pipes.write(bytes)?;
        self.is_write_blocked = written.is_none();
        if written.is_some() {
            self.idle.iter_mut().for_each(Idle::moved);
        }
        Ok(match (written, next) {
            (Some(count), _) => Step::Done(count),
            (None, Next::Wait(until)) => Step::Wait(until),
            (None, Next::Finish) => Step::Wait(None),
        })
    }

    /// Gives up a write that was blocked. Returns how many more bytes were written.
    pub(super) fn cancel_write(&mut self) -> io::Result<usize> {
        self.pipes.cancel_write()
    }

    /// Returns whether standard input is open for writes.
    pub(super) fn is_stdin_open(&self) -> bool {
        self.feed.is_none() && self.pipes.has_stdin()
    }

    /// Closes standard input, unless the options have input for it.
    pub(super) fn close_stdin(&mut self) {
        if self.feed.is_none() {
            self.is_write_blocked = false;
            self.pipes.close_stdin();
        }
    }

    pub(super) fn begin_finish(&mut self) {
        self.finishes += 1;
        self.count_idle_time();
    }

    pub(super) fn end_finish(&mut self) {
        self.finishes -= 1;
        self.count_idle_time();
    }

    /// Returns what was captured, once the capture is over. A thread that reads gets what it has read. A task may never be
    /// polled again, and its read must not delay the end.
    pub(super) fn finish_step(&mut self) -> Step<Captured> {
        let is_read_by_task = self.reading.as_ref().is_some_and(|reading| reading.is_task);
        if is_read_by_task && self.has_reached() {
            self.end_read();
        }
        if let Next::Wait(until) = self.next() {
            return Step::Wait(until);
        }
        if self.reading.is_some() && !is_read_by_task {
            return Step::WaitForTurn(None);
        }
        self.end_read();
        let Some(End { elapsed, usage }) = self.end else { return Step::Wait(None) };
        self.output.keep_pieces();
        let ([stdout, stderr], order) = self.output.take(self.ends);
        Step::Done(Captured {
            status: self.exit.as_ref().and_then(|exit| exit.status),
            stdout,
            stderr,
            stopped_by: self.stopped_by,
            usage,
            elapsed,
            error: self.error(),
            command: self.child.description(),
            order,
        })
    }

    /// Returns the error of a lost status, or else the first error.
    fn error(&self) -> Option<io::Error> {
        let first = self.error.as_ref()?;
        if let Some(ChildExit { status: None, .. }) = self.exit {
            // A copy of an error lacks its source. Every wait returns this error anew.
            if let Err(error) = self.child.try_wait() {
                return Some(error);
            }
        }
        Some(copy_error(first))
    }
}

impl Reading {
    /// Returns how many of these bytes belong to the read, and notes whether it ends within them.
    fn find(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let (accepted, reached) = self.finder.find(stream, bytes);
        self.reached = reached;
        accepted
    }

    /// Returns the condition that the time has met, or the time to wait for.
    fn wait(&self, last_output: Instant, output: &Output) -> Result<Reached, Option<Instant>> {
        let until = &self.until;
        let quiet = until.quiet.filter(|_| !output.is_empty());
        let quiet = quiet.and_then(|quiet| last_output.checked_add(quiet));
        let silent = until.silent.and_then(|time| last_output.max(self.began).checked_add(time));
        let quiet = earlier(quiet, silent);
        if self.has_polled {
            if has_passed(quiet) {
                return Ok(Reached::Quiet);
            }
            if has_passed(until.deadline) {
                return Ok(Reached::Deadline);
            }
        }
        Err(earlier(quiet, until.deadline))
    }
}
