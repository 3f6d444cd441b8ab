//! Spawns by std, and returns an error where std panics.
//!
//! On Unix, std forks for a command with a hook, a user or a group, or another `PATH`. If the exec then fails, std waits for
//! the forked process by its ID. If another part of the program has reaped that process (SIGCHLD is ignored, or a thread is
//! in `waitpid(-1)`), the wait fails, and std panics: "wait() should either return Ok or panic". A missing program is an
//! ordinary failure, so it must not unwind through the program, nor end a thread of this library that serves all spawns.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};

/// Spawns the command, and turns a panic of std into an error. The program's panic hook has run by then, and a program that
/// aborts on panic has aborted.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    // The unwinding does not break the command: std panics after the fork, when it reads the result of the exec. It drops
    // what it has made for this spawn, and the process has been reaped.
    catch_unwind(AssertUnwindSafe(|| command.spawn()))
        .unwrap_or_else(|panic| Err(explain(command, &*panic)))
}

fn explain(command: &Command, panic: &(dyn Any + Send)) -> io::Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!(
        "cannot spawn {:?}: its process failed before it executed the program, and another part of this \
         program reaped it, so the reason is lost (std panicked: {}); check that the program exists and is \
         executable, and do not ignore SIGCHLD or wait for any child (waitpid(-1)) during a spawn",
        command.get_program(),
        text.unwrap_or("no message"),
    ))
}

#[cfg(test)]
mod tests {
    use super::explain;
    use std::process::Command;

    #[test]
    fn error_names_program_and_panic() {
        let command = Command::new("/no/such/program");
        for panic in
            [Box::new("text") as _, Box::new("text".to_owned()) as Box<dyn std::any::Any + Send>]
        {
            let error = explain(&command, &*panic).to_string();
            assert!(error.contains("\"/no/such/program\""), "{error}");
            assert!(error.contains("std panicked: text"), "{error}");
        }
        assert!(explain(&command, &()).to_string().contains("no message"));
    }
}
