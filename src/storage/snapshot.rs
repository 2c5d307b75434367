//! A frozen state of one index, with the lists and column pages that queries touch pinned in memory.
//!
//! A redb `get` of a 16 KiB value costs 0.3–0.4 µs and a checksum of it as much again; a query probes
//! tens of lists. So the first query to touch a list or a page copies it, checked, into memory ([`pins`](super::pins)),
//! and later ones read that without redb and without a checksum: a list as one run of codes and one of row numbers,
//! a page as its entries. A copy holds no page of redb's, so a new snapshot takes over the pins of all lists that
//! the commits in between did not touch, however old.

use super::block::{BlockRef, Geometry, Run};
use super::column::Column;
use super::format::{Header, ListEntry, TableName};
use super::ids::{decode_id, ids_column};
use super::lists::{block_key, check_digest};
use super::pins::{Budget, PinTable, Pinned};
use super::{EachKept, ROWS_AT_ONCE, ReadBytes, ReadTables, Stage};
use crate::guard::{Quiet, guarded};
use crate::kernel::{Arena, Kernels};
use crate::{Error, Result};
use redb::OwnedAccessGuard;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// How long a snapshot that nobody holds is kept, once commits have moved on: it holds the pages freed since.
pub(crate) const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);

/// Bytes of kept rows that are on their way from memory at once.
const AHEAD_BYTES: usize = 16 << 10;

type Guard = OwnedAccessGuard<&'static [u8]>;

/// What is known of a list: a pin, or its blocks as they stand in redb.
enum List<'s> {
    Pinned(Pinned<'s>),
    Loose(Vec<Guard>),
}

/// The same of a column page: its entries, or the value around them.
enum Page<'s> {
    Pinned(Pinned<'s>),
    Loose(Guard),
}

impl Page<'_> {
    fn entry(&self, column: Column, row: u32) -> Option<&[u8]> {
        let page = match self {
            Page::Pinned(pin) => pin,
            Page::Loose(guard) => column.reopen_page(guard.value())?,
        };
        Some(column.entry(page, row))
    }
}

/// A frozen state of one index. Cheap to share; holds its redb transaction until dropped.
pub(crate) struct Snapshot {
    pub(crate) header: Header,
    pub(crate) tables: Quiet<ReadTables>,
    pub(crate) geometry: Geometry,
    /// By [`Stage`].
    pub(crate) kept_columns: [Option<Column>; 2],
    /// Directory entries of lists `header.first_list ..`.
    pub(crate) entries: Vec<ListEntry>,
    pins: PinTable,
    /// The pin numbers of the first page of the `ids` column and of the columns of kept rows.
    first_page: [u32; 3],
    pub(crate) born: Instant,
}

/// What a snapshot reads, and through what.
pub(crate) struct Source {
    pub(crate) header: Header,
    pub(crate) tables: Quiet<ReadTables>,
    pub(crate) geometry: Geometry,
    /// By [`Stage`].
    pub(crate) kept_columns: [Option<Column>; 2],
    /// Lists that each row stands in.
    pub(crate) places: usize,
    pub(crate) born: Instant,
}

impl Snapshot {
    /// Takes over what `older` has pinned of lists that did not change since. Column pages have no change number of
    /// their own in the directory: they are read again.
    pub(crate) fn new(source: Source, budget: &Arc<Budget>, older: Option<&Snapshot>) -> Result<Self> {
        let Source { header, tables, geometry, kept_columns, places, born } = source;
        let lists = header.first_list..header.first_list.saturating_add(header.nlist);
        let entries = tables.list_entries(lists)?;
        // A page of the directory that is gone reads as one of empty lists, and one that was put back to an
        // earlier state has good checksums.
        let total: u64 = entries.iter().map(|entry| u64::from(entry.n)).sum();
        let expected = header.ntotal.saturating_mul(places as u64);
        if total != expected {
            let what = format!("the lists hold {total} entries, the header says {expected}");
            return Err(Error::corrupt(&tables.names.lists, 0, what));
        }
        if let Some(at) = entries.iter().position(|entry| entry.seq > header.seq) {
            let what = format!("list {at} is of change {}, the header of {}", entries[at].seq, header.seq);
            return Err(Error::corrupt(&tables.names.lists, 0, what));
        }
        guarded(|| tables.check_counts(&header))?;
        let pages = |column: Column| header.next_row.div_ceil(column.per_page());
        let ids_from = entries.len() as u32;
        let rows_from = ids_from.saturating_add(pages(ids_column()));
        let exact_from = rows_from.saturating_add(kept_columns[Stage::Rows as usize].map_or(0, pages));
        let pins = exact_from.saturating_add(kept_columns[Stage::Exact as usize].map_or(0, pages));
        let list_bytes = |entry: &ListEntry| Arena::bytes_for(geometry.list_bytes(entry.n as usize));
        let column_bytes = |column: Column| pages(column) as usize * Arena::bytes_for(column.payload_bytes());
        let bytes = entries.iter().filter(|entry| entry.n > 0).map(list_bytes).sum::<usize>()
            + column_bytes(ids_column())
            + kept_columns.into_iter().flatten().map(column_bytes).sum::<usize>();

        let older = older
            .filter(|older| older.header.uuid == header.uuid && older.header.first_list == header.first_list);
        let version = |entry: &ListEntry| (entry.n, entry.seq, entry.nonce);
        let unchanged = |older: &Snapshot, number: u32| match (
            entries.get(number as usize),
            older.entries.get(number as usize),
        ) {
            (Some(mine), Some(theirs)) => version(mine) == version(theirs),
            _ => false,
        };
        let (mut inherited, mut forgiven) = (0, 0);
        for (number, piece) in older.iter().flat_map(|older| older.pins.pieces()) {
            let same = older.is_some_and(|older| unchanged(older, number));
            *(if same { &mut inherited } else { &mut forgiven }) += Arena::bytes_for(piece.len());
        }
        if let Some(older) = older {
            older.pins.give_up_reservation();
        }
        let reserved = budget.reserve(bytes.saturating_sub(inherited), forgiven);
        let pins = PinTable::new(pins as usize, budget, reserved);
        for (number, piece) in older.iter().flat_map(|older| older.pins.pieces()) {
            if older.is_some_and(|older| unchanged(older, number)) {
                pins.share(number, piece);
            }
        }
        let first_page = [ids_from, rows_from, exact_from];
        Ok(Snapshot { pins, first_page, header, tables, geometry, kept_columns, entries, born })
    }

    /// The directory entry of `list`.
    pub(crate) fn entry(&self, list: u32) -> Result<ListEntry> {
        let at = list.wrapping_sub(self.header.first_list) as usize;
        let missing = || Error::corrupt(&self.tables.names.lists, list.into(), "no such list");
        self.entries.get(at).copied().ok_or_else(missing)
    }

    /// The entries of `list`, checked; pinned if the budget allows.
    fn list(&self, list: u32, n: u32) -> Result<List<'_>> {
        let number = list - self.header.first_list;
        if let Some(pin) = self.pins.get(number) {
            return Ok(List::Pinned(pin));
        }
        let mut guards = Vec::new();
        for block in 0..self.geometry.blocks(n) {
            let (table, name) = self.tables.home(&self.geometry, n, block);
            guards.push(read_value(table, name, block_key(list, block))?);
        }
        let (mut codes, mut rows, mut digest) = (Vec::new(), Vec::new(), 0);
        for (block, guard) in (0..).zip(&guards) {
            let name = self.tables.home(&self.geometry, n, block).1;
            let entries = self.geometry.entries(n, block) as usize;
            let block = BlockRef::open(name, block_key(list, block), guard.value(), &self.geometry, entries)?;
            digest ^= block.crc;
            codes.push(block.run.codes);
            rows.push(block.run.rows.as_bytes());
        }
        check_digest(&self.tables.names.blocks, list, &self.entry(list)?, digest)?;
        codes.append(&mut rows);
        let pin = self.pins.keep(number, &codes);
        drop(codes);
        Ok(pin.map_or(List::Loose(guards), List::Pinned))
    }

    /// Calls `each` for the entries of `list`, in order, some at a time.
    pub(crate) fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        let n = self.entry(list)?.n;
        if n == 0 {
            return Ok(());
        }
        let changed = |block| Error::corrupt(&self.tables.names.blocks, block_key(list, block), "it changed");
        match self.list(list, n)? {
            List::Pinned(pin) => {
                let mut runs = self.geometry.runs(&pin, n as usize).ok_or_else(|| changed(0))?;
                runs.try_for_each(each)
            }
            List::Loose(guards) => (0..).zip(&guards).try_for_each(|(block, guard)| {
                let entries = self.geometry.entries(n, block) as usize;
                let block =
                    BlockRef::reopen(guard.value(), &self.geometry, entries).ok_or_else(|| changed(block))?;
                each(block.run)
            }),
        }
    }

    /// The bytes of `list`, if they are pinned for good: to have them in the cache soon.
    pub(crate) fn peek(&self, list: u32) -> Option<&[u8]> {
        self.pins.resident(list.wrapping_sub(self.header.first_list)).map(|pin| &**pin)
    }

    /// Will soon ask for the ids of `rows`.
    pub(crate) fn approach_ids(&self, rows: &[u32]) {
        rows.iter().for_each(|row| self.approach(self.first_page[0], ids_column(), *row));
    }

    fn approach(&self, first_page: u32, column: Column, row: u32) {
        if let Some(page) = self.pins.resident(first_page + column.page_of(row)) {
            Kernels::get().prefetch(column.entry(page, row));
        }
    }

    /// The id of `row`.
    pub(crate) fn id(&self, row: u32) -> Result<u64> {
        let column = ids_column();
        let name = &self.tables.names.ids;
        let page = self.page(self.first_page[0], column, &self.tables.ids, name, row)?;
        let id = page.as_ref().and_then(|page| decode_id(page.entry(column, row)?));
        id.ok_or_else(|| Error::corrupt(name, row.into(), "the row has no id"))
    }

    /// Calls `each(i, vectors)` with the kept vectors of `rows[i..]`, as stored, some at a time and in order; all are on
    /// their way from memory together.
    pub(crate) fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        let Some(column) = self.kept_columns[stage as usize] else { return Ok(()) };
        let (table, name) = self.tables.kept(stage);
        let first_page = self.first_page[1 + stage as usize];
        // Far enough ahead to come in time, and no more than the first-level cache holds.
        let mut ahead = rows.iter();
        let window = (AHEAD_BYTES / column.width).max(ROWS_AT_ONCE);
        ahead.by_ref().take(window).for_each(|row| self.approach(first_page, column, *row));
        for (some, rows) in rows.chunks(ROWS_AT_ONCE).enumerate() {
            ahead.by_ref().take(ROWS_AT_ONCE).for_each(|row| self.approach(first_page, column, *row));
            let mut pages = [const { None }; ROWS_AT_ONCE];
            let mut vectors = [&[][..]; ROWS_AT_ONCE];
            for ((vector, page), &row) in vectors.iter_mut().zip(&mut pages).zip(rows) {
                if let Some(resident) = self.pins.resident(first_page + column.page_of(row)) {
                    *vector = column.entry(resident, row);
                    continue;
                }
                *page = self.page(first_page, column, table, name, row)?;
                let missing = || Error::corrupt(name, row.into(), "the kept row is missing");
                *vector = page.as_ref().and_then(|page| page.entry(column, row)).ok_or_else(missing)?;
            }
            each(some * ROWS_AT_ONCE, &vectors[..rows.len()])?;
        }
        Ok(())
    }

    fn page(
        &self,
        first: u32,
        column: Column,
        table: &ReadBytes,
        name: &TableName,
        row: u32,
    ) -> Result<Option<Page<'_>>> {
        let page = column.page_of(row);
        if let Some(pin) = self.pins.get(first + page) {
            return Ok(Some(Page::Pinned(pin)));
        }
        let Some(guard) = fetch_owned(table, u64::from(page))? else { return Ok(None) };
        let pin = self.pins.keep(first + page, &[column.open_page(name, page, guard.value())?]);
        Ok(Some(pin.map_or(Page::Loose(guard), Page::Pinned)))
    }
}

fn fetch_owned(table: &ReadBytes, key: u64) -> Result<Option<Guard>> {
    guarded(|| {
        let value = table.get_owned(key)?;
        // Where the bytes begin and end is read from the page, too.
        let _ = value.as_ref().map(|value| value.value());
        Ok(value)
    })
}

fn read_value(table: &ReadBytes, name: &str, key: u64) -> Result<Guard> {
    fetch_owned(table, key)?.ok_or_else(|| Error::corrupt(name, key, "the value is missing"))
}
