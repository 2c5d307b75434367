//! A sliding window: slices of vectors that come in one after the other and go out in the same order, FAISS's `SlidingIndexWindow`.
//!
//! ```text
//! section of the model     first id, end of ids (u64, u64) of each slice, the oldest first
//! ```
//! A slice is a range of ids that the index gave to it, and ids are never used again: nothing else can come into it. What was removed or
//! updated meanwhile is so in its slice; vectors that were added otherwise are in none, and stay.

use super::merge::{NewIds, Subset};
use super::reader::IndexReader;
use super::writer::IndexWriter;
use crate::math::selector::IdSelector;
use crate::storage::sections::Section;
use crate::{Error, Observer, Result, Rows};
use std::ops::Range;

/// An index as a window over slices of vectors. Made by [`IndexWriter::sliding_window`].
///
/// ```
/// # use vellum::*;
/// # let folder = tempfile::tempdir()?;
/// # let store = Store::create(folder.path().join("v"))?;
/// # let txn = store.begin_write()?;
/// # txn.create_index("days", &IndexSpec::flat(1, Metric::L2))?;
/// # let mut index = txn.index("days")?;
/// let mut days = index.sliding_window()?;
/// for day in 0..10 {
///     days.step(Rows::new(&[day as f32, day as f32], 1)?, 7)?; // a week stays
/// }
/// assert_eq!((days.slices().len(), days.slices()[0].clone()), (7, 6..8));
/// # drop(index);
/// # txn.commit()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct SlidingWindow<'w, 't> {
    writer: &'w mut IndexWriter<'t>,
    slices: Vec<Range<u64>>,
}

impl<'t> IndexWriter<'t> {
    /// The index as a window of slices. The slices are stored with it; what is done here commits with the transaction.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn sliding_window(&mut self) -> Result<SlidingWindow<'_, 't>> {
        let slices = decode(self.tables.read_section(Section::Window)?)?;
        Ok(SlidingWindow { writer: self, slices })
    }
}

impl IndexReader<'_> {
    /// The slices of the index's [`SlidingWindow`], the oldest first; none where there is no window.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn window_slices(&self) -> Result<Vec<Range<u64>>> {
        decode(self.view.section(Section::Window)?)
    }
}

impl SlidingWindow<'_, '_> {
    /// The ids of each slice, the oldest first.
    pub fn slices(&self) -> &[Range<u64>] {
        &self.slices
    }

    /// Adds a slice. Returns its ids.
    ///
    /// # Errors
    /// As [`IndexWriter::add`].
    pub fn push(&mut self, rows: Rows<'_>) -> Result<Range<u64>> {
        let ids = self.writer.add(rows)?;
        self.pushed(ids)
    }

    /// The same of vectors that are named by keys.
    ///
    /// # Errors
    /// As [`IndexWriter::add_with_keys`].
    pub fn push_with_keys<K: AsRef<[u8]>>(&mut self, keys: &[K], rows: Rows<'_>) -> Result<Range<u64>> {
        let ids = self.writer.add_with_keys(keys, rows)?;
        self.pushed(ids)
    }

    /// Adds all vectors of another index of the same training as a slice, without decoding them, under new ids, or the same keys. FAISS's step
    /// takes a sub-index. Ticks as `"copy"`.
    ///
    /// # Errors
    /// As [`IndexReader::copy_subset_to`].
    pub fn push_index(&mut self, other: &IndexReader<'_>, observer: &mut Observer<'_>) -> Result<Range<u64>> {
        let first = self.writer.header.next_id;
        let n = self.writer.take(other, &Subset::All, NewIds::Next, observer)?;
        self.pushed(first..first + n)
    }

    /// Removes the oldest slice; returns how many vectors were left of it, or `None` if there is no slice.
    ///
    /// # Errors
    /// As [`IndexWriter::remove_ids`].
    pub fn drop_oldest(&mut self) -> Result<Option<u64>> {
        let Some(oldest) = self.slices.first().cloned() else { return Ok(None) };
        let removed = self.writer.remove_ids(&IdSelector::range(oldest))?;
        self.slices.remove(0);
        self.store()?;
        Ok(Some(removed))
    }

    /// Adds a slice and removes the oldest ones until `slices_max` are left. Returns the new one's ids.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`Error::Parameter`] for a `slices_max` of 0.
    pub fn step(&mut self, rows: Rows<'_>, slices_max: usize) -> Result<Range<u64>> {
        if slices_max == 0 {
            return Err(Error::Parameter { name: "slices_max", what: "0, expected at least 1".into() });
        }
        let ids = self.push(rows)?;
        while self.slices.len() > slices_max {
            self.drop_oldest()?;
        }
        Ok(ids)
    }

    fn pushed(&mut self, ids: Range<u64>) -> Result<Range<u64>> {
        self.slices.push(ids.clone());
        self.store()?;
        Ok(ids)
    }

    fn store(&mut self) -> Result<()> {
        let bytes: Vec<u8> =
            self.slices.iter().flat_map(|ids| [ids.start, ids.end]).flat_map(|id| id.to_le_bytes()).collect();
        self.writer.change(|writer| {
            let seq = writer.header.seq;
            writer.tables.write_section(Section::Window, &bytes, seq)
        })
    }
}

fn decode(bytes: Option<Vec<u8>>) -> Result<Vec<Range<u64>>> {
    let Some(bytes) = bytes else { return Ok(Vec::new()) };
    let bad = || Error::corrupt("model", (Section::Window as u64) << 32, "slices of a window");
    let (words, rest) = bytes.as_chunks::<8>();
    let ids: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let (pairs, odd) = ids.as_chunks::<2>();
    if !rest.is_empty() || !odd.is_empty() || !ids.is_sorted() {
        return Err(bad());
    }
    Ok(pairs.iter().map(|[start, end]| *start..*end).collect())
}
