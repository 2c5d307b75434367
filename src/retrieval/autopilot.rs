//! Autopilot: the settings of an index from the number of its rows, by the formulas of ScaNN's.
//!
//! ```text
//! near     ⌈max(2k, 100·√k)⌉                                        candidates to score again
//! leaf     max(⌈4·32 KiB / dim⌉, 200)                               rows of a list: four times the first cache
//! trees    min(rows / leaf, 32 MiB / 4·dim, √(60·32·2e9 / dim / 200))   lists: centroids in the last cache, training in time
//! search   ⌈42·2^log10(trees / 42)⌉                                 lists to search
//!
//! rows < max(2·near, 42·leaf)     brute force
//! else                            trees lists, blocks of 2 components, near candidates again
//! ```
//! Errors along a vector weigh more (threshold 0.2) where the measure is a product. ScaNN's cache sizes are constants,
//! so that the same data gives the same index everywhere; here, too.

use super::plan::{Plan, Quantize, Reorder, ScoreAh, Scoring, Tree};
use crate::kernel::Similarity;

const L1_BYTES: usize = 32 << 10;
const L3_BYTES: usize = 32 << 20;
/// Below so many lists partitioning does not pay.
const LISTS_MIN: usize = 42;

impl Plan {
    /// The plan for `rows` vectors of `dim` components: this one, unless it leaves that open.
    pub(super) fn settled(&self, rows: u64, dim: usize) -> Plan {
        let Some(quantize) = self.autopilot else { return self.clone() };
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let near = (2.0 * self.k as f64).max(100.0 * (self.k as f64).sqrt()).ceil() as usize;
        let leaf = (4 * L1_BYTES).div_ceil(dim.max(1)).max(200);
        if rows < near.saturating_mul(2).max(LISTS_MIN * leaf) {
            let scoring = Scoring::BruteForce(quantize);
            return Plan { tree: None, scoring, reorder: None, ..self.clone() };
        }
        let lists = lists(rows, dim, leaf);
        Plan {
            tree: Some(Tree {
                num_leaves: lists,
                num_leaves_to_search: leaves_to_search(lists),
                ..Tree::default()
            }),
            scoring: Scoring::Ah(ScoreAh {
                anisotropic_quantization_threshold: (self.measure.similarity() == Similarity::Dot)
                    .then_some(0.2),
                ..ScoreAh::default()
            }),
            reorder: Some(Reorder { candidates: near, rows: quantize }),
            ..self.clone()
        }
    }
}

fn lists(rows: usize, dim: usize, leaf: usize) -> usize {
    let in_time = (60.0 * 32.0 * 2e9 / dim as f64 / 200.0).sqrt() as usize;
    (rows / leaf).min(L3_BYTES / (4 * dim)).min(in_time).max(1)
}

fn leaves_to_search(lists: usize) -> usize {
    let least = LISTS_MIN as f64;
    ((least * (lists as f64 / least).log10().exp2()).ceil() as usize).clamp(1, lists)
}

/// What the rows of an autopilot are kept as unless it is told.
impl Default for Quantize {
    fn default() -> Self {
        Quantize::Float32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metric;

    fn plan(measure: Metric) -> Plan {
        Plan { measure, autopilot: Some(Quantize::Bfloat16), ..Plan::default() }
    }

    #[test]
    fn few_rows_are_searched_by_brute_force() {
        // 42 lists of 1,024 rows.
        let settled = plan(Metric::L2).settled(43_007, 128);
        assert_eq!((settled.tree, settled.reorder), (None, None));
        assert_eq!(settled.scoring, Scoring::BruteForce(Quantize::Bfloat16));
    }

    #[test]
    fn many_rows_get_lists_and_candidates() {
        let settled = plan(Metric::InnerProduct).settled(43_008, 128);
        let tree = settled.tree.unwrap();
        assert_eq!((tree.num_leaves, tree.num_leaves_to_search), (42, 42));
        // ⌈100·√10⌉
        assert_eq!(settled.reorder, Some(Reorder { candidates: 317, rows: Quantize::Bfloat16 }));
        let threshold = |plan: &Plan| match plan.scoring {
            Scoring::Ah(ah) => ah.anisotropic_quantization_threshold,
            Scoring::BruteForce(_) => panic!("{plan:?}"),
        };
        assert_eq!(threshold(&plan(Metric::InnerProduct).settled(1_000_000, 128)), Some(0.2));
        assert_eq!(threshold(&plan(Metric::L2).settled(1_000_000, 128)), None);
        // 420 lists: 42·2^1 of them.
        assert_eq!(leaves_to_search(420), 84);
        let tree = plan(Metric::L2).settled(1_000_000_000, 128).tree.unwrap();
        assert_eq!(tree.num_leaves, 12_247, "what trains in time");
    }

    #[test]
    fn a_plan_that_is_made_stays() {
        let made = Plan::default();
        assert_eq!(made.settled(7, 3), made);
    }
}
