//! Kills, timeouts, and handles that are dropped.

use super::contender::{Contender, Result, offered};
use super::system;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) fn apart<C: Contender>() -> Result<String> {
    let apart = offered(C::APART)?;
    let (wait, kill) = apart(C::spawn(&["sleep", "60"])?);
    let (send, returned) = mpsc::channel();
    thread::spawn(move || send.send(wait()));
    // Until it waits.
    thread::sleep(Duration::from_millis(500));
    kill()?;
    Ok(match returned.recv_timeout(Duration::from_secs(5)) {
        Ok(Ok(status)) if status.signal() == Some(libc::SIGKILL) => "works".into(),
        Ok(Ok(_)) => "a wrong status".into(),
        Ok(Err(_)) => "an error for who waits".into(),
        Err(_) => "is not noticed by who waits".into(),
    })
}

pub(crate) fn time_out<C: Contender>() -> Result<String> {
    let time_out = offered(C::TIME_OUT)?;
    let mut child = C::spawn(&["sh", "-c", "trap '' TERM; exec sleep 1001"])?;
    let start = Instant::now();
    let result = time_out(&mut child, Duration::from_secs(1));
    let took = start.elapsed().as_secs_f64().round();
    Ok(match (result, system::runs("sleep 1001")?) {
        (Ok(()), false) => format!("dead after {took} s"),
        (Ok(()), true) => format!("alive after {took} s"),
        (Err(_), _) => format!("an error after {took} s"),
    })
}

pub(crate) fn dropped<C: Contender>() -> Result<String> {
    let spawned = (0..100).map(|_| C::spawn(&["sleep", "2"]));
    let handles: Vec<C::Handle> = spawned.collect::<io::Result<_>>()?;
    let start = Instant::now();
    drop(handles);
    let blocks = start.elapsed() > Duration::from_millis(500);
    // Two seconds longer than they run.
    thread::sleep(Duration::from_secs(4));
    let zombies = zombies()?;
    if blocks {
        return Ok(format!("{zombies} zombies, but the drops wait"));
    }
    let mut another = C::spawn(&["true"])?;
    C::wait(&mut another)?;
    let later = self::zombies()?;
    Ok(match later < zombies {
        true => format!("{zombies} zombies, {later} after the next spawn"),
        false => format!("{zombies} zombies"),
    })
}

fn zombies() -> Result<usize> {
    let me = std::process::id();
    let mine = |process: &&system::Process| process.is_zombie && process.parent == me;
    Ok(system::processes()?.iter().filter(mine).count())
}
