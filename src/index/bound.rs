//! Reranking until it is not worth while: rows are scored in ascending order of what their codes say, and the first that
//! is too far to be among the k nearest ends it.
//!
//! ```text
//! error = exact score − estimate, of the rows scored so far: mean m, standard deviation σ
//! stop at the first estimate > (the k-th exact score so far) + z·σ − min(m, 0)
//! ```
//! Nothing here knows how a code errs: σ is learned from the query's own rows. Rows that stand first do so because
//! their codes flatter them, so m is above 0, by a third of σ (2 bits of 128 components) to a whole one (1 bit of 384), and the
//! rows to come will disappoint as well. To count on that would stop earlier, for less recall: at equal numbers of rows
//! both find the same, so z alone says how careful to be. A code that makes rows look farther than they are would
//! hide neighbours behind the stop, so a negative m is made good.
//!
//! What is scored depends on the estimates and the exact scores alone, never on the order in which rows were found or
//! numbered: rows of equal estimates are scored together, and sums go over pairs in ascending order.

use crate::Result;
use crate::math::topk::Entry;
use std::collections::BinaryHeap;

/// Rows scored between two looks at the bound, and rows on their way from memory behind them.
const STEP: usize = 4;
const AHEAD: usize = 8;

/// Rows that are scored whatever they show: k of them have no k-th best before, and fewer tell too little of their
/// errors. (Of 16 the deviation is off by a fifth.)
fn fewest(k: usize) -> usize {
    k.saturating_mul(2).max(16)
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) z: f32,
    pub(crate) k: usize,
    /// Scores beyond it are of no use, however few are within.
    pub(crate) limit: f32,
}

/// Where rows are scored.
pub(crate) trait Score {
    /// These will be scored soon.
    fn approach(&mut self, rows: &[u32]);

    /// Puts the exact scores of `rows` behind `scores`.
    fn score(&mut self, rows: &[u32], scores: &mut Vec<f32>) -> Result<()>;
}

/// Scores `entries`, best first, until the bound is reached: the rows scored, with their exact scores.
pub(crate) fn rerank(mut entries: Vec<Entry>, bound: Bound, by: &mut impl Score) -> Result<Vec<Entry>> {
    entries.sort_unstable_by(|a, b| a.score.total_cmp(&b.score));
    let rows: Vec<u32> = entries.iter().map(|entry| entry.row).collect();
    let mut seen = Seen::new(bound);
    let mut scores = Vec::with_capacity(rows.len());
    let (mut done, mut end, mut approached) = (0, fewest(bound.k), 0);
    while done < rows.len() {
        end = end_of_ties(&entries, end);
        let ahead = rows.len().min(end + AHEAD);
        by.approach(&rows[approached..ahead]);
        approached = ahead;
        by.score(&rows[done..end], &mut scores)?;
        seen.take(&entries[done..end], &scores[done..]);
        if entries.get(end).is_some_and(|next| seen.excludes(next.score)) {
            break;
        }
        (done, end) = (end, end + STEP);
    }
    Ok(rows.into_iter().zip(scores).map(|(row, score)| Entry { score, row }).collect())
}

/// The least that is no less than `end` and does not part equal estimates.
fn end_of_ties(entries: &[Entry], end: usize) -> usize {
    let Some(last) = entries.get(end - 1) else { return entries.len() };
    end + entries[end..].iter().take_while(|entry| entry.score == last.score).count()
}

/// What the rows scored so far say about the others.
struct Seen {
    bound: Bound,
    /// The k best exact scores, as numbers of the same order; the worst is on top.
    best: BinaryHeap<i32>,
    n: f64,
    sum: f64,
    squares: f64,
    /// Estimates and exact scores of a step.
    pairs: Vec<(f32, f32)>,
}

impl Seen {
    fn new(bound: Bound) -> Self {
        Seen { bound, best: BinaryHeap::new(), n: 0.0, sum: 0.0, squares: 0.0, pairs: Vec::new() }
    }

    /// Entries of a step by estimate, and their exact scores. Equal estimates stand in any order: to sums they come by
    /// their exact scores.
    fn take(&mut self, entries: &[Entry], exact: &[f32]) {
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.clear();
        pairs.extend(entries.iter().map(|entry| entry.score).zip(exact.iter().copied()));
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        pairs.iter().for_each(|(estimate, exact)| self.add(*estimate, *exact));
        self.pairs = pairs;
    }

    fn add(&mut self, estimate: f32, exact: f32) {
        let error = f64::from(exact) - f64::from(estimate);
        self.n += 1.0;
        self.sum += error;
        self.squares += error * error;
        let exact = ordinal(exact);
        if self.best.len() < self.bound.k {
            self.best.push(exact);
        } else if let Some(mut worst) = self.best.peek_mut()
            && exact < *worst
        {
            *worst = exact;
        }
    }

    /// True if no row of this estimate or a greater one need be scored. False where sums are no numbers.
    fn excludes(&self, estimate: f32) -> bool {
        let kth = match self.best.peek() {
            Some(worst) if self.best.len() >= self.bound.k => score(*worst).min(self.bound.limit),
            _ => self.bound.limit,
        };
        let mean = self.sum / self.n;
        let deviation = (self.squares / self.n - mean * mean).clamp(0.0, f64::INFINITY).sqrt();
        f64::from(estimate) > f64::from(kth) + f64::from(self.bound.z) * deviation - mean.min(0.0)
    }
}

/// A number that is in order among others as the score is (`total_cmp`), and the way back.
fn ordinal(score: f32) -> i32 {
    let bits = score.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

fn score(ordinal: i32) -> f32 {
    f32::from_bits((ordinal ^ ((ordinal >> 31) as u32 >> 1) as i32) as u32)
}

#[cfg(test)]
mod tests {
    //! A stop that comes too early costs recall and a late one costs time; neither fails by itself. So stops are compared
    //! with the formula over all pairs, computed anew for each stop, and rows scored are counted on real data.
    use super::super::filter::Filter;
    use super::super::rerank::KeptScores;
    use super::super::search::{self, Goal, Request};
    use super::*;
    use crate::math::random::Random;
    use crate::{Error, IndexSpec, Metric, Observer, Rerank, Rows, SearchParams, Store, TrainParams};
    use proptest::prelude::*;

    /// Scores by row number.
    struct Known<'a>(&'a [f32]);

    impl Score for Known<'_> {
        fn approach(&mut self, _rows: &[u32]) {}

        fn score(&mut self, rows: &[u32], scores: &mut Vec<f32>) -> Result<()> {
            scores.extend(rows.iter().map(|row| self.0[*row as usize]));
            Ok(())
        }
    }

    fn entries(estimates: &[f32]) -> Vec<Entry> {
        estimates.iter().zip(0..).map(|(&score, row)| Entry { score, row }).collect()
    }

    fn scored(estimates: &[f32], exact: &[f32], bound: Bound) -> Vec<Entry> {
        rerank(entries(estimates), bound, &mut Known(exact)).unwrap()
    }

    /// How far the estimate of the (n + 1)-th row is beyond the bound that the first n lay down; the pairs are sorted.
    fn beyond(pairs: &[(f32, f32)], n: usize, Bound { z, k, limit }: Bound) -> f64 {
        let errors: Vec<f64> = pairs[..n].iter().map(|(e, x)| f64::from(*x) - f64::from(*e)).collect();
        let mean = errors.iter().sum::<f64>() / n as f64;
        let deviation = (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        let mut best: Vec<f32> = pairs[..n].iter().map(|pair| pair.1).collect();
        best.sort_by(f32::total_cmp);
        let kth = best.get(k - 1).copied().unwrap_or(f32::INFINITY).min(limit);
        f64::from(pairs[n].0) - (f64::from(kth) + f64::from(z) * deviation - mean.min(0.0))
    }

    /// Estimates and exact scores: halves, so that ties are common, or anything; codes that flatter, or the other way.
    fn scores() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        let pair = (0f32..60.0, -9f32..9.0);
        (proptest::collection::vec(pair, 1..150), any::<bool>(), -20f32..20.0).prop_map(
            |(pairs, whole, shift)| {
                let round = |x: f32| if whole { (2.0 * x).round() / 2.0 } else { x };
                pairs.into_iter().map(|(e, error)| (round(e), round(e) + round(error + shift))).unzip()
            },
        )
    }

    proptest! {
        /// All rows before the stop are within the bound of those before them, as often as it is looked at, and the stop
        /// is not: by the formula, at positions found anew.
        #[test]
        fn it_stops_where_the_formula_says(
            (estimates, exact) in scores(), z in 0f32..4.0, k in 1usize..30, limit in 0f32..90.0, limited in any::<bool>(),
        ) {
            let bound = Bound { z, k, limit: if limited { limit } else { f32::INFINITY } };
            let scored = scored(&estimates, &exact, bound);
            let mut pairs: Vec<(f32, f32)> = estimates.iter().copied().zip(exact.iter().copied()).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            let mut at = fewest(k);
            loop {
                while at < pairs.len() && pairs[at].0 == pairs[at - 1].0 {
                    at += 1;
                }
                if at >= pairs.len().min(scored.len()) {
                    break;
                }
                prop_assert!(beyond(&pairs, at, bound) <= 1e-4, "{} of {}: late", at, scored.len());
                at += STEP;
            }
            prop_assert_eq!(at.min(pairs.len()), scored.len());
            if scored.len() < pairs.len() {
                prop_assert!(beyond(&pairs, scored.len(), bound) > -1e-4, "{}: early", scored.len());
            }
            for entry in scored {
                prop_assert_eq!(entry.score, exact[entry.row as usize]);
            }
        }

        /// The same rows however they are numbered and in whatever order they were found.
        #[test]
        fn the_order_of_rows_does_not_matter(
            (estimates, exact) in scores(), z in 0f32..3.0, k in 1usize..12, seed in any::<u64>(),
        ) {
            let bound = Bound { z, k, limit: f32::INFINITY };
            let mut number: Vec<usize> = (0..exact.len()).collect();
            let mut random = Random::new(seed);
            (1..number.len()).rev().for_each(|last| number.swap(last, random.below(last + 1)));
            let of = |values: &[f32]| number.iter().map(|at| values[*at]).collect::<Vec<_>>();
            let mut one: Vec<usize> = scored(&estimates, &exact, bound).iter().map(|e| e.row as usize).collect();
            let two = scored(&of(&estimates), &of(&exact), bound);
            let mut two: Vec<usize> = two.iter().map(|e| number[e.row as usize]).collect();
            one.sort_unstable();
            two.sort_unstable();
            prop_assert_eq!(one, two);
        }

        #[test]
        fn a_wider_bound_scores_the_same_rows_and_more((estimates, exact) in scores(), k in 1usize..12) {
            let mut last = 0;
            for z in [0.0, 0.5, 1.0, 2.0, 3.0, 10.0] {
                let n = scored(&estimates, &exact, Bound { z, k, limit: f32::INFINITY }).len();
                prop_assert!(n >= last.max(fewest(k).min(exact.len())), "{} after {}", n, last);
                last = n;
            }
        }

        #[test]
        fn ordinals_are_in_order(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(ordinal(a).cmp(&ordinal(b)), a.total_cmp(&b));
            prop_assert_eq!(score(ordinal(a)).to_bits(), a.to_bits());
        }
    }

    /// Codes by which all rows look 100 farther than they are: no stop before the k nearest are there.
    #[test]
    fn a_code_that_makes_rows_look_farther_hides_none() {
        let mut random = Random::new(5);
        let exact: Vec<f32> = (0..400).map(|i| i as f32).collect();
        let estimates: Vec<f32> =
            exact.iter().map(|x| x + 100.0 + 80.0 * (random.unit() as f32 - 0.5)).collect();
        let found = scored(&estimates, &exact, Bound { z: 3.0, k: 10, limit: f32::INFINITY });
        assert!((0..10).all(|row| found.iter().any(|entry| entry.row == row)), "{}", found.len());
        assert!(found.len() < 150, "{}", found.len());
    }

    /// Sums are rounded, so they go over equal estimates in one order.
    #[test]
    fn sums_over_equal_estimates_are_the_same_in_every_bit() {
        let of = |exact: [f32; 4]| {
            let mut seen = Seen::new(Bound { z: 1.0, k: 3, limit: f32::INFINITY });
            seen.take(&entries(&[1.0; 4]), &exact);
            (seen.sum.to_bits(), seen.squares.to_bits())
        };
        assert_eq!(of([1e30, 1.0, -1e30, 3.0]), of([3.0, -1e30, 1.0, 1e30]));
    }

    #[test]
    fn a_limit_stops_sooner_and_what_is_no_number_never() {
        let exact: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let with = |limit| scored(&exact, &exact, Bound { z: 1.0, k: 90, limit }).len();
        assert_eq!((with(-5.0), with(f32::INFINITY)), (180, 180));
        let with = |limit| scored(&exact, &exact, Bound { z: 1.0, k: 10, limit }).len();
        assert_eq!((with(-5.0), with(f32::INFINITY)), (20, 20));
        let mut estimates = exact.clone();
        estimates[0] = f32::NEG_INFINITY;
        assert_eq!(scored(&estimates, &exact, Bound { z: 0.0, k: 10, limit: 0.0 }).len(), 200);
    }

    #[test]
    fn errors_come_out() {
        struct Broken;
        impl Score for Broken {
            fn approach(&mut self, _rows: &[u32]) {}
            fn score(&mut self, _rows: &[u32], _scores: &mut Vec<f32>) -> Result<()> {
                Err(Error::corrupt("rows", 7, "the kept row is missing"))
            }
        }
        let bound = Bound { z: 1.0, k: 3, limit: f32::INFINITY };
        assert!(matches!(rerank(entries(&[1.0; 9]), bound, &mut Broken), Err(Error::Corrupt { .. })));
        assert!(rerank(Vec::new(), bound, &mut Broken).unwrap().is_empty());
    }

    /// A sample of `tests/data` as f32; bytes, halves or 32-bit numbers by their width.
    fn npy(file: &str, columns: usize, width: usize) -> Vec<f32> {
        let path: std::path::PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "data", file].iter().collect();
        let bytes = std::fs::read(path).unwrap();
        let body = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let value = |v: &[u8]| match *v {
            [byte] => f32::from(byte),
            [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
            _ => i32::from_le_bytes([v[0], v[1], v[2], v[3]]) as f32,
        };
        let values: Vec<f32> = bytes[body..].chunks(width).map(value).collect();
        assert_eq!(values.len() % columns, 0);
        values
    }

    /// Recall@10 and rows a query of bounds, beside the default number of rows, on the samples of real vectors: 3 deviations
    /// find what the default finds with fewer rows, since they take the rows where they are needed. (Trained with the default
    /// seed; measured: 34.1 rows instead of 50, 89.5 instead of 120.)
    #[test]
    fn three_deviations_find_what_the_default_finds_with_fewer_rows() {
        for (name, dim, width, text, metric, default) in [
            ("sift-10k", 128, 1, "IVF64,Nibble2,RU8", Metric::L2, 50),
            ("text-2k", 384, 2, "IVF40,Nibble1,RF16", Metric::InnerProduct, 120),
        ] {
            let base = npy(&format!("{name}.base.npy"), dim, width);
            let queries = npy(&format!("{name}.query.npy"), dim, width);
            let truth = npy(&format!("{name}.truth.npy"), 100, 4);
            let (base, queries) = (Rows::of(&base, dim), Rows::of(&queries, dim));
            let store = Store::builder().open_backend(|| Ok(redb::backends::InMemoryBackend::new())).unwrap();
            let txn = store.begin_write().unwrap();
            let spec = text.parse::<IndexSpec>().unwrap().with_dim(dim).with_metric(metric);
            txn.create_index("i", &spec).unwrap();
            let mut writer = txn.index("i").unwrap();
            writer.train(base, &TrainParams::default(), &mut Observer::none()).unwrap();
            writer.add(base).unwrap();
            drop(writer);
            txn.commit().unwrap();
            let reader = store.begin_read().unwrap().index("i").unwrap();
            let (view, model) = (&*reader.view, &*reader.model);

            let k = 10;
            let recall = |params: &SearchParams| {
                let found = reader.search_batch(queries, k, params).unwrap();
                let hit = |(found, truth): (&Vec<crate::Neighbor>, &[f32])| {
                    found.iter().filter(|n| truth[..k].contains(&(n.id as f32))).count()
                };
                let hits: usize = found.iter().zip(truth.chunks(100)).map(hit).sum();
                hits as f64 / (k * queries.len()) as f64
            };
            // The candidates with their estimates are what a search finds that scores nothing again.
            let most = spec.bounded_rows(k);
            let goal = Goal::TopK { k: most, limit: f32::INFINITY };
            let request = Request {
                goal,
                nprobe: 20,
                chosen: None,
                limits: Default::default(),
                mode: Default::default(),
                filter: &Filter::All,
                widen: None,
                quantizer: None,
                hamming: 0,
                shared: false,
                stats: None,
            };
            let candidates = search::search(view, model, queries, &request).unwrap();
            let rows = |z: f32| {
                let mut rows = 0;
                for (query, hits) in queries.iter().zip(&candidates) {
                    let entries = hits.iter().map(|hit| Entry { score: hit.score, row: hit.row }).collect();
                    let mut kept = KeptScores { view, model, kept: &model.kept[0], query };
                    let bound = Bound { z, k, limit: f32::INFINITY };
                    let mut found = rerank(entries, bound, &mut kept).unwrap();
                    assert!((fewest(k)..=most).contains(&found.len()));
                    rows += found.len();
                    // And that is what a search answers with.
                    found.sort_by(|a, b| a.score.total_cmp(&b.score));
                    let answer =
                        reader.search(query, k, &SearchParams::new().nprobe(20).rerank(Rerank::Bound(z)));
                    for (entry, neighbor) in found.iter().zip(answer.unwrap()) {
                        assert_eq!(metric.flip(entry.score), neighbor.distance);
                    }
                }
                rows as f64 / queries.len() as f64
            };
            let params = SearchParams::new().nprobe(20);
            let by_default = recall(&params);
            assert_eq!(by_default, recall(&params.clone().rerank(default)));
            let measured: Vec<(f64, f64)> = [0.0, 1.0, 2.0, 3.0]
                .map(|z| (rows(z), recall(&params.clone().rerank(Rerank::Bound(z)))))
                .to_vec();
            println!("{name}: default {default} {by_default}, bounds {measured:?}");
            assert!(measured.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{measured:?}");
            let (rows, recall) = measured[3];
            assert!(rows < default as f64 && recall >= by_default, "{rows} rows, {recall}; {by_default}");
        }
    }
}
