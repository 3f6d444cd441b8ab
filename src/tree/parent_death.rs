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
//! A spawn cannot end its thread: a panic of std is an error (`command.rs`).

use super::pre_exec::{self, Orders, Parent};
use crate::fork_guard::PerProcess;
use crate::sync::{Mutex, MutexGuard, imp::Condvar};
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
    threads: usize,
    /// The number of threads that wait for a job, or are about to.
    idle: usize,
    /// The number of jobs begun so far.
    begun: u64,
}

type Spawned = io::Result<(Child, Option<OwnedFd>)>;

/// A command that is lent to a thread. Dropping the job returns it to the caller, on every path.
struct Job {
    command: Command,
    orders: Orders,
    spawned: Spawned,
    answer: Arc<Answer>,
}

/// The result that a thread returns to the caller.
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
}

impl Job {
    fn finish(mut self, spawned: Spawned) {
        self.spawned = spawned;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let command = mem::replace(&mut self.command, Command::new(""));
        let spawned = mem::replace(&mut self.spawned, Err(unfinished()));
        let mut slot = self.answer.slot.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some((command, spawned));
        self.answer.filled.notify_one();
    }
}

fn unfinished() -> io::Error {
    io::Error::other(
        "cannot spawn the child: the thread that spawns children which die with this process has ended; \
         spawn again, which starts another thread",
    )
}

pub(super) fn spawn(command: &mut Command) -> Spawned {
    let threads = THREADS.get();
    let parent = Parent { id: process::id(), blocked: pre_exec::blocked_signals() };
    let answer = Arc::new(Answer::default());
    let job = Job {
        command: mem::replace(command, Command::new("")),
        orders: Orders { die_with: Some(parent), ..Orders::default() },
        spawned: Err(unfinished()),
        answer: Arc::clone(&answer),
    };
    let mut begun = threads.add(job);
    loop {
        if let Some((returned, spawned)) = answer.wait(PATIENCE) {
            *command = returned;
            return spawned;
        }
        begun = threads.support(threads.queue.lock(), Some(begun));
    }
}

impl Threads {
    /// Queues a job. Returns the number of jobs that were begun so far.
    fn add(&'static self, job: Job) -> u64 {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(job);
        self.added.notify_one();
        self.support(queue, None)
    }

    /// Starts a thread if there is none, or if all are busy and none has begun a job since the count was `begun`.
    fn support(&'static self, mut queue: MutexGuard<'_, Queue>, begun: Option<u64>) -> u64 {
        let is_stuck = queue.idle == 0 && begun == Some(queue.begun);
        if (queue.threads == 0 || is_stuck) && !queue.waiting.is_empty() {
            match self.start() {
                Ok(()) => {
                    queue.threads += 1;
                    queue.idle += 1;
                }
                // The other threads take the jobs later.
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    let failed = mem::take(&mut queue.waiting);
                    drop(queue);
                    for job in failed {
                        job.finish(Err(cannot_start(&error)));
                    }
                    return 0;
                }
            }
        }
        queue.begun
    }

    fn start(&'static self) -> io::Result<()> {
        spawn_thread("child-parent", STACK, move || {
            /// The next spawn replaces a thread that has ended.
            struct Alive(&'static Threads);
            impl Drop for Alive {
                fn drop(&mut self) {
                    self.0.queue.lock().threads -= 1;
                }
            }
            let alive = Alive(self);
            loop {
                let mut job = alive.0.next();
                let spawned = run(&mut job);
                job.finish(spawned);
                alive.0.queue.lock().idle += 1;
            }
        })
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
    pre_exec::spawn(&mut job.command, &job.orders).map_err(|error| match error {
        pre_exec::Error::Orders(error) => explain(
            &error,
            "cannot have the kernel kill the child when this process dies (PR_SET_PDEATHSIG)",
        ),
        pre_exec::Error::Spawn(error) => error,
    })
}

fn cannot_start(error: &io::Error) -> io::Error {
    explain(error, "cannot start the thread that spawns children which die with this process")
}

fn explain(error: &io::Error, what: &str) -> io::Error {
    let remedy = "spawn without kill_with_parent, or remove the cause";
    io::Error::new(error.kind(), format!("{what}: {error}; {remedy}"))
}
