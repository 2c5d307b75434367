//! Training of a residual quantizer: book after book, each clustered from what the candidates of all rows leave over.
//!
//! ```text
//! for each book   residuals of a sample of (row, candidate) → k-means (`cluster`) → the book
//!                 every row's candidates continued by it, the best 5 kept (`beam`)
//! ```
//! FAISS's `Train_progressive_dim`, its default; books are not refined afterwards, as there.

use super::beam::{self, Beams};
use super::books::{Books, unit};
use super::{Progress, cluster};
use crate::math::random::Random;
use crate::{Result, Rows};

/// Training rows for each word of a book: FAISS's `max_points_per_centroid`.
pub(super) const ROWS_A_WORD: usize = 256;

/// The words of books of 2^`bits` words each, one book after the other.
pub(super) fn train(
    bits: &[u8],
    rows: Rows<'_>,
    beam: usize,
    seed: u64,
    progress: &mut Progress<'_, '_>,
) -> Result<Vec<f32>> {
    let unit = unit(rows.as_slice());
    let scaled: Vec<f32> = rows.as_slice().iter().map(|x| x * unit).collect();
    let rows = Rows::of(&scaled, rows.dim());
    let mut books = Books::none(rows.dim(), unit);
    let mut beams = Beams::new(rows.len());
    for (m, &bits) in bits.iter().enumerate() {
        let seed = seed.wrapping_add(m as u64);
        let sample = residuals(&books, &beams, rows, ROWS_A_WORD << bits, seed);
        let words = cluster::words(Rows::of(&sample, rows.dim()), 1 << bits, seed, progress)?;
        books.push(&words);
        progress.tick()?;
        beams = beams.step(&books, rows, beam);
    }
    // A power of two: the same bits come back, or what overflows is cut.
    Ok(books.words.iter().map(|w| (w / unit).clamp(f32::MIN, f32::MAX)).collect())
}

/// The residuals of at most `most` candidates, chosen at random.
fn residuals(books: &Books, beams: &Beams, rows: Rows<'_>, most: usize, seed: u64) -> Vec<f32> {
    let all = rows.len() * beams.width;
    let mut chosen = Random::new(seed).sample(all, most.min(all));
    chosen.sort_unstable();
    let mut out = vec![0.0; chosen.len() * rows.dim()];
    for (number, residual) in chosen.into_iter().zip(out.chunks_exact_mut(rows.dim())) {
        books.sum(&beams.codes[number * beams.depth..][..beams.depth], residual);
        let row = rows.row(number / beams.width);
        residual.iter_mut().zip(row).for_each(|(y, x)| *y = x - *y);
    }
    out
}

/// The best codes of rows, scaled as the books are.
pub(super) fn encode(books: &Books, rows: Rows<'_>) -> Vec<u16> {
    beam::encode(books, rows, beam::BEAM)
}
