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
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
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
    first: Option<Guard>,
    rest: Vec<Guard>,
    bytes: usize,
    born: Instant,
    touched: AtomicBool,
    /// The budget that `bytes` were taken from; none for a pin that is let go at once.
    budget: Option<Arc<Budget>>,
}

/// Bytes of the page run that redb holds a value of `bytes` in: the next power of two.
fn page_run(bytes: usize) -> usize {
    (bytes + 16).next_power_of_two().max(4096)
}

impl Pin {
    fn new(first: Option<Guard>, rest: Vec<Guard>, born: Instant) -> Self {
        let bytes = first.iter().chain(&rest).map(|guard| page_run(guard.value().len())).sum();
        Pin { first, rest, bytes, born, touched: AtomicBool::new(true), budget: None }
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.first.iter().chain(&self.rest).map(|guard| guard.value())
    }

    fn first(&self) -> Option<&[u8]> {
        self.first.as_ref().map(|guard| guard.value())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A pin in use.
enum Held<'s> {
    Resident(&'s Pin),
    Shared(Arc<Pin>),
}

impl Deref for Held<'_> {
    type Target = Pin;

    fn deref(&self) -> &Pin {
        match self {
            Held::Resident(pin) => pin,
            Held::Shared(pin) => pin,
        }
    }
}

/// Pins by number: lists first, then the pages of the `ids` column, then those of the columns of kept rows.
enum PinTable {
    /// The whole index fits the budget: what is pinned stays, and is read without a lock and without counting
    /// references, which two threads would pass back and forth.
    Resident(Vec<OnceLock<Arc<Pin>>>),
    Clocked(Clocked),
}

/// Pins that make room for each other.
struct Clocked {
    pins: Vec<RwLock<Option<Arc<Pin>>>>,
    /// Numbers in the order in which the clock hand comes by.
    clock: Mutex<VecDeque<u32>>,
}

impl PinTable {
    fn new(n: usize, resident: bool) -> Self {
        match resident {
            true => PinTable::Resident((0..n).map(|_| OnceLock::new()).collect()),
            false => PinTable::Clocked(Clocked {
                pins: (0..n).map(|_| RwLock::new(None)).collect(),
                clock: Mutex::default(),
            }),
        }
    }

    fn get(&self, number: u32) -> Option<Held<'_>> {
        match self {
            PinTable::Resident(pins) => pins.get(number as usize)?.get().map(|pin| Held::Resident(pin)),
            PinTable::Clocked(clocked) => clocked.get(number).map(Held::Shared),
        }
    }

    fn resident(&self, number: u32) -> Option<&Pin> {
        match self {
            PinTable::Resident(pins) => pins.get(number as usize)?.get().map(|pin| &**pin),
            PinTable::Clocked(_) => None,
        }
    }

    /// Asks for the pin itself: what it holds is found through it.
    fn prefetch(&self, number: u32) {
        if let Some(pin) = self.resident(number) {
            Kernels::get().prefetch_value(pin);
        }
    }

    /// Keeps `pin` if the budget has or makes room for it.
    fn keep(&self, number: u32, mut pin: Pin, budget: &Arc<Budget>) -> Held<'_> {
        match self {
            PinTable::Resident(pins) => match pins.get(number as usize) {
                Some(place) if budget.take(pin.bytes) => {
                    pin.budget = Some(budget.clone());
                    Held::Resident(place.get_or_init(|| Arc::new(pin)))
                }
                _ => Held::Shared(Arc::new(pin)),
            },
            PinTable::Clocked(clocked) => Held::Shared(clocked.keep(number, pin, budget)),
        }
    }

    /// The pin of `number`, to be shared.
    fn shared(&self, number: usize) -> Option<Arc<Pin>> {
        match self {
            PinTable::Resident(pins) => pins.get(number)?.get().cloned(),
            PinTable::Clocked(clocked) => clocked.pins.get(number)?.read().clone(),
        }
    }

    /// Bytes that all pins hold.
    fn bytes(&self) -> usize {
        let bytes = |pin: &Arc<Pin>| pin.bytes;
        match self {
            PinTable::Resident(pins) => pins.iter().filter_map(|pin| pin.get().map(bytes)).sum(),
            PinTable::Clocked(clocked) => {
                clocked.pins.iter().filter_map(|pin| pin.read().as_ref().map(bytes)).sum()
            }
        }
    }

    /// Takes over the pins of `other` for the numbers in `unchanged`, if they are young enough.
    fn inherit(&mut self, other: &PinTable, now: Instant, unchanged: impl Iterator<Item = usize>) {
        for number in unchanged {
            let Some(pin) = other.shared(number).filter(|pin| now.duration_since(pin.born) < PIN_AGE_MAX)
            else {
                continue;
            };
            match self {
                PinTable::Resident(pins) => {
                    let _ = pins.get(number).map(|place| place.set(pin));
                }
                PinTable::Clocked(clocked) => {
                    if let Some(place) = clocked.pins.get_mut(number) {
                        *place.get_mut() = Some(pin);
                        clocked.clock.get_mut().push_back(number as u32);
                    }
                }
            }
        }
    }
}

impl Clocked {
    fn get(&self, number: u32) -> Option<Arc<Pin>> {
        let pin = self.pins.get(number as usize)?.read().clone()?;
        if !pin.touched.load(Relaxed) {
            pin.touched.store(true, Relaxed);
        }
        Some(pin)
    }

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
    /// Bytes of all that can be pinned.
    bytes: usize,
    /// The pin numbers of the first page of the `ids` column and of the columns of kept rows.
    first_page: [u32; 3],
    budget: Arc<Budget>,
    pub(crate) born: Instant,
}

impl Snapshot {
    /// Each row stands in `places` lists.
    pub(crate) fn new(
        header: Header,
        tables: Quiet<ReadTables>,
        geometry: Geometry,
        kept_columns: [Option<Column>; 2],
        places: usize,
        budget: Arc<Budget>,
        born: Instant,
    ) -> Result<Self> {
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
        let list_bytes = |entry: &ListEntry| -> usize {
            let blocks = 0..geometry.blocks(entry.n);
            blocks.map(|b| page_run(geometry.block_bytes(geometry.entries(entry.n, b) as usize))).sum()
        };
        let column_bytes = |column: Column| pages(column) as usize * (4096 << column.order);
        let bytes = entries.iter().map(list_bytes).sum::<usize>()
            + column_bytes(ids_column())
            + kept_columns.into_iter().flatten().map(column_bytes).sum::<usize>();
        Ok(Snapshot {
            pins: PinTable::new(pins as usize, bytes <= budget.limit.saturating_sub(budget.used())),
            bytes,
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
        // What the older one holds does not stand in the way: it will go.
        let free = self.budget.limit.saturating_sub(self.budget.used()).saturating_add(older.pins.bytes());
        if let (true, PinTable::Clocked(clocked)) = (self.bytes <= free, &self.pins) {
            self.pins = PinTable::new(clocked.pins.len(), true);
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
    fn list(&self, list: u32, n: u32) -> Result<Held<'_>> {
        let number = list - self.header.first_list;
        if let Some(pin) = self.pins.get(number) {
            return Ok(pin);
        }
        let (mut first, mut rest) = (None, Vec::new());
        let mut digest = 0;
        for block in 0..self.geometry.blocks(n) {
            let key = block_key(list, block);
            let (table, name) = self.tables.home(&self.geometry, n, block);
            let guard = read_value(table, name, key)?;
            let entries = self.geometry.entries(n, block) as usize;
            digest ^= BlockRef::open(name, key, guard.value(), &self.geometry, entries)?.crc;
            match first {
                None => first = Some(guard),
                Some(_) => rest.push(guard),
            }
        }
        check_digest(&self.tables.names.blocks, list, &self.entry(list)?, digest)?;
        Ok(self.pins.keep(number, Pin::new(first, rest, self.born), &self.budget))
    }

    /// Calls `each` for the blocks of `list`, in order.
    pub(crate) fn visit(&self, list: u32, each: &mut dyn FnMut(BlockRef<'_>) -> Result<()>) -> Result<()> {
        let n = self.entry(list)?.n;
        if n == 0 {
            return Ok(());
        }
        let pin = self.list(list, n)?;
        let mut values = pin.values().enumerate().peekable();
        while let Some((block, value)) = values.next() {
            if let Some((_, next)) = values.peek() {
                Kernels::get().prefetch(next);
            }
            let entries = self.geometry.entries(n, block as u32) as usize;
            let block = BlockRef::reopen(value, &self.geometry, entries).ok_or_else(|| {
                Error::corrupt(&self.tables.names.blocks, block_key(list, block as u32), "the block changed")
            })?;
            each(block)?;
        }
        Ok(())
    }

    /// Will soon [`peek`](Self::peek) into `list`.
    pub(crate) fn approach(&self, list: u32) {
        self.pins.prefetch(list.wrapping_sub(self.header.first_list));
    }

    /// The first bytes of `list`, if they are pinned for good: to have them in the cache soon.
    pub(crate) fn peek(&self, list: u32) -> Option<&[u8]> {
        self.pins.resident(list.wrapping_sub(self.header.first_list))?.first()
    }

    /// Will soon ask for the id of `row`.
    pub(crate) fn approach_id(&self, row: u32) {
        self.pins.prefetch(self.first_page[0] + ids_column().page_of(row));
    }

    /// Will ask for it at once, and for others.
    pub(crate) fn touch_id(&self, row: u32) {
        let column = ids_column();
        let pin = self.pins.resident(self.first_page[0] + column.page_of(row));
        if let Some(entry) = pin.and_then(|pin| pinned_entry(pin, column, row)) {
            Kernels::get().prefetch(entry);
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

    /// Calls `each(i, vector)` with the kept vector of `rows[i]`, as stored, for all of them in order; they are on
    /// their way from memory together.
    pub(crate) fn kept_rows(
        &self,
        stage: Stage,
        rows: &[u32],
        each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(column) = self.kept_columns[stage as usize] else { return Ok(()) };
        let (table, name) = self.tables.kept(stage);
        let first_page = self.first_page[1 + stage as usize];
        let missing = |row: u32| Error::corrupt(name, row.into(), "the kept row is missing");
        for &row in rows {
            self.pins.prefetch(first_page + column.page_of(row));
        }
        let mut pins = Vec::with_capacity(rows.len());
        for &row in rows {
            let page = self.page(first_page, column, table, name, row)?;
            let page = page.ok_or_else(|| missing(row))?;
            Kernels::get().prefetch(pinned_entry(&page, column, row).unwrap_or_default());
            pins.push(page);
        }
        for (i, (pin, &row)) in pins.iter().zip(rows).enumerate() {
            each(i, pinned_entry(pin, column, row).ok_or_else(|| missing(row))?)?;
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
    ) -> Result<Option<Held<'_>>> {
        let page = column.page_of(row);
        if let Some(pin) = self.pins.get(first + page) {
            return Ok(Some(pin));
        }
        let Some(guard) = fetch_owned(table, u64::from(page))? else { return Ok(None) };
        column.open_page(name, page, guard.value())?;
        Ok(Some(self.pins.keep(first + page, Pin::new(Some(guard), Vec::new(), self.born), &self.budget)))
    }
}

fn pinned_entry(pin: &Pin, column: Column, row: u32) -> Option<&[u8]> {
    let page = column.reopen_page(pin.first()?)?;
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
