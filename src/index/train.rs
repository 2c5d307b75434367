//! Training: centroids from sample rows, then the stored vectors into their new lists.
//!
//! A new centroid is a new list number: training again takes a fresh range of numbers, moves every
//! stored code there and deletes the old lists, all in the caller's transaction. Readers of earlier
//! snapshots keep the old lists and the old centroids.

mod stored;

pub(crate) use stored::{decode_params, encode_params};

use super::add::{Encoded, encode};
use super::calibrate::{CALIBRATION_QUERIES, Calibration, Origin, calibrate_on};
use super::model::{Model, Trained, untrained_codec};
use super::reader::IndexReader;
use super::twins::{self, Chains};
use super::writer::{IndexWriter, random};
use super::{finder, rerank, tree};
use crate::autopilot;
use crate::coarse::{Finder, Tree};
use crate::codec::{self, Assigned, Codec, Training};
use crate::kernel::Similarity;
use crate::math::avq;
use crate::math::kmeans::{Clustering, ClusteringIndex, ClusteringParams, IterationStats, cluster_by};
use crate::math::random::Random;
use crate::math::transform::Chain;
use crate::spec::Auto;
use crate::storage::block::{Geometry, Run};
use crate::storage::ids::Slots;
use crate::storage::lists::block_key;
use crate::storage::sections::Section;
use crate::{Coarse, Encoding, Error, IndexSpec, Observer, Result, Rows, metric};
use std::borrow::Cow;
use std::sync::Arc;

/// How to train. Stored with the model, all but the initial centroids: those are in it or have moved on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainParams {
    /// The k-means over the training rows.
    pub clustering: ClusteringParams,
    /// Train on this many rows at most, chosen at random with the clustering's seed; all if `None`
    /// (k-means itself then takes no more than `max_points_per_centroid` a list).
    pub sample_rows: Option<usize>,
    /// Rows that the codes are trained on at most, of the sample; as many as their kind asks for if `None`. Refused where
    /// nothing is learned for codes. ScaNN's `training_sample_size` of `score_ah`.
    pub code_rows: Option<usize>,
    /// Iterations of the k-means of product codes and fast-scan ones; 25 if `None`. Refused with other codes. ScaNN's
    /// `training_iterations` of `score_ah`.
    pub code_iterations: Option<usize>,
    /// The first of the initial centroids, row after row, at most one a list; the clustering's `init` chooses the
    /// others. With its `frozen_centroids` they stay as they are, else they are where k-means begins: the
    /// centroids of an earlier training, say. Prepared as rows are: under cosine, and where the k-means is
    /// spherical, they are scaled to length 1.
    pub initial: Option<Vec<f32>>,
    /// Training rows, at most, that are queries of a first calibration, made before anything is stored: the recall of
    /// [`target_recall`](crate::SearchParams::target_recall) until [`Store::calibrate`](crate::Store::calibrate) measures it over
    /// what is stored. 1,024 if `None`, and no more than every eighth row; 0 for no such calibration.
    pub calibration_queries: Option<usize>,
}

/// What training did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainReport {
    /// Rows k-means ran on.
    pub rows: usize,
    /// Σ distance of these rows to their centroid, in the metric's own sense.
    pub objective: f64,
    /// Each iteration of the best run.
    pub iterations: Vec<IterationStats>,
    /// True if there were fewer than `min_points_per_centroid` rows a list: the centroids are usable, but
    /// more rows would make better ones.
    pub few_rows: bool,
    /// Stored vectors that moved to their new lists.
    pub redistributed: u64,
}

impl TrainParams {
    /// Refuses what codes of this kind know nothing to do with.
    fn check(&self, spec: &IndexSpec) -> Result<()> {
        let encoding = spec.encoding;
        let clustered =
            matches!(encoding, Encoding::Product(_) | Encoding::RefinedProduct(_) | Encoding::FastScan(_));
        match (self.code_rows, self.code_iterations) {
            (Some(0), _) => {
                Err(Error::Parameter { name: "code_rows", what: "0, expected at least 1".into() })
            }
            (Some(_), _) if !encoding.is_learned() => {
                Err(Error::Parameter { name: "code_rows", what: format!("{encoding} codes learn nothing") })
            }
            (_, Some(_)) if !clustered => {
                let what = format!("{encoding} codes are not made by k-means of sub-spaces");
                Err(Error::Parameter { name: "code_iterations", what })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes of vectors that redistribution holds at once.
const REDISTRIBUTE_BYTES: usize = 64 << 20;

impl IndexWriter<'_> {
    /// Makes the lists from `rows` and moves what is stored into them. May come before or after adding,
    /// and again later. For inner product and cosine the k-means is spherical unless `params` say otherwise.
    ///
    /// Calibrates with some of the rows ([`TrainParams::calibration_queries`]), if there are enough of them and all could be stored.
    ///
    /// The observer is ticked as `"transforms"`, `"train"`, `"tree"`, `"encoder"`, where there is such a thing, `"truth"`, `"calibrate"` and
    /// `"redistribute"`. Cancelled in the last stage, the transaction must be aborted; before that, the index is as it was.
    ///
    /// # Errors
    /// [`Error::TooFewRows`] if there are fewer rows than lists; the errors of the rows themselves and of the initial
    /// centroids, which are counted from 0 themselves; [`Error::Parameter`], also where unchecked rows
    /// (`check_finite`) gave centroids or tables that no index can hold; [`Error::Spec`] for an index without lists;
    /// [`Error::CannotDecode`] for stored codes that cannot be turned back, with no rows beside them;
    /// [`Error::Cancelled`].
    pub fn train(
        &mut self,
        rows: Rows<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        self.train_by(rows, None, params, None, observer)
    }

    /// The same with a k-means that has rows assigned by `assigner`: FAISS's `clustering_index`. Afterwards rows go to their lists as ever.
    ///
    /// # Errors
    /// As [`train`](Self::train), those of `assigner`, and [`Error::Parameter`] for a centroid that there is not, or for an index whose
    /// lists a [`Quantizer`](crate::Quantizer) has.
    pub fn train_with_assigner(
        &mut self,
        rows: Rows<'_>,
        params: &TrainParams,
        assigner: &mut dyn ClusteringIndex,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        if let Coarse::Own(name) = self.model.spec.coarse {
            let what = format!("lists are those of the quantizer `{name}`: there is no k-means");
            return Err(Error::Parameter { name: "assigner", what });
        }
        self.train_by(rows, None, params, Some(assigner), observer)
    }

    /// `places` says where the rows stood, if not one after the other.
    fn train_by(
        &mut self,
        rows: Rows<'_>,
        places: Option<&[usize]>,
        params: &TrainParams,
        assigner: Option<&mut dyn ClusteringIndex>,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        let (spec, _) = self.spec_of_lists(rows.len())?;
        params.check(&spec)?;
        let prepared = self.prepare_sample(rows, params)?;
        let sample = sample(Rows::of(&prepared, spec.dim), params);
        let raw = Rows::of(&sample, spec.dim);
        let seed = params.clustering.seed;
        let chain = Self::in_pool(&self.pool, || train_chain(&spec, raw, seed, observer))?;
        let projected = project(chain.as_ref(), raw);
        let sample = Sample { raw, projected: Rows::of(&projected, spec.inner_dim()) };
        let lists = self.make_lists(&spec, sample, chain.as_ref(), params, assigner, observer)?;
        let trained = Self::in_pool(&self.pool, || -> Result<_> {
            let tree = Model::grow_tree(&spec, &lists.done.centroids, observer)?;
            let codec =
                train_codec(&spec, sample, &lists.done.centroids, lists.finder.as_ref(), params, observer)?;
            Ok((tree, codec))
        });
        let (tree, codec) = trained?;
        let origin = Origin { rows: Rows::of(&prepared, spec.dim), places };
        self.install_clustered(lists, (tree, chain, codec), origin, params, observer)
    }

    /// Makes new lists and nothing else: transforms, and what training made for codes, stay as they are. FAISS's
    /// `train_q1` by itself. What is stored is decoded and encoded anew, relative to its new centroid.
    ///
    /// # Errors
    /// As [`train`](Self::train); [`Error::Untrained`] for an index without transforms or tables to go on with;
    /// [`Error::Spec`] for spectral hashes whose thresholds belong to lists.
    pub fn train_lists(
        &mut self,
        rows: Rows<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        let (spec, _) = self.spec_of_lists(rows.len())?;
        let made = spec.encoding.is_learned() || !spec.transforms.is_empty();
        if made && !self.header.trained {
            return Err(Error::Untrained { index: spec.to_string() });
        }
        self.check_lists_alone()?;
        let prepared = self.prepare_sample(rows, params)?;
        let sample = sample(Rows::of(&prepared, spec.dim), params);
        let (chain, raw) = (self.model.chain.clone(), Rows::of(&sample, spec.dim));
        let projected = project(chain.as_ref(), raw);
        let sample = Sample { raw, projected: Rows::of(&projected, spec.inner_dim()) };
        let lists = self.make_lists(&spec, sample, chain.as_ref(), params, None, observer)?;
        let tree = Model::grow_tree(&spec, &lists.done.centroids, observer)?;
        let codec = self.same_codec(&spec)?;
        let origin = Origin { rows: Rows::of(&prepared, spec.dim), places: None };
        self.install_clustered(lists, (tree, chain, codec), origin, params, observer)
    }

    /// Trains the codes anew over the lists as they are: FAISS's `train_encoder` by itself. Of `params` the sample and the
    /// seed have a say. What is stored is taken from kept rows, or else decoded, and encoded anew, in its nearest list.
    /// Returns how many vectors. Nothing happens to codes that nothing is learned for.
    ///
    /// # Errors
    /// As [`train`](Self::train); [`Error::Untrained`] for an index without lists yet.
    pub fn train_codec(
        &mut self,
        rows: Rows<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        let (spec, _) = self.spec_of_lists(rows.len())?;
        let centroids = match self.model.centroids() {
            Some(centroids) => centroids.as_slice().to_vec(),
            None => return Err(Error::Untrained { index: spec.to_string() }),
        };
        params.check(&spec)?;
        if !spec.encoding.is_learned() {
            return Ok(0);
        }
        let prepared = self.prepare_sample(rows, params)?;
        let lists = (centroids, self.model.finder.clone());
        let chain = self.model.chain.clone();
        self.train_over(&spec, lists, chain, Rows::of(&prepared, spec.dim), params, observer)
    }

    /// Takes lists that somebody else made: `centroids` has a row for each, by whatever clustering. Transforms and
    /// codes are trained on `rows` (which may be none where the specification has nothing to learn but lists), k-means is
    /// not run. FAISS's quantizer that is trained already. Centroids are transformed as rows are, and not scaled but under cosine.
    /// Returns how many stored vectors moved to their new lists.
    ///
    /// ```no_run
    /// # use vellum::*;
    /// # fn with(mut index: IndexWriter<'_>, rows: Rows<'_>, mine: &[f32]) -> Result<()> {
    /// let centroids = Rows::new(mine, index.spec().dim())?;
    /// index.train_with_centroids(centroids, rows, &TrainParams::default(), &mut Observer::none())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`train`](Self::train); [`Error::Length`] for another number of centroids than of lists.
    pub fn train_with_centroids(
        &mut self,
        centroids: Rows<'_>,
        rows: Rows<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        let (spec, nlist) = self.spec_of_lists(rows.len())?;
        params.check(&spec)?;
        if let Coarse::Own(name) = spec.coarse {
            let what = format!("lists are those of the quantizer `{name}`: `train` takes them");
            return Err(Error::Parameter { name: "centroids", what });
        }
        // An automatic index leaves that to its user, too.
        let spec =
            if spec.auto.is_some() { IndexSpec { nlist: Some(centroids.len()), ..spec } } else { spec };
        if spec.auto.is_none() && centroids.len() != nlist || centroids.is_empty() {
            return Err(Error::Length { what: "centroids", expected: nlist, got: centroids.len() });
        }
        if rows.is_empty() && (spec.encoding.is_learned() || !spec.transforms.is_empty()) {
            return Err(Error::TooFewRows { rows: 0, needed: 1 });
        }
        let centroids = self.model.prepare(centroids)?;
        let prepared = self.prepare_sample(rows, params)?;
        let sample = sample(Rows::of(&prepared, spec.dim), params);
        let (sample, seed) = (Rows::of(&sample, spec.dim), params.clustering.seed);
        let chain = Self::in_pool(&self.pool, || train_chain(&spec, sample, seed, observer))?;
        let similarity = spec.metric.similarity();
        let near = || Finder::near(centroids.to_vec(), spec.dim, similarity);
        let finder = (spec.coarse == Coarse::Raw).then(near);
        let centroids = project(chain.as_ref(), Rows::of(&centroids, spec.dim)).into_owned();
        metric::check_centroids(spec.metric, Rows::of(&centroids, spec.inner_dim()))?;
        self.train_over(&spec, (centroids, finder), chain, Rows::of(&prepared, spec.dim), params, observer)
    }

    /// Trains the codes over these centroids on prepared rows, and installs all that.
    fn train_over(
        &mut self,
        spec: &IndexSpec,
        (centroids, finder): (Vec<f32>, Option<Finder>),
        chain: Option<Chain>,
        rows: Rows<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        let picked = sample(rows, params);
        let raw = Rows::of(&picked, spec.dim);
        let projected = project(chain.as_ref(), raw);
        let sample = Sample { raw, projected: Rows::of(&projected, spec.inner_dim()) };
        let trained = Self::in_pool(&self.pool, || -> Result<_> {
            let tree = Model::grow_tree(spec, &centroids, observer)?;
            let codec = train_codec(spec, sample, &centroids, finder.as_ref(), params, observer)?;
            Ok((tree, codec))
        });
        let (tree, codec) = trained?;
        let params = TrainParams { initial: None, ..params.clone() };
        let origin = Origin { rows, places: None };
        self.install_trained(
            Trained { centroids, tree, finder, chain, codec },
            Some(origin),
            &params,
            observer,
        )
    }

    /// The specification and its lists; an automatic one chooses them for what is stored and expected, no more than can be
    /// trained on `rows` rows.
    pub(super) fn spec_of_lists(&self, rows: usize) -> Result<(IndexSpec, usize)> {
        let mut spec = self.model.spec.clone();
        if let Some(Auto { expected }) = spec.auto {
            let most = expected.unwrap_or(0).max(self.header.ntotal);
            let least = if spec.spill { 2 } else { 1 };
            spec.nlist = Some(autopilot::lists_for(rows as u64, Some(most), spec.dim).max(least));
        }
        match spec.nlist {
            Some(nlist) => self.check_decodes().map(|()| (spec, nlist)),
            None => Err(Error::Spec { text: spec.to_string(), what: "has no lists to train".into() }),
        }
    }

    /// Refuses new lists under codes that know the old ones.
    pub(super) fn check_lists_alone(&self) -> Result<()> {
        if self.model.codec.lists().is_none() {
            return Ok(());
        }
        let what = "the thresholds of its codes belong to lists: `train` makes both".into();
        Err(Error::Spec { text: self.model.spec.to_string(), what })
    }

    /// The lists of a training: by k-means where they are found, or as the caller's quantizer has them.
    fn make_lists(
        &self,
        spec: &IndexSpec,
        sample: Sample<'_>,
        chain: Option<&Chain>,
        params: &TrainParams,
        assigner: Option<&mut dyn ClusteringIndex>,
        observer: &mut Observer<'_>,
    ) -> Result<Lists> {
        let (mut lists, finder) = match spec.coarse {
            Coarse::Own(name) => {
                let quantizer = self.quantizers.newest(name.as_str())?;
                let finder = Finder::own(quantizer, spec.dim, spec.nlist.unwrap_or(0))?;
                (self.lists_of(spec, sample.raw, &finder, params)?, finder)
            }
            Coarse::Raw => {
                let lists = self.cluster_lists(spec, sample.raw, None, params, assigner, observer)?;
                let centroids = lists.done.centroids.clone();
                (lists, Finder::near(centroids, spec.dim, spec.metric.similarity()))
            }
            _ => return self.cluster_lists(spec, sample.projected, chain, params, assigner, observer),
        };
        let centroids = project(chain, Rows::of(&lists.done.centroids, spec.dim)).into_owned();
        metric::check_centroids(spec.metric, Rows::of(&centroids, spec.inner_dim()))?;
        lists.done.centroids = centroids;
        lists.finder = Some(finder);
        Ok(lists)
    }

    /// The lists that a quantizer has, with what a report says of them: how far the sample is from its centroids.
    fn lists_of(
        &self,
        spec: &IndexSpec,
        sample: Rows<'_>,
        finder: &Finder,
        params: &TrainParams,
    ) -> Result<Lists> {
        let centroids = finder.centroids();
        metric::check_centroids(spec.metric, Rows::of(&centroids, spec.dim))?;
        let mut lists = vec![0; sample.len()];
        finder.assign(sample, &mut lists)?;
        let (metric, mut scores) = (spec.metric, Vec::new());
        let coarse = Model::coarse(&spec.before_transforms(), centroids.clone(), None);
        let mut objective = 0.0;
        for (row, list) in sample.iter().zip(&lists) {
            coarse.scores(row, &[*list], &mut scores);
            objective += scores.iter().map(|score| f64::from(metric.flip(*score))).sum::<f64>();
        }
        let done = Clustering {
            centroids,
            objective,
            iterations: Vec::new(),
            sampled_rows: sample.len(),
            few_points: false,
        };
        Ok(Lists { done, clustering: params.clustering.clone(), finder: None })
    }

    /// k-means over a sample, prepared and transformed by `chain`.
    pub(super) fn cluster_lists(
        &self,
        spec: &IndexSpec,
        sample: Rows<'_>,
        chain: Option<&Chain>,
        params: &TrainParams,
        assigner: Option<&mut dyn ClusteringIndex>,
        observer: &mut Observer<'_>,
    ) -> Result<Lists> {
        let nlist = spec.nlist.unwrap_or(0);
        let initial = match &params.initial {
            None => None,
            Some(initial) => Some(self.prepare_sample(Rows::new(initial, spec.dim)?, params)?),
        };
        let initial = initial.as_deref().map(|initial| project(chain, Rows::of(initial, spec.dim)));
        let initial = initial.as_deref().map(|initial| Rows::of(initial, sample.dim()));
        let mut clustering = params.clustering.clone();
        // Anisotropic centroids are of any length, and rows go to them by L2.
        clustering.spherical = Some(clustering.spherical_for(spec.metric, spec.avq.is_some())?);
        let nearness = if spec.avq.is_some() { Similarity::L2.into() } else { spec.metric.nearness() };
        let checked = ClusteringParams { check_finite: false, ..clustering.clone() };
        let mut done = match assigner {
            // The caller's code stays on the caller's thread.
            Some(own) => cluster_by(sample, nlist, nearness, &checked, initial, Some(own), observer)?,
            None => Self::in_pool(&self.pool, || {
                cluster_by(sample, nlist, nearness, &checked, initial, None, observer)
            })?,
        };
        if let Some(eta) = spec.avq() {
            let frozen = initial.filter(|_| checked.frozen_centroids).map_or(0, |initial| initial.len());
            Self::in_pool(&self.pool, || avq::stretch(sample, eta.into(), frozen, &mut done.centroids));
        }
        if metric::check_centroids(spec.metric, Rows::of(&done.centroids, sample.dim())).is_err() {
            let what = "false, and rows that are not finite or too long gave centroids that are";
            return Err(Error::Parameter { name: "check_finite", what: what.into() });
        }
        Ok(Lists { done, clustering, finder: None })
    }

    fn report(&self, done: &Clustering) -> TrainReport {
        TrainReport {
            rows: done.sampled_rows,
            objective: done.objective,
            iterations: done.iterations.clone(),
            few_rows: done.few_points,
            redistributed: 0,
        }
    }

    /// The codec as it is, for another model.
    pub(super) fn same_codec(&self, spec: &IndexSpec) -> Result<Box<dyn Codec>> {
        match untrained_codec(spec, spec.encoding, spec.inner_dim()) {
            Some(codec) => Ok(codec),
            None => {
                let (similarity, tables) = (spec.metric.similarity(), self.model.codec.tables());
                codec::load(spec.encoding, spec.inner_dim(), similarity, &tables)
                    .map_err(|what| Error::corrupt(&self.tables.names.model, 0, what))
            }
        }
    }

    /// Puts new lists in place with what belongs to them, and reports on them.
    fn install_clustered(
        &mut self,
        Lists { done, clustering, finder }: Lists,
        (tree, chain, codec): (Option<Tree>, Option<Chain>, Box<dyn Codec>),
        origin: Origin<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        let params = TrainParams { clustering, initial: None, ..params.clone() };
        let report = self.report(&done);
        let trained = Trained { centroids: done.centroids, tree, finder, chain, codec };
        Ok(TrainReport {
            redistributed: self.install_trained(trained, Some(origin), &params, observer)?,
            ..report
        })
    }

    /// Puts what was trained in place, calibrated with the rows that it was trained on, if they are at hand; how many vectors moved.
    pub(crate) fn install_trained(
        &mut self,
        trained: Trained,
        origin: Option<Origin<'_>>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        // Drawn, not counted: a training that was aborted must not share its number with a later one.
        let mut spec = self.model.spec.clone();
        if spec.auto.is_some() {
            spec.nlist = Some(trained.centroids.len() / spec.inner_dim());
        }
        let mut model = Model::trained(&spec, trained, random())?;
        if let Some(origin) = origin {
            model.calibration = self.first_calibration(&model, origin, params, observer)?.map(Arc::new);
        }
        self.change(|writer| writer.install(model, params, observer))?;
        Ok(self.header.ntotal)
    }

    /// None where rows were trained on that could not be stored.
    fn first_calibration(
        &self,
        model: &Model,
        origin: Origin<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<Option<Calibration>> {
        let queries = params.calibration_queries.unwrap_or(CALIBRATION_QUERIES).min(origin.rows.len() / 8);
        if queries == 0 {
            return Ok(None);
        }
        let (header, asked) = (&self.header, (queries, params.clustering.seed));
        let done = Self::in_pool(&self.pool, || calibrate_on(model, header, origin, asked, observer));
        match done {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            done => Ok(done.ok().flatten()),
        }
    }

    /// Trains on the vectors that are stored.
    pub fn train_stored(&mut self, params: &TrainParams, observer: &mut Observer<'_>) -> Result<TrainReport> {
        let ids = self.tables.all_ids(&self.header)?;
        let picks = self.training_picks(ids.len(), params);
        let picked: Vec<u64> = picks.iter().map(|i| ids[*i]).collect();
        let rows = self.reader().reconstruct_batch(&picked)?;
        self.train_by(Rows::of(&rows, self.model.spec.dim), Some(&picks), params, None, observer)
    }

    /// Which of `n` rows to train on: as many as lists, codes and transforms look at.
    fn training_picks(&self, n: usize, params: &TrainParams) -> Vec<usize> {
        let nlist = self.spec_of_lists(n).map_or(1, |(_, nlist)| nlist);
        let spec = &self.model.spec;
        let most = params.sample_rows.unwrap_or(usize::MAX);
        let lists = params.clustering.max_points_per_centroid.saturating_mul(nlist);
        let codes = params.code_rows.or(codec::training_rows(spec.encoding)).unwrap_or(usize::MAX);
        let transforms = Chain::training_rows(&spec.transforms, spec.dim).unwrap_or(usize::MAX);
        let most = most.min(lists.max(codes).max(transforms));
        Random::new(params.clustering.seed).sample(n, most.min(n))
    }

    /// Trains on the vectors of another index, as many of them as training looks at: only those are decoded. FAISS's training of encoded vectors.
    ///
    /// # Errors
    /// As [`train`](Self::train) and [`IndexReader::reconstruct`].
    pub fn train_from(
        &mut self,
        source: &IndexReader<'_>,
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        let ids = source.ids()?;
        let picks = self.training_picks(ids.len(), params);
        let picked: Vec<u64> = picks.iter().map(|i| ids[*i]).collect();
        let rows = source.reconstruct_batch(&picked)?;
        self.train_by(Rows::new(&rows, source.dim())?, Some(&picks), params, None, observer)
    }

    /// Trains on stand-alone codes of another index, as its [`encode`](IndexReader::encode) gives them, as many of them as training looks at: only those are
    /// decoded, so there is no block of them to choose (FAISS's `decode_block_size`).
    ///
    /// # Errors
    /// As [`train`](Self::train) and [`IndexReader::decode`].
    pub fn train_encoded(
        &mut self,
        source: &IndexReader<'_>,
        codes: &[u8],
        params: &TrainParams,
        observer: &mut Observer<'_>,
    ) -> Result<TrainReport> {
        let split = source.split_codes(codes)?;
        let mut rows = Vec::new();
        let picks = self.training_picks(split.len(), params);
        for &i in &picks {
            let (list, code) = split[i];
            rows.extend(source.model.decode_for_users(list, code)?);
        }
        self.train_by(Rows::new(&rows, source.dim())?, Some(&picks), params, None, observer)
    }

    /// Refuses to train where stored vectors could not be encoded anew.
    pub(crate) fn check_decodes(&self) -> Result<()> {
        let model = &self.model;
        if model.codec.decodes() || model.judge().is_some() || self.header.ntotal == 0 {
            return Ok(());
        }
        Err(Error::CannotDecode { encoding: model.spec.encoding.to_string() })
    }

    /// The door of training, which `check_finite` can leave open.
    fn prepare_sample<'r>(&self, rows: Rows<'r>, params: &TrainParams) -> Result<Cow<'r, [f32]>> {
        match params.clustering.check_finite {
            true => self.model.prepare(rows),
            false => self.model.prepare_unchecked(rows),
        }
    }

    /// Puts new centroids in place and moves every stored vector to its new list.
    fn install(&mut self, new: Model, params: &TrainParams, observer: &mut Observer<'_>) -> Result<()> {
        let seq = self.header.seq;
        let (old, new) = (self.model.clone(), Arc::new(new));
        let old_lists = self.header.first_list..self.header.first_list + self.header.nlist;
        let nlist = new.nlist() as u32;
        let sizes = self.tables.list_entries(old_lists.clone())?;

        self.model = new.clone();
        self.header.trained = true;
        self.header.spec = new.spec.to_string();
        self.header.model_version = new.version;
        // Counted again as they join their new entries.
        self.header.twins = 0;
        self.header.nlist = nlist;
        // Numbers never used before, or the front again once they run out.
        self.header.first_list = match old_lists.end.checked_add(nlist) {
            Some(end) if end < u32::MAX => old_lists.end,
            _ => 0,
        };
        self.tables.lists.retain(|_, _| false)?;

        let nearest = self.nearest_lists(&old)?;
        let mut batch = Batch::default();
        let mut done = 0;
        for (within, list) in old_lists.clone().enumerate() {
            let (entry, geometry) = (sizes[within], old.geometry);
            let here = |row: u32| nearest.as_ref().is_none_or(|of| of.get(row as usize) == Some(&list));
            self.tables.for_each_block(&geometry, list, &entry, |_, block| {
                batch.take(&geometry, block.run, within as u32, here);
                Ok(())
            })?;
            if batch.numbers.len() * old.spec.dim * 4 >= REDISTRIBUTE_BYTES {
                done += self.redistribute(&old, std::mem::take(&mut batch))?;
                observer.tick("redistribute", done, self.header.ntotal)?;
            }
        }
        done += self.redistribute(&old, batch)?;
        if done != self.header.ntotal {
            let what = format!("{done} rows stand in the lists, the header says {}", self.header.ntotal);
            return Err(Error::corrupt(&self.tables.names.slots, 0, what));
        }
        if done > 0 {
            observer.tick("redistribute", done, self.header.ntotal)?;
        }
        let keys = block_key(old_lists.start, 0)..block_key(old_lists.end, 0);
        self.tables.blocks.retain_in(keys.clone(), |_, _| false)?;
        self.tables.tails.retain_in(keys, |_, _| false)?;
        // Last: until here the header and the lists of the old centroids stand as they were, so that a repair after a
        // failure finds them together.
        self.write_model(&new, seq)?;
        match &new.calibration {
            Some(calibration) => {
                self.tables.write_section(Section::Calibration, &calibration.encode(), seq)?
            }
            None => self.tables.remove_section(Section::Calibration)?,
        }
        self.tables.write_section(Section::Training, &encode_params(params), seq)
    }

    pub(super) fn write_model(&mut self, model: &Model, seq: u64) -> Result<()> {
        let centroids = model.centroids().map_or(&[][..], |centroids| centroids.as_slice());
        let bytes: Vec<u8> = centroids.iter().flat_map(|component| component.to_le_bytes()).collect();
        self.tables.write_section(Section::Centroids, &bytes, seq)?;
        if let Some(tree) = &model.tree {
            let bytes = tree::encode(tree, model.inner_dim(), &bytes);
            self.tables.write_section(Section::Tree, &bytes, seq)?;
        }
        if let Some(finder) = &model.finder {
            let bytes = finder::encode(finder, &model.spec, &bytes);
            self.tables.write_section(Section::Finder, &bytes, seq)?;
        }
        if let Some(chain) = &model.chain {
            self.tables.write_section(Section::Transforms, &chain.to_bytes(), seq)?;
        }
        if model.spec.encoding.is_learned() {
            self.tables.write_section(Section::Codec, &model.codec.tables(), seq)?;
        }
        Ok(())
    }

    fn redistribute(&mut self, old: &Model, batch: Batch) -> Result<u64> {
        let code_bytes = old.codec.layout().code_bytes();
        let mut rows = Vec::with_capacity(batch.numbers.len() * old.spec.dim);
        for (i, (&number, &list)) in batch.numbers.iter().zip(&batch.lists).enumerate() {
            let reader = self.reader();
            match rerank::kept_vector(&*reader.view, old, number)? {
                Some(vector) => rows.extend(vector),
                None => rows
                    .extend(old.decode_for_users(list, &batch.codes[i * code_bytes..(i + 1) * code_bytes])?),
            }
        }
        let model = self.model.clone();
        let encoded = Self::in_pool(&self.pool, || -> Result<_> {
            let view = Rows::of(&rows, model.spec.dim);
            let projected = model.admit(view)?;
            let projected = Rows::of(&projected, model.inner_dim());
            let lists = model.assign(view, projected)?;
            let codes = encode(&model, projected, &lists);
            Ok(Encoded { lists, codes, rows: Cow::Borrowed(&rows) })
        })?;
        if model.shares() {
            let mut chains = Chains::default();
            for head in &batch.numbers {
                chains.push(twins::chain_of(&*self.reader().view, *head)?);
            }
            self.join(&encoded, &chains)?;
            return Ok(chains.len() as u64);
        }
        self.append_new(&encoded, &batch.numbers)?;
        Ok(batch.numbers.len() as u64)
    }

    /// Where rows stand in two lists, the nearest of each: a row moves once, and the code there knows it best. Taken
    /// before anything moves.
    fn nearest_lists(&self, old: &Model) -> Result<Option<Vec<u32>>> {
        if !old.spills() {
            return Ok(None);
        }
        let (tables, mut nearest) = (&self.tables, Vec::new());
        old.slots_column.for_each(
            &tables.slots,
            &tables.names.slots,
            0..self.header.next_row,
            |_, bytes| {
                nearest.push(Slots::decode(bytes).first.map_or(u32::MAX, |slot| slot.list));
                Ok(())
            },
        )?;
        Ok(Some(nearest))
    }
}

impl IndexReader<'_> {
    /// The parameters of the last training, `spherical` as it was decided; `None` before it and for a flat index.
    pub fn training(&self) -> Result<Option<TrainParams>> {
        self.view.training()?.map(|bytes| decode_params(&bytes)).transpose()
    }
}

/// Lists that were made, and what with.
pub(super) struct Lists {
    /// Centroids behind the transforms.
    pub(super) done: Clustering,
    clustering: ClusteringParams,
    finder: Option<Finder>,
}

/// Training rows before and behind the transforms.
#[derive(Clone, Copy)]
struct Sample<'s> {
    raw: Rows<'s>,
    projected: Rows<'s>,
}

/// Stored entries on their way to new lists.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) codes: Vec<u8>,
    pub(super) numbers: Vec<u32>,
    lists: Vec<u32>,
}

impl Batch {
    /// Takes the entries of a block whose rows are to be taken from this list.
    pub(super) fn take(
        &mut self,
        geometry: &Geometry,
        block: Run<'_>,
        list: u32,
        here: impl Fn(u32) -> bool,
    ) {
        let (code_bytes, from) = (geometry.layout.code_bytes(), self.codes.len());
        geometry.layout.unpack(block.codes, block.rows.len(), &mut self.codes);
        let mut end = from;
        for (i, row) in block.rows.iter().map(|row| row.get()).enumerate().filter(|(_, row)| here(*row)) {
            self.numbers.push(row);
            let code = from + i * code_bytes;
            self.codes.copy_within(code..code + code_bytes, end);
            end += code_bytes;
        }
        self.codes.truncate(end);
        self.lists.resize(self.numbers.len(), list);
    }
}

/// Trains the transforms of `spec`. Ticks as `"transforms"`.
fn train_chain(
    spec: &IndexSpec,
    rows: Rows<'_>,
    seed: u64,
    observer: &mut Observer<'_>,
) -> Result<Option<Chain>> {
    if spec.transforms.is_empty() {
        return Ok(None);
    }
    let chain = Chain::train(&spec.transforms, rows, seed, &mut observer.of_stage("transforms"))?;
    Chain::from_bytes(&spec.transforms, rows.dim(), &chain.to_bytes()).map(Some).map_err(unfit)
}

/// Of tables that no index can hold.
fn unfit(what: String) -> Error {
    let what = format!("false, and rows that are not finite or too long gave {what}");
    Error::Parameter { name: "check_finite", what }
}

fn project<'r>(chain: Option<&Chain>, rows: Rows<'r>) -> Cow<'r, [f32]> {
    let Some(chain) = chain else { return Cow::Borrowed(rows.as_slice()) };
    let mut projected = Vec::new();
    chain.apply(rows, &mut projected);
    Cow::Owned(projected)
}

/// Trains the codec of `spec` on `rows`, as many of them as it wants.
fn train_codec(
    spec: &IndexSpec,
    sample: Sample<'_>,
    centroids: &[f32],
    finder: Option<&Finder>,
    params: &TrainParams,
    observer: &mut Observer<'_>,
) -> Result<Box<dyn Codec>> {
    let rows = sample.projected;
    let (similarity, seed, iterations) =
        (spec.metric.similarity(), params.clustering.seed, params.code_iterations);
    if let Some(codec) = untrained_codec(spec, spec.encoding, rows.dim()) {
        return Ok(codec);
    }
    let most = params.code_rows.or(codec::training_rows(spec.encoding)).unwrap_or(usize::MAX);
    let picked = pick(rows, most, seed);
    let rows = Rows::of(&picked, rows.dim());
    let mut lists = vec![0; rows.len()];
    match finder {
        // The same numbers are drawn, so the same rows.
        Some(finder) => {
            finder.assign(Rows::of(&pick(sample.raw, most, seed), sample.raw.dim()), &mut lists)?;
        }
        None => {
            Model::coarse(spec, centroids.to_vec(), None).assign(rows, &mut lists, &mut vec![0.0; rows.len()])
        }
    }
    let sample = Assigned { rows, lists: &lists, centroids: Some(Rows::of(centroids, rows.dim())) };
    let trained = codec::train(
        spec.encoding,
        &Training { sample, similarity, seed, iterations, rows: params.code_rows },
        observer,
    )?;
    // What cannot be opened again must not be stored: rows that nobody checked can make such tables.
    codec::load(spec.encoding, rows.dim(), similarity, &trained.tables()).map_err(unfit)
}

fn sample<'r>(rows: Rows<'r>, params: &TrainParams) -> Cow<'r, [f32]> {
    pick(rows, params.sample_rows.unwrap_or(usize::MAX), params.clustering.seed)
}

/// At most `most` rows, drawn at random.
fn pick(rows: Rows<'_>, most: usize, seed: u64) -> Cow<'_, [f32]> {
    if most >= rows.len() {
        return Cow::Borrowed(rows.as_slice());
    }
    let picks = Random::new(seed).sample(rows.len(), most);
    Cow::Owned(picks.into_iter().flat_map(|i| rows.row(i).iter().copied()).collect())
}
