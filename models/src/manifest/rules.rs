//! The rules for the values of `pack.toml`, one for each key; an error names the rule that is
//! broken. The parent module reads the file and its checksums.

use std::fmt;
use std::path::Path;

use super::{DetectorSpec, Manifest, PackError};
use crate::device::Precision;
use crate::matching::Metric;
use crate::quality::KnownAgain;

impl Manifest {
    pub(super) fn check(&self) -> Result<(), PackError> {
        rule(
            "id",
            &self.id,
            !self.id.is_empty()
                && self
                    .id
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "letters, digits and hyphens",
        )?;
        rule(
            "description",
            &self.description,
            !self.description.trim().is_empty(),
            "one line of text",
        )?;
        for name in self.files() {
            if !self.sha256.contains_key(name) {
                return Err(PackError::Unlisted {
                    file: name.to_owned(),
                });
            }
        }
        for name in self.sha256.keys() {
            let plain = Path::new(name)
                .file_name()
                .is_some_and(|file| file == name.as_str());
            rule(
                "a file name",
                name,
                plain,
                "a name inside the pack's folder, without a path",
            )?;
        }
        self.check_detector()?;
        let side = self.alignment.size;
        rule(
            "alignment.size",
            side,
            (16..=1024).contains(&side),
            "between 16 and 1024",
        )?;
        let inside = |v: &f32| (0.0..=side as f32).contains(v);
        let template = &self.alignment.template;
        rule(
            "alignment.template",
            template,
            template.as_flattened().iter().all(inside),
            "five points on the crop",
        )?;
        self.check_recogniser()?;
        self.check_matching()
    }

    fn check_detector(&self) -> Result<(), PackError> {
        let probability = |v: f32| v > 0.0 && v < 1.0;
        let share = |name, v: f32| rule(name, v, probability(v), "between 0 and 1");
        let size = |v: usize| (1..=10_000).contains(&v);
        match &self.detector {
            DetectorSpec::Mtcnn(spec) => {
                rule(
                    "detector.min_face_px",
                    spec.min_face_px,
                    size(spec.min_face_px),
                    "between 1 and 10000",
                )?;
                rule(
                    "detector.thresholds",
                    spec.thresholds,
                    spec.thresholds.into_iter().all(probability),
                    "three numbers between 0 and 1",
                )?;
                share("detector.overlap", spec.overlap)?;
                share("detector.sure", spec.sure)?;
                share("detector.upright", spec.upright)?;
                rule(
                    "detector.pyramid_factor",
                    spec.pyramid_factor,
                    (0.3..=0.95).contains(&spec.pyramid_factor),
                    "between 0.3 and 0.95",
                )
            }
            DetectorSpec::Yunet(spec) => {
                rule(
                    "detector.min_face_px",
                    spec.min_face_px,
                    size(spec.min_face_px),
                    "between 1 and 10000",
                )?;
                let fits = |side: &usize| *side > 0 && *side <= 4096 && side.is_multiple_of(32);
                rule(
                    "detector.input",
                    spec.input,
                    spec.input.iter().all(fits),
                    "height and width, multiples of 32 up to 4096",
                )?;
                share("detector.score_threshold", spec.score_threshold)?;
                share("detector.sure", spec.sure)?;
                share("detector.upright", spec.upright)?;
                share("detector.nms_iou", spec.nms_iou)
            }
        }
    }

    fn check_recogniser(&self) -> Result<(), PackError> {
        let recogniser = &self.recogniser;
        let mean = recogniser.mean;
        rule(
            "recogniser.mean",
            mean,
            mean.iter().all(|v| v.is_finite()),
            "three finite numbers",
        )?;
        rule(
            "recogniser.scale",
            recogniser.scale,
            recogniser.scale.is_finite() && recogniser.scale > 0.0,
            "above 0",
        )?;
        let dimension = recogniser.dimension;
        rule(
            "recogniser.dimension",
            dimension,
            (2..=4096).contains(&dimension),
            "between 2 and 4096",
        )?;
        let each =
            [&recogniser.float32, &recogniser.float16, &recogniser.int8].map(Option::is_some);
        rule(
            "recogniser",
            "a table with other files",
            each[0] != recogniser.stored.is_some() && (each[0] || each == [false; 3]),
            "one with stored alone, or with float32 and perhaps float16 and int8",
        )?;
        // The default applies to processors, and few of them have float16 arithmetic.
        let default = recogniser.default_precision;
        rule(
            "recogniser.default_precision",
            default,
            default != Precision::Float16 && recogniser.file(default).is_some(),
            "float32 or int8, and the pack must have a network for it",
        )?;
        if let Some(cohort) = &recogniser.cohort {
            let lengths_count = recogniser.normalise && self.matching.metric == Metric::Euclidean;
            let rest = "used with normalise = true and the metric euclidean, because it works by the length of embeddings";
            rule("recogniser.cohort", "there", lengths_count, rest)?;
            rule(
                "recogniser.cohort.typical",
                cohort.typical,
                cohort.typical.abs() <= 1.0,
                "between -1 and 1",
            )?;
            let strength = cohort.strength;
            rule(
                "recogniser.cohort.strength",
                strength,
                strength > 0.0 && strength <= 20.0,
                "above 0, at most 20",
            )?;
        }
        for (key, reference) in [
            ("self_test.embedding", &self.self_test.embedding),
            ("self_test.mirrored", &self.self_test.mirrored),
        ] {
            let length = reference.len();
            rule(
                key,
                format!("{length} numbers long"),
                length == dimension,
                "as long as recogniser.dimension",
            )?;
            let sound = crate::embedding::check_embedding(reference, dimension).is_ok();
            rule(
                key,
                "not a usable embedding",
                sound,
                "finite and not all zero",
            )?;
        }
        let tolerance = self.self_test.tolerance;
        let positive = |v: f32| v.is_finite() && v > 0.0;
        rule(
            "self_test.tolerance.float32",
            tolerance.float32,
            positive(tolerance.float32),
            "above 0",
        )?;
        let needed = |precision, value: Option<f32>| {
            recogniser.file(precision).is_none() || value.is_some_and(positive)
        };
        rule(
            "self_test.tolerance.float16",
            tolerance.float16,
            needed(Precision::Float16, tolerance.float16),
            "above 0 where the pack has a float16 recogniser",
        )?;
        rule(
            "self_test.tolerance.int8",
            tolerance.int8,
            needed(Precision::Int8, tolerance.int8),
            "above 0 where the pack has an int8 recogniser",
        )
    }

    fn check_matching(&self) -> Result<(), PackError> {
        let matching = &self.matching;
        let not_negative = |v: f32| v.is_finite() && v >= 0.0;
        let largest = if matching.metric == Metric::Cosine {
            2.0
        } else {
            f32::MAX
        };
        rule(
            "matching.threshold",
            matching.threshold,
            matching.threshold > 0.0 && matching.threshold <= largest,
            "above 0 (and at most 2 for cosine)",
        )?;
        let below = matching.band_below;
        rule(
            "matching.band_below",
            below,
            not_negative(below) && below < matching.threshold,
            "from 0 to below the threshold",
        )?;
        rule(
            "matching.band_above",
            matching.band_above,
            not_negative(matching.band_above),
            "0 or more",
        )?;
        rule(
            "matching.min_margin",
            matching.min_margin,
            not_negative(matching.min_margin),
            "0 or more",
        )?;
        let linking = matching.linking_distance();
        rule(
            "matching.linking",
            linking,
            linking > 0.0 && linking <= largest,
            "above 0 (and at most 2 for cosine)",
        )?;
        let points = &matching.curve;
        let sound = points
            .iter()
            .all(|(rate, distance)| *rate > 0.0 && *rate < 1.0 && *distance > 0.0);
        let falls = points.is_sorted_by(|a, b| a.0 > b.0 && a.1 > b.1);
        rule(
            "matching.curve",
            points,
            points.len() != 1 && sound && falls,
            "two or more points [false match rate, distance], both falling from point to point, rates below 1, all above 0",
        )?;
        let looks = &matching.looks;
        let rises = |a: &(u32, f32), b: &(u32, f32)| a.0 < b.0 && a.1 <= b.1;
        rule(
            "matching.looks",
            looks,
            looks
                .iter()
                .all(|(count, nearer)| *count > 1 && not_negative(*nearer))
                && looks.is_sorted_by(rises),
            "points [number of looks, distance], numbers above 1 and rising, distances 0 or more and not falling",
        )?;
        let limits = &self.quality;
        rule(
            "quality.min_size_px",
            limits.min_size_px,
            not_negative(limits.min_size_px),
            "0 or more",
        )?;
        rule(
            "quality.max_cut",
            limits.max_cut,
            limits.max_cut > 0.0 && limits.max_cut <= 1.0,
            "above 0, at most 1",
        )?;
        rule(
            "quality.min_brightness",
            limits.min_brightness,
            not_negative(limits.min_brightness),
            "0 or more",
        )?;
        rule(
            "quality.min_sharpness",
            limits.min_sharpness,
            not_negative(limits.min_sharpness),
            "0 or more",
        )?;
        rule(
            "quality.max_yaw",
            limits.max_yaw,
            limits.max_yaw > 0.0,
            "above 0",
        )?;
        let curve = limits.known_again.as_ref();
        rule(
            "quality.known_again",
            curve,
            curve.is_none_or(KnownAgain::is_curve),
            "as many shares from 0 to 1 as lengths, two at least, both rising",
        )?;
        rule(
            "quality.known_from",
            limits.known_from,
            (0.0..1.0).contains(&limits.known_from),
            "from 0 to below 1",
        )
    }
}

fn rule(
    key: &str,
    value: impl fmt::Debug,
    holds: bool,
    rule: &'static str,
) -> Result<(), PackError> {
    if holds {
        Ok(())
    } else {
        Err(PackError::Value {
            key: key.to_owned(),
            value: format!("{value:?}"),
            rule,
        })
    }
}
