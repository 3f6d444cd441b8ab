//! Wake-up: from the child's last moment until the wait for it returns.
//!
//! The child is this program. It says that it is ready, blocks, and when it is released writes the
//! time to a pipe and exits. What is measured contains the end of a process, which is the same for
//! all. It is released by another thread, once the waiting one, and any helper, is blocked in the
//! kernel.
//!
//! The main thread is the one that waits: Linux prefers it for the delivery of SIGCHLD, so that is
//! the best case for shared_child 1.1.2. All but std wait with a timeout. For `std, polling` it is
//! the wait for its next look that is measured.

use crate::cli::Result;
use crate::contender::{AnyHandle, Program, Who};
use crate::procfs::until_others_sleep;
use crate::report::Row;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::timed::A_MINUTE;
use crate::worker::Worker;
use std::env;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

/// The hidden argument that makes this program the child.
pub(crate) const CHILD: &str = "__child";

pub(crate) const KIND: &str = "wake";

/// Samples a round, after two that go uncounted. Each round has a fresh process, so that what luck
/// it has with its memory does not last.
pub(crate) const SAMPLES: usize = 10;
pub(crate) const WARM_UP: usize = 2;

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Who::Std, Who::Fallback][..], &Who::TIMED].concat();
    let rounds = Rounds::cold(run, &contenders, run.pick(2, 40), |who| {
        let samples = Worker::start(KIND, who)?.ask(WARM_UP + SAMPLES)?;
        Ok(samples[WARM_UP..].to_vec())
    })?;
    Ok(vec![
        rounds
            .row("wake-up, from a child's last moment until its wait returns", "µs", Who::Std)
            .bar(1.1)
            .latency(),
    ])
}

/// In the worker: latencies in microseconds.
pub(crate) fn samples(who: Who, count: usize) -> Result<Vec<f64>> {
    (0..count).map(|_| sample(who)).collect()
}

fn sample(who: Who) -> Result<f64> {
    let (program, stdin, stdout) = held()?;
    // The child's ends of the pipes are closed with the program.
    let mut child = program.spawn(who)?;
    latency(stdin, stdout, || woken(&mut child))
}

fn woken(child: &mut AnyHandle) -> Result<u64> {
    let status = child.wait_timeout(A_MINUTE)?;
    let woken = nanoseconds();
    status.ok_or("the wait timed out")?;
    Ok(woken)
}

/// A child, and the pipes that it is held and heard by. Should anything fail, it ends as they are dropped.
pub(crate) fn held() -> Result<(Program, PipeWriter, PipeReader)> {
    let (input, stdin) = io::pipe()?;
    let (stdout, output) = io::pipe()?;
    let mut program = Program::new(env::current_exe()?).arg(CHILD);
    program.stdin = Some(File::from(OwnedFd::from(input)));
    program.stdout = Some(File::from(OwnedFd::from(output)));
    Ok((program, stdin, stdout))
}

/// From the last moment of the child, which these are the pipes of, until that which the wait tells; in microseconds.
pub(crate) fn latency(
    stdin: impl Send,
    mut stdout: impl Read,
    wait: impl FnOnce() -> Result<u64>,
) -> Result<f64> {
    stdout.read_exact(&mut [0; 1])?; // it is ready

    let woken = thread::scope(|scope| {
        let release = scope.spawn(move || {
            let blocked = until_others_sleep().map_err(|error| error.to_string());
            drop(stdin);
            // Not to be in the way: the end of a thread is work for the kernel.
            thread::sleep(Duration::from_millis(4));
            blocked
        });
        let woken = wait()?;
        release.join().map_err(|_| "the release has failed")??;
        Ok::<_, Box<dyn std::error::Error>>(woken)
    })?;

    let mut last_moment = [0; 8];
    stdout.read_exact(&mut last_moment)?;
    Ok((woken - u64::from_ne_bytes(last_moment)) as f64 / 1e3)
}

/// The life of the child.
pub(crate) fn child() -> ! {
    let mut byte = 0_u8;
    // SAFETY: `byte` is one byte that may be read and written; standard input and output are open.
    unsafe {
        libc::write(libc::STDOUT_FILENO, (&raw const byte).cast(), 1);
        // Nobody writes: it returns at the end of file.
        libc::read(libc::STDIN_FILENO, (&raw mut byte).cast(), 1);
    }
    let now = nanoseconds().to_ne_bytes();
    // SAFETY: `now` is readable for the length that is told, and `_exit` takes an integer.
    unsafe {
        libc::write(libc::STDOUT_FILENO, now.as_ptr().cast(), now.len());
        libc::_exit(0)
    }
}

/// The monotonic clock, which processes share. (`Instant` does not give its number.)
pub(crate) fn nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a writable timespec. This clock exists everywhere, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // Neither part is ever negative, and their widths differ from system to system.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
