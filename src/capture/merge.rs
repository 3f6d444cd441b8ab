//! One pipe for both outputs.

use super::system;
use crate::SharedChild;
use std::io;
use std::process::{ChildStdout, Command, Stdio};

/// Has a command spawned so that its standard error goes to where its standard output goes.
pub(super) fn spawn(
    command: &mut Command,
    spawn: impl FnOnce(&mut Command) -> io::Result<SharedChild>,
) -> io::Result<SharedChild> {
    let (ours, theirs) = system::pipe()?;
    command.stdout(theirs.try_clone()?).stderr(theirs);
    let spawned = spawn(command);
    // The command has the child's end, and a pipe that has a writer does not end.
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawned?;
    child.put_stdout(ChildStdout::from(ours));
    Ok(child)
}
