//! Measuring: what searches for the k nearest find, by lists and by rows to score again, all of it in one pass over the lists.
//!
//! ```text
//! steps     nprobe = 1, 2, … 7, 8, 10, 12, 14, 16, 20, …, all
//! a query   its lists between one step and the next, nearest first → their entries by estimate, merged with the best R of before
//!           → how many true neighbours are among the first R of them: those that scoring R rows again would find
//! ```
//! A true neighbour is nearer than all that is not one, so it is found if it is among the rows that are scored again, whatever the others
//! are: R for R one merged list answers for all smaller ones. (Where rows are kept twice the first form has a say that is
//! not looked at here: it keeps 2k of what the second is to order.) Queries are taken in batches; the first one tells
//! how far to go, all of them how sure the mean is, and when it is sure enough the rest is left alone.

use crate::coarse::Probes;
use crate::codec::Visit;
use crate::index::filter::Filter;
use crate::index::model::Model;
use crate::index::preassigned::Preassigned;
use crate::index::search::{self, Goal, Limits, Request};
use crate::index::view::View;
use crate::math::topk::Hit;
use crate::{Observer, Result, Rows};
use rayon::prelude::*;
use std::collections::HashSet;
use std::ops::Range;

/// Queries, with what must not be found for each of them, and what should be.
pub(super) struct Held {
    /// Prepared, row after row.
    pub(super) queries: Vec<f32>,
    /// Rows, by query.
    pub(super) left_out: Vec<Range<u32>>,
    /// Rows, by query, nearest first.
    pub(super) truth: Vec<Vec<u32>>,
}

/// Recall by lists, for one number of rows to score again.
pub(super) struct Measured {
    pub(super) rerank: usize,
    /// Ascending in both.
    pub(super) points: Vec<(usize, f64)>,
}

/// What is known of one k.
pub(super) struct Answer {
    pub(super) curves: Vec<Measured>,
    /// So many neighbours, each found or not for itself, would tell as much.
    pub(super) trials: f64,
    pub(super) queries: usize,
}

/// Queries that are searched together; as many tell how far to go.
const BATCH: usize = 256;
/// Nothing is gained beyond this recall.
const ENOUGH: f64 = 0.9985;
/// Nor by twice as many lists that add so little.
const GAIN_MIN: f64 = 0.0004;
/// Steps from one number of lists to twice as many.
const OCTAVE: usize = 4;
/// The mean is sure enough with this standard error, where the recall is at least so high.
const SURE: f64 = 0.005;
const FROM: f64 = 0.75;
/// Of the default number of rows to score again; beyond twice that no more than so many: collecting thousands takes most of the time.
const RERANKS: [usize; 4] = [1, 2, 4, 8];
const RERANK_MAX: usize = 1000;

/// What is measured, and where.
pub(super) struct Field<'a> {
    pub(super) view: &'a dyn View,
    pub(super) model: &'a Model,
    pub(super) held: &'a Held,
}

/// Of the queries of a batch, by step and rerank.
#[derive(Clone, Copy, Default)]
struct Sum {
    hits: u64,
    squares: u64,
}

impl Field<'_> {
    /// The curves of one k. Ticks as `"calibrate"`, `done` of `total`.
    pub(super) fn answer(
        &self,
        k: usize,
        observer: &mut Observer<'_>,
        (done, total): (u64, u64),
    ) -> Result<Answer> {
        let task = Task { field: self, k, reranks: self.reranks(k) };
        let mut steps: Vec<usize> = steps(self.model.nlist()).collect();
        let all = self.held.truth.len();
        let (mut sums, mut queries) = (Vec::new(), 0);
        while queries < all {
            observer.tick("calibrate", done, total)?;
            let first = queries == 0;
            let batch = queries..all.min(queries + BATCH);
            queries = batch.end;
            let more = task.batch(batch, &steps, first)?;
            if first {
                steps.truncate(more.len() / task.reranks.len());
                sums = more;
            } else {
                sums.iter_mut().zip(more).for_each(|(sum, more)| {
                    sum.hits += more.hits;
                    sum.squares += more.squares;
                });
            }
            if task.is_sure(&sums, queries) {
                break;
            }
        }
        Ok(task.answer(&steps, &sums, queries))
    }

    /// Numbers of rows to score again that are tried; k, where nothing is.
    fn reranks(&self, k: usize) -> Vec<usize> {
        let most = (self.view.header().ntotal as usize).max(k);
        let default = self.model.spec.reranked_rows(k);
        let mut reranks: Vec<usize> = match self.model.judge() {
            None => vec![k],
            Some(_) => RERANKS
                .iter()
                .filter(|times| **times <= 2 || default.saturating_mul(**times) <= RERANK_MAX)
                .map(|times| default.saturating_mul(*times).clamp(k, most))
                .collect(),
        };
        reranks.dedup();
        reranks
    }
}

/// Searching for k.
struct Task<'a> {
    field: &'a Field<'a>,
    k: usize,
    /// Ascending.
    reranks: Vec<usize>,
}

impl Task<'_> {
    /// The sums of these queries, step by step; with `stop` no further than pays.
    fn batch(&self, queries: Range<usize>, steps: &[usize], stop: bool) -> Result<Vec<Sum>> {
        let mut walks: Vec<Walk> = queries.clone().map(Walk::new).collect();
        let mut sums: Vec<Sum> = Vec::new();
        let most = steps.last().copied().unwrap_or(1);
        for &nprobe in steps {
            let hits =
                walks.par_iter_mut().map(|walk| walk.on(self, nprobe, most)).collect::<Result<Vec<_>>>()?;
            for r in 0..self.reranks.len() {
                let add = |sum: Sum, hits: &Vec<u64>| Sum {
                    hits: sum.hits + hits[r],
                    squares: sum.squares + hits[r] * hits[r],
                };
                sums.push(hits.iter().fold(Sum::default(), add));
            }
            if stop && self.is_enough(&sums, nprobe, queries.len()) {
                break;
            }
        }
        Ok(sums)
    }

    /// True if more lists than these, of which a few are for good measure, would find hardly more.
    fn is_enough(&self, sums: &[Sum], nprobe: usize, queries: usize) -> bool {
        let best: Vec<f64> =
            sums.chunks(self.reranks.len()).map(|sums| self.mean(sums[sums.len() - 1], queries)).collect();
        let before = |steps: usize| best.len().checked_sub(1 + steps).map_or(0.0, |at| best[at]);
        let gained = before(OCTAVE) - before(2 * OCTAVE);
        before(OCTAVE) >= ENOUGH || nprobe > 16 && before(0) > 0.3 && gained < GAIN_MIN
    }

    fn mean(&self, sum: Sum, queries: usize) -> f64 {
        sum.hits as f64 / self.wanted(queries)
    }

    /// Neighbours of so many queries, the first ones.
    fn wanted(&self, queries: usize) -> f64 {
        let truth = self.field.held.truth.iter().take(queries);
        truth.map(|truth| truth.len().min(self.k)).sum::<usize>().max(1) as f64
    }

    /// The standard error of a mean.
    fn error(&self, sum: Sum, queries: usize) -> f64 {
        let (n, k) = (queries as f64, self.wanted(queries) / queries.max(1) as f64);
        let mean = sum.hits as f64 / n;
        ((sum.squares as f64 / n - mean * mean).max(0.0) / n).sqrt() / k
    }

    /// The sums of the most rows to score again where the recall is one that somebody asks for.
    fn asked<'s>(&self, sums: &'s [Sum], queries: usize) -> impl Iterator<Item = (f64, f64)> + use<'_, 's> {
        let best = sums.chunks(self.reranks.len()).map(|sums| sums[sums.len() - 1]);
        let known = best.map(move |sum| (self.mean(sum, queries), self.error(sum, queries)));
        known.filter(|(mean, error)| (FROM..1.0).contains(mean) && *error > 0.0)
    }

    fn is_sure(&self, sums: &[Sum], queries: usize) -> bool {
        let most = self.asked(sums, queries).map(|(_, error)| error).fold(0.0, f64::max);
        queries >= 4 * BATCH && most <= SURE
    }

    fn answer(&self, steps: &[usize], sums: &[Sum], queries: usize) -> Answer {
        let curve = |(r, rerank): (usize, &usize)| {
            let mut points: Vec<(usize, f64)> = Vec::new();
            for (at, &nprobe) in steps.iter().enumerate() {
                let recall = self.mean(sums[at * self.reranks.len() + r], queries);
                // More lists are seldom worse, by what they bring instead of a neighbour.
                if recall > points.last().map_or(0.0, |point| point.1) {
                    points.push((nprobe, recall));
                }
            }
            Measured { rerank: *rerank, points }
        };
        let curves = self.reranks.iter().enumerate().map(curve).collect();
        let trials = self.asked(sums, queries).map(|(mean, error)| mean * (1.0 - mean) / (error * error));
        let fewest = trials.fold(f64::INFINITY, f64::min);
        let trials = if fewest.is_finite() { fewest } else { queries as f64 };
        Answer { curves, trials, queries }
    }
}

/// One query on its way through its lists.
struct Walk {
    query: usize,
    probes: Probes,
    seen: HashSet<u32>,
    /// By (score, id), no more than the most rows to score again.
    best: Vec<Hit>,
}

impl Walk {
    fn new(query: usize) -> Self {
        Walk { query, probes: Probes::default(), seen: HashSet::new(), best: Vec::new() }
    }

    /// Looks into so many lists, of `most` to come, and says how many true neighbours are found by now, by rerank.
    fn on(&mut self, task: &Task<'_>, nprobe: usize, most: usize) -> Result<Vec<u64>> {
        let Field { view, model, held } = *task.field;
        let dim = model.spec.dim;
        let query = Rows::of(&held.queries[self.query * dim..(self.query + 1) * dim], dim);
        self.probe(model, query, nprobe, most)?;
        let room = task.reranks.last().copied().unwrap_or(task.k);
        let Walk { probes, seen, best, .. } = self;
        let known = probes.lists.iter().copied().zip(probes.scores.iter().copied());
        let new: Vec<(Option<u32>, f32)> = known
            .take(nprobe)
            .filter(|(list, _)| seen.insert(*list))
            .map(|(list, score)| (Some(list), model.metric().flip(score)))
            .collect();
        if !new.is_empty() {
            let limit = best.get(room - 1).map_or(f32::INFINITY, |worst| worst.score);
            let filter = Filter::Without(held.left_out[self.query].clone());
            let request = Request {
                goal: Goal::TopK { k: room, limit },
                nprobe: new.len(),
                chosen: Some(&Preassigned::with_distances([new])),
                limits: Limits::default(),
                mode: Default::default(),
                filter: &filter,
                quantizer: None,
                widen: None,
                hamming: 0,
                shared: view.header().twins > 0,
                stats: None,
            };
            let found = search::search(view, model, query, &request)?.pop().unwrap_or_default();
            merge(best, found, room, model.spills());
        }
        Ok(self.found(task))
    }

    /// Where lists are found through something that misses some, more probes may be others.
    fn probe(&mut self, model: &Model, query: Rows<'_>, nprobe: usize, most: usize) -> Result<()> {
        let exact = model.tree.is_none() && model.finder.is_none();
        if exact && nprobe <= self.probes.nprobe {
            return Ok(());
        }
        let wanted = if exact { nprobe.saturating_mul(4).min(most) } else { nprobe };
        let projected = model.project(query)?;
        self.probes = model.probe(query, Rows::of(&projected, model.inner_dim()), wanted, None)?;
        Ok(())
    }

    fn found(&self, task: &Task<'_>) -> Vec<u64> {
        let truth = &task.field.held.truth[self.query];
        let mut truth = truth[..task.k.min(truth.len())].to_vec();
        truth.sort_unstable();
        let mut counts = vec![0; task.reranks.len()];
        for (place, hit) in self.best.iter().enumerate() {
            if truth.binary_search(&hit.row).is_ok() {
                let from = task.reranks.partition_point(|rows| *rows <= place);
                counts[from..].iter_mut().for_each(|count| *count += 1);
            }
        }
        counts
    }
}

/// The best of both, sorted; a row once, by its better score.
fn merge(best: &mut Vec<Hit>, found: Vec<Hit>, room: usize, repeats: bool) {
    best.extend(found);
    best.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.id.cmp(&b.id)));
    if repeats {
        let mut rows = HashSet::new();
        best.retain(|hit| rows.insert(hit.row));
    }
    best.truncate(room);
}

/// 1, 2, … 8, 10, 12, 14, 16, 20, … and all lists.
fn steps(nlist: usize) -> impl Iterator<Item = usize> {
    let more = (1..usize::BITS - 4).flat_map(|power| (4..8).map(move |n: usize| n << power));
    (1..8).chain(more).take_while(move |n| *n < nlist).chain([nlist])
}

/// Visits of all queries, for a scan that knows no lists.
pub(super) fn visits(queries: usize) -> Vec<Visit> {
    (0..queries).map(|query| Visit { query: query as u32, coarse: 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_end_with_all_lists() {
        assert_eq!(steps(1).collect::<Vec<_>>(), [1]);
        assert_eq!(steps(7).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(steps(21).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 21]);
        let all: Vec<usize> = steps(crate::NLIST_MAX).collect();
        assert!(all.is_sorted_by(|a, b| a < b) && all.last() == Some(&crate::NLIST_MAX));
    }
}
