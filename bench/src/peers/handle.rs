//! The child of a contender.

use super::{not_offered, on_tokio::runtime};
use shared_child::SharedChild;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use subprocess::unix::{ExitStatusExt as _, JobExt};

pub(crate) enum Handle {
    Std(Child),
    ThisCrate(SharedChild),
    SharedChild1(peer::SharedChild),
    Duct(duct::Handle),
    Subprocess(subprocess::Job),
    ProcessWrap(Box<dyn process_wrap::std::ChildWrapper>),
    Tokio(tokio::process::Child),
    WrappedOnTokio(Box<dyn process_wrap::tokio::ChildWrapper>),
}

pub(crate) type Waiter = Box<dyn FnOnce() -> io::Result<ExitStatus> + Send>;
pub(crate) type Killer = Box<dyn FnOnce() -> io::Result<()>>;

impl Handle {
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Std(child) => child.id(),
            Self::ThisCrate(child) => child.id(),
            Self::SharedChild1(child) => child.id(),
            Self::Duct(child) => child.pids()[0],
            Self::Subprocess(child) => child.pid(),
            Self::ProcessWrap(child) => child.id(),
            // A child that has exited has no ID.
            Self::Tokio(child) => child.id().unwrap_or_default(),
            Self::WrappedOnTokio(child) => child.id().unwrap_or_default(),
        }
    }

    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Std(child) => child.wait(),
            Self::ThisCrate(child) => child.wait(),
            Self::SharedChild1(child) => child.wait(),
            Self::Duct(child) => child.wait().map(|output| output.status),
            Self::Subprocess(child) => child.wait().and_then(status),
            Self::ProcessWrap(child) => child.wait(),
            Self::Tokio(child) => runtime()?.block_on(child.wait()),
            Self::WrappedOnTokio(child) => runtime()?.block_on(child.wait()),
        }
    }

    /// Waits without a timeout if the library is std.
    pub(crate) fn wait_at_most(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        if matches!(self, Self::Std(_)) {
            self.wait().map(Some)
        } else {
            self.wait_timeout(timeout)
        }
    }

    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Std(_) | Self::ProcessWrap(_) => Err(not_offered()),
            Self::ThisCrate(child) => child.wait_timeout(timeout),
            Self::SharedChild1(child) => child.wait_timeout(timeout),
            Self::Duct(child) => Ok(child.wait_timeout(timeout)?.map(|output| output.status)),
            Self::Subprocess(child) => child.wait_timeout(timeout)?.map(status).transpose(),
            Self::Tokio(child) => on_tokio(timeout, child.wait()),
            Self::WrappedOnTokio(child) => on_tokio(timeout, child.wait()),
        }
    }

    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Std(child) => child.try_wait(),
            Self::ThisCrate(child) => child.try_wait(),
            Self::SharedChild1(child) => child.try_wait(),
            Self::Duct(child) => Ok(child.try_wait()?.map(|output| output.status)),
            Self::Subprocess(child) => child.poll().map(status).transpose(),
            Self::ProcessWrap(child) => child.try_wait(),
            Self::Tokio(child) => child.try_wait(),
            Self::WrappedOnTokio(child) => child.try_wait(),
        }
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Std(child) => child.kill(),
            Self::ThisCrate(child) => child.kill(),
            Self::SharedChild1(child) => child.kill(),
            Self::Duct(child) => child.kill(),
            Self::Subprocess(child) => child.kill(),
            Self::ProcessWrap(child) => child.start_kill(),
            Self::Tokio(child) => child.start_kill(),
            Self::WrappedOnTokio(child) => child.start_kill(),
        }
    }

    pub(crate) fn kill_tree(&mut self) -> io::Result<()> {
        match self {
            Self::ThisCrate(child) => child.tree().ok_or_else(not_offered)?.kill(),
            Self::Subprocess(child) => child.send_signal_group(libc::SIGKILL),
            Self::ProcessWrap(_) | Self::WrappedOnTokio(_) => self.kill(),
            _ => Err(not_offered()),
        }
    }

    /// Splits the handle: one part waits on another thread, and the other kills meanwhile.
    pub(crate) fn split(self) -> io::Result<(Waiter, Killer)> {
        macro_rules! shared {
            ($child:expr, |$waiter:ident| $wait:expr) => {{
                let child = Arc::new($child);
                let $waiter = Arc::clone(&child);
                Ok((Box::new(move || $wait), Box::new(move || child.kill())))
            }};
        }
        match self {
            Self::ThisCrate(child) => shared!(child, |child| child.wait()),
            Self::SharedChild1(child) => shared!(child, |child| child.wait()),
            Self::Duct(child) => shared!(child, |child| child.wait().map(|output| output.status)),
            Self::Subprocess(job) => {
                let process = job.processes[0].clone();
                let wait = move || process.wait().and_then(status);
                Ok((Box::new(wait), Box::new(move || job.kill())))
            }
            _ => Err(not_offered()),
        }
    }

    /// Returns the bytes of the library's handle, without its heap.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Std(child) => size_of_val(child),
            Self::ThisCrate(child) => size_of_val(child),
            Self::SharedChild1(child) => size_of_val(child),
            Self::Duct(child) => size_of_val(child),
            Self::Subprocess(child) => size_of_val(child),
            Self::ProcessWrap(child) => size_of_val(child),
            Self::Tokio(child) => size_of_val(child),
            Self::WrappedOnTokio(child) => size_of_val(child),
        }
    }
}

fn on_tokio(
    timeout: Duration,
    wait: impl Future<Output = io::Result<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    runtime()?.block_on(async { tokio::time::timeout(timeout, wait).await }).ok().transpose()
}

/// Fails if subprocess could not get the status.
pub(super) fn status(status: subprocess::ExitStatus) -> io::Result<ExitStatus> {
    let raw = status.into_raw().ok_or_else(|| io::Error::other("the status is unknown"))?;
    Ok(ExitStatus::from_raw(raw))
}
