//! Promise: tokio and smol drive the same futures, on any thread, and outlive nothing.

#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

use super::*;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use tokio::runtime::{Builder, Runtime};

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Its reactor and its tasks run only inside `block_on`.
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

/// Polls the future once, in a task of this runtime.
fn begun_in(runtime: &Runtime, mut future: Owned) -> Owned {
    let begun = runtime.spawn(async move {
        let first = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
        assert!(first.await.is_pending());
        Some(future)
    });
    runtime.block_on(begun).unwrap().expect("the future")
}

#[test]
fn tokio_tasks_and_block_on_get_the_status() {
    watchdog!();
    with_every_runtime(|backend, runtime| {
        let (child, stdin) = shared(backend, 7);
        runtime.block_on(async {
            // Several tasks of one runtime await the same child.
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
fn tokio_select_kills_and_stops_a_child() {
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
fn tokio_awaits_a_thousand_children() {
    watchdog!();
    // Each child without a pidfd has a thread of its own.
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

/// The runtime that first polled the future may have ended.
#[test]
fn future_polled_first_in_tokio_finishes_elsewhere() {
    watchdog!();
    with_every_runtime(|backend, runtime| {
        let (child, stdin) = shared(backend, 7);
        let mut future = begun_in(runtime, owned(&child));
        let counter = Arc::new(WakeCounter::default());
        assert!(poll(&mut future, &counter).is_pending());
        drop(stdin);
        counter.wait_beyond(0);
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
fn future_polled_first_elsewhere_finishes_in_tokio() {
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
fn futures_outlive_the_runtime_that_polled_them() {
    watchdog!();
    on_every_backend(|backend| {
        for runtime in [multi_thread(), current_thread(), without_io()] {
            // The runtime is dropped before and while a future is polled elsewhere, and with a future in a task.
            let [before, between, within] = [7, 8, 9].map(|code| shared(backend, code));
            let [mut early, mut late] =
                [&before, &between].map(|(child, _)| begun_in(&runtime, owned(child)));
            let counter = Arc::new(WakeCounter::default());
            assert!(poll(&mut late, &counter).is_pending());
            drop(runtime.spawn(begun_in(&runtime, owned(&within.0))));
            drop(runtime);
            assert!(poll(&mut early, &Arc::default()).is_pending());
            drop((before.1, between.1, within.1));
            assert_eq!(code(finish(&mut early)), 7);
            counter.wait_beyond(0);
            assert_eq!(code(finish(&mut late)), 8);
            assert_eq!(code(block_on(within.0.wait_async())), 9);
        }
    });
}

/// The reactor of a runtime accepts a descriptor once.
#[test]
fn aborted_task_leaves_the_other_task_of_its_child() {
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

/// The worker thread that blocks may be the thread that runs the reactor, and its task may have no budget left.
#[test]
fn executor_inside_a_tokio_task_gets_the_status() {
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
                begun.send(linux::this_thread()).unwrap();
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

/// Both processes have the reactor: a drop in the child of a fork must not remove the registration of the parent.
#[test]
fn fork_that_drops_a_future_affects_no_task_of_the_parent() {
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
    let forked = || {
        drop(future.lock().unwrap().take());
        8
    };
    assert_eq!(unix::in_a_fork(forked), 8);
    drop(stdin);
    assert_eq!(code(runtime.block_on(task).unwrap()), 7);
}

#[test]
fn two_notices_of_one_child_work_in_one_reactor() {
    watchdog!();
    let (child, stdin) = shared(Backend::ALL[0], 7);
    let runtime = multi_thread();
    let task = runtime.spawn(begun_in(&runtime, owned(&child)));
    runtime.block_on(async {
        let notices = [(); 2].map(|()| {
            let interest = tokio::io::Interest::READABLE;
            let notice = child.exit_notice().unwrap();
            // SAFETY: the notice keeps its descriptor open, and the same, for as long as the `AsyncFd` has it.
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(notice, interest) }.unwrap()
        });
        drop(stdin);
        for notice in &notices {
            let _ready = notice.readable().await.unwrap();
        }
        assert_eq!(code(task.await.unwrap()), 7);
    });
}

#[test]
fn notice_works_in_the_reactors_of_smol_and_tokio() {
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
fn smol_tasks_get_their_statuses() {
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
