//! macOS: libproc.
//!
//! Type-checked, not run.
//!
//! Sources: `libproc.h`, `sys/proc_info.h` and `sys/resource.h`; `kern_resource.c`, `kern_exit.c` and `proc_info.c` of XNU: a
//! request without a buffer returns the length of the list plus 20, a list that is too long for the buffer (or for the
//! kernel's own, which has 20 to spare as well) is cut off silently, and libproc returns 0 for an error.

use crate::sys::unix::by_pid::Pid;
use crate::sys::unix::process_table::{Record, Time};
use crate::sys::unix::syscall::micros;
use crate::usage::Usage;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null_mut;
use std::time::Duration;

/// Attempts to read a list that forks can spoil.
const ATTEMPTS: usize = 10;

// From `sys/proc_info.h`. libc lacks them, or older versions of it do.
const PROC_ALL_PIDS: u32 = 1;
const PROC_FLAG_TRACED: u32 = 2;
const PROC_PIDT_SHORTBSDINFO: c_int = 13;

/// `struct proc_bsdshortinfo`.
#[repr(C)]
struct Short {
    id: u32,
    parent: u32,
    group: u32,
    status: u32,
    _command: [u8; 16],
    flags: u32,
    _users_and_groups: [u32; 6],
    _reserved: u32,
}

/// Returns whether the system shows processes of other users, such as launchd. A sandbox may hide them.
pub(crate) fn usable() -> bool {
    one(1).is_some()
}

pub(crate) fn all() -> io::Result<Vec<Record>> {
    // This omits processes that were reaped meanwhile, and the kernel, which has the ID 0.
    Ok(ids()?.into_iter().filter(|id| *id > 0).filter_map(one).collect())
}

/// Returns the record of one process, which may be a zombie. `None` if there is no such process, or if it is hidden.
pub(crate) fn one(id: i32) -> Option<Record> {
    // SAFETY: this flavor writes this struct.
    if let Some(info) = unsafe { info::<libc::proc_bsdinfo>(id, libc::PROC_PIDTBSDINFO) } {
        return Some(Record {
            id: info.pbi_pid as i32,
            parent: info.pbi_ppid as i32,
            group: info.pbi_pgid as i32,
            lives: info.pbi_status != libc::SZOMB,
            started: Some(Time(micros(info.pbi_start_tvsec as i64, info.pbi_start_tvusec as i64))),
            must_be_young: info.pbi_flags & PROC_FLAG_TRACED != 0,
        });
    }
    // The long form covers processes of the same user only, so not a program with the set-user-ID bit.
    // SAFETY: this flavor writes this struct.
    let info = unsafe { info::<Short>(id, PROC_PIDT_SHORTBSDINFO) }?;
    Some(Record {
        id: info.id as i32,
        parent: info.parent as i32,
        group: info.group as i32,
        lives: info.status != libc::SZOMB,
        started: None,
        must_be_young: info.flags & PROC_FLAG_TRACED != 0,
    })
}

/// Returns the status of a zombie of this user without reaping it. `None` for a process that is no zombie, and for a
/// zombie of another user (a program with the set-user-ID bit).
pub(crate) fn status_of_zombie(pid: Pid) -> Option<ExitStatus> {
    let id = pid.get();
    // SAFETY: this flavor writes this struct.
    let info = unsafe { info::<libc::proc_bsdinfo>(id, libc::PROC_PIDTBSDINFO) }?;
    // This is `p_xstat`, which `wait4` returns as the status.
    (info.pbi_status == libc::SZOMB).then(|| ExitStatus::from_raw(info.pbi_xstatus as c_int))
}

/// # Safety
///
/// `T` is the struct that this flavor writes, and consists of integers.
unsafe fn info<T>(id: i32, flavor: c_int) -> Option<T> {
    let mut info = MaybeUninit::<T>::zeroed();
    let size = size_of::<T>() as c_int;
    let with_zombies = 1;
    // SAFETY: `info` has room for `size` bytes, and no more are written.
    let written =
        unsafe { libc::proc_pidinfo(id, flavor, with_zombies, info.as_mut_ptr().cast(), size) };
    // SAFETY: it was zeroed, and any bytes are valid integers.
    (written == size).then(|| unsafe { info.assume_init() })
}

fn ids() -> io::Result<Vec<i32>> {
    for _ in 0..ATTEMPTS {
        let mut ids = vec![0; list(&mut [])?];
        let count = list(&mut ids)?;
        // The list is cut off only if 20 processes were forked meanwhile, and a list that was cut off fills the buffer.
        if count < ids.len() {
            ids.truncate(count);
            return Ok(ids);
        }
    }
    Err(io::Error::other("the list of processes grows faster than it can be read"))
}

/// Returns the number of processes; without room for any, that number plus 20.
fn list(ids: &mut [i32]) -> io::Result<usize> {
    let size = size_of_val(ids) as c_int;
    let buffer = if ids.is_empty() { null_mut() } else { ids.as_mut_ptr() };
    // SAFETY: `buffer` has room for `size` bytes, or is null, which requests a length only.
    let written = unsafe { libc::proc_listpids(PROC_ALL_PIDS, 0, buffer.cast(), size) };
    // An empty list is an error too, since it lacks this process.
    if written > 0 {
        Ok(written as usize / size_of::<i32>())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct mach_timebase_info`: the factor and the divisor that convert a tick of the machine's clock to nanoseconds.
/// (libc has it for the time being.)
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

/// Returns the usage of a zombie, which the kernel recorded at the exit. `None` if the process is no zombie.
///
/// The CPU times include those of the children that it waited for. The peak is that of the footprint, which the
/// system's own tools show as a process's memory: it includes compressed memory, and excludes memory shared with other
/// processes. Only a reaper receives the largest resident size.
pub(crate) fn usage_of(pid: Pid) -> Option<Usage> {
    let mut info = MaybeUninit::<libc::rusage_info_v4>::zeroed();
    let pid = pid.get();
    // SAFETY: this flavor writes this struct, which is writable for the whole call.
    let result =
        unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, info.as_mut_ptr().cast()) };
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let info = unsafe { info.assume_init() };
    // Zero: the process runs.
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
