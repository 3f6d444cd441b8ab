//! The command line: which measurements, and what is printed of them.

use crate::report::{Row, Table};
use crate::{brood, capture, cgroup, crowd, futures, handle, set, set_memory};
use crate::{spawn, tree, try_wait, waiters, wake, worker};
use lexopt::{Arg, ValueExt};
use std::error::Error;
use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: bench [--quick] [--json FILE] [NAME…]";

type Measure = fn(Effort) -> Result<Vec<Row>>;

const MEASUREMENTS: &[(&str, Measure)] = &[
    ("spawn", spawn::measure),
    ("wake", wake::measure),
    ("waiters", waiters::measure),
    ("try_wait", try_wait::measure),
    ("handle", handle::measure),
    ("capture", capture::measure),
    ("tree_spawn", tree::measure_spawn),
    ("tree_kill", tree::measure_kill),
    ("sweep", tree::measure_sweep),
    ("cgroup_kill", cgroup::measure),
    ("set", set::measure),
    ("set_memory", set_memory::measure),
    ("futures", futures::measure),
];

/// How much time to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to see that everything runs.
    Quick,
    /// Enough for figures to be quoted.
    Full,
}

impl Effort {
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

pub(crate) fn run() -> Result<()> {
    let mut effort = Effort::Full;
    let mut json: Option<PathBuf> = None;
    let mut names: Vec<String> = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("quick") => effort = Effort::Quick,
            Arg::Long("json") => json = Some(parser.value()?.into()),
            Arg::Long("help") => {
                println!("{USAGE}\nnames:{}", known());
                return Ok(());
            }
            // What the benchmark runs itself as, which is not for users.
            Arg::Value(name) if name == wake::CHILD => wake::child(),
            Arg::Value(name) if name == brood::MEMBER => brood::member(),
            Arg::Value(name) if name == worker::WORKER => {
                let (kind, who) = (parser.value()?.string()?, parser.value()?.string()?);
                return worker::serve(&kind, &who);
            }
            Arg::Value(name) if name == crowd::LEADER => {
                let (kind, members) = (parser.value()?.string()?, parser.value()?.string()?);
                return crowd::lead(&kind, &members);
            }
            Arg::Value(name) => names.push(name.string()?),
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    if let Some(name) = names.iter().find(|name| MEASUREMENTS.iter().all(|(n, _)| n != name)) {
        return Err(format!("no measurement is called {name}; there are:{}", known()).into());
    }

    let mut table = Table::new();
    for (name, measure) in MEASUREMENTS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            worker::limit_time();
            for row in measure(effort)? {
                print!("{}", row.text());
                table.push(row);
            }
        }
    }
    print!("\n{}", table.markdown());
    if let Some(path) = json {
        std::fs::write(path, table.json())?;
    }
    Ok(())
}

fn known() -> String {
    MEASUREMENTS.iter().map(|(name, _)| format!(" {name}")).collect()
}
