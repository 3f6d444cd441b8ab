//! Writes to a pipe without SIGPIPE.
//!
//! A child that closes its standard input early must not kill this process. Rust programs ignore SIGPIPE by default, but
//! not all do, and other programs may load this library.
//!
//! `write` has no flag against SIGPIPE. But most systems send the signal to the *thread* that writes. So the thread
//! blocks SIGPIPE, and consumes the signal after the write if it was not pending before.
//!
//! macOS and NetBSD send the signal to the *process*, so any thread may receive it. There the pipe itself has a flag
//! against SIGPIPE.
//!
//! Sources: `dofilewrite` and `dofilewritev` in the kernels of the BSDs and of macOS.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

/// Returns whether this process ignores SIGPIPE.
pub(crate) fn is_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, this only writes the current one.
    let result = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call has written it; a `sigaction` of zeroes is valid, too.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Calls `write`, which writes to this pipe and does nothing else, with SIGPIPE blocked.
#[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
pub(crate) fn without(
    _: BorrowedFd<'_>,
    write: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    fn just_sigpipe() -> libc::sigset_t {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first call initialises the set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            set.assume_init()
        }
    }

    fn is_pending() -> bool {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first call writes the set; if it fails, the zeroes are an empty set.
        unsafe {
            libc::sigpending(set.as_mut_ptr());
            libc::sigismember(set.as_ptr(), libc::SIGPIPE) == 1
        }
    }

    let sigpipe = just_sigpipe();
    let was_pending = is_pending();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets outlive the call.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const sigpipe, before.as_mut_ptr()) };
    let written = write();
    if blocked == 0 {
        let broken = written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if broken && !was_pending && is_pending() {
            let mut signal = 0;
            // SAFETY: both outlive the call, which does not block: the signal is pending.
            unsafe { libc::sigwait(&raw const sigpipe, &raw mut signal) };
        }
        // SAFETY: the first call has written the previous mask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    written
}

/// Calls `write`, which writes to this pipe, with the pipe's flag set.
#[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
pub(crate) fn without(
    pipe: BorrowedFd<'_>,
    write: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // F_GETNOSIGPIPE and F_SETNOSIGPIPE of fcntl(2), which older versions of libc lack for macOS.
    let (get, set) = if cfg!(target_os = "netbsd") { (13, 14) } else { (74, 73) };
    let fd = pipe.as_raw_fd();
    // SAFETY: the arguments are integers, and the borrowed descriptor is open.
    let fcntl = |command, flag: libc::c_int| unsafe { libc::fcntl(fd, command, flag) };
    let before = fcntl(get, 0);
    fcntl(set, 1);
    let written = write();
    fcntl(set, before);
    written
}
