//! Linux and Android: `/proc`.
//!
//! A list reads `stat` of each process (about 14 µs), and a search for a marker reads `environ` of the processes that
//! remain (18 µs more). So the cheap checks come first: `getpgid` (a fraction of a microsecond) finds the members of
//! the groups, and the start time excludes most other processes.
//!
//! The guardian uses [`each_process`], [`stat`], [`environment`] and [`is_genuine`] in the child of a fork (see
//! `proc_file.rs`).
//!
//! Sources: proc(5), proc_pid_stat(5), proc_pid_environ(5), proc_loadavg(5).

use super::proc_file::{
    Text, Words, each_name, each_part, field, in_base, is_on, number, open, process_id, read_once,
};
use crate::sys::unix::by_pid::{Identity, Pid};
use crate::sys::unix::process_table::{
    Environment, Groups, Listing, ProcessTable, Record, Time, group_of,
};
use crate::sys::unix::syscall;
use crate::sys::unix::system::Same;
use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) struct Procfs;

impl ProcessTable for Procfs {
    fn check(&self) -> Result<(), &'static str> {
        if is_usable() { Ok(()) } else { Err("there is no /proc of this PID namespace") }
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
        Ok(stat(id)?.map(|stat| stat.record))
    }

    /// Returns a number that changes with the clock ticks of the process, which the kernel rounds down, and while the
    /// process can run.
    fn cpu_time(&self, id: i32) -> Option<u64> {
        let mut buffer = [0; 1024];
        let text = read_once(path(id, b"/stat").path(), &mut buffer).ok()?;
        let (state, fields) = fields(text)?;
        // In user mode and in the kernel: of the process, and of the children that it has reaped.
        let mut sum: u64 = 0;
        for time in &fields[14..18] {
            sum = sum.wrapping_add(*time);
        }
        // On a busy machine a process may wait for a processor for any time. Then the number changes, too.
        if state == b"R" {
            sum = sum.wrapping_add(syscall::clock(libc::CLOCK_MONOTONIC).as_nanos() as u64);
        }
        Some(sum)
    }

    fn list(&self, groups: &Groups, since: Time, new: Option<(i32, i32)>) -> io::Result<Listing> {
        /// The number of IDs above which reading the list of all processes costs less.
        const MANY: i32 = 50_000;
        let mut listing = Listing::default();
        if let Some((after, newest)) = new {
            // Process IDs wrap around.
            let largest = if after <= newest { newest } else { largest_id().max(after) };
            let count = if after <= newest { newest - after } else { largest - after + newest };
            if count <= MANY {
                let mut id = after;
                for _ in 0..count {
                    id = if id < largest { id + 1 } else { 1 };
                    listing.has_ended |= !add(id, groups, since, &mut listing)?;
                }
                return Ok(listing);
            }
        }
        let mut result = Ok(true);
        each_process(&mut |id| {
            result = add(id, groups, since, &mut listing);
            result.is_ok()
        })?;
        result.map(|_| listing)
    }

    /// Returns the newest ID: each PID namespace hands out IDs in turn.
    fn newest(&self) -> Option<i32> {
        let mut buffer = [0; 256];
        let mut words = Words(read_once(c"/proc/loadavg", &mut buffer).ok()?);
        let mut last = words.next()?;
        while let Some(word) = words.next() {
            last = word;
        }
        // An emulated `/proc` may report 0.
        process_id(last)
    }

    fn has_environments(&self) -> bool {
        true
    }

    fn environment(
        &self,
        id: i32,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Environment> {
        environment(id, buffer, each)
    }

    /// Returns the ancestors of this process, which may be subreapers (prctl(2)), the init process of the PID
    /// namespace, and this process itself if it is a subreaper.
    fn adopters(&self) -> Vec<i32> {
        let mut adopters = vec![1];
        if is_subreaper() {
            adopters.push(std::process::id() as i32);
        }
        let mut id = std::os::unix::process::parent_id() as i32;
        // The parent of the namespace's first process is 0. (The limit is for a table that changes meanwhile.)
        while id > 1 && adopters.len() < 1000 {
            adopters.push(id);
            id = stat(id).ok().flatten().map_or(0, |stat| stat.record.parent);
        }
        adopters
    }

    /// Compares the files of proc(5) that every process may read.
    fn may_descend_from(&self, id: i32, leader: i32) -> bool {
        // A member is in the control groups and the audit session of this process, unless it was moved.
        is_like_ours(id, b"/cgroup")
            && is_like_ours(id, b"/loginuid")
            && is_like_ours(id, b"/sessionid")
            && may_change_its_user(id, leader)
    }
}

/// Returns whether there is a `/proc`, and it is that of this process's PID namespace.
fn is_usable() -> bool {
    let mut link = [0_u8; 16];
    // SAFETY: the path ends with a zero, and the buffer outlives the call.
    let length =
        unsafe { libc::readlink(c"/proc/self".as_ptr(), link.as_mut_ptr().cast(), link.len()) };
    let link = usize::try_from(length).ok().and_then(|length| link.get(..length));
    link.and_then(process_id) == Some(own_id())
}

fn own_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

/// Returns whether `/proc` is certainly that of this process's PID namespace. The IDs of another namespace mean other
/// processes, and this process's ID may be the same in two namespaces by chance.
pub(crate) fn is_genuine() -> bool {
    const PROC: u32 = 0x9fa0;
    let mut buffer = [0; 4096];
    let Ok(directory) = open(None, c"/proc", libc::O_DIRECTORY) else { return false };
    if !is_on(&directory, PROC) || !is_usable() {
        return false;
    }
    // This line has one ID for each namespace from that of `/proc` to that of this process.
    let status = read_once(c"/proc/self/status", &mut buffer).unwrap_or(&[]);
    let Some(line) = field(status, b"NSpid:") else { return true };
    let mut ids = Words(line);
    ids.next().and_then(process_id) == Some(own_id()) && ids.next().is_none()
}

fn largest_id() -> i32 {
    let mut buffer = [0; 64];
    let largest = read_once(c"/proc/sys/kernel/pid_max", &mut buffer);
    // The largest value that the kernel allows.
    largest.ok().and_then(|text| process_id(Words(text).next()?)).unwrap_or(1 << 22)
}

/// Calls the function for the ID of each process, until it returns `false`.
pub(crate) fn each_process(call: &mut dyn FnMut(i32) -> bool) -> io::Result<()> {
    let directory = open(None, c"/proc", libc::O_DIRECTORY)?;
    each_name(&directory, &mut |name| process_id(name.to_bytes()).is_none_or(&mut *call))
}

/// Adds a process to the listing. Returns whether the process lives.
///
/// `getpgid` comes first: it costs a fraction of a microsecond, and reading `stat` costs 14.
fn add(id: i32, groups: &Groups, since: Time, listing: &mut Listing) -> io::Result<bool> {
    if let Some(tree) = group_of(id).and_then(|group| groups.tree_of(group)) {
        listing.grouped.push((id, tree));
        return Ok(true);
    }
    let Some(Stat { record, is_kernels, .. }) = stat(id)? else { return Ok(false) };
    if record.lives && !is_kernels && record.may_belong(since) && id != own_id() {
        listing.others.push(record);
    }
    Ok(record.lives)
}

#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) record: Record,
    /// It is a thread of the kernel.
    pub(crate) is_kernels: bool,
    /// The first thread is exiting, or has ended.
    is_exiting: bool,
    threads: u64,
    /// The process runs a program, and its environment is empty.
    has_no_environment: bool,
}

impl Stat {
    /// Returns whether the whole process is exiting, and has released its memory.
    pub(crate) fn is_exiting(&self) -> bool {
        self.is_exiting && self.threads <= 1
    }
}

/// Reads `stat`. `None` if there is no such process, or if it is hidden. An error means that `stat` could not be read.
pub(crate) fn stat(id: i32) -> io::Result<Option<Stat>> {
    let mut buffer = [0; 1024];
    match read_once(path(id, b"/stat").path(), &mut buffer) {
        Ok(text) => Ok(parse(id, text)),
        // ACCES and PERM: a process of another user is hidden (`hidepid`).
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM) => Ok(None),
            _ => Err(error),
        },
    }
}

fn path(id: i32, file: &[u8]) -> Text {
    Text::of(b"/proc/").number(id).push(file)
}

/// Returns the state, and the fields of a `stat` from 4 on, by their numbers in the manual. A negative number counts as 0.
pub(crate) fn fields(stat: &[u8]) -> Option<(&[u8], [u64; 52])> {
    // The name may contain anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut words = Words(stat.get(end.wrapping_add(1)..)?);
    let state = words.next()?;
    let mut fields = [0; 52];
    for field in fields.iter_mut().skip(4) {
        *field = number(words.next()?).unwrap_or(0);
    }
    Some((state, fields))
}

fn parse(id: i32, stat: &[u8]) -> Option<Stat> {
    /// `linux/sched.h`.
    const PF_EXITING: u64 = 0x0000_0004;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let (state, fields) = fields(stat)?;
    let parent = i32::try_from(fields[4]).ok()?;
    // A group from outside the PID namespace is 0. An emulated `/proc` may report any value.
    let group = i32::try_from(fields[5]).unwrap_or(0);
    let (flags, threads) = (fields[9], fields[20]);
    let started = Some(Time(i64::try_from(fields[22]).ok()?));
    // The first of several threads may have ended while the process continues.
    let lives = !matches!(state, b"Z" | b"X") || threads > 1;
    Some(Stat {
        record: Record { id, parent, group, lives, started, must_be_young: true },
        is_kernels: flags & PF_KTHREAD != 0,
        is_exiting: flags & PF_EXITING != 0,
        threads,
        // An exec sets in this order: the start and the end of the environment, at first to the same place; the end;
        // the start of the code.
        has_no_environment: fields[26] != 0 && fields[50] == fields[51],
    })
}

/// See [`ProcessTable::environment`].
///
/// A process shows no environment in the middle of an exec, although it had one and will have one again. A process that
/// is exiting, or that has unmapped its environment, shows none either. The memory that `stat` reports distinguishes
/// these from a process whose environment is empty.
pub(crate) fn environment(
    id: i32,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<Environment> {
    let mut is_hidden = false;
    match each_variable(path(id, b"/environ").path(), buffer, each) {
        Ok(true) => return Ok(Environment::Shown),
        Ok(false) => {}
        Err(error) => match error.raw_os_error() {
            // The process, or its first thread, is exiting.
            Some(libc::ESRCH) => {}
            // A process of another user, a process that is not dumpable, and every process without memory.
            Some(libc::EACCES | libc::EPERM) => is_hidden = true,
            Some(libc::ENOENT) => return Ok(Environment::Missing),
            _ => return Err(error),
        },
    }
    Ok(match stat(id)? {
        Some(stat) if stat.record.lives => {
            // The first thread has ended. The other threads still show the environment.
            if stat.is_exiting && stat.threads > 1 && each_variable_of_a_thread(id, buffer, each) {
                Environment::Shown
            } else if stat.is_exiting {
                Environment::Exiting
            } else if is_hidden {
                Environment::Hidden
            } else if stat.has_no_environment {
                Environment::Empty
            } else {
                Environment::Unsettled
            }
        }
        // `hidepid`: the process exists, and the kernel hides it.
        None if is_hidden => Environment::Hidden,
        _ => Environment::Missing,
    })
}

/// Returns whether the whole environment was shown. An open file shows the program that the process ran when it was
/// opened, and is empty after the process has executed another one.
fn each_variable(path: &CStr, buffer: &mut [u8], each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    /// Only a process that shows other memory as its environment (PR_SET_MM_MAP of prctl(2)) shows more: execve(2)
    /// allows 6 MiB.
    const LONGEST: usize = 8 << 20;
    let file = open(None, path, 0)?;
    let size = buffer.len();
    let length = each_part(&file, 0, LONGEST, buffer, &mut |variable| {
        each(variable);
        true
    })?;
    if length < size {
        return Ok(length > 0);
    }
    let mut byte = 0_u8;
    // SAFETY: the byte outlives the call.
    Ok(unsafe { libc::pread(file.as_raw_fd(), (&raw mut byte).cast(), 1, 0) } == 1)
}

/// Reads the environment as another thread of the process shows it. Returns whether a thread shows it.
fn each_variable_of_a_thread(id: i32, buffer: &mut [u8], each: &mut dyn FnMut(&[u8])) -> bool {
    let tasks = path(id, b"/task/");
    let Ok(directory) = open(None, tasks.path(), libc::O_DIRECTORY) else { return false };
    let mut is_shown = false;
    // After an error, no thread shows it.
    let _ = each_name(&directory, &mut |name| {
        if let Some(thread) = process_id(name.to_bytes()) {
            let path = path(id, b"/task/").number(thread).push(b"/environ");
            is_shown = matches!(each_variable(path.path(), buffer, each), Ok(true));
        }
        !is_shown
    });
    is_shown
}

fn is_subreaper() -> bool {
    let mut answer: c_int = 0;
    // SAFETY: PR_GET_CHILD_SUBREAPER writes one integer, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut answer, 0, 0, 0) };
    result == 0 && answer != 0
}

fn is_like_ours(id: i32, file: &[u8]) -> bool {
    let (mut theirs, mut ours) = ([0; 4096], [0; 4096]);
    let theirs = read_once(path(id, file).path(), &mut theirs);
    let ours = read_once(Text::of(b"/proc/self").push(file).path(), &mut ours);
    // Some kernels lack a file.
    theirs.is_err() || ours.is_err() || theirs.ok() == ours.ok()
}

/// Returns whether a process has the user of the leader, or could have changed it: by a program with set-user-ID, which
/// no_new_privs rules out for good (prctl(2)), or by a capability.
fn may_change_its_user(id: i32, leader: i32) -> bool {
    let (mut theirs, mut leaders) = ([0; 4096], [0; 4096]);
    let theirs = read_once(path(id, b"/status").path(), &mut theirs).unwrap_or(&[]);
    let leaders = read_once(path(leader, b"/status").path(), &mut leaders).unwrap_or(&[]);
    let leaders_number = |name| in_base(16, Words(field(leaders, name)?).next()?);
    let is_bound = !theirs.is_empty()
        && leaders_number(b"NoNewPrivs:") == Some(1)
        && leaders_number(b"CapPrm:") == Some(0);
    !is_bound || field(theirs, b"Uid:") == field(leaders, b"Uid:")
}

/// An open directory below `/proc`: it means one process and never another. Every call on it fails once its process has
/// been reaped, even if another process has the ID (proc(5)).
#[derive(Debug)]
struct ProcDirectory {
    directory: OwnedFd,
    pid: Pid,
}

/// Opens the directory of this process ID. `None` if there is no `/proc`, if no descriptor is spare, or if this is the
/// `/proc` of another PID namespace, where the same IDs mean other processes.
pub(crate) fn identity_of(pid: Pid) -> Option<Box<dyn Identity>> {
    if !is_usable() {
        return None;
    }
    let path = path(pid.get(), b"");
    let directory = open(None, path.path(), libc::O_PATH | libc::O_DIRECTORY).ok()?;
    Some(Box::new(ProcDirectory { directory, pid }))
}

impl Identity for ProcDirectory {
    fn check(&self) -> Same {
        let is_there = || exists(self.directory.as_raw_fd(), c"stat");
        let taken = path(self.pid.get(), b"/stat");
        if is_there() {
            Same::Yes
        } else if exists(libc::AT_FDCWD, taken.path()) && !is_there() {
            // Check again: the process may have been hidden at the first check, as below, and be visible now.
            Same::No
        } else {
            // The process was reaped and the ID is free, or it is hidden (`hidepid`, and the child has changed its
            // user). `waitid` decides.
            Same::Unknown
        }
    }
}

fn exists(directory: c_int, path: &CStr) -> bool {
    // SAFETY: the path ends with a zero and outlives the call.
    unsafe { libc::faccessat(directory, path.as_ptr(), libc::F_OK, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::io::Write;

    #[test]
    fn an_environment_larger_than_the_buffer_is_read_to_its_end() {
        let path = std::env::temp_dir().join(format!("environment-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"A=1\0").unwrap();
        file.write_all(&[b'x'; 100_003]).unwrap();
        file.write_all(b"\0SHARED_CHILD_TREE=1,m\0Z=").unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        for size in [21, 22, 4096, 1 << 20] {
            let (mut variables, mut cut) = (Vec::new(), 0);
            let mut buffer = vec![0; size];
            let shown = each_variable(&path, &mut buffer, &mut |variable| match variable
                .starts_with(b"x")
            {
                true => cut = variable.len(),
                false => variables.push(variable.to_vec()),
            });
            assert!(shown.unwrap());
            assert_eq!(variables, [&b"A=1"[..], b"SHARED_CHILD_TREE=1,m", b"Z="], "{size}");
            assert!(cut == 100_003.min(size), "{cut} of {size}");
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
        assert!(each_variable(&path, &mut [0; 32], &mut |_| ()).is_err());
    }

    /// The thread runs, so the number changes before the next clock tick.
    #[test]
    fn cpu_time_of_a_runnable_task_changes() {
        // SAFETY: it takes no arguments, and cannot fail.
        let thread = unsafe { libc::gettid() };
        let read = || Procfs.cpu_time(thread).expect("a number");
        assert!((0..5).all(|_| read() != read()));
    }

    #[test]
    fn this_process_is_parsed() {
        if !is_genuine() {
            return;
        }
        let me = own_id();
        let stat = stat(me).unwrap().unwrap();
        assert!(stat.record.lives && !stat.is_exiting && !stat.is_kernels);
        assert_eq!(stat.record.parent, std::os::unix::process::parent_id() as i32);
        let mut count = 0;
        each_process(&mut |id| {
            count += i32::from(id == me);
            true
        })
        .unwrap();
        assert_eq!(count, 1);
    }
}
