//! Linux: a thread for children that are to die with this process (`PR_SET_PDEATHSIG`, prctl(2)).
//!
//! What the kernel means by the death of the parent is the death of the *thread* that has spawned the child.
//! So such children are spawned by a thread that lives as long as the process. It is started by the first
//! of them.

use super::before_exec::{self, Order};
use crate::exit::{PerProcess, spawn_helper};
use crate::sync::Mutex;
use std::io;
use std::mem;
use std::process::{self, Child, Command};
use std::sync::mpsc::{self, Sender};

pub(super) const AVAILABLE: bool = true;

/// The way to the thread, once there is one.
static NURSERY: PerProcess<Mutex<Option<Sender<Job>>>> = PerProcess::new();

/// The command goes there and comes back.
struct Job {
    command: Command,
    order: Order,
    answer: Sender<(Command, io::Result<Child>)>,
}

pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    let thread = thread()?;
    let order = Order::DieWith { parent: process::id(), blocked: before_exec::blocked_signals() };
    let (answer, answered) = mpsc::channel();
    let job = Job { command: mem::replace(command, Command::new("")), order, answer };
    if let Err(mpsc::SendError(job)) = thread.send(job) {
        *command = job.command;
        return Err(io::Error::other("the thread that spawns children has ended"));
    }
    let (theirs, spawned) = answered
        .recv()
        .map_err(|_| io::Error::other("the thread that spawns children has panicked"))?;
    *command = theirs;
    spawned
}

fn thread() -> io::Result<Sender<Job>> {
    let mut thread = NURSERY.get().lock();
    if let Some(thread) = &*thread {
        return Ok(thread.clone());
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    let started = spawn_helper("child-nursery", move || {
        // The sender that is kept in the static keeps this going for ever.
        for Job { mut command, order, answer } in jobs {
            let spawned = before_exec::spawn(&mut command, order);
            // Whoever asked waits for it.
            let _ = answer.send((command, spawned));
        }
    });
    started.map_err(|error| {
        let message = format!("cannot start the thread whose children die with it: {error}");
        io::Error::new(error.kind(), message)
    })?;
    Ok(thread.insert(sender).clone())
}
