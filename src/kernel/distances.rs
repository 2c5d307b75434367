//! Distances that are neither L2 nor inner products, over rows of f32.
//!
//! ```text
//! L1             Σ|q−x|                      Bray-Curtis     Σ|q−x| / Σ|q+x|
//! L∞             max|q−x|                    Jensen-Shannon  ½ Σ (q·ln(q/m) + x·ln(x/m)),  m = (q+x)/2
//! Lp             Σ|q−x|ᵖ, without the root   Jaccard         Σmin(q,x) / Σmax(q,x), negated
//! Canberra       Σ|q−x| / (|q|+|x|),         NaN-Euclidean   d/present · Σ(q−x)² over what is present in both
//!                0/0 counts as 0             Gower           the mean, over what is present in both, of |q−x| of
//!                                                            numbers and of q≠x of categories (below 0)
//! ```
//! These are FAISS's formulas, but for two limits: in Jensen-Shannon 0·ln 0 is 0, and in Canberra 0/0, where FAISS's distances are NaN
//! (those of 1.15; later ones agree about Canberra). A pair whose distance
//! is no finite number (0/0, x/0, nothing present in both, a number against a category) scores NaN, which no threshold lets
//! through.
//!
//! Plain loops over a fixed number of lanes, which the compiler turns into the instructions of the table that they are
//! inlined into. Nothing is fused, so all tables give the same bits; a pair's sum takes the same order whatever its company.

use super::{Kernels, Similarity};
use std::ops::Add;
use zerocopy::IntoBytes;

/// What is computed between two vectors where it is no [`Similarity`](super::Similarity).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distance {
    L1,
    Linf,
    /// Lp of this p: finite and above 0.
    Power(f32),
    Canberra,
    BrayCurtis,
    JensenShannon,
    Jaccard,
    NanEuclidean,
    Gower,
}

impl Distance {
    /// True if a component may be missing.
    pub(crate) fn takes_missing(self) -> bool {
        matches!(self, Distance::NanEuclidean | Distance::Gower)
    }
}

/// One or the other, for who clusters by either.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Nearness {
    Similarity(Similarity),
    Distance(Distance),
}

impl From<Similarity> for Nearness {
    fn from(similarity: Similarity) -> Self {
        Nearness::Similarity(similarity)
    }
}

impl Nearness {
    /// True if scores are negated similarities.
    pub(crate) fn is_negated(self) -> bool {
        matches!(self, Nearness::Similarity(Similarity::Dot) | Nearness::Distance(Distance::Jaccard))
    }

    /// True if a component may be missing.
    pub(crate) fn takes_missing(self) -> bool {
        matches!(self, Nearness::Distance(distance) if distance.takes_missing())
    }

    /// True if a component below 0 is a category.
    pub(crate) fn has_categories(self) -> bool {
        self == Nearness::Distance(Distance::Gower)
    }
}

pub(super) type Distances = unsafe fn(Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]);

#[allow(unsafe_code)]
impl Kernels {
    /// The score of every query with every row: `scores[q * n + i]`, `n` rows of little-endian f32 of the queries'
    /// dimension, at any alignment.
    pub(crate) fn distances(&self, distance: Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
        if scores.is_empty() {
            return assert!(queries.is_empty() || codes.is_empty());
        }
        let dim = queries[0].len();
        assert!(dim > 0 && queries.iter().all(|query| query.len() == dim));
        assert!(scores.len().is_multiple_of(queries.len()));
        assert_eq!(codes.len(), scores.len() / queries.len() * dim * 4);
        // SAFETY: the table exists only where its instructions do.
        unsafe { (self.distances)(distance, queries, codes, scores) }
    }

    /// [`Kernels::distances`] over rows in memory.
    pub(crate) fn distances_rows(
        &self,
        distance: Distance,
        queries: &[&[f32]],
        rows: &[f32],
        scores: &mut [f32],
    ) {
        if cfg!(target_endian = "little") {
            return self.distances(distance, queries, rows.as_bytes(), scores);
        }
        let codes: Vec<u8> = rows.iter().flat_map(|component| component.to_le_bytes()).collect();
        self.distances(distance, queries, &codes, scores);
    }
}

/// Running sums: two AVX-512 registers, so that an addition need not wait for the one before.
const LANES: usize = 32;

/// One distance: what a component adds to two running sums, and what becomes of them.
trait Measure: Copy {
    type Real: Copy + Default + Add<Output = Self::Real>;

    fn add(self, first: &mut Self::Real, second: &mut Self::Real, q: f32, x: f32);

    /// Two sums of the first kind together.
    #[inline(always)]
    fn join(a: Self::Real, b: Self::Real) -> Self::Real {
        a + b
    }

    fn finish(self, first: Self::Real, second: Self::Real, dim: usize) -> f32;
}

#[inline(always)]
fn scan<M: Measure>(measure: M, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    let n = scores.len() / queries.len();
    let rows = codes.as_chunks::<4>().0.chunks_exact(queries[0].len());
    for (i, row) in rows.enumerate() {
        for (q, query) in queries.iter().enumerate() {
            scores[q * n + i] = pair(measure, query, row);
        }
    }
}

#[inline(always)]
fn pair<M: Measure>(measure: M, query: &[f32], row: &[[u8; 4]]) -> f32 {
    let mut first = [M::Real::default(); LANES];
    let mut second = [M::Real::default(); LANES];
    let ((qs, q_rest), (xs, x_rest)) = (query.as_chunks::<LANES>(), row.as_chunks::<LANES>());
    for (q, x) in qs.iter().zip(xs) {
        for lane in 0..LANES {
            measure.add(&mut first[lane], &mut second[lane], q[lane], f32::from_le_bytes(x[lane]));
        }
    }
    for (lane, (q, x)) in q_rest.iter().zip(x_rest).enumerate() {
        measure.add(&mut first[lane], &mut second[lane], *q, f32::from_le_bytes(*x));
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            first[lane] = M::join(first[lane], first[lane + half]);
            second[lane] = second[lane] + second[lane + half];
        }
    }
    measure.finish(first[0], second[0], query.len())
}

/// NaN for what is not finite.
#[inline(always)]
fn finite(score: f32) -> f32 {
    if score.is_finite() { score } else { f32::NAN }
}

#[derive(Clone, Copy)]
struct L1;

impl Measure for L1 {
    type Real = f32;

    #[inline(always)]
    fn add(self, sum: &mut f32, _: &mut f32, q: f32, x: f32) {
        *sum += (q - x).abs();
    }

    #[inline(always)]
    fn finish(self, sum: f32, _: f32, _: usize) -> f32 {
        sum
    }
}

#[derive(Clone, Copy)]
struct Linf;

impl Measure for Linf {
    type Real = f32;

    #[inline(always)]
    fn add(self, most: &mut f32, _: &mut f32, q: f32, x: f32) {
        *most = Self::join(*most, (q - x).abs());
    }

    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        if b > a { b } else { a }
    }

    #[inline(always)]
    fn finish(self, most: f32, _: f32, _: usize) -> f32 {
        most
    }
}

/// Small whole powers, by multiplication.
#[derive(Clone, Copy)]
struct Whole<const P: u8>;

impl<const P: u8> Measure for Whole<P> {
    type Real = f32;

    #[inline(always)]
    fn add(self, sum: &mut f32, _: &mut f32, q: f32, x: f32) {
        let d = (q - x).abs();
        *sum += match P {
            2 => d * d,
            3 => d * d * d,
            _ => (d * d) * (d * d),
        };
    }

    #[inline(always)]
    fn finish(self, sum: f32, _: f32, _: usize) -> f32 {
        sum
    }
}

/// Any power: 2^(p·log₂ d) in f64, as in f32 the rounding of the logarithm would be multiplied by p.
#[derive(Clone, Copy)]
struct Power(f64);

impl Measure for Power {
    type Real = f64;

    #[inline(always)]
    fn add(self, sum: &mut f64, _: &mut f64, q: f32, x: f32) {
        let d = f64::from((q - x).abs());
        let power = exp2(self.0 * log2(d));
        *sum += if d > 0.0 { power } else { 0.0 };
    }

    #[inline(always)]
    fn finish(self, sum: f64, _: f64, _: usize) -> f32 {
        sum as f32
    }
}

#[derive(Clone, Copy)]
struct Canberra;

impl Measure for Canberra {
    type Real = f32;

    #[inline(always)]
    fn add(self, sum: &mut f32, _: &mut f32, q: f32, x: f32) {
        let size = q.abs() + x.abs();
        let part = (q - x).abs() / size;
        *sum += if size > 0.0 { part } else { 0.0 };
    }

    #[inline(always)]
    fn finish(self, sum: f32, _: f32, _: usize) -> f32 {
        sum
    }
}

#[derive(Clone, Copy)]
struct BrayCurtis;

impl Measure for BrayCurtis {
    type Real = f32;

    #[inline(always)]
    fn add(self, apart: &mut f32, together: &mut f32, q: f32, x: f32) {
        *apart += (q - x).abs();
        *together += (q + x).abs();
    }

    #[inline(always)]
    fn finish(self, apart: f32, together: f32, _: usize) -> f32 {
        finite(apart / together)
    }
}

/// With e = |q−x|/(q+x) a component counts ¼(q+x)·((1+e)·ln(1+e) + (1−e)·ln(1−e)). Where e is small the two products nearly
/// cancel, and the series e² + e⁴/6 + e⁶/15 + … says the same without loss.
#[derive(Clone, Copy)]
struct JensenShannon;

impl Measure for JensenShannon {
    type Real = f64;

    #[inline(always)]
    fn add(self, sum: &mut f64, _: &mut f64, q: f32, x: f32) {
        let (less, more) = if q < x { (q, x) } else { (x, q) };
        let both = q + x;
        let (e, a, b) = ((more - less) / both, 2.0 * less / both, 2.0 * more / both);
        let z = e * e;
        // 1 / (k·(2k − 1)) for k = 1 ..= 10: up to e = ½ the rest is 4e-9 of it all.
        let series = (1..=10).rev().fold(0.0, |sum, k| z * (sum + 1.0 / (k * (2 * k - 1)) as f32));
        let low = a * ln(a);
        let products = b * ln(b) + if a >= f32::MIN_POSITIVE { low } else { 0.0 };
        let part = both * if e < 0.5 { series } else { products };
        *sum += f64::from(if both > 0.0 { part } else { 0.0 });
    }

    #[inline(always)]
    fn finish(self, sum: f64, _: f64, _: usize) -> f32 {
        (0.25 * sum) as f32
    }
}

#[derive(Clone, Copy)]
struct Jaccard;

impl Measure for Jaccard {
    type Real = f32;

    #[inline(always)]
    fn add(self, shared: &mut f32, all: &mut f32, q: f32, x: f32) {
        let (less, more) = if q < x { (q, x) } else { (x, q) };
        *shared += less;
        *all += more;
    }

    #[inline(always)]
    fn finish(self, shared: f32, all: f32, _: usize) -> f32 {
        // Not `-ratio`: no score is -0.
        0.0 - finite(shared / all)
    }
}

#[derive(Clone, Copy)]
struct NanEuclidean;

impl Measure for NanEuclidean {
    type Real = f32;

    #[inline(always)]
    fn add(self, sum: &mut f32, present: &mut f32, q: f32, x: f32) {
        // NaN if one of the two is.
        let d = q - x;
        *sum += if d.is_nan() { 0.0 } else { d * d };
        *present += if d.is_nan() { 0.0 } else { 1.0 };
    }

    #[inline(always)]
    fn finish(self, sum: f32, present: f32, dim: usize) -> f32 {
        // Nothing present: ∞·0.
        finite(dim as f32 / present * sum)
    }
}

#[derive(Clone, Copy)]
struct Gower;

impl Measure for Gower {
    type Real = f32;

    #[inline(always)]
    fn add(self, sum: &mut f32, present: &mut f32, q: f32, x: f32) {
        let d = q - x;
        let differs = if d == 0.0 { 0.0 } else { 1.0 };
        let (numbers, categories) = ((q >= 0.0) & (x >= 0.0), (q < 0.0) & (x < 0.0));
        let categories = if categories { differs } else { f32::NAN };
        let part = if numbers { d.abs() } else { categories };
        *sum += if d.is_nan() { 0.0 } else { part };
        *present += if d.is_nan() { 0.0 } else { 1.0 };
    }

    #[inline(always)]
    fn finish(self, sum: f32, present: f32, _: usize) -> f32 {
        finite(sum / present)
    }
}

/// The natural logarithm of a normal number above 0, within 2e-7 of it: x = m·2ᵏ with m from √½ to √2, and
/// ln m = 2·atanh((m−1)/(m+1)).
#[inline(always)]
fn ln(x: f32) -> f32 {
    let exponent = x.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3) >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub(exponent.wrapping_sub(127) << 23));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 1.0 + z * (1.0 / 3.0 + z * (0.2 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    (exponent as i32 - 127) as f32 * std::f32::consts::LN_2 + 2.0 * s * series
}

/// log₂ of a normal number above 0, the same way, within 1e-11.
#[inline(always)]
fn log2(x: f64) -> f64 {
    const BIG: u64 = 0x4330_0000_0000_0000;
    let exponent = x.to_bits().wrapping_add(0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd) >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub(exponent.wrapping_sub(1023) << 52));
    // 2^52 + exponent by its bits: not every table can convert whole numbers of 64 bits.
    let k = f64::from_bits(BIG | exponent) - (f64::from_bits(BIG) + 1023.0);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let odd = |n: i32| 1.0 / f64::from(2 * n + 1);
    let series = (0..7).rev().fold(0.0, |sum, n| sum * z + odd(n));
    k + 2.0 * std::f64::consts::LOG2_E * s * series
}

/// 2ᵗ within 1e-10 of it; below 2^-1000 that.
#[inline(always)]
fn exp2(t: f64) -> f64 {
    // Added to it a number is rounded to the nearest whole one, in its lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let t = if t > -1000.0 { t } else { -1000.0 };
    let shifted = t + ROUND;
    let y = (t - (shifted - ROUND)) * std::f64::consts::LN_2;
    let series = (1..=9).rev().fold(1.0, |sum, n| 1.0 + sum * y / f64::from(n));
    series * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

#[inline(always)]
fn body(distance: Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    match distance {
        Distance::L1 => scan(L1, queries, codes, scores),
        Distance::Linf => scan(Linf, queries, codes, scores),
        Distance::Power(1.0) => scan(L1, queries, codes, scores),
        Distance::Power(2.0) => scan(Whole::<2>, queries, codes, scores),
        Distance::Power(3.0) => scan(Whole::<3>, queries, codes, scores),
        Distance::Power(4.0) => scan(Whole::<4>, queries, codes, scores),
        Distance::Power(p) => scan(Power(p.into()), queries, codes, scores),
        Distance::Canberra => scan(Canberra, queries, codes, scores),
        Distance::BrayCurtis => scan(BrayCurtis, queries, codes, scores),
        Distance::JensenShannon => scan(JensenShannon, queries, codes, scores),
        Distance::Jaccard => scan(Jaccard, queries, codes, scores),
        Distance::NanEuclidean => scan(NanEuclidean, queries, codes, scores),
        Distance::Gower => scan(Gower, queries, codes, scores),
    }
}

/// For tables without instructions beyond the target's own.
pub(super) fn portable(distance: Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    body(distance, queries, codes, scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn avx2(distance: Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    body(distance, queries, codes, scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512(distance: Distance, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
    body(distance, queries, codes, scores);
}

#[cfg(test)]
mod tests;
