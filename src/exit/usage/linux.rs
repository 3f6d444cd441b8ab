//! Linux: the system call `waitid`, which has one argument more than the function: where to put what `wait4` tells
//! of a child's usage. With `WNOWAIT` it puts it there as well, and the zombie stays.
//!
//! What is told is `RUSAGE_BOTH`: the child, and those of its descendants that were waited for. The peak is the
//! larger of the two, and includes that of the memory which the child had before its exec: ours, if it was
//! spawned without a copy.
//!
//! Sources: waitid(2), "C library/kernel differences"; `kernel/exit.c`, `kernel/sys.c` and `fs/exec.c`.

use super::{kibibytes, time};
use crate::exit::Look;
use crate::exit::by_pid::{self, Pid};
use crate::usage::Usage;
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel takes for a `long`, whatever the C library has made of its own struct.
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "32")))]
type Long = std::ffi::c_long;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "32"))]
type Long = i64;

#[cfg(not(target_arch = "sparc64"))]
type Micros = Long;
#[cfg(target_arch = "sparc64")]
type Micros = i32;

#[repr(C)]
struct Time {
    seconds: Long,
    micros: Micros,
}

/// `struct rusage` of `linux/resource.h`.
#[repr(C)]
struct Rusage {
    user: Time,
    system: Time,
    /// In KiB.
    peak: Long,
    _rest: [Long; 13],
}

const _: () = assert!(size_of::<Rusage>() == 18 * size_of::<Long>());

/// No other process can be meant.
#[cfg(target_os = "linux")]
pub(in super::super) fn of_pidfd(fd: BorrowedFd<'_>) -> Option<Usage> {
    waitid(libc::P_PIDFD, fd.as_raw_fd().unsigned_abs())
}

pub(super) fn of(pid: Pid) -> Option<Usage> {
    waitid(libc::P_PID, pid.as_raw_nonzero().get().unsigned_abs())
}

fn waitid(kind: libc::idtype_t, id: u32) -> Option<Usage> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<Rusage>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo_t and a rusage, as the kernel lays them out, are writable for the whole call, and nothing
    // else is pointed to.
    let result = unsafe {
        libc::syscall(libc::SYS_waitid, kind, id, info.as_mut_ptr(), options, usage.as_mut_ptr())
    };
    // SAFETY: it was zeroed, and where the kernel wrote, it wrote valid fields.
    let info = unsafe { info.assume_init() };
    // Without a zombie the call succeeds as well, and tells nothing.
    if result != 0 || !matches!(by_pid::seen(&info), Look::Exited(_)) {
        return None;
    }
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let usage = unsafe { usage.assume_init() };
    Some(Usage {
        user: time(usage.user.seconds, usage.user.micros),
        system: time(usage.system.seconds, usage.system.micros),
        peak_memory: kibibytes(usage.peak),
    })
}
