//! Windows: the process handle.
//!
//! A handle means one process and never another, is signalled by the exit, and keeps the exit code while it is open. So
//! no other part of the program can take the status, there are no zombies, and dropping a `SharedChild` leaves nothing
//! to do. The exit code alone does not show whether a process has exited, since 259 (`STILL_ACTIVE`) is a legal code; a
//! wait with a timeout of zero does.
//!
//! Sources: WaitForMultipleObjects, TerminateProcess, GenerateConsoleCtrlEvent, Process Creation Flags,
//! GetProcessTimes, GetProcessMemoryInfo and PROCESS_MEMORY_COUNTERS of the Win32 documentation.

use crate::sync::Arc;
use crate::sys::{Exit, FromChild, KillWithParent, Observed, Opened};
use crate::usage::Usage;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::process::{Child, ExitStatus};
use std::ptr::null;
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, FILETIME, HANDLE, WAIT_FAILED, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_CONSOLE, CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CreateEventW, DETACHED_PROCESS,
    GetProcessTimes, INFINITE, TerminateProcess, WaitForMultipleObjects,
};

/// The way to wait for a child's exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Waits as long as the system allows.
    Best,
    /// Waits of a few milliseconds, so that the tests cover waits that exceed the longest one (49.7 days).
    ShortWaits,
}

impl Backend {
    /// All backends, the default first.
    #[cfg_attr(not(feature = "_seam"), allow(dead_code))]
    pub const ALL: &[Self] = &[Self::Best, Self::ShortWaits];
}

/// The longest timeout of a single wait.
const LONGEST_WAIT: u32 = INFINITE - 1;

/// A termination request to a console group: CTRL_BREAK, because CTRL_C goes to all processes of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request;

impl Request {
    pub(crate) const DEFAULT: Self = Self;

    /// Returns whether a child with these creation flags leads a group on the console of this process. A child with another
    /// console, or none, does not.
    pub(crate) const fn reaches(creation_flags: u32) -> bool {
        creation_flags & CREATE_NEW_PROCESS_GROUP != 0
            && creation_flags & (CREATE_NEW_CONSOLE | CREATE_NO_WINDOW | DETACHED_PROCESS) == 0
    }

    /// Sends the request to a console group. Returns `false` if this process has no console.
    ///
    /// The ID must be that of a living or borrowed group leader: an event for an invalid group may go to all processes on the
    /// console, including this one.
    pub(crate) fn send(self, group: u32) -> bool {
        // SAFETY: integers only.
        unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, group) != 0 }
    }
}

/// Whether a child that std has spawned can receive a termination request. std does not return the child's flags.
pub(crate) const PLAIN_CHILD_TAKES_REQUESTS: bool = false;

/// The process handle.
#[derive(Debug)]
pub(crate) struct Notice {
    process: HANDLE,
    /// The owner of the handle. `None` if std's `Child` owns it.
    owned: Option<FromChild>,
    longest_wait: u32,
    kill_with_parent: KillWithParent,
}

// SAFETY: a process handle is not bound to a thread, and the calls made with it here may be made by
// several threads at once.
unsafe impl Send for Notice {}
// SAFETY: as above.
unsafe impl Sync for Notice {}

impl Notice {
    /// Opens the notice of a child. Unless it owns a handle, it must not be used after the `Child` is dropped: the
    /// lifecycle owns both, and lends the notice only to calls that borrow the lifecycle.
    pub(crate) fn open(
        child: &Child,
        owned: Option<FromChild>,
        kill_with_parent: KillWithParent,
        backend: Backend,
    ) -> Opened {
        let longest_wait = match backend {
            Backend::Best => LONGEST_WAIT,
            Backend::ShortWaits => 3,
        };
        let process = owned.as_ref().map_or(child.as_raw_handle(), AsRawHandle::as_raw_handle);
        Opened::Unreaped(Self { process, owned, longest_wait, kill_with_parent })
    }

    /// Returns the handle that the exit signals.
    pub(crate) fn descriptor(&self) -> Option<BorrowedHandle<'_>> {
        Some(self.process())
    }

    /// Returns whether the reaper need not wait for the exit. Windows has no zombies, so it waits only for a child that
    /// is killed with this process.
    pub(crate) fn reap(&self) -> bool {
        self.owned.is_none() || is_signalled(self.process()).unwrap_or(true)
    }

    fn process(&self) -> BorrowedHandle<'_> {
        // SAFETY: the handle is open (see `open`).
        unsafe { BorrowedHandle::borrow_raw(self.process) }
    }
}

/// The handle that the exit signals, while the lifecycle is borrowed (see [`Notice::open`]).
pub(crate) struct ExitDescriptor(Arc<Notice>);

impl ExitDescriptor {
    /// Returns the handle. Never `None`.
    pub(crate) fn new(notice: Arc<Notice>) -> Option<Self> {
        Some(Self(notice))
    }
}

impl AsHandle for ExitDescriptor {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.process()
    }
}

/// Returns an event that stays signalled, for a child that has exited.
pub(crate) fn ready_descriptor() -> io::Result<OwnedHandle> {
    // SAFETY: the pointers are null: no security attributes and no name.
    let event = unsafe { CreateEventW(null(), 1, 1, null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new, and has no other owner.
    Ok(unsafe { OwnedHandle::from_raw_handle(event) })
}

/// Blocks until one of these handles is signalled (`true`), or until the deadline. Polls at least once.
pub(crate) fn wait_for_any(
    handles: &[BorrowedHandle<'_>],
    deadline: Option<Instant>,
) -> io::Result<bool> {
    wait_until(handles, deadline, LONGEST_WAIT)
}

/// Returns whether the handle is signalled now.
pub(crate) fn is_signalled(handle: BorrowedHandle<'_>) -> io::Result<bool> {
    is_signalled_within(&[handle], 0)
}

/// Composes a wait of any length of waits that the system can make.
fn wait_until(
    handles: &[BorrowedHandle<'_>],
    deadline: Option<Instant>,
    longest_wait: u32,
) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // This rounds up, because a wait of 0 would spin through the last millisecond.
        let millis = left.map_or(u128::MAX, |left| left.as_nanos().div_ceil(1_000_000));
        let millis = u32::try_from(millis).unwrap_or(u32::MAX).min(longest_wait);
        if is_signalled_within(handles, millis)? {
            return Ok(true);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}

fn is_signalled_within(handles: &[BorrowedHandle<'_>], millis: u32) -> io::Result<bool> {
    let count = handles.len() as u32;
    // SAFETY: a borrowed handle has the layout of a handle (`repr(transparent)`), and is open for as long as it is
    // borrowed.
    match unsafe { WaitForMultipleObjects(count, handles.as_ptr().cast(), 0, millis) } {
        WAIT_FAILED => Err(io::Error::last_os_error()),
        WAIT_TIMEOUT => Ok(false),
        // The index of a signalled handle.
        _ => Ok(true),
    }
}

impl Exit for Notice {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        wait_until(&[self.process()], deadline, self.longest_wait)
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        // std's `Child` reads the exit code itself, and remembers it.
        Ok(match is_signalled(self.process())? {
            true => (Observed::Exited(None), usage_of(self.process())),
            false => (Observed::Running, None),
        })
    }

    fn recover(&self) -> Option<ExitStatus> {
        None
    }

    fn kill(&self) -> io::Result<()> {
        // The exit code is the one that std's `Child::kill` gives.
        // SAFETY: the handle is open (see `open`).
        if unsafe { TerminateProcess(self.process, 1) } != 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(ERROR_ACCESS_DENIED as i32) {
            return Err(error);
        }
        // The handle came with all access, so the process has exited, or is being terminated and not signalled yet.
        // Either way nothing is left to do. (An invalid handle makes this call fail.)
        is_signalled(self.process()).map(drop)
    }

    fn settled(&self) {
        self.kill_with_parent.end();
    }
}

/// Returns an error that does not occur: no other part of the program can take the exit code.
pub(crate) fn reaped_elsewhere(id: u32) -> io::Error {
    io::Error::other(format!("the exit status of child process {id} was taken"))
}

/// Returns the usage, which the handle keeps after the exit.
fn usage_of(process: BorrowedHandle<'_>) -> Option<Usage> {
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the handle is open for as long as it is borrowed, and all four outlive the call.
    let read = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            &raw mut created,
            &raw mut exited,
            &raw mut kernel,
            &raw mut user,
        )
    };
    (read != 0).then(|| Usage {
        user: time(user),
        system: time(kernel),
        peak_memory: peak_memory(process),
    })
}

/// Converts units of 100 ns.
fn time(time: FILETIME) -> Duration {
    let units = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(units.saturating_mul(100))
}

/// Returns the peak unless it is zero, which means that the system does not count it, as under wine.
fn peak_memory(process: BorrowedHandle<'_>) -> Option<u64> {
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of_val(&counters) as u32;
    // SAFETY: the handle is open for as long as it is borrowed. The struct is of this size, and outlives the call.
    let read = unsafe { K32GetProcessMemoryInfo(process.as_raw_handle(), &raw mut counters, size) };
    (read != 0).then_some(counters.PeakWorkingSetSize as u64).filter(|peak| *peak > 0)
}
