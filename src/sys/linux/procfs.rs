//! Linux and Android: `/proc`.
//!
//! A list reads `stat` of each process (about 14 µs), and a search for a marker reads `environ` of the processes that
//! remain (18 µs more). So the cheap checks come first: `getpgid` (a fraction of a microsecond) finds the members of
//! the groups, and the start time excludes most other processes.
//!
//! Sources: proc(5), proc_pid_stat(5), proc_pid_environ(5), proc_loadavg(5).

use crate::sys::unix::by_pid::{Identity, Pid};
use crate::sys::unix::process_table::{
    self, Environment, Groups, Listing, ProcessTable, Record, Since, Time, group_of,
};
use crate::sys::unix::syscall;
use crate::sys::unix::system::Same;
use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

pub(crate) struct Procfs;

impl ProcessTable for Procfs {
    fn check(&self) -> Result<(), &'static str> {
        if usable() { Ok(()) } else { Err("there is no /proc of this PID namespace") }
    }

    /// Returns clock ticks since the machine was booted.
    fn now(&self) -> Time {
        let now = syscall::clock(libc::CLOCK_BOOTTIME);
        let hertz = syscall::clock_ticks_per_second();
        let ticks = now.as_secs() * hertz + u64::from(now.subsec_nanos()) * hertz / 1_000_000_000;
        // Subtract 1, because the kernel may round differently.
        Time(ticks.saturating_sub(1) as i64)
    }

    fn record(&self, id: i32) -> io::Result<Option<Record>> {
        Ok(stat(id, &mut Vec::new())?.map(|stat| stat.record))
    }

    fn list(&self, groups: &Groups, since: Since) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut buffer = Vec::new();
        for entry in fs::read_dir("/proc")? {
            if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                add(id, groups, since, &mut buffer, &mut listing)?;
            }
        }
        Ok(listing)
    }

    /// Returns the newest ID: each PID namespace hands out IDs in turn.
    fn newest(&self) -> Option<i32> {
        let mut buffer = Vec::new();
        read("/proc/loadavg", &mut buffer).ok()?;
        let newest = std::str::from_utf8(&buffer).ok()?.split_ascii_whitespace().last()?;
        // An emulated `/proc` may report 0.
        newest.parse().ok().filter(|id| *id > 0)
    }

    fn list_new(
        &self,
        groups: &Groups,
        since: Since,
        after: i32,
        newest: i32,
    ) -> io::Result<Listing> {
        /// The number of IDs above which reading the list of all processes costs less.
        const MANY: usize = 50_000;
        // Process IDs wrap around.
        let (end, start) = if after <= newest { (newest, newest + 1) } else { (largest_id(), 1) };
        let new = (after + 1..=end).chain(start..=newest);
        if new.size_hint().0 > MANY {
            return process_table::list(groups, since);
        }
        let mut listing = Listing::default();
        let mut buffer = Vec::new();
        for id in new {
            listing.has_ended |= !add(id, groups, since, &mut buffer, &mut listing)?;
        }
        Ok(listing)
    }

    fn has_environments(&self) -> bool {
        true
    }

    /// Reads the environment. A process shows none in the middle of an exec, although it had one and will have one
    /// again. A process that is exiting, or that has unmapped its environment, shows none either. The memory that
    /// `stat` reports distinguishes these from a process whose environment is empty.
    fn environment(&self, id: i32, buffer: &mut Vec<u8>) -> io::Result<Environment> {
        let is_hidden = match read(&format!("/proc/{id}/environ"), buffer) {
            Ok(()) if !buffer.is_empty() => return Ok(Environment::Shown),
            // ESRCH: the process, or its first thread, is exiting.
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ESRCH) => false,
                // A process of another user, a process that is not dumpable, and every process without memory.
                Some(libc::EACCES | libc::EPERM) => true,
                Some(libc::ENOENT) => return Ok(Environment::Missing),
                _ => return Err(error),
            },
        };
        Ok(match stat(id, buffer)? {
            Some(Stat { record: Record { lives: true, .. }, memory, .. }) => match memory {
                Memory::OfOtherThreads if read_of_a_thread(id, buffer) => Environment::Shown,
                Memory::Released | Memory::OfOtherThreads => Environment::Exiting,
                _ if is_hidden => Environment::Hidden,
                Memory::WithoutEnvironment => Environment::Empty,
                Memory::Unsettled => Environment::Unsettled,
            },
            // `hidepid`: the process exists, and the kernel hides it.
            None if is_hidden => Environment::Hidden,
            _ => Environment::Missing,
        })
    }

    /// Returns the ancestors of this process, which may be subreapers (prctl(2)), the init process of the PID
    /// namespace, and this process itself if it is a subreaper.
    fn adopters(&self) -> Vec<i32> {
        let mut adopters = vec![1];
        if is_subreaper() {
            adopters.push(std::process::id() as i32);
        }
        let mut id = std::os::unix::process::parent_id() as i32;
        let mut buffer = Vec::new();
        // The parent of the namespace's first process is 0. (The limit is for a table that changes meanwhile.)
        while id > 1 && adopters.len() < 1000 {
            adopters.push(id);
            id = stat(id, &mut buffer).ok().flatten().map_or(0, |stat| stat.record.parent);
        }
        adopters
    }

    /// Compares the files of proc(5) that every process may read.
    fn may_descend_from(&self, id: i32, leader: i32) -> bool {
        // A member is in the control groups and the audit session of this process, unless it was moved.
        ["cgroup", "loginuid", "sessionid"].iter().all(|file| is_like_ours(id, file))
            && may_change_its_user(id, leader)
    }
}

/// Returns whether there is a `/proc`, and it is that of this process's PID namespace.
fn usable() -> bool {
    let me = fs::read_link("/proc/self").ok();
    me.and_then(|me| me.to_str()?.parse().ok()) == Some(std::process::id())
}

fn largest_id() -> i32 {
    let mut buffer = Vec::new();
    read("/proc/sys/kernel/pid_max", &mut buffer)
        .ok()
        .and_then(|()| std::str::from_utf8(&buffer).ok()?.trim().parse().ok())
        // The largest value that the kernel allows.
        .unwrap_or(1 << 22)
}

/// Adds a process to the listing. Returns whether the process lives.
///
/// `getpgid` comes first: it costs a fraction of a microsecond, and reading `stat` costs 14.
fn add(
    id: i32,
    groups: &Groups,
    since: Since,
    buffer: &mut Vec<u8>,
    listing: &mut Listing,
) -> io::Result<bool> {
    if let Some(tree) = group_of(id).and_then(|group| groups.get(&group)) {
        listing.grouped.push((id, *tree));
        return Ok(true);
    }
    let Some(Stat { record, is_kernels, .. }) = stat(id, buffer)? else { return Ok(false) };
    if record.lives && !is_kernels && record.may_belong(since) && id != std::process::id() as i32 {
        listing.others.push(record);
    }
    Ok(record.lives)
}

struct Stat {
    record: Record,
    /// Whether it is a thread of the kernel.
    is_kernels: bool,
    memory: Memory,
}

/// The memory that would hold the environment, according to `stat`.
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

/// Reads `stat`. `None` if there is no such process, or if it is hidden. An error means that `stat` could not be read.
fn stat(id: i32, buffer: &mut Vec<u8>) -> io::Result<Option<Stat>> {
    match read(&format!("/proc/{id}/stat"), buffer) {
        Ok(()) => Ok(parse(id, buffer)),
        Err(error) => match error.raw_os_error() {
            // EACCES and EPERM: a process of another user is hidden (`hidepid`).
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM) => Ok(None),
            _ => Err(error),
        },
    }
}

fn parse(id: i32, stat: &[u8]) -> Option<Stat> {
    // The name, in brackets, may contain anything.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // The numbers are those of proc_pid_stat(5). The next is 6.
    let flags: u64 = fields.nth(9 - 6)?.parse().ok()?;
    let threads: u32 = fields.nth(20 - 10)?.parse().ok()?;
    let started = Some(Time(fields.nth(22 - 21)?.parse().ok()?));
    let code: u64 = fields.nth(26 - 23)?.parse().ok()?;
    let from: u64 = fields.nth(50 - 27)?.parse().ok()?;
    let to: u64 = fields.next()?.parse().ok()?;
    // The first of several threads may have ended while the process continues.
    let lives = !matches!(state, "Z" | "X") || threads > 1;
    // An exec sets in this order: the start and the end of the environment, at first to the same place; the end; the
    // start of the code.
    let memory = match () {
        () if flags & PF_EXITING != 0 && threads > 1 => Memory::OfOtherThreads,
        () if flags & PF_EXITING != 0 => Memory::Released,
        () if code != 0 && from == to => Memory::WithoutEnvironment,
        () => Memory::Unsettled,
    };
    let record = Record { id, parent, group, lives, started, must_be_young: true };
    Some(Stat { record, is_kernels: flags & PF_KTHREAD != 0, memory })
}

/// `linux/sched.h`.
const PF_EXITING: u64 = 0x0000_0004;
const PF_KTHREAD: u64 = 0x0020_0000;

/// The longest file that is read here. Only the environment of a process that shows other memory as its environment
/// (PR_SET_MM_MAP of prctl(2)) is longer; execve(2) allows 6 MiB.
const LONGEST: usize = 8 << 20;

/// Reads a whole file of `/proc` in one system call: between two calls the process may execute another program, whose
/// file differs.
fn read(path: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    buffer.reserve(4096);
    loop {
        buffer.clear();
        let room = buffer.capacity();
        match syscall::read_start(&file, buffer) {
            // A read of these files is short only at their end.
            Ok(read) if read < room || room >= LONGEST => return Ok(()),
            Ok(_) => buffer.reserve(2 * room),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the environment as another thread of the process shows it. Returns whether a thread shows it.
fn read_of_a_thread(id: i32, buffer: &mut Vec<u8>) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut environments = threads.filter_map(|thread| {
        let path = thread.path().join("environ").into_os_string().into_string().ok()?;
        Some(read(&path, buffer).is_ok() && !buffer.is_empty())
    });
    environments.any(|shown| shown)
}

fn is_subreaper() -> bool {
    let mut answer: c_int = 0;
    // SAFETY: PR_GET_CHILD_SUBREAPER writes one integer, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut answer, 0, 0, 0) };
    result == 0 && answer != 0
}

fn is_like_ours(id: i32, file: &str) -> bool {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let both = read(&format!("/proc/{id}/{file}"), &mut theirs)
        .and_then(|()| read(&format!("/proc/self/{file}"), &mut ours));
    // Some kernels lack a file.
    both.is_err() || theirs == ours
}

/// Returns whether a process has the user of the leader, or could have changed it: by a program with set-user-ID, which
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

/// An open directory below `/proc`: it means one process and never another. Every call on it fails once its process has
/// been reaped, even if another process has the ID (proc(5)).
#[derive(Debug)]
struct ProcDirectory {
    directory: File,
    pid: Pid,
}

/// Opens the directory of this process ID. `None` if there is no `/proc`, if no descriptor is spare, or if this is the
/// `/proc` of another PID namespace, where the same IDs mean other processes.
pub(crate) fn identity_of(pid: Pid) -> Option<Box<dyn Identity>> {
    if !usable() {
        return None;
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = File::options().read(true).custom_flags(flags).open(path(pid)).ok()?;
    Some(Box::new(ProcDirectory { directory, pid }))
}

impl Identity for ProcDirectory {
    fn check(&self) -> Same {
        let is_there = || has_stat(&self.directory);
        let is_taken = || fs::exists(path(self.pid) + "/stat").unwrap_or(false);
        if is_there() {
            Same::Yes
        } else if is_taken() && !is_there() {
            // Check again: the process may have been hidden at the first check, as below, and be visible now.
            Same::No
        } else {
            // The process was reaped and the ID is free, or it is hidden (`hidepid`, and the child has changed its
            // user). `waitid` decides.
            Same::Unknown
        }
    }
}

fn path(pid: Pid) -> String {
    format!("/proc/{}", pid.get())
}

fn has_stat(directory: &File) -> bool {
    // SAFETY: the name outlives the call.
    unsafe { libc::faccessat(directory.as_raw_fd(), c"stat".as_ptr(), libc::F_OK, 0) == 0 }
}
