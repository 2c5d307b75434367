//! What an index is ([`IndexSpec`]) and how it is searched ([`SearchParams`]).
//!
//! A specification is typed; the factory string is only its spelling (`"IVF2048,Flat"`), parsed and
//! printed here and nowhere else. Parts that do not fit together are refused when the text is parsed or
//! the index is created, with the reason.

use crate::kernel::Element;
use crate::math::selector::IdSelector;
use crate::storage::format::{FRAME, MAX_ORDER, value_bytes};
use crate::{Error, Metric, Result};
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
    /// `Nibble2` below 256 components, `Nibble1` from there on, decided when the index is created (`Nibble`).
    Nibble,
}

/// What all encodings are, for the parser.
const ENCODINGS: [Encoding; 6] =
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

    fn name(self) -> &'static str {
        match self {
            Encoding::Flat => "Flat",
            Encoding::F16 => "SQfp16",
            Encoding::BF16 => "SQbf16",
            Encoding::Nibble2 => "Nibble2",
            Encoding::Nibble1 => "Nibble1",
            Encoding::Nibble => "Nibble",
        }
    }
}

/// The vectors kept beside the codes, to rerank what the codes found and to reconstruct exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeptRows {
    /// f32, 4·dim bytes a row (`RFlat`).
    F32,
    /// f16, 2·dim bytes a row (`RF16`).
    F16,
}

impl KeptRows {
    pub(crate) fn element(self) -> Element {
        match self {
            KeptRows::F32 => Element::F32,
            KeptRows::F16 => Element::F16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            KeptRows::F32 => "RFlat",
            KeptRows::F16 => "RF16",
        }
    }
}

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
    pub(crate) nlist: Option<usize>,
    pub(crate) spill: bool,
    pub(crate) encoding: Encoding,
    pub(crate) kept: Option<KeptRows>,
    pub(crate) keys: bool,
    pub(crate) block_order: u8,
}

/// The most lists an index may have.
pub const NLIST_MAX: usize = 1 << 24;
/// The most components a vector may have, 65,515: one f32 vector and its row number fill the largest block. It
/// holds for every encoding.
pub const DIM_MAX: usize = (value_bytes(MAX_ORDER) - FRAME) / 4 - 1;

/// How spilling is spelled, after the number of lists: spilling with orthogonality-amplified residuals.
const SPILL: &str = "_SOAR";

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
            nlist: None,
            spill: false,
            encoding: Encoding::Flat,
            kept: None,
            keys: false,
            block_order: BLOCK_ORDER,
        }
    }

    /// Sets the number of components of a vector, 1 to [`DIM_MAX`].
    pub fn with_dim(self, dim: usize) -> Self {
        IndexSpec { dim, ..self }
    }

    /// Sets the metric.
    pub fn with_metric(self, metric: Metric) -> Self {
        IndexSpec { metric, ..self }
    }

    /// Puts each vector into two lists (`IVF1024_SOAR`): its nearest, and one that is near in another direction, so that
    /// a query that misses it in the first finds it in the second. Fewer lists need to be probed for the same recall, and
    /// the codes take twice the bytes. Takes 2 lists or more; nothing is spilled before training.
    pub fn with_spill(self, spill: bool) -> Self {
        IndexSpec { spill, ..self }
    }

    /// Sets how vectors are encoded in their lists.
    pub fn with_encoding(self, encoding: Encoding) -> Self {
        IndexSpec { encoding, ..self }
    }

    /// Keeps the vectors beside the codes.
    pub fn with_kept_rows(self, kept: KeptRows) -> Self {
        IndexSpec { kept: Some(kept), ..self }
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

    /// True if each vector stands in two lists.
    pub fn spill(&self) -> bool {
        self.spill
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
        IndexSpec { encoding: self.encoding.resolved(self.dim), ..self.clone() }
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
        match self.nlist {
            Some(nlist) if nlist == 0 || nlist > NLIST_MAX => {
                bad(format!("{nlist} lists, allowed are 1 to {NLIST_MAX}"))
            }
            nlist if self.spill && nlist.unwrap_or(1) < 2 => {
                bad(format!("spilling takes 2 lists or more, here {}", nlist.unwrap_or(1)))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nlist) = self.nlist {
            write!(f, "IVF{nlist}{},", if self.spill { SPILL } else { "" })?;
        }
        f.write_str(self.encoding.name())?;
        self.kept.map_or(Ok(()), |kept| write!(f, ",{}", kept.name()))
    }
}

impl FromStr for IndexSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: String| Error::Spec { text: text.into(), what };
        let mut spec = IndexSpec::flat(0, Metric::L2);
        let mut parts = text.split(',').peekable();
        if let Some(lists) = parts.peek().and_then(|part| part.strip_prefix("IVF")) {
            let (lists, least) = lists.strip_suffix(SPILL).map_or((lists, 1), |lists| (lists, 2));
            let plain = !lists.is_empty() && lists.bytes().all(|b| b.is_ascii_digit());
            let nlist = lists.parse::<usize>().ok().filter(|n| plain && (least..=NLIST_MAX).contains(n));
            spec.nlist = Some(nlist.ok_or_else(|| bad(format!("IVF takes {least} to {NLIST_MAX} lists")))?);
            spec.spill = least == 2;
            parts.next();
        }
        let encoding = parts.next().unwrap_or_default();
        spec.encoding = ENCODINGS.into_iter().find(|e| e.name() == encoding).ok_or_else(|| {
            bad(format!("`{encoding}` is no encoding: Flat, SQfp16, SQbf16, Nibble, Nibble2 or Nibble1"))
        })?;
        if let Some(kept) = parts.next() {
            let known = [KeptRows::F32, KeptRows::F16].into_iter().find(|k| k.name() == kept);
            spec.kept = Some(known.ok_or_else(|| bad(format!("`{kept}` keeps no rows: RFlat or RF16")))?);
        }
        match parts.next() {
            None => Ok(spec),
            Some(rest) => Err(bad(format!("`{rest}` is one part too many"))),
        }
    }
}

/// How to search. A field that is not set comes from the defaults stored with the index.
///
/// ```
/// # use vellum::{IdSelector, SearchParams};
/// let params = SearchParams::new().nprobe(16).selector(IdSelector::Range(0..1000));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SearchParams {
    pub(crate) nprobe: Option<usize>,
    pub(crate) max_codes: Option<usize>,
    pub(crate) rerank: Option<usize>,
    pub(crate) selector: Option<IdSelector>,
}

impl SearchParams {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists to probe, at least 1; more than there are means all of them.
    pub fn nprobe(self, nprobe: usize) -> Self {
        SearchParams { nprobe: Some(nprobe), ..self }
    }

    /// Entries to score per query at most, counted after the selector, in the order of the probes; 0 is
    /// no limit. A vector that stands in two lists counts in each of them.
    pub fn max_codes(self, max_codes: usize) -> Self {
        SearchParams { max_codes: Some(max_codes), ..self }
    }

    /// Rows to score again with the kept rows, at least k; a vector found in two lists is one row. Refused by an index
    /// that keeps none.
    pub fn rerank(self, rows: usize) -> Self {
        SearchParams { rerank: Some(rows), ..self }
    }

    /// Only vectors whose id the selector holds.
    pub fn selector(self, selector: IdSelector) -> Self {
        SearchParams { selector: Some(selector), ..self }
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
    fn specifications_round_trip() {
        for text in [
            "Flat",
            "SQfp16",
            "IVF1,Flat",
            "IVF2048,SQbf16",
            "IVF65536,SQfp16,RFlat",
            "Flat,RF16",
            "IVF9,Nibble",
            "Nibble1",
            "IVF4,Nibble2,RF16",
            "IVF2_SOAR,Flat",
            "IVF1024_SOAR,Nibble1,RFlat",
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
            "IVF4,PQ8",
            "IVF4,Flat,RFlat,x",
            "ivf4,Flat",
            "Flat,",
            "IVF99999999999999999999,Flat",
            "IVF1_SOAR,Flat",
            "IVF_SOAR,Flat",
            "IVF4_soar,Flat",
            "IVF4_SOAR_SOAR,Flat",
            "Flat_SOAR",
        ] {
            assert!(matches!(text.parse::<IndexSpec>(), Err(Error::Spec { .. })), "{text}");
        }
    }
}
