//! System calls, and libc's `posix_spawn`: the least that any library can do.

use super::{Handle, Program};
use std::ffi::{CString, OsString, c_char, c_int, c_long};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null;
use std::time::Duration;

unsafe extern "C" {
    static environ: *const *mut c_char;
}

/// What `posix_spawn` takes.
pub(super) struct Spawn {
    arguments: Vec<CString>,
    streams: [(Option<File>, c_int); 2],
}

impl Spawn {
    pub(super) fn new(program: Program) -> io::Result<Self> {
        let Program { path, arguments, stdin, stdout } = program;
        let words = std::iter::once(path).chain(arguments);
        let arguments = words.map(word).collect::<io::Result<_>>()?;
        Ok(Self { arguments, streams: [(stdin, 0), (stdout, 1)] })
    }

    fn spawn(&self) -> io::Result<libc::pid_t> {
        let mut arguments: Vec<*mut c_char> =
            self.arguments.iter().map(|word| word.as_ptr().cast_mut()).collect();
        arguments.push(null::<c_char>().cast_mut());
        let mut actions = MaybeUninit::uninit();
        let mut id = 0;
        // SAFETY: the actions are initialised before anything else is done with them, and destroyed at the end. The
        // arguments are strings that live as long as this, and a null; nothing in this program changes its environment.
        let error = unsafe {
            checked(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            for (file, stream) in &self.streams {
                if let Some(file) = file {
                    let (from, to) = (file.as_raw_fd(), *stream);
                    libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), from, to);
                }
            }
            let error = libc::posix_spawn(
                &raw mut id,
                arguments[0],
                actions.as_ptr(),
                null(),
                arguments.as_ptr(),
                environ,
            );
            libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
            error
        };
        checked(error).map(|()| id)
    }
}

fn checked(error: c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn word(word: OsString) -> io::Result<CString> {
    Ok(CString::new(word.into_vec())?)
}

/// A process ID. The pidfd is opened by a timed wait, which alone needs it.
pub(super) struct Raw(libc::pid_t);

impl Raw {
    pub(super) fn spawn(spawn: &Spawn) -> io::Result<Self> {
        spawn.spawn().map(Self)
    }

    fn reap(&self) -> io::Result<ExitStatus> {
        let mut status = 0;
        // SAFETY: `status` is writable.
        match unsafe { libc::waitpid(self.0, &raw mut status, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(ExitStatus::from_raw(status)),
        }
    }
}

impl Handle for Raw {
    fn id(&self) -> u32 {
        self.0.cast_unsigned()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.reap()
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let pidfd = pidfd(self.0)?;
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: `poll` is one writable pollfd, as is told.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            _ => self.reap().map(Some),
        }
    }

    /// Does not reap: it is asked of the living.
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let info = waitid(libc::P_PID, self.id(), options)?;
        Ok((info.si_signo != 0).then(ExitStatus::default))
    }

    fn kill(&mut self) -> io::Result<()> {
        // SAFETY: two integers go in.
        match unsafe { libc::kill(self.0, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

pub(crate) fn pidfd(id: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: two integers go in.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(id), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a descriptor (so it fits), and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

pub(crate) fn waitid(kind: libc::idtype_t, id: u32, options: c_int) -> io::Result<libc::siginfo_t> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a writable siginfo_t.
    if unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and zeroes are a valid siginfo_t, as is what the kernel writes.
    Ok(unsafe { info.assume_init() })
}
