//! AVX2: a chunk is two registers of 32-bit numbers; 2 queries by 4 rows share what they load, one query takes 8 rows.

#![allow(unsafe_code)]

use super::super::avx2::{fold, prefetch};
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
/// Rows of a tile of two.
const FLAT: usize = 4;
/// Numbers of a register: half a chunk.
const HALF: usize = LANES / 2;

#[target_feature(enable = "avx2,fma,f16c")]
fn scan<const S: u8, const B: u8>(rows: &StepRows<'_>, queries: &[StepQuery<'_>], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let step = pass_rows(rows.bits.code_bytes(rows.dim), TALL);
    for first in (0..n).step_by(step) {
        let range = first..n.min(first + step);
        for (pass, (queries, scores)) in queries.chunks(2).zip(scores.chunks_mut(2 * n)).enumerate() {
            let rows = StepRows { ahead: if pass == 0 { rows.ahead } else { &[] }, ..*rows };
            match *queries {
                [a, b] => tiles::<S, B, 2, FLAT>(&rows, range.clone(), [a, b], scores),
                [a] => tiles::<S, B, 1, TALL>(&rows, range.clone(), [a], scores),
                _ => {}
            }
        }
    }
}

/// Tiles of `Q` queries by `R` rows, `R` a multiple of 4. The last tile repeats its last row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
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
            let mut folded = [0.0; R];
            for r in (0..R).step_by(4) {
                let four = fold::<S>([sums[q][r], sums[q][r + 1], sums[q][r + 2], sums[q][r + 3]]);
                // SAFETY: `R` is a multiple of 4, so that four elements follow `r`.
                unsafe { _mm_storeu_ps(folded.as_mut_ptr().add(r), finish::<S>(queries[q].bias, four)) }
            }
            scores[q * n + first..][..live].copy_from_slice(&folded[..live]);
        }
    }
}

/// The 8 lanes of each pair's sum.
///
/// # Safety
/// `size` bytes must be readable at each of `codes`, and they must be a row of `rows`, as the queries' terms must be arranged
/// for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const S: u8, const B: u8, const Q: usize, const R: usize>(
    rows: &StepRows<'_>,
    size: usize,
    queries: &[StepQuery<'_>; Q],
    codes: [*const u8; R],
) -> [[__m256; R]; Q] {
    let mut sums = [[_mm256_setzero_ps(); R]; Q];
    let mut add = |chunk: usize, codes: &[*const u8; R]| {
        for half in 0..2 {
            let mut numbers = [_mm256_setzero_si256(); R];
            for r in 0..R {
                // SAFETY: a whole chunk is readable at each of `codes`.
                numbers[r] = unsafe { load::<B>(codes[r], half) };
            }
            for k in 0..planes(B) {
                let at = (chunk * planes(B) + k) * LANES + half * HALF;
                // SAFETY: steps are filled up to whole chunks.
                let steps = unsafe { _mm256_loadu_ps(rows.steps.as_ptr().add(at)) };
                let mut terms = [_mm256_setzero_ps(); Q];
                for q in 0..Q {
                    // SAFETY: and so are terms.
                    terms[q] = unsafe { _mm256_loadu_ps(queries[q].terms.as_ptr().add(at)) };
                }
                for r in 0..R {
                    let xs = plane::<B>(numbers[r], k);
                    for q in 0..Q {
                        sums[q][r] = add_term::<S>(terms[q], steps, xs, sums[q][r]);
                    }
                }
            }
        }
    };
    let whole = size / chunk_bytes(B);
    for chunk in 0..whole {
        add(chunk, &codes.map(|code| code.wrapping_add(chunk * chunk_bytes(B))));
    }
    let rest = size - whole * chunk_bytes(B);
    if rest > 0 {
        let mut tails = [[0u8; 48]; R];
        let mut tail_codes = [std::ptr::null(); R];
        for r in 0..R {
            // SAFETY: `rest` bytes, fewer than a chunk, are left of each row.
            unsafe {
                codes[r].add(whole * chunk_bytes(B)).copy_to_nonoverlapping(tails[r].as_mut_ptr(), rest)
            }
            tail_codes[r] = tails[r].as_ptr();
        }
        add(whole, &tail_codes);
    }
    sums
}

/// Half the numbers of a chunk.
///
/// # Safety
/// A whole chunk must be readable at `code`, and `half` be 0 or 1.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const B: u8>(code: *const u8, half: usize) -> __m256i {
    if B == SIX {
        // Twelve bytes to each lane, three of those to each number. The second load of a lane ends with the half.
        // SAFETY: of the half's 24 bytes from byte 0 or 24 on, 0 to 15 and 8 to 23 are read.
        let (low, high) = unsafe {
            let code = code.add(24 * half);
            (_mm_loadu_si128(code.cast()), _mm_loadu_si128(code.add(8).cast()))
        };
        let threes = _mm256_setr_epi8(
            0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1, 4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1,
            13, 14, 15, -1,
        );
        return _mm256_shuffle_epi8(_mm256_set_m128i(high, low), threes);
    }
    // SAFETY: bytes 0 to 7 or 8 to 15 are read.
    let bytes = unsafe { _mm_loadl_epi64(code.add(HALF * half).cast()) };
    match B {
        SIGNED => _mm256_cvtepi8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8(-128))),
        _ => _mm256_cvtepu8_epi32(bytes),
    }
}

/// The codes in plane `k`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn plane<const B: u8>(numbers: __m256i, k: usize) -> __m256 {
    if planes(B) == 1 {
        return _mm256_cvtepi32_ps(numbers);
    }
    let shifted = _mm256_srl_epi32(numbers, _mm_cvtsi32_si128(shift(B, k) as i32));
    _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(ones(B) as i32)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_term<const S: u8>(terms: __m256, steps: __m256, xs: __m256, sums: __m256) -> __m256 {
    if S == L2 {
        let differences = _mm256_fnmadd_ps(steps, xs, terms);
        _mm256_fmadd_ps(differences, differences, sums)
    } else {
        _mm256_fmadd_ps(terms, xs, sums)
    }
}

/// Folded sums, negated for products, as scores.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish<const S: u8>(bias: f32, folded: __m128) -> __m128 {
    let score = if S == L2 { folded } else { _mm_add_ps(_mm_set1_ps(bias + 0.0), folded) };
    // The second operand is returned where one is NaN.
    _mm_max_ps(_mm_min_ps(score, _mm_set1_ps(f32::MAX)), _mm_set1_ps(f32::MIN))
}
