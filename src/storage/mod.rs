//! Storage: an index as redb tables. It never knows what a float means.
//!
//! ```text
//! vellum/indexes            name → uuid; the empty name → store header
//! {index}/meta              0 → index header, rewritten by every change
//! {index}/model             kind≪32 | chunk → ≤ 65,520 B of centroids, parameters, tree, codec tables, note
//! {index}/lists             column: list → n, change number, statistics
//! {index}/blocks            list≪32 | block → block, where it is longer than 4,080 B
//! {index}/tails             list≪32 | block → the last, partial block of a list, where it is short
//! {index}/slots             column: row → list, offset (the direct map); two of both if rows spill
//! {index}/ids               column: row → id
//! {index}/rows              column: row → vector, if the specification keeps it
//! {index}/exact             column: row → vector, if it keeps an exact one beside a rounded one
//! {index}/map               id → row
//! {index}/free              row numbers that may be used again
//! {index}/twins             column: row → first row of the same vector, next one; only if equal vectors share an entry
//! {index}/keys, keymap      id → key, key → id; only if ids are keys
//! ```
//! redb rounds a large value up to 4096·2^k bytes, so full values are exactly that less 16, and values
//! below and above one page are never mixed in a table (measured: up to 1.39 times the bytes).

pub(crate) mod block;
pub(crate) mod changes;
pub(crate) mod column;
pub(crate) mod format;
pub(crate) mod ids;
pub(crate) mod lists;
pub(crate) mod pins;
pub(crate) mod sections;
pub(crate) mod snapshot;
pub(crate) mod twins;

use crate::guard::guarded;
use crate::{Error, Result};
use format::{Header, Kind, TableName, Uuid};
use redb::{
    AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};

/// A table of values under `u64` keys, open for writing.
pub(crate) type WriteBytes<'t> = Table<'t, u64, &'static [u8]>;
/// The same, frozen.
pub(crate) type ReadBytes = ReadOnlyTable<u64, &'static [u8]>;

/// A table of values under `u64` keys, whether open for writing or frozen.
pub(crate) trait BytesTable: ReadableTable<u64, &'static [u8]> {}
impl<T: ReadableTable<u64, &'static [u8]>> BytesTable for T {}

/// The value under `key`.
pub(crate) fn fetch<T: BytesTable>(table: &T, key: u64) -> Result<Option<AccessGuard<'_, &'static [u8]>>> {
    guarded(|| {
        let value = table.get(key)?;
        // Where the bytes begin and end is read from the page, too.
        let _ = value.as_ref().map(|value| value.value());
        Ok(value)
    })
}

/// The catalog: which indexes this file holds.
pub(crate) const CATALOG: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("vellum/indexes");

/// The open tables of one index. The parameters are the table types of a reader or a writer.
pub(crate) struct Tables<Bytes, Map, Free, Keymap> {
    pub(crate) names: Names,
    pub(crate) meta: Bytes,
    pub(crate) model: Bytes,
    pub(crate) lists: Bytes,
    pub(crate) blocks: Bytes,
    pub(crate) tails: Bytes,
    pub(crate) slots: Bytes,
    pub(crate) ids: Bytes,
    pub(crate) rows: Bytes,
    pub(crate) exact: Bytes,
    /// Only of an index whose [header](Header::shared) says so.
    pub(crate) twins: Option<Bytes>,
    pub(crate) keys: Bytes,
    pub(crate) map: Map,
    pub(crate) free: Free,
    pub(crate) keymap: Keymap,
}

/// Which of the two columns of kept rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `rows`: the only one, or the one that is scored first.
    Rows = 0,
    /// `exact`: what the best of those are scored with.
    Exact = 1,
}

/// Kept rows that are handed over at once.
pub(crate) const ROWS_AT_ONCE: usize = 8;

/// Takes kept rows, from the i-th of those asked for on.
pub(crate) type EachKept<'a> = dyn FnMut(usize, &[&[u8]]) -> Result<()> + 'a;

impl Stage {
    /// The kind of its pages.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Stage::Rows => Kind::Rows,
            Stage::Exact => Kind::Exact,
        }
    }
}

impl<Bytes, Map, Free, Keymap> Tables<Bytes, Map, Free, Keymap> {
    /// A column of kept rows and its name.
    pub(crate) fn kept(&self, stage: Stage) -> (&Bytes, &TableName) {
        match stage {
            Stage::Rows => (&self.rows, &self.names.rows),
            Stage::Exact => (&self.exact, &self.names.exact),
        }
    }

    /// The same to be changed.
    pub(crate) fn kept_mut(&mut self, stage: Stage) -> (&mut Bytes, &TableName) {
        match stage {
            Stage::Rows => (&mut self.rows, &self.names.rows),
            Stage::Exact => (&mut self.exact, &self.names.exact),
        }
    }
}

/// Tables of a writer.
pub(crate) type WriteTables<'t> =
    Tables<WriteBytes<'t>, Table<'t, u64, u32>, Table<'t, u64, ()>, Table<'t, &'static [u8], u64>>;
/// Tables of a reader.
pub(crate) type ReadTables =
    Tables<ReadBytes, ReadOnlyTable<u64, u32>, ReadOnlyTable<u64, ()>, ReadOnlyTable<&'static [u8], u64>>;

/// The names of an index's tables.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) index: String,
    pub(crate) meta: TableName,
    pub(crate) model: TableName,
    pub(crate) lists: TableName,
    pub(crate) blocks: TableName,
    pub(crate) tails: TableName,
    pub(crate) slots: TableName,
    pub(crate) ids: TableName,
    pub(crate) rows: TableName,
    pub(crate) exact: TableName,
    pub(crate) twins: TableName,
    pub(crate) keys: TableName,
    pub(crate) map: TableName,
    pub(crate) free: TableName,
    pub(crate) keymap: TableName,
}

impl Names {
    pub(crate) fn of(index: &str, uuid: Uuid) -> Self {
        let name = |part: &str| TableName { text: format!("{index}/{part}"), index: uuid };
        Names {
            index: index.into(),
            meta: name("meta"),
            model: name("model"),
            lists: name("lists"),
            blocks: name("blocks"),
            tails: name("tails"),
            slots: name("slots"),
            ids: name("ids"),
            rows: name("rows"),
            exact: name("exact"),
            twins: name("twins"),
            keys: name("keys"),
            map: name("map"),
            free: name("free"),
            keymap: name("keymap"),
        }
    }

    /// The tables with `u64` keys and byte values that every index has.
    pub(crate) fn bytes_tables(&self) -> [&TableName; 10] {
        [
            &self.meta,
            &self.model,
            &self.lists,
            &self.blocks,
            &self.tails,
            &self.slots,
            &self.ids,
            &self.rows,
            &self.exact,
            &self.keys,
        ]
    }

    /// True if `table` is one of them.
    pub(crate) fn contains(&self, table: &str) -> bool {
        let others = [&self.map, &self.free, &self.keymap, &self.twins];
        self.bytes_tables().into_iter().chain(others).any(|name| **name == *table)
    }
}

fn bytes_table(name: &str) -> TableDefinition<'_, u64, &'static [u8]> {
    TableDefinition::new(name)
}
fn map_table(name: &str) -> TableDefinition<'_, u64, u32> {
    TableDefinition::new(name)
}
fn free_table(name: &str) -> TableDefinition<'_, u64, ()> {
    TableDefinition::new(name)
}
fn keymap_table(name: &str) -> TableDefinition<'_, &'static [u8], u64> {
    TableDefinition::new(name)
}

/// All tables of an index. The two kinds of transaction open tables by methods of one name and no common trait.
macro_rules! open_tables {
    ($txn:ident, $index:ident) => {{
        let meta = $txn.open_table(bytes_table(&format!("{}/meta", $index)))?;
        // Without a header that can be read no frame opens: but it is the first thing that every verb asks for.
        let header = load_header(&meta, "meta").ok();
        let names = Names::of($index, header.as_ref().map_or(Uuid::default(), |header| header.uuid));
        let twins = match header.is_some_and(|header| header.shared) {
            true => Some($txn.open_table(bytes_table(&names.twins))?),
            false => None,
        };
        Ok(Tables {
            twins,
            meta,
            model: $txn.open_table(bytes_table(&names.model))?,
            lists: $txn.open_table(bytes_table(&names.lists))?,
            blocks: $txn.open_table(bytes_table(&names.blocks))?,
            tails: $txn.open_table(bytes_table(&names.tails))?,
            slots: $txn.open_table(bytes_table(&names.slots))?,
            ids: $txn.open_table(bytes_table(&names.ids))?,
            rows: $txn.open_table(bytes_table(&names.rows))?,
            exact: $txn.open_table(bytes_table(&names.exact))?,
            keys: $txn.open_table(bytes_table(&names.keys))?,
            map: $txn.open_table(map_table(&names.map))?,
            free: $txn.open_table(free_table(&names.free))?,
            keymap: $txn.open_table(keymap_table(&names.keymap))?,
            names,
        })
    }};
}

/// Opens (and, for a new index, makes) all tables of `index` for writing.
pub(crate) fn open_write<'t>(txn: &'t WriteTransaction, index: &str) -> Result<WriteTables<'t>> {
    open_tables!(txn, index)
}

/// Opens all tables of `index` as this read transaction sees them.
pub(crate) fn open_read(txn: &ReadTransaction, index: &str) -> Result<ReadTables> {
    guarded(|| open_tables!(txn, index))
}

/// Only the header of `index`, without opening its other tables.
pub(crate) fn read_header(txn: &ReadTransaction, index: &str) -> Result<Header> {
    let name = format!("{index}/meta");
    let unknown = || Error::UnknownIndex { name: index.into() };
    let header = guarded(|| match txn.open_table(bytes_table(&name)) {
        Ok(meta) => load_header(&meta, &name),
        Err(TableError::TableDoesNotExist(_)) => Err(unknown()),
        Err(e) => Err(e.into()),
    });
    if let Err(Error::UnknownIndex { .. }) = header {
        return header;
    }
    // An application may have a table of that name: then the catalog knows of no such index.
    header.map_err(|e| if in_catalog(txn, index).unwrap_or(true) { e } else { unknown() })
}

/// The uuid that the catalog has for `index`.
pub(crate) fn catalog_uuid(txn: &ReadTransaction, index: &str) -> Result<Option<[u8; 16]>> {
    guarded(|| match txn.open_table(CATALOG) {
        Ok(catalog) => Ok(catalog.get(index)?.and_then(|uuid| uuid.value().try_into().ok())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    })
}

/// Refuses a header of another index: redb checks no checksum, and a page of one table may stand in the place of another's.
/// All frames name their index by what the header says, so an empty one of another index would read as this one, emptied.
pub(crate) fn check_identity(name: &str, header: &Header, in_catalog: Option<Uuid>) -> Result<()> {
    match in_catalog == Some(header.uuid) {
        true => Ok(()),
        false => {
            Err(Error::corrupt(&format!("{name}/meta"), 0, "the catalog knows the index by another uuid"))
        }
    }
}

fn in_catalog(txn: &ReadTransaction, index: &str) -> Result<bool> {
    guarded(|| match txn.open_table(CATALOG) {
        Ok(catalog) => Ok(!index.is_empty() && catalog.get(index)?.is_some()),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(e) => Err(e.into()),
    })
}

/// The header out of an open `meta` table.
pub(crate) fn load_header<T: BytesTable>(meta: &T, name: &str) -> Result<Header> {
    match fetch(meta, 0)? {
        Some(value) => Header::decode(name, value.value()),
        None => Err(Error::corrupt(name, 0, "the index header is missing")),
    }
}

/// Makes the table of twins of a new index.
pub(crate) fn create_twins(txn: &WriteTransaction, names: &Names) -> Result<()> {
    txn.open_table(bytes_table(&names.twins))?;
    Ok(())
}

/// Drops all tables of `index`.
pub(crate) fn delete_tables(txn: &WriteTransaction, index: &str) -> Result<()> {
    let names = Names::of(index, Uuid::default());
    for name in names.bytes_tables() {
        txn.delete_table(bytes_table(name))?;
    }
    txn.delete_table(bytes_table(&names.twins))?;
    txn.delete_table(map_table(&names.map))?;
    txn.delete_table(free_table(&names.free))?;
    txn.delete_table(keymap_table(&names.keymap))?;
    Ok(())
}

/// Renames all tables of an index.
pub(crate) fn rename_tables(txn: &WriteTransaction, from: &str, to: &str) -> Result<()> {
    let (from, to) = (Names::of(from, Uuid::default()), Names::of(to, Uuid::default()));
    for (from, to) in from.bytes_tables().into_iter().zip(to.bytes_tables()) {
        txn.rename_table(bytes_table(from), bytes_table(to))?;
    }
    match txn.rename_table(bytes_table(&from.twins), bytes_table(&to.twins)) {
        // Few indexes have one.
        Ok(()) | Err(TableError::TableDoesNotExist(_)) => {}
        Err(e) => return Err(e.into()),
    }
    txn.rename_table(map_table(&from.map), map_table(&to.map))?;
    txn.rename_table(free_table(&from.free), free_table(&to.free))?;
    txn.rename_table(keymap_table(&from.keymap), keymap_table(&to.keymap))?;
    Ok(())
}
