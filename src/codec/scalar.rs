//! The scalar code: each component by itself, as a step of a range or as the whole number that it is.
//!
//! With r the residual against the list's centroid (or, `_raw`, the vector itself), n = 255, 63 or 15 for 8, 6 or 4 bits:
//!
//! ```text
//! trained   lowⱼ and spanⱼ, for each component or one pair for all
//! code      codeⱼ = ⌊n · clamp((rⱼ − lowⱼ) / spanⱼ, 0, 1)⌋            0 where the span is 0
//! decoded   r̂ⱼ    = lowⱼ + spanⱼ · (codeⱼ + ½) / n
//! packed    8 bits: a byte each; 6: four in three bytes; 4: two in a byte; the first component in the lowest bits
//! direct    a whole number as a byte, signed ones plus 128; never of residuals
//!
//! ranges    minmax a      low = min − a·(max − min), high = max + a·(max − min)
//!           meanstd a     mean ∓ a·σ, σ = 1 where all values are equal
//!           quantiles a   the ⌊a·N⌋-th value from either end
//!           optim         the steps that lose least in squares: values to steps, steps to their values by least squares,
//!                         by turns, until nothing is gained
//! ```
//! Codes, packing and ranges are FAISS's (`optim` puts the middles of steps where FAISS puts their lower ends, which its own
//! rounding then misses by half a step). A step may be as far off as half its length: a vector is at most
//! ½·‖span‖/n from what it is decoded to, if it lies within the ranges.
//!
//! Scores are computed on the codes (`kernel/scalar`): per (query, list) `q − c − mid` for L2, with mid = low + ½·span/n; per
//! query `q·span/n` for products, the rest of which is a constant.

use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Training, Visit, flat};
use crate::encoding::{ScalarBits, ScalarQuantizer, ScalarRange, ScalarSteps};
use crate::kernel::{Element, Found, Kernels, STEP_QUERIES, Similarity, StepBits, StepQuery, StepRows};
use crate::layout::Layout;
use crate::math::linalg::dot;
use crate::{Error, Observer, Result, Rows};
use rayon::prelude::*;

/// Rows that ranges are trained from at most.
const TRAINING_ROWS: usize = 100_000;

/// A scalar code of `dim` components.
#[derive(Debug)]
pub(crate) struct Scalar {
    dim: usize,
    similarity: Similarity,
    bits: StepBits,
    residual: bool,
    ranges: Ranges,
    kernels: &'static Kernels,
}

/// What components are decoded by.
#[derive(Debug)]
struct Ranges {
    /// As trained: one for all components or one for each. None for whole numbers.
    trained: Vec<Range>,
    /// n.
    steps_max: f32,
    /// lowⱼ + ½·spanⱼ/n.
    mids: Vec<f32>,
    /// The same in the kernel's order, and spanⱼ/n.
    arranged_mids: Vec<f32>,
    arranged_steps: Vec<f32>,
}

/// From `low` to `low + span`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    low: f32,
    span: f32,
}

impl Scalar {
    /// How many rows training looks at.
    pub(crate) fn training_rows(quantizer: ScalarQuantizer) -> Option<usize> {
        match quantizer {
            ScalarQuantizer::Steps(_) => Some(TRAINING_ROWS),
            ScalarQuantizer::DirectU8 | ScalarQuantizer::DirectI8 => Some(0),
        }
    }

    /// Finds the ranges.
    ///
    /// # Errors
    /// [`Error::TooFewRows`] if there is no row to find them by.
    pub(crate) fn train(
        quantizer: ScalarQuantizer,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let dim = training.sample.rows.dim();
        let ranges = match quantizer {
            ScalarQuantizer::Steps(steps) => train_ranges(steps, training.sample, observer)?,
            ScalarQuantizer::DirectU8 | ScalarQuantizer::DirectI8 => Vec::new(),
        };
        Ok(Scalar::new(quantizer, dim, training.similarity, ranges))
    }

    /// The quantizer that [`Codec::tables`] told of, or why there is none.
    pub(crate) fn from_tables(
        quantizer: ScalarQuantizer,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> std::result::Result<Self, String> {
        let count = match quantizer {
            ScalarQuantizer::Steps(steps) if steps.uniform => 1,
            ScalarQuantizer::Steps(_) => dim,
            ScalarQuantizer::DirectU8 | ScalarQuantizer::DirectI8 => 0,
        };
        let (pairs, rest) = tables.as_chunks::<8>();
        if pairs.len() != count || !rest.is_empty() {
            return Err(format!("{} bytes of ranges, expected {}", tables.len(), 8 * count));
        }
        let [low, high] = [0, 4].map(|at| {
            move |pair: &[u8; 8]| f32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]])
        });
        let ranges: Vec<Range> = pairs.iter().map(|p| Range { low: low(p), span: high(p) }).collect();
        let sound = |r: &Range| r.low.abs() <= RANGE_MAX && (0.0..=2.0 * RANGE_MAX).contains(&r.span);
        match ranges.iter().find(|range| !sound(range)) {
            None => Ok(Scalar::new(quantizer, dim, similarity, ranges)),
            Some(Range { low, span }) => Err(format!("a range of {span} from {low} on")),
        }
    }

    fn new(quantizer: ScalarQuantizer, dim: usize, similarity: Similarity, ranges: Vec<Range>) -> Self {
        let (bits, residual) = match quantizer {
            ScalarQuantizer::Steps(steps) => (step_bits(steps.bits), steps.residual),
            ScalarQuantizer::DirectU8 => (StepBits::Eight, false),
            ScalarQuantizer::DirectI8 => (StepBits::Signed, false),
        };
        let ranges = Ranges::new(ranges, bits, dim);
        Scalar { dim, similarity, bits, residual, ranges, kernels: Kernels::get() }
    }
}

/// The largest end of a range: beyond what the largest argument makes of the longest residuals.
const RANGE_MAX: f32 = 3e22;

fn step_bits(bits: ScalarBits) -> StepBits {
    match bits {
        ScalarBits::Eight => StepBits::Eight,
        ScalarBits::Six => StepBits::Six,
        ScalarBits::Four => StepBits::Four,
    }
}

fn steps_max(bits: ScalarBits) -> f32 {
    ((1u32 << bits.count()) - 1) as f32
}

impl Ranges {
    fn new(trained: Vec<Range>, bits: StepBits, dim: usize) -> Self {
        let steps_max = match bits {
            StepBits::Eight | StepBits::Signed => 255.0,
            StepBits::Six => 63.0,
            StepBits::Four => 15.0,
        };
        let (mids, steps): (Vec<f32>, Vec<f32>) = match trained[..] {
            // A whole number is what it says.
            [] => (vec![0.0; dim], vec![1.0; dim]),
            _ => {
                let all = trained.iter().cycle().take(dim);
                all.map(|range| (range.low + 0.5 / steps_max * range.span, range.span / steps_max)).unzip()
            }
        };
        let arrange = |values: &[f32]| {
            let mut arranged = vec![0.0; bits.padded(dim)];
            bits.arrange(values, &mut arranged);
            arranged
        };
        let (arranged_mids, arranged_steps) = (arrange(&mids), arrange(&steps));
        Ranges { trained, steps_max, mids, arranged_mids, arranged_steps }
    }

    /// The range of component `j`, if it has one.
    fn of(&self, j: usize) -> Option<Range> {
        self.trained.get(if self.trained.len() == 1 { 0 } else { j }).copied()
    }
}

impl Range {
    /// The code of a value: FAISS's roundings, in f32 for 8 bits and in f64 for fewer.
    fn code(self, value: f32, steps_max: f32) -> u8 {
        if self.span == 0.0 {
            return 0;
        }
        let part = ((value - self.low) / self.span).clamp(0.0, 1.0);
        match steps_max {
            255.0 => (steps_max * part) as u8,
            _ => (f64::from(part) * f64::from(steps_max)) as u8,
        }
    }

    fn decode(self, code: u8, steps_max: f32) -> f32 {
        self.low + (f32::from(code) + 0.5) / steps_max * self.span
    }
}

/// The range of each component, or the one of all.
fn train_ranges(steps: ScalarSteps, sample: Assigned<'_>, observer: &mut Observer<'_>) -> Result<Vec<Range>> {
    let (n, dim) = (sample.rows.len(), sample.rows.dim());
    if n == 0 {
        return Err(Error::TooFewRows { rows: 0, needed: 1 });
    }
    let rows = match steps.residual {
        true => sample.residuals(),
        false => sample.rows.as_slice().into(),
    };
    let levels = steps_max(steps.bits);
    if steps.uniform {
        let mut done = 0;
        let mut tick = || {
            done += 1;
            observer.tick("encoder", done, ROUNDS_MAX)
        };
        return Ok(vec![find_range(steps.range, levels, &mut rows.into_owned(), &mut tick)?]);
    }
    let mut ranges = Vec::with_capacity(dim);
    while ranges.len() < dim {
        observer.tick("encoder", ranges.len() as u64, dim as u64)?;
        let some = ranges.len()..dim.min(ranges.len() + COLUMNS_AT_ONCE);
        let found = some.into_par_iter().map(|j| {
            let mut column: Vec<f32> = rows.iter().skip(j).step_by(dim).copied().collect();
            find_range(steps.range, levels, &mut column, &mut || Ok(()))
        });
        ranges.extend(found.collect::<Result<Vec<_>>>()?);
    }
    observer.tick("encoder", dim as u64, dim as u64)?;
    Ok(ranges)
}

/// Components between two reports.
const COLUMNS_AT_ONCE: usize = 32;

/// The range of `values`, at least one, which it may reorder.
fn find_range(
    range: ScalarRange,
    steps_max: f32,
    values: &mut [f32],
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<Range> {
    tick()?;
    let (low, high) = match range {
        ScalarRange::MinMax(more) => {
            let (low, high) = extremes(values);
            let more = (high - low) * more.get();
            (low - more, high + more)
        }
        ScalarRange::MeanStd(times) => mean_std(values, times.get()),
        ScalarRange::Quantiles(part) => quantiles(values, part.get()),
        ScalarRange::Optim => optimum(values, steps_max, tick)?,
    };
    let (low, high) = (low.clamp(-RANGE_MAX, RANGE_MAX), high.clamp(-RANGE_MAX, RANGE_MAX));
    Ok(Range { low, span: high - low })
}

fn extremes(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// Values whose sums are summed up: parts, not threads, so that the order of additions is always the same.
const SUM_PART: usize = 1 << 14;

/// The sums of what `terms` makes of each value.
fn sums<const N: usize>(values: &[f32], terms: impl Fn(f64) -> [f64; N] + Sync) -> [f64; N] {
    let add = |mut sums: [f64; N], terms: [f64; N]| {
        (0..N).for_each(|i| sums[i] += terms[i]);
        sums
    };
    let part = |part: &[f32]| part.iter().fold([0.0; N], |sums, v| add(sums, terms(f64::from(*v))));
    let parts: Vec<[f64; N]> = values.par_chunks(SUM_PART).map(part).collect();
    parts.into_iter().fold([0.0; N], add)
}

fn mean_std(values: &[f32], times: f32) -> (f32, f32) {
    let n = values.len() as f64;
    let mean = sums(values, |v| [v])[0] / n;
    let variance = sums(values, |v| [(v - mean) * (v - mean)])[0] / n;
    let away = f64::from(times) * if variance > 0.0 { variance.sqrt() } else { 1.0 };
    ((mean - away) as f32, (mean + away) as f32)
}

fn quantiles(values: &mut [f32], part: f32) -> (f32, f32) {
    let last = values.len() - 1;
    // A part below one half, so that the low end is not beyond the high one.
    let skipped = ((part * values.len() as f32) as usize).min(last / 2);
    let (_, low, above) = values.select_nth_unstable_by(skipped, f32::total_cmp);
    let low = *low;
    let high = match last - skipped - skipped {
        0 => low,
        more => *above.select_nth_unstable_by(more - 1, f32::total_cmp).1,
    };
    (low, high)
}

/// Rounds of the search for the best steps at most.
const ROUNDS_MAX: u64 = 2000;

/// The range whose steps lose least in squares: the middles of the steps are b, b + a, … b + n·a.
fn optimum(values: &[f32], steps_max: f32, tick: &mut dyn FnMut() -> Result<()>) -> Result<(f32, f32)> {
    let (low, high) = extremes(values);
    let (n, most) = (values.len() as f64, f64::from(steps_max));
    let (mut b, mut a) = (f64::from(low), (f64::from(high) - f64::from(low)) / most);
    let (mut best, mut error) = ((b, a), f64::INFINITY);
    for _ in 1..ROUNDS_MAX {
        if a <= 0.0 || !(1.0 / a).is_finite() {
            break;
        }
        tick()?;
        let (first, inverse) = (b, 1.0 / a);
        let [lost, s_k, s_kk, s_x, s_kx] = sums(values, |x| {
            let k = ((x - first) * inverse + 0.5).floor().clamp(0.0, most);
            let error = x - (first + a * k);
            [error * error, k, k * k, x, k * x]
        });
        if lost >= error * (1.0 - LEAST_GAIN) {
            break;
        }
        (best, error) = ((b, a), lost);
        let determinant = n * s_kk - s_k * s_k;
        // All values on one step.
        if determinant <= 0.0 {
            break;
        }
        a = (n * s_kx - s_k * s_x) / determinant;
        b = (s_x - a * s_k) / n;
    }
    let (b, a) = best;
    let low = b - a / 2.0;
    Ok((low as f32, (low + a * most) as f32))
}

/// What a round must gain for another one, as a part of what is lost.
const LEAST_GAIN: f64 = 1e-6;

impl Codec for Scalar {
    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.bits.code_bytes(self.dim) }
    }

    fn check(&self, rows: Rows<'_>) -> Result<()> {
        if !self.ranges.trained.is_empty() {
            return Ok(());
        }
        if self.bits == StepBits::Eight {
            return flat::check_range(rows, Element::U8);
        }
        match rows.as_slice().iter().position(|v| f32::from(*v as i8) != *v) {
            None => Ok(()),
            Some(at) => Err(Error::OutOfRange {
                row: at / rows.dim(),
                component: at % rows.dim(),
                value: rows.as_slice()[at],
                element: "i8",
            }),
        }
    }

    fn tables(&self) -> Vec<u8> {
        let bytes = |range: &Range| [range.low.to_le_bytes(), range.span.to_le_bytes()].concat();
        self.ranges.trained.iter().flat_map(bytes).collect()
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let values = match self.residual {
            true => rows.residuals(),
            false => rows.rows.as_slice().into(),
        };
        let mut steps = vec![0; self.dim];
        codes.reserve(rows.rows.len() * self.bits.code_bytes(self.dim));
        for row in values.chunks_exact(self.dim) {
            for (j, (value, code)) in row.iter().zip(&mut steps).enumerate() {
                *code = match self.ranges.of(j) {
                    Some(range) => range.code(*value, self.ranges.steps_max),
                    None if self.bits == StepBits::Signed => (value + 128.0) as u8,
                    None => *value as u8,
                };
            }
            pack(self.bits, &steps, codes);
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        for (j, value) in row.iter_mut().enumerate() {
            let code = unpack(self.bits, code, j);
            *value = match self.ranges.of(j) {
                Some(range) => range.decode(code, self.ranges.steps_max),
                None if self.bits == StepBits::Signed => f32::from(code) - 128.0,
                None => f32::from(code),
            };
        }
        if let Some(centroid) = centroid.filter(|_| self.residual) {
            row.iter_mut().zip(centroid).for_each(|(x, c)| *x += c);
        }
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let padded = self.bits.padded(self.dim);
        let mut arranged = vec![0.0; queries.len() * padded];
        let mut biases = Vec::new();
        for (query, out) in queries.iter().zip(arranged.chunks_exact_mut(padded)) {
            self.bits.arrange(query, out);
            if self.similarity == Similarity::Dot {
                biases.push(-dot::<SUMS>(query, &self.ranges.mids));
                out.iter_mut().zip(&self.ranges.arranged_steps).for_each(|(q, step)| *q *= step);
            }
        }
        Box::new(ScalarScanner {
            codec: self,
            arranged,
            biases,
            centroid: vec![0.0; padded],
            visits: Vec::new(),
            terms: Vec::new(),
            scores: Vec::new(),
            picks: Vec::new(),
        })
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

/// Running sums of a product of two vectors.
const SUMS: usize = 8;

/// Appends the codes of a row, packed.
fn pack(bits: StepBits, steps: &[u8], codes: &mut Vec<u8>) {
    match bits {
        StepBits::Eight | StepBits::Signed => codes.extend_from_slice(steps),
        StepBits::Four => {
            codes.extend(steps.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)));
        }
        StepBits::Six => {
            for four in steps.chunks(4) {
                let number =
                    (0..).step_by(6).zip(four).fold(0, |sum, (at, code)| sum | u32::from(*code) << at);
                codes.extend_from_slice(&number.to_le_bytes()[..(6 * four.len()).div_ceil(8)]);
            }
        }
    }
}

/// Component `j` of a packed code.
fn unpack(bits: StepBits, code: &[u8], j: usize) -> u8 {
    match bits {
        StepBits::Eight | StepBits::Signed => code[j],
        StepBits::Four => code[j / 2] >> (j % 2 * 4) & 15,
        StepBits::Six => {
            let (at, shift) = (6 * j / 8, 6 * j % 8);
            let next = code.get(at + 1).copied().unwrap_or_default();
            (u16::from_le_bytes([code[at], next]) >> shift & 63) as u8
        }
    }
}

struct ScalarScanner<'a> {
    codec: &'a Scalar,
    /// The queries in the kernel's order; for products times the steps.
    arranged: Vec<f32>,
    /// For products, what a score has of the middles of steps.
    biases: Vec<f32>,
    /// The list's centroid in that order, zeros where codes are not of residuals.
    centroid: Vec<f32>,
    visits: Vec<Visit>,
    /// For L2, `q − c − mid` of each visit.
    terms: Vec<f32>,
    scores: Vec<f32>,
    picks: Vec<u32>,
}

impl ScalarScanner<'_> {
    fn arranged(&self, visit: &Visit) -> &[f32] {
        &self.arranged[visit.query as usize * self.centroid.len()..][..self.centroid.len()]
    }

    /// What the kernel is told of visit `v`.
    fn query(&self, v: usize) -> StepQuery<'_> {
        let visit = &self.visits[v];
        match self.codec.similarity {
            Similarity::L2 => {
                StepQuery { terms: &self.terms[v * self.centroid.len()..][..self.centroid.len()], bias: 0.0 }
            }
            Similarity::Dot => StepQuery {
                terms: self.arranged(visit),
                bias: visit.coarse + self.biases[visit.query as usize],
            },
        }
    }
}

impl Scanner for ScalarScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        let Scalar { similarity, bits, residual, ref ranges, .. } = *self.codec;
        let centroid = probe.centroid.filter(|_| residual);
        // Scores of codes that are not relative to the centroid have no coarse part.
        let coarse = |visit: &Visit| if centroid.is_some() { visit.coarse } else { 0.0 };
        self.visits.clear();
        self.visits.extend(probe.visits.iter().map(|visit| Visit { coarse: coarse(visit), ..*visit }));
        if similarity == Similarity::Dot {
            return;
        }
        match centroid {
            Some(centroid) => bits.arrange(centroid, &mut self.centroid),
            None => self.centroid.fill(0.0),
        }
        let mut terms = std::mem::take(&mut self.terms);
        terms.clear();
        for visit in &self.visits {
            let parts = self.arranged(visit).iter().zip(&self.centroid).zip(&ranges.arranged_mids);
            terms.extend(parts.map(|((q, c), mid)| (q - c) - mid));
        }
        self.terms = terms;
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let (mut scores, mut picks) = (std::mem::take(&mut self.scores), std::mem::take(&mut self.picks));
        let Scalar { dim, similarity, bits, ref ranges, kernels, .. } = *self.codec;
        scores.resize(STEP_QUERIES.min(worst.len()) * block.n, 0.0);
        for start in (0..worst.len()).step_by(STEP_QUERIES) {
            let end = worst.len().min(start + STEP_QUERIES);
            let mut queries = [StepQuery { terms: &[], bias: 0.0 }; STEP_QUERIES];
            let queries = &mut queries[..end - start];
            (first + start..).zip(&mut *queries).for_each(|(v, query)| *query = self.query(v));
            let ahead = if start == 0 { block.ahead } else { &[] };
            let rows = StepRows { bits, dim, steps: &ranges.arranged_steps, codes: block.bytes, ahead };
            let scores = &mut scores[..queries.len() * block.n];
            kernels.scalar_scan(similarity, &rows, queries, scores);
            for (v, scores) in (start..end).zip(scores.chunks_exact(block.n.max(1))) {
                kernels.select_at_most(scores, worst[v], &mut picks);
                for &pick in &picks {
                    if live[v][pick as usize / 32] >> (pick % 32) & 1 == 1 {
                        found[v].push(pick, scores[pick as usize]);
                    }
                }
            }
        }
        (self.scores, self.picks) = (scores, picks);
    }
}

#[cfg(test)]
pub(super) mod tests;
