//! Children, signals, descriptors and processes of a case.

use super::CHILD;
use crate::cli::Result;
use crate::machine::field;
use crate::peers::{Contender, Handle, Program, is_not_offered};
use crate::system::cpu_time;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::time::{Duration, Instant};
use std::{env, mem, ptr, thread};

pub(super) fn sleep(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

pub(super) fn spawn(contender: Contender, words: &[&str]) -> Result<Handle> {
    Ok(Program::new(words).spawn(contender)?)
}

/// Spawns a child that exits after these milliseconds with this status. It is not a shell, which would have a signal
/// disposition of its own.
pub(super) fn spawn_child(contender: Contender, milliseconds: u64, status: i32) -> Result<Handle> {
    let program = env::current_exe()?;
    let program = program.to_str().ok_or("not a UTF-8 path")?;
    spawn(contender, &[program, CHILD, &milliseconds.to_string(), &status.to_string()])
}

pub(super) const STATUS: &str = "works";
pub(super) const TIMED_OUT: &str = "times out";
pub(super) const PANICS: &str = "panics";

/// Waits for a child that is to exit with this status, and returns what the wait does.
pub(super) fn wait(child: &mut Handle, timeout: Duration, status: i32) -> Result<&'static str> {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| child.wait_timeout(timeout)));
    let is_late = start.elapsed() >= timeout;
    Ok(match result {
        Ok(Ok(Some(it))) if it.code() != Some(status) => "a wrong status",
        Ok(Ok(Some(_))) if is_late => "late",
        Ok(Ok(Some(_))) => STATUS,
        Ok(Ok(None)) => TIMED_OUT,
        Ok(Err(error)) if is_not_offered(&error) => return Err(error.into()),
        Ok(Err(_)) if is_late => "an error, late",
        Ok(Err(_)) => "an error",
        Err(_) => PANICS,
    })
}

/// Blocks SIGCHLD for this thread and the threads that it starts.
pub(super) fn block_sigchld() {
    // SAFETY: zeros are a valid signal set, and the pointers are valid or null.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
    }
}

pub(super) fn ignore_sigchld() {
    // SAFETY: the call installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

pub(super) fn is_sigchld_ignored() -> Result<bool> {
    let ignored = field("/proc/self/status", "SigIgn").ok_or("no signals")?;
    Ok(u64::from_str_radix(&ignored, 16)? & 1 << (libc::SIGCHLD - 1) != 0)
}

/// Returns the CPU time of this process, and how often one of its threads went to sleep.
pub(super) fn usage() -> (Duration, i64) {
    // SAFETY: zeros are a valid rusage.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    (cpu_time(), usage.ru_nvcsw)
}

/// Limits the descriptors of this process to a number that it can use up.
pub(super) fn allow_few_descriptors() -> Result<()> {
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) })?)
}

/// Opens descriptors until the limit. They are closed on exec.
pub(super) fn use_up_descriptors() -> Vec<OwnedFd> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).map(OwnedFd::from).collect()
}

/// Returns the content of a file of each process in this PID namespace.
fn of_processes(file: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| fs::read_to_string(entry.path().join(file)).ok())
}

pub(super) fn is_running(command: &str) -> bool {
    of_processes("cmdline").any(|words| words.trim_end_matches('\0').replace('\0', " ") == command)
}

/// Returns the number of zombies that are children of this process.
pub(super) fn zombies() -> usize {
    let state = format!(") Z {} ", process::id());
    of_processes("stat").filter(|stat| stat.contains(&state)).count()
}

/// Returns whether the condition becomes true in this time.
pub(super) fn within(time: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(10);
    }
    true
}
