//! Autopilot: the settings of an index from the number of its rows. Two ask: a [`Retriever`](crate::Retriever) built with an
//! autopilot, by the formulas of ScaNN's, and [`IndexSpec::auto`](crate::IndexSpec::auto), which has its brute force and its limits in common with
//! them and makes its lists shorter.
//!
//! ```text
//! near     ⌈max(2k, 100·√k)⌉                                        candidates to score again
//! leaf     max(⌈4·32 KiB / dim⌉, 200)                               rows of a list: four times the first cache
//! in time  √(60·32·2e9 / dim / 200)                                 lists that are trained in time
//! lists    min(rows / leaf, 32 MiB / 4·dim, in time)                ScaNN's: centroids in the last cache
//! search   ⌈42·2^log10(lists / 42)⌉                                 lists to search
//! from     max(2·near, 42·leaf)                                     rows; below it brute force
//! by root  min(3.5·√rows, rows / 39, in time)                       auto's: lists of about √rows / 3.5 rows
//! ```
//! ScaNN's cache sizes are constants, so that the same data gives the same index everywhere; here, too. Codes of nibbles
//! are scanned so fast that a query spends its time best on as many lists as entries of them; of the files that the README
//! measures this gives 1,917 lists for 300,000 rows and 1,150 for 108,000.

use std::fmt;

const L1_BYTES: usize = 32 << 10;
const L3_BYTES: usize = 32 << 20;
/// Below so many lists partitioning does not pay.
const LISTS_MIN: usize = 42;
/// Rows a list that training wants at least: k-means's `min_points_per_centroid`.
const ROWS_A_LIST_MIN: usize = 39;
/// Of a k that nobody knows yet.
const K: usize = 10;

/// Candidates to score again for `k`.
pub(crate) fn candidates(k: usize) -> usize {
    (2.0 * k as f64).max(100.0 * (k as f64).sqrt()).ceil() as usize
}

fn leaf(dim: usize) -> usize {
    (4 * L1_BYTES).div_ceil(dim.max(1)).max(200)
}

/// Rows from which lists pay.
pub(crate) fn pays_from(dim: usize, k: usize) -> usize {
    candidates(k).saturating_mul(2).max(LISTS_MIN * leaf(dim))
}

fn in_time(dim: usize) -> usize {
    (60.0 * 32.0 * 2e9 / dim as f64 / 200.0).sqrt() as usize
}

/// ScaNN's number of lists.
pub(crate) fn lists(rows: usize, dim: usize) -> usize {
    (rows / leaf(dim)).min(L3_BYTES / (4 * dim)).min(in_time(dim)).max(1)
}

pub(crate) fn lists_to_search(lists: usize) -> usize {
    let least = LISTS_MIN as f64;
    ((least * (lists as f64 / least).log10().exp2()).ceil() as usize).clamp(1, lists)
}

/// The number of lists of an automatic index.
pub(crate) fn lists_by_root(rows: u64, dim: usize) -> usize {
    let root = 3.5 * (rows as f64).sqrt();
    let enough = usize::try_from(rows).unwrap_or(usize::MAX) / ROWS_A_LIST_MIN;
    (root as usize).min(enough).min(in_time(dim)).max(1)
}

/// An automatic index trains itself again when it has so many times the rows that its lists are for.
const GROWTH: u64 = 4;
/// From so many rows on it does not: that would be a long pause in the middle of an add.
const BY_ITSELF_MAX: u64 = 1_000_000;

/// When an automatic index is trained next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) rows: u64,
    pub(crate) lists: usize,
    pub(crate) by_itself: bool,
}

/// Of an index of `rows` rows, of which `expected` are said to come, with `lists` lists or none yet.
pub(crate) fn next(rows: u64, expected: Option<u64>, dim: usize, lists: Option<usize>) -> Next {
    let pays = pays_from(dim, K) as u64;
    let expected = expected.unwrap_or(0);
    let at = match lists {
        // Enough of them for as many lists as those that are expected will want.
        None => {
            pays.max(ROWS_A_LIST_MIN as u64 * lists_by_root(expected, dim) as u64).min(expected.max(pays))
        }
        Some(lists) => {
            let suits = (lists as f64 / 3.5).powi(2).ceil() as u64;
            suits.saturating_mul(GROWTH).max(pays)
        }
    };
    let then = lists_for(rows.max(at), Some(expected), dim);
    // There are no more lists to be had.
    let grows = lists.is_none_or(|lists| then > lists);
    Next { rows: if grows { at } else { u64::MAX }, lists: then, by_itself: at <= BY_ITSELF_MAX }
}

/// The lists to train on `rows` rows.
pub(crate) fn lists_for(rows: u64, expected: Option<u64>, dim: usize) -> usize {
    let enough = usize::try_from(rows).unwrap_or(usize::MAX) / ROWS_A_LIST_MIN;
    lists_by_root(rows.max(expected.unwrap_or(0)), dim).min(enough).max(1)
}

/// What an index of [`IndexSpec::auto`](crate::IndexSpec::auto) has chosen, why, and when that will change. Printed, it is a sentence or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoReport {
    /// Vectors that it has.
    pub rows: u64,
    /// Vectors that were said to come.
    pub expected: Option<u64>,
    /// Lists that it searches by; `None` while it searches by brute force.
    pub lists: Option<usize>,
    /// With so many vectors it should be trained (again); `None` if it has all the lists that it will ever want.
    pub next_rows: Option<u64>,
    /// The lists that it will have then.
    pub next_lists: usize,
    /// True if the add that brings it to `next_rows` trains it; else `train_stored` is left to the application.
    pub by_itself: bool,
}

impl AutoReport {
    pub(crate) fn new(rows: u64, expected: Option<u64>, dim: usize, lists: Option<usize>) -> Self {
        let next = next(rows, expected, dim, lists);
        AutoReport {
            rows,
            expected,
            lists,
            next_rows: Some(next.rows).filter(|rows| *rows < u64::MAX),
            next_lists: next.lists,
            by_itself: next.by_itself,
        }
    }

    /// True if it has as many vectors as it is to be trained with.
    pub fn is_due(&self) -> bool {
        self.next_rows.is_some_and(|next| self.rows >= next)
    }
}

impl fmt::Display for AutoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lists {
            None => write!(f, "brute force over {} vectors", self.rows)?,
            Some(lists) => write!(f, "{lists} lists for {} vectors", self.rows)?,
        }
        let Some(next) = self.next_rows else { return f.write_str(", and no more will be made") };
        match self.lists {
            None => write!(f, ": lists pay from {next} on")?,
            Some(_) => write!(f, ": more pay from {next} on")?,
        }
        match (self.is_due(), self.by_itself) {
            (true, _) => write!(f, "; due, train_stored makes {}", self.next_lists),
            (false, true) => write!(f, "; the add that reaches them makes {}", self.next_lists),
            (false, false) => write!(f, "; train_stored makes {}, no add does", self.next_lists),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_wait_for_lists_to_pay() {
        // 42 lists of 1,024 rows.
        assert_eq!(pays_from(128, 10), 43_008);
        let first = next(0, None, 128, None);
        assert_eq!((first.rows, first.lists, first.by_itself), (43_008, 725, true));
        assert_eq!(lists_by_root(300_000, 128), 1_917);
        assert_eq!(lists_by_root(108_000, 384), 1_150);
    }

    #[test]
    fn rows_that_are_expected_are_waited_for() {
        let first = next(0, Some(1_000_000), 128, None);
        assert_eq!((first.rows, first.lists), (136_500, 3_500));
        let few = next(0, Some(50_000), 128, None);
        assert_eq!((few.rows, few.lists), (43_008, 782));
        assert_eq!(next(0, Some(7), 128, None).rows, 43_008);
    }

    #[test]
    fn four_times_the_rows_want_twice_the_lists() {
        let second = next(43_008, None, 128, Some(725));
        assert!((171_000..173_000).contains(&second.rows) && second.by_itself, "{second:?}");
        assert!((1_448..1_454).contains(&second.lists));
        assert!(!next(0, None, 128, Some(3_500)).by_itself, "4 million rows");
        let most = in_time(128);
        assert_eq!(next(0, None, 128, Some(most)).rows, u64::MAX, "no more are trained in time");
    }

    #[test]
    fn a_report_says_what_was_chosen_and_when_that_changes() {
        let text = |rows, lists| AutoReport::new(rows, None, 128, lists).to_string();
        let brute =
            "brute force over 7 vectors: lists pay from 43008 on; the add that reaches them makes 725";
        assert_eq!(text(7, None), brute);
        assert!(text(50_000, None).ends_with("; due, train_stored makes 782"), "{}", text(50_000, None));
        assert!(text(50_000, Some(725)).starts_with("725 lists for 50000 vectors: more pay from"));
        assert_eq!(text(7, Some(in_time(128))), "12247 lists for 7 vectors, and no more will be made");
    }
}
