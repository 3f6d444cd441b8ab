//! The error of a command that failed.

use super::Captured;
use std::error::Error;
use std::fmt::{self, Write};
use std::io;
use std::process::ExitStatus;

/// The error of [`Captured::check`]: a command that failed or was stopped, or whose capture failed.
///
/// [`Display`](fmt::Display) shows the command, how it ended, why it was stopped, [`Captured::error`], and up to ten of
/// the last lines of standard error, or of standard output if standard error is empty. It shows control characters as
/// escapes.
///
/// - The command is quoted as a shell requires, and cut after 1 KiB. The text has the process ID instead if the child was
///   not spawned by this library, or was spawned without a pipe for its output.
/// - **Arguments and output may contain secrets.**
///
/// It converts into an [`io::Error`] of the kind [`Other`](io::ErrorKind::Other), from which it can be
/// [downcast](io::Error::downcast).
///
/// # Examples
///
/// ```
/// use shared_child::{CaptureOptions, CommandFailed, SpawnOptions};
/// use std::{io, process::Command};
///
/// fn run(command: &mut Command) -> io::Result<String> {
///     let captured = SpawnOptions::new().capture(command, &mut CaptureOptions::new())?.check()?;
///     Ok(captured.stdout.text().into_owned())
/// }
///
/// let error = run(Command::new("rustc").arg("no such file.rs")).unwrap_err();
/// println!("{error}"); // `rustc 'no such file.rs'` failed: exit status: 1; stderr ends with: …
/// let failed = error.downcast::<CommandFailed>().expect("the command was run");
/// assert_eq!(failed.captured().status.and_then(|status| status.code()), Some(1));
/// ```
#[derive(Debug)]
pub struct CommandFailed(Box<Captured>);

impl Captured {
    /// Returns an error that describes the command and its end, unless the command [succeeded](Self::success) and
    /// [`error`](Self::error) is `None`.
    ///
    /// # Errors
    ///
    /// [`CommandFailed`], which contains this value.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{CaptureOptions, SpawnOptions}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let mut command = Command::new("rustc");
    /// command.arg("--version");
    /// let captured =
    ///     SpawnOptions::new().capture(&mut command, &mut CaptureOptions::new())?.check()?;
    /// assert!(captured.stdout.text().starts_with("rustc"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn check(self) -> Result<Self, CommandFailed> {
        match self.success() && self.error.is_none() {
            true => Ok(self),
            false => Err(CommandFailed(Box::new(self))),
        }
    }
}

impl CommandFailed {
    /// Returns what was captured.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{Captured, CommandFailed};
    /// fn exit_code(failed: &CommandFailed) -> Option<i32> {
    ///     failed.captured().status?.code()
    /// }
    /// ```
    #[must_use]
    pub fn captured(&self) -> &Captured {
        &self.0
    }

    /// Returns what was captured, by value.
    ///
    /// # Examples
    ///
    /// ```
    /// # use shared_child::{Captured, CommandFailed};
    /// fn even_if_it_failed(result: Result<Captured, CommandFailed>) -> Captured {
    ///     result.unwrap_or_else(CommandFailed::into_captured)
    /// }
    /// ```
    #[must_use]
    pub fn into_captured(self) -> Captured {
        *self.0
    }
}

/// Has no source: the text has all that is known.
impl Error for CommandFailed {}

impl From<CommandFailed> for io::Error {
    fn from(failed: CommandFailed) -> Self {
        Self::other(failed)
    }
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Captured { command, status, stdout, stderr, stopped_by, error, .. } = self.captured();
        match stopped_by {
            Some(why) => write!(f, "{command} was stopped, since {why}: ")?,
            None if self.0.success() => write!(f, "the capture of {command} failed: ")?,
            None => write!(f, "{command} failed: ")?,
        }
        match status {
            Some(status) => write_status(f, *status)?,
            None => f.write_str("its status is not known")?,
        }
        if let Some(error) = error {
            write!(f, " ({error})")?;
        }
        let (name, ending) = match stderr.ending() {
            ending if ending.is_empty() => ("stdout", stdout.ending()),
            ending => ("stderr", ending),
        };
        if !ending.is_empty() {
            write!(f, "; {name} ends with:")?;
        }
        for line in ending.lines() {
            f.write_char('\n')?;
            write_escaped(f, line)?;
        }
        Ok(())
    }
}

/// Adds the name of a status by which Windows reports a crash. std names the signals of Unix, where an exit status has
/// eight bits.
fn write_status(f: &mut fmt::Formatter<'_>, status: ExitStatus) -> fmt::Result {
    write!(f, "{status}")?;
    let name = match status.code().unwrap_or(0) as u32 {
        0xc000_0005 => "access violation",
        0xc000_0017 => "out of memory",
        0xc000_001d => "illegal instruction",
        0xc000_0094 => "integer division by zero",
        0xc000_00fd => "stack overflow",
        0xc000_0135 => "a DLL was not found",
        0xc000_013a => "interrupted by Ctrl-C",
        0xc000_0142 => "the initialization of a DLL failed",
        0xc000_0374 => "heap corruption",
        0xc000_0409 => "aborted",
        _ => return Ok(()),
    };
    write!(f, " ({name})")
}

fn write_escaped(f: &mut fmt::Formatter<'_>, line: &str) -> fmt::Result {
    for character in line.chars() {
        match character.is_control() && character != '\t' {
            true => write!(f, "{}", character.escape_default())?,
            false => f.write_char(character)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::order::Order;
    use crate::capture::{CapturedStream, StreamEnd};
    use std::time::Duration;

    fn captured(error: Option<io::Error>) -> Captured {
        let stream = CapturedStream {
            bytes: b"a\tb\x1b[31m\rc\n".to_vec(),
            omitted: 0,
            omitted_at: 0,
            total: 11,
            end: StreamEnd::Closed,
            spilled: None,
        };
        Captured {
            status: Some(ExitStatus::default()),
            stdout: stream.clone(),
            stderr: stream,
            stopped_by: None,
            usage: None,
            elapsed: Duration::ZERO,
            error,
            command: "`true`".to_owned(),
            order: Order::default(),
        }
    }

    #[test]
    fn capture_that_failed_is_an_error_despite_the_status() {
        assert!(captured(None).check().is_ok());
        let failed = captured(Some(io::Error::other("lost"))).check().unwrap_err();
        let text = failed.to_string();
        assert!(text.starts_with("the capture of `true` failed: "), "{text}");
        assert!(text.contains(" (lost); stderr ends with:\na\tb\\u{1b}[31m\\rc"), "{text}");
        let mut lost = captured(Some(io::Error::other("reaped elsewhere")));
        lost.status = None;
        let text = lost.check().unwrap_err().to_string();
        let expected = "`true` failed: its status is not known (reaped elsewhere); stderr";
        assert!(text.starts_with(expected), "{text}");
    }
}
