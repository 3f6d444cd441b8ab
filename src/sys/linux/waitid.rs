//! Linux and Android: the system call `waitid`, which has one argument more than the function: a buffer for the usage. With
//! `WNOWAIT` the kernel fills the buffer as well, and the zombie stays.
//!
//! The usage is `RUSAGE_BOTH`: the child and the descendants that were waited for. The peak is the larger of the two, and
//! includes the memory that the child had before its exec: this process's, if it was spawned without a copy.
//!
//! Sources: waitid(2), "C library/kernel differences"; `kernel/exit.c`, `kernel/sys.c` and `fs/exec.c`.

use crate::sys::Observed;
use crate::sys::unix::by_pid::{self, Pid};
use crate::sys::unix::syscall::{rusage_peak, rusage_time};
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;

/// The kernel's `long`. The struct of the C library may have another type.
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
    _rest: [Long; 13],
}

const _: () = assert!(size_of::<Rusage>() == 18 * size_of::<Long>());

/// Returns the usage of the zombie with this ID. `None` if the process is no zombie.
pub(crate) fn usage_of(pid: Pid) -> Option<Usage> {
    poll(libc::P_PID, pid.get().unsigned_abs()).ok()?.1
}

/// Returns the state of a child, and the usage of a zombie.
pub(crate) fn poll(kind: libc::idtype_t, id: u32) -> io::Result<(Observed, Option<Usage>)> {
    let mut usage = Rusage::default();
    let to = &raw mut usage;
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let observed = by_pid::observe_by(|info| {
        // SAFETY: a siginfo_t and a rusage, as the kernel lays them out, are writable for the whole call. There is no
        // other pointer.
        let result = unsafe { libc::syscall(libc::SYS_waitid, kind, id, info, options, to) };
        result as c_int
    })?;
    // The kernel fills the buffer for a zombie only.
    let Observed::Exited(_) = observed else { return Ok((observed, None)) };
    let usage = Usage {
        user: rusage_time(usage.user.seconds, usage.user.micros),
        system: rusage_time(usage.system.seconds, usage.system.micros),
        peak_memory: rusage_peak(usage.peak),
    };
    Ok((observed, Some(usage)))
}
