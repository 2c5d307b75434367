//! `demo`: everything once, over a sample of real vectors that is part of the program.
//!
//! Each step checks what it claims; a demo that shows a wrong answer fails.

use crate::args::Common;
use crate::console::{self, Console, count, rounded};
use crate::failure::Failure;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;
use vellum::files::{Format, NumberReader, VectorReader};
use vellum::{
    Builder, IdSelector, IndexReader, IndexSpec, Metric, Neighbor, Rows, SearchParams, Store, TrainParams,
};

const BASE: &[u8] = include_bytes!("../../../tests/data/sift-10k.base.npy");
const QUERIES: &[u8] = include_bytes!("../../../tests/data/sift-10k.query.npy");
const TRUTH: &[u8] = include_bytes!("../../../tests/data/sift-10k.truth.npy");

const INDEX: &str = "photos";
const NLIST: usize = 128;
const NPROBES: [usize; 7] = [1, 2, 4, 8, 16, 32, NLIST];
/// Lists probed where the demo does not vary them.
const NPROBE: usize = 16;
const K: usize = 10;

pub(crate) fn demo(common: &Common, console: &Console) -> Result<(), Failure> {
    let (base, dim) = vectors(BASE, "the sample's base")?;
    let (queries, _) = vectors(QUERIES, "the sample's queries")?;
    let (truth, depth) = truth()?;
    let sample = Sample { base: Rows::new(&base, dim)?, queries: Rows::new(&queries, dim)?, truth, depth };
    let folder = Folder::new()?;
    let path = folder.0.join("demo.vellum");
    let mut record = Map::new();
    console.say(format_args!(
        "{} SIFT descriptors of photographs, {} components each; {} queries with exact answers.",
        count(sample.base.len() as u64),
        sample.base.dim(),
        sample.queries.len()
    ))?;
    let store = build(&sample, common.builder()?, &path, console, &mut record)?;
    search(&sample, &store, console, &mut record)?;
    remove(&sample, &store, console, &mut record)?;
    let found = update(&sample, &store, console, &mut record)?;
    drop(store);
    let store = reopen(&sample, common.builder()?, &path, &found, console, &mut record)?;
    verify(&store, console, &mut record)?;
    console.say(
        "\nNow with vectors of your own (.npy, .fvecs, .bvecs):\n  \
         vellum build my.vellum docs --spec IVF1024,Flat --metric cosine --data vectors.npy\n  \
         vellum search my.vellum docs --queries queries.npy -k 10",
    )?;
    console.json(|| Value::Object(record))
}

fn build(
    sample: &Sample<'_>,
    builder: Builder,
    path: &Path,
    console: &Console,
    record: &mut Map<String, Value>,
) -> Result<Store, Failure> {
    console.say(format_args!("\n1. Build an index of {NLIST} inverted lists in {}", path.display()))?;
    let store = builder.create(path)?;
    let start = Instant::now();
    let txn = store.begin_write()?;
    txn.create_index(INDEX, &IndexSpec::ivf(sample.base.dim(), Metric::L2, NLIST))?;
    let mut writer = txn.index(INDEX)?;
    console.watch(|observer| writer.train(sample.base, &TrainParams::default(), observer))?;
    let train = start.elapsed().as_secs_f64();
    let start = Instant::now();
    writer.add(sample.base)?;
    drop(writer);
    txn.commit()?;
    let add = start.elapsed().as_secs_f64();
    store.compact()?;
    let file = store.stats().file_bytes;
    let vectors = 4 * (sample.base.len() * sample.base.dim()) as u64;
    console.say(format_args!(
        "   trained in {}, added and committed in {}",
        console::seconds(train),
        console::seconds(add)
    ))?;
    console.say(format_args!(
        "   the file has {}, the vectors alone {}",
        console::bytes(file),
        console::bytes(vectors)
    ))?;
    record.insert("rows".into(), json!(sample.base.len()));
    record.insert("dim".into(), json!(sample.base.dim()));
    record.insert("train_seconds".into(), json!(rounded(train, 6)));
    record.insert("add_seconds".into(), json!(rounded(add, 6)));
    record.insert("file_bytes".into(), json!(file));
    record.insert("vector_bytes".into(), json!(vectors));
    Ok(store)
}

fn search(
    sample: &Sample<'_>,
    store: &Store,
    console: &Console,
    record: &mut Map<String, Value>,
) -> Result<(), Failure> {
    console.say(format_args!(
        "\n2. Search for the {K} nearest of each query; the more lists probed, the more exact"
    ))?;
    let reader = store.begin_read()?.index(INDEX)?;
    let (mut rows, mut points) = (Vec::new(), Vec::new());
    for nprobe in NPROBES {
        let params = SearchParams::new().nprobe(nprobe);
        reader.search_batch(sample.queries, K, &params)?;
        let start = Instant::now();
        let found = reader.search_batch(sample.queries, K, &params)?;
        let qps = sample.queries.len() as f64 / start.elapsed().as_secs_f64();
        let recall = sample.recall(&found, |_| true);
        must(nprobe < NLIST || recall == 1.0, "probing every list must find the exact answers")?;
        rows.push([nprobe.to_string(), format!("{recall:.4}"), count(qps as u64)]);
        points.push(json!({"nprobe": nprobe, "recall": rounded(recall, 6), "qps": rounded(qps, 1)}));
    }
    record.insert("points".into(), Value::Array(points));
    console.say(console::table(["nprobe", "recall", "queries/s"], &rows))
}

/// Removes every tenth vector while a reader stays open.
fn remove(
    sample: &Sample<'_>,
    store: &Store,
    console: &Console,
    record: &mut Map<String, Value>,
) -> Result<(), Failure> {
    console.say("\n3. Remove every tenth vector, while somebody reads")?;
    let is_kept = |id: u64| !id.is_multiple_of(10);
    let before = store.begin_read()?.index(INDEX)?;
    let start = Instant::now();
    let txn = store.begin_write()?;
    let gone = (0..sample.base.len() as u64).filter(|&id| !is_kept(id));
    let removed = txn.index(INDEX)?.remove_ids(&IdSelector::batch(gone))?;
    txn.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    let after = store.begin_read()?.index(INDEX)?;
    let found = after.search_batch(sample.queries, K, &SearchParams::new().nprobe(NPROBE))?;
    must(found.iter().flatten().all(|neighbor| is_kept(neighbor.id)), "nothing removed may be found")?;
    must(before.len() == after.len() + removed, "an open reader must not change")?;
    let recall = sample.recall(&found, is_kept);
    console.say(format_args!(
        "   removed {} in {}; the reader opened before still has {}, a new one {}",
        count(removed),
        console::seconds(seconds),
        count(before.len()),
        count(after.len())
    ))?;
    console.say(format_args!("   recall over what is left, nprobe {NPROBE}: {recall:.4}"))?;
    record.insert("removed".into(), json!(removed));
    record.insert("recall_after_remove".into(), json!(rounded(recall, 6)));
    Ok(())
}

/// Gives one vector per query the query's own value; the answers from then on.
fn update(
    sample: &Sample<'_>,
    store: &Store,
    console: &Console,
    record: &mut Map<String, Value>,
) -> Result<Vec<Vec<Neighbor>>, Failure> {
    let ids: Vec<u64> = (0..sample.queries.len() as u64).map(|query| 10 * query + 1).collect();
    console.say(format_args!(
        "\n4. Update {} vectors to equal the queries, in place",
        count(ids.len() as u64)
    ))?;
    let start = Instant::now();
    let txn = store.begin_write()?;
    txn.index(INDEX)?.update_vectors(&ids, sample.queries)?;
    txn.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    let reader = store.begin_read()?.index(INDEX)?;
    let found = answers(sample, &reader)?;
    let nearest = found.iter().map(|found| found.first().map(|nearest| (nearest.id, nearest.distance)));
    must(
        nearest.eq(ids.iter().map(|&id| Some((id, 0.0)))),
        "an updated vector must be found where it is now",
    )?;
    console.say(format_args!(
        "   updated in {}; each query now finds its own at distance 0",
        console::seconds(seconds)
    ))?;
    record.insert("updated".into(), json!(ids.len()));
    Ok(found)
}

fn reopen(
    sample: &Sample<'_>,
    builder: Builder,
    path: &Path,
    expected: &[Vec<Neighbor>],
    console: &Console,
    record: &mut Map<String, Value>,
) -> Result<Store, Failure> {
    console.say("\n5. Close and reopen")?;
    let start = Instant::now();
    let store = builder.open(path)?;
    let reader = store.begin_read()?.index(INDEX)?;
    reader.search(sample.queries.row(0), K, &SearchParams::new().nprobe(NPROBE))?;
    let seconds = start.elapsed().as_secs_f64();
    must(answers(sample, &reader)? == expected, "a reopened store must answer as before")?;
    console.say(format_args!(
        "   first answer after {}; all answers are as before",
        console::seconds(seconds)
    ))?;
    record.insert("reopen_seconds".into(), json!(rounded(seconds, 6)));
    Ok(store)
}

fn verify(store: &Store, console: &Console, record: &mut Map<String, Value>) -> Result<(), Failure> {
    console.say("\n6. Verify every checksum and every invariant; compact")?;
    let start = Instant::now();
    let report = console.watch(|observer| store.begin_read()?.verify(INDEX, observer))?;
    let seconds = start.elapsed().as_secs_f64();
    must(report.is_ok(), "a store that only the demo used must be sound")?;
    console.say(format_args!(
        "   {} vectors in {} blocks, no problem, in {}",
        count(report.rows),
        count(report.blocks),
        console::seconds(seconds)
    ))?;
    let compacted = store.compact()?;
    console.say(format_args!(
        "   the file: {}, and {} once compacted",
        console::bytes(compacted.before_bytes),
        console::bytes(compacted.after_bytes)
    ))?;
    record.insert("problems".into(), json!(report.problem_count));
    record.insert("compacted_bytes".into(), json!(compacted.after_bytes));
    Ok(())
}

fn answers(sample: &Sample<'_>, reader: &IndexReader<'_>) -> Result<Vec<Vec<Neighbor>>, Failure> {
    Ok(reader.search_batch(sample.queries, K, &SearchParams::new().nprobe(NPROBE))?)
}

fn must(holds: bool, claim: &str) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::message(format!("{claim}, but this did not hold: please report it")))
    }
}

/// The vectors in the program.
struct Sample<'a> {
    base: Rows<'a>,
    queries: Rows<'a>,
    truth: Vec<u64>,
    /// Exact answers per query.
    depth: usize,
}

fn vectors(npy: &[u8], name: &str) -> Result<(Vec<f32>, usize), Failure> {
    let mut reader = VectorReader::from_source(Cursor::new(npy), Format::Npy, name)?;
    Ok((reader.next_batch(usize::MAX)?.unwrap_or_default(), reader.dim()))
}

fn truth() -> Result<(Vec<u64>, usize), Failure> {
    let mut reader = NumberReader::from_source(Cursor::new(TRUTH), Format::Npy, "the sample's answers")?;
    Ok((reader.next_batch(usize::MAX)?.unwrap_or_default(), reader.columns()))
}

impl Sample<'_> {
    /// The share of the K exact answers among the `kept` vectors that were found.
    fn recall(&self, found: &[Vec<Neighbor>], kept: impl Fn(u64) -> bool) -> f64 {
        let hits = |(found, truth): (&Vec<Neighbor>, &[u64])| {
            let exact: Vec<u64> = truth.iter().copied().filter(|&id| kept(id)).take(K).collect();
            found.iter().filter(|neighbor| exact.contains(&neighbor.id)).count()
        };
        let all: usize = found.iter().zip(self.truth.chunks_exact(self.depth)).map(hits).sum();
        all as f64 / (K * found.len()) as f64
    }
}

/// A folder that goes when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("vellum-demo-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Folder(path)),
            Err(error) => Err(Failure::message(format!("{}: {error}", path.display()))),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What a temporary folder keeps is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}
