//! Linux and Android: `/proc`.

use crate::sys::unix::by_pid::{Identity, Pid, Same};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat, readlinkat};
use std::os::fd::{AsFd, OwnedFd};

/// A directory below `/proc`, held open: it means one process and never another. Every call on it fails once its process
/// has been reaped, even if another process has the ID (proc(5)).
#[derive(Debug)]
struct ProcDirectory {
    directory: OwnedFd,
    pid: Pid,
}

/// `None` without `/proc`, or without a spare descriptor; or if this is the `/proc` of another PID namespace, where the same
/// IDs mean other processes.
pub(crate) fn identity_of(pid: Pid) -> Option<Box<dyn Identity>> {
    let me = readlinkat(CWD, "/proc/self", Vec::new()).ok()?;
    if me.to_str().ok()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path(pid), flags, Mode::empty()).ok()?;
    Some(Box::new(ProcDirectory { directory, pid }))
}

impl Identity for ProcDirectory {
    fn check(&self) -> Same {
        let is_there = || exists(&self.directory, "stat");
        let is_taken = || exists(CWD, &format!("{}/stat", path(self.pid)));
        if is_there() {
            Same::Yes
        } else if is_taken() && !is_there() {
            // The second check: the process may have been hidden at the first, as below, and be visible now.
            Same::No
        } else {
            // Reaped, and the ID is free; or hidden (`hidepid`, and the child has changed its user). `waitid` decides.
            Same::Unknown
        }
    }
}

fn path(pid: Pid) -> String {
    format!("/proc/{}", pid.as_raw_nonzero())
}

fn exists(directory: impl AsFd, path: &str) -> bool {
    accessat(directory, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
