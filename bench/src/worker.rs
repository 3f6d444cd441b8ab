//! Contenders in processes of their own, which take samples on request, one process at a time. shared_child 1.1.2 keeps a
//! SIGCHLD handler, which in a shared process would interrupt the waits of the other contenders; and a process with
//! several threads pays more for some system calls.

use crate::cli::Result;
use crate::measure;
use crate::peers::Contender;
use crate::rounds::{Rounds, Run};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// The argument that makes this program a worker.
pub(crate) const WORKER: &str = "__worker";

/// Takes this many samples at a time.
pub(crate) type Sampler = Box<dyn FnMut(usize) -> Result<Vec<f64>>>;

/// Runs rounds in which each contender takes `samples` samples, with one worker per contender.
pub(crate) fn rounds(
    run: &Run,
    kind: &str,
    contenders: &[Contender],
    rounds: usize,
    samples: usize,
) -> Result<Rounds> {
    let workers = contenders.iter().map(|it| Ok((*it, Worker::start(kind, *it, 0)?)));
    let mut workers = workers.collect::<Result<Vec<_>>>()?;
    Rounds::run(run, contenders, (1, rounds), |contender| {
        let worker = workers.iter_mut().find(|(it, _)| *it == contender);
        worker.ok_or("no such worker")?.1.sample(samples)
    })
}

/// Returns the samples of a new worker, without the first `warm_up` ones.
pub(crate) fn once(kind: &str, who: Contender, warm_up: usize, samples: usize) -> Result<Vec<f64>> {
    Ok(Worker::start(kind, who, 0)?.sample(warm_up + samples)?.split_off(warm_up))
}

/// A worker process. Its drop closes the worker's standard input, at which the worker exits.
pub(crate) struct Worker(Child);

impl Worker {
    /// Starts a worker with a parameter whose meaning depends on the kind.
    pub(crate) fn start(kind: &str, contender: Contender, parameter: usize) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([WORKER, kind, contender.name(), &parameter.to_string()]);
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    pub(crate) fn sample(&mut self, count: usize) -> Result<Vec<f64>> {
        writeln!(self.0.stdin.as_mut().ok_or("no pipe to the worker")?, "{count}")?;
        // The worker replies with one line, so the buffer holds nothing afterwards.
        let mut reply = String::new();
        let replies = self.0.stdout.as_mut().ok_or("no pipe from the worker")?;
        BufReader::new(replies).read_line(&mut reply)?;
        if reply.is_empty() {
            return Err("the worker has failed".into());
        }
        Ok(reply.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

pub(crate) fn serve(kind: &str, contender: &str, parameter: usize) -> Result<()> {
    limit_time();
    let contender = Contender::named(contender).ok_or("no such contender")?;
    let mut sampler = measure::sampler(kind, contender, parameter)?;
    for request in io::stdin().lines() {
        limit_time();
        let samples = sampler(request?.parse()?)?.into_iter().map(|sample| format!("{sample} "));
        println!("{}", samples.collect::<String>());
    }
    Ok(())
}

/// Ends this process unless it calls this function again within 15 minutes: several times longer than any sample takes.
pub(crate) fn limit_time() {
    // SAFETY: `alarm` has an integer as its argument. SIGALRM has no handler here, so it ends the process.
    unsafe { libc::alarm(900) };
}
