//! Windows: a thread that reads from or writes to a synchronous pipe.
//!
//! An operation on a synchronous handle blocks until it is over, whatever it is given, and no operation on the handle
//! can be made meanwhile. `CreatePipe` makes such handles, and so does `std::io::pipe`, the usual way to merge outputs.
//! So a thread makes the operations, one at a time, and an event is signalled when one is over. Bytes wait in the pipe
//! and nowhere else: a child that writes faster than the capture reads is held up as usual.
//!
//! To end an operation that is under way, the thread's system call is cancelled. A cancel before the call has no effect,
//! so it is repeated until the thread has acknowledged it.
//!
//! Sources: CreateFile (synchronous and asynchronous handles), CancelSynchronousIo and NtQueryInformationFile of the
//! Win32 and WDK documentation.

use super::system::{CHUNK, Operation};
use crate::backoff::Backoff;
use crate::sys::{is_signalled, wait_for_any};
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
use windows_sys::Win32::System::IO::{CancelSynchronousIo, IO_STATUS_BLOCK};
use windows_sys::Win32::System::Threading::{ResetEvent, SetEvent};

/// For an operation that should be over at once: a read of bytes that are there, unless another process takes them; and
/// one that was cancelled, unless the driver of the handle does not support that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes operations on a pipe, one at a time.
pub(super) struct Synchronous {
    /// `None` in `drop`: the thread then ends.
    requests: Option<Sender<Request>>,
    results: Receiver<Done>,
    /// `None` in `drop`.
    thread: Option<JoinHandle<()>>,
    /// Signalled from the end of an operation until the start of the next.
    event: Arc<OwnedHandle>,
    /// With the thread during an operation.
    buffer: Box<[u8]>,
    is_under_way: bool,
}

struct Request {
    operation: Operation,
    length: usize,
    buffer: Box<[u8]>,
}

struct Done {
    result: io::Result<usize>,
    buffer: Box<[u8]>,
}

impl Synchronous {
    pub(super) fn new(pipe: &Arc<OwnedHandle>, event: &Arc<OwnedHandle>) -> io::Result<Self> {
        let (requests, theirs) = channel();
        let (done, results) = channel();
        let worker = Worker { pipe: Arc::clone(pipe), event: Arc::clone(event), done };
        let thread = Builder::new()
            .name("child-pipe".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || worker.run(&theirs))
            .map_err(|error| {
                let message = format!(
                    "cannot capture through a synchronous pipe: no thread can be started for it \
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
            is_under_way: false,
        })
    }

    /// Empty during an operation.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Starts an operation with so much of the buffer.
    pub(super) fn start(&mut self, operation: Operation, length: usize) -> io::Result<()> {
        // Before the request: the thread signals the event when it is done, and not again.
        // SAFETY: the event is open.
        if unsafe { ResetEvent(self.event.as_raw_handle()) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let request = Request { operation, length, buffer: std::mem::take(&mut self.buffer) };
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        self.is_under_way = sent;
        if sent { Ok(()) } else { Err(thread_has_ended()) }
    }

    /// How many bytes the operation has moved; `ERROR_IO_INCOMPLETE` if it is not over.
    pub(super) fn result(&mut self) -> io::Result<usize> {
        // The event alone decides. A result that is taken before the event is signalled would leave that to be signalled
        // in the middle of the next operation.
        if !is_signalled(self.event.as_handle())? {
            return Err(io::Error::from_raw_os_error(ERROR_IO_INCOMPLETE as i32));
        }
        // It was sent before the event was signalled.
        let Done { result, buffer } = self.results.recv().map_err(|_| thread_has_ended())?;
        self.buffer = buffer;
        self.is_under_way = false;
        result
    }

    /// Waits for an operation that finds what it needs.
    pub(super) fn wait(&self) {
        // If that fails, so does the look at the result.
        let _ = wait_for_any(&[self.event.as_handle()], Instant::now().checked_add(PATIENCE));
    }

    /// Ends an operation that is under way. Returns whether it is over; if so, it may as well have succeeded.
    pub(super) fn cancel(&mut self) -> bool {
        let Some(thread) = &self.thread else { return false };
        let given_up = Instant::now() + PATIENCE;
        let mut pause = Backoff::new();
        loop {
            // SAFETY: the thread's handle is open. It has all rights, and the thread makes no other system calls that
            // could be cancelled. A failure means that there is nothing to be cancelled, now.
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
        let is_over = !self.is_under_way || self.cancel();
        self.requests = None;
        // A thread whose operation cannot be cancelled is left to itself. It ends after the operation, and owns all that
        // it uses until then.
        if let Some(thread) = self.thread.take().filter(|_| is_over) {
            let _ = thread.join();
        }
    }
}

struct Worker {
    pipe: Arc<OwnedHandle>,
    event: Arc<OwnedHandle>,
    done: Sender<Done>,
}

impl Worker {
    fn run(&self, requests: &Receiver<Request>) {
        for Request { operation, length, mut buffer } in requests {
            let result = self.perform(operation, &mut buffer[..length]);
            // If the capture is gone, the channel of requests is at its end as well.
            let _ = self.done.send(Done { result, buffer });
            // SAFETY: the event is open.
            unsafe { SetEvent(self.event.as_raw_handle()) };
        }
    }

    fn perform(&self, operation: Operation, buffer: &mut [u8]) -> io::Result<usize> {
        let (pipe, bytes, length) =
            (self.pipe.as_raw_handle(), buffer.as_mut_ptr(), buffer.len() as u32);
        let mut count = 0;
        // SAFETY: the handle is open; buffer and count outlive the call, which is synchronous.
        let succeeded = unsafe {
            match operation {
                Operation::Read => ReadFile(pipe, bytes, length, &raw mut count, ptr::null_mut()),
                Operation::Write => WriteFile(pipe, bytes, length, &raw mut count, ptr::null_mut()),
            }
        };
        if succeeded == 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }
}

fn thread_has_ended() -> io::Error {
    io::Error::other("cannot use the pipe: the thread that reads or writes it has ended")
}

/// Whether operations on this handle block. If the system does not say, it is taken for an overlapped one.
pub(super) fn is_synchronous(handle: &OwnedHandle) -> bool {
    // FileModeInformation, FILE_SYNCHRONOUS_IO_ALERT and FILE_SYNCHRONOUS_IO_NONALERT of the WDK.
    const MODE: i32 = 16;
    const SYNCHRONOUS: u32 = 0x10 | 0x20;
    let (mut status, mut mode) = (IO_STATUS_BLOCK::default(), 0_u32);
    // SAFETY: the handle is open; status and mode outlive the call, and the mode is FILE_MODE_INFORMATION, which is one
    // ULONG.
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

// Not by windows-sys, whose feature for it would cost each dependant a fifth more of the time that windows-sys takes to
// compile.
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
