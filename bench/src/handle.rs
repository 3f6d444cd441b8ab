//! A handle: its bytes, its descriptors, its threads. Those around std's `Child` that add nothing to it are left out.

use crate::allocator;
use crate::cli::Result;
use crate::contender::{Killed, Who, long_lived};
use crate::procfs::{descriptors, threads};
use crate::report::{Compare, Figure, Row};
use crate::run::Run;
use crate::worker::Worker;
use std::thread;
use std::time::Duration;

pub(crate) const KIND: &str = "handle";

const CHILDREN: usize = 100;

const CONTENDERS: [Who; 9] = [
    Who::Std,
    Who::Ours,
    Who::Fallback,
    Who::Peer,
    Who::Duct,
    Who::Subprocess,
    Who::ProcessWrap,
    Who::Tokio,
    Who::AsyncProcess,
];

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    run.show_round(1, 1);
    let mut costs = Vec::new();
    for who in CONTENDERS {
        costs.push((who, Worker::start(KIND, who)?.ask(CHILDREN)?));
    }
    Ok(vec![
        row("a handle, with its heap", "bytes", &costs, 0).bar(128.0),
        row("of that, on the heap", "bytes", &costs, 1),
        row("a live handle", "descriptors", &costs, 2).bar(1.0),
        row("100 live handles", "threads", &costs, 3).bar(0.0),
    ])
}

/// In the worker: bytes of a handle, those of them on its heap, descriptors of each, and the threads of all.
pub(crate) fn cost(who: Who, children: usize) -> Result<Vec<f64>> {
    let running = threads()?;
    let mut spawner = long_lived()?.spawner(who)?;
    // Whatever is set up once and for all, before counting; but threads count, as they stay.
    drop(Killed(spawner()?));
    // Some give back in the background what that one took.
    thread::sleep(Duration::from_millis(100));
    let mut handles = Vec::with_capacity(children);
    let (bytes, open) = (allocator::bytes(), descriptors()?);
    for _ in 0..children {
        handles.push(Killed(spawner()?));
    }
    let each = |after: usize, before: usize| (after - before) as f64 / children as f64;
    // Each handle is in a box of its own, so all of it was counted.
    let all = each(allocator::bytes(), bytes);
    let inline = size_of_val(&*handles.first().ok_or("no handles")?.0) as f64;
    let threads = (threads()? - running) as f64;
    Ok(vec![all, all - inline, each(descriptors()?, open), threads])
}

fn row(name: &str, unit: &'static str, costs: &[(Who, Vec<f64>)], which: usize) -> Row {
    let (reference, first) = &costs[0];
    let figures = costs.iter().map(|(who, cost)| {
        let more = (who != reference).then(|| cost[which] - first[which]);
        Figure::once(*who, cost[which], more)
    });
    Row::new(name, unit, Compare::Difference, *reference, figures.collect())
}
