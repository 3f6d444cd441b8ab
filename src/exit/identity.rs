//! Is a process ID still the child's?
//!
//! Only where a process is known by its ID alone, and only because of foreign reapers: as long as we
//! have not reaped the child and nobody else has, the ID cannot have a new owner.

use super::Look;
use super::by_pid::{self, Pid};
use std::io;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::Identity;

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(super) use start::Identity;

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
pub(super) use unknown::Identity;

/// Where the child stands, by its process ID as far as that still means the child.
///
/// An error means that there is no `waitid` (a sandbox), and that nobody else is known to have reaped.
pub(super) fn look(identity: Option<&Identity>, pid: Pid) -> io::Result<Look> {
    match identity.map(Identity::check) {
        Some(Same::No) => Ok(Look::ReapedElsewhere),
        Some(Same::Yes) => match by_pid::look(pid)? {
            // There it is, and is not to be waited for: on some systems a debugger that has attached to
            // it is its parent meanwhile, and gives it back. Or somebody else's reap is not through yet.
            Look::ReapedElsewhere => Ok(Look::Running),
            look => Ok(look),
        },
        Some(Same::Unknown) | None => by_pid::look(pid),
    }
}

/// What [`Identity::check`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems never tell")]
pub(super) enum Same {
    /// The ID means the child, living or zombie.
    Yes,
    /// The child was reaped, and somebody else has its ID.
    No,
    /// The ID may be free, or the system does not tell.
    Unknown,
}

/// Linux: a directory below `/proc`, held open, means one process and never another (proc(5)). What is
/// asked of it fails once its process has been reaped, whoever has the ID now.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc {
    use super::Same;
    use crate::exit::by_pid::Pid;
    use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat, readlinkat};
    use std::os::fd::{AsFd, OwnedFd};

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        directory: OwnedFd,
        pid: Pid,
    }

    impl Identity {
        /// `None` without `/proc`, or without a descriptor to spare; or if this is the `/proc` of another
        /// PID namespace, which means other processes by the same IDs.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
            let me = readlinkat(CWD, "/proc/self", Vec::new()).ok()?;
            if me.to_str().ok()?.parse() != Ok(std::process::id()) {
                return None;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, path(pid), flags, Mode::empty()).ok()?;
            Some(Self { directory, pid })
        }

        pub(in super::super) fn check(&self) -> Same {
            if exists(&self.directory, "stat") {
                Same::Yes
            } else if exists(CWD, &format!("{}/stat", path(self.pid))) {
                Same::No
            } else {
                // Reaped, and the ID is free; or hidden (`hidepid`, and the child has changed its
                // user). `waitid` can tell.
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
}

/// macOS and most BSDs: the time when the process started, in microseconds.
///
/// It must not move when somebody sets the clock. macOS, NetBSD and DragonFly note the time of day at the
/// start, and that stands; of FreeBSD see below.
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
mod start {
    use super::Same;
    use crate::exit::by_pid::Pid;

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        pid: Pid,
        started: i64,
    }

    impl Identity {
        /// `None` if the process is gone, or if this program may not ask.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
            let started = started(pid)?;
            Some(Self { pid, started })
        }

        pub(in super::super) fn check(&self) -> Same {
            match started(self.pid) {
                Some(started) if started == self.started => Same::Yes,
                Some(_) => Same::No,
                // Free, or a zombie of which this is not told any more.
                None => Same::Unknown,
            }
        }
    }

    fn micros(seconds: impl Into<i64>, rest: impl Into<i64>) -> i64 {
        seconds.into() * 1_000_000 + rest.into()
    }

    /// `proc_pidinfo` of libproc.
    #[cfg(target_os = "macos")]
    fn started(pid: Pid) -> Option<i64> {
        let mut info = std::mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
        let size = size_of::<libc::proc_bsdinfo>() as std::ffi::c_int;
        let with_zombies = 1;
        // SAFETY: `info` has room for `size` bytes, and this flavor writes a `proc_bsdinfo`.
        let written = unsafe {
            libc::proc_pidinfo(
                pid.as_raw_nonzero().get(),
                libc::PROC_PIDTBSDINFO,
                with_zombies,
                info.as_mut_ptr().cast(),
                size,
            )
        };
        // SAFETY: it was zeroed, and zeroes are valid integers.
        let info = unsafe { info.assume_init() };
        (written == size).then(|| micros(info.pbi_start_tvsec as i64, info.pbi_start_tvusec as i64))
    }

    /// sysctl(3), `KERN_PROC_PID`. It tells the boot time plus the uptime at the start, and the boot time
    /// moves when the clock is set. So take away the one that was added: the same before and after.
    #[cfg(target_os = "freebsd")]
    fn started(pid: Pid) -> Option<i64> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        let booted = || {
            let time: libc::timeval = sysctl(&[libc::CTL_KERN, libc::KERN_BOOTTIME])?;
            Some(micros(time.tv_sec, time.tv_usec))
        };
        for _ in 0..10 {
            let before = booted()?;
            let info: libc::kinfo_proc = sysctl(&name)?;
            if booted()? == before {
                return Some(known(info.ki_start.tv_sec, info.ki_start.tv_usec)? - before);
            }
        }
        None
    }

    /// sysctl(3), `KERN_PROC_PID`.
    #[cfg(target_os = "dragonfly")]
    fn started(pid: Pid) -> Option<i64> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        let info: libc::kinfo_proc = sysctl(&name)?;
        known(info.kp_start.tv_sec, info.kp_start.tv_usec)
    }

    /// sysctl(7), `KERN_PROC2`.
    #[cfg(target_os = "netbsd")]
    fn started(pid: Pid) -> Option<i64> {
        let size = size_of::<libc::kinfo_proc2>() as std::ffi::c_int;
        let name = [libc::CTL_KERN, libc::KERN_PROC2, libc::KERN_PROC_PID, raw(pid), size, 1];
        let info: libc::kinfo_proc2 = sysctl(&name)?;
        known(info.p_ustart_sec, info.p_ustart_usec)
    }

    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
    mod kern_proc {
        use super::{Pid, micros};
        use std::ffi::{c_int, c_uint};
        use std::mem::MaybeUninit;

        pub(super) fn raw(pid: Pid) -> c_int {
            pid.as_raw_nonzero().get()
        }

        /// A time of zero means that it is not told (as of a zombie, on some systems).
        pub(super) fn known(seconds: impl Into<i64>, rest: impl Into<i64>) -> Option<i64> {
            Some(micros(seconds, rest)).filter(|time| *time != 0)
        }

        /// Reads one record of integers, pointers and arrays of them.
        pub(super) fn sysctl<T>(name: &[c_int]) -> Option<T> {
            let mut value = MaybeUninit::<T>::zeroed();
            let mut size = size_of::<T>();
            // SAFETY: `name` has the length that is told, `value` has room for `size` bytes, and
            // nothing is to be set.
            let result = unsafe {
                libc::sysctl(
                    name.as_ptr(),
                    name.len() as c_uint,
                    value.as_mut_ptr().cast(),
                    &raw mut size,
                    std::ptr::null_mut(),
                    0,
                )
            };
            // A record that is not there is a success of size 0.
            if result != 0 || size < size_of::<T>() {
                return None;
            }
            // SAFETY: the kernel wrote all of it, and the records asked for are plain data.
            Some(unsafe { value.assume_init() })
        }
    }

    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
    use kern_proc::{known, raw, sysctl};
}

/// Elsewhere the system does not tell; or it must not be asked: OpenBSD's sysctl(2) would end a program
/// that has pledged no `ps`, which nothing else here needs.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
mod unknown {
    use super::Same;
    use crate::exit::by_pid::Pid;
    use std::convert::Infallible;

    #[derive(Debug)]
    pub(in super::super) struct Identity(Infallible);

    impl Identity {
        pub(in super::super) fn of(_: Pid) -> Option<Self> {
            None
        }

        pub(in super::super) fn check(&self) -> Same {
            match self.0 {}
        }
    }
}
