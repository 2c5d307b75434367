//! Searches for a recall: whether queries that the index has not seen find what was asked for
//! (`SearchParams::target_recall`).
//!
//! ```text
//! cargo bench --features files --bench recall -- PREFIX SPEC METRIC [held]
//! ```
//! PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.truth.npy. Without arguments it runs on the sample in
//! `tests/data`. The index is searched as its training calibrated it, as its own vectors do, and as every second one of the queries does, of
//! which the others are searched. With `held` the queries are rows of the base instead, from the middle of 100 stretches that neither
//! training nor index sees, a fifth of it all: so many that their mean is sure. One line for each k and recall, with the standard error that the
//! choice of the queries leaves (of stretches, where there are some); queries a second are those of one batch on the threads of the machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Instant;
use vellum::files::{NumberReader, VectorReader};
use vellum::{
    CalibrateParams, Calibration, IndexReader, IndexSpec, Metric, Observer, Rows, SearchParams, Store,
    TrainParams,
};

const STRETCHES: usize = 100;
const KS: [usize; 4] = [1, 5, 10, 100];

struct Data {
    dim: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<Vec<u64>>,
    /// Queries that belong together, one after the other.
    together: usize,
}

impl Data {
    fn load(prefix: &str, metric: Metric, held: bool) -> Self {
        let read = |name: &str| {
            let mut reader = VectorReader::open(format!("{prefix}.{name}.npy")).expect("PREFIX names files");
            (reader.dim(), reader.next_batch(usize::MAX).unwrap().unwrap())
        };
        let (dim, base) = read("base");
        if held {
            return Self::held(dim, &base, metric);
        }
        let mut truth = NumberReader::open(format!("{prefix}.truth.npy")).unwrap();
        let columns = truth.columns();
        let all = truth.next_batch::<u64>(usize::MAX).unwrap().unwrap();
        let truth = all.chunks(columns).map(<[u64]>::to_vec).collect();
        Data { dim, base, queries: read("query").1, truth, together: 1 }
    }

    /// The last fifth of each hundredth is not in the base, the middle third of that are queries.
    fn held(dim: usize, all: &[f32], metric: Metric) -> Self {
        let part = all.len() / dim / STRETCHES;
        let (fifth, third) = (part / 5, part / 15);
        let (mut base, mut queries) = (Vec::new(), Vec::new());
        for rows in all.chunks(part * dim).take(STRETCHES) {
            let (kept, out) = rows.split_at((part - fifth) * dim);
            base.extend_from_slice(kept);
            queries.extend_from_slice(&out[third * dim..2 * third * dim]);
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("flat.vellum")).unwrap();
        let txn = store.begin_write().unwrap();
        txn.create_index("i", &IndexSpec::flat(dim, metric)).unwrap();
        txn.index("i").unwrap().add(Rows::new(&base, dim).unwrap()).unwrap();
        txn.commit().unwrap();
        let reader = store.begin_read().unwrap().index("i").unwrap();
        let found = reader.search_batch(Rows::new(&queries, dim).unwrap(), 100, &SearchParams::new());
        let truth = found.unwrap().iter().map(|found| found.iter().map(|n| n.id).collect()).collect();
        Data { dim, base, queries, truth, together: third }
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
    let metric: Metric = text(2, "l2").parse().expect("METRIC is l2, ip or cosine");
    let held = text(3, "") == "held";
    let data = Data::load(&text(0, sample.to_str().unwrap()), metric, held);
    let spec: IndexSpec = text(1, "IVF128,Nibble2,RU8").parse().expect("SPEC is a specification");
    let spec = spec.with_dim(data.dim).with_metric(metric);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("recall.vellum")).unwrap();
    let base = Rows::new(&data.base, data.dim).unwrap();
    let plain = TrainParams { calibration_queries: Some(0), ..TrainParams::default() };
    let without = train(&store, "plain", &spec, base, &plain);
    let with = train(&store, "i", &spec, base, &TrainParams::default());
    let txn = store.begin_write().unwrap();
    txn.index("i").unwrap().add(base).unwrap();
    txn.commit().unwrap();
    println!("training took {with:.2} s with a first calibration, {without:.2} s without");

    let queries = Rows::new(&data.queries, data.dim).unwrap();
    let reader = store.begin_read().unwrap().index("i").unwrap();
    say(reader.calibration().unwrap(), "");
    table(&reader, queries, &data.truth, data.together);

    let params = CalibrateParams::default();
    let start = Instant::now();
    let own = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    say(&own, &format!(" in {:.1?}", start.elapsed()));
    let reader = store.begin_read().unwrap().index("i").unwrap();
    table(&reader, queries, &data.truth, data.together);
    if held {
        return;
    }

    let (seen, unseen) = (data.half(0), data.half(1));
    let seen = Rows::new(&seen, data.dim).unwrap();
    let start = Instant::now();
    let theirs = reader.calibrate_with(seen, &params, &mut Observer::none()).unwrap();
    say(&theirs, &format!(" in {:.1?}", start.elapsed()));
    let txn = store.begin_write().unwrap();
    txn.index("i").unwrap().set_calibration(&theirs).unwrap();
    txn.commit().unwrap();
    let reader = store.begin_read().unwrap().index("i").unwrap();
    let truth: Vec<Vec<u64>> = data.truth.iter().skip(1).step_by(2).cloned().collect();
    table(&reader, Rows::new(&unseen, data.dim).unwrap(), &truth, 1);
}

/// Seconds.
fn train(store: &Store, name: &str, spec: &IndexSpec, rows: Rows<'_>, params: &TrainParams) -> f64 {
    let txn = store.begin_write().unwrap();
    txn.create_index(name, spec).unwrap();
    let start = Instant::now();
    txn.index(name).unwrap().train(rows, params, &mut Observer::none()).unwrap();
    let took = start.elapsed().as_secs_f64();
    txn.commit().unwrap();
    took
}

fn say(calibration: &Calibration, took: &str) {
    let (source, rows, queries) = (calibration.source(), calibration.rows(), calibration.queries());
    println!("{source:?}: calibrated over {rows} vectors with up to {queries} queries{took}");
}

fn table(reader: &IndexReader<'_>, queries: Rows<'_>, truth: &[Vec<u64>], together: usize) {
    println!("| k | asked | nprobe | rerank | found | ± | QPS |");
    println!("|---|---|---|---|---|---|---|");
    for k in KS {
        for asked in [0.8, 0.9, 0.95, 0.99] {
            let settings = reader.target_settings(k, asked);
            let Ok((nprobe, rerank)) = settings else {
                println!("| {k} | {asked} | {settings:?} | | | | |");
                continue;
            };
            let params = SearchParams::new().target_recall(asked);
            let found = reader.search_batch(queries, k, &params).unwrap();
            let start = Instant::now();
            reader.search_batch(queries, k, &params).unwrap();
            let qps = queries.len() as f64 / start.elapsed().as_secs_f64();
            let hits: Vec<usize> = found
                .iter()
                .zip(truth)
                .map(|(found, truth)| found.iter().filter(|hit| truth[..k].contains(&hit.id)).count())
                .collect();
            let parts = hits.chunks(together);
            let means: Vec<f64> =
                parts.map(|hits| hits.iter().sum::<usize>() as f64 / (k * hits.len()) as f64).collect();
            let n = means.len() as f64;
            let mean = means.iter().sum::<f64>() / n;
            let variance = means.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / n;
            let (rerank, error) = (rerank.unwrap_or(0), (variance / n).sqrt());
            println!("| {k} | {asked} | {nprobe} | {rerank} | {mean:.4} | {error:.4} | {qps:.0} |");
        }
    }
}
