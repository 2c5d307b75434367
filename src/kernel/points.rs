//! A few components against the points of a sub-space: the nearest point, and the scores of all of them.
//!
//! ```text
//! panel p:  component 0: points 16p … 16p + 15 | component 1: … | …      the last panel repeats the last point
//! ```
//! Product quantizers have hundreds of points of a handful of components, too short for the products of `linalg`:
//! here a lane is a point, four panels go together, and each sum runs over the components from the first to the last. Distances
//! are Σ(x − p)², not expanded, and nothing is fused. So all tables give the same bits, and a vector gets the same code
//! on every machine. The bodies are plain loops, which the compiler turns into the instructions of the table that
//! they are inlined into.

#![allow(unsafe_code)]

use super::Kernels;
use super::portable::term;
use super::{Similarity, tag};

/// Points of one panel: an AVX-512 register.
pub(crate) const POINT_PANEL: usize = 16;

/// Panels that go together, so that their sums need not wait for each other.
const TOGETHER: usize = 4;

/// The points of a sub-space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points<'a> {
    /// Components of a point.
    pub(crate) dim: usize,
    /// Points without the padding.
    pub(crate) len: usize,
    /// As drawn above.
    pub(crate) panels: &'a [f32],
}

impl Points<'_> {
    fn check(&self) {
        assert!(self.dim > 0 && self.len > 0 && u32::try_from(self.len).is_ok());
        assert_eq!(self.panels.len(), self.len.next_multiple_of(POINT_PANEL) * self.dim);
    }
}

pub(super) type Nearest = unsafe fn(points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]);
pub(super) type Scores = unsafe fn(points: &Points<'_>, row: &[f32], factor: f32, out: &mut [f32]);

impl Kernels {
    /// The point nearest to the first components of each row; rows are `step` components apart, and what follows those of
    /// the last need not be there. Ties go to the lowest point.
    pub(crate) fn points_nearest(&self, points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]) {
        points.check();
        assert!(points.dim <= step && out.len() == rows.len().div_ceil(step));
        assert!(rows.is_empty() || rows.len() - (out.len() - 1) * step >= points.dim);
        // SAFETY: the table exists only where its instructions do.
        unsafe { (self.points_nearest)(points, rows, step, out) }
    }

    /// `factor` times the squared distance (or product) of `row` and each point.
    pub(crate) fn points_scores(
        &self,
        similarity: Similarity,
        points: &Points<'_>,
        row: &[f32],
        factor: f32,
        out: &mut [f32],
    ) {
        points.check();
        assert!(row.len() == points.dim && out.len() == points.len);
        // SAFETY: as above.
        unsafe { self.points_scores[similarity as usize](points, row, factor, out) }
    }
}

/// The sums of `P` panels.
#[inline(always)]
fn sums<const S: u8, const P: usize>(dim: usize, panels: &[f32], row: &[f32]) -> [[f32; POINT_PANEL]; P] {
    let mut sums = [[0.0; POINT_PANEL]; P];
    let mut lines = [&[][..]; P];
    for (lines, panel) in lines.iter_mut().zip(panels.chunks_exact(dim * POINT_PANEL)) {
        *lines = panel.as_chunks::<POINT_PANEL>().0;
    }
    for (d, &x) in row.iter().enumerate() {
        for p in 0..P {
            let line = &lines[p][d];
            for lane in 0..POINT_PANEL {
                sums[p][lane] += term::<S>(x, line[lane]);
            }
        }
    }
    sums
}

/// The least sum of each lane, and the panel that had it first.
struct Least {
    sums: [f32; POINT_PANEL],
    panels: [u32; POINT_PANEL],
}

impl Least {
    #[inline(always)]
    fn take<const P: usize>(&mut self, first: usize, sums: [[f32; POINT_PANEL]; P]) {
        for p in 0..P {
            for lane in 0..POINT_PANEL {
                let less = sums[p][lane] < self.sums[lane];
                self.sums[lane] = if less { sums[p][lane] } else { self.sums[lane] };
                self.panels[lane] = if less { (first + p) as u32 } else { self.panels[lane] };
            }
        }
    }

    /// The lowest point of the least sum; the padding repeats a lower point, so it is none of them.
    #[inline(always)]
    fn point(&self) -> u32 {
        let mut least = self.sums;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                least[lane] = if least[lane + half] < least[lane] { least[lane + half] } else { least[lane] };
            }
        }
        let mut points = [u32::MAX; POINT_PANEL];
        for lane in 0..POINT_PANEL {
            let point = self.panels[lane] * POINT_PANEL as u32 + lane as u32;
            points[lane] = if self.sums[lane] == least[0] { point } else { u32::MAX };
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                points[lane] = points[lane].min(points[lane + half]);
            }
        }
        points[0]
    }
}

#[inline(always)]
fn nearest_body(points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]) {
    let (dim, size) = (points.dim, points.dim * POINT_PANEL);
    let count = points.panels.len() / size;
    let whole = count / TOGETHER * TOGETHER;
    for (row, out) in rows.chunks(step).zip(out) {
        let row = &row[..dim];
        let mut least = Least { sums: [f32::INFINITY; POINT_PANEL], panels: [0; POINT_PANEL] };
        let (fours, rest) = points.panels.split_at(whole * size);
        for (p, panels) in fours.chunks_exact(TOGETHER * size).enumerate() {
            least.take(p * TOGETHER, sums::<{ tag::L2 }, TOGETHER>(dim, panels, row));
        }
        for (p, panel) in rest.chunks_exact(size).enumerate() {
            least.take(whole + p, sums::<{ tag::L2 }, 1>(dim, panel, row));
        }
        // Where every distance is infinite or NaN it is the first lane of a panel of fewer points.
        *out = least.point().min(points.len as u32 - 1);
    }
}

#[inline(always)]
fn scores_body<const S: u8>(points: &Points<'_>, row: &[f32], factor: f32, out: &mut [f32]) {
    let size = points.dim * POINT_PANEL;
    let fours = points.panels.chunks(TOGETHER * size);
    for (panels, out) in fours.zip(out.chunks_mut(TOGETHER * POINT_PANEL)) {
        if panels.len() == TOGETHER * size {
            let sums = sums::<S, TOGETHER>(points.dim, panels, row);
            out.iter_mut().zip(sums.as_flattened()).for_each(|(out, sum)| *out = factor * sum);
        } else {
            for (panel, out) in panels.chunks_exact(size).zip(out.chunks_mut(POINT_PANEL)) {
                let [sums] = sums::<S, 1>(points.dim, panel, row);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = factor * sum);
            }
        }
    }
}

pub(super) fn nearest(points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]) {
    nearest_body(points, rows, step, out);
}

pub(super) fn scores<const S: u8>(points: &Points<'_>, row: &[f32], factor: f32, out: &mut [f32]) {
    scores_body::<S>(points, row, factor, out);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{Points, nearest_body, scores_body};

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn nearest(points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]) {
        nearest_body(points, rows, step, out);
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn scores<const S: u8>(
        points: &Points<'_>,
        row: &[f32],
        factor: f32,
        out: &mut [f32],
    ) {
        scores_body::<S>(points, row, factor, out);
    }
}

/// By hand: of the plain loops the compiler makes something slower than of those for AVX2 (240,000 rows a second of 16
/// sub-spaces of 256 points of 8 components instead of 430,000, on a busy machine).
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{POINT_PANEL, Points, TOGETHER, tag::L2};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn nearest(points: &Points<'_>, rows: &[f32], step: usize, out: &mut [u32]) {
        let size = points.dim * POINT_PANEL;
        let (fours, rest) =
            points.panels.split_at(points.panels.len() / (TOGETHER * size) * (TOGETHER * size));
        for (row, out) in rows.chunks(step).zip(out) {
            let row = &row[..points.dim];
            let mut least = (_mm512_set1_ps(f32::INFINITY), _mm512_setzero_si512());
            let mut first = 0;
            for panels in fours.chunks_exact(TOGETHER * size) {
                take(&mut least, first, sums::<L2, TOGETHER>(panels, row));
                first += TOGETHER;
            }
            for panel in rest.chunks_exact(size) {
                take(&mut least, first, sums::<L2, 1>(panel, row));
                first += 1;
            }
            *out = point(least).min(points.len as u32 - 1);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn scores<const S: u8>(
        points: &Points<'_>,
        row: &[f32],
        factor: f32,
        out: &mut [f32],
    ) {
        let size = points.dim * POINT_PANEL;
        let fours = points.panels.chunks(TOGETHER * size);
        for (panels, out) in fours.zip(out.chunks_mut(TOGETHER * POINT_PANEL)) {
            if panels.len() == TOGETHER * size {
                store(factor, sums::<S, TOGETHER>(panels, row), out);
            } else {
                for (panel, out) in panels.chunks_exact(size).zip(out.chunks_mut(POINT_PANEL)) {
                    store(factor, sums::<S, 1>(panel, row), out);
                }
            }
        }
    }

    /// The sums of `P` panels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn sums<const S: u8, const P: usize>(panels: &[f32], row: &[f32]) -> [__m512; P] {
        let size = row.len() * POINT_PANEL;
        assert_eq!(panels.len(), P * size);
        let mut sums = [_mm512_setzero_ps(); P];
        for (d, &x) in row.iter().enumerate() {
            let x = _mm512_set1_ps(x);
            for p in 0..P {
                // SAFETY: `P` panels of a line for each component were asserted.
                let line = unsafe { _mm512_loadu_ps(panels.as_ptr().add(p * size + d * POINT_PANEL)) };
                let term = if S == L2 {
                    let apart = _mm512_sub_ps(x, line);
                    _mm512_mul_ps(apart, apart)
                } else {
                    _mm512_mul_ps(x, line)
                };
                sums[p] = _mm512_add_ps(sums[p], term);
            }
        }
        sums
    }

    /// Keeps the least sum of each lane, and the panel that had it first.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn take<const P: usize>(least: &mut (__m512, __m512i), first: usize, sums: [__m512; P]) {
        for p in 0..P {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(sums[p], least.0);
            least.0 = _mm512_mask_blend_ps(less, least.0, sums[p]);
            least.1 = _mm512_mask_blend_epi32(less, least.1, _mm512_set1_epi32((first + p) as i32));
        }
    }

    /// The lowest point of the least sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn point((sums, panels): (__m512, __m512i)) -> u32 {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let points = _mm512_or_si512(_mm512_slli_epi32::<4>(panels), lanes);
        let least = _mm512_set1_ps(_mm512_reduce_min_ps(sums));
        _mm512_mask_reduce_min_epu32(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(sums, least), points)
    }

    /// The sums times `factor`; what `out` has no room for is of the padding.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn store<const P: usize>(factor: f32, sums: [__m512; P], out: &mut [f32]) {
        let factor = _mm512_set1_ps(factor);
        for (out, sum) in out.chunks_mut(POINT_PANEL).zip(sums) {
            let room = ((1u32 << out.len()) - 1) as __mmask16;
            // SAFETY: the mask has a bit only for the elements of `out`.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), room, _mm512_mul_ps(factor, sum)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::portable;
    use crate::math::random::Random;

    fn floats(random: &mut Random, count: usize) -> Vec<f32> {
        (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
    }

    /// Row-major points as panels.
    fn panels(points: &[f32], dim: usize) -> Vec<f32> {
        let len = points.len() / dim;
        let mut panels = vec![0.0; len.next_multiple_of(POINT_PANEL) * dim];
        for k in 0..len.next_multiple_of(POINT_PANEL) {
            for d in 0..dim {
                panels[(k / POINT_PANEL * dim + d) * POINT_PANEL + k % POINT_PANEL] =
                    points[k.min(len - 1) * dim + d];
            }
        }
        panels
    }

    /// Breaks if a remainder of panels is skipped, padding wins, or a table rounds otherwise than the formula.
    #[test]
    fn every_table_gives_the_bits_of_the_formula() {
        let mut random = Random::new(1);
        for (dim, len) in [
            (1, 1),
            (1, 2),
            (3, 15),
            (8, 16),
            (2, 17),
            (5, 64),
            (7, 65),
            (4, 100),
            (8, 256),
            (16, 300),
            (50, 33),
        ] {
            let points = floats(&mut random, len * dim);
            let panels = panels(&points, dim);
            let view = Points { dim, len, panels: &panels };
            let (step, n) = (dim + 3, 9);
            let rows = floats(&mut random, (n - 1) * step + dim);
            let row = |i: usize| &rows[i * step..][..dim];
            let sum = |similarity, i: usize, k: usize| {
                row(i).iter().zip(&points[k * dim..][..dim]).fold(0.0f32, |sum, (x, p)| match similarity {
                    Similarity::L2 => sum + (x - p) * (x - p),
                    Similarity::Dot => sum + x * p,
                })
            };
            for kernels in Kernels::all() {
                let mut nearest = vec![0; n];
                kernels.points_nearest(&view, &rows, step, &mut nearest);
                for i in 0..n {
                    let of = |k: &usize| sum(Similarity::L2, i, *k);
                    let wanted = (0..len).min_by(|a, b| of(a).total_cmp(&of(b)));
                    assert_eq!(Some(nearest[i] as usize), wanted, "{} {dim} {len}", kernels.name);
                    for (similarity, factor) in [(Similarity::L2, 1.0), (Similarity::Dot, -2.0)] {
                        let mut scores = vec![0.0; len];
                        kernels.points_scores(similarity, &view, row(i), factor, &mut scores);
                        for k in 0..len {
                            let wanted = factor * sum(similarity, i, k);
                            assert_eq!(scores[k].to_bits(), wanted.to_bits(), "{} {dim} {k}", kernels.name);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lowest_point_and_overflow_to_some_point() {
        for len in [1, 5, 16, 70, 256] {
            let points = panels(&vec![0.5; 2 * len], 2);
            let view = Points { dim: 2, len, panels: &points };
            for kernels in Kernels::all() {
                let mut out = [9; 3];
                kernels.points_nearest(&view, &[1.0, 2.0, f32::MAX, 0.0, -f32::MAX, 0.0], 2, &mut out);
                assert_eq!(out, [0; 3]);
                kernels.points_nearest(&view, &[], 2, &mut []);
            }
        }
        assert!(Kernels::all().iter().any(|kernels| kernels.name == portable::KERNELS.name));
    }
}
