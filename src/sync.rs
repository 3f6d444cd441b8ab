//! The primitives under [`lifecycle`](crate::lifecycle): std's, or loom's when it is model-checked.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync as imp;

#[cfg(all(test, loom))]
pub(crate) use loom::sync as imp;

pub(crate) use imp::{Arc, MutexGuard};

/// A mutex that has no notion of poison.
///
/// Nothing that this crate does under a lock can panic half-way through a change, so a poisoned lock
/// tells us only that a thread of the caller died. The others must not suffer for it.
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    #[cfg(not(all(test, loom)))]
    pub(crate) const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    #[cfg(all(test, loom))]
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Gives out numbers, each once, from 1; without a lock that a fork might find taken.
#[cfg(any(unix, feature = "async"))]
pub(crate) struct Count(Word);

#[cfg(all(any(unix, feature = "async"), target_has_atomic = "64"))]
type Word = std::sync::atomic::AtomicU64;
/// They begin again after 2^32, then.
#[cfg(all(any(unix, feature = "async"), not(target_has_atomic = "64")))]
type Word = std::sync::atomic::AtomicUsize;

#[cfg(any(unix, feature = "async"))]
impl Count {
    pub(crate) const fn new() -> Self {
        Self(Word::new(0))
    }

    #[allow(clippy::unnecessary_cast, reason = "on some systems it is one")]
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as u64 + 1
    }
}

/// Sleeps; under the model there is no time, and another thread runs.
#[cfg(not(all(test, loom)))]
pub(crate) use std::thread::sleep;

#[cfg(all(test, loom))]
pub(crate) fn sleep(_: std::time::Duration) {
    loom::thread::yield_now();
}
