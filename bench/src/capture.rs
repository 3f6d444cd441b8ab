//! `Command::output` and what captures otherwise: much output of one child, and little of many.

use crate::cli::Result;
use crate::contender::{Program, Who, output, short_lived};
use crate::report::Row;
use crate::run::Run;
use crate::worker;
use std::time::Instant;

pub(crate) const MUCH: &str = "capture-much";
pub(crate) const MANY: &str = "capture-many";

const CONTENDERS: [Who; 9] = [
    Who::Std,
    Who::Ours,
    Who::Fallback,
    Who::Duct,
    Who::Subprocess,
    Who::ProcessWrap,
    Who::ProcessControl,
    Who::Tokio,
    Who::AsyncProcess,
];

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let mib = run.pick(16, 256);
    let commands = run.pick(20, 200);
    let rounds = run.pick(2, 40);
    let much = worker::rounds(run, MUCH, &CONTENDERS, rounds, mib)?;
    let many = worker::rounds(run, MANY, &CONTENDERS, rounds, commands)?;
    Ok(vec![
        much.row(&format!("capture {mib} MiB"), "ms", Who::Std).bar(1.05),
        many.row(&format!("capture {commands} short commands"), "ms", Who::Std).bar(1.05),
    ])
}

/// In the worker: so many mebibytes of one command, in milliseconds.
pub(crate) fn much(who: Who, mib: usize) -> Result<Vec<f64>> {
    let bytes = mib << 20;
    let program = Program::new("/usr/bin/head").arg("-c").arg(bytes.to_string()).arg("/dev/zero");
    let start = Instant::now();
    let output = output(program, who)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    if output.stdout.len() != bytes {
        return Err(format!("{} bytes of {bytes}", output.stdout.len()).into());
    }
    Ok(vec![time])
}

/// In the worker: so many commands in a row, in milliseconds.
pub(crate) fn many(who: Who, commands: usize) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..commands {
        if !output(short_lived(), who)?.status.success() {
            return Err("a command has failed".into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e3])
}
