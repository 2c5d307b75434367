//! Reranking: what the codes found, scored again with the kept rows.

use super::model::Model;
use super::view::{View, ViewIds};
use crate::Result;
use crate::kernel::Kernels;
use crate::math::topk::{Collector, Entry, Hit, Radius, TopK};

/// The best `k` of `entries` by exact score, of scores up to `limit`.
pub(crate) fn top_k(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    entries: &[Entry],
    k: usize,
    limit: f32,
) -> Result<Vec<Hit>> {
    let ids = ViewIds(view);
    let mut best = TopK::new(k, &ids, limit);
    rescore(view, model, query, entries, &mut best)?;
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
    rescore(view, model, query, entries, &mut within)?;
    within.finish()
}

fn rescore(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    entries: &[Entry],
    collector: &mut impl Collector,
) -> Result<()> {
    let Some(kept) = model.spec.kept else { return Ok(()) };
    let similarity = model.metric().similarity();
    let rows: Vec<u32> = entries.iter().map(|entry| entry.row).collect();
    view.kept_rows(&rows, &mut |i, vector| {
        let mut score = [0.0];
        Kernels::get().scan(similarity, kept.element(), &[query], vector, &mut score);
        collector.offer(rows[i], score[0]);
        Ok(())
    })
}

/// The kept vector of `row`, if the index keeps rows.
pub(crate) fn kept_vector(view: &dyn View, model: &Model, row: u32) -> Result<Option<Vec<f32>>> {
    let Some(kept) = model.spec.kept else { return Ok(None) };
    let mut vector = vec![0.0; model.spec.dim];
    view.kept_rows(&[row], &mut |_, bytes| {
        Kernels::get().decode(kept.element(), bytes, &mut vector);
        Ok(())
    })?;
    Ok(Some(vector))
}
