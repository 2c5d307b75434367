//! What an index is ([`IndexSpec`]).
//!
//! A specification is typed; the factory string is only its spelling (`"IVF2048,Flat"`), parsed and
//! printed in `text` and nowhere else. Parts that do not fit together are refused when the text is parsed or
//! the index is created, with the reason.

mod text;

use crate::autopilot;
use crate::coarse::QuantizerName;
use crate::codec;
use crate::encoding::{Encoding, Real};
use crate::kernel::Similarity;
use crate::math::kmeans::ClusteringParams;
use crate::math::transform::Chain;
use crate::storage::format::{FRAME, MAX_ORDER, value_bytes};
use crate::{Error, Metric, Result, TransformKind};
use std::fmt;

/// The vectors kept beside the codes, to rerank what the codes found and to reconstruct exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeptRows {
    /// f32, 4·dim bytes a row (`RFlat`).
    F32,
    /// f16, 2·dim bytes a row (`RF16`).
    F16,
    /// bf16, 2·dim bytes a row (`RBF16`).
    BF16,
    /// Whole numbers from 0 to 255, exactly, dim + 1 bytes a row (`RU8`). Vectors with other components are refused;
    /// so is cosine, under which a vector is scaled to length 1.
    U8,
    /// 8 bits a component between the vector's least and greatest, dim + 8 bytes a row (`RSQ8`). Not beside
    /// codes that are more exact.
    SQ8,
    /// Both that and f32, 5·dim + 8 bytes a row (`RSQ8+Flat`): what the codes found is scored on 8 bits a component, and
    /// the best of it on the vectors themselves. Not beside codes that are more exact.
    SQ8Flat,
}

/// What all of them are, for the parser.
const KEPT_ROWS: [KeptRows; 6] =
    [KeptRows::F32, KeptRows::F16, KeptRows::BF16, KeptRows::U8, KeptRows::SQ8, KeptRows::SQ8Flat];

impl KeptRows {
    /// True if the rows that are scored first are coarser than any code but an estimate.
    pub(crate) fn is_scalar(self) -> bool {
        matches!(self, KeptRows::SQ8 | KeptRows::SQ8Flat)
    }

    /// How FAISS spells it otherwise; its `RFlat` is ours.
    fn refine(self) -> Option<&'static str> {
        match self {
            KeptRows::F32 => Some("Refine(Flat)"),
            KeptRows::F16 => Some("Refine(SQfp16)"),
            KeptRows::BF16 => Some("Refine(SQbf16)"),
            KeptRows::SQ8 => Some("Refine(SQ8)"),
            KeptRows::U8 | KeptRows::SQ8Flat => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            KeptRows::F32 => "RFlat",
            KeptRows::F16 => "RF16",
            KeptRows::BF16 => "RBF16",
            KeptRows::U8 => "RU8",
            KeptRows::SQ8 => "RSQ8",
            KeptRows::SQ8Flat => "RSQ8+Flat",
        }
    }
}

/// How the lists near a vector are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coarse {
    /// [`Coarse::Flat`] below 65,536 lists, from there on a tree of 2·√nlist super-clusters, decided when the index is
    /// created (`IVF65536`).
    #[default]
    Auto,
    /// Every centroid is looked at (`IVF65536(Flat)`).
    Flat,
    /// The lists belong to so many super-clusters, 1 to nlist, and only those of the nearest are looked at
    /// (`IVF65536(IVF256)`). More of them the more lists are probed; all of them, and the search is exhaustive, if all
    /// are. Of the lists that [`Coarse::Flat`] probes, about one in a hundred is missed for another one nearby.
    Tree(usize),
    /// Every centroid is looked at, among vectors as they are before any transform (`PCA64,IVF1024(Raw),SQ8`): transforms are the codes'
    /// alone. Takes a transform. FAISS's `IndexIVFIndependentQuantizer`.
    Raw,
    /// By the [`Quantizer`](crate::Quantizer) of that name, among vectors before any transform (`IVF1024(own:graph)`).
    Own(QuantizerName),
}

/// From so many lists on a tree is worth it.
const TREE_NLIST: usize = 1 << 16;

/// What kind of index to create.
///
/// Parsed from FAISS's factory grammar and completed with what the string does not say:
/// ```
/// # use vellum::{IndexSpec, Metric};
/// let spec = "IVF2048,SQfp16,RFlat".parse::<IndexSpec>()?.with_dim(128).with_metric(Metric::L2);
/// assert_eq!(spec.nlist(), Some(2048));
/// assert_eq!(spec.to_string(), "IVF2048,SQfp16,RFlat");
/// # Ok::<(), vellum::Error>(())
/// ```
/// Without an `IVF` part (`"Flat"`) there is one list, no training, and every search is exhaustive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    pub(crate) dim: usize,
    pub(crate) metric: Metric,
    /// It chooses by itself.
    pub(crate) auto: Option<Auto>,
    pub(crate) nlist: Option<usize>,
    pub(crate) coarse: Coarse,
    pub(crate) spill: bool,
    /// Of spilling; `None` is [`SPILL_STRENGTH`].
    pub(crate) strength: Option<Real>,
    pub(crate) avq: Option<Real>,
    pub(crate) transforms: Vec<TransformKind>,
    pub(crate) encoding: Encoding,
    pub(crate) kept: Option<KeptRows>,
    /// Of rounding kept rows.
    pub(crate) shaped: Option<Real>,
    pub(crate) keys: bool,
    pub(crate) block_order: u8,
}

/// What an automatic index goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Auto {
    pub(crate) expected: Option<u64>,
}

/// The most lists an index may have.
pub const NLIST_MAX: usize = 1 << 24;
/// The most components a vector may have, 65,515: one f32 vector and its row number fill the largest block. It
/// holds for every encoding.
pub const DIM_MAX: usize = (value_bytes(MAX_ORDER) - FRAME) / 4 - 1;

/// How it is spelled that an index chooses by itself.
const AUTO: &str = "Auto";

/// How it is spelled that every centroid is looked at.
const FLAT: &str = "(Flat)";
/// And that they are looked at before the transforms.
const RAW: &str = "(Raw)";
/// How a quantizer of the caller's is named.
const OWN: &str = "(own:";

/// How spilling is spelled, after the number of lists: spilling with orthogonality-amplified residuals.
const SPILL: &str = "_SOAR";
/// λ of spilling, unless a specification says another (`_SOAR0.8`).
const SPILL_STRENGTH: f32 = 1.5;
/// How anisotropic centroids are spelled, behind that: `_AVQ2`.
const AVQ: &str = "_AVQ";
/// How it is spelled that kept rows are rounded with a threshold: `RSQ8_aq0.2`.
const SHAPED: &str = "_aq";

/// Blocks of 16,368 bytes: a 1-block change writes 16 KiB, and a list of 75 KB is five gets.
const BLOCK_ORDER: u8 = 2;

impl IndexSpec {
    /// `dim` components, `nlist` inverted lists, exact f32 codes.
    pub fn ivf(dim: usize, metric: Metric, nlist: usize) -> Self {
        IndexSpec { nlist: Some(nlist), ..Self::flat(dim, metric) }
    }

    /// `dim` components in one list, searched exhaustively; needs no training.
    pub fn flat(dim: usize, metric: Metric) -> Self {
        IndexSpec {
            dim,
            metric,
            auto: None,
            nlist: None,
            coarse: Coarse::Auto,
            spill: false,
            strength: None,
            avq: None,
            transforms: Vec::new(),
            encoding: Encoding::Flat,
            kept: None,
            shaped: None,
            keys: false,
            block_order: BLOCK_ORDER,
        }
    }

    /// Chooses by itself (`"Auto"`): brute force while there are few vectors, lists once they pay, more lists when the vectors have become
    /// four times as many. Codes are [`Encoding::Nibble`] with rows kept beside them (f32 codes under metrics other than L2 and
    /// products), until there are lists f32, searched exactly. `expected` are the vectors that will come in all, if that is known:
    /// the first training then waits for enough of them, and makes the lists that all will want (`"Auto1000000"`).
    ///
    /// The add (or upsert, or end of a bulk load) that brings the index to where lists pay trains it, in the same
    /// transaction, on what is stored. That takes about a second for the first lists, and is done up to a million vectors; later
    /// trainings are left to [`train_stored`](crate::IndexWriter::train_stored), as are all where
    /// [`auto_train`](crate::IndexWriter::auto_train) says so or its observer cancels. [`IndexReader::auto`](crate::IndexReader::auto) and `vellum info`
    /// explain what was chosen and when it will change. `with_encoding` and `with_kept_rows` have their say: `"Auto(Nibble2,RU8)"`. Of an
    /// index that exists the specification names what was chosen: `"Auto(IVF725,Nibble2,RSQ8+Flat)"`.
    ///
    /// ```
    /// # use vellum::{IndexSpec, Metric};
    /// let spec = IndexSpec::auto(384, None, Metric::Cosine);
    /// assert_eq!(spec, "Auto".parse::<IndexSpec>()?.with_dim(384).with_metric(Metric::Cosine));
    /// # Ok::<(), vellum::Error>(())
    /// ```
    pub fn auto(dim: usize, expected: Option<u64>, metric: Metric) -> Self {
        let auto = Some(Auto { expected });
        IndexSpec { auto, encoding: Encoding::Nibble, ..Self::flat(dim, metric) }
    }

    /// Says how many vectors will come in all, to a specification that chooses by itself; without effect on others.
    pub fn with_expected_rows(self, rows: u64) -> Self {
        let auto = self.auto.map(|_| Auto { expected: Some(rows) });
        IndexSpec { auto, ..self }
    }

    /// True if it chooses by itself.
    pub fn is_auto(&self) -> bool {
        self.auto.is_some()
    }

    /// Sets the number of components of a vector, 1 to [`DIM_MAX`].
    pub fn with_dim(self, dim: usize) -> Self {
        IndexSpec { dim, ..self }
    }

    /// Sets the metric.
    pub fn with_metric(self, metric: Metric) -> Self {
        IndexSpec { metric, ..self }
    }

    /// Sets how the lists near a vector are found. [`Coarse::Flat`] and [`Coarse::Tree`] take an index with lists.
    pub fn with_coarse(self, coarse: Coarse) -> Self {
        IndexSpec { coarse, ..self }
    }

    /// Puts each vector into two lists (`IVF1024_SOAR`): its nearest, and one that is near in another direction, so that
    /// a query that misses it in the first finds it in the second. Fewer lists need to be probed for the same recall, and
    /// the codes take twice the bytes. Takes 2 lists or more; nothing is spilled before training.
    pub fn with_spill(self, spill: bool) -> Self {
        IndexSpec { spill, strength: self.strength.filter(|_| spill), ..self }
    }

    /// The same with λ, which says how much more an error along the first residual costs than one across it when the second
    /// list is chosen (`IVF1024_SOAR0.8`): 0 takes the second nearest list, more takes lists in other directions. 0 or more;
    /// 1.5 unless said otherwise, ScaNN's `soar_lambda`.
    pub fn with_spill_strength(self, lambda: Real) -> Self {
        let strength = Some(lambda).filter(|lambda| lambda.get() != SPILL_STRENGTH);
        IndexSpec { spill: true, strength, ..self }
    }

    /// Makes centroids by anisotropic weights (`IVF1024_AVQ2`, ScaNN's `avq`): a centroid is the c that minimises
    /// `Σ ‖x‖^(η−1)·(‖e‖² + (η−1)·⟨e, x/‖x‖⟩²)` over its list's vectors, e = x − c, and not their mean: errors along a vector,
    /// which change its products, weigh η times as much as errors across it, and those of longer vectors more. k-means
    /// goes by L2, as rows go to lists; queries go to lists by product, and a centroid's length counts there. η is 1 or more,
    /// 1.6 to 2.5 as a rule. Takes inner product or cosine, and no tree.
    pub fn with_avq(self, eta: Real) -> Self {
        IndexSpec { avq: Some(eta), ..self }
    }

    /// Transforms vectors before lists are found and codes made (`PCA64,IVF1024,SQ8`): one after the other, each trained
    /// with the lists on what those before it make of the rows. Takes an index with lists; before training nothing is
    /// transformed. Distances of codes are those between transformed vectors; kept rows, and what is reconstructed, are not
    /// transformed.
    pub fn with_transforms(self, transforms: impl IntoIterator<Item = TransformKind>) -> Self {
        IndexSpec { transforms: transforms.into_iter().collect(), ..self }
    }

    /// Sets how vectors are encoded in their lists.
    pub fn with_encoding(self, encoding: Encoding) -> Self {
        IndexSpec { encoding, ..self }
    }

    /// Keeps the vectors beside the codes.
    pub fn with_kept_rows(self, kept: KeptRows) -> Self {
        IndexSpec { kept: Some(kept), ..self }
    }

    /// Rounds the components of kept rows up or down so that the error along the row is small, which products with near
    /// queries feel, for more of it across (`RSQ8_aq0.2`, `RBF16_aq0.2`): ScaNN's noise shaping. The threshold is that
    /// of [`FastScan::anisotropic`](crate::FastScan::anisotropic), more than 0. Takes inner product or cosine, rows of
    /// f16, bf16 or [`KeptRows::SQ8`], and codes that are estimates.
    pub fn with_kept_threshold(self, threshold: Real) -> Self {
        IndexSpec { shaped: Some(threshold), ..self }
    }

    /// Names vectors by keys (strings or bytes, 1 to 1,024 bytes) instead of integers.
    pub fn with_keys(self, keys: bool) -> Self {
        IndexSpec { keys, ..self }
    }

    /// Sets the block order k, 0 to 6: blocks of 4096·2^k − 16 bytes. 2 by default; 4 makes long lists
    /// faster to read from disk and small appends write four times as much. Vectors too large for the
    /// order asked for get the smallest order that holds one.
    pub fn with_block_order(self, order: u8) -> Self {
        IndexSpec { block_order: order, ..self }
    }

    /// Components of a vector; 0 until set.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The metric; L2 until set.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Number of inverted lists; `None` for a flat index.
    pub fn nlist(&self) -> Option<usize> {
        self.nlist
    }

    /// How the lists near a vector are found. Of an index that was created never [`Coarse::Auto`] from 65,536 lists on,
    /// unless it is older than trees: it has none.
    pub fn coarse(&self) -> Coarse {
        self.coarse
    }

    /// The super-clusters of the tree, if there is to be one.
    pub(crate) fn supers(&self) -> Option<usize> {
        match self.coarse {
            Coarse::Tree(supers) => Some(supers),
            Coarse::Auto | Coarse::Flat | Coarse::Raw | Coarse::Own(_) => None,
        }
    }

    /// The same index over vectors as they are given.
    pub(crate) fn before_transforms(&self) -> Self {
        IndexSpec { transforms: Vec::new(), ..self.clone() }
    }

    /// True if lists are found otherwise than by the centroids of the model.
    pub(crate) fn has_finder(&self) -> bool {
        matches!(self.coarse, Coarse::Raw | Coarse::Own(_))
    }

    /// True if each vector stands in two lists.
    pub fn spill(&self) -> bool {
        self.spill
    }

    /// λ of [`with_spill_strength`](Self::with_spill_strength).
    pub fn spill_strength(&self) -> f32 {
        self.strength.map_or(SPILL_STRENGTH, Real::get)
    }

    /// η of [`with_avq`](Self::with_avq).
    pub fn avq(&self) -> Option<f32> {
        self.avq.map(Real::get)
    }

    /// The threshold of [`with_kept_threshold`](Self::with_kept_threshold).
    pub fn kept_threshold(&self) -> Option<f32> {
        self.shaped.map(Real::get)
    }

    /// What is done to vectors before lists are found and codes made.
    pub fn transforms(&self) -> &[TransformKind] {
        &self.transforms
    }

    /// Vectors that training with the default parameters looks at, at most: those of the clustering, of the transforms or of
    /// the codes, whichever are most; of one that chooses by itself, the first training. `None` if there is nothing to train, `usize::MAX` if it looks at all.
    pub fn training_rows(&self) -> Option<usize> {
        let lists = match self.auto {
            // Brute force is all it will come to.
            Some(Auto { expected: Some(expected) })
                if expected < autopilot::next(0, Some(expected), self.dim, None).rows =>
            {
                return None;
            }
            Some(_) => self.first_lists(),
            None => self.nlist?,
        };
        let lists = lists.saturating_mul(ClusteringParams::default().max_points_per_centroid);
        let codes = codec::training_rows(self.encoding).unwrap_or(usize::MAX);
        let transforms = Chain::training_rows(&self.transforms, self.dim).unwrap_or(usize::MAX);
        Some(lists.max(codes).max(transforms))
    }

    /// Components of a transformed vector.
    pub(crate) fn inner_dim(&self) -> usize {
        let dim = |dim, kind: &TransformKind| kind.dim_out(dim);
        // What does not fit was refused.
        self.transforms.iter().try_fold(self.dim, dim).unwrap_or(self.dim)
    }

    /// Rows reranked for `k` wanted when nobody says how many.
    pub(crate) fn reranked_rows(&self, k: usize) -> usize {
        k.saturating_mul(self.encoding.rerank_factor(self.dim, self.inner_dim()))
    }

    /// Rows collected where a bound tells how many of them are reranked for `k`: with 3 deviations 8 queries in 100 get as
    /// far with nibbles of 2 bits and 13 in 100 with 1 (64 lists), and twice the default number would find .0001 more of
    /// recall@10 but makes collecting slower whether they are needed or not. For k = 1 so many are too few: .0015 of recall.
    pub(crate) fn bounded_rows(&self, k: usize) -> usize {
        (self.reranked_rows(k).saturating_mul(3) / 2).max(32)
    }

    /// How vectors are encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The vectors kept beside the codes.
    pub fn kept_rows(&self) -> Option<KeptRows> {
        self.kept
    }

    /// True if vectors are named by keys.
    pub fn keys(&self) -> bool {
        self.keys
    }

    /// The block order.
    pub fn block_order(&self) -> u8 {
        self.block_order
    }

    /// The same with nothing left to be decided: what an index is created as.
    pub(crate) fn resolved(&self) -> Self {
        if self.auto.is_some() && self.nlist.is_none() {
            let nlist = self.first_lists();
            return IndexSpec { nlist: Some(nlist), ..self.clone() }.resolved();
        }
        let measured = self.auto.is_some() && self.metric.distance().is_some();
        if measured && self.encoding == Encoding::Nibble && self.kept.is_none() {
            return IndexSpec { encoding: Encoding::Flat, ..self.clone() }.resolved();
        }
        let kept = match self.encoding {
            Encoding::Nibble => self.kept.or(Some(KeptRows::SQ8Flat)),
            _ => self.kept,
        };
        let coarse = match (self.coarse, self.nlist) {
            // A tree goes by matrix products, which say no other distance, and by one similarity for rows and queries.
            (Coarse::Auto, Some(nlist))
                if nlist >= TREE_NLIST && (self.metric.distance().is_some() || self.avq.is_some()) =>
            {
                Coarse::Flat
            }
            (Coarse::Auto, Some(nlist)) if nlist >= TREE_NLIST => Coarse::Tree(2 * nlist.isqrt()),
            _ => self.coarse,
        };
        IndexSpec { encoding: self.encoding.resolved(self.inner_dim()), kept, coarse, ..self.clone() }
    }

    /// The lists that the first training of an automatic index makes by itself.
    fn first_lists(&self) -> usize {
        let Some(Auto { expected }) = self.auto else { return self.nlist.unwrap_or(1) };
        let lists = autopilot::next(0, expected, self.dim, None).lists;
        if self.spill { lists.max(2) } else { lists }
    }

    /// Why the parts do not go with a metric that is neither L2 nor a product, if they do not.
    fn unmeasurable(&self) -> Option<String> {
        let metric = self.metric;
        metric.distance()?;
        if let Some(first) = self.transforms.first() {
            return Some(format!("{metric} is of the components as they are: {first} would mix them"));
        }
        match (self.encoding, self.kept, self.coarse) {
            (Encoding::Flat | Encoding::FlatDedup, None, Coarse::Tree(_)) => {
                Some(format!("{metric} and a tree, which goes by L2 or products alone"))
            }
            (Encoding::Flat | Encoding::FlatDedup, None, _) if !self.spill => None,
            (Encoding::Flat | Encoding::FlatDedup, None, _) => {
                Some(format!("{metric} and spilling, whose second lists are chosen by Euclidean residuals"))
            }
            (Encoding::Flat | Encoding::FlatDedup, Some(kept), _) => {
                let kept = kept.name();
                Some(format!("{metric} goes with f32 codes, and these are exact: {kept} would add nothing"))
            }
            (encoding, ..) => {
                let name = encoding;
                Some(format!(
                    "{metric} is computed on f32 codes: Flat and not {name}, which knows L2 and products"
                ))
            }
        }
    }

    /// Why the parts do not fit together, if they do not.
    fn misfit(&self) -> Option<String> {
        if let Some(what) = self.unmeasurable() {
            return Some(what);
        }
        match (self.coarse, self.nlist) {
            (Coarse::Auto, _) | (Coarse::Flat, Some(_)) => {}
            (_, None) => return Some("lists are found by way of something, and there are none".into()),
            (Coarse::Tree(supers), Some(nlist)) if supers == 0 || supers > nlist => {
                return Some(format!("{supers} super-clusters, {nlist} lists allow 1 to {nlist}"));
            }
            (Coarse::Raw, Some(_)) if self.transforms.is_empty() => {
                return Some("lists are found before the transforms, and there are none".into());
            }
            (Coarse::Tree(_) | Coarse::Raw | Coarse::Own(_), Some(_)) => {}
        }
        match (self.avq.map(Real::get), self.nlist, self.coarse) {
            (Some(eta), ..) if eta < 1.0 => return Some(format!("{AVQ}{eta}, allowed is 1 or more")),
            (Some(_), None, _) => return Some("centroids of lists, and there are none".into()),
            (Some(_), _, Coarse::Tree(_)) => {
                return Some("a tree of directions, and anisotropic centroids are of any length".into());
            }
            _ => {}
        }
        if let Some(lambda) = self.strength.map(Real::get).filter(|lambda| *lambda < 0.0) {
            return Some(format!("{SPILL}{lambda}, allowed is 0 or more"));
        }
        if let Some(what) = self.misshaped() {
            return Some(what);
        }
        if let ([first, ..], None) = (&self.transforms[..], self.nlist) {
            return Some(format!("{first} takes lists (IVF1 for one), as it comes with their training"));
        }
        if let Some(what) = self.encoding.misfit(self.metric) {
            return Some(what);
        }
        if let (Encoding::Scalar(_), true, [first, ..]) =
            (self.encoding, self.encoding.is_exact(), &self.transforms[..])
        {
            return Some(format!("{} keeps whole numbers, and {first} makes others of them", self.encoding));
        }
        if self.encoding.is_shared() && self.spill {
            return Some(format!("{} and spilling: equal vectors share one entry, not two", self.encoding));
        }
        match self.kept {
            Some(kept) if self.encoding.is_shared() => {
                let kept = kept.name();
                Some(format!("{} codes are exact and stored once: {kept} would keep each", self.encoding))
            }
            Some(kept) if kept.is_scalar() && self.encoding.is_exact() && self.transforms.is_empty() => {
                Some(format!("{} codes are more exact than the 8 bits of {}", self.encoding, kept.name()))
            }
            Some(KeptRows::U8) if self.metric == Metric::Cosine => {
                Some("RU8 keeps whole numbers, and cosine scales vectors to length 1".into())
            }
            _ => None,
        }
    }

    /// Why kept rows cannot be rounded with a threshold, if they cannot.
    fn misshaped(&self) -> Option<String> {
        let threshold = self.shaped?.get();
        if threshold <= 0.0 {
            return Some(format!("{SHAPED}{threshold}, allowed is more than 0"));
        }
        match self.kept {
            Some(KeptRows::F16 | KeptRows::BF16 | KeptRows::SQ8) => {}
            Some(kept) => return Some(format!("{} has nothing to round up or down", kept.name())),
            None => return Some("a threshold for kept rows, and none are kept".into()),
        }
        self.encoding.element().map(|_| {
            format!(
                "{} codes are components, rounded to the nearest: rows beside them are, too",
                self.encoding
            )
        })
    }

    /// Why weights by products do not go with the metric, if they do not.
    fn unproductive(&self) -> Option<String> {
        let metric = self.metric;
        if metric.distance().is_none() && metric.similarity() == Similarity::Dot {
            return None;
        }
        let what = self.avq.map(|eta| format!("{AVQ}{eta}"));
        let what = what.or_else(|| self.shaped.map(|threshold| format!("{SHAPED}{threshold}")))?;
        Some(format!("{what} weighs errors by products, which {metric} is not: take ip or cosine"))
    }

    /// Refuses what cannot be created.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::Spec { text: self.to_string(), what });
        if self.dim == 0 || self.dim > DIM_MAX {
            return bad(format!("dimension {}, allowed are 1 to {DIM_MAX}", self.dim));
        }
        if self.block_order > MAX_ORDER {
            return bad(format!("block order {}, allowed are 0 to {MAX_ORDER}", self.block_order));
        }
        if let Err(what) = self.transforms.iter().try_fold(self.dim, |dim, kind| kind.dim_out(dim)) {
            return bad(what);
        }
        if let Some(what) = codec::misfit(self.encoding, self.inner_dim()) {
            return bad(what);
        }
        // Not before the metric is known, as it is not while the string is read.
        if let Encoding::FastScan(params) = self.encoding
            && let Some(what) = params.misfit(self.metric)
        {
            return bad(what);
        }
        if let Some(what) = self.unproductive() {
            return bad(what);
        }
        if let Some(nlist) = self.nlist.filter(|nlist| *nlist == 0 || *nlist > NLIST_MAX) {
            return bad(format!("{nlist} lists, allowed are 1 to {NLIST_MAX}"));
        }
        if self.spill && self.nlist.unwrap_or(1) < 2 {
            return bad(format!("spilling takes 2 lists or more, here {}", self.nlist.unwrap_or(1)));
        }
        self.misfit().map_or(Ok(()), bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spilling_takes_two_lists() {
        let refused = |spec: IndexSpec| match spec.with_spill(true).check() {
            Err(Error::Spec { what, .. }) => what.contains("here 1"),
            _ => false,
        };
        assert!(refused(IndexSpec::flat(4, Metric::L2)) && refused(IndexSpec::ivf(4, Metric::L2, 1)));
        assert!(IndexSpec::ivf(4, Metric::L2, 2).with_spill(true).check().is_ok());
    }

    #[test]
    fn a_tree_has_one_super_cluster_or_more_and_no_more_than_lists() {
        let what = |spec: IndexSpec, coarse| match spec.with_coarse(coarse).check() {
            Err(Error::Spec { what, .. }) => what,
            other => format!("{other:?}"),
        };
        let lists = || IndexSpec::ivf(4, Metric::L2, 7);
        assert!(what(lists(), Coarse::Tree(0)).contains("0 super-clusters"));
        assert!(what(lists(), Coarse::Tree(8)).contains("8 super-clusters"));
        assert!(what(IndexSpec::flat(4, Metric::L2), Coarse::Tree(1)).contains("none"));
        assert!(what(IndexSpec::flat(4, Metric::L2), Coarse::Flat).contains("none"));
        for coarse in [Coarse::Auto, Coarse::Flat, Coarse::Tree(1), Coarse::Tree(7)] {
            assert_eq!(what(lists(), coarse), "Ok(())");
        }
    }

    #[test]
    fn specifications_round_trip() {
        for text in [
            "Flat",
            "FlatDedup",
            "IVF1024,FlatDedup",
            "PCA8,IVF4,FlatDedup",
            "SQfp16",
            "IVF1,Flat",
            "IVF2048,SQbf16",
            "IVF65536,SQfp16,RFlat",
            "Flat,RF16",
            "IVF4,Flat,RBF16",
            "OPQ16_64,IVF4,Nibble2,RFlat",
            "PCA8,IVF4(Raw),SQ8,RFlat",
            "IVF4(own:graph-2.1)_SOAR,PQ4",
            "OPQ32_64,IVF4096,PQ32x4fs,RFlat",
            "Trunc64,IVF4096,PQ32x4fsr_aq0.2,RFlat",
            "IVF1024,SQ6",
            "IVF256,RQ6x8_Nqint8",
            "ITQ64,IVF512,SH1.2",
            "IVF1024,PQ16",
            "IVF1024,PQ16x10np_raw,RSQ8",
            "IVF1024,PQ8+16",
            "IVF1024_SOAR,PRQ2x6x8_Nfloat",
            "RR128,IVF1024,RaBitQfs4,RBF16",
            "IVF1024,LSQ8x8",
            "IVF64,SQ4_uniform",
            "SQ8_direct",
            "L2norm,PCAR8,IVF4_SOAR,Flat",
            "IVF9,Nibble",
            "Nibble1",
            "IVF4,Nibble2,RF16",
            "IVF2_SOAR,Flat",
            "IVF2_SOAR0,Flat",
            "IVF9_SOAR0.8_AVQ2.5,PQ4x4fsr,RSQ8_aq0.2",
            "IVF9(Flat)_AVQ1,PQ4,RBF16_aq1",
            "IVF1024_SOAR,Nibble1,RFlat",
            "IVF4,Flat,RU8",
            "SQbf16,RU8",
            "IVF4,Nibble1,RSQ8",
            "IVF1024,Nibble,RSQ8+Flat",
            "IVF65536(IVF256),Flat",
            "IVF9(IVF9)_SOAR,Nibble2,RFlat",
            "IVF1(IVF1),SQfp16",
            "IVF70000(Flat),Flat",
            "IVF9(Flat)_SOAR,Flat",
            "Auto",
            "Auto1000000",
            "Auto(Nibble2,RU8)",
            "Auto(IVF725,Nibble2,RSQ8+Flat)",
            "Auto5000(IVF100_SOAR,SQfp16,RFlat)",
            "Auto(OPQ16_64,IVF100,PQ16,RFlat)",
        ] {
            assert_eq!(text.parse::<IndexSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_specification_is_refused() {
        for text in [
            "",
            "IVF",
            "IVF0,Flat",
            "IVF+4,Flat",
            "IVF4",
            "IVF4,PQ",
            "IVF4,PQ0",
            "IVF4,PQ8x17",
            "IVF4,PQ8x4fs_64",
            "IVF4,SQ7",
            "IVF4,RQ",
            "IVF4,SHx",
            "IVF4,RaBitQ10",
            "IVF4,SQ8_direct,RSQ8",
            "PCA8,IVF4,SQ8_direct",
            "IVF4,ITQ8,SH",
            "IVF4,Flat,RFlat,x",
            "ivf4,Flat",
            "Flat,",
            "IVF99999999999999999999,Flat",
            "IVF1_SOAR,Flat",
            "IVF_SOAR,Flat",
            "IVF4_soar,Flat",
            "IVF4_SOAR_SOAR,Flat",
            "IVF4_SOAR-1,Flat",
            "IVF4_SOARx,Flat",
            "IVF4_AVQ,Flat",
            "IVF4_AVQ0.9,Flat",
            "IVF4_AVQ2_SOAR,Flat",
            "IVF4(IVF2)_AVQ2,Flat",
            "IVF4,PQ4,RSQ8_aq",
            "IVF4,PQ4,RSQ8_aq0",
            "IVF4,PQ4,RFlat_aq0.2",
            "IVF4,PQ4,RSQ8+Flat_aq0.2",
            "IVF4,Flat,RBF16_aq0.2",
            "Flat_SOAR",
            "IVF4,Flat,R8",
            "IVF4,FlatDedup,RFlat",
            "FlatDedup,RU8",
            "IVF4_SOAR,FlatDedup",
            "IVF4,Flat,RSQ8",
            "PCA8,Flat",
            "IVF4,PCA8,Flat",
            "PCA,IVF4,Flat",
            "IVF4,Flat,Refine(PQ8)",
            "SQbf16,RSQ8+Flat",
            "IVF4,Nibble2,RSQ8+F16",
            "IVF4(IVF0),Flat",
            "IVF4(IVF5),Flat",
            "IVF4(IVF),Flat",
            "IVF4(IVF+2),Flat",
            "IVF4(IVF2,Flat",
            "IVF4(IVF2)(IVF2),Flat",
            "IVF4(IVF2)x,Flat",
            "IVF4_SOAR(IVF2),Flat",
            "IVF4(),Flat",
            "IVF4(flat),Flat",
            "Auto(",
            "Auto()",
            "Auto(Auto)",
            "Auto-3",
            "auto",
            "Auto,Flat",
            "Auto(Flat),RFlat",
            "Auto99999999999999999999",
            "IVF(IVF2),Flat",
            "Flat(IVF2)",
            "IVF4(IVF99999999999999999999),Flat",
        ] {
            assert!(matches!(text.parse::<IndexSpec>(), Err(Error::Spec { .. })), "{text}");
        }
    }

    #[test]
    fn what_is_left_open_is_decided() {
        for (text, dim, resolved) in [
            ("IVF9,Nibble", 128, "IVF9,Nibble2,RSQ8+Flat"),
            ("IVF9,Nibble", 256, "IVF9,Nibble1,RSQ8+Flat"),
            ("Nibble,RU8", 128, "Nibble2,RU8"),
            ("Nibble2", 256, "Nibble2"),
            ("IVF9,SQfp16", 128, "IVF9,SQfp16"),
            ("IVF65535,Flat", 8, "IVF65535,Flat"),
            ("IVF65536,Flat", 8, "IVF65536(IVF512),Flat"),
            ("IVF16777216_SOAR,Flat", 8, "IVF16777216(IVF8192)_SOAR,Flat"),
            ("IVF70000(Flat),Flat", 8, "IVF70000(Flat),Flat"),
            ("IVF65536_SOAR1.5_AVQ2,Flat", 8, "IVF65536(Flat)_SOAR_AVQ2,Flat"),
            ("IVF70000(IVF3),Flat", 8, "IVF70000(IVF3),Flat"),
            ("Auto", 128, "Auto(IVF725,Nibble2,RSQ8+Flat)"),
            ("Auto", 384, "Auto(IVF368,Nibble1,RSQ8+Flat)"),
            ("Auto1000000", 128, "Auto1000000(IVF3500,Nibble2,RSQ8+Flat)"),
            ("Auto(Nibble2,RU8)", 128, "Auto(IVF725,Nibble2,RU8)"),
            ("Auto(IVF9,Flat)", 128, "Auto(IVF9,Flat)"),
        ] {
            let spec = text.parse::<IndexSpec>().unwrap().with_dim(dim);
            assert_eq!(spec.resolved().to_string(), resolved);
        }
    }

    #[test]
    fn weights_by_products_take_products() {
        for text in ["IVF9_AVQ2,Flat", "IVF9,PQ4,RSQ8_aq0.2"] {
            let spec = text.parse::<IndexSpec>().unwrap().with_dim(8);
            for (metric, fits) in [
                (Metric::L2, false),
                (Metric::L1, false),
                (Metric::InnerProduct, true),
                (Metric::Cosine, true),
            ] {
                let checked = spec.clone().with_metric(metric).check();
                assert_eq!(checked.is_ok(), fits, "{text}, {metric}: {checked:?}");
            }
        }
    }

    #[test]
    fn bytes_do_not_go_with_cosine() {
        let spec = "IVF9,Flat,RU8".parse::<IndexSpec>().unwrap().with_dim(3);
        assert!(spec.check().is_ok());
        assert!(matches!(spec.with_metric(Metric::Cosine).check(), Err(Error::Spec { .. })));
    }
}
