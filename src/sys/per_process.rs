//! A static that the child of a fork does not share.
//!
//! A fork copies memory as it is, but one thread only. So a mutex that another thread held just then
//! stays locked in the copy, for ever. No trick with the mutex helps, since it cannot be told from one
//! that is about to be released; the copy has to get along without it. So the first to come by in
//! another process than the one that made the value makes a new one, and finding it takes no lock.
//!
//! Processes are told apart by their ID. For one to have an ancestor's, it takes three generations of
//! forks without exec and a death in the right order, or a fork into a new PID namespace by a process
//! that is the first of its own.

use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

pub(crate) struct PerProcess<T: 'static>(AtomicPtr<Of<T>>);

struct Of<T> {
    process: u32,
    value: T,
}

impl<T: Default + Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of this process. What a fork has copied from the parent is left alone, for ever: its locks
    /// may be held, and the descriptors that it names may have been closed (`closefrom`) and be others by
    /// now.
    pub(crate) fn get(&self) -> &'static T {
        let me = process::id();
        let current = self.0.load(Ordering::Acquire);
        // SAFETY: null, or from the `Box` below, which is not freed once it has got here.
        let old = unsafe { current.as_ref() };
        if let Some(of) = old.filter(|of| of.process == me) {
            return &of.value;
        }
        let new = Box::into_raw(Box::new(Of { process: me, value: T::default() }));
        match self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it has got here now, so it is never freed, and nobody has it mutably.
            Ok(_) => unsafe { &(*new).value },
            Err(theirs) => {
                // SAFETY: it has not got here, so nobody else knows of it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread of this process has put it here. It is never freed.
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
    fn one_value_for_all_threads() {
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
