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
mod by_pid;
#[cfg(unix)]
mod exit_descriptor;
#[cfg(unix)]
mod identity;
#[cfg(unix)]
mod own;
mod per_process;
#[cfg(unix)]
mod pipe;
mod port;
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) mod record;
#[cfg(unix)]
mod registration;
#[cfg(unix)]
mod siginfo;
#[cfg(unix)]
mod system;
#[cfg(unix)]
pub(crate) mod thread;
#[cfg(unix)]
mod unix;
mod usage;
#[cfg(unix)]
pub use unix::Backend;
#[cfg(unix)]
pub(crate) use unix::{
    ASKS_ANYBODY, Ask, Notice, ask, is_signal, reaped_elsewhere, spawn_helper, spawn_thread,
    time_left,
};

// For those that are not children, where the system lists them.
#[cfg(target_os = "linux")]
pub(crate) use unix::poll_until;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use unix::try_poll;
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) use {
    by_pid::{Pid, signal as signal_by_pid},
    unix::poll_readable,
};

#[cfg(unix)]
pub(crate) use crate::watcher::sweep;
pub(crate) use per_process::PerProcess;

pub(crate) use port::Port;
#[cfg(unix)]
pub(crate) use registration::Registration;
#[cfg(unix)]
pub(crate) use {exit_descriptor::ExitDescriptor, pipe::pipe};
#[cfg(windows)]
mod no_watch;
#[cfg(windows)]
mod wait_registration;
#[cfg(windows)]
pub(crate) use windows::spawn_thread;
#[cfg(windows)]
pub(crate) use {no_watch::NoWatch as Watch, wait_registration::Registration};

mod exit_notice;
pub use exit_notice::ExitNotice;

// The descriptor that tells of an exit, and what watches many of them: one of these three.
#[cfg(target_os = "linux")]
mod epoll;
#[cfg(target_os = "linux")]
mod pidfd;
#[cfg(target_os = "linux")]
pub(crate) use {epoll::Epoll as Watch, pidfd::Pidfd as Descriptor, pidfd::send as send_by_pidfd};

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
mod kqueue;
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(crate) use kqueue::exit_of;
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
pub(crate) use kqueue::{Kqueue as Descriptor, KqueueWatch as Watch};

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

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::Backend;
#[cfg(windows)]
pub(crate) use windows::{
    ASKS_ANYBODY, Ask, ExitDescriptor, Notice, ask, is_signalled, reaped_elsewhere, spawn_helper,
    sweep, wait_for_any,
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

    /// Where the child stands; and if it is a zombie, what it has used, unless that is there already or the system
    /// does not tell. Never blocks.
    fn look(&self, usage: &mut Option<Box<Usage>>) -> io::Result<Look>;

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
