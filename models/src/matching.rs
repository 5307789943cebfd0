//! How a distance becomes an outcome: the lines between known, uncertain and unknown, and how they
//! move with the number of enrolled pictures. Knows numbers only; the distances are `gallery`'s.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::gallery::{Candidate, Metric};

/// The lines are never drawn for fewer comparisons than this. The pictures that a curve is measured
/// on are of people from everywhere; those who pass one door are more alike, relatives most of all,
/// and a few enrolled pictures gain little by a wider line.
const FEWEST_COMPARISONS: usize = 20;

/// How many strangers may be taken for people who are enrolled; what an operator chooses in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caution {
    /// Fewer strangers get a name, more enrolled people are missed.
    Strict,
    /// What serves most places.
    #[default]
    Balanced,
    /// Fewer enrolled people are missed, more strangers get a name.
    Lenient,
}

impl Caution {
    /// All of them, the most cautious first.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Balanced, Self::Lenient];

    /// Which share of strangers may come out as known (false-positive identification rate of the
    /// line below).
    pub fn known_strangers(self) -> f64 {
        match self {
            Self::Strict => 0.001,
            Self::Balanced => 0.004,
            Self::Lenient => 0.01,
        }
    }

    /// Which share of strangers may get a name at all, known or uncertain.
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
        found.ok_or_else(|| format!("{text:?} is none of strict, balanced and lenient"))
    }
}

/// What a face is compared with where a person has several pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Templates {
    /// Each picture; the nearest counts.
    #[default]
    Nearest,
    /// The mean of those pictures that are alike.
    Mean,
}

/// What a pack says of distances.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// How distances are measured.
    pub metric: Metric,
    /// Two pictures of one person are nearer than this.
    pub threshold: f32,
    /// How far below the threshold a face must be to be known, where the lines do not follow the
    /// gallery.
    pub band_below: f32,
    /// How far above the threshold a face must be to be unknown, where the lines do not follow the
    /// gallery.
    pub band_above: f32,
    /// A known face whose second nearest person is nearer than this beyond the first is uncertain.
    pub min_margin: f32,
    /// A stranger's face joins the group of another one that is nearer than this. Default: at five
    /// sixths of the threshold.
    pub linking: Option<f32>,
    /// What a face is compared with.
    #[serde(default)]
    pub templates: Templates,
    /// Which share of the comparisons of two people's pictures (false match rate) is nearer than
    /// which distance: both fall from point to point. Without points the lines are the threshold's
    /// bands, whatever the gallery's size.
    #[serde(default)]
    pub curve: Vec<(f64, f32)>,
}

/// Where the lines between known, uncertain and unknown run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lines {
    /// The distance below which the nearest person is known, if that one is clearly the nearest.
    pub known_below: f32,
    /// The distance above which a face is unknown.
    pub unknown_above: f32,
    /// A known face whose second nearest person is nearer than this beyond the first is uncertain.
    pub min_margin: f32,
}

/// What a face is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// One person, clearly.
    Known,
    /// Perhaps this person; somebody should look.
    Uncertain,
    /// Nobody enrolled.
    Unknown,
}

/// The judgement on one face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What the face is taken for.
    pub outcome: Outcome,
    /// Who, unless unknown.
    pub person: Option<i64>,
    /// The distance of the nearest person, whatever the outcome; none if nobody is enrolled.
    pub distance: Option<f32>,
    /// How much further the second nearest person is; none if there is no second.
    pub margin: Option<f32>,
}

impl Matching {
    /// The lines for a gallery. A face is held against every enrolled picture, so a stranger is
    /// taken for one of them about as often as there are pictures times the false match rate: with
    /// more pictures the lines must lie lower for the same share of strangers. A mean of pictures
    /// is nearer to strangers than one picture, but counts as fewer than its pictures
    /// (models/benches/identification.md), so the number of pictures is on the safe side for both.
    pub fn lines(&self, caution: Caution, pictures: usize) -> Lines {
        let Self {
            threshold,
            band_below,
            band_above,
            min_margin,
            ..
        } = *self;
        if self.curve.is_empty() {
            return Lines {
                known_below: threshold - band_below,
                unknown_above: threshold + band_above,
                min_margin,
            };
        }
        let comparisons = pictures.max(FEWEST_COMPARISONS) as f64;
        let [known_below, unknown_above] = [caution.known_strangers(), caution.named_strangers()]
            .map(|share| self.distance_at(share / comparisons));
        Lines {
            known_below,
            unknown_above,
            min_margin,
        }
    }

    /// The same distances with a threshold of one's own, which follows no gallery.
    pub fn with_threshold(self, threshold: f32) -> Self {
        // A band as wide as the threshold would leave nothing to be known.
        Self {
            threshold,
            band_below: self.band_below.min(threshold / 2.0),
            curve: Vec::new(),
            ..self
        }
    }

    /// A stranger's face joins the group of another one that is nearer than this.
    pub fn linking_distance(&self) -> f32 {
        self.linking
            .unwrap_or_else(|| self.metric.at_share(5.0 / 6.0, self.threshold))
    }

    /// The distance on the curve, even between two points over the rate's logarithm; beyond the
    /// last point the last two go on, before the first it is the first's.
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

impl Lines {
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
        }
    }

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-5
    }

    #[test]
    fn without_a_curve_the_lines_are_the_bands_for_any_gallery() {
        for (caution, pictures) in [(Caution::Strict, 1), (Caution::Lenient, 10_000)] {
            let lines = matching(&[]).lines(caution, pictures);
            assert!(near(lines.known_below, 0.55) && near(lines.unknown_above, 0.63));
        }
    }

    #[test]
    fn the_lines_fall_as_the_gallery_grows_and_with_caution() {
        let matching = matching(&[(1e-3, 0.63), (1e-4, 0.57), (1e-5, 0.53)]);
        // Balanced: 4 in 1000 known, 20 in 1000 named. 200 pictures: rates of 2e-5 and 1e-4.
        let lines = matching.lines(Caution::Balanced, 200);
        assert!(
            near(lines.unknown_above, 0.57) && near(lines.known_below, 0.53 + 0.04 * 2_f32.log10())
        );
        // 40 000 pictures: 1e-7, two decades past the last point.
        assert!(near(
            matching.lines(Caution::Balanced, 40_000).known_below,
            0.45
        ));
        let sizes = [0, 20, 100, 1000, 100_000];
        let at = |caution, pictures| matching.lines(caution, pictures);
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
    fn a_threshold_of_ones_own_follows_no_gallery() {
        let own = matching(&[(1e-3, 0.63), (1e-4, 0.57)]).with_threshold(0.5);
        let lines = own.lines(Caution::Balanced, 1000);
        assert!(near(lines.known_below, 0.45) && near(lines.unknown_above, 0.53));
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
