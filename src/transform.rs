//! What may be done to vectors before they are encoded: the parts of a factory string that stand before the lists.
//!
//! ```text
//! RR, RR64           random rotation               OPQ16, OPQ16_64   rotation for product quantisation
//! HR                 fast random rotation          ITQ, ITQ64        rotation towards bits
//! PCA64, PCAR64      main directions, (rotated)    L2norm            to length 1
//! PCAW64, PCAWR64    the same, whitened            Center            minus the mean             (ours)
//! PCA64^-0.25        scaled by λ^-0.25   (ours)    Pad128, Remap128  zeros behind, in between   (Remap: ours)
//! ```
//! Here they are only named: `math/transform` trains and applies them. The spellings are FAISS's, but for the three marked
//! ones, where FAISS has the transform and no spelling.

use std::fmt;
use std::str::FromStr;

/// The most components that a transform with a matrix takes or gives: a matrix of 256 MiB.
const MATRIX_DIM_MAX: usize = 8192;

/// The most components that any transform gives.
const PADDED_DIM_MAX: usize = 1 << 16;

/// One step on the way of a vector to its code.
///
/// ```
/// # use vellum::TransformKind;
/// let kind: TransformKind = "OPQ16_64".parse()?;
/// assert_eq!(kind, TransformKind::Opq { subspaces: 16, dim_out: Some(64) });
/// assert_eq!((kind.to_string(), kind.dim_out(128)), ("OPQ16_64".into(), Ok(64)));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransformKind {
    /// A random rotation (`RR`). To fewer components (`RR64`) it is followed by a projection; to more, distances stay what
    /// they are.
    RandomRotation {
        /// Components afterwards; as many as before if `None`.
        dim_out: Option<usize>,
    },
    /// A random rotation in d·log d steps instead of d², after filling up with zeros to a power of two (`HR`).
    Hadamard,
    /// The directions along which the training rows vary most, most first (`PCA64`), relative to their mean.
    Pca {
        /// Components afterwards, at most as many as before.
        dim_out: usize,
        /// What is made of a direction's variance.
        power: EigenPower,
        /// Rotate at random afterwards, so that all components vary alike (`PCAR64`).
        rotate: bool,
    },
    /// The rotation with the smallest error of a product quantiser (`OPQ16`, `OPQ16_64`): Ge et al. 2013.
    Opq {
        /// Sub-spaces of the product quantiser; must divide the components afterwards.
        subspaces: usize,
        /// Components afterwards; as many as before if `None`.
        dim_out: Option<usize>,
    },
    /// The rotation after which signs lose least (`ITQ`): vectors are taken relative to the mean, to length 1, and with a
    /// number (`ITQ64`) to so many main directions first. Gong and Lazebnik 2011.
    Itq {
        /// Components afterwards, at most as many as before; without main directions if `None`.
        dim_out: Option<usize>,
    },
    /// To length 1; a vector of zeros stays one (`L2norm`).
    Normalize,
    /// Minus the mean of the training rows (`Center`).
    Center,
    /// Zeros behind the components (`Pad128`); nothing where there are as many already.
    Pad {
        /// Components afterwards.
        dim_out: usize,
    },
    /// The first components (`Trunc64`), as suits embeddings that were trained for it; no word of FAISS's.
    Truncate {
        /// Components afterwards, at most as many as before.
        dim_out: usize,
    },
    /// Zeros evenly between the components, or an even choice of them (`Remap128`).
    Remap {
        /// Components afterwards.
        dim_out: usize,
    },
}

/// The power of a direction's variance by which [`TransformKind::Pca`] scales it, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EigenPower(i16);

impl EigenPower {
    /// Directions are not scaled: distances are kept as far as the directions are.
    pub const NONE: EigenPower = EigenPower(0);
    /// λ^-½: all directions vary by 1 (`PCAW64`).
    pub const WHITEN: EigenPower = EigenPower(-500);

    /// λ^(`thousandths` / 1000); `None` beyond λ^±2.
    pub fn from_thousandths(thousandths: i16) -> Option<Self> {
        (-2000..=2000).contains(&thousandths).then_some(EigenPower(thousandths))
    }

    /// The exponent.
    pub fn exponent(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// The exponent as it is spelled behind `^`.
    fn parse(text: &str) -> Option<Self> {
        let thousandths = text.parse::<f64>().ok()? * 1000.0;
        let whole = thousandths.round();
        ((thousandths - whole).abs() < 1e-6).then_some(())?;
        // Saturates, and beyond the range is beyond the range.
        EigenPower::from_thousandths(whole as i16)
    }
}

impl TransformKind {
    /// Components of a vector afterwards, of `dim_in` before.
    ///
    /// # Errors
    /// The reason, if the transform does not take so many.
    pub fn dim_out(self, dim_in: usize) -> Result<usize, String> {
        let dim = match self {
            TransformKind::RandomRotation { dim_out } | TransformKind::Itq { dim_out } => {
                dim_out.unwrap_or(dim_in)
            }
            TransformKind::Hadamard => dim_in.checked_next_power_of_two().unwrap_or(usize::MAX),
            TransformKind::Normalize | TransformKind::Center => dim_in,
            TransformKind::Pad { dim_out } => dim_out.max(dim_in),
            TransformKind::Pca { dim_out, .. }
            | TransformKind::Truncate { dim_out }
            | TransformKind::Remap { dim_out } => dim_out,
            TransformKind::Opq { subspaces, dim_out } => {
                let dim = dim_out.unwrap_or(dim_in);
                if subspaces == 0 || !dim.is_multiple_of(subspaces) {
                    return Err(format!("{self} cannot cut {dim} components into {subspaces} equal parts"));
                }
                dim
            }
        };
        self.check(dim_in, dim).map(|()| dim)
    }

    fn check(self, dim_in: usize, dim: usize) -> Result<(), String> {
        let chooses = matches!(self, TransformKind::Pca { .. } | TransformKind::Itq { .. });
        let most = if self.has_matrix() { MATRIX_DIM_MAX } else { PADDED_DIM_MAX };
        if dim_in == 0 || dim == 0 {
            return Err(format!("{self} makes {dim} components of {dim_in}, there must be at least 1"));
        }
        if matches!(self, TransformKind::Truncate { .. }) && dim > dim_in {
            return Err(format!("{self} takes the first of {dim_in} components"));
        }
        if chooses && dim > dim_in {
            return Err(format!("{self} chooses among the directions, of which there are {dim_in}"));
        }
        if dim_in.max(dim) > most {
            return Err(format!("{self} of {dim_in} components to {dim}, at most {most} are possible"));
        }
        Ok(())
    }

    /// True if the transform follows from training rows, not from the seed and the dimension alone.
    pub fn is_trained_from_data(self) -> bool {
        match self {
            TransformKind::Pca { .. }
            | TransformKind::Opq { .. }
            | TransformKind::Itq { .. }
            | TransformKind::Center => true,
            TransformKind::RandomRotation { .. }
            | TransformKind::Hadamard
            | TransformKind::Normalize
            | TransformKind::Pad { .. }
            | TransformKind::Truncate { .. }
            | TransformKind::Remap { .. } => false,
        }
    }

    /// Rows of `dim_in` components that training reads at most; more are sampled. `None` for all of them.
    ///
    /// FAISS's numbers, but that main directions are found from 2^18 rows at most, where FAISS takes 1,000 for each
    /// component: the error of a covariance shrinks with the rows, not with rows a component.
    pub fn training_rows(self, dim_in: usize) -> Option<usize> {
        match self {
            TransformKind::Center => None,
            TransformKind::Pca { .. } => Some(dim_in.saturating_mul(1000).min(1 << 18)),
            TransformKind::Opq { .. } => Some(1 << 16),
            TransformKind::Itq { .. } => Some(dim_in.saturating_mul(10).max(1 << 15)),
            TransformKind::RandomRotation { .. }
            | TransformKind::Hadamard
            | TransformKind::Normalize
            | TransformKind::Pad { .. }
            | TransformKind::Truncate { .. }
            | TransformKind::Remap { .. } => Some(0),
        }
    }

    /// True if L2 distances between vectors of `dim_in` components are what they were, up to rounding; then the way back
    /// leads back.
    pub fn keeps_distances(self, dim_in: usize) -> bool {
        let all_of_them = self.dim_out(dim_in).is_ok_and(|dim_out| dim_out >= dim_in);
        match self {
            TransformKind::Normalize | TransformKind::Itq { .. } => false,
            TransformKind::Pca { power, .. } => all_of_them && power == EigenPower::NONE,
            _ => all_of_them,
        }
    }

    fn has_matrix(self) -> bool {
        match self {
            TransformKind::RandomRotation { .. }
            | TransformKind::Pca { .. }
            | TransformKind::Opq { .. }
            | TransformKind::Itq { .. } => true,
            TransformKind::Hadamard
            | TransformKind::Normalize
            | TransformKind::Center
            | TransformKind::Pad { .. }
            | TransformKind::Truncate { .. }
            | TransformKind::Remap { .. } => false,
        }
    }
}

impl fmt::Display for TransformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbered = |f: &mut fmt::Formatter<'_>, name: &str, number: Option<usize>| {
            f.write_str(name)?;
            number.map_or(Ok(()), |number| write!(f, "{number}"))
        };
        match *self {
            TransformKind::RandomRotation { dim_out } => numbered(f, "RR", dim_out),
            TransformKind::Itq { dim_out } => numbered(f, "ITQ", dim_out),
            TransformKind::Hadamard => f.write_str("HR"),
            TransformKind::Normalize => f.write_str("L2norm"),
            TransformKind::Center => f.write_str("Center"),
            TransformKind::Pad { dim_out } => write!(f, "Pad{dim_out}"),
            TransformKind::Truncate { dim_out } => write!(f, "Trunc{dim_out}"),
            TransformKind::Remap { dim_out } => write!(f, "Remap{dim_out}"),
            TransformKind::Opq { subspaces, dim_out } => {
                write!(f, "OPQ{subspaces}")?;
                dim_out.map_or(Ok(()), |dim_out| write!(f, "_{dim_out}"))
            }
            TransformKind::Pca { dim_out, power, rotate } => {
                let whitened = if power == EigenPower::WHITEN { "W" } else { "" };
                write!(f, "PCA{whitened}{}{dim_out}", if rotate { "R" } else { "" })?;
                match power {
                    EigenPower::NONE | EigenPower::WHITEN => Ok(()),
                    power => write!(f, "^{}", power.exponent()),
                }
            }
        }
    }
}

impl FromStr for TransformKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "`{text}` is no transform: RR, HR, PCA64, PCAR64, PCAW64, PCAWR64, OPQ16, OPQ16_64, ITQ, ITQ64, \
                 L2norm, Center, Pad128, Trunc64 or Remap128"
            )
        })
    }
}

fn parse(text: &str) -> Option<TransformKind> {
    match text {
        "HR" => return Some(TransformKind::Hadamard),
        "L2norm" | "L2Norm" => return Some(TransformKind::Normalize),
        "Center" => return Some(TransformKind::Center),
        _ => {}
    }
    if let Some(rest) = text.strip_prefix("RR") {
        return Some(TransformKind::RandomRotation { dim_out: optional(rest)? });
    }
    if let Some(rest) = text.strip_prefix("ITQ") {
        return Some(TransformKind::Itq { dim_out: optional(rest)? });
    }
    if let Some(rest) = text.strip_prefix("Pad") {
        return Some(TransformKind::Pad { dim_out: number(rest)? });
    }
    if let Some(rest) = text.strip_prefix("Trunc") {
        return Some(TransformKind::Truncate { dim_out: number(rest)? });
    }
    if let Some(rest) = text.strip_prefix("Remap") {
        return Some(TransformKind::Remap { dim_out: number(rest)? });
    }
    if let Some(rest) = text.strip_prefix("OPQ") {
        let (subspaces, dim_out) = match rest.split_once('_') {
            Some((subspaces, dim_out)) => (subspaces, Some(number(dim_out)?)),
            None => (rest, None),
        };
        return Some(TransformKind::Opq { subspaces: number(subspaces)?, dim_out });
    }
    pca(text.strip_prefix("PCA")?)
}

/// What follows `PCA`.
fn pca(rest: &str) -> Option<TransformKind> {
    let (rest, white) = rest.strip_prefix('W').map_or((rest, false), |rest| (rest, true));
    let (rest, rotate) = rest.strip_prefix('R').map_or((rest, false), |rest| (rest, true));
    let (rest, power) = match rest.split_once('^') {
        Some(_) if white => return None,
        Some((rest, power)) => (rest, EigenPower::parse(power)?),
        None => (rest, if white { EigenPower::WHITEN } else { EigenPower::NONE }),
    };
    Some(TransformKind::Pca { dim_out: number(rest)?, power, rotate })
}

/// Digits or nothing.
fn optional(text: &str) -> Option<Option<usize>> {
    if text.is_empty() { Some(None) } else { number(text).map(Some) }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<usize> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = TransformKind> {
        let (dim, some) = (1usize..5000, proptest::option::of(1usize..5000));
        let power = (-2000i16..=2000).prop_map(|p| EigenPower::from_thousandths(p).unwrap());
        let power = prop_oneof![Just(EigenPower::NONE), Just(EigenPower::WHITEN), power];
        prop_oneof![
            some.clone().prop_map(|dim_out| TransformKind::RandomRotation { dim_out }),
            some.clone().prop_map(|dim_out| TransformKind::Itq { dim_out }),
            (dim.clone(), some).prop_map(|(subspaces, dim_out)| TransformKind::Opq { subspaces, dim_out }),
            (dim.clone(), power, any::<bool>()).prop_map(|(dim_out, power, rotate)| TransformKind::Pca {
                dim_out,
                power,
                rotate
            }),
            dim.clone().prop_map(|dim_out| TransformKind::Pad { dim_out }),
            dim.clone().prop_map(|dim_out| TransformKind::Truncate { dim_out }),
            dim.prop_map(|dim_out| TransformKind::Remap { dim_out }),
            Just(TransformKind::Hadamard),
            Just(TransformKind::Normalize),
            Just(TransformKind::Center),
        ]
    }

    proptest! {
        #[test]
        fn a_kind_is_what_its_spelling_says(kind in kinds()) {
            prop_assert_eq!(kind.to_string().parse(), Ok(kind));
        }

        #[test]
        fn any_text_is_a_kind_or_a_reason(text in "(PCA|OPQ|RR|ITQ|Pad|Remap|HR|L2)?[WR]?[0-9^_.-]{0,9}") {
            if let Ok(kind) = text.parse::<TransformKind>() {
                prop_assert_eq!(kind.to_string().parse(), Ok(kind));
            }
        }
    }

    #[test]
    fn factory_spellings_stay_what_they_are() {
        let spellings = [
            "RR",
            "RR64",
            "HR",
            "PCA64",
            "PCAR64",
            "PCAW64",
            "PCAWR64",
            "OPQ16",
            "OPQ16_64",
            "ITQ",
            "ITQ64",
            "L2norm",
            "Pad128",
            "Center",
            "Remap12",
            "PCA64^-0.25",
        ];
        for text in spellings {
            assert_eq!(text.parse::<TransformKind>().unwrap().to_string(), text);
        }
        assert_eq!("L2Norm".parse(), Ok(TransformKind::Normalize));
        assert_eq!("PCA8^-0.5".parse::<TransformKind>().unwrap().to_string(), "PCAW8");
        let wrong = [
            "",
            "PCA",
            "PCARW64",
            "PCAW8^1",
            "PCA8^nan",
            "PCA8^9",
            "PCA8^0.0001",
            "PCA-8",
            "OPQ",
            "OPQ_8",
            "OPQ8_",
            "Pad",
            "RR+4",
            "ITQ 4",
            "L2NORM",
            "HR8",
            "Flat",
            "RR99999999999999999999999",
        ];
        for text in wrong {
            assert!(text.parse::<TransformKind>().is_err(), "{text}");
        }
    }

    #[test]
    fn dimensions_fit_or_there_is_a_reason() {
        let dim_out = |text: &str, dim_in| text.parse::<TransformKind>().unwrap().dim_out(dim_in);
        for (text, dim_in, expected) in [
            ("RR", 7, 7),
            ("RR64", 7, 64),
            ("HR", 100, 128),
            ("HR", 1, 1),
            ("PCA64", 64, 64),
            ("OPQ4_64", 10, 64),
            ("OPQ5", 10, 10),
            ("ITQ", 9, 9),
            ("ITQ3", 9, 3),
            ("Pad12", 9, 12),
            ("Pad4", 9, 9),
            ("Remap4", 9, 4),
            ("L2norm", 3, 3),
            ("Center", 3, 3),
        ] {
            assert_eq!(dim_out(text, dim_in), Ok(expected), "{text} of {dim_in}");
        }
        for (text, dim_in) in [
            ("RR", 0),
            ("RR0", 4),
            ("PCA65", 64),
            ("PCA0", 64),
            ("OPQ3", 10),
            ("OPQ0", 10),
            ("OPQ4_63", 64),
            ("ITQ65", 64),
            ("RR", 8193),
            ("RR8193", 4),
            ("HR", 65537),
            ("HR", usize::MAX),
            ("Pad65537", 3),
            ("Remap0", 4),
            ("L2norm", 0),
        ] {
            assert!(dim_out(text, dim_in).is_err(), "{text} of {dim_in}");
        }
    }

    #[test]
    fn what_keeps_distances_is_what_loses_nothing() {
        let keeps = |text: &str| text.parse::<TransformKind>().unwrap().keeps_distances(16);
        for text in ["RR", "RR32", "HR", "PCA16", "PCAR16", "OPQ4", "OPQ4_32", "Center", "Pad20", "Remap20"] {
            assert!(keeps(text), "{text}");
        }
        for text in ["RR8", "PCA8", "PCAW16", "OPQ4_8", "ITQ", "L2norm", "Remap8", "RR9999"] {
            assert!(!keeps(text), "{text}");
        }
    }
}
