//! Several indexes of one training, read as one: shards.
//!
//! ```text
//! rows of the whole   | shard 0: 0 .. next_row₀ | shard 1: next_row₀ .. | …
//! list l              | l of shard 0 | l of shard 1 | …       entries in that order
//! ```
//! A view like any other, so every verb that reads works on it, and its answers are those of one index that holds all vectors:
//! what is scored again is chosen among all, ties go to the lower id wherever it is.

use super::reader::IndexReader;
use super::stats::PartStats;
use super::view::View;
use crate::storage::block::{Geometry, Run};
use crate::storage::column::Column;
use crate::storage::format::{Header, ListEntry};
use crate::storage::ids::{Slot, Slots};
use crate::storage::sections::Section;
use crate::storage::twins::Twin;
use crate::storage::{EachKept, Stage};
use crate::{Error, Result};
use std::sync::Arc;
use zerocopy::little_endian::U32;

struct Shard<'a> {
    reader: IndexReader<'a>,
    /// The number that its row 0 has in the whole.
    first_row: u32,
}

struct Shards<'a> {
    shards: Vec<Shard<'a>>,
    header: Header,
}

impl<'a> IndexReader<'a> {
    /// Reads several indexes as one: parts of one index that [`copy_subset_to`](Self::copy_subset_to) made, say, in one store or many. Answers
    /// are those of an index with all their vectors, bit for bit, distances, ties and rows that are scored again included; only where
    /// `max_codes` ends a list depends on the order of its entries, which is that of the shards. Search defaults are those of
    /// the first, threads, too.
    ///
    /// Ids should be of one shard each: one that is in several is found in each of them, and `reconstruct` and the like
    /// take the first.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no shards; [`Error::Incompatible`] if they are not of one training
    /// ([`check_compatible_for_merge`](Self::check_compatible_for_merge)); [`Error::IdKind`] for indexes with keys, whose ids
    /// each shard gives itself; [`Error::IndexFull`].
    pub fn of_shards(shards: &[IndexReader<'a>]) -> Result<IndexReader<'a>> {
        let Some(first) = shards.first() else {
            return Err(Error::Parameter { name: "shards", what: "none, expected at least 1".into() });
        };
        let mut header = Header {
            first_list: 0,
            ntotal: 0,
            next_row: 0,
            seq: 0,
            nonce: 0,
            twins: 0,
            ..first.header().clone()
        };
        if header.keys {
            return Err(Error::IdKind { what: "keys: the ids behind them are given by each shard" });
        }
        let mut numbered = Vec::with_capacity(shards.len());
        for shard in shards {
            first.check_compatible_for_merge(shard)?;
            let its = shard.header();
            numbered.push(Shard { reader: shard.clone(), first_row: header.next_row });
            let rows = header.next_row.checked_add(its.next_row);
            header.next_row = rows.ok_or(Error::IndexFull { what: "row numbers" })?;
            header.ntotal += its.ntotal;
            header.twins = header.twins.saturating_add(its.twins);
            header.next_id = header.next_id.max(its.next_id);
            header.seq = header.seq.wrapping_add(its.seq);
            // Names the state of all of them.
            header.nonce = header.nonce.rotate_left(7) ^ its.nonce;
        }
        let (model, pool) = (first.model.clone(), first.pool.clone());
        let view = Arc::new(Shards { shards: numbered, header });
        Ok(IndexReader { view, model, pool, _database: None })
    }
}

impl<'a> Shards<'a> {
    /// The shard of a row.
    fn of_row(&self, row: u32) -> &Shard<'a> {
        let after = self.shards.partition_point(|shard| shard.first_row <= row);
        // Shards without rows begin where the next one does; the last that begins there has them.
        &self.shards[after - 1]
    }

    /// Calls `each(at, shard, rows)` with rows that follow each other in one shard, by its own numbers.
    fn by_shard(
        &self,
        rows: &[u32],
        mut each: impl FnMut(usize, &Shard<'a>, &[u32]) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        for rows in rows.chunk_by(|a, b| self.of_row(*a).first_row == self.of_row(*b).first_row) {
            let shard = self.of_row(rows[0]);
            let own: Vec<u32> = rows.iter().map(|row| row - shard.first_row).collect();
            each(at, shard, &own)?;
            at += rows.len();
        }
        Ok(())
    }

    /// A slot of a shard in the whole.
    fn whole(&self, shard: &Shard<'a>, slot: Slot) -> Result<Slot> {
        let lost = || Error::corrupt("slots", slot.list.into(), format!("{slot:?} is no slot"));
        let list = slot.list.checked_sub(shard.reader.header().first_list).ok_or_else(lost)?;
        let mut offset = slot.offset;
        for before in self.shards.iter().take_while(|before| !std::ptr::eq(*before, shard)) {
            offset = offset.saturating_add(before.reader.view.list(list)?.n);
        }
        Ok(Slot { list, offset })
    }
}

impl View for Shards<'_> {
    fn header(&self) -> &Header {
        &self.header
    }

    fn list(&self, list: u32) -> Result<ListEntry> {
        let mut whole = ListEntry::default();
        for shard in &self.shards {
            let entry = shard.reader.view.list(list)?;
            whole.n = whole.n.checked_add(entry.n).ok_or(Error::IndexFull { what: "entries of a list" })?;
            whole.residual += entry.residual;
        }
        Ok(whole)
    }

    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        let mut rows: Vec<U32> = Vec::new();
        for shard in &self.shards {
            shard.reader.view.visit(list, &mut |run| {
                rows.clear();
                rows.extend(run.rows.iter().map(|row| U32::new(row.get().wrapping_add(shard.first_row))));
                each(Run { rows: &rows, ..run })
            })?;
        }
        Ok(())
    }

    fn peek(&self, _list: u32) -> Option<&[u8]> {
        None
    }

    fn warm_up(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.reader.view.warm_up())
    }

    fn approach_ids(&self, rows: &[u32]) {
        // A hint: nothing can fail.
        let _ = self.by_shard(rows, |_, shard, rows| {
            shard.reader.view.approach_ids(rows);
            Ok(())
        });
    }

    fn id(&self, row: u32) -> Result<u64> {
        let shard = self.of_row(row);
        shard.reader.view.id(row - shard.first_row)
    }

    fn is_whole(&self) -> bool {
        self.shards.iter().all(|shard| shard.reader.view.is_whole())
    }

    fn approach_rows(&self, stage: Stage, rows: &[u32]) {
        let _ = self.by_shard(rows, |_, shard, rows| {
            shard.reader.view.approach_rows(stage, rows);
            Ok(())
        });
    }

    fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        self.by_shard(rows, |at, shard, rows| {
            shard.reader.view.kept_rows(stage, rows, &mut |i, vectors| each(at + i, vectors))
        })
    }

    fn row_of(&self, id: u64) -> Result<Option<u32>> {
        for shard in &self.shards {
            if let Some(row) = shard.reader.view.row_of(id)? {
                return Ok(Some(row + shard.first_row));
            }
        }
        Ok(None)
    }

    fn for_each_id(&self, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
        self.shards.iter().try_for_each(|shard| {
            shard.reader.view.for_each_id(&mut |row, id| each(row + shard.first_row, id))
        })
    }

    fn slot_of(&self, row: u32, _column: &Column, places: usize) -> Result<Slot> {
        let shard = self.of_row(row);
        let column = &shard.reader.model.slots_column;
        self.whole(shard, shard.reader.view.slot_of(row - shard.first_row, column, places)?)
    }

    fn slots_of(&self, row: u32, _column: &Column, places: usize) -> Result<Slots> {
        let shard = self.of_row(row);
        let column = &shard.reader.model.slots_column;
        let Slots { first, second } = shard.reader.view.slots_of(row - shard.first_row, column, places)?;
        let whole = |slot: Option<Slot>| slot.map(|slot| self.whole(shard, slot)).transpose();
        Ok(Slots { first: whole(first)?, second: whole(second)? })
    }

    fn twin(&self, row: u32) -> Result<Option<Twin>> {
        let shard = self.of_row(row);
        let of_whole = |row: u32| row.wrapping_add(shard.first_row);
        let twin = shard.reader.view.twin(row - shard.first_row)?;
        Ok(twin.map(|twin| Twin { head: of_whole(twin.head), next: twin.next.map(of_whole) }))
    }

    fn code_at(&self, slot: Slot, _geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>> {
        let mut offset = slot.offset;
        for Shard { reader, first_row } in &self.shards {
            let n = reader.view.list(slot.list)?.n;
            if offset < n {
                let slot = Slot { list: reader.header().first_list + slot.list, offset };
                let code = reader.view.code_at(slot, &reader.model.geometry)?;
                return Ok(code.map(|(code, row)| (code, row.wrapping_add(*first_row))));
            }
            offset -= n;
        }
        Ok(None)
    }

    fn id_of_key(&self, _key: &[u8]) -> Result<Option<u64>> {
        Ok(None)
    }

    fn key_of(&self, _id: u64) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn all_ids(&self) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for shard in &self.shards {
            ids.extend(shard.reader.view.all_ids()?);
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn parts(&self) -> Result<Vec<PartStats>> {
        let mut whole: Vec<PartStats> = Vec::new();
        for shard in &self.shards {
            for part in shard.reader.view.parts()? {
                match whole.iter_mut().find(|sum| sum.name == part.name) {
                    Some(sum) => {
                        sum.values += part.values;
                        sum.stored_bytes += part.stored_bytes;
                        sum.file_bytes += part.file_bytes;
                    }
                    None => whole.push(part),
                }
            }
        }
        Ok(whole)
    }

    fn training(&self) -> Result<Option<Vec<u8>>> {
        self.shards.first().map_or(Ok(None), |shard| shard.reader.view.training())
    }

    /// Each shard has its own.
    fn note(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn section(&self, _section: Section) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
