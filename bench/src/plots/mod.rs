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

const PLOTS: [Plot; 7] = [
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
        file: "trees.svg",
        title: "Spawn a tree, and kill one",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["tree_spawn", "tree_kill", "cgroup_kill"]),
    },
    Plot {
        file: "capture.svg",
        title: "CaptureOptions the output of a command",
        kind: Kind::Bars,
        rows: |row| row.is_one_of(&["capture"]),
    },
    Plot {
        file: "heap.svg",
        title: "Run a program from a process with a big heap: a fork copies its page tables",
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

pub(crate) fn render(results: &Value, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (file, svg) in draw(results)? {
        fs::write(directory.join(file), svg)?;
    }
    Ok(())
}

/// Leaves out those of which nothing was measured.
fn draw(results: &Value) -> Result<Vec<(&'static str, String)>> {
    let results = Results::read(results)?;
    let mut drawn = Vec::new();
    for plot in PLOTS {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| (plot.rows)(row)).collect();
        if rows.is_empty() {
            continue;
        }
        let svg = match plot.kind {
            Kind::Bars => bars::draw(plot.title, &rows, &results.machine)?,
            Kind::Curve { along } => curve::draw(plot.title, along, &rows, &results.machine)?,
        };
        drawn.push((plot.file, svg));
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(measurement: &str, at: Option<u32>) -> Value {
        let figures = ["this crate", "tokio", "others <&>"].map(|who| {
            json!({ "who": who, "min": 1.0, "median": who.len(), "p95": 1e6, "against": null })
        });
        let is_latency = measurement == "wake";
        json!({
            "measurement": measurement, "name": "a name", "unit": "µs", "at": at,
            "is_latency": is_latency, "figures": figures
        })
    }

    #[test]
    fn every_plot_is_drawn_and_the_same_again() {
        let bars = ["spawn", "timed", "wake", "capture", "heap", "idle", "tree_kill"]
            .map(|it| row(it, None));
        let curves = ["waiters", "set"].map(|it| [row(it, Some(10)), row(it, Some(1000))]);
        let rows = [bars.to_vec(), curves.concat()].concat();
        let machine = json!({ "cpu": "a CPU", "cores": 2, "kernel": "6", "rustc": "rustc" });
        let results = json!({ "machine": machine, "versions": { "tokio": "1" }, "rows": rows });
        let drawn = draw(&results).unwrap();
        assert_eq!(drawn.len(), PLOTS.len());
        assert_eq!(drawn, draw(&results).unwrap());
        for (file, svg) in drawn {
            assert!(svg.contains("this crate") && svg.contains("tokio 1"), "{file}");
            assert!(svg.len() < 30_000 && svg.ends_with("</svg>\n"), "{file}");
        }
    }
}
