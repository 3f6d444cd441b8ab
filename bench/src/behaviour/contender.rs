//! What a contender can be asked for, behind one interface.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

pub(crate) use crate::cli::Result;

/// Waits for the end, on whatever thread.
pub(crate) type Waiter = Box<dyn FnOnce() -> io::Result<ExitStatus> + Send>;

/// Kills meanwhile.
pub(crate) type Killer = Box<dyn FnOnce() -> io::Result<()>>;

/// One of those that are compared. What is `None` it does not offer; what can be built on it by hand is not its own.
pub(crate) trait Contender: Sized {
    /// A child.
    type Handle;

    /// A program and its arguments, with the standard streams of this process.
    fn spawn(argv: &[&str]) -> io::Result<Self::Handle>;
    fn id(handle: &Self::Handle) -> u32;
    fn kill(handle: &mut Self::Handle) -> io::Result<()>;
    fn wait(handle: &mut Self::Handle) -> io::Result<ExitStatus>;

    const WAIT_TIMEOUT: Option<WaitTimeout<Self::Handle>> = None;
    /// Waits so long, then kills, and waits for that.
    const TIME_OUT: Option<TimeOut<Self::Handle>> =
        if Self::WAIT_TIMEOUT.is_some() { Some(time_out::<Self>) } else { None };
    /// Makes two of a handle: one to wait, on another thread, the other to kill meanwhile.
    const APART: Option<Apart<Self::Handle>> = None;
    /// What is there without further conditions.
    const TREE: Option<Tree<Self::Handle>> = None;
    /// One that nobody can leave.
    const COMPLETE_TREE: Option<Tree<Self::Handle>> = None;
    /// All that is written to standard output.
    const OUTPUT: Option<AllOutput> = None;
    /// What has been written by then. An error if that is lost.
    const OUTPUT_TIMEOUT: Option<OutputTimeout> = None;
    /// So many bytes of it, whatever else is written.
    const OUTPUT_LIMIT: Option<OutputLimit> = None;
    /// All that is written to standard output and standard error by a child that is fed.
    const FEED: Option<Feed> = None;
}

pub(crate) type WaitTimeout<H> = fn(&mut H, Duration) -> io::Result<Option<ExitStatus>>;

pub(crate) type TimeOut<H> = fn(&mut H, Duration) -> io::Result<()>;

pub(crate) type Apart<H> = fn(H) -> (Waiter, Killer);

pub(crate) type AllOutput = fn(&[&str]) -> io::Result<Vec<u8>>;

pub(crate) type OutputTimeout = fn(&[&str], Duration) -> io::Result<Vec<u8>>;

pub(crate) type OutputLimit = fn(&[&str], usize) -> io::Result<Vec<u8>>;

pub(crate) type Feed = fn(&[&str], Vec<u8>) -> io::Result<[Vec<u8>; 2]>;

/// How a child is spawned together with all that it starts, and how that is killed.
pub(crate) struct Tree<H> {
    pub(crate) spawn: fn(&[&str]) -> io::Result<H>,
    pub(crate) kill: fn(&mut H) -> io::Result<()>,
}

fn time_out<C: Contender>(handle: &mut C::Handle, timeout: Duration) -> io::Result<()> {
    let Some(wait_timeout) = C::WAIT_TIMEOUT else { return Ok(()) };
    if wait_timeout(handle, timeout)?.is_none() {
        C::kill(handle)?;
        C::wait(handle)?;
    }
    Ok(())
}

/// Says that it is not offered.
#[derive(Debug)]
pub(crate) struct NotOffered;

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not offered")
    }
}

impl Error for NotOffered {}

pub(crate) fn offered<T>(what: Option<T>) -> std::result::Result<T, NotOffered> {
    what.ok_or(NotOffered)
}

/// For those who take a command of std's.
pub(crate) fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    command
}

pub(crate) fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
