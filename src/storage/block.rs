//! The block: a run of entries of one inverted list in one value.
//!
//! ```text
//! | frame, 64 B | codes: layout.region_bytes(n) | row numbers: n × u32 | zeros |
//! ```
//! A block with `capacity` entries is *sealed* and exactly `4096·2^order − 16` bytes long. The last
//! block of a list may hold fewer: it is cut to what is in it, rounded up to 16 bytes.

use super::format::{FRAME, Frame, FrameHead, Kind, TableName, Uuid, seal_frame, value_bytes};
use crate::layout::Layout;
use crate::{Error, Result};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// What an index's blocks look like: chosen when it is created, never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) layout: Layout,
    pub(crate) order: u8,
    /// Entries of a sealed block.
    pub(crate) capacity: u32,
    /// Of the runs that pinned lists are scanned in, full ones: entries, and bytes of their codes.
    run_entries: u32,
    run_bytes: u32,
}

impl Geometry {
    /// The geometry of blocks of `order`, or `None` if not one entry fits.
    pub(crate) fn new(layout: Layout, order: u8) -> Option<Self> {
        let room = value_bytes(order) - FRAME;
        let fits = |n: usize| layout.region_bytes(n) + 4 * n <= room;
        let mut n = room / (layout.code_bytes() + 4);
        while n > 0 && !fits(n) {
            n -= 1;
        }
        (n > 0).then(|| {
            let blocks = blocks_of_a_run(layout, n);
            let (run_entries, run_bytes) = ((n * blocks) as u32, (layout.region_bytes(n) * blocks) as u32);
            Geometry { layout, order, capacity: n as u32, run_entries, run_bytes }
        })
    }

    /// Bytes of a block with `n` entries.
    pub(crate) fn block_bytes(&self, n: usize) -> usize {
        if n == self.capacity as usize {
            value_bytes(self.order)
        } else {
            (FRAME + self.layout.region_bytes(n) + 4 * n).next_multiple_of(16)
        }
    }

    /// Bytes of the codes of `n` entries in blocks, from the front of a list.
    fn codes_bytes(&self, n: usize) -> usize {
        let capacity = self.capacity as usize;
        n / capacity * self.layout.region_bytes(capacity) + self.layout.region_bytes(n % capacity)
    }

    /// Bytes of a list of `n` entries whose blocks are put together: the codes of all of them, then the row numbers.
    pub(crate) fn list_bytes(&self, n: usize) -> usize {
        self.codes_bytes(n) + 4 * n
    }

    /// The entries of such a list, in runs; `None` if it is not that long.
    pub(crate) fn runs<'a>(&self, list: &'a [u8], n: usize) -> Option<impl Iterator<Item = Run<'a>>> {
        let (codes, rows) = list.split_at_checked(list.len().checked_sub(4 * n)?)?;
        let rows = <[U32]>::ref_from_bytes(rows).ok()?;
        // Most lists are one run, whose codes are as those of one block.
        let most = self.run_entries as usize;
        let expected = if n <= most { self.layout.region_bytes(n) } else { self.codes_bytes(n) };
        if codes.len() != expected {
            return None;
        }
        let (run_bytes, mut rest) = (self.run_bytes as usize, codes);
        Some(rows.chunks(most).map(move |rows| {
            let codes = rest.split_off(..run_bytes.min(rest.len())).unwrap_or_default();
            Run { codes, rows }
        }))
    }

    /// Entries of a run, at most.
    pub(crate) fn run_entries(&self) -> usize {
        self.run_entries as usize
    }
}

/// Blocks of a run: so many that their codes stay in the second-level cache while the queries of a batch pass by; one
/// where blocks cannot be scanned as one.
fn blocks_of_a_run(layout: Layout, capacity: usize) -> usize {
    if !capacity.is_multiple_of(layout.group()) {
        return 1;
    }
    (RUN_BYTES / layout.region_bytes(capacity)).min(RUN_ENTRIES / capacity).max(1)
}

const RUN_BYTES: usize = 64 << 10;
const RUN_ENTRIES: usize = 1024;

/// Some entries of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// Codes in the layout's order, `layout.region_bytes(rows.len())` bytes.
    pub(crate) codes: &'a [u8],
    /// The row number of each entry.
    pub(crate) rows: &'a [U32],
}

/// A validated block, borrowed from its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRef<'a> {
    pub(crate) run: Run<'a>,
    /// The checksum that names this version of the block.
    pub(crate) crc: u32,
}

impl<'a> BlockRef<'a> {
    /// Checks everything: checksums, identity, counts and lengths.
    pub(crate) fn open(
        table: &TableName,
        key: u64,
        value: &'a [u8],
        geometry: &Geometry,
        n: usize,
    ) -> Result<Self> {
        let frame = Frame::open(table, Kind::Block, key, value)?;
        let bad = |what: String| Err(Error::corrupt(table, key, what));
        if frame.count as usize != n {
            return bad(format!("{} entries, the directory says {n}", frame.count));
        }
        if frame.capacity != geometry.capacity || frame.width as usize != geometry.layout.code_bytes() {
            return bad(format!("capacity {} and code size {}", frame.capacity, frame.width));
        }
        Self::split(frame.payload, frame.crc, geometry, n)
            .ok_or_else(|| Error::corrupt(table, key, "payload of the wrong length"))
    }

    /// A block that was validated before and has not moved since: only the lengths are checked.
    pub(crate) fn reopen(value: &'a [u8], geometry: &Geometry, n: usize) -> Option<Self> {
        let payload = value.get(FRAME..FRAME + geometry.layout.region_bytes(n) + 4 * n)?;
        let crc = value.get(FRAME - 4..FRAME)?.first_chunk::<4>()?;
        Self::split(payload, u32::from_le_bytes(*crc), geometry, n)
    }

    fn split(payload: &'a [u8], crc: u32, geometry: &Geometry, n: usize) -> Option<Self> {
        let (codes, rows) = payload.split_at_checked(geometry.layout.region_bytes(n))?;
        let rows = <[U32]>::ref_from_bytes(rows).ok()?;
        (rows.len() == n).then_some(BlockRef { run: Run { codes, rows }, crc })
    }
}

/// A block in memory, being changed: packed codes and row numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockBuf {
    pub(crate) codes: Vec<u8>,
    pub(crate) rows: Vec<u32>,
}

impl BlockBuf {
    pub(crate) fn copy_of(block: Run<'_>, geometry: &Geometry) -> Self {
        let mut codes = Vec::with_capacity(geometry.capacity as usize * geometry.layout.code_bytes());
        geometry.layout.unpack(block.codes, block.rows.len(), &mut codes);
        BlockBuf { codes, rows: block.rows.iter().map(|row| row.get()).collect() }
    }

    /// The packed code of entry `i`.
    pub(crate) fn code(&self, i: usize, code_bytes: usize) -> &[u8] {
        &self.codes[i * code_bytes..(i + 1) * code_bytes]
    }

    /// The block as a value, and the checksum that names it.
    pub(crate) fn encode(&self, geometry: &Geometry, index: Uuid, key: u64, seq: u64) -> (Vec<u8>, u32) {
        let n = self.rows.len();
        assert!(n as u32 <= geometry.capacity, "a block holds at most its capacity");
        let mut value = Vec::with_capacity(geometry.block_bytes(n));
        value.resize(FRAME, 0);
        geometry.layout.pack(&self.codes, &mut value);
        assert_eq!(value.len(), FRAME + geometry.layout.region_bytes(n), "codes fill their region");
        self.rows.iter().for_each(|row| value.extend_from_slice(&row.to_le_bytes()));
        let payload = value.len() - FRAME;
        value.resize(geometry.block_bytes(n), 0);
        let head = FrameHead {
            index,
            kind: Kind::Block,
            order: geometry.order,
            key,
            count: n as u32,
            capacity: geometry.capacity,
            width: geometry.layout.code_bytes() as u32,
            seq,
        };
        let crc = seal_frame(&mut value, head, payload);
        (value, crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Factors;

    fn home() -> TableName {
        TableName { text: "t".into(), index: [9; 16] }
    }

    #[test]
    fn sealed_blocks_fill_a_page_run_exactly() {
        for order in 0..=if cfg!(miri) { 1 } else { 6 } {
            for code_bytes in [1, 3, 36, 128, 512, 3000] {
                let geometry = Geometry::new(Layout::RowMajor { code_bytes }, order).unwrap();
                let n = geometry.capacity as usize;
                let block = BlockBuf { codes: vec![7; n * code_bytes], rows: (0..n as u32).collect() };
                let (value, _) = block.encode(&geometry, [9; 16], 5, 1);
                assert_eq!(value.len(), (4096 << order) - 16);
                let back = BlockRef::open(&home(), 5, &value, &geometry, n).unwrap();
                assert_eq!(back.run.codes, block.codes);
                assert!(back.run.rows.iter().map(|r| r.get()).eq(0..n as u32));
            }
        }
    }

    #[test]
    fn a_code_larger_than_a_block_has_no_geometry() {
        assert_eq!(Geometry::new(Layout::RowMajor { code_bytes: 5000 }, 0), None);
    }

    #[test]
    fn a_partial_block_is_cut_to_its_contents() {
        let geometry = Geometry::new(Layout::RowMajor { code_bytes: 12 }, 1).unwrap();
        let block = BlockBuf { codes: (0..36).collect(), rows: vec![9, 8, 7] };
        let (value, _) = block.encode(&geometry, [9; 16], 5, 1);
        assert_eq!(value.len(), (64 + 36 + 12usize).next_multiple_of(16));
        let back = BlockRef::open(&home(), 5, &value, &geometry, 3).unwrap();
        assert_eq!(BlockBuf::copy_of(back.run, &geometry).rows, block.rows);
        assert!(BlockRef::open(&home(), 5, &value, &geometry, 4).is_err());
    }

    /// Blocks put together, as pins hold them, are the same entries, however many a run takes of them.
    #[test]
    fn runs_are_the_blocks_of_a_list() {
        for (layout, order, merged) in [
            (Layout::RowMajor { code_bytes: 12 }, 0, true),
            (Layout::RowMajor { code_bytes: 3000 }, 1, true),
            (Layout::Nibbles { subspaces: 4, factors: Factors::ScaleAndBias, extra: 0 }, 0, true),
            (Layout::Nibbles { subspaces: 64, factors: Factors::ScaleAndBias, extra: 0 }, 0, false),
            (Layout::Nibbles { subspaces: 64, factors: Factors::ScaleAndBias, extra: 0 }, 2, true),
        ] {
            let geometry = Geometry::new(layout, order).unwrap();
            let capacity = geometry.capacity as usize;
            assert_eq!(geometry.run_entries() > capacity, merged, "{layout:?} {capacity}");
            for n in [1, capacity - 1, capacity, capacity + 1, 3 * capacity, 7 * capacity / 2, 5000] {
                // An interpreter would take an hour.
                if cfg!(miri) && n * layout.code_bytes() > 8192 {
                    continue;
                }
                let code = |row: usize| (0..layout.code_bytes()).map(move |i| (row * 31 + i * 7) as u8);
                let (mut codes, mut rows) = (Vec::new(), Vec::new());
                for first in (0..n).step_by(capacity) {
                    let numbers = first..n.min(first + capacity);
                    layout.pack(&numbers.clone().flat_map(code).collect::<Vec<_>>(), &mut codes);
                    numbers.for_each(|row| rows.extend_from_slice(&(row as u32).to_le_bytes()));
                }
                let list = [codes, rows].concat();
                assert_eq!(list.len(), geometry.list_bytes(n));
                let mut seen = 0;
                for run in geometry.runs(&list, n).unwrap() {
                    let buf = BlockBuf::copy_of(run, &geometry);
                    let numbers = seen..seen + buf.rows.len();
                    assert!(buf.rows.iter().map(|row| *row as usize).eq(numbers.clone()));
                    assert_eq!(buf.codes, numbers.flat_map(code).collect::<Vec<_>>());
                    seen += buf.rows.len();
                }
                assert_eq!(seen, n);
                assert!(geometry.runs(&list[1..], n).is_none());
            }
        }
    }
}
