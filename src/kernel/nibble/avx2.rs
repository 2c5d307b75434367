//! AVX2: 32 look-ups an instruction, in tables of 16 bytes.

#![allow(unsafe_code)]

use super::{
    Book, BoundQuery, Found, GROUP, Group, Groups, Look, NibbleQuery, butterflies, choose_body,
    hadamard_body, portable, table_body,
};
use crate::kernel::avx2::prefetch;
use std::arch::x86_64::*;

/// Pairs of sub-spaces that a 16-bit sum holds: each adds at most 2 · 128.
const PAIRS_MAX: usize = 120;

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn scan(groups: &Groups<'_>, queries: &[NibbleQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn bounds(groups: &Groups<'_>, queries: &[BoundQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[inline]
#[target_feature(enable = "avx2")]
fn scan_any<L: Look>(groups: &Groups<'_>, queries: &[L], found: &mut [Found]) {
    for (g, group) in groups.iter().enumerate() {
        prefetch_ahead(groups, g);
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut totals = [0i32; GROUP];
            let tables = query.nibble().table.chunks(32 * PAIRS_MAX);
            for (codes, table) in group.codes.chunks(32 * PAIRS_MAX).zip(tables) {
                add_sums(codes, table, &mut totals);
            }
            report(&group, g, query, &totals, found);
        }
    }
}

/// Brings along what belongs to group `g`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch_ahead(groups: &Groups<'_>, g: usize) {
    let (piece, stride, near) = groups.ahead_of(g);
    for part in piece.chunks(stride) {
        prefetch::<1>(&part[..part.len().min(near)]);
    }
}

/// Adds the sums of up to [`PAIRS_MAX`] pairs of sub-spaces.
#[inline]
#[target_feature(enable = "avx2")]
fn add_sums(codes: &[u8], table: &[i8], totals: &mut [i32; GROUP]) {
    let ones = _mm256_set1_epi8(1);
    // Lane by lane, entries 0–7 and 16–23, and entries 8–15 and 24–31.
    let (mut first, mut second) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (codes, tables) in codes.as_chunks::<32>().0.iter().zip(table.as_chunks::<32>().0) {
        let a = look_up(codes, tables, 0);
        let b = look_up(codes, tables, 16);
        first = _mm256_add_epi16(first, _mm256_maddubs_epi16(ones, _mm256_unpacklo_epi8(a, b)));
        second = _mm256_add_epi16(second, _mm256_maddubs_epi16(ones, _mm256_unpackhi_epi8(a, b)));
    }
    let (mut low, mut high) = ([0i16; 16], [0i16; 16]);
    // SAFETY: 32 bytes are written to arrays of 32.
    unsafe {
        _mm256_storeu_si256(low.as_mut_ptr().cast(), first);
        _mm256_storeu_si256(high.as_mut_ptr().cast(), second);
    }
    for i in 0..8 {
        totals[i] += i32::from(low[i]);
        totals[16 + i] += i32::from(low[8 + i]);
        totals[8 + i] += i32::from(high[i]);
        totals[24 + i] += i32::from(high[8 + i]);
    }
}

/// The table's values for the 32 entries of the sub-space at byte `at`: entries 0–15, then 16–31.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(codes: &[u8; 32], tables: &[i8; 32], at: usize) -> __m256i {
    assert!(at <= 16);
    // SAFETY: 16 bytes are read from byte 0 or 16 of arrays of 32.
    let (codes, table) = unsafe {
        (_mm_loadu_si128(codes.as_ptr().add(at).cast()), _mm_loadu_si128(tables.as_ptr().add(at).cast()))
    };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes);
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), _mm256_and_si256(both, _mm256_set1_epi8(0x0f)))
}

/// Turns the sums of a group into scores; looks at them one by one only where one is wanted.
#[inline]
#[target_feature(enable = "avx2")]
fn report<L: Look>(group: &Group<'_>, g: usize, look: &L, sums: &[i32; GROUP], found: &mut Found) {
    assert!(group.scales.len() == 2 * GROUP && group.biases.len() == 4 * GROUP);
    assert!(!L::BOUNDED || group.errors.len() >= 2 * GROUP);
    let (query, (slack, reach)) = (look.nibble(), look.doubt());
    let factor = _mm256_set1_ps(query.factor);
    let coarse = _mm256_set1_ps(query.coarse);
    let worst = _mm256_set1_ps(query.worst);
    let mut near = 0u32;
    for eight in 0..4 {
        // SAFETY: 8 of 32 scales, biases and sums are read, from 0, 8, 16 or 24 on.
        let (scales, biases, sums) = unsafe {
            (
                _mm_loadu_si128(group.scales.as_ptr().add(16 * eight).cast()),
                _mm256_loadu_ps(group.biases.as_ptr().add(32 * eight).cast()),
                _mm256_loadu_si256(sums.as_ptr().add(8 * eight).cast()),
            )
        };
        let scales = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(scales)));
        let mut sums = _mm256_cvtepi32_ps(sums);
        if L::BOUNDED {
            sums = _mm256_add_ps(sums, _mm256_set1_ps(slack));
        }
        let product = _mm256_mul_ps(_mm256_mul_ps(scales, factor), sums);
        let mut score = _mm256_add_ps(_mm256_add_ps(biases, coarse), product);
        if L::BOUNDED {
            // SAFETY: 8 of 32 errors are read, as of the scales.
            let errors = unsafe { _mm_loadu_si128(group.errors.as_ptr().add(16 * eight).cast()) };
            let errors = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(errors)));
            score = _mm256_sub_ps(score, _mm256_mul_ps(errors, _mm256_set1_ps(reach)));
        }
        let lanes = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(score, worst));
        near |= (lanes as u32) << (8 * eight);
    }
    if near & query.live[g] != 0 {
        portable::report(group, g, look, sums, found);
    }
}

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn choose(book: &Book, planes: &[f32], codes: &mut [u8]) {
    choose_body(book, planes, codes);
}

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn hadamard(values: &mut [f32]) {
    if values.len() < 8 {
        return hadamard_body(values);
    }
    for eight in values.as_chunks_mut::<8>().0 {
        // SAFETY: 32 bytes are read from and written to an array of 32.
        unsafe {
            let v = _mm256_loadu_ps(eight.as_ptr());
            let v = butterfly::<0xaa>(v, _mm256_shuffle_ps::<0xb1>(v, v));
            let v = butterfly::<0xcc>(v, _mm256_shuffle_ps::<0x4e>(v, v));
            let v = butterfly::<0xf0>(v, _mm256_permute2f128_ps::<0x01>(v, v));
            _mm256_storeu_ps(eight.as_mut_ptr(), v);
        }
    }
    butterflies(values, 8);
}

/// `other ± v`: minus in the lanes of `ODD`.
#[inline]
#[target_feature(enable = "avx2")]
fn butterfly<const ODD: i32>(v: __m256, other: __m256) -> __m256 {
    _mm256_blend_ps::<ODD>(_mm256_add_ps(other, v), _mm256_sub_ps(other, v))
}

#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn table(book: &Book, query: &[f32], products: &mut [f32], table: &mut [i8]) -> f32 {
    table_body(book, query, products, table)
}
