//! Linux: a cgroup v2 for one tree.
//!
//! The child enters the cgroup by itself, before exec, so all processes that it starts are born there.
//! (CLONE_INTO_CGROUP would be simpler, but std does not offer it.) `cgroup.kill` (Linux 5.14) kills all members as
//! one. `credentials.rs` decides whether a member can leave; a scan finds the members that have left.
//!
//! `cgroup.events` reports whether there is a member. A wait blocks on one member after the other: the kernel would also
//! report the end of the last one, but up to 10 ms later, and not if another process removes the cgroup.
//!
//! The counters of CPU time and memory are lost when the cgroup is removed, so they are read before.
//!
//! Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.

use super::credentials::can_leave;
use super::environment_marker::EnvironmentMarker;
use super::pre_exec::{self, ChildSetup};
use super::process_group::{Cgroup, NewChild};
use super::processes::{AT_ONCE, Held, PASSES, Process, signal_each};
use crate::backoff::Backoff;
use crate::deferred;
use crate::sort::{missing, sort};
use crate::sync::Mutex;
use crate::sys::linux::proc_file::{Words, field, in_base, number, process_id};
use crate::sys::spawn_helper;
use crate::sys::unix::syscall::above_standard_streams;
use crate::usage::Usage;
use std::ffi::{OsStr, OsString, c_int};
use std::fs::{self, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A cgroup. Removes its directory when it is dropped, or when the last member has ended after the drop.
struct CgroupV2 {
    directory: PathBuf,
    /// Set before the cgroup is removed.
    used: Mutex<Option<Usage>>,
    is_complete: bool,
    /// The process that created the cgroup. The child of a fork must not remove it.
    process: u32,
}

/// Creates a cgroup below this directory, or below the cgroup that this process is in.
pub(crate) fn create(
    parent: Option<&Path>,
    marker: &EnvironmentMarker,
) -> io::Result<Box<dyn Cgroup>> {
    let parent = match parent {
        None => own()?,
        // The working directory may have changed when the cgroup is removed.
        Some(directory) => fs::canonicalize(directory)
            .map_err(|error| explain(error, "cannot make a cgroup below", directory))?,
    };
    if parent.as_os_str().as_bytes().contains(&b'\n') {
        return Err(unsupported("a cgroup whose path has a line break", &parent));
    }
    let directory = parent.join(format!("shared_child-{marker}"));
    fs::create_dir(&directory)
        .map_err(|error| explain(error, "cannot make a cgroup", &directory))?;
    let (used, process) = (Mutex::default(), process::id());
    let cgroup = CgroupV2 { directory, used, is_complete: false, process };
    for (file, what) in [
        ("cgroup.procs", "the directory above is not on a cgroup v2 file system"),
        ("cgroup.kill", "cgroup.kill is missing, which requires Linux 5.14"),
    ] {
        if !cgroup.directory.join(file).exists() {
            return Err(unsupported(what, &cgroup.directory));
        }
    }
    Ok(Box::new(cgroup))
}

impl Cgroup for CgroupV2 {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn spawn(&mut self, command: &mut Command) -> io::Result<NewChild> {
        let procs = self.directory.join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(|error| explain(error, "cannot open", &procs))?;
        let procs = above_standard_streams(procs.into())?;
        let orders = ChildSetup { enter: Some(procs), ..ChildSetup::default() };
        let spawned = pre_exec::spawn(command, &orders, &|error| {
            explain(error, "the child cannot enter its cgroup", &self.directory)
        })?;
        // The child has executed its program, so its credentials are final.
        self.is_complete = !can_leave(spawned.0.id(), &self.directory);
        Ok(spawned)
    }

    fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn kill_once(&self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
    }

    /// Kills all members. `cgroup.kill` kills them as one, including processes that are being forked; but it skips a
    /// process whose first thread has ended while other threads run, since it signals the first thread. So this kills
    /// the processes that are still listed one by one. The next turn finds processes that these have forked meanwhile.
    fn kill(&self) -> io::Result<()> {
        let file = self.directory.join("cgroup.kill");
        let mut known: Vec<i32> = Vec::new();
        for _ in 0..PASSES {
            fs::write(&file, "1")
                .or_else(unless_removed)
                .map_err(|error| explain(error, "cannot write to", &file))?;
            let new = missing(&self.ids()?, &known);
            if new.is_empty() {
                return Ok(());
            }
            known.extend_from_slice(&new);
            sort(&mut known);
            // An error does not matter: `cgroup.kill` requires no permission to signal.
            let _ = self.signal(&new, libc::SIGKILL);
        }
        let message = format!("{} fills faster than it can be killed", self.directory.display());
        Err(io::Error::other(message))
    }

    fn signal(&self, ids: &[i32], signal: c_int) -> io::Result<()> {
        let mut result = Ok(());
        for some in ids.chunks(AT_ONCE) {
            result = signal_each(&open_members(&self.directory, some)?, &[signal]).and(result);
        }
        result
    }

    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        wait_empty(&self.directory, deadline)
    }

    fn survivor(&self) -> io::Result<Option<Process>> {
        if !is_populated(&self.directory)? {
            return Ok(None);
        }
        if let Some(member) = a_member(&self.directory)? {
            if let Some(process) = member.process()? {
                return Ok(Some(process));
            }
        }
        // The members are ending, or are in another PID namespace.
        let message = format!("no member of {} can be opened at present", self.directory.display());
        Err(io::Error::new(io::ErrorKind::WouldBlock, message))
    }

    fn ids(&self) -> io::Result<Vec<i32>> {
        read_ids(&self.directory)
    }

    fn usage(&self) -> Option<Usage> {
        let now = read_usage(&self.directory);
        // `used` is read after the counters: if it is empty, the cgroup was not removed while they were read.
        self.used.lock().or(now)
    }

    fn remove(&self) -> bool {
        if let Some(used) = read_usage(&self.directory) {
            *self.used.lock() = Some(used);
        }
        remove_all(&self.directory)
    }
}

impl Drop for CgroupV2 {
    fn drop(&mut self) {
        if self.process != process::id() || remove_all(&self.directory) {
            return;
        }
        // The members that are left may live on.
        let directory = Arc::new(mem::take(&mut self.directory));
        let its = Arc::clone(&directory);
        if spawn_helper("child-cgroup", move || remove_when_empty(&its)).is_err() {
            deferred::push(Box::new(move || remove_all(&directory)));
        }
    }
}

/// How often the thread tries to remove an empty cgroup: for 20 seconds in all.
const ATTEMPTS: usize = 1000;

/// Removes the cgroup when its last member has ended. An attempt fails while no descriptor is spare to list the cgroups
/// below, or while the kernel has not finished the end of a member. A cgroup below that this process lacks permission
/// to remove is left to later spawns and drops.
fn remove_when_empty(directory: &Arc<PathBuf>) {
    let mut pause = Backoff::new();
    for _ in 0..ATTEMPTS {
        let _ = wait_empty(directory, None);
        if remove_all(directory) {
            return;
        }
        pause.sleep(None);
    }
    let directory = Arc::clone(directory);
    deferred::push(Box::new(move || remove_all(&directory)));
}

/// Ignores the error if another thread has removed the empty cgroup.
fn unless_removed(error: io::Error) -> io::Result<()> {
    let is_removed =
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV);
    if is_removed { Ok(()) } else { Err(error) }
}

/// Blocks until no member is left (`true`), or until the deadline.
fn wait_empty(directory: &Path, deadline: Option<Instant>) -> io::Result<bool> {
    let mut pause = Backoff::new();
    while is_populated(directory)? {
        let is_before = match a_member(directory)? {
            Some(member) => {
                pause = Backoff::new();
                member.wait(deadline)
            }
            // The members that are left are ending, or are in another PID namespace.
            None => pause.sleep(deadline),
        };
        if !is_before || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(!is_populated(directory)?);
        }
    }
    Ok(true)
}

/// Returns whether the cgroup or a cgroup below has a member that is no zombie.
fn is_populated(directory: &Path) -> io::Result<bool> {
    let file = directory.join("cgroup.events");
    match fs::read(&file) {
        Ok(events) => Ok(field(&events, b"populated ") == Some(b"1")),
        Err(error) => {
            unless_removed(error).map_err(|error| explain(error, "cannot read", &file))?;
            Ok(false)
        }
    }
}

/// Returns a living member that can be opened.
fn a_member(directory: &Path) -> io::Result<Option<Held>> {
    for ids in read_ids(directory)?.chunks(AT_ONCE) {
        if let Some(member) = open_members(directory, ids)?.pop() {
            return Ok(Some(member));
        }
    }
    Ok(None)
}

/// Opens the living members among these processes.
fn open_members(directory: &Path, ids: &[i32]) -> io::Result<Vec<Held>> {
    let mut opened = Vec::new();
    for id in ids {
        if let Some(held) = Held::open(*id)? {
            opened.push(held);
        }
    }
    // The list is read after the processes were opened, so an ID in it belongs to the opened process.
    let listed = read_ids(directory)?;
    let mut members = Vec::new();
    for member in opened {
        if listed.contains(&member.id()) && member.lives() {
            members.push(member);
        }
    }
    Ok(members)
}

/// Returns the process IDs of the members, and of the members of cgroups below.
fn read_ids(directory: &Path) -> io::Result<Vec<i32>> {
    let mut ids = Vec::new();
    for directory in with_all_below(directory) {
        let file = directory.join("cgroup.procs");
        match fs::read(&file) {
            Ok(list) => {
                let mut lines = Words(&list);
                while let Some(line) = lines.next() {
                    // 0 means a process outside this PID namespace.
                    if let Some(id) = process_id(line) {
                        ids.push(id);
                    }
                }
            }
            // This is a cgroup of threads. The cgroup above lists their processes.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => {
                unless_removed(error).map_err(|error| explain(error, "cannot read", &file))?;
            }
        }
    }
    Ok(ids)
}

/// Removes the cgroup, and the cgroups that members have made below it. Returns `false` while the cgroup has a member.
fn remove_all(directory: &Path) -> bool {
    for below in with_all_below(directory).iter().skip(1).rev() {
        let _ = fs::remove_dir(below);
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Returns the usage of all processes of the cgroup and of the cgroups below, including ended processes.
fn read_usage(directory: &Path) -> Option<Usage> {
    let times = fs::read(directory.join("cpu.stat")).ok()?;
    // Requires Linux 5.19 and the memory controller.
    let peak = fs::read(directory.join("memory.peak")).unwrap_or_default();
    parse_usage(&times, &peak)
}

fn parse_usage(times: &[u8], peak: &[u8]) -> Option<Usage> {
    let time = |name| Some(Duration::from_micros(number(field(times, name)?)?));
    Some(Usage {
        user: time(b"user_usec ")?,
        system: time(b"system_usec ")?,
        peak_memory: Words(peak).next().and_then(number),
    })
}

/// Returns a directory and all directories below it, parents first. This does not recurse: members can make cgroups as deep
/// as a path can be long, and the threads of this crate have small stacks.
fn with_all_below(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![directory.to_owned()];
    let mut next = 0;
    while next < all.len() {
        if let Ok(entries) = fs::read_dir(&all[next]) {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    all.push(entry.path());
                }
            }
        }
        next += 1;
    }
    all
}

/// Returns the directory of this process's cgroup.
fn own() -> io::Result<PathBuf> {
    let none = || {
        let message = "cannot find the cgroup of this process: no cgroup v2 is mounted here; mount it, or use cgroup_parent";
        io::Error::new(io::ErrorKind::Unsupported, message)
    };
    let mounts = fs::read("/proc/self/mountinfo").map_err(|_| none())?;
    let mine = fs::read("/proc/self/cgroup").map_err(|_| none())?;
    let mine = field(&mine, b"0::").ok_or_else(none)?;
    let mut mounts = &mounts[..];
    let (root, point) = loop {
        let line = field(mounts, b"").ok_or_else(none)?;
        if let Some(found) = cgroup2(line) {
            break found;
        }
        mounts = &mounts[line.len() + 1..];
    };
    // A mount may show only a part of the hierarchy.
    let below = Path::new(OsStr::from_bytes(mine)).strip_prefix(&root).map_err(|_| none())?;
    Ok(point.join(below))
}

/// Returns the root and the mount point of a line of mountinfo (proc_pid_mountinfo(5)), if the line is about cgroup v2.
fn cgroup2(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut words = Words(line);
    for _ in 0..3 {
        words.next()?;
    }
    let (root, point) = (words.next()?, words.next()?);
    // Optional fields end with a dash.
    while words.next()? != b"-" {}
    if words.next()? == b"cgroup2" { Some((unescape(root), unescape(point))) } else { None }
}

/// Decodes blanks and other special characters, which are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let code = match after.get(..3) {
            Some(digits) if *first == b'\\' => in_base(8, digits),
            _ => None,
        };
        path.push(code.map_or(*first, |code| code as u8));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(path).into()
}

fn explain(error: io::Error, what: &str, path: &Path) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (it must be delegated to this user, as systemd does with Delegate=yes)"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("{what} {}: {error}{hint}", path.display()))
}

fn unsupported(what: &str, path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what}: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_mount_is_parsed() {
        let line = b"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2(line), Some(("/".into(), "/sys/fs/cgroup/unified".into())));
        let line = br"41 31 0:38 /a\040b /mnt/c\134d rw shared:7 master:2 - cgroup2 none rw";
        assert_eq!(cgroup2(line), Some(("/a b".into(), r"/mnt/c\d".into())));
        assert_eq!(cgroup2(b"35 31 0:32 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu"), None);
        assert_eq!(cgroup2(b""), None);
    }

    /// Members may nest cgroups as deep as a path can be long, and the threads of this crate have small stacks.
    #[test]
    fn deep_cgroup_is_removed_on_a_small_stack() {
        let top = std::env::temp_dir().join(format!("shared_child-deep-{}", process::id()));
        let mut deepest = top.clone();
        while deepest.as_os_str().len() < 2000 {
            deepest.push("d");
        }
        fs::create_dir_all(&deepest).expect("to make directories");
        let (sender, receiver) = std::sync::mpsc::channel();
        let (directory, name) = (top.clone(), "child-test");
        spawn_helper(name, move || sender.send(remove_all(&directory)).expect("to say so"))
            .expect("a thread");
        assert_eq!(receiver.recv(), Ok(true));
        assert!(!top.exists());
    }

    #[test]
    fn usage_is_parsed() {
        let times = b"usage_usec 7000003\nuser_usec 4000001\nsystem_usec 3000002\nnice_usec 0\n";
        let (user, system) = (Duration::from_micros(4_000_001), Duration::from_micros(3_000_002));
        let usage = |peak_memory| Some(Usage { user, system, peak_memory });
        assert_eq!(parse_usage(times, b"12582912\n"), usage(Some(12 << 20)));
        assert_eq!(parse_usage(times, b""), usage(None));
        assert_eq!(parse_usage(times, b"max\n"), usage(None));
        assert_eq!(parse_usage(b"usage_usec 7\n", b""), None);
        assert_eq!(parse_usage(b"user_usec 7\nsystem_usec -1\n", b""), None);
    }
}
