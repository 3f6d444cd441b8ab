//! A child-process handle that any number of threads can share: it **cannot race, cannot hang and
//! cannot leak**.
//!
//! [`std::process::Child`] takes `&mut self` to wait and to kill, because on Unix a process ID may
//! be given to a stranger the moment a wait returns, and a signal sent then hits the stranger. So
//! with the standard library nobody can kill a child while another thread waits for it.
//! [`SharedChild`] takes `&self` everywhere: put it in an [`Arc`](std::sync::Arc), wait for it, with
//! or without a deadline, on as many threads as you like, and kill it from any other.
//!
//! ```
//! use shared_child::SharedChild;
//! use std::{process::Command, sync::Arc, thread, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! # let mut command = if cfg!(windows) { Command::new("ping") } else { Command::new("sleep") };
//! # if cfg!(windows) { command.args(["-n", "1000", "127.0.0.1"]); } else { command.arg("1000"); }
//! let child = Arc::new(SharedChild::spawn(&mut command)?);
//!
//! let waiter = thread::spawn({
//!     let child = Arc::clone(&child);
//!     move || child.wait()
//! });
//!
//! assert!(child.wait_timeout(Duration::from_millis(10))?.is_none()); // still running…
//! child.kill()?; // …so kill it, although another thread is waiting for it
//! assert!(!waiter.join().unwrap()?.success());
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! Three steps, each of which happens once in a child's life:
//!
//! 1. **Notice.** Waiters learn that the child has exited from something that does not reap it: a
//!    pidfd on Linux, a kqueue on macOS and the BSDs, the process handle on Windows, and otherwise a
//!    helper thread in `waitid` with `WNOWAIT`. No lock is held meanwhile and no waiter depends on
//!    another one.
//! 2. **Reap.** Under a lock, and only if nobody has done it yet, the zombie is reaped. Signals are
//!    sent under the same lock and only before that, so they cannot reach whoever gets the process
//!    ID next.
//! 3. **Remember.** Every later call answers from memory.
//!
//! There is no signal handler and no change of the signal mask. The child may even be reaped by
//! somebody else, a `waitpid(-1)` in some C library or an ignored `SIGCHLD`: nothing of ours then
//! touches the process that gets its ID, and where the kernel keeps the exit status (Linux 6.15 and
//! later) it is still returned.
//!
//! # Trees
//!
//! What a child has started lives on when the child is killed. [`SpawnOptions::tree`] makes one unit of it: a
//! [`Tree`] is killed, stopped, signalled and waited for as a whole, before and after the exit of the child
//! itself.
//!
//! ```
//! use shared_child::SpawnOptions;
//! use std::{process::Command, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! let child = SpawnOptions::new()
//!     .tree(true) // all that it starts belongs to it
//!     .kill_on_drop(true) // and goes with the handle,
//!     .kill_with_parent(true) // or with this process, whatever ends that
//!     .spawn(Command::new("rustc").arg("--version"))?;
//!
//! if child.wait_timeout(Duration::from_secs(600))?.is_none() {
//!     child.stop(Duration::from_secs(5))?; // ask all of them, and kill whoever is left after 5 s
//! }
//! child.tree().expect("it is one").kill()?; // also what it has left running
//! # Ok(())
//! # }
//! ```
//!
//! # Output
//!
//! [`SpawnOptions::capture`] is [`Command::output`](std::process::Command::output) within bounds: a timeout for the
//! run, a time for those who keep a pipe open after it, a limit for what is kept; and with input, and callbacks for
//! output as it arrives. [`SharedChild::capture`] is the same for a child that others wait for or kill meanwhile.
//!
//! ```
//! use shared_child::{Capture, SpawnOptions};
//! use std::{process::Command, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! let captured = SpawnOptions::new().tree(true).kill_on_drop(true).capture(
//!     Command::new("rustc").arg("--version"),
//!     Capture::new().timeout(Duration::from_secs(60)).limit(64 << 10),
//! )?;
//! println!("{:?}: {}", captured.status, captured.stdout.text());
//! # Ok(())
//! # }
//! ```
//!
//! # Many children, and tasks
//!
//! With the feature `set`, a `ChildSet` waits for whichever of many children exits next. With the feature `async`,
//! `SharedChild::exited` is a future for any executor; with the feature `tokio`, on Linux, one that the runtime's own
//! reactor wakes. And [`exit_notice`](SharedChild::exit_notice) is for those who wait in a loop of their own. All of them
//! may be about the same child, beside threads that wait for it.
//!
#![cfg_attr(feature = "set", doc = "```")]
#![cfg_attr(not(feature = "set"), doc = "```ignore")]
//! use shared_child::{ChildSet, SpawnOptions};
//! use std::{process::Command, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! let set = ChildSet::new();
//! for flag in ["--version", "--print=sysroot"] {
//!     let child = SpawnOptions::new().tree(true).spawn(Command::new("rustc").arg(flag))?;
//!     set.insert(flag, child);
//! }
//! while let Some(finished) = set.wait_next_timeout(Duration::from_secs(600)) {
//!     println!("{}: {}", finished.key, finished.status?);
//! }
//! set.stop_all(Duration::from_secs(5))?; // who is left after ten minutes without an exit, all at once
//! # Ok(())
//! # }
//! ```
//!
//! # Dropping
//!
//! Dropping a handle never blocks, and kills only if that was [asked for](SpawnOptions::kill_on_drop). A child that has exited by then is reaped on the
//! spot; one that still runs is reaped by a background thread when it exits, so it leaves no zombie. The
//! thread is there only while there are such children.
//!
//! # Forking
//!
//! The child of a fork that does not exec may drop the handles that it has copied, and spawn its own.
//! It must do nothing else with the copies, which are about processes that are not its children: a
//! wait fails at best, and if another thread was using the handle at the moment of the fork, it never
//! ends.
//!
//! # Coming from shared_child 1.1
//!
//! Every public item of 1.1.2 is here, with the same signature and meaning. The methods with
//! timeouts no longer need the feature `timeout`, and [`wait_timeout`](SharedChild::wait_timeout) no
//! longer panics for long timeouts.

mod backoff;
mod capture;
mod child;
mod exit;
#[cfg(feature = "async")]
mod exited;
mod lifecycle;
#[doc(hidden)]
pub mod seam;
#[cfg(feature = "set")]
mod set;
mod spawn;
mod stop;
mod sync;
mod tree;
mod usage;
#[cfg(any(unix, feature = "async"))]
mod watcher;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(unix)]
pub mod unix;
#[cfg(windows)]
pub mod windows;

pub use capture::{Capture, Captured, CapturedStream, Limit, Line, StoppedBy, Stream, StreamEnd};
pub use child::SharedChild;
pub use exit::ExitNotice;
#[cfg(feature = "async")]
pub use exited::{Exited, ExitedDeadline};
#[cfg(feature = "set")]
pub use set::{ChildSet, Finished};
pub use spawn::SpawnOptions;
pub use tree::{Containment, Mechanism, Tree};
pub use usage::Usage;

#[cfg(all(test, loom))]
mod model;
