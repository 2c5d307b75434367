//! Product quantizers: [`ProductQuantizer`] and [`RefinedProduct`], and how they are spelled.
//!
//! ```text
//! PQ16  PQ16x8       16 sub-spaces of 8 bits: 1 to 16 bits, 8 if none are named
//! PQ16np             without polysemous training: FAISS's factory does it unless the word says not to
//! PQ8+16  PQ8x6+8x4  8 sub-spaces, and what they miss in 16 more
//! …_raw              of the vectors, not of what they are from their lists' centroids (no word of FAISS's)
//! ```

use std::fmt;
use std::str::FromStr;

/// Bits of an index where none are named.
const BITS: usize = 8;

/// Bits of an index at most.
const BITS_MAX: usize = 16;

/// A product quantizer (`PQ16`, `PQ16x8np`): a vector is cut into `m` equal parts, and each is stored as the number of the
/// nearest of 2^`bits` points that training found, ⌈m·bits/8⌉ bytes in all and, for squared L2, a bias of 4 bytes.
///
/// ```
/// # use vellum::ProductQuantizer;
/// let pq: ProductQuantizer = "PQ16x8".parse()?;
/// assert_eq!(pq, ProductQuantizer::new(16));
/// assert_eq!(pq.to_string(), "PQ16");
/// assert_eq!("PQ32x4np_raw".parse::<ProductQuantizer>()?.bits, 4);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductQuantizer {
    /// Sub-spaces: a divisor of the number of components.
    pub m: usize,
    /// Bits of a sub-space's index, 1 to 16.
    pub bits: usize,
    /// True if a vector is encoded relative to its list's centroid, which is more exact; `_raw` if not.
    pub residual: bool,
    /// True if training orders the points so that a Hamming threshold can pass over far entries; `np` if not. The order is
    /// sought for up to 8 bits.
    pub polysemous: bool,
}

impl ProductQuantizer {
    /// `m` sub-spaces of 8 bits of residuals, with polysemous training.
    pub fn new(m: usize) -> Self {
        ProductQuantizer { m, bits: BITS, residual: true, polysemous: true }
    }
}

/// Two product quantizers one after the other (`PQ8+16`): the second encodes what the first misses. Both take part in
/// every score, so there is nothing to rerank.
///
/// ```
/// # use vellum::RefinedProduct;
/// let pqr: RefinedProduct = "PQ8+16x4".parse()?;
/// assert_eq!((pqr.m, pqr.bits, pqr.refine_m, pqr.refine_bits), (8, 8, 16, 4));
/// assert_eq!(pqr.to_string(), "PQ8+16x4");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefinedProduct {
    /// Sub-spaces of the first.
    pub m: usize,
    /// Bits of an index of the first, 1 to 16.
    pub bits: usize,
    /// Sub-spaces of the second.
    pub refine_m: usize,
    /// Bits of an index of the second, 1 to 16.
    pub refine_bits: usize,
    /// True if a vector is encoded relative to its list's centroid; `_raw` if not.
    pub residual: bool,
}

impl RefinedProduct {
    /// `m` sub-spaces of 8 bits of residuals, and `refine_m` more.
    pub fn new(m: usize, refine_m: usize) -> Self {
        RefinedProduct { m, bits: BITS, refine_m, refine_bits: BITS, residual: true }
    }
}

/// `16` or `16x4`.
struct Size(usize, usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Size(m, BITS) => write!(f, "{m}"),
            Size(m, bits) => write!(f, "{m}x{bits}"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (m, bits) = text.split_once('x').map_or((text, None), |(m, bits)| (m, Some(bits)));
        let bits = bits.map_or(Ok(BITS), number)?;
        if bits > BITS_MAX {
            return Err(format!("{bits} bits a sub-space, must be 1 to {BITS_MAX}"));
        }
        Ok(Size(number(m)?, bits))
    }
}

/// A number that is not 0, in digits alone.
fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(format!("`{text}` is no number of sub-spaces or bits")),
    }
}

/// What follows `PQ`, without `_raw`, and whether that was not there.
fn body(text: &str) -> Result<(&str, bool), String> {
    let body = text.strip_prefix("PQ").ok_or_else(|| format!("`{text}` is no product quantizer"))?;
    Ok(body.strip_suffix("_raw").map_or((body, true), |body| (body, false)))
}

fn raw(residual: bool) -> &'static str {
    if residual { "" } else { "_raw" }
}

impl fmt::Display for ProductQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let np = if self.polysemous { "" } else { "np" };
        write!(f, "PQ{}{np}{}", Size(self.m, self.bits), raw(self.residual))
    }
}

impl FromStr for ProductQuantizer {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, residual) = body(text)?;
        let (size, polysemous) = size.strip_suffix("np").map_or((size, true), |size| (size, false));
        let Size(m, bits) = size.parse()?;
        Ok(ProductQuantizer { m, bits, residual, polysemous })
    }
}

impl fmt::Display for RefinedProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = (Size(self.m, self.bits), Size(self.refine_m, self.refine_bits));
        write!(f, "PQ{first}+{second}{}", raw(self.residual))
    }
}

impl FromStr for RefinedProduct {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sizes, residual) = body(text)?;
        let (first, second) = sizes
            .split_once('+')
            .ok_or_else(|| format!("`{text}` is no product quantizer that is refined"))?;
        let (Size(m, bits), Size(refine_m, refine_bits)) = (first.parse()?, second.parse()?);
        Ok(RefinedProduct { m, bits, refine_m, refine_bits, residual })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_back() {
        for (text, canonical) in [
            ("PQ16", "PQ16"),
            ("PQ16x8", "PQ16"),
            ("PQ16np", "PQ16np"),
            ("PQ16x8np", "PQ16np"),
            ("PQ32x4", "PQ32x4"),
            ("PQ8x16np_raw", "PQ8x16np_raw"),
            ("PQ8_raw", "PQ8_raw"),
        ] {
            let pq: ProductQuantizer = text.parse().unwrap();
            assert_eq!(pq.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(pq));
        }
        for (text, canonical) in [
            ("PQ8+8", "PQ8+8"),
            ("PQ8x8+16x8", "PQ8+16"),
            ("PQ8x4+8x6", "PQ8x4+8x6"),
            ("PQ4+2_raw", "PQ4+2_raw"),
        ] {
            let pqr: RefinedProduct = text.parse().unwrap();
            assert_eq!(pqr.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(pqr));
        }
        assert_eq!("PQ16".parse(), Ok(ProductQuantizer::new(16)));
        assert_eq!("PQ8+4".parse(), Ok(RefinedProduct::new(8, 4)));
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "PQ",
            "PQ0",
            "PQ8x0",
            "PQ8x17",
            "PQ8x",
            "PQ+8",
            "PQx8",
            "PQ8x4fs",
            "PQ8x4fsr",
            "PQ-8",
            "PQ8 ",
            "pq8",
            "PQ8npnp",
            "PQ8_rawnp",
            "PQ8_raw_raw",
            "PQ99999999999999999999",
            "",
            "_raw",
            "PQnp",
            "PQ8+8",
        ] {
            assert!(text.parse::<ProductQuantizer>().is_err(), "{text}");
        }
        for text in ["PQ8", "PQ8+", "PQ+8", "PQ8+8+8", "PQ8+8np", "PQ8np+8", "PQ8+0", "PQ8+8x17"] {
            assert!(text.parse::<RefinedProduct>().is_err(), "{text}");
        }
    }
}
