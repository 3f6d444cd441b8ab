//! A child-process handle that any number of threads can share: it **cannot race, cannot hang and
//! cannot leak**.
//!
//! [`std::process::Child`] takes `&mut self` to wait and to kill, because on Unix another process may get the process ID as
//! soon as a wait returns. So a thread cannot kill a child while another thread waits for it. [`SharedChild`] takes `&self`
//! everywhere: any number of threads can wait for it, with or without a deadline, and any other thread can kill it.
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
//! A capture runs a command within bounds of time and memory. With these options it also ends the processes that the
//! command has started:
//!
//! ```
//! use shared_child::{CaptureOptions, Limit, SpawnOptions};
//! use std::{process::Command, time::Duration};
//!
//! # fn main() -> std::io::Result<()> {
//! let captured = SpawnOptions::new()
//!     .tree(true) // the processes that it starts belong to it
//!     .kill_on_drop(true) // all are killed when the handle is dropped
//!     .kill_with_parent(true) // and when this process ends, whatever the cause
//!     .capture(
//!         Command::new("rustc").arg("--version"),
//!         CaptureOptions::new()
//!             .timeout(Duration::from_secs(600)) // then all are stopped
//!             .grace(Duration::from_secs(5)) // requested to terminate, and killed after that
//!             .limit(Limit::head_and_tail(32 << 10, 32 << 10)), // of each stream
//!     )?;
//! println!("{:?}: {}", captured.status, captured.stdout.text());
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! Each of these steps happens once in a child's life:
//!
#![cfg_attr(doc, doc = include_str!("../guide/mechanism.svg"))]
//!
//! 1. **Notice.** A mechanism that does not reap the child reports its exit: a pidfd on Linux, a kqueue on macOS and the
//!    BSDs, the process handle on Windows, and otherwise a helper thread in `waitid` with `WNOWAIT`. No lock is held
//!    meanwhile, and no waiter depends on another.
//! 2. **Reap.** The zombie is reaped under a lock. Signals are sent under the same lock, and only before the reap, so they
//!    cannot reach the next process with that ID.
//! 3. **Remember.** Every later call returns the stored status.
//!
//! # What is promised
//!
//! - **Cannot race.** Any thread may wait, poll, signal, kill or take a pipe at any time, and all waits return the same
//!   status. No signal, wait or reap reaches another process, even if another part of the program has reaped the child.
//!
//!   *Not covered*: the [moments](guide::guarantees) in which the library uses the process ID. In such a moment, other code
//!   that reaps the child (`waitpid(-1)`, or SIGCHLD ignored) can take the status, and if the ID gets a new owner in the same
//!   moment, that process can be reached. For the child itself, there are no such moments on Windows, and none in a program in
//!   which no other code reaps its children.
//! - **Cannot hang.** A deadline is kept, however large or small. A drop does not wait for the child. A capture with a
//!   [timeout](CaptureOptions::timeout) ends in time, whatever the child does and whichever processes hold its pipes.
//!
//!   *Not covered*: a capture without a timeout, which takes as long as the child; your callbacks, readers and wakers while
//!   they block; if no thread can be started, the drop of a tree that is to be killed, which takes as long as
//!   [`Tree::kill`]; and the cases in which a capture takes
//!   [some seconds more](CaptureOptions#how-long-a-capture-takes).
//! - **Cannot leak.** A child whose handle is dropped is reaped: at once if it has exited, else by a background thread when
//!   it exits. It is killed only with [`kill_on_drop`](SpawnOptions::kill_on_drop). A failed spawn leaves no process,
//!   descriptor or cgroup behind. The kill of a tree leaves no survivor where containment is *complete*.
//!
//!   *Not covered*: the processes that [escape](Tree#which-processes-escape) from a tree.
//! - **Honest.** A status is what the kernel reported. If another part of the program has taken it, and the kernel has not
//!   kept it, the error says so.
//!
//! There is no signal handler, no signal mask is left changed, and no process-wide setting is changed. A program can notice
//! one descriptor per live child, helper threads while they are needed, the guardian of
//! [`kill_with_parent`](SpawnOptions::kill_with_parent) with its socket, the variable `SHARED_CHILD_TREE` in the environment
//! of a tree, and the zombie of a tree's leader: the [whole list](guide::guarantees#what-a-program-can-notice).
//!
//! # Where to go next
//!
//! | task | item | recipe |
//! |---|---|---|
//! | wait, with or without a deadline, poll and kill | [`SharedChild`] | [timeout](guide::cookbook#a-timeout) |
//! | treat a child and all that it starts as one unit | [`SpawnOptions::tree`], [`Tree`] | [Ctrl-C](guide::cookbook#kill-the-tree-on-ctrl-c) |
//! | request the child to terminate, and kill it after a grace | [`SharedChild::stop`] | [stop](guide::cookbook#a-graceful-stop) |
//! | leave no survivors | [`SpawnOptions::kill_on_drop`], [`kill_with_parent`](SpawnOptions::kill_with_parent) | [outliving](guide::cookbook#children-that-must-not-outlive-this-process) |
//! | capture output within bounds, or as it arrives | [`CaptureOptions`], [`Captured`] | [bounds](guide::cookbook#all-output-within-bounds), [live](guide::cookbook#live-output-line-by-line) |
//! | write long output to a file | [`CaptureOptions::spill`] | [file](guide::cookbook#the-whole-output-in-a-file-if-it-is-long) |
//! | an error that names the command | [`Captured::check`] | [check](guide::cookbook#an-error-if-the-command-fails) |
//! | wait for the next exit among many children | [`ChildSet`] | [many](guide::cookbook#many-commands-a-few-at-a-time) |
//! | wait in a task, on any executor | [`wait_async`], [`stop_async`] | [tasks](guide::cookbook#wait-in-a-task-and-kill) |
//! | wait in an event loop of your own | [`ExitNotice`] | [loops](guide::cookbook#your-own-event-loop) |
//! | measure CPU time and peak memory | [`SharedChild::usage`] | [cost](guide::cookbook#cpu-time-and-memory-of-a-child) |
//!
//! The guide has six pages: the [cookbook](guide::cookbook); [migration](guide::migration) from other crates; the
//! [traps](guide::traps) around child processes; a [comparison](guide::comparison) with other crates in hostile cases; the
//! [costs](guide::costs); and the [guarantees](guide::guarantees) with the mechanisms behind them, platform by platform.
//!
//! # Features
//!
//! Every build has everything. The feature `timeout`, on by default, has no effect; it remains for manifests that name it.
//!
//! # Platforms
//!
//! The interface is the same everywhere. The tests run on Linux, and on Windows under wine. For macOS, iOS, the BSDs,
//! illumos, Solaris, Haiku and Android the crate is type-checked. The modules `unix`, `linux` and `windows` have extensions.
//!
//! # Forking
//!
//! The child of a fork that does not exec may drop the handles that it has copied, and spawn children of its own. It must
//! not use the copies otherwise, because their processes are not its children: a wait fails, or, if another thread was using
//! the handle at the moment of the fork, never ends.
//!
//! [`stop_async`]: SharedChild::stop_async
//! [`wait_async`]: SharedChild::wait_async
#![cfg_attr(docsrs, feature(doc_cfg))]
// Without this feature, `seam` and its exports are private.
#![cfg_attr(not(feature = "_seam"), allow(unreachable_pub))]

mod backoff;
mod capture;
mod child;
mod command;
mod command_line;
mod deferred;
mod event_queue;
mod exit_notice;
mod fork_guard;
mod future;
#[cfg(any(doc, doctest))]
pub mod guide;
mod lifecycle;
mod reaper;
#[cfg(feature = "_seam")]
#[doc(hidden)]
pub mod seam;
// Private and unused for dependants, so that both builds compile the same items.
#[cfg(not(feature = "_seam"))]
mod seam;
mod set;
mod sort;
mod spawn;
mod stop;
mod sync;
mod sys;
mod token_map;
mod tree;
mod usage;
mod watchlist;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(unix)]
pub mod unix;
#[cfg(windows)]
pub mod windows;

pub use capture::{
    Capture, CaptureOptions, Captured, CapturedStream, ChildState, Chunk, CommandFailed, Limit,
    Line, Part, Reached, Spilled, StoppedBy, Stream, StreamEnd, Until,
};
pub use child::SharedChild;
pub use exit_notice::ExitNotice;
pub use future::{WaitDeadlineFuture, WaitFuture};
pub use set::{ChildSet, Finished};
pub use spawn::SpawnOptions;
pub use tree::{Containment, Mechanism, Tree};
pub use usage::Usage;

#[cfg(all(test, loom))]
mod model;
