//! Windows: the pipes of one child, and its exit, in one wait for several objects.
//!
//! What waits there is not the pipe but an operation on it that has been started (overlapped, as std makes our ends
//! of its pipes), which uses its buffer until it is over. So each pipe has one operation with a buffer of its own,
//! and one that goes while that is under way cancels it, and waits until the system has let go of the buffer.
//!
//! Sources: ReadFile, CancelIoEx, GetOverlappedResult, CreateNamedPipeW of the Win32 documentation.

use super::Stream;
use crate::exit::{Notice, is_signalled, wait_for_any};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::ptr;
use std::time::Instant;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, GENERIC_WRITE,
    HANDLE, INVALID_HANDLE_VALUE,
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

const CHUNK: usize = 64 * 1024;

/// Our ends of the pipes that are open.
pub(super) struct Pipes {
    stdin: Option<Pipe>,
    outputs: [Option<Pipe>; 2],
}

/// What can be done now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) stdin: bool,
    pub(super) outputs: [bool; 2],
    /// There is reason to look for the exit.
    pub(super) exit: bool,
}

/// A pipe, and the one operation on it.
struct Pipe {
    handle: OwnedHandle,
    state: State,
    /// Signalled when the operation is over.
    event: OwnedHandle,
    overlapped: Box<OVERLAPPED>,
    buffer: Box<[u8]>,
}

enum State {
    Idle,
    /// The system may write to `overlapped`, and use `buffer`.
    UnderWay,
    /// It could not be started, which is to be told.
    Failed(io::Error),
}

impl Pipe {
    fn new(handle: OwnedHandle) -> io::Result<Self> {
        // SAFETY: no pointers but null; manual reset, as overlapped operations want it.
        let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        let event = owned(event)?;
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Ok(Self { handle, state: State::Idle, event, overlapped: Box::default(), buffer })
    }

    /// Starts an operation with so much of the buffer. It may be over at once.
    fn start(&mut self, operation: Operation, length: usize) {
        debug_assert!(matches!(self.state, State::Idle) && length <= self.buffer.len());
        *self.overlapped =
            OVERLAPPED { hEvent: self.event.as_raw_handle(), ..OVERLAPPED::default() };
        let (handle, length) = (self.handle.as_raw_handle(), length as u32);
        let (buffer, overlapped) = (self.buffer.as_mut_ptr(), &raw mut *self.overlapped);
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
            State::Failed(error)
        };
    }

    /// Whether there is something to be told.
    fn is_ready(&self) -> io::Result<bool> {
        match self.state {
            State::Idle => Ok(false),
            State::UnderWay => is_signalled(self.event.as_handle()),
            State::Failed(_) => Ok(true),
        }
    }

    /// How many bytes the operation has moved, if it is over.
    fn result(&mut self) -> io::Result<Option<usize>> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Ok(None),
            State::Failed(error) => Err(error),
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
        let mut count = 0;
        let (handle, overlapped) = (self.handle.as_raw_handle(), &raw const *self.overlapped);
        // SAFETY: both are those with which the operation was started.
        match unsafe { GetOverlappedResult(handle, overlapped, &raw mut count, wait.into()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(count as usize),
        }
    }

    fn available(&self) -> u64 {
        let mut count = 0;
        // SAFETY: null pointers for what is not asked for; the count outlives the call.
        unsafe {
            PeekNamedPipe(
                self.handle.as_raw_handle(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                &raw mut count,
                ptr::null_mut(),
            )
        };
        // And what the operation has got by now, which has left the pipe.
        u64::from(count) + CHUNK as u64
    }
}

enum Operation {
    Read,
    Write,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let State::UnderWay = self.state {
            // SAFETY: the operation's own. If it is over by now, there is nothing to be cancelled.
            unsafe { CancelIoEx(self.handle.as_raw_handle(), &raw const *self.overlapped) };
            // The buffer must not go before the system is done with it. (That is at once.)
            let _ = self.outcome(true);
        }
    }
}

impl Pipes {
    pub(super) fn new(
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let pipe = |handle: Option<OwnedHandle>| handle.map(Pipe::new).transpose();
        let stdin = pipe(stdin.map(OwnedHandle::from))?;
        let outputs = [pipe(stdout.map(OwnedHandle::from))?, pipe(stderr.map(OwnedHandle::from))?];
        Ok(Self { stdin, outputs })
    }

    pub(super) fn is_open(&self, stream: Stream) -> bool {
        self.outputs[stream as usize].is_some()
    }

    pub(super) fn close(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Blocks until something can be done, or until the deadline. Looks at least once. The exit is looked for if
    /// there is a notice; standard input counts only if there is something to feed.
    pub(super) fn wait(
        &mut self,
        feed: bool,
        exit: Option<&Notice>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        for pipe in self.outputs.iter_mut().flatten() {
            if let State::Idle = pipe.state {
                pipe.start(Operation::Read, CHUNK);
            }
        }
        let exit = exit.and_then(Notice::descriptor);
        let ready = self.ready(feed, exit)?;
        if ready.stdin || ready.exit || ready.outputs.contains(&true) {
            return Ok(ready);
        }
        let stdin = self.stdin.as_ref().filter(|_| feed);
        let pipes = self.outputs.iter().flatten().chain(stdin);
        let all: Vec<_> = pipes.map(|pipe| pipe.event.as_handle()).chain(exit).collect();
        wait_for_any(&all, deadline)?;
        self.ready(feed, exit)
    }

    fn ready(&self, feed: bool, exit: Option<BorrowedHandle<'_>>) -> io::Result<Ready> {
        let is_ready = |pipe: &Option<Pipe>| pipe.as_ref().map_or(Ok(false), Pipe::is_ready);
        let has_room = |pipe: &Pipe| Ok(matches!(pipe.state, State::Idle) || pipe.is_ready()?);
        let stdin = self.stdin.as_ref().filter(|_| feed);
        Ok(Ready {
            stdin: stdin.map_or(Ok::<_, io::Error>(false), has_room)?,
            outputs: [is_ready(&self.outputs[0])?, is_ready(&self.outputs[1])?],
            exit: exit.map_or(Ok(false), is_signalled)?,
        })
    }

    /// Appends what there is to read. `None` if that is nothing now, 0 at the end.
    pub(super) fn read(&mut self, stream: Stream, into: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let Some(pipe) = &mut self.outputs[stream as usize] else { return Ok(Some(0)) };
        if let State::Idle = pipe.state {
            pipe.start(Operation::Read, CHUNK);
        }
        match pipe.result() {
            // Somebody has written nothing, which is possible here, and is not the end.
            Ok(Some(0)) => Ok(None),
            Ok(Some(count)) => {
                into.extend_from_slice(&pipe.buffer[..count]);
                Ok(Some(count))
            }
            Err(error) if is(&error, ERROR_BROKEN_PIPE) => Ok(Some(0)),
            unfinished => unfinished,
        }
    }

    /// Writes what there is room for. `None` if that is nothing now; then the same is to be written later.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(pipe) = &mut self.stdin else { return Ok(None) };
        if let State::Idle = pipe.state {
            let length = bytes.len().min(CHUNK);
            pipe.buffer[..length].copy_from_slice(&bytes[..length]);
            pipe.start(Operation::Write, length);
        }
        pipe.result()
    }

    /// How many bytes there are to be read just now, at most.
    pub(super) fn available(&self, stream: Stream) -> u64 {
        self.outputs[stream as usize].as_ref().map_or(0, Pipe::available)
    }
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
