//! The operating systems: one folder per family and one file per mechanism. This file alone chooses between them.
//!
//! [`Exit`] is the interface between the platform-neutral [`lifecycle`](crate::lifecycle) and the mechanisms. `Notice`
//! implements it on each system.

use crate::fork_guard::ForkGuard;
use crate::sync::{Mutex, MutexGuard};
use crate::usage::Usage;
use std::fmt;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
#[cfg(unix)]
use {
    std::os::fd::{AsFd, BorrowedFd},
    unix::by_pid::{Identity, Pid},
    unix::notice::ProcessDescriptor,
    unix::process_table::{Pidfds, ProcessTable},
    unix::system::System,
};

mod helper_thread;
pub(crate) use helper_thread::{spawn_helper, spawn_thread};

/// Whether the system's shells follow POSIX.
pub(crate) const HAS_POSIX_SHELLS: bool = cfg!(unix);

// Every Unix.

#[cfg(unix)]
pub(crate) mod unix {
    pub(crate) mod by_pid;
    pub(crate) mod child_pipe;
    pub(crate) mod exit_descriptor;
    pub(crate) mod notice;
    pub(crate) mod pipe;
    pub(crate) mod process_table;
    pub(crate) mod reaped_elsewhere;
    pub(crate) mod registration;
    pub(crate) mod siginfo;
    pub(crate) mod sigpipe;
    pub(crate) mod syscall;
    pub(crate) mod system;
    pub(crate) mod waitid_thread;
}
#[cfg(unix)]
pub use unix::{notice::Backend, reaped_elsewhere::ReapedElsewhere};
#[cfg(unix)]
pub(crate) use {
    std::os::fd::{OwnedFd as FromChild, OwnedFd as OwnedDescriptor},
    unix::child_pipe::{Alarm, Pipe, PipeEvent, Wait},
    unix::exit_descriptor::{ExitDescriptor, ready_descriptor},
    unix::notice::{Notice, PLAIN_CHILD_TAKES_REQUESTS, Request, is_signal, reaped_elsewhere},
    unix::pipe::pipe,
    unix::registration::Registration,
};

/// The mechanisms that a Unix offers beyond POSIX. A missing mechanism is `None`.
#[cfg(unix)]
#[allow(clippy::type_complexity, reason = "each type has one use")]
pub(crate) struct Platform {
    /// The kernel. `None` on Linux and Android, which need no such facts, and on systems on which this library is not
    /// checked.
    pub(crate) system: Option<System>,
    /// Whether the layout of `siginfo_t` is part of the kernel's interface.
    pub(crate) has_stable_siginfo: bool,
    /// Opens a descriptor for the exit of a child.
    pub(crate) descriptor: Option<fn(Pid) -> Option<Box<dyn ProcessDescriptor>>>,
    /// Accepts such a descriptor that the child has sent. An error if another part of the program has reaped the child,
    /// with the status if the kernel kept it.
    pub(crate) sent_descriptor: Option<
        fn(FromChild, Pid) -> Option<Result<Box<dyn ProcessDescriptor>, Option<ExitStatus>>>,
    >,
    /// Opens a queue for the exits of many children.
    kernel_queue: Option<fn() -> io::Result<std::sync::Arc<dyn KernelQueue>>>,
    /// Distinguishes a process from the next owner of its ID.
    pub(crate) identity: Option<fn(Pid) -> Option<Box<dyn Identity>>>,
    /// Reads the status of a zombie by another call than `waitid`, without reaping it.
    pub(crate) status_of_zombie: Option<fn(Pid) -> Option<ExitStatus>>,
    /// Reads the usage of a zombie without reaping it.
    pub(crate) usage_of_zombie: Option<fn(Pid) -> Option<Usage>>,
    /// All processes of the machine.
    pub(crate) process_table: Option<&'static dyn ProcessTable>,
    /// Descriptors that pin processes other than children.
    pub(crate) pidfds: Option<Pidfds>,
    /// Opens a descriptor for the exit of any process that has the ID now.
    pub(crate) exit_of: Option<fn(Pid) -> Option<Box<dyn AsFd + Send>>>,
}

#[cfg(unix)]
impl Platform {
    const POSIX: Self = Self {
        system: None,
        has_stable_siginfo: false,
        descriptor: None,
        sent_descriptor: None,
        kernel_queue: None,
        identity: None,
        status_of_zombie: None,
        usage_of_zombie: None,
        process_table: None,
        pidfds: None,
        exit_of: None,
    };
}

// Linux and Android.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod linux {
    use super::Platform;

    #[cfg(target_os = "linux")]
    pub(crate) mod epoll;
    #[cfg(target_os = "linux")]
    pub(crate) mod pidfd;
    pub(crate) mod proc_file;
    pub(crate) mod procfs;
    pub(crate) mod waitid;

    pub(crate) const WITHOUT_PIDFDS: Platform = Platform {
        has_stable_siginfo: true,
        identity: Some(procfs::identity_of),
        usage_of_zombie: Some(waitid::usage_of),
        process_table: Some(&procfs::Procfs),
        ..Platform::POSIX
    };
}

#[cfg(target_os = "android")]
pub(crate) const PLATFORM: Platform = linux::WITHOUT_PIDFDS;

#[cfg(target_os = "linux")]
pub(crate) const PLATFORM: Platform = Platform {
    descriptor: Some(linux::pidfd::open),
    sent_descriptor: Some(linux::pidfd::accept),
    kernel_queue: Some(linux::epoll::open),
    pidfds: Some(linux::pidfd::OF_ANY),
    ..linux::WITHOUT_PIDFDS
};

// macOS, iOS and the BSDs.

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) mod bsd {
    use super::Platform;

    pub(crate) mod kqueue;
    pub(crate) mod kqueue_watch;
    #[cfg(target_os = "macos")]
    pub(crate) mod libproc;
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
    mod sysctl;
    #[cfg(target_os = "macos")]
    use libproc as source;
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
    use sysctl as source;
    #[cfg(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd"
    ))]
    pub(crate) mod records;
    #[cfg(any(target_os = "freebsd", target_os = "netbsd"))]
    pub(crate) mod wait6;

    pub(crate) const WITHOUT_RECORDS: Platform = Platform {
        descriptor: Some(kqueue::open),
        kernel_queue: Some(kqueue_watch::open),
        exit_of: Some(kqueue::exit_of),
        ..Platform::POSIX
    };
}

#[cfg(all(target_vendor = "apple", not(target_os = "macos")))]
pub(crate) const PLATFORM: Platform =
    Platform { system: Some(System::Apple), ..bsd::WITHOUT_RECORDS };

#[cfg(target_os = "macos")]
pub(crate) const PLATFORM: Platform = Platform {
    system: Some(System::Apple),
    status_of_zombie: Some(bsd::libproc::status_of_zombie),
    usage_of_zombie: Some(bsd::libproc::usage_of),
    ..bsd::records::WITH_RECORDS
};

#[cfg(target_os = "freebsd")]
pub(crate) const PLATFORM: Platform = Platform {
    system: Some(System::FreeBsd),
    usage_of_zombie: Some(bsd::wait6::usage_of),
    ..bsd::records::WITH_RECORDS
};

#[cfg(target_os = "netbsd")]
pub(crate) const PLATFORM: Platform = Platform {
    system: Some(System::NetBsd),
    usage_of_zombie: Some(bsd::wait6::usage_of),
    ..bsd::records::WITH_RECORDS
};

#[cfg(target_os = "dragonfly")]
pub(crate) const PLATFORM: Platform =
    Platform { system: Some(System::DragonFly), ..bsd::records::WITH_RECORDS };

// No process table: OpenBSD's sysctl(2) would kill a program that has not pledged `ps`, which nothing else here
// requires.
#[cfg(target_os = "openbsd")]
pub(crate) const PLATFORM: Platform =
    Platform { system: Some(System::OpenBsd), ..bsd::WITHOUT_RECORDS };

// Systems with POSIX alone.

#[cfg(any(target_os = "illumos", target_os = "solaris"))]
pub(crate) const PLATFORM: Platform =
    Platform { system: Some(System::Solarish), ..Platform::POSIX };

#[cfg(target_os = "haiku")]
pub(crate) const PLATFORM: Platform = Platform { system: Some(System::Haiku), ..Platform::POSIX };

#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly",
        target_os = "illumos",
        target_os = "solaris",
        target_os = "haiku"
    ))
))]
pub(crate) const PLATFORM: Platform = Platform::POSIX;

// Windows.

#[cfg(windows)]
pub(crate) mod windows {
    pub(crate) mod pipe;
    pub(crate) mod process;
    pub(crate) mod registered_wait;
    mod synchronous_pipe;
}
#[cfg(windows)]
pub use windows::process::Backend;
#[cfg(windows)]
pub(crate) use {
    std::os::windows::io::OwnedHandle as OwnedDescriptor,
    windows::pipe::{Alarm, Pipe, PipeEvent, Wait, pipe},
    windows::process::{
        ExitDescriptor, Notice, PLAIN_CHILD_TAKES_REQUESTS, Request, is_signalled,
        ready_descriptor, reaped_elsewhere, wait_for_any,
    },
    windows::registered_wait::Registration,
};

/// A handle of the child that its notice is to own, so that the child can be observed after its [`Child`] is dropped.
#[cfg(windows)]
pub(crate) type FromChild = std::os::windows::io::OwnedHandle;

/// Has a child without a tree killed when this process dies. Ends with the child. Most children have none.
///
/// The child of a fork has a copy, whose lock another thread may have held. It uses none of it.
#[derive(Default)]
pub(crate) struct KillWithParent(Option<ForkGuard<Mutex<UntilEnd>>>);

type UntilEnd = Option<Box<dyn KillsWithParent>>;

/// Ends when it is dropped.
pub(crate) trait KillsWithParent: Send {
    /// Spares the child, or stops sparing it, if this process dies. (Windows does not rely on the process ID.)
    #[cfg(unix)]
    fn spare(&mut self, spare: bool);
}

impl KillWithParent {
    pub(crate) fn by(mechanism: impl KillsWithParent + 'static) -> Self {
        Self(Some(ForkGuard::new(Mutex::new(Some(Box::new(mechanism))))))
    }

    fn lock(&self) -> Option<MutexGuard<'_, UntilEnd>> {
        let own = self.0.as_ref().filter(|mechanism| !mechanism.is_copied())?;
        Some(own.lock())
    }

    fn is_set(&self) -> bool {
        self.lock().is_some_and(|mechanism| mechanism.is_some())
    }

    #[cfg(unix)]
    fn spare(&self, spare: bool) {
        if let Some(mut mechanism) = self.lock() {
            if let Some(mechanism) = &mut *mechanism {
                mechanism.spare(spare);
            }
        }
    }

    fn end(&self) {
        // Dropped after the lock is released.
        let mechanism = self.lock().and_then(|mut mechanism| mechanism.take());
        drop(mechanism);
    }
}

impl fmt::Debug for KillWithParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KillWithParent").field(&self.is_set()).finish()
    }
}

/// Returns an error with the same code, or with the same kind and text.
pub(crate) fn copy_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// How much one read or write of a pipe moves at most. A pipe mostly holds as much.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The operations on a child's pipes that do not block now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) stdin: bool,
    pub(crate) outputs: [bool; 2],
    /// The child may have exited.
    pub(crate) exit: bool,
}

impl Ready {
    pub(crate) const ALL: Self = Self { stdin: true, outputs: [true; 2], exit: true };
}

/// A queue of the kernel that reports the exits of many children.
pub(crate) trait KernelQueue: Send + Sync {
    /// Returns whether the queue reports an exit no later than any other part of the program can observe it.
    #[cfg(unix)]
    fn is_prompt(&self) -> bool;

    /// Reports `key`, once, when the descriptor becomes readable, or writable. Fails if the descriptor is in the queue already.
    #[cfg(unix)]
    fn add(&self, descriptor: BorrowedFd<'_>, key: u64, for_write: bool) -> io::Result<()>;

    /// Reports the key of a descriptor once more, after it was reported.
    #[cfg(unix)]
    fn rearm(&self, descriptor: BorrowedFd<'_>, key: u64, for_write: bool) -> io::Result<()>;

    /// Removes the descriptor. Must be called before it is closed.
    #[cfg(unix)]
    fn remove(&self, descriptor: BorrowedFd<'_>);

    /// Wakes all waiters, now and later, until `clear_wake`. Never blocks. The caller alternates the two calls.
    fn wake(&self);

    fn clear_wake(&self);

    /// Blocks, and adds the keys of descriptors that became readable. Returns whether a wake-up is set.
    fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool>;
}

/// Opens a kernel queue. Fails where the system has none, or if no descriptor is spare.
pub(crate) fn kernel_queue() -> io::Result<std::sync::Arc<dyn KernelQueue>> {
    #[cfg(unix)]
    if let Some(open) = PLATFORM.kernel_queue {
        return open();
    }
    Err(io::ErrorKind::Unsupported.into())
}

/// Notices the exit of one child without reaping it.
///
/// The lifecycle calls `observe`, `recover` and every signal under its lock and before its reap. So an implementation races
/// only with the threads in its own `wait`, and with foreign reapers.
pub(crate) trait Exit: Send + Sync + Sized + 'static {
    /// Blocks until the child may have exited (`true`), or until the deadline (`false`). A deadline that has passed is no
    /// error. Without a deadline the result is always `true`.
    ///
    /// `true` does not promise that [`observe`](Exit::observe) finds an exit.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool>;

    /// Polls the child: returns its state, and the usage of a zombie where the system reports it without a reap. Never
    /// blocks.
    ///
    /// | system | call | CPU times | peak |
    /// |---|---|---|---|
    /// | Linux, Android | `waitid`, the system call | with those of the children it waited for | resident; the larger of its own and theirs |
    /// | FreeBSD | `wait6`, `wru_self` | the same | the same |
    /// | NetBSD | `wait6` | its own | resident; its own |
    /// | macOS | `proc_pid_rusage` | with those of the children it waited for | its own footprint |
    /// | Windows | `GetProcessTimes`, `GetProcessMemoryInfo` | its own | its own working set |
    fn observe(&self) -> io::Result<(Observed, Option<Usage>)>;

    /// Returns the status of a child that another part of the program has reaped, if the kernel kept it. Never blocks.
    fn recover(&self) -> Option<ExitStatus>;

    /// Chooses between two statuses that differ: `seen`, which a poll read from the zombie, and `reaped`, which a later
    /// reap returned for the child's process ID. Never blocks.
    ///
    /// Where a poll cannot misread the zombie, `seen` is right: the ID belonged to another process at the reap.
    fn arbitrate(&self, seen: ExitStatus, _reaped: ExitStatus) -> ExitStatus {
        seen
    }

    /// Kills the child. Never blocks.
    fn kill(&self) -> io::Result<()>;

    /// Returns whether [`wait`](Exit::wait) relies on the process ID, which the child then keeps until the wait
    /// returns.
    fn wait_relies_on_pid(&self) -> bool {
        false
    }

    /// Called with `true` before the reap: from then on the process ID may be another process's, so the death of this
    /// process must not kill by the ID. Called with `false` if the child was not reaped: without a status, only the reap
    /// shows whether the child runs.
    fn spare(&self, _spare: bool) {}

    /// Notifies the listeners that the exit itself does not wake. Called after the reap.
    fn settled(&self);
}

/// The result of opening a notice for a child that this library has not reaped.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The notice means the child, which is unreaped.
    Unreaped(Notice),
    /// The notice means the process that has the child's ID. Only a reap shows whether that is the child.
    #[cfg_attr(windows, expect(dead_code, reason = "a process handle always means the child"))]
    Unverified(Notice),
    /// Another part of the program has reaped the child, so its process ID may belong to another process. Holds the
    /// status if the kernel kept it.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no zombies"))]
    ReapedElsewhere(Option<ExitStatus>),
}

/// The state of a child, from [`Exit::observe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The child has not exited, as far as the system reports.
    Running,
    /// The child has exited and can be reaped. The status, where the mechanism has one, is the kernel's for this very
    /// process.
    Exited(Option<ExitStatus>),
    /// Another part of the program has reaped the child.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no zombies"))]
    ReapedElsewhere,
}

#[cfg(unix)]
impl Observed {
    /// Returns whether the child has exited and is unreaped.
    pub(crate) fn is_zombie(self) -> bool {
        matches!(self, Self::Exited(_))
    }
}

/// The reaping side of a child: std's `Child`, or the model's.
///
/// Reaps by the process ID, although a pidfd could reap: a `Child` learns its status only by reaping, and `into_inner`
/// returns a `Child` that knows it. (The reaper has no `Child`, and reaps through the pidfd.)
pub(crate) trait Reap {
    /// Reaps the child if it is a zombie. Never blocks.
    fn reap(&mut self) -> io::Result<Reaped>;

    /// Returns the process ID, for messages.
    fn id(&self) -> u32;
}

/// The result of [`Reap::reap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// Reaped.
    Status(ExitStatus),
    /// A child of this process has the ID and is not a zombie.
    NotYet,
    /// No child of this process has the ID.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no zombies"))]
    NoSuchChild,
}

impl Reap for Child {
    fn reap(&mut self) -> io::Result<Reaped> {
        match self.try_wait() {
            Ok(Some(status)) => Ok(Reaped::Status(status)),
            Ok(None) => Ok(Reaped::NotYet),
            #[cfg(unix)]
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Reaped::NoSuchChild),
            Err(error) => Err(error),
        }
    }

    fn id(&self) -> u32 {
        Child::id(self)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{KillWithParent, KillsWithParent};
    use crate::fork_guard::ForkGuard;
    use crate::sync::{Arc, Mutex};
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    impl KillsWithParent for Arc<()> {
        #[cfg(unix)]
        fn spare(&mut self, _: bool) {}
    }

    /// Covers a fork while another thread of the parent has held the lock.
    #[test]
    fn kill_with_parent_copied_by_a_fork_takes_no_lock() {
        let ended: Arc<()> = Arc::default();
        let own = KillWithParent::by(Arc::clone(&ended));
        assert!(own.is_set());
        own.end();
        assert!(!own.is_set() && Arc::strong_count(&ended) == 1);

        // The parent still refers to what the copy does not drop. Otherwise LeakSanitizer reports it.
        static OF_PARENT: AtomicPtr<Arc<()>> = AtomicPtr::new(null_mut());
        let mut mechanism = Box::new(Arc::clone(&ended));
        OF_PARENT.store(&mut *mechanism, Ordering::Relaxed);
        let copy = KillWithParent(Some(ForkGuard::copied(Mutex::new(Some(mechanism)))));
        let copy = Arc::new(copy);
        let held = copy.0.as_ref().expect("it was set").lock();
        let (done, is_done) = mpsc::channel();
        let used = Arc::clone(&copy);
        std::thread::spawn(move || {
            let is_set = used.is_set();
            used.end();
            let _ = done.send(is_set);
        });
        let is_set = is_done.recv_timeout(Duration::from_secs(60));
        drop(held);
        assert_eq!(is_set, Ok(false));
        drop(copy);
        assert_eq!(Arc::strong_count(&ended), 2, "the copy has ended what is the parent's");
    }
}
