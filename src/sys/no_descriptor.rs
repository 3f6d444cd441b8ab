//! Where no descriptor tells of an exit: [`thread`](super::thread) serves alone.

#[path = "no_watch.rs"]
mod no_watch;
pub(crate) use no_watch::NoWatch;

use super::Look;
use super::unix::by_pid::Pid;
use super::unix::notice as unix;
use crate::usage::Usage;
use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct NoDescriptor(Infallible);

impl NoDescriptor {
    pub(crate) fn open(_: Pid) -> Option<Self> {
        None
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        unix::poll_readable(self.as_fd(), deadline)
    }

    pub(crate) fn look(&self) -> io::Result<Look> {
        match self.0 {}
    }

    pub(crate) fn recover(&self) -> Option<ExitStatus> {
        match self.0 {}
    }

    pub(crate) fn look_with_usage(&self) -> io::Result<(Look, Option<Usage>)> {
        match self.0 {}
    }

    pub(crate) fn signal(&self, _: c_int) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn signal_group(&self, _: c_int) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn reap(&self) -> bool {
        match self.0 {}
    }
}

impl AsFd for NoDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
