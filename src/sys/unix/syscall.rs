//! Unix: system calls that std lacks, as safe functions over libc.
//!
//! They are as safe as those of a wrapper crate, and few enough to check by eye:
//!
//! - A descriptor comes in borrowed, so it is open during the call. A new one goes out owned and close-on-exec.
//! - A slice or a struct is a reference, so it outlives the call. A buffer's length is the slice's.
//! - A failure is std's [`io::Error`], made before any other call. EINTR is one too: callers that can block call again.
//! - A timeout is a [`Duration`], and a wait never ends before it, unless it is longer than a day.
//!
//! A call that only one mechanism makes is in the file of that mechanism.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "each system has other callers"))]

use crate::backoff::{DAY, left};
use std::ffi::{c_int, c_short};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::slice;
use std::time::{Duration, Instant};

/// Converts the result of a call that returns -1 if it fails.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes the result of a call that returns a new descriptor, or -1.
///
/// # Safety
///
/// Nothing else owns the descriptor.
pub(crate) unsafe fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the contract of this function; not -1.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// SAFETY: integers, for which zeroes are valid. (Where a 32-bit system has a 64-bit `time_t`, there is private padding too.)
pub(crate) const NO_TIME: libc::timespec = unsafe { std::mem::zeroed() };

/// Converts a timeout, of at most a day: systems differ in their longest one, and callers come back.
pub(crate) fn timespec(timeout: Duration) -> libc::timespec {
    let timeout = timeout.min(DAY);
    let mut spec = NO_TIME;
    spec.tv_sec = timeout.as_secs() as _;
    spec.tv_nsec = timeout.subsec_nanos() as _;
    spec
}

/// Converts a timeout for a call that counts milliseconds: rounded up, at most a day, and -1 for none.
pub(crate) fn milliseconds(timeout: Option<Duration>) -> c_int {
    let Some(timeout) = timeout else { return -1 };
    timeout.min(DAY).as_nanos().div_ceil(1_000_000) as c_int
}

/// A descriptor and the events for which [`poll`] waits.
#[repr(transparent)]
pub(crate) struct PollFd<'a>(libc::pollfd, PhantomData<BorrowedFd<'a>>);

impl<'a> PollFd<'a> {
    /// Without a descriptor there are no events.
    pub(crate) fn new(fd: Option<BorrowedFd<'a>>, events: c_short) -> Self {
        // The system ignores negative numbers.
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        Self(libc::pollfd { fd, events, revents: 0 }, PhantomData)
    }

    /// Returns whether the last poll has reported an event, an error or a hang-up.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Blocks until a descriptor is ready. Returns how many are ready: none after the timeout.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<c_int> {
    let (first, count) = (fds.as_mut_ptr().cast::<libc::pollfd>(), fds.len() as libc::nfds_t);
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "haiku"
    ))]
    let result = {
        let timeout = timeout.map(timespec);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: a `PollFd` has the layout of a `pollfd`, and there are `count` of them. A null mask changes no mask.
        unsafe { libc::ppoll(first, count, timeout, std::ptr::null()) }
    };
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "haiku"
    )))]
    // SAFETY: a `PollFd` has the layout of a `pollfd`, and there are `count` of them.
    let result = unsafe { libc::poll(first, count, milliseconds(timeout)) };
    check(result)
}

/// Blocks until the descriptor is readable (`true`), or until the deadline. Polls at least once.
///
/// Returns `true` if the system refuses `poll` (EINVAL where RLIMIT_NOFILE is 0, as some sandboxes set it; ENOMEM): the
/// caller inspects the process, and pauses. The same holds for errors of the descriptor itself.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> bool {
    try_poll_readable(fd, deadline).unwrap_or(true)
}

/// Does the same. Returns the error if the system refuses `poll`.
pub(crate) fn try_poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    let mut fds = [PollFd::new(Some(fd), libc::POLLIN)];
    loop {
        match poll(&mut fds, deadline.map(left)) {
            // One timeout is at most a day, so it may end before the deadline.
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(false);
            }
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ready => return ready.map(|_| true),
        }
    }
}

/// Returns the descriptor, or a copy of it that is not 0, 1 or 2: a program that has closed one of these may open it
/// again, and std overwrites them in a child.
pub(crate) fn above_standard_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: c_int = libc::STDERR_FILENO + 1;
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    // SAFETY: the arguments are integers, and the result is a new descriptor.
    unsafe { owned(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST)) }
}

/// Sets the flag with which no child inherits the descriptor.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: the arguments are integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Returns the flags of the open file, such as O_NONBLOCK.
pub(crate) fn file_flags(fd: &OwnedFd) -> io::Result<c_int> {
    // SAFETY: the arguments are integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

pub(crate) fn set_file_flags(fd: &OwnedFd, flags: c_int) -> io::Result<()> {
    // SAFETY: the arguments are integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// Returns how many bytes can be read now.
pub(crate) fn readable_bytes(fd: &OwnedFd) -> io::Result<u64> {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD writes one `int`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(u64::from(count.unsigned_abs()))
}

/// Appends to the vector, into its spare capacity, what one read returns.
pub(crate) fn read(fd: &OwnedFd, into: &mut Vec<u8>) -> io::Result<usize> {
    let count = read_into(fd, into.spare_capacity_mut())?.len();
    // SAFETY: as many bytes were written after the vector's, within its capacity.
    unsafe { into.set_len(into.len() + count) };
    Ok(count)
}

/// Makes one read. Returns the bytes.
pub(crate) fn read_into<'a>(
    fd: &OwnedFd,
    buffer: &'a mut [MaybeUninit<u8>],
) -> io::Result<&'a [u8]> {
    // SAFETY: the call writes to the buffer, at most as many bytes as it has.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
    // SAFETY: as many bytes were written, and they are borrowed like the buffer.
    Ok(unsafe { slice::from_raw_parts(buffer.as_ptr().cast(), count) })
}

/// Makes one write.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the slice has this length.
    let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Returns the time of a clock, which every kernel has. (A 32-bit `time_t` suffices for the time since the boot.)
pub(crate) fn clock(clock: libc::clockid_t) -> Duration {
    let mut now = NO_TIME;
    // SAFETY: the struct outlives the call.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Returns the frequency of the clock by which `/proc` reports when processes started.
pub(crate) fn clock_ticks_per_second() -> u64 {
    // SAFETY: the argument is an integer.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    // It never fails on Linux, where the value is 100 on all architectures in use.
    u64::try_from(hertz).unwrap_or(100)
}

/// Converts a `struct timeval` to microseconds.
pub(crate) fn micros(seconds: impl Into<i64>, rest: impl Into<i64>) -> i64 {
    seconds.into() * 1_000_000 + rest.into()
}

/// Converts a time of a `struct rusage`. No kernel reports a negative one.
pub(crate) fn rusage_time(seconds: impl Into<i64>, micros: impl Into<i64>) -> Duration {
    Duration::from_micros(self::micros(seconds, micros).try_into().unwrap_or(0))
}

/// Converts the peak of a `struct rusage`, in KiB, to bytes. Zero means that the kernel does not count it.
pub(crate) fn rusage_peak(peak: impl Into<i64>) -> Option<u64> {
    u64::try_from(peak.into()).ok().filter(|peak| *peak > 0)?.checked_mul(1024)
}
