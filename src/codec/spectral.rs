//! The spectral hash: a bit a component, and scores that count the bits that differ.
//!
//! With y the vector, or as many components of a random rotation of it as there are to be bits, and t the thresholds of its
//! list:
//!
//! ```text
//! bit j     no period:   yⱼ > tⱼ
//!           period p:    ⌊(yⱼ − tⱼ) · 2/p⌋ is odd                 so each interval of length p is half zeros, half ones
//! code      ⌈bits/8⌉ bytes, the first component in the lowest bit of the first byte
//! t         zero; or of each list the centroid's components, those less p/4, or the medians of its training rows
//! score     bits that differ between the code and that of the query in the same list
//! ```
//! That is FAISS's (its factory's default period of −10¹⁰ is none here). The rotation is that of `math/rotation.rs`: from a seed
//! that is a constant of the format, so thresholds are all there is to store. A list that no training row fell into has the
//! centroid's components for medians.

use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Training};
use crate::encoding::{SpectralHash, SpectralThreshold};
use crate::kernel::{Found, Kernels, Similarity};
use crate::layout::Layout;
use crate::math::rotation::Rotation;
use crate::{Observer, Result, Rows};
use rayon::prelude::*;

/// A hash of vectors of `dim` components.
#[derive(Debug)]
pub(crate) struct Spectral {
    dim: usize,
    bits: usize,
    /// 2/p.
    frequency: Option<f32>,
    rotation: Option<Rotation>,
    /// `bits` for each list; none where they are zero.
    thresholds: Vec<f32>,
    /// As many zeros.
    zeros: Vec<f32>,
    kernels: &'static Kernels,
}

impl Spectral {
    /// How many rows training looks at: all for medians.
    pub(crate) fn training_rows(hash: SpectralHash) -> Option<usize> {
        (hash.threshold != SpectralThreshold::Median).then_some(0)
    }

    /// Finds the thresholds.
    pub(crate) fn train(
        hash: SpectralHash,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let sample = training.sample;
        let mut codec = Spectral::new(hash, sample.rows.dim());
        codec.thresholds = match hash.threshold {
            SpectralThreshold::Global => Vec::new(),
            SpectralThreshold::Centroid => codec.centroids(sample.centroids),
            SpectralThreshold::CentroidHalf => {
                let quarter = hash.period.map_or(0.0, |period| 0.25 * period.get());
                codec.centroids(sample.centroids).iter().map(|c| c - quarter).collect()
            }
            SpectralThreshold::Median => codec.medians(sample, observer)?,
        };
        Ok(codec)
    }

    /// The hash that [`Codec::tables`] told of, or why there is none.
    pub(crate) fn from_tables(
        hash: SpectralHash,
        dim: usize,
        _similarity: Similarity,
        tables: &[u8],
    ) -> std::result::Result<Self, String> {
        let mut codec = Spectral::new(hash, dim);
        let (words, rest) = tables.as_chunks::<4>();
        let has = hash.threshold != SpectralThreshold::Global;
        let whole = words.len().is_multiple_of(codec.bits) && rest.is_empty();
        if !whole || words.is_empty() == has {
            return Err(format!("{} bytes of thresholds of {} bits", tables.len(), codec.bits));
        }
        codec.thresholds = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        match codec.thresholds.iter().find(|threshold| !threshold.is_finite()) {
            None => Ok(codec),
            Some(threshold) => Err(format!("a threshold of {threshold}")),
        }
    }

    fn new(hash: SpectralHash, dim: usize) -> Self {
        let bits = hash.bits.map_or(dim, |bits| bits as usize);
        Spectral {
            dim,
            bits,
            frequency: hash.period.map(|period| 2.0 / period.get()),
            rotation: hash.bits.map(|_| Rotation::new(dim, dim.max(bits))),
            thresholds: Vec::new(),
            zeros: vec![0.0; bits],
            kernels: Kernels::get(),
        }
    }

    /// The components that are hashed, of each row.
    fn project(&self, rows: Rows<'_>) -> Vec<f32> {
        let Some(rotation) = &self.rotation else { return rows.as_slice().to_vec() };
        let mut projected = Vec::with_capacity(rows.len() * self.bits);
        let mut rotated = vec![0.0; rotation.padded()];
        for row in rows.iter() {
            rotation.apply(row, &mut rotated);
            projected.extend_from_slice(&rotated[..self.bits]);
        }
        projected
    }

    /// The components of each centroid; one list around zero where there are none.
    fn centroids(&self, centroids: Option<Rows<'_>>) -> Vec<f32> {
        centroids.map_or_else(|| self.zeros.clone(), |centroids| self.project(centroids))
    }

    fn medians(&self, sample: Assigned<'_>, observer: &mut Observer<'_>) -> Result<Vec<f32>> {
        let mut medians = self.centroids(sample.centroids);
        let lists = medians.len() / self.bits;
        let mut members = vec![Vec::new(); lists];
        for (row, list) in sample.lists.iter().enumerate() {
            // Without centroids all rows are in the one list.
            members[(*list as usize).min(lists - 1)].push(row);
        }
        for (first, medians) in
            (0..).step_by(LISTS_AT_ONCE).zip(medians.chunks_mut(LISTS_AT_ONCE * self.bits))
        {
            observer.tick("encoder", first as u64, lists as u64)?;
            medians.par_chunks_exact_mut(self.bits).zip(&members[first..]).for_each(|(medians, members)| {
                let rows: Vec<f32> = members.iter().flat_map(|row| sample.rows.row(*row)).copied().collect();
                self.medians_of(Rows::of(&rows, self.dim), medians);
            });
        }
        observer.tick("encoder", lists as u64, lists as u64)?;
        Ok(medians)
    }

    /// The median of each component, if there are rows.
    fn medians_of(&self, rows: Rows<'_>, medians: &mut [f32]) {
        if rows.is_empty() {
            return;
        }
        let projected = self.project(rows);
        for (j, out) in medians.iter_mut().enumerate() {
            let mut column: Vec<f32> = projected.iter().skip(j).step_by(self.bits).copied().collect();
            *out = median(&mut column);
        }
    }

    /// The thresholds of a list.
    fn thresholds(&self, list: u32) -> &[f32] {
        let at = list as usize * self.bits;
        self.thresholds.get(at..at + self.bits).unwrap_or(&self.zeros)
    }

    fn code_bytes(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// Appends the bits of projected components.
    fn hash(&self, values: &[f32], thresholds: &[f32], code: &mut Vec<u8>) {
        let bit = |(value, threshold): (&f32, &f32)| match self.frequency {
            None => value > threshold,
            Some(frequency) => is_odd(((value - threshold) * frequency).floor()),
        };
        for (values, thresholds) in values.chunks(8).zip(thresholds.chunks(8)) {
            let bits = values.iter().zip(thresholds).map(bit);
            code.push((0..).zip(bits).fold(0, |byte, (at, bit)| byte | u8::from(bit) << at));
        }
    }
}

/// Lists between two reports.
const LISTS_AT_ONCE: usize = 256;

/// Whether a whole number is odd; none from 2²⁴ on is, nor is infinity.
fn is_odd(whole: f32) -> bool {
    let half = whole * 0.5;
    half != half.floor()
}

/// The mean of the two in the middle where there are two.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, high, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    match below.iter().copied().max_by(f32::total_cmp) {
        Some(low) if even => (low + *high) / 2.0,
        _ => *high,
    }
}

impl Codec for Spectral {
    fn lists(&self) -> Option<usize> {
        (!self.thresholds.is_empty()).then(|| self.thresholds.len() / self.bits)
    }

    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.code_bytes() }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Vec<u8> {
        self.thresholds.iter().flat_map(|threshold| threshold.to_le_bytes()).collect()
    }

    /// The halves of intervals say nothing of how far away a component is.
    fn decodes(&self) -> bool {
        false
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let projected = self.project(rows.rows);
        codes.reserve(rows.rows.len() * self.code_bytes());
        for (values, list) in projected.chunks_exact(self.bits).zip(rows.lists) {
            self.hash(values, self.thresholds(*list), codes);
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, _code: &[u8], row: &mut [f32]) {
        match centroid {
            Some(centroid) => row.copy_from_slice(centroid),
            None => row.fill(0.0),
        }
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let projected = self.project(queries);
        let mut codes = Vec::new();
        if self.thresholds.is_empty() {
            projected.chunks_exact(self.bits).for_each(|query| self.hash(query, &self.zeros, &mut codes));
        }
        Box::new(SpectralScanner {
            codec: self,
            projected,
            codes,
            entered: Vec::new(),
            scores: Vec::new(),
            picks: Vec::new(),
        })
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

/// Queries scored in one kernel call.
const QUERIES_A_PASS: usize = 8;

/// Codes that one query is scored with between two pieces of what comes next.
const CODES_A_STEP: usize = 64;

struct SpectralScanner<'a> {
    codec: &'a Spectral,
    projected: Vec<f32>,
    /// The queries' codes, where they are the same in all lists.
    codes: Vec<u8>,
    /// The codes of the entered list's visits.
    entered: Vec<u8>,
    scores: Vec<f32>,
    picks: Vec<u32>,
}

impl Scanner for SpectralScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        let SpectralScanner { codec, projected, codes, entered, .. } = self;
        let (bits, size) = (codec.bits, codec.code_bytes());
        entered.clear();
        for visit in probe.visits {
            let query = visit.query as usize;
            match codec.thresholds.is_empty() {
                true => entered.extend_from_slice(&codes[query * size..][..size]),
                false => {
                    codec.hash(&projected[query * bits..][..bits], codec.thresholds(probe.list), entered);
                }
            }
        }
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let SpectralScanner { codec, entered, scores, picks, .. } = self;
        let (kernels, size) = (codec.kernels, codec.code_bytes());
        let entered = &entered[first * size..(first + worst.len()) * size];
        scores.resize(QUERIES_A_PASS.min(worst.len()) * block.n, 0.0);
        let mut take = |v: usize, scores: &[f32]| {
            kernels.select_at_most(scores, worst[v], picks);
            for &pick in &*picks {
                if live[v][pick as usize / 32] >> (pick % 32) & 1 == 1 {
                    found[v].push(pick, scores[pick as usize]);
                }
            }
        };
        if worst.len() == 1 {
            // One query is bound by memory: what comes next is fetched a piece with each step.
            let steps = block.n.div_ceil(CODES_A_STEP).max(1);
            let mut ahead = block.ahead.chunks(block.ahead.len().div_ceil(steps).max(1));
            for (codes, scores) in
                block.bytes.chunks(CODES_A_STEP * size).zip(scores.chunks_mut(CODES_A_STEP))
            {
                kernels.prefetch_stream(ahead.next().unwrap_or_default());
                kernels.hamming_scan(&[entered], codes, scores);
            }
            return take(0, scores);
        }
        kernels.prefetch_stream(block.ahead);
        for (pass, entered) in entered.chunks(QUERIES_A_PASS * size).enumerate() {
            let mut queries = [&[][..]; QUERIES_A_PASS];
            let count = entered.len() / size;
            queries.iter_mut().zip(entered.chunks_exact(size)).for_each(|(query, code)| *query = code);
            let scores = &mut scores[..count * block.n];
            kernels.hamming_scan(&queries[..count], block.bytes, scores);
            for (v, scores) in (pass * QUERIES_A_PASS..).zip(scores.chunks_exact(block.n.max(1))) {
                take(v, scores);
            }
        }
    }
}

#[cfg(test)]
mod tests;
