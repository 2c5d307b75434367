//! How many of the rows that the codes found are scored again: a count, or as many as it takes.
//!
//! Here are the two forms, their spelling and their bytes; `index/bound.rs` knows when a bound may stop.

use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// Which of the rows that the codes found are scored again with the rows kept beside them.
///
/// ```
/// # use vellum::Rerank;
/// assert_eq!("40".parse::<Rerank>()?, Rerank::from(40));
/// assert_eq!("bound:2.5".parse::<Rerank>()?, Rerank::Bound(2.5));
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rerank {
    /// So many, the best by their codes.
    Rows(usize),
    /// One after the other, the best by their codes first, until the next one would have to be nearer than its code says
    /// by more than so many standard deviations to be among the k nearest: as many as a query needs. 0 or more, finite.
    ///
    /// Deviations are those of the rows that the query has scored before, so max(2k, 16) rows are scored at least. At most
    /// are half as many again as when nobody says how many: 7.5k with `Nibble2`, 18k with `Nibble1`, 6k else, or 32 if that
    /// is more. Where rows are kept in two forms, all this is about the first.
    ///
    /// For k = 10, 3 finds what the default number finds, with 39 to 45 rows a query instead of 50 (300,000 descriptors of 128
    /// components, `Nibble2`, 16 to 64 lists) and 76 to 89 instead of 120 (108,000 texts of 384, `Nibble1`); 2 finds .002
    /// to .003 and .001 less, with 27 to 30 and 46 to 54. It pays where a row is expensive: read from the file (a cache of 6 MB,
    /// 16 lists), 3 takes 249 µs a query for the default's 290, and 581 for 870. Rows in memory cost hardly more than
    /// choosing among them: 25 µs for 23, and 56 for 61, and a number that was tuned is as fast.
    Bound(f32),
}

/// Tags on disk; never reused. 0 stands where an index was made before there was another form.
const ROWS: u8 = 0;
const BOUND: u8 = 1;

impl Rerank {
    /// Refuses a bound that is no number of deviations.
    pub(crate) fn check(self) -> Result<Self> {
        match self {
            Rerank::Bound(z) if !z.is_finite() || z < 0.0 => Err(Error::Parameter {
                name: "rerank",
                what: format!("a bound of {z} deviations, expected 0 or more"),
            }),
            rerank => Ok(rerank),
        }
    }

    /// Tag and value of the stored form, which counts no more than 2^32 - 1 rows.
    pub(crate) fn to_stored(self) -> (u8, u32) {
        match self {
            Rerank::Rows(rows) => {
                assert!(u32::try_from(rows).is_ok(), "{rows} rows cannot be stored");
                (ROWS, rows as u32)
            }
            Rerank::Bound(z) => (BOUND, (z + 0.0).to_bits()),
        }
    }

    /// What [`to_stored`](Self::to_stored) stands for; `None` if it could not have written that.
    pub(crate) fn from_stored(tag: u8, value: u32) -> Option<Self> {
        match tag {
            ROWS => Some(Rerank::Rows(value as usize)),
            BOUND => {
                let z = f32::from_bits(value);
                (z.is_finite() && z.is_sign_positive()).then_some(Rerank::Bound(z))
            }
            _ => None,
        }
    }
}

impl From<usize> for Rerank {
    fn from(rows: usize) -> Self {
        Rerank::Rows(rows)
    }
}

impl fmt::Display for Rerank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rerank::Rows(rows) => write!(f, "{rows}"),
            Rerank::Bound(z) => write!(f, "bound:{z}"),
        }
    }
}

impl FromStr for Rerank {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = match text.strip_prefix("bound:") {
            Some(z) => z.parse().ok().map(Rerank::Bound),
            None => text.parse().ok().filter(|rows| *rows > 0).map(Rerank::Rows),
        };
        let what = || format!("`{text}` is neither a number of rows (40) nor a bound (bound:3)");
        read.ok_or_else(|| Error::Parameter { name: "rerank", what: what() })?.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_as_they_are_printed() {
        for rerank in [
            Rerank::Rows(1),
            Rerank::Rows(usize::MAX),
            Rerank::Bound(0.0),
            Rerank::Bound(2.5),
            Rerank::Bound(0.1),
            Rerank::Bound(f32::MAX),
            Rerank::Bound(1e-45),
        ] {
            assert_eq!(rerank.to_string().parse::<Rerank>().unwrap(), rerank);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "x",
            "bound",
            "bound:",
            "bound:x",
            "bound:-1",
            "bound:NaN",
            "bound:inf",
            "bound:-inf",
            "bound:1e99",
            "Bound:1",
            " 3",
            "bound: 3",
        ] {
            let refused = text.parse::<Rerank>();
            assert!(matches!(refused, Err(Error::Parameter { name: "rerank", .. })), "{text}: {refused:?}");
        }
    }

    #[test]
    fn stored_forms_round_trip_and_others_are_noticed() {
        for rerank in
            [Rerank::Rows(7), Rerank::Rows(u32::MAX as usize), Rerank::Bound(0.0), Rerank::Bound(3.0)]
        {
            let (tag, value) = rerank.to_stored();
            assert_eq!(Rerank::from_stored(tag, value), Some(rerank));
        }
        assert_eq!(Rerank::Bound(-0.0).to_stored(), Rerank::Bound(0.0).to_stored());
        for z in [-0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(Rerank::from_stored(BOUND, z.to_bits()), None, "{z}");
        }
        assert_eq!(Rerank::from_stored(2, 7), None);
    }
}
