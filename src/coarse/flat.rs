//! The flat coarse quantizer: every centroid is compared, exactly.

use super::{CoarseQuantizer, Probes};
use crate::Rows;
use crate::kernel::Similarity;
use crate::math::linalg::Panels;
use crate::math::topk::smallest;

/// Centroids compared one and all.
pub(crate) struct FlatCoarse {
    dim: usize,
    centroids: Vec<f32>,
    panels: Panels,
    similarity: Similarity,
}

/// Queries whose scores are held at once: 64 × 2,048 lists are 512 KiB, which stays in the L2 cache.
const QUERIES_AT_ONCE: usize = 64;

impl FlatCoarse {
    pub(crate) fn new(centroids: Vec<f32>, dim: usize, similarity: Similarity) -> Self {
        let panels = Panels::new(Rows::of(&centroids, dim));
        FlatCoarse { dim, panels, centroids, similarity }
    }
}

impl CoarseQuantizer for FlatCoarse {
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]) {
        self.panels.nearest_par(self.similarity, rows, lists, scores);
    }

    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes) {
        let nlist = self.panels.len();
        probes.nprobe = nprobe.min(nlist);
        probes.lists.clear();
        probes.scores.clear();
        let mut scores = vec![0.0; nlist * queries.len().min(QUERIES_AT_ONCE)];
        let mut nearest = Vec::new();
        for first in (0..queries.len()).step_by(QUERIES_AT_ONCE) {
            let some = queries.slice(first..queries.len().min(first + QUERIES_AT_ONCE));
            let scores = &mut scores[..some.len() * nlist];
            self.panels.scores(self.similarity, some, scores);
            for scores in scores.chunks_exact(nlist) {
                smallest(scores, probes.nprobe, &mut nearest);
                fill_up(scores, probes.nprobe, &mut nearest);
                probes.lists.extend_from_slice(&nearest);
                probes.scores.extend(nearest.iter().map(|list| scores[*list as usize]));
            }
        }
    }

    fn centroids(&self) -> Rows<'_> {
        Rows::of(&self.centroids, self.dim)
    }
}

/// Lists whose scores are no numbers come last, in their order: every query has its `nprobe` probes. No query that the
/// door lets in has such scores, but a batch must not fall apart if one had.
fn fill_up(scores: &[f32], nprobe: usize, nearest: &mut Vec<u32>) {
    if nearest.len() < nprobe {
        let rest = (0..).zip(scores).filter(|(_, score)| score.is_nan()).map(|(list, _)| list);
        nearest.extend(rest.take(nprobe - nearest.len()));
    }
}
