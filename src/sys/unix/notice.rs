//! Unix: chooses the mechanism that serves a child.

use super::by_pid::{self, Pid};
use super::reaped_elsewhere::ReapedElsewhere;
use super::waitid_thread::{Listener, Thread};
use crate::sync::Arc;
use crate::sys::{Exit, FromChild, KillWithParent, Observed, Opened, PLATFORM};
use crate::usage::Usage;
use std::ffi::c_int;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Instant;

/// The mechanism that is to serve a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A descriptor if one can be opened, else the helper thread.
    Best,
    /// The helper thread.
    Thread,
}

impl Backend {
    /// The backends of every Unix, the default first.
    #[cfg_attr(not(feature = "_seam"), allow(dead_code))]
    pub const ALL: &[Self] = &[Self::Best, Self::Thread];
}

/// A descriptor that means one child of this process, becomes readable when the child exits, and stays readable.
///
/// A trait object: one allocation per child costs nothing next to a spawn, and no system needs a stand-in for a
/// mechanism that it lacks.
pub(crate) trait ProcessDescriptor: AsFd + Debug + Send + Sync {
    /// Implements [`Exit::wait`].
    fn wait(&self, deadline: Option<Instant>) -> bool;

    /// Implements [`Exit::observe`].
    fn observe(&self) -> io::Result<(Observed, Option<Usage>)>;

    /// Implements [`Exit::recover`].
    fn recover(&self) -> Option<ExitStatus>;

    /// Sends a signal to the child.
    fn signal(&self, signal: c_int) -> io::Result<()>;

    /// Sends a signal to the group that the child leads.
    fn signal_group(&self, signal: c_int) -> io::Result<()>;

    /// Reaps the child if it is a zombie, and discards its status. Returns whether it is reaped.
    fn reap(&self) -> bool;
}

/// A termination request: this signal, and SIGCONT after it, because a stopped process does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request(pub(crate) c_int);

impl Request {
    pub(crate) const DEFAULT: Self = Self(libc::SIGTERM);

    /// Returns the signals to send, in this order.
    pub(crate) fn signals(self) -> [c_int; 2] {
        [self.0, libc::SIGCONT]
    }
}

/// Returns whether a number is a signal of this system (sigaddset(3)).
pub(crate) fn is_signal(signal: c_int) -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the first call initialises the set, and the second fails for a number that is no signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal) == 0
    }
}

/// Whether a child that std has spawned can receive a termination request.
pub(crate) const PLAIN_CHILD_TAKES_REQUESTS: bool = true;

/// The notice of a child's exit.
#[derive(Debug)]
pub(crate) struct Notice {
    mechanism: Mechanism,
    /// Ends before the child is reaped, because it may go by the process ID.
    kill_with_parent: KillWithParent,
}

/// The mechanism that notices the exit of a child: a descriptor if one can be opened, else a helper thread.
#[derive(Debug)]
enum Mechanism {
    Descriptor(Box<dyn ProcessDescriptor>),
    Thread(Thread),
}

impl Notice {
    /// Opens the notice for a child that this library has not reaped.
    ///
    /// The mechanism is chosen by trying, anew for each child: a call that has worked may fail later (a full descriptor
    /// table, a sandbox that becomes stricter).
    ///
    /// A descriptor that the child itself has sent means the child and never another process. If another part of the
    /// program has reaped the child, the descriptor still has the status (Linux 6.15).
    ///
    /// Without such a descriptor, the child is known by its ID. Another part of the program may reap the child during
    /// this call, and then the ID may mean another process. So the descriptor is opened *first*, and `waitid` reports
    /// *after* that whether the ID means a child of this process: if it does, and no other process had the ID
    /// meanwhile, the descriptor means the child. If it does not, the child is lost, and no call may use that ID any
    /// more.
    ///
    /// Another child of this process on the same ID cannot be distinguished. IDs are handed out in turn (on some BSDs
    /// at random), and this ID was just handed out. So this case requires a whole round of the ID space, or a great
    /// coincidence, between two adjacent calls of this thread, *and* a foreign reaper.
    pub(crate) fn open(
        child: &Child,
        from_child: Option<FromChild>,
        kill_with_parent: KillWithParent,
        backend: Backend,
    ) -> Opened {
        // A number that cannot be a process ID cannot be a child's.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::new);
        let Some(pid) = pid else { return Opened::ReapedElsewhere(None) };
        let descriptor = match (backend, from_child, PLATFORM.sent_descriptor) {
            (Backend::Thread, ..) => None,
            (Backend::Best, Some(fd), Some(accept)) => match accept(fd, pid) {
                Some(Err(status)) => return Opened::ReapedElsewhere(status),
                accepted => accepted.and_then(Result::ok),
            },
            (Backend::Best, ..) => PLATFORM.descriptor.and_then(|open| open(pid)),
        };
        match descriptor {
            Some(descriptor) => {
                let mechanism = Mechanism::Descriptor(descriptor);
                Opened::Unreaped(Self { mechanism, kill_with_parent })
            }
            None => Self::open_thread(pid, kill_with_parent),
        }
    }

    fn open_thread(pid: Pid, kill_with_parent: KillWithParent) -> Opened {
        let thread = Self { mechanism: Mechanism::Thread(Thread::new(pid)), kill_with_parent };
        match by_pid::observe(pid) {
            Ok(Observed::ReapedElsewhere) => Opened::ReapedElsewhere(None),
            Ok(_) => Opened::Unreaped(thread),
            Err(_) => Opened::Unverified(thread),
        }
    }

    /// Sends any signal to the child, while it is unreaped.
    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.signal(signal),
            Mechanism::Thread(thread) => thread.signal(signal),
        }
    }

    /// Sends any signal to the process group that the child leads. The child must be unreaped: until then the ID of the
    /// group is its own, even if the child is a zombie. Succeeds without effect if the group has no members.
    pub(crate) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.signal_group(signal),
            Mechanism::Thread(thread) => thread.signal_group(signal),
        }
    }

    /// Returns whether the child's ID is its own. This library must not have reaped the child.
    pub(crate) fn has_its_id(&self) -> bool {
        !matches!(self.observe(), Ok((Observed::ReapedElsewhere, _)))
    }

    /// Reaps the child if it is a zombie, and discards its status. Returns whether it is reaped.
    pub(crate) fn reap(&self) -> bool {
        if self.kill_with_parent.is_set() {
            if matches!(self.observe(), Ok((Observed::Running, _))) {
                return false;
            }
            self.kill_with_parent.end();
        }
        match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.reap(),
            Mechanism::Thread(thread) => thread.reap(),
        }
    }

    /// Returns the descriptor that becomes readable when the child exits, if the mechanism has one.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.mechanism {
            Mechanism::Descriptor(descriptor) => Some(descriptor.as_fd()),
            Mechanism::Thread(_) => None,
        }
    }
}

/// Calls a function once when a child without a descriptor may have exited, unless it is dropped first.
pub(crate) struct Subscription {
    notice: Arc<Notice>,
    listener: u64,
}

impl Subscription {
    /// Calls `report` when there is a reason to poll the child: at once if there is one already. `None` if the notice
    /// has a descriptor, if no helper thread can be started, or in the child of a fork.
    pub(crate) fn new(notice: &Arc<Notice>, report: Listener) -> Option<Self> {
        let Mechanism::Thread(thread) = &notice.mechanism else { return None };
        let listener = thread.listen(report)?;
        Some(Self { notice: Arc::clone(notice), listener })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Mechanism::Thread(thread) = &self.notice.mechanism {
            thread.unlisten(self.listener);
        }
    }
}

impl Exit for Notice {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        Ok(match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.wait(deadline),
            Mechanism::Thread(thread) => thread.wait(deadline),
        })
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        let observed = match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.observe(),
            Mechanism::Thread(thread) => thread.observe_with_usage(),
        }?;
        if observed.0 != Observed::Running {
            self.kill_with_parent.end();
        }
        Ok(observed)
    }

    fn recover(&self) -> Option<ExitStatus> {
        match &self.mechanism {
            Mechanism::Descriptor(descriptor) => descriptor.recover(),
            Mechanism::Thread(_) => None,
        }
    }

    /// Either a foreign reaper reaped the child between the poll and the reap, and by then the ID belonged to another
    /// child of this program, a zombie: `reaped` is that child's status. Or the poll misread the result of `waitid`,
    /// whose layout differs between systems (`siginfo.rs`): `seen` is no status at all. `reaped` is an `int`, which
    /// cannot be misread.
    ///
    /// - A kqueue event and, from Linux 6.15, a pidfd keep the status of the process after any reap: they decide.
    /// - On Linux and Android the layout is part of the kernel's interface, and every test run reads statuses by it. So
    ///   there was a foreign reaper, and `seen` is right.
    /// - Elsewhere there is no proof. `reaped` is wrong only if a foreign reaper runs between two adjacent system
    ///   calls, and another child of this program gets the ID and exits within the same time. A misread layout spoils
    ///   every status, on a system on which this library has not run. So assume that `reaped` is right.
    fn arbitrate(&self, seen: ExitStatus, reaped: ExitStatus) -> ExitStatus {
        self.recover().unwrap_or(if PLATFORM.has_stable_siginfo { seen } else { reaped })
    }

    fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    fn wait_relies_on_pid(&self) -> bool {
        matches!(self.mechanism, Mechanism::Thread(_))
    }

    fn settled(&self) {
        self.kill_with_parent.end();
        match &self.mechanism {
            // The exit itself makes a descriptor readable, for good.
            Mechanism::Descriptor(_) => {}
            Mechanism::Thread(thread) => thread.settled(),
        }
    }
}

/// Returns the error for a child whose status another part of the program has taken.
pub(crate) fn reaped_elsewhere(id: u32) -> io::Error {
    let error = io::Error::from_raw_os_error(libc::ECHILD);
    io::Error::new(error.kind(), ReapedElsewhere::new(id, error))
}
