//! The results of a run: as a table, and as JSON.

use crate::peers::Contender;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) quick: bool,
    pub(crate) rows: Vec<Row>,
    pub(crate) versions: BTreeMap<String, String>,
}

/// One measured quantity.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) measurement: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) compared_by: Compare,
    pub(crate) reference: String,
    /// The contender that the bar is for: this crate in one of its modes.
    pub(crate) about: String,
    /// What the comparison with the reference, or the figure itself, must not exceed.
    pub(crate) bar: Option<f64>,
    pub(crate) within: Option<bool>,
    /// Whether the 95th percentile is shown as well.
    pub(crate) is_latency: bool,
    /// The place on the x axis, if the row is one point of a curve.
    pub(crate) at: Option<usize>,
    /// In ascending order.
    pub(crate) figures: Vec<Figure>,
}

/// How a figure is compared with the reference's.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compare {
    #[default]
    Ratio,
    Difference,
    /// Not at all: the bar is for the figure itself.
    Nothing,
}

/// The figures of one contender.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) who: String,
    min: f64,
    pub(crate) median: f64,
    pub(crate) p95: f64,
    /// The comparison with the reference, between the ends of its interval; `None` for the reference.
    pub(crate) against: Option<[f64; 3]>,
}

impl Figure {
    pub(crate) fn new(who: Contender, figures: [f64; 3], against: Option<[f64; 3]>) -> Self {
        let [min, median, p95] = figures.map(rounded);
        let against = against.map(|it| it.map(rounded));
        Self { who: who.name().into(), min, median, p95, against }
    }

    /// Returns a figure that is measured once, because it does not vary.
    pub(crate) fn once(who: Contender, value: f64, against: Option<f64>) -> Self {
        Self::new(who, [value; 3], against.map(|it| [it; 3]))
    }
}

impl Row {
    pub(crate) fn new(
        name: &str,
        unit: &str,
        compared_by: Compare,
        reference: Contender,
        mut figures: Vec<Figure>,
    ) -> Self {
        figures.sort_by(|one, other| one.median.total_cmp(&other.median));
        let (name, unit, reference) = (name.into(), unit.into(), reference.name().into());
        let about = Contender::ThisCrate.name().into();
        Self { name, unit, compared_by, reference, about, figures, ..Self::default() }
    }

    /// Returns a row of one figure, which is measured once and compared with nothing: a bar is for the figure itself.
    pub(crate) fn once(name: &str, unit: &str, who: Contender, value: f64) -> Self {
        let figure = Figure::once(who, value, Some(value));
        Self::new(name, unit, Compare::Nothing, who, vec![figure]).about(who)
    }

    pub(crate) fn only(mut self, contenders: &[Contender]) -> Self {
        self.figures.retain(|figure| contenders.iter().any(|it| it.name() == figure.who));
        self
    }

    pub(crate) fn about(self, contender: Contender) -> Self {
        Self { about: contender.name().into(), ..self }
    }

    pub(crate) fn bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Completes the row, which belongs to this measurement.
    pub(crate) fn complete(self, measurement: &str) -> Self {
        let compared = self.figure(&self.about).and_then(|figure| figure.against);
        let within = compared.zip(self.bar).map(|([_, mid, _], bar)| mid <= bar);
        Self { measurement: measurement.into(), within, ..self }
    }

    pub(crate) fn figure(&self, who: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.who == who)
    }

    fn value(&self, who: &str) -> String {
        let Some(figure) = self.figure(who) else { return String::new() };
        let p95 = format!(" (95 %: {})", number(figure.p95));
        format!("{who} {}{}", number(figure.median), if self.is_latency { &p95 } else { "" })
    }

    fn cells(&self) -> Vec<String> {
        let against = self.figure(&self.about).and_then(|figure| figure.against);
        let against = against.map(|[low, mid, high]| match self.compared_by {
            Compare::Ratio => format!("{mid:.3} [{low:.3}, {high:.3}]"),
            Compare::Difference => format!("{mid:+}"),
            Compare::Nothing => format!("[{}, {}]", number(low), number(high)),
        });
        let missed = if self.within == Some(false) { ", missed" } else { "" };
        let others = self.figures.iter().map(|figure| &figure.who);
        let others = others.filter(|who| ![&self.about, &self.reference].contains(who));
        vec![
            format!("{} ({})", self.name, self.unit),
            self.value(&self.reference),
            self.value(&self.about),
            against.unwrap_or_default(),
            self.bar.map(|bar| format!("≤ {}{missed}", number(bar))).unwrap_or_default(),
            others.map(|who| self.value(who)).collect::<Vec<_>>().join(", "),
        ]
    }
}

impl Results {
    pub(crate) fn table(&self) -> String {
        let columns = ["measurement", "reference", "this crate", "against it", "bar", "others"];
        let rows = self.rows.iter().map(Row::cells);
        format!("{}\nMedians, on {}.", table(&columns, rows), self.machine)
    }
}

/// Writes a table as Markdown.
pub(crate) fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    text.extend(rows.map(|row| format!("| {} |\n", row.join(" | "))));
    text
}

/// Shows three digits or more, and whole numbers without a fraction.
pub(crate) fn number(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Rounds to five digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}
