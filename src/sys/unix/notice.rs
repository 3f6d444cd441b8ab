//! Unix: which mechanism serves a child, and what they share.

use super::by_pid::{self, Pid};
use crate::backoff::Backoff;
use crate::lifecycle::Lifecycle;
use crate::sync::Arc;
use crate::sys::port::left;
use crate::sys::thread::Thread;
use crate::sys::{Descriptor, Exit, FromChild, Look, Opened};
use crate::unix::ReapedElsewhere;
use crate::usage::Usage;
use crate::watcher;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Instant;

/// Which mechanism a child is to be served by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A descriptor if there is one to be had, else the helper thread.
    Best,
    /// The helper thread.
    Thread,
}

impl Backend {
    /// All that this system has, the one that is used by default first.
    #[cfg_attr(not(feature = "_seam"), allow(dead_code))]
    pub const ALL: &[Self] = &[Self::Best, Self::Thread];
}

/// How to ask a process to end: by this signal, and SIGCONT after it, since a stopped process does
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask(pub(crate) c_int);

impl Ask {
    pub(crate) const DEFAULT: Self = Self(libc::SIGTERM);

    /// What to send, in this order.
    pub(crate) fn signals(self) -> [c_int; 2] {
        [self.0, libc::SIGCONT]
    }
}

/// Whether a number is a signal of this system (sigaddset(3)).
pub(crate) fn is_signal(signal: c_int) -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the first call makes a set of it, and the second fails for what is no signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal) == 0
    }
}

/// Whether a child that std has spawned can be asked.
pub(crate) const ASKS_ANYBODY: bool = true;

/// Asks one child. Says whether it can have been asked.
pub(crate) fn ask(child: &Lifecycle<Child, Notice>, ask: Ask) -> io::Result<bool> {
    for signal in ask.signals() {
        child.signal(|notice| notice.signal(signal))?;
    }
    Ok(true)
}

/// How the exit of a child is noticed: by a descriptor that means the process, or failing that by a
/// helper thread.
#[derive(Debug)]
pub(crate) enum Notice {
    Descriptor(Descriptor),
    Thread(Thread),
}

impl Notice {
    /// The notice for a child that was not reaped by us.
    ///
    /// Decided child by child, by trying: what works may change while the program runs (a full
    /// descriptor table, a sandbox that closes).
    ///
    /// The child's own descriptor, if it has sent one, means the child and never another process. If another part of
    /// the program has reaped the child by now, the descriptor still has the status (Linux 6.15).
    ///
    /// Without one, the child is known by its ID so far. Another part of the program may reap the child before this
    /// function is through, and then the ID may be another's. So whatever is opened by ID is opened *first*, and
    /// `waitid` reports *after* that whether the ID means a child of ours: if it does, and no other process had the
    /// ID meanwhile, then what was opened means the child. If it does not, the child is lost, at once: nothing may
    /// ever be done to that ID.
    ///
    /// What that does not tell apart is another child of ours on the same ID. IDs are handed out in
    /// turn (on some BSDs at random), and this one was just handed out, so it takes a whole round of the
    /// ID space (or a great coincidence) between two adjacent calls of this thread, *and* a foreign
    /// reaper.
    pub(crate) fn open(child: &Child, from_child: Option<FromChild>, backend: Backend) -> Opened {
        // What cannot be a process ID cannot be a child.
        let Some(pid) = by_pid::pid(child.id()) else { return Opened::ReapedElsewhere(None) };
        let descriptor = match (backend, from_child) {
            (Backend::Thread, _) => None,
            (Backend::Best, None) => Descriptor::open(pid),
            #[cfg(target_os = "linux")]
            (Backend::Best, Some(from_child)) => match Descriptor::of_child(from_child, pid) {
                Some(Ok(descriptor)) => Some(descriptor),
                Some(Err(status)) => return Opened::ReapedElsewhere(status),
                None => None,
            },
            #[cfg(not(target_os = "linux"))]
            (Backend::Best, Some(never)) => match never {},
        };
        match descriptor {
            Some(descriptor) => Opened::Unreaped(Self::Descriptor(descriptor)),
            None => Self::open_thread(pid),
        }
    }

    fn open_thread(pid: Pid) -> Opened {
        let thread = Self::Thread(Thread::new(pid));
        match by_pid::look(pid) {
            Ok(Look::ReapedElsewhere) => Opened::ReapedElsewhere(None),
            Ok(_) => Opened::Unreaped(thread),
            Err(_) => Opened::Unverified(thread),
        }
    }

    /// Sends any signal to the child, while it is unreaped.
    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        match self {
            Self::Descriptor(descriptor) => descriptor.signal(signal),
            Self::Thread(thread) => thread.signal(signal),
        }
    }

    /// Sends any signal to the process group that the child leads, while it is unreaped: for so long
    /// the group's ID is its own, also when the child is a zombie. To a group without members this does
    /// nothing.
    pub(crate) fn signal_group(&self, signal: c_int) -> io::Result<()> {
        match self {
            Self::Descriptor(descriptor) => descriptor.signal_group(signal),
            Self::Thread(thread) => thread.signal_group(signal),
        }
    }

    /// Whether the child's ID is its own. The caller sees to it that it is not reaped by us.
    pub(crate) fn has_its_id(&self) -> bool {
        let look = match self {
            Self::Descriptor(descriptor) => descriptor.look(),
            Self::Thread(thread) => thread.look(),
        };
        !matches!(look, Ok(Look::ReapedElsewhere))
    }

    /// Reaps a child whose handle is gone, if it has exited. Says whether it is gone.
    pub(crate) fn reap(&self) -> bool {
        match self {
            Self::Descriptor(descriptor) => descriptor.reap(),
            Self::Thread(thread) => thread.reap(),
        }
    }

    /// What becomes readable by the exit, and stays so, if there is something.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Descriptor(descriptor) => Some(descriptor.as_fd()),
            Self::Thread(_) => None,
        }
    }

    /// Where it cannot be watched: has a thread of its own reap the child. Says whether one will.
    pub(crate) fn reap_by_helper(this: &Arc<Self>) -> bool {
        match &**this {
            Self::Descriptor(_) => {
                let child = Arc::clone(this);
                spawn_helper("child-waiter", move || child.wait_and_reap()).is_ok()
            }
            Self::Thread(thread) => thread.adopt(),
        }
    }

    fn wait_and_reap(&self) {
        let mut pause = Backoff::new();
        loop {
            // On Unix this does not fail.
            let _ = self.wait(None);
            if self.reap() {
                return;
            }
            // Noticed before it can be reaped.
            pause.sleep(None);
        }
    }
}

impl Exit for Notice {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        Ok(match self {
            Self::Descriptor(descriptor) => descriptor.wait(deadline),
            Self::Thread(thread) => thread.wait(deadline),
        })
    }

    fn look(&self) -> io::Result<(Look, Option<Usage>)> {
        match self {
            Self::Descriptor(descriptor) => descriptor.look_with_usage(),
            Self::Thread(thread) => thread.look_with_usage(),
        }
    }

    fn recover(&self) -> Option<ExitStatus> {
        match self {
            Self::Descriptor(descriptor) => descriptor.recover(),
            Self::Thread(_) => None,
        }
    }

    /// One of two things has happened. A foreign reaper came between the look and the reap, and by then the ID belonged
    /// to another child of this program, a zombie: `reaped` is the status of that one. Or the look misread what `waitid`
    /// wrote, which each system lays out in its own way (`siginfo.rs`): `seen` is no status at all. `reaped` is an `int`,
    /// which cannot be misread.
    ///
    /// - A kqueue event and, from Linux 6.15, a pidfd keep the status of the very process after any reap: they decide.
    /// - On Linux and Android the layout is part of the kernel's interface, and every test run reads statuses by it. So
    ///   the look is right: it was a foreign reaper.
    /// - Elsewhere nothing can tell. For `reaped` to be wrong, a foreign reaper has to come between two adjacent system
    ///   calls, and in the same time the ID has to come round to another child of this program, and that child has to
    ///   exit. A misread layout spoils every status, on a system on which this library has not run. So the reap is right.
    fn arbitrate(&self, seen: ExitStatus, reaped: ExitStatus) -> ExitStatus {
        let reads_are_sound = cfg!(any(target_os = "linux", target_os = "android"));
        self.recover().unwrap_or(if reads_are_sound { seen } else { reaped })
    }

    fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    fn settled(&self) {
        match self {
            // The exit itself makes a descriptor readable, for good.
            Self::Descriptor(_) => {}
            Self::Thread(thread) => thread.settled(),
        }
    }

    fn abandon(this: &Arc<Self>) {
        if !this.reap() {
            watcher::adopt(Arc::clone(this));
        }
    }
}

/// The error for a child whose status somebody else has taken.
pub(crate) fn reaped_elsewhere(id: u32) -> io::Error {
    let error = io::Error::from_raw_os_error(libc::ECHILD);
    io::Error::new(error.kind(), ReapedElsewhere::new(id, error))
}

/// For how long to `poll`, which takes no timeout if there is no deadline.
pub(crate) fn time_left(deadline: Option<Instant>) -> Option<Timespec> {
    // The conversion cannot fail for a day or less.
    deadline.and_then(|deadline| Timespec::try_from(left(deadline)).ok())
}

/// Blocks until the descriptor is readable, or until the deadline (`false`). Asks at least once.
///
/// Where `poll` is refused (EINVAL where RLIMIT_NOFILE is 0, as some sandboxes set it; ENOMEM), this
/// says `true`: the caller looks, and pauses. So do errors that belong to the descriptor, which the
/// look then meets.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> bool {
    poll_until(fd, PollFlags::IN, deadline)
}

/// The same, until the descriptor is ready in another way.
pub(crate) fn poll_until(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Option<Instant>) -> bool {
    try_poll(fd, flags, deadline).unwrap_or(true)
}

/// The same for those who must know that `poll` is refused.
pub(crate) fn try_poll(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    loop {
        match poll(&mut fds, time_left(deadline).as_ref()) {
            // (For a day, at most.)
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(false);
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            ready => return ready.map(|_| true),
        }
    }
}

/// Starts one of our own threads, which makes system calls, and little more.
pub(crate) fn spawn_helper(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn_thread(name, 128 * 1024, run)
}

/// Starts one of our own threads. It takes no signals, but for its first instants: to spare it those the
/// mask of the thread that calls us would have to be changed, and that is not ours.
#[cfg(not(all(test, loom)))]
pub(crate) fn spawn_thread(
    name: &str,
    stack: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(stack);
    thread.spawn(move || {
        block_signals();
        run();
    })?;
    Ok(())
}

#[cfg(all(test, loom))]
pub(crate) fn spawn_thread(
    _: &str,
    _: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    loom::thread::spawn(run);
    Ok(())
}

#[cfg(not(all(test, loom)))]
fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigfillset` initialises the set, which `pthread_sigmask` then reads. The mask is this
    // thread's own.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}
