//! A spawn and a wait, and a handle.

use super::*;
use crate::ALLOCATOR;
use crate::peers::{Killed, Program};
use crate::system::count;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::hint::black_box;
use std::process::ExitStatus;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// std, and the libraries without variants.
const LIBRARIES: [Contender; 8] =
    [Std, ThisCrate, Fallback, SharedChild1, Duct, Subprocess, ProcessWrap, Tokio];
/// The number of programs that a contender runs in its turn.
const IN_A_ROW: usize = 20;

pub(super) fn measure_spawn(run: &Run) -> Result<Vec<Row>> {
    let rounds = worker::rounds(run, "spawn", &LIBRARIES, run.pick(15, 200), IN_A_ROW)?;
    Ok(vec![rounds.row("spawn and wait", "µs", Std).bar(1.03)])
}

/// The drop of the handle counts as well.
pub(super) fn spawn_sampler(contender: Contender, unit: Unit, timed: bool) -> Result<Sampler> {
    let mut spawner = Program { unit, ..short_lived() }.spawner(contender)?;
    let mut wait = move || match timed {
        true => spawner()?.wait_at_most(MINUTE)?.ok_or(io::ErrorKind::TimedOut.into()),
        false => spawner()?.wait(),
    };
    Ok(Box::new(move |programs| in_a_row(programs, &mut wait)))
}

/// Measures a wait with a timeout of a minute, against std's wait, which has none.
pub(super) fn measure_timed(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Std, Fallback][..], &Contender::TIMED].concat();
    let rounds = worker::rounds(run, "timed", &contenders, run.pick(8, 100), IN_A_ROW)?;
    Ok(vec![rounds.row("spawn and wait with a timeout", "µs", Std)])
}

/// Measures a tree against std with a process group, with and without the variable that marks a tree: std copies the
/// whole environment for a variable.
pub(super) fn measure_tree(run: &Run) -> Result<Vec<Row>> {
    let contenders = [Std, StdVariable, ThisCrate, ProcessWrap];
    let rounds = worker::rounds(run, "tree_spawn", &contenders, run.pick(15, 200), IN_A_ROW)?;
    let row = rounds.row("spawn and wait, a tree", "µs", Std).bar(1.05);
    let variable =
        rounds.row("spawn and wait, a tree, beside std with a variable", "µs", StdVariable);
    Ok(vec![
        row.only(&[Std, ThisCrate, ProcessWrap]),
        variable.only(&[StdVariable, ThisCrate]).bar(1.03),
    ])
}

/// Measures spawns in a process that has written to much memory. A fork copies the page tables; a `vfork`, which
/// `posix_spawn` uses, does not.
pub(super) fn measure_heap(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[StdHook, Tree][..], &LIBRARIES].concat();
    let (size, text) = run.pick((256 << 20, "256 MB"), (2 << 30, "2 GB"));
    let heap = vec![1_u8; size];
    let spawner = |it: &Contender| Ok((*it, short_lived().spawner(*it)?));
    let mut spawners = contenders.iter().map(spawner).collect::<Result<Vec<_>>>()?;
    let rounds = Rounds::run(run, &contenders, (1, run.pick(3, 12)), |contender| {
        let spawner = spawners.iter_mut().find(|(it, _)| *it == contender);
        let (_, spawner) = spawner.ok_or("no such contender")?;
        in_a_row(3, || spawner()?.wait())
    })?;
    black_box(&heap);
    Ok(vec![rounds.row(&format!("spawn and wait beside a heap of {text}"), "µs", Std)])
}

/// Returns the microseconds per program.
pub(super) fn in_a_row(
    programs: usize,
    mut spawn_and_wait: impl FnMut() -> io::Result<ExitStatus>,
) -> Result<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..programs {
        let status = spawn_and_wait()?;
        if !status.success() {
            return Err(format!("a program has failed: {status}").into());
        }
    }
    Ok(vec![start.elapsed().as_secs_f64() * 1e6 / programs as f64])
}

/// Measures `try_wait` on a running child, against the one system call that it requires.
pub(super) fn measure_try_wait(run: &Run) -> Result<Vec<Row>> {
    let contenders = [&[Raw][..], &LIBRARIES].concat();
    let rounds = worker::rounds(run, "try_wait", &contenders, run.pick(20, 200), 10_000)?;
    let name = "`try_wait` on a live child";
    Ok(vec![
        rounds.row(name, "ns", Raw).bar(1.3),
        rounds.row(&format!("{name}, beside std's"), "ns", Std),
    ])
}

/// The sampler returns nanoseconds per call.
pub(super) fn try_wait_sampler(contender: Contender) -> Result<Sampler> {
    let mut child = Killed(long_lived()?.spawn(if contender == Raw { Std } else { contender })?);
    let id = pid(child.0.id())?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(Box::new(move |calls| {
        let start = Instant::now();
        for _ in 0..calls {
            let exited = match contender {
                Raw => waitid(WaitId::Pid(id), options)?.is_some(),
                _ => child.0.try_wait()?.is_some(),
            };
            if black_box(exited) {
                return Err("the child has exited too early".into());
            }
        }
        Ok(vec![start.elapsed().as_secs_f64() * 1e9 / calls as f64])
    }))
}

pub(super) fn measure_handle(_: &Run) -> Result<Vec<Row>> {
    let costs = LIBRARIES.map(|it| Ok((it, worker::once("handle", it, 0, 100)?)));
    let costs = costs.into_iter().collect::<Result<Vec<_>>>()?;
    let row = |name, unit, which: usize| {
        let figures = costs.iter().map(|(contender, cost)| {
            let more = (*contender != Std).then(|| cost[which] - costs[0].1[which]);
            Figure::once(*contender, cost[which], more)
        });
        Row::new(name, unit, Compare::Difference, Std, figures.collect())
    };
    Ok(vec![
        row("a handle, with its heap", "bytes", 0).bar(128.0),
        row("of that, on the heap", "bytes", 1),
        row("a live handle", "descriptors", 2).bar(1.0),
        row("100 live handles", "threads", 3).bar(0.0),
    ])
}

/// In the worker: returns the bytes of a handle, how many of them are on its heap, the descriptors of a handle, and the
/// threads of all handles.
pub(super) fn handle_cost(contender: Contender, children: usize) -> Result<Vec<f64>> {
    let running = count("/proc/self/task")?;
    let mut spawner = long_lived()?.spawner(contender)?;
    // The first child makes the library create what it needs once per process. Threads count, because they stay.
    drop(Killed(spawner()?));
    // Some libraries release resources of that child in the background.
    thread::sleep(Duration::from_millis(100));
    let mut handles = Vec::with_capacity(children);
    let (bytes, open) = (heap_bytes(), count("/proc/self/fd")?);
    for _ in 0..children {
        handles.push(Killed(spawner()?));
    }
    let each = |after: usize, before: usize| (after - before) as f64 / children as f64;
    let (heap, inline) = (each(heap_bytes(), bytes), handles[0].0.size() as f64);
    let threads = (count("/proc/self/task")? - running) as f64;
    Ok(vec![heap + inline, heap, each(count("/proc/self/fd")?, open), threads])
}

pub(super) fn heap_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
