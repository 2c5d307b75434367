//! Encodings: what a vector's code is, and how that is spelled in a specification.
//!
//! Typed descriptions and their spellings, FAISS's where it has one. What a description means, byte by byte, says the
//! codec of the same name in `codec/`. A spelling that FAISS has no word for ends with words of ours (`_raw`).

mod additive;
mod fast_scan;
mod product;
mod rabitq;
mod scalar;
mod spectral;

pub use additive::{AdditiveCode, AdditiveKind, AdditiveNorm};
pub use fast_scan::FastScan;
pub use product::{ProductQuantizer, RefinedProduct};
pub use rabitq::RaBitQ;
pub use scalar::{Real, ScalarBits, ScalarQuantizer, ScalarRange, ScalarSteps};
pub use spectral::{SpectralHash, SpectralThreshold};

use crate::Metric;
use crate::kernel::Element;
use std::fmt;
use std::str::FromStr;

/// How a vector is encoded in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// The components as they are, 4·dim bytes (`Flat`).
    Flat,
    /// The same, where equal vectors of a list share one code (`FlatDedup`): each of the others costs its id and its place,
    /// and is found, changed and removed like any. Equal are vectors of the same bytes: 0 and −0 differ. Adding looks for each
    /// code in its list, which reads the list. No rows are kept beside such codes, and none stand in two lists.
    FlatDedup,
    /// The components as IEEE half precision, 2·dim bytes (`SQfp16`).
    F16,
    /// The components as bfloat16, 2·dim bytes (`SQbf16`).
    BF16,
    /// 2 bits a component and 6 bytes more, searched by an estimate (`Nibble2`). Before training the vectors stand in
    /// their lists as they are; then they are encoded.
    Nibble2,
    /// 1 bit a component and 6 bytes more (`Nibble1`).
    Nibble1,
    /// `Nibble2` below 256 components, `Nibble1` from there on, decided when the index is created (`Nibble`). Unless the
    /// specification says which rows to keep, it keeps [`KeptRows::SQ8Flat`](crate::KeptRows::SQ8Flat).
    Nibble,
    /// Each component by itself, in steps (`SQ8`, `SQ6`, `SQ4`, `SQ8_direct`).
    Scalar(ScalarQuantizer),
    /// Parts of the vector by the nearest of learned points (`PQ16`, `PQ32x10`).
    Product(ProductQuantizer),
    /// Two of these one after the other (`PQ8+16`).
    RefinedProduct(RefinedProduct),
    /// 16 points a part, scanned 32 vectors at a time (`PQ32x4fs`, `PQ32x4fsr`).
    FastScan(FastScan),
    /// Sums of learned vectors (`RQ6x8`, `LSQ6x8_Nqint8`, `PRQ2x6x8`).
    Additive(AdditiveCode),
    /// One bit a component, compared by counting (`SH`, `SH1.2g`). Cannot be turned back into vectors.
    SpectralHash(SpectralHash),
    /// 1 to 9 bits a component, with nothing to learn (`RaBitQ`, `RaBitQ4`).
    RaBitQ(RaBitQ),
}

/// The encodings of one word.
const FIXED: [Encoding; 7] = [
    Encoding::Flat,
    Encoding::FlatDedup,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Nibble2,
    Encoding::Nibble1,
    Encoding::Nibble,
];

/// The most bits of a product code whose points are put in order.
const POLYSEMOUS_BITS: usize = 8;

/// From so many components on one bit for each is enough.
const ONE_BIT_DIM: usize = 256;

impl Encoding {
    /// How a component is stored, where the code is the components.
    pub(crate) fn element(self) -> Option<Element> {
        match self {
            Encoding::Flat | Encoding::FlatDedup => Some(Element::F32),
            Encoding::F16 => Some(Element::F16),
            Encoding::BF16 => Some(Element::BF16),
            _ => None,
        }
    }

    /// True if a code keeps all that the door lets through.
    pub(crate) fn is_exact(self) -> bool {
        let direct = [ScalarQuantizer::DirectU8, ScalarQuantizer::DirectI8].map(Encoding::Scalar);
        self.element().is_some() || direct.contains(&self)
    }

    /// Rows reranked for each one wanted when nobody says how many. Half precision rarely misplaces a row by more than a
    /// few ranks; of 300,000 descriptors of 128 components, five times as many hold all but .003 of what reranking
    /// everything finds with 2 bits, twelve times as many all but .01 with 1.
    pub(crate) fn rerank_factor(self) -> usize {
        match self {
            Encoding::Flat | Encoding::FlatDedup | Encoding::F16 | Encoding::BF16 | Encoding::Scalar(_) => 4,
            Encoding::Nibble2 => 5,
            Encoding::RaBitQ(code) if code.bits() > 2 => 5,
            _ => 12,
        }
    }

    /// Rows collected where a bound tells how many of them are reranked for `k`: with 3 deviations 8 queries in 100 get as
    /// far with 2 bits and 13 in 100 with 1 (64 lists), and twice the default number would find .0001 more of recall@10 but
    /// makes collecting slower whether they are needed or not. For k = 1 so many are too few: .0015 of recall.
    pub(crate) fn bounded_rows(self, k: usize) -> usize {
        (k.saturating_mul(3 * self.rerank_factor()) / 2).max(32)
    }

    /// How vectors stand in their list until there are centroids.
    pub(crate) fn before_training(self) -> Self {
        if self.is_exact() { self } else { Encoding::Flat }
    }

    /// The same with nothing left open.
    pub(crate) fn resolved(self, dim: usize) -> Self {
        match self {
            Encoding::Nibble if dim < ONE_BIT_DIM => Encoding::Nibble2,
            Encoding::Nibble => Encoding::Nibble1,
            encoding => encoding,
        }
    }

    /// True if rows of equal codes share an entry of their list.
    pub(crate) fn is_shared(self) -> bool {
        self == Encoding::FlatDedup
    }

    /// True if training makes tables that codes mean nothing without: such codes take lists, and until these are trained
    /// the vectors stand as they are.
    pub(crate) fn is_learned(self) -> bool {
        match self {
            Encoding::Scalar(quantizer) => matches!(quantizer, ScalarQuantizer::Steps(_)),
            Encoding::SpectralHash(hash) => hash.threshold != SpectralThreshold::Global,
            Encoding::Product(_)
            | Encoding::RefinedProduct(_)
            | Encoding::FastScan(_)
            | Encoding::Additive(_) => true,
            _ => false,
        }
    }

    /// True if a vector has the same code on every processor.
    pub(crate) fn is_reproducible(self) -> bool {
        !matches!(self, Encoding::Additive(_))
    }

    /// True if codes that are alike in many bits are of vectors that are near.
    pub(crate) fn is_polysemous(self) -> bool {
        matches!(self, Encoding::Product(pq) if pq.polysemous && pq.bits <= POLYSEMOUS_BITS)
    }

    /// Why there cannot be such a code, whatever the vectors, if there cannot.
    pub(crate) fn misfit(self, metric: Metric) -> Option<String> {
        match self {
            Encoding::Scalar(ScalarQuantizer::Steps(steps)) => steps.misfit(),
            Encoding::Scalar(_) if metric == Metric::Cosine => {
                Some(format!("{self} keeps whole numbers, and cosine scales vectors to length 1"))
            }
            Encoding::SpectralHash(_) if metric != Metric::L2 => {
                Some(format!("{self} counts bits that differ, which says nothing of {metric}: take l2"))
            }
            Encoding::SpectralHash(hash) => hash.misfit(),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Flat => f.write_str("Flat"),
            Encoding::FlatDedup => f.write_str("FlatDedup"),
            Encoding::F16 => f.write_str("SQfp16"),
            Encoding::BF16 => f.write_str("SQbf16"),
            Encoding::Nibble2 => f.write_str("Nibble2"),
            Encoding::Nibble1 => f.write_str("Nibble1"),
            Encoding::Nibble => f.write_str("Nibble"),
            Encoding::Scalar(quantizer) => quantizer.fmt(f),
            Encoding::Product(pq) => pq.fmt(f),
            Encoding::RefinedProduct(pqr) => pqr.fmt(f),
            Encoding::FastScan(params) => params.fmt(f),
            Encoding::Additive(form) => form.fmt(f),
            Encoding::SpectralHash(hash) => hash.fmt(f),
            Encoding::RaBitQ(code) => code.fmt(f),
        }
    }
}

impl FromStr for Encoding {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(fixed) = FIXED.into_iter().find(|encoding| encoding.to_string() == text) {
            return Ok(fixed);
        }
        let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
        if begins(&["SQ"]) {
            text.parse().map(Encoding::Scalar)
        } else if begins(&["PQ"]) && text.contains("x4fs") {
            text.parse().map(Encoding::FastScan)
        } else if begins(&["PQ"]) && text.contains('+') {
            text.parse().map(Encoding::RefinedProduct)
        } else if begins(&["PQ"]) {
            text.parse().map(Encoding::Product)
        } else if begins(&["RQ", "LSQ", "PRQ", "PLSQ"]) {
            text.parse().map(Encoding::Additive).map_err(why)
        } else if begins(&["SH"]) {
            text.parse().map(Encoding::SpectralHash)
        } else if begins(&["RaBitQ"]) {
            text.parse().map(Encoding::RaBitQ)
        } else {
            Err(format!(
                "`{text}` is no encoding: Flat, FlatDedup, SQfp16, SQbf16, SQ8, PQ16, PQ32x4fs, RQ8x8, RaBitQ, SH, Nibble and others"
            ))
        }
    }
}

/// What is wrong, of an error that says so.
fn why(error: crate::Error) -> String {
    match error {
        crate::Error::Spec { what, .. } => what,
        other => other.to_string(),
    }
}
