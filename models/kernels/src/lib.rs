//! Direct convolution with vector instructions: no im2col, and bias, residual, activation and
//! rounding to 8 bits happen while a result is in the cache. Works in float32, and in integers
//! (unsigned 8-bit values, signed 8-bit weights, 32-bit sums). It handles rows of numbers, not
//! networks or files. `models/benches/README.md` has the gain.
//!
//! This is the only crate with `unsafe`: vector instructions chosen at run time require it. The
//! public functions are safe, because they check every bound first. This file walks over the
//! picture; `lanes` sums up a block, and the files named after processors hold the instructions.
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
mod lanes;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other;
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

/// Zero points: the bytes that stand for the value 0. The output's is added to each result that is
/// stored as a byte. 0 in floating point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Zeros {
    /// Zero point of the inputs.
    pub input: u8,
    /// Zero point of the results.
    pub output: u8,
}

/// Epilogue of one output channel: `activate(scale × sum + bias + residual)`.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// Factor for the sum of products.
    pub scale: f32,
    /// Added to the scaled sum.
    pub bias: f32,
    /// Factor for results below 0: 0 is a ReLU, 1 no activation, anything else a PReLU.
    pub slope: f32,
}

/// The weights of a convolution, in the order in which they are read.
pub struct Weights<A: Arithmetic> {
    kernels: &'static Kernels<A>,
    rows: usize,
    run: usize,
    channels: usize,
    /// Zero point of the output.
    zero: u8,
    /// Depthwise: each channel has a kernel of its own.
    depthwise: bool,
    blocks: Vec<Block<A>>,
}

struct Block<A: Arithmetic> {
    first: usize,
    channels: usize,
    vectors: usize,
    weights: Vec<A::Weight>,
    finish: Finish,
}

/// Epilogue of a block, per channel, padded to whole vectors.
struct Finish {
    /// Initial sums: the correction for the input's zero point and for the flipped bits.
    offset: Vec<i32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    slope: Vec<f32>,
    /// Added before truncation to a byte: the output's zero point, and a half to round.
    half: f32,
    /// Activation to apply, one of the constants in `lanes`.
    activation: u8,
}

impl<A: Arithmetic> Weights<A> {
    /// Packs the weights of a convolution over `rows` rows of `run` numbers each, the kernel's
    /// columns times the channels of the input: `weight(output channel, row, position in the run)`.
    /// `weight` must return 0 where the run is longer than the kernel. `channels` are the outputs.
    ///
    /// # Panics
    /// If `run` is not a multiple of [`Arithmetic::GROUP`], or if a weight is larger than
    /// [`Arithmetic::LARGEST_WEIGHT`].
    pub fn pack(
        rows: usize,
        run: usize,
        channels: &[Channel],
        zeros: Zeros,
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self {
        Self::pack_for(A::kernels(), rows, run, channels, zeros, weight)
    }

    fn pack_for(
        kernels: &'static Kernels<A>,
        rows: usize,
        run: usize,
        channels: &[Channel],
        zeros: Zeros,
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self {
        assert!(
            run.is_multiple_of(A::GROUP),
            "a run of {run} is not a multiple of {}",
            A::GROUP
        );
        let lanes = kernels.full.lanes;
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < channels.len() {
            let left = channels.len() - first;
            let vectors = left.div_ceil(lanes).min(kernels.full.most_vectors());
            let width = vectors * lanes;
            let count = left.min(width);
            let mut weights = Vec::with_capacity(rows * run * width);
            let mut totals = vec![0.0_f64; width];
            for row in 0..rows {
                for group in 0..run / A::GROUP {
                    for (lane, total) in totals.iter_mut().enumerate() {
                        for k in 0..A::GROUP {
                            let inside = lane < count;
                            let w = if inside {
                                checked::<A>(weight(first + lane, row, group * A::GROUP + k))
                            } else {
                                A::Weight::default()
                            };
                            *total += w.into();
                            weights.push(w);
                        }
                    }
                }
            }
            let finish = Finish::new::<A>(
                &channels[first..first + count],
                &totals,
                kernels.flip,
                zeros,
            );
            blocks.push(Block {
                first,
                channels: count,
                vectors,
                weights,
                finish,
            });
            first += count;
        }
        Self {
            kernels,
            rows,
            run,
            channels: channels.len(),
            zero: zeros.output,
            depthwise: false,
            blocks,
        }
    }

    /// Packs the weights of a depthwise convolution: `weight(channel, row, column)`. A run is as
    /// long as `columns` times the channels.
    ///
    /// # Panics
    /// If a weight is larger than [`Arithmetic::LARGEST_WEIGHT`], or if the channels are fewer than
    /// a vector holds and a run is not a multiple of [`Arithmetic::GROUP`].
    pub fn pack_depthwise(
        rows: usize,
        columns: usize,
        channels: &[Channel],
        zeros: Zeros,
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self {
        Self::pack_depthwise_for(A::kernels(), rows, columns, channels, zeros, weight)
    }

    fn pack_depthwise_for(
        kernels: &'static Kernels<A>,
        rows: usize,
        columns: usize,
        channels: &[Channel],
        zeros: Zeros,
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self {
        let (count, run, lanes) = (
            channels.len(),
            columns * channels.len(),
            kernels.depthwise.lanes,
        );
        let places = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let of_lanes = |first: usize, width: usize| {
            let all = places().flat_map(move |(row, column)| {
                (first..first + width).map(move |lane| (lane, row, column))
            });
            all.map(|(channel, row, column)| checked::<A>(weight(channel, row, column)))
        };
        if count < lanes {
            // Too few channels to fill a vector: an ordinary convolution with zeros for all other
            // channels is fast enough.
            let full = |output: usize, row: usize, at: usize| {
                if at % count == output {
                    weight(output, row, at / count)
                } else {
                    A::Weight::default()
                }
            };
            return Self::pack_for(kernels, rows, run, channels, zeros, full);
        }
        let mut blocks = Vec::new();
        let mut done = 0;
        while done < count {
            let vectors = ((count - done) / lanes).clamp(1, kernels.depthwise.most_vectors());
            let width = vectors * lanes;
            // The last vector is a full one too, so it repeats some channels.
            let first = done.min(count - width);
            let weights: Vec<_> = of_lanes(first, width).collect();
            let mut totals = vec![0.0; width];
            for (lane, weight) in weights.iter().enumerate() {
                totals[lane % width] += (*weight).into();
            }
            let finish = Finish::new::<A>(
                &channels[first..first + width],
                &totals,
                kernels.flip,
                zeros,
            );
            blocks.push(Block {
                first,
                channels: width,
                vectors,
                weights,
                finish,
            });
            done = first + width;
        }
        Self {
            kernels,
            rows,
            run,
            channels: count,
            zero: zeros.output,
            depthwise: true,
            blocks,
        }
    }

    /// Returns the number of output channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the byte that stands for 0 in an output, with its bits flipped.
    pub fn blank(&self) -> u8 {
        self.zero ^ self.kernels.flip
    }
}

/// Returns a weight unless it is too large for the kernels.
fn checked<A: Arithmetic>(weight: A::Weight) -> A::Weight {
    let magnitude = weight.into().abs();
    assert!(
        magnitude.is_nan() || magnitude <= A::LARGEST_WEIGHT,
        "a weight of {weight:?} is too large"
    );
    weight
}

impl Finish {
    /// Builds the epilogue. `totals` are the sums of each channel's weights, padded to whole
    /// vectors.
    fn new<A: Arithmetic>(channels: &[Channel], totals: &[f64], flip: u8, zeros: Zeros) -> Self {
        let zero = i32::from(flip) - i32::from(zeros.input);
        let blank = Channel {
            scale: 0.0,
            bias: 0.0,
            slope: 1.0,
        };
        let padded = || (0..totals.len()).map(|lane| channels.get(lane).unwrap_or(&blank));
        let slopes = |inside: fn(f32) -> bool| padded().all(|channel| inside(channel.slope));
        let activation = match () {
            // Truncation to a byte already cuts off at 0.
            () if size_of::<A::Result>() == 1
                && zeros.output == 0
                && slopes(|slope| slope >= 0.0) =>
            {
                lanes::NO_ACTIVATION
            }
            () if slopes(|slope| slope == 1.0) => lanes::NO_ACTIVATION,
            () if slopes(|slope| (0.0..=1.0).contains(&slope)) => lanes::LEAKY,
            () => lanes::ANY_SLOPE,
        };
        Self {
            offset: totals
                .iter()
                .map(|total| (*total as i32).wrapping_mul(zero))
                .collect(),
            scale: padded().map(|channel| channel.scale).collect(),
            bias: padded().map(|channel| channel.bias).collect(),
            slope: padded().map(|channel| channel.slope).collect(),
            half: f32::from(zeros.output) + 0.5,
            activation,
        }
    }
}

impl<A: Arithmetic> fmt::Debug for Weights<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows of {} to {} channels by {}",
            self.rows, self.run, self.channels, self.kernels.name
        )
    }
}

/// The residual of a ResNet block, added to each result before the activation.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a, I> {
    /// The numbers that [`Row::residual`] points into.
    pub values: &'a [I],
    /// Channels of the residual; further ones get nothing added.
    pub channels: usize,
    /// Factor for the values.
    pub scale: f32,
    /// Length of a row in numbers, if the mean of two by two pixels is added.
    pub pooled: Option<usize>,
}

/// Neighbouring results of one row, and their positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// Number of results, after pooling.
    pub count: usize,
    /// Position of the first result's run in the input; `None` where only the residual reaches.
    pub input: Option<Line>,
    /// Position of each result's first channel in the output.
    pub output: Line,
    /// `None` where the residual does not reach.
    pub residual: Option<Line>,
    /// Max pooling: each result is the largest of four, at its place, this far to the right, this
    /// far below, and both.
    pub pool: Option<[usize; 2]>,
}

/// Positions of neighbours: the first, and the distance to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// Position of the first.
    pub first: usize,
    /// Distance from one to the next.
    pub step: usize,
}

impl Line {
    #[inline]
    fn at(self, ix: usize) -> usize {
        self.first + ix * self.step
    }

    /// Writes the positions of the neighbours from `first` on.
    #[inline]
    fn write_to(self, places: &mut [usize], first: usize) {
        for (ix, place) in (first..).zip(places) {
            *place = self.at(ix);
        }
    }
}

/// Results computed together, from as many inputs, or from four times as many with max pooling. The
/// last place is repeated behind them for blocks larger than what is left.
struct Chunk {
    results: usize,
    with_input: bool,
    with_residual: bool,
    pooled: bool,
    /// The largest position in the input and in the output.
    furthest: [usize; 2],
    offsets: [usize; MOST_PLACED + MOST_PIXELS],
    outputs: [usize; MOST_PLACED + MOST_PIXELS],
    residuals: [usize; MOST_PLACED],
}

impl Chunk {
    fn new() -> Self {
        let (offsets, outputs) = (
            [0; MOST_PLACED + MOST_PIXELS],
            [0; MOST_PLACED + MOST_PIXELS],
        );
        Self {
            results: 0,
            with_input: false,
            with_residual: false,
            pooled: false,
            furthest: [0; 2],
            offsets,
            outputs,
            residuals: [0; MOST_PLACED],
        }
    }

    #[inline]
    fn repeat_last(&mut self) {
        let last = self.results - 1;
        let (offset, output) = (self.offsets[last], self.outputs[last]);
        self.offsets[self.results..][..MOST_PIXELS].fill(offset);
        self.outputs[self.results..][..MOST_PIXELS].fill(output);
    }
}

/// Splits rows into chunks.
struct Chunks<R> {
    rows: R,
    row: Row,
    done: usize,
    /// Limits on the results of one chunk, without and with pooling.
    most: usize,
    most_pooled: usize,
}

impl<R: Iterator<Item = Row>> Chunks<R> {
    /// Fills `chunk` with the next results that share one kind: with or without input, residual and
    /// pooling. Returns false at the end.
    fn next(&mut self, chunk: &mut Chunk) -> bool {
        (chunk.results, chunk.furthest) = (0, [0; 2]);
        loop {
            if self.done == self.row.count {
                let Some(row) = self.rows.next() else { break };
                (self.row, self.done) = (row, 0);
                continue;
            }
            let Row {
                count,
                input,
                output,
                residual,
                pool,
            } = self.row;
            let kind = (input.is_some(), residual.is_some(), pool.is_some());
            if chunk.results == 0 {
                (chunk.with_input, chunk.with_residual, chunk.pooled) = kind;
            } else if (chunk.with_input, chunk.with_residual, chunk.pooled) != kind {
                break;
            }
            let room = if chunk.pooled {
                self.most_pooled
            } else {
                self.most
            } - chunk.results;
            let now = room.min(count - self.done);
            let at = chunk.results..chunk.results + now;
            let end = self.done + now - 1;
            let [right, below] = pool.unwrap_or_default();
            let reached = [
                input.map_or(0, |line| line.at(end) + right + below),
                output.at(end),
            ];
            chunk.furthest = [
                chunk.furthest[0].max(reached[0]),
                chunk.furthest[1].max(reached[1]),
            ];
            match (input, pool) {
                (Some(line), None) => line.write_to(&mut chunk.offsets[at.clone()], self.done),
                (Some(line), Some([right, below])) => {
                    let fours = chunk.offsets.as_chunks_mut::<4>().0;
                    for (ix, four) in (self.done..).zip(&mut fours[at.clone()]) {
                        let first = line.at(ix);
                        *four = [first, first + right, first + below, first + right + below];
                    }
                }
                (None, _) => {}
            }
            output.write_to(&mut chunk.outputs[at.clone()], self.done);
            if let Some(line) = residual {
                line.write_to(&mut chunk.residuals[at], self.done);
            }
            chunk.results += now;
            self.done += now;
            if now == room {
                break;
            }
        }
        if chunk.results > 0 && !chunk.pooled {
            chunk.repeat_last();
        }
        chunk.results > 0
    }
}

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

/// The sums of one block.
struct Sums<'a, S> {
    sums: &'a [S],
    finish: &'a Finish,
    flip: u8,
    bytes: bool,
}

/// The residual at each result of one block.
struct Addend<'a, I> {
    residual: Option<Residual<'a, I>>,
    first: usize,
    chunk: &'a Chunk,
}

/// The results of one block, pixel by pixel.
struct Finished {
    values: [f32; MOST_SUMS],
    bytes: [u8; MOST_SUMS],
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

/// Turns sums into results.
#[inline(always)]
fn finish<S: Sum, I: Element, const LANES: usize>(
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
struct Lane<const LANES: usize> {
    scale: [f32; LANES],
    bias: [f32; LANES],
    slope: [f32; LANES],
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
fn whole(value: f32) -> u8 {
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < 255.0 { value } else { 255.0 };
    // SAFETY: the value is between 0 and 255. The checked conversion is several times slower.
    unsafe { value.to_int_unchecked::<i32>() as u8 }
}

#[inline(always)]
fn activated<S: Sum, const LANES: usize, const RESIDUAL: bool, const SUMS: bool>(
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
fn larger<const LANES: usize>(mut a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
    for lane in 0..LANES {
        a[lane] = if b[lane] > a[lane] { b[lane] } else { a[lane] };
    }
    a
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
