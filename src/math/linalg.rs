//! Rows times columns: the matrix work of assignment, of k-means and of the coarse quantizer.
//!
//! [`Panels`] holds the columns (centroids) packed for the kernels: groups of 32 columns, dim-major, on
//! cache lines. The kernels sum a product over the components from the first to the last and turn it
//! into a score at once, so a score has the same bits in any block of rows and on any thread, and
//! [`Panels::nearest`] never writes the matrix of scores. What is here is only the blocking: 96 rows
//! stay in cache while all panels pass by. Beside it stands [`dot`], for a pair by itself.
//!
//! ```text
//!   panel p:   component 0: c₀ c₁ … c₃₁ | component 1: c₀ c₁ … c₃₁ | …      column = 32 p + lane
//! ```

use crate::Rows;
use crate::kernel::{AlignedVec, Distance, Kernels, Nearness, PANEL, Picked, Product, ROWS_MAX, Similarity};
use rayon::prelude::*;

/// Rows per task of the parallel forms: enough work to hide a task's cost, few enough to share.
const TASK_ROWS: usize = 8 * ROWS_MAX;

/// Columns to multiply with.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    kernels: &'static Kernels,
    panels: AlignedVec,
    /// Squared norms of the columns, `+inf` for the padding.
    norms: Vec<f32>,
    /// 0 for each column, `+inf` for the padding.
    zeros: Vec<f32>,
    dim: usize,
    len: usize,
}

impl Panels {
    /// Packs `columns`, with the best kernels of this processor.
    pub(crate) fn new(columns: Rows<'_>) -> Self {
        Panels::with_kernels(Kernels::get(), columns)
    }

    /// Packs `columns` for these kernels.
    pub(crate) fn with_kernels(kernels: &'static Kernels, columns: Rows<'_>) -> Self {
        let (len, dim) = (columns.len(), columns.dim());
        let padded = len.next_multiple_of(PANEL);
        let mut panels = AlignedVec::zeros(padded * dim);
        for (panel, rows) in panels.chunks_exact_mut(PANEL * dim).zip(columns.as_slice().chunks(PANEL * dim))
        {
            pack(rows, dim, panel);
        }
        let mut norms = vec![f32::INFINITY; padded];
        kernels.squared_norms(columns.as_slice(), dim, &mut norms[..len]);
        let mut zeros = vec![f32::INFINITY; padded];
        zeros[..len].fill(0.0);
        Panels { kernels, panels, norms, zeros, dim, len }
    }

    /// Number of columns.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `out[r * len + c]`: for L2 `‖c‖² - 2⟨x, c⟩ + ‖x‖²`, at least 0, and exactly 0 for equal vectors;
    /// for Dot `-⟨x, c⟩`.
    pub(crate) fn scores(&self, similarity: Similarity, rows: Rows<'_>, out: &mut [f32]) {
        assert!(rows.dim() == self.dim && out.len() == rows.len() * self.len);
        if out.is_empty() {
            return;
        }
        let blocks = rows.as_slice().chunks(ROWS_MAX * self.dim);
        for (rows, out) in blocks.zip(out.chunks_mut(ROWS_MAX * self.len)) {
            self.with_product(similarity, rows, |product| self.kernels.scores(product, out, self.len));
        }
    }

    /// What scores `row` with a few of the columns, which are given as they were packed.
    pub(crate) fn picked<'a>(
        &'a self,
        similarity: Similarity,
        row: &'a [f32],
        columns: Rows<'a>,
    ) -> Picked<'a> {
        assert!(row.len() == self.dim && columns.dim() == self.dim && columns.len() == self.len);
        let mut norm = [0.0];
        let (bias, factor, floor) = terms(similarity, &self.norms, &self.zeros);
        if similarity == Similarity::L2 {
            self.kernels.squared_norms(row, self.dim, &mut norm);
        }
        Picked { row, norm: norm[0], columns: columns.as_slice(), bias, factor, floor }
    }

    /// The nearest column of each row and its score, the bits that `scores` gives; ties go to the lowest
    /// column. A row with NaN gets column 0 at infinity.
    pub(crate) fn nearest(
        &self,
        similarity: Similarity,
        rows: Rows<'_>,
        columns: &mut [u32],
        scores: &mut [f32],
    ) {
        assert!(self.len > 0 && rows.dim() == self.dim);
        assert!(columns.len() == rows.len() && scores.len() == rows.len());
        let blocks = rows.as_slice().chunks(ROWS_MAX * self.dim);
        for ((rows, columns), scores) in
            blocks.zip(columns.chunks_mut(ROWS_MAX)).zip(scores.chunks_mut(ROWS_MAX))
        {
            self.with_product(similarity, rows, |product| self.kernels.nearest(product, columns, scores));
        }
    }

    /// [`Panels::nearest`] on the threads of the current rayon pool: the same bits.
    pub(crate) fn nearest_par(
        &self,
        similarity: Similarity,
        rows: Rows<'_>,
        columns: &mut [u32],
        scores: &mut [f32],
    ) {
        assert!(rows.dim() == self.dim && columns.len() == rows.len() && scores.len() == rows.len());
        let tasks = columns.par_chunks_mut(TASK_ROWS).zip(scores.par_chunks_mut(TASK_ROWS));
        tasks.enumerate().for_each(|(task, (columns, scores))| {
            let first = task * TASK_ROWS;
            self.nearest(similarity, rows.slice(first..first + columns.len()), columns, scores);
        });
    }

    /// Calls `work` with the product of at most [`ROWS_MAX`] rows and all columns.
    fn with_product(&self, similarity: Similarity, rows: &[f32], work: impl FnOnce(&Product<'_>)) {
        let mut norms = [0.0; ROWS_MAX];
        let norms = &mut norms[..rows.len() / self.dim];
        let (bias, factor, floor) = terms(similarity, &self.norms, &self.zeros);
        if similarity == Similarity::L2 {
            self.kernels.squared_norms(rows, self.dim, norms);
        }
        work(&Product { dim: self.dim, rows, norms, panels: &self.panels, bias, factor, floor });
    }
}

/// Columns row after row, of which a few at a time are scored, with the bits that [`Panels`] gives.
pub(crate) struct Scattered {
    kernels: &'static Kernels,
    columns: Vec<f32>,
    norms: Vec<f32>,
    zeros: Vec<f32>,
    dim: usize,
}

impl Scattered {
    pub(crate) fn with_kernels(kernels: &'static Kernels, columns: Vec<f32>, dim: usize) -> Self {
        let len = columns.len() / dim;
        let mut norms = vec![0.0; len];
        kernels.squared_norms(&columns, dim, &mut norms);
        Scattered { kernels, columns, norms, zeros: vec![0.0; len], dim }
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::of(&self.columns, self.dim)
    }

    /// What scores `row` with a few of the columns.
    pub(crate) fn picked<'a>(&'a self, similarity: Similarity, row: &'a [f32]) -> Picked<'a> {
        assert_eq!(row.len(), self.dim);
        let mut norm = [0.0];
        let (bias, factor, floor) = terms(similarity, &self.norms, &self.zeros);
        if similarity == Similarity::L2 {
            self.kernels.squared_norms(row, self.dim, &mut norm);
        }
        Picked { row, norm: norm[0], columns: &self.columns, bias, factor, floor }
    }
}

/// Bias, factor and floor of a score.
fn terms<'a>(similarity: Similarity, norms: &'a [f32], zeros: &'a [f32]) -> (&'a [f32], f32, f32) {
    match similarity {
        Similarity::L2 => (norms, -2.0, 0.0),
        Similarity::Dot => (zeros, -1.0, f32::NEG_INFINITY),
    }
}

/// Σ aᵢ·bᵢ in `SUMS` running sums, which take the components by turns; what is left of the last turn is summed by
/// itself. Nothing is fused, so every machine gives the same bits.
pub(crate) fn dot<const SUMS: usize>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..SUMS {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The same of f64, in eight sums.
pub(crate) fn dot_f64(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// The mean of the rows; zeros where there are none.
pub(crate) fn mean(rows: Rows<'_>) -> Vec<f64> {
    let mut sums = vec![0.0; rows.dim()];
    for row in rows.iter() {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.iter_mut().for_each(|sum| *sum /= rows.len().max(1) as f64);
    sums
}

/// Transposes up to 32 columns into a panel of zeros.
fn pack(columns: &[f32], dim: usize, panel: &mut [f32]) {
    for (lane, column) in columns.chunks_exact(dim).enumerate() {
        for (d, &value) in column.iter().enumerate() {
            panel[d * PANEL + lane] = value;
        }
    }
}

/// Queries that pass by while a centroid is in the first-level cache.
const MEASURED_QUERIES: usize = 8;

/// Rows that one thread assigns at a time.
const MEASURED_ROWS: usize = 64;

/// The nearest centroid of each row, and its score; ties go to the lowest. Where there is no distance to any, the first one at
/// infinity.
pub(crate) fn nearest_measured(
    distance: Distance,
    centroids: Rows<'_>,
    rows: Rows<'_>,
    columns: &mut [u32],
    scores: &mut [f32],
) {
    let chunks = columns.par_chunks_mut(MEASURED_ROWS).zip(scores.par_chunks_mut(MEASURED_ROWS));
    chunks.enumerate().for_each(|(chunk, (columns, least))| {
        let first = chunk * MEASURED_ROWS;
        let some = rows.slice(first..first + columns.len());
        each_measured(distance, centroids, some, |row, scores| {
            (columns[row], least[row]) = (0, f32::INFINITY);
            for (column, score) in (0..).zip(scores) {
                if *score < least[row] {
                    (columns[row], least[row]) = (column, *score);
                }
            }
        });
    });
}

/// The score of two vectors, where smaller is nearer; NaN where the metric knows no distance of the two.
pub(crate) fn score_of_pair(nearness: Nearness, a: &[f32], b: &[f32]) -> f32 {
    match nearness {
        Nearness::Similarity(Similarity::L2) => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum(),
        Nearness::Similarity(Similarity::Dot) => 0.0 - dot::<1>(a, b),
        Nearness::Distance(distance) => {
            let mut score = [0.0];
            Kernels::get().distances_rows(distance, &[a], b, &mut score);
            score[0]
        }
    }
}

/// Calls `each` with every query's number and its scores with all centroids.
pub(crate) fn each_measured(
    distance: Distance,
    centroids: Rows<'_>,
    queries: Rows<'_>,
    mut each: impl FnMut(usize, &[f32]),
) {
    let nlist = centroids.len();
    let mut scores = vec![0.0; nlist * MEASURED_QUERIES.min(queries.len())];
    for first in (0..queries.len()).step_by(MEASURED_QUERIES) {
        let some: Vec<&[f32]> = queries.iter().skip(first).take(MEASURED_QUERIES).collect();
        let scores = &mut scores[..some.len() * nlist];
        Kernels::get().distances_rows(distance, &some, centroids.as_slice(), scores);
        scores.chunks_exact(nlist).enumerate().for_each(|(q, scores)| each(first + q, scores));
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

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// Breaks if a block border is crossed wrongly or a tile sums in another order: rows alone, all rows,
    /// and all rows in parallel must agree to the bit.
    #[test]
    fn rows_alone_in_blocks_and_in_parallel_give_the_same_bits() {
        for (m, n, dim) in [(1, 1, 1), (97, 33, 5), (500, 70, 16), (211, 129, 50)] {
            let (rows, columns) = (floats(m * dim, 1), floats(n * dim, 2));
            let rows = Rows::new(&rows, dim).unwrap();
            for kernels in Kernels::all() {
                let panels = Panels::with_kernels(kernels, Rows::new(&columns, dim).unwrap());
                for similarity in [Similarity::L2, Similarity::Dot] {
                    let mut all = vec![0.0; m * n];
                    panels.scores(similarity, rows, &mut all);
                    let (mut nearest, mut least) = (vec![0; m], vec![0.0; m]);
                    panels.nearest_par(similarity, rows, &mut nearest, &mut least);
                    for r in 0..m {
                        let mut alone = vec![0.0; n];
                        panels.scores(similarity, rows.slice(r..r + 1), &mut alone);
                        assert_eq!(bits(&alone), bits(&all[r * n..][..n]), "{}", kernels.name);
                        let (mut column, mut score) = ([0], [0.0]);
                        panels.nearest(similarity, rows.slice(r..r + 1), &mut column, &mut score);
                        assert_eq!((column[0], score[0].to_bits()), (nearest[r], least[r].to_bits()));
                        assert_eq!(score[0].to_bits(), alone[column[0] as usize].to_bits());
                        assert!(alone.iter().all(|&other| other >= score[0]));
                    }
                }
            }
        }
    }

    #[test]
    fn norms_are_the_columns() {
        let columns = floats(40 * 3, 3);
        let columns = Rows::new(&columns, 3).unwrap();
        let panels = Panels::new(columns);
        assert_eq!(panels.len(), 40);
        for (norm, row) in panels.norms.iter().zip(columns.iter()) {
            assert!((norm - row.iter().map(|v| v * v).sum::<f32>()).abs() < 1e-6);
        }
    }

    /// Codes are made of these sums, so the order of the additions is part of the format.
    #[test]
    fn a_product_is_summed_by_turns() {
        for n in [0, 1, 7, 8, 9, 16, 100] {
            let (a, b) = (floats(n, 4), floats(n, 5));
            let (mut one, mut eight) = (0.0, [0.0; 8]);
            for i in 0..n {
                one += a[i] * b[i];
            }
            for i in 0..n / 8 * 8 {
                eight[i % 8] += a[i] * b[i];
            }
            let rest: f32 = (n / 8 * 8..n).map(|i| a[i] * b[i]).sum();
            assert_eq!(dot::<1>(&a, &b).to_bits(), f32::to_bits(one));
            assert_eq!(dot::<8>(&a, &b).to_bits(), (eight.iter().sum::<f32>() + rest).to_bits());
        }
    }

    #[test]
    fn no_rows_and_no_columns_are_no_work() {
        let none = Rows::new(&[], 3).unwrap();
        Panels::new(none).scores(Similarity::L2, none, &mut []);
        Panels::new(Rows::new(&[1.0; 3], 3).unwrap()).nearest_par(Similarity::L2, none, &mut [], &mut []);
        Panels::new(none).scores(Similarity::Dot, Rows::new(&[1.0; 3], 3).unwrap(), &mut []);
    }
}
