//! NEON: the portable loops, fused. A chunk is four registers, and two queries share what they load.

use super::super::neon::prefetch;
use super::super::tag::{DOT, L2};
use super::portable::scan_rows;
use super::tag::{EIGHT, FOUR, SIGNED, SIX};
use super::{ScalarScan, StepQuery, StepRows, piece, piece_of};

pub(in crate::kernel) const SCAN: ScalarScan = [
    [scan::<L2, EIGHT>, scan::<L2, SIX>, scan::<L2, FOUR>, scan::<L2, SIGNED>],
    [scan::<DOT, EIGHT>, scan::<DOT, SIX>, scan::<DOT, FOUR>, scan::<DOT, SIGNED>],
];

/// Rows between two pieces of what comes next.
const TILE: usize = 8;

fn scan<const S: u8, const B: u8>(rows: &StepRows<'_>, queries: &[StepQuery<'_>], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let piece = piece(n.div_ceil(TILE), rows.ahead);
    for first in (0..n).step_by(TILE) {
        prefetch::<2>(piece_of(rows.ahead, piece, first / TILE));
        scan_rows::<S, B, true>(rows, first..n.min(first + TILE), queries, scores);
    }
}
