//! The kill of a cgroup full of daemons, each in a session of its own, beside the same by hand.

use crate::cli::Result;
use crate::contender::Who;
use crate::crowd::{self, Kind, Reaped, Subreaper};
use crate::report::Row;
use crate::rounds::Rounds;
use crate::run::Run;
use shared_child::SpawnOptions;
use shared_child::linux::SpawnOptionsExt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Instant;

/// From the kill until nobody lives.
pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let daemons = run.pick(100, 1000);
    let _subreaper = Subreaper::new()?;
    // Not every machine has what it takes, and not every user may.
    if let Err(error) = by_hand(1) {
        eprintln!("no cgroup can be made here, so none is measured: {error}");
        return Ok(Vec::new());
    }
    let rounds = Rounds::run(run, &[Who::Raw, Who::Ours], run.pick(3, 40), |who| match who {
        Who::Ours => ours(daemons),
        _ => by_hand(daemons),
    })?;
    let name = format!("kill and wait for a cgroup of {daemons} daemons");
    Ok(vec![rounds.row(&name, "ms", Who::Raw).bar(1.3)])
}

fn ours(daemons: usize) -> Result<Vec<f64>> {
    let _reaped = Reaped;
    let mut options = SpawnOptions::new();
    options.cgroup(true).kill_on_drop(true);
    let child = options.spawn(&mut crowd::leader(Kind::Daemons, daemons)?)?;
    crowd::until_there(child.take_stdout().ok_or("no pipe from the leader")?, daemons)?;
    let tree = child.tree().ok_or("no tree")?;
    let start = Instant::now();
    tree.kill()?;
    tree.wait_empty(None)?;
    let took = start.elapsed();
    child.wait()?;
    Ok(vec![took.as_secs_f64() * 1e3])
}

fn by_hand(daemons: usize) -> Result<Vec<f64>> {
    let cgroup = Cgroup::create()?;
    let leader = crowd::leader(Kind::Daemons, daemons)?;
    // The shell enters it, and becomes the leader.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(cgroup.0.join("cgroup.procs"));
    shell.arg(leader.get_program()).args(leader.get_args());
    let mut shell = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    crowd::until_there(shell.stdout.take().ok_or("no pipe from the leader")?, daemons)?;
    let events = File::open(cgroup.0.join("cgroup.events"))?;
    let start = Instant::now();
    cgroup.kill()?;
    until_empty(&events)?;
    Ok(vec![start.elapsed().as_secs_f64() * 1e3])
}

/// When this is dropped, those in it are killed and reaped, and it is removed.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create() -> Result<Self> {
        let below = own().ok_or("this process is in no cgroup v2 that can be seen")?;
        let directory = below.join(format!("bench-{}", process::id()));
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let cgroup = Self(directory);
        if cgroup.0.join("cgroup.kill").exists() {
            Ok(cgroup)
        } else {
            Err("cgroup.kill takes Linux 5.14".into())
        }
    }

    fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.kill();
        drop(Reaped);
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// The cgroup v2 that this process is in.
fn own() -> Option<PathBuf> {
    let mine = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mine = mine.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let (root, point) = mount.split_once(" /")?.1.split_once(' ')?;
    let point = point.split(' ').next()?;
    let below = Path::new(mine).strip_prefix(Path::new("/").join(root)).ok()?;
    Some(Path::new(point).join(below))
}

fn until_empty(events: &File) -> io::Result<()> {
    loop {
        let mut text = [0; 256];
        let length = events.read_at(&mut text, 0)?;
        if text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0") {
            return Ok(());
        }
        let mut poll = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: `poll` is one writable pollfd, as is told.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
}
