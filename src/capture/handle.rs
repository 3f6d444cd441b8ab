//! `Capture`, the handle of a capture that goes on.

use super::background::Background;
use super::blocking::Driven;
use super::chunk::{Chunk, Reached};
use super::engine::{Engine, Step, chunk_of_nothing, has_passed};
use super::options::{CaptureOptions, Input};
use super::task::Task;
use super::until::Until;
use super::{Captured, StreamEnd};
use crate::SharedChild;
use crate::backoff::earlier;
use crate::child::ChildRef;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A capture that goes on: a child's output so far, and its input, while the child runs.
///
/// [`SpawnOptions::begin_capture`](crate::SpawnOptions::begin_capture) and [`SharedChild::begin_capture`] begin one.
/// Everything goes through `&self`: any number of threads may read, write, and meanwhile wait for, stop and kill the
/// child.
///
/// # Reads
///
/// [`read`](Self::read) returns what the child has written since the last read, at the first of some conditions
/// ([`Until`]). Reads of several threads and tasks take turns in the order of the calls, and each keeps its own deadline.
/// Each byte is returned once, or counted as omitted. [`finish`](Self::finish) waits for the end, and returns what no
/// read has returned.
///
/// A future calls with its first poll, and keeps its place and its turn until it returns or is dropped. A read that is
/// neither polled nor dropped delays later reads, but not `finish`. Such a write delays later writes, and keeps standard
/// input open if it found no room.
///
/// Between these calls nothing is read, except after [`read_in_background`](Self::read_in_background): the child can
/// write until the pipe is full (64 KiB on Linux), and then waits. No memory is used, and no deadline is kept. During a
/// [`write`](Self::write), output is read into memory, within the limits, so that the child does not wait for this
/// process while this process waits for it.
///
/// # Bounds
///
/// The [`CaptureOptions`] apply: the timeout and the deadline stop the child, if a call of the capture is in progress
/// then, or at the next call. A limit applies to each [`Chunk`], so no read uses more memory, whatever the child
/// writes.
///
/// A callback or a reader runs on a thread that calls the capture. While it blocks, the calls of other threads block as
/// well. It cannot use its own capture: that call would never return.
///
/// Dropping the capture closes the pipes, and does not stop the child.
///
/// The child of a fork can drop its copy of a capture, and must not use it: reads return [`Reached::End`] without output
/// there, and the other calls an error. Nothing that it does affects the capture of its parent.
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
    /// Dropped first, so that the thread drops its reference to the rest.
    background: OnceLock<Background>,
    driven: Arc<Driven<'a>>,
    child: ChildRef<'a>,
}

impl Capture<'static> {
    /// Reads on while the program makes no call: the child need not wait, and the timeouts are kept.
    ///
    /// Output is kept within the [limits](CaptureOptions::limit) until a [`read`](Self::read) returns it; without a
    /// limit, all of it. One thread serves all such captures of the process. Where the system does not report that a
    /// pipe is ready (illumos, Solaris, Android, Haiku), it polls with pauses of up to 20 ms.
    ///
    /// Dropping the capture ends this. A second call does nothing.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the options have a callback or a reader, which would block that
    /// thread. Otherwise only if the thread cannot be started.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.args(["--print", "target-list"]);
    /// let capture = SpawnOptions::new()
    ///     .begin_capture(&mut command, CaptureOptions::new().limit(1 << 20))?;
    /// capture.read_in_background()?;
    /// // The program does something else. The command ends, however much it writes.
    /// assert!(capture.child().wait()?.success());
    /// assert!(capture.finish().stdout.total > 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_in_background(&self) -> io::Result<()> {
        if self.driven.is_copied() {
            return Err(self.error_of_a_copy());
        }
        // Two threads at once may both start, and the second job ends at once.
        if self.background.get().is_none() {
            self.driven.lock().engine.check_background()?;
            let _ = self.background.set(Background::start(Arc::clone(&self.driven))?);
        }
        Ok(())
    }
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
        let driven = Arc::new(Driven::new(engine, is_writable));
        Ok(Self { background: OnceLock::new(), driven, child })
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
    /// A deadline of [`Until`] stops nothing: the next read continues. A deadline of the [`CaptureOptions`] stops the
    /// child.
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
        let mut read = Read::new(&self.driven, until);
        self.run(Self::read_of_a_copy, |engine| read.step(engine, false))
    }

    /// Does what [`read`](Self::read) does without blocking a thread, on any executor.
    ///
    /// A future that is dropped loses no byte and stops nothing: the next read returns what this one would have
    /// returned. The background thread that serves [`wait_async`](SharedChild::wait_async) wakes the task for output,
    /// the exit and deadlines: a waker that blocks delays all its tasks. Callbacks run on the thread that polls.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Reached, Until};
    /// use std::time::Duration;
    ///
    /// async fn print(capture: &Capture<'_>) {
    ///     loop {
    ///         let quiet = Until::quiet(Duration::from_millis(200));
    ///         let chunk = capture.read_async(Until::line().or(quiet)).await;
    ///         print!("{}", chunk.stdout.text());
    ///         if chunk.reached == Reached::End {
    ///             break;
    ///         }
    ///     }
    /// }
    /// # let _ = print;
    /// ```
    pub async fn read_async(&self, until: Until) -> Chunk {
        let mut read = Read::new(&self.driven, until);
        self.run_async(Self::read_of_a_copy, |engine| read.step(engine, true)).await
    }

    /// Writes these bytes to the child's standard input. Blocks until the system has taken all of them.
    ///
    /// Meanwhile this reads what the child writes, for the next [`read`](Self::read). Requires
    /// [`CaptureOptions::stdin_open`]. Writes of several threads and tasks take turns in the order of the calls.
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

    /// Like [`write`](Self::write), but until `deadline` at the latest: returns how many of the bytes were written.
    /// Tries once, even if the deadline has passed.
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
        let mut write = Write::new(&self.driven, bytes, deadline);
        self.run(Self::write_of_a_copy, |engine| write.step(engine))
    }

    /// Does what [`write`](Self::write) does without blocking a thread, on any executor.
    ///
    /// If the future is dropped, some of the bytes may have been written:
    /// [`write_deadline_async`](Self::write_deadline_async) returns how many.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Chunk, Until};
    ///
    /// async fn send(capture: &Capture<'_>, question: &str) -> std::io::Result<Chunk> {
    ///     capture.write_async(question.as_bytes()).await?;
    ///     Ok(capture.read_async(Until::line()).await)
    /// }
    /// # let _ = send;
    /// ```
    pub async fn write_async(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_by_async(bytes, None).await.map(drop)
    }

    /// Does what [`write_deadline`](Self::write_deadline) does without blocking a thread, on any executor.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::Capture;
    /// use std::time::{Duration, Instant};
    ///
    /// async fn offer(capture: &Capture<'_>, bytes: &[u8]) -> std::io::Result<bool> {
    ///     let deadline = Instant::now() + Duration::from_secs(1);
    ///     Ok(capture.write_deadline_async(bytes, deadline).await? == bytes.len())
    /// }
    /// # let _ = offer;
    /// ```
    pub async fn write_deadline_async(&self, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
        self.write_by_async(bytes, Some(deadline)).await
    }

    async fn write_by_async(&self, bytes: &[u8], deadline: Option<Instant>) -> io::Result<usize> {
        let mut write = Write::new(&self.driven, bytes, deadline);
        self.run_async(Self::write_of_a_copy, |engine| write.step(engine)).await
    }

    /// Closes the child's standard input: the child reads an end. Does nothing if the input is closed already, or if
    /// the [options](CaptureOptions::stdin) have input for it.
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

    /// Returns whether the child's standard input is open for [writes](Self::write): not before
    /// [`CaptureOptions::stdin_open`], and not after [`close_stdin`](Self::close_stdin) or the end of the capture.
    ///
    /// The child may have closed its end nevertheless: only a write shows that.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::Capture;
    ///
    /// fn answer(capture: &Capture<'_>) -> std::io::Result<()> {
    ///     if capture.is_stdin_open() { capture.write(b"yes\n") } else { Ok(()) }
    /// }
    /// # let _ = answer;
    /// ```
    pub fn is_stdin_open(&self) -> bool {
        !self.driven.is_copied() && self.driven.lock().engine.is_stdin_open()
    }

    /// Returns how many bytes the capture has in memory, or has omitted, that no [`read`](Self::read) has returned.
    ///
    /// Bytes in the pipes do not count. So without [`read_in_background`](Self::read_in_background) this is zero, unless
    /// a read ended within the bytes that had arrived, or a write has read output.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{Capture, Until};
    /// use std::time::Instant;
    ///
    /// /// Requires that the capture is read in the background.
    /// fn print_news(capture: &Capture<'_>) {
    ///     if capture.unread() > 0 {
    ///         print!("{}", capture.read(Until::deadline(Instant::now())).stdout.text());
    ///     }
    /// }
    /// # let _ = print_news;
    /// ```
    pub fn unread(&self) -> u64 {
        if self.driven.is_copied() { 0 } else { self.driven.lock().engine.unread() }
    }

    /// Closes the child's standard input, blocks until the child has ended, and returns its status and what no read has
    /// returned.
    ///
    /// This takes as long as [`SharedChild::capture`] would take from here:
    /// [how long a capture takes](CaptureOptions#how-long-a-capture-takes). Another call returns the same without the
    /// output, of which each byte is returned once. So after [`Reached::End`] it returns how the capture ended.
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
        let mut finish = Finish::new(&self.driven);
        self.run(Self::finish_of_a_copy, |engine| finish.step(engine))
    }

    /// Does what [`finish`](Self::finish) does without blocking a thread, on any executor. A future that is dropped
    /// loses no byte and stops nothing, but standard input is closed after the first poll.
    ///
    /// The kill of a [tree](crate::Tree::kill) blocks for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::{CaptureOptions, Captured, SpawnOptions};
    /// use std::process::Command;
    ///
    /// async fn status() -> std::io::Result<Captured> {
    ///     let mut command = Command::new("git");
    ///     command.arg("status");
    ///     let capture = SpawnOptions::new().begin_capture(&mut command, &mut CaptureOptions::new())?;
    ///     Ok(capture.finish_async().await)
    /// }
    /// # let _ = status;
    /// ```
    pub async fn finish_async(&self) -> Captured {
        self.close_stdin();
        let mut finish = Finish::new(&self.driven);
        self.run_async(Self::finish_of_a_copy, |engine| finish.step(engine)).await
    }

    /// Takes the steps of an operation on this thread. `of_a_copy` returns the result in the child of a fork.
    fn run<T>(&self, of_a_copy: fn(&Self) -> T, step: impl FnMut(&mut Engine<'a>) -> Step<T>) -> T {
        if self.driven.is_copied() { of_a_copy(self) } else { self.driven.run(step) }
    }

    /// Takes the steps of an operation in a task, which may go on in the child of a fork.
    async fn run_async<T>(
        &self,
        of_a_copy: fn(&Self) -> T,
        mut step: impl FnMut(&mut Engine<'a>) -> Step<T>,
    ) -> T {
        let mut task = Task::new(&self.driven);
        let poll = |cx: &mut Context<'_>| match self.driven.is_copied() {
            true => Poll::Ready(of_a_copy(self)),
            false => task.poll(cx, &mut step),
        };
        poll_fn(poll).await
    }

    fn read_of_a_copy(&self) -> Chunk {
        chunk_of_nothing(Reached::End, StreamEnd::NotCaptured)
    }

    fn write_of_a_copy(&self) -> io::Result<usize> {
        Err(self.error_of_a_copy())
    }

    fn finish_of_a_copy(&self) -> Captured {
        let Chunk { stdout, stderr, order, .. } = self.read_of_a_copy();
        Captured {
            status: None,
            stdout,
            stderr,
            stopped_by: None,
            usage: None,
            elapsed: Duration::ZERO,
            error: Some(self.error_of_a_copy()),
            command: self.child.description(),
            order,
        }
    }

    fn error_of_a_copy(&self) -> io::Error {
        let message = format!(
            "cannot use the capture of process {} in the child of a fork: its parent captures; use it there",
            self.child.id()
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    }
}

impl fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("child", &*self.child).finish_non_exhaustive()
    }
}

/// A read, and its turn.
struct Read<'d, 'a> {
    driven: &'d Driven<'a>,
    until: Until,
    /// `None` without a turn. A call of `finish` may end the turn of a task.
    turn: Option<u64>,
    /// `None` unless it waits for its turn.
    place: Option<u64>,
}

impl<'d, 'a> Read<'d, 'a> {
    fn new(driven: &'d Driven<'a>, until: Until) -> Self {
        Self { driven, until, turn: None, place: None }
    }

    fn step(&mut self, engine: &mut Engine<'a>, is_task: bool) -> Step<Chunk> {
        if self.turn.is_none() || engine.turn() != self.turn {
            self.turn = engine.begin_read(&mut self.place, &self.until, is_task);
        }
        if self.turn.is_none() {
            if !has_passed(self.until.deadline) {
                return Step::WaitForTurn(self.until.deadline);
            }
            engine.reads.leave(&mut self.place);
            return Step::Done(engine.chunk_of_nothing(Reached::Deadline));
        }
        let step = engine.read_step();
        if let Step::Done(_) = step {
            self.turn = None;
        }
        step
    }
}

/// Ends the turn, or the wait for it, if a future is dropped, or if a callback panics.
impl Drop for Read<'_, '_> {
    fn drop(&mut self) {
        if self.turn.is_none() && self.place.is_none() {
            return;
        }
        self.driven.change(|engine| {
            engine.reads.leave(&mut self.place);
            if let Some(turn) = self.turn {
                engine.give_up_read(turn);
            }
        });
    }
}

/// A wait for the end of the capture.
struct Finish<'d, 'a> {
    driven: &'d Driven<'a>,
    has_begun: bool,
}

impl<'d, 'a> Finish<'d, 'a> {
    fn new(driven: &'d Driven<'a>) -> Self {
        Self { driven, has_begun: false }
    }

    fn step(&mut self, engine: &mut Engine<'a>) -> Step<Captured> {
        if !self.has_begun {
            engine.begin_finish();
            self.has_begun = true;
        }
        let step = engine.finish_step();
        if let Step::Done(_) = step {
            engine.end_finish();
            self.has_begun = false;
        }
        step
    }
}

/// Notes that a future is dropped, or that a callback panics.
impl Drop for Finish<'_, '_> {
    fn drop(&mut self) {
        if self.has_begun {
            self.driven.change(Engine::end_finish);
        }
    }
}

/// A write, and its turn.
struct Write<'d, 'a, 'b> {
    driven: &'d Driven<'a>,
    bytes: &'b [u8],
    written: usize,
    deadline: Option<Instant>,
    has_turn: bool,
    /// `None` unless it waits for its turn.
    place: Option<u64>,
}

impl<'d, 'a, 'b> Write<'d, 'a, 'b> {
    fn new(driven: &'d Driven<'a>, bytes: &'b [u8], deadline: Option<Instant>) -> Self {
        Self { driven, bytes, written: 0, deadline, has_turn: false, place: None }
    }

    fn step(&mut self, engine: &mut Engine<'a>) -> Step<io::Result<usize>> {
        if !self.has_turn {
            self.has_turn = engine.begin_write(&mut self.place);
        }
        if !self.has_turn {
            if !has_passed(self.deadline) {
                return Step::WaitForTurn(self.deadline);
            }
            engine.writes.leave(&mut self.place);
            return Step::Done(Ok(0));
        }
        let result = loop {
            let left = &self.bytes[self.written..];
            if left.is_empty() {
                break Ok(self.written);
            }
            match engine.write_step(left) {
                Err(error) => break Err(error),
                Ok(Step::Done(count)) => {
                    self.written += count;
                    // A child that reads without pause must not keep the write here.
                    if has_passed(self.deadline) {
                        break Ok(self.written);
                    }
                }
                Ok(_) if has_passed(self.deadline) => {
                    break engine.cancel_write().map(|count| self.written + count);
                }
                Ok(Step::Wait(until) | Step::WaitForTurn(until)) => {
                    return Step::Wait(earlier(until, self.deadline));
                }
            }
        };
        self.has_turn = false;
        engine.end_write();
        Step::Done(result)
    }
}

/// Ends the turn, or the wait for it, if a future is dropped, or if a callback panics.
impl Drop for Write<'_, '_, '_> {
    fn drop(&mut self) {
        if !self.has_turn && self.place.is_none() {
            return;
        }
        self.driven.change(|engine| {
            engine.writes.leave(&mut self.place);
            if self.has_turn {
                let _ = engine.cancel_write();
                engine.end_write();
            }
        });
    }
}
