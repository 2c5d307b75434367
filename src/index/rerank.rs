//! Reranking: what the codes found, scored again with the kept rows.

use super::model::{KeptColumn, Model};
use super::view::{View, ViewIds};
use crate::Result;
use crate::math::topk::{Collector, Entry, Hit, Radius, TopK};
use crate::storage::ROWS_AT_ONCE;
use std::borrow::Cow;

/// The best `k` of `entries` by the scores of their most exact rows, of scores up to `limit`. Where coarser rows are
/// kept beside exact ones, those tell which entries the exact ones are asked about.
pub(crate) fn top_k(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    entries: &[Entry],
    k: usize,
    limit: f32,
) -> Result<Vec<Hit>> {
    let ids = ViewIds(view);
    let mut entries = Cow::Borrowed(entries);
    let mut best = TopK::new(k, &ids, limit);
    for (at, kept) in model.kept.iter().enumerate() {
        if at + 1 == model.kept.len() {
            rescore(view, model, kept, query, &entries, &mut best)?;
        } else {
            let mut some = TopK::new(second_stage(k), &ids, f32::INFINITY);
            rescore(view, model, kept, query, &entries, &mut some)?;
            entries = Cow::Owned(some.finish_entries()?);
        }
    }
    best.finish()
}

/// Those of `entries` whose exact score is below `radius`.
pub(crate) fn range(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    entries: &[Entry],
    radius: f32,
) -> Result<Vec<Hit>> {
    let ids = ViewIds(view);
    let mut within = Radius::new(radius, &ids);
    match model.judge() {
        Some(judge) => rescore(view, model, judge, query, entries, &mut within)?,
        None => entries.iter().for_each(|entry| within.offer(entry.row, entry.score)),
    }
    within.finish()
}

/// Rows that are scored exactly to find `k`, after 8 bits a component told which: those misplace a neighbour by a few
/// ranks, whatever k is.
fn second_stage(k: usize) -> usize {
    k.saturating_mul(2).max(k.saturating_add(8))
}

fn rescore(
    view: &dyn View,
    model: &Model,
    kept: &KeptColumn,
    query: &[f32],
    entries: &[Entry],
    collector: &mut impl Collector,
) -> Result<()> {
    let similarity = model.metric().similarity();
    let rows: Vec<u32> = entries.iter().map(|entry| entry.row).collect();
    let mut scores = [0.0; ROWS_AT_ONCE];
    view.kept_rows(kept.stage, &rows, &mut |first, vectors| {
        let scores = &mut scores[..vectors.len()];
        kept.form.scores(similarity, query, vectors, scores);
        rows[first..].iter().zip(&*scores).for_each(|(row, score)| collector.offer(*row, *score));
        Ok(())
    })
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
