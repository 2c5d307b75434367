//! Reranking: what the codes found, scored again with the kept rows.

use super::model::Model;
use super::view::View;
use crate::Result;
use crate::kernel::Kernels;
use crate::math::topk::Hit;

/// The best `k` of `hits` by exact score, of scores up to `limit`.
pub(crate) fn top_k(
    view: &dyn View,
    model: &Model,
    query: &[f32],
    hits: Vec<Hit>,
    k: usize,
    limit: f32,
) -> Result<Vec<Hit>> {
    let mut hits = rescore(view, model, query, hits)?;
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
    let mut hits = rescore(view, model, query, hits)?;
    hits.retain(|hit| hit.score < radius);
    Ok(hits)
}

fn rescore(view: &dyn View, model: &Model, query: &[f32], mut hits: Vec<Hit>) -> Result<Vec<Hit>> {
    let Some(kept) = model.spec.kept else { return Ok(hits) };
    let mut row = Vec::new();
    for hit in &mut hits {
        view.kept_row(hit.row, &mut row)?;
        let mut score = [0.0];
        Kernels::get().scan(model.metric().similarity(), kept.element(), &[query], &row, &mut score);
        hit.score = score[0];
    }
    hits.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.id.cmp(&b.id)));
    Ok(hits)
}

/// The kept vector of `row`, if the index keeps rows.
pub(crate) fn kept_vector(view: &dyn View, model: &Model, row: u32) -> Result<Option<Vec<f32>>> {
    let Some(kept) = model.spec.kept else { return Ok(None) };
    let (mut bytes, mut vector) = (Vec::new(), vec![0.0; model.spec.dim]);
    view.kept_row(row, &mut bytes)?;
    Kernels::get().decode(kept.element(), &bytes, &mut vector);
    Ok(Some(vector))
}
