//! Normal numbers, of a seed. What is made of them is stored, so that no logarithm of another platform can change it.

use crate::math::random::Random;

/// Standard normal numbers (Box and Muller 1958).
pub(super) struct Gaussian {
    random: Random,
    spare: Option<f64>,
}

impl Gaussian {
    pub(super) fn new(seed: u64) -> Self {
        Gaussian { random: Random::new(seed), spare: None }
    }

    pub(super) fn draw(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 − u is never 0.
        let radius = (-2.0 * (1.0 - self.random.unit()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.random.unit()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let mut gaussian = Gaussian::new(5);
        let drawn: Vec<f64> = (0..100_000).map(|_| gaussian.draw()).collect();
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            let moment = drawn.iter().map(|v| v.powi(power)).sum::<f64>() / drawn.len() as f64;
            assert!((moment - expected).abs() < 0.06, "{power}: {moment}");
        }
    }
}
