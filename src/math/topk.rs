//! Collectors: what becomes of the (row, score) pairs that a search offers.
//!
//! A collector tells the scan its threshold, the scan offers only what is within it, and `finish` gives
//! the hits sorted by score and, where scores are equal, by id. So a result depends on neither the order
//! of lists nor on how the work was cut. Ids live in a column that costs a look-up: [`TopK`] reads one
//! only for the winners and for candidates whose scores tie at the last place.
//!
//! A row that stands in two lists may be offered twice. Repeats are left alone until the end: 2k entries are k rows or
//! more, so a collector of repeats keeps the best 2k, and only then looks which of them are the same.

use crate::kernel::{Found, Kernels};
use crate::{Error, Result};
use std::cell::RefCell;

/// From row numbers to ids.
pub(crate) trait RowIds {
    /// A hint that `id` will be asked for these rows next.
    fn approach(&self, _rows: &[u32]) {}

    fn id(&self, row: u32) -> Result<u64>;
}

/// Where a search puts what it finds.
pub(crate) trait Collector {
    /// Scores beyond this need not be offered. It falls as better entries come, and never rises.
    fn threshold(&self) -> f32;

    /// Takes an entry; one beyond the threshold, or NaN, is ignored.
    fn offer(&mut self, row: u32, score: f32);

    /// Takes what a scan found within the threshold that it was told: rows, not entries, by now.
    fn take(&mut self, found: &Found);
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    pub(crate) score: f32,
    pub(crate) row: u32,
    pub(crate) id: u64,
}

/// An entry whose id nobody has asked for yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) score: f32,
    pub(crate) row: u32,
}

/// The `k` smallest by (score, id), exactly.
///
/// Entries go to a buffer. When it is full, a score is sought by quartering that at least `k` entries and not many
/// more do not exceed, and the others are dropped: two passes over a few hundred floats, where a heap pays a logarithm
/// for each. Which k of them it is, is settled at the end.
pub(crate) struct TopK<'a> {
    ids: &'a dyn RowIds,
    k: usize,
    repeats: bool,
    /// Entries that are k rows for sure: k, or 2k where rows may be offered twice.
    keep: usize,
    threshold: f32,
    found: Found,
    capacity: usize,
    error: Option<Error>,
}

impl<'a> TopK<'a> {
    /// Keeps the `k` best of what scores at most `limit` (infinity for no limit).
    pub(crate) fn new(k: usize, ids: &'a dyn RowIds, limit: f32) -> Self {
        Self::with_room(k, false, ids, limit)
    }

    /// The same where a row may be offered twice: the `k` best rows, each by the better of its scores.
    pub(crate) fn of_repeats(k: usize, ids: &'a dyn RowIds, limit: f32) -> Self {
        Self::with_room(k, true, ids, limit)
    }

    fn with_room(k: usize, repeats: bool, ids: &'a dyn RowIds, limit: f32) -> Self {
        let keep = if repeats { k.saturating_mul(2) } else { k };
        let capacity = keep.saturating_mul(2).max(keep.saturating_add(64));
        let threshold = if k == 0 { f32::NEG_INFINITY } else { limit };
        TopK { ids, k, repeats, keep, threshold, found: Found::default(), capacity, error: None }
    }

    /// The hits, sorted by (score, id); the first error of the ids if there was one.
    pub(crate) fn finish(self) -> Result<Vec<Hit>> {
        let ids = self.ids;
        sorted_hits(&self.finish_entries()?, ids)
    }

    /// The same in no order and without ids.
    pub(crate) fn finish_entries(mut self) -> Result<Vec<Entry>> {
        if self.repeats {
            if self.found.len() > self.keep {
                self.compact();
            }
            keep_best_of_each_row(&mut self.found);
        }
        if self.found.len() > self.k {
            self.settle(self.k);
        }
        match self.error {
            Some(error) => Err(error),
            None => Ok(entries(&self.found)),
        }
    }

    /// Takes at the first entry what most searches need: growing bit by bit copies it all again.
    fn make_room(&mut self, more: usize) {
        if self.found.len() == 0 {
            self.found.reserve(self.capacity.min(ROOM) + more);
        }
    }

    fn check(&mut self) {
        if self.found.len() >= self.capacity {
            self.compact();
        }
    }

    /// Drops what cannot be among the k best.
    fn compact(&mut self) {
        if self.k == 0 {
            return self.found.clear();
        }
        let kernels = Kernels::get();
        let bound = kernels.bound(&self.found.scores, self.keep, self.keep + self.keep / 8 + 8);
        kernels.keep_at_most(&mut self.found, bound);
        self.threshold = bound.min(self.threshold);
        // Where many tie, no bound tells them apart.
        if self.found.len() >= self.capacity {
            self.settle(self.keep);
        }
    }

    /// Keeps the k best entries. Ids are read only if entries that tie at the k-th score do not all fit.
    fn settle(&mut self, k: usize) {
        let mut entries = entries(&self.found);
        self.found.clear();
        if k == 0 {
            return;
        }
        let by_score = |a: &Entry, b: &Entry| a.score.total_cmp(&b.score);
        let kth = entries.select_nth_unstable_by(k - 1, by_score).1.score;
        if entries[k..].iter().any(|entry| entry.score == kth) {
            self.settle_ties(&mut entries, kth);
        }
        entries.truncate(k);
        entries.iter().for_each(|entry| self.found.push(entry.row, entry.score));
        self.threshold = kth;
    }

    /// Moves the entries below `kth` to the front, and behind them those at `kth` with the lowest ids.
    fn settle_ties(&mut self, entries: &mut Vec<Entry>, kth: f32) {
        entries.retain(|entry| entry.score <= kth);
        entries.sort_unstable_by(|a, b| a.score.total_cmp(&b.score));
        let below = entries.partition_point(|entry| entry.score < kth);
        let error = RefCell::new(None);
        entries[below..].sort_by_cached_key(|entry| {
            self.ids.id(entry.row).unwrap_or_else(|e| {
                error.borrow_mut().get_or_insert(e);
                u64::MAX
            })
        });
        if let Some(e) = error.into_inner() {
            self.error.get_or_insert(e);
        }
    }
}

/// Entries that a collector makes room for at once, at most.
const ROOM: usize = 1024;

/// Leaves one entry of each row, the better one, in one pass with a table of where each row stands.
fn keep_best_of_each_row(found: &mut Found) {
    let (mut kept, n) = (0, found.len());
    if n < 2 {
        return;
    }
    let places = (2 * n).next_power_of_two();
    let mut place_of = vec![u32::MAX; places];
    for at in 0..n {
        let (row, score) = (found.entries[at], found.scores[at]);
        // The upper bits of a product with 2^32 / φ spread numbers that follow each other.
        let mut place = ((u64::from(row.wrapping_mul(0x9e37_79b1)) * places as u64) >> 32) as usize;
        loop {
            match place_of[place] {
                u32::MAX => {
                    place_of[place] = kept as u32;
                    (found.entries[kept], found.scores[kept]) = (row, score);
                    kept += 1;
                    break;
                }
                other if found.entries[other as usize] == row => {
                    let best = &mut found.scores[other as usize];
                    *best = if score < *best { score } else { *best };
                    break;
                }
                _ => place = (place + 1) & (places - 1),
            }
        }
    }
    found.truncate(kept);
}

/// Adding 0 turns -0 into 0, so that `==` and `total_cmp` mean the same ties.
fn entries(found: &Found) -> Vec<Entry> {
    found.iter().map(|(row, score)| Entry { score: score + 0.0, row }).collect()
}

impl Collector for TopK<'_> {
    fn threshold(&self) -> f32 {
        self.threshold
    }

    fn offer(&mut self, row: u32, score: f32) {
        if score <= self.threshold && self.k > 0 {
            self.make_room(1);
            self.found.push(row, score);
            self.check();
        }
    }

    fn take(&mut self, found: &Found) {
        self.make_room(found.len());
        self.found.append(found);
        self.check();
    }
}

/// Everything that scores strictly below a radius.
pub(crate) struct Radius<'a> {
    ids: &'a dyn RowIds,
    radius: f32,
    found: Found,
    repeats: bool,
}

impl<'a> Radius<'a> {
    /// Keeps what scores below `radius`.
    pub(crate) fn new(radius: f32, ids: &'a dyn RowIds) -> Self {
        Radius { ids, radius, found: Found::default(), repeats: false }
    }

    /// The same where a row may be offered twice: the better of its scores counts.
    pub(crate) fn of_repeats(radius: f32, ids: &'a dyn RowIds) -> Self {
        Radius { repeats: true, ..Radius::new(radius, ids) }
    }

    /// Entries so far.
    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// The hits, sorted by (score, id).
    pub(crate) fn finish(self) -> Result<Vec<Hit>> {
        let ids = self.ids;
        sorted_hits(&self.finish_entries(), ids)
    }

    /// The same in no order and without ids.
    pub(crate) fn finish_entries(mut self) -> Vec<Entry> {
        if self.repeats {
            keep_best_of_each_row(&mut self.found);
        }
        entries(&self.found)
    }
}

impl Collector for Radius<'_> {
    /// The largest float below the radius.
    fn threshold(&self) -> f32 {
        self.radius.next_down()
    }

    fn offer(&mut self, row: u32, score: f32) {
        if score < self.radius {
            self.found.push(row, score);
        }
    }

    fn take(&mut self, found: &Found) {
        self.found.append(found);
    }
}

fn sorted_hits(entries: &[Entry], ids: &dyn RowIds) -> Result<Vec<Hit>> {
    let rows: Vec<u32> = entries.iter().map(|entry| entry.row).collect();
    ids.approach(&rows);
    let hit = |entry: &Entry| Ok(Hit { score: entry.score, row: entry.row, id: ids.id(entry.row)? });
    let mut hits = entries.iter().map(hit).collect::<Result<Vec<Hit>>>()?;
    hits.sort_unstable_by(|a, b| a.score.total_cmp(&b.score).then(a.id.cmp(&b.id)));
    Ok(hits)
}

/// Replaces `out` by the indices of the `k` smallest scores, ascending by (score, index); NaN is left
/// out. These are a query's probes.
///
/// One vector pass bounds the k-th smallest, another collects what is within the bound, and only that is
/// sorted.
pub(crate) fn smallest(scores: &[f32], k: usize, out: &mut Vec<u32>) {
    out.clear();
    if k == 0 {
        return;
    }
    Kernels::get().select_at_most(scores, kth_bound(scores, k, k.saturating_mul(4)), out);
    let by_score = |&a: &u32, &b: &u32| scores[a as usize].total_cmp(&scores[b as usize]).then(a.cmp(&b));
    if out.len() > 2 * k {
        out.select_nth_unstable_by(k - 1, by_score);
        out.truncate(k);
    }
    out.sort_unstable_by(by_score);
    out.truncate(k);
}

/// A bound that at least `k` scores are within (all that are numbers, where fewer are); `k` is not 0.
///
/// The minima of `g` interleaved groups bound the k-th smallest score: at least `k` scores are at most
/// the k-th smallest minimum. With `g = 4k` about 1.15 k are, with `g = 2k`, which is found faster, 1.4 k.
pub(crate) fn kth_bound(scores: &[f32], k: usize, groups: usize) -> f32 {
    let groups = groups.max(64);
    let few = scores.len() / 2 < groups;
    if few { f32::INFINITY } else { kth_minimum(scores, groups, k) }
}

/// The k-th smallest of the minima of the scores whose indices are equal modulo `groups`.
fn kth_minimum(scores: &[f32], groups: usize, k: usize) -> f32 {
    let mut minima = vec![f32::INFINITY; groups];
    for scores in scores.chunks(groups) {
        for (minimum, &score) in minima.iter_mut().zip(scores) {
            *minimum = if score < *minimum { score } else { *minimum };
        }
    }
    *minima.select_nth_unstable_by(k - 1, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids that fall while rows rise, so that order by row and order by id differ.
    struct Falling;

    impl RowIds for Falling {
        fn id(&self, row: u32) -> Result<u64> {
            Ok(1_000_000 - u64::from(row))
        }
    }

    struct Broken;

    impl RowIds for Broken {
        fn id(&self, row: u32) -> Result<u64> {
            Err(Error::corrupt("ids", u64::from(row), "no such row"))
        }
    }

    /// Counts look-ups.
    #[derive(Default)]
    struct Counted(std::cell::Cell<usize>);

    impl RowIds for Counted {
        fn id(&self, row: u32) -> Result<u64> {
            self.0.set(self.0.get() + 1);
            Ok(u64::from(row))
        }
    }

    fn offer_all(collector: &mut dyn Collector, scores: &[f32]) {
        for (row, &score) in scores.iter().enumerate() {
            collector.offer(row as u32, score);
        }
    }

    /// What a full sort would keep.
    fn oracle(scores: &[f32], keep: impl Fn(f32) -> bool, k: usize) -> Vec<(f32, u64)> {
        let entries = scores.iter().enumerate().filter(|&(_, &score)| keep(score));
        let mut all: Vec<_> = entries.map(|(row, &score)| (score + 0.0, 1_000_000 - row as u64)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        all
    }

    fn pairs(hits: Vec<Hit>) -> Vec<(f32, u64)> {
        hits.into_iter().map(|hit| (hit.score, hit.id)).collect()
    }

    /// Few distinct values, so that ties at the last place are common; infinities and NaN among them.
    fn scores() -> impl Strategy<Value = Vec<f32>> {
        let special = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(-0.0)];
        let score = prop_oneof![1 => special, 10 => (-5i8..5).prop_map(f32::from), 10 => -10f32..10.0];
        proptest::collection::vec(score, 0..400)
    }

    proptest! {
        #[test]
        fn top_k_is_what_a_sort_keeps(scores in scores(), k in 0usize..90, limit in -6f32..12.0) {
            for limit in [limit, f32::INFINITY] {
                let mut top = TopK::new(k, &Falling, limit);
                offer_all(&mut top, &scores);
                prop_assert_eq!(pairs(top.finish().unwrap()), oracle(&scores, |s| s <= limit, k));
            }
        }

        #[test]
        fn radius_is_strict(scores in scores(), radius in (-6i8..6).prop_map(f32::from)) {
            for radius in [radius, f32::INFINITY, f32::NEG_INFINITY] {
                let mut within = Radius::new(radius, &Falling);
                prop_assert!(within.threshold() < radius || radius == f32::NEG_INFINITY);
                offer_all(&mut within, &scores);
                prop_assert_eq!(pairs(within.finish().unwrap()), oracle(&scores, |s| s < radius, usize::MAX));
            }
        }

        /// Each row twice, the second time with another score and in another order: the oracle takes the better one.
        #[test]
        fn of_a_row_offered_twice_the_better_score_counts(
            scores in scores(), turn in 0usize..400, k in 0usize..90, limit in -6f32..12.0,
        ) {
            let n = scores.len();
            let again: Vec<f32> = (0..n).map(|row| scores[(row + turn) % n]).collect();
            let best: Vec<f32> = scores.iter().zip(&again).map(|(a, b)| a.min(*b)).collect();
            let ids = Falling;
            let mut tops = [limit, f32::INFINITY].map(|limit| (limit, TopK::of_repeats(k, &ids, limit)));
            let mut within = Radius::of_repeats(limit, &ids);
            for collector in tops.iter_mut().map(|(_, top)| top as &mut dyn Collector).chain([&mut within as _]) {
                // A part of the rows has both scores before the others have one.
                offer_all(collector, &scores[..n / 3]);
                (0..n).rev().for_each(|row| collector.offer(row as u32, again[row]));
                (n / 3..n).for_each(|row| collector.offer(row as u32, scores[row]));
            }
            for (limit, top) in tops {
                prop_assert_eq!(pairs(top.finish().unwrap()), oracle(&best, |s| s <= limit, k));
            }
            prop_assert_eq!(pairs(within.finish().unwrap()), oracle(&best, |s| s < limit, usize::MAX));
        }

        #[test]
        fn smallest_is_what_a_sort_keeps(scores in scores(), repeat in 1usize..12, k in 0usize..300) {
            let scores = scores.repeat(repeat);
            let mut expected: Vec<u32> = (0..scores.len() as u32).collect();
            expected.retain(|&i| !scores[i as usize].is_nan());
            expected.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]).then(a.cmp(&b)));
            expected.truncate(k);
            let mut out = vec![7; 3];
            smallest(&scores, k, &mut out);
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_threshold_falls_and_worse_entries_are_ignored() {
        let mut top = TopK::new(3, &Falling, 1e9);
        let mut last = top.threshold();
        assert_eq!(last, 1e9);
        for row in 0..1000 {
            top.offer(row, 1000.0 - row as f32);
            assert!(top.threshold() <= last);
            last = top.threshold();
        }
        assert!(last < 100.0);
    }

    #[test]
    fn ids_are_read_only_for_winners_and_ties_at_the_last_place() {
        let ids = Counted::default();
        let mut top = TopK::new(10, &ids, f32::INFINITY);
        (0..1000).for_each(|row| top.offer(row, -(row as f32)));
        assert_eq!(ids.0.get(), 0);
        assert_eq!(top.finish().unwrap().len(), 10);
        assert_eq!(ids.0.get(), 10);
    }

    #[test]
    fn an_error_of_the_ids_comes_out_of_finish() {
        let mut top = TopK::new(2, &Broken, f32::INFINITY);
        offer_all(&mut top, &[1.0; 100]);
        assert!(matches!(top.finish(), Err(Error::Corrupt { .. })));
        let mut within = Radius::new(2.0, &Broken);
        offer_all(&mut within, &[1.0]);
        assert!(matches!(within.finish(), Err(Error::Corrupt { .. })));
    }
}
