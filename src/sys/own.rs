//! What the child of a fork has copied, and does not own.
//!
//! There the number of a descriptor may be another's: a kqueue is not inherited, and a fork may have closed all that it
//! got. And an epoll is the very one that the parent sleeps on (`reactor.rs`). So the copy is left alone.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::process;

/// Dropped only by the process that has made it.
#[derive(Debug)]
pub(crate) struct Own<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: process::id() }
    }

    /// This is the child of a fork.
    pub(crate) fn is_copied(&self) -> bool {
        self.process != process::id()
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if !self.is_copied() {
            // SAFETY: this is the only place that drops it, and it is not used after that.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}
