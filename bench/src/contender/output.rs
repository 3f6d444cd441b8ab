//! All that a command writes, by each who offers that. Standard input is `/dev/null` for all, and standard error is
//! captured too.

use super::asynchronous::runtime;
use super::duct::Duct;
use super::subprocess::{Subprocess, status};
use super::{Program, Who};
use process_control::{ChildExt, Control};
use process_wrap::std::CommandWrap;
use shared_child::seam::Backend;
use shared_child::{CaptureOptions, SpawnOptions};
use std::fs::File;
use std::io;
use std::process::{Command, Output, Stdio};

pub(crate) fn output(mut program: Program, who: Who) -> io::Result<Output> {
    program.stdin = Some(File::open("/dev/null")?);
    let options = SpawnOptions::new();
    match who {
        Who::Ours => {
            options.capture(&mut program.command(), &mut CaptureOptions::new())?.try_into()
        }
        Who::Fallback => {
            let command = &mut program.command();
            Backend::ALL[1].capture(&options, command, &mut CaptureOptions::new())?.try_into()
        }
        Who::Duct => Duct::expression(program).stdout_capture().stderr_capture().run(),
        Who::Subprocess => {
            let captured = Subprocess::exec(&program)?.capture()?;
            let status = status(captured.exit_status)?;
            Ok(Output { status, stdout: captured.stdout, stderr: captured.stderr })
        }
        Who::ProcessWrap => CommandWrap::from(piped(program)).spawn()?.wait_with_output(),
        Who::ProcessControl => {
            let output = piped(program).spawn()?.controlled_with_output().wait()?;
            let output = output.ok_or(io::ErrorKind::TimedOut)?;
            Ok(output.into_std_lossy())
        }
        Who::Tokio => runtime()?
            .block_on(async { tokio::process::Command::from(program.command()).output().await }),
        Who::AsyncProcess => async_io::block_on(program.on_async_io().output()),
        _ => program.command().output(),
    }
}

fn piped(program: Program) -> Command {
    let mut command = program.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
