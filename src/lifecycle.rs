//! The exit is noticed, then the child is reaped once, then its status is remembered.
//!
//! This module is the whole argument why no operation can race. It knows no operating system: the child and its exit
//! notice are parameters, so that `model.rs` can check every interleaving.
//!
//! One mutex guards the state. It is never held over anything that blocks. Under it happen, in this order:
//!
//! - *signal*: only in `Unreaped`. This process has not reaped the child, so unless another part of the program has (which
//!   the exit notice finds out), the process ID is the child's.
//! - *observation*: whether the child has exited, and what it has used, which only a zombie shows.
//! - *reap*, last and once: after it, the kernel may give the process ID to another process. So the state changes to
//!   `Reaped` before the lock is released, and no signal, observation or reap follows.
//!
//! A zombie keeps its process ID. While something relies on that ID, an exit is returned but the child is not reaped. Two
//! things rely on it:
//!
//! - a *pin*: a process group has the ID of its leader;
//! - a *waiter* whose mechanism uses the process ID. It is counted under the lock, after an observation that saw the child run,
//!   and observes it again when it leaves; the last one reaps.
//!
//! Waiters block outside the lock, in [`Exit::wait`], which does not reap. Each waits for itself. A waiter holds an `Arc` of
//! the notice, so the descriptor that it polls stays open until it leaves, even if the state's own `Arc` is dropped.

use crate::backoff::Backoff;
use crate::sync::{Arc, Mutex};
use crate::sys::{Exit, Observed, Reap, Reaped, reaped_elsewhere};
use crate::usage::Usage;
use std::io;
use std::process::ExitStatus;
use std::time::Instant;

pub(crate) struct Lifecycle<C, E: Exit>(Mutex<State<C, E>>);

struct State<C, E: Exit> {
    /// Dropped before the child, whose resources the notice may use until it is abandoned.
    life: Life<E>,
    child: C,
    /// The status of an unreaped child. It was returned, so it stands.
    returned: Option<ExitStatus>,
    /// From the observation that saw the exit first, before the reap. Boxed, because handles are many and small.
    usage: Option<Box<Usage>>,
    /// Something other than a waiter relies on the process ID.
    pinned: bool,
    /// How many waiters rely on the process ID.
    waiters: usize,
}

enum Life<E: Exit> {
    /// This process has not reaped the child. The guard makes sure that it will.
    Unreaped(ReapGuard<E>),
    /// Reaped, with this status. `None` if another part of the program has reaped the child, and its status is lost.
    Reaped(Option<ExitStatus>),
}

/// The duty to reap. If it is dropped armed, it abandons the child.
struct ReapGuard<E: Exit> {
    exit: Arc<E>,
    /// Reaps the child when it exits.
    abandon: fn(&Arc<E>),
    armed: bool,
    /// The process in which a drop kills the child: a copy in the child of a fork does not.
    killed_by: Option<u32>,
}

impl<E: Exit> Drop for ReapGuard<E> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // Before it may be reaped. No caller is left to return an error to.
        if self.killed_by.is_some_and(|process| process == std::process::id()) {
            let _ = self.exit.kill();
        }
        (self.abandon)(&self.exit);
    }
}

impl<E: Exit> Life<E> {
    fn disarm(&mut self) {
        if let Life::Unreaped(guard) = self {
            guard.armed = false;
            guard.exit.settled();
        }
    }
}

impl<C: Reap, E: Exit> Lifecycle<C, E> {
    /// A child that was not reaped, as far as the caller knows. If the handle is dropped first, `abandon` reaps the child
    /// now or when it exits; it does not block.
    pub(crate) fn unreaped(child: C, exit: E, abandon: fn(&Arc<E>)) -> Self {
        let exit = Arc::new(exit);
        Self::with(child, Life::Unreaped(ReapGuard { exit, abandon, armed: true, killed_by: None }))
    }

    /// A child that was reaped. `None` if its status is lost.
    pub(crate) fn reaped(child: C, status: Option<ExitStatus>) -> Self {
        Self::with(child, Life::Reaped(status))
    }

    fn with(child: C, life: Life<E>) -> Self {
        Self(Mutex::new(State {
            life,
            child,
            returned: None,
            usage: None,
            pinned: false,
            waiters: 0,
        }))
    }

    /// Keeps the process ID from here on: an exit is returned, but the child is not reaped.
    pub(crate) fn pin(&self) {
        self.0.lock().pinned = true;
    }

    /// Releases the process ID. Reaps the child if it has exited.
    pub(crate) fn unpin(&self) {
        let was_pinned = std::mem::take(&mut self.0.lock().pinned);
        if was_pinned {
            // The next wait returns the error.
            let _ = self.try_wait();
        }
    }

    /// Whether the child is to be killed when this is dropped.
    pub(crate) fn kill_on_drop(&self, kill: bool) {
        if let Life::Unreaped(guard) = &mut self.0.lock().life {
            guard.killed_by = kill.then(std::process::id);
        }
    }

    /// Blocks until the child has exited, or until the deadline (`None`). Polls at least once.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        let mut pause = Backoff::new();
        loop {
            let Some(exit) = self.notice() else {
                return self.try_wait(); // from memory
            };
            let counted = usize::from(exit.wait_relies_on_pid());
            if counted > 0 {
                if let Some(status) = self.poll(0, counted)? {
                    return Ok(Some(status));
                }
            }
            let noticed = exit.wait(deadline);
            drop(exit);
            let polled = self.poll(counted, 0)?;
            if polled.is_some() {
                return Ok(polled);
            }
            let noticed = noticed?;
            // Noticed before the child can be reaped (see `Backoff`). The notice would not block, so pause instead of
            // spinning.
            if !noticed || !pause.sleep(deadline) {
                return Ok(None);
            }
        }
    }

    /// Returns what to block on while the child is unreaped.
    pub(crate) fn notice(&self) -> Option<Arc<E>> {
        match &self.0.lock().life {
            Life::Unreaped(guard) => Some(Arc::clone(&guard.exit)),
            Life::Reaped(_) => None,
        }
    }

    /// Returns the status if the child has exited. Never blocks.
    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.poll(0, 0)
    }

    /// The same, for a number of waiters that leave, and a number that enter if the child has not exited.
    fn poll(&self, leave: usize, enter: usize) -> io::Result<Option<ExitStatus>> {
        let mut state = self.0.lock();
        state.waiters -= leave;
        let exit = match &state.life {
            Life::Unreaped(guard) => Arc::clone(&guard.exit),
            Life::Reaped(status) => return state.result(*status).map(Some),
        };
        let answer = state.reap_if_exited(&exit);
        if let Ok(None) = answer {
            state.waiters += enter;
        }
        // Unlock before `exit` is dropped: the last reference closes a descriptor, which needs no lock.
        drop(state);
        answer
    }

    /// Returns what the child has used, if its exit was seen and the system shows it.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.0.lock().usage.as_deref().copied()
    }

    /// Calls `send` with the notice if the child may still be signalled. Otherwise does nothing.
    pub(crate) fn signal(&self, send: impl FnOnce(&E) -> io::Result<()>) -> io::Result<()> {
        // The lock is held until the signal is sent: no thread can reap before that.
        match &self.0.lock().life {
            Life::Unreaped(guard) => send(&guard.exit),
            Life::Reaped(_) => Ok(()),
        }
    }

    /// Calls `f` with the child, for what is not about its exit: its pipes, for example.
    pub(crate) fn with_child<T>(&self, f: impl FnOnce(&mut C) -> T) -> T {
        f(&mut self.0.lock().child)
    }

    /// Returns the child. The caller has the duty to reap it.
    pub(crate) fn into_inner(self) -> C {
        self.unpin();
        let mut state = self.0.into_inner();
        state.life.disarm();
        state.child
    }

    /// Adds what is known about the exit.
    pub(crate) fn describe(&self, f: &mut std::fmt::DebugStruct<'_, '_>)
    where
        E: std::fmt::Debug,
    {
        // Not under the lock: formatting runs the caller's code, which may block or use this handle.
        let known = match &self.0.lock().life {
            Life::Unreaped(guard) => Err(Arc::clone(&guard.exit)),
            Life::Reaped(status) => Ok(*status),
        };
        match known {
            Err(exit) => f.field("notice", &exit),
            Ok(Some(status)) => f.field("status", &status),
            Ok(None) => f.field("status", &"reaped elsewhere"),
        };
    }
}

impl<C: Reap, E: Exit> State<C, E> {
    fn reap_if_exited(&mut self, exit: &E) -> io::Result<Option<ExitStatus>> {
        // Keep the usage even if the child is not reaped now: another part of the program may reap it before the next observation.
        let (observed, usage) = exit.observe()?;
        if self.usage.is_none() {
            self.usage = usage.map(Box::new);
        }
        // The observation is about this very process, the reap is by its ID. So they can differ, and then the exit notice decides
        // (`Exit::arbitrate`). A status that was returned stands in any case: all waiters get the same.
        let status = match observed {
            Observed::Running => return Ok(None),
            Observed::Exited(Some(seen)) if self.pinned || self.waiters > 0 => {
                return Ok(Some(*self.returned.get_or_insert(seen)));
            }
            // Only the reap shows the status. The exit has woken the waiters, so they leave soon. A pin has no such end:
            // the status is worth more than the process ID.
            Observed::Exited(None) if self.waiters > 0 => return Ok(self.returned),
            Observed::Exited(seen) => match (self.child.reap()?, self.returned.or(seen)) {
                (Reaped::Status(reaped), Some(seen))
                    if self.returned.is_none() && reaped != seen =>
                {
                    Some(exit.arbitrate(seen, reaped))
                }
                (_, Some(seen)) => Some(seen),
                (Reaped::Status(status), None) => Some(status),
                (Reaped::NotYet, None) => return Ok(None),
                (Reaped::NoSuchChild, None) => exit.recover(),
            },
            Observed::ReapedElsewhere => self.returned.or_else(|| exit.recover()),
        };
        self.settle(status).map(Some)
    }

    /// Remembers the result: the child was reaped, by this process or elsewhere.
    fn settle(&mut self, status: Option<ExitStatus>) -> io::Result<ExitStatus> {
        self.life.disarm();
        self.life = Life::Reaped(status);
        self.result(status)
    }

    fn result(&self, status: Option<ExitStatus>) -> io::Result<ExitStatus> {
        status.ok_or_else(|| reaped_elsewhere(self.child.id()))
    }
}
