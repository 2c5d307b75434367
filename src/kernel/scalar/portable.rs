//! The meaning of the scalar scan, in loops of 16 numbers that compilers vectorise.

use super::super::portable::fold;
use super::super::tag::{DOT, L2};
use super::tag::{EIGHT, FOUR, SIGNED, SIX, chunk_bytes, ones, planes, shift};
use super::{LANES, ScalarScan, StepQuery, StepRows};
use std::ops::Range;

pub(in crate::kernel) const SCAN: ScalarScan = [
    [scan::<L2, EIGHT>, scan::<L2, SIX>, scan::<L2, FOUR>, scan::<L2, SIGNED>],
    [scan::<DOT, EIGHT>, scan::<DOT, SIX>, scan::<DOT, FOUR>, scan::<DOT, SIGNED>],
];

fn scan<const S: u8, const B: u8>(rows: &StepRows<'_>, queries: &[StepQuery<'_>], scores: &mut [f32]) {
    scan_rows::<S, B, false>(rows, 0..scores.len() / queries.len(), queries, scores);
}

/// Scores the rows of `range`; with fused multiply-adds for processors that always have them.
#[inline(always)]
pub(super) fn scan_rows<const S: u8, const B: u8, const FUSED: bool>(
    rows: &StepRows<'_>,
    range: Range<usize>,
    queries: &[StepQuery<'_>],
    scores: &mut [f32],
) {
    let n = scores.len() / queries.len();
    let size = rows.bits.code_bytes(rows.dim);
    for i in range {
        let code = &rows.codes[i * size..(i + 1) * size];
        for (queries, scores) in queries.chunks(2).zip(scores.chunks_mut(2 * n)) {
            match *queries {
                [a, b] => [scores[i], scores[n + i]] = pairs::<S, B, FUSED, 2>(rows, [a, b], code),
                [a] => [scores[i]] = pairs::<S, B, FUSED, 1>(rows, [a], code),
                _ => {}
            }
        }
    }
}

/// The scores of one row.
#[inline(always)]
fn pairs<const S: u8, const B: u8, const FUSED: bool, const Q: usize>(
    rows: &StepRows<'_>,
    queries: [StepQuery<'_>; Q],
    code: &[u8],
) -> [f32; Q] {
    let mut sums = [[0.0; LANES]; Q];
    let chunk = LANES * planes(B);
    for (c, bytes) in code.chunks(chunk_bytes(B)).enumerate() {
        let numbers = numbers::<B>(bytes);
        for k in 0..planes(B) {
            let at = c * chunk + k * LANES;
            let steps = &rows.steps[at..at + LANES];
            let xs: [f32; LANES] = std::array::from_fn(|i| plane::<B>(numbers[i], k));
            for q in 0..Q {
                let terms = &queries[q].terms[at..at + LANES];
                for i in 0..LANES {
                    sums[q][i] = add_term::<S, FUSED>(terms[i], steps[i], xs[i], sums[q][i]);
                }
            }
        }
    }
    std::array::from_fn(|q| finish::<S>(queries[q].bias, fold(sums[q])))
}

/// The numbers of a chunk, which may be cut short.
#[inline(always)]
fn numbers<const B: u8>(bytes: &[u8]) -> [u32; LANES] {
    let mut chunk = [0; 48];
    chunk[..bytes.len()].copy_from_slice(bytes);
    std::array::from_fn(|i| match B {
        SIX => u32::from_le_bytes([chunk[3 * i], chunk[3 * i + 1], chunk[3 * i + 2], 0]),
        SIGNED => i32::from(chunk[i]).wrapping_sub(128) as u32,
        _ => chunk[i].into(),
    })
}

/// The code in plane `k` of a number.
#[inline(always)]
fn plane<const B: u8>(number: u32, k: usize) -> f32 {
    (number >> shift(B, k) & ones(B)) as i32 as f32
}

#[inline(always)]
fn add_term<const S: u8, const FUSED: bool>(term: f32, step: f32, x: f32, sum: f32) -> f32 {
    match (S, FUSED) {
        (L2, false) => {
            let difference = term - step * x;
            sum + difference * difference
        }
        (L2, true) => {
            let difference = (-step).mul_add(x, term);
            difference.mul_add(difference, sum)
        }
        (_, false) => sum + term * x,
        (_, true) => term.mul_add(x, sum),
    }
}

/// A sum as a score: finite, and 0.0 where it is zero.
#[inline(always)]
fn finish<const S: u8>(bias: f32, sum: f32) -> f32 {
    let score = if S == L2 { sum } else { (bias + 0.0) - sum };
    // NaN is not less than anything.
    let score = if score < f32::MAX { score } else { f32::MAX };
    if score > f32::MIN { score } else { f32::MIN }
}
