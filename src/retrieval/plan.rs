//! What a retriever is made as: the parameters of the ScaNN layer and of ScaNN's builder, how they become the
//! specification, the training and the search defaults of an index, and how they are stored.
//!
//! ```text
//! tree               IVFn, spherical k-means for products; its SOAR is _SOAR          no tree: one list
//! score_ah           PQmx4fs, m = ⌈dim / dimensions_per_block⌉, of residuals (r) iff there is a tree and the measure is
//!                    a product; a rest of dim / dimensions_per_block is filled up with zeros (Pad)
//! its threshold      PQmx4fs_aqT                its hash of 8 bits   PQm
//! score_brute_force  Flat, SQfp16, SQbf16, SQ8
//! reorder            RFlat, RF16, RBF16, RSQ8, and rerank
//! pca, truncate      PCAd, Truncd in front
//! ```
//! Stored as text in the index's note, a line `name value` each: readable by any later version, whatever it adds.

use super::identifier::{KINDS, Kind};
use crate::kernel::Similarity;
use crate::spec::NLIST_MAX;
use crate::{
    ClusteringParams, EigenPower, Encoding, Error, FastScan, IndexSpec, Init, KeptRows, Metric,
    ProductQuantizer, Real, Result, ScalarBits, ScalarQuantizer, ScalarSteps, SearchParams, TrainParams,
    TransformKind,
};

/// How vectors are partitioned: ScaNN's `tree`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Lists. Default 100.
    pub num_leaves: usize,
    /// Lists that a query looks at; more than there are means all. Default 10.
    pub num_leaves_to_search: usize,
    /// Rows that training looks at, at most. Default 100,000.
    pub training_sample_size: usize,
    /// Iterations of the k-means. Default 12.
    pub training_iterations: usize,
    /// Centroids are scaled to length 1. For dot product and cosine they always are. Default false.
    pub spherical: bool,
    /// The first centroids are rows chosen at random; if not, by k-means++. Default true.
    pub random_init: bool,
    /// Each vector stands in two lists: [`IndexSpec::with_spill`]. Default false.
    pub soar: bool,
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            num_leaves: 100,
            num_leaves_to_search: 10,
            training_sample_size: 100_000,
            training_iterations: 12,
            spherical: false,
            random_init: true,
            soar: false,
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
}

impl Default for ScoreAh {
    fn default() -> Self {
        ScoreAh {
            dimensions_per_block: 2,
            anisotropic_quantization_threshold: None,
            hash: Hash::Lut16,
            residual_quantization: None,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Pca(usize),
    Truncate(usize),
}

/// All that a retriever is made as, but its name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) k: usize,
    pub(super) measure: Metric,
    pub(super) tree: Option<Tree>,
    pub(super) scoring: Scoring,
    pub(super) reorder: Option<Reorder>,
    pub(super) reduction: Option<Reduction>,
    pub(super) parallelize_batch_searches: bool,
    /// Tree, scoring and candidates follow from the number of rows; rows are stored so.
    pub(super) autopilot: Option<Quantize>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            k: 10,
            measure: Metric::InnerProduct,
            tree: Some(Tree::default()),
            scoring: Scoring::Ah(ScoreAh::default()),
            reorder: None,
            reduction: None,
            parallelize_batch_searches: true,
            autopilot: None,
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
            None => {}
        }
        match self.scoring {
            Scoring::Ah(ah) => self.check_ah(&ah),
            Scoring::BruteForce(_) => Ok(()),
        }
    }

    fn check_ah(&self, ah: &ScoreAh) -> Result<()> {
        positive("dimensions_per_block", ah.dimensions_per_block)?;
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
        match self.reduction {
            Some(Reduction::Pca(dim_out)) => {
                transforms.push(TransformKind::Pca { dim_out, power: EigenPower::NONE, rotate: false });
                inner = dim_out;
            }
            Some(Reduction::Truncate(dim_out)) => {
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
        let spec = spec.with_spill(self.tree.is_some_and(|tree| tree.soar));
        match self.reorder {
            Some(reorder) => spec.with_kept_rows(reorder.rows.kept()),
            None => spec,
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
        TrainParams {
            clustering: ClusteringParams {
                niter: tree.training_iterations,
                spherical: tree.spherical,
                init: if tree.random_init { Init::Random } else { Init::KMeansPlusPlus },
                // The sample is all that bounds it.
                max_points_per_centroid: tree.training_sample_size,
                ..ClusteringParams::default()
            },
            sample_rows: Some(tree.training_sample_size),
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
}

impl Stored {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Plan { k, measure, tree, scoring, reorder, reduction, parallelize_batch_searches, autopilot } =
            &self.plan;
        let mut lines =
            vec![HEAD.to_string(), format!("identifiers {}", name_of(&KINDS, self.kind)), format!("k {k}")];
        lines.push(format!("distance_measure {measure}"));
        if let Some(tree) = tree {
            lines.push(format!("num_leaves {}", tree.num_leaves));
            lines.push(format!("num_leaves_to_search {}", tree.num_leaves_to_search));
            lines.push(format!("training_sample_size {}", tree.training_sample_size));
            lines.push(format!("training_iterations {}", tree.training_iterations));
            lines.push(format!("spherical {}", tree.spherical));
            lines.push(format!("random_init {}", tree.random_init));
            lines.push(format!("soar {}", tree.soar));
        }
        match scoring {
            Scoring::BruteForce(quantize) => {
                lines.push(format!("score_brute_force {}", name_of(&QUANTIZE, *quantize)));
            }
            Scoring::Ah(ah) => {
                lines.push(format!("dimensions_per_block {}", ah.dimensions_per_block));
                lines.push(format!("hash {}", name_of(&HASHES, ah.hash)));
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
            None => {}
        }
        lines.push(format!("parallelize_batch_searches {parallelize_batch_searches}"));
        if let Some(quantize) = autopilot {
            lines.push(format!("autopilot {}", name_of(&QUANTIZE, *quantize)));
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
        let mut stored = Stored { plan: Plan { tree: None, ..Plan::default() }, kind: Kind::Unsigned };
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

impl Plan {
    fn set_tree(&mut self, name: &str, value: &str) -> Option<()> {
        let mut tree = self.tree.unwrap_or_default();
        match name {
            "num_leaves" => tree.num_leaves = value.parse().ok()?,
            "num_leaves_to_search" => tree.num_leaves_to_search = value.parse().ok()?,
            "training_sample_size" => tree.training_sample_size = value.parse().ok()?,
            "training_iterations" => tree.training_iterations = value.parse().ok()?,
            "spherical" => tree.spherical = value.parse().ok()?,
            "random_init" => tree.random_init = value.parse().ok()?,
            "soar" => tree.soar = value.parse().ok()?,
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
        };
        let tree = Tree {
            num_leaves: 7,
            num_leaves_to_search: 3,
            training_sample_size: 99,
            training_iterations: 5,
            spherical: true,
            random_init: false,
            soar: true,
        };
        vec![
            Plan::default(),
            Plan { tree: None, k: 3, parallelize_batch_searches: false, ..Plan::default() },
            Plan {
                tree: Some(tree),
                scoring: Scoring::Ah(ah),
                reorder: Some(Reorder { candidates: 50, rows: Quantize::Int8 }),
                reduction: Some(Reduction::Pca(12)),
                measure: Metric::Cosine,
                ..Plan::default()
            },
            Plan {
                scoring: Scoring::BruteForce(Quantize::Float16),
                reduction: Some(Reduction::Truncate(8)),
                measure: Metric::L2,
                autopilot: Some(Quantize::Bfloat16),
                ..Plan::default()
            },
        ]
    }

    #[test]
    fn the_stored_form_round_trips() {
        for plan in plans() {
            for (kind, _) in KINDS {
                let stored = Stored { plan: plan.clone(), kind };
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
        for line in ["k", "k x", "k 0", "num_leaves -1", "hash lut8", "identifiers float", "soar 1"] {
            assert!(Stored::decode(format!("{HEAD}\n{line}\n").as_bytes()).is_err(), "{line}");
        }
        assert!(Stored::decode(format!("{HEAD}\nof a later version\n").as_bytes()).is_ok());
    }

    #[test]
    fn parameters_become_a_specification() {
        let text = |plan: Plan, dim| plan.spec(dim, Kind::Unsigned).to_string();
        let [default, bare, full, brute] = <[Plan; 4]>::try_from(plans()).unwrap();
        assert_eq!(text(default.clone(), 128), "IVF100,PQ64x4fsr");
        assert_eq!(text(default.clone(), 5), "Pad6,IVF100,PQ3x4fsr");
        assert_eq!(text(default.clone(), 1), "IVF100,PQ1x4fsr");
        assert_eq!(text(Plan { measure: Metric::L2, ..default.clone() }, 128), "IVF100,PQ64x4fs");
        assert_eq!(text(bare, 128), "IVF1,PQ64x4fs");
        assert_eq!(text(full, 128), "PCA12,IVF7_SOAR,PQ4x4fsr_aq0.2,RSQ8");
        assert_eq!(text(brute.clone(), 128), "Trunc8,IVF100,SQfp16");
        assert_eq!(text(Plan { tree: None, ..brute.clone() }, 128), "Trunc8,IVF1,SQfp16");
        assert_eq!(text(Plan { tree: None, reduction: None, ..brute }, 128), "SQfp16");
        let lut256 = Scoring::Ah(ScoreAh { hash: Hash::Lut256, ..ScoreAh::default() });
        assert_eq!(text(Plan { scoring: lut256, ..default.clone() }, 128), "IVF100,PQ64np");
        let int8 = Scoring::BruteForce(Quantize::Int8);
        assert_eq!(text(Plan { scoring: int8, tree: None, ..default }, 128), "IVF1,SQ8");
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
