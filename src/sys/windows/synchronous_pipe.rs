//! Windows: a thread that reads from or writes to a synchronous pipe.
//!
//! An operation on a synchronous handle blocks until it is over, and no other operation on the handle can be made
//! meanwhile. `CreatePipe` creates such handles, and so does `std::io::pipe`, the usual way to merge outputs. So a thread
//! performs the operations, one at a time, and signals an event when one is over. Bytes wait in the pipe and nowhere else:
//! a child that writes faster than the capture reads is blocked as usual.
//!
//! To end a pending operation, the thread's system call is cancelled. A cancel before the call has no effect, so it is
//! repeated until the operation is over.
//!
//! Sources: CreateFile (synchronous and asynchronous handles), CancelSynchronousIo and NtQueryInformationFile of the
//! Win32 and WDK documentation.

use super::process::{is_signalled, wait_for_any};
use crate::backoff::Backoff;
use crate::sys::CHUNK;
use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{ERROR_IO_INCOMPLETE, HANDLE, NTSTATUS};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelSynchronousIo, IO_STATUS_BLOCK, OVERLAPPED};
use windows_sys::Win32::System::Threading::{ResetEvent, SetEvent};

/// The longest wait for an operation that should be over at once: a read of bytes that are in the pipe, unless another
/// process reads them first, or a cancelled operation, unless the handle's driver cannot cancel it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Performs operations on a pipe, one at a time.
pub(super) struct Synchronous {
    /// `None` in `drop`, which ends the thread.
    requests: Option<Sender<Request>>,
    results: Receiver<(io::Result<usize>, Box<[u8]>)>,
    /// `None` in `drop`.
    thread: Option<JoinHandle<()>>,
    /// Signalled from the end of an operation until the start of the next.
    event: Arc<OwnedHandle>,
    /// Empty during an operation: the thread owns the buffer then.
    buffer: Box<[u8]>,
    is_pending: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Operation {
    Read,
    Write,
}

struct Request {
    operation: Operation,
    length: usize,
    buffer: Box<[u8]>,
}

impl Synchronous {
    pub(super) fn new(pipe: &Arc<OwnedHandle>, event: &Arc<OwnedHandle>) -> io::Result<Self> {
        let (requests, theirs) = channel();
        let (done, results) = channel();
        let (pipe, signalled) = (Arc::clone(pipe), Arc::clone(event));
        let thread = Builder::new()
            .name("child-pipe".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || serve(&pipe, &signalled, theirs, &done))
            .map_err(|error| {
                let message = format!(
                    "cannot capture through a synchronous pipe: cannot start a thread for it \
                     ({error}); use an overlapped pipe"
                );
                io::Error::new(error.kind(), message)
            })?;
        Ok(Self {
            requests: Some(requests),
            results,
            thread: Some(thread),
            event: Arc::clone(event),
            buffer: vec![0; CHUNK].into_boxed_slice(),
            is_pending: false,
        })
    }

    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Starts an operation with the first `length` bytes of the buffer.
    pub(super) fn start(&mut self, operation: Operation, length: usize) -> io::Result<()> {
        // Reset the event before the request: the thread signals it once, when the operation is over.
        // SAFETY: the event is open.
        if unsafe { ResetEvent(self.event.as_raw_handle()) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let request = Request { operation, length, buffer: std::mem::take(&mut self.buffer) };
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        self.is_pending = sent;
        if sent { Ok(()) } else { Err(thread_has_ended()) }
    }

    /// Returns how many bytes the operation has moved, or `ERROR_IO_INCOMPLETE` if it is not over.
    pub(super) fn result(&mut self) -> io::Result<usize> {
        // The event alone decides. If the result were received before the thread signals the event, the event would be
        // signalled during the next operation.
        if !is_signalled(self.event.as_handle())? {
            return Err(io::Error::from_raw_os_error(ERROR_IO_INCOMPLETE as i32));
        }
        // The thread sends the result before it signals the event.
        let (result, buffer) = self.results.recv().map_err(|_| thread_has_ended())?;
        self.buffer = buffer;
        self.is_pending = false;
        result
    }

    /// Waits for an operation that does not block.
    pub(super) fn wait(&self) {
        // If the wait fails, `result` fails as well.
        let _ = wait_for_any(&[self.event.as_handle()], Instant::now().checked_add(PATIENCE));
    }

    /// Cancels a pending operation. Returns whether it is over; it may have succeeded.
    pub(super) fn cancel(&mut self) -> bool {
        let Some(thread) = &self.thread else { return false };
        let given_up = Instant::now() + PATIENCE;
        let mut pause = Backoff::new();
        loop {
            // SAFETY: the thread's handle is open and has all rights. The thread makes no other system calls that can be
            // cancelled. A failure means that no call is pending now.
            unsafe { CancelSynchronousIo(thread.as_raw_handle()) };
            let again = Instant::now() + pause.next();
            match wait_for_any(&[self.event.as_handle()], Some(again)) {
                Ok(true) => return true,
                Ok(false) if again < given_up => {}
                _ => return false,
            }
        }
    }
}

impl Drop for Synchronous {
    fn drop(&mut self) {
        let is_over = !self.is_pending || self.cancel();
        self.requests = None;
        // A thread whose operation cannot be cancelled is detached. It ends after the operation, and owns all that it uses
        // until then.
        if let Some(thread) = self.thread.take().filter(|_| is_over) {
            let _ = thread.join();
        }
    }
}

/// Runs on the thread, until the channel of requests is closed.
fn serve(
    pipe: &OwnedHandle,
    event: &OwnedHandle,
    requests: Receiver<Request>,
    results: &Sender<(io::Result<usize>, Box<[u8]>)>,
) {
    for Request { operation, length, mut buffer } in requests {
        let (mut count, none) = (0, ptr::null_mut());
        // SAFETY: the operation is synchronous, so the buffer and the count outlive it.
        let moved =
            unsafe { transfer(pipe, operation, &mut buffer[..length], &raw mut count, none) };
        // If the capture has ended, the channel of requests is closed as well.
        let _ = results.send((moved.map(|()| count as usize), buffer));
        // SAFETY: the event is open.
        unsafe { SetEvent(event.as_raw_handle()) };
    }
}

/// Reads into the buffer, or writes it. Sets `count` to how many bytes were moved, unless it is null.
///
/// # Safety
///
/// The buffer, and `count` and `overlapped` if not null, must stay valid and unused until the operation is over.
pub(super) unsafe fn transfer(
    handle: &OwnedHandle,
    operation: Operation,
    buffer: &mut [u8],
    count: *mut u32,
    overlapped: *mut OVERLAPPED,
) -> io::Result<()> {
    let (handle, length, buffer) =
        (handle.as_raw_handle(), buffer.len() as u32, buffer.as_mut_ptr());
    // SAFETY: the handle is open. The caller is responsible for the pointers.
    let succeeded = unsafe {
        match operation {
            Operation::Read => ReadFile(handle, buffer, length, count, overlapped),
            Operation::Write => WriteFile(handle, buffer, length, count, overlapped),
        }
    };
    if succeeded == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn thread_has_ended() -> io::Error {
    io::Error::other("cannot use the pipe: the thread that reads or writes it has ended")
}

/// Returns whether operations on this handle block. A handle of which the system does not report this counts as overlapped.
pub(super) fn is_synchronous(handle: &OwnedHandle) -> bool {
    // FileModeInformation, FILE_SYNCHRONOUS_IO_ALERT and FILE_SYNCHRONOUS_IO_NONALERT of the WDK.
    const MODE: i32 = 16;
    const SYNCHRONOUS: u32 = 0x10 | 0x20;
    let (mut status, mut mode) = (IO_STATUS_BLOCK::default(), 0_u32);
    // SAFETY: the handle is open; status and mode outlive the call. FILE_MODE_INFORMATION is one ULONG.
    let result = unsafe {
        NtQueryInformationFile(
            handle.as_raw_handle(),
            &raw mut status,
            (&raw mut mode).cast(),
            size_of_val(&mode) as u32,
            MODE,
        )
    };
    result >= 0 && mode & SYNCHRONOUS != 0
}

// The feature of windows-sys that declares this would make windows-sys take a fifth longer to compile.
#[cfg_attr(
    target_arch = "x86",
    link(
        name = "ntdll.dll",
        kind = "raw-dylib",
        modifiers = "+verbatim",
        import_name_type = "undecorated"
    )
)]
#[cfg_attr(
    not(target_arch = "x86"),
    link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")
)]
unsafe extern "system" {
    fn NtQueryInformationFile(
        file: HANDLE,
        status: *mut IO_STATUS_BLOCK,
        information: *mut c_void,
        length: u32,
        class: i32,
    ) -> NTSTATUS;
}
