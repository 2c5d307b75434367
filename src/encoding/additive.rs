//! Additive codes: a vector is the sum of one word from each of several books.
//!
//! ```text
//! RQ6x8             residual quantizer, 6 books of 2^8 words
//! LSQ6x8            the same books' sum, found by local search
//! RQ1x16_6x8        one book of 2^16 words and six of 2^8 (residual quantizer only)
//! PRQ2x6x8          product form: the components are cut into 2, each part has 6 books of 2^8
//! PLSQ2x6x8
//! RQ8x4fs           books of 2^4, scanned by tables of bytes; of the vector itself
//! RQ8x4fsr          the same of residuals; LSQ8x4fs, PRQ2x4x4fsr, PLSQ2x4x4fs likewise
//!   _Nfloat …       how the squared length of the sum is stored, see `AdditiveNorm`
//!   _raw            of the vector itself instead of what is left of it at its list's centroid
//! ```
//! The spellings up to the norm are FAISS's; `_NfromLUT` and `_raw` are what its factory has no word for.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// How the words of an additive code are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdditiveKind {
    /// Book after book, each trained on what the ones before leave over; a beam of 5 candidates is kept (`RQ`).
    Residual,
    /// All books at once: LSQ++, alternating least squares and iterated local search (`LSQ`). Smaller errors, much
    /// slower to train and to encode.
    LocalSearch,
}

/// How the squared length of the decoded vector y is stored, which squared distances need and products do not: the
/// bits are there under any metric. FAISS's search types. With residuals y is relative to the centroid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdditiveNorm {
    /// Not at all: codes are decoded when they are scored, exactly. The default, without a spelling of its own.
    Decompress,
    /// Not at all: the length is added up from products of the words, exactly (`_NfromLUT`).
    FromTables,
    /// Not at all, and as if all were equal: squared distances are scored as coarse distance less ⟨q − c, y⟩, FAISS's
    /// formula. That orders entries of lengths alike and is no distance (`_Nnone`).
    None,
    /// 32 bits: a float (`_Nfloat`).
    Float,
    /// 8 bits: even steps between the least and the greatest of the training rows (`_Nqint8`).
    Qint8,
    /// 4 bits of the same (`_Nqint4`).
    Qint4,
    /// 8 bits: the nearest of 256 lengths that were clustered (`_Ncqint8`).
    Cqint8,
    /// 4 bits of the same (`_Ncqint4`).
    Cqint4,
    /// 8 bits: an additive code of 2 books of 16 lengths, found by local search (`_Nlsq2x4`).
    Lsq2x4,
    /// The same by residuals (`_Nrq2x4`).
    Rq2x4,
}

const NORMS: [(AdditiveNorm, &str); 10] = [
    (AdditiveNorm::Decompress, ""),
    (AdditiveNorm::FromTables, "_NfromLUT"),
    (AdditiveNorm::None, "_Nnone"),
    (AdditiveNorm::Float, "_Nfloat"),
    (AdditiveNorm::Qint8, "_Nqint8"),
    (AdditiveNorm::Qint4, "_Nqint4"),
    (AdditiveNorm::Cqint8, "_Ncqint8"),
    (AdditiveNorm::Cqint4, "_Ncqint4"),
    (AdditiveNorm::Lsq2x4, "_Nlsq2x4"),
    (AdditiveNorm::Rq2x4, "_Nrq2x4"),
];

impl AdditiveNorm {
    /// Bits of it in a code.
    pub fn bits(self) -> usize {
        match self {
            AdditiveNorm::Decompress | AdditiveNorm::FromTables | AdditiveNorm::None => 0,
            AdditiveNorm::Float => 32,
            AdditiveNorm::Qint8 | AdditiveNorm::Cqint8 | AdditiveNorm::Lsq2x4 | AdditiveNorm::Rq2x4 => 8,
            AdditiveNorm::Qint4 | AdditiveNorm::Cqint4 => 4,
        }
    }

    fn name(self) -> &'static str {
        NORMS.iter().find(|(norm, _)| *norm == self).map_or("", |(_, name)| name)
    }
}

/// Some books of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Run {
    books: u16,
    bits: u8,
}

/// The most sizes of books in one code, in a row.
const RUNS: usize = 4;

/// An additive code: its books, and what else is stored.
///
/// A code is a string of bits, least significant first: the number of the word in each book, part after part in the
/// product form, then the norm; filled up to whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdditiveCode {
    kind: AdditiveKind,
    /// Parts of the product form; 0 if it is none.
    splits: u16,
    runs: [Run; RUNS],
    norm: AdditiveNorm,
    residual: bool,
    fast: bool,
}

/// Words of the books of one part, at most: 64 MiB of 16 components, 1 GiB of 256.
const WORDS_MAX: usize = 1 << 20;

/// The same for local search, which solves for all words at once: a matrix of 512 MiB.
const LOCAL_WORDS_MAX: usize = 1 << 13;

/// Floats of all books together, at most: 1 GiB.
const FLOATS_MAX: usize = 1 << 28;

/// Bits of a code, at most.
const BITS_MAX: usize = 1 << 15;

impl AdditiveCode {
    /// `books` books of 2^`bits` words, relative to the centroid, no norm stored.
    pub fn new(kind: AdditiveKind, books: u16, bits: u8) -> Self {
        let mut runs = [Run::default(); RUNS];
        runs[0] = Run { books, bits };
        AdditiveCode { kind, splits: 0, runs, norm: AdditiveNorm::Decompress, residual: true, fast: false }
    }

    /// The product form: the components are cut into `parts` of the same size, with the books each.
    pub fn with_parts(self, parts: u16) -> Self {
        AdditiveCode { splits: parts, ..self }
    }

    /// Sets how lengths are stored.
    pub fn with_norm(self, norm: AdditiveNorm) -> Self {
        AdditiveCode { norm, ..self }
    }

    /// Sets whether the code is of what the centroid leaves over (true) or of the vector itself.
    pub fn with_residual(self, residual: bool) -> Self {
        AdditiveCode { residual, ..self }
    }

    /// Sets whether codes are scanned by tables of bytes, 32 at a time, which takes books of 2^4. Lengths are then those of
    /// whole vectors, centroid and all, as [`AdditiveNorm::Lsq2x4`] or [`AdditiveNorm::Rq2x4`] stores them (FAISS's
    /// codes); with [`AdditiveNorm::Decompress`] squared distances have a float for each entry, which is exact.
    pub fn with_fast_scan(self, fast: bool) -> Self {
        AdditiveCode { fast, ..self }
    }

    /// True if codes are scanned by tables of bytes.
    pub fn fast_scan(&self) -> bool {
        self.fast
    }

    /// Adds `books` books of another size. Four sizes at most.
    ///
    /// # Errors
    /// [`Error::Spec`] for a fifth size.
    pub fn and(mut self, books: u16, bits: u8) -> Result<Self> {
        let used = self.runs.iter().filter(|run| run.books > 0).count();
        match self.runs[..used].last_mut() {
            Some(last) if last.bits == bits => last.books = last.books.saturating_add(books),
            _ if used == RUNS => return Err(self.wrong(format!("more than {RUNS} sizes of books"))),
            _ => self.runs[used] = Run { books, bits },
        }
        Ok(self)
    }

    /// How the words are found.
    pub fn kind(&self) -> AdditiveKind {
        self.kind
    }

    /// Parts that the components are cut into: 1 without a product form.
    pub fn parts(&self) -> usize {
        usize::from(self.splits.max(1))
    }

    /// The bits of each book of a part.
    pub fn bits(&self) -> Vec<u8> {
        self.runs.iter().flat_map(|run| std::iter::repeat_n(run.bits, usize::from(run.books))).collect()
    }

    /// How lengths are stored.
    pub fn norm(&self) -> AdditiveNorm {
        self.norm
    }

    /// True if the code is of what the centroid leaves over.
    pub fn residual(&self) -> bool {
        self.residual
    }

    /// Bytes of a code.
    pub fn code_bytes(&self) -> usize {
        (self.index_bits() + self.norm.bits()).div_ceil(8)
    }

    /// Bits of all words' numbers.
    pub(crate) fn index_bits(&self) -> usize {
        let bits = |run: &Run| usize::from(run.books) * usize::from(run.bits);
        self.parts() * self.runs.iter().map(bits).sum::<usize>()
    }

    /// Words of the books of one part.
    pub(crate) fn words(&self) -> usize {
        self.runs.iter().map(|run| usize::from(run.books) << run.bits.min(16)).sum()
    }

    /// Refuses what no vector of `dim` components can have.
    pub(crate) fn check(&self, dim: usize) -> Result<()> {
        self.check_books()?;
        if !dim.is_multiple_of(self.parts()) {
            return Err(self.wrong(format!("{dim} components cannot be cut into {} parts", self.parts())));
        }
        if self.words().saturating_mul(dim) > FLOATS_MAX {
            return Err(self.wrong(format!("{} words of {dim} components are too many", self.words())));
        }
        Ok(())
    }

    fn check_books(&self) -> Result<()> {
        let sizes: Vec<&Run> = self.runs.iter().filter(|run| run.books > 0).collect();
        if sizes.is_empty() {
            return Err(self.wrong("no books"));
        }
        if let Some(run) = sizes.iter().find(|run| !(1..=16).contains(&run.bits)) {
            return Err(self.wrong(format!("books of {} bits, must be 1 to 16", run.bits)));
        }
        if sizes.len() > 1 && (self.kind == AdditiveKind::LocalSearch || self.splits > 0) {
            return Err(self.wrong("books of several sizes, which only a residual quantizer can have"));
        }
        let most = match self.kind {
            AdditiveKind::Residual => WORDS_MAX,
            AdditiveKind::LocalSearch => LOCAL_WORDS_MAX,
        };
        if self.words() > most {
            return Err(self.wrong(format!("books of {} words in all, must be {most} at most", self.words())));
        }
        if self.fast && sizes.iter().any(|run| run.bits != 4) {
            return Err(self.wrong("fast scan takes books of 4 bits"));
        }
        let norms = [AdditiveNorm::Decompress, AdditiveNorm::Lsq2x4, AdditiveNorm::Rq2x4];
        if self.fast && !norms.contains(&self.norm) {
            return Err(self.wrong("fast scan stores norms as _Nlsq2x4, _Nrq2x4, or unspelt as floats"));
        }
        if self.index_bits() > BITS_MAX {
            return Err(self.wrong(format!("{} bits, must be {BITS_MAX} at most", self.index_bits())));
        }
        Ok(())
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Spec { text: self.to_string(), what: what.into() }
    }
}

impl fmt::Display for AdditiveCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.splits > 0 {
            f.write_str("P")?;
        }
        f.write_str(match self.kind {
            AdditiveKind::Residual => "RQ",
            AdditiveKind::LocalSearch => "LSQ",
        })?;
        if self.splits > 0 {
            write!(f, "{}x", self.splits)?;
        }
        for (at, run) in self.runs.iter().enumerate().filter(|(_, run)| run.books > 0) {
            let between = if at == 0 { "" } else { "_" };
            write!(f, "{between}{}x{}", run.books, run.bits)?;
        }
        f.write_str(match (self.fast, self.residual) {
            (false, _) => "",
            (true, false) => "fs",
            (true, true) => "fsr",
        })?;
        f.write_str(self.norm.name())?;
        f.write_str(if self.residual || self.fast { "" } else { "_raw" })
    }
}

impl FromStr for AdditiveCode {
    type Err = Error;

    /// Reads `RQ6x8`, `LSQ6x8_Nfloat`, `PRQ2x6x8_Nqint8_raw` and the like.
    ///
    /// # Errors
    /// [`Error::Spec`], with the reason.
    fn from_str(text: &str) -> Result<Self> {
        let code = parse(text).map_err(|what| Error::Spec { text: text.into(), what })?;
        code.check_books().map(|()| code)
    }
}

fn parse(text: &str) -> Result<AdditiveCode, String> {
    let (kind, product, rest) = [("PRQ", "RQ"), ("PLSQ", "LSQ")]
        .into_iter()
        .zip([AdditiveKind::Residual, AdditiveKind::LocalSearch])
        .find_map(|((product, plain), kind)| {
            let as_product = text.strip_prefix(product).map(|rest| (kind, true, rest));
            as_product.or_else(|| text.strip_prefix(plain).map(|rest| (kind, false, rest)))
        })
        .ok_or("an additive code begins with RQ, LSQ, PRQ or PLSQ")?;
    let (rest, residual) = rest.strip_suffix("_raw").map_or((rest, true), |rest| (rest, false));
    let (books, norm) = rest.find("_N").map_or((rest, ""), |at| rest.split_at(at));
    let (books, fast, residual) = match (books.strip_suffix("fsr"), books.strip_suffix("fs")) {
        _ if !residual => (books, false, false),
        (Some(books), _) => (books, true, true),
        (None, Some(books)) => (books, true, false),
        (None, None) => (books, false, true),
    };
    let norm = NORMS.iter().find(|(_, name)| *name == norm).ok_or("no such way to store norms")?.0;
    let (splits, books) = match product {
        true => books.split_once('x').ok_or("the product form is spelled as PRQ2x6x8")?,
        false => ("0", books),
    };
    let splits: u16 = number(splits)?;
    if product && splits == 0 {
        return Err("0 parts, must be at least 1".into());
    }
    let mut code: Option<AdditiveCode> = None;
    for run in books.split('_') {
        let (books, bits) = run.split_once('x').ok_or("books are spelled as 6x8")?;
        let (books, bits) = (number(books)?, number(bits)?);
        if books == 0 {
            return Err("0 books".into());
        }
        let bits = u8::try_from(bits).map_err(|_| format!("books of {bits} bits, must be 1 to 16"))?;
        code = Some(match code {
            None => AdditiveCode::new(kind, books, bits).with_parts(splits),
            Some(code) => code.and(books, bits).map_err(|_| format!("more than {RUNS} sizes of books"))?,
        });
    }
    code.map(|code| code.with_norm(norm).with_residual(residual).with_fast_scan(fast))
        .ok_or_else(|| "no books".into())
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = if digits { text.parse().ok() } else { None };
    value.ok_or_else(|| format!("{text:?} is not a number up to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_back() {
        for text in [
            "RQ6x8",
            "RQ1x16_6x8",
            "RQ8x4_Nqint4",
            "LSQ6x8_Nlsq2x4",
            "PRQ2x6x8_Nqint8",
            "PLSQ4x3x5_Nfloat_raw",
            "RQ6x8_raw",
            "RQ6x8_NfromLUT",
            "RQ6x8_Nnone",
            "RQ6x8_Ncqint8",
            "RQ6x8_Ncqint4_raw",
            "RQ6x8_Nrq2x4",
            "PRQ1x6x8",
            "RQ8x4fs",
            "LSQ5x4fsr_Nrq2x4",
            "PRQ2x3x4fsr",
            "PLSQ2x3x4fs_Nlsq2x4",
            "RQ1x16_2x8_3x4_1x2",
        ] {
            assert_eq!(text.parse::<AdditiveCode>().unwrap().to_string(), text);
        }
        assert_eq!("RQ2x8_4x8".parse::<AdditiveCode>().unwrap().to_string(), "RQ6x8");
    }

    #[test]
    fn codes_have_the_bytes_that_the_formula_says() {
        for (text, bytes) in [
            ("RQ6x8", 6),
            ("RQ6x8_Nfloat", 10),
            ("RQ6x8_Nqint8", 7),
            ("RQ6x8_Nqint4", 7),
            ("RQ3x4_Nqint4", 2),
            ("RQ3x5", 2),
            ("RQ1x16_6x8", 8),
            ("PRQ2x6x8_Nrq2x4", 13),
            ("LSQ8x4_Nlsq2x4", 5),
            ("RQ4x10", 5),
        ] {
            assert_eq!(text.parse::<AdditiveCode>().unwrap().code_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "RQ",
            "RQ6",
            "RQ6x",
            "RQx8",
            "RQ6x8_",
            "RQ6x8_Nfoo",
            "RQ0x8",
            "RQ6x0",
            "RQ6x17",
            "RQ6x300",
            "RQ+6x8",
            "RQ65536x8",
            "RQ6x8_rawx",
            "PRQ6x8",
            "PRQ0x6x8",
            "PRQ2x6x8_2x4",
            "LSQ1x8_2x4",
            "LSQ64x8",
            "RQ32x16",
            "RQ1x1_1x2_1x3_1x4_1x5",
            "PQ6x8",
            "RQ6x8_Nfloat_Nfloat",
            "RQ6x8fs",
            "RQ8x4fs_raw",
            "RQ8x4fsr_Nqint8",
            "RQ8x4fsrr",
        ] {
            assert!(matches!(text.parse::<AdditiveCode>(), Err(Error::Spec { .. })), "{text}");
        }
        let code: AdditiveCode = "PRQ3x2x8".parse().unwrap();
        assert!(code.check(9).is_ok() && code.check(10).is_err());
        assert!("RQ16x16".parse::<AdditiveCode>().unwrap().check(1024).is_err());
    }
}
