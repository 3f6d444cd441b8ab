//! 800 timed waits: what they cost while other children come and go.
//!
//! Every contender's 800 threads wait in one process, each for a child of its own that lives on.
//! Meanwhile the process spawns other children, one after the other, with std. The CPU time that
//! the process spends on each is set against the same without any waiters.

use crate::cli::{Effort, Result};
use crate::contender::{Who, long_lived, short_lived};
use crate::procfs::until_others_sleep;
use crate::report::Row;
use crate::rounds::Rounds;
use crate::worker::Worker;
use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) const KIND: &str = "waiters";

const WAITERS: usize = 800;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let children = effort.pick(100, 300);
    let mut workers = Vec::new();
    for who in [Who::Nobody, Who::Ours, Who::Peer] {
        workers.push((who, Worker::start(KIND, who)?));
    }
    let contenders: Vec<Who> = workers.iter().map(|(who, _)| *who).collect();
    let rounds = Rounds::run(&contenders, effort.pick(3, 9), |who| {
        let worker = workers.iter_mut().find(|(it, _)| *it == who);
        let (_, worker) = worker.ok_or("no such worker")?;
        // 1.1.2 wakes every waiter for every child. A fifth of them shows it as well: the figure is
        // for one.
        worker.ask(if who == Who::Peer { children / 5 } else { children })
    })?;
    let name = "CPU time a child, beside 800 timed waits";
    Ok(vec![rounds.row(name, "µs", Who::Nobody).bar(1.5)])
}

/// In the worker: the threads that wait, until this is dropped.
pub(crate) struct Waiters {
    /// How many are, at this moment, in their wait.
    waiting: Arc<AtomicUsize>,
    expected: usize,
    _herd: Box<dyn Any>,
}

impl Waiters {
    /// Returns when all of them are blocked.
    pub(crate) fn start(who: Who) -> Result<Self> {
        /// Longer than the children live.
        const TIMEOUT: Duration = Duration::from_secs(3600);
        allow_descriptors()?;
        match who {
            Who::Ours => {
                use shared_child::SharedChild;
                Self::start_with(
                    SharedChild::spawn,
                    |child| child.wait_timeout(TIMEOUT),
                    SharedChild::kill,
                )
            }
            Who::Peer => {
                use peer::SharedChild;
                Self::start_with(
                    SharedChild::spawn,
                    |child| child.wait_timeout(TIMEOUT),
                    SharedChild::kill,
                )
            }
            _ => Ok(Self { waiting: Arc::default(), expected: 0, _herd: Box::new(()) }),
        }
    }

    fn start_with<C: Send + Sync + 'static>(
        spawn: fn(&mut Command) -> io::Result<C>,
        wait: fn(&C) -> io::Result<Option<ExitStatus>>,
        kill: fn(&C) -> io::Result<()>,
    ) -> Result<Self> {
        /// Their waits make system calls, and little more.
        const STACK: usize = 128 * 1024;
        let mut herd = Herd { children: Vec::new(), threads: Vec::new(), kill };
        let waiting = Arc::new(AtomicUsize::new(0));
        for _ in 0..WAITERS {
            let child = Arc::new(spawn(&mut long_lived())?);
            herd.children.push(Arc::clone(&child));
            let waiting = Arc::clone(&waiting);
            let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                // However this ends, it must not before the measurement does, which counts.
                let _ = wait(&child);
                waiting.fetch_sub(1, Ordering::Relaxed);
            })?;
            herd.threads.push(thread);
        }
        let waiters = Self { waiting, expected: WAITERS, _herd: Box::new(herd) };
        waiters.until_blocked()?;
        Ok(waiters)
    }

    fn all_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == self.expected
    }

    fn until_blocked(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.all_wait() {
            if Instant::now() > deadline {
                return Err("not all of the waiters have come".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        until_others_sleep()
    }

    /// The CPU time of this process for each of so many other children, in microseconds.
    pub(crate) fn churn(&self, children: usize) -> Result<Vec<f64>> {
        /// For waiters that were woken and are not through yet.
        const SETTLE: Duration = Duration::from_millis(50);
        let start = cpu_time()?;
        for _ in 0..children {
            let status = short_lived().spawn()?.wait()?;
            if !status.success() {
                return Err(format!("a child has failed: {status}").into());
            }
        }
        thread::sleep(SETTLE);
        let spent = cpu_time()? - start;
        if !self.all_wait() {
            return Err("a waiter has left".into());
        }
        Ok(vec![spent.as_secs_f64() * 1e6 / children as f64])
    }
}

/// Children, and the threads that wait for them. Neither outlives this.
struct Herd<C> {
    children: Vec<Arc<C>>,
    threads: Vec<JoinHandle<()>>,
    kill: fn(&C) -> io::Result<()>,
}

impl<C> Drop for Herd<C> {
    fn drop(&mut self) {
        for child in &self.children {
            let _ = (self.kill)(child);
        }
        // Each reaps its child.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// User and system time of all threads of this process, and of no child.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a writable rusage.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and zeroes are valid integers.
    let usage = unsafe { usage.assume_init() };
    let parts = [usage.ru_utime, usage.ru_stime].map(|time| {
        // Neither is ever negative, and their widths differ from system to system.
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default())
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default())
    });
    Ok(parts.iter().sum())
}

/// Raises the limit as far as it goes: 1.1.2 takes two descriptors for each wait.
pub(crate) fn allow_descriptors() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable, and later a readable, rlimit.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
