//! Noise shaping: components that are rounded up or down so that errors cancel along the row, where products with near queries
//! feel them, for larger ones across it (Guo et al. 2020, as ScaNN rounds the rows that it scores again).
//!
//! ```text
//! x the row, y its stored form, e = x − y, e∥² = ⟨e, x⟩²/‖x‖²        loss = η·e∥² + (‖e‖² − e∥²)       η as in fast_scan/anisotropic
//!
//! begin with the nearest places; up to 10 rounds over the components, that of the largest error first:
//!     a component moves one place up or down from its nearest, if that lowers the loss and does not raise e∥²
//! until a round changes nothing
//! ```
//! Sums are f64 in one order, and the stored form of a row depends on nothing but the row.

use super::fast_scan::anisotropic::weight;

/// Rounds at most; most rows take two or three.
const ROUNDS: usize = 10;

/// What rounding rows takes, kept from row to row.
pub(super) struct Shape {
    threshold: f64,
    order: Vec<usize>,
}

/// The places of a component, one down, the nearest, one up, and what each stands for.
pub(super) type Places<T> = [Option<(T, f32)>; 3];

impl Shape {
    pub(super) fn new(threshold: f32, dim: usize) -> Self {
        Shape { threshold: f64::from(threshold), order: (0..dim).collect() }
    }

    /// Moves `stored`, the nearest places of the components of `row`.
    pub(super) fn improve<T: Copy>(
        &mut self,
        row: &[f32],
        stored: &mut [T],
        places: impl Fn(&T) -> Places<T>,
    ) {
        let squared: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let weight = weight(self.threshold, squared, row.len());
        if weight <= 1.0 {
            return;
        }
        let places: Vec<Places<T>> = stored.iter().map(places).collect();
        let error = |d: usize, at: usize| Some(f64::from(row[d]) - f64::from(places[d][at]?.1));
        // A nearest place is always there.
        let mut now: Vec<(usize, f64)> = (0..row.len()).map(|d| (1, error(d, 1).unwrap_or(0.0))).collect();
        let mut along: f64 = row.iter().zip(&now).map(|(x, (_, e))| f64::from(*x) * e).sum();
        self.order.sort_unstable_by(|&a, &b| now[b].1.abs().total_cmp(&now[a].1.abs()).then(a.cmp(&b)));
        for _ in 0..ROUNDS {
            let mut changed = false;
            for &d in &self.order {
                let (at, old) = now[d];
                let mut least = 0.0;
                for other in (0..3).filter(|other| *other != at) {
                    let Some(new) = error(d, other) else { continue };
                    let moved = along + (new - old) * f64::from(row[d]);
                    let parallel = (moved * moved - along * along) / squared;
                    let loss = weight * parallel + (new * new - old * old - parallel);
                    if parallel <= 0.0 && loss < least {
                        (least, now[d], changed) = (loss, (other, new), true);
                    }
                }
                along += (now[d].1 - old) * f64::from(row[d]);
            }
            if !changed {
                break;
            }
        }
        for ((stored, places), (at, _)) in stored.iter_mut().zip(&places).zip(now) {
            if let Some((place, _)) = places[at] {
                *stored = place;
            }
        }
    }
}
