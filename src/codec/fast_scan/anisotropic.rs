//! Codes by anisotropic quantization (Guo et al. 2020): a product with a query that is near is off by the error along the
//! vector, and hardly by the error across it, so errors along it weigh more when the code is chosen.
//!
//! ```text
//! x the vector, r what is encoded (x, or x − c), y what the code stands for, e = r − y
//! e∥² = ⟨e, x⟩² / ‖x‖²        e⊥² = ‖e‖² − e∥²        loss = η·e∥² + e⊥²
//! t = (T / ‖x‖)²              η = max(1, (d − 1)·t / (1 − t))      1 where that is no number, or t ≥ 1
//!
//! begin with the nearest point of each sub-space
//! up to 10 rounds, sub-spaces in descending order of ‖e_j‖²:
//!     the point that lowers the loss most and does not raise e∥²; the lower number if two do
//! until a round changes nothing
//! ```
//! The points themselves are trained without weights. Scores of points come from one kernel, sums are f64 and in one order: a
//! vector's code is the same in any batch.

use crate::Rows;
use crate::kernel::{POINTS, Similarity};
use crate::math::product::{ProductBook, pack};
use rayon::prelude::*;

/// Rounds at most; most rows take two or three.
const ROUNDS: usize = 10;
/// Rows that one task encodes.
const TASK_ROWS: usize = 256;

/// Appends the packed codes of `targets`, which are `rows` or what is left of them without their lists' centroids.
pub(super) fn encode(
    book: &ProductBook,
    threshold: f32,
    rows: Rows<'_>,
    targets: Rows<'_>,
    codes: &mut Vec<u8>,
) {
    let m = book.m();
    let mut indices = vec![0u16; rows.len() * m];
    book.indices(targets, &mut indices);
    let tasks = indices.par_chunks_mut(TASK_ROWS * m).enumerate();
    tasks.for_each(|(task, indices)| {
        let mut search = Search::new(book, threshold);
        for (i, indices) in indices.chunks_exact_mut(m).enumerate() {
            let row = task * TASK_ROWS + i;
            search.improve(rows.row(row), targets.row(row), indices);
        }
    });
    indices.chunks_exact(m).for_each(|indices| pack(indices, book.bits(), codes));
}

/// What the search for a row's code needs.
struct Search<'a> {
    book: &'a ProductBook,
    threshold: f64,
    /// ‖r_j − y‖² of each point.
    errors: Vec<f32>,
    /// ⟨x_j, y⟩ of each point.
    products: Vec<f32>,
    order: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(book: &'a ProductBook, threshold: f32) -> Self {
        let tables = || vec![0.0; book.m() * POINTS];
        let (errors, products, order) = (tables(), tables(), (0..book.m()).collect());
        Search { book, threshold: f64::from(threshold), errors, products, order }
    }

    /// Changes the code `indices` of `target`, which is `row` or its residual, to one of less loss.
    fn improve(&mut self, row: &[f32], target: &[f32], indices: &mut [u16]) {
        let squared = dot(row, row);
        let weight = weight(self.threshold, squared, row.len());
        if weight <= 1.0 {
            return;
        }
        self.book.table(Similarity::L2, target, 1.0, &mut self.errors);
        self.book.table(Similarity::Dot, row, 1.0, &mut self.products);
        let at = |j: usize, k: u16| j * POINTS + usize::from(k);
        let decoded: f64 = indices.iter().enumerate().map(|(j, &k)| f64::from(self.products[at(j, k)])).sum();
        // ⟨e, x⟩.
        let mut along = dot(target, row) - decoded;
        let errors = &self.errors;
        self.order.sort_unstable_by(|&a, &b| {
            let of = |j: usize| errors[at(j, indices[j])];
            of(b).total_cmp(&of(a)).then(a.cmp(&b))
        });
        for _ in 0..ROUNDS {
            let mut changed = false;
            for &j in &self.order {
                let own = j * POINTS..(j + 1) * POINTS;
                let (errors, products) = (&self.errors[own.clone()], &self.products[own]);
                if let Some((k, moved)) =
                    best(errors, products, usize::from(indices[j]), along, squared, weight)
                {
                    (indices[j], along, changed) = (k, moved, true);
                }
            }
            if !changed {
                return;
            }
        }
    }
}

/// η.
pub(in crate::codec) fn weight(threshold: f64, squared: f64, dim: usize) -> f64 {
    let t = threshold * threshold / squared;
    let weight = (dim as f64 - 1.0) * t / (1.0 - t);
    if weight.is_finite() { weight.max(1.0) } else { 1.0 }
}

/// The point of a sub-space to take instead of `now`, and ⟨e, x⟩ with it; `None` if none is better.
fn best(
    errors: &[f32],
    products: &[f32],
    now: usize,
    along: f64,
    squared: f64,
    weight: f64,
) -> Option<(u16, f64)> {
    let mut best = None;
    let mut least = 0.0;
    for k in (0..errors.len()).filter(|k| *k != now) {
        let moved = along + f64::from(products[now]) - f64::from(products[k]);
        let parallel = (moved * moved - along * along) / squared;
        let whole = f64::from(errors[k]) - f64::from(errors[now]);
        let loss = weight * parallel + (whole - parallel);
        if parallel <= 0.0 && loss < least {
            (best, least) = (Some((k as u16, moved)), loss);
        }
    }
    best
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Assigned, Codec, Training};
    use super::super::ProductFastScan;
    use super::*;
    use crate::Observer;
    use crate::encoding::{FastScan, Real};
    use crate::math::random::Random;

    const DIM: usize = 24;

    fn data(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        let mut data: Vec<f32> = (0..n * DIM).map(|_| random.unit() as f32 - 0.5).collect();
        for row in data.chunks_exact_mut(DIM) {
            let norm = dot(row, row).sqrt() as f32;
            row.iter_mut().for_each(|v| *v /= norm);
        }
        data
    }

    fn codec(rows: Assigned<'_>, residual: bool, threshold: Option<f32>) -> ProductFastScan {
        let anisotropic = threshold.and_then(Real::new);
        let params = FastScan { residual, anisotropic, ..FastScan::new(12) };
        let training =
            Training { sample: rows, similarity: Similarity::Dot, seed: 5, iterations: None, rows: None };
        ProductFastScan::train(params, &training, &mut Observer::none()).unwrap()
    }

    /// The loss of a decoded vector, by the formula.
    fn loss(row: &[f32], decoded: &[f32], weight: f64) -> (f64, f64) {
        let error: Vec<f32> = row.iter().zip(decoded).map(|(x, y)| x - y).collect();
        let parallel = dot(&error, row).powi(2) / dot(row, row);
        (parallel, weight * parallel + dot(&error, &error) - parallel)
    }

    #[test]
    fn weights_are_those_of_the_formula() {
        // (d − 1)·T² / (1 − T²) of vectors of length 1.
        assert!((weight(0.2, 1.0, 128) - 127.0 * 0.04 / 0.96).abs() < 1e-12);
        assert_eq!(weight(0.2, 0.04, 128), 1.0);
        assert_eq!(weight(0.2, 0.0, 128), 1.0);
        assert_eq!(weight(0.2, 0.01, 128), 1.0);
        assert_eq!(weight(0.2, 1.0, 1), 1.0);
    }

    #[test]
    fn codes_lose_less_by_the_weighted_loss_and_more_by_the_plain_one() {
        let data = data(600, 1);
        let centroids: Vec<f32> = data[..3 * DIM].iter().map(|v| v * 0.7).collect();
        let lists: Vec<u32> = (0..600).map(|i| i % 3).collect();
        let centroids = Rows::of(&centroids, DIM);
        let rows = Assigned { rows: Rows::of(&data, DIM), lists: &lists, centroids: Some(centroids) };
        for residual in [false, true] {
            let (plain, weighted) = (codec(rows, residual, None), codec(rows, residual, Some(0.4)));
            assert_eq!(plain.tables(), weighted.tables());
            let weight = weight(0.4, 1.0, DIM);
            let mut sums = [[0.0; 3]; 2];
            let mut fewer = 0;
            let mut each = [0.0; 600];
            for (codec, sums) in [&plain, &weighted].into_iter().zip(&mut sums) {
                let mut codes = Vec::new();
                codec.encode(rows, &mut codes);
                for (i, code) in codes.chunks_exact(codec.layout().code_bytes()).enumerate() {
                    let mut decoded = [0.0; DIM];
                    codec.decode(Some(centroids.row(i % 3)), code, &mut decoded);
                    let row = rows.rows.row(i);
                    let (parallel, whole) = loss(row, &decoded, weight);
                    let (_, unweighted) = loss(row, &decoded, 1.0);
                    *sums = [sums[0] + parallel, sums[1] + whole, sums[2] + unweighted];
                    // The plain codes come first.
                    assert!(each[i] == 0.0 || whole <= each[i] + 1e-5, "row {i}");
                    fewer += usize::from(each[i] > whole + 1e-6);
                    each[i] = whole;
                }
            }
            let [plain, weighted] = sums;
            assert!(fewer > 300, "{fewer} of 600 rows lose less");
            assert!(weighted[0] < 0.5 * plain[0] && weighted[1] < plain[1], "{sums:?}");
            assert!(weighted[2] > plain[2], "{sums:?}");
        }
    }

    #[test]
    fn a_code_is_the_same_in_any_batch() {
        let data = data(300, 2);
        let lists = vec![0; 300];
        let rows = Assigned { rows: Rows::of(&data, DIM), lists: &lists, centroids: None };
        let codec = codec(rows, false, Some(0.3));
        let mut codes = Vec::new();
        codec.encode(rows, &mut codes);
        let width = codec.layout().code_bytes();
        for i in [0, 1, 255, 256, 299] {
            let (alone, mut code) = (rows.rows.slice(i..i + 1), Vec::new());
            codec.encode(Assigned { rows: alone, lists: &lists[..1], centroids: None }, &mut code);
            assert_eq!(code, codes[i * width..(i + 1) * width]);
        }
    }

    #[test]
    fn rows_of_zeros_and_huge_ones_have_codes() {
        let mut data = data(40, 3);
        data[..DIM].fill(0.0);
        data[DIM..2 * DIM].iter_mut().for_each(|v| *v *= 6e18);
        data[2 * DIM..3 * DIM].iter_mut().for_each(|v| *v *= 1e-30);
        let lists = vec![0; 40];
        let rows = Assigned { rows: Rows::of(&data, DIM), lists: &lists, centroids: None };
        for threshold in [1e-30, 0.2, 1.0, 1e30] {
            let codec = codec(rows, false, Some(threshold));
            let mut codes = Vec::new();
            codec.encode(rows, &mut codes);
            assert_eq!(codes.len(), 40 * codec.layout().code_bytes());
        }
    }
}
