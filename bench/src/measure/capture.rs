//! Captures: in a row, many at once, a conversation with a child, and the memory of an open one.

use super::one_child::{heap_bytes, in_a_row};
use super::*;
use crate::peers::{Demand, Program, output};
use crate::system::{count, until_ready};
use rustix::event::PollFlags;
use shared_child::{Capture, CaptureOptions, SpawnOptions, Until};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use tokio::task::JoinSet;

pub(super) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [Std, ThisCrate, Fallback, Duct, Subprocess, ProcessWrap, Tokio];
    let (mib, commands, rounds) = (run.pick(16, 256), run.pick(20, 200), run.pick(2, 40));
    let much = worker::rounds(run, "capture much", &contenders, rounds, mib)?;
    let many = worker::rounds(run, "capture many", &contenders, rounds, commands)?;
    Ok(vec![
        much.row(&format!("capture {mib} MiB"), "ms", Std).bar(1.05),
        many.row(&format!("capture {commands} short commands"), "ms", Std).bar(1.05),
    ])
}

/// In the worker: captures this many mebibytes from one command, and returns milliseconds.
pub(super) fn much(contender: Contender, mib: usize) -> Result<Vec<f64>> {
    let bytes = mib << 20;
    let start = Instant::now();
    let output = output(zeroes(bytes), contender, Demand::All)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    if output.stdout.len() == bytes { Ok(vec![time]) } else { Err("output is missing".into()) }
}

/// Returns a program that writes this many bytes.
fn zeroes(bytes: usize) -> Program {
    Program::new(["/usr/bin/head", "-c", &bytes.to_string(), "/dev/zero"])
}

/// In the worker: captures the output of this many commands in a row, and returns milliseconds.
pub(super) fn many(contender: Contender, commands: usize) -> Result<Vec<f64>> {
    let capture = || Ok(output(short_lived(), contender, Demand::All)?.status);
    Ok(in_a_row(commands, capture)?.into_iter().map(|each| each * commands as f64 / 1e3).collect())
}

/// Measures captures in tasks, all at once, on tokio with one worker thread: this process's CPU time, and threads.
pub(super) fn measure_tasks(run: &Run) -> Result<Vec<Row>> {
    let captures = run.pick(100, 1_000);
    let mut threads = 0.0_f64;
    let rounds = Rounds::run(run, &[Tokio, Futures], (0, run.pick(2, 30)), |contender| {
        let cost = worker::once("capture_tasks", contender, 0, captures)?;
        if contender == Futures {
            threads = threads.max(cost[1]);
        }
        Ok(vec![cost[0]])
    })?;
    let name = format!("CPU time a capture of 64 KiB, {captures} at once");
    Ok(vec![
        rounds.row(&name, "µs", Tokio).about(Futures).bar(1.1),
        Row::once("the same, of this crate", "threads", Futures, threads).bar(2.0),
    ])
}

/// In the worker: returns the CPU time per capture, in microseconds, and the threads of the library.
pub(super) fn tasks_cost(contender: Contender, captures: usize) -> Result<Vec<f64>> {
    allow_descriptors()?;
    let runtime = one_worker()?;
    let before = count("/proc/self/task")?;
    let capture = |captures: usize| {
        let mut tasks = JoinSet::new();
        for _ in 0..captures {
            tasks.spawn_on(capture_in_task(contender), runtime.handle());
        }
        // It runs on the worker thread: on this thread each capture would be a wake-up between threads.
        runtime.block_on(runtime.spawn(tasks.join_all()))
    };
    // The first captures do not count.
    capture(10)?;
    let start = cpu_time();
    for bytes in capture(captures)? {
        if bytes? != 1 << 16 {
            return Err("output is missing".into());
        }
    }
    let time = (cpu_time() - start).as_secs_f64() * 1e6 / captures as f64;
    // Threads of a library stay for a second after their last task.
    Ok(vec![time, (count("/proc/self/task")? - before) as f64])
}

async fn capture_in_task(contender: Contender) -> io::Result<usize> {
    let mut command = zeroes(1 << 16).command();
    if contender == Tokio {
        let mut command = tokio::process::Command::from(command);
        return Ok(command.stdin(Stdio::null()).output().await?.stdout.len());
    }
    let mut options = CaptureOptions::new();
    let captured = SpawnOptions::new().capture_async(&mut command, &mut options).await?;
    Ok(captured.stdout.bytes.len())
}

const LINE: &[u8] = b"a line of a conversation\n";

/// Measures a line to a child that returns it.
pub(super) fn measure_round_trip(run: &Run) -> Result<Vec<Row>> {
    let rounds = run.pick(10, 200);
    let rounds = worker::rounds(run, "round_trip", &[Raw, ThisCrate], rounds, run.pick(50, 500))?;
    Ok(vec![rounds.row("round trip of a line through `cat`", "µs", Raw).bar(1.25)])
}

/// The sampler returns microseconds per round trip.
pub(super) fn round_trip_sampler(contender: Contender) -> Result<Sampler> {
    let mut round_trip: Box<dyn FnMut() -> Result<()>> = if contender == ThisCrate {
        let capture = conversation(&mut CaptureOptions::new())?;
        Box::new(move || converse(&capture))
    } else {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut stdin, mut stdout) = pipes.ok_or("no pipes")?;
        let mut line = [0; 4096];
        Box::new(move || {
            stdin.write_all(LINE)?;
            until_ready(&stdout, PollFlags::IN)?;
            let count = stdout.read(&mut line)?;
            returned(&line[..count])
        })
    };
    Ok(Box::new(move |count| {
        let start = Instant::now();
        for _ in 0..count {
            round_trip()?;
        }
        Ok(vec![start.elapsed().as_secs_f64() * 1e6 / count as f64])
    }))
}

fn conversation(options: &mut CaptureOptions<'static>) -> io::Result<Capture<'static>> {
    SpawnOptions::new()
        .kill_on_drop(true)
        .begin_capture(&mut Command::new("cat"), options.stdin_open())
}

fn converse(capture: &Capture<'_>) -> Result<()> {
    capture.write(LINE)?;
    returned(&capture.read(Until::line()).stdout.bytes)
}

fn returned(bytes: &[u8]) -> Result<()> {
    if bytes == LINE { Ok(()) } else { Err("the line was not returned".into()) }
}

/// Measures the heap of captures that are open and idle, with the handles of their children. Each has had a conversation,
/// and keeps at most a mebibyte of output.
pub(super) fn measure_memory(run: &Run) -> Result<Vec<Row>> {
    // A capture holds six descriptors.
    let most = allow_descriptors()? / 7;
    let mut rows = Vec::new();
    for captures in run.pick([50, 100], [1_000, most.min(10_000)]) {
        let mut open = Vec::with_capacity(captures);
        let before = heap_bytes();
        for _ in 0..captures {
            let capture = conversation(CaptureOptions::new().limit(1 << 20))?;
            converse(&capture)?;
            open.push(capture);
        }
        let heap = (heap_bytes() - before) as f64 / captures as f64;
        let name = format!("heap of an open idle capture, one of {captures}");
        rows.push(Row::once(&name, "bytes", ThisCrate, heap).bar(8192.0));
    }
    Ok(rows)
}
