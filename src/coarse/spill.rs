//! The second list of each row, for spilling (SOAR, Sun et al. 2023).
//!
//! ```text
//! r = x − c, r̂ = r/‖r‖                       c is the row's first list
//! cost(c') = ‖x − c'‖² + λ(⟨r̂, x⟩ − ⟨r̂, c'⟩)²    of all other lists, the least is the second
//! ```
//! So it takes two products of all rows with all centroids, ⟨x, c'⟩ and ⟨r̂, c'⟩, and one pass over them. A row's
//! costs have the same bits whatever rows stand beside it.

use crate::Rows;
use crate::kernel::{Kernels, Similarity};
use crate::math::linalg::{Panels, Scattered, dot};
use rayon::prelude::*;

/// Rows whose second lists one task finds.
const TASK_ROWS: usize = 512;
/// Costs that it holds at once: 512 KiB, which stay in the L2 cache with as many products.
const COSTS_AT_ONCE: usize = 1 << 17;
/// The second list of each of `rows`, which stand in `lists` first, on the threads of the current rayon pool.
pub(super) fn second_lists(
    panels: &Panels,
    centroids: Rows<'_>,
    lambda: f32,
    rows: Rows<'_>,
    lists: &[u32],
    second: &mut [u32],
) {
    let tasks = lists.par_chunks(TASK_ROWS).zip(second.par_chunks_mut(TASK_ROWS));
    tasks.enumerate().for_each(|(task, (lists, second))| {
        let first = task * TASK_ROWS;
        second_of_some(panels, centroids, lambda, rows.slice(first..first + lists.len()), lists, second);
    });
}

/// The second list of a row among some `lists`, ascending and two or more.
pub(super) fn second_among(
    kernels: &Kernels,
    columns: &Scattered,
    lambda: f32,
    row: &[f32],
    first: u32,
    lists: &[u32],
    room: &mut Room,
) -> u32 {
    let Room { direction: across, costs, products } = room;
    across.resize(row.len(), 0.0);
    costs.resize(lists.len(), 0.0);
    products.resize(lists.len(), 0.0);
    direction(row, columns.rows().row(first as usize), across);
    kernels.picked_scores(&columns.picked(Similarity::L2, row), lists, costs);
    kernels.picked_scores(&columns.picked(Similarity::Dot, across), lists, products);
    add_across(lambda, costs, products, dot::<1>(row, across));
    let taken = lists.iter().position(|list| *list == first).unwrap_or(usize::MAX);
    lists[least_but(costs, taken) as usize]
}

/// Room for the costs of one row.
#[derive(Default)]
pub(super) struct Room {
    direction: Vec<f32>,
    costs: Vec<f32>,
    products: Vec<f32>,
}

fn second_of_some(
    panels: &Panels,
    centroids: Rows<'_>,
    lambda: f32,
    rows: Rows<'_>,
    lists: &[u32],
    second: &mut [u32],
) {
    let (nlist, dim) = (panels.len(), rows.dim());
    let at_once = (COSTS_AT_ONCE / nlist).clamp(1, TASK_ROWS).min(rows.len());
    let (mut costs, mut products) = (vec![0.0; at_once * nlist], vec![0.0; at_once * nlist]);
    let mut directions = vec![0.0; at_once * dim];
    for (start, (lists, second)) in
        (0..).step_by(at_once).zip(lists.chunks(at_once).zip(second.chunks_mut(at_once)))
    {
        let rows = rows.slice(start..start + lists.len());
        let n = rows.len() * nlist;
        let (costs, products, directions) =
            (&mut costs[..n], &mut products[..n], &mut directions[..rows.len() * dim]);
        for ((row, &list), out) in rows.iter().zip(lists).zip(directions.chunks_exact_mut(dim)) {
            direction(row, centroids.row(list as usize), out);
        }
        panels.scores(Similarity::L2, rows, costs);
        panels.scores(Similarity::Dot, Rows::of(directions, dim), products);
        let per_row = costs.chunks_exact_mut(nlist).zip(products.chunks_exact(nlist));
        for (i, (costs, products)) in per_row.enumerate() {
            let along = dot::<1>(rows.row(i), &directions[i * dim..(i + 1) * dim]);
            add_across(lambda, costs, products, along);
            second[i] = least_but(costs, lists[i] as usize);
        }
    }
}

/// Adds the part of each second residual along the first to the distances; the products ⟨r̂, c'⟩ are negated.
fn add_across(lambda: f32, costs: &mut [f32], products: &[f32], along: f32) {
    for (cost, product) in costs.iter_mut().zip(products) {
        *cost += lambda * (along + product) * (along + product);
    }
}

/// (x − c)/‖x − c‖, or 0 where that is no direction.
fn direction(row: &[f32], centroid: &[f32], out: &mut [f32]) {
    for ((out, x), c) in out.iter_mut().zip(row).zip(centroid) {
        *out = x - c;
    }
    let norm = dot::<1>(out, out).sqrt();
    if norm > 0.0 && norm.is_finite() {
        out.iter_mut().for_each(|component| *component /= norm);
    } else {
        out.fill(0.0);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coarse::{CoarseQuantizer, FlatCoarse};
    use crate::math::random::Random;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.unit() as f32 - 0.5).collect()
    }

    /// The definition, in f64.
    fn cost(lambda: f64, row: &[f32], first: &[f32], other: &[f32]) -> f64 {
        let minus = |a: &[f32], b: &[f32]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
        };
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let (r, away) = (minus(row, first), minus(row, other));
        let norm = dot(&r, &r).sqrt();
        let along = if norm == 0.0 { 0.0 } else { dot(&r, &away) / norm };
        dot(&away, &away) + lambda * along * along
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
            for (similarity, lambda) in
                [(Similarity::L2, 1.5), (Similarity::Dot, 1.5), (Similarity::L2, 0.0), (Similarity::Dot, 6.0)]
            {
                let coarse = FlatCoarse::new(centroids.clone(), dim, similarity).spilling_by(lambda as f32);
                let (mut lists, mut second) = (vec![0; n], vec![0; n]);
                coarse.assign(rows, &mut lists, &mut vec![0.0; n]);
                coarse.spill(rows, &lists, &mut second);
                for (i, row) in rows.iter().enumerate() {
                    let first = coarse.centroids().row(lists[i] as usize);
                    let cost = |list: u32| cost(lambda, row, first, coarse.centroids().row(list as usize));
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
