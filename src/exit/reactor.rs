//! Linux, with the feature `tokio`: the reactor of the multi-threaded runtime that runs the task wakes it.
//!
//! It serves who is polled by tokio itself, which the waker tells. Whoever polls within a task by another executor (a
//! `block_on`, say) holds up the worker, to which tokio may have left the reactor, or put off the wake-up: so there the
//! watcher serves. So it does in a runtime with one thread, which stands still while nobody is in its `block_on`.
//!
//! The child of a fork has a copy of all this, and the very epoll that its parent sleeps on. So the copy is left alone:
//! to drop it would take the descriptor out of the parent's reactor.
//!
//! (A kqueue may not be put into another process's reactor after a fork, and tokio cannot be told to leave it alone;
//! so elsewhere the watcher serves.)

use super::Notice;
use super::own::Own;
use super::per_process::PerProcess;
use crate::sync::{Arc, Mutex};
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, RawWakerVTable, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle, RuntimeFlavor};
use tokio::task::{self, LocalSet};

/// For the benchmark: no reactor serves, as if the feature was not there.
pub(crate) static WATCHER_ONLY: AtomicBool = AtomicBool::new(false);

/// Those that have no I/O. tokio says so by a panic, of which the program's hook is told: so each is tried once.
static WITHOUT_IO: PerProcess<Mutex<Vec<runtime::Id>>> = PerProcess::new();

/// Keeps the descriptor open for as long as the reactor has it.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// A panic within tokio leaves nothing here that could be seen: what it says is no more than a reason to look.
    notice: Own<AssertUnwindSafe<AsyncFd<Lent>>>,
    task: task::Id,
}

/// The descriptor of a notice, which stays open for as long as this is here.
#[derive(Debug)]
struct Lent {
    fd: RawFd,
    _notice: Arc<Notice>,
}

impl AsRawFd for Lent {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Readiness {
    /// `None` if this is not polled by a multi-threaded tokio runtime, if that has no I/O, or if its reactor has this
    /// descriptor already, for another task.
    pub(crate) fn of(notice: &Arc<Notice>, cx: &Context<'_>) -> Option<Self> {
        if WATCHER_ONLY.load(Ordering::Relaxed) {
            return None;
        }
        let task = task::try_id().filter(|_| is_polled_by_tokio(cx))?;
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::MultiThread || lacks_io(runtime.id()) {
            return None;
        }
        let fd = notice.descriptor()?.as_raw_fd();
        let lent = Lent { fd, _notice: Arc::clone(notice) };
        let registered = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the notice keeps its one descriptor open until the `AsyncFd` is dropped, and lends it to nobody.
            unsafe { AsyncFd::register_with_interest(lent, Interest::READABLE) }
        }));
        let Ok(registered) = registered else {
            WITHOUT_IO.get().lock().push(runtime.id());
            return None;
        };
        Some(Self { notice: Own::new(AssertUnwindSafe(registered.ok()?)), task })
    }

    /// Whether it was made by the task that runs now, and is polled as then. Another one may go on while the runtime of
    /// that stands still.
    pub(crate) fn is_of_this_task(&self, cx: &Context<'_>) -> bool {
        task::try_id() == Some(self.task) && is_polled_by_tokio(cx)
    }

    /// Whether there is reason to look.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error means that the runtime is shutting down.
        self.notice.poll_read_ready(cx).map(drop)
    }
}

fn lacks_io(runtime: runtime::Id) -> bool {
    WITHOUT_IO.get().lock().contains(&runtime)
}

/// Whether the waker is one of tokio's for its tasks. All of those have one table of functions, which a task is asked for.
/// (Should there be several, the watcher serves instead.)
fn is_polled_by_tokio(cx: &Context<'_>) -> bool {
    static TABLE: PerProcess<OnceLock<Option<&'static RawWakerVTable>>> = PerProcess::new();
    let table = TABLE.get().get_or_init(|| {
        let (tasks, seen) = (LocalSet::new(), std::rc::Rc::new(std::cell::Cell::new(None)));
        let to_see = std::rc::Rc::clone(&seen);
        tasks.spawn_local(poll_fn(move |cx| {
            to_see.set(Some(cx.waker().vtable()));
            Poll::Ready(())
        }));
        // Once is enough for the one task that there is; and if it was not, the table is not known.
        let _ = pin!(tasks).poll(&mut Context::from_waker(Waker::noop()));
        seen.get()
    });
    table.is_some_and(|table| std::ptr::eq(table, cx.waker().vtable()))
}
