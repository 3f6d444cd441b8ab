//! Captures: all of a child's output, with bounds on time and memory.
//!
//! `engine` decides and never waits; `blocking` drives it on the calling thread. `unix_pipe` and `windows_pipe` read, write
//! and wait.

mod blocking;
mod callbacks;
mod captured;
mod command_failed;
mod engine;
mod input;
mod lines;
mod options;
mod pipes;
mod retention;
#[cfg(windows)]
mod synchronous_pipe;
#[cfg(unix)]
mod unix_pipe;
#[cfg(windows)]
mod windows_pipe;

#[cfg(unix)]
use unix_pipe as system;
#[cfg(windows)]
use windows_pipe as system;

pub use captured::{Captured, CapturedStream, StoppedBy, StreamEnd};
pub use command_failed::CommandFailed;
pub use lines::Line;
pub use options::CaptureOptions;
pub use retention::Limit;

use crate::sys::Backend;
use crate::{SharedChild, SpawnOptions};
use options::Input;
use std::fmt;
use std::io;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

/// How much one read or write moves at most. A pipe mostly holds as much.
const CHUNK: usize = 64 * 1024;

/// The operations that do not block now.
#[derive(Debug, Clone, Copy)]
struct Ready {
    stdin: bool,
    outputs: [bool; 2],
    /// The child may have exited.
    exit: bool,
}

impl Ready {
    const ALL: Self = Self { stdin: true, outputs: [true; 2], exit: true };
}

/// One of a child's two outputs.
///
/// # Examples
///
/// ```
/// assert_eq!(shared_child::Stream::Stderr.to_string(), "stderr");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

impl SharedChild {
    /// Captures what the child writes, from now until its exit, within the bounds of the [`CaptureOptions`]:
    /// [how long a capture takes](CaptureOptions#how-long-a-capture-takes).
    ///
    /// The capture takes the pipes that have not been [taken](Self::take_stdout). Spawn the child with [`Stdio::piped`] or
    /// [`SpawnOptions::spawn_piped`]. If the capture has no input, it closes the child's standard input.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is input for the child, but no pipe; or if standard error is
    /// to be merged, but has a pipe of its own. Otherwise only if the system cannot prepare the pipes, or, on
    /// Windows, if no thread can be started for a synchronous pipe, such as [`std::io::pipe`] creates. The child still runs
    /// after an error.
    ///
    /// Later failures are in the returned value: [`Captured::error`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SharedChild}, std::process::{Command, Stdio}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SharedChild::spawn(command.arg("--version").stdout(Stdio::piped()))?;
    /// std::thread::scope(|scope| {
    ///     let status = scope.spawn(|| child.wait());
    ///     let captured = child.capture(&mut CaptureOptions::new())?;
    ///     assert_eq!(captured.status, Some(status.join().unwrap()?));
    ///     assert!(captured.stdout.text().starts_with("rustc"));
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn capture(&self, options: &mut CaptureOptions<'_>) -> io::Result<Captured> {
        blocking::capture(self, options, Instant::now())
    }
}

impl SpawnOptions {
    /// Spawns the command with pipes, and captures what it writes: [`spawn_piped`](Self::spawn_piped) and
    /// [`SharedChild::capture`] in one step. The timeout counts from before the spawn.
    ///
    /// If the leader of a [tree](Self::tree) ends by itself, the remaining members live on, unless
    /// [`kill_on_drop`](Self::kill_on_drop) is set: the handle is dropped when this returns.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`SharedChild::capture`]. After an error, or a panic of a callback or a reader,
    /// the child is killed, with its whole tree if it leads one.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{CaptureOptions, SpawnOptions};
    /// use std::{process::Command, time::Duration};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let captured = SpawnOptions::new().tree(true).kill_on_drop(true).capture(
    ///     Command::new("rustc").arg("--version"),
    ///     CaptureOptions::new().timeout(Duration::from_secs(60)),
    /// )?;
    /// println!("{captured:?}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn capture(
        &self,
        command: &mut Command,
        options: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        self.capture_on(Backend::Best, command, options)
    }

    /// Spawns the command with the pipes that a [capture](SharedChild::capture) with these options requires.
    ///
    /// This sets all three standard streams of the command permanently: standard input to a pipe if the capture has
    /// input, else to [`Stdio::null`].
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{CaptureOptions, SpawnOptions};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut capture = CaptureOptions::new();
    /// capture.merge_stderr(true);
    /// let mut command = Command::new("rustc");
    /// let child =
    ///     SpawnOptions::new().tree(true).spawn_piped(command.arg("--version"), &capture)?;
    /// let captured = child.capture(&mut capture)?;
    /// println!("still running: {:?}", child.tree().expect("a tree").processes()?);
    /// # assert!(captured.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn_piped(
        &self,
        command: &mut Command,
        options: &CaptureOptions<'_>,
    ) -> io::Result<SharedChild> {
        self.spawn_piped_on(Backend::Best, command, options)
    }

    pub(crate) fn capture_on(
        &self,
        backend: Backend,
        command: &mut Command,
        options: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        let began = Instant::now();
        // An early return or a panic drops the handle, which kills the child.
        let child = self.clone().kill_on_drop(true).spawn_piped_on(backend, command, options)?;
        let captured = blocking::capture(&child, options, began)?;
        if !self.kills_on_drop() {
            child.detach();
        }
        Ok(captured)
    }

    fn spawn_piped_on(
        &self,
        backend: Backend,
        command: &mut Command,
        options: &CaptureOptions<'_>,
    ) -> io::Result<SharedChild> {
        command.stdin(match options.input {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) | Input::Reader(_) => Stdio::piped(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !options.merge_stderr {
            return self.spawn_on(backend, command);
        }
        let (ours, theirs) = system::pipe()?;
        command.stdout(theirs.try_clone()?).stderr(theirs);
        let spawned = self.spawn_on(backend, command);
        // The command drops its copies: a pipe that has a writer does not end.
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawned?;
        child.put_stdout(ChildStdout::from(ours));
        child.remember(command);
        Ok(child)
    }
}
