//! Scalar codes: scores computed on the steps as they lie in memory, several queries a pass.
//!
//! ```text
//! component       x̂ⱼ = midⱼ + stepⱼ · codeⱼ
//! L2 score        Σⱼ (termsⱼ − stepⱼ · codeⱼ)²           termsⱼ = qⱼ − midⱼ
//! product score   bias − Σⱼ termsⱼ · codeⱼ              termsⱼ = qⱼ · stepⱼ
//! ```
//! (All relative to the list's centroid where codes are of residuals: that is in `terms` and `bias`.) A register holds 16
//! numbers of 32 bits and each of them one or more codes, its *planes*. So `terms` and `steps` lie in the order in which planes
//! come up, chunk after chunk, filled up with zeros:
//!
//! ```text
//! chunk       16·P components, P planes; number i has components P·i … P·i + P − 1, plane k is P·i + k for all i
//! 8 bits      P = 1     16 bytes, a byte each
//! 4 bits      P = 2     16 bytes, the low nibble first
//! 6 bits      P = 4     48 bytes, 24 bits each, the lowest six first
//! ```
//! No decoded row is ever in memory. A pair's sum takes the same additions in the same order whatever other rows and queries
//! are scored with it.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
#[cfg(test)]
mod tests;

use super::{Kernels, Similarity};

/// How a component's code is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepBits {
    /// A byte.
    Eight,
    /// Four in three bytes.
    Six,
    /// Two in a byte.
    Four,
    /// A byte that holds the code plus 128.
    Signed,
}

impl StepBits {
    /// Bytes of a code of `dim` components.
    pub(crate) fn code_bytes(self, dim: usize) -> usize {
        match self {
            StepBits::Eight | StepBits::Signed => dim,
            StepBits::Six => (6 * dim).div_ceil(8),
            StepBits::Four => dim.div_ceil(2),
        }
    }

    /// Codes that one number of a chunk holds.
    pub(crate) fn planes(self) -> usize {
        match self {
            StepBits::Eight | StepBits::Signed => 1,
            StepBits::Four => 2,
            StepBits::Six => 4,
        }
    }

    /// Components filled up to whole chunks.
    pub(crate) fn padded(self, dim: usize) -> usize {
        dim.next_multiple_of(LANES * self.planes())
    }

    /// `values`, one for each component, in the order of the planes, filled up with zeros.
    pub(crate) fn arrange(self, values: &[f32], out: &mut [f32]) {
        match self {
            StepBits::Eight | StepBits::Signed => arrange::<1>(values, out),
            StepBits::Four => arrange::<2>(values, out),
            StepBits::Six => arrange::<4>(values, out),
        }
    }
}

fn arrange<const P: usize>(values: &[f32], out: &mut [f32]) {
    let chunks = values.chunks(LANES * P).zip(out.chunks_exact_mut(LANES * P));
    for (values, out) in chunks {
        out.fill(0.0);
        for (i, planes) in values.chunks(P).enumerate() {
            for (k, value) in planes.iter().enumerate() {
                out[k * LANES + i] = *value;
            }
        }
    }
}

/// Numbers of a chunk.
const LANES: usize = 16;

/// [`StepBits`] as const generic arguments, and what follows from them.
mod tag {
    use super::StepBits;

    pub(super) const EIGHT: u8 = StepBits::Eight as u8;
    pub(super) const SIX: u8 = StepBits::Six as u8;
    pub(super) const FOUR: u8 = StepBits::Four as u8;
    pub(super) const SIGNED: u8 = StepBits::Signed as u8;

    /// Bytes of a chunk.
    pub(super) const fn chunk_bytes(bits: u8) -> usize {
        if bits == SIX { 48 } else { 16 }
    }

    pub(super) const fn planes(bits: u8) -> usize {
        match bits {
            FOUR => 2,
            SIX => 4,
            _ => 1,
        }
    }

    /// How far right plane `k` is in its number.
    pub(super) const fn shift(bits: u8, k: usize) -> u32 {
        (if bits == SIX { 6 * k } else { 4 * k }) as u32
    }

    /// What remains of the number then.
    pub(super) const fn ones(bits: u8) -> u32 {
        match bits {
            FOUR => 15,
            SIX => 63,
            _ => u32::MAX,
        }
    }
}

/// Rows of scalar codes, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRows<'a> {
    pub(crate) bits: StepBits,
    pub(crate) dim: usize,
    /// Arranged ([`StepBits::arrange`]).
    pub(crate) steps: &'a [f32],
    pub(crate) codes: &'a [u8],
    /// What will be read next: brought into the cache a piece with each tile.
    pub(crate) ahead: &'a [u8],
}

/// One query in one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepQuery<'a> {
    /// Arranged.
    pub(crate) terms: &'a [f32],
    /// For products.
    pub(crate) bias: f32,
}

/// Queries that [`Kernels::scalar_scan`] takes at most.
pub(crate) const STEP_QUERIES: usize = 8;

type Scan = unsafe fn(rows: &StepRows<'_>, queries: &[StepQuery<'_>], scores: &mut [f32]);
/// By similarity, then by bits.
pub(super) type ScalarScan = [[Scan; 4]; 2];

#[allow(unsafe_code)]
impl Kernels {
    /// The score of up to [`STEP_QUERIES`] queries with every row: `scores[q * n + i]`. Never NaN, infinite or -0.0.
    pub(crate) fn scalar_scan(
        &self,
        similarity: Similarity,
        rows: &StepRows<'_>,
        queries: &[StepQuery<'_>],
        scores: &mut [f32],
    ) {
        let (size, padded) = (rows.bits.code_bytes(rows.dim), rows.bits.padded(rows.dim));
        assert!(rows.dim > 0 && rows.steps.len() == padded && rows.codes.len().is_multiple_of(size));
        assert!(queries.len() <= STEP_QUERIES && queries.iter().all(|query| query.terms.len() == padded));
        assert_eq!(scores.len(), rows.codes.len() / size * queries.len());
        if scores.is_empty() {
            return;
        }
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { self.scalar_scan[similarity as usize][rows.bits as usize](rows, queries, scores) }
    }
}

/// Bytes of codes that stay in the first-level cache while the queries pass by.
#[cfg(target_arch = "x86_64")]
const PASS_BYTES: usize = 16 << 10;

/// Rows that are scored before the next queries come, `tile` or a multiple of it.
#[cfg(target_arch = "x86_64")]
fn pass_rows(size: usize, tile: usize) -> usize {
    (PASS_BYTES / size).max(1).next_multiple_of(tile)
}

/// Bytes of `ahead` to bring along with each of `tiles` tiles: whole lines, and all of it by the last.
fn piece(tiles: usize, ahead: &[u8]) -> usize {
    ahead.len().div_ceil(tiles.max(1)).next_multiple_of(64)
}

/// The `tile`-th piece.
fn piece_of(ahead: &[u8], piece: usize, tile: usize) -> &[u8] {
    ahead.get(tile * piece..ahead.len().min((tile + 1) * piece)).unwrap_or_default()
}
