//! The exits of many children at once: the CPU time per exit, and the memory of a set.
//!
//! The figure is the CPU time of all threads of the waiting process, from the release of the children until the last one
//! was returned and dropped. It includes neither spawns nor the work of the exiting children. `this crate` is a set here;
//! the others are tasks that await one child each.

use super::one_child::heap_bytes;
use super::*;
use shared_child::{ChildSet, SharedChild};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Runtime;
use tokio::task::{self, JoinSet};

/// The children of a small set.
const FEW: usize = 100;

pub(super) fn measure(run: &Run) -> Result<Vec<Row>> {
    let all = [ThisCrate, Futures, Tokio];
    // The children and the rounds of each point of the curve.
    let (some, many, most) = run.pick((150, 250, 500), (1_000, 5_000, 10_000));
    let rounds = run.pick([1; 4], [30, 12, 12, MIN_ROUNDS]);
    let mut rows = Vec::new();
    for (children, rounds) in [FEW, some, many, most].into_iter().zip(rounds) {
        let contenders = [&all[..], if children == most { &[SmallSets] } else { &[] }].concat();
        let sample = |contender| worker::once("set", contender, 0, children);
        let rounds = Rounds::run(run, &contenders, (0, rounds), sample)?;
        let name = format!("CPU time an exit of {children} at once");
        rows.push(Row { at: Some(children), ..rounds.row(&name, "µs", Tokio).only(&all) });
        let mut with_bar = |how, contender, reference, bar| {
            let row = rounds.row(&format!("{name}, {how}"), "µs", reference);
            rows.push(row.only(&[contender, reference]).about(contender).bar(bar));
        };
        if children == many {
            with_bar("in a set, beside tasks", ThisCrate, Tokio, 1.0);
            with_bar("awaited on any executor", Futures, Tokio, 1.0);
        }
        if children == most {
            // The bar leaves room for caches, which 10,000 children exceed.
            with_bar("in a set", ThisCrate, SmallSets, 1.5);
        }
    }
    Ok(rows)
}

/// Measures the heap of a set while its children run, with the handles in it.
pub(super) fn measure_memory(run: &Run) -> Result<Vec<Row>> {
    let children: usize = run.pick(250, 10_000);
    allow_descriptors()?;
    // The first child makes the library allocate what it needs once per process.
    exits_of_set(1)?;
    let mut members = Members::new()?;
    let mut command = members.program()?.command();
    let before = heap_bytes();
    let set = filled(&mut command, children)?;
    let heap = (heap_bytes() - before) as f64 / 1e3;
    members.release();
    drain(&set)?;
    let name = format!("heap of a set of {children}, handles included");
    Ok(vec![Row::once(&name, "kB", ThisCrate, heap).bar(0.3 * children as f64)])
}

/// In the worker: returns the CPU time per exit, in microseconds.
pub(super) fn cost(contender: Contender, children: usize) -> Result<Vec<f64>> {
    allow_descriptors()?;
    let runtime = one_worker()?;
    let exits = |children| match contender {
        ThisCrate | SmallSets => exits_of_set(children),
        _ => exits_of_tasks(&runtime, contender, children),
    };
    // The first children do not count.
    exits(FEW)?;
    let (sets, size) = match contender {
        SmallSets => (children.min(2000) / FEW, FEW),
        _ => (1, children),
    };
    let time = (0..sets).map(|_| exits(size)).sum::<Result<Duration>>()?;
    Ok(vec![time.as_secs_f64() * 1e6 / (sets * size) as f64])
}

fn exits_of_set(children: usize) -> Result<Duration> {
    let mut members = Members::new()?;
    let set = filled(&mut members.program()?.command(), children)?;
    members.helpers.until_ready(children)?;
    let start = cpu_time();
    members.release();
    drain(&set)?;
    Ok(cpu_time() - start)
}

fn filled(command: &mut Command, children: usize) -> io::Result<ChildSet<usize>> {
    let set = ChildSet::new();
    for key in 0..children {
        set.insert(key, SharedChild::spawn(command)?);
    }
    Ok(set)
}

fn drain(set: &ChildSet<usize>) -> io::Result<()> {
    while let Some(finished) = set.wait_next() {
        successful(finished.status?)?;
    }
    Ok(())
}

fn successful(status: ExitStatus) -> io::Result<()> {
    let failure = || io::Error::other(format!("a child has failed: {status}"));
    if status.success() { Ok(()) } else { Err(failure()) }
}

fn exits_of_tasks(runtime: &Runtime, contender: Contender, children: usize) -> Result<Duration> {
    let mut members = Members::new()?;
    let mut tasks = JoinSet::new();
    let polled = Arc::new(AtomicUsize::new(0));
    {
        let _context = runtime.enter();
        let mut spawn = awaited(contender, members.program()?);
        for _ in 0..children {
            let ((_, status), polled) = (spawn()?, Arc::clone(&polled));
            tasks.spawn(async move {
                polled.fetch_add(1, Ordering::Relaxed);
                status.await
            });
        }
    }
    members.helpers.until_ready(children)?;
    runtime.block_on(async {
        while polled.load(Ordering::Relaxed) < children {
            task::yield_now().await;
        }
    });
    let start = cpu_time();
    members.release();
    let join = async move {
        while let Some(status) = tasks.join_next().await {
            successful(status.map_err(io::Error::other)??)?;
        }
        Ok::<_, io::Error>(())
    };
    // It runs on the worker thread: on this thread each exit would be a wake-up between threads.
    runtime.block_on(runtime.spawn(join))??;
    Ok(cpu_time() - start)
}
