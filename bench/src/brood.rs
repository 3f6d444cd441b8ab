//! Many children of this process, which end when they are told to: all at once.
//!
//! Each is this program, started again. It says that it is there, and reads from a pipe until that ends. Nobody can
//! write into that pipe but `cat`, which holds it until its own input ends, and that is ours. So the children are woken
//! by another process, and the CPU time for it is not ours; and should this process die, all of them end.

use crate::cli::Result;
use crate::contender::Program;
use std::env;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The hidden argument that makes this program one of them.
pub(crate) const MEMBER: &str = "__member";

/// When this is dropped, they end, if they have not been told to before.
pub(crate) struct Brood {
    releaser: Child,
    input: PipeReader,
    tell: PipeWriter,
    told: PipeReader,
}

impl Brood {
    pub(crate) fn new() -> io::Result<Self> {
        let (input, hold) = io::pipe()?;
        let (told, tell) = io::pipe()?;
        // The command goes with this statement, and with it our copy of what it is to hold.
        let releaser = Command::new("cat").stdin(Stdio::piped()).stdout(hold).spawn()?;
        Ok(Self { releaser, input, tell, told })
    }

    /// Each spawn of it is one more.
    pub(crate) fn program(&self) -> io::Result<Program> {
        let mut program = Program::new(env::current_exe()?).arg(MEMBER);
        program.stdin = Some(File::from(OwnedFd::from(self.input.try_clone()?)));
        program.stdout = Some(File::from(OwnedFd::from(self.tell.try_clone()?)));
        Ok(program)
    }

    /// Returns when so many are there, and wait to be told.
    pub(crate) fn until_there(&mut self, count: usize) -> Result<()> {
        /// From saying so until they wait, for the last of them.
        const SETTLE: Duration = Duration::from_millis(20);
        self.told.read_exact(&mut vec![0; count])?;
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Tells them to end. Returns before they do.
    pub(crate) fn release(&mut self) {
        drop(self.releaser.stdin.take());
    }
}

impl Drop for Brood {
    fn drop(&mut self) {
        self.release();
        let _ = self.releaser.wait();
    }
}

/// The life of one.
pub(crate) fn member() -> ! {
    let mut byte = 0_u8;
    // SAFETY: `byte` is one byte that may be read and written; standard input and output are open. `_exit` takes an
    // integer.
    unsafe {
        libc::write(libc::STDOUT_FILENO, (&raw const byte).cast(), 1);
        // Nobody writes: it returns at the end of file.
        libc::read(libc::STDIN_FILENO, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
