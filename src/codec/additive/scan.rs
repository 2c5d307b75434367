//! Scoring of additive codes: by tables of products, or by decoding.
//!
//! ```text
//! once a scanner    table of each query        ⟨q, w⟩ for all words
//! once a list       table of its centroid      kept by the codec for later searches, up to 64 MiB
//! once a block      places: where in a table the words of each entry stand      (8-bit books: the code's own bytes)
//!                   norms:  ‖y‖² of each entry
//! for each visit    table of q − c, a difference of two; scores, entry by entry
//! ```
//! `Decompress` decodes a tile of entries for all visits together and scores them as flat vectors.

use super::bits::BitReader;
use super::{Additive, norm::NORM_SQUARED_MAX};
use crate::Rows;
use crate::codec::{Codes, Probe, Scanner, Visit};
use crate::encoding::AdditiveNorm;
use crate::kernel::{Found, Kernels, Similarity};
use crate::math::linalg::dot;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Bytes of the tables of centroids that a codec keeps.
const LIST_TABLE_BYTES: usize = 64 << 20;

/// Entries decoded at a time: 64 vectors of 128 components are a first-level cache.
const TILE: usize = 64;

/// Tables of centroids, by what the centroid is: lists have no numbers here.
#[derive(Default)]
pub(super) struct ListTables {
    tables: RwLock<HashMap<u64, ListTable>>,
}

struct ListTable {
    centroid: Box<[f32]>,
    table: Arc<[f32]>,
}

impl ListTables {
    /// The table of `centroid`, made by `make` if it is not there.
    fn get(&self, centroid: &[f32], make: impl FnOnce() -> Vec<f32>) -> Arc<[f32]> {
        let mut hasher = DefaultHasher::new();
        centroid.iter().for_each(|c| c.to_bits().hash(&mut hasher));
        let key = hasher.finish();
        let same =
            |other: &ListTable| other.centroid.iter().zip(centroid).all(|(a, b)| a.to_bits() == b.to_bits());
        if let Some(found) = self.tables.read().get(&key).filter(|found| same(found)) {
            return Arc::clone(&found.table);
        }
        let table: Arc<[f32]> = make().into();
        let mut tables = self.tables.write();
        if (tables.len() + 1) * (size_of_val(&*table) + size_of_val(centroid)) <= LIST_TABLE_BYTES {
            tables.insert(key, ListTable { centroid: centroid.into(), table: Arc::clone(&table) });
        }
        table
    }
}

impl Additive {
    /// Words of all parts: the width of a table.
    pub(super) fn width(&self) -> usize {
        self.parts.iter().map(|part| part.panels.len()).sum()
    }

    /// −⟨row, w⟩ for each row and word, cut so that no sum of them overflows.
    pub(super) fn products(&self, rows: Rows<'_>) -> Vec<f32> {
        let width = self.width();
        let mut out = vec![0.0; rows.len() * width];
        match &self.parts[..] {
            [part] => part.panels.scores(Similarity::Dot, rows, &mut out),
            parts => {
                let mut start = 0;
                for (p, part) in parts.iter().enumerate() {
                    let columns = super::columns(rows, p * part.dim, part.dim);
                    let words = part.panels.len();
                    let mut scores = vec![0.0; rows.len() * words];
                    part.panels.scores(Similarity::Dot, Rows::of(&columns, part.dim), &mut scores);
                    for (out, scores) in out.chunks_exact_mut(width).zip(scores.chunks_exact(words)) {
                        out[start..start + words].copy_from_slice(scores);
                    }
                    start += words;
                }
            }
        }
        let limit = self.limit();
        out.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        out
    }

    fn limit(&self) -> f32 {
        f32::MAX / (4 * self.book_count()) as f32
    }

    /// True if tables are of q − c.
    pub(super) fn relative(&self) -> bool {
        self.similarity == Similarity::L2 && self.form.residual()
    }

    /// What a visit's scores begin with.
    pub(super) fn base(&self, probe: &Probe<'_>, query: &[f32], visit: &Visit) -> f32 {
        match (self.similarity, self.form.residual() && probe.centroid.is_some()) {
            // Without centroids all residuals are from the origin.
            (Similarity::L2, false) => dot::<8>(query, query),
            (Similarity::Dot, false) if !self.form.residual() => 0.0,
            _ => visit.coarse,
        }
    }

    /// True if a word's number is a byte of the code.
    fn in_bytes(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 8)
    }

    /// The words' numbers of a packed code, each handed to `take` with the first place of its book.
    fn read(&self, code: &[u8], mut take: impl FnMut(usize, usize)) -> u32 {
        let (mut reader, mut start) = (BitReader::new(code), 0);
        for _ in 0..self.parts.len() {
            for bits in &self.bits {
                take(start, reader.read(u32::from(*bits)) as usize);
                start += 1 << bits;
            }
        }
        reader.read(self.form.norm().bits() as u32)
    }

    /// The vector y of a code.
    fn decode_sum(&self, code: &[u8], row: &mut [f32]) {
        let mut reader = BitReader::new(code);
        let fields = self.bits.iter().cycle().take(self.book_count());
        self.sum(fields.map(|bits| reader.read(u32::from(*bits)) as usize), row);
    }
}

/// Scores by tables.
pub(super) struct TableScanner<'a> {
    codec: &'a Additive,
    queries: Rows<'a>,
    tables: Vec<f32>,
    /// Of the entered list, where tables are of q − c.
    list: Option<Arc<[f32]>>,
    visits: Vec<Visit>,
    bases: Vec<f32>,
    buffers: Buffers,
}

/// What is made anew for each block.
#[derive(Default)]
struct Buffers {
    /// Places of words in a table, entry after entry; none where codes are bytes.
    places: Vec<u32>,
    norms: Vec<f32>,
    table: Vec<f32>,
    scores: Vec<f32>,
    picks: Vec<u32>,
}

impl<'a> TableScanner<'a> {
    pub(super) fn new(codec: &'a Additive, queries: Rows<'a>) -> Self {
        let tables = match codec.relative() {
            false => codec.products(queries),
            true => {
                let mut moved = queries.as_slice().to_vec();
                for row in moved.chunks_exact_mut(codec.dim) {
                    row.iter_mut().zip(&codec.origin).for_each(|(x, o)| *x -= o);
                }
                codec.products(Rows::of(&moved, codec.dim))
            }
        };
        let buffers = Buffers::default();
        TableScanner { codec, queries, tables, list: None, visits: Vec::new(), bases: Vec::new(), buffers }
    }
}

impl Scanner for TableScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        let codec = self.codec;
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
        let base = |visit: &Visit| codec.base(&probe, self.queries.row(visit.query as usize), visit);
        self.bases.clear();
        self.bases.extend(probe.visits.iter().map(base));
        let zeros = vec![0.0; if probe.centroid.is_none() { codec.dim } else { 0 }];
        let centroid = probe.centroid.unwrap_or(&zeros);
        self.list = codec.relative().then(|| {
            codec.lists.get(centroid, || {
                let moved: Vec<f32> = centroid.iter().zip(&codec.origin).map(|(c, o)| c - o).collect();
                codec.products(Rows::of(&moved, codec.dim))
            })
        });
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let TableScanner { codec, tables, list, visits, bases, buffers, .. } = self;
        codec.kernels.prefetch_stream(block.ahead);
        buffers.read(codec, &block);
        let width = codec.width();
        for (v, out) in found.iter_mut().enumerate() {
            let query = visits[first + v].query as usize;
            let table = &tables[query * width..][..width];
            let Buffers { places, norms, table: moved, scores, picks } = buffers;
            let table = match list {
                None => table,
                Some(list) => {
                    let limit = codec.limit();
                    moved.clear();
                    moved.extend(table.iter().zip(&**list).map(|(q, c)| (q - c).clamp(-limit, limit)));
                    moved
                }
            };
            scores.resize(block.n, 0.0);
            match codec.in_bytes() {
                true => sum_bytes(table, block.bytes, codec.book_count(), scores),
                false => sum_places(table, places, codec.book_count(), scores),
            }
            codec.finish(bases[first + v], norms, scores);
            take(codec.kernels, scores, worst[v], live[v], picks, out);
        }
    }
}

impl Additive {
    /// Sums of −⟨q, w⟩ become scores.
    fn finish(&self, base: f32, norms: &[f32], scores: &mut [f32]) {
        let factor = match (self.similarity, self.form.norm()) {
            (Similarity::L2, AdditiveNorm::None) | (Similarity::Dot, _) => 1.0,
            _ => 2.0,
        };
        if norms.is_empty() {
            scores.iter_mut().for_each(|score| *score = (base + factor * *score) + 0.0);
        } else {
            for (score, norm) in scores.iter_mut().zip(norms) {
                *score = (base + (norm + factor * *score)).min(f32::MAX) + 0.0;
            }
        }
    }
}

impl Buffers {
    /// Reads a block for all visits.
    fn read(&mut self, codec: &Additive, block: &Codes<'_>) {
        self.places.clear();
        self.norms.clear();
        let norm = codec.form.norm();
        let with_norms = codec.similarity == Similarity::L2 && norm != AdditiveNorm::None;
        let bytes = codec.form.code_bytes();
        let mut decoded = vec![0.0; codec.dim];
        for code in block.bytes.chunks_exact(bytes).take(block.n) {
            match (codec.in_bytes(), with_norms && norm != AdditiveNorm::FromTables) {
                (true, false) => {}
                (true, true) => {
                    let number = BitReader::new(&code[codec.book_count()..]).read(norm.bits() as u32);
                    self.norms.push(codec.norm.decode(number));
                }
                (false, with_norm) => {
                    let number = codec.read(code, |start, k| self.places.push((start + k) as u32));
                    if with_norm {
                        self.norms.push(codec.norm.decode(number));
                    }
                }
            }
            if with_norms && norm == AdditiveNorm::FromTables {
                codec.decode_sum(code, &mut decoded);
                self.norms.push(dot::<8>(&decoded, &decoded).min(NORM_SQUARED_MAX));
            }
        }
    }
}

/// Adds up the numbers of a table that bytes name: a byte, a book of 256.
fn sum_bytes(table: &[f32], codes: &[u8], books: usize, scores: &mut [f32]) {
    match books {
        4 => sum_some_bytes::<4>(table, codes, scores),
        6 => sum_some_bytes::<6>(table, codes, scores),
        8 => sum_some_bytes::<8>(table, codes, scores),
        16 => sum_some_bytes::<16>(table, codes, scores),
        _ => {
            let stride = codes.len() / scores.len().max(1);
            let table = table.as_chunks::<256>().0;
            for (code, score) in codes.chunks_exact(stride.max(1)).zip(scores) {
                *score = table.iter().zip(code).fold(0.0, |sum, (book, k)| sum + book[usize::from(*k)]);
            }
        }
    }
}

/// The same of `M` books, unrolled.
fn sum_some_bytes<const M: usize>(table: &[f32], codes: &[u8], scores: &mut [f32]) {
    let stride = codes.len() / scores.len().max(1);
    let Some(table) = table.as_chunks::<256>().0.first_chunk::<M>() else { return };
    for (code, score) in codes.chunks_exact(stride.max(1)).zip(scores) {
        let Some(code) = code.first_chunk::<M>() else { return };
        let mut sum = 0.0;
        for m in 0..M {
            sum += table[m][usize::from(code[m])];
        }
        *score = sum;
    }
}

/// Adds up the numbers at `books` places an entry.
fn sum_places(table: &[f32], places: &[u32], books: usize, scores: &mut [f32]) {
    for (places, score) in places.chunks_exact(books).zip(scores) {
        *score = places.iter().fold(0.0, |sum, place| sum + table[*place as usize]);
    }
}

/// Appends what is good enough and live.
fn take(
    kernels: &Kernels,
    scores: &[f32],
    worst: f32,
    live: &[u32],
    picks: &mut Vec<u32>,
    found: &mut Found,
) {
    kernels.select_at_most(scores, worst, picks);
    for &pick in &*picks {
        if live[pick as usize / 32] >> (pick % 32) & 1 == 1 {
            found.push(pick, scores[pick as usize]);
        }
    }
}

/// Scores decoded vectors: ‖(q − c) − y‖².
pub(super) struct DecodingScanner<'a> {
    codec: &'a Additive,
    queries: Rows<'a>,
    /// q − c of each visit.
    targets: Vec<f32>,
    decoded: Vec<f32>,
    scores: Vec<f32>,
    picks: Vec<u32>,
}

impl<'a> DecodingScanner<'a> {
    pub(super) fn new(codec: &'a Additive, queries: Rows<'a>) -> Self {
        let decoded = vec![0.0; TILE * codec.dim];
        DecodingScanner {
            codec,
            queries,
            targets: Vec::new(),
            decoded,
            scores: Vec::new(),
            picks: Vec::new(),
        }
    }
}

impl Scanner for DecodingScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.targets.clear();
        let centroid = probe.centroid.filter(|_| self.codec.form.residual());
        for visit in probe.visits {
            let query = self.queries.row(visit.query as usize);
            match centroid {
                Some(centroid) => self.targets.extend(query.iter().zip(centroid).map(|(q, c)| q - c)),
                None => self.targets.extend_from_slice(query),
            }
        }
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let DecodingScanner { codec, targets, decoded, scores, picks, .. } = self;
        codec.kernels.prefetch_stream(block.ahead);
        let (dim, n) = (codec.dim, block.n);
        let targets = &targets[first * dim..(first + worst.len()) * dim];
        scores.resize(worst.len() * n, 0.0);
        let tile_bytes = TILE * codec.form.code_bytes();
        for (start, codes) in (0..n).step_by(TILE).zip(block.bytes.chunks(tile_bytes)) {
            let count = TILE.min(n - start);
            let decoded = &mut decoded[..count * dim];
            for (code, row) in codes.chunks_exact(codec.form.code_bytes()).zip(decoded.chunks_exact_mut(dim))
            {
                codec.decode_sum(code, row);
            }
            for (target, scores) in targets.chunks_exact(dim).zip(scores.chunks_exact_mut(n)) {
                codec.kernels.scan_rows(Similarity::L2, target, decoded, &mut scores[start..start + count]);
            }
        }
        for (v, out) in found.iter_mut().enumerate().take(worst.len()) {
            let scores = &mut scores[v * n..][..n];
            scores.iter_mut().for_each(|score| *score = score.min(f32::MAX));
            take(codec.kernels, scores, worst[v], live[v], picks, out);
        }
    }
}
