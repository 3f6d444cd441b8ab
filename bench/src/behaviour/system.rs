//! System calls, and what `/proc` tells.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

/// Blocks SIGCHLD, for this thread and those that it starts.
pub(crate) fn block_sigchld() -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised before it is changed and read.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

pub(crate) fn ignore_sigchld() -> io::Result<()> {
    // SAFETY: no handler is installed.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

pub(crate) fn is_sigchld_ignored() -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` is a writable sigaction, and nothing is changed.
    if unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was filled.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Reaps this child, or any (-1).
pub(crate) fn reap(id: i32, options: i32) {
    // SAFETY: no status is asked for. An error means that there is nobody to reap.
    unsafe { libc::waitpid(id, ptr::null_mut(), options) };
}

/// Allows this process so few descriptors that they can be used up.
pub(crate) fn allow_few_descriptors() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: `limit` is a readable rlimit.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes all descriptors that this process is allowed and does not have. They are closed on exec.
pub(crate) fn use_up_descriptors() -> Vec<OwnedFd> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).map(OwnedFd::from).collect()
}

/// A process, as `/proc` shows it.
pub(crate) struct Process {
    pub(crate) parent: u32,
    pub(crate) is_zombie: bool,
    /// Program and arguments, with blanks between them. A zombie has none.
    pub(crate) command: String,
}

/// All processes. They are few, since process IDs are this case's own.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let entries = fs::read_dir("/proc")?;
    // One that has no stat is none, or is gone.
    Ok(entries.flatten().filter_map(|entry| process(&entry.path())).collect())
}

fn process(path: &std::path::Path) -> Option<Process> {
    path.file_name()?.to_str()?.parse::<u32>().ok()?;
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    // The name, which may contain anything, ends with the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
    let command = command.trim_end_matches('\0').replace('\0', " ");
    Some(Process { parent, is_zombie, command })
}

/// Whether somebody runs this, program and arguments.
pub(crate) fn runs(command: &str) -> io::Result<bool> {
    Ok(processes()?.iter().any(|process| process.command == command))
}

/// The most memory that this process has had, in KiB.
pub(crate) fn peak_memory() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| io::Error::other("no peak of the memory"))
}

/// Whether it becomes true.
pub(crate) fn within(time: Duration, is_true: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + time;
    while !is_true()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}
