//! Where no kernel queue tells of many exits at once: whatever is heard of is posted by this process itself.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct NoWatch(Infallible);

impl NoWatch {
    /// Nothing is in it.
    #[cfg(unix)]
    pub(crate) const PROMPT: bool = false;

    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(unix)]
    pub(crate) fn add(&self, _: std::os::fd::BorrowedFd<'_>, _: u64) -> io::Result<()> {
        match self.0 {}
    }

    #[cfg(unix)]
    pub(crate) fn remove(&self, _: std::os::fd::BorrowedFd<'_>) {
        match self.0 {}
    }

    pub(crate) fn ring(&self) {
        match self.0 {}
    }

    pub(crate) fn hush(&self) {
        match self.0 {}
    }

    pub(crate) fn wait(&self, _: &mut Vec<u64>, _: usize, _: Option<Duration>) -> io::Result<bool> {
        match self.0 {}
    }
}
