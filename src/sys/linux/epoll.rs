//! Linux: many pidfds in one epoll. Adding one and hearing of one cost the same however many there
//! are. (epoll(7), eventfd(2).)

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    /// Readable while it rings.
    bell: OwnedFd,
}

/// Of the bell. Other keys count from below.
const BELL: u64 = u64::MAX;

/// How many events are taken at once, at most.
const EVENTS: usize = 64;

impl Epoll {
    /// Whether it has what is in it no later than anybody else hears of that: a pidfd wakes its waiters, an epoll among
    /// them, under a lock that whoever reaps the child must take after that.
    pub(crate) const PROMPT: bool = true;

    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // For as long as it rings, to whoever asks.
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Self { epoll, bell })
    }

    /// Reports `key`, once, when the descriptor becomes readable. Fails if it is here already.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), flags)?)
    }

    /// Must come before the descriptor is closed: if a fork has copied it, closing alone would leave
    /// it registered.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It fails only for what is not registered, which is what was wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// The bell rings from here on. (Neither this nor the next fails, or blocks: nobody rings it more often than a
    /// counter of 64 bits can tell.)
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub(crate) fn hush(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Blocks, and adds the keys of those that became readable. Says whether the bell rings.
    pub(crate) fn wait(
        &self,
        keys: &mut Vec<u64>,
        at_most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        // A time too long for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let room = &mut events[..at_most.clamp(1, EVENTS)];
        let mut rung = false;
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok((events, _)) => {
                let events = events.iter().map(|event| event.data.u64());
                keys.extend(events.filter(|key| {
                    rung |= *key == BELL;
                    *key != BELL
                }));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(rung)
    }
}
