//! Transactions: a frozen state to read, or a set of changes that commits as one.

use super::{Began, Durability, Handle, Inner};
use crate::guard::{Quiet, guarded};
use crate::index::model::Model;
use crate::index::reader::check_usable;
use crate::index::renumber::is_sparse;
use crate::index::verify::{self, VerifyDepth, VerifyReport};
use crate::index::writer::{self, Poison, Purpose};
use crate::index::{IndexReader, IndexWriter};
use crate::spec::IndexSpec;
use crate::storage::changes::Changes;
use crate::storage::{self, CATALOG};
use crate::{Error, Observer, Result};
use parking_lot::Mutex;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use std::collections::HashMap;
use std::sync::Arc;

/// A frozen state of the whole store.
pub struct ReadTxn {
    txn: Quiet<ReadTransaction>,
    began: Began,
    readers: Mutex<HashMap<String, IndexReader<'static>>>,
    /// Keeps the file open: the store may have been reopened since.
    database: Arc<Handle>,
    store: Arc<Inner>,
}

impl ReadTxn {
    pub(crate) fn begin(store: &Arc<Inner>) -> Result<Self> {
        store.before_reading();
        // Counted before the transaction begins, so that a snapshot never looks newer than it is.
        let began = Began::now(store);
        let database = store.database()?;
        let txn = Quiet::new(guarded(|| Ok(database.begin_read()?))?);
        Ok(ReadTxn { txn, began, readers: Mutex::default(), database, store: store.clone() })
    }

    /// The names of all indexes, ascending.
    pub fn indexes(&self) -> Result<Vec<String>> {
        guarded(|| names(&self.txn.open_table(CATALOG)?))
    }

    /// The index `name` in this state. Readers of the same state share their pins.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::Unfinished`] during a bulk load; [`Error::WriterLeftOpen`];
    /// [`Error::NewerVersion`]; [`Error::Corrupt`]; [`Error::Quantizer`] if the index needs one that the store was not given.
    pub fn index(&self, name: &str) -> Result<IndexReader<'static>> {
        if let Some(reader) = self.readers.lock().get(name) {
            return Ok(reader.clone());
        }
        let header = storage::read_header(&self.txn, name)?;
        storage::check_identity(name, &header, storage::catalog_uuid(&self.txn, name)?)?;
        check_usable(name, &header)?;
        let reader = self.store.reader(&self.txn, &self.database, name, header, self.began)?;
        self.readers.lock().insert(name.into(), reader.clone());
        Ok(reader)
    }

    /// Checks every checksum and every invariant of an index, whatever its state, and reports all that
    /// is wrong. Ticks as `"verify"`, in rows.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::NewerVersion`]; [`Error::Cancelled`]; [`Error::Io`] where the medium cannot be read. Damage is no
    /// error here: it is in the report.
    pub fn verify(&self, name: &str, observer: &mut Observer<'_>) -> Result<VerifyReport> {
        self.verify_to(VerifyDepth::Values, name, observer)
    }

    /// The same to another depth.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_to(
        &self,
        depth: VerifyDepth,
        name: &str,
        observer: &mut Observer<'_>,
    ) -> Result<VerifyReport> {
        verify::verify(&self.txn, name, depth, observer)
    }

    /// The indexes that are worth renumbering. Headers that cannot be read are left to verification.
    pub(crate) fn sparse_indexes(&self) -> Result<Vec<String>> {
        let mut names = self.indexes()?;
        let sparse = |name: &String| storage::read_header(&self.txn, name).is_ok_and(|h| is_sparse(&h));
        names.retain(sparse);
        Ok(names)
    }

    /// The transaction itself, for a backup.
    pub(crate) fn redb(&self) -> &ReadTransaction {
        &self.txn
    }
}

fn names(catalog: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in catalog.iter()? {
        let name = entry?.0.value().to_string();
        // The empty name is the store header's.
        if !name.is_empty() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Changes that commit together. Dropped without [`commit`](Self::commit), they leave no trace.
pub struct WriteTxn {
    txn: Quiet<WriteTransaction>,
    poison: Poison,
    changes: Changes,
    /// Indexes made in this transaction.
    created: Mutex<Vec<[u8; 16]>>,
    /// Indexes dropped or renamed in it.
    dropped: Mutex<Vec<[u8; 16]>>,
    /// The store's commits when it began; there can be no other before it ends.
    commits: u64,
    /// Keeps the file open: the store may have been reopened since.
    _database: Arc<Handle>,
    store: Arc<Inner>,
}

impl WriteTxn {
    pub(crate) fn new(store: Arc<Inner>, durability: Durability, quick_repair: bool) -> Result<Self> {
        let database = store.database()?;
        let mut txn = Quiet::new(guarded(|| Ok(database.begin_write()?))?);
        database.check_before_writing()?;
        txn.set_quick_repair(quick_repair);
        txn.set_durability(match durability {
            Durability::Immediate => redb::Durability::Immediate,
            Durability::None => redb::Durability::None,
        })?;
        Ok(WriteTxn {
            txn,
            poison: Poison::default(),
            changes: Changes::default(),
            created: Mutex::default(),
            dropped: Mutex::default(),
            commits: store.commits(),
            _database: database,
            store,
        })
    }

    /// Creates an index.
    ///
    /// # Errors
    /// [`Error::IndexExists`], [`Error::IndexName`]; [`Error::Spec`] if the specification does not fit together.
    pub fn create_index(&self, name: &str, spec: &IndexSpec) -> Result<()> {
        let uuid = self.catalog_change(name, || writer::create_index(&self.txn, name, spec))?;
        self.created.lock().push(uuid);
        Ok(())
    }

    /// Drops an index and all its vectors.
    pub fn drop_index(&self, name: &str) -> Result<()> {
        let uuid = self.catalog_change(name, || writer::drop_index(&self.txn, name))?;
        self.dropped.lock().extend(uuid);
        Ok(())
    }

    /// Renames an index.
    pub fn rename_index(&self, from: &str, to: &str) -> Result<()> {
        let uuid = self.catalog_change(from, || writer::rename_index(&self.txn, from, to))?;
        // What is kept of it in memory speaks of tables by their names.
        self.dropped.lock().extend(uuid);
        Ok(())
    }

    /// The names of all indexes, ascending.
    pub fn indexes(&self) -> Result<Vec<String>> {
        guarded(|| names(&self.txn.open_table(CATALOG)?))
    }

    /// What damage stops half-way must not be committed.
    fn catalog_change<T>(&self, index: &str, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = guarded(change);
        if let Err(Error::Corrupt { .. }) = done {
            self.poison.set(index);
        }
        done
    }

    /// Opens an index for change. One writer per index may be open at a time.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::Unfinished`] during a bulk load; [`Error::WriterLeftOpen`];
    /// [`Error::InUse`] if the index is open for change already; [`Error::Corrupt`]; [`Error::Quantizer`].
    pub fn index(&self, name: &str) -> Result<IndexWriter<'_>> {
        self.open(name, Purpose::Change)
    }

    /// Opens an index that [`index`](Self::index) refuses because it is damaged, for
    /// [`IndexWriter::repair`]: every other verb may fail or make it worse.
    pub fn damaged_index(&self, name: &str) -> Result<IndexWriter<'_>> {
        self.open(name, Purpose::Repair)
    }

    pub(crate) fn open(&self, name: &str, purpose: Purpose) -> Result<IndexWriter<'_>> {
        let mut writer = IndexWriter::open_for(&self.txn, name, purpose, |tables, header| {
            let created = self.created.lock().contains(&header.uuid);
            match self.store.model(tables, header, (!created).then_some(self.commits)) {
                Err(Error::Corrupt { .. } | Error::Quantizer { .. }) if purpose == Purpose::Repair => {
                    Ok(Arc::new(Model::load_damaged(tables, header)?))
                }
                model => model,
            }
        })?;
        writer.pool = self.store.settings.pool.clone();
        writer.quantizers = self.store.quantizers();
        writer.poison = self.poison.clone();
        writer.changes = self.changes.clone();
        Ok(writer)
    }

    /// Commits: when this returns, the changes are seen by every transaction that begins later, and are safe as
    /// the store's [`Durability`] says. Where somebody reads an index that changed, the commit also takes the changed lists
    /// and pages that were in memory there again, so that the next queries need not.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a change failed half-way: then nothing is committed. [`Error::Io`] and [`Error::NeedsReopen`] from the
    /// medium: then the changes may or may not be durable; [`Store::reopen`](crate::Store::reopen) shows.
    pub fn commit(self) -> Result<()> {
        if let Some(index) = self.poison.index() {
            guarded(|| Ok(self.txn.into_inner().abort()?))?;
            return Err(Error::Poisoned { index });
        }
        guarded(|| Ok(self.txn.into_inner().commit()?))?;
        let changed = self.changes.indexes();
        let read = self.store.read_lately(&changed);
        self.store.committed(&self.changes);
        self.store.dropped(&self.dropped.into_inner());
        hand_over(&self.store, &read, &changed);
        Ok(())
    }

    /// Bytes of all pages in use, by whatever state.
    pub(crate) fn allocated_bytes(&self) -> Result<u64> {
        guarded(|| {
            let stats = self.txn.stats()?;
            Ok(stats.allocated_pages() * stats.page_size() as u64)
        })
    }

    /// Undoes all changes.
    pub fn abort(self) -> Result<()> {
        guarded(|| Ok(self.txn.into_inner().abort()?))
    }
}

/// Where readers are at work, the committing thread makes the next snapshot and pins what it changed, so that not
/// the first queries after a commit do: beside 1,000 rows a second their p99 was half as long again (vectors of 128
/// components) or twice as long (384).
fn hand_over(store: &Arc<Inner>, read: &[String], changed: &[[u8; 16]]) {
    for index in read {
        let reader = ReadTxn::begin(store).and_then(|txn| txn.index(index));
        // What fails here fails again for whoever reads it, and is told then.
        let _ = reader.and_then(|reader| reader.view.warm_up());
    }
    if !read.is_empty() {
        store.handed_over(changed);
    }
}

impl std::fmt::Debug for ReadTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTxn").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WriteTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn").finish_non_exhaustive()
    }
}
