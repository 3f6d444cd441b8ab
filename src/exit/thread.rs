//! Where nothing better serves: a helper thread in `waitid(WNOWAIT)`, and a condvar.
//!
//! It serves illumos, Solaris, Android, Haiku and others, Linux before 5.4 or in a sandbox without
//! pidfds, and every Unix whose descriptor table is full. The thread is started by the first wait that
//! has to block, one for all waiters of the child, and ends when the child has exited.
//!
//! Why does no waiter enter `waitid` itself, not even one without a deadline? Because it would have to
//! do so after releasing the lock under which it learnt that the child is unreaped. If it is held up
//! there, another thread may reap, the ID may go to another child of this program, and the waiter
//! blocks until *that* exits. The helper can be held up in the same way, but nobody depends on it:
//! whoever reaps calls [`Thread::settled`], and that wakes every waiter. A helper that is late sees a
//! stranger at worst, does nothing to it (it does not reap), and goes when that exits.

use super::identity::{Identity, Same};
use super::{Look, by_pid, by_pid::Pid, unix};
use std::ffi::c_int;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Thread(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pid: Pid,
    identity: Option<Identity>,
    helper: Mutex<Helper>,
    /// The helper has left, or there is nothing left to wait for.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Helper {
    /// One is in `waitid`, or on its way there or back.
    running: bool,
    /// How many have left. Waiters watch it change.
    rounds: u64,
    /// The child's fate is known: nobody must wait any more.
    settled: bool,
    /// The handle has been dropped: reap when it exits.
    orphan: bool,
}

impl Thread {
    pub(crate) fn new(pid: Pid) -> Self {
        let helper = Mutex::default();
        let identity = Identity::of(pid);
        Self(Arc::new(Shared { pid, identity, helper, left: Condvar::new() }))
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let shared = &self.0;
        let mut helper = shared.helper();
        let round = helper.rounds;
        while !helper.settled && helper.rounds == round {
            let left = unix::left(deadline);
            if left.is_zero() {
                // The caller looks once more: that answers for an exit which the helper has yet to
                // report.
                return Ok(false);
            }
            // Look before sending a helper: if somebody else has reaped the child, the ID may mean a
            // stranger, who runs on. And if no thread is to be had, the caller pauses and comes back.
            if !helper.running && (shared.look()? != Look::Running || !shared.start(&mut helper)) {
                return Ok(true);
            }
            let woken = shared.left.wait_timeout(helper, left);
            helper = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
    }

    pub(crate) fn look(&self) -> io::Result<Look> {
        self.0.look()
    }

    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        match self.look()? {
            Look::Running => by_pid::signal(self.0.pid, signal),
            Look::Exited(_) | Look::ReapedElsewhere => Ok(()),
        }
    }

    pub(crate) fn settled(&self) {
        self.0.helper().settled = true;
        self.0.left.notify_all();
    }

    /// Reaps it if it has exited, and forgets its status. Says whether it is gone.
    pub(crate) fn reap(&self) -> bool {
        self.0.reap()
    }

    /// Has the helper reap the child when it exits. Says whether there is a helper.
    pub(crate) fn adopt(&self) -> bool {
        let mut helper = self.0.helper();
        helper.orphan = helper.running || self.0.start(&mut helper);
        helper.orphan
    }
}

impl Shared {
    /// Never held over anything that blocks.
    fn helper(&self) -> MutexGuard<'_, Helper> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, helper: &mut Helper) -> bool {
        let shared = Arc::clone(self);
        let started = unix::spawn_helper("child-waiter", move || shared.run());
        helper.running = started.is_ok();
        helper.running
    }

    /// The helper's whole life.
    fn run(&self) {
        let mut pause = crate::backoff::Backoff::new();
        loop {
            if let Ok(Look::Running) = self.look() {
                by_pid::block(self.pid);
            }
            let mut helper = self.helper();
            if !helper.orphan || self.reap() {
                helper.running = false;
                helper.rounds += 1;
                self.left.notify_all();
                return;
            }
            // An orphan that `waitid` does not block for and that cannot be reaped (see `Backoff`).
            drop(helper);
            pause.sleep(None);
        }
    }

    fn look(&self) -> io::Result<Look> {
        match self.identity.as_ref().map(Identity::check) {
            Some(Same::No) => Ok(Look::ReapedElsewhere),
            Some(Same::Yes | Same::Unknown) | None => by_pid::look(self.pid),
        }
    }

    fn reap(&self) -> bool {
        match self.look() {
            Ok(Look::Running) => false,
            Ok(Look::Exited(_)) => by_pid::reap(self.pid),
            Ok(Look::ReapedElsewhere) | Err(_) => true,
        }
    }
}
