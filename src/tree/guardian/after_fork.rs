//! The code of the guardian. It runs in the child of the fork.
//!
//! The fork has copied one thread of a program that may have many, so any lock may be held for ever. [`run`] and
//! everything that it calls only make system calls, through thin functions of the C library, and touch memory that was
//! mapped for them. They do not allocate, lock, format, or panic: slices are read by `get`, and numbers wrap. (`run` is
//! `extern "C"`, so a panic would end the process here.)
//!
//! Where processes cannot be listed without allocation (outside Linux), the guardian kills only process groups.

use super::calls::{Orders, pause};
use super::table::Shared;
use std::ffi::c_int;
use std::io;

/// The interval at which the guardian checks whether it is still needed. The kernel notifies it of everything else.
pub(super) const TICK_MS: c_int = 5_000;
/// The interval where the guardian must also poll for the death of the parent.
const SHORT_TICK_MS: c_int = 1_000;

/// Waits for the death of the parent, kills the charges, and exits. All signals are blocked.
pub(super) extern "C" fn run(orders: &Orders) -> ! {
    let scratch = orders.scratch.bytes();
    settle();
    #[cfg(target_os = "linux")]
    super::memory::settle(orders, scratch);
    close_all_but([orders.pidfd, orders.socket]);
    wait_for_death(orders, scratch);
    kill(orders.shared, scratch);
    exit()
}

fn exit() -> ! {
    // SAFETY: it runs no code of the program.
    unsafe { libc::_exit(0) }
}

/// Leaves the session, the directory and the limits of the program.
fn settle() {
    // SAFETY: system calls with integers, and strings and a struct that outlive them.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        // The program's soft limit may be 0. This changes the limit of this process alone.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn close_all_but(kept: [c_int; 2]) {
    #[cfg(target_os = "linux")]
    {
        let [one, other] = kept;
        let (low, high) = (one.min(other), one.max(other));
        let close = |from: c_int, to: c_int| {
            // SAFETY: integers; nothing in this process uses the descriptors.
            from > to || unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } == 0
        };
        if close(0, low.wrapping_sub(1))
            && close(low.max(-1).wrapping_add(1), high.wrapping_sub(1))
            && close(high.wrapping_add(1), c_int::MAX)
        {
            return;
        }
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use crate::sys::linux::proc_file::{each_name, number, open};
        use std::os::fd::AsRawFd;
        if let Ok(list) = open(None, c"/proc/self/fd", libc::O_DIRECTORY) {
            let closed = each_name(&list, &mut |name| {
                let fd = number(name.to_bytes()).and_then(|fd| c_int::try_from(fd).ok());
                if let Some(fd) = fd.filter(|fd| *fd != list.as_raw_fd() && !kept.contains(fd)) {
                    // SAFETY: nothing in this process uses the descriptor.
                    unsafe { libc::close(fd) };
                }
                true
            });
            if closed.is_ok() {
                return;
            }
        }
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let limit = c_int::try_from(limit.rlim_cur).unwrap_or(c_int::MAX).clamp(256, 1 << 16);
    for fd in (0..limit).filter(|fd| !kept.contains(fd)) {
        // SAFETY: nothing in this process uses the descriptor.
        unsafe { libc::close(fd) };
    }
}

fn wait_for_death(orders: &Orders, scratch: &mut [u8]) {
    let mut socket = orders.socket;
    let mut last = None;
    // SAFETY: it takes nothing.
    while unsafe { libc::getppid() } == orders.parent {
        let mut polled = [
            libc::pollfd { fd: orders.pidfd, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 },
        ];
        let is_notified = orders.pidfd >= 0 && socket >= 0;
        let tick = if is_notified { orders.tick_ms } else { SHORT_TICK_MS };
        // SAFETY: two structs, which outlive the call. poll(2) skips a negative descriptor.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, tick) };
        let [pidfd, end] = polled;
        if ready < 0 {
            // Signals are blocked, so the error is a lack of kernel memory.
            pause(100);
        }
        if ready > 0 && pidfd.revents != 0 {
            return;
        }
        if ready > 0 && end.revents != 0 && is_at_its_end(socket, scratch) {
            // SAFETY: nothing else in this process uses the socket.
            unsafe { libc::close(socket) };
            socket = -1;
        }
        if socket < 0 && !has_the_charges(orders, scratch) {
            return;
        }
        if ready == 0 {
            // The guardian ends at the second tick without a charge, if there was none in between.
            let generation = orders.shared.generation();
            if orders.shared.is_empty(last == Some(generation)) {
                if last == Some(generation) {
                    exit();
                }
                last = Some(generation);
            } else {
                last = None;
            }
        }
    }
}

/// Returns whether the socket is at its end. Discards bytes that the program may have written by mistake.
fn is_at_its_end(socket: c_int, scratch: &mut [u8]) -> bool {
    // SAFETY: the buffer outlives the call.
    let received = unsafe {
        libc::recv(socket, scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT)
    };
    received == 0 || (received < 0 && !matches!(errno(), libc::EAGAIN | libc::EINTR))
}

fn errno() -> c_int {
    // This reads the thread's `errno` and does not allocate.
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Returns whether the parent still runs the program that made the charges. An exec unmaps them.
#[cfg(target_os = "linux")]
fn has_the_charges(orders: &Orders, scratch: &mut [u8]) -> bool {
    super::memory::is_mapped_in(orders.parent, orders.shared.range(), scratch)
}

#[cfg(not(target_os = "linux"))]
fn has_the_charges(_: &Orders, _: &mut [u8]) -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn kill(shared: Shared, scratch: &mut [u8]) {
    super::kill::kill(shared, scratch);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn kill(shared: Shared, _: &mut [u8]) {
    super::calls::kill_groups(shared);
}
