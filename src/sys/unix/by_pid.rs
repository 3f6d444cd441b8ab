//! A child known by its process ID.
//!
//! A process ID is the child's own until the child is reaped. So all functions here are called before this library
//! reaps the child. Another part of the program may have reaped the child. So the child's [`Identity`] is checked after
//! every call that only reads (if the ID is the child's now, it was the child's during the call), and before every
//! signal and reap. A gap is left between that check and the system call: a foreign reap *and* a new process on the
//! same ID within this gap are missed. Only a pidfd has no such gap.

use super::siginfo;
use crate::backoff::Backoff;
use crate::sys::unix::system::{Same, System};
use crate::sys::{Observed, PLATFORM};
use crate::usage::Usage;
use std::ffi::c_int;
use std::fmt::Debug;
use std::io;
use std::process::ExitStatus;

/// A process ID: positive, so it never means a group or every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pid(i32);

impl Pid {
    /// Returns `None` if the number cannot be a process ID.
    pub(crate) fn new(id: i32) -> Option<Self> {
        (id > 0).then_some(Self(id))
    }

    pub(crate) fn get(self) -> i32 {
        self.0
    }
}

/// Returns the error for a copied handle in the child of a fork.
pub(crate) fn no_child() -> io::Error {
    io::Error::from_raw_os_error(libc::ECHILD)
}

/// Distinguishes a child from the next owner of its process ID, without reaping it.
pub(crate) trait Identity: Debug + Send + Sync {
    fn check(&self) -> Same;
}

#[derive(Debug)]
pub(crate) struct ChildById {
    pub(crate) pid: Pid,
    identity: Option<Box<dyn Identity>>,
}

impl ChildById {
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid, identity: PLATFORM.identity.and_then(|of| of(pid)) }
    }

    /// Returns the child's state. An error means that `waitid` is not available (a sandbox), and that no other reaper
    /// is known to have reaped the child.
    pub(crate) fn observe(&self) -> io::Result<Observed> {
        let of_zombie = || PLATFORM.status_of_zombie.and_then(|of| of(self.pid));
        let seen = observe(self.pid).map(|observed| with_status(observed, of_zombie));
        judge(seen, self.check())
    }

    /// Adds the usage to the child's state. `None` if the child is no zombie, if another part of the program has reaped
    /// it, or if the system reports the usage to a reaper alone.
    pub(crate) fn with_usage(&self, observed: Observed) -> (Observed, Option<Usage>) {
        let usage = if observed.is_zombie() {
            PLATFORM.usage_of_zombie.and_then(|of| of(self.pid))
        } else {
            None
        };
        (observed, usage.filter(|_| self.check() != Some(Same::No)))
    }

    fn check(&self) -> Option<Same> {
        self.identity.as_ref().map(|identity| identity.check())
    }

    /// Sends a signal to the child if it is not known to have ended.
    pub(crate) fn signal(&self, number: c_int) -> io::Result<()> {
        match self.observe() {
            Ok(Observed::Running) | Err(_) => signal(self.pid, number),
            Ok(Observed::Exited(_) | Observed::ReapedElsewhere) => Ok(()),
        }
    }

    /// Sends a signal to the group that the child leads, unless another part of the program has reaped the child: then
    /// the ID of the group may belong to another group.
    pub(crate) fn signal_group(&self, number: c_int) -> io::Result<()> {
        signal_group(self.observe(), self.pid, number)
    }
}

/// Adds the status from the process table where `waitid` does not report it: macOS 10.12 to 10.15 do not write into a
/// `siginfo_t` which signal ended a child. Otherwise only a reap would report the status, and a pinned leader would be
/// reaped (`lifecycle.rs`).
fn with_status(observed: Observed, of_zombie: impl FnOnce() -> Option<ExitStatus>) -> Observed {
    match observed {
        Observed::Exited(None) => Observed::Exited(of_zombie()),
        observed => observed,
    }
}

/// Derives the state of the child from the report of `waitid` about the ID and from the later check of the identity.
fn judge(seen: io::Result<Observed>, same: Option<Same>) -> io::Result<Observed> {
    match (same, &seen) {
        (Some(Same::No), _) => Ok(Observed::ReapedElsewhere),
        // The child exists, and `waitid` does not find it: on some systems an attached debugger is its parent until it
        // detaches. Or a foreign reaper has not finished its reap.
        (Some(Same::Yes), Ok(Observed::ReapedElsewhere)) => Ok(Observed::Running),
        _ => seen,
    }
}

/// Sends a signal (kill(2)). Succeeds without effect if there is no such process.
pub(crate) fn signal(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: `kill` takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid.get(), signal) } == 0 {
        return Ok(());
    }
    ignore_missing(io::Error::last_os_error())
}

/// Sends a signal to the group of a leader in this state (kill(2)).
pub(crate) fn signal_group(
    leader: io::Result<Observed>,
    pid: Pid,
    signal: c_int,
) -> io::Result<()> {
    if let Ok(Observed::ReapedElsewhere) = leader {
        return Err(no_child());
    }
    // SAFETY: `kill` takes two integers and touches no memory of this process. A `Pid` is positive, and its negative
    // means a group; 1, whose negative means every process, is no child of this process.
    if unsafe { libc::kill(-pid.get(), signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // XNU answers EPERM for a group of zombies, and also for a group whose members this process lacks permission to
    // signal. If the leader is a zombie, assume a group of zombies.
    let only_zombies = PLATFORM.system == Some(System::Apple)
        && error.raw_os_error() == Some(libc::EPERM)
        && leader.is_ok_and(Observed::is_zombie);
    if only_zombies { Ok(()) } else { ignore_missing(error) }
}

/// Ignores ESRCH: a signal to a reaped process succeeds without effect, as `kill` and `send_signal` promise.
pub(crate) fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Reaps the child if it is a zombie, and discards the status. Returns whether the child is reaped (waitpid(2)).
pub(crate) fn reap(pid: Pid) -> bool {
    // SAFETY: the arguments are integers, and no status is requested.
    let reaped = unsafe { libc::waitpid(pid.get(), std::ptr::null_mut(), libc::WNOHANG) };
    // An error is ECHILD: the child is reaped. No other is documented for these arguments, and another attempt would
    // gain nothing.
    reaped != 0
}

/// Returns the state of the process with this ID, if it is a child of this process. Does not reap.
pub(crate) fn observe(pid: Pid) -> io::Result<Observed> {
    waitid(pid, libc::WNOHANG)
}

/// Blocks until the process has exited or is no child of this process any more. Does not reap.
pub(crate) fn block(pid: Pid) {
    let mut pause = Backoff::new();
    // `Running`: macOS returns for a stopped child as well (`siginfo.rs`).
    while let Ok(Observed::Running) = waitid(pid, 0) {
        pause.sleep(None);
    }
}

/// Calls waitid(2) with `WEXITED | WNOWAIT`, which leaves the zombie for later calls.
fn waitid(pid: Pid, options: c_int) -> io::Result<Observed> {
    let id = pid.get().unsigned_abs() as libc::id_t;
    let options = options | libc::WEXITED | libc::WNOWAIT;
    // SAFETY: `info` is a writable siginfo_t for the whole call. There is no other pointer.
    observe_by(|info| unsafe { libc::waitid(libc::P_PID, id, info, options) })
}

/// Returns the state of a child according to `wait`, which writes as waitid(2) does, or returns a number other than
/// zero.
pub(crate) fn observe_by(
    mut wait: impl FnMut(*mut libc::siginfo_t) -> c_int,
) -> io::Result<Observed> {
    let mut room = siginfo::Room::new();
    while wait(room.as_mut_ptr()) != 0 {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Observed::ReapedElsewhere),
            _ => return Err(error),
        }
    }
    Ok(room.observed())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Observed, Same, judge, with_status};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    /// The identity decides the state after `waitid` fails with ECHILD.
    #[test]
    fn child_that_waitid_does_not_find_runs_unless_it_is_reparented() {
        let judged =
            |same| judge(Ok(Observed::ReapedElsewhere), Some(same)).expect("no error went in");
        assert_eq!(judged(Same::Yes), Observed::Running);
        assert_eq!(judged(Same::Reparented), Observed::ReapedElsewhere);
        assert_eq!(judged(Same::Unknown), Observed::ReapedElsewhere);
    }

    #[test]
    fn child_with_recycled_id_counts_as_reaped_elsewhere() {
        let seen = judge(Ok(Observed::Running), Some(Same::No)).expect("no error went in");
        assert_eq!(seen, Observed::ReapedElsewhere);
    }

    #[test]
    fn death_by_signal_without_its_number_has_the_status_of_the_process_table() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(
            with_status(Observed::Exited(None), || Some(killed)),
            Observed::Exited(Some(killed))
        );
        let known = Observed::Exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(with_status(known, || panic!("the status is known")), known);
        assert_eq!(with_status(Observed::Running, || panic!("it runs")), Observed::Running);
    }
}
