//! The 4-bit product code of fast scan: half a byte for each of m sub-spaces, scored through tables of bytes.
//!
//! With c the list's centroid, y what the code's points make up, µ the mean of the centroids:
//!
//! ```text
//! vectors (PQ32x4fs)       L2       Σ_j ‖q_j − y_j‖²                       product   −Σ_j ⟨q_j, y_j⟩
//! residuals (PQ32x4fsr)    L2       ‖q − c‖² + b − 2·Σ_j ⟨q_j − µ_j, y_j⟩     b = ‖y‖² + 2⟨c − µ, y⟩     f32 an entry
//!                          product  −⟨q, c⟩ − Σ_j ⟨q_j, y_j⟩
//! ```
//! So one table a query serves all lists: FAISS makes one for each list where codes are residuals and distances L2. The
//! mean changes nothing but the size of what is rounded to bytes: data far from the origin has tables as exact as
//! data about it. The sums over j are of bytes ([`FastTables`]), which m/2 steps bound.
//!
//! ```text
//! packed code   ⌈m/2⌉ bytes, the even sub-space in the low half | b for residuals by L2
//! tables        points m × 16 × (dim/m), f32 | µ for residuals by L2, dim × f32                little-endian
//! ```
//! With a threshold the code is not that of the nearest points: see [`anisotropic`].
//!
//! An odd m is filled up with a sub-space of zeros. A block's layout is drawn in `kernel/fast_scan`.

pub(super) mod anisotropic;
mod scanner;
#[cfg(test)]
mod tests;

pub(crate) use scanner::FastScanner;

use super::{Assigned, Codec, KeptForm, Scanner, Training};
use crate::encoding::{FastScan, Real};
use crate::kernel::{FastTables, Kernels, POINTS, Similarity};
use crate::layout::{Factors, Layout};
use crate::math::product::{Effort, ProductBook};
use crate::{NORM_MAX, Observer, Result, Rows};
use std::borrow::Cow;

/// Bits of an index.
const BITS: usize = 4;

/// A trained 4-bit product code.
pub(crate) struct ProductFastScan {
    similarity: Similarity,
    residual: bool,
    /// Codes are chosen by weighted errors.
    anisotropic: Option<f32>,
    book: ProductBook,
    /// µ; empty but for residuals by L2.
    mean: Vec<f32>,
    kernels: &'static Kernels,
}

impl ProductFastScan {
    /// Rows that training wants at most.
    pub(crate) fn training_rows(_params: FastScan) -> Option<usize> {
        Some(ProductBook::training_rows(BITS))
    }

    /// Trains the points on the sample, or on its residuals.
    pub(crate) fn train(
        params: FastScan,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let Training { sample, similarity, seed, iterations, rows: most } = *training;
        let (dim, m) = (sample.rows.dim(), usize::from(params.subspaces));
        let residuals;
        let rows = if params.residual {
            residuals = sample.residuals();
            Rows::of(&residuals, dim)
        } else {
            sample.rows
        };
        let book = ProductBook::train(rows, m, BITS, Effort { seed, iterations, rows: most }, observer)?;
        let mean = if has_bias(params, similarity) { sample.origin() } else { Vec::new() };
        Ok(Self::new(params, similarity, book, mean))
    }

    /// The code of stored tables, or why it cannot be.
    pub(crate) fn from_tables(
        params: FastScan,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> Result<Self, String> {
        let m = usize::from(params.subspaces);
        let points = dim.checked_mul(4 << BITS).filter(|points| *points <= tables.len());
        let (points, mean) = tables.split_at(points.ok_or_else(|| short(params, dim, tables))?);
        let book = ProductBook::from_bytes(dim, m, BITS, points)?;
        let wanted = if has_bias(params, similarity) { 4 * dim } else { 0 };
        if mean.len() != wanted {
            return Err(short(params, dim, tables));
        }
        let mean: Vec<f32> = mean.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let long = |row: &[f32], most: f64| {
            row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() > most * f64::from(NORM_MAX)
        };
        // Residuals are no longer than twice the longest row, and k-means moves points by a thousandth.
        if book.centroids().chunks_exact(book.dsub()).any(|point| long(point, 2.1)) {
            return Err(format!("{params} has a point longer than any residual"));
        }
        if mean.iter().any(|v| !v.is_finite()) || long(&mean, 1.001) {
            return Err(format!("{params} has a mean longer than any row"));
        }
        Ok(Self::new(params, similarity, book, mean))
    }

    fn new(params: FastScan, similarity: Similarity, book: ProductBook, mean: Vec<f32>) -> Self {
        let anisotropic = params.anisotropic.map(Real::get);
        ProductFastScan {
            similarity,
            residual: params.residual,
            anisotropic,
            book,
            mean,
            kernels: Kernels::get(),
        }
    }

    /// Sub-spaces with the one of zeros.
    fn subspaces(&self) -> usize {
        self.book.m().next_multiple_of(2)
    }

    fn has_bias(&self) -> bool {
        !self.mean.is_empty()
    }

    /// What all scores of residuals in the list of `centroid` are given of an entry's own.
    fn bias(&self, centroid: Option<&[f32]>, decoded: &[f32]) -> f32 {
        let term = |p: usize| {
            let (y, mean) = (f64::from(decoded[p]), f64::from(self.mean[p]));
            let c = centroid.map_or(0.0, |centroid| f64::from(centroid[p]));
            y * (y + 2.0 * (c - mean))
        };
        let bias: f64 = (0..decoded.len()).map(term).sum();
        bias.clamp(-scanner::BASE_MAX / 2.0, scanner::BASE_MAX / 2.0) as f32
    }

    /// What each point adds to the scores of a query.
    fn values(&self, query: &[f32], centred: &mut Vec<f32>, values: &mut [f32]) {
        let values = &mut values[..self.book.m() * POINTS];
        match (self.similarity, self.residual) {
            (Similarity::Dot, _) => self.book.table(Similarity::Dot, query, -1.0, values),
            (Similarity::L2, false) => self.book.table(Similarity::L2, query, 1.0, values),
            (Similarity::L2, true) => {
                centred.clear();
                centred.extend(query.iter().zip(&self.mean).map(|(q, mean)| q - mean));
                self.book.table(Similarity::Dot, centred, -2.0, values);
            }
        }
    }
}

/// True if entries have biases.
fn has_bias(params: FastScan, similarity: Similarity) -> bool {
    params.residual && similarity == Similarity::L2
}

fn short(params: FastScan, dim: usize, tables: &[u8]) -> String {
    format!("{} bytes of tables for {params} of {dim} components", tables.len())
}

impl Codec for ProductFastScan {
    fn layout(&self) -> Layout {
        let factors = if self.has_bias() { Factors::Bias } else { Factors::None };
        Layout::Nibbles { subspaces: self.subspaces(), factors, extra: 0 }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Vec<u8> {
        let mut tables = self.book.to_bytes();
        tables.extend(self.mean.iter().flat_map(|value| value.to_le_bytes()));
        tables
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let dim = self.book.dim();
        let targets = if self.residual { rows.residuals() } else { Cow::Borrowed(rows.rows.as_slice()) };
        let targets = Rows::of(&targets, dim);
        let choose = |codes: &mut Vec<u8>| match self.anisotropic {
            Some(threshold) => anisotropic::encode(&self.book, threshold, rows.rows, targets, codes),
            None => self.book.encode(targets, codes),
        };
        if !self.has_bias() {
            return choose(codes);
        }
        let (mut nibbles, mut decoded) = (Vec::new(), vec![0.0; dim]);
        choose(&mut nibbles);
        codes.reserve(rows.rows.len() * self.layout().code_bytes());
        for (code, list) in nibbles.chunks_exact(self.book.code_bytes()).zip(rows.lists) {
            self.book.decode(code, &mut decoded);
            let centroid = rows.centroids.map(|centroids| centroids.row(*list as usize));
            codes.extend_from_slice(code);
            codes.extend_from_slice(&self.bias(centroid, &decoded).to_le_bytes());
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        self.book.decode(&code[..self.book.code_bytes()], row);
        if let (true, Some(centroid)) = (self.residual, centroid) {
            row.iter_mut().zip(centroid).for_each(|(x, c)| *x += c);
        }
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let mut tables = FastTables::new(self.subspaces());
        let (mut values, mut centred) = (vec![0.0; self.subspaces() * POINTS], Vec::new());
        for query in queries.iter() {
            self.values(query, &mut centred, &mut values);
            tables.push(self.kernels, &values);
        }
        let origin = |query: &[f32]| match self.similarity {
            Similarity::L2 => query.iter().map(|q| f64::from(*q) * f64::from(*q)).sum::<f64>() as f32,
            Similarity::Dot => 0.0,
        };
        let origins = self.residual.then(|| queries.iter().map(origin).collect());
        Box::new(FastScanner::new(self.kernels, self.subspaces(), self.has_bias(), tables, origins))
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}
