//! The search loop in the caller's hands: a query made ready, the lists it may enter, the scores of what stands there.
//!
//! ```text
//! prepare_query ─→ PreparedQuery ─ probe ─→ lists, distances
//!                    ├ list_scanner ─→ ListScanner: enter(list), then scan(within, each) or distance_of_code(code)
//!                    └ distance_computer ─→ DistanceComputer: distance(id)
//! ```
//! Both are the crate's scanners: their distances are those of `search`, bit for bit.

use super::codes::Slot;
use super::filter::Filter;
use super::model::Model;
use super::reader::{IndexReader, Neighbor, TopK};
use super::search::{live_entries, rows_of};
use super::twins::{for_each_twin, stands_with};
use super::view::View;
use super::{bound::Score, rerank::KeptScores};
use crate::codec::{Codes, Probe, Scanner, Visit};
use crate::kernel::Found;
use crate::math::linalg::score_of_pair;
use crate::math::selector::IdSelector;
use crate::storage::block::Run;
use crate::storage::ids;
use crate::{Error, Result, Rows};
use std::ops::ControlFlow;

/// A query that went through the door: checked, normalised, transformed. Made by [`IndexReader::prepare_query`].
pub struct PreparedQuery<'r> {
    reader: &'r IndexReader<'r>,
    prepared: Vec<f32>,
    projected: Vec<f32>,
}

/// An entry of a list that was scanned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scanned {
    /// Its id.
    pub id: u64,
    /// Where it stands.
    pub slot: Slot,
    /// Its distance by its code; kept rows have no say.
    pub distance: f32,
}

impl<'a> IndexReader<'a> {
    /// Makes a query ready to be compared with whatever the caller likes. FAISS's `get_InvertedListScanner` and
    /// `get_distance_computer` begin here.
    ///
    /// ```
    /// # use vellum::*;
    /// # use std::ops::ControlFlow;
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::create(folder.path().join("v"))?;
    /// # let txn = store.begin_write()?;
    /// # txn.create_index("docs", &IndexSpec::flat(2, Metric::L2))?;
    /// # txn.index("docs")?.add(Rows::new(&[0.0, 0.0, 3.0, 4.0], 2)?)?;
    /// # txn.commit()?;
    /// # let index = store.begin_read()?.index("docs")?;
    /// let query = index.prepare_query(&[0.0, 1.0])?;
    /// let mut scanner = query.list_scanner();
    /// for (list, _distance) in query.probe(8)? {
    ///     scanner.enter(list)?;
    ///     scanner.scan(10.0, |entry| {
    ///         println!("{} at {}", entry.id, entry.distance);
    ///         ControlFlow::Continue(())
    ///     })?;
    /// }
    /// assert_eq!(query.distance_computer().distance(1)?, Some(18.0));
    /// # Ok::<(), vellum::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the query, as for [`search`](Self::search).
    pub fn prepare_query<'r>(&'r self, query: &[f32]) -> Result<PreparedQuery<'r>>
    where
        'a: 'r,
    {
        let rows =
            Rows::one(query).map_err(|_| Error::Dimension { expected: self.dim(), got: query.len() })?;
        let prepared = self.model.prepare(rows)?.into_owned();
        let projected = self.model.project(Rows::of(&prepared, self.dim()))?.into_owned();
        Ok(PreparedQuery { reader: self, prepared, projected })
    }
}

impl<'r> PreparedQuery<'r> {
    fn model(&self) -> &Model {
        &self.reader.model
    }

    fn view(&self) -> &(dyn View + 'r) {
        &*self.reader.view
    }

    fn scanner(&self) -> Box<dyn Scanner + '_> {
        self.model().codec.scanner(Rows::of(&self.projected, self.projected.len()))
    }

    /// The `nprobe` nearest lists and the distances to their centroids, as [`IndexReader::probe`] gives them.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an `nprobe` of 0.
    pub fn probe(&self, nprobe: usize) -> Result<Vec<(u32, f32)>> {
        if nprobe == 0 {
            return Err(Error::Parameter { name: "nprobe", what: "0, expected at least 1".into() });
        }
        let nprobe = nprobe.min(self.reader.nlist());
        let (prepared, projected) = (&self.prepared, &self.projected);
        let (prepared, projected) =
            (Rows::of(prepared, prepared.len()), Rows::of(projected, projected.len()));
        let probes = self.model().probe(prepared, projected, nprobe, None)?;
        let flip = |score| self.reader.metric().flip(score);
        Ok(probes.lists.into_iter().zip(probes.scores.into_iter().map(flip)).collect())
    }

    /// Scans lists for this query.
    pub fn list_scanner(&self) -> ListScanner<'_> {
        ListScanner {
            reader: self.reader,
            query: &self.projected,
            scanner: self.scanner(),
            filter: Filter::All,
            list: None,
            room: Room::default(),
        }
    }

    /// Compares this query with vectors by their ids.
    pub fn distance_computer(&self) -> DistanceComputer<'_> {
        DistanceComputer { query: self, scanner: self.scanner(), entered: None, room: Room::default() }
    }
}

/// Where a code is scored.
#[derive(Default)]
pub(super) struct Room {
    live: Vec<u32>,
    found: Vec<Found>,
    region: Vec<u8>,
}

impl Room {
    /// The score of a packed code in the list that the scanner has entered; none where it is no finite number.
    pub(super) fn score(&mut self, model: &Model, scanner: &mut dyn Scanner, code: &[u8]) -> Option<f32> {
        self.region.clear();
        model.codec.layout().pack(code, &mut self.region);
        self.found.resize(1, Found::default());
        self.found[0].clear();
        let codes = Codes { bytes: &self.region, n: 1, ahead: &[] };
        scanner.scan(codes, 0, &[f32::MAX], &[&[1]], &mut self.found);
        // Adding 0 turns -0 into 0.
        self.found[0].scores.first().map(|score| score + 0.0).filter(|score| score.is_finite())
    }
}

/// Enters a list for the scanner's one query.
pub(super) fn enter(model: &Model, scanner: &mut dyn Scanner, list: u32, coarse: f32) {
    let visits = [Visit { query: 0, coarse }];
    scanner.enter(Probe { list, centroid: model.centroid(list), visits: &visits });
}

/// Scans one list after the other for one query.
///
/// Distances are by the codes alone: what a search finds before it scores kept rows. Where vectors stand in two lists
/// each list has an entry of its own.
pub struct ListScanner<'q> {
    reader: &'q IndexReader<'q>,
    query: &'q [f32],
    scanner: Box<dyn Scanner + 'q>,
    filter: Filter,
    list: Option<u32>,
    room: Room,
}

impl ListScanner<'_> {
    /// From now on only entries whose ids the selector holds.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn select(&mut self, selector: &IdSelector) -> Result<()> {
        self.filter = Filter::new(&*self.reader.view, Some(selector), 0)?;
        Ok(())
    }

    /// Enters a list; the distance of the query to its centroid is computed.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a list that there is not.
    pub fn enter(&mut self, list: u32) -> Result<()> {
        self.reader.check_list(list)?;
        let coarse = self.reader.model.coarse_scores(self.query, &[list]);
        self.enter_scored(list, coarse.first().copied().unwrap_or(0.0));
        Ok(())
    }

    /// The same with the distance that [`probe`](PreparedQuery::probe) told.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a list that there is not, or a distance that is NaN.
    pub fn enter_at(&mut self, list: u32, distance: f32) -> Result<()> {
        self.reader.check_list(list)?;
        if !distance.is_finite() {
            return Err(Error::Parameter {
                name: "distance",
                what: format!("{distance} of a list's centroid"),
            });
        }
        self.enter_scored(list, self.reader.metric().flip(distance) + 0.0);
        Ok(())
    }

    fn enter_scored(&mut self, list: u32, coarse: f32) {
        enter(&self.reader.model, &mut *self.scanner, list, coarse);
        self.list = Some(list);
    }

    /// The list that was entered last.
    pub fn list(&self) -> Option<u32> {
        self.list
    }

    fn entered(&self) -> Result<u32> {
        self.list.ok_or_else(|| Error::Parameter { name: "list", what: "none was entered".into() })
    }

    /// Calls `each` with the entries of the list that are nearer than `within`, strictly (`f32::INFINITY` for all, or
    /// `f32::NEG_INFINITY` under a similarity), in the order in which they stand there, until it breaks. Returns how many calls it made.
    ///
    /// # Errors
    /// [`Error::Parameter`] if no list was entered, or `within` is NaN; [`Error::Corrupt`].
    pub fn scan(&mut self, within: f32, mut each: impl FnMut(Scanned) -> ControlFlow<()>) -> Result<usize> {
        let list = self.entered()?;
        if within.is_nan() {
            return Err(Error::Parameter { name: "within", what: "NaN".into() });
        }
        let metric = self.reader.metric();
        let worst = metric.flip(within).next_down();
        let (mut calls, mut going, mut first) = (0, true, 0);
        let ListScanner { reader, scanner, filter, room, .. } = self;
        let view = &*reader.view;
        view.visit(list, &mut |run| {
            if !going {
                return Ok(());
            }
            let offsets = scan_run(view, filter, &mut **scanner, run, worst, room)?;
            let found = &room.found[0];
            for (at, offset) in offsets.into_iter().enumerate() {
                let (row, score) = (found.entries[at], found.scores[at]);
                let slot = Slot { list, offset: first + offset };
                calls += 1;
                let entry = Scanned { id: view.id(row)?, slot, distance: metric.flip(score) };
                if each(entry).is_break() {
                    going = false;
                    break;
                }
            }
            first += run.rows.len() as u32;
            Ok(())
        })?;
        Ok(calls)
    }

    /// Lets the entries of the list that are nearer than a heap's worst enter it; a vector that the heap has already, from its other list, counts once.
    /// Returns how many entered.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_into(&mut self, heap: &mut TopK) -> Result<usize> {
        let metric = self.reader.metric();
        let all = metric.flip(f32::INFINITY);
        // Ties go to the lower id, so what is as far as the worst may enter.
        let within = heap.worst().map_or(all, |worst| metric.flip(metric.flip(worst.distance).next_up()));
        let mut found = Vec::new();
        self.scan(within, |entry| {
            found.push(Neighbor { id: entry.id, distance: entry.distance });
            ControlFlow::Continue(())
        })?;
        Ok(heap.merge_new(metric, found))
    }

    /// The distance that a code would have in the list that was entered; none if its bytes say no finite one.
    ///
    /// # Errors
    /// [`Error::Length`] if it is no [`code_bytes`](IndexReader::code_bytes) long; [`Error::Parameter`] if no list was entered.
    pub fn distance_of_code(&mut self, code: &[u8]) -> Result<Option<f32>> {
        self.entered()?;
        let expected = self.reader.code_bytes();
        if code.len() != expected {
            return Err(Error::Length { what: "bytes of a code", expected, got: code.len() });
        }
        let score = self.room.score(&self.reader.model, &mut *self.scanner, code);
        Ok(score.map(|score| self.reader.metric().flip(score)))
    }
}

/// Scans a run; leaves rows and scores in the first `found` of the room and returns the entries they stand at.
fn scan_run(
    view: &dyn View,
    filter: &Filter,
    scanner: &mut dyn Scanner,
    run: Run<'_>,
    worst: f32,
    room: &mut Room,
) -> Result<Vec<u32>> {
    room.found.resize(1, Found::default());
    room.found[0].clear();
    let shared = view.header().twins > 0;
    // Of rows that share an entry the filter may admit some.
    live_entries(view, if shared { &Filter::All } else { filter }, run, None, &mut room.live)?;
    let codes = Codes { bytes: run.codes, n: run.rows.len(), ahead: &[] };
    scanner.scan(codes, 0, &[worst], &[&room.live], &mut room.found);
    let found = &mut room.found[0];
    let mut offsets = found.entries.clone();
    if shared {
        return rows_that_share(view, filter, run, found, &offsets);
    }
    if matches!(filter, Filter::Ids(_)) {
        let mut kept = Vec::with_capacity(offsets.len());
        for offset in &offsets {
            kept.push(filter.admits(view, run.rows[*offset as usize].get())?);
        }
        let mut kept = kept.into_iter();
        offsets.retain(|_| kept.next() == Some(true));
    }
    rows_of(view, filter, run, found)?;
    Ok(offsets)
}

/// Replaces entries that were found by all their rows that the filter admits; returns where each stands.
fn rows_that_share(
    view: &dyn View,
    filter: &Filter,
    run: Run<'_>,
    found: &mut Found,
    entries: &[u32],
) -> Result<Vec<u32>> {
    let (mut all, mut offsets) = (Found::default(), Vec::with_capacity(entries.len()));
    for (entry, score) in entries.iter().zip(&found.scores) {
        for_each_twin(view, run.rows[*entry as usize].get(), |row| {
            if filter.admits(view, row)? {
                all.push(row, *score);
                offsets.push(*entry);
            }
            Ok(true)
        })?;
    }
    *found = all;
    Ok(offsets)
}

/// Distances of one query to vectors by id.
pub struct DistanceComputer<'q> {
    query: &'q PreparedQuery<'q>,
    scanner: Box<dyn Scanner + 'q>,
    entered: Option<u32>,
    room: Room,
}

impl DistanceComputer<'_> {
    /// The distance to the vector of `id`: by its kept row where rows are kept, as a search that scores it again reports, else by its code (the nearer
    /// of its two, where it stands in two lists). `None` if the metric knows none for the two.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::Corrupt`].
    pub fn distance(&mut self, id: u64) -> Result<Option<f32>> {
        let (view, model) = (self.query.view(), self.query.model());
        let row = view.row_of(id)?.ok_or(Error::UnknownId { id })?;
        let score = match model.judge() {
            Some(kept) => {
                let mut scores = Vec::with_capacity(1);
                KeptScores { view, model, kept, query: &self.query.prepared }.score(&[row], &mut scores)?;
                scores.first().copied().filter(|score| score.is_finite())
            }
            None => self.score_of_codes(row)?,
        };
        Ok(score.map(|score| self.query.reader.metric().flip(score)))
    }

    fn score_of_codes(&mut self, row: u32) -> Result<Option<f32>> {
        let (view, model, reader) = (self.query.view(), self.query.model(), self.query.reader);
        let slots = view.slots_of(row, &model.slots_column, model.places())?;
        let mut best: Option<f32> = None;
        for slot in slots.iter() {
            let list = reader.slot_within(row, slot)?.list;
            if self.entered != Some(list) {
                let coarse = model.coarse_scores(&self.query.projected, &[list]);
                enter(model, &mut *self.scanner, list, coarse.first().copied().unwrap_or(0.0));
                self.entered = Some(list);
            }
            let score = self.room.score(model, &mut *self.scanner, &code_of(view, model, row, slot)?);
            best = match (best, score) {
                (Some(best), Some(score)) => Some(best.min(score)),
                (best, score) => best.or(score),
            };
        }
        Ok(best)
    }

    /// The distance of two stored vectors, as [`reconstruct`](IndexReader::reconstruct) gives them: FAISS's `symmetric_dis`. The query has no part in it; the order
    /// of the two makes no difference to L2, products and cosine. `None` if the metric knows none for the two.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::CannotDecode`]; [`Error::Corrupt`].
    pub fn symmetric(&self, a: u64, b: u64) -> Result<Option<f32>> {
        let reader = self.query.reader;
        let (a, b) = (reader.reconstruct(a)?, reader.reconstruct(b)?);
        let score = score_of_pair(reader.metric().nearness(), &a, &b);
        Ok(Some(score).filter(|score| score.is_finite()).map(|score| reader.metric().flip(score + 0.0)))
    }

    /// The distances to several.
    ///
    /// # Errors
    /// As [`distance`](Self::distance).
    pub fn distances(&mut self, ids: &[u64]) -> Result<Vec<Option<f32>>> {
        ids.iter().map(|id| self.distance(*id)).collect()
    }
}

fn code_of(view: &dyn View, model: &Model, row: u32, slot: ids::Slot) -> Result<Vec<u8>> {
    match view.code_at(slot, &model.geometry)? {
        Some((code, resident)) if stands_with(view, row, resident)? => Ok(code),
        _ => Err(Error::corrupt("slots", row.into(), format!("{slot:?} does not hold the row"))),
    }
}

impl std::fmt::Debug for PreparedQuery<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedQuery").field("query", &self.prepared).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ListScanner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListScanner").field("list", &self.list).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for DistanceComputer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistanceComputer").field("query", &self.query.prepared).finish_non_exhaustive()
    }
}
