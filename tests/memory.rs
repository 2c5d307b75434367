//! An index that is four times larger than the memory there is. The worry is that some verb needs more than the setting
//! `cache_bytes` and what its doc says on top: that a search or `verify` reads the whole index into memory, that pins and redb's cache
//! outgrow their budget, that a bulk load keeps what it has written.
//!
//! Each verb runs in a process of its own whose address space is limited to a quarter of the index (`ulimit -v`), so that what is
//! too much is refused by the system. It also says how much more it had mapped at its peak than at its beginning.
//!
//! `VELLUM_MEMORY_ROWS` (60,000 of 4 KiB) makes the index larger; the limit grows with it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod campaign;
#[path = "campaign/process.rs"]
mod process;
mod support;

use campaign::number;
use process::{Task, given, say, task};
use std::fs;
use std::path::{Path, PathBuf};
use support::{everywhere, rows, spec};
use vellum::*;

const DIM: usize = 1024;
const CACHE: usize = 16 << 20;
const LOAD: usize = 1 << 20;
/// The threads' stacks, and what a thread of a search or of a load works on.
const WORK: u64 = 12 << 20;

/// Row `n`: only one component says which, so that it is quickly made.
fn fill(n: u64, row: &mut [f32]) {
    row.iter_mut().enumerate().for_each(|(i, x)| *x = ((n as usize + i) % 7) as f32);
    row[0] = n as f32;
}

fn open(path: &Path) -> Store {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    Store::builder()
        .cache_bytes(CACHE)
        .load_bytes(LOAD)
        .thread_pool(std::sync::Arc::new(pool))
        .open_or_create(path)
        .unwrap()
}

fn build(path: &Path, n: u64) {
    let store = open(path);
    support::create(&store, "i", &spec("Flat", DIM, Metric::L2));
    let mut load = store.bulk_load("i").unwrap();
    let mut batch = vec![0.0; 64 * DIM];
    for first in (0..n).step_by(64) {
        let count = (n - first).min(64) as usize;
        batch.chunks_mut(DIM).zip(first..n).for_each(|(row, n)| fill(n, row));
        load.add(rows(&batch[..count * DIM], DIM)).unwrap();
    }
    load.finish().unwrap();
}

fn search(path: &Path, n: u64) {
    let store = open(path);
    let reader = store.begin_read().unwrap().index("i").unwrap();
    let mut query = vec![0.0; DIM];
    for wanted in [0, n / 2, n - 1] {
        fill(wanted, &mut query);
        let found = reader.search(&query, 3, &everywhere()).unwrap();
        assert_eq!((found[0].id, found[0].distance), (wanted, 0.0));
        assert_eq!(reader.reconstruct(wanted).unwrap(), query);
    }
    assert!(store.stats().pinned_bytes <= CACHE as u64);
}

fn verify(path: &Path, n: u64) {
    let store = open(path);
    let report = store.begin_read().unwrap().verify("i", &mut Observer::none()).unwrap();
    assert!(report.is_ok() && report.rows == n, "{report:?}");
}

/// The planted fault: all vectors at once.
fn hoard(path: &Path, n: u64) {
    let reader = open(path).begin_read().unwrap().index("i").unwrap();
    assert_eq!(reader.reconstruct_n(0..n).unwrap().len() as u64, n);
}

/// A line of /proc/self/status, in bytes.
fn mapped(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    1024 * value.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap()
}

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let (path, n) = (PathBuf::from(given("PATH")), given("ROWS").parse().unwrap());
    let before = mapped("VmSize:");
    match task().as_str() {
        "build" => build(&path, n),
        "search" => search(&path, n),
        "verify" => verify(&path, n),
        "hoard" => hoard(&path, n),
        other => panic!("{other}"),
    }
    say(mapped("VmPeak:") - before);
}

/// Runs one verb within a quarter of the index; the most it had mapped beyond its beginning.
fn within_a_quarter(verb: &str, path: &Path, n: u64) -> Result<u64, String> {
    let limit = n * 4 * DIM as u64 / 4;
    let task = Task::new(verb).give_path("PATH", path).give("ROWS", n);
    // An arena of the allocator's per thread takes 64 MiB of address space, whatever is in it.
    let task = task.env("MALLOC_ARENA_MAX", "1").after(&format!("ulimit -v {}", limit / 1024));
    Ok(task.answer()?.parse().unwrap())
}

#[test]
fn a_quarter_of_the_index_is_memory_enough() {
    let n = number("VELLUM_MEMORY_ROWS").unwrap_or(60_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let outcome = campaign::run_exactly("memory", 3, |case, _| {
        let verb = ["build", "search", "verify"][case as usize];
        let peak = within_a_quarter(verb, &path, n)?;
        println!("memory: {verb} of {} MiB: {:.1} MiB", (n * 4 * DIM as u64) >> 20, peak as f64 / 1048576.0);
        let work = if verb == "build" { WORK + 3 * LOAD as u64 } else { WORK };
        let allowed = CACHE as u64 * 11 / 10 + work;
        if peak <= allowed { Ok(()) } else { Err(format!("{verb} took {peak} bytes, {allowed} are allowed")) }
    });
    outcome.expect_clean();

    // The limit is one: whoever takes all vectors at once does not survive it.
    campaign::run_exactly("memory, planted", 1, |_, _| within_a_quarter("hoard", &path, n).map(|_| ()))
        .expect_caught();
}
