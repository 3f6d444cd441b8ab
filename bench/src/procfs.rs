//! What the system tells about this process, and how much it is allowed.

use crate::cli::Result;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

pub(crate) fn descriptors() -> io::Result<usize> {
    // Reading the directory takes a descriptor itself, but always does.
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

pub(crate) fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Returns when all threads but this one have been found blocked twice in a row. Gives up after
/// half a minute.
pub(crate) fn until_others_sleep() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut found = 0;
    while found < 2 {
        if Instant::now() > deadline {
            return Err("the waiters do not block".into());
        }
        thread::sleep(Duration::from_micros(300));
        found = if others_sleep()? { found + 1 } else { 0 };
    }
    Ok(())
}

fn others_sleep() -> io::Result<bool> {
    let me = fs::read_link("/proc/thread-self")?;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if Some(task.file_name().as_os_str()) == me.file_name() {
            continue;
        }
        // One that has ended in the meantime is to be asked about again, not to be counted.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { return Ok(false) };
        // The name, which may contain anything, ends with the last bracket; the state follows.
        if !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// User and system time of all threads of this process, and of no child.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    Ok(usage()?.0)
}

/// The same, and how often one of its threads went to sleep.
pub(crate) fn usage() -> io::Result<(Duration, libc::c_long)> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a writable rusage.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and zeroes are valid integers.
    let usage = unsafe { usage.assume_init() };
    let time = [usage.ru_utime, usage.ru_stime].map(|time| {
        // Neither is ever negative, and their widths differ from system to system.
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default())
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default())
    });
    Ok((time.iter().sum(), usage.ru_nvcsw))
}

/// Raises the limit as far as it goes: some take two descriptors for each wait.
pub(crate) fn allow_descriptors() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable, and later a readable, rlimit.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
