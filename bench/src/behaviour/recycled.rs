//! A child that somebody else has reaped, and whose process ID has a new owner.

use super::cases::{Waited, spawn_child};
use super::contender::{Contender, Result, command, offered};
use super::system;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::time::Duration;

pub(crate) fn kill<C: Contender>() -> Result<String> {
    let (mut handle, mut owner) = recycle::<C>()?;
    let _ = C::kill(&mut handle);
    let unharmed = owner.wait()?.code() == Some(7);
    Ok(if unharmed { "does nothing" } else { "kills the new owner" }.into())
}

pub(crate) fn wait<C: Contender>() -> Result<String> {
    let wait = offered(C::WAIT_TIMEOUT)?;
    let (mut handle, mut owner) = recycle::<C>()?;
    let waited = Waited::by(wait, &mut handle, Duration::from_secs(5));
    Ok(match owner.try_wait() {
        // It is a zombie that belongs to its handle.
        Ok(_) => waited.in_words(3),
        Err(_) => "takes the status of the new owner".into(),
    })
}

/// A child that ended with 3 and is reaped, and the next owner of its process ID, who leads a process group, runs for
/// a second and ends with 7.
fn recycle<C: Contender>() -> Result<(C::Handle, Child)> {
    let handle = spawn_child::<C>(100, 3)?;
    let id = C::id(&handle);
    system::reap(id as i32, 0);
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (id - 1).to_string())?;
        let mut owner = command(&["sh", "-c", "sleep 1; exit 7"]).process_group(0).spawn()?;
        if owner.id() == id {
            return Ok((handle, owner));
        }
        // A thread had it for a moment.
        owner.kill()?;
        owner.wait()?;
    }
    Err("the ID was taken by somebody else".into())
}
