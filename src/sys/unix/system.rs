//! The systems other than Linux, as values: what is known of their kernels can be tested on any system.
//!
//! Sources: `sys/kern/kern_event.c` and `sys/kern/kern_proc.c` of FreeBSD and DragonFly; `filt_procattach` in the
//! `kern_event.c` of XNU, NetBSD and OpenBSD.

#![allow(dead_code, reason = "a system is built for itself, the tests for all")]

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// macOS, iOS and others.
    Apple,
    FreeBsd,
    DragonFly,
    NetBsd,
    OpenBsd,
    /// illumos and Solaris.
    Solarish,
    Haiku,
}

impl System {
    /// The system that this is built for. `None` for Linux, Android, and systems that are not checked.
    pub(crate) const THIS: Option<Self> = if cfg!(target_vendor = "apple") {
        Some(Self::Apple)
    } else if cfg!(target_os = "freebsd") {
        Some(Self::FreeBsd)
    } else if cfg!(target_os = "dragonfly") {
        Some(Self::DragonFly)
    } else if cfg!(target_os = "netbsd") {
        Some(Self::NetBsd)
    } else if cfg!(target_os = "openbsd") {
        Some(Self::OpenBsd)
    } else if cfg!(any(target_os = "illumos", target_os = "solaris")) {
        Some(Self::Solarish)
    } else if cfg!(target_os = "haiku") {
        Some(Self::Haiku)
    } else {
        None
    };

    /// Whether `kevent` answers ESRCH for a child that is exiting, or is a zombie.
    ///
    /// FreeBSD and DragonFly find such a child, and the event fires at once. There ESRCH means that the process is
    /// gone, or, on FreeBSD, that a policy hides it (`p_cansee`: `security.bsd.see_other_uids` and its like, for a
    /// child that runs a set-user-ID program). A hidden child may run for long, and `waitid` still serves it.
    pub(crate) const fn kevent_misses_exiting(self) -> bool {
        matches!(self, Self::Apple | Self::NetBsd | Self::OpenBsd)
    }

    /// Whether the process table names the real parent of a process that is traced.
    ///
    /// FreeBSD does. The others name the debugger, or a former parent. XNU takes the mark that a process is traced from
    /// a zombie, so the mark does not help there.
    pub(crate) const fn tells_real_parent(self) -> bool {
        matches!(self, Self::FreeBsd)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::System;

    #[test]
    fn esrch_where_zombies_are_found_does_not_mean_an_exit() {
        assert!(!System::FreeBsd.kevent_misses_exiting());
        assert!(!System::DragonFly.kevent_misses_exiting());
        assert!(System::Apple.kevent_misses_exiting());
        assert!(System::NetBsd.kevent_misses_exiting());
        assert!(System::OpenBsd.kevent_misses_exiting());
    }
}
