//! What `/proc` tells about this process.

use crate::cli::Result;
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
