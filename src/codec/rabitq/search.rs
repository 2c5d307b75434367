//! The levels that lie nearest to a direction.
//!
//! Levels are u_j = min(⌊t·o_j⌋, most) for some t: the code of the largest cosine is among these, as each component of it
//! is the nearest that there is to t·o_j for the t that it is the best for. Only where t·o_j meets a whole number does a
//! level change, so a sweep over those crossings in their order sees every code, and knows each cosine from the one before:
//!
//! ```text
//! fit    = Σ (u_j + ½)·o_j      grows by o_j
//! length = Σ (u_j + ½)²         grows by 2·(u_j + 1)
//! cosine = fit / √length
//! ```
//! Where there are few crossings all are swept. Else t is looked for from where the greatest component all but reaches
//! the last level to where it is ten levels beyond, or components of twice the mean size take the last. Up to 1,024
//! crossings in that range are swept (128 components of 4 or 5 bits have fewer); beyond, where the cosine is as good as
//! smooth in t, 48 values of t say where the best is about, and the sweep is of as many crossings around it.

/// Crossings that are swept whatever they are.
const FEW: usize = 256;
/// Crossings that are swept at most.
const SWEPT: f32 = 1024.0;
/// Values of t that are tried first where there are more.
const TRIES: usize = 48;

/// Buffers of the search.
#[derive(Default)]
pub(super) struct Search {
    /// The t of a crossing, whose bits are in the order of positive floats, above its component.
    crossings: Vec<u64>,
    levels: Vec<u16>,
}

impl Search {
    /// The levels, 0 to `most`, for the magnitudes `direction`.
    pub(super) fn levels(&mut self, direction: &[f32], most: u16) -> &[u16] {
        self.levels.clear();
        self.levels.resize(direction.len(), 0);
        let greatest = direction.iter().copied().fold(0.0, f32::max);
        if greatest == 0.0 {
            return &self.levels;
        }
        let (from, to) = match direction.len() * usize::from(most) {
            0..=FEW => (0.0, f32::MAX),
            _ => range(direction, greatest, f32::from(most)),
        };
        self.sweep(direction, most, from, to);
        &self.levels
    }

    /// The best levels of all t from `from` to `to`.
    fn sweep(&mut self, direction: &[f32], most: u16, from: f32, to: f32) {
        let (mut fit, mut length) = (0.0, 0.0);
        self.crossings.clear();
        for (j, (&o, level)) in direction.iter().zip(&mut self.levels).enumerate() {
            *level = ((from * o) as u16).min(most);
            let value = f64::from(*level) + 0.5;
            fit += value * f64::from(o);
            length += value * value;
            let times = (*level + 1..=most).map(|k| f32::from(k) / o);
            let keys = times.take_while(|t| *t <= to).map(|t| u64::from(t.to_bits()) << 32 | j as u64);
            self.crossings.extend(keys);
        }
        self.crossings.sort_unstable();
        let mut levels = std::mem::take(&mut self.levels);
        let (mut best, mut best_fit, mut best_length) = (0, fit, length);
        for (i, crossing) in self.crossings.iter().enumerate() {
            let j = *crossing as u32 as usize;
            levels[j] += 1;
            fit += f64::from(direction[j]);
            length += 2.0 * f64::from(levels[j]);
            // The cosines' squares, without division.
            if fit * fit * best_length > best_fit * best_fit * length {
                (best, best_fit, best_length) = (i + 1, fit, length);
            }
        }
        for crossing in &self.crossings[best..] {
            levels[*crossing as u32 as usize] -= 1;
        }
        self.levels = levels;
    }
}

/// From where to where crossings are swept.
fn range(direction: &[f32], greatest: f32, most: f32) -> (f32, f32) {
    let sum = direction.iter().sum::<f32>();
    let mean = sum / direction.len() as f32;
    let first = 0.75 * most / greatest;
    let last = ((most + 10.0) / greatest).max((most + 1.0) / (2.0 * mean));
    // Each component crosses o_j times while t grows by 1, until it takes the last level.
    if (last - first) * sum <= SWEPT {
        return (first, last);
    }
    let ratio = (last / first).powf(1.0 / TRIES as f32);
    let (mut t, mut best, mut best_cosine) = (first, first, 0.0);
    for _ in 0..=TRIES {
        let cosine = squared_cosine(direction, t, most);
        if cosine > best_cosine {
            (best, best_cosine) = (t, cosine);
        }
        t *= ratio;
    }
    // The two tries around the best of them, or farther where that is too little.
    let reach = SWEPT / 2.0 / sum;
    ((best / ratio).min(best - reach).max(0.0), (best * ratio).max(best + reach))
}

/// The squared cosine of the levels of `t`, eight sums side by side.
fn squared_cosine(direction: &[f32], t: f32, most: f32) -> f32 {
    let (mut fit, mut length) = ([0.0f32; 8], [0.0f32; 8]);
    let mut add = |lane: usize, o: f32| {
        let scaled = t * o;
        let scaled = if scaled < most { scaled } else { most };
        let value = scaled as i32 as f32 + 0.5;
        fit[lane] += value * o;
        length[lane] += value * value;
    };
    let (eights, rest) = direction.as_chunks::<8>();
    eights.iter().for_each(|eight| (0..8).for_each(|lane| add(lane, eight[lane])));
    rest.iter().enumerate().for_each(|(lane, o)| add(lane, *o));
    let (fit, length) = (fit.iter().sum::<f32>(), length.iter().sum::<f32>());
    fit * fit / length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    fn direction(random: &mut Random, dim: usize, power: i32) -> Vec<f32> {
        let gaussian = |random: &mut Random| (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        let values: Vec<f64> = (0..dim).map(|_| gaussian(random).abs().powi(power)).collect();
        let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        values.iter().map(|v| (v / norm) as f32).collect()
    }

    fn cosine(direction: &[f32], levels: &[u16]) -> f64 {
        let pairs = || direction.iter().zip(levels).map(|(o, u)| (f64::from(*o), f64::from(*u) + 0.5));
        let (fit, length): (f64, f64) =
            (pairs().map(|(o, z)| o * z).sum(), pairs().map(|(_, z)| z * z).sum());
        fit / length.sqrt()
    }

    /// The best of every code there is, with 1 and 2 extra bits and few components.
    #[test]
    fn few_components_get_the_best_code_of_all() {
        let mut random = Random::new(1);
        let mut search = Search::default();
        for (dim, most) in [(1, 1), (2, 3), (5, 3), (4, 7), (9, 1)] {
            for power in [1, 4] {
                let o = direction(&mut random, dim, power);
                let got = cosine(&o, search.levels(&o, most));
                let codes = (usize::from(most) + 1).pow(dim as u32);
                let best = (0..codes).map(|code| {
                    let digit =
                        |j: u32| (code / (usize::from(most) + 1).pow(j) % (usize::from(most) + 1)) as u16;
                    cosine(&o, &(0..dim as u32).map(digit).collect::<Vec<_>>())
                });
                let best = best.fold(0.0, f64::max);
                assert!(got > best - 1e-7, "{dim} {most}: {got} {best}");
            }
        }
    }

    /// What looking in a part of the crossings loses against all: nothing to speak of.
    #[test]
    fn many_levels_get_as_good_as_the_best() {
        let mut random = Random::new(2);
        let mut search = Search::default();
        for most in [1, 3, 7, 15, 63, 255] {
            for (dim, power) in [(16, 1), (128, 1), (128, 3), (300, 1)] {
                let mut lost = 0.0;
                for _ in 0..20 {
                    let o = direction(&mut random, dim, power);
                    let got = cosine(&o, search.levels(&o, most));
                    search.levels.fill(0);
                    search.sweep(&o, most, 0.0, f32::MAX);
                    let best = cosine(&o, &search.levels);
                    lost += (best - got) / (1.0 - best) / 20.0;
                }
                assert!(lost < 0.02, "{most} {dim} {power}: {lost} of the angle's loss");
            }
        }
    }

    #[test]
    fn odd_directions_have_levels() {
        let mut search = Search::default();
        for most in [1, 3, 7, 15, 127, 255] {
            assert_eq!(search.levels(&[0.0; 5], most), [0; 5]);
            assert_eq!(search.levels(&[1.0], most).len(), 1);
            // One component is all there is, or all are the same, or the rest is as good as nothing.
            for o in [vec![0.0, 1.0, 0.0], vec![0.5; 4], vec![1.0, 1e-30, 1e-45], vec![1.0, 1e-3, 1e-3]] {
                let levels = search.levels(&o, most).to_vec();
                assert!(levels.iter().all(|u| *u <= most) && cosine(&o, &levels) > 0.5);
            }
        }
    }
}
