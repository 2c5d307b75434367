//! The flat coarse quantizer: every centroid is compared, exactly.
//!
//! A second list takes two more products of all rows with all centroids, ‖x − c'‖² and ⟨r̂, c'⟩: the term that
//! spilling adds is (⟨r̂, x⟩ − ⟨r̂, c'⟩)².

use super::{CoarseQuantizer, Probes};
use crate::Rows;
use crate::kernel::Similarity;
use crate::math::linalg::Panels;
use crate::math::topk::smallest;
use rayon::prelude::*;

/// Centroids compared one and all.
pub(crate) struct FlatCoarse {
    dim: usize,
    centroids: Vec<f32>,
    panels: Panels,
    similarity: Similarity,
}

/// Queries whose scores are held at once: 64 × 2,048 lists are 512 KiB, which stays in the L2 cache.
const QUERIES_AT_ONCE: usize = 64;

/// Rows whose second lists one task finds.
const SPILL_ROWS: usize = 512;
/// Scores of one kind that it holds at once: 512 KiB each, which stay in the L2 cache.
const SPILL_SCORES: usize = 1 << 17;
/// How much more than its square the residual's part along the first residual weighs.
const LAMBDA: f32 = 1.5;

impl FlatCoarse {
    pub(crate) fn new(centroids: Vec<f32>, dim: usize, similarity: Similarity) -> Self {
        let panels = Panels::new(Rows::of(&centroids, dim));
        FlatCoarse { dim, panels, centroids, similarity }
    }
}

impl CoarseQuantizer for FlatCoarse {
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]) {
        self.panels.nearest_par(self.similarity, rows, lists, scores);
    }

    fn spill(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]) {
        let tasks = lists.par_chunks(SPILL_ROWS).zip(second.par_chunks_mut(SPILL_ROWS));
        tasks.enumerate().for_each(|(task, (lists, second))| {
            let first = task * SPILL_ROWS;
            self.spill_some(rows.slice(first..first + lists.len()), lists, second);
        });
    }

    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes) {
        let nlist = self.panels.len();
        probes.nprobe = nprobe.min(nlist);
        probes.lists.clear();
        probes.scores.clear();
        let mut scores = vec![0.0; nlist * queries.len().min(QUERIES_AT_ONCE)];
        let mut nearest = Vec::new();
        for first in (0..queries.len()).step_by(QUERIES_AT_ONCE) {
            let some = queries.slice(first..queries.len().min(first + QUERIES_AT_ONCE));
            let scores = &mut scores[..some.len() * nlist];
            self.panels.scores(self.similarity, some, scores);
            for scores in scores.chunks_exact(nlist) {
                smallest(scores, probes.nprobe, &mut nearest);
                fill_up(scores, probes.nprobe, &mut nearest);
                probes.lists.extend_from_slice(&nearest);
                probes.scores.extend(nearest.iter().map(|list| scores[*list as usize]));
            }
        }
    }

    fn centroids(&self) -> Rows<'_> {
        Rows::of(&self.centroids, self.dim)
    }
}

impl FlatCoarse {
    fn spill_some(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]) {
        let nlist = self.panels.len();
        let at_once = (SPILL_SCORES / nlist).clamp(1, rows.len().max(1));
        let (mut costs, mut products) = (vec![0.0; at_once * nlist], vec![0.0; at_once * nlist]);
        let mut directions = vec![0.0; at_once * self.dim];
        for start in (0..rows.len()).step_by(at_once) {
            let some = rows.slice(start..rows.len().min(start + at_once));
            let directions = &mut directions[..some.len() * self.dim];
            let (costs, products) = (&mut costs[..some.len() * nlist], &mut products[..some.len() * nlist]);
            for ((row, &list), out) in
                some.iter().zip(&lists[start..]).zip(directions.chunks_exact_mut(self.dim))
            {
                direction(row, self.centroids().row(list as usize), out);
            }
            self.panels.scores(Similarity::L2, some, costs);
            self.panels.scores(Similarity::Dot, Rows::of(directions, self.dim), products);
            let per_row = costs.chunks_exact_mut(nlist).zip(products.chunks_exact(nlist));
            for (i, (costs, products)) in per_row.enumerate() {
                let along = dot(some.row(i), &directions[i * self.dim..(i + 1) * self.dim]);
                // `products` are negated.
                for (cost, product) in costs.iter_mut().zip(products) {
                    *cost += LAMBDA * (along + product) * (along + product);
                }
                second[start + i] = least_but(costs, lists[start + i] as usize);
            }
        }
    }
}

/// (x − c)/‖x − c‖, or 0 where that is no direction.
fn direction(row: &[f32], centroid: &[f32], out: &mut [f32]) {
    for ((out, x), c) in out.iter_mut().zip(row).zip(centroid) {
        *out = x - c;
    }
    let norm = dot(out, out).sqrt();
    if norm > 0.0 && norm.is_finite() {
        out.iter_mut().for_each(|component| *component /= norm);
    } else {
        out.fill(0.0);
    }
}

/// In one order, whatever rows stand beside.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The index of the least cost, the lowest of several, other than `taken`. Costs that are no numbers are never least;
/// if there is no other, it is the lowest index.
fn least_but(costs: &[f32], taken: usize) -> u32 {
    let mut best = (usize::from(taken == 0), f32::INFINITY);
    for (list, &cost) in costs.iter().enumerate() {
        if cost < best.1 && list != taken {
            best = (list, cost);
        }
    }
    best.0 as u32
}

/// Lists whose scores are no numbers come last, in their order: every query has its `nprobe` probes. No query that the
/// door lets in has such scores, but a batch must not fall apart if one had.
fn fill_up(scores: &[f32], nprobe: usize, nearest: &mut Vec<u32>) {
    if nearest.len() < nprobe {
        let rest = (0..).zip(scores).filter(|(_, score)| score.is_nan()).map(|(list, _)| list);
        nearest.extend(rest.take(nprobe - nearest.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.unit() as f32 - 0.5).collect()
    }

    /// The definition, in f64.
    fn cost(row: &[f32], first: &[f32], other: &[f32]) -> f64 {
        let minus = |a: &[f32], b: &[f32]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
        };
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let (r, away) = (minus(row, first), minus(row, other));
        let norm = dot(&r, &r).sqrt();
        let along = if norm == 0.0 { 0.0 } else { dot(&r, &away) / norm };
        dot(&away, &away) + f64::from(LAMBDA) * along * along
    }

    /// Breaks if the two products are put together wrongly, if a border of tasks or blocks is, or if a row's second
    /// list depends on the rows beside it.
    #[test]
    fn the_second_list_is_the_one_of_least_cost() {
        for (n, nlist, dim) in [(1, 2, 1), (70, 2, 3), (1300, 37, 12), (530, 600, 5)] {
            let (mut data, centroids) = (floats(n * dim, 1), floats(nlist * dim, 2));
            // A row that is its own centroid has no residual.
            data[..dim].copy_from_slice(&centroids[dim..2 * dim]);
            let rows = Rows::new(&data, dim).unwrap();
            for similarity in [Similarity::L2, Similarity::Dot] {
                let coarse = FlatCoarse::new(centroids.clone(), dim, similarity);
                let (mut lists, mut second) = (vec![0; n], vec![0; n]);
                coarse.assign(rows, &mut lists, &mut vec![0.0; n]);
                coarse.spill(rows, &lists, &mut second);
                for (i, row) in rows.iter().enumerate() {
                    let first = coarse.centroids().row(lists[i] as usize);
                    let cost = |list: u32| cost(row, first, coarse.centroids().row(list as usize));
                    let others = (0..nlist as u32).filter(|list| *list != lists[i]);
                    let least = others.map(cost).fold(f64::INFINITY, f64::min);
                    assert_ne!(second[i], lists[i]);
                    assert!(cost(second[i]) <= least + 1e-5 * (1.0 + least), "row {i} of {n}, {nlist} lists");
                    let mut alone = [0];
                    coarse.spill(rows.slice(i..i + 1), &lists[i..i + 1], &mut alone);
                    assert_eq!(alone[0], second[i]);
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_list_and_never_to_the_first() {
        let coarse = FlatCoarse::new(vec![1.0, 5.0, 1.0, 1.0, 5.0], 1, Similarity::L2);
        let rows = [1.0, 1.25, 5.0, 4.0];
        let mut second = [9; 4];
        coarse.spill(Rows::new(&rows, 1).unwrap(), &[0, 2, 1, 1], &mut second);
        assert_eq!(second, [2, 0, 4, 4]);
        assert_eq!(least_but(&[f32::NAN, f32::INFINITY, f32::NAN], 0), 1);
        assert_eq!(least_but(&[f32::INFINITY, 3.0], 1), 0);
    }
}
