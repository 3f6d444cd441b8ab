//! Interleaving, and what is computed from it.

use crate::cli::Result;
use crate::contender::Who;
use crate::report::{Compare, Figure, Interval, Row};
use crate::run::Run;
use crate::worker;

/// The fewest rounds of which [`interval`] can tell.
pub(crate) const ENOUGH: usize = 6;

/// The samples of every contender, round by round.
pub(crate) struct Rounds(Vec<(Who, Vec<Vec<f64>>)>);

impl Rounds {
    /// Runs every contender once a round, each time in another order, so that none always follows
    /// the same one. A first round goes uncounted: it warms caches.
    pub(crate) fn run(
        run: &Run,
        contenders: &[Who],
        rounds: usize,
        sample: impl FnMut(Who) -> Result<Vec<f64>>,
    ) -> Result<Self> {
        let mut all = Self::cold(run, contenders, rounds + 1, sample)?;
        for (_, samples) in &mut all.0 {
            samples.remove(0);
        }
        Ok(all)
    }

    /// The same, where every sample is taken in a process of its own, which warms up itself: all rounds count.
    pub(crate) fn cold(
        run: &Run,
        contenders: &[Who],
        rounds: usize,
        mut sample: impl FnMut(Who) -> Result<Vec<f64>>,
    ) -> Result<Self> {
        let mut all: Vec<_> = contenders.iter().map(|who| (*who, Vec::new())).collect();
        // The same orders in every run.
        let mut random = fastrand::Rng::with_seed(0);
        for round in 1..=rounds {
            run.show_round(round, rounds);
            let mut order: Vec<usize> = (0..all.len()).collect();
            random.shuffle(&mut order);
            for contender in order {
                worker::limit_time();
                let (who, samples) = &mut all[contender];
                samples.push(sample(*who).map_err(|error| format!("{}: {error}", who.name()))?);
            }
        }
        Ok(Self(all))
    }

    /// All contenders beside the reference. The bar is for this crate.
    pub(crate) fn row(&self, name: &str, unit: &'static str, reference: Who) -> Row {
        let figures = self.figures(|who| (who != reference).then(|| self.ratio(who, reference)));
        Row::new(name, unit, Compare::Ratio, reference, figures)
    }

    /// The same, but the bar is for this crate's figure, whatever the reference's is.
    pub(crate) fn row_of_figures(&self, name: &str, unit: &'static str, reference: Who) -> Row {
        let figures = self.figures(|who| Some(interval(&self.medians(who))));
        Row::new(name, unit, Compare::Nothing, reference, figures)
    }

    fn figures(&self, against: impl Fn(Who) -> Option<Interval>) -> Vec<Figure> {
        let figures = self.0.iter().map(|(who, rounds)| {
            let all: Vec<f64> = rounds.iter().flatten().copied().collect();
            Figure {
                who: *who,
                median: quantile(&all, 0.5),
                min: quantile(&all, 0.0),
                p95: quantile(&all, 0.95),
                against: against(*who),
            }
        });
        figures.collect()
    }

    /// The median, over the rounds, of the ratio of the two in the same round.
    fn ratio(&self, who: Who, reference: Who) -> Interval {
        let pairs = self.medians(who).into_iter().zip(self.medians(reference));
        let ratios: Vec<f64> = pairs.map(|(one, other)| one / other).collect();
        interval(&ratios)
    }

    /// Of every round.
    fn medians(&self, who: Who) -> Vec<f64> {
        let rounds = self.0.iter().find(|(it, _)| *it == who).map_or(&[][..], |(_, it)| it);
        rounds.iter().map(|samples| quantile(samples, 0.5)).collect()
    }
}

/// The median, and the values between which the true one lies with a confidence of 95 % or more: each value is below it by
/// the toss of a coin. Of fewer than are [`ENOUGH`] it is the least and the greatest.
fn interval(values: &[f64]) -> Interval {
    let count = values.len();
    // How many are left out at either end, and the probability that no more than that are below the true one.
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
    Interval {
        low: quantile(values, share),
        mid: quantile(values, 0.5),
        high: quantile(values, 1.0 - share),
    }
}

/// The value that a share of the others is below, between two neighbours if need be.
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
    use crate::run::Effort;

    #[test]
    fn quantiles() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn intervals() {
        let of = |count: u32| interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
        // So it is in every table of the sign test.
        for (count, low) in [(1, 1), (5, 1), (6, 1), (9, 2), (15, 4), (40, 14), (200, 86)] {
            let Interval { low: found, high, .. } = of(count);
            assert_eq!((found.round() as u32, high.round() as u32), (low, count + 1 - low));
        }
        assert!(interval(&[]).low.is_nan());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine gets slower and slower, and one contender is always twice as slow.
        let mut time = 0.0;
        let run = Run::new(Effort::Quick, 1).unwrap();
        let rounds = Rounds::run(&run, &[Who::Std, Who::Ours], 9, |who| {
            time += 1.0;
            Ok(vec![(time / 2.0_f64).ceil() * if who == Who::Ours { 2.0 } else { 1.0 }])
        });
        let ratio = rounds.unwrap().ratio(Who::Ours, Who::Std);
        assert_eq!((ratio.low, ratio.mid, ratio.high), (2.0, 2.0, 2.0));
    }
}
