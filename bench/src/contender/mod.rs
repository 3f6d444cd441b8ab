//! Who is compared, behind one interface.
//!
//! [`Program::spawner`] is the one place that says how each contender runs a program. The same program with the same
//! standard streams is run by all. What differs by nature, and is part of what each costs:
//!
//! - duct looks the program up itself, sets every variable of the environment for each spawn, and keeps the command line
//!   as text. It reads output on threads.
//! - subprocess has a builder that is consumed by the spawn, so it is built anew for each; and it forks.
//! - process_control runs each timed wait on a thread that it starts for it.
//! - tokio is on a current-thread runtime, driven by the thread that waits, which is its shortest way; async-process is on
//!   `async_io::block_on` likewise, and has two threads of its own. Neither runtime's start is counted.
//! - std and process-wrap have no timed wait. `std, polling` is what is written instead.

mod asynchronous;
mod duct;
mod on_std;
mod output;
mod program;
mod raw;
mod shared;
mod subprocess;
mod who;

pub(crate) use asynchronous::timed_out;
pub(crate) use output::output;
pub(crate) use program::{Program, Spawner, long_lived, short_lived};
pub(crate) use raw::{pidfd, waitid};
pub(crate) use who::Who;

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// What a contender can do with a child.
pub(crate) trait Handle: Send {
    fn id(&self) -> u32;
    fn wait(&mut self) -> io::Result<ExitStatus>;
    /// Those who cannot wait with a timeout wait for as long as it takes.
    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>>;
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>>;
    fn kill(&mut self) -> io::Result<()>;
}

/// The call of any of these costs a few nanoseconds more than a direct one.
pub(crate) type AnyHandle = Box<dyn Handle>;

/// A child that does not outlive its handle, whatever happens.
pub(crate) struct Killed(pub(crate) AnyHandle);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error means that it is gone already; a wait for a child that could not be killed might
        // not end.
        if self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}
