//! Trees without a cgroup: what they cost a spawn, the kill of a process group, and the sweep for
//! those who have left it.

use crate::cli::Result;
use crate::contender::{Who, long_lived, pidfd, short_lived};
use crate::crowd::{self, Group, Kind, Subreaper};
use crate::procfs::{allow_descriptors, cpu_time};
use crate::report::Row;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::spawn::{IN_A_ROW, in_a_row};
use process_wrap::std::{CommandWrap, ProcessGroup};
use shared_child::{SharedChild, SpawnOptions};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A tree is a process group, so this is set against a child that leads one. Then against one that
/// gets a variable as well, for which std copies the whole environment: a tree has the variable that
/// its members are told by.
pub(crate) fn measure_spawn(run: &Run) -> Result<Vec<Row>> {
    let name = "spawn and wait, a tree";
    let rounds = run.pick(15, 200);
    let contenders = [Who::Std, Who::Ours, Who::ProcessWrap];
    Ok(vec![
        spawn_rounds(run, rounds, &contenders, |_| ())?.row(name, "µs", Who::Std).bar(1.05),
        spawn_rounds(run, rounds, &contenders[..2], |command| {
            command.env("SHARED_CHILD_BENCH", "1234-0-0123456789abcdef");
        })?
        .row(&format!("{name}, beside std with a variable"), "µs", Who::Std),
    ])
}

fn spawn_rounds(
    run: &Run,
    rounds: usize,
    contenders: &[Who],
    prepare_std: fn(&mut Command),
) -> Result<Rounds> {
    let options = SpawnOptions::new().tree(true).clone();
    Rounds::run(run, contenders, rounds, |who| {
        let mut command = short_lived().command();
        match who {
            Who::Ours => in_a_row(IN_A_ROW, || options.spawn(&mut command)?.wait()),
            Who::ProcessWrap => {
                let mut command = CommandWrap::from(command);
                command.wrap(ProcessGroup::leader());
                in_a_row(IN_A_ROW, || command.spawn()?.wait())
            }
            _ => {
                prepare_std(command.process_group(0));
                in_a_row(IN_A_ROW, || command.spawn()?.wait())
            }
        }
    })
}

/// From the kill until nobody lives.
pub(crate) fn measure_kill(run: &Run) -> Result<Vec<Row>> {
    let members = run.pick(100, 1000);
    let _subreaper = Subreaper::new()?;
    // One for each member, for whoever holds them all.
    allow_descriptors()?;
    let contenders = [Who::Raw, Who::Ours, Who::ProcessWrap];
    let rounds = Rounds::run(run, &contenders, run.pick(3, 40), |who| match who {
        Who::Ours => kill_tree(members),
        Who::ProcessWrap => kill_wrapped(members),
        _ => kill_group(members),
    })?;
    let name = format!("kill and wait for a group of {members}");
    Ok(vec![rounds.row(&name, "ms", Who::Raw).bar(1.5)])
}

fn kill_tree(members: usize) -> Result<Vec<f64>> {
    let child = SpawnOptions::new().tree(true).spawn(&mut crowd::leader(Kind::Group, members)?)?;
    let group = Group(child.id() as i32);
    crowd::until_there(child.take_stdout().ok_or("no pipe from the leader")?, members)?;
    let tree = child.tree().ok_or("no tree")?;
    let start = Instant::now();
    tree.kill()?;
    tree.wait_empty(None)?;
    let took = start.elapsed();
    // It reaps the leader, if that is left to do. The rest is reaped by the group.
    drop(child);
    drop(group);
    Ok(vec![took.as_secs_f64() * 1e3])
}

/// process-wrap's wait for a group reaps the members as well, as they have become this process's children. Elsewhere it
/// would not wait for them.
fn kill_wrapped(members: usize) -> Result<Vec<f64>> {
    let mut leader = CommandWrap::from(crowd::leader(Kind::Group, members)?);
    let mut leader = leader.wrap(ProcessGroup::leader()).spawn()?;
    let group = Group(leader.id() as i32);
    crowd::until_there(leader.stdout().take().ok_or("no pipe from the leader")?, members)?;
    let start = Instant::now();
    leader.start_kill()?;
    leader.wait()?;
    let took = start.elapsed();
    drop(group);
    Ok(vec![took.as_secs_f64() * 1e3])
}

/// By hand, and with a pidfd of each member from before, which is not counted.
fn kill_group(members: usize) -> Result<Vec<f64>> {
    let mut leader = crowd::leader(Kind::Group, members)?;
    let mut leader = leader.process_group(0).spawn()?;
    let group = Group(leader.id() as i32);
    let ids = crowd::until_there(leader.stdout.take().ok_or("no pipe from the leader")?, members)?;
    let held: Vec<OwnedFd> = ids.into_iter().map(pidfd).collect::<io::Result<_>>()?;
    let start = Instant::now();
    group.kill()?;
    for member in &held {
        until_dead(member)?;
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e3])
}

fn until_dead(pidfd: &OwnedFd) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one writable pollfd, as is told.
    match unsafe { libc::poll(&raw mut poll, 1, -1) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a process that is none of the tree's costs a kill.
///
/// There are two trees without anybody to be killed, and a crowd of strangers that is younger than
/// the one and older than the other. The first has to look at their environments, which is the
/// worst case; for the second, the times of their start are enough.
///
/// It is CPU time, as the bar is no ratio that would tell how busy the machine was. It is divided by
/// the size of the crowd, though the machine has other processes, and they are looked at as well: so
/// the figure is on the safe side.
pub(crate) fn measure_sweep(run: &Run) -> Result<Vec<Row>> {
    let strangers = run.pick(300, 2000);
    let _subreaper = Subreaper::new()?;
    let old = lone()?;
    let mut leader = crowd::leader(Kind::Group, strangers)?;
    let mut leader = leader.process_group(0).spawn()?;
    let _group = Group(leader.id() as i32);
    crowd::until_there(leader.stdout.take().ok_or("no pipe from the leader")?, strangers)?;
    // The start of a process is known to a hundredth of a second.
    thread::sleep(Duration::from_millis(50));
    let young = lone()?;

    let contenders = [Who::Raw, Who::Ours];
    let rounds = run.pick(3, 60);
    let of = |child: &SharedChild, files: &[&str]| {
        let tree = child.tree().ok_or("no tree")?;
        Rounds::run(run, &contenders, rounds, |who| {
            let start = cpu_time()?;
            match who {
                Who::Ours => tree.kill()?,
                _ => read_all(files)?,
            }
            Ok(vec![(cpu_time()? - start).as_secs_f64() * 1e6 / strangers as f64])
        })
    };
    let name = format!("CPU time of a kill, for each of {strangers} strangers that are");
    let unit = "µs";
    Ok(vec![
        of(&old, &["stat", "environ"])?
            .row_of_figures(&format!("{name} younger"), unit, Who::Raw)
            .bar(40.0),
        of(&young, &["stat"])?.row_of_figures(&format!("{name} older"), unit, Who::Raw).bar(40.0),
    ])
}

/// A tree of a leader that has been killed, and that nobody has waited for. So it is not known to be
/// empty, and a kill looks as thoroughly as the first one did.
fn lone() -> Result<SharedChild> {
    let child = SpawnOptions::new().tree(true).spawn(&mut long_lived()?.command())?;
    child.tree().ok_or("no tree")?.kill()?;
    Ok(child)
}

/// The least that a sweep can do: reads these files of every process.
fn read_all(files: &[&str]) -> io::Result<()> {
    use std::io::Read;
    let mut buffer = [0; 4096];
    for process in fs::read_dir("/proc")? {
        let process = process?;
        if !process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            continue;
        }
        for file in files {
            // It may be gone.
            let file = fs::File::open(process.path().join(file));
            let _ = file.and_then(|mut file| file.read(&mut buffer));
        }
    }
    Ok(())
}
