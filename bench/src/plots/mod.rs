//! Plots of the results, as SVG: each from the JSON alone, and the same from the same.

mod bars;
mod canvas;
mod curve;
mod results;

use crate::cli::Result;
use results::{Results, Row};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// How the rows of a plot are drawn.
enum Kind {
    /// A panel for each.
    Bars,
    /// A place on the curves for each.
    Curve { along: &'static str },
}

struct Plot {
    file: &'static str,
    title: &'static str,
    kind: Kind,
    rows: fn(&Row) -> bool,
}

const PLOTS: [Plot; 6] = [
    Plot {
        file: "spawn.svg",
        title: "Run a program that does nothing, and hear of its end",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["spawn", "timed", "wake"]),
    },
    Plot {
        file: "waiters.svg",
        title: "CPU time that one child costs which comes and goes beside timed waits for others",
        kind: Kind::Curve { along: "timed waits in the process" },
        rows: |row| row.is_one_of(&["waiters"]),
    },
    Plot {
        file: "children.svg",
        title: "CPU time of an exit, when so many children that are waited for exit at once",
        kind: Kind::Curve { along: "children" },
        rows: |row| row.is_one_of(&["set"]) && row.at.is_some(),
    },
    Plot {
        file: "capture.svg",
        title: "Capture the output of a command",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["capture"]),
    },
    Plot {
        file: "heap.svg",
        title: "Run a program from a process with a big heap: who forks, copies its page tables",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["heap"]),
    },
    Plot {
        file: "idle.svg",
        title: "What waiting costs while nothing happens: who polls?",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["idle"]),
    },
];

/// Leaves out those of which nothing was measured.
pub(crate) fn render(results: &Value, directory: &Path) -> Result<()> {
    let results = Results::read(results)?;
    fs::create_dir_all(directory)?;
    for plot in PLOTS {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| (plot.rows)(row)).collect();
        if rows.is_empty() {
            continue;
        }
        let svg = match plot.kind {
            Kind::Bars => bars::draw(plot.title, &rows, &results.machine)?,
            Kind::Curve { along } => curve::draw(plot.title, along, &rows, &results.machine)?,
        };
        fs::write(directory.join(plot.file), svg)?;
    }
    Ok(())
}
