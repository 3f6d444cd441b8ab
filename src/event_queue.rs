//! The exits and wake-ups of many children, reported to any number of threads.
//!
//! A kernel queue (epoll, kqueue) holds the descriptors of the children. Tokens from this process itself (from a helper
//! thread, a registered wait of Windows, a wake-up) are *posted* to a list; the kernel queue wakes its waiters while
//! the list is not empty. Without a kernel queue all tokens are posted, and a condition variable wakes the waiters.
//!
//! Each token is reported to one thread, once. A report does not promise an exit, and may be about a child that was
//! removed: the receiver polls.

use crate::backoff::left;
use crate::sync::{self, Mutex, imp::Condvar};
use crate::sys::{KernelQueue, Notice, PipeEvent, Registration, kernel_queue};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub(crate) struct EventQueue {
    /// Set under the lock of `posted`. Empty while no descriptor is spare.
    kernel: OnceLock<Arc<dyn KernelQueue>>,
    /// The lock is never held across anything that blocks. The kernel queue wakes its waiters if and only if this is
    /// not empty.
    posted: Mutex<VecDeque<u64>>,
    /// Wakes the waiters where there is no kernel queue.
    changed: Condvar,
}

impl EventQueue {
    /// Creates a queue. Never fails: if no descriptor is spare, there is no kernel queue yet.
    pub(crate) fn new() -> Self {
        let queue =
            Self { kernel: OnceLock::new(), posted: Mutex::default(), changed: Condvar::new() };
        queue.kernel();
        queue
    }

    /// Reports `token`, once, when there is a reason to poll the child: at once if there is one already. `None` if
    /// nothing can report the exit: no descriptor for the queue, no thread for the helper, or the child of a fork.
    pub(crate) fn register(
        this: &sync::Arc<Self>,
        notice: &sync::Arc<Notice>,
        token: u64,
    ) -> Option<Registration> {
        let queue = sync::Arc::clone(this);
        Registration::new(notice, this.kernel(), token, Box::new(move || queue.post(token)))
    }

    /// Reports `token`, once, when the pipe is ready. `None` if nothing can report it.
    pub(crate) fn register_pipe(
        this: &sync::Arc<Self>,
        pipe: &PipeEvent,
        token: u64,
    ) -> Option<Registration> {
        let queue = sync::Arc::clone(this);
        Registration::of_pipe(pipe, this.kernel(), token, Box::new(move || queue.post(token)))
    }

    /// Returns the kernel queue. If there is none, tries again to open one.
    pub(crate) fn kernel(&self) -> Option<&Arc<dyn KernelQueue>> {
        if self.kernel.get().is_none() {
            let kernel = Arc::from(kernel_queue().ok()?);
            // Threads that wait without the kernel queue change over to it, and find the posted tokens.
            let posted = self.posted.lock();
            if self.kernel.set(kernel).is_ok() {
                self.kernel.get().filter(|_| !posted.is_empty()).inspect(|kernel| kernel.wake());
                self.changed.notify_all();
            }
        }
        self.kernel.get()
    }

    /// Reports the token. Never blocks.
    pub(crate) fn post(&self, token: u64) {
        let mut posted = self.posted.lock();
        posted.push_back(token);
        match self.kernel.get() {
            Some(kernel) if posted.len() == 1 => kernel.wake(),
            Some(_) => {}
            None => self.changed.notify_one(),
        }
    }

    /// Removes a posted token that was not reported: without a waiter it would stay.
    pub(crate) fn withdraw(&self, token: u64) {
        let mut posted = self.posted.lock();
        if let Some(index) = posted.iter().position(|other| *other == token) {
            posted.remove(index);
            self.clear_wake_if_empty(&posted);
        }
    }

    /// Blocks until there are tokens, or until the deadline, and adds at most `at_most` tokens: the rest is for other
    /// threads. May return before the deadline without a token. An error means that other code has closed a descriptor
    /// of the queue.
    pub(crate) fn wait(
        &self,
        tokens: &mut Vec<u64>,
        at_most: usize,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let mut posted = self.posted.lock();
        while posted.is_empty() {
            let left = deadline.map(left);
            if let Some(kernel) = self.kernel.get() {
                drop(posted);
                let is_woken = kernel.wait(tokens, at_most, left)?;
                if !is_woken || !tokens.is_empty() {
                    return Ok(());
                }
                // Another thread may have taken the posted tokens, and the kernel queue may still hold an exit.
                posted = self.posted.lock();
                continue;
            }
            posted = match left {
                None => self.changed.wait(posted).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Ok(()),
                Some(left) => {
                    let woken = self.changed.wait_timeout(posted, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        while tokens.len() < at_most {
            let Some(token) = posted.pop_front() else { break };
            tokens.push(token);
        }
        self.clear_wake_if_empty(&posted);
        Ok(())
    }

    /// Clears the wake-up after the last posted token was removed.
    fn clear_wake_if_empty(&self, posted: &VecDeque<u64>) {
        if let Some(kernel) = self.kernel.get().filter(|_| posted.is_empty()) {
            kernel.clear_wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::EventQueue;
    use crate::sync::{Mutex, imp::Condvar};
    use std::sync::OnceLock;
    use std::time::Instant;

    /// Covers a queue with a kernel queue, where the system has one, and a queue without.
    #[test]
    fn withdrawn_token_is_not_reported() {
        let without = EventQueue {
            kernel: OnceLock::new(),
            posted: Mutex::default(),
            changed: Condvar::new(),
        };
        for queue in [EventQueue::new(), without] {
            let reported = || {
                let mut tokens = Vec::new();
                queue.wait(&mut tokens, 1, Some(Instant::now())).expect("the queue is open");
                tokens
            };
            for token in 1..=3 {
                queue.post(token);
            }
            queue.withdraw(2);
            assert_eq!((reported(), reported(), reported()), (vec![1], vec![3], vec![]));
            queue.post(4);
            queue.withdraw(4);
            // The queue does not wake a waiter, but reports the next token.
            assert!(queue.posted.lock().is_empty());
            assert_eq!(reported(), []);
            queue.post(5);
            assert_eq!(reported(), [5]);
        }
    }
}
