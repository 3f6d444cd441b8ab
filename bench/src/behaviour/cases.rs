//! The cases, and what they have in common.

use super::contender::{Contender, Result, WaitTimeout};
use super::{descriptors, ends, output, recycled, trees, waits};
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

/// What is played, in a process of its own. It answers what is said in the cell.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) play: fn() -> Result<String>,
    /// It depends on who gets how much of the processors.
    pub(crate) is_alone: bool,
}

const fn case(name: &'static str, title: &'static str, play: fn() -> Result<String>) -> Case {
    Case { name, title, play, is_alone: false }
}

/// All cases, for this contender.
pub(crate) fn all<C: Contender>() -> Vec<Case> {
    vec![
        Case {
            is_alone: true,
            ..case(
                "greedy",
                "300 timed waits beside a `waitpid(-1)` in another thread",
                waits::greedy::<C>,
            )
        },
        case("blocked", "a timed wait with SIGCHLD blocked", waits::blocked::<C>),
        case("ignored", "a timed wait with SIGCHLD ignored", waits::ignored::<C>),
        case("forever", "a timed wait for `Duration::MAX`", waits::forever::<C>),
        case("idle", "the cost of 2 s in a timed wait", waits::idle::<C>),
        case(
            "kill_recycled",
            "a kill after a foreign reap, when the process ID has a new owner",
            recycled::kill::<C>,
        ),
        case(
            "wait_recycled",
            "a timed wait after a foreign reap, when the new owner is a child as well",
            recycled::wait::<C>,
        ),
        case("spawn_emfile", "a spawn when no descriptor is left", descriptors::spawn::<C>),
        case("wait_emfile", "a timed wait when no descriptor is left", descriptors::wait::<C>),
        case("idle_emfile", "the cost of 2 s in such a wait", descriptors::idle::<C>),
        case("apart", "a kill while another thread waits", ends::apart::<C>),
        case(
            "time_out",
            "a child that ignores SIGTERM, with a timeout of 1 s",
            ends::time_out::<C>,
        ),
        case("dropped", "100 handles dropped while their children run", ends::dropped::<C>),
        case(
            "group",
            "a kill of all that a child has started, one of whom has left the session",
            trees::session::<C>,
        ),
        case(
            "daemon",
            "the same, with a daemon that has emptied its environment as well",
            trees::daemon::<C>,
        ),
        case("complete", "the same, in a container that nobody can leave", trees::complete::<C>),
        case(
            "held",
            "the output of a command that leaves a process behind, which holds the pipe for 5 s",
            output::held::<C>,
        ),
        case("held_timeout", "the same, with a timeout of 1 s", output::held_timeout::<C>),
        case(
            "endless",
            "the output of a command that does not end, with a timeout of 1 s",
            output::endless::<C>,
        ),
        case("flood", "64 MiB in, and 64 MiB out of both pipes meanwhile", output::flood::<C>),
        Case {
            is_alone: true,
            ..case("limit", "memory for the first MiB of 64 MiB of output", output::limit::<C>)
        },
    ]
}

/// The program that ends after so many milliseconds with this status.
pub(crate) const CHILD: &str = "child";

/// Plays it.
pub(crate) fn child(milliseconds: u64, status: i32) -> ! {
    thread::sleep(Duration::from_millis(milliseconds));
    std::process::exit(status)
}

/// A child that does that. It is no shell, which may have a view of its own on signals.
pub(crate) fn spawn_child<C: Contender>(milliseconds: u64, status: i32) -> Result<C::Handle> {
    let me = env::current_exe()?;
    let me = me.to_str().ok_or("a path that is no text")?;
    Ok(C::spawn(&[me, CHILD, &milliseconds.to_string(), &status.to_string()])?)
}

/// What has become of a timed wait.
pub(crate) struct Waited {
    pub(crate) outcome: Outcome,
    took: Duration,
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(ExitStatus),
    Error,
    TimedOut,
    Panic,
}

impl Waited {
    pub(crate) fn by<H>(wait: WaitTimeout<H>, handle: &mut H, timeout: Duration) -> Self {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| wait(handle, timeout)));
        let outcome = match result {
            Ok(Ok(Some(status))) => Outcome::Status(status),
            Ok(Ok(None)) => Outcome::TimedOut,
            Ok(Err(_)) => Outcome::Error,
            Err(_) => Outcome::Panic,
        };
        Self { outcome, took: start.elapsed(), timeout }
    }

    pub(crate) fn is_status(&self, expected: i32) -> bool {
        matches!(self.outcome, Outcome::Status(status) if status.code() == Some(expected))
    }

    pub(crate) fn in_words(&self, expected: i32) -> String {
        let what = match self.outcome {
            Outcome::Status(_) if self.is_status(expected) => "the status",
            Outcome::Status(_) => "a wrong status",
            Outcome::Error => "an error",
            Outcome::Panic => "panics",
            Outcome::TimedOut => return "sleeps until the timeout".into(),
        };
        let is_late = self.took >= self.timeout;
        if is_late { format!("{what}, but at the timeout") } else { what.into() }
    }
}
