//! A run of the benchmark: how thorough it is, and how far.

use crate::cli::Result;
use crate::report::Row;
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) type Measure = fn(&Run) -> Result<Vec<Row>>;

/// How much time to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to see that everything runs.
    Quick,
    /// Enough for figures to be quoted.
    Full,
}

pub(crate) struct Run {
    effort: Effort,
    /// Of the measurements. It is drawn on standard error, if that is a terminal.
    progress: ProgressBar,
    measurement: &'static str,
}

impl Run {
    pub(crate) fn new(effort: Effort, measurements: usize) -> Result<Self> {
        let style = "{elapsed_precise} [{bar:30}] {pos}/{len} {msg}";
        let progress = ProgressBar::new(measurements as u64)
            .with_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        Ok(Self { effort, progress, measurement: "" })
    }

    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        match self.effort {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }

    pub(crate) fn measure(&mut self, name: &'static str, measure: Measure) -> Result<Vec<Row>> {
        self.measurement = name;
        let rows = measure(self).map_err(|error| format!("{name}: {error}"))?;
        let text: String = rows.iter().map(Row::text).collect();
        self.progress.suspend(|| print!("{text}"));
        self.progress.inc(1);
        Ok(rows)
    }

    pub(crate) fn show_round(&self, round: usize, of: usize) {
        self.progress.set_message(format!("{}, round {round} of {of}", self.measurement));
    }

    pub(crate) fn finish(self) {
        self.progress.finish_and_clear();
    }
}
