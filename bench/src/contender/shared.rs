//! This crate, and what it succeeds.

use super::Handle;
use shared_child::SharedChild;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

macro_rules! shared {
    ($handle:ident, $child:ty) => {
        pub(super) struct $handle(pub(super) $child);

        impl Handle for $handle {
            fn id(&self) -> u32 {
                self.0.id()
            }

            fn wait(&mut self) -> io::Result<ExitStatus> {
                self.0.wait()
            }

            fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
                self.0.wait_timeout(timeout)
            }

            fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
                self.0.try_wait()
            }

            fn kill(&mut self) -> io::Result<()> {
                self.0.kill()
            }
        }
    };
}

shared!(Ours, SharedChild);
shared!(Peer, peer::SharedChild);
