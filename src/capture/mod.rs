//! Captures: a child's output and input, with bounds on time and memory.
//!
//! `engine` decides and never waits; `blocking` drives it on the calling threads, `task` in the polls of futures, and
//! `background` on a thread of this library. `handle` has the operations.

mod background;
mod blocking;
mod callbacks;
mod captured;
mod chunk;
mod command_failed;
mod engine;
mod handle;
mod idle;
mod input;
mod lines;
mod options;
mod order;
mod output;
mod pipes;
mod retention;
mod spill;
mod task;
mod turns;
mod until;

pub use captured::{Captured, CapturedStream, StoppedBy, StreamEnd};
pub use chunk::{ChildState, Chunk, Reached};
pub use command_failed::CommandFailed;
pub use handle::Capture;
pub use lines::Line;
pub use options::CaptureOptions;
pub use order::Part;
pub use retention::Limit;
pub use spill::Spilled;
pub use until::Until;

use crate::child::ChildRef;
use crate::sys::{self, Backend};
use crate::{SharedChild, SpawnOptions};
use options::Input;
use std::fmt;
use std::io;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

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
    /// The capture takes the pipes that have not been [taken](Self::take_stdout). Spawn the child with [`Stdio::piped`]
    /// or [`SpawnOptions::spawn_piped`]. If the capture has no input, it closes the child's standard input.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is input for the child, but no pipe; or if standard error
    /// is to be merged, but has a pipe of its own. Otherwise only if the system cannot prepare the pipes, or, on
    /// Windows, if no thread can be started for a synchronous pipe, such as [`std::io::pipe`] creates. The child still
    /// runs after an error.
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
        Ok(Capture::begin(ChildRef::Borrowed(self), options.lend(), Instant::now(), false)?
            .finish())
    }

    /// Does what [`capture`](Self::capture) does without blocking a thread, on any executor.
    ///
    /// A future that is dropped closes the pipes, and does not stop the child. Callbacks and readers run on the thread
    /// that polls. No timer of an executor is needed.
    ///
    /// # Errors
    ///
    /// Those of [`capture`](Self::capture).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{CaptureOptions, Captured, SharedChild};
    ///
    /// async fn output(child: &SharedChild) -> std::io::Result<Captured> {
    ///     child.capture_async(&mut CaptureOptions::new()).await
    /// }
    /// # let _ = output;
    /// ```
    pub async fn capture_async(&self, options: &mut CaptureOptions<'_>) -> io::Result<Captured> {
        let began = Instant::now();
        let capture = Capture::begin(ChildRef::Borrowed(self), options.lend(), began, false)?;
        Ok(capture.finish_async().await)
    }

    /// Begins a capture that goes on while the program does other things: it [reads](Capture::read) what the child has
    /// written so far, and [writes](Capture::write) to the child.
    ///
    /// The capture takes the pipes, like [`capture`](Self::capture). It also takes the input and the callbacks of the
    /// options, which do not have them any more. To keep a capture in a struct, begin it with
    /// [`SpawnOptions::begin_capture`] or [`Capture::new`]; this capture borrows the handle.
    ///
    /// # Errors
    ///
    /// Those of [`capture`](Self::capture), and [`InvalidInput`](io::ErrorKind::InvalidInput) if another capture has
    /// taken the child's pipes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SharedChild, Until}, std::process::{Command, Stdio}};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SharedChild::spawn(command.arg("-vV").stdout(Stdio::piped()))?;
    /// let capture = child.begin_capture(&mut CaptureOptions::new())?;
    /// let first = capture.read(Until::line());
    /// assert!(first.stdout.text().starts_with("rustc"));
    /// let rest = capture.finish();
    /// assert!(rest.stdout.text().contains("host: "));
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_capture<'a, 'b: 'a>(
        &'a self,
        options: &mut CaptureOptions<'b>,
    ) -> io::Result<Capture<'a>> {
        Capture::begin(ChildRef::Borrowed(self), options.take(), Instant::now(), true)
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
    /// Those of [`spawn`](Self::spawn) and [`SharedChild::capture`]. After an error, or a panic of a callback or a
    /// reader, the child is killed, with its whole tree if it leads one.
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

    /// Does what [`capture`](Self::capture) does without blocking a thread, on any executor.
    ///
    /// The first poll spawns the command. If the future is dropped, the child is killed, with its whole tree if it
    /// leads one.
    ///
    /// # Errors
    ///
    /// Those of [`capture`](Self::capture).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{CaptureOptions, SpawnOptions};
    /// use std::{process::Command, time::Duration};
    ///
    /// async fn version() -> std::io::Result<String> {
    ///     let mut capture = CaptureOptions::new();
    ///     capture.timeout(Duration::from_secs(60));
    ///     let mut command = Command::new("rustc");
    ///     command.arg("--version");
    ///     let captured = SpawnOptions::new().capture_async(&mut command, &mut capture).await?;
    ///     Ok(captured.stdout.text().into_owned())
    /// }
    /// # let _ = version;
    /// ```
    pub async fn capture_async(
        &self,
        command: &mut Command,
        options: &mut CaptureOptions<'_>,
    ) -> io::Result<Captured> {
        let capture = self.begin_lent(Backend::Best, command, options.lend())?;
        let captured = capture.finish_async().await;
        if !self.kills_on_drop() {
            capture.child().detach();
        }
        Ok(captured)
    }

    /// Spawns the command with pipes, and begins a capture, which owns the child: [`spawn_piped`](Self::spawn_piped)
    /// and [`SharedChild::begin_capture`] in one step. The timeout counts from before the spawn.
    ///
    /// [`Capture::child`] returns the child. It is dropped with the capture: what that means is set as for any
    /// [`SharedChild`], for example by [`kill_on_drop`](Self::kill_on_drop).
    ///
    /// # Errors
    ///
    /// Those of [`spawn`](Self::spawn) and [`SharedChild::begin_capture`]. After an error of the latter the child is
    /// killed, with its whole tree if it leads one.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, CaptureOptions, Reached, SpawnOptions, Until};
    /// use std::{process::Command, time::Duration};
    ///
    /// struct Shell {
    ///     capture: Capture<'static>,
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let mut command = Command::new("rustc");
    /// # command.arg("-vV");
    /// let capture = SpawnOptions::new()
    ///     .tree(true)
    ///     .kill_on_drop(true)
    ///     .begin_capture(&mut command, CaptureOptions::new().stdin_open())?;
    /// let shell = Shell { capture };
    /// let chunk = shell.capture.read(Until::line().or(Until::timeout(Duration::from_secs(60))));
    /// assert_eq!(chunk.reached, Reached::Line);
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin_capture<'a>(
        &self,
        command: &mut Command,
        options: &mut CaptureOptions<'a>,
    ) -> io::Result<Capture<'a>> {
        self.begin_capture_on(Backend::Best, command, options)
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
        let capture = self.begin_lent(backend, command, options.lend())?;
        let captured = capture.finish();
        if !self.kills_on_drop() {
            capture.child().detach();
        }
        Ok(captured)
    }

    pub(crate) fn begin_capture_on<'a>(
        &self,
        backend: Backend,
        command: &mut Command,
        options: &mut CaptureOptions<'a>,
    ) -> io::Result<Capture<'a>> {
        let capture = self.begin_lent(backend, command, options.take())?;
        if !self.kills_on_drop() {
            capture.child().detach();
        }
        Ok(capture)
    }

    /// An early return or a panic drops the handle, which kills the child.
    fn begin_lent<'a>(
        &self,
        backend: Backend,
        command: &mut Command,
        options: CaptureOptions<'a>,
    ) -> io::Result<Capture<'a>> {
        let began = Instant::now();
        let child = self.clone().kill_on_drop(true).spawn_piped_on(backend, command, &options)?;
        Capture::begin(ChildRef::Shared(Arc::new(child)), options, began, true)
    }

    fn spawn_piped_on(
        &self,
        backend: Backend,
        command: &mut Command,
        options: &CaptureOptions<'_>,
    ) -> io::Result<SharedChild> {
        command.stdin(match options.input {
            Input::Nothing => Stdio::null(),
            Input::Open | Input::Bytes(_) | Input::Reader(_) => Stdio::piped(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !options.bounds.merge_stderr {
            return self.spawn_on(backend, command);
        }
        let (ours, theirs) = sys::pipe()?;
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
