//! Which codes a range search must look behind.
//!
//! A range search over an index that keeps rows wants every row whose *kept* form scores below the radius, and
//! scans *codes*, which were rounded. With `q` the query, `c` the decoded code, `x` the kept row and `e = x − c`:
//!
//! ```text
//! rounding     |eᵢ| ≤ u·|cᵢ| + η,  so  ‖e‖ ≤ u·‖c‖ + η·√d        u relative, η for the smallest numbers
//! L2           ‖q−c‖ ≤ ‖q−x‖ + ‖e‖  and  ‖c‖ ≤ ‖q‖ + ‖q−c‖
//! product      −⟨q,c⟩ ≤ −⟨q,x⟩ + ‖q‖·‖e‖
//! summation    a computed score is off by γ of the sum of its terms' sizes, and δ for what underflows
//! ```
//! From a radius for rows follows a limit for codes: one a query for L2, for products one more a block, from its
//! longest code. Both scores that matter, the code's and later the kept row's, are computed ones, so γ and δ count
//! twice. The limits hold for any order of summation, fused or not. There is no overflow to think of: a code that
//! would be infinite is refused when it is made, and so is a vector whose distances would be.
//!
//! What that costs (100,000 rows of 128 components, 16 of 256 lists, about 100 hits): see ARCHITECTURE.md.

use super::{Codes, Probe, Scanner, Visit};
use crate::Rows;
use crate::kernel::{Element, Found, Kernels, Similarity};

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
            // What is not whole was refused.
            Element::U8 => (0.0, 0.0),
        };
        Loss { relative, absolute }
    }

    /// Between a code and a kept row that were both rounded from one vector.
    fn between(code: Element, kept: Element) -> Self {
        if kept == Element::U8 {
            // Whole numbers up to 255 need 8 bits of precision, which all elements have.
            return Loss { relative: 0.0, absolute: 0.0 };
        }
        let (code, kept) = (Loss::of(code), Loss::of(kept));
        let relative = code.relative + kept.relative + code.relative * kept.relative;
        let absolute = code.absolute * (1.0 + kept.relative) + kept.absolute;
        // The millionth more is for the f64 arithmetic below, whose own roundings are far smaller.
        Loss { relative: relative * 1.000_001, absolute: absolute * 1.000_001 }
    }
}

/// A scanner over flat codes for searches that score what they find again: it finds the entries whose kept rows may
/// score within `worst`, at −∞, which is below any.
pub(super) struct Bounds<'a> {
    codes: Box<dyn Scanner + 'a>,
    element: Element,
    similarity: Similarity,
    visits: Vec<Visit>,
    /// Of each query.
    norms: Vec<f64>,
    /// ‖e‖ of a code of length 1, and of any code beyond that.
    relative: f64,
    absolute: f64,
    gamma: f64,
    delta: f64,
    origin: Vec<f32>,
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
            visits: Vec::new(),
            norms: queries.iter().map(norm).collect(),
            relative: loss.relative,
            absolute: loss.absolute * (dim as f64).sqrt(),
            gamma: 1.01 * roundings * f64::exp2(-24.0),
            delta: roundings * f64::exp2(-126.0),
            origin: vec![0.0; dim],
            squares: Vec::new(),
        }
    }

    /// The greatest score of a code whose kept row is within squared distance `worst` of a query of length `query`.
    fn squared_limit(&self, worst: f64, query: f64) -> f64 {
        let to_row = ((worst + self.delta) / (1.0 - self.gamma)).max(0.0).sqrt();
        let to_code = (to_row + self.relative * query + self.absolute) / (1.0 - self.relative);
        to_code.powi(2) * (1.0 + self.gamma) + self.delta
    }

    /// The same for negated products, of codes up to the length `code`.
    fn product_limit(&self, worst: f64, query: f64, code: f64) -> f64 {
        let off = self.relative * code + self.absolute;
        worst + query * (off + self.gamma * (2.0 * code + off)) + 2.0 * self.delta
    }

    /// The length of the longest of `n` codes.
    fn longest(&mut self, codes: &[u8], n: usize) -> f64 {
        self.squares.resize(n, 0.0);
        // A squared norm is the squared distance from the origin, and that kernel reads codes as they are.
        Kernels::get().scan(Similarity::L2, self.element, &[&self.origin], codes, &mut self.squares);
        let most = self.squares.iter().fold(0.0, |most: f32, square| most.max(*square));
        ((f64::from(most) + self.delta) / (1.0 - self.gamma)).sqrt()
    }
}

impl Scanner for Bounds<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
        self.codes.enter(probe);
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let longest =
            if self.similarity == Similarity::Dot { self.longest(block.bytes, block.n) } else { 0.0 };
        let limit = |(visit, &worst): (&Visit, &f32)| {
            let query = self.norms[visit.query as usize];
            let limit = match self.similarity {
                Similarity::L2 => self.squared_limit(worst.into(), query),
                Similarity::Dot => self.product_limit(worst.into(), query, longest),
            };
            // Up to the next f32: half a step of it is far more than the roundings of the lines above.
            (limit as f32).next_up()
        };
        let limits: Vec<f32> = self.visits[first..].iter().zip(worst).map(limit).collect();
        self.codes.scan(block, first, &limits, live, found);
        // What was there before was found by this scanner, too.
        found.iter_mut().for_each(|found| found.scores.fill(f32::NEG_INFINITY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeptRows;
    use crate::codec::{Codec, Flat, KeptForm, flat::check_range};
    use crate::math::random::Random;

    /// Breaks if a limit excludes a row that is exactly on it, be it by one bit: over magnitudes from the subnormal to the
    /// largest of an element, with queries next to the row, at it, and far away.
    #[test]
    fn no_row_within_the_radius_is_passed_by() {
        let mut random = Random::new(5);
        let mut tight = (0, 0);
        for (code, kept) in [
            (Element::F16, Element::F32),
            (Element::BF16, Element::F32),
            (Element::BF16, Element::F16),
            (Element::F32, Element::F16),
            (Element::F32, Element::BF16),
            (Element::F16, Element::BF16),
            (Element::F16, Element::F16),
            (Element::F32, Element::U8),
            (Element::F16, Element::U8),
            (Element::BF16, Element::U8),
        ] {
            for similarity in [Similarity::L2, Similarity::Dot] {
                for round in 0..3000 {
                    let dim = [1, 2, 3, 17, 64, 300][round % 6];
                    let exponents = [-149, -130, -126, -30, -24, -15, -14, 0, 15];
                    let scale = f64::exp2(f64::from(exponents[random.below(exponents.len())]));
                    let mut draw = || (scale * (2.0 * random.unit() - 1.0)) as f32;
                    let row: Vec<f32> = match kept {
                        Element::U8 => (0..dim)
                            .map(|_| (f64::from(draw()) / scale * 127.0 + 128.0) as u8 as f32)
                            .collect(),
                        _ => (0..dim).map(|_| draw()).collect(),
                    };
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
                    let form = match kept {
                        Element::F16 => KeptRows::F16,
                        Element::BF16 => KeptRows::BF16,
                        Element::U8 => KeptRows::U8,
                        _ => KeptRows::F32,
                    };
                    let mut scanner = flat.bounds(queries, KeptForm::stages(form, dim)[0]).unwrap();
                    let visits = [Visit { query: 0, coarse: 0.0 }];
                    scanner.enter(Probe { list: 0, centroid: None, visits: &visits });
                    let mut passes = |worst: f32| {
                        let mut found = [Found::default()];
                        scanner.scan(
                            Codes { bytes: &bytes(code), n: 1, ahead: &[] },
                            0,
                            &[worst],
                            &[&[1]],
                            &mut found,
                        );
                        found[0].iter().next().is_some()
                    };
                    assert!(passes(exact[0]), "{code:?} {kept:?} {similarity:?} {row:?} {query:?}");
                    assert!(passes(f32::MAX) && !(similarity == Similarity::Dot && passes(f32::MIN)));
                    // Neither underflow nor cancellation: a tenth of the terms nearer than the row is, and it is passed by.
                    if scale >= 1.0 && near == 1.0 {
                        let sizes = row.iter().zip(&query).map(|(x, q)| (x * q).abs().max((q - x).powi(2)));
                        tight.0 += usize::from(!passes(exact[0] - 0.1 * sizes.sum::<f32>()));
                        tight.1 += 1;
                    }
                }
            }
        }
        assert!(tight.1 > 1000 && tight.0 * 10 > tight.1 * 9, "limits are worth something: {tight:?}");
    }
}
