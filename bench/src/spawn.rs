//! `spawn` and `wait`: what it costs to run a program that does nothing.

use crate::cli::{Effort, Result};
use crate::contender::{Fallback, Handle, Ours, Peer, Who, short_lived};
use crate::report::Row;
use crate::rounds::Rounds;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::Instant;

/// Programs run in a row, before the next contender's turn.
const IN_A_ROW: u32 = 20;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let contenders = [Who::Std, Who::Ours, Who::Fallback, Who::Peer];
    let rounds = Rounds::run(&contenders, effort.pick(15, 200), |who| match who {
        Who::Ours => sample_of::<Ours>(),
        Who::Fallback => sample_of::<Fallback>(),
        Who::Peer => sample_of::<Peer>(),
        _ => sample_of::<Child>(),
    })?;
    Ok(vec![rounds.row("spawn and wait", "µs", Who::Std).bar(1.03)])
}

fn sample_of<H: Handle>() -> Result<Vec<f64>> {
    sample(&mut short_lived(), |command| H::spawn(command)?.wait())
}

/// Microseconds from spawning a program until its handle is dropped, which counts.
pub(crate) fn sample(
    command: &mut Command,
    spawn_and_wait: impl Fn(&mut Command) -> io::Result<ExitStatus>,
) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..IN_A_ROW {
        let status = spawn_and_wait(command)?;
        if !status.success() {
            return Err(format!("{command:?}: {status}").into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e6 / f64::from(IN_A_ROW)])
}
