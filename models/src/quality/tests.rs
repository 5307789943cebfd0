//! Scores, objections and measurements of faces made here.

use super::*;

const LIMITS: QualityLimits = QualityLimits {
    min_size_px: 48.0,
    max_cut: 0.2,
    min_brightness: 20.0,
    min_sharpness: 0.025,
    max_yaw: 0.36,
    known_from: 0.67,
    known_again: None,
};

fn good() -> Quality {
    Quality {
        detector: 1.0,
        size_px: 110.0,
        cut: 0.0,
        brightness: 120.0,
        sharpness: 0.2,
        yaw: 0.0,
        pitch: 0.0,
        roll_degrees: 0.0,
        score: 0.99,
    }
}

#[test]
fn each_limit_has_its_reason_and_a_good_face_has_none() {
    assert_eq!(good().objection(&LIMITS), None);
    for (quality, reason) in [
        (
            Quality {
                size_px: 47.0,
                ..good()
            },
            "too small",
        ),
        (
            Quality {
                cut: 0.21,
                ..good()
            },
            "cut by the edge",
        ),
        (
            Quality {
                brightness: 19.0,
                ..good()
            },
            "too dark",
        ),
        (
            Quality {
                sharpness: 0.02,
                ..good()
            },
            "too blurred",
        ),
        (
            Quality {
                yaw: -0.4,
                ..good()
            },
            "turned away",
        ),
        (
            Quality {
                score: 0.6,
                ..good()
            },
            "too poor in all",
        ),
    ] {
        assert_eq!(
            quality
                .objection(&LIMITS)
                .map(|objection| objection.reason()),
            Some(reason)
        );
    }
}

#[test]
fn a_face_too_poor_to_be_known_says_what_is_the_worst_of_it() {
    let face = Quality {
        pitch: 0.5,
        detector: 0.9,
        score: 0.44,
        ..good()
    };
    let sentence = face.objection(&LIMITS).unwrap().to_string();
    assert_eq!(
        sentence,
        "The face is too poor to identify anyone: its quality is 0.44, at least 0.67 is needed. Above all, it is turned away."
    );
}

#[test]
fn the_share_known_again_lies_on_the_packs_curve() {
    let curve = KnownAgain {
        lengths: vec![6.0, 8.0, 12.0],
        shares: vec![0.1, 0.5, 0.9],
    };
    assert!(curve.is_curve());
    for (length, share) in [
        (0.0, 0.1),
        (6.0, 0.1),
        (7.0, 0.3),
        (8.0, 0.5),
        (9.0, 0.6),
        (12.0, 0.9),
        (30.0, 0.9),
    ] {
        assert!(
            (curve.share(length) - share).abs() < 1e-6,
            "{length}: {}",
            curve.share(length)
        );
    }
    assert!(
        !KnownAgain {
            lengths: vec![6.0, 6.0],
            ..curve.clone()
        }
        .is_curve()
    );
    assert!(
        !KnownAgain {
            shares: vec![0.1, 0.5, 0.4],
            ..curve
        }
        .is_curve()
    );
}

#[test]
fn with_a_curve_limits_only_say_why_a_face_is_refused() {
    let curve = KnownAgain {
        lengths: vec![6.0, 12.0],
        shares: vec![0.0, 1.0],
    };
    let limits = QualityLimits {
        known_again: Some(curve),
        ..LIMITS
    };
    let small = Quality {
        size_px: 40.0,
        ..good()
    };
    assert_eq!(small.objection(&limits), None);
    let small = Quality {
        score: 0.5,
        ..small
    };
    assert_eq!(
        small.objection(&limits).map(|objection| objection.reason()),
        Some("too small")
    );
    let covered = Quality {
        score: 0.5,
        ..good()
    }
    .objection(&limits)
    .unwrap();
    assert_eq!(covered.reason(), "covered or unusual");
    assert!(
        covered
            .to_string()
            .contains("it may be covered by a mask, sunglasses, hair or a hand"),
        "{covered}"
    );
    // Too near to a limit to be called covered.
    for doubtful in [
        Quality {
            sharpness: 0.03,
            ..good()
        },
        Quality {
            cut: 0.15,
            ..good()
        },
        Quality {
            brightness: 25.0,
            ..good()
        },
    ] {
        let doubtful = Quality {
            score: 0.5,
            ..doubtful
        }
        .objection(&limits)
        .unwrap();
        assert_eq!(doubtful.reason(), "too poor in all");
        assert!(
            doubtful.to_string().ends_with("Use another picture."),
            "{doubtful}"
        );
    }
}

#[test]
fn more_of_anything_bad_never_makes_a_face_better() {
    type Worsen = fn(&mut Quality, f32);
    let ways: [(Part, Worsen); 7] = [
        (Part::Detector, |quality, by| quality.detector = 1.0 - by),
        (Part::Size, |quality, by| {
            quality.size_px = 110.0 * (1.0 - by);
        }),
        (Part::Edge, |quality, by| quality.cut = by),
        (Part::Light, |quality, by| {
            quality.brightness = 120.0 * (1.0 - by);
        }),
        (Part::Sharpness, |quality, by| {
            quality.sharpness = 0.2 * (1.0 - by);
        }),
        (Part::Pose, |quality, by| quality.yaw = -2.0 * by),
        (Part::Pose, |quality, by| quality.pitch = by),
    ];
    for (part, worsen) in ways {
        let at = |by: f32| {
            let mut quality = good();
            worsen(&mut quality, by);
            quality.part(part)
        };
        let values: Vec<f32> = (0..=10).map(|step| at(step as f32 / 10.0)).collect();
        assert!(values.is_sorted_by(|a, b| a >= b), "{part:?}: {values:?}");
        assert!(
            values[0] > 0.99 && values[10] < 0.25,
            "{part:?}: {values:?}"
        );
    }
}

#[test]
fn the_share_beyond_the_edge_is_that_of_the_box() {
    let bounds = |left, top| Bounds {
        left,
        top,
        right: left + 10.0,
        bottom: top + 20.0,
    };
    assert_eq!(beyond(bounds(0.0, 0.0), 10.0, 20.0), 0.0);
    assert_eq!(beyond(bounds(-5.0, 0.0), 100.0, 100.0), 0.5);
    assert_eq!(beyond(bounds(95.0, 90.0), 100.0, 100.0), 0.75);
    assert_eq!(beyond(bounds(200.0, 0.0), 100.0, 100.0), 1.0);
}

#[test]
fn brightness_is_that_of_the_middle() {
    let mut crop = Rgb {
        width: 64,
        height: 64,
        pixels: vec![200; 3 * 64 * 64],
    };
    for y in 16..48 {
        crop.pixels[3 * (64 * y + 16)..3 * (64 * y + 48)].fill(30);
    }
    assert!(
        (brightness(&grey(&crop)) - 30.0).abs() < 0.5,
        "{}",
        brightness(&grey(&crop))
    );
}
