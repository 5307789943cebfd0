//! What the gallery says of itself: remarks on its pictures, and the threshold it recommends. In words and numbers for
//! page, API and command line; the sums are `kith_vision::calibration`'s.

use std::sync::Arc;

use kith_vision::Gallery;
use kith_vision::calibration::{Distances, LEAST_GENUINE, LEAST_IMPOSTORS, Rates, Remark, remarks};

use super::ReadyWatch;
use crate::desk::{Calibration, CalibrationPoint, GalleryDesk, PictureRemark};

/// How far a recommendation must be from the threshold in use to be worth a change.
const WORTH: f32 = 0.01;

/// The gallery in memory, once it is up.
pub fn gallery_desk(ready: ReadyWatch) -> Arc<dyn Fn() -> Option<GalleryDesk> + Send + Sync> {
    Arc::new(move || {
        let up = ready.borrow().clone()?;
        let threshold = up.matcher.matching().threshold;
        let calibrated = Arc::clone(&up);
        Some(GalleryDesk {
            threshold,
            remarks: Arc::new(move |person| {
                let snapshot = up.matcher.snapshot();
                let in_words = |remark| match remark {
                    Remark::Redundant { like, distance } => PictureRemark::Redundant { like, distance },
                    Remark::Outlier { distance } => PictureRemark::Outlier { distance },
                    Remark::LooksLike { person, distance } => PictureRemark::LooksLike {
                        person_id: person,
                        name: snapshot.name(person).unwrap_or_default().into(),
                        distance,
                    },
                };
                let said = remarks(snapshot.gallery(), person, threshold);
                said.into_iter().map(|(picture, remark)| (picture, in_words(remark))).collect()
            }),
            calibration: Arc::new(move || calibrate(calibrated.matcher.snapshot().gallery(), threshold)),
        })
    })
}

/// What a gallery says about the threshold.
pub fn calibrate(gallery: &Gallery, threshold: f32) -> Calibration {
    let distances = Distances::of(gallery);
    let enough = distances.suffice();
    let recommended = distances.recommended();
    Calibration {
        people: gallery.people(),
        pictures: gallery.len(),
        genuine: distances.genuine_pairs,
        impostors: distances.impostor_pairs,
        threshold,
        now: enough.then(|| point(distances.rates(threshold))),
        recommended: recommended.map(point),
        reason: reason(&distances, gallery.people(), threshold, recommended),
        bins: distances.edges().collect(),
        genuine_share: distances.histogram(&distances.genuine),
        impostor_share: distances.histogram(&distances.impostors),
        curve: distances.curve().into_iter().map(point).collect(),
    }
}

fn reason(distances: &Distances, people: usize, threshold: f32, recommended: Option<Rates>) -> String {
    let Some(Rates { threshold: better, fmr, fnmr }) = recommended else {
        let (genuine, impostors) = (distances.genuine_pairs, distances.impostor_pairs);
        return format!(
            "the gallery is too small to say: {people} people give {genuine} pairs of one person and {impostors} of two, \
             and at least {LEAST_GENUINE} and {LEAST_IMPOSTORS} are needed; enrol more people with several pictures each"
        );
    };
    let what = format!(
        "at {better:.2} {:.2} % of the pairs of two people would pass and {:.2} % of those of one person would not",
        100.0 * fmr,
        100.0 * fnmr
    );
    let few = if distances.impostor_pairs < 1000 || distances.genuine_pairs < 100 {
        "; with so few pairs take it as a hint: more people and pictures make it sure"
    } else {
        ""
    };
    if (better - threshold).abs() < WORTH {
        format!("the threshold in use is right for this gallery: {what}{few}")
    } else {
        let side =
            if better < threshold { "lower, strangers look too much alike" } else { "higher, people are missed" };
        format!("{side} at {threshold:.2}: {what}{few}")
    }
}

fn point(rates: Rates) -> CalibrationPoint {
    CalibrationPoint { threshold: rates.threshold, fmr: rates.fmr, fnmr: rates.fnmr }
}

#[cfg(test)]
mod tests {
    use kith_vision::Metric;

    use super::*;

    fn gallery(people: i64, pictures: i64) -> Gallery {
        let mut gallery = Gallery::new(Metric::Euclidean, 2);
        for person in 0..people {
            for picture in 0..pictures {
                let place = person as f32 * 0.5 + picture as f32 * 0.01;
                gallery.push(person, person * pictures + picture, &[place, 1.0]).unwrap();
            }
        }
        gallery
    }

    #[test]
    fn a_small_gallery_says_so_and_recommends_nothing() {
        for (people, pictures) in [(0, 0), (1, 20), (2, 3)] {
            let calibration = calibrate(&gallery(people, pictures), 0.6);
            assert_eq!((calibration.recommended, calibration.now), (None, None));
            assert!(calibration.reason.contains("too small to say"), "{}", calibration.reason);
            assert_eq!(calibration.bins.len(), calibration.genuine_share.len());
        }
    }

    #[test]
    fn a_gallery_whose_people_are_nearer_than_the_threshold_asks_for_a_lower_one_and_one_that_fits_for_none() {
        let gallery = gallery(5, 4);
        let calibration = calibrate(&gallery, 0.6);
        let recommended = calibration.recommended.unwrap();
        assert!((0.03..0.5).contains(&recommended.threshold), "{recommended:?}");
        assert!(calibration.now.unwrap().fmr > 0.0 && recommended.fmr == 0.0);
        assert!(calibration.reason.starts_with("lower"), "{}", calibration.reason);
        let again = calibrate(&gallery, recommended.threshold);
        assert!(again.reason.starts_with("the threshold in use is right"), "{}", again.reason);
    }
}
