//! Lower bounds of exact scores from half-precision codes.
//!
//! A range search over an index that keeps rows wants every row whose *kept* form scores below the radius, and
//! scans *codes*, which were rounded. With `q` the query, `c` the decoded code, `x` the kept row and `e = x − c`:
//!
//! ```text
//! rounding     |eᵢ| ≤ u·|cᵢ| + η,  so  ‖e‖ ≤ u·‖c‖ + η·√d        u relative, η for the smallest numbers
//! L2           ‖q−x‖ ≥ ‖q−c‖ − ‖e‖  and  ‖c‖ ≤ ‖q‖ + ‖q−c‖
//! product      −⟨q,x⟩ ≥ −⟨q,c⟩ − ‖q‖·‖e‖
//! summation    a computed score is off by γ of the sum of its terms' sizes, and δ for what underflows
//! ```
//! Both scores that matter, the code's and later the kept row's, are computed ones, so γ and δ count twice. The
//! bounds hold for any order of summation, fused or not. There is no overflow to think of: a code that would be
//! infinite is refused when it is made, and so is a vector whose distances would be.

use super::{Probe, Scanner, Visit};
use crate::Rows;
use crate::kernel::{Element, Kernels, Similarity};

/// What rounding to an element may cost: a part of the rounded value, and an absolute rest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Loss {
    relative: f64,
    absolute: f64,
}

impl Loss {
    fn of(element: Element) -> Self {
        let (relative, absolute) = match element {
            Element::F32 => (0.0, 0.0),
            // 11 bits of precision, and steps of 2^-24 below 2^-14.
            Element::F16 => (f64::exp2(-11.0), f64::exp2(-24.0)),
            // 8 bits of precision; below that the smallest normal f32 is generous.
            Element::BF16 => (f64::exp2(-8.0), f64::exp2(-126.0)),
        };
        Loss { relative, absolute }
    }

    /// Between a code and a kept row that were both rounded from one vector.
    fn between(code: Element, kept: Element) -> Self {
        let (code, kept) = (Loss::of(code), Loss::of(kept));
        let relative = code.relative + kept.relative + code.relative * kept.relative;
        let absolute = code.absolute * (1.0 + kept.relative) + kept.absolute;
        // The millionth more is for the f64 arithmetic below, whose own roundings are far smaller.
        Loss { relative: relative * 1.000_001, absolute: absolute * 1.000_001 }
    }
}

/// Turns the scores of a scanner over flat codes into lower bounds of the kept rows' scores.
pub(super) struct Bounds<'a> {
    codes: Box<dyn Scanner + 'a>,
    element: Element,
    similarity: Similarity,
    dim: usize,
    visits: Vec<Visit>,
    /// Of each query.
    norms: Vec<f64>,
    /// ‖e‖ of a code of length 1, and of any code beyond that.
    relative: f64,
    absolute: f64,
    gamma: f64,
    delta: f64,
    rows: Vec<f32>,
    squares: Vec<f32>,
}

impl<'a> Bounds<'a> {
    pub(super) fn new(
        codes: Box<dyn Scanner + 'a>,
        queries: Rows<'a>,
        similarity: Similarity,
        element: Element,
        kept: Element,
    ) -> Self {
        let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        let dim = queries.dim();
        let loss = Loss::between(element, kept);
        // d terms of at most three roundings each, and the halves of the lanes; 1.01 for the higher powers.
        let roundings = dim as f64 + 8.0;
        Bounds {
            codes,
            element,
            similarity,
            dim,
            visits: Vec::new(),
            norms: queries.iter().map(norm).collect(),
            relative: loss.relative,
            absolute: loss.absolute * (dim as f64).sqrt(),
            gamma: 1.01 * roundings * f64::exp2(-24.0),
            delta: roundings * f64::exp2(-126.0),
            rows: Vec::new(),
            squares: Vec::new(),
        }
    }

    /// Below the squared distance to the kept row, given that to the code.
    fn squared(&self, score: f32, query: f64) -> f64 {
        let to_code = ((f64::from(score) - self.delta) / (1.0 + self.gamma)).max(0.0).sqrt();
        let to_row = (1.0 - self.relative) * to_code - self.relative * query - self.absolute;
        to_row.max(0.0).powi(2) * (1.0 - self.gamma) - self.delta
    }

    /// Below the negated product with the kept row, given that with the code and the code's squared norm.
    fn product(&self, score: f32, query: f64, square: f32) -> f64 {
        let code = ((f64::from(square) + self.delta) / (1.0 - self.gamma)).sqrt();
        let off = self.relative * code + self.absolute;
        f64::from(score) - query * (off + self.gamma * (2.0 * code + off)) - 2.0 * self.delta
    }
}

impl Scanner for Bounds<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
        self.codes.enter(probe);
    }

    fn scan(&mut self, codes: &[u8], n: usize, first: usize, worst: &[f32], scores: &mut [f32]) {
        self.codes.scan(codes, n, first, worst, scores);
        if self.similarity == Similarity::Dot {
            self.rows.resize(n * self.dim, 0.0);
            self.squares.resize(n, 0.0);
            Kernels::get().decode(self.element, codes, &mut self.rows);
            Kernels::get().squared_norms(&self.rows, self.dim, &mut self.squares);
        }
        // Rounded down: a bound must not rise on its way to f32.
        let down = |bound: f64| (bound as f32).next_down();
        for (visit, scores) in self.visits[first..].iter().zip(scores.chunks_exact_mut(n)) {
            let query = self.norms[visit.query as usize];
            match self.similarity {
                Similarity::L2 => scores.iter_mut().for_each(|s| *s = down(self.squared(*s, query))),
                Similarity::Dot => {
                    let pairs = scores.iter_mut().zip(&self.squares);
                    pairs.for_each(|(s, square)| *s = down(self.product(*s, query, *square)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Flat, check_range};
    use crate::math::random::Random;

    /// Breaks if a bound is above the score it bounds, be it by one bit: over magnitudes from the subnormal to the
    /// largest of an element, with queries next to the row, at it, and far away.
    #[test]
    fn no_bound_is_above_the_score() {
        let mut random = Random::new(5);
        let mut tight = 0;
        for (code, kept) in [
            (Element::F16, Element::F32),
            (Element::BF16, Element::F32),
            (Element::BF16, Element::F16),
            (Element::F32, Element::F16),
            (Element::F16, Element::F16),
        ] {
            for similarity in [Similarity::L2, Similarity::Dot] {
                for round in 0..3000 {
                    let dim = [1, 2, 3, 17, 64, 300][round % 6];
                    let exponents = [-149, -130, -126, -30, -24, -15, -14, 0, 15];
                    let scale = f64::exp2(f64::from(exponents[random.below(exponents.len())]));
                    let mut draw = || (scale * (2.0 * random.unit() - 1.0)) as f32;
                    let row: Vec<f32> = (0..dim).map(|_| draw()).collect();
                    let near = [0.0, 1e-7, 1e-3, 1.0][round / 6 % 4];
                    let query: Vec<f32> = row.iter().map(|x| x + near * draw()).collect();
                    let (rows, queries) = (Rows::of(&row, dim), Rows::of(&query, dim));
                    assert!(check_range(rows, code).is_ok() && check_range(rows, kept).is_ok());
                    let bytes = |element: Element| {
                        let mut bytes = vec![0; dim * element.size()];
                        Kernels::get().encode(element, &row, &mut bytes);
                        bytes
                    };
                    let mut exact = [0.0];
                    Kernels::get().scan(similarity, kept, &[&query], &bytes(kept), &mut exact);
                    let flat = Flat::new(dim, code, similarity);
                    let mut scanner = flat.bounds(queries, kept).unwrap();
                    let visits = [Visit { query: 0, coarse: 0.0 }];
                    scanner.enter(Probe { centroid: None, visits: &visits });
                    let mut bound = [0.0];
                    scanner.scan(&bytes(code), 1, 0, &[0.0], &mut bound);
                    assert!(bound[0] <= exact[0], "{code:?} {kept:?} {similarity:?} {row:?} {query:?}");
                    let size: f32 =
                        row.iter().zip(&query).map(|(x, q)| (x * q).abs().max((q - x).powi(2))).sum();
                    tight += usize::from(exact[0] - bound[0] <= 0.1 * size);
                }
            }
        }
        assert!(tight > 15_000, "bounds are worth something: {tight} of 30,000");
    }
}
