//! Polysemous codes: the points of a product quantizer in such an order that indices with few differing bits are
//! points close together, so that the Hamming distance of two codes says roughly how far apart they are (Douze, Jégou
//! and Perronnin 2016). The points stay what they are, and so do all distances.
//!
//! ```text
//! cost    Σ over pairs of indices a, b:  w·(d − h)²       h = differing bits of a and b
//! d       squared distance of their points, moved and scaled so that all d have the mean and the deviation of all h
//! w       2^−d: close pairs matter most
//! ```
//! Two indices at random trade points if that lowers the cost, or else with a probability that falls as it goes on; then
//! every pair is tried in turn until no trade lowers it. FAISS has the same cost and tries a million times at random: 1 % lower
//! for 256 points, in twice the time.
//!
//! d and w lie in the order of the indices and are moved when points are, so that a trial is one pass over six rows:
//! with g = h_a − h_b and s = h_a + h_b its gain is Σ g·[2(w_a·d_a − w_b·d_b) − s·(w_a − w_b)], since the pairs
//! that do not hold a or b stay as they are, and the pair a, b itself does too.

use super::product::ProductBook;
use super::random::Random;
use rayon::prelude::*;

/// With more bits the pairs are too many; indices then stay as they are.
const BITS_MAX: usize = 8;

/// Random trials for each point.
const TRIALS_A_POINT: usize = 240;

/// The chance of a trade that raises the cost: at first, and what it is multiplied by with each random trial for two points.
const CHANCE: f64 = 0.7;
const CHANCE_DECAY: f64 = 0.9;

/// Rounds over all pairs, at most: five are usual.
const ROUNDS_MAX: usize = 12;

/// Running sums of a gain.
const SUMS: usize = 16;

/// The book with the points of each sub-space in a good order. Sub-spaces in parallel; the result is the same on any number of
/// threads.
pub(crate) fn reorder(book: &ProductBook, seed: u64) -> ProductBook {
    if book.bits() > BITS_MAX {
        return book.clone();
    }
    let orders: Vec<Vec<u32>> = (0..book.m())
        .into_par_iter()
        .map(|j| {
            let points: Vec<&[f32]> = (0..book.ksub()).map(|k| book.point(j, k)).collect();
            match Pairs::new(&points, book.bits()) {
                Some(pairs) => pairs.anneal(Random::new(seed.wrapping_add(j as u64))),
                None => (0..book.ksub() as u32).collect(),
            }
        })
        .collect();
    book.permuted(&orders)
}

/// All pairs of points, by their indices.
struct Pairs {
    n: usize,
    /// Differing bits.
    bits: Vec<f32>,
    /// w and 2·w·d.
    weights: Vec<f32>,
    weighted: Vec<f32>,
    /// The old number of each point.
    order: Vec<u32>,
}

impl Pairs {
    /// None if all points are one.
    fn new(points: &[&[f32]], bits: usize) -> Option<Self> {
        let n = points.len();
        let far = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
        };
        let distances: Vec<f64> = points.iter().flat_map(|a| points.iter().map(move |b| far(a, b))).collect();
        let count = (n * n) as f64;
        let mean = distances.iter().sum::<f64>() / count;
        let deviation = (distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count).sqrt();
        if !(deviation > 0.0 && deviation.is_finite()) {
            return None;
        }
        let (bits_mean, bits_deviation) = (bits as f64 / 2.0, (bits as f64 / 4.0).sqrt());
        let wanted = |d: &f64| (d - mean) / deviation * bits_deviation + bits_mean;
        let wanted: Vec<f64> = distances.iter().map(wanted).collect();
        let hamming = (0..n * n).map(|pair| ((pair / n) ^ (pair % n)).count_ones() as f32);
        Some(Pairs {
            n,
            bits: hamming.collect(),
            weights: wanted.iter().map(|d| (-d).exp2() as f32).collect(),
            weighted: wanted.iter().map(|d| ((-d).exp2() * 2.0 * d) as f32).collect(),
            order: (0..n as u32).collect(),
        })
    }

    fn anneal(mut self, mut random: Random) -> Vec<u32> {
        let mut chance = CHANCE;
        let decay = CHANCE_DECAY.powf(1.0 / (2.0 * self.n as f64));
        for _ in 0..TRIALS_A_POINT * self.n {
            chance *= decay;
            let a = random.below(self.n);
            let b = (a + 1 + random.below(self.n - 1)) % self.n;
            if self.gain(a, b) < 0.0 || random.unit() < chance {
                self.trade(a, b);
            }
        }
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                break;
            }
        }
        self.order
    }

    /// Tries every pair once; true if any traded.
    fn round(&mut self) -> bool {
        let mut traded = false;
        for a in 0..self.n {
            for b in a + 1..self.n {
                // A rounding is no gain.
                if self.gain(a, b) < -1e-4 {
                    self.trade(a, b);
                    traded = true;
                }
            }
        }
        traded
    }

    /// Half of what the cost grows by if `a` and `b` trade their points.
    fn gain(&self, a: usize, b: usize) -> f32 {
        let row = |values: &[f32], i: usize| -> std::ops::Range<usize> {
            debug_assert_eq!(values.len(), self.n * self.n);
            i * self.n..(i + 1) * self.n
        };
        let (ha, hb) = (&self.bits[row(&self.bits, a)], &self.bits[row(&self.bits, b)]);
        let (wa, wb) = (&self.weights[row(&self.weights, a)], &self.weights[row(&self.weights, b)]);
        let (va, vb) = (&self.weighted[row(&self.weighted, a)], &self.weighted[row(&self.weighted, b)]);
        let term = |c: usize| (ha[c] - hb[c]) * ((va[c] - vb[c]) - (ha[c] + hb[c]) * (wa[c] - wb[c]));
        let mut sums = [0.0f32; SUMS];
        let whole = self.n / SUMS * SUMS;
        for first in (0..whole).step_by(SUMS) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum += term(first + lane);
            }
        }
        let rest: f32 = (whole..self.n).map(term).sum();
        sums.iter().sum::<f32>() + rest - term(a) - term(b)
    }

    fn trade(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        for values in [&mut self.weights, &mut self.weighted] {
            for i in 0..self.n {
                values.swap(a * self.n + i, b * self.n + i);
            }
            for row in values.chunks_exact_mut(self.n) {
                row.swap(a, b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observer, Rows};

    /// The cost by its definition, in the order the pairs are in.
    fn cost(points: &[&[f32]], order: &[u32], bits: usize) -> f64 {
        let mut pairs = Pairs::new(points, bits).unwrap();
        // Trades bring the points into the order.
        for (a, wanted) in order.iter().enumerate() {
            let b = pairs.order.iter().position(|k| k == wanted).unwrap();
            pairs.trade(a, b);
        }
        assert_eq!(pairs.order, order);
        let each = pairs.bits.iter().zip(&pairs.weights).zip(&pairs.weighted);
        each.map(|((h, w), v)| {
            let d = f64::from(*v) / f64::from(*w) / 2.0;
            f64::from(*w) * (d - f64::from(*h)).powi(2)
        })
        .sum()
    }

    fn book(n: usize, bits: usize) -> ProductBook {
        let mut random = Random::new(1);
        let rows: Vec<f32> = (0..n * 6).map(|_| random.unit() as f32).collect();
        ProductBook::train(Rows::of(&rows, 6), 2, bits, 1u64.into(), &mut Observer::none()).unwrap()
    }

    #[test]
    fn a_gain_is_the_difference_of_two_costs() {
        let book = book(300, 5);
        let points: Vec<&[f32]> = (0..32).map(|k| book.point(0, k)).collect();
        let pairs = Pairs::new(&points, 5).unwrap();
        let before = cost(&points, &pairs.order, 5);
        for (a, b) in [(0, 1), (3, 17), (31, 30), (5, 4)] {
            let mut order = pairs.order.clone();
            order.swap(a, b);
            let wanted = cost(&points, &order, 5) - before;
            let gain = 2.0 * f64::from(pairs.gain(a, b));
            assert!((gain - wanted).abs() < 1e-2 * (1.0 + wanted.abs()), "{gain} {wanted}");
        }
    }

    /// Correlation of bits and distances, of all pairs of a sub-space.
    fn correlation(book: &ProductBook, j: usize) -> f64 {
        let n = book.ksub();
        let far = |a, b| -> f64 {
            let pairs = book.point(j, a).iter().zip(book.point(j, b));
            pairs.map(|(x, y)| f64::from(x - y).powi(2)).sum()
        };
        let pairs: Vec<(f64, f64)> = (0..n * n)
            .filter(|pair| pair / n != pair % n)
            .map(|pair| (far(pair / n, pair % n), f64::from(((pair / n) ^ (pair % n)).count_ones())))
            .collect();
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
        let product = mean(&|p| (p.0 - x) * (p.1 - y));
        product / (mean(&|p| (p.0 - x).powi(2)) * mean(&|p| (p.1 - y).powi(2))).sqrt()
    }

    #[test]
    fn close_points_get_close_indices_and_stay_the_same_points() {
        let book = book(2000, 6);
        let ordered = reorder(&book, 3);
        for j in 0..2 {
            assert!(correlation(&book, j) < 0.2, "{}", correlation(&book, j));
            assert!(correlation(&ordered, j) > 0.25, "{}", correlation(&ordered, j));
            let set = |book: &ProductBook| {
                let point = |k| book.point(j, k).iter().map(|v| v.to_bits()).collect();
                let mut points: Vec<Vec<u32>> = (0..64).map(point).collect();
                points.sort();
                points
            };
            assert_eq!(set(&book), set(&ordered));
        }
        assert_eq!(reorder(&book, 3).to_bytes(), ordered.to_bytes());
        assert_ne!(reorder(&book, 4).to_bytes(), ordered.to_bytes());
    }

    #[test]
    fn two_points_identical_points_and_many_bits_are_left_alone_or_permuted() {
        let two = reorder(&book(10, 1), 1);
        assert_eq!((two.ksub(), two.centroids().len()), (2, 12));
        let same = ProductBook::new(2, 1, 4, vec![0.5; 32]).unwrap();
        assert_eq!(reorder(&same, 1).centroids(), same.centroids());
        let many = ProductBook::new(1, 1, 11, (0..2048).map(|v| v as f32).collect()).unwrap();
        assert_eq!(reorder(&many, 1).centroids(), many.centroids());
    }
}
