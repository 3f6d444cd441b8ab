//! The synchronization primitives of std, or of loom when [`lifecycle`](crate::lifecycle) is model-checked.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync as imp;

#[cfg(all(test, loom))]
pub(crate) use loom::sync as imp;

pub(crate) use imp::{Arc, MutexGuard};

/// A counter of tokens. (A system without 64-bit atomics has tokens of 32 bits.)
#[cfg(not(target_has_atomic = "64"))]
pub(crate) use std::sync::atomic::AtomicU32 as AtomicToken;
#[cfg(target_has_atomic = "64")]
pub(crate) use std::sync::atomic::AtomicU64 as AtomicToken;

/// A mutex without poisoning: no code under a lock can panic in the middle of a change.
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
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
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

/// Sleeps. The model has no time: another thread runs.
#[cfg(not(all(test, loom)))]
pub(crate) use std::thread::sleep;

#[cfg(all(test, loom))]
pub(crate) fn sleep(_: std::time::Duration) {
    loom::thread::yield_now();
}
