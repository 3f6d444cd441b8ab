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
use super::pre_exec::{self, Orders};
use super::process_group::{Cgroup, NewChild};
use super::processes::{AT_ONCE, Held, PASSES, Process, signal_each};
use crate::backoff::Backoff;
use crate::deferred;
use crate::sync::Mutex;
use crate::sys::spawn_helper;
use crate::sys::unix::syscall::above_standard_streams;
use crate::usage::Usage;
use std::ffi::{OsStr, OsString, c_int};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
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
        let orders = Orders { enter: Some(procs), ..Orders::default() };
        let spawned = pre_exec::spawn(command, &orders, |error| {
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
            let mut new = self.ids()?;
            new.retain(|id| known.binary_search(id).is_err());
            if new.is_empty() {
                return Ok(());
            }
            known.extend_from_slice(&new);
            known.sort_unstable();
            // An error does not matter: `cgroup.kill` requires no permission to signal.
            let _ = self.signal(&new, libc::SIGKILL);
        }
        let message = format!("{} fills faster than it can be killed", self.directory.display());
        Err(io::Error::other(message))
    }

    fn signal(&self, ids: &[i32], signal: c_int) -> io::Result<()> {
        let mut result = Ok(());
        for some in ids.chunks(AT_ONCE) {
            result = signal_each(&open_members(&self.directory, some)?, signal).and(result);
        }
        result
    }

    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        wait_empty(&self.directory, deadline)
    }

    fn survivor(&self) -> io::Result<Option<Process>> {
        let mut pause = Backoff::new();
        let until = Instant::now() + BRIEF;
        while is_populated(&self.directory)? {
            if let Some(member) = a_member(&self.directory)? {
                if let Some(process) = member.process()? {
                    return Ok(Some(process));
                }
            }
            if !pause.sleep(Some(until)) {
                break;
            }
        }
        Ok(None)
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
        let directory = self.directory.clone();
        let remove_when_empty = move || {
            if wait_empty(&directory, None).is_ok() {
                remove_all(&directory);
            }
        };
        if spawn_helper("child-cgroup", remove_when_empty).is_err() {
            let directory = std::mem::take(&mut self.directory);
            deferred::push(move || remove_all(&directory));
        }
    }
}

/// Ignores the error if another thread has removed the empty cgroup.
fn unless_removed(error: io::Error) -> io::Result<()> {
    let is_removed =
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV);
    if is_removed { Ok(()) } else { Err(error) }
}

/// The time for which a scan for a living member repeats: members fork and exit meanwhile, or cannot be opened.
const BRIEF: Duration = Duration::from_millis(100);

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
    match fs::read_to_string(&file) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
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
    let mut members = Vec::new();
    for id in ids {
        members.extend(Held::open(*id)?);
    }
    // The list is read after the processes were opened, so an ID in it belongs to the opened process.
    let listed = read_ids(directory)?;
    members.retain(|member| listed.contains(&member.id()) && member.lives());
    Ok(members)
}

/// Returns the process IDs of the members, and of the members of cgroups below.
fn read_ids(directory: &Path) -> io::Result<Vec<i32>> {
    let mut ids = Vec::new();
    for directory in with_all_below(directory) {
        let file = directory.join("cgroup.procs");
        match fs::read_to_string(&file) {
            Ok(list) => {
                for id in list.lines() {
                    // 0 means a process outside this PID namespace.
                    ids.extend(id.parse::<i32>().ok().filter(|id| *id != 0));
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
    let times = fs::read_to_string(directory.join("cpu.stat")).ok()?;
    // Requires Linux 5.19 and the memory controller.
    let peak = fs::read_to_string(directory.join("memory.peak")).ok();
    parse_usage(&times, peak.as_deref())
}

fn parse_usage(times: &str, peak: Option<&str>) -> Option<Usage> {
    let time = |name| {
        let micros = times.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(Duration::from_micros(micros.parse().ok()?))
    };
    Some(Usage {
        user: time("user_usec")?,
        system: time("system_usec")?,
        peak_memory: peak.and_then(|peak| peak.trim_end().parse().ok()),
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
    let mine = lines(&mine).find_map(|line| line.strip_prefix(b"0::")).ok_or_else(none)?;
    let (root, point) = lines(&mounts).find_map(cgroup2).ok_or_else(none)?;
    // A mount may show only a part of the hierarchy.
    let below = Path::new(OsStr::from_bytes(mine)).strip_prefix(&root).map_err(|_| none())?;
    Ok(point.join(below))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// Returns the root and the mount point of a line of mountinfo (proc_pid_mountinfo(5)), if the line is about cgroup v2.
fn cgroup2(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    // Optional fields end with a dash.
    fields.find(|field| *field == b"-")?;
    (fields.next()? == b"cgroup2").then(|| (unescape(root), unescape(point)))
}

/// Decodes blanks and other special characters, which are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escaped = after.get(..3).filter(|_| *first == b'\\');
        let code =
            escaped.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        path.push(code.unwrap_or(*first));
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
        let times = "usage_usec 7000003\nuser_usec 4000001\nsystem_usec 3000002\nnice_usec 0\n";
        let (user, system) = (Duration::from_micros(4_000_001), Duration::from_micros(3_000_002));
        let usage = |peak_memory| Some(Usage { user, system, peak_memory });
        assert_eq!(parse_usage(times, Some("12582912\n")), usage(Some(12 << 20)));
        assert_eq!(parse_usage(times, None), usage(None));
        assert_eq!(parse_usage(times, Some("max\n")), usage(None));
        assert_eq!(parse_usage("usage_usec 7\n", None), None);
        assert_eq!(parse_usage("user_usec 7\nsystem_usec -1\n", None), None);
    }
}
