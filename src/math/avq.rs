//! Anisotropic centroids: those that give the products of a cluster's rows best (Guo et al. 2020, Theorem 4.2).
//!
//! ```text
//! loss(c) = Σ ‖x‖^(η−1) · (‖e‖² + (η − 1)·⟨e, x⟩²/‖x‖²)          e = x − c, over the rows x of the cluster
//! A c = b    A = Σ ‖x‖^(η−1)·I + (η − 1)·Σ ‖x‖^(η−3)·x xᵀ         b = η·Σ ‖x‖^(η−1)·x
//! ```
//! An error along x weighs η times as much as one across it. A is never made: conjugate gradients take its products with
//! a vector, which are one pass over the rows each. Its eigenvalues lie between a = Σ‖x‖^(η−1) and η·a, so that the error
//! shrinks by (√η + 1)/(√η − 1) or more a pass: 5.8 for η = 2.
//!
//! Rows are scaled by the longest of the cluster first, which only scales the answer: powers stay in range. Sums are f64
//! in the order of the rows, so the same rows give the same centroid.

use super::linalg::Panels;
use crate::Rows;
use crate::kernel::Similarity;
use rayon::prelude::*;

/// Passes over the rows at most, and the residual that ends them sooner, as a part of b.
const PASSES: usize = 60;
const PRECISION: f64 = 1e-9;

/// Replaces the centroids from the `frozen`-th on by the anisotropic ones of the rows that are nearest to each. One without
/// rows stays as it is.
pub(crate) fn stretch(rows: Rows<'_>, eta: f64, frozen: usize, centroids: &mut [f32]) {
    let (dim, k) = (rows.dim(), centroids.len() / rows.dim());
    let mut lists = vec![0; rows.len()];
    let panels = Panels::new(Rows::of(centroids, dim));
    panels.nearest_par(Similarity::L2, rows, &mut lists, &mut vec![0.0; rows.len()]);
    let mut members = vec![Vec::new(); k];
    (0..).zip(&lists).for_each(|(row, list)| members[*list as usize].push(row));
    let each = centroids.par_chunks_exact_mut(dim).zip(members).skip(frozen);
    each.for_each(|(centroid, members)| {
        let members: Vec<&[f32]> = members.into_iter().map(|row: usize| rows.row(row)).collect();
        if let Some(found) = centroid_of(&members, eta) {
            centroid.copy_from_slice(&found);
        }
    });
}

/// A row of a cluster: its scale, and ‖x‖^(η−1) and (η − 1)·‖x‖^(η−3) of the scaled row.
struct Weighted<'r> {
    row: &'r [f32],
    whole: f64,
    along: f64,
}

/// The centroid of `rows`; `None` where they say nothing.
fn centroid_of(rows: &[&[f32]], eta: f64) -> Option<Vec<f32>> {
    let longest = rows.iter().map(|row| dot(row, row)).fold(0.0, f64::max).sqrt();
    if longest == 0.0 || !longest.is_finite() {
        return None;
    }
    let unit = longest.recip();
    let weighted = rows.iter().filter_map(|row| {
        let norm = dot(row, row).sqrt() * unit;
        // A row of zeros has no direction, and weighs nothing.
        (norm > 0.0).then(|| Weighted {
            row,
            whole: norm.powf(eta - 1.0),
            along: (eta - 1.0) * norm.powf(eta - 3.0) * unit * unit,
        })
    });
    let weighted: Vec<Weighted<'_>> = weighted.collect();
    let mut b = vec![0.0; rows.first()?.len()];
    for Weighted { row, whole, .. } in &weighted {
        add(&mut b, eta * whole * unit, row);
    }
    let whole = weighted.iter().map(|row| row.whole).sum();
    let found: Vec<f32> = solve(&weighted, whole, &b).into_iter().map(|c| (c * longest) as f32).collect();
    found.iter().all(|component| component.is_finite()).then_some(found)
}

/// Conjugate gradients for A c = b.
fn solve(rows: &[Weighted<'_>], whole: f64, b: &[f64]) -> Vec<f64> {
    let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let mut c = vec![0.0; b.len()];
    let (mut residual, mut direction) = (b.to_vec(), b.to_vec());
    let mut left = square(&residual);
    let enough = left * PRECISION * PRECISION;
    for _ in 0..PASSES {
        if left <= enough || left == 0.0 {
            break;
        }
        let image = product(rows, whole, &direction);
        let step = left / direction.iter().zip(&image).map(|(d, i)| d * i).sum::<f64>();
        c.iter_mut().zip(&direction).for_each(|(c, d)| *c += step * d);
        residual.iter_mut().zip(&image).for_each(|(r, i)| *r -= step * i);
        let next = square(&residual);
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + next / left * *d);
        left = next;
    }
    c
}

/// A v.
fn product(rows: &[Weighted<'_>], whole: f64, v: &[f64]) -> Vec<f64> {
    let mut image: Vec<f64> = v.iter().map(|v| whole * v).collect();
    for Weighted { row, along, .. } in rows {
        let with: f64 = row.iter().zip(v).map(|(x, v)| f64::from(*x) * v).sum();
        add(&mut image, along * with, row);
    }
    image
}

fn add(sum: &mut [f64], factor: f64, row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * f64::from(*x));
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.unit() as f32 - 0.3).collect()
    }

    /// By the definition of the loss.
    fn loss(rows: Rows<'_>, eta: f64, c: &[f32]) -> f64 {
        let of_row = |x: &[f32]| {
            let e: Vec<f32> = x.iter().zip(c).map(|(x, c)| x - c).collect();
            let (norm, along) = (dot(x, x).sqrt(), dot(&e, x).powi(2) / dot(x, x));
            norm.powf(eta - 1.0) * (dot(&e, &e) + (eta - 1.0) * along)
        };
        rows.iter().map(of_row).sum()
    }

    /// No step in any direction lowers the loss.
    #[test]
    fn the_centroid_has_the_least_loss() {
        for (n, dim, scale) in [(1, 3, 1.0), (2, 5, 1e-8), (40, 7, 1.0), (200, 16, 1e8)] {
            let data: Vec<f32> = floats(n * dim, 7).into_iter().map(|x| x * scale).collect();
            let rows = Rows::new(&data, dim).unwrap();
            for eta in [1.0, 1.6, 2.5, 8.0] {
                let all: Vec<&[f32]> = rows.iter().collect();
                let found = centroid_of(&all, eta).unwrap();
                let least = loss(rows, eta, &found);
                for (d, sign) in (0..dim).flat_map(|d| [(d, 0.01), (d, -0.01)]) {
                    let mut other = found.clone();
                    other[d] += sign * scale;
                    assert!(loss(rows, eta, &other) > least, "{n} rows of {dim}, {eta}");
                }
            }
        }
    }

    #[test]
    fn with_equal_weights_it_is_the_mean_and_of_one_row_the_row() {
        let data = floats(30 * 4, 3);
        let rows = Rows::new(&data, 4).unwrap();
        let all: Vec<&[f32]> = rows.iter().collect();
        let near = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5);
        let mean: Vec<f64> =
            (0..4).map(|d| rows.iter().map(|row| f64::from(row[d])).sum::<f64>() / 30.0).collect();
        assert!(near(&centroid_of(&all, 1.0).unwrap(), &mean));
        for eta in [1.0, 2.0, 5.0] {
            let row: Vec<f64> = rows.row(0).iter().map(|x| f64::from(*x)).collect();
            assert!(near(&centroid_of(&all[..1], eta).unwrap(), &row), "{eta}");
        }
        assert_eq!(centroid_of(&[&[0.0, 0.0]], 2.0), None);
        assert_eq!(centroid_of(&[], 2.0), None);
    }

    #[test]
    fn frozen_and_empty_ones_stay() {
        let rows = [1.0, 0.0, 3.0, 0.0];
        let mut centroids = [1.5, 0.0, 2.5, 0.1, -90.0, 4.0];
        stretch(Rows::new(&rows, 2).unwrap(), 2.0, 1, &mut centroids);
        assert_eq!(centroids[..2], [1.5, 0.0]);
        assert!((centroids[2] - 3.0).abs() < 1e-6 && centroids[3].abs() < 1e-6, "{centroids:?}");
        assert_eq!(centroids[4..], [-90.0, 4.0]);
    }
}
