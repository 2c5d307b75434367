//! Searches for a recall: whether queries that the index has not seen find what was asked for
//! (`SearchParams::target_recall`).
//!
//! ```text
//! cargo bench --features files --bench recall -- PREFIX SPEC METRIC
//! ```
//! PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy. Without arguments it runs on the sample in
//! `tests/data`. The index is calibrated with its own vectors, then with every second one of the queries, of which the others are searched. One
//! line for each k and recall; queries a second are those of one batch on the threads of the machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Instant;
use vellum::files::{NumberReader, VectorReader};
use vellum::{
    CalibrateParams, IndexReader, IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams,
};

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
        Data { dim, base, queries, truth: all.chunks(columns).map(<[u64]>::to_vec).collect() }
    }

    /// Every second query, from this one on.
    fn half(&self, first: usize) -> Vec<f32> {
        let queries = self.queries.chunks(self.dim).skip(first).step_by(2);
        queries.flatten().copied().collect()
    }
}

fn main() {
    // `cargo bench` passes `--bench` before ours.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let text = |i: usize, other: &str| args.get(i).cloned().unwrap_or_else(|| other.into());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sift-10k");
    let data = Data::load(&text(0, sample.to_str().unwrap()));
    let metric: Metric = text(2, "l2").parse().expect("METRIC is l2, ip or cosine");
    let spec: IndexSpec = text(1, "IVF128,Nibble2,RU8").parse().expect("SPEC is a specification");
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("recall.vellum")).unwrap();
    let base = Rows::new(&data.base, data.dim).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &spec.with_dim(data.dim).with_metric(metric)).unwrap();
    let mut index = txn.index("i").unwrap();
    index.train(base, &TrainParams::default(), &mut Observer::none()).unwrap();
    index.add(base).unwrap();
    drop(index);
    txn.commit().unwrap();

    let params = CalibrateParams::default();
    let start = Instant::now();
    let own = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    println!("calibrated with {} of its own vectors in {:.1?}", own.queries(), start.elapsed());
    let reader = store.begin_read().unwrap().index("i").unwrap();
    let (all, all_truth) = (Rows::new(&data.queries, data.dim).unwrap(), &data.truth[..]);
    table(&reader, all, all_truth);

    let (seen, unseen) = (data.half(0), data.half(1));
    let seen = Rows::new(&seen, data.dim).unwrap();
    let start = Instant::now();
    let theirs = reader.calibrate_with(seen, &params, &mut Observer::none()).unwrap();
    println!("calibrated with {} queries in {:.1?}", theirs.queries(), start.elapsed());
    let txn = store.begin_write().unwrap();
    txn.index("i").unwrap().set_calibration(&theirs).unwrap();
    txn.commit().unwrap();
    let reader = store.begin_read().unwrap().index("i").unwrap();
    let truth: Vec<Vec<u64>> = data.truth.iter().skip(1).step_by(2).cloned().collect();
    table(&reader, Rows::new(&unseen, data.dim).unwrap(), &truth);
}

fn table(reader: &IndexReader<'_>, queries: Rows<'_>, truth: &[Vec<u64>]) {
    println!("| k | asked | nprobe | rerank | found | QPS |");
    println!("|---|---|---|---|---|---|");
    for k in [1, 5, 10, 100] {
        for asked in [0.8, 0.9, 0.95, 0.99] {
            let settings = reader.calibration().unwrap().settings(k, asked);
            let Ok((nprobe, rerank)) = settings else {
                println!("| {k} | {asked} | {settings:?} | | | |");
                continue;
            };
            let params = SearchParams::new().target_recall(asked);
            let found = reader.search_batch(queries, k, &params).unwrap();
            let start = Instant::now();
            reader.search_batch(queries, k, &params).unwrap();
            let qps = queries.len() as f64 / start.elapsed().as_secs_f64();
            let hits = found.iter().zip(truth).map(|(found, truth)| {
                found.iter().filter(|neighbor| truth[..k].contains(&neighbor.id)).count()
            });
            let recall = hits.sum::<usize>() as f64 / (k * truth.len()) as f64;
            println!("| {k} | {asked} | {nprobe} | {} | {recall:.4} | {qps:.0} |", rerank.unwrap_or(0));
        }
    }
}
