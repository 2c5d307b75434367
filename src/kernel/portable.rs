//! The meaning of every kernel, in plain loops of a fixed number of lanes that compilers vectorise.
//!
//! This table has no `mul_add`: without the instruction it is a call per component. So its sums differ
//! from the others' in the last bits, by the roundings that a fused multiply-add saves.

use super::tag::{BF16, DOT, F16, F32, L2, U8};
use super::{
    Best, Kernels, PANEL, Product, additive, distances, dot8, fast_scan, found, hamming, levels, lookup,
    nibble, picked, points, scalar, sieve, steps,
};
use half::{bf16, f16};

pub(super) static KERNELS: Kernels = Kernels {
    name: "portable",
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
    byte_scores: dot8::portable,
    picked_scores: picked::portable,
    lookup: lookup::scan,
    lookup_picked: lookup::picked,
    hamming_below: lookup::near,
    sieve: sieve::pass,
    sieve_columns: sieve::columns,
    sieve_bytes: sieve::bytes,
    sieve_spread: sieve::spread,
    points_nearest: points::nearest,
    points_scores: [points::scores::<L2>, points::scores::<DOT>],
    norms,
    select,
    encode: [encode::<F32>, encode::<F16>, encode::<BF16>, encode::<U8>],
    decode: [decode::<F32>, decode::<F16>, decode::<BF16>, decode::<U8>],
    steps_score: [steps::score::<L2>, steps::score::<DOT>],
    steps_decode: steps::decode,
    scalar_scan: scalar::portable::SCAN,
    hamming_scan: hamming::scan,
    prefetch: [prefetch; 2],
    nibble_scan: nibble::portable::scan,
    nibble_bounds: nibble::portable::bounds,
    nibble_choose: nibble::portable::choose,
    nibble_table: nibble::portable::table,
    hadamard: nibble::portable::hadamard,
    fast_scan: fast_scan::portable::scan,
    fast_table: fast_scan::portable::table,
    level_sum: levels::level_sum,
    sign_words: levels::sign_words,
    bound: found::bound,
    keep_at_most: found::keep_at_most,
    sum_rows: additive::sum_rows,
    distances: distances::portable,
};

/// Lanes of a pair's sum: what an AVX-512 register holds, and enough for any narrower one.
const LANES: usize = 16;

fn scan<const S: u8, const E: u8>(queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let mut row = vec![0.0; queries[0].len()];
    for (i, code) in codes.chunks_exact(codes.len() / n).enumerate() {
        decode::<E>(code, &mut row);
        for (q, query) in queries.iter().enumerate() {
            scores[q * n + i] = pair::<S>(query, &row);
        }
    }
}

fn scan_apart<const S: u8, const E: u8>(query: &[f32], rows: &[&[u8]], scores: &mut [f32]) {
    let mut row = vec![0.0; query.len()];
    for (code, score) in rows.iter().zip(scores) {
        decode::<E>(code, &mut row);
        *score = pair::<S>(query, &row);
    }
}

/// The score of one pair: 16 running sums over the components, folded by halves.
fn pair<const S: u8>(query: &[f32], row: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (q, q_tail) = query.as_chunks::<LANES>();
    let (x, x_tail) = row.as_chunks::<LANES>();
    for (q, x) in q.iter().zip(x) {
        for lane in 0..LANES {
            sums[lane] += term::<S>(q[lane], x[lane]);
        }
    }
    for (sum, (&q, &x)) in sums.iter_mut().zip(q_tail.iter().zip(x_tail)) {
        *sum += term::<S>(q, x);
    }
    let sum = fold(sums);
    if S == L2 { sum } else { 0.0 - sum }
}

#[inline(always)]
pub(super) fn term<const S: u8>(q: f32, x: f32) -> f32 {
    if S == L2 { (q - x) * (q - x) } else { q * x }
}

#[inline(always)]
pub(super) fn fold(mut sums: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}

fn scores(product: &Product<'_>, out: &mut [f32], stride: usize) {
    for (p, panel) in product.panels.chunks_exact(product.dim * PANEL).enumerate() {
        let columns = p * PANEL..stride.min((p + 1) * PANEL);
        for (r, row) in product.rows.chunks_exact(product.dim).enumerate() {
            let dots = dots(row, panel);
            for (column, dot) in columns.clone().zip(dots) {
                out[r * stride + column] = product.score(r, product.bias[column], dot);
            }
        }
    }
}

fn nearest(product: &Product<'_>, best: &mut [Best]) {
    for (p, panel) in product.panels.chunks_exact(product.dim * PANEL).enumerate() {
        let bias = &product.bias[p * PANEL..][..PANEL];
        for (r, row) in product.rows.chunks_exact(product.dim).enumerate() {
            let dots = dots(row, panel);
            let scores: [f32; PANEL] = std::array::from_fn(|c| product.score(r, bias[c], dots[c]));
            keep_best(&mut best[r], &scores, (p * PANEL) as u32);
        }
    }
}

/// Updates the 16 minima with 32 scores; the strict comparisons leave ties to the lower column.
fn keep_best(best: &mut Best, scores: &[f32; PANEL], first: u32) {
    for lane in 0..16 {
        let (mut score, mut column) = (scores[lane], first + lane as u32);
        if scores[lane + 16] < score {
            (score, column) = (scores[lane + 16], column + 16);
        }
        if score < best.score[lane] {
            (best.score[lane], best.column[lane]) = (score, column);
        }
    }
}

/// The products of a row with the columns of a panel, each summed from the first component to the last.
#[inline(never)] // Inlined into `nearest`, its sums leave the registers: a fifth of the speed.
fn dots(row: &[f32], panel: &[f32]) -> [f32; PANEL] {
    let mut sums = [0.0; PANEL];
    for (&x, columns) in row.iter().zip(panel.as_chunks::<PANEL>().0) {
        for lane in 0..PANEL {
            sums[lane] += x * columns[lane];
        }
    }
    sums
}

fn norms(rows: &[f32], dim: usize, out: &mut [f32]) {
    for (row, norm) in rows.chunks_exact(dim).zip(out) {
        *norm = row.iter().fold(0.0, |sum, &x| sum + x * x);
    }
}

/// The same with fused multiply-adds, inlined into the tables whose products are fused; 8 rows at a time,
/// because one row's additions wait for each other.
#[inline(always)]
pub(super) fn norms_fused(rows: &[f32], dim: usize, out: &mut [f32]) {
    let eights = rows.chunks_exact(8 * dim);
    let rest = eights.remainder().chunks_exact(dim);
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (rows, out) in eights.zip(out) {
        // Slices of exactly `dim` components need no bounds checks below.
        let mut eight = [&rows[..dim]; 8];
        for r in 0..8 {
            eight[r] = &rows[r * dim..][..dim];
        }
        *out = [0.0; 8];
        for d in 0..dim {
            for r in 0..8 {
                out[r] = eight[r][d].mul_add(eight[r][d], out[r]);
            }
        }
    }
    for (row, norm) in rest.zip(out_rest) {
        *norm = row.iter().fold(0.0, |sum, &x| x.mul_add(x, sum));
    }
}

/// Looks at 16 scores at once, because in a search almost all of them are too far.
pub(super) fn select(scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
    for (group, scores) in scores.chunks(LANES).enumerate() {
        if scores.iter().fold(false, |any, &score| any | (score <= threshold)) {
            let near = (0u32..).zip(scores).filter(|&(_, &score)| score <= threshold);
            out.extend(near.map(|(lane, _)| (group * LANES) as u32 + lane));
        }
    }
}

pub(super) fn encode<const E: u8>(rows: &[f32], out: &mut [u8]) {
    if E == F32 {
        rows.iter().zip(out.as_chunks_mut().0).for_each(|(x, code)| *code = x.to_le_bytes());
    } else if E == F16 {
        rows.iter().zip(out.as_chunks_mut().0).for_each(|(&x, code)| *code = f16::from_f32(x).to_le_bytes());
    } else if E == U8 {
        // Added to 2^23 a number below 256 is rounded to the nearest whole one, in its lowest bits.
        let held = |x: f32| if x > 0.0 { x.min(255.0) } else { 0.0 };
        rows.iter().zip(out).for_each(|(&x, code)| *code = (held(x) + 8_388_608.0).to_bits() as u8);
    } else {
        rows.iter().zip(out.as_chunks_mut().0).for_each(|(&x, code)| *code = bf16::from_f32(x).to_le_bytes());
    }
}

pub(super) fn decode<const E: u8>(codes: &[u8], out: &mut [f32]) {
    if E == F32 {
        codes.as_chunks().0.iter().zip(out).for_each(|(&code, x)| *x = f32::from_le_bytes(code));
    } else if E == F16 {
        codes.as_chunks().0.iter().zip(out).for_each(|(&code, x)| *x = f16::from_le_bytes(code).to_f32());
    } else if E == U8 {
        codes.iter().zip(out).for_each(|(&code, x)| *x = code.into());
    } else {
        codes.as_chunks().0.iter().zip(out).for_each(|(&code, x)| *x = bf16::from_le_bytes(code).to_f32());
    }
}

fn prefetch(_: &[u8]) {}
