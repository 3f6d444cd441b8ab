//! Where nothing better serves: `waitid(WNOWAIT)`, by the process ID.
//!
//! It serves illumos, Solaris, Android, Haiku and others, Linux before 5.4 or in a sandbox without
//! pidfds, and every Unix whose descriptor table is full.
//!
//! A wait without a deadline blocks in `waitid` itself. `waitid` takes no deadline, so a wait with one
//! blocks on a condvar, while a helper thread, one for all of them, blocks in `waitid`; it is started
//! by the first of them and ends when the child has exited.
//!
//! Both block after releasing the lock under which they learnt that the child is unreaped. What if they
//! are held up there, another thread reaps, and the ID goes to another child of this program?
//!
//! - A *waiter* would then block until that one exits. So it counts itself in first, and as long as
//!   anyone is counted in, an exit is [`Look::Held`]: told, but not reaped. From the moment that it is
//!   to be reaped nobody is let in any more (`closed`). Both under the same lock.
//! - The *helper* is not counted in: it would put off the reap until it is through, and nobody depends
//!   on it, since whoever reaps calls [`Thread::settled`], which wakes all that are on the condvar. A
//!   helper that is late sees a stranger at worst, does nothing to it, and goes when that exits.
//!
//! *Listeners* are told instead of blocking. They share the helper with the waits that have a deadline, are told by it
//! when it has left, and by whoever reaps before that (`settled`); each once.
//!
//! Against foreign reapers, who heed no lock, there is only the [`Identity`], asked after a look, and before a
//! signal.
//!
//! The process is a parameter, so that `model.rs` can check every interleaving.

use super::Look;
use super::unix::by_pid::{self, ChildById, Pid};
use super::unix::notice as unix;
use crate::backoff::left;
use crate::sync::{Arc, Mutex, imp::Condvar};
use crate::usage::Usage;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::process;
use std::sync::PoisonError;
use std::time::Instant;

/// A process that is known by its ID alone.
pub(crate) trait ById: Send + Sync + 'static {
    /// Where it stands. An error means that the system does not tell without reaping.
    fn look(&self) -> io::Result<Look>;

    /// Blocks until it has exited, or is none of our children any more.
    fn block(&self);

    /// Reaps it if it is a zombie. Says whether it is gone.
    fn reap(&self) -> bool;

    /// Whether there is something to block for.
    fn runs(&self) -> bool {
        matches!(self.look(), Ok(Look::Running))
    }
}

impl ById for ChildById {
    fn look(&self) -> io::Result<Look> {
        self.look()
    }

    fn block(&self) {
        by_pid::block(self.pid);
    }

    fn reap(&self) -> bool {
        by_pid::reap(self.pid)
    }

    /// Stricter than a look, which takes a child for running also while somebody else's reap of it is not through.
    /// To block then would be to block on whoever has the ID by the time that we get there. So `waitid` must have
    /// seen it run, and the ID be its own *after* that.
    fn runs(&self) -> bool {
        matches!(by_pid::look(self.pid), Ok(Look::Running))
            && matches!(self.look(), Ok(Look::Running))
    }
}

pub(crate) struct Thread<P = ChildById> {
    shared: Arc<Shared<P>>,
    /// The one whose child it is.
    parent: u32,
}

struct Shared<P> {
    process: P,
    /// Never held over anything that blocks.
    waiting: Mutex<Waiting>,
    /// The helper has left, or there is nothing left to wait for.
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// How many are in `waitid`, or on their way there or back; not the helper.
    inside: usize,
    /// The child has been, or is about to be, reaped: nobody must block any more.
    closed: bool,
    /// The helper is in `waitid`, or on its way there or back.
    helper: bool,
    /// How many helpers have left. Those on the condvar watch it change.
    rounds: u64,
    listeners: Vec<(u64, Listener)>,
    next_listener: u64,
}

/// Called once, when there is reason to look. It does not block, and does not come back here.
pub(crate) type Listener = Box<dyn FnOnce() + Send>;

impl Thread {
    pub(crate) fn new(pid: Pid) -> Self {
        Self::of(ChildById::new(pid))
    }

    pub(crate) fn look_with_usage(&self) -> io::Result<(Look, Option<Usage>)> {
        let look = self.look()?;
        Ok(self.shared()?.process.with_usage(look))
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

    /// An error in the child of a fork. It gets a copy of all this, but the child is not its own, there is
    /// no helper, and the lock may be held for ever.
    fn shared(&self) -> io::Result<&Arc<Shared<P>>> {
        if self.parent == process::id() { Ok(&self.shared) } else { Err(by_pid::no_child()) }
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        match (self.shared(), deadline) {
            (Ok(shared), None) => shared.block(),
            (Ok(shared), Some(deadline)) => Shared::block_until(shared, deadline),
            // The look tells.
            (Err(_), _) => true,
        }
    }

    pub(crate) fn look(&self) -> io::Result<Look> {
        let shared = self.shared()?;
        let mut waiting = shared.waiting.lock();
        Ok(match shared.process.look() {
            Ok(Look::Exited(Some(status))) if waiting.inside > 0 => Look::Held(status),
            // A status that only the reap will tell. Those inside have been woken by the exit and are
            // about to leave, so this is over at once.
            Ok(Look::Exited(None)) if waiting.inside > 0 => Look::Running,
            Ok(look @ Look::Exited(_)) => {
                waiting.closed = true;
                look
            }
            Ok(look) => look,
            // No `waitid`: try the reap, which goes by `waitpid`. (Nobody is inside, then.)
            Err(_) => Look::Exited(None),
        })
    }

    pub(crate) fn settled(&self) {
        if let Ok(shared) = self.shared() {
            let mut waiting = shared.waiting.lock();
            waiting.closed = true;
            shared.tell_all(&mut waiting);
        }
    }

    /// Has it told when there is reason to look; at once, if there is already. `None` if nobody will: no thread is to
    /// be had, or this is the child of a fork.
    pub(crate) fn listen(&self, listener: Listener) -> Option<u64> {
        let shared = self.shared().ok()?;
        let mut waiting = shared.waiting.lock();
        let id = waiting.next_listener;
        waiting.next_listener += 1;
        // Look under the lock: whoever settles it, or leaves as the helper, comes before or after all this.
        if waiting.closed || !shared.runs() {
            drop(waiting);
            listener();
        } else if waiting.helper || Shared::start_helper(shared, &mut waiting) {
            waiting.listeners.push((id, listener));
        } else {
            return None;
        }
        Some(id)
    }

    /// It is not told from here on, if it has not been.
    pub(crate) fn unlisten(&self, id: u64) {
        if let Ok(shared) = self.shared() {
            shared.waiting.lock().listeners.retain(|(other, _)| *other != id);
        }
    }

    /// Reaps it if it has exited, and forgets its status. Says whether it is gone, or none of ours.
    pub(crate) fn reap(&self) -> bool {
        self.shared().map_or(true, |shared| shared.reap())
    }
}

/// Nothing of what is behind the lock: formatting runs the caller's code, and derived code would hold
/// the lock meanwhile.
impl<P: fmt::Debug> fmt::Debug for Thread<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Thread").field(&self.shared.process).finish()
    }
}

impl<P: ById> Shared<P> {
    /// Without a deadline.
    fn block(&self) -> bool {
        let mut waiting = self.waiting.lock();
        // Look first: if somebody else has reaped the child, the ID may mean a stranger, who runs on.
        if waiting.closed || !self.runs() {
            return true;
        }
        waiting.inside += 1;
        drop(waiting);
        self.process.block();
        self.waiting.lock().inside -= 1;
        true
    }

    /// With a deadline.
    fn block_until(this: &Arc<Self>, deadline: Instant) -> bool {
        let mut waiting = this.waiting.lock();
        let round = waiting.rounds;
        while !waiting.closed && waiting.rounds == round {
            let left = left(deadline);
            if left.is_zero() {
                // The caller looks once more: that answers for an exit which the helper has yet to
                // report.
                return false;
            }
            // Look first, as above. And if no thread is to be had, the caller pauses and comes back.
            if !waiting.helper && (!this.runs() || !Self::start_helper(this, &mut waiting)) {
                return true;
            }
            // (In the model there is no time, and nobody times out.)
            let woken = this.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn start_helper(this: &Arc<Self>, waiting: &mut Waiting) -> bool {
        let shared = Arc::clone(this);
        let started = unix::spawn_helper("child-waiter", move || shared.help());
        waiting.helper = started.is_ok();
        waiting.helper
    }

    /// The helper's whole life.
    fn help(&self) {
        if self.runs() {
            self.process.block();
        }
        let mut waiting = self.waiting.lock();
        waiting.helper = false;
        waiting.rounds += 1;
        self.tell_all(&mut waiting);
    }

    /// Tells the listeners, and wakes those on the condvar. All under the lock: once a waiter has come back, whoever
    /// listens has been told as well.
    fn tell_all(&self, waiting: &mut Waiting) {
        waiting.listeners.drain(..).for_each(|(_, listener)| listener());
        self.changed.notify_all();
    }

    /// Whether there is something to block for. Without `waitid` there is not, and callers poll.
    fn runs(&self) -> bool {
        self.process.runs()
    }

    fn reap(&self) -> bool {
        match self.process.look() {
            Ok(Look::Running) => false,
            Ok(Look::Exited(_) | Look::Held(_)) | Err(_) => self.process.reap(),
            Ok(Look::ReapedElsewhere) => true,
        }
    }
}
