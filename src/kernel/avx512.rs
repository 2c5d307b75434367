//! AVX-512 (F, BW, DQ, VL: Skylake-X, Ice Lake, Zen 4 and later): 16 lanes, masks instead of tails.
//!
//! ```text
//! scan      a pair's sum is 16 lanes, one register; 1 to 4 queries by 4 or 8 rows share their loads;
//!           four sums at a time are transposed and folded by one tree of additions
//! products  6 rows by two panels (4 registers): 24 sums stay in registers, per component 4 loads
//!           and 6 broadcasts feed 24 fused multiply-adds; fewer rows take four panels
//! ```
//!
//! A pair's sum takes the same additions in the same order in every tile; only its neighbours differ.

#![allow(unsafe_code)]

use super::tag::{BF16, DOT, F16, F32, L2, U8, size_of_element};
use super::{
    Best, Kernels, PANEL, Product, additive, avx2, distances, dot8, fast_scan, found, hamming, levels,
    lookup, nibble, picked, points, portable, scalar, sieve, steps,
};
use std::arch::x86_64::*;
use std::ops::Range;

const TABLE: Kernels = Kernels {
    name: "avx512",
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
    byte_scores: dot8::avx512,
    picked_scores: picked::avx2,
    lookup: lookup::avx512::scan,
    lookup_picked: lookup::avx2::picked,
    hamming_below: lookup::near,
    sieve: sieve::pass,
    sieve_columns: sieve::columns,
    sieve_bytes: sieve::avx512::bytes,
    sieve_spread: sieve::avx512::spread,
    points_nearest: points::avx512::nearest,
    points_scores: [points::avx512::scores::<L2>, points::avx512::scores::<DOT>],
    norms,
    select,
    encode: [portable::encode::<F32>, encode::<F16>, encode::<BF16>, portable::encode::<U8>],
    decode: [portable::decode::<F32>, decode::<F16>, decode::<BF16>, portable::decode::<U8>],
    // Faster than the same loop in wider registers: 18 ns a row of 128 components, 29 there.
    steps_score: [steps::avx2::score::<L2>, steps::avx2::score::<DOT>],
    steps_decode: steps::avx2::decode,
    scalar_scan: scalar::avx512::SCAN,
    hamming_scan: hamming::x86::avx512,
    prefetch: [avx2::prefetch::<1>, avx2::prefetch::<2>],
    nibble_scan: nibble::avx2::scan,
    nibble_bounds: nibble::avx2::bounds,
    nibble_choose: nibble::avx512::choose,
    nibble_table: nibble::avx512::table,
    hadamard: nibble::avx512::hadamard,
    fast_scan: fast_scan::avx512::scan,
    fast_table: fast_scan::avx512::table,
    level_sum: levels::avx512::level_sum,
    sign_words: levels::avx2::sign_words,
    bound: found::avx512::bound,
    keep_at_most: found::avx512::keep_at_most,
    sum_rows: additive::avx512::sum_rows,
    distances: distances::avx512,
};

pub(super) static KERNELS: Kernels = TABLE;

/// The same for processors that also have VBMI and VNNI.
pub(super) static VBMI: Kernels = Kernels {
    name: "avx512vbmi",
    nibble_scan: nibble::avx512::scan,
    fast_scan: fast_scan::avx512::scan_vbmi,
    sieve: sieve::avx512::pass_vbmi,
    sieve_columns: sieve::avx512::columns,
    // The same for processors that also have VBMI, VNNI and VPOPCNTDQ.
    hamming_scan: hamming::x86::vpopcntdq,
    nibble_bounds: nibble::avx512::bounds,
    ..TABLE
};

/// True if this processor has what this file uses.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("popcnt")
}

const LANES: usize = 16;

/// Bytes of codes that stay in the first-level cache while the queries pass by.
const CHUNK_BYTES: usize = 16 << 10;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn scan<const S: u8, const E: u8>(queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let size = codes.len() / n;
    let chunk = (CHUNK_BYTES / size).max(1).next_multiple_of(8);
    for first in (0..n).step_by(chunk) {
        let codes = Codes { bytes: codes, size, rows: first..n.min(first + chunk) };
        for (queries, scores) in queries.chunks(4).zip(scores.chunks_mut(4 * n)) {
            match *queries {
                [a, b, c, d] => scan_rows::<S, E, 4, 4>([a, b, c, d], &codes, scores),
                [a, b, c] => scan_rows::<S, E, 3, 4>([a, b, c], &codes, scores),
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
            let out = &mut scores[q * n + first..][..live];
            for r in (0..R).step_by(4) {
                let folded = fold::<S>([sums[q][r], sums[q][r + 1], sums[q][r + 2], sums[q][r + 3]]);
                let lanes = mask(live.saturating_sub(r).min(4)) as u8;
                // SAFETY: `lanes` has a bit only for rows that are `live`, of which `out` has as many.
                unsafe { _mm_mask_storeu_ps(out.as_mut_ptr().wrapping_add(r), lanes, folded) }
            }
        }
    }
}

/// The same for rows that lie apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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

/// The 16 lanes of each pair's sum.
///
/// # Safety
/// At each of `codes` a row of the queries' dimension must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn scan_tile<const S: u8, const E: u8, const Q: usize, const R: usize>(
    queries: [&[f32]; Q],
    codes: [*const u8; R],
) -> [[__m512; R]; Q] {
    let dim = queries[0].len();
    let mut sums = [[_mm512_setzero_ps(); R]; Q];
    let mut step = |d: usize, lanes: __mmask16| {
        let mut xs = [_mm512_setzero_ps(); R];
        for r in 0..R {
            // SAFETY: a row has `dim` components, and `lanes` has a bit only for those from `d` on.
            xs[r] = unsafe { load::<E>(codes[r].add(d * size_of_element::<E>()), lanes) };
        }
        for q in 0..Q {
            // SAFETY: as above; all queries have `dim` components.
            let query = unsafe { _mm512_maskz_loadu_ps(lanes, queries[q].as_ptr().add(d)) };
            for r in 0..R {
                sums[q][r] = add_term::<S>(query, xs[r], sums[q][r]);
            }
        }
    };
    let whole = dim / LANES * LANES;
    for d in (0..whole).step_by(LANES) {
        step(d, !0);
    }
    if whole < dim {
        step(whole, mask(dim - whole));
    }
    sums
}

/// A mask of the first `count` lanes.
#[inline(always)]
pub(super) fn mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// The components of `lanes`, 0 in the others.
///
/// # Safety
/// The bytes of those components must be readable at `code`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn load<const E: u8>(code: *const u8, lanes: __mmask16) -> __m512 {
    if E == F32 {
        // SAFETY: as promised by the caller; masked loads take any alignment.
        return unsafe { _mm512_maskz_loadu_ps(lanes, code.cast()) };
    }
    if E == U8 {
        // SAFETY: as above.
        let bytes = unsafe { _mm_maskz_loadu_epi8(lanes, code.cast()) };
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    }
    // SAFETY: as above.
    let halves = unsafe { _mm256_maskz_loadu_epi16(lanes, code.cast()) };
    widen::<E>(halves)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn widen<const E: u8>(halves: __m256i) -> __m512 {
    if E == F16 {
        _mm512_cvtph_ps(halves)
    } else {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_term<const S: u8>(query: __m512, x: __m512, sum: __m512) -> __m512 {
    if S == L2 {
        let difference = _mm512_sub_ps(query, x);
        _mm512_fmadd_ps(difference, difference, sum)
    } else {
        _mm512_fmadd_ps(query, x, sum)
    }
}

/// Four sums of 16 lanes as four scores: each transposition halves the lanes of all four at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn fold<const S: u8>(sums: [__m512; 4]) -> __m128 {
    let [a, b, c, d] = sums;
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let abcd = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
    );
    let half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps::<1>(abcd));
    let sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    if S == L2 { sums } else { _mm_sub_ps(_mm_setzero_ps(), sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn scores(product: &Product<'_>, out: &mut [f32], stride: usize) {
    sweep(product, |r, p, score| {
        let out = &mut out[r * stride..][..stride][p * PANEL..];
        for (out, score) in out.chunks_mut(LANES).zip(score) {
            // SAFETY: the mask has at most as many bits as `out` has elements.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask(out.len()), score) }
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn nearest(product: &Product<'_>, best: &mut [Best]) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    sweep(product, |r, p, [low, high]| {
        let best = &mut best[r];
        let first = _mm512_add_epi32(lanes, _mm512_set1_epi32((p * PANEL) as i32));
        let higher = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(high, low);
        let score = _mm512_mask_mov_ps(low, higher, high);
        let column = _mm512_mask_add_epi32(first, higher, first, _mm512_set1_epi32(LANES as i32));
        // SAFETY: `Best` is two aligned arrays of 16.
        unsafe {
            let (scores, columns) = (best.score.as_mut_ptr(), best.column.as_mut_ptr().cast());
            let nearer = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(score, _mm512_load_ps(scores));
            _mm512_mask_store_ps(scores, nearer, score);
            _mm512_mask_store_epi32(columns, nearer, column);
        }
    });
}

/// Calls `sink` with each row, each panel and their 32 scores; the panels of a row come in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sweep(product: &Product<'_>, mut sink: impl FnMut(usize, usize, [__m512; 2])) {
    let (rows, dim) = (product.norms.len(), product.dim);
    let (tall, flat) = (rows / TALL * TALL, rows / 2 * 2);
    let panels = product.bias.len() / PANEL;
    let fours = panels / 4 * 4;
    let packed = pack(&product.rows[..tall * dim], dim);
    // Panels come in fours so that each is read once, and stays in cache for all rows.
    for p in (0..fours).step_by(4) {
        for p in (p..p + 4).step_by(2) {
            for (group, rows) in packed.chunks_exact(TALL * dim).enumerate() {
                let dots = packed_dots::<TALL, 2>(product, rows, p);
                finish(product, group * TALL, p, dots, &mut sink);
            }
        }
        (tall..flat).step_by(2).for_each(|r| finish(product, r, p, dots::<2, 4>(product, r, p), &mut sink));
        (flat..rows).for_each(|r| finish(product, r, p, dots::<1, 4>(product, r, p), &mut sink));
    }
    for p in fours..panels {
        for (group, rows) in packed.chunks_exact(TALL * dim).enumerate() {
            let dots = packed_dots::<TALL, 1>(product, rows, p);
            finish(product, group * TALL, p, dots, &mut sink);
        }
        (tall..flat).step_by(2).for_each(|r| finish(product, r, p, dots::<2, 1>(product, r, p), &mut sink));
        (flat..rows).for_each(|r| finish(product, r, p, dots::<1, 1>(product, r, p), &mut sink));
    }
}

/// Rows of a tile where there are enough.
const TALL: usize = 6;

/// Transposes each group of [`TALL`] rows, so that a component of all of them lies together and the inner
/// loop has one address to advance: with one per row, computing addresses takes a fifth of the ports from
/// the sums.
fn pack(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut packed = vec![0.0; rows.len()];
    for (rows, packed) in rows.chunks_exact(TALL * dim).zip(packed.chunks_exact_mut(TALL * dim)) {
        for (d, packed) in packed.as_chunks_mut::<TALL>().0.iter_mut().enumerate() {
            for r in 0..TALL {
                packed[r] = rows[r * dim + d];
            }
        }
    }
    packed
}

/// Turns the products of `R` rows from `row` by `P` panels from `panel` into scores.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn finish<const R: usize, const P: usize>(
    product: &Product<'_>,
    row: usize,
    panel: usize,
    dots: [[[__m512; 2]; P]; R],
    sink: &mut impl FnMut(usize, usize, [__m512; 2]),
) {
    let factor = _mm512_set1_ps(product.factor);
    let floor = _mm512_set1_ps(product.floor);
    for p in 0..P {
        let bias = &product.bias[(panel + p) * PANEL..][..PANEL];
        for r in 0..R {
            let norm = _mm512_set1_ps(product.norms[row + r]);
            let mut score = dots[r][p];
            for half in 0..2 {
                // SAFETY: a panel has two halves of 16 biases.
                let bias = unsafe { _mm512_loadu_ps(bias.as_ptr().add(half * LANES)) };
                let sum = _mm512_add_ps(_mm512_fmadd_ps(factor, score[half], bias), norm);
                // The second operand is returned where one is NaN.
                score[half] = _mm512_max_ps(floor, sum);
            }
            sink(row + r, panel + p, score);
        }
    }
}

/// The products of the tile, each summed from the first component to the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn dots<const R: usize, const P: usize>(
    product: &Product<'_>,
    row: usize,
    panel: usize,
) -> [[[__m512; 2]; P]; R] {
    let dim = product.dim;
    let rows = &product.rows[row * dim..(row + R) * dim];
    // SAFETY: `rows` has R rows of `dim` components, one after the other.
    unsafe { sum::<R, P>(product, panel, |r, d| *rows.as_ptr().add(r * dim + d)) }
}

/// [`dots`] of packed rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn packed_dots<const R: usize, const P: usize>(
    product: &Product<'_>,
    rows: &[f32],
    panel: usize,
) -> [[[__m512; 2]; P]; R] {
    assert_eq!(rows.len(), R * product.dim);
    // SAFETY: `rows` has `dim` times R components.
    unsafe { sum::<R, P>(product, panel, |r, d| *rows.as_ptr().add(d * R + r)) }
}

/// The sums over the components: `value(r, d)` is called for rows below R and components below `dim`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum<const R: usize, const P: usize>(
    product: &Product<'_>,
    panel: usize,
    value: impl Fn(usize, usize) -> f32,
) -> [[[__m512; 2]; P]; R] {
    let dim = product.dim;
    let panels = product.panels[panel * dim * PANEL..(panel + P) * dim * PANEL].as_ptr();
    let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
    for d in 0..dim {
        let mut columns = [[_mm512_setzero_ps(); 2]; P];
        for p in 0..P {
            for half in 0..2 {
                // SAFETY: `panels` has P panels of `dim` times 32 components.
                columns[p][half] =
                    unsafe { _mm512_loadu_ps(panels.add((p * dim + d) * PANEL + half * LANES)) };
            }
        }
        for r in 0..R {
            let x = _mm512_set1_ps(value(r, d));
            for p in 0..P {
                for half in 0..2 {
                    sums[r][p][half] = _mm512_fmadd_ps(x, columns[p][half], sums[r][p][half]);
                }
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn norms(rows: &[f32], dim: usize, out: &mut [f32]) {
    portable::norms_fused(rows, dim, out);
}

/// 64 scores at a time: in a search almost all of them are too far.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn select(scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
    // Whole registers are stored, the unused lanes too.
    out.reserve(scores.len() + LANES);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let threshold = _mm512_set1_ps(threshold);
    let mut kept = 0;
    let mut keep = |first: usize, near: __mmask16| {
        let indices = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
        // SAFETY: at most as many were kept as scores were seen, and 16 more fit.
        unsafe {
            _mm512_storeu_epi32(out.as_mut_ptr().add(kept).cast(), _mm512_maskz_compress_epi32(near, indices))
        };
        kept += near.count_ones() as usize;
    };
    let (groups, rest) = scores.as_chunks::<64>();
    for (group, scores) in groups.iter().enumerate() {
        let mut near = [0; 4];
        for i in 0..4 {
            // SAFETY: a group has four times 16 scores.
            let scores = unsafe { _mm512_loadu_ps(scores.as_ptr().add(i * LANES)) };
            near[i] = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(scores, threshold);
        }
        if near != [0; 4] {
            (0..4).for_each(|i| keep(group * 64 + i * LANES, near[i]));
        }
    }
    for (i, scores) in rest.chunks(LANES).enumerate() {
        let lanes = mask(scores.len());
        // SAFETY: the mask has as many bits as `scores` has elements.
        let scores = unsafe { _mm512_maskz_loadu_ps(lanes, scores.as_ptr()) };
        keep(groups.len() * 64 + i * LANES, _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(lanes, scores, threshold));
    }
    // SAFETY: the first `kept` were written, within the capacity.
    unsafe { out.set_len(kept) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn encode<const E: u8>(rows: &[f32], out: &mut [u8]) {
    let (groups, rest) = rows.as_chunks::<LANES>();
    let (codes, rest_codes) = out.as_chunks_mut::<{ 2 * LANES }>();
    for (xs, code) in groups.iter().zip(codes) {
        // SAFETY: 16 components in, 32 bytes out.
        unsafe { _mm256_storeu_si256(code.as_mut_ptr().cast(), narrow::<E>(_mm512_loadu_ps(xs.as_ptr()))) }
    }
    portable::encode::<E>(rest, rest_codes);
}

/// Round to nearest even. The processor's own bf16 conversion would flush subnormals.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn narrow<const E: u8>(xs: __m512) -> __m256i {
    if E == F16 {
        return _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(xs);
    }
    let bits = _mm512_castps_si512(xs);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(xs, xs);
    let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn decode<const E: u8>(codes: &[u8], out: &mut [f32]) {
    let (groups, rest) = codes.as_chunks::<{ 2 * LANES }>();
    let (xs, rest_xs) = out.as_chunks_mut::<LANES>();
    for (code, xs) in groups.iter().zip(xs) {
        // SAFETY: 32 bytes in, 16 components out.
        unsafe { _mm512_storeu_ps(xs.as_mut_ptr(), widen::<E>(_mm256_loadu_si256(code.as_ptr().cast()))) }
    }
    portable::decode::<E>(rest, rest_xs);
}
