//! Advice on the threshold, for galleries made by numbers.

use kith_vision::{Metric, Templates};

use super::*;

fn gallery(people: i64, pictures: i64) -> Gallery {
    let mut gallery = Gallery::new(Metric::Euclidean, 2);
    for person in 0..people {
        for picture in 0..pictures {
            let place = [1.0 + person as f32 * 0.5, picture as f32 * 0.25];
            gallery
                .push(person, person * pictures + picture, &place)
                .unwrap();
        }
    }
    gallery
}

fn matching(threshold: f32, curve: &[(f64, f32)]) -> Matching {
    let curve = curve.to_vec();
    let (band_below, band_above, min_margin) = (0.0, 0.0, 0.0);
    let templates = Templates::Nearest;
    Matching {
        metric: Metric::Euclidean,
        threshold,
        band_below,
        band_above,
        min_margin,
        linking: None,
        templates,
        curve,
        looks: Vec::new(),
    }
}

fn calibrate(gallery: &Gallery, threshold: f32) -> Calibration {
    super::calibrate(gallery, &matching(threshold, &[]), Caution::Balanced)
}

#[test]
fn lines_that_follow_the_gallery_are_said_with_its_size() {
    let matching = matching(0.6, &[(1e-3, 0.55), (1e-4, 0.35), (1e-5, 0.2)]);
    let said = super::calibrate(&gallery(10, 20), &matching, Caution::Balanced);
    assert_eq!(
        (said.caution, said.pictures, said.recommended),
        (Some(Caution::Balanced), 200, None)
    );
    assert!(
        (said.unknown_above - 0.35).abs() < 1e-5
            && said.known_below < 0.35
            && said.threshold == said.known_below
    );
    assert_eq!(
        (said.strangers_known, said.strangers_named),
        (Some(0.004), Some(0.02))
    );
    let words = "balanced: with 200 enrolled pictures a face is known below 0.25 and unknown above 0.35, so that of \
                 strangers about 2 % get a name and 0.4 % are known";
    assert_eq!(said.reason, words);
    let strict = super::calibrate(&gallery(10, 20), &matching, Caution::Strict);
    assert!(
        strict.unknown_above < said.unknown_above && strict.reason.starts_with("strict: with 200")
    );
}

#[test]
fn a_small_gallery_says_so_and_recommends_nothing() {
    for (people, pictures) in [(0, 0), (1, 20), (2, 3), (2, 20)] {
        let calibration = calibrate(&gallery(people, pictures), 0.6);
        assert_eq!((calibration.recommended, calibration.now), (None, None));
        assert!(
            calibration.reason.contains("too small to say"),
            "{}",
            calibration.reason
        );
        assert_eq!(calibration.bins.len(), calibration.genuine_share.len());
    }
}

/// A gallery that fits the threshold asks for none.
#[test]
fn a_gallery_of_close_people_asks_for_a_lower_threshold() {
    let gallery = gallery(5, 4);
    let calibration = calibrate(&gallery, 0.6);
    let recommended = calibration.recommended.unwrap();
    assert!(
        (0.25..0.5).contains(&recommended.threshold),
        "{recommended:?}"
    );
    assert!(calibration.now.unwrap().fmr > 0.0 && recommended.fmr == 0.0);
    assert!(
        calibration.reason.starts_with("lower: at 0.60"),
        "{}",
        calibration.reason
    );
    // Any threshold that does as well is kept.
    for present in [recommended.threshold, 0.3, 0.45] {
        let again = calibrate(&gallery, present);
        assert_eq!(again.recommended.unwrap().threshold, present);
        assert!(
            again.reason.starts_with("the threshold in use is right"),
            "{}",
            again.reason
        );
    }
    let higher = calibrate(&gallery, 0.1);
    assert!(
        higher
            .reason
            .starts_with("higher: at 0.10 100.00 % of the pairs of one"),
        "{}",
        higher.reason
    );
}

/// A replaced gallery is worked out anew.
#[test]
fn the_advice_is_worked_out_once_per_gallery() {
    let pack = kith_vision::Pack::load(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref(),
    );
    let matcher = crate::people::Matcher::new(&pack.unwrap(), Default::default());
    let (said, mut count) = (Said::<Option<u32>>::default(), 0);
    let mut ask = |snapshot: &Arc<Snapshot>| {
        said.of(snapshot, |said| {
            *said.get_or_insert_with(|| {
                count += 1;
                count
            })
        })
    };
    let first = matcher.snapshot();
    assert_eq!((ask(&first), ask(&matcher.snapshot())), (1, 1));
    matcher.replace(vec![], vec![]);
    assert_eq!((ask(&matcher.snapshot()), ask(&matcher.snapshot())), (2, 2));
}
