//! 4-bit product codes for fast scan.

use super::Real;
use crate::Metric;
use crate::kernel::Similarity;
use std::fmt;
use std::str::FromStr;

/// A product quantizer of 16 points in each sub-space, searched 32 vectors at a time through tables of bytes: half a byte
/// for each sub-space (`PQ32x4fs`). The scores are estimates, of the quantizer and of the tables.
///
/// FAISS's spelling ends with the size of its blocks if that is not 32 (`PQ32x4fs_64`). It has no meaning here, where
/// entries always go in groups of 32, and so only `_32` is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FastScan {
    /// Sub-spaces, 1 to 65,535: as many equal parts a vector is cut into.
    pub subspaces: u16,
    /// True if the code is of what is left of a vector without its list's centroid (`PQ32x4fsr`). For squared L2 that
    /// takes 4 bytes more a vector, and one table a query serves all lists.
    pub residual: bool,
    /// Codes are chosen so that errors along the vector weigh more than errors across it, as they do in products of this
    /// size or more (`PQ32x4fsr_aq0.2`; no word of FAISS's). With T the threshold, d components and a vector of length
    /// ‖x‖, the weight is (d − 1)·t / (1 − t), t = (T / ‖x‖)², and at least 1: anisotropic quantization, Guo et al. 2020.
    /// Takes inner product or cosine. `None` chooses the nearest points.
    pub anisotropic: Option<Real>,
}

/// How the threshold of anisotropic codes is spelled.
const ANISOTROPIC: &str = "_aq";

impl FastScan {
    /// `subspaces` of the vectors themselves, by the nearest points.
    pub fn new(subspaces: u16) -> Self {
        FastScan { subspaces, residual: false, anisotropic: None }
    }

    /// Why there cannot be such a code, if there cannot.
    pub(crate) fn misfit(&self, metric: Metric) -> Option<String> {
        let threshold = self.anisotropic?.get();
        if threshold <= 0.0 {
            return Some(format!("{self} has a threshold of {threshold}, allowed is more than 0"));
        }
        (metric.similarity() != Similarity::Dot)
            .then(|| format!("{self} weighs errors by products, which {metric} is not: take ip or cosine"))
    }
}

impl fmt::Display for FastScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PQ{}x4fs{}", self.subspaces, if self.residual { "r" } else { "" })?;
        self.anisotropic.map_or(Ok(()), |threshold| write!(f, "{ANISOTROPIC}{threshold}"))
    }
}

impl FromStr for FastScan {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown =
            || format!("`{text}` is no fast scan: PQ32x4fs, PQ32x4fsr for residuals, PQ32x4fs_aq0.2");
        let (text_without, anisotropic) = match text.split_once(ANISOTROPIC) {
            Some((text, threshold)) => {
                let threshold = Real::parse(threshold).filter(|threshold| threshold.get() > 0.0);
                (text, Some(threshold.ok_or_else(unknown)?))
            }
            None => (text, None),
        };
        let (text_without, block) = match text_without.split_once('_') {
            Some((text, block)) => (text, Some(block)),
            None => (text_without, None),
        };
        let rest = text_without.strip_prefix("PQ").ok_or_else(unknown)?;
        let (subspaces, kind) = rest.split_once("x4fs").ok_or_else(unknown)?;
        let residual = match kind {
            "" => false,
            "r" => true,
            _ => return Err(unknown()),
        };
        if let Some(block) = block.filter(|block| *block != "32") {
            return Err(format!("`{text}` asks for blocks of {block}: entries go in groups of 32 here"));
        }
        let plain = subspaces.bytes().all(|digit| digit.is_ascii_digit()) && !subspaces.starts_with('0');
        let subspaces = if plain { subspaces.parse().ok() } else { None };
        Ok(FastScan { subspaces: subspaces.ok_or_else(unknown)?, residual, anisotropic })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_back() {
        for (text, subspaces, residual) in [
            ("PQ32x4fs", 32, false),
            ("PQ32x4fsr", 32, true),
            ("PQ1x4fs", 1, false),
            ("PQ65535x4fsr", 65535, true),
        ] {
            let parsed: FastScan = text.parse().unwrap();
            assert_eq!((parsed.subspaces, parsed.residual), (subspaces, residual));
            assert_eq!(parsed.to_string(), text);
            assert_eq!(format!("{text}_32").parse::<FastScan>().unwrap(), parsed);
        }
    }

    #[test]
    fn thresholds_are_spelled() {
        for (text, threshold) in [("PQ32x4fs_aq0.2", 0.2), ("PQ8x4fsr_aq1", 1.0), ("PQ8x4fsr_aq0.0001", 1e-4)]
        {
            let parsed: FastScan = text.parse().unwrap();
            assert_eq!(parsed.anisotropic.map(Real::get), Some(threshold));
            assert_eq!(parsed.to_string(), text);
            assert!(parsed.misfit(Metric::InnerProduct).is_none() && parsed.misfit(Metric::Cosine).is_none());
            assert!(parsed.misfit(Metric::L2).unwrap().contains(text));
        }
        for text in
            ["PQ8x4fs_aq", "PQ8x4fs_aq0", "PQ8x4fs_aq-1", "PQ8x4fs_aqinf", "PQ8x4fs_aq0.2_32", "PQ8x4_aq0.2"]
        {
            assert!(text.parse::<FastScan>().unwrap_err().contains(text));
        }
    }

    #[test]
    fn other_spellings_are_refused_with_the_reason() {
        for text in [
            "",
            "PQ",
            "PQ32x4",
            "PQ32",
            "PQ0x4fs",
            "PQ032x4fs",
            "PQ+3x4fs",
            "PQ-3x4fs",
            "PQ65536x4fs",
            "PQx4fs",
            "PQ32x8fs",
            "PQ32x4fsrr",
            "PQ32x4fsx",
            "pq32x4fs",
            " PQ32x4fs",
            "PQ32x4fs ",
            "PQ32x4fs_32_32",
            "_32",
        ] {
            let reason = text.parse::<FastScan>().unwrap_err();
            assert!(reason.contains(text), "{reason}");
        }
        for text in ["PQ32x4fs_64", "PQ32x4fsr_", "PQ32x4fs_31", "PQ32x4fs_032"] {
            let reason = text.parse::<FastScan>().unwrap_err();
            assert!(reason.contains("groups of 32"), "{reason}");
        }
    }
}
