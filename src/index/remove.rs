//! Removing: by selector, by key, or everything.

use super::add::SlotChange;
use super::writer::IndexWriter;
use crate::math::selector::IdSelector;
use crate::{Error, Result};

/// Few enough ids to look each of them up, however small the index.
const NAMED_IDS: usize = 1 << 16;

impl IndexWriter<'_> {
    /// Removes the vectors that `selector` holds; returns how many there were. Ids that are not there
    /// are no error. Where the selector names its ids the cost is that of those vectors; otherwise all
    /// ids are asked.
    ///
    /// Row numbers are used again, ids never.
    pub fn remove_ids(&mut self, selector: &IdSelector) -> Result<u64> {
        let mut found = self.selected(selector)?;
        found.sort_unstable();
        if found.is_empty() {
            return Ok(0);
        }
        self.change(|writer| writer.remove_rows(&found))?;
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
        self.tables.for_each_id(self.header.next_row, &mut each)?;
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
    fn remove_rows(&mut self, pairs: &[(u64, u32)]) -> Result<()> {
        let mut changes = Vec::with_capacity(pairs.len());
        for &(_, row) in pairs {
            changes.push(SlotChange { slot: self.tables.slot_of(row)?, row, code: None });
        }
        self.change_slots(changes)?;
        for (id, _) in pairs {
            self.tables.map.remove(id)?;
            if self.header.keys {
                let key = self.tables.keys.remove(id)?.map(|key| key.value().to_vec());
                let lost = || Error::corrupt("keys", *id, "the id has no key");
                self.tables.keymap.remove(key.ok_or_else(lost)?.as_slice())?;
            }
        }
        let mut rows: Vec<u32> = pairs.iter().map(|(_, row)| *row).collect();
        rows.sort_unstable();
        for row in &rows {
            self.tables.free.insert(u64::from(*row), ())?;
        }
        let seq = self.header.seq;
        self.tables.set_ids(seq, rows.into_iter().map(|row| (row, crate::storage::ids::NO_ID)))?;
        self.header.ntotal = self.header.ntotal.saturating_sub(pairs.len() as u64);
        Ok(())
    }

    /// Removes all vectors. Training, stored defaults, and the ids already used up stay.
    pub fn clear(&mut self) -> Result<()> {
        self.change(|writer| {
            let tables = &mut writer.tables;
            for table in [
                &mut tables.lists,
                &mut tables.blocks,
                &mut tables.tails,
                &mut tables.slots,
                &mut tables.ids,
                &mut tables.rows,
                &mut tables.keys,
            ] {
                table.retain(|_, _| false)?;
            }
            tables.map.retain(|_, _| false)?;
            tables.free.retain(|_, _| false)?;
            tables.keymap.retain(|_, _| false)?;
            writer.header.ntotal = 0;
            writer.header.next_row = 0;
            Ok(())
        })
    }
}
