//! Searches in lists that the caller chose: some other quantizer's, or those of an earlier [`IndexReader::probe`].
//!
//! ```text
//! queries, nprobe ─ probe ─→ Preassigned (lists, distances) ─ search_preassigned ─→ what `search` finds
//! ```

use super::model::Model;
use super::reader::{IndexReader, Neighbor};
use crate::math::topk::Hit;
use crate::params::SearchParams;
use crate::{Error, Metric, NORM_MAX, QuantizerParams, Result, Rows};
use std::collections::HashSet;

/// Lists to look into, query by query, with or without the distances of the queries to their centroids.
///
/// A list that is none (`None`; −1 in FAISS's arrays) is passed over. One that is named twice is looked into once, where it
/// comes first: no vector is found twice. Distances are those that [`IndexReader::probe`] gives, of what
/// [`transforms`](crate::IndexSpec::transforms) make of query and centroid; codes relative to centroids (`PQ`, `SQ`, `RaBitQ`, …) add
/// them to their own part, so a wrong one gives wrong distances. Without them they are computed.
///
/// ```
/// # use vellum::Preassigned;
/// let lists = Preassigned::of_lists([vec![Some(3), None, Some(1)], vec![]]);
/// assert_eq!((lists.len(), lists.lists(0), lists.lists(1)), (2, &[3, 1][..], &[][..]));
/// assert_eq!(lists.distances(0), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preassigned {
    /// Where each query's lists end.
    ends: Vec<usize>,
    lists: Vec<u32>,
    distances: Option<Vec<f32>>,
}

impl Preassigned {
    /// The lists of each query, in the order in which they are looked into.
    pub fn of_lists<Q>(queries: impl IntoIterator<Item = Q>) -> Self
    where
        Q: IntoIterator<Item = Option<u32>>,
    {
        let with = |query: Q| query.into_iter().map(|list| (list, 0.0)).collect::<Vec<_>>();
        Preassigned { distances: None, ..Self::with_distances(queries.into_iter().map(with)) }
    }

    /// The same with the distance of the query to each list's centroid.
    pub fn with_distances<Q>(queries: impl IntoIterator<Item = Q>) -> Self
    where
        Q: IntoIterator<Item = (Option<u32>, f32)>,
    {
        let (mut ends, mut lists, mut distances) = (Vec::new(), Vec::new(), Vec::new());
        for query in queries {
            let mut seen = HashSet::new();
            let named = query.into_iter().filter_map(|(list, distance)| Some((list?, distance)));
            for (list, distance) in named.filter(|(list, _)| seen.insert(*list)) {
                lists.push(list);
                distances.push(distance);
            }
            ends.push(lists.len());
        }
        Preassigned { ends, lists, distances: Some(distances) }
    }

    /// FAISS's arrays: `nprobe` list numbers a query, negative for none, and as many distances if there are any.
    ///
    /// # Errors
    /// [`Error::Length`] if they are no whole number of queries, or not equally many; [`Error::Parameter`] for an `nprobe` of
    /// 0 or a list number beyond 2^32 − 1.
    pub fn of_arrays(lists: &[i64], distances: Option<&[f32]>, nprobe: usize) -> Result<Self> {
        if nprobe == 0 {
            return Err(Error::Parameter { name: "nprobe", what: "0, expected at least 1".into() });
        }
        if !lists.len().is_multiple_of(nprobe) {
            let expected = lists.len().next_multiple_of(nprobe);
            return Err(Error::Length { what: "lists", expected, got: lists.len() });
        }
        let wrong = distances.filter(|distances| distances.len() != lists.len());
        if let Some(distances) = wrong {
            return Err(Error::Length { what: "distances", expected: lists.len(), got: distances.len() });
        }
        let number = |list: &i64| match u32::try_from(*list) {
            Ok(list) => Ok(Some(list)),
            Err(_) if *list < 0 => Ok(None),
            Err(_) => Err(Error::Parameter { name: "list", what: format!("{list}, allowed are 32 bits") }),
        };
        let numbers = lists.iter().map(number).collect::<Result<Vec<_>>>()?;
        let queries = numbers.chunks(nprobe).map(|query| query.iter().copied());
        Ok(match distances {
            None => Self::of_lists(queries),
            Some(distances) => {
                let distances = distances.chunks(nprobe).map(|query| query.iter().copied());
                Self::with_distances(queries.zip(distances).map(|(lists, distances)| lists.zip(distances)))
            }
        })
    }

    /// Queries.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is no query.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The lists of a query.
    ///
    /// # Panics
    /// If `query >= len()`, as slices do.
    pub fn lists(&self, query: usize) -> &[u32] {
        &self.lists[self.range(query)]
    }

    /// Their distances, if they are known.
    ///
    /// # Panics
    /// If `query >= len()`, as slices do.
    pub fn distances(&self, query: usize) -> Option<&[f32]> {
        self.distances.as_ref().map(|distances| &distances[self.range(query)])
    }

    fn range(&self, query: usize) -> std::ops::Range<usize> {
        query.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[query]
    }

    /// The coarse scores of a (projected) query: as given, or computed.
    pub(crate) fn scores(&self, model: &Model, query: &[f32], number: usize) -> Vec<f32> {
        match self.distances(number) {
            // Adding 0 turns -0 into 0.
            Some(distances) => distances.iter().map(|d| model.metric().flip(*d) + 0.0).collect(),
            None => model.coarse_scores(query, self.lists(number)),
        }
    }

    fn check(&self, queries: usize, nlist: usize, metric: Metric) -> Result<()> {
        if self.len() != queries {
            return Err(Error::Length { what: "lists of queries", expected: queries, got: self.len() });
        }
        if let Some(list) = self.lists.iter().find(|list| **list as usize >= nlist) {
            return Err(Error::Parameter { name: "list", what: format!("{list}, there are {nlist}") });
        }
        // The distance of two of the longest vectors. Codes under other metrics do not ask for it.
        let most = 4.0 * NORM_MAX * NORM_MAX * 1.001;
        let bad = |distance: &&f32| distance.is_nan() || distance.abs() > most;
        let asked = self.distances.as_ref().filter(|_| metric.distance().is_none());
        match asked.and_then(|distances| distances.iter().find(bad)) {
            None => Ok(()),
            Some(distance) => {
                Err(Error::Parameter { name: "distance", what: format!("{distance} of a list's centroid") })
            }
        }
    }
}

impl IndexReader<'_> {
    /// The `nprobe` nearest lists of each query and the distances to their centroids, nearest first, ties by list: what a
    /// search would look into. More than there are means all of them. Before training, and in a flat index, there is one
    /// list, 0, at distance 0.
    ///
    /// # Errors
    /// Those of the queries; [`Error::Parameter`] for an `nprobe` of 0.
    pub fn probe(&self, queries: Rows<'_>, nprobe: usize) -> Result<Preassigned> {
        self.probe_by(queries, nprobe, None)
    }

    /// The same looked for in another way: what a search with these [`quantizer_params`](SearchParams::quantizer_params) would look into. A query
    /// may have fewer lists than `nprobe`.
    ///
    /// # Errors
    /// As [`probe`](Self::probe); [`Error::Parameter`] for what the index's quantizer has no use for.
    pub fn probe_with(&self, queries: Rows<'_>, nprobe: usize, how: &QuantizerParams) -> Result<Preassigned> {
        how.check(self.spec())?;
        self.probe_by(queries, nprobe, Some(how))
    }

    pub(super) fn probe_by(
        &self,
        queries: Rows<'_>,
        nprobe: usize,
        how: Option<&QuantizerParams>,
    ) -> Result<Preassigned> {
        if nprobe == 0 {
            return Err(Error::Parameter { name: "nprobe", what: "0, expected at least 1".into() });
        }
        let prepared = self.model.prepare(queries)?;
        let prepared = Rows::of(&prepared, self.dim());
        let projected = self.model.project(prepared)?;
        let nprobe = nprobe.min(self.nlist());
        let projected = Rows::of(&projected, self.model.inner_dim());
        let probes = self.model.probe(prepared, projected, nprobe, how)?;
        let (mut ends, mut lists, mut distances) = (Vec::new(), Vec::new(), Vec::new());
        for query in 0..queries.len() {
            let (its, scores) = probes.of(query);
            lists.extend_from_slice(its);
            distances.extend(scores.iter().map(|score| self.metric().flip(*score)));
            ends.push(lists.len());
        }
        Ok(Preassigned { ends, lists, distances: Some(distances) })
    }

    /// [`search_batch`](Self::search_batch) in the lists given instead of the nearest. All of a query's lists are looked into, or the
    /// first `nprobe` of them if `params` say so; a stored `nprobe` has no say.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Length`] if there are not as many queries as `lists` has; [`Error::Parameter`] for a list that
    /// there is not, or a distance that cannot be one.
    pub fn search_preassigned(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>> {
        Ok(self.neighbors(self.preassigned_hits(queries, lists, k, params)?))
    }

    pub(super) fn preassigned_hits(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Hit>>> {
        lists.check(queries.len(), self.nlist(), self.metric())?;
        self.top_k_hits(queries, k, f32::INFINITY, params, Some(lists))
    }

    /// [`range_search_batch`](Self::range_search_batch) in the lists given.
    ///
    /// # Errors
    /// As [`range_search`](Self::range_search) and [`search_preassigned`](Self::search_preassigned).
    pub fn range_search_preassigned(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        radius: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>> {
        Ok(self.neighbors(self.preassigned_range_hits(queries, lists, radius, params)?))
    }

    pub(super) fn preassigned_range_hits(
        &self,
        queries: Rows<'_>,
        lists: &Preassigned,
        radius: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Hit>>> {
        lists.check(queries.len(), self.nlist(), self.metric())?;
        self.range_hits(queries, radius, params, Some(lists))
    }
}
