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

    /// Rows reranked for each one wanted when nobody says how many: the more, the fewer bits there are for each of a
    /// vector's `dim` components (`inner_dim` of which are encoded). Of 300,000 descriptors of 128 components (nprobe 64) that finds
    /// all but .005 of the recall@10 of reranking everything with `SQ8`, `SQ6`, `SQ4`, `Nibble2`, `PQ32`, `PQ16`, `PQ8+8`, `RaBitQ` of
    /// 1, 2 and 4 bits, `PQ64x4fs`, `PQ32x4fs` and `RQ8x8_Nqint8`, all but .01 with `Nibble1`, .02 with `PQ16x4fs` and .09 with
    /// 64 bits of `SH`, which say too little for any number to do.
    pub(crate) fn rerank_factor(self, dim: usize, inner_dim: usize) -> usize {
        let (bits, weight) = match self {
            Encoding::Nibble2 => return 5,
            Encoding::Nibble1 | Encoding::Nibble => return 12,
            Encoding::Scalar(ScalarQuantizer::Steps(steps)) => (inner_dim * steps.bits.count(), 30),
            Encoding::Product(pq) => (pq.m * pq.bits, 12),
            Encoding::RefinedProduct(pqr) => (pqr.m * pqr.bits + pqr.refine_m * pqr.refine_bits, 12),
            Encoding::RaBitQ(code) => (inner_dim * usize::from(code.bits()), 16),
            Encoding::Additive(form) if form.fast_scan() => (8 * form.code_bytes(), 24),
            Encoding::Additive(form) => (8 * form.code_bytes(), 12),
            Encoding::FastScan(params) => (4 * usize::from(params.subspaces), 24),
            Encoding::SpectralHash(hash) => (hash.bits.map_or(inner_dim, |bits| bits as usize), 50),
            // Half precision rarely misplaces a row by more than a few ranks.
            _ => (dim, 4),
        };
        (weight * dim).div_ceil(bits.max(1)).clamp(4, 100)
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

#[cfg(test)]
#[path = "../../tests/support/encodings.rs"]
mod encodings;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IndexSpec;
    use std::collections::BTreeSet;

    /// The kinds that tests of verbs must walk.
    fn kind(encoding: Encoding) -> (u8, u8) {
        match encoding {
            Encoding::Flat => (0, 0),
            Encoding::FlatDedup => (1, 0),
            Encoding::F16 => (2, 0),
            Encoding::BF16 => (3, 0),
            // `Nibble` becomes one of them.
            Encoding::Nibble2 | Encoding::Nibble => (4, 0),
            Encoding::Nibble1 => (5, 0),
            Encoding::Scalar(ScalarQuantizer::Steps(steps)) => match steps.bits {
                ScalarBits::Eight => (6, 0),
                ScalarBits::Six => (6, 1),
                ScalarBits::Four => (6, 2),
            },
            Encoding::Scalar(ScalarQuantizer::DirectU8) => (7, 0),
            Encoding::Scalar(ScalarQuantizer::DirectI8) => (7, 1),
            Encoding::Product(_) => (8, 0),
            Encoding::RefinedProduct(_) => (9, 0),
            Encoding::FastScan(params) => (10, u8::from(params.residual)),
            Encoding::Additive(form) => {
                let kind = match form.kind() {
                    AdditiveKind::Residual => 0,
                    AdditiveKind::LocalSearch => 1,
                };
                (11, kind + 2 * u8::from(form.to_string().starts_with('P')) + 4 * u8::from(form.fast_scan()))
            }
            Encoding::SpectralHash(hash) => match hash.threshold {
                SpectralThreshold::Global => (12, u8::from(hash.bits.is_some())),
                SpectralThreshold::Centroid => (12, 2),
                SpectralThreshold::CentroidHalf => (12, 3),
                SpectralThreshold::Median => (12, 4),
            },
            Encoding::RaBitQ(code) => {
                (13, u8::from(code.bits() > 1) + 2 * u8::from(code.to_string().contains("fs")))
            }
        }
    }

    /// How many kinds there are of each of the first numbers above.
    const KINDS: [u8; 14] = [1, 1, 1, 1, 1, 1, 3, 2, 1, 1, 2, 8, 5, 4];

    #[test]
    fn the_list_that_tests_walk_has_every_encoding() {
        let encoding = |code: &str| format!("IVF2,{code}").parse::<IndexSpec>().unwrap().encoding();
        let listed: BTreeSet<_> = encodings::ENCODINGS.into_iter().map(|code| kind(encoding(code))).collect();
        let all = (0..).zip(KINDS).flat_map(|(major, n)| (0..n).map(move |minor| (major, minor)));
        assert_eq!(listed, all.collect());
    }

    /// Breaks if an encoding is forgotten, or bits are taken of what is encoded and not of what is reranked.
    #[test]
    fn the_fewer_bits_a_component_the_more_rows_are_reranked() {
        for (text, rows) in [
            ("IVF8,Flat", 4),
            ("IVF8,SQ8", 4),
            ("IVF8,SQ6", 5),
            ("IVF8,SQ4", 8),
            ("PCA64,IVF8,SQ8", 8),
            ("IVF8,SQ8_direct", 4),
            ("IVF8,Nibble2", 5),
            ("IVF8,Nibble1", 12),
            ("IVF8,PQ32", 6),
            ("IVF8,PQ16", 12),
            ("IVF8,PQ8+8", 12),
            ("IVF8,PQ64x4fs", 12),
            ("IVF8,PQ16x4fs", 48),
            ("IVF8,RaBitQ", 16),
            ("IVF8,RaBitQ9", 4),
            ("IVF8,RQ8x8_Nqint8", 22),
            ("IVF8,RQ16x4fsr_Nrq2x4", 43),
            ("ITQ64,IVF8,SH", 100),
        ] {
            let spec = text.parse::<IndexSpec>().unwrap().with_dim(128);
            assert_eq!(spec.reranked_rows(10), 10 * rows, "{text}");
        }
    }
}
