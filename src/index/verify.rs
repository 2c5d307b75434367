//! Verifying: every checksum and every invariant of an index, reporting all that is wrong.
//!
//! The invariants: lists hold each live row exactly once; slots, ids and map say the same of it; free
//! rows are the others, and no kept row is theirs; counts in header, directory and tables agree; no stray block; all vectors finite.

use super::model::Model;
use crate::guard::guarded;
use crate::storage::block::Geometry;
use crate::storage::column::ABSENT;
use crate::storage::format::Header;
use crate::storage::ids::{Slot, decode_id, ids_column, slots_column};
use crate::storage::{self, ReadTables};
use crate::{Error, Observer, Result};
use redb::{ReadableTable, ReadableTableMetadata};

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
pub struct Problem {
    /// The table it is in.
    pub table: String,
    /// The key, row or id it is about.
    pub key: u64,
    /// What is wrong.
    pub what: String,
}

const PROBLEMS_KEPT: usize = 1000;

impl VerifyReport {
    /// True if nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    fn note(&mut self, table: &str, key: u64, what: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_KEPT {
            self.problems.push(Problem { table: table.into(), key, what: what.into() });
        }
    }

    fn note_error(&mut self, e: Error) {
        match e {
            Error::Corrupt { table, key, what } => self.note(&table, key, what),
            e => self.note("(redb)", 0, e.to_string()),
        }
    }

    /// Runs one step; damage that stops it is a problem, cancellation is not.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match guarded(|| step(self)) {
            Err(Error::Cancelled) => Err(Error::Cancelled),
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

/// Checks everything about an index.
pub(crate) fn verify(
    txn: &redb::ReadTransaction,
    index: &str,
    observer: &mut Observer<'_>,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let mut opened = None;
    report.step(|report| {
        let header = storage::read_header(txn, index)?;
        let tables = storage::open_read(txn, index)?;
        if header.writer_open {
            report.note(&tables.names.meta, 0, "a change was committed half-way");
        }
        let model = Model::load(&tables, &header)?;
        opened = Some((tables, header, model));
        Ok(())
    })?;
    let Some((tables, header, model)) = opened else {
        // An index that is not there is the caller's mistake, not damage.
        return match storage::read_header(txn, index) {
            Err(e @ Error::UnknownIndex { .. }) => Err(e),
            _ => Ok(report),
        };
    };
    let mut check = Check { tables: &tables, header: &header, model: &model, slots: Vec::new() };
    check.slots.resize(header.next_row as usize, None);
    report.step(|report| check.lists(report, observer))?;
    report.step(|report| check.slots(report))?;
    report.step(|report| check.ids(report))?;
    report.step(|report| check.free(report))?;
    report.step(|report| check.keys(report))?;
    report.step(|report| check.kept_rows(report))?;
    Ok(report)
}

struct Check<'a> {
    tables: &'a ReadTables,
    header: &'a Header,
    model: &'a Model,
    /// Where the lists say each row is.
    slots: Vec<Option<Slot>>,
}

impl Check<'_> {
    fn geometry(&self) -> &Geometry {
        &self.model.geometry
    }

    fn live(&self) -> u64 {
        self.slots.iter().flatten().count() as u64
    }

    fn lists(&mut self, report: &mut VerifyReport, observer: &mut Observer<'_>) -> Result<()> {
        let (tables, header) = (self.tables, self.header);
        let names = &tables.names;
        let lists = header.first_list..header.first_list.saturating_add(header.nlist);
        let entries = tables.list_entries(lists.clone())?;
        let (mut total, mut blocks, mut tails) = (0u64, 0u64, 0u64);
        for (list, entry) in lists.zip(&entries) {
            total += u64::from(entry.n);
            for block in 0..self.geometry().blocks(entry.n) {
                let in_tails = self.geometry().in_tails(self.geometry().entries(entry.n, block));
                *(if in_tails { &mut tails } else { &mut blocks }) += 1;
                report.step(|report| self.block(report, list, entry.n, block))?;
            }
            observer.tick("verify", report.rows.min(header.ntotal), header.ntotal)?;
        }
        if total != header.ntotal {
            report.note(&names.meta, 0, format!("{} rows, the lists hold {total}", header.ntotal));
        }
        for (name, table, expected) in
            [(&names.blocks, &tables.blocks, blocks), (&names.tails, &tables.tails, tails)]
        {
            let found = table.len()?;
            if found != expected {
                report.note(name, 0, format!("{found} values, the lists need {expected}"));
            }
        }
        Ok(())
    }

    fn block(&mut self, report: &mut VerifyReport, list: u32, n: u32, block: u32) -> Result<()> {
        let (model, name) = (self.model, &self.tables.names.blocks);
        let geometry = self.model.geometry;
        let slots = &mut self.slots;
        let mut row_vector = vec![0.0; model.spec.dim];
        self.tables.read_block(&geometry, list, n, block, |b| {
            report.blocks += 1;
            let mut codes = Vec::new();
            geometry.layout.unpack(b.codes, b.rows.len(), &mut codes);
            let codes = codes.chunks_exact(geometry.layout.code_bytes());
            let centroid = model.centroid(list - self.header.first_list);
            for ((i, row), code) in b.rows.iter().enumerate().zip(codes) {
                report.rows += 1;
                let row = row.get();
                let slot = Slot { list, offset: block * geometry.capacity + i as u32 };
                match slots.get_mut(row as usize) {
                    None => {
                        report.note(name, row.into(), format!("{slot:?} holds a row that was never used"))
                    }
                    Some(Some(other)) => report.note(name, row.into(), format!("in {other:?} and {slot:?}")),
                    Some(free) => *free = Some(slot),
                }
                model.codec.decode(centroid, code, &mut row_vector);
                if row_vector.iter().any(|component| !component.is_finite()) {
                    report.note(name, row.into(), "a component is not finite");
                }
            }
        })
    }

    fn slots(&self, report: &mut VerifyReport) -> Result<()> {
        let name = &self.tables.names.slots;
        let rows = 0..self.header.next_row;
        slots_column().for_each(&self.tables.slots, name, rows, |row, bytes| {
            let (says, is) = (Slot::decode(bytes), self.slots[row as usize]);
            if says != is {
                report.note(name, row.into(), format!("says {says:?}, the lists say {is:?}"));
            }
            Ok(())
        })
    }

    fn ids(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names) = (self.tables, &self.tables.names);
        let mut ids = vec![None; self.slots.len()];
        ids_column().for_each(&tables.ids, &names.ids, 0..self.header.next_row, |row, bytes| {
            ids[row as usize] = decode_id(bytes);
            if ids[row as usize].is_some() != self.slots[row as usize].is_some() {
                report.note(&names.ids, row.into(), "a row without an id, or an id without a row");
            }
            Ok(())
        })?;
        let mut mapped = 0;
        for entry in tables.map.iter()? {
            let (id, row) = entry?;
            let (id, row) = (id.value(), row.value());
            mapped += 1;
            if ids.get(row as usize).copied().flatten() != Some(id) {
                report.note(&names.map, id, format!("maps to row {row}, which has another id"));
            }
            if id >= self.header.next_id {
                report.note(&names.map, id, format!("not below the next id {}", self.header.next_id));
            }
        }
        // Ids are unique in the map and each row it names has that id: with equal counts, a bijection.
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
        let unused = u64::from(self.header.next_row) - self.live();
        if free != unused {
            report.note(&names.free, 0, format!("{free} free rows, {unused} are not in use"));
        }
        Ok(())
    }

    fn keys(&self, report: &mut VerifyReport) -> Result<()> {
        let (tables, names) = (self.tables, &self.tables.names);
        let expected = if self.header.keys { self.live() } else { 0 };
        let (keys, keymap) = (tables.keys.len()?, tables.keymap.len()?);
        if keys != expected || keymap != expected {
            report.note(&names.keys, 0, format!("{keys} keys and {keymap} mapped keys for {expected} rows"));
        }
        for entry in tables.keys.iter()? {
            let (id, key) = entry?;
            if tables.id_of_key(key.value())? != Some(id.value()) {
                report.note(&names.keys, id.value(), "its key maps to another id");
            }
            if tables.row_of(id.value())?.is_none() {
                report.note(&names.keys, id.value(), "a key of an id that is not there");
            }
        }
        Ok(())
    }

    fn kept_rows(&self, report: &mut VerifyReport) -> Result<()> {
        let (Some(column), Some(kept)) = (self.model.rows_column, self.model.spec.kept) else {
            return Ok(());
        };
        let (name, rows) = (&self.tables.names.rows, 0..self.header.next_row);
        let mut vector = vec![0.0; self.model.spec.dim];
        column.for_each(&self.tables.rows, name, rows, |row, bytes| {
            if self.slots[row as usize].is_none() && bytes.iter().any(|byte| *byte != ABSENT) {
                report.note(name, row.into(), "a free row still holds a vector");
            }
            crate::kernel::Kernels::get().decode(kept.element(), bytes, &mut vector);
            if self.slots[row as usize].is_some() && vector.iter().any(|component| !component.is_finite()) {
                report.note(name, row.into(), "a component of the kept row is not finite");
            }
            Ok(())
        })
    }
}
