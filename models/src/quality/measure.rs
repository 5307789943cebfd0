//! Measurements of a face, from its box, its landmarks and its crop.

use crate::pyramid::{Pyramid, Window};
use crate::{Bounds, Rgb};

/// Returns the share of a box outside the picture.
pub(super) fn beyond(bounds: Bounds, width: f32, height: f32) -> f32 {
    let Bounds {
        left,
        top,
        right,
        bottom,
    } = bounds;
    let whole = (right - left) * (bottom - top);
    let inside =
        (right.min(width) - left.max(0.0)).max(0.0) * (bottom.min(height) - top.max(0.0)).max(0.0);
    if whole > 0.0 {
        (1.0 - inside / whole).clamp(0.0, 1.0)
    } else {
        0.0
    }
}

/// Returns yaw, pitch and roll, estimated from the place of the nose between eyes and mouth. They
/// are not true angles of the head: five points in a plane do not give those.
pub(super) fn pose(landmarks: &[[f32; 2]; 5]) -> [f32; 3] {
    let [left, right, nose, mouth_left, mouth_right] = *landmarks;
    let middle = |a: [f32; 2], b: [f32; 2]| [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0];
    let (eyes, mouth) = (middle(left, right), middle(mouth_left, mouth_right));
    let (dx, dy) = (right[0] - left[0], right[1] - left[1]);
    let eye_distance = dx.hypot(dy).max(f32::MIN_POSITIVE);
    // Coordinates in the frame of the eyes: x along them, y down the face.
    let turned = |p: [f32; 2]| {
        let (x, y) = (p[0] - eyes[0], p[1] - eyes[1]);
        [
            (x * dx + y * dy) / eye_distance,
            (y * dx - x * dy) / eye_distance,
        ]
    };
    let (nose, mouth) = (turned(nose), turned(mouth));
    let yaw = (nose[0] - mouth[0] / 2.0) / eye_distance;
    let height = mouth[1].abs().max(0.1 * eye_distance);
    [
        yaw,
        nose[1] / height - FRONTAL_NOSE,
        dy.atan2(dx).to_degrees(),
    ]
}

/// Height of the nose in a frontal face, from the eyes (0) to the mouth (1).
const FRONTAL_NOSE: f32 = 0.55;

/// Side of the grey crop that light and sharpness are measured on. Larger faces are reduced to it,
/// so that only the detail at this size counts, not the number of pixels.
const GREY_SIDE: usize = 64;

pub(super) fn grey(crop: &Rgb) -> Vec<f32> {
    let mut pixels = vec![0; 3 * GREY_SIDE * GREY_SIDE];
    let whole = Window {
        left: 0.0,
        top: 0.0,
        width: crop.width as f64,
        height: crop.height as f64,
    };
    Pyramid::new(crop).sample(whole, GREY_SIDE, GREY_SIDE, &mut pixels);
    let brightness = |[red, green, blue]: &[u8; 3]| {
        0.299 * f32::from(*red) + 0.587 * f32::from(*green) + 0.114 * f32::from(*blue)
    };
    pixels.as_chunks().0.iter().map(brightness).collect()
}

/// Returns the mean of the central quarter, with eyes, nose and mouth, so that a bright wall behind
/// a dark face does not count.
pub(super) fn brightness(grey: &[f32]) -> f32 {
    let middle = GREY_SIDE / 4..GREY_SIDE * 3 / 4;
    let rows = middle
        .clone()
        .map(|y| grey[y * GREY_SIDE..][middle.clone()].iter().sum::<f32>());
    rows.sum::<f32>() / (middle.len() * middle.len()) as f32
}

/// Returns the variance of the Laplacian over the variance of brightness, so that a dark or flat
/// picture does not count as blurred.
pub(super) fn sharpness(grey: &[f32]) -> f32 {
    const N: usize = GREY_SIDE;
    let inner = (1..N - 1).flat_map(|y| (1..N - 1).map(move |x| y * N + x));
    let laplacian =
        inner.map(|i| grey[i - 1] + grey[i + 1] + grey[i - N] + grey[i + N] - 4.0 * grey[i]);
    let laplacian: Vec<f32> = laplacian.collect();
    // The 1 keeps a grey step of noise from making a black picture sharp.
    variance(&laplacian) / (variance(grey) + 1.0)
}

fn variance(values: &[f32]) -> f32 {
    let count = values.len() as f32;
    let mean = values.iter().sum::<f32>() / count;
    values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count
}
