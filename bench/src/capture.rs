//! `Command::output` and a capture, which is the same and bounded: much output of one child, and little of many.

use crate::cli::{Effort, Result};
use crate::contender::{Who, short_lived};
use crate::report::Row;
use crate::rounds::Rounds;
use shared_child::seam::Backend;
use shared_child::{Capture, SpawnOptions};
use std::io;
use std::process::{Command, Output};
use std::time::Instant;

/// Commands run in a row.
const IN_A_ROW: usize = 200;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let contenders = [Who::Std, Who::Ours, Who::Fallback];
    let mib = effort.pick(16, 256);
    let bytes = mib << 20;
    let much = Rounds::run(&contenders, effort.pick(3, 40), |who| {
        let mut command = Command::new("head");
        command.args(["-c", &bytes.to_string(), "/dev/zero"]);
        let start = Instant::now();
        let output = output(who, &mut command)?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        if output.stdout.len() != bytes {
            return Err(format!("{} bytes of {bytes}", output.stdout.len()).into());
        }
        Ok(vec![time])
    })?;
    let many = Rounds::run(&contenders, effort.pick(3, 40), |who| {
        let mut command = short_lived();
        let start = Instant::now();
        for _ in 0..IN_A_ROW {
            if !output(who, &mut command)?.status.success() {
                return Err("a command has failed".into());
            }
        }
        Ok(vec![start.elapsed().as_secs_f64() * 1e3])
    })?;
    Ok(vec![
        much.row(&format!("capture {mib} MiB"), "ms", Who::Std).bar(1.05),
        many.row(&format!("capture {IN_A_ROW} short commands"), "ms", Who::Std).bar(1.05),
    ])
}

fn output(who: Who, command: &mut Command) -> io::Result<Output> {
    let options = SpawnOptions::new();
    match who {
        Who::Ours => options.capture(command, &mut Capture::new())?.try_into(),
        Who::Fallback => {
            Backend::ALL[1].capture(&options, command, &mut Capture::new())?.try_into()
        }
        _ => command.output(),
    }
}
