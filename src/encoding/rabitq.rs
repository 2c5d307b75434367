//! RaBitQ: what it is made of, and how that is spelled.
//!
//! ```text
//! RaBitQ | RaBitQ4               1 to 9 bits a component                    FAISS's IndexIVFRaBitQ
//! RaBitQfs | RaBitQfs4                    the same: FAISS's IndexIVFRaBitQFastScan
//! .._q8                          queries rounded to 8 bits, between their least and greatest component
//! .._q8c                         the same in steps about zero (FAISS's `centered`)
//! ```
//! What begins with `_q` is ours: FAISS has fields for them. Both families are one code here, as every scan is
//! a fast scan; which of the two was written is kept, so that a specification is printed as it was given. FAISS's
//! blocks of more than 32 rows (`RaBitQfs_64`) are refused.
//! A rotation that spreads a vector over all components is another part of the specification (`RR128,IVF64,RaBitQ`).

use std::fmt;
use std::str::FromStr;

/// RaBitQ (Gao and Long 2024; several bits: Gao et al. 2025): signs of the residual, further bits of its components, and
/// the factors that make an unbiased estimate of a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RaBitQ {
    bits: u8,
    query_bits: u8,
    centred: bool,
    /// Spelled as FAISS's fast scan.
    fast: bool,
}

/// What FAISS may be told of its blocks and need not be.
const BLOCK: &str = "32";

impl RaBitQ {
    /// So many bits a component, 1 to 9; none beyond that.
    pub fn new(bits: u8) -> Option<Self> {
        let code = RaBitQ { bits, query_bits: 0, centred: false, fast: false };
        (1..=9).contains(&bits).then_some(code)
    }

    /// Queries rounded to so many bits a component, 1 to 8, in equal steps between the least and the greatest. It makes
    /// nothing faster; it is there for those who compare. None beyond 8 or for 0, which is what [`RaBitQ::new`] gives.
    pub fn with_query_bits(self, query_bits: u8) -> Option<Self> {
        (1..=8).contains(&query_bits).then_some(RaBitQ { query_bits, centred: false, ..self })
    }

    /// The same in steps that lie about zero, as far as pays for a normal distribution (FAISS's `centered`).
    pub fn with_centred_query_bits(self, query_bits: u8) -> Option<Self> {
        self.with_query_bits(query_bits).map(|code| RaBitQ { centred: true, ..code })
    }

    /// Spelled `RaBitQfs`.
    pub fn fast_scan(self) -> Self {
        RaBitQ { fast: true, ..self }
    }

    /// Bits of a component, the sign among them.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Bits of a query's component; 0 where queries are not rounded to so many.
    pub fn query_bits(&self) -> u8 {
        self.query_bits
    }

    /// True if the steps of a query lie about zero.
    pub fn is_centred(&self) -> bool {
        self.centred
    }
}

impl fmt::Display for RaBitQ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fast { "RaBitQfs" } else { "RaBitQ" })?;
        if self.bits > 1 {
            write!(f, "{}", self.bits)?;
        }
        match (self.query_bits, self.centred) {
            (0, _) => Ok(()),
            (bits, false) => write!(f, "_q{bits}"),
            (bits, true) => write!(f, "_q{bits}c"),
        }
    }
}

impl FromStr for RaBitQ {
    /// Why it is none.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is no RaBitQ: RaBitQ4 or RaBitQfs4, each with _q8 or _q8c");
        let rest = text.strip_prefix("RaBitQ").ok_or_else(unknown)?;
        let (fast, rest) = rest.strip_prefix("fs").map_or((false, rest), |rest| (true, rest));
        let mut words = rest.split('_');
        let mut code = match words.next().unwrap_or_default() {
            "" => RaBitQ::new(1),
            bits => digit(bits).and_then(RaBitQ::new),
        }
        .ok_or_else(|| format!("`{text}`: 1 to 9 bits a component"))?;
        code.fast = fast;
        let mut word = words.next();
        if let (true, Some(block)) = (fast, word.filter(|word| !word.starts_with('q'))) {
            if block != BLOCK {
                return Err(format!("`{text}` asks for blocks of {block}: entries go in groups of 32 here"));
            }
            word = words.next();
        }
        if let Some(query) = word {
            let bits = query.strip_prefix('q').ok_or_else(unknown)?;
            let rounded = match bits.strip_suffix('c') {
                Some(bits) => digit(bits).and_then(|bits| code.with_centred_query_bits(bits)),
                None => digit(bits).and_then(|bits| code.with_query_bits(bits)),
            };
            code = rounded.ok_or_else(|| format!("`{text}`: queries of 1 to 8 bits a component"))?;
        }
        if words.next().is_some() { Err(unknown()) } else { Ok(code) }
    }
}

fn digit(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_back_as_they_were() {
        for bits in ["", "2", "3", "4", "5", "6", "7", "8", "9"] {
            for family in ["RaBitQ", "RaBitQfs"] {
                for query in ["", "_q1", "_q8", "_q4c"] {
                    let text = format!("{family}{bits}{query}");
                    let code: RaBitQ = text.parse().unwrap();
                    assert_eq!(code.to_string(), text);
                    assert_eq!(code.bits(), bits.parse().unwrap_or(1));
                    assert_eq!(code.is_centred(), query.ends_with('c'));
                    assert_eq!(code.query_bits() == 0, query.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_goes_without_saying_is_not_printed() {
        for (text, printed) in
            [("RaBitQ1", "RaBitQ"), ("RaBitQfs1", "RaBitQfs"), ("RaBitQfs_32_q8", "RaBitQfs_q8")]
        {
            assert_eq!(text.parse::<RaBitQ>().unwrap().to_string(), printed);
        }
        assert_eq!(RaBitQ::new(4).unwrap().fast_scan().to_string(), "RaBitQfs4");
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "RaBit",
            "rabitq",
            "RaBitQ0",
            "RaBitQ10",
            "RaBitQ44",
            "RaBitQ_",
            "RaBitQ_64",
            "RaBitQfs_",
            "RaBitQfs_0",
            "RaBitQfs_31",
            "RaBitQfs_64",
            "RaBitQ_32",
            "RaBitQfs_+32",
            "RaBitQfs_032",
            "RaBitQfs_99999999",
            "RaBitQ_q",
            "RaBitQ_q0",
            "RaBitQ_q9",
            "RaBitQ_q8_q8",
            "RaBitQ_q8cc",
            "RaBitQfs_32_32",
            "RaBitQfs4_32_",
            "RaBitQé",
        ] {
            assert!(text.parse::<RaBitQ>().is_err(), "{text}");
        }
        assert!(RaBitQ::new(0).is_none() && RaBitQ::new(10).is_none());
        let code = RaBitQ::new(1).unwrap();
        assert!(code.with_query_bits(0).is_none() && code.with_centred_query_bits(9).is_none());
    }
}
