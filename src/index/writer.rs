//! The writer: one index open for change within a write transaction.
//!
//! Every verb checks its whole input before the first write, then changes tables under a header that
//! says `writer_open`, and clears the flag with its last write. If it fails in between, the writer
//! refuses to go on and the store refuses to commit; in an application's own transaction, which nobody can poison, a
//! commit all the same leaves the flag behind, and readers refuse the index until `repair` mended it.
//!
//! Opening an index and every verb compare the lengths of the map, of the free rows and of the tables of keys with
//! the header's counts, so a writer is not misled by entries that are gone. What is left to `verify` is
//! an id or a key that is counted and cannot be found, behind a damaged page of redb's or under another number:
//! `upsert` takes it for a new one and makes a second row of the same id, `remove_ids` passes over it. Looking for it
//! in the column of ids would cost each verb a walk through all of them.

use super::auto::AutoObserver;
use super::model::Model;
use super::reader::IndexReader;
use super::view::WriterView;
use crate::coarse::{Quantizer, Quantizers};
use crate::guard::{Quiet, guarded};
use crate::params::SearchParams;
use crate::spec::IndexSpec;
use crate::storage::changes::{Change, Changes, Touched};
use crate::storage::format::{Header, State, StoredLimits};
use crate::storage::{self, CATALOG, WriteTables};
use crate::{Error, Rerank, Result};
use redb::{MultimapTableHandle, ReadableTable, ReadableTableMetadata, TableHandle, WriteTransaction};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

/// One index open for change. Changes are seen by others when the transaction commits, and only then;
/// [`reader`](Self::reader) sees them at once.
pub struct IndexWriter<'t> {
    pub(crate) tables: Quiet<WriteTables<'t>>,
    pub(crate) header: Header,
    pub(crate) model: Arc<Model>,
    pub(crate) pool: Option<Arc<rayon::ThreadPool>>,
    /// Of the caller's own.
    pub(crate) quantizers: Quantizers,
    pub(crate) poison: Poison,
    /// What the verb that is running has touched.
    pub(crate) touched: Touched,
    /// What the verbs of the transaction have changed.
    pub(crate) changes: Changes,
    /// Verbs that add may train an automatic index; who is told.
    pub(crate) auto_train: bool,
    pub(crate) auto_observer: Option<AutoObserver<'t>>,
}

/// Set when a change fails half-way, with the index's name; shared by a store's transaction and its writers, so
/// that the transaction cannot commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Poison(Arc<OnceLock<String>>);

impl Poison {
    pub(crate) fn set(&self, index: &str) {
        // Only the first failure is kept.
        let _ = self.0.set(index.into());
    }

    pub(crate) fn index(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// Poisons when it is dropped, by an error or by a panic of the application's, unless the change was done.
struct HalfDone {
    poison: Poison,
    index: Option<String>,
}

impl Drop for HalfDone {
    fn drop(&mut self) {
        if let Some(index) = &self.index {
            self.poison.set(index);
        }
    }
}

/// How an index is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Change,
    /// Even if a bulk load is unfinished.
    Load,
    /// Even if it is damaged.
    Repair,
}

impl<'t> IndexWriter<'t> {
    /// Opens an index within the application's own write transaction: its rows and its vectors commit
    /// together or not at all. At most one writer per index may be open at a time.
    ///
    /// redb offers no way to poison a caller's transaction: if a verb fails with anything but a refusal
    /// of its input (its error then says so: see [`is_poisoned`](Self::is_poisoned)), abort it.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`], [`Error::Unfinished`], [`Error::WriterLeftOpen`], [`Error::Corrupt`];
    /// [`Error::InUse`] if the index is open for change already; [`Error::Quantizer`] if the index needs one: see [`open_with`](Self::open_with).
    pub fn open(txn: &'t WriteTransaction, index: &str) -> Result<Self> {
        Self::open_with(txn, index, &[])
    }

    /// The same with quantizers of the caller's own, one of which the index may need, or its training will.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Quantizer`]; [`Error::Parameter`] for a quantizer whose name is none.
    pub fn open_with(
        txn: &'t WriteTransaction,
        index: &str,
        quantizers: &[Arc<dyn Quantizer>],
    ) -> Result<Self> {
        let quantizers = Quantizers::of(quantizers)?;
        let writer = Self::open_for(txn, index, Purpose::Change, |tables, header| {
            Ok(Arc::new(Model::load(tables, header, Some(&quantizers))?))
        })?;
        Ok(IndexWriter { quantizers, ..writer })
    }

    /// Creates an index within the application's own write transaction, and the catalog if need be.
    pub fn create(txn: &'t WriteTransaction, index: &str, spec: &IndexSpec) -> Result<Self> {
        guarded(|| create_index(txn, index, spec))?;
        Self::open(txn, index)
    }

    pub(crate) fn open_for(
        txn: &'t WriteTransaction,
        index: &str,
        purpose: Purpose,
        model: impl FnOnce(&WriteTables<'t>, &Header) -> Result<Arc<Model>>,
    ) -> Result<Self> {
        let Some(uuid) = guarded(|| uuid_in_catalog(txn, index))? else {
            return Err(Error::UnknownIndex { name: index.into() });
        };
        let tables = Quiet::new(guarded(|| storage::open_write(txn, index))?);
        let header = storage::load_header(&tables.meta, &tables.names.meta)?;
        if header.writer_open && purpose != Purpose::Repair {
            return Err(Error::WriterLeftOpen { index: index.into() });
        }
        if header.state == State::Loading && purpose == Purpose::Change {
            return Err(Error::Unfinished { index: index.into(), rows: header.load_rows });
        }
        if purpose != Purpose::Repair {
            storage::check_identity(index, &header, uuid.try_into().ok())?;
        }
        let model = model(&tables, &header)?;
        if purpose != Purpose::Repair {
            tables.check_counts(&header)?;
        }
        let (poison, touched, changes, quantizers) = Default::default();
        let (pool, auto_train, auto_observer) = (None, true, None);
        Ok(IndexWriter {
            tables,
            header,
            model,
            pool,
            quantizers,
            poison,
            touched,
            changes,
            auto_train,
            auto_observer,
        })
    }

    /// A reader of this writer's state, uncommitted changes included. It pins nothing.
    pub fn reader(&self) -> IndexReader<'_> {
        let view = WriterView {
            tables: &self.tables,
            header: &self.header,
            geometry: self.model.geometry,
            kept_columns: self.model.kept_columns(),
        };
        IndexReader {
            view: Arc::new(view),
            model: self.model.clone(),
            pool: self.pool.clone(),
            _database: None,
        }
    }

    /// What the index was created as.
    pub fn spec(&self) -> &IndexSpec {
        &self.model.spec
    }

    /// Vectors in the index.
    pub fn len(&self) -> u64 {
        self.header.ntotal
    }

    /// True if the index holds no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if a change failed half-way: the transaction must be aborted.
    pub fn is_poisoned(&self) -> bool {
        self.poison.index().is_some()
    }

    /// Stores search defaults with the index; fields that are not set go back to vellum's own. A selector
    /// cannot be a default.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a value of 0 or beyond 2^32 - 1, a bound that no search takes, a selector, a recall to reach, or
    /// `rerank` without kept rows.
    pub fn set_search_defaults(&mut self, params: &SearchParams) -> Result<()> {
        let bad = |name, what: &str| Err(Error::Parameter { name, what: what.into() });
        if params.selector.is_some() {
            return bad("selector", "a selector cannot be a default");
        }
        if params.target_recall.is_some() {
            return bad("target_recall", "a recall to reach cannot be a default");
        }
        if params.quantizer.is_some() {
            return bad("quantizer_params", "parameters of the quantizer cannot be a default");
        }
        if params.polysemous_ht.is_some() {
            return bad("polysemous_ht", "a Hamming threshold cannot be a default");
        }
        if params.rerank.is_some() && self.model.spec.kept.is_none() {
            return bad("rerank", "the index keeps no rows to rerank with");
        }
        let field = |name, value: Option<usize>| match value.map(u32::try_from) {
            None => Ok(0),
            Some(Ok(value)) if value > 0 => Ok(value),
            Some(_) => Err(Error::Parameter { name, what: "expected 1 to 2^32 - 1".into() }),
        };
        let nprobe = field("nprobe", params.nprobe)?;
        let rerank = params.rerank.map(Rerank::check).transpose()?;
        if let Some(Rerank::Rows(rows)) = rerank {
            field("rerank", Some(rows))?;
        }
        let max_codes = params.max_codes.unwrap_or(0) as u64;
        let limit = |name, value: Option<usize>| field(name, value.filter(|value| *value > 0));
        let limits = StoredLimits {
            max_lists: limit("max_lists", params.max_lists)?,
            max_empty_lists: limit("max_empty_lists", params.max_empty_lists)?,
            ensure_topk_full: params.ensure_topk_full.unwrap_or(false),
            mode: params.parallel_mode.unwrap_or_default(),
            filter_mode: params.filter_mode.unwrap_or_default(),
        };
        self.change(|writer| {
            (writer.header.nprobe, writer.header.rerank) = (nprobe, rerank);
            (writer.header.max_codes, writer.header.limits) = (max_codes, limits);
            Ok(())
        })
    }

    /// Runs one verb's writes between the two header writes that frame it.
    pub(crate) fn change<R>(&mut self, write: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        if let Some(index) = self.poison.index() {
            return Err(Error::Poisoned { index });
        }
        let before = self.header.clone();
        self.header.seq = before.seq.wrapping_add(1);
        self.header.nonce = random();
        self.header.writer_open = true;
        let mut half = HalfDone { poison: self.poison.clone(), index: Some(self.tables.names.index.clone()) };
        let done = guarded(|| {
            self.store_header()?;
            let done = write(self)?;
            self.header.twin_pages = self.tables.twins.as_ref().map_or(Ok(0), |t| t.len())? as u32;
            self.tables.check_counts(&self.header)?;
            self.header.writer_open = false;
            self.store_header()?;
            Ok(done)
        })?;
        half.index = None;
        let touched = std::mem::take(&mut self.touched);
        let (from, to) = (before.version(), self.header.version());
        self.changes.add(Change { index: before.uuid, from, to, touched });
        Ok(done)
    }

    /// Sets the ids of rows; `pairs` in any order.
    pub(crate) fn set_ids(&mut self, pairs: impl Iterator<Item = (u32, u64)> + Clone) -> Result<()> {
        self.touched.add(pairs.clone().map(|(row, _)| row));
        self.tables.set_ids(self.header.seq, pairs)
    }

    fn store_header(&mut self) -> Result<()> {
        self.tables.meta.insert(0, self.header.encode().as_slice())?;
        Ok(())
    }

    /// Runs `work` on the store's pool, if it has one.
    pub(crate) fn in_pool<R: Send>(
        pool: &Option<Arc<rayon::ThreadPool>>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        match pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl std::fmt::Debug for IndexWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexWriter")
            .field("index", &self.tables.names.index)
            .field("len", &self.len())
            .finish()
    }
}

/// Unpredictable enough to tell two changes apart; the standard library's hasher keys come from the
/// system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c != '/' && !c.is_control();
    if (1..=128).contains(&name.len()) && name.chars().all(plain) && name != "vellum" {
        Ok(())
    } else {
        Err(Error::IndexName { name: name.into() })
    }
}

fn index_exists(txn: &WriteTransaction, name: &str) -> Result<bool> {
    Ok(uuid_in_catalog(txn, name)?.is_some())
}

/// What the catalog has for an index, if there is one.
fn uuid_in_catalog(txn: &WriteTransaction, name: &str) -> Result<Option<Vec<u8>>> {
    let catalog = txn.open_table(CATALOG)?;
    let made_by_asking = catalog.is_empty()?;
    let found = match name {
        "" => None,
        name => catalog.get(name)?.map(|uuid| uuid.value().to_vec()),
    };
    drop(catalog);
    if made_by_asking {
        txn.delete_table(CATALOG)?;
    }
    Ok(found)
}

/// Refuses a name under which the application has tables of its own.
fn check_free(txn: &WriteTransaction, name: &str) -> Result<()> {
    let names = storage::Names::of(name, Default::default());
    let plain = txn.list_tables()?.map(|table| table.name().to_string());
    let multimaps = txn.list_multimap_tables()?.map(|table| table.name().to_string());
    match plain.chain(multimaps).find(|table| names.contains(table)) {
        Some(table) => Err(redb::Error::TableExists(table).into()),
        None => Ok(()),
    }
}

/// Writes the store header if the catalog has none yet.
pub(crate) fn ensure_catalog(txn: &WriteTransaction) -> Result<()> {
    let mut catalog = txn.open_table(CATALOG)?;
    let found = catalog.get("")?.map(|value| storage::format::store_header::check(value.value()));
    match found {
        Some(checked) => checked,
        None => {
            catalog.insert("", &storage::format::store_header::encode()[..])?;
            Ok(())
        }
    }
}

/// Returns the new index's uuid.
pub(crate) fn create_index(txn: &WriteTransaction, name: &str, spec: &IndexSpec) -> Result<[u8; 16]> {
    check_name(name)?;
    let spec = &spec.resolved();
    let model = Model::untrained(spec)?;
    model.check_trained_layout()?;
    if index_exists(txn, name)? {
        return Err(Error::IndexExists { name: name.into() });
    }
    check_free(txn, name)?;
    ensure_catalog(txn)?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&random().to_le_bytes());
    uuid[8..].copy_from_slice(&random().to_le_bytes());
    txn.open_table(CATALOG)?.insert(name, &uuid[..])?;
    let header = Header {
        uuid,
        state: State::Ready,
        writer_open: false,
        trained: spec.nlist.is_none(),
        metric: spec.metric,
        keys: spec.keys,
        block_order: model.geometry.order,
        shared: model.shares(),
        dim: spec.dim as u32,
        nlist: 1,
        first_list: 0,
        ntotal: 0,
        next_id: 0,
        next_row: 0,
        seq: 0,
        nonce: random(),
        model_version: 0,
        load_rows: 0,
        nprobe: 0,
        rerank: None,
        max_codes: 0,
        limits: StoredLimits::default(),
        twins: 0,
        twin_pages: 0,
        spec: spec.to_string(),
    };
    let mut tables = storage::open_write(txn, name)?;
    tables.meta.insert(0, header.encode().as_slice())?;
    if header.shared {
        storage::create_twins(txn, &tables.names)?;
    }
    Ok(uuid)
}

/// Returns the index's uuid, as the catalog has it.
pub(crate) fn drop_index(txn: &WriteTransaction, name: &str) -> Result<Option<[u8; 16]>> {
    if !index_exists(txn, name)? {
        return Err(Error::UnknownIndex { name: name.into() });
    }
    // Refused while a writer has the index open, and then nothing may have changed: tables first.
    storage::delete_tables(txn, name)?;
    let mut catalog = txn.open_table(CATALOG)?;
    let uuid = catalog.remove(name)?.and_then(|uuid| uuid.value().try_into().ok());
    Ok(uuid)
}

pub(crate) fn rename_index(txn: &WriteTransaction, from: &str, to: &str) -> Result<Option<[u8; 16]>> {
    check_name(to)?;
    if !index_exists(txn, from)? {
        return Err(Error::UnknownIndex { name: from.into() });
    }
    if index_exists(txn, to)? {
        return Err(Error::IndexExists { name: to.into() });
    }
    check_free(txn, to)?;
    storage::rename_tables(txn, from, to)?;
    let mut catalog = txn.open_table(CATALOG)?;
    let uuid = catalog.remove(from)?.map(|uuid| uuid.value().to_vec()).unwrap_or_default();
    catalog.insert(to, uuid.as_slice())?;
    Ok(uuid.try_into().ok())
}
