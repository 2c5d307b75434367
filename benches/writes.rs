//! Durable writes: rows per second and bytes written for commits of 1, 100 and 10,000 rows, beside the
//! machine's own fdatasync; then removal of a tenth of the rows and compaction.
//!
//! ```text
//! cargo bench --features files --bench writes -- BASE.npy [NLIST] [FOLDER]
//! ```
//! Without arguments it runs on the sample in `tests/data`. The store is made in FOLDER, or else in a
//! temporary one; mind what disk that is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use vellum::files::VectorReader;
use vellum::{IdSelector, IndexSpec, Metric, Observer, Rows, Store, TrainParams};

/// Bytes and syncs that went to the file.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Debug)]
struct Counting(FileBackend, Arc<Counts>);

impl StorageBackend for Counting {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Relaxed);
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.bytes.fetch_add(data.len() as u64, Relaxed);
        self.0.write(offset, data)
    }
}

fn main() {
    // `cargo bench` passes `--bench` before ours.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sift-10k.base.npy");
    let base = args.first().map_or(sample, PathBuf::from);
    let nlist = args.get(1).map_or(128, |n| n.parse().expect("NLIST is a number"));
    let temporary = tempfile::tempdir().unwrap();
    let folder = args.get(2).map_or(temporary.path().to_path_buf(), PathBuf::from);

    let mut reader = VectorReader::open(&base).expect("BASE is a file of vectors");
    let (dim, all) = (reader.dim(), reader.rows() as usize);
    let data = reader.next_batch(usize::MAX).unwrap().expect("BASE holds vectors");
    let rows = Rows::new(&data, dim).unwrap();
    println!("{all} rows of {dim} components, {nlist} lists");
    println!("fdatasync of 4 KiB appended: {:.0} a second", fdatasync_rate(&folder));

    println!("| rows a commit | quick repair | rows/s | commits/s | bytes written a row | syncs a commit |");
    println!("|---|---|---|---|---|---|");
    for (size, commits) in [(1, 300), (100, 100), (10_000, 5)] {
        for quick_repair in [true, false] {
            commits_of(&folder, rows, nlist, size, commits, quick_repair);
        }
    }
    removal(&folder, rows, nlist);
}

fn fdatasync_rate(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("fdatasync")).unwrap();
    let start = Instant::now();
    let rounds = 300;
    for _ in 0..rounds {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    f64::from(rounds) / start.elapsed().as_secs_f64()
}

/// A store with half of `rows` in a trained index, and what counts its writes.
fn half_full(path: &Path, rows: Rows<'_>, nlist: usize, quick_repair: bool) -> (Store, Arc<Counts>) {
    let _ = std::fs::remove_file(path);
    let counts = Arc::new(Counts::default());
    let (path, shared) = (path.to_path_buf(), counts.clone());
    let open = move || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let backend = FileBackend::new(file).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Counting(backend, shared.clone()))
    };
    let store = Store::builder().quick_repair(quick_repair).open_backend(open).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &IndexSpec::ivf(rows.dim(), Metric::L2, nlist)).unwrap();
    let mut index = txn.index("i").unwrap();
    index.train(rows, &TrainParams::default(), &mut Observer::none()).unwrap();
    index.add(rows.slice(0..rows.len() / 2)).unwrap();
    drop(index);
    txn.commit().unwrap();
    (store, counts)
}

fn commits_of(folder: &Path, rows: Rows<'_>, nlist: usize, size: usize, commits: usize, quick_repair: bool) {
    let (store, counts) = half_full(&folder.join("writes.vellum"), rows, nlist, quick_repair);
    let (bytes, syncs) = (counts.bytes.load(Relaxed), counts.syncs.load(Relaxed));
    let start = Instant::now();
    let mut done = 0;
    for commit in 0..commits {
        let first = (rows.len() / 2 + commit * size) % rows.len();
        let batch = rows.slice(first..rows.len().min(first + size));
        let txn = store.begin_write().unwrap();
        txn.index("i").unwrap().add(batch).unwrap();
        txn.commit().unwrap();
        done += batch.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    let (bytes, syncs) = (counts.bytes.load(Relaxed) - bytes, counts.syncs.load(Relaxed) - syncs);
    println!(
        "| {size} | {} | {:.0} | {:.0} | {:.0} | {:.1} |",
        if quick_repair { "on" } else { "off" },
        done as f64 / seconds,
        commits as f64 / seconds,
        bytes as f64 / done as f64,
        syncs as f64 / commits as f64,
    );
}

fn removal(folder: &Path, rows: Rows<'_>, nlist: usize) {
    let path = folder.join("removal.vellum");
    let _ = std::fs::remove_file(&path);
    let store = Store::create(&path).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &IndexSpec::ivf(rows.dim(), Metric::L2, nlist)).unwrap();
    txn.index("i").unwrap().train(rows, &TrainParams::default(), &mut Observer::none()).unwrap();
    txn.commit().unwrap();
    let mut load = store.bulk_load("i").unwrap();
    load.add(rows).unwrap();
    load.finish().unwrap();
    store.compact().unwrap();
    let size = || store.stats().file_bytes as f64 / 1e6;
    let full = size();

    // A tenth of the ids, scattered by a multiplicative hash.
    let gone =
        (0..rows.len() as u64).filter(|id| id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 < (1 << 32) / 10);
    let start = Instant::now();
    let txn = store.begin_write().unwrap();
    let removed = txn.index("i").unwrap().remove_ids(&IdSelector::batch(gone)).unwrap();
    txn.commit().unwrap();
    let (remove_s, after_removal) = (start.elapsed().as_secs_f64(), size());
    let start = Instant::now();
    store.compact().unwrap();
    println!(
        "removed {removed} rows at random in one transaction in {remove_s:.2} s, then compacted in {:.2} s; \
         file: {full:.1} MB full, {after_removal:.1} MB after the removal, {:.1} MB compacted",
        start.elapsed().as_secs_f64(),
        size(),
    );
}
