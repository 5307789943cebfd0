//! Pictures that lie on a side or upside down: turns a picture by quarter turns, and maps faces
//! back to the given picture. The parent module decides when to turn.

use super::Detection;
use crate::{Bounds, Rgb};

/// A clockwise turn of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Quarter,
    Half,
    ThreeQuarters,
}

impl Turn {
    pub(crate) const ALL: [Self; 3] = [Self::Quarter, Self::ThreeQuarters, Self::Half];

    /// Returns the turned picture.
    pub(crate) fn of(self, picture: &Rgb) -> Rgb {
        let (width, height) = match self {
            Self::Half => (picture.width, picture.height),
            Self::Quarter | Self::ThreeQuarters => (picture.height, picture.width),
        };
        let mut pixels = Vec::with_capacity(picture.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (column, row) = match self {
                    Self::Quarter => (y, width - 1 - x),
                    Self::Half => (width - 1 - x, height - 1 - y),
                    Self::ThreeQuarters => (height - 1 - y, x),
                };
                let at = 3 * (row * picture.width + column);
                pixels.extend_from_slice(&picture.pixels[at..at + 3]);
            }
        }
        Rgb {
            width,
            height,
            pixels,
        }
    }

    /// Maps a face of the turned picture back to the given one of `width`×`height` pixels.
    /// Landmarks keep their order, so that the crop cut by them comes out upright.
    pub(crate) fn back(self, face: &Detection, width: usize, height: usize) -> Detection {
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        let point = |[x, y]: [f32; 2]| match self {
            Self::Quarter => [y, bottom - x],
            Self::Half => [right - x, bottom - y],
            Self::ThreeQuarters => [right - y, x],
        };
        let [ax, ay] = point([face.bounds.left, face.bounds.top]);
        let [bx, by] = point([face.bounds.right, face.bounds.bottom]);
        let bounds = Bounds {
            left: ax.min(bx),
            top: ay.min(by),
            right: ax.max(bx),
            bottom: ay.max(by),
        };
        Detection {
            bounds,
            landmarks: face.landmarks.map(point),
            score: face.score,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three columns and two rows, each pixel with a value of its own.
    fn picture() -> Rgb {
        Rgb::new(3, 2, (0..6).flat_map(|i| [i, 10 + i, 20 + i]).collect()).unwrap()
    }

    fn red(picture: &Rgb) -> Vec<u8> {
        picture.pixels.iter().copied().step_by(3).collect()
    }

    #[test]
    fn a_picture_is_turned_clockwise() {
        let quarter = Turn::Quarter.of(&picture());
        assert_eq!((quarter.width, quarter.height), (2, 3));
        assert_eq!(red(&quarter), [3, 0, 4, 1, 5, 2]);
        assert_eq!(red(&Turn::Half.of(&picture())), [5, 4, 3, 2, 1, 0]);
        assert_eq!(red(&Turn::ThreeQuarters.of(&picture())), [2, 5, 1, 4, 0, 3]);
        assert_eq!(Turn::ThreeQuarters.of(&quarter), picture());
    }

    #[test]
    fn faces_found_turned_lie_on_the_same_pixels_of_the_original() {
        let given = picture();
        for turn in Turn::ALL {
            let turned = turn.of(&given);
            for (x, y) in (0..turned.width).flat_map(|x| (0..turned.height).map(move |y| (x, y))) {
                let corner = [x as f32, y as f32];
                let bounds = Bounds {
                    left: corner[0],
                    top: corner[1],
                    right: corner[0] + 1.0,
                    bottom: corner[1] + 2.0,
                };
                let face = Detection {
                    bounds,
                    landmarks: [corner; 5],
                    score: 0.9,
                };
                let back = turn.back(&face, given.width, given.height);
                let [column, row] = back.landmarks[0].map(|v| v as usize);
                assert_eq!(
                    given.row(row)[3 * column..][..3],
                    turned.row(y)[3 * x..][..3],
                    "{turn:?} {x} {y}"
                );
                assert!((back.bounds.size() - bounds.size()).abs() < 1e-6);
                assert!(back.bounds.left <= column as f32 && column as f32 <= back.bounds.right);
            }
        }
    }
}
