//! Windows: how a port is to hear of one child: a thread of the system's waits for up to 63 of them, and posts.
//!
//! Sources: RegisterWaitForSingleObject and UnregisterWaitEx of the Win32 documentation.

use super::process::Notice;
use crate::sync::Arc;
use crate::sys::port::Port;
use std::ffi::c_void;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD,
    WT_EXECUTEONLYONCE,
};

pub(crate) struct Registration {
    wait: HANDLE,
    told: *mut Told,
    /// What is waited for must stay open meanwhile, whoever drops the child.
    _process: OwnedHandle,
}

struct Told {
    port: Arc<Port>,
    token: u64,
}

// SAFETY: a registered wait is not bound to a thread, and what is told is given up by one only, in `drop`.
unsafe impl Send for Registration {}

impl Registration {
    /// Has the port told `token`, once, when the child has exited; at once, if it has already.
    pub(crate) fn new(notice: &Arc<Notice>, port: &Arc<Port>, token: u64) -> Option<Self> {
        let process = notice.descriptor()?.try_clone_to_owned().ok()?;
        let told = Box::into_raw(Box::new(Told { port: Arc::clone(port), token }));
        let mut wait = null_mut();
        // In the thread that waits, since it takes no time.
        let flags = WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD;
        // SAFETY: the handle is open until the wait is over, and what `tell` is given lives until then: both are
        // given up in `drop` only.
        let registered = unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                process.as_raw_handle(),
                Some(tell),
                told.cast(),
                INFINITE,
                flags,
            )
        };
        if registered == 0 {
            // SAFETY: nobody else has got it.
            drop(unsafe { Box::from_raw(told) });
            return None;
        }
        Some(Self { wait, told, _process: process })
    }

    /// Whether the port hears of an exit no later than anybody else: not by way of another thread.
    pub(crate) fn is_prompt(&self) -> bool {
        false
    }

    /// What the port was told before, it tells.
    pub(crate) fn end(self, _: &Port) {}
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Waits for a `tell` that is under way, which takes no lock but the port's own, for a moment.
        // SAFETY: the wait was registered, and this is the only place that ends it.
        if unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) } != 0 {
            // SAFETY: from `Box::into_raw`, and nobody tells any more. (If that failed, somebody may: it is leaked.)
            drop(unsafe { Box::from_raw(self.told) });
        }
    }
}

unsafe extern "system" fn tell(told: *mut c_void, _: bool) {
    // SAFETY: what `new` has registered, which lives until the wait is over.
    let told = unsafe { &*told.cast::<Told>() };
    told.port.post(told.token);
}
