//! The tests: one module per promise, in one program, so that tests of different promises overlap in time.
//!
//! A test that changes or counts something of the whole process calls `alone!()` first, which runs it in a process of its
//! own. `common/child.rs` is the program that plays every child.

#[macro_use]
mod common;

mod capture;
mod capture_async;
mod capture_background;
mod capture_fallback;
mod capture_idle;
mod capture_memory;
mod capture_read;
mod capture_unix;
mod command_failed;
mod descriptors;
mod drop_in;
mod dropping;
mod exhausted;

mod extremes;
mod foreign;
mod future;
mod guardian;
mod kill_on_drop;
mod parallel_example;
mod parent_death;
mod recycled;
mod run_example;
mod set;
mod shell_example;
mod spawn_faults;
mod spill;
mod statuses;
mod stopping;
mod supervise_example;
mod timeout_example;
mod tree_attacks;
mod tree_escapes;
mod tree_faults;
mod trees;
mod usage;
mod waiters;
mod windows;
mod windows_pipes;
