//! FreeBSD and NetBSD: `wait6` with `WNOWAIT`, which tells what the child has used, and apart from that, what those
//! have that it has waited for.
//!
//! NetBSD puts the times of the child in the place of the others' as well, unless it reaps; so there they are left
//! out. And its peak is left out if it is zero, since that, too, may be put together only by a reap. Type-checked,
//! not run.
//!
//! Sources: wait6(2) of both, and the `kern_exit.c` of each.

use super::{kibibytes, time};
use crate::exit::by_pid::Pid;
use crate::usage::Usage;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// `struct __wrusage`, or `struct wrusage`; libc lacks them.
#[repr(C)]
struct Both {
    own: libc::rusage,
    waited_for: libc::rusage,
}

unsafe extern "C" {
    fn wait6(
        kind: libc::idtype_t,
        id: libc::id_t,
        status: *mut c_int,
        options: c_int,
        usage: *mut Both,
        info: *mut libc::siginfo_t,
    ) -> libc::pid_t;
}

pub(super) fn of(pid: Pid) -> Option<Usage> {
    let pid = pid.as_raw_nonzero().get();
    let mut status = 0;
    let mut usage = MaybeUninit::<Both>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the status and the usage are writable for the whole call; and without a siginfo nothing is written
    // there.
    let found = unsafe {
        wait6(
            libc::P_PID,
            pid.unsigned_abs() as libc::id_t,
            &raw mut status,
            options,
            usage.as_mut_ptr(),
            null_mut(),
        )
    };
    // Zero, if it is no zombie.
    if found != pid {
        return None;
    }
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let Both { own, waited_for } = unsafe { usage.assume_init() };
    let usage = told(&own);
    if cfg!(target_os = "netbsd") {
        return Some(usage);
    }
    let waited_for = told(&waited_for);
    Some(Usage {
        user: usage.user.saturating_add(waited_for.user),
        system: usage.system.saturating_add(waited_for.system),
        peak_memory: usage.peak_memory.max(waited_for.peak_memory),
    })
}

fn told(usage: &libc::rusage) -> Usage {
    Usage {
        user: time(usage.ru_utime.tv_sec, usage.ru_utime.tv_usec),
        system: time(usage.ru_stime.tv_sec, usage.ru_stime.tv_usec),
        peak_memory: kibibytes(usage.ru_maxrss),
    }
}
