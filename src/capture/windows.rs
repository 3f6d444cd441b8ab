//! Windows: the pipes of one child, and its exit, in one wait for several objects.
//!
//! What waits there is not the pipe but an operation on it that has been started (overlapped, as std makes our ends
//! of its pipes), which uses its buffer until it is over. So each pipe has one operation with a buffer of its own,
//! and one that goes while that is under way cancels it, and waits until the system has let go of the buffer.
//!
//! A pipe that is not overlapped has a thread that makes its operations: see `synchronous`.
//!
//! Sources: ReadFile, CancelIoEx, GetOverlappedResult, CreateNamedPipeW of the Win32 documentation.

use super::pipes::Ready;
use super::synchronous::{Synchronous, is_synchronous};
use crate::sys::{ExitDescriptor, is_signalled, wait_for_any};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::time::Instant;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING,
    ERROR_OPERATION_ABORTED, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, OPEN_EXISTING,
    PIPE_ACCESS_INBOUND, ReadFile, WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
    PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::CreateEventW;

/// As much as an operation moves at most.
pub(super) const CHUNK: usize = 64 * 1024;

/// What an end of a pipe is, here.
pub(super) type End = OwnedHandle;

/// Our end of a pipe, and the one operation on it.
pub(super) struct Pipe {
    handle: Arc<OwnedHandle>,
    state: State,
    /// Signalled when the operation is over.
    event: Arc<OwnedHandle>,
    by: By,
}

/// What makes the operations.
enum By {
    /// The system. During an operation it may write to `overlapped`, and use `buffer`.
    Overlapped { overlapped: Box<OVERLAPPED>, buffer: Box<[u8]> },
    /// A thread.
    Synchronous(Synchronous),
}

enum State {
    Idle,
    UnderWay,
    /// It is over, or could not be started: what is to be returned next.
    Over(io::Result<usize>),
}

impl Pipe {
    pub(super) fn new(handle: OwnedHandle) -> io::Result<Self> {
        // SAFETY: no pointers but null; manual reset, as overlapped operations want it.
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        let (handle, event) = (Arc::new(handle), Arc::new(owned(event)?));
        let by = if is_synchronous(&handle) {
            By::Synchronous(Synchronous::new(&handle, &event)?)
        } else {
            let buffer = vec![0; CHUNK].into_boxed_slice();
            By::Overlapped { overlapped: Box::default(), buffer }
        };
        Ok(Self { handle, state: State::Idle, event, by })
    }

    /// Starts an operation with so much of the buffer. It may be over at once.
    fn start(&mut self, operation: Operation, length: usize) {
        debug_assert!(matches!(self.state, State::Idle) && length <= self.buffer().len());
        let (overlapped, buffer) = match &mut self.by {
            By::Overlapped { overlapped, buffer } => (overlapped, buffer),
            By::Synchronous(thread) => {
                let started = thread.start(operation, length);
                self.state =
                    started.map_or_else(|error| State::Over(Err(error)), |()| State::UnderWay);
                return;
            }
        };
        **overlapped = OVERLAPPED { hEvent: self.event.as_raw_handle(), ..OVERLAPPED::default() };
        let (handle, length) = (self.handle.as_raw_handle(), length as u32);
        let (buffer, overlapped) = (buffer.as_mut_ptr(), &raw mut **overlapped);
        // SAFETY: the buffer and `overlapped` are on the heap, and stay there, and are not touched, until the
        // operation is over (`result`), or was cancelled (`drop`).
        let started = unsafe {
            match operation {
                Operation::Read => ReadFile(handle, buffer, length, ptr::null_mut(), overlapped),
                Operation::Write => WriteFile(handle, buffer, length, ptr::null_mut(), overlapped),
            }
        };
        let error = io::Error::last_os_error();
        self.state = if started != 0 || is(&error, ERROR_IO_PENDING) {
            State::UnderWay
        } else {
            State::Over(Err(error))
        };
    }

    fn buffer(&mut self) -> &mut [u8] {
        match &mut self.by {
            By::Overlapped { buffer, .. } => buffer,
            By::Synchronous(thread) => thread.buffer(),
        }
    }

    /// Whether an operation is over.
    fn is_ready(&self) -> io::Result<bool> {
        match self.state {
            State::Idle => Ok(false),
            State::UnderWay => is_signalled(self.event.as_handle()),
            State::Over(_) => Ok(true),
        }
    }

    /// How many bytes the operation has moved, if it is over.
    fn result(&mut self) -> io::Result<Option<usize>> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Ok(None),
            State::Over(result) => result.map(Some),
            State::UnderWay => match self.outcome(false) {
                Err(error) if is(&error, ERROR_IO_INCOMPLETE) => {
                    self.state = State::UnderWay;
                    Ok(None)
                }
                outcome => outcome.map(Some),
            },
        }
    }

    fn outcome(&mut self, wait: bool) -> io::Result<usize> {
        let overlapped = match &mut self.by {
            By::Overlapped { overlapped, .. } => &raw const **overlapped,
            By::Synchronous(thread) => return thread.result(),
        };
        let mut count = 0;
        let handle = self.handle.as_raw_handle();
        // SAFETY: both are those with which the operation was started.
        match unsafe { GetOverlappedResult(handle, overlapped, &raw mut count, wait.into()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(count as usize),
        }
    }

    /// Appends what there is to read. `None` if that is nothing now, 0 at the end.
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        if let State::Idle = self.state {
            let is_over_soon = matches!(self.by, By::Synchronous(_)) && self.can_be_read();
            self.start(Operation::Read, CHUNK);
            // As an overlapped read, which then is over at once.
            if let By::Synchronous(thread) = &self.by {
                if is_over_soon {
                    thread.wait();
                }
            }
        }
        match self.result() {
            // The end of what is no pipe.
            Ok(Some(0)) if matches!(self.by, By::Synchronous(_)) && self.in_pipe().is_err() => {
                Ok(Some(0))
            }
            // A write of no bytes, which is possible here, is not the end.
            Ok(Some(0)) => Ok(None),
            Ok(Some(count)) => {
                into.extend_from_slice(&self.buffer()[..count]);
                Ok(Some(count))
            }
            Err(error) if is(&error, ERROR_BROKEN_PIPE) => Ok(Some(0)),
            unfinished => unfinished,
        }
    }

    /// Writes what there is room for. `None` if that is nothing now; then the same is to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if let State::Idle = self.state {
            let length = bytes.len().min(CHUNK);
            self.buffer()[..length].copy_from_slice(&bytes[..length]);
            self.start(Operation::Write, length);
        }
        self.result()
    }

    /// How many bytes there are to be read just now, at most.
    pub(super) fn available(&mut self) -> u64 {
        if let (State::UnderWay, By::Synchronous(thread)) = (&self.state, &mut self.by) {
            // The system does not answer during an operation on a synchronous handle.
            if !thread.cancel() {
                return 0;
            }
            match thread.result() {
                Err(error) if is(&error, ERROR_OPERATION_ABORTED) => self.state = State::Idle,
                result => self.state = State::Over(result),
            }
        }
        // And what the operation has got by now, which has left the pipe.
        u64::from(self.in_pipe().unwrap_or(0)) + CHUNK as u64
    }

    /// Whether a read does not block: there are bytes, or the end. Not to be called during an operation on a synchronous
    /// handle.
    fn can_be_read(&self) -> bool {
        match self.in_pipe() {
            Ok(count) => count > 0,
            Err(error) => is(&error, ERROR_BROKEN_PIPE),
        }
    }

    /// How many bytes are in the pipe.
    fn in_pipe(&self) -> io::Result<u32> {
        let mut count = 0;
        // SAFETY: null pointers for what is not asked for; the count outlives the call.
        let peeked = unsafe {
            PeekNamedPipe(
                self.handle.as_raw_handle(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                &raw mut count,
                ptr::null_mut(),
            )
        };
        if peeked == 0 { Err(io::Error::last_os_error()) } else { Ok(count) }
    }
}

pub(super) enum Operation {
    Read,
    Write,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // (A thread cancels its operation itself.)
        if let (State::UnderWay, By::Overlapped { overlapped, .. }) = (&self.state, &self.by) {
            // SAFETY: the operation's own. If it is over by now, there is nothing to be cancelled.
            unsafe { CancelIoEx(self.handle.as_raw_handle(), &raw const **overlapped) };
            // The buffer must not go before the system is done with it. (That is at once.)
            let _ = self.outcome(true);
        }
    }
}

/// What waits for pipes, and for an exit.
pub(super) struct Waiter;

impl Waiter {
    pub(super) fn new() -> Self {
        Self
    }

    /// Something has moved.
    pub(super) fn progress(&mut self) {}

    /// Blocks until one of these is ready, or until the deadline. Looks at least once.
    pub(super) fn wait(
        &mut self,
        stdin: Option<&mut Pipe>,
        outputs: &mut [Option<Pipe>; 2],
        exit: Option<&ExitDescriptor>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        for pipe in outputs.iter_mut().flatten() {
            if let State::Idle = pipe.state {
                pipe.start(Operation::Read, CHUNK);
            }
        }
        let (stdin, exit) = (stdin.as_deref(), exit.map(AsHandle::as_handle));
        let now = ready(stdin, outputs, exit)?;
        if now.stdin || now.exit || now.outputs.contains(&true) {
            return Ok(now);
        }
        let events = outputs.iter().flatten().chain(stdin).map(|pipe| pipe.event.as_handle());
        wait_for_any(&events.chain(exit).collect::<Vec<_>>(), deadline)?;
        ready(stdin, outputs, exit)
    }
}

fn ready(
    stdin: Option<&Pipe>,
    outputs: &[Option<Pipe>; 2],
    exit: Option<BorrowedHandle<'_>>,
) -> io::Result<Ready> {
    let is_ready = |pipe: &Option<Pipe>| pipe.as_ref().map_or(Ok(false), Pipe::is_ready);
    Ok(Ready {
        stdin: match stdin {
            Some(pipe) => matches!(pipe.state, State::Idle) || pipe.is_ready()?,
            None => false,
        },
        outputs: [is_ready(&outputs[0])?, is_ready(&outputs[1])?],
        exit: exit.map_or(Ok(false), is_signalled)?,
    })
}

/// A pipe of which our end, the first, is overlapped. None of the two is inherited by itself.
pub(super) fn pipe() -> io::Result<(OwnedHandle, OwnedHandle)> {
    /// Nobody guesses these names; who tries to is passed by.
    const ATTEMPTS: usize = 10;
    let mut attempts = 0;
    loop {
        let random = RandomState::new().build_hasher().finish();
        let name = format!(r"\\.\pipe\shared_child-{}-{random:x}", std::process::id());
        match pipe_named(&name) {
            // There is one of this name already.
            Err(error) if is(&error, ERROR_ACCESS_DENIED) && attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

fn pipe_named(name: &str) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SAFETY: the name outlives the call, and ends with a zero.
    let ours = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            PIPE_ACCESS_INBOUND | FILE_FLAG_FIRST_PIPE_INSTANCE | FILE_FLAG_OVERLAPPED,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            1,
            CHUNK as u32,
            CHUNK as u32,
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

/// What a function has just returned, which says either way that it has failed.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has just been made, for us.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code as i32)
}
