//! Contenders in processes of their own.
//!
//! shared_child 1.1.2 installs a SIGCHLD handler at its first timed wait, and leaves it there. In
//! one process with the others it would interrupt their waits too. So where timed waits are
//! measured, each contender runs in a worker process: this program, started again. Asked for so
//! many samples, it takes them while the others sleep. The same goes for whoever starts threads: a
//! process that has any pays more for some system calls.

use crate::cli::Result;
use crate::contender::Who;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::{capture, futures, handle, set, spawn, timed, try_wait, waiters, wake};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// The hidden argument that makes this program a worker.
pub(crate) const WORKER: &str = "__worker";

/// Rounds in each of which every contender takes so many samples, always in the same worker of its own.
pub(crate) fn rounds(
    run: &Run,
    kind: &str,
    contenders: &[Who],
    rounds: usize,
    samples: usize,
) -> Result<Rounds> {
    let mut workers = Vec::new();
    for who in contenders {
        workers.push((*who, Worker::start(kind, *who)?));
    }
    Rounds::run(run, contenders, rounds, |who| {
        let worker = workers.iter_mut().find(|(it, _)| *it == who);
        let (_, worker) = worker.ok_or("no such worker")?;
        worker.ask(samples)
    })
}

/// A worker seen from outside.
pub(crate) struct Worker {
    process: Child,
}

impl Worker {
    pub(crate) fn start(kind: &str, who: Who) -> Result<Self> {
        Self::start_beside(kind, who, 0)
    }

    /// One that has so many children at all times.
    pub(crate) fn start_beside(kind: &str, who: Who, children: usize) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([WORKER, kind, who.name(), &children.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self { process: command.spawn()? })
    }

    /// Has it take `count` samples.
    pub(crate) fn ask(&mut self, count: usize) -> Result<Vec<f64>> {
        let requests = self.process.stdin.as_mut().ok_or("no pipe to the worker")?;
        writeln!(requests, "{count}")?;
        // It answers with one line and then waits for the next request, so nothing is left in the
        // buffer.
        let replies = self.process.stdout.as_mut().ok_or("no pipe from the worker")?;
        let mut reply = String::new();
        BufReader::new(replies).read_line(&mut reply)?;
        let samples: Vec<f64> =
            reply.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
        if samples.is_empty() { Err("the worker has failed".into()) } else { Ok(samples) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // This closes its standard input, at which it cleans up and exits.
        let _ = self.process.wait();
    }
}

/// Takes so many samples.
pub(crate) type Sampler = Box<dyn FnMut(usize) -> Result<Vec<f64>>>;

/// The life of a worker.
pub(crate) fn serve(kind: &str, who: &str, children: &str) -> Result<()> {
    limit_time();
    let who = Who::named(who).ok_or("no such contender")?;
    let mut sampler: Sampler = match kind {
        spawn::KIND => spawn::sampler(who)?,
        timed::KIND => timed::sampler(who)?,
        try_wait::KIND => try_wait::sampler(who)?,
        handle::KIND => Box::new(move |children| handle::cost(who, children)),
        capture::MUCH => Box::new(move |mib| capture::much(who, mib)),
        capture::MANY => Box::new(move |commands| capture::many(who, commands)),
        set::KIND => Box::new(move |count| set::samples(who, count)),
        futures::WAKE => Box::new(move |count| futures::latencies(who, count)),
        wake::KIND => Box::new(move |count| wake::samples(who, count)),
        waiters::CHURN => waiters::churn_sampler(who, children.parse()?)?,
        waiters::IDLE => waiters::idle_sampler(who)?,
        _ => return Err("no such worker".into()),
    };
    for request in io::stdin().lines() {
        limit_time();
        let samples = sampler(request?.parse()?)?;
        let samples: Vec<String> = samples.iter().map(f64::to_string).collect();
        println!("{}", samples.join(" "));
    }
    Ok(())
}

/// The last resort against hanging: ends this process if it does not call this again, or end,
/// within the time that any measurement needs several times over.
pub(crate) fn limit_time() {
    // SAFETY: `alarm` takes an integer. Nothing here handles SIGALRM, which then ends the process.
    unsafe { libc::alarm(900) };
}
