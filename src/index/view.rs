//! The view: one index as a reader or a writer sees it.
//!
//! Everything that only reads (search, reconstruct, statistics) is written once, over this trait. Its
//! two implementations are the frozen [`Snapshot`] with its pins and the tables of an open writer, so
//! that a writer can search what it has not committed yet. Calls are per list or per result, never per
//! entry.

use super::stats::{self, PartStats};
use crate::math::topk::RowIds;
use crate::storage::block::{Geometry, Run};
use crate::storage::column::{ABSENT, Column};
use crate::storage::format::{Header, ListEntry};
use crate::storage::ids::{Slot, Slots};
use crate::storage::sections::Section;
use crate::storage::snapshot::Snapshot;
use crate::storage::twins::Twin;
use crate::storage::{EachKept, Stage, WriteTables};
use crate::{Error, Result};

pub(crate) trait View: Send + Sync {
    fn header(&self) -> &Header;
    /// The directory entry of a list, by its number within the model.
    fn list(&self, list: u32) -> Result<ListEntry>;
    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()>;
    /// The bytes of a list, if they stay in memory: to have them in the cache soon.
    fn peek(&self, list: u32) -> Option<&[u8]>;
    /// Takes into memory what was there before the last change and is not any more.
    fn warm_up(&self) -> Result<()>;
    /// A hint that `id` will be asked for these rows.
    fn approach_ids(&self, rows: &[u32]);
    fn id(&self, row: u32) -> Result<u64>;
    /// False if some of the lists are not shown: then what a row has is no sign that it may be found.
    fn is_whole(&self) -> bool {
        true
    }
    /// A hint that the kept vectors of these rows will be asked for.
    fn approach_rows(&self, stage: Stage, rows: &[u32]);
    /// Calls `each(i, vectors)` with the kept vectors of `rows[i..]`, as stored, up to [`ROWS_AT_ONCE`] of them a call and
    /// in order; not at all if none are kept at that stage.
    fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()>;
    fn row_of(&self, id: u64) -> Result<Option<u32>>;
    /// Calls `each(row, id)` for every row, ascending.
    fn for_each_id(&self, each: &mut dyn FnMut(u32, u64)) -> Result<()>;
    /// The slot in the nearest of the `places` lists that each row stands in.
    fn slot_of(&self, row: u32, column: &Column, places: usize) -> Result<Slot>;
    /// All slots of a row.
    fn slots_of(&self, row: u32, column: &Column, places: usize) -> Result<Slots>;
    /// What links a row to the others of its entry, where rows share entries.
    fn twin(&self, row: u32) -> Result<Option<Twin>>;
    /// The code at a slot, packed, and the row that stands there.
    fn code_at(&self, slot: Slot, geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>>;
    fn id_of_key(&self, key: &[u8]) -> Result<Option<u64>>;
    fn key_of(&self, id: u64) -> Result<Option<Vec<u8>>>;
    fn all_ids(&self) -> Result<Vec<u64>>;
    fn parts(&self) -> Result<Vec<PartStats>>;
    /// The training parameters stored with the model, encoded.
    fn training(&self) -> Result<Option<Vec<u8>>>;
    /// What the application keeps with the index.
    fn note(&self) -> Result<Option<Vec<u8>>>;
    /// A section of the model.
    fn section(&self, section: Section) -> Result<Option<Vec<u8>>>;
}

/// A view as the source of ids that collectors ask.
pub(crate) struct ViewIds<'a>(pub(crate) &'a dyn View);

impl RowIds for ViewIds<'_> {
    fn approach(&self, rows: &[u32]) {
        self.0.approach_ids(rows);
    }

    fn id(&self, row: u32) -> Result<u64> {
        self.0.id(row)
    }
}

macro_rules! by_tables {
    () => {
        fn row_of(&self, id: u64) -> Result<Option<u32>> {
            // The map's pages carry no checksum of ours, those of the ids do: they must agree.
            let row = self.tables.mapped_row(id)?;
            match row {
                Some(row) if View::id(self, row)? != id => Err(self.tables.misled(id, row)),
                row => Ok(row),
            }
        }
        fn for_each_id(&self, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
            self.tables.for_each_id(self.header(), each)
        }
        fn slot_of(&self, row: u32, column: &Column, places: usize) -> Result<Slot> {
            self.tables.slot_of(row, column, places)
        }
        fn slots_of(&self, row: u32, column: &Column, places: usize) -> Result<Slots> {
            self.tables.slots_of(row, column, places)
        }
        fn code_at(&self, slot: Slot, geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>> {
            self.tables.code_at(slot, geometry)
        }
        fn id_of_key(&self, key: &[u8]) -> Result<Option<u64>> {
            self.tables.id_of_key(key)
        }
        fn key_of(&self, id: u64) -> Result<Option<Vec<u8>>> {
            self.tables.key_of(id)
        }
        fn all_ids(&self) -> Result<Vec<u64>> {
            self.tables.all_ids(self.header())
        }
        fn parts(&self) -> Result<Vec<PartStats>> {
            stats::parts(&self.tables)
        }
        fn training(&self) -> Result<Option<Vec<u8>>> {
            self.tables.read_section(Section::Training)
        }
        fn note(&self) -> Result<Option<Vec<u8>>> {
            self.tables.read_section(Section::Note)
        }
        fn section(&self, section: Section) -> Result<Option<Vec<u8>>> {
            self.tables.read_section(section)
        }
    };
}

impl View for Snapshot {
    by_tables!();
    fn header(&self) -> &Header {
        &self.header
    }
    fn list(&self, list: u32) -> Result<ListEntry> {
        self.entry(self.header.first_list + list)
    }
    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        Snapshot::visit(self, self.header.first_list + list, each)
    }
    fn peek(&self, list: u32) -> Option<&[u8]> {
        Snapshot::peek(self, self.header.first_list + list)
    }
    fn warm_up(&self) -> Result<()> {
        self.pin_changed()
    }
    fn approach_ids(&self, rows: &[u32]) {
        Snapshot::approach_ids(self, rows);
    }
    fn id(&self, row: u32) -> Result<u64> {
        Snapshot::id(self, row)
    }
    fn twin(&self, row: u32) -> Result<Option<Twin>> {
        Snapshot::twin(self, row)
    }
    fn approach_rows(&self, stage: Stage, rows: &[u32]) {
        Snapshot::approach_rows(self, stage, rows);
    }
    fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        Snapshot::kept_rows(self, stage, rows, each)
    }
}

/// An open writer's tables.
pub(crate) struct WriterView<'w, 't> {
    pub(crate) tables: &'w WriteTables<'t>,
    pub(crate) header: &'w Header,
    pub(crate) geometry: Geometry,
    /// By [`Stage`].
    pub(crate) kept_columns: [Option<Column>; 2],
}

impl View for WriterView<'_, '_> {
    by_tables!();
    fn header(&self) -> &Header {
        self.header
    }
    fn list(&self, list: u32) -> Result<ListEntry> {
        self.tables.list_entry(self.header.first_list + list)
    }
    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        let entry = self.list(list)?;
        self.tables
            .for_each_block(&self.geometry, self.header.first_list + list, &entry, |_, block| each(block.run))
    }
    fn peek(&self, _list: u32) -> Option<&[u8]> {
        None
    }
    fn warm_up(&self) -> Result<()> {
        Ok(())
    }
    fn approach_ids(&self, _rows: &[u32]) {}
    fn id(&self, row: u32) -> Result<u64> {
        self.tables.id_of(row)
    }
    fn twin(&self, row: u32) -> Result<Option<Twin>> {
        self.tables.twin(row)
    }
    fn approach_rows(&self, _stage: Stage, _rows: &[u32]) {}
    fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        let Some(column) = self.kept_columns[stage as usize] else { return Ok(()) };
        let (table, name) = self.tables.kept(stage);
        let mut vector = vec![ABSENT; column.width];
        for (i, &row) in rows.iter().enumerate() {
            if !column.get(table, name, row, &mut vector)? {
                return Err(Error::corrupt(name, row.into(), "the kept row is missing"));
            }
            each(i, &[&vector])?;
        }
        Ok(())
    }
}
