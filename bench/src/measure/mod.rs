//! The measurements.

mod capture;
mod one_child;
mod set;
mod trees;
mod waiters;
mod wake;

use crate::cli::Result;
use crate::helpers::{Group, Helpers, Members, become_subreaper, reap_all};
use crate::peers::{Contender, Contender::*, Unit, awaited, long_lived, one_worker, short_lived};
use crate::report::{Compare, Figure, Row};
use crate::rounds::{MIN_ROUNDS, Measure, Rounds, Run};
use crate::system::{allow_descriptors, cpu_time, pid};
use crate::worker::{self, Sampler};
use std::time::{Duration, Instant};
use std::{io, thread};

pub(crate) const ALL: [(&str, Measure); 17] = [
    ("spawn", one_child::measure_spawn),
    ("timed", one_child::measure_timed),
    ("wake", wake::measure),
    ("waiters", waiters::measure),
    ("try_wait", one_child::measure_try_wait),
    ("handle", one_child::measure_handle),
    ("capture", capture::measure),
    ("capture_tasks", capture::measure_tasks),
    ("round_trip", capture::measure_round_trip),
    ("capture_memory", capture::measure_memory),
    ("tree_spawn", one_child::measure_tree),
    ("tree_kill", trees::measure_kill),
    ("many_trees", trees::measure_many),
    ("set", set::measure),
    ("set_memory", set::measure_memory),
    ("futures", wake::measure_tasks),
    // The last one: some contenders leave threads behind in this process.
    ("heap", one_child::measure_heap),
];

/// Returns what a worker of this kind does.
pub(crate) fn sampler(kind: &str, contender: Contender, parameter: usize) -> Result<Sampler> {
    Ok(match kind {
        "spawn" => one_child::spawn_sampler(contender, Unit::Child, false)?,
        "tree_spawn" => one_child::spawn_sampler(contender, Unit::Tree, false)?,
        "timed" => one_child::spawn_sampler(contender, Unit::Child, true)?,
        "try_wait" => one_child::try_wait_sampler(contender)?,
        "handle" => Box::new(move |children| one_child::handle_cost(contender, children)),
        "capture much" => Box::new(move |mib| capture::much(contender, mib)),
        "capture many" => Box::new(move |commands| capture::many(contender, commands)),
        "capture_tasks" => Box::new(move |captures| capture::tasks_cost(contender, captures)),
        "round_trip" => capture::round_trip_sampler(contender)?,
        "wake" => Box::new(move |count| wake::latencies(contender, count)),
        "futures" => Box::new(move |count| wake::task_latencies(contender, count)),
        "waiters" => waiters::sampler(contender, parameter)?,
        "set" => Box::new(move |children| set::cost(contender, children)),
        _ => trees::many_sampler(kind.to_owned(), contender),
    })
}
