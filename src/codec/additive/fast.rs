//! Additive codes of 4-bit books in fast scan: sums of bytes instead of floats, 32 entries at a time.
//!
//! ```text
//! with a bias (no norm spelt)   L2   ‖q − c‖² + b − 2⟨q − µ, y⟩      b = ‖y‖² + 2⟨c − µ, y⟩     f32 an entry, exact
//! _Nlsq2x4, _Nrq2x4             L2   ‖q − c‖² − ‖c‖² + n − 2⟨q, y⟩   n ≈ ‖c + y‖², two nibbles more    FAISS's codes
//! product                       −⟨q, c⟩ − ⟨q, y⟩
//! `fs` instead of `fsr`         c = µ = 0
//! ```
//! µ is the mean of the centroids, which keeps tables small. One table a query serves all lists. n is looked up as
//! words are: its two nibbles are two more sub-spaces, whose tables hold the two books of the norm's code. FAISS
//! divides those by a factor so that sums fit into 16 bits; here sums have 32.
//!
//! The packed code is the nibbles, norm and all, filled up to whole bytes, and the bias.

use super::bits::BitWriter;
use super::norm::NORM_SQUARED_MAX;
use super::{Additive, of_form};
use crate::codec::fast_scan::FastScanner;
use crate::codec::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Training, Visit};
use crate::encoding::{AdditiveCode, AdditiveNorm};
use crate::kernel::{FastTables, Found, POINTS, Similarity};
use crate::layout::{Factors, Layout};
use crate::math::linalg::dot;
use crate::{Observer, Result, Rows};
use rayon::prelude::*;

/// A trained additive code that is scanned by tables of bytes.
pub(crate) struct AdditiveFastScan {
    code: Additive,
}

impl AdditiveFastScan {
    /// As [`Additive::train`].
    pub(crate) fn train(
        form: AdditiveCode,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        Additive::train(form.with_fast_scan(true), training, observer).map(|code| AdditiveFastScan { code })
    }

    /// As [`Additive::from_tables`].
    pub(crate) fn from_tables(
        form: AdditiveCode,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> std::result::Result<Self, String> {
        let form = form.with_fast_scan(true);
        Additive::from_tables(form, dim, similarity, tables).map(|code| AdditiveFastScan { code })
    }

    /// Nibbles of a code, an even number.
    fn subspaces(&self) -> usize {
        2 * self.code.form.code_bytes()
    }

    /// True if norms are nibbles.
    fn coded_norms(&self) -> bool {
        self.code.form.norm() != AdditiveNorm::Decompress
    }

    fn biased(&self) -> bool {
        self.code.similarity == Similarity::L2 && !self.coded_norms()
    }

    fn encode_rows(&self, first: usize, data: &[f32], rows: &Assigned<'_>, codes: &mut [u8]) {
        let code = &self.code;
        let indices = code.indices(Rows::of(data, code.dim));
        let mut decoded = vec![0.0; code.dim];
        let bytes = code.form.code_bytes();
        let outs = codes.chunks_exact_mut(self.layout().code_bytes());
        for (r, (out, words)) in outs.zip(indices.chunks_exact(code.book_count())).enumerate() {
            let (nibbles, bias) = out.split_at_mut(bytes);
            let mut writer = BitWriter::new(nibbles);
            words.iter().for_each(|k| writer.write(u32::from(*k), 4));
            code.sum(words.iter().map(|k| usize::from(*k)), &mut decoded);
            let centroid = rows.centroids.filter(|_| code.form.residual());
            let centroid = centroid.map(|centroids| centroids.row(rows.lists[first + r] as usize));
            if self.coded_norms() {
                writer.write(code.norm.encode(whole_norm(&mut decoded, centroid)), 8);
            } else if self.biased() {
                bias.copy_from_slice(&self.bias(&decoded, centroid).to_le_bytes());
            }
        }
    }

    fn bias(&self, decoded: &[f32], centroid: Option<&[f32]>) -> f32 {
        let term = |d: usize| {
            let y = f64::from(decoded[d]);
            let away = match (self.code.form.residual(), centroid) {
                (false, _) => 0.0,
                (true, None) => -f64::from(self.code.origin[d]),
                (true, Some(c)) => f64::from(c[d]) - f64::from(self.code.origin[d]),
            };
            y * (y + 2.0 * away)
        };
        let bias: f64 = (0..decoded.len()).map(term).sum();
        bias.clamp(-f64::from(NORM_SQUARED_MAX), f64::from(NORM_SQUARED_MAX)) as f32
    }

    /// What each nibble adds to the score of a query, of which `products` are the negated products with all words.
    fn values(&self, products: &[f32], values: &mut [f32]) {
        let factor = if self.code.similarity == Similarity::L2 { 2.0 } else { 1.0 };
        values.fill(0.0);
        values.iter_mut().zip(products).for_each(|(value, product)| *value = factor * product);
        if self.code.similarity == Similarity::L2 {
            let norms = self.code.norm.stored();
            values[products.len()..].iter_mut().zip(norms).for_each(|(value, norm)| *value = norm);
        }
    }
}

/// ‖c + y‖².
pub(super) fn whole_norm(decoded: &mut [f32], centroid: Option<&[f32]>) -> f32 {
    if let Some(centroid) = centroid {
        decoded.iter_mut().zip(centroid).for_each(|(y, c)| *y += c);
    }
    Additive::squared_norm(decoded)
}

impl Codec for AdditiveFastScan {
    fn layout(&self) -> Layout {
        let factors = if self.biased() { Factors::Bias } else { Factors::None };
        Layout::Nibbles { subspaces: self.subspaces(), factors, extra: 0 }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Vec<u8> {
        self.code.tables()
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let data = of_form(&self.code.form, &rows);
        let (start, bytes) = (codes.len(), self.layout().code_bytes());
        codes.resize(start + rows.rows.len() * bytes, 0);
        let tasks = codes[start..].par_chunks_mut(super::TASK_ROWS * bytes);
        let tasks = tasks.zip(data.par_chunks(super::TASK_ROWS * self.code.dim)).enumerate();
        tasks.for_each(|(task, (codes, data))| self.encode_rows(task * super::TASK_ROWS, data, &rows, codes));
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        self.code.decode(centroid, &code[..self.code.form.code_bytes()], row);
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let code = &self.code;
        let mut moved = queries.as_slice().to_vec();
        if code.relative() && self.biased() {
            for row in moved.chunks_exact_mut(code.dim) {
                row.iter_mut().zip(&code.origin).for_each(|(x, o)| *x -= o);
            }
        }
        let products = code.products(Rows::of(&moved, code.dim));
        let mut tables = FastTables::new(self.subspaces());
        let mut values = vec![0.0; self.subspaces() * POINTS];
        for products in products.chunks_exact(code.width()) {
            self.values(products, &mut values);
            tables.push(code.kernels, &values);
        }
        // Bases are ours to compute, with and without centroids.
        let origins = Some(vec![0.0; queries.len()]);
        let scanner = FastScanner::new(code.kernels, self.subspaces(), self.biased(), tables, origins);
        Box::new(FastVisits { codec: self, queries, scanner, visits: Vec::new() })
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

/// A fast scan whose scores begin with what additive codes need.
struct FastVisits<'a> {
    codec: &'a AdditiveFastScan,
    queries: Rows<'a>,
    scanner: FastScanner,
    visits: Vec<Visit>,
}

impl Scanner for FastVisits<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        let FastVisits { codec, queries, scanner, visits } = self;
        let code = &codec.code;
        // The norm that is stored has the centroid's in it already.
        let inside = match probe.centroid.filter(|_| code.relative() && codec.coded_norms()) {
            Some(centroid) => dot::<8>(centroid, centroid),
            None => 0.0,
        };
        visits.clear();
        visits.extend(probe.visits.iter().map(|visit| {
            let base = code.base(&probe, queries.row(visit.query as usize), visit);
            Visit { query: visit.query, coarse: base - inside }
        }));
        let mut probe = probe;
        probe.centroid = Some(&[]);
        probe.visits = visits;
        scanner.enter(probe);
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        self.scanner.scan(block, first, worst, live, found);
    }
}
