//! Transforms: what is done to vectors before lists and codes see them.
//!
//! ```text
//! kind             apply                                   reverse                      stored, f32 little-endian
//! RR, OPQ          A x                                     Aᵀ y                         A
//! PCA              A (x − mean)                            Aᵀ y + mean                  mean, A
//! PCA, scaled      A (x − mean)                            A⁺ y + mean                  mean, A, A⁺
//! ITQ              A (x − mean) / ‖x − mean‖               Aᵀ y + mean                  mean, A
//! HR               H S₃ H S₂ H S₁ [x 0]                    the same backwards, cut      the seed, 8 bytes
//! L2norm           x / ‖x‖                                 y                            nothing
//! Center           x − mean                                y + mean                     mean
//! Pad, Trunc, Remap components moved, zeros between         those that were moved        nothing
//! ```
//! A is d_out × d_in, row after row, of orthonormal rows (of orthonormal columns where there are fewer of them; scaled PCA has
//! neither). So `reverse` undoes `apply` wherever d_out ≥ d_in and nothing is normalised; else it gives the nearest vector that
//! is left, which for lengths that were taken away is one of the length they were brought to.
//!
//! A row's image has the same bits alone and in any batch, on any thread, so that a query that equals a stored row has the
//! same image; and no component of it is −0 unless the row's own was. Matrices are stored rather than made again from a seed,
//! as logarithms and square roots differ between platforms; bits of random numbers do not. [`Trained`] is one transform,
//! [`Chain`] several, one after the other.

mod dense;
mod gaussian;
mod hadamard;
mod matrix;
mod train;

use crate::kernel::ROWS_MAX;
use crate::math::kmeans::check_finite;
use crate::math::linalg::mean;
use crate::math::random::Random;
use crate::math::seeding::gather;
use crate::transform::{EigenPower, TransformKind};
use crate::{Error, Observer, Result, Rows};
use hadamard::Hadamard;
use matrix::Matrix;
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::OnceLock;
use train::Progress;
pub(crate) use train::spectrum;

/// A transform that can be applied.
#[derive(Clone, Debug)]
pub(crate) struct Trained {
    dim_in: usize,
    dim_out: usize,
    map: Map,
}

#[derive(Clone, Debug)]
enum Map {
    Linear(Box<Linear>),
    Hadamard(Hadamard),
    Normalise,
    Centre(Vec<f32>),
    /// Where each component comes from.
    Remap(Vec<Option<u32>>),
}

/// A matrix, after what is done to a vector first.
#[derive(Clone, Debug)]
struct Linear {
    mean: Option<Vec<f32>>,
    normalises: bool,
    forward: Matrix,
    /// Where it is not the transposed matrix.
    inverse: Option<Matrix>,
    /// Made when a vector is first wanted back: a search needs none.
    transposed: OnceLock<Matrix>,
}

impl Trained {
    #[cfg(test)]
    /// Trains a transform of rows. Where it does not follow from rows ([`TransformKind::is_trained_from_data`]), they say the
    /// dimension and there need be none. Of more rows than [`TransformKind::training_rows`] a sample is used.
    ///
    /// # Errors
    /// [`Error::Spec`] if the kind does not fit the dimension, [`Error::TooFewRows`] where there are none,
    /// [`Error::NotFinite`], [`Error::Cancelled`].
    pub(crate) fn train(
        kind: TransformKind,
        rows: Rows<'_>,
        seed: u64,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        Trained::train_part(kind, rows, seed, &mut Progress { observer, part: 0, parts: 1 })
    }

    fn train_part(
        kind: TransformKind,
        rows: Rows<'_>,
        seed: u64,
        progress: &mut Progress<'_, '_>,
    ) -> Result<Self> {
        let dim_in = rows.dim();
        let misfit = |what| Error::Spec { text: kind.to_string(), what };
        let dim_out = kind.dim_out(dim_in).map_err(misfit)?;
        if kind.is_trained_from_data() && rows.is_empty() {
            return Err(Error::TooFewRows { rows: 0, needed: 1 });
        }
        let sample = sample(rows, kind.training_rows(dim_in), seed);
        let rows = Rows::of(&sample, dim_in);
        check_finite(rows)?;
        let map = match kind {
            TransformKind::RandomRotation { .. } => {
                let matrix = train::random_rotation(dim_out, dim_in, seed);
                Map::Linear(Linear::boxed(None, false, Matrix::of(&matrix), None))
            }
            TransformKind::Hadamard => Map::Hadamard(Hadamard::new(dim_out, seed)),
            TransformKind::Pca { power, rotate, .. } => {
                let mean = mean(rows);
                let pca = train::pca(rows, &mean, dim_out, power, rotate.then_some(seed), progress)?;
                Map::Linear(Linear::boxed(Some(matrix::rounded(&mean)), false, pca.forward, pca.inverse))
            }
            TransformKind::Opq { subspaces, .. } => {
                let matrix = train::opq(rows, subspaces, dim_out, seed, progress)?;
                Map::Linear(Linear::boxed(None, false, matrix, None))
            }
            TransformKind::Itq { dim_out } => {
                let mean = mean(rows);
                let matrix = train::itq(rows, &mean, dim_out, seed, progress)?;
                Map::Linear(Linear::boxed(Some(matrix::rounded(&mean)), true, matrix, None))
            }
            TransformKind::Normalize => Map::Normalise,
            TransformKind::Center => Map::Centre(matrix::rounded(&mean(rows))),
            TransformKind::Pad { .. } | TransformKind::Truncate { .. } => {
                Map::Remap(in_front(dim_in, dim_out))
            }
            TransformKind::Remap { .. } => Map::Remap(evenly(dim_in, dim_out)),
        };
        Ok(Trained { dim_in, dim_out, map })
    }

    #[cfg(test)]
    /// Components before.
    pub(crate) fn dim_in(&self) -> usize {
        self.dim_in
    }

    /// Components afterwards.
    pub(crate) fn dim_out(&self) -> usize {
        self.dim_out
    }

    /// Replaces `out` by the images of `rows`. Whitened vectors may be longer than the vectors: who takes no vector beyond a
    /// length looks at the images.
    pub(crate) fn apply(&self, rows: Rows<'_>, out: &mut Vec<f32>) {
        assert_eq!(rows.dim(), self.dim_in);
        self.each_block(rows, self.dim_out, out, &|rows, out| self.apply_block(rows, out));
    }

    /// Replaces `out` by the vectors that have the images `rows`, or by what is nearest to them.
    pub(crate) fn reverse(&self, rows: Rows<'_>, out: &mut Vec<f32>) {
        assert_eq!(rows.dim(), self.dim_out);
        self.each_block(rows, self.dim_in, out, &|rows, out| self.reverse_block(rows, out));
    }

    /// Calls `work` with blocks of rows and their places in `out`, on all threads where that pays.
    fn each_block(
        &self,
        rows: Rows<'_>,
        dim_out: usize,
        out: &mut Vec<f32>,
        work: &(dyn Fn(&[f32], &mut [f32]) + Sync),
    ) {
        out.clear();
        out.resize(rows.len() * dim_out, 0.0);
        let (input, output) = (ROWS_MAX * rows.dim(), ROWS_MAX * dim_out);
        let work_a_row = match self.map {
            Map::Linear(_) => self.dim_in * self.dim_out,
            _ => self.dim_in.max(self.dim_out),
        };
        if rows.len() <= ROWS_MAX || rows.len().saturating_mul(work_a_row) < PARALLEL {
            rows.as_slice().chunks(input).zip(out.chunks_mut(output)).for_each(|(rows, out)| work(rows, out));
        } else {
            let blocks = rows.as_slice().par_chunks(input).zip(out.par_chunks_mut(output));
            blocks.for_each(|(rows, out)| work(rows, out));
        }
    }

    fn apply_block(&self, rows: &[f32], out: &mut [f32]) {
        let pairs = rows.chunks_exact(self.dim_in).zip(out.chunks_exact_mut(self.dim_out));
        match &self.map {
            Map::Linear(linear) => linear.apply(rows, out),
            Map::Hadamard(hadamard) => pairs.for_each(|(row, out)| hadamard.apply(row, out)),
            Map::Normalise => pairs.for_each(|(row, out)| {
                out.copy_from_slice(row);
                normalise(out);
            }),
            Map::Centre(mean) => pairs.for_each(|(row, out)| subtract(row, mean, out)),
            Map::Remap(from) => pairs.for_each(|(row, out)| {
                for (out, from) in out.iter_mut().zip(from) {
                    *out = from.map_or(0.0, |from| row[from as usize]);
                }
            }),
        }
    }

    fn reverse_block(&self, rows: &[f32], out: &mut [f32]) {
        let pairs = rows.chunks_exact(self.dim_out).zip(out.chunks_exact_mut(self.dim_in));
        match &self.map {
            Map::Linear(linear) => linear.reverse(rows, out),
            Map::Hadamard(hadamard) => {
                let mut whole = vec![0.0; self.dim_out];
                pairs.for_each(|(row, out)| {
                    whole.copy_from_slice(row);
                    hadamard.reverse(&mut whole);
                    out.copy_from_slice(&whole[..out.len()]);
                });
            }
            Map::Normalise => out.copy_from_slice(rows),
            Map::Centre(mean) => pairs.for_each(|(row, out)| {
                out.copy_from_slice(row);
                add(out, mean);
            }),
            Map::Remap(from) => pairs.for_each(|(row, out)| {
                out.fill(0.0);
                for (value, from) in row.iter().zip(from) {
                    if let Some(from) = from {
                        out[*from as usize] = *value;
                    }
                }
            }),
        }
    }

    /// What is stored: see the head of this file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let values: Vec<&[f32]> = match &self.map {
            Map::Hadamard(hadamard) => return hadamard.seed.to_le_bytes().to_vec(),
            Map::Normalise | Map::Remap(_) => Vec::new(),
            Map::Centre(mean) => vec![mean],
            Map::Linear(linear) => {
                let mean = linear.mean.as_deref().unwrap_or_default();
                let inverse = linear.inverse.as_ref().map_or(&[][..], Matrix::values);
                vec![mean, linear.forward.values(), inverse]
            }
        };
        values.concat().iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The transform that `bytes` were made of.
    ///
    /// # Errors
    /// The reason: bytes of another length, numbers that are not finite, a kind that does not fit the dimension.
    pub(crate) fn from_bytes(kind: TransformKind, dim_in: usize, bytes: &[u8]) -> Result<Self, String> {
        let (dim_out, len) = (kind.dim_out(dim_in)?, stored_bytes(kind, dim_in)?);
        if bytes.len() != len {
            return Err(format!("{kind} of {dim_in} components with {} bytes, expected {len}", bytes.len()));
        }
        let (mean, rest) = bytes.split_at(if has_mean(kind) { 4 * dim_in } else { 0 });
        let (forward, inverse) = rest.split_at(rest.len().min(4 * dim_in * dim_out));
        let linear = |normalises| -> Result<Map, String> {
            let mean = if has_mean(kind) { Some(floats(mean)?) } else { None };
            let forward = floats(forward)?;
            if !has_inverse(kind) {
                check_lengths(kind, &forward, dim_in)?;
            }
            let forward = Matrix::new(forward, dim_in);
            let inverse = if has_inverse(kind) { Some(Matrix::new(floats(inverse)?, dim_out)) } else { None };
            Ok(Map::Linear(Linear::boxed(mean, normalises, forward, inverse)))
        };
        let map = match kind {
            TransformKind::RandomRotation { .. } | TransformKind::Pca { .. } | TransformKind::Opq { .. } => {
                linear(false)?
            }
            TransformKind::Itq { .. } => linear(true)?,
            TransformKind::Hadamard => {
                let seed = bytes.try_into().map_err(|_| "a seed is 8 bytes".to_string())?;
                Map::Hadamard(Hadamard::new(dim_out, u64::from_le_bytes(seed)))
            }
            TransformKind::Normalize => Map::Normalise,
            TransformKind::Center => Map::Centre(floats(mean)?),
            TransformKind::Pad { .. } | TransformKind::Truncate { .. } => {
                Map::Remap(in_front(dim_in, dim_out))
            }
            TransformKind::Remap { .. } => Map::Remap(evenly(dim_in, dim_out)),
        };
        Ok(Trained { dim_in, dim_out, map })
    }
}

/// Multiply-adds from which on threads share the work.
const PARALLEL: usize = 1 << 22;

impl Linear {
    fn boxed(
        mean: Option<Vec<f32>>,
        normalises: bool,
        forward: Matrix,
        inverse: Option<Matrix>,
    ) -> Box<Self> {
        Box::new(Linear { mean, normalises, forward, inverse, transposed: OnceLock::new() })
    }

    fn apply(&self, rows: &[f32], out: &mut [f32]) {
        let Some(mean) = &self.mean else { return self.forward.times(rows, out) };
        let mut centred = vec![0.0; rows.len()];
        for (row, centred) in rows.chunks_exact(mean.len()).zip(centred.chunks_exact_mut(mean.len())) {
            subtract(row, mean, centred);
            if self.normalises {
                normalise(centred);
            }
        }
        self.forward.times(&centred, out);
    }

    fn reverse(&self, rows: &[f32], out: &mut [f32]) {
        let transposed = || self.transposed.get_or_init(|| self.forward.transposed());
        self.inverse.as_ref().unwrap_or_else(transposed).times(rows, out);
        if let Some(mean) = &self.mean {
            out.chunks_exact_mut(mean.len()).for_each(|row| add(row, mean));
        }
    }
}

/// Scales to length 1; zeros stay zeros. Summed in f64 and in order, so that every machine gives the same bits.
fn normalise(row: &mut [f32]) {
    let squared: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    if squared > 0.0 {
        let scale = 1.0 / squared.sqrt();
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    }
}

fn subtract(row: &[f32], mean: &[f32], out: &mut [f32]) {
    row.iter().zip(mean).zip(out).for_each(|((x, m), out)| *out = x - m);
}

fn add(row: &mut [f32], mean: &[f32]) {
    row.iter_mut().zip(mean).for_each(|(x, m)| *x += m);
}

/// Each component where it was, and zeros behind.
fn in_front(dim_in: usize, dim_out: usize) -> Vec<Option<u32>> {
    (0..dim_out).map(|at| (at < dim_in).then_some(at as u32)).collect()
}

/// Components at equal distances, or an even choice of them.
fn evenly(dim_in: usize, dim_out: usize) -> Vec<Option<u32>> {
    if dim_in >= dim_out {
        return (0..dim_out).map(|at| Some((at * dim_in / dim_out) as u32)).collect();
    }
    let mut from = vec![None; dim_out];
    (0..dim_in).for_each(|at| from[at * dim_out / dim_in] = Some(at as u32));
    from
}

/// The rows that are trained on: all, or a random sample in the order of the rows.
fn sample<'a>(rows: Rows<'a>, wanted: Option<usize>, seed: u64) -> Cow<'a, [f32]> {
    match wanted.filter(|wanted| *wanted < rows.len()) {
        None => Cow::Borrowed(rows.as_slice()),
        Some(wanted) => {
            let mut chosen = Random::new(seed).sample(rows.len(), wanted);
            chosen.sort_unstable();
            Cow::Owned(gather(rows, &chosen))
        }
    }
}

fn has_mean(kind: TransformKind) -> bool {
    matches!(kind, TransformKind::Pca { .. } | TransformKind::Itq { .. } | TransformKind::Center)
}

fn has_inverse(kind: TransformKind) -> bool {
    matches!(kind, TransformKind::Pca { power, .. } if power != EigenPower::NONE)
}

/// The length of what [`Trained::to_bytes`] gives. Dimensions that fit are so small that it cannot overflow.
fn stored_bytes(kind: TransformKind, dim_in: usize) -> Result<usize, String> {
    let dim_out = kind.dim_out(dim_in)?;
    let matrices = match kind {
        TransformKind::RandomRotation { .. } | TransformKind::Opq { .. } | TransformKind::Itq { .. } => 1,
        TransformKind::Pca { .. } => 1 + usize::from(has_inverse(kind)),
        TransformKind::Hadamard => return Ok(size_of::<u64>()),
        TransformKind::Normalize
        | TransformKind::Center
        | TransformKind::Pad { .. }
        | TransformKind::Truncate { .. }
        | TransformKind::Remap { .. } => 0,
    };
    Ok(4 * (matrices * dim_in * dim_out + if has_mean(kind) { dim_in } else { 0 }))
}

/// Rows of a rotation are of length 1, or shorter where there are more of them than columns: longer ones would let images
/// overflow.
fn check_lengths(kind: TransformKind, values: &[f32], dim: usize) -> Result<(), String> {
    let squared = |row: &[f32]| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
    match values.chunks_exact(dim).position(|row| squared(row) > 1.001) {
        None => Ok(()),
        Some(row) => Err(format!("row {row} of {kind} is longer than 1")),
    }
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(values),
        Some(value) => Err(format!("{value} in a transform")),
    }
}

/// Transforms one after the other; none of them is a chain too.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    dim_in: usize,
    links: Vec<Trained>,
}

impl Chain {
    /// Rows that training reads at most; `None` for all.
    pub(crate) fn training_rows(kinds: &[TransformKind], dim_in: usize) -> Option<usize> {
        let (mut dim, mut most) = (dim_in, 0);
        for kind in kinds {
            most = most.max(kind.training_rows(dim)?);
            dim = kind.dim_out(dim).unwrap_or(dim);
        }
        Some(most)
    }

    /// Trains one after the other, each on what those before it make of the rows: see [`Trained::train`].
    pub(crate) fn train(
        kinds: &[TransformKind],
        rows: Rows<'_>,
        seed: u64,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let sample = sample(rows, Chain::training_rows(kinds, rows.dim()), seed);
        let (dim_in, parts) = (rows.dim(), kinds.len());
        let (mut rows, mut dim) = (sample, dim_in);
        let mut links: Vec<Trained> = Vec::with_capacity(parts);
        for (part, &kind) in kinds.iter().enumerate() {
            let progress = &mut Progress { observer, part, parts };
            progress.tick(0, 1)?;
            let link =
                Trained::train_part(kind, Rows::of(&rows, dim), seed.wrapping_add(part as u64), progress)?;
            // Nobody looks at rows behind the last one that learns from them.
            let wanted = kinds[part + 1..].iter().any(|kind| kind.is_trained_from_data());
            let mut images = Vec::new();
            if wanted {
                link.apply(Rows::of(&rows, dim), &mut images);
            }
            (rows, dim) = (Cow::Owned(images), link.dim_out);
            links.push(link);
        }
        Ok(Chain { dim_in, links })
    }

    #[cfg(test)]
    pub(crate) fn links(&self) -> &[Trained] {
        &self.links
    }

    #[cfg(test)]
    /// Components before.
    pub(crate) fn dim_in(&self) -> usize {
        self.dim_in
    }

    /// Components afterwards.
    pub(crate) fn dim_out(&self) -> usize {
        self.links.last().map_or(self.dim_in, Trained::dim_out)
    }

    /// Replaces `out` by the images of `rows`.
    pub(crate) fn apply(&self, rows: Rows<'_>, out: &mut Vec<f32>) {
        pass(rows, out, self.links.iter().map(|link| (link, link.dim_out)), |link, rows, out| {
            link.apply(rows, out)
        });
    }

    /// Replaces `out` by the vectors that have the images `rows`, as far as each transform leads back.
    pub(crate) fn reverse(&self, rows: Rows<'_>, out: &mut Vec<f32>) {
        pass(rows, out, self.links.iter().rev().map(|link| (link, link.dim_in)), |link, rows, out| {
            link.reverse(rows, out)
        });
    }

    /// What is stored of each, one after the other: their lengths follow from their kinds.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.links.iter().flat_map(Trained::to_bytes).collect()
    }

    /// The chain that `bytes` were made of.
    pub(crate) fn from_bytes(
        kinds: &[TransformKind],
        dim_in: usize,
        mut bytes: &[u8],
    ) -> Result<Self, String> {
        let (mut dim, mut links) = (dim_in, Vec::with_capacity(kinds.len()));
        for &kind in kinds {
            let len = stored_bytes(kind, dim)?;
            let (stored, rest) = bytes
                .split_at_checked(len)
                .ok_or_else(|| format!("{kind} with {} bytes, expected {len}", bytes.len()))?;
            let link = Trained::from_bytes(kind, dim, stored)?;
            (bytes, dim) = (rest, link.dim_out);
            links.push(link);
        }
        if bytes.is_empty() {
            Ok(Chain { dim_in, links })
        } else {
            Err(format!("{} bytes behind the last transform", bytes.len()))
        }
    }
}

/// Hands rows from one transform to the next; beside each stands how many components it gives.
fn pass<'a>(
    rows: Rows<'_>,
    out: &mut Vec<f32>,
    links: impl Iterator<Item = (&'a Trained, usize)>,
    step: impl Fn(&Trained, Rows<'_>, &mut Vec<f32>),
) {
    out.clear();
    out.extend_from_slice(rows.as_slice());
    let (mut dim, mut before) = (rows.dim(), Vec::new());
    for (link, dim_after) in links {
        std::mem::swap(&mut before, out);
        step(link, Rows::of(&before, dim), out);
        dim = dim_after;
    }
}

#[cfg(test)]
mod tests;
