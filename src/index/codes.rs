//! Codes in the open: where a vector stands, its bytes there, whole lists, and vectors to codes and back without storing
//! them. What FAISS calls direct map, `search_and_return_codes`, `sa_encode`.
//!
//! ```text
//! stand-alone code   | list number, as few little-endian bytes as nlist − 1 takes | code, as packed in its list |
//! ```

use super::add::encode;
use super::reader::{IndexReader, Neighbor};
use super::rerank;
use super::twins::{chain_of, stands_with};
use crate::params::SearchParams;
use crate::storage::ids;
use crate::{Error, Result, Rows};
use std::ops::Range;

/// Where a vector's code stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The list, 0 to nlist − 1.
    pub list: u32,
    /// The entry within it. Removing others may move it.
    pub offset: u32,
}

/// One list of an index. Made by [`IndexReader::lists`].
#[derive(Clone, Copy, Debug)]
pub struct ListRef<'r> {
    reader: &'r IndexReader<'r>,
    number: u32,
}

/// A vector that was found, with its components.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstructed {
    /// Its id and distance.
    pub neighbor: Neighbor,
    /// The vector, as [`IndexReader::reconstruct`] gives it.
    pub vector: Vec<f32>,
}

/// A vector that was found, with its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Where it stands.
    pub slot: Slot,
    /// Its bytes, [`IndexReader::code_bytes`] of them.
    pub bytes: Vec<u8>,
}

impl IndexReader<'_> {
    /// Bytes of one vector's code in its list.
    pub fn code_bytes(&self) -> usize {
        self.model.codec.layout().code_bytes()
    }

    /// Bytes that a list number takes in a stand-alone code: 0 for one list, 1 up to 256 of them, and so on.
    pub fn list_number_bytes(&self) -> usize {
        (usize::BITS - (self.nlist() - 1).leading_zeros()).div_ceil(8) as usize
    }

    /// Where the vector of `id` stands; in its nearest list, where vectors stand in two.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn slot(&self, id: u64) -> Result<Slot> {
        let row = self.view.row_of(id)?.ok_or(Error::UnknownId { id })?;
        let slot = self.view.slot_of(row, &self.model.slots_column, self.model.places())?;
        self.slot_within(row, slot)
    }

    /// The same with the list's number within the model.
    pub(crate) fn slot_within(&self, row: u32, slot: ids::Slot) -> Result<Slot> {
        let list = slot.list.checked_sub(self.header().first_list).filter(|l| (*l as usize) < self.nlist());
        let list = list.ok_or_else(|| Error::corrupt("slots", row.into(), format!("{slot:?} is no slot")))?;
        Ok(Slot { list, offset: slot.offset })
    }

    /// Where the vector of `id` stands, and its code there.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn code(&self, id: u64) -> Result<Code> {
        let row = self.view.row_of(id)?.ok_or(Error::UnknownId { id })?;
        let slot = self.view.slot_of(row, &self.model.slots_column, self.model.places())?;
        let (bytes, resident) = self.view.code_at(slot, &self.model.geometry)?.unwrap_or_default();
        if bytes.is_empty() || !stands_with(&*self.view, row, resident)? {
            return Err(Error::corrupt("slots", row.into(), format!("{slot:?} does not hold the row")));
        }
        Ok(Code { slot: self.slot_within(row, slot)?, bytes })
    }

    /// The id at a slot; the lowest where equal vectors share it.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a slot that there is not.
    pub fn id_at(&self, slot: Slot) -> Result<u64> {
        let (head, _) = self.entry_at(slot)?;
        let mut lowest = u64::MAX;
        for row in chain_of(&*self.view, head)? {
            lowest = lowest.min(self.view.id(row)?);
        }
        Ok(lowest)
    }

    /// The vector at a slot, from its code alone: what `reconstruct` gives where no rows are kept.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a slot that there is not; [`Error::CannotDecode`].
    pub fn reconstruct_at(&self, slot: Slot) -> Result<Vec<f32>> {
        let (_, code) = self.entry_at(slot)?;
        self.model.decode_for_users(slot.list, &code)
    }

    fn entry_at(&self, slot: Slot) -> Result<(u32, Vec<u8>)> {
        self.check_list(slot.list)?;
        let stored = ids::Slot { list: self.header().first_list + slot.list, offset: slot.offset };
        let (code, row) = self.view.code_at(stored, &self.model.geometry)?.ok_or_else(|| {
            let what = format!("{}, list {} is shorter", slot.offset, slot.list);
            Error::Parameter { name: "offset", what }
        })?;
        Ok((row, code))
    }

    pub(crate) fn check_list(&self, list: u32) -> Result<()> {
        let nlist = self.nlist();
        if (list as usize) < nlist {
            return Ok(());
        }
        Err(Error::Parameter { name: "list", what: format!("{list}, there are {nlist}") })
    }

    /// The ids and the codes of a list, entry after entry. A vector that stands in two lists is an entry of both; an entry
    /// that equal vectors share comes once for each of them.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a list that there is not.
    pub fn list(&self, list: u32) -> Result<(Vec<u64>, Vec<u8>)> {
        self.check_list(list)?;
        let (mut rows, mut codes) = (Vec::new(), Vec::new());
        self.view.visit(list, &mut |run| {
            rows.extend(run.rows.iter().map(|row| row.get()));
            self.model.geometry.layout.unpack(run.codes, run.rows.len(), &mut codes);
            Ok(())
        })?;
        let (rows, codes) = self.one_each(rows, codes)?;
        let ids = rows.into_iter().map(|row| self.view.id(row)).collect::<Result<_>>()?;
        Ok((ids, codes))
    }

    /// All lists, in the order of their numbers.
    ///
    /// ```no_run
    /// # fn of(index: vellum::IndexReader<'_>) -> vellum::Result<()> {
    /// for list in index.lists() {
    ///     println!("list {}: {} entries, {} bytes of codes", list.number(), list.len()?, list.codes()?.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn lists(&self) -> impl ExactSizeIterator<Item = ListRef<'_>> {
        let nlist = self.nlist() as u32;
        (0..nlist).map(move |number| ListRef { reader: self, number })
    }

    /// True if the ids of each list ascend. Nothing here depends on it; removal fills holes with a list's last entries.
    pub fn check_ids_sorted(&self) -> Result<bool> {
        for list in self.lists() {
            if !list.ids()?.is_sorted() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The vectors of the ids of a range; `None` for an id that is not there.
    pub fn reconstruct_n(&self, ids: Range<u64>) -> Result<Vec<Option<Vec<f32>>>> {
        let one = |id| match self.view.row_of(id)? {
            Some(row) => self.vector_of(row).map(Some),
            None => Ok(None),
        };
        ids.map(one).collect()
    }

    /// [`search_batch`](Self::search_batch) with the vectors that were found.
    ///
    /// # Errors
    /// As `search_batch` and [`reconstruct`](Self::reconstruct).
    pub fn search_and_reconstruct(
        &self,
        queries: Rows<'_>,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Reconstructed>>> {
        let found = self.search_batch(queries, k, params)?;
        let with =
            |neighbor: Neighbor| Ok(Reconstructed { neighbor, vector: self.reconstruct(neighbor.id)? });
        found.into_iter().map(|found| found.into_iter().map(with).collect()).collect()
    }

    /// [`search_batch`](Self::search_batch) with the codes of what was found, and where they stand: of a vector in two lists the code of its first entry.
    pub fn search_and_return_codes(
        &self,
        queries: Rows<'_>,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<(Neighbor, Code)>>> {
        let found = self.search_batch(queries, k, params)?;
        let with = |neighbor: Neighbor| Ok((neighbor, self.code(neighbor.id)?));
        found.into_iter().map(|found| found.into_iter().map(with).collect()).collect()
    }

    /// The list that each row would be added to: the nearest, ties to the lower.
    ///
    /// # Errors
    /// Those of the rows, as for [`add`](crate::IndexWriter::add).
    pub fn assign(&self, rows: Rows<'_>) -> Result<Vec<u32>> {
        let prepared = self.model.prepare(rows)?;
        let prepared = Rows::of(&prepared, self.model.spec.dim);
        let projected = self.model.project(prepared)?;
        let mut lists = self.model.assign(prepared, Rows::of(&projected, self.model.inner_dim()))?;
        lists.truncate(rows.len());
        Ok(lists)
    }

    /// The codes that rows would have in the lists given, one after the other.
    ///
    /// # Errors
    /// Those of the rows; [`Error::Length`]; [`Error::Parameter`] for a list that there is not.
    pub fn encode_in(&self, rows: Rows<'_>, lists: &[u32]) -> Result<Vec<u8>> {
        if lists.len() != rows.len() {
            return Err(Error::Length { what: "lists", expected: rows.len(), got: lists.len() });
        }
        lists.iter().try_for_each(|list| self.check_list(*list))?;
        let prepared = self.model.prepare(rows)?;
        let rows = Rows::of(&prepared, self.model.spec.dim);
        let projected = self.model.admit(rows)?;
        Ok(encode(&self.model, Rows::of(&projected, self.model.inner_dim()), lists))
    }

    /// The stand-alone codes of rows: each its nearest list's number, then its code there.
    ///
    /// # Errors
    /// Those of the rows; [`Error::Untrained`], as the codes of before training mean something else after it.
    pub fn encode(&self, rows: Rows<'_>) -> Result<Vec<u8>> {
        self.check_trained()?;
        let lists = self.assign(rows)?;
        let codes = self.encode_in(rows, &lists)?;
        let number = self.list_number_bytes();
        let mut alone = Vec::with_capacity(codes.len() + number * lists.len());
        for (list, code) in lists.iter().zip(codes.chunks_exact(self.code_bytes())) {
            alone.extend_from_slice(&list.to_le_bytes()[..number]);
            alone.extend_from_slice(code);
        }
        Ok(alone)
    }

    /// The vectors that stand-alone codes stand for.
    ///
    /// # Errors
    /// [`Error::Length`] if that is no whole number of codes; [`Error::Parameter`] for a list that there is not;
    /// [`Error::Untrained`], [`Error::CannotDecode`].
    pub fn decode(&self, codes: &[u8]) -> Result<Vec<f32>> {
        let mut rows = Vec::with_capacity(codes.len() / self.code_bytes() * self.dim());
        for (list, code) in self.split_codes(codes)? {
            rows.extend(self.model.decode_for_users(list, code)?);
        }
        Ok(rows)
    }

    /// Stand-alone codes cut into lists and codes.
    pub(crate) fn split_codes<'c>(&self, codes: &'c [u8]) -> Result<Vec<(u32, &'c [u8])>> {
        self.check_trained()?;
        let (number, each) = (self.list_number_bytes(), self.list_number_bytes() + self.code_bytes());
        if !codes.len().is_multiple_of(each) {
            let expected = codes.len().next_multiple_of(each);
            return Err(Error::Length { what: "bytes of codes", expected, got: codes.len() });
        }
        let split = |code: &'c [u8]| {
            let (list, code) = code.split_at(number);
            let list = list.iter().rev().fold(0, |list, byte| list << 8 | u32::from(*byte));
            self.check_list(list).map(|()| (list, code))
        };
        codes.chunks_exact(each).map(split).collect()
    }

    fn check_trained(&self) -> Result<()> {
        match self.is_trained() {
            true => Ok(()),
            false => Err(Error::Untrained { index: self.model.spec.to_string() }),
        }
    }

    /// A row less the vector of `id`.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; those of the row.
    pub fn compute_residual(&self, row: &[f32], id: u64) -> Result<Vec<f32>> {
        let prepared = self.model.prepare(Rows::new(row, self.dim())?)?;
        let vector = self.reconstruct(id)?;
        Ok(prepared.iter().zip(vector).map(|(x, y)| x - y).collect())
    }

    /// Rows less the vectors of as many `ids`, row after row.
    ///
    /// # Errors
    /// As [`compute_residual`](Self::compute_residual); [`Error::Length`].
    pub fn compute_residual_n(&self, rows: Rows<'_>, ids: &[u64]) -> Result<Vec<f32>> {
        if ids.len() != rows.len() {
            return Err(Error::Length { what: "ids", expected: rows.len(), got: ids.len() });
        }
        let mut residuals = self.model.prepare(rows)?.into_owned();
        for (residual, id) in residuals.chunks_exact_mut(self.dim()).zip(ids) {
            residual.iter_mut().zip(self.reconstruct(*id)?).for_each(|(x, y)| *x -= y);
        }
        Ok(residuals)
    }

    /// The vector of a row: the most exact there is.
    pub(crate) fn vector_of(&self, row: u32) -> Result<Vec<f32>> {
        if let Some(vector) = rerank::kept_vector(&*self.view, &self.model, row)? {
            return Ok(vector);
        }
        let slot = self.view.slot_of(row, &self.model.slots_column, self.model.places())?;
        let lost = || Error::corrupt("slots", row.into(), format!("{slot:?} does not hold the row"));
        let (code, resident) = self.view.code_at(slot, &self.model.geometry)?.ok_or_else(lost)?;
        let list = self.slot_within(row, slot)?.list;
        if !stands_with(&*self.view, row, resident)? {
            return Err(lost());
        }
        self.model.decode_for_users(list, &code)
    }
}

impl ListRef<'_> {
    /// Its number, 0 to nlist − 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its entries.
    pub fn len(&self) -> Result<usize> {
        Ok(self.reader.view.list(self.number)?.n as usize)
    }

    /// True if it has none.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The ids of its entries.
    pub fn ids(&self) -> Result<Vec<u64>> {
        Ok(self.reader.list(self.number)?.0)
    }

    /// The codes of its entries, one after the other, [`code_bytes`](IndexReader::code_bytes) each.
    pub fn codes(&self) -> Result<Vec<u8>> {
        Ok(self.reader.list(self.number)?.1)
    }
}
