//! Pages that commits free wait for the readers of their states; the snapshots that a store keeps for its next readers
//! are such readers. It breaks where one of them is kept beyond [`SNAPSHOT_AGE_MAX`].
//!
//! Every commit here rewrites a tenth of the rows and so frees `W` pages, which `W` is measured under a reader that is held:
//! under it each commit adds as many. Without any reader the store takes `Q` pages at most. What is kept for `k` commits may keep the
//! pages that these have freed, and those of the commit that lets go of it: Q + (k + 1) W, however many commits there are.

use super::*;
use crate::{IndexSpec, IndexWriter, Metric, Rows, SearchParams};
use redb::backends::InMemoryBackend;

const DIM: usize = 32;
const ROWS: u64 = 1000;
const CHANGED: u64 = 100;
const COMMITS: u64 = 40;
/// After which `Q` and `W` no longer move.
const WARM: u64 = 10;

/// Who reads the index, which is changed by whom.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    None,
    /// One, which is held.
    Held,
    /// One, before all commits; what it leaves to the next becomes too old after so many of them.
    Kept(u64),
}

/// An index in a database, and the store on it.
struct Growing {
    store: Store,
    /// Commits are the application's.
    attached: Option<Arc<redb::Database>>,
}

impl Growing {
    fn new(attached: bool) -> Self {
        let database = || redb::Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let attached = attached.then(|| Arc::new(database()));
        let store = match &attached {
            Some(db) => Store::builder().attach(db.clone()).unwrap(),
            None => Store::builder().open_backend(|| Ok(InMemoryBackend::new())).unwrap(),
        };
        let txn = store.begin_write().unwrap();
        txn.create_index("a", &IndexSpec::flat(DIM, Metric::L2)).unwrap();
        let rows = vec![1.0; ROWS as usize * DIM];
        txn.index("a").unwrap().add(Rows::new(&rows, DIM).unwrap()).unwrap();
        txn.commit().unwrap();
        let growing = Growing { store, attached };
        (0..WARM).for_each(|round| growing.change(round));
        growing
    }

    /// Changes a tenth of the rows.
    fn change(&self, round: u64) {
        let ids: Vec<u64> = (0..CHANGED).map(|i| i * (ROWS / CHANGED) + round % (ROWS / CHANGED)).collect();
        let rows = vec![round as f32; ids.len() * DIM];
        let rows = Rows::new(&rows, DIM).unwrap();
        match &self.attached {
            Some(db) => {
                let txn = db.begin_write().unwrap();
                IndexWriter::open(&txn, "a").unwrap().update_vectors(&ids, rows).unwrap();
                txn.commit().unwrap();
            }
            None => {
                let txn = self.store.begin_write().unwrap();
                txn.index("a").unwrap().update_vectors(&ids, rows).unwrap();
                txn.commit().unwrap();
            }
        }
    }

    fn read(&self) -> IndexReader<'static> {
        let reader = self.store.begin_read().unwrap().index("a").unwrap();
        reader.search(&[0.0; DIM], 1, &SearchParams::new()).unwrap();
        reader
    }

    /// Makes what is kept for the next reader as old as it may become.
    fn grow_old(&self) {
        for cached in self.store.inner.snapshots.lock().values_mut() {
            if let Some(snapshot) = cached.snapshot.as_mut().and_then(Arc::get_mut) {
                snapshot.born = snapshot.born.checked_sub(SNAPSHOT_AGE_MAX).unwrap();
            }
        }
    }

    fn pages(&self) -> u64 {
        let txn = self.store.inner.database().unwrap().begin_write().unwrap();
        let pages = txn.stats().unwrap().allocated_pages();
        txn.abort().unwrap();
        pages
    }
}

/// Pages after each commit.
fn pages(attached: bool, readers: Readers) -> Vec<u64> {
    let growing = Growing::new(attached);
    let held = (readers == Readers::Held).then(|| growing.read());
    let mut pages = Vec::new();
    if matches!(readers, Readers::Kept(_)) {
        growing.read();
    }
    for round in 0..COMMITS {
        if readers == Readers::Kept(round) {
            growing.grow_old();
        }
        // Somebody begins to read, perhaps another index.
        growing.store.begin_read().unwrap();
        growing.change(WARM + round);
        pages.push(growing.pages());
    }
    drop(held);
    pages
}

/// `Q` and `W`.
fn measured(attached: bool) -> (u64, u64) {
    let quiet = pages(attached, Readers::None).into_iter().max().unwrap();
    let held = pages(attached, Readers::Held);
    let (half, end) = (held[COMMITS as usize / 2 - 1], held[COMMITS as usize - 1]);
    let commit = (end - half) / (COMMITS / 2);
    // At the least what it writes, in pages of 4 KiB: or this measures nothing.
    assert!(commit > CHANGED * DIM as u64 * 4 / 4096, "{commit} pages a commit");
    assert!(end > quiet + COMMITS * commit / 2, "{end} pages under a reader that is held, {quiet} without");
    (quiet, commit)
}

fn at_most(attached: bool) {
    let (quiet, commit) = measured(attached);
    for commits in [1, 4, 10] {
        let most = pages(attached, Readers::Kept(commits)).into_iter().max().unwrap();
        let limit = quiet + (commits + 1) * commit;
        assert!(
            most <= limit,
            "{most} pages, {limit} allowed: {quiet} and {commit} for each of {commits} commits"
        );
    }
}

#[test]
fn nothing_grows_under_snapshots_that_are_too_old() {
    at_most(false);
}

/// Of the application's own commits a store was not told, and kept what was read last for ever.
#[test]
fn an_attached_store_lets_go_when_somebody_begins_to_read() {
    at_most(true);
}

/// As [`Builder::attach`] says.
#[test]
fn an_attached_store_that_nobody_reads_keeps_what_was_read_last() {
    let (quiet, commit) = measured(true);
    let growing = Growing::new(true);
    growing.read();
    growing.grow_old();
    (0..COMMITS).for_each(|round| growing.change(WARM + round));
    assert!(growing.pages() > quiet + COMMITS * commit / 2);
    growing.store.begin_read().unwrap();
    // redb uses what is free again with the commits after.
    (0..2).for_each(|round| growing.change(WARM + round));
    assert!(growing.pages() <= quiet + 2 * commit, "{} pages", growing.pages());
}
