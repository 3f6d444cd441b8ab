//! `try_wait` on a child that is alive, beside the one system call that it takes.

use crate::cli::Result;
use crate::contender::{Killed, Who, long_lived};
use crate::report::Row;
use crate::run::Run;
use crate::worker::{self, Sampler};
use std::hint::black_box;
use std::time::Instant;

pub(crate) const KIND: &str = "try_wait";

/// Calls in a row, before the next contender's turn.
const IN_A_ROW: usize = 10_000;

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
        Who::Tokio,
        Who::AsyncProcess,
    ];
    let rounds = worker::rounds(run, KIND, &contenders, run.pick(20, 200), IN_A_ROW)?;
    let name = "`try_wait` on a live child";
    Ok(vec![
        rounds.row(name, "ns", Who::Raw).bar(1.3),
        rounds.row(&format!("{name}, beside std's"), "ns", Who::Std),
    ])
}

/// Nanoseconds a call.
pub(crate) fn sampler(who: Who) -> Result<Sampler> {
    let mut child = Killed(long_lived()?.spawn(who)?);
    Ok(Box::new(move |calls| {
        let start = Instant::now();
        for _ in 0..calls {
            if black_box(child.0.try_wait()?.is_some()) {
                return Err("a child that should be alive has exited".into());
            }
        }
        Ok(vec![start.elapsed().as_secs_f64() * 1e9 / calls as f64])
    }))
}
