//! The end of trees: of one, and of many in a set.

use super::*;
use crate::system::{pidfd, read_process_table, until_ready};
use process_wrap::std::{CommandWrap, ProcessGroup};
use rustix::event::PollFlags;
use shared_child::{ChildSet, SpawnOptions};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;

/// Measures the time from a kill until all members of the group have exited.
pub(super) fn measure_kill(run: &Run) -> Result<Vec<Row>> {
    let members = run.pick(100, 1000);
    become_subreaper()?;
    // The contender that works by hand opens a descriptor per member.
    allow_descriptors()?;
    let contenders = [Raw, ThisCrate, ProcessWrap];
    let rounds = Rounds::run(run, &contenders, (1, run.pick(3, 40)), |contender| {
        let took = match contender {
            ThisCrate => kill_tree(members)?,
            ProcessWrap => kill_wrapped(members)?,
            _ => kill_group(members)?,
        };
        Ok(vec![took.as_secs_f64() * 1e3])
    })?;
    let name = format!("kill and wait for a group of {members}");
    Ok(vec![rounds.row(&name, "ms", Raw).bar(1.25)])
}

fn kill_tree(members: usize) -> Result<Duration> {
    let mut helpers = Helpers::new()?;
    let mut options = SpawnOptions::new();
    let child = options.tree(true).kill_on_drop(true).spawn(&mut helpers.leader(members)?)?;
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
    let mut leader = CommandWrap::from(helpers.leader(members)?);
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
    let group = Group(helpers.leader(members)?.process_group(0).spawn()?.id());
    let ids = helpers.until_ready(members + 1)?;
    let pidfds: Vec<OwnedFd> = ids.into_iter().map(pidfd).collect::<io::Result<_>>()?;
    let start = Instant::now();
    group.kill()?;
    for member in &pidfds {
        until_ready(member, PollFlags::IN)?;
    }
    Ok(start.elapsed())
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
        let mut leader = helpers.leader(PROCESSES - 1)?;
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
