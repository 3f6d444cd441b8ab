//! A program, and how each contender runs it.

use super::asynchronous::{OnAsyncIo, OnTokio};
use super::duct::Duct;
use super::on_std::{Controlled, OnStd, Plain, Polled, Timed, Wrapped};
use super::raw::{Raw, Spawn};
use super::shared::{Ours, Peer};
use super::subprocess::Subprocess;
use super::{AnyHandle, Handle, Who};
use shared_child::seam::Backend;
use shared_child::{SharedChild, SpawnOptions};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A program with its arguments. Its standard streams are inherited, or these.
#[derive(Default)]
pub(crate) struct Program {
    pub(crate) path: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: Option<File>,
}

/// Each call spawns one more.
pub(crate) type Spawner = Box<dyn FnMut() -> io::Result<AnyHandle>>;

impl Program {
    pub(crate) fn new(path: impl Into<OsString>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn command(self) -> Command {
        let mut command = Command::new(self.path);
        command.args(self.arguments);
        if let Some(file) = self.stdin {
            command.stdin(file);
        }
        if let Some(file) = self.stdout {
            command.stdout(file);
        }
        command
    }

    /// Not by way of std's, whose streams it would replace by those of this process.
    pub(crate) fn on_async_io(self) -> async_process::Command {
        let mut command = async_process::Command::new(self.path);
        command.args(self.arguments);
        if let Some(file) = self.stdin {
            command.stdin(file);
        }
        if let Some(file) = self.stdout {
            command.stdout(file);
        }
        command
    }

    /// How this contender spawns it, with everything prepared that can be.
    pub(crate) fn spawner(self, who: Who) -> io::Result<Spawner> {
        Ok(match who {
            Who::Std => self.spawned(|command| command.spawn().map(OnStd::<Plain>::new)),
            Who::Hooked => {
                let mut command = self.command();
                // SAFETY: the hook does nothing.
                unsafe { command.pre_exec(|| Ok(())) };
                Box::new(move || boxed(command.spawn().map(OnStd::<Plain>::new)))
            }
            Who::Polling => self.spawned(|command| command.spawn().map(OnStd::<Polled>::new)),
            Who::WaitTimeout => self.spawned(|command| command.spawn().map(OnStd::<Timed>::new)),
            Who::ProcessControl => {
                self.spawned(|command| command.spawn().map(OnStd::<Controlled>::new))
            }
            Who::Ours => self.spawned(|command| SharedChild::spawn(command).map(Ours)),
            Who::Tree => {
                let options = SpawnOptions::new().tree(true).clone();
                self.spawned(move |command| options.spawn(command).map(Ours))
            }
            Who::Fallback => self.spawned(|command| Backend::ALL[1].spawn(command).map(Ours)),
            Who::Peer => self.spawned(|command| peer::SharedChild::spawn(command).map(Peer)),
            Who::ProcessWrap => {
                let mut command = process_wrap::std::CommandWrap::from(self.command());
                Box::new(move || boxed(command.spawn().map(Wrapped)))
            }
            Who::Tokio => {
                let mut command = tokio::process::Command::from(self.command());
                Box::new(move || boxed(OnTokio::spawn(&mut command)))
            }
            Who::AsyncProcess => {
                let mut command = self.on_async_io();
                Box::new(move || boxed(OnAsyncIo::spawn(&mut command)))
            }
            Who::Duct => {
                let expression = Duct::expression(self);
                Box::new(move || boxed(Duct::start(&expression)))
            }
            Who::Subprocess => Box::new(move || boxed(Subprocess::start(&self))),
            Who::Raw => {
                let spawn = Spawn::new(self)?;
                Box::new(move || boxed(Raw::spawn(&spawn)))
            }
            Who::Nobody | Who::Futures | Who::Few => {
                return Err(io::Error::other(format!("{} spawns nothing", who.name())));
            }
        })
    }

    /// One, spawned by this contender.
    pub(crate) fn spawn(self, who: Who) -> io::Result<AnyHandle> {
        self.spawner(who)?()
    }

    fn spawned<H: Handle + 'static>(
        self,
        spawn: impl Fn(&mut Command) -> io::Result<H> + 'static,
    ) -> Spawner {
        let mut command = self.command();
        Box::new(move || boxed(spawn(&mut command)))
    }
}

fn boxed<H: Handle + 'static>(handle: io::Result<H>) -> io::Result<AnyHandle> {
    handle.map(|handle| Box::new(handle) as AnyHandle)
}

/// A program that ends at once.
pub(crate) fn short_lived() -> Program {
    Program::new("/bin/true")
}

/// A program that outlives a measurement, and not by much. It holds no pipe of its parent's: should
/// that be killed, whoever reads from it hears of it.
pub(crate) fn long_lived() -> io::Result<Program> {
    let mut program = Program::new("/bin/sleep").arg("1000");
    let null = File::options().read(true).write(true).open("/dev/null")?;
    program.stdin = Some(null.try_clone()?);
    program.stdout = Some(null);
    Ok(program)
}
