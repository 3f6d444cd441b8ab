//! The driver on a thread of this library, for captures that are to be read while the program makes no call.
//!
//! One thread runs the futures of all such captures of the process. It starts for the first capture, and ends a second
//! after the last. A future takes its turn like that of any task (`task.rs`).

// Clippy does not see that `IS_READER` is constant where std allocates such values.
#![allow(clippy::missing_const_for_thread_local)]

use super::blocking::Driven;
use super::engine::Engine;
use super::task::Task;
use crate::fork_guard::{ForkGuard, PerProcess};
use crate::sync::{Mutex, imp::Condvar};
use crate::sys::spawn_thread;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// The child of a fork has a queue of its own, since it has no copy of the thread.
static QUEUE: PerProcess<Queue> = PerProcess::new();

/// How long the thread stays after the last capture.
const LINGER: Duration = Duration::from_secs(1);

/// The thread wakes the caller's tasks.
const STACK: usize = 1024 * 1024;

#[derive(Default)]
struct Queue {
    /// The lock is never held across anything that blocks.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Job>>,
    /// The number of captures that are read.
    jobs: usize,
    is_running: bool,
}

/// The future of one capture.
struct Job {
    /// `None` once it is over. The lock is held during a poll.
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// It is in the list of ready jobs.
    is_ready: AtomicBool,
    /// Its capture was dropped in a poll, by a waker.
    is_over: AtomicBool,
}

thread_local! {
    static IS_READER: Cell<bool> = const { Cell::new(false) };
}

/// A capture that the thread reads. A drop ends that, after a poll in progress.
pub(super) struct Background(ForkGuard<Arc<Job>>);

impl Background {
    /// Fails if the thread cannot be started.
    pub(super) fn start(driven: Arc<Driven<'static>>) -> io::Result<Self> {
        let queue = QUEUE.get();
        let mut state = queue.state.lock();
        if !state.is_running {
            spawn_thread("capture-reader", STACK, Box::new(move || run_thread(queue)))?;
            state.is_running = true;
        }
        state.jobs += 1;
        drop(state);
        let future = async move {
            let mut task = Task::new(&driven);
            poll_fn(|cx| task.poll(cx, Engine::background_step)).await;
        };
        let future = Mutex::new(Some(Box::pin(future) as Pin<Box<_>>));
        let job = Arc::new(Job {
            future,
            is_ready: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        Arc::clone(&job).wake();
        Ok(Self(ForkGuard::new(job)))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // In the child of a fork, the lock may stay locked.
        if self.0.is_copied() {
            return;
        }
        // A waker may drop a capture. This may be the one that the thread polls, so the job ends after the poll.
        self.0.is_over.store(true, Ordering::Relaxed);
        if IS_READER.try_with(Cell::get).unwrap_or(false) {
            Arc::clone(&self.0).wake();
        } else {
            self.0.end();
        }
    }
}

impl Job {
    fn end(&self) {
        // Dropped after the lock is released.
        let ended = self.future.lock().take();
        if ended.is_some() {
            let queue = QUEUE.get();
            queue.state.lock().jobs -= 1;
            queue.changed.notify_one();
        }
    }

    fn poll(self: &Arc<Self>) -> Poll<()> {
        let waker = Waker::from(Arc::clone(self));
        match &mut *self.future.lock() {
            _ if self.is_over.load(Ordering::Relaxed) => Poll::Ready(()),
            Some(future) => future.as_mut().poll(&mut Context::from_waker(&waker)),
            None => Poll::Ready(()),
        }
    }
}

impl Wake for Job {
    fn wake(self: Arc<Self>) {
        if self.is_ready.swap(true, Ordering::AcqRel) {
            return;
        }
        let queue = QUEUE.get();
        let mut state = queue.state.lock();
        // A late wake-up of a capture that is over has no thread.
        if state.is_running {
            state.ready.push_back(self);
            drop(state);
            queue.changed.notify_one();
        }
    }
}

impl Queue {
    /// Blocks until a job is ready. Returns `None` if no capture is left.
    fn next(&self) -> Option<Arc<Job>> {
        let mut state = self.state.lock();
        let mut has_lingered = false;
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            if state.jobs > 0 {
                has_lingered = false;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if has_lingered {
                // This happens under the lock, so the next capture starts a new thread.
                state.is_running = false;
                return None;
            } else {
                let waited = self.changed.wait_timeout(state, LINGER);
                let (locked, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                (state, has_lingered) = (locked, timeout.timed_out());
            }
        }
    }
}

fn run_thread(queue: &Queue) {
    IS_READER.set(true);
    while let Some(job) = queue.next() {
        job.is_ready.store(false, Ordering::Release);
        // The poll may wake a task, whose waker may panic. That must not harm other captures.
        match catch_unwind(AssertUnwindSafe(|| job.poll())) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => job.end(),
            // The payload may panic when it is dropped.
            Err(payload) => {
                std::mem::forget(payload);
                job.end();
            }
        }
    }
}
