//! The store: a redb database with vellum's indexes in it, the snapshot cache, and the settings.
//!
//! Nothing on disk lives outside redb, and a commit is redb's commit. What a [`Store`] holds in memory
//! (models, snapshots, pins) is a cache of committed tables and can be dropped at any time.

mod backup;
mod builder;
mod bulk;
mod compare;
mod handle;
mod pages;
mod salvage;
mod space;
mod txn;
mod withheld;

pub use backup::BackupReport;
pub use builder::{Builder, Durability};
pub use bulk::BulkLoad;
pub use compare::CompareReport;
pub use salvage::{SalvageReport, SalvagedIndex};
pub use space::StoreSpace;
pub use txn::{ReadTxn, WriteTxn};

use crate::coarse::{Quantizer, Quantizers};
use crate::guard::{Quiet, guarded};
use crate::index::IndexReader;
use crate::index::model::Model;
use crate::storage::changes::{ChangeLog, Changes, Touched};
use crate::storage::format::Header;
use crate::storage::pins::Budget;
use crate::storage::snapshot::{Older, Remains, SNAPSHOT_AGE_MAX, Snapshot};
use crate::storage::{self, BytesTable, Tables};
use crate::sync::{AtomicU64, Ordering::SeqCst, is_old, planted};
use crate::{Error, MergeProgress, Observer, Result};
use builder::{Settings, Source};
pub(crate) use handle::Handle;
use handle::Open;
use parking_lot::{Mutex, RwLock};
use redb::ReadTransaction;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// An open store: many readers, one writer at a time. Cloning gives another handle to the same store;
/// the file is closed when the last handle, transaction and reader is dropped.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// `None` while the store could not be reopened.
    db: RwLock<Option<Arc<Handle>>>,
    /// The handle that reopening gave up: readers and writers may still hold it, or be closing it.
    given_up: Mutex<Weak<Open>>,
    source: Source,
    pub(crate) settings: Settings,
    budget: Arc<Budget>,
    /// The model of each index that was read last. A version is drawn at random by the training that made
    /// the model, so one that was never committed can do no harm here. Dropped indexes have none.
    models: Mutex<HashMap<[u8; 16], Arc<Model>>>,
    snapshots: Mutex<HashMap<[u8; 16], Cached>>,
    changes: Mutex<ChangeLog>,
    /// Of the caller's own.
    quantizers: RwLock<Quantizers>,
    /// Commits made through this store.
    commits: AtomicU64,
}

/// When a read transaction began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    at: Instant,
    /// The commits made through the store before it.
    commits: u64,
}

impl Began {
    fn now(store: &Inner) -> Self {
        Began { at: Instant::now(), commits: store.commits() }
    }
}

/// The newest snapshot of an index.
struct Cached {
    /// None once it was too old to hold its transaction any longer.
    snapshot: Option<Arc<Snapshot>>,
    remains: Arc<Remains>,
    model: Arc<Model>,
    /// The store's commits when the snapshot's transaction began.
    commits: u64,
    /// Somebody asked for it, not only the commit that made it.
    asked: bool,
}

/// What compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// The file's size before, in bytes; 0 where the store is no file.
    pub before_bytes: u64,
    /// And after.
    pub after_bytes: u64,
}

impl CompactReport {
    /// Bytes given back to the file system; 0 if the file was as small as it gets.
    pub fn freed_bytes(&self) -> u64 {
        self.before_bytes.saturating_sub(self.after_bytes)
    }
}

/// Sizes of a store that cost nothing to ask for; [`Store::space`] tells what is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Size of the file in bytes; 0 where the store is no file.
    pub file_bytes: u64,
    /// Bytes of lists and column pages pinned in memory now.
    pub pinned_bytes: u64,
    /// The setting that bounds pins and redb's cache together.
    pub cache_bytes: u64,
}

impl Store {
    /// Makes a new store in a new file. The file gets its name only when it is a whole store: a process that is
    /// killed in between leaves a file `{path}.{16 digits}.partial`, which may be deleted.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a file already.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().create(path)
    }

    /// Opens the store in a file. Costs the same however many vectors it holds; models and blocks are
    /// read when they are first needed. A file that cannot be opened as a store is left as it was, to the byte.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] for what is no store: an empty file, a directory, a file of another
    /// program, another database; [`Error::NewerVersion`]; [`Error::Locked`] while it is open elsewhere;
    /// [`Error::Corrupt`] for a store that is damaged or cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Settings first.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Begins to read: a frozen state of the whole store.
    pub fn begin_read(&self) -> Result<ReadTxn> {
        ReadTxn::begin(&self.inner)
    }

    /// Begins to write; waits until no other writer is active.
    pub fn begin_write(&self) -> Result<WriteTxn> {
        WriteTxn::new(self.inner.clone(), self.inner.settings.durability, self.inner.settings.quick_repair)
    }

    /// Makes everything committed so far durable; only needed after commits with [`Durability::None`].
    pub fn flush(&self) -> Result<()> {
        WriteTxn::new(self.inner.clone(), Durability::Immediate, self.inner.settings.quick_repair)?.commit()
    }

    /// Gives free space back to the file system by moving what stands behind it. Indexes of which more than a fifth
    /// of the row numbers are free are renumbered first, each in a commit of its own: see
    /// [`IndexWriter::renumber`](crate::IndexWriter::renumber).
    ///
    /// A file does not become smaller by itself as vectors come and go, and redb doubles it when it needs room. This is the
    /// one call that keeps it small: [`space`](Self::space) tells when it is worth it.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = vellum::Store::create(folder.path().join("s.vellum"))?;
    /// let space = store.space()?;
    /// if 2 * space.file_bytes > 3 * space.live_bytes {
    ///     store.compact()?;
    /// }
    /// # Ok::<(), vellum::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InUse`] while any reader or writer is active; [`Error::Unsupported`] for an attached
    /// database that the application also holds.
    pub fn compact(&self) -> Result<CompactReport> {
        self.compact_with(&mut Observer::none())
    }

    /// The same, ticking as `"renumber"`, in indexes, and as `"compact"`, which is one step of redb's: until it begins
    /// this can be cancelled, and indexes renumbered by then stay so.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn compact_with(&self, observer: &mut Observer<'_>) -> Result<CompactReport> {
        let inner = &self.inner;
        let before_bytes = inner.file_bytes();
        // Whoever is refused below is refused before anything is written.
        inner.alone(|_| Ok(()))?;
        inner.database()?.check_before_writing()?;
        self.renumber_sparse(observer)?;
        observer.tick("compact", 0, 1)?;
        inner.alone(|db| {
            guarded(|| {
                db.compact().map_err(|e| match e {
                    redb::CompactionError::TransactionInProgress => Error::InUse { what: "compact" },
                    e => e.into(),
                })
            })
        })?;
        // Done: there is nothing left to cancel.
        let _ = observer.tick("compact", 1, 1);
        Ok(CompactReport { before_bytes, after_bytes: inner.file_bytes() })
    }

    /// Renumbers the indexes that have many free row numbers. Ticks in indexes.
    fn renumber_sparse(&self, observer: &mut Observer<'_>) -> Result<()> {
        let sparse = self.begin_read()?.sparse_indexes()?;
        for (done, name) in sparse.iter().enumerate() {
            let mut each = |_| match observer.tick("renumber", done as u64, sparse.len() as u64) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let txn = self.begin_write()?;
            let moved = txn.index(name).and_then(|mut index| index.renumber(&mut Observer::new(&mut each)));
            match moved {
                Ok(_) => txn.commit()?,
                // Half made or damaged: that is for others to say and to mend, and hinders no compaction.
                Err(Error::Unfinished { .. } | Error::WriterLeftOpen { .. } | Error::Corrupt { .. }) => {
                    txn.abort()?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Opens the file or backend again, after an I/O error latched the handle ([`Error::NeedsReopen`]).
    /// Readers that are still held keep the old handle, and the file's lock with it.
    ///
    /// # Errors
    /// [`Error::Locked`] while readers or writers of the old handle live; then drop them and call again.
    /// [`Error::Unsupported`] for an attached database: reopen it and attach it again.
    pub fn reopen(&self) -> Result<()> {
        let inner = &self.inner;
        if matches!(inner.source, Source::Attached) {
            return Err(Error::Unsupported { what: "reopening an attached database" });
        }
        let mut db = inner.db.write();
        inner.forget();
        let mut given_up = inner.given_up.lock();
        if let Some(old) = db.take() {
            *given_up = old.open();
        }
        // Not every backend has a lock that would say so.
        if given_up.strong_count() > 0 {
            return Err(Error::Locked);
        }
        // Somebody may have kept another snapshot of the old handle meanwhile; now nobody is left who could.
        inner.forget();
        *db = Some(Handle::own(inner.source.open(&inner.settings)?));
        Ok(())
    }

    /// Merges all vectors of `other` into an index, `add_id` added to their ids, in as many transactions as it takes, each committed: about
    /// [`load_bytes`](Builder::load_bytes) of codes and kept rows at a time. After a crash, or cancelled, the same call goes on where the last commit left
    /// it; readers meanwhile see what is there. [`IndexWriter::merge_some`](crate::IndexWriter::merge_some) is one step of it. Ticks as `"copy"`.
    ///
    /// # Errors
    /// As [`IndexWriter::merge_some`](crate::IndexWriter::merge_some); what was committed stays.
    pub fn merge_from(
        &self,
        index: &str,
        other: &IndexReader<'_>,
        add_id: u64,
        observer: &mut Observer<'_>,
    ) -> Result<MergeProgress> {
        let rows = self.inner.settings.load_bytes / other.row_bytes().max(1);
        loop {
            let txn = self.begin_write()?;
            let progress =
                txn.index(index)?.merge_some(other, add_id, rows.max(1) as u64, &mut Observer::none())?;
            txn.commit()?;
            observer.tick("copy", progress.copied, progress.total)?;
            if progress.is_done() {
                return Ok(progress);
            }
        }
    }

    /// Gives the store a quantizer of the caller's own, for indexes of its name that are opened or trained from now on. One that has the same
    /// name and another fingerprint stays: indexes that were trained with it need it, until they are trained with the new one.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is none.
    pub fn add_quantizer(&self, quantizer: Arc<dyn Quantizer>) -> Result<()> {
        self.inner.quantizers.write().add(quantizer)
    }

    /// Sizes of the store.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            file_bytes: self.inner.file_bytes(),
            pinned_bytes: self.inner.budget.used() as u64,
            cache_bytes: self.inner.settings.cache_bytes as u64,
        }
    }
}

impl Inner {
    fn new(db: Arc<Handle>, source: Source, settings: Settings) -> Self {
        Inner {
            db: RwLock::new(Some(db)),
            given_up: Mutex::default(),
            source,
            budget: Budget::new(settings.pin_bytes()),
            models: Mutex::default(),
            snapshots: Mutex::default(),
            changes: Mutex::default(),
            quantizers: RwLock::new(settings.quantizers.clone()),
            commits: AtomicU64::new(0),
            settings,
        }
    }

    /// The database; a clone, so that no lock is held while a transaction begins or runs.
    pub(crate) fn database(&self) -> Result<Arc<Handle>> {
        self.db.read().clone().ok_or(Error::NeedsReopen)
    }

    pub(crate) fn quantizers(&self) -> Quantizers {
        self.quantizers.read().clone()
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(SeqCst)
    }

    /// Drops what is kept for the next readers.
    fn forget(&self) {
        self.snapshots.lock().clear();
        self.models.lock().clear();
    }

    /// Runs `work` on the database while nobody else holds it.
    fn alone<R>(&self, work: impl FnOnce(&mut redb::Database) -> Result<R>) -> Result<R> {
        let mut guard = self.db.write();
        let db = guard.as_mut().ok_or(Error::NeedsReopen)?;
        let shared = match self.source {
            Source::Attached => Error::Unsupported { what: "compacting while the application has it" },
            _ => Error::InUse { what: "compact" },
        };
        let db = Handle::alone(db).ok_or(shared)?;
        // Nobody is left who could keep another one.
        self.snapshots.lock().clear();
        work(db)
    }

    fn file_bytes(&self) -> u64 {
        match &self.source {
            Source::Path(path) => std::fs::metadata(path).map_or(0, |meta| meta.len()),
            _ => 0,
        }
    }

    /// After a commit of `changes`: snapshots that have become too old go, and with them the freed pages they hold.
    /// Their pins stay for the next ones.
    pub(crate) fn committed(&self, changes: &Changes) {
        self.changes.lock().append(changes);
        self.commits.fetch_add(1, SeqCst);
        self.let_go_of_old();
    }

    /// Drops the snapshots that are too old, but those that readers hold.
    fn let_go_of_old(&self) {
        self.snapshots.lock().values_mut().for_each(|cached| {
            if cached.snapshot.take_if(|snapshot| is_old(snapshot.born, SNAPSHOT_AGE_MAX)).is_some() {
                cached.remains.give_up_reservation();
            }
        });
    }

    /// Of a commit that the application makes in an attached database nobody tells: whoever reads looks for what is too old.
    pub(crate) fn before_reading(&self) {
        if matches!(self.source, Source::Attached) {
            self.let_go_of_old();
        }
    }

    /// The names of the indexes among `uuids` that somebody has asked for since the commit before.
    pub(crate) fn read_lately(&self, uuids: &[[u8; 16]]) -> Vec<String> {
        let mut snapshots = self.snapshots.lock();
        let asked = |uuid| {
            let cached = snapshots.get_mut(uuid)?;
            let asked = std::mem::take(&mut cached.asked);
            cached.snapshot.as_ref().filter(|_| asked).map(|snapshot| snapshot.tables.names.index.clone())
        };
        uuids.iter().filter_map(asked).collect()
    }

    /// After a commit has opened the new state by itself.
    pub(crate) fn handed_over(&self, uuids: &[[u8; 16]]) {
        let mut snapshots = self.snapshots.lock();
        uuids.iter().for_each(|uuid| {
            if let Some(cached) = snapshots.get_mut(uuid) {
                cached.asked = false;
            }
        });
    }

    /// After a commit that dropped indexes: what is kept of them goes.
    pub(crate) fn dropped(&self, uuids: &[[u8; 16]]) {
        self.models.lock().retain(|uuid, _| !uuids.contains(uuid));
        self.snapshots.lock().retain(|uuid, _| !uuids.contains(uuid));
    }

    /// The model that `header` speaks of, from memory or from the tables. It is kept only for a transaction that
    /// `began` after the last commit, as otherwise the index may have been dropped since; and for none that
    /// made the index itself, as that may yet be undone.
    pub(crate) fn model<B: BytesTable, M, F, K>(
        &self,
        tables: &Tables<B, M, F, K>,
        header: &Header,
        began: Option<u64>,
    ) -> Result<Arc<Model>> {
        if let Some(model) =
            self.models.lock().get(&header.uuid).filter(|m| m.version == header.model_version)
        {
            return Ok(model.clone());
        }
        let model = Arc::new(Model::load(tables, header, Some(&self.quantizers()))?);
        let mut models = self.models.lock();
        if began == Some(self.commits.load(SeqCst)) {
            models.insert(header.uuid, model.clone());
        }
        Ok(model)
    }

    /// A reader of the state that `txn` sees.
    pub(crate) fn reader(
        &self,
        txn: &ReadTransaction,
        database: &Arc<Handle>,
        index: &str,
        header: Header,
        began: Began,
    ) -> Result<IndexReader<'static>> {
        let reader_of = |view: Arc<Snapshot>, model| IndexReader {
            view,
            model,
            pool: self.settings.pool.clone(),
            _database: Some(database.clone()),
        };
        let mut older = None;
        if let Some(cached) = self.snapshots.lock().get_mut(&header.uuid) {
            cached.asked = true;
            let quiet = cached.commits == began.commits && !matches!(self.source, Source::Attached);
            if let Some(snapshot) = &cached.snapshot
                && snapshot.header.same_state(&header)
                && (quiet || !is_old(snapshot.born, SNAPSHOT_AGE_MAX))
            {
                return Ok(reader_of(snapshot.clone(), cached.model.clone()));
            }
            older = Some(cached.remains.clone());
        }
        let tables = Quiet::new(storage::open_read(txn, index)?);
        let model = self.model(&*tables, &header, Some(began.commits))?;
        let source = model.source(header, tables, began.at);
        let older = older.as_deref().map(|remains| {
            let touched = self.touched_since(remains, &source.header);
            Older { remains, touched, replaced: began.commits == self.commits() }
        });
        let snapshot = Arc::new(Snapshot::new(source, &self.budget, older)?);
        let mut snapshots = self.snapshots.lock();
        // Another thread may have been faster.
        if let Some(cached) = snapshots.get(&snapshot.header.uuid)
            && let Some(same) = cached.snapshot.as_ref().filter(|s| s.header.same_state(&snapshot.header))
        {
            return Ok(reader_of(same.clone(), cached.model.clone()));
        }
        // Kept as models are: not if the index may have been dropped since.
        if began.commits == self.commits() || planted() {
            let (commits, remains) = (began.commits, Arc::new(snapshot.remains()));
            let snapshot = Some(snapshot.clone());
            let cached = Cached { snapshot, remains, model: model.clone(), commits, asked: true };
            snapshots.insert(cached.remains.header.uuid, cached);
        }
        drop(snapshots);
        Ok(reader_of(snapshot, model))
    }

    /// The rows whose ids or kept rows changed between an older state of the index and that of `header`, if that is
    /// known.
    fn touched_since(&self, older: &Remains, header: &Header) -> Option<Touched> {
        let same = older.header.uuid == header.uuid;
        same.then(|| self.changes.lock().between(header.uuid, older.header.version(), header.version()))?
    }
}

/// For those who try schedules.
#[cfg(feature = "schedules")]
impl Store {
    /// What the store keeps in memory: snapshots, models, bytes that are reserved.
    #[doc(hidden)]
    pub fn kept(&self) -> [usize; 3] {
        let inner = &self.inner;
        [inner.snapshots.lock().len(), inner.models.lock().len(), inner.budget.reserved()]
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("source", &self.inner.source).finish()
    }
}

#[cfg(test)]
mod growth_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IndexSpec, Metric};

    fn create(store: &Store, index: &str) {
        let txn = store.begin_write().unwrap();
        txn.create_index(index, &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index(index).unwrap();
        txn.commit().unwrap();
    }

    /// The models of dropped indexes were kept for as long as the store was open.
    #[test]
    fn nothing_is_kept_of_an_index_that_is_gone() {
        let store = Store::builder().open_backend(|| Ok(redb::backends::InMemoryBackend::new())).unwrap();
        let kept = || store.inner.models.lock().len() + store.inner.snapshots.lock().len();
        for n in 0..3 {
            create(&store, &n.to_string());
            store.begin_read().unwrap().index(&n.to_string()).unwrap();
            store.begin_write().unwrap().index(&n.to_string()).unwrap();
        }
        assert_eq!(store.inner.models.lock().len(), 3);
        let before = store.begin_read().unwrap();
        for n in 0..3 {
            let txn = store.begin_write().unwrap();
            txn.drop_index(&n.to_string()).unwrap();
            txn.commit().unwrap();
        }
        assert_eq!(kept(), 0);
        // Whoever still sees the index can use it, and leaves no model behind.
        assert_eq!(before.index("1").unwrap().len(), 0);
        assert_eq!(kept(), 0);
        // Nor does an index that never came to be.
        let txn = store.begin_write().unwrap();
        txn.create_index("never", &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index("never").unwrap();
        txn.abort().unwrap();
        assert_eq!(store.inner.models.lock().len(), 0);
    }

    /// A drop that is undone leaves the index as it was.
    #[test]
    fn an_undone_drop_keeps_the_model() {
        let store = Store::builder().open_backend(|| Ok(redb::backends::InMemoryBackend::new())).unwrap();
        create(&store, "a");
        store.begin_read().unwrap().index("a").unwrap();
        let txn = store.begin_write().unwrap();
        txn.drop_index("a").unwrap();
        txn.abort().unwrap();
        assert_eq!(store.inner.models.lock().len(), 1);
        assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 0);
    }
}
