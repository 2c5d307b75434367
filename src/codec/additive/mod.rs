//! Additive codes: residual and local search quantizers and their product forms.
//!
//! With c the list's centroid, r = x − c (or x itself), y the sum of the words that the code names:
//!
//! ```text
//! code      the words' numbers, bit after bit, and ‖y‖² in a few bits (`norm`)           FAISS's bytes
//! L2        ‖q − x‖² ≈ ‖q − c‖² + ‖y‖² − 2⟨q − c, y⟩                          (`_raw`: c = 0)
//! product   −⟨q, x⟩  ≈ −⟨q, c⟩ − ⟨q, y⟩
//! ```
//! ⟨q, y⟩ is a sum of one number a book out of a table of ⟨q, w⟩ for all words w (`scan`). What FAISS computes for each
//! (query, list) is the table of q − c; here it is the difference of the query's table and the list's, of which the one
//! is made once for all lists and the other once for all queries. Both are relative to an origin, the mean of the
//! centroids, so that their difference does not lose what is far from 0.
//!
//! Tables of the trained code, all f32: the words, part after part and book after book; the origin; the norm's
//! (`norm`).

mod beam;
mod bits;
mod books;
mod cluster;
mod fast;
mod local;
mod norm;
mod residual;
mod scan;
mod squares;
#[cfg(test)]
mod tests;

pub(crate) use fast::AdditiveFastScan;

use super::{Assigned, Codec, KeptForm, Scanner, Training};
use crate::encoding::{AdditiveCode, AdditiveKind, AdditiveNorm};
use crate::kernel::{Kernels, Similarity};
use crate::layout::Layout;
use crate::math::linalg::{Panels, dot};
use crate::progress::Observer;
use crate::{Error, Result, Rows};
use bits::{BitReader, BitWriter};
use books::{Books, Cross};
use norm::NormCode;
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// A trained additive code of `dim` components.
pub(crate) struct Additive {
    form: AdditiveCode,
    dim: usize,
    similarity: Similarity,
    /// Of the books of a part.
    bits: Vec<u8>,
    parts: Vec<Part>,
    origin: Vec<f32>,
    norm: NormCode,
    lists: scan::ListTables,
    kernels: &'static Kernels,
}

/// The books of one part of the components.
struct Part {
    dim: usize,
    words: Vec<f32>,
    panels: Panels,
    /// Made when the first row is encoded: a search needs none.
    books: OnceLock<Books>,
}

/// The largest component that a word may have: any sum of words is finite, and longer than any vector that is let in.
const WORD_MAX: f32 = 4e19;

/// Rows whose norms are learnt from, where finding a code is slow.
const LOCAL_NORM_ROWS: usize = 16_384;

/// Training rows for each word of a book, where training is slow.
const LOCAL_ROWS_A_WORD: usize = 128;

/// Training rows, at most.
const TRAINING_MAX: usize = 1 << 20;

/// Rows encoded by one task.
const TASK_ROWS: usize = 192;

/// The stage of training, as observers are told.
const STAGE: &str = "encoder";

/// How far training has come.
struct Progress<'o, 'c> {
    observer: &'o mut Observer<'c>,
    done: u64,
    total: u64,
}

impl<'o, 'c> Progress<'o, 'c> {
    fn new(observer: &'o mut Observer<'c>, total: u64) -> Self {
        Progress { observer, done: 0, total }
    }

    /// One step more.
    fn tick(&mut self) -> Result<()> {
        self.done += 1;
        self.observer.tick(STAGE, self.done, self.total)
    }

    /// Work that ticks by itself, within a step.
    fn watch<T>(&mut self, work: impl FnOnce(&mut Observer<'_>) -> Result<T>) -> Result<T> {
        let Progress { observer, done, total } = self;
        let mut relay = |_| match observer.tick(STAGE, *done, *total) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        work(&mut Observer::new(&mut relay))
    }
}

impl Additive {
    /// Rows that training asks for: fewer than FAISS takes (1,024 a word, times the books for local search), as many as
    /// it clusters.
    pub(crate) fn training_rows(form: &AdditiveCode) -> Option<usize> {
        let words = form.bits().into_iter().max().map_or(0, |bits| 1usize << bits.min(16));
        let a_word = match form.kind() {
            AdditiveKind::Residual => residual::ROWS_A_WORD,
            AdditiveKind::LocalSearch => LOCAL_ROWS_A_WORD,
        };
        Some((words * a_word).min(TRAINING_MAX))
    }

    /// Trains the books and the norm's code.
    ///
    /// # Errors
    /// [`Error::Spec`] for a form that `dim` components cannot have; [`Error::TooFewRows`] without any row;
    /// [`Error::Cancelled`].
    pub(crate) fn train(
        form: AdditiveCode,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let rows = training.sample.rows;
        form.check(rows.dim())?;
        if rows.is_empty() {
            return Err(Error::TooFewRows { rows: 0, needed: 1 });
        }
        let data = of_form(&form, &training.sample);
        let rows = Rows::of(&data, rows.dim());
        let bits = form.bits();
        let rounds = match form.kind() {
            AdditiveKind::Residual => 0,
            AdditiveKind::LocalSearch => local::TRAIN_ROUNDS,
        };
        let mut progress = Progress::new(observer, (form.parts() * (bits.len() + rounds)) as u64);
        let part_dim = rows.dim() / form.parts();
        let mut words = Vec::with_capacity(form.parts());
        for part in 0..form.parts() {
            let seed = training.seed.wrapping_add((part as u64) << 32);
            let columns = columns(rows, part * part_dim, part_dim);
            let rows = Rows::of(&columns, part_dim);
            let mut trained = match form.kind() {
                AdditiveKind::Residual => residual::train(&bits, rows, beam::BEAM, seed, &mut progress)?,
                AdditiveKind::LocalSearch => local::train(&bits, rows, seed, &mut progress)?,
            };
            trained.iter_mut().for_each(|w| *w = w.clamp(-WORD_MAX, WORD_MAX));
            words.push(trained);
        }
        let mut origin = training.sample.origin();
        origin.iter_mut().for_each(|x| *x = x.clamp(-WORD_MAX, WORD_MAX));
        let mut code = Additive::new(form, training.similarity, words, origin, NormCode::Nothing);
        if norm::stored_len(form.norm()) > 0 {
            let norms = code.sampled_norms(rows, &training.sample);
            code.norm = NormCode::train(form.norm(), &norms, training.seed)?;
        } else {
            code.norm = NormCode::from_stored(form.norm(), Vec::new());
        }
        Ok(code)
    }

    /// From what [`Codec::tables`] gave.
    ///
    /// # Errors
    /// The reason why these bytes are no such tables.
    pub(crate) fn from_tables(
        form: AdditiveCode,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> std::result::Result<Self, String> {
        form.check(dim).map_err(|e| e.to_string())?;
        let words = form.words() * (dim / form.parts());
        let stored = norm::stored_len(form.norm());
        let expected = 4 * (form.parts() * words + dim + stored);
        if tables.len() != expected {
            return Err(format!("{} bytes of tables, expected {expected}", tables.len()));
        }
        let floats: Vec<f32> =
            tables.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if floats.iter().any(|value| !value.is_finite()) {
            return Err("tables with NaN or infinity".into());
        }
        let (all_words, rest) = floats.split_at(form.parts() * words);
        if all_words.iter().chain(&rest[..dim]).any(|w| w.abs() > WORD_MAX) {
            return Err(format!("words with components beyond {WORD_MAX:e}"));
        }
        let (origin, stored) = rest.split_at(dim);
        let words = all_words.chunks_exact(words).map(<[f32]>::to_vec).collect();
        let norm = NormCode::from_stored(form.norm(), stored.to_vec());
        Ok(Additive::new(form, similarity, words, origin.to_vec(), norm))
    }

    fn new(
        form: AdditiveCode,
        similarity: Similarity,
        words: Vec<Vec<f32>>,
        origin: Vec<f32>,
        norm: NormCode,
    ) -> Self {
        let dim = origin.len();
        let part_dim = dim / words.len();
        let part = |words: Vec<f32>| Part {
            dim: part_dim,
            panels: Panels::new(Rows::of(&words, part_dim)),
            words,
            books: OnceLock::new(),
        };
        Additive {
            form,
            dim,
            similarity,
            bits: form.bits(),
            parts: words.into_iter().map(part).collect(),
            origin,
            norm,
            lists: scan::ListTables::default(),
            kernels: Kernels::get(),
        }
    }

    /// Books of all parts.
    fn book_count(&self) -> usize {
        self.bits.len() * self.parts.len()
    }

    /// The words' numbers of rows that are what the code is of: rows × books.
    fn indices(&self, rows: Rows<'_>) -> Vec<u16> {
        let (depth, count) = (self.bits.len(), self.book_count());
        let mut out = vec![0; rows.len() * count];
        for (p, part) in self.parts.iter().enumerate() {
            let books = part.books(&self.bits, self.form.kind());
            let mut columns = columns(rows, p * part.dim, part.dim);
            columns.iter_mut().for_each(|x| *x *= books.unit);
            let columns = Rows::of(&columns, part.dim);
            let codes = match self.form.kind() {
                AdditiveKind::Residual => residual::encode(books, columns),
                AdditiveKind::LocalSearch => local::encode(books, columns),
            };
            for (out, codes) in out.chunks_exact_mut(count).zip(codes.chunks_exact(depth)) {
                out[p * depth..][..depth].copy_from_slice(codes);
            }
        }
        out
    }

    /// y, from the words' numbers.
    fn sum(&self, indices: impl Iterator<Item = usize>, out: &mut [f32]) {
        let mut indices = indices;
        let mut chosen: Vec<&[f32]> = Vec::with_capacity(self.bits.len());
        for (part, out) in self.parts.iter().zip(out.chunks_exact_mut(self.dim / self.parts.len())) {
            let mut start = 0;
            chosen.clear();
            for (bits, k) in self.bits.iter().zip(&mut indices) {
                chosen.push(&part.words[(start + k) * part.dim..][..part.dim]);
                start += 1 << bits;
            }
            if let Some((first, rest)) = chosen.split_first() {
                self.kernels.sum_rows(first, rest, out);
            }
        }
    }

    /// ‖y‖², summed in one order on every machine.
    fn squared_norm(decoded: &[f32]) -> f32 {
        dot::<8>(decoded, decoded).min(norm::NORM_SQUARED_MAX)
    }

    /// ‖y‖² of training rows; of fast scans ‖c + y‖².
    fn sampled_norms(&self, rows: Rows<'_>, sample: &Assigned<'_>) -> Vec<f32> {
        let centroids = sample.centroids.filter(|_| self.form.fast_scan() && self.form.residual());
        let most = match self.form.kind() {
            AdditiveKind::Residual => rows.len(),
            AdditiveKind::LocalSearch => rows.len().min(LOCAL_NORM_ROWS),
        };
        let indices = self.indices(rows.slice(0..most));
        let mut decoded = vec![0.0; self.dim];
        let codes = indices.chunks_exact(self.book_count());
        codes
            .zip(sample.lists)
            .map(|(code, list)| {
                self.sum(code.iter().map(|k| usize::from(*k)), &mut decoded);
                fast::whole_norm(&mut decoded, centroids.map(|centroids| centroids.row(*list as usize)))
            })
            .collect()
    }

    /// Encodes rows that are what the code is of.
    fn encode_rows(&self, rows: Rows<'_>, codes: &mut [u8]) {
        let indices = self.indices(rows);
        let mut decoded = vec![0.0; self.dim];
        let norm_bits = self.form.norm().bits() as u32;
        let outs = codes.chunks_exact_mut(self.form.code_bytes());
        for (out, code) in outs.zip(indices.chunks_exact(self.book_count())) {
            let mut writer = BitWriter::new(out);
            for (k, bits) in code.iter().zip(self.bits.iter().cycle()) {
                writer.write(u32::from(*k), u32::from(*bits));
            }
            if norm_bits > 0 {
                self.sum(code.iter().map(|k| usize::from(*k)), &mut decoded);
                writer.write(self.norm.encode(Additive::squared_norm(&decoded)), norm_bits);
            }
        }
    }
}

impl Part {
    /// The books for encoding.
    fn books(&self, bits: &[u8], kind: AdditiveKind) -> &Books {
        let cross = match kind {
            AdditiveKind::Residual => Cross::Before,
            AdditiveKind::LocalSearch => Cross::All,
        };
        self.books.get_or_init(|| Books::new(self.dim, bits, &self.words, cross))
    }
}

/// What the code is of: the rows, or what their centroids leave over.
fn of_form<'a>(form: &AdditiveCode, rows: &Assigned<'a>) -> std::borrow::Cow<'a, [f32]> {
    match form.residual() {
        true => rows.residuals(),
        false => std::borrow::Cow::Borrowed(rows.rows.as_slice()),
    }
}

/// Some components of all rows.
fn columns(rows: Rows<'_>, first: usize, count: usize) -> Vec<f32> {
    rows.iter().flat_map(|row| &row[first..first + count]).copied().collect()
}

/// Bytes of the tables of queries that are scanned for together.
const BATCH_BYTES: usize = 4 << 20;

impl Codec for Additive {
    fn batch(&self) -> usize {
        (BATCH_BYTES / (4 * self.width())).clamp(8, 4096)
    }

    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.form.code_bytes() }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Vec<u8> {
        let words = self.parts.iter().flat_map(|part| &part.words);
        let stored = self.norm.stored();
        words.chain(&self.origin).chain(&stored).flat_map(|value| value.to_le_bytes()).collect()
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let data = of_form(&self.form, &rows);
        let (start, bytes) = (codes.len(), self.form.code_bytes());
        codes.resize(start + rows.rows.len() * bytes, 0);
        let tasks =
            codes[start..].par_chunks_mut(TASK_ROWS * bytes).zip(data.par_chunks(TASK_ROWS * self.dim));
        tasks.for_each(|(codes, rows)| self.encode_rows(Rows::of(rows, self.dim), codes));
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        let mut reader = BitReader::new(code);
        let fields = self.bits.iter().cycle().take(self.book_count());
        self.sum(fields.map(|bits| reader.read(u32::from(*bits)) as usize), row);
        if let Some(centroid) = centroid.filter(|_| self.form.residual()) {
            row.iter_mut().zip(centroid).for_each(|(x, c)| *x += c);
        }
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        match (self.similarity, self.form.norm()) {
            (Similarity::L2, AdditiveNorm::Decompress) => Box::new(scan::DecodingScanner::new(self, queries)),
            _ => Box::new(scan::TableScanner::new(self, queries)),
        }
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}
