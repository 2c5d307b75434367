//! Renumbering: live rows move onto free row numbers, so that columns end where the vectors do.
//!
//! ```text
//! row numbers   0 1 2 3 4 5 6 7 8 9          0 1 2 3
//! before        a . . b . . c . . d   after  a d c b   (. is free)
//! ```
//! A removed row leaves its page to its neighbours: after 19 of 20 vectors were removed at random, almost every
//! page of the columns still holds a live row. The rows at and beyond the number of vectors take the free numbers below it.
//! Their entries in the lists learn the new numbers, columns and map follow, and pages that are left empty go.

use super::add::lost;
use super::model::KeptColumn;
use super::writer::IndexWriter;
use crate::storage::format::Header;
use crate::storage::ids::{NO_ID, Slot, Slots};
use crate::storage::lists::{ListEdit, store_entries};
use crate::{Error, Observer, Result};

/// One row on its way.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub(super) from: u32,
    pub(super) to: u32,
    id: u64,
}

/// Bytes of kept rows that are moved at a time.
const MOVE_BYTES: usize = 16 << 20;

/// More than a fifth of the row numbers are free.
pub(crate) fn is_sparse(header: &Header) -> bool {
    let numbers = u64::from(header.next_row);
    numbers.saturating_sub(header.ntotal) * 5 > numbers
}

impl IndexWriter<'_> {
    /// Moves vectors onto free row numbers until there is none; returns how many moved. Ids, answers and lists stay as
    /// they are. Worth it after many vectors were removed and no others are to take their place:
    /// [`Store::compact`](crate::Store::compact) does it where more than a fifth of the numbers are free.
    ///
    /// The observer is ticked as `"renumber"`, in vectors. Cancelled at its first tick, the index is as it was; later,
    /// the transaction must be aborted.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::Corrupt`].
    pub fn renumber(&mut self, observer: &mut Observer<'_>) -> Result<u64> {
        let moves = self.moves()?;
        observer.tick("renumber", 0, moves.len() as u64)?;
        if self.is_dense() {
            return Ok(0);
        }
        self.change(|writer| writer.move_rows(&moves, observer))?;
        Ok(moves.len() as u64)
    }

    /// No row number is free.
    fn is_dense(&self) -> bool {
        u64::from(self.header.next_row) == self.header.ntotal
    }

    /// The live rows beyond the number of vectors and the free ones below it, both ascending, by the word of the ids
    /// alone: their pages carry checksums and their count is known, so that damage elsewhere misleads nobody here.
    fn moves(&self) -> Result<Vec<Move>> {
        let live = u32::try_from(self.header.ntotal).unwrap_or(u32::MAX);
        let (mut free, mut moving, mut next) = (Vec::new(), Vec::new(), 0);
        self.tables.for_each_id(&self.header, &mut |row, id| {
            free.extend(next.min(live)..row.min(live));
            next = row + 1;
            if row >= live {
                moving.push((row, id));
            }
        })?;
        free.extend(next.min(live)..live);
        assert_eq!(free.len(), moving.len(), "as many numbers are free below as are in use beyond");
        let pairs = moving.into_iter().zip(free);
        Ok(pairs.map(|((from, id), to)| Move { from, to, id }).collect())
    }

    fn move_rows(&mut self, moves: &[Move], observer: &mut Observer<'_>) -> Result<()> {
        let seq = self.header.seq;
        if self.model.shares() {
            self.move_chains(moves, observer)?;
        } else {
            let slots = self.move_entries(moves, observer)?;
            let came = moves.iter().map(|m| m.to).zip(slots);
            let went = moves.iter().map(|m| (m.from, Slots::default()));
            self.tables.set_slots(&self.model.slots_column, seq, came.chain(went))?;
        }
        let (came, went) = (moves.iter().map(|m| (m.to, m.id)), moves.iter().map(|m| (m.from, NO_ID)));
        self.set_ids(came.chain(went))?;
        let mut by_id: Vec<(u64, u32)> = moves.iter().map(|m| (m.id, m.to)).collect();
        by_id.sort_unstable();
        for (id, to) in by_id {
            self.tables.map.insert(id, to)?;
        }
        for kept in self.model.clone().kept.iter() {
            let batch = (MOVE_BYTES / kept.column.width).max(1);
            moves.chunks(batch).try_for_each(|moves| self.move_kept(kept, moves))?;
        }
        let went: Vec<u32> = moves.iter().map(|m| m.from).collect();
        self.erase_rows(&went)?;
        self.tables.free.retain(|_, _| false)?;
        self.header.next_row = self.header.ntotal as u32;
        Ok(())
    }

    /// Tells the lists the new numbers; where each row stands, in the order of `moves`.
    fn move_entries(&mut self, moves: &[Move], observer: &mut Observer<'_>) -> Result<Vec<Slots>> {
        let (seq, nonce, places) = (self.header.seq, self.header.nonce, self.model.places());
        let slots: Vec<Slots> = moves.iter().map(|m| self.slots_of(m.from)).collect::<Result<_>>()?;
        let pairs = moves.iter().zip(&slots);
        let mut sorted: Vec<(Move, Slot)> =
            pairs.flat_map(|(m, slots)| slots.iter().map(move |slot| (*m, slot))).collect();
        sorted.sort_unstable_by_key(|(_, slot)| *slot);
        let (mut entries, mut done) = (Vec::new(), 0);
        for group in sorted.chunk_by(|a, b| a.1.list == b.1.list) {
            let list = group[0].1.list;
            if list.wrapping_sub(self.header.first_list) >= self.header.nlist {
                return Err(lost(group[0].0.from, group[0].1));
            }
            let mut edit = ListEdit::open(&self.tables, self.model.geometry, list)?;
            for (m, slot) in group {
                if edit.row_at(&self.tables, slot.offset)? != Some(m.from) {
                    return Err(lost(m.from, *slot));
                }
                edit.set_row(&self.tables, slot.offset, m.to)?;
            }
            entries.push(edit.store(&mut self.tables, seq, nonce)?);
            done += group.len();
            observer.tick("renumber", (done / places) as u64, moves.len() as u64)?;
        }
        store_entries(&mut self.tables, seq, entries)?;
        Ok(slots)
    }

    fn move_kept(&mut self, kept: &KeptColumn, moves: &[Move]) -> Result<()> {
        let column = kept.column;
        let from: Vec<u32> = moves.iter().map(|m| m.from).collect();
        let mut bytes = Vec::with_capacity(moves.len() * column.width);
        let seq = self.header.seq;
        let (table, name) = self.tables.kept_mut(kept.stage);
        column.for_some(table, name, &from, |_, row| {
            bytes.extend_from_slice(row);
            Ok(())
        })?;
        if bytes.len() != moves.len() * column.width {
            return Err(Error::corrupt(name, from[0].into(), "a kept row is missing"));
        }
        self.touched.add(moves.iter().map(|m| m.to));
        let pairs = moves.iter().map(|m| m.to).zip(bytes.chunks_exact(column.width));
        column.set(table, name, seq, pairs)
    }
}
