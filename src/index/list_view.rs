//! Some lists of an index, read as if the others were empty: a view like any other, so every verb that searches works on it.
//!
//! ```text
//! FAISS's SliceInvertedLists       only_lists(|list, _| (3..7).contains(&list))
//! StopWordsInvertedLists           only_lists(|_, entries| entries <= 1000)
//! MaskedInvertedLists(a, b)        of_shards([a, b.only_lists(|list, _| a's list is empty)]), where vectors stand in one list
//! ```
//! What goes by id or key (`reconstruct`, `slot`, `code`, `contains`, `ids`, `len`) sees all vectors, as in FAISS.

use super::reader::IndexReader;
use super::stats::PartStats;
use super::view::View;
use crate::Result;
use crate::storage::block::{Geometry, Run};
use crate::storage::column::Column;
use crate::storage::format::{Header, ListEntry};
use crate::storage::ids::{Slot, Slots};
use crate::storage::sections::Section;
use crate::storage::twins::Twin;
use crate::storage::{EachKept, Stage};
use std::sync::Arc;

struct ListView<'a> {
    whole: Arc<dyn View + 'a>,
    shown: Vec<bool>,
}

impl<'a> IndexReader<'a> {
    /// The same index with those lists alone for which `shown(list, entries)` is true: in searches, scanners, lists and their sizes the
    /// others are empty. Verbs by id see all vectors, and `len` counts them. Nothing is copied.
    ///
    /// ```no_run
    /// # fn of(index: vellum::IndexReader<'_>) -> vellum::Result<()> {
    /// let without_giants = index.only_lists(|_list, entries| entries <= 10_000)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn only_lists(&self, mut shown: impl FnMut(u32, usize) -> bool) -> Result<IndexReader<'a>> {
        let sizes = self.list_sizes()?;
        let shown = (0..).zip(sizes).map(|(list, entries)| shown(list, entries)).collect();
        let view = Arc::new(ListView { whole: self.view.clone(), shown });
        Ok(IndexReader { view, ..self.clone() })
    }
}

impl ListView<'_> {
    fn shows(&self, list: u32) -> bool {
        self.shown.get(list as usize) == Some(&true)
    }
}

impl View for ListView<'_> {
    fn list(&self, list: u32) -> Result<ListEntry> {
        if self.shows(list) { self.whole.list(list) } else { Ok(ListEntry::default()) }
    }

    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        if self.shows(list) { self.whole.visit(list, each) } else { Ok(()) }
    }

    fn peek(&self, list: u32) -> Option<&[u8]> {
        self.whole.peek(list).filter(|_| self.shows(list))
    }

    fn header(&self) -> &Header {
        self.whole.header()
    }

    fn warm_up(&self) -> Result<()> {
        self.whole.warm_up()
    }

    fn approach_ids(&self, rows: &[u32]) {
        self.whole.approach_ids(rows);
    }

    fn id(&self, row: u32) -> Result<u64> {
        self.whole.id(row)
    }

    fn is_whole(&self) -> bool {
        false
    }

    fn approach_rows(&self, stage: Stage, rows: &[u32]) {
        self.whole.approach_rows(stage, rows);
    }

    fn kept_rows(&self, stage: Stage, rows: &[u32], each: &mut EachKept<'_>) -> Result<()> {
        self.whole.kept_rows(stage, rows, each)
    }

    fn row_of(&self, id: u64) -> Result<Option<u32>> {
        self.whole.row_of(id)
    }

    fn for_each_id(&self, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
        self.whole.for_each_id(each)
    }

    fn slot_of(&self, row: u32, column: &Column, places: usize) -> Result<Slot> {
        self.whole.slot_of(row, column, places)
    }

    fn slots_of(&self, row: u32, column: &Column, places: usize) -> Result<Slots> {
        self.whole.slots_of(row, column, places)
    }

    fn twin(&self, row: u32) -> Result<Option<Twin>> {
        self.whole.twin(row)
    }

    fn code_at(&self, slot: Slot, geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>> {
        self.whole.code_at(slot, geometry)
    }

    fn id_of_key(&self, key: &[u8]) -> Result<Option<u64>> {
        self.whole.id_of_key(key)
    }

    fn key_of(&self, id: u64) -> Result<Option<Vec<u8>>> {
        self.whole.key_of(id)
    }

    fn all_ids(&self) -> Result<Vec<u64>> {
        self.whole.all_ids()
    }

    fn parts(&self) -> Result<Vec<PartStats>> {
        self.whole.parts()
    }

    fn training(&self) -> Result<Option<Vec<u8>>> {
        self.whole.training()
    }

    fn note(&self) -> Result<Option<Vec<u8>>> {
        self.whole.note()
    }

    fn section(&self, section: Section) -> Result<Option<Vec<u8>>> {
        self.whole.section(section)
    }
}
