//! Metrics, and the door where they become scores.
//!
//! Users speak of a [`Metric`] and read *distances* (squared L2, or a similarity). Everything below
//! `index/` knows only *scores*, where smaller is always nearer: squared L2 as it is, inner product and
//! cosine negated. Cosine is inner product of vectors that were normalised at the door.

use crate::kernel::{Kernels, Similarity};
use crate::{Error, Result, Rows};
use std::{fmt, str::FromStr};

/// The greatest length of a vector or a query under L2 and inner product. Up to it no distance overflows: a
/// squared L2 is at most `(2 * NORM_MAX)^2` and an inner product at most `NORM_MAX^2`, both below `f32::MAX` with
/// room for rounding.
pub const NORM_MAX: f32 = 6.5e18;

/// How nearness is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Metric {
    /// Squared Euclidean distance; smaller is nearer. Of vectors up to [`NORM_MAX`].
    L2,
    /// Inner product; larger is nearer. Of vectors up to [`NORM_MAX`].
    InnerProduct,
    /// Cosine of the angle, in \[-1, 1\]; larger is nearer. Vectors are normalised when they come in
    /// (stored and reconstructed with length 1), and a zero vector is refused.
    Cosine,
}

impl Metric {
    /// What the kernels compute: cosine is the inner product of normalised vectors.
    pub(crate) fn similarity(self) -> Similarity {
        match self {
            Metric::L2 => Similarity::L2,
            Metric::InnerProduct | Metric::Cosine => Similarity::Dot,
        }
    }

    /// A score (smaller is nearer) as the distance that users read, and the other way round: the
    /// mapping is its own inverse.
    pub(crate) fn flip(self, value: f32) -> f32 {
        match self.similarity() {
            Similarity::L2 => value,
            // Not `-value`: a product of 0 is reported as 0, not as -0.
            Similarity::Dot => 0.0 - value,
        }
    }

    /// True if a larger distance is nearer.
    pub fn is_similarity(self) -> bool {
        self.similarity() == Similarity::Dot
    }

    /// The tag on disk; never reused.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Metric::L2 => 1,
            Metric::InnerProduct => 2,
            Metric::Cosine => 3,
        }
    }

    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        [Metric::L2, Metric::InnerProduct, Metric::Cosine].into_iter().find(|m| m.tag() == tag)
    }
}

/// Scales each row of `data` to length 1; `first_row` only numbers the rows in the error.
pub(crate) fn normalise(data: &mut [f32], dim: usize) -> Result<()> {
    for (row, values) in data.chunks_exact_mut(dim).enumerate() {
        let norm = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(Error::ZeroVector { row });
        }
        values.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
    Ok(())
}

/// Refuses NaN, infinities, and rows longer than [`NORM_MAX`], naming the first. The sum of squares of a row with NaN or
/// infinity is no number below the limit either, so one fast pass lets the good rows through.
pub(crate) fn check_norms(rows: Rows<'_>) -> Result<()> {
    let fits = |row: &[f32]| {
        let mut score = [0.0];
        Kernels::get().scan_rows(Similarity::Dot, row, row, &mut score);
        -score[0] <= NORM_MAX * NORM_MAX
    };
    if rows.iter().all(fits) {
        return Ok(());
    }
    rows.check_finite()?;
    let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    // A row at the very limit may be refused by the rounded sum and not by this one: it passes.
    let long = rows.iter().map(norm).enumerate().find(|(_, norm)| *norm > f64::from(NORM_MAX));
    long.map_or(Ok(()), |(row, norm)| Err(Error::TooLong { row, norm }))
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
            Metric::Cosine => "cosine",
        })
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "l2" => Ok(Metric::L2),
            "ip" => Ok(Metric::InnerProduct),
            "cosine" => Ok(Metric::Cosine),
            _ => Err(Error::Spec { text: text.into(), what: "the metric is one of l2, ip, cosine".into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_names_round_trip() {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            assert_eq!(Metric::from_tag(metric.tag()), Some(metric));
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        assert_eq!(Metric::from_tag(0), None);
    }

    #[test]
    fn zero_vectors_cannot_be_normalised() {
        let mut rows = [3.0, 4.0, 0.0, 0.0];
        assert!(matches!(normalise(&mut rows, 2), Err(Error::ZeroVector { row: 1 })));
        assert_eq!(rows[..2], [0.6, 0.8]);
    }
}
