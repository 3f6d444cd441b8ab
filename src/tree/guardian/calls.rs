//! The system calls of the guardian. Like everything that the child of the fork calls, these neither allocate nor lock.

use super::table::Shared;
use std::ffi::c_int;
use std::io;
use std::ptr;

/// The parameters of the guardian, on its stack.
pub(super) struct Orders {
    pub(super) shared: Shared,
    pub(super) scratch: Scratch,
    pub(super) parent: libc::pid_t,
    /// The pidfd of the parent, or -1.
    pub(super) pidfd: c_int,
    /// The child's end of the socket.
    pub(super) socket: c_int,
    pub(super) tick_ms: c_int,
}

/// Memory for the work of the child.
#[derive(Clone, Copy)]
pub(super) struct Scratch(*mut u8);

impl Scratch {
    const SIZE: usize = 256 << 10;

    pub(super) fn map() -> io::Result<Self> {
        map(Self::SIZE).map(Self).ok_or_else(io::Error::last_os_error)
    }

    /// Unmaps the memory in the parent, which does not use it.
    pub(super) fn unmap(self) {
        unmap(self.0 as usize, Self::SIZE);
    }

    #[cfg(target_os = "linux")]
    pub(super) fn range(self) -> (usize, usize) {
        (self.0 as usize, self.0 as usize + Self::SIZE)
    }

    pub(super) fn bytes(self) -> &'static mut [u8] {
        // SAFETY: the memory was mapped with this size. The only caller is `run`, once in each child.
        unsafe { std::slice::from_raw_parts_mut(self.0, Self::SIZE) }
    }
}

/// Maps new private memory, filled with zeroes.
pub(super) fn map(size: usize) -> Option<*mut u8> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
    // SAFETY: new memory, in a place that the system chooses.
    let start = unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) };
    (start != libc::MAP_FAILED).then_some(start.cast())
}

pub(super) fn unmap(start: usize, size: usize) {
    // SAFETY: the callers unmap memory that they have mapped, or that nothing in this process uses any more.
    unsafe { libc::munmap(start as *mut _, size) };
}

pub(super) fn pause(milliseconds: c_int) {
    // SAFETY: no descriptors.
    unsafe { libc::poll(ptr::null_mut(), 0, milliseconds) };
}

pub(super) fn kill_groups(shared: Shared) {
    for (number, slot) in shared.charges() {
        if let Some(group) = shared.group(number, slot) {
            // SAFETY: integers. The group is larger than 1.
            unsafe { libc::kill(group.wrapping_neg(), libc::SIGKILL) };
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
/// Returns the time in milliseconds.
pub(super) fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

/// Opens a pidfd. Returns a negative number after an error.
#[cfg(target_os = "linux")]
pub(super) fn pidfd(id: i32) -> c_int {
    // SAFETY: integers.
    unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) as c_int }
}

/// Opens no pidfd: the sandbox of an app may kill the app for an unknown system call.
#[cfg(target_os = "android")]
pub(super) fn pidfd(_: i32) -> c_int {
    -1
}

/// Returns whether the signal was sent.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn kill_one(id: i32, pidfd: c_int) -> bool {
    #[cfg(target_os = "linux")]
    if pidfd >= 0 {
        let none = ptr::null::<libc::siginfo_t>();
        // SAFETY: integers, and no signal information.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, none, 0) };
        let error = io::Error::last_os_error().raw_os_error();
        // A sandbox may allow a pidfd but not its use.
        if sent == 0 || !matches!(error, Some(libc::ENOSYS | libc::EPERM)) {
            return sent == 0;
        }
    }
    let _ = pidfd;
    // SAFETY: integers. The ID is larger than 1.
    id > 1 && unsafe { libc::kill(id, libc::SIGKILL) } == 0
}
