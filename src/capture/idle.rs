//! Whether a child is idle: the time since it did anything.

use crate::backoff::earlier;
use std::time::{Duration, Instant};

/// The shortest time between two reads of the CPU time.
const SOONEST: Duration = Duration::from_millis(10);

/// The idle time of one child.
///
/// The CPU time is read an interval after the last output, so that a child that writes costs nothing, and then once per
/// interval. A child that uses no CPU time is idle from the first of these reads.
pub(super) struct Idle {
    timeout: Duration,
    reads_cpu_time: bool,
    /// The child did something for the last time.
    since: Instant,
    /// The CPU time since then, and when to read it next.
    cpu_time: Option<u64>,
    next_read: Option<Instant>,
    /// The time does not count since then.
    paused: Option<Instant>,
    /// The pipes were polled for the last time.
    polled: Instant,
}

impl Idle {
    pub(super) fn new(timeout: Duration, reads_cpu_time: bool) -> Self {
        let now = Instant::now();
        let mut idle = Self {
            timeout,
            reads_cpu_time,
            since: now,
            cpu_time: None,
            next_read: None,
            paused: Some(now),
            polled: now,
        };
        idle.moved();
        idle
    }

    /// Notes that bytes were moved.
    pub(super) fn moved(&mut self) {
        self.since = Instant::now();
        self.cpu_time = None;
        self.read_after(self.since);
    }

    /// Notes that the pipes were polled. What they had was read.
    pub(super) fn polled(&mut self) {
        self.polled = Instant::now();
    }

    pub(super) fn set_counting(&mut self, counts: bool) {
        match self.paused {
            Some(paused) if counts => {
                let now = Instant::now();
                self.since += now.duration_since(paused.max(self.since));
                self.paused = None;
                if self.cpu_time.take().is_some() {
                    self.read_after(now);
                }
            }
            None if !counts => self.paused = Some(Instant::now()),
            _ => {}
        }
    }

    /// Reads the CPU time if it is due. Returns when the child will be idle, or when the CPU time is due.
    pub(super) fn next(&mut self, cpu_time: impl FnOnce() -> Option<u64>) -> Option<Instant> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.reads_cpu_time && (is_due(self.next_read) || is_due(self.ends_at())) {
            let read = cpu_time();
            // If it cannot be read any more, the child has used none.
            if self.cpu_time.is_none() || (read.is_some() && read != self.cpu_time) {
                self.since = now;
            }
            self.cpu_time = read.or(self.cpu_time).or(Some(0));
            self.read_after(now);
        }
        earlier(self.ends_at(), self.next_read)
    }

    /// Returns whether the time is over. Output may have arrived since the pipes were polled, if any is open.
    pub(super) fn is_over(&self, has_no_pipes: bool) -> bool {
        let polled = if has_no_pipes { Instant::now() } else { self.polled };
        self.ends_at().is_some_and(|end| end <= polled)
    }

    /// Returns `None` while the time does not count.
    fn ends_at(&self) -> Option<Instant> {
        match self.paused {
            None => self.since.checked_add(self.timeout),
            Some(_) => None,
        }
    }

    fn read_after(&mut self, now: Instant) {
        if self.reads_cpu_time {
            self.next_read = now.checked_add((self.timeout / 8).max(SOONEST));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread::sleep;

    const TIMEOUT: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(2);

    fn counting(reads_cpu_time: bool) -> (Idle, Instant) {
        let mut idle = Idle::new(TIMEOUT, reads_cpu_time);
        assert_eq!(idle.ends_at(), None);
        idle.set_counting(true);
        let end = idle.ends_at().expect("the time counts");
        (idle, end)
    }

    #[test]
    fn time_that_does_not_count_is_no_idle_time() {
        let (mut idle, end) = counting(false);
        idle.set_counting(false);
        assert_eq!(idle.ends_at(), None);
        sleep(SHORT);
        idle.set_counting(true);
        assert!(idle.ends_at() >= end.checked_add(SHORT));
    }

    #[test]
    fn output_restarts_the_idle_time() {
        let (mut idle, end) = counting(false);
        sleep(SHORT);
        idle.moved();
        assert!(idle.ends_at() >= end.checked_add(SHORT));
    }

    /// The pipes may have output that arrived before the end of the time.
    #[test]
    fn idle_time_is_over_after_a_poll_of_the_pipes() {
        let mut idle = Idle::new(SHORT, false);
        idle.set_counting(true);
        sleep(2 * SHORT);
        assert!(!idle.is_over(false) && idle.is_over(true));
        idle.polled();
        assert!(idle.is_over(false));
    }

    #[test]
    fn cpu_time_that_grows_restarts_the_idle_time() {
        let (mut idle, _) = counting(true);
        let mut end_after = |cpu_time| {
            sleep(SHORT);
            idle.next_read = Some(Instant::now());
            idle.next(|| cpu_time);
            idle.ends_at().expect("the time counts")
        };
        let first = end_after(Some(5));
        assert_eq!(end_after(Some(5)), first);
        let second = end_after(Some(6));
        assert!(second > first);
        // It cannot be read any more.
        assert_eq!(end_after(None), second);
    }
}
