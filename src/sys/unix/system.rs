//! The systems other than Linux, as values: so facts about their kernels can be tested on any system.
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
    /// Returns whether `kevent` answers ESRCH for a child that is exiting, or is a zombie.
    ///
    /// FreeBSD and DragonFly find such a child, and the event fires at once. There ESRCH means that the process was
    /// reaped, or, on FreeBSD, that a policy hides it (`p_cansee`: `security.bsd.see_other_uids` and its like, for a
    /// child that runs a set-user-ID program). A hidden child may run for long, and `waitid` still serves it.
    pub(crate) const fn kevent_misses_exiting(self) -> bool {
        matches!(self, Self::Apple | Self::NetBsd | Self::OpenBsd)
    }

    /// Compares a child with the process that has its ID now: `None` if there is none, or if the system does not report
    /// it. Each process is given as its start and its parent. `me` is this process.
    ///
    /// FreeBSD reparents a zombie whose parent ignores SIGCHLD, and the process table shows it until its new parent
    /// reaps it. From then on `waitid` does not find the zombie, which counts as a foreign reap. Only FreeBSD's table
    /// names the real parent of a process that is traced. The others name the debugger, which returns the child when it
    /// detaches, or a former parent, so a parent other than this process proves nothing there. (XNU removes the mark that
    /// a process is traced from a zombie, so the mark does not help.)
    pub(crate) fn compare<T: PartialEq>(self, me: i32, then: &T, now: Option<(T, i32)>) -> Same {
        match now {
            Some((start, _)) if start != *then => Same::No,
            Some((_, parent)) if parent != me && self == Self::FreeBsd => Same::Reparented,
            Some(_) => Same::Yes,
            None => Same::Unknown,
        }
    }
}

/// The result of the check of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no system reports all of them")]
pub(crate) enum Same {
    /// The ID means the child, living or zombie.
    Yes,
    /// The ID means the child, and the child has another parent for good: this process cannot wait for it any more.
    Reparented,
    /// The child was reaped, and another process has its ID.
    No,
    /// The ID may be free, or the system does not report it.
    Unknown,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Same, System};

    const ME: i32 = 100;
    const INIT: i32 = 1;

    #[test]
    fn esrch_means_an_exit_only_where_kevent_misses_zombies() {
        assert!(!System::FreeBsd.kevent_misses_exiting());
        assert!(!System::DragonFly.kevent_misses_exiting());
        assert!(System::Apple.kevent_misses_exiting());
        assert!(System::NetBsd.kevent_misses_exiting());
        assert!(System::OpenBsd.kevent_misses_exiting());
    }

    #[test]
    fn zombie_that_freebsd_has_given_to_init_is_reparented() {
        assert_eq!(System::FreeBsd.compare(ME, &7, Some((7, INIT))), Same::Reparented);
        assert_eq!(System::FreeBsd.compare(ME, &7, Some((7, ME))), Same::Yes);
    }

    #[test]
    fn child_whose_parent_is_a_debugger_stays_the_child() {
        for system in [System::Apple, System::NetBsd, System::DragonFly] {
            assert_eq!(system.compare(ME, &7, Some((7, INIT))), Same::Yes, "{system:?}");
        }
    }

    #[test]
    fn another_start_means_another_process_with_any_parent() {
        for parent in [ME, INIT] {
            assert_eq!(System::FreeBsd.compare(ME, &7, Some((8, parent))), Same::No);
        }
        assert_eq!(System::FreeBsd.compare(ME, &7, None), Same::Unknown);
    }
}
