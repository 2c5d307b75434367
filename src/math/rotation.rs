//! The random rotation: an orthogonal map that spreads whatever structure the components have, in d·log d steps.
//!
//! ```text
//! round:   signs of ±1, then a normalised Hadamard transform over the largest power of two that fits
//! rounds:  3 over all components if they are a power of two, else 4, over the front and the back by turns
//! ```
//! Rotated components of any vector are near to independent Gaussians, which is what the nibble code's fixed
//! points are made for (Ailon and Chazelle 2006; Andoni et al. 2015). The signs come from a seed that is a
//! constant of the stored format, so there is nothing to store and nothing that goes stale.

use crate::kernel::Kernels;
use crate::math::random::Random;
use std::ops::Range;

/// The seed of the signs: a constant of the format.
const SEED: u64 = 0x76656c6c756d0001;

/// A rotation of vectors that are filled up with zeros to `padded` components.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    dim: usize,
    padded: usize,
    rounds: Vec<Round>,
    kernels: &'static Kernels,
}

#[derive(Clone, Debug)]
struct Round {
    range: Range<usize>,
    /// ±1/√n for each of the n components of the range: signs and normalisation in one multiplication.
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation of `dim` components filled up to `padded`.
    pub(crate) fn new(dim: usize, padded: usize) -> Self {
        assert!(0 < dim && dim <= padded);
        let block = 1 << padded.ilog2();
        let mut random = Random::new(SEED);
        let count = if block == padded { 3 } else { 4 };
        let rounds = (0..count).map(|round| {
            let first = if round % 2 == 0 { 0 } else { padded - block };
            let size = 1.0 / (block as f64).sqrt() as f32;
            let signs = (0..block).map(|_| if random.next_u64() >> 63 == 0 { size } else { -size }).collect();
            Round { range: first..first + block, signs }
        });
        Rotation { dim, padded, rounds: rounds.collect(), kernels: Kernels::get() }
    }

    /// Components of a rotated vector.
    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    /// Rotates `row` into `out`.
    pub(crate) fn apply(&self, row: &[f32], out: &mut [f32]) {
        out[..self.dim].copy_from_slice(row);
        out[self.dim..].fill(0.0);
        for round in &self.rounds {
            let part = &mut out[round.range.clone()];
            part.iter_mut().zip(&round.signs).for_each(|(value, sign)| *value *= sign);
            self.kernels.hadamard(part);
        }
    }

    /// Rotates `values` back in place; the first `dim` are the vector.
    pub(crate) fn reverse(&self, values: &mut [f32]) {
        for round in self.rounds.iter().rev() {
            let part = &mut values[round.range.clone()];
            self.kernels.hadamard(part);
            part.iter_mut().zip(&round.signs).for_each(|(value, sign)| *value *= sign);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(row: &[f32]) -> f64 {
        row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
    }

    #[test]
    fn lengths_are_kept_and_the_way_back_leads_back() {
        let mut random = Random::new(4);
        for (dim, padded) in [(1, 8), (5, 8), (16, 16), (100, 104), (128, 128), (384, 384), (1000, 1008)] {
            let rotation = Rotation::new(dim, padded);
            let row: Vec<f32> = (0..dim).map(|_| random.unit() as f32 - 0.3).collect();
            let mut out = vec![7.0; padded];
            rotation.apply(&row, &mut out);
            assert!((norm(&out) / norm(&row) - 1.0).abs() < 1e-5);
            rotation.reverse(&mut out);
            assert!(out.iter().zip(&row).all(|(out, x)| (out - x).abs() < 1e-5));
            assert!(out[dim..].iter().all(|v| v.abs() < 1e-5));
        }
    }

    /// What the code relies on: a vector with all its length in one component comes out spread.
    #[test]
    fn a_single_component_is_spread_over_all() {
        for padded in [128, 384, 1008] {
            let rotation = Rotation::new(padded, padded);
            for at in [0, padded / 2, padded - 1] {
                let mut row = vec![0.0; padded];
                row[at] = 1.0;
                let mut out = vec![0.0; padded];
                rotation.apply(&row, &mut out);
                let most = out.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                assert!(most < 6.0 / (padded as f32).sqrt(), "{padded} {at}: {most}");
            }
        }
    }

    /// The signs are part of the stored format.
    #[test]
    fn the_signs_are_pinned() {
        let rotation = Rotation::new(16, 16);
        let bits = |round: &Round| round.signs.iter().fold(0u32, |bits, s| bits << 1 | u32::from(*s < 0.0));
        assert_eq!(rotation.rounds.iter().map(bits).collect::<Vec<_>>(), PINNED);
    }

    const PINNED: [u32; 3] = [61841, 44522, 49691];
}
