//! `try_wait` on a child that is alive, beside the one system call that it takes.

use crate::cli::{Effort, Result};
use crate::contender::{Fallback, Handle, Killed, Ours, Peer, Who, long_lived};
use crate::report::Row;
use crate::rounds::Rounds;
use std::hint::black_box;
use std::io;
use std::mem::MaybeUninit;
use std::process::Child;
use std::time::Instant;

/// Calls in a row, before the next contender's turn.
const IN_A_ROW: u32 = 10_000;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut std = Killed::<Child>::spawn(&mut long_lived())?;
    let mut ours = Killed::<Ours>::spawn(&mut long_lived())?;
    let mut fallback = Killed::<Fallback>::spawn(&mut long_lived())?;
    let mut peer = Killed::<Peer>::spawn(&mut long_lived())?;
    let contenders = [Who::Raw, Who::Std, Who::Ours, Who::Fallback, Who::Peer];
    let rounds = Rounds::run(&contenders, effort.pick(20, 200), |who| match who {
        Who::Ours => sample(|| ours.try_wait().map(|status| status.is_some())),
        Who::Fallback => sample(|| fallback.try_wait().map(|status| status.is_some())),
        Who::Peer => sample(|| peer.try_wait().map(|status| status.is_some())),
        Who::Std => sample(|| std.try_wait().map(|status| status.is_some())),
        _ => sample(|| waitid(std.id())),
    })?;
    let name = "`try_wait` on a live child";
    Ok(vec![
        rounds.row(name, "ns", Who::Raw).bar(1.3),
        rounds.row(&format!("{name}, beside std's"), "ns", Who::Std),
    ])
}

/// Nanoseconds a call. `has_exited` must say no.
fn sample(mut has_exited: impl FnMut() -> io::Result<bool>) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..IN_A_ROW {
        if black_box(has_exited()?) {
            return Err("a child that should be alive has exited".into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e9 / f64::from(IN_A_ROW)])
}

/// One raw system call that does not reap.
fn waitid(id: u32) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a writable siginfo_t.
    if unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and zeroes are a valid siginfo_t, as is what the kernel writes.
    Ok(unsafe { info.assume_init() }.si_signo != 0)
}
