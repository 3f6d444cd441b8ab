//! duct.

use super::{Handle, Program};
use std::io;
use std::process::{ExitStatus, Output};
use std::time::Duration;

pub(super) struct Duct(duct::Handle);

impl Duct {
    pub(super) fn expression(program: Program) -> duct::Expression {
        let mut expression = duct::cmd(program.path, program.arguments).unchecked();
        if let Some(file) = program.stdin {
            expression = expression.stdin_file(file);
        }
        if let Some(file) = program.stdout {
            expression = expression.stdout_file(file);
        }
        expression
    }

    pub(super) fn start(expression: &duct::Expression) -> io::Result<Self> {
        expression.start().map(Self)
    }
}

impl Handle for Duct {
    fn id(&self) -> u32 {
        self.0.pids()[0]
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().map(|output| output.status)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.0.wait_timeout(timeout).map(status)
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait().map(status)
    }

    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}

fn status(output: Option<&Output>) -> Option<ExitStatus> {
    output.map(|output| output.status)
}
