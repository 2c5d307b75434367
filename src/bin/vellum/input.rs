//! What commands read: ids, batches of vectors with their ids, queries.

use crate::args::Names;
use crate::failure::Failure;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use vellum::IdSelector;
use vellum::files::{NumberReader, VectorReader};

/// Bytes of f32 that are read at a time.
const BATCH_BYTES: usize = 16 << 20;

/// Rows of `dim` components that are read at a time.
pub(crate) fn batch_rows(dim: usize) -> usize {
    (BATCH_BYTES / (4 * dim)).max(1)
}

/// Vectors with their ids or keys, if they have any, read side by side.
pub(crate) struct Input {
    pub(crate) vectors: VectorReader,
    names: NameReader,
}

/// Some rows of an [`Input`].
pub(crate) struct Batch {
    /// The number of the first row in the file.
    pub(crate) first: u64,
    pub(crate) vectors: Vec<f32>,
    pub(crate) names: BatchNames,
}

/// What the rows of a [`Batch`] are called.
pub(crate) enum BatchNames {
    /// By the store.
    Assigned,
    Ids(Vec<u64>),
    Keys(Vec<String>),
}

enum NameReader {
    None,
    Ids(NumberReader),
    Keys(KeyReader),
}

impl Input {
    pub(crate) fn open(vectors: &Path, names: &Names) -> Result<Self, Failure> {
        let vectors = VectorReader::open(vectors)?;
        let (names, path, what, named) = match (&names.ids, &names.keys) {
            (Some(path), _) => {
                let ids = open_ids(path)?;
                let n = ids.rows();
                (NameReader::Ids(ids), path, "ids", n)
            }
            (None, Some(path)) => {
                let (keys, n) = KeyReader::open(path)?;
                (NameReader::Keys(keys), path, "keys", n)
            }
            (None, None) => return Ok(Input { vectors, names: NameReader::None }),
        };
        match named == vectors.rows() {
            true => Ok(Input { vectors, names }),
            false => Err(Failure::message(format!(
                "{} has {named} {what}, but {} has {} vectors",
                path.display(),
                vectors.path().display(),
                vectors.rows(),
            ))),
        }
    }

    /// Skips the first `rows` rows. Keys cannot be skipped: a load that resumes has none.
    pub(crate) fn seek(&mut self, rows: u64) -> Result<(), Failure> {
        self.vectors.seek(rows)?;
        match &mut self.names {
            NameReader::Ids(ids) => Ok(ids.seek(rows)?),
            NameReader::None | NameReader::Keys(_) => Ok(()),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Batch>, Failure> {
        let first = self.vectors.position();
        let rows = batch_rows(self.vectors.dim());
        let Some(vectors) = self.vectors.next_batch(rows)? else {
            return Ok(None);
        };
        let names = match &mut self.names {
            NameReader::None => BatchNames::Assigned,
            NameReader::Ids(ids) => BatchNames::Ids(ids.next_batch(rows)?.unwrap_or_default()),
            NameReader::Keys(keys) => BatchNames::Keys(keys.next_batch(vectors.len() / self.vectors.dim())?),
        };
        Ok(Some(Batch { first, vectors, names }))
    }
}

/// A text file of keys, one a line.
struct KeyReader {
    path: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
    line: u64,
}

impl KeyReader {
    /// The reader, and how many keys there are. Reads the file once to see that all of them are keys.
    fn open(path: &Path) -> Result<(Self, u64), Failure> {
        let mut first_pass = KeyReader::at_start(path)?;
        while first_pass.next()?.is_some() {}
        Ok((KeyReader::at_start(path)?, first_pass.line))
    }

    fn at_start(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|e| Failure::message(format!("{}: {e}", path.display())))?;
        Ok(KeyReader { path: path.into(), lines: BufReader::new(file).lines(), line: 0 })
    }

    fn next(&mut self) -> Result<Option<String>, Failure> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        self.line += 1;
        let bad =
            |what: String| Failure::message(format!("{}, line {}: {what}", self.path.display(), self.line));
        match line {
            Ok(key) if key.is_empty() => Err(bad("a key has at least one character".into())),
            Ok(key) => Ok(Some(key)),
            Err(e) => Err(bad(e.to_string())),
        }
    }

    fn next_batch(&mut self, rows: usize) -> Result<Vec<String>, Failure> {
        let mut keys = Vec::with_capacity(rows);
        while keys.len() < rows
            && let Some(key) = self.next()?
        {
            keys.push(key);
        }
        Ok(keys)
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

/// All vectors of a file, at least one: queries or centroids.
pub(crate) fn read_rows(path: &Path, dim: usize) -> Result<Vec<f32>, Failure> {
    let mut reader = open_rows(path, dim)?;
    let rows = usize::try_from(reader.rows()).unwrap_or(usize::MAX);
    Ok(reader.next_batch(rows)?.unwrap_or_default())
}

/// A file of vectors, at least one, that fit an index of `dim` components.
pub(crate) fn open_rows(path: &Path, dim: usize) -> Result<VectorReader, Failure> {
    let reader = VectorReader::open(path)?;
    check_dim(path, reader.dim(), dim)?;
    if reader.rows() == 0 {
        return Err(Failure::message(format!("{} holds no vector", path.display())));
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
