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

use super::linalg::Panels;
use super::random::Random;
use super::seeding::{self, Init};
use crate::kernel::{Kernels, Similarity};
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
    /// Scale the centroids to length 1 after each iteration: k-means on directions, for inner product
    /// and cosine. Default false.
    pub spherical: bool,
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
            spherical: false,
            int_centroids: false,
            update_index: false,
            frozen_centroids: false,
            min_points_per_centroid: 39,
            max_points_per_centroid: 256,
            seed: 1234,
            init: Init::Random,
            afkmc2_chain_length: 50,
            early_stop_threshold: 0.0,
            check_finite: true,
        }
    }
}

impl ClusteringParams {
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
/// [`ClusteringParams::init`]. Rows go to the centroid nearest by `metric`: by squared L2, or with the largest inner
/// product. With cosine, rows and centroids are scaled to length 1, whatever `params.spherical` says; with the inner
/// product that is for `params` to say. The observer is ticked as `"train"`, in units of rows assigned.
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
    if metric != Metric::Cosine {
        return cluster(rows, k, metric.similarity(), params, initial, observer);
    }
    check(rows, k, params, initial)?;
    let scaled = |rows: Rows<'_>| {
        let mut data = rows.as_slice().to_vec();
        normalise(&mut data, rows.dim()).map(|()| data)
    };
    let (data, given) = (scaled(rows)?, initial.map(scaled).transpose()?);
    let params = ClusteringParams { spherical: true, check_finite: false, ..params.clone() };
    let given = given.as_deref().map(|given| Rows::of(given, rows.dim()));
    cluster(Rows::of(&data, rows.dim()), k, metric.similarity(), &params, given, observer)
}

/// [`kmeans`] of rows that were prepared for their metric.
pub(crate) fn cluster(
    rows: Rows<'_>,
    k: usize,
    similarity: Similarity,
    params: &ClusteringParams,
    initial: Option<Rows<'_>>,
    observer: &mut Observer<'_>,
) -> Result<Clustering> {
    check(rows, k, params, initial)?;
    let mut given = initial.map_or(Vec::new(), |initial| initial.as_slice().to_vec());
    constrain(&mut given, rows.dim(), params);
    let given = &given[..];
    let sample = sample(rows, k, params);
    let few_points = sample.len() / rows.dim() < k.saturating_mul(params.min_points_per_centroid);
    let rows = Rows::new(&sample, rows.dim())?;
    let frozen = if params.frozen_centroids { given.len() / rows.dim() } else { 0 };
    let outcome = |run: Run| Clustering {
        centroids: run.centroids,
        objective: run.iterations.last().map_or(0.0, |last| last.objective),
        iterations: run.iterations,
        sampled_rows: rows.len(),
        few_points,
    };
    if rows.len() == k && given.is_empty() {
        let mut run = Run { centroids: sample.to_vec(), iterations: Vec::new() };
        constrain(&mut run.centroids, rows.dim(), params);
        return Ok(outcome(run));
    }
    let mut trainer = Trainer {
        rows,
        k,
        similarity,
        params,
        frozen,
        observer,
        columns: vec![0; rows.len()],
        scores: vec![0.0; rows.len()],
        done: 0,
    };
    let mut best = trainer.run(0, given)?;
    for redo in 1..params.nredo {
        let run = trainer.run(redo, given)?;
        if run.score(similarity) < best.score(similarity) {
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
    fn score(&self, similarity: Similarity) -> f64 {
        let objective = self.iterations.last().map_or(0.0, |last| last.objective);
        if similarity == Similarity::L2 { objective } else { -objective }
    }
}

/// What the runs share: the rows, the parameters, the progress, and buffers of a row's nearest centroid
/// and its score.
struct Trainer<'a, 'o, 'c> {
    rows: Rows<'a>,
    k: usize,
    similarity: Similarity,
    params: &'a ClusteringParams,
    /// Leading centroids that do not move.
    frozen: usize,
    observer: &'o mut Observer<'c>,
    columns: Vec<u32>,
    scores: Vec<f32>,
    /// Rows assigned so far, over all runs.
    done: u64,
}

impl Trainer<'_, '_, '_> {
    fn run(&mut self, redo: usize, given: &[f32]) -> Result<Run> {
        // Each run has numbers of its own, of which none depends on how many another run drew.
        let mut random = Random::new(self.params.seed.wrapping_add(1 + redo as u64));
        let seeds =
            seeding::Seeds { rows: self.rows, given, missing: self.k - given.len() / self.rows.dim() };
        let mut centroids = seeds.choose(self.params, &mut random, &mut || self.tick())?;
        constrain(&mut centroids[given.len()..], self.rows.dim(), self.params);
        let mut iterations: Vec<IterationStats> = Vec::new();
        for _ in 0..self.params.niter {
            let stats = self.iterate(&mut centroids, &mut random)?;
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

    fn iterate(&mut self, centroids: &mut [f32], random: &mut Random) -> Result<IterationStats> {
        let start = Instant::now();
        self.assign(centroids)?;
        let assign_seconds = start.elapsed().as_secs_f64();
        let score: f64 = self.scores.iter().map(|&score| f64::from(score)).sum();
        let clusters = Clusters::new(&self.columns, self.k);
        let mut sizes = clusters.sizes();
        let imbalance = imbalance(&sizes);
        self.update(&clusters, centroids)?;
        let splits = self.split(&mut sizes, centroids, random);
        constrain(&mut centroids[self.frozen * self.rows.dim()..], self.rows.dim(), self.params);
        Ok(IterationStats {
            objective: if self.similarity == Similarity::L2 { score } else { 0.0 - score },
            imbalance,
            splits,
            seconds: start.elapsed().as_secs_f64(),
            assign_seconds,
        })
    }

    fn assign(&mut self, centroids: &[f32]) -> Result<()> {
        let panels = Panels::new(Rows::new(centroids, self.rows.dim())?);
        let step = (TICK_WORK / centroids.len()).max(1).next_multiple_of(crate::kernel::ROWS_MAX);
        for first in (0..self.rows.len()).step_by(step) {
            self.tick()?;
            let range = first..self.rows.len().min(first + step);
            let (columns, scores) = (&mut self.columns[range.clone()], &mut self.scores[range.clone()]);
            panels.nearest_par(self.similarity, self.rows.slice(range.clone()), columns, scores);
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
            each.for_each(|(i, centroid)| mean(self.rows, clusters.rows(first + i), centroid));
        }
        Ok(())
    }

    /// Gives each empty cluster half of another: a copy of its centroid, both moved apart by a 1024th
    /// of each component. The donor is found by walking around the clusters and stopping at one with a
    /// probability that grows with its size.
    fn split(&self, sizes: &mut [usize], centroids: &mut [f32], random: &mut Random) -> usize {
        let dim = self.rows.dim();
        let mut splits = 0;
        for empty in self.frozen..self.k {
            if sizes[empty] == 0
                && let Some(donor) = self.donor(sizes, random)
            {
                let copy = centroids[donor * dim..(donor + 1) * dim].to_vec();
                centroids[empty * dim..(empty + 1) * dim].copy_from_slice(&copy);
                push(&mut centroids[empty * dim..(empty + 1) * dim], 1.0 / 1024.0);
                push(&mut centroids[donor * dim..(donor + 1) * dim], -1.0 / 1024.0);
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
        for candidate in movable.clone().cycle().take(10_000) {
            if random.unit() < sizes[candidate].saturating_sub(1) as f64 / spare {
                return Some(candidate);
            }
        }
        movable.max_by_key(|&i| (sizes[i], std::cmp::Reverse(i))).filter(|&i| sizes[i] > 1)
    }

    fn work_per_run(&self) -> u64 {
        self.rows.len() as u64 * self.params.niter as u64
    }

    fn tick(&mut self) -> Result<()> {
        self.observer.tick(STAGE, self.done, self.work_per_run() * self.params.nredo as u64)
    }
}

/// Pushes the components of a centroid by `by` of themselves, in turns up and down, but not to infinity.
fn push(centroid: &mut [f32], by: f32) {
    for (d, value) in centroid.iter_mut().enumerate() {
        let pushed = *value * if d % 2 == 0 { 1.0 + by } else { 1.0 - by };
        *value = pushed.clamp(f32::MIN, f32::MAX);
    }
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
        if params.spherical {
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
mod tests {
    use super::*;
    use crate::progress::Tick;
    use std::ops::ControlFlow;

    /// `n` rows around `centres` points that lie far apart.
    fn blobs(n: usize, dim: usize, centres: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        let centres: Vec<f32> = (0..centres * dim).map(|_| random.below(1000) as f32).collect();
        let mut rows = Vec::new();
        for row in 0..n {
            let centre = &centres[row % (centres.len() / dim) * dim..][..dim];
            rows.extend(centre.iter().map(|c| c + random.unit() as f32));
        }
        rows
    }

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.unit() as f32 - 0.5).collect()
    }

    fn train(rows: &[f32], dim: usize, k: usize, params: &ClusteringParams) -> Clustering {
        cluster(Rows::new(rows, dim).unwrap(), k, Similarity::L2, params, None, &mut Observer::none())
            .unwrap()
    }

    fn train_from(
        rows: &[f32],
        dim: usize,
        k: usize,
        params: &ClusteringParams,
        initial: &[f32],
    ) -> Clustering {
        let (rows, initial) = (Rows::new(rows, dim).unwrap(), Rows::new(initial, dim).unwrap());
        cluster(rows, k, Similarity::L2, params, Some(initial), &mut Observer::none()).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// Lloyd as in the textbook, from the given centroids.
    fn textbook(rows: &[f32], dim: usize, centroids: &mut [f32]) {
        let mut sums = vec![0.0f64; centroids.len()];
        let mut sizes = vec![0.0f64; centroids.len() / dim];
        for row in rows.chunks(dim) {
            let distance = |c: &[f32]| row.iter().zip(c).map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>();
            let distances = centroids.chunks(dim).map(distance);
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
            sizes[nearest] += 1.0;
            row.iter().zip(&mut sums[nearest * dim..]).for_each(|(&x, sum)| *sum += f64::from(x));
        }
        for (at, centroid) in centroids.iter_mut().enumerate().filter(|(at, _)| sizes[at / dim] > 0.0) {
            *centroid = (sums[at] / sizes[at / dim]) as f32;
        }
    }

    #[test]
    fn iterations_are_those_of_the_textbook() {
        for (n, dim, k) in [(500, 1, 3), (700, 2, 16), (900, 7, 33), (2000, 40, 100)] {
            let rows = noise(n * dim, 1);
            let mut expected = rows[..k * dim].to_vec();
            let params = ClusteringParams { niter: 4, ..ClusteringParams::default() };
            let got = train_from(&rows, dim, k, &params, &expected);
            assert!(got.iterations.iter().all(|iteration| iteration.splits == 0));
            (0..4).for_each(|_| textbook(&rows, dim, &mut expected));
            let far = got.centroids.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
            assert_eq!(far, 0, "{n} {dim} {k}");
            let objectives: Vec<f64> = got.iterations.iter().map(|iteration| iteration.objective).collect();
            assert!(objectives.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{objectives:?}");
            assert_eq!(got.objective, objectives[3]);
        }
    }

    /// Breaks if a sum depends on which thread came first, or if blocks of rows change a score.
    #[test]
    fn the_result_is_the_same_on_any_number_of_threads() {
        let (dim, k) = (19, 70);
        let rows = noise(9001 * dim, 2);
        for init in [Init::Random, Init::KMeansPlusPlus, Init::AfkMc2] {
            for similarity in [Similarity::L2, Similarity::Dot] {
                let spherical = similarity == Similarity::Dot;
                let params = ClusteringParams { init, spherical, niter: 5, nredo: 2, ..Default::default() };
                let run = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let rows = Rows::new(&rows, dim).unwrap();
                    pool.install(|| cluster(rows, k, similarity, &params, None, &mut Observer::none()))
                        .unwrap()
                };
                let one = run(1);
                for threads in [2, 3, 8] {
                    let more = run(threads);
                    assert_eq!(bits(&more.centroids), bits(&one.centroids), "{init:?} {threads}");
                    assert_eq!(more.objective.to_bits(), one.objective.to_bits());
                }
            }
        }
    }

    #[test]
    fn an_exact_assigner_makes_update_index_irrelevant() {
        let rows = noise(3000 * 5, 3);
        let params = ClusteringParams::default();
        let updated = ClusteringParams { update_index: true, ..params.clone() };
        assert_eq!(
            bits(&train(&rows, 5, 40, &params).centroids),
            bits(&train(&rows, 5, 40, &updated).centroids)
        );
    }

    #[test]
    fn seeds_matter_and_repeat() {
        let rows = noise(3000 * 5, 4);
        let with = |seed| train(&rows, 5, 40, &ClusteringParams { seed, ..Default::default() });
        assert_eq!(bits(&with(1).centroids), bits(&with(1).centroids));
        assert_ne!(bits(&with(1).centroids), bits(&with(2).centroids));
    }

    #[test]
    fn too_few_rows_are_refused_and_exactly_enough_are_copied() {
        let rows = noise(10 * 3, 5);
        let params = ClusteringParams::default();
        let few =
            cluster(Rows::new(&rows, 3).unwrap(), 11, Similarity::L2, &params, None, &mut Observer::none());
        assert!(matches!(few, Err(Error::TooFewRows { rows: 10, needed: 11 })));
        let copied = train(&rows, 3, 10, &params);
        assert_eq!((copied.centroids, copied.iterations.len(), copied.few_points), (rows, 0, true));
    }

    #[test]
    fn a_sample_is_used_where_rows_abound() {
        let rows = noise(1000 * 2, 6);
        let params = ClusteringParams { max_points_per_centroid: 20, ..Default::default() };
        let sampled = train(&rows, 2, 10, &params);
        assert_eq!((sampled.sampled_rows, sampled.few_points), (200, true));
        let all = train(&rows, 2, 10, &ClusteringParams::default());
        assert_eq!((all.sampled_rows, all.few_points), (1000, false));
        // A sample of one row per centroid is copied.
        let params = ClusteringParams { max_points_per_centroid: 1, ..Default::default() };
        assert_eq!(train(&rows, 2, 10, &params).iterations.len(), 0);
    }

    #[test]
    fn empty_clusters_get_half_of_another() {
        let rows = blobs(1000, 4, 2, 7);
        // The last three centroids are too far away to win a row.
        let mut initial = rows[..2 * 4].to_vec();
        initial.extend([1e6; 3 * 4]);
        let params = ClusteringParams { niter: 3, ..Default::default() };
        let got = train_from(&rows, 4, 5, &params, &initial);
        assert_eq!(got.iterations[0].splits, 3);
        assert_eq!(got.iterations[2].splits, 0);
        assert!(got.centroids.iter().all(|&value| (-1.0..1002.0).contains(&value)));
        // All rows equal: there is nothing to tell clusters apart by, and nothing breaks.
        let same = train(&[7.0; 100 * 3], 3, 6, &ClusteringParams::default());
        assert!(same.centroids.iter().all(|value| (value - 7.0).abs() < 0.1));
    }

    #[test]
    fn a_settled_run_stops_early() {
        let rows = blobs(2000, 3, 4, 8);
        let params = ClusteringParams { niter: 50, init: Init::KMeansPlusPlus, ..Default::default() };
        let got = train(&rows, 3, 4, &params);
        assert!(got.iterations.len() < 50);
        let last = got.iterations.len() - 1;
        assert_eq!(got.iterations[last].objective, got.iterations[last - 1].objective);
        let loose = ClusteringParams { early_stop_threshold: 1.0, ..params };
        assert_eq!(train(&rows, 3, 4, &loose).iterations.len(), 2);
    }

    #[test]
    fn centroids_are_normalised_or_rounded_on_request() {
        let rows = noise(500 * 6, 9);
        let spherical = train(&rows, 6, 20, &ClusteringParams { spherical: true, ..Default::default() });
        for centroid in spherical.centroids.chunks(6) {
            assert!((centroid.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let rows: Vec<f32> = rows.iter().map(|v| v * 1000.0).collect();
        let whole = train(&rows, 6, 20, &ClusteringParams { int_centroids: true, ..Default::default() });
        assert!(whole.centroids.iter().all(|value| value.fract() == 0.0));
    }

    #[test]
    fn frozen_centroids_stay_and_the_others_move() {
        let rows = noise(1000 * 2, 10);
        let initial = [0.1, 0.2, 0.3, -0.4];
        let params = ClusteringParams { frozen_centroids: true, ..Default::default() };
        let got = train_from(&rows, 2, 8, &params, &initial);
        assert_eq!(got.centroids[..4], initial);
        assert!(got.iterations.last().unwrap().objective < got.iterations[0].objective);
        assert_eq!(train_from(&rows, 2, 2, &params, &initial).centroids, initial);
        let moved = train_from(&rows, 2, 8, &ClusteringParams::default(), &initial);
        assert_ne!(moved.centroids[..4], initial);
    }

    #[test]
    fn the_best_of_several_runs_is_kept() {
        let rows = noise(2000 * 2, 11);
        let run = |nredo, similarity| {
            let params = ClusteringParams { nredo, niter: 3, ..Default::default() };
            let rows = Rows::new(&rows, 2).unwrap();
            cluster(rows, 30, similarity, &params, None, &mut Observer::none()).unwrap().objective
        };
        assert!(run(6, Similarity::L2) < run(1, Similarity::L2));
        assert!(run(6, Similarity::Dot) > run(1, Similarity::Dot));
    }

    #[test]
    fn careful_seeding_finds_every_blob() {
        let rows = blobs(3000, 8, 30, 12);
        let spread = |init| train(&rows, 8, 30, &ClusteringParams { init, ..Default::default() }).objective;
        // A blob without a centroid costs far more than all blobs with one: within one, a component's
        // variance is 1/12.
        let ideal = 3000.0 * 8.0 / 12.0;
        assert!(spread(Init::KMeansPlusPlus) < 1.1 * ideal);
        assert!(spread(Init::AfkMc2) < 100.0 * ideal);
        assert!(spread(Init::Random) > 100.0 * ideal);
    }

    #[test]
    fn bad_input_is_refused() {
        let refused = |rows: &[f32], params: ClusteringParams, initial: &[f32]| {
            let (rows, initial) = (Rows::new(rows, 2).unwrap(), Rows::new(initial, 2).unwrap());
            cluster(rows, 2, Similarity::L2, &params, Some(initial), &mut Observer::none()).unwrap_err()
        };
        let nan = [0.0, 1.0, 2.0, 3.0, 4.0, f32::NAN];
        let params = ClusteringParams::default();
        assert!(matches!(refused(&nan, params.clone(), &[]), Error::NotFinite { row: 2, component: 1, .. }));
        assert!(matches!(refused(&[0.0; 8], params.clone(), &nan[2..]), Error::NotFinite { .. }));
        assert!(matches!(
            refused(&[0.0; 8], params.clone(), &[0.0; 6]),
            Error::Parameter { name: "initial", .. }
        ));
        for (name, params) in [
            ("nredo", ClusteringParams { nredo: 0, ..params.clone() }),
            ("max_points_per_centroid", ClusteringParams { max_points_per_centroid: 0, ..params.clone() }),
            ("early_stop_threshold", ClusteringParams { early_stop_threshold: f64::NAN, ..params.clone() }),
        ] {
            assert!(matches!(refused(&[0.0; 8], params, &[]), Error::Parameter { name: n, .. } if n == name));
        }
        // Unchecked, NaN gives nonsense but no panic.
        train(&nan, 2, 2, &ClusteringParams { check_finite: false, ..params });
    }

    #[test]
    fn progress_rises_to_the_end_and_can_cancel() {
        let rows = noise(4000 * 4, 13);
        let params =
            ClusteringParams { nredo: 2, niter: 3, init: Init::KMeansPlusPlus, ..Default::default() };
        let run = |stop_after: usize| {
            let mut ticks: Vec<Tick> = Vec::new();
            let mut callback = |tick| {
                ticks.push(tick);
                if ticks.len() > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let rows = Rows::new(&rows, 4).unwrap();
            let result = cluster(rows, 20, Similarity::L2, &params, None, &mut Observer::new(&mut callback));
            (result, ticks)
        };
        let (result, ticks) = run(usize::MAX);
        assert!(result.is_ok() && ticks.windows(2).all(|pair| pair[0].done <= pair[1].done));
        assert!(ticks.iter().all(|tick| tick.stage == "train" && tick.total == 2 * 3 * 4000));
        assert_eq!(ticks.last().map(|tick| tick.done), Some(2 * 3 * 4000));
        for stop_after in 0..ticks.len() {
            assert!(matches!(run(stop_after).0, Err(Error::Cancelled)));
        }
    }

    #[test]
    fn imbalance_is_one_for_equal_sizes() {
        assert_eq!(imbalance(&[5, 5, 5, 5]), 1.0);
        assert_eq!(imbalance(&[20, 0, 0, 0]), 4.0);
    }
}
