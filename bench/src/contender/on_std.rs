//! Those around std's `Child`: std itself, what is written on top of it for want of a timed wait, wait-timeout,
//! process_control and process-wrap.

use super::Handle;
use process_control::{ChildExt as _, Control};
use std::io;
use std::marker::PhantomData;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};
use wait_timeout::ChildExt as _;

/// How std's `Child` is waited for.
pub(super) trait Way: Send {
    fn wait(child: &mut Child) -> io::Result<ExitStatus> {
        child.wait()
    }

    fn wait_timeout(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>>;
}

/// With no timeout.
pub(super) struct Plain;

impl Way for Plain {
    fn wait_timeout(child: &mut Child, _: Duration) -> io::Result<Option<ExitStatus>> {
        child.wait().map(Some)
    }
}

pub(super) struct Polled;

impl Way for Polled {
    fn wait_timeout(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        const INTERVAL: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + timeout;
        loop {
            match child.try_wait()? {
                None if Instant::now() < deadline => thread::sleep(INTERVAL),
                status => return Ok(status),
            }
        }
    }
}

/// By wait-timeout.
pub(super) struct Timed;

impl Way for Timed {
    fn wait_timeout(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        child.wait_timeout(timeout)
    }
}

/// By process_control.
pub(super) struct Controlled;

impl Way for Controlled {
    fn wait(child: &mut Child) -> io::Result<ExitStatus> {
        let status = child.controlled().wait()?.map(|status| status.into_std_lossy());
        status.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn wait_timeout(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let status = child.controlled().time_limit(timeout).wait()?;
        Ok(status.map(|status| status.into_std_lossy()))
    }
}

pub(super) struct OnStd<W>(Child, PhantomData<W>);

impl<W> OnStd<W> {
    pub(super) fn new(child: Child) -> Self {
        Self(child, PhantomData)
    }
}

impl<W: Way> Handle for OnStd<W> {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        W::wait(&mut self.0)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        W::wait_timeout(&mut self.0, timeout)
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}

/// process-wrap's, without any wrapper.
pub(super) struct Wrapped(pub(super) Box<dyn process_wrap::std::ChildWrapper>);

impl Handle for Wrapped {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    fn wait_timeout(&mut self, _: Duration) -> io::Result<Option<ExitStatus>> {
        self.0.wait().map(Some)
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.start_kill()
    }
}
