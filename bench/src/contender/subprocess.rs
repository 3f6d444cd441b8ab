//! subprocess.

use super::{Handle, Program};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use subprocess::unix::ExitStatusExt as _;
use subprocess::{Exec, Job};

pub(super) struct Subprocess(Job);

impl Subprocess {
    pub(super) fn exec(program: &Program) -> io::Result<Exec> {
        let mut exec = Exec::cmd(&program.path).args(&program.arguments);
        if let Some(file) = &program.stdin {
            exec = exec.stdin(file.try_clone()?);
        }
        if let Some(file) = &program.stdout {
            exec = exec.stdout(file.try_clone()?);
        }
        Ok(exec)
    }

    pub(super) fn start(program: &Program) -> io::Result<Self> {
        Self::exec(program)?.start().map(Self)
    }
}

pub(super) fn status(status: subprocess::ExitStatus) -> io::Result<ExitStatus> {
    let raw = status.into_raw().ok_or_else(|| io::Error::other("somebody else has reaped it"))?;
    Ok(ExitStatus::from_raw(raw))
}

impl Handle for Subprocess {
    fn id(&self) -> u32 {
        self.0.pid()
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        status(self.0.wait()?)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.0.wait_timeout(timeout)?.map(status).transpose()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.poll().map(status).transpose()
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}
