//! Windows: a registered wait for the exit of one child, or for one pipe. One thread of the system serves up to 63 such waits.
//!
//! Sources: RegisterWaitForSingleObject and UnregisterWaitEx of the Win32 documentation.

use super::pipe::PipeEvent;
use super::process::Notice;
use crate::sync::Arc;
use crate::sys::KernelQueue;
use std::ffi::c_void;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
    WT_EXECUTEONLYONCE,
};

/// Calls a function once when a handle is signalled, unless it is dropped first.
pub(crate) struct Registration {
    wait: HANDLE,
    report: *mut Report,
    /// Keeps the handle open during the wait, even if the child or the pipe is dropped.
    _handle: OwnedHandle,
}

/// A function that a thread of the system calls. It does not block.
type Report = Box<dyn Fn() + Send + Sync>;

// SAFETY: a registered wait is not bound to a thread, and `drop` alone frees the function.
unsafe impl Send for Registration {}

impl Registration {
    /// Calls `report` when the child has exited: at once, if it has already.
    pub(crate) fn new(
        notice: &Arc<Notice>,
        _kernel: Option<&std::sync::Arc<dyn KernelQueue>>,
        _token: u64,
        report: Report,
    ) -> Option<Self> {
        Self::on(notice.descriptor()?.try_clone_to_owned().ok()?, report)
    }

    /// Calls `report` when the operation of the pipe is over: at once, if it is already.
    pub(crate) fn of_pipe(
        pipe: &PipeEvent,
        _kernel: Option<&std::sync::Arc<dyn KernelQueue>>,
        _token: u64,
        report: Report,
    ) -> Option<Self> {
        Self::on(pipe.0.try_clone().ok()?, report)
    }

    fn on(handle: OwnedHandle, report: Report) -> Option<Self> {
        let report = Box::into_raw(Box::new(report));
        let mut wait = null_mut();
        // The thread that waits may call the function, because it takes no time.
        let flags = WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD;
        // SAFETY: the handle is open until the wait is over, and the function lives until then: `drop` alone frees both.
        let registered = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                handle.as_raw_handle(),
                Some(call),
                report.cast(),
                INFINITE,
                flags,
            )
        };
        if registered == 0 {
            // SAFETY: the system has not taken the pointer.
            drop(unsafe { Box::from_raw(report) });
            return None;
        }
        Some(Self { wait, report, _handle: handle })
    }

    /// Returns `false`: a thread of the system reports the exit, perhaps after other waiters have observed it.
    pub(crate) fn is_prompt(&self) -> bool {
        false
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // This waits for a call in progress.
        // SAFETY: the wait was registered, and this is the only place that ends it.
        if unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) } != 0 {
            // SAFETY: the pointer is from `Box::into_raw`, and no call follows. (If the unregistration fails, a call
            // may follow, so the function is leaked.)
            drop(unsafe { Box::from_raw(self.report) });
        }
    }
}

unsafe extern "system" fn call(report: *mut c_void, _: bool) {
    // SAFETY: the function that `new` has registered, which lives until the wait is over.
    let report = unsafe { &*report.cast::<Report>() };
    report();
}
