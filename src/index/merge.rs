//! Merging: codes from one index into another whose codes mean the same, without decoding them.
//!
//! Two indexes go together if their specifications agree in all that codes depend on and training left the same centroids
//! and tables in both, to the bit: copies of one trained index, say, or shards of it. Codes, kept rows and keys are copied
//! as they are, list by list, in one verb: all of it or nothing. What is held at a time are some rows, however long a list is.
//!
//! **In several transactions** ([`IndexWriter::merge_some`]) how far it has come is a section of the model, written with what was copied:
//! ```text
//! 0   16 bytes   the other index's uuid         16  u64, u64   its seq and nonce: the state that is merged
//! 32  u64        what is added to ids           40  u64        vectors copied
//! 48  u64        of how many                    56  u64        entries of the next list that were passed
//! 64  u32        the next list                  68  u32        0
//! ```
//! So a merge goes on exactly where the last commit left it, or is refused because the other index has changed.

use super::add::Encoded;
use super::model::Model;
use super::reader::IndexReader;
use super::writer::IndexWriter;
use super::{finder, twins};
use crate::math::transform::Chain;
use crate::storage::ids::NO_ID;
use crate::storage::sections::Section;
use crate::{Error, IndexSpec, Observer, Result};
use std::borrow::Cow;
use std::ops::{ControlFlow, Range};

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

/// Rows that are copied at a time, and the bytes of their codes.
const ROWS_AT_A_TIME: usize = 16 << 10;
const BYTES_AT_A_TIME: usize = 32 << 20;

/// Rows on their way: numbers in the other index, lists, and codes of their entries (nearest lists first).
#[derive(Default)]
struct Copies {
    ids: Vec<u64>,
    rows: Vec<u32>,
    lists: Vec<u32>,
    codes: Vec<u8>,
}

impl Copies {
    fn push(&mut self, list: u32, id: u64, row: u32, code: &[u8]) {
        self.ids.push(id);
        self.rows.push(row);
        self.lists.push(list);
        self.codes.extend_from_slice(code);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_AT_A_TIME || self.codes.len() >= BYTES_AT_A_TIME
    }
}

/// Takes an entry: number among its list's, row, code.
type EachNearest<'e> = dyn FnMut(u64, u32, &[u8]) -> Result<ControlFlow<()>> + 'e;
/// Number, id, row, code.
type EachOfSubset<'e> = dyn FnMut(u64, u64, u32, &[u8]) -> Result<ControlFlow<()>> + 'e;

/// What ids copies get.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewIds {
    /// Their own and so much.
    Shifted(u64),
    /// The next that were never used.
    Next,
}

/// How far a merge of several transactions has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeProgress {
    /// Vectors that are here.
    pub copied: u64,
    /// Of how many.
    pub total: u64,
    /// What is added to their ids.
    pub add_id: u64,
}

impl MergeProgress {
    /// True if all vectors are here.
    pub fn is_done(&self) -> bool {
        self.copied == self.total
    }
}

/// What is stored of a merge that goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stage {
    /// uuid, seq and nonce of the other index.
    source: ([u8; 16], u64, u64),
    progress: MergeProgress,
    passed: u64,
    list: u32,
}

impl Stage {
    const BYTES: usize = 72;

    fn source(other: &IndexReader<'_>) -> ([u8; 16], u64, u64) {
        let header = other.header();
        (header.uuid, header.seq, header.nonce)
    }

    fn encode(&self) -> Vec<u8> {
        let (uuid, seq, nonce) = self.source;
        let MergeProgress { copied, total, add_id } = self.progress;
        let mut bytes = uuid.to_vec();
        bytes.extend([seq, nonce, add_id, copied, total, self.passed].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(u64::from(self.list).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (uuid, rest) = bytes.split_first_chunk::<16>()?;
        let (words, over) = rest.as_chunks::<8>();
        let [seq, nonce, add_id, copied, total, passed, list] = *words else { return None };
        let number = u64::from_le_bytes;
        let progress = MergeProgress { copied: number(copied), total: number(total), add_id: number(add_id) };
        let sound = over.is_empty() && bytes.len() == Self::BYTES && progress.copied <= progress.total;
        let list = u32::try_from(number(list)).ok().filter(|_| sound)?;
        Some(Stage { source: (*uuid, number(seq), number(nonce)), progress, passed: number(passed), list })
    }
}

fn stage_of(bytes: Option<Vec<u8>>) -> Result<Option<Stage>> {
    let bad = || Error::corrupt("model", (Section::Merge as u64) << 32, "how far a merge has come");
    bytes.map(|bytes| Stage::decode(&bytes).ok_or_else(bad)).transpose()
}

impl IndexReader<'_> {
    /// How far a merge of several transactions has come that is not complete yet; `None` if there is none. See
    /// [`IndexWriter::merge_some`].
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn merge_progress(&self) -> Result<Option<MergeProgress>> {
        Ok(stage_of(self.view.section(Section::Merge)?)?.map(|stage| stage.progress))
    }

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
        other.take(self, subset, NewIds::Shifted(0), observer)
    }

    /// Calls `each` with a list's entries that are the nearest of their rows, in their order: number among them, row and code (no bytes
    /// without `codes`); until it breaks. An entry that several rows share comes once for each.
    fn visit_nearest(
        &self,
        list: u32,
        part: &Range<u64>,
        codes: bool,
        each: &mut EachNearest<'_>,
    ) -> Result<()> {
        let (layout, width) = (self.model.geometry.layout, self.code_bytes());
        let single = !self.model.spills() && self.header().twins == 0;
        let (mut at, mut going, mut packed) = (0, !part.is_empty(), Vec::new());
        self.view.visit(list, &mut |run| {
            let after = at + run.rows.len() as u64;
            if !going || single && after <= part.start {
                at = after;
                return Ok(());
            }
            packed.clear();
            if codes {
                layout.unpack(run.codes, run.rows.len(), &mut packed);
            }
            for (i, row) in run.rows.iter().enumerate() {
                if !going {
                    break;
                }
                let code = packed.get(i * width..(i + 1) * width).unwrap_or_default();
                self.rows_of_entry(list, row.get(), &mut |row| {
                    if part.contains(&at) {
                        going = each(at, row, code)?.is_continue();
                    }
                    at += 1;
                    going &= at < part.end;
                    Ok(going)
                })?;
            }
            Ok(())
        })
    }

    /// The rows that an entry is the nearest of: its own, unless it is the second one; all that share it.
    fn rows_of_entry(&self, list: u32, row: u32, each: &mut dyn FnMut(u32) -> Result<bool>) -> Result<()> {
        if self.model.spills() {
            let slot = self.view.slot_of(row, &self.model.slots_column, self.model.places())?;
            if self.slot_within(row, slot)?.list != list {
                return Ok(());
            }
        }
        match self.header().twins {
            0 => each(row).map(|_| ()),
            _ => twins::for_each_twin(&*self.view, row, each),
        }
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
        let counted = self.model.spills() || self.header().twins > 0;
        let size = |list| match counted {
            false => Ok(u64::from(self.view.list(list)?.n)),
            true => {
                let mut n = 0;
                self.visit_nearest(list, &(0..u64::MAX), false, &mut |_, _, _| {
                    n += 1;
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(n)
            }
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

    /// Calls `each` with what `subset` has of a list's nearest entries, at the places of `part`: place, id, row and code.
    fn visit_subset(
        &self,
        list: u32,
        part: &Range<u64>,
        subset: &Subset,
        codes: bool,
        each: &mut EachOfSubset<'_>,
    ) -> Result<()> {
        self.visit_nearest(list, part, codes, &mut |at, row, code| {
            let id = self.view.id(row)?;
            let wanted = match *subset {
                Subset::Ids(ref ids) => ids.contains(&id),
                Subset::IdModulo { modulus, remainder } => id % modulus == remainder,
                _ => true,
            };
            if wanted { each(at, id, row, code) } else { Ok(ControlFlow::Continue(())) }
        })
    }

    /// As many copies as are made at a time, but no more than `most`, from a list's place on; and where those after them begin.
    fn next_copies(&self, mut list: u32, mut passed: u64, most: u64) -> Result<(Copies, u32, u64)> {
        let mut copies = Copies::default();
        while (list as usize) < self.nlist() {
            let mut full = false;
            self.visit_nearest(list, &(passed..u64::MAX), true, &mut |at, row, code| {
                copies.push(list, self.view.id(row)?, row, code);
                passed = at + 1;
                full = copies.is_full() || copies.rows.len() as u64 >= most;
                Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if full {
                break;
            }
            (list, passed) = (list + 1, 0);
        }
        Ok((copies, list, passed))
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
        self.take(other, &Subset::All, NewIds::Shifted(add_id), observer)
    }

    /// Goes on with a merge of all vectors of `other`, or begins it: at most `rows_max` more of them, in this transaction. Called again and again,
    /// with a commit after each call, until the progress [is done](MergeProgress::is_done), it merges what is too much for one transaction;
    /// [`Store::merge_from`](crate::Store::merge_from) does that. How far it has come is stored with what was copied, so after a crash the next call goes on where
    /// the last commit left it, and no vector comes twice. Ticks as `"copy"`.
    ///
    /// Ids are checked before the first vector is copied, and again with each call, as others may have been added since.
    ///
    /// # Errors
    /// As [`merge_from`](Self::merge_from); [`Error::Incompatible`] if a merge of another index, of another state of it, or with another
    /// `add_id`, is not complete ([`abandon_merge`](Self::abandon_merge) forgets it); [`Error::Parameter`] for a `rows_max` of 0. A merge that was complete
    /// and is begun again is refused for its ids or keys, as any that are there.
    pub fn merge_some(
        &mut self,
        other: &IndexReader<'_>,
        add_id: u64,
        rows_max: u64,
        observer: &mut Observer<'_>,
    ) -> Result<MergeProgress> {
        compatible(&self.model, &other.model)?;
        if rows_max == 0 {
            return Err(Error::Parameter { name: "rows_max", what: "0, expected at least 1".into() });
        }
        let mut stage = self.merge_stage(other, add_id)?;
        let until = stage.progress.copied.saturating_add(rows_max).min(stage.progress.total);
        while stage.progress.copied < until {
            let most = until - stage.progress.copied;
            let (copies, list, passed) = other.next_copies(stage.list, stage.passed, most)?;
            copies.ids.iter().try_for_each(|id| self.check_one(other, *id, NewIds::Shifted(add_id)))?;
            if copies.ids.is_empty() {
                let what =
                    format!("{} rows stand in the lists of {}", stage.progress.copied, stage.progress.total);
                return Err(Error::corrupt("lists", 0, what));
            }
            (stage.list, stage.passed) = (list, passed);
            stage.progress.copied += copies.ids.len() as u64;
            self.change(|writer| {
                writer.insert_copies(other, copies, NewIds::Shifted(add_id))?;
                writer.note_merge(&stage)
            })?;
            observer.tick("copy", stage.progress.copied, stage.progress.total)?;
        }
        Ok(stage.progress)
    }

    /// Forgets a merge that is not complete; what was copied stays. Returns how far it had come.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a record that cannot be read; it is forgotten all the same.
    pub fn abandon_merge(&mut self) -> Result<Option<MergeProgress>> {
        let stage = stage_of(self.tables.read_section(Section::Merge)?);
        self.change(|writer| writer.tables.remove_section(Section::Merge))?;
        Ok(stage?.map(|stage| stage.progress))
    }

    /// The merge of `other` that is going on, or one that begins.
    fn merge_stage(&self, other: &IndexReader<'_>, add_id: u64) -> Result<Stage> {
        let source = Stage::source(other);
        match stage_of(self.tables.read_section(Section::Merge)?)? {
            Some(stage) if (stage.source, stage.progress.add_id) == (source, add_id) => Ok(stage),
            Some(Stage { progress, .. }) => {
                let MergeProgress { copied, total, add_id } = progress;
                let what = format!(
                    "{copied} of {total} vectors of another merge, or of an earlier state of that index, are here, their ids shifted by {add_id}"
                );
                Err(Error::Incompatible { what })
            }
            None => {
                let parts = other.parts(&Subset::All)?;
                self.check_room(other, &Subset::All, &parts, NewIds::Shifted(add_id))?;
                let total = parts.iter().map(|part| part.end).sum();
                let progress = MergeProgress { copied: 0, total, add_id };
                Ok(Stage { source, progress, passed: 0, list: 0 })
            }
        }
    }

    fn note_merge(&mut self, stage: &Stage) -> Result<()> {
        match stage.progress.is_done() {
            true => self.tables.remove_section(Section::Merge),
            false => self.tables.write_section(Section::Merge, &stage.encode(), self.header.seq),
        }
    }

    pub(super) fn take(
        &mut self,
        other: &IndexReader<'_>,
        subset: &Subset,
        ids: NewIds,
        observer: &mut Observer<'_>,
    ) -> Result<u64> {
        subset.check()?;
        compatible(&self.model, &other.model)?;
        let parts = other.parts(subset)?;
        self.check_room(other, subset, &parts, ids)?;
        let all: u64 = parts.iter().map(|part| part.end.saturating_sub(part.start)).sum();
        self.change(|writer| {
            let (mut copies, mut seen, mut done) = (Copies::default(), 0, 0);
            for (list, part) in (0..).zip(&parts) {
                other.visit_subset(list, part, subset, true, &mut |at, id, row, code| {
                    copies.push(list, id, row, code);
                    if copies.is_full() {
                        done += copies.ids.len() as u64;
                        writer.insert_copies(other, std::mem::take(&mut copies), ids)?;
                        observer.tick("copy", seen + at + 1 - part.start, all)?;
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                seen += part.end.saturating_sub(part.start);
            }
            done += copies.ids.len() as u64;
            writer.insert_copies(other, copies, ids)?;
            observer.tick("copy", seen, all)?;
            Ok(done)
        })
    }

    /// Refuses ids and keys that are there already, before the first write.
    fn check_room(
        &self,
        other: &IndexReader<'_>,
        subset: &Subset,
        parts: &[Range<u64>],
        ids: NewIds,
    ) -> Result<()> {
        for (list, part) in (0..).zip(parts) {
            other.visit_subset(list, part, subset, false, &mut |_, id, _, _| {
                self.check_one(other, id, ids).map(ControlFlow::Continue)
            })?;
        }
        Ok(())
    }

    fn check_one(&self, other: &IndexReader<'_>, id: u64, ids: NewIds) -> Result<()> {
        match (other.key(id)?, ids) {
            (Some(key), _) if self.tables.id_of_key(&key)?.is_some() => Err(Error::DuplicateKey { key }),
            (None, NewIds::Shifted(add_id)) => self.check_id(id, add_id),
            _ => Ok(()),
        }
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

    fn insert_copies(&mut self, other: &IndexReader<'_>, mut copies: Copies, ids: NewIds) -> Result<()> {
        other.gather_seconds(&mut copies)?;
        let keys: Vec<Vec<u8>> =
            copies.ids.iter().filter_map(|id| other.key(*id).transpose()).collect::<Result<_>>()?;
        let ids: Vec<u64> = match ids {
            NewIds::Shifted(add_id) if !self.header.keys => {
                copies.ids.iter().map(|id| id.wrapping_add(add_id)).collect()
            }
            _ => self.new_ids(copies.ids.len())?.collect(),
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
    if finder::meaning(a) != finder::meaning(b) {
        return differ("how their lists are found");
    }
    if a.chain.as_ref().map(Chain::to_bytes) != b.chain.as_ref().map(Chain::to_bytes) {
        return differ("what is done to vectors first");
    }
    if a.codec.tables() != b.codec.tables() {
        return differ("what training made for their codes");
    }
    Ok(())
}
