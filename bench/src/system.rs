//! System calls, and what `/proc` shows of this process.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use std::{fs, io, thread};

/// Returns the number of entries: open descriptors (with the one that this call opens) or threads.
pub(crate) fn count(directory: &str) -> io::Result<usize> {
    Ok(fs::read_dir(directory)?.count())
}

/// Returns when all other threads were blocked twice in a row.
pub(crate) fn until_others_sleep() -> io::Result<()> {
    let own = fs::read_link("/proc/thread-self")?;
    let mut found = 0;
    while found < 2 {
        thread::sleep(Duration::from_micros(300));
        let mut others = fs::read_dir("/proc/self/task")?.flatten();
        let asleep = others.all(|task| {
            // The state follows the name, which ends with the last bracket and may contain any character.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let sleeps = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S"));
            sleeps || Some(task.file_name().as_os_str()) == own.file_name()
        });
        found = if asleep { found + 1 } else { 0 };
    }
    Ok(())
}

/// Returns the CPU time of all threads of this process, without its children.
pub(crate) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Returns the monotonic clock, which processes can compare.
pub(crate) fn nanoseconds() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic));
    now.unwrap_or_default().as_nanos() as u64
}

/// Raises the limit of descriptors to the maximum, and returns it.
pub(crate) fn allow_descriptors() -> io::Result<usize> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.map_or(usize::MAX, |maximum| maximum as usize))
}

pub(crate) fn pid(id: u32) -> io::Result<Pid> {
    Pid::from_raw(id.cast_signed()).ok_or_else(|| io::Error::other("not a process ID"))
}

pub(crate) fn pidfd(id: u32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid(id)?, PidfdFlags::empty())?)
}

pub(crate) fn until_ready(fd: impl AsFd, events: PollFlags) -> io::Result<()> {
    poll(&mut [PollFd::new(&fd, events)], None)?;
    Ok(())
}

/// Reads these files of every process once.
pub(crate) fn read_process_table(files: &[&str]) -> io::Result<()> {
    for process in fs::read_dir("/proc")? {
        let process = process?;
        if process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            for file in files {
                // An error means that the process has ended.
                let file = fs::File::open(process.path().join(file));
                let _ = file.and_then(|mut file| file.read(&mut [0; 4096]));
            }
        }
    }
    Ok(())
}
