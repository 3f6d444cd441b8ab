//! The cases. Each returns the content of a cell.

use super::system::*;
use crate::cli::Result;
use crate::machine::peak_memory;
use crate::peers::{Contender, Demand, Handle, Program, Unit, is_not_offered, output};
use crate::system::pid;
use rustix::process::{WaitOptions, wait as wait_for_any, waitpid};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Its name, its title, and the function that runs it.
pub(super) type Case = (&'static str, &'static str, fn(Contender) -> Result<String>);

/// The cases whose result depends on the share of CPU time, so they run alone.
pub(super) const ALONE: [&str; 2] = ["greedy", "limit"];

pub(super) const TOPICS: [(&str, &[Case]); 4] =
    [("Waiting", &WAITING), ("Killing", &KILLING), ("Output", &OUTPUT), ("Resources", &RESOURCES)];

pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    TOPICS.iter().flat_map(|topic| topic.1)
}

const WAITING: [Case; 5] = [
    ("greedy", "300 timed waits beside a `waitpid(-1)` in another thread", wait_beside_reaper),
    ("blocked", "a timed wait with SIGCHLD blocked", wait_with_sigchld_blocked),
    ("ignored", "a timed wait with SIGCHLD ignored", wait_with_sigchld_ignored),
    ("forever", "a timed wait for `Duration::MAX`", wait_forever),
    (
        "wait_recycled",
        "a timed wait after a foreign reap, when the ID belongs to another child",
        wait_recycled,
    ),
];

const KILLING: [Case; 6] = [
    ("apart", "a kill while another thread waits", kill_beside_wait),
    ("kill_recycled", "a kill after a foreign reap, when the ID has a new owner", kill_recycled),
    ("time_out", "a child that ignores SIGTERM, with a timeout of 1 s", time_out),
    ("group", "a kill of a child and its descendants, one of which has left the session", |it| {
        kill_tree(it, Unit::Tree, SESSION)
    }),
    ("daemon", "the same, with a daemon that has emptied its environment as well", |it| {
        kill_tree(it, Unit::Tree, DAEMON)
    }),
    ("complete", "the same, in a container that no process can leave", |it| {
        kill_tree(it, Unit::Container, DAEMON)
    }),
];

const OUTPUT: [Case; 5] = [
    ("held", "a command that leaves a process behind, which holds the pipe for 5 s", |it| {
        timed_output(it, HOLDS, Demand::All)
    }),
    ("held_timeout", "the same, with a timeout of 1 s", |it| {
        timed_output(it, HOLDS, Demand::Until(SECOND))
    }),
    ("endless", "a command that does not end, with a timeout of 1 s", endless),
    ("flood", "64 MiB in, and 64 MiB out of both pipes meanwhile", flood),
    ("limit", "memory for the first MiB of 64 MiB of output", limit),
];

const RESOURCES: [Case; 5] = [
    ("idle", "the cost of 2 s in a timed wait", |it| cost(spawn(it, &["sleep", "60"])?)),
    ("spawn_emfile", "a spawn when no descriptor is left", spawn_without_descriptors),
    ("wait_emfile", "a timed wait when no descriptor is left", wait_without_descriptors),
    ("idle_emfile", "the cost of 2 s in such a wait", cost_without_descriptors),
    ("dropped", "100 handles dropped while their children run", drop_handles),
];

const SECOND: Duration = Duration::from_secs(1);

fn wait_beside_reaper(contender: Contender) -> Result<String> {
    thread::spawn(|| {
        loop {
            let _ = wait_for_any(WaitOptions::NOHANG);
        }
    });
    let (mut failed, mut panicked) = (0, 0);
    for _ in 0..300 {
        // The child runs long enough for the handle to exist first.
        let Ok(mut child) = spawn(contender, &["sleep", "0.02"]) else {
            failed += 1;
            continue;
        };
        let waited = wait(&mut child, 10 * SECOND, 0)?;
        failed += i32::from(waited != STATUS);
        panicked += i32::from(waited == PANICS);
    }
    Ok(match panicked {
        0 => format!("{failed} fail"),
        _ => format!("{failed} fail, {panicked} by a panic"),
    })
}

fn wait_with_sigchld_blocked(contender: Contender) -> Result<String> {
    block_sigchld();
    Ok(wait(&mut spawn_child(contender, 300, 3)?, 5 * SECOND, 3)?.into())
}

fn wait_with_sigchld_ignored(contender: Contender) -> Result<String> {
    ignore_sigchld();
    let waited = wait(&mut spawn_child(contender, 300, 3)?, 5 * SECOND, 3)?;
    let handler = if is_sigchld_ignored()? { "" } else { " by its handler" };
    Ok(waited.to_owned() + handler)
}

fn wait_forever(contender: Contender) -> Result<String> {
    Ok(match wait(&mut spawn_child(contender, 300, 3)?, Duration::MAX, 3)? {
        TIMED_OUT => "returns at once",
        STATUS => "waits",
        other => other,
    }
    .into())
}

/// Waits for two seconds. A wait that polls shows in how often a thread of this process goes to sleep.
fn cost(mut child: Handle) -> Result<String> {
    let (time, sleeps) = usage();
    let waited = wait(&mut child, 2 * SECOND, 0)?;
    let (time, sleeps) = (usage().0 - time, usage().1 - sleeps);
    // The drop of some handles waits for the child.
    child.kill()?;
    if waited != TIMED_OUT {
        return Ok(waited.into());
    }
    Ok(match time.as_millis() {
        // A thread that the library starts sleeps a few times before it is idle.
        0..10 if sleeps < 20 => "idle".into(),
        0..10 => format!("{sleeps} wake-ups"),
        time => format!("{sleeps} wake-ups, {time} ms of CPU time"),
    })
}

fn kill_recycled(contender: Contender) -> Result<String> {
    let (mut handle, mut owner) = recycle(contender)?;
    let _ = handle.kill();
    let unharmed = owner.wait()?.code() == Some(7);
    Ok(if unharmed { "does nothing" } else { "kills it" }.into())
}

fn wait_recycled(contender: Contender) -> Result<String> {
    let (mut handle, mut owner) = recycle(contender)?;
    let waited = wait(&mut handle, 5 * SECOND, 3)?;
    // Without an error, the new owner was still a child.
    let kept = owner.try_wait().is_ok();
    Ok(if kept { waited } else { "takes its status" }.into())
}

/// Returns a handle whose child ended with status 3 and was reaped, and the next owner of the process ID: it leads a
/// process group, runs for a second and ends with status 7.
fn recycle(contender: Contender) -> Result<(Handle, Child)> {
    let handle = spawn_child(contender, 100, 3)?;
    let id = handle.id();
    let _ = waitpid(Some(pid(id)?), WaitOptions::empty());
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (id - 1).to_string())?;
        let mut owner = Command::new("sh");
        let mut owner = owner.args(["-c", "sleep 1; exit 7"]).process_group(0).spawn()?;
        if owner.id() == id {
            return Ok((handle, owner));
        }
        // A new thread has the ID.
        owner.kill()?;
        owner.wait()?;
    }
    Err("the process ID stays in use".into())
}

fn spawn_without_descriptors(contender: Contender) -> Result<String> {
    prepare(contender)?;
    let taken = use_up_descriptors();
    let spawned = catch_unwind(AssertUnwindSafe(|| spawn(contender, &["sleep", "1001"])));
    drop(taken);
    let failure = match spawned {
        Ok(Ok(mut child)) => return Ok(child.kill().map(|()| "works".into())?),
        Ok(Err(_)) => "fails",
        Err(_) => "panics",
    };
    // Possibly the child has not executed its program yet.
    let runs = within(SECOND, || is_running("sleep 1001"));
    Ok(failure.to_owned() + if runs { ", child runs on" } else { "" })
}

fn wait_without_descriptors(contender: Contender) -> Result<String> {
    let (mut child, _taken) = last_child(contender, || spawn_child(contender, 500, 3))?;
    Ok(wait(&mut child, 5 * SECOND, 3)?.into())
}

fn cost_without_descriptors(contender: Contender) -> Result<String> {
    let (child, _taken) = last_child(contender, || spawn(contender, &["sleep", "60"]))?;
    cost(child)
}

/// Spawns a child, and then uses up the descriptors. Until then, three are free for the spawn.
fn last_child(
    contender: Contender,
    spawn: impl FnOnce() -> Result<Handle>,
) -> Result<(Handle, Vec<OwnedFd>)> {
    prepare(contender)?;
    let mut taken = use_up_descriptors();
    taken.truncate(taken.len() - 3);
    let child = spawn()?;
    taken.extend(use_up_descriptors());
    Ok((child, taken))
}

/// Lets the library open what it needs once per process, and then limits the descriptors.
fn prepare(contender: Contender) -> Result<()> {
    let _ = spawn(contender, &["true"])?.wait_timeout(10 * SECOND);
    // Some libraries close descriptors in the background.
    sleep(500);
    allow_few_descriptors()
}

fn kill_beside_wait(contender: Contender) -> Result<String> {
    let (wait, kill) = spawn(contender, &["sleep", "60"])?.split()?;
    let (send, returned) = mpsc::channel();
    thread::spawn(move || send.send(wait()));
    // The waiter needs time to block.
    sleep(500);
    kill()?;
    let result = match returned.recv_timeout(5 * SECOND) {
        Ok(Ok(status)) if status.signal() == Some(libc::SIGKILL) => "works",
        Ok(Ok(_)) => "a wrong status",
        Ok(Err(_)) => "an error from the wait",
        Err(_) => "the wait does not return",
    };
    Ok(result.into())
}

fn time_out(contender: Contender) -> Result<String> {
    let mut child = spawn(contender, &["sh", "-c", "trap '' TERM; exec sleep 1001"])?;
    let start = Instant::now();
    let timed_out = wait(&mut child, SECOND, 0)? == TIMED_OUT;
    let killed = timed_out && child.kill().and_then(|()| child.wait()).is_ok();
    let took = start.elapsed().as_secs_f64().round();
    let result = match (killed, is_running("sleep 1001")) {
        (false, _) => "an error",
        (true, false) => "dead",
        (true, true) => "alive",
    };
    Ok(format!("{result} after {took} s"))
}

fn drop_handles(contender: Contender) -> Result<String> {
    let handles =
        (0..100).map(|_| spawn(contender, &["sleep", "2"])).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    drop(handles);
    let blocked = start.elapsed() > SECOND / 2;
    // The children exit two seconds earlier.
    sleep(4000);
    let found = zombies();
    if blocked {
        return Ok(format!("{found} zombies, the drops wait"));
    }
    spawn(contender, &["true"])?.wait()?;
    Ok(match zombies() {
        later if later < found => format!("{found} zombies until a spawn"),
        _ => format!("{found} zombies"),
    })
}

const IN_GROUP: &str = "sleep 1001";
const OUTSIDE: &str = "sleep 1002";
const SESSION: &str = "sleep 1001 & setsid sleep 1002 & wait";
const DAEMON: &str = "sleep 1001 & (setsid env -i sleep 1002 &); wait";

fn kill_tree(contender: Contender, unit: Unit, script: &str) -> Result<String> {
    let mut child = Program { unit, ..Program::new(["sh", "-c", script]) }.spawn(contender)?;
    if !within(10 * SECOND, || is_running(IN_GROUP) && is_running(OUTSIDE)) {
        return Err("the processes have not started".into());
    }
    // The parent of the daemon needs time to exit.
    sleep(300);
    child.kill_tree()?;
    within(2 * SECOND, || !is_running(IN_GROUP) && !is_running(OUTSIDE));
    Ok(match (is_running(IN_GROUP), is_running(OUTSIDE)) {
        (false, false) => "none survives",
        (false, true) => "one survives",
        (true, false) => "one survives",
        (true, true) => "all survive",
    }
    .into())
}

/// Exits at once, and leaves a process behind.
const HOLDS: &str = "echo output; sleep 5 & exit 0";
/// Writes, and keeps running.
const ENDLESS: &str = "echo output; exec sleep 1001";

fn timed_output(contender: Contender, script: &str, demand: Demand) -> Result<String> {
    let start = Instant::now();
    let output = output(Program::new(["sh", "-c", script]), contender, demand);
    let took = start.elapsed();
    let lost = match output {
        Err(error) if is_not_offered(&error) => return Err(error.into()),
        Ok(output) if output.stdout == b"output\n" => "",
        _ => "lost ",
    };
    let after = took.as_secs_f64().round();
    Ok(if took < SECOND { format!("{lost}at once") } else { format!("{lost}after {after} s") })
}

fn endless(contender: Contender) -> Result<String> {
    let text = timed_output(contender, ENDLESS, Demand::Until(SECOND))?;
    // A child that the drop of a handle has killed needs time to exit.
    sleep(200);
    Ok(text + if is_running("sleep 1001") { ", child runs on" } else { "" })
}

fn flood(contender: Contender) -> Result<String> {
    let input: Vec<u8> = (0..64 << 20).map(|at| (at % 251) as u8).collect();
    let program = Program::new(["tee", "/dev/stderr"]);
    let output = output(program, contender, Demand::Fed(input.clone()))?;
    let complete = output.stdout == input && output.stderr == input;
    Ok(if complete { "works" } else { "the output is incomplete" }.into())
}

fn limit(contender: Contender) -> Result<String> {
    const MIB: usize = 1 << 20;
    let before = peak_memory().unwrap_or_default();
    let program = Program::new(["head", "-c", "64M", "/dev/zero"]);
    let output = output(program, contender, Demand::Limit(MIB))?;
    let took = (peak_memory().unwrap_or_default() - before) / MIB;
    Ok(match output.stdout.len() {
        MIB => format!("{took} MiB"),
        kept => format!("{took} MiB, but of {kept} bytes"),
    })
}
