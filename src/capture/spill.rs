//! Files that receive a stream whose limit in memory is exceeded.
//!
//! A thread of its own writes each file, because a write to a file may block for any time. The engine hands bytes over
//! through a queue, and does not read the stream while the queue is full: the child then waits for the file system, as
//! if it wrote to the file itself. If the file system makes no progress for [`PATIENCE`], the engine gives the file up
//! and reads on.
//!
//! The thread blocks all signals: SIGPIPE and SIGXFSZ become errors of the write.

use crate::backoff::Backoff;
use crate::fork_guard::ForkGuard;
use crate::sync::{Arc, Mutex, imp::Condvar};
use crate::sys;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the file system may take for one write, and for all writes after the capture's deadline.
const PATIENCE: Duration = Duration::from_secs(2);

/// The queue is full from this length. It grows longer by one read, and by what is kept in memory when it begins.
const FULL: usize = 128 * 1024;
const LONGEST_READ: usize = 64 * 1024;

/// At most this much is written by one system call, so that progress is visible.
const AT_ONCE: usize = 128 * 1024;

/// Where a stream is written once its limit is exceeded: `CaptureOptions::spill`.
#[derive(Debug, Clone)]
pub(super) struct SpillOptions {
    pub(super) target: Target,
    pub(super) cap: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A file that does not exist yet.
    Path(PathBuf),
    File(Arc<File>),
}

/// The file to which a stream was written because it exceeded its limit.
///
/// # Examples
///
/// ```
/// use shared_child::CapturedStream;
///
/// fn describe(stream: &CapturedStream) -> String {
///     match &stream.spilled {
///         None => "all of it is in memory".to_owned(),
///         Some(spilled) => match &spilled.error {
///             Some(error) => format!("the file has {} bytes: {error}", spilled.bytes),
///             None => format!("the file has {} of {} bytes", spilled.bytes, stream.total),
///         },
///     }
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Spilled {
    /// The path that [`CaptureOptions::spill`](super::CaptureOptions::spill) was given. `None` for a file that was
    /// open.
    pub path: Option<PathBuf>,
    /// The position in the stream of the first byte that was written: 0, unless reads of a
    /// [`Capture`](super::Capture) had returned bytes before a limit was exceeded.
    pub start: u64,
    /// How many bytes were written, in the order of the stream and without a gap.
    pub bytes: u64,
    /// Why fewer bytes were written than the stream had, if not because of the cap.
    pub error: Option<std::sync::Arc<io::Error>>,
}

/// The spill of one stream.
pub(super) struct Spill {
    options: SpillOptions,
    /// How many bytes went through the memory before the spill began.
    passed: u64,
    /// How many more bytes to write.
    left: u64,
    state: State,
}

enum State {
    NotBegun,
    Writing(Writer),
    Over(u64, Option<std::sync::Arc<io::Error>>),
}

/// The engine's side of a thread.
struct Writer {
    shared: ForkGuard<Arc<Shared>>,
    /// Set while the engine waits for the thread.
    waiting: Option<Waiting>,
    /// When the last byte was handed over.
    over_since: Option<Instant>,
}

struct Waiting {
    written: u64,
    since: Instant,
    pause: Backoff,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// No bytes follow.
    is_closed: bool,
    /// The thread must not write any more.
    is_given_up: bool,
    written: u64,
    /// The result, once the thread has closed its file.
    result: Option<io::Result<()>>,
}

impl Spill {
    pub(super) fn new(options: SpillOptions) -> Self {
        Self { left: options.cap, options, passed: 0, state: State::NotBegun }
    }

    /// Notes that this many bytes were returned to the program from memory.
    pub(super) fn passed(&mut self, count: u64) {
        if let State::NotBegun = self.state {
            self.passed += count;
        }
    }

    /// Writes bytes that do not all fit into the memory. `kept` is in memory and comes before them.
    pub(super) fn push(&mut self, kept: &[u8], new: &[u8]) {
        if let State::NotBegun = self.state {
            self.state = begin(&self.options.target);
            if let State::Writing(writer) = &self.state {
                // A vector that grows by itself would be twice as long.
                writer.shared.queue.lock().bytes.reserve_exact(kept.len() + new.len());
            }
            self.hand_over(kept);
        }
        self.hand_over(new);
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.state, State::NotBegun)
    }

    fn hand_over(&mut self, bytes: &[u8]) {
        let State::Writing(writer) = &self.state else { return };
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= count as u64;
        let mut queue = writer.shared.queue.lock();
        if queue.result.is_none() {
            // At once, since a vector that grows has its bytes in memory twice.
            let room = (FULL + LONGEST_READ).saturating_sub(queue.bytes.len());
            queue.bytes.reserve_exact(room.max(count));
            queue.bytes.extend_from_slice(&bytes[..count]);
        }
        queue.is_closed |= self.left == 0;
        writer.shared.changed.notify_one();
    }

    /// Returns whether the stream must not be read now.
    pub(super) fn is_full(&self) -> bool {
        match &self.state {
            State::Writing(writer) => writer.shared.queue.lock().is_full(),
            _ => false,
        }
    }

    /// Returns when to call this again, if the engine waits for the thread: because the queue is full, or because the
    /// stream `is_over`.
    pub(super) fn poll(&mut self, is_over: bool, deadline: Option<Instant>) -> Option<Instant> {
        let State::Writing(writer) = &mut self.state else { return None };
        let mut queue = writer.shared.queue.lock();
        if let Some(result) = queue.result.take() {
            let written = queue.written;
            drop(queue);
            self.state = State::Over(written, result.err().map(std::sync::Arc::new));
            return None;
        }
        if !is_over && !queue.is_full() {
            writer.waiting = None;
            return None;
        }
        let now = Instant::now();
        if is_over {
            queue.is_closed = true;
            writer.shared.changed.notify_one();
        }
        let mut is_late = false;
        if is_over {
            let over_since = *writer.over_since.get_or_insert(now);
            let has_passed = deadline.is_some_and(|deadline| deadline <= now);
            is_late = has_passed && now.duration_since(over_since) >= PATIENCE;
        }
        let written = queue.written;
        if writer.waiting.as_ref().is_none_or(|waiting| waiting.written != written) {
            writer.waiting = Some(Waiting { written, since: now, pause: Backoff::new() });
        }
        let waiting = writer.waiting.as_mut()?;
        if !is_late && now.duration_since(waiting.since) < PATIENCE {
            return now.checked_add(waiting.pause.next());
        }
        queue.give_up();
        writer.shared.changed.notify_one();
        drop(queue);
        let message = format!(
            "cannot write the output to {}: the file system has not finished within {PATIENCE:?}",
            self.options.target.name()
        );
        let error = io::Error::new(ErrorKind::TimedOut, message);
        self.state = State::Over(written, Some(std::sync::Arc::new(error)));
        None
    }

    /// Returns the result so far.
    pub(super) fn result(&self) -> Option<Spilled> {
        let (bytes, error) = match &self.state {
            State::NotBegun => return None,
            State::Writing(writer) => (writer.shared.queue.lock().written, None),
            State::Over(bytes, error) => (*bytes, error.clone()),
        };
        let path = match &self.options.target {
            Target::Path(path) => Some(path.clone()),
            Target::File(_) => None,
        };
        Some(Spilled { path, start: self.passed, bytes, error })
    }
}

/// The thread of a capture that is dropped writes the bytes that it was handed.
impl Drop for Writer {
    fn drop(&mut self) {
        // In the child of a fork, the lock may stay locked.
        if !self.shared.is_copied() {
            self.shared.queue.lock().is_closed = true;
            self.shared.changed.notify_one();
        }
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.result.is_none() && !self.is_closed && self.bytes.len() >= FULL
    }

    fn give_up(&mut self) {
        self.is_given_up = true;
        self.is_closed = true;
        self.bytes = Vec::new();
    }
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::File(_) => "the file".to_owned(),
        }
    }

    fn open(&self) -> io::Result<Arc<File>> {
        match self {
            Self::Path(path) => {
                File::options().write(true).create_new(true).open(path).map(Arc::new)
            }
            Self::File(file) => Ok(Arc::clone(file)),
        }
    }
}

fn begin(target: &Target) -> State {
    let shared = Arc::new(Shared::default());
    let (theirs, target) = (Arc::clone(&shared), target.clone());
    let name = target.name();
    let run = move || {
        let result = write(&theirs, &target).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::AlreadyExists => "; remove it, or pass a file that is open",
                _ => "",
            };
            let name = target.name();
            let message = format!("cannot write the output to {name}: {error}{remedy}");
            io::Error::new(error.kind(), message)
        });
        let mut queue = theirs.queue.lock();
        queue.bytes = Vec::new();
        queue.result = Some(result);
    };
    match sys::spawn_helper("child-spill", run) {
        Ok(()) => {
            let shared = ForkGuard::new(shared);
            State::Writing(Writer { shared, waiting: None, over_since: None })
        }
        Err(error) => {
            let message =
                format!("cannot write the output to {name}: cannot start a thread for it: {error}");
            let error = io::Error::new(error.kind(), message);
            State::Over(0, Some(std::sync::Arc::new(error)))
        }
    }
}

/// Writes what the queue receives. Runs on the thread.
fn write(shared: &Shared, target: &Target) -> io::Result<()> {
    let file = target.open()?;
    let mut bytes = Vec::new();
    loop {
        let mut queue = shared.queue.lock();
        while queue.bytes.is_empty() && !queue.is_closed {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.bytes.is_empty() {
            return Ok(());
        }
        // Both buffers keep their memory.
        std::mem::swap(&mut bytes, &mut queue.bytes);
        drop(queue);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = match (&*file).write(&rest[..rest.len().min(AT_ONCE)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            rest = &rest[count..];
            let mut queue = shared.queue.lock();
            if queue.is_given_up {
                return Ok(());
            }
            queue.written += count as u64;
        }
        bytes.clear();
        bytes.shrink_to(2 * FULL);
    }
}
