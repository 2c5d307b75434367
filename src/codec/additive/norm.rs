//! Squared lengths in a few bits.
//!
//! ```text
//! Nqint8, Nqint4     ⌊2^b·(n − min)/(max − min)⌋, read back at the middle of its step
//! Ncqint8, Ncqint4   the nearest of 2^b values, the best for the training rows there are (1-D k-means, exact)
//! Nlsq2x4, Nrq2x4    the nearest of the 256 sums of two books of 16 values; code = first + 16·second
//! ```
//! Stored tables: min and max; the values; the 32 values of the books.

use super::{Progress, local, residual};
use crate::encoding::AdditiveNorm;
use crate::progress::Observer;
use crate::{Result, Rows};

/// How lengths are coded.
pub(super) enum NormCode {
    /// Not at all.
    Nothing,
    /// As they are.
    Float,
    /// Even steps.
    Steps { values: Vec<f32>, least: f32, greatest: f32 },
    /// The nearest of some values.
    Nearest {
        values: Vec<f32>,
        /// (value, code), ascending.
        sorted: Vec<(f32, u32)>,
        /// What they were made from, if not from themselves.
        stored: Vec<f32>,
    },
}

/// Lengths that a code may have, at most: sums of them with products do not overflow.
pub(super) const NORM_SQUARED_MAX: f32 = f32::MAX / 4.0;

/// Sampled lengths, at most, for clustering and for two books of them.
const CLUSTERED_MAX: usize = 16_384;
const BOOKS_MAX: usize = 4_096;

/// Values of a book of the 2x4 forms.
const HALF: usize = 16;

/// Floats of the stored tables.
pub(super) fn stored_len(norm: AdditiveNorm) -> usize {
    match norm {
        AdditiveNorm::Decompress | AdditiveNorm::FromTables | AdditiveNorm::None | AdditiveNorm::Float => 0,
        AdditiveNorm::Qint8 | AdditiveNorm::Qint4 => 2,
        AdditiveNorm::Cqint8 => 256,
        AdditiveNorm::Cqint4 => 16,
        AdditiveNorm::Lsq2x4 | AdditiveNorm::Rq2x4 => 2 * HALF,
    }
}

impl NormCode {
    /// The code that `sample` asks for.
    pub(super) fn train(norm: AdditiveNorm, sample: &[f32], seed: u64) -> Result<Self> {
        let mut sorted = sample.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let (least, greatest) = (sorted.first().copied(), sorted.last().copied());
        let ends = [least.unwrap_or(0.0), greatest.unwrap_or(0.0)];
        let stored = match norm {
            _ if stored_len(norm) == 0 => Vec::new(),
            AdditiveNorm::Cqint8 | AdditiveNorm::Cqint4 => {
                clusters(&thinned(&sorted, CLUSTERED_MAX), norm.bits())
            }
            AdditiveNorm::Lsq2x4 | AdditiveNorm::Rq2x4 => books(norm, &thinned(&sorted, BOOKS_MAX), seed)?,
            _ => ends.to_vec(),
        };
        Ok(NormCode::from_stored(norm, stored))
    }

    /// From as many floats as [`stored_len`] says, all finite.
    pub(super) fn from_stored(norm: AdditiveNorm, stored: Vec<f32>) -> Self {
        match norm {
            AdditiveNorm::Decompress | AdditiveNorm::FromTables | AdditiveNorm::None => NormCode::Nothing,
            AdditiveNorm::Float => NormCode::Float,
            AdditiveNorm::Qint8 | AdditiveNorm::Qint4 => {
                let (least, greatest) = (stored[0], stored[1]);
                let steps = 1u32 << norm.bits();
                let value = |code: u32| {
                    let part = (f64::from(code) + 0.5) / f64::from(steps);
                    (part * f64::from(greatest - least) + f64::from(least)) as f32
                };
                NormCode::Steps { values: capped((0..steps).map(value)), least, greatest }
            }
            AdditiveNorm::Cqint8 | AdditiveNorm::Cqint4 => {
                NormCode::nearest(capped(stored.iter().copied()), stored)
            }
            AdditiveNorm::Lsq2x4 | AdditiveNorm::Rq2x4 => {
                let sums = (0..256).map(|code| stored[code % HALF] + stored[HALF + code / HALF]);
                NormCode::nearest(capped(sums), stored)
            }
        }
    }

    fn nearest(values: Vec<f32>, stored: Vec<f32>) -> Self {
        let mut sorted: Vec<(f32, u32)> = values.iter().copied().zip(0..).collect();
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        NormCode::Nearest { values, sorted, stored }
    }

    /// The floats to store.
    pub(super) fn stored(&self) -> Vec<f32> {
        match self {
            NormCode::Nothing | NormCode::Float => Vec::new(),
            NormCode::Steps { least, greatest, .. } => vec![*least, *greatest],
            NormCode::Nearest { stored, .. } => stored.clone(),
        }
    }

    /// The code of a length.
    pub(super) fn encode(&self, norm: f32) -> u32 {
        match self {
            NormCode::Nothing => 0,
            NormCode::Float => norm.min(NORM_SQUARED_MAX).to_bits(),
            NormCode::Steps { values, least, greatest } => {
                let steps = values.len() as f32;
                let at = ((norm - least) / (greatest - least) * steps).floor();
                // A cast cuts what is beyond its range, and NaN becomes 0.
                (at as u32).min(values.len() as u32 - 1)
            }
            NormCode::Nearest { sorted, .. } => nearest(sorted, norm),
        }
    }

    /// The length of a code.
    pub(super) fn decode(&self, code: u32) -> f32 {
        match self {
            NormCode::Nothing => 0.0,
            NormCode::Float => f32::from_bits(code),
            NormCode::Steps { values, .. } | NormCode::Nearest { values, .. } => {
                values.get(code as usize).copied().unwrap_or(0.0)
            }
        }
    }
}

fn capped(values: impl Iterator<Item = f32>) -> Vec<f32> {
    values.map(|value| value.clamp(-NORM_SQUARED_MAX, NORM_SQUARED_MAX)).collect()
}

/// The code of the value nearest to `norm`; of those as near, the lowest.
fn nearest(sorted: &[(f32, u32)], norm: f32) -> u32 {
    let above = sorted.partition_point(|(value, _)| *value < norm);
    // Equal values stand together with the lowest code first.
    let below = above.checked_sub(1).map(|at| sorted.partition_point(|(value, _)| *value < sorted[at].0));
    let away = |at: usize| (sorted[at].0 - norm).abs();
    match below {
        _ if sorted.is_empty() => 0,
        None => sorted[above].1,
        Some(below) if above == sorted.len() || away(below) < away(above) => sorted[below].1,
        Some(below) if away(below) == away(above) => sorted[below].1.min(sorted[above].1),
        Some(_) => sorted[above].1,
    }
}

/// At most `most` of `sorted`, evenly spaced, the ends among them.
fn thinned(sorted: &[f32], most: usize) -> Vec<f32> {
    if sorted.len() <= most {
        return sorted.to_vec();
    }
    (0..most).map(|i| sorted[i * (sorted.len() - 1) / (most - 1)]).collect()
}

/// Two books of 16 values.
fn books(norm: AdditiveNorm, sample: &[f32], seed: u64) -> Result<Vec<f32>> {
    if sample.is_empty() {
        return Ok(vec![0.0; 2 * HALF]);
    }
    let mut observer = Observer::none();
    let mut progress = Progress::new(&mut observer, 0);
    let rows = Rows::of(sample, 1);
    match norm {
        AdditiveNorm::Lsq2x4 => local::train(&[4, 4], rows, seed, &mut progress),
        _ => residual::train(&[4, 4], rows, super::beam::BEAM, seed, &mut progress),
    }
}

/// The 2^`bits` means of the partition of `sorted` into so many runs with the least sum of squares.
///
/// Dynamic programming: the best last run of a prefix begins no earlier for a longer prefix, so prefixes are solved
/// by halves.
fn clusters(sorted: &[f32], bits: usize) -> Vec<f32> {
    let (n, k) = (sorted.len(), 1 << bits);
    if n <= k {
        let last = sorted.last().copied().unwrap_or(0.0);
        return sorted.iter().copied().chain(std::iter::repeat(last)).take(k).collect();
    }
    let runs = Runs::new(sorted);
    // costs[i]: of the first i values in the runs so far; starts[r][i]: where the last of r + 1 runs begins.
    let mut costs: Vec<f64> = (0..=n).map(|i| runs.cost(0, i)).collect();
    let mut starts = vec![vec![0u32; n + 1]];
    for r in 1..k {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut start = vec![0u32; n + 1];
        let mut halves = vec![(r + 1, n, r, n - 1)];
        while let Some((low, high, first, last)) = halves.pop() {
            let middle = low.midpoint(high);
            let cost = |s: usize| costs[s] + runs.cost(s, middle);
            let (mut best, mut least) = (first, f64::INFINITY);
            for s in first..=last.min(middle - 1) {
                let cost = cost(s);
                if cost < least {
                    (best, least) = (s, cost);
                }
            }
            (next[middle], start[middle]) = (least, best as u32);
            if low < middle {
                halves.push((low, middle - 1, first, best));
            }
            if middle < high {
                halves.push((middle + 1, high, best, last));
            }
        }
        costs = next;
        starts.push(start);
    }
    let mut means = vec![0.0; k];
    let mut end = n;
    for r in (0..k).rev() {
        let start = starts[r][end] as usize;
        means[r] = runs.mean(start, end);
        end = start;
    }
    means
}

/// Sums of runs of values, relative to the middle one, where they lose less to rounding.
struct Runs {
    origin: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Runs {
    fn new(sorted: &[f32]) -> Self {
        let origin = f64::from(sorted[sorted.len() / 2]);
        let (mut sums, mut squares) = (vec![0.0], vec![0.0]);
        let (mut sum, mut square) = (0.0, 0.0);
        for value in sorted {
            let value = f64::from(*value) - origin;
            (sum, square) = (sum + value, square + value * value);
            sums.push(sum);
            squares.push(square);
        }
        Runs { origin, sums, squares }
    }

    fn cost(&self, start: usize, end: usize) -> f64 {
        if end <= start + 1 {
            return 0.0;
        }
        let sum = self.sums[end] - self.sums[start];
        (self.squares[end] - self.squares[start] - sum * sum / (end - start) as f64).max(0.0)
    }

    fn mean(&self, start: usize, end: usize) -> f32 {
        let sum = self.sums[end] - self.sums[start];
        (self.origin + sum / (end - start).max(1) as f64) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    const CODED: [AdditiveNorm; 7] = [
        AdditiveNorm::Float,
        AdditiveNorm::Qint8,
        AdditiveNorm::Qint4,
        AdditiveNorm::Cqint8,
        AdditiveNorm::Cqint4,
        AdditiveNorm::Lsq2x4,
        AdditiveNorm::Rq2x4,
    ];

    fn lengths(n: usize) -> Vec<f32> {
        let mut random = Random::new(1);
        (0..n).map(|_| 100.0 + 50.0 * (random.unit() * random.unit()) as f32).collect()
    }

    #[test]
    fn errors_are_within_what_the_bits_allow() {
        let sample = lengths(3000);
        let error = |norm| {
            let code = NormCode::train(norm, &sample, 1).unwrap();
            let away = |n: &f32| f64::from(n - code.decode(code.encode(*n))).powi(2);
            (sample.iter().map(away).sum::<f64>() / sample.len() as f64).sqrt()
        };
        let errors = CODED.map(error);
        // Half a step of 256 or 16 over a range of less than 50, evenly filled: a step / √12.
        assert_eq!(errors[0], 0.0);
        assert!(errors[1] < 50.0 / 256.0 / 3.4 && errors[2] < 50.0 / 16.0 / 3.4, "{errors:?}");
        // Clustering is better than steps, two books are between.
        assert!(errors[3] < errors[1] && errors[4] < errors[2], "{errors:?}");
        assert!(errors[5] < 3.0 * errors[1] && errors[6] < 3.0 * errors[1], "{errors:?}");
        assert!(errors[5] < errors[4] && errors[6] < errors[4], "{errors:?}");
    }

    #[test]
    fn a_code_is_the_nearest_value_and_the_lowest_of_those() {
        let sample = lengths(500);
        for norm in [AdditiveNorm::Cqint8, AdditiveNorm::Cqint4, AdditiveNorm::Lsq2x4, AdditiveNorm::Rq2x4] {
            let code = NormCode::train(norm, &sample, 1).unwrap();
            let values: Vec<f32> = (0..1 << norm.bits()).map(|c| code.decode(c)).collect();
            for n in sample.iter().copied().chain(values.clone()).chain([-1.0, 0.0, 1e4]) {
                let away = |c: &usize| (f64::from(values[*c]) - f64::from(n)).abs();
                let best = (0..values.len()).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap();
                assert_eq!(code.encode(n) as usize, best, "{norm:?} {n}");
            }
        }
    }

    /// Compared with every partition of a few values.
    #[test]
    fn clusters_are_the_best_there_are() {
        let mut random = Random::new(3);
        for _ in 0..50 {
            let mut sorted: Vec<f32> = (0..9).map(|_| random.below(40) as f32).collect();
            sorted.sort_unstable_by(f32::total_cmp);
            let means = clusters(&sorted, 1);
            let cost = |means: &[f32]| -> f32 {
                let least = |v: &f32| means.iter().map(|m| (v - m).powi(2)).fold(f32::MAX, f32::min);
                sorted.iter().map(least).sum()
            };
            let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
            let best =
                (1..9).map(|at| cost(&[mean(&sorted[..at]), mean(&sorted[at..])])).fold(f32::MAX, f32::min);
            assert!(cost(&means) <= best * 1.0001 + 1e-3, "{sorted:?} {means:?}");
        }
    }

    #[test]
    fn stored_floats_give_the_same_code_and_few_lengths_are_enough() {
        for norm in CODED {
            for n in [0, 1, 2, 5, 40] {
                let code = NormCode::train(norm, &vec![7.0; n], 1).unwrap();
                assert_eq!(code.stored().len(), stored_len(norm));
                let again = NormCode::from_stored(norm, code.stored());
                for value in [0.0, 7.0, 1e30, f32::MAX] {
                    assert_eq!(code.encode(value), again.encode(value));
                    assert!(again.decode(again.encode(value)).is_finite());
                }
                if n > 0 {
                    assert!((code.decode(code.encode(7.0)) - 7.0).abs() < 1e-3, "{norm:?} {n}");
                }
            }
        }
    }
}
