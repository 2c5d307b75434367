//! LSQ++ (Martinez et al. 2018): all words of a code chosen together, and all books trained together.
//!
//! ```text
//! train    codes from a residual quantizer, then 25 times
//!            words ← the least squares of all rows for their codes          (`squares`)
//!            words += noise · √(1 − i/25), less and less of it               so that it does not settle too early
//!            codes ← searched from where they are, 8 rounds
//!          the words and codes of the smallest error are kept
//! encode   by a beam of 5, then 16 rounds of
//!            4 words of the code changed at random
//!            each word in turn replaced by the best for all others, at most 4 times over
//!            kept if the error fell
//! ```
//! The parameters are FAISS's. It begins from random codes where this begins from codes that are worth something: by its
//! own books of 4x6 for 1,000 rows of 32 components, 13.4 of squared error are left instead of 13.5 (13.6 after a beam
//! of 1). It draws numbers for a batch where this draws the same for every row: a row's code depends on the row alone.

use super::books::{Books, Cross, unit};
use super::{Progress, beam, residual, squares};
use crate::kernel::Kernels;
use crate::math::random::Random;
use crate::{Result, Rows};
use rayon::prelude::*;

/// Rounds of training.
pub(super) const TRAIN_ROUNDS: usize = 25;
/// Rounds of a search while training, and afterwards.
const TRAIN_SEARCHES: usize = 8;
const ENCODE_SEARCHES: usize = 16;
/// Times that each word is looked at in a round, at most.
const SWEEPS: usize = 4;
/// Words that are changed at random.
const CHANGES: usize = 4;
/// Of the random changes of codes.
const SEED: u64 = 0x12345;
/// Rows that are worked on together.
const ROWS: usize = 32;

/// The words of books of 2^`bits` words each, one book after the other.
pub(super) fn train(
    bits: &[u8],
    rows: Rows<'_>,
    seed: u64,
    progress: &mut Progress<'_, '_>,
) -> Result<Vec<f32>> {
    let unit = unit(rows.as_slice());
    let scaled: Vec<f32> = rows.as_slice().iter().map(|x| x * unit).collect();
    let rows = Rows::of(&scaled, rows.dim());
    let words = residual::train(bits, rows, 1, seed, progress)?;
    let mut books = Books::new(rows.dim(), bits, &words, Cross::All);
    let mut codes = beam::encode(&books, rows_in(&books, rows).as_rows(), 1);
    let (mut best, mut random) = (Trained { words, error: f64::INFINITY }, Random::new(seed));
    best.offer(&books, rows, &codes);
    let spread = spread(rows);
    for round in 1..=TRAIN_ROUNDS {
        let words = squares::solve(rows, &codes, bits)?;
        best.offer(&Books::new(rows.dim(), bits, &words, Cross::Nothing), rows, &codes);
        let noise = (1.0 - round as f64 / TRAIN_ROUNDS as f64).sqrt() / bits.len() as f64;
        books = Books::new(rows.dim(), bits, &shaken(words, &spread, noise, &mut random), Cross::All);
        search(&books, rows_in(&books, rows).as_rows(), &mut codes, TRAIN_SEARCHES, SEED ^ round as u64);
        best.offer(&books, rows, &codes);
        progress.tick()?;
    }
    Ok(best.words.iter().map(|w| (w / unit).clamp(f32::MIN, f32::MAX)).collect())
}

/// Rows scaled once more, as the books are.
struct Scaled {
    data: Vec<f32>,
    dim: usize,
}

impl Scaled {
    fn as_rows(&self) -> Rows<'_> {
        Rows::of(&self.data, self.dim)
    }
}

fn rows_in(books: &Books, rows: Rows<'_>) -> Scaled {
    Scaled { data: rows.as_slice().iter().map(|x| x * books.unit).collect(), dim: rows.dim() }
}

/// The best words so far.
struct Trained {
    words: Vec<f32>,
    error: f64,
}

impl Trained {
    fn offer(&mut self, books: &Books, rows: Rows<'_>, codes: &[u16]) {
        let error = error(books, rows, codes);
        if error < self.error {
            self.error = error;
            self.words = books.words.iter().map(|w| w / books.unit).collect();
        }
    }
}

/// Σ‖r − y‖², summed in the order of the rows.
fn error(books: &Books, rows: Rows<'_>, codes: &[u16]) -> f64 {
    let depth = books.stages.len();
    let of_row = |(row, codes): (&[f32], &[u16])| {
        let mut decoded = vec![0.0; row.len()];
        books.sum(codes, &mut decoded);
        let part = |(x, y): (&f32, &f32)| f64::from(x - y / books.unit).powi(2);
        row.iter().zip(&decoded).map(part).sum::<f64>()
    };
    let errors: Vec<f64> =
        rows.as_slice().par_chunks_exact(rows.dim()).zip(codes.par_chunks_exact(depth)).map(of_row).collect();
    errors.iter().sum()
}

/// The standard deviation of each component.
fn spread(rows: Rows<'_>) -> Vec<f64> {
    let n = rows.len() as f64;
    let (mut sums, mut squares) = (vec![0.0; rows.dim()], vec![0.0; rows.dim()]);
    for row in rows.iter() {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    for row in rows.iter() {
        let away = row.iter().zip(&sums).map(|(x, sum)| f64::from(*x) - sum / n);
        squares.iter_mut().zip(away).for_each(|(square, away)| *square += away * away);
    }
    squares.into_iter().map(|square| (square / n).sqrt()).collect()
}

/// The words with Gaussian noise.
fn shaken(mut words: Vec<f32>, spread: &[f64], noise: f64, random: &mut Random) -> Vec<f32> {
    if noise > 0.0 {
        for word in words.chunks_exact_mut(spread.len()) {
            word.iter_mut()
                .zip(spread)
                .for_each(|(w, spread)| *w += (noise * spread * gaussian(random)) as f32);
        }
    }
    words
}

/// A standard normal draw (Box and Muller).
fn gaussian(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

/// The codes of rows, scaled as the books are.
pub(super) fn encode(books: &Books, rows: Rows<'_>) -> Vec<u16> {
    let mut codes = beam::encode(books, rows, beam::BEAM);
    search(books, rows, &mut codes, ENCODE_SEARCHES, SEED);
    codes
}

/// Improves `codes` in `rounds` rounds.
fn search(books: &Books, rows: Rows<'_>, codes: &mut [u16], rounds: usize, seed: u64) {
    let depth = books.stages.len();
    let tasks = codes.par_chunks_mut(ROWS * depth).enumerate();
    tasks.for_each(|(task, codes)| {
        let first = task * ROWS;
        let rows = rows.slice(first..first + codes.len() / depth);
        let mut search = Search::new(books, rows);
        for (r, code) in codes.chunks_exact_mut(depth).enumerate() {
            search.improve(r, code, rounds, &mut Random::new(seed));
        }
    });
}

/// A local search of a few rows.
struct Search<'a> {
    books: &'a Books,
    kernels: &'static Kernels,
    /// What each word costs each row by itself, book after book.
    own: Vec<Vec<f32>>,
    sums: Vec<f32>,
}

impl<'a> Search<'a> {
    fn new(books: &'a Books, rows: Rows<'_>) -> Self {
        let own = books.stages.iter().map(|stage| {
            let mut own = vec![0.0; rows.len() * stage.words];
            stage.own(rows, &mut own);
            own
        });
        let widest = books.stages.iter().map(|stage| stage.words).max();
        Search { own: own.collect(), sums: vec![0.0; widest.unwrap_or(0)], books, kernels: Kernels::get() }
    }

    fn improve(&mut self, row: usize, code: &mut [u16], rounds: usize, random: &mut Random) {
        let mut least = self.cost(row, code);
        let mut tried = code.to_vec();
        for _ in 0..rounds {
            tried.copy_from_slice(code);
            for _ in 0..CHANGES.min(tried.len()) {
                let m = random.below(tried.len());
                tried[m] = random.below(self.books.stages[m].words) as u16;
            }
            self.settle(row, &mut tried);
            let cost = self.cost(row, &tried);
            if cost < least {
                least = cost;
                code.copy_from_slice(&tried);
            }
        }
    }

    /// Replaces words by better ones until none is better, or long enough.
    fn settle(&mut self, row: usize, code: &mut [u16]) {
        for _ in 0..SWEEPS {
            let mut changed = false;
            for m in 0..code.len() {
                let best = self.best(row, code, m);
                changed |= best != code[m];
                code[m] = best;
            }
            if !changed {
                break;
            }
        }
    }

    /// The best word of book `m` beside the others; the first of those that tie.
    fn best(&mut self, row: usize, code: &[u16], m: usize) -> u16 {
        let stage = &self.books.stages[m];
        let Some(cross) = &stage.cross else { return code[m] };
        let others = code.iter().zip(&self.books.starts).enumerate().filter(|(l, _)| *l != m);
        let rows: Vec<&[f32]> =
            others.map(|(_, (k, start))| stage.row(cross, start + usize::from(*k))).collect();
        let sums = &mut self.sums[..stage.words];
        self.kernels.sum_rows(&self.own[m][row * stage.words..][..stage.words], &rows, sums);
        least(sums).unwrap_or(code[m])
    }

    /// ‖r − y‖² less ‖r‖².
    fn cost(&self, row: usize, code: &[u16]) -> f32 {
        let mut cost = 0.0;
        for (m, &k) in code.iter().enumerate() {
            let stage = &self.books.stages[m];
            let Some(cross) = &stage.cross else { return f32::INFINITY };
            cost += self.own[m][row * stage.words + usize::from(k)];
            for (l, start) in code[..m].iter().zip(&self.books.starts) {
                cost += stage.row(cross, start + usize::from(*l))[usize::from(k)];
            }
        }
        cost
    }
}

/// Where the least of `values` stands first.
fn least(values: &[f32]) -> Option<u16> {
    let mut lanes = [f32::INFINITY; 16];
    let (groups, rest) = values.as_chunks::<16>();
    for group in groups {
        for lane in 0..16 {
            lanes[lane] = if group[lane] < lanes[lane] { group[lane] } else { lanes[lane] };
        }
    }
    let least = lanes.iter().chain(rest).fold(f32::INFINITY, |least, v| if *v < least { *v } else { least });
    values.iter().position(|v| *v == least).map(|at| at as u16)
}
