//! Lloyd's k-means, as FAISS's `Clustering` defines it, with the same result on any number of threads.
//!
//! ```text
//! sample rows if there are more than max_points_per_centroid · k
//! nredo times:  initial centroids, then niter times:
//!     assign   each row to its nearest centroid                  parallel over rows (math/linalg)
//!     update   each centroid to the mean of its rows             parallel over centroids
//!     split    a large cluster for each empty one, then normalise or round
//! keep the run with the best objective
//! ```
//!
//! Why threads cannot matter: a row's nearest centroid depends on nothing but the row and the centroids;
//! the rows of a cluster are listed in ascending order (a counting sort) and summed in that order, in
//! `f64`, by one thread; random numbers are drawn by the calling thread only.

use super::linalg::{Panels, nearest_measured, score_of_pair};
use super::random::Random;
use super::seeding::{self, Init};
use crate::kernel::{Distance, Kernels, Nearness, Similarity};
use crate::metric::normalise;
use crate::progress::Observer;
use crate::{Error, Metric, Result, Rows};
use rayon::prelude::*;
use std::borrow::Cow;
use std::time::Instant;
use zerocopy::IntoBytes;

/// How centroids are trained: FAISS's `ClusteringParameters`.
///
/// ```
/// # use vellum::ClusteringParams;
/// let params = ClusteringParams { niter: 25, seed: 7, ..ClusteringParams::default() };
/// assert_eq!(params.max_points_per_centroid, 256);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClusteringParams {
    /// Iterations of a run, at most. Default 10, as for FAISS's inverted files.
    pub niter: usize,
    /// Runs with different initial centroids; the best objective wins. Default 1.
    pub nredo: usize,
    /// Scale the centroids to length 1 after each iteration: k-means on directions. Default `None`: for inner product and cosine, and not for
    /// other metrics. `Some(false)` under inner product makes means of rows, as long as they come, and rows go to the one of the
    /// largest product; under cosine it is refused, but where centroids are anisotropic (`AVQ`) and of any length by themselves.
    pub spherical: Option<bool>,
    /// Round the centroids' components to integers after each iteration. Default false.
    pub int_centroids: bool,
    /// Rebuild the assigner from the centroids in each iteration, instead of only replacing what it
    /// holds. That differs only for an approximate assigner; here rows are always assigned exactly, to
    /// the centroids of the iteration, and both settings give the same centroids. Default false.
    pub update_index: bool,
    /// Keep the given initial centroids as they are (scaled to length 1 first if `spherical`, rounded if
    /// `int_centroids`); only the others move. Refused where none are given. Default false: they are where
    /// those centroids begin.
    pub frozen_centroids: bool,
    /// With fewer training rows per centroid than this, the result says that they were few. Default 39.
    pub min_points_per_centroid: usize,
    /// With more training rows per centroid than this, a sample of that many is used. Default 256.
    pub max_points_per_centroid: usize,
    /// A cluster of fewer rows gives its centroid up to split one of twice as many in two, as an empty one does after
    /// each iteration; no more than the mean of rows a cluster counts. Its rows go to other clusters. ScaNN's
    /// `min_partition_size`. Default 1: empty ones only.
    pub min_cluster_rows: usize,
    /// Of the sample, the initial centroids and the splits. The same seed gives the same centroids on
    /// any number of threads. Default 1234.
    pub seed: u64,
    /// How the initial centroids are chosen. Default [`Init::Random`].
    pub init: Init,
    /// Steps of the Markov chain per centroid for [`Init::AfkMc2`]. Default 50.
    pub afkmc2_chain_length: usize,
    /// Stop a run when the objective changes by at most this fraction. Default 0: stop when it does not
    /// change at all.
    pub early_stop_threshold: f64,
    /// Refuse rows and initial centroids with NaN or infinite components. Without the check, such rows give
    /// meaningless centroids; an index refuses those if they are not finite themselves. Default true: one pass over
    /// the rows, 25 ms for 100,000 of 128 components, of which 1,024 lists train in 4 s.
    pub check_finite: bool,
}

impl Default for ClusteringParams {
    fn default() -> Self {
        ClusteringParams {
            niter: 10,
            nredo: 1,
            spherical: None,
            int_centroids: false,
            update_index: false,
            frozen_centroids: false,
            min_points_per_centroid: 39,
            max_points_per_centroid: 256,
            min_cluster_rows: 1,
            seed: 1234,
            init: Init::Random,
            afkmc2_chain_length: 50,
            early_stop_threshold: 0.0,
            check_finite: true,
        }
    }
}

impl ClusteringParams {
    /// Whether centroids are scaled to length 1 under this metric; `stretched` ones never need be.
    ///
    /// # Errors
    /// [`Error::Parameter`] for centroids of any length under cosine.
    pub(crate) fn spherical_for(&self, metric: Metric, stretched: bool) -> Result<bool> {
        match self.spherical {
            Some(false) if metric == Metric::Cosine && !stretched => Err(Error::Parameter {
                name: "spherical",
                what: "false, and under cosine centroids have length 1".into(),
            }),
            Some(said) => Ok(said),
            None => Ok(metric.similarity() == Similarity::Dot && !stretched),
        }
    }

    fn check(&self) -> Result<()> {
        let positive = |name, value: usize| match value {
            0 => Err(Error::Parameter { name, what: "0, must be at least 1".into() }),
            _ => Ok(()),
        };
        positive("nredo", self.nredo)?;
        positive("max_points_per_centroid", self.max_points_per_centroid)?;
        if self.init == Init::AfkMc2 {
            positive("afkmc2_chain_length", self.afkmc2_chain_length)?;
        }
        if self.early_stop_threshold.is_nan() || self.early_stop_threshold < 0.0 {
            let what = format!("{}, must be 0 or more", self.early_stop_threshold);
            return Err(Error::Parameter { name: "early_stop_threshold", what });
        }
        Ok(())
    }
}

/// What one iteration did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct IterationStats {
    /// Before the centroids moved: the sum of the squared distances of the rows to their centroids, or
    /// of their inner products.
    pub objective: f64,
    /// How uneven the clusters were: `k · Σ size² / (Σ size)²`, 1 if all were equal.
    pub imbalance: f64,
    /// Empty clusters that got half of another one.
    pub splits: usize,
    /// Duration of the iteration.
    pub seconds: f64,
    /// Of that, the assignment.
    pub assign_seconds: f64,
}

/// Who assigns rows to centroids in k-means instead of vellum's exact comparison with all of them: an approximate index, say, or another
/// machine. FAISS's `clustering_index`. The objective is computed from what it answers.
///
/// ```
/// # use vellum::{ClusteringIndex, ClusteringParams, Metric, Observer, Result, Rows, kmeans_with};
/// /// Of numbers, by their order.
/// struct Sorted(Vec<(f32, u32)>);
///
/// impl ClusteringIndex for Sorted {
///     fn update(&mut self, centroids: Rows<'_>, _rebuild: bool) -> Result<()> {
///         self.0 = centroids.as_slice().iter().copied().zip(0..).collect();
///         self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
///         Ok(())
///     }
///     fn assign(&mut self, rows: Rows<'_>, nearest: &mut [u32]) -> Result<()> {
///         for (x, nearest) in rows.as_slice().iter().zip(nearest) {
///             let after = self.0.partition_point(|c| c.0 < *x);
///             let two = &self.0[after.saturating_sub(1)..self.0.len().min(after + 1)];
///             let best = two.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()));
///             *nearest = best.map_or(0, |best| best.1);
///         }
///         Ok(())
///     }
/// }
/// let data = [0.0, 1.0, 10.0, 11.0];
/// let (rows, params) = (Rows::new(&data, 1)?, ClusteringParams::default());
/// let found =
///     kmeans_with(rows, 2, Metric::L2, &params, None, &mut Sorted(Vec::new()), &mut Observer::none())?;
/// assert_eq!(found.objective, 1.0);
/// # Ok::<(), vellum::Error>(())
/// ```
pub trait ClusteringIndex {
    /// Takes the centroids of the next iteration. `rebuild` is true at the beginning of a run, and always if
    /// [`ClusteringParams::update_index`] says so: what the index learned of earlier centroids should then be learned anew.
    ///
    /// # Errors
    /// Whatever it likes; the training fails with it.
    fn update(&mut self, centroids: Rows<'_>, rebuild: bool) -> Result<()>;

    /// Writes the number of the centroid that each row belongs to.
    ///
    /// # Errors
    /// Whatever it likes. A number that no centroid has is [`Error::Parameter`].
    fn assign(&mut self, rows: Rows<'_>, nearest: &mut [u32]) -> Result<()>;
}

/// The outcome of [`kmeans`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Clustering {
    /// Row-major, `k * dim`; the initial centroids that were given come first.
    pub centroids: Vec<f32>,
    /// Of the last iteration of the best run; 0 if there was none.
    pub objective: f64,
    /// The iterations of the best run.
    pub iterations: Vec<IterationStats>,
    /// Rows that were used.
    pub sampled_rows: usize,
    /// True if there were fewer than `min_points_per_centroid` rows per centroid: the centroids are usable, but
    /// more rows would make better ones.
    pub few_points: bool,
}

/// Multiply-adds between two ticks: about a tenth of a second of one AVX-512 core.
const TICK_WORK: usize = 1 << 33;

/// Bytes of rows summed between two ticks.
const TICK_BYTES: usize = 1 << 30;

const STAGE: &str = "train";

/// `k` centroids of `rows`, as FAISS's `Kmeans` finds them: what trains an index, to be used alone.
///
/// `initial`, at most `k` rows, are the first of the initial centroids; the others are chosen from `rows` by
/// [`ClusteringParams::init`]. Rows go to the centroid nearest by `metric`; centroids are means, under every metric (of what
/// is present, where components may be missing). With cosine, rows and centroids are scaled to length 1, with the inner
/// product centroids unless [`ClusteringParams::spherical`] is `Some(false)`. The observer is ticked as `"train"`, in units of rows assigned.
///
/// Runs on the rayon pool it is called in; the result is the same on any.
///
/// ```
/// # use vellum::{ClusteringParams, Metric, Observer, Rows, kmeans};
/// let data = [0.0, 1.0, 10.0, 11.0];
/// let (rows, first) = (Rows::new(&data, 1)?, Rows::new(&[0.25], 1)?);
/// let params = ClusteringParams { frozen_centroids: true, ..ClusteringParams::default() };
/// let found = kmeans(rows, 2, Metric::L2, &params, Some(first), &mut Observer::none())?;
/// assert_eq!(found.centroids, [0.25, 10.5]); // the first stays where it was given
/// # Ok::<(), vellum::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooFewRows`] for fewer rows than `k`; [`Error::NotFinite`], with rows counted within `initial` if it is
/// they; [`Error::ZeroVector`] for cosine; [`Error::Dimension`] of `initial`; [`Error::Parameter`];
/// [`Error::Cancelled`].
pub fn kmeans(
    rows: Rows<'_>,
    k: usize,
    metric: Metric,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    clustered(rows, k, metric, params, initial, None, observer)
}

/// [`kmeans`] that has rows assigned by `assigner`, on the calling thread.
///
/// # Errors
/// As [`kmeans`], and those of `assigner`.
pub fn kmeans_with(
    rows: Rows<'_>,
    k: usize,
    metric: Metric,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    assigner: &mut dyn ClusteringIndex,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    clustered(rows, k, metric, params, initial, Some(assigner), observer)
}

fn clustered(
    rows: Rows<'_>,
    k: usize,
    metric: Metric,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    assigner: Option<&mut dyn ClusteringIndex>,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    let params =
        &ClusteringParams { spherical: Some(params.spherical_for(metric, false)?), ..params.clone() };
    if let Some(domain) = metric.domain(rows.dim()) {
        if params.check_finite {
            initial.map_or(Ok(()), |initial| domain.check(initial))?;
            domain.check(rows)?;
        }
        let params = ClusteringParams { check_finite: false, ..params.clone() };
        return cluster_by(rows, k, metric.nearness(), &params, initial, assigner, observer);
    }
    if metric != Metric::Cosine {
        return cluster_by(rows, k, metric.similarity(), params, initial, assigner, observer);
    }
    check(rows, k, params, initial)?;
    let scaled = |rows: Rows<'_>| {
        let mut data = rows.as_slice().to_vec();
        normalise(&mut data, rows.dim()).map(|()| data)
    };
    let (data, given) = (scaled(rows)?, initial.map(scaled).transpose()?);
    let params = ClusteringParams { check_finite: false, ..params.clone() };
    let given = given.as_deref().map(|given| Rows::of(given, rows.dim()));
    cluster_by(Rows::of(&data, rows.dim()), k, metric.similarity(), &params, given, assigner, observer)
}

/// [`kmeans`] of rows that were prepared for their metric.
pub(crate) fn cluster(
    rows: Rows<'_>,
    k: usize,
    nearness: impl Into<Nearness>,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    cluster_by(rows, k, nearness, params, initial, None, observer)
}

/// The same with rows assigned by the caller's `assigner`, if there is one.
pub(crate) fn cluster_by(
    rows: Rows<'_>,
    k: usize,
    nearness: impl Into<Nearness>,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    assigner: Option<&mut dyn ClusteringIndex>,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    check(rows, k, params, initial)?;
    let nearness = nearness.into();
    let mut given = initial.map_or(Vec::new(), |initial| initial.as_slice().to_vec());
    let sample = sample(rows, k, params);
    let few_points = sample.len() / rows.dim() < k.saturating_mul(params.min_points_per_centroid);
    let rows = Rows::new(&sample, rows.dim())?;
    let whole = whole(nearness, rows, &mut given);
    constrain(&mut given, rows.dim(), params);
    let given = &given[..];
    let frozen = if params.frozen_centroids { given.len() / rows.dim() } else { 0 };
    let outcome = |run: Run| Clustering {
        centroids: run.centroids,
        objective: run.iterations.last().map_or(0.0, |last| last.objective),
        iterations: run.iterations,
        sampled_rows: rows.len(),
        few_points,
    };
    if rows.len() == k && given.is_empty() {
        let mut run = Run { centroids: whole.to_vec(), iterations: Vec::new() };
        constrain(&mut run.centroids, rows.dim(), params);
        return Ok(outcome(run));
    }
    let mut trainer = Trainer {
        rows,
        whole: Rows::new(&whole, rows.dim())?,
        k,
        nearness,
        params,
        frozen,
        own: assigner,
        observer,
        columns: vec![0; rows.len()],
        scores: vec![0.0; rows.len()],
        done: 0,
    };
    let mut best = trainer.run(0, given)?;
    for redo in 1..params.nredo {
        let run = trainer.run(redo, given)?;
        if run.score(nearness) < best.score(nearness) {
            best = run;
        }
    }
    Ok(outcome(best))
}

fn check(rows: Rows<'_>, k: usize, params: &ClusteringParams, initial: Option<Rows<'_>>) -> Result<()> {
    params.check()?;
    if k == 0 {
        return Err(Error::Parameter { name: "k", what: "0 centroids, must be at least 1".into() });
    }
    if rows.len() < k {
        return Err(Error::TooFewRows { rows: rows.len(), needed: k });
    }
    if let Some(initial) = initial {
        initial.check_dim(rows.dim())?;
        if initial.len() > k {
            let what = format!("{} initial centroids, {k} to be trained", initial.len());
            return Err(Error::Parameter { name: "initial", what });
        }
    }
    if params.frozen_centroids && initial.is_none_or(|initial| initial.is_empty()) {
        let what = "true, and no initial centroids are given to be frozen".into();
        return Err(Error::Parameter { name: "frozen_centroids", what });
    }
    if params.check_finite {
        initial.map_or(Ok(()), |initial| initial.check_finite())?;
        check_finite(rows)?;
    }
    Ok(())
}

/// [`Rows::check_finite`] on all threads; only a batch that fails is searched for the culprit.
pub(crate) fn check_finite(rows: Rows<'_>) -> Result<()> {
    let finite = |chunk: &[f32]| chunk.iter().fold(true, |all, value| all & value.is_finite());
    if rows.as_slice().par_chunks(1 << 16).all(finite) { Ok(()) } else { rows.check_finite() }
}

/// The training rows: all, or a random sample in the order of the rows.
fn sample<'a>(rows: Rows<'a>, k: usize, params: &ClusteringParams) -> Cow<'a, [f32]> {
    let wanted = k.saturating_mul(params.max_points_per_centroid);
    if rows.len() <= wanted {
        return Cow::Borrowed(rows.as_slice());
    }
    let mut chosen = Random::new(params.seed).sample(rows.len(), wanted);
    chosen.sort_unstable();
    Cow::Owned(seeding::gather(rows, &chosen))
}

/// One run of Lloyd's algorithm.
struct Run {
    centroids: Vec<f32>,
    iterations: Vec<IterationStats>,
}

impl Run {
    /// The objective where smaller is better.
    fn score(&self, nearness: Nearness) -> f64 {
        let objective = self.iterations.last().map_or(0.0, |last| last.objective);
        if nearness.is_negated() { -objective } else { objective }
    }
}

/// What the runs share: the rows, the parameters, the progress, and buffers of a row's nearest centroid
/// and its score.
struct Trainer<'a, 'o, 'c, 'i> {
    rows: Rows<'a>,
    /// The same with nothing missing.
    whole: Rows<'a>,
    k: usize,
    nearness: Nearness,
    params: &'a ClusteringParams,
    /// Leading centroids that do not move.
    frozen: usize,
    /// Who assigns rows, if that is the caller's.
    own: Option<&'i mut dyn ClusteringIndex>,
    observer: &'o mut Observer<'c>,
    columns: Vec<u32>,
    scores: Vec<f32>,
    /// Rows assigned so far, over all runs.
    done: u64,
}

impl Trainer<'_, '_, '_, '_> {
    fn run(&mut self, redo: usize, given: &[f32]) -> Result<Run> {
        // Each run has numbers of its own, of which none depends on how many another run drew.
        let mut random = Random::new(self.params.seed.wrapping_add(1 + redo as u64));
        let seeds =
            seeding::Seeds { rows: self.whole, given, missing: self.k - given.len() / self.rows.dim() };
        let mut centroids = seeds.choose(self.params, &mut random, &mut || self.tick())?;
        constrain(&mut centroids[given.len()..], self.rows.dim(), self.params);
        let mut iterations: Vec<IterationStats> = Vec::new();
        let least = self.params.min_cluster_rows.min(self.rows.len() / self.k);
        for _ in 0..self.params.niter {
            let rebuild = iterations.is_empty() || self.params.update_index;
            let stats = self.iterate(&mut centroids, rebuild, least, &mut random)?;
            let settled = iterations.last().is_some_and(|last| self.settled(last.objective, stats.objective));
            iterations.push(stats);
            if settled {
                break;
            }
        }
        // A run that stopped early counts as done.
        self.done = (redo as u64 + 1) * self.work_per_run();
        self.tick()?;
        Ok(Run { centroids, iterations })
    }

    fn settled(&self, before: f64, now: f64) -> bool {
        (now - before).abs() <= self.params.early_stop_threshold * before.abs()
    }

    fn iterate(
        &mut self,
        centroids: &mut [f32],
        rebuild: bool,
        least: usize,
        random: &mut Random,
    ) -> Result<IterationStats> {
        let start = Instant::now();
        self.assign(centroids, rebuild)?;
        let assign_seconds = start.elapsed().as_secs_f64();
        let score: f64 = self.scores.iter().map(|&score| f64::from(score)).sum();
        let clusters = Clusters::new(&self.columns, self.k);
        let mut sizes = clusters.sizes();
        let imbalance = imbalance(&sizes);
        self.update(&clusters, centroids)?;
        let splits = self.split(&mut sizes, centroids, least, random);
        constrain(&mut centroids[self.frozen * self.rows.dim()..], self.rows.dim(), self.params);
        Ok(IterationStats {
            objective: if self.nearness.is_negated() { 0.0 - score } else { score },
            imbalance,
            splits,
            seconds: start.elapsed().as_secs_f64(),
            assign_seconds,
        })
    }

    fn assign(&mut self, centroids: &[f32], rebuild: bool) -> Result<()> {
        let centroids = Rows::new(centroids, self.rows.dim())?;
        let assigner = match &mut self.own {
            Some(own) => own.update(centroids, rebuild).map(|()| None)?,
            None => Some(Assigner::new(self.nearness, centroids)),
        };
        let step = (TICK_WORK / centroids.as_slice().len()).max(1).next_multiple_of(crate::kernel::ROWS_MAX);
        for first in (0..self.rows.len()).step_by(step) {
            self.tick()?;
            let range = first..self.rows.len().min(first + step);
            let (columns, scores) = (&mut self.columns[range.clone()], &mut self.scores[range.clone()]);
            let rows = self.rows.slice(range.clone());
            match (&assigner, &mut self.own) {
                (Some(assigner), _) => assigner.assign(rows, columns, scores),
                (None, Some(own)) => assign_by(&mut **own, self.nearness, centroids, rows, columns, scores)?,
                (None, None) => {}
            }
            self.done += range.len() as u64;
        }
        Ok(())
    }

    /// Moves the centroids that may move, and have rows, to their means.
    fn update(&mut self, clusters: &Clusters, centroids: &mut [f32]) -> Result<()> {
        let dim = self.rows.dim();
        let batch = TICK_BYTES.div_ceil(size_of_val(self.rows.as_slice()).div_ceil(self.k).max(1));
        let movable = centroids[self.frozen * dim..].chunks_mut(batch * dim);
        for (centroids, first) in movable.zip((self.frozen..).step_by(batch)) {
            self.tick()?;
            let each = centroids.par_chunks_exact_mut(dim).enumerate();
            each.for_each(|(i, centroid)| match self.nearness.takes_missing() {
                true => mean_of_present(self.nearness, self.rows, clusters.rows(first + i), centroid),
                false => mean(self.rows, clusters.rows(first + i), centroid),
            });
        }
        Ok(())
    }

    /// Gives each empty cluster half of another, and each of less than `least` rows half of the largest: a copy of its centroid, both moved apart by a 1024th
    /// of each component. The donor of an empty one is found by walking around the clusters and stopping at one with a
    /// probability that grows with its size.
    fn split(&self, sizes: &mut [usize], centroids: &mut [f32], least: usize, random: &mut Random) -> usize {
        let dim = self.rows.dim();
        let mut splits = 0;
        for empty in self.frozen..self.k {
            let donor = match sizes[empty] {
                0 => self.donor(sizes, random),
                // One that is not empty is given up only for two of its kind.
                n if n < least => self.largest(sizes).filter(|donor| sizes[*donor] >= 2 * least),
                _ => None,
            };
            if let Some(donor) = donor {
                let copy = centroids[donor * dim..(donor + 1) * dim].to_vec();
                centroids[empty * dim..(empty + 1) * dim].copy_from_slice(&copy);
                let categories = self.nearness.has_categories();
                push(&mut centroids[empty * dim..(empty + 1) * dim], 1.0 / 1024.0, categories);
                push(&mut centroids[donor * dim..(donor + 1) * dim], -1.0 / 1024.0, categories);
                sizes[empty] = sizes[donor] / 2;
                sizes[donor] -= sizes[empty];
                splits += 1;
            }
        }
        splits
    }

    /// None if every cluster that may move has fewer than two rows.
    fn donor(&self, sizes: &[usize], random: &mut Random) -> Option<usize> {
        let spare = self.rows.len().saturating_sub(self.k).max(1) as f64;
        let movable = self.frozen..self.k;
        for candidate in movable.cycle().take(10_000) {
            if random.unit() < sizes[candidate].saturating_sub(1) as f64 / spare {
                return Some(candidate);
            }
        }
        self.largest(sizes).filter(|&i| sizes[i] > 1)
    }

    /// The first of the largest that may move.
    fn largest(&self, sizes: &[usize]) -> Option<usize> {
        (self.frozen..self.k).max_by_key(|&i| (sizes[i], std::cmp::Reverse(i)))
    }

    fn work_per_run(&self) -> u64 {
        self.rows.len() as u64 * self.params.niter as u64
    }

    fn tick(&mut self) -> Result<()> {
        self.observer.tick(STAGE, self.done, self.work_per_run() * self.params.nredo as u64)
    }
}

/// Pushes the components of a centroid by `by` of themselves, in turns up and down, but not to infinity; where there are
/// `categories`, those stay, and numbers no greater than 1.
fn push(centroid: &mut [f32], by: f32, categories: bool) {
    let most = if categories { 1.0 } else { f32::MAX };
    for (d, value) in centroid.iter_mut().enumerate().filter(|(_, value)| !categories || **value >= 0.0) {
        let pushed = *value * if d % 2 == 0 { 1.0 + by } else { 1.0 - by };
        *value = pushed.clamp(f32::MIN, most);
    }
}

/// Has rows assigned by the caller's code, and scores what it said.
fn assign_by(
    own: &mut dyn ClusteringIndex,
    nearness: Nearness,
    centroids: Rows<'_>,
    rows: Rows<'_>,
    columns: &mut [u32],
    scores: &mut [f32],
) -> Result<()> {
    columns.fill(u32::MAX);
    own.assign(rows, columns)?;
    if let Some(column) = columns.iter().find(|column| **column as usize >= centroids.len()) {
        let what = format!("a row belongs to centroid {column}, there are {}", centroids.len());
        return Err(Error::Parameter { name: "clustering_index", what });
    }
    let pairs = rows.iter().zip(columns).zip(scores);
    pairs.for_each(|((row, column), score)| {
        let its = score_of_pair(nearness, row, centroids.row(*column as usize));
        *score = if its.is_finite() { its } else { 0.0 };
    });
    Ok(())
}

/// Rows to centroids, by matrix products where they say what is nearest.
enum Assigner<'a> {
    Panels(Similarity, Panels),
    Distance(Distance, Rows<'a>),
}

impl<'a> Assigner<'a> {
    fn new(nearness: Nearness, centroids: Rows<'a>) -> Self {
        match nearness {
            Nearness::Similarity(similarity) => Assigner::Panels(similarity, Panels::new(centroids)),
            Nearness::Distance(distance) => Assigner::Distance(distance, centroids),
        }
    }

    fn assign(&self, rows: Rows<'_>, columns: &mut [u32], scores: &mut [f32]) {
        match self {
            Assigner::Panels(similarity, panels) => panels.nearest_par(*similarity, rows, columns, scores),
            Assigner::Distance(distance, centroids) => {
                nearest_measured(*distance, *centroids, rows, columns, scores);
                // A row without a distance to any centroid adds nothing to the objective.
                scores.iter_mut().filter(|score| !score.is_finite()).for_each(|score| *score = 0.0);
            }
        }
    }
}

/// Rows, and centroids that were given, with nothing missing: what is missing becomes the component's mean over all rows.
fn whole<'a>(nearness: Nearness, rows: Rows<'a>, given: &mut [f32]) -> Cow<'a, [f32]> {
    let missing = |values: &[f32]| values.iter().any(|value| value.is_nan());
    if !nearness.takes_missing() || !(missing(rows.as_slice()) || missing(given)) {
        return Cow::Borrowed(rows.as_slice());
    }
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    let mut middle = vec![0.0; rows.dim()];
    mean_of_present(nearness, rows, &all, &mut middle);
    let fill = |values: &mut [f32]| {
        for row in values.chunks_exact_mut(middle.len()) {
            row.iter_mut().zip(&middle).filter(|(v, _)| v.is_nan()).for_each(|(v, middle)| *v = *middle);
        }
    };
    let mut data = rows.as_slice().to_vec();
    fill(&mut data);
    fill(given);
    Cow::Owned(data)
}

/// [`mean`] where components may be missing: of those that are there, and left alone where none is. Where most of them are
/// categories, a mean of which would be none, the commonest one instead, of several the least.
fn mean_of_present(nearness: Nearness, rows: Rows<'_>, members: &[u32], centroid: &mut [f32]) {
    let categories = nearness.has_categories();
    let (mut sums, mut counts, mut others) =
        (vec![0.0f64; centroid.len()], vec![0u32; centroid.len()], vec![0u32; centroid.len()]);
    for &row in members {
        for (d, &value) in rows.row(row as usize).iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            if categories && value < 0.0 {
                others[d] += 1;
            } else {
                sums[d] += f64::from(value);
                counts[d] += 1;
            }
        }
    }
    for (d, middle) in centroid.iter_mut().enumerate() {
        if others[d] > counts[d] {
            *middle = commonest(members.iter().map(|&row| rows.row(row as usize)[d]).filter(|v| *v < 0.0));
        } else if counts[d] > 0 {
            *middle = (sums[d] / f64::from(counts[d])) as f32;
        }
    }
}

fn commonest(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_unstable_by(f32::total_cmp);
    let runs = values.chunk_by(|a, b| a == b);
    // The first of the longest.
    runs.rev().max_by_key(|run| run.len()).map_or(0.0, |run| run[0])
}

/// The mean of the rows at `members`, left alone if there is none.
fn mean(rows: Rows<'_>, members: &[u32], centroid: &mut [f32]) {
    if members.is_empty() {
        return;
    }
    let mut sums = vec![0.0f64; centroid.len()];
    for (i, &row) in members.iter().enumerate() {
        // The rows of a cluster lie far apart, where the processor does not look ahead by itself.
        if let Some(&later) = members.get(i + 4) {
            Kernels::get().prefetch(rows.row(later as usize).as_bytes());
        }
        for (sum, &value) in sums.iter_mut().zip(rows.row(row as usize)) {
            *sum += f64::from(value);
        }
    }
    let count = members.len() as f64;
    centroid.iter_mut().zip(&sums).for_each(|(value, sum)| *value = (sum / count) as f32);
}

/// Normalises or rounds, as the parameters say. A zero centroid stays zero.
fn constrain(centroids: &mut [f32], dim: usize, params: &ClusteringParams) {
    for centroid in centroids.chunks_exact_mut(dim) {
        if params.spherical == Some(true) {
            let norm = centroid.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            centroid.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        }
        if params.int_centroids {
            centroid.iter_mut().for_each(|v| *v = v.round_ties_even());
        }
    }
}

/// `k · Σ size² / (Σ size)²`.
fn imbalance(sizes: &[usize]) -> f64 {
    let total: f64 = sizes.iter().map(|&size| size as f64).sum();
    let squares: f64 = sizes.iter().map(|&size| size as f64 * size as f64).sum();
    sizes.len() as f64 * squares / (total * total)
}

/// The rows of each cluster, ascending: a counting sort of the assignment.
struct Clusters {
    order: Vec<u32>,
    /// Where each cluster's rows begin in `order`, and the end of the last.
    starts: Vec<usize>,
}

impl Clusters {
    fn new(columns: &[u32], k: usize) -> Self {
        let mut starts = vec![0; k + 1];
        columns.iter().for_each(|&column| starts[column as usize + 1] += 1);
        for i in 0..k {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut order = vec![0; columns.len()];
        for (row, &column) in columns.iter().enumerate() {
            order[next[column as usize]] = row as u32;
            next[column as usize] += 1;
        }
        Clusters { order, starts }
    }

    fn rows(&self, cluster: usize) -> &[u32] {
        &self.order[self.starts[cluster]..self.starts[cluster + 1]]
    }

    fn sizes(&self) -> Vec<usize> {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

#[cfg(test)]
mod tests;
