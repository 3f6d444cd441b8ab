//! Linux: a pidfd, a descriptor that means one process and never another.
//!
//! | what | since | fails with |
//! |---|---|---|
//! | `pidfd_send_signal` | 5.1 | ENOSYS; EPERM under some sandboxes |
//! | `pidfd_open` | 5.3 | ENOSYS; EPERM under some sandboxes; EMFILE, ENFILE, ENOMEM |
//! | `poll` on a pidfd | 5.3 | |
//! | `waitid(P_PIDFD)` | 5.4 | EINVAL |
//! | `PIDFD_SIGNAL_PROCESS_GROUP` | 6.9 | EINVAL |
//! | `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` | 6.15 | ENOTTY, EINVAL; ESRCH once reaped before 6.15 |
//!
//! Versions say little under seccomp, gVisor or a full descriptor table, so each is tried. Where
//! `pidfd_open` or `waitid` fails for any reason, [`Pidfd::open`] answers `None`; where only the signal
//! does, signals go by the process ID, or the group's; where only the ioctl does, a status that somebody
//! else has taken is lost.
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2), and `fs/pidfs.c` for the ioctl.

use super::waitid::look_by_pidfd;
use crate::sys::Look;
use crate::sys::unix::by_pid::{self, Pid};
use crate::sys::unix::notice as unix;
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Pidfd {
    fd: OwnedFd,
    pid: Pid,
}

impl Pidfd {
    /// The pidfd of a child of this process. `None` if pidfds do not serve here, or if the child has
    /// been reaped already: then the ID is free (ESRCH), or it means a process that is no child of ours
    /// (ECHILD).
    pub(crate) fn open(pid: Pid) -> Option<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let pidfd = Self { fd, pid };
        match look_by_pidfd(pidfd.as_fd()) {
            Ok((Look::ReapedElsewhere, _)) | Err(_) => None,
            Ok(_) => Some(pidfd),
        }
    }

    /// The pidfd that a child has opened itself, and sent. `None` if `waitid` does not serve here. An error if another
    /// part of the program has reaped the child already: with its status, if the kernel kept that.
    pub(crate) fn of_child(fd: OwnedFd, pid: Pid) -> Option<Result<Self, Option<ExitStatus>>> {
        let pidfd = Self { fd, pid };
        let is_reaped = match look_by_pidfd(pidfd.as_fd()).ok()?.0 {
            Look::ReapedElsewhere => matches!(pidfd.look_for_reap(), Ok(Look::ReapedElsewhere)),
            _ => false,
        };
        Some(if is_reaped { Err(pidfd.recover()) } else { Ok(pidfd) })
    }

    /// Blocks until the process is a zombie, or reaped, or until the deadline. Any number of threads
    /// may do so at once; the kernel wakes those of this process only.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        unix::poll_readable(self.fd.as_fd(), deadline)
    }

    pub(crate) fn look(&self) -> io::Result<Look> {
        self.look_with_usage().map(|(look, _)| look)
    }

    pub(crate) fn look_with_usage(&self) -> io::Result<(Look, Option<Usage>)> {
        let look = match look_by_pidfd(self.fd.as_fd()) {
            Ok((Look::ReapedElsewhere, _)) => self.look_for_reap()?,
            Ok(look_and_usage) => return Ok(look_and_usage),
            // `waitid` worked when the pidfd was opened: a sandbox has closed since then.
            Err(_) if !self.has_ended() => Look::Running,
            Err(_) if self.recover().is_some() => Look::ReapedElsewhere,
            Err(_) => Look::Exited(None),
        };
        Ok((look, None))
    }

    /// A zombie, or reaped.
    fn has_ended(&self) -> bool {
        unix::poll_readable(self.fd.as_fd(), Some(Instant::now()))
    }

    /// `waitid` has answered ECHILD. The states that it answers so in:
    /// - It never was a child of *this* process, as in the child of a fork that copied the handle.
    ///   Then it may well be running, and nothing is final.
    /// - Another thread has decided to reap it and is not through yet. The exit status is not kept so
    ///   far, and the task still exists: the ioctl succeeds, and does not set `PIDFD_INFO_EXIT`. That
    ///   is over in microseconds unless the thread is preempted in the kernel. So ask for as long as
    ///   that usually takes, and then let the caller come back: there is a lock that others wait for.
    /// - It has been reaped.
    fn look_for_reap(&self) -> io::Result<Look> {
        if !self.has_ended() {
            return Err(by_pid::no_child());
        }
        for _ in 0..100 {
            match self.info() {
                Ok(None) => std::hint::spin_loop(),
                Ok(Some(_)) | Err(_) => return Ok(Look::ReapedElsewhere),
            }
        }
        Ok(Look::Running)
    }

    /// What the kernel keeps of a process that was reaped while a pidfd to it was open.
    pub(crate) fn recover(&self) -> Option<ExitStatus> {
        self.info().ok().flatten()
    }

    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        let error = match send(self.fd.as_raw_fd(), signal, 0) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Too late for any error to matter? (A zombie of another user answers EPERM as well.)
        if self.look()? != Look::Running {
            return Ok(());
        }
        // EPERM may be the truth (a child that has changed its user) or a sandbox that does not know
        // the call. On a descriptor that cannot exist, only the sandbox says EPERM.
        let blocked = match error.raw_os_error() {
            Some(libc::ENOSYS) => true,
            Some(libc::EPERM) => {
                send(-1, 0, 0).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
            }
            _ => false,
        };
        if blocked { by_pid::signal(self.pid, signal) } else { by_pid::gone_is_fine(error) }
    }

    /// Through the descriptor, this means the group that the process had the ID of, whoever has reaped
    /// the process since. Any error may just mean that the kernel does not know how; the other way then
    /// meets it again.
    pub(crate) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        const PROCESS_GROUP: u32 = 1 << 2;
        match send(self.fd.as_raw_fd(), signal, PROCESS_GROUP) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(_) => by_pid::signal_group(self.look(), self.pid, signal),
        }
    }

    /// Reaps it, and forgets its status. Says whether it is gone. Through the descriptor if possible, so
    /// that no other process can be meant.
    pub(crate) fn reap(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(None) => false,
            Ok(Some(_)) | Err(rustix::io::Errno::CHILD) => true,
            // A sandbox has closed, as above.
            Err(_) => self.recover().is_some() || by_pid::reap(self.pid),
        }
    }

    /// The exit status, once the process has been reaped (`Ok(None)` before).
    ///
    /// The kernel looks for the status first and for the task second. If the process is reaped in between, the
    /// call finds neither, and fails with ESRCH as if nothing were kept. By the second call the status is there.
    fn info(&self) -> rustix::io::Result<Option<ExitStatus>> {
        self.info_once().or_else(|_| self.info_once())
    }

    fn info_once(&self) -> rustix::io::Result<Option<ExitStatus>> {
        use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
        const GET_INFO: Opcode = opcode::read_write::<Info>(0xff, 11);
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: PIDFD_GET_INFO reads and writes a `struct pidfd_info` of the size that its opcode
        // tells; `Info` is the first version of it, which later kernels still take.
        unsafe { ioctl(&self.fd, Updater::<GET_INFO, Info>::new(&mut info)) }?;
        let known = info.mask & INFO_EXIT != 0;
        Ok(known.then(|| ExitStatus::from_raw(info.exit_code)))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// pidfd_send_signal(2). rustix's takes named signals only: no 0, no real-time ones.
pub(crate) fn send(fd: c_int, signal: c_int, flags: u32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null `info` means the one that `kill` would make; nothing else is pointed to.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` of `linux/pidfd.h`, in its first version (64 bytes).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    /// pid, tgid, ppid, and eight user and group IDs.
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64);
