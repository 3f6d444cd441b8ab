//! Writing to a pipe that nobody reads, without SIGPIPE.
//!
//! Rust programs ignore it, unless they say otherwise, as those do that are used in pipelines; and programs that
//! are not Rust's own may do as they like. A child that closes its standard input early must not kill us.
//!
//! A write to a pipe has no flag for that. But the signal is sent to the *thread* that writes, and one that blocks
//! it finds it pending afterwards, and can take it away. If one was pending before, it is another's and stays.
//!
//! macOS and NetBSD send it to the *process*, so that any thread may get it. There the pipe itself has such a flag.
//!
//! Sources: `dofilewrite` and `dofilewritev` in the kernels of the BSDs and of macOS.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

/// Whether SIGPIPE does nothing here. Another thread may change that, but hardly does.
pub(crate) fn is_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a question, and room for the answer.
    let answer = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are a `sigaction` as well.
    answer == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Runs a write of this thread to this pipe. It must not do anything else, since SIGPIPE is blocked meanwhile.
#[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
pub(crate) fn without(
    _: BorrowedFd<'_>,
    write: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    fn just_sigpipe() -> libc::sigset_t {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first call makes a set of it, and SIGPIPE is a signal.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            set.assume_init()
        }
    }

    fn is_pending() -> bool {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: room for the answer; zeroes are an empty set, if there is none.
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
            // SAFETY: both outlive the call. It does not block, since the signal is pending and blocked.
            unsafe { libc::sigwait(&raw const sigpipe, &raw mut signal) };
        }
        // SAFETY: the mask that was there before, which the first call has written.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    written
}

/// Runs a write to this pipe, whose flag is put back as it was.
#[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
pub(crate) fn without(
    pipe: BorrowedFd<'_>,
    write: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // F_GETNOSIGPIPE and F_SETNOSIGPIPE of fcntl(2), which libc has not had for macOS for long.
    let (get, set) = if cfg!(target_os = "netbsd") { (13, 14) } else { (74, 73) };
    let fd = pipe.as_raw_fd();
    // SAFETY: integers only, and the descriptor is open for as long as it is borrowed.
    let fcntl = |command, flag: libc::c_int| unsafe { libc::fcntl(fd, command, flag) };
    let before = fcntl(get, 0);
    fcntl(set, 1);
    let written = write();
    fcntl(set, before);
    written
}
