//! What the tests share: data, the dumb oracle, stores, and the comparisons.
//!
//! The [`Oracle`] is a map from id to vector and a sort. It does in `f64` what the index does in blocks,
//! lists and kernels, and it knows nothing of any of them. Two comparisons: [`assert_same`] where
//! arithmetic is exact (small integers), bit for bit; [`assert_close`] for real numbers, where a distance
//! may be off by the rounding of its sum and two neighbours may swap only if the oracle itself finds them
//! that close.
#![allow(dead_code, reason = "each test uses what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

pub(crate) mod encodings;

use encodings::ENCODINGS;
use redb::backends::InMemoryBackend;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use vellum::*;

/// A small generator (xorshift64*): the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Real components in [-1, 1).
pub(crate) fn reals(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n * dim).map(|_| 2.0 * random.unit() - 1.0).collect()
}

/// Integers 1..=max as components: few values, so many ties; exact in every encoding and in every sum.
/// Never a zero vector.
pub(crate) fn integers(n: usize, dim: usize, max: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n * dim).map(|_| (1 + random.below(max)) as f32).collect()
}

pub(crate) fn rows(data: &[f32], dim: usize) -> Rows<'_> {
    Rows::new(data, dim).unwrap()
}

pub(crate) fn spec(text: &str, dim: usize, metric: Metric) -> IndexSpec {
    text.parse::<IndexSpec>().unwrap().with_dim(dim).with_metric(metric)
}

/// Default parameters but for what `change` sets.
pub(crate) fn with(change: impl Fn(&mut ClusteringParams)) -> TrainParams {
    let mut params = TrainParams::default();
    change(&mut params.clustering);
    params
}

/// Σ squared distance of each row to the nearest centroid.
pub(crate) fn objective(data: Rows<'_>, centroids: &[f32]) -> f64 {
    let distance =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
    let nearest = |row| centroids.chunks(data.dim()).map(|c| distance(row, c)).fold(f64::INFINITY, f64::min);
    data.iter().map(nearest).sum()
}

pub(crate) const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// Every kind of code in lists that are written `lists` (`IVF8`), each under one of the metrics it goes with: another for
/// another `turn`, so that files of tests with turns of their own see each code under several.
pub(crate) fn every_encoding(lists: &str, turn: usize) -> impl Iterator<Item = (String, Metric)> {
    let cases = ENCODINGS.into_iter().zip(METRICS.into_iter().cycle().skip(turn));
    cases.map(move |(code, metric)| {
        let metric = if code.starts_with("SH") || is_direct(code) { Metric::L2 } else { metric };
        (format!("{lists},{code}"), metric)
    })
}

/// All of `specs` under all metrics, then every kind of code under one of them.
pub(crate) fn with_every_encoding(
    specs: &[&str],
    lists: &str,
    turn: usize,
) -> impl Iterator<Item = (String, Metric)> {
    let under_all = |text: &&str| METRICS.map(|metric| (text.to_string(), metric));
    let cases: Vec<_> = specs.iter().flat_map(under_all).chain(every_encoding(lists, turn)).collect();
    cases.into_iter()
}

/// Codes that are whole components.
fn is_direct(text: &str) -> bool {
    text.contains("_direct")
}

/// Vectors that an index of this specification takes: real ones, or whole numbers where codes are.
pub(crate) fn suited(text: &str, n: usize, dim: usize, seed: u64) -> Vec<f32> {
    if is_direct(text) { integers(n, dim, 100, seed) } else { reals(n, dim, seed) }
}

/// True if a code says what its vector is.
pub(crate) fn decodes(text: &str) -> bool {
    !text.contains(",SH")
}

// ---------------------------------------------------------------- stores

pub(crate) fn memory() -> Store {
    in_memory(Store::builder())
}

pub(crate) fn in_memory(builder: Builder) -> Store {
    builder.open_backend(|| Ok(InMemoryBackend::new())).unwrap()
}

pub(crate) fn pool(threads: usize) -> Arc<rayon::ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

/// One transaction over one index, committed.
pub(crate) fn change<R>(store: &Store, index: &str, verbs: impl FnOnce(&mut IndexWriter<'_>) -> R) -> R {
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index(index).unwrap();
    let out = verbs(&mut writer);
    drop(writer);
    txn.commit().unwrap();
    out
}

pub(crate) fn create(store: &Store, index: &str, spec: &IndexSpec) {
    let txn = store.begin_write().unwrap();
    txn.create_index(index, spec).unwrap();
    txn.commit().unwrap();
}

pub(crate) fn reader(store: &Store, index: &str) -> IndexReader<'static> {
    store.begin_read().unwrap().index(index).unwrap()
}

/// Every checksum and every invariant of the index holds.
#[track_caller]
pub(crate) fn assert_sound(store: &Store, index: &str) {
    let report = store.begin_read().unwrap().verify(index, &mut Observer::none()).unwrap();
    assert!(
        report.is_ok(),
        "{index}: {} problems, such as {:?}",
        report.problem_count,
        report.problems.first()
    );
}

pub(crate) fn train(writer: &mut IndexWriter<'_>, data: Rows<'_>) -> TrainReport {
    writer.train(data, &TrainParams::default(), &mut Observer::none()).unwrap()
}

pub(crate) fn nprobe(n: usize) -> SearchParams {
    SearchParams::new().nprobe(n)
}

/// All lists.
pub(crate) fn everywhere() -> SearchParams {
    nprobe(usize::MAX)
}

/// What an index holds and says of itself: equal before and after whatever must change nothing.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    ids: Vec<u64>,
    vectors: Vec<u32>,
    sizes: Vec<usize>,
    centroids: Option<Vec<u32>>,
    defaults: String,
    training: Option<TrainParams>,
    changes: u64,
    spec: IndexSpec,
}

impl State {
    pub(crate) fn len(&self) -> u64 {
        self.ids.len() as u64
    }

    /// All but the number of changes that led there.
    pub(crate) fn same_vectors(&self, other: &State) -> bool {
        let these = |s: &State| (s.ids.clone(), s.vectors.clone(), s.sizes.clone(), s.centroids.clone());
        these(self) == these(other) && self.defaults == other.defaults && self.spec == other.spec
    }
}

pub(crate) fn state(reader: &IndexReader<'_>) -> State {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    let ids = reader.ids().unwrap();
    assert_eq!(ids.len() as u64, reader.len());
    State {
        vectors: bits(&reader.reconstruct_batch(&ids).unwrap()),
        ids,
        sizes: reader.list_sizes().unwrap(),
        centroids: reader.centroids().map(|c| bits(c.as_slice())),
        defaults: format!("{:?}", reader.search_defaults()),
        training: reader.training().unwrap(),
        changes: reader.stats().unwrap().changes,
        spec: reader.spec().clone(),
    }
}

// ---------------------------------------------------------------- the oracle

/// What a component becomes when it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stored {
    F32,
    F16,
    BF16,
}

impl Stored {
    pub(crate) fn round(self, v: f32) -> f32 {
        match self {
            Stored::F32 => v,
            Stored::F16 => half::f16::from_f32(v).to_f32(),
            Stored::BF16 => half::bf16::from_f32(v).to_f32(),
        }
    }

    /// How the codes of an index round.
    pub(crate) fn of_codes(spec: &IndexSpec) -> Self {
        match spec.encoding() {
            Encoding::F16 => Stored::F16,
            Encoding::BF16 => Stored::BF16,
            _ => Stored::F32,
        }
    }

    /// How what an index gives back rounds: the kept rows, or else the codes.
    pub(crate) fn of_rows(spec: &IndexSpec) -> Self {
        match spec.kept_rows() {
            Some(KeptRows::F32 | KeptRows::U8 | KeptRows::SQ8Flat) => Stored::F32,
            Some(KeptRows::F16) => Stored::F16,
            Some(KeptRows::BF16) => Stored::BF16,
            _ => Stored::of_codes(spec),
        }
    }
}

/// Vectors by id, and nothing clever.
#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) metric: Metric,
    pub(crate) stored: Stored,
    pub(crate) vectors: BTreeMap<u64, Vec<f32>>,
}

/// A vector's distance without rounding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exact {
    pub(crate) id: u64,
    pub(crate) distance: f64,
    /// The sum of the sizes of the terms that the distance adds up: what rounding is relative to.
    pub(crate) scale: f64,
}

impl Oracle {
    pub(crate) fn new(metric: Metric, stored: Stored) -> Self {
        Oracle { metric, stored, vectors: BTreeMap::new() }
    }

    pub(crate) fn put(&mut self, id: u64, row: &[f32]) {
        let row = self.at_the_door(row).into_iter().map(|v| self.stored.round(v)).collect();
        self.vectors.insert(id, row);
    }

    pub(crate) fn put_all(&mut self, ids: impl IntoIterator<Item = u64>, rows: Rows<'_>) {
        ids.into_iter().zip(rows.iter()).for_each(|(id, row)| self.put(id, row));
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.vectors.keys().copied().collect()
    }

    /// Cosine is the inner product of vectors that were scaled to length 1, in f32.
    fn at_the_door(&self, row: &[f32]) -> Vec<f32> {
        if self.metric != Metric::Cosine {
            return row.to_vec();
        }
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        row.iter().map(|&v| (f64::from(v) / norm) as f32).collect()
    }

    fn distance(&self, query: &[f32], id: u64, row: &[f32]) -> Exact {
        let term = |(&q, &x): (&f32, &f32)| match self.metric {
            Metric::L2 => (f64::from(q) - f64::from(x)).powi(2),
            _ => f64::from(q) * f64::from(x),
        };
        let terms = || query.iter().zip(row).map(term);
        // Adding 0 turns -0 into 0: one tie, not two.
        Exact { id, distance: terms().sum::<f64>() + 0.0, scale: terms().map(f64::abs).sum() }
    }

    /// All vectors whose ids `keep` accepts: nearest first, ties by id.
    pub(crate) fn ranking(&self, query: &[f32], keep: impl Fn(u64) -> bool) -> Vec<Exact> {
        let query = self.at_the_door(query);
        let kept = self.vectors.iter().filter(|(id, _)| keep(**id));
        let mut all: Vec<Exact> = kept.map(|(id, row)| self.distance(&query, *id, row)).collect();
        let score = |e: &Exact| if self.metric.is_similarity() { -e.distance } else { e.distance };
        all.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
        all
    }

    pub(crate) fn all(&self, query: &[f32]) -> Vec<Exact> {
        self.ranking(query, |_| true)
    }
}

/// The rounding of a distance, as a part of the sum of its terms' sizes. 384 products summed in 16 lanes
/// of f32 round about 30 times by at most 2^-24 each: 2e-6 is the bound, the usual error a tenth of it.
pub(crate) const ROUNDING: f64 = 2e-6;

/// The first of `expected`, bit for bit: ids, order, distances.
#[track_caller]
pub(crate) fn assert_same(found: &[Neighbor], expected: &[Exact], what: &str) {
    let pairs = || found.iter().zip(expected).enumerate();
    if let Some((rank, (n, e))) = pairs().find(|(_, (n, e))| (n.id, n.distance) != (e.id, e.distance as f32))
    {
        panic!("{what}, rank {rank}: found {n:?}, expected {e:?}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: the number of neighbours");
}

/// The first of `ranking` (the whole of it, so that swapped neighbours can be judged) as real numbers
/// allow.
#[track_caller]
pub(crate) fn assert_close(found: &[Neighbor], ranking: &[Exact], metric: Metric, what: &str) {
    assert!(found.len() <= ranking.len(), "{what}: {} found of {}", found.len(), ranking.len());
    let by_id: BTreeMap<u64, &Exact> = ranking.iter().map(|e| (e.id, e)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for (rank, (neighbor, expected)) in found.iter().zip(ranking).enumerate() {
        let context = || format!("{what}, rank {rank}: found {neighbor:?}, expected {expected:?}");
        assert!(seen.insert(neighbor.id), "{}: twice", context());
        let own = by_id.get(&neighbor.id).unwrap_or_else(|| panic!("{}: not there", context()));
        let tolerance = |e: &Exact| ROUNDING * e.scale + 1e-30;
        let distance = f64::from(neighbor.distance);
        assert!((distance - own.distance).abs() <= tolerance(own), "{}: wrong distance", context());
        // The order statistics of numbers that are each off by at most t are off by at most t.
        let gap = (own.distance - expected.distance).abs();
        assert!(neighbor.id == expected.id || gap <= tolerance(own) + tolerance(expected), "{}", context());
    }
    assert_sorted(found, metric, what);
}

/// Nearest first, ties by ascending id.
#[track_caller]
pub(crate) fn assert_sorted(found: &[Neighbor], metric: Metric, what: &str) {
    for pair in found.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let nearer = if metric.is_similarity() { a.distance > b.distance } else { a.distance < b.distance };
        assert!(nearer || (a.distance == b.distance && a.id < b.id), "{what}: {a:?} before {b:?}");
    }
}

/// Answers with their bits, so that `assert_eq!` means bit for bit.
pub(crate) fn bits(found: &[Neighbor]) -> Vec<(u64, u32)> {
    found.iter().map(|n| (n.id, n.distance.to_bits())).collect()
}

pub(crate) fn all_bits(found: &[Vec<Neighbor>]) -> Vec<Vec<(u64, u32)>> {
    found.iter().map(|found| bits(found)).collect()
}

pub(crate) fn ids_of(found: &[Neighbor]) -> Vec<u64> {
    found.iter().map(|n| n.id).collect()
}

// ---------------------------------------------------------------- an index that was lived in

/// Fills an index the way life does: part before training and part after, ids given in falling order, rows
/// freed and taken again by other ids, vectors replaced. So ids and row numbers are in different orders.
/// Returns the oracle's copy.
pub(crate) fn live_in(writer: &mut IndexWriter<'_>, data: Rows<'_>) -> Oracle {
    let mut oracle = Oracle::new(writer.spec().metric(), Stored::of_rows(writer.spec()));
    let n = data.len();
    let (a, b, c) = (data.slice(0..n / 3), data.slice(n / 3..2 * n / 3), data.slice(2 * n / 3..n));

    let ids = writer.add(a).unwrap();
    oracle.put_all(ids, a);
    if writer.spec().nlist().is_some() {
        train(writer, data);
    }
    let falling: Vec<u64> = (0..b.len() as u64).map(|i| 100_000 - 7 * i).collect();
    writer.add_with_ids(&falling, b).unwrap();
    oracle.put_all(falling, b);

    let every_fourth: Vec<u64> = oracle.ids().into_iter().step_by(4).collect();
    let gone = writer.remove_ids(&IdSelector::batch(every_fourth.iter().copied())).unwrap();
    assert_eq!(gone, every_fourth.len() as u64);
    every_fourth.iter().for_each(|id| drop(oracle.vectors.remove(id)));

    // Half of the rest comes under ids that were removed, the highest first; a quarter replaces; a quarter
    // is new.
    let (half, quarter) = (c.len() / 2, c.len() / 4);
    let back: Vec<u64> = every_fourth.iter().rev().copied().take(half).collect();
    let replaced: Vec<u64> = oracle.ids().into_iter().rev().step_by(3).take(quarter).collect();
    writer.add_with_ids(&back, c.slice(0..back.len())).unwrap();
    oracle.put_all(back.iter().copied(), c.slice(0..back.len()));
    writer.update_vectors(&replaced, c.slice(half..half + replaced.len())).unwrap();
    oracle.put_all(replaced.iter().copied(), c.slice(half..half + replaced.len()));
    let (rest, known) = (c.slice(half + quarter..c.len()), oracle.ids());
    let mixed = |i: usize| if i.is_multiple_of(3) { known[i] } else { 50_001 + 2 * i as u64 };
    let mixed: Vec<u64> = (0..rest.len()).map(mixed).collect();
    assert_eq!(writer.upsert(&mixed, rest).unwrap(), rest.len() - rest.len().div_ceil(3));
    oracle.put_all(mixed, rest);
    assert_eq!(writer.len(), oracle.vectors.len() as u64);
    oracle
}

// ---------------------------------------------------------------- the real samples

/// One of the samples in `tests/data`, see the README there.
pub(crate) struct Sample {
    pub(crate) dim: usize,
    pub(crate) base: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    /// The exact 100 nearest base rows of each query.
    pub(crate) truth: Vec<Vec<u64>>,
}

impl Sample {
    pub(crate) fn load(name: &str) -> Self {
        let (base, dim) = npy(&format!("{name}.base.npy"));
        let (queries, _) = npy(&format!("{name}.query.npy"));
        let (truth, per_query) = npy(&format!("{name}.truth.npy"));
        let truth = truth.chunks(per_query).map(|row| row.iter().map(|&id| id as u64).collect()).collect();
        Sample { dim, base, queries, truth }
    }

    pub(crate) fn base(&self) -> Rows<'_> {
        rows(&self.base, self.dim)
    }

    pub(crate) fn queries(&self) -> Rows<'_> {
        rows(&self.queries, self.dim)
    }

    /// The share of the true `k` nearest among the first `k` found.
    pub(crate) fn recall(&self, found: &[Vec<Neighbor>], k: usize) -> f64 {
        let hits = |(found, truth): (&Vec<Neighbor>, &Vec<u64>)| {
            found.iter().take(k).filter(|n| truth[..k].contains(&n.id)).count()
        };
        let hits: usize = found.iter().zip(&self.truth).map(hits).sum();
        hits as f64 / (k * found.len()) as f64
    }
}

pub(crate) fn data_path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", file].iter().collect()
}

/// A table of numbers and its columns. Knows only what the samples are: version 1.0, two dimensions.
fn npy(file: &str) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(data_path(file)).unwrap();
    let body = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..body]).unwrap();
    let after = |mark: &str| header.split(mark).nth(1).unwrap();
    let columns = after(", 'shape': (").split([',', ')']).nth(1).unwrap().trim().parse().unwrap();
    let bytes = &bytes[body..];
    let values = match after("'descr': '").split('\'').next().unwrap() {
        "|u1" => bytes.iter().map(|&v| f32::from(v)).collect(),
        "<f2" => bytes.chunks(2).map(|v| half::f16::from_le_bytes([v[0], v[1]]).to_f32()).collect(),
        "<i4" => bytes.chunks(4).map(|v| i32::from_le_bytes([v[0], v[1], v[2], v[3]]) as f32).collect(),
        other => panic!("{file}: {other}"),
    };
    (values, columns)
}

/// What a repair reports that lost nothing.
pub(crate) fn nothing_lost(rows: u64) -> RepairReport {
    let mut report = RepairReport::default();
    report.rows = rows;
    report
}
