//! Inverted lists: runs of blocks, read in order and edited as a whole.
//!
//! A list of `n` entries has `n / capacity` sealed blocks and, if entries remain, one partial block. A
//! partial block longer than 4,080 bytes stands in `blocks` (a page run of its own), a shorter one in
//! `tails` (leaves shared with other lists): which of the two follows from `n` alone. Offset `o` of a list is entry
//! `o % capacity` of block `o / capacity`.
//!
//! [`ListEdit`] is the only code that changes lists: it loads the blocks it touches, and
//! [`ListEdit::store`] writes each touched block once and deletes what the list has outgrown or left.

use super::block::{BlockBuf, BlockRef, Geometry};
use super::column::Column;
use super::format::{Kind, LIST_ENTRY, ListEntry, TableName};
use super::ids::Slot;
use super::{BytesTable, Names, Tables, WriteTables, fetch};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// The longest value that shares a redb leaf with others: 4,096 less key and bookkeeping.
const SHORT_BYTES: usize = 4080;

/// The column of the list directory.
pub(crate) fn directory() -> Column {
    Column::narrow(Kind::Lists, LIST_ENTRY)
}

/// The key of block `block` of list `list`.
pub(crate) fn block_key(list: u32, block: u32) -> u64 {
    u64::from(list) << 32 | u64::from(block)
}

impl Geometry {
    /// Blocks of a list of `n` entries.
    pub(crate) fn blocks(&self, n: u32) -> u32 {
        n.div_ceil(self.capacity)
    }

    /// Entries of block `block` in a list of `n`.
    pub(crate) fn entries(&self, n: u32, block: u32) -> u32 {
        n.saturating_sub(block.saturating_mul(self.capacity)).min(self.capacity)
    }

    /// True if a block with `n` entries stands in `tails`.
    pub(crate) fn in_tails(&self, n: u32) -> bool {
        n < self.capacity && self.block_bytes(n as usize) <= SHORT_BYTES
    }
}

impl<B: BytesTable, M, F, K> Tables<B, M, F, K> {
    /// The directory entry of `list`.
    pub(crate) fn list_entry(&self, list: u32) -> Result<ListEntry> {
        let mut bytes = [0; LIST_ENTRY];
        directory().get(&self.lists, &self.names.lists, list, &mut bytes)?;
        decode_entry(&self.names.lists, list, &bytes)
    }

    /// The directory entries of `lists`.
    pub(crate) fn list_entries(&self, lists: Range<u32>) -> Result<Vec<ListEntry>> {
        let mut entries = Vec::new();
        directory().for_each(&self.lists, &self.names.lists, lists, |list, bytes| {
            entries.push(decode_entry(&self.names.lists, list, bytes)?);
            Ok(())
        })?;
        Ok(entries)
    }

    /// The table that block `block` of a list of `n` entries stands in, and its name.
    pub(crate) fn home(&self, geometry: &Geometry, n: u32, block: u32) -> (&B, &TableName) {
        if geometry.in_tails(geometry.entries(n, block)) {
            (&self.tails, &self.names.tails)
        } else {
            (&self.blocks, &self.names.blocks)
        }
    }

    /// Reads and checks one block of a list of `n` entries.
    pub(crate) fn read_block<R>(
        &self,
        geometry: &Geometry,
        list: u32,
        n: u32,
        block: u32,
        read: impl FnOnce(BlockRef<'_>) -> R,
    ) -> Result<R> {
        let key = block_key(list, block);
        let (table, name) = self.home(geometry, n, block);
        let value = fetch(table, key)?.ok_or_else(|| Error::corrupt(name, key, "the block is missing"))?;
        let entries = geometry.entries(n, block) as usize;
        Ok(read(BlockRef::open(name, key, value.value(), geometry, entries)?))
    }

    /// Calls `each(first offset, block)` for the blocks of a list, in order.
    pub(crate) fn for_each_block(
        &self,
        geometry: &Geometry,
        list: u32,
        entry: &ListEntry,
        mut each: impl FnMut(u32, BlockRef<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut digest = 0;
        for block in 0..geometry.blocks(entry.n) {
            self.read_block(geometry, list, entry.n, block, |b| {
                digest ^= b.crc;
                each(block * geometry.capacity, b)
            })??;
        }
        check_digest(&self.names.blocks, list, entry, digest)
    }
}

impl<B: BytesTable, M, F, K> Tables<B, M, F, K> {
    /// The packed code at `slot` and the row that stands there; `None` if the list is shorter.
    pub(crate) fn code_at(&self, slot: Slot, geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>> {
        let n = self.list_entry(slot.list)?.n;
        if slot.offset >= n {
            return Ok(None);
        }
        let (block, at) = (slot.offset / geometry.capacity, (slot.offset % geometry.capacity) as usize);
        self.read_block(geometry, slot.list, n, block, |block| {
            let buf = BlockBuf::copy_of(block.run, geometry);
            Some((buf.code(at, geometry.layout.code_bytes()).to_vec(), *buf.rows.get(at)?))
        })
    }
}

/// Refuses a list with a block of another commit.
pub(crate) fn check_digest(name: &str, list: u32, entry: &ListEntry, digest: u32) -> Result<()> {
    #[cfg(feature = "fuzz-internals")]
    if crate::fuzzing::planted(crate::fuzzing::Plant::Digest) {
        return Ok(());
    }
    match digest == entry.digest {
        true => Ok(()),
        false => Err(Error::corrupt(name, block_key(list, 0), "a block of the list is of another commit")),
    }
}

fn decode_entry(name: &str, list: u32, bytes: &[u8]) -> Result<ListEntry> {
    ListEntry::decode(bytes).ok_or_else(|| Error::corrupt(name, list.into(), "no list entry"))
}

/// One list being changed.
pub(crate) struct ListEdit {
    list: u32,
    pub(crate) entry: ListEntry,
    geometry: Geometry,
    /// Blocks in the tables now.
    stored_n: u32,
    blocks: BTreeMap<u32, Touched>,
}

/// An entry that was taken out of a list.
pub(crate) struct Removed {
    pub(crate) code: Vec<u8>,
    pub(crate) row: u32,
    /// The row that now stands at its offset, if another one moved there.
    pub(crate) moved: Option<u32>,
}

struct Touched {
    buf: BlockBuf,
    /// The block's part of the list's digest as it stands in the table; 0 if it does not.
    crc: u32,
    dirty: bool,
}

impl ListEdit {
    pub(crate) fn open(tables: &WriteTables<'_>, geometry: Geometry, list: u32) -> Result<Self> {
        let entry = tables.list_entry(list)?;
        Ok(ListEdit { list, entry, geometry, stored_n: entry.n, blocks: BTreeMap::new() })
    }

    /// Appends an entry; returns its offset.
    pub(crate) fn push(&mut self, tables: &WriteTables<'_>, code: &[u8], row: u32) -> Result<u32> {
        let offset = self.entry.n;
        if offset == u32::MAX {
            return Err(Error::IndexFull { what: "list offsets" });
        }
        let (block, at) = self.place(offset);
        if at == 0 {
            self.blocks.insert(block, Touched { buf: BlockBuf::default(), crc: 0, dirty: true });
        }
        let buf = self.touch(tables, block)?;
        buf.codes.extend_from_slice(code);
        buf.rows.push(row);
        self.entry.n += 1;
        Ok(offset)
    }

    /// Removes the entry at `offset` by moving the last one there. Returns what was removed.
    pub(crate) fn swap_remove(&mut self, tables: &WriteTables<'_>, offset: u32) -> Result<Removed> {
        assert!(offset < self.entry.n, "offset within the list");
        let last = self.entry.n - 1;
        let (code, row) = self.pop(tables, last)?;
        if offset == last {
            return Ok(Removed { code, row, moved: None });
        }
        let (block, at) = self.place(offset);
        let bytes = self.geometry.layout.code_bytes();
        let buf = self.touch(tables, block)?;
        let removed = buf.code(at, bytes).to_vec();
        buf.codes[at * bytes..(at + 1) * bytes].copy_from_slice(&code);
        let gone = std::mem::replace(&mut buf.rows[at], row);
        Ok(Removed { code: removed, row: gone, moved: Some(row) })
    }

    fn pop(&mut self, tables: &WriteTables<'_>, last: u32) -> Result<(Vec<u8>, u32)> {
        let (block, at) = self.place(last);
        let bytes = self.geometry.layout.code_bytes();
        let buf = self.touch(tables, block)?;
        let code = buf.codes.split_off(at * bytes);
        let row = buf.rows.pop();
        self.entry.n = last;
        row.map(|row| (code, row)).ok_or_else(|| {
            Error::corrupt(&tables.names.blocks, block_key(self.list, block), "fewer entries than counted")
        })
    }

    /// Replaces the code at `offset`; returns the old one.
    pub(crate) fn set_code(&mut self, tables: &WriteTables<'_>, offset: u32, code: &[u8]) -> Result<Vec<u8>> {
        let (block, at) = self.place(offset);
        let bytes = self.geometry.layout.code_bytes();
        let buf = self.touch(tables, block)?;
        let old = buf.code(at, bytes).to_vec();
        buf.codes[at * bytes..(at + 1) * bytes].copy_from_slice(code);
        Ok(old)
    }

    /// Gives the entry at `offset` another row number.
    pub(crate) fn set_row(&mut self, tables: &WriteTables<'_>, offset: u32, row: u32) -> Result<()> {
        let (block, at) = self.place(offset);
        match self.touch(tables, block)?.rows.get_mut(at) {
            Some(place) => *place = row,
            None => {
                let key = block_key(self.list, block);
                return Err(Error::corrupt(&tables.names.blocks, key, "fewer entries than counted"));
            }
        }
        Ok(())
    }

    /// The row number at `offset`: the slot's own word for who lives there.
    pub(crate) fn row_at(&mut self, tables: &WriteTables<'_>, offset: u32) -> Result<Option<u32>> {
        if offset >= self.entry.n {
            return Ok(None);
        }
        let (block, at) = self.place(offset);
        Ok(self.load(tables, block)?.buf.rows.get(at).copied())
    }

    fn place(&self, offset: u32) -> (u32, usize) {
        (offset / self.geometry.capacity, (offset % self.geometry.capacity) as usize)
    }

    fn touch(&mut self, tables: &WriteTables<'_>, block: u32) -> Result<&mut BlockBuf> {
        let touched = self.load(tables, block)?;
        touched.dirty = true;
        Ok(&mut touched.buf)
    }

    fn load(&mut self, tables: &WriteTables<'_>, block: u32) -> Result<&mut Touched> {
        if !self.blocks.contains_key(&block) {
            let geometry = self.geometry;
            let copy = |b: BlockRef<'_>| (BlockBuf::copy_of(b.run, &geometry), b.crc);
            let (buf, crc) = tables.read_block(&geometry, self.list, self.stored_n, block, copy)?;
            self.blocks.insert(block, Touched { buf, crc, dirty: false });
        }
        self.blocks.get_mut(&block).ok_or_else(|| {
            Error::corrupt(&tables.names.blocks, block_key(self.list, block), "the block is missing")
        })
    }

    /// Writes every touched block to its table and removes what is no longer there. Returns the new
    /// directory entry.
    pub(crate) fn store(
        self,
        tables: &mut WriteTables<'_>,
        seq: u64,
        nonce: u64,
    ) -> Result<(u32, ListEntry)> {
        let (old, new) = (self.stored_n, self.entry.n);
        let mut digest = self.entry.digest;
        for (&block, touched) in self.blocks.iter().filter(|(_, touched)| touched.dirty) {
            let key = block_key(self.list, block);
            let n = self.geometry.entries(new, block);
            digest ^= touched.crc;
            if n == 0 {
                continue;
            }
            assert_eq!(touched.buf.rows.len(), n as usize, "a block holds what its list counts");
            let (value, crc) = touched.buf.encode(&self.geometry, tables.names.blocks.index, key, seq);
            digest ^= crc;
            if self.geometry.in_tails(n) {
                tables.tails.insert(key, value.as_slice())?;
            } else {
                tables.blocks.insert(key, value.as_slice())?;
            }
        }
        for block in 0..self.geometry.blocks(old) {
            let (was, is) = (self.geometry.entries(old, block), self.geometry.entries(new, block));
            let tail = |n| n > 0 && self.geometry.in_tails(n);
            if was > 0 && (is == 0 || tail(was) != tail(is)) {
                let key = block_key(self.list, block);
                if tail(was) {
                    tables.tails.remove(key)?
                } else {
                    tables.blocks.remove(key)?
                };
            }
        }
        Ok((self.list, ListEntry { seq, nonce, digest, ..self.entry }))
    }
}

/// Writes directory entries, ascending by list.
pub(crate) fn store_entries(
    tables: &mut WriteTables<'_>,
    seq: u64,
    mut entries: Vec<(u32, ListEntry)>,
) -> Result<()> {
    entries.sort_unstable_by_key(|(list, _)| *list);
    let bytes: Vec<_> = entries.iter().map(|(list, entry)| (*list, entry.encode())).collect();
    let Tables { lists, names: Names { lists: name, .. }, .. } = tables;
    directory().set(lists, name, seq, bytes.iter().map(|(list, entry)| (*list, &entry[..])))
}
