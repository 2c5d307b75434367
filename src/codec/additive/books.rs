//! The books of one part, prepared for encoding.
//!
//! Encoding compares sums of words with a vector r, and
//!
//! ```text
//! ‖r − Σ w‖² = ‖r‖² + Σ_m (‖w_m‖² − 2⟨r, w_m⟩) + Σ_{l<m} 2⟨w_l, w_m⟩
//!                          └── own ──┘                └ cross ┘
//! ```
//! `own` takes one matrix product for all words at once; `cross` depends on the books alone and is made once. What a
//! word of book m adds, for all words of it, is then a sum of rows of `cross`, one for each word chosen before, and
//! nothing as long as the vector is touched again.
//!
//! All of it is scaled by a power of two that brings the books near 1, so that no product overflows: exact, and the
//! codes are the same.

use crate::Rows;
use crate::kernel::{Kernels, Similarity};
use crate::math::linalg::Panels;

/// Floats of all books' cross products, about: 256 MiB. Beyond it the residual itself is carried along.
const CROSS_MAX: usize = 1 << 26;

/// What a book is crossed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cross {
    /// Nothing: for decoding.
    Nothing,
    /// The books before it.
    Before,
    /// All books.
    All,
}

/// One book of `words` words.
pub(super) struct Stage {
    pub(super) words: usize,
    panels: Panels,
    /// ‖w‖²
    norms: Vec<f32>,
    /// 2⟨w', w⟩, a row for each word w' of the books it is crossed with; none where that is too much.
    pub(super) cross: Option<Vec<f32>>,
}

impl Stage {
    /// The book of `words`, crossed with the words of `others`.
    pub(super) fn new(dim: usize, words: &[f32], others: &[f32]) -> Self {
        let rows = Rows::of(words, dim);
        let panels = Panels::new(rows);
        let mut norms = vec![0.0; rows.len()];
        Kernels::get().squared_norms(words, dim, &mut norms);
        let others = Rows::of(others, dim);
        // Crossed with those before it, or with all: no more than the square of these in all.
        let words = rows.len().saturating_add(others.len());
        let cross = (words.saturating_mul(words) <= CROSS_MAX).then(|| {
            let mut cross = vec![0.0; others.len() * rows.len()];
            panels.scores(Similarity::Dot, others, &mut cross);
            cross.iter_mut().for_each(|product| *product *= -2.0);
            cross
        });
        Stage { words: rows.len(), panels, norms, cross }
    }

    /// `own` of each row for each word.
    pub(super) fn own(&self, rows: Rows<'_>, out: &mut [f32]) {
        self.panels.scores(Similarity::Dot, rows, out);
        for out in out.chunks_exact_mut(self.words) {
            out.iter_mut().zip(&self.norms).for_each(|(value, norm)| *value = norm + 2.0 * *value);
        }
    }

    /// 2⟨w', w⟩ for the words w of this book, of word `other` of those it is crossed with.
    pub(super) fn row<'a>(&self, cross: &'a [f32], other: usize) -> &'a [f32] {
        &cross[other * self.words..][..self.words]
    }
}

/// All books of a part.
pub(super) struct Books {
    pub(super) dim: usize,
    /// The power of two.
    pub(super) unit: f32,
    /// The words, scaled.
    pub(super) words: Vec<f32>,
    /// The first word of each book.
    pub(super) starts: Vec<usize>,
    pub(super) stages: Vec<Stage>,
}

impl Books {
    /// The books of 2^`bits` words each that follow each other in `words`.
    pub(super) fn new(dim: usize, bits: &[u8], words: &[f32], cross: Cross) -> Self {
        let unit = unit(words);
        let mut books = Books::none(dim, unit);
        books.words = words.iter().map(|w| w * unit).collect();
        for &bits in bits {
            let start = books.next_start();
            books.starts.push(start);
            let own = &books.words[start * dim..(start + (1 << bits)) * dim];
            let others = match cross {
                Cross::Nothing => &[],
                Cross::Before => &books.words[..start * dim],
                Cross::All => &books.words[..],
            };
            let stage = Stage::new(dim, own, others);
            books.stages.push(stage);
        }
        books
    }

    /// No books yet.
    pub(super) fn none(dim: usize, unit: f32) -> Self {
        Books { dim, unit, words: Vec::new(), starts: Vec::new(), stages: Vec::new() }
    }

    /// One more book, crossed with those before.
    pub(super) fn push(&mut self, words: &[f32]) {
        let stage = Stage::new(self.dim, words, &self.words);
        self.starts.push(self.next_start());
        self.stages.push(stage);
        self.words.extend_from_slice(words);
    }

    fn next_start(&self) -> usize {
        self.starts.last().zip(self.stages.last()).map_or(0, |(start, stage)| start + stage.words)
    }

    /// Word `k` of book `m`.
    pub(super) fn word(&self, m: usize, k: u16) -> &[f32] {
        &self.words[(self.starts[m] + usize::from(k)) * self.dim..][..self.dim]
    }

    /// The words of one code, added up in the books' order.
    pub(super) fn sum(&self, codes: &[u16], out: &mut [f32]) {
        out.fill(0.0);
        for (m, &k) in codes.iter().enumerate() {
            out.iter_mut().zip(self.word(m, k)).for_each(|(y, w)| *y += w);
        }
    }
}

/// The power of two that brings the largest of `values` to at least 1 and below 2; 1 if all are 0.
pub(super) fn unit(values: &[f32]) -> f32 {
    let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let exponent = (largest.to_bits() >> 23) as i32 - 127;
    if largest > 0.0 {
        f32::from_bits(((-exponent).clamp(-126, 127) + 127).cast_unsigned() << 23)
    } else {
        1.0
    }
}
