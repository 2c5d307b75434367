//! The flat coarse quantizer: every centroid is compared.
//!
//! ```text
//! approximate scores of all lists (bytes)  →  the nearest nprobe or a few more, scored exactly
//!   →  the k-th exact score and the bounds say how far an approximate score may be
//!   →  all lists within it, scored exactly  →  the nearest nprobe
//! ```
//!
//! The answer is that of a full scan, list for list and bit for bit; `quantised` says why. For few lists,
//! for many probes and for numbers so large that the bounds say nothing, it is a full scan.

use super::quantised::{Quantised, View};
use super::shortlist::Shortlist;
use super::{CoarseQuantizer, LAMBDA, Probes, spill};
use crate::Rows;
use crate::kernel::{Kernels, Similarity};
use crate::math::linalg::Panels;
use crate::math::topk::smallest;
use std::cell::RefCell;

/// Centroids compared one and all.
pub(crate) struct FlatCoarse {
    kernels: &'static Kernels,
    dim: usize,
    centroids: Vec<f32>,
    panels: Panels,
    quantised: Option<Quantised>,
    similarity: Similarity,
    /// How rows go to lists: as queries do, as a rule.
    assigned_by: Similarity,
    /// Of spilling.
    lambda: f32,
}

/// Queries whose scores are held at once: 64 × 2,048 lists are 512 KiB, which stays in the L2 cache.
const QUERIES_AT_ONCE: usize = 64;

/// The same for approximate scores: with the quantised centroids (256 KiB) they share the L2 cache.
const VIEWS_AT_ONCE: usize = 16;

/// Fewer lists than this are scored exactly at once.
const QUANTISED_MIN: usize = 256;

/// Where more than one list in this many is probed, scoring them one by one costs what scoring all does,
/// for a few queries and for a batch, whose scan is cheaper. Just within these shares a look takes .6-.8 and
/// .85-1.1 of a scan's time (2,048 x 128 and 1,024 x 384).
const SHARE_OF_FEW: usize = 8;
const SHARE_OF_BATCH: usize = 16;

/// The smallest batch.
const BATCH: usize = 8;

impl FlatCoarse {
    pub(crate) fn new(centroids: Vec<f32>, dim: usize, similarity: Similarity) -> Self {
        FlatCoarse::of_kernels(Kernels::get(), centroids, dim, similarity)
    }

    /// The same with these kernels.
    pub(super) fn of_kernels(
        kernels: &'static Kernels,
        centroids: Vec<f32>,
        dim: usize,
        similarity: Similarity,
    ) -> Self {
        let quantised_min = if kernels.bytes_pay() { QUANTISED_MIN } else { usize::MAX };
        FlatCoarse::with_kernels(kernels, quantised_min, centroids, dim, similarity)
    }

    /// The same with these kernels, and quantised from so many lists.
    pub(crate) fn with_kernels(
        kernels: &'static Kernels,
        quantised_min: usize,
        centroids: Vec<f32>,
        dim: usize,
        similarity: Similarity,
    ) -> Self {
        let rows = Rows::of(&centroids, dim);
        let panels = Panels::with_kernels(kernels, rows);
        let many = rows.len() >= quantised_min;
        let quantised = if many { Quantised::new(rows, similarity) } else { None };
        let (assigned_by, lambda) = (similarity, LAMBDA);
        FlatCoarse { kernels, dim, panels, quantised, centroids, similarity, assigned_by, lambda }
    }

    /// The same that finds second lists with this λ.
    pub(crate) fn spilling_by(self, lambda: f32) -> Self {
        FlatCoarse { lambda, ..self }
    }

    /// The same to whose lists rows go by another similarity than queries: centroids of any length attract rows by product
    /// as far as they are long.
    pub(crate) fn assigning_by(self, assigned_by: Similarity) -> Self {
        FlatCoarse { assigned_by, ..self }
    }

    /// Scores all lists exactly.
    fn scan(&self, queries: Rows<'_>, probes: &mut Probes) {
        let nlist = self.panels.len();
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

    /// Looks at the quantised centroids first.
    fn look(&self, quantised: &Quantised, queries: Rows<'_>, probes: &mut Probes) {
        let (size, columns) = (quantised.code_len(), quantised.columns());
        let most = queries.len().min(VIEWS_AT_ONCE);
        let mut room = ROOM.take();
        let Room { codes, factors, approximate, views, shortlist } = &mut room;
        codes.resize(most * size, 0);
        factors.resize(most, 0.0);
        approximate.resize(most * columns, 0.0);
        for first in (0..queries.len()).step_by(VIEWS_AT_ONCE) {
            let some = queries.slice(first..queries.len().min(first + VIEWS_AT_ONCE));
            let n = some.len();
            views.clear();
            views.extend(
                some.iter().zip(codes.chunks_exact_mut(size)).map(|(q, codes)| quantised.view(q, codes)),
            );
            factors.iter_mut().zip(&*views).for_each(|(factor, view)| *factor = View::factor(view.as_ref()));
            let approximate = &mut approximate[..n * columns];
            quantised.scores(self.kernels, &codes[..n * size], &factors[..n], approximate);
            for (q, (view, approximate)) in views.iter().zip(approximate.chunks_exact(columns)).enumerate() {
                let within = |threshold| view.map(|view| quantised.limit(&view, threshold));
                let approximate = &approximate[..self.panels.len()];
                let picked = self.panels.picked(self.similarity, some.row(q), self.centroids());
                if !shortlist.find(self.kernels, &picked, approximate, |list| list, within, probes) {
                    self.scan(some.slice(q..q + 1), probes);
                }
            }
        }
        if room.approximate.len() <= ROOM_KEPT {
            ROOM.set(room);
        }
    }
}

/// Where [`FlatCoarse::look`] works. Each thread keeps one: making it anew costs one query a part of its look.
#[derive(Default)]
struct Room {
    codes: Vec<i8>,
    factors: Vec<f32>,
    approximate: Vec<f32>,
    views: Vec<Option<View>>,
    shortlist: Shortlist,
}

/// Scores in a room that is kept: 4 MiB of them.
const ROOM_KEPT: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl CoarseQuantizer for FlatCoarse {
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]) {
        self.panels.nearest_par(self.assigned_by, rows, lists, scores);
    }

    fn spill(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]) {
        spill::second_lists(&self.panels, self.centroids(), self.lambda, rows, lists, second);
    }

    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes) {
        let nlist = self.panels.len();
        probes.nprobe = nprobe.min(nlist);
        probes.lists.clear();
        probes.scores.clear();
        let share = if queries.len() < BATCH { SHARE_OF_FEW } else { SHARE_OF_BATCH };
        match &self.quantised {
            Some(quantised) if nprobe > 0 && nprobe <= nlist / share => self.look(quantised, queries, probes),
            _ => self.scan(queries, probes),
        }
    }

    fn scores(&self, query: &[f32], lists: &[u32], scores: &mut Vec<f32>) {
        scores.resize(lists.len(), 0.0);
        let picked = self.panels.picked(self.similarity, query, self.centroids());
        self.kernels.picked_scores(&picked, lists, scores);
    }

    fn centroids(&self) -> Rows<'_> {
        Rows::of(&self.centroids, self.dim)
    }
}

/// Lists whose scores are no numbers come last, in their order: every query has its `nprobe` probes. No query that the
/// door lets in has such scores, but a batch must not fall apart if one had.
pub(super) fn fill_up(scores: &[f32], nprobe: usize, nearest: &mut Vec<u32>) {
    if nearest.len() < nprobe {
        let rest = (0..).zip(scores).filter(|(_, score)| score.is_nan()).map(|(list, _)| list);
        nearest.extend(rest.take(nprobe - nearest.len()));
    }
}

#[cfg(test)]
mod tests;
