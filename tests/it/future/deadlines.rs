//! Promise: a task with a deadline is woken at its deadline, and not before.

use super::*;

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
fn wait_deadline_async_returns_none_at_its_deadline_and_the_status_after_an_exit() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        // A deadline that has passed: one poll, and the result.
        let now = Instant::now();
        for passed in [now, now.checked_sub(Duration::from_secs(1)).unwrap_or(now)] {
            let mut exited = child.wait_deadline_async(passed);
            let counter = Arc::new(WakeCounter::default());
            let Poll::Ready(answer) = poll(&mut exited, &counter) else { panic!("it has passed") };
            assert_eq!(answer.unwrap(), None);
            assert_eq!(counter.wakers(), 0);
        }
        // A deadline that is near: no result before it.
        for soon in [0, 1, 20] {
            let deadline = Instant::now() + Duration::from_millis(soon);
            assert_eq!(block_on(child.wait_deadline_async(deadline)).unwrap(), None);
            assert!(Instant::now() >= deadline);
        }
        // A distant deadline, and a nearer one meanwhile.
        let (mut far, counter) =
            (child.wait_deadline_async(end_of_time()), Arc::new(WakeCounter::default()));
        assert!(poll(&mut far, &counter).is_pending());
        let sooner = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_on(child.wait_deadline_async(sooner)).unwrap(), None);
        assert!(poll(&mut far, &counter).is_pending());
        assert_eq!(counter.count(), 0, "the distant deadline has not passed");
        // An exit before the deadline.
        drop(stdin);
        counter.wait_beyond(0);
        assert_eq!(finish(&mut far).unwrap().unwrap().code(), Some(7));
        let again = finish(&mut far).unwrap();
        assert_eq!(again.unwrap().code(), Some(7));
    });
}

/// The deadlines are in no order.
#[test]
fn each_task_is_woken_at_its_own_deadline() {
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

/// The dropped timer is the next of several.
#[test]
fn dropped_deadline_leaves_the_other_deadlines() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        let soon = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        let counter = Arc::new(WakeCounter::default());
        let mut given_up = child.wait_deadline_async(soon(10_000));
        assert!(poll(&mut given_up, &counter).is_pending());
        let mut kept = child.wait_deadline_async(soon(30));
        let polled = poll(&mut kept, &counter);
        drop(given_up);
        if polled.is_pending() {
            assert_eq!(finish(&mut kept).unwrap(), None);
        }
        drop(stdin);
        assert_eq!(block_on(child.wait_async()).unwrap().code(), Some(7));
    });
}
