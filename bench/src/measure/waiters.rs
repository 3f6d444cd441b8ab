//! Many timed waits: what they cost while other children start and exit.
//!
//! Each contender waits in one process, for children that keep running, with a thread per wait; tokio has a task per wait,
//! on one worker thread. Meanwhile this process spawns other children with std, one after the other, and the figure is its
//! CPU time per child.

use super::*;
use crate::system::until_others_sleep;
use rustix::process::{Signal, kill_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Longer than the children run.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn measure(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Nothing, Polling][..], &Contender::TIMED].concat();
    let mut rows = Vec::new();
    for &waits in run.pick(&[50, 200][..], &[100, 400, 800, 2_000]) {
        // Each round has new processes: all at once would be too many for a machine.
        let rounds = Rounds::run(run, &contenders, (0, run.pick(1, MIN_ROUNDS)), |contender| {
            let mut worker = worker::Worker::start("waiters", contender, waits)?;
            // Libraries that wake every waiter for every child take twenty times as long.
            let fewer = matches!(contender, SharedChild1 | Duct);
            let children = run.pick(30_usize, 300) / if fewer { 20 } else { 1 };
            worker.sample(children.div_ceil(10))?;
            worker.sample(children)
        })?;
        let name = format!("CPU time a child, beside {waits} timed waits");
        let row = rounds.row(&name, "µs", Nothing);
        let bar = (waits == 800).then_some(1.5);
        rows.push(Row { bar, at: Some(waits), ..row });
    }
    Ok(rows)
}

/// The sampler returns the CPU time of this process per child, in microseconds.
pub(super) fn sampler(contender: Contender, waits: usize) -> Result<Sampler> {
    let waiters = Waiters::start(contender, waits)?;
    Ok(Box::new(move |children| {
        let start = cpu_time();
        for _ in 0..children {
            let status = short_lived().command().spawn()?.wait()?;
            if !status.success() {
                return Err(format!("a child has failed: {status}").into());
            }
        }
        // Waiters that were woken need time to block again. Polling ones would spend that time as well.
        let rest = if contender == Polling { 0 } else { 50 };
        thread::sleep(Duration::from_millis(rest));
        let spent = cpu_time() - start;
        waiters.check()?;
        Ok(vec![spent.as_secs_f64() * 1e6 / children as f64])
    }))
}

/// Timed waits that last until this is dropped.
struct Waiters {
    /// The number of waiters in their wait.
    waiting: Arc<AtomicUsize>,
    /// The children, which are not reaped before the drop kills them.
    ids: Vec<u32>,
}

impl Waiters {
    /// Returns when all waiters are blocked.
    fn start(contender: Contender, waits: usize) -> Result<Self> {
        allow_descriptors()?;
        let mut waiters = Self { waiting: Arc::default(), ids: Vec::new() };
        match contender {
            Nothing => return Ok(waiters),
            Tokio => waiters.add_tasks(waits)?,
            _ => waiters.add_threads(contender, waits)?,
        }
        while waiters.check().is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        if contender != Polling {
            until_others_sleep()?;
        }
        Ok(waiters)
    }

    fn add_threads(&mut self, contender: Contender, waits: usize) -> Result<()> {
        let mut spawner = long_lived()?.spawner(contender)?;
        // All spawns come before the first thread: a fork would copy the mappings of every stack.
        let children = (0..waits).map(|_| spawner()).collect::<io::Result<Vec<_>>>()?;
        for mut child in children {
            self.ids.push(child.id());
            let waiting = Arc::clone(&self.waiting);
            thread::Builder::new().stack_size(128 << 10).spawn(move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                while contender == Polling && matches!(child.try_wait(), Ok(None)) {
                    thread::sleep(Duration::from_millis(10));
                }
                // `check` fails if a wait returns, whatever it returns, before the measurement ends.
                let _ = child.wait_at_most(TIMEOUT);
                waiting.fetch_sub(1, Ordering::Relaxed);
            })?;
        }
        Ok(())
    }

    fn add_tasks(&mut self, waits: usize) -> Result<()> {
        // The runtime lives as long as this process.
        let runtime = Box::leak(Box::new(one_worker()?));
        let _context = runtime.enter();
        let mut spawn = awaited(Tokio, long_lived()?);
        for _ in 0..waits {
            let (id, status) = spawn()?;
            self.ids.push(id);
            let waiting = Arc::clone(&self.waiting);
            runtime.spawn(async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                let _ = tokio::time::timeout(TIMEOUT, status).await;
                waiting.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let all = self.waiting.load(Ordering::Relaxed) == self.ids.len();
        if all { Ok(()) } else { Err("a wait has returned too early".into()) }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        for id in &self.ids {
            let _ = pid(*id).map(|id| kill_process(id, Signal::KILL));
        }
    }
}
