//! Interleaved rounds, and the medians and intervals of their samples.

use crate::cli::Result;
use crate::peers::Contender;
use crate::report::{Compare, Figure, Row};
use crate::worker;
use indicatif::ProgressBar;

/// With fewer rounds there is no interval of 95 %.
pub(crate) const MIN_ROUNDS: usize = 6;

/// A run of the benchmark.
pub(crate) struct Run {
    quick: bool,
    rows: Vec<Row>,
    progress: ProgressBar,
    measurement: &'static str,
}

pub(crate) type Measure = fn(&Run) -> Result<Vec<Row>>;

impl Run {
    pub(crate) fn new(quick: bool) -> Self {
        let progress = ProgressBar::no_length();
        Self { quick, rows: Vec::new(), progress, measurement: "" }
    }

    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn measure(&mut self, name: &'static str, measure: Measure) -> Result<()> {
        self.measurement = name;
        let rows = measure(self)?;
        self.rows.extend(rows.into_iter().map(|row| row.complete(name)));
        Ok(())
    }

    pub(crate) fn finish(self) -> Vec<Row> {
        self.progress.finish_and_clear();
        self.rows
    }
}

/// The samples of each contender in each round.
pub(crate) struct Rounds(Vec<(Contender, Vec<Vec<f64>>)>);

impl Rounds {
    /// Runs each contender once per round, in a shuffled order. The `warm_up` rounds before do not count: they warm caches
    /// unless each sample comes from a new process.
    pub(crate) fn run(
        run: &Run,
        contenders: &[Contender],
        (warm_up, rounds): (usize, usize),
        mut sample: impl FnMut(Contender) -> Result<Vec<f64>>,
    ) -> Result<Self> {
        let mut all: Vec<_> = contenders.iter().map(|it| (*it, Vec::new())).collect();
        // The orders are the same in each run.
        let mut random = fastrand::Rng::with_seed(0);
        for round in 0..warm_up + rounds {
            run.progress.set_message(format!("{}: round {round} of {rounds}", run.measurement));
            let mut order: Vec<usize> = (0..all.len()).collect();
            random.shuffle(&mut order);
            for index in order {
                worker::limit_time();
                let (contender, samples) = &mut all[index];
                let taken = sample(*contender);
                let taken = taken.map_err(|error| format!("{}: {error}", contender.name()))?;
                if round >= warm_up {
                    samples.push(taken);
                }
            }
        }
        Ok(Self(all))
    }

    /// Compares all contenders with the reference, as ratios within the same round.
    pub(crate) fn row(&self, name: &str, unit: &str, reference: Contender) -> Row {
        let base = self.medians(reference);
        let figures = self.figures(|contender| {
            let pairs = self.medians(contender).into_iter().zip(&base);
            let ratios: Vec<f64> = pairs.map(|(one, other)| one / other).collect();
            (contender != reference).then(|| interval(&ratios))
        });
        Row::new(name, unit, Compare::Ratio, reference, figures)
    }

    fn figures(&self, against: impl Fn(Contender) -> Option<[f64; 3]>) -> Vec<Figure> {
        let figures = self.0.iter().map(|(contender, rounds)| {
            let all: Vec<f64> = rounds.iter().flatten().copied().collect();
            let [min, median, p95] = [0.0, 0.5, 0.95].map(|share| quantile(&all, share));
            Figure::new(*contender, [min, median, p95], against(*contender))
        });
        figures.collect()
    }

    /// Returns the median of each round.
    fn medians(&self, contender: Contender) -> Vec<f64> {
        let rounds = self.0.iter().find(|(it, _)| *it == contender).map_or(&[][..], |(_, it)| it);
        rounds.iter().map(|samples| quantile(samples, 0.5)).collect()
    }
}

/// Returns the median between the ends of its confidence interval of at least 95 %, by the sign test. With fewer than
/// [`MIN_ROUNDS`] values the ends are the least and the greatest value.
fn interval(values: &[f64]) -> [f64; 3] {
    let count = values.len();
    // The number of values outside the interval at each end, and the probability that at most so many values are below
    // the true median.
    let (mut outside, mut exactly) = (0, 0.5_f64.powi(count as i32));
    let mut at_most = exactly;
    loop {
        exactly *= (count - outside) as f64 / (outside + 1) as f64;
        at_most += exactly;
        if at_most > 0.025 {
            break;
        }
        outside += 1;
    }
    let share = outside as f64 / count.saturating_sub(1).max(1) as f64;
    [share, 0.5, 1.0 - share].map(|share| quantile(values, share))
}

/// Returns the value that this share of the values is below, interpolated between neighbours.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_agrees_with_tables_of_the_sign_test() {
        for (count, low) in [(1, 1), (5, 1), (6, 1), (9, 2), (15, 4), (40, 14), (200, 86)] {
            let [found, _, high] = interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
            assert_eq!((found.round() as i32, high.round() as i32), (low, count + 1 - low));
        }
    }

    #[test]
    fn ratio_is_computed_within_each_round() {
        // The machine slows down steadily, and one contender always needs twice the time.
        let mut time = 0.0;
        let contenders = [Contender::Std, Contender::Duct];
        let rounds = Rounds::run(&Run::new(true), &contenders, (1, 9), |contender| {
            time += 1.0;
            Ok(vec![(time / 2.0_f64).ceil() * if contender == Contender::Duct { 2.0 } else { 1.0 }])
        });
        let row = rounds.unwrap().row("", "", Contender::Std);
        assert_eq!(row.figure("duct").unwrap().against, Some([2.0; 3]));
    }
}
