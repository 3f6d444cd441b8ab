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

/// Returns the time in milliseconds.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

/// A list in mapped memory, which grows. (Its memory is not unmapped at the end: the guardian ends soon after.)
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) struct List<T> {
    start: *mut T,
    length: usize,
    room: usize,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl<T: Copy> List<T> {
    pub(super) fn new() -> Self {
        Self { start: ptr::dangling_mut(), length: 0, room: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Adds an item, unless there is no memory for it.
    pub(super) fn push(&mut self, item: T) {
        if self.length == self.room {
            let room = self.room.wrapping_mul(2).max(1024);
            let Some(new) = map(room.wrapping_mul(size_of::<T>())) else { return };
            let new = new.cast::<T>();
            // SAFETY: the new memory is not the old, and has room for more items.
            unsafe { ptr::copy_nonoverlapping(self.start, new, self.length) };
            if self.room > 0 {
                unmap(self.start as usize, self.room.wrapping_mul(size_of::<T>()));
            }
            (self.start, self.room) = (new, room);
        }
        // SAFETY: there is room for one more.
        unsafe { self.start.wrapping_add(self.length).write(item) };
        self.length = self.length.wrapping_add(1);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: this many items have been written. The pointer is aligned, and never null.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl<T> std::ops::DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nothing else refers to the memory.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}
