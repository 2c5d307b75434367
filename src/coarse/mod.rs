//! Coarse quantizers: which list a vector belongs to, and which lists a query should probe.

mod flat;
mod measured;
mod own;
mod params;
mod quantised;
mod shortlist;
mod spill;
mod tree;

pub(crate) use flat::FlatCoarse;
pub(crate) use measured::MeasuredCoarse;
pub(crate) use own::{Finder, Quantizers};
pub use own::{Quantizer, QuantizerName};
pub use params::{QuantizerParams, QuantizerValue};
pub(crate) use tree::{Tree, TreeCoarse};

use crate::Rows;

/// λ of spilling where nobody says another.
const LAMBDA: f32 = 1.5;

/// The lists to probe, per query, nearest first.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Probes per query.
    pub(crate) nprobe: usize,
    /// `nprobe` list numbers (within the model) per query.
    pub(crate) lists: Vec<u32>,
    /// Their scores.
    pub(crate) scores: Vec<f32>,
}

/// No list: behind those of a query that has fewer than `nprobe`.
const NONE: u32 = u32::MAX;

impl Probes {
    /// The lists of a query and their scores.
    pub(crate) fn of(&self, query: usize) -> (&[u32], &[f32]) {
        let first = query * self.nprobe;
        let lists = &self.lists[first..first + self.nprobe];
        let found = match lists.last() {
            Some(&NONE) => lists.partition_point(|list| *list != NONE),
            _ => lists.len(),
        };
        (&lists[..found], &self.scores[first..first + found])
    }
}

/// Assigns vectors to lists and queries to probes.
pub(crate) trait CoarseQuantizer: Send + Sync {
    /// The nearest list of each row, and its score; ties go to the lower list.
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]);

    /// The second list of each row, which stands in `lists` first; ties go to the lower list. There are two lists or
    /// more.
    ///
    /// With r = x − c, the residual in the first list c, the second is the c' ≠ c that minimises
    /// `‖x − c'‖² + λ·⟨r/‖r‖, x − c'⟩²` with λ of the specification, 1.5 as a rule, or ‖x − c'‖² alone where r is 0: a query that misses x in its first
    /// list points along r, so a second residual across r is the one that helps it (SOAR, Sun et al. 2023). Distances are
    /// Euclidean whatever the metric: they measure what a list keeps of x.
    fn spill(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]);

    /// The `nprobe` nearest lists of each query, nearest first, ties by list; replaces `probes`.
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes);

    /// The same among the lists of the `supers` nearest super-clusters that have any, where there are super-clusters: a query may have
    /// fewer than `nprobe` of them.
    fn nearest_within(&self, queries: Rows<'_>, _supers: usize, nprobe: usize, probes: &mut Probes) {
        self.nearest(queries, nprobe, probes);
    }

    /// The scores of a query with these lists, the bits that [`nearest`](Self::nearest) gives; replaces `scores`.
    fn scores(&self, query: &[f32], lists: &[u32], scores: &mut Vec<f32>);

    /// All centroids, list after list.
    fn centroids(&self) -> Rows<'_>;
}
