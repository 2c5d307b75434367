//! Kernels: the innermost loops, one table of functions per instruction set.
//!
//! A [`Kernels`] is handed out only if the processor has its instructions, so that possession is proof
//! and no kernel checks again. `portable` says what each function means; the other tables must agree
//! with it (bytes and indices exactly, floats within a relative 1e-5 of the sum of magnitudes) and are
//! compared with it in the tests below. All `unsafe` of the crate is in this folder; every method here
//! asserts the lengths that the loops rely on.
//!
//! Two promises hold within one table, and search and training lean on them. *A score does not depend
//! on company*: a pair of vectors gets the same bits alone, in a batch of queries, at the end of a
//! block, on any thread. *No score is -0.0*, so that equal scores are equal in `total_cmp` too.
//!
//! Kernels know nothing of lists, blocks or metrics: they see slices.

// Tiles of registers are arrays that several loops index with one number; iterators would hide that.
#![allow(clippy::needless_range_loop)]

mod additive;
mod aligned;
mod arena;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod distances;
mod dot8;
mod fast_scan;
mod found;
mod hamming;
mod levels;
mod lookup;
#[cfg(target_arch = "aarch64")]
mod neon;
mod nibble;
mod picked;
mod points;
mod portable;
mod scalar;
mod sieve;
mod steps;

pub(crate) use aligned::AlignedVec;
pub(crate) use arena::{Arena, Piece};
pub(crate) use distances::{Distance, Nearness};
pub(crate) use dot8::{BYTE_PANEL, ByteProduct};
pub(crate) use fast_scan::{FAST_QUERIES, FastGroups, FastQuery, FastTables};
pub(crate) use found::Found;
pub(crate) use levels::{LEVEL_QUERY_MAX, LEVELS, Levels};
pub(crate) use lookup::{Lookup, settle};
#[cfg(any(test, feature = "bench-internals"))]
pub(crate) use nibble::group_bytes;
pub(crate) use nibble::{
    Book, BoundQuery, CHOOSE, GROUP, NIBBLE_QUERIES, NibbleQuery, POINTS, bounded_bytes,
};
pub(crate) use picked::Picked;
pub(crate) use points::{POINT_PANEL, Points};
pub(crate) use scalar::{STEP_QUERIES, StepBits, StepQuery, StepRows};
pub(crate) use sieve::{Sieve, SieveTable};
use std::sync::OnceLock;
use zerocopy::IntoBytes;

/// What is computed between two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Similarity {
    /// Squared Euclidean distance.
    L2,
    /// Inner product; its score is the negated product.
    Dot,
}

/// How one component is stored, always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision: 10 bits of mantissa, up to 65504.
    F16,
    /// The upper half of an `f32`: 7 bits of mantissa, the same range.
    BF16,
    /// A whole number, 0 to 255.
    U8,
}

impl Element {
    /// Bytes per component.
    pub(crate) fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::U8 => 1,
        }
    }
}

/// Columns of one panel: two AVX-512 registers, four AVX2, eight NEON.
pub(crate) const PANEL: usize = 32;

/// Rows that one call of [`Kernels::nearest`] takes at most. A panel of 128 dimensions (16 KiB) and the
/// running minima of 96 rows (12 KiB) share a 32 KiB L1; 96 is a multiple of every tile's height.
pub(crate) const ROWS_MAX: usize = 96;

/// Rows times columns, and how a product becomes a score:
/// `score(r, c) = max(floor, (bias[c] + factor · ⟨row r, column c⟩) + norms[r])`.
///
/// Columns come in panels of [`PANEL`], dim-major: component `d` of column `c` of panel `p` is
/// `panels[(p * dim + d) * PANEL + c]`. A padded column has bias `+inf`, so that it is never nearest.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) dim: usize,
    /// Row-major, `norms.len() * dim`.
    pub(crate) rows: &'a [f32],
    pub(crate) norms: &'a [f32],
    pub(crate) panels: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) factor: f32,
    pub(crate) floor: f32,
}

impl Product<'_> {
    fn check(&self) {
        assert!(self.dim > 0);
        assert_eq!(self.rows.len(), self.norms.len() * self.dim);
        assert_eq!(self.panels.len(), self.bias.len() * self.dim);
        assert!(self.bias.len().is_multiple_of(PANEL) && u32::try_from(self.bias.len()).is_ok());
    }

    /// The score of row `r` and a column of this bias, from their product.
    fn score(&self, r: usize, bias: f32, dot: f32) -> f32 {
        // Exact products: `factor` is -1 or -2, so this rounds as a fused multiply-add does.
        let score = (bias + self.factor * dot) + self.norms[r];
        if self.floor > score { self.floor } else { score }
    }
}

/// The minimum so far of each of 16 classes of columns (column modulo 16) and the column that has it.
/// Kernels keep one per row and fold it once, after the last panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Best {
    score: [f32; 16],
    column: [u32; 16],
}

impl Best {
    const NONE: Best = Best { score: [f32::INFINITY; 16], column: [0; 16] };

    /// The smallest score and the lowest column that has it, by halves, which compilers vectorise.
    fn fold(&self) -> (u32, f32) {
        let mut least = self.score;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                least[lane] = if least[lane + half] < least[lane] { least[lane + half] } else { least[lane] };
            }
        }
        let mut column = self.column;
        for lane in 0..16 {
            column[lane] = if self.score[lane] == least[0] { column[lane] } else { u32::MAX };
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                column[lane] = column[lane].min(column[lane + half]);
            }
        }
        (column[0], least[0])
    }
}

/// `Similarity` and `Element` as const generic arguments.
mod tag {
    pub(super) const L2: u8 = super::Similarity::L2 as u8;
    pub(super) const DOT: u8 = super::Similarity::Dot as u8;
    pub(super) const F32: u8 = super::Element::F32 as u8;
    pub(super) const F16: u8 = super::Element::F16 as u8;
    pub(super) const BF16: u8 = super::Element::BF16 as u8;
    pub(super) const U8: u8 = super::Element::U8 as u8;

    /// Bytes of a component.
    pub(super) const fn size_of_element<const E: u8>() -> usize {
        match E {
            F32 => 4,
            U8 => 1,
            _ => 2,
        }
    }
}

type Scan = unsafe fn(queries: &[&[f32]], codes: &[u8], scores: &mut [f32]);
type ScanApart = unsafe fn(query: &[f32], rows: &[&[u8]], scores: &mut [f32]);
type Scores = unsafe fn(product: &Product<'_>, out: &mut [f32], stride: usize);
type Nearest = unsafe fn(product: &Product<'_>, best: &mut [Best]);
type ByteScores = unsafe fn(product: &ByteProduct<'_>, out: &mut [f32]);
type PickedScores = unsafe fn(picked: &Picked<'_>, picks: &[u32], out: &mut [f32]);
type Norms = unsafe fn(rows: &[f32], dim: usize, out: &mut [f32]);
type Select = unsafe fn(scores: &[f32], threshold: f32, out: &mut Vec<u32>);
type Encode = unsafe fn(rows: &[f32], out: &mut [u8]);
type Decode = unsafe fn(codes: &[u8], out: &mut [f32]);
type Prefetch = unsafe fn(bytes: &[u8]);

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    /// `portable`, `avx2`, `avx512`, `avx512vbmi` or `neon`.
    pub(crate) name: &'static str,
    /// By similarity, then by element.
    scan: [[Scan; 4]; 2],
    scan_apart: [[ScanApart; 4]; 2],
    scores: Scores,
    nearest: Nearest,
    byte_scores: ByteScores,
    picked_scores: PickedScores,
    lookup: lookup::Scan,
    lookup_picked: lookup::Picked,
    hamming_below: lookup::Near,
    sieve: sieve::Pass,
    sieve_columns: sieve::Columns,
    sieve_bytes: sieve::Bytes,
    sieve_spread: sieve::Spreads,
    points_nearest: points::Nearest,
    /// By similarity.
    points_scores: [points::Scores; 2],
    norms: Norms,
    select: Select,
    /// By element.
    encode: [Encode; 4],
    decode: [Decode; 4],
    /// By similarity.
    steps_score: [steps::Score; 2],
    steps_decode: steps::Decode,
    scalar_scan: scalar::ScalarScan,
    hamming_scan: hamming::Scan,
    /// By level of the cache.
    prefetch: [Prefetch; 2],
    nibble_scan: nibble::NibbleScan,
    nibble_bounds: nibble::NibbleBounds,
    nibble_choose: nibble::NibbleChoose,
    nibble_table: nibble::NibbleTable,
    hadamard: nibble::Hadamard,
    fast_scan: fast_scan::FastScan,
    fast_table: fast_scan::FastTable,
    level_sum: levels::LevelSum,
    sign_words: levels::SignWords,
    bound: found::Bound,
    keep_at_most: found::KeepAtMost,
    sum_rows: additive::SumRows,
    distances: distances::Distances,
}

#[allow(unsafe_code)]
impl Kernels {
    /// The best table of this processor, or the one that `VELLUM_KERNELS` names if it can run here.
    /// Chosen once.
    pub(crate) fn get() -> &'static Kernels {
        static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
        CHOSEN.get_or_init(|| Kernels::choose(std::env::var("VELLUM_KERNELS").ok().as_deref()))
    }

    /// Every table that this processor can run, the best first, `portable` last.
    pub(crate) fn all() -> Vec<&'static Kernels> {
        let mut tables: Vec<&Kernels> = Vec::with_capacity(4);
        #[cfg(target_arch = "x86_64")]
        if avx512::detected() {
            if nibble::avx512::detected() && hamming::x86::detected() {
                tables.push(&avx512::VBMI);
            }
            tables.push(&avx512::KERNELS);
        }
        #[cfg(target_arch = "x86_64")]
        if avx2::detected() {
            tables.push(&avx2::KERNELS);
        }
        #[cfg(target_arch = "aarch64")]
        tables.push(&neon::KERNELS);
        tables.push(&portable::KERNELS);
        tables
    }

    fn choose(wanted: Option<&str>) -> &'static Kernels {
        let tables = Kernels::all();
        tables.iter().find(|table| Some(table.name) == wanted).unwrap_or(&tables[0])
    }

    /// The score of every query with every code: `scores[q * n + i]`, `n` codes of the queries'
    /// dimension, row-major, at any alignment. L2 is summed as `Σ(q - x)²`, not expanded.
    pub(crate) fn scan(
        &self,
        similarity: Similarity,
        element: Element,
        queries: &[&[f32]],
        codes: &[u8],
        scores: &mut [f32],
    ) {
        if scores.is_empty() {
            return assert!(queries.is_empty() || codes.is_empty());
        }
        let dim = queries[0].len();
        assert!(dim > 0 && queries.iter().all(|query| query.len() == dim));
        assert!(scores.len().is_multiple_of(queries.len()));
        assert_eq!(codes.len(), scores.len() / queries.len() * dim * element.size());
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { self.scan[similarity as usize][element as usize](queries, codes, scores) }
    }

    /// [`Kernels::scan`] of one query over rows that lie apart: the same bits.
    pub(crate) fn scan_apart(
        &self,
        similarity: Similarity,
        element: Element,
        query: &[f32],
        rows: &[&[u8]],
        scores: &mut [f32],
    ) {
        assert!(!query.is_empty() && rows.len() == scores.len());
        assert!(rows.iter().all(|row| row.len() == query.len() * element.size()));
        // SAFETY: as for `scan`.
        unsafe { self.scan_apart[similarity as usize][element as usize](query, rows, scores) }
    }

    /// [`Kernels::scan`] of one query over rows in memory.
    pub(crate) fn scan_rows(&self, similarity: Similarity, query: &[f32], rows: &[f32], scores: &mut [f32]) {
        if cfg!(target_endian = "little") {
            return self.scan(similarity, Element::F32, &[query], rows.as_bytes(), scores);
        }
        let mut codes = vec![0; size_of_val(rows)];
        self.encode(Element::F32, rows, &mut codes);
        self.scan(similarity, Element::F32, &[query], &codes, scores);
    }

    /// The scores of `product`, `out[r * stride + c]`; `stride` columns, fewer than a panel less than
    /// the panels hold.
    pub(crate) fn scores(&self, product: &Product<'_>, out: &mut [f32], stride: usize) {
        product.check();
        assert!(stride <= product.bias.len() && product.bias.len() - stride < PANEL);
        assert_eq!(out.len(), product.norms.len() * stride);
        // SAFETY: as for `scan`.
        unsafe { (self.scores)(product, out, stride) }
    }

    /// The nearest column of at most [`ROWS_MAX`] rows and its score; ties go to the lowest column. The
    /// scores have the bits that [`Kernels::scores`] gives. Where no score is below infinity (a row with
    /// NaN), column 0 at infinity.
    pub(crate) fn nearest(&self, product: &Product<'_>, columns: &mut [u32], scores: &mut [f32]) {
        let m = product.norms.len();
        product.check();
        assert!(m <= ROWS_MAX && !product.bias.is_empty());
        assert!(columns.len() == m && scores.len() == m);
        let mut best = [Best::NONE; ROWS_MAX];
        // SAFETY: as for `scan`.
        unsafe { (self.nearest)(product, &mut best[..m]) }
        for ((column, score), best) in columns.iter_mut().zip(scores).zip(&best) {
            (*column, *score) = best.fold();
        }
    }

    /// The scores of `product`, `out[q * bias.len() + c]`: the same bits in every table.
    pub(crate) fn byte_scores(&self, product: &ByteProduct<'_>, out: &mut [f32]) {
        product.check();
        assert_eq!(out.len(), product.factors.len() * product.bias.len());
        // SAFETY: as for `scan`.
        unsafe { (self.byte_scores)(product, out) }
    }

    /// True where [`Kernels::byte_scores`] are faster than [`Kernels::scores`]: where an instruction
    /// multiplies bytes. The portable loops take half as long again.
    pub(crate) fn bytes_pay(&self) -> bool {
        self.name != portable::KERNELS.name
    }

    /// True if [`Kernels::scores`] are sums of fused multiply-adds, component after component.
    pub(crate) fn fuses(&self) -> bool {
        self.name != portable::KERNELS.name
    }

    /// The scores of the picked columns, with the bits that [`Kernels::scores`] gives.
    pub(crate) fn picked_scores(&self, picked: &Picked<'_>, picks: &[u32], out: &mut [f32]) {
        picked.check();
        assert_eq!(picks.len(), out.len());
        // They lie anywhere among many: on their way together they do not wait for each other.
        picks.iter().for_each(|pick| self.prefetch(picked.column(*pick).as_bytes()));
        // SAFETY: as for `scan`; a pick beyond the columns panics there.
        unsafe { (self.picked_scores)(picked, picks, out) }
    }

    /// The squared norm of each row, summed in the order in which `scores` and `nearest` sum products,
    /// so that a row is at distance exactly 0 from itself.
    pub(crate) fn squared_norms(&self, rows: &[f32], dim: usize, out: &mut [f32]) {
        assert!(dim > 0 && rows.len() == out.len() * dim);
        // SAFETY: as for `scan`.
        unsafe { (self.norms)(rows, dim, out) }
    }

    /// Replaces `out` by the indices whose score is at most `threshold`, ascending; NaN never is.
    pub(crate) fn select_at_most(&self, scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
        assert!(u32::try_from(scores.len()).is_ok());
        out.clear();
        // SAFETY: as for `scan`.
        unsafe { (self.select)(scores, threshold, out) }
    }

    /// Components as stored bytes, rounded to nearest, ties to even; as bytes what is below 0 or NaN becomes 0, and
    /// what is above 255 becomes that.
    pub(crate) fn encode(&self, element: Element, rows: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), rows.len() * element.size());
        // SAFETY: as for `scan`.
        unsafe { self.encode[element as usize](rows, out) }
    }

    /// Stored bytes as components.
    pub(crate) fn decode(&self, element: Element, codes: &[u8], out: &mut [f32]) {
        assert_eq!(codes.len(), out.len() * element.size());
        // SAFETY: as for `scan`.
        unsafe { self.decode[element as usize](codes, out) }
    }

    /// [`Kernels::prefetch`] for signed bytes.
    pub(crate) fn prefetch_signed(&self, bytes: &[i8]) {
        self.prefetch(bytes.as_bytes());
    }

    /// Asks for `bytes` to be brought into the first-level cache.
    pub(crate) fn prefetch(&self, bytes: &[u8]) {
        // SAFETY: as for `scan`; a prefetch has no effect that a program can see.
        unsafe { self.prefetch[0](bytes) }
    }

    /// The same into the second level: for a stream of more than the first one holds.
    pub(crate) fn prefetch_stream(&self, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { self.prefetch[1](bytes) }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
