//! Merging: codes from one index into another whose codes mean the same, without decoding them.
//!
//! Two indexes go together if their specifications agree in all that codes depend on and training left the same centroids
//! and tables in both, to the bit: copies of one trained index, say, or shards of it. Codes, kept rows and keys are copied
//! as they are, list by list, in one verb: all of it or nothing.

use super::add::Encoded;
use super::model::Model;
use super::reader::IndexReader;
use super::twins;
use super::writer::IndexWriter;
use crate::math::transform::Chain;
use crate::storage::ids::NO_ID;
use crate::{Error, IndexSpec, Observer, Result};
use std::borrow::Cow;
use std::ops::Range;

/// Which vectors of an index to copy. Where vectors stand in two lists the nearest one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subset {
    /// All.
    All,
    /// Those whose ids are in the range.
    Ids(Range<u64>),
    /// Those whose id leaves this remainder when divided by that number.
    IdModulo {
        /// The number, at least 1.
        modulus: u64,
        /// The remainder, below it.
        remainder: u64,
    },
    /// By rank, 0 to len − 1, where each list's entries are spread evenly over the ranks: a range has as large a part of
    /// each list as it has of all. Ranges that follow each other share nothing and leave nothing out.
    Elements(Range<u64>),
    /// One of equal parts of each list.
    ListPart {
        /// How many parts, at least 1.
        parts: u64,
        /// Which one, 0 to parts − 1.
        part: u64,
    },
    /// Those in a range of lists.
    Lists(Range<u32>),
}

impl Subset {
    fn check(&self) -> Result<()> {
        let bad = |name, what| Err(Error::Parameter { name, what });
        match *self {
            Subset::IdModulo { modulus, remainder } if remainder >= modulus => {
                bad("remainder", format!("{remainder}, the modulus is {modulus}"))
            }
            Subset::ListPart { parts, part } if part >= parts => bad("part", format!("{part} of {parts}")),
            _ => Ok(()),
        }
    }
}

/// Rows that are copied at a time.
const ROWS_AT_A_TIME: usize = 16 << 10;

/// Rows on their way: numbers in the other index, lists, and codes of their entries (nearest lists first).
#[derive(Default)]
struct Copies {
    ids: Vec<u64>,
    rows: Vec<u32>,
    lists: Vec<u32>,
    codes: Vec<u8>,
}

impl IndexReader<'_> {
    /// Tells why codes of `other` cannot be taken as they are, if they cannot.
    ///
    /// # Errors
    /// [`Error::Incompatible`].
    pub fn check_compatible_for_merge(&self, other: &IndexReader<'_>) -> Result<()> {
        compatible(&self.model, &other.model)
    }

    /// Adds a part of this index to `other`, under the same ids, or the same keys and new ids. Returns how many vectors.
    /// Ticks as `"copy"`.
    ///
    /// # Errors
    /// [`Error::Incompatible`]; [`Error::DuplicateId`] or [`Error::DuplicateKey`] for what is there already;
    /// [`Error::Parameter`] for a subset that is none; [`Error::Cancelled`], after which the transaction must be aborted.
    pub fn copy_subset_to(
        &self,
        other: &mut IndexWriter<'_>,
        subset: &Subset,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        other.take(self, subset, 0, observer)
    }

    /// The entries of a list that are the nearest of their rows, by offset: row numbers and codes. An entry that several
    /// rows share comes once for each.
    fn nearest_entries(&self, list: u32) -> Result<(Vec<u32>, Vec<u8>)> {
        let model = &self.model;
        let (mut rows, mut codes) = (Vec::new(), Vec::new());
        self.view.visit(list, &mut |run| {
            rows.extend(run.rows.iter().map(|row| row.get()));
            model.geometry.layout.unpack(run.codes, run.rows.len(), &mut codes);
            Ok(())
        })?;
        if !model.spills() {
            return self.one_each(rows, codes);
        }
        let (mut kept, mut kept_codes) = (Vec::new(), Vec::new());
        for (row, code) in rows.into_iter().zip(codes.chunks_exact(self.code_bytes())) {
            let slot = self.view.slot_of(row, &model.slots_column, model.places())?;
            if self.slot_within(row, slot)?.list == list {
                kept.push(row);
                kept_codes.extend_from_slice(code);
            }
        }
        Ok((kept, kept_codes))
    }

    /// Entries of a list with a row and a code for each row that shares them.
    pub(crate) fn one_each(&self, rows: Vec<u32>, codes: Vec<u8>) -> Result<(Vec<u32>, Vec<u8>)> {
        if self.header().twins == 0 {
            return Ok((rows, codes));
        }
        let (mut all, mut all_codes) = (Vec::new(), Vec::new());
        for (head, code) in rows.into_iter().zip(codes.chunks_exact(self.code_bytes())) {
            twins::for_each_twin(&*self.view, head, |row| {
                all.push(row);
                all_codes.extend_from_slice(code);
                Ok(true)
            })?;
        }
        Ok((all, all_codes))
    }

    /// The offsets that `subset` has of each list's nearest entries.
    fn parts(&self, subset: &Subset) -> Result<Vec<Range<u64>>> {
        let size = |list| match self.model.spills() {
            true => Ok(self.nearest_entries(list)?.0.len() as u64),
            false if self.header().twins > 0 => Ok(self.nearest_entries(list)?.0.len() as u64),
            false => Ok(u64::from(self.view.list(list)?.n)),
        };
        let sizes: Vec<u64> = (0..self.nlist() as u32).map(size).collect::<Result<_>>()?;
        Ok(match subset {
            Subset::Elements(Range { start, end }) => {
                let (from, to) = (shares(&sizes, *start), shares(&sizes, *end));
                from.into_iter().zip(to).map(|(from, to)| from..to).collect()
            }
            Subset::ListPart { parts, part } => {
                sizes.iter().map(|n| scaled(*n, *part, *parts)..scaled(*n, *part + 1, *parts)).collect()
            }
            Subset::Lists(lists) => {
                let part = |(list, n)| if lists.contains(&list) { 0..n } else { 0..0 };
                (0..).zip(sizes).map(part).collect()
            }
            _ => sizes.into_iter().map(|n| 0..n).collect(),
        })
    }

    /// Appends what `subset` has of a list, at the offsets of `part`.
    fn gather(&self, list: u32, part: &Range<u64>, subset: &Subset, copies: &mut Copies) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let (rows, codes) = self.nearest_entries(list)?;
        let entries = rows.iter().zip(codes.chunks_exact(self.code_bytes()));
        for (row, code) in entries.take(part.end as usize).skip(part.start as usize) {
            let id = self.view.id(*row)?;
            let wanted = match *subset {
                Subset::Ids(ref ids) => ids.contains(&id),
                Subset::IdModulo { modulus, remainder } => id % modulus == remainder,
                _ => true,
            };
            if wanted {
                copies.ids.push(id);
                copies.rows.push(*row);
                copies.lists.push(list);
                copies.codes.extend_from_slice(code);
            }
        }
        Ok(())
    }

    /// The second entries of the rows of `copies`, behind their nearest ones.
    fn gather_seconds(&self, copies: &mut Copies) -> Result<()> {
        let model = &self.model;
        for row in copies.rows.iter().filter(|_| model.spills()) {
            let slots = self.view.slots_of(*row, &model.slots_column, model.places())?;
            let lost = || Error::corrupt("slots", (*row).into(), "the second slot does not hold the row");
            let slot = slots.second.ok_or_else(lost)?;
            let (code, _) = self
                .view
                .code_at(slot, &model.geometry)?
                .filter(|(_, there)| there == row)
                .ok_or_else(lost)?;
            copies.lists.push(self.slot_within(*row, slot)?.list);
            copies.codes.extend_from_slice(&code);
        }
        Ok(())
    }
}

/// `n · share / of`, rounded down.
fn scaled(n: u64, share: u64, of: u64) -> u64 {
    (u128::from(n) * u128::from(share)).checked_div(u128::from(of)).unwrap_or(0) as u64
}

/// How many entries of each list are among the first `rank` of all, where entry j of a list of n stands at (j + ½)/n and
/// ties go to the lower list: more for a higher rank in every list (Webster's method of apportioning).
fn shares(sizes: &[u64], rank: u64) -> Vec<u64> {
    if rank >= sizes.iter().sum() {
        return sizes.to_vec();
    }
    let before = |at: f64, n: u64| ((n as f64 * at - 0.5).ceil().max(0.0) as u64).min(n);
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = (low + high) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        let all: u64 = sizes.iter().map(|n| before(middle, *n)).sum();
        *(if all <= rank { &mut low } else { &mut high }) = middle;
    }
    let mut shares: Vec<u64> = sizes.iter().map(|n| before(low, *n)).collect();
    let mut left = rank - shares.iter().sum::<u64>();
    for (share, n) in shares.iter_mut().zip(sizes) {
        let tied = (before(high, *n) - *share).min(left);
        *share += tied;
        left -= tied;
    }
    shares
}

impl IndexWriter<'_> {
    /// Adds all vectors of `other`, `add_id` added to their ids; keys stay as they are and get new ids. `other` stays as it
    /// is. Returns how many. Ticks as `"copy"`.
    ///
    /// # Errors
    /// As [`IndexReader::copy_subset_to`]; [`Error::InvalidId`] for ids that become too large.
    pub fn merge_from(
        &mut self,
        other: &IndexReader<'_>,
        add_id: u64,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        self.take(other, &Subset::All, add_id, observer)
    }

    fn take(
        &mut self,
        other: &IndexReader<'_>,
        subset: &Subset,
        add_id: u64,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        subset.check()?;
        compatible(&self.model, &other.model)?;
        let parts = other.parts(subset)?;
        self.check_room(other, subset, &parts, add_id)?;
        let all: u64 = parts.iter().map(|part| part.end.saturating_sub(part.start)).sum();
        self.change(|writer| {
            let (mut copies, mut seen, mut done) = (Copies::default(), 0, 0);
            for (list, part) in (0..).zip(&parts) {
                other.gather(list, part, subset, &mut copies)?;
                seen += part.end.saturating_sub(part.start);
                if copies.ids.len() >= ROWS_AT_A_TIME || list as usize + 1 == parts.len() {
                    done += copies.ids.len() as u64;
                    writer.insert_copies(other, std::mem::take(&mut copies), add_id)?;
                    observer.tick("copy", seen, all)?;
                }
            }
            Ok(done)
        })
    }

    /// Refuses ids and keys that are there already, before the first write.
    fn check_room(
        &self,
        other: &IndexReader<'_>,
        subset: &Subset,
        parts: &[Range<u64>],
        add_id: u64,
    ) -> Result<()> {
        let mut copies = Copies::default();
        for (list, part) in (0..).zip(parts) {
            other.gather(list, part, subset, &mut copies)?;
            for id in copies.ids.drain(..) {
                match other.key(id)? {
                    Some(key) if self.tables.id_of_key(&key)?.is_some() => {
                        return Err(Error::DuplicateKey { key });
                    }
                    Some(_) => {}
                    None => self.check_id(id, add_id)?,
                }
            }
            copies = Copies::default();
        }
        Ok(())
    }

    fn check_id(&self, id: u64, add_id: u64) -> Result<()> {
        let new = id
            .checked_add(add_id)
            .filter(|id| *id != NO_ID)
            .ok_or_else(|| Error::InvalidId { what: format!("{id} and {add_id} are too much together") })?;
        // Ids from next_id on were never seen.
        if new < self.header.next_id && self.tables.row_of(new)?.is_some() {
            return Err(Error::DuplicateId { id: new });
        }
        Ok(())
    }

    fn insert_copies(&mut self, other: &IndexReader<'_>, mut copies: Copies, add_id: u64) -> Result<()> {
        other.gather_seconds(&mut copies)?;
        let keys: Vec<Vec<u8>> =
            copies.ids.iter().filter_map(|id| other.key(*id).transpose()).collect::<Result<_>>()?;
        let ids: Vec<u64> = match self.header.keys {
            true => self.new_ids(copies.ids.len())?.collect(),
            false => copies.ids.iter().map(|id| id + add_id).collect(),
        };
        let encoded = Encoded { rows: Cow::Borrowed(&[]), lists: copies.lists, codes: copies.codes };
        let model = self.model.clone();
        self.insert_with(&ids, &encoded, |writer, numbers| {
            for kept in &model.kept {
                let mut bytes = Vec::with_capacity(copies.rows.len() * kept.column.width);
                other.view.kept_rows(kept.stage, &copies.rows, &mut |_, rows| {
                    rows.iter().for_each(|row| bytes.extend_from_slice(row));
                    Ok(())
                })?;
                writer.keep_bytes(kept, &bytes, numbers)?;
            }
            Ok(())
        })?;
        self.map_keys(&keys, &ids)
    }
}

/// Why codes of the one mean nothing to the other.
fn compatible(a: &Model, b: &Model) -> Result<()> {
    let differ = |what: &str| Err(Error::Incompatible { what: what.into() });
    if a.spec.dim != b.spec.dim {
        return differ(&format!("dimensions {} and {}", a.spec.dim, b.spec.dim));
    }
    if a.spec.metric != b.spec.metric {
        return differ(&format!("metrics {} and {}", a.spec.metric, b.spec.metric));
    }
    // Who chose it matters to nobody's codes.
    let chosen = |model: &Model| IndexSpec { auto: None, ..model.spec.clone() }.to_string();
    if chosen(a) != chosen(b) {
        return differ(&format!("`{}` and `{}`", a.spec, b.spec));
    }
    if a.spec.keys != b.spec.keys {
        return differ("one names vectors by keys, the other by integers");
    }
    let bits = |model: &Model| model.centroids().map(|rows| rows.as_slice().to_vec());
    let same = match (bits(a), bits(b)) {
        (Some(a), Some(b)) => a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())),
        (None, None) => true,
        _ => return differ("one is trained and the other is not"),
    };
    if !same {
        return differ("their centroids");
    }
    if a.chain.as_ref().map(Chain::to_bytes) != b.chain.as_ref().map(Chain::to_bytes) {
        return differ("what is done to vectors first");
    }
    if a.codec.tables() != b.codec.tables() {
        return differ("what training made for their codes");
    }
    Ok(())
}
