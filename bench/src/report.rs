//! How results are shown: as text, as a Markdown table, as JSON.

use crate::contender::Who;
use crate::machine;
use serde_json::{Value, json};
use std::fmt::Write;

/// One thing measured.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    compare: Compare,
    reference: Who,
    figures: Vec<Figure>,
    /// Which of this crate's the row is about.
    ours: Who,
    bar: Option<f64>,
    is_latency: bool,
    /// Of a row that is one place on a curve: where that is.
    at: Option<usize>,
}

/// How a contender is set against the reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Its figure divided by the reference's.
    Ratio,
    /// Its figure minus the reference's.
    Difference,
    /// Not at all: the bar is for the figure itself.
    Nothing,
}

impl Compare {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3} ×"),
            Self::Difference if value.fract() == 0.0 => format!("{value:+}"),
            Self::Difference => format!("{value:+.2}"),
            Self::Nothing => number(value),
        }
    }

    fn show_bar(self, bar: f64) -> String {
        match self {
            Self::Ratio => format!("{bar} ×"),
            Self::Difference => format!("{bar:+}"),
            Self::Nothing => number(bar),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Difference => "difference",
            Self::Nothing => "nothing",
        }
    }
}

/// What one contender did.
#[derive(Clone)]
pub(crate) struct Figure {
    pub(crate) who: Who,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) p95: f64,
    /// Against the reference; `None` if it is the reference. The figure itself if it is compared
    /// with nothing.
    pub(crate) against: Option<Interval>,
}

impl Figure {
    /// Of what is found once, and does not vary.
    pub(crate) fn once(who: Who, value: f64, against: Option<f64>) -> Self {
        let against = against.map(|it| Interval { low: it, mid: it, high: it });
        Self { who, min: value, median: value, p95: value, against }
    }

    fn json(&self) -> Value {
        let Self { who, min, median, p95, against } = self;
        let [min, median, p95] = [min, median, p95].map(|it| rounded(*it));
        let against = against.map(|Interval { low, mid, high }| [low, mid, high].map(rounded));
        json!({ "who": who.name(), "min": min, "median": median, "p95": p95, "against": against })
    }
}

/// A median, and between what the true one lies with a confidence of 95 %.
#[derive(Clone, Copy)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) mid: f64,
    pub(crate) high: f64,
}

impl Row {
    pub(crate) fn new(
        name: &str,
        unit: &'static str,
        compare: Compare,
        reference: Who,
        mut figures: Vec<Figure>,
    ) -> Self {
        // Whoever needs least comes first.
        figures.sort_by(|one, other| one.median.total_cmp(&other.median));
        let (name, ours) = (name.to_owned(), Who::Ours);
        let (bar, is_latency, at) = (None, false, None);
        Self { name, unit, compare, reference, figures, ours, bar, is_latency, at }
    }

    /// Said more closely.
    pub(crate) fn called(self, how: &str) -> Self {
        Self { name: format!("{}, {how}", self.name), ..self }
    }

    /// Leaves the others out.
    pub(crate) fn only(mut self, contenders: &[Who]) -> Self {
        self.figures.retain(|figure| contenders.contains(&figure.who));
        self
    }

    /// Where this crate takes part in several ways: the row is about this one.
    pub(crate) fn about(self, ours: Who) -> Self {
        Self { ours, ..self }
    }

    /// The same, with a bar of its own: so the row leaves the others out.
    pub(crate) fn of(self, ours: Who) -> Self {
        let reference = self.reference;
        self.only(&[ours, reference]).about(ours)
    }

    /// What this crate's comparison with the reference, or its figure, must not exceed.
    pub(crate) fn bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Of a latency, the slow ones matter as well.
    pub(crate) fn latency(self) -> Self {
        Self { is_latency: true, ..self }
    }

    pub(crate) fn at(self, place: usize) -> Self {
        Self { at: Some(place), ..self }
    }

    fn figure(&self, who: Who) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.who == who)
    }

    fn ours(&self) -> Option<f64> {
        self.figure(self.ours)?.against.map(|against| against.mid)
    }

    fn is_within(&self) -> Option<bool> {
        Some(self.ours()? <= self.bar?)
    }

    fn verdict(&self) -> &'static str {
        match self.is_within() {
            Some(true) => "within",
            Some(false) => "MISSED",
            None => "",
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} ({})\n", self.name, self.unit);
        for figure in &self.figures {
            let Figure { who, min, median, p95, against } = figure;
            let mut line = format!("  {:<22} {:>10}", who.name(), number(*median));
            if self.compare != Compare::Difference {
                let _ = write!(line, "   min {:>8}", number(*min));
            }
            if self.is_latency {
                let _ = write!(line, "   p95 {:>8}", number(*p95));
            }
            if let Some(Interval { low, mid, high }) = against {
                let _ = write!(line, "   {:>10}", self.compare.show(*mid));
                if self.compare != Compare::Difference {
                    let _ = write!(line, " [{low:.3}, {high:.3}]");
                }
            }
            if let Some(bar) = self.bar.filter(|_| *who == self.ours) {
                let _ = write!(line, "   bar {}: {}", self.compare.show_bar(bar), self.verdict());
            }
            text += &line;
            text.push('\n');
        }
        text
    }

    fn markdown(&self) -> String {
        let value = |figure: &Figure| {
            let p95 = if self.is_latency {
                format!(" (p95 {})", number(figure.p95))
            } else {
                String::new()
            };
            format!("{}{p95}", number(figure.median))
        };
        let named = |figure: &Figure| format!("{} {}", figure.who.name(), value(figure));
        let is_other = |figure: &&Figure| ![self.ours, self.reference].contains(&figure.who);
        let others: Vec<String> = self.figures.iter().filter(is_other).map(named).collect();
        let cells = [
            format!("{} ({})", self.name, self.unit),
            self.figure(self.reference).map(named).unwrap_or_default(),
            self.figure(self.ours).map(value).unwrap_or_default(),
            self.ours().map(|it| self.compare.show(it)).unwrap_or_default(),
            self.bar.map(|bar| self.compare.show_bar(bar)).unwrap_or_default(),
            self.verdict().to_owned(),
            others.join(", "),
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    fn json(&self, measurement: &str) -> Value {
        json!({
            "measurement": measurement,
            "name": self.name,
            "unit": self.unit,
            "at": self.at,
            "is_latency": self.is_latency,
            "reference": self.reference.name(),
            "about": self.ours.name(),
            "compared_by": self.compare.name(),
            "bar": self.bar,
            "within": self.is_within(),
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
        })
    }
}

/// Three digits or more; whole numbers as they are.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// To five digits, which is more than any is worth.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let places = usize::try_from(4 - value.abs().log10().floor() as i32).unwrap_or_default();
    format!("{value:.places$}").parse().unwrap_or(value)
}

/// Everything measured in a run.
#[derive(Default)]
pub(crate) struct Table(Vec<(&'static str, Row)>);

impl Table {
    pub(crate) fn add(&mut self, measurement: &'static str, rows: Vec<Row>) {
        self.0.extend(rows.into_iter().map(|row| (measurement, row)));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "| measurement | reference | this crate | against it | bar | | others |\n\
             |---|---|---|---|---|---|---|\n",
        );
        text.extend(self.0.iter().map(|(_, row)| row.markdown()));
        let _ = writeln!(text, "\nMedians, on {}.", machine::text());
        text
    }

    pub(crate) fn json(&self, is_quick: bool) -> Value {
        let rows: Vec<Value> =
            self.0.iter().map(|(measurement, row)| row.json(measurement)).collect();
        json!({
            "quick": is_quick,
            "machine": machine::json(),
            "versions": machine::versions(),
            "rows": rows,
        })
    }
}
