//! Promise: a capture in a task does what a capture on a thread does, on any executor, and a dropped future loses no byte.

use crate::common::captures::{bounded, piped};
use crate::common::executor::{WakeCounter, block_on, on_drop, on_wake, poll, poll_by, run_all};
#[cfg(target_os = "linux")]
use crate::common::linux::{Deny, NoDescriptors, When, deny};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{
    Capture, CaptureOptions, ChildState, Chunk, Reached, SpawnOptions, StoppedBy, StreamEnd, Until,
};
#[cfg(target_os = "linux")]
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(50);

#[track_caller]
fn begin_with<'a>(
    backend: Backend,
    parts: &[&str],
    capture: &mut CaptureOptions<'a>,
) -> Capture<'a> {
    let mut options = SpawnOptions::new();
    options.kill_on_drop(true);
    backend.begin_capture(&options, &mut helper(parts), capture).expect("to begin")
}

#[track_caller]
fn begin(backend: Backend, parts: &[&str]) -> Capture<'static> {
    begin_with(backend, parts, bounded().stdin_open())
}

fn soon(until: Until) -> Until {
    until.or(Until::timeout(LONG))
}

fn is_send<T: Send>(future: T) -> T {
    future
}

#[test]
fn conversation_in_a_task_returns_each_answer() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        block_on(is_send(async {
            for number in 0..rounds(50).max(3) {
                let line = format!("line {number}\n");
                capture.write_async(line.as_bytes()).await.unwrap();
                let chunk = capture.read_async(soon(Until::line())).await;
                assert_eq!((&*chunk.stdout.text(), chunk.reached), (&*line, Reached::Line));
                assert_eq!(chunk.state, ChildState::Running);
            }
            let captured = capture.finish_async().await;
            assert!(captured.success() && captured.stdout.end == StreamEnd::Closed, "{captured:?}");
        }));
    });
}

#[test]
fn captures_of_many_children_end_on_one_thread() {
    watchdog!();
    on_every_backend(|backend| {
        let count = rounds(50).max(5);
        let children: Vec<_> = (0..count)
            .map(|_| piped(backend, &["write", "70000", "write-err", "70000", "exit", "7"]))
            .collect();
        let futures = children.iter().map(|child| {
            is_send(async {
                let captured = child.capture_async(&mut bounded()).await.unwrap();
                assert_eq!((captured.stdout.total, captured.stderr.total), (70_000, 70_000));
                captured.status.unwrap().code()
            })
        });
        let codes = run_all(futures, || {});
        assert!(codes.iter().all(|(_, code)| *code == Some(7)));
    });
}

#[test]
fn dropped_read_loses_no_byte() {
    watchdog!();
    on_every_backend(|backend| {
        let lines = rounds(1000).max(20);
        let capture = begin(backend, &["echo"]);
        let mut all = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..lines {
                    capture.write(format!("line {number}\n").as_bytes()).unwrap();
                }
                capture.close_stdin();
            });
            let counter = Arc::new(WakeCounter::default());
            for turn in 0.. {
                let until = if turn % 2 == 0 { Until::line() } else { Until::bytes(5) };
                let mut read = pin!(capture.read_async(soon(until)));
                match poll(&mut read.as_mut(), &counter) {
                    // The future is dropped.
                    Poll::Pending => thread::sleep(Duration::from_micros(100)),
                    Poll::Ready(chunk) => {
                        all.extend_from_slice(&chunk.stdout.bytes);
                        if chunk.reached == Reached::End {
                            break;
                        }
                    }
                }
            }
            assert_eq!(counter.wakers(), 0, "no registration is left");
        });
        let expected: String = (0..lines).map(|number| format!("line {number}\n")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    });
}

#[test]
fn deadlines_in_a_task_are_kept() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["sleep"]);
        block_on(async {
            let start = Instant::now();
            let chunk = capture.read_async(Until::line().or(Until::timeout(SHORT))).await;
            assert_eq!((chunk.reached, chunk.state), (Reached::Deadline, ChildState::Running));
            assert!(start.elapsed() >= SHORT);
            let chunk = capture.read_async(soon(Until::silent(SHORT))).await;
            assert_eq!(chunk.reached, Reached::Quiet);
            let input = vec![0; 64 * MIB];
            let start = Instant::now();
            let count = capture.write_deadline_async(&input, start + 4 * SHORT).await.unwrap();
            assert!(count < input.len());
            assert!(start.elapsed() >= 4 * SHORT && start.elapsed() < LONG / 2);
        });
        let mut options = CaptureOptions::new();
        let child = piped(backend, &["sleep"]);
        let captured = block_on(child.capture_async(options.timeout(SHORT))).unwrap();
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
    });
}

#[test]
fn write_in_a_task_to_a_child_that_writes_does_not_deadlock() {
    watchdog!();
    on_every_backend(|backend| {
        let input: Vec<u8> = (0..=255).cycle().take(rounds(4).clamp(1, 4) * MIB).collect();
        let capture = begin(backend, &["echo-both"]);
        block_on(async {
            capture.write_async(&input).await.unwrap();
            capture.close_stdin();
            let chunk = capture.read_async(soon(Until::end())).await;
            assert!(chunk.stdout.bytes == input && chunk.stderr.bytes == input);
        });
    });
}

#[test]
fn task_and_thread_share_a_capture() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(10).max(1) {
            for task_reads in [false, true] {
                let capture = begin(backend, &["echo"]);
                let input = vec![b'x'; MIB];
                let until = || soon(Until::bytes(input.len()));
                thread::scope(|scope| {
                    let thread = scope.spawn(|| match task_reads {
                        true => {
                            capture.write(&input).unwrap();
                            None
                        }
                        false => Some(capture.read(until())),
                    });
                    let chunk = block_on(async {
                        match task_reads {
                            true => Some(capture.read_async(until()).await),
                            false => {
                                capture.write_async(&input).await.unwrap();
                                None
                            }
                        }
                    });
                    let chunk = thread.join().unwrap().or(chunk).unwrap();
                    assert_eq!(chunk.reached, Reached::Bytes);
                    assert!(chunk.stdout.bytes == input);
                });
            }
        }
    });
}

#[test]
fn tasks_that_read_and_write_share_a_capture() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        let input: String =
            (0..rounds(20_000).max(100)).map(|number| format!("{number}\n")).collect();
        let read = || async {
            let mut lines = Vec::new();
            loop {
                let chunk = capture.read_async(soon(Until::line())).await;
                match chunk.reached {
                    Reached::Line => lines.push(chunk.stdout.text().into_owned()),
                    other => break assert_eq!(other, Reached::End),
                }
            }
            lines
        };
        type Task<'t> = std::pin::Pin<Box<dyn Future<Output = Vec<String>> + 't>>;
        let write = async {
            capture.write_async(input.as_bytes()).await.unwrap();
            capture.close_stdin();
            Vec::new()
        };
        let tasks: [Task<'_>; 3] = [Box::pin(read()), Box::pin(read()), Box::pin(write)];
        let lines = run_all(tasks, || {}).into_iter();
        let mut lines: Vec<String> = lines.flat_map(|(_, lines)| lines).collect();
        lines.sort();
        let mut expected: Vec<String> = input.lines().map(|line| format!("{line}\n")).collect();
        expected.sort();
        assert!(lines == expected);
    });
}

/// Each byte goes to one of the two.
#[test]
fn task_and_thread_that_read_get_each_line_once() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        let input: String =
            (0..rounds(2000).max(100)).map(|number| format!("{number}\n")).collect();
        let is_line = |chunk: &Chunk| match chunk.reached {
            Reached::Line => true,
            reached => {
                assert_eq!(reached, Reached::End);
                false
            }
        };
        let mut lines = Vec::new();
        let more = thread::scope(|scope| {
            scope.spawn(|| {
                capture.write(input.as_bytes()).unwrap();
                capture.close_stdin();
            });
            let thread = scope.spawn(|| {
                let mut lines = Vec::new();
                loop {
                    let chunk = capture.read(soon(Until::line()));
                    if !is_line(&chunk) {
                        return lines;
                    }
                    lines.push(chunk.stdout.text().into_owned());
                }
            });
            block_on(async {
                loop {
                    let chunk = capture.read_async(soon(Until::line())).await;
                    if !is_line(&chunk) {
                        break;
                    }
                    lines.push(chunk.stdout.text().into_owned());
                }
            });
            thread.join().unwrap()
        });
        lines.extend(more);
        lines.sort();
        let mut expected: Vec<String> = input.lines().map(|line| format!("{line}\n")).collect();
        expected.sort();
        assert!(lines == expected, "{} lines of {}", lines.len(), expected.len());
    });
}

#[test]
fn callbacks_run_on_the_thread_that_polls() {
    watchdog!();
    on_every_backend(|backend| {
        let here = thread::current().id();
        let mut lines = 0;
        let mut options = bounded();
        options.on_line(|_, _| {
            lines += usize::from(thread::current().id() == here);
            ControlFlow::Continue(())
        });
        let child = piped(backend, &["say", "one", "complain", "two", "say", "three"]);
        let captured = block_on(child.capture_async(&mut options)).unwrap();
        drop(options);
        assert!(captured.success() && lines == 3, "{captured:?}");
    });
}

/// The thread that reports exits and pipes serves all captures.
#[cfg(target_os = "linux")]
#[test]
fn captures_of_many_children_need_one_thread() {
    alone!();
    watchdog!();
    let before = linux::threads();
    let captures: Vec<_> = (0..50).map(|_| begin(Backend::Best, &["echo"])).collect();
    let futures = captures.iter().map(|capture| async {
        let chunk = capture.read_async(soon(Until::line())).await;
        assert_eq!(chunk.stdout.bytes, b"x\n");
        capture.finish_async().await.success()
    });
    let all = run_all(futures, || {
        assert_eq!(linux::threads(), before + 1);
        captures.iter().for_each(|capture| capture.write(b"x\n").unwrap());
    });
    assert!(all.iter().all(|(_, is_success)| *is_success));
    assert_eq!(linux::threads(), before + 1);
}

#[cfg(target_os = "linux")]
fn converse(capture: &Capture<'_>) {
    block_on(async {
        let input = [&vec![b'x'; MIB][..], b"\n"].concat();
        capture.write_async(&input).await.unwrap();
        let chunk = capture.read_async(soon(Until::pattern("\n"))).await;
        assert!(chunk.reached == Reached::Pattern && chunk.stdout.bytes == input);
        let chunk = capture.read_async(Until::line().or(Until::timeout(SHORT))).await;
        assert_eq!((chunk.reached, chunk.state), (Reached::Deadline, ChildState::Running));
        let captured = capture.finish_async().await;
        assert!(captured.success() && captured.stdout.end == StreamEnd::Closed, "{captured:?}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn capture_in_a_task_works_without_descriptors() {
    alone!();
    watchdog!();
    on_every_backend(|backend| {
        let [first, second] = [(); 2].map(|()| begin(backend, &["echo"]));
        let full = NoDescriptors::left();
        converse(&first);
        second.read_in_background().unwrap();
        converse(&second);
        drop(full);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn capture_in_a_task_works_without_threads() {
    alone!();
    watchdog!();
    deny(&Deny::threads());
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        let error = capture.read_in_background().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        converse(&capture);
    });
}

/// A task that waits for the same events changes its registrations in the kernel queue and makes no new ones. If the
/// queue refuses that, it makes new ones, and polls if the queue refuses these too.
#[cfg(target_os = "linux")]
#[test]
fn registrations_of_a_waiting_task_are_rearmed_or_replaced() {
    alone!();
    watchdog!();
    let (add, change) = (libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD);
    for refused in [&[][..], &[add], &[change], &[add, change]] {
        // A filter stays as long as its thread.
        thread::scope(|scope| {
            scope.spawn(|| wait_where_epoll_refuses(refused));
        });
    }
}

#[cfg(target_os = "linux")]
fn wait_where_epoll_refuses(changes: &[std::ffi::c_int]) {
    use crate::common::executor::finish;
    use std::io::Write;

    let child = Arc::new(piped(Backend::Best, &["echo"]));
    let mut stdin = child.take_stdin().unwrap();
    let capture = Capture::new(child, &mut bounded()).unwrap();
    let counter = Arc::new(WakeCounter::default());
    let mut read = pin!(capture.read_async(soon(Until::bytes(12))));
    assert!(poll(&mut read, &counter).is_pending());
    // This one waits until it can write, too.
    let other = begin(Backend::Best, &["echo-both"]);
    let input = vec![b'x'; 4 * MIB];
    let mut write = pin!(other.write_async(&input));
    assert!(poll(&mut write, &Arc::default()).is_pending());
    let mut rules = Vec::new();
    for change in changes {
        let when = When::Is(1, *change as u32);
        rules.push(Deny { call: libc::SYS_epoll_ctl, when, errno: libc::ENOSPC });
    }
    deny(&rules);
    let mut seen = counter.count();
    for _ in 0..5 {
        stdin.write_all(b"x\n").unwrap();
        counter.wait_beyond(seen);
        // Before the poll: a task that polls may be woken at any time after it, and then not again before the next poll.
        seen = counter.count();
        assert!(poll(&mut read, &counter).is_pending());
        if changes.len() < 2 {
            thread::sleep(SHORT);
            assert_eq!(counter.count(), seen, "it polls if the queue refuses {changes:?}");
        }
    }
    stdin.write_all(b"x\n").unwrap();
    assert_eq!(finish(&mut read).stdout.bytes, b"x\n".repeat(6));
    finish(&mut write).unwrap();
    let captured = block_on(other.finish_async());
    assert!(captured.success() && captured.stdout.bytes == input && captured.stderr.bytes == input);
}

#[test]
fn read_that_is_not_polled_does_not_delay_the_end() {
    watchdog!();
    on_every_backend(|backend| {
        for is_task in [false, true] {
            // A read that waits, and one that finds its line while the child has more to write.
            for (parts, timeout, total) in
                [(&["sleep"][..], SHORT, 0), (&["write", "1000000"], LONG, 1_000_000)]
            {
                let mut options = CaptureOptions::new();
                let capture = begin_with(backend, parts, options.timeout(timeout));
                let mut read = Box::pin(capture.read_async(Until::line()));
                let first = match poll(&mut read, &Arc::new(WakeCounter::default())) {
                    Poll::Ready(chunk) => chunk.stdout.total,
                    Poll::Pending => 0,
                };
                let captured = match is_task {
                    true => block_on(capture.finish_async()),
                    false => capture.finish(),
                };
                assert_eq!(first + captured.stdout.total, total, "{captured:?}");
                if first == 0 {
                    assert_eq!(block_on(read).reached, Reached::End);
                }
            }
        }
    });
}

#[test]
fn panic_of_a_waker_harms_neither_the_caller_nor_other_tasks() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["read"]);
        let counter = Arc::new(WakeCounter::default());
        let mut reads = [(); 2].map(|()| Box::pin(capture.read_async(soon(Until::line()))));
        let panicking = on_wake(|| panic!("as planned"));
        assert!(poll_by(&mut reads[0], &panicking).is_pending());
        assert!(poll(&mut reads[1], &counter).is_pending());
        // This wakes both.
        capture.write(b"x").unwrap();
        counter.wait_beyond(0);
    });
}

#[test]
fn waker_may_use_the_capture_when_it_is_dropped() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = Arc::new(begin(backend, &["sleep"]));
        let (drop_waker, dropped) = mpsc::channel();
        let mut reads = [(); 2].map(|()| Box::pin(capture.read_async(Until::line())));
        let counter = Arc::new(WakeCounter::default());
        assert!(poll(&mut reads[0], &counter).is_pending());
        let its = Arc::clone(&capture);
        let waker = on_drop(move || {
            its.close_stdin();
            drop_waker.send(()).unwrap();
        });
        // It waits for its turn. Only the capture has the waker.
        assert!(poll_by(&mut reads[1], &waker).is_pending());
        drop(waker);
        assert!(poll(&mut reads[1], &counter).is_pending());
        dropped.recv_timeout(LONG).unwrap();
    });
}

/// Polls the futures, the last one first, until all have returned.
fn run_backwards<T>(futures: Vec<impl Future<Output = T> + Unpin>) -> Vec<T> {
    let counter = Arc::new(WakeCounter::default());
    let mut pending: Vec<_> = futures.into_iter().enumerate().collect();
    let mut results = Vec::new();
    while !pending.is_empty() {
        let seen = counter.count();
        for index in (0..pending.len()).rev() {
            if let Poll::Ready(result) = poll(&mut pending[index].1, &counter) {
                results.push((pending.remove(index).0, result));
            }
        }
        if !pending.is_empty() {
            counter.wait_beyond(seen);
        }
    }
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn reads_have_their_turns_in_the_order_of_the_calls() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        let counter = Arc::new(WakeCounter::default());
        let mut reads = Vec::new();
        for _ in 0..5 {
            let mut read = Box::pin(capture.read_async(soon(Until::line())));
            assert!(poll(&mut read, &counter).is_pending());
            reads.push(read);
        }
        // One in the middle gives up its place, and the first its turn.
        drop(reads.remove(2));
        drop(reads.remove(0));
        capture.write(b"0\n1\n2\n3\n").unwrap();
        // A later call does not overtake the waiting ones, even if no read is in progress.
        assert_eq!(capture.read(Until::timeout(SHORT)).stdout.total, 0);
        let lines = run_backwards(reads).into_iter().map(|chunk| chunk.stdout.bytes);
        assert!(lines.eq([b"0\n", b"1\n", b"2\n"]));
        assert_eq!(capture.read(soon(Until::line())).stdout.bytes, b"3\n");
    });
}

#[test]
fn writes_have_their_turns_in_the_order_of_the_calls() {
    watchdog!();
    on_every_backend(|backend| {
        let capture = begin(backend, &["echo"]);
        let counter = Arc::new(WakeCounter::default());
        // One poll moves at most 8 MiB and what the pipes hold.
        let inputs = [(b'a', 16), (b'b', 1), (b'c', 1), (b'd', 1), (b'e', 1)]
            .map(|(byte, size)| vec![byte; size * MIB]);
        let mut writes = Vec::new();
        for input in &inputs {
            let mut write = Box::pin(capture.write_async(input));
            assert!(poll(&mut write, &counter).is_pending());
            writes.push(write);
        }
        drop(writes.remove(2));
        assert!(run_backwards(writes).iter().all(Result::is_ok));
        let expected = [&inputs[..2], &inputs[3..]].concat().concat();
        assert!(block_on(capture.finish_async()).stdout.bytes == expected);
    });
}

#[cfg(unix)]
#[test]
fn dropped_capture_of_a_command_kills_its_child() {
    watchdog!();
    let mut command = helper(&["pid", "sleep"]);
    let (shown, is_shown) = std::sync::mpsc::channel();
    let mut options = bounded();
    options.on_line(move |_, line| {
        shown.send(line.to_string()).unwrap();
        std::ops::ControlFlow::Continue(())
    });
    let spawn = SpawnOptions::new();
    let mut capture = Box::pin(is_send(spawn.capture_async(&mut command, &mut options)));
    let counter = Arc::new(WakeCounter::default());
    let line = loop {
        let seen = counter.count();
        assert!(poll(&mut capture, &counter).is_pending());
        match is_shown.try_recv() {
            Ok(line) => break line,
            Err(_) => counter.wait_beyond(seen),
        }
    };
    let id: u32 = line.strip_prefix("pid ").unwrap().parse().unwrap();
    assert!(unix::children().contains(&id));
    drop(capture);
    until("the child is reaped", || !unix::children().contains(&id));
}

#[cfg(unix)]
#[test]
fn waiting_in_a_task_uses_no_processor_time() {
    alone!();
    watchdog!();
    const WHILE: Duration = Duration::from_secs(1);
    on_every_backend(|backend| {
        for line in
            [&["sleep"][..], &["close-stdout", "sleep"], &["close-stdout", "close-stderr", "sleep"]]
        {
            let capture = begin(backend, line);
            let before = unix::cpu_time();
            block_on(async {
                let input = vec![0; MIB];
                let deadline = Instant::now() + WHILE;
                assert!(capture.write_deadline_async(&input, deadline).await.unwrap() < MIB);
                let until = Until::line().or(Until::timeout(WHILE));
                assert_eq!(capture.read_async(until).await.reached, Reached::Deadline);
            });
            let used = unix::cpu_time() - before;
            assert!(used < WHILE / 2, "{used:?} for {line:?}");
        }
    });
}
