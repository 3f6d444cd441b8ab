//! The contenders whose calls are futures, each on the runtime that it was made for.

use super::contender::{
    AllOutput, Apart, Contender, OutputTimeout, Tree, WaitTimeout, command, timed_out,
};
use crate::contender::timed_out as by;
use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
});

pub(crate) struct Tokio;

/// With a process group, on tokio.
pub(crate) struct ProcessWrap;

pub(crate) struct AsyncProcess;

/// A wait of tokio's that has not ended by then is `None`.
fn wait_on_tokio(
    limit: Duration,
    wait: impl Future<Output = io::Result<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    RUNTIME.block_on(async { timeout(limit, wait).await.ok().transpose() })
}

fn output_on_tokio(
    limit: Duration,
    output: impl Future<Output = io::Result<Output>>,
) -> io::Result<Vec<u8>> {
    let output = RUNTIME.block_on(async { timeout(limit, output).await });
    Ok(output.map_err(|_| timed_out())??.stdout)
}

impl Contender for Tokio {
    type Handle = tokio::process::Child;

    fn spawn(argv: &[&str]) -> io::Result<Self::Handle> {
        let _entered = RUNTIME.enter();
        tokio::process::Command::from(command(argv)).spawn()
    }

    fn id(child: &Self::Handle) -> u32 {
        child.id().unwrap_or_default()
    }

    fn kill(child: &mut Self::Handle) -> io::Result<()> {
        child.start_kill()
    }

    fn wait(child: &mut Self::Handle) -> io::Result<ExitStatus> {
        RUNTIME.block_on(child.wait())
    }

    const WAIT_TIMEOUT: Option<WaitTimeout<Self::Handle>> =
        Some(|child, limit| wait_on_tokio(limit, child.wait()));

    const OUTPUT: Option<AllOutput> = Some(|argv| {
        let mut command = tokio::process::Command::from(command(argv));
        RUNTIME.block_on(async { command.output().await }).map(|output| output.stdout)
    });

    const OUTPUT_TIMEOUT: Option<OutputTimeout> = Some(|argv, limit| {
        let _entered = RUNTIME.enter();
        let mut command = tokio::process::Command::from(command(argv));
        output_on_tokio(limit, command.kill_on_drop(true).output())
    });
}

impl Contender for ProcessWrap {
    type Handle = Box<dyn ChildWrapper>;

    fn spawn(argv: &[&str]) -> io::Result<Self::Handle> {
        let _entered = RUNTIME.enter();
        CommandWrap::from(tokio::process::Command::from(command(argv)))
            .wrap(ProcessGroup::leader())
            .spawn()
    }

    fn id(child: &Self::Handle) -> u32 {
        child.id().unwrap_or_default()
    }

    fn kill(child: &mut Self::Handle) -> io::Result<()> {
        child.start_kill()
    }

    fn wait(child: &mut Self::Handle) -> io::Result<ExitStatus> {
        RUNTIME.block_on(child.wait())
    }

    const WAIT_TIMEOUT: Option<WaitTimeout<Self::Handle>> =
        Some(|child, limit| wait_on_tokio(limit, child.wait()));

    const TREE: Option<Tree<Self::Handle>> = Some(Tree { spawn: Self::spawn, kill: Self::kill });

    const OUTPUT: Option<AllOutput> = Some(|argv| {
        let output = wrapped_output(argv)?;
        RUNTIME.block_on(output).map(|output| output.stdout)
    });

    const OUTPUT_TIMEOUT: Option<OutputTimeout> =
        Some(|argv, limit| output_on_tokio(limit, wrapped_output(argv)?));
}

type OutputFuture = Pin<Box<dyn Future<Output = io::Result<Output>> + Send>>;

fn wrapped_output(argv: &[&str]) -> io::Result<OutputFuture> {
    let _entered = RUNTIME.enter();
    let mut command = tokio::process::Command::from(command(argv));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut wrapped = CommandWrap::from(command);
    let child = wrapped.wrap(KillOnDrop).wrap(ProcessGroup::leader()).spawn()?;
    Ok(Box::into_pin(child.wait_with_output()))
}

impl Contender for AsyncProcess {
    type Handle = async_process::Child;

    fn spawn(argv: &[&str]) -> io::Result<Self::Handle> {
        async_process::Command::from(command(argv)).spawn()
    }

    fn id(child: &Self::Handle) -> u32 {
        child.id()
    }

    fn kill(child: &mut Self::Handle) -> io::Result<()> {
        child.kill()
    }

    fn wait(child: &mut Self::Handle) -> io::Result<ExitStatus> {
        async_io::block_on(child.status())
    }

    const WAIT_TIMEOUT: Option<WaitTimeout<Self::Handle>> =
        Some(|child, limit| async_io::block_on(by(child.status(), limit)));

    /// The future of the status does not borrow the child.
    const APART: Option<Apart<Self::Handle>> = Some(|mut child| {
        let status = child.status();
        (Box::new(move || async_io::block_on(status)), Box::new(move || child.kill()))
    });

    const OUTPUT: Option<AllOutput> = Some(|argv| {
        let output = async_process::Command::from(command(argv)).output();
        async_io::block_on(output).map(|output| output.stdout)
    });

    const OUTPUT_TIMEOUT: Option<OutputTimeout> = Some(|argv, limit| {
        let mut command = async_process::Command::from(command(argv));
        let output = async_io::block_on(by(command.kill_on_drop(true).output(), limit))?;
        output.map(|output| output.stdout).ok_or_else(timed_out)
    });
}
