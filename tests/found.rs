//! Faults that the random operations and the fuzzers found, each by its name: they must not come back.

#![allow(clippy::unwrap_used)]

use redb::StorageBackend;
use redb::backends::{FileBackend, InMemoryBackend};
use std::fs::OpenOptions;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use vellum::{Error, IdSelector, IndexSpec, Metric, Observer, Rows, SearchParams, Store};

/// A store in memory with an index `a` of ten numbers.
fn ten() -> Store {
    let store = Store::builder().open_backend(|| Ok(InMemoryBackend::new())).unwrap();
    fill(&store);
    store
}

fn fill(store: &Store) {
    let txn = store.begin_write().unwrap();
    txn.create_index("a", &IndexSpec::flat(1, Metric::L2)).unwrap();
    let numbers: Vec<f32> = (0..10).map(|i| i as f32).collect();
    txn.index("a").unwrap().add(Rows::new(&numbers, 1).unwrap()).unwrap();
    txn.commit().unwrap();
}

/// `remove_ids` listed every id of a range: 2^64 of them in memory.
#[test]
fn a_wide_range_can_be_removed() {
    let everything = || IdSelector::range(0..u64::MAX);
    for selector in [everything(), everything().and(everything()), everything().or(IdSelector::batch([3]))] {
        let store = ten();
        let txn = store.begin_write().unwrap();
        assert_eq!(txn.index("a").unwrap().remove_ids(&selector).unwrap(), 10);
    }
}

/// `drop_index` and `rename_index` took the name out of the catalog before they noticed that a writer had
/// the index open; a commit left tables that nobody could reach or create again.
#[test]
fn an_open_index_is_neither_dropped_nor_renamed() {
    let store = ten();
    let txn = store.begin_write().unwrap();
    let writer = txn.index("a").unwrap();
    assert!(matches!(txn.drop_index("a"), Err(Error::InUse { .. })));
    assert!(matches!(txn.rename_index("a", "b"), Err(Error::InUse { .. })));
    assert!(matches!(txn.index("a"), Err(Error::InUse { .. })));
    drop(writer);
    assert_eq!(txn.indexes().unwrap(), ["a"]);
    txn.commit().unwrap();
    let txn = store.begin_read().unwrap();
    assert_eq!(txn.index("a").unwrap().len(), 10);
    assert!(txn.verify("a", &mut Observer::none()).unwrap().is_ok());
}

/// The file was closed under readers when the last handle of the store was dropped.
#[test]
fn a_reader_outlives_its_store() {
    let store = ten();
    let reader = store.begin_read().unwrap().index("a").unwrap();
    drop(store);
    let found = reader.search(&[6.2], 1, &SearchParams::new()).unwrap();
    assert_eq!((found[0].id, reader.reconstruct(3).unwrap()), (6, vec![3.0]));
}

/// `reopen` closed the file under readers and writers of the old handle instead of waiting for them.
#[test]
fn reopening_waits_for_readers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("a.vellum")).unwrap();
    fill(&store);
    let reader = store.begin_read().unwrap().index("a").unwrap();
    assert!(matches!(store.reopen(), Err(Error::Locked)));
    assert!(matches!(store.begin_read(), Err(Error::NeedsReopen)));
    assert_eq!(reader.reconstruct(3).unwrap(), [3.0]);
    drop(reader);
    store.reopen().unwrap();
    assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 10);
}

/// Memory without a lock, whose closing takes until it is allowed to end.
#[derive(Clone, Debug)]
struct SlowToClose {
    memory: Arc<InMemoryBackend>,
    slow: Arc<AtomicBool>,
    begun: Arc<Barrier>,
    may_end: Arc<Barrier>,
}

impl StorageBackend for SlowToClose {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        if self.slow.swap(false, SeqCst) {
            self.begun.wait();
            self.may_end.wait();
        }
        Ok(())
    }
}

/// `reopen` opened a medium without a lock for a second time while the last reader of the old handle was closing it,
/// which writes: whether anybody holds the handle says nothing about that.
#[test]
fn reopening_waits_until_the_old_handle_is_closed() {
    let [begun, may_end] = [(); 2].map(|()| Arc::new(Barrier::new(2)));
    let (memory, slow) = (Arc::new(InMemoryBackend::new()), Arc::default());
    let medium = SlowToClose { memory, slow, begun, may_end };
    let again = medium.clone();
    let store = Store::builder().open_backend(move || Ok(again.clone())).unwrap();
    fill(&store);
    let reader = store.begin_read().unwrap().index("a").unwrap();
    assert!(matches!(store.reopen(), Err(Error::Locked)));
    medium.slow.store(true, SeqCst);
    let closing = thread::spawn(|| drop(reader));
    medium.begun.wait();
    let early = store.reopen();
    medium.may_end.wait();
    closing.join().unwrap();
    assert!(matches!(early, Err(Error::Locked)), "{early:?}");
    store.reopen().unwrap();
    assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 10);
}

/// Locks of a backend were not passed on, so that one file could be opened twice as a backend.
#[test]
fn a_file_as_backend_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    let open = |path: std::path::PathBuf| {
        Store::builder().open_backend(move || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            FileBackend::new(file).map_err(io::Error::other)
        })
    };
    let store = open(path.clone()).unwrap();
    assert!(matches!(open(path.clone()), Err(Error::Locked)));
    assert!(matches!(Store::open(&path), Err(Error::Locked)));
    drop(store);
    open(path).unwrap();
}
