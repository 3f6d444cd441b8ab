//! State that the child of a fork must not use.
//!
//! A fork copies all memory, but only one thread. In the copy a mutex that another thread held stays locked for ever.
//! The number of a descriptor may belong to another descriptor: a kqueue is not inherited, and the child may have
//! closed all descriptors. An epoll is the very one on which the parent sleeps.
//!
//! The process ID distinguishes the copy from the original. A process has the ID of an ancestor only after three
//! generations of forks without exec and a death in the right order, or after a fork into a new PID namespace by the
//! first process of another one.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that only the process that created it drops.
#[derive(Debug)]
pub(crate) struct ForkGuard<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> ForkGuard<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: process::id() }
    }

    /// Returns whether this process is the child of a fork.
    pub(crate) fn is_copied(&self) -> bool {
        self.process != process::id()
    }
}

impl<T> Deref for ForkGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for ForkGuard<T> {
    fn drop(&mut self) {
        if !self.is_copied() {
            // SAFETY: this is the only place that drops the value, and it is not used after that.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

/// A static that each process creates for itself at its first use. Access takes no lock.
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<Of<T>>);

struct Of<T> {
    process: u32,
    value: T,
}

impl<T: Default + Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Returns the value of this process. The value that a fork has copied from the parent stays untouched: its locks may
    /// be held, and the numbers of its descriptors may be those of other descriptors.
    pub(crate) fn get(&self) -> &'static T {
        let me = process::id();
        let current = self.0.load(Ordering::Acquire);
        // SAFETY: null, or from the `Box` below, which is not freed once it is stored here.
        let old = unsafe { current.as_ref() };
        if let Some(of) = old.filter(|of| of.process == me) {
            return &of.value;
        }
        let new = Box::into_raw(Box::new(Of { process: me, value: T::default() }));
        match self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it is stored now, so it is never freed, and no mutable reference to it exists.
            Ok(_) => unsafe { &(*new).value },
            Err(theirs) => {
                // SAFETY: it was not stored, so no other thread has a pointer to it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread of this process has stored it. It is never freed.
                unsafe { &(*theirs).value }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PerProcess;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_threads_of_a_process_get_one_value() {
        static VALUE: PerProcess<AtomicUsize> = PerProcess::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    VALUE.get().fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(VALUE.get().load(Ordering::Relaxed), 8);
    }
}
