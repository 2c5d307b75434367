//! Verifying: every checksum and every invariant of an index, reporting all that is wrong.
//!
//! The invariants: lists hold each live row exactly once, or in an index that spills twice, in two lists and as the same
//! vector; where rows share entries, no list has a code twice, and each live row is that of an entry or in the chain of
//! one; slots, ids and map say the same of it; free rows are the others, and no kept row is theirs; counts in header, directory and tables agree; no stray value in
//! any table; all vectors finite, and kept rows the same as their codes.
//!
//! Out of reach are values that are whole, in their place, and agree with all others: what only a header knows, its
//! search defaults, a metric of the same kind, a `next_id` or a change number that is too high.

use super::calibrate::Calibration;
use super::kept::KeptCheck;
use super::model::{KeptColumn, Model};
use super::train::decode_params;
use crate::guard::guarded;
use crate::storage::block::Geometry;
use crate::storage::column::{ABSENT, Column};
use crate::storage::format::{Header, ListEntry, State};
use crate::storage::ids::{KEY_BYTES_MAX, Slot, Slots, decode_id, ids_column};
use crate::storage::lists::{check_digest, directory};
use crate::storage::sections::{BESIDE, Section, chunks};
use crate::storage::twins::{Twin, twins_column};
use crate::storage::{self, ReadBytes, ReadTables, Stage};
use crate::{Error, Observer, Result};
use redb::{ReadableTable, ReadableTableMetadata};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Vectors whose codes were read and checked.
    pub rows: u64,
    /// Blocks read.
    pub blocks: u64,
    /// What is wrong; at most 1,000 of them are kept.
    pub problems: Vec<Problem>,
    /// How many there are in all.
    pub problem_count: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The table it is in.
    pub table: String,
    /// The key, row or id it is about.
    pub key: u64,
    /// What is wrong.
    pub what: String,
}

/// How far a verification goes. Below both is redb's own check of a file: [`Store::verify_pages`](crate::Store::verify_pages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyDepth {
    /// The header and what training made: checksums, and what they say of each other. Takes no longer for more vectors.
    Model,
    /// Every value of every table, and every invariant.
    #[default]
    Values,
}

const PROBLEMS_KEPT: usize = 1000;

impl VerifyReport {
    /// True if nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    pub(crate) fn note(&mut self, table: &str, key: u64, what: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_KEPT {
            self.problems.push(Problem { table: table.into(), key, what: what.into() });
        }
    }

    pub(crate) fn note_error(&mut self, e: Error) {
        match e {
            Error::Corrupt { table, key, what } => self.note(&table, key, what),
            e => self.note("(redb)", 0, e.to_string()),
        }
    }

    /// Runs one step; damage that stops it is a problem. Cancellation is none, nor that the medium cannot be read now.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match guarded(|| step(self)) {
            Err(e @ (Error::Cancelled | Error::Io(_) | Error::NeedsReopen)) => Err(e),
            Err(e) => {
                self.note_error(e);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "table {}, key {}: {}", self.table, self.key, self.what)
    }
}

/// Checks an index.
pub(crate) fn verify(
    txn: &redb::ReadTransaction,
    index: &str,
    depth: VerifyDepth,
    observer: &mut Observer<'_>,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let mut opened = None;
    report.step(|report| {
        let header = storage::read_header(txn, index)?;
        let tables = storage::open_read(txn, index)?;
        let mut model = Model::load(&tables, &header, None);
        check_header(report, txn, &tables, &header)?;
        if let Err(e @ Error::Corrupt { .. }) = model {
            // Without a tree the rest can still be looked at.
            model = Ok(Model::load_damaged(&tables, &header)?);
            report.note_error(e);
        }
        opened = Some((tables, header, model?));
        Ok(())
    })?;
    let Some((tables, header, model)) = opened else {
        // An index that is not there, or of a later version, is no damage.
        return match storage::read_header(txn, index) {
            Err(e @ (Error::UnknownIndex { .. } | Error::NewerVersion { .. })) => Err(e),
            _ => Ok(report),
        };
    };
    let mut check = Check {
        tables: &tables,
        header: &header,
        kept: KeptCheck::new(&model),
        model: &model,
        next_row: header.next_row,
        slots: Vec::new(),
        second: Vec::new(),
        sums: Vec::new(),
        second_sums: Vec::new(),
        same: Vec::new(),
        entries: 0,
        codes: HashSet::new(),
        hasher: RandomState::new(),
    };
    report.step(|report| check.model(report))?;
    if depth == VerifyDepth::Model {
        return Ok(report);
    }
    report.step(|report| check.rows_in_use(report))?;
    report.step(|report| check.lists(report, observer))?;
    report.step(|report| check.twin_pages(report))?;
    report.step(|report| check.chains(report))?;
    report.step(|report| check.slots(report))?;
    report.step(|report| check.ids(report))?;
    report.step(|report| check.map(report))?;
    report.step(|report| check.free(report))?;
    report.step(|report| check.keys(report))?;
    report.step(|report| check.kept_rows(report))?;
    Ok(report)
}

/// What the header says that no other table is needed for.
fn check_header(
    report: &mut VerifyReport,
    txn: &redb::ReadTransaction,
    tables: &ReadTables,
    header: &Header,
) -> Result<()> {
    let name = &tables.names.meta;
    if header.writer_open {
        report.note(name, 0, "a change was committed half-way");
    }
    if storage::catalog_uuid(txn, &tables.names.index)? != Some(header.uuid) {
        report.note(name, 0, "the catalog knows the index by another uuid");
    }
    let loading = header.state == State::Loading;
    if header.load_rows != if loading { header.ntotal } else { 0 } {
        report.note(name, 0, format!("{} rows loaded, {} there", header.load_rows, header.ntotal));
    }
    if header.ntotal > u64::from(header.next_row) {
        report.note(name, 0, format!("{} rows under {} numbers", header.ntotal, header.next_row));
    }
    if tables.meta.len()? != 1 {
        report.note(name, 0, format!("{} values, one is enough", tables.meta.len()?));
    }
    Ok(())
}

struct Check<'a> {
    tables: &'a ReadTables,
    header: &'a Header,
    model: &'a Model,
    kept: Option<KeptCheck<'a>>,
    /// The header's, if there are pages for so many rows.
    next_row: u32,
    /// Where the lists say each row is.
    slots: Vec<Option<Slot>>,
    /// And again, where rows stand in two lists.
    second: Vec<Option<Slot>>,
    /// The checksum of each row's first code, where the two are equal.
    same: Vec<u32>,
    /// Rows that an entry names.
    entries: u64,
    /// Where rows of equal codes share an entry, what the codes of the list come to.
    codes: HashSet<u64>,
    hasher: RandomState,
    /// What each row's code comes to, if kept rows can be compared with codes; then what the coarser kept row should.
    sums: Vec<u32>,
    /// What the second code of each row comes to.
    second_sums: Vec<u32>,
}

impl Check<'_> {
    fn geometry(&self) -> &Geometry {
        &self.model.geometry
    }

    fn live(&self) -> u64 {
        self.slots.iter().flatten().count() as u64
    }

    /// Makes room for as many rows as the header says, but not on its word alone: every row number that was ever
    /// used has a page of ids.
    fn rows_in_use(&mut self, report: &mut VerifyReport) -> Result<()> {
        let last =
            guarded(|| Ok(self.tables.ids.last()?.map_or(0, |(page, _)| page.value().saturating_add(1))));
        let pages = match last {
            Ok(pages) => pages,
            Err(e @ (Error::Io(_) | Error::NeedsReopen)) => return Err(e),
            Err(e) => {
                report.note_error(e);
                // As many as redb has counted, wherever they are.
                self.tables.ids.len()?
            }
        };
        let most = pages.saturating_mul(ids_column().per_page().into());
        if u64::from(self.next_row) > most {
            let what = format!("row numbers up to {}, pages of ids for {most}", self.next_row);
            report.note(&self.tables.names.ids, 0, format!("{}: {what}", self.tables.names.meta));
            self.next_row = most as u32;
        }
        self.slots.resize(self.next_row as usize, None);
        if self.kept.is_some() {
            self.sums.resize(self.next_row as usize, 0);
        }
        if self.model.spills() {
            self.second.resize(self.next_row as usize, None);
            if self.kept.is_some() {
                self.second_sums.resize(self.next_row as usize, 0);
            }
            if self.model.code_element().is_some() {
                self.same.resize(self.next_row as usize, 0);
            }
        }
        Ok(())
    }

    /// What training left behind besides the centroids, which the model holds already.
    fn model(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, name) = (self.tables, &self.tables.names.model);
        let mut expected = 0;
        for (section, wanted) in self.model.sections(self.header.trained) {
            let bytes = tables.read_section(section)?;
            if bytes.is_some() != wanted {
                report.note(name, (section as u64) << 32, format!("{section:?} there: {}", bytes.is_some()));
            }
            let Some(bytes) = bytes else { continue };
            expected += chunks(bytes.len()) as u64;
            if section == Section::Training
                && let Err(e) = decode_params(&bytes)
            {
                report.note(name, (section as u64) << 32, e.to_string());
            }
        }
        if let Some(bytes) = tables.read_section(Section::Calibration)? {
            expected += chunks(bytes.len()) as u64;
            if let Err(what) = Calibration::decode(&bytes) {
                report.note(name, (Section::Calibration as u64) << 32, what);
            }
        }
        for section in BESIDE {
            if let Some(bytes) = tables.read_section(section)? {
                expected += chunks(bytes.len()) as u64;
            }
        }
        let found = tables.model.len()?;
        if found != expected {
            report.note(name, 0, format!("{found} values, the sections need {expected}"));
        }
        Ok(())
    }

    fn lists(&mut self, report: &mut VerifyReport, observer: &mut Observer<'_>) -> Result<()> {
        let (tables, header) = (self.tables, self.header);
        let names = &tables.names;
        let lists = header.first_list..header.first_list.saturating_add(header.nlist);
        self.directory(report, lists.clone())?;
        let entries = tables.list_entries(lists.clone())?;
        let total: u64 = entries.iter().map(|entry| u64::from(entry.n)).sum();
        let expected = header.entries(self.model.places());
        if total != expected {
            let what = format!("the lists hold {total} entries, {} says {expected}", names.meta);
            report.note(&names.lists, 0, what);
        }
        let (mut blocks, mut tails) = (0u64, 0u64);
        for (list, entry) in lists.zip(&entries) {
            let (mut digest, mut read) = (0, 0);
            self.list_entry(report, list, entry);
            self.codes.clear();
            for block in 0..self.geometry().blocks(entry.n) {
                // A damaged count may call for blocks without end.
                if report.problem_count >= PROBLEMS_KEPT as u64 && total > expected {
                    break;
                }
                let in_tails = self.geometry().in_tails(self.geometry().entries(entry.n, block));
                *(if in_tails { &mut tails } else { &mut blocks }) += 1;
                report.step(|report| {
                    digest ^= self.block(report, list, entry.n, block)?;
                    read += 1;
                    Ok(())
                })?;
            }
            if read == self.geometry().blocks(entry.n) {
                report.step(|_| check_digest(&names.blocks, list, entry, digest))?;
            }
            observer.tick("verify", report.rows.min(header.ntotal), header.ntotal)?;
        }
        for (name, table, expected) in
            [(&names.blocks, &tables.blocks, blocks), (&names.tails, &tables.tails, tails)]
        {
            let found = table.len()?;
            if found != expected {
                report.note(name, 0, format!("{found} values, {} needs {expected}", names.lists));
            }
        }
        Ok(())
    }

    /// The pages of the directory, and their entries of lists that the model does not have.
    fn directory(&self, report: &mut VerifyReport, lists: Range<u32>) -> Result<()> {
        let (table, name) = (&self.tables.lists, &self.tables.names.lists);
        let per_page = directory().per_page();
        pages(report, table, name, directory().page_of(lists.start)..lists.end.div_ceil(per_page))?;
        let first = directory().page_of(lists.start) * per_page;
        let end = lists.end.div_ceil(per_page).saturating_mul(per_page);
        for strays in [first..lists.start, lists.end..end] {
            if strays.is_empty() {
                continue;
            }
            directory().for_each(table, name, strays, |list, bytes| {
                if bytes.iter().any(|byte| *byte != ABSENT) {
                    report.note(name, list.into(), "an entry of a list that the model does not have");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn list_entry(&self, report: &mut VerifyReport, list: u32, entry: &ListEntry) {
        let (name, header) = (&self.tables.names.lists, self.header);
        let (seq, of) = (entry.seq, header.seq);
        if seq > of {
            report.note(name, list.into(), format!("of change {seq}, {} is of {of}", self.tables.names.meta));
        }
        if seq == of && seq > 0 && entry.nonce != header.nonce {
            let what = format!("of another change {seq} than {}", self.tables.names.meta);
            report.note(name, list.into(), what);
        }
        if !entry.residual.is_finite() {
            report.note(name, list.into(), format!("a residual of {}", entry.residual));
        }
    }

    fn block(&mut self, report: &mut VerifyReport, list: u32, n: u32, block: u32) -> Result<u32> {
        let (model, tables) = (self.model, self.tables);
        let geometry = self.model.geometry;
        let (_, name) = tables.home(&geometry, n, block);
        let mut row_vector = vec![0.0; model.inner_dim()];
        let mut crc = 0;
        tables.read_block(&geometry, list, n, block, |b| {
            crc = b.crc;
            report.blocks += 1;
            let mut codes = Vec::new();
            geometry.layout.unpack(b.run.codes, b.run.rows.len(), &mut codes);
            let codes = codes.chunks_exact(geometry.layout.code_bytes());
            let centroid = model.centroid(list - self.header.first_list);
            for ((i, row), code) in b.run.rows.iter().enumerate().zip(codes) {
                let row = row.get();
                let slot = Slot { list, offset: block * geometry.capacity + i as u32 };
                model.codec.decode(centroid, code, &mut row_vector);
                if !model.metric().is_sound(&row_vector) {
                    report.note(name, row.into(), "a component is not finite");
                }
                let sum_of_code = self.kept.as_mut().map(|kept| kept.of_code(code, &row_vector));
                if model.shares() && !self.codes.insert(self.hasher.hash_one(code)) {
                    report.note(
                        name,
                        row.into(),
                        format!("{slot:?} has the code of another entry of its list"),
                    );
                }
                let same = self.same.get_mut(row as usize).map(|same| (crc32fast::hash(code), same));
                match self.slots.get_mut(row as usize) {
                    None => {
                        let (meta, end) = (&tables.names.meta, self.header.next_row);
                        let what = format!("{slot:?} holds it, {meta} knows rows below {end}");
                        report.note(name, row.into(), what);
                        continue;
                    }
                    Some(Some(other))
                        if other.list != list && self.second.get(row as usize) == Some(&None) =>
                    {
                        self.second[row as usize] = Some(slot);
                        if let (Some(is), Some(sum)) = (sum_of_code, self.second_sums.get_mut(row as usize)) {
                            *sum = is;
                        }
                        if let Some((sum, same)) = same
                            && sum != *same
                        {
                            let names = format!("{} or {}", tables.names.blocks, tables.names.tails);
                            let what = format!("in {other:?} and {slot:?} are different vectors, in {names}");
                            report.note(name, row.into(), what);
                        }
                    }
                    Some(Some(other)) => {
                        // Which of the two is wrong, nobody knows, nor in which table.
                        let names = format!("{} or {}", tables.names.blocks, tables.names.tails);
                        report.note(name, row.into(), format!("in {other:?} and {slot:?}, in {names}"));
                    }
                    Some(free) => {
                        *free = Some(slot);
                        report.rows += 1;
                        self.entries += 1;
                        same.into_iter().for_each(|(sum, same)| *same = sum);
                        if let (Some(is), Some(sum)) = (sum_of_code, self.sums.get_mut(row as usize)) {
                            *sum = is;
                        }
                    }
                }
            }
        })?;
        Ok(crc)
    }

    /// The rows of all pages of a column: those past the last that is in use have no entries.
    fn whole_pages(&self, column: Column) -> Range<u32> {
        0..self.next_row.div_ceil(column.per_page()).saturating_mul(column.per_page())
    }

    fn twin_pages(&self, report: &mut VerifyReport) -> Result<()> {
        let (Some(table), name) = (&self.tables.twins, &self.tables.names.twins) else { return Ok(()) };
        pages(report, table, name, 0..self.next_row.div_ceil(twins_column().per_page()))?;
        let (found, of) = (table.len()?, self.header.twin_pages);
        if found != u64::from(of) {
            report.note(name, 0, format!("{found} pages, {} says {of}", self.tables.names.meta));
        }
        Ok(())
    }

    /// Follows the chain of each entry; where its rows are is then known as if each had an entry.
    fn chains(&mut self, report: &mut VerifyReport) -> Result<()> {
        let (Some(table), names) = (&self.tables.twins, &self.tables.names) else { return Ok(()) };
        let (column, mut twins) = (twins_column(), vec![None; self.next_row as usize]);
        let rows = self.whole_pages(column);
        // What can be read of it.
        for page in 0..column.page_of(rows.end) {
            let first = page.saturating_mul(column.per_page());
            let rows = first..first.saturating_add(column.per_page());
            report.step(|report| {
                column.for_each(table, &names.twins, rows, |row, bytes| {
                    let says = Twin::decode(bytes);
                    match twins.get_mut(row as usize) {
                        Some(twin) => *twin = says,
                        None if says.is_none() => {}
                        None => report.note(&names.twins, row.into(), "a twin that was never used"),
                    }
                    if Twin::encode(says) != *bytes {
                        report.note(&names.twins, row.into(), "neither a twin nor none");
                    }
                    Ok(())
                })
            })?;
        }
        let heads: Vec<(u32, Slot)> =
            (0..).zip(&self.slots).filter_map(|(row, s)| Some((row, (*s)?))).collect();
        let mut linked: u64 = 0;
        for (head, slot) in heads {
            linked += self.chain(report, &twins, head, slot);
        }
        let there = twins.iter().flatten().count() as u64;
        if linked != there {
            let what = format!("{there} rows have twins, the chains of {} lead to {linked}", names.blocks);
            report.note(&names.twins, 0, what);
        }
        let (is, says) = (self.live() - self.entries, self.header.twins);
        if is != u64::from(says) {
            report.note(&names.twins, 0, format!("{is} rows without an entry, {} says {says}", names.meta));
        }
        Ok(())
    }

    /// Follows the chain of the entry of `head` as far as it is one; returns how many rows it has, none if it is alone.
    fn chain(&mut self, report: &mut VerifyReport, twins: &[Option<Twin>], head: u32, slot: Slot) -> u64 {
        let name = &self.tables.names.twins;
        let of = |row: u32| twins.get(row as usize).copied().flatten();
        let Some(mut twin) = of(head) else { return 0 };
        if twin.head != head || twin.next.is_none() {
            report.note(name, head.into(), format!("{twin:?}, but it has an entry of its own at {slot:?}"));
            return 0;
        }
        let mut rows = 1;
        while let Some(row) = twin.next {
            let place = self.slots.get_mut(row as usize).filter(|place| place.is_none());
            let (Some(next), Some(place)) = (of(row).filter(|next| next.head == head), place) else {
                let what =
                    format!("the chain of row {head} at {slot:?} leads to row {row}, which is {:?}", of(row));
                report.note(name, row.into(), what);
                return rows;
            };
            *place = Some(slot);
            report.rows += 1;
            (twin, rows) = (next, rows + 1);
        }
        rows
    }

    fn slots(&self, report: &mut VerifyReport) -> Result<()> {
        let (column, names, places) = (self.model.slots_column, &self.tables.names, self.model.places());
        let rows = self.whole_pages(column);
        pages(report, &self.tables.slots, &names.slots, 0..column.page_of(rows.end))?;
        column.for_each(&self.tables.slots, &names.slots, rows, |row, bytes| {
            let place = |slots: &[Option<Slot>]| slots.get(row as usize).copied().flatten();
            let (says, is) =
                (Slots::decode(bytes), Slots { first: place(&self.slots), second: place(&self.second) });
            // Which comes first is the column's to say; so is what it writes of a slot that is not there.
            if !says.same_places(&is) || says.encode()[..column.width] != *bytes {
                report.note(&names.slots, row.into(), format!("says {says:?}, the blocks say {is:?}"));
            }
            if is.len() != places && is.len() > 0 {
                let what = format!("in {} list, {places} are wanted: {is:?}", is.len());
                report.note(&names.slots, row.into(), what);
            }
            Ok(())
        })
    }

    fn ids(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names, column) = (self.tables, &self.tables.names, ids_column());
        let rows = self.whole_pages(column);
        pages(report, &tables.ids, &names.ids, 0..column.page_of(rows.end))?;
        column.for_each(&tables.ids, &names.ids, rows, |row, bytes| {
            let id = decode_id(bytes);
            if id.is_some() != self.slots.get(row as usize).is_some_and(Option::is_some) {
                report.note(&names.ids, row.into(), "a row without an id, or an id without a row");
            }
            let Some(id) = id else { return Ok(()) };
            let mapped = tables.mapped_row(id)?;
            if mapped != Some(row) {
                let what = format!("row {row} has id {id}, {} maps it to {mapped:?}", names.map);
                report.note(&names.ids, row.into(), what);
            }
            Ok(())
        })
    }

    fn map(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names) = (self.tables, &self.tables.names);
        let mut mapped = 0;
        for entry in tables.map.iter()? {
            let (id, row) = entry?;
            let (id, row) = (id.value(), row.value());
            mapped += 1;
            if row >= self.next_row {
                report.note(&names.map, id, format!("maps to row {row}, which was never used"));
            }
            if id >= self.header.next_id {
                let what = format!("not below the next id {} of {}", self.header.next_id, names.meta);
                report.note(&names.map, id, what);
            }
            // Walking along the leaves finds what a damaged branch hides from a look-up.
            if tables.mapped_row(id)? != Some(row) {
                report.note(&names.map, id, "a look-up does not find it");
            }
        }
        // Each row's id is mapped to that row (see `ids`): with equal counts, a bijection.
        if mapped != self.live() {
            report.note(&names.map, 0, format!("{mapped} ids for {} rows", self.live()));
        }
        Ok(())
    }

    fn free(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names) = (self.tables, &self.tables.names);
        let mut free = 0;
        for entry in tables.free.iter()? {
            let row = entry?.0.value();
            free += 1;
            if usize::try_from(row).map_or(true, |row| !matches!(self.slots.get(row), Some(None))) {
                report.note(&names.free, row, "a row that is in use or was never used");
            }
        }
        let unused = u64::from(self.next_row) - self.live();
        if free != unused {
            let what = format!("{free} free rows, {unused} of those in {} are not in use", names.meta);
            report.note(&names.free, 0, what);
        }
        Ok(())
    }

    fn keys(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names) = (self.tables, &self.tables.names);
        let expected = if self.header.keys { self.live() } else { 0 };
        for (name, found) in [(&names.keys, tables.keys.len()?), (&names.keymap, tables.keymap.len()?)] {
            if found != expected {
                let what = format!("{found} keys, {} and the blocks say {expected}", names.meta);
                report.note(name, 0, what);
            }
        }
        let mut found = 0;
        for entry in tables.keys.iter()? {
            let (id, key) = entry?;
            found += 1;
            let (id, key) = (id.value(), key.value());
            let back = tables.keymap.get(key)?.map(|back| back.value());
            if back != Some(id) {
                report.note(&names.keys, id, format!("{} has its key for {back:?}", names.keymap));
            }
            if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
                report.note(&names.keys, id, format!("a key of {} bytes", key.len()));
            }
            if tables.mapped_row(id)?.is_none() {
                report.note(&names.keys, id, format!("a key of an id that {} does not have", names.map));
            }
            if tables.keys.get(id)?.is_none_or(|found| found.value() != key) {
                report.note(&names.keys, id, "a look-up does not find it");
            }
        }
        if found != expected {
            report.note(&names.keys, 0, format!("{found} keys can be read, there are {expected} rows"));
        }
        // With equal counts, and each key going back to its id, the two are a bijection.
        Ok(())
    }

    /// The most exact rows are compared with the codes, coarser ones with those.
    fn kept_rows(&mut self, report: &mut VerifyReport) -> Result<()> {
        for (stage, column) in [Stage::Rows, Stage::Exact].into_iter().zip(self.model.kept_columns()) {
            let (table, name) = self.tables.kept(stage);
            let rows = column.map_or(0, |column| self.next_row.div_ceil(column.per_page()));
            pages(report, table, name, 0..rows)?;
        }
        for at in (0..self.model.kept.len()).rev() {
            report.step(|report| self.kept_column(report, at))?;
        }
        Ok(())
    }

    fn kept_column(&mut self, report: &mut VerifyReport, at: usize) -> Result<()> {
        let KeptColumn { stage, form, column } = self.model.kept[at];
        let (table, name) = self.tables.kept(stage);
        let coarser = at.checked_sub(1).map(|at| self.model.kept[at].form);
        let most_exact = at + 1 == self.model.kept.len();
        let mut vector = vec![0.0; self.model.spec.dim];
        let mut bytes_of_coarser = Vec::new();
        column.for_each(table, name, 0..self.next_row, |row, bytes| {
            let Some(slot) = self.slots.get(row as usize).copied().flatten() else {
                if bytes.iter().any(|byte| *byte != ABSENT) {
                    report.note(name, row.into(), "a free row still holds a vector");
                }
                return Ok(());
            };
            if !form.is_row(bytes, &mut vector) {
                report.note(name, row.into(), "the kept row is missing, or a component of it not finite");
                return Ok(());
            }
            // Without sums there is nothing to compare with.
            let Some(sum) = self.sums.get_mut(row as usize) else { return Ok(()) };
            let (is, other) = match &mut self.kept {
                Some(kept) if most_exact => {
                    (kept.of_kept(slot.list - self.header.first_list, bytes), "its code")
                }
                _ => (crc32fast::hash(bytes), "the exact one"),
            };
            let second = self.second.get(row as usize).copied().flatten().filter(|_| most_exact);
            let as_second = |kept: &mut KeptCheck<'_>| {
                second.is_none_or(|slot| {
                    let is = kept.of_kept(slot.list - self.header.first_list, bytes);
                    self.second_sums.get(row as usize) == Some(&is)
                })
            };
            if is != *sum || !self.kept.as_mut().is_none_or(as_second) {
                report.note(name, row.into(), format!("the kept row is another vector than {other}"));
            }
            if let Some(coarser) = coarser {
                bytes_of_coarser.clear();
                coarser.encode(&vector, &mut bytes_of_coarser);
                *sum = crc32fast::hash(&bytes_of_coarser);
            }
            Ok(())
        })
    }
}

/// Notes the pages of a column that stand under keys it has no use for.
fn pages(report: &mut VerifyReport, table: &ReadBytes, name: &str, pages: Range<u32>) -> Result<()> {
    for strays in [table.range(..u64::from(pages.start))?, table.range(u64::from(pages.end)..)?] {
        for entry in strays {
            report.note(name, entry?.0.value(), "a page of rows that were never used");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
