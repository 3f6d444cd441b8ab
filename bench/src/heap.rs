//! `spawn` and `wait` in a process with a big heap, all of which was written to. A fork copies the page tables of it; a
//! `vfork`, which `posix_spawn` is, does not. So it shows who forks.

use crate::cli::Result;
use crate::contender::{Spawner, Who, short_lived};
use crate::report::Row;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::spawn::in_a_row;
use std::fs;
use std::hint::black_box;

/// Programs run in a row, before the next contender's turn.
const IN_A_ROW: usize = 3;

const CONTENDERS: [Who; 11] = [
    Who::Raw,
    Who::Std,
    Who::Hooked,
    Who::Ours,
    Who::Tree,
    Who::Peer,
    Who::Duct,
    Who::Subprocess,
    Who::ProcessWrap,
    Who::Tokio,
    Who::AsyncProcess,
];

/// All in this process: there is no room for a heap for each.
pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    let (size, text) = run.pick((256 << 20, "256 MB"), (2 << 30, "2 GB"));
    if available().is_some_and(|available| available < size + (size >> 1)) {
        eprintln!("no room for a heap of {text} here, so none is measured");
        return Ok(Vec::new());
    }
    let heap = vec![1_u8; size];
    let mut spawners: Vec<(Who, Spawner)> = Vec::new();
    for who in CONTENDERS {
        spawners.push((who, short_lived().spawner(who)?));
    }
    let rounds = Rounds::run(run, &CONTENDERS, run.pick(3, 12), |who| {
        let spawner = spawners.iter_mut().find(|(it, _)| *it == who);
        let (_, spawner) = spawner.ok_or("no such contender")?;
        in_a_row(IN_A_ROW, || spawner()?.wait())
    })?;
    black_box(&heap);
    Ok(vec![rounds.row(&format!("spawn and wait beside a heap of {text}"), "µs", Who::Std)])
}

/// The bytes that this machine has room for.
fn available() -> Option<usize> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}
