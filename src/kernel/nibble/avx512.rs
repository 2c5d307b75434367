//! AVX-512 VBMI and VNNI (Ice Lake, Zen 4 and later): 128 look-ups with two permutations and two sums.

#![allow(unsafe_code)]

use super::avx2::prefetch_ahead;
use super::{
    Book, BoundQuery, Found, GROUP, Group, Groups, Look, NibbleQuery, butterflies, choose_body,
    hadamard_body, table_body,
};
use std::arch::x86_64::*;

/// True if this processor has what the scan uses beyond AVX-512 F, BW, DQ and VL.
pub(in crate::kernel) fn detected() -> bool {
    is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni")
}

/// Byte `4m + j` of the result is byte `16j + m`: four sub-spaces of one entry side by side.
pub(in crate::kernel) const TRANSPOSE: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 64 {
        bytes[i] = (16 * (i % 4) + i / 4) as u8;
        i += 1;
    }
    bytes
};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub(in crate::kernel) fn scan(groups: &Groups<'_>, queries: &[NibbleQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub(in crate::kernel) fn bounds(groups: &Groups<'_>, queries: &[BoundQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scan_any<L: Look>(groups: &Groups<'_>, queries: &[L], found: &mut [Found]) {
    match (queries, found) {
        ([a], [x]) => scan_some([*a], [x], groups),
        ([a, b], [x, y]) => scan_some([*a, *b], [x, y], groups),
        ([a, b, c], [x, y, z]) => scan_some([*a, *b, *c], [x, y, z], groups),
        ([a, b, c, d], [x, y, z, w]) => scan_some([*a, *b, *c, *d], [x, y, z, w], groups),
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scan_some<L: Look, const Q: usize>(queries: [L; Q], found: [&mut Found; Q], groups: &Groups<'_>) {
    for (g, group) in groups.iter().enumerate() {
        prefetch_ahead(groups, g);
        let sums = sums(&queries, group.codes);
        for q in 0..Q {
            report(&group, g, &queries[q], sums[q], found[q]);
        }
    }
}

/// The sums of entries 0–15 and 16–31 of a group, for each query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn sums<L: Look, const Q: usize>(queries: &[L; Q], codes: &[u8]) -> [[__m512i; 2]; Q] {
    // SAFETY: 64 bytes are read from an array of 64.
    let transpose = unsafe { _mm512_loadu_si512(TRANSPOSE.as_ptr().cast()) };
    let nibble = _mm512_set1_epi8(0x0f);
    // Byte 4m + j looks into the j-th of four tables.
    let table_of = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for (four, codes) in codes.as_chunks::<64>().0.iter().enumerate() {
        // SAFETY: 64 bytes are read from an array of 64.
        let bytes = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
        let bytes = _mm512_permutexvar_epi8(transpose, bytes);
        // (bytes & nibble) | table_of, and the same of the high nibbles.
        let low = _mm512_ternarylogic_epi32::<0xea>(bytes, nibble, table_of);
        let high = _mm512_ternarylogic_epi32::<0xea>(_mm512_srli_epi16::<4>(bytes), nibble, table_of);
        for q in 0..Q {
            let table = queries[q].nibble().table;
            debug_assert!(table.len() >= 64 * (four + 1));
            // SAFETY: `check` asserts 16 table bytes a sub-space, and these are 4 sub-spaces.
            let table = unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * four).cast()) };
            let (a, b) = (_mm512_permutexvar_epi8(low, table), _mm512_permutexvar_epi8(high, table));
            sums[q][0] = _mm512_dpbusd_epi32(sums[q][0], ones, a);
            sums[q][1] = _mm512_dpbusd_epi32(sums[q][1], ones, b);
        }
    }
    sums
}

/// Turns the sums of a group into scores and keeps what is wanted.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn report<L: Look>(group: &Group<'_>, g: usize, look: &L, sums: [__m512i; 2], found: &mut Found) {
    assert!(group.scales.len() == 2 * GROUP && group.biases.len() == 4 * GROUP);
    assert!(!L::BOUNDED || group.errors.len() >= 2 * GROUP);
    let (query, (slack, reach)) = (look.nibble(), look.doubt());
    let factor = _mm512_set1_ps(query.factor);
    let coarse = _mm512_set1_ps(query.coarse);
    let worst = _mm512_set1_ps(query.worst);
    for half in 0..2 {
        // SAFETY: there are 32 scales and 32 biases, and 16 of each are read from 0 or 16 on.
        let (scales, biases) = unsafe {
            (
                _mm256_loadu_si256(group.scales.as_ptr().add(32 * half).cast()),
                _mm512_loadu_ps(group.biases.as_ptr().add(64 * half).cast()),
            )
        };
        let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)));
        let mut sum = _mm512_cvtepi32_ps(sums[half]);
        if L::BOUNDED {
            sum = _mm512_add_ps(sum, _mm512_set1_ps(slack));
        }
        let product = _mm512_mul_ps(_mm512_mul_ps(scales, factor), sum);
        let mut score = _mm512_add_ps(_mm512_add_ps(biases, coarse), product);
        if L::BOUNDED {
            // SAFETY: 16 of 32 errors are read, as of the scales.
            let errors = unsafe { _mm256_loadu_si256(group.errors.as_ptr().add(32 * half).cast()) };
            let errors = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(errors)));
            score = _mm512_sub_ps(score, _mm512_mul_ps(errors, _mm512_set1_ps(reach)));
        }
        let live = (query.live[g] >> (16 * half)) as __mmask16;
        let near = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(live, score, worst);
        if near != 0 {
            keep(near, (g * GROUP + 16 * half) as u32, score, found);
        }
    }
}

/// Appends the lanes of `near`. Compressed in registers: a compressing store is many times slower on some
/// processors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn keep(near: __mmask16, first: u32, score: __m512, found: &mut Found) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let entries = _mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes);
    let (old, count) = (found.entries.len(), near.count_ones() as usize);
    debug_assert!(found.entries.capacity() >= old + 16 && found.scores.capacity() >= old + 16);
    // SAFETY: `check` reserved room for all entries of the block and one group more, so a whole
    // register fits behind what is there; of it, the first `count` lanes are set and counted.
    unsafe {
        let entries = _mm512_maskz_compress_epi32(near, entries);
        _mm512_storeu_si512(found.entries.as_mut_ptr().add(old).cast(), entries);
        let scores = _mm512_maskz_compress_ps(near, score);
        _mm512_storeu_ps(found.scores.as_mut_ptr().add(old), scores);
        found.entries.set_len(old + count);
        found.scores.set_len(old + count);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn choose(book: &Book, planes: &[f32], codes: &mut [u8]) {
    choose_body(book, planes, codes);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn hadamard(values: &mut [f32]) {
    if values.len() < 16 {
        return hadamard_body(values);
    }
    for sixteen in values.as_chunks_mut::<16>().0 {
        // SAFETY: 64 bytes are read from and written to an array of 64.
        unsafe {
            let v = _mm512_loadu_ps(sixteen.as_ptr());
            let v = butterfly(v, _mm512_shuffle_ps::<0xb1>(v, v), 0xaaaa);
            let v = butterfly(v, _mm512_shuffle_ps::<0x4e>(v, v), 0xcccc);
            let v = butterfly(v, _mm512_shuffle_f32x4::<0xb1>(v, v), 0xf0f0);
            let v = butterfly(v, _mm512_shuffle_f32x4::<0x4e>(v, v), 0xff00);
            _mm512_storeu_ps(sixteen.as_mut_ptr(), v);
        }
    }
    butterflies(values, 16);
}

/// `other ± v`: minus in the lanes of `odd`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn butterfly(v: __m512, other: __m512, odd: __mmask16) -> __m512 {
    _mm512_mask_sub_ps(_mm512_add_ps(other, v), odd, other, v)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernel) fn table(book: &Book, query: &[f32], products: &mut [f32], table: &mut [i8]) -> f32 {
    table_body(book, query, products, table)
}
