//! Measures what this crate, other libraries, std and plain system calls cost, and how they behave in hostile cases.
//!
//! Each round runs every contender once, in a shuffled order, and a ratio is the median over the rounds. So load from
//! other programs affects all contenders alike. A missed bar is printed, and is no failure.

#![cfg(target_os = "linux")]

mod behaviour;
mod cli;
mod helpers;
mod machine;
mod measure;
mod peers;
mod plots;
mod report;
mod rounds;
mod system;
mod worker;

pub use behaviour::run as behaviour;
pub use cli::{Result, run};

#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;
