//! Linux: the system call `waitid`, which has one argument more than the function: where to put what `wait4` tells
//! of a child's usage. With `WNOWAIT` it puts it there as well, and the zombie stays.
//!
//! What is told is `RUSAGE_BOTH`: the child, and those of its descendants that were waited for. The peak is the
//! larger of the two, and includes that of the memory which the child had before its exec: ours, if it was
//! spawned without a copy.
//!
//! Sources: waitid(2), "C library/kernel differences"; `kernel/exit.c`, `kernel/sys.c` and `fs/exec.c`.

use crate::sys::Look;
use crate::sys::unix::by_pid::{self, Pid};
use crate::sys::usage::{kibibytes, time};
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
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
#[derive(Default)]
struct Time {
    seconds: Long,
    micros: Micros,
}

/// `struct rusage` of `linux/resource.h`.
#[repr(C)]
#[derive(Default)]
struct Rusage {
    user: Time,
    system: Time,
    /// In KiB.
    peak: Long,
    _rest: Rest,
}

/// Never read.
#[repr(transparent)]
struct Rest(MaybeUninit<[Long; 13]>);

impl Default for Rest {
    fn default() -> Self {
        Self(MaybeUninit::uninit())
    }
}

const _: () = assert!(size_of::<Rusage>() == 18 * size_of::<Long>());

/// Where the child stands, and what it has used if it is a zombie. No other process can be meant.
#[cfg(target_os = "linux")]
pub(crate) fn look_by_pidfd(fd: BorrowedFd<'_>) -> io::Result<(Look, Option<Usage>)> {
    waitid(libc::P_PIDFD, fd.as_raw_fd().unsigned_abs())
}

pub(crate) fn of(pid: Pid) -> Option<Usage> {
    waitid(libc::P_PID, pid.as_raw_nonzero().get().unsigned_abs()).ok()?.1
}

fn waitid(kind: libc::idtype_t, id: u32) -> io::Result<(Look, Option<Usage>)> {
    let mut usage = Rusage::default();
    let to = &raw mut usage;
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let look = by_pid::look_by(|info| {
        // SAFETY: a siginfo_t and a rusage, as the kernel lays them out, are writable for the whole call, and
        // nothing else is pointed to.
        let result = unsafe { libc::syscall(libc::SYS_waitid, kind, id, info, options, to) };
        result as c_int
    })?;
    // Without a zombie the kernel tells nothing.
    let Look::Exited(_) = look else { return Ok((look, None)) };
    let usage = Usage {
        user: time(usage.user.seconds, usage.user.micros),
        system: time(usage.system.seconds, usage.system.micros),
        peak_memory: kibibytes(usage.peak),
    };
    Ok((look, Some(usage)))
}
