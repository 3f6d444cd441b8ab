//! Promise: with a limit, a capture uses little more memory than the limit, however long the output is.

use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{CaptureOptions, Limit, SpawnOptions, Stream};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a count of this process's bytes. A block that grows is counted twice for a moment.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(size: usize) {
    let now = NOW.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        more(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn memory_is_bounded_by_the_limit() {
    alone!();
    const MIB: usize = 1 << 20;
    const BESIDES: usize = 256 << 10;
    watchdog!();
    for backend in Backend::ALL {
        for (head, tail) in [(0, 0), (1, 1), (MIB, 0), (0, MIB), (3 * MIB, 2 * MIB)] {
            // An emulated machine tests one way only.
            for by_line in [false, true].into_iter().take(rounds(10).min(2)) {
                let parts = ["write", "8388608", "write-err", "8388608"];
                let mut command = helper(&parts);
                let mut capture = CaptureOptions::new();
                capture.timeout(LONG).limit(Limit::head_and_tail(head, tail));
                if by_line {
                    capture.on_line(|_, _| ControlFlow::Continue(()));
                }
                PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
                let before = NOW.load(Ordering::Relaxed);
                let captured =
                    backend.capture(&SpawnOptions::new(), &mut command, &mut capture).unwrap();
                let peak = PEAK.load(Ordering::Relaxed) - before;
                assert!(captured.success(), "{captured:?}");
                assert_eq!(captured.stdout.total, 8 * MIB as u64);
                assert_eq!(captured.stdout.bytes.len(), head + tail);
                let most = 2 * (head + tail + BESIDES);
                assert!(peak <= most, "{peak} bytes with a limit of {head} and {tail}");
            }
        }
    }
}

/// The bytes that are in memory when the file begins are copied once.
#[test]
fn memory_of_a_spill_is_bounded_by_the_limit() {
    alone!();
    const MIB: usize = 1 << 20;
    watchdog!();
    let name = format!("memory-of-a-spill-{}", std::process::id());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    for (head, tail) in [(0, 0), (MIB, 0), (MIB, 2 * MIB)] {
        let mut capture = CaptureOptions::new();
        capture.timeout(LONG).limit(Limit::head_and_tail(head, tail));
        capture.spill(Stream::Stdout, &path, u64::MAX);
        PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
        let before = NOW.load(Ordering::Relaxed);
        let captured =
            SpawnOptions::new().capture(&mut helper(&["write", "33554432"]), &mut capture).unwrap();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let spilled = captured.stdout.spilled.expect("the limit was exceeded");
        assert_eq!((spilled.bytes, spilled.error.is_none()), (32 * MIB as u64, true));
        std::fs::remove_file(&path).unwrap();
        let most = 2 * (head + tail) + (768 << 10);
        assert!(peak <= most, "{peak} bytes with a limit of {head} and {tail}");
    }
}

/// On Windows the system writes to a buffer per pipe.
#[cfg(unix)]
#[test]
fn open_idle_capture_holds_little_memory() {
    alone!();
    watchdog!();
    for backend in Backend::ALL {
        for limit in [None, Some(Limit::head(1 << 20))] {
            // The first capture makes the library allocate what it needs once per process.
            let [_, held] = [(); 2].map(|()| {
                let mut options = CaptureOptions::new();
                options.timeout(LONG).stdin_open();
                limit.map(|limit| options.limit(limit));
                let before = NOW.load(Ordering::Relaxed);
                let mut spawn = SpawnOptions::new();
                spawn.kill_on_drop(true);
                let capture =
                    backend.begin_capture(&spawn, &mut helper(&["echo"]), &mut options).unwrap();
                for length in [1, 60_000] {
                    let line = "x".repeat(length) + "\n";
                    capture.write(line.as_bytes()).unwrap();
                    let chunk = capture.read(shared_child::Until::line());
                    assert!(chunk.stdout.bytes == line.as_bytes(), "{:?}", chunk.reached);
                }
                NOW.load(Ordering::Relaxed) - before
            });
            assert!(held <= 8 << 10, "{held} bytes with {limit:?}");
        }
    }
}
