//! Finds the fastest precision on this machine: times each one on the self-test picture and tells
//! whether another is worth changing to. The caller makes the change and stores it.

use std::time::{Duration, Instant};

use crate::device::Precision;
use crate::{Analysis, Pack, Rgb, Search, Vision, VisionError};

/// A candidate and the current precision run in turn until both together took this long, or for
/// this many rounds.
const TIME: Duration = Duration::from_millis(400);
const MOST_ROUNDS: usize = 9;
/// The fewest rounds for a meaningful median, however slow the machine is.
const FEWEST_ROUNDS: usize = 3;
/// Another precision must save a fifth of the time; smaller differences come from other load and
/// heat.
const WORTH_CHANGING: f64 = 0.8;

/// Result of one precision on the self-test picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// The precision that ran.
    pub precision: Precision,
    /// Median time from pixels to embeddings on one core.
    pub median: Duration,
    /// Distance to the pack's reference embedding.
    pub distance: f32,
    /// True if the distance is within the pack's tolerance for this precision.
    pub within_tolerance: bool,
}

/// Comparison of the precisions on this machine.
#[derive(Debug)]
pub struct Comparison {
    /// Every precision that ran, the current one first.
    pub trials: Vec<Trial>,
    /// Precisions that could not be loaded or run, with the error.
    pub failed: Vec<(Precision, VisionError)>,
    /// The precision to change to, ready to run: the fastest that is within the pack's tolerance
    /// and a fifth faster than the current one.
    pub better: Option<Vision>,
}

/// Times every other precision that the pack offers and this machine supports against `current`, on
/// `picture`, which is the decoded [`Pack::self_test_picture`]. Holds at most two networks besides
/// the current one at a time, and keeps only the one it returns.
pub fn compare_precisions(
    pack: &Pack,
    current: &Vision,
    picture: &Rgb,
    search: &Search,
) -> Result<Comparison, VisionError> {
    let now = current.precision();
    let others = Precision::ALL.into_iter().filter(|&precision| {
        precision != now && pack.offers(precision) && current.device().has_arithmetic_for(precision)
    });
    // The first run on a thread or at a picture size also pays for set-up.
    let begun = Instant::now();
    let reply = current.recognise_alone(picture, search)?;
    let first = begun.elapsed();
    let mut trials = Vec::new();
    let mut failed = Vec::new();
    let mut better: Option<(Duration, Vision)> = None;
    let mut times_now = Vec::new();
    for precision in others {
        let tried = current.in_precision(pack, precision).and_then(|candidate| {
            let (trial, against) = take_turns(&candidate, current, picture, search)?;
            Ok((candidate, trial, against))
        });
        match tried {
            Ok((candidate, trial, against)) => {
                if is_better(
                    &trial,
                    median(&against),
                    better.as_ref().map(|(fastest, _)| *fastest),
                ) {
                    better = Some((trial.median, candidate));
                }
                trials.push(trial);
                times_now.extend(against);
            }
            Err(error) => failed.push((precision, error)),
        }
    }
    if times_now.is_empty() {
        times_now.push(first);
    }
    trials.insert(0, Trial::new(current, &reply, &times_now)?);
    Ok(Comparison {
        trials,
        failed,
        better: better.map(|(_, vision)| vision),
    })
}

/// Tells whether a candidate is worth changing to, given the current time and the fastest one found
/// so far.
fn is_better(candidate: &Trial, now: Duration, fastest: Option<Duration>) -> bool {
    candidate.within_tolerance
        && candidate.median <= now.mul_f64(WORTH_CHANGING)
        && fastest.is_none_or(|fastest| candidate.median < fastest)
}

/// Returns the candidate's trial and the current precision's times. The two alternate, so that both
/// meet the same conditions.
fn take_turns(
    candidate: &Vision,
    current: &Vision,
    picture: &Rgb,
    search: &Search,
) -> Result<(Trial, Vec<Duration>), VisionError> {
    let reply = candidate.recognise_alone(picture, search)?;
    let time = |vision: &Vision| {
        let begun = Instant::now();
        vision
            .recognise_alone(picture, search)
            .map(|_| begun.elapsed())
    };
    let (mut times, mut against) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while times.len() < FEWEST_ROUNDS || (times.len() < MOST_ROUNDS && begun.elapsed() < TIME) {
        against.push(time(current)?);
        times.push(time(candidate)?);
    }
    Ok((Trial::new(candidate, &reply, &times)?, against))
}

impl Trial {
    fn new(vision: &Vision, reply: &Analysis, times: &[Duration]) -> Result<Self, VisionError> {
        let distance = vision.reference_distance(reply)?;
        let within_tolerance = distance <= vision.tolerance();
        Ok(Self {
            precision: vision.precision(),
            median: median(times),
            distance,
            within_tolerance,
        })
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(100);

    fn trial(milliseconds: u64, within_tolerance: bool) -> Trial {
        let median = Duration::from_millis(milliseconds);
        Trial {
            precision: Precision::Float16,
            median,
            distance: 0.01,
            within_tolerance,
        }
    }

    #[test]
    fn only_a_fifth_less_time_is_worth_a_change() {
        assert!(is_better(&trial(80, true), NOW, None));
        assert!(!is_better(&trial(81, true), NOW, None));
        assert!(!is_better(&trial(120, true), NOW, None));
    }

    #[test]
    fn a_precision_outside_its_tolerance_is_never_better() {
        assert!(!is_better(&trial(1, false), NOW, None));
    }

    #[test]
    fn of_several_better_ones_the_fastest_counts() {
        assert!(is_better(
            &trial(40, true),
            NOW,
            Some(Duration::from_millis(50))
        ));
        assert!(!is_better(
            &trial(60, true),
            NOW,
            Some(Duration::from_millis(50))
        ));
    }

    #[test]
    fn a_median_ignores_the_one_slow_round() {
        let of = |times: &[u64]| {
            median(
                &times
                    .iter()
                    .copied()
                    .map(Duration::from_millis)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[10, 900, 11]), Duration::from_millis(11));
    }
}
