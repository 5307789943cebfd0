//! Direct convolution on the vector instructions of the processor at hand: no im2col, the bias, the residual sum, the
//! activation and the rounding to 8 bits all while a result is in the cache. In floating point, and in integers with
//! unsigned 8-bit values, signed 8-bit weights and 32-bit sums. Knows rows of numbers, not networks or files.
//!
//! The one file with `unsafe`: vector instructions chosen at run time cannot be had without. Its public functions
//! check every bound first and are safe. What it gains is in `benches/README.md`.
//!
//! Values lie as \[picture, row, column, channel\]. A row of the kernel then covers one run of neighbouring numbers
//! in each row of the picture, so a convolution is a few dot products over such runs. A block of `PIXELS` results for
//! `VECTORS` × `LANES` channels stays in registers meanwhile. Where each channel has a kernel of its own, the channels
//! of a place are multiplied as they lie.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;

/// The kind of numbers a convolution works on.
pub(crate) trait Arithmetic: Sized + Send + Sync + 'static {
    type Input: Element;
    type Weight: Copy + Default + Send + Sync + fmt::Debug;
    type Sum: Sum;
    /// How many neighbouring inputs one instruction multiplies and adds up for each result.
    const GROUP: usize;
    /// The best of this processor.
    fn kernels() -> &'static Kernels<Self>;
}

/// Inputs, weights and sums are float32.
#[derive(Debug)]
pub(crate) struct Float;

/// Inputs unsigned 8-bit, weights signed 8-bit, sums 32-bit.
#[derive(Debug)]
pub(crate) struct Integer;

/// A number of a picture.
pub(crate) trait Element: Copy + Default + Send + Sync + fmt::Debug {
    /// `flip` as in [`Kernels`].
    fn value(self, flip: u8) -> f32;
    /// Four values, where the compiler would not make vectors of them by itself.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn four(_: &[Self; 4], _: u8) -> Option<[f32; 4]> {
        None
    }
}

/// What products are added up in.
pub(crate) trait Sum: Copy + Default {
    fn value(self, offset: i32) -> f32;
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
        Some(unsafe { arm::widen(*numbers, flip) })
    }
}

impl Sum for f32 {
    #[inline(always)]
    fn value(self, _: i32) -> f32 {
        self
    }
}

impl Sum for i32 {
    #[inline(always)]
    fn value(self, offset: i32) -> f32 {
        (self + offset) as f32
    }
}

/// The numbers under the kernel for one result, from where the result's run begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taps {
    /// Rows of the kernel.
    pub(crate) rows: usize,
    /// Inputs in each row: its columns times the channels, a multiple of the arithmetic's group.
    pub(crate) run: usize,
    /// Inputs from one row of the picture to the next.
    pub(crate) row_step: usize,
    /// Where each channel has a kernel of its own: inputs from one column to the next, which are the channels.
    pub(crate) step: usize,
}

/// Where the sums of one block go.
enum To<'a, S> {
    /// One pixel's after the other's, for `FinishFn`.
    Sums(*mut S),
    /// Finished, as numbers without a residual: into `values` from each of `places` on.
    /// No more than the block's channels.
    Results { values: *mut f32, places: *const usize, channels: usize, finish: &'a Finish, pooled: bool },
}

/// Sums up one block: from `base`, the runs that begin at each of the offsets.
type BlockFn<A> = unsafe fn(
    base: *const <A as Arithmetic>::Input,
    offsets: *const usize,
    taps: Taps,
    weights: *const <A as Arithmetic>::Weight,
    to: &To<'_, <A as Arithmetic>::Sum>,
);

type FinishFn<A> = unsafe fn(&Sums<'_, <A as Arithmetic>::Sum>, &Addend<'_, <A as Arithmetic>::Input>, &mut Finished);

type Blocks<A> = &'static [(usize, &'static [BlockFn<A>])];

/// The functions for one instruction set.
pub(crate) struct Kernels<A: Arithmetic> {
    /// The instruction set, for people.
    pub(crate) name: &'static str,
    lanes: usize,
    /// 8-bit inputs are kept with these bits turned over: where a processor multiplies signed by signed only, 128 is
    /// taken off each that way, and what is missing in the sums is put back when they are finished.
    pub(crate) flip: u8,
    /// For each number of pixels, the largest first and 1 last: the blocks of 1, 2, … vectors.
    blocks: Blocks<A>,
    /// The same for channels that have a kernel each; never called in integers.
    depthwise: Blocks<A>,
    finish: FinishFn<A>,
    /// Blocks can give results as well as sums.
    gives_results: bool,
    /// Takes the place of these where a weight is further from 0 than they have room for.
    wide: Option<&'static Kernels<A>>,
}

/// How far from 0 a weight may be for kernels that have others to be wide: two products with a signed byte, up to 128,
/// then fit into 16 bits.
const NARROW: f64 = 127.0;

/// Half of what the nearest cache of any of these processors holds.
const CACHED_WEIGHTS: usize = 16 << 10;

const MOST_PIXELS: usize = 12;
const MOST_CHANNELS: usize = 32;
const MOST_SUMS: usize = MOST_PIXELS * MOST_CHANNELS;

/// What becomes of the sums of one output channel: `activate(scale × sum + bias + residual)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    /// What a result below 0 is multiplied by: 0 is a ReLU, 1 none, anything else a PReLU.
    pub(crate) slope: f32,
}

/// The weights of a convolution in the order they are read.
pub(crate) struct Weights<A: Arithmetic> {
    kernels: &'static Kernels<A>,
    rows: usize,
    run: usize,
    channels: usize,
    /// Each channel has a kernel of its own and sees nothing of the others.
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

/// Per channel of a block, padded to whole vectors.
#[derive(Default)]
struct Finish {
    offset: Vec<i32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    slope: Vec<f32>,
}

impl<A: Arithmetic> Weights<A> {
    /// `weight(channel, row, position in the run)`; where the run is longer than the kernel it must give 0.
    pub(crate) fn pack(
        rows: usize,
        run: usize,
        channels: &[Channel],
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self
    where
        A::Weight: Into<f64>,
    {
        Self::pack_for(A::kernels(), rows, run, channels, weight)
    }

    fn pack_for(
        kernels: &'static Kernels<A>,
        rows: usize,
        run: usize,
        channels: &[Channel],
        weight: impl Fn(usize, usize, usize) -> A::Weight,
    ) -> Self
    where
        A::Weight: Into<f64>,
    {
        assert!(run.is_multiple_of(A::GROUP), "a run of {run} is no multiple of {}", A::GROUP);
        let narrow = |channel, row| (0..run).all(|at| weight(channel, row, at).into().abs() <= NARROW);
        let kernels = match kernels.wide {
            Some(wide) if !(0..channels.len()).all(|channel| (0..rows).all(|row| narrow(channel, row))) => wide,
            _ => kernels,
        };
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < channels.len() {
            let left = channels.len() - first;
            let vectors = left.div_ceil(kernels.lanes).min(kernels.blocks[0].1.len());
            let width = vectors * kernels.lanes;
            let count = left.min(width);
            let mut weights = Vec::with_capacity(rows * run * width);
            let mut totals = vec![0.0_f64; width];
            for row in 0..rows {
                for group in 0..run / A::GROUP {
                    for (lane, total) in totals.iter_mut().enumerate() {
                        for k in 0..A::GROUP {
                            let inside = lane < count;
                            let w = if inside {
                                weight(first + lane, row, group * A::GROUP + k)
                            } else {
                                A::Weight::default()
                            };
                            *total += w.into();
                            weights.push(w);
                        }
                    }
                }
            }
            let finish = Finish::new(&channels[first..first + count], &totals, kernels.flip);
            blocks.push(Block { first, channels: count, vectors, weights, finish });
            first += count;
        }
        Self { kernels, rows, run, channels: channels.len(), depthwise: false, blocks }
    }

    /// The number of output channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// The bits that are turned over in 8-bit inputs and outputs.
    pub(crate) fn flip(&self) -> u8 {
        self.kernels.flip
    }
}

impl Weights<Float> {
    /// For channels that have a kernel each: `weight(channel, row, column)`.
    pub(crate) fn pack_depthwise(
        rows: usize,
        columns: usize,
        channels: &[Channel],
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        Self::pack_depthwise_for(Float::kernels(), rows, columns, channels, weight)
    }

    fn pack_depthwise_for(
        kernels: &'static Kernels<Float>,
        rows: usize,
        columns: usize,
        channels: &[Channel],
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let (count, run) = (channels.len(), columns * channels.len());
        if count < kernels.lanes {
            // They fill no vector: one with zeros for all other channels is quick enough.
            let full = |output: usize, row: usize, at: usize| {
                if at % count == output { weight(output, row, at / count) } else { 0.0 }
            };
            return Self::pack_for(kernels, rows, run, channels, full);
        }
        let mut blocks = Vec::new();
        let mut done = 0;
        while done < count {
            let vectors = ((count - done) / kernels.lanes).clamp(1, kernels.depthwise[0].1.len());
            let width = vectors * kernels.lanes;
            // The last vector is whole as well: it does some channels again.
            let first = done.min(count - width);
            let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            let weights = places.flat_map(|(row, column)| (first..first + width).map(move |lane| (lane, row, column)));
            let weights = weights.map(|(channel, row, column)| weight(channel, row, column)).collect();
            let finish = Finish::new(&channels[first..first + width], &vec![0.0; width], kernels.flip);
            blocks.push(Block { first, channels: width, vectors, weights, finish });
            done = first + width;
        }
        Self { kernels, rows, run, channels: count, depthwise: true, blocks }
    }
}

impl Finish {
    /// `totals` are the sums of each channel's weights, of whole vectors.
    fn new(channels: &[Channel], totals: &[f64], flip: u8) -> Self {
        let mut finish = Self::default();
        for (lane, total) in totals.iter().enumerate() {
            let blank = Channel { scale: 0.0, bias: 0.0, slope: 1.0 };
            let channel = channels.get(lane).copied().unwrap_or(blank);
            finish.offset.push(*total as i32 * i32::from(flip));
            finish.scale.push(channel.scale);
            finish.bias.push(channel.bias);
            finish.slope.push(channel.slope);
        }
        finish
    }
}

impl<A: Arithmetic> fmt::Debug for Weights<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of {} to {} channels by {}", self.rows, self.run, self.channels, self.kernels.name)
    }
}

/// What is added to each result before the activation: the residual of a ResNet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Residual<'a, I> {
    pub(crate) values: &'a [I],
    /// Channels it has; further ones get nothing added.
    pub(crate) channels: usize,
    pub(crate) scale: f32,
    /// The mean of two by two pixels is added; the row's length in numbers.
    pub(crate) pooled: Option<usize>,
}

/// Neighbouring results of one row, and where they lie.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    pub(crate) count: usize,
    /// Where the first result's numbers begin in the input; none where only the residual reaches.
    pub(crate) input: Option<Line>,
    pub(crate) output: Line,
    /// None where the residual does not reach.
    pub(crate) residual: Option<Line>,
    /// Each result is the largest of four: at its place, this much to the right, this much below, and both.
    pub(crate) pool: Option<[usize; 2]>,
}

/// Where neighbours lie: the first, and the distance to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line {
    pub(crate) first: usize,
    pub(crate) step: usize,
}

impl Line {
    fn at(self, ix: usize) -> usize {
        self.first + ix * self.step
    }

    /// Where the neighbours from `first` on lie.
    fn write_to(self, places: &mut [usize], first: usize) {
        for (ix, place) in (first..).zip(places) {
            *place = self.at(ix);
        }
    }
}

/// The results of one call of a kernel: as many as its pixels, or a quarter of them where four become one.
#[derive(Default)]
struct Chunk {
    results: usize,
    with_input: bool,
    with_residual: bool,
    pooled: bool,
    /// Of the inputs: `results`, or four times as many.
    offsets: [usize; MOST_PIXELS],
    outputs: [usize; MOST_PIXELS],
    residuals: [usize; MOST_PIXELS],
}

/// Results on their way from rows into chunks.
struct Chunks<R> {
    rows: R,
    row: Row,
    done: usize,
    pixels: usize,
}

impl<R: Iterator<Item = Row>> Chunks<R> {
    /// The next results that one call takes: all with an input or all without, as with a residual and a pooling.
    fn next(&mut self, chunk: &mut Chunk) -> bool {
        chunk.results = 0;
        loop {
            if self.done == self.row.count {
                let Some(row) = self.rows.next() else { break };
                (self.row, self.done) = (row, 0);
                continue;
            }
            let Row { count, input, output, residual, pool } = self.row;
            let kind = (input.is_some(), residual.is_some(), pool.is_some());
            if chunk.results == 0 {
                (chunk.with_input, chunk.with_residual, chunk.pooled) = kind;
            } else if (chunk.with_input, chunk.with_residual, chunk.pooled) != kind {
                break;
            }
            let room = if chunk.pooled { self.pixels / 4 } else { self.pixels } - chunk.results;
            let now = room.min(count - self.done);
            let at = chunk.results..chunk.results + now;
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
        chunk.results > 0
    }
}

/// Where results go.
#[derive(Debug)]
pub(crate) enum Output<'a> {
    Float(&'a mut [f32]),
    /// Rounded, cut off at 0 and 255, and flipped.
    Bytes(&'a mut [u8]),
    /// One plane for each channel; its length.
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

/// Convolves at every place of the rows.
///
/// # Panics
/// If a place lies outside the given numbers.
pub(crate) fn convolve<A: Arithmetic>(
    weights: &Weights<A>,
    input: &[A::Input],
    row_step: usize,
    residual: Option<Residual<'_, A::Input>>,
    output: &mut Output<'_>,
    rows: &(impl Iterator<Item = Row> + Clone),
) {
    let kernels = weights.kernels;
    let blocks = if weights.depthwise { kernels.depthwise } else { kernels.blocks };
    let taps = Taps { rows: weights.rows, run: weights.run, row_step, step: weights.channels };
    let reach = (taps.rows - 1) * row_step + taps.run;
    let last = input.len().checked_sub(reach);
    let bytes = matches!(output, Output::Bytes(_));
    let mut finished = Finished { values: [0.0; MOST_SUMS], bytes: [0; MOST_SUMS] };
    let mut sums = [A::Sum::default(); MOST_SUMS];
    let mut chunk = Chunk::default();
    let size = weights.blocks.iter().map(|block| size_of_val(block.weights.as_slice())).sum::<usize>();
    // What stays in the cache goes over the picture once, so that the picture comes in once.
    let together = if size <= CACHED_WEIGHTS { weights.blocks.len() } else { 1 };
    for channels in weights.blocks.chunks(together.max(1)) {
        let mut chunks = Chunks { rows: rows.clone(), row: Row::default(), done: 0, pixels: blocks[0].0 };
        while chunks.next(&mut chunk) {
            let count = match (chunk.with_input, chunk.pooled) {
                (false, _) => 0,
                (true, false) => chunk.results,
                (true, true) => 4 * chunk.results,
            };
            let inside = |last| chunk.offsets[..count].iter().all(|offset| *offset <= last);
            assert!(count == 0 || last.is_some_and(inside), "a convolution reaches beyond its input");
            for block in channels {
                let width = block.vectors * kernels.lanes;
                let input_first = if weights.depthwise { block.first } else { 0 };
                let outputs = &chunk.outputs[..chunk.results];
                let mut results = match output {
                    Output::Float(values) if kernels.gives_results && residual.is_none() && count > 0 => {
                        let last = values.len().checked_sub(block.first + block.channels);
                        let inside = last.is_some_and(|last| outputs.iter().all(|output| *output <= last));
                        assert!(inside, "a convolution reaches beyond its output");
                        Some(values[block.first..].as_mut_ptr())
                    }
                    _ => None,
                };
                let mut done = 0;
                while done < count {
                    let fits = |(pixels, _): &&(usize, _)| *pixels <= count - done;
                    let Some((pixels, by_vectors)) = blocks.iter().find(fits) else { break };
                    let to = match &mut results {
                        None => To::Sums(sums[done * width..].as_mut_ptr()),
                        Some(values) => {
                            let places = outputs[if chunk.pooled { done / 4 } else { done }..].as_ptr();
                            To::Results {
                                values: *values,
                                places,
                                channels: block.channels,
                                finish: &block.finish,
                                pooled: chunk.pooled,
                            }
                        }
                    };
                    // SAFETY: the kernels are those of this processor; each run was found inside the input just now,
                    // of which a block's own channels are a part; the weights are as many as `pack` put there for
                    // these taps; the sums have room for `MOST_PIXELS` times `MOST_CHANNELS`, which no block exceeds,
                    // and the results were found inside the output.
                    unsafe {
                        by_vectors[block.vectors - 1](
                            input.as_ptr().add(input_first),
                            chunk.offsets[done..].as_ptr(),
                            taps,
                            block.weights.as_ptr(),
                            &to,
                        );
                    }
                    done += pixels;
                }
                if results.is_some() {
                    continue;
                }
                let made = &sums[..count * width];
                let of = Sums { sums: made, finish: &block.finish, flip: kernels.flip, bytes };
                let addend = Addend { residual, first: block.first, chunk: &chunk };
                // SAFETY: it is made for this processor.
                unsafe { (kernels.finish)(&of, &addend, &mut finished) };
                write(&finished, width, block, &chunk.outputs[..chunk.results], output);
            }
        }
    }
}

fn write<A: Arithmetic>(finished: &Finished, width: usize, block: &Block<A>, to: &[usize], output: &mut Output<'_>) {
    let (first, channels) = (block.first, block.channels);
    for (ix, to) in to.iter().enumerate() {
        let (from, to) = (ix * width, to + first);
        match output {
            Output::Float(values) => copy(&mut values[to..to + channels], &finished.values[from..from + channels]),
            Output::Bytes(bytes) => copy(&mut bytes[to..to + channels], &finished.bytes[from..from + channels]),
            Output::Planes(values, plane) => {
                for channel in 0..channels {
                    values[to - first + (first + channel) * *plane] = finished.values[from + channel];
                }
            }
        }
    }
}

/// Lengths known when compiling make a few moves of a call.
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

/// From sums to results.
#[inline(always)]
fn finish<S: Sum, I: Element, const LANES: usize>(of: &Sums<'_, S>, addend: &Addend<'_, I>, finished: &mut Finished) {
    let width = of.finish.scale.len();
    match &addend.residual {
        None => activate::<S, LANES, false, true>(of, addend.chunk, finished),
        Some(residual) => {
            let chunk = addend.chunk;
            let values = finished.values.chunks_exact_mut(width).zip(&chunk.residuals).take(chunk.results);
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

/// The residual of one pixel.
#[inline(always)]
fn add_up<I: Element, const LANES: usize>(
    residual: &Residual<'_, I>,
    at: usize,
    first: usize,
    flip: u8,
    values: &mut [f32],
) {
    let Residual { values: numbers, channels, scale, pooled } = *residual;
    for (vector, values) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let first = first + vector * LANES;
        *values = [0.0; LANES];
        let shared = LANES.min(channels.saturating_sub(first));
        let at = at + first;
        let mut add = |at: usize, scale: f32| {
            if shared == LANES {
                let numbers = &numbers[at..at + LANES];
                #[cfg(target_arch = "aarch64")]
                if let Some(numbers) = numbers.try_into().ok().and_then(|numbers| I::four(numbers, flip)) {
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
                [at, at + channels, at + row, at + row + channels].into_iter().for_each(|at| add(at, 0.25 * scale));
            }
        }
    }
}

/// What one vector of channels needs.
#[derive(Clone, Copy)]
struct Lane<const LANES: usize> {
    offset: [i32; LANES],
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
    let Finish { offset, scale, bias, slope } = of.finish;
    let (offset, scale) = (offset.as_chunks::<LANES>().0, scale.as_chunks::<LANES>().0);
    let (bias, slope) = (bias.as_chunks::<LANES>().0, slope.as_chunks::<LANES>().0);
    let vectors = scale.len();
    for vector in 0..vectors {
        let lane = Lane { offset: offset[vector], scale: scale[vector], bias: bias[vector], slope: slope[vector] };
        for pixel in 0..chunk.results {
            let at = pixel * vectors + vector;
            let added = if RESIDUAL { values[at] } else { [0.0; LANES] };
            let none = [S::default(); LANES];
            let value = if !SUMS {
                activated::<S, LANES, RESIDUAL, SUMS>(&none, &lane, &added)
            } else if chunk.pooled {
                let first = 4 * pixel * vectors + vector;
                let a = activated::<S, LANES, RESIDUAL, SUMS>(&sums[first], &lane, &added);
                let b = activated::<S, LANES, RESIDUAL, SUMS>(&sums[first + vectors], &lane, &added);
                let c = activated::<S, LANES, RESIDUAL, SUMS>(&sums[first + 2 * vectors], &lane, &added);
                let d = activated::<S, LANES, RESIDUAL, SUMS>(&sums[first + 3 * vectors], &lane, &added);
                larger(larger(a, b), larger(c, d))
            } else {
                activated::<S, LANES, RESIDUAL, SUMS>(&sums[at], &lane, &added)
            };
            values[at] = value;
            if of.bytes {
                #[cfg(target_arch = "aarch64")]
                if let (Ok(value), Ok(bytes)) = (value.as_slice().try_into(), bytes[at].as_mut_slice().try_into()) {
                    // SAFETY: every processor of this architecture has NEON.
                    unsafe { arm::round(value, of.flip, bytes) };
                    continue;
                }
                for lane in 0..LANES {
                    // Comparisons that turn what is no number into 0.
                    let value = value[lane] + 0.5;
                    let value = if value > 0.0 { value } else { 0.0 };
                    let value = if value < 255.0 { value } else { 255.0 };
                    // SAFETY: it is between 0 and 255. The checked conversion is several times slower.
                    let whole = unsafe { value.to_int_unchecked::<i32>() };
                    bytes[at][lane] = whole as u8 ^ of.flip;
                }
            }
        }
    }
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
            value = sums[lane].value(of.offset[lane]) * of.scale[lane] + of.bias[lane];
        }
        if RESIDUAL {
            value += added[lane];
        }
        result[lane] = if value < 0.0 { value * of.slope[lane] } else { value };
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

/// One instruction set's vectors.
trait Lanes {
    type Arithmetic: Arithmetic;
    /// Sums of one block of lanes.
    type Vector: Copy;
    type Weights: Copy;
    /// A group of inputs for every lane.
    type Splat: Copy;
    const LANES: usize;
    /// Whether two groups are added up at once, by `pair`, where there are two.
    const PAIRS: bool = false;
    unsafe fn zero() -> Self::Vector;
    unsafe fn weights(at: *const <Self::Arithmetic as Arithmetic>::Weight) -> Self::Weights;
    unsafe fn splat(at: *const <Self::Arithmetic as Arithmetic>::Input) -> Self::Splat;
    /// As many inputs as there are lanes, one for each. In floating point only.
    #[inline(always)]
    unsafe fn each(_: *const <Self::Arithmetic as Arithmetic>::Input) -> Self::Splat {
        unreachable!("no integers are packed for it")
    }
    unsafe fn dot(sum: Self::Vector, x: Self::Splat, w: Self::Weights) -> Self::Vector;
    /// The same as two dots.
    #[inline(always)]
    unsafe fn pair(sum: Self::Vector, x: [Self::Splat; 2], w: [Self::Weights; 2]) -> Self::Vector {
        unsafe { Self::dot(Self::dot(sum, x[0], w[0]), x[1], w[1]) }
    }
    unsafe fn store(sum: Self::Vector, to: *mut <Self::Arithmetic as Arithmetic>::Sum);
    /// Whether sums can become results where they are, by `result` and `larger`.
    const RESULTS: bool = false;
    /// As `activated`, of a vector's `scale`, `bias` and `slope`.
    #[inline(always)]
    unsafe fn result(sum: Self::Vector, _: [*const f32; 3]) -> Self::Vector {
        sum
    }
    /// Only the first so many lanes of a result.
    #[inline(always)]
    unsafe fn store_some(result: Self::Vector, to: *mut f32, count: usize) {
        let mut all = [0.0; MOST_CHANNELS];
        unsafe { Self::store(result, all.as_mut_ptr().cast()) };
        for (lane, value) in all.iter().enumerate().take(count) {
            unsafe { *to.add(lane) = *value };
        }
    }
    /// As the function of this name.
    #[inline(always)]
    unsafe fn larger(a: Self::Vector, _: Self::Vector) -> Self::Vector {
        a
    }
}

type Input<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Input;
type Weight<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Weight;
type SumOf<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Sum;

/// The dot products of `PIXELS` pixels with the weights of `VECTORS` vectors of channels. Plain loops, so that they
/// unroll and the sums stay in registers.
#[inline(always)]
unsafe fn block<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    base: *const Input<L>,
    offsets: *const usize,
    taps: Taps,
    weights: *const Weight<L>,
    to: &To<'_, SumOf<L>>,
) {
    let group = <L::Arithmetic as Arithmetic>::GROUP;
    unsafe {
        let mut x = [base; PIXELS];
        for (pixel, x) in x.iter_mut().enumerate() {
            *x = base.add(*offsets.add(pixel));
        }
        let mut w = weights;
        let mut acc = [[L::zero(); VECTORS]; PIXELS];
        let paired = if L::PAIRS { taps.run - taps.run % (2 * group) } else { 0 };
        for _ in 0..taps.rows {
            let mut at = 0;
            while at < paired {
                let next = VECTORS * L::LANES * group;
                let mut vectors = [[L::weights(w), L::weights(w.add(next))]; VECTORS];
                for (vector, weights) in vectors.iter_mut().enumerate().skip(1) {
                    let w = w.add(vector * L::LANES * group);
                    *weights = [L::weights(w), L::weights(w.add(next))];
                }
                for pixel in 0..PIXELS {
                    let x = x[pixel].add(at);
                    let splats = [L::splat(x), L::splat(x.add(group))];
                    for vector in 0..VECTORS {
                        acc[pixel][vector] = L::pair(acc[pixel][vector], splats, vectors[vector]);
                    }
                }
                w = w.add(2 * next);
                at += 2 * group;
            }
            while at < taps.run {
                let mut vectors = [L::weights(w); VECTORS];
                for (vector, weights) in vectors.iter_mut().enumerate().skip(1) {
                    *weights = L::weights(w.add(vector * L::LANES * group));
                }
                for pixel in 0..PIXELS {
                    let splat = L::splat(x[pixel].add(at));
                    for vector in 0..VECTORS {
                        acc[pixel][vector] = L::dot(acc[pixel][vector], splat, vectors[vector]);
                    }
                }
                w = w.add(VECTORS * L::LANES * group);
                at += group;
                if L::PAIRS {
                    // At most one is left; were this a loop, the sums would be moved about in every round above.
                    break;
                }
            }
            for x in &mut x {
                // Behind the last row this may leave the input, where nothing reads it any more.
                *x = x.wrapping_add(taps.row_step);
            }
        }
        end::<L, PIXELS, VECTORS>(&acc, to);
    }
}

/// What becomes of a block's sums.
#[inline(always)]
unsafe fn end<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    sums: &[[L::Vector; VECTORS]; PIXELS],
    to: &To<'_, SumOf<L>>,
) {
    unsafe {
        match *to {
            To::Sums(to) => {
                for (ix, sum) in sums.as_flattened().iter().enumerate() {
                    L::store(*sum, to.add(ix * L::LANES));
                }
            }
            To::Results { values, places, channels, finish, pooled } if L::RESULTS => {
                let [scale, bias, slope] = [&finish.scale, &finish.bias, &finish.slope].map(Vec::as_ptr);
                let mut results = *sums;
                for pixel in &mut results {
                    for (vector, sum) in pixel.iter_mut().enumerate() {
                        let lane = vector * L::LANES;
                        *sum = L::result(*sum, [scale.add(lane), bias.add(lane), slope.add(lane)]);
                    }
                }
                if pooled {
                    for (ix, [a, b, c, d]) in results.as_chunks::<4>().0.iter().enumerate() {
                        let to = values.add(*places.add(ix));
                        for vector in 0..VECTORS {
                            let (above, below) = (L::larger(a[vector], b[vector]), L::larger(c[vector], d[vector]));
                            put::<L>(L::larger(above, below), to, vector * L::LANES, channels);
                        }
                    }
                } else {
                    for (ix, pixel) in results.iter().enumerate() {
                        let to = values.add(*places.add(ix));
                        for (vector, result) in pixel.iter().enumerate() {
                            put::<L>(*result, to, vector * L::LANES, channels);
                        }
                    }
                }
            }
            To::Results { .. } => {}
        }
    }
}

/// Stores the results from this lane on, of the channels that there are.
#[inline(always)]
unsafe fn put<L: Lanes>(result: L::Vector, to: *mut f32, lane: usize, channels: usize) {
    unsafe {
        let to = to.add(lane);
        if lane + L::LANES <= channels {
            L::store(result, to.cast());
        } else {
            L::store_some(result, to, channels - lane);
        }
    }
}

/// The same where every channel has a kernel of its own: the inputs of a place lie beside each other as the weights do.
#[inline(always)]
unsafe fn depthwise_block<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    base: *const Input<L>,
    offsets: *const usize,
    taps: Taps,
    weights: *const Weight<L>,
    to: &To<'_, SumOf<L>>,
) {
    unsafe {
        let mut x = [base; PIXELS];
        for (pixel, x) in x.iter_mut().enumerate() {
            *x = base.add(*offsets.add(pixel));
        }
        let mut w = weights;
        let mut acc = [[L::zero(); VECTORS]; PIXELS];
        for _ in 0..taps.rows {
            let mut at = 0;
            while at < taps.run {
                let mut vectors = [L::weights(w); VECTORS];
                for (vector, weights) in vectors.iter_mut().enumerate().skip(1) {
                    *weights = L::weights(w.add(vector * L::LANES));
                }
                for pixel in 0..PIXELS {
                    for vector in 0..VECTORS {
                        let inputs = L::each(x[pixel].add(at + vector * L::LANES));
                        acc[pixel][vector] = L::dot(acc[pixel][vector], inputs, vectors[vector]);
                    }
                }
                w = w.add(VECTORS * L::LANES);
                at += taps.step;
            }
            for x in &mut x {
                // As in `block`.
                *x = x.wrapping_add(taps.row_step);
            }
        }
        end::<L, PIXELS, VECTORS>(&acc, to);
    }
}

/// One instruction set's functions, compiled for it, and their table.
macro_rules! kernels {
    ($module:ident, $lanes:ty, $name:literal, $flip:literal, [$($feature:literal)?], [$($pixels:literal),+], $vectors:tt) => {
        kernels!($module, $lanes, $name, $flip, [$($feature)?], [$($pixels),+], $vectors, None);
    };
    ($module:ident, $lanes:ty, $name:literal, $flip:literal, [$($feature:literal)?], [$($pixels:literal),+], $vectors:tt, $wide:expr) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn block<const PIXELS: usize, const VECTORS: usize>(
                base: *const Input<$lanes>,
                offsets: *const usize,
                taps: Taps,
                weights: *const Weight<$lanes>,
                to: &To<'_, SumOf<$lanes>>,
            ) {
                unsafe { super::block::<$lanes, PIXELS, VECTORS>(base, offsets, taps, weights, to) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise<const PIXELS: usize, const VECTORS: usize>(
                base: *const Input<$lanes>,
                offsets: *const usize,
                taps: Taps,
                weights: *const Weight<$lanes>,
                to: &To<'_, SumOf<$lanes>>,
            ) {
                unsafe { super::depthwise_block::<$lanes, PIXELS, VECTORS>(base, offsets, taps, weights, to) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn finish(of: &Sums<'_, SumOf<$lanes>>, addend: &Addend<'_, Input<$lanes>>, finished: &mut Finished) {
                super::finish::<_, _, { <$lanes as Lanes>::LANES }>(of, addend, finished);
            }

            pub(super) static KERNELS: Kernels<<$lanes as Lanes>::Arithmetic> = Kernels {
                name: $name,
                lanes: <$lanes as Lanes>::LANES,
                flip: $flip,
                blocks: &[$(($pixels, kernels!(@row block, $pixels, $vectors))),+],
                depthwise: &[$(($pixels, kernels!(@row depthwise, $pixels, $vectors))),+],
                finish,
                gives_results: <$lanes as Lanes>::RESULTS,
                wide: $wide,
            };
        }
    };
    (@row $block:ident, $pixels:literal, [$($vectors:literal),+]) => { &[$($block::<$pixels, $vectors>),+] };
}

/// One instruction set's `Lanes`: the arithmetic, how many lanes, the types of sums, weights and splats, and what each
/// function does with its arguments.
macro_rules! lanes {
    (
        $(#[$about:meta])*
        $lanes:ident: $arithmetic:ident, $count:literal, $vector:ty, $weights:ty, $splat:ty;
        zero() $zero:expr;
        weights($weights_at:ident) $load:expr;
        splat($splat_at:ident) $broadcast:expr;
        $(each($each_at:ident) $each:expr;)?
        dot($sum:ident, $x:ident, $w:ident) $dot:expr;
        $(pair($pair_sum:ident, $pair_x:ident, $pair_w:ident) $pair:expr;)?
        store($stored:ident, $to:ident) $store:expr;
        $(result($result:ident, [$scale:ident, $bias:ident, $slope:ident]) $finish:expr;
        larger($a:ident, $b:ident) $larger:expr;)?
        $(store_some($some:ident, $some_to:ident, $some_count:ident) $store_some:expr;)?
    ) => {
        $(#[$about])*
        struct $lanes;

        // Not every expression needs it. Those that do rest on what the callers of `Lanes` hold: the instruction set is there,
        // and a pointer is good for as many numbers as are read or written.
        #[allow(unused_unsafe)]
        impl Lanes for $lanes {
            type Arithmetic = $arithmetic;
            type Vector = $vector;
            type Weights = $weights;
            type Splat = $splat;
            const LANES: usize = $count;
            #[inline(always)]
            unsafe fn zero() -> $vector {
                unsafe { $zero }
            }
            #[inline(always)]
            unsafe fn weights($weights_at: *const <$arithmetic as Arithmetic>::Weight) -> $weights {
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn splat($splat_at: *const <$arithmetic as Arithmetic>::Input) -> $splat {
                unsafe { $broadcast }
            }
            $(
                #[inline(always)]
                unsafe fn each($each_at: *const <$arithmetic as Arithmetic>::Input) -> $splat {
                    unsafe { $each }
                }
            )?
            #[inline(always)]
            unsafe fn dot($sum: $vector, $x: $splat, $w: $weights) -> $vector {
                unsafe { $dot }
            }
            $(
                const PAIRS: bool = true;
                #[inline(always)]
                unsafe fn pair($pair_sum: $vector, $pair_x: [$splat; 2], $pair_w: [$weights; 2]) -> $vector {
                    unsafe { $pair }
                }
            )?
            #[inline(always)]
            unsafe fn store($stored: $vector, $to: *mut <$arithmetic as Arithmetic>::Sum) {
                unsafe { $store }
            }
            $(
                const RESULTS: bool = true;
                #[inline(always)]
                unsafe fn result($result: $vector, [$scale, $bias, $slope]: [*const f32; 3]) -> $vector {
                    unsafe { $finish }
                }
                #[inline(always)]
                unsafe fn larger($a: $vector, $b: $vector) -> $vector {
                    unsafe { $larger }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn store_some($some: $vector, $some_to: *mut f32, $some_count: usize) {
                    unsafe { $store_some }
                }
            )?
        }
    };
}

lanes! {
    /// Works everywhere; the compiler makes of it what it can.
    PortableFloat: Float, 4, [f32; 4], [f32; 4], [f32; 4];
    zero() [0.0; 4];
    weights(at) at.cast::<[f32; 4]>().read_unaligned();
    splat(at) [*at; 4];
    each(at) at.cast::<[f32; 4]>().read_unaligned();
    dot(sum, x, w) {
        let mut sum = sum;
        for lane in 0..4 {
            sum[lane] += x[lane] * w[lane];
        }
        sum
    };
    store(sum, to) to.cast::<[f32; 4]>().write_unaligned(sum);
    result(sum, [scale, bias, slope]) {
        let [scale, bias, slope] = [scale, bias, slope].map(|of| of.cast::<[f32; 4]>().read_unaligned());
        activated::<f32, 4, false, true>(&sum, &Lane { offset: [0; 4], scale, bias, slope }, &[0.0; 4])
    };
    larger(a, b) larger(a, b);
}

lanes! {
    /// The same in integers.
    PortableInteger: Integer, 4, [i32; 4], [i8; 16], [u8; 4];
    zero() [0; 4];
    weights(at) at.cast::<[i8; 16]>().read_unaligned();
    splat(at) at.cast::<[u8; 4]>().read_unaligned();
    dot(sum, x, w) {
        let mut sum = sum;
        for lane in 0..4 {
            for k in 0..4 {
                sum[lane] += i32::from(x[k]) * i32::from(w[4 * lane + k]);
            }
        }
        sum
    };
    store(sum, to) to.cast::<[i32; 4]>().write_unaligned(sum);
}

kernels!(portable_float, PortableFloat, "portable", 0, [], [4, 1], [1, 2]);
kernels!(portable_integer, PortableInteger, "portable", 0, [], [4, 1], [1, 2]);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    lanes! {
        Avx512Float: Float, 16, __m512, __m512, __m512;
        zero() _mm512_setzero_ps();
        weights(at) _mm512_loadu_ps(at);
        splat(at) _mm512_set1_ps(*at);
        each(at) _mm512_loadu_ps(at);
        dot(sum, x, w) _mm512_fmadd_ps(x, w, sum);
        store(sum, to) _mm512_storeu_ps(to, sum);
        result(sum, [scale, bias, slope]) {
            let value = _mm512_fmadd_ps(sum, _mm512_loadu_ps(scale), _mm512_loadu_ps(bias));
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(value, _mm512_setzero_ps());
            _mm512_mask_mul_ps(value, below, value, _mm512_loadu_ps(slope))
        };
        larger(a, b) _mm512_max_ps(b, a);
        store_some(result, to, count) _mm512_mask_storeu_ps(to, (1 << count) - 1, result);
    }

    lanes! {
        Avx512Vnni: Integer, 16, __m512i, __m512i, __m512i;
        zero() _mm512_setzero_si512();
        weights(at) _mm512_loadu_si512(at.cast());
        splat(at) _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
        dot(sum, x, w) _mm512_dpbusd_epi32(sum, x, w);
        store(sum, to) _mm512_storeu_si512(to.cast(), sum);
    }

    lanes! {
        Avx2Float: Float, 8, __m256, __m256, __m256;
        zero() _mm256_setzero_ps();
        weights(at) _mm256_loadu_ps(at);
        splat(at) _mm256_set1_ps(*at);
        each(at) _mm256_loadu_ps(at);
        dot(sum, x, w) _mm256_fmadd_ps(x, w, sum);
        store(sum, to) _mm256_storeu_ps(to, sum);
        result(sum, [scale, bias, slope]) {
            let value = _mm256_fmadd_ps(sum, _mm256_loadu_ps(scale), _mm256_loadu_ps(bias));
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(value, _mm256_setzero_ps());
            _mm256_blendv_ps(value, _mm256_mul_ps(value, _mm256_loadu_ps(slope)), below)
        };
        larger(a, b) _mm256_max_ps(b, a);
    }

    lanes! {
        AvxVnni: Integer, 8, __m256i, __m256i, __m256i;
        zero() _mm256_setzero_si256();
        weights(at) _mm256_loadu_si256(at.cast());
        splat(at) _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        dot(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w);
        store(sum, to) _mm256_storeu_si256(to.cast(), sum);
    }

    lanes! {
        /// Without dot products: bytes at even and odd places as 16-bit numbers, whose products never overflow.
        Avx2Integer: Integer, 8, __m256i, [__m256i; 2], [__m256i; 2];
        zero() _mm256_setzero_si256();
        weights(at) {
            let w = _mm256_loadu_si256(at.cast());
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w)]
        };
        splat(at) {
            let x = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
            [_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x)]
        };
        dot(sum, x, w) {
            let (even, odd) = (_mm256_madd_epi16(x[0], w[0]), _mm256_madd_epi16(x[1], w[1]));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        };
        store(sum, to) _mm256_storeu_si256(to.cast(), sum);
    }

    kernels!(
        avx512_float,
        x86::Avx512Float,
        "AVX-512",
        0,
        ["avx512f,avx512bw,avx512vl,avx512dq"],
        [12, 8, 4, 1],
        [1, 2]
    );
    kernels!(
        avx512_vnni,
        x86::Avx512Vnni,
        "AVX-512 VNNI",
        0,
        ["avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"],
        [12, 8, 4, 1],
        [1, 2]
    );
    kernels!(avx2_float, x86::Avx2Float, "AVX2", 0, ["avx2,fma"], [6, 4, 1], [1, 2]);
    kernels!(avx_vnni, x86::AvxVnni, "AVX-VNNI", 0, ["avx2,avxvnni"], [6, 4, 1], [1, 2]);
    kernels!(avx2_integer, x86::Avx2Integer, "AVX2", 0, ["avx2"], [4, 2, 1], [1, 2]);

    fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
    }

    /// All that this processor runs, the best first.
    pub(super) fn float() -> Vec<&'static Kernels<Float>> {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let all = [(has_avx512(), &avx512_float::KERNELS), (avx2, &avx2_float::KERNELS)];
        all.into_iter().filter_map(|(runs, kernels)| runs.then_some(kernels)).collect()
    }

    /// All that this processor runs, the best first.
    pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
        let avx2 = is_x86_feature_detected!("avx2");
        let all = [
            (has_avx512() && is_x86_feature_detected!("avx512vnni"), &avx512_vnni::KERNELS),
            (avx2 && is_x86_feature_detected!("avxvnni"), &avx_vnni::KERNELS),
            (avx2, &avx2_integer::KERNELS),
        ];
        all.into_iter().filter_map(|(runs, kernels)| runs.then_some(kernels)).collect()
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::*;
    use std::arch::aarch64::*;

    lanes! {
        NeonFloat: Float, 4, float32x4_t, float32x4_t, float32x4_t;
        zero() vdupq_n_f32(0.0);
        weights(at) vld1q_f32(at);
        splat(at) vld1q_dup_f32(at);
        each(at) vld1q_f32(at);
        dot(sum, x, w) vfmaq_f32(sum, x, w);
        store(sum, to) vst1q_f32(to, sum);
        result(sum, [scale, bias, slope]) {
            let value = vfmaq_f32(vld1q_f32(bias), sum, vld1q_f32(scale));
            vbslq_f32(vcltzq_f32(value), vmulq_f32(value, vld1q_f32(slope)), value)
        };
        larger(a, b) vbslq_f32(vcgtq_f32(b, a), b, a);
    }

    lanes! {
        Sdot: Integer, 4, int32x4_t, int8x16_t, int8x16_t;
        zero() vdupq_n_s32(0);
        weights(at) vld1q_s8(at);
        splat(at) vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()));
        dot(sum, x, w) {
            let mut sum = sum;
            // The standard library has no stable name for it yet.
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
            sum
        };
        store(sum, to) vst1q_s32(to, sum);
    }

    lanes! {
        /// Without dot products: products of 16 bits, added up in pairs; the two halves of a sum meet at the end.
        NeonWide: Integer, 4, [int32x4_t; 2], int8x16_t, int8x16_t;
        zero() [vdupq_n_s32(0); 2];
        weights(at) vld1q_s8(at);
        splat(at) vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()));
        dot(sum, x, w) {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let high = vmull_high_s8(w, x);
            [vpadalq_s16(sum[0], low), vpadalq_s16(sum[1], high)]
        };
        store(sum, to) vst1q_s32(to, vpaddq_s32(sum[0], sum[1]));
    }

    lanes! {
        /// The same for narrow weights: two products are added up in 16 bits first, which takes a third fewer instructions.
        NeonNarrow: Integer, 4, [int32x4_t; 2], int8x16_t, int8x16_t;
        zero() [vdupq_n_s32(0); 2];
        weights(at) vld1q_s8(at);
        splat(at) vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()));
        dot(sum, x, w) {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let high = vmull_high_s8(w, x);
            [vpadalq_s16(sum[0], low), vpadalq_s16(sum[1], high)]
        };
        pair(sum, x, w) {
            let [mut low, mut high] = sum;
            // As one, because the compiler begins so many products before it adds one up that the sums find no place in
            // registers any more.
            std::arch::asm!(
                "smull {a:v}.8h, {w0:v}.8b, {x0:v}.8b",
                "smull2 {b:v}.8h, {w0:v}.16b, {x0:v}.16b",
                "smlal {a:v}.8h, {w1:v}.8b, {x1:v}.8b",
                "smlal2 {b:v}.8h, {w1:v}.16b, {x1:v}.16b",
                "sadalp {low:v}.4s, {a:v}.8h",
                "sadalp {high:v}.4s, {b:v}.8h",
                a = out(vreg) _,
                b = out(vreg) _,
                low = inout(vreg) low,
                high = inout(vreg) high,
                w0 = in(vreg) w[0],
                x0 = in(vreg) x[0],
                w1 = in(vreg) w[1],
                x1 = in(vreg) x[1],
                options(pure, nomem, nostack, preserves_flags)
            );
            [low, high]
        };
        store(sum, to) vst1q_s32(to, vpaddq_s32(sum[0], sum[1]));
    }

    /// Four values as bytes, as the loop in `activate` rounds one: what is no number or below 0 becomes 0, what is above
    /// 255 becomes 255. The compiler makes single numbers of that loop.
    #[inline(always)]
    pub(super) unsafe fn round(values: &[f32; 4], flip: u8, bytes: &mut [u8; 4]) {
        unsafe {
            let whole = vcvtq_u32_f32(vaddq_f32(vld1q_f32(values.as_ptr()), vdupq_n_f32(0.5)));
            let narrow = vqmovn_u32(whole);
            let narrow = veor_u8(vqmovn_u16(vcombine_u16(narrow, narrow)), vdup_n_u8(flip));
            *bytes = vget_lane_u32::<0>(vreinterpret_u32_u8(narrow)).to_ne_bytes();
        }
    }

    /// Four bytes as values, each as `Element::value` makes it.
    #[inline(always)]
    pub(super) unsafe fn widen(bytes: [u8; 4], flip: u8) -> [f32; 4] {
        let mut values = [0.0; 4];
        unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(u32::from_ne_bytes(bytes)));
            let wide = vmovl_u16(vget_low_u16(vmovl_u8(veor_u8(bytes, vdup_n_u8(flip)))));
            vst1q_f32(values.as_mut_ptr(), vcvtq_f32_u32(wide));
        }
        values
    }

    kernels!(neon_float, arm::NeonFloat, "NEON", 0, [], [6, 4, 1], [1, 2, 3, 4]);
    kernels!(sdot, arm::Sdot, "SDOT", 128, [], [6, 4, 1], [1, 2, 3, 4]);
    kernels!(neon_wide, arm::NeonWide, "NEON, wide weights", 128, [], [6, 4, 1], [1, 2]);
    kernels!(neon_integer, arm::NeonNarrow, "NEON", 128, [], [4, 1], [1, 2], Some(&neon_wide::KERNELS));

    /// All that this processor runs, the best first.
    pub(super) fn float() -> Vec<&'static Kernels<Float>> {
        vec![&neon_float::KERNELS]
    }

    /// All that this processor runs, the best first.
    pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
        let all =
            [(std::arch::is_aarch64_feature_detected!("dotprod"), &sdot::KERNELS), (true, &neon_integer::KERNELS)];
        all.into_iter().filter_map(|(runs, kernels)| runs.then_some(kernels)).collect()
    }
}

/// Any other processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other {
    use super::*;

    pub(super) fn float() -> Vec<&'static Kernels<Float>> {
        Vec::new()
    }

    pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
        Vec::new()
    }
}

#[cfg(target_arch = "aarch64")]
use arm as own;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other as own;
#[cfg(target_arch = "x86_64")]
use x86 as own;

impl Arithmetic for Float {
    type Input = f32;
    type Weight = f32;
    type Sum = f32;
    const GROUP: usize = 1;

    fn kernels() -> &'static Kernels<Self> {
        static BEST: OnceLock<&Kernels<Float>> = OnceLock::new();
        BEST.get_or_init(|| own::float().into_iter().next().unwrap_or(&portable_float::KERNELS))
    }
}

impl Arithmetic for Integer {
    type Input = u8;
    type Weight = i8;
    type Sum = i32;
    const GROUP: usize = 4;

    fn kernels() -> &'static Kernels<Self> {
        static BEST: OnceLock<&Kernels<Integer>> = OnceLock::new();
        BEST.get_or_init(|| own::integer().into_iter().next().unwrap_or(&portable_integer::KERNELS))
    }
}

#[cfg(test)]
mod tests;
