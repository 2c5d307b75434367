//! A copy of the centroids in 7 bits a component, for a first look at all lists: a quarter of the bytes,
//! and four products an instruction where there were one. It lives in memory only.
//!
//! ```text
//!   c - mean = ĉ + e_c      ĉ = low + step · code        ‖e_c‖ ≤ the largest of all centroids
//!   q - mean = q̂ + e_q      q̂ = scale · code             (L2; for Dot q itself is taken apart)
//! ```
//!
//! **No list that a full scan would return is ever lost.** Let T be the k-th smallest score of any k
//! lists or more: what a full scan returns scores at most T, and so does all that ties with it.
//!
//! - L2: by the triangle inequality `‖q̂ - ĉ‖ ≤ ‖q - c‖ + ‖e_q‖ + ‖e_c‖`, so a list with
//!   `‖q̂ - ĉ‖ > √T + ‖e_q‖ + ‖e_c‖` is farther than T.
//! - Dot: `⟨q, c⟩ = ⟨q, mean⟩ + ⟨q̂, ĉ⟩ + ⟨q̂, e_c⟩ + ⟨e_q, c - mean⟩`, and Cauchy and Schwarz bound the last
//!   two terms by `‖q̂‖ ‖e_c‖ + ‖e_q‖ ‖c - mean‖`.
//!
//! On top comes what rounding can do to scores of `f32`, about `dim · 2⁻²⁴` of `(‖q‖ + ‖c‖)²`, taken twice:
//! that also covers the rounding of the bounds themselves, which are `f64`. The bounds hold whatever the
//! codes are, because the errors are measured, not assumed. Where a sum could overflow there is no copy, or
//! no view of that query, and all lists are scored.
//!
//! The bounds let through 1.33-1.7 times as many lists as are asked for: of 2,048 centroids of sift-300k (L2)
//! 13 for 8, 86 for 62, 170 for 128; of 1,024 of text-108k (inner product) 13 for 8, 97 for 62.

use crate::Rows;
use crate::kernel::{AlignedVec, BYTE_PANEL, ByteProduct, Kernels, Similarity};
use crate::math::linalg::mean;
use std::ops::Range;
use zerocopy::IntoBytes;

/// The largest code of a centroid's component; see [`ByteProduct`].
const CODE_MAX: f64 = 127.0;

/// Squared lengths below this overflow in no sum of a score.
const SQUARE_MAX: f64 = 1e36;

/// What underflow can take from a sum, per component, with room to spare: 2⁻¹⁵⁰ (7e-46) from a product of
/// components, and 127 · 128 times that from a product of codes whose factor was rounded by as much.
const UNDERFLOW: f64 = 1e-40;

pub(super) struct Quantised {
    similarity: Similarity,
    mean: Vec<f32>,
    low: f64,
    step: f64,
    panels: AlignedVec,
    bias: Vec<f32>,
    /// Components with padding.
    padded: usize,
    bias_max: f64,
    /// The largest of all centroids: length, length without the mean, length of the error.
    length_max: f64,
    centred_max: f64,
    error_max: f64,
}

/// What is known of a query's codes.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    factor: f32,
    /// Approximate scores lack this, which is the same for all lists.
    constant: f64,
    /// How much farther than T an approximate score may be: added to the distance (L2), to the score.
    distance_slack: f64,
    score_slack: f64,
    /// The rounding of an exact score, and of an approximate one.
    exact_rounding: f64,
    rounding: f64,
}

impl Quantised {
    /// Nothing if a centroid is not finite or so long that its products may overflow.
    pub(super) fn new(centroids: Rows<'_>, similarity: Similarity) -> Option<Self> {
        Quantised::placed(centroids, similarity, centroids.len(), |list| list)
    }

    /// The same with list `l` in column `place(l)` of so many; what no list stands in is never near.
    pub(super) fn placed(
        centroids: Rows<'_>,
        similarity: Similarity,
        columns: usize,
        place: impl Fn(usize) -> usize,
    ) -> Option<Self> {
        // The maxima below would pass over NaN.
        centroids.check_finite().ok()?;
        let dim = centroids.dim();
        // Any vector is right; this one makes the components small.
        let mean: Vec<f32> = mean(centroids).into_iter().map(|x| x as f32).collect();
        let centred = |row: &[f32], d: usize| f64::from(row[d]) - f64::from(mean[d]);
        let components = centroids.iter().flat_map(|row| (0..dim).map(move |d| centred(row, d)));
        let (low, high) = components.fold((0.0f64, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        let step = (high - low) / CODE_MAX;
        let code = |x: f64| ((x - low) / step).round().clamp(0.0, CODE_MAX) as u8;
        let padded = dim.next_multiple_of(4);
        let columns = columns.next_multiple_of(BYTE_PANEL);
        let mut quantised = Quantised {
            similarity,
            low,
            step,
            panels: AlignedVec::zeros(columns * padded / 4),
            bias: vec![f32::INFINITY; columns],
            padded,
            bias_max: 0.0,
            length_max: 0.0,
            centred_max: 0.0,
            error_max: 0.0,
            mean: Vec::new(),
        };
        let panels = quantised.panels.as_mut_bytes();
        let mut codes = vec![0u8; dim];
        for (list, row) in centroids.iter().enumerate() {
            let c = place(list);
            let first = c / BYTE_PANEL * BYTE_PANEL * padded + c % BYTE_PANEL * 4;
            for (d, to) in codes.iter_mut().enumerate() {
                *to = code(centred(row, d));
                panels[first + d / 4 * 4 * BYTE_PANEL + d % 4] = *to;
            }
            let total = |term: fn(f64, f64, f64) -> f64| sum(row, &mean, &codes, term);
            let bias = match similarity {
                Similarity::L2 => sum(row, &mean, &codes, |_, _, code| square(low + step * code)),
                Similarity::Dot => 0.0,
            };
            let error = sum(row, &mean, &codes, |x, mean, code| square(x - mean - (low + step * code)));
            quantised.bias[c] = bias as f32;
            quantised.bias_max = quantised.bias_max.max(bias);
            quantised.length_max = quantised.length_max.max(total(|x, _, _| square(x)).sqrt());
            quantised.centred_max = quantised.centred_max.max(total(|x, mean, _| square(x - mean)).sqrt());
            quantised.error_max = quantised.error_max.max(error.sqrt());
        }
        let fits = |square: f64| square < SQUARE_MAX;
        (fits(square(quantised.length_max)) && fits(quantised.bias_max))
            .then_some(Quantised { mean, ..quantised })
    }

    /// Components of a query's codes.
    pub(super) fn code_len(&self) -> usize {
        self.padded
    }

    /// Approximate scores of one query; longer than there are lists, infinite behind them.
    pub(super) fn columns(&self) -> usize {
        self.bias.len()
    }

    /// Encodes a query; nothing if its scores may overflow or it is not finite.
    pub(super) fn view(&self, query: &[f32], codes: &mut [i8]) -> Option<View> {
        let dim = self.mean.len();
        assert!(query.len() == dim && codes.len() == self.padded);
        let (query, mean) = (&query[..dim], &self.mean[..dim]);
        let shift = if self.similarity == Similarity::L2 { 1.0 } else { 0.0 };
        let centred = |d: usize| query[d] - shift * mean[d];
        // The bits of positive floats are in their order, and so are those of NaN behind them all.
        let largest = (0..dim).fold(0, |most, d| (centred(d).to_bits() & 0x7fff_ffff).max(most));
        let scale = f64::from(f32::from_bits(largest)) / CODE_MAX;
        let inverse = (1.0 / scale) as f32;
        for (d, code) in codes[..dim].iter_mut().enumerate() {
            *code = round(centred(d) * inverse);
        }
        codes[dim..].fill(0);
        self.measure(query, shift.into(), scale, &codes[..dim])
    }

    /// The errors of these codes, whatever they are.
    fn measure(&self, query: &[f32], shift: f64, scale: f64, codes: &[i8]) -> Option<View> {
        let dim = query.len();
        let (mean, codes) = (&self.mean[..dim], &codes[..dim]);
        let length = sum(query, mean, codes, |x, _, _| square(x)).sqrt();
        let error = sum(query, mean, codes, |x, mean, code| square(x - shift * mean - scale * code)).sqrt();
        let whole =
            |term: fn(i32) -> i32| f64::from(codes.iter().map(|&code| term(code.into())).sum::<i32>());
        let (total, total_size) = (whole(|code| code), whole(i32::abs));
        let decoded = scale * whole(|code| code * code).sqrt();
        let size = length + self.length_max;
        // Not `>=`: NaN has no view either.
        if !(square(size) < SQUARE_MAX && square(decoded) < SQUARE_MAX) {
            return None;
        }
        let low = scale * self.low * total;
        let (factor, constant, distance_slack, score_slack, terms) = match self.similarity {
            Similarity::L2 => (
                -2.0 * scale * self.step,
                square(decoded) - 2.0 * low,
                error + self.error_max,
                0.0,
                square(size),
            ),
            Similarity::Dot => {
                let along_mean = sum(query, mean, codes, |x, mean, _| x * mean);
                let slack = decoded * self.error_max + error * self.centred_max;
                (-scale * self.step, -along_mean - low, 0.0, slack, length * self.length_max)
            }
        };
        let (epsilon, dim) = (f64::from(f32::EPSILON), dim as f64);
        Some(View {
            factor: factor as f32,
            constant,
            distance_slack,
            score_slack,
            exact_rounding: (dim + 8.0) * (epsilon * terms + UNDERFLOW),
            rounding: 8.0 * epsilon * (self.bias_max + factor.abs() * CODE_MAX * total_size),
        })
    }

    /// The approximate scores of some queries.
    pub(super) fn scores(&self, kernels: &Kernels, codes: &[i8], factors: &[f32], out: &mut [f32]) {
        self.scores_of(0..self.columns(), kernels, codes, factors, out);
    }

    /// The same of some columns, whole panels.
    pub(super) fn scores_of(
        &self,
        columns: Range<usize>,
        kernels: &Kernels,
        codes: &[i8],
        factors: &[f32],
        out: &mut [f32],
    ) {
        let panels = &self.panels.as_bytes()[columns.start * self.padded..columns.end * self.padded];
        let bias = &self.bias[columns];
        kernels.byte_scores(&ByteProduct { dim: self.padded, queries: codes, factors, panels, bias }, out);
    }

    /// Asks for some columns to be brought nearer.
    pub(super) fn prefetch(&self, columns: Range<usize>, kernels: &Kernels) {
        let bytes = &self.panels.as_bytes()[columns.start * self.padded..columns.end * self.padded];
        kernels.prefetch_stream(bytes);
    }

    /// A list whose approximate score is beyond this has an exact score beyond `threshold`.
    pub(super) fn limit(&self, view: &View, threshold: f32) -> f32 {
        let threshold = f64::from(threshold) + view.exact_rounding;
        let beyond = match self.similarity {
            Similarity::L2 => square(threshold.max(0.0).sqrt() + view.distance_slack),
            Similarity::Dot => threshold + view.score_slack,
        };
        // To nearest and then up is not below.
        ((beyond - view.constant + view.rounding) as f32).next_up()
    }
}

impl View {
    pub(super) fn factor(view: Option<&View>) -> f32 {
        view.map_or(0.0, |view| view.factor)
    }
}

/// To the nearest whole number, without the call that `f32::round` is on old processors: in a sum of this
/// magnitude the last bits are the whole number's.
fn round(x: f32) -> i8 {
    const MAGIC: f32 = (3 << 22) as f32;
    (x + MAGIC).to_bits() as i8
}

fn square(x: f64) -> f64 {
    x * x
}

/// The sum of `term` over the components of a row, of the mean and of codes, in lanes, which compilers
/// vectorise.
#[inline(always)]
fn sum<C: Copy + Into<f64>>(
    row: &[f32],
    mean: &[f32],
    codes: &[C],
    term: impl Fn(f64, f64, f64) -> f64,
) -> f64 {
    let ((rows, row), (means, mean)) = (row.as_chunks::<8>(), mean.as_chunks::<8>());
    let (eights, codes) = codes.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for ((row, mean), codes) in rows.iter().zip(means).zip(eights) {
        for lane in 0..8 {
            lanes[lane] += term(row[lane].into(), mean[lane].into(), codes[lane].into());
        }
    }
    let rest = row.iter().zip(mean).zip(codes);
    let rest: f64 = rest.map(|((&x, &mean), &code)| term(x.into(), mean.into(), code.into())).sum();
    lanes.iter().sum::<f64>() + rest
}
