//! Bulk loads: more vectors than one transaction should hold.
//!
//! The rows are gathered and committed in bounded transactions under a header that says `loading`; only
//! the last commit makes the index usable. After a crash in between the index is clearly unfinished
//! ([`Error::Unfinished`]): `bulk_load` again resumes after the rows that were committed, `discard_load`
//! empties it.

use super::{Durability, Store, WriteTxn};
use crate::index::model::Model;
use crate::index::writer::Purpose;
use crate::storage::format::State;
use crate::storage::ids::NO_ID;
use crate::{Error, Result, Rows};
use roaring::RoaringTreemap;
use std::ops::Range;
use std::sync::Arc;

/// A bulk load in progress. Dropped without [`finish`](Self::finish), it stays unfinished and can be resumed.
#[derive(Debug)]
pub struct BulkLoad {
    store: Store,
    index: String,
    /// Of the index the load began with: another one may have its name by now.
    uuid: [u8; 16],
    model: Arc<Model>,
    committed: u64,
    next_id: u64,
    ids: Vec<u64>,
    rows: Vec<f32>,
    /// All ids of the load, to refuse a duplicate before it is gathered.
    seen: RoaringTreemap,
}

impl Store {
    /// Begins to load an empty index, or resumes a load that did not finish.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the index holds vectors; [`Error::UnknownIndex`]; [`Error::IdKind`] if it
    /// has keys: add those in transactions of your own.
    pub fn bulk_load(&self, index: &str) -> Result<BulkLoad> {
        let txn = self.load_txn(false)?;
        let mut writer = txn.open(index, Purpose::Load)?;
        writer.check_keys(false)?;
        if writer.header.state == State::Ready {
            if !writer.is_empty() {
                let what =
                    format!("index `{index}` holds {} vectors: a bulk load begins empty", writer.len());
                return Err(Error::Parameter { name: "bulk_load", what });
            }
            writer.change(|writer| {
                writer.header.state = State::Loading;
                writer.header.load_rows = 0;
                Ok(())
            })?;
        }
        let load = BulkLoad {
            store: self.clone(),
            index: index.into(),
            uuid: writer.header.uuid,
            model: writer.model.clone(),
            committed: writer.header.load_rows,
            next_id: writer.header.next_id,
            ids: Vec::new(),
            rows: Vec::new(),
            seen: writer.tables.all_ids(&writer.header)?.into_iter().collect(),
        };
        drop(writer);
        txn.commit()?;
        Ok(load)
    }

    /// Empties an index whose bulk load did not finish; returns how many rows went.
    ///
    /// # Errors
    /// [`Error::Parameter`] if no bulk load is unfinished.
    pub fn discard_load(&self, index: &str) -> Result<u64> {
        let txn = self.begin_write()?;
        let mut writer = txn.open(index, Purpose::Load)?;
        if writer.header.state != State::Loading {
            let what = format!("index `{index}` has no unfinished bulk load");
            return Err(Error::Parameter { name: "discard_load", what });
        }
        let rows = writer.len();
        writer.clear()?;
        writer.change(|writer| {
            writer.header.state = State::Ready;
            writer.header.load_rows = 0;
            Ok(())
        })?;
        drop(writer);
        txn.commit()?;
        Ok(rows)
    }

    /// A transaction of a load; only the last needs to be quick to recover from.
    fn load_txn(&self, last: bool) -> Result<WriteTxn> {
        let quick = last && self.inner.settings.quick_repair;
        WriteTxn::new(self.inner.clone(), Durability::Immediate, quick)
    }
}

impl BulkLoad {
    /// Rows committed so far, those of an earlier, interrupted load included: where to go on in the input.
    pub fn rows_done(&self) -> u64 {
        self.committed
    }

    /// Adds vectors under new, consecutive ids, which are returned.
    ///
    /// # Errors
    /// As [`IndexWriter::add`](crate::IndexWriter::add), with rows counted from the beginning of the load, an earlier,
    /// interrupted one included. Input that is refused leaves the load as it was.
    pub fn add(&mut self, rows: Rows<'_>) -> Result<Range<u64>> {
        let end = self.next_id.checked_add(rows.len() as u64).ok_or(Error::IndexFull { what: "ids" })?;
        let ids: Vec<u64> = (self.next_id..end).collect();
        let range = self.next_id..end;
        self.gather(&ids, rows)?;
        Ok(range)
    }

    /// Adds vectors under the ids given.
    ///
    /// # Errors
    /// As [`IndexWriter::add_with_ids`](crate::IndexWriter::add_with_ids), with rows counted from the beginning of the
    /// load. Input that is refused leaves the load as it was.
    pub fn add_with_ids(&mut self, ids: &[u64], rows: Rows<'_>) -> Result<()> {
        if ids.len() != rows.len() {
            return Err(Error::Length { what: "ids", expected: rows.len(), got: ids.len() });
        }
        if ids.contains(&NO_ID) {
            return Err(Error::InvalidId { what: format!("{NO_ID} stands for \"no id\"") });
        }
        self.gather(ids, rows)
    }

    fn gather(&mut self, ids: &[u64], rows: Rows<'_>) -> Result<()> {
        self.check(rows).map_err(|error| error.counted_from(self.committed as usize + self.ids.len()))?;
        for (i, id) in ids.iter().enumerate() {
            if !self.seen.insert(*id) {
                ids[..i].iter().for_each(|id| {
                    self.seen.remove(*id);
                });
                return Err(Error::DuplicateId { id: *id });
            }
        }
        self.next_id = ids.iter().copied().max().map_or(0, |id| id + 1).max(self.next_id);
        let mut done = 0;
        while done < ids.len() {
            let next = ids.len().min(done + self.rows_per_commit() - self.ids.len());
            self.ids.extend_from_slice(&ids[done..next]);
            self.rows.extend_from_slice(rows.slice(done..next).as_slice());
            if self.ids.len() == self.rows_per_commit() {
                self.write(false)?;
            }
            done = next;
        }
        Ok(())
    }

    fn check(&self, rows: Rows<'_>) -> Result<()> {
        let prepared = self.model.prepare(rows)?;
        self.model.admit(Rows::of(&prepared, rows.dim())).map(|_| ())
    }

    /// However many rows come at once: a transaction holds so many, and never more.
    fn rows_per_commit(&self) -> usize {
        self.store.inner.settings.load_bytes.div_ceil(4 * self.model.spec.dim)
    }

    /// Commits what was gathered.
    fn write(&mut self, last: bool) -> Result<()> {
        let txn = self.store.load_txn(last)?;
        let mut writer = txn.open(&self.index, Purpose::Load)?;
        let mine = writer.header.uuid == self.uuid && writer.header.load_rows == self.committed;
        if writer.header.state != State::Loading || !mine {
            return Err(Error::InUse { what: "a bulk load" });
        }
        writer.add_with_ids(&self.ids, Rows::of(&self.rows, self.model.spec.dim))?;
        let loaded = self.ids.len() as u64;
        writer.change(|writer| {
            writer.header.load_rows += loaded;
            if last {
                writer.header.state = State::Ready;
                writer.header.load_rows = 0;
            }
            Ok(())
        })?;
        if last {
            writer.settle()?;
        }
        drop(writer);
        txn.commit()?;
        self.committed += loaded;
        self.ids.clear();
        self.rows.clear();
        Ok(())
    }

    /// Commits the rest and makes the index usable.
    pub fn finish(mut self) -> Result<()> {
        self.write(true)
    }
}
