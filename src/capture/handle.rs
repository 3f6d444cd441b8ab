//! `Capture`, the handle of a capture that goes on.

use super::Captured;
use super::blocking::Driven;
use super::chunk::{Chunk, Reached};
use super::engine::{Engine, Step, earlier, has_passed};
use super::options::{CaptureOptions, Input};
use super::until::Until;
use crate::SharedChild;
use crate::child::ChildRef;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// A capture that goes on: a child's output so far, and its input, while the child runs.
///
/// [`SpawnOptions::begin_capture`](crate::SpawnOptions::begin_capture) and [`SharedChild::begin_capture`] begin one. Everything
/// goes through `&self`: any number of threads may read, write, and meanwhile wait for, stop and kill the child.
///
/// # Reads
///
/// [`read`](Self::read) returns what the child has written since the last read, at the first of some conditions
/// ([`Until`]). Reads of several threads take turns, and each keeps its own deadline. Each byte is returned once.
/// [`finish`](Self::finish) waits for the end, and returns what no read has returned.
///
/// Between these calls nothing is read: the child can write until the pipe is full (64 KiB on Linux), and then waits. No
/// memory is used, and no deadline is kept. During a [`write`](Self::write), output is read into memory, so that the child
/// does not wait for this process while this process waits for it.
///
/// # Bounds
///
/// The [`CaptureOptions`] apply: the timeout and the deadline stop the child, if a call of the capture is in progress then, or
/// at the next call. A limit applies to each [`Chunk`], so no read uses more memory, whatever the child writes.
///
/// A callback or a reader runs on a thread that calls the capture. While it blocks, the calls of other threads block as
/// well. It cannot use its own capture: that call would never return.
///
/// Dropping the capture closes the pipes, and does not stop the child.
///
/// # Examples
///
/// A conversation:
///
/// ```
/// # #[cfg(unix)]
/// # fn main() -> std::io::Result<()> {
/// use shared_child::{CaptureOptions, SpawnOptions, Until};
/// use std::{process::Command, time::Duration};
///
/// let capture = SpawnOptions::new()
///     .kill_on_drop(true)
///     .begin_capture(&mut Command::new("cat"), CaptureOptions::new().stdin_open())?;
/// for line in ["one\n", "two\n"] {
///     capture.write(line.as_bytes())?;
///     let answer = capture.read(Until::line().or(Until::timeout(Duration::from_secs(60))));
///     assert_eq!(answer.stdout.text(), line);
/// }
/// assert!(capture.finish().success());
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
pub struct Capture<'a> {
    driven: Driven<'a>,
    child: ChildRef<'a>,
}

impl<'a> Capture<'a> {
    /// Begins a capture that shares the handle of the child: [`SharedChild::begin_capture`] without a borrow.
    ///
    /// # Errors
    ///
    /// Those of [`SharedChild::begin_capture`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{Capture, CaptureOptions, SharedChild}, std::process::{Command, Stdio}};
    /// # use std::sync::Arc;
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let child = SharedChild::spawn(command.arg("--version").stdout(Stdio::piped()))?;
    /// let child = Arc::new(child);
    /// let capture = Capture::new(Arc::clone(&child), &mut CaptureOptions::new())?;
    /// let waiter = std::thread::spawn(move || child.wait());
    /// assert!(capture.finish().stdout.text().starts_with("rustc"));
    /// assert!(waiter.join().unwrap()?.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(child: Arc<SharedChild>, options: &mut CaptureOptions<'a>) -> io::Result<Self> {
        Self::begin(ChildRef::Shared(child), options.take(), Instant::now(), true)
    }

    pub(super) fn begin(
        child: ChildRef<'a>,
        options: CaptureOptions<'a>,
        began: Instant,
        requires_pipes: bool,
    ) -> io::Result<Self> {
        let is_writable = matches!(options.input, Input::Open);
        let engine = Engine::new(child.clone(), options, began, requires_pipes)?;
        Ok(Self { driven: Driven::new(engine, is_writable), child })
    }

    /// Returns the child, to wait for it, stop it or signal it.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::Capture;
    ///
    /// fn give_up(capture: &Capture<'_>) -> std::io::Result<()> {
    ///     capture.child().kill()
    /// }
    /// # let _ = give_up;
    /// ```
    pub fn child(&self) -> &SharedChild {
        &self.child
    }

    /// Blocks until one of the conditions is met, and returns what the child has written since the last read.
    ///
    /// A deadline of [`Until`] stops nothing: the next read continues. A deadline of the [`CaptureOptions`] stops the child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, ChildState, Reached, SpawnOptions, Until}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// let capture =
    ///     SpawnOptions::new().begin_capture(command.arg("-vV"), &mut CaptureOptions::new())?;
    /// loop {
    ///     let chunk = capture.read(Until::line());
    ///     print!("{}", chunk.stdout.text());
    ///     if chunk.reached == Reached::End {
    ///         assert!(matches!(chunk.state, ChildState::Ended(Some(status)) if status.success()));
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, until: Until) -> Chunk {
        let deadline = until.deadline;
        let mut until = Some(until);
        let mut turn = Turn { driven: &self.driven, end: Engine::end_read, is_own: false };
        let chunk = self.driven.run(|engine| {
            if !turn.is_own {
                if engine.is_reading() {
                    return match has_passed(deadline) {
                        true => Step::Done(engine.chunk_of_nothing(Reached::Deadline)),
                        false => Step::WaitForTurn(deadline),
                    };
                }
                engine.begin_read(until.take().unwrap_or_default());
                turn.is_own = true;
            }
            engine.read_step()
        });
        turn.is_own = false;
        chunk
    }

    /// Writes these bytes to the child's standard input. Blocks until the system has taken all of them.
    ///
    /// Meanwhile this reads what the child writes, for the next [`read`](Self::read). Requires
    /// [`CaptureOptions::stdin_open`]. Writes of several threads take turns.
    ///
    /// # Errors
    ///
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the child has closed its standard input, or has ended.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the input is not open, or was closed.
    ///
    /// # Examples
    ///
    /// See [`Capture`].
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_by(bytes, None).map(drop)
    }

    /// Like [`write`](Self::write), but until `deadline` at the latest: returns how many of the bytes were written. Tries
    /// once, even if the deadline has passed.
    ///
    /// On Windows the number may be too small if the child reads at the moment of the deadline.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write). Some of the bytes may have been written before the error.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::Capture;
    /// use std::time::{Duration, Instant};
    ///
    /// fn offer(capture: &Capture<'_>, bytes: &[u8]) -> std::io::Result<()> {
    ///     let deadline = Instant::now() + Duration::from_secs(1);
    ///     if capture.write_deadline(bytes, deadline)? < bytes.len() {
    ///         println!("it does not read its input");
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = offer;
    /// ```
    pub fn write_deadline(&self, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
        self.write_by(bytes, Some(deadline))
    }

    fn write_by(&self, bytes: &[u8], deadline: Option<Instant>) -> io::Result<usize> {
        let mut turn = Turn { driven: &self.driven, end: Engine::end_write, is_own: false };
        let mut written = 0;
        self.driven.run(|engine| {
            if !turn.is_own {
                if !engine.begin_write() {
                    return match has_passed(deadline) {
                        true => Step::Done(Ok(0)),
                        false => Step::WaitForTurn(deadline),
                    };
                }
                turn.is_own = true;
            }
            while written < bytes.len() {
                match engine.write_step(&bytes[written..]) {
                    Err(error) => return Step::Done(Err(error)),
                    Ok(Step::Done(count)) => written += count,
                    Ok(_) if has_passed(deadline) => {
                        let last = engine.cancel_write();
                        return Step::Done(last.map(|count| written + count));
                    }
                    Ok(Step::Wait(until) | Step::WaitForTurn(until)) => {
                        return Step::Wait(earlier(until, deadline));
                    }
                }
            }
            Step::Done(Ok(written))
        })
    }

    /// Closes the child's standard input: the child reads an end. Does nothing if the input is closed already, or if the
    /// [options](CaptureOptions::stdin) have input for it.
    ///
    /// A write in progress fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    ///
    /// fn last_words(capture: &Capture<'_>) -> Chunk {
    ///     capture.close_stdin();
    ///     capture.read(Until::end())
    /// }
    /// # let _ = last_words;
    /// ```
    pub fn close_stdin(&self) {
        self.driven.change(Engine::close_stdin);
    }

    /// Closes the child's standard input, blocks until the child has ended, and returns its status and what no read has
    /// returned.
    ///
    /// This takes as long as [`SharedChild::capture`] would take from here:
    /// [how long a capture takes](CaptureOptions#how-long-a-capture-takes).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.arg("--version");
    /// let capture = SpawnOptions::new().begin_capture(&mut command, &mut CaptureOptions::new())?;
    /// // …
    /// let captured = capture.finish();
    /// assert!(captured.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn finish(&self) -> Captured {
        self.close_stdin();
        self.driven.run(|engine| match engine.is_reading() {
            // The read in progress returns what it has got.
            true => Step::WaitForTurn(None),
            false => engine.finish_step(),
        })
    }
}

impl fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("child", &*self.child).finish_non_exhaustive()
    }
}

/// The turn of one of the threads that read, or that write.
struct Turn<'d, 'a> {
    driven: &'d Driven<'a>,
    end: fn(&mut Engine<'a>),
    is_own: bool,
}

/// Ends the turn, even if a callback panics.
impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        if self.is_own {
            self.driven.change(self.end);
        }
    }
}
