//! The libraries that are compared, behind one interface. [`Program::spawner`] defines how each contender runs a
//! program, with the same standard streams. Differences by nature are part of what each one costs: duct searches for
//! the program itself, copies the whole environment for each spawn, and reads output on threads; subprocess builds each
//! command anew, and forks; tokio runs on a current-thread runtime, driven by the thread that waits, which is its
//! shortest way.

mod handle;
mod on_tokio;
mod output;

pub(crate) use handle::Handle;
pub(crate) use on_tokio::{awaited, one_worker, use_worker_threads};
pub(crate) use output::{Demand, output};

use on_tokio::{in_runtime, runtime};
use process_wrap::{std as wrap, tokio as tokio_wrap};
use shared_child::linux::SpawnOptionsExt;
use shared_child::{SpawnOptions, seam::Backend};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use subprocess::ExecExt;

macro_rules! contenders {
    ($($(#[$doc:meta])* $contender:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Contender { $($(#[$doc])* $contender,)* }

        impl Contender {
            const ALL: &[Self] = &[$(Self::$contender,)*];

            /// Returns the name. Those of this crate's modes begin with `this crate`, which the plots rely on.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$contender => $name,)* }
            }
        }
    };
}

contenders! {
    /// The same work without the timed waits.
    Nothing = "without",
    /// System calls without a library.
    Raw = "raw calls",
    Std = "std",
    /// std with a `pre_exec` hook, with which it forks.
    StdHook = "std, pre_exec",
    /// std with a process group, and a variable in the child's environment, which a tree has as well.
    StdVariable = "std, one variable",
    /// std with `try_wait` every ten milliseconds as the timed wait.
    Polling = "std, polling",
    /// This crate, or its set where sets are compared.
    ThisCrate = "this crate",
    /// This crate without pidfds: a timed wait needs a helper thread per child.
    Fallback = "this crate, fallback",
    Tree = "this crate, a tree",
    Futures = "this crate, futures",
    SmallSets = "this crate, sets of 100",
    FewTrees = "this crate, sets of 50 trees",
    SharedChild1 = "shared_child 1.1.2",
    Duct = "duct",
    Subprocess = "subprocess",
    ProcessWrap = "process-wrap",
    /// process-wrap's commands for tokio, each with a process group.
    WrappedOnTokio = "process-wrap on tokio",
    Tokio = "tokio",
}

impl Contender {
    /// The contenders with a timed wait.
    pub(crate) const TIMED: [Self; 5] =
        [Self::ThisCrate, Self::SharedChild1, Self::Duct, Self::Subprocess, Self::Tokio];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|contender| contender.name() == name)
    }
}

/// Returns the error for what a library does not offer, though programs may build it on top.
pub(crate) fn not_offered() -> io::Error {
    io::Error::other(NOT_OFFERED)
}

pub(crate) fn is_not_offered(error: &io::Error) -> bool {
    error.to_string() == NOT_OFFERED
}

const NOT_OFFERED: &str = "not offered";

/// Kills and reaps the child when it is dropped.
pub(crate) struct Killed(pub(crate) Handle);

impl Drop for Killed {
    fn drop(&mut self) {
        // A wait for a child that could not be killed might not return.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// What a spawn creates: a child, what the library has for a child with its descendants, or a container that no process
/// can leave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Child,
    Tree,
    Container,
}

/// A program with its arguments, and its standard input and output unless it inherits them.
pub(crate) struct Program {
    pub(crate) words: Vec<OsString>,
    pub(crate) unit: Unit,
    pub(crate) streams: Option<[File; 2]>,
}

/// Each call spawns a child.
pub(crate) type Spawner = Box<dyn FnMut() -> io::Result<Handle>>;

impl Program {
    pub(crate) fn new<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { words, unit: Unit::Child, streams: None }
    }

    pub(crate) fn command(self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        if let Some([stdin, stdout]) = self.streams {
            command.stdin(stdin).stdout(stdout);
        }
        command
    }

    /// Returns an expression for which an exit code other than zero is no error.
    fn expression(self) -> duct::Expression {
        let expression = duct::cmd(&self.words[0], &self.words[1..]).unchecked();
        match self.streams {
            Some([stdin, stdout]) => expression.stdin_file(stdin).stdout_file(stdout),
            None => expression,
        }
    }

    fn exec(&self) -> io::Result<subprocess::Exec> {
        let exec = subprocess::Exec::cmd(&self.words[0]).args(&self.words[1..]);
        Ok(match &self.streams {
            Some([stdin, stdout]) => exec.stdin(stdin.try_clone()?).stdout(stdout.try_clone()?),
            None => exec,
        })
    }

    /// Returns the contender's spawner, with everything prepared that can be.
    pub(crate) fn spawner(self, contender: Contender) -> io::Result<Spawner> {
        use Contender::*;
        let unit = if contender == Tree { Unit::Tree } else { self.unit };
        let offered = match unit {
            Unit::Child => true,
            Unit::Tree => !matches!(contender, SharedChild1 | Duct | Tokio),
            Unit::Container => contender == ThisCrate,
        };
        if !offered {
            return Err(not_offered());
        }
        if contender == Duct {
            let expression = self.expression();
            return Ok(Box::new(move || expression.start().map(Handle::Duct)));
        }
        if contender == Subprocess {
            return Ok(Box::new(move || {
                let exec = self.exec()?;
                let exec = if unit == Unit::Tree { exec.setpgid() } else { exec };
                exec.start().map(Handle::Subprocess)
            }));
        }
        let mut command = self.command();
        if unit == Unit::Tree && matches!(contender, Std | StdVariable) {
            command.process_group(0);
        }
        let mut options = SpawnOptions::new();
        options.tree(unit != Unit::Child).cgroup(unit == Unit::Container);
        Ok(match contender {
            Std | Polling => Box::new(move || command.spawn().map(Handle::Std)),
            StdVariable => {
                command.env("SHARED_CHILD_BENCH", "1234-0-0123456789abcdef");
                Box::new(move || command.spawn().map(Handle::Std))
            }
            StdHook => {
                // SAFETY: the hook does nothing.
                unsafe { command.pre_exec(|| Ok(())) };
                Box::new(move || command.spawn().map(Handle::Std))
            }
            ThisCrate | Tree => {
                Box::new(move || options.spawn(&mut command).map(Handle::ThisCrate))
            }
            Fallback => {
                Box::new(move || Backend::ALL[1].spawn(&mut command).map(Handle::ThisCrate))
            }
            SharedChild1 => {
                Box::new(move || peer::SharedChild::spawn(&mut command).map(Handle::SharedChild1))
            }
            ProcessWrap => {
                let mut command = wrap::CommandWrap::from(command);
                if unit == Unit::Tree {
                    command.wrap(wrap::ProcessGroup::leader());
                }
                Box::new(move || command.spawn().map(Handle::ProcessWrap))
            }
            WrappedOnTokio => {
                let mut command =
                    tokio_wrap::CommandWrap::from(tokio::process::Command::from(command));
                command.wrap(tokio_wrap::ProcessGroup::leader());
                Box::new(move || in_runtime(|| command.spawn().map(Handle::WrappedOnTokio)))
            }
            Tokio => {
                let mut command = tokio::process::Command::from(command);
                Box::new(move || in_runtime(|| command.spawn().map(Handle::Tokio)))
            }
            _ => return Err(not_offered()),
        })
    }

    pub(crate) fn spawn(self, contender: Contender) -> io::Result<Handle> {
        self.spawner(contender)?()
    }
}

/// Returns a program that exits at once.
pub(crate) fn short_lived() -> Program {
    Program::new(["/bin/true"])
}

/// Returns a program that outlives a measurement by little. It holds no pipe of this process, whose reader would wait
/// for it if this process were killed.
pub(crate) fn long_lived() -> io::Result<Program> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let streams = Some([null.try_clone()?, null]);
    Ok(Program { streams, ..Program::new(["/bin/sleep", "1000"]) })
}
