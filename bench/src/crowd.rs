//! Many processes at once: this program, started again as a leader that forks them.
//!
//! Each tells its process ID, and then sleeps, for five minutes at most. When their leader is killed
//! they become this process's children, for it is a subreaper; so it can reap them, after whatever
//! is measured, and none is left to an init that may take its time.

use crate::cli::Result;
use std::env;
use std::io::{self, Read};
use std::process::{Command, Stdio};

/// The hidden argument that makes this program a leader.
pub(crate) const LEADER: &str = "__leader";

/// Longer than a measurement needs them.
const SECONDS: u32 = 300;

/// Whether the members stay in the leader's process group and session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    /// Each in a session of its own.
    Daemons,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Group, Self::Daemons];

    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Daemons => "daemons",
        }
    }
}

/// A leader of so many.
pub(crate) fn leader(kind: Kind, members: usize) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args([LEADER, kind.name(), &members.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Returns when all of them are there: their process IDs, and the leader's.
pub(crate) fn until_there(mut told: impl Read, members: usize) -> Result<Vec<i32>> {
    let mut ids = Vec::with_capacity(members + 1);
    for _ in 0..=members {
        let mut id = [0; 4];
        told.read_exact(&mut id)?;
        match i32::from_ne_bytes(id) {
            0 => return Err("the leader cannot fork that often".into()),
            id => ids.push(id),
        }
    }
    Ok(ids)
}

/// The life of a leader.
pub(crate) fn lead(kind: &str, members: &str) -> Result<()> {
    let kind = Kind::ALL.into_iter().find(|it| it.name() == kind).ok_or("no such leader")?;
    for _ in 0..members.parse()? {
        // SAFETY: this process has a single thread, so the child may do what its parent may.
        match unsafe { libc::fork() } {
            -1 => {
                tell(0);
                break;
            }
            0 => live(kind),
            _ => {}
        }
    }
    live(Kind::Group)
}

fn live(kind: Kind) -> ! {
    // SAFETY: these take and give integers. Nothing here handles SIGALRM, which ends the process.
    let id = unsafe {
        libc::alarm(SECONDS);
        if kind == Kind::Daemons {
            libc::setsid();
        }
        libc::getpid()
    };
    tell(id);
    loop {
        // SAFETY: it takes nothing.
        unsafe { libc::pause() };
    }
}

/// So short a text is written to a pipe in one piece.
fn tell(id: i32) {
    let id = id.to_ne_bytes();
    // SAFETY: `id` is readable for the length that is told.
    unsafe { libc::write(libc::STDOUT_FILENO, id.as_ptr().cast(), id.len()) };
}

/// Orphans among this process's descendants become its children, until this is dropped.
pub(crate) struct Subreaper(());

impl Subreaper {
    pub(crate) fn new() -> io::Result<Self> {
        set_subreaper(true).map(Self)
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        let _ = set_subreaper(false);
    }
}

fn set_subreaper(on: bool) -> io::Result<()> {
    // SAFETY: this operation takes one integer, and the others are not read.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(on), 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A leader's process group, which is killed and reaped when this is dropped. The ID cannot be
/// another's by then: a process stays in its group as long as it is not reaped, and only this reaps
/// the members.
pub(crate) struct Group(pub(crate) i32);

impl Group {
    pub(crate) fn kill(&self) -> io::Result<()> {
        // SAFETY: two integers go in.
        match unsafe { libc::kill(-self.0, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.kill();
        reap(-self.0);
    }
}

/// All children of this process, which have been killed, are reaped when this is dropped.
pub(crate) struct Reaped;

impl Drop for Reaped {
    fn drop(&mut self) {
        reap(-1);
    }
}

/// Reaps all that waitpid(2) takes this number for.
fn reap(whom: i32) {
    loop {
        // SAFETY: no status is asked for, so there is nothing to write.
        let done = unsafe { libc::waitpid(whom, std::ptr::null_mut(), 0) };
        if done < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}
