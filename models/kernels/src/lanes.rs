//! The inner loops for any instruction set: the sums of one block stay in registers, are finished
//! there and stored. The trait `Lanes` describes the operations on vectors; each instruction set
//! implements it in a file of its own.

use super::{Arithmetic, Finish, MOST_CHANNELS, Taps, To};

/// The vectors of one instruction set.
pub(super) trait Lanes {
    type Arithmetic: Arithmetic;
    /// Sums of one vector of channels.
    type Vector: Copy;
    /// Results of one vector of channels, before they are stored.
    type Value: Copy;
    type Weights: Copy;
    /// Inputs for every lane: one group for all, or one input for each.
    type Inputs: Copy;
    const LANES: usize;
    /// True if `pair` adds up two products at once.
    const PAIRS: bool = false;
    /// Loads the initial sums; 0 in floating point.
    unsafe fn start(at: *const i32) -> Self::Vector;
    unsafe fn weights(at: *const Weight<Self>) -> Self::Weights;
    /// Loads one group of inputs, the same for every lane.
    #[inline(always)]
    unsafe fn splat(_: *const Input<Self>) -> Self::Inputs {
        unreachable!("only channels with a kernel each are packed for it")
    }
    /// Loads one input for each lane.
    #[inline(always)]
    unsafe fn each(_: *const Input<Self>) -> Self::Inputs {
        unreachable!("no channels with a kernel each are packed for it")
    }
    unsafe fn dot(sum: Self::Vector, x: Self::Inputs, w: Self::Weights) -> Self::Vector;
    /// Equals two calls of `dot`.
    #[inline(always)]
    unsafe fn pair(sum: Self::Vector, x: [Self::Inputs; 2], w: [Self::Weights; 2]) -> Self::Vector {
        unsafe { Self::dot(Self::dot(sum, x[0], w[0]), x[1], w[1]) }
    }
    /// Sums up the beginning of a run in hand-written order where the compiler's is slower, and
    /// returns the length done.
    #[inline(always)]
    unsafe fn begin_run<const PIXELS: usize, const VECTORS: usize>(
        _: &[*const Input<Self>; PIXELS],
        _: *const Weight<Self>,
        _run: usize,
        _: &mut [[Self::Vector; VECTORS]; PIXELS],
    ) -> usize {
        0
    }
    unsafe fn store(sum: Self::Vector, to: *mut SumOf<Self>);
    /// Loads one number for each lane.
    unsafe fn numbers(at: *const f32) -> Self::Value;
    /// Applies the epilogue like `activated`, with the activation as one of the constants below.
    /// Adds `half` for bytes.
    unsafe fn value<const ACTIVATION: u8>(
        sum: Self::Vector,
        of: &Parameters<Self::Value>,
    ) -> Self::Value;
    /// Like the function of this name in the parent module.
    unsafe fn larger(a: Self::Value, b: Self::Value) -> Self::Value;
    /// Stores the first `channels` results of neighbouring vectors; bytes are rounded, clamped and
    /// flipped.
    unsafe fn put(values: &[Self::Value], to: *mut ResultOf<Self>, channels: usize);
}

pub(super) type Input<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Input;
pub(super) type Weight<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Weight;
pub(super) type SumOf<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Sum;
pub(super) type ResultOf<L> = <<L as Lanes>::Arithmetic as Arithmetic>::Result;

/// Values below 0 stay as they are.
pub(super) const NO_ACTIVATION: u8 = 0;
/// All slopes lie between 0 and 1, so a result is the larger of the value and the value times the
/// slope.
pub(super) const LEAKY: u8 = 1;
/// Any slopes.
pub(super) const ANY_SLOPE: u8 = 2;

/// The `Finish` of one vector of channels.
#[derive(Clone, Copy)]
pub(super) struct Parameters<V> {
    pub(super) scale: V,
    pub(super) bias: V,
    pub(super) slope: V,
    pub(super) half: f32,
}

/// Stores the first `channels` of `all`, for a `put` that only writes whole vectors.
#[inline(always)]
pub(super) unsafe fn put_some<T: Copy>(all: &[T; MOST_CHANNELS], to: *mut T, channels: usize) {
    for (channel, value) in all.iter().enumerate().take(channels) {
        unsafe { *to.add(channel) = *value };
    }
}

/// Computes the dot products of `PIXELS` pixels with the weights of `VECTORS` vectors of channels.
/// Plain loops, so that they unroll and the sums stay in registers.
#[inline(always)]
pub(super) unsafe fn block<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    base: *const Input<L>,
    offsets: *const usize,
    taps: &Taps<'_>,
    weights: *const Weight<L>,
    finish: &Finish,
    to: &To<L::Arithmetic>,
) {
    let group = <L::Arithmetic as Arithmetic>::GROUP;
    unsafe {
        let mut x = [base; PIXELS];
        for (pixel, x) in x.iter_mut().enumerate() {
            *x = base.add(*offsets.add(pixel));
        }
        let mut w = weights;
        let mut acc = start::<L, PIXELS, VECTORS>(finish);
        let paired = if L::PAIRS {
            taps.run - taps.run % (2 * group)
        } else {
            0
        };
        for _ in 0..taps.rows {
            let mut at = L::begin_run(&x, w, taps.run, &mut acc);
            w = w.add(at * VECTORS * L::LANES);
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
                    // At most one group is left. A loop here would make the compiler move the sums
                    // in every round above.
                    break;
                }
            }
            for x in &mut x {
                // After the last row this may point beyond the input, but nothing reads it any
                // more.
                *x = x.wrapping_add(taps.row_step);
            }
        }
        end::<L, PIXELS, VECTORS>(&acc, finish, to);
    }
}

/// Like [`block`] for depthwise convolutions: the inputs of a place lie side by side, as the
/// weights do.
#[inline(always)]
pub(super) unsafe fn depthwise_block<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    base: *const Input<L>,
    offsets: *const usize,
    taps: &Taps<'_>,
    weights: *const Weight<L>,
    finish: &Finish,
    to: &To<L::Arithmetic>,
) {
    unsafe {
        let mut x = [base; PIXELS];
        for (pixel, x) in x.iter_mut().enumerate() {
            *x = base.add(*offsets.add(pixel));
        }
        let mut w = weights;
        let mut acc = start::<L, PIXELS, VECTORS>(finish);
        let (pairs, single) = if L::PAIRS {
            taps.places.as_chunks::<2>()
        } else {
            (&[][..], taps.places)
        };
        for &[first, second] in pairs {
            let next = VECTORS * L::LANES;
            let mut vectors = [[L::weights(w), L::weights(w.add(next))]; VECTORS];
            for (vector, weights) in vectors.iter_mut().enumerate().skip(1) {
                let w = w.add(vector * L::LANES);
                *weights = [L::weights(w), L::weights(w.add(next))];
            }
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    let x = x[pixel].add(vector * L::LANES);
                    let inputs = [L::each(x.add(first)), L::each(x.add(second))];
                    acc[pixel][vector] = L::pair(acc[pixel][vector], inputs, vectors[vector]);
                }
            }
            w = w.add(2 * next);
        }
        for &place in single {
            let mut vectors = [L::weights(w); VECTORS];
            for (vector, weights) in vectors.iter_mut().enumerate().skip(1) {
                *weights = L::weights(w.add(vector * L::LANES));
            }
            for pixel in 0..PIXELS {
                for vector in 0..VECTORS {
                    let inputs = L::each(x[pixel].add(place + vector * L::LANES));
                    acc[pixel][vector] = L::dot(acc[pixel][vector], inputs, vectors[vector]);
                }
            }
            w = w.add(VECTORS * L::LANES);
        }
        end::<L, PIXELS, VECTORS>(&acc, finish, to);
    }
}

/// Returns the initial sums of a block.
#[inline(always)]
unsafe fn start<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    finish: &Finish,
) -> [[L::Vector; VECTORS]; PIXELS] {
    unsafe {
        let offset = finish.offset.as_ptr();
        let mut first = [L::start(offset); VECTORS];
        for (vector, first) in first.iter_mut().enumerate().skip(1) {
            *first = L::start(offset.add(vector * L::LANES));
        }
        [first; PIXELS]
    }
}

/// Finishes or stores the sums of a block.
#[inline(always)]
unsafe fn end<L: Lanes, const PIXELS: usize, const VECTORS: usize>(
    sums: &[[L::Vector; VECTORS]; PIXELS],
    finish: &Finish,
    to: &To<L::Arithmetic>,
) {
    unsafe {
        match *to {
            To::Sums(to) => {
                for (ix, sum) in sums.as_flattened().iter().enumerate() {
                    L::store(*sum, to.add(ix * L::LANES));
                }
            }
            To::Results {
                values,
                places,
                channels,
                pooled,
            } => match finish.activation {
                NO_ACTIVATION => {
                    results::<L, PIXELS, VECTORS, NO_ACTIVATION>(
                        sums, finish, values, places, channels, pooled,
                    );
                }
                LEAKY => {
                    results::<L, PIXELS, VECTORS, LEAKY>(
                        sums, finish, values, places, channels, pooled,
                    );
                }
                _ => {
                    results::<L, PIXELS, VECTORS, ANY_SLOPE>(
                        sums, finish, values, places, channels, pooled,
                    );
                }
            },
        }
    }
}

#[inline(always)]
unsafe fn results<L: Lanes, const PIXELS: usize, const VECTORS: usize, const ACTIVATION: u8>(
    sums: &[[L::Vector; VECTORS]; PIXELS],
    finish: &Finish,
    results: *mut ResultOf<L>,
    places: *const usize,
    channels: usize,
    pooled: bool,
) {
    unsafe {
        // Loaded once for all pixels: for all the compiler knows, the results might overwrite them.
        let mut of = [parameters::<L>(finish, 0); VECTORS];
        for (vector, of) in of.iter_mut().enumerate().skip(1) {
            *of = parameters::<L>(finish, vector);
        }
        if pooled {
            for (ix, four) in sums.as_chunks::<4>().0.iter().enumerate() {
                let mut values = [largest::<L, VECTORS, ACTIVATION>(four, &of, 0); VECTORS];
                for (vector, value) in values.iter_mut().enumerate().skip(1) {
                    *value = largest::<L, VECTORS, ACTIVATION>(four, &of, vector);
                }
                L::put(&values, results.add(*places.add(ix)), channels);
            }
        } else {
            for (ix, sums) in sums.iter().enumerate() {
                let mut values = [L::value::<ACTIVATION>(sums[0], &of[0]); VECTORS];
                for (vector, value) in values.iter_mut().enumerate().skip(1) {
                    *value = L::value::<ACTIVATION>(sums[vector], &of[vector]);
                }
                L::put(&values, results.add(*places.add(ix)), channels);
            }
        }
    }
}

// No closures below: they would be compiled without the instruction set.

#[inline(always)]
unsafe fn parameters<L: Lanes>(finish: &Finish, vector: usize) -> Parameters<L::Value> {
    unsafe {
        let lane = vector * L::LANES;
        Parameters {
            scale: L::numbers(finish.scale.as_ptr().add(lane)),
            bias: L::numbers(finish.bias.as_ptr().add(lane)),
            slope: L::numbers(finish.slope.as_ptr().add(lane)),
            half: finish.half,
        }
    }
}

/// Returns the largest values of four pixels.
#[inline(always)]
unsafe fn largest<L: Lanes, const VECTORS: usize, const ACTIVATION: u8>(
    four: &[[L::Vector; VECTORS]; 4],
    of: &[Parameters<L::Value>; VECTORS],
    vector: usize,
) -> L::Value {
    unsafe {
        let a = L::value::<ACTIVATION>(four[0][vector], &of[vector]);
        let b = L::value::<ACTIVATION>(four[1][vector], &of[vector]);
        let c = L::value::<ACTIVATION>(four[2][vector], &of[vector]);
        let d = L::value::<ACTIVATION>(four[3][vector], &of[vector]);
        L::larger(L::larger(a, b), L::larger(c, d))
    }
}

/// Defines the functions of one instruction set, compiled for it, and their table: for full and for
/// depthwise kernels, the vectors and the numbers of pixels and of vectors.
macro_rules! kernels {
    (
        $module:ident, $name:literal, $flip:expr, [$($feature:literal)?],
        $lanes:ty, [$($pixels:literal),+], $vectors:tt,
        $each:ty, [$($each_pixels:literal),+], $each_vectors:tt
    ) => {
        mod $module {
            use super::*;

            type Numbers = <$lanes as Lanes>::Arithmetic;

            $(#[target_feature(enable = $feature)])?
            unsafe fn block<const PIXELS: usize, const VECTORS: usize>(
                base: *const Input<$lanes>,
                offsets: *const usize,
                taps: &Taps<'_>,
                weights: *const Weight<$lanes>,
                finish: &Finish,
                to: &To<Numbers>,
            ) {
                unsafe { lanes::block::<$lanes, PIXELS, VECTORS>(base, offsets, taps, weights, finish, to) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise<const PIXELS: usize, const VECTORS: usize>(
                base: *const Input<$each>,
                offsets: *const usize,
                taps: &Taps<'_>,
                weights: *const Weight<$each>,
                finish: &Finish,
                to: &To<Numbers>,
            ) {
                unsafe { lanes::depthwise_block::<$each, PIXELS, VECTORS>(base, offsets, taps, weights, finish, to) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn finish(of: &Sums<'_, SumOf<$lanes>>, addend: &Addend<'_, Input<$lanes>>, finished: &mut Finished) {
                crate::finish::<_, _, { <$lanes as Lanes>::LANES }>(of, addend, finished);
            }

            pub(crate) static KERNELS: Kernels<Numbers> = Kernels {
                name: $name,
                flip: $flip,
                full: Blocks { lanes: <$lanes as Lanes>::LANES, by_pixels: &[$(($pixels, kernels!(@row block, $pixels, $vectors))),+] },
                depthwise: Blocks {
                    lanes: <$each as Lanes>::LANES,
                    by_pixels: &[$(($each_pixels, kernels!(@row depthwise, $each_pixels, $each_vectors))),+],
                },
                finish,
            };
        }
    };
    (@row $block:ident, $pixels:literal, [$($vectors:literal),+]) => { &[$($block::<$pixels, $vectors>),+] };
}
pub(super) use kernels;

/// Implements `Lanes` for one instruction set: the arithmetic, the number of lanes, the types of
/// sums, values, weights and inputs, and the body of each function.
macro_rules! lanes {
    (
        $(#[$about:meta])*
        $lanes:ident: $arithmetic:ident, $count:literal, $vector:ty, $value:ty, $weights:ty, $inputs:ty;
        start($start_at:pat) $start:expr;
        weights($weights_at:ident) $load:expr;
        $(splat($splat_at:ident) $broadcast:expr;)?
        $(each($each_at:ident) $each:expr;)?
        dot($sum:ident, $x:ident, $w:ident) $dot:expr;
        $(pair($pair_sum:ident, $pair_x:ident, $pair_w:ident) $pair:expr;)?
        $(begin_run($run_x:ident, $run_w:ident, $run:ident, $acc:ident) $begin_run:expr;)?
        store($stored:ident, $to:ident) $store:expr;
        numbers($numbers_at:ident) $numbers:expr;
        value($result:ident, $of:ident, $activation:ident) $finish:expr;
        larger($a:ident, $b:ident) $larger:expr;
        put($values:ident, $put_to:ident, $channels:ident) $put:expr;
    ) => {
        $(#[$about])*
        pub(super) struct $lanes;

        // Not every expression needs `unsafe`. Those that do rely on the callers of `Lanes`: the
        // instruction set is available, and pointers are valid for the numbers read or written.
        #[allow(unused_unsafe)]
        impl Lanes for $lanes {
            type Arithmetic = $arithmetic;
            type Vector = $vector;
            type Value = $value;
            type Weights = $weights;
            type Inputs = $inputs;
            const LANES: usize = $count;
            #[inline(always)]
            unsafe fn start($start_at: *const i32) -> $vector {
                unsafe { $start }
            }
            #[inline(always)]
            unsafe fn weights($weights_at: *const Weight<Self>) -> $weights {
                unsafe { $load }
            }
            $(
                #[inline(always)]
                unsafe fn splat($splat_at: *const Input<Self>) -> $inputs {
                    unsafe { $broadcast }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn each($each_at: *const Input<Self>) -> $inputs {
                    unsafe { $each }
                }
            )?
            #[inline(always)]
            unsafe fn dot($sum: $vector, $x: $inputs, $w: $weights) -> $vector {
                unsafe { $dot }
            }
            $(
                const PAIRS: bool = true;
                #[inline(always)]
                unsafe fn pair($pair_sum: $vector, $pair_x: [$inputs; 2], $pair_w: [$weights; 2]) -> $vector {
                    unsafe { $pair }
                }
            )?
            $(
                #[inline(always)]
                unsafe fn begin_run<const PIXELS: usize, const VECTORS: usize>(
                    $run_x: &[*const Input<Self>; PIXELS],
                    $run_w: *const Weight<Self>,
                    $run: usize,
                    $acc: &mut [[$vector; VECTORS]; PIXELS],
                ) -> usize {
                    unsafe { $begin_run }
                }
            )?
            #[inline(always)]
            unsafe fn store($stored: $vector, $to: *mut SumOf<Self>) {
                unsafe { $store }
            }
            #[inline(always)]
            unsafe fn numbers($numbers_at: *const f32) -> $value {
                unsafe { $numbers }
            }
            #[inline(always)]
            unsafe fn value<const $activation: u8>($result: $vector, $of: &Parameters<$value>) -> $value {
                unsafe { $finish }
            }
            #[inline(always)]
            unsafe fn larger($a: $value, $b: $value) -> $value {
                unsafe { $larger }
            }
            #[inline(always)]
            unsafe fn put($values: &[$value], $put_to: *mut ResultOf<Self>, $channels: usize) {
                unsafe { $put }
            }
        }
    };
}
pub(super) use lanes;
