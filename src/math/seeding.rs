//! The first centroids of k-means: rows chosen uniformly, by k-means++, or by a Markov chain that
//! approximates it. Distances here are squared L2 for every metric, as in FAISS.

use super::kmeans::ClusteringParams;
use super::random::Random;
use crate::kernel::{Kernels, Similarity};
use crate::{Result, Rows};
use rayon::prelude::*;

/// How the initial centroids are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Init {
    /// Different rows, uniformly.
    Random,
    /// Each next row with probability proportional to its squared distance from the nearest chosen one
    /// (Arthur and Vassilvitskii 2007). Reads all rows once per centroid: slow for many centroids.
    KMeansPlusPlus,
    /// A Markov chain that approximates k-means++ without reading all rows (Bachem et al. 2016).
    AfkMc2,
}

/// What the choice starts from.
#[derive(Clone, Copy)]
pub(super) struct Seeds<'a> {
    /// The rows to choose from.
    pub(super) rows: Rows<'a>,
    /// Centroids that are there already.
    pub(super) given: &'a [f32],
    /// How many to choose.
    pub(super) missing: usize,
}

impl Seeds<'_> {
    /// The given centroids, followed by the chosen ones. `tick` is called once per centroid where that
    /// takes long.
    pub(super) fn choose(
        &self,
        params: &ClusteringParams,
        random: &mut Random,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<f32>> {
        match params.init {
            Init::Random => {
                let chosen = random.sample(self.rows.len(), self.missing);
                Ok([self.given, &gather(self.rows, &chosen)].concat())
            }
            Init::KMeansPlusPlus => self.plus_plus(random, tick),
            Init::AfkMc2 => self.afk_mc2(params.afkmc2_chain_length, random, tick),
        }
    }

    fn plus_plus(&self, random: &mut Random, tick: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f32>> {
        let mut centroids = self.given.to_vec();
        let mut nearest = self.distances_to(&centroids);
        for _ in 0..self.missing {
            tick()?;
            let row = match Distribution::new(&nearest) {
                Some(distribution) => distribution.draw(random),
                None => random.below(self.rows.len()),
            };
            centroids.extend_from_slice(self.rows.row(row));
            lower(&mut nearest, self.rows, self.rows.row(row));
        }
        Ok(centroids)
    }

    /// Rows are proposed with probability half uniform, half by their squared distance from the first
    /// centroid (or the given ones); a chain of proposals approaches the distribution of k-means++.
    fn afk_mc2(
        &self,
        chain_length: usize,
        random: &mut Random,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let mut centroids = self.given.to_vec();
        if centroids.is_empty() {
            centroids.extend_from_slice(self.rows.row(random.below(self.rows.len())));
        }
        let proposals = Proposals::new(self.distances_to(&centroids));
        while centroids.len() < self.given.len() + self.missing * self.rows.dim() {
            tick()?;
            let row = self.end_of_chain(chain_length, &centroids, &proposals, random);
            centroids.extend_from_slice(self.rows.row(row));
        }
        Ok(centroids)
    }

    fn end_of_chain(
        &self,
        chain_length: usize,
        centroids: &[f32],
        proposals: &Proposals,
        random: &mut Random,
    ) -> usize {
        let mut distances = vec![0.0; centroids.len() / self.rows.dim()];
        let mut ratio = |row: usize| {
            Kernels::get().scan_rows(Similarity::L2, self.rows.row(row), centroids, &mut distances);
            let least = distances.iter().fold(f32::INFINITY, |least, &distance| least.min(distance));
            f64::from(least) / proposals.probability(row)
        };
        let mut row = proposals.draw(random);
        let mut row_ratio = ratio(row);
        for _ in 1..chain_length {
            let other = proposals.draw(random);
            let other_ratio = ratio(other);
            if random.unit() * row_ratio < other_ratio {
                (row, row_ratio) = (other, other_ratio);
            }
        }
        row
    }

    /// Squared distances of the rows to the nearest of `centroids`; infinite if there is none.
    fn distances_to(&self, centroids: &[f32]) -> Vec<f32> {
        let mut nearest = vec![f32::INFINITY; self.rows.len()];
        centroids.chunks_exact(self.rows.dim()).for_each(|centroid| lower(&mut nearest, self.rows, centroid));
        nearest
    }
}

/// The rows at `chosen`.
pub(super) fn gather(rows: Rows<'_>, chosen: &[usize]) -> Vec<f32> {
    let mut out = Vec::with_capacity(chosen.len() * rows.dim());
    chosen.iter().for_each(|&row| out.extend_from_slice(rows.row(row)));
    out
}

/// Lowers each row's distance to that of `centroid`.
fn lower(nearest: &mut [f32], rows: Rows<'_>, centroid: &[f32]) {
    const CHUNK: usize = 4096;
    nearest.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, nearest)| {
        let rows = rows.slice(chunk * CHUNK..chunk * CHUNK + nearest.len());
        let mut distances = [0.0; CHUNK];
        let distances = &mut distances[..nearest.len()];
        Kernels::get().scan_rows(Similarity::L2, centroid, rows.as_slice(), distances);
        nearest.iter_mut().zip(distances).for_each(|(nearest, distance)| *nearest = nearest.min(*distance));
    });
}

/// What [`Init::AfkMc2`] proposes.
struct Proposals {
    weights: Vec<f32>,
    /// None if all weights are 0: then proposals are uniform.
    distribution: Option<Distribution>,
}

impl Proposals {
    fn new(weights: Vec<f32>) -> Self {
        Proposals { distribution: Distribution::new(&weights), weights }
    }

    fn draw(&self, random: &mut Random) -> usize {
        match &self.distribution {
            Some(distribution) if random.unit() < 0.5 => distribution.draw(random),
            _ => random.below(self.weights.len()),
        }
    }

    /// Up to a factor that all rows share.
    fn probability(&self, row: usize) -> f64 {
        let uniform = 1.0 / self.weights.len() as f64;
        match &self.distribution {
            Some(distribution) => f64::from(self.weights[row]) / distribution.total() + uniform,
            None => uniform,
        }
    }
}

/// Indices drawn with probability proportional to their weights.
struct Distribution {
    cumulative: Vec<f64>,
}

impl Distribution {
    /// None if no weight is positive and finite in sum.
    fn new(weights: &[f32]) -> Option<Self> {
        let mut total = 0.0;
        let add = |&weight: &f32| {
            total += f64::from(weight);
            total
        };
        let distribution = Distribution { cumulative: weights.iter().map(add).collect() };
        let total = distribution.total();
        (total > 0.0 && total.is_finite()).then_some(distribution)
    }

    fn total(&self) -> f64 {
        self.cumulative.last().copied().unwrap_or(0.0)
    }

    /// Never an index of weight 0.
    fn draw(&self, random: &mut Random) -> usize {
        let at = (random.unit() * self.total()).min(self.total().next_down());
        self.cumulative.partition_point(|&sum| sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_rows_and_no_row_comes_twice() {
        let data: Vec<f32> = (0..300).map(|i| (i * i) as f32).collect();
        let rows = Rows::new(&data, 3).unwrap();
        for init in [Init::Random, Init::KMeansPlusPlus] {
            for given in [0, 1, 40] {
                let seeds = Seeds { rows, given: &data[..given * 3], missing: 60 };
                let params = ClusteringParams { init, ..ClusteringParams::default() };
                let chosen = seeds.choose(&params, &mut Random::new(1), &mut || Ok(())).unwrap();
                assert_eq!(chosen[..given * 3], data[..given * 3]);
                let mut chosen: Vec<&[f32]> = chosen[given * 3..].chunks(3).collect();
                assert!(chosen.len() == 60 && chosen.iter().all(|row| rows.iter().any(|r| r == *row)));
                chosen.sort_by(|a, b| a[0].total_cmp(&b[0]));
                chosen.dedup();
                assert_eq!(chosen.len(), 60);
            }
        }
    }

    #[test]
    fn weights_set_how_often_an_index_is_drawn() {
        let distribution = Distribution::new(&[0.0, 1.0, 0.0, 3.0, 0.0]).unwrap();
        let mut random = Random::new(2);
        let mut counts = [0; 5];
        (0..40_000).for_each(|_| counts[distribution.draw(&mut random)] += 1);
        assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
        assert!((9_600..10_400).contains(&counts[1]), "{counts:?}");
        assert!(Distribution::new(&[0.0; 4]).is_none() && Distribution::new(&[f32::INFINITY]).is_none());
    }
}
