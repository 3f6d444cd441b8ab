//! The driver in the polls of futures, for any executor.
//!
//! A poll advances the engine without a wait, unless a thread drives. If its operation is not done, it registers the
//! task with the background thread (`reaper.rs`), for the pipes, the exit and the time, and with the engine, for what
//! the polls of other tasks and the threads do. A wake-up is only a reason to poll again.

use super::blocking::{Driven, Driver, State, Woken};
use super::engine::{Engine, Step, has_passed};
use crate::backoff::{Backoff, earlier};
use crate::future::wake_at;
use crate::reaper::{self, Wake};
use crate::sys::Ready;
use crate::watchlist::next_token;
use std::task::{Context, Poll};
use std::time::Instant;

/// How often one poll advances the engine before other tasks of the executor have their turn.
const TURNS: usize = 8;

/// The task of one operation. A drop removes its registrations.
pub(super) struct Task<'d, 'a> {
    driven: &'d Driven<'a>,
    id: u64,
    wake: Option<Wake>,
    backoff: Backoff,
}

impl<'d, 'a> Task<'d, 'a> {
    pub(super) fn new(driven: &'d Driven<'a>) -> Self {
        Self { driven, id: next_token(), wake: None, backoff: Backoff::new() }
    }

    /// Takes steps of an operation until it is done, or must wait.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Engine<'a>) -> Step<T>,
    ) -> Poll<T> {
        let waker = cx.waker().clone();
        // Both are dropped after the mutex is released.
        let mut woken = Woken::default();
        let _former;
        let mut state = self.driven.lock();
        // What this poll changes must not wake its own task.
        _former = state.remove_task(self.id);
        let mut turns = 0;
        // Nothing was ready. What becomes ready meanwhile is reported as soon as it is registered.
        let mut has_found_nothing = false;
        let (has_turn, until) = loop {
            let (has_turn, until) = match step(&mut state.engine) {
                Step::Done(value) => {
                    self.driven.notify(&mut state, &mut woken);
                    return Poll::Ready(value);
                }
                Step::Wait(until) => (true, until),
                Step::WaitForTurn(until) => (false, until),
            };
            if turns == TURNS {
                drop(state);
                self.wake = None;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            turns += 1;
            let has_changed = match state.driver {
                Driver::None if has_turn && !has_found_nothing => {
                    self.advance(&mut state, until, &mut woken)
                }
                _ => false,
            };
            has_found_nothing = !has_changed;
            if !has_changed && (!has_turn || !has_passed(until)) {
                break (has_turn, until);
            }
            state.engine.polled();
        };
        state.tasks.push((self.id, waker));
        let drives = has_turn && state.driver == Driver::None;
        state.join();
        let (notice, pipes) = if drives { state.engine.events() } else { (None, Vec::new()) };
        let polls_exit = drives && state.engine.polls_exit();
        drop(state);
        // A registration for other events must not keep a pipe open.
        let mut wake = self.wake.take();
        if until.is_none() && notice.is_none() && pipes.is_empty() && !polls_exit {
            return Poll::Pending;
        }
        if !polls_exit {
            let notice = notice.as_ref();
            if let Some(wake) = wake.take_if(|wake| wake.rearm(notice, &pipes, until, cx.waker())) {
                self.wake = Some(wake);
            } else {
                drop(wake);
                self.wake = reaper::register(notice, pipes, until, cx.waker());
            }
        }
        if self.wake.is_none() {
            // Something cannot be reported, and is polled.
            let next = Instant::now() + self.backoff.next();
            self.wake = wake_at(earlier(until, Some(next)).unwrap_or(next), cx);
        }
        Poll::Pending
    }

    /// Advances the engine without a wait. Returns whether anything has changed.
    fn advance(
        &mut self,
        state: &mut State<'a>,
        until: Option<Instant>,
        woken: &mut Woken,
    ) -> bool {
        let polls_exit = state.engine.polls_exit();
        let ready = state.engine.wait(None).and_then(|wait| wait.wait(Some(Instant::now())));
        let mut ready = ready.unwrap_or(Ready::ALL);
        let mut has_changed = ready.exit || ready.stdin || ready.outputs.contains(&true);
        if has_changed {
            self.driven.notify(state, woken);
        }
        ready.exit |= polls_exit;
        if state.engine.advance(ready, until) {
            self.backoff = Backoff::new();
        }
        if polls_exit && !state.engine.polls_exit() {
            self.driven.notify(state, woken);
            has_changed = true;
        }
        has_changed
    }
}

impl Drop for Task<'_, '_> {
    fn drop(&mut self) {
        if self.driven.is_copied() {
            return;
        }
        let mut state = self.driven.lock();
        let removed = state.remove_task(self.id);
        drop(state);
        drop(removed);
    }
}
