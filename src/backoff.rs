//! Deadlines, and pauses for polls where no system call blocks until the event.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_micros(50);
pub(crate) const LONGEST: Duration = Duration::from_millis(20);

/// The longest timeout of one system call. Systems differ in their limits, and a day is within all of them.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns how long to block at most. Zero means that the deadline has passed. At most a day: callers come back.
pub(crate) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(DAY)
}

/// Returns the earlier of two deadlines. `None` is no deadline.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Pauses that double from 50 µs to 20 ms.
///
/// A wait needs them in three cases, all of them rare: the exit is reported before the child can be reaped (a tracer holds
/// the zombie, or on a BSD the process is still exiting); another part of the program reaps the child, and the kernel has
/// not finished; a helper thread cannot be started. Other users state why they poll.
#[derive(Debug, Clone)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(FIRST)
    }

    /// Returns the next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }

    /// Sleeps, but not past the deadline. Returns `false` at once if the deadline has passed.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) -> bool {
        let mut pause = self.next();
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            pause = pause.min(left);
        }
        crate::sync::sleep(pause);
        true
    }
}
