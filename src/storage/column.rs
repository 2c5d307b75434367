//! The column: a paged array over row numbers (or list numbers), one fixed-width entry each.
//!
//! A page is one frame of exactly `4096·2^order − 16` bytes under key `row / per_page`; entries never
//! written read as 0xFF bytes, and so does every entry of a page that does not exist; a page left with nothing else is
//! deleted. No tenant writes an entry of 0xFF bytes but to say that there is none. Tenants: the list directory, ids,
//! slots, and the rows kept for reranking and reconstruction.

use super::format::{FRAME, Frame, FrameHead, Kind, MAX_ORDER, TableName, Uuid, seal_frame, value_bytes};
use super::{BytesTable, WriteBytes, fetch};
use crate::{Error, Result};
use std::ops::Range;

/// Which entries a column holds and how they are paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    /// Bytes of an entry.
    pub(crate) width: usize,
    pub(crate) order: u8,
    /// Entries of a page.
    per_page: u32,
}

/// What an unwritten byte reads as.
pub(crate) const ABSENT: u8 = 0xff;

impl Column {
    /// A column of narrow entries on the smallest pages: a change of one entry rewrites one page.
    pub(crate) fn narrow(kind: Kind, width: usize) -> Self {
        Column::of(kind, width, 0)
    }

    /// A column of wide entries on the smallest pages that waste at most 4 % of themselves.
    pub(crate) fn wide(kind: Kind, width: usize) -> Option<Self> {
        let waste = |order| (value_bytes(order) - FRAME) % width;
        let fits = |order: &u8| value_bytes(*order) - FRAME >= width;
        (0..=MAX_ORDER)
            .filter(fits)
            .find(|&order| waste(order) * 25 <= value_bytes(order))
            .or_else(|| (0..=MAX_ORDER).rev().find(fits))
            .map(|order| Column::of(kind, width, order))
    }

    fn of(kind: Kind, width: usize, order: u8) -> Self {
        Column { kind, width, order, per_page: ((value_bytes(order) - FRAME) / width) as u32 }
    }

    pub(crate) fn per_page(&self) -> u32 {
        self.per_page
    }

    pub(crate) fn page_of(&self, row: u32) -> u32 {
        row / self.per_page()
    }

    /// Bytes of a page's entries.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.per_page() as usize * self.width
    }

    /// Checks a page and returns its entries, `per_page · width` bytes.
    pub(crate) fn open_page<'a>(&self, table: &TableName, page: u32, value: &'a [u8]) -> Result<&'a [u8]> {
        let frame = Frame::open(table, self.kind, page.into(), value)?;
        if frame.width as usize != self.width || frame.payload.len() != self.payload_bytes() {
            return Err(Error::corrupt(table, page.into(), "a page of another width"));
        }
        Ok(frame.payload)
    }

    /// The entries of a page that was checked before.
    pub(crate) fn reopen_page<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        value.get(FRAME..FRAME + self.payload_bytes())
    }

    /// The bytes of entry `row` within its page's entries.
    pub(crate) fn entry<'a>(&self, page: &'a [u8], row: u32) -> &'a [u8] {
        let at = (row % self.per_page()) as usize * self.width;
        &page[at..at + self.width]
    }

    /// Copies entry `row` to `out`; false if it stands on no page.
    pub(crate) fn get<T: BytesTable>(
        &self,
        table: &T,
        name: &TableName,
        row: u32,
        out: &mut [u8],
    ) -> Result<bool> {
        let page = self.page_of(row);
        let value = fetch(table, u64::from(page))?;
        match &value {
            None => out.fill(ABSENT),
            Some(value) => {
                out.copy_from_slice(self.entry(self.open_page(name, page, value.value())?, row));
            }
        }
        Ok(value.is_some())
    }

    /// Calls `each(row, entry)` for `rows`, which ascend; reads each page once. Rows on no page are
    /// left out.
    pub(crate) fn for_some<T: BytesTable>(
        &self,
        table: &T,
        name: &TableName,
        rows: &[u32],
        mut each: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for rows in rows.chunk_by(|a, b| self.page_of(*a) == self.page_of(*b)) {
            let page = self.page_of(rows[0]);
            let Some(value) = fetch(table, u64::from(page))? else { continue };
            let entries = self.open_page(name, page, value.value())?;
            for &row in rows {
                each(row, self.entry(entries, row))?;
            }
        }
        Ok(())
    }

    /// Calls `each(row, entry)` for the entries of `rows` in order, absent ones included.
    pub(crate) fn for_each<T: BytesTable>(
        &self,
        table: &T,
        name: &TableName,
        rows: Range<u32>,
        mut each: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let absent = vec![ABSENT; self.payload_bytes()];
        let pages = self.page_of(rows.start)..rows.end.div_ceil(self.per_page());
        for page in pages {
            let value = fetch(table, u64::from(page))?;
            let entries = match &value {
                None => &absent[..],
                Some(value) => self.open_page(name, page, value.value())?,
            };
            let first = page * self.per_page();
            for row in first.max(rows.start)..rows.end.min(first.saturating_add(self.per_page())) {
                each(row, self.entry(entries, row))?;
            }
        }
        Ok(())
    }

    /// Sets entries; `entries` ascends by row, and each touched page is read and written once.
    pub(crate) fn set<'e>(
        &self,
        table: &mut WriteBytes<'_>,
        name: &TableName,
        seq: u64,
        entries: impl IntoIterator<Item = (u32, &'e [u8])>,
    ) -> Result<()> {
        let mut open: Option<(u32, Vec<u8>)> = None;
        for (row, entry) in entries {
            let page = self.page_of(row);
            if open.as_ref().map(|(page, _)| *page) != Some(page) {
                if let Some((page, value)) = open.take() {
                    self.store(table, name.index, seq, page, value)?;
                }
                open = Some((page, self.load(table, name, page)?));
            }
            let at = FRAME + (row % self.per_page()) as usize * self.width;
            if let Some((_, value)) = &mut open {
                value[at..at + self.width].copy_from_slice(entry);
            }
        }
        match open {
            None => Ok(()),
            Some((page, value)) => self.store(table, name.index, seq, page, value),
        }
    }

    fn load(&self, table: &WriteBytes<'_>, name: &TableName, page: u32) -> Result<Vec<u8>> {
        Ok(match fetch(table, u64::from(page))? {
            None => self.blank(),
            Some(value) => {
                self.open_page(name, page, value.value())?;
                value.value().to_vec()
            }
        })
    }

    fn blank(&self) -> Vec<u8> {
        let mut value = vec![ABSENT; FRAME + self.payload_bytes()];
        value.resize(value_bytes(self.order), 0);
        value
    }

    fn store(
        &self,
        table: &mut WriteBytes<'_>,
        index: Uuid,
        seq: u64,
        page: u32,
        mut value: Vec<u8>,
    ) -> Result<()> {
        if value[FRAME..FRAME + self.payload_bytes()].iter().all(|byte| *byte == ABSENT) {
            table.remove(u64::from(page))?;
            return Ok(());
        }
        let head = FrameHead {
            index,
            kind: self.kind,
            order: self.order,
            key: page.into(),
            count: self.per_page(),
            capacity: self.per_page(),
            width: self.width as u32,
            seq,
        };
        seal_frame(&mut value, head, self.payload_bytes());
        table.insert(u64::from(page), value.as_slice())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_columns_waste_little() {
        for width in [96, 128, 384, 512, 768, 1536, 3072, 6144, 16384, 65536] {
            let column = Column::wide(Kind::Rows, width).unwrap();
            let used = column.per_page() as usize * width;
            assert!(used * 100 >= value_bytes(column.order) * 74, "width {width}: {column:?}");
        }
        assert_eq!(Column::wide(Kind::Rows, 1 << 20), None);
    }
}
