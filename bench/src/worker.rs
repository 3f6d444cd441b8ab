//! Contenders in processes of their own.
//!
//! shared_child 1.1.2 installs a SIGCHLD handler at its first timed wait, and leaves it there. In
//! one process with the others it would interrupt their waits too. So where timed waits are
//! measured, each contender runs in a worker process: this program, started again. Asked for so
//! many samples, it takes them while the others sleep.

use crate::cli::Result;
use crate::contender::Who;
use crate::waiters::{self, Waiters};
use crate::{futures, set, wake};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// The hidden argument that makes this program a worker.
pub(crate) const WORKER: &str = "__worker";

/// A worker seen from outside.
pub(crate) struct Worker {
    process: Child,
}

impl Worker {
    pub(crate) fn start(kind: &str, who: Who) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([WORKER, kind, who.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
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

/// The life of a worker.
pub(crate) fn serve(kind: &str, who: &str) -> Result<()> {
    limit_time();
    let who = Who::named(who).ok_or("no such contender")?;
    let mut sampler: Box<dyn FnMut(usize) -> Result<Vec<f64>>> = match kind {
        set::KIND => Box::new(move |count| set::samples(who, count)),
        futures::CPU => Box::new(move |count| futures::cpu_times(who, count)),
        futures::WAKE => Box::new(move |count| futures::latencies(who, count)),
        wake::KIND => Box::new(move |count| wake::samples(who, count)),
        waiters::KIND => {
            let waiters = Waiters::start(who)?;
            Box::new(move |count| waiters.churn(count))
        }
        _ => return Err("no such worker".into()),
    };
    for request in io::stdin().lines() {
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
