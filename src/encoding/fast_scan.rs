//! 4-bit product codes for fast scan.

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
}

impl fmt::Display for FastScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PQ{}x4fs{}", self.subspaces, if self.residual { "r" } else { "" })
    }
}

impl FromStr for FastScan {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is no fast scan: PQ32x4fs, or PQ32x4fsr for residuals");
        let (text_without, block) = match text.split_once('_') {
            Some((text, block)) => (text, Some(block)),
            None => (text, None),
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
        Ok(FastScan { subspaces: subspaces.ok_or_else(unknown)?, residual })
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
