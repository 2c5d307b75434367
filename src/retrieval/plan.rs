//! What a retriever is made as: the parameters of the ScaNN layer and of ScaNN's builder, how they become the
//! specification, the training and the search defaults of an index, and how they are stored.
//!
//! ```text
//! tree               IVFn, spherical k-means for products; soar is _SOARλ, avq _AVQη   no tree: one list
//! score_ah           PQmx4fs, m = ⌈dim / dimensions_per_block⌉, of residuals (r) iff there is a tree and the measure is
//!                    a product; a rest of dim / dimensions_per_block is filled up with zeros (Pad)
//! its threshold      PQmx4fs_aqT                its hash of 8 bits   PQm
//! score_brute_force  Flat, SQfp16, SQbf16, SQ8
//! reorder            RFlat, RF16, RBF16, RSQ8, and rerank; its threshold RSQ8_aqT
//! pca, truncate      PCAd, Truncd in front
//! ```
//! Stored as text in the index's note, a line `name value` each: readable by any later version, whatever it adds.

use super::identifier::{KINDS, Kind};
use crate::kernel::Similarity;
use crate::math::transform::spectrum;
use crate::spec::NLIST_MAX;
use crate::{
    ClusteringParams, Coarse, EigenPower, Encoding, Error, FastScan, IndexSpec, Init, KeptRows, Metric,
    ProductQuantizer, Real, Result, Rows, ScalarBits, ScalarQuantizer, ScalarSteps, SearchParams,
    TrainParams, TransformKind,
};

/// How vectors are partitioned: ScaNN's `tree`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tree {
    /// Lists. Default 100.
    pub num_leaves: usize,
    /// Lists that a query looks at; more than there are means all. Default 10.
    pub num_leaves_to_search: usize,
    /// Rows that training looks at, at most. Default 100,000.
    pub training_sample_size: usize,
    /// Iterations of the k-means. Default 12.
    pub training_iterations: usize,
    /// Centroids are scaled to length 1: [`ClusteringParams::spherical`]. Default `None`: for dot product and cosine. `Some(false)` is refused
    /// for cosine.
    pub spherical: Option<bool>,
    /// The first centroids are rows chosen at random; if not, by k-means++. Default true.
    pub random_init: bool,
    /// Each vector stands in two lists: [`IndexSpec::with_spill`]. Default false.
    pub soar: bool,
    /// How much more an error along the first residual costs when the second list is chosen:
    /// [`IndexSpec::with_spill_strength`]. Default 1.5.
    pub soar_lambda: f32,
    /// Centroids that weigh errors along vectors so many times as those across them: [`IndexSpec::with_avq`]. Takes a
    /// product as measure. Default `None`: means.
    pub avq: Option<f32>,
    /// Training gives the centroid of a list of fewer rows to a large list, and never asks for more than lists have in the
    /// mean: [`ClusteringParams::min_cluster_rows`]. Default 50.
    pub min_partition_size: usize,
    /// After so many changes [`upsert`](crate::Retriever::upsert) and [`delete`](crate::Retriever::delete) see to the
    /// lists, in their own transaction: [`Retriever::maintain`](crate::Retriever::maintain). Default `None`: never.
    pub incremental_threshold: Option<Growth>,
    /// Leaves are found by way of another tree. Default `None`. Not with [`avq`](Self::avq).
    pub upper: Option<UpperTree>,
}

/// Leaves belong to leaves of an upper tree, and a query compares itself with those of the nearest only: ScaNN's `upper_tree`,
/// [`Coarse::Tree`]. For very many leaves; from 65,536 on there is one of itself, of 2·√`num_leaves`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperTree {
    /// Its leaves, 1 to those of the tree.
    pub num_leaves: usize,
    /// Of them those that a query looks into, [`QuantizerParams::SuperClusters`](crate::QuantizerParams::SuperClusters), so that no leaf of another is searched. A search that says itself how
    /// to look, or what recall it wants, does not know it. `None`: as many as the leaves to search need.
    pub num_leaves_to_search: Option<usize>,
}

/// Vectors that were upserted or deleted since lists were made or seen to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Growth {
    /// So many, 1 or more.
    Vectors(u64),
    /// So many times those that there were, more than 0.
    Fraction(f32),
}

impl Growth {
    fn is_reached(self, changed: u64, rows: u64) -> bool {
        match self {
            Growth::Vectors(vectors) => changed >= vectors,
            Growth::Fraction(fraction) => changed as f64 >= f64::from(fraction) * rows.max(1) as f64,
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            num_leaves: 100,
            num_leaves_to_search: 10,
            training_sample_size: 100_000,
            training_iterations: 12,
            spherical: None,
            random_init: true,
            soar: false,
            soar_lambda: 1.5,
            avq: None,
            min_partition_size: 50,
            incremental_threshold: None,
            upper: None,
        }
    }
}

/// How codes are made and scored: ScaNN's `score_ah`, asymmetric hashing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreAh {
    /// Components of a block, each of which becomes the number of the nearest of its centres. Default 2.
    pub dimensions_per_block: usize,
    /// Codes are chosen so that errors along the vector weigh more, as for a product of this size they matter more:
    /// [`FastScan::anisotropic`]. 0.2 suits vectors of length 1. Takes a product as measure and [`Hash::Lut16`]. Default `None`.
    pub anisotropic_quantization_threshold: Option<f32>,
    /// Centres of a block. Default [`Hash::Lut16`].
    pub hash: Hash,
    /// Codes are of what is left of a vector without its list's centroid. Default `None`: if there is a tree and the
    /// measure is dot product or cosine. `Some(true)` makes better codes for squared L2, too.
    pub residual_quantization: Option<bool>,
    /// Rows that training the codes looks at, at most. Default 100,000.
    pub training_sample_size: usize,
    /// Iterations of the k-means of each block. Default 10.
    pub training_iterations: usize,
}

impl Default for ScoreAh {
    fn default() -> Self {
        ScoreAh {
            dimensions_per_block: 2,
            anisotropic_quantization_threshold: None,
            hash: Hash::Lut16,
            residual_quantization: None,
            training_sample_size: 100_000,
            training_iterations: 10,
        }
    }
}

/// How many centres a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hash {
    /// 16: half a byte, scanned 32 vectors at a time.
    Lut16,
    /// 256: a byte.
    Lut256,
}

/// How the components of rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantize {
    /// f32, 4 bytes.
    Float32,
    /// IEEE half precision, 2 bytes.
    Float16,
    /// bfloat16, 2 bytes.
    Bfloat16,
    /// 8 bits: of a code between the least and the greatest value of the component, of a row that is kept between its own.
    Int8,
}

/// How entries of a list are scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scoring {
    Ah(ScoreAh),
    BruteForce(Quantize),
}

/// The best by their codes are scored again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reorder {
    pub(super) candidates: usize,
    pub(super) rows: Quantize,
}

/// Lists and codes are of fewer components.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reduction {
    Pca(usize),
    Truncate(usize),
    /// As many main directions as rows vary along by `share` of all that they vary, and at most `most` of the components:
    /// `dim` of them once rows have told, 0 before.
    PcaShare {
        share: f32,
        most: f32,
        dim: usize,
    },
    /// As many components from the first on as hold `share` of the rows' squares.
    TruncateShare {
        share: f32,
        dim: usize,
    },
}

impl Reduction {
    /// The same of these (prepared) rows.
    fn of_rows(self, rows: Rows<'_>) -> Result<Self> {
        Ok(match self {
            Reduction::PcaShare { share, most, .. } => {
                let dim_max = (f64::from(most) * rows.dim() as f64).ceil() as usize;
                let dim = enough(&spectrum(rows)?, share).clamp(1, dim_max.max(1));
                Reduction::PcaShare { share, most, dim }
            }
            Reduction::TruncateShare { share, .. } => {
                let mut squares = vec![0.0; rows.dim()];
                for row in rows.iter() {
                    squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                }
                Reduction::TruncateShare { share, dim: enough(&squares, share) }
            }
            number => number,
        })
    }
}

/// How many of the first `parts` are `share` of them all: 1 at least.
fn enough(parts: &[f64], share: f32) -> usize {
    let wanted = parts.iter().sum::<f64>() * f64::from(share);
    let mut sum = 0.0;
    let reached = parts.iter().position(|part| {
        sum += part;
        // A millionth for what sums are rounded by.
        sum >= wanted * (1.0 - 1e-6)
    });
    reached.map_or(parts.len(), |last| last + 1)
}

/// When an autopilot chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutopilotMode {
    /// At [`index`](crate::Retriever::index) and [`rebalance`](crate::Retriever::rebalance).
    #[default]
    Once,
    /// Also when half as many vectors have changed as there were: it trains all anew, in the transaction of the change.
    Online,
    /// Then, but lists are split and dissolved instead, unless there are to be lists where there were none, or none any
    /// more.
    OnlineIncremental,
}

/// All that a retriever is made as, but its name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) k: usize,
    pub(super) measure: Metric,
    pub(super) tree: Option<Tree>,
    pub(super) scoring: Scoring,
    pub(super) reorder: Option<Reorder>,
    /// Of rounding the rows that are scored again.
    pub(super) reorder_threshold: Option<f32>,
    pub(super) reduction: Option<Reduction>,
    pub(super) parallelize_batch_searches: bool,
    /// Tree, scoring and candidates follow from the number of rows; rows are stored so.
    pub(super) autopilot: Option<Quantize>,
    pub(super) autopilot_mode: AutopilotMode,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            k: 10,
            measure: Metric::InnerProduct,
            tree: Some(Tree::default()),
            scoring: Scoring::Ah(ScoreAh::default()),
            reorder: None,
            reorder_threshold: None,
            reduction: None,
            parallelize_batch_searches: true,
            autopilot: None,
            autopilot_mode: AutopilotMode::Once,
        }
    }
}

impl Plan {
    /// Refuses what no data could be indexed with. What depends on the dimension, the specification refuses.
    pub(super) fn check(&self) -> Result<()> {
        positive("k", self.k)?;
        if let Some(tree) = &self.tree {
            positive("num_leaves", tree.num_leaves)?;
            positive("num_leaves_to_search", tree.num_leaves_to_search)?;
            positive("training_sample_size", tree.training_sample_size)?;
            tree.check()?;
            if tree.num_leaves > NLIST_MAX {
                let what = format!("{}, at most {NLIST_MAX}", tree.num_leaves);
                return Err(Error::Parameter { name: "num_leaves", what });
            }
        }
        if let Some(reorder) = self.reorder {
            positive("num_reordering_candidates", reorder.candidates)?;
        }
        match self.reduction {
            Some(Reduction::Pca(dim)) => positive("pca", dim)?,
            Some(Reduction::Truncate(dim)) => positive("truncate", dim)?,
            Some(Reduction::PcaShare { share, most, .. }) => {
                part("pca_significance", share)?;
                part("pca_truncation", most)?;
            }
            Some(Reduction::TruncateShare { share, .. }) => part("truncate_significance", share)?,
            None => {}
        }
        if let Some(threshold) = self.reorder_threshold {
            more_than(0.0, "reorder_threshold", threshold)?;
            if self.reorder.is_none() && self.autopilot.is_none() {
                let what = "takes reordering candidates".into();
                return Err(Error::Parameter { name: "reorder_threshold", what });
            }
        }
        if self.autopilot.is_none() && self.autopilot_mode != AutopilotMode::Once {
            let what = "says when an autopilot chooses, and there is none".into();
            return Err(Error::Parameter { name: "autopilot_mode", what });
        }
        self.check_spherical()?;
        match self.scoring {
            Scoring::Ah(ah) => self.check_ah(&ah),
            Scoring::BruteForce(_) => Ok(()),
        }
    }

    fn check_spherical(&self) -> Result<()> {
        let Some(Tree { spherical, avq, .. }) = self.tree else { return Ok(()) };
        let params = ClusteringParams { spherical, ..ClusteringParams::default() };
        params.spherical_for(self.measure, avq.is_some()).map(drop)
    }

    /// Leaves of the upper tree that a search looks into, if that is not left to it.
    pub(super) fn supers_to_search(&self) -> Option<usize> {
        self.tree?.upper?.num_leaves_to_search
    }

    fn check_ah(&self, ah: &ScoreAh) -> Result<()> {
        positive("dimensions_per_block", ah.dimensions_per_block)?;
        positive("training_sample_size", ah.training_sample_size)?;
        let Some(threshold) = ah.anisotropic_quantization_threshold else { return Ok(()) };
        let bad = |what| Err(Error::Parameter { name: "anisotropic_quantization_threshold", what });
        if !threshold.is_finite() || threshold <= 0.0 {
            return bad(format!("{threshold}, expected more than 0"));
        }
        if ah.hash != Hash::Lut16 {
            return bad("goes with 16 centres a block (Lut16) only".into());
        }
        Ok(())
    }

    /// The index of vectors of `dim` components.
    pub(super) fn spec(&self, dim: usize, kind: Kind) -> IndexSpec {
        let mut transforms = Vec::new();
        let mut inner = dim;
        // What rows have not told yet, nobody can do.
        match self.reduction {
            Some(Reduction::PcaShare { dim: 0, .. } | Reduction::TruncateShare { dim: 0, .. }) => {}
            Some(Reduction::Pca(dim_out) | Reduction::PcaShare { dim: dim_out, .. }) => {
                transforms.push(TransformKind::Pca { dim_out, power: EigenPower::NONE, rotate: false });
                inner = dim_out;
            }
            Some(Reduction::Truncate(dim_out) | Reduction::TruncateShare { dim: dim_out, .. }) => {
                transforms.push(TransformKind::Truncate { dim_out });
                inner = dim_out;
            }
            None => {}
        }
        let encoding = match self.scoring {
            Scoring::Ah(ah) => {
                let block = ah.dimensions_per_block.min(inner.max(1));
                let blocks = inner.div_ceil(block);
                if blocks * block != inner {
                    transforms.push(TransformKind::Pad { dim_out: blocks * block });
                }
                self.hashed(&ah, blocks)
            }
            Scoring::BruteForce(quantize) => quantize.encoding(),
        };
        let bare = self.tree.is_none() && transforms.is_empty() && !encoding.is_learned();
        let spec = match bare {
            true => IndexSpec::flat(dim, self.measure),
            false => IndexSpec::ivf(dim, self.measure, self.tree.map_or(1, |tree| tree.num_leaves)),
        };
        let spec = spec.with_transforms(transforms).with_encoding(encoding).with_keys(kind.is_key());
        // Numbers that are none were refused.
        let real = |value: Option<f32>| value.and_then(Real::new);
        let soar = self.tree.filter(|tree| tree.soar);
        let spec = match real(soar.map(|tree| tree.soar_lambda)) {
            Some(lambda) => spec.with_spill_strength(lambda),
            None => spec,
        };
        let spec = match self.tree.and_then(|tree| tree.upper) {
            Some(upper) => spec.with_coarse(Coarse::Tree(upper.num_leaves)),
            None => spec,
        };
        let spec = match real(self.tree.and_then(|tree| tree.avq)) {
            Some(eta) => spec.with_avq(eta),
            None => spec,
        };
        match (self.reorder, real(self.reorder_threshold)) {
            (Some(reorder), None) => spec.with_kept_rows(reorder.rows.kept()),
            (Some(reorder), Some(threshold)) => {
                spec.with_kept_rows(reorder.rows.kept()).with_kept_threshold(threshold)
            }
            (None, _) => spec,
        }
    }

    fn hashed(&self, ah: &ScoreAh, blocks: usize) -> Encoding {
        let product = self.measure.similarity() == Similarity::Dot;
        let residual = ah.residual_quantization.unwrap_or(self.tree.is_some() && product);
        match ah.hash {
            Hash::Lut16 => Encoding::FastScan(FastScan {
                // So many the specification refuses.
                subspaces: u16::try_from(blocks).unwrap_or(u16::MAX),
                residual,
                anisotropic: ah.anisotropic_quantization_threshold.and_then(Real::new),
            }),
            Hash::Lut256 => Encoding::Product(ProductQuantizer {
                residual,
                polysemous: false,
                ..ProductQuantizer::new(blocks)
            }),
        }
    }

    /// How the index is trained.
    pub(super) fn training(&self) -> TrainParams {
        let tree = self.tree.unwrap_or_default();
        let ah = match self.scoring {
            Scoring::Ah(ah) => Some(ah),
            Scoring::BruteForce(_) => None,
        };
        let (lists, codes) = (tree.training_sample_size, ah.map_or(0, |ah| ah.training_sample_size));
        // The sample is all that bounds the k-means, unless the codes want a larger one.
        let leaves = self.tree.map_or(1, |tree| tree.num_leaves);
        let per_list = if codes > lists { (lists / leaves).max(1) } else { lists };
        TrainParams {
            clustering: ClusteringParams {
                niter: tree.training_iterations,
                spherical: tree.spherical,
                init: if tree.random_init { Init::Random } else { Init::KMeansPlusPlus },
                max_points_per_centroid: per_list,
                min_cluster_rows: tree.min_partition_size,
                ..ClusteringParams::default()
            },
            sample_rows: Some(lists.max(codes)),
            // How many leaves are searched is said in numbers here.
            calibration_queries: Some(0),
            code_rows: ah.map(|ah| ah.training_sample_size),
            code_iterations: ah.map(|ah| ah.training_iterations),
            initial: None,
        }
    }

    /// How the index is searched unless a search says otherwise.
    pub(super) fn search_defaults(&self) -> SearchParams {
        let params = SearchParams::new().nprobe(self.tree.map_or(1, |tree| tree.num_leaves_to_search));
        match self.reorder {
            Some(reorder) => params.rerank(reorder.candidates),
            None => params,
        }
    }
}

impl Tree {
    fn check(&self) -> Result<()> {
        if !self.soar_lambda.is_finite() || self.soar_lambda < 0.0 {
            let what = format!("{}, expected 0 or more", self.soar_lambda);
            return Err(Error::Parameter { name: "soar_lambda", what });
        }
        if let Some(eta) = self.avq.filter(|eta| !eta.is_finite() || *eta < 1.0) {
            return Err(Error::Parameter { name: "avq", what: format!("{eta}, expected 1 or more") });
        }
        self.upper.map_or(Ok(()), |upper| self.check_upper(upper))?;
        match self.incremental_threshold {
            Some(Growth::Vectors(vectors)) => positive("incremental_threshold", vectors as usize),
            Some(Growth::Fraction(fraction)) => more_than(0.0, "incremental_threshold", fraction),
            None => Ok(()),
        }
    }
}

impl Tree {
    fn check_upper(&self, UpperTree { num_leaves, num_leaves_to_search }: UpperTree) -> Result<()> {
        let bad = |what| Err(Error::Parameter { name: "upper_tree", what });
        if num_leaves == 0 || num_leaves > self.num_leaves {
            return bad(format!("{num_leaves} leaves, a tree of {} allows 1 to as many", self.num_leaves));
        }
        if num_leaves_to_search == Some(0) {
            return bad("0 leaves to search, expected at least 1".into());
        }
        if self.avq.is_some() {
            return bad("is one of directions, and anisotropic centroids are of any length".into());
        }
        Ok(())
    }
}

/// Rows that tell how many components are enough, at most.
const TELLING_ROWS: usize = 100_000;

impl Plan {
    /// True if it is for rows to tell how many components lists and codes are of.
    pub(super) fn asks_rows(&self) -> bool {
        matches!(self.reduction, Some(Reduction::PcaShare { .. } | Reduction::TruncateShare { .. }))
    }

    /// The same once `rows` have told that.
    pub(super) fn told(self, rows: Rows<'_>) -> Result<Plan> {
        let Some(reduction) = self.reduction.filter(|_| self.asks_rows() && !rows.is_empty()) else {
            return Ok(self);
        };
        let step = rows.len().div_ceil(TELLING_ROWS);
        let mut some: Vec<f32> = rows.iter().step_by(step).flatten().copied().collect();
        let dim = rows.dim();
        crate::metric::check_norms(rows)?;
        if self.measure == Metric::Cosine {
            crate::metric::normalise(&mut some, dim)?;
        }
        Ok(Plan { reduction: Some(reduction.of_rows(Rows::of(&some, dim))?), ..self })
    }

    /// After which changes the lists are seen to.
    pub(super) fn growth(&self) -> Option<Growth> {
        match (self.autopilot, self.autopilot_mode) {
            (Some(_), AutopilotMode::Online | AutopilotMode::OnlineIncremental) => {
                Some(Growth::Fraction(0.5))
            }
            _ => self.tree?.incremental_threshold,
        }
    }

    /// How an index of so many lists is searched: the same share of them as of those that it was to have.
    pub(super) fn search_defaults_of(&self, lists: usize) -> SearchParams {
        let Some(tree) = self.tree else { return self.search_defaults().nprobe(lists) };
        let share = tree.num_leaves_to_search as f64 / tree.num_leaves as f64;
        self.search_defaults().nprobe(((share * lists as f64).ceil() as usize).max(1))
    }
}

/// Refuses what is no share.
fn part(name: &'static str, value: f32) -> Result<()> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(()),
        false => Err(Error::Parameter { name, what: format!("{value}, expected more than 0 and at most 1") }),
    }
}

fn more_than(least: f32, name: &'static str, value: f32) -> Result<()> {
    match value.is_finite() && value > least {
        true => Ok(()),
        false => Err(Error::Parameter { name, what: format!("{value}, expected more than {least}") }),
    }
}

impl Quantize {
    fn encoding(self) -> Encoding {
        match self {
            Quantize::Float32 => Encoding::Flat,
            Quantize::Float16 => Encoding::F16,
            Quantize::Bfloat16 => Encoding::BF16,
            Quantize::Int8 => Encoding::Scalar(ScalarQuantizer::Steps(ScalarSteps::new(ScalarBits::Eight))),
        }
    }

    fn kept(self) -> KeptRows {
        match self {
            Quantize::Float32 => KeptRows::F32,
            Quantize::Float16 => KeptRows::F16,
            Quantize::Bfloat16 => KeptRows::BF16,
            Quantize::Int8 => KeptRows::SQ8,
        }
    }
}

fn positive(name: &'static str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::Parameter { name, what: "0, expected at least 1".into() }),
        _ => Ok(()),
    }
}

// ------------------------------------------------------------------ the stored form

/// The first line of every note of a retriever.
const HEAD: &str = "retriever 1";

/// Names of what is stored.
const QUANTIZE: [(Quantize, &str); 4] = [
    (Quantize::Float32, "float32"),
    (Quantize::Float16, "float16"),
    (Quantize::Bfloat16, "bfloat16"),
    (Quantize::Int8, "int8"),
];
const MODES: [(AutopilotMode, &str); 3] = [
    (AutopilotMode::Once, "once"),
    (AutopilotMode::Online, "online"),
    (AutopilotMode::OnlineIncremental, "online_incremental"),
];
const HASHES: [(Hash, &str); 2] = [(Hash::Lut16, "lut16"), (Hash::Lut256, "lut256")];
/// What is not there.
const NONE: &str = "none";

fn name_of<T: PartialEq + Copy>(names: &[(T, &'static str)], value: T) -> &'static str {
    names.iter().find(|(named, _)| *named == value).map_or(NONE, |(_, name)| name)
}

fn named<T: Copy>(names: &[(T, &'static str)], name: &str) -> Option<T> {
    names.iter().find(|(_, known)| *known == name).map(|(value, _)| *value)
}

/// What the note of a retriever says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) plan: Plan,
    pub(super) kind: Kind,
    pub(super) tended: Tended,
}

/// When lists were made and seen to, in vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tended {
    /// There were so many when the index was trained.
    pub(super) trained: u64,
    /// And when its lists were last seen to, or trained.
    pub(super) rows: u64,
    /// So many were upserted or deleted since.
    pub(super) changed: u64,
}

impl Tended {
    /// Just trained.
    pub(super) fn of_rows(rows: u64) -> Self {
        Tended { trained: rows, rows, changed: 0 }
    }
}

impl Stored {
    /// The lists are to be seen to.
    pub(super) fn is_due(&self) -> bool {
        let reached = |growth: Growth| growth.is_reached(self.tended.changed, self.tended.rows);
        self.plan.growth().is_some_and(reached)
    }
}

impl Stored {
    pub(super) fn encode(&self) -> Vec<u8> {
        let plan = &self.plan;
        let Plan { k, measure, tree, scoring, reorder, reduction, .. } = plan;
        let Plan { reorder_threshold, parallelize_batch_searches, autopilot, autopilot_mode, .. } = plan;
        let mut lines =
            vec![HEAD.to_string(), format!("identifiers {}", name_of(&KINDS, self.kind)), format!("k {k}")];
        lines.push(format!("distance_measure {measure}"));
        if let Some(tree) = tree {
            lines.push(format!("num_leaves {}", tree.num_leaves));
            lines.push(format!("num_leaves_to_search {}", tree.num_leaves_to_search));
            lines.push(format!("training_sample_size {}", tree.training_sample_size));
            lines.push(format!("training_iterations {}", tree.training_iterations));
            lines.extend(tree.spherical.map(|spherical| format!("spherical {spherical}")));
            lines.push(format!("random_init {}", tree.random_init));
            lines.push(format!("soar {}", tree.soar));
            lines.push(format!("soar_lambda {}", tree.soar_lambda));
            lines.push(format!("min_partition_size {}", tree.min_partition_size));
            lines.extend(tree.avq.map(|eta| format!("avq {eta}")));
            lines.extend(tree.upper.map(|upper| format!("upper_num_leaves {}", upper.num_leaves)));
            let to_search = tree.upper.and_then(|upper| upper.num_leaves_to_search);
            lines.extend(to_search.map(|leaves| format!("upper_num_leaves_to_search {leaves}")));
            lines.extend(tree.incremental_threshold.map(|growth| match growth {
                Growth::Vectors(vectors) => format!("incremental_threshold vectors {vectors}"),
                Growth::Fraction(fraction) => format!("incremental_threshold fraction {fraction}"),
            }));
        }
        match scoring {
            Scoring::BruteForce(quantize) => {
                lines.push(format!("score_brute_force {}", name_of(&QUANTIZE, *quantize)));
            }
            Scoring::Ah(ah) => {
                lines.push(format!("dimensions_per_block {}", ah.dimensions_per_block));
                lines.push(format!("hash {}", name_of(&HASHES, ah.hash)));
                lines.push(format!("ah_training_sample_size {}", ah.training_sample_size));
                lines.push(format!("ah_training_iterations {}", ah.training_iterations));
                if let Some(threshold) = ah.anisotropic_quantization_threshold {
                    lines.push(format!("anisotropic_quantization_threshold {threshold}"));
                }
                if let Some(residual) = ah.residual_quantization {
                    lines.push(format!("residual_quantization {residual}"));
                }
            }
        }
        if let Some(Reorder { candidates, rows }) = reorder {
            lines.push(format!("num_reordering_candidates {candidates}"));
            lines.push(format!("reordering_rows {}", name_of(&QUANTIZE, *rows)));
        }
        match reduction {
            Some(Reduction::Pca(dim)) => lines.push(format!("pca {dim}")),
            Some(Reduction::Truncate(dim)) => lines.push(format!("truncate {dim}")),
            Some(Reduction::PcaShare { share, most, dim }) => {
                lines.push(format!("pca_significance {share} {most} {dim}"));
            }
            Some(Reduction::TruncateShare { share, dim }) => {
                lines.push(format!("truncate_significance {share} {dim}"));
            }
            None => {}
        }
        lines.extend(reorder_threshold.map(|threshold| format!("reordering_threshold {threshold}")));
        if plan.growth().is_some() {
            let Tended { trained, rows, changed } = self.tended;
            lines.push(format!("tended {trained} {rows} {changed}"));
        }
        lines.push(format!("parallelize_batch_searches {parallelize_batch_searches}"));
        if let Some(quantize) = autopilot {
            lines.push(format!("autopilot {}", name_of(&QUANTIZE, *quantize)));
            lines.push(format!("autopilot_mode {}", name_of(&MODES, *autopilot_mode)));
        }
        (lines.join("\n") + "\n").into_bytes()
    }

    /// What `note` says; `Ok(None)` if it is no retriever's.
    ///
    /// # Errors
    /// The line that cannot be read.
    pub(super) fn decode(note: &[u8]) -> Result<Option<Self>, String> {
        let Ok(text) = std::str::from_utf8(note) else { return Ok(None) };
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Ok(None);
        }
        let (plan, tended) = (Plan { tree: None, ..Plan::default() }, Tended::default());
        let mut stored = Stored { plan, kind: Kind::Unsigned, tended };
        for line in lines {
            let read = line.split_once(' ').and_then(|(name, value)| stored.set(name, value));
            read.ok_or_else(|| format!("`{line}` in the note of a retriever"))?;
        }
        match stored.plan.check() {
            Ok(()) => Ok(Some(stored)),
            Err(e) => Err(e.to_string()),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let plan = &mut self.plan;
        match name {
            "identifiers" => self.kind = named(&KINDS, value)?,
            "k" => plan.k = value.parse().ok()?,
            "distance_measure" => plan.measure = value.parse().ok()?,
            "score_brute_force" => plan.scoring = Scoring::BruteForce(named(&QUANTIZE, value)?),
            "pca" => plan.reduction = Some(Reduction::Pca(value.parse().ok()?)),
            "truncate" => plan.reduction = Some(Reduction::Truncate(value.parse().ok()?)),
            "pca_significance" => {
                let [share, most, dim] = words(value)?;
                let (share, most) = (share.parse().ok()?, most.parse().ok()?);
                plan.reduction = Some(Reduction::PcaShare { share, most, dim: dim.parse().ok()? });
            }
            "truncate_significance" => {
                let [share, dim] = words(value)?;
                let (share, dim) = (share.parse().ok()?, dim.parse().ok()?);
                plan.reduction = Some(Reduction::TruncateShare { share, dim });
            }
            "reordering_threshold" => plan.reorder_threshold = Some(value.parse().ok()?),
            "tended" => {
                let [trained, rows, changed] = words(value)?;
                let (trained, rows) = (trained.parse().ok()?, rows.parse().ok()?);
                self.tended = Tended { trained, rows, changed: changed.parse().ok()? };
            }
            "autopilot_mode" => plan.autopilot_mode = named(&MODES, value)?,
            "parallelize_batch_searches" => plan.parallelize_batch_searches = value.parse().ok()?,
            "autopilot" => plan.autopilot = Some(named(&QUANTIZE, value)?),
            _ => {
                plan.set_tree(name, value)?;
                plan.set_scoring(name, value)?;
                plan.set_reorder(name, value)?;
            }
        }
        Some(())
    }
}

/// So many words.
fn words<const N: usize>(value: &str) -> Option<[&str; N]> {
    value.split(' ').collect::<Vec<_>>().try_into().ok()
}

impl Plan {
    fn set_tree(&mut self, name: &str, value: &str) -> Option<()> {
        let mut tree = self.tree.unwrap_or_default();
        match name {
            "num_leaves" => tree.num_leaves = value.parse().ok()?,
            "num_leaves_to_search" => tree.num_leaves_to_search = value.parse().ok()?,
            "training_sample_size" => tree.training_sample_size = value.parse().ok()?,
            "training_iterations" => tree.training_iterations = value.parse().ok()?,
            "spherical" => tree.spherical = Some(value.parse().ok()?),
            "random_init" => tree.random_init = value.parse().ok()?,
            "soar" => tree.soar = value.parse().ok()?,
            "soar_lambda" => tree.soar_lambda = value.parse().ok()?,
            "min_partition_size" => tree.min_partition_size = value.parse().ok()?,
            "avq" => tree.avq = Some(value.parse().ok()?),
            "upper_num_leaves" => {
                tree.upper = Some(UpperTree { num_leaves: value.parse().ok()?, num_leaves_to_search: None });
            }
            "upper_num_leaves_to_search" => {
                tree.upper =
                    Some(UpperTree { num_leaves_to_search: Some(value.parse().ok()?), ..tree.upper? });
            }
            "incremental_threshold" => {
                tree.incremental_threshold = Some(match words(value)? {
                    ["vectors", vectors] => Growth::Vectors(vectors.parse().ok()?),
                    ["fraction", fraction] => Growth::Fraction(fraction.parse().ok()?),
                    _ => return None,
                });
            }
            _ => return Some(()),
        }
        self.tree = Some(tree);
        Some(())
    }

    fn set_scoring(&mut self, name: &str, value: &str) -> Option<()> {
        let Scoring::Ah(ah) = &mut self.scoring else { return Some(()) };
        match name {
            "dimensions_per_block" => ah.dimensions_per_block = value.parse().ok()?,
            "hash" => ah.hash = named(&HASHES, value)?,
            "ah_training_sample_size" => ah.training_sample_size = value.parse().ok()?,
            "ah_training_iterations" => ah.training_iterations = value.parse().ok()?,
            "anisotropic_quantization_threshold" => {
                ah.anisotropic_quantization_threshold = Some(value.parse().ok()?);
            }
            "residual_quantization" => ah.residual_quantization = Some(value.parse().ok()?),
            _ => {}
        }
        Some(())
    }

    fn set_reorder(&mut self, name: &str, value: &str) -> Option<()> {
        let mut reorder = self.reorder.unwrap_or(Reorder { candidates: 1, rows: Quantize::Float32 });
        match name {
            "num_reordering_candidates" => reorder.candidates = value.parse().ok()?,
            "reordering_rows" => reorder.rows = named(&QUANTIZE, value)?,
            _ => return Some(()),
        }
        self.reorder = Some(reorder);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> Vec<Plan> {
        let ah = ScoreAh {
            dimensions_per_block: 3,
            anisotropic_quantization_threshold: Some(0.2),
            hash: Hash::Lut16,
            residual_quantization: Some(true),
            training_sample_size: 77,
            training_iterations: 4,
        };
        let tree = Tree {
            num_leaves: 7,
            num_leaves_to_search: 3,
            training_sample_size: 99,
            training_iterations: 5,
            spherical: Some(true),
            upper: None,
            random_init: false,
            soar: true,
            soar_lambda: 0.75,
            avq: Some(2.5),
            min_partition_size: 6,
            incremental_threshold: Some(Growth::Fraction(0.25)),
        };
        let upper = Some(UpperTree { num_leaves: 4, num_leaves_to_search: Some(2) });
        let over = Tree { avq: None, spherical: Some(false), upper, ..tree };
        vec![
            Plan::default(),
            Plan { tree: None, k: 3, parallelize_batch_searches: false, ..Plan::default() },
            Plan {
                tree: Some(tree),
                scoring: Scoring::Ah(ah),
                reorder: Some(Reorder { candidates: 50, rows: Quantize::Int8 }),
                reorder_threshold: Some(0.25),
                reduction: Some(Reduction::PcaShare { share: 0.9, most: 0.5, dim: 12 }),
                measure: Metric::Cosine,
                ..Plan::default()
            },
            Plan {
                scoring: Scoring::BruteForce(Quantize::Float16),
                reduction: Some(Reduction::Truncate(8)),
                measure: Metric::L2,
                autopilot: Some(Quantize::Bfloat16),
                autopilot_mode: AutopilotMode::OnlineIncremental,
                ..Plan::default()
            },
            Plan { tree: Some(over), ..Plan::default() },
        ]
    }

    #[test]
    fn the_stored_form_round_trips() {
        for plan in plans() {
            for (kind, _) in KINDS {
                let mut stored = Stored { plan: plan.clone(), kind, tended: Tended::default() };
                if plan.growth().is_some() {
                    stored.tended = Tended { trained: 9, rows: 8, changed: 3 };
                }
                assert_eq!(Stored::decode(&stored.encode()), Ok(Some(stored)));
            }
        }
    }

    #[test]
    fn other_notes_are_no_retrievers_and_damaged_ones_are_noticed() {
        for note in ["", "retriever", "retriever 2\nk 10\n", "my own"] {
            assert_eq!(Stored::decode(note.as_bytes()), Ok(None), "{note}");
        }
        assert_eq!(Stored::decode(&[0xff, 0xfe]), Ok(None));
        for line in [
            "k",
            "k x",
            "k 0",
            "num_leaves -1",
            "hash lut8",
            "identifiers float",
            "soar 1",
            "tended 1 2",
            "incremental_threshold 5",
            "pca_significance 0.5",
        ] {
            assert!(Stored::decode(format!("{HEAD}\n{line}\n").as_bytes()).is_err(), "{line}");
        }
        assert!(Stored::decode(format!("{HEAD}\nof a later version\n").as_bytes()).is_ok());
    }

    #[test]
    fn parameters_become_a_specification() {
        let text = |plan: Plan, dim| plan.spec(dim, Kind::Unsigned).to_string();
        let [default, bare, full, brute, over] = <[Plan; 5]>::try_from(plans()).unwrap();
        assert_eq!(text(default.clone(), 128), "IVF100,PQ64x4fsr");
        assert_eq!(text(default.clone(), 5), "Pad6,IVF100,PQ3x4fsr");
        assert_eq!(text(default.clone(), 1), "IVF100,PQ1x4fsr");
        assert_eq!(text(Plan { measure: Metric::L2, ..default.clone() }, 128), "IVF100,PQ64x4fs");
        assert_eq!(text(bare, 128), "IVF1,PQ64x4fs");
        assert_eq!(text(full, 128), "PCA12,IVF7_SOAR0.75_AVQ2.5,PQ4x4fsr_aq0.2,RSQ8_aq0.25");
        assert_eq!(text(over, 128), "IVF7(IVF4)_SOAR0.75,PQ64x4fsr");
        assert_eq!(text(brute.clone(), 128), "Trunc8,IVF100,SQfp16");
        assert_eq!(text(Plan { tree: None, ..brute.clone() }, 128), "Trunc8,IVF1,SQfp16");
        assert_eq!(text(Plan { tree: None, reduction: None, ..brute }, 128), "SQfp16");
        let lut256 = Scoring::Ah(ScoreAh { hash: Hash::Lut256, ..ScoreAh::default() });
        assert_eq!(text(Plan { scoring: lut256, ..default.clone() }, 128), "IVF100,PQ64np");
        let int8 = Scoring::BruteForce(Quantize::Int8);
        assert_eq!(text(Plan { scoring: int8, tree: None, ..default }, 128), "IVF1,SQ8");
    }

    /// Against variances and squares that are known: 8, 4, 2, 1, 1 of 16 in five components.
    #[test]
    fn rows_tell_how_many_components_are_enough() {
        let mut data = Vec::new();
        for (d, variance) in [8.0f32, 4.0, 2.0, 1.0, 1.0].into_iter().enumerate() {
            for sign in [-1.0, 1.0] {
                data.extend((0..5).map(|other| if other == d { sign * variance.sqrt() } else { 0.0 }));
            }
        }
        let rows = Rows::new(&data, 5).unwrap();
        let dim = |reduction| {
            let plan = Plan { reduction: Some(reduction), measure: Metric::L2, ..Plan::default() };
            match plan.told(rows).unwrap().reduction {
                Some(Reduction::PcaShare { dim, .. } | Reduction::TruncateShare { dim, .. }) => dim,
                other => panic!("{other:?}"),
            }
        };
        for (share, expected) in [(0.01, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.9, 4), (1.0, 5)] {
            assert_eq!(dim(Reduction::PcaShare { share, most: 1.0, dim: 0 }), expected, "{share}");
            assert_eq!(dim(Reduction::TruncateShare { share, dim: 0 }), expected, "{share}");
        }
        assert_eq!(dim(Reduction::PcaShare { share: 1.0, most: 0.5, dim: 0 }), 3);
    }

    #[test]
    fn training_has_the_samples_that_were_asked_for() {
        let plan = |lists, codes| Plan {
            tree: Some(Tree { num_leaves: 10, training_sample_size: lists, ..Tree::default() }),
            scoring: Scoring::Ah(ScoreAh { training_sample_size: codes, ..ScoreAh::default() }),
            ..Plan::default()
        };
        let of = |plan: Plan| {
            let params = plan.training();
            (params.sample_rows, params.clustering.max_points_per_centroid, params.code_rows)
        };
        assert_eq!(of(plan(500, 200)), (Some(500), 500, Some(200)));
        assert_eq!(of(plan(500, 900)), (Some(900), 50, Some(900)));
        let brute = Plan { scoring: Scoring::BruteForce(Quantize::Int8), ..plan(500, 900) };
        assert_eq!(of(brute), (Some(500), 500, None));
        assert_eq!(plan(1, 1).training().clustering.min_cluster_rows, 50);
    }

    #[test]
    fn what_no_data_could_be_indexed_with_is_refused() {
        let tree = |tree: Tree| Plan { tree: Some(tree), ..Plan::default() };
        let ah = |ah: ScoreAh| Plan { scoring: Scoring::Ah(ah), ..Plan::default() };
        let threshold = |t| ScoreAh { anisotropic_quantization_threshold: Some(t), ..ScoreAh::default() };
        for (plan, expected) in [
            (Plan { k: 0, ..Plan::default() }, "k"),
            (tree(Tree { num_leaves: 0, ..Tree::default() }), "num_leaves"),
            (tree(Tree { num_leaves: NLIST_MAX + 1, ..Tree::default() }), "num_leaves"),
            (tree(Tree { num_leaves_to_search: 0, ..Tree::default() }), "num_leaves_to_search"),
            (tree(Tree { training_sample_size: 0, ..Tree::default() }), "training_sample_size"),
            (ah(ScoreAh { dimensions_per_block: 0, ..ScoreAh::default() }), "dimensions_per_block"),
            (ah(threshold(0.0)), "anisotropic_quantization_threshold"),
            (ah(threshold(f32::NAN)), "anisotropic_quantization_threshold"),
            (ah(ScoreAh { hash: Hash::Lut256, ..threshold(0.2) }), "anisotropic_quantization_threshold"),
            (tree(Tree { soar_lambda: -1.0, ..Tree::default() }), "soar_lambda"),
            (tree(Tree { avq: Some(0.5), ..Tree::default() }), "avq"),
            (
                tree(Tree { incremental_threshold: Some(Growth::Vectors(0)), ..Tree::default() }),
                "incremental_threshold",
            ),
            (
                tree(Tree { incremental_threshold: Some(Growth::Fraction(f32::NAN)), ..Tree::default() }),
                "incremental_threshold",
            ),
            (ah(ScoreAh { training_sample_size: 0, ..ScoreAh::default() }), "training_sample_size"),
            (Plan { reorder_threshold: Some(0.2), ..Plan::default() }, "reorder_threshold"),
            (Plan { autopilot_mode: AutopilotMode::Online, ..Plan::default() }, "autopilot_mode"),
            (
                Plan {
                    reduction: Some(Reduction::PcaShare { share: 1.5, most: 1.0, dim: 0 }),
                    ..Plan::default()
                },
                "pca_significance",
            ),
            (
                Plan { reduction: Some(Reduction::TruncateShare { share: 0.0, dim: 0 }), ..Plan::default() },
                "truncate_significance",
            ),
            (Plan { reduction: Some(Reduction::Pca(0)), ..Plan::default() }, "pca"),
            (Plan { reduction: Some(Reduction::Truncate(0)), ..Plan::default() }, "truncate"),
        ] {
            match plan.check() {
                Err(Error::Parameter { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
