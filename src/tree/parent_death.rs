//! Linux: the threads that spawn the children that die with this process (`PR_SET_PDEATHSIG`, prctl(2)).
//!
//! The kernel sends that signal at the death of the *thread* that has spawned the child. So threads that live as long
//! as the process spawn such children.
//!
//! One thread suffices for nearly every program, since a spawn takes a millisecond. But a spawn lasts as long as the
//! caller's hooks in the child, which may block, and must not delay the spawns of other callers. And a thread cannot
//! end once it has spawned a child, so the number of threads must not grow with the number of callers. Therefore spawns
//! wait in one queue, and a caller starts one more thread if all threads are busy and none has begun a spawn for
//! [`PATIENCE`]. So there are at most as many threads as spawns that were ever in progress at the same time, and
//! usually one.
//!
//! No thread ends: a panic of std in a spawn is an error (`command.rs`).

use super::pre_exec::{self, Orders, Parent};
use crate::fork_guard::PerProcess;
use crate::sync::{Mutex, imp::Condvar};
use crate::sys::spawn_thread;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::process::{self, Child, Command};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

/// A spawn that lasts longer counts as blocked, for example by a hook.
const PATIENCE: Duration = Duration::from_millis(20);

/// The stack size of std: the caller's hooks run on a copy of this stack, and a panic of std runs the caller's panic
/// hook.
const STACK: usize = 2 << 20;

static THREADS: PerProcess<Threads> = PerProcess::new();

#[derive(Default)]
struct Threads {
    queue: Mutex<Queue>,
    /// A job was added.
    added: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    has_threads: bool,
    /// The number of threads that wait for a job, or are about to.
    idle: usize,
    /// The number of jobs begun so far.
    begun: u64,
}

type Spawned = io::Result<(Child, Option<OwnedFd>)>;

/// A command that is lent to a thread, which returns it with the result.
struct Job {
    command: Command,
    orders: Orders,
    answer: Arc<Answer>,
}

#[derive(Default)]
struct Answer {
    slot: sync::Mutex<Option<(Command, Spawned)>>,
    filled: sync::Condvar,
}

impl Answer {
    fn wait(&self, timeout: Duration) -> Option<(Command, Spawned)> {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(slot, timeout, |slot| slot.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    fn fill(&self, command: Command, spawned: Spawned) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((command, spawned));
        self.filled.notify_one();
    }
}

pub(super) fn spawn(command: &mut Command) -> Spawned {
    let threads = THREADS.get();
    let parent = Parent { id: process::id(), blocked: pre_exec::blocked_signals() };
    let answer = Arc::new(Answer::default());
    let mut begun = {
        let mut queue = threads.queue.lock();
        if !queue.has_threads {
            threads.start(&mut queue).map_err(|error| cannot_start(&error))?;
        }
        queue.waiting.push_back(Job {
            command: mem::replace(command, Command::new("")),
            orders: Orders { die_with: Some(parent), ..Orders::default() },
            answer: Arc::clone(&answer),
        });
        threads.added.notify_one();
        queue.begun
    };
    loop {
        if let Some((returned, spawned)) = answer.wait(PATIENCE) {
            *command = returned;
            return spawned;
        }
        let mut queue = threads.queue.lock();
        let is_stuck = queue.idle == 0 && queue.begun == begun;
        if is_stuck && !queue.waiting.is_empty() {
            // After an error, the busy threads take the jobs later.
            let _ = threads.start(&mut queue);
        }
        begun = queue.begun;
    }
}

impl Threads {
    fn start(&'static self, queue: &mut Queue) -> io::Result<()> {
        spawn_thread("child-parent", STACK, move || {
            loop {
                let mut job = self.next();
                let spawned = run(&mut job);
                self.queue.lock().idle += 1;
                job.answer.fill(job.command, spawned);
            }
        })?;
        queue.has_threads = true;
        queue.idle += 1;
        Ok(())
    }

    fn next(&self) -> Job {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.waiting.pop_front() {
                queue.idle -= 1;
                queue.begun += 1;
                return job;
            }
            queue = self.added.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run(job: &mut Job) -> Spawned {
    pre_exec::spawn(&mut job.command, &job.orders, |error| {
        let what =
            "cannot have the kernel kill the child when this process dies (PR_SET_PDEATHSIG)";
        explain(&error, what)
    })
}

fn cannot_start(error: &io::Error) -> io::Error {
    explain(error, "cannot start the thread that spawns children which die with this process")
}

fn explain(error: &io::Error, what: &str) -> io::Error {
    let remedy = "spawn without kill_with_parent, or remove the cause";
    io::Error::new(error.kind(), format!("{what}: {error}; {remedy}"))
}
