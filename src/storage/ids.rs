//! Identity: id ↔ row, and key ↔ id.
//!
//! The `map` table goes from id to row, the `ids` column back. Where ids are keys (strings or bytes),
//! each key also has an assigned id, and `keymap` and `keys` go between the two; so every verb works on
//! ids, and keys are one more step at the door. The `slots` column is the direct map: row → list, offset; where rows
//! stand in two lists an entry holds both, that of the nearest list first.
//!
//! ```text
//! slots   | list u32 | offset u32 |                              0xFF bytes where there is none
//! spilled | list u32 | offset u32 | list u32 | offset u32 |      the second is absent until training
//! ```

use super::column::{ABSENT, Column};
use super::format::{Header, Kind};
use super::{BytesTable, Tables, WriteTables};
use crate::guard::guarded;
use crate::{Error, Result};
use redb::ReadableTable;
use std::borrow::Cow;
use std::ops::{Bound, Range};

/// The id that means "no id": an entry of the `ids` column that was never written.
pub(crate) const NO_ID: u64 = u64::MAX;

/// The longest key in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

pub(crate) fn ids_column() -> Column {
    Column::narrow(Kind::Ids, 8)
}

/// The column of slots of an index that spills, or of one that does not.
pub(crate) fn slots_column(spill: bool) -> Column {
    Column::narrow(Kind::Slots, if spill { 2 * SLOT } else { SLOT })
}

/// Bytes of a slot.
const SLOT: usize = 8;

/// Where a row's code stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub(crate) list: u32,
    pub(crate) offset: u32,
}

impl Slot {
    pub(crate) fn encode(self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..4].copy_from_slice(&self.list.to_le_bytes());
        bytes[4..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// `None` where no slot was written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (list, offset) = (bytes.first_chunk::<4>()?, bytes.last_chunk::<4>()?);
        let slot = Slot { list: u32::from_le_bytes(*list), offset: u32::from_le_bytes(*offset) };
        (slot.list != u32::MAX).then_some(slot)
    }
}

/// Where all codes of a row stand: in one list, or in two where the index spills; nowhere by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) first: Option<Slot>,
    pub(crate) second: Option<Slot>,
}

impl Slots {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        self.first.into_iter().chain(self.second)
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.iter().any(|own| own == slot)
    }

    /// Both are the same places, whichever comes first.
    pub(crate) fn same_places(&self, other: &Slots) -> bool {
        self.len() == other.len() && self.iter().all(|slot| other.contains(slot))
    }

    /// The place within `list`: rows never stand in a list twice.
    pub(crate) fn in_list(&mut self, list: u32) -> Option<&mut Slot> {
        self.first.iter_mut().chain(&mut self.second).find(|slot| slot.list == list)
    }

    /// Takes the place within `list` away; what is left comes first.
    pub(crate) fn leave(&mut self, list: u32) {
        let stays = |slot: &Slot| slot.list != list;
        (self.first, self.second) = match (self.first.filter(stays), self.second.filter(stays)) {
            (None, second) => (second, None),
            slots => slots,
        };
    }

    /// Adds a place behind what is there.
    pub(crate) fn enter(&mut self, slot: Slot) {
        match self.first {
            None => self.first = Some(slot),
            Some(_) => self.second = Some(slot),
        }
    }

    /// Puts the place within `list` first, if there is one.
    pub(crate) fn lead_with(&mut self, list: u32) {
        if self.second.is_some_and(|slot| slot.list == list) {
            std::mem::swap(&mut self.first, &mut self.second);
        }
    }

    /// The entry of a column; one of narrow entries takes the first slot alone.
    pub(crate) fn encode(self) -> [u8; 2 * SLOT] {
        let mut bytes = [ABSENT; 2 * SLOT];
        for (bytes, slot) in bytes.chunks_exact_mut(SLOT).zip(self.iter()) {
            bytes.copy_from_slice(&slot.encode());
        }
        bytes
    }

    pub(crate) fn decode(entry: &[u8]) -> Self {
        let mut slots = entry.chunks_exact(SLOT).map(Slot::decode);
        Slots { first: slots.next().flatten(), second: slots.next().flatten() }
    }
}

/// An entry of the `ids` column.
pub(crate) fn decode_id(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).filter(|id| *id != NO_ID)
}

impl<B, M, F, K> Tables<B, M, F, K>
where
    B: BytesTable,
    M: ReadableTable<u64, u32>,
    F: ReadableTable<u64, ()>,
    K: ReadableTable<&'static [u8], u64>,
{
    /// Refuses an index whose tables of identity hold more or fewer entries than its header counts. redb keeps
    /// the lengths, so this costs the same however large they are; it notices entries that are gone, and not those
    /// that only cannot be found behind a damaged page.
    pub(crate) fn check_counts(&self, header: &Header) -> Result<()> {
        let names = &self.names;
        let check = |table: &str, found: u64, expected: u64| match found == expected {
            true => Ok(()),
            false => {
                let what = format!("{found} entries, the header says {expected}: repair the index");
                Err(Error::corrupt(table, 0, what))
            }
        };
        check(&names.map, self.map.len()?, header.ntotal)?;
        check(&names.free, self.free.len()?, u64::from(header.next_row).saturating_sub(header.ntotal))?;
        let keys = if header.keys { header.ntotal } else { 0 };
        check(&names.keys, self.keys.len()?, keys)?;
        if let Some(twins) = &self.twins {
            check(&names.twins, twins.len()?, header.twin_pages.into())?;
        }
        check(&names.keymap, self.keymap.len()?, keys)
    }

    /// The row of `id`, as the map says. Its pages carry no checksum of ours: see [`Tables::check_rows`].
    pub(crate) fn mapped_row(&self, id: u64) -> Result<Option<u32>> {
        guarded(|| Ok(self.map.get(id)?.map(|row| row.value())))
    }

    /// The row of `id`.
    pub(crate) fn row_of(&self, id: u64) -> Result<Option<u32>> {
        let row = self.mapped_row(id)?;
        row.map_or(Ok(()), |row| self.check_rows(&[(id, row)]))?;
        Ok(row)
    }

    /// Refuses (id, row) pairs, in any order, if a row is not the id's: the column of ids, which is
    /// checked page by page, has the last word.
    pub(crate) fn check_rows(&self, pairs: &[(u64, u32)]) -> Result<()> {
        let mut sorted = Cow::Borrowed(pairs);
        if !pairs.is_sorted_by_key(|(_, row)| *row) {
            sorted.to_mut().sort_unstable_by_key(|(_, row)| *row);
        }
        let rows: Vec<u32> = sorted.iter().map(|(_, row)| *row).collect();
        let mut pairs = sorted.iter();
        ids_column().for_some(&self.ids, &self.names.ids, &rows, |row, bytes| match pairs.next() {
            Some((id, expected)) if row == *expected && decode_id(bytes) == Some(*id) => Ok(()),
            Some((id, expected)) => Err(self.misled(*id, *expected)),
            None => Err(self.misled(NO_ID, row)),
        })?;
        // Left over is what stands on no page.
        pairs.next().map_or(Ok(()), |(id, row)| Err(self.misled(*id, *row)))
    }

    pub(crate) fn misled(&self, id: u64, row: u32) -> Error {
        Error::corrupt(&self.names.map, id, format!("maps to row {row}, which has another id"))
    }

    /// The ids in a range that are there, ascending, with their rows.
    pub(crate) fn rows_of_range(&self, ids: Range<u64>) -> Result<Vec<(u64, u32)>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let pairs: Vec<(u64, u32)> = guarded(|| {
            let entries = self.map.range(ids)?;
            entries
                .map(|entry| entry.map(|(id, row)| (id.value(), row.value())).map_err(Error::from))
                .collect()
        })?;
        self.check_rows(&pairs)?;
        Ok(pairs)
    }

    /// The id of `row`.
    pub(crate) fn id_of(&self, row: u32) -> Result<u64> {
        let name = &self.names.ids;
        self.id_if_there(row)?.ok_or_else(|| Error::corrupt(name, row.into(), "the row has no id"))
    }

    /// True if `row` is in use.
    pub(crate) fn has_id(&self, row: u32) -> Result<bool> {
        Ok(self.id_if_there(row)?.is_some())
    }

    /// The id of a row that may be free.
    pub(crate) fn id_if_there(&self, row: u32) -> Result<Option<u64>> {
        let mut bytes = [ABSENT; 8];
        ids_column().get(&self.ids, &self.names.ids, row, &mut bytes)?;
        Ok(decode_id(&bytes))
    }

    /// Calls `each(row, id)` for every row that has an id, ascending by row.
    pub(crate) fn for_each_id(&self, header: &Header, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
        let mut found = 0;
        ids_column().for_each(&self.ids, &self.names.ids, 0..header.next_row, |row, bytes| {
            if let Some(id) = decode_id(bytes) {
                found += 1;
                each(row, id);
            }
            Ok(())
        })?;
        match found == header.ntotal {
            true => Ok(()),
            // A page that is gone reads as one without ids.
            false => {
                Err(Error::corrupt(&self.names.ids, 0, format!("{found} ids for {} rows", header.ntotal)))
            }
        }
    }

    /// The slots of `row`, which are `places`.
    pub(crate) fn slots_of(&self, row: u32, column: &Column, places: usize) -> Result<Slots> {
        let mut bytes = [ABSENT; 2 * SLOT];
        column.get(&self.slots, &self.names.slots, row, &mut bytes[..column.width])?;
        let slots = Slots::decode(&bytes[..column.width]);
        match slots.len() {
            n if n == places => Ok(slots),
            n => Err(Error::corrupt(&self.names.slots, row.into(), format!("{n} slots, expected {places}"))),
        }
    }

    /// The first slot of `row`, of `places`: that of its nearest list.
    pub(crate) fn slot_of(&self, row: u32, column: &Column, places: usize) -> Result<Slot> {
        let first = self.slots_of(row, column, places)?.first;
        first.ok_or_else(|| Error::corrupt(&self.names.slots, row.into(), "the row has no first slot"))
    }

    /// The id that stands for `key`: the two tables of keys must agree.
    pub(crate) fn id_of_key(&self, key: &[u8]) -> Result<Option<u64>> {
        guarded(|| {
            let Some(id) = self.keymap.get(key)?.map(|id| id.value()) else { return Ok(None) };
            match self.keys.get(id)?.is_some_and(|back| back.value() == key) {
                true => Ok(Some(id)),
                false => Err(Error::corrupt(&self.names.keymap, id, "stands for another key")),
            }
        })
    }

    /// The key of `id`: the two tables of keys must agree.
    pub(crate) fn key_of(&self, id: u64) -> Result<Option<Vec<u8>>> {
        guarded(|| {
            let Some(key) = self.keys.get(id)?.map(|key| key.value().to_vec()) else { return Ok(None) };
            match self.keymap.get(key.as_slice())?.is_some_and(|back| back.value() == id) {
                true => Ok(Some(key)),
                false => Err(Error::corrupt(&self.names.keys, id, "its key stands for another id")),
            }
        })
    }

    /// All ids, ascending.
    pub(crate) fn all_ids(&self, header: &Header) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        self.for_each_id(header, &mut |_, id| ids.push(id))?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Row numbers for `n` new rows: freed ones first, lowest first, then never used ones.
    pub(crate) fn pick_rows(&self, n: usize, next_row: u32) -> Result<Vec<u32>> {
        let mut rows = Vec::with_capacity(n);
        for entry in self.free.iter()?.take(n) {
            let row = entry?.0.value();
            let row =
                u32::try_from(row).map_err(|_| Error::corrupt(&self.names.free, row, "no row number"))?;
            rows.push(row);
        }
        // A damaged entry must not hand out a row that is in use.
        ids_column().for_some(&self.ids, &self.names.ids, &rows, |row, bytes| match decode_id(bytes) {
            None if row < next_row => Ok(()),
            _ => Err(Error::corrupt(&self.names.free, row.into(), "a row that is in use")),
        })?;
        let fresh = n - rows.len();
        if fresh as u64 > u64::from(u32::MAX - 1 - next_row) {
            return Err(Error::IndexFull { what: "row numbers" });
        }
        rows.extend(next_row..next_row + fresh as u32);
        Ok(rows)
    }
}

impl WriteTables<'_> {
    /// Maps new ids to rows. `pairs` ascends by id; ids beyond the last one are appended through one
    /// cursor, which is several times faster than inserting them one by one.
    pub(crate) fn map_ids(&mut self, pairs: &[(u64, u32)]) -> Result<()> {
        let last = self.map.last()?.map(|(id, _)| id.value());
        let inner = pairs.partition_point(|(id, _)| last.is_some_and(|last| *id <= last));
        for (id, row) in &pairs[..inner] {
            if self.map.insert(id, row)?.is_some() {
                return Err(Error::corrupt(&self.names.map, *id, "a new id is there already"));
            }
        }
        let mut cursor = self.map.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for (id, row) in &pairs[inner..] {
            cursor.insert_before(id, row).map_err(cursor_error)?;
        }
        Ok(cursor.close()?)
    }

    /// Sets the ids of rows; `pairs` in any order.
    pub(crate) fn set_ids(&mut self, seq: u64, pairs: impl Iterator<Item = (u32, u64)>) -> Result<()> {
        let mut pairs: Vec<_> = pairs.map(|(row, id)| (row, id.to_le_bytes())).collect();
        pairs.sort_unstable_by_key(|(row, _)| *row);
        ids_column().set(&mut self.ids, &self.names.ids, seq, pairs.iter().map(|(row, id)| (*row, &id[..])))
    }

    /// Sets the slots of rows; `pairs` in any order, no slots for a row that is nowhere any more.
    pub(crate) fn set_slots(
        &mut self,
        column: &Column,
        seq: u64,
        pairs: impl Iterator<Item = (u32, Slots)>,
    ) -> Result<()> {
        let mut pairs: Vec<_> = pairs.map(|(row, slots)| (row, slots.encode())).collect();
        pairs.sort_unstable_by_key(|(row, _)| *row);
        let entries = pairs.iter().map(|(row, bytes)| (*row, &bytes[..column.width]));
        column.set(&mut self.slots, &self.names.slots, seq, entries)
    }

    /// Takes rows out of the free ones, as [`Tables::pick_rows`] chose them.
    pub(crate) fn take_free(&mut self, rows: &[u32], next_row: u32) -> Result<()> {
        for row in rows.iter().filter(|row| **row < next_row) {
            self.free.remove(u64::from(*row))?;
        }
        Ok(())
    }
}

/// A cursor refuses keys out of order; ours are sorted, so that is our own bug if it happens.
fn cursor_error(e: impl std::fmt::Display + Into<redb::Error>) -> Error {
    e.into().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_and_absence_is_none() {
        let slot = Slot { list: 7, offset: 1 << 31 };
        assert_eq!(Slot::decode(&slot.encode()), Some(slot));
        assert_eq!(Slot::decode(&[ABSENT; 8]), None);
        let both = Slots { first: Some(slot), second: Some(Slot { list: 2, offset: 0 }) };
        for slots in [both, Slots { second: None, ..both }, Slots::default()] {
            assert_eq!(Slots::decode(&slots.encode()), slots);
        }
        let narrow = slots_column(false).width;
        assert_eq!(Slots::decode(&both.encode()[..narrow]), Slots { second: None, ..both });
        assert_eq!(decode_id(&[ABSENT; 8]), None);
        assert_eq!(decode_id(&5u64.to_le_bytes()), Some(5));
    }

    #[test]
    fn slots_move_by_their_list() {
        let slot = |list, offset| Slot { list, offset };
        let mut slots = Slots::default();
        slots.enter(slot(4, 0));
        slots.enter(slot(9, 1));
        *slots.in_list(9).unwrap() = slot(9, 7);
        assert_eq!(slots.in_list(5), None);
        slots.lead_with(9);
        assert_eq!(slots, Slots { first: Some(slot(9, 7)), second: Some(slot(4, 0)) });
        slots.lead_with(9);
        slots.leave(9);
        assert_eq!(slots, Slots { first: Some(slot(4, 0)), second: None });
        slots.leave(4);
        assert_eq!(slots, Slots::default());
    }
}
