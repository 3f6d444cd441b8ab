//! FreeBSD and NetBSD: `wait6` with `WNOWAIT`. This reads only `wru_self` of the result.
//!
//! FreeBSD, `exit1`: when a process becomes a zombie, the kernel adds the usage of the children that it has waited for to
//! its own: `ruadd(&p->p_ru, &p->p_rux, &p->p_stats->p_cru, &p->p_crux)` adds the times, and takes the larger of the
//! peaks. After that `proc_to_reap` makes `wru_self` of `p_ru` and `p_rux`, and `wru_children` of `p_cru` and `p_crux`.
//! So for a zombie that has used `o` itself and whose children have used `c`:
//!
//! | field | times | peak |
//! |---|---|---|
//! | `wru_self` | `o + c` | `max(o, c)` |
//! | `wru_children` | `c` | `c` |
//!
//! `wru_self` is what Linux calls `RUSAGE_BOTH`, and the sum of both fields, `o + 2c`, would count the children twice.
//! `exit1` holds the lock of the process until all this is done, and `proc_to_reap` takes it first: no caller sees a
//! zombie whose sum is not there yet.
//!
//! NetBSD adds at the reap, not at the exit. There `wru_self` is `o`, and `wru_children` has the times of the child
//! itself unless the call reaps; so the usage of the children is not reported. A peak of zero is omitted, since the
//! kernel may compute the peak at the reap only. Type-checked, not run.
//!
//! Sources: wait6(2) of both, and the `kern_exit.c` and `kern_resource.c` of each.

use crate::sys::unix::by_pid::Pid;
use crate::sys::unix::syscall::{rusage_peak, rusage_time};
use crate::usage::Usage;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// `struct __wrusage`, or `struct wrusage`; libc lacks them.
#[repr(C)]
struct Both {
    own: libc::rusage,
    _children: libc::rusage,
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

pub(crate) fn usage_of(pid: Pid) -> Option<Usage> {
    let pid = pid.get();
    let mut status = 0;
    let mut usage = MaybeUninit::<Both>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the status and the usage are writable for the whole call, and no siginfo is passed.
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
    // The result is zero if the process is no zombie.
    if found != pid {
        return None;
    }
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let Both { own, .. } = unsafe { usage.assume_init() };
    Some(Usage {
        user: rusage_time(own.ru_utime.tv_sec, own.ru_utime.tv_usec),
        system: rusage_time(own.ru_stime.tv_sec, own.ru_stime.tv_usec),
        peak_memory: rusage_peak(own.ru_maxrss),
    })
}
