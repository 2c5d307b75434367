//! Each table against f64 and against itself in any company. It breaks at tails (dimensions that are no whole chunk), where a
//! code is read from the wrong plane, or where a tile sums in another order; so dimensions and counts run over small values.

use super::*;
use crate::math::random::Random;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];
const BITS: [StepBits; 4] = [StepBits::Eight, StepBits::Six, StepBits::Four, StepBits::Signed];

/// The codes of a row, read bit by bit: the lowest bits of the first byte are the first component.
fn codes_of(bits: StepBits, row: &[u8], dim: usize) -> Vec<i32> {
    let width = match bits {
        StepBits::Six => 6,
        StepBits::Four => 4,
        _ => 8,
    };
    let bit = |at: usize| i32::from(row[at / 8] >> (at % 8) & 1);
    let code = |j: usize| (0..width).map(|b| bit(j * width + b) << b).sum::<i32>();
    (0..dim).map(|j| if bits == StepBits::Signed { code(j) - 128 } else { code(j) }).collect()
}

fn floats(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
}

fn arranged(bits: StepBits, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bits.padded(values.len())];
    bits.arrange(values, &mut out);
    out
}

/// Rows at an odd address, steps and queries, and the f64 scores with the sums of their terms' magnitudes.
struct Case {
    bits: StepBits,
    dim: usize,
    bytes: Vec<u8>,
    steps: Vec<f32>,
    terms: Vec<Vec<f32>>,
    plain_steps: Vec<f32>,
    plain_terms: Vec<Vec<f32>>,
}

impl Case {
    fn new(random: &mut Random, bits: StepBits, dim: usize, n: usize, queries: usize) -> Self {
        let bytes = (0..1 + n * bits.code_bytes(dim)).map(|_| random.next_u64() as u8).collect();
        let plain_steps = floats(random, dim);
        let plain_terms: Vec<_> = (0..queries).map(|_| floats(random, dim)).collect();
        let terms = plain_terms.iter().map(|terms| arranged(bits, terms)).collect();
        Case { bits, dim, bytes, steps: arranged(bits, &plain_steps), terms, plain_steps, plain_terms }
    }

    fn rows(&self, range: std::ops::Range<usize>) -> StepRows<'_> {
        let size = self.bits.code_bytes(self.dim);
        let codes = &self.bytes[1..][range.start * size..range.end * size];
        StepRows { bits: self.bits, dim: self.dim, steps: &self.steps, codes, ahead: &self.bytes }
    }

    fn query(&self, q: usize) -> StepQuery<'_> {
        StepQuery { terms: &self.terms[q], bias: q as f32 - 1.5 }
    }

    fn oracle(&self, similarity: Similarity, q: usize, i: usize) -> (f64, f64) {
        let size = self.bits.code_bytes(self.dim);
        let codes = codes_of(self.bits, &self.bytes[1..][i * size..][..size], self.dim);
        let bias = f64::from(self.query(q).bias);
        let mut sums = if similarity == Similarity::L2 { (0.0, 0.0) } else { (bias, bias.abs()) };
        for (j, code) in codes.into_iter().enumerate() {
            let (term, step, x) =
                (f64::from(self.plain_terms[q][j]), f64::from(self.plain_steps[j]), f64::from(code));
            let term = match similarity {
                Similarity::L2 => (term - step * x).powi(2),
                Similarity::Dot => -term * x,
            };
            sums = (sums.0 + term, sums.1 + term.abs());
        }
        sums
    }
}

#[test]
fn every_table_computes_the_score_and_the_same_bits_in_any_company() {
    let mut random = Random::new(1);
    let dims = (1..=70).chain([96, 127, 128, 130, 200, 384]);
    for (dim, bits) in dims.flat_map(|dim| BITS.map(|bits| (dim, bits))) {
        let (n, queries) = (1 + random.below(20), 1 + random.below(STEP_QUERIES));
        let case = Case::new(&mut random, bits, dim, n, queries);
        for (kernels, similarity) in
            Kernels::all().into_iter().flat_map(|kernels| SIMILARITIES.map(|s| (kernels, s)))
        {
            let all: Vec<_> = (0..queries).map(|q| case.query(q)).collect();
            let mut scores = vec![f32::NAN; queries * n];
            kernels.scalar_scan(similarity, &case.rows(0..n), &all, &mut scores);
            for (q, i) in (0..queries).flat_map(|q| (0..n).map(move |i| (q, i))) {
                let score = scores[q * n + i];
                let (exact, size) = case.oracle(similarity, q, i);
                let error = (f64::from(score) - exact).abs();
                assert!(error <= 1e-5 * size, "{} {bits:?} {dim} {similarity:?}: {error}", kernels.name);
                let mut alone = [f32::NAN];
                kernels.scalar_scan(similarity, &case.rows(i..i + 1), &[all[q]], &mut alone);
                assert_eq!(alone[0].to_bits(), score.to_bits(), "{} {bits:?} {dim} {n}", kernels.name);
            }
        }
    }
}

/// What NEON's table is made of, which other processors do not run: as the portable one, but for fewer roundings.
#[test]
fn fused_sums_differ_by_roundings_only() {
    let mut random = Random::new(3);
    for dim in [1, 16, 50, 200] {
        let case = Case::new(&mut random, StepBits::Six, dim, 9, 3);
        let all: Vec<_> = (0..3).map(|q| case.query(q)).collect();
        let mut scores = vec![f32::NAN; 27];
        portable::scan_rows::<{ crate::kernel::tag::L2 }, { tag::SIX }, true>(
            &case.rows(0..9),
            0..4,
            &all,
            &mut scores,
        );
        portable::scan_rows::<{ crate::kernel::tag::L2 }, { tag::SIX }, true>(
            &case.rows(0..9),
            4..9,
            &all,
            &mut scores,
        );
        for (q, i) in (0..3).flat_map(|q| (0..9).map(move |i| (q, i))) {
            let (exact, size) = case.oracle(Similarity::L2, q, i);
            assert!((f64::from(scores[q * 9 + i]) - exact).abs() <= 1e-5 * size, "{dim} {q} {i}");
        }
    }
}

/// More rows than pass through the first-level cache at once, so that queries come by several times.
#[test]
fn long_lists_are_scanned_in_passes() {
    let mut random = Random::new(2);
    let (dim, n) = (600, 101);
    let case = Case::new(&mut random, StepBits::Eight, dim, n, STEP_QUERIES);
    for kernels in Kernels::all() {
        let all: Vec<_> = (0..STEP_QUERIES).map(|q| case.query(q)).collect();
        let (mut scores, mut alone) = (vec![f32::NAN; STEP_QUERIES * n], vec![f32::NAN; n]);
        kernels.scalar_scan(Similarity::L2, &case.rows(0..n), &all, &mut scores);
        for (query, scores) in all.iter().zip(scores.chunks_exact(n)) {
            kernels.scalar_scan(Similarity::L2, &case.rows(0..n), &[*query], &mut alone);
            assert_eq!(alone, scores, "{}", kernels.name);
        }
    }
}

/// Sums that overflow, to either side or to both, are scores all the same; nothing is -0.0.
#[test]
fn scores_are_numbers_whatever_the_sums_are() {
    for (kernels, bits) in Kernels::all().into_iter().flat_map(|kernels| BITS.map(|bits| (kernels, bits))) {
        for (dim, sign) in [(1, 1.0), (64, 1.0), (65, -1.0), (64, -1.0)] {
            let codes = vec![0xff; bits.code_bytes(dim)];
            let alternating: Vec<f32> =
                (0..dim).map(|j| if j % 2 == 0 { f32::MAX } else { f32::MAX * sign }).collect();
            let steps = arranged(bits, &alternating);
            let rows = StepRows { bits, dim, steps: &steps, codes: &codes, ahead: &[] };
            for (similarity, bias) in SIMILARITIES.into_iter().flat_map(|s| [(s, 0.0), (s, f32::MIN)]) {
                let mut score = [f32::NAN];
                kernels.scalar_scan(similarity, &rows, &[StepQuery { terms: &steps, bias }], &mut score);
                assert!(score[0].is_finite(), "{} {bits:?} {similarity:?}", kernels.name);
            }
        }
        let zeros = vec![0.0; bits.padded(3)];
        let codes = vec![0; bits.code_bytes(3)];
        let rows = StepRows { bits, dim: 3, steps: &zeros, codes: &codes, ahead: &[] };
        for (similarity, bias) in SIMILARITIES.into_iter().flat_map(|s| [(s, 0.0), (s, -0.0)]) {
            let mut score = [f32::NAN];
            kernels.scalar_scan(similarity, &rows, &[StepQuery { terms: &zeros, bias }], &mut score);
            assert_eq!(score[0].to_bits(), 0, "{} {bits:?} {similarity:?}", kernels.name);
        }
    }
}

#[test]
fn no_rows_and_no_queries_are_no_work() {
    let zeros = vec![0.0; StepBits::Six.padded(5)];
    let rows = StepRows { bits: StepBits::Six, dim: 5, steps: &zeros, codes: &[], ahead: &[] };
    for kernels in Kernels::all() {
        kernels.scalar_scan(Similarity::L2, &rows, &[StepQuery { terms: &zeros, bias: 0.0 }], &mut []);
        kernels.scalar_scan(Similarity::Dot, &StepRows { codes: &[0; 8], ..rows }, &[], &mut []);
    }
}
