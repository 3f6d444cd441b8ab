//! Linux: a pidfd, a descriptor that means one process and never another.
//!
//! | call | since | fails with |
//! |---|---|---|
//! | `pidfd_send_signal` | 5.1 | ENOSYS; EPERM under some sandboxes |
//! | `pidfd_open` | 5.3 | ENOSYS; EPERM under some sandboxes; EMFILE, ENFILE, ENOMEM |
//! | `poll` on a pidfd | 5.3 | |
//! | `waitid(P_PIDFD)` | 5.4 | EINVAL |
//! | `PIDFD_SIGNAL_PROCESS_GROUP` | 6.9 | EINVAL |
//! | `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` | 6.15 | ENOTTY, EINVAL; ESRCH once reaped before 6.15 |
//!
//! Versions say little under seccomp, gVisor or a full descriptor table, so each call is tried. If `pidfd_open` or
//! `waitid` fails for any reason, [`open`] returns `None`. If only the signal fails, signals go to the process ID, or
//! to the group's. If only the ioctl fails, the status is lost when another part of the program reaps the child.
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2), and `fs/pidfs.c` for the ioctl.

use super::waitid;
use crate::sys::Observed;
use crate::sys::unix::by_pid::{self, Pid};
use crate::sys::unix::notice::ProcessDescriptor;
use crate::sys::unix::process_table::Pidfds;
use crate::sys::unix::syscall::{check, owned, poll_readable};
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

#[derive(Debug)]
struct Pidfd {
    fd: OwnedFd,
    pid: Pid,
}

/// Opens a pidfd of a child of this process. `None` if pidfds do not work here, or if the child has been reaped: then
/// the ID is free (ESRCH), or means a process that is no child of this process (ECHILD).
pub(crate) fn open(pid: Pid) -> Option<Box<dyn ProcessDescriptor>> {
    let fd = open_any(pid).ok()?;
    match poll_pidfd(fd.as_fd()) {
        Ok((Observed::ReapedElsewhere, _)) | Err(_) => None,
        Ok(_) => Some(Box::new(Pidfd { fd, pid })),
    }
}

/// Accepts the pidfd that a child has opened itself, and sent. `None` if `waitid` does not work here. An error if
/// another part of the program has reaped the child, with the status if the kernel kept it.
pub(crate) fn accept(
    fd: OwnedFd,
    pid: Pid,
) -> Option<Result<Box<dyn ProcessDescriptor>, Option<ExitStatus>>> {
    let pidfd = Pidfd { fd, pid };
    let is_reaped = match poll_pidfd(pidfd.as_fd()).ok()?.0 {
        Observed::ReapedElsewhere => matches!(pidfd.poll_reap(), Ok(Observed::ReapedElsewhere)),
        _ => false,
    };
    Some(if is_reaped { Err(pidfd.recover()) } else { Ok(Box::new(pidfd)) })
}

/// Opens a pidfd of any process (pidfd_open(2)). The kernel makes it close-on-exec.
pub(crate) fn open_any(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the arguments are integers, and the result is a new descriptor.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) as c_int) }
}

impl Pidfd {
    /// Returns whether the process is a zombie or has been reaped.
    fn has_ended(&self) -> bool {
        poll_readable(self.fd.as_fd(), Some(Instant::now()))
    }

    /// Returns the state of a process for which `waitid` has returned ECHILD. It is one of these:
    /// - The process never was a child of *this* process, as in the child of a fork that copied the handle. It may be
    ///   running, and nothing is final.
    /// - Another thread is reaping it. The status is not kept yet, and the task exists: the ioctl succeeds, and does
    ///   not set `PIDFD_INFO_EXIT`. The reap ends within microseconds unless the kernel preempts that thread. So repeat
    ///   the ioctl for as long as a reap usually takes, and then have the caller poll again: other threads wait for the
    ///   caller's lock.
    /// - The process has been reaped.
    fn poll_reap(&self) -> io::Result<Observed> {
        if !self.has_ended() {
            return Err(by_pid::no_child());
        }
        for _ in 0..100 {
            match self.info() {
                Ok(None) => std::hint::spin_loop(),
                Ok(Some(_)) | Err(_) => return Ok(Observed::ReapedElsewhere),
            }
        }
        Ok(Observed::Running)
    }

    /// Returns the exit status, once the process has been reaped (`Ok(None)` before).
    ///
    /// The kernel reads the status first and finds the task second. If the process is reaped in between, the call fails
    /// with ESRCH as if nothing were kept. The second call finds the status.
    fn info(&self) -> io::Result<Option<ExitStatus>> {
        self.info_once().or_else(|_| self.info_once())
    }

    fn info_once(&self) -> io::Result<Option<ExitStatus>> {
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: PIDFD_GET_INFO reads and writes a `struct pidfd_info` of the size in its number; `Info` is the first
        // version of it, which later kernels still accept.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_INFO as _, &raw mut info) })?;
        let known = info.mask & INFO_EXIT != 0;
        Ok(known.then(|| ExitStatus::from_raw(info.exit_code)))
    }
}

impl ProcessDescriptor for Pidfd {
    /// Sleeps in the kernel, which wakes only the waiters of this process.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        poll_readable(self.fd.as_fd(), deadline)
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        let observed = match poll_pidfd(self.fd.as_fd()) {
            Ok((Observed::ReapedElsewhere, _)) => self.poll_reap()?,
            Ok(observed) => return Ok(observed),
            // `waitid` worked when the pidfd was opened, so a sandbox forbids it now.
            Err(_) if !self.has_ended() => Observed::Running,
            Err(_) if self.recover().is_some() => Observed::ReapedElsewhere,
            Err(_) => Observed::Exited(None),
        };
        Ok((observed, None))
    }

    /// Returns the status, which the kernel keeps if the process was reaped while a pidfd to it was open.
    fn recover(&self) -> Option<ExitStatus> {
        self.info().ok().flatten()
    }

    fn signal(&self, signal: c_int) -> io::Result<()> {
        let error = match send(self.fd.as_raw_fd(), signal, 0) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // After the exit no error matters. (For a zombie of another user the error is EPERM as well.)
        if self.observe()?.0 != Observed::Running {
            return Ok(());
        }
        // EPERM may be genuine (the child has changed its user), or come from a sandbox that does not know the call.
        // For a descriptor that cannot exist, only a sandbox returns EPERM.
        let blocked = match error.raw_os_error() {
            Some(libc::ENOSYS) => true,
            Some(libc::EPERM) => {
                send(-1, 0, 0).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
            }
            _ => false,
        };
        if blocked { by_pid::signal(self.pid, signal) } else { by_pid::ignore_missing(error) }
    }

    /// Signals the group that had the ID of the process, even if the process has been reaped. Any error may mean that
    /// the kernel lacks the flag; `kill` then meets a genuine error again.
    fn signal_group(&self, signal: c_int) -> io::Result<()> {
        const PROCESS_GROUP: u32 = 1 << 2;
        match send(self.fd.as_raw_fd(), signal, PROCESS_GROUP) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(_) => {
                by_pid::signal_group(self.observe().map(|(observed, _)| observed), self.pid, signal)
            }
        }
    }

    /// Reaps through the pidfd if possible, which cannot mean another process.
    fn reap(&self) -> bool {
        let id = self.fd.as_raw_fd().unsigned_abs();
        // SAFETY: `info` is a writable siginfo_t for the whole call. There is no other pointer.
        let reaped = by_pid::observe_by(|info| unsafe {
            libc::waitid(libc::P_PIDFD, id, info, libc::WEXITED | libc::WNOHANG)
        });
        match reaped {
            Ok(Observed::Running) => false,
            Ok(Observed::Exited(_) | Observed::ReapedElsewhere) => true,
            // A sandbox forbids the call, as above.
            Err(_) => self.recover().is_some() || by_pid::reap(self.pid),
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Polls the process of the pidfd, which cannot mean another process.
fn poll_pidfd(fd: BorrowedFd<'_>) -> io::Result<(Observed, Option<Usage>)> {
    waitid::poll(libc::P_PIDFD, fd.as_raw_fd().unsigned_abs())
}

/// Calls pidfd_send_signal(2).
fn send(fd: c_int, signal: c_int, flags: u32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null `info` means the one that `kill` would make. There is no other pointer.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) };
    check(sent as c_int).map(drop)
}

/// Pidfds of processes that are not children.
pub(crate) const OF_ANY: Pidfds =
    Pidfds { open: open_any, send: |fd, signal| send(fd.as_raw_fd(), signal, 0), serial };

/// Returns the inode. `None` before Linux 6.9, where all pidfds have the same inode.
fn serial(fd: BorrowedFd<'_>) -> Option<u64> {
    /// `PID_FS_MAGIC` of `linux/magic.h`.
    const PIDFS: u64 = 0x5049_4446;
    let mut system = MaybeUninit::<libc::statfs64>::zeroed();
    let mut file = MaybeUninit::<libc::stat64>::zeroed();
    let fd = fd.as_raw_fd();
    // SAFETY: both structs outlive the calls. They were zeroed, and any bytes are valid integers.
    let (system, file) = unsafe {
        check(libc::fstatfs64(fd, system.as_mut_ptr())).ok()?;
        check(libc::fstat64(fd, file.as_mut_ptr())).ok()?;
        (system.assume_init(), file.assume_init())
    };
    (system.f_type as u64 == PIDFS).then_some(file.st_ino)
}

/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`. The bits for both directions are the same on all
/// architectures.
const GET_INFO: u32 = 0xc000_0000 | (size_of::<Info>() as u32) << 16 | 0xff << 8 | 11;
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
