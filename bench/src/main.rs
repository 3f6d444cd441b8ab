//! Measures this crate beside its peers, std and bare system calls:
//!
//! ```text
//! cargo run --release -p bench [-- --help]
//! ```
//!
//! What is compared is measured in one run, in turns: every round runs every contender once, in an
//! order that is shuffled each time, and the ratio is the median over the rounds. So whatever slows
//! the machine for a while slows all alike. A missed bar is printed, and is no failure of the run.

#[cfg(target_os = "linux")]
mod allocator;
#[cfg(target_os = "linux")]
mod brood;
#[cfg(target_os = "linux")]
mod capture;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod contender;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod futures;
#[cfg(target_os = "linux")]
mod handle;
#[cfg(target_os = "linux")]
mod heap;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod plots;
#[cfg(target_os = "linux")]
mod procfs;
#[cfg(target_os = "linux")]
mod raw_set;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod rounds;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod set;
#[cfg(target_os = "linux")]
mod set_memory;
#[cfg(target_os = "linux")]
mod spawn;
#[cfg(target_os = "linux")]
mod timed;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
mod try_wait;
#[cfg(target_os = "linux")]
mod waiters;
#[cfg(target_os = "linux")]
mod wake;
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    cli::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The benchmark is for Linux only.");
}
