//! Who is compared, behind one interface.

use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody: the same work without what is measured.
    Nobody,
    /// A system call, without any library.
    Raw,
    /// `std::process::Child`.
    Std,
    /// This crate.
    Ours,
    /// This crate where it must do without a pidfd: timed waits take a helper thread a child.
    Fallback,
    /// This crate where a task of tokio's is woken by the reactor of its runtime.
    OnReactor,
    /// This crate with a hundred children.
    Few,
    /// shared_child 1.1.2.
    Peer,
    /// tokio.
    Tokio,
}

impl Who {
    const ALL: [Self; 9] = [
        Self::Nobody,
        Self::Raw,
        Self::Std,
        Self::Ours,
        Self::Fallback,
        Self::OnReactor,
        Self::Few,
        Self::Peer,
        Self::Tokio,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "without",
            Self::Raw => "raw call",
            Self::Std => "std",
            Self::Ours => "this crate",
            Self::Fallback => "its fallback",
            Self::OnReactor => "its reactor",
            Self::Few => "a set of 100",
            Self::Peer => "1.1.2",
            Self::Tokio => "tokio",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|who| who.name() == name)
    }
}

/// What every contender can do with a child.
pub(crate) trait Handle: Sized {
    fn spawn(command: &mut Command) -> io::Result<Self>;
    fn wait(&mut self) -> io::Result<ExitStatus>;
    /// Waits for a minute at most; std, which cannot, for as long as it takes.
    fn wait_a_minute(&mut self) -> io::Result<Option<ExitStatus>>;
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>>;
    fn kill(&mut self) -> io::Result<()>;
    fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)>;
}

impl Handle for Child {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        Child::wait(self)
    }

    fn wait_a_minute(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::wait(self).map(Some)
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::try_wait(self)
    }

    fn kill(&mut self) -> io::Result<()> {
        Child::kill(self)
    }

    fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.stdin.take().zip(self.stdout.take())
    }
}

/// This crate, as everybody gets it.
pub(crate) struct Ours(SharedChild);

/// This crate with its second backend.
pub(crate) struct Fallback(SharedChild);

/// shared_child 1.1.2.
pub(crate) struct Peer(peer::SharedChild);

macro_rules! shared {
    ($handle:ident, $spawn:expr) => {
        impl Handle for $handle {
            fn spawn(command: &mut Command) -> io::Result<Self> {
                $spawn(command).map(Self)
            }

            fn wait(&mut self) -> io::Result<ExitStatus> {
                self.0.wait()
            }

            fn wait_a_minute(&mut self) -> io::Result<Option<ExitStatus>> {
                self.0.wait_timeout(Duration::from_secs(60))
            }

            fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
                self.0.try_wait()
            }

            fn kill(&mut self) -> io::Result<()> {
                self.0.kill()
            }

            fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
                self.0.take_stdin().zip(self.0.take_stdout())
            }
        }
    };
}

shared!(Ours, SharedChild::spawn);
shared!(Fallback, |command| Backend::ALL[1].spawn(command));
shared!(Peer, peer::SharedChild::spawn);

/// A child that does not outlive its handle, whatever happens.
pub(crate) struct Killed<H: Handle>(H);

impl<H: Handle> Killed<H> {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        H::spawn(command).map(Self)
    }
}

impl<H: Handle> Deref for Killed<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.0
    }
}

impl<H: Handle> DerefMut for Killed<H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.0
    }
}

impl<H: Handle> Drop for Killed<H> {
    fn drop(&mut self) {
        // An error means that it is gone already; a wait for a child that could not be killed might
        // not end.
        if self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// A program that ends at once.
pub(crate) fn short_lived() -> Command {
    Command::new("/bin/true")
}

/// A program that outlives a measurement, and not by much. It holds no pipe of its parent's: should
/// that be killed, whoever reads from it hears of it.
pub(crate) fn long_lived() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
    command
}
