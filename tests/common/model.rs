//! The model: what a store should hold and answer, as sorted maps and brute force.
//!
//! Vectors have small whole components (under cosine: one, four or sixteen equal ones, so that their
//! length is exact too). Every distance is then exact in f32, whatever the order of the sum and whether
//! the codes are f32, f16 or bf16, and ties are plentiful: so answers are compared without a tolerance. Metrics of quotients
//! and logarithms have components for which those are exact ([`vector`]). Where rows are
//! kept as steps, the components span 0 to 255, so that a step is 1. What nibble codes find is known only where all of
//! it is scored again; else answers are compared as a part of the whole.

use super::script::{Ids, Keys, Params, Sel, Wrong, are_estimates, is_measured};
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use vellum::{Encoding, FilterMode, IdSelector, IndexSpec, KeptRows, Metric, Neighbor, Rerank, SearchParams};

/// Every index of a store.
pub(crate) type State = BTreeMap<String, IndexModel>;

#[derive(Clone, Debug)]
pub(crate) struct IndexModel {
    pub(crate) spec: IndexSpec,
    pub(crate) trained: bool,
    pub(crate) rows: BTreeMap<u64, Arc<[f32]>>,
    pub(crate) keys: BTreeMap<Vec<u8>, u64>,
    pub(crate) next_id: u64,
    pub(crate) defaults: Params,
    /// Rows that an unfinished bulk load has committed.
    pub(crate) loading: Option<u64>,
    /// Since training vectors were put into lists by hand: equal ones may stand in different lists.
    pub(crate) scattered: bool,
}

impl IndexModel {
    pub(crate) fn new(spec: &IndexSpec) -> Self {
        IndexModel {
            spec: spec.clone(),
            trained: spec.nlist().is_none(),
            rows: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_id: 0,
            defaults: Params::default(),
            loading: None,
            scattered: false,
        }
    }

    /// The codes are estimates, so that who is found depends on how many are scored again.
    pub(crate) fn estimates(&self) -> bool {
        self.trained && are_estimates(&self.spec)
    }

    /// True if a search for `k` of `n` vectors scores all of them again, by what they are.
    pub(crate) fn judges_all(&self, n: usize, k: usize, rerank: Option<Rerank>) -> bool {
        let second = k.saturating_mul(2).max(k.saturating_add(8));
        let scored = match rerank {
            Some(Rerank::Rows(rows)) => rows.max(k),
            // However narrow the bound is.
            Some(_) => k.saturating_mul(2).max(16),
            None => k.saturating_mul(4),
        };
        scored >= n && (self.spec.kept_rows() != Some(KeptRows::SQ8Flat) || second >= n)
    }

    /// Lists in use.
    pub(crate) fn nlist(&self) -> usize {
        if self.trained { self.spec.nlist().unwrap_or(1) } else { 1 }
    }

    /// How many entries all lists may have.
    pub(crate) fn entries(&self) -> RangeInclusive<usize> {
        let all = self.places() * self.rows.len();
        let fewest = match self.spec.encoding() {
            Encoding::FlatDedup => {
                let bits = |row: &Arc<[f32]>| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                self.rows.values().map(bits).collect::<BTreeSet<_>>().len()
            }
            _ => all,
        };
        fewest..=if self.scattered { all } else { fewest }
    }

    /// Lists that each vector stands in.
    pub(crate) fn places(&self) -> usize {
        if self.trained && self.spec.spill() { 2 } else { 1 }
    }

    pub(crate) fn insert(&mut self, id: u64, vector: &[f32]) {
        self.rows.insert(id, stored(&self.spec, vector));
        self.next_id = self.next_id.max(id + 1);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.rows.remove(&id);
        self.keys.retain(|_, other| *other != id);
    }

    /// Everything the selector lets through, nearest first, ties by id.
    pub(crate) fn ranked(&self, query: &[f32], selector: Option<&Sel>) -> Vec<Neighbor> {
        let query = stored(&self.spec, query);
        let selected = self.rows.iter().filter(|(id, _)| selector.is_none_or(|s| s.holds(**id)));
        // A vector without a distance to the query is not found.
        let neighbor = |(id, row): (&u64, &Arc<[f32]>)| {
            distance(self.spec.metric(), &query, row).map(|distance| Neighbor { id: *id, distance })
        };
        let mut found: Vec<Neighbor> = selected.filter_map(neighbor).collect();
        sort(self.spec.metric(), &mut found);
        found
    }

    /// Those strictly within the radius.
    pub(crate) fn within(&self, query: &[f32], radius: f32, selector: Option<&Sel>) -> Vec<Neighbor> {
        let mut found = self.ranked(query, selector);
        found.retain(|neighbor| is_within(self.spec.metric(), neighbor.distance, radius));
        found
    }

    /// `n` ids: given ones, or such as are there.
    pub(crate) fn ids(&self, ids: &Ids, n: usize, wrong: Wrong) -> Vec<u64> {
        let mut picked: Vec<u64> = match *ids {
            Ids::Given { first, step } => (0..n as u64).map(|i| first.saturating_add(i * step)).collect(),
            Ids::Existing { start, stride } => pick(self.rows.keys().copied().collect(), start, stride, n),
        };
        match (wrong, &picked[..]) {
            (Wrong::Length, [_, ..]) => drop(picked.pop()),
            (Wrong::Twice, [first, _, ..]) => picked[n - 1] = *first,
            (Wrong::Invalid, [_, ..]) => picked[n - 1] = u64::MAX,
            _ => {}
        }
        picked
    }

    /// The same of keys.
    pub(crate) fn keys(&self, keys: &Keys, n: usize, wrong: Wrong) -> Vec<Vec<u8>> {
        let mut picked: Vec<Vec<u8>> = match *keys {
            Keys::Given { first, step, long } => (0..n as u64)
                .map(|i| {
                    let mut key = format!("key {}", u64::from(first) + i * u64::from(step)).into_bytes();
                    key.resize(if long { 1024 } else { key.len() }, 0xff);
                    key
                })
                .collect(),
            Keys::Existing { start, stride } => pick(self.keys.keys().cloned().collect(), start, stride, n),
        };
        match (wrong, &picked[..]) {
            (Wrong::Length, [_, ..]) => drop(picked.pop()),
            (Wrong::Twice, [first, _, ..]) => picked[n - 1] = first.clone(),
            (Wrong::Invalid, [_, ..]) => picked[n - 1] = vec![7; if n.is_multiple_of(2) { 0 } else { 1025 }],
            _ => {}
        }
        picked
    }
}

/// `n` of the things that are there, going round; numbers as they come where nothing is there.
fn pick<T: Clone + FromNumber>(there: Vec<T>, start: usize, stride: usize, n: usize) -> Vec<T> {
    match there.len() {
        0 => (0..n as u64).map(T::from_number).collect(),
        len => (0..n).map(|i| there[(start + i * stride) % len].clone()).collect(),
    }
}

trait FromNumber {
    fn from_number(number: u64) -> Self;
}

impl FromNumber for u64 {
    fn from_number(number: u64) -> Self {
        number
    }
}

impl FromNumber for Vec<u8> {
    fn from_number(number: u64) -> Self {
        number.to_be_bytes().to_vec()
    }
}

/// True if something stands in the list twice.
pub(crate) fn repeats<T: Ord>(things: &[T]) -> bool {
    things.iter().collect::<BTreeSet<_>>().len() < things.len()
}

/// Nearest first, ties by id.
pub(crate) fn sort(metric: Metric, found: &mut [Neighbor]) {
    let sign = if metric.is_similarity() { -1.0 } else { 1.0 };
    found.sort_by(|a, b| (sign * a.distance).total_cmp(&(sign * b.distance)).then(a.id.cmp(&b.id)));
}

pub(crate) fn is_within(metric: Metric, distance: f32, radius: f32) -> bool {
    if metric.is_similarity() { distance > radius } else { distance < radius }
}

/// The distance, if there is one; exact for the vectors of this file, quotients but for one rounding.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> Option<f32> {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let present = || pairs().filter(|(a, b)| !a.is_nan() && !b.is_nan());
    let gap = |(a, b): (f64, f64)| (a - b).abs();
    let ratio = |above: f64, below: f64| above as f32 / below as f32;
    let ln_2 = f64::from(std::f32::consts::LN_2);
    let distance = match metric {
        Metric::InnerProduct | Metric::Cosine => pairs().map(|(a, b)| a * b).sum::<f64>() as f32,
        Metric::L1 => pairs().map(gap).sum::<f64>() as f32,
        Metric::Linf => pairs().map(gap).fold(0.0, f64::max) as f32,
        Metric::Lp(p) => pairs().map(|pair| gap(pair).powi(p.get() as i32)).sum::<f64>() as f32,
        Metric::Canberra => {
            let part = |(a, b): (f64, f64)| if a == b { 0.0 } else { gap((a, b)) / (a.abs() + b.abs()) };
            pairs().map(part).sum::<f64>() as f32
        }
        Metric::BrayCurtis => ratio(pairs().map(gap).sum(), pairs().map(|(a, b)| (a + b).abs()).sum()),
        // Components are 0 or 1: where they differ, half of 2·ln 2·½.
        Metric::JensenShannon => (pairs().map(gap).sum::<f64>() * 0.5 * ln_2) as f32,
        Metric::Jaccard => ratio(pairs().map(|(a, b)| a.min(b)).sum(), pairs().map(|(a, b)| a.max(b)).sum()),
        Metric::NanEuclidean => {
            let scale = ratio(a.len() as f64, present().count() as f64);
            scale * present().map(|pair| gap(pair).powi(2)).sum::<f64>() as f32
        }
        Metric::Gower => {
            let part = |(a, b): (f64, f64)| if a < 0.0 { f64::from(u8::from(a != b)) } else { gap((a, b)) };
            ratio(present().map(part).sum(), present().count() as f64)
        }
        _ => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>() as f32,
    };
    // Adding 0 makes -0 a 0.
    Some(distance + 0.0).filter(|distance| distance.is_finite())
}

/// A vector as the store keeps it: normalised under cosine.
pub(crate) fn stored(spec: &IndexSpec, vector: &[f32]) -> Arc<[f32]> {
    let squares = vector.iter().map(|v| v * v).sum::<f32>();
    match spec.metric() {
        Metric::Cosine => vector.iter().map(|v| v / squares.sqrt()).collect(),
        _ => vector.into(),
    }
}

/// Vector number `seed` of an index.
pub(crate) fn vector(spec: &IndexSpec, seed: u8) -> Vec<f32> {
    let dim = spec.dim();
    // Where equal vectors share an entry, there are to be some.
    let seed = if spec.encoding() == Encoding::FlatDedup { seed % 12 } else { seed };
    let mut state = u64::from(seed) + 1;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % below as u64) as usize
    };
    if is_measured(spec.metric()) {
        return (0..dim).map(|at| component(spec.metric(), at, &mut next)).collect();
    }
    if spec.metric() != Metric::Cosine {
        let least = match spec.kept_rows() {
            Some(KeptRows::U8 | KeptRows::SQ8) => 0.0,
            _ => -4.0,
        };
        let mut vector: Vec<f32> = (0..dim).map(|_| next(9) as f32 + least).collect();
        if spec.kept_rows() == Some(KeptRows::SQ8) && dim > 1 {
            (vector[0], vector[1]) = (0.0, 255.0);
        }
        return vector;
    }
    let scale = 1.0 + next(4) as f32;
    let most = [1, 4, 16].into_iter().filter(|n| *n <= dim).count();
    let components = [1, 4, 16][next(most)];
    let mut vector = vec![0.0; dim];
    let start = next(dim);
    for i in 0..components {
        vector[(start + i * (dim / components)) % dim] = if next(2) == 0 { scale } else { -scale };
    }
    vector
}

/// A component for which the metric's parts are exact: halves for Canberra, one or no bit for Jensen-Shannon, quarters and
/// categories for Gower, a few of them missing.
fn component(metric: Metric, at: usize, next: &mut impl FnMut(usize) -> usize) -> f32 {
    let from = |values: &[f32], pick: usize| values[pick % values.len()];
    match metric {
        Metric::Canberra => from(&[0.0, 1.0, 3.0, -1.0, -3.0], next(5)),
        Metric::JensenShannon => next(2) as f32,
        Metric::Jaccard => next(4) as f32,
        Metric::NanEuclidean | Metric::Gower if next(5) == 0 => f32::NAN,
        Metric::Gower if at % 3 == 1 => -1.0 - next(3) as f32,
        Metric::Gower => 0.25 * next(5) as f32,
        _ => next(9) as f32 - 4.0,
    }
}

/// The same vectors, what is missing being the same as what is missing.
pub(crate) fn same_vectors(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}

/// The components of a batch, its dimension, and why it must be refused, if it must.
pub(crate) fn components(
    spec: &IndexSpec,
    seeds: &[u8],
    wrong: Wrong,
    stored: bool,
) -> (Vec<f32>, usize, Option<&'static str>) {
    let dim = spec.dim();
    let mut rows: Vec<Vec<f32>> = seeds.iter().map(|seed| vector(spec, *seed)).collect();
    let bytes = spec.kept_rows() == Some(KeptRows::U8);
    let half = spec.encoding() == Encoding::F16 || spec.kept_rows() == Some(KeptRows::F16);
    let refusal = match (wrong, rows.last_mut()) {
        (Wrong::Dimension, _) => {
            rows.iter_mut().for_each(|row| row.push(1.0));
            return (rows.concat(), dim + 1, Some("Dimension"));
        }
        (Wrong::NotFinite, Some(row)) => {
            let missing = matches!(spec.metric(), Metric::NanEuclidean | Metric::Gower);
            row[dim - 1] = if seeds.len().is_multiple_of(2) && !missing { f32::NAN } else { f32::INFINITY };
            Some("NotFinite")
        }
        (Wrong::Zero, Some(row)) if spec.metric() == Metric::Cosine => {
            row.fill(0.0);
            Some("ZeroVector")
        }
        (Wrong::Huge, Some(row)) if is_measured(spec.metric()) => {
            row[0] = 3e38;
            Some("OutOfDomain")
        }
        (Wrong::Huge, Some(row)) if bytes && stored => {
            row[0] = [-1.0, 0.5, 256.0][seeds.len() % 3];
            Some("OutOfRange")
        }
        (Wrong::Huge, Some(row)) if half && stored && spec.metric() != Metric::Cosine => {
            row[0] = -1e6;
            Some("OutOfRange")
        }
        _ => None,
    };
    (rows.concat(), dim, refusal)
}

impl Sel {
    pub(crate) fn holds(&self, id: u64) -> bool {
        match self {
            Sel::All => true,
            Sel::Range(first, end) => *first <= id && id < *end,
            Sel::Array(ids) | Sel::Batch(ids) | Sel::Bitmap(ids) => ids.contains(&id),
            Sel::Multiples(n) => id.is_multiple_of(*n),
            Sel::Not(inner) => !inner.holds(id),
            Sel::And(a, b) => a.holds(id) && b.holds(id),
            Sel::Or(a, b) => a.holds(id) || b.holds(id),
            Sel::XOr(a, b) => a.holds(id) != b.holds(id),
        }
    }

    pub(crate) fn selector(&self) -> IdSelector {
        match self {
            Sel::All => IdSelector::All,
            Sel::Range(first, end) => IdSelector::range(*first..*end),
            Sel::Array(ids) => IdSelector::Array(ids.clone()),
            Sel::Batch(ids) => IdSelector::batch(ids.iter().copied()),
            Sel::Bitmap(ids) => IdSelector::bitmap(ids.iter().copied().collect::<RoaringTreemap>()),
            Sel::Multiples(n) => {
                let n = *n;
                IdSelector::callback(move |id| id % n == 0)
            }
            Sel::Not(inner) => !inner.selector(),
            Sel::And(a, b) => a.selector().and(b.selector()),
            Sel::Or(a, b) => a.selector().or(b.selector()),
            Sel::XOr(a, b) => a.selector().xor(b.selector()),
        }
    }
}

impl Params {
    /// True if a filter does not go beyond its lists; so scripts are as long as they were.
    pub(crate) fn probed(&self) -> bool {
        self.nprobe == Some(4)
    }

    pub(crate) fn params(&self) -> SearchParams {
        let mut params = SearchParams::new();
        if let Some(nprobe) = self.nprobe {
            params = params.nprobe(nprobe);
        }
        if let Some(max_codes) = self.max_codes {
            params = params.max_codes(max_codes);
        }
        if let Some(rerank) = self.rerank {
            params = params.rerank(rerank);
        }
        if self.probed() {
            params = params.filter_mode(FilterMode::Probed);
        }
        match &self.selector {
            Some(selector) => params.selector(selector.selector()),
            None => params,
        }
    }
}
