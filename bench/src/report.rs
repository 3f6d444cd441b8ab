//! How results are shown: as text, as a Markdown table, as JSON.

use crate::contender::Who;
use std::fmt::Write;
use std::fs;
use std::process::Command;

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
            Self::Difference => format!("{value:+}"),
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
}

/// What one contender did.
pub(crate) struct Figure {
    pub(crate) who: Who,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) p95: f64,
    /// Against the reference; `None` if it is the reference. The figure itself if it is compared
    /// with nothing.
    pub(crate) against: Option<Interval>,
}

/// A median, and where it would be found again with a probability of 95 %.
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
        figures: Vec<Figure>,
    ) -> Self {
        let (ours, bar, is_latency) = (Who::Ours, None, false);
        Self { name: name.to_owned(), unit, compare, reference, figures, ours, bar, is_latency }
    }

    /// Where this crate takes part in two ways, each with a bar of its own: the row is about this one, and leaves the
    /// others out.
    pub(crate) fn of(mut self, ours: Who) -> Self {
        self.figures.retain(|figure| [ours, self.reference].contains(&figure.who));
        Self { ours, ..self }
    }

    /// What this crate's comparison with the reference, or its figure, must not exceed.
    pub(crate) fn bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Of a latency, the slow ones matter as well.
    pub(crate) fn latency(self) -> Self {
        Self { is_latency: true, ..self }
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
            let mut line = format!("  {:<12} {:>10}", who.name(), number(*median));
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
        let aside = |who| {
            let Some(figure) = self.figure(who) else { return String::new() };
            let against = figure.against.map(|it| format!(", {}", self.compare.show(it.mid)));
            value(figure) + &against.unwrap_or_default()
        };
        let cells = [
            format!("{} ({})", self.name, self.unit),
            self.figure(self.reference)
                .map(|it| format!("{}: {}", self.reference.name(), value(it)))
                .unwrap_or_default(),
            self.figure(self.ours).map(value).unwrap_or_default(),
            self.ours().map(|it| self.compare.show(it)).unwrap_or_default(),
            self.bar.map(|bar| self.compare.show_bar(bar)).unwrap_or_default(),
            self.verdict().to_owned(),
            aside(Who::Fallback),
            aside(Who::Peer),
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    fn json(&self) -> String {
        let figures: Vec<String> = self.figures.iter().map(json_figure).collect();
        format!(
            "{{\"name\":{:?},\"unit\":{:?},\"reference\":{:?},\"compared_by\":{:?},\"bar\":{},\
             \"within\":{},\"figures\":[{}]}}",
            self.name,
            self.unit,
            self.reference.name(),
            match self.compare {
                Compare::Ratio => "ratio",
                Compare::Difference => "difference",
                Compare::Nothing => "nothing",
            },
            or_null(self.bar),
            or_null(self.is_within()),
            figures.join(",")
        )
    }
}

fn json_figure(figure: &Figure) -> String {
    let Figure { who, min, median, p95, against } = figure;
    let against = against.map(|Interval { low, mid, high }| format!("[{low},{mid},{high}]"));
    format!(
        "{{\"who\":{:?},\"min\":{min},\"median\":{median},\"p95\":{p95},\"against\":{}}}",
        who.name(),
        or_null(against)
    )
}

fn or_null(value: Option<impl ToString>) -> String {
    value.map_or("null".to_owned(), |value| value.to_string())
}

/// Three digits or more; whole numbers as they are.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Everything measured in a run.
pub(crate) struct Table {
    machine: String,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { machine: machine(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "| measurement | reference | this crate | against it | bar | | fallback | 1.1.2 |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        text.extend(self.rows.iter().map(Row::markdown));
        let _ = writeln!(text, "\nMedians, on {}.", self.machine);
        text
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(Row::json).collect();
        format!("{{\"machine\":{:?},\"rows\":[{}]}}\n", self.machine, rows.join(","))
    }
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout);
    let rustc = String::from_utf8(rustc.unwrap_or_default()).unwrap_or_default();
    format!("{cpu}, {cores} cores, Linux {}, {}", kernel.trim(), rustc.trim())
}
