//! Twins: rows of one vector, where equal codes of a list are stored once.
//!
//! ```text
//! twins   | head u32 | next u32 |      0xFF bytes of a row that is the only one of its vector
//!
//! an entry of row 7, whose vector rows 9 and 4 have too:     7: 7, 9     9: 7, 4     4: 7, 0xFF…
//! ```
//! The *head* is the row that the entry names; from it a chain leads through all rows of the entry, and each of them
//! names the head, so that who stands at a slot is settled without a walk. All rows of a chain have the same slot. Where a
//! change touches one of the two, it writes both, so of a slot and a twin that contradict each other the one whose page
//! was written last is true: that is what a repair goes by.

use super::column::{ABSENT, Column};
use super::format::Kind;
use super::{BytesTable, Tables, WriteTables};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Bytes of an entry.
pub(crate) const TWIN: usize = 8;

pub(crate) fn twins_column() -> Column {
    Column::narrow(Kind::Twins, TWIN)
}

/// A row's place among those of its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twin {
    pub(crate) head: u32,
    pub(crate) next: Option<u32>,
}

impl Twin {
    pub(crate) fn encode(twin: Option<Self>) -> [u8; TWIN] {
        let mut bytes = [ABSENT; TWIN];
        if let Some(Twin { head, next }) = twin {
            bytes[..4].copy_from_slice(&head.to_le_bytes());
            bytes[4..].copy_from_slice(&next.unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    /// `None` where nothing was written: no row is numbered 2^32 − 1.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, next) = (bytes.first_chunk::<4>()?, bytes.last_chunk::<4>()?);
        let known = |row: u32| (row != u32::MAX).then_some(row);
        Some(Twin { head: known(u32::from_le_bytes(*head))?, next: known(u32::from_le_bytes(*next)) })
    }

    /// The twins of the rows of a chain.
    pub(crate) fn of_chain(chain: &[u32]) -> impl Iterator<Item = (u32, Option<Twin>)> {
        let head = chain.first().copied().filter(|_| chain.len() > 1);
        let twin = move |at: usize| head.map(|head| Twin { head, next: chain.get(at + 1).copied() });
        chain.iter().enumerate().map(move |(at, row)| (*row, twin(at)))
    }
}

/// Calls `each` for the rows of the chain that begins at `head`, until it returns false. `twin` looks up a row's, and no
/// chain is longer than `rows_max`.
pub(crate) fn walk(
    head: u32,
    rows_max: u64,
    twin: impl Fn(u32) -> Result<Option<Twin>>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<()> {
    let Some(mut link) = twin(head)? else { return each(head).map(|_| ()) };
    let (mut at, mut seen) = (head, 0);
    loop {
        if link.head != head {
            return Err(Error::corrupt("twins", at.into(), format!("of row {}, not {head}", link.head)));
        }
        if !each(at)? {
            return Ok(());
        }
        let Some(next) = link.next else { return Ok(()) };
        seen += 1;
        if seen >= rows_max {
            return Err(Error::corrupt("twins", head.into(), "a chain without end"));
        }
        at = next;
        let alone =
            || Error::corrupt("twins", at.into(), format!("alone, the chain of row {head} leads to it"));
        link = twin(at)?.ok_or_else(alone)?;
    }
}

impl<B: BytesTable, M, F, K> Tables<B, M, F, K> {
    /// The twin of `row`; none in an index without such a column.
    pub(crate) fn twin(&self, row: u32) -> Result<Option<Twin>> {
        let Some(table) = &self.twins else { return Ok(None) };
        let mut bytes = [ABSENT; TWIN];
        twins_column().get(table, &self.names.twins, row, &mut bytes)?;
        Ok(Twin::decode(&bytes))
    }
}

impl WriteTables<'_> {
    /// Sets the twins of rows.
    pub(crate) fn set_twins(&mut self, seq: u64, twins: &BTreeMap<u32, Option<Twin>>) -> Result<()> {
        let Some(table) = &mut self.twins else { return Ok(()) };
        let entries: Vec<_> = twins.iter().map(|(row, twin)| (*row, Twin::encode(*twin))).collect();
        let entries = entries.iter().map(|(row, bytes)| (*row, &bytes[..]));
        twins_column().set(table, &self.names.twins, seq, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_round_trip_and_absence_is_none() {
        for twin in [None, Some(Twin { head: 3, next: None }), Some(Twin { head: 0, next: Some(9) })] {
            assert_eq!(Twin::decode(&Twin::encode(twin)), twin);
        }
        assert_eq!(Twin::encode(None), [ABSENT; TWIN]);
        assert_ne!(Twin::encode(Some(Twin { head: 7, next: None })), [ABSENT; TWIN]);
    }

    fn rows_of(head: u32, twins: &BTreeMap<u32, Option<Twin>>) -> Result<Vec<u32>> {
        let mut rows = Vec::new();
        let twin = |row| Ok(twins.get(&row).copied().flatten());
        walk(head, 10, twin, |row| {
            rows.push(row);
            Ok(true)
        })?;
        Ok(rows)
    }

    #[test]
    fn a_chain_is_walked_from_its_head() {
        for chain in [&[4][..], &[7, 9, 4], &[0, 1]] {
            let twins = Twin::of_chain(chain).collect();
            assert_eq!(rows_of(chain[0], &twins).unwrap(), chain);
        }
    }

    #[test]
    fn a_chain_that_goes_round_or_astray_is_damage() {
        let sound: BTreeMap<u32, Option<Twin>> = Twin::of_chain(&[7, 9, 4]).collect();
        for (row, twin) in [
            (4, Some(Twin { head: 7, next: Some(9) })),
            (4, Some(Twin { head: 9, next: None })),
            (9, Some(Twin { head: 7, next: Some(5) })),
            (7, Some(Twin { head: 9, next: Some(9) })),
            (4, None),
        ] {
            let mut twins = sound.clone();
            twins.insert(row, twin);
            assert!(matches!(rows_of(7, &twins), Err(Error::Corrupt { .. })), "{row} {twin:?}");
        }
    }
}
