//! The file as redb sees it: which value stands under which key now, as far as redb can say without failing.
//!
//! Nothing is copied here. A frame is named by the checksum of its header, and `scan` knows where it stands; so what redb
//! gives is what is *current*, and whether a table was walked to its end.

use super::medium::Medium;
use super::scan::Place;
use crate::guard::{Quiet, guarded};
use crate::storage::format::{Frame, Header, Kind, Uuid};
use crate::storage::{self, CATALOG, Names};
use crate::store::handle::Own;
use crate::{Error, Result};
use redb::{
    AccessGuard, Database, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata,
    TableDefinition, TableHandle, Value,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;

/// What redb says of one index.
#[derive(Debug, Default)]
pub(super) struct Reached {
    pub(super) uuid: Option<Uuid>,
    pub(super) header: Option<Header>,
    /// The values under their keys: the checksum that names a whole one, or nothing for one that is damaged.
    pub(super) values: HashMap<Place, Option<u32>>,
    /// Kinds whose tables were walked to their ends: a key that is not among the values is in no table.
    pub(super) complete: HashSet<Kind>,
    pub(super) map: BTreeMap<u64, u32>,
    pub(super) keys: BTreeMap<u64, Vec<u8>>,
    pub(super) keymap: BTreeMap<Vec<u8>, u64>,
}

/// Opens the file with redb and looks at every table.
///
/// # Errors
/// What redb says, or how it panicked, where it cannot even begin.
pub(super) fn reach(medium: &Medium) -> Result<Catalog> {
    let database = Own::open(&medium.backend(), |medium| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        Ok(builder.create_with_backend(medium).map_err(redb::Error::from)?)
    })?;
    let txn = Quiet::new(guarded(|| Ok(database.begin_read()?))?);
    let (names, whole) = names(&txn)?;
    let mut indexes = BTreeMap::new();
    for (name, uuid) in names {
        let reached = index(&txn, &name, uuid);
        indexes.insert(name, reached);
    }
    Ok(Catalog { indexes, whole })
}

/// The indexes that redb knows of.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) indexes: BTreeMap<String, Reached>,
    /// There are no others.
    pub(super) whole: bool,
}

const CACHE_BYTES: usize = 32 << 20;

/// The indexes that the catalog names, or else those that have tables; true if those are all.
fn names(txn: &ReadTransaction) -> Result<(BTreeMap<String, Option<Uuid>>, bool)> {
    let mut found = BTreeMap::new();
    let catalog = guarded(|| Ok(txn.open_table(CATALOG)?));
    let whole = catalog.as_ref().is_ok_and(|catalog| {
        walk(
            catalog,
            |name, uuid| {
                found.insert(name.to_string(), Uuid::try_from(uuid).ok());
            },
            |name| name.to_string(),
        )
    });
    found.remove("");
    if whole {
        return Ok((found, true));
    }
    let tables = guarded(|| {
        let names = txn.list_tables()?.map(|table| table.name().to_string());
        Ok(names.collect::<BTreeSet<String>>())
    });
    for table in tables.iter().flatten() {
        if let Some(index) = table.strip_suffix("/meta") {
            found.entry(index.into()).or_insert(None);
        }
    }
    match (found.is_empty(), catalog.err().or(tables.err())) {
        (true, Some(e)) => Err(e),
        _ => Ok((found, false)),
    }
}

fn index(txn: &ReadTransaction, name: &str, uuid: Option<Uuid>) -> Reached {
    let mut reached = Reached { uuid, header: storage::read_header(txn, name).ok(), ..Reached::default() };
    reached.uuid = reached.header.as_ref().map(|header| header.uuid).or(uuid);
    let names = Names::of(name, reached.uuid.unwrap_or_default());
    for (kind, tables) in [
        (Kind::Block, &[&names.blocks, &names.tails][..]),
        (Kind::Ids, &[&names.ids]),
        (Kind::Slots, &[&names.slots]),
        (Kind::Rows, &[&names.rows]),
        (Kind::Exact, &[&names.exact]),
        (Kind::Lists, &[&names.lists]),
        (Kind::Model, &[&names.model]),
        (Kind::Twins, &[&names.twins]),
    ] {
        let mut whole = true;
        for table in tables {
            let each = |key: u64, value: &[u8]| {
                let crc = Frame::open(table, kind, key, value).ok().map(|frame| frame.crc);
                let value = reached.values.entry((kind, key)).or_default();
                *value = value.or(crc);
            };
            whole &= numbered(txn, TableDefinition::<u64, &[u8]>::new(table), each);
        }
        if whole {
            reached.complete.insert(kind);
        }
    }
    numbered(txn, TableDefinition::<u64, u32>::new(&names.map), |id, row| {
        reached.map.insert(id, row);
    });
    numbered(txn, TableDefinition::<u64, &[u8]>::new(&names.keys), |id, key: &[u8]| {
        drop(reached.keys.insert(id, key.to_vec()));
    });
    if let Ok(keymap) = guarded(|| Ok(txn.open_table(TableDefinition::<&[u8], u64>::new(&names.keymap))?)) {
        walk(
            &keymap,
            |key, id| {
                reached.keymap.insert(key.to_vec(), id);
            },
            |key| key.to_vec(),
        );
    }
    reached
}

/// Gives each entry that can be read; true if those are all.
fn walk<K: Key + 'static, V: Value + 'static, O: Ord>(
    table: &ReadOnlyTable<K, V>,
    mut each: impl FnMut(K::SelfType<'_>, V::SelfType<'_>),
    own: impl Fn(&K::SelfType<'_>) -> O,
) -> bool {
    let mut count = 0;
    let mut seen = BTreeSet::new();
    let mut whole = true;
    for backward in [false, true] {
        whole = one_way(table, (Bound::Unbounded, Bound::Unbounded), backward, &mut |key, value| {
            if !seen.insert(own(&key)) {
                return false;
            }
            count += 1;
            each(key, value);
            true
        });
        if whole {
            break;
        }
    }
    whole && guarded(|| Ok(table.len()?)).is_ok_and(|len| len == count)
}

/// A range of keys.
type Span<'r, K> = (Bound<<K as Value>::SelfType<'r>>, Bound<<K as Value>::SelfType<'r>>);

/// Calls `each` until it says no; false if it does, or if redb fails.
fn one_way<'r, K: Key + 'static, V: Value + 'static>(
    table: &ReadOnlyTable<K, V>,
    span: Span<'r, K>,
    backward: bool,
    each: &mut dyn FnMut(K::SelfType<'_>, V::SelfType<'_>) -> bool,
) -> bool {
    let Ok(range) = guarded(|| Ok(table.range::<K::SelfType<'r>>(span)?)) else { return false };
    let mut range = Quiet::new(range);
    loop {
        let next = guarded(|| {
            let next = if backward { range.next_back() } else { range.next() };
            let Some(entry) = next else { return Ok(None) };
            let (key, value): (AccessGuard<'_, K>, AccessGuard<'_, V>) = entry?;
            Ok(Some(each(key.value(), value.value())))
        });
        match next {
            Ok(None) => return true,
            Ok(Some(true)) => {}
            Ok(Some(false)) | Err(_) => return false,
        }
    }
}

/// The same of a table under numbers: what lies between two failures is looked for from the middle.
fn numbered<V: Value + 'static>(
    txn: &ReadTransaction,
    definition: TableDefinition<'_, u64, V>,
    mut each: impl FnMut(u64, V::SelfType<'_>),
) -> bool {
    let table = match guarded(|| Ok(txn.open_table(definition)?)) {
        Ok(table) => table,
        // No table is whole: few indexes have twins.
        Err(Error::Redb(e)) if matches!(*e, redb::Error::TableDoesNotExist(_)) => return true,
        Err(_) => return false,
    };
    let mut count = 0;
    let mut gaps = VecDeque::from([(0, u64::MAX)]);
    let (mut tries, mut whole) = (0, true);
    while let Some((first, last)) = gaps.pop_front() {
        tries += 1;
        let (mut low, mut high) = (first, last);
        let mut done = false;
        // Keys that do not ascend, or lie outside, are a damaged page's.
        let forward =
            one_way(&table, (Bound::Included(first), Bound::Included(last)), false, &mut |key, value| {
                let sound = !done && (low..=last).contains(&key);
                if sound {
                    count += 1;
                    each(key, value);
                    done = key == last;
                    low = key.saturating_add(1);
                }
                sound
            });
        if forward || done {
            continue;
        }
        whole = false;
        let backward =
            one_way(&table, (Bound::Included(low), Bound::Included(last)), true, &mut |key, value| {
                let sound = !done && (low..=high).contains(&key);
                if sound {
                    each(key, value);
                    done = key == low;
                    high = key.saturating_sub(1);
                }
                sound
            });
        if !backward && !done && low < high && tries < GAPS_MAX {
            let middle = low + (high - low) / 2;
            gaps.push_back((low, middle));
            gaps.push_back((middle + 1, high));
        }
    }
    whole && guarded(|| Ok(table.len()?)).is_ok_and(|len| len == count)
}

/// Ranges of a table that are tried.
const GAPS_MAX: usize = 512;
