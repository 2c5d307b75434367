//! The builder: the parameters of the ScaNN layer under their names, and the steps of ScaNN's own builder.
//!
//! One builder serves both. The layer's parameters are the fields of a [`Tree`] and a [`ScoreAh`] that it always has;
//! the steps replace these as a whole. What is said last counts.

use super::Retriever;
use super::plan::{AutopilotMode, Plan, Quantize, Reduction, Reorder, ScoreAh, Scoring, Tree, UpperTree};
use crate::{Error, Metric, Result, Store};
use redb::backends::InMemoryBackend;
use std::path::Path;

/// What a retriever is to be made as. Without a word it is what the ScaNN layer is: inner products, 100 lists of which
/// 10 are searched, codes of half a byte for 2 components, k = 10, and nothing is scored again.
///
/// ```
/// # use vellum::{Metric, Retriever, ScoreAh, Tree, Quantize};
/// let layer = Retriever::builder()
///     .distance_measure(Metric::Cosine)
///     .num_leaves(4)
///     .num_leaves_to_search(2)
///     .num_reordering_candidates(20)
///     .in_memory()?;
/// let scann = Retriever::builder()
///     .tree(Tree { num_leaves: 4, num_leaves_to_search: 2, soar: true, ..Tree::default() })
///     .score_ah(ScoreAh { anisotropic_quantization_threshold: Some(0.2), ..ScoreAh::default() })
///     .reorder(20, Quantize::Bfloat16)
///     .in_memory()?;
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RetrieverBuilder {
    plan: Plan,
    name: String,
    /// What an autopilot would have had to choose.
    chosen: Option<&'static str>,
}

impl RetrieverBuilder {
    pub(super) fn new() -> Self {
        RetrieverBuilder { plan: Plan::default(), name: "retriever".into(), chosen: None }
    }

    /// How many are retrieved when nobody says. Default 10.
    pub fn k(mut self, k: usize) -> Self {
        self.plan.k = k;
        self
    }

    /// What is near: [`Metric::InnerProduct`] (the default), [`Metric::L2`], [`Metric::Cosine`]; with
    /// [`score_brute_force`](Self::score_brute_force) of f32 any other.
    pub fn distance_measure(mut self, measure: Metric) -> Self {
        self.plan.measure = measure;
        self
    }

    /// The name of the index in its store, 1 to 127 bytes. Default `retriever`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether batches are searched on all threads of the store's pool, or on one. The answers are the same. Default
    /// true.
    pub fn parallelize_batch_searches(mut self, parallel: bool) -> Self {
        self.plan.parallelize_batch_searches = parallel;
        self
    }

    /// [`Tree::num_leaves`]. Default 100.
    pub fn num_leaves(self, num_leaves: usize) -> Self {
        self.with_tree("num_leaves", |tree| tree.num_leaves = num_leaves)
    }

    /// [`Tree::num_leaves_to_search`]. Default 10.
    pub fn num_leaves_to_search(self, leaves: usize) -> Self {
        self.with_tree("num_leaves_to_search", |tree| tree.num_leaves_to_search = leaves)
    }

    /// [`Tree::training_iterations`]. Default 12.
    pub fn training_iterations(self, iterations: usize) -> Self {
        self.with_tree("training_iterations", |tree| tree.training_iterations = iterations)
    }

    fn with_tree(mut self, name: &'static str, set: impl FnOnce(&mut Tree)) -> Self {
        set(self.plan.tree.get_or_insert_default());
        self.chosen = Some(name);
        self
    }

    /// [`ScoreAh::dimensions_per_block`]. Default 2.
    pub fn dimensions_per_block(mut self, dimensions: usize) -> Self {
        let ah = match self.plan.scoring {
            Scoring::Ah(ah) => ah,
            Scoring::BruteForce(_) => ScoreAh::default(),
        };
        self.plan.scoring = Scoring::Ah(ScoreAh { dimensions_per_block: dimensions, ..ah });
        self.chosen = Some("dimensions_per_block");
        self
    }

    /// So many of the best by their codes are scored again, on vectors that are kept for it in f32. By default nothing
    /// is, and no vectors are kept. Retrieving more than that scores as many as are retrieved.
    pub fn num_reordering_candidates(self, candidates: usize) -> Self {
        self.reorder(candidates, Quantize::Float32)
    }

    /// The same with vectors kept in a form of choice.
    pub fn reorder(mut self, candidates: usize, rows: Quantize) -> Self {
        self.plan.reorder = Some(Reorder { candidates, rows });
        self.chosen = Some("reorder");
        self
    }

    /// The rows that are scored again are rounded so that errors along them are small, which products feel: ScaNN's
    /// `anisotropic_quantization_threshold` of `reorder`, [`IndexSpec::with_kept_threshold`](crate::IndexSpec::with_kept_threshold).
    /// Takes f16, bf16 or int8, and a product as measure.
    pub fn reorder_threshold(mut self, threshold: f32) -> Self {
        self.plan.reorder_threshold = Some(threshold);
        self
    }

    /// How vectors are partitioned, all at once.
    pub fn tree(self, tree: Tree) -> Self {
        self.with_tree("tree", |current| *current = tree)
    }

    /// [`Tree::upper`]: the tree's leaves are found by way of another. After [`tree`](Self::tree), which sets all at once.
    pub fn upper_tree(self, upper: UpperTree) -> Self {
        self.with_tree("upper_tree", |tree| tree.upper = Some(upper))
    }

    /// No partitioning: every search looks at every code.
    pub fn without_tree(mut self) -> Self {
        self.plan.tree = None;
        self.chosen = Some("without_tree");
        self
    }

    /// Scores codes by asymmetric hashing, all its parameters at once; the default.
    pub fn score_ah(mut self, ah: ScoreAh) -> Self {
        self.plan.scoring = Scoring::Ah(ah);
        self.chosen = Some("score_ah");
        self
    }

    /// Scores the vectors themselves, in f32 exactly.
    pub fn score_brute_force(mut self, quantize: Quantize) -> Self {
        self.plan.scoring = Scoring::BruteForce(quantize);
        self.chosen = Some("score_brute_force");
        self
    }

    /// Lists and codes are of so many main directions of the vectors; candidates are scored again on whole vectors.
    pub fn pca(mut self, dim: usize) -> Self {
        self.plan.reduction = Some(Reduction::Pca(dim));
        self
    }

    /// The same with as many directions as vectors vary along by `significance` of all that they vary, but at most `truncation`
    /// of their components. Counted when vectors are indexed, over 100,000 of them at most, and again by [`Retriever::rebalance`].
    /// ScaNN's are 0.8 and 0.6.
    pub fn pca_significance(mut self, significance: f32, truncation: f32) -> Self {
        self.plan.reduction = Some(Reduction::PcaShare { share: significance, most: truncation, dim: 0 });
        self
    }

    /// Lists and codes are of the first so many components, as suits embeddings that were trained for it (Matryoshka);
    /// candidates are scored again on whole vectors.
    pub fn truncate(mut self, dim: usize) -> Self {
        self.plan.reduction = Some(Reduction::Truncate(dim));
        self
    }

    /// The same with as many components, from the first on, as hold `significance` of the sum of the vectors' squares; counted
    /// as [`pca_significance`](Self::pca_significance) is.
    pub fn truncate_significance(mut self, significance: f32) -> Self {
        self.plan.reduction = Some(Reduction::TruncateShare { share: significance, dim: 0 });
        self
    }

    /// When the [`autopilot`](Self::autopilot) chooses. Default [`AutopilotMode::Once`].
    pub fn autopilot_mode(mut self, mode: AutopilotMode) -> Self {
        self.plan.autopilot_mode = mode;
        self
    }

    /// Chooses tree, scoring and candidates from the number of rows, by ScaNN's formulas: brute force while there are
    /// few. What is scored exactly is stored as `quantize` says. [`Retriever::rebalance`] chooses anew.
    ///
    /// Refused together with what it chooses.
    pub fn autopilot(mut self, quantize: Quantize) -> Self {
        self.plan.autopilot = Some(quantize);
        self
    }

    /// A retriever in `store`, in which nothing changes before [`Retriever::index`].
    ///
    /// # Errors
    /// [`Error::IndexExists`] where the store has an index of that name ([`Retriever::open`] is for a retriever that is
    /// there); [`Error::Parameter`] for a value of 0 or one that does not go with the others; [`Error::IndexName`].
    pub fn build(self, store: &Store) -> Result<Retriever> {
        self.plan.check()?;
        if let (Some(_), Some(chosen)) = (self.plan.autopilot, self.chosen) {
            let what = format!("chooses by itself, and {chosen} was chosen already");
            return Err(Error::Parameter { name: "autopilot", what });
        }
        // Rebuilding needs a second name, longer by a byte.
        if self.name.is_empty() || self.name.len() > 127 {
            return Err(Error::IndexName { name: self.name });
        }
        if store.begin_read()?.indexes()?.contains(&self.name) {
            return Err(Error::IndexExists { name: self.name });
        }
        Ok(Retriever::new(store.clone(), self.name, self.plan))
    }

    /// A retriever in a new store in a new file.
    ///
    /// # Errors
    /// As [`Store::create`] and [`build`](Self::build).
    pub fn create(self, path: impl AsRef<Path>) -> Result<Retriever> {
        self.plan.check()?;
        self.build(&Store::create(path)?)
    }

    /// A retriever in a store in memory, which is gone with it.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn in_memory(self) -> Result<Retriever> {
        self.build(&Store::builder().open_backend(|| Ok(InMemoryBackend::new()))?)
    }
}
