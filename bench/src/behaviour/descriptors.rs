//! No descriptor left. Whatever a contender needs once for the whole process it has by then.

use super::cases::{Waited, spawn_child};
use super::contender::{Contender, Result, offered};
use super::{system, waits};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

pub(crate) fn spawn<C: Contender>() -> Result<String> {
    prepare::<C>()?;
    let held = system::use_up_descriptors();
    let spawned = catch_unwind(AssertUnwindSafe(|| C::spawn(&["sleep", "1001"])));
    drop(held);
    let said = match spawned {
        Ok(Ok(mut child)) => {
            C::kill(&mut child)?;
            return Ok("works".into());
        }
        Ok(Err(_)) => "fails",
        Err(_) => "panics",
    };
    // It may be about to execute its program.
    let is_there = system::within(Duration::from_secs(1), || system::runs("sleep 1001"))?;
    Ok(if is_there { format!("{said}, and leaves the child running") } else { said.into() })
}

pub(crate) fn wait<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    let (mut child, _held) = spawn_last::<C>(|| spawn_child::<C>(500, 3))?;
    Ok(Waited::by(wait, &mut child, Duration::from_secs(5)).in_words(3))
}

pub(crate) fn idle<C: Contender>() -> Result<String> {
    offered(C::WAIT_TIMEOUT)?;
    let (child, _held) = spawn_last::<C>(|| Ok(C::spawn(&["sleep", "60"])?))?;
    waits::cost::<C>(child)
}

/// With the descriptors that a spawn needs itself, which are gone after that.
fn spawn_last<C: Contender>(
    spawn: impl FnOnce() -> Result<C::Handle>,
) -> Result<(C::Handle, Vec<OwnedFd>)> {
    prepare::<C>()?;
    let mut held = system::use_up_descriptors();
    // A pipe to the child, and what is to be kept of it.
    held.truncate(held.len() - 3);
    let child = spawn()?;
    held.extend(system::use_up_descriptors());
    Ok((child, held))
}

/// Has all of it used once.
fn prepare<C: Contender>() -> Result<()> {
    let mut child = C::spawn(&["true"])?;
    if let Some(wait) = C::WAIT_TIMEOUT {
        wait(&mut child, Duration::from_secs(10))?;
    }
    drop(child);
    // Some give a descriptor back in the background.
    thread::sleep(Duration::from_millis(500));
    Ok(system::allow_few_descriptors()?)
}
