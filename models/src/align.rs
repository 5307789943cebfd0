//! Face alignment: the similarity transform that brings five landmarks closest to the pack's
//! template, and the square crop cut with it.

use crate::detect::Detection;
use crate::pyramid::Pyramid;
use crate::{Bounds, Rgb};

/// Rotation, uniform scale and translation: `(x, y) → (a·x − b·y + tx, b·x + a·y + ty)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Similarity {
    a: f64,
    b: f64,
    tx: f64,
    ty: f64,
}

impl Similarity {
    /// Returns the least-squares similarity between two sets of points (Umeyama 1991, which has
    /// this closed form in the plane without reflection), or `None` if it is degenerate.
    pub(crate) fn between(from: &[[f32; 2]; 5], to: &[[f32; 2]; 5]) -> Option<Self> {
        let centre = |points: &[[f32; 2]; 5]| {
            [0, 1].map(|axis| points.iter().map(|p| f64::from(p[axis])).sum::<f64>() / 5.0)
        };
        let ([fx, fy], [gx, gy]) = (centre(from), centre(to));
        let (mut along, mut across, mut spread) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (x, y) = (f64::from(p[0]) - fx, f64::from(p[1]) - fy);
            let (u, v) = (f64::from(q[0]) - gx, f64::from(q[1]) - gy);
            along += x * u + y * v;
            across += x * v - y * u;
            spread += x * x + y * y;
        }
        let (a, b) = (along / spread, across / spread);
        let scale = a.hypot(b);
        let usable = scale.is_finite() && scale > 1e-6;
        usable.then_some(Self {
            a,
            b,
            tx: gx - a * fx + b * fy,
            ty: gy - b * fx - a * fy,
        })
    }

    fn inverse(&self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self {
            a,
            b,
            tx: -a * self.tx + b * self.ty,
            ty: -b * self.tx - a * self.ty,
        }
    }

    fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.a * x - self.b * y + self.tx,
            self.b * x + self.a * y + self.ty,
        )
    }

    fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }

    /// Tells whether the crop has more pixels than the part of the picture it is cut from.
    pub(crate) fn enlarges(&self) -> bool {
        self.scale() > 1.0
    }
}

/// Returns the bounds of all faces whose crops would be enlarged, where a more detailed picture
/// gives better crops. `None` if no crop would be.
pub(crate) fn wanted_detail(
    detections: &[Detection],
    template: &[[f32; 2]; 5],
    side: usize,
) -> Option<Bounds> {
    let end = side as f64;
    let corners = |to_crop: Similarity| {
        let back = to_crop.inverse();
        [(-1.0, -1.0), (end, -1.0), (-1.0, end), (end, end)].map(|(u, v)| back.apply(u, v))
    };
    let crops = detections
        .iter()
        .filter_map(|face| Similarity::between(&face.landmarks, template));
    let points = crops.filter(Similarity::enlarges).flat_map(corners);
    points
        .map(|(x, y)| (x as f32, y as f32))
        // Bilinear interpolation reads one more pixel on each side.
        .map(|(x, y)| Bounds {
            left: x - 1.0,
            top: y - 1.0,
            right: x + 1.0,
            bottom: y + 1.0,
        })
        .reduce(|a, b| Bounds {
            left: a.left.min(b.left),
            top: a.top.min(b.top),
            right: a.right.max(b.right),
            bottom: a.bottom.max(b.bottom),
        })
}

/// Cuts the square crop that `to_crop` maps the picture onto. Bilinear; black beyond the picture.
pub(crate) fn cut(picture: &Pyramid, to_crop: &Similarity, side: usize) -> Rgb {
    let back = to_crop.inverse();
    // From a face at least twice as large as the crop, bilinear sampling would skip pixels: sample
    // a halved copy instead.
    let (source, shrink) = picture.halved(back.scale());
    // Pixel centres lie on whole numbers, so halving shifts them by half a pixel.
    let step = (back.a * shrink, back.b * shrink);
    let mut pixels = Vec::with_capacity(3 * side * side);
    for v in 0..side {
        let (x, y) = back.apply(0.0, v as f64);
        let (x0, y0) = ((x + 0.5) * shrink - 0.5, (y + 0.5) * shrink - 0.5);
        for u in 0..side {
            let u = u as f64;
            pixels.extend(bilinear(
                source,
                (x0 + u * step.0) as f32,
                (y0 + u * step.1) as f32,
            ));
        }
    }
    Rgb {
        width: side,
        height: side,
        pixels,
    }
}

fn bilinear(picture: &Rgb, x: f32, y: f32) -> [u8; 3] {
    let (left, top) = (floor(x), floor(y));
    let (right_share, bottom_share) = (x - left as f32, y - top as f32);
    let mut sum = [0.0_f32; 3];
    for (py, row_share) in [(top, 1.0 - bottom_share), (top + 1, bottom_share)] {
        for (px, share) in [(left, 1.0 - right_share), (left + 1, right_share)] {
            // A negative number wraps to one beyond the picture.
            let (px, py) = (px as usize, py as usize);
            if px < picture.width && py < picture.height {
                let at = 3 * (py * picture.width + px);
                for (sum, &byte) in sum.iter_mut().zip(&picture.pixels[at..at + 3]) {
                    *sum += row_share * share * f32::from(byte);
                }
            }
        }
    }
    sum.map(|v| (v + 0.5) as u8)
}

/// Returns `f32::floor` as a whole number; `f32::floor` is a library call on older processors.
/// Numbers far outside saturate, and so remain outside.
fn floor(v: f32) -> isize {
    let towards_zero = v as i32 as isize;
    if (towards_zero as f32) > v {
        towards_zero - 1
    } else {
        towards_zero
    }
}

#[cfg(test)]
mod tests;
