//! AVX2 with FMA, F16C and POPCNT (Haswell, Zen and later): 8 lanes.
//!
//! ```text
//! scan      a pair's sum is 8 lanes, one register; 1 query by 8 rows, or 2 by 4
//! products  6 rows by half a panel (2 registers): 12 sums, 2 loads and 6 broadcasts per component;
//!           fewer rows take more halves
//! ```
//!
//! A pair's sum takes the same additions in the same order in every tile; only its neighbours differ.

#![allow(unsafe_code)]

use super::tag::{BF16, DOT, F16, F32, L2, U8, size_of_element};
use super::{
    Best, Kernels, PANEL, Product, additive, distances, dot8, fast_scan, found, hamming, levels, lookup,
    nibble, picked, points, portable, scalar, sieve, steps,
};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    scan: [
        [scan::<L2, F32>, scan::<L2, F16>, scan::<L2, BF16>, scan::<L2, U8>],
        [scan::<DOT, F32>, scan::<DOT, F16>, scan::<DOT, BF16>, scan::<DOT, U8>],
    ],
    scan_apart: [
        [scan_apart::<L2, F32>, scan_apart::<L2, F16>, scan_apart::<L2, BF16>, scan_apart::<L2, U8>],
        [scan_apart::<DOT, F32>, scan_apart::<DOT, F16>, scan_apart::<DOT, BF16>, scan_apart::<DOT, U8>],
    ],
    scores,
    nearest,
    byte_scores: dot8::avx2,
    picked_scores: picked::avx2,
    lookup: lookup::avx2::scan,
    lookup_picked: lookup::avx2::picked,
    hamming_below: lookup::near,
    sieve: sieve::pass,
    sieve_columns: sieve::columns,
    sieve_bytes: sieve::bytes,
    sieve_spread: sieve::spread,
    points_nearest: points::avx2::nearest,
    points_scores: [points::avx2::scores::<L2>, points::avx2::scores::<DOT>],
    norms,
    select,
    encode: [portable::encode::<F32>, encode::<F16>, encode::<BF16>, portable::encode::<U8>],
    decode: [portable::decode::<F32>, decode::<F16>, decode::<BF16>, portable::decode::<U8>],
    steps_score: [steps::avx2::score::<L2>, steps::avx2::score::<DOT>],
    steps_decode: steps::avx2::decode,
    scalar_scan: scalar::avx2::SCAN,
    hamming_scan: hamming::x86::avx2,
    prefetch: [prefetch::<1>, prefetch::<2>],
    nibble_scan: nibble::avx2::scan,
    nibble_bounds: nibble::avx2::bounds,
    nibble_choose: nibble::avx2::choose,
    nibble_table: nibble::avx2::table,
    hadamard: nibble::avx2::hadamard,
    fast_scan: fast_scan::avx2::scan,
    fast_table: fast_scan::avx2::table,
    level_sum: levels::avx2::level_sum,
    sign_words: levels::avx2::sign_words,
    bound: found::avx2::bound,
    keep_at_most: found::avx2::keep_at_most,
    sum_rows: additive::avx2::sum_rows,
    distances: distances::avx2,
};

/// True if this processor has what this file uses.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
}

const LANES: usize = 8;

/// Columns of half a panel.
const HALF: usize = PANEL / 2;

/// Bytes of codes that stay in the first-level cache while the queries pass by.
const CHUNK_BYTES: usize = 16 << 10;

#[target_feature(enable = "avx2,fma,f16c")]
fn scan<const S: u8, const E: u8>(queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let size = codes.len() / n;
    let chunk = (CHUNK_BYTES / size).max(1).next_multiple_of(8);
    for first in (0..n).step_by(chunk) {
        let codes = Codes { bytes: codes, size, rows: first..n.min(first + chunk) };
        for (queries, scores) in queries.chunks(2).zip(scores.chunks_mut(2 * n)) {
            match *queries {
                [a, b] => scan_rows::<S, E, 2, 4>([a, b], &codes, scores),
                [a] => scan_rows::<S, E, 1, 8>([a], &codes, scores),
                _ => {}
            }
        }
    }
}

/// Some rows of a block of codes.
struct Codes<'a> {
    bytes: &'a [u8],
    /// Bytes of a row.
    size: usize,
    rows: Range<usize>,
}

/// Tiles of `Q` queries by `R` rows, `R` a multiple of 4. The last tile repeats its last row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scan_rows<const S: u8, const E: u8, const Q: usize, const R: usize>(
    queries: [&[f32]; Q],
    codes: &Codes<'_>,
    scores: &mut [f32],
) {
    let n = scores.len() / Q;
    let Range { start, end } = codes.rows.clone();
    for first in (start..end).step_by(R) {
        let mut rows = [codes.bytes.as_ptr(); R];
        for r in 0..R {
            rows[r] = codes.bytes[(first + r).min(end - 1) * codes.size..].as_ptr();
        }
        let live = R.min(end - first);
        // SAFETY: `codes` holds `size` bytes at each row, and that is a row of the queries' dimension.
        let sums = unsafe { scan_tile::<S, E, Q, R>(queries, rows) };
        for q in 0..Q {
            let mut folded = [0.0; R];
            for r in (0..R).step_by(4) {
                let scores = fold::<S>([sums[q][r], sums[q][r + 1], sums[q][r + 2], sums[q][r + 3]]);
                // SAFETY: `R` is a multiple of 4, so that four elements follow `r`.
                unsafe { _mm_storeu_ps(folded.as_mut_ptr().add(r), scores) }
            }
            scores[q * n + first..][..live].copy_from_slice(&folded[..live]);
        }
    }
}

/// The same for rows that lie apart.
#[target_feature(enable = "avx2,fma,f16c")]
fn scan_apart<const S: u8, const E: u8>(query: &[f32], rows: &[&[u8]], scores: &mut [f32]) {
    const R: usize = 8;
    for (rows, scores) in rows.chunks(R).zip(scores.chunks_mut(R)) {
        let mut codes = [rows[0].as_ptr(); R];
        codes.iter_mut().zip(rows).for_each(|(code, row)| *code = row.as_ptr());
        // SAFETY: `Kernels::scan_apart` asserts that each row has the bytes of the query's dimension.
        let [sums] = unsafe { scan_tile::<S, E, 1, R>([query], codes) };
        let mut folded = [0.0; R];
        for r in (0..R).step_by(4) {
            let scores = fold::<S>([sums[r], sums[r + 1], sums[r + 2], sums[r + 3]]);
            // SAFETY: `R` is a multiple of 4, so that four elements follow `r`.
            unsafe { _mm_storeu_ps(folded.as_mut_ptr().add(r), scores) }
        }
        scores.copy_from_slice(&folded[..scores.len()]);
    }
}

/// The 8 lanes of each pair's sum.
///
/// # Safety
/// At each of `codes` a row of the queries' dimension must be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scan_tile<const S: u8, const E: u8, const Q: usize, const R: usize>(
    queries: [&[f32]; Q],
    codes: [*const u8; R],
) -> [[__m256; R]; Q] {
    let dim = queries[0].len();
    let mut sums = [[_mm256_setzero_ps(); R]; Q];
    let mut step = |d: usize, count: usize| {
        let mut values = [_mm256_setzero_ps(); Q];
        for q in 0..Q {
            // SAFETY: all queries have `dim` components, of which `count` follow `d`.
            values[q] = unsafe { load::<F32>(queries[q].as_ptr().add(d).cast(), count) };
        }
        for r in 0..R {
            // SAFETY: as above, for rows.
            let x = unsafe { load::<E>(codes[r].add(d * size_of_element::<E>()), count) };
            for q in 0..Q {
                sums[q][r] = add_term::<S>(values[q], x, sums[q][r]);
            }
        }
    };
    let whole = dim / LANES * LANES;
    for d in (0..whole).step_by(LANES) {
        step(d, LANES);
    }
    if whole < dim {
        step(whole, dim - whole);
    }
    sums
}

/// `count` components, 0 in the other lanes.
///
/// # Safety
/// The bytes of those components must be readable at `code`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const E: u8>(code: *const u8, count: usize) -> __m256 {
    let mut tail = [0u16; LANES];
    // SAFETY: as promised by the caller; `count` is at most 8. The loads take any alignment.
    unsafe {
        match (E, count) {
            (F32, LANES) => _mm256_loadu_ps(code.cast()),
            (F32, _) => _mm256_maskload_ps(code.cast(), mask(count)),
            (U8, LANES) => widen_bytes(_mm_loadl_epi64(code.cast())),
            (U8, _) => {
                std::ptr::copy_nonoverlapping(code, tail.as_mut_ptr().cast(), count);
                widen_bytes(_mm_loadl_epi64(tail.as_ptr().cast()))
            }
            (_, LANES) => widen::<E>(_mm_loadu_si128(code.cast())),
            _ => {
                std::ptr::copy_nonoverlapping(code, tail.as_mut_ptr().cast(), count * 2);
                widen::<E>(_mm_loadu_si128(tail.as_ptr().cast()))
            }
        }
    }
}

/// All bits of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mask(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_bytes(bytes: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const E: u8>(halves: __m128i) -> __m256 {
    if E == F16 {
        _mm256_cvtph_ps(halves)
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_term<const S: u8>(query: __m256, x: __m256, sum: __m256) -> __m256 {
    if S == L2 {
        let difference = _mm256_sub_ps(query, x);
        _mm256_fmadd_ps(difference, difference, sum)
    } else {
        _mm256_fmadd_ps(query, x, sum)
    }
}

/// Four sums of 8 lanes as four scores.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fold<const S: u8>([a, b, c, d]: [__m256; 4]) -> __m128 {
    let abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let sums = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
    if S == L2 { sums } else { _mm_sub_ps(_mm_setzero_ps(), sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores(product: &Product<'_>, out: &mut [f32], stride: usize) {
    sweep(product, |r, half, scores| {
        let row = &mut out[r * stride..(r + 1) * stride];
        let first = (half * HALF).min(stride);
        let out = &mut row[first..stride.min(first + HALF)];
        for (out, scores) in out.chunks_mut(LANES).zip(scores) {
            // SAFETY: the mask has as many lanes as `out` has elements.
            unsafe { _mm256_maskstore_ps(out.as_mut_ptr(), mask(out.len()), scores) }
        }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn nearest(product: &Product<'_>, best: &mut [Best]) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    sweep(product, |r, half, scores| {
        for (i, score) in scores.into_iter().enumerate() {
            let column = _mm256_add_epi32(lanes, _mm256_set1_epi32((half * HALF + i * LANES) as i32));
            let least = best[r].score[i * LANES..][..LANES].as_mut_ptr();
            let columns = best[r].column[i * LANES..][..LANES].as_mut_ptr().cast();
            // SAFETY: both are 8 elements, on 32 bytes because `Best` is aligned.
            unsafe {
                let before = _mm256_load_ps(least);
                let nearer = _mm256_cmp_ps::<_CMP_LT_OQ>(score, before);
                _mm256_store_ps(least, _mm256_blendv_ps(before, score, nearer));
                let nearer = _mm256_castps_si256(nearer);
                _mm256_store_si256(columns, _mm256_blendv_epi8(_mm256_load_si256(columns), column, nearer));
            }
        }
    });
}

/// Calls `sink` with each row, each half panel and their 16 scores; the halves of a row come in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sweep(product: &Product<'_>, mut sink: impl FnMut(usize, usize, [__m256; 2])) {
    let rows = product.norms.len();
    let (tall, flat) = (rows / 6 * 6, rows / 2 * 2);
    let halves = product.bias.len() / HALF;
    let fours = halves / 4 * 4;
    // Halves come in fours so that each is read once, and stays in cache for all rows.
    for half in (0..fours).step_by(4) {
        for half in half..half + 4 {
            (0..tall).step_by(6).for_each(|r| tile::<6, 1>(product, r, half, &mut sink));
        }
        for half in [half, half + 2] {
            (tall..flat).step_by(2).for_each(|r| tile::<2, 2>(product, r, half, &mut sink));
        }
        (flat..rows).for_each(|r| tile::<1, 4>(product, r, half, &mut sink));
    }
    for half in fours..halves {
        (0..tall).step_by(6).for_each(|r| tile::<6, 1>(product, r, half, &mut sink));
        (tall..flat).step_by(2).for_each(|r| tile::<2, 1>(product, r, half, &mut sink));
        (flat..rows).for_each(|r| tile::<1, 1>(product, r, half, &mut sink));
    }
}

/// `R` rows from `row` by `H` half panels from `first`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const R: usize, const H: usize>(
    product: &Product<'_>,
    row: usize,
    first: usize,
    sink: &mut impl FnMut(usize, usize, [__m256; 2]),
) {
    let dots = dots::<R, H>(product, row, first);
    let factor = _mm256_set1_ps(product.factor);
    let floor = _mm256_set1_ps(product.floor);
    for h in 0..H {
        let bias = &product.bias[(first + h) * HALF..][..HALF];
        for r in 0..R {
            let norm = _mm256_set1_ps(product.norms[row + r]);
            let mut score = dots[r][h];
            for i in 0..2 {
                // SAFETY: half a panel has twice 8 biases.
                let bias = unsafe { _mm256_loadu_ps(bias.as_ptr().add(i * LANES)) };
                let sum = _mm256_add_ps(_mm256_fmadd_ps(factor, score[i], bias), norm);
                // The second operand is returned where one is NaN.
                score[i] = _mm256_max_ps(floor, sum);
            }
            sink(row + r, first + h, score);
        }
    }
}

/// The products of the tile, each summed from the first component to the last.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const R: usize, const H: usize>(
    product: &Product<'_>,
    row: usize,
    first: usize,
) -> [[[__m256; 2]; H]; R] {
    let dim = product.dim;
    let rows = product.rows[row * dim..(row + R) * dim].as_ptr();
    let mut halves = [product.panels.as_ptr(); H];
    for h in 0..H {
        let (panel, half) = ((first + h) / 2, (first + h) % 2);
        halves[h] = product.panels[panel * dim * PANEL..(panel + 1) * dim * PANEL][half * HALF..].as_ptr();
    }
    let mut sums = [[[_mm256_setzero_ps(); 2]; H]; R];
    for d in 0..dim {
        let mut columns = [[_mm256_setzero_ps(); 2]; H];
        for h in 0..H {
            for i in 0..2 {
                // SAFETY: a panel has `dim` times 32 components, and each half starts within the first 32.
                columns[h][i] = unsafe { _mm256_loadu_ps(halves[h].add(d * PANEL + i * LANES)) };
            }
        }
        for r in 0..R {
            // SAFETY: `rows` has R rows of `dim` components.
            let x = _mm256_set1_ps(unsafe { *rows.add(r * dim + d) });
            for h in 0..H {
                for i in 0..2 {
                    sums[r][h][i] = _mm256_fmadd_ps(x, columns[h][i], sums[r][h][i]);
                }
            }
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
fn norms(rows: &[f32], dim: usize, out: &mut [f32]) {
    portable::norms_fused(rows, dim, out);
}

/// 32 scores at a time: in a search almost all of them are too far.
#[target_feature(enable = "avx2,fma,f16c")]
fn select(scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
    let limit = _mm256_set1_ps(threshold);
    let (groups, rest) = scores.as_chunks::<32>();
    for (group, scores) in groups.iter().enumerate() {
        let mut near = 0;
        for i in 0..4 {
            // SAFETY: a group has four times 8 scores.
            let scores = unsafe { _mm256_loadu_ps(scores.as_ptr().add(i * LANES)) };
            let bits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(scores, limit)) as u32;
            near |= bits << (i * LANES);
        }
        while near != 0 {
            out.push((group * 32) as u32 + near.trailing_zeros());
            near &= near - 1;
        }
    }
    let first = (groups.len() * 32) as u32;
    out.extend((first..).zip(rest).filter(|&(_, &score)| score <= threshold).map(|(i, _)| i));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn encode<const E: u8>(rows: &[f32], out: &mut [u8]) {
    let (groups, rest) = rows.as_chunks::<LANES>();
    let (codes, rest_codes) = out.as_chunks_mut::<{ 2 * LANES }>();
    for (xs, code) in groups.iter().zip(codes) {
        // SAFETY: 8 components in, 16 bytes out.
        unsafe { _mm_storeu_si128(code.as_mut_ptr().cast(), narrow::<E>(_mm256_loadu_ps(xs.as_ptr()))) }
    }
    portable::encode::<E>(rest, rest_codes);
}

/// Round to nearest even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow<const E: u8>(xs: __m256) -> __m128i {
    if E == F16 {
        return _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(xs);
    }
    let bits = _mm256_castps_si256(xs);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(xs, xs));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
    _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode<const E: u8>(codes: &[u8], out: &mut [f32]) {
    let (groups, rest) = codes.as_chunks::<{ 2 * LANES }>();
    let (xs, rest_xs) = out.as_chunks_mut::<LANES>();
    for (code, xs) in groups.iter().zip(xs) {
        // SAFETY: 16 bytes in, 8 components out.
        unsafe { _mm256_storeu_ps(xs.as_mut_ptr(), widen::<E>(_mm_loadu_si128(code.as_ptr().cast()))) }
    }
    portable::decode::<E>(rest, rest_xs);
}

#[target_feature(enable = "sse")]
#[allow(unused_unsafe)] // The intrinsic is unsafe in our oldest compiler and safe in newer ones.
pub(super) fn prefetch<const LEVEL: u8>(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: a hint that no program can see.
        unsafe {
            match LEVEL {
                1 => _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()),
                _ => _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()),
            }
        }
    }
}
