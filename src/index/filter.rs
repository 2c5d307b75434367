//! Selectors at work: an [`IdSelector`] speaks of ids, entries carry row numbers.
//!
//! Before a search the selector becomes a bitmap of rows where that is cheaper than asking entry by
//! entry; otherwise the id of each entry that could still win is looked up. The answers are the same. A search that goes
//! further where few rows are admitted ([`FilterMode::Adaptive`](crate::FilterMode)) asks a sample of rows first: a
//! selector that is thin becomes a bitmap, which the search's parameters remember.

use super::view::View;
use crate::math::selector::{IdSelector, RowSet};
use crate::storage::format::Header;
use crate::{Result, SearchParams};
use std::sync::Arc;

/// A selector prepared for one search.
pub(crate) enum Filter {
    All,
    Rows(Arc<RowSet>),
    Ids(IdSelector),
}

/// Few enough ids to look each of them up, whatever the search costs.
const FEW_IDS: usize = 256;

/// A look-up by id takes as long as asking so many rows in a walk through all of them.
const ROWS_A_LOOK_UP: u64 = 128;

/// Rows that are asked to learn whether a selector is thin, and of how many that are selected it is not.
const SAMPLED: u32 = 256;
const DENSE: usize = SAMPLED as usize / 16;

/// A selector that admits few rows, as far as a sample knows, with their number; or one that admits many.
pub(crate) struct Sized {
    pub(crate) filter: Filter,
    /// Where the filter is a bitmap, and the selector is thin.
    pub(crate) matching: Option<usize>,
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

    /// The same for a search that depends on how many rows there are. What it depends on follows from the selector and the
    /// state of the index alone, not from what is searched: one query is answered as a batch is.
    pub(crate) fn sized(view: &dyn View, params: &SearchParams, scanned: usize) -> Result<Sized> {
        let all = Sized { filter: Filter::All, matching: None };
        let Some(selector) = params.selector.as_ref().filter(|selector| !selector.is_all()) else {
            return Ok(all);
        };
        let header = view.header();
        let state = (header.uuid, header.seq, header.nonce);
        if let IdSelector::Not(excluded) = selector
            && let Some(ids) = excluded.exact_ids(look_ups_max(header))
            && ids.len() as u64 <= header.ntotal / 2
        {
            let mut rows = RowSet::full(header.next_row);
            looked_up(view, &ids)?.iter().for_each(|row| rows.remove(row));
            return Ok(Sized { filter: Filter::Rows(Arc::new(rows)), matching: None });
        }
        if let Some(rows) = params.resolved.rows(state, || few(view, selector))? {
            let matching = Some(rows.len());
            return Ok(Sized { filter: Filter::Rows(rows), matching });
        }
        Ok(Sized { filter: Filter::new(view, Some(selector), scanned)?, matching: None })
    }

    pub(crate) fn is_all(&self) -> bool {
        matches!(self, Filter::All)
    }

    /// True if the entry of `row` may be in the answer.
    pub(crate) fn admits(&self, view: &dyn View, row: u32) -> Result<bool> {
        match self {
            Filter::All => Ok(true),
            Filter::Rows(set) => Ok(set.contains(row)),
            Filter::Ids(selector) => Ok(selector.contains(view.id(row)?)),
        }
    }
}

/// Ids that are looked up one by one rather than found in a walk through all.
fn look_ups_max(header: &Header) -> usize {
    FEW_IDS.max((header.ntotal / ROWS_A_LOOK_UP) as usize)
}

/// The rows of a selector that can be listed, or that admits few of a sample.
fn few(view: &dyn View, selector: &IdSelector) -> Result<Option<RowSet>> {
    if let Some(ids) = selector.exact_ids(look_ups_max(view.header())) {
        return looked_up(view, &ids).map(Some);
    }
    match is_dense(view, selector)? {
        true => Ok(None),
        false => walked(view, selector).map(Some),
    }
}

/// Asks rows that are spread evenly over the numbers, those of them that are there.
fn is_dense(view: &dyn View, selector: &IdSelector) -> Result<bool> {
    let next_row = u64::from(view.header().next_row);
    let (mut asked, mut selected) = (0, 0);
    for i in 0..u64::from(SAMPLED).min(next_row) {
        let row = (i * next_row / u64::from(SAMPLED).min(next_row)) as u32;
        if let Some(id) = view.id_if_there(row)? {
            asked += 1;
            selected += usize::from(selector.contains(id));
        }
    }
    Ok(selected * SAMPLED as usize >= DENSE * asked && asked > 0)
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
