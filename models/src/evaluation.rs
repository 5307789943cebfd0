//! How well distances tell same from different people: accuracy, and missed matches at a given
//! rate of false ones. Works on numbers only; making the pairs is the caller's.

/// The distance of a pair of pictures, and whether they show the same person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// In the pack's metric.
    pub distance: f32,
    /// The truth.
    pub same: bool,
}

/// What a set of pairs says about a recogniser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Pairs of one person.
    pub genuine: usize,
    /// Pairs of two people.
    pub impostors: usize,
    /// The share of pairs told right at the threshold asked about.
    pub accuracy: f64,
    /// The threshold that tells the most pairs right; between two distances of the set.
    pub best_threshold: f32,
    /// The share told right there. Flatters, since the same pairs chose the threshold.
    pub best_accuracy: f64,
    /// Mean distance of the pairs of one person.
    pub genuine_mean: f64,
    /// Mean distance of the pairs of two people.
    pub impostor_mean: f64,
    /// Where at most one impostor pair in a hundred passes; with under 100 of them, none does.
    pub at_fmr_1e2: OperatingPoint,
    /// Where at most one in a thousand passes; with under 1 000 of them, none does, which says little.
    pub at_fmr_1e3: OperatingPoint,
}

/// A threshold chosen by its false match rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// Pairs nearer than this pass.
    pub threshold: f32,
    /// The share of genuine pairs that do not pass (false non-match rate).
    pub fnmr: f64,
}

/// Evaluates pairs; a pair counts as same when nearer than `threshold`. A picture without a face
/// belongs in the set too, as a pair at infinite distance. None without both kinds of pairs, or
/// if a distance is no number.
pub fn evaluate(pairs: &[Pair], threshold: f32) -> Option<Evaluation> {
    if pairs.iter().any(|pair| pair.distance.is_nan()) {
        return None;
    }
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let distances =
        |same: bool| sorted.iter().filter(move |pair| pair.same == same).map(|pair| pair.distance).collect::<Vec<_>>();
    let (genuine, impostors) = (distances(true), distances(false));
    if genuine.is_empty() || impostors.is_empty() {
        return None;
    }
    let (best_threshold, best_right) = best(&sorted, impostors.len());
    let right = pairs.iter().filter(|pair| (pair.distance < threshold) == pair.same).count();
    let share = |count: usize| count as f64 / pairs.len() as f64;
    Some(Evaluation {
        genuine: genuine.len(),
        impostors: impostors.len(),
        accuracy: share(right),
        best_threshold,
        best_accuracy: share(best_right),
        genuine_mean: mean(&genuine),
        impostor_mean: mean(&impostors),
        at_fmr_1e2: operating_point(&genuine, &impostors, 100),
        at_fmr_1e3: operating_point(&genuine, &impostors, 1000),
    })
}

/// Of all thresholds the one with the most pairs told right, and how many; of several, the lowest.
fn best(sorted: &[Pair], impostors: usize) -> (f32, usize) {
    // Below every distance nothing passes, which is right for every impostor pair.
    let mut right = impostors;
    let (mut best_right, mut best_threshold) = (right, sorted[0].distance);
    for (ix, pair) in sorted.iter().enumerate() {
        right = if pair.same { right + 1 } else { right - 1 };
        let next = sorted.get(ix + 1).map_or(f32::INFINITY, |next| next.distance);
        // Equal distances pass together or not at all.
        if right > best_right && next > pair.distance {
            best_right = right;
            best_threshold =
                if next.is_finite() { pair.distance + (next - pair.distance) / 2.0 } else { pair.distance.next_up() };
        }
    }
    (best_threshold, best_right)
}

/// The highest threshold at which at most one in `one_in` impostor pairs passes.
fn operating_point(genuine: &[f32], impostors: &[f32], one_in: usize) -> OperatingPoint {
    let allowed = impostors.len() / one_in;
    let threshold = impostors.get(allowed).copied().unwrap_or(f32::INFINITY);
    let missed = genuine.iter().filter(|distance| **distance >= threshold).count();
    OperatingPoint { threshold, fnmr: missed as f64 / genuine.len() as f64 }
}

/// Infinite distances stand for missing faces and have no place in a mean.
fn mean(distances: &[f32]) -> f64 {
    let finite = || distances.iter().filter(|d| d.is_finite());
    finite().map(|d| f64::from(*d)).sum::<f64>() / finite().count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(genuine: &[f32], impostors: &[f32]) -> Vec<Pair> {
        let of = |distances: &[f32], same| {
            distances.iter().map(move |&distance| Pair { distance, same }).collect::<Vec<_>>()
        };
        [of(genuine, true), of(impostors, false)].concat()
    }

    #[test]
    fn pairs_that_do_not_overlap_are_all_told_right_between_them() {
        let result = evaluate(&pairs(&[0.1, 0.3], &[0.7, 0.9]), 0.6).unwrap();
        assert_eq!((result.accuracy, result.best_accuracy), (1.0, 1.0));
        assert!((result.best_threshold - 0.5).abs() < 1e-6);
        assert!((result.genuine_mean - 0.2).abs() < 1e-6 && (result.impostor_mean - 0.8).abs() < 1e-6);
    }

    #[test]
    fn accuracy_is_counted_at_the_threshold_asked_about() {
        let result = evaluate(&pairs(&[0.1, 0.3], &[0.7, 0.9]), 0.2).unwrap();
        assert_eq!((result.accuracy, result.best_accuracy), (0.75, 1.0));
    }

    #[test]
    fn equal_distances_are_never_split() {
        let result = evaluate(&pairs(&[0.5, 0.5, 0.5], &[0.5]), 0.5).unwrap();
        assert_eq!((result.accuracy, result.best_accuracy), (0.25, 0.75));
    }

    #[test]
    fn the_false_match_rate_bounds_how_many_impostors_pass() {
        let impostors: Vec<f32> = (0..200).map(|i| 0.5 + i as f32 / 1000.0).collect();
        let result = evaluate(&pairs(&[0.1, 0.4, 0.5015, 0.6], &impostors), 0.6).unwrap();
        let point = result.at_fmr_1e2;
        assert_eq!(impostors.iter().filter(|d| **d < point.threshold).count(), 2);
        assert_eq!(point.fnmr, 0.25);
    }

    #[test]
    fn with_too_few_impostors_for_the_rate_none_of_them_passes() {
        let result = evaluate(&pairs(&[0.1, 0.7], &[0.5; 999]), 0.6).unwrap();
        assert_eq!((result.at_fmr_1e3.threshold, result.at_fmr_1e3.fnmr), (0.5, 0.5));
    }

    #[test]
    fn a_missing_face_counts_against_accuracy_but_not_in_the_mean() {
        let result = evaluate(&pairs(&[0.2, f32::INFINITY], &[0.8, f32::INFINITY]), 0.6).unwrap();
        assert_eq!(result.accuracy, 0.75);
        assert!((result.genuine_mean - 0.2).abs() < 1e-6 && (result.impostor_mean - 0.8).abs() < 1e-6);
    }

    #[test]
    fn without_both_kinds_of_pairs_there_is_no_result() {
        assert_eq!(evaluate(&pairs(&[0.1], &[]), 0.6), None);
        assert_eq!(evaluate(&pairs(&[], &[0.1]), 0.6), None);
        assert_eq!(evaluate(&pairs(&[f32::NAN], &[0.1]), 0.6), None);
    }
}
