//! Verification figures: accuracy on pairs, true match rate at a false match rate, error versus
//! discard of a quality, each with a confidence interval over people. Works on numbers only; the
//! caller computes the distances.

pub mod identification;

use crate::matching::Metric;

/// The distance between two pictures, and the people they show, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// In the pack's metric; infinite if a picture shows no face.
    pub distance: f32,
    /// Equal for a pair of one person.
    pub people: [u32; 2],
}

impl Pair {
    /// Tells whether both pictures show one person.
    pub fn same(&self) -> bool {
        self.people[0] == self.people[1]
    }

    fn right(&self, threshold: f32) -> bool {
        (self.distance < threshold) == self.same()
    }

    /// Returns how often the pair occurs in a sample of people: a pair of one person as often as
    /// the person, a pair of two people as often as there are ways to choose both.
    fn weight(&self, sample: &Sample) -> f64 {
        let [a, b] = self
            .people
            .map(|person| f64::from(sample.times[person as usize]));
        if self.same() { a } else { a * b }
    }
}

/// Number of times each person counts: once, or as often as drawn with replacement.
#[derive(Debug, Clone)]
pub struct Sample {
    times: Vec<u32>,
}

impl Sample {
    /// Counts everybody once, for the measured value.
    pub fn everybody(people: usize) -> Self {
        Self {
            times: vec![1; people],
        }
    }

    /// Draws as many people as there are, with replacement.
    fn drawn(people: usize, state: &mut u64) -> Self {
        let mut times = vec![0; people];
        for _ in 0..people {
            times[splitmix(state, people)] += 1;
        }
        Self { times }
    }
}

/// Returns a number below `count`, by SplitMix64, so that a run can be repeated anywhere.
fn splitmix(state: &mut u64, count: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((u128::from(z) * count as u128) >> 64) as usize
}

/// A figure with its 95 % confidence interval by bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The measured value.
    pub value: f64,
    /// The 2.5 % quantile of the resamples.
    pub low: f64,
    /// The 97.5 % quantile of the resamples.
    pub high: f64,
}

/// Number of bootstrap resamples.
const RESAMPLES: usize = 1000;

/// Computes a figure with its interval by bootstrap over people. All pictures of a person are drawn
/// together; drawing pairs of pictures one by one would make the interval too narrow. Every figure
/// uses the same draws, so that a figure may be a difference.
pub fn estimate(people: usize, figure: impl Fn(&Sample) -> f64) -> Estimate {
    let value = figure(&Sample::everybody(people));
    let mut state = 0;
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| figure(&Sample::drawn(people, &mut state)))
        .collect();
    // A draw without genuine pairs has no false non-match rate.
    drawn.retain(|figure| figure.is_finite());
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| {
        drawn
            .get((share * drawn.len() as f64) as usize)
            .copied()
            .unwrap_or(value)
    };
    Estimate {
        value,
        low: at(0.025),
        high: at(0.975),
    }
}

/// The pairs of a test set.
#[derive(Debug, Clone)]
pub struct Pairs {
    pairs: Vec<Pair>,
    /// Indices into `pairs`, the nearest first.
    by_distance: Vec<usize>,
}

impl Pairs {
    /// Collects the pairs. A pair matches below a threshold. `None` unless there are pairs of both
    /// kinds, or if a distance is NaN.
    pub fn new(pairs: Vec<Pair>) -> Option<Self> {
        let both_kinds = pairs.iter().any(Pair::same) && !pairs.iter().all(Pair::same);
        if !both_kinds || pairs.iter().any(|pair| pair.distance.is_nan()) {
            return None;
        }
        let mut by_distance: Vec<_> = (0..pairs.len()).collect();
        by_distance.sort_by(|&a, &b| pairs[a].distance.total_cmp(&pairs[b].distance));
        Some(Self { pairs, by_distance })
    }

    /// Returns the number of pairs of one person.
    pub fn genuine(&self) -> usize {
        self.pairs.iter().filter(|pair| pair.same()).count()
    }

    /// Returns the mean distance of the pairs of one person, or of two.
    pub fn mean(&self, same: bool) -> f64 {
        // Infinite distances stand for missing faces and have no place in a mean.
        let finite = || {
            self.pairs
                .iter()
                .filter(|pair| pair.same() == same && pair.distance.is_finite())
        };
        finite().map(|pair| f64::from(pair.distance)).sum::<f64>() / finite().count().max(1) as f64
    }

    /// Returns the share of pairs that are classified correctly.
    pub fn accuracy(&self, threshold: f32, sample: &Sample) -> f64 {
        self.share(sample, |_, pair| pair.right(threshold))
    }

    /// Returns the threshold with the highest accuracy, and that accuracy: the lowest such
    /// threshold, half-way between two distances of the set. The accuracy is optimistic, since the
    /// same pairs choose the threshold.
    pub fn best(&self, sample: &Sample) -> (f32, f64) {
        let total: f64 = self.pairs.iter().map(|pair| pair.weight(sample)).sum();
        let sorted = || self.by_distance.iter().map(|&ix| &self.pairs[ix]);
        // Below every distance nothing matches, which is right for every pair of two people.
        let mut right: f64 = self
            .pairs
            .iter()
            .filter(|pair| !pair.same())
            .map(|pair| pair.weight(sample))
            .sum();
        let mut best = (sorted().next().map_or(0.0, |pair| pair.distance), right);
        let later = sorted()
            .skip(1)
            .map(|pair| pair.distance)
            .chain([f32::INFINITY]);
        for (pair, next) in sorted().zip(later) {
            let weight = pair.weight(sample);
            right += if pair.same() { weight } else { -weight };
            // Equal distances match together or not at all.
            if right > best.1 && next > pair.distance {
                let between = pair.distance + (next - pair.distance) / 2.0;
                best = (
                    if next.is_finite() {
                        between
                    } else {
                        pair.distance.next_up()
                    },
                    right,
                );
            }
        }
        (best.0, best.1 / total)
    }

    /// Returns the share of the pairs of one person that match. A picture without a face matches
    /// nothing.
    pub fn true_match_rate(&self, threshold: f32, sample: &Sample) -> f64 {
        let mut counts = [0.0, 0.0];
        for pair in self.pairs.iter().filter(|pair| pair.same()) {
            counts[usize::from(pair.distance < threshold)] += pair.weight(sample);
        }
        counts[1] / (counts[0] + counts[1])
    }

    /// Returns the share of pairs that two recognisers classify differently at their thresholds.
    /// `other` holds the same pairs in the same order.
    pub fn answered_differently(
        &self,
        threshold: f32,
        other: &Self,
        its_threshold: f32,
        sample: &Sample,
    ) -> f64 {
        self.share(sample, |ix, pair| {
            (pair.distance < threshold) != (other.pairs[ix].distance < its_threshold)
        })
    }

    fn share(&self, sample: &Sample, counts: impl Fn(usize, &Pair) -> bool) -> f64 {
        let (mut hits, mut total) = (0.0, 0.0);
        for (ix, pair) in self.pairs.iter().enumerate() {
            let weight = pair.weight(sample);
            total += weight;
            hits += if counts(ix, pair) { weight } else { 0.0 };
        }
        hits / total
    }
}

/// All comparisons between pictures of different people.
#[derive(Debug, Clone)]
pub struct Strangers {
    /// Sorted by distance, the nearest first.
    pairs: Vec<Pair>,
    /// Number of pictures of each person.
    pictures: Vec<u32>,
}

impl Strangers {
    /// Compares all faces, given as person and embedding. A picture without a face is in no
    /// comparison, so it does not lower the false match rate.
    pub fn between(people: usize, faces: &[(u32, &[f32])], metric: Metric) -> Self {
        let mut pictures = vec![0; people];
        let mut pairs = Vec::new();
        for (ix, &(person, embedding)) in faces.iter().enumerate() {
            pictures[person as usize] += 1;
            let others = faces[..ix].iter().filter(|(other, _)| *other != person);
            pairs.extend(others.map(|&(other, its)| Pair {
                distance: metric.distance(embedding, its),
                people: [person, other],
            }));
        }
        pairs.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance));
        Self { pairs, pictures }
    }

    /// Returns the number of comparisons.
    pub fn count(&self) -> usize {
        self.pairs.len()
    }

    /// Returns the highest threshold at which at most this share matches.
    pub fn threshold(&self, false_match_rate: f64, sample: &Sample) -> f32 {
        let each = self
            .pictures
            .iter()
            .zip(&sample.times)
            .map(|(pictures, times)| f64::from(pictures * times));
        let (sum, squares) = each.fold((0.0, 0.0), |(sum, squares), n| (sum + n, squares + n * n));
        // A person drawn twice is not a stranger to themselves.
        let mut allowed = false_match_rate * (sum * sum - squares) / 2.0;
        for pair in &self.pairs {
            allowed -= pair.weight(sample);
            if allowed < 0.0 {
                return pair.distance;
            }
        }
        f32::INFINITY
    }
}

/// A point of the error-versus-discard curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiscardPoint {
    /// Share of faces that are discarded.
    pub discarded: f64,
    /// Pairs of one person among the faces left.
    pub genuine: usize,
    /// Share of those pairs at or beyond the threshold; NaN without pairs.
    pub false_non_match_rate: f64,
}

/// Computes the error-versus-discard characteristic of a quality (ISO/IEC 29794-1). `genuine` are
/// comparisons of two faces of one person: the distance, and two indices into `quality`. Of equal
/// qualities the earlier face is discarded first.
pub fn error_versus_discard(
    genuine: &[(f32, [usize; 2])],
    quality: &[f32],
    threshold: f32,
    shares: &[f64],
) -> Vec<DiscardPoint> {
    let mut worst_first: Vec<_> = (0..quality.len()).collect();
    worst_first.sort_by(|&a, &b| quality[a].total_cmp(&quality[b]));
    let mut turn = vec![0; quality.len()];
    worst_first
        .iter()
        .enumerate()
        .for_each(|(at, &face)| turn[face] = at);
    let point = |&discarded: &f64| {
        // Keeps a whole number of faces from losing one to rounding.
        let gone = (discarded * quality.len() as f64 + 1e-9) as usize;
        let left = || {
            genuine
                .iter()
                .filter(|(_, faces)| faces.iter().all(|&face| turn[face] >= gone))
        };
        let missed = left()
            .filter(|(distance, _)| *distance >= threshold)
            .count();
        DiscardPoint {
            discarded,
            genuine: left().count(),
            false_non_match_rate: missed as f64 / left().count() as f64,
        }
    };
    shares.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of one person each, then pairs of two; each person is in one pair only.
    fn pairs(genuine: &[f32], impostors: &[f32]) -> Vec<Pair> {
        let mut people = 0..;
        let mut next = || people.next().unwrap_or_default();
        let same = genuine.iter().map(|&distance| {
            let person = next();
            Pair {
                distance,
                people: [person, person],
            }
        });
        let same: Vec<_> = same.collect();
        let different = impostors.iter().map(|&distance| Pair {
            distance,
            people: [next(), next()],
        });
        same.into_iter().chain(different).collect()
    }

    fn all() -> Sample {
        Sample::everybody(1000)
    }

    fn of(genuine: &[f32], impostors: &[f32]) -> Pairs {
        Pairs::new(pairs(genuine, impostors)).unwrap()
    }

    #[test]
    fn pairs_that_do_not_overlap_are_all_told_right_between_them() {
        let result = of(&[0.1, 0.3], &[0.7, 0.9]);
        let (threshold, share) = result.best(&all());
        assert_eq!((result.accuracy(0.6, &all()), share), (1.0, 1.0));
        assert!((threshold - 0.5).abs() < 1e-6);
        assert!((result.mean(true) - 0.2).abs() < 1e-6 && (result.mean(false) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn accuracy_is_counted_at_the_threshold_asked_about() {
        let result = of(&[0.1, 0.3], &[0.7, 0.9]);
        assert_eq!(
            (result.accuracy(0.2, &all()), result.best(&all()).1),
            (0.75, 1.0)
        );
        assert_eq!(result.true_match_rate(0.2, &all()), 0.5);
    }

    #[test]
    fn equal_distances_are_never_split() {
        let result = of(&[0.5, 0.5, 0.5], &[0.5]);
        assert_eq!(
            (result.accuracy(0.5, &all()), result.best(&all()).1),
            (0.25, 0.75)
        );
    }

    #[test]
    fn a_missing_face_counts_against_accuracy_but_not_in_the_mean() {
        let result = of(&[0.2, f32::INFINITY], &[0.8, f32::INFINITY]);
        assert_eq!(result.accuracy(0.6, &all()), 0.75);
        assert_eq!(result.true_match_rate(f32::INFINITY, &all()), 0.5);
        assert!((result.mean(true) - 0.2).abs() < 1e-6 && (result.mean(false) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn without_both_kinds_of_pairs_there_is_no_result() {
        assert!(Pairs::new(pairs(&[0.1], &[])).is_none());
        assert!(Pairs::new(pairs(&[], &[0.1])).is_none());
        assert!(Pairs::new(pairs(&[f32::NAN], &[0.1])).is_none());
    }

    #[test]
    fn pairs_count_as_often_as_their_people_are_drawn() {
        let pairs = vec![
            Pair {
                distance: 0.1,
                people: [0, 0],
            },
            Pair {
                distance: 0.9,
                people: [1, 1],
            },
            Pair {
                distance: 0.8,
                people: [0, 1],
            },
        ];
        let pairs = Pairs::new(pairs).unwrap();
        // The right pair counts three times, the right pair of two six times, the wrong one twice.
        let sample = Sample { times: vec![3, 2] };
        assert!((pairs.accuracy(0.5, &sample) - 9.0 / 11.0).abs() < 1e-12);
        assert!((pairs.true_match_rate(0.5, &sample) - 0.6).abs() < 1e-12);
        // A person who is not drawn does not count.
        assert!((pairs.accuracy(0.5, &Sample { times: vec![1, 0] }) - 1.0).abs() < 1e-12);
    }

    /// Pictures on a line, given by their distance from the origin.
    fn line(faces: &[(u32, [f32; 1])]) -> Strangers {
        let faces: Vec<_> = faces
            .iter()
            .map(|(person, at)| (*person, at.as_slice()))
            .collect();
        Strangers::between(1000, &faces, Metric::Euclidean)
    }

    #[test]
    fn all_pictures_are_compared_and_the_rate_bounds_how_many_pass() {
        let strangers = line(&[(0, [0.0]), (0, [1.0]), (1, [3.0]), (2, [7.0])]);
        let distances: Vec<_> = strangers.pairs.iter().map(|pair| pair.distance).collect();
        assert_eq!(distances, [2.0, 3.0, 4.0, 6.0, 7.0]);
        assert_eq!(strangers.count(), 5);
        for (rate, threshold) in [
            (0.0, 2.0),
            (0.199, 2.0),
            (0.2001, 3.0),
            (0.6001, 6.0),
            (1.0, f32::INFINITY),
        ] {
            assert_eq!(
                strangers.threshold(rate, &all()),
                threshold,
                "at a rate of {rate}"
            );
        }
    }

    #[test]
    fn strangers_of_a_sample_are_counted_as_often_as_both_are_drawn() {
        let strangers = line(&[(0, [0.0]), (0, [1.0]), (1, [3.0]), (2, [7.0])]);
        // Person 1 counts three times and person 2 never: the distances 2 and 3, three times each.
        let mut sample = all();
        (sample.times[1], sample.times[2]) = (3, 0);
        assert_eq!(strangers.threshold(0.4, &sample), 2.0);
        assert_eq!(strangers.threshold(0.5, &sample), 3.0);
        assert_eq!(strangers.threshold(1.0, &sample), f32::INFINITY);
    }

    #[test]
    fn two_recognisers_differ_where_only_one_accepts() {
        let (one, other) = (of(&[0.1, 0.7], &[0.3, 0.9]), of(&[0.1, 0.5], &[0.7, 0.5]));
        assert_eq!(one.answered_differently(0.6, &other, 0.6, &all()), 0.75);
        assert_eq!(one.answered_differently(0.6, &one, 0.6, &all()), 0.0);
        assert_eq!(one.answered_differently(0.6, &other, 0.4, &all()), 0.25);
    }

    #[test]
    fn with_one_picture_each_the_interval_is_the_binomials() {
        // 100 people with 20 hits among them: a standard deviation of 0.04, so 95 % lie between
        // 0.12 and 0.28.
        let hits = |sample: &Sample| {
            let [hit, all] = [20, 100].map(|until| sample.times[..until].iter().sum::<u32>());
            f64::from(hit) / f64::from(all)
        };
        let found = estimate(100, hits);
        assert_eq!(found.value, 0.2);
        assert!(
            (found.low - 0.12).abs() < 0.011 && (found.high - 0.28).abs() < 0.011,
            "{found:?}"
        );
        assert_eq!(
            found,
            estimate(100, hits),
            "the draws are the same each time"
        );
    }

    #[test]
    fn draws_without_a_figure_are_left_out_of_the_interval() {
        let found = estimate(
            2,
            |sample| if sample.times[0] == 1 { 0.5 } else { f64::NAN },
        );
        assert_eq!(
            found,
            Estimate {
                value: 0.5,
                low: 0.5,
                high: 0.5
            }
        );
    }

    #[test]
    fn leaving_out_the_worst_faces_takes_their_comparisons_too() {
        // Faces 0 and 1 are missed, and 0 is the worst of ten.
        let quality = [0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.2];
        let genuine = [
            (0.9, [0, 1]),
            (0.2, [2, 3]),
            (0.3, [4, 5]),
            (0.7, [6, 7]),
            (0.1, [8, 9]),
        ];
        let curve = error_versus_discard(&genuine, &quality, 0.6, &[0.0, 0.1, 0.2, 0.4, 1.0]);
        let points: Vec<_> = curve
            .iter()
            .map(|point| (point.genuine, point.false_non_match_rate))
            .collect();
        assert_eq!(points[..4], [(5, 0.4), (4, 0.25), (3, 1.0 / 3.0), (2, 0.0)]);
        assert!(points[4].0 == 0 && points[4].1.is_nan());
    }
}
