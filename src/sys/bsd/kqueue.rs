//! macOS, iOS and the BSDs: a kqueue that holds one event, the child's exit.
//!
//! `EVFILT_PROC` with `NOTE_EXIT` is bound to the process, not to its ID: once registered, it cannot fire for another
//! process. The event is *left in the queue*, so the descriptor stays readable: any number of threads can `poll` it,
//! before and after the exit, and none takes the event from another.
//!
//! The states of the child, and what this mechanism observes in each:
//!
//! | child | registering | the descriptor | reaping by ID |
//! |---|---|---|---|
//! | runs | succeeds | not readable | not yet |
//! | runs, hidden by a policy (FreeBSD) | ESRCH | none: the helper thread serves the child | not yet |
//! | exiting | FreeBSD and DragonFly fire at once; others: ESRCH | readable | not yet, then a zombie: the caller polls again |
//! | zombie | the same | readable | its status |
//! | zombie that a debugger holds | the same | readable | ECHILD, but the identity is still the child's: the caller polls again |
//! | reaped elsewhere, ID free | ESRCH | readable | ECHILD: the status of the event |
//! | zombie, reparented because SIGCHLD is ignored (FreeBSD) | fires at once | readable | ECHILD, and the identity has another parent: the status of the event |
//! | reaped elsewhere, ID taken | not registered any more | readable | not tried: the identity is another process's |
//!
//! Where ESRCH means that the child is exiting or reaped ([`System::kevent_misses_exiting`]) no event will come. A
//! timer replaces it, so that the descriptor becomes readable for a poll and for the queue of many children.
//!
//! `exec` closes a kqueue, and *the child of a fork does not inherit it*: there the number may mean another descriptor.
//! So the child of a fork neither uses nor closes a [`Queue`]. Type-checked, not run.
//!
//! Sources: kqueue(2) of macOS, FreeBSD, NetBSD, OpenBSD and DragonFly.

use crate::fork_guard::ForkGuard;
use crate::sys::Observed;
use crate::sys::unix::by_pid::{self, ChildById, Pid};
use crate::sys::unix::notice::ProcessDescriptor;
use crate::sys::unix::syscall::{check, owned, poll_readable, set_close_on_exec, timespec};
use crate::sys::unix::system::System;
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::{Duration, Instant};

const SYSTEM: System = crate::sys::PLATFORM.system.expect("it has kqueues");

#[derive(Debug)]
struct Kqueue {
    queue: Queue,
    child: ChildById,
    /// The child was exiting, or reaped, before it could be registered.
    late: bool,
}

/// Opens a kqueue with the exit event of a child of this process. `None` if no descriptor is spare, if the child has
/// been reaped, or if the system does not permit this process to watch it.
pub(crate) fn open(pid: Pid) -> Option<Box<dyn ProcessDescriptor>> {
    let queue = Queue::new().ok()?;
    let late = match queue.add_exit(pid, EXIT_WITH_STATUS) {
        Ok(()) => false,
        Err(error)
            if error.raw_os_error() == Some(libc::ESRCH) && SYSTEM.kevent_misses_exiting() =>
        {
            queue.fire_soon().ok()?;
            true
        }
        Err(_) => return None,
    };
    let child = ChildById::new(pid);
    // The event is bound to another process only if another part of the program has reaped the child by now.
    match by_pid::observe(pid) {
        Ok(Observed::ReapedElsewhere) | Err(_) => None,
        Ok(_) => Some(Box::new(Kqueue { queue, child, late })),
    }
}

impl Kqueue {
    fn state(&self) -> io::Result<Observed> {
        if self.queue.inherited() {
            return Err(by_pid::no_child());
        }
        if !self.late && !poll_readable(self.as_fd(), Some(Instant::now())) {
            return Ok(Observed::Running);
        }
        // Without `waitid` only std's reap reports the status.
        Ok(self.child.observe().unwrap_or(Observed::Exited(None)))
    }
}

impl ProcessDescriptor for Kqueue {
    fn wait(&self, deadline: Option<Instant>) -> bool {
        // The child of a fork has nothing to wait for: the poll after this reports that. A late child is reported at
        // once, because not every system fires the timer in time.
        self.queue.inherited() || self.late || poll_readable(self.as_fd(), deadline)
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        Ok(self.child.with_usage(self.state()?))
    }

    /// Returns the status that came with the event. This takes the event out of the queue, so a waiter that is about to
    /// poll could sleep for ever. Therefore a timer makes the queue readable again, and for good, since no call takes
    /// the timer out.
    fn recover(&self) -> Option<ExitStatus> {
        if self.queue.inherited() {
            return None;
        }
        // This precedes taking the event: a waiter must not find an empty queue in between.
        self.queue.fire_soon().ok()?;
        // One event, and not the timer.
        let mut room = [NO_EVENT];
        let [event] = self.queue.take(&mut room, Some(Duration::ZERO)).ok()? else { return None };
        // macOS reports by a flag whether there is a status.
        let has_status = event.filter == libc::EVFILT_PROC
            && event.fflags & EXIT_WITH_STATUS == EXIT_WITH_STATUS;
        has_status.then(|| ExitStatus::from_raw(event.data as c_int))
    }

    fn signal(&self, signal: c_int) -> io::Result<()> {
        match self.state()? {
            Observed::Running => by_pid::signal(self.child.pid, signal),
            Observed::Exited(_) | Observed::ReapedElsewhere => Ok(()),
        }
    }

    fn signal_group(&self, signal: c_int) -> io::Result<()> {
        by_pid::signal_group(self.state(), self.child.pid, signal)
    }

    fn reap(&self) -> bool {
        match self.state() {
            Ok(Observed::Running) => false,
            Ok(Observed::Exited(_)) => by_pid::reap(self.child.pid),
            Ok(Observed::ReapedElsewhere) | Err(_) => true,
        }
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Opens a descriptor that becomes readable when the process that has this ID now, a child or not, exits, and that
/// stays readable. `None` if no descriptor is spare, if this process lacks permission to watch that process, or if that
/// process is exiting.
pub(crate) fn exit_of(pid: Pid) -> Option<Box<dyn AsFd + Send>> {
    let queue = Queue::new().ok()?;
    // Without the status, which macOS reports to parents only.
    queue.add_exit(pid, libc::NOTE_EXIT).ok()?;
    Some(Box::new(queue))
}

/// A kqueue that only the process that made it uses and closes.
#[derive(Debug)]
pub(super) struct Queue(ForkGuard<OwnedFd>);

impl Queue {
    /// Not every system has a variant of `kqueue` that sets the close-on-exec flag, and `posix_spawn`, by which std spawns,
    /// closes only descriptors with the flag.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the result is a new descriptor.
        let queue = unsafe { owned(libc::kqueue()) }?;
        set_close_on_exec(&queue)?;
        Ok(Self(ForkGuard::new(queue)))
    }

    /// Returns whether this process is the child of a fork, which has no such descriptor.
    fn inherited(&self) -> bool {
        self.0.is_copied()
    }

    fn add_exit(&self, pid: Pid, events: u32) -> io::Result<()> {
        let mut exit = event(libc::EVFILT_PROC as _, ADD_ONCE, pid.get(), 0);
        exit.fflags = events;
        self.change(&exit)
    }

    /// Makes the queue readable in a millisecond, and for good, by a timer that no call takes out. (Not every system
    /// has user events.) All systems use milliseconds where no unit is named, and NetBSD ignores a unit before version
    /// 10.
    fn fire_soon(&self) -> io::Result<()> {
        let mut timer = event(libc::EVFILT_TIMER as _, ADD_ONCE, 1, 0);
        timer.data = 1;
        self.change(&timer)
    }

    /// Adds an event, deletes it, or triggers it. Never blocks.
    pub(super) fn change(&self, event: &libc::kevent) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let now = timespec(Duration::ZERO);
        // SAFETY: one change is given, no event is requested, and both structs outlive the call.
        check(unsafe { libc::kevent(fd, event, 1, ptr::null_mut(), 0, &raw const now) }).map(drop)
    }

    /// Waits for events, and takes as many as there is room for. Returns none after the timeout.
    pub(super) fn take<'a>(
        &self,
        room: &'a mut [libc::kevent],
        timeout: Option<Duration>,
    ) -> io::Result<&'a [libc::kevent]> {
        let timeout = timeout.map(timespec);
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (fd, size) = (self.0.as_raw_fd(), room.len() as _);
        // SAFETY: no change is given, the slice has this length, and the timeout outlives the call.
        let taken = unsafe { libc::kevent(fd, ptr::null(), 0, room.as_mut_ptr(), size, timeout) };
        Ok(&room[..check(taken)? as usize])
    }
}

// SAFETY: integers and a pointer, for which zeroes are valid.
pub(super) const NO_EVENT: libc::kevent = unsafe { zeroed() };

pub(super) const ADD_ONCE: u32 = (libc::EV_ADD | libc::EV_ONESHOT) as _;

/// Returns an event for a process, a descriptor or a number. (The types of the fields differ between systems.)
pub(super) fn event(filter: i32, flags: u32, of: i32, key: usize) -> libc::kevent {
    let mut event = NO_EVENT;
    event.ident = of as usize;
    event.filter = filter as _;
    event.flags = flags as _;
    event.udata = key as _;
    event
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// macOS reports the status only if the second flag, NOTE_EXITSTATUS, requests it.
const EXIT_WITH_STATUS: u32 = match SYSTEM {
    System::Apple => libc::NOTE_EXIT | 0x0400_0000,
    _ => libc::NOTE_EXIT,
};
