//! The end of trees: of a process group, of a cgroup, and of many trees in a set.

use super::*;
use crate::system::{pidfd, read_process_table, until_ready};
use process_wrap::std::{CommandWrap, ProcessGroup};
use rustix::event::PollFlags;
use shared_child::linux::SpawnOptionsExt;
use shared_child::{ChildSet, SharedChild, SpawnOptions};
use std::fs::{self, File};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command};

/// Measures the time from a kill until all members of the group have exited.
pub(super) fn measure_kill(run: &Run) -> Result<Vec<Row>> {
    let members = run.pick(100, 1000);
    become_subreaper()?;
    // The contender that works by hand opens a descriptor per member.
    allow_descriptors()?;
    let name = format!("kill and wait for a group of {members}");
    kill_row(run, &name, &[Raw, ThisCrate, ProcessWrap], 1.25, |contender| match contender {
        ThisCrate => kill_tree(SpawnOptions::new().tree(true), "", members),
        ProcessWrap => kill_wrapped(members),
        _ => kill_group(members),
    })
}

fn kill_row(
    run: &Run,
    name: &str,
    contenders: &[Contender],
    bar: f64,
    kill: impl Fn(Contender) -> Result<Duration>,
) -> Result<Vec<Row>> {
    let rounds = Rounds::run(run, contenders, (1, run.pick(3, 40)), |contender| {
        Ok(vec![kill(contender)?.as_secs_f64() * 1e3])
    })?;
    Ok(vec![rounds.row(name, "ms", Raw).bar(bar)])
}

fn kill_tree(options: &mut SpawnOptions, prefix: &str, members: usize) -> Result<Duration> {
    let mut helpers = Helpers::new()?;
    let child = options.kill_on_drop(true).spawn(&mut helpers.leader(prefix, members)?)?;
    helpers.until_ready(members + 1)?;
    let tree = child.tree().ok_or("no tree")?;
    let start = Instant::now();
    tree.kill()?;
    tree.wait_empty(None)?;
    let took = start.elapsed();
    child.wait()?;
    reap_all();
    Ok(took)
}

/// process-wrap's wait for a group waits for children of this process. The members are children of this process, because
/// it is a subreaper; without that the call would not wait for them.
fn kill_wrapped(members: usize) -> Result<Duration> {
    let mut helpers = Helpers::new()?;
    let mut leader = CommandWrap::from(helpers.leader("", members)?);
    let mut leader = leader.wrap(ProcessGroup::leader()).spawn()?;
    let _group = Group(leader.id());
    helpers.until_ready(members + 1)?;
    let start = Instant::now();
    leader.start_kill()?;
    leader.wait()?;
    Ok(start.elapsed())
}

/// Kills the group by `killpg`, and polls pidfds of all members, which are opened before the start.
fn kill_group(members: usize) -> Result<Duration> {
    let mut helpers = Helpers::new()?;
    let group = Group(helpers.leader("", members)?.process_group(0).spawn()?.id());
    let ids = helpers.until_ready(members + 1)?;
    let pidfds: Vec<OwnedFd> = ids.into_iter().map(pidfd).collect::<io::Result<_>>()?;
    let start = Instant::now();
    group.kill()?;
    for member in &pidfds {
        until_ready(member, PollFlags::IN)?;
    }
    Ok(start.elapsed())
}

/// Measures the CPU time that an unrelated process adds to the kill of a tree.
///
/// A kill of a tree that is older than those processes reads their environments, which is the worst case; for a younger
/// tree the start times suffice. The CPU time of the whole scan is divided by the size of the crowd, so the figure is an
/// upper bound.
pub(super) fn measure_scan(run: &Run) -> Result<Vec<Row>> {
    let crowd = run.pick(300, 2000);
    become_subreaper()?;
    let old = empty_tree()?;
    let mut helpers = Helpers::new()?;
    let _group = Group(helpers.leader("", crowd)?.process_group(0).spawn()?.id());
    helpers.until_ready(crowd + 1)?;
    // Start times have a resolution of 10 ms.
    thread::sleep(Duration::from_millis(50));
    let young = empty_tree()?;

    let row = |age, child: &SharedChild, files: &[&str]| -> Result<Row> {
        let tree = child.tree().ok_or("no tree")?;
        let rounds = Rounds::run(run, &[Raw, ThisCrate], (1, run.pick(3, 60)), |contender| {
            let start = cpu_time();
            match contender {
                ThisCrate => tree.kill()?,
                _ => read_process_table(files)?,
            }
            Ok(vec![(cpu_time() - start).as_secs_f64() * 1e6 / crowd as f64])
        })?;
        let name = format!("CPU time of a kill, for each of {crowd} unrelated {age} processes");
        Ok(rounds.row_of_figures(&name, "µs", Raw).bar(40.0))
    };
    Ok(vec![row("younger", &old, &["stat", "environ"])?, row("older", &young, &["stat"])?])
}

/// Returns a tree whose leader was killed and not reaped. So the tree may have members, and each kill scans for them.
fn empty_tree() -> Result<SharedChild> {
    let child = SpawnOptions::new().tree(true).spawn(&mut long_lived()?.command())?;
    child.tree().ok_or("no tree")?.kill()?;
    Ok(child)
}

/// Measures the time from a kill until all processes in the cgroup, each in a session of its own, have exited.
pub(super) fn measure_cgroup(run: &Run) -> Result<Vec<Row>> {
    let daemons = run.pick(100, 1000);
    become_subreaper()?;
    if let Err(error) = kill_cgroup(1) {
        eprintln!("skipped: cannot create a cgroup: {error}");
        return Ok(Vec::new());
    }
    let name = format!("kill and wait for a cgroup of {daemons} daemons");
    kill_row(run, &name, &[Raw, ThisCrate], 1.3, |contender| match contender {
        ThisCrate => kill_tree(SpawnOptions::new().cgroup(true), "setsid", daemons),
        _ => kill_cgroup(daemons),
    })
}

fn kill_cgroup(daemons: usize) -> Result<Duration> {
    let cgroup = Cgroup::create()?;
    let mut helpers = Helpers::new()?;
    let leader = helpers.leader("setsid", daemons)?;
    // The shell moves itself into the cgroup, and then executes the leader.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(cgroup.0.join("cgroup.procs"));
    shell.arg(leader.get_program()).args(leader.get_args()).stdout(helpers.output()?).spawn()?;
    helpers.until_ready(daemons + 1)?;
    let events = File::open(cgroup.0.join("cgroup.events"))?;
    let mut text = [0; 256];
    let start = Instant::now();
    cgroup.kill()?;
    loop {
        let length = events.read_at(&mut text, 0)?;
        if String::from_utf8_lossy(&text[..length]).contains("populated 0") {
            return Ok(start.elapsed());
        }
        until_ready(&events, PollFlags::PRI)?;
    }
}

/// A cgroup. Its drop kills and reaps the processes in it, and removes it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create() -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no cgroup v2")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let point = mount.and_then(|mount| mount.split(' ').nth(4)).ok_or("no cgroup v2")?;
        let directory = format!("{point}{own}/bench-{}", process::id());
        fs::create_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
        Ok(Self(directory.into()))
    }

    /// Requires Linux 5.14.
    fn kill(&self) -> io::Result<()> {
        File::options().write(true).open(self.0.join("cgroup.kill"))?.write_all_at(b"1", 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.kill();
        reap_all();
        let removed = fs::remove_dir(&self.0);
        removed.unwrap_or_else(|error| eprintln!("cannot remove {}: {error}", self.0.display()));
    }
}

/// The processes of each of many trees.
const PROCESSES: usize = 4;
/// The trees of a small set.
const FEW_TREES: usize = 50;

/// Measures the end of many trees in a set: `kill_all`, `stop_all`, and a drop of the set with its handles.
///
/// The figure is the CPU time of this process per tree, until all processes of all trees have exited and the background
/// threads are idle. It must not grow with the number of trees. The reference by hand reads the process table once, as
/// a scan for processes outside their group does, and kills each group.
pub(super) fn measure_many(run: &Run) -> Result<Vec<Row>> {
    let trees = run.pick(100, 400);
    // This process reaps the orphans of a worker, at no CPU time of the worker.
    become_subreaper()?;
    let mut rows = Vec::new();
    for kind in ["kill_all", "stop_all", "drop"] {
        let contenders = [Raw, FewTrees, ThisCrate];
        let rounds = Rounds::run(run, &contenders, (0, run.pick(1, 12)), |contender| {
            let samples = worker::once(kind, contender, 0, trees);
            reap_all();
            samples
        })?;
        let name = format!("CPU time a tree, {kind} of {trees} trees of {PROCESSES} processes");
        rows.push(rounds.row(&name, "µs", FewTrees).only(&[FewTrees, ThisCrate]).bar(1.5));
        let name = format!("{name}, beside killing by hand");
        rows.push(rounds.row(&name, "µs", Raw).only(&[Raw, ThisCrate]).bar(2.0));
    }
    Ok(rows)
}

/// The sampler returns the CPU time per tree, in microseconds.
pub(super) fn many_sampler(kind: String, contender: Contender) -> Sampler {
    Box::new(move |trees| {
        allow_descriptors()?;
        // The first trees make the library start its threads.
        end(&kind, contender, 5)?;
        let size = if contender == FewTrees { FEW_TREES } else { trees };
        let times = (0..trees / size).map(|_| end(&kind, contender, size));
        Ok(vec![times.sum::<Result<Duration>>()?.as_secs_f64() * 1e6 / trees as f64])
    })
}

fn end(kind: &str, contender: Contender, trees: usize) -> Result<Duration> {
    let mut helpers = Helpers::new()?;
    let mut options = SpawnOptions::new();
    options.tree(true).kill_on_drop(kind == "drop");
    let (set, mut groups) = (ChildSet::new(), Vec::new());
    for key in 0..trees {
        let mut leader = helpers.leader("", PROCESSES - 1)?;
        match contender {
            Raw => groups.push(Group(leader.process_group(0).spawn()?.id())),
            _ => drop(set.insert(key, options.spawn(&mut leader)?)),
        }
    }
    helpers.until_ready(trees * PROCESSES)?;
    let start = cpu_time();
    match kind {
        _ if contender == Raw => {
            read_process_table(&["stat", "environ"])?;
            groups.iter().try_for_each(Group::kill)?;
            reap_all();
            // The process IDs are free now.
            mem::forget(groups);
        }
        "kill_all" => set.kill_all()?,
        "stop_all" => set.stop_all(Duration::from_secs(10))?,
        _ => set.iter().for_each(|(key, _)| drop(set.remove(&key))),
    }
    while let Some(finished) = set.wait_next() {
        finished.status?;
    }
    helpers.until_exited()?;
    // Background threads are idle once the CPU time does not grow.
    loop {
        let end = cpu_time();
        thread::sleep(Duration::from_millis(50));
        if cpu_time() - end < Duration::from_micros(100) {
            return Ok(end - start);
        }
    }
}
