//! What this crate, its peers, std and bare system calls cost, measured side by side; and how they behave.
//!
//! What is compared is measured in one run, in turns: every round runs every contender once, in an
//! order that is shuffled each time, and the ratio is the median over the rounds. So whatever slows
//! the machine for a while slows all alike. A missed bar is printed, and is no failure of the run.

#![cfg(target_os = "linux")]

mod allocator;
pub mod behaviour;
mod brood;
mod capture;
mod cgroup;
mod cli;
mod contender;
mod crowd;
mod futures;
mod handle;
mod heap;
mod machine;
mod plots;
mod procfs;
mod raw_set;
mod report;
mod rounds;
mod run;
mod set;
mod set_memory;
mod spawn;
mod timed;
mod tree;
mod try_wait;
mod waiters;
mod wake;
mod worker;

pub use cli::{Result, run};
