//! Scores of one row with a few columns picked out of many, with the bits that `Kernels::scores` gives.
//!
//! A panel would be read in full for each of its columns, so the columns lie row-major here. To sum from the
//! first component to the last, as panels do, a lane holds a column: four components of 8 columns are
//! loaded and transposed in registers. Two registers of columns go together because each sum's additions
//! wait for each other. Longer registers only make the transposition longer: 64 columns of 128 dimensions
//! took 0.95 us with those of AVX-512, 0.72 us with these.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A row and the columns to pick from; what a score is, [`super::Product`] says.
#[derive(Clone, Copy)]
pub(crate) struct Picked<'a> {
    pub(crate) row: &'a [f32],
    pub(crate) norm: f32,
    /// Row-major.
    pub(crate) columns: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) factor: f32,
    pub(crate) floor: f32,
}

impl Picked<'_> {
    pub(super) fn check(&self) {
        assert!(!self.row.is_empty() && self.columns.len().is_multiple_of(self.row.len()));
        assert!(self.columns.len() / self.row.len() <= self.bias.len());
    }

    pub(super) fn column(&self, pick: u32) -> &[f32] {
        &self.columns[pick as usize * self.row.len()..][..self.row.len()]
    }

    /// As in `Product::score`.
    fn score(&self, pick: u32, dot: f32) -> f32 {
        self.at_least_floor((self.bias[pick as usize] + self.factor * dot) + self.norm)
    }

    /// The same as the tables with fused multiply-adds compute it, into which it is inlined.
    #[inline(always)]
    fn score_fused(&self, pick: u32, dot: f32) -> f32 {
        self.at_least_floor(self.factor.mul_add(dot, self.bias[pick as usize]) + self.norm)
    }

    #[inline(always)]
    fn at_least_floor(&self, score: f32) -> f32 {
        if self.floor > score { self.floor } else { score }
    }

    /// The columns of `picks`; behind the last one it is repeated.
    #[inline(always)]
    fn gather<const N: usize>(&self, picks: &[u32]) -> [&[f32]; N] {
        let mut columns = [self.row; N];
        for (i, column) in columns.iter_mut().enumerate() {
            *column = self.column(picks[i.min(picks.len() - 1)]);
        }
        columns
    }
}

pub(super) fn portable(picked: &Picked<'_>, picks: &[u32], out: &mut [f32]) {
    for (picks, out) in picks.chunks(8).zip(out.chunks_mut(8)) {
        let mut dots = [0.0; 8];
        let columns = picked.gather::<8>(picks);
        for (d, &x) in picked.row.iter().enumerate() {
            for c in 0..8 {
                dots[c] += x * columns[c][d];
            }
        }
        picks.iter().zip(dots).zip(out).for_each(|((&pick, dot), out)| *out = picked.score(pick, dot));
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
pub(super) fn neon(picked: &Picked<'_>, picks: &[u32], out: &mut [f32]) {
    for (picks, out) in picks.chunks(8).zip(out.chunks_mut(8)) {
        let mut dots = [0.0f32; 8];
        let columns = picked.gather::<8>(picks);
        for (d, &x) in picked.row.iter().enumerate() {
            for c in 0..8 {
                dots[c] = x.mul_add(columns[c][d], dots[c]);
            }
        }
        picks.iter().zip(dots).zip(out).for_each(|((&pick, dot), out)| *out = picked.score_fused(pick, dot));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2(picked: &Picked<'_>, picks: &[u32], out: &mut [f32]) {
    for (picks, out) in picks.chunks(16).zip(out.chunks_mut(16)) {
        let dots = avx2_dots(picked.row, &picked.gather(picks));
        picks.iter().zip(dots).zip(out).for_each(|((&pick, dot), out)| *out = picked.score_fused(pick, dot));
    }
}

/// The products of `row` with 16 columns, two registers of 8.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2_dots(row: &[f32], columns: &[&[f32]; 16]) -> [f32; 16] {
    let dim = row.len();
    assert!(columns.iter().all(|column| column.len() == dim));
    let mut sums = [_mm256_setzero_ps(); 2];
    let whole = dim / 4 * 4;
    for d in (0..whole).step_by(4) {
        for g in 0..2 {
            // Register i has columns i and i + 4, so that the transposition leaves order.
            let mut x = [_mm256_setzero_ps(); 4];
            for i in 0..4 {
                let c = g * 8 + i;
                // SAFETY: every column has `dim` components, of which at least four follow `d`.
                let four = |c: usize| unsafe { _mm_loadu_ps(columns[c].as_ptr().add(d)) };
                x[i] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(four(c)), four(c + 4));
            }
            let low = _mm256_castps_pd(_mm256_unpacklo_ps(x[0], x[1]));
            let low_right = _mm256_castps_pd(_mm256_unpacklo_ps(x[2], x[3]));
            let high = _mm256_castps_pd(_mm256_unpackhi_ps(x[0], x[1]));
            let high_right = _mm256_castps_pd(_mm256_unpackhi_ps(x[2], x[3]));
            let fours = [
                _mm256_unpacklo_pd(low, low_right),
                _mm256_unpackhi_pd(low, low_right),
                _mm256_unpacklo_pd(high, high_right),
                _mm256_unpackhi_pd(high, high_right),
            ];
            for j in 0..4 {
                sums[g] = _mm256_fmadd_ps(_mm256_set1_ps(row[d + j]), _mm256_castpd_ps(fours[j]), sums[g]);
            }
        }
    }
    let mut dots = [0.0; 16];
    for g in 0..2 {
        // SAFETY: `dots` has twice 8 elements.
        unsafe { _mm256_storeu_ps(dots.as_mut_ptr().add(g * 8), sums[g]) }
    }
    for d in whole..dim {
        for c in 0..16 {
            dots[c] = row[d].mul_add(columns[c][d], dots[c]);
        }
    }
    dots
}
