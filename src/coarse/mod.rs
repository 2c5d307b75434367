//! Coarse quantizers: which list a vector belongs to, and which lists a query should probe.

mod flat;
mod quantised;

pub(crate) use flat::FlatCoarse;

use crate::Rows;

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

/// Assigns vectors to lists and queries to probes.
pub(crate) trait CoarseQuantizer: Send + Sync {
    /// The nearest list of each row, and its score; ties go to the lower list.
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]);

    /// The `nprobe` nearest lists of each query, nearest first, ties by list; replaces `probes`.
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes);

    /// All centroids, list after list.
    fn centroids(&self) -> Rows<'_>;
}
