//! The retriever: one thing that is given vectors and identifiers and answers queries with identifiers and scores. What
//! the ScaNN layer of TensorFlow Recommenders is, over an index, and so persistent and transactional.
//!
//! ```text
//! queries ──query model──▶ embeddings ──IndexReader::search_batch──▶ ids ──kind──▶ identifiers, scores
//!                                            ▲
//!                     store / index `name`: lists, codes, kept rows, search defaults, note (plan.rs)
//! ```
//! A retriever holds a store, a name and what the next [`Retriever::index`] will make. All that an answer depends on is
//! read from the index, in the state that a search begins with: so another handle, or another process after this one,
//! answers the same. Each verb that writes is one transaction of its own.

mod autopilot;
mod builder;
mod identifier;
mod plan;

pub use builder::RetrieverBuilder;
pub use identifier::{Identifier, Identifiers};
pub use plan::{AutopilotMode, Growth, Hash, Quantize, ScoreAh, Tree, UpperTree};

use crate::{
    Error, IdSelector, IndexReader, IndexWriter, KeptRows, MaintainParams, MaintainReport, Neighbor,
    Observer, QuantizerParams, Rerank, Result, Rows, SearchParams, Store, WriteTxn,
};
use identifier::Kind;
use plan::{Plan, Stored, Tended};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// A vector that was retrieved.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieved {
    /// What it is called.
    pub identifier: Identifier,
    /// In the measure's own sense: squared L2, or the inner product or cosine, of which larger is nearer.
    pub score: f32,
}

/// Rows that come at once, for [`Retriever::index_from_iter`]: with identifiers or without.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What they are called.
    pub identifiers: Identifiers,
    /// Their components, row after row.
    pub rows: Vec<f32>,
}

impl From<Vec<f32>> for Batch {
    fn from(rows: Vec<f32>) -> Self {
        Batch { identifiers: Identifiers::RowNumbers, rows }
    }
}

impl<I: Into<Identifiers>> From<(I, Vec<f32>)> for Batch {
    fn from((identifiers, rows): (I, Vec<f32>)) -> Self {
        Batch { identifiers: identifiers.into(), rows }
    }
}

/// What makes embeddings of queries, one after the other.
type QueryModel<Q> = dyn Fn(&[Q]) -> Result<Vec<f32>> + Send + Sync;

/// Retrieves the best of what it was given, by an index in a store.
///
/// ```
/// # use vellum::{Metric, Retriever, Rows};
/// let retriever = Retriever::builder()
///     .distance_measure(Metric::L2)
///     .num_leaves(2)
///     .num_leaves_to_search(2)
///     .num_reordering_candidates(3)
///     .in_memory()?;
/// retriever.index(Rows::new(&[0.0, 0.0, 3.0, 4.0, 6.0, 8.0], 2)?, ["near", "here", "far"])?;
///
/// let answers = retriever.retrieve(&[vec![3.0, 3.0]], Some(2))?;
/// assert_eq!(answers[0][0].identifier.as_str(), Some("here"));
/// assert_eq!(answers[0][0].score, 1.0); // squared L2
/// # Ok::<(), vellum::Error>(())
/// ```
///
/// Queries are embeddings, unless a model makes embeddings of them:
///
/// ```
/// # use vellum::{Retriever, Rows};
/// let users = [("ann", [1.0, 0.0]), ("bob", [0.0, 1.0])];
/// let retriever = Retriever::builder().num_leaves(1).num_reordering_candidates(2).in_memory()?;
/// let retriever = retriever.with_query_model(move |names: &[&str]| {
///     let of = |name: &&str| users.iter().find(|user| user.0 == *name).map_or([0.0; 2], |user| user.1);
///     Ok(names.iter().flat_map(of).collect())
/// });
/// retriever.index(Rows::new(&[0.9, 0.1, 0.2, 0.8], 2)?, [101u64, 102])?;
/// assert_eq!(retriever.retrieve(&["bob"], None)?[0][0].identifier.as_u64(), Some(102));
/// # Ok::<(), vellum::Error>(())
/// ```
pub struct Retriever<Q = Vec<f32>> {
    store: Store,
    name: String,
    /// What the next [`index`](Self::index) makes.
    plan: Plan,
    model: Arc<QueryModel<Q>>,
    /// Threads of its own, if it was given any.
    pool: Option<Arc<rayon::ThreadPool>>,
    /// Where batches are searched that are not to be searched in parallel.
    alone: OnceLock<Arc<rayon::ThreadPool>>,
}

impl Retriever {
    /// Parameters first.
    pub fn builder() -> RetrieverBuilder {
        RetrieverBuilder::new()
    }

    fn new(store: Store, name: String, plan: Plan) -> Self {
        let model: Arc<QueryModel<Vec<f32>>> = Arc::new(|queries| {
            let dim = queries.first().map_or(0, Vec::len);
            match queries.iter().find(|query| query.len() != dim) {
                Some(other) => Err(Error::Dimension { expected: dim, got: other.len() }),
                None => Ok(queries.concat()),
            }
        });
        Retriever { store, name, plan, model, pool: None, alone: OnceLock::new() }
    }

    /// The retriever that was indexed under `name`. It answers as it did, and indexing again makes it as it was.
    ///
    /// # Errors
    /// [`Error::UnknownIndex`]; [`Error::Parameter`] for an index that no retriever made; [`Error::Corrupt`].
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let reader = store.begin_read()?.index(name)?;
        let Stored { plan, .. } = stored(&reader, name)?;
        Ok(Retriever::new(store.clone(), name.into(), plan))
    }
}

impl<Q> Retriever<Q> {
    /// The same for queries of another kind, of which `model` makes embeddings: one for each, one after the other. What
    /// fails there may be told as [`Error::Io`] (`std::io::Error::other`).
    pub fn with_query_model<P>(
        self,
        model: impl Fn(&[P]) -> Result<Vec<f32>> + Send + Sync + 'static,
    ) -> Retriever<P> {
        let Retriever { store, name, plan, model: _, pool, alone } = self;
        Retriever { store, name, plan, model: Arc::new(model), pool, alone }
    }

    /// The same with so many threads of its own, for all it does, instead of the store's pool: ScaNN's `set_num_threads`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for 0; [`Error::Io`] if the system gives no threads.
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        if threads == 0 {
            return Err(Error::Parameter { name: "threads", what: "0, expected at least 1".into() });
        }
        Ok(Retriever { pool: Some(pool_of(threads)?), ..self })
    }

    // -------------------------------------------------------------- making

    /// Indexes `rows` and nothing else: what was indexed before is replaced, in one transaction. Identifiers are
    /// numbers, texts or bytes, all of one kind and each once; [`Identifiers::RowNumbers`] for none.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are as many identifiers as rows; [`Error::TooFewRows`] if there are fewer rows than
    /// leaves; [`Error::DuplicateId`], [`Error::DuplicateKey`], [`Error::InvalidId`], [`Error::IdKind`] for identifiers;
    /// [`Error::Dimension`], [`Error::NotFinite`], [`Error::ZeroVector`], [`Error::TooLong`] for a row; [`Error::Spec`] where
    /// the parameters do not fit the dimension; [`Error::IndexExists`] if the name is that of an index which no retriever
    /// made. Then nothing has changed.
    pub fn index(&self, rows: Rows<'_>, identifiers: impl Into<Identifiers>) -> Result<()> {
        self.index_with(rows, identifiers, &mut Observer::none())
    }

    /// The same with an observer, ticked as [`IndexWriter::train`] ticks it.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn index_with(
        &self,
        rows: Rows<'_>,
        identifiers: impl Into<Identifiers>,
        observer: &mut Observer<'_>,
    ) -> Result<()> {
        let identifiers = identifiers.into();
        let kind = Kind::of(&identifiers);
        let plan = self.plan.settled(rows.len() as u64, rows.dim());
        let plan = if plan.asks_rows() { plan.told(rows)? } else { plan };
        let txn = self.store.begin_write()?;
        let mut writer = self.anew(&txn, &plan, kind, rows.dim(), rows.len() as u64)?;
        check_length(&identifiers, rows.len())?;
        if writer.spec().nlist().is_some() {
            writer.train(rows, &plan.training(), observer)?;
        }
        add(&mut writer, kind, &identifiers, rows, 0)?;
        drop(writer);
        txn.commit()
    }

    /// Indexes the rows of all batches, as [`index`](Self::index) does, with no more than a batch and a training sample in
    /// memory: rows are stored as they come, and then trained on and moved to their lists, all in one transaction. An
    /// `Err` among the batches ends it without a trace.
    ///
    /// ```
    /// # use vellum::{Retriever, Result};
    /// # let retriever = Retriever::builder().num_leaves(4).in_memory()?;
    /// let batches = (0..10).map(|i| Ok((vec![format!("item {i}")], vec![i as f32, 1.0])));
    /// retriever.index_from_iter(2, batches)?;
    /// assert_eq!(retriever.len()?, 10);
    /// # Ok::<(), vellum::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`index`](Self::index); [`Error::Shape`] for a batch that is no whole number of rows of `dim` components;
    /// [`Error::Length`] unless it has as many identifiers as rows; [`Error::IdKind`] if batches have identifiers of
    /// different kinds, or some have none.
    pub fn index_from_iter<B: Into<Batch>>(
        &self,
        dim: usize,
        batches: impl IntoIterator<Item = Result<B>>,
    ) -> Result<()> {
        let mut batches = batches.into_iter().map(|batch| batch.map(Into::into)).peekable();
        let first = match batches.peek() {
            Some(Ok(Batch { identifiers, .. })) => identifiers.clone(),
            _ => Identifiers::RowNumbers,
        };
        let (kind, numbered) = (Kind::of(&first), matches!(first, Identifiers::RowNumbers));
        // An autopilot knows the number of rows at the end only, and begins with what needs no training.
        let plan = self.plan.settled(0, dim);
        let txn = self.store.begin_write()?;
        let mut writer = self.anew(&txn, &plan, kind, dim, 0)?;
        let mut count = 0;
        for batch in batches {
            let Batch { identifiers, rows } = batch?;
            if matches!(identifiers, Identifiers::RowNumbers) != numbered {
                return Err(Error::IdKind { what: "batches with identifiers and batches without" });
            }
            let rows = Rows::new(&rows, dim)?;
            check_length(&identifiers, rows.len())?;
            add(&mut writer, kind, &identifiers, rows, count).map_err(|e| e.counted_from(count as usize))?;
            count += rows.len() as u64;
        }
        drop(writer);
        self.fit(&txn, &self.plan.settled(count, dim), kind, &mut Observer::none())?;
        txn.commit()
    }

    /// The index made anew in `txn`, empty.
    fn anew<'t>(
        &self,
        txn: &'t WriteTxn,
        plan: &Plan,
        kind: Kind,
        dim: usize,
        rows: u64,
    ) -> Result<IndexWriter<'t>> {
        if txn.indexes()?.contains(&self.name) {
            let ours = stored(&txn.index(&self.name)?.reader(), &self.name).is_ok();
            if !ours {
                return Err(Error::IndexExists { name: self.name.clone() });
            }
            txn.drop_index(&self.name)?;
        }
        self.create(txn, plan, kind, dim, rows)
    }

    fn create<'t>(
        &self,
        txn: &'t WriteTxn,
        plan: &Plan,
        kind: Kind,
        dim: usize,
        rows: u64,
    ) -> Result<IndexWriter<'t>> {
        txn.create_index(&self.name, &plan.spec(dim, kind))?;
        let mut writer = self.open_in(txn)?;
        writer.set_search_defaults(&plan.search_defaults())?;
        let tended = Tended::of_rows(rows);
        writer.set_note(&Stored { plan: plan.clone(), kind, tended }.encode())?;
        Ok(writer)
    }

    /// Trains the index on what it holds, as the plan wants it: where that is another kind of index, what it holds is
    /// poured into one.
    fn fit(&self, txn: &WriteTxn, plan: &Plan, kind: Kind, observer: &mut Observer<'_>) -> Result<()> {
        let mut writer = self.open_in(txn)?;
        let (dim, rows) = (writer.spec().dim(), writer.len());
        let told;
        let plan = match plan.asks_rows() {
            true => {
                let some = some_rows(&writer.reader())?;
                told = plan.clone().told(Rows::of(&some, dim))?;
                &told
            }
            false => plan,
        };
        if writer.spec().to_string() != plan.spec(dim, kind).resolved().to_string() {
            drop(writer);
            let old = format!("{}~", self.name);
            txn.rename_index(&self.name, &old)?;
            writer = self.create(txn, plan, kind, dim, rows)?;
            pour(&txn.index(&old)?.reader(), &mut writer)?;
            txn.drop_index(&old)?;
        }
        if writer.spec().nlist().is_some() {
            writer.train_stored(&plan.training(), observer)?;
        }
        writer.set_search_defaults(&plan.search_defaults())?;
        writer.set_note(&Stored { plan: plan.clone(), kind, tended: Tended::of_rows(rows) }.encode())
    }

    // -------------------------------------------------------------- changing

    /// Adds vectors, or replaces those whose identifiers are there. Returns how many were new.
    ///
    /// # Errors
    /// [`Error::NotIndexed`]; else as [`index`](Self::index), where [`Error::Dimension`] is about the vectors that are there,
    /// and [`Error::IdKind`] about their identifiers. There must be identifiers.
    pub fn upsert(&self, identifiers: impl Into<Identifiers>, rows: Rows<'_>) -> Result<usize> {
        let identifiers = identifiers.into();
        self.change(|writer, kind| {
            let Identifiers::Each(each) = &identifiers else {
                return Err(Error::Length { what: "identifiers", expected: rows.len(), got: 0 });
            };
            check_length(&identifiers, rows.len())?;
            let new = match kind.is_key() {
                true => writer.upsert_with_keys(&kind.keys(each)?, rows)?,
                false => writer.upsert(&kind.ids(each)?, rows)?,
            };
            Ok((new, rows.len() as u64))
        })
    }

    /// Removes vectors: all that are named, or none. Naming one twice is naming it.
    ///
    /// # Errors
    /// [`Error::UnknownId`], [`Error::UnknownKey`] for an identifier that is not there; [`Error::IdKind`];
    /// [`Error::NotIndexed`].
    pub fn delete(&self, identifiers: impl Into<Identifiers>) -> Result<u64> {
        let Identifiers::Each(each) = identifiers.into() else { return Ok(0) };
        self.change(|writer, kind| {
            let reader = writer.reader();
            if kind.is_key() {
                let keys = kind.keys(&each)?;
                for key in &keys {
                    reader.id_of_key(key)?.ok_or_else(|| Error::UnknownKey { key: key.to_vec() })?;
                }
                drop(reader);
                return writer.remove_keys(&keys).map(|gone| (gone, gone));
            }
            let ids = kind.ids(&each)?;
            for &id in &ids {
                if !reader.contains(id)? {
                    return Err(Error::UnknownId { id });
                }
            }
            drop(reader);
            writer.remove_ids(&IdSelector::batch(ids)).map(|gone| (gone, gone))
        })
    }

    /// Trains again on what is stored, in one transaction: after many changes the lists may no longer suit the vectors.
    /// Where no vectors are kept (no reordering candidates), codes are made of what codes say, and lose a little
    /// each time. With an autopilot, tree and scoring are chosen anew; lists that [`maintain`](Self::maintain) made are
    /// as many as were asked for again.
    ///
    /// # Errors
    /// [`Error::TooFewRows`] if fewer vectors are left than there are leaves; [`Error::NotIndexed`].
    pub fn rebalance(&self) -> Result<()> {
        let txn = self.store.begin_write()?;
        let (plan, kind) = {
            let writer = self.open_in(&txn)?;
            let Stored { plan, kind, .. } = stored(&writer.reader(), &self.name)?;
            (plan.settled(writer.len(), writer.spec().dim()), kind)
        };
        self.fit(&txn, &plan, kind, &mut Observer::none())?;
        txn.commit()
    }

    /// Splits lists that have grown too long and dissolves tiny ones, in one transaction and without touching others:
    /// [`IndexWriter::maintain`]. As large a share of the lists is searched afterwards as before.
    ///
    /// # Errors
    /// As [`IndexWriter::maintain`]; [`Error::NotIndexed`].
    pub fn maintain(&self, params: &MaintainParams) -> Result<MaintainReport> {
        let txn = self.store.begin_write()?;
        let mut writer = self.open_in(&txn)?;
        let mut stored = stored(&writer.reader(), &self.name)?;
        let report = maintained(&mut writer, &stored.plan, params)?;
        if stored.plan.growth().is_some() && report.left == 0 {
            stored.tended = Tended { rows: writer.len(), changed: 0, ..stored.tended };
            writer.set_note(&stored.encode())?;
        }
        drop(writer);
        txn.commit()?;
        Ok(report)
    }

    /// Makes a change, which tells how many vectors it was of, and sees to the lists if it is time.
    fn change<T>(&self, change: impl FnOnce(&mut IndexWriter<'_>, Kind) -> Result<(T, u64)>) -> Result<T> {
        let txn = self.store.begin_write()?;
        let mut writer = self.open_in(&txn)?;
        let mut stored = stored(&writer.reader(), &self.name)?;
        let (done, vectors) = change(&mut writer, stored.kind)?;
        if stored.plan.growth().is_some() {
            stored.tended.changed += vectors;
            match stored.is_due() {
                false => writer.set_note(&stored.encode())?,
                true => {
                    drop(writer);
                    self.tend(&txn, stored)?;
                    return txn.commit().map(|()| done);
                }
            }
        }
        drop(writer);
        txn.commit()?;
        Ok(done)
    }

    /// Splits and dissolves lists, or trains anew where an autopilot wants another kind of index.
    fn tend(&self, txn: &WriteTxn, mut stored: Stored) -> Result<()> {
        let mut writer = self.open_in(txn)?;
        let rows = writer.len();
        if rows == 0 {
            // Nothing to learn from.
            stored.tended = Tended { rows, changed: 0, ..stored.tended };
            return writer.set_note(&stored.encode());
        }
        let wanted = stored.plan.settled(rows, writer.spec().dim());
        let online = wanted.autopilot.is_some();
        let another = wanted.tree.is_some() != stored.plan.tree.is_some();
        if online && (another || wanted.autopilot_mode == AutopilotMode::Online) {
            drop(writer);
            return self.fit(txn, &wanted, stored.kind, &mut Observer::none());
        }
        if let Some(tree) = wanted.tree {
            // What lists had when they were trained, or what the autopilot would have them have.
            let all = if online { rows } else { stored.tended.trained };
            let all = if tree.soar { 2 * all } else { all };
            let params = MaintainParams {
                list_entries: Some((all as f64 / tree.num_leaves as f64).max(1.0)),
                split_beyond: 1.5,
                ..MaintainParams::default()
            };
            while maintained(&mut writer, &wanted, &params)?.left > 0 {}
            stored.plan = wanted;
        }
        stored.tended = Tended { rows, changed: 0, ..stored.tended };
        writer.set_note(&stored.encode())
    }

    fn open_in<'t>(&self, txn: &'t WriteTxn) -> Result<IndexWriter<'t>> {
        let mut writer = txn.index(&self.name).map_err(not_indexed)?;
        writer.pool = self.pool.clone().or(writer.pool);
        Ok(writer)
    }

    // -------------------------------------------------------------- retrieving

    /// The `k` best for each query, best first; as many as the retriever was built with if `None`. Fewer if fewer are
    /// found.
    ///
    /// # Errors
    /// [`Error::NotIndexed`] before [`index`](Self::index); [`Error::Dimension`], [`Error::NotFinite`], [`Error::ZeroVector`]
    /// for a query; [`Error::Length`] if the query model made no whole embedding for each query, and whatever it failed
    /// with; [`Error::Parameter`] for k = 0.
    pub fn retrieve(&self, queries: &[Q], k: Option<usize>) -> Result<Vec<Vec<Retrieved>>> {
        let open = self.open_to_search()?;
        let embeddings = self.embed(queries, open.reader.dim())?;
        match embeddings.rows(queries.len())? {
            Some(rows) => open.search(rows, k.unwrap_or(open.stored.plan.k), &SearchParams::new()),
            None => Ok(Vec::new()),
        }
    }

    /// [`retrieve`](Self::retrieve) for one query.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    pub fn retrieve_one(&self, query: &Q, k: Option<usize>) -> Result<Vec<Retrieved>> {
        Ok(self.retrieve(std::slice::from_ref(query), k)?.pop().unwrap_or_default())
    }

    /// [`retrieve`](Self::retrieve) for embeddings, past the query model.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    pub fn retrieve_embeddings(&self, queries: Rows<'_>, k: Option<usize>) -> Result<Vec<Vec<Retrieved>>> {
        let open = self.open_to_search()?;
        open.search(queries, k.unwrap_or(open.stored.plan.k), &SearchParams::new())
    }

    /// The `k` best for each query among all but those that are excluded for it: exactly the answer that there would be if
    /// the index had none of them. Excluding what is not there is no error.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve); [`Error::Length`] unless there are as many sets as queries; [`Error::IdKind`].
    pub fn query_with_exclusions<E: Into<Identifiers>>(
        &self,
        queries: &[Q],
        exclusions: impl IntoIterator<Item = E>,
        k: Option<usize>,
    ) -> Result<Vec<Vec<Retrieved>>> {
        let open = self.open_to_search()?;
        let excluded = exclusions.into_iter().map(|set| open.selector_without(&set.into()));
        let selectors = excluded.collect::<Result<Vec<SearchParams>>>()?;
        if selectors.len() != queries.len() {
            return Err(Error::Length {
                what: "sets of exclusions",
                expected: queries.len(),
                got: selectors.len(),
            });
        }
        let embeddings = self.embed(queries, open.reader.dim())?;
        let Some(rows) = embeddings.rows(queries.len())? else { return Ok(Vec::new()) };
        let k = k.unwrap_or(open.stored.plan.k);
        let one = |(i, params): (usize, &SearchParams)| open.search_one(rows.row(i), k, params);
        let all = || selectors.par_iter().enumerate().map(one).collect();
        match &open.reader.pool {
            Some(pool) => pool.install(all),
            None => all(),
        }
    }

    /// Searches with parameters of the moment (ScaNN's `search`): `nprobe` is the leaves to search, `rerank` the
    /// candidates to score again.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve) and [`IndexReader::search`].
    pub fn search(&self, query: &Q, k: usize, params: &SearchParams) -> Result<Vec<Retrieved>> {
        let query = std::slice::from_ref(query);
        Ok(self.searched(&self.open_to_search()?, query, k, params)?.pop().unwrap_or_default())
    }

    /// The same for several queries, on one thread.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_batched(
        &self,
        queries: &[Q],
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Retrieved>>> {
        let mut open = self.open_reader()?;
        open.reader.pool = Some(self.alone()?);
        self.searched(&open, queries, k, params)
    }

    /// The same on all threads of the store's pool.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_batched_parallel(
        &self,
        queries: &[Q],
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Retrieved>>> {
        self.searched(&self.open_reader()?, queries, k, params)
    }

    /// The same, so many queries at a time: what a batch takes in memory grows with it. ScaNN's `batch_size`; the answers do not
    /// depend on it.
    ///
    /// # Errors
    /// As [`search`](Self::search); [`Error::Parameter`] for a batch of 0.
    pub fn search_batched_parallel_by(
        &self,
        queries: &[Q],
        k: usize,
        params: &SearchParams,
        batch_size: usize,
    ) -> Result<Vec<Vec<Retrieved>>> {
        if batch_size == 0 {
            return Err(Error::Parameter { name: "batch_size", what: "0, expected at least 1".into() });
        }
        let (open, mut all) = (self.open_reader()?, Vec::with_capacity(queries.len()));
        for batch in queries.chunks(batch_size) {
            all.extend(self.searched(&open, batch, k, params)?);
        }
        Ok(all)
    }

    fn searched(
        &self,
        open: &Open,
        queries: &[Q],
        k: usize,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Retrieved>>> {
        match self.embed(queries, open.reader.dim())?.rows(queries.len())? {
            Some(rows) => open.search(rows, k, params),
            None => Ok(Vec::new()),
        }
    }

    fn embed(&self, queries: &[Q], dim: usize) -> Result<Embeddings> {
        Ok(Embeddings { data: (self.model)(queries)?, dim })
    }

    // -------------------------------------------------------------- looking

    /// True if answers are those of brute force over the vectors: every list is searched, and either vectors are scored
    /// as they are or all of them are candidates for it.
    ///
    /// # Errors
    /// [`Error::NotIndexed`].
    pub fn is_exact(&self) -> Result<bool> {
        let open = self.open_reader()?;
        let reader = &open.reader;
        let (spec, defaults) = (reader.spec(), reader.search_defaults());
        let supers = open.stored.plan.supers_to_search();
        let all_supers = !reader.is_trained() || supers.is_none_or(|some| Some(some) >= spec.supers());
        let all_lists = all_supers && defaults.nprobe.is_some_and(|nprobe| nprobe >= reader.nlist());
        let exact_codes = spec.encoding() == crate::Encoding::Flat && spec.transforms().is_empty();
        let all_again = match (spec.kept_rows(), defaults.rerank) {
            (Some(KeptRows::F32), Some(Rerank::Rows(rows))) => rows as u64 >= reader.len(),
            _ => false,
        };
        Ok(all_lists && (exact_codes || all_again))
    }

    /// Vectors that are indexed.
    ///
    /// # Errors
    /// [`Error::NotIndexed`].
    pub fn len(&self) -> Result<u64> {
        Ok(self.reader()?.len())
    }

    /// True if no vector is.
    ///
    /// # Errors
    /// [`Error::NotIndexed`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The index itself, with all its verbs: identifiers that are numbers are its ids (negative ones from 2^63 on),
    /// others its keys.
    ///
    /// # Errors
    /// [`Error::NotIndexed`].
    pub fn reader(&self) -> Result<IndexReader<'static>> {
        let mut reader = self.store.begin_read()?.index(&self.name).map_err(not_indexed)?;
        reader.pool = self.pool.clone().or(reader.pool);
        Ok(reader)
    }

    /// What it was indexed as, a line `name value` each: ScaNN's `config`.
    ///
    /// # Errors
    /// [`Error::NotIndexed`].
    pub fn config(&self) -> Result<String> {
        let reader = self.reader()?;
        let stored = stored(&reader, &self.name)?.encode();
        Ok(String::from_utf8_lossy(&stored).into_owned())
    }

    /// Its name in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store it is in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn open_reader(&self) -> Result<Open> {
        let reader = self.reader()?;
        let stored = stored(&reader, &self.name)?;
        Ok(Open { reader, stored })
    }

    /// The same, with the threads that the retriever was built with.
    fn open_to_search(&self) -> Result<Open> {
        let mut open = self.open_reader()?;
        if !open.stored.plan.parallelize_batch_searches {
            open.reader.pool = Some(self.alone()?);
        }
        Ok(open)
    }

    /// A pool of one thread.
    fn alone(&self) -> Result<Arc<rayon::ThreadPool>> {
        if let Some(pool) = self.alone.get() {
            return Ok(pool.clone());
        }
        let pool = pool_of(1)?;
        Ok(self.alone.get_or_init(|| pool).clone())
    }
}

impl<Q> std::fmt::Debug for Retriever<Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retriever")
            .field("name", &self.name)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

fn pool_of(threads: usize) -> Result<Arc<rayon::ThreadPool>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map(Arc::new).map_err(|e| Error::Io(std::io::Error::other(e)))
}

/// Maintains the lists, of which the same share is searched afterwards.
fn maintained(writer: &mut IndexWriter<'_>, plan: &Plan, params: &MaintainParams) -> Result<MaintainReport> {
    let report = writer.maintain(params, &mut Observer::none())?;
    writer.set_search_defaults(&plan.search_defaults_of(report.lists))?;
    Ok(report)
}

/// Rows that tell how many components are enough, in bytes.
const TELLING_BYTES: usize = 256 << 20;

/// Some of the vectors, evenly spread over their ids.
fn some_rows(reader: &IndexReader<'_>) -> Result<Vec<f32>> {
    let (ids, most) = (reader.ids()?, (TELLING_BYTES / (4 * reader.dim())).max(1));
    let some: Vec<u64> = ids.iter().step_by(ids.len().div_ceil(most).max(1)).copied().collect();
    reader.reconstruct_batch(&some)
}

/// What a query model made.
struct Embeddings {
    data: Vec<f32>,
    /// Of the index.
    dim: usize,
}

impl Embeddings {
    /// As so many rows; `None` for none.
    fn rows(&self, queries: usize) -> Result<Option<Rows<'_>>> {
        let len = self.data.len();
        match len.checked_div(queries) {
            None if len == 0 => Ok(None),
            Some(dim) if len > 0 && len.is_multiple_of(queries) => Rows::new(&self.data, dim).map(Some),
            _ => Err(Error::Length {
                what: "components of the queries' embeddings",
                expected: queries * self.dim,
                got: len,
            }),
        }
    }
}

/// An index in one state, and what its note says.
struct Open {
    reader: IndexReader<'static>,
    stored: Stored,
}

impl Open {
    fn search(&self, queries: Rows<'_>, k: usize, params: &SearchParams) -> Result<Vec<Vec<Retrieved>>> {
        let found = self.reader.search_batch(queries, k, &self.params(params))?;
        found.into_iter().map(|hits| self.named(hits)).collect()
    }

    fn search_one(&self, query: &[f32], k: usize, params: &SearchParams) -> Result<Vec<Retrieved>> {
        self.named(self.reader.search(query, k, &self.params(params))?)
    }

    /// With what the plan says of the upper tree, where nothing else is said of how leaves are found.
    fn params<'p>(&self, params: &'p SearchParams) -> Cow<'p, SearchParams> {
        match self.stored.plan.supers_to_search() {
            Some(supers) if params.quantizer.is_none() && params.target_recall.is_none() => {
                Cow::Owned(params.clone().quantizer_params(QuantizerParams::SuperClusters(supers)))
            }
            _ => Cow::Borrowed(params),
        }
    }

    fn named(&self, hits: Vec<Neighbor>) -> Result<Vec<Retrieved>> {
        let named =
            |hit: Neighbor| Ok(Retrieved { identifier: self.identifier(hit.id)?, score: hit.distance });
        hits.into_iter().map(named).collect()
    }

    fn identifier(&self, id: u64) -> Result<Identifier> {
        let kind = self.stored.kind;
        if !kind.is_key() {
            return Ok(kind.of_id(id));
        }
        let key = self.reader.key(id)?.and_then(|key| kind.of_key(key));
        key.ok_or_else(|| Error::corrupt("keys", id, "the key of a vector is missing, or no text"))
    }

    /// Parameters of a search for all but these.
    fn selector_without(&self, excluded: &Identifiers) -> Result<SearchParams> {
        let params = SearchParams::new();
        let Identifiers::Each(each) = excluded else { return Ok(params) };
        if each.is_empty() {
            return Ok(params);
        }
        let kind = self.stored.kind;
        let ids = match kind.is_key() {
            false => kind.ids(each)?,
            true => {
                let ids = kind.keys(each)?.into_iter().map(|key| self.reader.id_of_key(key));
                ids.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
            }
        };
        Ok(params.selector(!IdSelector::batch(ids)))
    }
}

/// What the note of an index says, if a retriever made it.
fn stored(reader: &IndexReader<'_>, name: &str) -> Result<Stored> {
    let note = reader.note()?.unwrap_or_default();
    match Stored::decode(&note) {
        Ok(Some(stored)) if stored.kind.is_key() == reader.spec().keys() => Ok(stored),
        Ok(Some(_)) => {
            Err(Error::corrupt("model", 0, "the note has another kind of identifiers than the index"))
        }
        Ok(None) => {
            let what = format!("no retriever made the index `{name}`");
            Err(Error::Parameter { name: "retriever", what })
        }
        Err(what) => Err(Error::corrupt("model", 0, what)),
    }
}

fn not_indexed(error: Error) -> Error {
    match error {
        Error::UnknownIndex { name } => Error::NotIndexed { name },
        error => error,
    }
}

fn check_length(identifiers: &Identifiers, rows: usize) -> Result<()> {
    match identifiers {
        Identifiers::Each(each) if each.len() != rows => {
            Err(Error::Length { what: "identifiers", expected: rows, got: each.len() })
        }
        _ => Ok(()),
    }
}

/// Adds rows under their identifiers, or under the numbers from `first` on.
fn add(
    writer: &mut IndexWriter<'_>,
    kind: Kind,
    identifiers: &Identifiers,
    rows: Rows<'_>,
    first: u64,
) -> Result<()> {
    match identifiers {
        Identifiers::RowNumbers => {
            let ids: Vec<u64> = (first..first + rows.len() as u64).collect();
            writer.add_with_ids(&ids, rows)
        }
        Identifiers::Each(each) if kind.is_key() => writer.add_with_keys(&kind.keys(each)?, rows).map(drop),
        Identifiers::Each(each) => writer.add_with_ids(&kind.ids(each)?, rows),
    }
}

/// Vectors that are on their way from one index to another, in bytes.
const POUR_BYTES: usize = 16 << 20;

/// Adds all that an index holds to another, under the same ids or keys.
fn pour(from: &IndexReader<'_>, into: &mut IndexWriter<'_>) -> Result<()> {
    for ids in from.ids()?.chunks((POUR_BYTES / (4 * from.dim())).max(1)) {
        let rows = from.reconstruct_batch(ids)?;
        let rows = Rows::of(&rows, from.dim());
        if !from.spec().keys() {
            into.add_with_ids(ids, rows)?;
            continue;
        }
        let lost = |id| Error::corrupt("keys", id, "the id has no key");
        let keys = ids.iter().map(|id| from.key(*id)?.ok_or_else(|| lost(*id)));
        into.add_with_keys(&keys.collect::<Result<Vec<_>>>()?, rows)?;
    }
    Ok(())
}
