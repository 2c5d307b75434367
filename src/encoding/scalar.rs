//! Scalar quantizers: each component by itself, as a step of a range or as the whole number that it is.
//!
//! ```text
//! SQ8 | SQ6 | SQ4   [_uniform]   [_minmaxA | _meanstdA | _quantilesA | _optim]   [_raw]
//! SQ8_direct | SQ8_direct_signed
//! ```
//! `SQ8`, `SQ6`, `SQ4` and the direct ones are FAISS's words and mean what they do in its `IVFn,…`. The others are ours, for
//! what its factory cannot say: one range for all components, how a range is found (`_minmax0` where nothing is said), and
//! codes of the vectors themselves instead of their residuals. `codec/scalar.rs` has the formulas.

use std::fmt;
use std::str::FromStr;

/// A number of a specification: finite, and equal to itself bit for bit, so that specifications can be compared and hashed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Real(u32);

impl Real {
    /// `None` for infinities and NaN. There is one zero.
    pub fn new(value: f32) -> Option<Self> {
        // A sum of -0.0 and 0.0 is 0.0.
        value.is_finite().then(|| Real((value + 0.0).to_bits()))
    }

    /// The number.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }

    /// Digits, a point, an exponent: what [`fmt::Display`] prints and FAISS reads.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'-'));
        text.parse().ok().filter(|_| plain).and_then(Real::new)
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Each component of a vector by itself: FAISS's `IndexIVFScalarQuantizer`. Half precision is
/// [`Encoding::F16`](crate::Encoding::F16) and [`Encoding::BF16`](crate::Encoding::BF16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScalarQuantizer {
    /// Steps of a range that training finds (`SQ8`, `SQ6`, `SQ4`).
    Steps(ScalarSteps),
    /// Whole numbers from 0 to 255, exactly (`SQ8_direct`), dim bytes. Vectors with other components are refused.
    /// Nothing to train.
    DirectU8,
    /// Whole numbers from −128 to 127, exactly (`SQ8_direct_signed`), dim bytes.
    DirectI8,
}

/// Components as steps of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScalarSteps {
    /// Bits of a component.
    pub bits: ScalarBits,
    /// One range for all components (`_uniform`) instead of one for each.
    pub uniform: bool,
    /// How a range is found.
    pub range: ScalarRange,
    /// Codes are of residuals, vectors relative to their lists' centroids, which need shorter ranges. If not (`_raw`), of
    /// the vectors themselves.
    pub residual: bool,
}

impl ScalarSteps {
    /// A range for each component, from the least value of the training rows to the greatest, of residuals: what FAISS's
    /// factory makes.
    pub fn new(bits: ScalarBits) -> Self {
        ScalarSteps { bits, uniform: false, range: ScalarRange::default(), residual: true }
    }

    /// Why these numbers cannot be used, if they cannot.
    pub(crate) fn misfit(&self) -> Option<String> {
        match self.range {
            ScalarRange::MinMax(more) if !(0.0..=MORE_MAX).contains(&more.get()) => {
                Some(format!("a range that is {more} longer at each end, allowed are 0 to {MORE_MAX}"))
            }
            ScalarRange::MeanStd(times) if !(times.get() > 0.0 && times.get() <= MORE_MAX) => Some(format!(
                "a range of {times} deviations each way, allowed are more than 0, to {MORE_MAX}"
            )),
            ScalarRange::Quantiles(part) if !(0.0..0.5).contains(&part.get()) => Some(format!(
                "a range without {part} of the values at each end, allowed are 0 to less than 0.5"
            )),
            _ => None,
        }
    }
}

/// The largest argument of a range.
const MORE_MAX: f32 = 1000.0;

/// Bits of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScalarBits {
    /// 256 steps, dim bytes.
    Eight,
    /// 64 steps, 3 bytes for 4 components.
    Six,
    /// 16 steps, 2 components a byte.
    Four,
}

/// All of them, for the parser.
const BITS: [ScalarBits; 3] = [ScalarBits::Eight, ScalarBits::Six, ScalarBits::Four];

impl ScalarBits {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            ScalarBits::Eight => 8,
            ScalarBits::Six => 6,
            ScalarBits::Four => 4,
        }
    }
}

/// How training finds a range. Values outside it are stored as its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScalarRange {
    /// From the least value to the greatest, and this part of that range more at each end, 0 to 1000 (`_minmax0.1`).
    MinMax(Real),
    /// So many standard deviations from the mean either way, more than 0 and at most 1000 (`_meanstd2`).
    MeanStd(Real),
    /// All values but this part of them at each end, 0 to less than 0.5 (`_quantiles0.05`).
    Quantiles(Real),
    /// The range that loses least of the training rows in squares (`_optim`).
    Optim,
}

impl Default for ScalarRange {
    fn default() -> Self {
        ScalarRange::MinMax(Real(0))
    }
}

impl fmt::Display for ScalarQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScalarQuantizer::Steps(steps) => steps.fmt(f),
            ScalarQuantizer::DirectU8 => f.write_str("SQ8_direct"),
            ScalarQuantizer::DirectI8 => f.write_str("SQ8_direct_signed"),
        }
    }
}

impl fmt::Display for ScalarSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQ{}{}", self.bits.count(), if self.uniform { "_uniform" } else { "" })?;
        match self.range {
            range if range == ScalarRange::default() => {}
            ScalarRange::MinMax(more) => write!(f, "_minmax{more}")?,
            ScalarRange::MeanStd(times) => write!(f, "_meanstd{times}")?,
            ScalarRange::Quantiles(part) => write!(f, "_quantiles{part}")?,
            ScalarRange::Optim => f.write_str("_optim")?,
        }
        f.write_str(if self.residual { "" } else { "_raw" })
    }
}

impl FromStr for ScalarQuantizer {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "SQ8_direct" => return Ok(ScalarQuantizer::DirectU8),
            "SQ8_direct_signed" => return Ok(ScalarQuantizer::DirectI8),
            _ => {}
        }
        let steps = parse_steps(text).ok_or_else(|| {
            format!(
                "`{text}` is no scalar quantizer: SQ8, SQ6 or SQ4, then any of _uniform, one range (_minmax0.1, _meanstd2, \
                 _quantiles0.05 or _optim) and _raw; or SQ8_direct, SQ8_direct_signed"
            )
        })?;
        match steps.misfit() {
            None => Ok(ScalarQuantizer::Steps(steps)),
            Some(what) => Err(format!("`{text}`: {what}")),
        }
    }
}

fn parse_steps(text: &str) -> Option<ScalarSteps> {
    let mut parts = text.strip_prefix("SQ")?.split('_').peekable();
    let bits = parts.next()?;
    let bits = BITS.into_iter().find(|known| known.count().to_string() == bits)?;
    let mut steps = ScalarSteps::new(bits);
    steps.uniform = parts.next_if_eq(&"uniform").is_some();
    if let Some(range) = parts.peek().and_then(|part| parse_range(part)) {
        steps.range = range;
        parts.next();
    }
    steps.residual = parts.next_if_eq(&"raw").is_none();
    parts.next().is_none().then_some(steps)
}

fn parse_range(text: &str) -> Option<ScalarRange> {
    let argument = |word: &str| text.strip_prefix(word).and_then(Real::parse);
    argument("minmax")
        .map(ScalarRange::MinMax)
        .or_else(|| argument("meanstd").map(ScalarRange::MeanStd))
        .or_else(|| argument("quantiles").map(ScalarRange::Quantiles))
        .or_else(|| (text == "optim").then_some(ScalarRange::Optim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> ScalarSteps {
        match text.parse() {
            Ok(ScalarQuantizer::Steps(steps)) => steps,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn spellings_come_back() {
        let real = |value| Real::new(value).unwrap();
        let ranges = [
            ScalarRange::default(),
            ScalarRange::MinMax(real(0.1)),
            ScalarRange::MeanStd(real(2.0)),
            ScalarRange::MeanStd(real(1e-10)),
            ScalarRange::Quantiles(real(0.0)),
            ScalarRange::Quantiles(real(0.05)),
            ScalarRange::Optim,
        ];
        let mut seen = std::collections::HashSet::new();
        for bits in BITS {
            for (uniform, residual) in [(false, false), (false, true), (true, false), (true, true)] {
                for range in ranges {
                    let is = ScalarQuantizer::Steps(ScalarSteps { bits, uniform, range, residual });
                    assert_eq!(is.to_string().parse(), Ok(is), "{is}");
                    assert!(seen.insert(is.to_string()), "{is} twice");
                }
            }
        }
        for direct in [ScalarQuantizer::DirectU8, ScalarQuantizer::DirectI8] {
            assert_eq!(direct.to_string().parse(), Ok(direct));
        }
    }

    #[test]
    fn words_mean_what_they_say() {
        assert_eq!(steps("SQ8"), ScalarSteps::new(ScalarBits::Eight));
        assert_eq!(steps("SQ6"), ScalarSteps::new(ScalarBits::Six));
        assert_eq!(steps("SQ4_minmax0").to_string(), "SQ4");
        let all = steps("SQ6_uniform_quantiles0.05_raw");
        assert!(all.uniform && !all.residual && all.bits == ScalarBits::Six);
        assert_eq!(all.range, ScalarRange::Quantiles(Real::new(0.05).unwrap()));
        assert!(steps("SQ8_raw").range == ScalarRange::default() && !steps("SQ8_raw").residual);
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "SQ",
            "SQ5",
            "SQ08",
            "sq8",
            "SQ8_",
            "SQ8_raw_uniform",
            "SQ8_raw_raw",
            "SQ8_minmax",
            "SQ8_minmaxinf",
            "SQ8_meanstd",
            "SQ8_meanstd0",
            "SQ8_meanstd-1",
            "SQ8_minmax-0.1",
            "SQ8_minmax1001",
            "SQ8_quantiles0.5",
            "SQ8_quantilesNaN",
            "SQ8_minmax+1",
            "SQ8_optim2",
            "SQ8_optim_minmax1",
            "SQ6_direct",
            "SQ8_direct_raw",
            "SQfp16",
            "SQ8 ",
            "SQ8_meanstd1e39",
        ] {
            assert!(text.parse::<ScalarQuantizer>().is_err(), "{text}");
        }
    }

    #[test]
    fn there_is_one_zero_and_nothing_that_is_no_number() {
        assert_eq!(Real::new(-0.0), Real::new(0.0));
        assert_eq!([f32::NAN, f32::INFINITY].map(Real::new), [None, None]);
        assert_eq!(Real::parse("-1e10").map(Real::get), Some(-1e10));
    }
}
