//! Reranking: what the codes found, scored again with the kept rows.

use super::bound::{self, Bound, Score};
use super::model::{KeptColumn, Model};
use super::view::{View, ViewIds};
use crate::Result;
use crate::math::topk::{Collector, Entry, Hit, Radius, TopK};
use crate::profile::Clock;

/// What is wanted of entries that are scored again.
#[derive(Clone, Copy)]
pub(crate) struct Best {
    pub(crate) k: usize,
    /// Scores beyond it are not wanted.
    pub(crate) limit: f32,
    /// Deviations of the bound that tells how many are scored; `None` to score all.
    pub(crate) z: Option<f32>,
}

/// The best of `entries` by the scores of their most exact rows. Where coarser rows are kept beside exact ones, those
/// tell which entries the exact ones are asked about, and it is among those that a bound tells how many are scored.
pub(crate) fn top_k(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    mut entries: Vec<Entry>,
    best: Best,
    clock: &Clock<'_>,
) -> Result<Vec<Hit>> {
    let Best { k, limit, z } = best;
    let ids = ViewIds(view);
    let mut winners = TopK::new(k, &ids, limit);
    for (at, kept) in model.kept.iter().enumerate() {
        let mut rows = KeptScores { view, model, kept, query };
        entries = match z {
            Some(z) if at == 0 => bound::rerank(entries, Bound { z, k, limit }, &mut rows)?,
            _ => rows.all(entries)?,
        };
        if at == 0 {
            clock.reranked(entries.len());
        }
        if at + 1 == model.kept.len() {
            offer(&entries, &mut winners);
        } else {
            let mut some = TopK::new(second_stage(k), &ids, f32::INFINITY);
            offer(&entries, &mut some);
            entries = some.finish_entries()?;
        }
    }
    winners.finish()
}

/// Those of `entries` whose exact score is below `radius`.
pub(crate) fn range(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    mut entries: Vec<Entry>,
    radius: f32,
    clock: &Clock<'_>,
) -> Result<Vec<Hit>> {
    let ids = ViewIds(view);
    let mut within = Radius::new(radius, &ids);
    if let Some(kept) = model.judge() {
        clock.reranked(entries.len());
        entries = KeptScores { view, model, kept, query }.all(entries)?;
    }
    offer(&entries, &mut within);
    within.finish()
}

/// Rows that are scored exactly to find `k`, after 8 bits a component told which: those misplace a neighbour by a few
/// ranks, whatever k is.
fn second_stage(k: usize) -> usize {
    k.saturating_mul(2).max(k.saturating_add(8))
}

fn offer(entries: &[Entry], collector: &mut impl Collector) {
    entries.iter().for_each(|entry| collector.offer(entry.row, entry.score));
}

/// One query's scores with the rows of one column.
pub(super) struct KeptScores<'a> {
    pub(super) view: &'a dyn View,
    pub(super) model: &'a Model,
    pub(super) kept: &'a KeptColumn,
    pub(super) query: &'a [f32],
}

impl KeptScores<'_> {
    /// The entries by these scores; their rows are on their way from memory together.
    fn all(&mut self, mut entries: Vec<Entry>) -> Result<Vec<Entry>> {
        let rows: Vec<u32> = entries.iter().map(|entry| entry.row).collect();
        self.approach(&rows);
        let mut scores = Vec::with_capacity(rows.len());
        self.score(&rows, &mut scores)?;
        entries.iter_mut().zip(scores).for_each(|(entry, score)| entry.score = score);
        Ok(entries)
    }
}

impl Score for KeptScores<'_> {
    fn approach(&mut self, rows: &[u32]) {
        self.view.approach_rows(self.kept.stage, rows);
    }

    fn score(&mut self, rows: &[u32], scores: &mut Vec<f32>) -> Result<()> {
        let (form, similarity) = (self.kept.form, self.model.metric().similarity());
        self.view.kept_rows(self.kept.stage, rows, &mut |_, vectors| {
            let scored = scores.len();
            scores.resize(scored + vectors.len(), 0.0);
            form.scores(similarity, self.query, vectors, &mut scores[scored..]);
            Ok(())
        })
    }
}

/// The kept vector of `row`, if one is kept that is at least as exact as its code.
pub(crate) fn kept_vector(view: &dyn View, model: &Model, row: u32) -> Result<Option<Vec<f32>>> {
    let Some(kept) = model.judge() else { return Ok(None) };
    let mut vector = vec![0.0; model.spec.dim];
    view.kept_rows(kept.stage, &[row], &mut |_, rows| {
        rows.iter().for_each(|bytes| kept.form.decode(bytes, &mut vector));
        Ok(())
    })?;
    Ok(Some(vector))
}
