//! A window for the fuzz target `block`, compiled only with the feature `fuzz-internals`: hostile values straight into what
//! decodes them, without a database around them. No promise to anybody.
//!
//! ```text
//! | kind u8 | signed u8: bit 0 | then
//! block    | code u8 | dimension u8 | order u8 | entries u16 | the value, or its payload if it is to be signed
//! column   | kind u8 | width u8 | page u16 | row u32 | the same
//! header   | the value
//! ```

#![allow(clippy::panic, reason = "a panic is how the fuzzer is told")]

use crate::codec::{self, Codes, Probe, Visit};
use crate::index::model::{Model, spec_of};
use crate::kernel::Found;
use crate::storage::block::{BlockBuf, BlockRef, Geometry, Run};
use crate::storage::column::Column;
use crate::storage::format::{
    FRAME, FrameHead, Header, Kind, LIST_ENTRY, ListEntry, TableName, seal_frame, store_header, value_bytes,
};
use crate::storage::ids::{Slot, Slots};
use crate::storage::twins::Twin;
use crate::{Encoding, IndexSpec, Metric, Rows};
use std::sync::atomic::{AtomicU8, Ordering};

/// Decodes a value; true if it was believed.
pub fn value(input: &[u8]) -> bool {
    let [kind, signed, rest @ ..] = input else { return false };
    let signed = signed & 1 == 1;
    match kind % 4 {
        0 | 1 => block(rest, signed).is_some(),
        2 => column(rest, signed).is_some(),
        _ => header(rest, signed).is_some(),
    }
}

/// A check that is left out on purpose, to see that a campaign notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    Nothing = 0,
    /// Payloads of frames are believed whatever their checksum says.
    PayloadChecksum = 1,
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants a fault in this process, for good.
pub fn plant(fault: Plant) {
    PLANTED.store(fault as u8, Ordering::Relaxed);
}

pub(crate) fn planted(fault: Plant) -> bool {
    PLANTED.load(Ordering::Relaxed) == fault as u8
}

const INDEX: [u8; 16] = [7; 16];
const KEY: u64 = 5 << 32;

fn table() -> TableName {
    TableName { text: "a/table".into(), index: INDEX }
}

/// The value itself, or a frame around a payload that names itself as it should.
fn framed(bytes: &[u8], signed: bool, head: FrameHead) -> Vec<u8> {
    if !signed {
        return bytes.to_vec();
    }
    let mut value = vec![0; FRAME];
    value.extend_from_slice(bytes);
    seal_frame(&mut value, head, bytes.len());
    value
}

// ---- blocks ----

/// Codes that nothing is learned for.
const CODES: [Encoding; 6] = [
    Encoding::Flat,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Nibble2,
    Encoding::Nibble1,
    Encoding::FlatDedup,
];

fn block(input: &[u8], signed: bool) -> Option<()> {
    let ([code, dim, order, n @ ..], rest) = input.split_first_chunk::<5>()?;
    let dim = 1 + usize::from(*dim % 64);
    let metric = if code & 0x80 == 0 { Metric::L2 } else { Metric::InnerProduct };
    let encoding = *CODES.get(usize::from(code & 0x7F) % CODES.len())?;
    let codec = codec::untrained(encoding, dim, metric.similarity())?;
    let geometry = Geometry::new(codec.layout(), order % 7)?;
    let n = usize::from(u16::from_le_bytes(*n)).min(geometry.capacity as usize);
    let head = FrameHead {
        index: INDEX,
        kind: Kind::Block,
        order: geometry.order,
        key: KEY,
        count: n as u32,
        capacity: geometry.capacity,
        width: geometry.layout.code_bytes() as u32,
        seq: 3,
    };
    let value = framed(rest, signed, head);
    let block = BlockRef::open(&table(), KEY, &value, &geometry, n).ok()?;
    assert_eq!(block.run.rows.len(), n);
    let Some(again) = BlockRef::reopen(&value, &geometry, n) else { panic!("it was just opened") };
    assert_eq!((again.crc, again.run.codes), (block.crc, block.run.codes));
    rewrite(block.run, &geometry);
    scan(&*codec, block.run, dim);
    Some(())
}

/// What was read is written and read as the same.
fn rewrite(run: Run<'_>, geometry: &Geometry) {
    let copy = BlockBuf::copy_of(run, geometry);
    let (value, crc) = copy.encode(geometry, INDEX, KEY, 4);
    assert!(value.len() <= value_bytes(geometry.order));
    let Ok(block) = BlockRef::open(&table(), KEY, &value, geometry, run.rows.len()) else {
        panic!("it was just written")
    };
    let again = BlockBuf::copy_of(block.run, geometry);
    assert_eq!((again.codes, again.rows, block.crc), (copy.codes, copy.rows, crc));
}

/// Codes of any bytes have scores, and vectors.
fn scan(codec: &dyn codec::Codec, run: Run<'_>, dim: usize) {
    let n = run.rows.len();
    let queries: Vec<f32> = (0..2 * dim).map(|i| i as f32 / 8.0 - 1.0).collect();
    let centroid = vec![0.5; dim];
    let visits = [0, 1].map(|query| Visit { query, coarse: 1.0 });
    let mut live = vec![u32::MAX; n.div_ceil(32)];
    if let (Some(last), used @ 1..) = (live.last_mut(), n % 32) {
        *last = (1 << used) - 1;
    }
    for centroid in [None, Some(&centroid[..])] {
        let mut scanner = codec.scanner(Rows::of(&queries, dim));
        scanner.enter(Probe { list: 0, centroid, visits: &visits });
        let mut found = [Found::default(), Found::default()];
        let codes = Codes { bytes: run.codes, n, ahead: &[] };
        scanner.scan(codes, 0, &[f32::INFINITY, 0.5], &[&live, &live], &mut found);
        for found in found {
            assert!(found.iter().all(|(entry, _)| (entry as usize) < n), "an entry that there is not");
        }
    }
    let code_bytes = codec.layout().code_bytes();
    let mut codes = Vec::new();
    codec.layout().unpack(run.codes, n, &mut codes);
    let mut row = vec![0.0; dim];
    for code in codes.chunks_exact(code_bytes) {
        codec.decode(Some(&centroid), code, &mut row);
    }
}

// ---- columns ----

fn column(input: &[u8], signed: bool) -> Option<()> {
    let ([kind, width, page @ ..], rest) = input.split_first_chunk::<4>()?;
    let (row, rest) = rest.split_first_chunk::<4>()?;
    let page = u32::from(u16::from_le_bytes(*page));
    let column = match kind % 5 {
        0 => Column::narrow(Kind::Lists, LIST_ENTRY),
        1 => Column::narrow(Kind::Slots, 8),
        2 => Column::narrow(Kind::Slots, 16),
        3 => Column::narrow(Kind::Twins, 8),
        _ => Column::wide(Kind::Rows, 1 + usize::from(*width) * 17)?,
    };
    let head = FrameHead {
        index: INDEX,
        kind: column.kind,
        order: column.order,
        key: page.into(),
        count: column.per_page(),
        capacity: column.per_page(),
        width: column.width as u32,
        seq: 3,
    };
    let value = framed(rest, signed, head);
    let entries = column.open_page(&table(), page, &value).ok()?;
    assert_eq!(column.reopen_page(&value), Some(entries));
    for row in (0..column.per_page()).chain([u32::from_le_bytes(*row)]) {
        entry(kind % 5, column.entry(entries, row));
    }
    Some(())
}

/// What an entry means comes back as it was.
fn entry(kind: u8, bytes: &[u8]) {
    match kind {
        0 => {
            let entry = ListEntry::decode(bytes);
            // A residual may be no number, and then equals nothing.
            let same = entry.is_none_or(|entry| {
                ListEntry::decode(&entry.encode()).is_some_and(|again| again.encode() == entry.encode())
            });
            assert!(same, "{entry:?}");
        }
        1 => {
            let slot = Slot::decode(bytes);
            assert!(slot.is_none_or(|slot| slot.encode()[..] == *bytes), "{slot:?}");
        }
        2 => {
            let slots = Slots::decode(bytes);
            // A second place without a first moves up.
            assert!(Slots::decode(&slots.encode()).same_places(&slots));
        }
        3 => {
            let twin = Twin::decode(bytes);
            assert_eq!(Twin::decode(&Twin::encode(twin)), twin);
        }
        _ => {}
    }
}

// ---- headers ----

fn header(input: &[u8], signed: bool) -> Option<()> {
    let _ = store_header::check(input);
    let mut value = input.to_vec();
    if signed && value.len() >= 20 {
        let crc = crc32fast::hash(&value[20..]);
        value[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    let header = Header::decode("a/meta", &value).ok()?;
    let Ok(again) = Header::decode("a/meta", &header.encode()) else { panic!("it was just written") };
    assert_eq!(again.encode(), header.encode());
    let spec: IndexSpec = spec_of("a/meta", &header).ok()?;
    let _ = Model::untrained(&spec);
    Some(())
}

/// Seeds: whole values of each kind, and inputs of which these are made.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for code in 0..CODES.len() as u8 {
        for (dim, n) in [(7, 3u16), (15, 40)] {
            seeds.extend(block_seed(code, dim, n));
        }
    }
    for kind in 0..5u8 {
        let entries = (4096 - 16 - FRAME) / [48, 8, 16, 8, 18][usize::from(kind)];
        let payload = vec![0; entries * [48, 8, 16, 8, 18][usize::from(kind)]];
        seeds.push([&[2, 1, kind, 1, 0, 0, 1, 0, 0, 0][..], &payload].concat());
    }
    seeds.extend(header_seeds().map(|header| [&[3, 1][..], &header].concat()));
    seeds
}

fn block_seed(code: u8, dim: u8, n: u16) -> Option<Vec<u8>> {
    let codec =
        codec::untrained(*CODES.get(usize::from(code))?, 1 + usize::from(dim), Metric::L2.similarity())?;
    let payload = codec.layout().region_bytes(n.into()) + 4 * usize::from(n);
    let n = n.to_le_bytes();
    let codes: Vec<u8> = (0..payload).map(|i| (i * 37) as u8).collect();
    Some([&[0, 1, code, dim, 0, n[0], n[1]][..], &codes].concat())
}

fn header_seeds() -> impl Iterator<Item = Vec<u8>> {
    ["Flat", "IVF3(IVF2)_SOAR,Nibble2,RSQ8+Flat", "PCA4,IVF2,PQ2x4", "IVF9,FlatDedup"].into_iter().map(
        |spec| {
            Header {
                uuid: INDEX,
                state: crate::storage::format::State::Ready,
                writer_open: false,
                trained: spec == "Flat",
                metric: Metric::L2,
                keys: false,
                block_order: 1,
                shared: spec.ends_with("Dedup"),
                dim: 8,
                nlist: 1,
                first_list: 0,
                ntotal: 9,
                next_id: 9,
                next_row: 9,
                seq: 3,
                nonce: 4,
                model_version: 5,
                load_rows: 0,
                nprobe: 0,
                rerank: None,
                max_codes: 0,
                limits: Default::default(),
                twins: 0,
                twin_pages: 0,
                spec: spec.into(),
            }
            .encode()
        },
    )
}
