//! Encodings: what a vector's code is, and how that is spelled in a specification.
//!
//! Typed descriptions and their spellings, FAISS's where it has one. What a description means, byte by byte, says the
//! codec of the same name in `codec/`. A spelling that FAISS has no word for ends with words of ours (`_raw`).

#[allow(dead_code)] // until the factory makes it
mod additive;
mod fast_scan;

pub use additive::{AdditiveCode, AdditiveKind, AdditiveNorm};
pub use fast_scan::FastScan;

use crate::kernel::Element;
use std::fmt;
use std::str::FromStr;

/// How a vector is encoded in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// The components as they are, 4·dim bytes (`Flat`).
    Flat,
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
}

/// The encodings of one word.
const FIXED: [Encoding; 6] =
    [Encoding::Flat, Encoding::F16, Encoding::BF16, Encoding::Nibble2, Encoding::Nibble1, Encoding::Nibble];

/// From so many components on one bit for each is enough.
const ONE_BIT_DIM: usize = 256;

impl Encoding {
    /// How a component is stored, where the code is the components.
    pub(crate) fn element(self) -> Option<Element> {
        match self {
            Encoding::Flat => Some(Element::F32),
            Encoding::F16 => Some(Element::F16),
            Encoding::BF16 => Some(Element::BF16),
            Encoding::Nibble2 | Encoding::Nibble1 | Encoding::Nibble => None,
        }
    }

    /// Rows reranked for each one wanted when nobody says how many. Half precision rarely misplaces a row by more than a
    /// few ranks; of 300,000 descriptors of 128 components, five times as many hold all but .003 of what reranking
    /// everything finds with 2 bits, twelve times as many all but .01 with 1.
    pub(crate) fn rerank_factor(self) -> usize {
        match self {
            Encoding::Flat | Encoding::F16 | Encoding::BF16 => 4,
            Encoding::Nibble2 => 5,
            Encoding::Nibble1 | Encoding::Nibble => 12,
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
        if self.element().is_some() { self } else { Encoding::Flat }
    }

    /// The same with nothing left open.
    pub(crate) fn resolved(self, dim: usize) -> Self {
        match self {
            Encoding::Nibble if dim < ONE_BIT_DIM => Encoding::Nibble2,
            Encoding::Nibble => Encoding::Nibble1,
            encoding => encoding,
        }
    }

    /// True if training makes tables that codes mean nothing without: such codes take lists, and until these are trained
    /// the vectors stand as they are.
    pub(crate) fn is_learned(self) -> bool {
        false
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Flat => "Flat",
            Encoding::F16 => "SQfp16",
            Encoding::BF16 => "SQbf16",
            Encoding::Nibble2 => "Nibble2",
            Encoding::Nibble1 => "Nibble1",
            Encoding::Nibble => "Nibble",
        })
    }
}

impl FromStr for Encoding {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fixed = FIXED.into_iter().find(|encoding| encoding.to_string() == text);
        fixed.ok_or_else(|| {
            format!("`{text}` is no encoding: Flat, SQfp16, SQbf16, Nibble, Nibble2 or Nibble1")
        })
    }
}
