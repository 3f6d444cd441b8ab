//! Where the exits of many children are heard of, by any number of threads.
//!
//! What hears is a kernel queue (epoll, kqueue), in which the descriptors of the children are. Whatever is told by
//! this process itself (a helper thread's finding, a registered wait of Windows, a wish to be woken) is *posted*: put
//! into a list, beside which a *bell* in the kernel queue rings for as long as there is something in it. Where there
//! is no kernel queue, everything is posted, and a condition variable is the bell.
//!
//! A token is told to one thread, once. That it is told does not promise that an exit will be seen, and a token may
//! be about a child that is not there any more: whoever hears it looks.

use super::{KernelQueue, kernel_queue};
use crate::sync::{Mutex, MutexGuard, imp::Condvar};
use std::collections::VecDeque;
use std::io;
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub(crate) struct Port {
    /// Set under the lock of what is posted. None yet, if there was no descriptor to spare so far.
    watch: OnceLock<Box<dyn KernelQueue>>,
    /// Never held over anything that blocks. The bell rings if and only if there is something in it.
    posted: Mutex<VecDeque<u64>>,
    /// The bell where there is no watch.
    changed: Condvar,
}

impl Port {
    /// Never fails: without a descriptor to spare there is no watch, for now.
    pub(crate) fn new() -> Self {
        let watch = kernel_queue().map_or_else(|_| OnceLock::new(), OnceLock::from);
        Self { watch, posted: Mutex::default(), changed: Condvar::new() }
    }

    /// What children with descriptors are put into. Tries anew whether there is a descriptor to spare.
    #[cfg(unix)]
    pub(super) fn watch(&self) -> Option<&dyn KernelQueue> {
        if self.watch.get().is_none() {
            let watch = kernel_queue().ok()?;
            // The bell rings for what is there, and who sleeps without it goes over to it.
            let posted = self.posted.lock();
            if self.watch.set(watch).is_ok() {
                self.watch.get().filter(|_| !posted.is_empty()).inspect(|watch| watch.wake());
                self.changed.notify_all();
            }
        }
        self.watch.get().map(|watch| &**watch)
    }

    /// Takes out what was put into it.
    #[cfg(unix)]
    pub(crate) fn remove(&self, descriptor: Option<std::os::fd::BorrowedFd<'_>>) {
        if let (Some(watch), Some(descriptor)) = (self.watch.get(), descriptor) {
            watch.remove(descriptor);
        }
    }

    /// Has the token told. Never blocks.
    pub(crate) fn post(&self, token: u64) {
        let mut posted = self.posted.lock();
        posted.push_back(token);
        match self.watch.get() {
            Some(watch) if posted.len() == 1 => watch.wake(),
            Some(_) => {}
            None => self.changed.notify_one(),
        }
    }

    /// The token need not be told any more, if it has not been: nobody would take it where nobody waits.
    pub(crate) fn withdraw(&self, token: u64) {
        let mut posted = self.posted.lock();
        let before = posted.len();
        posted.retain(|other| *other != token);
        self.hush_if_emptied(before, &posted);
    }

    /// Blocks until there are tokens, or until the deadline, and adds them: no more than `at_most`, the others are
    /// for other threads. May come back with none before the deadline. An error means that somebody has closed a
    /// descriptor of ours.
    pub(crate) fn wait(
        &self,
        tokens: &mut Vec<u64>,
        at_most: usize,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        loop {
            if self.take_posted(self.posted.lock(), tokens, at_most) {
                return Ok(());
            }
            let Some(watch) = self.watch.get() else {
                if self.wait_for_posted(tokens, at_most, deadline) {
                    return Ok(());
                }
                continue;
            };
            let rung = watch.wait(tokens, at_most, deadline.map(left))?;
            if !rung || !tokens.is_empty() {
                return Ok(());
            }
            // Others may have taken what it rang for, and what it has come before may be there still.
        }
    }

    fn take_posted(
        &self,
        mut posted: MutexGuard<'_, VecDeque<u64>>,
        tokens: &mut Vec<u64>,
        at_most: usize,
    ) -> bool {
        let count = posted.len().min(at_most.saturating_sub(tokens.len()));
        let before = posted.len();
        tokens.extend(posted.drain(..count));
        self.hush_if_emptied(before, &posted);
        count > 0
    }

    fn hush_if_emptied(&self, before: usize, posted: &VecDeque<u64>) {
        if let Some(watch) = self.watch.get().filter(|_| before > 0 && posted.is_empty()) {
            watch.clear_wake();
        }
    }

    /// Says `false` if there is a watch to wait for instead.
    fn wait_for_posted(
        &self,
        tokens: &mut Vec<u64>,
        at_most: usize,
        deadline: Option<Instant>,
    ) -> bool {
        let mut posted = self.posted.lock();
        while posted.is_empty() {
            if self.watch.get().is_some() {
                return false;
            }
            posted = match deadline {
                None => self.changed.wait(posted).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = left(deadline);
                    if left.is_zero() {
                        return true;
                    }
                    let woken = self.changed.wait_timeout(posted, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        self.take_posted(posted, tokens, at_most);
        true
    }
}

/// For how long to block at most. Zero means that the deadline has passed. Systems differ in how long a timeout they
/// take; a day is within all limits, and callers come back.
pub(super) fn left(deadline: Instant) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    deadline.saturating_duration_since(Instant::now()).min(DAY)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Port;
    use crate::sync::{Mutex, imp::Condvar};
    use std::sync::OnceLock;
    use std::time::Instant;

    /// With a bell in a kernel queue where there is one, and without.
    #[test]
    fn what_is_withdrawn_is_not_told() {
        let without =
            Port { watch: OnceLock::new(), posted: Mutex::default(), changed: Condvar::new() };
        for port in [Port::new(), without] {
            let told = || {
                let mut tokens = Vec::new();
                port.wait(&mut tokens, 1, Some(Instant::now())).expect("nobody closes it");
                tokens
            };
            for token in 1..=3 {
                port.post(token);
            }
            port.withdraw(2);
            assert_eq!((told(), told(), told()), (vec![1], vec![3], vec![]));
            port.post(4);
            port.withdraw(4);
            // The bell is silent, and rings for the next.
            assert!(port.posted.lock().is_empty());
            assert_eq!(told(), []);
            port.post(5);
            assert_eq!(told(), [5]);
        }
    }
}
