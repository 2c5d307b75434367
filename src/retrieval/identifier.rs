//! Identifiers: what a retriever's vectors are called, and how that becomes ids and keys of an index.
//!
//! ```text
//! unsigned   n                                        the id n
//! signed     n ≥ 0: n      n < 0: n + 2^64 − 1        an id; the least number of all has none
//! text, bytes                                         a key
//! ```
//! Numbers that are not negative are their own ids, so whoever reads the index by itself sees what the application sees.

use crate::{Error, Result};
use std::fmt;

/// What one vector of a retriever is called.
///
/// ```
/// # use vellum::Identifier;
/// assert_eq!(Identifier::from("page-7").as_str(), Some("page-7"));
/// assert_eq!(Identifier::from(-7i64).to_string(), "-7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Identifier {
    /// A number, at most 2^64 - 2. Row numbers are such.
    Unsigned(u64),
    /// A number that may be negative; any but `i64::MIN`.
    Signed(i64),
    /// A text of 1 to 1,024 bytes.
    Text(String),
    /// 1 to 1,024 bytes.
    Bytes(Vec<u8>),
}

impl Identifier {
    /// The number, if it is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Identifier::Unsigned(n) => Some(*n),
            Identifier::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The number, if it is one and fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Identifier::Unsigned(n) => i64::try_from(*n).ok(),
            Identifier::Signed(n) => Some(*n),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Identifier::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of a text, or the bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Identifier::Text(text) => Some(text.as_bytes()),
            Identifier::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identifier::Unsigned(n) => n.fmt(f),
            Identifier::Signed(n) => n.fmt(f),
            Identifier::Text(text) => text.fmt(f),
            Identifier::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

macro_rules! identifiers_from {
    ($($given:ty => |$value:ident| $made:expr;)*) => {$(
        impl From<$given> for Identifier {
            fn from($value: $given) -> Self {
                $made
            }
        }
    )*};
}
identifiers_from! {
    u64 => |n| Identifier::Unsigned(n);
    u32 => |n| Identifier::Unsigned(n.into());
    i64 => |n| Identifier::Signed(n);
    i32 => |n| Identifier::Signed(n.into());
    &str => |text| Identifier::Text(text.into());
    String => |text| Identifier::Text(text);
    &[u8] => |bytes| Identifier::Bytes(bytes.into());
    Vec<u8> => |bytes| Identifier::Bytes(bytes);
}

/// The identifiers of some vectors, or none: then they are called by their row numbers, from 0.
///
/// Made from arrays, slices and vectors of numbers (`u64`, `u32`, `i64`, `i32`), texts or bytes; all of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identifiers {
    /// 0, 1, 2, …
    #[default]
    RowNumbers,
    /// One for each vector.
    Each(Vec<Identifier>),
}

impl<T: Into<Identifier>> From<Vec<T>> for Identifiers {
    fn from(each: Vec<T>) -> Self {
        Identifiers::Each(each.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Identifier> + Clone> From<&[T]> for Identifiers {
    fn from(each: &[T]) -> Self {
        Identifiers::Each(each.iter().cloned().map(Into::into).collect())
    }
}

impl<T: Into<Identifier> + Clone> From<&Vec<T>> for Identifiers {
    fn from(each: &Vec<T>) -> Self {
        each.as_slice().into()
    }
}

impl<T: Into<Identifier>, const N: usize> From<[T; N]> for Identifiers {
    fn from(each: [T; N]) -> Self {
        Identifiers::Each(each.into_iter().map(Into::into).collect())
    }
}

/// What the identifiers of a retriever are: stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unsigned,
    Signed,
    Text,
    Bytes,
}

/// Their names in the note.
pub(super) const KINDS: [(Kind, &str); 4] =
    [(Kind::Unsigned, "unsigned"), (Kind::Signed, "signed"), (Kind::Text, "text"), (Kind::Bytes, "bytes")];

impl Kind {
    /// What the first of them is; numbers where there is none.
    pub(super) fn of(identifiers: &Identifiers) -> Self {
        match identifiers {
            Identifiers::RowNumbers => Kind::Unsigned,
            Identifiers::Each(each) => match each.first() {
                None | Some(Identifier::Unsigned(_)) => Kind::Unsigned,
                Some(Identifier::Signed(_)) => Kind::Signed,
                Some(Identifier::Text(_)) => Kind::Text,
                Some(Identifier::Bytes(_)) => Kind::Bytes,
            },
        }
    }

    /// True if they are keys of the index and not ids.
    pub(super) fn is_key(self) -> bool {
        matches!(self, Kind::Text | Kind::Bytes)
    }

    fn refuse<T>(self) -> Result<T> {
        Err(Error::IdKind {
            what: match self {
                Kind::Unsigned => "identifiers that are numbers and not negative",
                Kind::Signed => "identifiers that are numbers",
                Kind::Text => "identifiers that are texts",
                Kind::Bytes => "identifiers that are bytes",
            },
        })
    }

    /// The ids that stand for numbers.
    pub(super) fn ids(self, identifiers: &[Identifier]) -> Result<Vec<u64>> {
        identifiers.iter().map(|identifier| self.id(identifier)).collect()
    }

    fn id(self, identifier: &Identifier) -> Result<u64> {
        let id = match self {
            Kind::Unsigned => identifier.as_u64(),
            Kind::Signed => identifier.as_i64().map(signed_id).transpose()?,
            Kind::Text | Kind::Bytes => None,
        };
        id.map_or_else(|| self.refuse(), Ok)
    }

    /// The keys that are texts or bytes.
    pub(super) fn keys<'i>(self, identifiers: &'i [Identifier]) -> Result<Vec<&'i [u8]>> {
        let key = |identifier: &'i Identifier| match (self, identifier) {
            (Kind::Text, Identifier::Text(text)) => Ok(text.as_bytes()),
            (Kind::Bytes, Identifier::Bytes(bytes)) => Ok(bytes.as_slice()),
            _ => self.refuse(),
        };
        identifiers.iter().map(key).collect()
    }

    /// The identifier of an id that is no key.
    pub(super) fn of_id(self, id: u64) -> Identifier {
        match (self, i64::try_from(id)) {
            (Kind::Signed, Ok(n)) => Identifier::Signed(n),
            // The ids from 2^63 on stand for -2^63 + 1 and above.
            (Kind::Signed, Err(_)) => Identifier::Signed(id.wrapping_add(1) as i64),
            _ => Identifier::Unsigned(id),
        }
    }

    /// The identifier that a key is; `None` if it is not.
    pub(super) fn of_key(self, key: Vec<u8>) -> Option<Identifier> {
        match self {
            Kind::Text => String::from_utf8(key).ok().map(Identifier::Text),
            _ => Some(Identifier::Bytes(key)),
        }
    }
}

fn signed_id(n: i64) -> Result<u64> {
    match n {
        i64::MIN => Err(Error::InvalidId { what: format!("{n}, the least is {}", i64::MIN + 1) }),
        0.. => Ok(n as u64),
        _ => Ok((n as u64).wrapping_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn signed_numbers_have_ids_of_their_own_and_come_back() {
        let numbers = [i64::MIN + 1, i64::MIN + 2, -2, -1, 0, 1, i64::MAX - 1, i64::MAX];
        let ids: Vec<u64> = numbers.iter().map(|n| signed_id(*n).unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), numbers.len());
        for (n, id) in numbers.into_iter().zip(ids) {
            assert_ne!(id, u64::MAX);
            assert_eq!(Kind::Signed.of_id(id), Identifier::Signed(n));
            assert!(n < 0 || id == n as u64);
        }
        assert!(matches!(signed_id(i64::MIN), Err(Error::InvalidId { .. })));
    }

    #[test]
    fn another_kind_is_refused() {
        let (number, text) = ([Identifier::from(3i32)], [Identifier::from("3")]);
        assert_eq!(Kind::Unsigned.ids(&number).unwrap(), [3]);
        assert!(matches!(Kind::Unsigned.ids(&[(-3i32).into()]), Err(Error::IdKind { .. })));
        assert!(matches!(Kind::Signed.ids(&[u64::MAX.into()]), Err(Error::IdKind { .. })));
        for kind in [Kind::Unsigned, Kind::Signed] {
            assert!(matches!(kind.ids(&text), Err(Error::IdKind { .. })));
        }
        assert!(matches!(Kind::Text.keys(&number), Err(Error::IdKind { .. })));
        assert!(matches!(Kind::Bytes.keys(&text), Err(Error::IdKind { .. })));
    }
}
