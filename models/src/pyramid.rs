//! The image pyramid, sampled by area: each output pixel is the mean of the pixels it covers, as
//! with OpenCV's `INTER_AREA`. Detectors get their input from it; `align` cuts the recogniser's
//! crop.

use std::borrow::Cow;
use std::ops::Range;

use crate::Rgb;

/// A rectangle of a picture, in pixels. It may reach beyond the edges, where everything is black.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// An image pyramid: a picture and its halved copies, so that sampling a large window costs no more
/// than sampling a small one.
pub(crate) struct Pyramid<'a> {
    levels: Vec<Cow<'a, Rgb>>,
}

/// A halved copy is used only if each output pixel still covers this many of its pixels in each
/// direction. Its rounding errors and cell edges then have no visible effect.
const PIXELS_PER_OUTPUT: f64 = 3.0;

impl<'a> Pyramid<'a> {
    pub(crate) fn new(picture: &'a Rgb) -> Self {
        // A side has at most 2^15 pixels.
        Self::with_halves(picture, 15)
    }

    /// Builds at most `most` halved copies, for callers that sample only small windows.
    pub(crate) fn with_halves(picture: &'a Rgb, most: usize) -> Self {
        let mut levels = vec![Cow::Borrowed(picture)];
        // Windows are reduced to 12 pixels at least, so smaller copies would never be used.
        while let Some(last) = levels
            .last()
            .filter(|last| last.width.min(last.height) >= 96 && levels.len() <= most)
        {
            let half = halve(last);
            levels.push(Cow::Owned(half));
        }
        Self { levels }
    }

    /// Returns the picture at full size.
    pub(crate) fn whole(&self) -> &Rgb {
        &self.levels[0]
    }

    pub(crate) fn width(&self) -> usize {
        self.levels[0].width
    }

    pub(crate) fn height(&self) -> usize {
        self.levels[0].height
    }

    /// Returns the copy halved as often as `reduction` allows, and the scale of its coordinates.
    pub(crate) fn halved(&self, reduction: f64) -> (&Rgb, f64) {
        let wanted = reduction.max(1.0).log2() as usize;
        let level = wanted.min(self.levels.len() - 1);
        (&self.levels[level], 1.0 / f64::from(1_u32 << level))
    }

    /// Resizes the window to `width`×`height` pixels, rounded to 8 bits like the pictures the
    /// networks were trained on.
    pub(crate) fn sample(&self, window: Window, width: usize, height: usize, pixels: &mut [u8]) {
        self.sample_tile(window, [width, height], [0..width, 0..height], pixels);
    }

    /// Cuts out a square window, resized to `side` pixels.
    pub(crate) fn cut(&self, window: Window, side: usize) -> Rgb {
        let mut pixels = vec![0; 3 * side * side];
        self.sample(window, side, side, &mut pixels);
        Rgb {
            width: side,
            height: side,
            pixels,
        }
    }

    /// Resizes the window to `sides` and returns the tile of these columns and rows.
    pub(crate) fn sample_tile(
        &self,
        window: Window,
        sides: [usize; 2],
        tile: [Range<usize>; 2],
        pixels: &mut [u8],
    ) {
        let ([width, height], [columns, rows]) = (sides, tile);
        let reduction = (window.width / width as f64).min(window.height / height as f64);
        let (picture, shrink) = self.halved(reduction / PIXELS_PER_OUTPUT);
        let columns = Cover::of(
            window.left * shrink,
            window.width * shrink,
            width,
            columns,
            picture.width,
        );
        let rows = Cover::of(
            window.top * shrink,
            window.height * shrink,
            height,
            rows,
            picture.height,
        );
        let (first, end) = columns.span();
        let mut line = vec![0.0_f32; 3 * (end - first)];
        let mut whole = vec![0_u16; line.len()];
        for (rows, pixels) in rows
            .cells
            .iter()
            .zip(pixels.chunks_exact_mut(3 * columns.cells.len()))
        {
            rows.add_up(&mut line, &mut whole, |row| {
                &picture.row(row)[3 * first..3 * end]
            });
            for (columns, pixel) in columns.cells.iter().zip(pixels.as_chunks_mut::<3>().0) {
                let mut sums = [0.0_f32; 3];
                for (source, weight) in columns.weights() {
                    let at = 3 * (source - first);
                    for (sum, value) in sums.iter_mut().zip(&line[at..at + 3]) {
                        *sum += weight * value;
                    }
                }
                *pixel = sums.map(|sum| (sum + 0.5) as u8);
            }
        }
    }
}

/// Halves a picture: each output pixel is the mean of two by two. An odd last row or column counts
/// twice.
fn halve(picture: &Rgb) -> Rgb {
    let (width, height) = (picture.width.div_ceil(2), picture.height.div_ceil(2));
    let mut pixels = vec![0; 3 * width * height];
    // Adding rows before columns reads neighbours in memory, which vectorises.
    let mut sums = vec![0_u16; 6 * width];
    for (y, pixels) in pixels.chunks_exact_mut(3 * width).enumerate() {
        let upper = picture.row(2 * y);
        let lower = picture.row((2 * y + 1).min(picture.height - 1));
        for ((sum, upper), lower) in sums.iter_mut().zip(upper).zip(lower) {
            *sum = u16::from(*upper) + u16::from(*lower);
        }
        if picture.width % 2 == 1 {
            sums.copy_within(6 * width - 6..6 * width - 3, 6 * width - 3);
        }
        for (pixel, [r, g, b, right_r, right_g, right_b]) in pixels
            .as_chunks_mut::<3>()
            .0
            .iter_mut()
            .zip(sums.as_chunks().0)
        {
            *pixel = [r + right_r, g + right_g, b + right_b].map(|sum| ((sum + 2) / 4) as u8);
        }
    }
    Rgb {
        width,
        height,
        pixels,
    }
}

/// The source pixels that each output pixel covers along one axis, with their weights.
struct Cover {
    cells: Vec<Cell>,
}

/// Source pixels `first..end`; all but the first and the last are covered completely.
struct Cell {
    first: usize,
    end: usize,
    first_weight: f32,
    weight: f32,
    last_weight: f32,
}

impl Cover {
    /// Returns the cells in `range` of the `outputs` pixels that cover `length`.
    fn of(start: f64, length: f64, outputs: usize, range: Range<usize>, sources: usize) -> Self {
        let step = length / outputs as f64;
        let cell = |ix: usize| {
            let from = start + step * ix as f64;
            let to = from + step;
            let (low, high) = (from.max(0.0), to.min(sources as f64));
            if high <= low || high - low < 1e-6 * step {
                return Cell {
                    first: 0,
                    end: 0,
                    first_weight: 0.0,
                    weight: 0.0,
                    last_weight: 0.0,
                };
            }
            let first = low as usize;
            let end = (high.ceil() as usize).clamp(first + 1, sources);
            let covered = |pixel: usize| {
                ((high.min((pixel + 1) as f64) - low.max(pixel as f64)).max(0.0) / step) as f32
            };
            Cell {
                first,
                end,
                first_weight: covered(first),
                weight: (1.0 / step) as f32,
                last_weight: covered(end - 1),
            }
        };
        Self {
            cells: range.map(cell).collect(),
        }
    }

    /// Returns the range of source pixels that any cell covers.
    fn span(&self) -> (usize, usize) {
        let seen = || self.cells.iter().filter(|cell| cell.end > cell.first);
        let first = seen().map(|cell| cell.first).min().unwrap_or(0);
        (first, seen().map(|cell| cell.end).max().unwrap_or(first))
    }
}

impl Cell {
    /// Adds up the covered rows with their weights. Rows that are covered completely are added as
    /// integers first, which is several times faster.
    fn add_up<'p>(&self, line: &mut [f32], whole: &mut [u16], row: impl Fn(usize) -> &'p [u8]) {
        line.fill(0.0);
        let mut add = |pixel: usize, weight: f32| {
            for (sum, &byte) in line.iter_mut().zip(row(pixel)) {
                *sum += weight * f32::from(byte);
            }
        };
        if self.end > self.first {
            add(self.first, self.first_weight);
        }
        if self.end > self.first + 1 {
            add(self.end - 1, self.last_weight);
        }
        let (mut next, end) = (self.first + 1, self.end.saturating_sub(1));
        while next < end {
            // A 16-bit sum cannot overflow with 256 bytes.
            let stop = end.min(next + 256);
            whole.fill(0);
            for pixel in next..stop {
                for (sum, &byte) in whole.iter_mut().zip(row(pixel)) {
                    *sum += u16::from(byte);
                }
            }
            for (sum, &value) in line.iter_mut().zip(whole.iter()) {
                *sum += self.weight * f32::from(value);
            }
            next = stop;
        }
    }

    fn weights(&self) -> impl Iterator<Item = (usize, f32)> {
        (self.first..self.end).map(|pixel| {
            let weight = if pixel == self.first {
                self.first_weight
            } else if pixel + 1 == self.end {
                self.last_weight
            } else {
                self.weight
            };
            (pixel, weight)
        })
    }
}

#[cfg(test)]
mod tests;
