//! `spawn` and a wait with a timeout, which is a minute. Beside std, whose wait has none.

use crate::cli::Result;
use crate::contender::{Who, short_lived};
use crate::report::Row;
use crate::run::Run;
use crate::spawn::{IN_A_ROW, in_a_row};
use crate::worker::{self, Sampler};
use std::io;
use std::time::Duration;

pub(crate) const KIND: &str = "timed";

pub(crate) const A_MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Who::Std, Who::Fallback][..], &Who::TIMED].concat();
    let rounds = worker::rounds(run, KIND, &contenders, run.pick(8, 100), IN_A_ROW)?;
    Ok(vec![rounds.row("spawn and wait with a timeout", "µs", Who::Std)])
}

pub(crate) fn sampler(who: Who) -> Result<Sampler> {
    let mut spawner = short_lived().spawner(who)?;
    Ok(Box::new(move |programs| {
        in_a_row(programs, || {
            spawner()?.wait_timeout(A_MINUTE)?.ok_or(io::ErrorKind::TimedOut.into())
        })
    }))
}
