//! The quality of a face, for enrolment and for being known: its size, the part cut off by the
//! picture's edge, light, sharpness, pose and, if the pack has a curve for it, the length of the
//! embedding. Says what is wrong with a face; the caller decides whether to refuse it.

mod measure;

use std::fmt;

use serde::Deserialize;

use self::measure::{beyond, brightness, grey, pose, sharpness};
use crate::{Bounds, Rgb};

/// Limits for enrolment pictures, and for faces to be known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityLimits {
    /// Smallest face, in pixels of the picture.
    pub min_size_px: f32,
    /// Largest [`Quality::cut`].
    pub max_cut: f32,
    /// Smallest [`Quality::brightness`].
    pub min_brightness: f32,
    /// Smallest [`Quality::sharpness`].
    pub min_sharpness: f32,
    /// Largest [`Quality::yaw`] to either side.
    pub max_yaw: f32,
    /// Smallest [`Quality::score`] of a face that may be known or enrolled.
    pub known_from: f32,
    /// Curve that the score is taken from, if the pack has it. The score alone decides then, and
    /// the other limits only explain.
    pub known_again: Option<KnownAgain>,
}

/// The share of faces that are known again, by the length of the embedding before normalisation: a
/// rising curve, linear between its points.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAgain {
    /// Lengths, in ascending order.
    pub lengths: Vec<f32>,
    /// Share for each length, from 0 to 1.
    pub shares: Vec<f32>,
}

impl KnownAgain {
    /// Tells whether the points make a rising curve.
    pub(crate) fn is_curve(&self) -> bool {
        let Self { lengths, shares } = self;
        lengths.len() == shares.len()
            && lengths.len() >= 2
            && lengths.iter().all(|length| length.is_finite())
            && lengths.is_sorted_by(|a, b| a < b)
            && shares.iter().all(|share| (0.0..=1.0).contains(share))
            && shares.is_sorted()
    }

    /// Returns the share for an embedding of this length; beyond the ends, that of the end.
    pub(crate) fn share(&self, length: f32) -> f32 {
        let next = self.lengths.partition_point(|at| *at <= length);
        let (Some(from), Some(to)) = (next.checked_sub(1), self.lengths.get(next)) else {
            let end = if next == 0 {
                self.shares.first()
            } else {
                self.shares.last()
            };
            return end.copied().unwrap_or_default();
        };
        let (low, high) = (self.shares[from], self.shares[next]);
        low + (high - low) * (length - self.lengths[from]) / (to - self.lengths[from])
    }
}

/// Measurements of one face from its box, landmarks and crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Score of the detector, from 0 to 1.
    pub detector: f32,
    /// Side of the square with the area of the face's box, in pixels of the picture.
    pub size_px: f32,
    /// Share of the face's box beyond the picture's edges.
    pub cut: f32,
    /// Mean grey level in the middle of the face, from 0 to 255.
    pub brightness: f32,
    /// Fine detail relative to contrast; see `sharpness`.
    pub sharpness: f32,
    /// Sideways distance of the nose from the face's middle in eye distances: 0 from the front,
    /// positive when the nose is to the right in the picture.
    pub yaw: f32,
    /// Height of the nose below its usual place, as a share of the height from eyes to mouth.
    pub pitch: f32,
    /// Clockwise rotation of the line through the eyes.
    pub roll_degrees: f32,
    /// Overall quality from 0 to 1: about the share of such faces that are known again. Taken from
    /// the pack's [`KnownAgain`]; without one, the product of the [`Part`]s, which is 1 for a
    /// flawless face.
    pub score: f32,
}

/// A factor of [`Quality::score`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Score of the detector.
    Detector,
    /// Size of the face.
    Size,
    /// Share of the face within the picture.
    Edge,
    /// Brightness.
    Light,
    /// Sharpness.
    Sharpness,
    /// Pose: yaw and pitch.
    Pose,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 6] = [
        Self::Detector,
        Self::Size,
        Self::Edge,
        Self::Light,
        Self::Sharpness,
        Self::Pose,
    ];

    /// Returns the name, in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detector => "detector",
            Self::Size => "size",
            Self::Edge => "edge",
            Self::Light => "light",
            Self::Sharpness => "sharpness",
            Self::Pose => "pose",
        }
    }

    /// Describes a face that is poor in this part, as a clause for the operator.
    fn flaw(self) -> &'static str {
        match self {
            Self::Detector => "it may be no face at all",
            Self::Size => "it is small",
            Self::Edge => "it is cut by the picture's edge",
            Self::Light => "it is dark",
            Self::Sharpness => "it is blurred",
            Self::Pose => "it is turned away",
        }
    }
}

/// The first reason why a picture is unfit for enrolment. Prints as a sentence for the operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objection {
    /// Too few pixels.
    TooSmall {
        /// Size of the face.
        size_px: f32,
        /// The limit.
        min_size_px: f32,
    },
    /// Not completely in the picture.
    CutByEdge {
        /// The share outside.
        cut: f32,
        /// The limit.
        max_cut: f32,
    },
    /// Too little light.
    TooDark {
        /// Brightness of the face.
        brightness: f32,
        /// The limit.
        min_brightness: f32,
    },
    /// Out of focus, moved, or enlarged from a smaller picture.
    TooBlurred {
        /// Sharpness of the face.
        sharpness: f32,
        /// The limit.
        min_sharpness: f32,
    },
    /// Not seen from the front.
    TurnedAway {
        /// Yaw of the face.
        yaw: f32,
        /// The limit.
        max_yaw: f32,
    },
    /// No single limit is broken, but the score is too low.
    TooPoor {
        /// Score of the face.
        score: f32,
        /// The limit.
        known_from: f32,
        /// The part that takes the most away, of a score made of parts.
        worst: Option<Part>,
    },
    /// Nothing measured is near its limit, and still the recogniser makes little of the face.
    Covered {
        /// The face's score.
        score: f32,
        /// The limit.
        known_from: f32,
    },
}

impl Objection {
    /// Returns the reason in a few words, the same for all faces.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "too small",
            Self::CutByEdge { .. } => "cut by the edge",
            Self::TooDark { .. } => "too dark",
            Self::TooBlurred { .. } => "too blurred",
            Self::TurnedAway { .. } => "turned away",
            Self::TooPoor { .. } => "too poor in all",
            Self::Covered { .. } => "covered or unusual",
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall {
                size_px,
                min_size_px,
            } => write!(
                f,
                "The face is too small: {size_px:.0} pixels across, at least {min_size_px:.0} are needed. Come closer or use a picture of higher resolution."
            ),
            Self::CutByEdge { cut, max_cut } => write!(
                f,
                "The face is cut by the picture's edge: {:.0} % of it is outside, at most {:.0} % may be. Move to the middle or point the camera at the face.",
                100.0 * cut,
                100.0 * max_cut
            ),
            Self::TooDark {
                brightness,
                min_brightness,
            } => write!(
                f,
                "The face is too dark: its brightness is {brightness:.0} of 255, at least {min_brightness:.0} is needed. Add light in front of the face."
            ),
            Self::TooBlurred {
                sharpness,
                min_sharpness,
            } => write!(
                f,
                "The face is too blurred: its sharpness is {sharpness:.3}, at least {min_sharpness:.3} is needed. Hold still, add light or focus the camera."
            ),
            Self::TurnedAway { yaw, max_yaw } => {
                let side = if *yaw > 0.0 { "right" } else { "left" };
                write!(
                    f,
                    "The face is turned too far to the {side} of the picture ({:.2}, at most {max_yaw:.2}). Look into the camera.",
                    yaw.abs()
                )
            }
            Self::TooPoor {
                score,
                known_from,
                worst,
            } => write!(
                f,
                "The face is too poor to identify anyone: its quality is {score:.2}, at least {known_from:.2} is needed. {}.",
                worst.map_or("Use another picture".to_owned(), |part| format!(
                    "Above all, {}",
                    part.flaw()
                ))
            ),
            Self::Covered { score, known_from } => write!(
                f,
                "The face is too poor to identify anyone: its quality is {score:.2}, at least {known_from:.2} is needed. It is large, light and sharp enough: it may be covered by a mask, sunglasses, hair or a hand, or the picture may be compressed too much."
            ),
        }
    }
}

impl Quality {
    /// Measures a face. `crop` is the upright square cut by its landmarks, `width` and `height` are
    /// the picture's.
    pub(crate) fn measure(
        bounds: Bounds,
        landmarks: &[[f32; 2]; 5],
        score: f32,
        crop: &Rgb,
        [width, height]: [usize; 2],
    ) -> Self {
        let [yaw, pitch, roll_degrees] = pose(landmarks);
        let grey = grey(crop);
        let mut quality = Self {
            detector: score.clamp(0.0, 1.0),
            size_px: bounds.size(),
            cut: beyond(bounds, width as f32, height as f32),
            brightness: brightness(&grey),
            sharpness: sharpness(&grey),
            yaw,
            pitch,
            roll_degrees,
            score: 0.0,
        };
        quality.score = Part::ALL
            .into_iter()
            .map(|part| quality.part(part))
            .product();
        quality
    }

    /// Returns the factor of this part in the score, from 0 to 1.
    ///
    /// Each factor is a half where half of the true pairs were no longer known after one picture of
    /// each was degraded in that way, and follows the power law measured around that point;
    /// `models/benches/quality.md` has the figures. Pictures cannot be turned afterwards, so yaw
    /// and pitch rest on the few strongly turned faces there are.
    pub fn part(&self, part: Part) -> f32 {
        let square = |v: f32| v * v;
        let falling = |much: f32| 1.0 / (1.0 + much);
        match part {
            Part::Detector => self.detector,
            Part::Size => falling(square(square(17.0 / self.size_px.max(1.0)))),
            Part::Edge => falling(square(self.cut / 0.4)),
            Part::Light => falling(square(7.0 / self.brightness.max(0.1))),
            Part::Sharpness => falling(square(0.0075 / self.sharpness.max(1e-5))),
            Part::Pose => falling(square(self.yaw)) * falling(square(self.pitch / 0.5)),
        }
    }

    /// Returns the objection to enrolling this face, if any. A face below
    /// [`QualityLimits::known_from`] always has one, which then also explains why it is not known.
    pub fn objection(&self, limits: &QualityLimits) -> Option<Objection> {
        let Self {
            size_px,
            cut,
            brightness,
            sharpness,
            yaw,
            score,
            ..
        } = *self;
        let &QualityLimits {
            min_size_px,
            max_cut,
            min_brightness,
            min_sharpness,
            max_yaw,
            known_from,
            ..
        } = limits;
        if limits.known_again.is_some() && score >= known_from {
            return None;
        }
        // The order matters. Beyond the picture's edge the crop is black, which darkens the face
        // and shifts its landmarks, so the edge comes before light and pose. A dark face is often
        // blurred too, and light helps against both, so light comes before sharpness.
        if size_px < min_size_px {
            Some(Objection::TooSmall {
                size_px,
                min_size_px,
            })
        } else if cut > max_cut {
            Some(Objection::CutByEdge { cut, max_cut })
        } else if brightness < min_brightness {
            Some(Objection::TooDark {
                brightness,
                min_brightness,
            })
        } else if sharpness < min_sharpness {
            Some(Objection::TooBlurred {
                sharpness,
                min_sharpness,
            })
        } else if yaw.abs() > max_yaw {
            Some(Objection::TurnedAway { yaw, max_yaw })
        } else if score < known_from {
            let worst = Part::ALL
                .into_iter()
                .min_by(|a, b| self.part(*a).total_cmp(&self.part(*b)));
            let clear = size_px >= CLEAR * min_size_px
                && CLEAR * cut <= max_cut
                && brightness >= CLEAR * min_brightness
                && sharpness >= CLEAR * min_sharpness
                && CLEAR * yaw.abs() <= max_yaw;
            Some(match &limits.known_again {
                None => Objection::TooPoor {
                    score,
                    known_from,
                    worst,
                },
                Some(_) if clear => Objection::Covered { score, known_from },
                Some(_) => Objection::TooPoor {
                    score,
                    known_from,
                    worst: None,
                },
            })
        } else {
            None
        }
    }
}

/// So many times better than every limit, nothing measured explains why the recogniser makes little
/// of a face. Closer to one, blurred and cut faces were said to be covered.
const CLEAR: f32 = 1.4;

#[cfg(test)]
mod tests;
