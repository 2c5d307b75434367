//! Searches that say where what they found stands: FAISS's `store_pairs`.
//!
//! ```text
//! a row in one list    its slot
//! a row in two lists   of its entries in the lists that the query looked into:
//!                        the one whose score is the distance reported, or else the one in the list that was looked into first
//! ```
//! Lists are looked into in the order of a query's probes, and a limit ends that at some entry. So if any entry of a row was scored, the one
//! in the earlier list was; the other is named only where the row has its very score. Kept rows give distances that are no entry's.

use super::codes::Slot;
use super::preassigned::Preassigned;
use super::reader::{IndexReader, Neighbor};
use super::scanner::{Room, enter};
use crate::codec::Scanner;
use crate::math::topk::Hit;
use crate::params::SearchParams;
use crate::storage::ids;
use crate::{Result, Rows};

/// A vector that was found, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Its id and distance.
    pub neighbor: Neighbor,
    /// Its entry. Where vectors stand in two lists, the one that was found: in a list that the query looked into, the one whose code has the
    /// distance if both are; where kept rows have the last word, the one in the list that is nearer to the query. A vector that a
    /// [filter](crate::FilterMode::Adaptive) found without looking into its lists is said to stand in its own nearest.
    pub slot: Slot,
}

/// The lists that one query looked into, in that order, and its scores with their centroids.
struct Looked<'q> {
    query: &'q [f32],
    lists: &'q [u32],
    scores: &'q [f32],
}

impl IndexReader<'_> {
    /// [`search_batch`](Self::search_batch) with where everything stands that was found: FAISS's `store_pairs`.
    ///
    /// # Errors
    /// As `search_batch`.
    pub fn search_slots(
        &self,
        queries: Rows<'_>,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Placed>>> {
        let found = self.top_k_hits(queries, k, f32::INFINITY, params, None)?;
        self.placed_by_search(queries, found, params, Some(k))
    }

    /// [`range_search_batch`](Self::range_search_batch) with where everything stands that was found.
    ///
    /// # Errors
    /// As `range_search_batch`.
    pub fn range_search_slots(
        &self,
        queries: Rows<'_>,
        radius: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Placed>>> {
        let found = self.range_hits(queries, radius, params, None)?;
        self.placed_by_search(queries, found, params, None)
    }

    /// [`search_preassigned`](Self::search_preassigned) with where everything stands that was found.
    ///
    /// # Errors
    /// As `search_preassigned`.
    pub fn search_preassigned_slots(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Placed>>> {
        let found = self.preassigned_hits(queries, lists, k, params)?;
        self.placed(queries, found, lists, params.nprobe.unwrap_or(usize::MAX))
    }

    /// [`range_search_preassigned`](Self::range_search_preassigned) with where everything stands that was found.
    ///
    /// # Errors
    /// As `range_search_preassigned`.
    pub fn range_search_preassigned_slots(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        radius: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Placed>>> {
        let found = self.preassigned_range_hits(queries, lists, radius, params)?;
        self.placed(queries, found, lists, params.nprobe.unwrap_or(usize::MAX))
    }

    /// Of a search in the nearest lists, which are looked for again where it matters.
    fn placed_by_search(
        &self,
        queries: Rows<'_>,
        found: Vec<Vec<Hit>>,
        params: &SearchParams,
        k: Option<usize>,
    ) -> Result<Vec<Vec<Placed>>> {
        let lists = match self.model.spills() {
            true => self.probe_by(queries, self.lists_probed(params, k)?, params.quantizer.as_ref())?,
            false => Preassigned::default(),
        };
        self.placed(queries, found, &lists, usize::MAX)
    }

    /// Where the hits of each query stand, which looked into the first `most` of its `lists`.
    fn placed(
        &self,
        queries: Rows<'_>,
        found: Vec<Vec<Hit>>,
        lists: &Preassigned,
        most: usize,
    ) -> Result<Vec<Vec<Placed>>> {
        if !self.model.spills() {
            let one = |hit: &Hit| self.placed_at(hit, self.first_slot(hit.row)?);
            return found.iter().map(|hits| hits.iter().map(one).collect()).collect();
        }
        let prepared = self.model.prepare(queries)?;
        let projected = self.model.project(Rows::of(&prepared, self.dim()))?;
        let queries = Rows::of(&projected, self.model.inner_dim());
        let of_query = |(number, hits): (usize, Vec<Hit>)| {
            let query = queries.row(number);
            let scores = lists.scores(&self.model, query, number);
            let lists = lists.lists(number);
            let lists = &lists[..lists.len().min(most)];
            self.placed_of_two(&hits, &Looked { query, lists, scores: &scores })
        };
        found.into_iter().enumerate().map(of_query).collect()
    }

    /// Where rows stand that have two entries each.
    fn placed_of_two(&self, hits: &[Hit], looked: &Looked<'_>) -> Result<Vec<Placed>> {
        let mut scanner = self.model.codec.scanner(Rows::of(looked.query, looked.query.len()));
        let mut room = Room::default();
        hits.iter()
            .map(|hit| {
                let slots = self.view.slots_of(hit.row, &self.model.slots_column, self.model.places())?;
                let mut entries = Vec::with_capacity(2);
                for slot in slots.iter() {
                    let within = self.slot_within(hit.row, slot)?;
                    let at = looked.lists.iter().position(|list| *list == within.list);
                    entries.extend(at.map(|at| (at, slot)));
                }
                entries.sort_by_key(|(at, _)| *at);
                let slot = match entries[..] {
                    [] => self.first_slot(hit.row)?,
                    [(_, slot)] => slot,
                    [(_, first), ..] => {
                        let mut its = None;
                        for (at, slot) in entries {
                            let score = self.entry_score(&mut *scanner, &mut room, looked, at, slot)?;
                            if its.is_none() && score == Some(hit.score) {
                                its = Some(slot);
                            }
                        }
                        its.unwrap_or(first)
                    }
                };
                self.placed_at(hit, slot)
            })
            .collect()
    }

    /// The score of an entry in the list that was looked into as number `at`.
    fn entry_score(
        &self,
        scanner: &mut dyn Scanner,
        room: &mut Room,
        looked: &Looked<'_>,
        at: usize,
        slot: ids::Slot,
    ) -> Result<Option<f32>> {
        let Some((code, _)) = self.view.code_at(slot, &self.model.geometry)? else { return Ok(None) };
        enter(&self.model, scanner, looked.lists[at], looked.scores[at]);
        Ok(room.score(&self.model, scanner, &code))
    }

    fn first_slot(&self, row: u32) -> Result<ids::Slot> {
        self.view.slot_of(row, &self.model.slots_column, self.model.places())
    }

    fn placed_at(&self, hit: &Hit, slot: ids::Slot) -> Result<Placed> {
        let neighbor = Neighbor { id: hit.id, distance: self.metric().flip(hit.score) };
        Ok(Placed { neighbor, slot: self.slot_within(hit.row, slot)? })
    }
}
