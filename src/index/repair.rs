//! Repairing: directory, slots and map rebuilt from the blocks and the ids.
//!
//! Blocks carry their own list, number, count and rows, so the lists can be put together again without
//! the directory; ids come from the `ids` column, or from the map where the column does not know. An
//! entry is lost only with its block, or if nothing says its id any more. Where witnesses contradict each
//! other (a page was put back to an earlier state), each row ends up in one place, and each id and key with
//! one row: `claims` settles that, and here is what reads the witnesses and writes what was settled.
//!
//! In an index that spills a row ends up in two places, of two lists. It survives as long as one of them does; the other
//! is then made anew from its kept row or its code.
//!
//! Where rows share entries, their chains are made anew of what slots and twins say. A row survives with its entry.

mod claims;

use self::claims::{Agreement, Claim, Claims, Member, Placed, Twins, Witnesses, settle_keys};
use super::add::{Encoded, encode};
use super::calibrate::Calibration;
use super::kept::KeptCheck;
use super::model::{KeptColumn, Model};
use super::train::{TrainParams, decode_params, encode_params};
use super::writer::IndexWriter;
use super::{rerank, tree};
use crate::storage::block::{BlockBuf, BlockRef};
use crate::storage::changes::Touched;
use crate::storage::column::Column;
use crate::storage::format::{Frame, Kind, ListEntry, State, TableName};
use crate::storage::ids::{NO_ID, Slot, Slots, decode_id, ids_column};
use crate::storage::lists::{ListEdit, block_key, store_entries};
use crate::storage::sections::{BESIDE, Section, chunks};
use crate::storage::twins::{Twin, twins_column};
use crate::storage::{BytesTable, Stage};
use crate::{Error, Observer, Result, Rows};
use redb::ReadableTable;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Vectors in the repaired index.
    pub rows: u64,
    /// Ids that the map, the column of ids or the keys knew and that no vector has any more, ascending.
    pub lost_ids: Vec<u64>,
    /// Entries dropped because nothing says their id.
    pub unnamed_entries: u64,
    /// Vectors dropped because what is left of them is a code that no vector can be made of, while the index keeps a row, or a
    /// second entry, beside it.
    pub undecodable_rows: u64,
    /// Blocks that could not be read.
    pub lost_blocks: u64,
    /// Lists that were put together anew.
    pub rebuilt_lists: u64,
    /// Entries made anew, of vectors that were left in one list and belong into two.
    pub spilled_again: u64,
    /// Kept rows that were lost or contradicted their codes, now made anew: of the other form of the row if two are
    /// kept and that one is whole, or else of the code.
    pub decoded_rows: u64,
    /// True if the tree over the centroids was lost and made anew of them.
    pub rebuilt_tree: bool,
    /// Sections beside the model that could not be read and are given up: the parameters of the last training (those by default
    /// stand there then), what was calibrated, the note, how far a merge had come, the slices of a window.
    pub lost_sections: u64,
    /// Vectors whose keys are lost; each now has one made of the digits of its id.
    pub made_keys: u64,
}

impl IndexWriter<'_> {
    /// Rebuilds directory, slots, map and free rows from the blocks and the ids, and drops only what is
    /// really lost. An index that is whole comes out as it was.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if header, centroids, transforms or tables of the codes are damaged: those cannot be
    /// rebuilt (a tree can).
    pub fn repair(&mut self, observer: &mut Observer<'_>) -> Result<RepairReport> {
        self.change(|writer| {
            writer.touched = Touched::All;
            Repair::new(writer)?.run(observer)
        })
    }
}

struct Repair<'w, 't> {
    writer: &'w mut IndexWriter<'t>,
    report: RepairReport,
    witnesses: Witnesses,
    /// Every id that anything knew before.
    known: BTreeSet<u64>,
    /// The places to be kept of each row that stands in more than it should.
    places: HashMap<u32, Slots>,
    /// How many places each row has, where it should have two.
    granted: HashMap<u32, usize>,
    /// The list that comes first, as the column of slots said, where rows stand in two.
    nearest: HashMap<u32, u32>,
    /// Where rows of two places stand now.
    placed: BTreeMap<u32, Placed>,
    /// The rows that share each row's entry.
    members: HashMap<u32, Vec<Member>>,
    /// The surviving rows and their ids.
    alive: BTreeMap<u32, u64>,
    /// Rows of which a code is left that no vector can be made of, and something is to be made of their vectors.
    undecodable: HashSet<u32>,
    /// The lists of surviving rows (as numbers within the model) and what their codes come to, if kept rows can be
    /// compared with them.
    sums: HashMap<u32, [Option<(u32, u32)>; 2]>,
}

impl<'w, 't> Repair<'w, 't> {
    fn new(writer: &'w mut IndexWriter<'t>) -> Result<Self> {
        let mut witnesses = Witnesses::default();
        let mut known = BTreeSet::new();
        for entry in writer.tables.map.iter()? {
            let (id, row) = entry?;
            if id.value() != NO_ID {
                known.insert(id.value());
                witnesses.map.insert(row.value(), id.value());
            }
        }
        let column = ids_column();
        read_column(column, &writer.tables.ids, &writer.tables.names.ids, &mut |row, bytes, _| {
            if let Some(id) = decode_id(bytes) {
                known.insert(id);
                witnesses.column.insert(row, id);
            }
        })?;
        for entry in writer.tables.keys.iter()? {
            known.insert(entry?.0.value());
        }
        Ok(Repair {
            writer,
            report: RepairReport::default(),
            witnesses,
            known,
            places: HashMap::new(),
            granted: HashMap::new(),
            nearest: HashMap::new(),
            placed: BTreeMap::new(),
            members: HashMap::new(),
            alive: BTreeMap::new(),
            undecodable: HashSet::new(),
            sums: HashMap::new(),
        })
    }

    fn run(mut self, observer: &mut Observer<'_>) -> Result<RepairReport> {
        let first = self.writer.header.first_list;
        let lists = first..first.saturating_add(self.writer.header.nlist);
        self.drop_strays(lists.clone())?;
        self.tree()?;
        self.sections()?;
        let rows = self.survey(lists.clone())?;
        let mut ids = self.witnesses.settle(&rows);
        self.find_undecodable(&rows)?;
        ids.retain(|row, _| !self.undecodable.contains(row));
        self.report.undecodable_rows = self.undecodable.len() as u64;
        self.writer.tables.lists.retain(|_, _| false)?;
        self.writer.tables.slots.retain(|_, _| false)?;
        if let Some(twins) = &mut self.writer.tables.twins {
            twins.retain(|_, _| false)?;
        }
        self.writer.header.twins = 0;
        for list in lists.clone() {
            self.list(list, &ids)?;
            observer.tick("repair", (list - lists.start + 1).into(), (lists.end - lists.start).into())?;
        }
        self.second_places()?;
        self.identity()?;
        self.kept_rows()?;
        self.report.rows = self.alive.len() as u64;
        let named: HashSet<u64> = self.alive.values().copied().collect();
        self.report.lost_ids = self.known.into_iter().filter(|id| !named.contains(id)).collect();
        Ok(self.report)
    }

    /// All rows that stand in readable blocks. Of a row that stands in too many places those are chosen that its
    /// slots name, or else those in the blocks written last.
    fn survey(&mut self, lists: Range<u32>) -> Result<BTreeSet<u32>> {
        let mut slots: HashMap<u32, Slots> = HashMap::new();
        let (model, tables) = (self.writer.model.clone(), &self.writer.tables);
        let mut twins = Twins::default();
        read_column(model.slots_column, &tables.slots, &tables.names.slots, &mut |row, bytes, seq| {
            let found = Slots::decode(bytes);
            match found.first {
                Some(slot) if model.shares() => drop(twins.slots.insert(row, (slot, seq))),
                None if model.shares() => drop(twins.no_slot.insert(row, seq)),
                _ => {}
            }
            slots.extend(Some(found).filter(|slots| slots.len() > 0).map(|slots| (row, slots)));
        })?;
        let (capacity, code_bytes) = (model.geometry.capacity, model.geometry.layout.code_bytes());
        let same_codes = model.spills() && model.code_element().is_some();
        let mut claims: BTreeMap<u32, Claims> = BTreeMap::new();
        let mut entries: HashMap<Slot, u32> = HashMap::new();
        for list in lists {
            let found = self.read_list(list)?;
            if model.shares() && tables.list_entry(list).is_ok_and(|entry| entry.digest != found.digest()) {
                twins.doubtful.insert(list);
            }
            for (block, found) in found.blocks {
                for (i, row) in found.buf.rows.iter().enumerate() {
                    let offset = block.saturating_mul(capacity).saturating_add(i as u32);
                    let slot = Slot { list, offset };
                    let by_slots = slots.get(row).is_some_and(|slots| slots.contains(slot));
                    let sum = if same_codes { crc32fast::hash(found.buf.code(i, code_bytes)) } else { 0 };
                    let claim = Claim { by_slots, seq: found.seq, slot, sum };
                    claims.entry(*row).or_default().hear(claim, model.places());
                }
            }
        }
        for (row, claims) in &mut claims {
            let granted = claims.settle();
            if model.spills() {
                self.granted.insert(*row, granted.len());
            }
            if claims.rivals {
                self.places.insert(*row, granted);
            }
            if model.shares() {
                entries.extend(granted.iter().map(|slot| (slot, *row)));
            }
        }
        if model.spills() {
            self.nearest = slots.iter().filter_map(|(row, slots)| Some((*row, slots.first?.list))).collect();
        }
        let mut rows: BTreeSet<u32> = claims.into_keys().collect();
        if model.shares() {
            self.read_twins(&mut twins)?;
            self.members = twins.settle(&entries);
            rows.extend(self.members.values().flatten().map(|member| member.row));
        }
        Ok(rows)
    }

    /// Where codes cannot be turned back, a row needs its kept row; and both its entries, if it has no kept row to make the
    /// other of.
    fn find_undecodable(&mut self, rows: &BTreeSet<u32>) -> Result<()> {
        let model = self.writer.model.clone();
        if model.codec.decodes() {
            return Ok(());
        }
        if model.kept.is_empty() {
            let single = rows.iter().filter(|row| model.spills() && self.granted.get(row) != Some(&2));
            self.undecodable.extend(single);
            return Ok(());
        }
        let mut there = HashSet::new();
        let mut vector = vec![0.0; model.spec.dim];
        for kept in &model.kept {
            let (table, name) = self.writer.tables.kept(kept.stage);
            read_column(kept.column, table, name, &mut |row, bytes, _| {
                if kept.form.is_row(bytes, &mut vector) {
                    there.insert(row);
                }
            })?;
        }
        self.undecodable.extend(rows.iter().filter(|row| !there.contains(row)));
        Ok(())
    }

    fn read_twins(&self, twins: &mut Twins) -> Result<()> {
        let tables = &self.writer.tables;
        let Some(table) = &tables.twins else { return Ok(()) };
        read_column(twins_column(), table, &tables.names.twins, &mut |row, bytes, seq| match Twin::decode(
            bytes,
        ) {
            Some(twin) => drop(twins.twins.insert(row, (twin, seq))),
            None => drop(twins.no_twin.insert(row, seq)),
        })
    }

    /// The rows that survive of the entry that names `row`, if any does: itself, and those that share it. Where nothing
    /// says the row's id, only those that all witnesses bring here.
    fn chain(&mut self, row: u32, ids: &HashMap<u32, u64>) -> Vec<u32> {
        let named = ids.contains_key(&row);
        let members = self.members.get(&row).into_iter().flatten();
        let members = members.filter(|member| named || member.agreed).map(|member| member.row);
        let all: Vec<u32> = [row].into_iter().chain(members).collect();
        let mut chain = Vec::with_capacity(all.len());
        for row in all {
            match ids.get(&row) {
                Some(id) => {
                    self.alive.insert(row, *id);
                    chain.push(row);
                }
                None => self.report.unnamed_entries += 1,
            }
        }
        chain
    }

    /// Blocks of lists that the model does not have, and what stands beside the header.
    fn drop_strays(&mut self, lists: Range<u32>) -> Result<()> {
        let stray = |key: u64| !lists.contains(&((key >> 32) as u32));
        self.writer.tables.blocks.retain(|key, _| !stray(key))?;
        self.writer.tables.tails.retain(|key, _| !stray(key))?;
        self.writer.tables.meta.retain(|key, _| key == 0)?;
        Ok(())
    }

    /// Writes the tree that the model has where it cannot be read. It was made of the centroids again, or is still in
    /// memory.
    fn tree(&mut self) -> Result<()> {
        let (model, seq) = (self.writer.model.clone(), self.writer.header.seq);
        let (Some(tree), Some(centroids)) = (&model.tree, model.centroids()) else { return Ok(()) };
        let bytes: Vec<u8> = centroids.as_slice().iter().flat_map(|x| x.to_le_bytes()).collect();
        if let Err(Error::Corrupt { .. }) = tree::read(&*self.writer.tables, &model.spec, &bytes) {
            let bytes = tree::encode(tree, model.inner_dim(), &bytes);
            self.writer.tables.write_section(Section::Tree, &bytes, seq)?;
            self.report.rebuilt_tree = true;
        }
        Ok(())
    }

    /// Leaves the sections that belong there and can be read, and nothing beside them.
    fn sections(&mut self) -> Result<()> {
        let (model, header) = (self.writer.model.clone(), &self.writer.header);
        let (trained, seq) = (header.trained, header.seq);
        let mut known = Vec::new();
        for (section, wanted) in model.sections(trained) {
            if !wanted {
                self.writer.tables.remove_section(section)?;
            } else if section == Section::Training
                && self.is_lost(section, true, |bytes| decode_params(bytes).is_ok())?
            {
                let bytes = encode_params(&TrainParams::default());
                self.writer.tables.write_section(section, &bytes, seq)?;
                self.report.lost_sections += 1;
            }
            known.push(section);
        }
        for section in BESIDE.into_iter().chain([Section::Calibration]) {
            let sound = |bytes: &[u8]| section != Section::Calibration || Calibration::decode(bytes).is_ok();
            if self.is_lost(section, false, sound)? {
                self.writer.tables.remove_section(section)?;
                self.report.lost_sections += 1;
            }
            known.push(section);
        }
        let mut ends = HashMap::new();
        for section in known {
            let bytes = self.writer.tables.read_section(section)?;
            ends.insert(section as u64, bytes.map_or(0, |bytes| chunks(bytes.len()) as u64));
        }
        let belongs = |key: u64| ends.get(&(key >> 32)).is_some_and(|end| key & u64::from(u32::MAX) < *end);
        self.writer.tables.model.retain(|key, _| belongs(key))?;
        Ok(())
    }

    /// True if a section cannot be read, or is `wanted` and not there.
    fn is_lost(&self, section: Section, wanted: bool, sound: impl Fn(&[u8]) -> bool) -> Result<bool> {
        match self.writer.tables.read_section(section) {
            Err(Error::Corrupt { .. }) => Ok(true),
            read => Ok(read?.map_or(wanted, |bytes| !sound(&bytes))),
        }
    }

    /// Reads what is left of a list and writes it anew if anything about it is wrong.
    fn list(&mut self, list: u32, ids: &HashMap<u32, u64>) -> Result<()> {
        let found = self.read_list(list)?;
        self.report.lost_blocks += found.lost_blocks;
        let geometry = self.writer.model.geometry;
        let n: u32 = found.blocks.values().map(|block| block.buf.rows.len() as u32).sum();
        let placed = |(at, (block, found)): (usize, (&u32, &FoundBlock))| {
            at as u32 == *block && found.buf.rows.len() as u32 == geometry.entries(n, *block)
        };
        let mut survivors = BlockBuf::default();
        let code_bytes = geometry.layout.code_bytes();
        let mut whole = !found.damaged && found.blocks.iter().enumerate().all(placed);
        // Where entries are shared: all rows of each survivor, and which codes there are already.
        let (mut chains, mut there): (Vec<Vec<u32>>, HashMap<Vec<u8>, usize>) = Default::default();
        let shares = self.writer.model.shares();
        let model = self.writer.model.clone();
        let within = list - self.writer.header.first_list;
        let mut vector = vec![0.0; model.inner_dim()];
        for (&block, FoundBlock { buf, .. }) in &found.blocks {
            for (i, &row) in buf.rows.iter().enumerate() {
                model.codec.decode(model.centroid(within), buf.code(i, code_bytes), &mut vector);
                if !model.metric().is_sound(&vector) {
                    // No vector, so no entry.
                    whole = false;
                    continue;
                }
                let offset = block.saturating_mul(geometry.capacity).saturating_add(i as u32);
                let elsewhere =
                    self.places.get(&row).is_some_and(|places| !places.contains(Slot { list, offset }));
                if shares {
                    let chain = if elsewhere { Vec::new() } else { self.chain(row, ids) };
                    let code = buf.code(i, code_bytes);
                    let other = there.get(code).copied();
                    whole &= chain.first() == Some(&row) && other.is_none();
                    match (chain.first(), other) {
                        (None, _) => {}
                        (Some(_), Some(other)) => chains[other].extend(chain),
                        (Some(head), None) => {
                            there.insert(code.to_vec(), chains.len());
                            survivors.codes.extend_from_slice(code);
                            survivors.rows.push(*head);
                            chains.push(chain);
                        }
                    }
                    continue;
                }
                match ids.get(&row) {
                    Some(&id) if !elsewhere => {
                        self.alive.insert(row, id);
                        survivors.codes.extend_from_slice(buf.code(i, code_bytes));
                        survivors.rows.push(row);
                    }
                    // The row itself survives, in its other place.
                    Some(_) => whole = false,
                    None => {
                        self.report.unnamed_entries += u64::from(!self.undecodable.contains(&row));
                        whole = false;
                    }
                }
            }
        }
        let code = |i: usize| &survivors.codes[i * code_bytes..(i + 1) * code_bytes];
        let residuals: Vec<f64> =
            (0..survivors.rows.len()).map(|i| model.residual(within, code(i))).collect();
        let residual = residuals.iter().sum();
        if let Some(mut kept) = KeptCheck::new(&model) {
            for (i, row) in survivors.rows.iter().enumerate() {
                let sum = kept.of_code(code(i), &model.decode(within, code(i)));
                let sums = self.sums.entry(*row).or_default();
                let free = usize::from(sums[0].is_some());
                sums[free] = Some((within, sum));
            }
        }
        let (seq, nonce) = (self.writer.header.seq, self.writer.header.nonce);
        let digest = found.digest();
        let mut entry = ListEntry { n: survivors.rows.len() as u32, digest, seq, nonce, residual };
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
        let slot = |offset: usize| Slot { list, offset: offset as u32 };
        if model.spills() {
            for (offset, (row, residual)) in survivors.rows.iter().zip(residuals).enumerate() {
                let nearest = self.nearest.get(row).copied();
                self.placed.entry(*row).or_default().enter(slot(offset), residual, nearest);
            }
            return Ok(());
        }
        if shares {
            let rows: usize = chains.iter().map(Vec::len).sum();
            self.writer.header.twins += (rows - chains.len()) as u32;
            let placed = chains.iter().enumerate().map(|(offset, chain)| (&chain[..], slot(offset)));
            return self.writer.place_chains(placed);
        }
        let one = |offset| Slots { first: Some(slot(offset)), second: None };
        let slots = survivors.rows.iter().enumerate().map(|(offset, row)| (*row, one(offset)));
        self.writer.tables.set_slots(&model.slots_column, seq, slots)
    }

    /// Where rows stand in two lists: those that were left in one get their other entry, and all their slots.
    fn second_places(&mut self) -> Result<()> {
        let single = |(row, placed): (&u32, &Placed)| placed.slots.second.is_none().then_some(*row);
        let single: Vec<u32> = self.placed.iter().filter_map(single).collect();
        for rows in single.chunks(DECODE_ROWS) {
            self.spill_again(rows)?;
        }
        self.report.spilled_again = single.len() as u64;
        let slots = std::mem::take(&mut self.placed).into_iter().map(|(row, placed)| (row, placed.slots));
        let (column, seq) = (self.writer.model.slots_column, self.writer.header.seq);
        self.writer.tables.set_slots(&column, seq, slots)
    }

    /// Gives each of `numbers`, which stand in one list, an entry in the other one of the two that they are assigned to;
    /// in the nearest, if what is left of them is assigned to two others.
    fn spill_again(&mut self, numbers: &[u32]) -> Result<()> {
        let mut rows = Vec::with_capacity(numbers.len() * self.writer.model.spec.dim);
        for &row in numbers {
            rows.extend(self.survivor(row)?);
        }
        let model = self.writer.model.clone();
        let rows = Rows::of(&rows, model.spec.dim);
        let projected = model.project(rows)?;
        let projected = Rows::of(&projected, model.inner_dim());
        let first_list = self.writer.header.first_list;
        let stands: Vec<Option<u32>> = numbers
            .iter()
            .map(|row| self.placed.get(row)?.slots.first.map(|slot| slot.list - first_list))
            .collect();
        let encoded = IndexWriter::in_pool(&self.writer.pool, || {
            let assigned = model.assign(rows, projected)?;
            let (nearest, second) = assigned.split_at(rows.len());
            let other = |((stands, nearest), second): ((&Option<u32>, &u32), &u32)| {
                if *stands == Some(*nearest) { *second } else { *nearest }
            };
            let lists: Vec<u32> = stands.iter().zip(nearest).zip(second).map(other).collect();
            let codes = encode(&model, projected, &lists);
            Ok::<_, Error>((Encoded { rows: Cow::Borrowed(rows.as_slice()), lists, codes }, nearest.to_vec()))
        });
        let (encoded, nearest) = encoded?;
        for (entry, slot) in self.writer.append(&encoded, numbers, (0..numbers.len()).collect())? {
            if let Some(placed) = self.placed.get_mut(&numbers[entry]) {
                placed.slots.enter(slot);
                placed.slots.lead_with(first_list + nearest[entry]);
            }
        }
        Ok(())
    }

    /// The vector of a row of which one entry is left: the kept row, if it can be read, or else its code.
    fn survivor(&self, row: u32) -> Result<Vec<f32>> {
        let (model, tables) = (&self.writer.model, &self.writer.tables);
        // A code that is the vector is as good as the kept row, and cannot be one of another commit.
        if model.code_element().is_none()
            && let Ok(Some(vector)) = rerank::kept_vector(&*self.writer.reader().view, model, row)
            && model.metric().is_sound(&vector)
        {
            return Ok(vector);
        }
        let nowhere = || Error::corrupt(&tables.names.slots, row.into(), "the row stands nowhere");
        let slot = self.placed.get(&row).and_then(|placed| placed.slots.first).ok_or_else(nowhere)?;
        let (code, _) = tables.code_at(slot, &model.geometry)?.ok_or_else(nowhere)?;
        model.decode_for_users(slot.list - self.writer.header.first_list, &code)
    }

    /// The readable blocks of a list by number; the later one where two claim a number.
    fn read_list(&self, list: u32) -> Result<FoundList> {
        let mut found = FoundList::default();
        let tables = &self.writer.tables;
        let geometry = self.writer.model.geometry;
        let keys = block_key(list, 0)..=block_key(list, u32::MAX);
        for (table, name, short) in
            [(&tables.blocks, &tables.names.blocks, false), (&tables.tails, &tables.names.tails, true)]
        {
            for entry in table.range(keys.clone())? {
                let (key, value) = entry?;
                let (key, block) = (key.value(), key.value() as u32);
                let Some(read) = open_block(name, key, value.value(), &self.writer.model) else {
                    found.damaged = true;
                    found.lost_blocks += 1;
                    continue;
                };
                found.damaged |= geometry.in_tails(read.buf.rows.len() as u32) != short;
                match found.blocks.get(&block) {
                    Some(other) if other.seq >= read.seq => found.damaged = true,
                    other => {
                        found.damaged |= other.is_some();
                        found.blocks.insert(block, read);
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
        // Not the header's own number: pages of rows beyond the last one may be gone.
        header.next_row = self.alive.last_key_value().map_or(0, |(row, _)| row + 1);
        for row in (0..header.next_row).filter(|row| !self.alive.contains_key(row)) {
            tables.free.insert(u64::from(row), ())?;
        }
        header.ntotal = pairs.len() as u64;
        header.next_id = header.next_id.max(pairs.last().map_or(0, |(id, _)| id + 1));
        header.state = State::Ready;
        header.load_rows = 0;
        self.keys()
    }

    /// Keys of surviving ids stay. A survivor whose key is gone, or is another one's too, gets a key made of its
    /// id's decimal digits.
    fn keys(&mut self) -> Result<()> {
        let tables = &mut self.writer.tables;
        let mut by_id: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut by_key: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for entry in tables.keymap.iter()? {
            let (key, id) = entry?;
            by_key.insert(id.value(), key.value().to_vec());
        }
        for entry in tables.keys.iter()? {
            let (id, key) = entry?;
            by_id.insert(id.value(), key.value().to_vec());
        }
        tables.keys.retain(|_, _| false)?;
        tables.keymap.retain(|_, _| false)?;
        if !self.writer.header.keys {
            return Ok(());
        }
        let (keys, made) = settle_keys(self.alive.values().copied(), &by_key, &by_id);
        self.report.made_keys = made;
        for (id, key) in &keys {
            tables.keys.insert(id, key.as_slice())?;
            tables.keymap.insert(key.as_slice(), id)?;
        }
        Ok(())
    }

    /// Kept rows that cannot be read, or are other vectors than their codes, are made anew of what is left.
    fn kept_rows(&mut self) -> Result<()> {
        let model = self.writer.model.clone();
        for (stage, column) in [Stage::Rows, Stage::Exact].into_iter().zip(model.kept_columns()) {
            self.drop_unreadable(stage, column)?;
        }
        let lost = self.lost_rows(&model)?;
        self.report.decoded_rows = lost.len() as u64;
        for lost in lost.chunks(DECODE_ROWS) {
            let mut vectors = Vec::with_capacity(lost.len() * model.spec.dim);
            for &(row, source) in lost {
                vectors.extend(match source {
                    Source::Code => self.writer.decoded(row)?,
                    Source::Kept(kept) => {
                        let (mut bytes, mut vector) = (vec![0; kept.column.width], vec![0.0; model.spec.dim]);
                        let (table, name) = self.writer.tables.kept(kept.stage);
                        kept.column.get(table, name, row, &mut bytes)?;
                        kept.form.decode(&bytes, &mut vector);
                        vector
                    }
                });
            }
            let rows: Vec<u32> = lost.iter().map(|(row, _)| *row).collect();
            self.writer.restore_rows(vectors, &rows)?;
        }
        let dead: Vec<u32> =
            (0..self.writer.header.next_row).filter(|row| !self.alive.contains_key(row)).collect();
        self.writer.erase_rows(&dead)
    }

    /// An unreadable page would also stand in the way of writing its rows.
    fn drop_unreadable(&mut self, stage: Stage, column: Option<Column>) -> Result<()> {
        let next_row = self.writer.header.next_row;
        let (table, name) = self.writer.tables.kept_mut(stage);
        let name = name.clone();
        table.retain(|page, value| {
            let number = |column: &Column| {
                u32::try_from(page).ok().filter(|page| *page < next_row.div_ceil(column.per_page()))
            };
            column.is_some_and(|column| {
                number(&column).is_some_and(|page| column.open_page(&name, page, value).is_ok())
            })
        })?;
        Ok(())
    }

    /// The surviving rows whose kept rows are to be made anew, ascending, and what of. An exact row is believed if it
    /// agrees with its code or with the coarser row: the one that is alone is the one that went back to an earlier state.
    /// Otherwise the coarser row is, which is nearer to the vector than an estimate.
    fn lost_rows<'m>(&self, model: &'m Model) -> Result<Vec<(u32, Source<'m>)>> {
        let Some((exact, coarser)) = model.kept.split_last() else { return Ok(Vec::new()) };
        let rows: Vec<u32> = self.alive.keys().copied().collect();
        let mut check = KeptCheck::new(model);
        let mut vector = vec![0.0; model.spec.dim];
        // Of each row that is there: whether its codes agree, and what the coarser row should be.
        let mut there: HashMap<u32, (Agreement, u32)> = HashMap::new();
        let mut coarse = Vec::new();
        let (table, name) = self.writer.tables.kept(exact.stage);
        exact.column.for_some(table, name, &rows, |row, bytes| {
            if exact.form.is_row(bytes, &mut vector) {
                let agrees = |check: &mut KeptCheck<'_>| {
                    let sums = self.sums.get(&row).into_iter().flatten().flatten();
                    Agreement::of(sums.map(|&(list, sum)| check.of_kept(list, bytes) == sum))
                };
                coarse.clear();
                coarser.iter().for_each(|coarser| coarser.form.encode(&vector, &mut coarse));
                there.insert(row, (check.as_mut().map_or(Agreement::Full, agrees), crc32fast::hash(&coarse)));
            }
            Ok(())
        })?;
        let mut sums: HashMap<u32, u32> = HashMap::new();
        for kept in coarser {
            let (table, name) = self.writer.tables.kept(kept.stage);
            kept.column.for_some(table, name, &rows, |row, bytes| {
                if kept.form.is_row(bytes, &mut vector) {
                    sums.insert(row, crc32fast::hash(bytes));
                }
                Ok(())
            })?;
        }
        let source = |row: &u32| match (there.get(row), coarser) {
            (Some((Agreement::Full, _)), []) => None,
            (Some((agreement, sum)), [_]) if sums.get(row) == Some(sum) => {
                (*agreement != Agreement::Full).then_some((*row, Source::Kept(exact)))
            }
            (Some((Agreement::Full | Agreement::Partial, _)), _) => Some((*row, Source::Kept(exact))),
            (_, [coarser]) if sums.contains_key(row) => Some((*row, Source::Kept(coarser))),
            (Some(_), _) if !model.codec.decodes() => Some((*row, Source::Kept(exact))),
            _ => Some((*row, Source::Code)),
        };
        Ok(rows.iter().filter_map(source).collect())
    }
}

/// What a kept row is made of.
#[derive(Clone, Copy)]
enum Source<'m> {
    Code,
    Kept(&'m KeptColumn),
}

/// Rows decoded at a time.
const DECODE_ROWS: usize = 4096;

/// Calls `each(row, entry, change)` for the entries of all pages of a column that can be read, with the change that wrote
/// the page.
pub(crate) fn read_column<T: BytesTable>(
    column: Column,
    table: &T,
    name: &TableName,
    each: &mut dyn FnMut(u32, &[u8], u64),
) -> Result<()> {
    for entry in table.iter()? {
        let (page, value) = entry?;
        let Ok(page) = u32::try_from(page.value()) else { continue };
        let Ok(entries) = column.open_page(name, page, value.value()) else { continue };
        let Ok(Frame { seq, .. }) = Frame::open(name, column.kind, page.into(), value.value()) else {
            continue;
        };
        let first = page.saturating_mul(column.per_page());
        for row in first..first.saturating_add(column.per_page()) {
            each(row, column.entry(entries, row), seq);
        }
    }
    Ok(())
}

#[derive(Default)]
struct FoundList {
    blocks: BTreeMap<u32, FoundBlock>,
    /// Blocks that could not be read.
    lost_blocks: u64,
    damaged: bool,
}

impl FoundList {
    /// What the directory should say of its blocks.
    fn digest(&self) -> u32 {
        self.blocks.values().fold(0, |digest, block| digest ^ block.crc)
    }
}

pub(crate) struct FoundBlock {
    pub(crate) buf: BlockBuf,
    /// The change that wrote it.
    seq: u64,
    /// Its part of the list's digest.
    crc: u32,
}

/// A block by its own word, or `None` if it is damaged.
pub(crate) fn open_block(name: &TableName, key: u64, value: &[u8], model: &Model) -> Option<FoundBlock> {
    let frame = Frame::open(name, Kind::Block, key, value).ok()?;
    let n = frame.count;
    if n == 0 || n > model.geometry.capacity {
        return None;
    }
    let block = BlockRef::open(name, key, value, &model.geometry, n as usize).ok()?;
    Some(FoundBlock { buf: BlockBuf::copy_of(block.run, &model.geometry), seq: frame.seq, crc: frame.crc })
}
