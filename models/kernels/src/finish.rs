//! The step from sums to results: scale, bias, residual, activation, max pooling and rounding to
//! bytes.

use super::chunks::{Chunk, Residual};
#[cfg(target_arch = "aarch64")]
use super::own;
use super::{Element, MOST_SUMS, Sum};

/// Epilogue of a block, per channel, padded to whole vectors.
pub(super) struct Finish {
    /// Initial sums: the correction for the input's zero point and for the flipped bits.
    pub(super) offset: Vec<i32>,
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) slope: Vec<f32>,
    /// Added before truncation to a byte: the output's zero point, and a half to round.
    pub(super) half: f32,
    /// Activation to apply, one of the constants in `lanes`.
    pub(super) activation: u8,
}

/// The sums of one block.
pub(super) struct Sums<'a, S> {
    pub(super) sums: &'a [S],
    pub(super) finish: &'a Finish,
    pub(super) flip: u8,
    pub(super) bytes: bool,
}

/// The residual at each result of one block.
pub(super) struct Addend<'a, I> {
    pub(super) residual: Option<Residual<'a, I>>,
    pub(super) first: usize,
    pub(super) chunk: &'a Chunk,
}

/// The results of one block, pixel by pixel.
pub(super) struct Finished {
    pub(super) values: [f32; MOST_SUMS],
    pub(super) bytes: [u8; MOST_SUMS],
}

/// Turns sums into results.
#[inline(always)]
pub(super) fn finish<S: Sum, I: Element, const LANES: usize>(
    of: &Sums<'_, S>,
    addend: &Addend<'_, I>,
    finished: &mut Finished,
) {
    let width = of.finish.scale.len();
    match &addend.residual {
        None => activate::<S, LANES, false, true>(of, addend.chunk, finished),
        Some(residual) => {
            let chunk = addend.chunk;
            let values = finished
                .values
                .chunks_exact_mut(width)
                .zip(&chunk.residuals)
                .take(chunk.results);
            for (values, at) in values {
                if chunk.with_residual {
                    add_up::<I, LANES>(residual, *at, addend.first, of.flip, values);
                } else {
                    values.fill(0.0);
                }
            }
            if of.sums.is_empty() {
                activate::<S, LANES, true, false>(of, addend.chunk, finished);
            } else {
                activate::<S, LANES, true, true>(of, addend.chunk, finished);
            }
        }
    }
}

/// Adds up the residual of one pixel.
#[inline(always)]
fn add_up<I: Element, const LANES: usize>(
    residual: &Residual<'_, I>,
    at: usize,
    first: usize,
    flip: u8,
    values: &mut [f32],
) {
    let Residual {
        values: numbers,
        channels,
        scale,
        pooled,
    } = *residual;
    for (vector, values) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let first = first + vector * LANES;
        *values = [0.0; LANES];
        let shared = LANES.min(channels.saturating_sub(first));
        let at = at + first;
        let mut add = |at: usize, scale: f32| {
            if shared == LANES {
                let numbers = &numbers[at..at + LANES];
                #[cfg(target_arch = "aarch64")]
                if let Some(numbers) = numbers
                    .try_into()
                    .ok()
                    .and_then(|numbers| I::four(numbers, flip))
                {
                    for lane in 0..LANES {
                        values[lane] += numbers[lane] * scale;
                    }
                    return;
                }
                for lane in 0..LANES {
                    values[lane] += numbers[lane].value(flip) * scale;
                }
            } else if shared > 0 {
                for (value, number) in values.iter_mut().zip(&numbers[at..at + shared]) {
                    *value += number.value(flip) * scale;
                }
            }
        };
        match pooled {
            None => add(at, scale),
            Some(row) => {
                [at, at + channels, at + row, at + row + channels]
                    .into_iter()
                    .for_each(|at| add(at, 0.25 * scale));
            }
        }
    }
}

/// The epilogue of one vector of channels.
#[derive(Clone, Copy)]
pub(super) struct Lane<const LANES: usize> {
    pub(super) scale: [f32; LANES],
    pub(super) bias: [f32; LANES],
    pub(super) slope: [f32; LANES],
}

#[inline(always)]
fn activate<S: Sum, const LANES: usize, const RESIDUAL: bool, const SUMS: bool>(
    of: &Sums<'_, S>,
    chunk: &Chunk,
    finished: &mut Finished,
) {
    let sums = of.sums.as_chunks::<LANES>().0;
    let values = finished.values.as_chunks_mut::<LANES>().0;
    let bytes = finished.bytes.as_chunks_mut::<LANES>().0;
    let Finish {
        scale,
        bias,
        slope,
        half,
        ..
    } = of.finish;
    let (scale, half) = (scale.as_chunks::<LANES>().0, *half);
    let (bias, slope) = (bias.as_chunks::<LANES>().0, slope.as_chunks::<LANES>().0);
    let vectors = scale.len();
    for vector in 0..vectors {
        let lane = Lane {
            scale: scale[vector],
            bias: bias[vector],
            slope: slope[vector],
        };
        for pixel in 0..chunk.results {
            let at = pixel * vectors + vector;
            let added = if RESIDUAL { values[at] } else { [0.0; LANES] };
            let none = [S::default(); LANES];
            let value = if !SUMS {
                activated::<S, LANES, RESIDUAL, SUMS>(&none, &lane, &added)
            } else if chunk.pooled {
                let first = 4 * pixel * vectors + vector;
                let a = activated::<S, LANES, RESIDUAL, SUMS>(&sums[first], &lane, &added);
                let b =
                    activated::<S, LANES, RESIDUAL, SUMS>(&sums[first + vectors], &lane, &added);
                let c = activated::<S, LANES, RESIDUAL, SUMS>(
                    &sums[first + 2 * vectors],
                    &lane,
                    &added,
                );
                let d = activated::<S, LANES, RESIDUAL, SUMS>(
                    &sums[first + 3 * vectors],
                    &lane,
                    &added,
                );
                larger(larger(a, b), larger(c, d))
            } else {
                activated::<S, LANES, RESIDUAL, SUMS>(&sums[at], &lane, &added)
            };
            values[at] = value;
            if of.bytes {
                #[cfg(target_arch = "aarch64")]
                if let (Ok(value), Ok(bytes)) = (
                    value.as_slice().try_into(),
                    bytes[at].as_mut_slice().try_into(),
                ) {
                    // SAFETY: every processor of this architecture has NEON.
                    unsafe { own::round(value, half, of.flip, bytes) };
                    continue;
                }
                for lane in 0..LANES {
                    bytes[at][lane] = whole(value[lane] + half) ^ of.flip;
                }
            }
        }
    }
}

/// Truncates to a byte: 0 for negative numbers and NaN, 255 for larger ones.
#[inline(always)]
pub(super) fn whole(value: f32) -> u8 {
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < 255.0 { value } else { 255.0 };
    // SAFETY: the value is between 0 and 255. The checked conversion is several times slower.
    unsafe { value.to_int_unchecked::<i32>() as u8 }
}

#[inline(always)]
pub(super) fn activated<S: Sum, const LANES: usize, const RESIDUAL: bool, const SUMS: bool>(
    sums: &[S; LANES],
    of: &Lane<LANES>,
    added: &[f32; LANES],
) -> [f32; LANES] {
    let mut result = [0.0; LANES];
    for lane in 0..LANES {
        let mut value = 0.0;
        if SUMS {
            value = sums[lane].value() * of.scale[lane] + of.bias[lane];
        }
        if RESIDUAL {
            value += added[lane];
        }
        result[lane] = if value < 0.0 {
            value * of.slope[lane]
        } else {
            value
        };
    }
    result
}

#[inline(always)]
pub(super) fn larger<const LANES: usize>(mut a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
    for lane in 0..LANES {
        a[lane] = if b[lane] > a[lane] { b[lane] } else { a[lane] };
    }
    a
}
