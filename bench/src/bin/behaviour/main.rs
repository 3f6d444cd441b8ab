//! How this crate and its peers behave in hostile cases, as tables:
//!
//! ```text
//! cargo run --release -p bench --bin behaviour [-- [--json FILE] [--runs N] [CASE…]]
//! ```
//!
//! Each case is played several times for each contender, every time by a process of its own with process IDs of its
//! own, which is given up after a while. What a cell says was seen; where the plays differ it says so. It takes root,
//! and util-linux's `unshare` and `setsid`.

#[cfg(target_os = "linux")]
mod asynchronous;
#[cfg(target_os = "linux")]
mod blocking;
#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod contender;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod ends;
#[cfg(target_os = "linux")]
mod output;
#[cfg(target_os = "linux")]
mod play;
#[cfg(target_os = "linux")]
mod recycled;
#[cfg(target_os = "linux")]
mod system;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod trees;
#[cfg(target_os = "linux")]
mod waits;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    cli::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The cases are for Linux only.");
}
