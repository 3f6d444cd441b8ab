//! The command line: which measurements, and where their results go.

use crate::report::Table;
use crate::run::{Effort, Measure, Run};
use crate::{brood, capture, cgroup, crowd, futures, handle, heap, plots, set, set_memory};
use crate::{spawn, timed, tree, try_wait, waiters, wake, worker};
use lexopt::{Arg, ValueExt};
use serde_json::Value;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: bench [--quick] [--json FILE] [--plots DIR] [NAME…]
       bench --render [--json FILE] [--plots DIR]

  --quick       see that everything runs, in figures that are not to be quoted
  --json FILE   the results (bench/results.json of the repository)
  --plots DIR   the plots that are rendered from them (plots of the repository)
  --render      render the plots from results that are there, and measure nothing

With --quick or NAMEs nothing is written but what is asked for by --json and --plots.
";

const MEASUREMENTS: &[(&str, Measure)] = &[
    (spawn::KIND, spawn::measure),
    (timed::KIND, timed::measure),
    (wake::KIND, wake::measure),
    (waiters::CHURN, waiters::measure_churn),
    (waiters::IDLE, waiters::measure_idle),
    (try_wait::KIND, try_wait::measure),
    (handle::KIND, handle::measure),
    ("capture", capture::measure),
    ("tree_spawn", tree::measure_spawn),
    ("tree_kill", tree::measure_kill),
    ("sweep", tree::measure_sweep),
    ("cgroup_kill", cgroup::measure),
    (set::KIND, set::measure),
    ("set_memory", set_memory::measure),
    (futures::WAKE, futures::measure),
    // The last, as contenders leave threads behind in this process.
    ("heap", heap::measure),
];

pub fn run() -> Result<()> {
    let mut effort = Effort::Full;
    let mut render = false;
    let (mut json, mut plots): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let mut names: Vec<String> = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("quick") => effort = Effort::Quick,
            Arg::Long("render") => render = true,
            Arg::Long("json") => json = Some(parser.value()?.into()),
            Arg::Long("plots") => plots = Some(parser.value()?.into()),
            Arg::Long("help") => {
                println!("{USAGE}\nnames:{}", known());
                return Ok(());
            }
            // What the benchmark runs itself as, which is not for users.
            Arg::Value(name) if name == wake::CHILD => wake::child(),
            Arg::Value(name) if name == brood::MEMBER => brood::member(),
            Arg::Value(name) if name == worker::WORKER => {
                let mut next = || parser.value()?.string();
                return worker::serve(&next()?, &next()?, &next()?);
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

    if render || (names.is_empty() && effort == Effort::Full) {
        json.get_or_insert(concat!(env!("CARGO_MANIFEST_DIR"), "/results.json").into());
        plots.get_or_insert(concat!(env!("CARGO_MANIFEST_DIR"), "/../plots").into());
    }
    let (results, failed) = match &json {
        Some(file) if render => (serde_json::from_str(&fs::read_to_string(file)?)?, Vec::new()),
        _ => measure(effort, &names)?,
    };
    if let Some(file) = json.filter(|_| !render) {
        fs::write(file, format!("{results:#}\n"))?;
    }
    if let Some(directory) = plots {
        plots::render(&results, &directory)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

/// The results, and why some are missing: what cannot be measured costs no other its figures.
fn measure(effort: Effort, names: &[String]) -> Result<(Value, Vec<String>)> {
    let wanted =
        |(name, _): &&(&str, Measure)| names.is_empty() || names.iter().any(|it| it == name);
    let measurements: Vec<_> = MEASUREMENTS.iter().filter(wanted).collect();
    let mut run = Run::new(effort, measurements.len())?;
    let (mut table, mut failed) = (Table::default(), Vec::new());
    for (name, measure) in measurements {
        match run.measure(name, *measure) {
            Ok(rows) => table.add(name, rows),
            Err(error) => failed.push(error.to_string()),
        }
    }
    run.finish();
    print!("\n{}", table.markdown());
    Ok((table.json(effort == Effort::Quick), failed))
}

fn known() -> String {
    MEASUREMENTS.iter().map(|(name, _)| format!(" {name}")).collect()
}
