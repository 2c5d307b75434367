//! AVX-512: a chunk is one register of 32-bit numbers; 4 queries by 4 rows share what they load, one query takes 8 rows.

#![allow(unsafe_code)]

use super::super::avx2::prefetch;
use super::super::avx512::{fold, mask};
use super::super::tag::{DOT, L2};
use super::tag::{EIGHT, FOUR, SIGNED, SIX, chunk_bytes, ones, planes, shift};
use super::{LANES, ScalarScan, StepQuery, StepRows, pass_rows, piece, piece_of};
use std::arch::x86_64::*;
use std::ops::Range;

pub(in crate::kernel) const SCAN: ScalarScan = [
    [scan::<L2, EIGHT>, scan::<L2, SIX>, scan::<L2, FOUR>, scan::<L2, SIGNED>],
    [scan::<DOT, EIGHT>, scan::<DOT, SIX>, scan::<DOT, FOUR>, scan::<DOT, SIGNED>],
];

/// Rows of a tile of one query.
const TALL: usize = 8;
/// Rows of a tile of several.
const FLAT: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn scan<const S: u8, const B: u8>(rows: &StepRows<'_>, queries: &[StepQuery<'_>], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let step = pass_rows(rows.bits.code_bytes(rows.dim), TALL);
    for first in (0..n).step_by(step) {
        let range = first..n.min(first + step);
        for (pass, (queries, scores)) in queries.chunks(4).zip(scores.chunks_mut(4 * n)).enumerate() {
            let rows = StepRows { ahead: if pass == 0 { rows.ahead } else { &[] }, ..*rows };
            match *queries {
                [a, b, c, d] => tiles::<S, B, 4, FLAT>(&rows, range.clone(), [a, b, c, d], scores),
                [a, b, c] => tiles::<S, B, 3, FLAT>(&rows, range.clone(), [a, b, c], scores),
                [a, b] => tiles::<S, B, 2, FLAT>(&rows, range.clone(), [a, b], scores),
                [a] => tiles::<S, B, 1, TALL>(&rows, range.clone(), [a], scores),
                _ => {}
            }
        }
    }
}

/// Tiles of `Q` queries by `R` rows, `R` a multiple of 4. The last tile repeats its last row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn tiles<const S: u8, const B: u8, const Q: usize, const R: usize>(
    rows: &StepRows<'_>,
    range: Range<usize>,
    queries: [StepQuery<'_>; Q],
    scores: &mut [f32],
) {
    let n = scores.len() / Q;
    let size = rows.bits.code_bytes(rows.dim);
    let piece = piece(n.div_ceil(R), rows.ahead);
    for first in range.clone().step_by(R) {
        prefetch::<2>(piece_of(rows.ahead, piece, first / R));
        let mut codes = [rows.codes.as_ptr(); R];
        for r in 0..R {
            codes[r] = rows.codes[(first + r).min(range.end - 1) * size..].as_ptr();
        }
        let live = R.min(range.end - first);
        // SAFETY: `Kernels::scalar_scan` asserts that there are `size` bytes at each row, and the lengths of the queries.
        let sums = unsafe { tile::<S, B, Q, R>(rows, size, &queries, codes) };
        for q in 0..Q {
            let out = &mut scores[q * n + first..][..live];
            for r in (0..R).step_by(4) {
                let folded = fold::<S>([sums[q][r], sums[q][r + 1], sums[q][r + 2], sums[q][r + 3]]);
                let score = finish::<S>(queries[q].bias, folded);
                let lanes = mask(live.saturating_sub(r).min(4)) as u8;
                // SAFETY: `lanes` has a bit only for rows that are `live`, of which `out` has as many.
                unsafe { _mm_mask_storeu_ps(out.as_mut_ptr().wrapping_add(r), lanes, score) }
            }
        }
    }
}

/// The 16 lanes of each pair's sum.
///
/// # Safety
/// `size` bytes must be readable at each of `codes`, and they must be a row of `rows`, as the queries' terms must be arranged
/// for them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<const S: u8, const B: u8, const Q: usize, const R: usize>(
    rows: &StepRows<'_>,
    size: usize,
    queries: &[StepQuery<'_>; Q],
    codes: [*const u8; R],
) -> [[__m512; R]; Q] {
    let mut sums = [[_mm512_setzero_ps(); R]; Q];
    let mut add = |chunk: usize, bytes: __mmask64| {
        let mut numbers = [_mm512_setzero_si512(); R];
        for r in 0..R {
            // SAFETY: a row has `size` bytes, and `bytes` has a bit only for those from the chunk's first on.
            numbers[r] = unsafe { load::<B>(codes[r].add(chunk * chunk_bytes(B)), bytes) };
        }
        for k in 0..planes(B) {
            let at = (chunk * planes(B) + k) * LANES;
            let mut xs = [_mm512_setzero_ps(); R];
            for r in 0..R {
                xs[r] = plane::<B>(numbers[r], k);
            }
            // SAFETY: steps and terms are filled up to whole chunks.
            let steps = unsafe { _mm512_loadu_ps(rows.steps.as_ptr().add(at)) };
            for q in 0..Q {
                // SAFETY: as above.
                let terms = unsafe { _mm512_loadu_ps(queries[q].terms.as_ptr().add(at)) };
                for r in 0..R {
                    sums[q][r] = add_term::<S>(terms, steps, xs[r], sums[q][r]);
                }
            }
        }
    };
    let whole = size / chunk_bytes(B);
    for chunk in 0..whole {
        add(chunk, (1 << chunk_bytes(B)) - 1);
    }
    let rest = size - whole * chunk_bytes(B);
    if rest > 0 {
        add(whole, (1 << rest) - 1);
    }
    sums
}

/// The numbers of a chunk whose bytes are those of the mask, and zeros.
///
/// # Safety
/// Those bytes must be readable at `code`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn load<const B: u8>(code: *const u8, bytes: __mmask64) -> __m512i {
    if B == SIX {
        // SAFETY: as promised by the caller.
        let chunk = unsafe { _mm512_maskz_loadu_epi8(bytes, code.cast()) };
        // Twelve bytes to each quarter, three of those to each number.
        let quarters = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
        let threes = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
        return _mm512_shuffle_epi8(
            _mm512_permutexvar_epi32(quarters, chunk),
            _mm512_broadcast_i32x4(threes),
        );
    }
    // SAFETY: as above.
    let chunk = unsafe { _mm_maskz_loadu_epi8(bytes as __mmask16, code.cast()) };
    match B {
        SIGNED => _mm512_cvtepi8_epi32(_mm_xor_si128(chunk, _mm_set1_epi8(-128))),
        _ => _mm512_cvtepu8_epi32(chunk),
    }
}

/// The codes in plane `k`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn plane<const B: u8>(numbers: __m512i, k: usize) -> __m512 {
    if planes(B) == 1 {
        return _mm512_cvtepi32_ps(numbers);
    }
    let shifted = _mm512_srl_epi32(numbers, _mm_cvtsi32_si128(shift(B, k) as i32));
    _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(ones(B) as i32)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_term<const S: u8>(terms: __m512, steps: __m512, xs: __m512, sums: __m512) -> __m512 {
    if S == L2 {
        let differences = _mm512_fnmadd_ps(steps, xs, terms);
        _mm512_fmadd_ps(differences, differences, sums)
    } else {
        _mm512_fmadd_ps(terms, xs, sums)
    }
}

/// Folded sums, negated for products, as scores.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn finish<const S: u8>(bias: f32, folded: __m128) -> __m128 {
    let score = if S == L2 { folded } else { _mm_add_ps(_mm_set1_ps(bias + 0.0), folded) };
    // The second operand is returned where one is NaN.
    _mm_max_ps(_mm_min_ps(score, _mm_set1_ps(f32::MAX)), _mm_set1_ps(f32::MIN))
}
