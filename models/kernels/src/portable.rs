//! Kernels for every processor, vectorised by the compiler as far as it can.

use super::finish::{Lane, activated, larger, whole};
use super::lanes::{self, *};
use super::*;

lanes! {
    PortableFloat: Float, 4, [f32; 4], [f32; 4], [f32; 4], [f32; 4];
    start(_) [0.0; 4];
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
    numbers(at) at.cast::<[f32; 4]>().read_unaligned();
    value(sum, of, ACTIVATION) value(&sum, of);
    larger(a, b) larger(a, b);
    put(values, to, channels) {
        for (value, channel) in values.as_flattened().iter().zip(0..channels) {
            *to.add(channel) = *value;
        }
    };
}

lanes! {
    PortableInteger: Integer, 4, [i32; 4], [f32; 4], [i8; 16], [u8; 4];
    start(at) at.cast::<[i32; 4]>().read_unaligned();
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
    numbers(at) at.cast::<[f32; 4]>().read_unaligned();
    value(sum, of, ACTIVATION) value(&sum, of).map(|value| value + of.half);
    larger(a, b) larger(a, b);
    put(values, to, channels) put(values, to, channels);
}

lanes! {
    /// Depthwise.
    PortableEach: Integer, 4, [i32; 4], [f32; 4], [i8; 4], [u8; 4];
    start(at) at.cast::<[i32; 4]>().read_unaligned();
    weights(at) at.cast::<[i8; 4]>().read_unaligned();
    each(at) at.cast::<[u8; 4]>().read_unaligned();
    dot(sum, x, w) {
        let mut sum = sum;
        for lane in 0..4 {
            sum[lane] += i32::from(x[lane]) * i32::from(w[lane]);
        }
        sum
    };
    store(sum, to) to.cast::<[i32; 4]>().write_unaligned(sum);
    numbers(at) at.cast::<[f32; 4]>().read_unaligned();
    value(sum, of, ACTIVATION) value(&sum, of).map(|value| value + of.half);
    larger(a, b) larger(a, b);
    put(values, to, channels) put(values, to, channels);
}

#[inline(always)]
fn value<S: Sum>(sums: &[S; 4], of: &Parameters<[f32; 4]>) -> [f32; 4] {
    let Parameters {
        scale, bias, slope, ..
    } = *of;
    activated::<S, 4, false, true>(sums, &Lane { scale, bias, slope }, &[0.0; 4])
}

#[inline(always)]
unsafe fn put(values: &[[f32; 4]], to: *mut u8, channels: usize) {
    for (value, channel) in values.as_flattened().iter().zip(0..channels) {
        unsafe { *to.add(channel) = whole(*value) };
    }
}

kernels!(
    portable_float,
    "portable",
    0,
    [],
    PortableFloat,
    [4, 1],
    [1, 2],
    PortableFloat,
    [4, 1],
    [1, 2]
);
kernels!(
    portable_integer,
    "portable",
    0,
    [],
    PortableInteger,
    [4, 1],
    [1, 2],
    PortableEach,
    [4, 1],
    [1, 2]
);

pub(super) use portable_float::KERNELS as FLOAT;
pub(super) use portable_integer::KERNELS as INTEGER;
