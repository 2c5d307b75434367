//! Searches with a selector: recall and speed by how many rows the selector admits, with and without going beyond
//! `nprobe` lists ([`FilterMode`]).
//!
//! ```text
//! cargo bench --features files --bench filtered -- PREFIX SPEC METRIC [NPROBE,…]
//! ```
//! PREFIX of PREFIX.base.npy, PREFIX.query.npy and PREFIX.label.npy, one number of 8 bits a row. Without arguments it runs on the
//! sample in `tests/data`, with labels drawn at random. Rows are admitted by their label, in three ways: labels that few
//! rows have first, labels that many rows have first (of the last label a part is drawn), or whatever the label (`drawn`). The
//! truth is brute force over the admitted rows. One thread.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vellum::files::VectorReader;
use vellum::{
    FilterMode, IdSelector, IndexReader, IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams,
};

const K: usize = 10;
const SHARES: [f64; 4] = [0.001, 0.01, 0.1, 0.5];
const TIME: Duration = Duration::from_millis(600);

struct Data {
    dim: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
    labels: Vec<u8>,
}

impl Data {
    fn load(prefix: &str) -> Self {
        let read = |name: &str| {
            let mut reader = VectorReader::open(format!("{prefix}.{name}.npy")).expect("PREFIX names files");
            (reader.dim(), reader.next_batch(usize::MAX).unwrap().unwrap())
        };
        let ((dim, base), (_, queries)) = (read("base"), read("query"));
        let n = base.len() / dim;
        let labels = match std::fs::read(format!("{prefix}.label.npy")) {
            // The numbers are the end of the file, a byte each.
            Ok(bytes) => bytes[bytes.len() - n..].to_vec(),
            Err(_) => (0..n).map(|i| (hash(i) % 13) as u8).collect(),
        };
        Data { dim, base, queries, labels }
    }

    fn base(&self) -> Rows<'_> {
        Rows::new(&self.base, self.dim).unwrap()
    }

    fn queries(&self) -> Rows<'_> {
        Rows::new(&self.queries, self.dim).unwrap()
    }

    /// So many rows.
    fn admitted(&self, way: &str, count: usize) -> Vec<u64> {
        let mut sizes = [0usize; 256];
        self.labels.iter().for_each(|label| sizes[*label as usize] += 1);
        let mut rows: Vec<usize> = (0..self.labels.len()).collect();
        rows.sort_by_key(|&row| {
            let size = sizes[self.labels[row] as usize] as i64;
            let first = match way {
                "few" => size,
                "many" => -size,
                _ => 0,
            };
            (first, hash(row))
        });
        rows.truncate(count);
        rows.into_iter().map(|row| row as u64).collect()
    }
}

fn hash(i: usize) -> u64 {
    let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

fn main() {
    // `cargo bench` passes `--bench` before ours.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let text = |i: usize, other: &str| args.get(i).cloned().unwrap_or_else(|| other.into());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sift-10k");
    let data = Data::load(&text(0, sample.to_str().unwrap()));
    let metric: Metric = text(2, "l2").parse().expect("METRIC is l2, ip or cosine");
    let spec: IndexSpec = text(1, "IVF128,Nibble2,RU8").parse().expect("SPEC is a specification");
    let nprobes: Vec<usize> = text(3, "16").split(',').map(|n| n.parse().expect("a number")).collect();
    let folder = tempfile::tempdir().unwrap();
    let one = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
    let store = Store::builder().thread_pool(one).create(folder.path().join("filtered.vellum")).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &spec.with_dim(data.dim).with_metric(metric)).unwrap();
    let mut index = txn.index("i").unwrap();
    if index.spec().nlist().is_some() {
        index.train(data.base(), &TrainParams::default(), &mut Observer::none()).unwrap();
    }
    index.add(data.base()).unwrap();
    drop(index);
    txn.commit().unwrap();
    let reader = store.begin_read().unwrap().index("i").unwrap();

    let flat = memory_flat(&data, metric);
    println!(
        "| rows | which | nprobe | recall | QPS, batch | QPS, single | probed: recall | QPS, batch | QPS, single |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for nprobe in &nprobes {
        for share in SHARES {
            for way in ["few", "many", "drawn"] {
                let ids = data.admitted(way, ((data.labels.len() as f64 * share) as usize).max(1));
                let selector = IdSelector::bitmap(ids.iter().copied().collect());
                let exact = SearchParams::new().selector(selector.clone());
                let truth = flat.search_batch(data.queries(), K, &exact).unwrap();
                let params = SearchParams::new().nprobe(*nprobe).selector(selector);
                let adaptive = measure(&reader, &data, &params, &truth);
                let probed = params.clone().filter_mode(FilterMode::Probed);
                let probed = measure(&reader, &data, &probed, &truth);
                println!(
                    "| {} ({:.1} %) | {way} | {nprobe} | {adaptive} | {probed} |",
                    ids.len(),
                    share * 100.0
                );
            }
        }
    }
    let params = SearchParams::new().nprobe(nprobes[0]);
    let truth = flat.search_batch(data.queries(), K, &SearchParams::new()).unwrap();
    println!("| all | | {} | {} |", nprobes[0], measure(&reader, &data, &params, &truth));
}

/// Brute force.
fn memory_flat(data: &Data, metric: Metric) -> IndexReader<'static> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("flat.vellum")).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &IndexSpec::flat(data.dim, metric)).unwrap();
    txn.index("i").unwrap().add(data.base()).unwrap();
    txn.commit().unwrap();
    store.begin_read().unwrap().index("i").unwrap()
}

/// Recall, and the queries a second of a batch and of one query a call.
fn measure(
    reader: &IndexReader<'_>,
    data: &Data,
    params: &SearchParams,
    truth: &[Vec<vellum::Neighbor>],
) -> String {
    let found = reader.search_batch(data.queries(), K, params).unwrap();
    let hits = found.iter().zip(truth).map(|(found, truth)| {
        truth.iter().filter(|t| found.iter().any(|f| f.id == t.id)).count() as f64 / truth.len().max(1) as f64
    });
    let recall = hits.sum::<f64>() / truth.len() as f64;
    let n = data.queries().len() as f64;
    let batch = fastest(|| drop(reader.search_batch(data.queries(), K, params).unwrap()));
    let single = fastest(|| {
        data.queries().iter().for_each(|query| drop(reader.search(query, K, params).unwrap()));
    });
    format!("{recall:.4} | {:.0} | {:.0}", n / batch, n / single)
}

fn fastest(mut run: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::MAX);
    while begin.elapsed() < TIME || best == f64::MAX {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
