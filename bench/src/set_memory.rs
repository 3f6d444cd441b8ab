//! The heap that a set of 10,000 takes while they run, with the handles that it holds: what is counted is all that this
//! process has in use more than before the first spawn. What a spawn takes and gives back is not in it.

use crate::allocator;
use crate::brood::Brood;
use crate::cli::Result;
use crate::contender::Who;
use crate::procfs::allow_descriptors;
use crate::report::{Compare, Figure, Row};
use crate::run::Run;
use crate::set;

pub(crate) fn measure(run: &Run) -> Result<Vec<Row>> {
    /// For 10,000 children, in kilobytes: 3 MB.
    const BAR: f64 = 3000.0;
    let children: usize = run.pick(250, 10_000);
    allow_descriptors()?;
    // Whatever is set up once and for all, before counting.
    set::exits(1)?;
    let mut brood = Brood::new()?;
    let mut command = brood.program()?.command();
    let before = allocator::bytes();
    let filled = set::filled(&mut command, children)?;
    let heap = allocator::bytes() - before;
    brood.release();
    set::hand_out(&filled)?;
    let heap = heap as f64 / 1e3;
    let figure = Figure::once(Who::Ours, heap, Some(heap));
    let name = format!("heap of a set of {children}, handles included");
    let row = Row::new(&name, "kB", Compare::Nothing, Who::Ours, vec![figure]);
    Ok(vec![row.bar(BAR * children as f64 / 1e4)])
}
