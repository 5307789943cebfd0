//! Direct convolution with vector instructions: no im2col, and bias, residual, activation and
//! rounding to 8 bits happen while a result is in the cache. Works in float32, and in integers
//! (unsigned 8-bit values, signed 8-bit weights, 32-bit sums). It handles rows of numbers, not
//! networks or files. `models/benches/README.md` has the gain.
//!
//! This is the only crate with `unsafe`: vector instructions chosen at run time require it. The
//! public functions are safe, because they check every bound first. This file walks over the
//! picture (`chunks` cuts it up); `lanes` sums up a block, `finish` turns sums into results, and
//! the files named after processors hold the instructions.
//!
//! [`Weights`] are packed once for the processor; [`convolve`] then computes the results at given
//! [`Row`]s. Positions and lengths count numbers, not bytes. The layout is \[picture, row, column,
//! channel\]. A row of the kernel then covers one contiguous run in each row of the picture, so a
//! convolution is a few dot products over such runs. A block of `PIXELS` results for `VECTORS` ×
//! `LANES` channels stays in registers meanwhile. A depthwise convolution multiplies the channels
//! of a place element by element.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod arm;
mod chunks;
mod finish;
mod lanes;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other;
mod pack;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use arm as own;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other as own;
#[cfg(target_arch = "x86_64")]
use x86 as own;

use chunks::{Chunk, Chunks};
pub use chunks::{Line, Residual, Row};
use finish::{Addend, Finish, Finished, Sums, finish};
use pack::Block;
pub use pack::{Channel, Weights, Zeros};

/// The kind of numbers a convolution works on: [`Float`] or [`Integer`].
pub trait Arithmetic: Sized + Send + Sync + 'static {
    /// A value of the picture.
    type Input: Element;
    /// A weight.
    type Weight: Copy + Default + Into<f64> + Send + Sync + fmt::Debug;
    /// The accumulator.
    type Sum: Sum;
    /// Stored type of results without a residual.
    type Result: Copy;
    /// Number of neighbouring inputs that one instruction multiplies and adds up for each result.
    const GROUP: usize;
    /// Largest magnitude of a weight.
    const LARGEST_WEIGHT: f64;
    /// Returns the fastest kernels for this processor.
    fn kernels() -> &'static Kernels<Self>;
    /// Returns the output's memory if it stores [`Arithmetic::Result`].
    fn results<'a>(output: &'a mut Output<'_>) -> Option<&'a mut [Self::Result]>;
}

/// float32 inputs, weights and sums.
#[derive(Debug)]
pub struct Float;

/// Unsigned 8-bit inputs, signed 8-bit weights from -127 to 127, 32-bit sums. The sum over a kernel
/// must fit into 32 bits.
#[derive(Debug)]
pub struct Integer;

/// A value of a picture.
pub trait Element: Copy + Default + Send + Sync + fmt::Debug {
    /// Converts to float; `flip` as in [`Kernels`].
    fn value(self, flip: u8) -> f32;
    /// Converts four values at once, where the compiler does not vectorise by itself.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn four(_: &[Self; 4], _: u8) -> Option<[f32; 4]> {
        None
    }
}

/// The accumulator of products.
pub trait Sum: Copy + Default {
    /// Converts to float.
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn value(self, _: u8) -> f32 {
        self
    }
}

impl Element for u8 {
    #[inline(always)]
    fn value(self, flip: u8) -> f32 {
        f32::from(self ^ flip)
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn four(numbers: &[u8; 4], flip: u8) -> Option<[f32; 4]> {
        // SAFETY: every processor of this architecture has NEON.
        Some(unsafe { own::widen(*numbers, flip) })
    }
}

impl Sum for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Sum for i32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self as f32
    }
}

/// The inputs under the kernel for one result, relative to the start of the result's run.
struct Taps<'a> {
    /// Rows of the kernel.
    rows: usize,
    /// Inputs in each row: the kernel's columns times the channels, a multiple of the arithmetic's
    /// group.
    run: usize,
    /// Distance from one row of the picture to the next, in inputs.
    row_step: usize,
    /// Offsets of the places under the kernel, row by row; for depthwise convolutions only.
    places: &'a [usize],
}

/// Destination of one block.
enum To<A: Arithmetic> {
    /// Sums, one pixel after the other, for `FinishFn`.
    Sums(*mut A::Sum),
    /// Finished results without a residual, written to `values` at each of `places`; at most
    /// `channels` of each.
    Results {
        values: *mut A::Result,
        places: *const usize,
        channels: usize,
        pooled: bool,
    },
}

/// Sums up one block over the runs that begin at each of the offsets from `base`.
type BlockFn<A> = unsafe fn(
    base: *const <A as Arithmetic>::Input,
    offsets: *const usize,
    taps: &Taps<'_>,
    weights: *const <A as Arithmetic>::Weight,
    finish: &Finish,
    to: &To<A>,
);

type FinishFn<A> = unsafe fn(
    &Sums<'_, <A as Arithmetic>::Sum>,
    &Addend<'_, <A as Arithmetic>::Input>,
    &mut Finished,
);

/// The functions that sum up blocks.
struct Blocks<A: Arithmetic> {
    /// Channels in one vector.
    lanes: usize,
    /// For each number of pixels, from the largest down to 1: the functions for 1, 2, … vectors.
    by_pixels: &'static [(usize, &'static [BlockFn<A>])],
}

impl<A: Arithmetic> Blocks<A> {
    /// Returns the vectors of the widest block.
    fn most_vectors(&self) -> usize {
        self.by_pixels[0].1.len()
    }
}

/// The functions for one instruction set.
pub struct Kernels<A: Arithmetic> {
    /// Name of the instruction set, for display.
    pub name: &'static str,
    /// 8-bit inputs and outputs are stored with these bits flipped. Processors that multiply only
    /// signed by signed need values reduced by 128; the finishing step puts the difference back
    /// into the sums.
    pub flip: u8,
    full: Blocks<A>,
    /// Kernels for depthwise convolutions.
    depthwise: Blocks<A>,
    finish: FinishFn<A>,
}

impl<A: Arithmetic> fmt::Debug for Kernels<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Half of the smallest first-level cache of these processors.
const CACHED_WEIGHTS: usize = 16 << 10;

/// Limit on the pixels of one block.
const MOST_PIXELS: usize = 12;
/// Limit on the results placed in one pass if they are stored at once; the cost of placing them is
/// then negligible.
const MOST_PLACED: usize = 48;
const MOST_CHANNELS: usize = 32;
const MOST_SUMS: usize = MOST_PIXELS * MOST_CHANNELS;

/// Destination of the results.
#[derive(Debug)]
pub enum Output<'a> {
    /// float32 in the layout of the input.
    Float(&'a mut [f32]),
    /// Rounded, with the output's zero point added, clamped to 0 to 255, and with flipped bits.
    Bytes(&'a mut [u8]),
    /// A plane for each channel, and the length of a plane.
    Planes(&'a mut [f32], usize),
}

/// Convolves at every position of the rows. `row_step` is the distance from one row of the input to
/// the next.
///
/// # Panics
/// If a position lies outside the given numbers.
pub fn convolve<A: Arithmetic>(
    weights: &Weights<A>,
    input: &[A::Input],
    row_step: usize,
    residual: Option<Residual<'_, A::Input>>,
    output: &mut Output<'_>,
    rows: &(impl Iterator<Item = Row> + Clone),
) {
    let kernels = weights.kernels;
    let blocks = if weights.depthwise {
        &kernels.depthwise
    } else {
        &kernels.full
    };
    let mut places = Vec::new();
    if weights.depthwise {
        let columns = (0..weights.run).step_by(weights.channels);
        places.extend(
            (0..weights.rows)
                .flat_map(|row| columns.clone().map(move |column| row * row_step + column)),
        );
    }
    let taps = Taps {
        rows: weights.rows,
        run: weights.run,
        row_step,
        places: &places,
    };
    let reach = (taps.rows - 1) * row_step + taps.run;
    let last = input.len().checked_sub(reach);
    let bytes = matches!(output, Output::Bytes(_));
    let mut finished = Finished {
        values: [0.0; MOST_SUMS],
        bytes: [0; MOST_SUMS],
    };
    let mut sums = [A::Sum::default(); MOST_SUMS];
    let mut chunk = Chunk::new();
    let at_once = residual.is_none() && A::results(output).is_some();
    let most_pixels = blocks.by_pixels[0].0;
    let size = weights
        .blocks
        .iter()
        .map(|block| size_of_val(block.weights.as_slice()))
        .sum::<usize>();
    // Weights that fit into the cache go over the picture together, so that it is read only once.
    let together = if size <= CACHED_WEIGHTS {
        weights.blocks.len()
    } else {
        1
    };
    for channels in weights.blocks.chunks(together.max(1)) {
        let mut chunks = Chunks {
            rows: rows.clone(),
            row: Row::default(),
            done: 0,
            most: if at_once { MOST_PLACED } else { most_pixels },
            most_pooled: most_pixels / 4,
        };
        while chunks.next(&mut chunk) {
            let count = match (chunk.with_input, chunk.pooled) {
                (false, _) => 0,
                (true, false) => chunk.results,
                (true, true) => 4 * chunk.results,
            };
            let [furthest_input, furthest] = chunk.furthest;
            assert!(
                count == 0 || last.is_some_and(|last| furthest_input <= last),
                "a convolution reaches beyond its input"
            );
            let outputs = &chunk.outputs[..chunk.results];
            for block in channels {
                let width = block.vectors * blocks.lanes;
                let input_first = if weights.depthwise { block.first } else { 0 };
                let results = A::results(output).filter(|_| at_once).map(|values| {
                    let last = values.len().checked_sub(block.first + block.channels);
                    assert!(
                        last.is_some_and(|last| furthest <= last),
                        "a convolution reaches beyond its output"
                    );
                    values[block.first..].as_mut_ptr()
                });
                let mut done = 0;
                while done < count {
                    // The smallest block that takes all remaining pixels, else the largest.
                    let takes_all = |(pixels, _): &&(usize, _)| *pixels >= count - done;
                    let (pixels, by_vectors) = blocks
                        .by_pixels
                        .iter()
                        .rev()
                        .find(takes_all)
                        .unwrap_or(&blocks.by_pixels[0]);
                    let to = match results {
                        None => To::Sums(sums[done * width..].as_mut_ptr()),
                        Some(values) => {
                            let places = chunk.outputs
                                [if chunk.pooled { done / 4 } else { done }..]
                                .as_ptr();
                            To::Results {
                                values,
                                places,
                                channels: block.channels,
                                pooled: chunk.pooled,
                            }
                        }
                    };
                    // SAFETY: the kernels are made for this processor. The assertion above found
                    // each run inside the input, a block's own channels are part of a run, and
                    // places behind the last one repeat it. The number of weights is the one that
                    // `pack` stored for these taps. The sums have room for `MOST_PIXELS` times
                    // `MOST_CHANNELS`, which no block exceeds, nor any chunk that uses sums. The
                    // results lie inside the output, also asserted above.
                    unsafe {
                        by_vectors[block.vectors - 1](
                            input.as_ptr().add(input_first),
                            chunk.offsets[done..].as_ptr(),
                            &taps,
                            block.weights.as_ptr(),
                            &block.finish,
                            &to,
                        );
                    }
                    done += pixels;
                }
                if results.is_some() {
                    continue;
                }
                let made = &sums[..count * width];
                let of = Sums {
                    sums: made,
                    finish: &block.finish,
                    flip: kernels.flip,
                    bytes,
                };
                let addend = Addend {
                    residual,
                    first: block.first,
                    chunk: &chunk,
                };
                // SAFETY: the function is made for this processor.
                unsafe { (kernels.finish)(&of, &addend, &mut finished) };
                write(&finished, width, block, outputs, output);
            }
        }
    }
}

fn write<A: Arithmetic>(
    finished: &Finished,
    width: usize,
    block: &Block<A>,
    to: &[usize],
    output: &mut Output<'_>,
) {
    let (first, channels) = (block.first, block.channels);
    for (ix, to) in to.iter().enumerate() {
        let (from, to) = (ix * width, to + first);
        match output {
            Output::Float(values) => copy(
                &mut values[to..to + channels],
                &finished.values[from..from + channels],
            ),
            Output::Bytes(bytes) => copy(
                &mut bytes[to..to + channels],
                &finished.bytes[from..from + channels],
            ),
            Output::Planes(values, plane) => {
                for channel in 0..channels {
                    values[to - first + (first + channel) * *plane] =
                        finished.values[from + channel];
                }
            }
        }
    }
}

/// Copies in blocks of 8, a length known at compile time, which avoids a call to `memcpy`.
#[inline(always)]
fn copy<T: Copy>(to: &mut [T], from: &[T]) {
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let (from, from_rest) = from.as_chunks::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

impl Arithmetic for Float {
    type Input = f32;
    type Weight = f32;
    type Sum = f32;
    type Result = f32;
    const GROUP: usize = 1;
    const LARGEST_WEIGHT: f64 = f64::INFINITY;

    fn kernels() -> &'static Kernels<Self> {
        static BEST: OnceLock<&Kernels<Float>> = OnceLock::new();
        BEST.get_or_init(|| own::float().into_iter().next().unwrap_or(&portable::FLOAT))
    }

    #[inline]
    fn results<'a>(output: &'a mut Output<'_>) -> Option<&'a mut [f32]> {
        if let Output::Float(values) = output {
            Some(values)
        } else {
            None
        }
    }
}

impl Arithmetic for Integer {
    type Input = u8;
    type Weight = i8;
    type Sum = i32;
    type Result = u8;
    const GROUP: usize = 4;
    /// Two products with a signed byte, up to 128, then fit into 16 bits.
    const LARGEST_WEIGHT: f64 = 127.0;

    fn kernels() -> &'static Kernels<Self> {
        static BEST: OnceLock<&Kernels<Integer>> = OnceLock::new();
        BEST.get_or_init(|| {
            own::integer()
                .into_iter()
                .next()
                .unwrap_or(&portable::INTEGER)
        })
    }

    #[inline]
    fn results<'a>(output: &'a mut Output<'_>) -> Option<&'a mut [u8]> {
        if let Output::Bytes(bytes) = output {
            Some(bytes)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
