//! Maintaining: lists that have grown too long are split, lists that have become tiny are dissolved, and the others stay
//! as they are, but for rows that a new centroid is nearer to.
//!
//! ```text
//! lists      0    1    2    3    4          mean 200, split beyond 3, dissolve below .1
//! entries   90  790   80   10   30
//!
//! read       the rows of 1 and 3; of the lists around 1 the rows that a new centroid is nearer to
//! make       four centroids by k-means over the rows of 1; none of 3
//! number     0 as it was, 1 a new one, 2 as it was, 3 a new one, 4 as it was, 5 and 6 new ones
//!            (with fewer new ones than numbers left over, the last lists move into the gaps, codes and all)
//! write      those rows leave their lists, are assigned anew among all centroids, encoded and appended;
//!            the specification counts the lists that there are now
//! ```
//! So a code is always relative to the centroid of the list that it stands in, and the numbers of lists stay without
//! gaps. All reading and all arithmetic that can fail comes before the first write: a repair after a write that failed
//! would find the new codes with the old centroids.
//!
//! A number may come to stand for another centroid, which training never lets happen. Snapshots do not mind: they hold their
//! model and their tables, and a list that changed has another change number, so that no pin of it is taken over.

use super::add::{Encoded, Moved, SlotChange, encode};
use super::model::{Model, Trained};
use super::rerank;
use super::train::Batch;
use super::twins::{self, Chains};
use super::writer::{IndexWriter, random};
use crate::storage::column::ABSENT;
use crate::storage::format::{LIST_ENTRY, ListEntry};
use crate::storage::ids::Slot;
use crate::storage::lists::{ListEdit, block_key, directory, store_entries};
use crate::storage::{Names, Tables};
use crate::{ClusteringParams, Error, IndexSpec, Observer, Result, Rows, TrainParams};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Which lists [`IndexWriter::maintain`] changes.
///
/// ```
/// # use vellum::MaintainParams;
/// let params = MaintainParams { split_beyond: 2.5, ..MaintainParams::default() };
/// assert_eq!(params.dissolve_below, 0.125);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MaintainParams {
    /// Entries that a list should have. `None`: as many as lists have now in the mean. Say a number to have more lists
    /// as there are more vectors: a list's mean grows with the index, and with it what is too long.
    pub list_entries: Option<f64>,
    /// A list of more than so many times that is split, into as many as would have that each. More than 1. Default 4:
    /// hardly any list of a k-means is so long.
    pub split_beyond: f64,
    /// A list of less than so many times that is dissolved: its vectors go to other lists. 0 dissolves none. Less than 1.
    /// Default 0.125.
    pub dissolve_below: f64,
    /// Of so many of the lists that are nearest to one that is split, the rows that are nearer to one of the new centroids
    /// move there. 0 touches no other list. Default 16.
    pub neighbours: usize,
    /// Vectors of the lists to be changed that one call takes on at most, but one list always: the longest first. What is left
    /// is for the next call. `None`: as many as take 256 MiB.
    pub rows_max: Option<u64>,
}

impl Default for MaintainParams {
    fn default() -> Self {
        MaintainParams {
            list_entries: None,
            split_beyond: 4.0,
            dissolve_below: 0.125,
            neighbours: 16,
            rows_max: None,
        }
    }
}

/// What [`IndexWriter::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintainReport {
    /// Lists that were split.
    pub split: usize,
    /// Lists that were dissolved.
    pub dissolved: usize,
    /// Lists that there are now.
    pub lists: usize,
    /// Vectors that were encoded anew.
    pub moved: u64,
    /// Lists that wait for the next call, after one that has changed something. Lists that cannot be split, because their
    /// vectors are all equal, do not wait.
    pub left: usize,
}

/// Bytes of vectors that one call takes on when nobody says.
const TAKEN_BYTES: usize = 256 << 20;
/// Bytes of vectors that are encoded at once.
const ENCODED_BYTES: usize = 64 << 20;

impl MaintainParams {
    fn check(&self) -> Result<()> {
        let bad = |name, what: String| Err(Error::Parameter { name, what });
        if !self.split_beyond.is_finite() || self.split_beyond <= 1.0 {
            return bad("split_beyond", format!("{}, expected more than 1", self.split_beyond));
        }
        if !(0.0..1.0).contains(&self.dissolve_below) {
            return bad(
                "dissolve_below",
                format!("{}, expected 0 or more and less than 1", self.dissolve_below),
            );
        }
        match self.list_entries {
            Some(entries) if !entries.is_finite() || entries < 1.0 => {
                bad("list_entries", format!("{entries}, expected 1 or more"))
            }
            _ => Ok(()),
        }
    }
}

/// A list to be changed: its entries, and into how many it is to be split if it is not to be dissolved.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wanted {
    list: u32,
    n: u32,
    parts: Option<usize>,
}

impl Wanted {
    /// The longest first, then the tiniest; `lists_min` lists must stay.
    fn of_sizes(sizes: &[u32], params: &MaintainParams, lists_min: usize) -> Vec<Self> {
        let total: u64 = sizes.iter().map(|n| u64::from(*n)).sum();
        let entries = params.list_entries.unwrap_or(total as f64 / sizes.len() as f64);
        let (most, least) = (entries * params.split_beyond, entries * params.dissolve_below);
        let all = || (0..).zip(sizes.iter().copied());
        let split = |(list, n): (u32, u32)| {
            let parts = ((f64::from(n) / entries).round() as usize).max(2);
            Wanted { list, n, parts: Some(parts) }
        };
        let mut long: Vec<Self> = all().filter(|(_, n)| f64::from(*n) > most && *n > 1).map(split).collect();
        long.sort_by_key(|wanted| (u32::MAX - wanted.n, wanted.list));
        let dissolve = |(list, n)| Wanted { list, n, parts: None };
        let mut tiny: Vec<Self> = all().filter(|(_, n)| f64::from(*n) < least).map(dissolve).collect();
        tiny.sort_by_key(|wanted| (wanted.n, wanted.list));
        tiny.truncate(sizes.len().saturating_sub(lists_min));
        long.extend(tiny);
        long
    }
}

/// What is to be done.
#[derive(Default)]
struct Plan {
    /// Lists that are split, and the centroids that they are split into.
    split: Vec<u32>,
    made: Vec<f32>,
    dissolve: Vec<u32>,
    /// Lists beyond what one call takes on.
    left: usize,
}

impl Plan {
    /// Lists whose centroid is no more, ascending.
    fn gone(&self) -> Vec<u32> {
        let mut gone = [&self.split[..], &self.dissolve[..]].concat();
        gone.sort_unstable();
        gone
    }
}

/// Which centroid each number stands for afterwards.
struct Numbering {
    /// Lists whose centroid is no more, ascending.
    gone: Vec<u32>,
    /// Numbers of the new centroids, one after the other.
    fresh: Vec<u32>,
    /// Lists that move to other numbers: from, to.
    moves: Vec<(u32, u32)>,
    nlist: u32,
}

impl Numbering {
    fn new(nlist: u32, gone: Vec<u32>, fresh: u32) -> Self {
        let after = nlist + fresh - gone.len() as u32;
        // Numbers left over, the lowest first, then new ones.
        let fresh: Vec<u32> = gone.iter().copied().chain(nlist..).take(fresh as usize).collect();
        let gaps = gone.iter().skip(fresh.len()).copied().filter(|gap| *gap < after);
        let last = (after..nlist).filter(|list| gone.binary_search(list).is_err());
        let moves = last.zip(gaps).collect();
        Numbering { gone, fresh, moves, nlist: after }
    }

    /// All centroids by their new numbers.
    fn centroids(&self, old: Rows<'_>, made: &[f32]) -> Vec<f32> {
        let dim = old.dim();
        let mut all = old.as_slice().to_vec();
        all.resize(all.len().max(self.nlist as usize * dim), 0.0);
        let at = |list: u32| list as usize * dim..(list as usize + 1) * dim;
        for &(from, to) in &self.moves {
            all.copy_within(at(from), at(to).start);
        }
        for (list, centroid) in self.fresh.iter().zip(made.chunks_exact(dim)) {
            all[at(*list)].copy_from_slice(centroid);
        }
        all.truncate(self.nlist as usize * dim);
        all
    }
}

/// Rows on their way, with their vectors as they passed the door.
#[derive(Default)]
struct Moving {
    numbers: Vec<u32>,
    vectors: Vec<f32>,
}

impl Moving {
    fn push(&mut self, number: u32, vector: &[f32]) {
        self.numbers.push(number);
        self.vectors.extend_from_slice(vector);
    }
}

impl IndexWriter<'_> {
    /// Splits lists that are much longer than others and dissolves tiny ones, which is what growing and shrinking in places
    /// leaves behind; other lists are not rewritten, but for rows that a new centroid is nearer to. Nothing else is
    /// trained: transforms and what training made for codes stay. Afterwards `spec` counts the lists that there are.
    ///
    /// New centroids come from k-means with the parameters of the last training, over kept rows or else decoded codes. A vector
    /// that moves is encoded anew, relative to its new centroid; where no rows are kept, from what its code says, which
    /// loses a little. A vector that moves goes to its nearest list, whatever [`add_preassigned`](Self::add_preassigned) said.
    ///
    /// The observer is ticked as `"split"` before the first write, where a cancelled call leaves the index as it was, and
    /// not later.
    ///
    /// ```no_run
    /// # use vellum::*;
    /// # fn with(mut index: IndexWriter<'_>) -> Result<()> {
    /// while index.maintain(&MaintainParams::default(), &mut Observer::none())?.left > 0 {}
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Spec`] for an index without lists, and for spectral hashes whose thresholds belong to lists; [`Error::Untrained`];
    /// [`Error::CannotDecode`] as [`train`](Self::train); [`Error::Parameter`]; [`Error::Cancelled`].
    pub fn maintain(
        &mut self,
        params: &MaintainParams,
        observer: &mut Observer<'_>,
    ) -> Result<MaintainReport> {
        params.check()?;
        let (spec, _) = self.spec_of_lists(self.header.ntotal as usize)?;
        if !self.header.trained {
            return Err(Error::Untrained { index: spec.to_string() });
        }
        if self.model.finder.is_some() {
            let what = "its lists are found by something other than their centroids: `train` makes new ones";
            return Err(Error::Spec { text: spec.to_string(), what: what.into() });
        }
        let nlist = self.model.nlist();
        let spec = IndexSpec { nlist: Some(nlist), ..spec };
        self.check_lists_alone()?;
        let rows_max = params.rows_max.unwrap_or((TAKEN_BYTES / (4 * spec.dim)) as u64);
        let plan = self.plan(&spec, params, rows_max, observer)?;
        let gone = plan.gone();
        if gone.is_empty() {
            return Ok(MaintainReport { lists: nlist, left: plan.left, ..MaintainReport::default() });
        }
        let fresh = (plan.made.len() / spec.inner_dim()) as u32;
        let numbering = Numbering::new(nlist as u32, gone, fresh);
        let model = self.renumbered(&spec, &numbering, &plan.made)?;
        let mut moving = self.all_of(&numbering.gone)?;
        self.drawn_in(&model, &numbering, &plan.split, params.neighbours, &mut moving)?;
        let encoded = self.encoded_anew(&model, &moving)?;
        let done = numbering.gone.len() as u64;
        observer.tick("split", done + 1, done + 1)?;
        let mut report = MaintainReport {
            split: plan.split.len(),
            dissolved: plan.dissolve.len(),
            lists: model.nlist(),
            moved: moving.numbers.len() as u64,
            left: plan.left,
        };
        if self.model.shares() {
            report.moved =
                self.change(|writer| writer.rearrange_chains(model, &numbering, &moving, &encoded))?;
        } else {
            self.change(|writer| writer.rearrange(model, &numbering, &moving, &encoded))?;
        }
        Ok(report)
    }

    fn sizes(&self) -> Result<Vec<u32>> {
        let lists = self.header.first_list..self.header.first_list + self.header.nlist;
        Ok(self.tables.list_entries(lists)?.iter().map(|entry| entry.n).collect())
    }

    /// Chooses lists and makes centroids, for no more vectors than these but one list always.
    fn plan(
        &self,
        spec: &IndexSpec,
        params: &MaintainParams,
        rows_max: u64,
        observer: &mut Observer<'_>,
    ) -> Result<Plan> {
        let lists_min = spec.supers().unwrap_or(1).max(if spec.spill { 2 } else { 1 });
        let wanted = Wanted::of_sizes(&self.sizes()?, params, lists_min);
        let training = self.reader().training()?.unwrap_or_default();
        let (mut plan, mut rows) = (Plan::default(), 0);
        for (at, &Wanted { list, n, parts }) in wanted.iter().enumerate() {
            // Empty lists are not for nothing either.
            let work = u64::from(n).max(1);
            if rows > 0 && rows + work > rows_max {
                plan.left = wanted.len() - at;
                break;
            }
            observer.tick("split", at as u64, wanted.len() as u64 + 1)?;
            match parts {
                None => plan.dissolve.push(list),
                Some(parts) => match self.split_list(spec, list, parts, &training)? {
                    Some(made) => {
                        plan.split.push(list);
                        plan.made.extend(made);
                    }
                    // One that cannot be split is no work.
                    None => continue,
                },
            }
            rows += work;
        }
        Ok(plan)
    }

    /// Centroids to split a list by, if it can be split.
    fn split_list(
        &self,
        spec: &IndexSpec,
        list: u32,
        parts: usize,
        training: &TrainParams,
    ) -> Result<Option<Vec<f32>>> {
        let own = self.own_rows(list)?;
        let rows = self.model.project(Rows::of(&own.vectors, spec.dim))?;
        let rows = Rows::of(&rows, spec.inner_dim());
        let parts = parts.min(rows.len());
        if parts < 2 {
            return Ok(None);
        }
        let seed = training.clustering.seed.wrapping_add(u64::from(list));
        let clustering = ClusteringParams { frozen_centroids: false, seed, ..training.clustering.clone() };
        let params = TrainParams { clustering, ..TrainParams::default() };
        let halves = IndexSpec { nlist: Some(parts), ..spec.clone() };
        let made = self.cluster_lists(&halves, rows, None, &params, None, &mut Observer::none())?;
        let centroids = used(spec, made.done.centroids, rows);
        Ok((centroids.len() >= 2 * spec.inner_dim()).then_some(centroids))
    }

    /// The model with these centroids.
    fn renumbered(&self, spec: &IndexSpec, numbering: &Numbering, made: &[f32]) -> Result<Model> {
        let room = self.header.first_list.checked_add(numbering.nlist).is_some_and(|end| end < u32::MAX);
        let (Some(old), true) = (self.model.centroids(), room) else {
            return Err(Error::IndexFull { what: "list numbers" });
        };
        let spec = IndexSpec { nlist: Some(numbering.nlist as usize), ..spec.clone() };
        spec.check()?;
        let centroids = numbering.centroids(old, made);
        let tree = Self::in_pool(&self.pool, || Model::grow_tree(&spec, &centroids, &mut Observer::none()))?;
        let (chain, codec) = (self.model.chain.clone(), self.same_codec(&spec)?);
        // Drawn, as a training's is.
        Model::trained(&spec, Trained { centroids, tree, finder: None, chain, codec }, random())
    }

    /// The entries of a list.
    fn batch_of(&self, list: u32) -> Result<Batch> {
        let (number, geometry) = (self.header.first_list + list, self.model.geometry);
        let entry = self.tables.list_entry(number)?;
        let mut batch = Batch::default();
        self.tables.for_each_block(&geometry, number, &entry, |_, block| {
            batch.take(&geometry, block.run, list, |_| true);
            Ok(())
        })?;
        Ok(batch)
    }

    /// The rows that a list is the nearest of.
    fn own_rows(&self, list: u32) -> Result<Moving> {
        let (batch, mut own) = (self.batch_of(list)?, Moving::default());
        let code_bytes = self.model.codec.layout().code_bytes();
        let reader = self.reader();
        for (row, code) in batch.numbers.iter().zip(batch.codes.chunks_exact(code_bytes)) {
            if self.is_second(*row, list)? {
                continue;
            }
            match rerank::kept_vector(&*reader.view, &self.model, *row)? {
                Some(vector) => own.push(*row, &vector),
                None => own.push(*row, &self.model.decode_for_users(list, code)?),
            }
        }
        Ok(own)
    }

    /// The list is the second one of the row.
    fn is_second(&self, row: u32, list: u32) -> Result<bool> {
        if !self.model.spills() {
            return Ok(false);
        }
        let first = self.slots_of(row)?.first;
        Ok(first.is_none_or(|slot| slot.list != self.header.first_list + list))
    }

    /// All rows with an entry in one of these lists, each once.
    fn all_of(&self, lists: &[u32]) -> Result<Moving> {
        let mut all = Moving::default();
        for &list in lists {
            let own = self.own_rows(list)?;
            all.numbers.extend(own.numbers);
            all.vectors.extend(own.vectors);
        }
        if !self.model.spills() {
            return Ok(all);
        }
        let mut seen: HashSet<u32> = all.numbers.iter().copied().collect();
        let reader = self.reader();
        for &list in lists {
            for row in self.batch_of(list)?.numbers {
                if seen.insert(row) {
                    match rerank::kept_vector(&*reader.view, &self.model, row)? {
                        Some(vector) => all.push(row, &vector),
                        None => all.push(row, &self.decoded(row)?),
                    }
                }
            }
        }
        Ok(all)
    }

    /// Adds the rows of lists around those that are split to which a new centroid is nearer than their own.
    fn drawn_in(
        &self,
        model: &Model,
        numbering: &Numbering,
        split: &[u32],
        neighbours: usize,
        moving: &mut Moving,
    ) -> Result<()> {
        let (Some(centroids), true) = (self.model.centroids(), neighbours > 0) else { return Ok(()) };
        let parents: Vec<f32> =
            split.iter().flat_map(|list| centroids.row(*list as usize)).copied().collect();
        let nprobe = neighbours.saturating_add(1).min(self.model.nlist());
        let parents = Rows::of(&parents, centroids.dim());
        let probes = self.model.probe(parents, parents, nprobe, None)?;
        let is_gone = |list: &u32| numbering.gone.binary_search(list).is_ok();
        let around: BTreeSet<u32> = probes.lists.iter().copied().filter(|list| !is_gone(list)).collect();
        let fresh: HashSet<u32> = numbering.fresh.iter().copied().collect();
        let mut seen: HashSet<u32> = moving.numbers.iter().copied().collect();
        for list in around {
            let own = self.own_rows(list)?;
            let rows = Rows::of(&own.vectors, model.spec.dim);
            let projected = model.project(rows)?;
            let projected = Rows::of(&projected, model.inner_dim());
            let nearest = Self::in_pool(&self.pool, || model.assign(rows, projected))?;
            for ((row, number), list) in rows.iter().zip(&own.numbers).zip(nearest) {
                if fresh.contains(&list) && seen.insert(*number) {
                    moving.push(*number, row);
                }
            }
        }
        Ok(())
    }

    /// The rows encoded in their new lists, some at a time.
    fn encoded_anew<'m>(&self, model: &Model, moving: &'m Moving) -> Result<Vec<Encoded<'m>>> {
        let step = (ENCODED_BYTES / (4 * model.spec.dim)).max(1) * model.spec.dim;
        let part = |vectors: &'m [f32]| {
            let rows = Rows::of(vectors, model.spec.dim);
            let projected = model.admit(rows)?;
            let projected = Rows::of(&projected, model.inner_dim());
            let lists = model.assign(rows, projected)?;
            let codes = encode(model, projected, &lists);
            Ok(Encoded { lists, codes, rows: Cow::Borrowed(vectors) })
        };
        Self::in_pool(&self.pool, || moving.vectors.chunks(step).map(part).collect())
    }

    /// Takes the rows out of their lists and appends them to others.
    fn rearrange(
        &mut self,
        model: Model,
        numbering: &Numbering,
        moving: &Moving,
        encoded: &[Encoded<'_>],
    ) -> Result<()> {
        let (mut moved, mut others) = (Moved::default(), Vec::new());
        let first = self.header.first_list;
        for &row in &moving.numbers {
            let stays = |slot: &Slot| numbering.gone.binary_search(&(slot.list - first)).is_err();
            let slots = self.slots_of(row)?;
            others.extend(slots.iter().filter(stays).map(|slot| SlotChange { slot, row, code: None }));
            moved.away(row);
        }
        self.empty_lists(&numbering.gone)?;
        self.change_slots(others, &mut moved, &mut Observer::none())?;
        self.store_moved(moved)?;
        self.renumber_lists(model, numbering)?;
        let mut numbers = &moving.numbers[..];
        for encoded in encoded {
            let (some, rest) = numbers.split_at(encoded.lists.len() / self.model.places());
            self.append_new(encoded, some)?;
            numbers = rest;
        }
        Ok(())
    }

    /// The same where rows share entries, of which `moving` has the heads. Returns how many rows there were.
    fn rearrange_chains(
        &mut self,
        model: Model,
        numbering: &Numbering,
        moving: &Moving,
        encoded: &[Encoded<'_>],
    ) -> Result<u64> {
        let mut all = Vec::new();
        let chains: Vec<Vec<u32>> = {
            let reader = self.reader();
            let chain = |head: &u32| twins::chain_of(&*reader.view, *head);
            moving.numbers.iter().map(chain).collect::<Result<_>>()?
        };
        chains.iter().for_each(|chain| all.extend_from_slice(chain));
        self.leave(&all, &mut Observer::none())?;
        self.empty_lists(&numbering.gone)?;
        self.renumber_lists(model, numbering)?;
        let mut left = chains.into_iter();
        for encoded in encoded {
            let mut some = Chains::default();
            left.by_ref().take(encoded.lists.len()).for_each(|chain| some.push(chain));
            self.join(encoded, &some)?;
        }
        Ok(all.len() as u64)
    }

    /// Empties lists, whatever they hold.
    fn empty_lists(&mut self, lists: &[u32]) -> Result<()> {
        let (seq, nonce, first) = (self.header.seq, self.header.nonce, self.header.first_list);
        for &list in lists {
            let keys = block_key(first + list, 0)..=block_key(first + list, u32::MAX);
            self.tables.blocks.retain_in(keys.clone(), |_, _| false)?;
            self.tables.tails.retain_in(keys, |_, _| false)?;
        }
        let empty = ListEntry { seq, nonce, ..ListEntry::default() };
        let entries = lists.iter().map(|list| (first + list, empty)).collect();
        store_entries(&mut self.tables, seq, entries)
    }

    /// Puts the model in place, and lists under the numbers that they have in it.
    fn renumber_lists(&mut self, model: Model, numbering: &Numbering) -> Result<()> {
        let (seq, first, before) = (self.header.seq, self.header.first_list, self.header.nlist);
        for &(from, to) in &numbering.moves {
            self.move_list(from, to)?;
        }
        let unused: Vec<u32> = (numbering.nlist..before).collect();
        self.empty_lists(&unused)?;
        let absent = [ABSENT; LIST_ENTRY];
        let entries = unused.iter().map(|list| (first + list, &absent[..]));
        let Tables { lists, names: Names { lists: name, .. }, .. } = &mut *self.tables;
        directory().set(lists, name, seq, entries)?;
        self.header.nlist = numbering.nlist;
        self.header.model_version = model.version;
        self.header.spec = model.spec.to_string();
        self.model = Arc::new(model);
        let model = self.model.clone();
        self.write_model(&model, seq)
    }

    /// Gives a list another number, whose list is empty.
    fn move_list(&mut self, from: u32, to: u32) -> Result<()> {
        let (seq, nonce, first) = (self.header.seq, self.header.nonce, self.header.first_list);
        let (batch, model) = (self.batch_of(from)?, self.model.clone());
        let residual = self.tables.list_entry(first + from)?.residual;
        let mut edit = ListEdit::open(&self.tables, model.geometry, first + to)?;
        let (mut moved, mut view_rows) = (Vec::new(), Vec::new());
        let codes = batch.codes.chunks_exact(model.codec.layout().code_bytes());
        for (&head, code) in batch.numbers.iter().zip(codes) {
            let offset = edit.push(&self.tables, code, head)?;
            let slot = Slot { list: first + to, offset };
            match model.shares() {
                false => view_rows.push((head, slot)),
                true => {
                    let chain = twins::chain_of(&*self.reader().view, head)?;
                    view_rows.extend(chain.into_iter().map(|row| (row, slot)));
                }
            }
        }
        edit.entry.residual = residual;
        for (row, to) in view_rows {
            let mut slots = self.slots_of(row)?;
            match slots.in_list(first + from) {
                Some(slot) => *slot = to,
                None => return Err(super::add::lost(row, Slot { list: first + from, ..to })),
            }
            moved.push((row, slots));
        }
        let stored = edit.store(&mut self.tables, seq, nonce)?;
        store_entries(&mut self.tables, seq, vec![stored])?;
        self.tables.set_slots(&model.slots_column, seq, moved.into_iter())
    }
}

/// The centroids that some of the rows are nearest to.
fn used(spec: &IndexSpec, centroids: Vec<f32>, rows: Rows<'_>) -> Vec<f32> {
    let dim = rows.dim();
    let coarse = Model::coarse(spec, centroids.clone(), None);
    let (mut lists, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len()]);
    coarse.assign(rows, &mut lists, &mut scores);
    let lists: BTreeSet<u32> = lists.into_iter().collect();
    lists
        .iter()
        .flat_map(|list| &centroids[*list as usize * dim..(*list as usize + 1) * dim])
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_are_split_and_the_tiniest_dissolved() {
        let sizes = [90, 790, 80, 10, 30];
        let params = |list_entries| MaintainParams {
            list_entries,
            split_beyond: 3.0,
            dissolve_below: 0.1,
            ..MaintainParams::default()
        };
        let wanted = |sizes: &[u32], list_entries, lists_min| -> Vec<(u32, Option<usize>)> {
            let wanted = Wanted::of_sizes(sizes, &params(list_entries), lists_min);
            wanted.iter().map(|wanted| (wanted.list, wanted.parts)).collect()
        };
        assert_eq!(wanted(&sizes, None, 1), [(1, Some(4)), (3, None)]);
        assert_eq!(wanted(&sizes, None, 5), [(1, Some(4))], "no list may go");
        assert_eq!(wanted(&sizes, Some(10.0), 1), [(1, Some(79)), (0, Some(9)), (2, Some(8))]);
        assert_eq!(wanted(&[7, 7, 7], None, 1), []);
        assert_eq!(wanted(&[0, 0], None, 1), []);
        assert_eq!(wanted(&[0, 5, 0], Some(5.0), 2), [(0, None)], "two must stay");
    }

    /// Against a list of names: every list that stays keeps its centroid under one number, and no number is without one.
    #[test]
    fn numbers_have_no_gaps() {
        for nlist in 1..7u32 {
            for set in 1..1u32 << nlist {
                let gone: Vec<u32> = (0..nlist).filter(|list| set >> list & 1 == 1).collect();
                for fresh in 0..7u32 {
                    if gone.len() as u32 == nlist && fresh == 0 {
                        continue;
                    }
                    let old: Vec<f32> = (0..nlist).map(|list| list as f32).collect();
                    let made: Vec<f32> = (0..fresh).map(|i| 100.0 + i as f32).collect();
                    let numbering = Numbering::new(nlist, gone.clone(), fresh);
                    let all = numbering.centroids(Rows::of(&old, 1), &made);
                    let mut sorted = all.clone();
                    sorted.sort_by(f32::total_cmp);
                    let stay = old.iter().copied().filter(|list| !gone.contains(&(*list as u32)));
                    assert_eq!(sorted, stay.chain(made.iter().copied()).collect::<Vec<_>>());
                    // What did not move is where it was.
                    for (list, centroid) in (0..).zip(&all).filter(|(_, centroid)| **centroid < 100.0) {
                        let moved = numbering.moves.contains(&(*centroid as u32, list));
                        assert!(moved || *centroid as u32 == list);
                    }
                    assert!(
                        numbering.fresh.iter().zip(&made).all(|(list, made)| all[*list as usize] == *made)
                    );
                }
            }
        }
    }
}
