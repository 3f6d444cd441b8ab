//! A set: our CPU time for each exit.
//!
//! The children all end at once, which is the hard case: nothing is spent on going to sleep and waking up again that
//! could hide the rest, and who takes many exits from the kernel in one call is at an advantage. Counted is the CPU
//! time of all threads of the process that waits, from the moment in which the children are told to end until the last
//! was handed out and dropped. Neither spawns are in it nor the work of the dying, which is their own.
//!
//! Each sample is taken in a process of its own, after a few children that go uncounted.

use crate::brood::Brood;
use crate::cli::{Effort, Result};
use crate::contender::Who;
use crate::futures;
use crate::report::Row;
use crate::rounds::Rounds;
use crate::waiters::{allow_descriptors, cpu_time};
use crate::worker::{self, Worker};
use shared_child::{ChildSet, SharedChild};
use std::io;
use std::process::Command;
use std::time::Duration;

pub(crate) const KIND: &str = "set";

/// A small set.
const FEW: usize = 100;

/// How many children small sets have, all together, in a sample.
const IN_SMALL_SETS: usize = 2000;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let rounds = effort.pick(2, 12);

    // What an exit costs must not grow with the set. The bar leaves room for caches, which 10,000 children do not fit.
    let many = effort.pick(250, 10_000);
    let growth = Rounds::run(&[Who::Few, Who::Ours], rounds, |who| {
        let children = if who == Who::Few { effort.pick(2 * FEW, IN_SMALL_SETS) } else { many };
        sample(KIND, who, children)
    })?;
    let name = format!("CPU time an exit in a set of {many}");

    // The peer is a runtime in which as many tasks await a child each, and a `JoinSet` of them, which hands them out as
    // they end. The bar: not above it.
    let children = effort.pick(250, 5_000);
    let peer = Rounds::run(&[Who::Tokio, Who::Ours], rounds, |who| sample(KIND, who, children))?;
    let beside = format!("CPU time an exit in a set of {children}, beside tasks");
    Ok(vec![
        growth.row(&name, "µs", Who::Few).bar(1.5),
        peer.row(&beside, "µs", Who::Tokio).bar(1.0),
    ])
}

/// One sample, by a worker of its own.
pub(crate) fn sample(kind: &str, who: Who, children: usize) -> Result<Vec<f64>> {
    // Thousands of children take a while: the limit is for each sample.
    worker::limit_time();
    Worker::start(kind, who)?.ask(children)
}

/// In the worker: the CPU time an exit of so many, in microseconds.
pub(crate) fn samples(who: Who, children: usize) -> Result<Vec<f64>> {
    allow_descriptors()?;
    let time = match who {
        Who::Tokio => return futures::cpu_times(who, children),
        Who::Few => {
            exits(FEW)?;
            (0..children / FEW).map(|_| exits(FEW)).sum::<Result<Duration>>()?
        }
        _ => {
            exits(FEW)?;
            exits(children)?
        }
    };
    Ok(vec![time.as_secs_f64() * 1e6 / children as f64])
}

/// The CPU time for the exits of a whole set.
pub(crate) fn exits(children: usize) -> Result<Duration> {
    let mut brood = Brood::new()?;
    let set = filled(&mut brood.command()?, children)?;
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
