//! The children, or other processes, whose exits one event queue reports, each by a token.
//!
//! The list's owner *polls* an entry that the queue cannot report, or has reported before the child could be reaped. A
//! token is used once per process, so a late report about a removed entry matches no other entry.

use crate::event_queue::EventQueue;
use crate::sync::Arc;
use crate::sys::{Notice, Registration};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::Ordering;

/// Wakes the queue's waiters without an exit. No entry has this token.
pub(crate) const WAKE: u64 = 0;

/// Returns the next token. The child of a fork continues the count, so its copied tokens match no entry of its own.
/// (Without 64-bit atomics the count starts again after 2^32.)
#[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
pub(crate) fn next_token() -> u64 {
    #[cfg(not(target_has_atomic = "64"))]
    use std::sync::atomic::AtomicU32 as Atomic;
    #[cfg(target_has_atomic = "64")]
    use std::sync::atomic::AtomicU64 as Atomic;
    static LAST: Atomic = Atomic::new(WAKE as _);
    LAST.fetch_add(1, Ordering::Relaxed) as u64 + 1
}

/// A map by tokens, or by other numbers.
pub(crate) type TokenMap<T> = HashMap<u64, T, BuildHasherDefault<DefaultHasher>>;

pub(crate) struct Watchlist<T> {
    entries: TokenMap<Entry<T>>,
    /// Sorted, so in the order of insertion.
    polled: Vec<u64>,
    /// The number of entries whose exits other waiters may observe earlier.
    late: usize,
}

/// An entry of a list. The owner drops it without holding a lock: on Windows, the end of its registration waits for a
/// report in progress.
pub(crate) struct Entry<T> {
    pub(crate) value: T,
    source: Source,
}

/// The way in which an exit reaches the owner of a list.
pub(crate) enum Source {
    Registered(Registration),
    /// The child had exited when it was inserted, and its token was posted.
    Posted,
    /// The queue cannot report the exit.
    Polled,
}

impl Source {
    /// Registers a child. `notice` is `None` if the child has exited.
    pub(crate) fn new(notice: Option<Arc<Notice>>, queue: &Arc<EventQueue>, token: u64) -> Self {
        match notice {
            Some(notice) => Self::registered(EventQueue::register(queue, &notice, token)),
            None => {
                queue.post(token);
                Self::Posted
            }
        }
    }

    pub(crate) fn registered(registration: Option<Registration>) -> Self {
        registration.map_or(Self::Polled, Self::Registered)
    }

    pub(crate) fn is_polled(&self) -> bool {
        matches!(self, Self::Polled)
    }

    /// Returns whether other waiters may observe the exit before the queue reports it.
    fn is_late(&self) -> bool {
        matches!(self, Self::Registered(registration) if !registration.is_prompt())
    }
}

impl<T> Watchlist<T> {
    pub(crate) fn new() -> Self {
        Self { entries: HashMap::default(), polled: Vec::new(), late: 0 }
    }

    pub(crate) fn insert(&mut self, token: u64, value: T, source: Source) {
        let is_polled = source.is_polled();
        self.late += usize::from(source.is_late());
        self.entries.insert(token, Entry { value, source });
        if is_polled {
            self.poll(token);
        }
    }

    pub(crate) fn remove(&mut self, token: u64) -> Option<Entry<T>> {
        let entry = self.entries.remove(&token)?;
        self.late -= usize::from(entry.source.is_late());
        if let Ok(index) = self.polled.binary_search(&token) {
            self.polled.remove(index);
        }
        Some(entry)
    }

    /// Has an entry polled from now on.
    pub(crate) fn poll(&mut self, token: u64) {
        if let Err(index) = self.polled.binary_search(&token) {
            self.polled.insert(index, token);
        }
    }

    /// Has all entries polled from now on, because the queue has failed.
    pub(crate) fn poll_all(&mut self) {
        self.polled = self.tokens();
    }

    pub(crate) fn polled(&self) -> &[u64] {
        &self.polled
    }

    /// Returns the entries whose exits other waiters may observe before the queue reports them, in the order of their
    /// insertion. An entry may be there twice.
    pub(crate) fn unreported(&self) -> Vec<u64> {
        let mut unreported = self.polled.clone();
        if self.late > 0 {
            for (token, entry) in &self.entries {
                if entry.source.is_late() {
                    unreported.push(*token);
                }
            }
            unreported.sort_unstable();
        }
        unreported
    }

    pub(crate) fn get(&self, token: u64) -> Option<&T> {
        self.entries.get(&token).map(|entry| &entry.value)
    }

    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        self.entries.get_mut(&token).map(|entry| &mut entry.value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// Returns the tokens of all entries, in the order of their insertion.
    pub(crate) fn tokens(&self) -> Vec<u64> {
        let mut tokens: Vec<u64> = self.entries.keys().copied().collect();
        tokens.sort_unstable();
        tokens
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<T> Entry<T> {
    /// Ends the registration.
    pub(crate) fn end(self) -> T {
        self.value
    }
}
