//! What plots need of the JSON.

use crate::cli::Result;
use serde_json::Value;

/// How this crate is called. Its other ways begin with that.
pub(super) const OURS: &str = "this crate";

pub(super) struct Results {
    pub(super) machine: String,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    measurement: String,
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) at: Option<f64>,
    pub(super) is_latency: bool,
    /// The least one first.
    pub(super) figures: Vec<Figure>,
}

pub(super) struct Figure {
    pub(super) who: String,
    /// With the version, where there is one.
    pub(super) label: String,
    pub(super) median: f64,
    pub(super) p95: f64,
}

impl Figure {
    pub(super) fn is_ours(&self) -> bool {
        self.who.starts_with(OURS)
    }
}

impl Row {
    pub(super) fn is_one_of(&self, measurements: &[&str]) -> bool {
        measurements.contains(&self.measurement.as_str())
    }
}

impl Results {
    pub(super) fn read(json: &Value) -> Result<Self> {
        let machine = &json["machine"];
        let text = |key| machine[key].as_str().unwrap_or_default();
        let machine = format!(
            "{}. {}, {} cores, Linux {}, {}",
            if json["quick"] == true { "A quick run, not to be quoted" } else { "Medians" },
            text("cpu"),
            machine["cores"],
            text("kernel"),
            text("rustc")
        );
        let rows = list(&json["rows"])?.iter().map(|row| read_row(row, &json["versions"]));
        Ok(Self { machine, rows: rows.collect::<Result<_>>()? })
    }
}

fn read_row(row: &Value, versions: &Value) -> Result<Row> {
    let figures = list(&row["figures"])?.iter().map(|figure| read_figure(figure, versions));
    Ok(Row {
        measurement: text(&row["measurement"])?,
        name: text(&row["name"])?,
        unit: text(&row["unit"])?,
        at: row["at"].as_f64(),
        is_latency: row["is_latency"].as_bool().unwrap_or_default(),
        figures: figures.collect::<Result<_>>()?,
    })
}

fn read_figure(figure: &Value, versions: &Value) -> Result<Figure> {
    let who = text(&figure["who"])?;
    let label = match versions[&who].as_str() {
        Some(version) if who != OURS => format!("{who} {version}"),
        _ => who.clone(),
    };
    let (median, p95) = (number(&figure["median"])?, number(&figure["p95"])?);
    Ok(Figure { who, label, median, p95 })
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().ok_or_else(|| "the results lack a list".into())
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "the results lack a name".into())
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().ok_or_else(|| "the results lack a figure".into())
}
