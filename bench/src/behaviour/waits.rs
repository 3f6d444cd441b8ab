//! Timed waits.

use super::cases::{Outcome, Waited, spawn_child};
use super::contender::{Contender, Result, offered};
use super::system;
use crate::procfs::usage;
use std::thread;
use std::time::Duration;

pub(crate) fn greedy<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    thread::spawn(|| {
        loop {
            system::reap(-1, libc::WNOHANG);
        }
    });
    let (mut failed, mut panicked) = (0, 0);
    for _ in 0..300 {
        // Long enough for the handle to be there first.
        let Ok(mut child) = C::spawn(&["sleep", "0.02"]) else {
            failed += 1;
            continue;
        };
        let waited = Waited::by(wait, &mut child, Duration::from_secs(10));
        failed += i32::from(!waited.is_status(0));
        panicked += i32::from(waited.outcome == Outcome::Panic);
    }
    Ok(match panicked {
        0 => format!("{failed} fail"),
        _ => format!("{failed} fail, {panicked} of them by a panic"),
    })
}

pub(crate) fn blocked<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    system::block_sigchld()?;
    let mut child = spawn_child::<C>(300, 3)?;
    Ok(Waited::by(wait, &mut child, Duration::from_secs(5)).in_words(3))
}

pub(crate) fn ignored<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    system::ignore_sigchld()?;
    let mut child = spawn_child::<C>(300, 3)?;
    let waited = Waited::by(wait, &mut child, Duration::from_secs(5)).in_words(3);
    Ok(match system::is_sigchld_ignored()? {
        true => waited,
        false => format!("{waited}, by a handler of its own"),
    })
}

pub(crate) fn forever<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    let mut child = spawn_child::<C>(300, 3)?;
    let waited = Waited::by(wait, &mut child, Duration::MAX);
    Ok(match waited.outcome {
        Outcome::Panic => "panics".into(),
        Outcome::TimedOut => "returns at once".into(),
        _ if waited.is_status(3) => "waits".into(),
        _ => waited.in_words(3),
    })
}

pub(crate) fn idle<C: Contender>() -> Result<String> {
    offered(C::WAIT_TIMEOUT)?;
    cost::<C>(C::spawn(&["sleep", "60"])?)
}

/// Who polls is seen by how often he goes to sleep again.
pub(crate) fn cost<C: Contender>(mut child: C::Handle) -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    let (time, sleeps) = usage()?;
    let waited = Waited::by(wait, &mut child, Duration::from_secs(2));
    let after = usage()?;
    // Some wait for it when the handle is dropped.
    C::kill(&mut child)?;
    let (time, sleeps) = (after.0 - time, after.1 - sleeps);
    if waited.outcome != Outcome::TimedOut {
        return Ok(waited.in_words(0));
    }
    // Some start a thread, which sleeps a few times before it is idle.
    let is_idle = time < Duration::from_millis(10) && sleeps < 20;
    let how = if is_idle { "idle".into() } else { format!("{sleeps} wake-ups") };
    Ok(match time.as_millis() {
        0..10 => how,
        time => format!("{how}, {time} ms of CPU time"),
    })
}
