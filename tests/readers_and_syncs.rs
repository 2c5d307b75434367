//! No reader waits for the writer's sync.
//!
//! It breaks where a lock is held over a commit that beginning to read, opening an index, pinning a list or dropping a
//! reader takes as well. A disk may take a second for one sync, so nothing here measures time: the medium lets a sync
//! begin and does not let it end, and meanwhile readers do all that readers do. They finish, or somebody waits for ever:
//! then a watchdog ends the test.

#![allow(clippy::unwrap_used, clippy::panic)]

use redb::backends::InMemoryBackend;
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::{Bound, RangeInclusive};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;
use vellum::*;

const DIM: usize = 8;
const READERS: usize = 3;

/// Until somebody who should have finished is taken to wait for ever.
const WATCHDOG: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct State {
    /// Syncs do not end.
    closed: bool,
    syncing: usize,
    /// Readers that are done, and such as wait for a sync to end, which only the planted fault makes them.
    done: usize,
    waiting: usize,
    reads: usize,
}

/// A medium whose syncs end when they are told to.
#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    inner: InMemoryBackend,
    /// Reads wait for syncs: a fault that must be noticed.
    planted: bool,
}

#[derive(Clone, Debug)]
struct Gated(Arc<Gate>);

impl Gate {
    fn new(planted: bool) -> Arc<Self> {
        let (state, changed) = Default::default();
        Arc::new(Gate { state, changed, inner: InMemoryBackend::new(), planted })
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let out = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        out
    }

    /// Waits until `holds`; false if that takes for ever.
    fn wait(&self, holds: impl Fn(&State) -> bool) -> bool {
        let state = self.state.lock().unwrap();
        let (_state, waited) =
            self.changed.wait_timeout_while(state, WATCHDOG, |state| !holds(state)).unwrap();
        !waited.timed_out()
    }
}

impl StorageBackend for Gated {
    fn len(&self) -> io::Result<u64> {
        self.0.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let gate = &self.0;
        gate.change(|state| state.reads += 1);
        if gate.planted && gate.change(|state| state.syncing > 0) {
            gate.change(|state| state.waiting += 1);
            gate.wait(|state| state.syncing == 0);
        }
        gate.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.change(|state| state.syncing += 1);
        let ends = self.0.wait(|state| !state.closed);
        self.0.change(|state| state.syncing -= 1);
        assert!(ends, "nobody let the sync end");
        self.0.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

fn data(rows: usize, seed: usize) -> Vec<f32> {
    (0..rows * DIM).map(|i| ((i * 31 + seed * 17) % 23) as f32).collect()
}

fn add(store: &Store, seed: usize) {
    let txn = store.begin_write().unwrap();
    txn.index("i").unwrap().add(Rows::new(&data(100, seed), DIM).unwrap()).unwrap();
    txn.commit().unwrap();
}

/// All that readers do; the newest state has `rows` vectors or, where a planted wait lets it pass by, more.
fn read_all(store: &Store, held: &IndexReader<'_>, rows: RangeInclusive<u64>) {
    let everything = SearchParams::new().nprobe(usize::MAX);
    for _ in 0..3 {
        let txn = store.begin_read().unwrap();
        assert_eq!(txn.indexes().unwrap(), ["i"]);
        let reader = txn.index("i").unwrap();
        for reader in [&reader, held] {
            assert!(rows.contains(&reader.len()), "{} rows", reader.len());
            let query = &data(1, 5);
            assert_eq!(reader.search(query, 1, &everything).unwrap()[0].distance, 0.0);
            assert_eq!(
                reader.search_batch(Rows::new(&data(4, 1), DIM).unwrap(), 9, &everything).unwrap().len(),
                4
            );
            assert!(!reader.range_search(query, 9.0, &everything).unwrap().is_empty());
            assert_eq!(reader.ids().unwrap().len() as u64, reader.len());
            assert_eq!(reader.reconstruct(7).unwrap().len(), DIM);
        }
        assert!(txn.verify("i", &mut Observer::none()).unwrap().is_ok());
        assert!(store.stats().pinned_bytes <= store.stats().cache_bytes);
    }
}

/// Readers beside a commit whose sync does not end; an error if one of them waited.
fn beside_a_sync(cache_bytes: usize, planted: bool) -> Result<(), String> {
    let gate = Gate::new(planted);
    let medium = Gated(gate.clone());
    let store = Store::builder().cache_bytes(cache_bytes).open_backend(move || Ok(medium.clone())).unwrap();
    let txn = store.begin_write().unwrap();
    txn.create_index("i", &IndexSpec::ivf(DIM, Metric::L2, 4).with_block_order(0)).unwrap();
    let mut writer = txn.index("i").unwrap();
    writer
        .train(Rows::new(&data(100, 3), DIM).unwrap(), &TrainParams::default(), &mut Observer::none())
        .unwrap();
    drop(writer);
    txn.commit().unwrap();
    (0..3).for_each(|seed| add(&store, seed));
    add(&store, 5);
    let held = store.begin_read().unwrap().index("i").unwrap();

    gate.change(|state| state.closed = true);
    let outcome = thread::scope(|scope| {
        scope.spawn(|| add(&store, 9));
        assert!(gate.wait(|state| state.syncing > 0), "the commit came to no sync");
        for _ in 0..READERS {
            scope.spawn(|| {
                read_all(&store, &held, 400..=if planted { 500 } else { 400 });
                gate.change(|state| state.done += 1);
            });
        }
        let ended = gate.wait(|state| state.done == READERS || state.waiting > 0);
        // All of that while the sync went on; now it may end.
        gate.change(|state| {
            state.closed = false;
            match (ended, state.waiting, state.syncing) {
                (true, 0, 1..) => Ok(()),
                (_, waiting, _) => Err(format!("{} of {READERS} readers done, {waiting} wait", state.done)),
            }
        })
    });
    outcome?;
    assert_eq!(held.len(), 400);
    read_all(&store, &store.begin_read().unwrap().index("i").unwrap(), 500..=500);
    // Without memory of its own every search had to ask the medium.
    assert!(cache_bytes > 0 || gate.change(|state| state.reads) > 100);
    Ok(())
}

#[test]
fn no_reader_waits_for_a_sync() {
    for cache_bytes in [0, 40_000, 64 << 20] {
        beside_a_sync(cache_bytes, false).unwrap();
    }
}

/// The test has teeth: a medium that lets reads wait for syncs is noticed.
#[test]
fn a_planted_wait_is_noticed() {
    assert!(beside_a_sync(0, true).is_err());
}
