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

/// Sleeps; under the model there is no time, and another thread runs.
#[cfg(not(all(test, loom)))]
pub(crate) use std::thread::sleep;

#[cfg(all(test, loom))]
pub(crate) fn sleep(_: std::time::Duration) {
    loom::thread::yield_now();
}
