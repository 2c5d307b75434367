//! Selectors at work: an [`IdSelector`] speaks of ids, entries carry row numbers.
//!
//! Before a search the selector becomes a bitmap of rows where that is cheaper than asking entry by
//! entry; otherwise the id of each entry that could still win is looked up. The answers are the same.

use super::view::View;
use crate::Result;
use crate::math::selector::IdSelector;

/// A selector prepared for one search.
pub(crate) enum Filter {
    All,
    Rows(RowSet),
    Ids(IdSelector),
}

/// A bitmap of row numbers.
pub(crate) struct RowSet {
    words: Vec<u64>,
}

impl RowSet {
    fn new(rows: u32) -> Self {
        RowSet { words: vec![0; rows.div_ceil(64) as usize] }
    }

    fn insert(&mut self, row: u32) {
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            *word |= 1 << (row % 64);
        }
    }

    pub(crate) fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }
}

/// Few enough ids to look each of them up, whatever the search costs.
const FEW_IDS: usize = 256;

impl Filter {
    /// Prepares `selector` for a search that will scan about `scanned` entries in all.
    pub(crate) fn new(view: &dyn View, selector: Option<&IdSelector>, scanned: usize) -> Result<Self> {
        let Some(selector) = selector.filter(|selector| !selector.is_all()) else {
            return Ok(Filter::All);
        };
        let header = view.header();
        if let Some(ids) = selector.exact_ids(FEW_IDS.max(scanned / 8)) {
            let mut set = RowSet::new(header.next_row);
            for id in ids.iter() {
                if let Some(row) = view.row_of(*id)? {
                    set.insert(row);
                }
            }
            return Ok(Filter::Rows(set));
        }
        if (scanned as u64) < header.ntotal {
            return Ok(Filter::Ids(selector.clone()));
        }
        let mut set = RowSet::new(header.next_row);
        view.for_each_id(&mut |row, id| {
            if selector.contains(id) {
                set.insert(row);
            }
        })?;
        Ok(Filter::Rows(set))
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
