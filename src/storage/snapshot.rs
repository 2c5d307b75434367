//! A frozen state of one index, with the blocks that queries touch pinned in memory.
//!
//! A redb `get` of a 16 KiB value costs 0.3–0.4 µs and a checksum of it as much again; a query probes
//! tens of lists. So the first query to touch a list keeps its checked guards (a [`Pin`]), and later
//! ones read the same bytes without redb, without a copy and without a checksum.
//!
//! - Pins obey one byte budget per store ([`Budget`]). When it is used up the clock hand drops pins that
//!   were not touched since its last round; what finds no room is read, checked and let go again.
//! - One pin keeps alive every page that was freed after its transaction began. So a new snapshot takes
//!   over only pins of lists that the commits in between did not touch, and only pins younger than
//!   [`PIN_AGE_MAX`]; older ones are read again.

use super::block::{BlockRef, Geometry};
use super::column::Column;
use super::format::{Header, ListEntry, TableName};
use super::ids::{decode_id, ids_column};
use super::lists::{block_key, check_digest};
use super::{ReadBytes, ReadTables, Stage};
use crate::guard::{Quiet, guarded};
use crate::kernel::Kernels;
use crate::{Error, Result};
use parking_lot::{Mutex, RwLock};
use redb::OwnedAccessGuard;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a pin may outlive the transaction it was read in, once commits have moved on.
pub(crate) const PIN_AGE_MAX: Duration = Duration::from_secs(1);

/// Bytes that pins may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes `bytes` if they fit.
    fn take(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

type Guard = OwnedAccessGuard<&'static [u8]>;

/// Checked values held in memory: the blocks of a list, or one column page.
pub(crate) struct Pin {
    guards: Vec<Guard>,
    bytes: usize,
    born: Instant,
    touched: AtomicBool,
    /// The budget that `bytes` were taken from; none for a pin that is let go at once.
    budget: Option<Arc<Budget>>,
}

impl Pin {
    fn new(guards: Vec<Guard>, born: Instant) -> Self {
        // redb holds a value in a page run of the next power of two.
        let page_run = |guard: &Guard| (guard.value().len() + 16).next_power_of_two().max(4096);
        let bytes = guards.iter().map(page_run).sum();
        Pin { guards, bytes, born, touched: AtomicBool::new(true), budget: None }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// Pins by number: lists first, then the pages of the `ids` column, then those of the columns of kept rows.
struct PinTable {
    pins: Vec<RwLock<Option<Arc<Pin>>>>,
    /// Numbers in the order in which the clock hand comes by.
    clock: Mutex<VecDeque<u32>>,
}

impl PinTable {
    fn new(n: usize) -> Self {
        PinTable { pins: (0..n).map(|_| RwLock::new(None)).collect(), clock: Mutex::default() }
    }

    fn get(&self, number: u32) -> Option<Arc<Pin>> {
        let pin = self.pins.get(number as usize)?.read().clone()?;
        if !pin.touched.load(Relaxed) {
            pin.touched.store(true, Relaxed);
        }
        Some(pin)
    }

    /// Keeps `pin` if the budget has or makes room for it.
    fn keep(&self, number: u32, mut pin: Pin, budget: &Arc<Budget>) -> Arc<Pin> {
        let Some(place) = self.pins.get(number as usize) else {
            return Arc::new(pin);
        };
        if !self.make_room(pin.bytes, budget) {
            return Arc::new(pin);
        }
        pin.budget = Some(budget.clone());
        let pin = Arc::new(pin);
        let mut place = place.write();
        if place.is_none() {
            self.clock.lock().push_back(number);
        }
        *place = Some(pin.clone());
        pin
    }

    /// Takes `bytes` from the budget, dropping pins of this table that nobody touched for a round.
    fn make_room(&self, bytes: usize, budget: &Budget) -> bool {
        let mut chances = 2 * self.clock.lock().len();
        while !budget.take(bytes) {
            if chances == 0 || bytes > budget.limit {
                return false;
            }
            chances -= 1;
            self.tick();
        }
        true
    }

    fn tick(&self) {
        let Some(number) = self.clock.lock().pop_front() else { return };
        let mut place = self.pins[number as usize].write();
        match &*place {
            Some(pin) if pin.touched.swap(false, Relaxed) => {
                drop(place);
                self.clock.lock().push_back(number);
            }
            _ => *place = None,
        }
    }

    /// Takes over the pins of `other` for the numbers in `unchanged`, if they are young enough.
    fn inherit(&mut self, other: &PinTable, now: Instant, unchanged: impl Iterator<Item = usize>) {
        for number in unchanged {
            let (Some(mine), Some(theirs)) = (self.pins.get_mut(number), other.pins.get(number)) else {
                break;
            };
            let pin = theirs.read().clone().filter(|pin| now.duration_since(pin.born) < PIN_AGE_MAX);
            if let Some(pin) = pin {
                *mine.get_mut() = Some(pin);
                self.clock.get_mut().push_back(number as u32);
            }
        }
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
    budget: Arc<Budget>,
    pub(crate) born: Instant,
}

impl Snapshot {
    pub(crate) fn new(
        header: Header,
        tables: Quiet<ReadTables>,
        geometry: Geometry,
        kept_columns: [Option<Column>; 2],
        budget: Arc<Budget>,
        born: Instant,
    ) -> Result<Self> {
        let lists = header.first_list..header.first_list.saturating_add(header.nlist);
        let entries = tables.list_entries(lists)?;
        // A page of the directory that is gone reads as one of empty lists, and one that was put back to an
        // earlier state has good checksums.
        let total: u64 = entries.iter().map(|entry| u64::from(entry.n)).sum();
        if total != header.ntotal {
            let what = format!("the lists hold {total} rows, the header says {}", header.ntotal);
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
        Ok(Snapshot {
            pins: PinTable::new(pins as usize),
            first_page: [ids_from, rows_from, exact_from],
            header,
            tables,
            geometry,
            kept_columns,
            entries,
            budget,
            born,
        })
    }

    /// Takes over what `older` has pinned of lists that did not change since. Column pages have no
    /// change number of their own in the directory: they are read again.
    pub(crate) fn inherit(&mut self, older: &Snapshot) {
        if older.header.uuid != self.header.uuid || older.header.first_list != self.header.first_list {
            return;
        }
        let version = |entry: &ListEntry| (entry.n, entry.seq, entry.nonce);
        let pairs = self.entries.iter().zip(&older.entries).enumerate();
        let same = pairs.filter(|(_, (mine, theirs))| version(mine) == version(theirs)).map(|(list, _)| list);
        self.pins.inherit(&older.pins, Instant::now(), same);
    }

    /// The directory entry of `list`.
    pub(crate) fn entry(&self, list: u32) -> Result<ListEntry> {
        let at = list.wrapping_sub(self.header.first_list) as usize;
        let missing = || Error::corrupt(&self.tables.names.lists, list.into(), "no such list");
        self.entries.get(at).copied().ok_or_else(missing)
    }

    /// The blocks of `list`, checked; pinned if the budget allows.
    fn list(&self, list: u32, n: u32) -> Result<Arc<Pin>> {
        let number = list - self.header.first_list;
        if let Some(pin) = self.pins.get(number) {
            return Ok(pin);
        }
        let mut guards = Vec::with_capacity(self.geometry.blocks(n) as usize);
        let mut digest = 0;
        for block in 0..self.geometry.blocks(n) {
            let key = block_key(list, block);
            let (table, name) = self.tables.home(&self.geometry, n, block);
            let guard = read_value(table, name, key)?;
            let entries = self.geometry.entries(n, block) as usize;
            digest ^= BlockRef::open(name, key, guard.value(), &self.geometry, entries)?.crc;
            guards.push(guard);
        }
        check_digest(&self.tables.names.blocks, list, &self.entry(list)?, digest)?;
        Ok(self.pins.keep(number, Pin::new(guards, self.born), &self.budget))
    }

    /// Calls `each` for the blocks of `list`, in order.
    pub(crate) fn visit(&self, list: u32, each: &mut dyn FnMut(BlockRef<'_>) -> Result<()>) -> Result<()> {
        let n = self.entry(list)?.n;
        if n == 0 {
            return Ok(());
        }
        let pin = self.list(list, n)?;
        for (block, guard) in pin.guards.iter().enumerate() {
            if let Some(next) = pin.guards.get(block + 1) {
                Kernels::get().prefetch(next.value());
            }
            let entries = self.geometry.entries(n, block as u32) as usize;
            let block = BlockRef::reopen(guard.value(), &self.geometry, entries).ok_or_else(|| {
                Error::corrupt(&self.tables.names.blocks, block_key(list, block as u32), "the block changed")
            })?;
            each(block)?;
        }
        Ok(())
    }

    /// Calls `touch` with the first bytes of `list`, if they are pinned: to have them in the cache soon.
    pub(crate) fn peek(&self, list: u32, touch: impl FnOnce(&[u8])) {
        let number = list.wrapping_sub(self.header.first_list) as usize;
        let Some(place) = self.pins.pins.get(number) else { return };
        if let Some(guard) = place.read().as_ref().and_then(|pin| pin.guards.first()) {
            touch(guard.value());
        }
    }

    /// The id of `row`.
    pub(crate) fn id(&self, row: u32) -> Result<u64> {
        let column = ids_column();
        let name = &self.tables.names.ids;
        let page = self.page(self.first_page[0], column, &self.tables.ids, name, row)?;
        let id = page.as_ref().and_then(|pin| decode_id(pinned_entry(pin, column, row)?));
        id.ok_or_else(|| Error::corrupt(name, row.into(), "the row has no id"))
    }

    /// Copies the kept vector of `row`, as stored, to `out`; false if the index keeps none at that stage.
    pub(crate) fn kept_row(&self, stage: Stage, row: u32, out: &mut Vec<u8>) -> Result<bool> {
        let Some(column) = self.kept_columns[stage as usize] else { return Ok(false) };
        let (table, name) = self.tables.kept(stage);
        let page = self.page(self.first_page[1 + stage as usize], column, table, name, row)?;
        out.clear();
        let entry = page.as_ref().and_then(|pin| pinned_entry(pin, column, row));
        let missing = || Error::corrupt(name, row.into(), "the kept row is missing");
        out.extend_from_slice(entry.ok_or_else(missing)?);
        Ok(true)
    }

    fn page(
        &self,
        first: u32,
        column: Column,
        table: &ReadBytes,
        name: &TableName,
        row: u32,
    ) -> Result<Option<Arc<Pin>>> {
        let page = column.page_of(row);
        if let Some(pin) = self.pins.get(first + page) {
            return Ok(Some(pin));
        }
        let Some(guard) = fetch_owned(table, u64::from(page))? else { return Ok(None) };
        column.open_page(name, page, guard.value())?;
        Ok(Some(self.pins.keep(first + page, Pin::new(vec![guard], self.born), &self.budget)))
    }
}

fn pinned_entry(pin: &Pin, column: Column, row: u32) -> Option<&[u8]> {
    let page = column.reopen_page(pin.guards.first()?.value())?;
    Some(column.entry(page, row))
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
