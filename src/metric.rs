//! Metrics, and the door where they become scores.
//!
//! Users speak of a [`Metric`] and read *distances* (squared L2, or a similarity). Everything below
//! `index/` knows only *scores*, where smaller is always nearer: distances as they are, similarities
//! negated. Cosine is inner product of vectors that were normalised at the door.
//!
//! L2, inner product and cosine have kernels and codes of many kinds ([`Similarity`]). All others are a [`Distance`]: exact
//! over f32 codes, and refused with anything else. Their door is a [`Domain`], the numbers that a component may be: no
//! distance of vectors within it overflows.

use crate::kernel::{Distance, Kernels, Nearness, Similarity};
use crate::{Error, Result, Rows};
use std::borrow::Cow;
use std::{fmt, str::FromStr};

/// The greatest length of a vector or a query under L2 and inner product. Up to it no distance overflows: a
/// squared L2 is at most `(2 * NORM_MAX)^2` and an inner product at most `NORM_MAX^2`, both below `f32::MAX` with
/// room for rounding.
pub const NORM_MAX: f32 = 6.5e18;

/// How nearness is measured.
///
/// L2, inner product and cosine go with every encoding. The others, after FAISS, go with `Flat` codes in one list or
/// several (`Flat`, `IVF1024,Flat`), without kept rows, spilling or a tree. With q and x the components of the two vectors:
///
/// | metric | distance | components |
/// |---|---|---|
/// | `L1` | Σ\|q − x\| | up to 1.5e38 / dim |
/// | `Linf` | max \|q − x\| | up to 1.5e38 |
/// | `Lp` | Σ\|q − x\|ᵖ, without the root | up to ½·(3e38 / dim)^(1/p), at most 1.5e38 |
/// | `Canberra` | Σ\|q − x\| / (\|q\| + \|x\|), where 0 / 0 counts as 0 | up to 1.5e38 |
/// | `BrayCurtis` | Σ\|q − x\| / Σ\|q + x\| | up to 1.5e38 / dim |
/// | `JensenShannon` | ½ Σ (q·ln(q / m) + x·ln(x / m)), m = (q + x) / 2, and 0·ln 0 = 0 | 0 to 1.5e38 / dim |
/// | `Jaccard` | Σmin(q, x) / Σmax(q, x), a similarity | 0 to 1.5e38 / dim |
/// | `NanEuclidean` | dim / present · Σ(q − x)², over the components present in both | up to ½·√(3e38 / dim), or NaN |
/// | `Gower` | the mean, over the components present in both, of \|q − x\|, or of categories 0 if equal and 1 if not | numbers 0 to 1, categories below 0, or NaN |
///
/// Components beyond are refused ([`Error::OutOfDomain`]), so that no distance overflows. Some pairs have no distance: nothing present
/// in both, a number and a category in one component, sums that come to 0 / 0 (two zero vectors under Jaccard or
/// Bray-Curtis) or to a number over 0. Such a vector is stored, but that query does not find it, as in FAISS. In two limits FAISS 1.15 gives no distance
/// and this does: 0·ln 0 under Jensen-Shannon, 0 / 0 under Canberra.
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
    /// The sum of absolute differences; smaller is nearer.
    L1,
    /// The greatest absolute difference; smaller is nearer.
    Linf,
    /// The sum of the p-th powers of absolute differences; smaller is nearer. [`Metric::lp`] makes one.
    Lp(LpOrder),
    /// Absolute differences as parts of the components' sizes; smaller is nearer.
    Canberra,
    /// The sum of absolute differences as a part of the sum of the sums' sizes; smaller is nearer.
    BrayCurtis,
    /// The Jensen-Shannon divergence of distributions, in nats; smaller is nearer. Nothing is scaled: vectors that do
    /// not add up to 1 are taken as they are.
    JensenShannon,
    /// The weighted Jaccard similarity, in \[0, 1\]; larger is nearer.
    Jaccard,
    /// Squared Euclidean distance where components may be missing (NaN), scaled up by how many are; smaller is nearer.
    NanEuclidean,
    /// Gower's distance of numbers and categories, of which some may be missing (NaN), in \[0, 1\]; smaller is nearer.
    Gower,
}

/// The p of [`Metric::Lp`]: a finite number above 0. Two are equal if their bits are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LpOrder(u32);

impl LpOrder {
    /// # Errors
    /// [`Error::Parameter`] if `p` is not finite or not above 0.
    pub fn new(p: f32) -> Result<Self> {
        if p.is_finite() && p > 0.0 {
            return Ok(LpOrder(p.to_bits()));
        }
        Err(Error::Parameter { name: "p", what: format!("{p}, expected a finite number above 0") })
    }

    /// The number.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Debug for LpOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// A not-a-number as it is stored: whatever its bits were, a missing component has these.
const MISSING: f32 = f32::from_bits(0x7fc0_0000);

/// Half of what a difference may be at most, and what a sum may be: below `f32::MAX` with room for rounding, and for
/// centroids that k-means pushes apart.
const HALF_MAX: f32 = 1.5e38;

impl Metric {
    /// Lp of this `p`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `p` is not finite or not above 0.
    pub fn lp(p: f32) -> Result<Self> {
        Ok(Metric::Lp(LpOrder::new(p)?))
    }

    /// What the kernels of all codes compute: cosine is the inner product of normalised vectors. A [`Distance`] has only
    /// this of them: where nothing but Euclid's geometry is meant, squared L2.
    pub(crate) fn similarity(self) -> Similarity {
        match self {
            Metric::InnerProduct | Metric::Cosine => Similarity::Dot,
            _ => Similarity::L2,
        }
    }

    /// What is computed instead, under the metrics that only flat codes are searched by.
    pub(crate) fn distance(self) -> Option<Distance> {
        match self {
            Metric::L2 | Metric::InnerProduct | Metric::Cosine => None,
            Metric::L1 => Some(Distance::L1),
            Metric::Linf => Some(Distance::Linf),
            Metric::Lp(order) => Some(Distance::Power(order.get())),
            Metric::Canberra => Some(Distance::Canberra),
            Metric::BrayCurtis => Some(Distance::BrayCurtis),
            Metric::JensenShannon => Some(Distance::JensenShannon),
            Metric::Jaccard => Some(Distance::Jaccard),
            Metric::NanEuclidean => Some(Distance::NanEuclidean),
            Metric::Gower => Some(Distance::Gower),
        }
    }

    /// What k-means assigns by.
    pub(crate) fn nearness(self) -> Nearness {
        self.distance().map_or(Nearness::Similarity(self.similarity()), Nearness::Distance)
    }

    /// What components of vectors of `dim` of them may be; `None` where lengths are limited instead.
    pub(crate) fn domain(self, dim: usize) -> Option<Domain> {
        let of_sums = HALF_MAX / dim as f32;
        // d differences, of twice this at most, to the p-th power.
        let of_powers = |p: f32| {
            let most = 0.5 * (f64::from(2.0 * HALF_MAX) / dim as f64).powf(1.0 / f64::from(p));
            most.min(f64::from(HALF_MAX)) as f32
        };
        let (least, most, missing) = match self {
            Metric::L2 | Metric::InnerProduct | Metric::Cosine => return None,
            Metric::L1 | Metric::BrayCurtis => (-of_sums, of_sums, false),
            Metric::Linf | Metric::Canberra => (-HALF_MAX, HALF_MAX, false),
            Metric::Lp(order) => (-of_powers(order.get()), of_powers(order.get()), false),
            Metric::JensenShannon | Metric::Jaccard => (0.0, of_sums, false),
            Metric::NanEuclidean => (-of_powers(2.0), of_powers(2.0), true),
            Metric::Gower => (-HALF_MAX, 1.0, true),
        };
        Some(Domain { least, most, missing })
    }

    /// True if a component may be missing.
    pub(crate) fn takes_missing(self) -> bool {
        self.nearness().takes_missing()
    }

    /// True if a stored vector may be this.
    pub(crate) fn is_sound(self, row: &[f32]) -> bool {
        let missing = |v: f32| self.takes_missing() && v.to_bits() == MISSING.to_bits();
        row.iter().all(|v| v.is_finite() || missing(*v))
    }

    /// A score (smaller is nearer) as the distance that users read, and the other way round: the
    /// mapping is its own inverse.
    pub(crate) fn flip(self, value: f32) -> f32 {
        // Not `-value`: a product of 0 is reported as 0, not as -0.
        if self.is_similarity() { 0.0 - value } else { value }
    }

    /// True if a larger distance is nearer.
    pub fn is_similarity(self) -> bool {
        matches!(self, Metric::InnerProduct | Metric::Cosine | Metric::Jaccard)
    }

    /// The tag on disk, never reused, and the bits of p behind it; 0 where there is none.
    pub(crate) fn to_stored(self) -> (u8, u32) {
        match self {
            Metric::L2 => (1, 0),
            Metric::InnerProduct => (2, 0),
            Metric::Cosine => (3, 0),
            Metric::L1 => (4, 0),
            Metric::Linf => (5, 0),
            Metric::Lp(order) => (6, order.0),
            Metric::Canberra => (7, 0),
            Metric::BrayCurtis => (8, 0),
            Metric::JensenShannon => (9, 0),
            Metric::Jaccard => (10, 0),
            Metric::NanEuclidean => (11, 0),
            Metric::Gower => (12, 0),
        }
    }

    pub(crate) fn from_stored(tag: u8, argument: u32) -> Option<Self> {
        let order = LpOrder::new(f32::from_bits(argument)).ok().map(Metric::Lp);
        PLAIN.into_iter().chain(order).find(|metric| metric.to_stored() == (tag, argument))
    }
}

/// The metrics without an argument.
const PLAIN: [Metric; 11] = [
    Metric::L2,
    Metric::InnerProduct,
    Metric::Cosine,
    Metric::L1,
    Metric::Linf,
    Metric::Canberra,
    Metric::BrayCurtis,
    Metric::JensenShannon,
    Metric::Jaccard,
    Metric::NanEuclidean,
    Metric::Gower,
];

/// What the components of a vector may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Domain {
    pub(crate) least: f32,
    pub(crate) most: f32,
    /// True if they may be NaN: missing.
    pub(crate) missing: bool,
}

impl Domain {
    fn holds(&self, v: f32) -> bool {
        (self.least <= v && v <= self.most) || (self.missing && v.is_nan())
    }

    /// Refuses rows with other components, naming the first.
    pub(crate) fn check(&self, rows: Rows<'_>) -> Result<()> {
        let holds = |row: &[f32]| row.iter().fold(true, |all, v| all & self.holds(*v));
        let Some(row) = rows.iter().position(|row| !holds(row)) else { return Ok(()) };
        let bad = rows.row(row).iter().copied().enumerate().find(|(_, v)| !self.holds(*v));
        let Some((component, value)) = bad else { return Ok(()) };
        match value.is_finite() {
            true => Err(Error::OutOfDomain { row, component, value, least: self.least, most: self.most }),
            false => Err(Error::NotFinite { row, component, value }),
        }
    }

    /// The rows with missing components as they are stored.
    pub(crate) fn stored<'r>(&self, rows: Rows<'r>) -> Cow<'r, [f32]> {
        let other = |v: &f32| v.is_nan() && v.to_bits() != MISSING.to_bits();
        match self.missing && rows.as_slice().iter().any(other) {
            false => Cow::Borrowed(rows.as_slice()),
            true => rows.as_slice().iter().map(|v| if v.is_nan() { MISSING } else { *v }).collect(),
        }
    }
}

/// Refuses centroids that are not finite or so long that distances overflow.
pub(crate) fn check_centroids(metric: Metric, rows: Rows<'_>) -> Result<()> {
    let Some(Domain { least, most, .. }) = metric.domain(rows.dim()) else { return check_norms(rows) };
    // Where it split a cluster, k-means pushed the halves apart by a 1024th.
    let slack = 1.0 + 1.0 / 512.0;
    Domain { least: least * slack, most: most * slack, missing: false }.check(rows)
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
            Metric::L1 => "l1",
            Metric::Linf => "linf",
            Metric::Lp(order) => return write!(f, "lp:{}", order.get()),
            Metric::Canberra => "canberra",
            Metric::BrayCurtis => "braycurtis",
            Metric::JensenShannon => "jensenshannon",
            Metric::Jaccard => "jaccard",
            Metric::NanEuclidean => "nan-euclidean",
            Metric::Gower => "gower",
        })
    }
}

/// The names that [`Metric`] displays as.
impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::Spec { text: text.into(), what: what.into() };
        if let Some(p) = text.strip_prefix("lp:") {
            let metric = p.parse().ok().and_then(|p| Metric::lp(p).ok());
            return metric.ok_or_else(|| bad("lp takes a finite number above 0, such as lp:3"));
        }
        PLAIN.into_iter().find(|metric| metric.to_string() == text).ok_or_else(|| {
            bad("the metric is one of l2, ip, cosine, l1, linf, lp:P, canberra, braycurtis, jensenshannon, jaccard, \
                 nan-euclidean, gower")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all() -> Vec<Metric> {
        PLAIN.into_iter().chain([0.5, 3.0, 1e-40, 3.0e38].map(|p| Metric::lp(p).unwrap())).collect()
    }

    #[test]
    fn tags_and_names_round_trip() {
        for metric in all() {
            let (tag, argument) = metric.to_stored();
            assert_eq!(Metric::from_stored(tag, argument), Some(metric));
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        for (tag, argument) in
            [(0, 0), (13, 0), (1, 1), (4, 1.0f32.to_bits()), (6, 0), (6, f32::NAN.to_bits())]
        {
            assert_eq!(Metric::from_stored(tag, argument), None, "{tag}, {argument}");
        }
        assert_eq!(
            [Metric::L2, Metric::InnerProduct, Metric::Cosine].map(|m| m.to_stored()),
            [(1, 0), (2, 0), (3, 0)]
        );
        assert_eq!(all().into_iter().collect::<HashSet<_>>().len(), all().len());
    }

    #[test]
    fn orders_that_make_no_metric_are_refused() {
        for p in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(Metric::lp(p), Err(Error::Parameter { name: "p", .. })), "{p}");
        }
        for text in ["lp", "lp:", "lp:0", "lp:-1", "lp:nan", "lp:inf", "lp:1e99", "l3", "L1", ""] {
            assert!(matches!(text.parse::<Metric>(), Err(Error::Spec { .. })), "{text}");
        }
    }

    /// The worst that the door lets in: no distance of it is infinite or NaN.
    #[test]
    fn no_distance_within_the_domain_overflows() {
        for metric in all().into_iter().filter(|metric| metric.distance().is_some()) {
            for dim in [1, 3, 64, 65_515] {
                let domain = metric.domain(dim).unwrap();
                let (least, most) = (vec![domain.least; dim], vec![domain.most; dim]);
                assert!(
                    domain.check(Rows::of(&least, dim)).is_ok() && domain.check(Rows::of(&most, dim)).is_ok()
                );
                let pushed: Vec<f32> = most.iter().map(|v| v * (1.0 + 1.0 / 1024.0)).collect();
                assert!(metric == Metric::Gower || check_centroids(metric, Rows::of(&pushed, dim)).is_ok());
                for (a, b) in
                    [(&least, &most), (&least, &least), (&most, &most), (&least, &pushed), (&pushed, &pushed)]
                {
                    let mut score = [0.0];
                    Kernels::get().distances_rows(metric.distance().unwrap(), &[a], b, &mut score);
                    // Of x and −x Bray-Curtis is something over 0, and Gower knows no number against a category.
                    let none = match metric {
                        Metric::BrayCurtis => a[0] == -b[0],
                        Metric::Gower => a[0] * b[0] < 0.0,
                        Metric::Jaccard => a[0] + b[0] == 0.0,
                        _ => false,
                    };
                    assert_eq!(
                        score[0].is_finite(),
                        !none,
                        "{metric}, {dim}: {score:?} of {} and {}",
                        a[0],
                        b[0]
                    );
                }
            }
        }
    }

    #[test]
    fn what_lies_outside_the_domain_is_named() {
        let check =
            |metric: Metric, v: f32| metric.domain(2).unwrap().check(Rows::of(&[0.5, 0.5, 0.5, v], 2));
        for metric in all().into_iter().filter(|metric| metric.distance().is_some()) {
            assert!(matches!(
                check(metric, f32::INFINITY),
                Err(Error::NotFinite { row: 1, component: 1, .. })
            ));
            assert_eq!(check(metric, f32::NAN).is_ok(), metric.takes_missing(), "{metric}");
            let beyond = metric.domain(2).unwrap().most * 1.01;
            assert!(matches!(check(metric, beyond), Err(Error::OutOfDomain { row: 1, component: 1, .. })));
        }
        assert!(check(Metric::Jaccard, -1.0).is_err() && check(Metric::JensenShannon, -1e-9).is_err());
        assert!(check(Metric::Gower, -7.0).is_ok() && check(Metric::Gower, 1.5).is_err());
    }

    #[test]
    fn missing_components_are_stored_as_one_kind_of_nan() {
        let odd = f32::from_bits(0xffff_ffff);
        let rows = [1.0, odd];
        let domain = Metric::Gower.domain(2).unwrap();
        let stored = domain.stored(Rows::of(&rows, 2));
        assert_eq!(stored[1].to_bits(), MISSING.to_bits());
        assert!(
            Metric::Gower.is_sound(&stored)
                && !Metric::Gower.is_sound(&rows)
                && !Metric::L1.is_sound(&stored)
        );
    }

    #[test]
    fn zero_vectors_cannot_be_normalised() {
        let mut rows = [3.0, 4.0, 0.0, 0.0];
        assert!(matches!(normalise(&mut rows, 2), Err(Error::ZeroVector { row: 1 })));
        assert_eq!(rows[..2], [0.6, 0.8]);
    }
}
