//! The latency from a child's last moment until the wait for it returns, in a thread or in a task.
//!
//! The child reports that it is ready, blocks, and when another thread releases it writes the time and exits. That thread
//! releases it once the waiting thread, and any helper thread, is blocked in the kernel. The latency includes the end of
//! a process, which is the same for all contenders.

use super::one_child::MINUTE;
use super::*;
use crate::peers::Program;
use crate::system::{nanoseconds, until_others_sleep};
use std::io::PipeWriter;

/// Samples per round. Each round has a new process, because the layout of its memory matters.
const SAMPLES: usize = 10;
/// The first samples do not count.
const WARM_UP: usize = 2;

/// The main thread waits: Linux delivers SIGCHLD to it first, which is the best case for shared_child 1.1.2. All
/// contenders but std wait with a timeout.
pub(super) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Std, Fallback][..], &Contender::TIMED].concat();
    let sample = |contender| worker::once("wake", contender, WARM_UP, SAMPLES);
    let rounds = Rounds::run(run, &contenders, (0, run.pick(2, 40)), sample)?;
    let name = "wake-up, from a child's last moment until its wait returns";
    Ok(vec![Row { is_latency: true, ..rounds.row(name, "µs", Std).bar(1.1) }])
}

/// All tasks run on tokio with one worker thread, so the contenders differ only in what wakes a task: the runtime's
/// reactor for tokio's children, and a thread of this crate for its own.
pub(super) fn measure_tasks(run: &Run) -> Result<Vec<Row>> {
    let sample = |contender| worker::once("futures", contender, WARM_UP, SAMPLES);
    let rounds = Rounds::run(run, &[Tokio, Futures], (0, run.pick(3, 60)), sample)?;
    let row = rounds.row("wake-up of a task", "µs", Tokio).about(Futures).bar(2.0);
    Ok(vec![Row { is_latency: true, ..row }])
}

/// In the worker: returns latencies in microseconds.
pub(super) fn latencies(contender: Contender, count: usize) -> Result<Vec<f64>> {
    let latency = |_| {
        let (program, stdin, helpers) = held()?;
        // The end of this statement drops the program, and with it the child's ends of the pipes.
        let mut child = program.spawn(contender)?;
        latency(stdin, helpers, || {
            let status = child.wait_at_most(MINUTE)?;
            let woken = nanoseconds();
            status.map(|_| woken).ok_or_else(|| "the wait timed out".into())
        })
    };
    (0..count).map(latency).collect()
}

/// In the worker: returns latencies in microseconds.
pub(super) fn task_latencies(contender: Contender, count: usize) -> Result<Vec<f64>> {
    let runtime = one_worker()?;
    let latency = |_| {
        // These pipes are std's, so the runtime's reactor has no work but the child.
        let (program, stdin, helpers) = held()?;
        let _context = runtime.enter();
        // The end of this statement drops the spawner, and with it the child's ends of the pipes.
        let (_, status) = awaited(contender, program)()?;
        let woken = runtime.spawn(async move { status.await.map(|_| nanoseconds()) });
        latency(stdin, helpers, || Ok(runtime.block_on(woken)??))
    };
    (0..count).map(latency).collect()
}

/// Returns a child with the pipe that holds it, and the pipe from it. A drop of the writer lets the child exit.
fn held() -> io::Result<(Program, PipeWriter, Helpers)> {
    let (input, stdin) = io::pipe()?;
    let helpers = Helpers::new()?;
    Ok((helpers.child(input)?, stdin, helpers))
}

/// Returns the microseconds from the last moment of the child to the time that `wait` returns.
fn latency(
    stdin: PipeWriter,
    mut helpers: Helpers,
    wait: impl FnOnce() -> Result<u64>,
) -> Result<f64> {
    helpers.until_ready(1)?;
    let woken = thread::scope(|scope| {
        let release = scope.spawn(move || {
            let blocked = until_others_sleep().map_err(|error| error.to_string());
            drop(stdin);
            // The end of a thread is work for the kernel, so it must not coincide with the child's exit.
            thread::sleep(Duration::from_millis(4));
            blocked
        });
        let woken = wait();
        release.join().map_err(|_| "the release has failed")??;
        woken
    })?;
    Ok((woken - helpers.number()?) as f64 / 1e3)
}
