//! Selectors at work: an [`IdSelector`] speaks of ids, entries carry row numbers.
//!
//! Before a search the selector becomes a bitmap of rows where that is cheaper than asking entry by
//! entry; otherwise the id of each entry that could still win is looked up. The answers are the same. A search that goes
//! further where few rows are admitted ([`FilterMode::Adaptive`](crate::FilterMode)) asks a sample of rows first: a
//! selector that is thin becomes a bitmap, which the search's parameters remember.

use super::twins::for_each_twin;
use super::view::View;
use crate::math::selector::{IdSelector, Resolved, RowSet};
use crate::storage::format::Header;
use crate::{Result, SearchParams};
use std::ops::Range;
use std::sync::Arc;

/// A selector prepared for one search.
pub(crate) enum Filter {
    All,
    Rows(Arc<RowSet>),
    /// All rows but these.
    Without(Range<u32>),
    Ids(IdSelector),
}

/// Few enough ids to look each of them up, whatever the search costs.
const FEW_IDS: usize = 256;

/// A look-up by id takes as long as asking so many rows in a walk through all of them.
const ROWS_A_LOOK_UP: u64 = 128;

/// Finding the id of a row takes as long as asking so many in a walk through all of them.
const ROWS_AN_ID: f64 = 8.0;

/// Rows that are asked to learn whether a selector is thin, the lists they are from at most, and the share of them from which it is not.
const SAMPLED: usize = 256;
const SAMPLED_LISTS: u32 = 16;
const DENSE: f64 = 1.0 / 16.0;

/// A selector that admits few rows, as far as a sample knows, with their number; or one that admits many.
pub(crate) struct Sized {
    pub(crate) filter: Filter,
    /// Where the filter is a bitmap, and the selector is thin.
    pub(crate) matching: Option<usize>,
    /// Of all rows, as far as is known.
    pub(crate) share: f64,
}

impl Filter {
    /// Prepares `selector` for a search that will scan about `scanned` entries in all.
    pub(crate) fn new(view: &dyn View, selector: Option<&IdSelector>, scanned: usize) -> Result<Self> {
        let Some(selector) = selector.filter(|selector| !selector.is_all()) else {
            return Ok(Filter::All);
        };
        if let Some(ids) = selector.exact_ids(FEW_IDS.max(scanned / 8)) {
            return Ok(Filter::Rows(Arc::new(looked_up(view, &ids)?)));
        }
        if (scanned as u64) < view.header().ntotal {
            return Ok(Filter::Ids(selector.clone()));
        }
        Ok(Filter::Rows(Arc::new(walked(view, selector)?)))
    }

    /// The same for a search of about `scanned` entries in all that goes further where few rows are admitted. What it
    /// depends on follows from the selector and the state of the index alone: one query is answered as a batch is.
    pub(crate) fn sized(view: &dyn View, params: &SearchParams, scanned: usize) -> Result<Sized> {
        let dense = |filter, share| Ok(Sized { filter, matching: None, share });
        let Some(selector) = params.selector.as_ref().filter(|selector| !selector.is_all()) else {
            return dense(Filter::All, 1.0);
        };
        let header = view.header();
        if let IdSelector::Not(excluded) = selector
            && let Some(ids) = excluded.exact_ids(look_ups_max(header))
            && ids.len() as u64 <= header.ntotal / 2
        {
            let mut rows = RowSet::full(header.next_row);
            looked_up(view, &ids)?.iter().for_each(|row| rows.remove(row));
            let share = 1.0 - ids.len() as f64 / header.ntotal.max(1) as f64;
            return dense(Filter::Rows(Arc::new(rows)), share);
        }
        let state = (header.uuid, header.seq, header.nonce);
        let known = params.resolved.get(state);
        let again = known.is_some();
        let resolved = match known {
            Some(known) => known,
            None => params.resolved.set(state, resolve(view, selector)?),
        };
        match resolved {
            Resolved::Thin(rows) => {
                let matching = rows.len();
                let share = matching as f64 / header.ntotal.max(1) as f64;
                Ok(Sized { filter: Filter::Rows(rows), matching: Some(matching), share })
            }
            Resolved::DenseRows(rows, share) => dense(Filter::Rows(rows), share),
            // A walk pays where it asks about fewer rows than the search would, or is of use again.
            Resolved::Dense(share)
                if again || scanned as f64 / share * ROWS_AN_ID >= header.ntotal as f64 =>
            {
                let rows = Arc::new(walked(view, selector)?);
                params.resolved.set(state, Resolved::DenseRows(rows.clone(), share));
                dense(Filter::Rows(rows), share)
            }
            Resolved::Dense(share) => dense(Filter::Ids(selector.clone()), share),
        }
    }

    pub(crate) fn is_all(&self) -> bool {
        matches!(self, Filter::All)
    }

    /// True if the entry of `row` may be in the answer.
    pub(crate) fn admits(&self, view: &dyn View, row: u32) -> Result<bool> {
        match self {
            Filter::All => Ok(true),
            Filter::Rows(set) => Ok(set.contains(row)),
            Filter::Without(rows) => Ok(!rows.contains(&row)),
            Filter::Ids(selector) => Ok(selector.contains(view.id(row)?)),
        }
    }
}

/// Ids that are looked up one by one rather than found in a walk through all.
fn look_ups_max(header: &Header) -> usize {
    FEW_IDS.max((header.ntotal / ROWS_A_LOOK_UP) as usize)
}

/// What a selector is: thin if it can be listed, or admits few of a sample.
fn resolve(view: &dyn View, selector: &IdSelector) -> Result<Resolved> {
    if let Some(ids) = selector.exact_ids(look_ups_max(view.header())) {
        return Ok(Resolved::Thin(Arc::new(looked_up(view, &ids)?)));
    }
    match share(view, selector)? {
        share if share >= DENSE => Ok(Resolved::Dense(share)),
        _ => Ok(Resolved::Thin(Arc::new(walked(view, selector)?))),
    }
}

/// The share of a sample that is selected. The sample is the rows of some lists whose ids hash lowest, which says nothing of row
/// numbers: shards answer like one index.
fn share(view: &dyn View, selector: &IdSelector) -> Result<f64> {
    let nlist = view.header().nlist.max(1);
    let lists = nlist.min(SAMPLED_LISTS);
    let (mut asked, mut selected) = (0usize, 0);
    for i in 0..lists {
        let list = (u64::from(i) * u64::from(nlist) / u64::from(lists)) as u32;
        let mut ids = ids_of(view, list)?;
        let some = ids.len().min(SAMPLED / lists as usize);
        if some > 0 && some < ids.len() {
            ids.select_nth_unstable_by_key(some - 1, |id| mixed(*id));
        }
        asked += some;
        selected += ids[..some].iter().filter(|id| selector.contains(**id)).count();
    }
    Ok(selected as f64 / asked.max(1) as f64)
}

/// The last steps of MurmurHash3: different ids have different hashes, which have nothing in common with how anybody numbers.
fn mixed(id: u64) -> u64 {
    let id = (id ^ (id >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let id = (id ^ (id >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    id ^ (id >> 33)
}

/// The ids of a list's rows.
fn ids_of(view: &dyn View, list: u32) -> Result<Vec<u64>> {
    let (mut ids, shares) = (Vec::new(), view.header().twins > 0);
    view.visit(list, &mut |run| {
        for row in run.rows {
            let mut take = |row: u32| {
                ids.push(view.id(row)?);
                Ok(true)
            };
            match shares {
                true => for_each_twin(view, row.get(), take)?,
                false => take(row.get()).map(drop)?,
            }
        }
        Ok(())
    })?;
    Ok(ids)
}

fn looked_up(view: &dyn View, ids: &[u64]) -> Result<RowSet> {
    let mut set = RowSet::new(view.header().next_row);
    for id in ids {
        if let Some(row) = view.row_of(*id)? {
            set.insert(row);
        }
    }
    Ok(set)
}

fn walked(view: &dyn View, selector: &IdSelector) -> Result<RowSet> {
    let mut set = RowSet::new(view.header().next_row);
    view.for_each_id(&mut |row, id| {
        if selector.contains(id) {
            set.insert(row);
        }
    })?;
    Ok(set)
}
