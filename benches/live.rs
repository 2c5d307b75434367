//! Readers beside a writer: an index is searched, one query a call, first alone and then while a writer adds rows at a
//! given rate; then the rest of the rows is added, and the recall is compared with that of an index built of all rows.
//!
//! ```text
//! cargo bench --features files --bench live -- PREFIX SPEC METRIC [NPROBE] [ADDED] [ROWS/S] [ROWS A COMMIT] [FOLDER] [drawn|as-is]
//! ```
//! PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy. Without arguments it runs on the sample in
//! `tests/data`. What is added is drawn at random from the rows, or is their end (`as-is`). Each call opens the newest state (`begin_read`, `index`) and searches it, as a service would that wants
//! no answer older than the question. Commits are durable. Time slices with and without the writer alternate, so that
//! what disturbs the machine disturbs both.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vellum::files::{NumberReader, VectorReader};
use vellum::{IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams};

const SLICE: Duration = Duration::from_millis(1500);
const SLICES: usize = 4;
const K: usize = 10;

struct Data {
    dim: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<Vec<u64>>,
}

impl Data {
    fn load(prefix: &str) -> Self {
        let read = |name: &str| {
            let mut reader = VectorReader::open(format!("{prefix}.{name}.npy")).expect("PREFIX names files");
            (reader.dim(), reader.next_batch(usize::MAX).unwrap().unwrap())
        };
        let ((dim, base), (_, queries)) = (read("base"), read("query"));
        let mut truth = NumberReader::open(format!("{prefix}.truth.npy")).unwrap();
        let columns = truth.columns();
        let all = truth.next_batch::<u64>(usize::MAX).unwrap().unwrap();
        let truth = all.chunks(columns).map(|row| row[..K.min(columns)].to_vec()).collect();
        Data { dim, base, queries, truth }
    }

    fn base(&self) -> Rows<'_> {
        Rows::new(&self.base, self.dim).unwrap()
    }

    fn queries(&self) -> Rows<'_> {
        Rows::new(&self.queries, self.dim).unwrap()
    }

    fn recall(&self, store: &Store, params: &SearchParams) -> f64 {
        let reader = store.begin_read().unwrap().index("i").unwrap();
        let found = reader.search_batch(self.queries(), K, params).unwrap();
        let hits = |(found, truth): (&Vec<vellum::Neighbor>, &Vec<u64>)| {
            found.iter().filter(|neighbor| truth.contains(&neighbor.id)).count()
        };
        let hits: usize = found.iter().zip(&self.truth).map(hits).sum();
        hits as f64 / (K * self.truth.len()) as f64
    }
}

fn main() {
    // `cargo bench` passes `--bench` before ours.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let text = |i: usize, other: &str| args.get(i).cloned().unwrap_or_else(|| other.into());
    let number = |i: usize, other: usize| args.get(i).map_or(other, |n| n.parse().expect("a number"));
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sift-10k");
    let mut data = Data::load(&text(0, sample.to_str().unwrap()));
    if text(8, "drawn") == "drawn" {
        shuffled(&mut data);
    }
    let metric: Metric = text(2, "l2").parse().expect("METRIC is l2, ip or cosine");
    let spec: IndexSpec = text(1, "IVF128,Nibble2,RU8").parse().expect("SPEC is a specification");
    let spec = spec.with_dim(data.dim).with_metric(metric);
    let n = data.base().len();
    let (nprobe, added) = (number(3, 32), number(4, n / 3).min(n / 2));
    let (rate, size) = (number(5, 1000).max(1), number(6, 100).max(1));
    let temporary = tempfile::tempdir().unwrap();
    let folder = args.get(7).map_or(temporary.path().to_path_buf(), PathBuf::from);
    let params = SearchParams::new().nprobe(nprobe);
    println!("{n} rows of {} components, {spec}, nprobe {nprobe}, one reader", data.dim);

    let first = n - added;
    let store = built(&folder.join("live.vellum"), &spec, data.base().slice(0..first));
    let (quiet, busy, written) = side_by_side(&store, &data, &params, first, rate, size);
    println!("| | QPS | p50 µs | p99 µs | max µs |");
    println!("|---|---|---|---|---|");
    let line = |name: &str, calls: &[f64]| {
        let at = |p: f64| calls[((calls.len() - 1) as f64 * p) as usize];
        let qps = 1e6 * calls.len() as f64 / calls.iter().sum::<f64>();
        println!("| {name} | {qps:.0} | {:.1} | {:.1} | {:.0} |", at(0.5), at(0.99), at(1.0));
        (qps, at(0.5), at(0.99))
    };
    let alone = line("alone", &quiet);
    let beside = line(&format!("beside {} rows/s in commits of {size}", written.1.round()), &busy);
    println!(
        "QPS kept {:.0} %; p99 beside the writer is {:.2} times the quiet p50",
        100.0 * beside.0 / alone.0,
        beside.2 / alone.1
    );

    let start = Instant::now();
    add(&store, data.base().slice(first + written.0..n), 10_000);
    println!(
        "the other {} of {added} rows added in {:.2} s",
        added - written.0,
        start.elapsed().as_secs_f64()
    );
    let fresh = built(&folder.join("fresh.vellum"), &spec, data.base());
    let (grown, fresh) = (data.recall(&store, &params), data.recall(&fresh, &params));
    println!("recall@{K} of the index that grew {grown:.4}, of one built of all rows {fresh:.4}");
}

fn built(path: &Path, spec: &IndexSpec, rows: Rows<'_>) -> Store {
    let _ = std::fs::remove_file(path);
    let store = Store::create(path).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", spec).unwrap();
    txn.index("i").unwrap().train(rows, &TrainParams::default(), &mut Observer::none()).unwrap();
    txn.commit().unwrap();
    let mut load = store.bulk_load("i").unwrap();
    load.add(rows).unwrap();
    load.finish().unwrap();
    store
}

fn add(store: &Store, rows: Rows<'_>, size: usize) {
    for first in (0..rows.len()).step_by(size) {
        let txn = store.begin_write().unwrap();
        txn.index("i").unwrap().add(rows.slice(first..rows.len().min(first + size))).unwrap();
        txn.commit().unwrap();
    }
}

/// Rows in a drawn order, and where each came from: what is added is like what was there.
fn shuffled(data: &mut Data) {
    let n = data.base.len() / data.dim;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|i| (*i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11);
    data.base = order.iter().flat_map(|i| data.base[i * data.dim..(i + 1) * data.dim].to_vec()).collect();
    let mut place = vec![0; n];
    order.iter().zip(0..).for_each(|(i, at)| place[*i] = at);
    data.truth.iter_mut().flatten().for_each(|id| *id = place[*id as usize]);
}

/// Durations of calls in microseconds, ascending, without and with a writer; rows written and their rate.
fn side_by_side(
    store: &Store,
    data: &Data,
    params: &SearchParams,
    first: usize,
    rate: usize,
    size: usize,
) -> (Vec<f64>, Vec<f64>, (usize, f64)) {
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let (mut written, mut writing) = (0, Duration::ZERO);
    calls(store, data, params, &mut Vec::new());
    for _ in 0..SLICES {
        calls(store, data, params, &mut quiet);
        let done = AtomicBool::new(false);
        let rows = data.base().slice(first + written..data.base().len());
        let start = Instant::now();
        written += std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_at(store, rows, rate, size, &done));
            calls(store, data, params, &mut busy);
            done.store(true, Relaxed);
            writer.join().unwrap()
        });
        writing += start.elapsed();
    }
    quiet.sort_by(f64::total_cmp);
    busy.sort_by(f64::total_cmp);
    (quiet, busy, (written, written as f64 / writing.as_secs_f64()))
}

/// Adds rows in commits of `size`, `rate` rows a second, until `done`. A commit that is late is made at once.
fn write_at(store: &Store, rows: Rows<'_>, rate: usize, size: usize, done: &AtomicBool) -> usize {
    let start = Instant::now();
    let mut written = 0;
    while !done.load(Relaxed) && written + size <= rows.len() {
        let due = Duration::from_secs_f64((written + size) as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        add(store, rows.slice(written..written + size), size);
        written += size;
    }
    written
}

fn calls(store: &Store, data: &Data, params: &SearchParams, calls: &mut Vec<f64>) {
    let start = Instant::now();
    for query in data.queries().iter().cycle() {
        let call = Instant::now();
        store.begin_read().unwrap().index("i").unwrap().search(query, K, params).unwrap();
        calls.push(call.elapsed().as_secs_f64() * 1e6);
        if start.elapsed() >= SLICE {
            return;
        }
    }
}
