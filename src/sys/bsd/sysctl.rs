//! FreeBSD, DragonFly and NetBSD: the records that `ps` reads.
//!
//! Sources: sysctl(3) of FreeBSD and DragonFly, sysctl(7) of NetBSD; `sys/user.h`, `sys/kinfo.h` and
//! `sys/sysctl.h` for the records, and the `kern_proc.c` of each for what is in them.

use crate::sys::unix::process_table::{Record, Time};
use crate::sys::unix::syscall::micros;
use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
type Info = libc::kinfo_proc;
#[cfg(target_os = "netbsd")]
type Info = libc::kinfo_proc2;

/// Attempts at reads that other processes can spoil, by a fork or by setting the clock.
const ATTEMPTS: usize = 10;

/// Processes, not their threads.
#[cfg(target_os = "freebsd")]
const ALL: c_int = libc::KERN_PROC_PROC;
#[cfg(any(target_os = "dragonfly", target_os = "netbsd"))]
const ALL: c_int = libc::KERN_PROC_ALL;

/// Returns whether this process may read records (a sandbox such as Capsicum may refuse it), and whether they have the
/// size that libc has: shorter records do not make a whole one, and longer records do not fit.
pub(crate) fn usable() -> bool {
    one(std::process::id() as i32).is_some()
}

pub(crate) fn all() -> io::Result<Vec<Record>> {
    for _ in 0..ATTEMPTS {
        let mut size = 0;
        sysctl(&name(None, 0), null_mut(), &mut size)?;
        let count = size / size_of::<Info>();
        match records(None, count + count / 8 + 32) {
            // More processes were forked meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            records => return records,
        }
    }
    Err(io::Error::other("the list of processes grows faster than it can be read"))
}

/// Returns the record of one process, which may be a zombie except on DragonFly: there `KERN_PROC_PID` searches only
/// the list of living processes (but [`all`] includes zombies). `None` if there is no such process, or if it is hidden.
pub(crate) fn one(id: i32) -> Option<Record> {
    records(Some(id), 1).ok()?.pop()
}

/// Reads the records of one process or of all, with room for this many. For a process that does not exist the system
/// returns an error or nothing.
fn records(id: Option<i32>, room: usize) -> io::Result<Vec<Record>> {
    for _ in 0..ATTEMPTS {
        let before = booted()?;
        let mut infos = Vec::new();
        infos.resize_with(room, MaybeUninit::<Info>::uninit);
        let mut size = size_of_val(infos.as_slice());
        sysctl(&name(id, room), infos.as_mut_ptr().cast(), &mut size)?;
        infos.truncate(size / size_of::<Info>());
        if booted()? == before {
            // SAFETY: the kernel wrote this many of them.
            let records = infos.iter().map(|info| unsafe { record(info, before) });
            // DragonFly lists threads of the kernel, which have no ID, and all systems list process 0.
            return Ok(records.filter(|record| record.id > 0).collect());
        }
    }
    Err(io::Error::other("the clock is set again and again"))
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
fn name(id: Option<i32>, _: usize) -> Vec<c_int> {
    match id {
        Some(id) => vec![libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, id],
        None => vec![libc::CTL_KERN, libc::KERN_PROC, ALL],
    }
}

#[cfg(target_os = "netbsd")]
fn name(id: Option<i32>, room: usize) -> Vec<c_int> {
    let (what, id) = id.map_or((ALL, 0), |id| (libc::KERN_PROC_PID, id));
    let size = size_of::<Info>() as c_int;
    vec![libc::CTL_KERN, libc::KERN_PROC2, what, id, size, room as c_int]
}

/// Returns the boot time in microseconds: what must be subtracted from the start in a record.
///
/// A process must have the same start in every record. DragonFly and NetBSD record the time of day at its start.
/// FreeBSD reports the boot time plus the uptime at the start, and the boot time moves when the clock is set. So the
/// boot time is subtracted, which leaves the uptime at the start, and the record is read again if the boot time has
/// changed meanwhile.
#[cfg(target_os = "freebsd")]
fn booted() -> io::Result<i64> {
    let mut time = MaybeUninit::<libc::timeval>::zeroed();
    let mut size = size_of::<libc::timeval>();
    sysctl(&[libc::CTL_KERN, libc::KERN_BOOTTIME], time.as_mut_ptr().cast(), &mut size)?;
    // SAFETY: it was zeroed, and any bytes are valid integers.
    let time = unsafe { time.assume_init() };
    Ok(micros(time.tv_sec, time.tv_usec))
}

#[cfg(any(target_os = "dragonfly", target_os = "netbsd"))]
fn booted() -> io::Result<i64> {
    Ok(0)
}

/// Reads single fields, not the whole struct: it has enums on DragonFly (`kl_stat` is 0 for a process without threads),
/// and a number that is no variant must never be read as an enum.
///
/// # Safety
///
/// The kernel has written it.
#[cfg(target_os = "freebsd")]
unsafe fn record(info: &MaybeUninit<Info>, booted: i64) -> Record {
    let info = info.as_ptr();
    // SAFETY: these are integers within a record that has been written.
    unsafe {
        Record {
            id: (*info).ki_pid,
            parent: (*info).ki_ppid,
            group: (*info).ki_pgid,
            lives: (*info).ki_stat != libc::SZOMB,
            started: known((*info).ki_start.tv_sec, (*info).ki_start.tv_usec)
                .map(|Time(time)| Time(time - booted)),
            must_be_young: false,
        }
    }
}

/// # Safety
///
/// The kernel has written it.
#[cfg(target_os = "dragonfly")]
unsafe fn record(info: &MaybeUninit<Info>, _: i64) -> Record {
    /// From `sys/proc.h`; libc lacks it.
    const P_TRACED: c_int = 0x800;
    let info = info.as_ptr();
    // SAFETY: these are integers within a record that has been written; the state is read as one.
    unsafe {
        let state = (&raw const (*info).kp_stat).cast::<u32>().read();
        Record {
            id: (*info).kp_pid,
            parent: (*info).kp_ppid,
            group: (*info).kp_pgid,
            lives: state != libc::procstat::SZOMB as u32,
            started: known((*info).kp_start.tv_sec, (*info).kp_start.tv_usec),
            must_be_young: (*info).kp_flags & P_TRACED != 0,
        }
    }
}

/// Reads single fields. A record without times is not necessarily a zombie's: the kernel omits them as well while a
/// process executes a program.
///
/// # Safety
///
/// The kernel has written it.
#[cfg(target_os = "netbsd")]
unsafe fn record(info: &MaybeUninit<Info>, _: i64) -> Record {
    // From `sys/proc.h`, and the last from `sys/sysctl.h`. libc lacks them. A dead process is about to be a zombie.
    const SZOMB: u64 = 5;
    const SDEAD: u64 = 6;
    const P_TRACED: u64 = 0x800;
    let info = info.as_ptr();
    // SAFETY: these are integers within a record that has been written.
    unsafe {
        Record {
            id: (*info).p_pid,
            parent: (*info).p_ppid,
            group: (*info).p__pgid,
            lives: !matches!((*info).p_realstat, SZOMB | SDEAD),
            started: known((*info).p_ustart_sec, (*info).p_ustart_usec),
            must_be_young: (*info).p_realflag & P_TRACED != 0,
        }
    }
}

/// Returns a time unless it is zero, which means that the system does not report it.
fn known(seconds: impl Into<i64>, rest: impl Into<i64>) -> Option<Time> {
    Some(Time(micros(seconds, rest))).filter(|time| *time != Time(0))
}

/// Reads into `value`, which has room for `size` bytes, or is null. Sets `size` to the number of bytes that the system
/// has.
fn sysctl(name: &[c_int], value: *mut c_void, size: &mut usize) -> io::Result<()> {
    // SAFETY: `name` has this length, `value` has room for `size` bytes by the contract of this function, and the call
    // sets nothing.
    let result = unsafe {
        libc::sysctl(name.as_ptr(), name.len() as c_uint, value, &raw mut *size, null(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
