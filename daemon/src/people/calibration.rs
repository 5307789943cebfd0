//! Calibration by the gallery: remarks on its pictures, and the recommended threshold. Words and
//! numbers for page, API and command line; `kith_vision::calibration` has the mathematics.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use kith_vision::calibration::{
    Distances, LEAST_GENUINE, LEAST_IMPOSTORS, LEAST_PEOPLE, Rates, Remark, remarks,
};
use kith_vision::{Caution, Gallery, Limits, Matching};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::domain::PersonId;
use crate::people::People;
use crate::people::matcher::Snapshot;

/// Smallest difference from the threshold in use that is worth a recommendation.
const WORTH: f32 = 0.01;

/// Remark on one enrolled picture, compared with all others.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "remark")]
pub enum PictureRemark {
    /// The picture is so similar to another of the same person that it adds nothing.
    Redundant {
        /// Number of the other picture.
        like: i64,
        /// Distance between the two.
        distance: f32,
    },
    /// The picture is far from all others of the same person.
    Outlier {
        /// Distance to the nearest of them.
        distance: f32,
    },
    /// The picture is nearer to another person than two people should be.
    LooksLike {
        /// Number of the other person.
        person_id: PersonId,
        /// Name of the other person.
        name: String,
        /// Distance to their nearest picture.
        distance: f32,
    },
}

/// A point of the calibration curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CalibrationPoint {
    /// Threshold: pairs nearer than this pass.
    pub threshold: f32,
    /// Share of pairs of two people that pass (false match rate).
    pub fmr: f64,
    /// Share of pairs of one person that do not pass (false non-match rate).
    pub fnmr: f64,
}

/// Calibration of the threshold by the gallery.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Calibration {
    /// People with an enrolled picture.
    pub people: usize,
    /// Enrolled pictures.
    pub pictures: usize,
    /// Pairs of pictures of one person.
    pub genuine: usize,
    /// Pairs of pictures of two people.
    pub impostors: usize,
    /// Threshold in use. If the limits follow the gallery's size, the distance below which a face
    /// is known.
    pub threshold: f32,
    /// Chosen share of strangers who may get a name; `None` if the operator or the pack fixes the
    /// threshold.
    #[schema(value_type = Option<String>)]
    pub caution: Option<Caution>,
    /// A face nearer than this to a person is known…
    pub known_below: f32,
    /// …and a face farther than this from everybody is unknown.
    pub unknown_above: f32,
    /// Expected share of strangers who are taken for a known person, 0 to 1; only with `caution`.
    pub strangers_known: Option<f64>,
    /// Expected share of strangers who get a name, known or uncertain; only with `caution`.
    pub strangers_named: Option<f64>,
    /// False match and false non-match rates at the threshold in use; `None` if there are too few
    /// pairs.
    pub now: Option<CalibrationPoint>,
    /// Recommended threshold with its rates; `None` if the gallery is too small.
    pub recommended: Option<CalibrationPoint>,
    /// Reason of the recommendation, or of its absence, as a sentence.
    pub reason: String,
    /// Upper edge of each bin of the two histograms.
    pub bins: Vec<f32>,
    /// Share of the genuine pairs in each bin.
    pub genuine_share: Vec<f64>,
    /// Share of the impostor pairs in each bin.
    pub impostor_share: Vec<f64>,
    /// Rates by threshold.
    pub curve: Vec<CalibrationPoint>,
}

/// Results of comparing the whole gallery, cached until the gallery changes.
#[derive(Default)]
pub struct Cache {
    remarks: Said<HashMap<PersonId, Vec<(i64, PictureRemark)>>>,
    calibration: Said<Option<Calibration>>,
}

/// Permit to compare a whole gallery, so that many callers do not load every core.
static COMPARING: Semaphore = Semaphore::const_new(1);

impl People {
    /// Returns the distance below which two pictures are of one person; `None` until the gallery is
    /// loaded.
    pub fn threshold(&self) -> Option<f32> {
        let matcher = self.matcher().ok()?;
        Some(matcher.matching().threshold)
    }

    /// Returns the remarks on a person's enrolled pictures, by the picture's row; pictures without
    /// a remark are left out. Empty until the gallery is loaded.
    pub async fn remarks(&self, person: PersonId) -> Vec<(i64, PictureRemark)> {
        let Ok(matcher) = self.matcher() else {
            return Vec::new();
        };
        // The semaphore is never closed.
        let _turn = COMPARING.acquire().await;
        let cache = Arc::clone(&self.calibrated);
        let comparing = move || {
            let (snapshot, threshold) = (matcher.snapshot(), matcher.matching().threshold);
            cache.remarks.of(&snapshot, |said| {
                said.entry(person)
                    .or_insert_with(|| in_words(&snapshot, person, threshold))
                    .clone()
            })
        };
        tokio::task::spawn_blocking(comparing)
            .await
            .unwrap_or_default()
    }

    /// Returns the calibration of the gallery; `None` until it is loaded.
    pub async fn calibration(&self) -> Option<Calibration> {
        let matcher = self.matcher().ok()?;
        // The semaphore is never closed.
        let _turn = COMPARING.acquire().await;
        let cache = Arc::clone(&self.calibrated);
        let comparing = move || {
            let snapshot = matcher.snapshot();
            cache.calibration.of(&snapshot, |said| {
                let (matching, caution) = (matcher.matching(), matcher.caution());
                said.get_or_insert_with(|| calibrate(snapshot.gallery(), matching, caution))
                    .clone()
            })
        };
        tokio::task::spawn_blocking(comparing).await.ok()
    }
}

/// A value computed from the current gallery. It does not keep a replaced gallery in memory.
/// Concurrent callers wait, so that it is computed once.
#[derive(Default)]
struct Said<T>(Mutex<(Weak<Snapshot>, T)>);

impl<T: Default> Said<T> {
    fn of<R>(&self, snapshot: &Arc<Snapshot>, ask: impl FnOnce(&mut T) -> R) -> R {
        let mut said = self.0.lock();
        let of = Arc::downgrade(snapshot);
        if !said.0.ptr_eq(&of) {
            *said = (of, T::default());
        }
        ask(&mut said.1)
    }
}

fn in_words(snapshot: &Snapshot, person: PersonId, threshold: f32) -> Vec<(i64, PictureRemark)> {
    let in_words = |remark| match remark {
        Remark::Redundant { like, distance } => PictureRemark::Redundant { like, distance },
        Remark::Outlier { distance } => PictureRemark::Outlier { distance },
        Remark::LooksLike { person, distance } => PictureRemark::LooksLike {
            person_id: person,
            name: snapshot.name(person).unwrap_or_default().into(),
            distance,
        },
    };
    // In a large gallery other people are often as near as two pictures of one person may be.
    let named_below = threshold.min(snapshot.limits().unknown_above);
    let said = remarks(snapshot.gallery(), person, threshold, named_below);
    said.into_iter()
        .map(|(picture, remark)| (picture, in_words(remark)))
        .collect()
}

/// Calibrates the threshold by a gallery, or the limits that follow its size.
pub fn calibrate(gallery: &Gallery, matching: &Matching, caution: Caution) -> Calibration {
    let follows = !matching.curve.is_empty();
    let limits = matching.limits(caution, gallery.len(), 1);
    let threshold = if follows {
        limits.known_below
    } else {
        matching.threshold
    };
    let distances = Distances::of(gallery, matching.threshold);
    let enough = distances.suffice();
    let now = distances.rates(threshold);
    // The curve comes from far more people than a gallery has pairs for.
    let better = if follows {
        None
    } else {
        distances.recommended(threshold)
    };
    let recommended = better.map(|better| {
        if (better.threshold - threshold).abs() < WORTH {
            now
        } else {
            better
        }
    });
    let reason = if follows {
        follows_the_gallery(&distances, gallery.len(), caution, limits)
    } else {
        reason(&distances, gallery.people(), now, recommended)
    };
    Calibration {
        people: gallery.people(),
        pictures: gallery.len(),
        genuine: distances.genuine_pairs,
        impostors: distances.impostor_pairs,
        threshold,
        now: enough.then(|| point(now)),
        recommended: recommended.map(point),
        caution: follows.then_some(caution),
        known_below: limits.known_below,
        unknown_above: limits.unknown_above,
        strangers_known: follows.then(|| caution.known_strangers()),
        strangers_named: follows.then(|| caution.named_strangers()),
        reason,
        bins: distances.edges().collect(),
        genuine_share: distances.histogram(&distances.genuine),
        impostor_share: distances.histogram(&distances.impostors),
        curve: distances.curve().into_iter().map(point).collect(),
    }
}

/// Explains limits that follow the gallery's size, and whether its people are more alike than
/// others.
fn follows_the_gallery(
    distances: &Distances,
    pictures: usize,
    caution: Caution,
    limits: Limits,
) -> String {
    let Limits {
        known_below,
        unknown_above,
        ..
    } = limits;
    let share = |share: f64| format!("{} %", (1000.0 * share).round() / 10.0);
    let (known, named) = (
        share(caution.known_strangers()),
        share(caution.named_strangers()),
    );
    let said = format!(
        "{caution}: with {pictures} enrolled pictures a face is known below {known_below:.2} and unknown above \
         {unknown_above:.2}, so that of strangers about {named} get a name and {known} are known"
    );
    let alike = distances
        .impostors
        .iter()
        .filter(|distance| **distance < known_below)
        .count();
    match alike {
        0 => said,
        1 => format!(
            "{said}; 1 pair of pictures of two enrolled people is nearer than that: see who they are"
        ),
        _ => format!(
            "{said}; {alike} pairs of pictures of two enrolled people are nearer than that: see who they are"
        ),
    }
}

fn reason(distances: &Distances, people: usize, now: Rates, recommended: Option<Rates>) -> String {
    let Some(Rates {
        threshold: better,
        fmr,
        fnmr,
    }) = recommended
    else {
        let (genuine, impostors) = (distances.genuine.len(), distances.impostor_pairs);
        return format!(
            "the gallery is too small to say: {people} people give {genuine} pairs of one person that differ, of {} people, \
             and {impostors} of two; at least {LEAST_GENUINE}, of {LEAST_PEOPLE} people, and {LEAST_IMPOSTORS} are needed; \
             enrol more people with several different pictures each",
            distances.people
        );
    };
    let what = format!(
        "at {better:.2} {:.2} % of the pairs of two people would pass and {:.2} % of those of one person would not",
        100.0 * fmr,
        100.0 * fnmr
    );
    let few = if distances.impostor_pairs < 1000 || distances.genuine.len() < 100 {
        "; with so few pairs take it as a hint: more people and pictures make it sure"
    } else {
        ""
    };
    let present = now.threshold;
    if better == present {
        format!("the threshold in use is right for this gallery: {what}{few}")
    } else if fmr < now.fmr {
        format!(
            "lower: at {present:.2} {:.2} % of the pairs of two people pass; {what}{few}",
            100.0 * now.fmr
        )
    } else {
        format!(
            "higher: at {present:.2} {:.2} % of the pairs of one person are missed; {what}{few}",
            100.0 * now.fnmr
        )
    }
}

fn point(rates: Rates) -> CalibrationPoint {
    CalibrationPoint {
        threshold: rates.threshold,
        fmr: rates.fmr,
        fnmr: rates.fnmr,
    }
}

#[cfg(test)]
mod tests;
