//! AVX-512: with VBMI and VNNI (Ice Lake, Zen 4 and later) 128 look-ups with two permutations and two sums, as in the
//! nibble scan; with BW alone (Skylake-X) 64 an instruction in tables of 16 bytes, as with AVX2.

#![allow(unsafe_code)]

use super::{
    FastGroups, FastQuery, Found, GROUP, POINTS, SHORT_SUBSPACES, Steps, VALUE_MAX, limit, offset, step,
};
use crate::kernel::avx2::prefetch;
use crate::kernel::nibble::avx512::{TRANSPOSE, keep};
use std::arch::x86_64::*;

/// One function for each number of queries, each compiled with and without biases.
macro_rules! scan_each {
    ($some:ident, $groups:ident, $queries:ident, $found:ident) => {
        match ($groups.biased, $queries, $found) {
            (true, [a], [x]) => $some::<1, true>([a], [x], $groups),
            (true, [a, b], [x, y]) => $some::<2, true>([a, b], [x, y], $groups),
            (true, [a, b, c], [x, y, z]) => $some::<3, true>([a, b, c], [x, y, z], $groups),
            (true, [a, b, c, d], [x, y, z, w]) => $some::<4, true>([a, b, c, d], [x, y, z, w], $groups),
            (false, [a], [x]) => $some::<1, false>([a], [x], $groups),
            (false, [a, b], [x, y]) => $some::<2, false>([a, b], [x, y], $groups),
            (false, [a, b, c], [x, y, z]) => $some::<3, false>([a, b, c], [x, y, z], $groups),
            (false, [a, b, c, d], [x, y, z, w]) => $some::<4, false>([a, b, c, d], [x, y, z, w], $groups),
            _ => {}
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub(in crate::kernel) fn scan_vbmi(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
    scan_each!(some_vbmi, groups, queries, found);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn some_vbmi<const Q: usize, const BIASED: bool>(
    queries: [&FastQuery<'_>; Q],
    found: [&mut Found; Q],
    groups: &FastGroups<'_>,
) {
    let limits = queries.map(|query| if BIASED { 0 } else { limit(query, groups.subspaces) });
    for (g, (nibbles, biases, ahead)) in groups.each().enumerate() {
        prefetch::<1>(ahead);
        let sums = sums_vbmi(&queries, nibbles);
        for q in 0..Q {
            report::<BIASED>(g, biases, queries[q], limits[q], sums[q], found[q]);
        }
    }
}

/// The sums of entries 0–15 and 16–31 of a group, for each query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn sums_vbmi<const Q: usize>(queries: &[&FastQuery<'_>; Q], nibbles: &[u8]) -> [[__m512i; 2]; Q] {
    // SAFETY: 64 bytes are read from an array of 64.
    let transpose = unsafe { _mm512_loadu_si512(TRANSPOSE.as_ptr().cast()) };
    let nibble = _mm512_set1_epi8(0x0f);
    // Byte 4m + j looks into the j-th of four tables.
    let table_of = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for (four, codes) in nibbles.chunks(64).enumerate() {
        let codes = _mm512_permutexvar_epi8(transpose, four_codes(codes));
        // (codes & nibble) | table_of, and the same of the high nibbles.
        let low = _mm512_ternarylogic_epi32::<0xea>(codes, nibble, table_of);
        let high = _mm512_ternarylogic_epi32::<0xea>(_mm512_srli_epi16::<4>(codes), nibble, table_of);
        for q in 0..Q {
            let table = four_tables(queries[q], four);
            let (a, b) = (_mm512_permutexvar_epi8(low, table), _mm512_permutexvar_epi8(high, table));
            sums[q][0] = _mm512_dpbusd_epi32(sums[q][0], a, ones);
            sums[q][1] = _mm512_dpbusd_epi32(sums[q][1], b, ones);
        }
    }
    sums
}

/// The codes of four sub-spaces. If there are but two, the other two have codes of zeros, and tables of zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn four_codes(codes: &[u8]) -> __m512i {
    if let Some(codes) = codes.first_chunk::<64>() {
        // SAFETY: 64 bytes are read from an array of 64.
        return unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
    }
    match codes.first_chunk::<32>() {
        // SAFETY: 32 bytes are read from an array of 32.
        Some(codes) => _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }),
        None => _mm512_setzero_si512(),
    }
}

/// The tables of four sub-spaces.
#[inline]
#[target_feature(enable = "avx512f")]
fn four_tables(query: &FastQuery<'_>, four: usize) -> __m512i {
    debug_assert!(query.table.len() >= 64 * (four + 1));
    // SAFETY: `fast_scan` asserts 16 table bytes a sub-space for a multiple of 4 of them, and these are 4.
    unsafe { _mm512_loadu_si512(query.table.as_ptr().add(64 * four).cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn scan(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
    scan_each!(some, groups, queries, found);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn some<const Q: usize, const BIASED: bool>(
    queries: [&FastQuery<'_>; Q],
    found: [&mut Found; Q],
    groups: &FastGroups<'_>,
) {
    let limits = queries.map(|query| if BIASED { 0 } else { limit(query, groups.subspaces) });
    for (g, (nibbles, biases, ahead)) in groups.each().enumerate() {
        prefetch::<1>(ahead);
        let mut sums = [[_mm512_setzero_si512(); 2]; Q];
        for (part, nibbles) in nibbles.chunks(16 * SHORT_SUBSPACES).enumerate() {
            let short = short_sums(&queries, part * SHORT_SUBSPACES / 4, nibbles);
            for q in 0..Q {
                for half in 0..2 {
                    let wide = _mm512_cvtepu16_epi32(short[q][half]);
                    sums[q][half] = _mm512_add_epi32(sums[q][half], wide);
                }
            }
        }
        for q in 0..Q {
            report::<BIASED>(g, biases, queries[q], limits[q], sums[q], found[q]);
        }
    }
}

/// The sums of entries 0–15 and 16–31 over at most [`SHORT_SUBSPACES`] from the `first`-th four on, which 16 bits hold.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn short_sums<const Q: usize>(
    queries: &[&FastQuery<'_>; Q],
    first: usize,
    nibbles: &[u8],
) -> [[__m256i; 2]; Q] {
    let nibble = _mm512_set1_epi8(0x0f);
    // Of the low and of the high nibbles: all bytes as 16-bit numbers, and the odd bytes alone.
    let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; Q];
    for (four, codes) in nibbles.chunks(64).enumerate() {
        let codes = four_codes(codes);
        let low = _mm512_and_si512(codes, nibble);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
        for q in 0..Q {
            let table = four_tables(queries[q], first + four);
            for (half, codes) in [low, high].into_iter().enumerate() {
                let values = _mm512_shuffle_epi8(table, codes);
                sums[q][half][0] = _mm512_add_epi16(sums[q][half][0], values);
                sums[q][half][1] = _mm512_add_epi16(sums[q][half][1], _mm512_srli_epi16::<8>(values));
            }
        }
    }
    let mut folded = [[_mm256_setzero_si256(); 2]; Q];
    for q in 0..Q {
        for half in 0..2 {
            folded[q][half] = fold(sums[q][half][0], sums[q][half][1]);
        }
    }
    folded
}

/// The sums of 16 entries from the sums of all bytes and of the odd ones, each in four sub-spaces.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn fold(all: __m512i, odd: __m512i) -> __m256i {
    let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
    // Entries 0–7 and 8–15 of each sub-space.
    let (first, second) = (_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd));
    _mm256_set_m128i(fold_four(second), fold_four(first))
}

/// The sum of the four quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn fold_four(sums: __m512i) -> __m128i {
    let two = _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    _mm_add_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// Turns the sums of a group into scores and keeps what is wanted.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn report<const BIASED: bool>(
    g: usize,
    biases: &[u8],
    query: &FastQuery<'_>,
    limit: i32,
    sums: [__m512i; 2],
    found: &mut Found,
) {
    assert!(biases.len() == if BIASED { 4 * GROUP } else { 0 });
    for half in 0..2 {
        let live = (query.live[g] >> (16 * half)) as __mmask16;
        if !BIASED {
            let near = _mm512_mask_cmple_epi32_mask(live, sums[half], _mm512_set1_epi32(limit));
            if near != 0 {
                let base = _mm512_add_ps(_mm512_setzero_ps(), _mm512_set1_ps(query.base));
                keep(near, (g * GROUP + 16 * half) as u32, score(base, query, sums[half]), found);
            }
            continue;
        }
        // SAFETY: there are 32 biases, and 16 are read from 0 or 16 on.
        let biases = unsafe { _mm512_loadu_ps(biases.as_ptr().add(64 * half).cast()) };
        let score = score(_mm512_add_ps(biases, _mm512_set1_ps(query.base)), query, sums[half]);
        let near = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(live, score, _mm512_set1_ps(query.worst));
        if near != 0 {
            keep(near, (g * GROUP + 16 * half) as u32, score, found);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn score(base: __m512, query: &FastQuery<'_>, sums: __m512i) -> __m512 {
    _mm512_add_ps(base, _mm512_mul_ps(_mm512_set1_ps(query.step), _mm512_cvtepi32_ps(sums)))
}

/// [`table_body`](super::table_body) by hand: compilers gather values of many sub-spaces instead, three times as slow.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn table(values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps {
    let values = values.as_chunks::<POINTS>().0;
    let mut widest = 0.0f32;
    for (values, out) in values.iter().zip(&mut *leasts) {
        let (least, most) = extremes(cut(values));
        widest = if most - least > widest { most - least } else { widest };
        *out = least;
    }
    let (step, inverse) = step(widest, values.len());
    let (tables, _) = table.as_chunks_mut::<POINTS>();
    tables[values.len()..].fill([0; POINTS]);
    for ((values, least), out) in values.iter().zip(&*leasts).zip(tables) {
        let steps =
            _mm512_mul_ps(_mm512_sub_ps(cut(values), _mm512_set1_ps(*least)), _mm512_set1_ps(inverse));
        // Rounded to the nearest, ties to even.
        let steps = _mm512_cvtps_epi32(_mm512_min_ps(steps, _mm512_set1_ps(255.0)));
        // SAFETY: 16 bytes are written to an array of 16.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(steps)) };
    }
    Steps { step, offset: offset(leasts) }
}

/// NaN becomes the second operand.
#[inline]
#[target_feature(enable = "avx512f")]
fn cut(values: &[f32; POINTS]) -> __m512 {
    // SAFETY: 16 floats are read from an array of 16.
    let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
    _mm512_max_ps(_mm512_min_ps(values, _mm512_set1_ps(VALUE_MAX)), _mm512_set1_ps(-VALUE_MAX))
}

/// The least and the greatest value: the greatest of the values and of the negated ones, eight of each in a register.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn extremes(values: __m512) -> (f32, f32) {
    let swapped = _mm512_shuffle_f32x4::<0x4e>(values, values);
    let (most, least) = (_mm512_max_ps(values, swapped), _mm512_min_ps(values, swapped));
    let both = _mm512_mask_sub_ps(most, 0xff00, _mm512_setzero_ps(), least);
    let both = _mm512_max_ps(both, _mm512_shuffle_f32x4::<0xb1>(both, both));
    let both = _mm512_max_ps(both, _mm512_shuffle_ps::<0x4e>(both, both));
    let both = _mm512_max_ps(both, _mm512_shuffle_ps::<0xb1>(both, both));
    let least = _mm512_extractf32x8_ps::<1>(both);
    (-_mm256_cvtss_f32(least), _mm512_cvtss_f32(both))
}
