//! Linux: what a child does between fork and exec, where there is no other way.
//!
//! The hook stays on the command: std cannot take it off. So it does nothing by itself, but what the thread
//! that spawns has ordered, for this one spawn; and a fork copies its thread's variables. A hook more
//! from every such spawn of the same command is harmless, and costs two words: the first takes the order.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

#[derive(Clone, Copy)]
pub(super) enum Order {
    Nothing,
    /// Enter the cgroup whose `cgroup.procs` is open for writing here. Whatever goes wrong is written, as an
    /// errno, to the other descriptor: the caller could not tell it from an error of `exec`.
    Enter {
        procs: c_int,
        report: c_int,
    },
    /// Die when the thread dies that spawns; at once if that has come to pass. And start with these signals
    /// blocked, rather than with those of that thread.
    DieWith {
        parent: u32,
        blocked: libc::sigset_t,
    },
}

thread_local! {
    static ORDER: Cell<Order> = const { Cell::new(Order::Nothing) };
}

pub(super) fn spawn(command: &mut Command, order: Order) -> io::Result<Child> {
    // SAFETY: `obey` makes system calls only, that are async-signal-safe, and reads a variable of its thread
    // that is there from the start: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(obey) };
    ORDER.set(order);
    let spawned = crate::command::spawn(command);
    ORDER.set(Order::Nothing);
    spawned
}

fn obey() -> io::Result<()> {
    match ORDER.replace(Order::Nothing) {
        Order::Nothing => Ok(()),
        Order::Enter { procs, report } => enter(procs).inspect_err(|error| {
            let errno = error.raw_os_error().unwrap_or_default().to_ne_bytes();
            // SAFETY: the bytes outlive the call. If it fails, the error is told without its place.
            unsafe { libc::write(report, errno.as_ptr().cast(), errno.len()) };
        }),
        Order::DieWith { parent, blocked } => die_with(parent, &blocked),
    }
}

fn enter(procs: c_int) -> io::Result<()> {
    // The process that writes this.
    let myself = b"0";
    // SAFETY: the byte outlives the call.
    let written = unsafe { libc::write(procs, myself.as_ptr().cast(), myself.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn die_with(parent: u32, blocked: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: integers, and a set that outlives the call.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked, std::ptr::null_mut());
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The parent may have died before: then nothing will be sent any more.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// The signals that this thread has blocked.
pub(super) fn blocked_signals() -> libc::sigset_t {
    let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: without a new set, this only writes the current one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr());
        blocked.assume_init()
    }
}
