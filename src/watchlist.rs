//! The children, or other processes, whose exits one event queue reports, each by a token.
//!
//! The list's owner *polls* an entry that the queue cannot report, or has reported before the child could be reaped. A
//! token is used once per process, so a late report about a removed entry matches no other entry.

use crate::event_queue::{EventQueue, Registration};
use crate::sync::Arc;
use crate::sys::Notice;
use std::collections::{BTreeSet, HashMap};
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

pub(crate) struct Watchlist<T> {
    entries: HashMap<u64, Entry<T>, BuildHasherDefault<DefaultHasher>>,
    polled: BTreeSet<u64>,
    /// The number of entries whose exits other waiters may observe earlier.
    late: usize,
}

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
            Some(notice) => Self::registered(Registration::new(&notice, queue, token)),
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
        Self { entries: HashMap::default(), polled: BTreeSet::new(), late: 0 }
    }

    pub(crate) fn insert(&mut self, token: u64, value: T, source: Source) {
        if source.is_polled() {
            self.polled.insert(token);
        }
        self.late += usize::from(source.is_late());
        self.entries.insert(token, Entry { value, source });
    }

    /// Removes an entry. The caller [ends](Entry::end) it after releasing the lock of the list.
    pub(crate) fn remove(&mut self, token: u64) -> Option<Entry<T>> {
        let entry = self.entries.remove(&token)?;
        self.late -= usize::from(entry.source.is_late());
        self.polled.remove(&token);
        Some(entry)
    }

    /// Has the entry polled from now on, if it is in the list.
    pub(crate) fn poll(&mut self, token: u64) {
        if self.entries.contains_key(&token) {
            self.polled.insert(token);
        }
    }

    /// Has all entries polled from now on, because the queue has failed.
    pub(crate) fn poll_all(&mut self) {
        self.polled = self.entries.keys().copied().collect();
    }

    pub(crate) fn polled(&self) -> &BTreeSet<u64> {
        &self.polled
    }

    /// Returns the entries whose exits other waiters may observe before the queue reports them, in the order of their
    /// insertion.
    pub(crate) fn unreported(&self) -> BTreeSet<u64> {
        let mut unreported = self.polled.clone();
        if self.late > 0 {
            let late = self.entries.iter().filter(|(_, entry)| entry.source.is_late());
            unreported.extend(late.map(|(token, _)| *token));
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

    pub(crate) fn tokens(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<T> Entry<T> {
    /// Removes the entry from the queue. The caller holds no lock: on Windows this waits for a report in progress.
    pub(crate) fn end(self, queue: &EventQueue) -> T {
        if let Source::Registered(registration) = self.source {
            registration.end(queue);
        }
        self.value
    }
}
