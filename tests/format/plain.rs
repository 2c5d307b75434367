//! A reader of stores that knows nothing but `docs/format.md`: redb, bytes, and no type or function of vellum's.
//!
//! Every number here is taken from that page and read from the bytes. What it does not understand it refuses, with a
//! sentence, and whatever two places of the file say of one thing it compares: counts, checksums, digests, both
//! directions of every map.

use redb::{ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a thing that does not fit is told as.
pub(crate) type Plain<T> = Result<T, String>;

/// The header of an index.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) uuid: Vec<u8>,
    pub(crate) trained: bool,
    pub(crate) metric: u8,
    pub(crate) keys: bool,
    pub(crate) block_order: u32,
    pub(crate) shared: bool,
    pub(crate) dim: usize,
    pub(crate) nlist: u32,
    pub(crate) first_list: u32,
    pub(crate) ntotal: u64,
    pub(crate) next_id: u64,
    pub(crate) next_row: u32,
    pub(crate) seq: u64,
    pub(crate) twins: u32,
    pub(crate) twin_pages: u32,
    pub(crate) spec: String,
}

/// A list: its entries in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    pub(crate) rows: Vec<u32>,
    pub(crate) codes: Vec<Vec<u8>>,
    pub(crate) blocks: u32,
    pub(crate) residual: f64,
}

/// An index, whole.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) shape: Shape,
    pub(crate) lists: Vec<List>,
    /// id → row, and the column that leads back.
    pub(crate) map: BTreeMap<u64, u32>,
    pub(crate) ids: BTreeMap<u32, u64>,
    /// row → (list, offset), the lists counted from 0.
    pub(crate) slots: BTreeMap<u32, Vec<(u32, u32)>>,
    pub(crate) free: BTreeSet<u64>,
    pub(crate) kept: [BTreeMap<u32, Vec<u8>>; 2],
    pub(crate) twins: BTreeMap<u32, (u32, u32)>,
    pub(crate) keys: BTreeMap<u64, Vec<u8>>,
    pub(crate) sections: BTreeMap<u32, Vec<u8>>,
}

/// What a specification says of the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    transforms: Vec<String>,
    pub(crate) has_lists: bool,
    pub(crate) spill: bool,
    pub(crate) supers: Option<u32>,
    encoding: String,
    kept: Option<String>,
}

/// How the codes of a block lie.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Rows {
        code: usize,
    },
    /// Nibbles of a code; bytes of a scale, a bias, an error; bytes more.
    Groups {
        nibbles: usize,
        scale: usize,
        bias: usize,
        error: usize,
        extra: usize,
    },
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Plain<()> {
    if holds { Ok(()) } else { Err(what()) }
}

// ---------------------------------------------------------------- bytes

fn array<const N: usize>(bytes: &[u8], at: usize) -> Plain<[u8; N]> {
    let part = bytes.get(at..at + N).ok_or_else(|| format!("{} bytes, {N} wanted at {at}", bytes.len()))?;
    Ok(part.try_into().unwrap())
}

fn u8_at(bytes: &[u8], at: usize) -> Plain<u8> {
    Ok(array::<1>(bytes, at)?[0])
}
fn u32_at(bytes: &[u8], at: usize) -> Plain<u32> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}
fn u64_at(bytes: &[u8], at: usize) -> Plain<u64> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}
fn f32_at(bytes: &[u8], at: usize) -> Plain<f32> {
    Ok(f32::from_le_bytes(array(bytes, at)?))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The CRC-32 of zip and Ethernet, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A half-precision number.
fn f16(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 => f32::INFINITY,
        _ => (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15),
    };
    if sign == 1 { -size } else { size }
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

// ---------------------------------------------------------------- values

/// A frame that was checked.
struct Frame<'v> {
    order: u8,
    count: u32,
    capacity: u32,
    width: u32,
    seq: u64,
    crc: u32,
    payload: &'v [u8],
}

fn frame<'v>(value: &'v [u8], kind: u8, key: u64, uuid: &[u8]) -> Plain<Frame<'v>> {
    let what = |text: &str| format!("frame of kind {kind}, key {key}: {text}");
    ensure(value.get(..4) == Some(b"VLF1"), || what("magic"))?;
    ensure(value.len() >= 64 && u32_at(value, 60)? == crc32(&value[..60]), || what("header checksum"))?;
    ensure(u8_at(value, 4)? == kind && u64_at(value, 8)? == key, || what("another kind or key"))?;
    ensure(value[6..8] == [0, 0], || what("reserved bytes"))?;
    ensure(&value[40..56] == uuid, || what("another index"))?;
    let end = 64 + u32_at(value, 28)? as usize;
    let payload = value.get(64..end).ok_or_else(|| what("too short"))?;
    ensure(u32_at(value, 56)? == crc32(payload), || what("payload checksum"))?;
    ensure(value[end..].iter().all(|byte| *byte == 0), || what("something behind the payload"))?;
    Ok(Frame {
        order: value[5],
        count: u32_at(value, 16)?,
        capacity: u32_at(value, 20)?,
        width: u32_at(value, 24)?,
        seq: u64_at(value, 32)?,
        crc: u32_at(value, 60)?,
        payload,
    })
}

impl Header {
    fn parse(bytes: &[u8]) -> Plain<Self> {
        ensure(bytes.get(..8) == Some(b"vellum.i"), || "no index header".into())?;
        let (format, oldest) = (u32_at(bytes, 8)?, u32_at(bytes, 12)?);
        ensure((format, oldest) == (1, 1), || format!("format {format}, readable from {oldest} on"))?;
        ensure(u32_at(bytes, 16)? == crc32(&bytes[20..]), || "header checksum".into())?;
        let spec = bytes.get(152..).ok_or("a short header")?;
        ensure(spec.len() == u32_at(bytes, 20)? as usize, || "length of the specification".into())?;
        ensure(bytes[47] == 0 && bytes[151] == 0, || "reserved bytes".into())?;
        ensure(bytes[40] == 1 && bytes[41] == 0, || format!("state {}, open {}", bytes[40], bytes[41]))?;
        Ok(Header {
            uuid: bytes[24..40].to_vec(),
            trained: bytes[42] == 1,
            metric: bytes[43],
            keys: bytes[44] == 1,
            block_order: bytes[45].into(),
            shared: bytes[46] == 1,
            dim: u32_at(bytes, 48)? as usize,
            nlist: u32_at(bytes, 52)?,
            first_list: u32_at(bytes, 56)?,
            ntotal: u64_at(bytes, 60)?,
            next_id: u64_at(bytes, 68)?,
            next_row: u32_at(bytes, 76)?,
            seq: u64_at(bytes, 84)?,
            twins: u32_at(bytes, 143)?,
            twin_pages: u32_at(bytes, 147)?,
            spec: String::from_utf8(spec.to_vec()).map_err(|e| e.to_string())?,
        })
    }
}

impl Shape {
    /// `[transform,…][IVFn[(Flat)|(IVFm)][_SOAR],]encoding[,kept rows]`
    fn parse(spec: &str) -> Plain<Self> {
        let mut parts: Vec<&str> = spec.split(',').collect();
        let kept = ["RFlat", "RF16", "RBF16", "RU8", "RSQ8", "RSQ8+Flat"];
        let kept = parts.pop_if(|last| kept.contains(last)).map(String::from);
        let encoding = parts.pop().ok_or("no encoding")?.to_string();
        let lists = parts.pop_if(|last| last.starts_with("IVF"));
        let supers = lists.and_then(|lists| lists.split_once("(IVF")).and_then(|(_, m)| m.split_once(')'));
        Ok(Shape {
            transforms: parts.into_iter().map(String::from).collect(),
            has_lists: lists.is_some(),
            spill: lists.is_some_and(|lists| lists.ends_with("_SOAR")),
            supers: supers.map(|(m, _)| m.parse().map_err(|e| format!("{m}: {e}"))).transpose()?,
            encoding,
            kept,
        })
    }

    /// What a code is now: before its lists are trained, an index of codes that lose something holds f32.
    fn encoding(&self, trained: bool) -> &str {
        let exact = ["Flat", "FlatDedup", "SQfp16", "SQbf16", "SQ8_direct", "SQ8_direct_signed"];
        if trained || !self.has_lists || exact.contains(&&*self.encoding) { &self.encoding } else { "Flat" }
    }

    /// Bytes of a kept row, by column.
    fn kept_widths(&self, dim: usize) -> Vec<usize> {
        match self.kept.as_deref() {
            None => vec![],
            Some("RFlat") => vec![4 * dim],
            Some("RF16" | "RBF16") => vec![2 * dim],
            Some("RU8") => vec![dim + 1],
            Some("RSQ8") => vec![8 + dim],
            _ => vec![8 + dim, 4 * dim],
        }
    }
}

/// `PQ16` or `PQ16x6`: parts and bits.
fn product_of(encoding: &str) -> Option<(usize, usize)> {
    let text = encoding.strip_prefix("PQ")?;
    let (m, bits) = text.split_once('x').unwrap_or((text, "8"));
    Some((m.parse().ok()?, bits.parse().ok()?))
}

/// Components of a nibble.
fn nibble_of(encoding: &str) -> Option<usize> {
    match encoding {
        "Nibble2" => Some(2),
        "Nibble1" => Some(4),
        _ => None,
    }
}

fn layout(encoding: &str, dim: usize, metric: u8) -> Plain<Layout> {
    if let Some((m, bits)) = product_of(encoding) {
        return Ok(Layout::Rows { code: (m * bits).div_ceil(8) + if metric == 1 { 4 } else { 0 } });
    }
    if let Some(components) = nibble_of(encoding) {
        let nibbles = dim.next_multiple_of(4 * components) / components;
        return Ok(Layout::Groups { nibbles, scale: 2, bias: 4, error: 0, extra: 0 });
    }
    if let Some(m) = encoding.strip_prefix("PQ").and_then(|text| text.strip_suffix("x4fsr")) {
        let m: usize = m.parse().map_err(|_| format!("no {encoding}"))?;
        let bias = if metric == 1 { 4 } else { 0 };
        return Ok(Layout::Groups { nibbles: m.next_multiple_of(2), scale: 0, bias, error: 0, extra: 0 });
    }
    if let Some(bits) = encoding.strip_prefix("RaBitQ") {
        let bits = if bits.is_empty() { 1 } else { bits.parse().map_err(|_| format!("no {encoding}"))? };
        let padded = dim.next_multiple_of(16);
        let (error, extra) = if bits > 1 { (2, (bits - 1) * padded / 8 + 8) } else { (0, 0) };
        return Ok(Layout::Groups { nibbles: padded / 4, scale: 2, bias: 4, error, extra });
    }
    match encoding {
        "Flat" | "FlatDedup" => Ok(Layout::Rows { code: 4 * dim }),
        "SQfp16" | "SQbf16" => Ok(Layout::Rows { code: 2 * dim }),
        "SQ8" => Ok(Layout::Rows { code: dim }),
        "SQ4" => Ok(Layout::Rows { code: dim.div_ceil(2) }),
        _ => Err(format!("an encoding that this reader does not know: {encoding}")),
    }
}

impl Layout {
    fn code_bytes(self) -> usize {
        match self {
            Layout::Rows { code } => code,
            Layout::Groups { nibbles, scale, bias, error, extra } => {
                nibbles / 2 + scale + bias + error + extra
            }
        }
    }

    fn region_bytes(self, n: usize) -> usize {
        match self {
            Layout::Rows { code } => n * code,
            Layout::Groups { .. } => n.div_ceil(32) * 32 * self.code_bytes(),
        }
    }

    /// The packed codes of `n` entries.
    fn codes(self, region: &[u8], n: usize) -> Vec<Vec<u8>> {
        match self {
            Layout::Rows { code } => region.chunks_exact(code).take(n).map(<[u8]>::to_vec).collect(),
            Layout::Groups { .. } => {
                (0..n).map(|e| self.grouped(&region[e / 32 * 32 * self.code_bytes()..], e % 32)).collect()
            }
        }
    }

    /// The packed code of entry `e` of a group.
    fn grouped(self, group: &[u8], e: usize) -> Vec<u8> {
        let Layout::Groups { nibbles, scale, bias, error, extra } = self else { return Vec::new() };
        let nibble = |j: usize| group[16 * j + e % 16] >> (4 * (e / 16)) & 15;
        let mut code: Vec<u8> = (0..nibbles).step_by(2).map(|j| nibble(j) | nibble(j + 1) << 4).collect();
        let mut at = 16 * nibbles;
        for width in [scale, bias, error, extra] {
            code.extend_from_slice(&group[at + e * width..][..width]);
            at += 32 * width;
        }
        code
    }
}

// ---------------------------------------------------------------- tables

type Values = BTreeMap<u64, Vec<u8>>;

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// All of a table of values under numbers.
fn values(txn: &ReadTransaction, name: &str) -> Plain<Values> {
    let table = txn.open_table(TableDefinition::<u64, &[u8]>::new(name)).map_err(text)?;
    let entries = table.iter().map_err(text)?;
    entries.map(|entry| entry.map(|(k, v)| (k.value(), v.value().to_vec())).map_err(text)).collect()
}

/// A column of entries of `width` bytes; those that are absent are left out.
fn column(values: &Values, kind: u8, width: usize, wide: bool, uuid: &[u8]) -> Plain<BTreeMap<u32, Vec<u8>>> {
    let room = |order: u32| (4096usize << order) - 16;
    let fits = |order: &u32| room(*order) - 64 >= width;
    let waste = |order: u32| (room(order) - 64) % width;
    let order = match wide {
        false => Some(0),
        true => (0..=6)
            .filter(fits)
            .find(|order| waste(*order) * 25 <= room(*order))
            .or_else(|| (0..=6).rev().find(fits)),
    };
    let order = order.ok_or("an entry larger than a page")?;
    let per_page = (room(order) - 64) / width;
    let mut entries = BTreeMap::new();
    for (page, value) in values {
        let frame = frame(value, kind, *page, uuid)?;
        ensure(value.len() == room(order) && u32::from(frame.order) == order, || format!("page {page}"))?;
        ensure(frame.width as usize == width && frame.payload.len() == per_page * width, || {
            format!("page {page} of kind {kind}: {} entries of {} bytes", frame.count, frame.width)
        })?;
        ensure(frame.count as usize == per_page && frame.count == frame.capacity, || format!("page {page}"))?;
        for (i, entry) in frame.payload.chunks_exact(width).enumerate() {
            if entry.iter().any(|byte| *byte != 0xff) {
                entries
                    .insert(u32::try_from(*page).map_err(text)? * per_page as u32 + i as u32, entry.to_vec());
            }
        }
    }
    Ok(entries)
}

fn sections(values: &Values, uuid: &[u8]) -> Plain<BTreeMap<u32, Vec<u8>>> {
    let mut sections: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for (key, value) in values {
        let (section, chunk) = ((key >> 32) as u32, *key as u32);
        let frame = frame(value, 6, *key, uuid)?;
        let expected = last.insert(section, chunk).map_or(0, |last| last + 1);
        ensure(chunk == expected && frame.count == chunk, || format!("chunk {chunk} of section {section}"))?;
        ensure(frame.order == 4 && frame.width == 1, || format!("shape of section {section}"))?;
        sections.entry(section).or_default().extend_from_slice(frame.payload);
        let whole = chunk + 1 == frame.capacity;
        let more = values.contains_key(&(key + 1));
        ensure(whole != more, || format!("section {section} of {} chunks", frame.capacity))?;
        ensure(whole || frame.payload.len() == 65_456, || format!("a short chunk of section {section}"))?;
    }
    Ok(sections)
}

/// What stands in `lists` of one list.
struct Entry {
    n: usize,
    digest: u32,
    seq: u64,
    residual: f64,
}

fn directory(values: &Values, uuid: &[u8]) -> Plain<BTreeMap<u32, Entry>> {
    let entries = column(values, 5, 48, false, uuid)?;
    let entry = |(list, bytes): (u32, Vec<u8>)| {
        ensure(bytes[32..48].iter().all(|byte| *byte == 0), || format!("reserved bytes of list {list}"))?;
        let residual = f64::from_le_bytes(array(&bytes, 24)?);
        let (n, digest, seq) = (u32_at(&bytes, 0)? as usize, u32_at(&bytes, 4)?, u64_at(&bytes, 8)?);
        Ok((list, Entry { n, digest, seq, residual }))
    };
    entries.into_iter().map(entry).collect()
}

/// The blocks of one list.
struct Blocks<'t> {
    layout: Layout,
    order: u32,
    blocks: &'t mut Values,
    tails: &'t mut Values,
    uuid: &'t [u8],
}

impl Blocks<'_> {
    fn capacity(&self) -> usize {
        let room = (4096usize << self.order) - 16 - 64;
        (1..=room).rev().find(|n| self.layout.region_bytes(*n) + 4 * n <= room).unwrap_or(0)
    }

    /// Takes the list's blocks out of their tables.
    fn list(&mut self, number: u32, entry: &Entry) -> Plain<List> {
        let (capacity, mut digest) = (self.capacity(), 0);
        let mut list = List { residual: entry.residual, ..List::default() };
        while list.rows.len() < entry.n {
            let n = capacity.min(entry.n - list.rows.len());
            let key = u64::from(number) << 32 | u64::from(list.blocks);
            let region = self.layout.region_bytes(n);
            let (full, cut) = ((4096usize << self.order) - 16, (64 + region + 4 * n).next_multiple_of(16));
            let bytes = if n == capacity { full } else { cut };
            let home = if n < capacity && bytes <= 4080 { &mut *self.tails } else { &mut *self.blocks };
            let value = home.remove(&key).ok_or_else(|| format!("no block {key:#x}"))?;
            let frame = frame(&value, 1, key, self.uuid)?;
            ensure(value.len() == bytes && frame.payload.len() == region + 4 * n, || {
                format!("block {key:#x}")
            })?;
            ensure(
                (frame.count, frame.capacity, frame.width)
                    == (n as u32, capacity as u32, self.layout.code_bytes() as u32)
                    && u32::from(frame.order) == self.order
                    && frame.seq <= entry.seq,
                || format!("shape of block {key:#x}"),
            )?;
            digest ^= frame.crc;
            let (codes, rows) = frame.payload.split_at(region);
            list.codes.extend(self.layout.codes(codes, n));
            list.rows.extend(rows.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            list.blocks += 1;
        }
        ensure(digest == entry.digest, || format!("digest of list {number}"))?;
        Ok(list)
    }
}

// ---------------------------------------------------------------- an index

/// All indexes of a store that nobody has open.
pub(crate) fn read(path: &Path) -> Plain<Vec<Index>> {
    let database = ReadOnlyDatabase::open(path).map_err(text)?;
    let txn = database.begin_read().map_err(text)?;
    let catalog = txn.open_table(TableDefinition::<&str, &[u8]>::new("vellum/indexes")).map_err(text)?;
    let mut indexes = Vec::new();
    for entry in catalog.iter().map_err(text)? {
        let (name, value) = entry.map_err(text)?;
        match name.value() {
            "" => {
                let header = value.value();
                ensure(header == b"vellum.s\x01\0\0\0\x01\0\0\0", || format!("store header {header:?}"))?;
            }
            name => indexes.push(index(&txn, name, value.value()).map_err(|e| format!("{name}: {e}"))?),
        }
    }
    Ok(indexes)
}

fn index(txn: &ReadTransaction, name: &str, uuid: &[u8]) -> Plain<Index> {
    let table = |part: &str| values(txn, &format!("{name}/{part}"));
    let meta = table("meta")?;
    ensure(meta.len() == 1, || format!("{} values of meta", meta.len()))?;
    let header = Header::parse(meta.get(&0).ok_or("no header")?)?;
    ensure(header.uuid == uuid, || "the catalog has another uuid".into())?;
    let shape = Shape::parse(&header.spec)?;
    let encoding = shape.encoding(header.trained);
    let inner = shape.transforms.iter().try_fold(header.dim, |dim, t| dim_out(t, dim))?;
    let code_dim = if header.trained { inner } else { header.dim };
    let layout = layout(encoding, code_dim, header.metric)?;
    let one = |order: &u32| layout.region_bytes(1) + 4 + 64 <= (4096usize << order) - 16;
    let order = (header.block_order..=6).find(one).ok_or("a code larger than a block")?;
    let (mut blocks, mut tails) = (table("blocks")?, table("tails")?);
    let mut lists = Vec::new();
    let mut entries = directory(&table("lists")?, uuid)?;
    let mut walk = Blocks { layout, order, blocks: &mut blocks, tails: &mut tails, uuid };
    for number in header.first_list..header.first_list + header.nlist {
        lists.push(match entries.remove(&number) {
            Some(entry) => {
                ensure(entry.seq <= header.seq, || format!("list {number} is of a later change"))?;
                walk.list(number, &entry)?
            }
            None => List::default(),
        });
    }
    ensure(entries.is_empty() && blocks.is_empty() && tails.is_empty(), || {
        "lists that there are not".into()
    })?;

    let places = if shape.spill && header.trained { 2 } else { 1 };
    let slots = column(&table("slots")?, 3, if shape.spill { 16 } else { 8 }, false, uuid)?;
    let slots = slots.into_iter().map(|(row, bytes)| {
        let pairs = bytes.chunks_exact(8).filter(|slot| **slot != [0xff; 8]);
        let slot = |b: &[u8]| Ok((u32_at(b, 0)? - header.first_list, u32_at(b, 4)?));
        Ok((row, pairs.map(slot).collect::<Plain<Vec<_>>>()?))
    });
    let ids = column(&table("ids")?, 2, 8, false, uuid)?;
    let mut kept = [BTreeMap::new(), BTreeMap::new()];
    for (i, width) in shape.kept_widths(header.dim).into_iter().enumerate() {
        kept[i] = column(&table(["rows", "exact"][i])?, [4, 7][i], width, true, uuid)?;
    }
    let mut twins = BTreeMap::new();
    if header.shared {
        let pages = table("twins")?;
        ensure(pages.len() == header.twin_pages as usize, || format!("{} pages of twins", pages.len()))?;
        for (row, bytes) in column(&pages, 8, 8, false, uuid)? {
            twins.insert(row, (u32_at(&bytes, 0)?, u32_at(&bytes, 4)?));
        }
    }
    let map = txn.open_table(TableDefinition::<u64, u32>::new(&format!("{name}/map"))).map_err(text)?;
    let map = map.iter().map_err(text)?.map(|e| e.map(|(k, v)| (k.value(), v.value())).map_err(text));
    let free = txn.open_table(TableDefinition::<u64, ()>::new(&format!("{name}/free"))).map_err(text)?;
    let free = free.iter().map_err(text)?.map(|e| e.map(|(k, _)| k.value()).map_err(text));
    let keymap =
        txn.open_table(TableDefinition::<&[u8], u64>::new(&format!("{name}/keymap"))).map_err(text)?;
    let keymap =
        keymap.iter().map_err(text)?.map(|e| e.map(|(k, v)| (v.value(), k.value().to_vec())).map_err(text));
    let keys = table("keys")?;
    ensure(keymap.collect::<Plain<Values>>()? == keys, || "keys and keymap differ".into())?;

    let index = Index {
        name: name.into(),
        lists,
        map: map.collect::<Plain<_>>()?,
        ids: ids.into_iter().map(|(row, id)| Ok((row, u64_at(&id, 0)?))).collect::<Plain<_>>()?,
        slots: slots.collect::<Plain<_>>()?,
        free: free.collect::<Plain<_>>()?,
        kept,
        twins,
        keys,
        sections: sections(&table("model")?, uuid)?,
        shape,
        header,
    };
    index.check(places)?;
    Ok(index)
}

impl Index {
    /// What several places say of one thing.
    fn check(&self, places: usize) -> Plain<()> {
        let (header, rows) = (&self.header, self.ids.len());
        ensure(rows as u64 == header.ntotal && self.map.len() == rows, || format!("{rows} rows"))?;
        ensure(self.slots.len() == rows, || format!("{} slots", self.slots.len()))?;
        for (row, id) in &self.ids {
            ensure(self.map.get(id) == Some(row) && *row < header.next_row, || {
                format!("row {row} of id {id}")
            })?;
            ensure(*id < header.next_id, || format!("id {id}, the next is {}", header.next_id))?;
            ensure(!self.free.contains(&u64::from(*row)), || format!("row {row} is free"))?;
            let slots = self.slots.get(row).ok_or("no slot")?;
            ensure(slots.len() == places, || format!("{} slots of row {row}", slots.len()))?;
            let head = self.twins.get(row).map_or(*row, |(head, _)| *head);
            for (list, offset) in slots {
                let there = self.lists.get(*list as usize).and_then(|list| list.rows.get(*offset as usize));
                ensure(there == Some(&head), || format!("row {row} is not at {list}, {offset}"))?;
            }
        }
        let free = u64::from(header.next_row) - header.ntotal;
        ensure(self.free.len() as u64 == free, || format!("{} free rows", self.free.len()))?;
        let entries: usize = self.lists.iter().map(|list| list.rows.len()).sum();
        let expected = rows * places - header.twins as usize;
        ensure(entries == expected, || format!("{entries} entries, expected {expected}"))?;
        for (i, _) in self.shape.kept_widths(header.dim).iter().enumerate() {
            ensure(self.kept[i].keys().eq(self.ids.keys()), || "rows that are kept and rows".into())?;
        }
        ensure(header.keys != self.keys.is_empty(), || "keys".into())?;
        ensure(!header.keys || self.keys.keys().eq(self.map.keys()), || "ids of keys".into())?;
        self.check_chains()?;
        self.check_tree()
    }

    /// From each head a chain leads through all rows of its entry.
    fn check_chains(&self) -> Plain<()> {
        let heads: BTreeSet<u32> = self.twins.values().map(|(head, _)| *head).collect();
        let mut beside = 0;
        for head in heads {
            let mut at = head;
            loop {
                let (of, next) = *self.twins.get(&at).ok_or("a chain into the void")?;
                ensure(of == head && self.slots[&at] == self.slots[&head], || {
                    format!("chain of {head} at {at}")
                })?;
                if next == u32::MAX {
                    break;
                }
                beside += 1;
                at = next;
            }
        }
        ensure(beside == self.header.twins, || format!("{beside} twins"))
    }

    fn check_tree(&self) -> Plain<()> {
        let Some(supers) = self.shape.supers.filter(|_| self.header.trained) else { return Ok(()) };
        let tree = self.sections.get(&3).ok_or("no tree")?;
        let sum = crc32(&[&self.sections[&1][..], &tree[4..]].concat());
        ensure(u32_at(tree, 0)? == sum && u32_at(tree, 4)? == supers, || "the tree".into())?;
        let nlist = self.header.nlist as usize;
        ensure(tree.len() == 8 + 4 * nlist + 4 * supers as usize * self.inner_dim()?, || {
            "its length".into()
        })?;
        (0..nlist)
            .try_for_each(|list| ensure(u32_at(tree, 8 + 4 * list)? < supers, || "a super-cluster".into()))
    }

    /// Components behind the transforms.
    fn inner_dim(&self) -> Plain<usize> {
        self.shape.transforms.iter().try_fold(self.header.dim, |dim, t| dim_out(t, dim))
    }

    /// The rows of the entry that names `row`.
    pub(crate) fn chain(&self, row: u32) -> Vec<u32> {
        let mut rows = vec![row];
        while let Some((_, next)) =
            self.twins.get(&rows[rows.len() - 1]).filter(|(_, next)| *next != u32::MAX)
        {
            rows.push(*next);
        }
        rows
    }

    pub(crate) fn centroids(&self) -> Vec<f32> {
        self.sections.get(&1).map_or(Vec::new(), |bytes| floats(bytes))
    }

    /// The code of a row, in its first list.
    pub(crate) fn code(&self, row: u32) -> (u32, &[u8]) {
        let (list, offset) = self.slots[&row][0];
        (list, &self.lists[list as usize].codes[offset as usize])
    }

    /// What the code of a row says.
    pub(crate) fn decoded(&self, row: u32) -> Plain<Vec<f32>> {
        let (list, code) = self.code(row);
        let trained = self.header.trained && self.shape.has_lists;
        let dim = if trained { self.inner_dim()? } else { self.header.dim };
        let centroids = self.centroids();
        let centroid = if trained { &centroids[list as usize * dim..][..dim] } else { &vec![0.0; dim][..] };
        let vector = self.decode(code, centroid, dim)?;
        if !trained {
            return Ok(vector);
        }
        let bytes = self.sections.get(&5).map_or(&[][..], |bytes| bytes);
        reverse(&self.shape.transforms, self.header.dim, bytes, vector)
    }

    fn decode(&self, code: &[u8], centroid: &[f32], dim: usize) -> Plain<Vec<f32>> {
        let encoding = self.shape.encoding(self.header.trained);
        let tables = self.sections.get(&4).map_or(&[][..], |bytes| bytes);
        let halves = |decode: fn(u16) -> f32| {
            code.chunks_exact(2).map(|b| decode(u16::from_le_bytes([b[0], b[1]]))).collect::<Vec<f32>>()
        };
        let add =
            |residual: Vec<f32>| residual.iter().zip(centroid).map(|(r, c)| r + c).collect::<Vec<f32>>();
        if let Some((m, bits)) = product_of(encoding) {
            let (points, part) = (floats(tables), dim / m);
            ensure(points.len() == dim << bits, || format!("{} numbers of points", points.len()))?;
            let index = |j: usize| {
                (0..bits).fold(0, |k, bit| {
                    let at = j * bits + bit;
                    k | usize::from(code[at / 8] >> (at % 8) & 1) << bit
                })
            };
            return Ok(add((0..m)
                .flat_map(|j| points[((j << bits) + index(j)) * part..][..part].to_vec())
                .collect()));
        }
        if let Some(components) = nibble_of(encoding) {
            let padded = dim.next_multiple_of(4 * components);
            let pairs = padded / components / 2;
            let scale =
                bf16(u16::from_le_bytes(array(code, pairs)?)) * if components == 2 { 0.8924 } else { 0.6584 };
            let points = |k: u8| match components {
                2 => POINTS_2[usize::from(k)].to_vec(),
                _ => POINTS_4[usize::from(k)].to_vec(),
            };
            let nibbles = code[..pairs].iter().flat_map(|pair| [pair & 15, pair >> 4]);
            let mut values: Vec<f32> = nibbles.flat_map(points).map(|value| value * scale).collect();
            rotate_back(&mut values);
            values.truncate(dim);
            return Ok(add(values));
        }
        match encoding {
            "Flat" | "FlatDedup" => Ok(floats(code)),
            "SQfp16" => Ok(halves(f16)),
            "SQbf16" => Ok(halves(bf16)),
            "SQ8" | "SQ4" => {
                let most = if encoding == "SQ8" { 255.0 } else { 15.0 };
                ensure(tables.len() == 8 * dim, || format!("{} bytes of ranges", tables.len()))?;
                let step = |j: usize| match encoding {
                    "SQ8" => code[j],
                    _ => code[j / 2] >> (4 * (j % 2)) & 15,
                };
                let value = |j: usize| {
                    let (low, span) = (f32_at(tables, 8 * j)?, f32_at(tables, 8 * j + 4)?);
                    Ok(low + (f32::from(step(j)) + 0.5) / most * span)
                };
                Ok(add((0..dim).map(value).collect::<Plain<Vec<f32>>>()?))
            }
            _ => Err(format!("codes that this reader cannot decode: {encoding}")),
        }
    }

    /// What is kept of a row, the most exact of it; none where nothing is.
    pub(crate) fn kept(&self, row: u32) -> Plain<Option<Vec<f32>>> {
        let Some(form) = self.shape.kept.as_deref() else { return Ok(None) };
        let column = usize::from(form == "RSQ8+Flat");
        let bytes = self.kept[column].get(&row).ok_or("a kept row is missing")?;
        kept_row(if column == 1 { "RFlat" } else { form }, bytes).map(Some)
    }

    /// What stands in the column that is scored first.
    pub(crate) fn first_kept(&self, row: u32) -> Plain<Option<Vec<f32>>> {
        let form = self.shape.kept.as_deref().map(|form| form.strip_suffix("+Flat").unwrap_or(form));
        let bytes = || self.kept[0].get(&row).ok_or("a kept row is missing");
        form.map(|form| kept_row(form, bytes()?)).transpose()
    }
}

fn kept_row(form: &str, bytes: &[u8]) -> Plain<Vec<f32>> {
    let halves =
        |decode: fn(u16) -> f32| bytes.chunks_exact(2).map(move |b| decode(u16::from_le_bytes([b[0], b[1]])));
    Ok(match form {
        "RFlat" => floats(bytes),
        "RF16" => halves(f16).collect(),
        "RBF16" => halves(bf16).collect(),
        "RU8" => {
            let (last, bytes) = bytes.split_last().ok_or("an empty row")?;
            ensure(*last == 0, || "the byte behind a row".into())?;
            bytes.iter().map(|byte| f32::from(*byte)).collect()
        }
        "RSQ8" => {
            let (low, step) = (f32_at(bytes, 0)?, f32_at(bytes, 4)?);
            bytes[8..].iter().map(|byte| low + step * f32::from(*byte)).collect()
        }
        _ => return Err(format!("rows that this reader does not know: {form}")),
    })
}

// ---------------------------------------------------------------- transforms and the rotation

/// `OPQ4_16`, `RR16`, `PCA8`: components afterwards.
fn dim_out(transform: &str, dim: usize) -> Plain<usize> {
    let unknown = || format!("a transform that this reader does not know: {transform}");
    let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
    if let Some(text) = transform.strip_prefix("OPQ") {
        return text.split_once('_').map_or(Ok(dim), |(_, out)| number(out));
    }
    let text = transform.strip_prefix("RR").or_else(|| transform.strip_prefix("PCA")).ok_or_else(unknown)?;
    number(text)
}

/// Back through all transforms, the last first.
fn reverse(transforms: &[String], dim: usize, bytes: &[u8], mut vector: Vec<f32>) -> Plain<Vec<f32>> {
    let (mut at, mut dim, mut links) = (0, dim, Vec::new());
    for transform in transforms {
        let out = dim_out(transform, dim)?;
        let mean = if transform.starts_with("PCA") { dim } else { 0 };
        let end = at + 4 * (mean + dim * out);
        let stored = floats(bytes.get(at..end).ok_or("a short section of transforms")?);
        let (mean, matrix) = stored.split_at(mean);
        links.push((dim, mean.to_vec(), matrix.to_vec()));
        (at, dim) = (end, out);
    }
    ensure(at == bytes.len(), || "more than the transforms".into())?;
    for (dim, mean, matrix) in links.into_iter().rev() {
        let mut back: Vec<f64> = mean.iter().map(|m| f64::from(*m)).collect();
        back.resize(dim, 0.0);
        for (y, row) in vector.iter().zip(matrix.chunks_exact(dim)) {
            back.iter_mut().zip(row).for_each(|(x, a)| *x += f64::from(*a) * f64::from(*y));
        }
        vector = back.into_iter().map(|x| x as f32).collect();
    }
    Ok(vector)
}

/// The signs of the rotation: xoshiro256** of a constant seed.
fn signs(count: usize) -> Vec<bool> {
    let mut seed = 0x7665_6c6c_756d_0001_u64;
    let mut state = [0u64; 4];
    for word in &mut state {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = z ^ (z >> 31);
    }
    let mut next = || {
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result >> 63 == 1
    };
    (0..count).map(|_| next()).collect()
}

fn rotate_back(values: &mut [f32]) {
    let padded = values.len();
    let block = 1usize << padded.ilog2();
    let rounds = if block == padded { 3 } else { 4 };
    let signs = signs(rounds * block);
    for round in (0..rounds).rev() {
        let first = if round % 2 == 0 { 0 } else { padded - block };
        let part = &mut values[first..first + block];
        let mut half = 1;
        while half < block {
            for i in (0..block).filter(|i| i & half == 0) {
                (part[i], part[i + half]) = (part[i] + part[i + half], part[i] - part[i + half]);
            }
            half *= 2;
        }
        let size = 1.0 / (block as f64).sqrt() as f32;
        for (value, negative) in part.iter_mut().zip(&signs[round * block..]) {
            *value *= if *negative { -size } else { size };
        }
    }
}

const POINTS_2: [[f32; 2]; 16] = [
    [-1.831067, -0.354237],
    [-1.762459, 0.949426],
    [-1.139314, -1.477804],
    [-0.840214, 0.452997],
    [-0.756941, -0.468063],
    [-0.711215, 1.72463],
    [-0.025198, 0.890357],
    [0.002448, -0.000719],
    [0.028927, -0.956403],
    [0.057721, -2.001929],
    [0.608531, 1.764085],
    [0.786898, -0.423668],
    [0.815711, 0.501995],
    [1.223814, -1.410677],
    [1.70497, 1.052901],
    [1.85218, -0.246869],
];
const POINTS_4: [[f32; 4]; 16] = [
    [-1.388469, 0.31634, -0.045192, 0.93025],
    [-1.096396, -0.499774, 1.142933, -0.327116],
    [-1.047466, -0.28831, -1.236877, -0.432225],
    [-0.980526, 0.986279, 0.100233, -0.990398],
    [-0.551308, -1.538818, -0.171711, 0.474163],
    [-0.117356, -0.862732, -0.016096, -1.478977],
    [-0.087258, 0.953943, 1.343819, 0.432843],
    [-0.036327, 1.54714, -0.498619, 0.486743],
    [0.002185, -0.008837, 0.000202, -0.00706],
    [0.198122, -0.08511, -1.330122, 1.041541],
    [0.233164, -0.31633, 0.508007, 1.57552],
    [0.623415, 0.570507, -1.18995, -0.886066],
    [0.771085, -0.89003, 1.240639, -0.045341],
    [0.800557, 0.642278, 0.727981, -1.143211],
    [1.15177, -1.057485, -0.645612, -0.16542],
    [1.522804, 0.556925, 0.068559, 0.517914],
];
