//! Promise: an exit can be awaited, by any executor, by any number of tasks, and for any time. Whatever these do
//! with their futures and wakers, the child is not harmed by it, and others are woken all the same.

use crate::common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::future::Future;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::{Pin, pin};
use std::process::{ChildStdin, ExitStatus};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

type Owned = Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>;

/// A future that has its child.
fn owned(child: &Arc<SharedChild>) -> Owned {
    let child = Arc::clone(child);
    Box::pin(async move { child.wait_async().await })
}

/// Rings when it wakes.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl Bell {
    fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    fn count(&self) -> usize {
        *self.rung.lock().unwrap()
    }

    /// Blocks until it has rung more often than that.
    #[track_caller]
    fn wait_beyond(&self, seen: usize) {
        let rung = self.rung.lock().unwrap();
        let woken = self.changed.wait_timeout_while(rung, LONG, |rung| *rung <= seen).unwrap();
        assert!(!woken.1.timed_out(), "nobody has woken it");
    }

    /// How many wakers there are of it.
    fn wakers(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 1
    }
}

fn poll<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    poll_by(future, &bell.waker())
}

fn poll_by<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Polls it again whenever it is woken, and never else.
#[track_caller]
fn finish<F: Future + Unpin>(future: &mut F) -> F::Output {
    counted(future).0
}

/// Says how often it was polled, too.
#[track_caller]
fn counted<F: Future + Unpin>(future: &mut F) -> (F::Output, usize) {
    let bell = Arc::new(Bell::default());
    for polls in 1.. {
        let seen = bell.count();
        if let Poll::Ready(answer) = poll(future, &bell) {
            return (answer, polls);
        }
        bell.wait_beyond(seen);
    }
    unreachable!("nobody polls that often")
}

#[track_caller]
fn block_on<F: Future>(future: F) -> F::Output {
    finish(&mut pin!(future))
}

/// Wakes one of many tasks.
struct Ring {
    task: usize,
    woken: mpsc::Sender<usize>,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        // They may be over.
        let _ = self.woken.send(self.task);
    }
}

/// Runs many tasks on this thread, each of which is polled at first and whenever it is woken. What they give, in the
/// order in which they end.
#[track_caller]
fn run_all<F: Future>(
    futures: impl IntoIterator<Item = F>,
    when_all_are_polled: impl FnOnce(),
) -> Vec<(usize, F::Output)> {
    let (woken, wakes) = mpsc::channel();
    let mut tasks: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let wakers = (0..tasks.len()).map(|task| Ring { task, woken: woken.clone() });
    let wakers: Vec<_> = wakers.map(|ring| Waker::from(Arc::new(ring))).collect();
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
        poll_one(wakes.recv_timeout(LONG).expect("somebody is woken"), &mut over);
    }
    over
}

/// Does something when it is woken.
struct OnWake<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        let run = self.0.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
    }
}

fn on_wake(run: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(OnWake(Mutex::new(Some(run)))))
}

/// Does something when it goes.
struct OnDrop<F: FnOnce() + Send + 'static>(Mutex<Option<F>>);

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

fn on_drop(run: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(OnDrop(Mutex::new(Some(run)))))
}

fn shared(backend: Backend, code: i32) -> (Arc<SharedChild>, ChildStdin) {
    let (child, stdin) = stoppable(backend, code);
    (Arc::new(child), stdin)
}

/// As far as the clock goes, nearly.
fn end_of_time() -> Instant {
    let mut far = Instant::now();
    let mut step = Duration::MAX / 2;
    while step > Duration::from_secs(1) {
        far = far.checked_add(step).unwrap_or(far);
        step /= 2;
    }
    far
}

#[test]
fn wait_timeout_async_returns_none_at_its_timeout_and_the_status_after_an_exit() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(block_on(child.wait_timeout_async(Duration::ZERO)).unwrap(), None);
        assert_eq!(block_on(child.wait_timeout_async(Duration::from_millis(20))).unwrap(), None);
        drop(stdin);
        for timeout in [LONG, Duration::MAX] {
            let status = block_on(child.wait_timeout_async(timeout)).unwrap().expect("it exits");
            assert_eq!(status.code(), Some(7));
        }
    });
}

#[test]
fn they_may_go_anywhere() {
    fn anywhere<T: Send + Sync + Unpin + std::fmt::Debug>(_: &T) {}
    fn another_thread<T: Send>(_: T) {}
    watchdog!();
    let child = quick(Backend::ALL[0], 0);
    anywhere(&child.wait_async());
    anywhere(&child.wait_deadline_async(Instant::now()));
    fn past_a_panic<T: UnwindSafe + RefUnwindSafe>(_: &T) {}
    past_a_panic(&(child.wait_async(), child.wait_deadline_async(Instant::now())));
    another_thread(child.stop_async(LONG));
    another_thread(child.exit_notice());
    assert!(format!("{:?}", child.wait_async()).contains("WaitFuture"));
    wait(&child);
}

#[test]
fn who_has_exited_before_is_not_waited_for() {
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        let mut exited = child.wait_async();
        let mut by_deadline = child.wait_deadline_async(Instant::now());
        for _ in 0..3 {
            let Poll::Ready(status) = poll_by(&mut exited, Waker::noop()) else {
                panic!("pending")
            };
            assert_eq!(status.unwrap().code(), Some(7));
            let status = poll_by(&mut by_deadline, Waker::noop());
            let Poll::Ready(status) = status else { panic!("pending") };
            assert_eq!(status.unwrap().unwrap().code(), Some(7));
        }
    });
}

#[test]
fn an_exit_between_two_polls() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let bell = Arc::new(Bell::default());
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &bell).is_pending());
        assert!(poll(&mut exited, &bell).is_pending());
        assert_eq!(bell.count(), 0, "nothing has happened");
        drop(stdin);
        bell.wait_beyond(0);
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        // The same answer, to whoever asks again.
        for _ in 0..3 {
            let Poll::Ready(again) = poll(&mut exited, &bell) else { panic!("pending") };
            assert_eq!(again.unwrap().code(), Some(7));
        }
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        until("nothing of the waker is kept", || bell.wakers() == 0);
    });
}

/// Somebody else learns of the exit first, and reaps.
#[test]
fn an_exit_that_a_thread_has_waited_for() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let bell = Arc::new(Bell::default());
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &bell).is_pending());
        drop(stdin);
        wait(&child);
        bell.wait_beyond(0);
        let Poll::Ready(status) = poll(&mut exited, &bell) else { panic!("it is known") };
        assert_eq!(status.unwrap().code(), Some(7));
    });
}

#[test]
fn exits_race_registrations() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(150) {
            let (child, stdin) = stoppable(backend, 7);
            let start = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(stdin);
                });
                start.wait();
                for _ in 0..round % 50 {
                    std::hint::spin_loop();
                }
                let status = if round % 2 == 0 {
                    block_on(child.wait_async()).unwrap()
                } else {
                    block_on(child.wait_deadline_async(Instant::now() + LONG)).unwrap().unwrap()
                };
                assert_eq!(status.code(), Some(7));
            });
            assert_eq!(block_on(quick(backend, 8).wait_async()).unwrap().code(), Some(8));
        }
    });
}

/// Threads, tasks and a kill, in every order that the scheduler finds.
#[test]
fn tasks_race_threads_and_kills() {
    watchdog!();
    on_every_backend(|backend| {
        for round in 0..rounds(100) {
            let (child, stdin) = stoppable(backend, 7);
            let start = Barrier::new(5);
            thread::scope(|scope| {
                let (child, start) = (&child, &start);
                let begun = |way: usize| {
                    start.wait();
                    match way {
                        0 => child.wait().unwrap(),
                        1 => wait(child),
                        2 => block_on(child.wait_async()).unwrap(),
                        _ => block_on(child.wait_deadline_async(Instant::now() + LONG))
                            .unwrap()
                            .unwrap(),
                    }
                };
                let waiters: Vec<_> = (0..4).map(|way| scope.spawn(move || begun(way))).collect();
                start.wait();
                if round % 2 == 0 {
                    child.kill().unwrap();
                }
                drop(stdin);
                let statuses: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
                assert!(statuses.iter().all(|status| *status == statuses[0]), "{statuses:?}");
            });
        }
    });
}

#[test]
fn many_tasks_await_one_child() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let polled = Barrier::new(5);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let all = run_all((0..16).map(|_| child.wait_async()), || {
                            polled.wait();
                        });
                        all.into_iter().map(|(_, status)| status.unwrap().code()).collect()
                    })
                })
                .collect();
            polled.wait();
            drop(stdin);
            for thread in threads {
                let codes: Vec<_> = thread.join().unwrap();
                assert_eq!(codes, [Some(7); 16]);
            }
        });
    });
}

#[test]
fn bursts_of_exits() {
    watchdog!();
    on_every_backend(|backend| {
        let (children, pipes): (Vec<_>, Vec<_>) =
            (0..rounds(150)).map(|n| stoppable(backend, n as i32 % 100)).unzip();
        let all = run_all(children.iter().map(SharedChild::wait_async), || drop(pipes));
        for (task, status) in all {
            assert_eq!(status.unwrap().code(), Some(task as i32 % 100));
        }
    });
}

#[test]
fn the_order_is_that_of_the_exits() {
    watchdog!();
    on_every_backend(|backend| {
        let children: Vec<_> = (0..10).map(|code| stoppable(backend, code)).collect();
        let (exits, mut pipes): (Vec<_>, Vec<_>) = children.into_iter().unzip();
        let mut futures: Vec<_> = exits.iter().map(SharedChild::wait_async).collect();
        let bells: Vec<Arc<Bell>> = (0..10).map(|_| Arc::default()).collect();
        for (future, bell) in futures.iter_mut().zip(&bells) {
            assert!(poll(future, bell).is_pending());
        }
        // The last first: each wakes its own task, and no other.
        for last in (0..10).rev() {
            drop(pipes.pop());
            bells[last].wait_beyond(0);
            assert_eq!(finish(&mut futures[last]).unwrap().code(), Some(last as i32));
            assert!(bells[..last].iter().all(|bell| bell.count() == 0));
        }
    });
}

#[test]
fn to_drop_a_future_cancels_nothing() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let bell = Arc::new(Bell::default());
        drop(child.wait_async());
        drop(child.wait_deadline_async(Instant::now() + LONG));
        let mut other = child.wait_async();
        let others = Arc::new(Bell::default());
        assert!(poll(&mut other, &others).is_pending());
        for _ in 0..100 {
            let mut exited = child.wait_async();
            assert!(poll(&mut exited, &bell).is_pending());
            assert_eq!(bell.wakers(), 1);
            drop(exited);
            assert_eq!(bell.wakers(), 0, "the waker has stayed");
            let mut exited = child.wait_deadline_async(Instant::now() + LONG);
            assert!(poll(&mut exited, &bell).is_pending());
            drop(exited);
            assert_eq!(bell.wakers(), 0, "the waker has stayed");
        }
        assert_eq!(child.try_wait().unwrap(), None);
        drop(stdin);
        others.wait_beyond(0);
        assert_eq!(finish(&mut other).unwrap().code(), Some(7));
        assert_eq!(bell.count(), 0, "it was not waiting any more");
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &bell).is_ready());
        drop(exited);
        assert_eq!(bell.wakers(), 0);
    });
}

#[test]
fn the_last_waker_is_woken_and_no_other_is_kept() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let (mut exited, mut timed) =
            (child.wait_async(), child.wait_deadline_async(Instant::now() + LONG));
        let bells: Vec<Arc<Bell>> = (0..1000).map(|_| Arc::default()).collect();
        let mut before: Option<&Arc<Bell>> = None;
        for bell in &bells {
            assert!(poll(&mut exited, bell).is_pending());
            assert!(poll(&mut timed, bell).is_pending());
            assert!((2..4).contains(&bell.wakers()), "{} for one task", bell.wakers());
            assert_eq!(before.map_or(0, Bell::wakers), 0, "the waker has stayed");
            before = Some(bell);
        }
        drop(stdin);
        let (last, others) = bells.split_last().unwrap();
        last.wait_beyond(1);
        assert!(others.iter().all(|bell| bell.count() == 0));
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        assert_eq!(finish(&mut timed).unwrap().unwrap().code(), Some(7));
        until("no waker is left", || bells.iter().all(|bell| bell.wakers() == 0));
    });
}

#[test]
fn a_future_that_is_polled_by_one_thread_after_the_other() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = shared(backend, 7);
        let mut future = owned(&child);
        for _ in 0..20 {
            let polled = thread::spawn(move || {
                assert!(poll(&mut future, &Arc::default()).is_pending());
                future
            });
            future = polled.join().unwrap();
        }
        let last = thread::spawn(move || finish(&mut future));
        drop(stdin);
        assert_eq!(last.join().unwrap().unwrap().code(), Some(7));
    });
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the waker panics, on purpose");
    }
}

#[test]
fn a_waker_that_panics_hurts_nobody_else() {
    watchdog!();
    on_every_backend(|backend| {
        let [first, second, third] = [7, 8, 9].map(|code| stoppable(backend, code));
        let panics = Waker::from(Arc::new(Panics));
        // Before and after others, at the same child; and a timer.
        let mut bad: Vec<_> = (0..2).map(|_| first.0.wait_async()).collect();
        let mut late = third.0.wait_deadline_async(Instant::now() + Duration::from_millis(5));
        assert!(poll_by(&mut bad[0], &panics).is_pending());
        let all = run_all([&first.0, &first.0, &second.0].map(SharedChild::wait_async), || {
            assert!(poll_by(&mut bad[1], &panics).is_pending());
            let _ = poll_by(&mut late, &panics);
            drop(first.1);
            wait(&first.0);
            drop(second.1);
        });
        for (task, status) in all {
            assert_eq!(status.unwrap().code(), Some([7, 7, 8][task]));
        }
        // Those tasks have missed their call, but the answer is there.
        assert!(bad.iter_mut().all(|exited| finish(exited).unwrap().code() == Some(7)));
        let none =
            block_on(third.0.wait_deadline_async(Instant::now() + Duration::from_millis(20)));
        assert_eq!(none.unwrap(), None, "the timers go on");
        assert_eq!(finish(&mut late).unwrap(), None);
        drop(third.1);
        assert_eq!(block_on(third.0.wait_async()).unwrap().code(), Some(9));
    });
}

/// The panic is for whoever polls or drops, and finds the future as it was: what was to be woken is.
#[test]
fn a_waker_that_panics_when_it_is_cloned_or_dropped() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::ptr::null;
    use std::task::{RawWaker, RawWakerVTable};

    static CLONE_PANICS: RawWakerVTable =
        RawWakerVTable::new(|_| panic!("to clone it panics, on purpose"), |_| (), |_| (), |_| ());

    fn panics(run: impl FnOnce()) {
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "no panic");
    }

    /// Whose last one to go panics.
    fn drop_panics() -> Waker {
        on_drop(|| panic!("to drop it panics, on purpose"))
    }

    // SAFETY: its functions touch nothing.
    let clone_panics = unsafe { Waker::from_raw(RawWaker::new(null(), &CLONE_PANICS)) };
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let far = Instant::now() + LONG;
        let (mut exited, mut timed) = (child.wait_async(), child.wait_deadline_async(far));
        let bells: [Arc<Bell>; 4] = Default::default();
        let others = Arc::new(Bell::default());
        let mut other = child.wait_async();
        assert!(poll(&mut other, &others).is_pending());
        // At the first poll; and after that, when the one before it stays.
        for _ in 0..2 {
            panics(|| drop(poll_by(&mut exited, &clone_panics)));
            panics(|| drop(poll_by(&mut timed, &clone_panics)));
            assert!(poll(&mut exited, &bells[0]).is_pending());
            assert!(poll(&mut timed, &bells[1]).is_pending());
        }
        panics(|| drop(poll_by(&mut exited, &clone_panics)));
        // When it is replaced; and with its future, which is through.
        let (mut replaced, mut dropped) = (child.wait_async(), child.wait_async());
        for future in [&mut replaced, &mut dropped] {
            assert!(poll_by(future, &drop_panics()).is_pending());
        }
        panics(|| drop(poll(&mut replaced, &bells[2])));
        panics(|| drop(dropped));
        // When it has woken.
        let mut woken = child.wait_async();
        assert!(poll_by(&mut woken, &drop_panics()).is_pending());
        let mut last = child.wait_async();
        assert!(poll(&mut last, &bells[3]).is_pending());
        drop(stdin);
        bells.iter().chain([&others]).for_each(|bell| bell.wait_beyond(0));
        for future in [&mut exited, &mut replaced, &mut woken, &mut last, &mut other] {
            assert_eq!(finish(future).unwrap().code(), Some(7));
        }
        assert_eq!(finish(&mut timed).unwrap().unwrap().code(), Some(7));
    });
}

/// The wakers run the caller's code, which may do anything with other futures, and its own.
#[test]
fn a_waker_that_polls_and_drops_futures() {
    watchdog!();
    on_every_backend(|backend| {
        let ((child, stdin), (other, others_stdin)) = (shared(backend, 7), shared(backend, 8));
        let (done, is_done) = mpsc::channel();
        let bell = Arc::new(Bell::default());
        let ours = Arc::new(Mutex::new(Some(owned(&child))));
        let mut dropped: Vec<_> = [&child, &other].into_iter().map(owned).collect();
        let mut polled: Vec<_> = [&child, &other].into_iter().map(owned).collect();
        for future in dropped.iter_mut().chain(&mut polled) {
            assert!(poll(future, &bell).is_pending());
        }
        let waker = on_wake({
            let (ours, child, other) = (Arc::clone(&ours), Arc::clone(&child), Arc::clone(&other));
            move || {
                drop(ours.lock().unwrap().take());
                drop(dropped);
                let mut new = owned(&other);
                assert!(poll(&mut new, &Arc::default()).is_pending());
                let deadline = Instant::now() + LONG;
                assert!(poll(&mut child.wait_deadline_async(deadline), &Arc::default()).is_ready());
                assert!(poll(&mut polled[0], &Arc::default()).is_ready());
                assert!(poll(&mut polled[1], &Arc::default()).is_pending());
                done.send(polled.remove(1)).unwrap();
            }
        });
        assert!(poll_by(ours.lock().unwrap().as_mut().unwrap(), &waker).is_pending());
        drop(stdin);
        let mut rest = is_done.recv_timeout(LONG).expect("the waker is through");
        drop(others_stdin);
        assert_eq!(finish(&mut rest).unwrap().code(), Some(8));
        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
    });
}

#[test]
fn a_waker_that_polls_and_drops_futures_when_it_is_dropped() {
    watchdog!();
    on_every_backend(|backend| {
        // It goes when it is replaced, with its future, or when it has woken.
        for way in 0..3 {
            let ((child, stdin), (other, others_stdin)) = (shared(backend, 7), shared(backend, 8));
            let (done, is_done) = mpsc::channel();
            let bell = Arc::new(Bell::default());
            let mut dropped: Vec<_> = [&child, &other].into_iter().map(owned).collect();
            for future in &mut dropped {
                assert!(poll(future, &bell).is_pending());
            }
            let waker = on_drop({
                let (child, other) = (Arc::clone(&child), Arc::clone(&other));
                move || {
                    drop(dropped);
                    let mut new = [owned(&child), owned(&other)];
                    let _ = poll(&mut new[0], &Arc::default());
                    assert!(poll(&mut new[1], &Arc::default()).is_pending());
                    done.send(new).unwrap();
                }
            });
            let mut future = Some(owned(&child));
            assert!(poll_by(future.as_mut().unwrap(), &waker).is_pending());
            drop(waker);
            assert!(is_done.try_recv().is_err(), "the task is to be woken by it");
            match way {
                0 => assert!(poll(future.as_mut().unwrap(), &bell).is_pending()),
                1 => future = None,
                _ => {}
            }
            drop(stdin);
            let [mut this, mut that] = is_done.recv_timeout(LONG).expect("the waker is gone");
            drop(others_stdin);
            assert_eq!(finish(&mut that).unwrap().code(), Some(8));
            assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
            // (It may have been through in there already.)
            if way < 2 {
                assert_eq!(finish(&mut this).unwrap().code(), Some(7));
                assert!(future.is_none_or(|mut future| finish(&mut future).is_ok()));
            }
        }
    });
}

#[test]
fn deadlines() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        // Passed: one look, and the answer.
        let now = Instant::now();
        for passed in [now, now.checked_sub(Duration::from_secs(1)).unwrap_or(now)] {
            let mut exited = child.wait_deadline_async(passed);
            let bell = Arc::new(Bell::default());
            let Poll::Ready(answer) = poll(&mut exited, &bell) else { panic!("it has passed") };
            assert_eq!(answer.unwrap(), None);
            assert_eq!(bell.wakers(), 0);
        }
        // Soon: not before.
        for soon in [0, 1, 20] {
            let deadline = Instant::now() + Duration::from_millis(soon);
            assert_eq!(block_on(child.wait_deadline_async(deadline)).unwrap(), None);
            assert!(Instant::now() >= deadline);
        }
        // Far away, and one that is sooner meanwhile.
        let (mut far, bell) = (child.wait_deadline_async(end_of_time()), Arc::new(Bell::default()));
        assert!(poll(&mut far, &bell).is_pending());
        let sooner = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_on(child.wait_deadline_async(sooner)).unwrap(), None);
        assert!(poll(&mut far, &bell).is_pending());
        assert_eq!(bell.count(), 0, "it is not so far yet");
        // An exit before it.
        drop(stdin);
        bell.wait_beyond(0);
        assert_eq!(finish(&mut far).unwrap().unwrap().code(), Some(7));
        let again = finish(&mut far).unwrap();
        assert_eq!(again.unwrap().code(), Some(7));
    });
}

/// In any order: each task is woken at its own time, and not before.
#[test]
fn deadlines_of_many_tasks() {
    watchdog!();
    on_every_backend(|backend| {
        let (running, stdin) = stoppable(backend, 7);
        let start = Instant::now();
        let deadlines: Vec<_> =
            (0..101).map(|n| start + Duration::from_millis(n * 37 % 101)).collect();
        let tasks = deadlines.iter().map(|deadline| {
            let exited = running.wait_deadline_async(*deadline);
            async move { (exited.await.unwrap(), Instant::now()) }
        });
        for (task, (answer, at)) in run_all(tasks, || ()) {
            assert_eq!(answer, None);
            assert!(at >= deadlines[task]);
        }
        drop(stdin);
        assert_eq!(block_on(running.wait_async()).unwrap().code(), Some(7));
    });
}

/// The next of several timers goes: the others come all the same.
#[test]
fn a_deadline_that_is_given_up() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let soon = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        let bell = Arc::new(Bell::default());
        let mut given_up = child.wait_deadline_async(soon(10_000));
        assert!(poll(&mut given_up, &bell).is_pending());
        let mut kept = child.wait_deadline_async(soon(30));
        let polled = poll(&mut kept, &bell);
        drop(given_up);
        if polled.is_pending() {
            assert_eq!(finish(&mut kept).unwrap(), None);
        }
        drop(stdin);
        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
    });
}

/// A thread that dies of what a panic left behind wakes nobody any more.
#[test]
fn a_waker_whose_panic_panics_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("what was thrown panics, on purpose");
        }
    }
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let [(first, pipe), (second, other_pipe)] = [7, 8].map(|code| stoppable(backend, code));
        let (mut bad, mut good) = (first.wait_async(), second.wait_async());
        let bell = Arc::new(Bell::default());
        assert!(poll(&mut good, &bell).is_pending());
        let waker = on_wake(|| std::panic::panic_any(Bomb));
        assert!(poll_by(&mut bad, &waker).is_pending());
        drop((pipe, waker));
        assert_eq!(block_on(first.wait_async()).unwrap().code(), Some(7));
        drop(other_pipe);
        bell.wait_beyond(0);
        assert_eq!(finish(&mut good).unwrap().code(), Some(8));
    });
}

#[test]
fn tasks_threads_and_a_set_agree() {
    watchdog!();
    on_every_backend(|backend| {
        let (children, pipes): (Vec<_>, Vec<_>) =
            (0..20_i32).map(|code| shared(backend, code)).unzip();
        let set = shared_child::ChildSet::new();
        for (code, child) in (0..20_i32).zip(&children) {
            set.insert(code, Arc::clone(child));
        }
        thread::scope(|scope| {
            let by_set = scope.spawn(|| {
                let mut codes: Vec<_> = std::iter::from_fn(|| set.wait_next())
                    .inspect(|it| assert_eq!(it.status.as_ref().unwrap().code(), Some(it.key)))
                    .map(|finished| finished.key)
                    .collect();
                codes.sort_unstable();
                codes
            });
            let by_threads: Vec<_> =
                children.iter().map(|child| scope.spawn(|| wait(child))).collect();
            let by_tasks = run_all(children.iter().map(|child| child.wait_async()), || drop(pipes));
            for (task, status) in by_tasks {
                assert_eq!(status.unwrap().code(), Some(task as i32));
            }
            for (code, thread) in by_threads.into_iter().enumerate() {
                assert_eq!(thread.join().unwrap().code(), Some(code as i32));
            }
            assert_eq!(by_set.join().unwrap(), (0..20_i32).collect::<Vec<_>>());
        });
    });
}

#[test]
fn a_stop() {
    watchdog!();
    on_every_backend(|backend| {
        let child = quick(backend, 7);
        wait(&child);
        for grace in [Duration::ZERO, LONG, Duration::MAX] {
            assert_eq!(block_on(child.stop_async(grace)).unwrap().code(), Some(7));
        }
        let child = sleeper(backend);
        let status = block_on(child.stop_async(Duration::ZERO)).unwrap();
        assert!(!status.success());
        assert_eq!(child.try_wait().unwrap(), Some(status));
        // Not even begun.
        let (child, stdin) = stoppable(backend, 8);
        drop(child.stop_async(Duration::ZERO));
        assert_eq!(child.try_wait().unwrap(), None);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(8));
    });
}

#[cfg(windows)]
#[test]
fn a_notice_is_a_handle_that_is_signalled_for_good() {
    use std::os::windows::io::{AsHandle, AsRawHandle};
    use windows_sys::Win32::Foundation::{WAIT_OBJECT_0, WAIT_TIMEOUT};
    use windows_sys::Win32::System::Threading::WaitForSingleObject;
    watchdog!();
    on_every_backend(|backend| {
        let wait_for = |notice: &shared_child::ExitNotice, milliseconds| {
            // SAFETY: the handle is the notice's, which is borrowed.
            unsafe { WaitForSingleObject(notice.as_handle().as_raw_handle(), milliseconds) }
        };
        let (child, stdin) = stoppable(backend, 7);
        let notices = [child.exit_notice().unwrap(), child.exit_notice().unwrap()];
        assert!(notices.iter().all(|notice| wait_for(notice, 0) == WAIT_TIMEOUT));
        drop(stdin);
        for _ in 0..3 {
            assert!(notices.iter().all(|notice| wait_for(notice, 60_000) == WAIT_OBJECT_0));
        }
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        let late = child.exit_notice().unwrap();
        drop(child);
        assert_eq!([wait_for(&late, 0), wait_for(&notices[0], 0)], [WAIT_OBJECT_0; 2]);
    });
}

#[cfg(unix)]
mod stops {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    /// So short that nobody could obey it.
    const SHORT: Duration = Duration::from_millis(50);

    /// A child that plays this, and has said that it got as far as `say ready`.
    fn ready(backend: Backend, line: &str) -> (SharedChild, impl Read + use<>) {
        let line: Vec<&str> = line.split(' ').collect();
        let mut command = helper(&line);
        let child = backend.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let mut stdout = child.take_stdout().unwrap();
        let mut said = [0; 6];
        stdout.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ready\n");
        (child, stdout)
    }

    #[test]
    fn who_obeys_is_not_killed() {
        watchdog!();
        on_every_backend(|backend| {
            let (child, _said) = ready(backend, "say ready read");
            let status = block_on(child.stop_async(Duration::MAX)).unwrap();
            assert_eq!(status.signal(), Some(libc::SIGTERM));
            let again = block_on(child.stop_async(Duration::ZERO)).unwrap();
            assert_eq!(again, status);
        });
    }

    #[test]
    fn who_does_not_obey_is_killed() {
        watchdog!();
        on_every_backend(|backend| {
            let (child, _said) = ready(backend, "ignore TERM say ready read");
            let start = Instant::now();
            let status = block_on(child.stop_async(SHORT)).unwrap();
            assert_eq!(status.signal(), Some(libc::SIGKILL));
            assert!(start.elapsed() >= SHORT);
        });
    }

    /// The shortest grace counts, whether a task or a thread gives it, and the signal is sent once.
    #[test]
    fn beside_a_thread_that_stops() {
        watchdog!();
        on_every_backend(|backend| {
            // It has to be asked by then.
            let short = Duration::from_secs(1);
            for (task, thread) in [(short, Duration::MAX), (Duration::MAX, short)] {
                let (child, mut said) = ready(backend, "report TERM say ready read");
                thread::scope(|scope| {
                    let child = &child;
                    let by_task = scope.spawn(move || block_on(child.stop_async(task)).unwrap());
                    let mut signal = [0; 12];
                    said.read_exact(&mut signal).unwrap();
                    assert_eq!(&signal, b"signal TERM\n");
                    let by_thread = scope.spawn(move || child.stop(thread).unwrap());
                    for end in [by_task, by_thread] {
                        assert_eq!(end.join().unwrap().signal(), Some(libc::SIGKILL));
                    }
                });
                let mut rest = String::new();
                said.read_to_string(&mut rest).unwrap();
                assert_eq!(rest, "", "it was asked twice");
            }
        });
    }

    #[test]
    fn that_is_dropped_half_way_has_asked_and_not_killed() {
        watchdog!();
        on_every_backend(|backend| {
            let (child, mut said) =
                ready(backend, "report TERM say ready hear say ready read exit 7");
            let stdin = child.take_stdin().unwrap();
            let bell = Arc::new(Bell::default());
            // It is polled once, which must not take that long.
            let grace = Duration::from_secs(1);
            let mut stop = Box::pin(child.stop_async(grace));
            assert!(poll(&mut stop, &bell).is_pending());
            drop(stop);
            assert_eq!(bell.wakers(), 0);
            let mut signal = [0; 12];
            said.read_exact(&mut signal).unwrap();
            assert_eq!(&signal, b"signal TERM\n");
            // Past the grace, nobody is there who would kill.
            let later = Instant::now() + grace;
            assert_eq!(block_on(child.wait_deadline_async(later)).unwrap(), None);
            drop(stdin);
            assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
        });
    }

    #[test]
    fn many_tasks_stop_one_child() {
        watchdog!();
        on_every_backend(|backend| {
            let (child, _said) = ready(backend, "say ready read");
            let all = run_all((0..16).map(|_| child.stop_async(Duration::MAX)), || ());
            assert!(
                all.iter().all(|(_, end)| end.as_ref().unwrap().signal() == Some(libc::SIGTERM))
            );
        });
    }

    mod of_trees {
        use super::*;
        use crate::common::stage::{Kind, Stage, findable_daemon, parts, start};

        /// They are asked nevertheless, and have their grace.
        #[cfg(target_os = "linux")]
        #[test]
        fn that_cannot_be_looked_at() {
            alone!();
            watchdog!();
            if !Kind::all(function_name!()).contains(&Kind::Cgroup) {
                return;
            }
            let stage = Stage::set(Kind::Cgroup, &parts("pid read"), 1);
            let full = unix::NoDescriptors::left();
            // Whether members are left cannot be found out.
            block_on(stage.child.stop_async(LONG)).unwrap_err();
            drop(full);
            assert_eq!(wait(&stage.child).signal(), Some(libc::SIGTERM));
            stage.is_empty();
        }

        #[test]
        fn that_obey() {
            watchdog!();
            for kind in Kind::all(function_name!()) {
                let all = [start("pid read"), findable_daemon("pid read"), parts("pid read")];
                let stage = Stage::set(kind, &all.concat(), 3);
                let end = block_on(stage.child.stop_async(Duration::MAX)).unwrap();
                assert_eq!(end.signal(), Some(libc::SIGTERM));
                stage.is_empty();
            }
        }

        /// The leader obeys, or is gone already, and a member does not.
        #[test]
        fn with_a_stubborn_member() {
            watchdog!();
            for kind in Kind::all(function_name!()) {
                for (leader, code) in [("pid read", None), ("pid exit 7", Some(7))] {
                    let all = [findable_daemon("ignore TERM pid read"), parts(leader)].concat();
                    let stage = Stage::set(kind, &all, 2);
                    if code.is_some() {
                        assert_eq!(block_on(stage.child.wait_async()).unwrap().code(), code);
                    }
                    let start = Instant::now();
                    let end = block_on(stage.child.stop_async(SHORT)).unwrap();
                    assert!(start.elapsed() >= SHORT);
                    assert_eq!(end.signal(), code.map_or(Some(libc::SIGTERM), |_| None));
                    stage.is_empty();
                }
            }
        }

        /// Nobody is left as soon as the last one is gone, and not when the leader is.
        #[test]
        fn that_end_with_their_last_member() {
            watchdog!();
            for kind in Kind::all(function_name!()) {
                let all = [start("setsid report TERM pid read"), parts("pid read")].concat();
                let mut stage = Stage::set(kind, &all, 2);
                let stdin = stage.stdin.take();
                thread::scope(|scope| {
                    let child = &stage.child;
                    let stopper =
                        scope.spawn(|| block_on(child.stop_async(Duration::MAX)).unwrap());
                    until("the leader is gone", || !unix::is_alive(child.id()));
                    assert_eq!(stage.survivors().len(), 1);
                    assert!(!stopper.is_finished());
                    drop(stdin);
                    assert_eq!(stopper.join().unwrap().signal(), Some(libc::SIGTERM));
                });
            }
        }
    }
}

#[cfg(unix)]
mod notices {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec};
    use shared_child::ExitNotice;

    fn is_ready(notice: &ExitNotice, within: Duration) -> bool {
        let mut fds = [PollFd::new(notice, PollFlags::IN)];
        let within = Timespec::try_from(within).unwrap();
        rustix::event::poll(&mut fds, Some(&within)).unwrap();
        fds[0].revents().contains(PollFlags::IN)
    }

    /// Of children on those backends that have any.
    fn with_notices(test: impl Fn(SharedChild, ChildStdin, ExitNotice)) {
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            match child.exit_notice() {
                Ok(notice) => test(child, stdin, notice),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                    #[cfg(target_os = "linux")]
                    assert_ne!(backend, Backend::ALL[0], "{error}");
                    drop(stdin);
                    wait(&child);
                }
            }
        });
    }

    #[test]
    fn unsupported_where_a_thread_waits() {
        watchdog!();
        let (child, stdin) = stoppable(Backend::ALL[1], 7);
        let error = child.exit_notice().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains(&child.id().to_string()), "{error}");
        drop(stdin);
        wait(&child);
        // Of one that is known to have ended there is one, since nothing is to be waited for.
        assert!(is_ready(&child.exit_notice().unwrap(), Duration::ZERO));
    }

    #[test]
    fn ready_at_the_exit_and_for_good() {
        watchdog!();
        with_notices(|child, stdin, notice| {
            let second = child.exit_notice().unwrap();
            assert!(!is_ready(&notice, Duration::ZERO));
            let mut exited = child.wait_async();
            let bell = Arc::new(Bell::default());
            assert!(poll(&mut exited, &bell).is_pending());
            drop(stdin);
            for notice in [&notice, &second, &notice] {
                assert!(is_ready(notice, LONG));
            }
            // It has not taken the exit from the task.
            bell.wait_beyond(0);
            assert!(unix::is_zombie(child.id()), "it was reaped");
            let late = child.exit_notice().unwrap();
            assert!(is_ready(&late, Duration::ZERO));
            assert!(unix::is_zombie(child.id()), "it was reaped");
            assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
            assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
            let after = child.exit_notice().unwrap();
            drop(exited);
            drop(child);
            for _ in 0..3 {
                assert!([&notice, &second, &after].iter().all(|it| is_ready(it, Duration::ZERO)));
            }
        });
    }

    /// There the numbers of descriptors may mean something else, as after a kqueue, or in a daemon.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_fork_that_drops_its_copies() {
        use std::os::fd::AsRawFd;
        alone!();
        watchdog!();
        let (child, stdin) = stoppable(Backend::ALL[0], 7);
        let ended = quick(Backend::ALL[0], 8);
        wait(&ended);
        let mut notices = [&child, &ended].map(|child| Some(child.exit_notice().unwrap()));
        let in_the_fork = || {
            let copies = notices.each_mut().map(|notice| notice.take().expect("a copy"));
            let numbers = copies.each_ref().map(AsRawFd::as_raw_fd);
            // SAFETY: plain integers. The copies are not used any more.
            numbers.iter().for_each(|fd| assert_eq!(unsafe { libc::dup2(2, *fd) }, *fd));
            drop(copies);
            // SAFETY: plain integers.
            numbers.iter().filter(|fd| unsafe { libc::fcntl(**fd, libc::F_GETFD) } != -1).count()
                as u8
        };
        assert_eq!(unix::in_a_fork(in_the_fork), 2, "some were closed behind its back");
        let [notice, of_ended] = notices.map(|notice| notice.expect("only the fork has taken it"));
        assert!(is_ready(&of_ended, Duration::ZERO));
        assert!(!is_ready(&notice, Duration::ZERO));
        drop(stdin);
        assert!(is_ready(&notice, LONG));
        assert_eq!(wait(&child).code(), Some(7));
    }

    #[test]
    fn outlives_the_handle() {
        watchdog!();
        with_notices(|child, stdin, notice| {
            drop(child);
            assert!(!is_ready(&notice, Duration::ZERO));
            drop(stdin);
            assert!(is_ready(&notice, LONG));
            assert!(is_ready(&notice, Duration::ZERO));
        });
        with_notices(|child, stdin, notice| {
            let mut inner = child.into_inner();
            drop(stdin);
            assert!(is_ready(&notice, LONG));
            assert_eq!(inner.wait().unwrap().code(), Some(7));
            assert!(is_ready(&notice, Duration::ZERO));
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn in_a_loop_of_ones_own() {
        use rustix::event::epoll;
        watchdog!();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (children, mut pipes): (Vec<_>, Vec<_>) =
            (0..10).map(|code| stoppable(Backend::ALL[0], code)).unzip();
        let notices: Vec<_> = children.iter().map(|child| child.exit_notice().unwrap()).collect();
        for (index, notice) in notices.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, notice, data, epoll::EventFlags::IN).unwrap();
        }
        let long = Timespec::try_from(LONG).unwrap();
        for last in (0..10_usize).rev() {
            drop(pipes.pop());
            let mut events = Vec::with_capacity(10);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&long)).unwrap();
            let ready: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            assert_eq!(ready, [last as u64]);
            assert_eq!(children[last].try_wait().unwrap().unwrap().code(), Some(last as i32));
            epoll::delete(&epoll, &notices[last]).unwrap();
        }
    }
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::common::linux::{Deny, deny};
    use crate::common::unix::NoDescriptors;
    use shared_child::seam;
    use shared_child::unix::ReapedElsewhere;
    use std::mem::ManuallyDrop;
    use std::process::Stdio;

    const BEST: Backend = Backend::ALL[0];

    /// They stay for a second: not to be asked all the time.
    #[track_caller]
    fn until_ended(is_one: impl Fn(&str) -> bool) {
        until("the threads have ended", || {
            thread::sleep(Duration::from_millis(2));
            !unix::helper_threads().iter().any(|name| is_one(name))
        });
    }

    #[track_caller]
    fn until_all_threads_have_ended() {
        until_ended(|_| true);
    }

    /// What takes this much time in which nothing happens costs no more CPU than that.
    fn is_idle<T>(what: &str, run: impl FnOnce() -> T) -> T {
        let before = unix::cpu_time();
        let answer = run();
        let used = unix::cpu_time() - before;
        assert!(used < Duration::from_millis(200), "{what} took {used:?} of CPU");
        answer
    }

    const A_WHILE: Duration = Duration::from_millis(400);

    fn a_while() -> Instant {
        Instant::now() + A_WHILE
    }

    /// The promises, in short.
    fn exercise(backend: Backend) {
        let others = unix::children().len();
        let (child, stdin) = stoppable(backend, 7);
        let bell = Arc::new(Bell::default());
        let mut exited = child.wait_async();
        for _ in 0..3 {
            assert!(poll(&mut exited, &bell).is_pending());
        }
        drop(child.wait_deadline_async(a_while()));
        let (none, polls) =
            is_idle("a deadline", || counted(&mut child.wait_deadline_async(a_while())));
        assert_eq!(none.unwrap(), None);
        assert!(polls < 1000, "{polls} polls for nothing");
        let all = run_all((0..10).map(|_| child.wait_async()), || drop(stdin));
        assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        until("no waker is left", || bell.wakers() == 0);
        assert!(!block_on(sleeper(backend).stop_async(LONG)).unwrap().success());
        // Forgotten, with the child.
        let (child, stdin) = stoppable(backend, 7);
        let mut forgotten = ManuallyDrop::new(child.wait_async());
        assert!(poll(&mut *forgotten, &bell).is_pending());
        drop((child, stdin));
        until("reaped", || {
            wait(&quick(backend, 0));
            unix::children().len() == others
        });
    }

    #[test]
    fn with_nothing_refused() {
        alone!();
        watchdog!();
        on_every_backend(exercise);
        until_all_threads_have_ended();
    }

    #[test]
    fn nothing_is_left_behind() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let before = unix::descriptors();
            let far = || Instant::now() + 60 * LONG;
            for round in 0..rounds(100) {
                let (child, stdin) = stoppable(backend, 7);
                let (mut one, mut two) = (child.wait_async(), child.wait_deadline_async(far()));
                let bell = Arc::new(Bell::default());
                assert!(poll(&mut one, &bell).is_pending());
                assert!(poll(&mut two, &bell).is_pending());
                if round % 3 == 0 {
                    drop((one, two));
                } else if round % 3 == 1 {
                    drop(stdin);
                    assert_eq!(finish(&mut one).unwrap().code(), Some(7));
                    assert_eq!(finish(&mut two).unwrap().unwrap().code(), Some(7));
                    continue;
                }
                drop(stdin);
                wait(&child);
            }
            until_all_threads_have_ended();
            until("no descriptors", || unix::descriptors() == before);
            assert_eq!(unix::children(), [] as [u32; 0]);
        });
    }

    /// A deadline that is not waited for any more does not keep the thread until then.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_deadline_that_nobody_waits_for_keeps_no_thread() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            for exits in [true, false] {
                let (child, stdin) = stoppable(backend, 7);
                let mut exited = child.wait_deadline_async(Instant::now() + 60 * LONG);
                assert!(poll(&mut exited, &Arc::default()).is_pending());
                until("it sleeps", || {
                    unix::helper_threads().contains(&"child-watcher".to_owned())
                        && linux::helper_threads_rest()
                });
                let stdin = (!exits).then_some(stdin);
                if exits {
                    assert_eq!(finish(&mut exited).unwrap().unwrap().code(), Some(7));
                }
                drop(exited);
                until_ended(|name| name == "child-watcher");
                drop(stdin);
                wait(&child);
            }
        });
    }

    #[test]
    fn a_forgotten_future_keeps_no_zombie() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            for exited in [true, false] {
                let before = unix::descriptors();
                let (child, stdin) = stoppable(backend, 7);
                let mut forgotten = ManuallyDrop::new(child.wait_async());
                assert!(poll(&mut *forgotten, &Arc::default()).is_pending());
                let stdin = (!exited).then_some(stdin);
                if exited {
                    unix::wait_for_zombie(child.id());
                }
                drop(child);
                drop(stdin);
                until("reaped", || unix::children().is_empty());
                until_all_threads_have_ended();
                until("no descriptors", || unix::descriptors() == before);
            }
        });
    }

    #[cfg(target_os = "linux")]
    fn switches_of_the_watcher() -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let statuses =
            tasks.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
        let mut watchers = statuses.filter(|status| status.contains("child-watcher"));
        let status = watchers.next().expect("a watcher");
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).expect("a count")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn one_thread_for_all_which_sleeps() {
        alone!();
        watchdog!();
        let (children, pipes): (Vec<_>, Vec<_>) = (0..64).map(|_| stoppable(BEST, 7)).unzip();
        // Each two times.
        let futures = children.iter().chain(&children).map(SharedChild::wait_async);
        let all = run_all(futures, || {
            until("it sleeps", || {
                unix::helper_threads() == ["child-watcher"] && linux::helper_threads_rest()
            });
            let before = switches_of_the_watcher();
            is_idle("to wait for 64 children", || {
                let (other, _stdin) = stoppable(BEST, 7);
                // Not by the watcher: it is this one that is looked at.
                assert_eq!(other.wait_timeout(A_WHILE).unwrap(), None);
                other.kill().unwrap();
                wait(&other);
            });
            let woken = switches_of_the_watcher() - before;
            assert!(woken < 5, "it was woken {woken} times for nothing");
            assert_eq!(unix::helper_threads(), ["child-watcher"]);
            drop(pipes);
        });
        assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
        until_all_threads_have_ended();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn thousands_of_children() {
        if !unix::is_root() {
            eprintln!("{} skipped: it takes root", function_name!());
            return;
        }
        alone!();
        watchdog!();
        let count = rounds(2_000).min(5_000);
        let limit = libc::rlimit { rlim_cur: 20_000, rlim_max: 20_000 };
        // SAFETY: the struct outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            eprintln!("{} skipped: no more descriptors are allowed", function_name!());
            return;
        }
        let before = unix::descriptors();
        // One pipe for all.
        let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        let spawn_some = || -> Vec<_> {
            let spawn = |_| {
                let theirs = std::os::fd::OwnedFd::from(theirs.try_clone().unwrap());
                BEST.spawn(helper(&["read", "exit", "7"]).stdin(Stdio::from(theirs))).unwrap()
            };
            (0..count / 2).map(spawn).collect()
        };
        let children: Vec<_> = thread::scope(|scope| {
            let others = scope.spawn(spawn_some);
            let mut all = spawn_some();
            all.extend(others.join().unwrap());
            all
        });
        drop(theirs);
        let all = run_all(children.iter().map(SharedChild::wait_async), || {
            until("one watcher", || unix::helper_threads() == ["child-watcher"]);
            drop(ours);
        });
        assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
        until("no descriptors", || unix::descriptors() <= before + 2);
        until_all_threads_have_ended();
        assert_eq!(unix::descriptors(), before);
    }

    #[test]
    fn no_descriptors_at_the_spawn() {
        alone!();
        watchdog!();
        let full = NoDescriptors::left();
        let spawned = BEST.spawn(helper(&["sleep"]).stdin(Stdio::inherit()));
        let Ok(child) = spawned else {
            assert!(!unix::spawns_without_descriptors(), "std needs no descriptor to spawn");
            return;
        };
        let (none, polls) =
            is_idle("to look", || counted(&mut child.wait_deadline_async(a_while())));
        assert_eq!(none.unwrap(), None);
        assert!(polls < 1000, "{polls} polls for nothing");
        assert_eq!(child.exit_notice().unwrap_err().kind(), io::ErrorKind::Unsupported);
        let mut exited = child.wait_async();
        let bell = Arc::new(Bell::default());
        assert!(poll(&mut exited, &bell).is_pending());
        child.kill().unwrap();
        assert!(!finish(&mut exited).unwrap().success());
        drop(full);
        exercise(BEST);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_descriptors_for_the_watcher() {
        alone!();
        watchdog!();
        let (child, other) = (sleeper(BEST), sleeper(BEST));
        let full = NoDescriptors::left();
        let mut exited = child.wait_async();
        let bell = Arc::new(Bell::default());
        assert!(poll(&mut exited, &bell).is_pending());
        let (none, polls) =
            is_idle("to look", || counted(&mut child.wait_deadline_async(a_while())));
        assert_eq!(none.unwrap(), None);
        assert!(polls < 1000, "{polls} polls for nothing");
        child.kill().unwrap();
        assert!(!finish(&mut exited).unwrap().success());
        // That of one which runs is at hand, that of one which has ended is to be made.
        other.exit_notice().unwrap();
        other.kill().unwrap();
        assert!(!block_on(other.wait_async()).unwrap().success());
        let full_again = NoDescriptors::left();
        assert_eq!(other.exit_notice().unwrap_err().raw_os_error(), Some(libc::EMFILE));
        drop((full, full_again));
        exercise(BEST);
    }

    /// The watcher was started without, and is still there.
    #[test]
    fn descriptors_that_are_there_again() {
        alone!();
        watchdog!();
        let (first, second) = (sleeper(BEST), sleeper(BEST));
        let full = NoDescriptors::left();
        assert!(poll(&mut first.wait_async(), &Arc::default()).is_pending());
        drop(full);
        let mut exited = second.wait_deadline_async(Instant::now() + Duration::from_secs(1));
        let (none, polls) = counted(&mut exited);
        assert_eq!(none.unwrap(), None);
        assert!(polls < 10, "{polls} polls for nothing");
        kill_and_wait(&first);
        kill_and_wait(&second);
    }

    #[test]
    fn the_deadline_of_one_that_has_exited_takes_no_thread() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let child = quick(backend, 7);
            wait(&child);
            let mut exited = child.wait_deadline_async(Instant::now() + LONG);
            let Poll::Ready(status) = poll(&mut exited, &Arc::default()) else { panic!("it has") };
            assert_eq!(status.unwrap().unwrap().code(), Some(7));
            assert!(!unix::helper_threads().iter().any(|name| name == "child-watcher"));
        });
    }

    /// The registration of one must not go for what was told of another, that had the same address.
    #[cfg(target_os = "linux")]
    #[test]
    fn who_is_told_of_late() {
        struct HoldsUp(Mutex<mpsc::Receiver<()>>);

        impl Wake for HoldsUp {
            fn wake(self: Arc<Self>) {
                let _ = self.0.lock().unwrap().recv_timeout(LONG);
            }
        }

        alone!();
        watchdog!();
        // The watcher is in a waker.
        let (let_go, held_up) = mpsc::channel();
        let (held, held_stdin) = stoppable(BEST, 7);
        let mut future = held.wait_async();
        let waker = Waker::from(Arc::new(HoldsUp(Mutex::new(held_up))));
        assert!(poll_by(&mut future, &waker).is_pending());
        drop((waker, held_stdin));
        until("it is", || !poll(&mut held.wait_async(), &Arc::default()).is_pending());
        wait(&held);
        // Meanwhile it is told of one that goes, and an orphan comes, which the allocator usually puts in its place.
        let orphans: Vec<_> = (0..rounds(20))
            .map(|_| {
                let (gone, stdin) = stoppable(Backend::ALL[1], 8);
                let mut future = gone.wait_async();
                assert!(poll(&mut future, &Arc::default()).is_pending());
                drop(stdin);
                wait(&gone);
                drop(future);
                drop(gone);
                let (orphan, stdin) = stoppable(BEST, 9);
                drop(orphan);
                stdin
            })
            .collect();
        let_go.send(()).unwrap();
        until("only the watcher is left", || unix::helper_threads() == ["child-watcher"]);
        // It tries nobody again and again.
        let awaited = sleeper(BEST);
        let before = switches_of_the_watcher();
        block_on(awaited.wait_deadline_async(Instant::now() + Duration::from_secs(1))).unwrap();
        let switches = switches_of_the_watcher() - before;
        kill_and_wait(&awaited);
        assert!(switches < 8, "{switches} times awake within a second");
        drop(orphans);
        until("reaped", || unix::children().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_threads() {
        alone!();
        watchdog!();
        deny(&Deny::threads());
        assert!(thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
        on_every_backend(exercise);
    }

    /// There is a watcher, but no thread that could wait for the child.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_more_threads() {
        alone!();
        watchdog!();
        let (kept, stdin) = stoppable(BEST, 8);
        let mut exited = kept.wait_async();
        assert!(poll(&mut exited, &Arc::default()).is_pending());
        deny(&Deny::threads());
        on_every_backend(exercise);
        drop(stdin);
        assert_eq!(finish(&mut exited).unwrap().code(), Some(8));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_pidfds() {
        alone!();
        watchdog!();
        deny(&[Deny::always(libc::SYS_pidfd_open, libc::ENOSYS)]);
        exercise(BEST);
        let child = sleeper(BEST);
        assert_eq!(child.exit_notice().unwrap_err().kind(), io::ErrorKind::Unsupported);
        kill_and_wait(&child);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_epoll() {
        alone!();
        watchdog!();
        deny(&[Deny::always(libc::SYS_epoll_create1, libc::EPERM)]);
        on_every_backend(exercise);
    }

    /// Somebody closes what is not theirs: all are woken, and the next watcher has a queue of its own.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_queue_that_somebody_replaces() {
        alone!();
        watchdog!();
        let [(first, pipe), (second, other_pipe)] = [7, 8].map(|code| stoppable(BEST, code));
        let (mut one, mut two) = (first.wait_async(), second.wait_deadline_async(end_of_time()));
        let bell = Arc::new(Bell::default());
        assert!(poll(&mut one, &Arc::default()).is_pending());
        assert!(poll(&mut two, &bell).is_pending());
        linux::replace_epolls();
        drop(pipe);
        assert_eq!(finish(&mut one).unwrap().code(), Some(7));
        bell.wait_beyond(0);
        assert!(poll(&mut two, &bell).is_pending());
        drop(other_pipe);
        assert_eq!(finish(&mut two).unwrap().unwrap().code(), Some(8));
        until_all_threads_have_ended();
    }

    #[track_caller]
    fn assert_true_or_lost(backend: Backend, answer: io::Result<ExitStatus>) {
        match answer {
            Ok(status) => assert_eq!(status.code(), Some(7)),
            Err(error) => {
                assert!(!unix::knows_status_of_reaped(backend), "{error}");
                assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error:?}");
            }
        }
    }

    #[test]
    fn somebody_else_reaps() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            let mut futures: Vec<_> = (0..3).map(|_| child.wait_async()).collect();
            let mut by_deadline = child.wait_deadline_async(end_of_time());
            for future in &mut futures {
                assert!(poll(future, &Arc::default()).is_pending());
            }
            let bell = Arc::new(Bell::default());
            assert!(poll(&mut by_deadline, &bell).is_pending());
            drop(stdin);
            unix::reap(child.id());
            bell.wait_beyond(0);
            for future in &mut futures {
                assert_true_or_lost(backend, finish(future));
                assert_true_or_lost(backend, finish(future));
            }
            assert_true_or_lost(backend, finish(&mut by_deadline).map(Option::unwrap));
            assert_true_or_lost(backend, block_on(child.stop_async(Duration::ZERO)));
        });
    }

    #[test]
    fn sigchld_ignored() {
        alone!();
        watchdog!();
        // It is to be known before: it takes a child that is reaped.
        unix::knows_status_of_reaped(BEST);
        unix::on_sigchld(libc::SIG_IGN);
        on_every_backend(|backend| {
            for _ in 0..rounds(50) {
                let (child, stdin) = stoppable(backend, 7);
                let all = run_all((0..3).map(|_| child.wait_async()), || drop(stdin));
                all.into_iter().for_each(|(_, answer)| assert_true_or_lost(backend, answer));
            }
        });
        until_all_threads_have_ended();
    }

    /// A zombie that its tracer holds is not to be had yet: to look for it does not make one spin.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_zombie_that_its_tracer_holds() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let child = sleeper(backend);
            let mut early = child.wait_async();
            assert!(poll(&mut early, &Arc::default()).is_pending());
            let release = linux::trace_from_a_fork(child.id());
            child.kill().unwrap();
            until("a zombie", || unix::is_zombie(child.id()));
            let (answer, polls) =
                is_idle("to look", || counted(&mut child.wait_deadline_async(a_while())));
            assert_eq!(answer.unwrap(), None, "it was not to be had");
            assert!(polls < 1000, "{polls} polls for nothing");
            let mut late = child.wait_async();
            for future in [&mut early, &mut late] {
                assert!(poll(future, &Arc::default()).is_pending());
            }
            let all = run_all([early, late], release);
            assert!(all.into_iter().all(|(_, status)| !status.unwrap().success()));
        });
        until_all_threads_have_ended();
    }

    /// The child of a fork may drop what it has copied, and await children of its own.
    #[test]
    fn after_a_fork() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            for at_work in [false, true] {
                let (child, stdin) = shared(backend, 7);
                let bell = Arc::new(Bell::default());
                let mut copied: Vec<_> = (0..3).map(|_| owned(&child)).collect();
                for future in &mut copied {
                    assert!(poll(future, &bell).is_pending());
                }
                let mut by_deadline = child.wait_deadline_async(Instant::now() + LONG);
                assert!(poll(&mut by_deadline, &bell).is_pending());
                let mut copied = Some((copied, Arc::clone(&child)));
                let in_the_fork = || {
                    let (own, stdin) = stoppable(backend, 8);
                    let own_bell = Arc::new(Bell::default());
                    let mut exited = own.wait_async();
                    assert!(poll(&mut exited, &own_bell).is_pending());
                    // Its own must not go for one that was the first in the parent.
                    drop(copied.take());
                    let none = block_on(
                        own.wait_deadline_async(Instant::now() + Duration::from_millis(5)),
                    );
                    assert_eq!(none.unwrap(), None);
                    drop(stdin);
                    own_bell.wait_beyond(0);
                    finish(&mut exited).unwrap().code().unwrap() as u8
                };
                let code = if at_work {
                    seam::while_the_reaper_works(|| unix::in_a_fork(in_the_fork))
                } else {
                    unix::in_a_fork(in_the_fork)
                };
                assert_eq!(code, 8);
                assert_eq!(bell.count(), 0, "the fork has woken tasks of ours");
                drop(stdin);
                let (copied, child) = copied.expect("only the fork has dropped it");
                let all = run_all(copied, || ());
                assert!(all.into_iter().all(|(_, status)| status.unwrap().code() == Some(7)));
                assert_eq!(finish(&mut by_deadline).unwrap().unwrap().code(), Some(7));
                assert_eq!(wait(&child).code(), Some(7));
            }
        });
        until_all_threads_have_ended();
    }
}

/// Where they are dev-dependencies.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod executors {
    use super::*;
    use tokio::runtime::{Builder, Runtime};

    fn multi_thread() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    /// Whose reactor and tasks go on only while it is in `block_on`.
    fn current_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn without_io() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    fn with_every_runtime(test: impl Fn(Backend, &Runtime)) {
        on_every_backend(|backend| {
            for runtime in [multi_thread(), current_thread(), without_io()] {
                test(backend, &runtime);
            }
        });
    }

    #[track_caller]
    fn code(status: io::Result<ExitStatus>) -> i32 {
        status.unwrap().code().expect("it was not killed")
    }

    #[test]
    fn tokio_itself_and_its_tasks() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            let (child, stdin) = shared(backend, 7);
            runtime.block_on(async {
                // Several tasks of one runtime at the same child.
                let (polled, mut are_polled) = tokio::sync::mpsc::channel(10);
                let tasks: Vec<_> = (0..10)
                    .map(|_| {
                        let (mut future, polled) = (owned(&child), polled.clone());
                        tokio::spawn(async move {
                            let first =
                                std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
                            assert!(first.await.is_pending());
                            polled.send(()).await.unwrap();
                            future.await
                        })
                    })
                    .collect();
                for _ in 0..10 {
                    are_polled.recv().await.unwrap();
                }
                let deadline = Instant::now() + Duration::from_millis(5);
                assert_eq!(child.wait_deadline_async(deadline).await.unwrap(), None);
                drop(stdin);
                assert_eq!(code(child.wait_async().await), 7);
                for task in tasks {
                    assert_eq!(code(task.await.unwrap()), 7);
                }
            });
        });
    }

    #[test]
    fn tokio_with_a_timeout_and_a_kill() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            let child = Arc::new(sleeper(backend));
            let killed = async move {
                tokio::select! {
                    status = child.wait_async() => panic!("it runs on: {status:?}"),
                    () = tokio::time::sleep(Duration::from_millis(10)) => {
                        child.kill().unwrap();
                        child.wait_async().await.unwrap()
                    }
                }
            };
            let status = runtime.block_on(async { tokio::spawn(killed).await.unwrap() });
            assert!(!status.success());
            let (child, child_too) = (sleeper(backend), Arc::new(sleeper(backend)));
            let status = runtime.block_on(async {
                let stopped = tokio::spawn(async move { child_too.stop_async(LONG).await });
                assert!(!stopped.await.unwrap().unwrap().success());
                child.stop_async(LONG).await.unwrap()
            });
            assert!(!status.success());
        });
    }

    #[test]
    fn tokio_and_a_thousand_children() {
        watchdog!();
        // (Those without pidfds have a thread each.)
        for (backend, count) in [(Backend::ALL[0], rounds(1000)), (Backend::ALL[1], rounds(100))] {
            for runtime in [multi_thread(), current_thread()] {
                runtime.block_on(async {
                    let children = (0..count).map(|_| Arc::new(quick(backend, 7)));
                    let tasks: Vec<_> = children
                        .map(|child| tokio::spawn(async move { child.wait_async().await }))
                        .collect();
                    for task in tasks {
                        assert_eq!(code(task.await.unwrap()), 7);
                    }
                });
            }
        }
    }

    /// Polls it once, in a task of that runtime.
    fn begun_in(runtime: &Runtime, mut future: Owned) -> Owned {
        let begun = runtime.spawn(async move {
            let first = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
            assert!(first.await.is_pending());
            Some(future)
        });
        runtime.block_on(begun).unwrap().expect("what was begun")
    }

    /// The runtime that it was begun in may not be at work any more.
    #[test]
    fn begun_in_tokio_and_finished_elsewhere() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            let (child, stdin) = shared(backend, 7);
            let mut future = begun_in(runtime, owned(&child));
            let bell = Arc::new(Bell::default());
            assert!(poll(&mut future, &bell).is_pending());
            drop(stdin);
            bell.wait_beyond(0);
            assert_eq!(code(finish(&mut future)), 7);
            // In another runtime.
            let (child, stdin) = shared(backend, 8);
            let future = begun_in(runtime, owned(&child));
            let other = current_thread();
            drop(stdin);
            assert_eq!(code(other.block_on(async { other.spawn(future).await.unwrap() })), 8);
            // In another runtime's `block_on`, which is no task.
            let (child, stdin) = shared(backend, 9);
            let future = begun_in(runtime, owned(&child));
            drop(stdin);
            assert_eq!(code(other.block_on(future)), 9);
        });
    }

    #[test]
    fn begun_elsewhere_and_finished_in_tokio() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            let (child, stdin) = shared(backend, 7);
            let mut future = owned(&child);
            assert!(poll(&mut future, &Arc::default()).is_pending());
            let future = begun_in(runtime, future);
            let task = runtime.spawn(future);
            drop(stdin);
            assert_eq!(code(runtime.block_on(task).unwrap()), 7);
        });
    }

    #[test]
    fn a_runtime_that_is_dropped() {
        watchdog!();
        on_every_backend(|backend| {
            for runtime in [multi_thread(), current_thread(), without_io()] {
                // Before, and while, it is polled elsewhere; and with futures in it.
                let [before, between, within] = [7, 8, 9].map(|code| shared(backend, code));
                let [mut early, mut late] =
                    [&before, &between].map(|(child, _)| begun_in(&runtime, owned(child)));
                let bell = Arc::new(Bell::default());
                assert!(poll(&mut late, &bell).is_pending());
                drop(runtime.spawn(begun_in(&runtime, owned(&within.0))));
                drop(runtime);
                assert!(poll(&mut early, &Arc::default()).is_pending());
                drop((before.1, between.1, within.1));
                assert_eq!(code(finish(&mut early)), 7);
                bell.wait_beyond(0);
                assert_eq!(code(finish(&mut late)), 8);
                assert_eq!(code(block_on(within.0.wait_async())), 9);
            }
        });
    }

    /// The reactor of a runtime has a descriptor but once.
    #[test]
    fn one_of_two_tasks_goes_away() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            for first_stays in [true, false] {
                let (child, stdin) = shared(backend, 7);
                let first = runtime.spawn(begun_in(runtime, owned(&child)));
                let second = runtime.spawn(begun_in(runtime, owned(&child)));
                runtime.block_on(tokio::task::yield_now());
                let (stays, goes) = if first_stays { (first, second) } else { (second, first) };
                goes.abort();
                assert!(runtime.block_on(goes).unwrap_err().is_cancelled());
                drop(stdin);
                assert_eq!(code(runtime.block_on(stays).unwrap()), 7);
            }
        });
    }

    /// In the thread of a worker, to which the others have left the reactor; and with no budget of tokio's left.
    #[test]
    fn another_executor_within_a_task() {
        watchdog!();
        with_every_runtime(|backend, runtime| {
            for exhausted in [false, true] {
                let (child, stdin) = stoppable(backend, 7);
                let (begun, has_begun) = mpsc::channel();
                let task = runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if exhausted {
                        let mut all = pin!(async {
                            loop {
                                tokio::task::consume_budget().await;
                            }
                        });
                        std::future::poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx).is_pending()))
                            .await;
                    }
                    // SAFETY: it cannot fail.
                    begun.send(unsafe { libc::gettid() }).unwrap();
                    code(block_on(child.wait_async()))
                });
                let release = thread::spawn(move || {
                    linux::until_asleep(has_begun.recv_timeout(LONG).unwrap());
                    drop(stdin);
                });
                assert_eq!(runtime.block_on(task).unwrap(), 7);
                release.join().unwrap();
            }
        });
    }

    /// To drop a copy in the child of a fork must not take the child out of the parent's reactor, which both have.
    #[test]
    fn a_fork_that_drops_what_a_reactor_serves() {
        alone!();
        watchdog!();
        let runtime = multi_thread();
        let (child, stdin) = shared(Backend::ALL[0], 7);
        let future = Arc::new(Mutex::new(Some(owned(&child))));
        let (polled, is_polled) = mpsc::channel();
        let task = runtime.spawn({
            let future = Arc::clone(&future);
            std::future::poll_fn(move |cx| {
                let answer = future.lock().unwrap().as_mut().unwrap().as_mut().poll(cx);
                let _ = polled.send(());
                answer
            })
        });
        is_polled.recv_timeout(LONG).unwrap();
        let in_the_fork = || {
            drop(future.lock().unwrap().take());
            8
        };
        assert_eq!(unix::in_a_fork(in_the_fork), 8);
        drop(stdin);
        assert_eq!(code(runtime.block_on(task).unwrap()), 7);
    }

    #[test]
    fn several_notices_in_one_reactor() {
        watchdog!();
        let (child, stdin) = shared(Backend::ALL[0], 7);
        let runtime = multi_thread();
        let task = runtime.spawn(begun_in(&runtime, owned(&child)));
        runtime.block_on(async {
            let notices = [(); 2].map(|()| {
                let interest = tokio::io::Interest::READABLE;
                let notice = child.exit_notice().unwrap();
                // SAFETY: the notice keeps its descriptor open, and the same, for as long as the `AsyncFd` has it.
                unsafe { tokio::io::unix::AsyncFd::register_with_interest(notice, interest) }
                    .unwrap()
            });
            drop(stdin);
            for notice in &notices {
                let _ready = notice.readable().await.unwrap();
            }
            assert_eq!(code(task.await.unwrap()), 7);
        });
    }

    #[test]
    fn a_notice_in_a_reactor() {
        watchdog!();
        let (child, stdin) = stoppable(Backend::ALL[0], 7);
        let notice = smol::Async::new_nonblocking(child.exit_notice().unwrap()).unwrap();
        smol::block_on(async {
            assert!(smol::future::poll_once(notice.readable()).await.is_none());
            drop(stdin);
            notice.readable().await.unwrap();
        });
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        let (child, stdin) = stoppable(Backend::ALL[0], 8);
        current_thread().block_on(async {
            let (notice, interest) = (child.exit_notice().unwrap(), tokio::io::Interest::READABLE);
            // SAFETY: the notice keeps its descriptor open, and the same, for as long as the `AsyncFd` has it.
            let registered =
                unsafe { tokio::io::unix::AsyncFd::register_with_interest(notice, interest) };
            drop(stdin);
            let _ready = registered.unwrap().readable().await.unwrap();
        });
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(8));
    }

    #[test]
    fn smol_and_many_tasks() {
        watchdog!();
        on_every_backend(|backend| {
            let (children, pipes): (Vec<_>, Vec<_>) = (0..40).map(|n| shared(backend, n)).unzip();
            smol::block_on(async {
                let executor = smol::LocalExecutor::new();
                let tasks: Vec<_> =
                    children.iter().map(|child| executor.spawn(child.wait_async())).collect();
                let deadline = Instant::now() + Duration::from_millis(5);
                let none = executor.run(children[0].wait_deadline_async(deadline));
                assert_eq!(none.await.unwrap(), None);
                drop(pipes);
                for (n, task) in (0..).zip(tasks) {
                    assert_eq!(code(executor.run(task).await), n);
                }
            });
            let child = sleeper(backend);
            assert!(!smol::block_on(child.stop_async(LONG)).unwrap().success());
            // On smol's own threads, and the main one.
            let (child, stdin) = shared(backend, 7);
            let tasks: Vec<_> = (0..10).map(|_| smol::spawn(owned(&child))).collect();
            drop(stdin);
            for task in tasks {
                assert_eq!(code(smol::block_on(task)), 7);
            }
        });
    }
}
