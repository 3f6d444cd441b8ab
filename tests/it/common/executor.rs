//! Executors and wakers that count, so that a test can check each wake-up.

use super::{LONG, stoppable};
use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::io;
use std::pin::{Pin, pin};
use std::process::{ChildStdin, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

pub(crate) type Owned = Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>;

/// A future that owns its child.
pub(crate) fn owned(child: &Arc<SharedChild>) -> Owned {
    let child = Arc::clone(child);
    Box::pin(async move { child.wait_async().await })
}

/// Counts how often its wakers wake.
#[derive(Default)]
pub(crate) struct WakeCounter {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl WakeCounter {
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }

    /// Blocks until the count exceeds this number.
    #[track_caller]
    pub(crate) fn wait_beyond(&self, seen: usize) {
        let count = self.count.lock().unwrap();
        let woken = self.changed.wait_timeout_while(count, LONG, |count| *count <= seen).unwrap();
        assert!(!woken.1.timed_out(), "no waker was called");
    }

    /// How many wakers of this counter exist.
    pub(crate) fn wakers(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 1
    }
}

pub(crate) fn poll<F: Future + Unpin>(
    future: &mut F,
    counter: &Arc<WakeCounter>,
) -> Poll<F::Output> {
    poll_by(future, &counter.waker())
}

pub(crate) fn poll_by<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Polls the future at first and after each wake-up, and at no other time.
#[track_caller]
pub(crate) fn finish<F: Future + Unpin>(future: &mut F) -> F::Output {
    counted(future).0
}

/// Does the same, and returns the number of polls too.
#[track_caller]
pub(crate) fn counted<F: Future + Unpin>(future: &mut F) -> (F::Output, usize) {
    let counter = Arc::new(WakeCounter::default());
    for polls in 1.. {
        let seen = counter.count();
        if let Poll::Ready(answer) = poll(future, &counter) {
            return (answer, polls);
        }
        counter.wait_beyond(seen);
    }
    unreachable!("no future is polled that often")
}

#[track_caller]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    finish(&mut pin!(future))
}

/// The waker of one of many tasks.
pub(crate) struct TaskWaker {
    task: usize,
    woken: mpsc::Sender<usize>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        // The executor may have returned.
        let _ = self.woken.send(self.task);
    }
}

/// Runs many tasks on this thread: polls each at first and after each wake-up. Returns their results in the order in which
/// they end.
#[track_caller]
pub(crate) fn run_all<F: Future>(
    futures: impl IntoIterator<Item = F>,
    when_all_are_polled: impl FnOnce(),
) -> Vec<(usize, F::Output)> {
    let (woken, wakes) = mpsc::channel();
    let mut tasks: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let wakers = (0..tasks.len()).map(|task| TaskWaker { task, woken: woken.clone() });
    let wakers: Vec<_> = wakers.map(|waker| Waker::from(Arc::new(waker))).collect();
    let mut over = Vec::new();
    let mut poll_one = |task: usize, over: &mut Vec<_>| {
        let Some(future) = &mut tasks[task] else { return };
        if let Poll::Ready(answer) = poll_by(future, &wakers[task]) {
            tasks[task] = None;
            over.push((task, answer));
        }
    };
    (0..wakers.len()).for_each(|task| poll_one(task, &mut over));
    when_all_are_polled();
    while over.len() < wakers.len() {
        poll_one(wakes.recv_timeout(LONG).expect("a task to be woken"), &mut over);
    }
    over
}

/// A waker that runs a function when it wakes.
pub(crate) struct OnWake<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        let run = self.0.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
    }
}

pub(crate) fn on_wake(run: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(OnWake(Mutex::new(Some(run)))))
}

/// A waker that runs a function when its last clone is dropped.
pub(crate) struct OnDrop<F: FnOnce() + Send + 'static>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for OnDrop<F> {
    fn wake(self: Arc<Self>) {
        drop(self);
    }
}

impl<F: FnOnce() + Send + 'static> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(run) = self.0.get_mut().unwrap().take() {
            run();
        }
    }
}

pub(crate) fn on_drop(run: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(OnDrop(Mutex::new(Some(run)))))
}

/// Nearly the last instant that the clock can express.
pub(crate) fn end_of_time() -> Instant {
    let mut far = Instant::now();
    let mut step = Duration::MAX / 2;
    while step > Duration::from_secs(1) {
        far = far.checked_add(step).unwrap_or(far);
        step /= 2;
    }
    far
}

pub(crate) fn shared(backend: Backend, code: i32) -> (Arc<SharedChild>, ChildStdin) {
    let (child, stdin) = stoppable(backend, code);
    (Arc::new(child), stdin)
}
