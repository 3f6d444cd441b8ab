//! Timed waits, many of them: what they cost while other children come and go, and what they cost while nothing happens.
//!
//! Every contender's waits are in one process, each for a child of its own that lives on. For the churn the process
//! meanwhile spawns other children, one after the other, with std. The CPU time that the process spends on each is set
//! against the same without any waits. When idle, it is the CPU time of the process itself: who polls, spends it.
//!
//! A wait is a thread that is blocked in it. With tokio and async-process it is a task, as is their way, on tokio's
//! executor with one worker.

use crate::cli::Result;
use crate::contender::{AnyHandle, Who, long_lived, short_lived, timed_out};
use crate::futures::{Exit, awaited};
use crate::procfs::{allow_descriptors, cpu_time, until_others_sleep};
use crate::report::Row;
use crate::rounds::{ENOUGH, Rounds};
use crate::run::Run;
use crate::worker::{self, Sampler, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::{self, Runtime};

pub(crate) const CHURN: &str = "waiters";
pub(crate) const IDLE: &str = "idle";

/// Longer than the children live.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Of idle waits.
const IDLE_WAITS: usize = 100;

pub(crate) fn measure_churn(run: &Run) -> Result<Vec<Row>> {
    /// The waits that the bar is for.
    const BARRED: usize = 800;
    const BAR: f64 = 1.5;
    let contenders = [&[Who::Nobody][..], &Who::TIMED].concat();
    let curve: &[usize] = run.pick(&[50, 200], &[100, 400, BARRED, 2_000]);
    let mut rows = Vec::new();
    for &waits in curve {
        // The process is another one each round: all of them together would be more than a machine has room for.
        let rounds = Rounds::cold(run, &contenders, run.pick(1, ENOUGH), |who| {
            let mut worker = Worker::start_beside(CHURN, who, waits)?;
            let children = samples_of(who, run.pick(30, 300));
            worker.ask(children.div_ceil(10))?;
            worker.ask(children)
        })?;
        let name = format!("CPU time a child, beside {waits} timed waits");
        let row = rounds.row(&name, "µs", Who::Nobody).at(waits);
        rows.push(if waits == BARRED { row.bar(BAR) } else { row });
    }
    Ok(rows)
}

/// Those who wake every waiter for every child show it with a twentieth of them as well: the figure is for one.
fn samples_of(who: Who, children: usize) -> usize {
    match who {
        Who::Peer | Who::Duct | Who::WaitTimeout => children / 20,
        _ => children,
    }
}

pub(crate) fn measure_idle(run: &Run) -> Result<Vec<Row>> {
    let (rounds, milliseconds) = (run.pick(1, ENOUGH), run.pick(300, 1_000));
    let rounds = worker::rounds(run, IDLE, &Who::TIMED, rounds, milliseconds)?;
    let name = format!("CPU time a second, of {IDLE_WAITS} timed waits while nothing happens");
    Ok(vec![rounds.row_of_figures(&name, "µs", Who::Raw)])
}

/// In the worker: the CPU time of this process for each of so many other children, in microseconds.
pub(crate) fn churn_sampler(who: Who, waits: usize) -> Result<Sampler> {
    /// For waiters that were woken and are not through yet.
    const SETTLE: Duration = Duration::from_millis(50);
    let waiters = Waiters::start(who, waits)?;
    Ok(Box::new(move |children| {
        let start = cpu_time()?;
        for _ in 0..children {
            let status = short_lived().command().spawn()?.wait()?;
            if !status.success() {
                return Err(format!("a child has failed: {status}").into());
            }
        }
        // Who polls has none of those, and would spend this time as well.
        if who != Who::Polling {
            thread::sleep(SETTLE);
        }
        let spent = cpu_time()? - start;
        waiters.check()?;
        Ok(vec![spent.as_secs_f64() * 1e6 / children as f64])
    }))
}

/// In the worker: the CPU time of this process a second, in microseconds, over so many milliseconds.
pub(crate) fn idle_sampler(who: Who) -> Result<Sampler> {
    let waiters = Waiters::start(who, IDLE_WAITS)?;
    Ok(Box::new(move |milliseconds| {
        let (from, start) = (Instant::now(), cpu_time()?);
        thread::sleep(Duration::from_millis(u64::try_from(milliseconds)?));
        let (spent, time) = (cpu_time()? - start, from.elapsed());
        waiters.check()?;
        Ok(vec![spent.as_secs_f64() * 1e6 / time.as_secs_f64()])
    }))
}

/// Waits, until this is dropped.
struct Waiters {
    /// How many are, at this moment, in their wait.
    waiting: Arc<AtomicUsize>,
    /// Of the children. They live until this kills them, and are not reaped before.
    ids: Vec<libc::pid_t>,
    threads: Vec<JoinHandle<()>>,
    tasks: Option<Runtime>,
}

impl Waiters {
    /// Returns when all of them are blocked.
    fn start(who: Who, waits: usize) -> Result<Self> {
        allow_descriptors()?;
        let mut waiters =
            Self { waiting: Arc::default(), ids: Vec::new(), threads: Vec::new(), tasks: None };
        match who {
            Who::Nobody => return Ok(waiters),
            Who::Tokio | Who::AsyncProcess => waiters.add_tasks(who, waits)?,
            _ => waiters.add_threads(who, waits)?,
        }
        waiters.until_blocked(who)?;
        Ok(waiters)
    }

    fn add_threads(&mut self, who: Who, waits: usize) -> Result<()> {
        /// Their waits make system calls, and little more.
        const STACK: usize = 128 * 1024;
        let mut spawner = long_lived()?.spawner(who)?;
        // All of them before the first thread: who forks would copy the mappings of every stack.
        let mut children: Vec<AnyHandle> = Vec::with_capacity(waits);
        for _ in 0..waits {
            let child = spawner()?;
            self.ids.push(child.id().cast_signed());
            children.push(child);
        }
        for mut child in children {
            let waiting = Arc::clone(&self.waiting);
            let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                // However this ends, it must not before the measurement does, which counts.
                let _ = child.wait_timeout(TIMEOUT);
                waiting.fetch_sub(1, Ordering::Relaxed);
            })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn add_tasks(&mut self, who: Who, waits: usize) -> Result<()> {
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let runtime = self.tasks.insert(runtime);
        let _context = runtime.enter();
        let mut spawn = awaited(who, long_lived()?);
        for _ in 0..waits {
            let Exit { id, status } = spawn()?;
            self.ids.push(id.cast_signed());
            let waiting = Arc::clone(&self.waiting);
            runtime.spawn(async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                match who {
                    Who::Tokio => drop(tokio::time::timeout(TIMEOUT, status).await),
                    _ => drop(timed_out(status, TIMEOUT).await),
                }
                waiting.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.waiting.load(Ordering::Relaxed) == self.ids.len() {
            Ok(())
        } else {
            Err("a waiter has left".into())
        }
    }

    fn until_blocked(&self, who: Who) -> Result<()> {
        self.until_waiting(self.ids.len())?;
        if who == Who::Polling {
            // They would hardly be found asleep all at once.
            thread::sleep(Duration::from_millis(100));
            return Ok(());
        }
        until_others_sleep()
    }

    fn until_waiting(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.waiting.load(Ordering::Relaxed) != count {
            if Instant::now() > deadline {
                return Err("the waiters do not come or go".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        for id in &self.ids {
            // SAFETY: two integers go in.
            unsafe { libc::kill(*id, libc::SIGKILL) };
        }
        // Each reaps its child.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if self.tasks.is_some() {
            let _ = self.until_waiting(0);
        }
    }
}
