//! The autopilot of retrievers: the settings of an index from the number of its rows, by the formulas of ScaNN's, which
//! stand in [`crate::autopilot`]. Errors along a vector weigh more (threshold 0.2) where the measure is a product.

use super::plan::{Plan, Quantize, Reorder, ScoreAh, Scoring, Tree};
use crate::autopilot::{candidates, lists, lists_to_search, pays_from};
use crate::kernel::Similarity;

impl Plan {
    /// The plan for `rows` vectors of `dim` components: this one, unless it leaves that open.
    pub(super) fn settled(&self, rows: u64, dim: usize) -> Plan {
        let Some(quantize) = self.autopilot else { return self.clone() };
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let near = candidates(self.k);
        if rows < pays_from(dim, self.k) {
            let scoring = Scoring::BruteForce(quantize);
            return Plan { tree: None, scoring, reorder: None, ..self.clone() };
        }
        let lists = lists(rows, dim);
        Plan {
            tree: Some(Tree {
                num_leaves: lists,
                num_leaves_to_search: lists_to_search(lists),
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
        assert_eq!(lists_to_search(420), 84);
        let tree = plan(Metric::L2).settled(1_000_000_000, 128).tree.unwrap();
        assert_eq!(tree.num_leaves, 12_247, "what trains in time");
    }

    #[test]
    fn a_plan_that_is_made_stays() {
        let made = Plan::default();
        assert_eq!(made.settled(7, 3), made);
    }
}
