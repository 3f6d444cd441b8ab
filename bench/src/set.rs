//! Many children at once, as they exit: our CPU time for each.
//!
//! The children all end at once, which is the hard case: nothing is spent on going to sleep and waking up again that
//! could hide the rest, and who takes many exits from the kernel in one call is at an advantage. Counted is the CPU
//! time of all threads of the process that waits, from the moment in which the children are told to end until the last
//! was handed out and dropped. Neither spawns are in it nor the work of the dying, which is their own.
//!
//! Each sample is taken in a process of its own, after a few children that go uncounted.
//!
//! `this crate` is a set here. Beside it are tasks that await a child each: this crate's [futures](crate::futures),
//! tokio's and async-process'.

use crate::brood::Brood;
use crate::cli::Result;
use crate::contender::Who;
use crate::procfs::{allow_descriptors, cpu_time};
use crate::report::Row;
use crate::rounds::{ENOUGH, Rounds};
use crate::run::Run;
use crate::worker::Worker;
use crate::{futures, raw_set};
use shared_child::{ChildSet, SharedChild};
use std::io;
use std::process::Command;
use std::time::Duration;

pub(crate) const KIND: &str = "set";

/// A small set.
const FEW: usize = 100;

/// How many children small sets have, all together, in a sample.
const IN_SMALL_SETS: usize = 2000;

/// Go uncounted.
const WARM_UP: usize = 100;

/// A set of 10,000 beside sets of 100: what an exit costs must not grow. This leaves room for caches, which 10,000
/// children do not fit.
const BAR_OF_GROWTH: f64 = 1.5;

/// A set beside tokio's tasks, and a `JoinSet` of them, which hands them out as they end.
const BAR_OF_THE_SET: f64 = 1.0;

/// What a way over a thread may cost: as much again as tokio's.
pub(crate) const BAR_OF_THE_THREAD: f64 = 2.0;

const CONTENDERS: [Who; 5] = [Who::Raw, Who::Ours, Who::Futures, Who::Tokio, Who::AsyncProcess];

/// A curve, and the rows with bars: from the same samples.
pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    // So many children, in so many rounds; where the set is held against tokio, and where it must not have grown.
    let few = (FEW, run.pick(1, 30));
    let some = (run.pick(150, 1_000), run.pick(1, 12));
    let many = (run.pick(250, 5_000), run.pick(1, 12));
    let most = (run.pick(500, 10_000), run.pick(1, ENOUGH));
    let mut rows = Vec::new();
    for (children, rounds) in [few, some, many, most] {
        let mut contenders = CONTENDERS.to_vec();
        if children == most.0 {
            contenders.push(Who::Few);
        }
        let rounds = Rounds::cold(run, &contenders, rounds, |who| {
            let children = if who == Who::Few { run.pick(FEW, IN_SMALL_SETS) } else { children };
            Worker::start(KIND, who)?.ask(children)
        })?;
        let name = format!("CPU time an exit of {children} at once");
        let row = |reference| rounds.row(&name, "µs", reference);
        rows.push(row(Who::Tokio).only(&CONTENDERS).at(children));
        if children == many.0 {
            for (who, how, bar) in [
                (Who::Ours, "in a set, beside tasks", BAR_OF_THE_SET),
                (Who::Futures, "awaited on any executor", BAR_OF_THE_THREAD),
            ] {
                rows.push(row(Who::Tokio).called(how).of(who).bar(bar));
            }
        }
        if children == most.0 {
            let growth = row(Who::Few).called("in a set").of(Who::Ours);
            rows.push(growth.bar(BAR_OF_GROWTH));
        }
    }
    Ok(rows)
}

/// In the worker: the CPU time an exit of so many, in microseconds.
pub(crate) fn samples(who: Who, children: usize) -> Result<Vec<f64>> {
    allow_descriptors()?;
    let time = match who {
        Who::Few => {
            exits(FEW)?;
            (0..children / FEW).map(|_| exits(FEW)).sum::<Result<Duration>>()?
        }
        Who::Ours => {
            exits(WARM_UP)?;
            exits(children)?
        }
        Who::Raw => {
            raw_set::exits(WARM_UP)?;
            raw_set::exits(children)?
        }
        _ => {
            let runtime = futures::single_worker()?;
            futures::exits(&runtime, who, WARM_UP)?;
            futures::exits(&runtime, who, children)?
        }
    };
    Ok(vec![time.as_secs_f64() * 1e6 / children as f64])
}

/// The CPU time for the exits of a whole set.
pub(crate) fn exits(children: usize) -> Result<Duration> {
    let mut brood = Brood::new()?;
    let set = filled(&mut brood.program()?.command(), children)?;
    brood.until_there(children)?;
    let start = cpu_time()?;
    brood.release();
    hand_out(&set)?;
    Ok(cpu_time()? - start)
}

pub(crate) fn filled(command: &mut Command, children: usize) -> io::Result<ChildSet<usize>> {
    let set = ChildSet::new();
    for key in 0..children {
        set.insert(key, SharedChild::spawn(command)?);
    }
    Ok(set)
}

pub(crate) fn hand_out(set: &ChildSet<usize>) -> Result<()> {
    while let Some(finished) = set.wait_next() {
        let status = finished.status?;
        if !status.success() {
            return Err(format!("a child has failed: {status}").into());
        }
    }
    Ok(())
}
