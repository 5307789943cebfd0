//! The step from distances to outcomes: the limits between known, uncertain and unknown, and how
//! they move with the size of the gallery. Works on numbers only; `gallery` measures the distances.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::matrix::{dot, squared_distance};

/// Distance measure of two embeddings; smaller means more similar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Length of the difference.
    Euclidean,
    /// 1 minus the cosine of the angle.
    Cosine,
}

impl Metric {
    /// Returns the distance of two embeddings of equal length.
    pub fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Euclidean => squared_distance(a, b).sqrt(),
            Self::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        }
    }

    /// Returns the distance of rows that are this share as far apart as rows at `distance`. The
    /// cosine distance grows with the square of the rows' distance.
    pub fn at_share(self, share: f32, distance: f32) -> f32 {
        match self {
            Self::Euclidean => share * distance,
            Self::Cosine => share * share * distance,
        }
    }

    /// Returns an embedding as a row to compare by squared distance: of unit length under the
    /// cosine metric.
    pub(crate) fn row_of(self, embedding: &[f32]) -> Vec<f32> {
        match self {
            Self::Euclidean => embedding.to_vec(),
            Self::Cosine => {
                let length = dot(embedding, embedding).sqrt();
                embedding.iter().map(|v| v / length).collect()
            }
        }
    }

    /// Returns how far apart rows at this distance are.
    pub(crate) fn length_of(self, distance: f32) -> f32 {
        match self {
            Self::Euclidean => distance,
            Self::Cosine => (2.0 * distance).max(0.0).sqrt(),
        }
    }

    /// Returns the distance of rows from their squared difference.
    pub(crate) fn of_squared(self, squared: f32) -> f32 {
        match self {
            Self::Euclidean => squared.sqrt(),
            // For unit vectors |a - b|² = 2 - 2 cos.
            Self::Cosine => squared / 2.0,
        }
    }
}

/// A person found by a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The person, as given to [`Gallery::push`].
    pub person: i64,
    /// The person's nearest picture.
    pub picture: i64,
    /// Distance to the person's nearest template: to that picture, or to a mean of several.
    pub distance: f32,
}

/// The limits assume at least this many comparisons. The curve is measured on people from
/// everywhere; people who pass one door are more alike, relatives most of all, and a small gallery
/// gains little from a wider limit.
const FEWEST_COMPARISONS: usize = 20;

/// Tolerance for strangers who are taken for enrolled people, as the operator chooses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caution {
    /// Fewer strangers get a name; more enrolled people are missed.
    Strict,
    /// A compromise that suits most places.
    #[default]
    Balanced,
    /// Fewer enrolled people are missed; more strangers get a name.
    Lenient,
}

impl Caution {
    /// All values, the most cautious first.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Balanced, Self::Lenient];

    /// Returns the share of strangers that may be known (FPIR of the lower limit).
    pub fn known_strangers(self) -> f64 {
        match self {
            Self::Strict => 0.001,
            Self::Balanced => 0.004,
            Self::Lenient => 0.01,
        }
    }

    /// Returns the share of strangers that may get a name at all, known or uncertain (FPIR of the
    /// upper limit).
    pub fn named_strangers(self) -> f64 {
        match self {
            Self::Strict => 0.005,
            Self::Balanced => 0.02,
            Self::Lenient => 0.05,
        }
    }
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Balanced => "balanced",
            Self::Lenient => "lenient",
        })
    }
}

impl FromStr for Caution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL
            .into_iter()
            .find(|caution| caution.to_string() == text);
        found.ok_or_else(|| {
            format!(
                "{text:?} is not a level of caution; use \"strict\", \"balanced\" or \"lenient\""
            )
        })
    }
}

/// The embeddings that stand for a person with several pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Templates {
    /// Every picture; the nearest counts.
    #[default]
    Nearest,
    /// Means of similar pictures.
    Mean,
}

/// The matching rules of a pack.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// Metric of the distances.
    pub metric: Metric,
    /// Two pictures of one person are closer than this.
    pub threshold: f32,
    /// A face this far below the threshold is known, if there is no curve.
    pub band_below: f32,
    /// A face this far above the threshold is unknown, if there is no curve.
    pub band_above: f32,
    /// A known face is uncertain if the second nearest person is less than this further away.
    pub min_margin: f32,
    /// Two strangers' faces closer than this form a group. Default: five sixths of the threshold.
    pub linking: Option<f32>,
    /// The embeddings that stand for a person.
    #[serde(default)]
    pub templates: Templates,
    /// Points (false match rate, distance) on pictures of different people; both fall from point to
    /// point. Without points the limits are the threshold's bands, for any size of gallery.
    #[serde(default)]
    pub curve: Vec<(f64, f32)>,
    /// Points (number of looks, distance) by which the limits fall for the mean of several looks at
    /// one face; neither falls from point to point. Without points a mean is judged as a single look.
    #[serde(default)]
    pub looks: Vec<(u32, f32)>,
}

/// The limits between known, uncertain and unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Below this distance the nearest person is known, if the margin is large enough.
    pub known_below: f32,
    /// Above this distance a face is unknown.
    pub unknown_above: f32,
    /// A known face is uncertain if the second nearest person is less than this further away.
    pub min_margin: f32,
}

/// Outcome for one face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Clearly one person.
    Known,
    /// Perhaps this person; an operator should check.
    Uncertain,
    /// Not enrolled.
    Unknown,
}

/// The judgement on one face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Outcome.
    pub outcome: Outcome,
    /// The person; `None` if unknown.
    pub person: Option<i64>,
    /// Distance to the nearest person, for any outcome; `None` if the gallery is empty.
    pub distance: Option<f32>,
    /// Additional distance of the second nearest person; `None` if there is only one.
    pub margin: Option<f32>,
}

impl Matching {
    /// Returns the limits for a gallery. A face is compared with every enrolled picture, so the
    /// share of strangers taken for an enrolled person is about the false match rate times the
    /// number of pictures: to keep that share, the limits fall as the gallery grows. A mean is
    /// closer to strangers than one picture, but counts for fewer comparisons than its pictures
    /// (models/benches/identification.md), so the number of pictures is on the safe side for both.
    ///
    /// The face is the mean of this number of `looks`, at least 1. A mean is closer to everybody
    /// than a single look, and to strangers too, so the limits fall with the number of looks.
    pub fn limits(&self, caution: Caution, pictures: usize, looks: u32) -> Limits {
        let Self {
            threshold,
            band_below,
            band_above,
            min_margin,
            ..
        } = *self;
        let single = if self.curve.is_empty() {
            [threshold - band_below, threshold + band_above]
        } else {
            let comparisons = pictures.max(FEWEST_COMPARISONS) as f64;
            [caution.known_strangers(), caution.named_strangers()]
                .map(|share| self.distance_at(share / comparisons))
        };
        let nearer = self.nearer_by(looks);
        let [known_below, unknown_above] = single.map(|limit| (limit - nearer).max(0.0));
        Limits {
            known_below,
            unknown_above,
            min_margin,
        }
    }

    /// Returns the distance by which the limits fall for the mean of several looks, interpolated
    /// linearly over the logarithm of their number. One look is at 0, and beyond the last point its
    /// distance applies.
    fn nearer_by(&self, looks: u32) -> f32 {
        let mut before = (1, 0.0);
        for &(count, nearer) in &self.looks {
            if looks < count {
                let [from, to, at] =
                    [before.0, count, looks.max(1)].map(|count: u32| (count as f32).log2());
                return before.1 + (nearer - before.1) * (at - from) / (to - from);
            }
            before = (count, nearer);
        }
        before.1
    }

    /// Returns the same rules with a fixed threshold instead of the curve.
    pub fn with_threshold(self, threshold: f32) -> Self {
        // A band as wide as the threshold would leave no face known.
        Self {
            threshold,
            band_below: self.band_below.min(threshold / 2.0),
            curve: Vec::new(),
            ..self
        }
    }

    /// Returns the distance below which two strangers' faces form a group.
    pub fn linking_distance(&self) -> f32 {
        self.linking
            .unwrap_or_else(|| self.metric.at_share(5.0 / 6.0, self.threshold))
    }

    /// Returns the distance on the curve, interpolated linearly over the logarithm of the rate.
    /// Beyond the last point the last segment is extended; before the first point its distance
    /// applies.
    fn distance_at(&self, rate: f64) -> f32 {
        let curve = &self.curve;
        let after = curve
            .partition_point(|point| point.0 >= rate)
            .clamp(1, curve.len().max(2) - 1);
        let (Some(&(from, near)), Some(&(to, far))) = (curve.get(after - 1), curve.get(after))
        else {
            return self.threshold;
        };
        let share = ((rate.ln() - from.ln()) / (to.ln() - from.ln())).max(0.0);
        (near + (far - near) * share as f32).max(0.0)
    }
}

impl Limits {
    /// Judges candidates as [`crate::Gallery::nearest`] returns them; two are enough.
    pub fn judge(&self, candidates: &[Candidate]) -> Verdict {
        let Some(best) = candidates.first() else {
            return Verdict {
                outcome: Outcome::Unknown,
                person: None,
                distance: None,
                margin: None,
            };
        };
        let margin = candidates
            .get(1)
            .map(|second| second.distance - best.distance);
        let clear = margin.is_none_or(|margin| margin >= self.min_margin);
        let outcome = if best.distance > self.unknown_above {
            Outcome::Unknown
        } else if best.distance < self.known_below && clear {
            Outcome::Known
        } else {
            Outcome::Uncertain
        };
        let person = (outcome != Outcome::Unknown).then_some(best.person);
        Verdict {
            outcome,
            person,
            distance: Some(best.distance),
            margin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(curve: &[(f64, f32)]) -> Matching {
        Matching {
            metric: Metric::Cosine,
            threshold: 0.6,
            band_below: 0.05,
            band_above: 0.03,
            min_margin: 0.02,
            linking: None,
            templates: Templates::Mean,
            curve: curve.to_vec(),
            looks: Vec::new(),
        }
    }

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-5
    }

    #[test]
    fn without_a_curve_the_lines_are_the_bands_for_any_gallery() {
        for (caution, pictures) in [(Caution::Strict, 1), (Caution::Lenient, 10_000)] {
            let limits = matching(&[]).limits(caution, pictures, 1);
            assert!(near(limits.known_below, 0.55) && near(limits.unknown_above, 0.63));
        }
    }

    #[test]
    fn the_lines_fall_as_the_gallery_grows_and_with_caution() {
        let matching = matching(&[(1e-3, 0.63), (1e-4, 0.57), (1e-5, 0.53)]);
        // Balanced: 4 in 1000 known, 20 in 1000 named. 200 pictures: rates of 2e-5 and 1e-4.
        let limits = matching.limits(Caution::Balanced, 200, 1);
        assert!(
            near(limits.unknown_above, 0.57)
                && near(limits.known_below, 0.53 + 0.04 * 2_f32.log10())
        );
        // 40 000 pictures: 1e-7, two decades past the last point.
        assert!(near(
            matching.limits(Caution::Balanced, 40_000, 1).known_below,
            0.45
        ));
        let sizes = [0, 20, 100, 1000, 100_000];
        let at = |caution, pictures| matching.limits(caution, pictures, 1);
        assert!(sizes.is_sorted_by(|a, b| {
            let [a, b] = [a, b].map(|pictures| at(Caution::Balanced, *pictures));
            a.known_below >= b.known_below && a.unknown_above >= b.unknown_above
        }));
        assert_eq!(
            at(Caution::Balanced, 1),
            at(Caution::Balanced, 20),
            "few pictures widen no line"
        );
        for pictures in sizes {
            let [strict, balanced, lenient] = Caution::ALL.map(|caution| at(caution, pictures));
            assert!(
                strict.known_below <= balanced.known_below
                    && balanced.known_below <= lenient.known_below
            );
            assert!(
                strict.unknown_above <= balanced.unknown_above
                    && balanced.unknown_above <= lenient.unknown_above
            );
            assert!(
                Caution::ALL
                    .map(|caution| at(caution, pictures))
                    .iter()
                    .all(|at| at.known_below < at.unknown_above)
            );
        }
    }

    #[test]
    fn the_lines_fall_with_the_looks_between_the_points() {
        let many = |curve| Matching {
            looks: vec![(2, 0.01), (8, 0.03)],
            ..matching(curve)
        };
        for curve in [&[][..], &[(1e-3, 0.63), (1e-4, 0.57)]] {
            let at = |looks| many(curve).limits(Caution::Balanced, 100, looks);
            let single = matching(curve).limits(Caution::Balanced, 100, 1);
            assert_eq!([at(0), at(1)], [single; 2]);
            for (looks, nearer) in [(2, 0.01), (4, 0.02), (8, 0.03), (1000, 0.03)] {
                let limits = at(looks);
                assert!(near(single.known_below - limits.known_below, nearer));
                assert!(near(single.unknown_above - limits.unknown_above, nearer));
            }
        }
        let single = matching(&[]).limits(Caution::Balanced, 100, 1);
        assert_eq!(
            matching(&[]).limits(Caution::Balanced, 100, 8),
            single,
            "without points any number of looks is as one"
        );
    }

    #[test]
    fn a_threshold_of_ones_own_follows_no_gallery() {
        let own = matching(&[(1e-3, 0.63), (1e-4, 0.57)]).with_threshold(0.5);
        let limits = own.limits(Caution::Balanced, 1000, 1);
        assert!(near(limits.known_below, 0.45) && near(limits.unknown_above, 0.53));
    }

    #[test]
    fn cautions_are_read_back_and_others_refused_with_the_choices() {
        for caution in Caution::ALL {
            assert_eq!(caution.to_string().parse(), Ok(caution));
        }
        assert!(
            "careful"
                .parse::<Caution>()
                .unwrap_err()
                .contains("balanced")
        );
    }
}
