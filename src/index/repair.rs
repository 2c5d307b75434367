//! Repairing: directory, slots and map rebuilt from the blocks and the ids.
//!
//! Blocks carry their own list, number, count and rows, so the lists can be put together again without
//! the directory; ids come from the `ids` column, or from the map where a page of the column is gone. An
//! entry is lost only with its block, or if nothing says its id any more.

use super::model::Model;
use super::writer::IndexWriter;
use crate::storage::block::{BlockBuf, BlockRef};
use crate::storage::format::{Frame, Kind, ListEntry, State};
use crate::storage::ids::{decode_id, ids_column};
use crate::storage::lists::{ListEdit, block_key, store_entries};
use crate::{Observer, Result};
use redb::ReadableTable;
use std::collections::{BTreeMap, HashMap};

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Vectors in the repaired index.
    pub rows: u64,
    /// Ids the map knew whose vectors are lost, ascending.
    pub lost_ids: Vec<u64>,
    /// Entries dropped because nothing says their id.
    pub unnamed_entries: u64,
    /// Blocks that could not be read.
    pub lost_blocks: u64,
    /// Lists that were put together anew.
    pub rebuilt_lists: u64,
    /// Kept rows whose page was lost, now decoded from their codes.
    pub decoded_rows: u64,
}

impl IndexWriter<'_> {
    /// Rebuilds directory, slots, map and free rows from the blocks and the ids, and drops only what is
    /// really lost. An index that is whole comes out as it was.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if header or centroids are damaged: those cannot be rebuilt.
    pub fn repair(&mut self, observer: &mut Observer<'_>) -> Result<RepairReport> {
        self.change(|writer| Repair::new(writer)?.run(observer))
    }
}

struct Repair<'w, 't> {
    writer: &'w mut IndexWriter<'t>,
    report: RepairReport,
    /// What the map says before: id → row.
    mapped: BTreeMap<u64, u32>,
    /// The id of each row, from wherever it can be had.
    ids: HashMap<u32, u64>,
    /// The surviving rows and their ids.
    alive: BTreeMap<u32, u64>,
}

impl<'w, 't> Repair<'w, 't> {
    fn new(writer: &'w mut IndexWriter<'t>) -> Result<Self> {
        let mut mapped = BTreeMap::new();
        for entry in writer.tables.map.iter()? {
            let (id, row) = entry?;
            mapped.insert(id.value(), row.value());
        }
        let mut ids: HashMap<u32, u64> = mapped.iter().map(|(id, row)| (*row, *id)).collect();
        // The column is the better witness: a page is checked as a whole.
        let column = ids_column();
        for entry in writer.tables.ids.iter()? {
            let (page, value) = entry?;
            let Ok(page) = u32::try_from(page.value()) else { continue };
            let Ok(entries) = column.open_page(&writer.tables.names.ids, page, value.value()) else {
                continue;
            };
            let first = page.saturating_mul(column.per_page());
            for row in first..first.saturating_add(column.per_page()) {
                match decode_id(column.entry(entries, row)) {
                    Some(id) => drop(ids.insert(row, id)),
                    None => drop(ids.remove(&row)),
                }
            }
        }
        Ok(Repair { writer, report: RepairReport::default(), mapped, ids, alive: BTreeMap::new() })
    }

    fn run(mut self, observer: &mut Observer<'_>) -> Result<RepairReport> {
        let lists = self.writer.header.first_list..self.writer.header.first_list + self.writer.header.nlist;
        self.drop_strays(lists.clone())?;
        self.writer.tables.lists.retain(|_, _| false)?;
        self.writer.tables.slots.retain(|_, _| false)?;
        for list in lists.clone() {
            self.list(list)?;
            observer.tick("repair", (list - lists.start + 1).into(), (lists.end - lists.start).into())?;
        }
        self.identity()?;
        self.kept_rows()?;
        self.report.rows = self.alive.len() as u64;
        let named: std::collections::HashSet<u64> = self.alive.values().copied().collect();
        self.report.lost_ids = self.mapped.into_keys().filter(|id| !named.contains(id)).collect();
        Ok(self.report)
    }

    /// Blocks of lists that the model does not have.
    fn drop_strays(&mut self, lists: std::ops::Range<u32>) -> Result<()> {
        let stray = |key: u64| !lists.contains(&((key >> 32) as u32));
        self.writer.tables.blocks.retain(|key, _| !stray(key))?;
        self.writer.tables.tails.retain(|key, _| !stray(key))?;
        Ok(())
    }

    /// Reads what is left of a list and writes it anew if anything about it is wrong.
    fn list(&mut self, list: u32) -> Result<()> {
        let found = self.read_list(list)?;
        let geometry = self.writer.model.geometry;
        let n: u32 = found.blocks.values().map(|block| block.rows.len() as u32).sum();
        let placed = |(at, (block, buf)): (usize, (&u32, &BlockBuf))| {
            at as u32 == *block && buf.rows.len() as u32 == geometry.entries(n, *block)
        };
        let mut survivors = BlockBuf::default();
        let code_bytes = geometry.layout.code_bytes();
        let mut whole = !found.damaged && found.blocks.iter().enumerate().all(placed);
        for buf in found.blocks.values() {
            for (i, &row) in buf.rows.iter().enumerate() {
                match self.ids.get(&row) {
                    Some(&id) if !self.alive.contains_key(&row) => {
                        self.alive.insert(row, id);
                        survivors.codes.extend_from_slice(buf.code(i, code_bytes));
                        survivors.rows.push(row);
                    }
                    _ => {
                        self.report.unnamed_entries += 1;
                        whole = false;
                    }
                }
            }
        }
        let model = self.writer.model.clone();
        let within = list - self.writer.header.first_list;
        let code = |i: usize| &survivors.codes[i * code_bytes..(i + 1) * code_bytes];
        let residual: f64 = (0..survivors.rows.len()).map(|i| model.code_residual(within, code(i))).sum();
        let (seq, nonce) = (self.writer.header.seq, self.writer.header.nonce);
        let mut entry = ListEntry { n: survivors.rows.len() as u32, seq, nonce, residual };
        if !whole {
            self.report.rebuilt_lists += 1;
            let keys = block_key(list, 0)..=block_key(list, u32::MAX);
            self.writer.tables.blocks.retain_in(keys.clone(), |_, _| false)?;
            self.writer.tables.tails.retain_in(keys, |_, _| false)?;
            let mut edit = ListEdit::open(&self.writer.tables, geometry, list)?;
            for (i, &row) in survivors.rows.iter().enumerate() {
                edit.push(&self.writer.tables, code(i), row)?;
            }
            edit.entry.residual = residual;
            entry = edit.store(&mut self.writer.tables, seq, nonce)?.1;
        }
        store_entries(&mut self.writer.tables, seq, vec![(list, entry)])?;
        let slot = |offset: usize| crate::storage::ids::Slot { list, offset: offset as u32 };
        let slots = survivors.rows.iter().enumerate().map(|(offset, row)| (*row, Some(slot(offset))));
        self.writer.tables.set_slots(seq, slots)
    }

    /// The readable blocks of a list by number; the later one where two claim a number.
    fn read_list(&mut self, list: u32) -> Result<FoundList> {
        let mut found = FoundList::default();
        let mut seqs: HashMap<u32, u64> = HashMap::new();
        let tables = &self.writer.tables;
        let keys = block_key(list, 0)..=block_key(list, u32::MAX);
        for (table, name, short) in
            [(&tables.blocks, &tables.names.blocks, false), (&tables.tails, &tables.names.tails, true)]
        {
            for entry in table.range(keys.clone())? {
                let (key, value) = entry?;
                let (key, block) = (key.value(), key.value() as u32);
                match open_block(name, key, value.value(), &self.writer.model) {
                    Some((buf, seq)) => {
                        found.damaged |= self.writer.model.geometry.in_tails(buf.rows.len() as u32) != short;
                        if seqs.get(&block).is_none_or(|other| *other < seq) {
                            found.damaged |= seqs.insert(block, seq).is_some();
                            found.blocks.insert(block, buf);
                        }
                    }
                    None => {
                        found.damaged = true;
                        self.report.lost_blocks += 1;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Ids, map, free rows, keys and counts, from the surviving rows.
    fn identity(&mut self) -> Result<()> {
        let seq = self.writer.header.seq;
        let tables = &mut self.writer.tables;
        tables.ids.retain(|_, _| false)?;
        tables.map.retain(|_, _| false)?;
        tables.free.retain(|_, _| false)?;
        tables.set_ids(seq, self.alive.iter().map(|(row, id)| (*row, *id)))?;
        let mut pairs: Vec<(u64, u32)> = self.alive.iter().map(|(row, id)| (*id, *row)).collect();
        pairs.sort_unstable();
        tables.map_ids(&pairs)?;
        let header = &mut self.writer.header;
        header.next_row = header.next_row.max(self.alive.last_key_value().map_or(0, |(row, _)| row + 1));
        for row in (0..header.next_row).filter(|row| !self.alive.contains_key(row)) {
            tables.free.insert(u64::from(row), ())?;
        }
        header.ntotal = pairs.len() as u64;
        header.next_id = header.next_id.max(pairs.last().map_or(0, |(id, _)| id + 1));
        header.state = State::Ready;
        header.load_rows = 0;
        if header.keys { self.keys() } else { Ok(()) }
    }

    /// Keys of surviving ids stay; a survivor whose key is gone gets its id's decimal digits as key.
    fn keys(&mut self) -> Result<()> {
        let tables = &mut self.writer.tables;
        let mut keys: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for entry in tables.keymap.iter()? {
            let (key, id) = entry?;
            keys.insert(id.value(), key.value().to_vec());
        }
        for entry in tables.keys.iter()? {
            let (id, key) = entry?;
            keys.insert(id.value(), key.value().to_vec());
        }
        tables.keys.retain(|_, _| false)?;
        tables.keymap.retain(|_, _| false)?;
        for id in self.alive.values() {
            let key = keys.remove(id).unwrap_or_else(|| id.to_string().into_bytes());
            tables.keys.insert(id, key.as_slice())?;
            tables.keymap.insert(key.as_slice(), id)?;
        }
        Ok(())
    }

    /// Pages of kept rows that cannot be read are filled from the codes.
    fn kept_rows(&mut self) -> Result<()> {
        let Some(column) = self.writer.model.rows_column else { return Ok(()) };
        let mut lost = Vec::new();
        let tables = &self.writer.tables;
        let pages = self.writer.header.next_row.div_ceil(column.per_page());
        for page in 0..pages {
            let value = tables.rows.get(u64::from(page))?;
            let sound = value.is_some_and(|v| column.open_page(&tables.names.rows, page, v.value()).is_ok());
            if !sound {
                lost.push(page);
            }
        }
        for page in lost {
            self.writer.tables.rows.remove(u64::from(page))?;
            let first = page * column.per_page();
            let rows: Vec<u32> =
                self.alive.range(first..first + column.per_page()).map(|(row, _)| *row).collect();
            self.report.decoded_rows += rows.len() as u64;
            self.writer.keep_decoded(&rows)?;
        }
        let dead: Vec<u32> =
            (0..self.writer.header.next_row).filter(|row| !self.alive.contains_key(row)).collect();
        self.writer.erase_rows(&dead)
    }
}

#[derive(Default)]
struct FoundList {
    blocks: BTreeMap<u32, BlockBuf>,
    damaged: bool,
}

/// A block by its own word, or `None` if it is damaged.
fn open_block(name: &str, key: u64, value: &[u8], model: &Model) -> Option<(BlockBuf, u64)> {
    let frame = Frame::open(name, Kind::Block, key, value).ok()?;
    let n = frame.count;
    if n == 0 || n > model.geometry.capacity {
        return None;
    }
    let block = BlockRef::open(name, key, value, &model.geometry, n as usize).ok()?;
    Some((BlockBuf::copy_of(block, &model.geometry), frame.seq))
}
