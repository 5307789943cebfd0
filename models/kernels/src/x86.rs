//! AVX2, AVX-VNNI, AVX-512 and AVX-512 VNNI. Bytes are unsigned, as in the graph.

use std::arch::x86_64::*;

use super::lanes::{self, *};
use super::*;

lanes! {
    Avx512Float: Float, 16, __m512, __m512, __m512, __m512;
    start(_) _mm512_setzero_ps();
    weights(at) _mm512_loadu_ps(at);
    splat(at) _mm512_set1_ps(*at);
    each(at) _mm512_loadu_ps(at);
    dot(sum, x, w) _mm512_fmadd_ps(x, w, sum);
    store(sum, to) _mm512_storeu_ps(to, sum);
    numbers(at) _mm512_loadu_ps(at);
    value(sum, of, ACTIVATION) {
        let value = _mm512_fmadd_ps(sum, of.scale, of.bias);
        activated_512::<ACTIVATION>(value, of)
    };
    larger(a, b) _mm512_max_ps(b, a);
    put(values, to, channels) {
        for (vector, value) in values.iter().enumerate() {
            let first = 16 * vector;
            _mm512_mask_storeu_ps(to.add(first), there(channels, first), *value);
        }
    };
}

lanes! {
    Avx512Vnni: Integer, 16, __m512i, __m512, __m512i, __m512i;
    start(at) _mm512_loadu_si512(at.cast());
    weights(at) _mm512_loadu_si512(at.cast());
    splat(at) _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
    dot(sum, x, w) _mm512_dpbusd_epi32(sum, x, w);
    store(sum, to) _mm512_storeu_si512(to.cast(), sum);
    numbers(at) _mm512_loadu_ps(at);
    value(sum, of, ACTIVATION) value_512::<ACTIVATION>(sum, of);
    larger(a, b) _mm512_max_ps(b, a);
    put(values, to, channels) put_512(values, to, channels);
}

lanes! {
    /// Depthwise: 16-bit products, two at once.
    Avx512Each: Integer, 16, __m512i, __m512, __m128i, __m128i;
    start(at) _mm512_loadu_si512(at.cast());
    weights(at) _mm_loadu_si128(at.cast());
    each(at) _mm_loadu_si128(at.cast());
    dot(sum, x, w) _mm512_dpwssd_epi32(sum, _mm512_cvtepu8_epi32(x), _mm512_cvtepi8_epi32(w));
    pair(sum, x, w) {
        let low = _mm512_set1_epi32(0xffff);
        let x = _mm512_or_si512(_mm512_cvtepu8_epi32(x[0]), _mm512_slli_epi32::<16>(_mm512_cvtepu8_epi32(x[1])));
        let first = _mm512_and_si512(low, _mm512_cvtepi8_epi32(w[0]));
        let w = _mm512_or_si512(first, _mm512_slli_epi32::<16>(_mm512_cvtepi8_epi32(w[1])));
        _mm512_dpwssd_epi32(sum, x, w)
    };
    store(sum, to) _mm512_storeu_si512(to.cast(), sum);
    numbers(at) _mm512_loadu_ps(at);
    value(sum, of, ACTIVATION) value_512::<ACTIVATION>(sum, of);
    larger(a, b) _mm512_max_ps(b, a);
    put(values, to, channels) put_512(values, to, channels);
}

/// Returns the mask of the existing channels among the sixteen from `first` on.
#[inline(always)]
fn there(channels: usize, first: usize) -> u16 {
    if channels >= first + 16 {
        u16::MAX
    } else {
        (1 << (channels - first)) - 1
    }
}

#[inline(always)]
unsafe fn activated_512<const ACTIVATION: u8>(value: __m512, of: &Parameters<__m512>) -> __m512 {
    unsafe {
        match ACTIVATION {
            NO_ACTIVATION => value,
            LEAKY => _mm512_max_ps(_mm512_mul_ps(value, of.slope), value),
            _ => {
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(value, _mm512_setzero_ps());
                _mm512_mask_mul_ps(value, below, value, of.slope)
            }
        }
    }
}

/// No fused multiply-add, so that every instruction set gives the same bytes.
#[inline(always)]
unsafe fn value_512<const ACTIVATION: u8>(sum: __m512i, of: &Parameters<__m512>) -> __m512 {
    unsafe {
        let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), of.scale);
        let value = _mm512_add_ps(value, of.bias);
        _mm512_add_ps(
            activated_512::<ACTIVATION>(value, of),
            _mm512_set1_ps(of.half),
        )
    }
}

#[inline(always)]
unsafe fn put_512(values: &[__m512], to: *mut u8, channels: usize) {
    unsafe {
        for (vector, value) in values.iter().enumerate() {
            let first = 16 * vector;
            // `max` returns its second operand, 0, for NaN. Numbers too large for 32 bits become
            // the largest unsigned one.
            let whole = _mm512_cvttps_epi32(_mm512_max_ps(*value, _mm512_setzero_ps()));
            _mm_mask_storeu_epi8(
                to.add(first).cast(),
                there(channels, first),
                _mm512_cvtusepi32_epi8(whole),
            );
        }
    }
}

lanes! {
    Avx2Float: Float, 8, __m256, __m256, __m256, __m256;
    start(_) _mm256_setzero_ps();
    weights(at) _mm256_loadu_ps(at);
    splat(at) _mm256_set1_ps(*at);
    each(at) _mm256_loadu_ps(at);
    dot(sum, x, w) _mm256_fmadd_ps(x, w, sum);
    store(sum, to) _mm256_storeu_ps(to, sum);
    numbers(at) _mm256_loadu_ps(at);
    value(sum, of, ACTIVATION) {
        let value = _mm256_fmadd_ps(sum, of.scale, of.bias);
        activated_256::<ACTIVATION>(value, of)
    };
    larger(a, b) _mm256_max_ps(b, a);
    put(values, to, channels) {
        if channels >= 8 * values.len() {
            for (vector, value) in values.iter().enumerate() {
                _mm256_storeu_ps(to.add(8 * vector), *value);
            }
        } else {
            let mut all = [0.0; MOST_CHANNELS];
            for (eight, value) in all.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                _mm256_storeu_ps(eight.as_mut_ptr(), *value);
            }
            put_some(&all, to, channels);
        }
    };
}

lanes! {
    AvxVnni: Integer, 8, __m256i, __m256, __m256i, __m256i;
    start(at) _mm256_loadu_si256(at.cast());
    weights(at) _mm256_loadu_si256(at.cast());
    splat(at) _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
    dot(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w);
    store(sum, to) _mm256_storeu_si256(to.cast(), sum);
    numbers(at) _mm256_loadu_ps(at);
    value(sum, of, ACTIVATION) value_256::<ACTIVATION>(sum, of);
    larger(a, b) _mm256_max_ps(b, a);
    put(values, to, channels) put_256(values, to, channels);
}

lanes! {
    /// Without dot products: bytes at even and odd places become 16-bit numbers, whose products
    /// never overflow.
    Avx2Integer: Integer, 8, __m256i, __m256, [__m256i; 2], [__m256i; 2];
    start(at) _mm256_loadu_si256(at.cast());
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
    numbers(at) _mm256_loadu_ps(at);
    value(sum, of, ACTIVATION) value_256::<ACTIVATION>(sum, of);
    larger(a, b) _mm256_max_ps(b, a);
    put(values, to, channels) put_256(values, to, channels);
}

lanes! {
    /// Depthwise: 16-bit products, two at once.
    Avx2Each: Integer, 8, __m256i, __m256, __m128i, __m128i;
    start(at) _mm256_loadu_si256(at.cast());
    weights(at) _mm_loadl_epi64(at.cast());
    each(at) _mm_loadl_epi64(at.cast());
    dot(sum, x, w) two_products(sum, [x, _mm_setzero_si128()], [w, _mm_setzero_si128()]);
    pair(sum, x, w) two_products(sum, x, w);
    store(sum, to) _mm256_storeu_si256(to.cast(), sum);
    numbers(at) _mm256_loadu_ps(at);
    value(sum, of, ACTIVATION) value_256::<ACTIVATION>(sum, of);
    larger(a, b) _mm256_max_ps(b, a);
    put(values, to, channels) put_256(values, to, channels);
}

#[inline(always)]
unsafe fn two_products(sum: __m256i, x: [__m128i; 2], w: [__m128i; 2]) -> __m256i {
    unsafe {
        let x = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x[0], x[1]));
        let w = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(w[0], w[1]));
        _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
    }
}

#[inline(always)]
unsafe fn activated_256<const ACTIVATION: u8>(value: __m256, of: &Parameters<__m256>) -> __m256 {
    unsafe {
        match ACTIVATION {
            NO_ACTIVATION => value,
            LEAKY => _mm256_max_ps(_mm256_mul_ps(value, of.slope), value),
            _ => {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(value, _mm256_setzero_ps());
                _mm256_blendv_ps(value, _mm256_mul_ps(value, of.slope), below)
            }
        }
    }
}

/// No fused multiply-add, like [`value_512`].
#[inline(always)]
unsafe fn value_256<const ACTIVATION: u8>(sum: __m256i, of: &Parameters<__m256>) -> __m256 {
    unsafe {
        let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), of.scale);
        let value = _mm256_add_ps(value, of.bias);
        _mm256_add_ps(
            activated_256::<ACTIVATION>(value, of),
            _mm256_set1_ps(of.half),
        )
    }
}

#[inline(always)]
unsafe fn put_256(values: &[__m256], to: *mut u8, channels: usize) {
    unsafe {
        let mut all = [0; MOST_CHANNELS];
        let whole = channels >= 8 * values.len();
        let begin = if whole { to } else { all.as_mut_ptr() };
        for (vector, value) in values.iter().enumerate() {
            // `min` returns its second operand for NaN, which converts to the smallest 32-bit
            // number and packs to 0.
            let words = _mm256_cvttps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0), *value));
            let halves = _mm256_packus_epi32(words, words);
            let bytes = _mm256_packus_epi16(halves, halves);
            let eight = _mm_unpacklo_epi32(
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(begin.add(8 * vector).cast(), eight);
        }
        if !whole {
            put_some(&all, to, channels);
        }
    }
}

kernels!(
    avx512_float,
    "AVX-512",
    0,
    ["avx512f,avx512bw,avx512vl,avx512dq"],
    Avx512Float,
    [12, 8, 4, 1],
    [1, 2],
    Avx512Float,
    [12, 8, 4, 1],
    [1, 2]
);
kernels!(
    avx512_vnni,
    "AVX-512 VNNI",
    0,
    ["avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"],
    Avx512Vnni,
    [12, 8, 4, 1],
    [1, 2],
    Avx512Each,
    [8, 4, 1],
    [1, 2]
);
kernels!(
    avx2_float,
    "AVX2",
    0,
    ["avx2,fma"],
    Avx2Float,
    [6, 4, 1],
    [1, 2],
    Avx2Float,
    [6, 4, 1],
    [1, 2]
);
kernels!(
    avx_vnni,
    "AVX-VNNI",
    0,
    ["avx2,avxvnni"],
    AvxVnni,
    [6, 4, 1],
    [1, 2],
    Avx2Each,
    [4, 1],
    [1, 2]
);
kernels!(
    avx2_integer,
    "AVX2",
    0,
    ["avx2"],
    Avx2Integer,
    [4, 2, 1],
    [1, 2],
    Avx2Each,
    [4, 1],
    [1, 2]
);

fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Returns all kernels that this processor can run, the fastest first.
pub(super) fn float() -> Vec<&'static Kernels<Float>> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let all = [
        (has_avx512(), &avx512_float::KERNELS),
        (avx2, &avx2_float::KERNELS),
    ];
    all.into_iter()
        .filter_map(|(runs, kernels)| runs.then_some(kernels))
        .collect()
}

/// Returns all kernels that this processor can run, the fastest first.
pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
    let avx2 = is_x86_feature_detected!("avx2");
    let all = [
        (
            has_avx512() && is_x86_feature_detected!("avx512vnni"),
            &avx512_vnni::KERNELS,
        ),
        (
            avx2 && is_x86_feature_detected!("avxvnni"),
            &avx_vnni::KERNELS,
        ),
        (avx2, &avx2_integer::KERNELS),
    ];
    all.into_iter()
        .filter_map(|(runs, kernels)| runs.then_some(kernels))
        .collect()
}
