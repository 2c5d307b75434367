//! What was chosen, into the new store: as values under their keys, which `repair` then makes an index of. Where the model
//! is lost, whatever vectors stand without it go into a new index of the same specification, untrained.

use super::choose::{Chosen, read};
use super::medium::Medium;
use crate::index::RepairReport;
use crate::index::model::{Model, spec_of};
use crate::index::repair::{open_block, read_column};
use crate::kernel::Element;
use crate::storage::format::{FrameHead, Header, Kind, Uuid, value_bytes};
use crate::storage::ids::{KEY_BYTES_MAX, NO_ID, decode_id, ids_column};
use crate::storage::twins::{Twin, twins_column};
use crate::storage::{self, CATALOG, ReadTables, WriteTables};
use crate::store::Store;
use crate::{Error, IndexSpec, Observer, Result, Rows};
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes written in one transaction.
const FILL_BYTES: usize = 32 << 20;

/// How an index came back.
pub(super) enum Filled {
    /// As it was, but for what was lost.
    Repaired(RepairReport),
    /// Without lists, codes or whatever else training makes: so many vectors.
    Untrained(u64),
    /// Not at all.
    Lost(Error),
}

/// Makes index `name` of what was chosen. Ticks as `"fill"`, in values, and as `"repair"`.
pub(super) fn fill(
    store: &Store,
    medium: &Medium,
    name: &str,
    chosen: &Chosen,
    observer: &mut Observer<'_>,
) -> Result<Filled> {
    Fill { store, medium, name }.run(chosen, observer)?;
    let repaired = repair(store, name, observer);
    let why = match repaired {
        Ok(report) => return Ok(Filled::Repaired(report)),
        Err(e @ (Error::Cancelled | Error::Io(_) | Error::NeedsReopen)) => return Err(e),
        Err(e) => e,
    };
    match again(store, name, &chosen.header, observer)? {
        0 => {
            let txn = store.begin_write()?;
            txn.drop_index(name)?;
            txn.commit()?;
            Ok(Filled::Lost(why))
        }
        rows => Ok(Filled::Untrained(rows)),
    }
}

fn repair(store: &Store, name: &str, observer: &mut Observer<'_>) -> Result<RepairReport> {
    let txn = store.begin_write()?;
    let report = txn.damaged_index(name)?.repair(observer)?;
    txn.commit()?;
    Ok(report)
}

struct Fill<'a> {
    store: &'a Store,
    medium: &'a Medium,
    name: &'a str,
}

impl Fill<'_> {
    fn run(&self, chosen: &Chosen, observer: &mut Observer<'_>) -> Result<()> {
        self.create(&chosen.header)?;
        let total = chosen.values.len() as u64;
        let mut values = chosen.values.iter().enumerate().peekable();
        while values.peek().is_some() {
            let mut bytes = 0;
            self.write(|tables| {
                while bytes < FILL_BYTES
                    && let Some((done, version)) = values.next()
                {
                    let value = read(self.medium, version)?;
                    bytes += value.len();
                    put(tables, &version.seen.head, &value)?;
                    observer.tick("fill", done as u64 + 1, total)?;
                }
                Ok(())
            })?;
        }
        self.write(|tables| {
            for (id, row) in chosen.map.iter().filter(|(id, _)| **id != NO_ID) {
                tables.map.insert(id, row)?;
            }
            let sized = |key: &&[u8]| (1..=KEY_BYTES_MAX).contains(&key.len());
            for (id, key) in chosen.keys.iter().filter(|(_, key)| sized(&&key[..])) {
                tables.keys.insert(id, &key[..])?;
            }
            for (key, id) in chosen.keymap.iter().filter(|(key, _)| sized(&&key[..])) {
                tables.keymap.insert(&key[..], id)?;
            }
            Ok(())
        })
    }

    /// An index of nothing but its header.
    fn create(&self, header: &Header) -> Result<()> {
        self.commit(|txn| {
            txn.open_table(CATALOG)?.insert(self.name, &header.uuid[..])?;
            let mut tables = storage::open_write(txn, self.name)?;
            tables.meta.insert(0, header.encode().as_slice())?;
            match header.shared {
                true => storage::create_twins(txn, &tables.names),
                false => Ok(()),
            }
        })
    }

    fn write(&self, work: impl FnOnce(&mut WriteTables<'_>) -> Result<()>) -> Result<()> {
        self.commit(|txn| work(&mut storage::open_write(txn, self.name)?))
    }

    fn commit(&self, work: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        let mut txn = self.store.inner.database()?.begin_write()?;
        txn.set_durability(redb::Durability::None)?;
        work(&txn)?;
        txn.commit()?;
        Ok(())
    }
}

fn put(tables: &mut WriteTables<'_>, head: &FrameHead, value: &[u8]) -> Result<()> {
    let short = head.count < head.capacity && value.len() <= value_bytes(0);
    let table = match head.kind {
        Kind::Block if short => &mut tables.tails,
        Kind::Block => &mut tables.blocks,
        Kind::Ids => &mut tables.ids,
        Kind::Slots => &mut tables.slots,
        Kind::Rows => &mut tables.rows,
        Kind::Exact => &mut tables.exact,
        Kind::Lists => &mut tables.lists,
        Kind::Model => &mut tables.model,
        Kind::Twins => match &mut tables.twins {
            Some(twins) => twins,
            None => return Ok(()),
        },
    };
    table.insert(head.key, value)?;
    Ok(())
}

/// Replaces the index by one that is not trained, of all vectors that stand somewhere as they are: in kept rows, or in codes
/// that are components. Returns how many.
fn again(store: &Store, name: &str, header: &Header, observer: &mut Observer<'_>) -> Result<u64> {
    let Ok(spec) = spec_of(name, header) else { return Ok(0) };
    let mut fresh = format!("{:032x}", u128::from_le_bytes(header.uuid));
    fresh.truncate(32);
    let read = store.inner.database()?.begin_read()?;
    let tables = storage::open_read(&read, name)?;
    let source = Vectors::new(&tables, header)?;
    let txn = store.begin_write()?;
    txn.create_index(&fresh, &spec)?;
    let mut writer = txn.index(&fresh)?;
    let mut done = 0;
    source.each(&mut |ids, vectors| {
        let rows = Rows::new(vectors, spec.dim)?;
        if header.keys {
            let digits = |id: &u64| id.to_string().into_bytes();
            let keys: Vec<Vec<u8>> =
                ids.iter().map(|id| source.keys.get(id).cloned().unwrap_or_else(|| digits(id))).collect();
            writer.upsert_with_keys(&keys, rows)?;
        } else {
            writer.add_with_ids(ids, rows)?;
        }
        done += ids.len() as u64;
        observer.tick("fill", done, header.ntotal.max(done))
    })?;
    drop(writer);
    if done == 0 {
        txn.abort()?;
        return Ok(0);
    }
    txn.drop_index(name)?;
    txn.rename_index(&fresh, name)?;
    txn.commit()?;
    Ok(done)
}

/// The vectors of an index whose model is lost.
struct Vectors<'t> {
    tables: &'t ReadTables,
    header: &'t Header,
    ids: HashMap<u32, u64>,
    keys: BTreeMap<u64, Vec<u8>>,
}

type EachBatch<'e> = &'e mut dyn FnMut(&[u64], &[f32]) -> Result<()>;

impl<'t> Vectors<'t> {
    fn new(tables: &'t ReadTables, header: &'t Header) -> Result<Self> {
        let (mut ids, mut taken) = (HashMap::new(), HashSet::new());
        read_column(ids_column(), &tables.ids, &tables.names.ids, &mut |row, bytes, _| {
            if let Some(id) = decode_id(bytes).filter(|id| taken.insert(*id)) {
                ids.insert(row, id);
            }
        })?;
        let mut keys = BTreeMap::new();
        for entry in tables.keys.iter()? {
            let (id, key) = entry?;
            keys.insert(id.value(), key.value().to_vec());
        }
        let taken: HashSet<Vec<u8>> = keys.values().cloned().collect();
        // Digits that stand for a lost key must be nobody's.
        ids.retain(|_, id| keys.contains_key(id) || !taken.contains(id.to_string().as_bytes()));
        Ok(Vectors { tables, header, ids, keys })
    }

    fn each(&self, each: EachBatch<'_>) -> Result<()> {
        let spec = spec_of("meta", self.header)?;
        let mut told = HashSet::new();
        let model = Model::without_lists(&spec).filter(|_| self.header.trained);
        let exact = model.as_ref().is_some_and(|model| model.code_element() == Some(Element::F32));
        // Where codes are rounded, kept rows are the better source.
        for codes in [exact, !exact] {
            match &model {
                Some(model) if codes => self.codes(model, &mut told, each)?,
                _ if !codes => self.kept(&spec, &mut told, each)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Vectors that are kept beside the codes, the most exact first.
    fn kept(&self, spec: &IndexSpec, told: &mut HashSet<u64>, each: EachBatch<'_>) -> Result<()> {
        let model = Model::untrained(spec)?;
        for kept in model.kept.iter().rev() {
            let (table, name) = self.tables.kept(kept.stage);
            let (mut ids, mut vectors) = (Vec::new(), Vec::new());
            let mut vector = vec![0.0; spec.dim];
            let mut failed = Ok(());
            read_column(kept.column, table, name, &mut |row, bytes, _| {
                let Some(id) = self.ids.get(&row).filter(|_| kept.form.is_row(bytes, &mut vector)) else {
                    return;
                };
                if failed.is_ok() && told.insert(*id) {
                    ids.push(*id);
                    vectors.extend_from_slice(&vector);
                    if ids.len() >= BATCH {
                        failed = each(&ids, &vectors);
                        ids.clear();
                        vectors.clear();
                    }
                }
            })?;
            failed?;
            if !ids.is_empty() {
                each(&ids, &vectors)?;
            }
        }
        Ok(())
    }

    /// Vectors that are codes.
    fn codes(&self, model: &Model, told: &mut HashSet<u64>, each: EachBatch<'_>) -> Result<()> {
        let lists = self.header.first_list..self.header.first_list.saturating_add(self.header.nlist);
        let members = self.members()?;
        let code_bytes = model.geometry.layout.code_bytes();
        let names = &self.tables.names;
        for (table, name) in [(&self.tables.blocks, &names.blocks), (&self.tables.tails, &names.tails)] {
            for entry in table.iter()? {
                let (key, value) = entry?;
                if !lists.contains(&((key.value() >> 32) as u32)) {
                    continue;
                }
                let Some(block) = open_block(name, key.value(), value.value(), model) else { continue };
                let (mut ids, mut vectors) = (Vec::new(), Vec::new());
                for (i, row) in block.buf.rows.iter().enumerate() {
                    let shared = members.get(row).map_or(&[][..], |rows| &rows[..]);
                    for row in [*row].iter().chain(shared) {
                        if let Some(id) = self.ids.get(row).filter(|id| told.insert(**id)) {
                            ids.push(*id);
                            vectors.extend(model.decode(0, block.buf.code(i, code_bytes)));
                        }
                    }
                }
                if !ids.is_empty() {
                    each(&ids, &vectors)?;
                }
            }
        }
        Ok(())
    }

    /// The rows that share another one's entry.
    fn members(&self) -> Result<HashMap<u32, Vec<u32>>> {
        let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
        if let Some(twins) = &self.tables.twins {
            read_column(twins_column(), twins, &self.tables.names.twins, &mut |row, bytes, _| {
                if let Some(twin) = Twin::decode(bytes).filter(|twin| twin.head != row) {
                    members.entry(twin.head).or_default().push(row);
                }
            })?;
        }
        Ok(members)
    }
}

/// Vectors added at a time.
const BATCH: usize = 1024;

/// A name for an index of which nothing says how it was called.
pub(super) fn nameless(uuid: Uuid) -> String {
    uuid.iter().take(4).fold("salvaged-".into(), |name, byte| format!("{name}{byte:02x}"))
}
