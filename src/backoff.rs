//! Pauses for where there is nothing to block on.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_micros(50);
pub(crate) const LONGEST: Duration = Duration::from_millis(20);

/// Sleeps that double from 50 µs to 20 ms.
///
/// A wait needs them in three cases, all of them rare: an exit that is noticed before the child can be reaped (a
/// zombie that is still held by its tracer, or a process in its last steps on a BSD), a reap by somebody else that
/// the kernel has not finished, and a helper thread that could not be started. Others need them as well, for what
/// nobody could be had to tell of: each says so where it does.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(FIRST)
    }

    /// The next pause, for those who sleep in a system call of their own.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }

    /// Sleeps, but not past the deadline. Says `false`, at once, if that has passed already.
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
