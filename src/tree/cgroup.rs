//! Linux: a cgroup v2 for one tree.
//!
//! The child enters the cgroup by itself, before exec, so all processes that it starts are born there.
//! (CLONE_INTO_CGROUP would be simpler, but std does not offer it.) `cgroup.kill` (Linux 5.14) kills all members as
//! one, and `cgroup.events` notifies a thread that polls it when no member is left.
//!
//! **Which processes can leave.** A process can leave a cgroup if it can write the `cgroup.procs` of the destination,
//! and that of the common ancestor of both. So a child with the credentials that made the cgroup can leave, and only a
//! child without them is contained completely: see [`is_held_by`]. In all other cases a scan finds the processes that
//! have left.
//!
//! The counters of CPU time and memory are lost when the cgroup is removed, so they are read before.
//!
//! Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.

use super::environment_marker::EnvironmentMarker;
use super::pre_exec::{self, Orders};
use super::process_group::{Cgroup, CreateCgroup, NewChild};
use super::processes::{AT_ONCE, Held, PASSES, Process, signal_each};
use crate::backoff::{Backoff, LONGEST};
use crate::deferred;
use crate::sync::Mutex;
use crate::sys::spawn_helper;
use crate::sys::unix::poll::try_poll;
use crate::usage::Usage;
use rustix::event::PollFlags;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString, c_int};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::{Duration, Instant};

/// The parent of the cgroup to create.
#[derive(Debug)]
pub(crate) enum Place {
    /// Below the cgroup that this process is in.
    Own,
    Below(PathBuf),
}

/// A cgroup. Removes its directory when it is dropped, or when the last member has ended after the drop.
struct CgroupV2 {
    directory: PathBuf,
    watched: Mutex<Watched>,
    /// Set before the cgroup is removed.
    used: Mutex<Option<Usage>>,
    is_complete: bool,
    /// The process that created the cgroup. The child of a fork must not remove it.
    process: u32,
}

/// The threads that poll `cgroup.events`. The kernel may take 10 ms to wake them, and does not wake them when the
/// cgroup is removed. So this process does not remove the cgroup while a thread polls; and because another process may
/// remove it, a poll lasts at most [`POLL`].
#[derive(Default)]
struct Watched {
    by: usize,
    to_be_removed: bool,
}

impl CreateCgroup for Place {
    fn create(&self, marker: &EnvironmentMarker) -> io::Result<Box<dyn Cgroup>> {
        let parent = match self {
            Place::Own => own()?,
            // The working directory may have changed when the cgroup is removed.
            Place::Below(directory) => fs::canonicalize(directory)
                .map_err(|error| explain(error, "cannot make a cgroup below", directory))?,
        };
        if parent.as_os_str().as_bytes().contains(&b'\n') {
            return Err(unsupported("a cgroup whose path has a line break", &parent));
        }
        let directory = parent.join(format!("shared_child-{marker}"));
        fs::create_dir(&directory)
            .map_err(|error| explain(error, "cannot make a cgroup", &directory))?;
        let (watched, used) = (Mutex::default(), Mutex::default());
        let process = process::id();
        let cgroup = CgroupV2 { directory, watched, used, is_complete: false, process };
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
}

impl Cgroup for CgroupV2 {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn spawn(&mut self, command: &mut Command) -> io::Result<NewChild> {
        let procs = self.open("cgroup.procs", OpenOptions::new().write(true))?;
        let procs = pre_exec::above_standard_streams(procs.into())?;
        let orders = Orders { enter: Some(procs), ..Orders::default() };
        let spawned = pre_exec::spawn(command, &orders).map_err(|error| match error {
            pre_exec::Error::Orders(error) => {
                explain(error, "the child cannot enter its cgroup", &self.directory)
            }
            pre_exec::Error::Spawn(error) => error,
        })?;
        // The child has executed its program, so its credentials are final.
        self.is_complete = is_held_by(&self.directory, spawned.0.id());
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
        let mut known = HashSet::new();
        for _ in 0..PASSES {
            fs::write(&file, "1")
                .or_else(unless_removed)
                .map_err(|error| explain(error, "cannot write to", &file))?;
            let mut new = self.ids()?;
            new.retain(|id| known.insert(*id));
            if new.is_empty() {
                return Ok(());
            }
            // An error does not matter: `cgroup.kill` requires no permission to signal.
            let _ = self.signal_listed(&new, libc::SIGKILL);
        }
        let message = format!("{} fills faster than it can be killed", self.directory.display());
        Err(io::Error::other(message))
    }

    fn signal_listed(&self, ids: &[i32], signal: c_int) -> io::Result<()> {
        let mut result = Ok(());
        for some in ids.chunks(AT_ONCE) {
            let mut held = Vec::new();
            for id in some {
                held.extend(Held::open(*id)?);
            }
            // The list is read after the processes were opened, so an ID in it belongs to the opened process.
            let listed: HashSet<i32> = self.ids()?.into_iter().collect();
            held.retain(|member| listed.contains(&member.id()) && member.lives());
            result = signal_each(&held, signal).and(result);
        }
        result
    }

    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let events = match self.open("cgroup.events", OpenOptions::new().read(true)) {
            Ok(events) => events,
            Err(error) => return unless_removed(error).map(|()| true),
        };
        self.watched.lock().by += 1;
        let empty = wait_empty(&events, deadline);
        let remove = {
            let mut watched = self.watched.lock();
            watched.by -= 1;
            watched.by == 0 && watched.to_be_removed
        };
        if remove {
            remove_all(&self.directory);
        }
        empty
    }

    fn survivor(&self) -> io::Result<Option<Process>> {
        let mut ended = HashSet::new();
        for _ in 0..PASSES {
            let mut again = false;
            for id in self.ids()? {
                if let Some(held) = Held::open(id)?.filter(Held::lives) {
                    if let Some(process) = held.process()? {
                        return Ok(Some(process));
                    }
                }
                // The process may have forked before it ended.
                again |= ended.insert(id);
            }
            if !again {
                break;
            }
        }
        Ok(None)
    }

    fn ids(&self) -> io::Result<Vec<i32>> {
        let mut ids = Vec::new();
        for directory in with_all_below(&self.directory) {
            let file = directory.join("cgroup.procs");
            match fs::read_to_string(&file) {
                // 0 means a process outside this PID namespace.
                Ok(list) => ids.extend(
                    list.lines().filter_map(|id| id.parse().ok()).filter(|id: &i32| *id != 0),
                ),
                // This is a cgroup of threads. The cgroup above lists their processes.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => {
                    unless_removed(error).map_err(|error| explain(error, "cannot read", &file))?;
                }
            }
        }
        Ok(ids)
    }

    fn usage(&self) -> Option<Usage> {
        let now = read_usage(&self.directory);
        // `used` is read after the counters: if it is empty, the cgroup was not removed while they were read.
        self.used.lock().or(now)
    }

    fn remove(&self) -> bool {
        remove_all(&self.directory)
    }

    fn done(&self) {
        let used = read_usage(&self.directory);
        *self.used.lock() = used;
        let remove = {
            let mut watched = self.watched.lock();
            watched.to_be_removed = true;
            watched.by == 0
        };
        if remove {
            remove_all(&self.directory);
        }
    }
}

impl CgroupV2 {
    fn open(&self, file: &str, options: &OpenOptions) -> io::Result<File> {
        let path = self.directory.join(file);
        options.open(&path).map_err(|error| explain(error, "cannot open", &path))
    }
}

impl Drop for CgroupV2 {
    fn drop(&mut self) {
        if self.process != process::id() || remove_all(&self.directory) {
            return;
        }
        // The members that are left may live on.
        let Ok(events) = self.open("cgroup.events", OpenOptions::new().read(true)) else { return };
        let directory = self.directory.clone();
        let remove_when_empty = move || {
            if wait_empty(&events, None).is_ok() {
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

/// The longest poll of `cgroup.events`: another process may remove the cgroup, and the kernel does not notify a poll of
/// that.
const POLL: Duration = Duration::from_secs(1);

fn wait_empty(events: &File, deadline: Option<Instant>) -> io::Result<bool> {
    let mut pause = Backoff::new();
    let mut poll = LONGEST;
    loop {
        // A change after this was read makes the file ready.
        if !is_populated(events)? {
            return Ok(true);
        }
        let until = Instant::now() + poll;
        poll = (poll * 2).min(POLL);
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        if let Ok(false) = try_poll(events.as_fd(), PollFlags::PRI, Some(until)) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return is_populated(events).map(|populated| !populated);
            }
            continue;
        }
        // Another event has occurred, or the system refuses `poll`: then pause, so as not to spin.
        if is_populated(events)? && !pause.sleep(deadline) {
            return Ok(false);
        }
    }
}

/// Returns whether a child is unable to leave this cgroup with its present credentials.
///
/// To leave, the child must write `cgroup.procs` of a common ancestor of this cgroup and the destination, which is one
/// of the directories above. So the child is held if it lacks capabilities that override permissions, and write
/// permission by the owner and mode of each of these files (cgroups(7), credentials(7)). If the child executes a
/// program with set-user-ID, that program may still leave.
fn is_held_by(cgroup: &Path, child: u32) -> bool {
    let credentials = fs::read_to_string(format!("/proc/{child}/status"))
        .ok()
        .and_then(|status| Credentials::parse(&status))
        // If another part of the program has reaped the child, its ID may have a new owner.
        .filter(|credentials| credentials.parent == process::id());
    let Some(credentials) = credentials else { return false };
    let above = cgroup.ancestors().skip(1);
    let mut files = above.map(|directory| fs::metadata(directory.join("cgroup.procs")));
    // The root of the cgroup file system has such a file. The directories above it have none.
    let mut any = false;
    files.all(|file| match file {
        Ok(file) => {
            any = true;
            !credentials.can_write(file.uid(), file.gid(), file.mode())
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }) && any
}

/// The credentials that decide whether a process can write a file.
#[derive(Debug, PartialEq, Eq)]
struct Credentials {
    parent: u32,
    /// Real, effective, saved and file system IDs, between which a process may switch.
    users: Vec<u32>,
    /// Includes the supplementary groups.
    groups: Vec<u32>,
    has_capabilities: bool,
}

impl Credentials {
    /// Parses proc_pid_status(5).
    fn parse(status: &str) -> Option<Self> {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let ids = |name| -> Option<Vec<u32>> {
            field(name)?.split_ascii_whitespace().map(|id| id.parse().ok()).collect()
        };
        let capabilities =
            ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(|name| field(name).map(str::trim));
        let none =
            |set: &Option<&str>| set.is_some_and(|set| set.bytes().all(|digit| digit == b'0'));
        let mut groups = ids("Gid:")?;
        groups.extend(ids("Groups:")?);
        let parent = field("PPid:")?.trim().parse().ok()?;
        Some(Self {
            parent,
            users: ids("Uid:")?,
            groups,
            has_capabilities: !capabilities.iter().all(none),
        })
    }

    fn can_write(&self, owner: u32, group: u32, mode: u32) -> bool {
        // A process may switch between its IDs, and an owner may change the mode.
        self.has_capabilities
            || self.users.contains(&0)
            || self.users.contains(&owner)
            || (self.groups.contains(&group) && mode & 0o020 != 0)
            || mode & 0o002 != 0
    }
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
    while let Some(directory) = all.get(next) {
        let below = directories(directory);
        all.extend(below);
        next += 1;
    }
    all
}

fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn is_populated(events: &File) -> io::Result<bool> {
    let mut text = [0; 256];
    let text = match events.read_at(&mut text, 0) {
        Ok(length) => &text[..length],
        // The cgroup has been removed.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(text.split(|byte| *byte == b'\n').any(|line| line == b"populated 1"))
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

    #[test]
    fn child_can_leave_only_with_write_permission() {
        let status = |uid: &str, gid: &str, groups: &str, effective: &str| {
            format!(
                "Name:\tx\nPPid:\t5\nUid:\t{uid}\nGid:\t{gid}\nGroups:\t{groups}\nCapInh:\t0000000000000000\n\
                 CapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n"
            )
        };
        let parse = |text: String| Credentials::parse(&text).expect("all fields are there");
        let none = "0000000000000000";
        let plain = parse(status("7 7 7 7", "8 8 8 8", "9 10", none));
        assert!(!plain.can_write(0, 0, 0o644));
        assert!(plain.can_write(7, 0, 0o400), "the owner may change the mode");
        assert!(plain.can_write(0, 10, 0o664));
        assert!(!plain.can_write(0, 10, 0o644));
        assert!(plain.can_write(0, 0, 0o646));
        let saved = parse(status("7 7 0 7", "8 8 8 8", "", none));
        assert!(saved.can_write(1, 1, 0o600), "a process may switch to its saved user ID");
        let capable = parse(status("7 7 7 7", "8 8 8 8", "", "0000000000000002"));
        assert!(capable.can_write(1, 1, 0o600));
        assert_eq!(Credentials::parse("Name:\tx\n"), None);
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
