//! Asking about a child, signalling it and reaping it by its process ID.
//!
//! A process ID is the child's own until the child is reaped. Everything here is therefore called before
//! our own reap. And because somebody else may have reaped the child, its
//! [`Identity`](super::identity::Identity) is asked: after what only looks, since who has the ID still, had
//! it then; and before a signal or a reap. What is left there is the moment between that question and the
//! system call: a foreign reaper, and a new process on the same ID, both within it. Only a pidfd closes it,
//! which is why Linux prefers that.

use super::siginfo;
use crate::backoff::Backoff;
use crate::sys::Look;
use std::ffi::c_int;
use std::io;
use std::process::ExitStatus;

/// A process ID: positive, so it never means a group or "any".
pub(crate) type Pid = rustix::process::Pid;

/// The ID as system calls want it. `None` for what cannot be a process ID.
pub(crate) fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().filter(|id| *id > 0).and_then(Pid::from_raw)
}

/// What the child of a fork gets for a handle that it has copied.
pub(crate) fn no_child() -> io::Error {
    io::Error::from_raw_os_error(libc::ECHILD)
}

/// Sends a signal (kill(2)). To a process that has gone it does nothing, and that is fine.
pub(crate) fn signal(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: `kill` takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) } == 0 {
        return Ok(());
    }
    gone_is_fine(io::Error::last_os_error())
}

/// Sends a signal to the group that the child leads, unless somebody else has reaped the child: then the
/// group's ID may be anybody's. (kill(2).)
pub(crate) fn signal_group(leader: io::Result<Look>, pid: Pid, signal: c_int) -> io::Result<()> {
    if let Ok(Look::ReapedElsewhere) = leader {
        return Err(no_child());
    }
    // SAFETY: `kill` takes two integers and touches no memory of ours. A `Pid` is positive, and its
    // negative means a group; 1, whose negative means everybody, is no child of ours.
    if unsafe { libc::kill(-pid.as_raw_nonzero().get(), signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // macOS says so of a group of zombies, as the leader is one. It does not tell them from those who may not be
    // signalled.
    let only_zombies = cfg!(target_vendor = "apple")
        && error.raw_os_error() == Some(libc::EPERM)
        && matches!(leader, Ok(Look::Exited(_) | Look::Held(_)));
    if only_zombies { Ok(()) } else { gone_is_fine(error) }
}

/// A signal to a process that has gone does nothing, as `kill` and `send_signal` promise.
pub(crate) fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Reaps the child if it is a zombie, and forgets its status. Says whether it is gone. (waitpid(2).)
pub(crate) fn reap(pid: Pid) -> bool {
    use rustix::process::{WaitOptions, waitpid};
    // ECHILD means gone. Any other error is undocumented for these arguments, and trying again would
    // gain nothing.
    !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
}

/// Where the child stands, without reaping it.
pub(crate) fn look(pid: Pid) -> io::Result<Look> {
    waitid(pid, libc::WNOHANG)
}

/// Blocks until the process has exited or is none of our children any more, without reaping it.
pub(crate) fn block(pid: Pid) {
    let mut pause = Backoff::new();
    // `Running` is macOS's stopped child (see below).
    while let Ok(Look::Running) = waitid(pid, 0) {
        pause.sleep(None);
    }
}

/// waitid(2) with `WEXITED | WNOWAIT`: an exit is seen, and stays to be seen.
fn waitid(pid: Pid, options: c_int) -> io::Result<Look> {
    let id = pid.as_raw_nonzero().get().unsigned_abs() as libc::id_t;
    let options = options | libc::WEXITED | libc::WNOWAIT;
    // SAFETY: `info` is a writable siginfo_t for the whole call, and nothing else is pointed to.
    look_by(|info| unsafe { libc::waitid(libc::P_PID, id, info, options) })
}

/// Where a child stands, according to `wait`: a call that writes as waitid(2) does, or returns another number than zero.
pub(crate) fn look_by(mut wait: impl FnMut(*mut libc::siginfo_t) -> c_int) -> io::Result<Look> {
    use std::os::unix::process::ExitStatusExt;
    let mut room = siginfo::Room::new();
    while wait(room.as_mut_ptr()) != 0 {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Look::ReapedElsewhere),
            _ => return Err(error),
        }
    }
    Ok(match room.report() {
        siginfo::Report::NoExit => Look::Running,
        siginfo::Report::Exit(status) => Look::Exited(status.map(ExitStatus::from_raw)),
    })
}
