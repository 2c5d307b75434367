//! How an index is searched ([`SearchParams`]): how far, with what filter, and shared out among threads how.

use crate::math::selector::{IdSelector, ResolvedSelector};
use crate::{QuantizerParams, Rerank, SearchStats};
use std::sync::Arc;

/// How a search is shared out among threads: the store's pool, or else rayon's. Answers are equal bit for bit; a search in
/// which one list decides about the next (`max_empty_lists`, or `max_codes` and `ensure_topk_full` with a selector) is shared out
/// by queries whatever is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParallelMode {
    /// Each thread takes a part of the queries: the most queries a second. One query is one thread's, and the caller's own.
    /// FAISS's modes 0 and 3.
    #[default]
    Queries,
    /// One query after the other, its lists shared out: the shortest time for one query over many entries. FAISS's mode
    /// 1.
    Lists,
    /// All (query, list) pairs are shared out: for fewer queries than threads, or very unequal lists. FAISS's mode 2.
    Pairs,
}

impl ParallelMode {
    /// The tag on disk, never reused.
    pub(crate) fn to_stored(self) -> u8 {
        match self {
            ParallelMode::Queries => 0,
            ParallelMode::Lists => 1,
            ParallelMode::Pairs => 2,
        }
    }

    pub(crate) fn from_stored(tag: u8) -> Option<Self> {
        [ParallelMode::Queries, ParallelMode::Lists, ParallelMode::Pairs]
            .into_iter()
            .find(|mode| mode.to_stored() == tag)
    }
}

/// What a top-k search with a selector may do beyond looking into `nprobe` lists. Searches without a selector, range searches and
/// searches in lists of the caller's choice do not know the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilterMode {
    /// Finds k good vectors however few the selector admits. Where they are so few that scoring the kept rows of all of
    /// them costs less than scanning codes, that is what is done, and the answer is exact. Else lists beyond `nprobe` are
    /// looked into, the nearest first, until up to twice as many codes of admitted vectors were scored as a search without a
    /// selector scores, and k at least, or there are no more; lists without any are passed over. A search with `max_codes`, `max_lists`, `polysemous_ht` or
    /// [`QuantizerParams::SuperClusters`] is [`Probed`](Self::Probed), as these are limits.
    #[default]
    Adaptive,
    /// What the selector admits of the `nprobe` nearest lists, and nothing else: FAISS's meaning.
    Probed,
}

impl FilterMode {
    /// The tag on disk, never reused.
    pub(crate) fn to_stored(self) -> u8 {
        match self {
            FilterMode::Adaptive => 0,
            FilterMode::Probed => 1,
        }
    }

    pub(crate) fn from_stored(tag: u8) -> Option<Self> {
        [FilterMode::Adaptive, FilterMode::Probed].into_iter().find(|mode| mode.to_stored() == tag)
    }
}

/// How to search. A field that is not set comes from the defaults stored with the index.
///
/// ```
/// # use vellum::{IdSelector, SearchParams};
/// let params = SearchParams::new().nprobe(16).selector(IdSelector::Range(0..1000));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SearchParams {
    pub(crate) nprobe: Option<usize>,
    pub(crate) target_recall: Option<f64>,
    pub(crate) max_codes: Option<usize>,
    pub(crate) max_lists: Option<usize>,
    pub(crate) ensure_topk_full: Option<bool>,
    pub(crate) max_empty_lists: Option<usize>,
    pub(crate) parallel_mode: Option<ParallelMode>,
    pub(crate) rerank: Option<Rerank>,
    pub(crate) polysemous_ht: Option<u32>,
    pub(crate) quantizer: Option<QuantizerParams>,
    pub(crate) selector: Option<IdSelector>,
    /// What the selector came to in the state that was searched last.
    pub(crate) resolved: Arc<ResolvedSelector>,
    pub(crate) filter_mode: Option<FilterMode>,
    pub(crate) stats: Option<Arc<SearchStats>>,
}

impl SearchParams {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists to probe, at least 1; more than there are means all of them.
    pub fn nprobe(self, nprobe: usize) -> Self {
        SearchParams { nprobe: Some(nprobe), ..self }
    }

    /// Finds this share of the k nearest, more than 0 to 1, on average: the lists to probe and the rows to score again are those at which
    /// a [`Calibration`](crate::Calibration) measured it, so neither they nor `max_codes`, `max_lists` or `polysemous_ht` may
    /// be given with it; stored defaults of these have no say. Of queries that are like the stored vectors, or like those
    /// that the index was calibrated with. Where one list is searched exactly, as before training, there is
    /// nothing to calibrate and the recall is 1. Not for range searches or lists of the caller's choice; with a selector, the recall
    /// that a search without one would have.
    ///
    /// Training calibrates with its own rows, if they are like those that are added; [`Store::calibrate`](crate::Store::calibrate) does it
    /// better over what is stored, and should be called again when there are more than twice as many vectors as it was measured over, or fewer
    /// than half ([`Calibration::is_stale`](crate::Calibration::is_stale), `vellum info`): until then settings follow the number
    /// of vectors as if all were alike. A low recall may be exceeded, as one list may be more than enough.
    ///
    /// A search with it fails with [`Error::NotCalibrated`](crate::Error::NotCalibrated) where training had no rows to calibrate with (8 at
    /// least; none in a model that was [imported](crate::IndexWriter::import_model)), and with
    /// [`Error::Parameter`](crate::Error::Parameter) for a recall that calibrating did not reach, or a k beyond the largest that it was for (100).
    pub fn target_recall(self, recall: f64) -> Self {
        SearchParams { target_recall: Some(recall), ..self }
    }

    /// Entries to score per query at most, counted after the selector, in the order of the probes; 0 is
    /// no limit. A vector that stands in two lists counts in each of them; equal vectors that share an entry count each.
    pub fn max_codes(self, max_codes: usize) -> Self {
        SearchParams { max_codes: Some(max_codes), ..self }
    }

    /// Of the probed lists, look into so many that are not empty at most; 0 is no limit. Together with `max_codes`, what
    /// comes first ends the query.
    pub fn max_lists(self, max_lists: usize) -> Self {
        SearchParams { max_lists: Some(max_lists), ..self }
    }

    /// `max_codes` and `max_lists` end a top-k search only after a whole list, and not before as many vectors were scored
    /// as are wanted (k; of those that the selector lets through): the answer has k vectors if the probed lists have
    /// them. Range searches have no k, and take it for the whole lists alone.
    pub fn ensure_topk_full(self, ensure: bool) -> Self {
        SearchParams { ensure_topk_full: Some(ensure), ..self }
    }

    /// Ends a range search after so many probed lists, one after the other, in which no code was within the radius; 0 is no
    /// limit. Without effect on top-k searches. Queries then go list after list, each by itself.
    pub fn max_empty_lists(self, max_empty_lists: usize) -> Self {
        SearchParams { max_empty_lists: Some(max_empty_lists), ..self }
    }

    /// How the work is shared out among threads. The answers are equal.
    pub fn parallel_mode(self, mode: ParallelMode) -> Self {
        SearchParams { parallel_mode: Some(mode), ..self }
    }

    /// Rows to score again with the kept rows: so many, at least k (`40`), or as many as it takes
    /// ([`Rerank::Bound`]). A vector found in two lists is one row. Refused by an index that keeps none; without effect
    /// on range searches.
    pub fn rerank(self, rerank: impl Into<Rerank>) -> Self {
        SearchParams { rerank: Some(rerank.into()), ..self }
    }

    /// Scores only entries whose code differs from the query's own in fewer bits than this; 0 scores all. Of product codes
    /// whose training put their points in order for it (`PQ16`, not `PQ16np`; up to 8 bits), near codes are near
    /// vectors. Refused by other indexes; before training there are no codes to go by, and all are scored.
    pub fn polysemous_ht(self, bits: u32) -> Self {
        SearchParams { polysemous_ht: Some(bits), ..self }
    }

    /// How the coarse quantizer looks for the lists: [`QuantizerParams`] says which quantizer takes what. Nothing that is stored; it goes
    /// neither with `target_recall` nor with lists of the caller's choice.
    ///
    /// A search fails with [`Error::Parameter`](crate::Error::Parameter) for what the index's quantizer has no use for.
    pub fn quantizer_params(self, params: QuantizerParams) -> Self {
        SearchParams { quantizer: Some(params), ..self }
    }

    /// True if no lists may be looked into but those that the coarse quantizer was told to look for.
    pub(crate) fn limits_lists(&self) -> bool {
        matches!(self.quantizer, Some(QuantizerParams::SuperClusters(_)))
    }

    /// Only vectors whose id the selector holds. Parameters that are used again remember which rows that were, as long as
    /// the index does not change.
    pub fn selector(self, selector: IdSelector) -> Self {
        SearchParams { selector: Some(selector), resolved: Default::default(), ..self }
    }

    /// Whether a top-k search with a selector may look further than `nprobe` lists, or at the admitted vectors alone:
    /// [`FilterMode::Adaptive`], unless something else is stored with the index.
    pub fn filter_mode(self, mode: FilterMode) -> Self {
        SearchParams { filter_mode: Some(mode), ..self }
    }

    /// Adds what the searches did, and how long each stage took, to `stats`: some reads of the clock for each call.
    pub fn stats(self, stats: &Arc<SearchStats>) -> Self {
        SearchParams { stats: Some(stats.clone()), ..self }
    }
}
