//! All of a child's output, within every bound.
//!
//! [`CaptureOptions`] says what is wanted, `run` is its course, and [`Captured`] what came of it. How bytes get through
//! a pipe without blocking, several pipes and an exit at once, is up to `Pipes`, one for each kind of system.

mod captured;
mod hooks;
mod input;
mod keep;
mod lines;
mod pipes;
mod run;
mod settings;
#[cfg(windows)]
mod synchronous;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use captured::{Captured, CapturedStream, StoppedBy, StreamEnd};
pub use keep::Limit;
pub use lines::Line;
pub use settings::CaptureOptions;

use crate::sys::Backend;
use crate::{SharedChild, SpawnOptions};
use settings::Input;
use std::fmt;
use std::io;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

/// Which of a child's two outputs.
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
    /// Captures what the child writes, from now until its exit, within the bounds of the [`CaptureOptions`], which
    /// [states](CaptureOptions#how-long-a-capture-takes) how long this can take.
    ///
    /// This takes the pipes that have not been [taken](Self::take_stdout). Spawn the child with [`Stdio::piped`], or by
    /// [`SpawnOptions::spawn_piped`]. If the capture has no input, the child's standard input is closed.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is input for the child, and no pipe; or if standard error
    /// is to be merged, and has a pipe of its own. Otherwise only if the system cannot do with the pipes what is
    /// required; on Windows also if no thread can be started for a synchronous pipe, such as [`std::io::pipe`] makes.
    /// The child runs on then.
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
    pub fn capture(&self, capture: &mut CaptureOptions<'_>) -> io::Result<Captured> {
        run::run(self, capture, Instant::now())
    }
}

impl SpawnOptions {
    /// Spawns the command with pipes, and [captures](SharedChild::capture) what it writes: the two steps
    /// [`spawn_piped`](Self::spawn_piped) and [`SharedChild::capture`] in one. The timeout counts from
    /// before the spawn.
    ///
    /// If the leader of a [tree](Self::tree) ends by itself, the remaining members live on, unless they are
    /// [killed with the handle](Self::kill_on_drop), which is dropped when this returns.
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`SharedChild::capture`]. After an error, or a panic of a callback or a
    /// reader, the child is killed, and its whole tree if it leads one, as by a drop with
    /// [`kill_on_drop`](Self::kill_on_drop).
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
        capture: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        self.capture_on(Backend::Best, command, capture)
    }

    /// Spawns the command with the pipes that a [capture](SharedChild::capture) requires, and returns the handle.
    ///
    /// This sets all three standard streams of the command, and they stay so: standard input to a pipe if the capture has
    /// input, else to nothing ([`Stdio::null`]).
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
    /// println!("left behind: {:?}", child.tree().expect("it is one").processes()?);
    /// # assert!(captured.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn_piped(
        &self,
        command: &mut Command,
        capture: &CaptureOptions<'_>,
    ) -> io::Result<SharedChild> {
        self.spawn_piped_on(Backend::Best, command, capture)
    }

    pub(crate) fn capture_on(
        &self,
        backend: Backend,
        command: &mut Command,
        capture: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        let began = Instant::now();
        // Nobody else has the handle: whatever leaves this early is to leave nobody behind.
        let child = self.clone().kill_on_drop(true).spawn_piped_on(backend, command, capture)?;
        let captured = run::run(&child, capture, began)?;
        if !self.kills_on_drop() {
            child.detach();
        }
        Ok(captured)
    }

    fn spawn_piped_on(
        &self,
        backend: Backend,
        command: &mut Command,
        capture: &CaptureOptions<'_>,
    ) -> io::Result<SharedChild> {
        command.stdin(match capture.input {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) | Input::Reader(_) => Stdio::piped(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !capture.merge_stderr {
            return self.spawn_on(backend, command);
        }
        let (ours, theirs) = system::pipe()?;
        command.stdout(theirs.try_clone()?).stderr(theirs);
        let spawned = self.spawn_on(backend, command);
        // Not to be kept by the command: a pipe that has a writer does not end.
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawned?;
        child.put_stdout(ChildStdout::from(ours));
        Ok(child)
    }
}
