//! `spawn` and `wait`: what it costs to run a program that does nothing.

use crate::cli::Result;
use crate::contender::{Who, short_lived};
use crate::report::Row;
use crate::run::Run;
use crate::worker::{self, Sampler};
use std::io;
use std::process::ExitStatus;
use std::time::Instant;

pub(crate) const KIND: &str = "spawn";

/// Programs run in a row, before the next contender's turn.
pub(crate) const IN_A_ROW: usize = 20;

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [
        Who::Raw,
        Who::Std,
        Who::Ours,
        Who::Fallback,
        Who::Peer,
        Who::Duct,
        Who::Subprocess,
        Who::ProcessWrap,
        Who::ProcessControl,
        Who::Tokio,
        Who::AsyncProcess,
    ];
    let rounds = worker::rounds(run, KIND, &contenders, run.pick(15, 200), IN_A_ROW)?;
    Ok(vec![rounds.row("spawn and wait", "µs", Who::Std).bar(1.03)])
}

pub(crate) fn sampler(who: Who) -> Result<Sampler> {
    let mut spawner = short_lived().spawner(who)?;
    Ok(Box::new(move |programs| {
        // The handle is dropped in there, which counts.
        in_a_row(programs, || spawner()?.wait())
    }))
}

/// Microseconds for each of so many.
pub(crate) fn in_a_row(
    programs: usize,
    mut spawn_and_wait: impl FnMut() -> io::Result<ExitStatus>,
) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..programs {
        let status = spawn_and_wait()?;
        if !status.success() {
            return Err(format!("a program has failed: {status}").into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e6 / programs as f64])
}
