//! The runtimes, and tasks that await children.

use super::{Contender, Program};
use shared_child::SharedChild;
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Returns the runtime of this process. The thread that waits drives it, unless [`use_worker_threads`] was called.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// Gives the runtime of this process a thread of its own, as in most programs.
pub(crate) fn use_worker_threads() -> io::Result<()> {
    let _ = RUNTIME.set(one_worker()?);
    Ok(())
}

/// Returns a runtime with one worker thread. More workers would measure how threads pass work to each other.
pub(crate) fn one_worker() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

pub(super) fn in_runtime<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _context = runtime()?.enter();
    run()
}

/// The process ID of a child, and the future of its status.
pub(crate) type Exit = (u32, Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>);

/// Returns a function that spawns a child to be awaited, and must be called in the context of the runtime.
pub(crate) fn awaited(
    contender: Contender,
    program: Program,
) -> Box<dyn FnMut() -> io::Result<Exit>> {
    let mut command = program.command();
    if contender != Contender::Tokio {
        return Box::new(move || {
            let child = SharedChild::spawn(&mut command)?;
            Ok((child.id(), Box::pin(async move { child.wait_async().await })))
        });
    }
    let mut command = tokio::process::Command::from(command);
    Box::new(move || {
        let mut child = command.spawn()?;
        Ok((child.id().unwrap_or_default(), Box::pin(async move { child.wait().await })))
    })
}
