//! redb's own tables, checked before redb changes them.
//!
//! redb compares no checksum when it reads. A damaged page in its lists of freed pages makes it panic in the middle of a
//! commit, and once more while it gives up what it holds: that ends the process, and no guard can stop it. It commits
//! when it closes a file, too. So before each transaction that writes, and before closing, the pages of its system tree are read
//! from the medium and compared with the checksums that the commit header leads to:
//!
//! ```text
//! header of the file ── the slot of the last commit ── root of the system tree ── its leaves: one definition a table
//!                                                                                     └── root of the table's tree ── its pages
//! ```
//! These are some ten or twenty pages, which have just been written. The layout is that of redb's file format 3 (its
//! `design.md`); a file of another format is left to redb.

use crate::{Error, Result};
use redb::StorageBackend;
use twox_hash::XxHash3_128;

/// Checks redb's system tree as of the last durable commit. No transaction may be committing meanwhile: its pages would be
/// used again.
///
/// # Errors
/// [`Error::Corrupt`] for the first page that is damaged; [`Error::Io`].
pub(super) fn check_system_tree(medium: &dyn StorageBackend) -> Result<()> {
    let (mut pages, header) = Pages::open(medium)?;
    pages.check_tables(&header, SYSTEM_ROOT, &mut Err)
}

/// False after a crash of a commit in one phase: only redb can say then which slot counts, when it opens the file.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Io`].
pub(super) fn is_settled(medium: &dyn StorageBackend) -> Result<bool> {
    let (_, header) = Pages::open(medium)?;
    let (recovery_required, two_phases) = (header[9] & 2 != 0, header[9] & 4 != 0);
    Ok(!recovery_required || two_phases)
}

/// Checks all trees, the values of multimap tables aside; each damaged page is `found`, and what it leads to is not looked at.
///
/// # Errors
/// [`Error::Corrupt`] if nothing can be looked at; [`Error::Io`].
pub(super) fn check_all_trees(medium: &dyn StorageBackend, found: &mut dyn FnMut(Error)) -> Result<()> {
    let (mut pages, header) = Pages::open(medium)?;
    let mut found = |e| match e {
        Error::Corrupt { .. } => {
            found(e);
            Ok(())
        }
        e => Err(e),
    };
    [SYSTEM_ROOT, USER_ROOT].into_iter().try_for_each(|at| pages.check_tables(&header, at, &mut found))
}

fn damaged(table: &str, place: u64, what: &str) -> Error {
    Error::corrupt(table, place, what)
}

/// What redb has no table for, as errors name it.
const OUTSIDE: &str = "(redb)";

// ---- the header ----

const HEADER_BYTES: usize = 320;
const SLOT_BYTES: usize = 128;
const FORMAT: u8 = 3;

/// Where the roots stand in the slot of a commit.
const USER_ROOT: usize = 8;
const SYSTEM_ROOT: usize = 40;

/// The slot of the last commit; none in a format that is not known.
fn last_slot(header: &[u8; HEADER_BYTES]) -> Result<Option<&[u8]>> {
    let primary = usize::from(header[9] & 1);
    let slot = &header[64 + primary * SLOT_BYTES..][..SLOT_BYTES];
    let (fields, checksum) = slot.split_at(SLOT_BYTES - 16);
    if u128_at(checksum, 0) != Some(XxHash3_128::oneshot(fields)) {
        return Err(damaged(OUTSIDE, 0, "the header's slot has another checksum"));
    }
    Ok((fields[0] == FORMAT).then_some(fields))
}

/// Where pages stand in the file.
#[derive(Clone, Copy)]
struct Geometry {
    page_bytes: u64,
    region_bytes: u64,
    region_header_bytes: u64,
    len: u64,
}

impl Geometry {
    fn of(header: &[u8], len: u64) -> Result<Self> {
        let field = |at: usize| u32_at(header, at).map_or(0, |value| value as u64);
        let (page_bytes, header_pages, data_pages) = (field(12), field(16), field(20));
        let most = INDEX_MASK + 1;
        if !page_bytes.is_power_of_two() || page_bytes > 1 << 20 || header_pages > most || data_pages > most {
            return Err(damaged(OUTSIDE, 0, "the header has impossible sizes"));
        }
        let region_bytes = (header_pages + data_pages) * page_bytes;
        Ok(Geometry { page_bytes, region_bytes, region_header_bytes: header_pages * page_bytes, len })
    }

    /// Offset and length of a page, if it lies within the file.
    fn place(&self, page: u64) -> Option<(u64, usize)> {
        let order = page >> 59;
        let index = page & (INDEX_MASK >> order);
        let region = page >> 20 & INDEX_MASK;
        let bytes = self.page_bytes << order.min(20);
        let offset = self.page_bytes + region * self.region_bytes + self.region_header_bytes + index * bytes;
        let inside = order <= 20 && offset.checked_add(bytes)? <= self.len;
        inside.then_some((offset, bytes as usize))
    }
}

/// Twenty bits number the pages of a region, and twenty the regions.
const INDEX_MASK: u64 = 0xF_FFFF;

// ---- the trees ----

/// A page, and the checksum that its parent has of it.
#[derive(Clone, Copy)]
struct Root {
    page: u64,
    checksum: u128,
}

impl Root {
    fn at(bytes: &[u8], at: usize) -> Option<Self> {
        Some(Root { page: u64_at(bytes, at)?, checksum: u128_at(bytes, at + 8)? })
    }
}

/// Bytes of each key and value of a table, where all have the same.
#[derive(Clone, Copy)]
struct Widths {
    key: Option<usize>,
    value: Option<usize>,
}

struct Pages<'m> {
    medium: &'m dyn StorageBackend,
    geometry: Geometry,
    /// Bytes that may still be read: no page belongs to two trees.
    left: u64,
    page: Vec<u8>,
}

impl<'m> Pages<'m> {
    fn open(medium: &'m dyn StorageBackend) -> Result<(Self, [u8; HEADER_BYTES])> {
        let mut header = [0; HEADER_BYTES];
        let len = medium.len()?;
        if len < HEADER_BYTES as u64 {
            return Err(damaged(OUTSIDE, 0, "the header is cut off"));
        }
        medium.read(0, &mut header)?;
        let geometry = Geometry::of(&header, len)?;
        Ok((Pages { medium, geometry, left: len, page: Vec::new() }, header))
    }

    /// Checks the tree of tables whose root stands at `root` in the last slot, and each table.
    fn check_tables(&mut self, header: &[u8; HEADER_BYTES], root: usize, found: Found<'_>) -> Result<()> {
        // One byte for each of the two says whether there is such a tree.
        let Some(slot) = last_slot(header)?.filter(|slot| slot[1 + root / SYSTEM_ROOT] != 0) else {
            return Ok(());
        };
        let Some(root) = Root::at(slot, root) else { return Ok(()) };
        let mut tables = Vec::new();
        self.walk("(tables)", root, Widths { key: None, value: None }, found, |leaf| {
            tables.extend(definitions(leaf)?);
            Some(())
        })?;
        tables
            .into_iter()
            .try_for_each(|table| self.walk(&table.name, table.root, table.widths, found, |_| Some(())))
    }

    /// Compares all pages of a tree with their checksums; gives the leaves to `each`, which says nothing of one that makes no sense.
    fn walk(
        &mut self,
        table: &str,
        root: Root,
        widths: Widths,
        found: Found<'_>,
        mut each: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<()> {
        let mut to_do = vec![root];
        while let Some(next) = to_do.pop() {
            let place = match self.read(table, next) {
                Ok(place) => place,
                Err(e) => {
                    found(e)?;
                    continue;
                }
            };
            let used = used_bytes(&self.page, widths).and_then(|end| self.page.get(..end));
            if used.map(XxHash3_128::oneshot) != Some(next.checksum) {
                found(damaged(table, place, "a page of redb's has another checksum"))?;
                continue;
            }
            let page = used.unwrap_or_default();
            let understood = match page.first() {
                Some(&BRANCH) => children(page).map(|children| to_do.extend(children)),
                _ => each(page),
            };
            if understood.is_none() {
                found(damaged(table, place, "a page of redb's makes no sense"))?;
            }
        }
        Ok(())
    }

    /// Reads a page; its offset in the file.
    fn read(&mut self, table: &str, root: Root) -> Result<u64> {
        let place = self.geometry.place(root.page);
        let (offset, bytes) =
            place.ok_or_else(|| damaged(table, root.page, "a page of redb's lies beyond the file"))?;
        let left = self.left.checked_sub(bytes as u64);
        self.left = left.ok_or_else(|| damaged(table, offset, "a page of redb's stands in two places"))?;
        self.page.resize(bytes, 0);
        self.medium.read(offset, &mut self.page)?;
        Ok(offset)
    }
}

/// Told of each damaged page; an error ends the walk.
type Found<'f> = &'f mut dyn FnMut(Error) -> Result<()>;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// How much of a page its checksum is of.
fn used_bytes(page: &[u8], widths: Widths) -> Option<usize> {
    let count = u16_at(page, 2)? as usize;
    let last = count.checked_sub(1)?;
    let ends = |width: Option<usize>| if width.is_none() { 4 * count } else { 0 };
    match *page.first()? {
        LEAF => {
            let keys = 4 + ends(widths.key) + ends(widths.value);
            match (widths.key, widths.value) {
                (_, None) => Some(u32_at(page, 4 + ends(widths.key) + 4 * last)? as usize),
                (None, Some(value)) => {
                    value.checked_mul(count)?.checked_add(u32_at(page, 4 + 4 * last)? as usize)
                }
                (Some(key), Some(value)) => key.checked_add(value)?.checked_mul(count)?.checked_add(keys),
            }
        }
        BRANCH => {
            let keys = 8 + 24 * (count + 1);
            match widths.key {
                Some(key) => key.checked_mul(count)?.checked_add(keys),
                None => Some(u32_at(page, keys + 4 * last)? as usize),
            }
        }
        _ => None,
    }
}

fn children(page: &[u8]) -> Option<Vec<Root>> {
    let count = u16_at(page, 2)? as usize + 1;
    let child = |n: usize| {
        Some(Root { checksum: u128_at(page, 8 + 16 * n)?, page: u64_at(page, 8 + 16 * count + 8 * n)? })
    };
    (0..count).map(child).collect()
}

struct Table {
    name: String,
    root: Root,
    widths: Widths,
}

/// The tables that a leaf defines, without those that are empty.
fn definitions(leaf: &[u8]) -> Option<Vec<Table>> {
    let count = u16_at(leaf, 2)? as usize;
    let end = |n: usize| u32_at(leaf, 4 + 4 * n).map(|end| end as usize);
    let mut tables = Vec::new();
    for n in 0..count {
        let key_start = if n == 0 { 4 + 8 * count } else { end(n - 1)? };
        // All keys stand before all values.
        let (name, definition) =
            (leaf.get(key_start..end(n)?)?, leaf.get(end(count + n - 1)?..end(count + n)?)?);
        let width =
            |at: usize| Some((*definition.get(at)? != 0).then_some(u32_at(definition, at + 1)? as usize));
        let widths = match *definition.first()? {
            MULTIMAP => Widths { key: width(42)?, value: None },
            _ => Widths { key: width(42)?, value: width(47)? },
        };
        // Kind and length, then the root if there is one.
        if *definition.get(9)? != 0 {
            let name = String::from_utf8_lossy(name).into_owned();
            tables.push(Table { name, root: Root::at(definition, 10)?, widths });
        }
    }
    Some(tables)
}

const MULTIMAP: u8 = 4;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    array(bytes, at).map(u128::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, IdSelector, IndexSpec, Metric, Rows, Store};
    use parking_lot::Mutex;
    use redb::backends::InMemoryBackend;
    use std::sync::Arc;

    /// A medium that others may hold, too, and that remembers where it was read.
    #[derive(Clone, Debug)]
    struct Shared(Arc<InMemoryBackend>, Arc<Mutex<Vec<(u64, usize)>>>);

    impl StorageBackend for Shared {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.1.lock().push((offset, out.len()));
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    impl Shared {
        fn new() -> Self {
            Shared(Arc::new(InMemoryBackend::new()), Arc::default())
        }

        fn flip(&self, offset: u64, bit: u8) {
            let mut byte = [0];
            self.read(offset, &mut byte).unwrap();
            byte[0] ^= 1 << bit;
            self.write(offset, &byte).unwrap();
        }
    }

    fn churn(store: &Store, turn: u64) {
        let txn = store.begin_write().unwrap();
        let mut index = txn.index("a").unwrap();
        let rows: Vec<f32> = (0..40 * 8).map(|i| (i as u64 * 7 + turn) as f32).collect();
        index.add(Rows::new(&rows, 8).unwrap()).unwrap();
        if turn > 2 {
            index.remove_ids(&IdSelector::Range((turn - 3) * 40..(turn - 2) * 40)).unwrap();
        }
        drop(index);
        txn.commit().unwrap();
    }

    fn store(medium: &Shared, durability: Durability, quick_repair: bool) -> Store {
        let medium = medium.clone();
        let builder = Store::builder().durability(durability).quick_repair(quick_repair);
        let store = builder.open_backend(move || Ok(medium.clone())).unwrap();
        let txn = store.begin_write().unwrap();
        txn.create_index("a", &IndexSpec::flat(8, Metric::L2)).unwrap();
        txn.commit().unwrap();
        store
    }

    #[test]
    fn a_sound_store_passes_in_every_mode() {
        for (durability, quick_repair) in
            [Durability::Immediate, Durability::None].into_iter().flat_map(|d| [(d, true), (d, false)])
        {
            let medium = Shared::new();
            let store = store(&medium, durability, quick_repair);
            let held = store.begin_read().unwrap();
            for turn in 0..30 {
                churn(&store, turn);
                check_system_tree(&medium).unwrap();
            }
            drop(held);
            store.compact().unwrap();
            check_system_tree(&medium).unwrap();
            drop(store);
            check_system_tree(&medium).unwrap();
        }
    }

    /// Every page that the check reads, damaged anywhere in what its checksum is of: no transaction begins, the store closes, and
    /// afterwards it still reads.
    #[test]
    fn a_damaged_page_stops_writers_and_nobody_else() {
        let medium = Shared::new();
        let first = store(&medium, Durability::Immediate, true);
        (0..9).for_each(|turn| churn(&first, turn));
        drop(first);
        medium.1.lock().clear();
        check_system_tree(&medium).unwrap();
        let pages: Vec<(u64, usize)> = medium.1.lock().drain(..).skip(1).collect();
        assert!(pages.len() >= 3, "{pages:?}");
        for (n, &(offset, _)) in pages.iter().enumerate() {
            for (byte, bit) in [(0, 1), (2, 0), (3, 7), (4, 0), (9, 3), (20, 5)] {
                medium.flip(offset + byte, bit);
                assert!(
                    matches!(check_system_tree(&medium), Err(Error::Corrupt { .. })),
                    "page {n}, byte {byte}"
                );
                let again = medium.clone();
                // Opening reads some of these pages itself.
                if let Ok(store) = Store::builder().open_backend(move || Ok(again.clone())) {
                    assert!(matches!(store.begin_write().err(), Some(Error::Corrupt { .. })));
                    assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 120);
                }
                medium.flip(offset + byte, bit);
            }
        }
        check_system_tree(&medium).unwrap();
    }

    /// All that is damaged is found, by table.
    #[test]
    fn every_damaged_page_is_found() {
        let medium = Shared::new();
        let first = store(&medium, Durability::Immediate, true);
        (0..9).for_each(|turn| churn(&first, turn));
        drop(first);
        let found = |medium: &Shared| {
            let mut found = Vec::new();
            check_all_trees(medium, &mut |e| found.push(e)).unwrap();
            let place = |e: Error| match e {
                Error::Corrupt { table, key, .. } => (table, key),
                e => panic!("{e}"),
            };
            found.into_iter().map(place).collect::<Vec<(String, u64)>>()
        };
        medium.1.lock().clear();
        assert_eq!(found(&medium), []);
        let pages: Vec<u64> = medium.1.lock().drain(..).skip(1).map(|(offset, _)| offset).collect();
        for page in &pages {
            medium.flip(page + 4, 2);
            let found = found(&medium);
            assert!(matches!(&found[..], [(_, place)] if place == page), "{found:?} for {page}");
            medium.flip(page + 4, 2);
        }
        // The last ones are leaves of vellum's tables: one does not hide the other.
        let (a, b) = (pages[pages.len() - 1], pages[pages.len() - 2]);
        medium.flip(a + 4, 1);
        medium.flip(b + 4, 1);
        let found = found(&medium);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|(table, _)| table.contains('/')), "{found:?}");
    }

    #[test]
    fn a_hostile_header_asks_for_nothing() {
        let medium = Shared::new();
        drop(store(&medium, Durability::Immediate, true));
        let len = medium.len().unwrap();
        let mut header = [0; HEADER_BYTES];
        medium.read(0, &mut header).unwrap();
        let geometry = Geometry::of(&header, len).unwrap();
        for page in [u64::MAX, 20 << 59, 5 << 59 | 3, INDEX_MASK << 20, INDEX_MASK] {
            assert_eq!(geometry.place(page), None, "{page:x}");
        }
        for at in [12, 16, 20] {
            let mut worse = header;
            worse[at..at + 4].fill(0xFF);
            assert!(Geometry::of(&worse, len).is_err());
        }
    }
}
