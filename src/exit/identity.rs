//! Is a process ID still the child's?
//!
//! Only where a process is known by its ID alone, and only because of foreign reapers: as long as we
//! have not reaped the child and nobody else has, the ID cannot have a new owner.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::Identity;

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
))]
pub(super) use start::Identity;

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
)))]
pub(super) use unknown::Identity;

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
    use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
    use std::os::fd::{AsFd, OwnedFd};

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        directory: OwnedFd,
        pid: Pid,
    }

    impl Identity {
        /// `None` without `/proc`, or without a descriptor to spare.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
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

/// macOS and the BSDs: the time when the process started.
///
/// It is a time of day, and what happens to it when somebody sets the clock differs. macOS, NetBSD and
/// DragonFly note the time of day at the start, and that stands. FreeBSD and OpenBSD note how long the
/// system had been up, and add the time of day at which it booted, which moves with the clock. So there
/// the time since boot is remembered as well, and whichever stays the same shows that it is the same
/// process.
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd"
))]
mod start {
    use super::Same;
    use crate::exit::by_pid::Pid;

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        pid: Pid,
        started: Started,
    }

    /// In microseconds.
    #[derive(Debug, Clone, Copy)]
    struct Started {
        time_of_day: i64,
        /// Where that is what the system knows.
        since_boot: Option<i64>,
    }

    impl Started {
        fn same_as(self, other: Self) -> bool {
            /// Where nanoseconds are added and then rounded.
            const ROUNDING: u64 = 2;
            let since_boot = self.since_boot.zip(other.since_boot);
            self.time_of_day == other.time_of_day
                || since_boot.is_some_and(|(a, b)| a.abs_diff(b) <= ROUNDING)
        }
    }

    fn micros(seconds: impl Into<i64>, micros: impl Into<i64>) -> i64 {
        seconds.into() * 1_000_000 + micros.into()
    }

    impl Identity {
        /// `None` if the process is gone.
        pub(in super::super) fn of(pid: Pid) -> Option<Self> {
            let started = started(pid)?;
            Some(Self { pid, started })
        }

        pub(in super::super) fn check(&self) -> Same {
            match started(self.pid) {
                Some(started) if started.same_as(self.started) => Same::Yes,
                Some(_) => Same::No,
                // Free, or a zombie of which this is not told any more.
                None => Same::Unknown,
            }
        }
    }

    /// `proc_pidinfo` of libproc.
    #[cfg(target_os = "macos")]
    fn started(pid: Pid) -> Option<Started> {
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
        let time_of_day = micros(info.pbi_start_tvsec as i64, info.pbi_start_tvusec as i64);
        (written == size).then_some(Started { time_of_day, since_boot: None })
    }

    /// sysctl(3), `KERN_PROC_PID`.
    #[cfg(target_os = "freebsd")]
    fn started(pid: Pid) -> Option<Started> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        with_boot_time(|| {
            let info: libc::kinfo_proc = sysctl(&name)?;
            known(info.ki_start.tv_sec, info.ki_start.tv_usec)
        })
    }

    /// sysctl(3), `KERN_PROC_PID`.
    #[cfg(target_os = "dragonfly")]
    fn started(pid: Pid) -> Option<Started> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        let info: libc::kinfo_proc = sysctl(&name)?;
        known(info.kp_start.tv_sec, info.kp_start.tv_usec)
    }

    /// sysctl(2), `KERN_PROC_PID`.
    #[cfg(target_os = "openbsd")]
    fn started(pid: Pid) -> Option<Started> {
        let size = size_of::<libc::kinfo_proc>() as std::ffi::c_int;
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid), size, 1];
        with_boot_time(|| {
            let info: libc::kinfo_proc = sysctl(&name)?;
            known(info.p_ustart_sec as i64, info.p_ustart_usec)
        })
    }

    /// sysctl(7), `KERN_PROC2`.
    #[cfg(target_os = "netbsd")]
    fn started(pid: Pid) -> Option<Started> {
        let size = size_of::<libc::kinfo_proc2>() as std::ffi::c_int;
        let name = [libc::CTL_KERN, libc::KERN_PROC2, libc::KERN_PROC_PID, raw(pid), size, 1];
        let info: libc::kinfo_proc2 = sysctl(&name)?;
        known(info.p_ustart_sec, info.p_ustart_usec)
    }

    #[cfg(any(
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd",
        target_os = "netbsd"
    ))]
    mod kern_proc {
        use super::{Pid, Started, micros};
        use std::ffi::{c_int, c_uint};
        use std::mem::MaybeUninit;

        pub(super) fn raw(pid: Pid) -> c_int {
            pid.as_raw_nonzero().get()
        }

        /// A time of zero means that it is not told (as of a zombie, on some systems).
        pub(super) fn known(seconds: impl Into<i64>, rest: impl Into<i64>) -> Option<Started> {
            let time_of_day = micros(seconds, rest);
            (time_of_day != 0).then_some(Started { time_of_day, since_boot: None })
        }

        /// Adds the time since boot, by the boot time that held when the kernel added it: the same
        /// before and after. If the clock is set that often, the time of day must do.
        #[cfg(any(target_os = "freebsd", target_os = "openbsd"))]
        pub(super) fn with_boot_time(started: impl Fn() -> Option<Started>) -> Option<Started> {
            fn booted() -> Option<i64> {
                let time: libc::timeval = sysctl(&[libc::CTL_KERN, libc::KERN_BOOTTIME])?;
                Some(micros(time.tv_sec, time.tv_usec))
            }
            let mut boot = booted();
            for _ in 0..10 {
                let started = started()?;
                let before = std::mem::replace(&mut boot, booted());
                if let Some(boot) = boot.filter(|_| boot == before) {
                    let since_boot = Some(started.time_of_day - boot);
                    return Some(Started { since_boot, ..started });
                }
            }
            started()
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

    #[cfg(any(
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd",
        target_os = "netbsd"
    ))]
    use kern_proc::{known, raw, sysctl};

    #[cfg(any(target_os = "freebsd", target_os = "openbsd"))]
    use kern_proc::with_boot_time;
}

/// Elsewhere the system does not tell.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
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
