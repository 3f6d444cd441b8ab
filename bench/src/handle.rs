//! A handle: its bytes, its descriptors, its threads.

use crate::cli::{Effort, Result};
use crate::contender::{Fallback, Handle, Killed, Ours, Peer, Who, long_lived};
use crate::procfs::{descriptors, threads};
use crate::report::{Compare, Figure, Interval, Row};
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};

const CHILDREN: usize = 100;

/// What a live handle takes.
struct Cost {
    who: Who,
    inline: f64,
    heap: f64,
    descriptors: f64,
    threads: f64,
}

pub(crate) fn measure(_: Effort) -> Result<Vec<Row>> {
    // Whatever is set up once and for all, before counting.
    drop(Killed::<Child>::spawn(&mut long_lived())?);
    let costs = [
        cost::<Child>(Who::Std)?,
        cost::<Ours>(Who::Ours)?,
        cost::<Fallback>(Who::Fallback)?,
        cost::<Peer>(Who::Peer)?,
    ];
    Ok(vec![
        row("a handle, with its heap", "bytes", &costs, |cost| cost.inline + cost.heap).bar(128.0),
        row("of that, on the heap", "bytes", &costs, |cost| cost.heap),
        row("a live handle", "descriptors", &costs, |cost| cost.descriptors).bar(1.0),
        row("100 live handles", "threads", &costs, |cost| cost.threads).bar(0.0),
    ])
}

fn cost<H: Handle>(who: Who) -> Result<Cost> {
    let mut command = long_lived();
    let mut handles = Vec::with_capacity(CHILDREN);
    let (heap, open, running) = (Counting::bytes(), descriptors()?, threads()?);
    for _ in 0..CHILDREN {
        handles.push(Killed::<H>::spawn(&mut command)?);
    }
    let each = |after: usize, before: usize| (after - before) as f64 / CHILDREN as f64;
    Ok(Cost {
        who,
        inline: size_of::<H>() as f64,
        heap: each(Counting::bytes(), heap),
        descriptors: each(descriptors()?, open),
        threads: (threads()? - running) as f64,
    })
}

fn row(name: &str, unit: &'static str, costs: &[Cost], of: fn(&Cost) -> f64) -> Row {
    let reference = of(&costs[0]);
    let figures = costs.iter().map(|cost| {
        let value = of(cost);
        let more = value - reference;
        let against = Interval { low: more, mid: more, high: more };
        Figure {
            who: cost.who,
            min: value,
            median: value,
            p95: value,
            against: (cost.who != costs[0].who).then_some(against),
        }
    });
    Row::new(name, unit, Compare::Difference, costs[0].who, figures.collect())
}

/// The system's allocator, with a count of the bytes in use.
pub(crate) struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    pub(crate) fn bytes() -> usize {
        IN_USE.load(Ordering::Relaxed)
    }
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    // Not by a copy, as it would be by default: who captures much output would be measured by that.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        IN_USE.fetch_add(size, Ordering::Relaxed);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}
