//! "Has it exited?", one file a mechanism.
//!
//! This is the interface between the platform-neutral [`lifecycle`](crate::lifecycle) and the
//! backends. `Notice` is the platform's implementation of [`Exit`]; everything that is particular to
//! an operating system stays on the other side of it.

use crate::sync::Arc;
use crate::usage::Usage;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Instant;

#[cfg(unix)]
mod own;
mod per_process;
mod port;
#[cfg(unix)]
mod registration;
#[cfg(unix)]
pub(crate) mod thread;
#[cfg(unix)]
mod usage;

pub(crate) use per_process::PerProcess;
pub(crate) use port::Port;

// Every Unix.

#[cfg(unix)]
pub(crate) mod unix {
    pub(crate) mod by_pid;
    pub(crate) mod exit_descriptor;
    pub(crate) mod identity;
    pub(crate) mod notice;
    pub(crate) mod pipe;
    pub(crate) mod siginfo;
    pub(crate) mod sigpipe;
    pub(crate) mod system;
}
#[cfg(unix)]
pub use unix::notice::Backend;
#[cfg(unix)]
pub(crate) use {
    crate::watcher::sweep,
    own::Own,
    registration::Registration,
    unix::exit_descriptor::ExitDescriptor,
    unix::notice::{
        ASKS_ANYBODY, Ask, Notice, ask, is_signal, reaped_elsewhere, spawn_helper, spawn_thread,
        time_left,
    },
    unix::pipe::pipe,
};

// Linux and Android.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod linux {
    #[cfg(target_os = "linux")]
    pub(crate) mod epoll;
    #[cfg(target_os = "linux")]
    pub(crate) mod pidfd;
    pub(crate) mod waitid;
}
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use unix::notice::try_poll;
#[cfg(target_os = "linux")]
pub(crate) use {
    linux::epoll::Epoll as Watch, linux::pidfd::Pidfd as Descriptor,
    linux::pidfd::send as send_by_pidfd, unix::notice::poll_until,
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
    pub(crate) mod kqueue;
    pub(crate) mod kqueue_watch;
    #[cfg(target_os = "macos")]
    pub(crate) mod libproc;
    #[cfg(target_os = "macos")]
    pub(crate) mod proc_pid_rusage;
    #[cfg(any(
        target_os = "macos",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd"
    ))]
    pub(crate) mod process_table;
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_os = "netbsd"))]
    pub(crate) mod sysctl;
    #[cfg(any(target_os = "freebsd", target_os = "netbsd"))]
    pub(crate) mod wait6;
}
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) use bsd::{kqueue::Kqueue as Descriptor, kqueue_watch::KqueueWatch as Watch};
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) use bsd::{kqueue::exit_of, process_table};

// Systems that list their processes.

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) use unix::{
    by_pid::{Pid, signal as signal_by_pid},
    notice::poll_readable,
};

// Systems without a descriptor for an exit.

#[cfg(not(any(
    windows,
    target_os = "linux",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
mod no_descriptor;
#[cfg(not(any(
    windows,
    target_os = "linux",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)))]
pub(crate) use no_descriptor::{NoDescriptor as Descriptor, NoWatch as Watch};

// Windows.

#[cfg(windows)]
mod no_watch;
#[cfg(windows)]
pub(crate) mod windows {
    pub(crate) mod process;
    pub(crate) mod registered_wait;
    pub(crate) mod usage;
}
#[cfg(windows)]
pub use windows::process::Backend;
#[cfg(windows)]
pub(crate) use {
    no_watch::NoWatch as Watch,
    windows::process::{
        ASKS_ANYBODY, Ask, ExitDescriptor, Notice, ask, is_signalled, reaped_elsewhere,
        spawn_helper, spawn_thread, sweep, wait_for_any,
    },
    windows::registered_wait::Registration,
};

/// How the exit of one child is noticed, without reaping it.
///
/// `look`, `recover` and whatever signals are called under the lifecycle's lock and before its reap, so an
/// implementation has to mind only two others: the threads in its own `wait`, and foreign reapers.
pub(crate) trait Exit: Send + Sync + Sized + 'static {
    /// Blocks until there is reason to look (`true`), or until the deadline (`false`). A deadline
    /// that has passed is not an error; without a deadline the answer is always `true`.
    ///
    /// `true` does not promise that [`look`](Exit::look) will find an exit.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool>;

    /// The child's state, and the usage of a zombie where the system reports it without a reap. Never blocks.
    fn look(&self) -> io::Result<(Look, Option<Usage>)>;

    /// The status of a child that somebody else has reaped, if the kernel kept it. Never blocks.
    fn recover(&self) -> Option<ExitStatus>;

    /// The child's status, of two that the kernel told of the child's process ID: `seen` in the zombie by a look,
    /// `reaped` by a reap after that. They differ, so one of them is wrong. Never blocks.
    ///
    /// Where a look cannot misread the zombie, `seen` is right: the reap went by the ID, and met another process.
    fn arbitrate(&self, seen: ExitStatus, _reaped: ExitStatus) -> ExitStatus {
        seen
    }

    /// Kills the child. Never blocks.
    fn kill(&self) -> io::Result<()>;

    /// The child's fate is known now: nobody must be left blocking in [`wait`](Exit::wait) if the
    /// exit itself does not wake them.
    fn settled(&self);

    /// The handle is gone and the child unreaped: reap it, now or when it exits. Never blocks.
    fn abandon(this: &Arc<Self>);
}

/// What a child may send of itself while it is spawned: a descriptor that means the child, and that no parent has
/// opened by an ID. On Linux that is its own pidfd.
#[cfg(target_os = "linux")]
pub(crate) type FromChild = std::os::fd::OwnedFd;
#[cfg(not(target_os = "linux"))]
pub(crate) type FromChild = std::convert::Infallible;

/// What opening a notice for a child finds, if that was not reaped by us.
#[derive(Debug)]
pub(crate) enum Opened {
    /// It means the child, which is unreaped.
    Unreaped(Notice),
    /// It means whoever has the child's process ID, and only a reap can tell whether that is the child.
    #[cfg_attr(windows, expect(dead_code, reason = "a handle means the child, there"))]
    Unverified(Notice),
    /// The child was reaped by another part of the program, so its process ID may be another's. With its status, if the
    /// kernel kept that.
    #[cfg_attr(windows, expect(dead_code, reason = "nobody can, there"))]
    ReapedElsewhere(Option<ExitStatus>),
}

/// What [`Exit::look`] sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It has not exited, as far as can be told.
    Running,
    /// It has exited and can be reaped. The status is the kernel's own word on this very process,
    /// where the mechanism gives one.
    Exited(Option<ExitStatus>),
    /// It has exited with this status, but must not be reaped yet: somebody in [`wait`](Exit::wait)
    /// relies on its process ID, and will look again on the way out.
    #[cfg_attr(windows, expect(dead_code, reason = "nobody relies on the ID, there"))]
    Held(ExitStatus),
    /// It was reaped, and not by us.
    #[cfg_attr(windows, expect(dead_code, reason = "nobody can, there"))]
    ReapedElsewhere,
}

#[cfg(unix)]
impl Look {
    /// The child has exited and is unreaped.
    pub(crate) fn is_zombie(self) -> bool {
        matches!(self, Self::Exited(_) | Self::Held(_))
    }
}

/// The reaping end of a child: std's, or the model's.
///
/// It goes by the process ID, although a pidfd could reap by itself: a `Child` learns its status only by reaping, and
/// `into_inner` hands one out that is to know it. (The watcher has no `Child` to satisfy, and reaps through the pidfd.)
pub(crate) trait Reap {
    /// Reaps the child if it is a zombie. Never blocks.
    fn reap(&mut self) -> io::Result<Reaped>;

    /// For messages.
    fn id(&self) -> u32;
}

/// What [`Reap::reap`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// Reaped.
    Status(ExitStatus),
    /// A process with this ID is our child, and it is not a zombie.
    NotYet,
    /// No child of ours has this ID.
    NoSuchChild,
}

impl Reap for Child {
    fn reap(&mut self) -> io::Result<Reaped> {
        match self.try_wait() {
            Ok(Some(status)) => Ok(Reaped::Status(status)),
            Ok(None) => Ok(Reaped::NotYet),
            Err(error) if is_no_such_child(&error) => Ok(Reaped::NoSuchChild),
            Err(error) => Err(error),
        }
    }

    fn id(&self) -> u32 {
        Child::id(self)
    }
}

#[cfg(unix)]
fn is_no_such_child(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

#[cfg(windows)]
fn is_no_such_child(_: &io::Error) -> bool {
    false
}
