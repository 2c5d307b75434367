//! NEON: 16 look-ups an instruction.

#![allow(unsafe_code)]

use super::{FastGroups, FastQuery, Found, GROUP, SHORT_SUBSPACES, portable};
use crate::kernel::neon::prefetch;
use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
pub(in crate::kernel) fn scan(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
    for (g, (nibbles, biases, ahead)) in groups.each().enumerate() {
        prefetch::<1>(ahead);
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut totals = [0i32; GROUP];
            let tables = query.table.chunks(16 * SHORT_SUBSPACES);
            for (codes, table) in nibbles.chunks(16 * SHORT_SUBSPACES).zip(tables) {
                add_sums(codes, table, &mut totals);
            }
            portable::report(g, biases, query, &totals, found);
        }
    }
}

/// Adds the sums of up to [`SHORT_SUBSPACES`] sub-spaces, which 16 bits hold.
#[inline]
#[target_feature(enable = "neon")]
fn add_sums(codes: &[u8], table: &[u8], totals: &mut [i32; GROUP]) {
    let mut sums = [vdupq_n_u16(0); 4];
    for (codes, table) in codes.as_chunks::<16>().0.iter().zip(table.as_chunks::<16>().0) {
        // SAFETY: 16 bytes are read from arrays of 16.
        let (codes, table) = unsafe { (vld1q_u8(codes.as_ptr()), vld1q_u8(table.as_ptr())) };
        let low = vqtbl1q_u8(table, vandq_u8(codes, vdupq_n_u8(0x0f)));
        let high = vqtbl1q_u8(table, vshrq_n_u8::<4>(codes));
        sums[0] = vaddw_u8(sums[0], vget_low_u8(low));
        sums[1] = vaddw_high_u8(sums[1], low);
        sums[2] = vaddw_u8(sums[2], vget_low_u8(high));
        sums[3] = vaddw_high_u8(sums[3], high);
    }
    for (sums, totals) in sums.into_iter().zip(totals.as_chunks_mut::<8>().0) {
        let mut eight = [0u16; 8];
        // SAFETY: 16 bytes are written to an array of 16.
        unsafe { vst1q_u16(eight.as_mut_ptr(), sums) };
        for (total, sum) in totals.iter_mut().zip(eight) {
            *total += i32::from(sum);
        }
    }
}
