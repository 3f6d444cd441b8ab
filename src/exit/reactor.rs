//! Linux, with the feature `tokio`: the reactor of the multi-threaded runtime that runs the task wakes it.
//!
//! That of a runtime with one thread stands still while nobody is in its `block_on`, as it may be while another executor
//! polls the future on a thread that tokio takes for a task's (`spawn_blocking`). So there the watcher serves.
//!
//! (A kqueue may not be put into another process's reactor after a fork, and tokio cannot be told to leave it alone;
//! so elsewhere the watcher serves.)

use super::{ExitNotice, Notice};
use crate::sync::Arc;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};

/// For the benchmark: no reactor serves, as if the feature was not there.
pub(crate) static WATCHER_ONLY: AtomicBool = AtomicBool::new(false);

/// Keeps the descriptor open for as long as the reactor has it.
#[derive(Debug)]
pub(crate) struct Readiness {
    notice: AsyncFd<ExitNotice>,
    task: tokio::task::Id,
}

impl Readiness {
    /// `None` if this is no task of a multi-threaded tokio runtime, if that has no I/O, or if its reactor has this descriptor already,
    /// for another task.
    pub(crate) fn of(notice: &Arc<Notice>, id: u32) -> Option<Self> {
        if WATCHER_ONLY.load(Ordering::Relaxed) {
            return None;
        }
        // Only what tokio runs: a future that is polled by another executor, though within the context of a runtime,
        // may outlive that.
        let task = tokio::task::try_id()?;
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
            return None;
        }
        let notice = ExitNotice::of(Arc::clone(notice), id).ok()?;
        // tokio panics for want of I/O, and there is no way to ask.
        let registered = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the notice keeps its one descriptor open until the `AsyncFd` is dropped, and lends it to nobody.
            unsafe { AsyncFd::register_with_interest(notice, Interest::READABLE) }
        }));
        Some(Self { notice: registered.ok()?.ok()?, task })
    }

    /// Whether it was made by the task that runs now. Another one may go on while the runtime of that stands still.
    pub(crate) fn is_of_this_task(&self) -> bool {
        tokio::task::try_id() == Some(self.task)
    }

    /// Whether there is reason to look.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error means that the runtime is shutting down.
        self.notice.poll_read_ready(cx).map(drop)
    }
}
