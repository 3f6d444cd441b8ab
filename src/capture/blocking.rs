//! The driver on the threads that call a capture's operations.
//!
//! One thread *drives*: it waits for the pipes and the exit in one system call, without the mutex, and then lets the
//! engine advance, for all operations in progress. The other threads follow: they wait for the driver, each until its
//! own deadline. When the driver's operation is over, a follower drives. A follower that needs standard input, for
//! which the driver does not wait, sets off an alarm.

use super::engine::{Engine, Step};
use crate::backoff::{Backoff, LONGEST, earlier, left};
use crate::reaper;
use crate::sync::{Mutex, MutexGuard, imp::Condvar};
use crate::sys::{Alarm, Ready};
use std::io;
use std::process;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// An engine, and the threads that drive it.
pub(super) struct Driven<'a> {
    state: Mutex<State<'a>>,
    /// Notified when the driver has advanced the engine, and when a follower is to drive.
    changed: Condvar,
    /// The process that began the capture.
    process: u32,
}

pub(super) struct State<'a> {
    pub(super) engine: Engine<'a>,
    pub(super) driver: Driver,
    followers: usize,
    /// The tasks that wait, by their IDs.
    pub(super) tasks: Vec<(u64, Waker)>,
    /// Ends the driver's wait. `None` if no write is possible, or no descriptor was spare.
    alarm: Option<Arc<Alarm>>,
    is_alarm_set: bool,
    /// The wait for standard input may have to begin at any time.
    is_writable: bool,
    pause: Backoff,
}

/// The thread that drives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    None,
    Waits { for_stdin: bool },
}

impl<'a> Driven<'a> {
    pub(super) fn new(engine: Engine<'a>, is_writable: bool) -> Self {
        let alarm = if is_writable { Alarm::new().ok().map(Arc::new) } else { None };
        let state = State {
            engine,
            driver: Driver::None,
            followers: 0,
            tasks: Vec::new(),
            alarm,
            is_alarm_set: false,
            is_writable,
            pause: Backoff::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), process: process::id() }
    }

    /// Returns whether this process is the child of a fork: the mutex may stay locked, and the pipes are the parent's.
    pub(super) fn is_copied(&self) -> bool {
        self.process != process::id()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock()
    }

    /// Repeats the step of an operation until it is done, and waits in between.
    pub(super) fn run<T>(&self, mut step: impl FnMut(&mut Engine<'a>) -> Step<T>) -> T {
        loop {
            // Dropped after the mutex is released.
            let mut woken = Woken::default();
            let mut state = self.state.lock();
            while woken.0.is_empty() {
                state = match (step(&mut state.engine), state.driver) {
                    (Step::Done(value), _) => {
                        self.notify(&mut state, &mut woken);
                        return value;
                    }
                    (Step::Wait(until), Driver::None) => self.drive(state, until, &mut woken),
                    // The thread whose turn it is drives, or follows.
                    (Step::Wait(until) | Step::WaitForTurn(until), _) => self.follow(state, until),
                };
            }
        }
    }

    /// Changes the engine without a wait. Does nothing in the child of a fork.
    pub(super) fn change(&self, change: impl FnOnce(&mut Engine<'a>)) {
        if self.is_copied() {
            return;
        }
        let mut woken = Woken::default();
        let mut state = self.state.lock();
        change(&mut state.engine);
        // A pipe that was closed stays open while the driver waits for it.
        if let Driver::Waits { for_stdin: true } = state.driver {
            state.set_alarm();
        }
        self.notify(&mut state, &mut woken);
    }

    /// Has all others take a step, once the mutex is released.
    pub(super) fn notify(&self, state: &mut State<'a>, woken: &mut Woken) {
        woken.0.extend(state.tasks.drain(..).map(|(_, waker)| waker));
        if state.followers > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until another thread has driven the engine, or until the deadline.
    fn follow<'s>(
        &'s self,
        mut state: MutexGuard<'s, State<'a>>,
        until: Option<Instant>,
    ) -> MutexGuard<'s, State<'a>> {
        state.join();
        state.followers += 1;
        let mut state = match until {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let waited = self.changed.wait_timeout(state, left(until));
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.followers -= 1;
        state.engine.polled();
        state
    }

    /// Waits for the pipes and the exit, until the deadline at the latest, and lets the engine advance.
    fn drive<'s>(
        &'s self,
        mut state: MutexGuard<'s, State<'a>>,
        until: Option<Instant>,
        woken: &mut Woken,
    ) -> MutexGuard<'s, State<'a>> {
        let polls_exit = state.engine.polls_exit();
        let for_stdin = state.engine.has_input();
        // Nothing ends a wait for the exit alone, which a write would have to end.
        if polls_exit && !for_stdin && !state.engine.has_output() && !state.is_writable {
            let child = state.engine.child();
            state.driver = Driver::Waits { for_stdin };
            drop(state);
            let exited = child.exit_by(until);
            let mut state = self.is_back(woken);
            state.engine.polled();
            state.engine.exited(exited);
            return state;
        }
        let mut until = until;
        if polls_exit {
            // The exit does not end this wait, but usually closes a pipe, which does.
            until = earlier(until, Instant::now().checked_add(state.pause.next()));
        } else if state.is_writable && state.alarm.is_none() {
            until = earlier(until, Instant::now().checked_add(LONGEST));
        }
        let alarm = state.alarm.clone();
        let wait = state.engine.wait(alarm.as_ref());
        let mut pause = state.pause.clone();
        state.driver = Driver::Waits { for_stdin };
        drop(state);
        let ready: io::Result<Ready> = wait.and_then(|wait| wait.wait(until));
        let mut ready = ready.unwrap_or_else(|_| {
            // Without a working wait, everything is tried after a pause.
            pause.sleep(until);
            Ready::ALL
        });
        let mut state = self.is_back(woken);
        state.pause = pause;
        ready.exit |= polls_exit;
        if state.engine.advance(ready, until) {
            state.pause = Backoff::new();
        }
        state
    }

    /// Notes that the driver's wait is over. The others continue when the mutex is released, even if a callback panics.
    fn is_back(&self, woken: &mut Woken) -> MutexGuard<'_, State<'a>> {
        let mut state = self.state.lock();
        state.driver = Driver::None;
        if std::mem::take(&mut state.is_alarm_set) {
            state.alarm.iter().for_each(|alarm| alarm.clear());
        }
        self.notify(&mut state, woken);
        state
    }
}

/// Tasks to be woken, when this is dropped: without the mutex.
#[derive(Default)]
pub(super) struct Woken(Vec<Waker>);

impl Drop for Woken {
    fn drop(&mut self) {
        self.0.drain(..).for_each(reaper::wake);
    }
}

impl State<'_> {
    /// Removes a task. Its waker must be dropped after the mutex is released: that may run the code of the caller.
    pub(super) fn remove_task(&mut self, id: u64) -> Option<(u64, Waker)> {
        let index = self.tasks.iter().position(|(task, _)| *task == id)?;
        Some(self.tasks.swap_remove(index))
    }

    /// Has the driver wait for standard input too, if an operation that follows requires it.
    pub(super) fn join(&mut self) {
        if self.engine.has_input() && self.driver == (Driver::Waits { for_stdin: false }) {
            self.set_alarm();
        }
    }

    fn set_alarm(&mut self) {
        if let (Some(alarm), false) = (&self.alarm, self.is_alarm_set) {
            alarm.set();
            self.is_alarm_set = true;
        }
    }
}
