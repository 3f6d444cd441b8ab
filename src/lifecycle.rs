//! Exit is noticed, then reaped once, then remembered.
//!
//! This is the whole argument why nothing here can race, and nothing here knows an operating system:
//! the child and its exit notice are parameters, so that `model.rs` can check every interleaving.
//!
//! One mutex guards the state. It is never held over anything that blocks. What happens under it, in
//! this order:
//!
//! - *signal*: only in `Unreaped`. We have not reaped the child, so unless somebody else has (which
//!   the exit notice knows or finds out), its process ID is still its own.
//! - *look*: has it exited? If so, what has it used, which only a zombie tells; then
//! - *reap*, last and once: after it, the kernel may give the process ID to a stranger. So the state
//!   turns to `Exited` before the lock is released, and no signal, look or reap happens ever after.
//!
//! A mechanism that goes by the process ID has waiters that rely on it while they block. As long as
//! there are any, an exit is told but not reaped; each looks again on its way out, and the last reaps.
//! The same holds while the child is *pinned*, because something else goes by its process ID: a process
//! group has the ID of its leader, and both stay taken for as long as the zombie is there.
//!
//! Waiters block outside the lock, in [`Exit::wait`], which does not reap. Each waits for itself: there
//! is no leader whose fate the others share. A waiter holds an `Arc` of the notice, so the descriptor
//! it blocks on stays open until it has left, although whoever reaps drops the state's own `Arc`.

use crate::backoff::Backoff;
use crate::sync::{Arc, Mutex};
use crate::sys::{Exit, Look, Reap, Reaped, reaped_elsewhere};
use crate::usage::Usage;
use std::io;
use std::process::ExitStatus;
use std::time::Instant;

pub(crate) struct Lifecycle<C, E: Exit>(Mutex<State<C, E>>);

struct State<C, E: Exit> {
    /// Before the child, on whose resources a notice may rely until it is abandoned.
    life: Life<E>,
    child: C,
    /// The status of a child that could not be reaped yet. It has been told, so it stands.
    held: Option<ExitStatus>,
    /// Comes with the exit that is seen first, so before the reap. Boxed since handles are many, and small.
    usage: Option<Box<Usage>>,
    /// Not to be reaped though it may have exited, for the sake of its process ID.
    pinned: bool,
}

enum Life<E: Exit> {
    /// Not reaped by us. The guard makes sure that somebody will.
    Unreaped(ReapGuard<E>),
    /// Reaped, and this was its status.
    Exited(ExitStatus),
    /// Somebody else reaped it, and its status is gone for good.
    Lost,
}

/// The duty to reap. If it is dropped armed, it abandons the child.
struct ReapGuard<E: Exit> {
    exit: Arc<E>,
    /// Reaps the child when it exits.
    abandon: fn(&Arc<E>),
    armed: bool,
    /// The process that wants the child killed when this is dropped. What a fork has copied is not its
    /// own to kill.
    killed_by: Option<u32>,
}

impl<E: Exit> Drop for ReapGuard<E> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // Before it may be reaped. If it cannot be killed there is nobody left to tell.
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

    /// A child whose status is known already.
    pub(crate) fn exited(child: C, status: ExitStatus) -> Self {
        Self::with(child, Life::Exited(status))
    }

    /// A child that somebody else has reaped.
    pub(crate) fn lost(child: C) -> Self {
        Self::with(child, Life::Lost)
    }

    fn with(child: C, life: Life<E>) -> Self {
        Self(Mutex::new(State { life, child, held: None, usage: None, pinned: false }))
    }

    /// From here on an exit is told, but the child not reaped: its process ID stays taken.
    pub(crate) fn pin(&self) {
        self.0.lock().pinned = true;
    }

    /// The process ID is not needed any more. Reaps the child if it has exited.
    pub(crate) fn unpin(&self) {
        let was_pinned = std::mem::take(&mut self.0.lock().pinned);
        if was_pinned {
            // Whatever is wrong, the next to wait is told.
            let _ = self.try_wait();
        }
    }

    /// Whether the child is to be killed when this is dropped.
    pub(crate) fn kill_on_drop(&self, kill: bool) {
        if let Life::Unreaped(guard) = &mut self.0.lock().life {
            guard.killed_by = kill.then(std::process::id);
        }
    }

    /// Blocks until the child has exited, or until the deadline (`None`). Looks at least once.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        let mut pause = Backoff::new();
        loop {
            let Some(exit) = self.notice() else {
                return self.try_wait(); // from memory
            };
            let noticed = exit.wait(deadline)?;
            drop(exit);
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            // Noticed, and yet not to be had: the exit is still in the making (see `Backoff`). The
            // notice would not block, so pause instead of spinning.
            if !noticed || !pause.sleep(deadline) {
                return Ok(None);
            }
        }
    }

    /// What to block on while the child is unreaped.
    pub(crate) fn notice(&self) -> Option<Arc<E>> {
        match &self.0.lock().life {
            Life::Unreaped(guard) => Some(Arc::clone(&guard.exit)),
            Life::Exited(_) | Life::Lost => None,
        }
    }

    /// The status, if the child has exited. Never blocks.
    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut state = self.0.lock();
        let exit = match &state.life {
            Life::Unreaped(guard) => Arc::clone(&guard.exit),
            Life::Exited(status) => return Ok(Some(*status)),
            Life::Lost => return Err(reaped_elsewhere(state.child.id())),
        };
        let answer = state.reap_if_exited(&exit);
        // Unlock before `exit` goes: the last of it closes a descriptor, and nobody need wait for that.
        drop(state);
        answer
    }

    /// What the child has used, if its exit has been seen, and as far as the system told.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.0.lock().usage.as_deref().copied()
    }

    /// Hands the notice to `send` if the child may still be signalled; otherwise there is nothing to
    /// do, which is fine.
    pub(crate) fn signal(&self, send: impl FnOnce(&E) -> io::Result<()>) -> io::Result<()> {
        // The lock is held until the signal is sent: nobody can reap before that.
        match &self.0.lock().life {
            Life::Unreaped(guard) => send(&guard.exit),
            Life::Exited(_) | Life::Lost => Ok(()),
        }
    }

    /// Gives the child to `f`, for what is not about its exit (its pipes, say).
    pub(crate) fn with_child<T>(&self, f: impl FnOnce(&mut C) -> T) -> T {
        f(&mut self.0.lock().child)
    }

    /// The child as it is. Whoever gets it has the duty to reap it.
    pub(crate) fn into_inner(self) -> C {
        self.unpin();
        let mut state = self.0.into_inner();
        state.life.disarm();
        state.child
    }

    /// What is known, in a word or two.
    pub(crate) fn describe(&self, f: &mut std::fmt::DebugStruct<'_, '_>)
    where
        E: std::fmt::Debug,
    {
        // Formatting runs the caller's code, which may block, or use this very handle: not under the lock.
        let (exit, status) = {
            let state = self.0.lock();
            match &state.life {
                Life::Unreaped(guard) => (Some(Arc::clone(&guard.exit)), None),
                Life::Exited(status) => (None, Some(*status)),
                Life::Lost => (None, None),
            }
        };
        match (exit, status) {
            (Some(exit), _) => f.field("notice", &exit),
            (None, Some(status)) => f.field("status", &status),
            (None, None) => f.field("status", &"reaped elsewhere"),
        };
    }
}

impl<C: Reap, E: Exit> State<C, E> {
    fn reap_if_exited(&mut self, exit: &E) -> io::Result<Option<ExitStatus>> {
        // Keep the usage even if the child is not reaped now: another part of the program may reap it before the next look.
        let (look, usage) = exit.look()?;
        if self.usage.is_none() {
            self.usage = usage.map(Box::new);
        }
        // The look is about this very process, the reap goes by its ID. So they can differ, and then the
        // exit notice decides (`Exit::arbitrate`). A status that has been told stands in any case: all
        // waiters get the same.
        let status = match look {
            Look::Running => return Ok(None),
            // (Where only the reap tells the status, it goes before the pin.)
            Look::Exited(Some(seen)) if self.pinned => {
                let told = *self.held.get_or_insert(seen);
                return Ok(Some(told));
            }
            Look::Exited(seen) => match (self.child.reap()?, self.held.or(seen)) {
                (Reaped::Status(reaped), Some(seen)) if self.held.is_none() && reaped != seen => {
                    Some(exit.arbitrate(seen, reaped))
                }
                (_, Some(seen)) => Some(seen),
                (Reaped::Status(status), None) => Some(status),
                (Reaped::NotYet, None) => return Ok(None),
                (Reaped::NoSuchChild, None) => exit.recover(),
            },
            Look::Held(seen) => {
                let told = *self.held.get_or_insert(seen);
                return Ok(Some(told));
            }
            Look::ReapedElsewhere => self.held.or_else(|| exit.recover()),
        };
        self.settle(status).map(Some)
    }

    /// The child has been reaped, by whomever: remember what there is to know.
    fn settle(&mut self, status: Option<ExitStatus>) -> io::Result<ExitStatus> {
        self.life.disarm();
        match status {
            Some(status) => {
                self.life = Life::Exited(status);
                Ok(status)
            }
            None => {
                self.life = Life::Lost;
                Err(reaped_elsewhere(self.child.id()))
            }
        }
    }
}
