//! The command line of the benchmark.

use crate::report::Results;
use crate::rounds::Run;
use crate::{helpers, machine, measure, plots, worker};
use std::path::Path;
use std::{env, error, fs};

pub type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

const USAGE: &str = "\
usage: bench [--quick] [NAME…]
       bench --render

Measures everything, and writes bench/results.json and the plots.
With --quick or a NAME it only prints the results.

  --quick    run each measurement briefly; the figures are not meaningful
  --render   draw the plots from bench/results.json; measure nothing
";
const JSON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results.json");
const PLOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plots");

pub fn run() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The program starts itself with these arguments.
    match words[..] {
        [worker::WORKER, kind, contender, parameter] => {
            return worker::serve(kind, contender, parameter.parse()?);
        }
        [helpers::CHILD] => return helpers::child(),
        _ => {}
    }
    let known = measure::ALL.map(|(name, _)| name).join(" ");
    match words[..] {
        ["--help"] => {
            println!("{USAGE}\nnames: {known}");
            return Ok(());
        }
        ["--render"] => {
            let results = serde_json::from_str(&fs::read_to_string(JSON)?)?;
            return plots::render(&results, Path::new(PLOTS));
        }
        _ => {}
    }
    let quick = words.contains(&"--quick");
    words.retain(|word| *word != "--quick");
    if let Some(word) = words.iter().find(|word| measure::ALL.iter().all(|(it, _)| it != *word)) {
        return Err(format!("unknown: {word}\n{USAGE}\nnames: {known}").into());
    }
    let mut run = Run::new(quick);
    let mut errors = Vec::new();
    let wanted = |(name, _): &(&str, _)| words.is_empty() || words.contains(name);
    for (name, measure) in measure::ALL.into_iter().filter(wanted) {
        // A failed measurement does not stop the others.
        run.measure(name, measure).unwrap_or_else(|error| errors.push(format!("{name}: {error}")));
    }
    let (machine, versions) = (machine::describe(), machine::versions());
    let results = Results { machine, quick, rows: run.finish(), versions };
    println!("{}", results.table());
    if words.is_empty() && !quick {
        fs::write(JSON, format!("{:#}\n", serde_json::to_value(&results)?))?;
        plots::render(&results, Path::new(PLOTS))?;
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n").into()) }
}
