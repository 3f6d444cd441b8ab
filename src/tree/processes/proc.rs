//! Linux: `/proc`, and a pidfd for whoever is held.
//!
//! A census of everybody reads `stat` of each (some 14 µs), and whoever looks for a cookie `environ` of
//! those that are left (18 µs more). So what is cheap comes first: `getpgid` (a fraction of a
//! microsecond) tells the members of the group, and the time of the start sorts out most of the others.
//!
//! Sources: proc_pid_stat(5), proc_pid_environ(5), pidfd_open(2).

use super::super::cookie::Cookie;
use super::{Census, Other, group_of, not_told};
use crate::backoff::Backoff;
use crate::exit::{self, Pid};
use rustix::event::PollFlags;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub(in super::super) const READS_ENVIRONMENTS: bool = true;

/// Whether `/proc` is there, and is that of this process's PID namespace.
pub(in super::super) fn usable() -> bool {
    let me = readlinkat(CWD, "/proc/self", Vec::new()).ok();
    me.and_then(|me| me.to_str().ok()?.parse().ok()) == Some(std::process::id())
}

/// In clock ticks since the machine was booted.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Since(u64);

impl Since {
    pub(in super::super) fn now() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let now = clock_gettime(ClockId::Boottime);
        let hertz = rustix::param::clock_ticks_per_second();
        let ticks =
            now.tv_sec.unsigned_abs() * hertz + now.tv_nsec.unsigned_abs() * hertz / 1_000_000_000;
        // The kernel rounds in its own way.
        Self(ticks.saturating_sub(1))
    }
}

/// The process ID that was handed out last, in this PID namespace. They are handed out in turn.
/// (proc_loadavg(5).)
pub(in super::super) fn newest() -> Option<i32> {
    let mut buffer = Vec::new();
    read("/proc/loadavg", &mut buffer).ok()?;
    let newest = std::str::from_utf8(&buffer).ok()?.split_ascii_whitespace().last()?.parse().ok();
    // An emulated `/proc` may say 0.
    newest.filter(|id| *id > 0)
}

pub(in super::super) fn census(group: Option<i32>, since: Since) -> io::Result<Census> {
    if !usable() {
        return Err(not_told("there is no /proc of this PID namespace"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = Dir::read_from(openat(CWD, "/proc", flags, Mode::empty())?)?;
    let mut census = Census::default();
    let mut buffer = Vec::new();
    for entry in list {
        if let Some(id) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            take(id, group, since, &mut buffer, &mut census)?;
        }
    }
    Ok(census)
}

/// The same, but only of those whose ID was handed out after the one and not after the other.
pub(in super::super) fn census_of_new(
    group: Option<i32>,
    since: Since,
    after: i32,
    newest: i32,
) -> io::Result<Census> {
    /// Beyond this it takes less to read the list.
    const MANY: usize = 50_000;
    // They may have come round.
    let (end, start) = if after <= newest { (newest, newest + 1) } else { (largest_id(), 1) };
    let new = (after + 1..=end).chain(start..=newest);
    if new.size_hint().0 > MANY {
        return census(group, since);
    }
    let mut census = Census::default();
    let mut buffer = Vec::new();
    for id in new {
        if !take(id, group, since, &mut buffer, &mut census)? {
            census.gone.push(id);
        }
    }
    Ok(census)
}

fn largest_id() -> i32 {
    let mut buffer = Vec::new();
    read("/proc/sys/kernel/pid_max", &mut buffer)
        .ok()
        .and_then(|()| std::str::from_utf8(&buffer).ok()?.trim().parse().ok())
        // The most that there can be.
        .unwrap_or(1 << 22)
}

/// Puts it where it belongs. Says whether it lives.
fn take(
    id: i32,
    group: Option<i32>,
    since: Since,
    buffer: &mut Vec<u8>,
    census: &mut Census,
) -> io::Result<bool> {
    if group.is_some() && group_of(id) == group {
        census.group.push(id);
        return Ok(true);
    }
    let Some(stat) = stat(id, buffer)? else { return Ok(false) };
    if stat.lives && !stat.is_kernels && stat.started >= since.0 && id != std::process::id() as i32
    {
        census.others.push(Other { id, parent: stat.parent });
    }
    Ok(stat.lives)
}

struct Stat {
    lives: bool,
    /// One of the kernel's own.
    is_kernels: bool,
    parent: i32,
    started: u64,
    environment: Environment,
}

/// Of a process that shows none.
enum Environment {
    /// It has none, for good.
    Empty,
    /// It is dying.
    Dying,
    /// Its first thread has ended, and others have not, who can be asked.
    OfOthers,
    /// It is in the middle of an exec, or was so a moment ago.
    Unsettled,
}

/// `None` if it is gone. An error means that it could not be asked.
fn stat(id: i32, buffer: &mut Vec<u8>) -> io::Result<Option<Stat>> {
    match read(&format!("/proc/{id}/stat"), buffer) {
        Ok(()) => Ok(parse(buffer)),
        // The latter two are said of what is hidden (`hidepid`), which is another user's.
        Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(stat: &[u8]) -> Option<Stat> {
    // The name, in brackets, may contain anything.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // By their numbers in proc_pid_stat(5), of which the next is 5.
    let flags: u64 = fields.nth(9 - 5)?.parse().ok()?;
    let threads: u32 = fields.nth(20 - 10)?.parse().ok()?;
    let started = fields.nth(22 - 21)?.parse().ok()?;
    let code: u64 = fields.nth(26 - 23)?.parse().ok()?;
    let from: u64 = fields.nth(50 - 27)?.parse().ok()?;
    let to: u64 = fields.next()?.parse().ok()?;
    // The first of several threads may have ended, and the process go on.
    let lives = !matches!(state, "Z" | "X") || threads > 1;
    // An exec sets these in this order: where the environment begins, and ends, for the time being, at the same
    // place; where it ends; where the code is.
    let environment = match () {
        () if flags & PF_EXITING != 0 && threads > 1 => Environment::OfOthers,
        () if flags & PF_EXITING != 0 => Environment::Dying,
        () if code != 0 && from == to => Environment::Empty,
        () => Environment::Unsettled,
    };
    Some(Stat { lives, is_kernels: flags & PF_KTHREAD != 0, parent, started, environment })
}

/// `linux/sched.h`.
const PF_EXITING: u64 = 0x0000_0004;
const PF_KTHREAD: u64 = 0x0020_0000;

/// Reads a whole file of `/proc`, in one system call: between two of them the process may execute another
/// program, and the rest of what it has shown is gone.
fn read(path: &str, buffer: &mut Vec<u8>) -> rustix::io::Result<()> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.reserve(4096);
    loop {
        buffer.clear();
        let room = buffer.capacity();
        match rustix::io::pread(&file, rustix::buffer::spare_capacity(buffer), 0) {
            // These files are short only at their end.
            Ok(read) if read < room => return Ok(()),
            Ok(_) => buffer.reserve(2 * room),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the environment of whoever has this ID has the cookie.
///
/// In the middle of an exec a process shows no environment, though it has had one and will have one again; nor
/// does one that is dying. It is told from one whose environment is empty by what its memory is known to hold so
/// far. So look again: at the dying until it is likely that they are dead, since nobody is to be missed who still
/// seems to live, and it matters little; at others until then, since an exec can wait for a disk, or for its turn
/// on a busy machine, and who does one exec after the other may be in one whenever it is looked at. (It may also
/// wait for ever, for a disk that is gone. So whoever looks at many has one patience for all of them.)
pub(in super::super) fn carries(id: i32, cookie: &Cookie, patience: Instant) -> io::Result<bool> {
    const AN_END: Duration = Duration::from_millis(80);
    let an_end = Instant::now() + AN_END;
    let mut buffer = Vec::new();
    let mut pause = Backoff::new();
    loop {
        let is_hidden = match read(&format!("/proc/{id}/environ"), &mut buffer) {
            Ok(()) if !buffer.is_empty() => return Ok(cookie.is_in(&buffer)),
            // The latter is said of one that is dying, or whose first thread is.
            Ok(()) | Err(Errno::SRCH) => false,
            // Another user's, as all is that has no memory any more.
            Err(Errno::ACCESS | Errno::PERM) => true,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let until = match stat(id, &mut buffer)? {
            Some(Stat { lives: true, environment: Environment::OfOthers, .. })
                if read_of_a_thread(id, &mut buffer) =>
            {
                return Ok(cookie.is_in(&buffer));
            }
            Some(Stat { lives: true, environment: Environment::Unsettled, .. }) if !is_hidden => {
                patience.max(an_end)
            }
            Some(Stat { lives: true, environment: Environment::Dying, .. })
            | Some(Stat { lives: true, environment: Environment::OfOthers, .. }) => an_end,
            _ => return Ok(false),
        };
        if !pause.sleep(Some(until)) {
            return Ok(false);
        }
    }
}

/// Reads the environment as one of the other threads shows it. Says whether one does.
fn read_of_a_thread(id: i32, buffer: &mut Vec<u8>) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut environments = threads.filter_map(|thread| {
        let path = thread.path().join("environ").into_os_string().into_string().ok()?;
        Some(read(&path, buffer).is_ok() && !buffer.is_empty())
    });
    environments.any(|shown| shown)
}

#[derive(Debug)]
pub(in super::super) struct Held {
    id: Pid,
    by: By,
}

#[derive(Debug)]
enum By {
    Pidfd(OwnedFd),
    /// The time when it started, where there is no pidfd to be had. For an ID to come round within one
    /// tick, all others must be handed out in 10 ms.
    Start(u64),
}

impl Held {
    /// `None` if there is no such process.
    pub(in super::super) fn open(id: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(id) else { return Ok(None) };
        match pidfd(pid) {
            Ok(fd) => return Ok(Some(Self { id: pid, by: By::Pidfd(fd) })),
            // The latter two are said of threads.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(_) => {}
        }
        Self::open_by_start(pid)
    }

    fn open_by_start(id: Pid) -> io::Result<Option<Self>> {
        let stat = stat(id.as_raw_nonzero().get(), &mut Vec::new())?;
        Ok(stat.map(|stat| Self { id, by: By::Start(stat.started) }))
    }

    /// Not with the last two descriptors: a directory must be listed, and what is in it be read, while this one is held.
    pub(in super::super) fn kept(self) -> io::Result<Option<Self>> {
        use rustix::io::fcntl_dupfd_cloexec as dup;
        match &self.by {
            By::Pidfd(fd) if dup(fd, 0).and_then(|_one| dup(fd, 0)).is_err() => {
                let id = self.id;
                drop(self);
                Self::open_by_start(id)
            }
            By::Pidfd(_) | By::Start(_) => Ok(Some(self)),
        }
    }

    pub(in super::super) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    pub(in super::super) fn parent(&self) -> io::Result<Option<i32>> {
        Ok(self.stat()?.map(|stat| stat.parent))
    }

    /// Whether it had started by then, for certain.
    pub(in super::super) fn is_older_than(&self, since: Since) -> io::Result<bool> {
        Ok(self.stat()?.is_some_and(|stat| stat.started < since.0))
    }

    pub(in super::super) fn group(&self) -> Option<i32> {
        group_of(self.id())
    }

    /// Neither gone nor a zombie, as far as can be told.
    pub(in super::super) fn lives(&self) -> bool {
        self.is_known_to_live().unwrap_or(true)
    }

    fn is_known_to_live(&self) -> io::Result<bool> {
        match &self.by {
            By::Pidfd(fd) => {
                match exit::try_poll(fd.as_fd(), PollFlags::IN, Some(Instant::now())) {
                    Ok(ended) => Ok(!ended),
                    // Refused. What the ID tells is about this one, if that is still there afterwards.
                    Err(_) => Ok(self.stat()?.is_some_and(|stat| stat.lives) && is_there(fd)),
                }
            }
            By::Start(started) => {
                Ok(self.stat()?.is_some_and(|stat| stat.lives && stat.started == *started))
            }
        }
    }

    /// To one that is gone this does nothing.
    pub(in super::super) fn signal(&self, signal: c_int) -> io::Result<()> {
        if matches!(&self.by, By::Pidfd(fd) if send(fd, signal).is_ok()) {
            return Ok(());
        }
        // It may not be allowed to signal it; or to use the pidfd for it. By its ID then, which is its own
        // if it lives; between asking and acting lies a moment.
        if self.is_known_to_live()? { exit::signal_by_pid(self.id, signal) } else { Ok(()) }
    }

    /// Blocks until it lives no more (`true`), or until the deadline.
    pub(in super::super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut pause = Backoff::new();
        loop {
            if matches!(&self.by, By::Pidfd(fd) if !exit::poll_readable(fd.as_fd(), deadline)) {
                return false;
            }
            // Not so where `poll` is refused.
            if !self.lives() {
                return true;
            }
            if !pause.sleep(deadline) {
                return false;
            }
        }
    }

    fn stat(&self) -> io::Result<Option<Stat>> {
        stat(self.id(), &mut Vec::new())
    }
}

/// Living, or a zombie.
fn is_there(fd: &OwnedFd) -> bool {
    !send(fd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

#[cfg(target_os = "linux")]
fn pidfd(id: Pid) -> rustix::io::Result<OwnedFd> {
    rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty())
}

#[cfg(target_os = "linux")]
fn send(fd: &OwnedFd, signal: c_int) -> io::Result<()> {
    exit::send_by_pidfd(std::os::fd::AsRawFd::as_raw_fd(fd), signal, 0)
}

#[cfg(target_os = "android")]
fn send(_: &OwnedFd, _: c_int) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "android")]
fn pidfd(_: Pid) -> rustix::io::Result<OwnedFd> {
    Err(Errno::NOSYS)
}
