//! NEON, with and without SDOT. Products are signed here, so bytes are stored as signed numbers,
//! 128 less than in the graph.

use std::arch::aarch64::*;

use super::lanes::{self, *};
use super::*;

macro_rules! pair_of_groups {
    // Multiplies two groups of one pixel's inputs by both vectors.
    ($pixel:literal) => {
        concat!(
            "ld1r {{{x0:v}.4s}}, [{p", $pixel, "}], #4\n",
            "ld1r {{{x1:v}.4s}}, [{p", $pixel, "}], #4\n",
            pair_of_groups!(@vector $pixel, "0"),
            pair_of_groups!(@vector $pixel, "1"),
        )
    };
    (@vector $pixel:literal, $vector:literal) => {
        concat!(
            "smull {a:v}.8h, {w0", $vector, ":v}.8b, {x0:v}.8b\n",
            "smull2 {b:v}.8h, {w0", $vector, ":v}.16b, {x0:v}.16b\n",
            "smlal {a:v}.8h, {w1", $vector, ":v}.8b, {x1:v}.8b\n",
            "smlal2 {b:v}.8h, {w1", $vector, ":v}.16b, {x1:v}.16b\n",
            "sadalp {l", $pixel, $vector, ":v}.4s, {a:v}.8h\n",
            "sadalp {h", $pixel, $vector, ":v}.4s, {b:v}.8h\n",
        )
    };
}

macro_rules! sdot_group {
    // Multiplies one group of inputs (`element` of each pixel's register) by the weights at `from`
    // and at `behind`, 32 bytes further.
    ($element:literal, $from:literal, $behind:literal) => {
        concat!(
            "ldp {w0:q}, {w1:q}, [{w}, #", $from, "]\n",
            sdot_group!(@pixels $element, "0", "1"),
            "ldp {w0:q}, {w1:q}, [{w}, #", $behind, "]\n",
            sdot_group!(@pixels $element, "2", "3"),
        )
    };
    (@pixels $element:literal, $first:literal, $second:literal) => {
        concat!(
            sdot_group!(@pixel "0", $element, $first, $second),
            sdot_group!(@pixel "1", $element, $first, $second),
            sdot_group!(@pixel "2", $element, $first, $second),
            sdot_group!(@pixel "3", $element, $first, $second),
            sdot_group!(@pixel "4", $element, $first, $second),
            sdot_group!(@pixel "5", $element, $first, $second),
        )
    };
    (@pixel $pixel:literal, $element:literal, $first:literal, $second:literal) => {
        concat!(
            "sdot {s", $pixel, $first, ":v}.4s, {w0:v}.16b, {x", $pixel, ":v}.4b[", $element, "]\n",
            "sdot {s", $pixel, $second, ":v}.4s, {w1:v}.16b, {x", $pixel, ":v}.4b[", $element, "]\n",
        )
    };
}

/// Sums up a whole run of six pixels by four vectors. Loads sixteen inputs of a pixel at once and
/// the weights of two vectors at a time, so that every sum has a register.
#[inline(always)]
unsafe fn sdot_run(x: [*const u8; 6], w: *const i8, run: usize, sums: &mut [int32x4_t; 24]) {
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "subs {left}, {left}, #16",
            "b.lo 3f",
            "2:",
            "ldr {x0:q}, [{p0}, {at}]",
            "ldr {x1:q}, [{p1}, {at}]",
            "ldr {x2:q}, [{p2}, {at}]",
            "ldr {x3:q}, [{p3}, {at}]",
            "ldr {x4:q}, [{p4}, {at}]",
            "ldr {x5:q}, [{p5}, {at}]",
            sdot_group!("0", "0", "32"),
            sdot_group!("1", "64", "96"),
            sdot_group!("2", "128", "160"),
            sdot_group!("3", "192", "224"),
            "add {at}, {at}, #16",
            "add {w}, {w}, #256",
            "subs {left}, {left}, #16",
            "b.hs 2b",
            "3:",
            "adds {left}, {left}, #16",
            "b.eq 5f",
            "4:",
            "ldr {x0:s}, [{p0}, {at}]",
            "ldr {x1:s}, [{p1}, {at}]",
            "ldr {x2:s}, [{p2}, {at}]",
            "ldr {x3:s}, [{p3}, {at}]",
            "ldr {x4:s}, [{p4}, {at}]",
            "ldr {x5:s}, [{p5}, {at}]",
            sdot_group!("0", "0", "32"),
            "add {at}, {at}, #4",
            "add {w}, {w}, #64",
            "subs {left}, {left}, #4",
            "b.ne 4b",
            "5:",
            p0 = in(reg) x[0], p1 = in(reg) x[1], p2 = in(reg) x[2], p3 = in(reg) x[3], p4 = in(reg) x[4], p5 = in(reg) x[5],
            w = inout(reg) w => _,
            left = inout(reg) run => _,
            at = inout(reg) 0_usize => _,
            x0 = out(vreg) _, x1 = out(vreg) _, x2 = out(vreg) _, x3 = out(vreg) _, x4 = out(vreg) _, x5 = out(vreg) _,
            w0 = out(vreg) _, w1 = out(vreg) _,
            s00 = inout(vreg) sums[0], s01 = inout(vreg) sums[1], s02 = inout(vreg) sums[2], s03 = inout(vreg) sums[3],
            s10 = inout(vreg) sums[4], s11 = inout(vreg) sums[5], s12 = inout(vreg) sums[6], s13 = inout(vreg) sums[7],
            s20 = inout(vreg) sums[8], s21 = inout(vreg) sums[9], s22 = inout(vreg) sums[10], s23 = inout(vreg) sums[11],
            s30 = inout(vreg) sums[12], s31 = inout(vreg) sums[13], s32 = inout(vreg) sums[14], s33 = inout(vreg) sums[15],
            s40 = inout(vreg) sums[16], s41 = inout(vreg) sums[17], s42 = inout(vreg) sums[18], s43 = inout(vreg) sums[19],
            s50 = inout(vreg) sums[20], s51 = inout(vreg) sums[21], s52 = inout(vreg) sums[22], s53 = inout(vreg) sums[23],
            options(readonly, nostack)
        );
    }
}

/// Sums up all whole pairs of groups in a run of six pixels by two vectors.
#[inline(always)]
unsafe fn neon_run(x: [*const u8; 6], w: *const i8, run: usize, sums: &mut [[int32x4_t; 2]; 12]) {
    unsafe {
        std::arch::asm!(
            "2:",
            "ldp {w00:q}, {w01:q}, [{w}]",
            "ldp {w10:q}, {w11:q}, [{w}, #32]",
            pair_of_groups!("0"),
            pair_of_groups!("1"),
            pair_of_groups!("2"),
            pair_of_groups!("3"),
            pair_of_groups!("4"),
            pair_of_groups!("5"),
            "add {w}, {w}, #64",
            "subs {left}, {left}, #8",
            "b.ne 2b",
            p0 = inout(reg) x[0] => _, p1 = inout(reg) x[1] => _, p2 = inout(reg) x[2] => _,
            p3 = inout(reg) x[3] => _, p4 = inout(reg) x[4] => _, p5 = inout(reg) x[5] => _,
            w = inout(reg) w => _,
            left = inout(reg) run => _,
            x0 = out(vreg) _, x1 = out(vreg) _,
            w00 = out(vreg) _, w01 = out(vreg) _, w10 = out(vreg) _, w11 = out(vreg) _,
            a = out(vreg) _, b = out(vreg) _,
            l00 = inout(vreg) sums[0][0], h00 = inout(vreg) sums[0][1], l01 = inout(vreg) sums[1][0], h01 = inout(vreg) sums[1][1],
            l10 = inout(vreg) sums[2][0], h10 = inout(vreg) sums[2][1], l11 = inout(vreg) sums[3][0], h11 = inout(vreg) sums[3][1],
            l20 = inout(vreg) sums[4][0], h20 = inout(vreg) sums[4][1], l21 = inout(vreg) sums[5][0], h21 = inout(vreg) sums[5][1],
            l30 = inout(vreg) sums[6][0], h30 = inout(vreg) sums[6][1], l31 = inout(vreg) sums[7][0], h31 = inout(vreg) sums[7][1],
            l40 = inout(vreg) sums[8][0], h40 = inout(vreg) sums[8][1], l41 = inout(vreg) sums[9][0], h41 = inout(vreg) sums[9][1],
            l50 = inout(vreg) sums[10][0], h50 = inout(vreg) sums[10][1], l51 = inout(vreg) sums[11][0], h51 = inout(vreg) sums[11][1],
            options(readonly, nostack)
        );
    }
}

lanes! {
    NeonFloat: Float, 4, float32x4_t, float32x4_t, float32x4_t, float32x4_t;
    start(_) vdupq_n_f32(0.0);
    weights(at) vld1q_f32(at);
    splat(at) vld1q_dup_f32(at);
    each(at) vld1q_f32(at);
    dot(sum, x, w) vfmaq_f32(sum, x, w);
    store(sum, to) vst1q_f32(to, sum);
    numbers(at) vld1q_f32(at);
    value(sum, of, ACTIVATION) activated::<ACTIVATION>(vfmaq_f32(of.bias, sum, of.scale), of);
    larger(a, b) vbslq_f32(vcgtq_f32(b, a), b, a);
    put(values, to, channels) {
        if channels >= 4 * values.len() {
            for (vector, value) in values.iter().enumerate() {
                vst1q_f32(to.add(4 * vector), *value);
            }
        } else {
            let mut all = [0.0; MOST_CHANNELS];
            for (four, value) in all.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                vst1q_f32(four.as_mut_ptr(), *value);
            }
            put_some(&all, to, channels);
        }
    };
}

lanes! {
    Sdot: Integer, 4, int32x4_t, float32x4_t, int8x16_t, int8x16_t;
    start(at) vld1q_s32(at);
    weights(at) vld1q_s8(at);
    splat(at) vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()));
    dot(sum, x, w) {
        let mut sum = sum;
        // `core::arch` has no stable intrinsic for SDOT yet.
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
    begin_run(x, w, run, sums) {
        match (x.as_slice(), sums.as_flattened_mut().try_into()) {
            (&[a, b, c, d, e, f], Ok(sums)) => {
                sdot_run([a, b, c, d, e, f], w, run, sums);
                run
            }
            _ => 0,
        }
    };
    store(sum, to) vst1q_s32(to, sum);
    numbers(at) vld1q_f32(at);
    value(sum, of, ACTIVATION) value::<ACTIVATION>(sum, of);
    larger(a, b) vbslq_f32(vcgtq_f32(b, a), b, a);
    put(values, to, channels) put(values, to, channels);
}

lanes! {
    /// Without dot products: two 16-bit products are added up before they are widened. The two halves
    /// of a sum are added at the end.
    NeonInteger: Integer, 4, [int32x4_t; 2], float32x4_t, int8x16_t, int8x16_t;
    start(at) [vzip1q_s32(vld1q_s32(at), vdupq_n_s32(0)), vzip2q_s32(vld1q_s32(at), vdupq_n_s32(0))];
    weights(at) vld1q_s8(at);
    splat(at) vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned()));
    dot(sum, x, w) dot(sum, x, w);
    pair(sum, x, w) {
        let [mut low, mut high] = sum;
        // A single block of assembly, because the compiler starts so many products before it adds
        // any that the sums no longer fit into registers.
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
    begin_run(x, w, run, sums) {
        let pairs = run - run % 8;
        match (x.as_slice(), sums.as_flattened_mut().try_into()) {
            (&[a, b, c, d, e, f], Ok(sums)) if pairs > 0 => {
                neon_run([a, b, c, d, e, f], w, pairs, sums);
                pairs
            }
            _ => 0,
        }
    };
    store(sum, to) vst1q_s32(to, vpaddq_s32(sum[0], sum[1]));
    numbers(at) vld1q_f32(at);
    value(sum, of, ACTIVATION) value::<ACTIVATION>(vpaddq_s32(sum[0], sum[1]), of);
    larger(a, b) vbslq_f32(vcgtq_f32(b, a), b, a);
    put(values, to, channels) put(values, to, channels);
}

lanes! {
    /// Depthwise: two products are added up in 16 bits first.
    NeonEach: Integer, 16, [int32x4_t; 4], [float32x4_t; 4], int8x16_t, int8x16_t;
    start(at) [vld1q_s32(at), vld1q_s32(at.add(4)), vld1q_s32(at.add(8)), vld1q_s32(at.add(12))];
    weights(at) vld1q_s8(at);
    each(at) vld1q_s8(at.cast());
    dot(sum, x, w) add_up(sum, vmull_s8(vget_low_s8(x), vget_low_s8(w)), vmull_high_s8(x, w));
    pair(sum, x, w) {
        let low = vmull_s8(vget_low_s8(x[0]), vget_low_s8(w[0]));
        let high = vmull_high_s8(x[0], w[0]);
        let low = vmlal_s8(low, vget_low_s8(x[1]), vget_low_s8(w[1]));
        add_up(sum, low, vmlal_high_s8(high, x[1], w[1]))
    };
    store(sum, to) {
        for (four, sum) in sum.iter().enumerate() {
            vst1q_s32(to.add(4 * four), *sum);
        }
    };
    numbers(at) [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))];
    value(sum, of, ACTIVATION) {
        [
            value::<ACTIVATION>(sum[0], &quarter(of, 0)),
            value::<ACTIVATION>(sum[1], &quarter(of, 1)),
            value::<ACTIVATION>(sum[2], &quarter(of, 2)),
            value::<ACTIVATION>(sum[3], &quarter(of, 3)),
        ]
    };
    larger(a, b) {
        let mut a = a;
        for (a, b) in a.iter_mut().zip(b) {
            *a = vbslq_f32(vcgtq_f32(b, *a), b, *a);
        }
        a
    };
    put(values, to, channels) put(values.as_flattened(), to, channels);
}

/// Returns the parameters of a quarter of sixteen channels.
#[inline(always)]
fn quarter(of: &Parameters<[float32x4_t; 4]>, ix: usize) -> Parameters<float32x4_t> {
    Parameters {
        scale: of.scale[ix],
        bias: of.bias[ix],
        slope: of.slope[ix],
        half: of.half,
    }
}

#[inline(always)]
unsafe fn dot(sum: [int32x4_t; 2], x: int8x16_t, w: int8x16_t) -> [int32x4_t; 2] {
    unsafe {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_high_s8(w, x);
        [vpadalq_s16(sum[0], low), vpadalq_s16(sum[1], high)]
    }
}

#[inline(always)]
unsafe fn add_up(sum: [int32x4_t; 4], low: int16x8_t, high: int16x8_t) -> [int32x4_t; 4] {
    unsafe {
        [
            vaddw_s16(sum[0], vget_low_s16(low)),
            vaddw_high_s16(sum[1], low),
            vaddw_s16(sum[2], vget_low_s16(high)),
            vaddw_high_s16(sum[3], high),
        ]
    }
}

#[inline(always)]
unsafe fn activated<const ACTIVATION: u8>(
    value: float32x4_t,
    of: &Parameters<float32x4_t>,
) -> float32x4_t {
    unsafe {
        match ACTIVATION {
            NO_ACTIVATION => value,
            LEAKY => vmaxq_f32(vmulq_f32(value, of.slope), value),
            _ => vbslq_f32(vcltzq_f32(value), vmulq_f32(value, of.slope), value),
        }
    }
}

/// No fused multiply-add, so that every instruction set gives the same bytes.
#[inline(always)]
unsafe fn value<const ACTIVATION: u8>(sum: int32x4_t, of: &Parameters<float32x4_t>) -> float32x4_t {
    unsafe {
        let value = vmulq_f32(vcvtq_f32_s32(sum), of.scale);
        let value = activated::<ACTIVATION>(vaddq_f32(value, of.bias), of);
        vaddq_f32(value, vdupq_n_f32(of.half))
    }
}

#[inline(always)]
unsafe fn put(values: &[float32x4_t], to: *mut u8, channels: usize) {
    unsafe {
        let mut all = [0; MOST_CHANNELS];
        let whole = channels >= 4 * values.len();
        let begin = if whole { to } else { all.as_mut_ptr() };
        let (sixteens, fours) = values.as_chunks::<4>();
        for (ix, [a, b, c, d]) in sixteens.iter().enumerate() {
            let low = vqmovn_high_u32(vqmovn_u32(vcvtq_u32_f32(*a)), vcvtq_u32_f32(*b));
            let high = vqmovn_high_u32(vqmovn_u32(vcvtq_u32_f32(*c)), vcvtq_u32_f32(*d));
            let bytes = vqmovn_high_u16(vqmovn_u16(low), high);
            vst1q_u8(begin.add(16 * ix), veorq_u8(bytes, vdupq_n_u8(FLIP)));
        }
        for (ix, value) in (4 * sixteens.len()..).zip(fours) {
            begin
                .add(4 * ix)
                .cast::<u32>()
                .write_unaligned(four(*value, FLIP));
        }
        if !whole {
            put_some(&all, to, channels);
        }
    }
}

/// Converts four values to bytes: NaN and negative numbers become 0, numbers above 255 become 255.
#[inline(always)]
unsafe fn four(values: float32x4_t, flip: u8) -> u32 {
    unsafe {
        let narrow = vqmovn_u32(vcvtq_u32_f32(values));
        let narrow = veor_u8(vqmovn_u16(vcombine_u16(narrow, narrow)), vdup_n_u8(flip));
        vget_lane_u32::<0>(vreinterpret_u32_u8(narrow))
    }
}

/// Rounds four values to bytes like the loop in `activate`, which the compiler does not vectorise.
#[inline(always)]
pub(super) unsafe fn round(values: &[f32; 4], half: f32, flip: u8, bytes: &mut [u8; 4]) {
    unsafe {
        *bytes = four(
            vaddq_f32(vld1q_f32(values.as_ptr()), vdupq_n_f32(half)),
            flip,
        )
        .to_ne_bytes();
    }
}

/// Converts four bytes to values, each like `Element::value`.
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

/// Flip mask of all kernels in this file.
const FLIP: u8 = 128;

kernels!(
    neon_float,
    "NEON",
    FLIP,
    [],
    NeonFloat,
    [6, 4, 1],
    [1, 2, 3, 4],
    NeonFloat,
    [6, 4, 1],
    [1, 2, 3, 4]
);
kernels!(
    sdot,
    "SDOT",
    FLIP,
    [],
    Sdot,
    [6, 4, 2, 1],
    [1, 2, 3, 4],
    NeonEach,
    [4, 2, 1],
    [1]
);
kernels!(
    neon_integer,
    "NEON",
    FLIP,
    [],
    NeonInteger,
    [6, 4, 2, 1],
    [1, 2],
    NeonEach,
    [4, 2, 1],
    [1]
);

/// Returns all kernels that this processor can run, the fastest first.
pub(super) fn float() -> Vec<&'static Kernels<Float>> {
    vec![&neon_float::KERNELS]
}

/// Returns all kernels that this processor can run, the fastest first.
pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
    let all = [
        (
            std::arch::is_aarch64_feature_detected!("dotprod"),
            &sdot::KERNELS,
        ),
        (true, &neon_integer::KERNELS),
    ];
    all.into_iter()
        .filter_map(|(runs, kernels)| runs.then_some(kernels))
        .collect()
}
