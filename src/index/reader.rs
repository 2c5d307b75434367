//! The read verbs: search in all its forms, reconstruct, sizes.

use super::calibrate::{Settings, check_recall};
use super::filter::Filter;
use super::model::Model;
use super::preassigned::Preassigned;
use super::search::{self, Goal, Limits, Plain, Request, Widen, rows_again};
use super::stats;
use super::view::View;
use crate::coarse::{Quantizer, Quantizers};
use crate::guard::Quiet;
use crate::kernel::Element;
use crate::math::topk::Hit;
use crate::params::SearchParams;
use crate::profile::{Clock, Stage};
use crate::spec::IndexSpec;
use crate::storage;
use crate::storage::format::{Header, State};
use crate::storage::pins::Budget;
use crate::storage::snapshot::Snapshot;
use crate::{Error, FilterMode, Metric, ParallelMode, Rerank, Result, Rows};
use std::sync::Arc;
use std::time::Instant;

/// A vector that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// Its id.
    pub id: u64,
    /// Squared L2 distance, or the inner product or cosine itself (larger is nearer), or that of another metric. Where codes are
    /// estimates and no rows are kept it is an estimate, too: a squared distance may come out a little below 0.
    pub distance: f32,
}

/// One index in a frozen state, or as an open writer sees it.
///
/// A reader never changes under its holder: commits that come later are seen by readers opened later.
/// It can be shared between threads. Verbs that take `params` take what is not set there from the
/// defaults stored with the index.
#[derive(Clone)]
pub struct IndexReader<'a> {
    pub(crate) view: Arc<dyn View + 'a>,
    pub(crate) model: Arc<Model>,
    pub(crate) pool: Option<Arc<rayon::ThreadPool>>,
    /// Keeps the store's file open for as long as the reader lives.
    pub(crate) _database: Option<Arc<crate::store::Handle>>,
}

/// What pins of a reader outside any [`Store`](crate::Store) may hold: 256 MiB.
const LONE_READER_BYTES: usize = 256 << 20;

impl IndexReader<'static> {
    /// Opens an index within the application's own read transaction. The model is read and pins are kept
    /// for this reader alone, so keep it for as long as the transaction's state is wanted; an
    /// attached [`Store`](crate::Store) shares both between readers.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::Unfinished`] during a bulk load; [`Error::WriterLeftOpen`];
    /// [`Error::Corrupt`]; [`Error::Quantizer`] if the index needs one: see [`open_with`](Self::open_with).
    pub fn open(txn: &redb::ReadTransaction, index: &str) -> Result<Self> {
        Self::open_with(txn, index, &[])
    }

    /// The same with quantizers of the caller's own, one of which the index may need.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Quantizer`]; [`Error::Parameter`] for a quantizer whose name is none.
    pub fn open_with(
        txn: &redb::ReadTransaction,
        index: &str,
        quantizers: &[Arc<dyn Quantizer>],
    ) -> Result<Self> {
        let header = storage::read_header(txn, index)?;
        storage::check_identity(index, &header, storage::catalog_uuid(txn, index)?)?;
        check_usable(index, &header)?;
        let tables = Quiet::new(storage::open_read(txn, index)?);
        let quantizers = Quantizers::of(quantizers)?;
        let model = Arc::new(Model::load(&*tables, &header, Some(&quantizers))?);
        let source = model.source(header, tables, Instant::now());
        let snapshot = Snapshot::new(source, &Budget::new(LONE_READER_BYTES), None)?;
        Ok(IndexReader { view: Arc::new(snapshot), model, pool: None, _database: None })
    }
}

/// Refuses an index that is half made or half changed.
pub(crate) fn check_usable(index: &str, header: &Header) -> Result<()> {
    if header.writer_open {
        return Err(Error::WriterLeftOpen { index: index.into() });
    }
    match header.state {
        State::Ready => Ok(()),
        State::Loading => Err(Error::Unfinished { index: index.into(), rows: header.load_rows }),
    }
}

/// Search parameters with nothing left open.
struct Resolved {
    nprobe: usize,
    max_codes: usize,
    max_lists: usize,
    ensure_topk_full: bool,
    max_empty_lists: usize,
    mode: ParallelMode,
    filter_mode: FilterMode,
    /// The k of a top-k search.
    k: usize,
    /// Rows to score again; `None` if nothing is, or, of stored defaults, if they do not say.
    rerank: Option<Rerank>,
}

impl Resolved {
    /// True if a search with a selector may go beyond its lists: nothing else limits it.
    fn may_widen(&self, hamming: u32) -> bool {
        self.filter_mode == FilterMode::Adaptive && self.max_codes == 0 && self.max_lists == 0 && hamming == 0
    }
}

/// Lists probed when nobody says how many: a thirty-second of them, but 8 to 64.
fn default_nprobe(nlist: usize) -> usize {
    (nlist / 32).clamp(8, 64).min(nlist)
}

impl<'a> IndexReader<'a> {
    pub(crate) fn header(&self) -> &Header {
        self.view.header()
    }

    /// Vectors in the index.
    pub fn len(&self) -> u64 {
        self.header().ntotal
    }

    /// True if the index holds no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.model.spec.dim
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.model.metric()
    }

    /// What the index was created as.
    pub fn spec(&self) -> &IndexSpec {
        &self.model.spec
    }

    /// Lists in use now: 1 before training and for a flat index.
    pub fn nlist(&self) -> usize {
        self.model.nlist()
    }

    /// False until the lists of the specification exist; searches are exhaustive until then.
    pub fn is_trained(&self) -> bool {
        self.header().trained
    }

    /// Bytes that a vector takes in lists and kept rows.
    pub(crate) fn row_bytes(&self) -> usize {
        let kept: usize = self.model.kept.iter().map(|kept| kept.column.width).sum();
        self.model.places() * self.code_bytes() + kept
    }

    /// The centroids, `nlist` rows; none before training and for a flat index.
    pub fn centroids(&self) -> Option<Rows<'_>> {
        self.model.centroids()
    }

    /// The search defaults stored with the index, with what is not stored filled in.
    pub fn search_defaults(&self) -> SearchParams {
        let Resolved {
            nprobe,
            max_codes,
            max_lists,
            ensure_topk_full,
            max_empty_lists,
            mode,
            filter_mode,
            rerank,
            ..
        } = self.defaults();
        let params = SearchParams::new().nprobe(nprobe).max_codes(max_codes).max_lists(max_lists);
        let params = params.ensure_topk_full(ensure_topk_full).max_empty_lists(max_empty_lists);
        SearchParams { rerank, ..params.parallel_mode(mode).filter_mode(filter_mode) }
    }

    fn defaults(&self) -> Resolved {
        let header = self.header();
        let stored = |value: u32, otherwise: usize| if value == 0 { otherwise } else { value as usize };
        Resolved {
            nprobe: stored(header.nprobe, default_nprobe(self.nlist())),
            max_codes: header.max_codes as usize,
            max_lists: header.limits.max_lists as usize,
            ensure_topk_full: header.limits.ensure_topk_full,
            max_empty_lists: header.limits.max_empty_lists as usize,
            mode: header.limits.mode,
            filter_mode: header.limits.filter_mode,
            k: 1,
            rerank: header.rerank.filter(|_| self.model.spec.kept.is_some()),
        }
    }

    /// What a search for a recall uses, and nothing else of what it could use.
    fn resolve_target(&self, params: &SearchParams, k: Option<usize>, recall: f64) -> Result<SearchParams> {
        let bad = |what: &str| Err(Error::Parameter { name: "target_recall", what: what.into() });
        check_recall(recall)?;
        let SearchParams { nprobe, rerank, max_codes, max_lists, polysemous_ht, .. } = params;
        if nprobe.is_some() || rerank.is_some() {
            return bad("chooses nprobe and rerank, and they were chosen");
        }
        if [*max_codes, *max_lists].iter().flatten().any(|limit| *limit > 0)
            || polysemous_ht.is_some_and(|bits| bits > 0)
        {
            return bad("goes with no limit of what is scored");
        }
        if params.quantizer.is_some() {
            return bad(
                "was measured with lists that the quantizer finds by itself, not with quantizer_params",
            );
        }
        let Some(k) = k else { return bad("range searches have no recall to reach") };
        let settled = SearchParams { target_recall: None, ..params.clone() };
        let settled = settled.max_codes(0).max_lists(0);
        let exact = self.model.code_element().is_some_and(|code| code == Element::F32);
        if self.nlist() == 1 && exact && self.model.judge().is_none() {
            return Ok(settled.nprobe(1));
        }
        let Some(calibration) = self.calibration() else {
            return Err(Error::NotCalibrated { index: self.model.spec.to_string() });
        };
        // No answer is longer than the index.
        let Settings { nprobe, rerank } =
            calibration.find(k.min(self.len().max(1) as usize), recall, self.len())?;
        Ok(SearchParams { rerank: rerank.map(|rows| Rerank::Rows(rows.max(k))), ..settled.nprobe(nprobe) })
    }

    fn resolve(&self, params: &SearchParams, k: Option<usize>) -> Result<Resolved> {
        if let Some(recall) = params.target_recall {
            if k == Some(0) {
                return Err(Error::Parameter { name: "k", what: "0, expected at least 1".into() });
            }
            let params = self.resolve_target(params, k, recall)?;
            return self.resolve(&params, k);
        }
        let zero = |name| Err(Error::Parameter { name, what: "0, expected at least 1".into() });
        let defaults = self.defaults();
        let nprobe = params.nprobe.unwrap_or(defaults.nprobe).min(self.nlist());
        if params.nprobe == Some(0) {
            return zero("nprobe");
        }
        if k == Some(0) {
            return zero("k");
        }
        if params.polysemous_ht.unwrap_or(0) > 0 && !self.model.spec.encoding.is_polysemous() {
            return Err(Error::Parameter {
                name: "polysemous_ht",
                what: format!("the bits of `{}` codes say nothing of distances", self.model.spec.encoding),
            });
        }
        params.quantizer.as_ref().map_or(Ok(()), |how| how.check(&self.model.spec))?;
        let k = k.unwrap_or(1);
        let rerank = match (params.rerank.map(Rerank::check).transpose()?, self.model.spec.kept) {
            (Some(_), None) => {
                return Err(Error::Parameter {
                    name: "rerank",
                    what: format!("index `{}` keeps no rows to rerank with", self.model.spec),
                });
            }
            (Some(Rerank::Rows(rows)), Some(_)) if rows < k => {
                return Err(Error::Parameter {
                    name: "rerank",
                    what: format!("{rows} rows, fewer than k = {k}"),
                });
            }
            (Some(rerank), Some(_)) => rerank,
            (None, _) => match defaults.rerank {
                Some(Rerank::Rows(rows)) => Rerank::Rows(rows.max(k)),
                Some(bound) => bound,
                None => Rerank::Rows(self.model.spec.reranked_rows(k)),
            },
        };
        // Where no rows are kept, or the codes are more exact, nothing is scored again.
        let rerank = self.model.judge().map(|_| rerank);
        Ok(Resolved {
            nprobe,
            max_codes: params.max_codes.unwrap_or(defaults.max_codes),
            max_lists: params.max_lists.unwrap_or(defaults.max_lists),
            ensure_topk_full: params.ensure_topk_full.unwrap_or(defaults.ensure_topk_full),
            max_empty_lists: params.max_empty_lists.unwrap_or(defaults.max_empty_lists),
            mode: params.parallel_mode.unwrap_or(defaults.mode),
            filter_mode: params.filter_mode.unwrap_or(defaults.filter_mode),
            k,
            rerank,
        })
    }

    /// Lists that a search asks its quantizer for.
    pub(super) fn lists_probed(&self, params: &SearchParams, k: Option<usize>) -> Result<usize> {
        Ok(self.resolve(params, k)?.nprobe)
    }

    /// The `k` nearest vectors, nearest first, ties by id; fewer if fewer were found.
    ///
    /// # Errors
    /// [`Error::Dimension`], [`Error::NotFinite`], [`Error::ZeroVector`] for the query;
    /// [`Error::Parameter`] for `k` or `nprobe` 0; [`Error::Corrupt`] for bytes that are not what was written.
    pub fn search(&self, query: &[f32], k: usize, params: &SearchParams) -> Result<Vec<Neighbor>> {
        self.one(query, |queries| self.search_batch(queries, k, params))
    }

    /// The same for several queries; faster than one by one, because each list is read once for all
    /// queries that probe it. Runs on the store's thread pool, or else rayon's.
    pub fn search_batch(
        &self,
        queries: Rows<'_>,
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>> {
        self.top_k(queries, k, f32::INFINITY, params)
    }

    /// Continues a caller's heap: vectors nearer than its worst enter it. Searching several indexes, or
    /// shards of one, with the same heap gives the best of all.
    pub fn search_into(&self, query: &[f32], heap: &mut TopK, params: &SearchParams) -> Result<()> {
        let limit = heap.worst().map_or(f32::INFINITY, |worst| self.metric().flip(worst.distance));
        let found = self.one(query, |queries| self.top_k(queries, heap.k, limit, params))?;
        heap.merge(self.metric(), &found);
        Ok(())
    }

    fn top_k(
        &self,
        queries: Rows<'_>,
        k: usize,
        limit: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>> {
        Ok(self.neighbors(self.top_k_hits(queries, k, limit, params, None)?))
    }

    /// The hits of a top-k search in the nearest lists, or in those that the caller chose.
    pub(crate) fn top_k_hits(
        &self,
        queries: Rows<'_>,
        k: usize,
        limit: f32,
        params: &SearchParams,
        chosen: Option<&Preassigned>,
    ) -> Result<Vec<Vec<Hit>>> {
        let resolved = self.resolve(params, Some(k))?;
        // No answer is longer than the index, and no buffer need be.
        let k = k.min(self.len() as usize).max(1);
        let (rows, z) = match resolved.rerank {
            None => (0, None),
            Some(Rerank::Rows(rows)) => (rows, None),
            Some(Rerank::Bound(z)) => (self.model.spec.bounded_rows(k), Some(z)),
        };
        if chosen.is_some() && params.target_recall.is_some() {
            let what = "chooses lists, and they were chosen".into();
            return Err(Error::Parameter { name: "target_recall", what });
        }
        let goal = match rows.min(self.len() as usize) {
            0 => Goal::TopK { k, limit },
            rows => Goal::Rerank { rows, z, k, limit },
        };
        self.find(queries, goal, params, &resolved, chosen)
    }

    /// All vectors nearer than `radius`, strictly: a distance below it, a similarity above it.
    /// Nearest first, ties by id. Only the probed lists are looked at. Within them nobody is missed where codes are components
    /// (`Flat`, `SQfp16`, `SQbf16`, with no transform in front), also where they are coarser than the rows kept beside them,
    /// which have the last word. Other codes are estimates: who is near the radius may be missed by them. Distances are those that a
    /// [`search`](Self::search) reports.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Parameter`] if the radius is NaN.
    pub fn range_search(&self, query: &[f32], radius: f32, params: &SearchParams) -> Result<Vec<Neighbor>> {
        self.one(query, |queries| self.range_search_batch(queries, radius, params))
    }

    /// The same for several queries.
    pub fn range_search_batch(
        &self,
        queries: Rows<'_>,
        radius: f32,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>> {
        Ok(self.neighbors(self.range_hits(queries, radius, params, None)?))
    }

    pub(crate) fn range_hits(
        &self,
        queries: Rows<'_>,
        radius: f32,
        params: &SearchParams,
        chosen: Option<&Preassigned>,
    ) -> Result<Vec<Vec<Hit>>> {
        if radius.is_nan() {
            return Err(Error::Parameter { name: "radius", what: "NaN".into() });
        }
        let resolved = self.resolve(params, None)?;
        let radius = self.metric().flip(radius);
        let kept = self.model.judge().map(|kept| kept.form);
        let goal = Goal::Radius { radius, kept };
        self.find(queries, goal, params, &resolved, chosen)
    }

    pub(crate) fn one<T>(
        &self,
        query: &[f32],
        search: impl FnOnce(Rows<'_>) -> Result<Vec<Vec<T>>>,
    ) -> Result<Vec<T>> {
        let queries =
            Rows::one(query).map_err(|_| Error::Dimension { expected: self.dim(), got: query.len() })?;
        Ok(search(queries)?.pop().unwrap_or_default())
    }

    /// Checks, prepares and searches.
    fn find(
        &self,
        queries: Rows<'_>,
        goal: Goal,
        params: &SearchParams,
        resolved: &Resolved,
        chosen: Option<&Preassigned>,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut clock = Clock::start(params.stats.as_deref());
        let prepared = self.model.prepare(queries)?;
        let queries = Rows::of(&prepared, self.dim());
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        if chosen.is_some() && params.quantizer.is_some() {
            let what = "say how to look for lists, and they were chosen".into();
            return Err(Error::Parameter { name: "quantizer_params", what });
        }
        let nprobe = match chosen {
            None => resolved.nprobe,
            Some(_) => params.nprobe.unwrap_or(self.nlist()),
        };
        let all = (self.len() as usize).saturating_mul(self.model.places());
        let scanned = all.saturating_mul(queries.len()).saturating_mul(nprobe) / self.nlist();
        let hamming = params.polysemous_ht.unwrap_or(0);
        let (filter, widen, times) = match goal {
            Goal::TopK { .. } | Goal::Rerank { .. }
                if chosen.is_none() && resolved.may_widen(hamming) && !params.limits_lists() =>
            {
                let sized = Filter::sized(&*self.view, params, scanned)?;
                let reranked = if let Goal::Rerank { rows, .. } = goal { rows } else { 0 };
                let plain = Plain { nprobe, k: resolved.k, reranked };
                let widen = Widen::of(&*self.view, &self.model, &sized, plain);
                let said = params.rerank.is_some() || self.header().rerank.is_some();
                let times = if said || widen.is_none() { 1 } else { rows_again(sized.share) };
                (sized.filter, widen, times)
            }
            _ => (Filter::new(&*self.view, params.selector.as_ref(), scanned)?, None, 1),
        };
        // No more than there are: buffers go by it.
        let goal = goal.more_rows(times.min(self.len() as usize));
        let Resolved { max_codes, max_lists, ensure_topk_full, max_empty_lists, mode, k, .. } = *resolved;
        // Two entries may be one vector.
        let at_least = if ensure_topk_full { k.saturating_mul(self.model.places()) } else { 0 };
        let limits = Limits { max_codes, max_lists, at_least, max_empty_lists };
        let stats = params.stats.as_deref();
        let shared = self.header().twins > 0;
        let filter = &filter;
        let quantizer = params.quantizer.as_ref();
        let request =
            Request { goal, nprobe, chosen, limits, mode, filter, widen, quantizer, hamming, shared, stats };
        clock.lap(Stage::Prepare);
        let shared = queries.len() > 1 || mode != ParallelMode::Queries;
        self.in_pool(shared, || search::search(&*self.view, &self.model, queries, &request))
    }

    /// Runs what several threads share on the store's pool, and else where the caller is.
    pub(crate) fn in_pool<R: Send>(&self, shared: bool, run: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) if shared => pool.install(run),
            _ => run(),
        }
    }

    pub(crate) fn neighbors(&self, found: Vec<Vec<Hit>>) -> Vec<Vec<Neighbor>> {
        let metric = self.metric();
        let neighbor = |hit: Hit| Neighbor { id: hit.id, distance: metric.flip(hit.score) };
        found.into_iter().map(|hits| hits.into_iter().map(neighbor).collect()).collect()
    }

    /// True if `id` is in the index.
    pub fn contains(&self, id: u64) -> Result<bool> {
        Ok(self.view.row_of(id)?.is_some())
    }

    /// All ids, ascending.
    pub fn ids(&self) -> Result<Vec<u64>> {
        self.view.all_ids()
    }

    /// The key of `id`, if the index has keys and the id is there.
    pub fn key(&self, id: u64) -> Result<Option<Vec<u8>>> {
        self.view.key_of(id)
    }

    /// The id that stands for `key`.
    pub fn id_of_key(&self, key: &[u8]) -> Result<Option<u64>> {
        self.view.id_of_key(key)
    }

    /// The vector of `id`, as exact as the index keeps it: the most exact of kept rows and decoded code (of the nearest
    /// list, where it stands in two). Under cosine it has length 1.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::CannotDecode`] where no rows are kept and codes cannot be turned back.
    pub fn reconstruct(&self, id: u64) -> Result<Vec<f32>> {
        let row = self.view.row_of(id)?.ok_or(Error::UnknownId { id })?;
        self.vector_of(row)
    }

    /// The vectors of `ids`, row after row.
    pub fn reconstruct_batch(&self, ids: &[u64]) -> Result<Vec<f32>> {
        let mut rows = Vec::with_capacity(ids.len().saturating_mul(self.dim()).min(1 << 26));
        for id in ids {
            rows.extend(self.reconstruct(*id)?);
        }
        Ok(rows)
    }

    /// Entries of each list. Where vectors stand in two lists, each is an entry of both; equal vectors that share an entry
    /// are one.
    pub fn list_sizes(&self) -> Result<Vec<usize>> {
        (0..self.nlist() as u32).map(|list| Ok(self.view.list(list)?.n as usize)).collect()
    }

    /// How unequal the lists are: nlist·Σn²/(Σn)², 1 when all are equally long; 1 for an empty index.
    pub fn imbalance(&self) -> Result<f64> {
        Ok(stats::imbalance(&self.list_sizes()?))
    }
}

impl std::fmt::Debug for IndexReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexReader").field("spec", &self.model.spec).field("len", &self.len()).finish()
    }
}

/// A caller's heap of the k nearest, to be continued over several searches.
///
/// ```
/// # use vellum::TopK;
/// let heap = TopK::new(10);
/// assert!(heap.neighbors().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    neighbors: Vec<Neighbor>,
}

impl TopK {
    /// An empty heap of `k` places.
    pub fn new(k: usize) -> Self {
        TopK { k, neighbors: Vec::new() }
    }

    /// What it holds, nearest first, ties by id.
    pub fn neighbors(&self) -> &[Neighbor] {
        &self.neighbors
    }

    pub(super) fn worst(&self) -> Option<&Neighbor> {
        self.neighbors.get(self.k.checked_sub(1)?)
    }

    fn merge(&mut self, metric: Metric, found: &[Neighbor]) {
        self.neighbors.extend_from_slice(found);
        let score = |neighbor: &Neighbor| metric.flip(neighbor.distance);
        self.neighbors.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
        self.neighbors.truncate(self.k);
    }

    /// The same of neighbours that may be here already: the better of the two stays. Returns how many entered.
    pub(super) fn merge_new(&mut self, metric: Metric, mut found: Vec<Neighbor>) -> usize {
        let score = |neighbor: &Neighbor| metric.flip(neighbor.distance);
        found.retain(|new| match self.neighbors.iter().position(|old| old.id == new.id) {
            Some(at) if score(new) < score(&self.neighbors[at]) => {
                self.neighbors.remove(at);
                true
            }
            Some(_) => false,
            None => true,
        });
        let new: std::collections::HashSet<u64> = found.iter().map(|neighbor| neighbor.id).collect();
        self.merge(metric, &found);
        self.neighbors.iter().filter(|neighbor| new.contains(&neighbor.id)).count()
    }
}
