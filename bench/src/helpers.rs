//! The processes that are measured.
//!
//! Each writes its process ID to standard output when it is ready, and holds that pipe open until it exits.

use crate::cli::Result;
use crate::peers::Program;
use crate::system::{nanoseconds, pid};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, wait};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::process::{self, Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

/// The argument that makes this program a child that writes the time before it exits.
pub(crate) const CHILD: &str = "__child";

/// The pipe from a number of processes.
pub(crate) struct Helpers {
    lines: BufReader<PipeReader>,
    output: PipeWriter,
}

impl Helpers {
    pub(crate) fn new() -> io::Result<Self> {
        let (lines, output) = io::pipe()?;
        Ok(Self { lines: BufReader::new(lines), output })
    }

    pub(crate) fn output(&self) -> io::Result<OwnedFd> {
        Ok(self.output.try_clone()?.into())
    }

    /// Returns a command for a leader and its members, which run for five minutes.
    pub(crate) fn leader(&self, members: usize) -> io::Result<Command> {
        let script = "for i in $(seq $1); do sleep 300 & echo $!; done; echo $$; exec sleep 300";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &members.to_string()]);
        command.stdin(Stdio::null()).stdout(self.output()?);
        Ok(command)
    }

    /// Returns this program as a child that exits at the end of its standard input.
    pub(crate) fn child(&self, input: PipeReader) -> io::Result<Program> {
        let words = [env::current_exe()?.into_os_string(), CHILD.into()];
        let streams = Some([OwnedFd::from(input).into(), self.output()?.into()]);
        Ok(Program { streams, ..Program::new(words) })
    }

    pub(crate) fn number(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// Returns the process IDs when `count` processes are ready.
    pub(crate) fn until_ready(&mut self, count: usize) -> Result<Vec<u32>> {
        let ids = (0..count).map(|_| Ok(u32::try_from(self.number()?)?)).collect();
        // Possibly the last process has not executed its program yet, or not reached its read.
        thread::sleep(Duration::from_millis(20));
        ids
    }

    /// Returns when all processes have exited.
    pub(crate) fn until_exited(self) -> io::Result<()> {
        let Self { mut lines, output } = self;
        drop(output);
        lines.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Runs [`Helpers::child`].
pub(crate) fn child() -> Result<()> {
    println!("{}", process::id());
    io::stdin().read_to_end(&mut Vec::new())?;
    println!("{}", nanoseconds());
    // SAFETY: `_exit` has an integer as its argument. It skips what Rust and libc do at an exit.
    unsafe { libc::_exit(0) }
}

/// Children that exit all at once.
///
/// They read from a pipe whose only writer is `cat`. `cat` exits at the end of its own input, which this process holds.
/// So another process wakes the children, at no CPU time of this process; and the children exit when this process dies.
pub(crate) struct Members {
    releaser: Child,
    input: PipeReader,
    pub(crate) helpers: Helpers,
}

impl Members {
    pub(crate) fn new() -> io::Result<Self> {
        let (input, writer) = io::pipe()?;
        // The end of this statement drops the command, and with it this process's copy of the writer.
        let releaser = Command::new("cat").stdin(Stdio::piped()).stdout(writer).spawn()?;
        Ok(Self { releaser, input, helpers: Helpers::new()? })
    }

    pub(crate) fn program(&self) -> io::Result<Program> {
        let stdin = OwnedFd::from(self.input.try_clone()?).into();
        let streams = Some([stdin, self.helpers.output()?.into()]);
        let words = ["/bin/sh", "-c", "echo $$; read line; exit 0"];
        Ok(Program { streams, ..Program::new(words) })
    }

    /// Lets all members exit, and does not wait for it.
    pub(crate) fn release(&mut self) {
        drop(self.releaser.stdin.take());
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.release();
        let _ = self.releaser.wait();
    }
}

/// Makes orphaned descendants children of this process, so that this process can reap them.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Kills a process group, and reaps all children of this process, when it is dropped. The ID stays taken until then: a
/// group lasts as long as it has an unreaped member.
pub(crate) struct Group(pub(crate) u32);

impl Group {
    pub(crate) fn kill(&self) -> io::Result<()> {
        Ok(kill_process_group(pid(self.0)?, Signal::KILL)?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.kill();
        reap_all();
    }
}

/// Reaps all children of this process, which have exited or were killed.
pub(crate) fn reap_all() {
    while matches!(wait(WaitOptions::empty()), Ok(_) | Err(Errno::INTR)) {}
}
