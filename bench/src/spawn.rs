//! `spawn` and `wait`: what it costs to run a program that does nothing.

use crate::cli::{Effort, Result};
use crate::contender::{Fallback, Handle, Ours, Peer, Who, short_lived};
use crate::report::Row;
use crate::rounds::Rounds;
use std::process::Child;
use std::time::Instant;

/// Programs run in a row, before the next contender's turn.
const IN_A_ROW: u32 = 20;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let contenders = [Who::Std, Who::Ours, Who::Fallback, Who::Peer];
    let rounds = Rounds::run(&contenders, effort.pick(15, 200), |who| match who {
        Who::Ours => sample::<Ours>(),
        Who::Fallback => sample::<Fallback>(),
        Who::Peer => sample::<Peer>(),
        _ => sample::<Child>(),
    })?;
    Ok(vec![rounds.row("spawn and wait", "µs", Who::Std).bar(1.03)])
}

/// Microseconds from spawning a program until its handle is dropped, which counts.
fn sample<H: Handle>() -> Result<Vec<f64>> {
    let mut command = short_lived();
    let start = Instant::now();
    for _ in 0..IN_A_ROW {
        let status = H::spawn(&mut command)?.wait()?;
        if !status.success() {
            return Err(format!("{command:?}: {status}").into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e6 / f64::from(IN_A_ROW)])
}
