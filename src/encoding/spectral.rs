//! The spectral hash: a bit a component, compared by counting the bits that differ.
//!
//! ```text
//! SH   [period]   [g | c | h | m]   [_bits]
//! ```
//! `SH`, a period and `g`, `c` or `m` are FAISS's words (`IVF256,ITQ64,SH1.2c`): the number is the period, and without one a
//! bit only says on which side of the threshold a component is. `h` is its fourth kind of threshold, which its factory cannot
//! say. The components are those of the vector as it stands in its list, after the transform (`ITQ64`, `PCA64`); FAISS's other
//! form, so many components of a random rotation, is `_64`. `codec/spectral.rs` has the formulas.

use super::Real;
use crate::DIM_MAX;
use std::fmt;
use std::str::FromStr;

/// A bit a component, and Hamming distances: FAISS's `IndexIVFSpectralHash`. A distance is the number of bits that differ, so
/// it goes with the metric [`L2`](crate::Metric::L2) only, and a code cannot be turned back into a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpectralHash {
    /// So many components of a random rotation, 1 to [`DIM_MAX`]; as many as the vector has, and as they are, if `None`.
    pub bits: Option<u32>,
    /// A bit is 1 over half of each interval of this length and 0 over the other half (`SH1.2`); a negative length swaps the
    /// halves. A bit is 1 above the threshold if `None`.
    pub period: Option<Real>,
    /// Where intervals begin.
    pub threshold: SpectralThreshold,
}

/// What a component is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpectralThreshold {
    /// Zero (`SH`, `SHg`).
    #[default]
    Global,
    /// The component of the list's centroid (`SHc`).
    Centroid,
    /// A quarter of a period below that, so that the centroid is in the middle of a half (`SH1.2h`). Takes a period.
    CentroidHalf,
    /// The median of the list's training rows (`SHm`).
    Median,
}

/// All of them, for the parser.
const THRESHOLDS: [SpectralThreshold; 4] = [
    SpectralThreshold::Global,
    SpectralThreshold::Centroid,
    SpectralThreshold::CentroidHalf,
    SpectralThreshold::Median,
];

impl SpectralThreshold {
    fn letter(self) -> char {
        match self {
            SpectralThreshold::Global => 'g',
            SpectralThreshold::Centroid => 'c',
            SpectralThreshold::CentroidHalf => 'h',
            SpectralThreshold::Median => 'm',
        }
    }
}

/// The shortest period.
const PERIOD_MIN: f32 = 1e-18;

impl SpectralHash {
    /// Why these numbers cannot be used, if they cannot.
    pub(crate) fn misfit(&self) -> Option<String> {
        if let Some(bits) = self.bits.filter(|bits| !(1..=DIM_MAX).contains(&(*bits as usize))) {
            return Some(format!("{bits} bits, allowed are 1 to {DIM_MAX}"));
        }
        match self.period {
            Some(period) if period.get().abs() < PERIOD_MIN => {
                Some(format!("a period of {period}, the least is {PERIOD_MIN:e}"))
            }
            None if self.threshold == SpectralThreshold::CentroidHalf => {
                Some("`h` is a part of the period, and there is none".into())
            }
            _ => None,
        }
    }
}

impl fmt::Display for SpectralHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SH")?;
        self.period.map_or(Ok(()), |period| period.fmt(f))?;
        if self.threshold != SpectralThreshold::Global {
            write!(f, "{}", self.threshold.letter())?;
        }
        self.bits.map_or(Ok(()), |bits| write!(f, "_{bits}"))
    }
}

impl FromStr for SpectralHash {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash = parse(text).ok_or_else(|| {
            format!("`{text}` is no spectral hash: SH, a period, one of g, c, h and m, and bits, such as SH1.2c_64")
        })?;
        match hash.misfit() {
            None => Ok(hash),
            Some(what) => Err(format!("`{text}`: {what}")),
        }
    }
}

fn parse(text: &str) -> Option<SpectralHash> {
    let mut rest = text.strip_prefix("SH")?;
    let mut hash = SpectralHash::default();
    if let Some((before, bits)) = rest.split_once('_') {
        let plain = bits.bytes().all(|b| b.is_ascii_digit());
        hash.bits = Some(bits.parse().ok().filter(|_| plain)?);
        rest = before;
    }
    if let Some(threshold) = THRESHOLDS.into_iter().find(|known| rest.ends_with(known.letter())) {
        hash.threshold = threshold;
        rest = &rest[..rest.len() - 1];
    }
    if !rest.is_empty() {
        hash.period = Some(Real::parse(rest)?);
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_back() {
        for period in [None, Some(1.2), Some(64.0), Some(-1e10), Some(1e-5)] {
            for (threshold, bits) in
                THRESHOLDS.into_iter().flat_map(|t| [None, Some(1), Some(64)].map(|bits| (t, bits)))
            {
                let hash = SpectralHash { bits, period: period.and_then(Real::new), threshold };
                match hash.misfit() {
                    None => assert_eq!(hash.to_string().parse(), Ok(hash), "{hash}"),
                    Some(_) => assert!(hash.to_string().parse::<SpectralHash>().is_err(), "{hash}"),
                }
            }
        }
    }

    #[test]
    fn words_mean_what_they_say() {
        let parse = |text: &str| text.parse::<SpectralHash>().unwrap();
        assert_eq!(parse("SH"), SpectralHash::default());
        assert_eq!(parse("SHg"), SpectralHash::default());
        assert_eq!(parse("SH1.2g").to_string(), "SH1.2");
        let median = SpectralHash { threshold: SpectralThreshold::Median, ..SpectralHash::default() };
        assert_eq!(parse("SHm"), median);
        // As in FAISS the number is the period; the bits are ours.
        let is = parse("SH64c_32");
        assert_eq!((is.period.map(Real::get), is.bits), (Some(64.0), Some(32)));
        assert_eq!(is.threshold, SpectralThreshold::Centroid);
        assert_eq!(parse("SH-1e10").period.map(Real::get), Some(-1e10));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "S",
            "sh",
            "SHx",
            "SHcc",
            "SH1.2.3",
            "SH0",
            "SH1e-30",
            "SH1e39",
            "SHh",
            "SHc1.2",
            "SH_",
            "SH_0",
            "SH_+1",
            "SH_65516",
            "SH_99999999999",
            "SHinf",
            "SHNaN",
            "SH 1",
            "SH1_2_3",
        ] {
            assert!(text.parse::<SpectralHash>().is_err(), "{text}");
        }
    }
}
