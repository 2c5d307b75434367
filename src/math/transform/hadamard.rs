//! The fast random rotation of `HR`: three times random signs and a Hadamard transform, over a power of two.
//!
//! The signs follow from a stored seed. (`math/rotation.rs` is another rotation: it mixes any number of components, by blocks
//! that overlap, and its seed is a constant.) Each round is normalised, so that no component can overflow on the way.

use crate::kernel::Kernels;
use crate::math::random::Random;

const ROUNDS: usize = 3;

#[derive(Clone, Debug)]
pub(super) struct Hadamard {
    pub(super) seed: u64,
    /// ±1/√n of each component.
    rounds: [Vec<f32>; ROUNDS],
    kernels: &'static Kernels,
}

impl Hadamard {
    /// Over `dim` components, a power of two.
    pub(super) fn new(dim: usize, seed: u64) -> Self {
        assert!(dim.is_power_of_two());
        let size = 1.0 / (dim as f64).sqrt() as f32;
        let mut random = Random::new(seed);
        let mut sign = || if random.next_u64() >> 63 == 0 { size } else { -size };
        let rounds = std::array::from_fn(|_| (0..dim).map(|_| sign()).collect());
        Hadamard { seed, rounds, kernels: Kernels::get() }
    }

    /// Rotates the components, and the zeros behind them.
    pub(super) fn apply(&self, row: &[f32], out: &mut [f32]) {
        out[..row.len()].copy_from_slice(row);
        out[row.len()..].fill(0.0);
        for signs in &self.rounds {
            multiply(out, signs);
            self.kernels.hadamard(out);
        }
        // −0 would be another vector.
        out.iter_mut().for_each(|value| *value += 0.0);
    }

    /// Rotates back in place.
    pub(super) fn reverse(&self, values: &mut [f32]) {
        for signs in self.rounds.iter().rev() {
            self.kernels.hadamard(values);
            multiply(values, signs);
        }
    }
}

fn multiply(values: &mut [f32], signs: &[f32]) {
    values.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_is_spread_over_all() {
        for dim in [64, 1024] {
            let hadamard = Hadamard::new(dim, 3);
            for at in [0, dim / 2, dim - 1] {
                let (mut row, mut out) = (vec![0.0; dim], vec![0.0; dim]);
                row[at] = 1.0;
                hadamard.apply(&row, &mut out);
                let most = out.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                assert!(most < 6.0 / (dim as f32).sqrt(), "{dim} {at}: {most}");
            }
        }
    }

    /// The signs follow from the seed, which is all that is stored.
    #[test]
    fn the_signs_are_pinned() {
        let hadamard = Hadamard::new(16, 1234);
        let bits = |signs: &Vec<f32>| signs.iter().fold(0u32, |bits, s| bits << 1 | u32::from(*s < 0.0));
        assert_eq!(hadamard.rounds.each_ref().map(bits), PINNED);
    }

    const PINNED: [u32; 3] = [29925, 63632, 34168];
}
