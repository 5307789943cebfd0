//! Figures of `kithd eval`, as text and as JSON.

use std::fmt::Write;

use kith_vision::evaluation::{DiscardPoint, Estimate, Sample, error_versus_discard, estimate};
use kith_vision::{Part, Quality};
use serde::Serialize;

use super::Measured;
use super::pairs::List;
use super::subjects::Half;

/// False match rates at which true matches are reported.
const RATES: [f64; 4] = [1e-2, 1e-3, 1e-4, 1e-5];
/// False match rate at which two precisions are compared.
const RATE: f64 = 1e-3;
/// Shares of the worst faces that are left out.
const SHARES: [f64; 7] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2];

/// The printed figures; in JSON, shares are from 0 to 1.
#[derive(Serialize)]
pub struct Report {
    engine: String,
    half: Half,
    pairs: usize,
    pairs_of_one_person: usize,
    pictures: usize,
    people: usize,
    threshold: f32,
    accuracy: f64,
    accuracy_interval: [f64; 2],
    best_threshold: f32,
    best_accuracy: f64,
    best_accuracy_interval: [f64; 2],
    genuine_mean: f64,
    impostor_mean: f64,
    misses: usize,
    stranger_comparisons: usize,
    true_match_rates: Vec<TrueMatches>,
    against: Option<Against>,
    quality: QualityReport,
}

#[derive(Serialize)]
struct TrueMatches {
    false_match_rate: f64,
    threshold: f32,
    rate: f64,
    interval: [f64; 2],
}

/// Difference between the running precision and the other one, on the same pairs and the same
/// samples of people.
#[derive(Serialize)]
struct Against {
    engine: String,
    accuracy: f64,
    best_accuracy: f64,
    true_match_rate: f64,
    answered_differently: f64,
    accuracy_difference: f64,
    accuracy_difference_interval: [f64; 2],
    best_accuracy_difference: f64,
    best_accuracy_difference_interval: [f64; 2],
    true_match_difference: f64,
    true_match_difference_interval: [f64; 2],
}

#[derive(Serialize)]
struct QualityReport {
    pairs: usize,
    curves: Vec<Curve>,
    refused: Vec<Refused>,
}

/// The share of missed pairs of one person once the worst faces by a measure are left out.
#[derive(Serialize)]
struct Curve {
    measure: &'static str,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    discarded: f64,
    pairs: usize,
    false_non_match_rate: f64,
}

/// Faces with one objection, and the number of their missed pairs.
#[derive(Serialize)]
struct Refused {
    reason: &'static str,
    faces: usize,
    pairs: usize,
    missed: usize,
}

impl Report {
    /// Computes all figures, and with `other` the differences to it.
    pub fn new(list: &List, half: Half, one: &Measured, other: Option<&Measured>) -> Self {
        let estimate = |figure: &dyn Fn(&Sample) -> f64| estimate(list.people, figure);
        let interval = |estimate: Estimate| [estimate.low, estimate.high];
        let everybody = Sample::everybody(list.people);
        let accuracy = estimate(&|sample| one.pairs.accuracy(one.threshold, sample));
        let best = estimate(&|sample| one.pairs.best(sample).1);
        let true_matches = |measured: &Measured, rate, sample: &Sample| {
            measured
                .pairs
                .true_match_rate(measured.strangers.threshold(rate, sample), sample)
        };
        let true_match_rates = RATES.map(|rate| {
            let found = estimate(&|sample| true_matches(one, rate, sample));
            TrueMatches {
                false_match_rate: rate,
                threshold: one.strangers.threshold(rate, &everybody),
                rate: found.value,
                interval: interval(found),
            }
        });
        let against = other.map(|other| {
            let accuracy = |measured: &Measured, sample: &Sample| {
                measured.pairs.accuracy(measured.threshold, sample)
            };
            let by_accuracy = estimate(&|sample| accuracy(one, sample) - accuracy(other, sample));
            let by_best = estimate(&|sample| one.pairs.best(sample).1 - other.pairs.best(sample).1);
            let by_rate = estimate(&|sample| {
                true_matches(one, RATE, sample) - true_matches(other, RATE, sample)
            });
            Against {
                engine: other.engine.clone(),
                accuracy: accuracy(other, &everybody),
                best_accuracy: other.pairs.best(&everybody).1,
                true_match_rate: true_matches(other, RATE, &everybody),
                answered_differently: one.pairs.answered_differently(
                    one.threshold,
                    &other.pairs,
                    other.threshold,
                    &everybody,
                ),
                accuracy_difference: by_accuracy.value,
                accuracy_difference_interval: interval(by_accuracy),
                best_accuracy_difference: by_best.value,
                best_accuracy_difference_interval: interval(by_best),
                true_match_difference: by_rate.value,
                true_match_difference_interval: interval(by_rate),
            }
        });
        Self {
            engine: one.engine.clone(),
            half,
            pairs: list.pairs.len(),
            pairs_of_one_person: one.pairs.genuine(),
            pictures: list.pictures.len(),
            people: list.people,
            misses: one.misses,
            threshold: one.threshold,
            accuracy: accuracy.value,
            accuracy_interval: interval(accuracy),
            best_threshold: one.pairs.best(&everybody).0,
            best_accuracy: best.value,
            best_accuracy_interval: interval(best),
            genuine_mean: one.pairs.mean(true),
            impostor_mean: one.pairs.mean(false),
            stranger_comparisons: one.strangers.count(),
            true_match_rates: true_match_rates.into(),
            against,
            quality: QualityReport::new(one),
        }
    }

    /// Formats the figures for a terminal.
    pub fn text(&self) -> String {
        let percent = |share: f64| 100.0 * share;
        let span = |[low, high]: [f64; 2]| format!("[{:.2}, {:.2}]", percent(low), percent(high));
        let mut text = String::new();
        let half = match self.half {
            Half::All => "",
            Half::Tuning => ", the tuning half",
            Half::Report => ", the report half",
        };
        // Writing to a string cannot fail.
        let mut line = |name: &str, rest: String| {
            let _ = writeln!(text, "{name:<17} {rest}");
        };
        line("engine", self.engine.clone());
        let (pairs, same) = (self.pairs, self.pairs_of_one_person);
        let (pictures, people, misses) = (self.pictures, self.people, self.misses);
        line("pairs", format!("{pairs}, {same} of one person{half}"));
        line(
            "pictures",
            format!("{pictures} of {people} people, no face found in {misses}"),
        );
        line("", "In brackets: 95 % of 1000 draws of the people.".into());
        let accuracy = format!(
            "{:.2} % {}",
            percent(self.accuracy),
            span(self.accuracy_interval)
        );
        line(
            "accuracy",
            format!("{accuracy} at the pack's threshold {}", self.threshold),
        );
        let best = format!(
            "{:.2} % {}",
            percent(self.best_accuracy),
            span(self.best_accuracy_interval)
        );
        line("best", format!("{best} at {:.3}", self.best_threshold));
        line("genuine mean", format!("{:.3}", self.genuine_mean));
        line("impostor mean", format!("{:.3}", self.impostor_mean));
        line(
            "strangers",
            format!(
                "{} comparisons of two people's pictures",
                self.stranger_comparisons
            ),
        );
        for at in &self.true_match_rates {
            let few = if (self.stranger_comparisons as f64) * at.false_match_rate < 10.0 {
                ", from too few comparisons of strangers to trust"
            } else {
                ""
            };
            let found = format!("{:.2} % {}", percent(at.rate), span(at.interval));
            line(
                &format!("TAR at FAR {:.0e}", at.false_match_rate),
                format!("{found} at {:.3}{few}", at.threshold),
            );
        }
        if let Some(other) = &self.against {
            line("against", other.engine.clone());
            line(
                "",
                format!(
                    "{:.2} % of pairs answered differently",
                    percent(other.answered_differently)
                ),
            );
            for (name, its, difference, interval) in [
                (
                    "accuracy",
                    other.accuracy,
                    other.accuracy_difference,
                    other.accuracy_difference_interval,
                ),
                (
                    "best",
                    other.best_accuracy,
                    other.best_accuracy_difference,
                    other.best_accuracy_difference_interval,
                ),
                (
                    "TAR at FAR 1e-3",
                    other.true_match_rate,
                    other.true_match_difference,
                    other.true_match_difference_interval,
                ),
            ] {
                let difference = format!("{:+.2} points {}", percent(difference), span(interval));
                line(
                    &format!("  {name}"),
                    format!("{:.2} % there; here {difference}", percent(its)),
                );
            }
        }
        text + &self.quality.text(self.threshold)
    }
}

impl QualityReport {
    fn new(measured: &Measured) -> Self {
        let curve = |measure, of: &dyn Fn(&Quality) -> f32| {
            let quality: Vec<f32> = measured.qualities.iter().map(of).collect();
            let points =
                error_versus_discard(&measured.genuine, &quality, measured.threshold, &SHARES);
            Curve {
                measure,
                points: points.into_iter().map(Point::from).collect(),
            }
        };
        let mut curves = vec![curve("quality", &|quality| quality.score)];
        curves.extend(Part::ALL.map(|part| curve(part.name(), &|quality| quality.part(part))));
        let mut reasons: Vec<_> = measured.objections.iter().flatten().copied().collect();
        reasons.sort_unstable();
        reasons.dedup();
        let refused = |reason: Option<&'static str>| {
            // A pair of two refused faces counts for both reasons.
            let has = |face: usize| measured.objections[face] == reason;
            let of = || {
                measured.genuine.iter().filter(|(_, faces)| match reason {
                    Some(_) => faces.iter().any(|&face| has(face)),
                    None => faces.iter().all(|&face| has(face)),
                })
            };
            Refused {
                reason: reason.unwrap_or("none"),
                faces: (0..measured.objections.len())
                    .filter(|&face| has(face))
                    .count(),
                pairs: of().count(),
                missed: of()
                    .filter(|(distance, _)| *distance >= measured.threshold)
                    .count(),
            }
        };
        let refused = reasons
            .into_iter()
            .map(Some)
            .chain([None])
            .map(refused)
            .collect();
        Self {
            pairs: measured.genuine.len(),
            curves,
            refused,
        }
    }

    fn text(&self, threshold: f32) -> String {
        let mut text = format!(
            "quality           missed of {} pairs of one person at {threshold}, in per cent, without the worst faces by\n",
            self.pairs
        );
        let shares: String = SHARES
            .iter()
            .map(|share| format!("{:>6.0} %", 100.0 * share))
            .collect();
        text.push_str(&format!("{:<17} {shares}\n", "  without"));
        for curve in &self.curves {
            let points: String = curve
                .points
                .iter()
                .map(|point| format!("{:>8.2}", 100.0 * point.false_non_match_rate))
                .collect();
            text.push_str(&format!("  {:<15} {points}\n", curve.measure));
        }
        text.push_str(
            "objections        what would be refused at enrolment, and what was missed with it\n",
        );
        for Refused {
            reason,
            faces,
            pairs,
            missed,
        } in &self.refused
        {
            text.push_str(&format!(
                "  {reason:<15} {faces} faces, {missed} of {pairs} pairs missed\n"
            ));
        }
        text
    }
}

impl From<DiscardPoint> for Point {
    fn from(point: DiscardPoint) -> Self {
        let DiscardPoint {
            discarded,
            genuine,
            false_non_match_rate,
        } = point;
        Self {
            discarded,
            pairs: genuine,
            false_non_match_rate,
        }
    }
}
