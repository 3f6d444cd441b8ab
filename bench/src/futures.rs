//! Children that are awaited by tasks: our CPU time for each exit, and the latency of one.
//!
//! Everything is on tokio's executor, in a task for each child, so that what differs is only what wakes them:
//! `tokio::process::Child::wait`, `exited()` as on any executor (the thread that wakes the tasks is this crate's), and
//! `exited()` with the feature `tokio` (the reactor of the runtime does it). The runtime is a
//! multi-threaded one, whose reactor alone serves `exited()`, with a single worker, which is fairest: with more, what is
//! measured is how busy threads are with handing each other work.
//!
//! The CPU time is counted as in [`set`](crate::set): all children end at once. The latency is as in
//! [`wake`](crate::wake), from the child's last moment until the task goes on.

use crate::brood::Brood;
use crate::cli::{Effort, Result};
use crate::contender::Who;
use crate::report::Row;
use crate::rounds::Rounds;
use crate::set;
use crate::waiters::{allow_descriptors, cpu_time};
use crate::wake::{self, nanoseconds};
use crate::worker::Worker;
use shared_child::{SharedChild, seam};
use std::env;
use std::io;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::task::{self, JoinSet};

pub(crate) const CPU: &str = "futures-cpu";
pub(crate) const WAKE: &str = "futures-wake";

/// Go uncounted.
const WARM_UP: usize = 100;

/// Samples of the latency, a round, after some that go uncounted.
const SAMPLES: usize = 10;
const WAKE_WARM_UP: usize = 2;

/// What a way over a thread may cost: as much again as tokio's.
const BAR_OF_THE_THREAD: f64 = 2.0;

/// The same way as tokio's: the rest is what this crate adds.
const BAR_OF_THE_REACTOR: f64 = 1.1;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let contenders = [Who::Tokio, Who::Ours, Who::OnReactor];
    let children = effort.pick(250, 5_000);
    let cpu = Rounds::run(&contenders, effort.pick(2, 12), |who| set::sample(CPU, who, children))?;
    let wake = Rounds::run(&contenders, effort.pick(6, 60), |who| {
        let samples = Worker::start(WAKE, who)?.ask(WAKE_WARM_UP + SAMPLES)?;
        Ok(samples[WAKE_WARM_UP..].to_vec())
    })?;
    let mut rows = Vec::new();
    for (who, how, bar) in [
        (Who::Ours, "on any executor", BAR_OF_THE_THREAD),
        (Who::OnReactor, "on tokio's reactor", BAR_OF_THE_REACTOR),
    ] {
        let name = format!("CPU time an exit of {children} that are awaited, {how}");
        rows.push(cpu.row(&name, "µs", Who::Tokio).of(who).bar(bar));
        let name = format!("wake-up of a task, {how}");
        rows.push(wake.row(&name, "µs", Who::Tokio).of(who).bar(bar).latency());
    }
    Ok(rows)
}

/// In the worker: the CPU time an exit of so many, in microseconds.
pub(crate) fn cpu_times(who: Who, children: usize) -> Result<Vec<f64>> {
    allow_descriptors()?;
    let runtime = runtime_for(who)?;
    exits(&runtime, who, WARM_UP)?;
    let time = exits(&runtime, who, children)?;
    Ok(vec![time.as_secs_f64() * 1e6 / children as f64])
}

fn runtime_for(who: Who) -> io::Result<Runtime> {
    seam::watcher_only(who != Who::OnReactor);
    runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()
}

/// The CPU time from when the children begin to exit until all tasks have told the status.
fn exits(runtime: &Runtime, who: Who, children: usize) -> Result<Duration> {
    let mut brood = Brood::new()?;
    let mut tasks = Tasks::default();
    {
        let _context = runtime.enter();
        if who == Who::Tokio {
            let mut command = tokio::process::Command::from(brood.command()?);
            for _ in 0..children {
                let mut child = command.spawn()?;
                tasks.spawn(async move { child.wait().await });
            }
        } else {
            let mut command = brood.command()?;
            for _ in 0..children {
                let child = SharedChild::spawn(&mut command)?;
                tasks.spawn(async move { child.exited().await });
            }
        }
    }
    brood.until_there(children)?;
    runtime.block_on(tasks.until_waiting());
    let start = cpu_time()?;
    brood.release();
    // On the worker as well, or it would wake this thread for each.
    runtime.block_on(runtime.spawn(tasks.until_done()))??;
    Ok(cpu_time()? - start)
}

/// A task for each child.
#[derive(Default)]
struct Tasks {
    all: JoinSet<io::Result<ExitStatus>>,
    polled: Arc<AtomicUsize>,
}

impl Tasks {
    fn spawn(&mut self, exit: impl Future<Output = io::Result<ExitStatus>> + Send + 'static) {
        let polled = Arc::clone(&self.polled);
        self.all.spawn(async move {
            polled.fetch_add(1, Ordering::Relaxed);
            exit.await
        });
    }

    /// Returns when all have been polled: so each waits, but for the last perhaps, which is about to.
    async fn until_waiting(&self) {
        while self.polled.load(Ordering::Relaxed) < self.all.len() {
            task::yield_now().await;
        }
    }

    async fn until_done(mut self) -> io::Result<()> {
        while let Some(status) = self.all.join_next().await {
            let status = status.map_err(io::Error::other)??;
            if !status.success() {
                return Err(io::Error::other(format!("a child has failed: {status}")));
            }
        }
        Ok(())
    }
}

/// In the worker: latencies in microseconds.
pub(crate) fn latencies(who: Who, count: usize) -> Result<Vec<f64>> {
    let runtime = runtime_for(who)?;
    (0..count).map(|_| latency(&runtime, who)).collect()
}

fn latency(runtime: &Runtime, who: Who) -> Result<f64> {
    // std's pipes, and not the runtime's, whose reactor has nothing but the child to care for. Should anything fail,
    // the child ends as they are dropped.
    let (input, stdin) = io::pipe()?;
    let (stdout, output) = io::pipe()?;
    let mut command = Command::new(env::current_exe()?);
    command.arg(wake::CHILD).stdin(input).stdout(output);
    let _context = runtime.enter();
    let woken = if who == Who::Tokio {
        let mut child = tokio::process::Command::from(command).spawn()?;
        runtime.spawn(async move { child.wait().await.map(|_| nanoseconds()) })
    } else {
        let child = SharedChild::spawn(&mut command)?;
        // With it go our copies of the child's ends.
        drop(command);
        runtime.spawn(async move { child.exited().await.map(|_| nanoseconds()) })
    };
    wake::latency(stdin, stdout, || Ok(runtime.block_on(woken)??))
}
