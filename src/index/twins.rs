//! Equal vectors stored once (`FlatDedup`): what differs where rows of equal codes share an entry.
//!
//! ```text
//! list     offset 0: code A, row 7      1: code B, row 2          entries: one a distinct code
//! twins    7 → 9 → 4                                              the rows of entry 0; row 2 is alone
//! slots    7, 9, 4: (list, 0)           2: (list, 1)              of all rows
//! ```
//! A row keeps its number, id and slot, so identity, maps and keys know nothing of this. Three things change rows of
//! entries, and each is here: [`join`](IndexWriter::join) looks for a code in its list and appends only what is not there,
//! [`leave`](IndexWriter::leave) removes an entry with its last row and else names another row in it,
//! [`move_chains`](IndexWriter::move_chains) gives rows other numbers. An update leaves and joins. A search expands what
//! it finds to the rows of each entry before selectors and collectors see it, so that its answer is that of `Flat`.

use super::add::{Encoded, SlotChange, lost};
use super::renumber::Move;
use super::view::View;
use super::writer::IndexWriter;
use crate::storage::WriteTables;
use crate::storage::ids::{Slot, Slots};
use crate::storage::lists::{ListEdit, store_entries};
use crate::storage::twins::{Twin, walk};
use crate::{Error, Observer, Result};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Calls `each` for all rows of the entry of `head`, until it returns false.
pub(crate) fn for_each_twin(view: &dyn View, head: u32, each: impl FnMut(u32) -> Result<bool>) -> Result<()> {
    walk(head, view.header().next_row.into(), |row| view.twin(row), each)
}

/// All rows of the entry of `head`.
pub(crate) fn chain_of(view: &dyn View, head: u32) -> Result<Vec<u32>> {
    let mut rows = Vec::new();
    for_each_twin(view, head, |row| {
        rows.push(row);
        Ok(true)
    })?;
    Ok(rows)
}

/// True if the entry that names `head` is `row`'s.
pub(crate) fn stands_with(view: &dyn View, row: u32, head: u32) -> Result<bool> {
    Ok(row == head || view.twin(row)?.is_some_and(|twin| twin.head == head))
}

/// Rows of equal vectors, chain after chain.
#[derive(Default)]
pub(crate) struct Chains {
    rows: Vec<u32>,
    ends: Vec<usize>,
}

impl Chains {
    /// Rows that are not known to have twins.
    pub(crate) fn of_single(rows: &[u32]) -> Self {
        Chains { rows: rows.to_vec(), ends: (1..=rows.len()).collect() }
    }

    pub(crate) fn push(&mut self, chain: Vec<u32>) {
        self.rows.extend(chain);
        self.ends.push(self.rows.len());
    }

    /// Rows of all chains.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, at: usize) -> &[u32] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rows[start..self.ends[at]]
    }
}

/// Slots and twins as a change leaves them, to be written at its end.
#[derive(Default)]
struct Ledger {
    slots: BTreeMap<u32, Option<Slot>>,
    twins: BTreeMap<u32, Option<Twin>>,
}

impl Ledger {
    fn twin(&self, tables: &WriteTables<'_>, row: u32) -> Result<Option<Twin>> {
        self.twins.get(&row).map_or_else(|| tables.twin(row), |twin| Ok(*twin))
    }

    /// All rows of the entry of `head`.
    fn chain(&self, tables: &WriteTables<'_>, head: u32, next_row: u32) -> Result<Vec<u32>> {
        let mut rows = Vec::new();
        let rows_max = u64::from(next_row) + self.slots.len() as u64;
        walk(
            head,
            rows_max,
            |row| self.twin(tables, row),
            |row| {
                rows.push(row);
                Ok(true)
            },
        )?;
        Ok(rows)
    }

    fn link(&mut self, tables: &WriteTables<'_>, row: u32, twin: Option<Twin>) -> Result<()> {
        // Most rows have none and had none: no page is touched for them.
        if twin.is_some() || self.twin(tables, row)?.is_some() {
            self.twins.insert(row, twin);
        }
        Ok(())
    }

    /// All rows of a chain stand at `slot`, the first of them is the entry's. Slots and twins go together.
    fn place(&mut self, tables: &WriteTables<'_>, chain: &[u32], slot: Slot) -> Result<()> {
        self.slots.extend(chain.iter().map(|row| (*row, Some(slot))));
        Twin::of_chain(chain).try_for_each(|(row, twin)| self.link(tables, row, twin))
    }

    /// Puts `rows` behind the head of the entry at `slot`.
    fn insert(&mut self, tables: &WriteTables<'_>, head: u32, rows: &[u32], slot: Slot) -> Result<()> {
        let rest = match self.twin(tables, head)? {
            Some(twin) if twin.head != head => return Err(lost(head, slot)),
            twin => twin.and_then(|twin| twin.next),
        };
        let nexts = rows.iter().skip(1).copied().map(Some).chain([rest]);
        let behind = rows.iter().copied().zip(nexts);
        for (row, next) in [(head, rows.first().copied())].into_iter().chain(behind) {
            self.slots.insert(row, Some(slot));
            self.twins.insert(row, Some(Twin { head, next }));
        }
        Ok(())
    }

    /// The row stands nowhere any more.
    fn forget(&mut self, tables: &WriteTables<'_>, row: u32) -> Result<()> {
        self.slots.insert(row, None);
        self.link(tables, row, None)
    }
}

/// Up to so many codes are looked for by comparing each with each.
const FEW_CODES: usize = 4;

impl IndexWriter<'_> {
    /// Brings chains of rows that stand nowhere to the entries of their codes, one code a chain: to an entry that is there,
    /// or a new one.
    pub(crate) fn join(&mut self, encoded: &Encoded<'_>, chains: &Chains) -> Result<()> {
        let (seq, nonce, first_list) = (self.header.seq, self.header.nonce, self.header.first_list);
        let (model, mut ledger, mut stored) = (self.model.clone(), Ledger::default(), Vec::new());
        let code_bytes = model.codec.layout().code_bytes();
        let code = |entry: usize| &encoded.codes[entry * code_bytes..(entry + 1) * code_bytes];
        let mut order: Vec<usize> = (0..encoded.lists.len()).collect();
        order.sort_by_key(|entry| encoded.lists[*entry]);
        let mut made = 0;
        for group in order.chunk_by(|a, b| encoded.lists[*a] == encoded.lists[*b]) {
            let (within, list) = (encoded.lists[group[0]], first_list + encoded.lists[group[0]]);
            let mut distinct: Vec<(&[u8], Vec<u32>)> = Vec::new();
            let mut place_of: HashMap<&[u8], usize> = HashMap::with_capacity(group.len());
            for entry in group {
                match place_of.entry(code(*entry)) {
                    Entry::Occupied(at) => distinct[*at.get()].1.extend(chains.get(*entry)),
                    Entry::Vacant(place) => {
                        place.insert(distinct.len());
                        distinct.push((code(*entry), chains.get(*entry).to_vec()));
                    }
                }
            }
            let there = self.standing(list, &place_of)?;
            let mut edit = ListEdit::open(&self.tables, model.geometry, list)?;
            for (at, (code, rows)) in distinct.iter().enumerate() {
                match there.get(&at) {
                    Some(&(offset, head)) => {
                        ledger.insert(&self.tables, head, rows, Slot { list, offset })?;
                    }
                    None => {
                        let offset = edit.push(&self.tables, code, rows[0])?;
                        edit.entry.residual += model.residual(within, code);
                        ledger.place(&self.tables, rows, Slot { list, offset })?;
                        made += 1;
                    }
                }
            }
            // A list that only gets twins stays as it is.
            if there.len() < distinct.len() {
                stored.push(edit.store(&mut self.tables, seq, nonce)?);
            }
        }
        store_entries(&mut self.tables, seq, stored)?;
        self.header.twins += (chains.len() - made) as u32;
        self.store_ledger(ledger)
    }

    /// Which of `codes` stand in `list`: offset and row, by the number of the code.
    fn standing(&self, list: u32, codes: &HashMap<&[u8], usize>) -> Result<HashMap<usize, (u32, u32)>> {
        let (geometry, entry) = (self.model.geometry, self.tables.list_entry(list)?);
        let few: Vec<(&[u8], usize)> =
            codes.iter().filter(|_| codes.len() <= FEW_CODES).map(|(code, at)| (*code, *at)).collect();
        let sums: HashSet<u32> = codes.keys().map(|code| crc32fast::hash(code)).collect();
        let find = |code: &[u8]| match few.is_empty() {
            false => few.iter().find(|(wanted, _)| *wanted == code).map(|(_, at)| *at),
            true if sums.contains(&crc32fast::hash(code)) => codes.get(code).copied(),
            true => None,
        };
        let (mut there, mut packed) = (HashMap::new(), Vec::new());
        self.tables.for_each_block(&geometry, list, &entry, |first, block| {
            packed.clear();
            geometry.layout.unpack(block.run.codes, block.run.rows.len(), &mut packed);
            let codes = packed.chunks_exact(geometry.layout.code_bytes());
            for ((offset, code), row) in (first..).zip(codes).zip(block.run.rows) {
                if let Some(at) = find(code) {
                    there.insert(at, (offset, row.get()));
                }
            }
            Ok(())
        })?;
        Ok(there)
    }

    /// Takes rows out of their entries, and entries that no row is left of out of their lists.
    ///
    /// Ticks as `"remove"`, in rows.
    pub(crate) fn leave(&mut self, rows: &[u32], observer: &mut Observer<'_>) -> Result<()> {
        let (seq, nonce, next_row) = (self.header.seq, self.header.nonce, self.header.next_row);
        let (model, mut ledger, mut stored) = (self.model.clone(), Ledger::default(), Vec::new());
        let leaving = self.sorted_slots(rows)?;
        let (mut gone, mut done) = (0, 0);
        for group in leaving.chunk_by(|a, b| a.slot.list == b.slot.list) {
            let list = group[0].slot.list;
            let within = list.wrapping_sub(self.header.first_list);
            if within as usize >= model.nlist() {
                return Err(lost(group[0].row, group[0].slot));
            }
            let mut edit = ListEdit::open(&self.tables, model.geometry, list)?;
            // What fills holes stands in its last place only at the end.
            let mut moved: BTreeMap<u32, Slot> = BTreeMap::new();
            for same in group.chunk_by(|a, b| a.slot == b.slot) {
                let (slot, tables) = (same[0].slot, &self.tables);
                let head = edit.row_at(tables, slot.offset)?.ok_or_else(|| lost(same[0].row, slot))?;
                let leaves = |row: &u32| same.binary_search_by_key(row, |change| change.row).is_ok();
                let (leave, stay): (Vec<u32>, Vec<u32>) =
                    ledger.chain(tables, head, next_row)?.into_iter().partition(leaves);
                if leave.len() != same.len() {
                    return Err(lost(same[0].row, slot));
                }
                leave.into_iter().try_for_each(|row| ledger.forget(tables, row))?;
                let Some(first) = stay.first() else {
                    let removed = edit.swap_remove(tables, slot.offset)?;
                    edit.entry.residual -= model.residual(within, &removed.code);
                    gone += 1;
                    moved.extend(removed.moved.map(|row| (row, slot)));
                    continue;
                };
                if *first != head {
                    edit.set_row(tables, slot.offset, *first)?;
                }
                ledger.place(tables, &stay, slot)?;
            }
            for (head, slot) in moved {
                let chain = ledger.chain(&self.tables, head, next_row)?;
                ledger.place(&self.tables, &chain, slot)?;
            }
            stored.push(edit.store(&mut self.tables, seq, nonce)?);
            done += group.len() as u64;
            observer.tick("remove", done, leaving.len() as u64)?;
        }
        store_entries(&mut self.tables, seq, stored)?;
        let twins = leaving.len().checked_sub(gone).and_then(|n| self.header.twins.checked_sub(n as u32));
        let fewer = || Error::corrupt(&self.tables.names.meta, 0, "more twins than it counts");
        self.header.twins = twins.ok_or_else(fewer)?;
        self.store_ledger(ledger)
    }

    /// Where `rows` stand: by list, from the highest offset down, rows of one slot ascending.
    fn sorted_slots(&self, rows: &[u32]) -> Result<Vec<SlotChange<'static>>> {
        let place = |row: &u32| {
            let slot = self.tables.slot_of(*row, &self.model.slots_column, 1)?;
            Ok(SlotChange { slot, row: *row, code: None })
        };
        let mut places: Vec<SlotChange<'static>> = rows.iter().map(place).collect::<Result<_>>()?;
        let key = |c: &SlotChange<'_>| (c.slot.list, u32::MAX - c.slot.offset, c.row);
        places.sort_unstable_by_key(key);
        Ok(places)
    }

    /// Gives rows other numbers, which are free: in their entries, in their chains, and in the column of slots.
    ///
    /// Ticks as `"renumber"`, in rows.
    pub(super) fn move_chains(&mut self, moves: &[Move], observer: &mut Observer<'_>) -> Result<()> {
        let (seq, nonce, next_row) = (self.header.seq, self.header.nonce, self.header.next_row);
        let (mut ledger, mut stored, mut done) = (Ledger::default(), Vec::new(), 0);
        let numbers: HashMap<u32, u32> = moves.iter().map(|m| (m.from, m.to)).collect();
        let rows: Vec<u32> = moves.iter().map(|m| m.from).collect();
        for group in self.sorted_slots(&rows)?.chunk_by(|a, b| a.slot.list == b.slot.list) {
            let list = group[0].slot.list;
            if list.wrapping_sub(self.header.first_list) >= self.header.nlist {
                return Err(lost(group[0].row, group[0].slot));
            }
            let mut edit = ListEdit::open(&self.tables, self.model.geometry, list)?;
            for same in group.chunk_by(|a, b| a.slot == b.slot) {
                let (slot, tables) = (same[0].slot, &self.tables);
                let head = edit.row_at(tables, slot.offset)?.ok_or_else(|| lost(same[0].row, slot))?;
                let chain = ledger.chain(tables, head, next_row)?;
                let moves = |row: &&u32| same.binary_search_by_key(*row, |change| change.row).is_ok();
                if chain.iter().filter(moves).count() != same.len() {
                    return Err(lost(same[0].row, slot));
                }
                for change in same {
                    ledger.forget(tables, change.row)?;
                }
                let number = |row: &u32| numbers.get(row).copied().unwrap_or(*row);
                let chain: Vec<u32> = chain.iter().map(number).collect();
                if chain[0] != head {
                    edit.set_row(tables, slot.offset, chain[0])?;
                }
                ledger.place(tables, &chain, slot)?;
            }
            stored.push(edit.store(&mut self.tables, seq, nonce)?);
            done += group.len() as u64;
            observer.tick("renumber", done, moves.len() as u64)?;
        }
        store_entries(&mut self.tables, seq, stored)?;
        self.store_ledger(ledger)
    }

    /// Writes rows anew as they stand at slots, chain by chain, for a repair.
    pub(crate) fn place_chains<'c>(&mut self, chains: impl Iterator<Item = (&'c [u32], Slot)>) -> Result<()> {
        let mut ledger = Ledger::default();
        for (chain, slot) in chains {
            ledger.place(&self.tables, chain, slot)?;
        }
        self.store_ledger(ledger)
    }

    fn store_ledger(&mut self, ledger: Ledger) -> Result<()> {
        let (column, seq) = (self.model.slots_column, self.header.seq);
        let slots = |slot: Option<Slot>| Slots { first: slot, second: None };
        let pairs = ledger.slots.iter().map(|(row, slot)| (*row, slots(*slot)));
        self.tables.set_slots(&column, seq, pairs)?;
        self.touched.add(ledger.twins.keys().copied());
        self.tables.set_twins(seq, &ledger.twins)
    }
}
