//! Of each value, the version to believe.
//!
//! ```text
//! redb gives the value under its key      that one: it is current
//! redb gives damaged bytes                none, but for a block: see below
//! redb walked the table and has no such   none: what the scan found is of an earlier state, or of a change undone
//! redb cannot say                         the newest that the scan found; none if the newest is damaged
//! ```
//! "Newest" goes by the change number in the frame. The blocks of a list are chosen together: the directory has the
//! exclusive or of their checksums, so a choice that has it is proven, whatever redb says. What is neither current by redb's word nor
//! proven is counted as unproven: where the newest version of a value was wiped out without a trace, a version of an earlier
//! state may stand in a free page of the file, and nothing tells the two apart.

use super::medium::Medium;
use super::scan::{Place, Remains, Version};
use super::tables::Reached;
use crate::storage::format::{FRAME, Header, Kind, LIST_ENTRY, ListEntry, sight_frame};
use crate::storage::ids::decode_id;
use crate::storage::lists::directory;
use crate::storage::sections::Section;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is to be put into the new store.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) header: Header,
    /// By kind and key.
    pub(super) values: Vec<Version>,
    /// How many of them nothing proves to be current.
    pub(super) unproven: u64,
    pub(super) map: BTreeMap<u64, u32>,
    pub(super) keys: BTreeMap<u64, Vec<u8>>,
    pub(super) keymap: BTreeMap<Vec<u8>, u64>,
}

/// Settles one index; none if no header of it is left. `keys` are those that the scan found, if they can be no other
/// index's.
pub(super) fn choose(
    medium: &Medium,
    remains: &Remains,
    reached: Option<Reached>,
    keys: &BTreeMap<u64, Vec<u8>>,
) -> Result<Option<Chosen>> {
    let mut reached = reached.unwrap_or_default();
    let (header, limit) = match reached.header.take() {
        Some(header) => {
            let limit = header.seq;
            (header, limit)
        }
        None => match newest_header(remains) {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    let mut choice = Choice { medium, remains, reached, limit, values: BTreeMap::new(), unproven: 0 };
    for kind in [Kind::Ids, Kind::Slots, Kind::Rows, Kind::Exact, Kind::Lists, Kind::Model, Kind::Twins] {
        choice.each(kind);
    }
    choice.model();
    choice.blocks(&header)?;
    let found = if header.keys { keys } else { &BTreeMap::new() };
    choice.settle(header, found).map(Some)
}

/// The newest header that the scan found, and the last change whose values belong to it.
fn newest_header(remains: &Remains) -> Option<(Header, u64)> {
    let mut header = remains.headers.iter().max_by_key(|header| (!header.writer_open, header.seq))?.clone();
    let range = (Kind::Model, 0)..=(Kind::Model, u64::MAX);
    let trained = remains.frames.range(range).filter(|((_, key), _)| key >> 32 == Section::Centroids as u64);
    let trained = trained.flat_map(|(_, versions)| versions).map(|version| version.seen.head.seq).max();
    // A header from before the last training says nothing of what came after it.
    let limit = if trained > Some(header.seq) { header.seq } else { u64::MAX };
    let last = remains.frames.values().flatten().map(|version| version.seen.head.seq);
    header.seq = last.filter(|seq| *seq <= limit).max().map_or(header.seq, |last| last.max(header.seq));
    Some((header, limit))
}

struct Choice<'a> {
    medium: &'a Medium,
    remains: &'a Remains,
    reached: Reached,
    /// Later changes are none of this state.
    limit: u64,
    values: BTreeMap<Place, Version>,
    unproven: u64,
}

/// What redb says of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Current(u32),
    /// It is damaged, or not there.
    None,
    Silence,
}

impl Choice<'_> {
    fn word(&self, place: Place) -> Word {
        match self.reached.values.get(&place) {
            Some(Some(crc)) => Word::Current(*crc),
            Some(None) => Word::None,
            None if self.reached.complete.contains(&place.0) => Word::None,
            None => Word::Silence,
        }
    }

    /// The version to believe, and whether it is certain.
    fn pick(&self, place: Place, versions: &[Version]) -> Option<(Version, bool)> {
        let picked = match self.word(place) {
            Word::Current(crc) => versions.iter().find(|version| version.seen.crc == crc).map(|v| (v, true)),
            Word::None => None,
            Word::Silence => self.newest(versions).map(|version| (version, false)),
        };
        picked.filter(|(version, _)| version.seen.whole).map(|(version, certain)| (*version, certain))
    }

    fn newest<'v>(&self, versions: &'v [Version]) -> Option<&'v Version> {
        let seq = |version: &&Version| version.seen.head.seq;
        versions.iter().filter(|version| seq(version) <= self.limit).max_by_key(seq)
    }

    fn each(&mut self, kind: Kind) {
        let remains = self.remains;
        for (place, versions) in remains.frames.range((kind, 0)..=(kind, u64::MAX)) {
            if let Some((version, certain)) = self.pick(*place, versions) {
                self.take(version, certain);
            }
        }
    }

    fn take(&mut self, version: Version, certain: bool) {
        self.unproven += u64::from(!certain);
        self.values.insert((version.seen.head.kind, version.seen.head.key), version);
    }

    fn drop(&mut self, place: Place) {
        if self.values.remove(&place).is_some() && self.word(place) == Word::Silence {
            self.unproven -= 1;
        }
    }

    /// Chunks of a section that redb does not know must be of one writing, and none of a model before the last.
    fn model(&mut self) {
        let mut written: HashMap<u64, u64> = HashMap::new();
        let chunks: Vec<(u64, u64)> = self
            .values
            .range((Kind::Model, 0)..=(Kind::Model, u64::MAX))
            .map(|((_, key), version)| (*key, version.seen.head.seq))
            .collect();
        for (key, seq) in &chunks {
            let last = written.entry(key >> 32).or_default();
            *last = (*last).max(*seq);
        }
        let centroids = written.get(&(Section::Centroids as u64)).copied().unwrap_or(0);
        for (key, seq) in chunks {
            let section = key >> 32;
            let after = section == Section::Note as u64 || seq >= centroids;
            let whole = written.get(&section) == Some(&seq);
            if self.word((Kind::Model, key)) == Word::Silence && !(after && whole) {
                self.drop((Kind::Model, key));
            }
        }
    }

    fn blocks(&mut self, header: &Header) -> Result<()> {
        let entries = self.entries()?;
        for list in header.first_list..header.first_list.saturating_add(header.nlist) {
            self.list(list, entries.get(&list));
        }
        Ok(())
    }

    /// The entries of the directory, and whether they are certain.
    fn entries(&self) -> Result<HashMap<u32, (ListEntry, bool)>> {
        let mut entries = HashMap::new();
        for (place, version) in self.values.range((Kind::Lists, 0)..=(Kind::Lists, u64::MAX)) {
            let page = read(self.medium, version)?;
            let first = place.1.saturating_mul(directory().per_page().into());
            let certain = self.word(*place) != Word::Silence;
            for (i, entry) in
                page[FRAME..].chunks_exact(LIST_ENTRY).take(directory().per_page() as usize).enumerate()
            {
                let list = u32::try_from(first.saturating_add(i as u64));
                if let (Ok(list), Some(entry)) = (list, ListEntry::decode(entry)) {
                    entries.insert(list, (entry, certain));
                }
            }
        }
        Ok(entries)
    }

    fn list(&mut self, list: u32, entry: Option<&(ListEntry, bool)>) {
        let first = u64::from(list) << 32;
        let remains = self.remains;
        let there: Vec<(Place, &Vec<Version>)> = remains
            .frames
            .range((Kind::Block, first)..=(Kind::Block, first | u64::from(u32::MAX)))
            .map(|(place, versions)| (*place, versions))
            .collect();
        let later = |entry: &ListEntry| {
            let mut all = there.iter().flat_map(|(_, versions)| *versions);
            all.any(|version| (entry.seq.saturating_add(1)..=self.limit).contains(&version.seen.head.seq))
        };
        // Blocks of a later change than the directory's: it is not of this state.
        let entry = entry.filter(|(entry, certain)| *certain || !later(entry)).map(|(entry, _)| entry);
        if let Some(proven) = entry.and_then(|entry| self.proven(entry, &there)) {
            proven.into_iter().for_each(|version| self.take(version, true));
            return;
        }
        for (place, versions) in there {
            let beyond = |version: &Version| {
                let capacity = u64::from(version.seen.head.capacity);
                entry.is_some_and(|entry| (place.1 - first).saturating_mul(capacity) >= entry.n.into())
            };
            match self.pick(place, versions) {
                Some((version, certain)) if certain || !beyond(&version) => self.take(version, certain),
                _ => {}
            }
        }
    }

    /// The blocks of a list whose checksums come to what the directory says.
    fn proven(&self, entry: &ListEntry, there: &[(Place, &Vec<Version>)]) -> Option<Vec<Version>> {
        let Some((_, any)) = there.first() else { return (entry.n == 0).then(Vec::new) };
        let capacity = any.first()?.seen.head.capacity.max(1);
        let blocks: BTreeMap<u32, &Vec<Version>> =
            there.iter().map(|((_, key), versions)| (*key as u32, *versions)).collect();
        let mut options: Vec<Vec<Version>> = Vec::new();
        for block in 0..entry.n.div_ceil(capacity) {
            let count = (entry.n - block * capacity).min(capacity);
            let fits = |version: &&Version| {
                let Version { seen, .. } = version;
                seen.whole && (seen.head.count, seen.head.capacity) == (count, capacity)
            };
            let mut versions: Vec<Version> = blocks.get(&block)?.iter().filter(fits).copied().collect();
            let word = self.word((Kind::Block, there.first()?.0.1 & !u64::from(u32::MAX) | u64::from(block)));
            if let Word::Current(crc) = word {
                versions.retain(|version| version.seen.crc == crc);
            }
            versions.sort_by_key(|version| std::cmp::Reverse(version.seen.head.seq));
            options.push(versions);
        }
        combine(&options, entry.digest)
    }

    fn settle(mut self, header: Header, found: &BTreeMap<u64, Vec<u8>>) -> Result<Chosen> {
        let mut ids = BTreeSet::new();
        if !found.is_empty() {
            for (_, version) in self.values.range((Kind::Ids, 0)..=(Kind::Ids, u64::MAX)) {
                let page = read(self.medium, version)?;
                ids.extend(page[FRAME..].chunks_exact(8).filter_map(decode_id));
            }
        }
        for (id, key) in found.iter().filter(|(id, _)| ids.contains(id)) {
            if !self.reached.keys.contains_key(id) && !self.reached.keymap.contains_key(key) {
                self.reached.keys.insert(*id, key.clone());
            }
        }
        let Reached { map, keys, keymap, .. } = self.reached;
        let values = self.values.into_values().collect();
        Ok(Chosen { header, values, unproven: self.unproven, map, keys, keymap })
    }
}

/// Choices that are tried for a list.
const CHOICES_MAX: usize = 4096;

/// One of each whose checksums come to `digest`; the newest are tried first.
fn combine(options: &[Vec<Version>], digest: u32) -> Option<Vec<Version>> {
    let mut at = vec![0; options.len()];
    for _ in 0..CHOICES_MAX {
        let choice: Option<Vec<Version>> =
            options.iter().zip(&at).map(|(versions, at)| versions.get(*at).copied()).collect();
        let choice = choice?;
        if choice.iter().fold(0, |sum, version| sum ^ version.seen.crc) == digest {
            return Some(choice);
        }
        let next = options.iter().zip(&at).position(|(versions, at)| at + 1 < versions.len())?;
        at[..next].fill(0);
        at[next] += 1;
    }
    None
}

/// The value that a version was in: what stands there now must still be it.
pub(super) fn read(medium: &Medium, version: &Version) -> Result<Vec<u8>> {
    let mut value = vec![0; version.seen.bytes];
    let there = medium.read_some(version.at, &mut value)?;
    let same = there == value.len() && sight_frame(&value) == Some(version.seen);
    value.resize(version.seen.value_bytes().max(version.seen.bytes), 0);
    match same {
        true => Ok(value),
        false => Err(Error::corrupt("(file)", version.at, "the file changes while it is read")),
    }
}
