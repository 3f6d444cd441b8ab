//! The course of a capture.
//!
//! One loop, which blocks only in `Pipes::wait`, and never beyond what is due next:
//!
//! | phase | ends when |
//! |---|---|
//! | running | the child has exited and the outputs are at their end, or the drain time since the exit is over; or something stops it |
//! | asked | as above; but of a tree, all must be gone; or the grace is over |
//! | killed | as above; or it has not died in time |
//!
//! Output is read in all of them, since one that is to end may have to write first. So a stop within a capture is not
//! [`stop::stop`], which would block, but made of the same halves: [`stop::begin`], and the kill.
//!
//! A deadline thus needs no thread and no signal, and nothing has to be cleaned up but the pipes.

use super::Stream;
use super::captured::{Captured, CapturedStream, StoppedBy, StreamEnd};
use super::hooks::Hooks;
use super::input::{Fed, Feed};
use super::keep::Keep;
use super::pipes::Pipes;
use super::settings::{CaptureOptions, DRAIN, Input};
use crate::SharedChild;
use crate::backoff::Backoff;
use crate::stop;
use crate::sys::{Ask, ExitDescriptor};
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How often to look whether a tree is empty, while somebody who may not belong to it holds a pipe.
const LOOK: Duration = Duration::from_millis(100);

/// How often to read of one stream before the other has its turn.
const AT_ONCE: usize = 16;

pub(super) fn run(
    child: &SharedChild,
    capture: &mut CaptureOptions<'_>,
    began: Instant,
) -> io::Result<Captured> {
    let has_input = !matches!(capture.input, Input::Nothing);
    // All or none: whoever is refused has lost nothing.
    let (stdin, stdout, stderr) = child
        .take_pipes(|has_stdin, has_stderr| {
            if has_input && !has_stdin {
                return Err("is to be fed, but its standard input is not piped, or was taken");
            }
            if capture.merge_stderr && has_stderr {
                return Err("has two outputs, which cannot be merged any more: spawn it with \
                        SpawnOptions::spawn_piped");
            }
            Ok(())
        })
        .map_err(|why| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("process {} {why}", child.id()))
        })?;
    // What there is nothing for is closed.
    let pipes = Pipes::new(stdin.filter(|_| has_input), stdout, stderr)?;
    let deadline =
        earlier(capture.timeout.and_then(|timeout| began.checked_add(timeout)), capture.deadline);
    let streams = Stream::BOTH.map(|stream| Kept {
        keep: Keep::new(capture.limits[stream as usize]),
        end: if pipes.is_open(stream) { StreamEnd::HeldOpen } else { StreamEnd::NotCaptured },
    });
    let mut run = Run {
        child,
        pipes,
        feed: Feed::of(&mut capture.input),
        hooks: Hooks::of(&mut capture.on_output, &mut capture.on_line),
        streams,
        scratch: Vec::new(),
        stop_at_limit: capture.stop_at_limit,
        deadline,
        grace: capture.grace,
        drain: capture.drain.unwrap_or(DRAIN),
        phase: Phase::Running,
        exit: None,
        exit_descriptor: child.notice().and_then(ExitDescriptor::new),
        pause: Backoff::new(),
        is_unsettled: false,
        next_look: None,
        stopped_by: None,
        error: None,
    };
    run.go_through()?;
    Ok(run.finish(began))
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

struct Run<'r, 'a> {
    child: &'r SharedChild,
    pipes: Pipes,
    /// Until the child has got it all.
    feed: Option<Feed<'r>>,
    hooks: Hooks<'r, 'a>,
    streams: [Kept; 2],
    /// For what is not kept as a whole.
    scratch: Vec<u8>,
    stop_at_limit: bool,
    deadline: Option<Instant>,
    grace: Duration,
    drain: Duration,
    phase: Phase,
    exit: Option<Exit>,
    /// Until the exit is known. `None` if nothing reports it: then it is polled for.
    exit_descriptor: Option<ExitDescriptor>,
    /// Between polls for an exit.
    pause: Backoff,
    /// The exit was noticed, and yet is not to be had (see `Backoff`).
    is_unsettled: bool,
    /// When to see again whether a tree is empty.
    next_look: Option<Instant>,
    stopped_by: Option<StoppedBy>,
    error: Option<io::Error>,
}

struct Kept {
    keep: Keep,
    end: StreamEnd,
}

struct Exit {
    at: Instant,
    /// `None` if somebody else has taken it.
    status: Option<ExitStatus>,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    Asked { kill_at: Option<Instant> },
    Killed { at: Instant },
}

/// What is next.
enum Next {
    Wait(Option<Instant>),
    Over,
}

impl Run<'_, '_> {
    fn go_through(&mut self) -> io::Result<()> {
        // Even if the time is up already: what there is, is read.
        self.step(Some(Instant::now()))?;
        loop {
            if let Next::Wait(deadline) = self.next() {
                self.step(deadline)?;
                continue;
            }
            let was_running = self.is_running();
            Stream::BOTH.iter().for_each(|stream| self.read_the_rest(*stream));
            // That may have been reason to stop it, and so to read on; as may be what is shown at the very end.
            if self.is_running() == was_running {
                Stream::BOTH.iter().for_each(|stream| self.show_the_rest(*stream));
            }
            if self.is_running() == was_running {
                return Ok(());
            }
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Does what is due now. Says until when to wait for the next thing to happen.
    fn next(&mut self) -> Next {
        if let (Phase::Running, None) = (self.phase, &self.exit) {
            if !has_passed(self.deadline) {
                return Next::Wait(self.deadline);
            }
            // It may have exited since it was looked at.
            self.has_exited(self.child.try_wait());
            if self.exit.is_none() {
                self.stop(StoppedBy::Deadline);
            }
        }
        match self.phase {
            Phase::Running => self.drain_until(self.deadline),
            Phase::Asked { kill_at } if has_passed(kill_at) => {
                self.kill();
                self.next()
            }
            Phase::Asked { kill_at } if self.exit.is_none() => Next::Wait(kill_at),
            Phase::Asked { kill_at } => match self.drain_until(kill_at) {
                // There is nothing left to read, and so the rest can be waited for.
                Next::Over if !self.is_any_open() => Next::Over,
                // Whoever holds a pipe may still be about to end. But they need not belong to the tree.
                Next::Over if !self.is_tree_empty() => Next::Wait(earlier(kill_at, self.next_look)),
                next => next,
            },
            Phase::Killed { at } => match self.exit {
                Some(_) => self.drain_until(None),
                None => match at.checked_add(stop::DYING) {
                    given_up if has_passed(given_up) => Next::Over,
                    given_up => Next::Wait(given_up),
                },
            },
        }
    }

    /// After the exit: those who still have a pipe are waited for, but not for long.
    fn drain_until(&self, deadline: Option<Instant>) -> Next {
        let since = match (&self.exit, self.phase) {
            (Some(exit), Phase::Killed { at }) => exit.at.max(at),
            (Some(exit), _) => exit.at,
            (None, _) => return Next::Wait(deadline),
        };
        // Who has a pipe though all were stopped is nobody who could be stopped.
        let drain = match self.phase {
            Phase::Running => self.drain,
            Phase::Asked { .. } | Phase::Killed { .. } => self.drain.min(stop::DYING),
        };
        let end = earlier(since.checked_add(drain), deadline);
        if !self.is_any_open() || has_passed(end) { Next::Over } else { Next::Wait(end) }
    }

    fn is_any_open(&self) -> bool {
        Stream::BOTH.iter().any(|stream| self.pipes.is_open(*stream))
    }

    fn is_tree_empty(&mut self) -> bool {
        if self.next_look.is_some() && !has_passed(self.next_look) {
            return false;
        }
        let now = Instant::now();
        self.next_look = now.checked_add(LOOK);
        // (After an error it is killed, which tells.)
        self.child.is_gone_by(Some(now)).unwrap_or(false)
    }

    /// Waits for something to happen, and does it.
    fn step(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let is_woken_by_exit = self.exit_descriptor.is_some() && !self.is_unsettled;
        let ready = if self.exit.is_some() || is_woken_by_exit {
            self.pipes.wait(self.feed.is_some(), self.exit_descriptor.as_ref(), deadline)?
        } else {
            // The exit does not end this wait, so it is polled for, with backoff. (The usual exit closes a pipe, which
            // ends the wait.) If nothing is left but the exit, a wait of the child blocks for it.
            if !self.is_any_open() && self.feed.is_none() {
                self.has_exited(self.child.exit_by(deadline));
                return Ok(());
            }
            let now_and_then = Instant::now().checked_add(self.pause.next());
            self.pipes.wait(self.feed.is_some(), None, earlier(deadline, now_and_then))?
        };
        if self.exit.is_none() && (ready.exit || !is_woken_by_exit) {
            self.has_exited(self.child.try_wait());
            self.is_unsettled |= ready.exit;
        }
        for stream in Stream::BOTH {
            let mut turns = if ready.outputs[stream as usize] { AT_ONCE } else { 0 };
            // To the bottom, since to ask whether there is more takes longer than to try; but not for ever.
            while turns > 0 && self.read(stream).is_some() && self.pipes.is_open(stream) {
                turns -= if has_passed(deadline) { turns } else { 1 };
            }
        }
        if ready.stdin {
            self.feed();
        }
        Ok(())
    }

    fn has_exited(&mut self, exited: io::Result<Option<ExitStatus>>) {
        let status = match exited {
            Ok(None) => return,
            Ok(status) => status,
            // It is gone, and nobody can say how.
            Err(error) => {
                self.failed(error);
                None
            }
        };
        self.exit = Some(Exit { at: Instant::now(), status });
        self.exit_descriptor = None;
    }

    /// The first error is told.
    fn failed(&mut self, error: io::Error) {
        self.error.get_or_insert(error);
    }

    fn stop(&mut self, why: StoppedBy) {
        if !self.is_running() {
            return;
        }
        self.stopped_by = Some(why);
        if self.grace.is_zero() {
            self.kill();
        } else {
            let kill_at = stop::begin(self.child, Ask::DEFAULT, self.grace);
            self.phase = Phase::Asked { kill_at };
        }
    }

    fn kill(&mut self) {
        if !self.child.is_known_to_be_gone() {
            if let Err(error) = self.child.kill_all() {
                self.failed(error);
            }
        }
        self.phase = Phase::Killed { at: Instant::now() };
    }

    /// Reads what there is, and says how much: 0 at the end. `None` if that is nothing now.
    fn read(&mut self, stream: Stream) -> Option<usize> {
        let Kept { keep, end } = &mut self.streams[stream as usize];
        self.scratch.clear();
        let buffer = keep.all().unwrap_or(&mut self.scratch);
        let before = buffer.len();
        let (count, flow) = match self.pipes.read(stream, buffer) {
            Ok(None) => return None,
            Ok(Some(count @ 1..)) => (count, self.hooks.show(stream, &buffer[before..])),
            ended => {
                *end = if ended.is_ok() { StreamEnd::Closed } else { StreamEnd::Failed };
                self.error = self.error.take().or(ended.err());
                self.pipes.close(stream);
                (0, self.hooks.finish(stream))
            }
        };
        // (Nothing, if it was appended to what is kept.)
        keep.push(&self.scratch);
        let is_too_much = self.stop_at_limit && keep.missing > 0;
        if flow.is_break() {
            self.stop(StoppedBy::Callback);
        } else if is_too_much {
            self.stop(StoppedBy::Limit(stream));
        }
        Some(count)
    }

    fn feed(&mut self) {
        let Some(feed) = &mut self.feed else { return };
        match feed.feed(&mut self.pipes) {
            Fed::More => {}
            Fed::All => {
                self.feed = None;
                self.pipes.close_stdin();
            }
            // The pipe stays open until the child is gone: it is not to take this for the end of its input.
            Fed::Failed(error) => {
                self.feed = None;
                self.failed(error);
                self.stop(StoppedBy::Input);
            }
        }
    }

    /// Reads what is in the pipe at this moment, and no more: somebody may write all the time.
    fn read_the_rest(&mut self, stream: Stream) {
        let mut owed = self.pipes.available(stream);
        while self.pipes.is_open(stream) {
            match self.read(stream) {
                Some(count) if count as u64 <= owed => owed -= count as u64,
                _ => break,
            }
        }
    }

    /// A line that is not at its end, and will not be.
    fn show_the_rest(&mut self, stream: Stream) {
        if self.pipes.is_open(stream) && self.hooks.finish(stream).is_break() {
            self.stop(StoppedBy::Callback);
        }
    }

    fn finish(mut self, began: Instant) -> Captured {
        // Of a tree that was stopped, some may be left who have no pipe.
        let stopped = match self.phase {
            Phase::Running => Ok(()),
            Phase::Asked { kill_at } => {
                // (After an error it is killed, which tells.)
                let _ = self.child.is_gone_by(kill_at);
                stop::kill_the_rest(self.child)
            }
            Phase::Killed { at } if self.exit.is_some() => {
                self.child.is_gone_by(at.checked_add(stop::DYING)).map(drop)
            }
            Phase::Killed { .. } => Ok(()),
        };
        if let Err(error) = stopped {
            self.failed(error);
        }
        if self.exit.is_none() {
            let message = format!(
                "process {} was killed, but has not ended within {:?}",
                self.child.id(),
                stop::DYING
            );
            self.failed(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        // What is wrong is told where the status is.
        let usage = self.child.usage().unwrap_or(None);
        let [stdout, stderr] =
            self.streams.map(|Kept { keep, end }| CapturedStream::new(keep.finish(), end));
        Captured {
            status: self.exit.and_then(|exit| exit.status),
            stdout,
            stderr,
            stopped_by: self.stopped_by,
            usage,
            elapsed: began.elapsed(),
            error: self.error,
        }
    }
}
