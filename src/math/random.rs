//! A small seeded generator. Training must give the same centroids for the same seed on every platform
//! and in every later version, so the generator is ours: xoshiro256** (Blackman and Vigna 2018), its
//! state filled by SplitMix64 from the seed. The numbers of a seed are part of the crate's behaviour; a
//! test pins them. Not for secrets.

/// xoshiro256**.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator of `seed`; any seed is good, 0 too.
    pub(crate) fn new(seed: u64) -> Self {
        let mut seed = seed;
        Random { state: std::array::from_fn(|_| split_mix(&mut seed)) }
    }

    /// 64 uniform bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0..n`, without bias: the high half of a 128-bit product, and another draw for the few
    /// products that would favour small numbers (Lemire 2019).
    pub(crate) fn below(&mut self, n: usize) -> usize {
        assert!(n > 0);
        let n = n as u64;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as usize;
            }
        }
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `count` different numbers of `0..n` in random order: the first steps of a shuffle.
    pub(crate) fn sample(&mut self, n: usize, count: usize) -> Vec<usize> {
        assert!(count <= n);
        let mut numbers: Vec<usize> = (0..n).collect();
        for i in 0..count {
            let other = i + self.below(n - i);
            numbers.swap(i, other);
        }
        numbers.truncate(count);
        numbers
    }
}

/// The next number of a SplitMix64 sequence.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, every trained index differs from the one that the same seed gave before.
    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        // The published vectors: SplitMix64 of seed 1234567, xoshiro256** of the state 1, 2, 3, 4.
        let mut seed = 1_234_567;
        assert_eq!([split_mix(&mut seed), split_mix(&mut seed)], [6457827717110365317, 3203168211198807973]);
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [11520, 0, 1509978240, 1215971899390074240]);
    }

    #[test]
    fn below_is_uniform_and_samples_hold_no_number_twice() {
        let mut random = Random::new(7);
        let mut counts = [0; 6];
        (0..60_000).for_each(|_| counts[random.below(6)] += 1);
        assert!(counts.iter().all(|&count| (9_600..10_400).contains(&count)), "{counts:?}");
        for count in [0, 1, 50, 100] {
            let mut sample = random.sample(100, count);
            sample.sort_unstable();
            sample.dedup();
            assert!(sample.len() == count && sample.iter().all(|&i| i < 100));
        }
        assert!((0..1000).map(|_| random.unit()).all(|u| (0.0..1.0).contains(&u)));
    }
}
