//! What transforms learn from rows: main directions, and the rotations of OPQ and ITQ.
//!
//! ```text
//! PCA   covariance of the rows = Zᵀ diag(λ) Z, λ descending;   A = [random rotation] diag(λᵖ) Z     of the first rows of Z
//! OPQ   A = a random rotation, and 50 times:
//!           k-means in each sub-space of the rows A x, going on from where it was: 40 iterations first, then 4
//!           y = each row A x rounded to the nearest centroids
//!           A = the rotation that takes x nearest to y in the mean: procrustes(Σ y xᵀ)
//! ITQ   the same with y = sign(A x), for rows relative to the mean, of length 1, in their main directions
//! ```
//! The parameters are FAISS's. A covariance is divided by the rows, though, so that whitened components vary by 1 however many
//! rows there were. Rows are scaled by a power of two first, which rotations do not see and which keeps products in range.
//! Fewer rows than a product quantiser has points are points themselves.

use super::dense::{Dense, Eigen, eigen, orthonormal, power_below, procrustes};
use super::gaussian::Gaussian;
use super::matrix::{Matrix, outer};
use super::normalise;
use crate::kernel::{ROWS_MAX, Similarity};
use crate::math::kmeans::{ClusteringParams, cluster};
use crate::math::linalg::{Panels, mean};
use crate::transform::EigenPower;
use crate::{Observer, Result, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Tells of progress in hundredths of a part.
pub(super) struct Progress<'a, 'o> {
    pub(super) observer: &'a mut Observer<'o>,
    /// Parts before this one, and in all.
    pub(super) part: usize,
    pub(super) parts: usize,
}

impl Progress<'_, '_> {
    pub(super) fn tick(&mut self, done: usize, of: usize) -> Result<()> {
        let done = self.part * 100 + 100 * done / of.max(1);
        self.observer.tick("transform", done as u64, 100 * self.parts as u64)
    }
}

/// Rows minus `mean`, and a scale that brings the largest component near 1.
struct Centred<'a> {
    rows: Rows<'a>,
    mean: &'a [f64],
    unit: f64,
}

impl<'a> Centred<'a> {
    fn new(rows: Rows<'a>, mean: &'a [f64]) -> Self {
        let most = rows.as_slice().par_chunks(rows.dim() * 4096).map(|rows| {
            let of_row = |row: &[f32]| {
                row.iter().zip(mean).fold(0.0f64, |most, (x, m)| most.max((f64::from(*x) - m).abs()))
            };
            rows.chunks_exact(mean.len()).map(of_row).fold(0.0, f64::max)
        });
        let most = most.reduce(|| 0.0, f64::max);
        Centred { rows, mean, unit: power_below(most) }
    }

    fn write(&self, range: Range<usize>, out: &mut [f32]) {
        for (row, out) in self.rows.slice(range).iter().zip(out.chunks_exact_mut(self.mean.len())) {
            for ((x, m), out) in row.iter().zip(self.mean).zip(out) {
                *out = ((f64::from(*x) - m) * self.unit) as f32;
            }
        }
    }

    fn all(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows.as_slice().len()];
        self.write(0..self.rows.len(), &mut out);
        out
    }
}

/// `rows` orthonormal rows at random; with more rows than columns, as many orthonormal columns.
pub(super) fn random_rotation(rows: usize, columns: usize, seed: u64) -> Dense {
    let mut gaussian = Gaussian::new(seed);
    let (short, long) = (rows.min(columns), rows.max(columns));
    let drawn = (0..short * long).map(|_| gaussian.draw()).collect();
    let q = orthonormal(Dense::of(short, long, drawn));
    if rows > columns { q.transposed() } else { q }
}

/// Rows whose products are summed between two ticks.
const TICK_ROWS: usize = 1 << 15;

/// The main directions of rows relative to `mean`, and how much rows vary along them. Of a direction and its opposite, the one
/// whose largest component is positive.
fn directions(rows: Rows<'_>, mean: &[f64], progress: &mut Progress<'_, '_>) -> Result<Eigen> {
    let (dim, centred) = (rows.dim(), Centred::new(rows, mean));
    let mut moments = Dense::zeros(dim, dim);
    for first in (0..rows.len()).step_by(TICK_ROWS) {
        progress.tick(first, 2 * rows.len())?;
        let len = TICK_ROWS.min(rows.len() - first);
        let part = outer(len, (dim, dim), &|range, x, y| {
            centred.write(first + range.start..first + range.end, x);
            y.copy_from_slice(x);
        });
        moments.values.iter_mut().zip(&part.values).for_each(|(sum, part)| *sum += part);
    }
    progress.tick(1, 2)?;
    moments.scale(1.0 / rows.len() as f64);
    let mut found = eigen(moments);
    found.values.iter_mut().for_each(|value| *value = *value / centred.unit / centred.unit);
    for row in found.vectors.values.chunks_exact_mut(dim) {
        let most =
            row.iter().fold(0.0f64, |most, value| if value.abs() > most.abs() { *value } else { most });
        if most < 0.0 {
            row.iter_mut().for_each(|value| *value = -*value);
        }
    }
    Ok(found)
}

/// How much rows vary along their main directions, descending.
pub(crate) fn spectrum(rows: Rows<'_>) -> Result<Vec<f64>> {
    let (mean, mut observer) = (mean(rows), Observer::none());
    let mut progress = Progress { observer: &mut observer, part: 0, parts: 1 };
    let found = directions(rows, &mean, &mut progress)?;
    Ok(found.values.into_iter().map(|value| value.max(0.0)).collect())
}

/// The first rows of a matrix.
fn first_rows(matrix: &Dense, rows: usize) -> Dense {
    Dense::of(rows, matrix.columns, matrix.values[..rows * matrix.columns].to_vec())
}

/// What PCA is trained to.
pub(super) struct Pca {
    pub(super) forward: Matrix,
    /// The way back, unless the transposed matrix is.
    pub(super) inverse: Option<Matrix>,
}

/// Directions along which rows vary by less than this of the most are none: what rounding leaves where components depend on
/// each other, which whitening would blow up.
const VARIANCE_MIN: f64 = 1e-7;

/// What a direction is scaled by at most, so that a matrix of such rows is one of f32.
const FACTOR_MAX: f64 = 1e37;

pub(super) fn pca(
    rows: Rows<'_>,
    mean: &[f64],
    dim_out: usize,
    power: EigenPower,
    rotation: Option<u64>,
    progress: &mut Progress<'_, '_>,
) -> Result<Pca> {
    let Eigen { values, vectors } = directions(rows, mean, progress)?;
    let rotation = rotation.map(|seed| random_rotation(dim_out, dim_out, seed));
    let scaled = |exponent: f64| {
        let mut out = first_rows(&vectors, dim_out);
        for (row, &value) in out.values.chunks_exact_mut(vectors.columns).zip(&values) {
            let none = value <= VARIANCE_MIN * values[0] || value <= 0.0;
            let factor = if none { 0.0 } else { value.powf(exponent).min(FACTOR_MAX) };
            row.iter_mut().for_each(|value| *value *= factor);
        }
        out
    };
    let rotated = |matrix: Dense| rotation.as_ref().map_or_else(|| matrix.clone(), |r| r.times(&matrix));
    if power == EigenPower::NONE {
        let forward = Matrix::of(&rotated(first_rows(&vectors, dim_out)));
        return Ok(Pca { forward, inverse: None });
    }
    let forward = Matrix::of(&rotated(scaled(power.exponent())));
    let inverse = Matrix::of(&rotated(scaled(-power.exponent())).transposed());
    Ok(Pca { forward, inverse: Some(inverse) })
}

/// Times that a rotation is improved.
const ROUNDS: usize = 50;

/// Points of a sub-space: 8 bits.
const POINTS: usize = 256;

/// Iterations of k-means in the first round and in the others.
const FIRST_ITERATIONS: usize = 40;
const ITERATIONS: usize = 4;

pub(super) fn opq(
    rows: Rows<'_>,
    subspaces: usize,
    dim_out: usize,
    seed: u64,
    progress: &mut Progress<'_, '_>,
) -> Result<Matrix> {
    let (n, dim) = (rows.len(), rows.dim());
    let mean = mean(rows);
    let data = Centred::new(rows, &mean).all();
    let mut rotation = random_rotation(dim_out, dim, seed);
    let mut spaces: Vec<Space> = (0..subspaces).map(|_| Space::default()).collect();
    let mut rotated = vec![0.0; n * dim_out];
    let width = dim_out / subspaces;
    for round in 0..ROUNDS {
        progress.tick(round, ROUNDS)?;
        times_par(&Matrix::of(&rotation), &data, dim, &mut rotated, dim_out);
        let rotated = Rows::of(&rotated, dim_out);
        let improve = |(m, space): (usize, &mut Space)| {
            let params = ClusteringParams {
                niter: if round == 0 { FIRST_ITERATIONS } else { ITERATIONS },
                max_points_per_centroid: usize::MAX,
                seed: seed.wrapping_add(m as u64),
                check_finite: false,
                ..ClusteringParams::default()
            };
            space.improve(rotated, m * width..(m + 1) * width, &params)
        };
        spaces.par_iter_mut().enumerate().map(improve).collect::<Result<Vec<()>>>()?;
        let products = outer(n, (dim_out, dim), &|range, y, x| {
            x.copy_from_slice(&data[range.start * dim..range.end * dim]);
            for (row, y) in range.zip(y.chunks_exact_mut(dim_out)) {
                for (space, y) in spaces.iter().zip(y.chunks_exact_mut(width)) {
                    y.copy_from_slice(space.nearest(row, width));
                }
            }
        });
        rotation = procrustes(products);
    }
    Ok(Matrix::of(&rotation))
}

/// A sub-space of the product quantiser.
#[derive(Default)]
struct Space {
    centroids: Vec<f32>,
    codes: Vec<u32>,
}

impl Space {
    /// Goes on from the centroids that are there, and assigns the rows to those that come of it.
    fn improve(&mut self, rows: Rows<'_>, range: Range<usize>, params: &ClusteringParams) -> Result<()> {
        let width = range.len();
        let part: Vec<f32> = rows.iter().flat_map(|row| row[range.clone()].iter().copied()).collect();
        let part = Rows::of(&part, width);
        let initial = (!self.centroids.is_empty()).then(|| Rows::of(&self.centroids, width));
        let (k, mut none) = (POINTS.min(rows.len()), Observer::none());
        self.centroids = cluster(part, k, Similarity::L2, params, initial, &mut none)?.centroids;
        self.codes.resize(rows.len(), 0);
        let panels = Panels::new(Rows::of(&self.centroids, width));
        panels.nearest_par(Similarity::L2, part, &mut self.codes, &mut vec![0.0; rows.len()]);
        Ok(())
    }

    /// The centroid of a row.
    fn nearest(&self, row: usize, width: usize) -> &[f32] {
        &self.centroids[self.codes[row] as usize * width..][..width]
    }
}

/// [`Matrix::times`] on all threads.
fn times_par(matrix: &Matrix, rows: &[f32], dim: usize, out: &mut [f32], dim_out: usize) {
    let blocks = rows.par_chunks(ROWS_MAX * dim).zip(out.par_chunks_mut(ROWS_MAX * dim_out));
    blocks.for_each(|(rows, out)| matrix.times(rows, out));
}

pub(super) fn itq(
    rows: Rows<'_>,
    mean: &[f64],
    dim_out: Option<usize>,
    seed: u64,
    progress: &mut Progress<'_, '_>,
) -> Result<Matrix> {
    let dim = rows.dim();
    let mut data = Centred::new(rows, mean).all();
    data.chunks_exact_mut(dim).for_each(normalise);
    let Some(dim_out) = dim_out else {
        return itq_rotation(Rows::of(&data, dim), seed, progress).map(|q| Matrix::of(&q));
    };
    // Directions of the vectors as they are, not relative to their mean: zero is where signs change.
    let zero = vec![0.0; dim];
    let main = first_rows(&directions(Rows::of(&data, dim), &zero, progress)?.vectors, dim_out);
    let mut projected = vec![0.0; rows.len() * dim_out];
    times_par(&Matrix::of(&main), &data, dim, &mut projected, dim_out);
    drop(data);
    let rotation = itq_rotation(Rows::of(&projected, dim_out), seed, progress)?;
    Ok(Matrix::of(&rotation.times(&main)))
}

/// The rotation that brings rows nearest to their signs.
fn itq_rotation(rows: Rows<'_>, seed: u64, progress: &mut Progress<'_, '_>) -> Result<Dense> {
    let (n, dim) = (rows.len(), rows.dim());
    let mut rotation = random_rotation(dim, dim, seed);
    for round in 0..ROUNDS {
        progress.tick(ROUNDS + round, 2 * ROUNDS)?;
        let matrix = Matrix::of(&rotation);
        let products = outer(n, (dim, dim), &|range, y, x| {
            x.copy_from_slice(rows.slice(range).as_slice());
            matrix.times(x, y);
            y.iter_mut().for_each(|value| *value = if *value < 0.0 { -1.0 } else { 1.0 });
        });
        rotation = procrustes(products);
    }
    Ok(rotation)
}
