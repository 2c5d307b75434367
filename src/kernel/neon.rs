//! NEON, which every aarch64 processor has: 4 lanes.
//!
//! ```text
//! scan      a pair's sum is 4 lanes, one register; 1 query by 8 rows, or 2 by 4
//! products  4 rows by half a panel (4 registers): 16 sums; a single row takes two halves
//! ```
//!
//! A pair's sum takes the same additions in the same order in every tile; only its neighbours differ.
//! Conversions and selection are the portable loops, which compilers vectorise here.

#![allow(unsafe_code)]

use super::tag::{BF16, DOT, F16, F32, L2, U8, size_of_element};
use super::{
    Best, Kernels, PANEL, Product, additive, distances, dot8, fast_scan, found, hamming, levels, lookup,
    nibble, picked, points, portable, scalar, sieve, steps,
};
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

pub(super) static KERNELS: Kernels = Kernels {
    name: "neon",
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
    byte_scores: dot8::neon,
    picked_scores: picked::neon,
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
    select: portable::select,
    encode: [
        portable::encode::<F32>,
        portable::encode::<F16>,
        portable::encode::<BF16>,
        portable::encode::<U8>,
    ],
    decode: [
        portable::decode::<F32>,
        portable::decode::<F16>,
        portable::decode::<BF16>,
        portable::decode::<U8>,
    ],
    steps_score: [steps::score::<L2>, steps::score::<DOT>],
    steps_decode: steps::decode,
    scalar_scan: scalar::neon::SCAN,
    hamming_scan: hamming::scan,
    prefetch: [prefetch::<1>, prefetch::<2>],
    nibble_scan: nibble::neon::scan,
    nibble_bounds: nibble::neon::bounds,
    nibble_choose: nibble::portable::choose,
    nibble_table: nibble::portable::table,
    hadamard: nibble::portable::hadamard,
    fast_scan: fast_scan::neon::scan,
    fast_table: fast_scan::portable::table,
    level_sum: levels::level_sum,
    sign_words: levels::sign_words,
    bound: found::bound,
    keep_at_most: found::keep_at_most,
    sum_rows: additive::sum_rows,
    distances: distances::portable,
};

const LANES: usize = 4;

/// Columns of half a panel, and the registers that hold them.
const HALF: usize = PANEL / 2;
const PARTS: usize = HALF / LANES;

/// Bytes of codes that stay in the first-level cache while the queries pass by.
const CHUNK_BYTES: usize = 16 << 10;

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
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
                unsafe { vst1q_f32(folded.as_mut_ptr().add(r), scores) }
            }
            scores[q * n + first..][..live].copy_from_slice(&folded[..live]);
        }
    }
}

/// The same for rows that lie apart.
#[target_feature(enable = "neon")]
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
            unsafe { vst1q_f32(folded.as_mut_ptr().add(r), scores) }
        }
        scores.copy_from_slice(&folded[..scores.len()]);
    }
}

/// The 4 lanes of each pair's sum.
///
/// # Safety
/// At each of `codes` a row of the queries' dimension must be readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scan_tile<const S: u8, const E: u8, const Q: usize, const R: usize>(
    queries: [&[f32]; Q],
    codes: [*const u8; R],
) -> [[float32x4_t; R]; Q] {
    let dim = queries[0].len();
    let mut sums = [[vdupq_n_f32(0.0); R]; Q];
    let mut step = |d: usize, count: usize| {
        let mut values = [vdupq_n_f32(0.0); Q];
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
#[target_feature(enable = "neon")]
unsafe fn load<const E: u8>(code: *const u8, count: usize) -> float32x4_t {
    let mut tail = [0u8; 16];
    let mut code = code;
    if count < LANES {
        // SAFETY: as promised by the caller; fewer than four components of at most four bytes fit.
        unsafe { code.copy_to_nonoverlapping(tail.as_mut_ptr(), count * size_of_element::<E>()) }
        code = tail.as_ptr();
    }
    // SAFETY: four components are readable; these loads take any alignment.
    unsafe {
        if E == F32 {
            vreinterpretq_f32_u8(vld1q_u8(code))
        } else if E == U8 {
            let four = u32::from_le(code.cast::<u32>().read_unaligned());
            let bytes = vmovl_u8(vcreate_u8(four.into()));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(bytes)))
        } else {
            widen::<E>(vreinterpret_u16_u8(vld1_u8(code)))
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn widen<const E: u8>(halves: uint16x4_t) -> float32x4_t {
    if E == BF16 {
        return vreinterpretq_f32_u32(vshll_n_u16::<16>(halves));
    }
    let xs: float32x4_t;
    // The intrinsic is not stable in our oldest compiler.
    // SAFETY: a conversion from register to register.
    unsafe {
        asm!("fcvtl {xs:v}.4s, {halves:v}.4h", xs = out(vreg) xs, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    xs
}

#[inline]
#[target_feature(enable = "neon")]
fn add_term<const S: u8>(query: float32x4_t, x: float32x4_t, sum: float32x4_t) -> float32x4_t {
    if S == L2 {
        let difference = vsubq_f32(query, x);
        vfmaq_f32(sum, difference, difference)
    } else {
        vfmaq_f32(sum, query, x)
    }
}

/// Four sums of 4 lanes as four scores.
#[inline]
#[target_feature(enable = "neon")]
fn fold<const S: u8>([a, b, c, d]: [float32x4_t; 4]) -> float32x4_t {
    let sums = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
    if S == L2 { sums } else { vsubq_f32(vdupq_n_f32(0.0), sums) }
}

#[target_feature(enable = "neon")]
fn scores(product: &Product<'_>, out: &mut [f32], stride: usize) {
    sweep(product, |r, half, scores| {
        let row = &mut out[r * stride..(r + 1) * stride];
        let first = (half * HALF).min(stride);
        let out = &mut row[first..stride.min(first + HALF)];
        for (out, scores) in out.chunks_mut(LANES).zip(scores) {
            let mut four = [0.0; LANES];
            // SAFETY: four lanes into four elements.
            unsafe { vst1q_f32(four.as_mut_ptr(), scores) }
            out.copy_from_slice(&four[..out.len()]);
        }
    });
}

#[target_feature(enable = "neon")]
fn nearest(product: &Product<'_>, best: &mut [Best]) {
    const FIRST: [u32; LANES] = [0, 1, 2, 3];
    // SAFETY: four lanes from four elements.
    let lanes = unsafe { vld1q_u32(FIRST.as_ptr()) };
    sweep(product, |r, half, scores| {
        for (i, score) in scores.into_iter().enumerate() {
            let column = vaddq_u32(lanes, vdupq_n_u32((half * HALF + i * LANES) as u32));
            let least = best[r].score[i * LANES..][..LANES].as_mut_ptr();
            let columns = best[r].column[i * LANES..][..LANES].as_mut_ptr();
            // SAFETY: both are 4 elements.
            unsafe {
                let before = vld1q_f32(least);
                let nearer = vcltq_f32(score, before);
                vst1q_f32(least, vbslq_f32(nearer, score, before));
                vst1q_u32(columns, vbslq_u32(nearer, column, vld1q_u32(columns)));
            }
        }
    });
}

/// Calls `sink` with each row, each half panel and their 16 scores; the halves of a row come in order.
#[inline]
#[target_feature(enable = "neon")]
fn sweep(product: &Product<'_>, mut sink: impl FnMut(usize, usize, [float32x4_t; PARTS])) {
    let rows = product.norms.len();
    let tall = rows / 4 * 4;
    // Halves come in panels so that each is read once, and stays in cache for all rows.
    for half in (0..product.bias.len() / HALF).step_by(2) {
        for half in [half, half + 1] {
            (0..tall).step_by(4).for_each(|r| tile::<4, 1>(product, r, half, &mut sink));
        }
        (tall..rows).for_each(|r| tile::<1, 2>(product, r, half, &mut sink));
    }
}

/// `R` rows from `row` by `H` half panels from `first`.
#[inline]
#[target_feature(enable = "neon")]
fn tile<const R: usize, const H: usize>(
    product: &Product<'_>,
    row: usize,
    first: usize,
    sink: &mut impl FnMut(usize, usize, [float32x4_t; PARTS]),
) {
    let dots = dots::<R, H>(product, row, first);
    let factor = vdupq_n_f32(product.factor);
    let floor = vdupq_n_f32(product.floor);
    for h in 0..H {
        let bias = &product.bias[(first + h) * HALF..][..HALF];
        for r in 0..R {
            let norm = vdupq_n_f32(product.norms[row + r]);
            let mut score = dots[r][h];
            for i in 0..PARTS {
                // SAFETY: half a panel has four times 4 biases.
                let bias = unsafe { vld1q_f32(bias.as_ptr().add(i * LANES)) };
                // The maximum is NaN where the score is.
                score[i] = vmaxq_f32(floor, vaddq_f32(vfmaq_f32(bias, factor, score[i]), norm));
            }
            sink(row + r, first + h, score);
        }
    }
}

/// The products of the tile, each summed from the first component to the last.
#[inline]
#[target_feature(enable = "neon")]
fn dots<const R: usize, const H: usize>(
    product: &Product<'_>,
    row: usize,
    first: usize,
) -> [[[float32x4_t; PARTS]; H]; R] {
    let dim = product.dim;
    let rows = product.rows[row * dim..(row + R) * dim].as_ptr();
    let mut halves = [product.panels.as_ptr(); H];
    for h in 0..H {
        let (panel, half) = ((first + h) / 2, (first + h) % 2);
        halves[h] = product.panels[panel * dim * PANEL..(panel + 1) * dim * PANEL][half * HALF..].as_ptr();
    }
    let mut sums = [[[vdupq_n_f32(0.0); PARTS]; H]; R];
    for d in 0..dim {
        let mut columns = [[vdupq_n_f32(0.0); PARTS]; H];
        for h in 0..H {
            for i in 0..PARTS {
                // SAFETY: a panel has `dim` times 32 components, and each half starts within the first 32.
                columns[h][i] = unsafe { vld1q_f32(halves[h].add(d * PANEL + i * LANES)) };
            }
        }
        for r in 0..R {
            // SAFETY: `rows` has R rows of `dim` components.
            let x = vdupq_n_f32(unsafe { *rows.add(r * dim + d) });
            for h in 0..H {
                for i in 0..PARTS {
                    sums[r][h][i] = vfmaq_f32(sums[r][h][i], x, columns[h][i]);
                }
            }
        }
    }
    sums
}

#[target_feature(enable = "neon")]
fn norms(rows: &[f32], dim: usize, out: &mut [f32]) {
    portable::norms_fused(rows, dim, out);
}

pub(super) fn prefetch<const LEVEL: u8>(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: hints that no program can see.
        unsafe {
            match LEVEL {
                1 => asm!("prfm pldl1keep, [{line}]", line = in(reg) line.as_ptr(),
                    options(readonly, nostack, preserves_flags)),
                _ => asm!("prfm pldl2keep, [{line}]", line = in(reg) line.as_ptr(),
                    options(readonly, nostack, preserves_flags)),
            }
        }
    }
}
