//! Reranking: what the codes found, scored again with the kept rows.

use super::model::{KeptColumn, Model};
use super::view::View;
use crate::Result;
use crate::math::topk::Hit;

/// The best `k` of `hits` by the scores of their most exact rows, of scores up to `limit`. Where coarser rows are kept
/// beside exact ones, those tell which hits the exact ones are asked about.
pub(crate) fn top_k(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    hits: Vec<Hit>,
    k: usize,
    limit: f32,
) -> Result<Vec<Hit>> {
    let mut hits = hits;
    for (at, kept) in model.kept.iter().enumerate() {
        if at > 0 {
            hits.truncate(second_stage(k));
        }
        hits = rescore(view, model, kept, query, hits)?;
    }
    hits.retain(|hit| hit.score <= limit);
    hits.truncate(k);
    Ok(hits)
}

/// Those of `hits` whose exact score is below `radius`.
pub(crate) fn range(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    hits: Vec<Hit>,
    radius: f32,
) -> Result<Vec<Hit>> {
    let Some(judge) = model.judge() else { return Ok(hits) };
    let mut hits = rescore(view, model, judge, query, hits)?;
    hits.retain(|hit| hit.score < radius);
    Ok(hits)
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
    mut hits: Vec<Hit>,
) -> Result<Vec<Hit>> {
    let similarity = model.metric().similarity();
    let mut row = Vec::new();
    for hit in &mut hits {
        view.kept_row(kept.stage, hit.row, &mut row)?;
        hit.score = kept.form.score(similarity, query, &row);
    }
    hits.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.id.cmp(&b.id)));
    Ok(hits)
}

/// The kept vector of `row`, if one is kept that is at least as exact as its code.
pub(crate) fn kept_vector(view: &dyn View, model: &Model, row: u32) -> Result<Option<Vec<f32>>> {
    let Some(kept) = model.judge() else { return Ok(None) };
    let (mut bytes, mut vector) = (Vec::new(), vec![0.0; model.spec.dim]);
    view.kept_row(kept.stage, row, &mut bytes)?;
    kept.form.decode(&bytes, &mut vector);
    Ok(Some(vector))
}
