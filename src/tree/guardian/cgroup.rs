//! Linux: kills and removes cgroups in the child of a fork (see [`after_fork`](super::after_fork)).

use super::calls::{now, pause};
use super::table::Shared;
use crate::sys::linux::proc_file::{Text, each_line, each_name, is_on, open, process_id};
use crate::tree::processes::Held;
use std::ffi::{CStr, c_int};
use std::os::fd::{AsRawFd, OwnedFd};

/// The type of the file system (statfs(2)). In `libc` its type differs between systems.
const CGROUP2: u32 = 0x6367_7270;
/// The longest wait for the cgroups to become empty, in milliseconds.
const LONGEST: u64 = 30_000;
/// The deepest nesting of cgroups that is removed.
const DEPTH: u32 = 12;

/// Calls the function with the path of each charged cgroup.
pub(super) fn each(shared: Shared, buffer: &mut [u8], call: &mut dyn FnMut(&CStr)) {
    for (number, slot) in shared.charges() {
        if let Some(charge) = shared.read(number, slot, buffer) {
            if !charge.cgroup.is_empty() {
                call(Text::<{ Shared::LONGEST + 1 }>::of(charge.cgroup).path());
            }
        }
    }
}

fn open_cgroup(path: &CStr) -> Option<OwnedFd> {
    open_directory(None, path).filter(|cgroup| is_on(cgroup, CGROUP2))
}

fn open_directory(above: Option<&OwnedFd>, path: &CStr) -> Option<OwnedFd> {
    open(above, path, libc::O_DIRECTORY | libc::O_NOFOLLOW).ok()
}

/// Kills all processes in the cgroup and below. The kernel skips a process whose first thread has ended.
pub(super) fn kill(path: &CStr) {
    if let Some(cgroup) = open_cgroup(path) {
        kill_all_in(&cgroup);
    }
}

fn kill_all_in(cgroup: &OwnedFd) {
    if let Ok(file) = open(Some(cgroup), c"cgroup.kill", libc::O_WRONLY) {
        // SAFETY: the byte outlives the call.
        unsafe { libc::write(file.as_raw_fd(), b"1".as_ptr().cast(), 1) };
    }
}

/// Kills the members of each charged cgroup until it is empty, then removes it.
pub(super) fn remove_all(shared: Shared, path: &mut [u8], buffer: &mut [u8]) {
    let start = now();
    let mut wait: c_int = 1;
    loop {
        let mut is_left = false;
        each(shared, path, &mut |path| {
            let Some(cgroup) = open_cgroup(path) else { return };
            kill_all_in(&cgroup);
            clear(&cgroup, buffer, DEPTH);
            // SAFETY: the path outlives the call.
            is_left |= unsafe { libc::rmdir(path.as_ptr()) } != 0;
        });
        if !is_left || now().wrapping_sub(start) >= LONGEST {
            return;
        }
        pause(wait);
        wait = wait.wrapping_mul(2).min(200);
    }
}

/// Kills the listed processes, and removes the cgroups below.
fn clear(cgroup: &OwnedFd, buffer: &mut [u8], depth: u32) {
    kill_listed(cgroup, buffer);
    let Some(depth) = depth.checked_sub(1) else { return };
    // A cgroup that cannot be read is not removed.
    let _ = each_name(cgroup, &mut |name| {
        if name != c"." && name != c".." {
            if let Some(below) = open_directory(Some(cgroup), name) {
                clear(&below, buffer, depth);
                // SAFETY: the path outlives the call.
                unsafe { libc::unlinkat(cgroup.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) };
            }
        }
        true
    });
}

fn kill_listed(cgroup: &OwnedFd, buffer: &mut [u8]) {
    let Some((buffer, check)) = buffer.split_at_mut_checked(4096) else { return };
    each_listed(cgroup, buffer, &mut |id| {
        let Ok(Some(held)) = Held::open(id) else { return true };
        // A process that is listed after it was opened is the opened process.
        let mut is_listed = false;
        each_listed(cgroup, check, &mut |listed| {
            is_listed |= listed == id;
            !is_listed
        });
        if is_listed {
            // `remove_all` tries again.
            let _ = held.signal(libc::SIGKILL);
        }
        true
    });
}

fn each_listed(cgroup: &OwnedFd, buffer: &mut [u8], call: &mut dyn FnMut(i32) -> bool) {
    if let Ok(list) = open(Some(cgroup), c"cgroup.procs", 0) {
        // 0 is a process from outside this PID namespace.
        each_line(&list, buffer, &mut |line| process_id(line).is_none_or(&mut *call));
    }
}
