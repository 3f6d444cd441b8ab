//! Children that are awaited by tasks: the latency of one, and what [`set`](crate::set) needs for the cost of many.
//!
//! Everything is on tokio's executor, in a task for each child, so that what differs is only what wakes them:
//! `tokio::process::Child::wait`, `async_process::Child::status` (a thread of async-io's does), `wait_async()` as on any
//! executor (a thread of this crate's does), and `wait_async()` with the feature `tokio` (the reactor of the runtime does).
//! The runtime is a multi-threaded one, whose reactor alone serves `wait_async()`, with a single worker, which is fairest:
//! with more, what is measured is how busy threads are with handing each other work.
//!
//! The latency is as in [`wake`](crate::wake), from the child's last moment until the task goes on.

use crate::brood::Brood;
use crate::cli::Result;
use crate::contender::{Program, Who};
use crate::procfs::cpu_time;
use crate::report::Row;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::set::BAR_OF_THE_THREAD;
use crate::wake::{self, SAMPLES, WARM_UP, nanoseconds};
use crate::worker::Worker;
use shared_child::SharedChild;
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::task::{self, JoinSet};

pub(crate) const WAKE: &str = "futures";

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [Who::Tokio, Who::Futures, Who::AsyncProcess];
    let wake = Rounds::cold(run, &contenders, run.pick(3, 60), |who| {
        let samples = Worker::start(WAKE, who)?.ask(WARM_UP + SAMPLES)?;
        Ok(samples[WARM_UP..].to_vec())
    })?;
    let row = || wake.row("wake-up of a task", "µs", Who::Tokio).latency();
    let mut rows = vec![row().about(Who::Futures)];
    rows.push(row().called("on any executor").of(Who::Futures).bar(BAR_OF_THE_THREAD));
    Ok(rows)
}

pub(crate) fn single_worker() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()
}

/// Of the child with this process ID.
pub(crate) struct Exit {
    pub(crate) id: u32,
    pub(crate) status: Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>,
}

/// Each call spawns one more, whose exit is to be awaited. To be called in the context of the runtime.
pub(crate) fn awaited(who: Who, program: Program) -> Box<dyn FnMut() -> io::Result<Exit>> {
    match who {
        Who::Tokio => {
            let mut command = tokio::process::Command::from(program.command());
            Box::new(move || {
                let mut child = command.spawn()?;
                let id = child.id().ok_or_else(|| io::Error::other("no process ID"))?;
                Ok(Exit { id, status: Box::pin(async move { child.wait().await }) })
            })
        }
        Who::AsyncProcess => {
            let mut command = program.on_async_io();
            Box::new(move || {
                let mut child = command.spawn()?;
                Ok(Exit { id: child.id(), status: Box::pin(async move { child.status().await }) })
            })
        }
        _ => {
            let mut command = program.command();
            Box::new(move || {
                let child = SharedChild::spawn(&mut command)?;
                Ok(Exit {
                    id: child.id(),
                    status: Box::pin(async move { child.wait_async().await }),
                })
            })
        }
    }
}

/// The CPU time from when the children begin to exit until all tasks have told the status.
pub(crate) fn exits(runtime: &Runtime, who: Who, children: usize) -> Result<Duration> {
    let mut brood = Brood::new()?;
    let mut tasks = Tasks::default();
    {
        let _context = runtime.enter();
        let mut spawn = awaited(who, brood.program()?);
        for _ in 0..children {
            tasks.spawn(spawn()?);
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
    fn spawn(&mut self, exit: Exit) {
        let polled = Arc::clone(&self.polled);
        self.all.spawn(async move {
            polled.fetch_add(1, Ordering::Relaxed);
            exit.status.await
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
    let runtime = single_worker()?;
    (0..count).map(|_| latency(&runtime, who)).collect()
}

fn latency(runtime: &Runtime, who: Who) -> Result<f64> {
    // std's pipes, and not the runtime's, whose reactor has nothing but the child to care for.
    let (program, stdin, stdout) = wake::held()?;
    let _context = runtime.enter();
    // With the spawner go our copies of the child's ends.
    let exit = awaited(who, program)()?;
    let woken = runtime.spawn(async move { exit.status.await.map(|_| nanoseconds()) });
    wake::latency(stdin, stdout, || Ok(runtime.block_on(woken)??))
}
