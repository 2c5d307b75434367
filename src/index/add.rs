//! Adding: add, add_with_ids, add_with_keys, upsert, update.
//!
//! A batch is checked as a whole, assigned and encoded; then each touched list is opened, appended to and
//! stored once, and the columns and maps are written in row and id order. An update keeps the vector's
//! row: its code is replaced in place, or moves if its list changes.
//!
//! With spilling a row has two entries, each with a list and a code of its own. The verbs below count *entries*: those of
//! the nearest lists come first, row by row, then those of the second lists, so that without spilling entries are rows.
//! Where rows of equal codes share an entry, what stands in lists is changed in `twins`.

use super::model::{KeptColumn, Model};
use super::twins::Chains;
use super::writer::IndexWriter;
use crate::codec::Assigned;
use crate::storage::format::ListEntry;
use crate::storage::ids::{KEY_BYTES_MAX, NO_ID, Slot, Slots};
use crate::storage::lists::{ListEdit, store_entries};
use crate::{Error, Observer, Result, Rows};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

/// Checked rows with the lists and codes of their entries, ready to be written.
pub(crate) struct Encoded<'r> {
    pub(crate) rows: Cow<'r, [f32]>,
    pub(crate) lists: Vec<u32>,
    pub(crate) codes: Vec<u8>,
}

/// Rows encoded by one thread at a time.
const ENCODE_CHUNK: usize = 4096;

impl<'r> Encoded<'r> {
    /// Brings rows through the door and encodes them.
    pub(crate) fn new(model: &Model, rows: Rows<'r>) -> Result<Self> {
        Self::in_lists(model, rows, None)
    }

    /// The same in lists that somebody chose.
    fn in_lists(model: &Model, rows: Rows<'r>, nearest: Option<&[u32]>) -> Result<Self> {
        let prepared = model.prepare(rows)?;
        let rows = Rows::of(&prepared, model.spec.dim);
        let projected = model.admit(rows)?;
        let projected = Rows::of(&projected, model.inner_dim());
        let lists = match nearest {
            None => model.assign(rows, projected)?,
            Some(nearest) => model.assign_second(projected, nearest),
        };
        let codes = encode(model, projected, &lists);
        Ok(Encoded { rows: prepared, lists, codes })
    }
}

/// The packed codes of the entries of projected rows.
pub(crate) fn encode(model: &Model, rows: Rows<'_>, lists: &[u32]) -> Vec<u8> {
    if lists.len() > rows.len() {
        let (first, second) = lists.split_at(rows.len());
        let mut codes = encode(model, rows, first);
        codes.extend(encode(model, rows, second));
        return codes;
    }
    let starts: Vec<usize> = (0..rows.len()).step_by(ENCODE_CHUNK).collect();
    let part = |start: usize| {
        let range = start..rows.len().min(start + ENCODE_CHUNK);
        let mut codes = Vec::new();
        let assigned =
            Assigned { rows: rows.slice(range.clone()), lists: &lists[range], centroids: model.centroids() };
        model.codec.encode(assigned, &mut codes);
        codes
    };
    if let [start] = starts[..] {
        return part(start);
    }
    starts.into_par_iter().map(part).collect::<Vec<_>>().concat()
}

impl IndexWriter<'_> {
    /// Adds vectors under new ids, which are returned: consecutive, and never used before.
    ///
    /// # Errors
    /// [`Error::Dimension`], [`Error::NotFinite`], [`Error::ZeroVector`], [`Error::OutOfRange`] for a row,
    /// before anything is written; [`Error::IdKind`] if the index has keys; [`Error::IndexFull`].
    pub fn add(&mut self, rows: Rows<'_>) -> Result<Range<u64>> {
        self.check_keys(false)?;
        let encoded = self.encoded(rows)?;
        let ids = self.new_ids(rows.len())?;
        let list: Vec<u64> = ids.clone().collect();
        self.change(|writer| writer.insert(&list, &encoded))?;
        self.settle()?;
        Ok(ids)
    }

    /// Adds vectors under the ids given, each to the list given (0 to nlist − 1) instead of its nearest one. A search finds
    /// it where that list is probed, and the next training moves it.
    ///
    /// # Errors
    /// As [`add_with_ids`](Self::add_with_ids); [`Error::Parameter`] for a list that there is not.
    pub fn add_preassigned(&mut self, ids: &[u64], rows: Rows<'_>, lists: &[u32]) -> Result<()> {
        self.check_keys(false)?;
        self.check_ids(ids, rows.len())?;
        self.check_new(ids)?;
        let model = self.model.clone();
        if lists.len() != rows.len() {
            return Err(Error::Length { what: "lists", expected: rows.len(), got: lists.len() });
        }
        if let Some(list) = lists.iter().find(|list| **list as usize >= model.nlist()) {
            let what = format!("{list}, there are {}", model.nlist());
            return Err(Error::Parameter { name: "list", what });
        }
        let encoded = Self::in_pool(&self.pool, || Encoded::in_lists(&model, rows, Some(lists)))?;
        self.change(|writer| writer.insert(ids, &encoded))
    }

    /// Adds vectors under the ids given.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`Error::DuplicateId`] if an id is there already or twice in `ids`;
    /// [`Error::InvalidId`] for 2^64 - 1, which stands for "no id"; [`Error::Length`].
    pub fn add_with_ids(&mut self, ids: &[u64], rows: Rows<'_>) -> Result<()> {
        self.check_keys(false)?;
        self.check_ids(ids, rows.len())?;
        self.check_new(ids)?;
        let encoded = self.encoded(rows)?;
        self.change(|writer| writer.insert(ids, &encoded))?;
        self.settle()
    }

    /// Adds vectors, or replaces those whose ids are there. Returns how many were new.
    ///
    /// # Errors
    /// As [`add_with_ids`](Self::add_with_ids), but ids may be there already.
    pub fn upsert(&mut self, ids: &[u64], rows: Rows<'_>) -> Result<usize> {
        self.check_keys(false)?;
        self.check_ids(ids, rows.len())?;
        let encoded = self.encoded(rows)?;
        let new = self.change(|writer| writer.insert_or_replace(ids, &encoded))?;
        self.settle()?;
        Ok(new)
    }

    /// Replaces the vectors of ids that are there; all of them or none.
    ///
    /// # Errors
    /// As [`add_with_ids`](Self::add_with_ids); [`Error::UnknownId`] names an id that is not there.
    pub fn update_vectors(&mut self, ids: &[u64], rows: Rows<'_>) -> Result<()> {
        self.check_ids(ids, rows.len())?;
        if let Some((id, _)) = ids.iter().zip(self.rows_of(ids)?).find(|(_, row)| row.is_none()) {
            return Err(Error::UnknownId { id: *id });
        }
        let encoded = self.encoded(rows)?;
        self.change(|writer| writer.insert_or_replace(ids, &encoded)).map(|_| ())
    }

    /// Adds vectors under keys: strings or bytes, 1 to 1,024 bytes each. Returns the ids that
    /// stand for them.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`Error::DuplicateKey`], [`Error::InvalidId`], [`Error::Length`];
    /// [`Error::IdKind`] if the index has no keys.
    pub fn add_with_keys<K: AsRef<[u8]>>(&mut self, keys: &[K], rows: Rows<'_>) -> Result<Range<u64>> {
        let ids = self.check_key_batch(keys, rows.len())?;
        if let Some((key, _)) = keys.iter().zip(&ids).find(|(_, id)| id.is_some()) {
            return Err(Error::DuplicateKey { key: key.as_ref().to_vec() });
        }
        let encoded = self.encoded(rows)?;
        let ids = self.new_ids(rows.len())?;
        let list: Vec<u64> = ids.clone().collect();
        self.change(|writer| {
            writer.insert(&list, &encoded)?;
            writer.map_keys(keys, &list)
        })?;
        self.settle()?;
        Ok(ids)
    }

    /// Adds vectors under keys, or replaces those whose keys are there. Returns how many were new.
    pub fn upsert_with_keys<K: AsRef<[u8]>>(&mut self, keys: &[K], rows: Rows<'_>) -> Result<usize> {
        let found = self.check_key_batch(keys, rows.len())?;
        let encoded = self.encoded(rows)?;
        let mut fresh = self.new_ids(found.iter().filter(|id| id.is_none()).count())?;
        let mut next = || fresh.next().unwrap_or(NO_ID);
        let ids: Vec<u64> = found.iter().map(|id| id.unwrap_or_else(&mut next)).collect();
        let (new_keys, new_ids): (Vec<&K>, Vec<u64>) = keys
            .iter()
            .zip(&found)
            .zip(&ids)
            .filter(|((_, id), _)| id.is_none())
            .map(|((k, _), id)| (k, *id))
            .unzip();
        let new = self.change(|writer| {
            let new = writer.insert_or_replace(&ids, &encoded)?;
            writer.map_keys(&new_keys, &new_ids)?;
            Ok(new)
        })?;
        self.settle()?;
        Ok(new)
    }

    /// Replaces the vectors of keys that are there; all of them or none.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] names a key that is not there.
    pub fn update_with_keys<K: AsRef<[u8]>>(&mut self, keys: &[K], rows: Rows<'_>) -> Result<()> {
        let found = self.check_key_batch(keys, rows.len())?;
        let known =
            |(key, id): (&K, Option<u64>)| id.ok_or_else(|| Error::UnknownKey { key: key.as_ref().to_vec() });
        let ids: Vec<u64> = keys.iter().zip(found).map(known).collect::<Result<_>>()?;
        self.update_vectors(&ids, rows)
    }

    fn encoded<'r>(&self, rows: Rows<'r>) -> Result<Encoded<'r>> {
        let model = self.model.clone();
        Self::in_pool(&self.pool, || Encoded::new(&model, rows))
    }

    pub(crate) fn check_keys(&self, wanted: bool) -> Result<()> {
        match (self.header.keys, wanted) {
            (true, false) => Err(Error::IdKind { what: "keys: use the verbs that take keys" }),
            (false, true) => Err(Error::IdKind { what: "integer ids, no keys" }),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_ids(&self, ids: &[u64], rows: usize) -> Result<()> {
        if ids.len() != rows {
            return Err(Error::Length { what: "ids", expected: rows, got: ids.len() });
        }
        if ids.contains(&NO_ID) {
            return Err(Error::InvalidId { what: format!("{NO_ID} stands for \"no id\"") });
        }
        if ids.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::DuplicateId { id: pair[0] }),
            None => Ok(()),
        }
    }

    pub(crate) fn check_new(&self, ids: &[u64]) -> Result<()> {
        // Ids from next_id on were never seen.
        for &id in ids.iter().filter(|id| **id < self.header.next_id) {
            if self.tables.row_of(id)?.is_some() {
                return Err(Error::DuplicateId { id });
            }
        }
        Ok(())
    }

    /// Checks a batch of keys; the id of each key that is there.
    pub(crate) fn check_key_batch<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        rows: usize,
    ) -> Result<Vec<Option<u64>>> {
        self.check_keys(true)?;
        if keys.len() != rows {
            return Err(Error::Length { what: "keys", expected: rows, got: keys.len() });
        }
        let mut sorted: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        if let Some(key) = sorted.iter().find(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) {
            let what = format!("a key of {} bytes, allowed are 1 to {KEY_BYTES_MAX}", key.len());
            return Err(Error::InvalidId { what });
        }
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::DuplicateKey { key: pair[0].to_vec() });
        }
        keys.iter().map(|key| self.tables.id_of_key(key.as_ref())).collect()
    }

    pub(crate) fn new_ids(&self, n: usize) -> Result<Range<u64>> {
        let first = self.header.next_id;
        let end = first.checked_add(n as u64).ok_or(Error::IndexFull { what: "ids" })?;
        Ok(first..end)
    }

    pub(crate) fn rows_of(&self, ids: &[u64]) -> Result<Vec<Option<u32>>> {
        let rows: Vec<Option<u32>> =
            ids.iter().map(|id| self.tables.mapped_row(*id)).collect::<Result<_>>()?;
        let pairs: Vec<(u64, u32)> =
            ids.iter().zip(&rows).filter_map(|(id, row)| Some((*id, (*row)?))).collect();
        self.tables.check_rows(&pairs)?;
        Ok(rows)
    }

    pub(crate) fn map_keys<K: AsRef<[u8]>>(&mut self, keys: &[K], ids: &[u64]) -> Result<()> {
        let mut pairs: Vec<(&[u8], u64)> = keys.iter().map(AsRef::as_ref).zip(ids.iter().copied()).collect();
        pairs.sort_unstable_by_key(|(_, id)| *id);
        for (key, id) in &pairs {
            self.tables.keys.insert(id, key)?;
        }
        pairs.sort_unstable();
        for (key, id) in pairs {
            self.tables.keymap.insert(key, id)?;
        }
        Ok(())
    }

    /// Writes new vectors.
    pub(crate) fn insert(&mut self, ids: &[u64], encoded: &Encoded<'_>) -> Result<()> {
        self.insert_with(ids, encoded, |writer, numbers| writer.keep_rows(&encoded.rows, numbers))
    }

    /// Writes new codes, and has `keep` keep their rows.
    pub(crate) fn insert_with(
        &mut self,
        ids: &[u64],
        encoded: &Encoded<'_>,
        keep: impl FnOnce(&mut Self, &[u32]) -> Result<()>,
    ) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let numbers = self.tables.pick_rows(ids.len(), self.header.next_row)?;
        self.append_new(encoded, &numbers)?;
        self.set_ids(numbers.iter().copied().zip(ids.iter().copied()))?;
        let mut pairs: Vec<(u64, u32)> = ids.iter().copied().zip(numbers.iter().copied()).collect();
        pairs.sort_unstable();
        self.tables.map_ids(&pairs)?;
        keep(self, &numbers)?;
        self.tables.take_free(&numbers, self.header.next_row)?;
        let header = &mut self.header;
        header.ntotal += ids.len() as u64;
        header.next_id = pairs.last().map_or(0, |(id, _)| id + 1).max(header.next_id);
        header.next_row = numbers.last().map_or(0, |row| row + 1).max(header.next_row);
        Ok(())
    }

    /// Writes vectors whose ids may be there; returns how many were new.
    fn insert_or_replace(&mut self, ids: &[u64], encoded: &Encoded<'_>) -> Result<usize> {
        let rows = self.rows_of(ids)?;
        let (old, new): (Vec<usize>, Vec<usize>) = (0..ids.len()).partition(|i| rows[*i].is_some());
        let numbers: Vec<u32> = old.iter().filter_map(|i| rows[*i]).collect();
        self.replace(&encoded.select(&self.model, &old), &numbers)?;
        let new_ids: Vec<u64> = new.iter().map(|i| ids[*i]).collect();
        self.insert(&new_ids, &encoded.select(&self.model, &new))?;
        Ok(new.len())
    }

    /// Gives rows that are there new vectors: in place where an entry's list stays the same. An entry of the old vector
    /// whose list is the new vector's other one stays too, and the two change roles.
    fn replace(&mut self, encoded: &Encoded<'_>, numbers: &[u32]) -> Result<()> {
        if self.model.shares() {
            self.leave(numbers, &mut Observer::none())?;
            self.join(encoded, &Chains::of_single(numbers))?;
            return self.keep_rows(&encoded.rows, numbers);
        }
        let (n, code_bytes) = (numbers.len(), self.model.codec.layout().code_bytes());
        let (first_list, places) = (self.header.first_list, self.model.places());
        let mut changes = Vec::with_capacity(places * n);
        let mut moving = Vec::new();
        for (i, &row) in numbers.iter().enumerate() {
            let slots = self.slots_of(row)?;
            let entries = (0..places).map(|place| place * n + i);
            let list = |entry: &usize| first_list + encoded.lists[*entry];
            for slot in slots.iter() {
                let stays = entries.clone().find(|entry| list(entry) == slot.list);
                let code = stays.map(|entry| &encoded.codes[entry * code_bytes..(entry + 1) * code_bytes]);
                changes.push(SlotChange { slot, row, code });
            }
            moving.extend(entries.filter(|entry| slots.iter().all(|slot| slot.list != list(entry))));
        }
        let mut moved = Moved::default();
        self.change_slots(changes, &mut moved, &mut Observer::none())?;
        for (entry, slot) in self.append(encoded, numbers, moving)? {
            self.moved_row(&mut moved, numbers[entry % n])?.enter(slot);
        }
        for (row, nearest) in numbers.iter().zip(&encoded.lists).filter(|_| places > 1) {
            self.moved_row(&mut moved, *row)?.lead_with(first_list + nearest);
        }
        self.store_moved(moved)?;
        self.keep_rows(&encoded.rows, numbers)
    }

    /// The slots of `row`.
    pub(crate) fn slots_of(&self, row: u32) -> Result<Slots> {
        self.tables.slots_of(row, &self.model.slots_column, self.model.places())
    }

    /// The slots of a row as they are after what happened so far. A row of one place has nothing that a move does not
    /// say, so it is not looked up.
    fn moved_row<'m>(&self, moved: &'m mut Moved, row: u32) -> Result<&'m mut Slots> {
        Ok(match moved.0.entry(row) {
            Entry::Occupied(slots) => slots.into_mut(),
            Entry::Vacant(place) if self.model.spills() => place.insert(self.slots_of(row)?),
            Entry::Vacant(place) => place.insert(Slots::default()),
        })
    }

    /// Records where rows stand now: nowhere, or in as many lists as all rows.
    pub(crate) fn store_moved(&mut self, moved: Moved) -> Result<()> {
        let places = self.model.places();
        assert!(moved.0.values().all(|slots| [0, places].contains(&slots.len())), "all places of a row");
        let (column, seq) = (self.model.slots_column, self.header.seq);
        self.tables.set_slots(&column, seq, moved.0.into_iter())
    }

    /// Replaces or removes the codes at slots, list by list from the highest offset down: what fills a
    /// hole then never needs to be removed itself. Where rows stand now is told to `moved`.
    ///
    /// Ticks as `"remove"`, in rows.
    pub(crate) fn change_slots(
        &mut self,
        mut changes: Vec<SlotChange<'_>>,
        moved: &mut Moved,
        observer: &mut Observer<'_>,
    ) -> Result<()> {
        changes.sort_unstable_by(|a, b| (a.slot.list, b.slot.offset).cmp(&(b.slot.list, a.slot.offset)));
        let (seq, nonce) = (self.header.seq, self.header.nonce);
        let (model, geometry) = (self.model.clone(), self.model.geometry);
        let rows = |changes: usize| (changes / model.places()) as u64;
        let mut entries: Vec<(u32, ListEntry)> = Vec::new();
        let mut done = 0;
        for group in changes.chunk_by(|a, b| a.slot.list == b.slot.list) {
            let list = group[0].slot.list;
            let within = list.wrapping_sub(self.header.first_list);
            if within as usize >= model.nlist() {
                return Err(lost(group[0].row, group[0].slot));
            }
            let mut edit = ListEdit::open(&self.tables, geometry, list)?;
            for change in group {
                let offset = change.slot.offset;
                if edit.row_at(&self.tables, offset)? != Some(change.row) {
                    return Err(lost(change.row, change.slot));
                }
                let gone = match change.code {
                    Some(code) => {
                        let old = edit.set_code(&self.tables, offset, code)?;
                        edit.entry.residual += model.residual(within, code);
                        old
                    }
                    None => {
                        let removed = edit.swap_remove(&self.tables, offset)?;
                        self.moved_row(moved, removed.row)?.leave(list);
                        if let Some(row) = removed.moved {
                            let from = Slot { list, offset: edit.entry.n };
                            self.move_within(moved, row, from, change.slot)?;
                        }
                        removed.code
                    }
                };
                edit.entry.residual -= model.residual(within, &gone);
            }
            entries.push(edit.store(&mut self.tables, seq, nonce)?);
            done += group.len();
            observer.tick("remove", rows(done), rows(changes.len()))?;
        }
        store_entries(&mut self.tables, seq, entries)
    }

    /// Another row of the list took a hole: of its two slots the one in this list is meant.
    fn move_within(&self, moved: &mut Moved, row: u32, from: Slot, to: Slot) -> Result<()> {
        let slots = self.moved_row(moved, row)?;
        match slots.in_list(to.list) {
            Some(slot) if *slot == from => *slot = to,
            None if !self.model.spills() => slots.enter(to),
            _ => return Err(lost(row, from)),
        }
        Ok(())
    }

    /// Appends all entries of rows that stand nowhere yet, and records their slots.
    pub(crate) fn append_new(&mut self, encoded: &Encoded<'_>, numbers: &[u32]) -> Result<()> {
        if self.model.shares() {
            return self.join(encoded, &Chains::of_single(numbers));
        }
        let mut slots = vec![Slots::default(); numbers.len()];
        let all = (0..encoded.lists.len()).collect();
        let mut seconds = Vec::new();
        for (entry, slot) in self.append(encoded, numbers, all)? {
            match slots.get_mut(entry) {
                Some(slots) => slots.first = Some(slot),
                None => seconds.push((entry - numbers.len(), slot)),
            }
        }
        seconds.into_iter().for_each(|(row, slot)| slots[row].second = Some(slot));
        let (column, seq) = (self.model.slots_column, self.header.seq);
        self.tables.set_slots(&column, seq, numbers.iter().copied().zip(slots))
    }

    /// Appends the codes of `entries` to their lists; returns (entry, slot) pairs.
    pub(crate) fn append(
        &mut self,
        encoded: &Encoded<'_>,
        numbers: &[u32],
        mut entries: Vec<usize>,
    ) -> Result<Vec<(usize, Slot)>> {
        let model: Arc<Model> = self.model.clone();
        let (seq, nonce, first_list) = (self.header.seq, self.header.nonce, self.header.first_list);
        let code_bytes = model.codec.layout().code_bytes();
        entries.sort_by_key(|entry| encoded.lists[*entry]);
        let mut stored = Vec::new();
        let mut slots = Vec::with_capacity(entries.len());
        for group in entries.chunk_by(|a, b| encoded.lists[*a] == encoded.lists[*b]) {
            let list = encoded.lists[group[0]];
            let mut edit = ListEdit::open(&self.tables, model.geometry, first_list + list)?;
            for &entry in group {
                let code = &encoded.codes[entry * code_bytes..(entry + 1) * code_bytes];
                let offset = edit.push(&self.tables, code, numbers[entry % numbers.len()])?;
                edit.entry.residual += model.residual(list, code);
                slots.push((entry, Slot { list: first_list + list, offset }));
            }
            stored.push(edit.store(&mut self.tables, seq, nonce)?);
        }
        store_entries(&mut self.tables, seq, stored)?;
        Ok(slots)
    }

    /// The vector of a row by its code, for a repair.
    pub(crate) fn decoded(&self, row: u32) -> Result<Vec<f32>> {
        let slot = self.tables.slot_of(row, &self.model.slots_column, self.model.places())?;
        let (code, _) = self.tables.code_at(slot, &self.model.geometry)?.ok_or_else(|| lost(row, slot))?;
        let within = slot.list.wrapping_sub(self.header.first_list);
        match (within as usize) < self.model.nlist() {
            true => self.model.decode_for_users(within, &code),
            false => Err(lost(row, slot)),
        }
    }

    /// Writes kept rows anew, for a repair. Codes that are estimates of rows kept exactly become those of the new rows, in
    /// the lists where they are: a row and its code must agree.
    pub(crate) fn restore_rows(&mut self, mut rows: Vec<f32>, numbers: &[u32]) -> Result<()> {
        let model = self.model.clone();
        let Some(judge) = model.kept.last() else { return Ok(()) };
        judge.form.fit(&mut rows);
        self.keep_rows(&rows, numbers)?;
        if model.code_element().is_some() || !judge.form.is_exact() {
            return Ok(());
        }
        let slots: Vec<Slots> = numbers.iter().map(|row| self.slots_of(*row)).collect::<Result<_>>()?;
        let firsts = slots.iter().zip(numbers).filter_map(|(slots, row)| Some((slots.first?, *row)));
        let seconds = slots.iter().zip(numbers).filter_map(|(slots, row)| Some((slots.second?, *row)));
        let entries: Vec<(Slot, u32)> = firsts.chain(seconds).collect();
        let lists: Vec<u32> = entries.iter().map(|(slot, _)| slot.list - self.header.first_list).collect();
        let projected = model.project(Rows::of(&rows, model.spec.dim))?;
        let codes = encode(&model, Rows::of(&projected, model.inner_dim()), &lists);
        let codes = codes.chunks_exact(model.codec.layout().code_bytes());
        let change = |((slot, row), code)| SlotChange { slot, row, code: Some(code) };
        let changes = entries.into_iter().zip(codes).map(change).collect();
        // Codes change where they are: nothing moves.
        self.change_slots(changes, &mut Moved::default(), &mut Observer::none())
    }

    /// Writes kept rows, if the index keeps any.
    fn keep_rows(&mut self, rows: &[f32], numbers: &[u32]) -> Result<()> {
        let model = self.model.clone();
        self.touched.add(numbers.iter().copied());
        for kept in &model.kept {
            let mut bytes = Vec::new();
            kept.form.encode(rows, &mut bytes);
            self.keep_bytes(kept, &bytes, numbers)?;
        }
        Ok(())
    }

    /// Writes one column of kept rows, as they are stored.
    pub(crate) fn keep_bytes(&mut self, kept: &KeptColumn, bytes: &[u8], numbers: &[u32]) -> Result<()> {
        let KeptColumn { stage, column, .. } = kept;
        let seq = self.header.seq;
        self.touched.add(numbers.iter().copied());
        let mut pairs: Vec<(u32, &[u8])> =
            numbers.iter().copied().zip(bytes.chunks_exact(column.width)).collect();
        pairs.sort_unstable_by_key(|(row, _)| *row);
        let (table, name) = self.tables.kept_mut(*stage);
        column.set(table, name, seq, pairs)
    }
}

/// Where rows stand that a change has touched: written at its end, as another change of the same verb may touch them
/// again.
#[derive(Default)]
pub(crate) struct Moved(HashMap<u32, Slots>);

impl Moved {
    /// The row stands nowhere, whatever the tables say.
    pub(crate) fn away(&mut self, row: u32) {
        self.0.insert(row, Slots::default());
    }
}

/// What is to happen at a slot: a new code, or removal.
pub(crate) struct SlotChange<'c> {
    pub(crate) slot: Slot,
    /// Who should live there.
    pub(crate) row: u32,
    pub(crate) code: Option<&'c [u8]>,
}

pub(crate) fn lost(row: u32, slot: Slot) -> Error {
    Error::corrupt("slots", row.into(), format!("{slot:?} does not hold the row"))
}

impl Encoded<'_> {
    /// The rows `picks`, in that order, with all their entries.
    fn select(&self, model: &Model, picks: &[usize]) -> Encoded<'_> {
        let (places, n) = (model.places(), self.lists.len() / model.places());
        if picks.len() == n && picks.is_sorted() {
            return Encoded {
                rows: Cow::Borrowed(&self.rows),
                lists: self.lists.clone(),
                codes: self.codes.clone(),
            };
        }
        let (dim, code_bytes) = (model.spec.dim, model.codec.layout().code_bytes());
        let pick = |i: &usize| self.rows[i * dim..(i + 1) * dim].iter().copied();
        let entries = (0..places).flat_map(|place| picks.iter().map(move |i| place * n + i));
        let code = |entry| self.codes[entry * code_bytes..(entry + 1) * code_bytes].iter().copied();
        Encoded {
            rows: Cow::Owned(picks.iter().flat_map(pick).collect()),
            lists: entries.clone().map(|entry| self.lists[entry]).collect(),
            codes: entries.flat_map(code).collect(),
        }
    }
}
