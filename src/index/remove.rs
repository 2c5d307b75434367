//! Removing: by selector, by key, or everything.

use super::add::{Moved, SlotChange};
use super::model::KeptColumn;
use super::writer::IndexWriter;
use crate::math::selector::IdSelector;
use crate::storage::changes::Touched;
use crate::storage::column::ABSENT;
use crate::storage::ids::NO_ID;
use crate::storage::sections::Section;
use crate::{Error, Observer, Result};

/// Few enough ids to look each of them up, however small the index.
const NAMED_IDS: usize = 1 << 16;

/// Ids forgotten between two ticks.
const TICK_IDS: usize = 4096;

impl IndexWriter<'_> {
    /// Removes the vectors that `selector` holds; returns how many there were. Ids that are not there
    /// are no error. Where the selector names its ids the cost is that of those vectors; otherwise all
    /// ids are asked.
    ///
    /// Row numbers are used again, ids never. No value of the new state holds anything of a removed vector: its code is
    /// overwritten or cut off, its kept row overwritten. The free space of the file is another matter: redb does not wipe
    /// the pages of the old state, and they keep their bytes until something else is written there.
    pub fn remove_ids(&mut self, selector: &IdSelector) -> Result<u64> {
        self.remove_ids_with(selector, &mut Observer::none())
    }

    /// The same, ticking as `"remove"` (codes taken out of their lists) and `"forget"` (ids taken out of the map), both
    /// in vectors. Cancelled at its first tick, the index is as it was; later, the transaction must be aborted.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn remove_ids_with(&mut self, selector: &IdSelector, observer: &mut Observer<'_>) -> Result<u64> {
        let mut found = self.selected(selector)?;
        found.sort_unstable();
        observer.tick("remove", 0, found.len() as u64)?;
        if found.is_empty() {
            return Ok(0);
        }
        self.change(|writer| writer.remove_rows(&found, observer))?;
        Ok(found.len() as u64)
    }

    /// The (id, row) pairs that `selector` holds, in any order.
    fn selected(&self, selector: &IdSelector) -> Result<Vec<(u64, u32)>> {
        if let IdSelector::Range(range) = selector {
            return self.tables.rows_of_range(range.clone());
        }
        // A range within a combination may name more ids than there are: those are not listed.
        let limit = usize::try_from(self.len()).unwrap_or(usize::MAX).max(NAMED_IDS);
        if let Some(ids) = selector.exact_ids(limit) {
            let rows = self.rows_of(&ids)?;
            return Ok(ids.iter().zip(rows).filter_map(|(id, row)| Some((*id, row?))).collect());
        }
        let mut found = Vec::new();
        let mut each = |row, id| {
            if selector.contains(id) {
                found.push((id, row));
            }
        };
        self.tables.for_each_id(&self.header, &mut each)?;
        Ok(found)
    }

    /// Removes the vectors of `keys`; returns how many there were.
    pub fn remove_keys<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<u64> {
        self.check_keys(true)?;
        let ids: Result<Vec<Option<u64>>> =
            keys.iter().map(|key| self.tables.id_of_key(key.as_ref())).collect();
        self.remove_ids(&IdSelector::batch(ids?.into_iter().flatten()))
    }

    /// Removes the vectors of (id, row) pairs, ascending by id.
    fn remove_rows(&mut self, pairs: &[(u64, u32)], observer: &mut Observer<'_>) -> Result<()> {
        if self.model.shares() {
            let rows: Vec<u32> = pairs.iter().map(|(_, row)| *row).collect();
            self.leave(&rows, observer)?;
        } else {
            self.remove_entries(pairs, observer)?;
        }
        for (done, (id, _)) in pairs.iter().enumerate() {
            if done.is_multiple_of(TICK_IDS) {
                observer.tick("forget", done as u64, pairs.len() as u64)?;
            }
            self.tables.map.remove(id)?;
            if self.header.keys {
                let key = self.tables.keys.remove(id)?.map(|key| key.value().to_vec());
                let lost = || Error::corrupt("keys", *id, "the id has no key");
                self.tables.keymap.remove(key.ok_or_else(lost)?.as_slice())?;
            }
        }
        let mut rows: Vec<u32> = pairs.iter().map(|(_, row)| *row).collect();
        rows.sort_unstable();
        self.erase_rows(&rows)?;
        self.free_rows(&rows)?;
        self.header.ntotal = self.header.ntotal.saturating_sub(pairs.len() as u64);
        Ok(())
    }

    fn remove_entries(&mut self, pairs: &[(u64, u32)], observer: &mut Observer<'_>) -> Result<()> {
        let mut changes = Vec::with_capacity(pairs.len() * self.model.places());
        for &(_, row) in pairs {
            changes.extend(self.slots_of(row)?.iter().map(|slot| SlotChange { slot, row, code: None }));
        }
        let mut moved = Moved::default();
        self.change_slots(changes, &mut moved, observer)?;
        self.store_moved(moved)
    }

    /// Overwrites the kept rows of `rows`, ascending: a vector that was removed is not to be read any more, not even
    /// by who knows the file. Its code is gone already, another entry took its place.
    pub(crate) fn erase_rows(&mut self, rows: &[u32]) -> Result<()> {
        let seq = self.header.seq;
        self.touched.add(rows.iter().copied());
        for KeptColumn { stage, column, .. } in &self.model.kept {
            let absent = vec![ABSENT; column.width];
            let (table, name) = self.tables.kept_mut(*stage);
            column.set(table, name, seq, rows.iter().map(|row| (*row, &absent[..])))?;
        }
        Ok(())
    }

    /// Takes ids away from `rows`, ascending, and makes the rows free. Free rows at the end are rows never used.
    fn free_rows(&mut self, rows: &[u32]) -> Result<()> {
        self.set_ids(rows.iter().map(|row| (*row, NO_ID)))?;
        for row in rows {
            self.tables.free.insert(u64::from(*row), ())?;
        }
        while let Some(last) = self.header.next_row.checked_sub(1)
            && self.tables.free.remove(u64::from(last))?.is_some()
        {
            // A damaged entry must not give away a row that is in use.
            if self.tables.has_id(last)? {
                return Err(Error::corrupt(&self.tables.names.free, last.into(), "a row that is in use"));
            }
            self.header.next_row = last;
        }
        Ok(())
    }

    /// Removes all vectors. Training, stored defaults, and the ids already used up stay.
    pub fn clear(&mut self) -> Result<()> {
        self.change(|writer| {
            writer.touched = Touched::All;
            let tables = &mut *writer.tables;
            for table in [
                &mut tables.lists,
                &mut tables.blocks,
                &mut tables.tails,
                &mut tables.slots,
                &mut tables.ids,
                &mut tables.rows,
                &mut tables.exact,
                &mut tables.keys,
            ] {
                table.retain(|_, _| false)?;
            }
            if let Some(twins) = &mut tables.twins {
                twins.retain(|_, _| false)?;
            }
            tables.map.retain(|_, _| false)?;
            tables.free.retain(|_, _| false)?;
            tables.keymap.retain(|_, _| false)?;
            for section in [Section::Merge, Section::Window] {
                tables.remove_section(section)?;
            }
            writer.header.ntotal = 0;
            writer.header.twins = 0;
            writer.header.next_row = 0;
            Ok(())
        })
    }
}
