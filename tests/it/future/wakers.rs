//! Promise: a waker is kept only while its future waits, and a waker that panics or calls the library harms no other task.

use super::*;

#[test]
fn dropped_future_releases_its_waker_and_affects_no_other() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let counter = Arc::new(WakeCounter::default());
        drop(child.wait_async());
        drop(child.wait_deadline_async(Instant::now() + LONG));
        let mut other = child.wait_async();
        let others = Arc::new(WakeCounter::default());
        assert!(poll(&mut other, &others).is_pending());
        for _ in 0..100 {
            let mut exited = child.wait_async();
            assert!(poll(&mut exited, &counter).is_pending());
            assert_eq!(counter.wakers(), 1);
            drop(exited);
            assert_eq!(counter.wakers(), 0, "the waker has stayed");
            let mut exited = child.wait_deadline_async(Instant::now() + LONG);
            assert!(poll(&mut exited, &counter).is_pending());
            drop(exited);
            assert_eq!(counter.wakers(), 0, "the waker has stayed");
        }
        assert_eq!(child.try_wait().unwrap(), None);
        drop(stdin);
        others.wait_beyond(0);
        assert_eq!(finish(&mut other).unwrap().code(), Some(7));
        assert_eq!(counter.count(), 0, "the dropped future was woken");
        let mut exited = child.wait_async();
        assert!(poll(&mut exited, &counter).is_ready());
        drop(exited);
        assert_eq!(counter.wakers(), 0);
    });
}

#[test]
fn last_waker_is_woken_and_earlier_ones_are_released() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let (mut exited, mut timed) =
            (child.wait_async(), child.wait_deadline_async(Instant::now() + LONG));
        let counters: Vec<Arc<WakeCounter>> = (0..1000).map(|_| Arc::default()).collect();
        let mut before: Option<&Arc<WakeCounter>> = None;
        for counter in &counters {
            assert!(poll(&mut exited, counter).is_pending());
            assert!(poll(&mut timed, counter).is_pending());
            assert!((2..4).contains(&counter.wakers()), "{} for one task", counter.wakers());
            assert_eq!(before.map_or(0, WakeCounter::wakers), 0, "the waker has stayed");
            before = Some(counter);
        }
        drop(stdin);
        let (last, others) = counters.split_last().unwrap();
        last.wait_beyond(1);
        assert!(others.iter().all(|counter| counter.count() == 0));
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        assert_eq!(finish(&mut timed).unwrap().unwrap().code(), Some(7));
        until("no waker is left", || counters.iter().all(|counter| counter.wakers() == 0));
    });
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the waker panics, on purpose");
    }
}

#[test]
fn panicking_waker_stops_no_other_task_or_timer() {
    watchdog!();
    on_every_backend(|backend| {
        let [first, second, third] = [7, 8, 9].map(|code| stoppable(backend, code));
        let panics = Waker::from(Arc::new(Panics));
        // Panicking wakers before and after other wakers of the same child, and a panicking waker of a timer.
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
        // The panic replaced their wake-up, but the result is there.
        assert!(bad.iter_mut().all(|exited| finish(exited).unwrap().code() == Some(7)));
        let none =
            block_on(third.0.wait_deadline_async(Instant::now() + Duration::from_millis(20)));
        assert_eq!(none.unwrap(), None, "the timers go on");
        assert_eq!(finish(&mut late).unwrap(), None);
        drop(third.1);
        assert_eq!(block_on(third.0.wait_async()).unwrap().code(), Some(9));
    });
}

/// The poll or drop that panics leaves the future as it was: the registered wakers are still woken.
#[test]
fn panic_of_a_waker_clone_or_drop_reaches_the_caller() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::ptr::null;
    use std::task::{RawWaker, RawWakerVTable};

    static CLONE_PANICS: RawWakerVTable =
        RawWakerVTable::new(|_| panic!("to clone it panics, on purpose"), |_| (), |_| (), |_| ());

    fn panics(run: impl FnOnce()) {
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "no panic");
    }

    /// A waker whose last clone panics in its drop.
    fn drop_panics() -> Waker {
        on_drop(|| panic!("to drop it panics, on purpose"))
    }

    // SAFETY: the functions of the vtable do not use the pointer.
    let clone_panics = unsafe { Waker::from_raw(RawWaker::new(null(), &CLONE_PANICS)) };
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let far = Instant::now() + LONG;
        let (mut exited, mut timed) = (child.wait_async(), child.wait_deadline_async(far));
        let counters: [Arc<WakeCounter>; 4] = Default::default();
        let others = Arc::new(WakeCounter::default());
        let mut other = child.wait_async();
        assert!(poll(&mut other, &others).is_pending());
        // At the first poll, and at a later one, which keeps the waker before it.
        for _ in 0..2 {
            panics(|| drop(poll_by(&mut exited, &clone_panics)));
            panics(|| drop(poll_by(&mut timed, &clone_panics)));
            assert!(poll(&mut exited, &counters[0]).is_pending());
            assert!(poll(&mut timed, &counters[1]).is_pending());
        }
        panics(|| drop(poll_by(&mut exited, &clone_panics)));
        // A waker that is replaced, and one that is dropped with its future.
        let (mut replaced, mut dropped) = (child.wait_async(), child.wait_async());
        for future in [&mut replaced, &mut dropped] {
            assert!(poll_by(future, &drop_panics()).is_pending());
        }
        panics(|| drop(poll(&mut replaced, &counters[2])));
        panics(|| drop(dropped));
        // A waker that is dropped once it has woken.
        let mut woken = child.wait_async();
        assert!(poll_by(&mut woken, &drop_panics()).is_pending());
        let mut last = child.wait_async();
        assert!(poll(&mut last, &counters[3]).is_pending());
        drop(stdin);
        counters.iter().chain([&others]).for_each(|counter| counter.wait_beyond(0));
        for future in [&mut exited, &mut replaced, &mut woken, &mut last, &mut other] {
            assert_eq!(finish(future).unwrap().code(), Some(7));
        }
        assert_eq!(finish(&mut timed).unwrap().unwrap().code(), Some(7));
    });
}

/// A waker runs code of the caller, which may use any future.
#[test]
fn waker_may_poll_and_drop_futures() {
    watchdog!();
    on_every_backend(|backend| {
        let ((child, stdin), (other, others_stdin)) = (shared(backend, 7), shared(backend, 8));
        let (done, is_done) = mpsc::channel();
        let counter = Arc::new(WakeCounter::default());
        let ours = Arc::new(Mutex::new(Some(owned(&child))));
        let mut dropped: Vec<_> = [&child, &other].into_iter().map(owned).collect();
        let mut polled: Vec<_> = [&child, &other].into_iter().map(owned).collect();
        for future in dropped.iter_mut().chain(&mut polled) {
            assert!(poll(future, &counter).is_pending());
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
        let mut rest = is_done.recv_timeout(LONG).expect("the waker to return");
        drop(others_stdin);
        assert_eq!(finish(&mut rest).unwrap().code(), Some(8));
        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
    });
}

#[test]
fn dropped_waker_may_poll_and_drop_futures() {
    watchdog!();
    on_every_backend(|backend| {
        // The waker is dropped when it is replaced, with its future, or once it has woken.
        for way in 0..3 {
            let ((child, stdin), (other, others_stdin)) = (shared(backend, 7), shared(backend, 8));
            let (done, is_done) = mpsc::channel();
            let counter = Arc::new(WakeCounter::default());
            let mut dropped: Vec<_> = [&child, &other].into_iter().map(owned).collect();
            for future in &mut dropped {
                assert!(poll(future, &counter).is_pending());
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
            assert!(is_done.try_recv().is_err(), "the task still has the waker");
            match way {
                0 => assert!(poll(future.as_mut().unwrap(), &counter).is_pending()),
                1 => future = None,
                _ => {}
            }
            drop(stdin);
            let [mut this, mut that] = is_done.recv_timeout(LONG).expect("the waker was dropped");
            drop(others_stdin);
            assert_eq!(finish(&mut that).unwrap().code(), Some(8));
            assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
            // The drop of the waker may have polled it to its end already.
            if way < 2 {
                assert_eq!(finish(&mut this).unwrap().code(), Some(7));
                assert!(future.is_none_or(|mut future| finish(&mut future).is_ok()));
            }
        }
    });
}

/// The drop of the payload panics outside of every `catch_unwind` of the caller.
#[test]
fn panic_payload_that_panics_stops_no_other_task() {
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
        let counter = Arc::new(WakeCounter::default());
        assert!(poll(&mut good, &counter).is_pending());
        let waker = on_wake(|| std::panic::panic_any(Bomb));
        assert!(poll_by(&mut bad, &waker).is_pending());
        drop((pipe, waker));
        assert_eq!(block_on(first.wait_async()).unwrap().code(), Some(7));
        drop(other_pipe);
        counter.wait_beyond(0);
        assert_eq!(finish(&mut good).unwrap().code(), Some(8));
    });
}
