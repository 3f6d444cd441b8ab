//! Linux: `/proc`, and a pidfd for a process that is held.
//!
//! A census reads `stat` of each process (about 14 µs), and a search for a marker reads `environ` of those that remain
//! (18 µs more). So the cheap checks come first: `getpgid` (a fraction of a microsecond) finds the members of the groups,
//! and the start time sorts out most of the others.
//!
//! Sources: proc_pid_stat(5), proc_pid_environ(5), pidfd_open(2).

use super::{Census, Environment, Groups, count_pass, group_of, not_told};
use crate::backoff::Backoff;
use crate::sys;
use crate::sys::unix::by_pid::Pid;
use rustix::event::PollFlags;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

pub(in super::super) const READS_ENVIRONMENTS: bool = true;

/// Whether `/proc` is there, and is that of this process's PID namespace.
pub(in super::super) fn usable() -> bool {
    let me = readlinkat(CWD, "/proc/self", Vec::new()).ok();
    me.and_then(|me| me.to_str().ok()?.parse().ok()) == Some(std::process::id())
}

/// In clock ticks since the machine was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

pub(in super::super) fn census(groups: &Groups, since: Since) -> io::Result<Census> {
    if !usable() {
        return Err(not_told("there is no /proc of this PID namespace"));
    }
    count_pass();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = Dir::read_from(openat(CWD, "/proc", flags, Mode::empty())?)?;
    let mut census = Census::default();
    let mut buffer = Vec::new();
    for entry in list {
        if let Some(id) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            take(id, groups, since, &mut buffer, &mut census)?;
        }
    }
    Ok(census)
}

/// The same for the processes whose IDs were handed out after `after`, up to and including `newest`.
pub(in super::super) fn census_of_new(
    groups: &Groups,
    since: Since,
    after: i32,
    newest: i32,
) -> io::Result<Census> {
    /// For more IDs than this, reading the list of all processes costs less.
    const MANY: usize = 50_000;
    // Process IDs wrap around.
    let (end, start) = if after <= newest { (newest, newest + 1) } else { (largest_id(), 1) };
    let new = (after + 1..=end).chain(start..=newest);
    if new.size_hint().0 > MANY {
        return census(groups, since);
    }
    let mut census = Census::default();
    let mut buffer = Vec::new();
    for id in new {
        census.gone |= !take(id, groups, since, &mut buffer, &mut census)?;
    }
    Ok(census)
}

fn largest_id() -> i32 {
    let mut buffer = Vec::new();
    read("/proc/sys/kernel/pid_max", &mut buffer)
        .ok()
        .and_then(|()| std::str::from_utf8(&buffer).ok()?.trim().parse().ok())
        // The largest value that the kernel allows.
        .unwrap_or(1 << 22)
}

/// Adds a process to the census. Returns whether it lives.
///
/// `getpgid` comes first: it costs a fraction of a microsecond, and reading `stat` costs 14.
fn take(
    id: i32,
    groups: &Groups,
    since: Since,
    buffer: &mut Vec<u8>,
    census: &mut Census,
) -> io::Result<bool> {
    if let Some(tree) = group_of(id).and_then(|group| groups.get(&group)) {
        census.grouped.push((id, *tree));
        return Ok(true);
    }
    let Some(stat) = stat(id, buffer)? else { return Ok(false) };
    if stat.lives && !stat.is_kernels && stat.started >= since.0 && id != std::process::id() as i32
    {
        census.others.push(Other { id, parent: stat.parent, started: stat.started });
    }
    Ok(stat.lives)
}

/// A process that is in none of the groups, as the census saw it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Other {
    pub(in super::super) id: i32,
    pub(in super::super) parent: i32,
    started: u64,
}

impl Other {
    /// Whether the process is young enough to belong to a tree that was spawned then.
    pub(in super::super) fn may_belong(&self, since: Since) -> bool {
        self.started >= since.0
    }

    /// What tells this process from the next owner of its ID, for a set of processes.
    pub(in super::super) fn key(&self) -> (i32, u64) {
        (self.id, self.started)
    }
}

struct Stat {
    lives: bool,
    /// One of the kernel's own.
    is_kernels: bool,
    parent: i32,
    started: u64,
    memory: Memory,
}

/// What `stat` says of the memory that would hold the environment.
enum Memory {
    /// The process runs a program, and its environment is empty.
    WithoutEnvironment,
    /// The process is exiting and has released its memory.
    Released,
    /// The first thread has ended. The other threads still show the environment.
    OfOtherThreads,
    /// The process is in the middle of an exec, or its environment is no longer mapped.
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
    let memory = match () {
        () if flags & PF_EXITING != 0 && threads > 1 => Memory::OfOtherThreads,
        () if flags & PF_EXITING != 0 => Memory::Released,
        () if code != 0 && from == to => Memory::WithoutEnvironment,
        () => Memory::Unsettled,
    };
    Some(Stat { lives, is_kernels: flags & PF_KTHREAD != 0, parent, started, memory })
}

/// `linux/sched.h`.
const PF_EXITING: u64 = 0x0000_0004;
const PF_KTHREAD: u64 = 0x0020_0000;

/// No file that is read here is longer, but for the environment of a process that shows other memory as its environment
/// (PR_SET_MM_MAP of prctl(2)): as much as it likes. execve(2) allows 6 MiB.
const LONGEST: usize = 8 << 20;

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
            Ok(read) if read < room || room >= LONGEST => return Ok(()),
            Ok(_) => buffer.reserve(2 * room),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the environment of the process that has this ID now into the buffer.
///
/// A process shows no environment in the middle of an exec, although it had one and will have one again. Nor does a
/// process that is exiting, nor one that has unmapped its environment. What the kernel says of its memory tells these
/// from a process whose environment is empty.
pub(in super::super) fn environment(id: i32, buffer: &mut Vec<u8>) -> io::Result<Environment> {
    let is_hidden = match read(&format!("/proc/{id}/environ"), buffer) {
        Ok(()) if !buffer.is_empty() => return Ok(Environment::Shown),
        // ESRCH: the process, or its first thread, is exiting.
        Ok(()) | Err(Errno::SRCH) => false,
        // A process of another user, one that is not dumpable, and every process without memory.
        Err(Errno::ACCESS | Errno::PERM) => true,
        Err(Errno::NOENT) => return Ok(Environment::Gone),
        Err(error) => return Err(error.into()),
    };
    Ok(match stat(id, buffer)? {
        Some(Stat { lives: true, memory, .. }) => match memory {
            Memory::OfOtherThreads if read_of_a_thread(id, buffer) => Environment::Shown,
            Memory::Released | Memory::OfOtherThreads => Environment::Exiting,
            _ if is_hidden => Environment::Hidden,
            Memory::WithoutEnvironment => Environment::Empty,
            Memory::Unsettled => Environment::Unsettled,
        },
        // `hidepid`: the process is there, and the kernel hides it.
        None if is_hidden => Environment::Hidden,
        _ => Environment::Gone,
    })
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

    /// What identifies the process without a descriptor. `None` if it has been reaped.
    pub(in super::super) fn process(&self) -> io::Result<Option<Process>> {
        let serial = match &self.by {
            By::Pidfd(fd) => serial(fd),
            By::Start(_) => None,
        };
        let started = match &self.by {
            By::Start(started) => *started,
            By::Pidfd(_) => match self.stat()? {
                Some(stat) => stat.started,
                None => return Ok(None),
            },
        };
        Ok(Some(Process { id: self.id, started, serial }))
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
                match sys::try_poll(fd.as_fd(), PollFlags::IN, Some(Instant::now())) {
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
        if self.is_known_to_live()? { sys::signal_by_pid(self.id, signal) } else { Ok(()) }
    }

    /// Blocks until it lives no more (`true`), or until the deadline.
    pub(in super::super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut pause = Backoff::new();
        loop {
            if matches!(&self.by, By::Pidfd(fd) if !sys::poll_readable(fd.as_fd(), deadline)) {
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

/// One process, identified without a descriptor, so that any number can be remembered.
///
/// The ID alone may get a new owner. The start time tells owners apart unless all other IDs are handed out within one
/// tick of 10 ms. From Linux 6.9 on, the inode of a pidfd tells them apart in any case: the kernel gives every process
/// another one.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    id: Pid,
    started: u64,
    serial: Option<u64>,
}

impl Process {
    pub(in super::super) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Opens the process. `None` if it has been reaped.
    pub(in super::super) fn hold(&self) -> io::Result<Option<Held>> {
        let Some(held) = Held::open(self.id())? else { return Ok(None) };
        let same = match (&held.by, self.serial) {
            (By::Pidfd(fd), Some(serial)) => self::serial(fd) == Some(serial),
            (By::Pidfd(_), None) => held.stat()?.is_some_and(|stat| stat.started == self.started),
            (By::Start(started), _) => *started == self.started,
        };
        Ok(same.then_some(held))
    }

    /// Whether the process is neither gone nor a zombie. A process that cannot be read counts as living.
    pub(in super::super) fn lives(&self) -> bool {
        self.hold().map_or(true, |held| held.is_some_and(|held| held.lives()))
    }

    /// A descriptor that becomes readable when the process ends. `None` if there is none to be had, or no such process.
    pub(in super::super) fn exit_descriptor(&self) -> Option<Box<dyn AsFd + Send>> {
        match self.hold().ok()??.by {
            By::Pidfd(fd) => Some(Box::new(fd)),
            By::Start(_) => None,
        }
    }

    /// Blocks until the process has ended (`true`), or until the deadline.
    pub(in super::super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut pause = Backoff::new();
        loop {
            match self.hold() {
                Ok(None) => return true,
                Ok(Some(held)) => return held.wait(deadline),
                // No descriptor is to be had.
                Err(_) if !pause.sleep(deadline) => return false,
                Err(_) => {}
            }
        }
    }
}

/// A number that the kernel gives to one process and to no other until the next boot. `None` before Linux 6.9, where all
/// pidfds have the same inode.
fn serial(fd: &OwnedFd) -> Option<u64> {
    /// `PID_FS_MAGIC` of `linux/magic.h`.
    const PIDFS: u64 = 0x5049_4446;
    let is_pidfs = rustix::fs::fstatfs(fd).ok()?.f_type as u64 == PIDFS;
    #[allow(clippy::useless_conversion, reason = "on some systems it is narrower")]
    is_pidfs.then(|| rustix::fs::fstat(fd).ok().map(|stat| u64::from(stat.st_ino))).flatten()
}

/// The processes that may have become the parents of orphaned members: the ancestors of this process, which may be
/// subreapers (prctl(2)), the init process of the PID namespace, and this process itself if it is a subreaper.
pub(in super::super) fn adopters() -> Vec<i32> {
    let mut adopters = vec![1];
    if is_subreaper() {
        adopters.push(std::process::id() as i32);
    }
    let mut id = std::os::unix::process::parent_id() as i32;
    let mut buffer = Vec::new();
    // The parent of the namespace's first process is 0. (The limit is for a list that changes meanwhile.)
    while id > 1 && adopters.len() < 1000 {
        adopters.push(id);
        id = stat(id, &mut buffer).ok().flatten().map_or(0, |stat| stat.parent);
    }
    adopters
}

#[cfg(target_os = "linux")]
fn is_subreaper() -> bool {
    let mut answer: c_int = 0;
    // SAFETY: PR_GET_CHILD_SUBREAPER writes one integer, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut answer, 0, 0, 0) };
    result == 0 && answer != 0
}

#[cfg(target_os = "android")]
fn is_subreaper() -> bool {
    false
}

/// Whether an orphan that this process cannot read may come from the tree of this leader, as far as the files of
/// proc(5) tell that every process may read.
pub(in super::super) fn may_descend_from(id: i32, leader: i32) -> bool {
    // A member is in the control groups of this process, and in its audit session, unless it was moved.
    ["cgroup", "loginuid", "sessionid"].iter().all(|file| is_like_ours(id, file))
        && may_change_its_user(id, leader)
}

fn is_like_ours(id: i32, file: &str) -> bool {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let both = read(&format!("/proc/{id}/{file}"), &mut theirs)
        .and_then(|()| read(&format!("/proc/self/{file}"), &mut ours));
    // Some kernels lack a file.
    both.is_err() || theirs == ours
}

/// Whether a process has the user of the leader, or could have changed it: by a program with set-user-ID, which
/// no_new_privs rules out for good (prctl(2)), or by a capability.
fn may_change_its_user(id: i32, leader: i32) -> bool {
    let field = |status: &[u8], name: &str| {
        let mut lines = std::str::from_utf8(status).ok()?.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    };
    let (mut theirs, mut leaders) = (Vec::new(), Vec::new());
    let both = read(&format!("/proc/{id}/status"), &mut theirs)
        .and_then(|()| read(&format!("/proc/{leader}/status"), &mut leaders));
    let is_bound = both.is_ok()
        && field(&leaders, "NoNewPrivs:").as_deref() == Some("1")
        && field(&leaders, "CapPrm:").is_some_and(|set| set.bytes().all(|digit| digit == b'0'));
    !is_bound || field(&theirs, "Uid:") == field(&leaders, "Uid:")
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
    sys::send_by_pidfd(std::os::fd::AsRawFd::as_raw_fd(fd), signal, 0)
}

#[cfg(target_os = "android")]
fn send(_: &OwnedFd, _: c_int) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "android")]
fn pidfd(_: Pid) -> rustix::io::Result<OwnedFd> {
    Err(Errno::NOSYS)
}
