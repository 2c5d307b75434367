//! Products of rows and matrices in f32, by the kernels.
//!
//! ```text
//! times    yᵢ = A xᵢ          the rows of A are the kernel's columns: each component of y is summed over x in order
//! outer    Σᵢ xᵢ yᵢᵀ          blocks of 256 rows, turned, so that the kernel sums over rows; blocks are added up in f64
//! ```
//! The kernels promise that a pair's product has the same bits in any company, so that y depends on nothing but x. It must not
//! depend on the processor either, as kept rows are projected and encoded again to be compared with their codes: all tables but
//! the portable one fuse each multiplication with its addition, component after component, and where that one is all there is
//! `times` does so by itself, slowly. In `outer` it depends on the number of rows how they are divided into groups, which threads share, and on nothing else.

use super::dense::Dense;
use crate::Rows;
use crate::kernel::{AlignedVec, Kernels, PANEL, Product, ROWS_MAX};
use rayon::prelude::*;
use std::ops::Range;

/// A matrix that rows are multiplied with.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    columns: usize,
    values: Vec<f32>,
    panels: AlignedVec,
    bias: Vec<f32>,
}

impl Matrix {
    /// Of rows of `columns` values.
    pub(super) fn new(values: Vec<f32>, columns: usize) -> Self {
        let rows = Rows::of(&values, columns).len();
        let padded = rows.next_multiple_of(PANEL);
        let mut panels = AlignedVec::zeros(padded * columns);
        for (i, row) in values.chunks_exact(columns).enumerate() {
            let panel = &mut panels[i / PANEL * PANEL * columns..];
            row.iter().enumerate().for_each(|(d, &value)| panel[d * PANEL + i % PANEL] = value);
        }
        Matrix { columns, values, panels, bias: vec![0.0; padded] }
    }

    /// Rounded; what f32 cannot hold is cut off.
    pub(super) fn of(dense: &Dense) -> Self {
        Matrix::new(rounded(&dense.values), dense.columns)
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Components of a product.
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    pub(super) fn transposed(&self) -> Self {
        let rows = self.rows();
        let mut values = vec![0.0; self.values.len()];
        for (i, row) in self.values.chunks_exact(self.columns).enumerate() {
            row.iter().enumerate().for_each(|(j, &value)| values[j * rows + i] = value);
        }
        Matrix::new(values, rows)
    }

    /// The product of each row, one after the other. No component is −0.
    pub(super) fn times(&self, rows: &[f32], out: &mut [f32]) {
        if !Kernels::get().fuses() {
            return self.times_fused(rows, out);
        }
        let blocks = rows.chunks(ROWS_MAX * self.columns);
        for (rows, out) in blocks.zip(out.chunks_mut(ROWS_MAX * self.rows())) {
            products(self.columns, rows, &self.panels, &self.bias, out, self.rows());
        }
    }
}

impl Matrix {
    /// What kernels that fuse compute.
    fn times_fused(&self, rows: &[f32], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(self.columns).zip(out.chunks_exact_mut(self.rows())) {
            for (values, out) in self.values.chunks_exact(self.columns).zip(out) {
                let sum = row.iter().zip(values).fold(0.0f32, |sum, (x, a)| x.mul_add(*a, sum));
                // A sum may be -0, a score is not.
                *out = 0.0 + sum;
            }
        }
    }
}

pub(super) fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| (value as f32).clamp(f32::MIN, f32::MAX)).collect()
}

/// A product as it is, without the terms that make it a distance.
static NORMS: [f32; ROWS_MAX] = [0.0; ROWS_MAX];

/// At most [`ROWS_MAX`] rows of `dim` with all columns of the panels.
fn products(dim: usize, rows: &[f32], panels: &[f32], bias: &[f32], out: &mut [f32], stride: usize) {
    let norms = &NORMS[..rows.len() / dim];
    let product = Product { dim, rows, norms, panels, bias, factor: 1.0, floor: f32::NEG_INFINITY };
    Kernels::get().scores(&product, out, stride);
}

/// Rows that are summed in f32.
const BLOCK: usize = 256;

/// Groups of blocks that are summed by themselves, and the numbers that all their sums may take.
const GROUPS: usize = 16;
const GROUP_VALUES: usize = 1 << 23;

/// Writes some rows of x and of y.
pub(super) type Fill<'a> = &'a (dyn Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync);

/// Σ xᵢ yᵢᵀ over `n` rows of so many components, which `fill` writes a block at a time.
pub(super) fn outer(n: usize, (dim_x, dim_y): (usize, usize), fill: Fill<'_>) -> Dense {
    let blocks = n.div_ceil(BLOCK);
    let groups = GROUPS.min(GROUP_VALUES / (dim_x * dim_y)).clamp(1, blocks.max(1));
    let rows_a_group = blocks.div_ceil(groups) * BLOCK;
    let group = |group: usize| {
        let rows = n.min(group * rows_a_group)..n.min((group + 1) * rows_a_group);
        outer_of_group(rows, (dim_x, dim_y), fill)
    };
    let sums: Vec<Dense> = (0..groups).into_par_iter().map(group).collect();
    let mut out = Dense::zeros(dim_x, dim_y);
    for sum in sums {
        out.values.iter_mut().zip(&sum.values).for_each(|(out, sum)| *out += sum);
    }
    out
}

fn outer_of_group(rows: Range<usize>, (dim_x, dim_y): (usize, usize), fill: Fill<'_>) -> Dense {
    let padded = dim_y.next_multiple_of(PANEL);
    let (mut x, mut y) = (vec![0.0; BLOCK * dim_x], vec![0.0; BLOCK * dim_y]);
    let (mut turned, mut panels) = (vec![0.0; BLOCK * dim_x], AlignedVec::zeros(BLOCK * padded));
    let (bias, mut part) = (vec![0.0; padded], vec![0.0; ROWS_MAX * dim_y]);
    let mut out = Dense::zeros(dim_x, dim_y);
    for first in rows.clone().step_by(BLOCK) {
        let block = first..rows.end.min(first + BLOCK);
        let len = block.len();
        let (x, y) = (&mut x[..len * dim_x], &mut y[..len * dim_y]);
        fill(block, x, y);
        turn(x, dim_x, &mut turned);
        pack(y, dim_y, &mut panels);
        let turned = turned[..len * dim_x].chunks(ROWS_MAX * len);
        for (turned, out) in turned.zip(out.values.chunks_mut(ROWS_MAX * dim_y)) {
            let part = &mut part[..out.len()];
            products(len, turned, &panels[..len * padded], &bias, part, dim_y);
            out.iter_mut().zip(&*part).for_each(|(out, &part)| *out += f64::from(part));
        }
    }
    out
}

/// Components after components.
fn turn(rows: &[f32], dim: usize, out: &mut [f32]) {
    let len = rows.len() / dim;
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        row.iter().enumerate().for_each(|(d, &value)| out[d * len + i] = value);
    }
}

/// The components as columns, the rows as the dimension that is summed over.
fn pack(rows: &[f32], dim: usize, panels: &mut [f32]) {
    let len = rows.len() / dim;
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        for (p, part) in row.chunks(PANEL).enumerate() {
            panels[(p * len + i) * PANEL..][..part.len()].copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gaussian::Gaussian;
    use super::*;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        let mut gaussian = Gaussian::new(seed);
        (0..count).map(|_| gaussian.draw() as f32).collect()
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        for (n, columns, rows) in [(1, 1, 1), (3, 5, 33), (97, 40, 32), (200, 17, 70)] {
            let (x, a) = (floats(n * columns, 1), floats(rows * columns, 2));
            let mut out = vec![0.0; n * rows];
            let matrix = Matrix::new(a.clone(), columns);
            matrix.times(&x, &mut out);
            for (i, x) in x.chunks_exact(columns).enumerate() {
                for (j, a) in a.chunks_exact(columns).enumerate() {
                    let expected: f64 = x.iter().zip(a).map(|(x, a)| f64::from(*x) * f64::from(*a)).sum();
                    assert!((f64::from(out[i * rows + j]) - expected).abs() < 1e-4);
                }
            }
            assert_eq!(matrix.transposed().transposed().values(), a);
        }
    }

    /// Whichever table is chosen here fuses, or this machine could not tell.
    #[test]
    fn a_product_has_the_same_bits_with_and_without_kernels_that_fuse() {
        for (n, columns, rows) in [(3, 5, 33), (97, 40, 32), (20, 384, 70)] {
            let (x, a) = (floats(n * columns, 5), floats(rows * columns, 6));
            let (mut by_kernel, mut by_hand) = (vec![0.0; n * rows], vec![0.0; n * rows]);
            let matrix = Matrix::new(a, columns);
            matrix.times(&x, &mut by_kernel);
            matrix.times_fused(&x, &mut by_hand);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&by_kernel), bits(&by_hand));
        }
    }

    #[test]
    fn zeros_have_no_sign() {
        let mut out = [7.0; 2];
        Matrix::new(vec![-1.0, 1.0], 1).times(&[0.0], &mut out);
        assert_eq!(out.map(f32::to_bits), [0, 0]);
    }

    /// Sizes around blocks, groups, tiles and panels.
    #[test]
    fn outer_products_are_those_of_plain_loops() {
        for (n, dim_x, dim_y) in [(0, 3, 4), (1, 1, 1), (255, 3, 40), (257, 97, 5), (5000, 8, 33)] {
            let (x, y) = (floats(n * dim_x, 3), floats(n * dim_y, 4));
            let fill = |rows: Range<usize>, into_x: &mut [f32], into_y: &mut [f32]| {
                into_x.copy_from_slice(&x[rows.start * dim_x..rows.end * dim_x]);
                into_y.copy_from_slice(&y[rows.start * dim_y..rows.end * dim_y]);
            };
            let found = outer(n, (dim_x, dim_y), &fill);
            for i in 0..dim_x {
                for j in 0..dim_y {
                    let term = |r: usize| f64::from(x[r * dim_x + i]) * f64::from(y[r * dim_y + j]);
                    let expected: f64 = (0..n).map(term).sum();
                    assert!((found.row(i)[j] - expected).abs() < 1e-6 * n as f64 + 1e-9, "{n} {i} {j}");
                }
            }
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(one.install(|| outer(n, (dim_x, dim_y), &fill)), found);
        }
    }
}
