//! Codes from outside: what [`IndexReader::encode`](crate::IndexReader::encode) or [`IndexReader::list`](crate::IndexReader::list) handed out, here or in another index of the same
//! training, goes into the lists as it is.
//!
//! Bytes may come from anywhere, so each code is turned back into a vector, which must be one that the index could have been given,
//! and scored: its factors must not make distances NaN or infinite. An index that keeps rows beside its codes takes both together, and compares them
//! as far as `verify` can: a code of another vector than its row is refused.

use super::add::{Encoded, encode};
use super::kept::KeptCheck;
use super::model::Model;
use super::scanner::{Room, enter};
use super::writer::IndexWriter;
use crate::{Error, Metric, Result, Rows, metric};
use std::borrow::Cow;

/// How far a decoded vector's length may be from 1 under cosine: more than bf16 rounds.
const LENGTH_SLACK: f64 = 1.0 / 64.0;

impl IndexWriter<'_> {
    /// Adds vectors as [stand-alone codes](crate::IndexReader::encode) under the ids given: FAISS's `add_sa_codes`.
    ///
    /// # Errors
    /// [`Error::Length`] if they are not as many whole codes as ids; [`Error::Parameter`] for a list that there is not, or a code with
    /// distances that are no numbers; [`Error::NotFinite`], [`Error::TooLong`] and the like for a code of a vector that could not be
    /// added; [`Error::Incompatible`] for an index that keeps rows beside its codes, which would be missing
    /// ([`add_codes_with_rows`](Self::add_codes_with_rows)); [`Error::Untrained`], [`Error::DuplicateId`], [`Error::InvalidId`], [`Error::IdKind`].
    pub fn add_codes(&mut self, ids: &[u64], codes: &[u8]) -> Result<()> {
        let (lists, bare) = self.taken_apart(codes)?;
        self.add_codes_in(ids, &lists, &bare)
    }

    /// The same where rows are kept beside codes (`PQ16,RFlat`, `SQ8,RF16`, …): the rows that were encoded, one a code, are kept, and the codes stored
    /// as they are.
    ///
    /// Where rows are kept exactly, or codes are components, a code must be that of its row. Other kept rows are rounded, and additive codes are not the
    /// same on every processor: there nothing tells, and searches find by the code what they report by the row.
    ///
    /// # Errors
    /// As [`add_codes`](Self::add_codes), and those of the rows as for [`add`](Self::add); [`Error::Length`] if they are not as many as ids;
    /// [`Error::Parameter`] for a code of another vector than its row; [`Error::Incompatible`] for an index that keeps no rows.
    pub fn add_codes_with_rows(&mut self, ids: &[u64], codes: &[u8], rows: Rows<'_>) -> Result<()> {
        let (lists, bare) = self.taken_apart(codes)?;
        self.add_codes_in_with_rows(ids, &lists, &bare, rows)
    }

    /// Stand-alone codes as lists and codes.
    fn taken_apart(&self, codes: &[u8]) -> Result<(Vec<u32>, Vec<u8>)> {
        let (mut lists, mut bare) = (Vec::new(), Vec::with_capacity(codes.len()));
        for (list, code) in self.reader().split_codes(codes)? {
            lists.push(list);
            bare.extend_from_slice(code);
        }
        Ok((lists, bare))
    }

    /// The same of codes as they stand in lists, each in the list given; without the numbers. What [`IndexReader::list`](crate::IndexReader::list) gives of a list
    /// goes into another index so. Where vectors stand in two lists these are the nearest, and the second code is made of the decoded
    /// vector.
    ///
    /// # Errors
    /// As [`add_codes`](Self::add_codes); [`Error::CannotDecode`] where vectors stand in two lists and codes say nothing of them.
    pub fn add_codes_in(&mut self, ids: &[u64], lists: &[u32], codes: &[u8]) -> Result<()> {
        self.add_checked_codes(ids, lists, codes, None)
    }

    /// The same with the rows that were encoded, for an index that keeps rows: see [`add_codes_with_rows`](Self::add_codes_with_rows). Where vectors stand
    /// in two lists the second code is made of the row, or, where codes are components, of the first.
    ///
    /// # Errors
    /// As [`add_codes_with_rows`](Self::add_codes_with_rows).
    pub fn add_codes_in_with_rows(
        &mut self,
        ids: &[u64],
        lists: &[u32],
        codes: &[u8],
        rows: Rows<'_>,
    ) -> Result<()> {
        self.add_checked_codes(ids, lists, codes, Some(rows))
    }

    fn add_checked_codes(
        &mut self,
        ids: &[u64],
        lists: &[u32],
        codes: &[u8],
        kept: Option<Rows<'_>>,
    ) -> Result<()> {
        self.check_keys(false)?;
        self.check_ids(ids, lists.len())?;
        self.check_new(ids)?;
        let model = self.model.clone();
        self.check_takes_codes(lists, codes, kept)?;
        let encoded = Self::in_pool(&self.pool, || -> Result<_> {
            let mut vectors = decoded(&model, lists, codes)?;
            check(&model, &vectors)?;
            check_scores(&model, lists, codes)?;
            let kept = kept.map_or(Ok(Cow::Borrowed(&[][..])), |kept| model.prepare(kept))?;
            if !kept.is_empty() {
                let projected = model.admit(Rows::of(&kept, model.spec.dim))?;
                check_same(&model, lists, codes, Rows::of(&kept, model.spec.dim))?;
                // Both codes of components are those of one vector: of the code, where the row is coarser.
                if model.code_element().is_none()
                    || model.kept.last().is_some_and(|kept| kept.form.is_exact())
                {
                    vectors = projected.into_owned();
                }
            }
            let vectors = Rows::of(&vectors, model.inner_dim());
            let (mut lists, mut codes) = (lists.to_vec(), codes.to_vec());
            if model.spills() {
                let second = model.assign_second(vectors, &lists).split_off(lists.len());
                codes.extend(encode(&model, vectors, &second));
                lists.extend(second);
            }
            Ok(Encoded { rows: kept, lists, codes })
        })?;
        self.change(|writer| writer.insert(ids, &encoded))
    }

    fn check_takes_codes(&self, lists: &[u32], codes: &[u8], kept: Option<Rows<'_>>) -> Result<()> {
        let (model, reader) = (&self.model, self.reader());
        if !self.header.trained {
            return Err(Error::Untrained { index: model.spec.to_string() });
        }
        let what = match (kept, model.kept.is_empty()) {
            (None, false) => format!("codes without the rows that `{}` keeps beside them", model.spec),
            (Some(_), true) => format!("codes with rows, and `{}` keeps none beside them", model.spec),
            _ => String::new(),
        };
        if !what.is_empty() {
            return Err(Error::Incompatible { what });
        }
        if let Some(kept) = kept.filter(|kept| kept.len() != lists.len()) {
            return Err(Error::Length { what: "rows", expected: lists.len(), got: kept.len() });
        }
        if model.spills() && !model.codec.decodes() && kept.is_none() {
            return Err(Error::CannotDecode { encoding: model.spec.encoding().to_string() });
        }
        lists.iter().try_for_each(|list| reader.check_list(*list))?;
        let expected = lists.len().saturating_mul(reader.code_bytes());
        match codes.len() == expected {
            true => Ok(()),
            false => Err(Error::Length { what: "bytes of codes", expected, got: codes.len() }),
        }
    }
}

/// The vectors of codes, where lists and codes live; the centroids where codes say nothing.
fn decoded(model: &Model, lists: &[u32], codes: &[u8]) -> Result<Vec<f32>> {
    let dim = model.inner_dim();
    let mut rows = vec![0.0; lists.len() * dim];
    let codes = codes.chunks_exact(model.codec.layout().code_bytes());
    for ((row, list), code) in rows.chunks_exact_mut(dim).zip(lists).zip(codes) {
        model.codec.decode(model.centroid(*list), code, row);
    }
    Ok(rows)
}

/// Refuses vectors that nobody could have added.
fn check(model: &Model, rows: &[f32]) -> Result<()> {
    let view = Rows::of(rows, model.inner_dim());
    if let Some(domain) = model.metric().domain(view.dim()) {
        domain.check(view)?;
        let stored = domain.stored(view);
        let same = stored.iter().zip(rows).all(|(a, b)| a.to_bits() == b.to_bits());
        return if same { Ok(()) } else { bad("a missing component in other bits than one is stored as") };
    }
    metric::check_norms(view)?;
    if model.metric() != Metric::Cosine || model.code_element().is_none() {
        return Ok(());
    }
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    match view.iter().map(norm).find(|norm| (norm - 1.0).abs() > LENGTH_SLACK) {
        None => Ok(()),
        Some(norm) => bad(&format!("a vector of length {norm}, under cosine they have length 1")),
    }
}

/// Refuses codes of other vectors than those to be kept beside them, where that can be told: `verify` would complain of them.
fn check_same(model: &Model, lists: &[u32], codes: &[u8], kept: Rows<'_>) -> Result<()> {
    let (Some(mut same), Some(column)) = (KeptCheck::new(model), model.kept.last()) else { return Ok(()) };
    let (mut bytes, codes) = (Vec::new(), codes.chunks_exact(model.codec.layout().code_bytes()));
    for (at, ((row, list), code)) in kept.iter().zip(lists).zip(codes).enumerate() {
        bytes.clear();
        column.form.encode(row, &mut bytes);
        if same.of_code(code, &model.decode(*list, code)) != same.of_kept(*list, &bytes) {
            return bad(&format!("code {at} is of another vector than its row"));
        }
    }
    Ok(())
}

fn bad(what: &str) -> Result<()> {
    Err(Error::Parameter { name: "codes", what: what.into() })
}

/// Refuses codes whose factors make a distance NaN or infinite: that of the zero vector tells.
fn check_scores(model: &Model, lists: &[u32], codes: &[u8]) -> Result<()> {
    if model.metric().distance().is_some() {
        return Ok(());
    }
    let zero = vec![0.0; model.inner_dim()];
    let mut scanner = model.codec.scanner(Rows::of(&zero, zero.len()));
    let (mut room, mut entered) = (Room::default(), None);
    let code_bytes = model.codec.layout().code_bytes();
    let mut order: Vec<usize> = (0..lists.len()).collect();
    order.sort_by_key(|at| lists[*at]);
    for at in order {
        if entered.replace(lists[at]) != Some(lists[at]) {
            let coarse = model.coarse_scores(&zero, &lists[at..at + 1]);
            enter(model, &mut *scanner, lists[at], coarse.first().copied().unwrap_or(0.0));
        }
        if room.score(model, &mut *scanner, &codes[at * code_bytes..(at + 1) * code_bytes]).is_none() {
            return bad(&format!("code {at} has distances that are no numbers"));
        }
    }
    Ok(())
}
