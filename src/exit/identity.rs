//! Is a process ID still the child's?
//!
//! Only where a process is known by its ID alone, and only because of foreign reapers: as long as we
//! have not reaped the child and nobody else has, the ID cannot have a new owner.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::Identity;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use start::Identity;

/// What [`Identity::check`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Elsewhere: the time when the process started, where the system tells it, to the microsecond.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod start {
    use super::Same;
    use crate::exit::by_pid::Pid;

    #[derive(Debug)]
    pub(in super::super) struct Identity {
        pid: Pid,
        started: (i64, i64),
    }

    impl Identity {
        /// `None` where the system does not tell.
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

    /// `proc_pidinfo` of libproc.
    #[cfg(target_os = "macos")]
    fn started(pid: Pid) -> Option<(i64, i64)> {
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
        (written == size).then_some((info.pbi_start_tvsec as i64, info.pbi_start_tvusec as i64))
    }

    /// sysctl(3), `KERN_PROC_PID`.
    #[cfg(target_os = "freebsd")]
    fn started(pid: Pid) -> Option<(i64, i64)> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        let info: libc::kinfo_proc = sysctl(&name)?;
        known(info.ki_start.tv_sec, info.ki_start.tv_usec)
    }

    /// sysctl(3), `KERN_PROC_PID`.
    #[cfg(target_os = "dragonfly")]
    fn started(pid: Pid) -> Option<(i64, i64)> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid)];
        let info: libc::kinfo_proc = sysctl(&name)?;
        known(info.kp_start.tv_sec, info.kp_start.tv_usec)
    }

    /// sysctl(2), `KERN_PROC_PID`.
    #[cfg(target_os = "openbsd")]
    fn started(pid: Pid) -> Option<(i64, i64)> {
        let size = size_of::<libc::kinfo_proc>() as std::ffi::c_int;
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, raw(pid), size, 1];
        let info: libc::kinfo_proc = sysctl(&name)?;
        known(info.p_ustart_sec as i64, info.p_ustart_usec)
    }

    /// sysctl(7), `KERN_PROC2`.
    #[cfg(target_os = "netbsd")]
    fn started(pid: Pid) -> Option<(i64, i64)> {
        let size = size_of::<libc::kinfo_proc2>() as std::ffi::c_int;
        let name = [libc::CTL_KERN, libc::KERN_PROC2, libc::KERN_PROC_PID, raw(pid), size, 1];
        let info: libc::kinfo_proc2 = sysctl(&name)?;
        known(info.p_ustart_sec, info.p_ustart_usec)
    }

    #[cfg(not(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd",
        target_os = "netbsd"
    )))]
    fn started(_: Pid) -> Option<(i64, i64)> {
        None
    }

    #[cfg(any(
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd",
        target_os = "netbsd"
    ))]
    mod kern_proc {
        use super::Pid;
        use std::ffi::{c_int, c_uint};
        use std::mem::MaybeUninit;

        pub(super) fn raw(pid: Pid) -> c_int {
            pid.as_raw_nonzero().get()
        }

        /// A time of zero means that it is not told (as of a zombie, on some systems).
        pub(super) fn known(seconds: impl Into<i64>, micros: impl Into<i64>) -> Option<(i64, i64)> {
            let (seconds, micros) = (seconds.into(), micros.into());
            (seconds != 0).then_some((seconds, micros))
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
}
