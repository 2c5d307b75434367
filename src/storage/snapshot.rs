//! A frozen state of one index, with the lists and column pages that queries touch pinned in memory.
//!
//! A redb `get` of a 16 KiB value costs 0.3–0.4 µs and a checksum of it as much again; a query probes
//! tens of lists. So the first query to touch a list or a page copies it, checked, into memory ([`pins`](super::pins)),
//! and later ones read that without redb and without a checksum: a list as one run of codes and one of row numbers,
//! a page as its entries. A copy holds no page of redb's, so a new snapshot takes over the pins of all lists and pages
//! that the commits in between did not touch, however old ([`Remains`]).

use super::block::{BlockRef, Geometry, Run};
use super::changes::Touched;
use super::column::Column;
use super::format::{Header, ListEntry};
use super::ids::{decode_id, ids_column};
use super::lists::{block_key, check_digest};
use super::pins::{Budget, PinTable, Pinned};
use super::twins::{Twin, twins_column};
use super::{EachKept, ROWS_AT_ONCE, ReadBytes, ReadTables, Stage};
use crate::guard::{Quiet, guarded};
use crate::kernel::{Arena, Kernels, Piece};
use crate::{Error, Result};
use redb::OwnedAccessGuard;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// How long a snapshot that nobody holds is kept, once commits have moved on: it holds the pages freed since.
pub(crate) const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);

/// Bytes that are pinned when a commit hands its state over, at most: the rest waits for whoever asks for it.
const AT_ONCE: usize = 64 << 20;
/// About what a column page takes.
const PAGE_BYTES: usize = 16 << 10;

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
    entries: Arc<Vec<ListEntry>>,
    pins: Arc<PinTable>,
    places: Places,
    /// Numbers of what the snapshot before had pinned and has changed since.
    changed: Vec<u32>,
    pub(crate) born: Instant,
}

/// The snapshot before, as far as it goes.
pub(crate) struct Older<'a> {
    pub(crate) remains: &'a Remains,
    /// The rows that changed since; none if that is not known.
    pub(crate) touched: Option<Touched>,
    /// The new snapshot takes its place: what it has reserved, and the pins of what changed, are free soon.
    pub(crate) replaced: bool,
}

/// What a snapshot takes over from an older one.
#[derive(Default)]
struct Inherited {
    /// Under their new numbers.
    pins: Vec<(u32, Piece)>,
    /// Numbers of what has changed, and bytes of the pins that hold what is no more.
    changed: Vec<u32>,
    gone_bytes: usize,
}

/// What a snapshot leaves to the next one: its pins, without the transaction that they were read in.
pub(crate) struct Remains {
    pub(crate) header: Header,
    entries: Arc<Vec<ListEntry>>,
    pins: Arc<PinTable>,
    places: Places,
}

/// Where columns stand in [`Places`].
const IDS: usize = 0;
const KEPT: usize = 1;
const TWINS: usize = 3;

fn kept_at(stage: Stage) -> usize {
    KEPT + stage as usize
}

/// Which list or page each pin is of, by number: lists first, then the pages of four columns.
#[derive(Clone, Copy)]
struct Places {
    /// The column of ids, those of kept rows and that of twins: their first number and their pages.
    columns: [(u32, u32); 4],
    kinds: [Option<Column>; 4],
}

impl Places {
    fn new(lists: u32, header: &Header, kept: [Option<Column>; 2]) -> Self {
        let (next_row, twins) = (header.next_row, header.shared.then(twins_column));
        let kinds = [Some(ids_column()), kept[Stage::Rows as usize], kept[Stage::Exact as usize], twins];
        let mut end = lists;
        let columns = kinds.map(|column| {
            let pages = column.map_or(0, |column| next_row.div_ceil(column.per_page()));
            let first = end;
            end = end.saturating_add(pages);
            (first, pages)
        });
        Places { columns, kinds }
    }

    fn count(&self) -> usize {
        let (first, pages) = self.columns[TWINS];
        first.saturating_add(pages) as usize
    }

    /// The column, by its place here, and the page that a number beyond the lists is of.
    fn page(&self, number: u32) -> Option<(usize, u32)> {
        let of = |&(first, pages): &(u32, u32)| number.checked_sub(first).filter(|page| *page < pages);
        self.columns.iter().enumerate().find_map(|(i, column)| Some((i, of(column)?)))
    }

    /// The number of a page.
    fn number(&self, column: usize, page: u32) -> Option<u32> {
        let (first, pages) = self.columns[column];
        (page < pages).then(|| first.saturating_add(page))
    }

    /// Bytes of all pages, as pins.
    fn bytes(&self) -> usize {
        let of = |(column, (_, pages)): (&Option<Column>, &(u32, u32))| {
            column.map_or(0, |column| *pages as usize * Arena::bytes_for(column.payload_bytes()))
        };
        self.kinds.iter().zip(&self.columns).map(of).sum()
    }
}

/// What a snapshot reads, and through what.
pub(crate) struct Source {
    pub(crate) header: Header,
    pub(crate) tables: Quiet<ReadTables>,
    pub(crate) geometry: Geometry,
    /// By [`Stage`].
    pub(crate) kept_columns: [Option<Column>; 2],
    /// Lists that each row stands in.
    pub(crate) places_of_a_row: usize,
    pub(crate) born: Instant,
}

impl Snapshot {
    /// Takes over what `older` has pinned of lists that did not change since, and of pages without a row that was
    /// touched.
    pub(crate) fn new(source: Source, budget: &Arc<Budget>, older: Option<Older<'_>>) -> Result<Self> {
        let Source { header, tables, geometry, kept_columns, places_of_a_row, born } = source;
        let lists = header.first_list..header.first_list.saturating_add(header.nlist);
        let entries = tables.list_entries(lists)?;
        // A page of the directory that is gone reads as one of empty lists, and one that was put back to an
        // earlier state has good checksums.
        let total: u64 = entries.iter().map(|entry| u64::from(entry.n)).sum();
        let expected = header.entries(places_of_a_row);
        if total != expected {
            let what = format!("the lists hold {total} entries, the header says {expected}");
            return Err(Error::corrupt(&tables.names.lists, 0, what));
        }
        if let Some(at) = entries.iter().position(|entry| entry.seq > header.seq) {
            let what = format!("list {at} is of change {}, the header of {}", entries[at].seq, header.seq);
            return Err(Error::corrupt(&tables.names.lists, 0, what));
        }
        guarded(|| tables.check_counts(&header))?;
        let places = Places::new(entries.len() as u32, &header, kept_columns);
        let list_bytes = |entry: &ListEntry| Arena::bytes_for(geometry.list_bytes(entry.n as usize));
        let bytes =
            entries.iter().filter(|entry| entry.n > 0).map(list_bytes).sum::<usize>() + places.bytes();
        let entries = Arc::new(entries);
        let inherited = match older {
            Some(older) => older.still_true(&header, &entries, &places),
            None => Inherited::default(),
        };
        let there = inherited.pins.iter().map(|(_, piece)| Arena::bytes_for(piece.len())).sum();
        let reserved = budget.reserve(bytes.saturating_sub(there), inherited.gone_bytes);
        let pins = PinTable::new(places.count(), budget, reserved);
        inherited.pins.into_iter().for_each(|(number, piece)| pins.share(number, piece));
        let (pins, changed) = (Arc::new(pins), inherited.changed);
        Ok(Snapshot { pins, places, changed, header, tables, geometry, kept_columns, entries, born })
    }

    /// Pins what the snapshot before had pinned in an older version, as far as the budget holds it for good, and no more
    /// than [`AT_ONCE`].
    pub(crate) fn pin_changed(&self) -> Result<()> {
        let nlist = self.entries.len() as u32;
        let mut left = if self.pins.is_resident() { AT_ONCE } else { 0 };
        for &number in &self.changed {
            let bytes = match self.entries.get(number as usize) {
                Some(entry) => self.geometry.list_bytes(entry.n as usize),
                None => PAGE_BYTES,
            };
            let Some(rest) = left.checked_sub(bytes) else { continue };
            left = rest;
            if number < nlist {
                let n = self.entries[number as usize].n;
                if n > 0 {
                    self.list(self.header.first_list + number, n)?;
                }
            } else if let Some((column, page)) = self.places.page(number)
                && let Some(kind) = self.places.kinds[column]
            {
                self.page(column, kind, page.saturating_mul(kind.per_page()))?;
            }
        }
        Ok(())
    }

    /// What the next snapshot may take over.
    pub(crate) fn remains(&self) -> Remains {
        let Snapshot { header, entries, pins, places, .. } = self;
        Remains { header: header.clone(), entries: entries.clone(), pins: pins.clone(), places: *places }
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
        if !self.pins.could_hold(Arena::bytes_for(self.geometry.list_bytes(n as usize))) {
            return self.stream(list, n, each);
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

    /// The same for a list that is larger than all pins together may be: one block after the other, so that no more than one
    /// is in memory. Whether they belong together is known only after the last; if not, all that was found is thrown away.
    fn stream(&self, list: u32, n: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        let mut digest = 0;
        for block in 0..self.geometry.blocks(n) {
            let (table, name) = self.tables.home(&self.geometry, n, block);
            let (key, entries) = (block_key(list, block), self.geometry.entries(n, block) as usize);
            let guard = read_value(table, name, key)?;
            let block = BlockRef::open(name, key, guard.value(), &self.geometry, entries)?;
            digest ^= block.crc;
            each(block.run)?;
        }
        check_digest(&self.tables.names.blocks, list, &self.entry(list)?, digest)
    }

    /// The bytes of `list`, if they are pinned for good: to have them in the cache soon.
    pub(crate) fn peek(&self, list: u32) -> Option<&[u8]> {
        self.pins.resident(list.wrapping_sub(self.header.first_list)).map(|pin| &**pin)
    }

    /// Will soon ask for the ids of `rows`.
    pub(crate) fn approach_ids(&self, rows: &[u32]) {
        rows.iter().for_each(|row| self.approach(IDS, ids_column(), *row));
    }

    fn approach(&self, at: usize, column: Column, row: u32) {
        if let Some(page) = self.resident(at, column, row) {
            Kernels::get().prefetch(column.entry(page, row));
        }
    }

    /// The page of `row` in a column, if it is pinned for good.
    fn resident(&self, at: usize, column: Column, row: u32) -> Option<&[u8]> {
        self.pins.resident(self.places.number(at, column.page_of(row))?).map(|pin| &**pin)
    }

    /// The id of `row`.
    pub(crate) fn id(&self, row: u32) -> Result<u64> {
        let name = &self.tables.names.ids;
        self.id_if_there(row)?.ok_or_else(|| Error::corrupt(name, row.into(), "the row has no id"))
    }

    /// The same of a row that may be free.
    pub(crate) fn id_if_there(&self, row: u32) -> Result<Option<u64>> {
        let column = ids_column();
        let page = self.page(IDS, column, row)?;
        Ok(page.as_ref().and_then(|page| decode_id(page.entry(column, row)?)))
    }

    /// The twin of `row`.
    pub(crate) fn twin(&self, row: u32) -> Result<Option<Twin>> {
        let column = twins_column();
        if let Some(page) = self.resident(TWINS, column, row) {
            return Ok(Twin::decode(column.entry(page, row)));
        }
        let page = self.page(TWINS, column, row)?;
        Ok(page.as_ref().and_then(|page| Twin::decode(page.entry(column, row)?)))
    }

    /// Will soon ask for the kept vectors of `rows`.
    pub(crate) fn approach_rows(&self, stage: Stage, rows: &[u32]) {
        if let Some(column) = self.kept_columns[stage as usize] {
            rows.iter().for_each(|row| self.approach(kept_at(stage), column, *row));
        }
    }

    /// Calls `each(i, vectors)` with the kept vectors of `rows[i..]`, as stored, some at a time and in order.
    pub(crate) fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        let Some(column) = self.kept_columns[stage as usize] else { return Ok(()) };
        let (at, name) = (kept_at(stage), self.tables.kept(stage).1);
        for (some, rows) in rows.chunks(ROWS_AT_ONCE).enumerate() {
            let mut pages = [const { None }; ROWS_AT_ONCE];
            let mut vectors = [&[][..]; ROWS_AT_ONCE];
            for ((vector, page), &row) in vectors.iter_mut().zip(&mut pages).zip(rows) {
                if let Some(resident) = self.resident(at, column, row) {
                    *vector = column.entry(resident, row);
                    continue;
                }
                *page = self.page(at, column, row)?;
                let missing = || Error::corrupt(name, row.into(), "the kept row is missing");
                *vector = page.as_ref().and_then(|page| page.entry(column, row)).ok_or_else(missing)?;
            }
            each(some * ROWS_AT_ONCE, &vectors[..rows.len()])?;
        }
        Ok(())
    }

    /// The page of `row` in a column, checked; pinned if the budget allows. None if there is no such page.
    fn page(&self, at: usize, column: Column, row: u32) -> Result<Option<Page<'_>>> {
        let (table, name) = match at {
            IDS => (&self.tables.ids, &self.tables.names.ids),
            KEPT => self.tables.kept(Stage::Rows),
            TWINS => match &self.tables.twins {
                Some(table) => (table, &self.tables.names.twins),
                None => return Ok(None),
            },
            _ => self.tables.kept(Stage::Exact),
        };
        let page = column.page_of(row);
        let Some(number) = self.places.number(at, page) else { return Ok(None) };
        if let Some(pin) = self.pins.get(number) {
            return Ok(Some(Page::Pinned(pin)));
        }
        let Some(guard) = fetch_owned(table, u64::from(page))? else { return Ok(None) };
        let pin = self.pins.keep(number, &[column.open_page(name, page, guard.value())?]);
        Ok(Some(pin.map_or(Page::Loose(guard), Page::Pinned)))
    }
}

impl Remains {
    /// Leaves what is reserved and not taken to others: nobody has asked for a while.
    pub(crate) fn give_up_reservation(&self) {
        self.pins.give_up_reservation();
    }
}

impl Older<'_> {
    /// What is left of the pins in the state that `header` and the others speak of. What was reserved and not taken is
    /// free again.
    fn still_true(self, header: &Header, entries: &[ListEntry], places: &Places) -> Inherited {
        let Older { remains, touched, replaced } = self;
        if replaced {
            remains.give_up_reservation();
        }
        let same_index = remains.header.uuid == header.uuid;
        let same_lists = same_index && remains.header.first_list == header.first_list;
        let version = |entry: &ListEntry| (entry.n, entry.seq, entry.nonce);
        let same = |a: &ListEntry, b: &ListEntry| same_lists && version(a) == version(b);
        let changed = touched.and_then(|touched| places.pages_of(&touched));
        let new_number = |number: u32| match remains.entries.get(number as usize) {
            Some(theirs) => entries.get(number as usize).filter(|mine| same(mine, theirs)).map(|_| number),
            None => {
                let (column, page) = remains.places.page(number)?;
                let changed = changed.as_ref()?;
                if !same_index || changed[column].binary_search(&page).is_ok() {
                    return None;
                }
                places.number(column, page)
            }
        };
        let mut inherited = Inherited::default();
        for (number, piece) in remains.pins.pieces() {
            match new_number(number) {
                Some(number) => inherited.pins.push((number, piece)),
                None => {
                    inherited.gone_bytes += if replaced { Arena::bytes_for(piece.len()) } else { 0 };
                    inherited.changed.extend(match remains.places.page(number) {
                        Some((column, page)) => places.number(column, page),
                        None => Some(number).filter(|list| same_lists && (*list as usize) < entries.len()),
                    });
                }
            }
        }
        inherited
    }
}

impl Places {
    /// The pages that hold touched rows, ascending, by column.
    fn pages_of(&self, touched: &Touched) -> Option<[Vec<u32>; 4]> {
        let Touched::Rows(rows) = touched else { return None };
        Some(self.kinds.map(|column| {
            let mut pages: Vec<u32> = match column {
                Some(column) => rows.iter().map(|row| column.page_of(row)).collect(),
                None => Vec::new(),
            };
            pages.dedup();
            pages
        }))
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
