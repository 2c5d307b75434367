//! What commands read: ids, batches of vectors with their ids, queries.

use crate::failure::Failure;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use vellum::files::{NumberReader, VectorReader};
use vellum::{Error, IdSelector};

/// Bytes of f32 that are read at a time.
const BATCH_BYTES: usize = 16 << 20;

/// Rows of `dim` components that are read at a time.
pub(crate) fn batch_rows(dim: usize) -> usize {
    (BATCH_BYTES / (4 * dim)).max(1)
}

/// Vectors with their ids, if they have any, read side by side.
pub(crate) struct Input {
    pub(crate) vectors: VectorReader,
    ids: Option<NumberReader>,
}

/// Some rows of an [`Input`].
pub(crate) struct Batch {
    /// The number of the first row in the file.
    pub(crate) first: u64,
    pub(crate) vectors: Vec<f32>,
    pub(crate) ids: Option<Vec<u64>>,
}

impl Input {
    pub(crate) fn open(vectors: &Path, ids: Option<&Path>) -> Result<Self, Failure> {
        let vectors = VectorReader::open(vectors)?;
        let ids = ids.map(open_ids).transpose()?;
        match &ids {
            Some(ids) if ids.rows() != vectors.rows() => Err(Failure::message(format!(
                "{} has {} ids, but {} has {} vectors",
                ids.path().display(),
                ids.rows(),
                vectors.path().display(),
                vectors.rows(),
            ))),
            _ => Ok(Input { vectors, ids }),
        }
    }

    /// Skips the first `rows` rows.
    pub(crate) fn seek(&mut self, rows: u64) -> Result<(), Failure> {
        self.vectors.seek(rows)?;
        Ok(self.ids.as_mut().map_or(Ok(()), |ids| ids.seek(rows))?)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Batch>, Failure> {
        let first = self.vectors.position();
        let rows = batch_rows(self.vectors.dim());
        let Some(vectors) = self.vectors.next_batch(rows)? else {
            return Ok(None);
        };
        let ids = match &mut self.ids {
            Some(ids) => ids.next_batch(rows)?,
            None => None,
        };
        Ok(Some(Batch { first, vectors, ids }))
    }

    /// `error` about a row of `batch`, with the number that the row has in the file.
    pub(crate) fn in_file(&self, error: Error, first: u64) -> Failure {
        let first = first as usize;
        let error = match error {
            Error::NotFinite { row, component, value } => {
                Error::NotFinite { row: first + row, component, value }
            }
            Error::ZeroVector { row } => Error::ZeroVector { row: first + row },
            Error::OutOfRange { row, component, value, element } => {
                Error::OutOfRange { row: first + row, component, value, element }
            }
            error => error,
        };
        error.into()
    }
}

/// A file of ids: one column.
fn open_ids(path: &Path) -> Result<NumberReader, Failure> {
    let ids = NumberReader::open(path)?;
    match ids.columns() {
        1 => Ok(ids),
        columns => Err(Failure::message(format!("{}: ids need 1 column, not {columns}", path.display()))),
    }
}

/// All ids of a file.
pub(crate) fn read_ids(path: &Path) -> Result<Vec<u64>, Failure> {
    let mut ids = open_ids(path)?;
    let rows = usize::try_from(ids.rows().max(1)).unwrap_or(usize::MAX);
    Ok(ids.next_batch(rows)?.unwrap_or_default())
}

/// All queries of a file.
pub(crate) fn read_queries(path: &Path, dim: usize) -> Result<Vec<f32>, Failure> {
    let mut reader = open_queries(path, dim)?;
    let rows = usize::try_from(reader.rows().max(1)).unwrap_or(usize::MAX);
    Ok(reader.next_batch(rows)?.unwrap_or_default())
}

/// A file of queries that fit an index of `dim` components.
pub(crate) fn open_queries(path: &Path, dim: usize) -> Result<VectorReader, Failure> {
    let reader = VectorReader::open(path)?;
    check_dim(path, reader.dim(), dim)?;
    if reader.rows() == 0 {
        return Err(Failure::message(format!("{} holds no query", path.display())));
    }
    Ok(reader)
}

/// Refuses vectors that do not fit the index, naming their file.
pub(crate) fn check_dim(path: &Path, dim: usize, needed: usize) -> Result<(), Failure> {
    if dim == needed {
        return Ok(());
    }
    Err(Failure::message(format!(
        "{} has vectors of {dim} components, but the index has {needed}",
        path.display()
    )))
}

/// Ids as they are typed: `1,2,5-9`, both ends of a range included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdList(Vec<RangeInclusive<u64>>);

impl IdList {
    /// Single ids in one hashed set, ranges merged and combined two by two: neither many ids nor many
    /// ranges make a deep or slow selector.
    pub(crate) fn selector(&self) -> IdSelector {
        let (single, mut long): (Vec<_>, Vec<_>) =
            self.0.iter().cloned().partition(|ids| ids.start() == ids.end());
        long.sort_by_key(|ids| *ids.start());
        let mut merged: Vec<RangeInclusive<u64>> = Vec::new();
        for ids in long {
            match merged.last_mut() {
                Some(last) if *ids.start() <= *last.end() => {
                    *last = *last.start()..=*last.end().max(ids.end())
                }
                _ => merged.push(ids),
            }
        }
        let single = (!single.is_empty()).then(|| IdSelector::batch(single.iter().map(|ids| *ids.start())));
        match (single, any_of(&merged)) {
            (Some(single), Some(ranges)) => single.or(ranges),
            (single, ranges) => single.or(ranges).unwrap_or(IdSelector::Array(Vec::new())),
        }
    }
}

fn any_of(ranges: &[RangeInclusive<u64>]) -> Option<IdSelector> {
    match ranges {
        [] => None,
        [ids] => Some(match ids.end().checked_add(1) {
            Some(end) => IdSelector::range(*ids.start()..end),
            // The last id of all has no end after it.
            None => IdSelector::range(*ids.start()..u64::MAX).or(IdSelector::batch([u64::MAX])),
        }),
        _ => {
            let (a, b) = ranges.split_at(ranges.len() / 2);
            Some(any_of(a)?.or(any_of(b)?))
        }
    }
}

impl FromStr for IdList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no id"));
        let range = |part: &str| match part.split_once('-') {
            None => number(part).map(|id| id..=id),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first <= last { Ok(first..=last) } else { Err(format!("`{part}` runs backwards")) }
            }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(IdList)
    }
}

/// A size such as `1000`, `512K`, `512M` or `2G`, in units of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "a size is a whole number of bytes, with K, M or G if need be: 512M".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_they_are_typed() {
        let list: IdList = "1,2,7-9,5-8".parse().unwrap();
        let selector = list.selector();
        let chosen: Vec<u64> = (0..12).filter(|&id| selector.contains(id)).collect();
        assert_eq!(chosen, [1, 2, 5, 6, 7, 8, 9]);
        let last: IdList = "18446744073709551614-18446744073709551615".parse().unwrap();
        assert!(last.selector().contains(u64::MAX) && last.selector().contains(u64::MAX - 1));
        for text in ["", ",", "1,", "-1", "1-", "a", "9-5", "18446744073709551616", "1-2-3"] {
            assert!(text.parse::<IdList>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_they_are_typed() {
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        for text in ["", "M", "-1", "1.5G", "99999999999999G", "1T", "é"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
