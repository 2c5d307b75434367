//! The product code: a vector's residual r = x − c, cut into parts, each the number of the nearest point of its sub-space.
//!
//! ```text
//! entry    code bytes, FAISS's (math/product.rs) | those of the refinement, if there is one | bias, f32, if there is one
//! y        the vector of the code's points: of both codes the sum
//! L2       ‖q − x‖² ≈ ‖q − c − y‖² = ‖q − c‖² + b − 2⟨q, y⟩          b = ‖y‖² + 2⟨c, y⟩, from f64
//! product  −⟨q, x⟩  ≈ −⟨q, c⟩ − ⟨q, y⟩                               no bias
//! raw      y stands for x itself. L2: Σ over the parts of ‖q_j − y_j‖², no bias; of two codes ‖q‖² + b − 2⟨q, y⟩ with
//!          b = ‖y‖². Product: −⟨q, y⟩
//! ```
//! FAISS adds up three tables for every query and list (‖q − c‖², what depends on list and code, what depends on query
//! and code) and keeps the second for all lists, nlist · m · 2^bits floats. Here that second term stands behind each code,
//! in the 4 bytes that a row number is shorter than FAISS's id: one table a query, ⟨q, points⟩, serves all lists, a list costs
//! nothing to enter, and no table is precomputed, bounded, or rebuilt when an index is opened.
//!
//! **A refinement** (FAISS's `IVFPQR`) is a second product quantizer, of what the first misses: r − y₁. FAISS looks for
//! k·k_factor candidates by the first code and scores these again by both. Here both take part in every score, which costs m₂
//! look-ups an entry, misses nobody, and gives a score that depends on nothing but query and entry.
//!
//! **Polysemous codes** ([`Codec::filtered`]): entries of which `ht` bits or more differ from the code of the query itself
//! (of its residual in the list) are passed over, as in FAISS. A refinement's bits do not count.
//!
//! **Bits.** 8 have kernels of their own (`kernel/lookup.rs`), and a sieve before them where tables of bytes are cheap to look into
//! (`kernel/sieve.rs`). Other codes are unpacked once a block for all queries. Up to
//! 10 bits a query has a table; beyond that a list has fewer entries than a sub-space has points, and the products are computed
//! of the points met. All three sum in one order: the even sub-spaces, the odd ones, the two sums.

use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Training, Visit};
use crate::encoding::{ProductQuantizer, RefinedProduct};
use crate::kernel::{Found, Kernels, Lookup, Sieve, SieveTable, Similarity, settle};
use crate::layout::Layout;
use crate::math::polysemous;
use crate::math::product::{self, Effort, ProductBook, unpack};
use crate::progress::{Observer, Tick};
use crate::{Result, Rows};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::ControlFlow;

/// Tables are made for a query up to so many bits.
const TABLE_BITS_MAX: usize = 10;

/// Bytes of the tables that a scanner keeps; with more queries than that each table is made when it is needed.
const TABLES_BYTES: usize = 128 << 20;

/// Bytes of tables that stay in the second-level cache while all lists pass by.
const BATCH_BYTES: usize = 1 << 20;

/// Entries that one query is scored with in one call, while what comes next is fetched.
const ENTRIES_A_STEP: usize = 32;

/// Rows that one task of training encodes.
const TASK_ROWS: usize = 1024;

/// What a product code is made of, whichever description it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stages {
    /// m and bits.
    first: (usize, usize),
    refinement: Option<(usize, usize)>,
    residual: bool,
    polysemous: bool,
}

impl From<ProductQuantizer> for Stages {
    fn from(pq: ProductQuantizer) -> Self {
        let ProductQuantizer { m, bits, residual, polysemous } = pq;
        Stages { first: (m, bits), refinement: None, residual, polysemous }
    }
}

impl From<RefinedProduct> for Stages {
    fn from(pqr: RefinedProduct) -> Self {
        let RefinedProduct { m, bits, refine_m, refine_bits, residual } = pqr;
        let refinement = Some((refine_m, refine_bits));
        Stages { first: (m, bits), refinement, residual, polysemous: false }
    }
}

impl Stages {
    /// Refuses what cannot be for `dim` components.
    pub(crate) fn check(&self, dim: usize) -> Result<()> {
        self.each().try_for_each(|(m, bits)| product::check(dim, m, bits))
    }

    /// The most rows that training looks at.
    pub(crate) fn training_rows(&self) -> usize {
        self.each().map(|(_, bits)| ProductBook::training_rows(bits)).max().unwrap_or(0)
    }

    fn each(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        std::iter::once(self.first).chain(self.refinement)
    }
}

/// A product code.
pub(crate) struct Product {
    similarity: Similarity,
    residual: bool,
    /// One, or the refinement's too.
    books: Vec<ProductBook>,
    kernels: &'static Kernels,
}

impl Product {
    /// Trains the quantizers on the sample.
    pub(crate) fn train(
        stages: impl Into<Stages>,
        training: &Training<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let (stages, rows) = (stages.into(), training.sample.rows);
        stages.check(rows.dim())?;
        let mut product = Product::of(stages, training.similarity, Vec::new());
        let mut left = product.relative(&training.sample).into_owned();
        let count = stages.each().count() as u64;
        for (stage, (m, bits)) in stages.each().enumerate() {
            let rows = Rows::of(&left, rows.dim());
            // The stages report one after the other, in thousandths.
            let mut report = |tick: Tick| {
                let done = 1000 * stage as u64 + 1000 * tick.done / tick.total.max(1);
                match observer.tick("encoder", done, 1000 * count) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            };
            let seed = training.seed.wrapping_add(stage as u64);
            let effort = Effort { seed, iterations: training.iterations, rows: training.rows };
            let book = ProductBook::train(rows, m, bits, effort, &mut Observer::new(&mut report))?;
            let book = if stages.polysemous { polysemous::reorder(&book, seed) } else { book };
            if stage as u64 + 1 < count {
                subtract(&book, &mut left);
            }
            product.books.push(book);
        }
        observer.tick("encoder", 1000 * count, 1000 * count)?;
        Ok(product)
    }

    /// The code that [`Codec::tables`] were stored of, or why it cannot be.
    pub(crate) fn from_tables(
        stages: impl Into<Stages>,
        dim: usize,
        similarity: Similarity,
        tables: &[u8],
    ) -> Result<Self, String> {
        let stages = stages.into();
        stages.check(dim).map_err(|error| error.to_string())?;
        let (mut left, mut books) = (tables, Vec::new());
        for (m, bits) in stages.each() {
            let bytes = dim.checked_mul(4 << bits).and_then(|bytes| left.split_at_checked(bytes));
            let Some((own, rest)) = bytes else {
                return Err(format!("{} bytes of points, too few", tables.len()));
            };
            books.push(ProductBook::from_bytes(dim, m, bits, own)?);
            left = rest;
        }
        match left {
            [] => Ok(Product::of(stages, similarity, books)),
            _ => Err(format!("{} bytes of points, too many", tables.len())),
        }
    }

    fn of(stages: Stages, similarity: Similarity, books: Vec<ProductBook>) -> Self {
        Product { similarity, residual: stages.residual, books, kernels: Kernels::get() }
    }

    /// A scanner that passes over entries whose code has `ht` bits or more other than the query's own; with 0 over none.
    fn filtered_scanner<'a>(&'a self, queries: Rows<'a>, ht: u32) -> Box<dyn Scanner + 'a> {
        Box::new(ProductScanner::new(self, queries, ht))
    }

    /// The rows as they are encoded.
    fn relative<'a>(&self, rows: &Assigned<'a>) -> Cow<'a, [f32]> {
        if self.residual { rows.residuals() } else { Cow::Borrowed(rows.rows.as_slice()) }
    }

    fn dim(&self) -> usize {
        self.books[0].dim()
    }

    /// Sub-spaces of all stages.
    fn m(&self) -> usize {
        self.books.iter().map(ProductBook::m).sum()
    }

    /// Bytes of an entry without the bias.
    fn code_bytes(&self) -> usize {
        self.books.iter().map(ProductBook::code_bytes).sum()
    }

    fn is_biased(&self) -> bool {
        self.similarity == Similarity::L2 && (self.residual || self.books.len() > 1)
    }

    fn entry_bytes(&self) -> usize {
        self.code_bytes() + if self.is_biased() { 4 } else { 0 }
    }

    /// True if a code's bytes are its indices.
    fn is_bytes(&self) -> bool {
        self.books.iter().all(|book| book.bits() == 8)
    }

    /// True if entries are sieved before they are scored.
    fn is_sieved(&self) -> bool {
        self.is_bytes() && self.kernels.sieve_pays()
    }

    fn has_tables(&self) -> bool {
        self.books.iter().all(|book| book.bits() <= TABLE_BITS_MAX)
    }

    fn table_len(&self) -> usize {
        self.books.iter().map(|book| book.m() * book.ksub()).sum()
    }

    /// What is looked up for each point: of a part's products or its distances.
    fn values(&self) -> (Similarity, f32) {
        match (self.similarity, self.is_biased()) {
            (Similarity::L2, true) => (Similarity::Dot, -2.0),
            (Similarity::L2, false) => (Similarity::L2, 1.0),
            (Similarity::Dot, _) => (Similarity::Dot, -1.0),
        }
    }

    fn floor(&self) -> f32 {
        if self.similarity == Similarity::L2 { 0.0 } else { f32::MIN }
    }

    /// What a query's scores in a list begin with.
    fn base(&self, query: &[f32], visit: &Visit, centroid: Option<&[f32]>) -> f32 {
        match self.similarity {
            _ if self.residual && centroid.is_some() => visit.coarse,
            Similarity::L2 if self.is_biased() => squared(query) as f32,
            _ => 0.0,
        }
    }

    fn table(&self, query: &[f32], table: &mut [f32]) {
        let (similarity, factor) = self.values();
        let mut left = table;
        for book in &self.books {
            let (own, rest) = left.split_at_mut(book.m() * book.ksub());
            book.table(similarity, query, factor, own);
            left = rest;
        }
    }

    /// The indices of an entry, all stages'.
    fn unpack(&self, entry: &[u8], indices: &mut [u16]) {
        let (mut entry, mut indices) = (entry, indices);
        for book in &self.books {
            let (code, code_rest) = entry.split_at(book.code_bytes());
            let (own, own_rest) = indices.split_at_mut(book.m());
            unpack(code, book.bits(), own);
            (entry, indices) = (code_rest, own_rest);
        }
    }

    /// y of an entry.
    fn decoded(&self, entry: &[u8], y: &mut [f32]) {
        let (code, rest) = entry.split_at(self.books[0].code_bytes());
        self.books[0].decode(code, y);
        if let Some(book) = self.books.get(1) {
            let mut more = vec![0.0; y.len()];
            book.decode(&rest[..book.code_bytes()], &mut more);
            y.iter_mut().zip(more).for_each(|(y, more)| *y += more);
        }
    }

    /// What stands behind a code; `centroid` is the origin if there is none.
    fn bias(&self, y: &[f32], centroid: Option<&[f32]>) -> f32 {
        let product: f64 = match centroid.filter(|_| self.residual) {
            Some(centroid) => centroid.iter().zip(y).map(|(c, y)| f64::from(*c) * f64::from(*y)).sum(),
            None => 0.0,
        };
        ((squared(y) + 2.0 * product) as f32).clamp(f32::MIN, f32::MAX)
    }
}

/// ‖v‖².
fn squared(v: &[f32]) -> f64 {
    v.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// Takes from each row what the book's code of it says.
fn subtract(book: &ProductBook, rows: &mut [f32]) {
    rows.par_chunks_mut(TASK_ROWS * book.dim()).for_each(|rows| {
        let mut codes = Vec::new();
        book.encode(Rows::of(rows, book.dim()), &mut codes);
        subtract_codes(book, &codes, rows);
    });
}

/// Takes from each row what its code says.
fn subtract_codes(book: &ProductBook, codes: &[u8], rows: &mut [f32]) {
    let mut y = vec![0.0; book.dim()];
    for (row, code) in rows.chunks_exact_mut(book.dim()).zip(codes.chunks_exact(book.code_bytes())) {
        book.decode(code, &mut y);
        row.iter_mut().zip(&y).for_each(|(r, y)| *r -= y);
    }
}

impl Codec for Product {
    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.entry_bytes() }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    /// As many as their tables stay in cache, while the lists pass by: where there is a sieve, its tables.
    fn batch(&self) -> usize {
        if !self.has_tables() {
            return usize::MAX;
        }
        let value = if self.is_sieved() { 1 } else { 4 };
        (BATCH_BYTES / (value * self.table_len())).clamp(8, 4096)
    }

    fn filtered<'a>(&'a self, queries: Rows<'a>, bits: u32) -> Option<Box<dyn Scanner + 'a>> {
        Some(self.filtered_scanner(queries, bits))
    }

    fn tables(&self) -> Vec<u8> {
        self.books.iter().flat_map(ProductBook::to_bytes).collect()
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let (dim, n) = (self.dim(), rows.rows.len());
        let mut left = self.relative(&rows);
        let mut packed = Vec::with_capacity(self.books.len());
        for (stage, book) in self.books.iter().enumerate() {
            let mut own = Vec::new();
            book.encode(Rows::of(&left, dim), &mut own);
            if stage + 1 < self.books.len() {
                subtract_codes(book, &own, left.to_mut());
            }
            packed.push((own, book.code_bytes()));
        }
        codes.reserve(n * self.entry_bytes());
        let mut y = vec![0.0; dim];
        for i in 0..n {
            let start = codes.len();
            packed.iter().for_each(|(own, size)| codes.extend_from_slice(&own[i * size..(i + 1) * size]));
            if self.is_biased() {
                self.decoded(&codes[start..], &mut y);
                let centroid = rows.centroids.map(|centroids| centroids.row(rows.lists[i] as usize));
                codes.extend_from_slice(&self.bias(&y, centroid).to_le_bytes());
            }
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        self.decoded(code, row);
        if let Some(centroid) = centroid.filter(|_| self.residual) {
            row.iter_mut().zip(centroid).for_each(|(x, c)| *x += c);
        }
    }

    fn residual(&self, centroid: &[f32], code: &[u8]) -> f64 {
        let mut y = vec![0.0; self.dim()];
        self.decoded(code, &mut y);
        match self.residual {
            true => squared(&y),
            false => y.iter().zip(centroid).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum(),
        }
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        self.filtered_scanner(queries, 0)
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

struct ProductScanner<'a> {
    codec: &'a Product,
    queries: Rows<'a>,
    /// Bits that a code must differ in to be passed over; 0 if none is.
    ht: u32,
    /// A table for each query, or room for one, or nothing.
    tables: Vec<f32>,
    /// True if there is one for each.
    kept: bool,
    /// Of each query, where sieving pays.
    sieves: Vec<SieveTable>,
    visits: Vec<Visit>,
    bases: Vec<f32>,
    /// The code of each visit's query, of the first stage; if entries are filtered by it.
    own: Vec<u8>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    scores: Vec<f32>,
    /// Which entries the scores are of, if not of all.
    picks: Vec<u32>,
    chosen: Vec<u32>,
    /// The indices of a block's entries, where these are not bytes.
    indices: Vec<u16>,
    /// Its code bytes as the sieve takes them.
    columns: Vec<u8>,
}

impl<'a> ProductScanner<'a> {
    fn new(codec: &'a Product, queries: Rows<'a>, ht: u32) -> Self {
        let len = if codec.has_tables() { codec.table_len() } else { 0 };
        let kept = queries.len().saturating_mul(4 * len) <= TABLES_BYTES;
        let mut tables = vec![0.0; if kept { queries.len() * len } else { len }];
        if kept && len > 0 {
            for (query, table) in queries.iter().zip(tables.chunks_exact_mut(len)) {
                codec.table(query, table);
            }
        }
        let sieves = match kept && codec.is_sieved() {
            true => tables.chunks_exact(len).map(|table| codec.kernels.sieve_table(table)).collect(),
            false => Vec::new(),
        };
        ProductScanner {
            codec,
            queries,
            ht,
            tables,
            kept,
            sieves,
            visits: Vec::new(),
            bases: Vec::new(),
            own: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// The codes of the queries in a list.
    fn encode(&mut self, centroid: Option<&[f32]>) {
        self.own.clear();
        let mut rows = Vec::with_capacity(self.visits.len() * self.queries.dim());
        for visit in &self.visits {
            let query = self.queries.row(visit.query as usize);
            match centroid.filter(|_| self.codec.residual) {
                Some(centroid) => rows.extend(query.iter().zip(centroid).map(|(q, c)| q - c)),
                None => rows.extend_from_slice(query),
            }
        }
        self.codec.books[0].encode(Rows::of(&rows, self.queries.dim()), &mut self.own);
    }
}

impl Scanner for ProductScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
        self.bases.clear();
        let (codec, queries) = (self.codec, self.queries);
        let base = |visit: &Visit| codec.base(queries.row(visit.query as usize), visit, probe.centroid);
        self.bases.extend(probe.visits.iter().map(base));
        if self.ht > 0 {
            self.encode(probe.centroid);
        }
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let ProductScanner { codec, queries, ht, tables, kept, sieves, visits, bases, own, buffers } = self;
        let Buffers { scores, picks, chosen, indices, columns } = buffers;
        if block.n == 0 {
            return;
        }
        if !codec.is_bytes() {
            codec.unpack_block(block, indices);
        }
        // One query goes through the block while what comes next is fetched; several find it fetched.
        let alone = worst.len() == 1 && *ht == 0 && codec.is_bytes();
        if !alone {
            codec.kernels.prefetch(block.ahead);
        }
        columns.clear();
        for v in 0..worst.len() {
            let number = visits[first + v].query as usize;
            let query = queries.row(number);
            let len = if *kept { tables.len() / queries.len() } else { tables.len() };
            if !*kept {
                codec.table(query, tables);
            }
            let table = if *kept { &tables[number * len..(number + 1) * len] } else { &tables[..] };
            let pass = Pass { codec, block, query, table, base: bases[first + v], indices };
            let sieve = sieves.get(number).filter(|table| table.is_usable() && worst[v] < f32::MAX);
            let filtered = *ht > 0 || sieve.is_some();
            if *ht > 0 {
                let size = codec.books[0].code_bytes();
                let own = &own[(first + v) * size..][..size];
                codec.kernels.hamming_below(own, block.bytes, codec.entry_bytes(), *ht, picks);
                picks.retain(|&pick| live[v][pick as usize / 32] >> (pick % 32) & 1 == 1);
                scores.resize(picks.len(), 0.0);
                pass.score_some(picks, scores);
            } else if let Some(table) = sieve {
                let ahead = if alone { block.ahead } else { &[] };
                let lookup = pass.lookup();
                // For one query the entries are turned on the way.
                if columns.is_empty() && v + 1 < worst.len() {
                    codec.kernels.sieve_columns(&lookup, columns);
                }
                let sieve = Sieve { table, worst: worst[v], live: live[v], ahead, columns };
                codec.kernels.sieve(&sieve, &lookup, picks);
                scores.resize(picks.len(), 0.0);
                pass.score_some(picks, scores);
            } else {
                scores.resize(block.n, 0.0);
                if alone { pass.score_ahead(scores) } else { pass.score_all(scores) }
            }
            codec.kernels.select_at_most(scores, worst[v], chosen);
            for &at in &*chosen {
                let entry = if filtered { picks[at as usize] } else { at };
                if filtered || live[v][entry as usize / 32] >> (entry % 32) & 1 == 1 {
                    found[v].push(entry, scores[at as usize]);
                }
            }
        }
    }
}

impl Product {
    fn unpack_block(&self, block: Codes<'_>, indices: &mut Vec<u16>) {
        let m = self.m();
        indices.resize(block.n * m, 0);
        let entries = block.bytes.chunks_exact(self.entry_bytes());
        for (entry, indices) in entries.zip(indices.chunks_exact_mut(m)) {
            self.unpack(&entry[..self.code_bytes()], indices);
        }
    }
}

/// One query in one block.
struct Pass<'a> {
    codec: &'a Product,
    block: Codes<'a>,
    query: &'a [f32],
    /// Empty where there are too many points.
    table: &'a [f32],
    base: f32,
    indices: &'a [u16],
}

impl Pass<'_> {
    fn lookup(&self) -> Lookup<'_> {
        Lookup {
            tables: self.table,
            entries: self.block.bytes,
            entry_bytes: self.codec.entry_bytes(),
            biased: self.codec.is_biased(),
            base: self.base,
            floor: self.codec.floor(),
        }
    }

    fn score_all(&self, scores: &mut [f32]) {
        if self.codec.is_bytes() {
            return self.codec.kernels.lookup(&self.lookup(), scores);
        }
        scores.iter_mut().enumerate().for_each(|(i, score)| *score = self.score(i));
    }

    fn score_some(&self, picks: &[u32], scores: &mut [f32]) {
        if self.codec.is_bytes() {
            return self.codec.kernels.lookup_picked(&self.lookup(), picks, scores);
        }
        picks.iter().zip(scores).for_each(|(pick, score)| *score = self.score(*pick as usize));
    }

    /// [`Pass::score_all`] of bytes, while what comes next is fetched a piece with each step.
    fn score_ahead(&self, scores: &mut [f32]) {
        let (lookup, ahead) = (self.lookup(), self.block.ahead);
        let steps = scores.len().div_ceil(ENTRIES_A_STEP);
        let mut ahead = ahead.chunks(ahead.len().div_ceil(steps).max(1));
        let entries = self.block.bytes.chunks(ENTRIES_A_STEP * lookup.entry_bytes);
        for (entries, scores) in entries.zip(scores.chunks_mut(ENTRIES_A_STEP)) {
            self.codec.kernels.prefetch_stream(ahead.next().unwrap_or_default());
            self.codec.kernels.lookup(&Lookup { entries, ..lookup }, scores);
        }
    }

    /// The score of an entry whose indices are not bytes.
    fn score(&self, i: usize) -> f32 {
        let codec = self.codec;
        let m = codec.m();
        let mut indices = &self.indices[i * m..(i + 1) * m];
        let (mut sums, mut j, mut at) = ([0.0f32; 2], 0, 0);
        for book in &codec.books {
            let (own, rest) = indices.split_at(book.m());
            indices = rest;
            for (part, &k) in own.iter().enumerate() {
                sums[j % 2] += match self.table.get(at + usize::from(k)) {
                    Some(value) => *value,
                    None => self.value(book, part, usize::from(k)),
                };
                j += 1;
                at += book.ksub();
            }
        }
        let entry = &self.block.bytes[i * codec.entry_bytes()..][..codec.entry_bytes()];
        let bias = match (codec.is_biased(), entry.last_chunk()) {
            (true, Some(bias)) => f32::from_le_bytes(*bias),
            _ => 0.0,
        };
        settle(self.base, bias, sums[0] + sums[1], codec.floor())
    }

    /// What a table would hold, to the bit.
    fn value(&self, book: &ProductBook, j: usize, k: usize) -> f32 {
        let part = &self.query[j * book.dsub()..][..book.dsub()];
        let pairs = part.iter().zip(book.point(j, k));
        let (similarity, factor) = self.codec.values();
        factor
            * match similarity {
                Similarity::L2 => pairs.fold(0.0f32, |sum, (q, p)| sum + (q - p) * (q - p)),
                Similarity::Dot => pairs.fold(0.0f32, |sum, (q, p)| sum + q * p),
            }
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
