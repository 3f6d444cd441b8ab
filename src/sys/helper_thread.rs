//! The threads of this library.

use std::io;

/// Starts a thread with a small stack.
pub(crate) fn spawn_helper(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn_thread(name, 128 * 1024, run)
}

/// Starts a thread. On Unix it blocks all signals, except at its very start: to block them there as well, this would
/// have to change the mask of the calling thread.
pub(crate) fn spawn_thread(
    name: &str,
    stack: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    start(name, stack, Box::new(run))
}

/// Boxed, so that std's code for a new thread is compiled once, not for every caller.
#[cfg(not(all(test, loom)))]
fn start(name: &str, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(stack);
    thread.spawn(move || {
        #[cfg(unix)]
        block_signals();
        run();
    })?;
    Ok(())
}

#[cfg(all(test, loom))]
fn start(_: &str, _: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    loom::thread::spawn(run);
    Ok(())
}

#[cfg(all(unix, not(all(test, loom))))]
fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigfillset` initialises the set, which `pthread_sigmask` then reads. The mask is this thread's own.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}
