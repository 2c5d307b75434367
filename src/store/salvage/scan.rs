//! The file as bytes: every frame and every index header in it, wherever it stands, and what redb's leaves say that
//! has no frame.
//!
//! ```text
//! frames     "VLF1" anywhere; believed if the checksum of the header holds. What stands inside of a whole frame is skipped:
//!            a vector may hold any bytes, even those of a frame.
//! headers    "vellum.i" anywhere, whole
//! names      a redb leaf of text keys and 16-byte values: the catalog
//! keys       a redb leaf of u64 keys and bytes, or of bytes and u64 values: the two tables of keys
//! ```
//! A file also holds old versions of values, in pages that are free: all versions are kept here, and `choose` settles
//! which is believed. About 100 bytes of memory a value.

use super::medium::Medium;
use crate::storage::format::{FRAME_MAGIC, HEADER_MAGIC, Header, Kind, MAX_ORDER, Sighting, Uuid};
use crate::storage::format::{sight_frame, value_bytes};
use crate::storage::ids::KEY_BYTES_MAX;
use crate::{Observer, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A frame, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) seen: Sighting,
    pub(super) at: u64,
}

/// Which value a frame is, within its index.
pub(super) type Place = (Kind, u64);

/// What a file holds of one index.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) frames: BTreeMap<Place, Vec<Version>>,
    pub(super) headers: Vec<Header>,
    pub(super) names: BTreeSet<String>,
}

/// Pairs of ids and keys.
#[derive(Debug, Default)]
pub(super) struct KeyPairs {
    /// Pairs of leaves that hold several.
    sure: BTreeSet<(u64, Vec<u8>)>,
    /// Of leaves of one pair, which may be those of another table: of `keys`, and of `keymap`.
    alone: [BTreeSet<(u64, Vec<u8>)>; 2],
}

impl KeyPairs {
    /// The key of each id, where leaves do not contradict each other.
    pub(super) fn settle(&self) -> BTreeMap<u64, Vec<u8>> {
        let both = self.alone[0].intersection(&self.alone[1]);
        let mut keys: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut doubtful: BTreeSet<u64> = BTreeSet::new();
        for (id, key) in self.sure.iter().chain(both) {
            match keys.insert(*id, key.clone()) {
                Some(other) if other != *key => drop(doubtful.insert(*id)),
                _ => {}
            }
        }
        keys.retain(|id, _| !doubtful.contains(id));
        keys
    }

    fn hear(&mut self, pairs: Vec<(u64, Vec<u8>)>, table: usize) {
        match pairs.len() {
            1 => self.alone[table].extend(pairs),
            _ => self.sure.extend(pairs),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) indexes: HashMap<Uuid, Remains>,
    pub(super) keys: KeyPairs,
}

/// Bytes looked at before the next are read.
const WINDOW: usize = 4 << 20;
/// Bytes behind them that the last value may reach into.
const REACH: usize = value_bytes(MAX_ORDER);
const PAGE: usize = 4096;

/// Reads the whole file. Ticks as `"scan"`, in bytes.
pub(super) fn scan(medium: &Medium, observer: &mut Observer<'_>) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut names: Vec<(Uuid, String)> = Vec::new();
    let mut buffer = vec![0; WINDOW + REACH];
    let (mut start, mut skip_to) = (0, 0);
    while start < medium.len {
        observer.tick("scan", start, medium.len)?;
        let there = medium.read_some(start, &mut buffer)?;
        let bytes = &buffer[..there];
        let mut i = skip_to.max(start).saturating_sub(start) as usize;
        while i < there.min(WINDOW) {
            let at = start + i as u64;
            if at.is_multiple_of(PAGE as u64) && bytes[i] == LEAF {
                scan.leaf(&bytes[i..there.min(i + PAGE)], &mut names);
            }
            i += match bytes[i] {
                b'V' => scan.frame(at, &bytes[i..]),
                b'v' => scan.header(&bytes[i..]),
                _ => 1,
            };
        }
        skip_to = start + i as u64;
        start += WINDOW as u64;
    }
    observer.tick("scan", medium.len, medium.len)?;
    for (uuid, name) in names {
        if let Some(remains) = scan.indexes.get_mut(&uuid) {
            remains.names.insert(name);
        }
    }
    Ok(scan)
}

impl Scan {
    /// Takes the frame that stands at `at`, if one does; returns how far to go on.
    fn frame(&mut self, at: u64, bytes: &[u8]) -> usize {
        if !bytes.starts_with(&FRAME_MAGIC) {
            return 1;
        }
        let Some(seen) = sight_frame(bytes) else { return 1 };
        let place = (seen.head.kind, seen.head.key);
        let versions = self.indexes.entry(seen.head.index).or_default().frames.entry(place).or_default();
        match versions.iter_mut().find(|other| other.seen.crc == seen.crc) {
            // The same value once more.
            Some(other) if other.seen.whole || !seen.whole => {}
            Some(other) => *other = Version { seen, at },
            None => versions.push(Version { seen, at }),
        }
        if seen.whole { seen.bytes } else { 1 }
    }

    fn header(&mut self, bytes: &[u8]) -> usize {
        if !bytes.starts_with(&HEADER_MAGIC) {
            return 1;
        }
        let Some((header, len)) = Header::sight(bytes) else { return 1 };
        let headers = &mut self.indexes.entry(header.uuid).or_default().headers;
        if !headers.contains(&header) {
            headers.push(header);
        }
        len
    }

    /// What a page that may be a leaf of redb's says about names and keys.
    fn leaf(&mut self, page: &[u8], names: &mut Vec<(Uuid, String)>) {
        let framed = |value: &[u8]| value.starts_with(&FRAME_MAGIC) || value.starts_with(&HEADER_MAGIC);
        let key_sized = |key: &[u8]| (1..=KEY_BYTES_MAX).contains(&key.len()) && !framed(key);
        if let Some(pairs) = pairs(page, None, None) {
            let name = |(key, value): &(&[u8], &[u8])| {
                let name = std::str::from_utf8(key).ok().filter(|name| !name.is_empty())?;
                Some((Uuid::try_from(*value).ok()?, name.to_string()))
            };
            if pairs.iter().all(|(_, value)| value.len() == 16) {
                names.extend(pairs.iter().filter_map(name));
            }
        }
        let number = |bytes: &[u8]| bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if let Some(pairs) = pairs(page, Some(8), None)
            && pairs.iter().all(|(_, key)| key_sized(key))
            && pairs.is_sorted_by(|a, b| number(a.0) < number(b.0))
        {
            self.keys.hear(pairs.iter().map(|(id, key)| (number(id), key.to_vec())).collect(), 0);
        }
        if let Some(pairs) = pairs(page, None, Some(8))
            && pairs.iter().all(|(key, _)| key_sized(key))
            && pairs.is_sorted_by(|a, b| a.0 < b.0)
        {
            self.keys.hear(pairs.iter().map(|(key, id)| (number(id), key.to_vec())).collect(), 1);
        }
    }
}

/// The first byte of a leaf page of redb's.
const LEAF: u8 = 1;

/// The pairs of a leaf page of redb's, if it can be one of such keys and values: two bytes of pairs from the third on, the
/// ends of keys and of values (u32 within the page, where they are not of one width), keys, values.
fn pairs(page: &[u8], key_width: Option<usize>, value_width: Option<usize>) -> Option<Vec<(&[u8], &[u8])>> {
    let count = u16::from_le_bytes(*page.get(2..4)?.first_chunk::<2>()?) as usize;
    if count == 0 {
        return None;
    }
    let mut at = 4;
    let mut ends = |width: Option<usize>| -> Option<Vec<usize>> {
        if width.is_some() {
            return Some(Vec::new());
        }
        let bytes = page.get(at..at + 4 * count)?;
        at += 4 * count;
        Some(bytes.as_chunks::<4>().0.iter().map(|end| u32::from_le_bytes(*end) as usize).collect())
    };
    let (key_ends, value_ends) = (ends(key_width)?, ends(value_width)?);
    let keys = section(page, at, count, key_width, &key_ends)?;
    let values =
        section(page, at + keys.iter().map(|key| key.len()).sum::<usize>(), count, value_width, &value_ends)?;
    Some(keys.into_iter().zip(values).collect())
}

/// `count` entries that follow each other from `at` on.
fn section<'p>(
    page: &'p [u8],
    mut at: usize,
    count: usize,
    width: Option<usize>,
    ends: &[usize],
) -> Option<Vec<&'p [u8]>> {
    (0..count)
        .map(|i| {
            let end = width.map_or_else(|| ends.get(i).copied(), |width| Some(at + width))?;
            let entry = page.get(at..end)?;
            at = end;
            Some(entry)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf as redb draws it, of keys and values of any width.
    fn page(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut page = vec![1, 0];
        page.extend((pairs.len() as u16).to_le_bytes());
        let mut at = 4 + 8 * pairs.len();
        for bytes in pairs.iter().map(|pair| pair.0).chain(pairs.iter().map(|pair| pair.1)) {
            at += bytes.len();
            page.extend((at as u32).to_le_bytes());
        }
        pairs.iter().for_each(|pair| page.extend(pair.0));
        pairs.iter().for_each(|pair| page.extend(pair.1));
        page.resize(PAGE, 0);
        page
    }

    #[test]
    fn a_leaf_is_taken_apart_and_a_page_that_is_none_is_refused() {
        let given: [(&[u8], &[u8]); 3] = [(b"a", b"x"), (b"bcd", b""), (b"e", b"yz")];
        let whole = page(&given);
        assert_eq!(pairs(&whole, None, None).unwrap(), given);
        for (at, byte) in [(2, 0), (2, 200), (4, 1), (9, 9), (16, 0xff)] {
            let mut odd = whole.clone();
            odd[at] = byte;
            assert!(pairs(&odd, None, None).is_none_or(|pairs| pairs != given), "byte {at}");
        }
        assert_eq!(pairs(&[1, 0, 5], None, None), None);
        assert_eq!(pairs(&[1, 0, 255, 255, 1], Some(8), None), None);
    }
}
