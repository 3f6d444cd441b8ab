//! macOS: `proc_pid_rusage`, which tells of a zombie what was noted at its exit.
//!
//! The peak is that of the footprint, which is what the system's own tools show as a process's memory: it includes
//! what is compressed, and not what is shared with others. The largest resident size is told only to who reaps.
//! Type-checked, not run.
//!
//! Sources: `libproc.h` and `sys/resource.h`; `bsd/kern/kern_resource.c` and `kern_exit.c` of XNU.

use crate::sys::unix::by_pid::Pid;
use crate::usage::Usage;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::time::Duration;

/// `struct mach_timebase_info`: by how much a tick of the machine's clock is to be multiplied, and divided, to make
/// nanoseconds of it. (libc has it, for the time being.)
#[repr(C)]
#[derive(Default)]
struct Timebase {
    numerator: u32,
    denominator: u32,
}

unsafe extern "C" {
    fn mach_timebase_info(info: *mut Timebase) -> c_int;
}

impl Timebase {
    fn get() -> Option<Self> {
        let mut timebase = Self::default();
        // SAFETY: the struct is the one that is written, and outlives the call.
        let result = unsafe { mach_timebase_info(&raw mut timebase) };
        (result == 0 && timebase.denominator != 0).then_some(timebase)
    }

    fn time(&self, ticks: u64) -> Duration {
        let nanos = u128::from(ticks) * u128::from(self.numerator) / u128::from(self.denominator);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

pub(crate) fn of(pid: Pid) -> Option<Usage> {
    let mut info = MaybeUninit::<libc::rusage_info_v4>::zeroed();
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: this flavor writes this struct, which is writable for the whole call.
    let result =
        unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, info.as_mut_ptr().cast()) };
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let info = unsafe { info.assume_init() };
    // One that runs has not exited at any time.
    if result != 0 || info.ri_proc_exit_abstime == 0 {
        return None;
    }
    let timebase = Timebase::get()?;
    Some(Usage {
        user: timebase.time(info.ri_user_time.saturating_add(info.ri_child_user_time)),
        system: timebase.time(info.ri_system_time.saturating_add(info.ri_child_system_time)),
        peak_memory: Some(info.ri_lifetime_max_phys_footprint).filter(|peak| *peak > 0),
    })
}
