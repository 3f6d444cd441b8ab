//! How this crate and its peers behave in hostile cases, as tables.
//!
//! Each case is played several times for each contender, every time by a process of its own with process IDs of its
//! own, which is given up after a while. What a cell says was seen; where the plays differ it says so. It takes root,
//! and util-linux's `unshare` and `setsid`.

mod asynchronous;
mod blocking;
mod cases;
mod cli;
mod contender;
mod descriptors;
mod ends;
mod output;
mod play;
mod recycled;
mod system;
mod table;
mod trees;
mod waits;

pub use cli::run;
