//! AVX2: 32 look-ups an instruction, in tables of 16 bytes.
//!
//! A register is the same 16 entries in two sub-spaces. Bytes are added as 16-bit numbers: once as they are, which
//! gives the sum of the even bytes and 256 times that of the odd ones, once shifted, which gives that of the odd ones alone.

#![allow(unsafe_code)]

use super::{FastGroups, FastQuery, Found, GROUP, SHORT_SUBSPACES, Steps, limit, portable, table_body};
use crate::kernel::avx2::prefetch;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn scan(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
    let mut limits = [0; super::FAST_QUERIES];
    limits.iter_mut().zip(queries).for_each(|(out, query)| *out = limit(query, groups.subspaces));
    for (g, (nibbles, biases, ahead)) in groups.each().enumerate() {
        prefetch::<1>(ahead);
        // The sums of two queries and what they share fill the registers.
        for (at, (queries, found)) in queries.chunks(2).zip(found.chunks_mut(2)).enumerate() {
            let group = At { g, biases, limits: &limits[2 * at..] };
            match (queries, found) {
                ([a, b], [x, y]) => {
                    let [sums_a, sums_b] = sums([a, b], nibbles);
                    report(&group, 0, a, sums_a, x);
                    report(&group, 1, b, sums_b, y);
                }
                ([a], [x]) => {
                    let [sums] = sums([a], nibbles);
                    report(&group, 0, a, sums, x);
                }
                _ => {}
            }
        }
    }
}

/// A group's number and biases, and the limits of the queries' sums where there are no biases.
struct At<'a> {
    g: usize,
    biases: &'a [u8],
    limits: &'a [i32],
}

/// The sums of a group for each query: entries 0–7, 8–15, 16–23, 24–31.
#[inline]
#[target_feature(enable = "avx2")]
fn sums<const Q: usize>(queries: [&FastQuery<'_>; Q], nibbles: &[u8]) -> [[__m256i; 4]; Q] {
    let mut totals = [[_mm256_setzero_si256(); 4]; Q];
    for (part, nibbles) in nibbles.chunks(16 * SHORT_SUBSPACES).enumerate() {
        let mut tables = [&[][..]; Q];
        for q in 0..Q {
            tables[q] = &queries[q].table[part * 16 * SHORT_SUBSPACES..];
        }
        let short = short_sums(tables, nibbles);
        for q in 0..Q {
            for i in 0..4 {
                totals[q][i] = _mm256_add_epi32(totals[q][i], _mm256_cvtepu16_epi32(short[q][i]));
            }
        }
    }
    totals
}

/// The same over at most [`SHORT_SUBSPACES`], which 16 bits hold.
#[inline]
#[target_feature(enable = "avx2")]
fn short_sums<const Q: usize>(tables: [&[u8]; Q], nibbles: &[u8]) -> [[__m128i; 4]; Q] {
    let nibble = _mm256_set1_epi8(0x0f);
    // Of the low and of the high nibbles: all bytes as 16-bit numbers, and the odd bytes alone.
    let mut sums = [[[_mm256_setzero_si256(); 2]; 2]; Q];
    for (pair, codes) in nibbles.as_chunks::<32>().0.iter().enumerate() {
        // SAFETY: 32 bytes are read from an array of 32.
        let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let low = _mm256_and_si256(codes, nibble);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
        for q in 0..Q {
            debug_assert!(tables[q].len() >= 32 * (pair + 1));
            // SAFETY: `fast_scan` asserts 16 table bytes a sub-space, and these are 2 sub-spaces.
            let table = unsafe { _mm256_loadu_si256(tables[q].as_ptr().add(32 * pair).cast()) };
            for (half, codes) in [low, high].into_iter().enumerate() {
                let values = _mm256_shuffle_epi8(table, codes);
                sums[q][half][0] = _mm256_add_epi16(sums[q][half][0], values);
                sums[q][half][1] = _mm256_add_epi16(sums[q][half][1], _mm256_srli_epi16::<8>(values));
            }
        }
    }
    let mut folded = [[_mm_setzero_si128(); 4]; Q];
    for q in 0..Q {
        for half in 0..2 {
            let [all, odd] = sums[q][half];
            let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
            folded[q][2 * half] = fold(_mm256_unpacklo_epi16(even, odd));
            folded[q][2 * half + 1] = fold(_mm256_unpackhi_epi16(even, odd));
        }
    }
    folded
}

/// The sum of the even and the odd sub-spaces.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(sums: __m256i) -> __m128i {
    _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

/// Turns the sums of a group into scores; looks at them one by one only where one is wanted.
#[inline]
#[target_feature(enable = "avx2")]
fn report(at: &At<'_>, q: usize, query: &FastQuery<'_>, sums: [__m256i; 4], found: &mut Found) {
    let near = if at.biases.is_empty() {
        let limit = _mm256_set1_epi32(at.limits[q]);
        let beyond =
            sums.map(|sums| _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(sums, limit))));
        !lanes(beyond)
    } else {
        near_with_biases(at.biases, query, sums)
    };
    if near & query.live[at.g] != 0 {
        let mut all = [0i32; GROUP];
        for (sums, all) in sums.into_iter().zip(all.as_chunks_mut::<8>().0) {
            // SAFETY: 32 bytes are written to an array of 32.
            unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), sums) };
        }
        portable::report(at.g, at.biases, query, &all, found);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn near_with_biases(biases: &[u8], query: &FastQuery<'_>, sums: [__m256i; 4]) -> u32 {
    assert!(biases.len() == 4 * GROUP);
    let (step, base) = (_mm256_set1_ps(query.step), _mm256_set1_ps(query.base));
    let worst = _mm256_set1_ps(query.worst);
    let mut near = [0; 4];
    for eight in 0..4 {
        // SAFETY: 8 of 32 biases are read, from 0, 8, 16 or 24 on.
        let biases = unsafe { _mm256_loadu_ps(biases.as_ptr().add(32 * eight).cast()) };
        let product = _mm256_mul_ps(step, _mm256_cvtepi32_ps(sums[eight]));
        let score = _mm256_add_ps(_mm256_add_ps(biases, base), product);
        near[eight] = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(score, worst));
    }
    lanes(near)
}

/// Four masks of 8 entries as one of 32.
#[inline(always)]
fn lanes(masks: [i32; 4]) -> u32 {
    (0..4).fold(0, |all, eight| all | (masks[eight] as u32) << (8 * eight))
}

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn table(values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps {
    table_body(values, leasts, table)
}
