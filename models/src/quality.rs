//! How fit a face is for enrolment: its size, how sharp it is, how far it is turned.
//! Says what is wrong; whether to refuse is the caller's choice.

use std::fmt;

use serde::Deserialize;

use crate::area::{Pyramid, Window};
use crate::{Bounds, Rgb};

/// What an enrolment picture must reach, and what a face must reach to be known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityLimits {
    /// The smallest face, in pixels of the picture.
    pub min_size_px: f32,
    /// The smallest [`Quality::sharpness`].
    pub min_sharpness: f32,
    /// The largest [`Quality::yaw`] to either side.
    pub max_yaw: f32,
    /// A face whose [`Quality::score`] is below this is too poor to be called known.
    pub known_from: f32,
}

/// What can be said about one face from its box, landmarks and chip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Side of the square with the area of the face's box, in pixels of the picture.
    pub size_px: f32,
    /// Fine detail relative to contrast; see `sharpness`.
    pub sharpness: f32,
    /// Sideways distance of the nose from the face's middle in eye distances: 0 from the front,
    /// positive when the nose is to the right in the picture.
    pub yaw: f32,
    /// How much lower than usual the nose is between eyes and mouth, as a share of that height.
    pub pitch: f32,
    /// How far the line through the eyes is turned clockwise.
    pub roll_degrees: f32,
    /// All of it in one number from 0 to 1, for choosing the best of several pictures.
    pub score: f32,
}

/// The first thing that makes a picture unfit for enrolment; prints as a sentence for the operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objection {
    /// Too few pixels.
    TooSmall {
        /// The face's size.
        size_px: f32,
        /// The limit.
        min_size_px: f32,
    },
    /// Out of focus, moved, or enlarged from a smaller picture.
    TooBlurred {
        /// The face's sharpness.
        sharpness: f32,
        /// The limit.
        min_sharpness: f32,
    },
    /// Not seen from the front.
    TurnedAway {
        /// The face's yaw.
        yaw: f32,
        /// The limit.
        max_yaw: f32,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { size_px, min_size_px } => write!(
                f,
                "The face is too small: {size_px:.0} pixels across, at least {min_size_px:.0} are needed. Come closer or use a picture of higher resolution."
            ),
            Self::TooBlurred { sharpness, min_sharpness } => write!(
                f,
                "The face is too blurred: its sharpness is {sharpness:.2}, at least {min_sharpness:.2} is needed. Hold still, add light or focus the camera."
            ),
            Self::TurnedAway { yaw, max_yaw } => {
                let side = if *yaw > 0.0 { "right" } else { "left" };
                write!(
                    f,
                    "The face is turned too far to the {side} of the picture ({:.2}, at most {max_yaw:.2}). Look into the camera.",
                    yaw.abs()
                )
            }
        }
    }
}

impl Quality {
    /// Judges a face; `chip` is the upright square cut by its landmarks.
    pub(crate) fn measure(bounds: Bounds, landmarks: &[[f32; 2]; 5], score: f32, chip: &Rgb) -> Self {
        let [yaw, pitch, roll_degrees] = pose(landmarks);
        let (size_px, sharpness) = (bounds.size(), sharpness(chip));
        let mut quality = Self { size_px, sharpness, yaw, pitch, roll_degrees, score: 0.0 };
        quality.score = score.clamp(0.0, 1.0) * quality.fitness();
        quality
    }

    /// Each part counts fully from where more of it no longer helps the recogniser.
    fn fitness(&self) -> f32 {
        let size = (self.size_px / 112.0).min(1.0);
        let sharp = (self.sharpness / 0.1).min(1.0);
        let frontal = (1.0 - self.yaw.abs()).max(0.0) * (1.0 - self.pitch.abs()).max(0.0);
        size * sharp * frontal
    }

    /// What speaks against enrolling this face, if anything; size before sharpness before turn.
    pub fn objection(&self, limits: &QualityLimits) -> Option<Objection> {
        let Self { size_px, sharpness, yaw, .. } = *self;
        let QualityLimits { min_size_px, min_sharpness, max_yaw, .. } = *limits;
        if size_px < min_size_px {
            Some(Objection::TooSmall { size_px, min_size_px })
        } else if sharpness < min_sharpness {
            Some(Objection::TooBlurred { sharpness, min_sharpness })
        } else if yaw.abs() > max_yaw {
            Some(Objection::TurnedAway { yaw, max_yaw })
        } else {
            None
        }
    }
}

/// Yaw, pitch and roll from where the nose lies between eyes and mouth. Not angles of a head in
/// space: five points in a plane do not give those.
fn pose(landmarks: &[[f32; 2]; 5]) -> [f32; 3] {
    let [left, right, nose, mouth_left, mouth_right] = *landmarks;
    let middle = |a: [f32; 2], b: [f32; 2]| [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0];
    let (eyes, mouth) = (middle(left, right), middle(mouth_left, mouth_right));
    let (dx, dy) = (right[0] - left[0], right[1] - left[1]);
    let eye_distance = dx.hypot(dy).max(f32::MIN_POSITIVE);
    // In the frame of the eyes: x along them, y down the face.
    let turned = |p: [f32; 2]| {
        let (x, y) = (p[0] - eyes[0], p[1] - eyes[1]);
        [(x * dx + y * dy) / eye_distance, (y * dx - x * dy) / eye_distance]
    };
    let (nose, mouth) = (turned(nose), turned(mouth));
    let yaw = (nose[0] - mouth[0] / 2.0) / eye_distance;
    let height = mouth[1].abs().max(0.1 * eye_distance);
    [yaw, nose[1] / height - FRONTAL_NOSE, dy.atan2(dx).to_degrees()]
}

/// Where the nose of a face seen from the front lies, from the eyes (0) to the mouth (1).
const FRONTAL_NOSE: f32 = 0.55;

/// The side of the grey chip sharpness is measured on. Larger faces are shrunk to it, so that the
/// number of pixels does not count, only the detail at this size.
const SHARPNESS_SIDE: usize = 64;

/// Variance of the Laplacian over the variance of brightness, so that a dark or flat picture is
/// not taken for a blurred one.
fn sharpness(chip: &Rgb) -> f32 {
    const N: usize = SHARPNESS_SIDE;
    let mut pixels = vec![0; 3 * N * N];
    let whole = Window { left: 0.0, top: 0.0, width: chip.width as f64, height: chip.height as f64 };
    Pyramid::new(chip).sample(whole, N, N, &mut pixels);
    let brightness =
        |[red, green, blue]: &[u8; 3]| 0.299 * f32::from(*red) + 0.587 * f32::from(*green) + 0.114 * f32::from(*blue);
    let grey: Vec<f32> = pixels.as_chunks().0.iter().map(brightness).collect();
    let inner = (1..N - 1).flat_map(|y| (1..N - 1).map(move |x| y * N + x));
    let laplacian = inner.map(|i| grey[i - 1] + grey[i + 1] + grey[i - N] + grey[i + N] - 4.0 * grey[i]);
    let laplacian: Vec<f32> = laplacian.collect();
    // One grey step of noise must not make a black picture sharp.
    variance(&laplacian) / (variance(&grey) + 1.0)
}

fn variance(values: &[f32]) -> f32 {
    let count = values.len() as f32;
    let mean = values.iter().sum::<f32>() / count;
    values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count
}
