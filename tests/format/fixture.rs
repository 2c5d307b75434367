//! The stored fixture: how it is made, and how a store is compared with what was written down beside it.
//!
//! ```text
//! store.redb     the indexes below, compacted and closed
//! expected.json    of each index: specification, metric, ids, keys, note, a few searches
//! NAME.npy         of each index: what `reconstruct` gives, by ascending id, f32
//! ```

use crate::support::{self, change, create, integers, reader, reals};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use vellum::*;

/// An index of the fixture.
pub(crate) struct Made {
    pub(crate) name: &'static str,
    spec: &'static str,
    metric: Metric,
    dim: usize,
    keys: bool,
    /// Of the ids 0 to 3, how many are there.
    pub(crate) low_ids: u64,
}

const fn made(name: &'static str, spec: &'static str, metric: Metric, dim: usize) -> Made {
    Made { name, spec, metric, dim, keys: false, low_ids: 3 }
}

/// Ascending by name.
pub(crate) const INDEXES: [Made; 5] = [
    made("flat", "Flat", Metric::L2, 8),
    made("nibbles", "IVF6(IVF3)_SOAR,Nibble2,RSQ8+Flat", Metric::InnerProduct, 16),
    made("points", "OPQ4_16,IVF4,PQ4x6", Metric::L2, 16),
    made("shared", "IVF2,FlatDedup", Metric::L2, 2),
    Made { keys: true, ..made("steps", "IVF4,SQ8", Metric::Cosine, 8) },
];
const ROWS: usize = 70;

pub(crate) fn names() -> Vec<String> {
    INDEXES.iter().map(|index| index.name.into()).collect()
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

/// Whole numbers where there are few components: sums are exact, and vectors repeat.
pub(crate) fn data(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    if dim <= 8 || dim == 31 { integers(rows, dim, 9, seed) } else { reals(rows, dim, seed) }
}

pub(crate) fn training() -> TrainParams {
    support::with(|clustering| {
        clustering.niter = 4;
        clustering.seed = 5;
    })
}

pub(crate) fn make() {
    let folder = folder();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("store.redb");
    let store = Store::create(&path).unwrap();
    INDEXES.iter().for_each(|index| fill(&store, index));
    store.compact().unwrap();
    let mut expected = serde_json::Map::new();
    for index in &INDEXES {
        let reader = reader(&store, index.name);
        expected.insert(index.name.into(), describe(&reader));
        let vectors = reader.reconstruct_batch(&reader.ids().unwrap()).unwrap();
        write_npy(&folder.join(format!("{}.npy", index.name)), &vectors, reader.dim());
    }
    let text = serde_json::to_string_pretty(&Value::Object(expected)).unwrap();
    std::fs::write(folder.join("expected.json"), compact(&text) + "\n").unwrap();
    drop(store);
    let bytes: u64 =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("{}: {bytes} bytes", folder.display());
}

/// Every kind of change, so that rows were freed, moved and used again, and centroids are of a second training.
fn fill(store: &Store, index: &Made) {
    let spec = support::spec(index.spec, index.dim, index.metric).with_keys(index.keys).with_block_order(0);
    create(store, index.name, &spec);
    let rows = data(ROWS, index.dim, 3);
    let rows = Rows::new(&rows, index.dim).unwrap();
    change(store, index.name, |writer| match index.keys {
        true => {
            let keys: Vec<String> = (0..ROWS).map(|i| format!("key {i}")).collect();
            writer.add_with_keys(&keys, rows).unwrap();
        }
        false => {
            writer.add(rows).unwrap();
        }
    });
    if spec.nlist().is_some() {
        (0..2).for_each(|_| {
            change(store, index.name, |w| w.train_stored(&training(), &mut Observer::none()).unwrap());
        });
    }
    change(store, index.name, |writer| {
        writer.remove_ids(&IdSelector::callback(|id| id % 5 == 2)).unwrap();
        let more = data(6, index.dim, 4);
        let more = Rows::new(&more, index.dim).unwrap();
        if !index.keys {
            writer.upsert(&[1, 4, 400, 401, 1 << 40, (1 << 40) + 1], more).unwrap();
        }
        writer.set_note(format!("note of {}", index.name).as_bytes()).unwrap();
    });
}

fn describe(reader: &IndexReader<'_>) -> Value {
    let ids = reader.ids().unwrap();
    let keys: Vec<Option<String>> =
        ids.iter().map(|id| reader.key(*id).unwrap().map(|key| String::from_utf8(key).unwrap())).collect();
    let searches: Vec<Value> = [(5, 1), (9, 2), (ROWS, usize::MAX)]
        .into_iter()
        .map(|(k, nprobe)| {
            let query = data(1, reader.dim(), 70 + k as u64);
            let found = reader.search(&query, k, &SearchParams::new().nprobe(nprobe)).unwrap();
            let found: Vec<Value> = found.iter().map(|n| json!([n.id, n.distance])).collect();
            json!({ "query": query, "k": k, "nprobe": nprobe.min(1000), "found": found })
        })
        .collect();
    json!({
        "spec": reader.spec().to_string(),
        "metric": reader.metric().to_string(),
        "dim": reader.dim(),
        "ids": ids,
        "keys": keys,
        "note": String::from_utf8(reader.note().unwrap().unwrap()).unwrap(),
        "searches": searches,
    })
}

/// What is wrong with an index, beside what was written down.
pub(crate) fn compare(store: &Store, name: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let (expected, reader) = (&expected[name], reader(store, name));
    let found = describe(&reader);
    let same = |what: &str| match expected[what] == found[what] {
        true => Ok(()),
        false => Err(format!("{name}: {what} {}, expected {}", found[what], expected[what])),
    };
    ["spec", "metric", "dim", "ids", "keys", "note"].into_iter().try_for_each(same)?;
    let (mine, theirs) = (found["searches"].as_array().unwrap(), expected["searches"].as_array().unwrap());
    mine.iter().zip(theirs).try_for_each(|(a, b)| same_answers(name, a, b))?;
    let vectors = reader.reconstruct_batch(&reader.ids().unwrap()).unwrap();
    let stored = read_npy(&folder().join(format!("{name}.npy")));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
    match vectors.len() == stored.len() && vectors.iter().zip(&stored).all(near) {
        true => Ok(()),
        false => Err(format!("{name}: other vectors")),
    }
}

/// The same ids, and distances as near as sums in another order are.
fn same_answers(name: &str, a: &Value, b: &Value) -> Result<(), String> {
    let pairs = |search: &Value| -> Vec<(u64, f64)> {
        let pair = |found: &Value| (found[0].as_u64().unwrap(), found[1].as_f64().unwrap());
        search["found"].as_array().unwrap().iter().map(pair).collect()
    };
    let (a, b) = (pairs(a), pairs(b));
    let near =
        |((a, x), (b, y)): (&(u64, f64), &(u64, f64))| a == b && (x - y).abs() <= 1e-4 * (1.0 + y.abs());
    match !a.is_empty() && a.len() == b.len() && a.iter().zip(&b).all(near) {
        true => Ok(()),
        false => Err(format!("{name}: found {a:?}, expected {b:?}")),
    }
}

/// Arrays of numbers on one line.
fn compact(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let bare = line.trim_start();
        let joins = bare.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == ']' || c == ',')
            || bare.starts_with("null");
        let opens = out.ends_with('[') && !bare.starts_with('{');
        if joins || opens {
            out.push_str(if out.ends_with('[') || bare.starts_with(']') { "" } else { " " });
            out.push_str(bare);
        } else {
            out.push_str(if out.is_empty() { "" } else { "\n" });
            out.push_str(line);
        }
    }
    out
}

fn write_npy(path: &Path, values: &[f32], dim: usize) {
    let mut head =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dim}), }}", values.len() / dim);
    while !(10 + head.len() + 1).is_multiple_of(64) {
        head.push(' ');
    }
    head.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((head.len() as u16).to_le_bytes());
    bytes.extend(head.bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[head..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
