//! k-means of residuals that does not lose words.
//!
//! What a book leaves over has no clusters any more, and k-means from random rows in many dimensions stays where it
//! began. So it is run in few dimensions first, those of the largest variance, and its centroids start the next run in
//! more of them, as FAISS does (d^(i/10) dimensions, 10 iterations each):
//!
//! ```text
//! the first 1, 2, 4, … principal components, ≤ 64      the subspace only decides where to start
//! all components
//! ```
//! The subspace is found by orthogonal iteration. It need not be exact, as the last run sees the rows themselves.

use super::Progress;
use crate::kernel::Similarity;
use crate::math::kmeans::{ClusteringParams, cluster};
use crate::math::linalg::dot;
use crate::math::random::Random;
use crate::{Result, Rows};

/// The most components of the subspace.
const LEADING_MAX: usize = 64;
/// Runs of k-means if dimensions were never the same twice.
const STEPS: usize = 10;
/// Iterations of one.
const ITERATIONS: usize = 10;
/// Rows that the variance is estimated from, at most.
const VARIANCE_ROWS: usize = 16_384;
/// Rounds of orthogonal iteration.
const ROUNDS: usize = 8;

/// `k` centroids of `rows`; with fewer rows than that, the rows themselves, again and again.
pub(super) fn words(
    rows: Rows<'_>,
    k: usize,
    seed: u64,
    progress: &mut Progress<'_, '_>,
) -> Result<Vec<f32>> {
    if rows.len() <= k {
        return Ok(rows.as_slice().iter().copied().cycle().take(k * rows.dim()).collect());
    }
    let params =
        ClusteringParams { niter: ITERATIONS, seed, check_finite: false, ..ClusteringParams::default() };
    let mut run = |rows: Rows<'_>, from: Option<&[f32]>| {
        let from = from.map(|from| Rows::of(from, rows.dim()));
        progress
            .watch(|observer| cluster(rows, k, Similarity::L2, &params, from, observer))
            .map(|c| c.centroids)
    };
    let steps = dimensions(rows.dim());
    let Some(&most) = steps.last() else { return run(rows, None) };
    let space = Subspace::of(rows, most, seed);
    let projected = space.project(rows);
    let mut centroids: Option<(usize, Vec<f32>)> = None;
    for dims in steps {
        let part = widen(&projected, most, dims);
        let from = centroids.map(|(before, centroids)| widen(&centroids, before, dims));
        centroids = Some((dims, run(Rows::of(&part, dims), from.as_deref())?));
    }
    let from = centroids.map(|(dims, centroids)| space.back(&centroids, dims));
    run(rows, from.as_deref())
}

/// The dimensions of the runs before the last.
fn dimensions(dim: usize) -> Vec<usize> {
    let steps = (1..STEPS).map(|i| (dim as f64).powf(i as f64 / STEPS as f64) as usize);
    let mut steps: Vec<usize> = steps.filter(|&dims| dims < dim && dims <= LEADING_MAX).collect();
    steps.dedup();
    steps
}

/// Rows of `from` components with `to` of them: the first ones, or zeros behind them.
fn widen(rows: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() / from * to);
    for row in rows.chunks_exact(from) {
        out.extend(row.iter().copied().chain(std::iter::repeat(0.0)).take(to));
    }
    out
}

/// The directions of the largest variance, roughly, in falling order, and the mean.
struct Subspace {
    dim: usize,
    mean: Vec<f32>,
    /// Orthonormal.
    axes: Vec<f32>,
}

impl Subspace {
    fn of(rows: Rows<'_>, count: usize, seed: u64) -> Self {
        let dim = rows.dim();
        let step = rows.len().div_ceil(VARIANCE_ROWS);
        let sample: Vec<&[f32]> = rows.iter().step_by(step).collect();
        let mut mean = vec![0.0f64; dim];
        for row in &sample {
            mean.iter_mut().zip(*row).for_each(|(mean, x)| *mean += f64::from(*x) / sample.len() as f64);
        }
        let mean: Vec<f32> = mean.into_iter().map(|mean| mean as f32).collect();
        let mut random = Random::new(seed);
        let axes: Vec<f32> = (0..count * dim).map(|_| random.unit() as f32 - 0.5).collect();
        let mut space = Subspace { dim, mean, axes };
        let covariance = covariance(&sample, &space.mean);
        for _ in 0..ROUNDS {
            space.round(&covariance);
        }
        space
    }

    /// Multiplies the axes with the covariance and makes them orthonormal again, first to last.
    fn round(&mut self, covariance: &[f32]) {
        let dim = self.dim;
        let mut next = Vec::with_capacity(self.axes.len());
        for axis in self.axes.chunks_exact(dim) {
            next.extend(covariance.chunks_exact(dim).map(|row| dot::<8>(row, axis)));
        }
        for at in 0..next.len() / dim {
            let (before, rest) = next.split_at_mut(at * dim);
            let axis = &mut rest[..dim];
            // Twice, as once leaves rounding behind.
            for other in before.chunks_exact(dim).chain(before.chunks_exact(dim)) {
                let along = dot::<8>(axis, other);
                axis.iter_mut().zip(other).for_each(|(a, o)| *a -= along * o);
            }
            let norm = dot::<8>(axis, axis).sqrt();
            // No variance is left: any direction will do, and none does too.
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            axis.iter_mut().for_each(|a| *a *= scale);
        }
        self.axes = next;
    }

    fn project(&self, rows: Rows<'_>) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.axes.len() / self.dim);
        let mut centred = vec![0.0; self.dim];
        for row in rows.iter() {
            centred.iter_mut().zip(row.iter().zip(&self.mean)).for_each(|(c, (x, mean))| *c = x - mean);
            out.extend(self.axes.chunks_exact(self.dim).map(|axis| dot::<8>(axis, &centred)));
        }
        out
    }

    /// Points of the first `dims` axes as vectors.
    fn back(&self, points: &[f32], dims: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(points.len() / dims * self.dim);
        for point in points.chunks_exact(dims) {
            let start = out.len();
            out.extend_from_slice(&self.mean);
            for (value, axis) in point.iter().zip(self.axes.chunks_exact(self.dim)) {
                out[start..].iter_mut().zip(axis).for_each(|(x, a)| *x += value * a);
            }
        }
        out
    }
}

fn covariance(rows: &[&[f32]], mean: &[f32]) -> Vec<f32> {
    let dim = mean.len();
    let mut covariance = vec![0.0; dim * dim];
    let mut centred = vec![0.0; dim];
    for row in rows {
        centred.iter_mut().zip(row.iter().zip(mean)).for_each(|(c, (x, mean))| *c = x - mean);
        for (out, &value) in covariance.chunks_exact_mut(dim).zip(&centred) {
            out.iter_mut().zip(&centred).for_each(|(sum, other)| *sum += value * other);
        }
    }
    let scale = 1.0 / rows.len() as f32;
    covariance.iter_mut().for_each(|sum| *sum *= scale);
    covariance
}
