//! The fallback without descriptors: `waitid(WNOWAIT)`, by the process ID.
//!
//! It serves illumos, Solaris, Android, Haiku and others, Linux before 5.4 or in a sandbox without
//! pidfds, and every Unix whose descriptor table is full.
//!
//! A wait without a deadline blocks in `waitid` itself. `waitid` accepts no deadline, so a wait with one blocks on a
//! condition variable while a helper thread, one per child, blocks in `waitid`. The first such wait starts the helper,
//! which ends when the child has exited.
//!
//! Both block after releasing the lock under which the child was observed to run. Another thread could reap the child before
//! that, and its ID could go to another child of this program.
//!
//! - *Waiters* rely on the ID, so the lifecycle does not reap while one is in [`Thread::wait`]
//!   ([`Exit::wait_relies_on_pid`](crate::sys::Exit::wait_relies_on_pid)).
//! - The *helper* is not counted: it would delay the reap. A late helper blocks for another process at worst, does nothing
//!   to it, and ends when that process exits.
//!
//! *Listeners* are called instead of blocking. They share the helper with the waits that have a deadline. The helper calls
//! them when it leaves, and [`Thread::settled`] calls them if the child is reaped before that; each once.
//!
//! Foreign reapers ignore every lock. Against them there is only the identity, checked after an observation and before a signal.
//!
//! The process is a parameter, so that `model.rs` can check every interleaving.

use super::by_pid::{self, ChildById, Pid};
use crate::backoff::left;
use crate::sync::{Arc, Mutex, imp::Condvar};
use crate::sys::{Observed, spawn_helper};
use crate::usage::Usage;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::process;
use std::sync::PoisonError;
use std::time::Instant;

/// A process that is known by its ID alone.
pub(crate) trait ById: Send + Sync + 'static {
    /// Returns whether the process runs. An error means that the system cannot say so without reaping.
    fn observe(&self) -> io::Result<Observed>;

    /// Blocks until the process has exited or is no longer a child of this process.
    fn block(&self);

    /// Reaps the process if it is a zombie. Returns whether nothing is left to reap.
    fn reap(&self) -> bool;

    /// Returns whether the process runs, so that [`block`](Self::block) has an exit to wait for.
    fn runs(&self) -> bool {
        matches!(self.observe(), Ok(Observed::Running))
    }
}

impl ById for ChildById {
    fn observe(&self) -> io::Result<Observed> {
        self.observe()
    }

    fn block(&self) {
        by_pid::block(self.pid);
    }

    fn reap(&self) -> bool {
        by_pid::reap(self.pid)
    }

    /// Stricter than `observe`, which also returns `Running` while a foreign reap of the child is in progress. After that
    /// reap another process can have the ID, and `block` would wait for it. So `waitid` must see the child run, and the
    /// ID must be the child's *after* that.
    fn runs(&self) -> bool {
        matches!(by_pid::observe(self.pid), Ok(Observed::Running))
            && matches!(self.observe(), Ok(Observed::Running))
    }
}

pub(crate) struct Thread<P = ChildById> {
    shared: Arc<Shared<P>>,
    /// The process whose child it is.
    parent: u32,
}

struct Shared<P> {
    process: P,
    /// Never held over anything that blocks.
    waiting: Mutex<Waiting>,
    /// The helper has left.
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// The child was reaped: its ID may be that of another process.
    settled: bool,
    /// The helper runs.
    helper: bool,
    /// How many helpers have left. Waiters with a deadline wait for a change.
    rounds: u64,
    listeners: Vec<(u64, Listener)>,
    next_listener: u64,
}

/// Called once, when there is reason to poll. It does not block, and does not call this module.
pub(crate) type Listener = Box<dyn FnOnce() + Send>;

impl Thread {
    pub(crate) fn new(pid: Pid) -> Self {
        Self::of(ChildById::new(pid))
    }

    pub(crate) fn observe_with_usage(&self) -> io::Result<(Observed, Option<Usage>)> {
        let observed = self.observe()?;
        Ok(self.shared()?.process.with_usage(observed))
    }

    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        self.shared()?.process.signal(signal)
    }

    pub(crate) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        self.shared()?.process.signal_group(signal)
    }
}

impl<P: ById> Thread<P> {
    pub(crate) fn of(process: P) -> Self {
        let (waiting, changed) = (Mutex::new(Waiting::default()), Condvar::new());
        Self { shared: Arc::new(Shared { process, waiting, changed }), parent: process::id() }
    }

    /// Returns an error in the child of a fork: the process is not its child, it has no helper, and a lock that was held
    /// during the fork is never released.
    fn shared(&self) -> io::Result<&Arc<Shared<P>>> {
        if self.parent == process::id() { Ok(&self.shared) } else { Err(by_pid::no_child()) }
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        match (self.shared(), deadline) {
            (Ok(shared), None) => {
                // Observed first: if another part of the program has reaped the child, the ID may be another process's.
                if shared.runs() {
                    shared.process.block();
                }
                true
            }
            (Ok(shared), Some(deadline)) => Shared::block_until(shared, deadline),
            // The observation returns the error.
            (Err(_), _) => true,
        }
    }

    pub(crate) fn observe(&self) -> io::Result<Observed> {
        // Without `waitid`, the reap by `waitpid` returns the status.
        Ok(self.shared()?.process.observe().unwrap_or(Observed::Exited(None)))
    }

    pub(crate) fn settled(&self) {
        if let Ok(shared) = self.shared() {
            let mut waiting = shared.waiting.lock();
            waiting.settled = true;
            shared.notify_all(&mut waiting);
        }
    }

    /// Calls the listener when there is reason to poll the child: at once, if there is already. `None` if the helper cannot
    /// be started, or in the child of a fork.
    pub(crate) fn listen(&self, listener: Listener) -> Option<u64> {
        let shared = self.shared().ok()?;
        let mut waiting = shared.waiting.lock();
        let id = waiting.next_listener;
        waiting.next_listener += 1;
        // Observed under the lock, so that `settled` and the end of the helper come before or after all of this.
        if waiting.settled || !shared.runs() {
            drop(waiting);
            listener();
        } else if waiting.helper || Shared::start_helper(shared, &mut waiting) {
            waiting.listeners.push((id, listener));
        } else {
            return None;
        }
        Some(id)
    }

    /// Removes a listener. It is not called after this returns.
    pub(crate) fn unlisten(&self, id: u64) {
        if let Ok(shared) = self.shared() {
            shared.waiting.lock().listeners.retain(|(other, _)| *other != id);
        }
    }

    /// Reaps the child if it has exited, and drops its status. Returns `false` if there is something left to reap.
    pub(crate) fn reap(&self) -> bool {
        self.shared().map_or(true, |shared| shared.reap())
    }
}

/// Shows nothing that the lock guards: formatting runs the caller's code, which must not run under the lock.
impl<P: fmt::Debug> fmt::Debug for Thread<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Thread").field(&self.shared.process).finish()
    }
}

impl<P: ById> Shared<P> {
    fn block_until(this: &Arc<Self>, deadline: Instant) -> bool {
        let mut waiting = this.waiting.lock();
        let round = waiting.rounds;
        while waiting.rounds == round {
            let left = left(deadline);
            if left.is_zero() {
                // The caller polls once more, and finds an exit that the helper has not reported yet.
                return false;
            }
            // Observed first, as in `wait`. If the helper cannot be started, the caller pauses and comes back.
            if !waiting.helper && (!this.runs() || !Self::start_helper(this, &mut waiting)) {
                return true;
            }
            // (In the model no wait times out.)
            let woken = this.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn start_helper(this: &Arc<Self>, waiting: &mut Waiting) -> bool {
        let shared = Arc::clone(this);
        let started = spawn_helper("child-waiter", move || shared.help());
        waiting.helper = started.is_ok();
        waiting.helper
    }

    fn help(&self) {
        if self.runs() {
            self.process.block();
        }
        let mut waiting = self.waiting.lock();
        waiting.helper = false;
        waiting.rounds += 1;
        self.notify_all(&mut waiting);
    }

    /// Calls the listeners and wakes the waiters. All under the lock: when a waiter returns, the listeners were called.
    fn notify_all(&self, waiting: &mut Waiting) {
        waiting.listeners.drain(..).for_each(|(_, listener)| listener());
        self.changed.notify_all();
    }

    /// Returns whether there is something to block for. Without `waitid` there is not, and callers poll.
    fn runs(&self) -> bool {
        self.process.runs()
    }

    fn reap(&self) -> bool {
        match self.process.observe() {
            Ok(Observed::Running) => false,
            Ok(Observed::Exited(_)) | Err(_) => self.process.reap(),
            Ok(Observed::ReapedElsewhere) => true,
        }
    }
}
