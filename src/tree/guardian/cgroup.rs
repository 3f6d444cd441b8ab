//! Linux: kills and removes cgroups in the child of a fork (see [`after_fork`](super::after_fork)).

use super::calls::{kill_one, now, pause, pidfd};
use super::proc::{Text, close, each_line, each_name, is_a, number, open, rewind};
use super::table::Shared;
use std::ffi::{CStr, c_int};

/// The type of the file system (statfs(2)). In `libc` its type differs between systems.
const CGROUP2: u32 = 0x6367_7270;
/// The longest wait for the cgroups to become empty, in milliseconds.
const LONGEST: u64 = 30_000;
/// The deepest nesting of cgroups that is removed.
const DEPTH: u32 = 12;

/// Calls the function with the path of each charged cgroup.
pub(super) fn each(shared: Shared, buffer: &mut [u8], call: &mut dyn FnMut(&CStr)) {
    for (number, slot) in shared.charges() {
        let Some(charge) = shared.read(number, slot, buffer) else { continue };
        let (marker, length) = (charge.marker.len(), charge.cgroup.len());
        let end = marker.wrapping_add(length);
        if let Some(end) = buffer.get_mut(end).filter(|_| length > 0) {
            *end = 0;
        } else {
            continue;
        }
        let path = buffer.get(marker..).and_then(|path| CStr::from_bytes_until_nul(path).ok());
        if let Some(path) = path.filter(|path| path.count_bytes() == length) {
            call(path);
        }
    }
}

fn open_cgroup(path: &CStr) -> Option<c_int> {
    let fd = open(libc::AT_FDCWD, path, libc::O_DIRECTORY | libc::O_NOFOLLOW);
    if is_a(fd, CGROUP2) {
        return Some(fd);
    }
    close(fd);
    None
}

/// Kills all processes in the cgroup and below. The kernel skips a process whose first thread has ended.
pub(super) fn kill(path: &CStr) {
    let Some(cgroup) = open_cgroup(path) else { return };
    kill_all_in(cgroup);
    close(cgroup);
}

fn kill_all_in(cgroup: c_int) {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: the path and the byte outlive the calls.
    let file = unsafe { libc::openat(cgroup, c"cgroup.kill".as_ptr(), flags) };
    if file >= 0 {
        // SAFETY: as above.
        unsafe { libc::write(file, b"1".as_ptr().cast(), 1) };
    }
    close(file);
}

/// Kills the members of each charged cgroup until it is empty, then removes it.
pub(super) fn remove_all(shared: Shared, path: &mut [u8], buffer: &mut [u8]) {
    let start = now();
    let mut wait: c_int = 1;
    loop {
        let mut is_left = false;
        each(shared, path, &mut |path| {
            let Some(cgroup) = open_cgroup(path) else { return };
            kill_all_in(cgroup);
            clear(cgroup, buffer, DEPTH);
            close(cgroup);
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
fn clear(cgroup: c_int, buffer: &mut [u8], depth: u32) {
    kill_listed(cgroup, buffer);
    let Some(depth) = depth.checked_sub(1) else { return };
    rewind(cgroup);
    each_name(cgroup, buffer, &mut |name, buffer| {
        let path = Text::<256>::new().push(name);
        if name == b"." || name == b".." {
            return;
        }
        let below = open(cgroup, path.path(), libc::O_DIRECTORY | libc::O_NOFOLLOW);
        if below < 0 {
            return;
        }
        clear(below, buffer, depth);
        close(below);
        // SAFETY: the path outlives the call.
        unsafe { libc::unlinkat(cgroup, path.path().as_ptr(), libc::AT_REMOVEDIR) };
    });
}

fn kill_listed(cgroup: c_int, buffer: &mut [u8]) {
    let Some((buffer, check)) = buffer.split_at_mut_checked(4096) else { return };
    each_listed(cgroup, buffer, &mut |id| {
        let pidfd = pidfd(id);
        // A process that is listed after it was opened is the opened process.
        let mut is_listed = false;
        each_listed(cgroup, check, &mut |listed| {
            is_listed |= listed == id;
            !is_listed
        });
        if is_listed {
            kill_one(id, pidfd);
        }
        close(pidfd);
        true
    });
}

fn each_listed(cgroup: c_int, buffer: &mut [u8], call: &mut dyn FnMut(i32) -> bool) {
    let list = open(cgroup, c"cgroup.procs", 0);
    if list < 0 {
        return;
    }
    each_line(list, buffer, &mut |line| {
        // 0 is a process from outside this PID namespace.
        let id = number(line).and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 1);
        id.is_none_or(&mut *call)
    });
    close(list);
}
