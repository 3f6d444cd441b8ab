//! macOS, iOS and the BSDs: a kqueue that holds one event, the child's exit.
//!
//! `EVFILT_PROC` with `NOTE_EXIT` is bound to the process, not to its ID: once registered it cannot
//! fire for a stranger. The event is *left in the queue*. So the descriptor stays readable, and any
//! number of threads can `poll` it, before and after the exit, without taking the event from each
//! other.
//!
//! The states of the child, and what is seen of them:
//!
//! | child | registering | the descriptor | reaping by ID |
//! |---|---|---|---|
//! | runs | succeeds | not readable | not yet |
//! | runs, hidden by a policy (FreeBSD) | ESRCH | none: the helper thread serves it | not yet |
//! | in its last steps | FreeBSD and DragonFly fire at once; others: ESRCH | readable | not yet, then a zombie: the caller looks again |
//! | zombie | the same | readable | its status |
//! | zombie that a debugger holds | the same | readable | ECHILD, and yet there by its [`Identity`]: the caller looks again |
//! | reaped elsewhere, ID free | ESRCH | readable | ECHILD: [`Kqueue::recover`] |
//! | zombie, reparented since SIGCHLD is ignored (FreeBSD) | fires at once | readable | ECHILD, and its [`Identity`] says so: [`Kqueue::recover`] |
//! | reaped elsewhere, ID taken | not registered any more | readable | not tried: [`Identity`] says that it is another |
//!
//! Where ESRCH means that the child is exiting or gone ([`System::kevent_misses_exiting`]) there is no event to wait
//! for. So that the descriptor tells that as well, to a poll and to the reaper's watch, a timer is put in the event's
//! place.
//!
//! A kqueue is closed by `exec` and *not inherited by a fork's child*: there the number may mean
//! anything. So a [`Queue`] is neither used nor closed there. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use crate::sys::own::Own;
use crate::sys::unix::by_pid::{self, Pid};
use crate::sys::unix::identity::{self, Identity};
use crate::sys::unix::notice as unix;
use crate::sys::unix::system::System;
use crate::sys::{Look, usage};
use crate::usage::Usage;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const SYSTEM: System = System::THIS.expect("it has kqueues");

#[derive(Debug)]
pub(crate) struct Kqueue {
    queue: Queue,
    pid: Pid,
    identity: Option<Identity>,
    /// It was exiting, or gone, before it could be registered.
    late: bool,
}

impl Kqueue {
    /// The exit event of a child of this process. `None` without a descriptor to spare, if the child
    /// has been reaped already, or if the system does not let this process watch it.
    pub(crate) fn open(pid: Pid) -> Option<Self> {
        let queue = Queue::new().ok()?;
        let late = match queue.add_exit(pid, exit_with_status()) {
            Ok(()) => false,
            Err(rustix::io::Errno::SRCH) if SYSTEM.kevent_misses_exiting() => {
                queue.fire_soon()?;
                true
            }
            Err(_) => return None,
        };
        let identity = Identity::of(pid);
        // Registered with a stranger? Only if somebody else has reaped the child already.
        match by_pid::look(pid) {
            Ok(Look::ReapedElsewhere) | Err(_) => None,
            Ok(_) => Some(Self { queue, pid, identity, late }),
        }
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        // In a fork there is nothing to wait for: the look says so. And to one that was late it is said at
        // once, since not every system fires a timer when one would like it to.
        self.queue.inherited() || self.late || unix::poll_readable(self.as_fd(), deadline)
    }

    pub(crate) fn look(&self) -> io::Result<Look> {
        if self.queue.inherited() {
            return Err(by_pid::no_child());
        }
        if !self.late && !unix::poll_readable(self.as_fd(), Some(Instant::now())) {
            return Ok(Look::Running);
        }
        // Without `waitid`, std's reap tells.
        Ok(identity::look(self.identity.as_ref(), self.pid).unwrap_or(Look::Exited(None)))
    }

    /// The status that came with the event. Takes the event out of the queue, so a waiter that is
    /// about to poll could sleep for ever: hence the timer, which makes the queue readable again, and
    /// for good since nobody takes it out.
    pub(crate) fn recover(&self) -> Option<ExitStatus> {
        if self.queue.inherited() {
            return None;
        }
        // Before the event goes: a waiter that comes in between must not find nothing and stay.
        self.queue.fire_soon()?;
        // One, and not the timer's.
        let mut room = [MaybeUninit::uninit()];
        // SAFETY: no changes are made, so no descriptor is registered here.
        let taken = unsafe { kevent(&self.queue, &[], &mut room, Some(Duration::ZERO)) };
        let event = taken.ok()?.0.first()?;
        match event.filter() {
            // macOS says by a flag whether there is a status.
            EventFilter::Proc { flags, .. } if flags.contains(exit_with_status()) => {
                Some(ExitStatus::from_raw(event.data() as c_int))
            }
            _ => None,
        }
    }

    pub(crate) fn look_with_usage(&self) -> io::Result<(Look, Option<Usage>)> {
        Ok(usage::with_usage(self.look()?, self.identity.as_ref(), self.pid))
    }

    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        match self.look()? {
            Look::Running => by_pid::signal(self.pid, signal),
            Look::Exited(_) | Look::Held(_) | Look::ReapedElsewhere => Ok(()),
        }
    }

    pub(crate) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        by_pid::signal_group(self.look(), self.pid, signal)
    }

    pub(crate) fn reap(&self) -> bool {
        match self.look() {
            Ok(Look::Running) => false,
            Ok(Look::Exited(_) | Look::Held(_)) => by_pid::reap(self.pid),
            Ok(Look::ReapedElsewhere) | Err(_) => true,
        }
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// The exit event of any process, by whoever has the ID just now: a descriptor that becomes readable when that
/// exits, and stays so. `None` without a descriptor to spare, if the process may not be watched, and if it is
/// as good as gone.
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) fn exit_of(pid: Pid) -> Option<impl AsFd> {
    let queue = Queue::new().ok()?;
    // Without the status, which macOS tells to parents only.
    queue.add_exit(pid, ProcessEvents::EXIT).ok()?;
    Some(queue)
}

/// A kqueue, in the process that has it.
#[derive(Debug)]
pub(super) struct Queue(Own<OwnedFd>);

impl Queue {
    /// rustix's `kqueue` sets no close-on-exec flag where the system call takes none, and std's
    /// children are made by `posix_spawn`, which closes what has it.
    pub(super) fn new() -> rustix::io::Result<Self> {
        let queue = kqueue()?;
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self(Own::new(queue)))
    }

    /// This is a fork's child, and the descriptor is not ours.
    fn inherited(&self) -> bool {
        self.0.is_copied()
    }

    fn add_exit(&self, pid: Pid, flags: ProcessEvents) -> rustix::io::Result<()> {
        let filter = EventFilter::Proc { pid, flags };
        self.change(Event::new(filter, EventFlags::ADD | EventFlags::ONESHOT, null_mut()))
    }

    pub(super) fn change(&self, event: Event) -> rustix::io::Result<()> {
        let mut none: [Event; 0] = [];
        // SAFETY: where the event names a descriptor, the caller borrows it, and the kernel drops the
        // event by itself when that is closed.
        unsafe { kevent(self, &[event], &mut none[..], Some(Duration::ZERO)) }.map(drop)
    }

    /// Has an event come at once, as good as, and stay since nobody takes it out: a timer of 1 ms. (Events
    /// that one can trigger oneself are not everywhere.) In plain C, since milliseconds are what all
    /// systems mean if no unit is named, and rustix names one, which NetBSD before 10 would not heed.
    fn fire_soon(&self) -> Option<()> {
        // SAFETY: integers and pointers, for which zeroes are valid.
        let mut timer: libc::kevent = unsafe { std::mem::zeroed() };
        timer.ident = 1;
        timer.filter = libc::EVFILT_TIMER;
        timer.flags = libc::EV_ADD | libc::EV_ONESHOT;
        timer.data = 1;
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: one change is given, no event is asked for, and both structs outlive the call.
        let result = unsafe {
            libc::kevent(self.0.as_raw_fd(), &raw const timer, 1, null_mut(), 0, &raw const now)
        };
        (result == 0).then_some(())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// macOS tells the status only to those who ask for it.
fn exit_with_status() -> ProcessEvents {
    #[cfg(target_vendor = "apple")]
    return ProcessEvents::EXIT | ProcessEvents::from_bits_retain(libc::NOTE_EXITSTATUS);
    #[cfg(not(target_vendor = "apple"))]
    return ProcessEvents::EXIT;
}
