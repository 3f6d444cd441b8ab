//! The output of a command, by each contender that can capture it.

use super::handle::status;
use super::{Contender, Program, in_runtime, not_offered, runtime};
use process_wrap::{std as wrap, tokio as tokio_wrap};
use shared_child::{CaptureOptions, SpawnOptions, seam::Backend};
use std::io;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;
use subprocess::Redirection;

/// The output to capture.
pub(crate) enum Demand {
    /// Both streams until their end.
    All,
    /// What the command has written by then. Output that is lost is an error.
    Until(Duration),
    /// At most this many bytes of standard output.
    Limit(usize),
    /// Both streams, while the command reads this from standard input.
    Fed(Vec<u8>),
}

/// Captures the output.
pub(crate) fn output(program: Program, contender: Contender, demand: Demand) -> io::Result<Output> {
    match (contender, demand) {
        (Contender::ThisCrate, demand) => {
            let mut capture = CaptureOptions::new();
            match demand {
                Demand::All => &mut capture,
                Demand::Until(timeout) => capture.timeout(timeout),
                Demand::Limit(limit) => capture.limit(limit),
                Demand::Fed(input) => capture.stdin(input),
            };
            let captured = SpawnOptions::new().capture(&mut program.command(), &mut capture)?;
            let status = captured.status.ok_or_else(|| io::Error::other("no status"))?;
            Ok(Output { status, stdout: captured.stdout.bytes, stderr: captured.stderr.bytes })
        }
        (Contender::Fallback, Demand::All) => {
            let (options, command) = (SpawnOptions::new(), &mut program.command());
            Backend::ALL[1].capture(&options, command, &mut CaptureOptions::new())?.try_into()
        }
        (Contender::Std, Demand::All) => program.command().output(),
        (Contender::Duct, Demand::Until(timeout)) => {
            let handle = program.expression().stdout_capture().start()?;
            if let Some(output) = handle.wait_timeout(timeout)? {
                return Ok(output.clone());
            }
            // If the kill closes the pipe, the output is not lost.
            handle.kill()?;
            let output = handle.wait_timeout(Duration::from_millis(200))?;
            output.cloned().ok_or_else(|| io::ErrorKind::TimedOut.into())
        }
        (Contender::Duct, Demand::All) => {
            program.expression().stdout_capture().stderr_capture().run()
        }
        (Contender::Duct, Demand::Fed(input)) => {
            program.expression().stdin_bytes(input).stdout_capture().stderr_capture().run()
        }
        (Contender::Subprocess, Demand::Until(timeout)) => {
            let mut job = program.exec()?.stdout(Redirection::Pipe).start()?;
            let mut stdout = Vec::new();
            // `capture_timeout` would lose the output, as documented; this call keeps it.
            let read = job.communicate()?.limit_time(timeout).read_to(&mut stdout, io::sink());
            job.kill()?;
            match read {
                Err(error) if error.kind() != io::ErrorKind::TimedOut => Err(error),
                _ => Ok(Output { status: ExitStatus::default(), stdout, stderr: Vec::new() }),
            }
        }
        (Contender::Subprocess, Demand::Limit(limit)) => {
            let (stdout, _) = program.exec()?.communicate()?.limit_size(limit).read()?;
            Ok(Output { status: ExitStatus::default(), stdout, stderr: Vec::new() })
        }
        (Contender::Subprocess, demand) => {
            let mut exec = program.exec()?;
            if let Demand::Fed(input) = demand {
                exec = exec.stdin(input);
            }
            let captured = exec.capture()?;
            let status = status(captured.exit_status)?;
            Ok(Output { status, stdout: captured.stdout, stderr: captured.stderr })
        }
        (Contender::ProcessWrap, Demand::All) => {
            let mut command = program.command();
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            wrap::CommandWrap::from(command).spawn()?.wait_with_output()
        }
        (Contender::WrappedOnTokio, Demand::All) => on_tokio(wrapped(program)?, Duration::MAX),
        (Contender::WrappedOnTokio, Demand::Until(timeout)) => on_tokio(wrapped(program)?, timeout),
        (Contender::Tokio, Demand::All) => runtime()?
            .block_on(async { tokio::process::Command::from(program.command()).output().await }),
        (Contender::Tokio, Demand::Until(timeout)) => {
            let mut command = tokio::process::Command::from(program.command());
            on_tokio(async move { command.kill_on_drop(true).output().await }, timeout)
        }
        _ => Err(not_offered()),
    }
}

/// Starts to capture the output. A drop of the future kills the child.
fn wrapped(program: Program) -> io::Result<impl Future<Output = io::Result<Output>> + Send> {
    let mut command = tokio::process::Command::from(program.command());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio_wrap::CommandWrap::from(command);
    command.wrap(tokio_wrap::KillOnDrop).wrap(tokio_wrap::ProcessGroup::leader());
    Ok(Box::into_pin(in_runtime(|| command.spawn())?.wait_with_output()))
}

fn on_tokio(
    output: impl Future<Output = io::Result<Output>>,
    timeout: Duration,
) -> io::Result<Output> {
    runtime()?.block_on(async { tokio::time::timeout(timeout, output).await })?
}
