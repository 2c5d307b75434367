//! The coarse quantizer of metrics that are a [`Distance`]: every centroid is scored under the metric itself.
//!
//! No matrix product says such a distance, so there is no look at quantised centroids and no tree either: as many distances
//! a query as there are lists. A list whose centroid has no distance (NaN) comes after all others.

use super::flat::fill_up;
use super::{CoarseQuantizer, Probes, spill};
use crate::Rows;
use crate::kernel::Distance;
use crate::math::linalg::{Panels, each_measured, nearest_measured};
use crate::math::topk::smallest;

/// Centroids compared one and all.
pub(crate) struct MeasuredCoarse {
    dim: usize,
    centroids: Vec<f32>,
    distance: Distance,
}

impl MeasuredCoarse {
    pub(crate) fn new(centroids: Vec<f32>, dim: usize, distance: Distance) -> Self {
        MeasuredCoarse { dim, centroids, distance }
    }
}

impl CoarseQuantizer for MeasuredCoarse {
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]) {
        nearest_measured(self.distance, self.centroids(), rows, lists, scores);
    }

    fn spill(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]) {
        // By Euclidean distances, as under any metric; no specification asks for it.
        spill::second_lists(
            &Panels::new(self.centroids()),
            self.centroids(),
            super::LAMBDA,
            rows,
            lists,
            second,
        );
    }

    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes) {
        let nlist = self.centroids().len();
        probes.nprobe = nprobe.min(nlist);
        probes.lists.clear();
        probes.scores.clear();
        let mut nearest = Vec::new();
        each_measured(self.distance, self.centroids(), queries, |_, scores| {
            smallest(scores, probes.nprobe, &mut nearest);
            fill_up(scores, probes.nprobe, &mut nearest);
            probes.lists.extend_from_slice(&nearest);
            probes.scores.extend(nearest.iter().map(|list| scores[*list as usize]));
        });
    }

    fn scores(&self, query: &[f32], lists: &[u32], scores: &mut Vec<f32>) {
        scores.clear();
        each_measured(self.distance, self.centroids(), Rows::of(query, self.dim), |_, all| {
            scores.extend(lists.iter().map(|list| all[*list as usize]));
        });
    }

    fn centroids(&self) -> Rows<'_> {
        Rows::of(&self.centroids, self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    #[test]
    fn lists_are_in_the_order_of_the_metric_and_those_without_a_distance_come_last() {
        let nan = f32::NAN;
        let coarse = MeasuredCoarse::new(vec![0.1, -1.0, 0.9, 0.5, 0.2, 0.4, 0.9, 0.5], 2, Distance::Gower);
        let mut probes = Probes::default();
        coarse.nearest(Rows::of(&[0.9, 0.5, 0.1, -1.0, nan, nan], 2), 9, &mut probes);
        assert_eq!(probes.nprobe, 4);
        assert_eq!(probes.lists, [1, 3, 2, 0, 0, 1, 2, 3, 0, 1, 2, 3]);
        assert!(probes.scores[..2] == [0.0, 0.0] && probes.scores[3].is_nan());
        let (mut lists, mut scores) = ([7; 3], [0.0; 3]);
        coarse.assign(Rows::of(&[0.9, 0.5, 0.1, -1.0, nan, nan], 2), &mut lists, &mut scores);
        assert_eq!((lists, scores), ([1, 0, 0], [0.0, 0.0, f32::INFINITY]));
    }

    /// A row goes where a query that is the row looks first, in a batch and alone.
    #[test]
    fn rows_are_assigned_to_the_first_list_that_they_would_probe() {
        let (dim, nlist, n) = (5, 37, 150);
        let mut random = Random::new(1);
        let mut vectors = |n: usize| (0..n * dim).map(|_| random.unit() as f32).collect::<Vec<f32>>();
        let (centroids, rows) = (vectors(nlist), vectors(n));
        for distance in [Distance::L1, Distance::Jaccard, Distance::Power(0.5), Distance::JensenShannon] {
            let coarse = MeasuredCoarse::new(centroids.clone(), dim, distance);
            let (mut lists, mut scores, mut probes) = (vec![0; n], vec![0.0; n], Probes::default());
            coarse.assign(Rows::of(&rows, dim), &mut lists, &mut scores);
            coarse.nearest(Rows::of(&rows, dim), 1, &mut probes);
            assert_eq!((&probes.lists, &probes.scores), (&lists, &scores));
            for (row, list) in rows.chunks(dim).zip(&lists) {
                coarse.nearest(Rows::of(row, dim), 3, &mut probes);
                assert_eq!(probes.lists[0], *list);
            }
        }
    }
}
