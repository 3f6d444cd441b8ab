//! Linux: many pidfds in one epoll. Adding one and hearing of one cost the same however many there
//! are. (epoll(7).)

use rustix::event::{Timespec, epoll};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Reports `key`, once, when the descriptor becomes readable.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(key), flags)?)
    }

    /// Must come before the descriptor is closed: if a fork has copied it, closing alone would leave
    /// it registered.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It fails only for what is not registered, which is what was wanted.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Blocks, and adds the keys of those that became readable.
    pub(crate) fn wait(&self, keys: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        // A time too long for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [MaybeUninit::uninit(); 64];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((events, _)) => keys.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
