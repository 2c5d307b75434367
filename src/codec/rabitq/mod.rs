//! RaBitQ: the signs of a residual and what makes an unbiased estimate of them; further bits where more is wanted.
//!
//! With c the list's centroid, r = x − c, d components, e = 2^(bits − 1) (the rotation that makes components alike is a
//! transform of the index and none of the codec's):
//!
//! ```text
//! signs    ŷ_j = +½ where r_j > 0, else −½                     4 of them a nibble
//! scale    s = ‖r‖² / ⟨r, ŷ⟩                                    bf16
//! bias     L2:       b = 2s⟨x, ŷ⟩ − ‖r‖²                         f32, from the rounded s
//!          product:  b = s⟨x, ŷ⟩ − ⟨x, r⟩                        (a score is the negated product)
//! S        ⟨q, ŷ⟩ from one table a query, for all lists and both metrics
//! estimate L2:       ‖q − c‖² + b − 2s·S
//!          product:  −⟨q, c⟩  + b − s·S
//!
//! 2 bits and more, besides:
//! levels   ẑ_j = ±(u_j + ½), u_j = min(⌊t·|r_j|⌋, e − 1), with the t that brings ẑ nearest to the direction of r
//!          level ẑ_j + e − ½, of which the highest bit is the sign above
//! scale, bias of ẑ, as above                                   f32, f32
//! error    f = 1.9 · √((‖r‖²·d/4 / ⟨r, ŷ⟩² − 1) / (d − 1)) · ‖r‖, doubled for L2     bf16, rounded up
//! bound    estimate by signs − f·‖q − c‖
//! score    max(estimate by levels, bound)
//! ```
//! An estimate is exact at q = x, whatever its scale was rounded to, and its error ⟨q − x, r − sŷ⟩ shrinks with the
//! distance.
//!
//! **Why the bound is part of the score.** Entries whose bound lies beyond the threshold are never looked at again, and
//! the threshold depends on what was scanned before. About three bounds in a hundred are above the distance; if such an entry
//! scored its estimate by levels, it would be found or not depending on the order of the lists. As it is, nobody who is
//! passed over could have scored within the threshold: the answer is that of scoring everybody. It costs nothing, and the
//! entries it misplaces are those that others lose.
//!
//! **Queries.** The table's steps are whole numbers of 8 bits, one step a query. FAISS makes a table for each list, of
//! q − c; ours is of q, so its steps are coarser by ‖q‖ / ‖q − c‖: with 128 components they add .012·‖q‖ / ‖q − c‖ of the
//! estimate's own error, which is not noticed unless queries are many times as far from the origin as from the lists.
//! What rounding may take from a sum is part of the bound. With `query_bits` the query is first rounded to so many bits,
//! always to the nearest (the papers draw); this too is FAISS's rounding of q − c applied to q, coarser in the same
//! measure, and there to be compared with. Levels are multiplied with queries of 16 bits.
//!
//! **The stored form.** Nibbles and factors as drawn in `kernel/nibble`; bit j % 4 of nibble j / 4 is the sign of
//! component j, components filled up to a multiple of 16. Behind them an entry's planes (`kernel/levels`), its scale and
//! its bias. `faiss.rs` has FAISS's form.

#[cfg(test)]
mod faiss;
#[cfg(test)]
mod fixtures;
mod search;
#[cfg(test)]
mod tests;

use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Visit};
use crate::encoding::RaBitQ as Spec;
use crate::kernel::{
    Book, BoundQuery, Found, GROUP, Kernels, LEVEL_QUERY_MAX, LEVELS, Levels, NIBBLE_QUERIES, NibbleQuery,
    POINTS, Similarity, bounded_bytes,
};
use crate::layout::{Factors, Layout};
use crate::{NORM_MAX, Result, Rows};
use half::bf16;

/// Components of a nibble.
const SIGNS: usize = 4;
/// Bytes of the factors of levels.
const LEVEL_FACTORS: usize = 8;
/// Deviations that an error stands for: of a normal distribution 97 in 100 are above a bound.
const DEVIATIONS: f64 = 1.9;
/// Most that a scale may make of the longest query: so no score overflows.
const TERM_MAX: f64 = 4e37;

/// 1 less the mean squared error of rounding a Gaussian to equal steps of 1 to 9 bits (Max 1960): what turns an unbiased
/// scale into the one that decodes best.
const FIT: [f32; 9] =
    [std::f32::consts::FRAC_2_PI, 0.8812, 0.96256, 0.98846, 0.99651, 0.99896, 0.999696, 0.9999123, 0.9999751];

/// How far equal steps of 1 to 8 bits reach from zero where they lose least of a Gaussian, in deviations (Max 1960).
const REACH: [f32; 8] = [0.798, 1.4936, 2.051, 2.514, 2.9156, 3.2792, 3.6132, 3.927];

/// A RaBitQ code of `dim` components.
pub(crate) struct RaBitQ {
    spec: Spec,
    dim: usize,
    similarity: Similarity,
    book: Book,
    subspaces: usize,
    kernels: &'static Kernels,
}

impl RaBitQ {
    pub(crate) fn new(spec: Spec, dim: usize, similarity: Similarity) -> Self {
        let mut book = Book { components: SIGNS, points: [[0.0; POINTS]; 4], half_norms: [0.5; POINTS] };
        for (p, values) in book.points.iter_mut().enumerate() {
            for (k, value) in values.iter_mut().enumerate() {
                *value = if k >> p & 1 == 1 { 0.5 } else { -0.5 };
            }
        }
        // A register holds the tables of four sub-spaces.
        let subspaces = dim.next_multiple_of(LEVELS) / SIGNS;
        RaBitQ { spec, dim, similarity, book, subspaces, kernels: Kernels::get() }
    }

    /// The code that `tables` were stored of, or why they cannot be: there are none.
    pub(crate) fn from_tables(
        spec: Spec,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> std::result::Result<Self, String> {
        match tables.len() {
            0 => Ok(RaBitQ::new(spec, dim, similarity)),
            bytes => Err(format!("{bytes} bytes of tables, {spec} has none")),
        }
    }

    /// Bits of a level besides the sign.
    fn extra_bits(&self) -> usize {
        usize::from(self.spec.bits()) - 1
    }

    /// Components with those that they are filled up with.
    fn padded(&self) -> usize {
        SIGNS * self.subspaces
    }

    fn plane_bytes(&self) -> usize {
        self.padded() / 8
    }

    /// Bytes of an entry behind its factors.
    fn extra_bytes(&self) -> usize {
        match self.extra_bits() {
            0 => 0,
            bits => bits * self.plane_bytes() + LEVEL_FACTORS,
        }
    }

    fn factors(&self) -> Factors {
        if self.extra_bits() == 0 { Factors::ScaleAndBias } else { Factors::ScaleBiasAndError }
    }

    /// 2 for distances, 1 for products: how often ⟨q, x⟩ is in a score.
    fn twice(&self) -> f64 {
        match self.similarity {
            Similarity::L2 => 2.0,
            Similarity::Dot => 1.0,
        }
    }

    /// Half of the odd number that is taken from twice a level.
    fn middle(&self) -> f32 {
        ((1u32 << self.spec.bits()) - 1) as f32 / 2.0
    }
}

/// What factors are computed from.
#[derive(Clone, Copy)]
struct Products {
    /// ‖r‖²
    squared: f64,
    /// ⟨r, ŷ⟩
    fit: f64,
    /// ⟨x, ŷ⟩
    row_fit: f64,
    /// ⟨x, r⟩
    row_residual: f64,
    /// ‖ŷ‖
    length: f64,
}

/// A packed code cut into its parts.
#[derive(Clone, Copy)]
struct Parts<'a> {
    /// Bit j is the sign of component j.
    signs: &'a [u8],
    scale: f32,
    #[cfg_attr(not(test), expect(dead_code))]
    bias: f32,
    #[cfg_attr(not(test), expect(dead_code))]
    error: f32,
    planes: &'a [u8],
    level_scale: f32,
    #[cfg_attr(not(test), expect(dead_code))]
    level_bias: f32,
}

/// The `at`-th f32 of `bytes`.
fn f32_at(bytes: &[u8], at: usize) -> f32 {
    bytes.as_chunks::<4>().0.get(at).map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
}

/// The first bf16 of `bytes`.
fn bf16_at(bytes: &[u8]) -> f32 {
    bytes.first_chunk::<2>().map_or(0.0, |bytes| bf16::from_le_bytes(*bytes).to_f32())
}

impl RaBitQ {
    /// The parts of a packed code, which is as long as the layout says.
    fn parts<'a>(&self, code: &'a [u8]) -> Parts<'a> {
        let (signs, factors) = code.split_at(self.subspaces / 2);
        let (scale, bias) = (bf16_at(factors), f32_at(&factors[2..], 0));
        let (factors, extra) = factors.split_at(self.factors().bytes());
        let (planes, level_factors) = extra.split_at(self.extra_bits() * self.plane_bytes());
        Parts {
            signs,
            scale,
            bias,
            error: bf16_at(&factors[6..]),
            planes,
            level_scale: f32_at(level_factors, 0),
            level_bias: f32_at(level_factors, 1),
        }
    }

    /// ŷ_j, or ẑ_j where there are levels.
    fn value(&self, parts: &Parts<'_>, j: usize) -> f32 {
        let bit = |bytes: &[u8]| u32::from(bytes[j / 8] >> (j % 8) & 1);
        let mut level = bit(parts.signs) << self.extra_bits();
        for (b, plane) in parts.planes.chunks_exact(self.plane_bytes()).enumerate() {
            level |= bit(plane) << b;
        }
        level as f32 - self.middle()
    }

    /// What `values` are to be multiplied with to come nearest to a residual.
    fn decoding_scale(&self, parts: &Parts<'_>) -> f32 {
        let scale = if self.extra_bits() == 0 { parts.scale } else { parts.level_scale };
        scale * FIT[self.extra_bits()]
    }

    /// The scale as it is stored and the bias that goes with it.
    fn scale_and_bias(&self, of: Products, round: fn(f32) -> f32) -> (f32, f32) {
        let most = TERM_MAX / (f64::from(NORM_MAX) * of.length);
        // No residual: the centroid is the estimate.
        let exact = if of.fit > 0.0 { of.squared / of.fit } else { 0.0 };
        let scale = round(exact.min(most) as f32);
        let product = f64::from(scale) * of.row_fit;
        let bias = match self.similarity {
            // Where nothing but the centroid is known, the best estimate of a distance includes the residual's length.
            Similarity::L2 if scale == 0.0 => of.squared,
            Similarity::L2 => 2.0 * product - of.squared,
            Similarity::Dot => product - of.row_residual,
        };
        // Never -0.0, so that no score is.
        (scale, bias as f32 + 0.0)
    }

    /// How far the estimate by signs may be from the distance, a unit of ‖q − c‖.
    fn error(&self, of: Products) -> bf16 {
        let excess = of.squared * of.length * of.length / (of.fit * of.fit) - 1.0;
        // No residual, no error; rounding may leave a little less than none.
        let excess = if excess > 0.0 && of.fit > 0.0 { excess } else { 0.0 };
        let freedom = (self.dim.max(2) - 1) as f64;
        round_up(self.twice() * DEVIATIONS * (excess / freedom).sqrt() * of.squared.sqrt())
    }
}

/// The least bf16 that is not below.
fn round_up(value: f64) -> bf16 {
    let nearest = bf16::from_f64(value);
    if f64::from(nearest.to_f32()) < value { bf16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

fn nearest_bf16(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// ⟨a, b⟩ in f64, four sums side by side.
fn dot64(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 4];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..4 {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Buffers for one row at a time.
struct Scratch {
    residual: Vec<f32>,
    /// ŷ, then ẑ.
    values: Vec<f32>,
    /// |r| / ‖r‖
    direction: Vec<f32>,
    search: search::Search,
}

impl Scratch {
    fn new(dim: usize) -> Self {
        Scratch {
            residual: vec![0.0; dim],
            values: vec![0.0; dim],
            direction: vec![0.0; dim],
            search: search::Search::default(),
        }
    }
}

impl RaBitQ {
    /// Appends the packed code of `row`, whose residual is in `scratch`.
    fn encode_row(&self, row: &[f32], scratch: &mut Scratch, code: &mut Vec<u8>) {
        let Scratch { residual, values, .. } = scratch;
        values.iter_mut().zip(&*residual).for_each(|(y, r)| *y = if *r > 0.0 { 0.5 } else { -0.5 });
        let of = Products {
            squared: dot64(residual, residual),
            fit: dot64(residual, values),
            row_fit: dot64(row, values),
            row_residual: dot64(row, residual),
            length: (self.dim as f64 / 4.0).sqrt(),
        };
        let start = code.len();
        code.resize(start + self.subspaces / 2, 0);
        set_bits(&mut code[start..], residual.iter().map(|r| *r > 0.0));
        let (scale, bias) = self.scale_and_bias(of, nearest_bf16);
        code.extend_from_slice(&bf16::from_f32(scale).to_le_bytes());
        code.extend_from_slice(&bias.to_le_bytes());
        if self.extra_bits() > 0 {
            code.extend_from_slice(&self.error(of).to_le_bytes());
            self.encode_levels(row, of, scratch, code);
        }
    }

    fn encode_levels(&self, row: &[f32], signs: Products, scratch: &mut Scratch, code: &mut Vec<u8>) {
        let Scratch { residual, values, direction, search } = scratch;
        let most = (1u16 << self.extra_bits()) - 1;
        let inverse = if signs.squared > 0.0 { 1.0 / signs.squared.sqrt() } else { 0.0 };
        direction.iter_mut().zip(&*residual).for_each(|(o, r)| *o = (f64::from(r.abs()) * inverse) as f32);
        let levels = search.levels(direction, most);
        for ((z, r), u) in values.iter_mut().zip(&*residual).zip(levels) {
            let size = f32::from(*u) + 0.5;
            *z = if *r > 0.0 { size } else { -size };
        }
        let start = code.len();
        code.resize(start + self.extra_bits() * self.plane_bytes(), 0);
        for (bit, plane) in code[start..].chunks_exact_mut(self.plane_bytes()).enumerate() {
            // Counted from the lowest level, not from zero.
            let flip = |r: &f32| if *r > 0.0 { 0 } else { most };
            set_bits(plane, residual.iter().zip(levels).map(|(r, u)| (u ^ flip(r)) >> bit & 1 == 1));
        }
        let of = Products {
            fit: dot64(residual, values),
            row_fit: dot64(row, values),
            length: dot64(values, values).sqrt(),
            ..signs
        };
        let (scale, bias) = self.scale_and_bias(of, |scale| scale);
        code.extend_from_slice(&scale.to_le_bytes());
        code.extend_from_slice(&bias.to_le_bytes());
    }
}

/// Sets the bits that are, the first lowest, in bytes of zeros.
fn set_bits(bytes: &mut [u8], bits: impl Iterator<Item = bool>) {
    for (j, bit) in bits.enumerate() {
        bytes[j / 8] |= u8::from(bit) << (j % 8);
    }
}

impl Codec for RaBitQ {
    fn layout(&self) -> Layout {
        Layout::Nibbles { subspaces: self.subspaces, factors: self.factors(), extra: self.extra_bytes() }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let mut scratch = Scratch::new(self.dim);
        codes.reserve(rows.rows.len() * self.layout().code_bytes());
        for (row, &list) in rows.rows.iter().zip(rows.lists) {
            scratch.residual.copy_from_slice(row);
            if let Some(centroids) = rows.centroids {
                let centroid = centroids.row(list as usize);
                scratch.residual.iter_mut().zip(centroid).for_each(|(r, c)| *r -= c);
            }
            self.encode_row(row, &mut scratch, codes);
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        let parts = self.parts(code);
        let scale = self.decoding_scale(&parts);
        for (j, x) in row.iter_mut().enumerate() {
            *x = scale * self.value(&parts, j) + centroid.map_or(0.0, |centroid| centroid[j]);
        }
    }

    fn residual(&self, _centroid: &[f32], code: &[u8]) -> f64 {
        let parts = self.parts(code);
        let squares = (0..self.dim).map(|j| f64::from(self.value(&parts, j)).powi(2));
        squares.sum::<f64>() * f64::from(self.decoding_scale(&parts)).powi(2)
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let mut scanner = RaBitQScanner::new(self, queries);
        queries.iter().for_each(|query| scanner.prepare(query));
        Box::new(scanner)
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

struct RaBitQScanner<'a> {
    codec: &'a RaBitQ,
    queries: Rows<'a>,
    /// By query: the products of its parts with the 16 signs of a nibble, in steps; the step; what rounding may have
    /// taken from a sum of them.
    tables: Vec<i8>,
    steps: Vec<f32>,
    slacks: Vec<f32>,
    /// By query: its components in steps of their own, half that step, their sum.
    whole: Vec<i16>,
    half_steps: Vec<f32>,
    totals: Vec<i64>,
    /// By visit: its query, coarse score, and distance from the centroid.
    visits: Vec<Visit>,
    reaches: Vec<f32>,
    /// Who was not beyond the threshold by the bound.
    likely: Vec<Found>,
    /// The sign words of a group and of one entry of it.
    words: Vec<[u16; GROUP]>,
    signs: Vec<u16>,
    products: Vec<f32>,
    padded: Vec<f32>,
}

impl<'a> RaBitQScanner<'a> {
    fn new(codec: &'a RaBitQ, queries: Rows<'a>) -> Self {
        let (n, padded) = (queries.len(), codec.padded());
        let words = padded / LEVELS;
        RaBitQScanner {
            codec,
            queries,
            tables: Vec::with_capacity(n * POINTS * codec.subspaces),
            steps: Vec::with_capacity(n),
            slacks: Vec::new(),
            whole: Vec::new(),
            half_steps: Vec::new(),
            totals: Vec::new(),
            visits: Vec::new(),
            reaches: Vec::new(),
            likely: vec![Found::default(); NIBBLE_QUERIES],
            words: vec![[0; GROUP]; words],
            signs: vec![0; words],
            products: vec![0.0; POINTS * codec.subspaces],
            padded: vec![0.0; padded],
        }
    }

    fn prepare(&mut self, query: &[f32]) {
        let codec = self.codec;
        let start = self.tables.len();
        self.tables.resize(start + POINTS * codec.subspaces, 0);
        self.padded[..query.len()].copy_from_slice(query);
        let lost = codec.round_query(&mut self.padded[..query.len()]);
        let table = &mut self.tables[start..];
        let step = codec.kernels.nibble_table(&codec.book, &self.padded, &mut self.products, table);
        self.steps.push(step);
        if codec.extra_bits() > 0 {
            self.slacks.push(slack(&self.products, table, step, lost));
            self.prepare_levels(query);
        }
    }

    fn prepare_levels(&mut self, query: &[f32]) {
        let most = query.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let step = most / LEVEL_QUERY_MAX;
        // So short a query that its steps underflow counts as zeros.
        let inverse = if step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
        let start = self.whole.len();
        // Added to 1.5·2^23 a number is rounded to the nearest whole one, ties to even, in its lowest bits.
        self.whole.extend(query.iter().map(|v| (v * inverse + 12_582_912.0).to_bits() as i16));
        self.whole.resize(start + self.codec.padded(), 0);
        self.totals.push(self.whole[start..].iter().map(|k| i64::from(*k)).sum());
        self.half_steps.push(if inverse == 0.0 { 0.0 } else { step / 2.0 });
    }

    /// The nibble kernel's question for a visit.
    fn nibble_query<'s>(&'s self, visit: usize, worst: f32, live: &'s [u32]) -> NibbleQuery<'s> {
        let Visit { query, coarse } = self.visits[visit];
        let (at, width) = (query as usize, POINTS * self.codec.subspaces);
        NibbleQuery {
            table: &self.tables[at * width..(at + 1) * width],
            factor: -(self.codec.twice() as f32) * self.steps[at],
            coarse,
            worst,
            live,
        }
    }

    /// Scores those in `likely` by their levels.
    fn score_levels(
        &mut self,
        visit: usize,
        block: Codes<'_>,
        likely: &Found,
        worst: f32,
        found: &mut Found,
    ) {
        let codec = self.codec;
        let Visit { query, coarse } = self.visits[visit];
        let (at, padded) = (query as usize, codec.padded());
        let whole = &self.whole[at * padded..(at + 1) * padded];
        let factor = -(codec.twice() as f32) * self.half_steps[at];
        let odd = (1i64 << codec.spec.bits()) - 1;
        let (near, extra) = (bounded_bytes(codec.subspaces), codec.extra_bytes());
        let stride = near + GROUP * extra;
        let extra_of = |entry: u32| {
            let (g, e) = (entry as usize / GROUP, entry as usize % GROUP);
            &block.bytes[g * stride + near + e * extra..][..extra]
        };
        likely.entries.iter().take(READ_AHEAD).for_each(|entry| codec.kernels.prefetch(extra_of(*entry)));
        let mut group = usize::MAX;
        for (i, (entry, bound)) in likely.iter().enumerate() {
            if let Some(next) = likely.entries.get(i + READ_AHEAD) {
                codec.kernels.prefetch(extra_of(*next));
            }
            let (g, e) = (entry as usize / GROUP, entry as usize % GROUP);
            if g != group {
                let codes = &block.bytes[g * stride..][..16 * codec.subspaces];
                codec.kernels.sign_words(codes, &mut self.words);
                group = g;
            }
            self.signs.iter_mut().zip(&self.words).for_each(|(sign, words)| *sign = words[e]);
            let (planes, factors) = extra_of(entry).split_at(extra - LEVEL_FACTORS);
            let levels = Levels { signs: &self.signs, planes, extra_bits: codec.extra_bits() };
            let sum = 2 * codec.kernels.level_sum(whole, &levels) - odd * self.totals[at];
            let (scale, bias) = (f32_at(factors, 0), f32_at(factors, 1));
            let estimate = (bias + coarse) + (scale * factor) * sum as f32;
            let score = if bound > estimate { bound } else { estimate };
            if score <= worst {
                found.push(entry, score);
            }
        }
    }
}

/// Entries whose levels are on their way while others are scored.
const READ_AHEAD: usize = 8;

/// What rounding may have taken from a sum of table entries, in steps: [`DEVIATIONS`] of the error that codes of random
/// bits have. `lost` is the squared length that rounding the query took.
fn slack(products: &[f32], table: &[i8], step: f32, lost: f64) -> f32 {
    if step == 0.0 {
        return 0.0;
    }
    let inverse = 1.0 / step;
    let mut sums = [0.0f32; POINTS];
    for (products, table) in products.as_chunks::<POINTS>().0.iter().zip(table.as_chunks::<POINTS>().0) {
        for k in 0..POINTS {
            let rounding = products[k] * inverse - f32::from(table[k]);
            sums[k] += rounding * rounding;
        }
    }
    let squared: f64 = sums.into_iter().map(f64::from).sum();
    let variance = squared / POINTS as f64 + lost / f64::from(step) / f64::from(step) / 4.0;
    (DEVIATIONS * variance.sqrt()) as f32
}

impl RaBitQ {
    /// Rounds a query to the bits that it is to have; returns the squared length of what that takes from it.
    fn round_query(&self, query: &mut [f32]) -> f64 {
        let bits = self.spec.query_bits();
        let most = (1u32 << bits) as f32 - 1.0;
        let rounded: Vec<f32> = match (bits, self.spec.is_centred()) {
            (0, _) => return 0.0,
            (_, false) => between_extremes(query, most),
            (_, true) => about_zero(query, most, REACH[usize::from(bits) - 1]),
        };
        let lost = query.iter().zip(&rounded).map(|(q, r)| (f64::from(*q) - f64::from(*r)).powi(2)).sum();
        query.copy_from_slice(&rounded);
        lost
    }
}

/// The nearest of `most` + 1 equal steps from the least component to the greatest.
fn between_extremes(query: &[f32], most: f32) -> Vec<f32> {
    let least = query.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = query.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (greatest - least) / most;
    if step < f32::MIN_POSITIVE {
        return query.to_vec();
    }
    query.iter().map(|v| least + ((v - least) / step).round() * step).collect()
}

/// The nearest of `most` + 1 equal steps that lie about zero and reach `reach` deviations from it, made as long as the
/// query.
fn about_zero(query: &[f32], most: f32, reach: f32) -> Vec<f32> {
    let norm = dot64(query, query).sqrt();
    let step = 2.0 * reach * (norm / (query.len() as f64).sqrt()) as f32 / most;
    if step < f32::MIN_POSITIVE {
        return query.to_vec();
    }
    // Odd numbers, which are never zero.
    let odd = |v: &f32| 2.0 * (v / step + most / 2.0).round().clamp(0.0, most) - most;
    let steps: Vec<f32> = query.iter().map(odd).collect();
    let scale = norm / dot64(&steps, &steps).sqrt();
    steps.iter().map(|k| (f64::from(*k) * scale) as f32).collect()
}

impl Scanner for RaBitQScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.reaches.clear();
        for visit in probe.visits {
            let query = self.queries.row(visit.query as usize);
            let Visit { query: at, coarse } = *visit;
            // Without centroids all residuals are from the origin.
            let squared = match (probe.centroid, self.codec.similarity) {
                (None, _) => dot64(query, query) as f32,
                (Some(_), Similarity::L2) => coarse,
                (Some(_), Similarity::Dot) if self.codec.extra_bits() == 0 => 0.0,
                (Some(centroid), Similarity::Dot) => {
                    let mut score = [0.0];
                    self.codec.kernels.scan_rows(Similarity::L2, query, centroid, &mut score);
                    score[0]
                }
            };
            let coarse = if self.codec.similarity == Similarity::L2 { squared } else { coarse };
            self.visits.push(Visit { query: at, coarse });
            self.reaches.push(squared.max(0.0).sqrt());
        }
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let codec = self.codec;
        let width = POINTS * codec.subspaces;
        let mut likely = std::mem::take(&mut self.likely);
        let none = NibbleQuery { table: &[], factor: 0.0, coarse: 0.0, worst: 0.0, live: &[] };
        for start in (0..worst.len()).step_by(NIBBLE_QUERIES) {
            let end = worst.len().min(start + NIBBLE_QUERIES);
            // The next pass's tables come from beyond the second-level cache.
            for visit in &self.visits[first + end..first + worst.len().min(end + NIBBLE_QUERIES)] {
                let at = visit.query as usize;
                codec.kernels.prefetch_signed(&self.tables[at * width..(at + 1) * width]);
            }
            let ahead = if start == 0 { block.ahead } else { &[] };
            let mut queries = [none; NIBBLE_QUERIES];
            for (v, query) in (start..end).zip(&mut queries) {
                *query = self.nibble_query(first + v, worst[v], live[v]);
            }
            let queries = &queries[..end - start];
            if codec.extra_bits() == 0 {
                codec.kernels.nibble_scan(
                    codec.subspaces,
                    block.bytes,
                    ahead,
                    queries,
                    &mut found[start..end],
                );
                continue;
            }
            let doubts = queries.iter().zip(start..).map(|(query, v)| {
                let at = self.visits[first + v].query as usize;
                BoundQuery { query: *query, slack: self.slacks[at], reach: self.reaches[first + v] }
            });
            let mut bounds = [BoundQuery { query: none, slack: 0.0, reach: 0.0 }; NIBBLE_QUERIES];
            bounds.iter_mut().zip(doubts).for_each(|(out, doubt)| *out = doubt);
            likely.iter_mut().for_each(Found::clear);
            codec.kernels.nibble_bounds(
                codec.subspaces,
                codec.extra_bytes(),
                block.bytes,
                ahead,
                &bounds[..end - start],
                &mut likely[..end - start],
            );
            for (v, likely) in (start..end).zip(&likely) {
                self.score_levels(first + v, block, likely, worst[v], &mut found[v]);
            }
        }
        self.likely = likely;
    }
}
