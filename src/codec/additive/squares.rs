//! The words that are best for given codes: least squares.
//!
//! With B the n × T matrix that has a 1 for each word of a row's code, X the rows: (BᵀB + λ) C = BᵀX, λ = 0.01. BᵀB
//! counts how often two words meet. It is factored as LLᵀ in `f64`, 64 columns at a time and the rows below them in
//! parallel; each sum is taken by one thread, so threads change nothing.

use crate::math::linalg::dot_f64;
use crate::{Error, Result, Rows};
use rayon::prelude::*;

/// λ: FAISS's.
const REGULARISATION: f64 = 1e-2;
/// Columns of a step.
const STEP: usize = 64;

/// The words, book after book.
pub(super) fn solve(rows: Rows<'_>, codes: &[u16], bits: &[u8]) -> Result<Vec<f32>> {
    let mut starts = Vec::with_capacity(bits.len());
    let words = bits.iter().fold(0, |start, bits| {
        starts.push(start);
        start + (1usize << bits)
    });
    let mut matrix = vec![0.0f64; words * words];
    let mut sums = vec![0.0f64; rows.dim() * words];
    for (row, code) in rows.iter().zip(codes.chunks_exact(bits.len())) {
        for (&k, &start) in code.iter().zip(&starts) {
            let word = start + usize::from(k);
            for (&other, &other_start) in code.iter().zip(&starts) {
                matrix[word * words + other_start + usize::from(other)] += 1.0;
            }
            for (x, sum) in row.iter().zip(sums.chunks_exact_mut(words)) {
                sum[word] += f64::from(*x);
            }
        }
    }
    matrix.iter_mut().step_by(words + 1).for_each(|value| *value += REGULARISATION);
    factor(&mut matrix, words);
    sums.par_chunks_exact_mut(words).for_each(|column| substitute(&matrix, column));
    let word = |w: usize| sums.iter().skip(w).step_by(words).map(|value| *value as f32);
    let solved: Vec<f32> = (0..words).flat_map(word).collect();
    match solved.iter().all(|value| value.is_finite()) {
        true => Ok(solved),
        false => Err(Error::Parameter { name: "encoding", what: "no words fit these rows".into() }),
    }
}

/// Replaces the lower half of a symmetric matrix by L with LLᵀ = the matrix.
fn factor(matrix: &mut [f64], n: usize) {
    for first in (0..n).step_by(STEP) {
        let end = n.min(first + STEP);
        let (done, below) = matrix.split_at_mut(end * n);
        for i in first..end {
            let (above, row) = done.split_at_mut(i * n);
            eliminate(above, &mut row[..n], n, first..i);
            let squared = row[i] - dot_f64(&row[..i], &row[..i]);
            // The regularisation keeps it positive but for rounding.
            row[i] = squared.max(REGULARISATION * 1e-6).sqrt();
        }
        below.par_chunks_exact_mut(n).for_each(|row| eliminate(done, row, n, first..end));
    }
}

/// The columns `columns` of a row of L, from the finished rows above.
fn eliminate(above: &[f64], row: &mut [f64], n: usize, columns: std::ops::Range<usize>) {
    for j in columns {
        let other = &above[j * n..j * n + j + 1];
        row[j] = (row[j] - dot_f64(&row[..j], &other[..j])) / other[j];
    }
}

/// Solves LLᵀx = b in place.
fn substitute(matrix: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let row = &matrix[i * n..i * n + i + 1];
        b[i] = (b[i] - dot_f64(&row[..i], &b[..i])) / row[i];
    }
    for i in (0..n).rev() {
        let row = &matrix[i * n..i * n + i + 1];
        let value = b[i] / row[i];
        b[i] = value;
        b[..i].iter_mut().zip(row).for_each(|(b, l)| *b -= value * l);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    /// Breaks if a step's border is crossed wrongly: more words than a step has, compared with the equation itself.
    #[test]
    fn the_equation_holds() {
        let mut random = Random::new(1);
        let (dim, n, bits) = (3, 900, [6u8, 5, 4]);
        let data: Vec<f32> = (0..n * dim).map(|_| random.unit() as f32).collect();
        let codes: Vec<u16> = (0..n * 3).map(|at| random.below(1 << bits[at % 3]) as u16).collect();
        let words = solve(Rows::of(&data, dim), &codes, &bits).unwrap();
        let starts = [0, 64, 96];
        assert_eq!(words.len(), 112 * dim);
        // Bᵀ(BC − X) + λC = 0, word by word.
        let mut left: Vec<f64> = words.iter().map(|w| REGULARISATION * f64::from(*w)).collect();
        for (row, code) in data.chunks(dim).zip(codes.chunks(3)) {
            let at: Vec<usize> = code.iter().zip(starts).map(|(k, s)| (s + usize::from(*k)) * dim).collect();
            for d in 0..dim {
                let sum: f64 = at.iter().map(|at| f64::from(words[at + d])).sum();
                at.iter().for_each(|at| left[at + d] += sum - f64::from(row[d]));
            }
        }
        assert!(left.iter().all(|value| value.abs() < 1e-3), "{left:?}");
    }
}
