//! Windows: the pipes of one child, and its exit, in one wait for several objects.
//!
//! The wait is for operations that have been started on the pipes. The operation is overlapped, as std opens
//! its ends of pipes, and the system uses its buffer until it is over. So each pipe has one operation with a buffer of its
//! own. A drop during the operation cancels it, and waits until the system has released the buffer.
//!
//! The system cancels an operation when the thread that started it ends. Another thread then starts it again.
//!
//! A thread performs the operations on a pipe that is not overlapped: see `synchronous_pipe`.
//!
//! Sources: ReadFile, CancelIoEx, GetOverlappedResult, CreateNamedPipeW of the Win32 documentation.

use super::process::{ExitDescriptor, is_signalled, wait_for_any};
use super::synchronous_pipe::{Operation, Synchronous, is_synchronous, transfer};
use crate::sys::{CHUNK, Ready};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::time::Instant;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING,
    ERROR_OPERATION_ABORTED, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, OPEN_EXISTING,
    PIPE_ACCESS_INBOUND,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
    PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::{CreateEventW, ResetEvent, SetEvent};

/// This process's end of a pipe, and the one operation on it.
pub(crate) struct Pipe {
    handle: Arc<OwnedHandle>,
    state: OperationState,
    /// Signalled when the operation is over.
    event: Arc<OwnedHandle>,
    performer: Performer,
}

// SAFETY: only the pointers in `OVERLAPPED` are not `Send`. The system writes to it, and any thread may inspect or cancel
// the operation.
unsafe impl Send for Pipe {}

enum Performer {
    /// The system. During an operation it may write to `overlapped` and use `buffer`.
    Overlapped {
        overlapped: Box<OVERLAPPED>,
        buffer: Box<[u8]>,
    },
    Thread(Synchronous),
}

enum OperationState {
    Idle,
    Pending,
    /// The operation is over, or could not be started. The next call returns this result.
    Over(io::Result<usize>),
}

impl Pipe {
    pub(crate) fn new(handle: OwnedHandle) -> io::Result<Self> {
        // Overlapped operations require an event that is reset by hand.
        let (handle, event) = (Arc::new(handle), Arc::new(event()?));
        let performer = if is_synchronous(&handle) {
            Performer::Thread(Synchronous::new(&handle, &event)?)
        } else {
            let buffer = vec![0; CHUNK].into_boxed_slice();
            Performer::Overlapped { overlapped: Box::default(), buffer }
        };
        Ok(Self { handle, state: OperationState::Idle, event, performer })
    }

    /// Starts an operation with the first `length` bytes of the buffer.
    fn start(&mut self, operation: Operation, length: usize) {
        debug_assert!(matches!(self.state, OperationState::Idle));
        let started = match &mut self.performer {
            Performer::Thread(thread) => thread.start(operation, length),
            Performer::Overlapped { overlapped, buffer } => {
                **overlapped = OVERLAPPED::default();
                overlapped.hEvent = self.event.as_raw_handle();
                let buffer = &mut buffer[..length];
                // SAFETY: `buffer` and `overlapped` are on the heap, and nothing moves, drops or uses them until the
                // operation is over (`result`) or was cancelled (`drop`).
                match unsafe {
                    transfer(
                        &self.handle,
                        operation,
                        buffer,
                        ptr::null_mut(),
                        &raw mut **overlapped,
                    )
                } {
                    Err(error) if !is(&error, ERROR_IO_PENDING) => Err(error),
                    _ => Ok(()),
                }
            }
        };
        self.state = started
            .map_or_else(|error| OperationState::Over(Err(error)), |()| OperationState::Pending);
    }

    fn buffer(&mut self) -> &mut [u8] {
        match &mut self.performer {
            Performer::Overlapped { buffer, .. } => buffer,
            Performer::Thread(thread) => thread.buffer(),
        }
    }

    /// Returns whether an operation is over.
    fn is_ready(&self) -> io::Result<bool> {
        match self.state {
            OperationState::Idle => Ok(false),
            OperationState::Pending => is_signalled(self.event.as_handle()),
            OperationState::Over(_) => Ok(true),
        }
    }

    /// Returns how many bytes the operation has moved, if it is over.
    fn result(&mut self) -> io::Result<Option<usize>> {
        match std::mem::replace(&mut self.state, OperationState::Idle) {
            OperationState::Idle => Ok(None),
            OperationState::Over(result) => result.map(Some),
            OperationState::Pending => match self.outcome(false) {
                Err(error) if is(&error, ERROR_IO_INCOMPLETE) => {
                    self.state = OperationState::Pending;
                    Ok(None)
                }
                // The thread that had started the operation has ended. The next wait or call starts it again.
                Err(error) if is(&error, ERROR_OPERATION_ABORTED) => Ok(None),
                outcome => outcome.map(Some),
            },
        }
    }

    fn outcome(&mut self, wait: bool) -> io::Result<usize> {
        let overlapped = match &mut self.performer {
            Performer::Overlapped { overlapped, .. } => &raw const **overlapped,
            Performer::Thread(thread) => return thread.result(),
        };
        let mut count = 0;
        let handle = self.handle.as_raw_handle();
        // SAFETY: the operation was started with this handle and this structure.
        match unsafe { GetOverlappedResult(handle, overlapped, &raw mut count, wait.into()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(count as usize),
        }
    }

    /// Appends what there is to read. Returns `None` if there is nothing now, 0 at the end.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let is_synchronous = matches!(self.performer, Performer::Thread(_));
        if let OperationState::Idle = self.state {
            let completes_at_once = is_synchronous && self.can_be_read();
            self.start(Operation::Read, CHUNK);
            // An overlapped read that finds bytes is over when the call returns. This makes a thread's read alike.
            if let (true, Performer::Thread(thread)) = (completes_at_once, &self.performer) {
                thread.wait();
            }
        }
        match self.result() {
            // The end of a file that is no pipe. In a pipe, a write of no bytes is possible, and is not the end.
            Ok(Some(0)) if is_synchronous && self.in_pipe().is_err() => Ok(Some(0)),
            Ok(Some(0)) => Ok(None),
            Ok(Some(count)) => {
                into.extend_from_slice(&self.buffer()[..count]);
                Ok(Some(count))
            }
            Err(error) if is(&error, ERROR_BROKEN_PIPE) => Ok(Some(0)),
            unfinished => unfinished,
        }
    }

    /// Writes what there is room for. Returns `None` if there is no room now: the same bytes are to be written later.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if let OperationState::Idle = self.state {
            let length = bytes.len().min(CHUNK);
            self.buffer()[..length].copy_from_slice(&bytes[..length]);
            self.start(Operation::Write, length);
        }
        self.result()
    }

    /// Gives up a write that found no room. Returns how many of its bytes were written, as far as the system reports.
    pub(crate) fn cancel_write(&mut self) -> io::Result<usize> {
        match self.cancel() {
            Err(error) if is(&error, ERROR_OPERATION_ABORTED) => Ok(0),
            cancelled => cancelled,
        }
    }

    /// Cancels the operation, if there is one, and returns its result.
    fn cancel(&mut self) -> io::Result<usize> {
        match std::mem::replace(&mut self.state, OperationState::Idle) {
            OperationState::Idle => Ok(0),
            OperationState::Over(result) => result,
            OperationState::Pending => {
                match &mut self.performer {
                    Performer::Overlapped { overlapped, .. } => {
                        // SAFETY: the operation was started with this structure. If it is over, the call fails.
                        unsafe { CancelIoEx(self.handle.as_raw_handle(), &raw const **overlapped) };
                    }
                    Performer::Thread(thread) => {
                        if !thread.cancel() {
                            self.state = OperationState::Pending;
                            return Ok(0);
                        }
                    }
                }
                // The buffer must outlive the operation. A cancelled operation is over at once.
                self.outcome(true)
            }
        }
    }

    /// Returns how many bytes there are to read now, at most.
    pub(crate) fn available(&mut self) -> u64 {
        if let (OperationState::Pending, Performer::Thread(thread)) =
            (&self.state, &mut self.performer)
        {
            // The system does not report on a synchronous handle during an operation.
            if !thread.cancel() {
                return 0;
            }
            self.state = match thread.result() {
                Err(error) if is(&error, ERROR_OPERATION_ABORTED) => OperationState::Idle,
                result => OperationState::Over(result),
            };
        }
        // The bytes that the operation has read have left the pipe.
        u64::from(self.in_pipe().unwrap_or(0)) + CHUNK as u64
    }

    /// Returns whether a read does not block: there are bytes, or the end. Requires that no operation on a synchronous
    /// handle is pending.
    fn can_be_read(&self) -> bool {
        match self.in_pipe() {
            Ok(count) => count > 0,
            Err(error) => is(&error, ERROR_BROKEN_PIPE),
        }
    }

    /// Returns how many bytes are in the pipe.
    fn in_pipe(&self) -> io::Result<u32> {
        let (handle, mut count) = (self.handle.as_raw_handle(), 0);
        let null = ptr::null_mut();
        // SAFETY: the count outlives the call, and the other pointers are null.
        match unsafe { PeekNamedPipe(handle, null, 0, null.cast(), &raw mut count, null.cast()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(count),
        }
    }
}

/// The event that the operation of a pipe is over.
pub(crate) struct PipeEvent(pub(super) Arc<OwnedHandle>);

impl Pipe {
    pub(crate) fn event(&self, _for_write: bool) -> PipeEvent {
        PipeEvent(Arc::clone(&self.event))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // `Synchronous` cancels its operation itself.
        if let Performer::Overlapped { .. } = &self.performer {
            let _ = self.cancel();
        }
    }
}

/// Ends the wait of another thread.
pub(crate) struct Alarm(OwnedHandle);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        event().map(Self)
    }

    pub(crate) fn set(&self) {
        // SAFETY: the event is open.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }

    pub(crate) fn clear(&self) {
        // SAFETY: the event is open.
        unsafe { ResetEvent(self.0.as_raw_handle()) };
    }
}

/// What a thread waits for. It keeps the events open, so other threads may close the pipes meanwhile.
pub(crate) struct Wait {
    /// Of stdout, stderr and stdin.
    events: [Option<Arc<OwnedHandle>>; 3],
    exit: Option<Arc<ExitDescriptor>>,
    alarm: Option<Arc<Alarm>>,
    /// What needs no wait.
    now: Ready,
}

impl Wait {
    /// Starts a read of each output that has no operation.
    pub(crate) fn new(
        stdin: Option<&Pipe>,
        outputs: &mut [Option<Pipe>; 2],
        exit: Option<&Arc<ExitDescriptor>>,
        alarm: Option<&Arc<Alarm>>,
    ) -> io::Result<Self> {
        for pipe in outputs.iter_mut().flatten() {
            if let OperationState::Idle = pipe.state {
                pipe.start(Operation::Read, CHUNK);
            }
        }
        let [stdout, stderr] = outputs.each_ref().map(Option::as_ref);
        let is_ready = |pipe: Option<&Pipe>| pipe.map_or(Ok(false), Pipe::is_ready);
        let has_room = stdin.is_some_and(|pipe| matches!(pipe.state, OperationState::Idle));
        let now = Ready {
            stdin: has_room || is_ready(stdin)?,
            outputs: [is_ready(stdout)?, is_ready(stderr)?],
            exit: exit.map_or(Ok(false), |exit| is_signalled(exit.as_handle()))?,
        };
        let events = [stdout, stderr, stdin].map(|pipe| pipe.map(|pipe| Arc::clone(&pipe.event)));
        Ok(Self { events, exit: exit.cloned(), alarm: alarm.cloned(), now })
    }

    /// Blocks until something can be done, or until the deadline. Polls at least once.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> io::Result<Ready> {
        let now = self.now;
        if now.stdin || now.exit || now.outputs.contains(&true) {
            return Ok(now);
        }
        let exit = self.exit.as_ref().map(|exit| exit.as_handle());
        let alarm = self.alarm.as_ref().map(|alarm| alarm.0.as_handle());
        let mut handles = Vec::with_capacity(5);
        handles.extend(self.events.iter().flatten().map(|event| event.as_handle()));
        handles.extend(exit.into_iter().chain(alarm));
        wait_for_any(&handles, deadline)?;
        let is_set = |event: &Option<Arc<OwnedHandle>>| {
            event.as_ref().map_or(Ok(false), |event| is_signalled(event.as_handle()))
        };
        let [stdout, stderr, stdin] = &self.events;
        Ok(Ready {
            stdin: is_set(stdin)?,
            outputs: [is_set(stdout)?, is_set(stderr)?],
            exit: exit.map_or(Ok(false), is_signalled)?,
        })
    }
}

/// Creates an event that is reset by hand.
fn event() -> io::Result<OwnedHandle> {
    // SAFETY: the pointers are null.
    owned(unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) })
}

/// Creates a pipe: the end to read from, which is overlapped, and the end to write to. Neither is inheritable.
pub(crate) fn pipe() -> io::Result<(OwnedHandle, OwnedHandle)> {
    /// The names are random. A name that another process has taken is skipped.
    const ATTEMPTS: usize = 10;
    let mut attempts = 0;
    loop {
        let random = RandomState::new().build_hasher().finish();
        let name = format!(r"\\.\pipe\shared_child-{}-{random:x}", std::process::id());
        match pipe_named(&name) {
            Err(error) if is(&error, ERROR_ACCESS_DENIED) && attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

fn pipe_named(name: &str) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let size = CHUNK as u32;
    // SAFETY: the name outlives the call, and ends with a zero.
    let ours = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            PIPE_ACCESS_INBOUND | FILE_FLAG_FIRST_PIPE_INSTANCE | FILE_FLAG_OVERLAPPED,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            1,
            size,
            size,
            0,
            ptr::null(),
        )
    };
    let ours = owned(ours)?;
    // SAFETY: as above.
    let theirs = unsafe {
        CreateFileW(name.as_ptr(), GENERIC_WRITE, 0, ptr::null(), OPEN_EXISTING, 0, ptr::null_mut())
    };
    Ok((ours, owned(theirs)?))
}

/// Owns a handle that a function has just returned. Both null and -1 mean that it failed.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new and belongs to the caller.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code as i32)
}
