//! NEON: 16 look-ups an instruction.

#![allow(unsafe_code)]

use super::{BoundQuery, Found, GROUP, Groups, Look, NibbleQuery, portable};
use std::arch::aarch64::*;

/// Sub-spaces that a 16-bit sum holds: each adds at most 128 in magnitude.
const SUBSPACES_MAX: usize = 240;

#[target_feature(enable = "neon")]
pub(in crate::kernel) fn scan(groups: &Groups<'_>, queries: &[NibbleQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[target_feature(enable = "neon")]
pub(in crate::kernel) fn bounds(groups: &Groups<'_>, queries: &[BoundQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

#[inline]
#[target_feature(enable = "neon")]
fn scan_any<L: Look>(groups: &Groups<'_>, queries: &[L], found: &mut [Found]) {
    for (g, group) in groups.iter().enumerate() {
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut totals = [0i32; GROUP];
            let tables = query.nibble().table.chunks(16 * SUBSPACES_MAX);
            for (codes, table) in group.codes.chunks(16 * SUBSPACES_MAX).zip(tables) {
                add_sums(codes, table, &mut totals);
            }
            portable::report(&group, g, query, &totals, found);
        }
    }
}

/// Adds the sums of up to [`SUBSPACES_MAX`] sub-spaces.
#[inline]
#[target_feature(enable = "neon")]
fn add_sums(codes: &[u8], table: &[i8], totals: &mut [i32; GROUP]) {
    let mut sums = [vdupq_n_s16(0); 4];
    for (codes, table) in codes.as_chunks::<16>().0.iter().zip(table.as_chunks::<16>().0) {
        // SAFETY: 16 bytes are read from arrays of 16.
        let (codes, table) = unsafe { (vld1q_u8(codes.as_ptr()), vld1q_s8(table.as_ptr())) };
        let low = vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(0x0f)));
        let high = vqtbl1q_s8(table, vshrq_n_u8::<4>(codes));
        sums[0] = vaddw_s8(sums[0], vget_low_s8(low));
        sums[1] = vaddw_high_s8(sums[1], low);
        sums[2] = vaddw_s8(sums[2], vget_low_s8(high));
        sums[3] = vaddw_high_s8(sums[3], high);
    }
    for (sums, totals) in sums.into_iter().zip(totals.as_chunks_mut::<8>().0) {
        let mut eight = [0i16; 8];
        // SAFETY: 16 bytes are written to an array of 16.
        unsafe { vst1q_s16(eight.as_mut_ptr(), sums) };
        for (total, sum) in totals.iter_mut().zip(eight) {
            *total += i32::from(sum);
        }
    }
}
