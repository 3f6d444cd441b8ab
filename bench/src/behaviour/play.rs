//! One play of a case: by a process of its own, which is given up after a while.

use super::asynchronous::{AsyncProcess, ProcessWrap, Tokio};
use super::blocking::{Duct, Ours, Peer, ProcessControl, Std, Subprocess, WaitTimeoutCrate};
use super::cases;
use super::contender::{Contender, NotOffered, Result};
use shared_child::{CaptureOptions, SpawnOptions};
use std::env;
use std::panic::catch_unwind;
use std::process::Command;
use std::time::Duration;

/// What a process is told that plays a case.
pub(crate) const PLAY: &str = "play";

const DEADLINE: Duration = Duration::from_secs(30);

/// So a shell says that it was a signal.
const SIGABRT: i32 = 128 + libc::SIGABRT;
const SIGSEGV: i32 = 128 + libc::SIGSEGV;

/// Plays the case of this name.
type Player = fn(&str) -> Result<String>;

/// Who is compared.
pub(crate) const WHO: [(&str, Player); 10] = [
    ("this crate", play::<Ours>),
    ("1.1.2", play::<Peer>),
    ("std", play::<Std>),
    ("duct", play::<Duct>),
    ("subprocess", play::<Subprocess>),
    ("process-wrap", play::<ProcessWrap>),
    ("process_control", play::<ProcessControl>),
    ("wait-timeout", play::<WaitTimeoutCrate>),
    ("tokio", play::<Tokio>),
    ("async-process", play::<AsyncProcess>),
];

fn play<C: Contender>(name: &str) -> Result<String> {
    let mut cases = cases::all::<C>().into_iter();
    let case = cases.find(|case| case.name == name).ok_or("no such case")?;
    match catch_unwind(case.play) {
        Ok(Err(error)) if error.is::<NotOffered>() => Ok(error.to_string()),
        Ok(played) => played,
        Err(_) => Ok("panics".into()),
    }
}

/// Plays it in this process.
pub(crate) fn here(case: &str, who: &str) -> Result<()> {
    let contender = WHO.iter().find(|(name, _)| *name == who).ok_or("no such contender")?;
    println!("{}", contender.1(case)?);
    Ok(())
}

/// Plays it in a process of its own, and reaps what that leaves behind, which goes with the process IDs in the end.
pub(crate) fn apart(case: &str, who: &str) -> Result<String> {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--mount-proc", "--kill-child"]);
    // The first process is a shell, so that the player is one like any other.
    command.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
    command.arg(env::current_exe()?).args([PLAY, case, who]);
    let captured =
        SpawnOptions::new().capture(&mut command, CaptureOptions::new().timeout(DEADLINE))?;
    if captured.stopped_by.is_some() {
        return Ok("hangs".into());
    }
    match captured.status.and_then(|status| status.code()) {
        Some(0) => Ok(captured.stdout.text().trim().to_owned()),
        Some(SIGABRT) => Ok("aborts the process".into()),
        Some(SIGSEGV) => Ok("crashes the process".into()),
        _ => {
            let stderr = captured.stderr.text();
            Err(format!("{case} of {who}: {:?}: {stderr}", captured.status).into())
        }
    }
}
