//! Unix: a process that outlives this one just long enough to kill what is to die with it.
//!
//! It is a small `sh`, one for the whole process, started when first needed. It reads what to kill from a
//! socket, whose other end only this process has. When that dies, by whatever cause, the socket ends,
//! and the guardian does its work. A shell, since nothing else that outlives us is at hand without forking this
//! process, which may be large, or knowing its program, which is not ours.
//!
//! **What it goes by.** A process group: it is told of it after the spawn, and that it is done before the
//! leader can be reaped by us; or when we learn that somebody else has reaped it, which is as soon as somebody waits
//! for it. With our death the leader is reaped by init, so if nobody is left in the group
//! its ID is free from then on, and could be handed out again: within the moment until the guardian has
//! come round to it, and all others first. On Linux the cookie as well, which is no ID of anybody's, and
//! which it is told *before* the spawn; so there is no moment in which a tree lives unguarded. A
//! cgroup the same.
//!
//! It has a process group of its own, so that what kills ours does not kill it; it ignores what a
//! terminal sends; it holds on to no directory and to no stream.
//!
//! The child of a fork has copied the socket. As long as it lives without exec, the guardian does not
//! learn of its parent's death.

use super::cookie::Cookie;
use crate::SharedChild;
use crate::exit::PerProcess;
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};

/// Never held over anything that blocks.
static POST: PerProcess<Mutex<Post>> = PerProcess::new();

const SCRIPT: &str = include_str!("guardian.sh");

#[derive(Default)]
struct Post {
    running: Option<Running>,
    next_number: u64,
    /// What is to be killed: the lines that say so.
    charges: BTreeMap<u64, Vec<u8>>,
}

struct Running {
    socket: UnixStream,
    /// What did not fit into the socket. It only comes to that if somebody stops the guardian.
    backlog: Vec<u8>,
    /// The guardian itself.
    shell: SharedChild,
}

/// What the guardian kills, until this is dropped.
pub(super) struct Bond {
    number: u64,
    group: Option<u32>,
    cookie: String,
    cgroup: Vec<u8>,
    /// What a fork has copied is not its own.
    process: u32,
}

/// Has the guardian kill whoever carries the cookie or is in the cgroup.
pub(super) fn watch(cookie: Option<&Cookie>, cgroup: Option<&Path>) -> io::Result<Bond> {
    start()?;
    let mut post = POST.get().lock();
    let number = post.next_number;
    post.next_number += 1;
    let none = || "-".to_owned();
    let bond = Bond {
        number,
        group: None,
        cookie: cookie.map_or_else(none, Cookie::to_string),
        cgroup: cgroup.map_or(b"-".to_vec(), |path| path.as_os_str().as_bytes().to_vec()),
        process: process::id(),
    };
    post.charge(number, bond.line());
    Ok(bond)
}

impl Bond {
    /// And whoever is in this process group, or in none.
    pub(super) fn set_group(&mut self, group: Option<u32>) {
        if self.group != group && self.process == process::id() {
            self.group = group;
            POST.get().lock().charge(self.number, self.line());
        }
    }

    fn line(&self) -> Vec<u8> {
        let group = self.group.map_or("-".to_owned(), |group| group.to_string());
        let mut line = format!("{} {group} {} ", self.number, self.cookie).into_bytes();
        line.extend_from_slice(&self.cgroup);
        line.push(b'\n');
        line
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        if self.process == process::id() {
            POST.get().lock().discharge(self.number);
        }
    }
}

/// Starts the guardian if there is none, or none any more.
fn start() -> io::Result<()> {
    if POST.get().lock().is_running() {
        return Ok(());
    }
    let running = Running::start()?;
    let mut post = POST.get().lock();
    if post.is_running() {
        // Another thread was faster. Ours ends with its socket, and has nothing to kill.
        return Ok(());
    }
    post.running = Some(running);
    let all = post.charges.values().flatten().copied().collect::<Vec<u8>>();
    post.send(&all);
    Ok(())
}

impl Post {
    fn charge(&mut self, number: u64, line: Vec<u8>) {
        self.send(&line);
        self.charges.insert(number, line);
    }

    fn is_running(&mut self) -> bool {
        self.send(b"");
        self.running.is_some()
    }

    fn discharge(&mut self, number: u64) {
        self.charges.remove(&number);
        self.send(format!("{number}\n").as_bytes());
    }

    /// If the guardian is gone, the next spawn starts another one, which is told everything anew.
    fn send(&mut self, lines: &[u8]) {
        let Some(running) = &mut self.running else { return };
        if running.shell.try_wait().is_ok_and(|status| status.is_none())
            && running.send(lines).is_ok()
        {
            return;
        }
        self.running = None;
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair().map_err(|error| explain(&error, error.kind()))?;
        socket.set_nonblocking(true)?;
        no_sigpipe(&socket);
        let theirs = OwnedFd::from(theirs);
        let mut missing = None;
        for shell in ["/bin/sh", "/system/bin/sh"] {
            let mut command = Command::new(shell);
            // By the environment, so that a list of processes shows what this is rather than all it says.
            command.args(["-c", r#"eval "$SCRIPT""#, "shared_child-guardian"]);
            command.arg(process::id().to_string());
            command.env_clear().env("SCRIPT", SCRIPT);
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
            command.current_dir("/").process_group(0);
            command.stdin(theirs.try_clone()?).stdout(Stdio::null()).stderr(Stdio::null());
            match SharedChild::spawn(&mut command) {
                Ok(shell) => return Ok(Self { socket, backlog: Vec::new(), shell }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing = Some(error),
                Err(error) => return Err(explain(&error, error.kind())),
            }
        }
        let error = missing.unwrap_or_else(|| io::ErrorKind::NotFound.into());
        Err(explain(&error, io::ErrorKind::Unsupported))
    }

    fn send(&mut self, lines: &[u8]) -> io::Result<()> {
        self.backlog.extend_from_slice(lines);
        while !self.backlog.is_empty() {
            match send(&self.socket, &self.backlog) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// send(2), without a SIGPIPE if the guardian is gone: not every program ignores that.
fn send(socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(not(target_vendor = "apple"))]
    let flags = libc::MSG_NOSIGNAL;
    // There the socket itself is set so.
    #[cfg(target_vendor = "apple")]
    let flags = 0;
    // SAFETY: the bytes outlive the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(target_vendor = "apple")]
fn no_sigpipe(socket: &UnixStream) {
    let yes: std::ffi::c_int = 1;
    // SAFETY: the option is an integer, which outlives the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NOSIGPIPE,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        );
    }
}

#[cfg(not(target_vendor = "apple"))]
fn no_sigpipe(_: &UnixStream) {}

fn explain(error: &io::Error, kind: io::ErrorKind) -> io::Error {
    let message = format!(
        "cannot start the shell (/bin/sh) that is to kill the tree when this process dies: {error}"
    );
    io::Error::new(kind, message)
}
