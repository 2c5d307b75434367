//! The bytes of a value: the frame around every large one, the index header, the store header.
//!
//! Every value of `blocks`, `tails`, `model` and the columns is a *frame*: a 64-byte header and a payload.
//!
//! ```text
//!  0  magic "VLF1"      16  count      u32      40  index uuid
//!  4  kind     u8       20  capacity   u32      56  payload crc32  u32
//!  5  order    u8       24  width      u32      60  header crc32   u32 (of bytes 0..60)
//!  6  reserved u16      28  payload    u32      64  payload, then zeros
//!  8  key      u64      32  seq        u64
//! ```
//! `key` is the key the value stands under and `index uuid` the index it belongs to, so that a misdirected page
//! is noticed; `width` is the size of one code or column entry; `seq` the change that wrote it. redb checks no checksum when it reads, so a
//! frame is believed only after [`Frame::open`] compared all of this. Everything is little-endian.
#![warn(clippy::indexing_slicing)]

use crate::{Error, FilterMode, Metric, ParallelMode, Rerank, Result};
use std::fmt;
use std::ops::Deref;
use zerocopy::little_endian::{F64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version this code writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
/// The oldest version of this code that can read what it writes.
pub(crate) const OLDEST_READER: u32 = 1;

/// Bytes of a frame before its payload.
pub(crate) const FRAME: usize = 64;
/// The largest block order: 256 KiB values.
pub(crate) const MAX_ORDER: u8 = 6;
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"VLF1";

/// What names an index for good, whatever it is called.
pub(crate) type Uuid = [u8; 16];

/// The name of a table, and the index whose values stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) text: String,
    pub(crate) index: Uuid,
}

impl Deref for TableName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The size of a full value: with its 8-byte key and redb's own 8 bytes it fills 4096·2^order.
pub(crate) const fn value_bytes(order: u8) -> usize {
    (4096 << order) - 16
}

/// What a frame holds. Tags are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 1,
    Ids = 2,
    Slots = 3,
    Rows = 4,
    Lists = 5,
    Model = 6,
    /// Exact rows, where `Rows` are rounded ones to be scored first.
    Exact = 7,
    /// Which rows have the same vector, where those share an entry.
    Twins = 8,
}

impl Kind {
    fn of(tag: u8) -> Option<Self> {
        use Kind::*;
        [Block, Ids, Slots, Rows, Lists, Model, Exact, Twins].into_iter().find(|kind| *kind as u8 == tag)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFrame {
    magic: [u8; 4],
    kind: u8,
    order: u8,
    reserved: U16,
    key: U64,
    count: U32,
    capacity: U32,
    width: U32,
    payload: U32,
    seq: U64,
    index: Uuid,
    payload_crc: U32,
    header_crc: U32,
}
const _: () = assert!(size_of::<RawFrame>() == FRAME);

/// The part of a frame's header that its writer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) index: Uuid,
    pub(crate) kind: Kind,
    pub(crate) order: u8,
    pub(crate) key: u64,
    pub(crate) count: u32,
    pub(crate) capacity: u32,
    pub(crate) width: u32,
    pub(crate) seq: u64,
}

/// A validated frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) count: u32,
    pub(crate) capacity: u32,
    pub(crate) width: u32,
    pub(crate) seq: u64,
    /// The checksum of the header, and so of all the rest: it names these very bytes.
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
}

/// Writes the header in front of the payload that already stands in `value[FRAME..FRAME + payload]`; returns its
/// checksum.
pub(crate) fn seal_frame(value: &mut [u8], head: FrameHead, payload: usize) -> u32 {
    assert!(value.len() >= FRAME + payload, "a frame must hold its payload");
    let (front, rest) = value.split_at_mut(FRAME);
    let mut raw = RawFrame {
        magic: FRAME_MAGIC,
        kind: head.kind as u8,
        order: head.order,
        reserved: U16::ZERO,
        key: head.key.into(),
        count: head.count.into(),
        capacity: head.capacity.into(),
        width: head.width.into(),
        payload: (payload as u32).into(),
        seq: head.seq.into(),
        index: head.index,
        payload_crc: rest.get(..payload).map_or(0, crc32fast::hash).into(),
        header_crc: U32::ZERO,
    };
    raw.header_crc = header_crc(&raw).into();
    front.copy_from_slice(raw.as_bytes());
    raw.header_crc.get()
}

fn header_crc(raw: &RawFrame) -> u32 {
    raw.as_bytes().get(..FRAME - 4).map_or(0, crc32fast::hash)
}

impl<'a> Frame<'a> {
    /// Believes `value` only if its checksums hold and it is the value of this table, kind and key.
    pub(crate) fn open(table: &TableName, kind: Kind, key: u64, value: &'a [u8]) -> Result<Self> {
        let bad = |what: &str| Err(Error::corrupt(table, key, what));
        let Ok((raw, rest)) = RawFrame::ref_from_prefix(value) else {
            return bad("shorter than a frame");
        };
        if raw.magic != FRAME_MAGIC {
            return bad("no frame");
        }
        if raw.header_crc.get() != header_crc(raw) {
            return bad("header checksum");
        }
        if raw.kind != kind as u8 {
            return bad("a value of another kind");
        }
        if raw.index != table.index {
            return bad("a value of another index");
        }
        if raw.key.get() != key {
            return Err(Error::corrupt(table, key, format!("the value of key {}", raw.key.get())));
        }
        let Some(payload) = rest.get(..raw.payload.get() as usize) else {
            return bad("payload longer than the value");
        };
        if raw.payload_crc.get() != crc32fast::hash(payload) && !is_planted_checksum() {
            return bad("payload checksum");
        }
        Ok(Frame {
            count: raw.count.get(),
            capacity: raw.capacity.get(),
            width: raw.width.get(),
            seq: raw.seq.get(),
            crc: raw.header_crc.get(),
            payload,
        })
    }
}

/// True where a test wants to see what comes of it if nobody compares checksums.
#[cfg(feature = "fuzz-internals")]
fn is_planted_checksum() -> bool {
    crate::fuzzing::planted(crate::fuzzing::Plant::PayloadChecksum)
}

#[cfg(not(feature = "fuzz-internals"))]
fn is_planted_checksum() -> bool {
    false
}

/// A frame found without being asked for, somewhere in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) head: FrameHead,
    /// The checksum of the header, which holds.
    pub(crate) crc: u32,
    /// Bytes of header and payload.
    pub(crate) bytes: usize,
    /// The payload's checksum holds, too.
    pub(crate) whole: bool,
}

/// The frame that `bytes` begin with, if the checksum of its header holds.
pub(crate) fn sight_frame(bytes: &[u8]) -> Option<Sighting> {
    let (raw, rest) = RawFrame::ref_from_prefix(bytes).ok()?;
    if raw.magic != FRAME_MAGIC || raw.header_crc.get() != header_crc(raw) {
        return None;
    }
    let head = FrameHead {
        index: raw.index,
        kind: Kind::of(raw.kind)?,
        order: raw.order,
        key: raw.key.get(),
        count: raw.count.get(),
        capacity: raw.capacity.get(),
        width: raw.width.get(),
        seq: raw.seq.get(),
    };
    let payload = raw.payload.get() as usize;
    if head.order > MAX_ORDER || FRAME + payload > value_bytes(head.order) {
        return None;
    }
    let whole = rest.get(..payload).is_some_and(|payload| crc32fast::hash(payload) == raw.payload_crc.get());
    Some(Sighting { head, crc: raw.header_crc.get(), bytes: FRAME + payload, whole })
}

impl Sighting {
    /// Bytes of the value that the frame was in: with the zeros behind the payload.
    pub(crate) fn value_bytes(&self) -> usize {
        let full = value_bytes(self.head.order);
        match self.head.kind {
            Kind::Block if self.head.count < self.head.capacity => self.bytes.next_multiple_of(16).min(full),
            Kind::Model => self.bytes.next_multiple_of(16).min(full),
            _ => full,
        }
    }
}

/// Whether an index can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Ready = 1,
    /// A bulk load was begun and not finished.
    Loading = 2,
}

/// The index header, decoded. It stands under key 0 of `meta` and is rewritten by every change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) uuid: Uuid,
    pub(crate) state: State,
    /// Set while a verb changes tables; found set by a later transaction, it means half a change.
    pub(crate) writer_open: bool,
    pub(crate) trained: bool,
    pub(crate) metric: Metric,
    /// True if ids are keys.
    pub(crate) keys: bool,
    pub(crate) block_order: u8,
    /// True if rows of equal codes share an entry.
    pub(crate) shared: bool,
    pub(crate) dim: u32,
    /// Lists of the current model: numbers `first_list .. first_list + nlist`.
    pub(crate) nlist: u32,
    pub(crate) first_list: u32,
    pub(crate) ntotal: u64,
    /// The next id `add` gives; greater than any id ever seen.
    pub(crate) next_id: u64,
    /// Row numbers from here on were never used.
    pub(crate) next_row: u32,
    /// Counts changes; `nonce` tells apart two changes with the same number, one of them aborted.
    pub(crate) seq: u64,
    pub(crate) nonce: u64,
    pub(crate) model_version: u64,
    /// Rows an unfinished bulk load has committed.
    pub(crate) load_rows: u64,
    /// Stored search defaults; 0 and `None` are unset.
    pub(crate) nprobe: u32,
    pub(crate) rerank: Option<Rerank>,
    pub(crate) max_codes: u64,
    pub(crate) limits: StoredLimits,
    /// Rows beside the first one of each shared entry: so many entries are fewer than rows.
    pub(crate) twins: u32,
    /// Pages of the column that links them: one that is gone would read as one without any.
    pub(crate) twin_pages: u32,
    /// The specification's spelling.
    pub(crate) spec: String,
}

/// More search defaults; zero is unset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StoredLimits {
    pub(crate) max_lists: u32,
    pub(crate) max_empty_lists: u32,
    pub(crate) ensure_topk_full: bool,
    pub(crate) mode: ParallelMode,
    pub(crate) filter_mode: FilterMode,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    format: U32,
    oldest_reader: U32,
    crc: U32,
    spec_bytes: U32,
    uuid: Uuid,
    state: u8,
    writer_open: u8,
    trained: u8,
    metric: u8,
    keys: u8,
    block_order: u8,
    shared: u8,
    reserved: u8,
    dim: U32,
    nlist: U32,
    first_list: U32,
    ntotal: U64,
    next_id: U64,
    next_row: U32,
    nprobe: U32,
    seq: U64,
    nonce: U64,
    model_version: U64,
    load_rows: U64,
    max_codes: U64,
    rerank: U32,
    rerank_form: u8,
    /// The bits of Lp's p; 0 for the metrics without an argument.
    metric_argument: U32,
    max_lists: U32,
    max_empty_lists: U32,
    ensure_topk_full: u8,
    parallel_mode: u8,
    /// 0 where no entry is shared.
    twins: U32,
    twin_pages: U32,
    filter_mode: u8,
}

pub(crate) const HEADER_MAGIC: [u8; 8] = *b"vellum.i";
/// Where the checksum of the header begins: after magic, versions and the checksum itself, so that a
/// later version is named as such whatever else it changed.
const HEADER_CRC_FROM: usize = 20;

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (metric, metric_argument) = self.metric.to_stored();
        let (rerank_form, rerank) = self.rerank.unwrap_or(Rerank::Rows(0)).to_stored();
        let raw = RawHeader {
            magic: HEADER_MAGIC,
            format: FORMAT.into(),
            oldest_reader: OLDEST_READER.into(),
            crc: U32::ZERO,
            spec_bytes: (self.spec.len() as u32).into(),
            uuid: self.uuid,
            state: self.state as u8,
            writer_open: self.writer_open.into(),
            trained: self.trained.into(),
            metric,
            keys: self.keys.into(),
            block_order: self.block_order,
            shared: self.shared.into(),
            reserved: 0,
            dim: self.dim.into(),
            nlist: self.nlist.into(),
            first_list: self.first_list.into(),
            ntotal: self.ntotal.into(),
            next_id: self.next_id.into(),
            next_row: self.next_row.into(),
            nprobe: self.nprobe.into(),
            seq: self.seq.into(),
            nonce: self.nonce.into(),
            model_version: self.model_version.into(),
            load_rows: self.load_rows.into(),
            max_codes: self.max_codes.into(),
            rerank: rerank.into(),
            rerank_form,
            metric_argument: metric_argument.into(),
            max_lists: self.limits.max_lists.into(),
            max_empty_lists: self.limits.max_empty_lists.into(),
            ensure_topk_full: self.limits.ensure_topk_full.into(),
            parallel_mode: self.limits.mode.to_stored(),
            twins: self.twins.into(),
            twin_pages: self.twin_pages.into(),
            filter_mode: self.limits.filter_mode.to_stored(),
        };
        let mut bytes = raw.as_bytes().to_vec();
        bytes.extend_from_slice(self.spec.as_bytes());
        let crc = bytes.get(HEADER_CRC_FROM..).map_or(0, crc32fast::hash);
        if let Some(field) = bytes.get_mut(16..20) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// The header that `bytes` begin with, if it is whole, and how long it is.
    pub(crate) fn sight(bytes: &[u8]) -> Option<(Self, usize)> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
        let len = size_of::<RawHeader>() + raw.spec_bytes.get() as usize;
        let own = bytes.get(..len).filter(|_| raw.magic == HEADER_MAGIC)?;
        Some((Header::decode("meta", own).ok()?, len))
    }

    pub(crate) fn decode(table: &str, bytes: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::corrupt(table, 0, what);
        let (raw, rest) = RawHeader::ref_from_prefix(bytes).map_err(|_| bad("shorter than a header"))?;
        if raw.magic != HEADER_MAGIC {
            return Err(bad("no index header"));
        }
        if raw.oldest_reader.get() > FORMAT {
            return Err(Error::NewerVersion { needed: raw.oldest_reader.get(), supported: FORMAT });
        }
        if bytes.get(HEADER_CRC_FROM..).map(crc32fast::hash) != Some(raw.crc.get()) {
            return Err(bad("header checksum"));
        }
        let spec = rest.get(..raw.spec_bytes.get() as usize).ok_or_else(|| bad("specification cut off"))?;
        let shared = raw.shared == 1 || raw.twins == 0 && raw.twin_pages == 0;
        if raw.reserved != 0 || rest.len() != spec.len() || !shared {
            return Err(bad("reserved bytes in use"));
        }
        let flag = |byte: u8| match byte {
            0 | 1 => Ok(byte == 1),
            _ => Err(bad("a flag that is neither 0 nor 1")),
        };
        let metric = Metric::from_stored(raw.metric, raw.metric_argument.get());
        let rerank = Rerank::from_stored(raw.rerank_form, raw.rerank.get());
        let rerank = rerank.ok_or_else(|| bad("unknown form of reranking"))?;
        let mode = ParallelMode::from_stored(raw.parallel_mode);
        let filter_mode = FilterMode::from_stored(raw.filter_mode);
        let limits = StoredLimits {
            max_lists: raw.max_lists.get(),
            max_empty_lists: raw.max_empty_lists.get(),
            ensure_topk_full: flag(raw.ensure_topk_full)?,
            mode: mode.ok_or_else(|| bad("unknown way to share out a search"))?,
            filter_mode: filter_mode.ok_or_else(|| bad("unknown way to search with a filter"))?,
        };
        Ok(Header {
            uuid: raw.uuid,
            state: match raw.state {
                1 => State::Ready,
                2 => State::Loading,
                _ => return Err(bad("unknown state")),
            },
            writer_open: flag(raw.writer_open)?,
            trained: flag(raw.trained)?,
            metric: metric.ok_or_else(|| bad("unknown metric"))?,
            keys: flag(raw.keys)?,
            block_order: raw.block_order,
            shared: flag(raw.shared)?,
            dim: raw.dim.get(),
            nlist: raw.nlist.get(),
            first_list: raw.first_list.get(),
            ntotal: raw.ntotal.get(),
            next_id: raw.next_id.get(),
            next_row: raw.next_row.get(),
            seq: raw.seq.get(),
            nonce: raw.nonce.get(),
            model_version: raw.model_version.get(),
            load_rows: raw.load_rows.get(),
            nprobe: raw.nprobe.get(),
            rerank: Some(rerank).filter(|rerank| *rerank != Rerank::Rows(0)),
            max_codes: raw.max_codes.get(),
            limits,
            twins: raw.twins.get(),
            twin_pages: raw.twin_pages.get(),
            spec: String::from_utf8(spec.to_vec()).map_err(|_| bad("specification is no text"))?,
        })
    }

    /// Entries of all lists, where each row stands in `places` of them.
    pub(crate) fn entries(&self, places: usize) -> u64 {
        self.ntotal.saturating_mul(places as u64).saturating_sub(self.twins.into())
    }

    /// Names a state of the index: its change number and nonce.
    pub(crate) fn version(&self) -> (u64, u64) {
        (self.seq, self.nonce)
    }

    /// True if both describe the same committed state of the same index.
    pub(crate) fn same_state(&self, other: &Header) -> bool {
        (self.uuid, self.version()) == (other.uuid, other.version())
    }
}

/// One entry of the list directory, 48 bytes in the `lists` column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ListEntry {
    /// Entries in the list.
    pub(crate) n: u32,
    /// The checksums of the blocks' frames, combined by exclusive or: a block of an earlier commit, sound in
    /// itself, does not pass.
    pub(crate) digest: u32,
    /// The change that last touched the list, and its nonce: equal pairs mean equal contents.
    pub(crate) seq: u64,
    pub(crate) nonce: u64,
    /// Σ‖x − c‖² over the entries, for drift statistics.
    pub(crate) residual: f64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawListEntry {
    n: U32,
    digest: U32,
    seq: U64,
    nonce: U64,
    residual: F64,
    reserved: [u8; 16],
}
/// Bytes of a [`ListEntry`].
pub(crate) const LIST_ENTRY: usize = 48;
const _: () = assert!(size_of::<RawListEntry>() == LIST_ENTRY);

impl ListEntry {
    pub(crate) fn encode(&self) -> [u8; LIST_ENTRY] {
        zerocopy::transmute!(RawListEntry {
            n: self.n.into(),
            digest: self.digest.into(),
            seq: self.seq.into(),
            nonce: self.nonce.into(),
            residual: self.residual.into(),
            reserved: [0; 16],
        })
    }

    /// `None` if the bytes are no list entry. Directory pages are filled with 0xFF where no list was
    /// ever written: such an entry is an empty list.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let raw = RawListEntry::ref_from_bytes(bytes).ok()?;
        if raw.n.get() == u32::MAX {
            return Some(ListEntry::default());
        }
        if raw.reserved != [0; 16] {
            return None;
        }
        Some(ListEntry {
            n: raw.n.get(),
            digest: raw.digest.get(),
            seq: raw.seq.get(),
            nonce: raw.nonce.get(),
            residual: raw.residual.get(),
        })
    }
}

/// The value under the empty name in the catalog: what makes a redb file a vellum store.
pub(crate) mod store_header {
    use super::*;

    const MAGIC: &[u8; 8] = b"vellum.s";

    pub(crate) fn encode() -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..].copy_from_slice(&OLDEST_READER.to_le_bytes());
        bytes
    }

    pub(crate) fn check(bytes: &[u8]) -> Result<()> {
        let (Some(magic), Some(oldest)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<4>()) else {
            return Err(Error::Foreign { what: "its catalog has no vellum header".into() });
        };
        if magic != MAGIC || bytes.len() != 16 {
            return Err(Error::Foreign { what: "its catalog has no vellum header".into() });
        }
        match u32::from_le_bytes(*oldest) {
            needed if needed > FORMAT => Err(Error::NewerVersion { needed, supported: FORMAT }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn head() -> FrameHead {
        FrameHead {
            index: [3; 16],
            kind: Kind::Block,
            order: 0,
            key: 7,
            count: 2,
            capacity: 9,
            width: 4,
            seq: 3,
        }
    }

    fn home(index: Uuid) -> TableName {
        TableName { text: "t".into(), index }
    }

    fn sealed() -> Vec<u8> {
        let mut value = vec![0; 128];
        value[FRAME..FRAME + 40].iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        seal_frame(&mut value, head(), 40);
        value
    }

    #[test]
    fn a_frame_comes_back_as_it_was_sealed() {
        let value = sealed();
        let frame = Frame::open(&home([3; 16]), Kind::Block, 7, &value).unwrap();
        assert_eq!((frame.count, frame.capacity, frame.width, frame.seq), (2, 9, 4, 3));
        assert_eq!(frame.payload, (0..40).collect::<Vec<u8>>());
    }

    #[test]
    fn every_flipped_bit_of_header_and_payload_is_noticed() {
        let value = sealed();
        for bit in 0..(FRAME + 40) * 8 {
            let mut rotten = value.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::open(&home([3; 16]), Kind::Block, 7, &rotten).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_refused_elsewhere_than_at_home() {
        let value = sealed();
        assert!(Frame::open(&home([3; 16]), Kind::Ids, 7, &value).is_err());
        assert!(Frame::open(&home([3; 16]), Kind::Block, 8, &value).is_err());
        assert!(Frame::open(&home([4; 16]), Kind::Block, 7, &value).is_err());
        for len in 0..FRAME + 40 {
            assert!(Frame::open(&home([3; 16]), Kind::Block, 7, &value[..len]).is_err());
        }
    }

    fn header() -> Header {
        Header {
            uuid: [5; 16],
            state: State::Loading,
            writer_open: true,
            trained: true,
            metric: Metric::Cosine,
            keys: true,
            block_order: 2,
            shared: false,
            dim: 128,
            nlist: 64,
            first_list: 3,
            ntotal: 4,
            next_id: 5,
            next_row: 6,
            seq: 7,
            nonce: 8,
            model_version: 9,
            load_rows: 10,
            nprobe: 11,
            rerank: Some(Rerank::Rows(12)),
            max_codes: 13,
            limits: StoredLimits::default(),
            twins: 0,
            twin_pages: 0,
            spec: "IVF64,Flat".into(),
        }
    }

    /// What stood in the reserved bytes before there were other metrics, and where their argument stands.
    #[test]
    fn the_argument_of_a_metric_stands_in_bytes_that_are_zero_for_others() {
        let lp = Header { metric: Metric::lp(2.7).unwrap(), ..header() };
        let (bytes, before) = (lp.encode(), header().encode());
        assert_eq!(Header::decode("t", &bytes).unwrap(), lp);
        let at = size_of::<RawHeader>() - 23;
        assert_eq!(before[at..at + 23], [0; 23]);
        assert_eq!(bytes[at..at + 4], 2.7f32.to_le_bytes());
        let different: Vec<usize> = (20..bytes.len()).filter(|i| bytes[*i] != before[*i]).collect();
        assert_eq!(different, [43, at, at + 1, at + 2, at + 3], "metric and argument alone");
        // A p that is none, and an argument where there is none, are unknown metrics.
        for (metric, argument) in [(6, 0.0f32), (6, f32::NAN), (3, 1.0), (4, 2.0), (13, 0.0)] {
            let mut wrong = before.clone();
            wrong[43] = metric;
            wrong[at..at + 4].copy_from_slice(&argument.to_le_bytes());
            let crc = crc32fast::hash(&wrong[HEADER_CRC_FROM..]);
            wrong[16..20].copy_from_slice(&crc.to_le_bytes());
            let refused = Header::decode("t", &wrong).unwrap_err().to_string();
            assert!(refused.contains("unknown metric"), "{metric} {argument}: {refused}");
        }
    }

    #[test]
    fn headers_round_trip_and_notice_every_flipped_bit() {
        let bytes = header().encode();
        assert_eq!(Header::decode("t", &bytes).unwrap(), header());
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            match Header::decode("t", &rotten) {
                Err(_) => {}
                // The versions stand before what the checksum covers, so that a later one is named as
                // such; one that still says "readable" changes nothing.
                Ok(read) => assert!((8..16).contains(&(bit / 8)) && read == header(), "bit {bit}"),
            }
        }
    }

    /// Twins stand in bytes that are zero for an index of other codes, and that such an index may not use.
    #[test]
    fn only_an_index_of_shared_entries_counts_twins() {
        let shared = Header { shared: true, twins: 7, twin_pages: 2, ..header() };
        let (bytes, before) = (shared.encode(), header().encode());
        assert_eq!(Header::decode("t", &bytes).unwrap(), shared);
        let at = std::mem::offset_of!(RawHeader, twins);
        assert_eq!(before[at..at + 8], [0; 8]);
        let different: Vec<usize> = (20..bytes.len()).filter(|i| bytes[*i] != before[*i]).collect();
        assert_eq!(different, [std::mem::offset_of!(RawHeader, shared), at, at + 4]);
        for twins in [(7, 0), (0, 2)] {
            let odd = Header { twins: twins.0, twin_pages: twins.1, ..header() };
            assert!(matches!(Header::decode("t", &odd.encode()), Err(Error::Corrupt { .. })));
        }
    }

    /// The byte that tells the forms apart was reserved, so zero, before there were two.
    #[test]
    fn both_forms_of_reranking_are_stored() {
        let stored = |rerank| Header { rerank, ..header() }.encode();
        for rerank in [None, Some(Rerank::Rows(12)), Some(Rerank::Bound(0.0)), Some(Rerank::Bound(2.5))] {
            let bytes = stored(rerank);
            assert_eq!(Header::decode("t", &bytes).unwrap().rerank, rerank);
            let form = std::mem::offset_of!(RawHeader, rerank_form);
            assert_eq!(bytes[form], u8::from(matches!(rerank, Some(Rerank::Bound(_)))));
            // Bytes that nobody writes, under a checksum that fits.
            for (at, byte) in [(form, 2), (form + 1, 1), (form + 23, 9)] {
                let mut odd = bytes.clone();
                odd[at] = byte;
                let crc = crc32fast::hash(&odd[HEADER_CRC_FROM..]);
                odd[16..20].copy_from_slice(&crc.to_le_bytes());
                assert!(matches!(Header::decode("t", &odd), Err(Error::Corrupt { .. })), "byte {at}");
            }
        }
    }

    #[test]
    fn a_later_format_says_so() {
        let mut bytes = header().encode();
        bytes[12..16].copy_from_slice(&9u32.to_le_bytes());
        assert!(matches!(Header::decode("t", &bytes), Err(Error::NewerVersion { needed: 9, supported: 1 })));
    }

    #[test]
    fn list_entries_round_trip() {
        let entry = ListEntry { n: 3, digest: 6, seq: 4, nonce: 5, residual: 1.5 };
        assert_eq!(ListEntry::decode(&entry.encode()), Some(entry));
        assert_eq!(ListEntry::decode(&[0xff; LIST_ENTRY]), Some(ListEntry::default()));
        assert_eq!(ListEntry::decode(&[0; 47]), None);
    }
}
