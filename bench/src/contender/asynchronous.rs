//! tokio and async-process, each driven by the thread that waits.

use super::Handle;
use futures_lite::FutureExt;
use std::io;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The one runtime of this process, with no thread of its own.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// A wait for async-process' children that ends after a while: there is no other than this, which its users write.
pub(crate) async fn timed_out<T>(
    exit: impl Future<Output = io::Result<T>>,
    timeout: Duration,
) -> io::Result<Option<T>> {
    let timer = async {
        async_io::Timer::after(timeout).await;
        Ok(None)
    };
    async { exit.await.map(Some) }.or(timer).await
}

pub(super) struct OnTokio(tokio::process::Child);

impl OnTokio {
    pub(super) fn spawn(command: &mut tokio::process::Command) -> io::Result<Self> {
        let _context = runtime()?.enter();
        command.spawn().map(Self)
    }
}

impl Handle for OnTokio {
    fn id(&self) -> u32 {
        // It has none once it was waited for.
        self.0.id().unwrap_or_default()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        runtime()?.block_on(self.0.wait())
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let exit = async { tokio::time::timeout(timeout, self.0.wait()).await };
        runtime()?.block_on(exit).ok().transpose()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.start_kill()
    }
}

pub(super) struct OnAsyncIo(async_process::Child);

impl OnAsyncIo {
    pub(super) fn spawn(command: &mut async_process::Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }
}

impl Handle for OnAsyncIo {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        async_io::block_on(self.0.status())
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        async_io::block_on(timed_out(self.0.status(), timeout))
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_status()
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}
