//! Weights, packed for the processor with each channel's epilogue: in the order in which the
//! kernels read them, padded to whole vectors.

use std::fmt;

use super::finish::Finish;
use super::{Arithmetic, Kernels, lanes};

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
    pub(super) kernels: &'static Kernels<A>,
    pub(super) rows: usize,
    pub(super) run: usize,
    pub(super) channels: usize,
    /// Zero point of the output.
    pub(super) zero: u8,
    /// Depthwise: each channel has a kernel of its own.
    pub(super) depthwise: bool,
    pub(super) blocks: Vec<Block<A>>,
}

pub(super) struct Block<A: Arithmetic> {
    pub(super) first: usize,
    pub(super) channels: usize,
    pub(super) vectors: usize,
    pub(super) weights: Vec<A::Weight>,
    pub(super) finish: Finish,
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

    pub(super) fn pack_for(
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

    pub(super) fn pack_depthwise_for(
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
